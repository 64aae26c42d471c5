/* Ranks whose memory is not mapped here, in MoE for large batches: their words and rows go by a NIC's path.
 *
 * Rows for such a rank are written to this PE's mirror as they would be to the rank, and put from there. In a dispatch the
 * rows from here to a rank lie side by side in its result, in the order of the tokens. A warp that has written its tokens of a
 * tile counts, and the last one to count puts all rows of the tile. In a combine a warp puts each chunk that it has filled.
 *
 * Order. What a block posts to a rank comes in order, behind a fence; what different blocks post does not. So the word that
 * says that all rows are there is sent by the last block when each has waited for its own posts, and a chunk's by the warp that
 * has put the chunk.
 *
 * Reuse. No block ends before what it has posted from the mirror is complete. So the next kernel may write there, whichever it
 * is. Rows of a dispatch have arrived before that is said; a combine waits at its end. */
#ifndef SHMEMI_GPU_MOE_NORMAL_FAR_CUH
#define SHMEMI_GPU_MOE_NORMAL_FAR_CUH

#include "moe_normal.cuh"

namespace shmem
{
namespace moe
{
namespace normal
{

/* One thread puts what lies at `from`, in this PE's heap, to the rank's copy of `to`; the source is in use until
 * settle_far. */
SHMEMX_DEVICE_FN void put_far(const members &m, unsigned rank, u64 to, u64 from, u64 bytes)
{
    detail::far_put(thread, at<u8>(to), at<const u8>(from), bytes, detail::world_pe(m, static_cast<int>(rank)), false);
}
/* Rows of an array: n of them, the first as row `to` there and row `from` here. */
SHMEMX_DEVICE_FN void put_rows(const members &m, unsigned rank, u64 there, u64 to, u64 here, u64 from, u64 n, u64 row)
{
    put_far(m, rank, there + to * row, here + from * row, n * row);
}
/* A word, behind what this block has posted to the rank. */
SHMEMX_DEVICE_FN void tell_behind(const shmemi_moen &o, const members &m, unsigned rank, u64 words, unsigned i, u64 value)
{
    detail::far_fence(thread, detail::world_pe(m, static_cast<int>(rank)));
    tell(o, m, rank, words, i, value);
}

/* The block's posts are complete; false: some have failed, which is reported. The block has met since it posted, but for what
 * the lane with a rank's number has posted to that rank. Ends with a barrier of the block. */
SHMEMX_DEVICE_FN bool settle_far(const shmemi_moen &o, const members &m)
{
    if (!detail::some_far() || o.mirror.far == 0)
        return true;
    bool ok = true;
    for (unsigned j = arch::lane(block); j < static_cast<unsigned>(m.n); j += arch::width(block))
        if (far(o, j))
            ok = detail::far_quiet(thread, detail::world_pe(m, static_cast<int>(j))) && ok;
    return arch::all(block, ok);
}

/* The block that has written its counts, and `chosen` in the mirror, sends them to the far ranks and then says that this rank has
 * begun: who sees the last word has the others. */
SHMEMX_DEVICE_FN void announce_far(const shmemi_moen &o, const members &m, bool counts, u64 begun)
{
    if (!detail::some_far() || o.mirror.far == 0)
        return;
    const auto ranks = static_cast<unsigned>(m.n), me = static_cast<unsigned>(m.me);
    const owners who(o, ranks);
    arch::sync(block); // all words are written
    for (unsigned j = arch::lane(block); j < ranks; j += arch::width(block)) {
        if (!far(o, j))
            continue;
        const u64 own = o.counts + 8ull * me * ranks;
        if (counts)
            put_far(m, j, own, own, 8ull * ranks);
        if (counts && o.most != 0 && who.count(j) != 0)
            put_far(m, j, o.chosen + 8ull * me * o.most, o.mirror.chosen + 8ull * who.first(j), 8ull * who.count(j));
        tell_behind(o, m, j, o.begun, me, begun);
    }
    // an error is found here, while this block waits for the others anyway, and is not hidden by their waiting for this word
    (void)settle_far(o, m);
}

} // namespace normal
} // namespace moe
} // namespace shmem

#endif
