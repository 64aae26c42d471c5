/* Large reductions by the SM's copy engine (sm_90 and later): every member's chunk of this member's share comes into
 * shared memory, is joined there, and goes out to all. On 4 H100 a sum of 128 MiB of float32 took 602 us with 14 SMs, by
 * plain loads and stores with 64 SMs 662, whatever their number. The links' own time is 544, but only where each GPU
 * sends to one other at a time: all to all, reads alone and writes alone reach 318 GB/s there, not 370.
 *
 * Compiled for compute_90, once a type; stream_coll.c launches it for 16-byte aligned vectors. */
#include "together.cuh"
#include "elements.cuh"

using namespace shmem;
using element = SHMEMI_ELEMENT;

/* Chunks that are on their way in; one more is joined or goes out. */
constexpr unsigned stages = 6, loading = 5;
constexpr unsigned each = 16 / sizeof(element);

extern __shared__ __align__(128) unsigned char shared_memory[];

/* What thread 0 does: asks for chunks and sends results. */
struct mover {
    const detail::members &m;
    const unsigned char *src;
    unsigned char *dst;
    u64 bytes; // of the share, a multiple of 16
    unsigned chunk;
    unsigned char *room; // stages * n * chunk
    u64 *done;

    __device__ unsigned size_of(u64 c) const
    {
        const u64 rest = bytes - c * chunk;
        return rest < chunk ? static_cast<unsigned>(rest) : chunk;
    }
    __device__ unsigned char *buffer(unsigned stage, int j) const
    {
        return room + (stage * static_cast<unsigned>(m.n) + static_cast<unsigned>(j)) * chunk;
    }
    __device__ int member(int k) const // the next member first: not all go to one at once
    {
        return m.me + k < m.n ? m.me + k : m.me + k - m.n;
    }
    __device__ void ask(u64 c, unsigned stage) const
    {
        for (int k = 0; k < m.n; ++k)
            arch::bulk_load(arch::shared_address(buffer(stage, member(k))),
                            detail::peer(m, member(k), src) + c * chunk, size_of(c),
                            arch::shared_address(done + stage));
    }
    __device__ void send(u64 c, unsigned stage) const
    {
        for (int k = 0; k < m.n; ++k)
            arch::bulk_store(detail::peer(m, member(k), dst) + c * chunk, arch::shared_address(buffer(stage, 0)),
                             size_of(c));
        arch::bulk_commit();
    }
};

/* Joins all members' chunks into the first one's, in the order of the members. */
template <class Op> __device__ void join_chunk(const mover &work, Op op, unsigned stage, unsigned bytes)
{
    for (unsigned at = threadIdx.x * 16; at < bytes; at += blockDim.x * 16) {
        detail::running<element, arch::vec16> total;
        auto *first = reinterpret_cast<arch::vec16 *>(work.buffer(stage, 0) + at);
        total.first(*first);
        SHMEMX_DEVICE_ROLLED
        for (int j = 1; j < work.m.n; ++j)
            total.next(op, *reinterpret_cast<const arch::vec16 *>(work.buffer(stage, j) + at));
        *first = total.result();
    }
}

template <class Op> __device__ void reduce_chunks(const mover &work, Op op)
{
    if (threadIdx.x == 0)
        arch::bulk_open(work.done, stages, static_cast<unsigned>(work.m.n));
    // observers: this thread, which has seen the members arrive, and the copy engine, which reads their memory
    arch::bulk_fence();
    __syncthreads();
    const u64 chunks = (work.bytes + work.chunk - 1) / work.chunk;
    u64 ahead = blockIdx.x;
    unsigned in = 0, stage = 0, phase = 0;
    if (threadIdx.x == 0)
        for (; in < loading && ahead < chunks; ++in, ahead += gridDim.x)
            work.ask(ahead, in);
    for (u64 c = blockIdx.x; c < chunks; c += gridDim.x) {
        arch::bulk_loaded(arch::shared_address(work.done + stage), phase);
        join_chunk(work, op, stage, work.size_of(c));
        // observers: this thread, which has written the sums, and the copy engine, which reads them after the barrier
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        __syncthreads();
        if (threadIdx.x == 0) {
            work.send(c, stage);
            if (ahead < chunks) {
                arch::bulk_read<stages - loading>(); // so many chunks may still be leaving, not the one before
                work.ask(ahead, in);
                ahead += gridDim.x;
                in = in + 1 == stages ? 0 : in + 1;
            }
        }
        if (++stage == stages)
            stage = 0, phase ^= 1;
    }
    if (threadIdx.x == 0)
        arch::bulk_wait(); // written, before together() publishes
}

/* The elements behind the last whole vector: by the last member, one each thread. */
template <class Op>
__device__ void reduce_rest(const detail::members &m, Op op, element *dst, const element *src, u64 from, u64 nelems)
{
    const u64 i = from + threadIdx.x;
    if (m.me != m.n - 1 || blockIdx.x != 0 || i >= nelems)
        return;
    using word = detail::word<element>;
    detail::running<element, word> total;
    for (int j = 0; j < m.n; ++j) {
        const word w = arch::load_remote(detail::words(detail::peer(m, j, src + i)));
        if (j == 0)
            total.first(w);
        else
            total.next(op, w);
    }
    for (int j = 0; j < m.n; ++j)
        *detail::words(detail::peer(m, j, dst + i)) = total.result();
}

template <class Op>
__device__ void reduce_by(const detail::members &m, Op op, element *dst, const element *src, u64 nelems, unsigned chunk)
{
    const u64 vectors = nelems / each, n = static_cast<u64>(m.n), me = static_cast<u64>(m.me);
    const u64 begin = vectors * me / n * 16, end = vectors * (me + 1) / n * 16;
    together(m, [&] {
        reduce_chunks(mover{m, reinterpret_cast<const unsigned char *>(src) + begin,
                            reinterpret_cast<unsigned char *>(dst) + begin, end - begin, chunk, shared_memory + 128,
                            reinterpret_cast<u64 *>(shared_memory)},
                      op);
        reduce_rest(m, op, dst, src, vectors * each, nelems);
    });
}

/* chunk: bytes, a multiple of 128; the launch has 128 + stages * members * chunk of shared memory. */
extern "C" __global__ void __launch_bounds__(256)
    shmem_k_reduce_bulk(unsigned t, int op, element *dst, const element *src, u64 nelems, unsigned chunk)
{
    const detail::members m = detail::find(thread, static_cast<team>(t), SHMEMX_DEVICE_CALL_REDUCE);
    if (m.n == 0)
        return;
    if (op == SHMEMI_SUM)
        reduce_by(m, sum, dst, src, nelems, chunk);
    else
        reduce_by(m, any_op{op}, dst, src, nelems, chunk);
}
