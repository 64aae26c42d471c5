/* The kernels that `pyshmem bench --gpu-nic` times (gpu_nic.py says how), over public calls alone but for k_doorbell.
 * Compiled at run time by NVRTC. `peer` is on another node: its copy of the heap is not mapped here.
 *
 * Times are of the clock that all SMs share, which may step by a microsecond: each is the sum of many rounds.
 *
 * BENCH_MARKS: a module of k_doorbell alone, since marks cost time, and the other kernels are timed without. */
#ifdef BENCH_MARKS
__device__ unsigned long long marks[4];
#define SHMEMX_IBGDA_MARK(what) marks[what] = clock64()
#endif
#include <shmem_device.h>

typedef unsigned char u8;
typedef unsigned long long u64;

static __device__ __forceinline__ u64 now()
{
    u64 t;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t)::"memory");
    return t;
}

#ifdef BENCH_MARKS

/* ibgda alone. One block of 1 or 32 threads; each posts one word, or a NOP, in each round, and the first waits. ns: time from the
 * call until the last doorbell is about to be rung, or (completion) from the store of the doorbell's register until the entry
 * is seen. No public call posts a NOP, and a public quiet would look at other queue pairs first.
 *
 * A step of the shared clock may be longer than these times, so the SM's cycles are counted. What a cycle took comes from both
 * clocks over all rounds: the SM's rate follows load, power and heat, and the device's attribute is only the highest. */
extern "C" __global__ void k_doorbell(u64 *dst, const u64 *src, int nop, int completion, int rounds, int peer, u64 *ns)
{
    using shmem::detail::ibgda;
    const unsigned lane = threadIdx.x;
    const u64 offset = shmem::detail::offset_of(dst + lane);
    const volatile u64 *mark = marks;
    ibgda::qp &pair = ibgda::mine(peer);
    u64 spent = 0;
    const u64 begin = now(), first = clock64();
    for (int r = 0; r < rounds; ++r) {
        __syncthreads();
        const u64 called = clock64();
        if (nop)
            ibgda::nop(pair);
        else
            ibgda::put(shmem::thread, peer, offset, src + lane, 8);
        __syncthreads();
        if (lane == 0) {
            (void)ibgda::settle_qp(pair);
            spent += completion ? mark[3] - mark[1] : mark[0] - called;
        }
    }
    if (lane == 0)
        *ns = static_cast<u64>(static_cast<double>(spent) * (now() - begin) / (clock64() - first));
}

#else

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

#endif
