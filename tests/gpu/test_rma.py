"""Host-started calls in all four directions, on CuPy and PyTorch arrays."""

from __future__ import annotations

import numpy as np
import pytest

SIZES = [1, 7, 1000, 300_001]


def _make(job, cp, kind: str, values: np.ndarray):
    """A symmetric array of `kind` with these values, or with "local" in it one of this PE alone."""
    if kind == "host":
        return job.array(values)
    if kind == "gpu":
        return job.array(values, device="cuda")
    return values.copy() if kind == "local host" else cp.asarray(values)


def _host(a) -> np.ndarray:
    return a.get() if hasattr(a, "get") else np.asarray(a)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("source", ["host", "gpu", "local host", "local gpu"])
@pytest.mark.parametrize("target", ["host", "gpu"])
def test_put(job, cp, around, meet, target, source, n):
    me, _, after, before = around
    values = np.arange(n, dtype="float32")
    to, there = _make(job, cp, target, np.zeros_like(values)), _make(job, cp, source, values + me)
    for call in (job.put, job.put_nbi):
        to[...] = 0
        meet()
        call(to, there, after)
        job.quiet()
        job.barrier_all()
        assert (_host(to) == values + before).all(), call.__name__
        meet()
    for a in (to, there):
        if job.is_symmetric(a):
            job.free(a)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("target", ["host", "gpu", "local host", "local gpu"])
@pytest.mark.parametrize("source", ["host", "gpu"])
def test_get(job, cp, around, meet, target, source, n):
    me, _, after, _ = around
    values = np.arange(n, dtype="int64")
    there, to = _make(job, cp, source, values + me), _make(job, cp, target, np.zeros_like(values))
    for call in (job.get, job.get_nbi):
        to[...] = 0
        meet()
        call(to, there, after)
        job.quiet()
        assert (_host(to) == values + after).all(), call.__name__
        meet()
    for a in (to, there):
        if job.is_symmetric(a):
            job.free(a)


def test_put_waits_for_the_current_stream(job, cp, around, meet):
    """What a stream that is still busy will have written is what arrives."""
    me, _, after, before = around
    a = job.zeros(1 << 22, "float32", device="cuda")
    source = cp.zeros_like(a)
    meet()
    with cp.cuda.Stream(non_blocking=True):
        for _ in range(20):
            source += 1
        source += me
        job.put(a, source, after)
    job.barrier_all()
    assert (a == 20 + before).all()
    meet()
    job.free(a)


def test_torch_on_either_side(job, cp, device, around, meet):
    torch = pytest.importorskip("torch")
    me, _, after, before = around
    a = device.torch(job.zeros(100, "float32", device="cuda"))
    job.put(a, torch.full((100,), me + 1.0, device="cuda"), after)
    job.barrier_all()
    assert (a.cpu() == before + 1).all()
    back = torch.zeros(100)
    job.get(back, a, after)
    assert (back == me + 1).all()
    b = device.torch(job.zeros(8, "int16", device="cuda")).view(torch.bfloat16)
    job.put(b, torch.full((8,), 1.5, dtype=torch.bfloat16, device="cuda"), after)
    job.barrier_all()
    assert (b.cpu() == 1.5).all()
    meet()


def test_signal_and_size(job, cp, around, meet):
    me, _, after, before = around
    a, sig = job.zeros(50, "int32", device="cuda"), job.zeros(1, "uint64", device="cuda")
    job.put_signal(a, cp.full(50, me, "int32"), after, sig, 5, job.SIGNAL_SET, size=20)
    assert job.signal_wait_until(sig, job.CMP_EQ, 5) == 5
    assert (a[:20] == before).all() and not a[20:].any()
    meet()
    job.free(a)
    job.free(sig)
