"""Stream-ordered calls: each alone, in order with kernels of the stream, captured in a graph."""

from __future__ import annotations

import time

import numpy as np
import pytest


@pytest.fixture(params=["current", "cupy", "torch", "address"])
def stream(request, cp):
    """What is handed over as `stream`, and the CuPy stream that it is."""
    if request.param == "current":
        return None, cp.cuda.get_current_stream()
    if request.param == "torch":
        torch = pytest.importorskip("torch")
        made = torch.cuda.Stream()
        return made, cp.cuda.ExternalStream(made.cuda_stream)
    made = cp.cuda.Stream(non_blocking=True)
    return (made, made) if request.param == "cupy" else (made.ptr, made)


def test_put_get_signal(job, cp, device, around, meet, stream):
    me, _, after, before = around
    given, queue = stream
    call = device.stream
    a, b = job.zeros(100_000, "float32", device="cuda"), cp.zeros(100_000, "float32")
    sig = job.zeros(2, "uint64", device="cuda")
    meet()
    with queue:
        b += me + 1
        call.put_on_stream(a, b, after, stream=given)
        call.barrier_on_stream(stream=given)
        assert_in_order = a + 0
        call.barrier_on_stream(stream=given)
        call.put_signal_on_stream(a, b * 2, after, sig[:1], 9, stream=given)
        call.signal_wait_on_stream(sig[:1], "==", 9, stream=given)
        again = a + 0
        call.barrier_on_stream(stream=given)
        call.put_signal_on_stream(a, b, after, sig[1:], 3, job.SIGNAL_ADD, size=10, stream=given)
        call.signal_wait_on_stream(sig[1:], job.CMP_GE, 3, stream=given)
        call.quiet_on_stream(given)
        call.barrier_on_stream(stream=given)
        back = cp.zeros_like(b)
        call.get_on_stream(back, a, after, stream=given)
    device.synchronize(given)
    assert (assert_in_order == before + 1).all() and (again == 2 * (before + 1)).all()
    assert (back[:10] == me + 1).all() and (back[10:] == 2 * (me + 1)).all()
    meet()
    job.free(a)
    job.free(sig)


@pytest.mark.parametrize("elements", [1, 1000, 100_001])
def test_collectives(job, cp, device, around, meet, elements, stream):
    me, n, _, _ = around
    given, queue = stream
    call = device.stream
    src = job.array((np.arange(n * elements) % 1000 + 1000 * me).astype("int32"), device="cuda")
    dst = job.zeros(n * elements, "int32", device="cuda")
    part = src[:elements]
    at = [np.arange(n * elements) % 1000 + 1000 * pe for pe in range(n)]
    meet()
    with queue:
        call.broadcast_on_stream(dst[:elements], part, n - 1, stream=given)
        broadcast = dst[:elements].copy()
        call.fcollect_on_stream(dst, part, stream=given)
        fcollect = dst.copy()
        call.alltoall_on_stream(dst, src, stream=given)
        alltoall = dst.copy()
        sums = {}
        for name, function in (("sum", np.sum), ("max", np.max), ("min", np.min), ("prod", np.prod)):
            getattr(call, f"{name}_reduce_on_stream")(dst, part, stream=given)
            sums[name] = dst[:elements].copy(), function
        for name, function in (("xor", np.bitwise_xor), ("or", np.bitwise_or), ("and", np.bitwise_and)):
            getattr(call, f"{name}_reduce_on_stream")(dst, part, stream=given)
            sums[name] = dst[:elements].copy(), function.reduce
        call.sum_inscan_on_stream(dst, part, stream=given)
        inscan = dst[:elements].copy()
        call.sum_exscan_on_stream(dst, part, stream=given)
        exscan = dst[:elements].copy()
    device.synchronize(given)
    prefix = np.cumsum([np.zeros(elements, "int64")] + [a[:elements] for a in at], axis=0)
    assert (inscan.get() == prefix[me + 1]).all() and (exscan.get() == prefix[me]).all()
    assert (broadcast.get() == at[n - 1][:elements]).all()
    assert (fcollect.get() == np.concatenate([a[:elements] for a in at])).all()
    blocks = [a[me * elements : (me + 1) * elements] for a in at]
    assert (alltoall.get() == np.concatenate(blocks)).all()
    for name, (result, function) in sums.items():
        expected = function(np.array([a[:elements] for a in at], "int32"), axis=0).astype("int32")
        assert (result.get() == expected).all(), name
    meet()
    job.free(src)
    job.free(dst)


@pytest.mark.parametrize("from_host", [False, True])
@pytest.mark.parametrize("elements", [5, 3000])
def test_collect_and_strides(job, cp, device, around, meet, elements, from_host):
    """By the host's calls and by the stream's: blocks of different sizes, every second element."""
    me, n, after, before = around
    src = job.array(np.arange(elements + n) + 100_000 * me, device="cuda")
    dst = job.zeros(2 * n * (elements + n), src.dtype, device="cuda")
    meet()
    collect = job.collect if from_host else device.stream.collect_on_stream
    collect(dst, src, size=elements + me)
    device.synchronize()
    expected = np.concatenate([np.arange(elements + pe) + 100_000 * pe for pe in range(n)])
    assert (dst.get()[: expected.size] == expected).all()
    meet()
    alltoalls = job.alltoalls if from_host else device.stream.alltoalls_on_stream
    alltoalls(dst, src, tst=2, size=1)
    device.synchronize()
    assert (dst.get()[: 2 * n : 2] == np.array([me + 100_000 * pe for pe in range(n)])).all()
    meet()
    job.iput(dst, src, after, tst=2, sst=1, size=elements)
    meet()
    assert (dst.get()[: 2 * elements : 2] == np.arange(elements) + 100_000 * before).all()
    back = np.zeros(elements, src.dtype)
    job.iget(back, dst, after, sst=2, size=elements)
    assert (back == np.arange(elements) + 100_000 * me).all()
    meet()
    job.free(src)
    job.free(dst)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "uint64"])
def test_reduce_dtypes(job, cp, device, around, meet, dtype):
    me, n, _, _ = around
    src = job.array((np.arange(1000) % 7 + me).astype(dtype), device="cuda")
    dst = job.zeros(1000, dtype, device="cuda")
    meet()
    device.stream.sum_reduce_on_stream(dst, src)
    device.synchronize()
    assert (dst.get() == ((np.arange(1000) % 7) * n + n * (n - 1) // 2).astype(dtype)).all()
    meet()
    job.free(src)
    job.free(dst)


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8", "uint64", "complex64", "complex128"])
def test_scans_of_the_host(job, cp, device, around, meet, dtype):
    me, n, _, _ = around
    numbers = (np.arange(1001) % 7).astype(dtype)
    numbers = numbers * (1 + 2j) if "complex" in dtype else numbers
    src, dst = job.array(numbers, device="cuda"), job.zeros(1001, dtype, device="cuda")
    meet()
    job.sum_exscan(dst, src)
    assert (dst.get() == (numbers * me).astype(dtype)).all()
    meet()
    job.sum_inscan(src, src)
    assert (src.get() == (numbers * (me + 1)).astype(dtype)).all()
    if "complex" in dtype:
        job.sum_reduce(dst, src)
        assert (dst.get() == (numbers * (n * (n + 1) // 2)).astype(dtype)).all()
    meet()
    job.free(src)
    job.free(dst)


def test_captured_in_a_graph(job, cp, device, around, meet):
    """Launched three times; every launch moves everybody's numbers one PE on."""
    me, n, after, _ = around
    call = device.stream
    a, b = job.full(1000, me, "int32", device="cuda"), cp.zeros(1000, "int32")
    total, sig = job.zeros(1000, "int32", device="cuda"), job.zeros(2, "uint64", device="cuda")
    stream = cp.cuda.Stream(non_blocking=True)
    with stream:
        call.barrier_on_stream()  # what is set up at the first call of a stream is not captured
        call.sum_reduce_on_stream(total, a)
        stream.synchronize()
        b += 0
        stream.begin_capture()
        cp.copyto(b, a)
        call.barrier_on_stream()
        call.put_signal_on_stream(a, b, after, sig[:1], 1, job.SIGNAL_ADD)
        call.signal_wait_on_stream(sig[:1], ">=", 1)
        call.put_signal_on_stream(a, b, after, sig[1:], 9)  # a node of another kind
        call.signal_wait_on_stream(sig[1:], "==", 9)
        call.barrier_on_stream()
        call.put_signal_on_stream(a, a, me, sig[1:], 0, size=0)
        call.sum_reduce_on_stream(total, a)
        graph = stream.end_capture()
    meet()
    for _ in range(3):
        graph.launch(stream)
    device.synchronize(stream)
    assert (a == (me - 3) % n).all() and (total == n * (n - 1) // 2).all() and sig.get().tolist() == [3, 0]
    meet()
    del graph
    for x in (a, total, sig):
        job.free(x)


FILL = r"""
extern "C" __global__ void __launch_bounds__(1024) fill(volatile unsigned long long *word, int *missed)
{
    if (threadIdx.x == 0) {
        unsigned long long begin, now;
        asm volatile("mov.u64 %0, %globaltimer;" : "=l"(begin));
        while (*word != 5) {
            asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
            if (now - begin > 5000000000ull) {
                atomicAdd(missed, 1);
                break;
            }
        }
    }
    __syncthreads();
}
"""


def test_signal_beside_a_kernel_that_fills_the_gpu(job, cp, device, around, meet):
    """A signal that is set needs no room of a block: the kernel that waits for it may have all."""
    _, _, after, _ = around
    fill = cp.RawKernel(FILL, "fill")
    sig, missed = job.zeros(1, "uint64", device="cuda"), cp.zeros(1, "int32")
    one, other = cp.cuda.Stream(non_blocking=True), cp.cuda.Stream(non_blocking=True)
    with one:
        fill((1,), (1024,), (sig, missed))  # loads it
        device.stream.put_signal_on_stream(sig, sig, after, sig, 5, size=0, stream=other)
    meet()
    sig[...] = 0
    meet()
    blocks = 2 * cp.cuda.Device().attributes["MultiProcessorCount"]  # of 2048 threads each has room for
    with one:
        fill((blocks,), (1024,), (sig, missed))
    time.sleep(0.2)  # until all are there
    device.stream.put_signal_on_stream(sig, sig, after, sig, 5, size=0, stream=other)
    one.synchronize()
    other.synchronize()
    assert int(missed[0]) == 0
    meet()
    job.free(sig)


def test_team(job, cp, device, around, meet):
    me, n, _, _ = around
    evens = job.TEAM_WORLD.split_strided(0, 2, (n + 1) // 2)
    src, dst = job.full(10, me, "int32", device="cuda"), job.zeros(10, "int32", device="cuda")
    meet()
    if me % 2 == 0:
        device.stream.sum_reduce_on_stream(dst, src, team=evens)
        device.stream.barrier_on_stream(evens)
        device.synchronize()
        assert (dst == sum(range(0, n, 2))).all()
    meet()
    evens.destroy()
    job.free(src)
    job.free(dst)
