"""Remote memory access: put and get, strided, block-strided and nonblocking.

`put` has read its source when it returns and is complete after `quiet` or a barrier; `get` is complete when
it returns; the ``_nbi`` forms are complete, and their local side free to use, after `quiet`.

Any NumPy dtype without Python objects can be sent. Target and source have the same dtype and are contiguous,
in C or Fortran order; shapes may differ, elements are taken in the order of memory. Without `size`, the
smaller of the two counts is transferred.

Cost of 8 bytes, measured with one PE on an idle machine (Python 3.11, cffi 2.1): put 220 ns and get 255 with
two symmetric arrays, put from a NumPy array 400, get into one 430. Of these the call into C is 120, that of
the Python function 30, ``ffi.from_buffer`` 90 and with the demand for a writeable buffer 135. What made that
possible: the pointer and dtype are slots of the symmetric array, found once; functions of C are bound to
names of the module; dtypes compare by identity first; ``type(a) is`` decides the path, since a missing
attribute costs 500. That, and finding the pointer, makes the first call with a fresh slice cost 3
microseconds: keep slices that are used often.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

import numpy as np

from ._core import ffi, lib
from .errors import CLASSES, fail
from .order import hold
from .symmetric import SymmetricArray, local, same_dtype, symmetric
from .types import Array, CData

if TYPE_CHECKING:
    from .ctx import Ctx

__all__ = ["get", "get_nbi", "ibget", "ibput", "iget", "iput", "put", "put_nbi"]

_ArgumentError = CLASSES[lib.SHMEMX_ERR_ARGUMENT]
_DEFAULT = ffi.cast("shmem_ctx_t", lib.SHMEMX_CTX_DEFAULT)
_BYTES = ffi.typeof("char[]")
_ndarray = np.ndarray
_from_buffer = ffi.from_buffer
_put, _get = lib.shmemx_put, lib.shmemx_get
_put_nbi, _get_nbi = lib.shmemx_put_nbi, lib.shmemx_get_nbi
_iput, _iget = lib.shmemx_iput, lib.shmemx_iget
_ibput, _ibget = lib.shmemx_ibput, lib.shmemx_ibget


def span(size: int | None, target_bytes: int, source_bytes: int, itemsize: int, call: str) -> int:
    """Bytes to transfer: `size` elements, checked against both sides, or as many as both have."""
    if size is None:
        return min(target_bytes, source_bytes)
    nbytes = operator.index(size) * itemsize
    if nbytes < 0:
        raise _ArgumentError(f"{call}: size {size} is negative")
    for name, have in (("target", target_bytes), ("source", source_bytes)):
        if nbytes > have:
            raise _ArgumentError(
                f"{call}: size {size} exceeds the {have // max(itemsize, 1)} elements of {name}"
            )
    return nbytes


def _put_arguments(
    target: Array, source: Array, size: int | None, call: str
) -> tuple[CData, CData, int, int]:
    to, to_bytes, dtype = symmetric(target, call, "target")
    there, there_bytes, source_dtype = local(source, call, "source")
    same_dtype(dtype, source_dtype, call)
    return to, there, span(size, to_bytes, there_bytes, dtype.itemsize, call), dtype.itemsize


def _get_arguments(
    target: Array, source: Array, size: int | None, call: str
) -> tuple[CData, CData, int, int]:
    to, to_bytes, dtype = local(target, call, "target", write=True)
    there, there_bytes, source_dtype = symmetric(source, call, "source")
    same_dtype(dtype, source_dtype, call)
    return to, there, span(size, to_bytes, there_bytes, dtype.itemsize, call), dtype.itemsize


def put(target: Array, source: Array, pe: int, size: int | None = None, ctx: Ctx | None = None) -> None:
    """Copies local `source` to `target` on PE `pe`.

    Parameters
    ----------
    target : array
        Symmetric; its copy on `pe` is written.
    source : array
        Any array of the same dtype.
    pe : int
        Number of a PE, in the context's team.
    size : int, optional
        Elements to copy; by default the smaller of both sizes.
    ctx : Ctx, optional
        Context of the operation.

    Raises
    ------
    PEError, AddressError, ArgumentError, TypeError
        Nothing is written then.
    """
    code = 1  # no result yet
    if type(target) is SymmetricArray and size is None and ctx is None:
        try:
            kind = target._kind
            if type(source) is _ndarray:
                data = _from_buffer(source)
                if source.dtype is kind and target._block.live:
                    n, have = target._nbytes, len(data)
                    code = _put(_DEFAULT, target._ptr, data, n if n < have else have, pe)
            elif source._kind is kind and kind is not None and source._block.live and target._block.live:  # type: ignore[attr-defined]
                n, have = target._nbytes, source._nbytes  # type: ignore[attr-defined]
                code = _put(_DEFAULT, target._ptr, source._ptr, n if n < have else have, pe)  # type: ignore[attr-defined]
        except (AttributeError, ValueError):
            pass  # nothing cached yet, or not C-contiguous
    if code > 0:
        to, there, nbytes, _ = _put_arguments(target, source, size, "put")
        code = _put(_DEFAULT if ctx is None else ctx.ob_ctx, to, there, nbytes, pe)
    if code:
        fail(code)


def get(target: Array, source: Array, pe: int, size: int | None = None, ctx: Ctx | None = None) -> None:
    """Copies `source` on PE `pe` to local `target`; complete when it returns.

    Parameters
    ----------
    target : array
        Any writeable array.
    source : array
        Symmetric, of the same dtype; its copy on `pe` is read.
    pe, size, ctx
        As for `put`.

    Raises
    ------
    PEError, AddressError, ArgumentError, TypeError
        Nothing is written then.
    """
    code = 1  # no result yet
    if type(source) is SymmetricArray and size is None and ctx is None:
        try:
            kind = source._kind
            if type(target) is _ndarray:
                data = _from_buffer(_BYTES, target, True)
                if target.dtype is kind and source._block.live:
                    n, have = source._nbytes, len(data)
                    code = _get(_DEFAULT, data, source._ptr, n if n < have else have, pe)
            elif (
                target._kind is kind and kind is not None and target._block.live and source._block.live  # type: ignore[attr-defined]
                and target.flags.writeable
            ):  # fmt: skip
                n, have = source._nbytes, target._nbytes  # type: ignore[attr-defined]
                code = _get(_DEFAULT, target._ptr, source._ptr, n if n < have else have, pe)  # type: ignore[attr-defined]
        except (AttributeError, ValueError):
            pass  # nothing cached yet, not C-contiguous, or read-only
    if code > 0:
        to, there, nbytes, _ = _get_arguments(target, source, size, "get")
        code = _get(_DEFAULT if ctx is None else ctx.ob_ctx, to, there, nbytes, pe)
    if code:
        fail(code)


def put_nbi(target: Array, source: Array, pe: int, size: int | None = None, ctx: Ctx | None = None) -> None:
    """As `put`, but `source` must not change before `quiet`, which completes the copy."""
    to, there, nbytes, _ = _put_arguments(target, source, size, "put_nbi")
    hold(ctx, target, source)
    code = _put_nbi(_DEFAULT if ctx is None else ctx.ob_ctx, to, there, nbytes, pe)
    if code:
        fail(code)


def get_nbi(target: Array, source: Array, pe: int, size: int | None = None, ctx: Ctx | None = None) -> None:
    """As `get`, but `target` has the data only after `quiet`."""
    to, there, nbytes, _ = _get_arguments(target, source, size, "get_nbi")
    hold(ctx, target, source)
    code = _get_nbi(_DEFAULT if ctx is None else ctx.ob_ctx, to, there, nbytes, pe)
    if code:
        fail(code)


def strided(
    target_bytes: int, source_bytes: int, itemsize: int, tst: int, sst: int, size: int | None, call: str
) -> int:
    """Elements of a strided transfer, checked: one at each multiple of the stride that lies inside."""
    for name, stride in (("tst", tst), ("sst", sst)):
        if stride < 1:
            raise _ArgumentError(f"{call}: stride {name} is {stride}, 1 is the least")
    targets = -(-(target_bytes // max(itemsize, 1)) // tst)
    sources = -(-(source_bytes // max(itemsize, 1)) // sst)
    if size is None:
        return min(targets, sources)
    count = operator.index(size)
    if count < 0:
        raise _ArgumentError(f"{call}: size {count} is negative")
    for name, have, stride in (("target", targets, tst), ("source", sources, sst)):
        if count > have:
            raise _ArgumentError(
                f"{call}: size {count} exceeds the {have} elements of {name} at stride {stride}"
            )
    return count


def iput(
    target: Array, source: Array, pe: int, tst: int = 1, sst: int = 1, size: int | None = None,
    ctx: Ctx | None = None,
) -> None:  # fmt: skip
    """Copies every `sst`-th element of local `source` to every `tst`-th of `target` on PE `pe`.

    Parameters
    ----------
    target, source, pe, ctx
        As for `put`.
    tst, sst : int
        Strides in elements, at least 1.
    size : int, optional
        Elements to copy; by default as many as fit both sides at their strides.
    """
    to, to_bytes, dtype = symmetric(target, "iput", "target")
    there, there_bytes, source_dtype = local(source, "iput", "source")
    same_dtype(dtype, source_dtype, "iput")
    count = strided(to_bytes, there_bytes, dtype.itemsize, tst, sst, size, "iput")
    code = _iput(_DEFAULT if ctx is None else ctx.ob_ctx, to, there, tst, sst, dtype.itemsize, count, pe)
    if code:
        fail(code)


def iget(
    target: Array, source: Array, pe: int, tst: int = 1, sst: int = 1, size: int | None = None,
    ctx: Ctx | None = None,
) -> None:  # fmt: skip
    """Copies every `sst`-th element of `source` on PE `pe` to every `tst`-th of local `target`.

    Parameters are those of `iput`; complete when it returns.
    """
    to, to_bytes, dtype = local(target, "iget", "target", write=True)
    there, there_bytes, source_dtype = symmetric(source, "iget", "source")
    same_dtype(dtype, source_dtype, "iget")
    count = strided(to_bytes, there_bytes, dtype.itemsize, tst, sst, size, "iget")
    code = _iget(_DEFAULT if ctx is None else ctx.ob_ctx, to, there, tst, sst, dtype.itemsize, count, pe)
    if code:
        fail(code)


def _blocks(
    target_bytes: int, source_bytes: int, itemsize: int, tst: int, sst: int, bsize: int, nblocks: int | None,
    call: str,
) -> int:  # fmt: skip
    """Blocks of a block-strided transfer, checked: one at each multiple of the stride that lies inside."""
    if operator.index(bsize) < 1:
        raise _ArgumentError(f"{call}: bsize is {bsize}, 1 is the least")
    for name, stride in (("tst", tst), ("sst", sst)):
        if stride < bsize:
            raise _ArgumentError(f"{call}: stride {name} is {stride}, less than a block of {bsize} elements")
    have = {
        name: max(0, (nbytes // max(itemsize, 1) - bsize) // stride + 1)
        for name, nbytes, stride in (("target", target_bytes, tst), ("source", source_bytes, sst))
    }
    if nblocks is None:
        return min(have.values())
    count = operator.index(nblocks)
    if count < 0:
        raise _ArgumentError(f"{call}: nblocks {count} is negative")
    for name, most in have.items():
        if count > most:
            raise _ArgumentError(f"{call}: {count} blocks exceed the {most} of {name}")
    return count


def ibput(
    target: Array, source: Array, pe: int, tst: int, sst: int, bsize: int, nblocks: int | None = None,
    ctx: Ctx | None = None,
) -> None:  # fmt: skip
    """Copies blocks of `bsize` elements, `sst` apart in local `source`, `tst` apart in `target` on PE `pe`.

    Parameters
    ----------
    target, source, pe, ctx
        As for `put`.
    tst, sst : int
        Elements from the start of a block to that of the next, at least `bsize`.
    bsize : int
        Elements of a block.
    nblocks : int, optional
        Blocks to copy; by default as many as fit both sides.
    """
    to, to_bytes, dtype = symmetric(target, "ibput", "target")
    there, there_bytes, source_dtype = local(source, "ibput", "source")
    same_dtype(dtype, source_dtype, "ibput")
    count = _blocks(to_bytes, there_bytes, dtype.itemsize, tst, sst, bsize, nblocks, "ibput")
    handle = _DEFAULT if ctx is None else ctx.ob_ctx
    code = _ibput(handle, to, there, tst, sst, dtype.itemsize, bsize, count, pe)
    if code:
        fail(code)


def ibget(
    target: Array, source: Array, pe: int, tst: int, sst: int, bsize: int, nblocks: int | None = None,
    ctx: Ctx | None = None,
) -> None:  # fmt: skip
    """Copies blocks of `source` on PE `pe` to local `target`.

    Parameters are those of `ibput`; complete when it returns.
    """
    to, to_bytes, dtype = local(target, "ibget", "target", write=True)
    there, there_bytes, source_dtype = symmetric(source, "ibget", "source")
    same_dtype(dtype, source_dtype, "ibget")
    count = _blocks(to_bytes, there_bytes, dtype.itemsize, tst, sst, bsize, nblocks, "ibget")
    handle = _DEFAULT if ctx is None else ctx.ob_ctx
    code = _ibget(handle, to, there, tst, sst, dtype.itemsize, bsize, count, pe)
    if code:
        fail(code)
