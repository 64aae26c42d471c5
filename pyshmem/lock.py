"""Locks: mutual exclusion between all PEs of the job, fair in the order of asking.

A lock is a symmetric array of one C long (int64), zero when free; `new_lock` makes one.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from ._core import ffi, lib
from .errors import CLASSES, check
from .heap import free, new_array
from .symmetric import SymmetricArray, word_of
from .types import INT_WORDS, Array, CData

__all__ = ["Lock", "LockHandle", "clear_lock", "del_lock", "new_lock", "set_lock", "test_lock"]

LockHandle: TypeAlias = SymmetricArray
"""A lock: a symmetric array of one C long."""

_LONG = np.dtype(np.int_ if np.dtype(np.int_).itemsize == ffi.sizeof("long") else np.int32)
_WORDS = {_LONG: INT_WORDS[_LONG]}


def _address(lock: Array, call: str) -> CData:
    return ffi.cast("long *", word_of(lock, call, "lock", _WORDS)[0])


def new_lock() -> LockHandle:
    """Makes a lock that nobody has. Collective."""
    return new_array(1, _LONG, align=64)


def del_lock(lock: LockHandle) -> None:
    """Frees a lock. Collective; nobody may hold it or wait for it."""
    _address(lock, "del_lock")
    free(lock)


def set_lock(lock: LockHandle) -> None:
    """Waits for the lock and takes it.

    Raises
    ------
    TimeoutError, PeerDeadError
        After SHMEM_TIMEOUT seconds, or when the holder died.
    """
    check(lib.shmemx_set_lock(_address(lock, "set_lock")))


def test_lock(lock: LockHandle) -> bool:
    """Takes the lock if it is free. Returns False if it is now this PE's, True if somebody has it."""
    busy = ffi.new("int *")
    check(lib.shmemx_test_lock(_address(lock, "test_lock"), busy))
    return bool(busy[0])


test_lock.__test__ = False  # type: ignore[attr-defined]  # not a test of pytest's


def clear_lock(lock: LockHandle) -> None:
    """Completes this PE's operations and gives the lock to the next PE that waits."""
    check(lib.shmemx_clear_lock(_address(lock, "clear_lock")))


class Lock:
    """A lock as an object; ``with lock:`` holds it. Making and destroying it is collective."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock: LockHandle | None = new_lock()

    def _handle(self, call: str) -> LockHandle:
        if self._lock is None:
            raise CLASSES[lib.SHMEMX_ERR_ARGUMENT](f"Lock.{call}: the lock was destroyed")
        return self._lock

    def destroy(self) -> None:
        """Frees the lock. Collective. Calling it again does nothing."""
        lock, self._lock = self._lock, None
        if lock is not None:
            del_lock(lock)

    def acquire(self, blocking: bool = True) -> bool:
        """Takes the lock, waiting for it if `blocking`. Returns whether this PE has it now."""
        lock = self._handle("acquire")
        if blocking:
            set_lock(lock)
            return True
        return not test_lock(lock)

    def release(self) -> None:
        """Completes this PE's operations and gives the lock up."""
        clear_lock(self._handle("release"))

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *args: object) -> None:
        self.release()
