"""The calls inside @njit kernels, against the same calls from Python; errors when compiled and when run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pyshmem as shmem
from pyshmem import errors

numba = pytest.importorskip("numba", reason="numba is not installed; pip install '.[numba]'")
import pyshmem.numba_cpu  # noqa: E402

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "numba_heat.py"


@numba.njit
def ring(target, source, out, word):
    me, n = shmem.my_pe(), shmem.n_pes()
    right = (me + 1) % n
    shmem.put(target, source, right)
    shmem.put_nbi(target[:1], source[1:2], right, size=1)
    shmem.fence()
    shmem.quiet()
    shmem.barrier_all()
    shmem.get(out, target, right)
    shmem.sync_all()
    old = shmem.atomic_fetch_add(word, 2, 0)
    shmem.atomic_inc(word, 0)
    shmem.barrier_all()
    return old, shmem.atomic_fetch(word, 0)


def test_rma_and_atomics():
    me, n = shmem.my_pe(), shmem.n_pes()
    target, word, out = shmem.zeros(4), shmem.zeros(1, np.int64), np.zeros(4)
    old, new = ring(target, np.arange(4.0) + 10 * me, out, word)
    left = (me - 1) % n
    assert target.tolist() == [10 * left + 1, 10 * left + 1, 10 * left + 2, 10 * left + 3]
    assert out.tolist() == [10 * me + 1, 10 * me + 1, 10 * me + 2, 10 * me + 3]
    assert 0 <= old < new == 3 * n
    shmem.barrier_all()
    shmem.free(target)
    shmem.free(word)


@pytest.mark.parametrize("dtype", [np.int32, np.uint64])
def test_every_atomic(dtype):
    @numba.njit
    def run(a, pe, log):
        shmem.atomic_set(a, 12, pe)
        log[0] = shmem.atomic_fetch_or(a, 3, pe)
        log[1] = shmem.atomic_fetch_and(a, 7, pe)
        log[2] = shmem.atomic_fetch_xor(a, 1, pe)
        log[3] = shmem.atomic_swap(a, 40, pe)
        log[4] = shmem.atomic_compare_swap(a, 40, 41, pe)
        log[5] = shmem.atomic_compare_swap(a, 40, 50, pe)
        log[6] = shmem.atomic_fetch_inc(a, pe)
        shmem.atomic_add(a, 5, pe)
        shmem.atomic_or(a, 128, pe)
        shmem.atomic_and(a, 127, pe)
        shmem.atomic_xor(a, 64, pe)
        log[7] = shmem.atomic_fetch(a, pe)

    a, log = shmem.zeros(1, dtype), np.zeros(8, np.int64)
    run(a, shmem.my_pe(), log)
    assert log.tolist() == [12, 15, 7, 6, 40, 41, 41, 111]
    shmem.free(a)


def test_waits_signals_and_collectives():
    @numba.njit
    def run(flag, data, signal, total, table, every):
        me, n = shmem.my_pe(), shmem.n_pes()
        right = (me + 1) % n
        shmem.atomic_set(flag, 5, right)
        shmem.wait_until(flag, shmem.CMP.EQ, 5)
        seen = shmem.test(flag, shmem.CMP.GT, 5)
        shmem.put_signal(data, np.full(3, float(me)), right, signal, 9, shmem.SIGNAL.SET)
        value = shmem.signal_wait_until(signal, shmem.CMP.NE, 0)
        shmem.barrier_all()
        shmem.sum_reduce(total, data)
        shmem.max_reduce(flag, flag)
        shmem.fcollect(table, data)
        shmem.broadcast(data, total, n - 1)
        shmem.alltoall(every, table)
        return seen, value, shmem.signal_fetch(signal)

    me, n = shmem.my_pe(), shmem.n_pes()
    flag, data, signal = shmem.zeros(1, np.int32), shmem.zeros(3), shmem.new_signal()
    total, table, every = shmem.zeros(3), shmem.zeros((n, 3)), shmem.zeros((n, 3))
    assert run(flag, data, signal, total, table, every) == (False, 9, 9)
    assert (total == n * (n - 1) / 2).all()
    assert table[:, 0].tolist() == [(pe - 1) % n for pe in range(n)]
    assert (data == total).all()
    assert (every == (me - 1) % n).all()
    shmem.barrier_all()
    for array in (flag, data, signal, total, table, every):
        shmem.free(array)


def test_errors_at_run_time():
    @numba.njit
    def put(target, source, pe):
        shmem.put(target, source, pe)

    @numba.njit
    def some(target, source, size):
        shmem.put(target, source, 0, size)

    @numba.njit
    def add(word):
        shmem.atomic_add(word, 1, 0)

    n, a = shmem.n_pes(), shmem.full(4, 7.0)
    with pytest.raises(errors.PEError, match=rf"PE {n} is out of range, 0 to {n - 1}"):
        put(a, np.zeros(4), n)
    with pytest.raises(errors.AddressError, match="not in the symmetric heap"):
        put(np.zeros(4), np.zeros(4), 0)
    for size, text in ((-1, "negative size"), (5, "exceeds")):
        with pytest.raises(ValueError, match=text):
            some(a, np.zeros(9), size)
    with pytest.raises(ValueError, match="one element"):
        add(a.view(np.int64)[:2])
    shmem.barrier_all()
    assert (a == 7).all()
    shmem.free(a)


def test_errors_when_compiled():
    a = shmem.zeros(4)

    def refused(function, *arguments, match):
        with pytest.raises(numba.TypingError, match=match):
            numba.njit(function)(*arguments)

    refused(
        lambda t, s: shmem.put(t, s, 0),
        a,
        np.zeros(4, np.float32),
        match="dtypes of target and source differ",
    )
    refused(lambda t, s: shmem.put(t, s, 0), a[::2], np.zeros(2), match="contiguous array is needed")
    refused(lambda t: shmem.put(t, 3, 0), a, match="source is int64, not an array")
    refused(lambda t: shmem.atomic_add(t, 1, 0), a[:1], match="atomic_add: target has dtype float64")
    refused(lambda t: shmem.wait_until(t, 1, 0), a[:1], match="wait_until: ivar has dtype float64")
    refused(lambda t: shmem.and_reduce(t, t, team=3), a, match="team cannot be given in a kernel")
    shmem.free(a)


@pytest.mark.npes(1)
@pytest.mark.parametrize("n", [1, 2])
def test_example(run_pes, n):
    code = (
        "import runpy, sys\nsys.argv[1:] = '--rows 32 --columns 17 --steps 40'.split()\n"
        f"runpy.run_path({str(EXAMPLE)!r}, run_name='__main__')"
    )
    done = run_pes(n, code) if n > 1 else subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd="/"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "largest difference from NumPy: 0.0e+00" in done.stdout
