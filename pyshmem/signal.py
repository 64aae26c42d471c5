"""Signals: a put whose arrival is announced in a 64-bit signal word at the target.

When the target sees the word changed (`signal_wait_until`, `wait_until`, `test`), the data of that put is
there. A signal is a symmetric uint64 array of one element; `new_signal` makes one, and any other such array
serves too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from ._core import ffi, lib
from .errors import CLASSES, fail
from .heap import free, new_array
from .order import hold
from .rma import span
from .symmetric import SymmetricArray, local, same_dtype, symmetric, word_of
from .types import CMP, INT_WORDS, MALLOC, SIGNAL, Array, CData, comparison

if TYPE_CHECKING:
    from .ctx import Ctx

__all__ = [
    "SigAddr",
    "del_signal",
    "new_signal",
    "put_signal",
    "put_signal_nbi",
    "signal_add",
    "signal_fetch",
    "signal_set",
    "signal_wait_until",
]

_ArgumentError = CLASSES[lib.SHMEMX_ERR_ARGUMENT]
_DEFAULT = ffi.cast("shmem_ctx_t", lib.SHMEMX_CTX_DEFAULT)
_NULL = ffi.NULL
_UINT64 = {np.dtype(np.uint64): INT_WORDS[np.dtype(np.uint64)]}
_WORD = _UINT64[np.dtype(np.uint64)]
_put_signal, _put_signal_nbi = lib.shmemx_put_signal, lib.shmemx_put_signal_nbi
_signal_fetch, _signal_wait, _atomic = (
    lib.shmemx_signal_fetch,
    lib.shmemx_signal_wait_until,
    lib.shmemx_atomic,
)

SigAddr: TypeAlias = SymmetricArray
"""A signal word: a symmetric uint64 array of one element."""


def _address(signal: Array, call: str) -> CData:
    if type(signal) is SymmetricArray:
        try:
            if signal._word is _WORD and signal._block.live:
                return ffi.cast("uint64_t *", signal._ptr)
        except AttributeError:
            pass
    return ffi.cast("uint64_t *", word_of(signal, call, "signal", _UINT64)[0])


def new_signal() -> SigAddr:
    """Makes a signal word of value 0, in a cache line of its own. Collective."""
    return new_array(1, np.uint64, hints=MALLOC.SIGNAL_REMOTE)


def del_signal(signal: SigAddr) -> None:
    """Frees a signal word. Collective."""
    _address(signal, "del_signal")
    free(signal)


def _put(
    function: object, target: Array, source: Array, pe: int, signal: SigAddr, value: int, sigop: SIGNAL,
    size: int | None, ctx: Ctx | None, call: str,
) -> None:  # fmt: skip
    to, to_bytes, dtype = symmetric(target, call, "target")
    there, there_bytes, source_dtype = local(source, call, "source")
    same_dtype(dtype, source_dtype, call)
    nbytes = span(size, to_bytes, there_bytes, dtype.itemsize, call)
    word, bits = _address(signal, call), _WORD.bits(value)
    if sigop != SIGNAL.SET and sigop != SIGNAL.ADD:
        raise _ArgumentError(f"{call}: sigop {sigop!r} is neither SIGNAL.SET nor SIGNAL.ADD")
    if function is _put_signal_nbi:
        hold(ctx, target, source, signal)
    code = function(_DEFAULT if ctx is None else ctx.ob_ctx, to, there, nbytes, word, bits, sigop, pe)  # type: ignore[operator]
    if code:
        fail(code)


def put_signal(
    target: Array, source: Array, pe: int, signal: SigAddr, value: int, sigop: SIGNAL,
    size: int | None = None, ctx: Ctx | None = None,
) -> None:  # fmt: skip
    """Copies local `source` to `target` on PE `pe`, then sets or adds `value` in that PE's `signal`.

    Parameters
    ----------
    target, source, pe, size, ctx
        As for `put`; with 0 elements only the signal is sent.
    signal : array
        Symmetric, one uint64.
    value : int
        0 to 2**64 - 1.
    sigop : SIGNAL
        SET stores the value, ADD adds it.
    """
    _put(_put_signal, target, source, pe, signal, value, sigop, size, ctx, "put_signal")


def put_signal_nbi(
    target: Array, source: Array, pe: int, signal: SigAddr, value: int, sigop: SIGNAL,
    size: int | None = None, ctx: Ctx | None = None,
) -> None:  # fmt: skip
    """As `put_signal`, but `source` must not change before `quiet`, which completes it on this side."""
    _put(_put_signal_nbi, target, source, pe, signal, value, sigop, size, ctx, "put_signal_nbi")


def signal_fetch(signal: SigAddr) -> int:
    """The value of this PE's signal word, read atomically."""
    cell = _WORD.cell()
    code = _signal_fetch(_address(signal, "signal_fetch"), cell)
    if code:
        fail(code)
    value: int = cell[0]
    _WORD.pool.append(cell)
    return value


def signal_wait_until(signal: SigAddr, cmp: CMP, value: int) -> int:
    """Blocks until this PE's signal word compares true with `value`; returns the word's value that did.

    Raises TimeoutError or PeerDeadError as `wait_until`.
    """
    number = comparison(cmp, "signal_wait_until")
    cell = _WORD.cell()
    code = _signal_wait(_address(signal, "signal_wait_until"), number, _WORD.bits(value), cell)
    if code:
        fail(code)
    seen: int = cell[0]
    _WORD.pool.append(cell)
    return seen


def _send(op: int, signal: SigAddr, value: int, pe: int, ctx: Ctx | None, call: str) -> None:
    handle = _DEFAULT if ctx is None else ctx.ob_ctx
    code = _atomic(handle, op, 8, _address(signal, call), _WORD.bits(value), 0, pe, _NULL)
    if code:
        fail(code)


def signal_set(signal: SigAddr, value: int, pe: int, ctx: Ctx | None = None) -> None:
    """Stores `value` in PE `pe`'s signal word, without data."""
    _send(lib.SHMEMX_AMO_SET, signal, value, pe, ctx, "signal_set")


def signal_add(signal: SigAddr, value: int, pe: int, ctx: Ctx | None = None) -> None:
    """Adds `value` to PE `pe`'s signal word, without data."""
    _send(lib.SHMEMX_AMO_ADD, signal, value, pe, ctx, "signal_add")
