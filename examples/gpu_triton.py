"""A Triton kernel that computes and sends at once: each block of the result goes to the peer as it is made.

    mpirun -n 2 python examples/gpu_triton.py
    mpirun -n 2 python examples/gpu_triton.py --elements 16777216

Every PE computes y = silu(x) * w and stores it straight into the next PE's memory, then signals; the second
kernel waits for the signal and checks. The same in two steps (compute to own memory, then a put on the
stream) is timed beside it. Needs PyTorch, Triton, CuPy and a CUDA GPU.
"""

from __future__ import annotations

import argparse

import torch
import triton
import triton.language as tl

import pyshmem as shmem
from pyshmem import device
from pyshmem.device import triton as shmem_triton


@triton.jit
def silu_to_peer(x, w, y, sig, n, pe, state, BLOCK: tl.constexpr):
    """A block of y = silu(x) * w, stored to PE `pe`; each program adds 1 to its signal when it is there."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    a = tl.load(x + i, mask=i < n).to(tl.float32)
    b = tl.load(w + i, mask=i < n).to(tl.float32)
    tl.store(shmem_triton.peer(y, pe, state) + i, a * tl.sigmoid(a) * b, mask=i < n)
    shmem_triton.signal_add(sig, 1, pe, state)


@triton.jit
def wait_all(sig, programs, ok, state):
    """One program: all of the previous PE's programs have signalled."""
    arrived = shmem_triton.signal_wait(sig, programs, state)
    tl.store(ok, arrived.to(tl.int32))


@triton.jit
def silu(x, w, y, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    a = tl.load(x + i, mask=i < n).to(tl.float32)
    b = tl.load(w + i, mask=i < n).to(tl.float32)
    tl.store(y + i, a * tl.sigmoid(a) * b, mask=i < n)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--elements", type=int, default=1 << 22, help="float32 elements (default 4194304)")
    parser.add_argument("--rounds", type=int, default=20, help="timed repetitions (default 20)")
    options = parser.parse_args()
    n, block = options.elements, 2048
    if n < 1 or options.rounds < 1:
        parser.error("--elements and --rounds must be at least 1")
    programs = triton.cdiv(n, block)

    me, npes = shmem.my_pe(), shmem.n_pes()
    to, source = (me + 1) % npes, (me - 1) % npes
    y = device.torch(shmem.zeros(n, "float32", device="cuda"))
    sig = device.torch(shmem.zeros(1, "int64", device="cuda"))
    state = shmem_triton.state()

    def inputs(pe: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator(device="cuda").manual_seed(pe)
        return (
            torch.randn(n, device="cuda", generator=generator),
            torch.randn(n, device="cuda", generator=generator),
        )

    x, w = inputs(me)
    ok, made = torch.zeros(1, dtype=torch.int32, device="cuda"), torch.empty_like(x)
    stream = torch.cuda.current_stream()

    def fused(round: int) -> None:
        silu_to_peer[(programs,)](x, w, y, sig, n, to, state, BLOCK=block)
        wait_all[(1,)](sig, round * programs, ok, state, num_warps=1)

    def two_steps(_: int) -> None:
        silu[(programs,)](x, w, made, n, BLOCK=block)
        device.stream.put_on_stream(y, made, to, stream=stream)
        device.stream.barrier_on_stream(stream=stream)

    def timed(run: object, first: int) -> float:
        run(first)  # type: ignore[operator]  # compiles
        device.synchronize(stream)
        shmem.barrier_all()
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for round in range(first + 1, first + 1 + options.rounds):
            run(round)  # type: ignore[operator]
        end.record()
        device.synchronize(stream)
        shmem.barrier_all()
        return start.elapsed_time(end) / options.rounds

    apart = timed(two_steps, 0)
    y.zero_()
    torch.cuda.synchronize()
    shmem.barrier_all()
    together = timed(fused, 1)
    a, b = inputs(source)
    error = (y - torch.nn.functional.silu(a) * b).abs().max().item()
    worst = shmem.array([error if int(ok[0]) == 1 else float("inf")])
    shmem.max_reduce(worst, worst)
    if me == 0:
        size = 4 * n / 1e6
        print(
            f"{npes} PEs, {size:.1f} MB each: fused {together:.3f} ms ({size / together:.0f} GB/s), "
            f"compute then put {apart:.3f} ms"
        )
        print(f"largest error: {worst[0]:.1e}")
        if not worst[0] < 1e-4:
            shmem.global_exit(1)  # by the PE that has said why
    shmem.barrier_all()


if __name__ == "__main__":
    main()
