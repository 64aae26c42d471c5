"""The kernels of `pyshmem.device.probe`: each item by the functions that the library's kernels use, those of
device/arch_*.h, so that a port is measured as it will run."""

from __future__ import annotations

__all__ = ["KERNELS"]

KERNELS = r"""
#include <shmem_device.h>

typedef unsigned long long u64;
using namespace shmem;

/* Waits until *word is `value`; false, and out[1] set, after a second. */
static __device__ bool wait(const u64 *word, u64 value, u64 *out)
{
    const u64 begin = arch::nanoseconds();
    while (arch::load_acquire(word) < value)
        if (arch::nanoseconds() - begin > 1000000000ull) {
            out[1] = 1;
            return false;
        }
    return true;
}

/* words[0] = words[1] + 1 */
extern "C" __global__ void k_store(u64 *words, u64 *out)
{
    arch::store_release(words, arch::load_acquire(words + 1) + 1);
    out[0] = 0;
}

extern "C" __global__ void k_release(u64 *words, int n, u64 *out)
{
    const u64 begin = arch::nanoseconds();
    for (int i = 0; i < n; ++i) {
        arch::store_relaxed(words, (u64)i);
        arch::store_release(words + 8, (u64)i);
    }
    arch::fence();
    out[0] = arch::nanoseconds() - begin;
    out[1] = out[0] > 1000000000ull;
}

/* The CPU's part: shmemx_gpu_echo. */
extern "C" __global__ void k_ping(u64 *to_cpu, const u64 *from_cpu, int n, u64 first, u64 *out)
{
    const u64 begin = arch::nanoseconds();
    bool ok = true;
    for (u64 i = first; ok && i < first + n; ++i) {
        arch::store_release(to_cpu, i);
        ok = wait(from_cpu, i, out);
    }
    out[0] = arch::nanoseconds() - begin;
}

extern "C" __global__ void k_add(u64 *word, int n, u64 *out)
{
    const u64 begin = arch::nanoseconds();
    for (int i = 0; i < n; ++i)
        (void)arch::fetch_add(word, (u64)1);
    __syncthreads();
    if (threadIdx.x == 0)
        out[0] = arch::nanoseconds() - begin;
}

/* All blocks, n times. */
extern "C" __global__ void k_meet(u64 *counter, int n, u64 *out)
{
    __shared__ bool ok;
    const u64 begin = arch::nanoseconds();
    bool goes = true;
    for (int i = 1; i <= n && goes; ++i) {
        if (threadIdx.x == 0) {
            arch::add_release(counter, 1);
            ok = wait(counter, (u64)i * gridDim.x, out);
        }
        __syncthreads();
        goes = ok;
        __syncthreads(); // all have read it
    }
    if (blockIdx.x == 0 && threadIdx.x == 0)
        out[0] = arch::nanoseconds() - begin;
}

/* With naps as the library's waits have them, or without. */
extern "C" __global__ void k_warp(int naps, u64 *out)
{
    const u64 begin = arch::nanoseconds();
    if (threadIdx.x == 0) {
        while (arch::load_acquire(out) == 0 && out[1] == 0) {
            if (naps != 0)
                arch::nap();
            if (arch::nanoseconds() - begin > 1000000000ull)
                out[1] = 1;
        }
    } else if (threadIdx.x == 31) {
        arch::store_release(out, (u64)1);
    }
}

extern "C" __global__ void k_wait(const u64 *flag, u64 *out)
{
    wait(flag, 1, out);
}

extern "C" __global__ void k_set(u64 *flag)
{
    arch::store_release(flag, (u64)1);
}
"""
