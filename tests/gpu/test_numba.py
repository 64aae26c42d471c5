"""The device API from Numba-CUDA kernels."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="module")
def kernels(device):
    pytest.importorskip("numba.cuda")
    spec = importlib.util.spec_from_file_location(
        "gpu_numba_kernels", Path(__file__).parent / "numba_kernels.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("scope", [0, 1, 2])
def test_rma(job, cp, kernels, around, meet, scope):
    me, _, after, before = around
    n = 5000
    a, b = job.zeros(n, "float32", device="cuda"), job.full(n, me + 1, "float32", device="cuda")
    got, sig = cp.zeros(n, "float32"), job.zeros(1, "uint64", device="cuda")
    meet()
    kernels.rma[1, 32 if scope == 1 else 1 if scope == 0 else 128](scope, a, b, got, sig, after)
    meet()
    assert (a == before + 1).all() and (got == after + 1).all() and int(sig[0]) == 11
    meet()
    for x in (a, b, sig):
        job.free(x)


def test_elements(job, cp, kernels, around, meet):
    me, n, after, before = around
    names = ("int32", "int64", "float32", "float64", "uint8")
    arrays = [job.zeros(2, kind, device="cuda") for kind in names]
    out = cp.zeros(8)
    meet()
    kernels.elements[1, 1](*arrays, out, after)
    meet()
    assert out.get().tolist() == [me + 1, me + 1, me + 1.5, me + 1.25, me + 1, n, me, n]
    assert [float(a[0]) for a in arrays] == [before + 1, before + 1, before + 1.5, before + 1.25, before + 1]
    meet()
    for a in arrays:
        job.free(a)


def test_peer(job, cp, device, kernels, around, meet):
    _, _, after, before = around
    a = job.zeros(1, "float64", device="cuda")
    if device.state.current("test")["nic"]:
        job.free(a)
        pytest.skip("stores to peers, and they are not mapped")
    meet()
    kernels.through_peer[1, 1](a, after)
    meet()
    assert float(a[0]) == before + 7
    meet()
    job.free(a)


@pytest.mark.parametrize("dtype", ["int32", "uint32", "int64", "uint64"])
def test_atomics(job, cp, kernels, around, meet, dtype):
    me, n, _, _ = around
    words = job.zeros(8, dtype, device="cuda")
    words[5:] = 15
    out = cp.zeros(4, dtype)
    meet()
    kernels.count[2, 64](words)
    meet()
    total = 128 * n
    if me == 0:
        assert words.get().tolist() == [total, 3 * total, 2 * total, 5 * (total % 2), 8, 6, 15, 15]
    meet()
    kernels.values[1, 1](words[6:], out, me)
    meet()
    assert out.get().tolist() == [15, 7, 7, 3]
    meet()
    job.free(words)


def test_barrier_waits_collectives(job, cp, kernels, around, meet):
    me, n, after, _ = around
    word, sig = job.zeros(1, "int64", device="cuda"), job.zeros(1, "uint64", device="cuda")
    src, dst = job.full(64 * n, me, "float32", device="cuda"), job.zeros(64 * n, "float32", device="cuda")
    out = cp.zeros(8, "float32")
    meet()
    kernels.together[1, 64](word, sig, src, dst, out, after)
    meet()
    # rounds that were right, broadcast of the last PE, last of fcollect, of alltoall, sum, signal, scans
    prefix = me * (me - 1) / 2
    assert out.get().tolist() == [3, n - 1, n - 1, n - 1, n * (n - 1) / 2, 42, prefix + me, prefix]
    meet()
    for x in (word, sig, src, dst):
        job.free(x)


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint64"])
def test_several_words(job, cp, kernels, around, meet, dtype):
    me, n, after, before = around
    words, sig = job.zeros(n, dtype, device="cuda"), job.zeros(1, "uint64", device="cuda")
    a, b = job.zeros(300, "float32", device="cuda"), cp.full(300, me + 1, "float32")
    out = cp.zeros(7)
    meet()
    kernels.several[1, 64](words, a, b, sig, out, after)
    meet()
    assert out.get().tolist() == [1, 1, 0, 0, -1, -1, before + 1]
    meet()
    for x in (words, sig, a):
        job.free(x)


def test_what_is_wrong_is_found_when_compiling(job, cp, kernels, meet):
    from numba.cuda import jit

    a, b = job.zeros(4, "float32", device="cuda"), cp.zeros(4, "float64")
    for kernel, arguments, text in (
        (kernels.put_only, (a, b), "dtypes of target and source differ"),
        (kernels.put_only, (a[::2], a[::2]), "a contiguous array is needed"),
        (kernels.add_only, (a,), "32- and 64-bit integers"),
    ):
        with pytest.raises(Exception, match=text):
            jit(kernel)[1, 1](*arguments)
    assert np.all(a.get() == 0)
    meet()
    job.free(a)
