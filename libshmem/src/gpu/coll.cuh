/* Kernels of the collectives that move data. Named .._packets: by packets, whatever the size, while everything fits into
 * the team's slots (stream_coll.c knows). The others copy into the members' dest between two meetings. */
#include "together.cuh"

using namespace shmem;

/* ---- packets -------------------------------------------------------------------------------------------------------- */

extern "C" __global__ void __launch_bounds__(512)
    shmem_k_broadcast_packets(unsigned t, u8 *dst, const u8 *src, u64 bytes, int root)
{
    const detail::members m = detail::enter(detail::grid, static_cast<team>(t), SHMEMX_DEVICE_CALL_BROADCAST);
    if (m.n != 0)
        detail::broadcast_packets(detail::grid, m, dst, src, bytes, root);
}

/* step 0: everybody gets src (fcollect); step = bytes: member j its block (alltoall). */
extern "C" __global__ void __launch_bounds__(512)
    shmem_k_exchange_packets(unsigned t, u8 *dst, const u8 *src, u64 bytes, u64 step)
{
    const unsigned call = step == 0 ? SHMEMX_DEVICE_CALL_FCOLLECT : SHMEMX_DEVICE_CALL_ALLTOALL;
    const detail::members m = detail::enter(detail::grid, static_cast<team>(t), call);
    if (m.n != 0)
        detail::exchange_packets(detail::grid, m, call, dst, src, bytes, step);
}

/* ---- copies between two meetings --------------------------------------------------------------------------------------- */

/* This block's part of a copy of `bytes`, of `parts` equal ones (whole 16-byte vectors). */
__device__ void copy_part(u8 *dst, const u8 *src, u64 bytes, u64 part, u64 parts)
{
    const u64 share = (bytes / 16 + parts - 1) / parts * 16;
    const u64 from = share * part < bytes ? share * part : bytes;
    const u64 to = part == parts - 1 || from + share > bytes ? bytes : from + share;
    detail::copy<detail::from_here>(block, dst + from, src + from, to - from);
}

/* work(j, part, parts) for every member j, by blocks: member me + 1 + b for block b, so that not all write to one at
 * once. */
template <class Work> __device__ void by_members(const detail::members &t, Work work)
{
    const unsigned n = static_cast<unsigned>(t.n);
    const unsigned rounds = gridDim.x < n ? n : gridDim.x / n * n;
    for (unsigned b = blockIdx.x; b < rounds; b += gridDim.x)
        work(static_cast<int>((static_cast<unsigned>(t.me) + 1 + b) % n), b / n, rounds / n);
}

extern "C" __global__ void __launch_bounds__(512) shmem_k_exchange(unsigned t, u8 *dst, const u8 *src, u64 bytes, u64 step)
{
    const detail::members m = detail::find(thread, static_cast<team>(t), SHMEMX_DEVICE_CALL_ALLTOALL);
    if (m.n == 0)
        return;
    together(m, [&] {
        by_members(m, [&](int j, unsigned part, unsigned parts) {
            copy_part(detail::peer(m, j, dst + m.me * bytes), src + j * step, bytes, part, parts);
        });
    });
}

extern "C" __global__ void __launch_bounds__(512) shmem_k_fetch(unsigned t, u8 *dst, const u8 *src, u64 bytes, int root)
{
    const detail::members m = detail::find(thread, static_cast<team>(t), SHMEMX_DEVICE_CALL_BROADCAST);
    if (m.n == 0)
        return;
    together(m, [&] {
        const u8 *from = detail::peer(m, root, src);
        if (from != dst)
            copy_part(dst, from, bytes, blockIdx.x, gridDim.x);
    });
}

/* What each member brings and has room for, by member; written by the others before they arrive. */
struct brought {
    u64 bytes, room;
};

/* Blocks of different sizes, in the order of the members. A member without room for all gets nothing, and a note. */
extern "C" __global__ void __launch_bounds__(512) shmem_k_collect(unsigned t, u8 *dst, u64 room, const u8 *src, u64 bytes)
{
    const detail::members m = detail::find(thread, static_cast<team>(t), SHMEMX_DEVICE_CALL_COLLECT);
    if (m.n == 0)
        return;
    const u64 table = m.sync + static_cast<u64>(m.n) * 8;
    auto tell = [&] {
        for (int j = static_cast<int>(threadIdx.x); j < m.n; j += static_cast<int>(arch::warp_width)) {
            brought *mine = detail::area<brought>(m, j, table + m.me * sizeof(brought));
            mine->bytes = bytes;
            mine->room = room;
        }
        detail::meet(warp, m, SHMEMX_DEVICE_CALL_COLLECT, detail::order::publish);
    };
    together(m, tell, [&] {
        const volatile brought *all = detail::own_area<brought>(table); // written while this launch was running
        u64 before = 0, total = 0;
        for (int j = 0; j < m.n; ++j) {
            before += j < m.me ? all[j].bytes : 0;
            total += all[j].bytes;
        }
        if (total > room && blockIdx.x == 0 && threadIdx.x == 0)
            detail::report(SHMEMX_DEVICE_ROOM, SHMEMX_DEVICE_CALL_COLLECT, -1, dst, room, total);
        by_members(m, [&](int j, unsigned part, unsigned parts) {
            if (bytes != 0 && total <= all[j].room)
                copy_part(detail::peer(m, j, dst) + before, src, bytes, part, parts);
        });
    });
}

/* ---- strided ---------------------------------------------------------------------------------------------------------------- */

/* Words of one type; each element has `each` of them. */
template <class Word>
__device__ void copy_strided_as(u8 *dst, const u8 *src, u64 dstep, u64 sstep, u64 each, u64 n, u64 lane, u64 width)
{
    for (u64 w = lane; w < n * each; w += width) {
        const u64 i = each == 1 ? w : w / each, k = each == 1 ? 0 : w % each;
        reinterpret_cast<Word *>(dst + i * dstep)[k] = reinterpret_cast<const Word *>(src + i * sstep)[k];
    }
}
/* n elements of `size` bytes, dstep and sstep bytes apart, by threads lane, lane + width, .. */
__device__ void copy_strided(u8 *dst, const u8 *src, u64 dstep, u64 sstep, u64 size, u64 n, u64 lane, u64 width)
{
    const u64 all = reinterpret_cast<u64>(dst) | reinterpret_cast<u64>(src) | dstep | sstep | size;
    if (all % 8 == 0)
        copy_strided_as<u64>(dst, src, dstep, sstep, size / 8, n, lane, width);
    else if (all % 4 == 0)
        copy_strided_as<u32>(dst, src, dstep, sstep, size / 4, n, lane, width);
    else if (all % 2 == 0)
        copy_strided_as<u16>(dst, src, dstep, sstep, size / 2, n, lane, width);
    else
        copy_strided_as<u8>(dst, src, dstep, sstep, size, n, lane, width);
}

extern "C" __global__ void __launch_bounds__(512)
    shmem_k_strided(u8 *dst, const u8 *src, u64 dstep, u64 sstep, u64 size, u64 n)
{
    copy_strided(dst, src, dstep, sstep, size, n, static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x,
                 static_cast<u64>(gridDim.x) * blockDim.x);
}

extern "C" __global__ void __launch_bounds__(512)
    shmem_k_alltoalls(unsigned t, u8 *dst, const u8 *src, u64 dstep, u64 sstep, u64 size, u64 n)
{
    const detail::members m = detail::find(thread, static_cast<team>(t), SHMEMX_DEVICE_CALL_ALLTOALL);
    if (m.n == 0)
        return;
    together(m, [&] {
        by_members(m, [&](int j, unsigned part, unsigned parts) {
            copy_strided(detail::peer(m, j, dst) + m.me * n * dstep, src + j * n * sstep, dstep, sstep,
                         size, n, static_cast<u64>(part) * blockDim.x + threadIdx.x,
                         static_cast<u64>(parts) * blockDim.x);
        });
    });
}
