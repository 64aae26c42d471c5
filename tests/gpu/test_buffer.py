"""Registered NumPy memory beside the GPU heap: for streams, for kernels, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from pyshmem import errors

KERNEL = r"""
#include <shmem_device.h>
extern "C" __global__ void send(float *to, const float *host, int n, int pe)
{
    shmem::put(shmem::block, to, host, n, pe);
    shmem::barrier(shmem::block);
}
extern "C" __global__ void fetch(float *host, const float *from, int n, int pe)
{
    shmem::get(shmem::block, host, from, n, pe);
}"""


@pytest.fixture
def registered(job):
    """Two NumPy arrays on pages of their own."""
    rows = [np.zeros(3 << 18, "float32") for _ in range(2)]  # 3 MiB: malloc maps such blocks alone
    for row in rows:
        job.buffer_register(row)
    yield rows
    for row in rows:
        job.buffer_unregister(row)


def test_streams(job, cp, device, around, meet, registered):
    me, _, after, before = around
    source, target = registered
    source[:] = np.arange(source.size) % 1000 + me
    a = job.zeros(source.size, "float32", device="cuda")
    meet()
    device.stream.put_on_stream(a, source, after)
    device.stream.barrier_on_stream()
    device.stream.get_on_stream(target, a, after)
    device.synchronize()
    assert (cp.asnumpy(a) == np.arange(source.size) % 1000 + before).all()
    assert (target == source).all()
    meet()
    job.free(a)


def test_captured(job, cp, device, around, meet, registered):
    me, _, after, before = around
    source, _ = registered
    a = job.zeros(source.size, "float32", device="cuda")
    stream = cp.cuda.Stream(non_blocking=True)
    meet()
    with stream:
        stream.begin_capture()
        device.stream.put_on_stream(a, source, after)
        graph = stream.end_capture()
    for round in range(3):
        source[:] = 10 * round + me
        graph.launch(stream)
        device.synchronize(stream)
        meet()
        assert (a == 10 * round + before).all()
        meet()
    job.free(a)


def test_kernels(job, cp, device, around, meet, registered):
    me, _, after, before = around
    source, target = registered
    source[:] = np.arange(source.size) % 777 + me
    a = job.zeros(source.size, "float32", device="cuda")
    module = device.RawModule(code=KERNEL)
    meet()
    host = [np.uintp(row.ctypes.data) for row in (source, target)]
    module.get_function("send")((1,), (512,), (a, host[0], np.int32(source.size), np.int32(after)))
    meet()
    assert (cp.asnumpy(a) == np.arange(source.size) % 777 + before).all()
    module.get_function("fetch")((1,), (512,), (host[1], a, np.int32(source.size), np.int32(after)))
    meet()
    assert (target == source).all()
    meet()
    job.free(a)


def test_what_is_refused(job, cp, registered):
    a = job.zeros(10, device="cuda")
    with pytest.raises(errors.ArgumentError, match="symmetric GPU heap"):
        job.buffer_register(a)
    with pytest.raises(errors.ArgumentError, match="overlap"):
        job.buffer_register(registered[0][100:])
    own = cp.zeros(100)
    job.buffer_register(own)
    with pytest.raises(errors.ArgumentError, match="overlap"):
        job.buffer_register(own)
    job.buffer_unregister(own)
    job.free(a)


@pytest.mark.npes(1)
def test_before_the_heap_opens_and_after_the_job(run_pes):
    code = """
import numpy as np, pyshmem as shmem
from pyshmem import device, errors
x = np.arange(3 << 18, dtype="float32")
shmem.init()
shmem.buffer_register(x)
a = shmem.zeros(x.size, "float32", device="cuda")
device.stream.put_on_stream(a, x, 0)
device.synchronize()
assert (a.get() == x).all()
del a
shmem.finalize()
try:
    shmem.buffer_register(x)
except errors.NotInitializedError as error:
    print("told:", error)
"""
    ran = run_pes(1, code)
    assert ran.returncode == 0 and "told:" in ran.stdout, ran.stdout + ran.stderr
