"""Point-to-point synchronization: wait until, or test whether, elements of this PE's symmetric memory compare
true.

The elements are int32, int64, uint32 or uint64 and are changed by other PEs' puts, atomics and signals. When
a wait returns, or a test is true, what the other PE sent before it (in the order that `fence` gives) is
visible.

The plain forms take one element, `_all`, `_any` and `_some` an array, compared with one value; the
``_vector`` forms compare element i with ``values[i]``. `status` is an optional mask: elements where it is
nonzero are left out. A wait on no element returns at once. Waits end with TimeoutError or PeerDeadError
instead of blocking forever (SHMEM_TIMEOUT).
"""

# ruff: noqa: PT028 (these tests are no tests of pytest's)
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ._core import ffi, lib
from .errors import CLASSES, fail
from .symmetric import SymmetricArray, symmetric, word_of
from .types import CMP, INT_WORDS, Array, Number, Word, comparison

__all__ = [
    "test",
    "test_all",
    "test_all_vector",
    "test_any",
    "test_any_vector",
    "test_some",
    "test_some_vector",
    "wait_until",
    "wait_until_all",
    "wait_until_all_vector",
    "wait_until_any",
    "wait_until_any_vector",
    "wait_until_some",
    "wait_until_some_vector",
]

_ArgumentError = CLASSES[lib.SHMEMX_ERR_ARGUMENT]
_NULL = ffi.NULL
_ALL, _ANY, _SOME = lib.SHMEMX_ALL, lib.SHMEMX_ANY, lib.SHMEMX_SOME
_wait, _test = lib.shmemx_wait_until, lib.shmemx_test
_results: list[Any] = []  # size_t cells, as Word.pool

Status = Sequence[int] | npt.NDArray[np.integer[Any]] | None
Values = Sequence[Number] | Array


def _one(function: Callable[..., int], ivar: Array, cmp: CMP | int | str, value: Number, call: str) -> bool:
    word: Word | None = None
    if type(ivar) is SymmetricArray:
        try:
            if ivar._block.live:
                word, pointer = ivar._word, ivar._ptr
        except AttributeError:
            pass
    if word is None or not word.is_int:
        pointer, word = word_of(ivar, call, "ivar", INT_WORDS)
    number = cmp if type(cmp) is CMP else comparison(cmp, call)
    try:  # word.cell(), without the call
        cell = word.pool.pop()
    except IndexError:
        cell = ffi.new(word.ctype)
    cell[0] = value
    try:
        result = _results.pop()
    except IndexError:
        result = ffi.new("size_t *")
    code = function(word.core, _ALL, pointer, 1, _NULL, _NULL, number, cell, 0, result)
    if code:
        fail(code)
    answer: bool = result[0] != 0
    word.pool.append(cell)
    _results.append(result)
    return answer


def _many(
    function: Callable[..., int], which: int, ivars: Array, cmp: CMP | int | str, values: Any, status: Status,
    vector: bool, call: str,
) -> tuple[int, Any]:  # fmt: skip
    """(the result of C, the indices for _SOME)."""
    pointer, nbytes, dtype = symmetric(ivars, call, "ivars")
    word = INT_WORDS.get(dtype)
    if word is None:
        raise TypeError(f"{call}: ivars has dtype {dtype}; possible are {', '.join(map(str, INT_WORDS))}")
    count = nbytes // word.size
    number = comparison(cmp, call)
    if vector:
        given = np.asarray(values)
        if given.size and given.dtype.kind not in "iu":
            raise TypeError(f"{call}: values has dtype {given.dtype}, integers are needed")
        if given.size < count:
            raise _ArgumentError(f"{call}: {given.size} values for the {count} elements of ivars")
        limits = np.iinfo(dtype)
        given = given.reshape(-1)[:count]
        if count and not (limits.min <= int(given.min()) and int(given.max()) <= limits.max):
            raise OverflowError(f"{call}: values from {given.min()} to {given.max()} do not fit in {dtype}")
        operands = np.ascontiguousarray(given, dtype)
        operand = ffi.from_buffer(operands)
    else:
        operand = ffi.new(word.ctype, values)
    mask, excluded = _NULL, None
    if status is not None:
        excluded = np.ascontiguousarray(np.asarray(status).reshape(-1) != 0, np.intc)
        if excluded.size < count:
            raise _ArgumentError(
                f"{call}: status has {excluded.size} entries for the {count} elements of ivars"
            )
        mask = ffi.from_buffer("int[]", excluded)
    indices = ffi.new("size_t[]", max(count, 1)) if which == _SOME else _NULL
    result = ffi.new("size_t *")
    code = function(word.core, which, pointer, count, indices, mask, number, operand, vector, result)
    if code:
        fail(code)
    return result[0], indices


def _index(found: tuple[int, Any], ivars: Array) -> int | None:
    return found[0] if found[0] < ivars.size else None


def _indices(found: tuple[int, Any]) -> list[int]:
    return list(found[1][0 : found[0]])


def wait_until(ivar: Array, cmp: CMP, value: Number) -> None:
    """Blocks until ``ivar cmp value`` holds.

    Parameters
    ----------
    ivar : array
        Symmetric, one element; this PE's copy is watched.
    cmp : CMP
        The comparison; also ``"=="``, ``"ge"`` and so on.
    value : int
        What it is compared with.

    Raises
    ------
    TimeoutError, PeerDeadError
        After SHMEM_TIMEOUT seconds, or when a PE died.
    """
    _one(_wait, ivar, cmp, value, "wait_until")


def test(ivar: Array, cmp: CMP, value: Number) -> bool:
    """Whether ``ivar cmp value`` holds now; parameters as for `wait_until`."""
    return _one(_test, ivar, cmp, value, "test")


test.__test__ = False  # type: ignore[attr-defined]  # not a test of pytest's


def wait_until_all(ivars: Array, cmp: CMP, value: Number, status: Status = None) -> None:
    """Blocks until ``ivars[i] cmp value`` holds for every element that `status` leaves."""
    _many(_wait, _ALL, ivars, cmp, value, status, False, "wait_until_all")


def wait_until_any(ivars: Array, cmp: CMP, value: Number, status: Status = None) -> int | None:
    """Blocks until ``ivars[i] cmp value`` holds for one element; returns its index, or None if there is none
    to wait for.
    """
    found = _many(_wait, _ANY, ivars, cmp, value, status, False, "wait_until_any")
    return _index(found, ivars)


def wait_until_some(ivars: Array, cmp: CMP, value: Number, status: Status = None) -> list[int]:
    """Blocks until ``ivars[i] cmp value`` holds for at least one element; returns the indices of all such."""
    return _indices(_many(_wait, _SOME, ivars, cmp, value, status, False, "wait_until_some"))


def wait_until_all_vector(ivars: Array, cmp: CMP, values: Values, status: Status = None) -> None:
    """Blocks until ``ivars[i] cmp values[i]`` holds for every element that `status` leaves."""
    _many(_wait, _ALL, ivars, cmp, values, status, True, "wait_until_all_vector")


def wait_until_any_vector(ivars: Array, cmp: CMP, values: Values, status: Status = None) -> int | None:
    """Blocks until ``ivars[i] cmp values[i]`` holds for one element; returns its index, or None if there is
    none to wait for.
    """
    found = _many(_wait, _ANY, ivars, cmp, values, status, True, "wait_until_any_vector")
    return _index(found, ivars)


def wait_until_some_vector(ivars: Array, cmp: CMP, values: Values, status: Status = None) -> list[int]:
    """Blocks until ``ivars[i] cmp values[i]`` holds for at least one element; returns the indices of all
    such.
    """
    return _indices(_many(_wait, _SOME, ivars, cmp, values, status, True, "wait_until_some_vector"))


def test_all(ivars: Array, cmp: CMP, value: Number, status: Status = None) -> bool:
    """Whether ``ivars[i] cmp value`` holds for every element that `status` leaves."""
    return bool(_many(_test, _ALL, ivars, cmp, value, status, False, "test_all")[0] != 0)


def test_any(ivars: Array, cmp: CMP, value: Number, status: Status = None) -> int | None:
    """The index of one element for which ``ivars[i] cmp value`` holds, or None."""
    found = _many(_test, _ANY, ivars, cmp, value, status, False, "test_any")
    return _index(found, ivars)


def test_some(ivars: Array, cmp: CMP, value: Number, status: Status = None) -> list[int]:
    """The indices of the elements for which ``ivars[i] cmp value`` holds."""
    return _indices(_many(_test, _SOME, ivars, cmp, value, status, False, "test_some"))


def test_all_vector(ivars: Array, cmp: CMP, values: Values, status: Status = None) -> bool:
    """Whether ``ivars[i] cmp values[i]`` holds for every element that `status` leaves."""
    return bool(_many(_test, _ALL, ivars, cmp, values, status, True, "test_all_vector")[0] != 0)


def test_any_vector(ivars: Array, cmp: CMP, values: Values, status: Status = None) -> int | None:
    """The index of one element for which ``ivars[i] cmp values[i]`` holds, or None."""
    found = _many(_test, _ANY, ivars, cmp, values, status, True, "test_any_vector")
    return _index(found, ivars)


def test_some_vector(ivars: Array, cmp: CMP, values: Values, status: Status = None) -> list[int]:
    """The indices of the elements for which ``ivars[i] cmp values[i]`` holds."""
    return _indices(_many(_test, _SOME, ivars, cmp, values, status, True, "test_some_vector"))


_tests: tuple[Any, ...] = (test_all, test_any, test_some, test_all_vector, test_any_vector, test_some_vector)
for _function in _tests:
    _function.__test__ = False
