/* Combine of MoE for large batches: rows go back to their tokens' owner, and are added there.
 *
 * In one launch some blocks send and the others add (moe_normal_ring.cuh); without the copy engine, or with one block, some
 * warps of each block send and the others add (moe_normal_add.cuh). A row goes to the owner's buffer, to the place of
 * (this rank, the token's number among those that came here), which both sides know from the dispatch. Rows are sent in
 * chunks of one owner, the owners in turn; a chunk's flag is released when its rows have arrived, and a warp that adds
 * waits for just the chunks that its token needs, so that adding runs a little behind the sending. Rows of the own rank
 * are read where they are.
 *
 * Reuse. Round n uses half n % 2 of the buffer, at an owner that has begun round n - 1 and so has ended n - 2. A flag of
 * round n + 1 in the place of n's says the same and more: its sender has ended n. */
#ifndef SHMEMI_GPU_MOE_NORMAL_COMBINE_CUH
#define SHMEMI_GPU_MOE_NORMAL_COMBINE_CUH

#include "moe_normal_far.cuh"
#include "moe_normal_ring.cuh"

namespace shmem
{
namespace moe
{
namespace normal
{

/* ---- sending --------------------------------------------------------------------------------------------------------------- */

/* Some rows of one owner. */
struct chunk {
    unsigned owner, number, rows;
    unsigned begin;    // the first one's number among those from the owner
    unsigned char *to; // its place at the owner
};

/* Without the copy engine. Arguments by value: c is not to have an address, for which it would leave its registers. */
SHMEMX_DEVICE_CALL void send_chunk_vectors(combining c, chunk k)
{
    const unsigned lane = arch::lane(warp);
    for (unsigned i = 0; i < k.rows; ++i) {
        const unsigned char *y = c.mine(c.row(k.owner, k.begin + i));
        unsigned char *to = k.to + i * c.o.back_row;
        if (c.a.format == SHMEMI_MOEN_BF16) {
            detail::copy_lanes<detail::from_here>(lane, arch::warp_width, to, y, c.a.row_bytes);
            continue;
        }
        quantize_row(
            detail::crew{0, 1}, c.codec(),
            [&](unsigned w) { return arch::load_plain(reinterpret_cast<const arch::vec16 *>(y) + w); },
            [&](unsigned w, u64 eight) { arch::store_plain(reinterpret_cast<u64 *>(to) + w, eight); },
            [&](unsigned g, float scale) {
                arch::store_plain(reinterpret_cast<u32 *>(to + c.scales_at()) + g, bits_of_float(scale));
            });
    }
}

#if SHMEMI_MOEN_BULK
/* By the copy engine; lane 0 stores. On its return the rows have arrived. */
SHMEMX_DEVICE_FN void send_chunk_bulk(const combining &c, const chunk &k, pipeline &pipe)
{
    const bool leads = arch::lane(warp) == 0, quantizes = c.a.format != SHMEMI_MOEN_BF16;
    const unsigned slots = pipe.slots, ahead = quantizes || slots == 1 ? slots : slots - 1;
    const unsigned parts = c.a.parts, columns = c.o.hidden / parts;
    bulk_cursor coming = {0, 0, 0}, here = {0, 0, 0};
    const unsigned char *next = nullptr; // of lane 0: the part that comes
    const auto load = [&] {
        if (!leads || coming.row == k.rows)
            return;
        if (coming.part == 0)
            next = c.mine(c.row(k.owner, k.begin + coming.row));
        arch::bulk_load(pipe.address(coming.slot), next, columns * 2, pipe.done + 8 * coming.slot);
        next += columns * 2;
        coming.next(parts, slots);
    };
    unsigned char *row = k.to;
    const auto store = [&] {
        if (!leads)
            return;
        const unsigned from = pipe.address(here.slot);
        if (quantizes) {
            arch::bulk_store(row + here.part * columns, from + c.a.pipe.values, (columns + 15) / 16 * 16);
            if (here.part + 1 == parts)
                arch::bulk_store(row + c.scales_at(), arch::shared_address(pipe.side(c.a.pipe, here.row)),
                                 c.a.row_bytes - c.scales_at());
        } else {
            arch::bulk_store(row, from, c.a.row_bytes);
        }
        arch::bulk_commit();
    };
    quantizer codec = c.codec();
    const unsigned log = quick_log(codec), groups = (columns + codec.group - 1) / codec.group; // of a part
    codec.hidden = columns;
    // the slots are used from the first on again: all that was stored from them has been waited for
    for (unsigned i = 0; i < ahead; ++i)
        load();
    for (; here.row < k.rows; row += here.part + 1 == parts ? c.o.back_row : 0, here.next(parts, slots)) {
        pipe.wait(here.slot);
        if (quantizes) {
            slot_free(pipe);
            quantize_slot(codec, log, pipe.slot(here.slot), c.a.pipe.values,
                          reinterpret_cast<u32 *>(pipe.side(c.a.pipe, here.row)) + here.part * groups);
            load();
            store();
        } else {
            store();
            slot_free(pipe);
            load();
        }
    }
    arch::bulk_wait();
}
#endif

/* A warp that sends takes chunks until none is left; the u-th is of the (u % (R - 1))-th rank behind this one.
 * `word`: shared memory of this warp. */
SHMEMX_DEVICE_FN void send_back(const combining &c, unsigned char *shared, unsigned mine, u32 *word)
{
    if (c.ranks == 1)
        return;
    const unsigned lane = arch::lane(warp), others = c.ranks - 1, chunk_rows = 1u << c.a.chunk;
    unsigned most = 0;
    for (unsigned j = 0; j < c.ranks; ++j) {
        const unsigned n = (c.rows(j) + chunk_rows - 1) >> c.a.chunk;
        most = j != c.me && n > most ? n : most;
    }
#if SHMEMI_MOEN_BULK
    pipeline pipe(c.a.pipe, shared, mine);
    if (pipe.slots != 0)
        pipe.clear_side(c.a.pipe);
#else
    (void)shared, (void)mine;
#endif
    for (;;) {
        if (lane == 0)
            *word = arch::fetch_add(&at<shmemi_moen_local>(c.o.local)->taken, 1u);
        arch::sync(warp);
        const unsigned u = *word;
        arch::sync(warp);
        if (u / others >= most)
            return;
        chunk k;
        k.owner = (c.me + 1 + u % others) % c.ranks;
        k.number = u / others;
        const unsigned all = c.rows(k.owner);
        k.begin = k.number * chunk_rows;
        if (k.begin >= all)
            continue;
        k.rows = all - k.begin < chunk_rows ? all - k.begin : chunk_rows;
        const int owner = static_cast<int>(k.owner);
        const u64 place = c.place(c.me, k.begin), here = static_cast<u64>(k.owner) * c.o.max_tokens + k.begin;
        const bool by_nic = far(c.o, k.owner);
        k.to = by_nic ? at<unsigned char>(c.o.mirror.x) + here * c.o.back_row
                      : detail::peer(c.m, owner, at<unsigned char>(c.o.back)) + place * c.o.back_row;
        if (c.a.weights != 0) {
            auto *to = by_nic ? at<u32>(c.o.mirror.topk_weights) + here * c.o.topk
                              : detail::peer(c.m, owner, at<u32>(c.o.back_weights)) + place * c.o.topk;
            for (unsigned i = lane; i < k.rows * c.o.topk; i += arch::warp_width)
                arch::store_plain(to + i, at<const u32>(c.a.weights)[c.row(k.owner, k.begin + i / c.o.topk) * c.o.topk +
                                                                     i % c.o.topk]);
        }
#if SHMEMI_MOEN_BULK
        if (pipe.slots != 0)
            send_chunk_bulk(c, k, pipe);
        else
#endif
            send_chunk_vectors(c, k);
        arch::sync(warp);
        if (by_nic) {
            if (lane == 0) {
                put_rows(c.m, k.owner, c.o.back, place, c.o.mirror.x, here, k.rows, c.o.back_row);
                if (c.a.weights != 0)
                    put_rows(c.m, k.owner, c.o.back_weights, place, c.o.mirror.topk_weights, here, k.rows, 4ull * c.o.topk);
                tell_behind(c.o, c.m, k.owner, c.o.chunks, c.me * c.chunks() + k.number, c.round);
            }
            arch::sync(warp);
            continue;
        }
        if (lane == 0) // release; observers: this warp's lanes, which have stored, and who adds at the owner
            arch::store_release(detail::peer(c.m, owner, at<u64>(c.o.chunks)) + c.me * c.chunks() + k.number,
                                c.round);
    }
}

/* ---- combine ----------------------------------------------------------------------------------------------------------------- */

/* Tells all ranks that this one has begun, and waits until they have begun the round before. */
SHMEMX_DEVICE_FN bool meet_back(const combining &c)
{
    if (arch::block_index() == 0) {
        for (unsigned j = arch::lane(block); j < c.ranks; j += arch::width(block))
            // relaxed: what this PE's stream did before, like reading the buffer, is complete
            tell(c.o, c.m, j, c.o.back_begun, c.me, c.round);
        // as in announce_far, where this block adds as well; else it finds an error at its end, while the others still wait
        if (c.a.ring.senders == 0)
            (void)settle_far(c.o, c.m);
    }
    return await(c.m, SHMEMX_DEVICE_CALL_MOE_COMBINE, at<const u64>(c.o.back_begun), c.ranks, 1, c.round - 1);
}

/* Threads: pipe.warps warps that send, then those that add. Shared memory below pipe.head: the slots' completion words,
 * [S][R] first, [S][R] upto, a word a sending warp, [R + 2] addends an adding warp. */
SHMEMX_DEVICE_FN void combine(const shmemi_moen &o, const shmemi_moen_combine &a, unsigned char *shared)
{
    const members m = detail::find(block, static_cast<team>(o.team), SHMEMX_DEVICE_CALL_MOE_COMBINE);
    if (m.n == 0)
        return;
    const auto ranks = static_cast<unsigned>(m.n);
    auto *local = at<shmemi_moen_local>(o.local);
    const unsigned lane = arch::lane(block), mine = lane / arch::warp_width, senders = a.pipe.warps;
    unsigned char *at_word = shared + (8 * senders * a.pipe.slots + 15) / 16 * 16;
    auto *first = reinterpret_cast<int *>(at_word), *upto = first + o.sources * ranks;
    auto *words = reinterpret_cast<u32 *>(upto + o.sources * ranks);
    auto *lists = reinterpret_cast<addend *>(at_word + (4 * (2 * o.sources * ranks + senders) + 15) / 16 * 16);
    const routing r(o, a.routing, ranks);
    const combining c{o,
                      a,
                      m,
                      arch::load_relaxed(&local->combines) + 1,
                      ranks,
                      static_cast<unsigned>(m.me),
                      r.tokens(a.tokens),
                      r,
                      first,
                      upto};
#if SHMEMI_MOEN_BULK
    // In a block that only adds the slots' place is the ring's: a word that was opened may not become part of a row.
    const bool adds = a.ring.senders != 0 && arch::block_index() >= a.ring.senders;
    if (lane == 0 && adds)
        ring::open(a.ring, shared, arch::width(block) / arch::warp_width - ring::others);
    else if (lane == 0 && a.pipe.slots != 0)
        arch::bulk_open(reinterpret_cast<u64 *>(shared), senders * a.pipe.slots);
#endif
    for (unsigned j = lane; j < ranks; j += arch::width(block)) { // count is 0 where the dispatch did not fit
        int all = 0, own = 0;
        for (unsigned i = 0; i < o.sources; ++i)
            for (unsigned s = 0; s < ranks; ++s) {
                const int n = r.count[(s * o.sources + i) * ranks + c.me];
                if (s == j) {
                    first[i * ranks + j] = all - own;
                    own += n;
                    upto[i * ranks + j] = own;
                }
                all += n;
            }
    }
    if (meet_back(c)) {
#if SHMEMI_MOEN_BULK
        // observers: this thread, which sees what the stream did before, and that the owners are done with the places of this
        // round, and the copy engine, which reads the one and writes the other
        if (a.pipe.slots != 0)
            arch::bulk_fence();
        if (adds) {
            if (mine == 0)
                ring(c, shared).fill_all();
            else if (mine == 1)
                ring(c, shared).look_up_all();
            else
                ring(c, shared).add_all(mine - ring::others, arch::width(block) / arch::warp_width - ring::others);
        } else
#endif
            if (mine < senders)
            send_back(c, shared, mine, words + mine);
        else if (a.ring.senders == 0)
            add_tokens(c, mine - senders, arch::width(block) / arch::warp_width - senders,
                       lists + (mine - senders) * (ranks + 2));
    }
    arch::sync(block);
    // The next combine writes to the mirror without a word from the owners. And they wait in vain for what has failed; reported.
    (void)settle_far(o, m);
    if (lane == 0 && arch::fetch_add(&local->finished[1], 1u) == arch::blocks() - 1) {
        arch::store_relaxed(&local->finished[1], 0u);
        arch::store_relaxed(&local->taken, 0u);
        arch::store_relaxed(&local->combines, c.round);
    }
}

} // namespace normal
} // namespace moe
} // namespace shmem

#endif
