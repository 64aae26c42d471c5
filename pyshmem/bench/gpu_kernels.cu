/* The kernels that `pyshmem bench --device cuda` times (gpu.py says how). Compiled at run time by NVRTC.
 *
 * A ping-pong: PE 0 leads, PE 1 answers, n times, with the numbers first, first + 1, .. as flags, which grow
 * over all launches; half of a round trip is the one-way time. */
#include <shmem_device.h>

typedef unsigned char u8;
typedef unsigned long long u64;

/* Holds the stream until the host has made its calls. Bounded, so nothing can wait for ever behind it. */
extern "C" __global__ void k_hold(u64 ns)
{
    u64 begin, now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(begin));
    do {
        asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    } while (now - begin < ns);
}

/* n rounds of a ping-pong. Each call stands here once, as in a program: what is timed is not the fetching of
 * instructions that stand there twice. */
template <class Put, class Wait> __device__ void play(int n, u64 first, int leads, Put put, Wait wait)
{
    for (int k = 0; k < n + leads; ++k) {
        if (k >= leads)
            wait(first + k - leads);
        if (k < n)
            put(first + k);
    }
}

extern "C" __global__ void k_p(u64 *flag, int n, u64 first, int peer, int leads)
{
    play(
        n, first, leads, [&](u64 i) { shmem::p(flag, i, peer); },
        [&](u64 i) { shmem::wait_until(shmem::thread, flag, shmem::ge, i); });
}

extern "C" __global__ void __launch_bounds__(1024)
    k_put_signal(u8 *dst, const u8 *src, u64 bytes, u64 *sig, int n, u64 first, int peer, int leads)
{
    play(
        n, first, leads,
        [&](u64 i) { shmem::put_signal(shmem::block, dst, src, bytes, sig, i, shmem::signal_set, peer); },
        [&](u64 i) { shmem::signal_wait_until(shmem::block, sig, shmem::ge, i); });
}

/* Two boxes in turn: who answers round i has received it, so box i % 2 is free in round i + 2. */
extern "C" __global__ void __launch_bounds__(1024) k_packets(u8 *boxes, u64 box_bytes, u8 *dst, const u8 *src,
                                                             u64 bytes, int n, u64 first, int peer, int leads)
{
    play(
        n, first, leads,
        [&](u64 i) { shmem::put_packets(shmem::block, boxes + i % 2 * box_bytes, src, bytes, i, peer); },
        [&](u64 i) { shmem::recv_packets(shmem::block, dst, boxes + i % 2 * box_bytes, bytes, i); });
}

template <class Scope>
__device__ void copy(const Scope &scope, u8 *dst, const u8 *src, u64 n, int peer, int get)
{
    if (get)
        shmem::get(scope, dst, src, n, peer);
    else
        shmem::put(scope, dst, src, n, peer);
}

/* Each block its part of the bytes, through a stage of shared memory unless stage_bytes is 0. */
extern "C" __global__ void __launch_bounds__(1024)
    k_bandwidth(u8 *dst, const u8 *src, u64 bytes, int peer, int get, unsigned stage_bytes)
{
    extern __shared__ __align__(128) u8 memory[];
    const u64 part = bytes / gridDim.x, at = part * blockIdx.x;
    if (stage_bytes != 0)
        copy(shmem::stage(memory, stage_bytes), dst + at, src + at, part, peer, get);
    else
        copy(shmem::block, dst + at, src + at, part, peer, get);
    shmem::quiet(shmem::block);
}

extern "C" __global__ void k_fetch_add(u64 *target, int n, int peer, u64 *out)
{
    u64 sum = 0; // each call needs the result of the one before
    for (int i = 0; i < n; ++i)
        sum += shmem::atomic_fetch_add(target, 1 + (sum >> 63), peer);
    *out = sum;
}

extern "C" __global__ void k_meet(int barrier, int n)
{
    for (int i = 0; i < n; ++i) {
        if (barrier)
            shmem::barrier(shmem::warp);
        else
            shmem::sync(shmem::warp);
    }
}
