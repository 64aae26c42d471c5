/* What the device API needs of an NVIDIA GPU, sm_70 and later; the counterpart of arch_host.h, same names.
 *
 * "System scope" below is PTX's .sys: other GPUs and CPUs observe the access. Remote addresses are always
 * global memory; local sources and targets may be any memory that generic addresses reach, shared memory
 * included.
 * Included by shmem_device.h only. */
#ifndef SHMEM_DEVICE_ARCH_CUDA_H
#define SHMEM_DEVICE_ARCH_CUDA_H

#define SHMEMX_DEVICE_FN __device__ __forceinline__
/* For hosts as well. */
#define SHMEMX_DEVICE_BOTH __host__ __device__ __forceinline__
/* Templates that stay calls: inlined, several in one kernel would spill each other's registers. */
#define SHMEMX_DEVICE_CALL __device__ __noinline__
/* What is rarely run; a source that wants no calls says so before. */
#ifndef SHMEMX_DEVICE_SLOW
#define SHMEMX_DEVICE_SLOW static __device__ __noinline__
#endif
#define SHMEMX_DEVICE_UNROLL _Pragma("unroll")
#define SHMEMX_DEVICE_ROLLED _Pragma("unroll 1")

/* The module's copy of the state: hosts find it by this name and fill it before the first launch. In a
 * program linked from several device objects (-rdc=true) inline makes them share one. A source that has the state
 * elsewhere says where before. */
#ifndef SHMEMX_DEVICE_STATE
#define SHMEMX_DEVICE_STATE shmem_device_state
extern "C" {
#ifdef __CUDACC_RDC__
inline
#endif
    __constant__ shmemx_device_state shmem_device_state;
}
#endif

namespace shmem
{
namespace arch
{

constexpr unsigned warp_width = 32;

SHMEMX_DEVICE_FN const shmemx_device_state &state()
{
    return SHMEMX_DEVICE_STATE;
}

/* ---- who am I ------------------------------------------------------------------------------------------ */

SHMEMX_DEVICE_FN unsigned thread_index()
{
    return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
}
SHMEMX_DEVICE_FN unsigned block_index()
{
    return blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
}
SHMEMX_DEVICE_FN unsigned block_threads()
{
    return blockDim.x * blockDim.y * blockDim.z;
}

/* Position in the scope and number of threads in it. */
SHMEMX_DEVICE_FN unsigned lane(thread_scope)
{
    return 0;
}
SHMEMX_DEVICE_FN unsigned lane(warp_scope)
{
    return thread_index() % warp_width;
}
SHMEMX_DEVICE_FN unsigned lane(block_scope)
{
    return thread_index();
}
SHMEMX_DEVICE_FN unsigned width(thread_scope)
{
    return 1;
}
SHMEMX_DEVICE_FN unsigned width(warp_scope)
{
    return warp_width;
}
SHMEMX_DEVICE_FN unsigned width(block_scope)
{
    return block_threads();
}
/* All blocks of a launch (of one dimension), which have no barrier. */
SHMEMX_DEVICE_FN unsigned lane(grid_scope)
{
    return blockIdx.x * blockDim.x + threadIdx.x;
}
SHMEMX_DEVICE_FN unsigned width(grid_scope)
{
    return gridDim.x * blockDim.x;
}
SHMEMX_DEVICE_FN unsigned blocks()
{
    return gridDim.x;
}

/* The same number, of which the compiler knows nothing: a test of it inside a loop does not make it compile the
 * whole loop twice, once for each outcome. */
SHMEMX_DEVICE_FN u64 opaque(u64 x)
{
    asm volatile("" : "+l"(x));
    return x;
}
/* a / b for numbers of warps and members (below 2^16): the division of integers takes 40 instructions. */
SHMEMX_DEVICE_FN unsigned quotient(unsigned a, unsigned b)
{
    return static_cast<unsigned>(__fdividef(static_cast<float>(a) + 0.5f, static_cast<float>(b)));
}

/* ---- barriers of a scope: every thread's accesses before are visible to every thread after ------------- */

SHMEMX_DEVICE_FN void sync(thread_scope) {}
SHMEMX_DEVICE_FN void sync(warp_scope)
{
    __syncwarp();
}
SHMEMX_DEVICE_FN void sync(block_scope)
{
    __syncthreads();
}
/* A barrier that returns whether `ok` is true in all threads of the scope. */
SHMEMX_DEVICE_FN bool all(thread_scope, bool ok)
{
    return ok;
}
SHMEMX_DEVICE_FN bool all(warp_scope, bool ok)
{
    __syncwarp();
    return __all_sync(0xffffffffu, ok) != 0;
}
SHMEMX_DEVICE_FN bool all(block_scope, bool ok)
{
    return __syncthreads_and(ok) != 0;
}

/* The value of the lane whose number differs by `mask`; the whole warp calls. */
SHMEMX_DEVICE_FN u32 shuffle_xor(u32 v, unsigned mask)
{
    return __shfl_xor_sync(0xffffffffu, v, static_cast<int>(mask));
}

/* A bit for each lane that says yes; the whole warp calls. */
SHMEMX_DEVICE_FN u32 ballot(bool yes)
{
    return __ballot_sync(0xffffffffu, yes);
}
/* The number of the lowest bit that is set; there is one. */
SHMEMX_DEVICE_FN unsigned lowest_bit(u64 x)
{
    return static_cast<unsigned>(__ffsll(static_cast<long long>(x))) - 1;
}
SHMEMX_DEVICE_FN unsigned count_bits(u32 x)
{
    return static_cast<unsigned>(__popc(x));
}
/* Atomics on shared memory, for the threads of a block. */
SHMEMX_DEVICE_FN void shared_add(u32 *p, u32 v)
{
    atomicAdd_block(p, v);
}
SHMEMX_DEVICE_FN void shared_or(u32 *p, u32 v)
{
    atomicOr_block(p, v);
}

/* ---- loads and stores at system scope ----------------------------------------------------------------- */

SHMEMX_DEVICE_FN u8 load_relaxed(const u8 *p)
{
    unsigned v;
    asm volatile("ld.relaxed.sys.global.u8 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return static_cast<u8>(v);
}
SHMEMX_DEVICE_FN u16 load_relaxed(const u16 *p)
{
    u16 v;
    asm volatile("ld.relaxed.sys.global.u16 %0, [%1];" : "=h"(v) : "l"(p) : "memory");
    return v;
}
SHMEMX_DEVICE_FN u32 load_relaxed(const u32 *p)
{
    u32 v;
    asm volatile("ld.relaxed.sys.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
}
SHMEMX_DEVICE_FN u64 load_relaxed(const u64 *p)
{
    u64 v;
    asm volatile("ld.relaxed.sys.global.u64 %0, [%1];" : "=l"(v) : "l"(p) : "memory");
    return v;
}
SHMEMX_DEVICE_FN u32 load_acquire(const u32 *p)
{
    u32 v;
    asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
}
SHMEMX_DEVICE_FN u64 load_acquire(const u64 *p)
{
    u64 v;
    asm volatile("ld.acquire.sys.global.u64 %0, [%1];" : "=l"(v) : "l"(p) : "memory");
    return v;
}
SHMEMX_DEVICE_FN void store_relaxed(u8 *p, u8 v)
{
    asm volatile("st.relaxed.sys.global.u8 [%0], %1;" ::"l"(p), "r"(static_cast<unsigned>(v)) : "memory");
}
SHMEMX_DEVICE_FN void store_relaxed(u16 *p, u16 v)
{
    asm volatile("st.relaxed.sys.global.u16 [%0], %1;" ::"l"(p), "h"(v) : "memory");
}
SHMEMX_DEVICE_FN void store_relaxed(u32 *p, u32 v)
{
    asm volatile("st.relaxed.sys.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}
SHMEMX_DEVICE_FN void store_relaxed(u64 *p, u64 v)
{
    asm volatile("st.relaxed.sys.global.u64 [%0], %1;" ::"l"(p), "l"(v) : "memory");
}
/* The dear one: 1.5 us across NVLink (H100), since it waits until all earlier stores of this thread, and
 * those it has observed through a barrier, are acknowledged. */
SHMEMX_DEVICE_FN void store_release(u32 *p, u32 v)
{
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}
SHMEMX_DEVICE_FN void store_release(u64 *p, u64 v)
{
    asm volatile("st.release.sys.global.u64 [%0], %1;" ::"l"(p), "l"(v) : "memory");
}
SHMEMX_DEVICE_FN void add_release(u64 *p, u64 v)
{
    asm volatile("red.release.sys.global.add.u64 [%0], %1;" ::"l"(p), "l"(v) : "memory");
}
/* Orders this thread's accesses, and those it has observed, before its later ones, for every observer on any
 * GPU or CPU that reads one of the later stores with an acquire. */
SHMEMX_DEVICE_FN void fence()
{
    asm volatile("fence.acq_rel.sys;" ::: "memory");
}

/* ---- bulk data: plain accesses, 16 bytes at most ------------------------------------------------------- */

using vec16 = ulonglong2;

SHMEMX_DEVICE_FN vec16 make_vec16(u64 a, u64 b)
{
    return make_ulonglong2(a, b);
}
/* A peer's memory: past this SM's cache, which nobody keeps coherent with other GPUs. */
template <class Word> SHMEMX_DEVICE_FN Word load_remote(const Word *p)
{
    return load_relaxed(p);
}
SHMEMX_DEVICE_FN vec16 load_remote(const vec16 *p)
{
    vec16 v;
    asm volatile("ld.relaxed.sys.global.v2.u64 {%0, %1}, [%2];" : "=l"(v.x), "=l"(v.y) : "l"(p) : "memory");
    return v;
}
template <class Word> SHMEMX_DEVICE_FN Word load_plain(const Word *p)
{
    return *p;
}
template <class Word> SHMEMX_DEVICE_FN void store_plain(Word *p, Word v)
{
    *p = v;
}

/* ---- atomics at system scope, relaxed, on global memory ------------------------------------------------ */

/* fetch_.. return the old value; .._relaxed are reductions, which nobody waits for. PTX, because the compiler's
 * own functions take any address: 20 instructions more, to find out that it is not shared memory. */
#define SHMEMX_ATOMIC(name, op, type, suffix, constraint)                                                    \
    SHMEMX_DEVICE_FN type fetch_##name(type *p, type v)                                                      \
    {                                                                                                        \
        type old;                                                                                            \
        asm volatile("atom.relaxed.sys.global." op suffix " %0, [%1], %2;"                                   \
                     : "=" constraint(old)                                                                   \
                     : "l"(p), constraint(v)                                                                 \
                     : "memory");                                                                            \
        return old;                                                                                          \
    }                                                                                                        \
    SHMEMX_DEVICE_FN void name##_relaxed(type *p, type v)                                                    \
    {                                                                                                        \
        asm volatile("red.relaxed.sys.global." op suffix " [%0], %1;" ::"l"(p), constraint(v) : "memory");   \
    }
SHMEMX_ATOMIC(add, "add", u32, ".u32", "r")
SHMEMX_ATOMIC(add, "add", u64, ".u64", "l")
SHMEMX_ATOMIC(and, "and", u32, ".b32", "r")
SHMEMX_ATOMIC(and, "and", u64, ".b64", "l")
SHMEMX_ATOMIC(or, "or", u32, ".b32", "r")
SHMEMX_ATOMIC(or, "or", u64, ".b64", "l")
SHMEMX_ATOMIC(xor, "xor", u32, ".b32", "r")
SHMEMX_ATOMIC(xor, "xor", u64, ".b64", "l")
#undef SHMEMX_ATOMIC
SHMEMX_DEVICE_FN u32 swap(u32 *p, u32 v)
{
    u32 old;
    asm volatile("atom.relaxed.sys.global.exch.b32 %0, [%1], %2;" : "=r"(old) : "l"(p), "r"(v) : "memory");
    return old;
}
SHMEMX_DEVICE_FN u64 swap(u64 *p, u64 v)
{
    u64 old;
    asm volatile("atom.relaxed.sys.global.exch.b64 %0, [%1], %2;" : "=l"(old) : "l"(p), "l"(v) : "memory");
    return old;
}
SHMEMX_DEVICE_FN u32 compare_swap(u32 *p, u32 condition, u32 v)
{
    u32 old;
    asm volatile("atom.relaxed.sys.global.cas.b32 %0, [%1], %2, %3;"
                 : "=r"(old)
                 : "l"(p), "r"(condition), "r"(v)
                 : "memory");
    return old;
}
SHMEMX_DEVICE_FN u64 compare_swap(u64 *p, u64 condition, u64 v)
{
    u64 old;
    asm volatile("atom.relaxed.sys.global.cas.b64 %0, [%1], %2, %3;"
                 : "=l"(old)
                 : "l"(p), "l"(condition), "l"(v)
                 : "memory");
    return old;
}

/* In shared memory. */
SHMEMX_DEVICE_FN void add_shared(u32 *p, u32 v)
{
    (void)atomicAdd(p, v);
}

/* ---- time ---------------------------------------------------------------------------------------------- */

SHMEMX_DEVICE_FN u64 nanoseconds()
{
    u64 t;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t));
    return t;
}
/* Between two polls: nothing, a poll is itself a trip to the L2 cache. */
SHMEMX_DEVICE_FN void relax() {}
/* In a wait that has lasted some milliseconds: leaves the memory system to others. */
SHMEMX_DEVICE_FN void nap()
{
    asm volatile("nanosleep.u32 200;");
}

/* ---- copies into shared memory that run beside the thread ------------------------------------------------ */

/* 16 bytes from global to shared memory, under way until async_wait of the same thread. */
SHMEMX_DEVICE_FN void async_copy(void *shared, const void *global)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                     static_cast<unsigned>(__cvta_generic_to_shared(shared))),
                 "l"(global)
                 : "memory");
}
SHMEMX_DEVICE_FN void async_wait()
{
    asm volatile("cp.async.wait_all;" ::: "memory");
}

/* ---- packets ------------------------------------------------------------------------------------------- */

/* One lane's 16 bytes of a 128-byte line; eight neighbours store one line in one instruction, which NVLink
 * carries whole. */
SHMEMX_DEVICE_FN void line_store(void *p, bool here, u64 a, u64 b, bool)
{
    if (here)
        asm volatile("st.relaxed.sys.global.v2.u64 [%0], {%1, %2};" ::"l"(p), "l"(a), "l"(b) : "memory");
}
SHMEMX_DEVICE_FN void pair_store(void *p, u64 a, u64 b)
{
    line_store(p, true, a, b, false);
}
SHMEMX_DEVICE_FN vec16 line_load(const void *p)
{
    vec16 v;
    asm volatile("ld.relaxed.sys.global.v2.u64 {%0, %1}, [%2];" : "=l"(v.x), "=l"(v.y) : "l"(p) : "memory");
    return v;
}
/* The whole warp calls it. Fills v[i] with this lane's 16 bytes of the lines at from[i], where wanted[i], when
 * the lines' last lanes (flag_lane) hold `round`. The loads are in flight together. False: `left` ended. */
template <unsigned N, class Patience>
SHMEMX_DEVICE_FN bool lines_load(vec16 (&v)[N], const unsigned char *const (&from)[N],
                                 const bool (&wanted)[N], bool flag_lane, u64 round, Patience &left)
{
    do {
        bool late = false;
#pragma unroll
        for (unsigned i = 0; i < N; ++i)
            if (wanted[i])
                v[i] = line_load(from[i]);
#pragma unroll
        for (unsigned i = 0; i < N; ++i)
            late = late || (wanted[i] && v[i].y != round);
        if (!__any_sync(0xffffffffu, late && flag_lane))
            return true;
    } while (!left.over_in_step());
    return false;
}

/* ---- bulk copies: the copy engine of the SM (TMA), through shared memory ------------------------------- */

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
constexpr bool has_bulk = true;
#else
constexpr bool has_bulk = false;
#endif

SHMEMX_DEVICE_FN unsigned shared_address(const void *p)
{
    return static_cast<unsigned>(__cvta_generic_to_shared(p));
}
/* The engine moves between global and shared memory only. */
SHMEMX_DEVICE_FN bool bulk_reaches(const void *dst, const void *src)
{
    return __isGlobal(dst) && __isGlobal(src);
}
/* One thread prepares `count` completion words (8 bytes each) of a stage in shared memory, each for `loads`
 * loads at a time; then a block barrier. */
SHMEMX_DEVICE_FN void bulk_open(u64 *done, unsigned count, unsigned loads = 1)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    for (unsigned i = 0; i < count; ++i)
        asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(done + i)), "r"(loads)
                     : "memory");
    // observers: this thread, which initialized, and the copy engine, which will complete on the words
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#else
    (void)loads;
    for (unsigned i = 0; i < count; ++i)
        done[i] = 0;
#endif
}
/* Each thread calls it, then a barrier, before one thread starts the engine.
 * Observers: this thread's loads and stores, and the copy engine's accesses after the barrier. */
SHMEMX_DEVICE_FN void bulk_fence()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("fence.proxy.async;" ::: "memory");
#endif
}
/* The same for shared memory alone, which does not wait for what is on its way to global memory. */
SHMEMX_DEVICE_FN void bulk_fence_shared()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
SHMEMX_DEVICE_FN void bulk_load(unsigned to, const unsigned char *from, unsigned bytes, unsigned done)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(done), "r"(bytes) : "memory");
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
        "l"(from), "r"(bytes), "r"(done)
        : "memory");
}
/* Several loads on one word that was opened for one: each so, then bulk_expect with the sum of their bytes. */
SHMEMX_DEVICE_FN void bulk_load_of_many(unsigned to, const unsigned char *from, unsigned bytes, unsigned done)
{
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
        "l"(from), "r"(bytes), "r"(done)
        : "memory");
}
SHMEMX_DEVICE_FN void bulk_expect(unsigned done, unsigned bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(done), "r"(bytes) : "memory");
}
/* Threads use such a word among themselves: it completes when as many have arrived as it was opened for.
 * release; observers: who arrives, and who waits in bulk_loaded. */
SHMEMX_DEVICE_FN void bulk_arrive(unsigned done)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(done) : "memory");
}
SHMEMX_DEVICE_FN void bulk_store(unsigned char *to, unsigned from, unsigned bytes)
{
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(from),
                 "r"(bytes)
                 : "memory");
}
SHMEMX_DEVICE_FN void bulk_commit()
{
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
/* All but the last `Pending` groups of stores have read their shared memory. */
template <int Pending> SHMEMX_DEVICE_FN void bulk_read()
{
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(Pending) : "memory");
}
SHMEMX_DEVICE_FN void bulk_loaded(unsigned done, unsigned phase)
{
    unsigned ready;
    do {
        asm volatile("{\n\t.reg .pred p;\n\t"
                     "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n\t"
                     "selp.u32 %0, 1, 0, p;\n\t}"
                     : "=r"(ready)
                     : "r"(done), "r"(phase)
                     : "memory");
    } while (!ready);
}
#endif
/* One thread copies; addresses and bytes are multiples of 16. Loads of slots - 1 chunks are in flight while
 * one chunk is stored. `phases` has one bit a slot and returns changed. On return the source has been read
 * and the slots are free; the target is written after bulk_wait by the same thread. */
SHMEMX_DEVICE_FN void bulk_copy(unsigned char *dst, const unsigned char *src, u64 bytes, unsigned char *slot,
                                unsigned chunk, unsigned slots, u64 *done, unsigned &phases)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    const unsigned base = shared_address(slot), words = shared_address(done);
    u64 loaded = 0; // bytes asked for so far
    unsigned in = 0;
    for (; in < slots - 1 && loaded < bytes; ++in) {
        unsigned n = bytes - loaded < chunk ? static_cast<unsigned>(bytes - loaded) : chunk;
        bulk_load(base + in * chunk, src + loaded, n, words + 8 * in);
        loaded += n;
    }
    in %= slots;
    unsigned out = 0;
    for (u64 stored = 0; stored < bytes;) {
        unsigned n = bytes - stored < chunk ? static_cast<unsigned>(bytes - stored) : chunk;
        bulk_loaded(words + 8 * out, phases >> out & 1);
        phases ^= 1u << out;
        bulk_store(dst + stored, base + out * chunk, n);
        bulk_commit();
        stored += n;
        out = out + 1 == slots ? 0 : out + 1;
        if (loaded < bytes) {
            bulk_read<1>(); // the chunk before this one has left its slot
            unsigned m = bytes - loaded < chunk ? static_cast<unsigned>(bytes - loaded) : chunk;
            bulk_load(base + in * chunk, src + loaded, m, words + 8 * in);
            loaded += m;
            in = in + 1 == slots ? 0 : in + 1;
        }
    }
    bulk_read<0>();
#else
    (void)dst, (void)src, (void)bytes, (void)slot, (void)chunk, (void)slots, (void)done, (void)phases;
#endif
}
/* The engine's stores that this thread started are in memory and visible to it. */
SHMEMX_DEVICE_FN void bulk_wait()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
#endif
}

} // namespace arch
} // namespace shmem

#include "arch_cuda_nic.h"

#endif
