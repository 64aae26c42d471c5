"""Halo exchange on GPUs in Numba kernels: heat in a rod, computation and communication in one kernel launch.

    mpirun -n 2 python examples/gpu_numba.py
    mpirun -n 2 python examples/gpu_numba.py --points 4096 --steps 2000

Each PE has a part of the rod and a halo point at each end. In a step every PE stores its outermost points
into the neighbours' halos with p, publishes them with quiet and a signal, and waits for the neighbours'
signals. All steps run in one kernel of one block. PE 0 compares with NumPy. Needs Numba-CUDA, CuPy
and a CUDA GPU.
"""

from __future__ import annotations

import argparse

import cupy as cp
import numpy as np
from numba import cuda

import pyshmem as shmem
from pyshmem import device
from pyshmem.device import numba as shmem_numba


@cuda.jit
def heat(now, then, from_left, from_right, steps, ok):
    """`steps` steps on float64 [points + 2], by one block; signals count them. `ok[0]` is 0 if late."""
    me, n = shmem_numba.my_pe(), shmem_numba.n_pes()
    points = now.size - 2
    thread, threads = cuda.threadIdx.x, cuda.blockDim.x
    for step in range(1, steps + 1):
        if thread == 0:
            if me > 0:
                shmem_numba.p(now[points + 1 :], now[1], me - 1)
            if me < n - 1:
                shmem_numba.p(now, now[points], me + 1)
            shmem_numba.quiet(shmem_numba.thread)  # the halos are there before the signals
            if me > 0:
                shmem_numba.signal_op(from_right, step, shmem_numba.signal_set, me - 1)
            if me < n - 1:
                shmem_numba.signal_op(from_left, step, shmem_numba.signal_set, me + 1)
        if me > 0 and not shmem_numba.signal_wait_until(shmem_numba.block, from_left, shmem_numba.ge, step):
            ok[0] = 0
        if me < n - 1 and not shmem_numba.signal_wait_until(
            shmem_numba.block, from_right, shmem_numba.ge, step
        ):
            ok[0] = 0
        for i in range(1 + thread, points + 1, threads):
            then[i] = 0.5 * now[i] + 0.25 * (now[i - 1] + now[i + 1])
        cuda.syncthreads()
        # Two buffers: a neighbour that is a step ahead writes halos of `then`, which this step does not read.
        now, then = then, now


def reference(points: int, steps: int) -> np.ndarray:
    rod = np.zeros(points + 2)
    rod[0] = 1
    for _ in range(steps):
        rod[1:-1] = 0.5 * rod[1:-1] + 0.25 * (rod[:-2] + rod[2:])
    return rod[1:-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=2048, help="points of the rod (default 2048)")
    parser.add_argument("--steps", type=int, default=1000, help="time steps (default 1000)")
    options = parser.parse_args()
    me, n = shmem.my_pe(), shmem.n_pes()
    if options.points % n or options.points < n or options.steps < 2 or options.steps % 2:
        parser.error(f"--points must be a multiple of the {n} PEs, --steps even and at least 2")

    part = options.points // n
    now, then = (shmem.zeros(part + 2, device="cuda") for _ in range(2))
    from_left, from_right = (shmem.zeros(1, "uint64", device="cuda") for _ in range(2))
    ok = cp.ones(1, "int32")

    milliseconds = 0.0
    for steps in (2, options.steps):  # the first compiles
        for a in (now, then, from_left, from_right):
            a[...] = 0
        if me == 0:
            now[0] = then[0] = 1  # the hot end
        cp.cuda.get_current_stream().synchronize()
        shmem.barrier_all()
        start, end = cp.cuda.Event(), cp.cuda.Event()
        stream = cuda.external_stream(cp.cuda.get_current_stream().ptr)
        start.record()
        heat[1, 512, stream](now, then, from_left, from_right, steps, ok)
        end.record()
        device.synchronize()
        milliseconds = cp.cuda.get_elapsed_time(start, end)
        shmem.barrier_all()

    mine = shmem.array(cp.asnumpy(now[1:-1]))
    whole = shmem.empty(options.points)
    shmem.fcollect(whole, mine)
    fine = shmem.array([int(ok[0])])
    shmem.min_reduce(fine, fine)
    if me == 0:
        difference = np.abs(whole - reference(options.points, options.steps)).max()
        print(
            f"{n} PEs: {options.steps} steps of {options.points} points, "
            f"{1000 * milliseconds / options.steps:.2f} us a step"
        )
        print(f"largest difference from NumPy: {difference:.1e}")
        if difference > 1e-12 or not fine[0]:
            shmem.global_exit(1)
    shmem.barrier_all()


if __name__ == "__main__":
    main()
