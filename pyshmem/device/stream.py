"""Calls that a CUDA stream orders: each returns at once and happens after what the stream holds already.

`stream` is a cupy.cuda.Stream, a torch.cuda.Stream, a stream's address (int), or None: CuPy's current stream
where CuPy is imported, else torch's. All of them can be captured in a CUDA graph.

Symmetric arguments are arrays of the GPU heap (CuPy or torch); the other side of a put or a get may be any
array that the device reaches: GPU memory of this device, or pinned host memory. The arrays must stay as they
are until the stream has come to the call, and a captured graph uses their addresses whenever it is launched:
keep them. Errors that can be seen at once are raised here; a deadline that a wait meets later is raised by
the next call of this module, or by `pyshmem.device.check`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import coll as _coll
from .._core import ffi, lib
from ..errors import CLASSES, check
from ..rma import span, strided
from ..setup import ensure
from ..setup import state as job
from ..symmetric import _contiguous, _pointer, root_block, same_dtype
from ..types import CMP, OP, OP_SUM, SIGNAL, Array, CData, comparison, core_type
from . import arrays

if TYPE_CHECKING:
    from ..team import Team

__all__ = [
    "alltoall_on_stream",
    "alltoalls_on_stream",
    "and_reduce_on_stream",
    "barrier_on_stream",
    "broadcast_on_stream",
    "collect_on_stream",
    "fcollect_on_stream",
    "get_on_stream",
    "max_reduce_on_stream",
    "min_reduce_on_stream",
    "or_reduce_on_stream",
    "prod_reduce_on_stream",
    "put_on_stream",
    "put_signal_on_stream",
    "quiet_on_stream",
    "reduce_on_stream",
    "signal_wait_on_stream",
    "sum_exscan_on_stream",
    "sum_inscan_on_stream",
    "sum_reduce_on_stream",
    "xor_reduce_on_stream",
]

_ArgumentError = CLASSES[lib.SHMEMX_ERR_ARGUMENT]
_AddressError = CLASSES[lib.SHMEMX_ERR_ADDRESS]
_WORLD = ffi.cast("shmem_team_t", lib.SHMEMX_TEAM_WORLD)
_UINT64 = np.dtype(np.uint64)


# ---- arguments ---------------------------------------------------------------------------------------------


def handle_of(stream: Any, call: str) -> int:
    """The address of a stream: CuPy's, torch's, an int; None is the current one."""
    if stream is None:
        cupy, torch = sys.modules.get("cupy"), sys.modules.get("torch")
        if cupy is not None:
            return int(cupy.cuda.get_current_stream().ptr)
        if torch is not None:
            return int(torch.cuda.current_stream().cuda_stream)
        return 0
    if isinstance(stream, (int, np.integer)) and not isinstance(stream, bool):
        return int(stream)
    for name in ("ptr", "cuda_stream", "handle"):
        value = getattr(stream, name, None)
        if value is not None:
            return int(getattr(value, "value", value) or 0)
    raise TypeError(
        f"{call}: stream is {type(stream).__name__}, not a stream of CuPy or PyTorch, int or None"
    )


def wait_for(handle: int) -> None:
    """Blocks until that stream is empty."""
    from .state import driver

    code = driver().cuStreamSynchronize(ffi_int(handle))
    if code:
        raise RuntimeError(f"cuStreamSynchronize: CUDA error {code}")


def ffi_int(handle: int) -> Any:
    import ctypes

    return ctypes.c_void_p(handle)


def _stream(stream: Any, call: str) -> CData:
    return ffi.cast("void *", handle_of(stream, call))


def _argument(a: Any, call: str, name: str, *, symmetric: bool) -> tuple[CData, int, np.dtype[Any]]:
    """(pointer, bytes, dtype), checked; without waiting for any stream."""
    if not job.ready:
        ensure()
    if isinstance(a, np.ndarray):
        if symmetric:
            raise _AddressError(
                f"{call}: {name} (shape {a.shape}, {a.dtype}) is host memory, not of the GPU heap"
            )
        flat = _contiguous(a, call, name, write=False)
        made, block = root_block(a)
        if made and (block is None or not block.live):
            raise _AddressError(f"{call}: {name} (shape {a.shape}, {a.dtype}) was freed")
        return _pointer(flat), a.nbytes, a.dtype
    found = arrays.describe(a, call, name)
    if found is None:
        raise TypeError(f"{call}: {name} is {type(a).__name__}, not an array")
    if symmetric and found.device < 0 and found.nbytes:
        raise _AddressError(
            f"{call}: {name} (shape {found.shape}, {found.dtype}) is host memory, not of the GPU heap"
        )
    arrays.check_use(found, call, name, symmetric=symmetric)
    return ffi.cast("char *", found.address), found.nbytes, found.dtype


def _pair(
    target: Any, source: Any, call: str, *, target_symmetric: bool = True, source_symmetric: bool = True
) -> tuple[CData, int, CData, int, np.dtype[Any]]:
    to, to_bytes, dtype = _argument(target, call, "target", symmetric=target_symmetric)
    there, there_bytes, other = _argument(source, call, "source", symmetric=source_symmetric)
    same_dtype(dtype, other, call)
    return to, to_bytes, there, there_bytes, dtype


def _word(signal: Any, call: str) -> CData:
    pointer, nbytes, dtype = _argument(signal, call, "signal", symmetric=True)
    if dtype not in (_UINT64, np.dtype(np.int64)) or nbytes != 8:
        raise TypeError(f"{call}: signal has {nbytes} bytes of {dtype}; one uint64 (or int64) is needed")
    return ffi.cast("uint64_t *", pointer)


def _bits(value: int, call: str) -> int:
    if not 0 <= value < 1 << 64:
        raise OverflowError(f"{call}: value {value} does not fit in uint64")
    return int(value)


def _team(team: Team | None) -> CData:
    return _WORLD if team is None else team.ob_team


# ---- one-sided ---------------------------------------------------------------------------------------------


def put_on_stream(target: Array, source: Array, pe: int, size: int | None = None, stream: Any = None) -> None:
    """As `put`; complete on PE `pe` when what comes later in the stream begins.

    Parameters
    ----------
    target : array
        Of the GPU heap.
    source : array
        Any array that the device reaches, of the same dtype; not written until the stream has come here.
    pe : int
        Number of a PE, in the world.
    size : int, optional
        Elements; by default the smaller of both sizes.
    stream
        See the module's text.
    """
    call = "put_on_stream"
    to, to_bytes, there, there_bytes, dtype = _pair(target, source, call, source_symmetric=False)
    nbytes = span(size, to_bytes, there_bytes, dtype.itemsize, call)
    check(lib.shmemx_put_on_stream(to, there, nbytes, pe, _stream(stream, call)))


def get_on_stream(target: Array, source: Array, pe: int, size: int | None = None, stream: Any = None) -> None:
    """As `get`; what comes later in the stream sees `target` filled. `source` is of the GPU heap, `target`
    any array that the device reaches; the rest as for `put_on_stream`."""
    call = "get_on_stream"
    to, to_bytes, there, there_bytes, dtype = _pair(target, source, call, target_symmetric=False)
    nbytes = span(size, to_bytes, there_bytes, dtype.itemsize, call)
    check(lib.shmemx_get_on_stream(to, there, nbytes, pe, _stream(stream, call)))


def put_signal_on_stream(
    target: Array, source: Array, pe: int, signal: Array, value: int, sigop: SIGNAL = SIGNAL.SET,
    size: int | None = None, stream: Any = None,
) -> None:  # fmt: skip
    """As `put_on_stream`, then `value` is set or added in PE `pe`'s `signal` (one uint64 of the GPU heap)."""
    call = "put_signal_on_stream"
    to, to_bytes, there, there_bytes, dtype = _pair(target, source, call, source_symmetric=False)
    nbytes = span(size, to_bytes, there_bytes, dtype.itemsize, call)
    word, bits = _word(signal, call), _bits(value, call)
    if sigop != SIGNAL.SET and sigop != SIGNAL.ADD:
        raise _ArgumentError(f"{call}: sigop {sigop!r} is neither SIGNAL.SET nor SIGNAL.ADD")
    check(
        lib.shmemx_put_signal_on_stream(to, there, nbytes, word, bits, int(sigop), pe, _stream(stream, call))
    )


def signal_wait_on_stream(signal: Array, cmp: CMP, value: int, stream: Any = None) -> None:
    """What comes later in the stream waits until this PE's `signal` compares true with `value` (unsigned)."""
    call = "signal_wait_on_stream"
    number = comparison(cmp, call)
    word, bits = _word(signal, call), _bits(value, call)
    check(lib.shmemx_signal_wait_on_stream(word, number, bits, _stream(stream, call)))


def quiet_on_stream(stream: Any = None) -> None:
    """What comes later in the stream sees this PE's host-started nonblocking calls complete."""
    if not job.ready:
        ensure()
    check(lib.shmemx_quiet_on_stream(_stream(stream, "quiet_on_stream")))


# ---- collectives -------------------------------------------------------------------------------------------


def barrier_on_stream(team: Team | None = None, stream: Any = None) -> None:
    """What comes later in the stream waits until the streams of all members have arrived here, and sees all
    that they have put before. One collective of a team at a time: not on two streams of one PE at once."""
    if not job.ready:
        ensure()
    check(lib.shmemx_barrier_on_stream(_team(team), _stream(stream, "barrier_on_stream")))


def broadcast_on_stream(
    target: Array, source: Array, root: int, size: int | None = None, team: Team | None = None,
    stream: Any = None,
) -> None:  # fmt: skip
    """As `broadcast`, on arrays of the GPU heap."""
    call = "broadcast_on_stream"
    to, to_bytes, there, there_bytes, dtype = _pair(target, source, call)
    nbytes = span(size, to_bytes, there_bytes, dtype.itemsize, call)
    check(lib.shmemx_broadcast_on_stream(_team(team), to, there, nbytes, root, _stream(stream, call)))


def fcollect_on_stream(
    target: Array, source: Array, size: int | None = None, team: Team | None = None, stream: Any = None
) -> None:
    """As `fcollect`, on arrays of the GPU heap."""
    call = "fcollect_on_stream"
    to, to_bytes, there, there_bytes, dtype = _pair(target, source, call)
    nbytes = there_bytes if size is None else span(size, there_bytes, there_bytes, dtype.itemsize, call)
    members = _coll._members(team)
    if nbytes * members > to_bytes:
        raise _ArgumentError(
            f"{call}: target has {to_bytes // dtype.itemsize} elements, "
            f"{members} times {nbytes // dtype.itemsize} are needed"
        )
    check(lib.shmemx_fcollect_on_stream(_team(team), to, there, nbytes, _stream(stream, call)))


def alltoall_on_stream(
    target: Array, source: Array, size: int | None = None, team: Team | None = None, stream: Any = None
) -> None:
    """As `alltoall`, on arrays of the GPU heap; `size` is that of one block."""
    call = "alltoall_on_stream"
    to, to_bytes, there, there_bytes, dtype = _pair(target, source, call)
    have = min(to_bytes, there_bytes) // dtype.itemsize
    count = _coll._block(have, size, _coll._members(team), call)
    check(
        lib.shmemx_alltoall_on_stream(_team(team), to, there, count * dtype.itemsize, _stream(stream, call))
    )


def collect_on_stream(
    target: Array, source: Array, size: int | None = None, team: Team | None = None, stream: Any = None
) -> None:
    """As `collect`, on arrays of the GPU heap. A PE whose `target` has too little room gets nothing, and
    `pyshmem.device.check` raises that there; the others get theirs."""
    call = "collect_on_stream"
    to, to_bytes, there, there_bytes, dtype = _pair(target, source, call)
    nbytes = there_bytes if size is None else span(size, there_bytes, there_bytes, dtype.itemsize, call)
    check(lib.shmemx_collect_on_stream(_team(team), to, to_bytes, there, nbytes, _stream(stream, call)))


def alltoalls_on_stream(
    target: Array, source: Array, tst: int = 1, sst: int = 1, size: int | None = None,
    team: Team | None = None, stream: Any = None,
) -> None:  # fmt: skip
    """As `alltoalls`, on arrays of the GPU heap."""
    call = "alltoalls_on_stream"
    to, to_bytes, there, there_bytes, dtype = _pair(target, source, call)
    have = strided(to_bytes, there_bytes, dtype.itemsize, tst, sst, None, call)
    count = _coll._block(have, size, _coll._members(team), call)
    check(
        lib.shmemx_alltoalls_on_stream(
            _team(team), to, there, tst, sst, dtype.itemsize, count, _stream(stream, call)
        )
    )


def reduce_on_stream(
    target: Array, source: Array, op: OP = OP_SUM, size: int | None = None, team: Team | None = None,
    stream: Any = None,
) -> None:  # fmt: skip
    """As `reduce`, on arrays of the GPU heap; no products of complex numbers, no long double."""
    call = f"{op}_reduce_on_stream"
    number = _coll._OPERATIONS.get(str(op).lower())
    if number is None:
        raise _ArgumentError(f"reduce_on_stream: operation {op!r} is none of {', '.join(_coll._OPERATIONS)}")
    to, to_bytes, there, there_bytes, dtype = _pair(target, source, call)
    kind = core_type(dtype, call, boolean=number in _coll._BITS)
    nbytes = span(size, to_bytes, there_bytes, dtype.itemsize, call)
    count = nbytes // dtype.itemsize
    check(lib.shmemx_reduce_on_stream(_team(team), number, kind, to, there, count, _stream(stream, call)))


def and_reduce_on_stream(
    target: Array, source: Array, size: int | None = None, team: Team | None = None, stream: Any = None
) -> None:
    """Bitwise and of the members' integers; parameters as for `reduce_on_stream`."""
    reduce_on_stream(target, source, OP.AND, size, team, stream)


def or_reduce_on_stream(
    target: Array, source: Array, size: int | None = None, team: Team | None = None, stream: Any = None
) -> None:
    """Bitwise or of the members' integers; parameters as for `reduce_on_stream`."""
    reduce_on_stream(target, source, OP.OR, size, team, stream)


def xor_reduce_on_stream(
    target: Array, source: Array, size: int | None = None, team: Team | None = None, stream: Any = None
) -> None:
    """Bitwise exclusive or of the members' integers; parameters as for `reduce_on_stream`."""
    reduce_on_stream(target, source, OP.XOR, size, team, stream)


def max_reduce_on_stream(
    target: Array, source: Array, size: int | None = None, team: Team | None = None, stream: Any = None
) -> None:
    """Largest of the members' values; parameters as for `reduce_on_stream`."""
    reduce_on_stream(target, source, OP.MAX, size, team, stream)


def min_reduce_on_stream(
    target: Array, source: Array, size: int | None = None, team: Team | None = None, stream: Any = None
) -> None:
    """Smallest of the members' values; parameters as for `reduce_on_stream`."""
    reduce_on_stream(target, source, OP.MIN, size, team, stream)


def sum_reduce_on_stream(
    target: Array, source: Array, size: int | None = None, team: Team | None = None, stream: Any = None
) -> None:
    """Sum of the members' values; parameters as for `reduce_on_stream`."""
    reduce_on_stream(target, source, OP.SUM, size, team, stream)


def prod_reduce_on_stream(
    target: Array, source: Array, size: int | None = None, team: Team | None = None, stream: Any = None
) -> None:
    """Product of the members' values; parameters as for `reduce_on_stream`."""
    reduce_on_stream(target, source, OP.PROD, size, team, stream)


def _scan(
    exclusive: bool, target: Array, source: Array, size: int | None, team: Team | None, stream: Any, call: str
) -> None:
    to, to_bytes, there, there_bytes, dtype = _pair(target, source, call)
    kind = core_type(dtype, call, boolean=False)
    count = span(size, to_bytes, there_bytes, dtype.itemsize, call) // dtype.itemsize
    check(lib.shmemx_scan_on_stream(_team(team), exclusive, kind, to, there, count, _stream(stream, call)))


def sum_inscan_on_stream(
    target: Array, source: Array, size: int | None = None, team: Team | None = None, stream: Any = None
) -> None:
    """As `sum_inscan`, on arrays of the GPU heap; no long double."""
    _scan(False, target, source, size, team, stream, "sum_inscan_on_stream")


def sum_exscan_on_stream(
    target: Array, source: Array, size: int | None = None, team: Team | None = None, stream: Any = None
) -> None:
    """As `sum_exscan`, on arrays of the GPU heap; no long double."""
    _scan(True, target, source, size, team, stream, "sum_exscan_on_stream")
