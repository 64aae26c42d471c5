"""A token goes round the ring of GPUs, inside one kernel: put_signal to the next PE, wait for the one before.

    mpirun -n 2 python examples/gpu_ring_cupy.py
    mpirun -n 2 python examples/gpu_ring_cupy.py --bytes 65536 --rounds 500

The kernel is CUDA C++ in a CuPy RawKernel that includes shmem_device.h. Each PE adds 1 to every element on
the way, so that all must have passed through every GPU as often as there were rounds. Needs CuPy and a CUDA
GPU; several PEs may share one GPU, at the cost of time slices.
"""

from __future__ import annotations

import argparse

import cupy as cp

import pyshmem as shmem
from pyshmem import device

KERNEL = r"""
#include <shmem_device.h>

/* One block. buffer [n] and sig are symmetric; staging [n] is any memory of this GPU. */
extern "C" __global__ void ring(unsigned *buffer, unsigned *staging, unsigned long long *sig,
                                unsigned long long n, unsigned rounds, int *ok)
{
    const int me = shmem::my_pe(), next = (me + 1) % shmem::n_pes();
    bool fine = true;
    for (unsigned round = 1; round <= rounds && fine; ++round) {
        if (me != 0 || round > 1) // PE 0 starts with what the buffer holds
            fine = shmem::signal_wait_until(shmem::block, sig, shmem::ge, me == 0 ? round - 1 : round);
        for (unsigned long long i = threadIdx.x; i < n; i += blockDim.x)
            staging[i] = buffer[i] + 1;
        __syncthreads();
        shmem::put_signal(shmem::block, buffer, staging, n, sig, round, shmem::signal_set, next);
    }
    if (me == 0) // the last round comes home
        fine = fine && shmem::signal_wait_until(shmem::block, sig, shmem::ge, rounds);
    if (threadIdx.x == 0)
        *ok = fine;
}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bytes", type=int, default=1024, help="size of the token (default 1024)")
    parser.add_argument("--rounds", type=int, default=200, help="how often it goes round (default 200)")
    options = parser.parse_args()
    n = options.bytes // 4
    if n < 1 or options.rounds < 1:
        parser.error("--bytes must be at least 4, --rounds at least 1")

    me, npes = shmem.my_pe(), shmem.n_pes()
    buffer = shmem.zeros(n, "uint32", device="cuda")
    sig = shmem.zeros(1, "uint64", device="cuda")
    staging, ok = cp.zeros_like(buffer), cp.zeros(1, "int32")
    ring = device.RawKernel(KERNEL, "ring")

    best = float("inf")
    for _ in range(3):
        buffer[...] = 0
        sig[...] = 0
        cp.cuda.get_current_stream().synchronize()
        shmem.barrier_all()
        start, end = cp.cuda.Event(), cp.cuda.Event()
        start.record()
        ring((1,), (256,), (buffer, staging, sig, cp.uint64(n), cp.uint32(options.rounds), ok))
        end.record()
        device.synchronize()  # raises what the kernel reported
        best = min(best, cp.cuda.get_elapsed_time(start, end))
        shmem.barrier_all()

    # PE 0 holds the token of the last round; the others what their predecessor sent in it.
    expected = (options.rounds - 1) * npes + (npes if me == 0 else me)
    wrong = int(cp.count_nonzero(buffer != expected)) + (1 - int(ok[0]))
    total = shmem.array([wrong])
    shmem.sum_reduce(total, total)
    if me == 0:
        hops = options.rounds * npes
        print(
            f"{npes} PEs: {hops} hops of {4 * n} bytes, {1000 * best / hops:.2f} us each; wrong: {total[0]}"
        )
        if total[0]:
            shmem.global_exit(1)  # by the PE that has said why


if __name__ == "__main__":
    main()
