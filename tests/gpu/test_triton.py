"""Triton kernels that store to peers, put, signal, wait and meet. With SHMEM_NODE_ID=/1 each PE is a
node, whose kernels reach the others by the path of SHMEM_GPU_NIC (run.sh); `peer` is not for these."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

_KERNELS = Path(__file__).parent / "triton_kernels.py"


@pytest.fixture(scope="module")
def kernels(device):
    pytest.importorskip("triton")
    spec = importlib.util.spec_from_file_location("gpu_triton_kernels", _KERNELS)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def torch(device):
    return pytest.importorskip("torch")


@pytest.fixture
def state(kernels):
    from pyshmem.device import triton as shmem_triton

    return shmem_triton.state()


@pytest.fixture
def mapped(state):
    if state.nic is not None:
        pytest.skip("stores to peers, and they are not mapped")


def test_who(kernels, torch, state, around, meet):
    me, n, _, _ = around
    out = torch.zeros(2, dtype=torch.int32, device="cuda")
    kernels.who[(1,)](out, state)
    meet()
    assert out.tolist() == [me, n]


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_peer(job, kernels, torch, device, state, around, meet, mapped, dtype):
    me, _, after, before = around
    a, b = (job.full(8192, v, dtype, device="cuda") for v in (0, me + 1))
    to, source = device.torch(a), device.torch(b)
    back = torch.zeros_like(to)
    meet()
    kernels.store_and_load[(8,)](to, source, back, after, state, N=1024)
    meet()
    assert (to == before + 1).all() and (back == after + 1).all()
    meet()
    del to, source
    job.free(a)
    job.free(b)


@pytest.mark.parametrize("warps", [1, 4, 8])
def test_signals_and_barrier(job, kernels, torch, device, state, around, meet, mapped, warps):
    me, _, after, before = around
    a, b = job.zeros(2048, "int32", device="cuda"), job.full(2048, 10 * me, "int32", device="cuda")
    sig = job.zeros(1, "int64", device="cuda")
    ok = torch.zeros(1, dtype=torch.int32, device="cuda")
    rounds = 5
    meet()
    kernels.signals[(1,)](
        device.torch(a), device.torch(b), device.torch(sig), ok, after, rounds, state, N=2048, num_warps=warps
    )
    meet()
    assert int(ok) == 2 * rounds and (a == 10 * before + rounds).all() and int(sig[0]) == rounds
    meet()
    for x in (a, b, sig):
        job.free(x)


@pytest.mark.parametrize("warps", [1, 4, 8])
def test_put_signals_and_barrier(job, kernels, torch, device, state, around, meet, warps):
    me, _, after, before = around
    a, c = (job.zeros(2048, "int32", device="cuda") for _ in range(2))
    b = job.full(2048, 10 * me, "int32", device="cuda")
    sig = job.zeros(1, "int64", device="cuda")
    ok = torch.zeros(1, dtype=torch.int32, device="cuda")
    rounds = 5
    meet()
    tensors = [device.torch(x) for x in (a, b, c, sig)]
    kernels.exchange[(1,)](*tensors, ok, after, rounds, state, N=2048, num_warps=warps)
    meet()
    assert int(ok) == 2 * rounds and (a == 10 * before + rounds).all() and int(sig[0]) == rounds
    meet()
    del tensors
    for x in (a, b, c, sig):
        job.free(x)


def test_add_and_wait_for_all(job, kernels, torch, device, state, around, meet):
    me, n, _, _ = around
    sig = job.zeros(1, "int64", device="cuda")
    ok = torch.zeros(1, dtype=torch.int32, device="cuda")
    meet()
    kernels.count[(16,)](device.torch(sig), 16 * n, ok, state)
    meet()
    assert me != 0 or (int(ok) == 1 and int(sig[0]) == 16 * n)
    for warps in (1, 8):
        meet()
        sig[:] = 0
        torch.cuda.synchronize()
        kernels.own[(1,)](device.torch(sig), ok, state, num_warps=warps)
        meet()
        assert int(ok) == 4 and int(sig[0]) == 6
    meet()
    job.free(sig)


def test_puts(job, kernels, torch, device, state, around, meet):
    """By the calls that any PE is good for, mapped or not."""
    me, _, after, before = around
    count = 700
    to, source = (
        job.zeros(4 * count, "float32", device="cuda"),
        job.full(count, me + 1, "float32", device="cuda"),
    )
    back, sig = job.zeros(count, "float32", device="cuda"), job.zeros(1, "uint64", device="cuda")
    ok = torch.zeros(1, dtype=torch.int32, device="cuda")
    meet()
    arguments = [device.torch(x) for x in (to, source, sig, back)]
    kernels.ring[(1,)](*arguments, ok, after, count, state)
    meet()
    assert int(ok) == 4 and int(sig[0]) == 6 and (to == before + 1).all() and (back == after + 1).all()
    meet()
    del arguments
    for x in (to, source, back, sig):
        job.free(x)


def test_values_and_atomics(job, kernels, torch, device, state, around, meet):
    me, n, after, _ = around
    words = [job.zeros(2, kind, device="cuda") for kind in ("float32", "float16", "int32", "uint64")]
    ok = torch.zeros(1, dtype=torch.int32, device="cuda")
    for pe in range(n):
        meet()
        if pe == me:
            kernels.values[(1,)](*map(device.torch, words), ok, after, state)
            torch.cuda.synchronize()
    meet()
    assert int(ok) == kernels.VALUES
    assert words[0].get().tolist() == [1.5, 0.5] and words[3].get().tolist() == [1 << 63, 27]
    meet()
    for x in words:
        job.free(x)


@pytest.mark.npes(2)
def test_error_of_a_path(job, kernels, torch, device, state, around):
    """A store behind the end of the heap: quiet says so, the host has the cause, and then all goes on."""
    if state.nic is None:
        pytest.skip("needs PEs that are not mapped")
    _, _, after, _ = around
    word, ok = job.zeros(2, "int32", device="cuda"), torch.ones(1, dtype=torch.int32, device="cuda")
    job.barrier_all()
    kernels.astray[(1,)](device.torch(word), 1 << 38, ok, after, state)
    torch.cuda.synchronize()
    assert int(ok) == 0
    if state.posts is None:
        with pytest.raises(job.errors.AddressError):
            device.check()
    else:
        with pytest.raises(job.errors.SystemError, match=r"the NIC: (remote access error|flushed)"):
            device.check()
        device.recover()
    job.barrier_all()
    kernels.astray[(1,)](device.torch(word), 1, ok, after, state)
    torch.cuda.synchronize()
    assert int(ok) == 1
    job.barrier_all()
    assert word.get().tolist() == [0, 5]
    job.free(word)


@pytest.mark.npes(1)
def test_deadline(run_pes):
    code = """
import importlib.util, torch, pyshmem as shmem
from pyshmem import device
from pyshmem.device import triton as shmem_triton
spec = importlib.util.spec_from_file_location("kernels", %r)
kernels = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kernels)
sig = device.torch(shmem.zeros(1, "int64", device="cuda"))
ok = torch.ones(1, dtype=torch.int32, device="cuda")
kernels.endless[(1,)](sig, ok, shmem_triton.state())
try:
    device.synchronize(torch.cuda.current_stream())
except TimeoutError as error:
    print("told:", error)
assert int(ok) == 0
"""
    ran = run_pes(1, code % str(_KERNELS), SHMEM_TIMEOUT="1")
    assert ran.returncode == 0 and "told:" in ran.stdout and "99" in ran.stdout, ran.stdout + ran.stderr
