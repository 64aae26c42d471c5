"""Signals: data is there when the word has changed; both operations, both forms; misuse."""

from __future__ import annotations

import numpy as np
import pytest

import pyshmem as shmem
from pyshmem import errors


def around() -> tuple[int, int, int]:
    me, n = shmem.my_pe(), shmem.n_pes()
    return me, (me + 1) % n, (me - 1) % n


@pytest.mark.parametrize("dtype", ["i1", "i4", "f8", "c16", "V5"])
@pytest.mark.parametrize("call", [shmem.put_signal, shmem.put_signal_nbi])
def test_data_comes_before_the_signal(call, dtype):
    me, right, left = around()
    kind = np.dtype(dtype)
    target, signal = shmem.zeros(500, kind), shmem.new_signal()

    def data(pe: int, step: int) -> np.ndarray:
        return np.full(500 * kind.itemsize, (pe + 3 * step) % 100, np.uint8).view(kind)

    for step in range(1, 20):
        if step % 2:
            call(target, data(me, step), right, signal, step, shmem.SIGNAL.SET)
        else:
            call(target, data(me, step), right, signal, 1, shmem.SIGNAL_ADD, ctx=shmem.CTX_DEFAULT)
        assert shmem.signal_wait_until(signal, shmem.CMP.GE, step) == step
        assert np.asarray(target).tobytes() == data(left, step).tobytes()
        shmem.barrier_all()
    assert shmem.signal_fetch(signal) == signal[0] == 19
    shmem.free(target)
    shmem.del_signal(signal)


def test_sizes_and_signals_without_data():
    me, right, left = around()
    target, signal = shmem.full(4, -1, np.int64), shmem.new_signal()
    assert shmem.signal_fetch(signal) == 0
    shmem.barrier_all()
    shmem.put_signal(target, np.full(9, me), right, signal, 2**64 - 1, shmem.SIGNAL.SET, size=2)
    assert shmem.signal_wait_until(signal, "!=", 0) == 2**64 - 1
    assert target.tolist() == [left, left, -1, -1]
    shmem.barrier_all()
    shmem.put_signal(target, np.full(4, 9), right, signal, 2, shmem.SIGNAL.ADD, size=0)  # wraps around
    assert shmem.signal_wait_until(signal, "<", 5) == 1
    assert target[0] == left
    shmem.barrier_all()
    shmem.signal_set(signal, 100, right)
    shmem.signal_wait_until(signal, "==", 100)
    shmem.barrier_all()
    for pe in range(shmem.n_pes()):
        shmem.signal_add(signal, 1, pe)
    shmem.signal_wait_until(signal, "==", 100 + shmem.n_pes())
    shmem.wait_until(signal, "==", 100 + shmem.n_pes())  # a signal is a word like others
    shmem.barrier_all()
    shmem.del_signal(signal)
    shmem.free(target)


def test_any_symmetric_uint64_is_a_signal():
    _, right, _ = around()
    words = shmem.zeros(4, np.uint64)
    shmem.put_signal(words[1:2], np.array([5], np.uint64), right, words[3:], 8, shmem.SIGNAL.SET)
    assert shmem.signal_wait_until(words[3:], "==", 8) == 8
    assert words.tolist() == [0, 5, 0, 8]
    shmem.barrier_all()
    shmem.free(words)


def test_misuse():
    n = shmem.n_pes()
    target, signal, words = shmem.full(4, 7.0), shmem.new_signal(), shmem.zeros(1, np.int64)
    x = np.zeros(4)
    for call in (shmem.put_signal, shmem.put_signal_nbi):
        with pytest.raises(errors.PEError, match=rf"PE {n} is out of range, 0 to {n - 1}"):
            call(target, x, n, signal, 1, shmem.SIGNAL.SET)
        with pytest.raises(errors.ArgumentError, match=r"sigop 9 is neither SIGNAL.SET nor SIGNAL.ADD"):
            call(target, x, 0, signal, 1, 9)
        for value in (-1, 2**64):
            with pytest.raises(OverflowError, match=f"{value} does not fit in uint64"):
                call(target, x, 0, signal, value, shmem.SIGNAL.SET)
        with pytest.raises(TypeError, match="signal has dtype int64; possible are uint64"):
            call(target, x, 0, words, 1, shmem.SIGNAL.SET)
        with pytest.raises(errors.AddressError, match="not in the symmetric heap"):
            call(target, x, 0, np.zeros(1, np.uint64), 1, shmem.SIGNAL.SET)
        with pytest.raises(TypeError, match="float64 and int64"):
            call(target, np.zeros(4, int), 0, signal, 1, shmem.SIGNAL.SET)
        with pytest.raises(errors.ArgumentError, match="size 5 exceeds the 4 elements"):
            call(target, np.zeros(5), 0, signal, 1, shmem.SIGNAL.SET, size=5)
    with pytest.raises(errors.ArgumentError, match="comparison 'x'"):
        shmem.signal_wait_until(signal, "x", 0)
    with pytest.raises(errors.ArgumentError, match="signal has 4 elements"):
        shmem.signal_fetch(shmem.zeros(4, np.uint64))
    with pytest.raises(TypeError, match="signal is int"):
        shmem.signal_fetch(3)
    shmem.barrier_all()
    assert signal[0] == 0
    assert (target == 7).all()
    shmem.del_signal(signal)
    with pytest.raises(errors.AddressError, match="was freed"):
        shmem.signal_fetch(signal)
    with pytest.raises(errors.AddressError, match="was freed"):
        shmem.del_signal(signal)
    shmem.free(target)
