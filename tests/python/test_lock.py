"""Locks: mutual exclusion, test, the object, and misuse."""

from __future__ import annotations

import numpy as np
import pytest

import pyshmem as shmem
from pyshmem import errors


def bump(counter: np.ndarray) -> None:
    """Not atomic on purpose: only the lock keeps it right."""
    value = np.zeros(1, np.int64)
    shmem.get(value, counter, 0)
    shmem.put(counter, value + 1, 0)


@pytest.mark.parametrize("how", ["set", "test", "object", "nonblocking", "with"])
def test_mutual_exclusion(how):
    counter, lock, handle = shmem.zeros(1, np.int64), shmem.Lock(), shmem.new_lock()
    rounds = 40
    for _ in range(rounds):
        if how == "set":
            shmem.set_lock(handle)
            bump(counter)
            shmem.clear_lock(handle)
        elif how == "test":
            while shmem.test_lock(handle):
                pass
            bump(counter)
            shmem.clear_lock(handle)
        elif how == "object":
            assert lock.acquire() is True
            bump(counter)
            lock.release()
        elif how == "nonblocking":
            while not lock.acquire(blocking=False):
                pass
            bump(counter)
            lock.release()
        else:
            with lock:
                bump(counter)
    shmem.barrier_all()
    if shmem.my_pe() == 0:
        assert counter[0] == rounds * shmem.n_pes()
    shmem.barrier_all()
    shmem.free(counter)
    lock.destroy()
    lock.destroy()
    shmem.del_lock(handle)


def test_held_lock_is_seen():
    lock = shmem.new_lock()
    if shmem.my_pe() == 0:
        assert shmem.test_lock(lock) is False
    shmem.barrier_all()
    if shmem.my_pe() != 0:
        assert shmem.test_lock(lock) is True
    shmem.barrier_all()
    if shmem.my_pe() == 0:
        shmem.clear_lock(lock)
    shmem.barrier_all()
    shmem.del_lock(lock)


def test_two_locks_are_independent():
    a, b = shmem.Lock(), shmem.Lock()
    mine = a if shmem.my_pe() == 0 else b
    if shmem.my_pe() < 2:
        with mine:
            shmem.barrier_all()  # both are held here
    else:
        shmem.barrier_all()
    a.destroy()
    b.destroy()


def test_misuse():
    lock = shmem.Lock()
    lock.destroy()
    for call in (lock.acquire, lock.release, lock.__enter__):
        with pytest.raises(errors.ArgumentError, match="was destroyed"):
            call()
    handle = shmem.new_lock()
    for call in (shmem.set_lock, shmem.test_lock, shmem.clear_lock, shmem.del_lock):
        with pytest.raises(TypeError, match=f"{call.__name__}: lock is int"):
            call(3)
        with pytest.raises(errors.AddressError, match="not in the symmetric heap"):
            call(np.zeros(1, np.int64)) if call is not shmem.del_lock else shmem.set_lock(
                np.zeros(1, np.int64)
            )
    small = shmem.zeros(1, np.int16)
    with pytest.raises(TypeError, match="lock has dtype int16; possible are int64"):
        shmem.set_lock(small)
    shmem.barrier_all()
    shmem.del_lock(handle)
    with pytest.raises(errors.AddressError, match="was freed"):
        shmem.set_lock(handle)
    shmem.free(small)
