"""Atomics on one element of a symmetric array, on any PE.

All operations take int32, int64, uint32 and uint64; fetch, set and swap also float32 and float64. The target
is a symmetric array of exactly one element: a slice ``a[i:i+1]`` of a larger one, for example. Operands must
fit the dtype (OverflowError). Operations that fetch return a Python number, and are complete when they
return; the others are complete after `quiet` or a barrier, and the ``_nbi`` forms write `fetch`, a local
array of one element and the same dtype, by then.

Every function takes the number of a PE in the context's team, and raises PEError, AddressError, ArgumentError
(more than one element) or TypeError (dtype) with nothing written.

Cost on one element, measured with one PE on an idle machine (Python 3.11, cffi 2.1): fetch-and-add 335 ns,
the other fetching operations 415, those that do not fetch 290. The call of 8 arguments into C is 155 of it,
reading the fetched cell 30, taking and giving the cell back 30.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ._core import ffi, lib
from .errors import CLASSES, fail
from .order import hold
from .symmetric import SymmetricArray, local, word_of
from .types import AMO, INT_WORDS, WORDS, Array, CData, Number, Word

if TYPE_CHECKING:
    from .ctx import Ctx

__all__ = [
    "atomic_add",
    "atomic_and",
    "atomic_compare_swap",
    "atomic_compare_swap_nbi",
    "atomic_fetch",
    "atomic_fetch_add",
    "atomic_fetch_add_nbi",
    "atomic_fetch_and",
    "atomic_fetch_and_nbi",
    "atomic_fetch_inc",
    "atomic_fetch_inc_nbi",
    "atomic_fetch_nbi",
    "atomic_fetch_op",
    "atomic_fetch_op_nbi",
    "atomic_fetch_or",
    "atomic_fetch_or_nbi",
    "atomic_fetch_xor",
    "atomic_fetch_xor_nbi",
    "atomic_inc",
    "atomic_op",
    "atomic_or",
    "atomic_set",
    "atomic_swap",
    "atomic_swap_nbi",
    "atomic_xor",
]

_ArgumentError = CLASSES[lib.SHMEMX_ERR_ARGUMENT]
_DEFAULT = ffi.cast("shmem_ctx_t", lib.SHMEMX_CTX_DEFAULT)
_NULL = ffi.NULL
_atomic, _atomic_nbi = lib.shmemx_atomic, lib.shmemx_atomic_nbi
_FETCH, _SET, _SWAP = lib.SHMEMX_AMO_FETCH, lib.SHMEMX_AMO_SET, lib.SHMEMX_AMO_SWAP
_COMPARE_SWAP, _ADD = lib.SHMEMX_AMO_COMPARE_SWAP, lib.SHMEMX_AMO_ADD
_AND, _OR, _XOR = lib.SHMEMX_AMO_AND, lib.SHMEMX_AMO_OR, lib.SHMEMX_AMO_XOR
_ANY_DTYPE = frozenset((_FETCH, _SET, _SWAP))


def _target(target: Array, op: int, call: str) -> tuple[CData, Word]:
    """(pointer, word) of the target, from the array's slots or with all checks."""
    if type(target) is SymmetricArray:
        try:
            word = target._word
            if word is not None and target._block.live and (word.is_int or op in _ANY_DTYPE):
                return target._ptr, word
        except AttributeError:
            pass
    return word_of(target, call, "target", WORDS if op in _ANY_DTYPE else INT_WORDS)


def _update(target: Array, op: int, value: Number, pe: int, ctx: Ctx | None, call: str) -> None:
    pointer, word = _target(target, op, call)
    bits = value if type(value) is int and 0 <= value <= word.top else word.bits(value)
    code = _atomic(_DEFAULT if ctx is None else ctx.ob_ctx, op, word.size, pointer, bits, 0, pe, _NULL)
    if code:
        fail(code)


def _fetch(
    target: Array, op: int, value: Number, pe: int, ctx: Ctx | None, call: str, cond: Number = 0
) -> Any:
    pointer, word = _target(target, op, call)
    bits = value if type(value) is int and 0 <= value <= word.top else word.bits(value)
    if op == _COMPARE_SWAP:
        cond = word.bits(cond)
    try:  # word.cell(), without the call
        cell = word.pool.pop()
    except IndexError:
        cell = ffi.new(word.ctype)
    code = _atomic(_DEFAULT if ctx is None else ctx.ob_ctx, op, word.size, pointer, bits, cond, pe, cell)
    if code:
        fail(code)
    fetched = cell[0]
    word.pool.append(cell)
    return fetched


def _fetch_nbi(
    fetch: Array, target: Array, op: int, value: Number, pe: int, ctx: Ctx | None, call: str, cond: Number = 0
) -> None:
    pointer, word = _target(target, op, call)
    to, nbytes, dtype = local(fetch, call, "fetch", write=True)
    if dtype != word.dtype or nbytes != word.size:
        raise _ArgumentError(
            f"{call}: fetch has {np.size(fetch)} elements of {dtype}, the target needs 1 of {word.dtype}"
        )
    condition = word.bits(cond) if op == _COMPARE_SWAP else 0
    hold(ctx, fetch, target)
    handle = _DEFAULT if ctx is None else ctx.ob_ctx
    code = _atomic_nbi(handle, op, word.size, pointer, word.bits(value), condition, pe, to)
    if code:
        fail(code)


def atomic_set(target: Array, value: Number, pe: int, ctx: Ctx | None = None) -> None:
    """Stores `value` in `target` on PE `pe`."""
    _update(target, _SET, value, pe, ctx, "atomic_set")


def atomic_inc(target: Array, pe: int, ctx: Ctx | None = None) -> None:
    """Adds 1 to `target` on PE `pe`."""
    _update(target, _ADD, 1, pe, ctx, "atomic_inc")


def atomic_add(target: Array, value: Number, pe: int, ctx: Ctx | None = None) -> None:
    """Adds `value` to `target` on PE `pe`; integers wrap around."""
    _update(target, _ADD, value, pe, ctx, "atomic_add")


def atomic_and(target: Array, value: Number, pe: int, ctx: Ctx | None = None) -> None:
    """Replaces `target` on PE `pe` by its bitwise and with `value`."""
    _update(target, _AND, value, pe, ctx, "atomic_and")


def atomic_or(target: Array, value: Number, pe: int, ctx: Ctx | None = None) -> None:
    """Replaces `target` on PE `pe` by its bitwise or with `value`."""
    _update(target, _OR, value, pe, ctx, "atomic_or")


def atomic_xor(target: Array, value: Number, pe: int, ctx: Ctx | None = None) -> None:
    """Replaces `target` on PE `pe` by its bitwise xor with `value`."""
    _update(target, _XOR, value, pe, ctx, "atomic_xor")


def atomic_fetch(source: Array, pe: int, ctx: Ctx | None = None) -> Any:
    """The value of `source` on PE `pe`, read atomically."""
    return _fetch(source, _FETCH, 0, pe, ctx, "atomic_fetch")


def atomic_swap(target: Array, value: Number, pe: int, ctx: Ctx | None = None) -> Any:
    """Stores `value` in `target` on PE `pe`; returns what was there."""
    return _fetch(target, _SWAP, value, pe, ctx, "atomic_swap")


def atomic_compare_swap(target: Array, cond: Number, value: Number, pe: int, ctx: Ctx | None = None) -> Any:
    """Stores `value` in `target` on PE `pe` if `cond` is there; returns what was there."""
    return _fetch(target, _COMPARE_SWAP, value, pe, ctx, "atomic_compare_swap", cond)


def atomic_fetch_inc(target: Array, pe: int, ctx: Ctx | None = None) -> Any:
    """Adds 1 to `target` on PE `pe`; returns what was there."""
    return _fetch(target, _ADD, 1, pe, ctx, "atomic_fetch_inc")


def atomic_fetch_add(target: Array, value: Number, pe: int, ctx: Ctx | None = None) -> Any:
    """Adds `value` to `target` on PE `pe`; returns what was there."""
    # _fetch without its two inner calls, which cost 80 ns: counters and tickets live on this one.
    code = 1  # no result yet
    if type(target) is SymmetricArray and type(value) is int and ctx is None:
        try:
            word = target._word
            if target._block.live and 0 <= value <= word.top:  # type: ignore[union-attr]
                cell = word.pool.pop()  # type: ignore[union-attr]
                code = _atomic(_DEFAULT, _ADD, word.size, target._ptr, value, 0, pe, cell)  # type: ignore[union-attr]
        except (AttributeError, IndexError):
            pass  # nothing cached yet, or no free cell
    if code > 0:
        return _fetch(target, _ADD, value, pe, ctx, "atomic_fetch_add")
    if code:
        fail(code)
    old = cell[0]
    word.pool.append(cell)  # type: ignore[union-attr]
    return old


def atomic_fetch_and(target: Array, value: Number, pe: int, ctx: Ctx | None = None) -> Any:
    """Replaces `target` on PE `pe` by its bitwise and with `value`; returns what was there."""
    return _fetch(target, _AND, value, pe, ctx, "atomic_fetch_and")


def atomic_fetch_or(target: Array, value: Number, pe: int, ctx: Ctx | None = None) -> Any:
    """Replaces `target` on PE `pe` by its bitwise or with `value`; returns what was there."""
    return _fetch(target, _OR, value, pe, ctx, "atomic_fetch_or")


def atomic_fetch_xor(target: Array, value: Number, pe: int, ctx: Ctx | None = None) -> Any:
    """Replaces `target` on PE `pe` by its bitwise xor with `value`; returns what was there."""
    return _fetch(target, _XOR, value, pe, ctx, "atomic_fetch_xor")


def atomic_fetch_nbi(fetch: Array, source: Array, pe: int, ctx: Ctx | None = None) -> None:
    """Reads `source` on PE `pe` into local `fetch`, by the next `quiet`."""
    _fetch_nbi(fetch, source, _FETCH, 0, pe, ctx, "atomic_fetch_nbi")


def atomic_swap_nbi(fetch: Array, target: Array, value: Number, pe: int, ctx: Ctx | None = None) -> None:
    """As `atomic_swap`; `fetch` has what was there after `quiet`."""
    _fetch_nbi(fetch, target, _SWAP, value, pe, ctx, "atomic_swap_nbi")


def atomic_compare_swap_nbi(
    fetch: Array, target: Array, cond: Number, value: Number, pe: int, ctx: Ctx | None = None
) -> None:
    """As `atomic_compare_swap`; `fetch` has what was there after `quiet`."""
    _fetch_nbi(fetch, target, _COMPARE_SWAP, value, pe, ctx, "atomic_compare_swap_nbi", cond)


def atomic_fetch_inc_nbi(fetch: Array, target: Array, pe: int, ctx: Ctx | None = None) -> None:
    """As `atomic_fetch_inc`; `fetch` has what was there after `quiet`."""
    _fetch_nbi(fetch, target, _ADD, 1, pe, ctx, "atomic_fetch_inc_nbi")


def atomic_fetch_add_nbi(fetch: Array, target: Array, value: Number, pe: int, ctx: Ctx | None = None) -> None:
    """As `atomic_fetch_add`; `fetch` has what was there after `quiet`."""
    _fetch_nbi(fetch, target, _ADD, value, pe, ctx, "atomic_fetch_add_nbi")


def atomic_fetch_and_nbi(fetch: Array, target: Array, value: Number, pe: int, ctx: Ctx | None = None) -> None:
    """As `atomic_fetch_and`; `fetch` has what was there after `quiet`."""
    _fetch_nbi(fetch, target, _AND, value, pe, ctx, "atomic_fetch_and_nbi")


def atomic_fetch_or_nbi(fetch: Array, target: Array, value: Number, pe: int, ctx: Ctx | None = None) -> None:
    """As `atomic_fetch_or`; `fetch` has what was there after `quiet`."""
    _fetch_nbi(fetch, target, _OR, value, pe, ctx, "atomic_fetch_or_nbi")


def atomic_fetch_xor_nbi(fetch: Array, target: Array, value: Number, pe: int, ctx: Ctx | None = None) -> None:
    """As `atomic_fetch_xor`; `fetch` has what was there after `quiet`."""
    _fetch_nbi(fetch, target, _XOR, value, pe, ctx, "atomic_fetch_xor_nbi")


_OPERATIONS = {"set": _SET, "inc": _ADD, "add": _ADD, "and": _AND, "or": _OR, "xor": _XOR}


def _operation(op: AMO | str, value: Number | None, call: str) -> tuple[int, Number]:
    """The core's number of an operation, and its operand: inc is an add of 1 and takes no value."""
    name = str(op).lower()
    number = _OPERATIONS.get(name)
    if number is None:
        raise _ArgumentError(f"{call}: operation {op!r} is none of {', '.join(_OPERATIONS)}")
    if name == "inc":
        return number, 1
    if value is None:
        raise TypeError(f"{call}: operation {name} needs a value")
    return number, value


def atomic_op(target: Array, value: Number | None, op: AMO, pe: int, ctx: Ctx | None = None) -> None:
    """Applies operation `op` (`AMO`) with `value` to `target` on PE `pe`; INC ignores the value."""
    number, operand = _operation(op, value, "atomic_op")
    _update(target, number, operand, pe, ctx, "atomic_op")


def atomic_fetch_op(target: Array, value: Number | None, op: AMO, pe: int, ctx: Ctx | None = None) -> Any:
    """As `atomic_op`; returns what was there. SET is a swap."""
    number, operand = _operation(op, value, "atomic_fetch_op")
    return _fetch(target, _SWAP if number == _SET else number, operand, pe, ctx, "atomic_fetch_op")


def atomic_fetch_op_nbi(
    fetch: Array, target: Array, value: Number | None, op: AMO, pe: int, ctx: Ctx | None = None
) -> None:
    """As `atomic_fetch_op`; `fetch` has what was there after `quiet`."""
    number, operand = _operation(op, value, "atomic_fetch_op_nbi")
    code = _SWAP if number == _SET else number
    _fetch_nbi(fetch, target, code, operand, pe, ctx, "atomic_fetch_op_nbi")
