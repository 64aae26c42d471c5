/* The library's own kernels: what stream-ordered calls launch. Written on the device API, as a user's kernel would be.
 *
 * libshmem/tools/ptx.py compiles this file to gpu/kernels.ptx, which the library carries, so that building it needs no
 * CUDA and running it needs the driver alone. stream.c knows the names and arguments. */
#include "shmem_device.h"

using namespace shmem;

/* ---- atomics and signals started by the host ---------------------------------------------------------------------- */

/* *fetched (host memory that the device writes) = the old value. */
extern "C" __global__ void shmem_k_atomic(int op, int size, void *dst, u64 value, u64 cond, int pe, u64 *fetched)
{
    u64 old = size == 8 ? detail::atomic_by(op, static_cast<u64 *>(dst), value, cond, pe)
                        : detail::atomic_by(op, static_cast<u32 *>(dst), static_cast<u32>(value),
                                            static_cast<u32>(cond), pe);
    if (fetched)
        *fetched = old;
}

/* What the stream did before is visible wherever the signal is seen: the copies before this kernel are complete. */
extern "C" __global__ void shmem_k_signal(u64 *sig, u64 value, int op, int pe)
{
    quiet(thread);
    signal_op(sig, value, static_cast<signal_kind>(op), pe);
}

extern "C" __global__ void shmem_k_signal_wait(const u64 *sig, int op, u64 value)
{
    signal_wait_until(thread, sig, static_cast<cmp>(op), value);
}

/* ---- collectives in one block: up to what a message of packets holds ------------------------------------------------ */

extern "C" __global__ void shmem_k_barrier(unsigned t)
{
    barrier(warp, static_cast<team>(t));
}

extern "C" __global__ void __launch_bounds__(512) shmem_k_broadcast(unsigned t, u8 *dst, const u8 *src, u64 bytes, int root)
{
    broadcast(block, static_cast<team>(t), dst, src, bytes, root);
}

extern "C" __global__ void __launch_bounds__(512) shmem_k_fcollect(unsigned t, u8 *dst, const u8 *src, u64 bytes)
{
    fcollect(block, static_cast<team>(t), dst, src, bytes);
}

extern "C" __global__ void __launch_bounds__(512) shmem_k_alltoall(unsigned t, u8 *dst, const u8 *src, u64 bytes)
{
    alltoall(block, static_cast<team>(t), dst, src, bytes);
}

/* ---- collectives by all blocks, one launch ------------------------------------------------------------------------------ */

/* What the blocks of one launch tell each other, for each team; zero between launches. A team has one collective at a
 * time (shmemx_stream.h), so one of each is enough. */
__device__ unsigned gate[128], finished[128];

/* Runs work() in all blocks between the members' arrival and their departure. Block 0 meets the other members and opens
 * the gate; the block that finishes last makes everybody's stores visible and meets them again. All blocks are on the
 * GPU at once: there are at most 64, and block 0 is started first. */
template <class Work> __device__ void together(unsigned t, Work work)
{
    __shared__ bool last;
    if (blockIdx.x == 0 && threadIdx.x < 32) {
        sync(warp, static_cast<team>(t));
        if (threadIdx.x == 0)
            atomicExch(&gate[t], 1u);
    }
    if (threadIdx.x == 0) {
        while (atomicAdd(&gate[t], 0u) == 0)
            __nanosleep(20);
        __threadfence(); // the members' sources, seen by block 0 through sync, are read after the gate by this block
    }
    __syncthreads();
    work();
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence(); // this block's stores come before its mark, for the last block's release to pass them on
        last = atomicAdd(&finished[t], 1u) == gridDim.x - 1;
    }
    __syncthreads();
    if (last && threadIdx.x < 32) {
        if (threadIdx.x == 0) {
            gate[t] = finished[t] = 0;
            __threadfence();
        }
        __syncwarp();
        barrier(warp, static_cast<team>(t));
    }
}

/* This block's part of a copy of `bytes`, of `parts` equal ones (whole 16-byte vectors). */
__device__ void copy_part(u8 *dst, const u8 *src, u64 bytes, u64 part, u64 parts)
{
    const u64 share = (bytes / 16 + parts - 1) / parts * 16;
    const u64 from = share * part < bytes ? share * part : bytes;
    u64 to = part == parts - 1 || from + share > bytes ? bytes : from + share;
    put_nbi(block, dst + from, src + from, to - from, my_pe()); // dst is a pointer to the peer's copy already
}

/* Each member's blocks go to all members: block b works for member (me + 1 + b) % n, so that not all write to one at
 * once. all = false: everybody gets src (fcollect), true: member j its block (alltoall). */
extern "C" __global__ void __launch_bounds__(512) shmem_k_exchange(unsigned t, int all, u8 *dst, const u8 *src, u64 bytes)
{
    const team group = static_cast<team>(t);
    const unsigned n = team_n_pes(group), me = team_my_pe(group);
    together(t, [=] {
        const unsigned rounds = gridDim.x < n ? n : gridDim.x / n * n;
        for (unsigned b = blockIdx.x; b < rounds; b += gridDim.x) {
            const unsigned j = (me + 1 + b) % n, parts = rounds / n;
            copy_part(ptr(dst, team_translate_pe(group, j, world)) + me * bytes, src + (all ? j * bytes : 0), bytes, b / n,
                      parts);
        }
    });
}

extern "C" __global__ void __launch_bounds__(512) shmem_k_fetch(unsigned t, u8 *dst, const u8 *src, u64 bytes, int root)
{
    const team group = static_cast<team>(t);
    together(t, [=] {
        const u8 *from = ptr(const_cast<u8 *>(src), team_translate_pe(group, root, world));
        if (from != dst)
            copy_part(dst, from, bytes, blockIdx.x, gridDim.x);
    });
}


/* How an element is stored (T) and added up (A). */
struct half_bits {
    u16 bits;
};
struct brain_bits {
    u16 bits;
};
template <class T> struct wide {
    using type = T;
    static __device__ T get(T x)
    {
        return x;
    }
    static __device__ T put(T x)
    {
        return x;
    }
};
template <> struct wide<half_bits> {
    using type = float;
    static __device__ float get(half_bits x)
    {
        float f;
        asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(x.bits));
        return f;
    }
    static __device__ half_bits put(float f)
    {
        half_bits x;
        asm("cvt.rn.f16.f32 %0, %1;" : "=h"(x.bits) : "f"(f));
        return x;
    }
};
template <> struct wide<brain_bits> {
    using type = float;
    static __device__ float get(brain_bits x)
    {
        return __uint_as_float(static_cast<u32>(x.bits) << 16);
    }
    static __device__ brain_bits put(float f)
    {
        u32 u = __float_as_uint(f);
        brain_bits x;
        x.bits = f != f ? static_cast<u16>(u >> 16 | 0x40) : static_cast<u16>((u + 0x7fff + (u >> 16 & 1)) >> 16);
        return x;
    }
};

template <class A> struct integral {
    static constexpr bool value = true;
};
template <> struct integral<float> {
    static constexpr bool value = false;
};
template <> struct integral<double> {
    static constexpr bool value = false;
};

template <class A> __device__ A combine(int op, A a, A b)
{
    switch (op) { // enum shmemx_reduce_op
    case 3:
        return a > b || a != a ? a : b;
    case 4:
        return a < b || a != a ? a : b;
    case 5:
        return a + b;
    case 6:
        return a * b;
    default:
        break;
    }
    if constexpr (integral<A>::value)
        return op == 0 ? a & b : op == 1 ? a | b : a ^ b;
    return a;
}

/* One vector's elements, few at the end or all; `whole` = 16 aligned bytes. */
template <class T> union vector_of {
    uint4 all;
    T x[16 / sizeof(T)];
};
template <class T> __device__ void load_vector(vector_of<T> &v, const T *from, u64 count, bool whole)
{
    constexpr unsigned each = 16 / sizeof(T);
    if (whole)
        v.all = *reinterpret_cast<const uint4 *>(from);
    else
        for (unsigned k = 0; k < each; ++k)
            v.x[k] = from[k < count ? k : 0];
}
template <class T> __device__ void store_vector(T *to, const vector_of<T> &v, u64 count, bool whole)
{
    constexpr unsigned each = 16 / sizeof(T);
    if (whole)
        *reinterpret_cast<uint4 *>(to) = v.all;
    else
        for (unsigned k = 0; k < each && k < count; ++k)
            to[k] = v.x[k];
}

/* Member i owns the i-th share of the 16-byte vectors: reads them from every source, writes them to every dest. A thread
 * has `batch` loads in flight: with one, 64 blocks moved 64 MiB of float32 in 424 us (2 H200). */
template <class T> __device__ void reduce_share(unsigned t, int op, T *dst, const T *src, u64 nelems)
{
    using W = wide<T>;
    using A = typename W::type;
    constexpr int each = 16 / sizeof(T), batch = sizeof(T) >= 4 ? 4 : 1;
    const team group = static_cast<team>(t);
    const int me = team_my_pe(group), n = team_n_pes(group);
    const u64 vectors = (nelems + each - 1) / each, share = (vectors + n - 1) / n;
    const u64 end = share * (me + 1) < vectors ? share * (me + 1) : vectors;
    const u64 step = static_cast<u64>(gridDim.x) * blockDim.x;
    const bool aligned = (reinterpret_cast<u64>(src) | reinterpret_cast<u64>(dst)) % 16 == 0;
    for (u64 v = share * me + blockIdx.x * blockDim.x + threadIdx.x; v < end; v += step * batch) {
        A acc[batch][each];
        for (int j = 0; j < n; ++j) {
            const T *from = ptr(const_cast<T *>(src), team_translate_pe(group, j, world));
            vector_of<T> in[batch];
#pragma unroll
            for (int i = 0; i < batch; ++i) {
                const u64 at = (v + i * step) * each;
                if (v + i * step < end)
                    load_vector(in[i], from + at, nelems - at, aligned && nelems - at >= each);
            }
#pragma unroll
            for (int i = 0; i < batch; ++i)
#pragma unroll
                for (int k = 0; k < each; ++k)
                    acc[i][k] = j == 0 ? W::get(in[i].x[k]) : combine<A>(op, acc[i][k], W::get(in[i].x[k]));
        }
        vector_of<T> out[batch];
#pragma unroll
        for (int i = 0; i < batch; ++i)
#pragma unroll
            for (int k = 0; k < each; ++k)
                out[i].x[k] = W::put(acc[i][k]);
        for (int j = 0; j < n; ++j) {
            T *to = ptr(dst, team_translate_pe(group, j, world));
#pragma unroll
            for (int i = 0; i < batch; ++i) {
                const u64 at = (v + i * step) * each;
                if (v + i * step < end)
                    store_vector(to + at, out[i], nelems - at, aligned && nelems - at >= each);
            }
        }
    }
}

#define REDUCE(NAME, T)                                                                                            \
    extern "C" __global__ void __launch_bounds__(256) shmem_k_reduce_##NAME(unsigned t, int op, void *dst,         \
                                                                            const void *src, u64 nelems)           \
    {                                                                                                              \
        together(t, [=] { reduce_share(t, op, static_cast<T *>(dst), static_cast<const T *>(src), nelems); });     \
    }
REDUCE(int8, signed char)
REDUCE(int16, short)
REDUCE(int32, int)
REDUCE(int64, long long)
REDUCE(uint8, u8)
REDUCE(uint16, u16)
REDUCE(uint32, u32)
REDUCE(uint64, u64)
REDUCE(float16, half_bits)
REDUCE(bfloat16, brain_bits)
REDUCE(float32, float)
REDUCE(float64, double)
