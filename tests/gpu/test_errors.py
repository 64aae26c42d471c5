"""What is wrong is an exception with the values; nothing is written, the process goes on."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

_spec = importlib.util.spec_from_file_location("gpu_kernels", Path(__file__).parent / "kernels.py")
assert _spec is not None and _spec.loader is not None
sources = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sources)


def test_arguments(job, cp, device, around, meet):
    _, n, _, _ = around
    a = job.zeros((6, 4), "float32", device="cuda")
    plain = cp.zeros((6, 4), "float32")
    put, on_stream = job.put, device.stream.put_on_stream
    for call in (put, on_stream):
        with pytest.raises(IndexError):
            call(a, plain, n)
        with pytest.raises(IndexError):
            call(a, plain, -1)
        with pytest.raises(TypeError, match="dtypes of target and source differ: float32 and float64"):
            call(a, plain.astype("float64"), 0)
        with pytest.raises(ValueError, match=r"target .* is not in a block of the symmetric heap"):
            call(plain, a, 0)
        with pytest.raises(ValueError, match=r"target is not contiguous: shape .6, 2."):
            call(a[:, :2], plain, 0)
        with pytest.raises(ValueError, match="size 25 exceeds the 24 elements"):
            call(a, plain, 0, size=25)
    with pytest.raises(TypeError, match="source is list"):
        put(a, [1.0], 0)
    with pytest.raises(TypeError, match="stream is str"):
        on_stream(a, plain, 0, stream="default")
    with pytest.raises(ValueError, match="host memory"):
        on_stream(job.zeros((6, 4), "float32"), plain, 0)
    with pytest.raises(TypeError, match="one uint64"):
        device.stream.signal_wait_on_stream(a, "==", 1)
    with pytest.raises(ValueError, match="elements"):
        device.stream.fcollect_on_stream(a, a, size=24 if n > 1 else 25)
    assert not a.any()
    meet()
    job.free(a)


def test_use_after_free(job, cp, device, meet):
    a = job.zeros(10, device="cuda")
    view = a[2:5]
    meet()
    job.free(a)
    for call in (
        lambda: job.put(a, np.zeros(10), 0),
        lambda: job.get(view, view, 0),
        lambda: device.stream.put_on_stream(view, view, 0),
        lambda: job.free(a),
    ):
        with pytest.raises(ValueError, match="freed"):
            call()


def test_other_device(job, cp, device, meet):
    """Memory of another GPU; with one GPU there is none."""
    here, count = cp.cuda.runtime.getDevice(), cp.cuda.runtime.getDeviceCount()
    a = job.zeros(4, device="cuda")
    if count > 1:
        with cp.cuda.Device((here + 1) % count):
            other = cp.zeros(4)
        for call in (job.put, device.stream.put_on_stream):
            with pytest.raises(
                ValueError, match=f"on GPU {(here + 1) % count}, the GPU heap of this PE on GPU {here}"
            ):
                call(a, other, 0)
        with cp.cuda.Device((here + 1) % count), pytest.raises(ValueError, match="the current device is GPU"):
            device.RawKernel(sources.ERRORS, "bad_pe")
    meet()
    job.free(a)


def test_source_without_the_header(cp, device):
    with pytest.raises(ValueError, match="no symbol shmem_device_state"):
        device.RawKernel('extern "C" __global__ void nothing() {}', "nothing")


def test_kernel_errors_reach_the_host(job, cp, device, around, meet):
    _, n, _, _ = around
    module = device.RawModule(sources.ERRORS, options=("-DSHMEM_DEVICE_CHECKS",))
    word = job.zeros(1, "int64", device="cuda")
    meet()
    module.get_function("bad_pe")((2,), (32,), (word, cp.int32(n + 3)))
    with pytest.raises(IndexError, match=str(n + 3)):
        device.synchronize()
    device.check()  # told once
    module.get_function("bad_address")((1,), (1,), (cp.zeros(1, "int64"),))
    with pytest.raises(ValueError, match=r"address|0x"):
        device.synchronize()
    assert not word.any()
    meet()  # PE 0 has looked
    module.get_function("bad_pe")((1,), (1,), (word, cp.int32(0)))  # and works on
    meet()
    job.free(word)


@pytest.mark.npes(1)
def test_deadline_in_kernels_and_on_streams(run_pes):
    code = """
import time, cupy as cp, pyshmem as shmem
from pyshmem import device
SOURCE = %r
word, ok = shmem.zeros(1, "int64", device="cuda"), cp.ones(1, "int32")
start = time.monotonic()
device.RawKernel(SOURCE, "endless")((1,), (1,), (word, ok))
try:
    device.synchronize()
except TimeoutError as error:
    print("kernel:", error)
assert int(ok[0]) == 0
device.stream.signal_wait_on_stream(word, ">=", 7)
try:
    device.synchronize()
except TimeoutError as error:
    print("stream:", error)
assert time.monotonic() - start < 20
shmem.finalize()
print("done")
"""
    ran = run_pes(1, code % sources.ERRORS, SHMEM_TIMEOUT="1")
    assert ran.returncode == 0, ran.stderr
    assert "kernel:" in ran.stdout and "stream:" in ran.stdout and "done" in ran.stdout, (
        ran.stdout + ran.stderr
    )


@pytest.mark.npes(1)
def test_a_second_job_in_one_process(run_pes):
    code = """
import cupy as cp, pyshmem as shmem
from pyshmem import device
SOURCE = '#include <shmem_device.h>\\nextern "C" __global__ void set(int *a, int v) { shmem::p(a, v, 0); }'
shmem.init()
try:
    device.RawKernel(SOURCE, "set")
except shmem.ShmemError as error:
    print(error)
a = shmem.zeros(1, "int32", device="cuda")
kernel = device.RawKernel(SOURCE, "set")
for job in range(3):
    kernel((1,), (1,), (a, cp.int32(job + 5)))
    device.synchronize()
    assert int(a[0]) == job + 5
    old = a
    shmem.finalize()
    shmem.init()
    try:
        shmem.put(old, old, 0)
        raise SystemExit("a put to memory of an earlier job")
    except ValueError as error:
        pass
    a = shmem.zeros(1, "int32", device="cuda")
print("done")
"""
    ran = run_pes(1, code)
    assert ran.returncode == 0 and "no GPU heap yet" in ran.stdout and "done" in ran.stdout, (
        ran.stdout + ran.stderr
    )
