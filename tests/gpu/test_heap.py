"""Arrays over the GPU heap: made, filled, viewed, freed, given back when dropped, handed to PyTorch."""

from __future__ import annotations

import gc
import os

import numpy as np
import pytest

# One allocation of fixed size, with SHMEM_DEVICE_SHARING=ipc.
fixed = os.environ.get("SHMEM_DEVICE_SHARING") == "ipc"


def test_kinds_of_new_arrays(job, cp, around):
    me, _, _, _ = around
    zeros = job.zeros((3, 5), "float32", device="cuda")
    ones = job.ones(7, device="cuda")
    full = job.full((2, 2), me + 2, "int64", device="cuda")
    copy = job.array(np.arange(6.0).reshape(2, 3) + me, device="cuda")
    fortran = job.empty((4, 3), "float64", "F", device="cuda")
    for a in (zeros, ones, full, copy, fortran):
        assert type(a) is cp.ndarray and job.is_symmetric(a) and not job.is_symmetric(a + 1)
    assert not zeros.any() and zeros.shape == (3, 5) and (ones == 1).all() and (full == me + 2).all()
    assert (cp.asnumpy(copy) == np.arange(6.0).reshape(2, 3) + me).all()
    assert fortran.flags.f_contiguous and not fortran.flags.c_contiguous
    assert job.is_symmetric(copy[1:]) and zeros.device.id == cp.cuda.runtime.getDevice()
    for a in (zeros, ones, full, copy, fortran):
        job.free(a)
        assert not job.is_symmetric(a)
    with pytest.raises(ValueError, match="device 'gpu'"):
        job.zeros(1, device="gpu")


def test_contents_may_come_from_the_gpu(job, cp):
    source = cp.arange(12, dtype="int32").reshape(3, 4).T
    a = job.array(source, device="cuda")
    assert a.flags.f_contiguous and (a == source).all()
    b = job.array(source, "float32", order="C", device="cuda")
    assert b.flags.c_contiguous and b.dtype == np.float32 and (b == source).all()
    job.free(a)
    job.free(b)


def test_dropped_arrays_are_given_back(job, cp):
    gc.collect()
    job.reclaim()
    _, before, _ = job.heap_info("cuda")
    a = job.zeros(1 << 20, "uint8", device="cuda")
    part = a[100:200]
    host = job.zeros(10)
    del a, host
    gc.collect()
    assert job.reclaim() == 1  # the host array; the view still holds the other
    assert int(part.sum()) == 0
    _, during, _ = job.heap_info("cuda")
    assert during >= before + (1 << 20)
    del part
    gc.collect()
    assert job.reclaim() == 1
    assert job.heap_info("cuda")[1] == before


@pytest.mark.skipif(not fixed, reason="SHMEM_DEVICE_SHARING is not ipc: the heap grows, and is tested so")
def test_heap_of_fixed_size(job, cp):
    total, _, largest = job.heap_info("cuda")
    with pytest.raises(MemoryError, match=r"cannot grow.*SHMEM_DEVICE_SYMMETRIC_SIZE"):
        job.empty(largest + 1, "uint8", device="cuda")
    a = job.empty(largest, "uint8", device="cuda")
    a[-1] = 9
    assert int(a[-1]) == 9 and job.heap_info("cuda")[0] == total
    job.free(a)
    assert "shared by ipc" in job.info()


@pytest.mark.skipif(fixed, reason="SHMEM_DEVICE_SHARING=ipc: the heap has a fixed size, tested above")
def test_heap_grows_and_shrinks(job, cp, meet):
    total = job.heap_info("cuda")[0]
    a = job.empty(200 << 20, "uint8", device="cuda")
    a[-1] = 9
    assert job.heap_info("cuda")[0] >= total + (200 << 20) - (64 << 20)
    meet()
    job.free(a)
    assert job.heap_info("cuda")[0] <= total


def test_peer_view(job, cp, around, meet):
    me, _, after, before = around
    a = job.full(9, me, "int32", device="cuda")
    there = job.ptr(a, after)
    assert type(there) is cp.ndarray and (there == after).all()
    meet()
    there[...] = 100 + me
    meet()
    assert (a == 100 + before).all()
    assert job.ptr(a, job.n_pes()) is None
    meet()
    del there
    job.free(a)


def test_torch_shares_the_memory(job, cp, device):
    torch = pytest.importorskip("torch")
    a = job.zeros((4, 6), "float32", device="cuda")
    t = device.torch(a)
    assert (
        isinstance(t, torch.Tensor) and t.data_ptr() == a.data.ptr and tuple(t.shape) == (4, 6) and t.is_cuda
    )
    t.fill_(3)
    torch.cuda.synchronize()
    assert (a == 3).all() and job.is_symmetric(t) and not job.is_symmetric(t + 1)
    host = job.ones(3)
    assert job.is_symmetric(device.torch(host)) and device.torch(host).sum() == 3
    del t
    job.free(a)
