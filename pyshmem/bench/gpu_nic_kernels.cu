/* The kernels that `pyshmem bench --gpu-nic` times (gpu_nic.py says how), over public calls alone. Compiled at run time by
 * NVRTC. `peer` is on another node: its copy of the heap is not mapped here.
 *
 * Times are of the clock that all SMs share, which may step by a microsecond: each is the sum of many rounds. */
#include <shmem_device.h>

typedef unsigned char u8;
typedef unsigned long long u64;

static __device__ __forceinline__ u64 now()
{
    u64 t;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t)::"memory");
    return t;
}

/* One block of 1 or 32 threads; each posts n words of its own, in each round. ns: time until the last lane has posted, the
 * completion not counted. immediate: the value is in a register (p), else in the heap (put_nbi). */
extern "C" __global__ void k_post(u64 *dst, const u64 *src, int n, int rounds, int peer, int immediate, u64 *ns)
{
    u64 spent = 0;
    const unsigned lane = threadIdx.x;
    for (int r = 0; r < rounds; ++r) {
        __syncthreads();
        const u64 begin = now();
        for (int i = 0; i < n; ++i) {
            if (immediate)
                shmem::p(dst + lane, src[lane], peer);
            else
                shmem::put_nbi(shmem::thread, dst + lane, src + lane, 1, peer);
        }
        __syncthreads();
        spent += now() - begin;
        shmem::quiet(shmem::block);
    }
    if (lane == 0)
        *ns = spent;
}

/* One thread, one word, complete before the next. */
extern "C" __global__ void k_put_quiet(u64 *dst, const u64 *src, int n, int peer, u64 *ns)
{
    const u64 begin = now();
    for (int i = 0; i < n; ++i) {
        shmem::put_nbi(shmem::thread, dst, src, 1, peer);
        shmem::quiet(shmem::thread);
    }
    *ns = now() - begin;
}

/* A fetching atomic is an answer of the other side. */
extern "C" __global__ void k_fetch_add(u64 *dst, int n, int peer, u64 *ns)
{
    u64 sum = 0;
    const u64 begin = now();
    for (int i = 0; i < n; ++i) // each call needs the result of the one before
        sum += shmem::atomic_fetch_add(dst, 1 + (sum >> 63), peer);
    *ns = now() - begin + (sum >> 63);
}

/* All threads of all blocks, n messages each, from slot to slot of their own. */
extern "C" __global__ void k_messages(u8 *dst, const u8 *src, u64 bytes, int n, int peer)
{
    const u64 at = ((u64)blockIdx.x * blockDim.x + threadIdx.x) * bytes;
    for (int i = 0; i < n; ++i)
        shmem::put_nbi(shmem::thread, dst + at, src + at, bytes, peer);
    shmem::quiet(shmem::block);
}

/* No NIC: a word to the CPU, which answers in another (shmemx_gpu_echo). false in *ok: no answer in a second. */
extern "C" __global__ void k_ping(u64 *to_cpu, const u64 *from_cpu, int n, u64 first, u64 *ns, int *ok)
{
    const u64 begin = now();
    *ok = 1;
    for (u64 i = first; i < first + n && *ok; ++i) {
        shmem::arch::store_release(to_cpu, i);
        while (shmem::arch::load_acquire(from_cpu) != i)
            if (now() - begin > 1000000000ull + n * 100000ull) {
                *ok = 0;
                break;
            }
    }
    *ns = now() - begin;
}
