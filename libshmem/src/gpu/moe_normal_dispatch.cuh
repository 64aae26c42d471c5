/* Dispatch of MoE for large batches.
 *
 * All ranks tell all how many rows they have for whom (words that hold the round, so that nothing is cleared and nothing
 * has to be published), so everybody knows where in everybody's receive buffer its rows begin. A warp then takes a token:
 * one load by the SM's copy engine, quantized in shared memory if so wanted, one store a destination; loads of its next
 * tokens are in flight meanwhile. At the end each rank publishes once, and waits for all.
 *
 * Reuse. A rank's begun and count words of a round say that its stream has come to this dispatch, and so is done with
 * what the receive buffer held: nobody stores a row before they are there. Nobody stores words of the next round before
 * all ranks have ended this one, in which they read those words. */
#ifndef SHMEMI_GPU_MOE_NORMAL_DISPATCH_CUH
#define SHMEMI_GPU_MOE_NORMAL_DISPATCH_CUH

#include "moe_normal_meet.cuh"

namespace shmem
{
namespace moe
{
namespace normal
{

/* ---- rows on their way --------------------------------------------------------------------------------------------------- */

/* What travels beside a token's row, by the lanes of a warp, straight into the receivers' arrays: its number, ids and weights.
 * A lane has a (rank, choice), or several; for the first the token's words are loaded early, `load`, while other things are
 * waited for, and the divisions and addresses are those of all tokens. */
struct small_sender {
    const dispatching &d;
    struct mine {
        unsigned rank, k, first, count; // that rank's experts
    };
    struct words {
        int pos, expert; // expert: among that rank's, or -1
        u32 weight, number;
    };
    const unsigned lane, some; // some: (rank, choice)s of a token
    const owners who;
    const mine own;

    SHMEMX_DEVICE_FN explicit small_sender(const dispatching &d_)
        : d(d_), lane(arch::lane(warp)), some(d_.a.idx != 0 ? d_.ranks * d_.o.topk : 0), who(d_.o, d_.ranks),
          own(of(lane < some ? lane : 0))
    {
    }
    SHMEMX_DEVICE_FN mine of(unsigned p) const
    {
        mine m;
        m.rank = p / d.o.topk;
        m.k = p % d.o.topk;
        m.first = who.first(m.rank);
        m.count = who.count(m.rank);
        return m;
    }
    SHMEMX_DEVICE_FN words load(unsigned t, const mine &m, bool here) const
    {
        words w = {-1, -1, 0, t};
        if (here) {
            const u64 from = static_cast<u64>(t) * d.o.topk + m.k;
            w.pos = d.r.pos[static_cast<u64>(t) * d.ranks + m.rank];
            const long long e = choice(d.a.idx, d.a.wide, from) - m.first;
            w.expert = e >= 0 && e < m.count ? static_cast<int>(e) : -1;
            w.weight = d.a.weights != 0 ? at<const u32>(d.a.weights)[from] : bits_of_float(1);
        }
        if (d.a.numbers != 0)
            w.number = at<const u32>(d.a.numbers)[t];
        return w;
    }
    SHMEMX_DEVICE_FN words load(unsigned t) const
    {
        return load(t, own, lane < some && d.serves(own.rank));
    }
    SHMEMX_DEVICE_FN void store(const int *start, const mine &m, const words &w) const
    {
        if (w.pos < 0)
            return;
        const u64 place = static_cast<u64>(start[m.rank] + w.pos) * d.o.topk + m.k;
        arch::store_plain(d.arriving<u64>(m.rank, d.a.result.topk_idx, d.o.mirror.topk_idx) + place,
                          static_cast<u64>(static_cast<long long>(w.expert)));
        if (d.a.weights != 0 || d.a.ones != 0)
            arch::store_plain(d.arriving<u32>(m.rank, d.a.result.topk_weights, d.o.mirror.topk_weights) + place,
                              w.expert >= 0 ? w.weight : 0u);
    }
    /* w: load(t). */
    SHMEMX_DEVICE_FN void send(unsigned t, const places &to, const words &w) const
    {
        for (unsigned j = lane; j < d.ranks; j += arch::warp_width)
            if (to.go(j))
                arch::store_plain(d.arriving<u32>(j, d.a.result.source_token, d.o.mirror.source_token) + to.row(j),
                                  w.number);
        store(to.start, own, w);
        for (unsigned p = lane + arch::warp_width; p < some; p += arch::warp_width) {
            const mine m = of(p);
            store(to.start, m, load(t, m, d.serves(m.rank)));
        }
    }
};

/* The place of a token's row, or scales, at rank j. */
SHMEMX_DEVICE_FN unsigned char *row_there(const dispatching &d, const places &to, unsigned j)
{
    return d.arriving<unsigned char>(j, d.a.result.x, d.o.mirror.x) + to.row(j) * d.a.row_bytes;
}
SHMEMX_DEVICE_FN unsigned char *scales_there(const dispatching &d, const places &to, unsigned j)
{
    return d.arriving<unsigned char>(j, d.a.result.scales, d.o.mirror.scales) + to.row(j) * d.a.scale_bytes;
}
/* A scale, to all who get the row. */
SHMEMX_DEVICE_FN void send_scale(const dispatching &d, const places &to, unsigned g, u32 value)
{
    for (unsigned j = 0; j < d.ranks; ++j)
        if (to.go(j))
            arch::store_plain(reinterpret_cast<u32 *>(scales_there(d, to, j)) + g, value);
}
/* The caller's scales, wherever they lie; behind the last there are zeros. */
SHMEMX_DEVICE_FN void send_scales(const dispatching &d, const places &to, unsigned t)
{
    for (unsigned g = arch::lane(warp); g < d.a.scale_bytes / 4; g += arch::warp_width)
        send_scale(d, to, g,
                   g < d.a.groups
                       ? *at<const u32>(d.a.x_scales + t * d.a.x_scales_row + g * d.a.x_scales_column)
                       : 0u);
}

/* One token's row without the copy engine, by a warp. */
SHMEMX_DEVICE_FN void send_vectors(const dispatching &d, const places &to, unsigned t)
{
    const unsigned lane = arch::lane(warp);
    const auto *x = at<const unsigned char>(d.a.x + t * d.a.x_stride);
    if (!d.quantizes()) {
        for (unsigned j = 0; j < d.ranks; ++j)
            if (to.go(j))
                detail::copy_lanes<detail::from_here>(lane, arch::warp_width, row_there(d, to, j), x,
                                                      d.a.row_bytes);
        if (d.a.x_scales != 0)
            send_scales(d, to, t);
        return;
    }
    quantize_row(
        detail::crew{0, 1}, d.codec(),
        [&](unsigned w) { return arch::load_plain(reinterpret_cast<const arch::vec16 *>(x) + w); },
        [&](unsigned w, u64 eight) {
            for (unsigned j = 0; j < d.ranks; ++j)
                if (to.go(j))
                    arch::store_plain(reinterpret_cast<u64 *>(row_there(d, to, j)) + w, eight);
        },
        [&](unsigned g, float scale) { send_scale(d, to, g, bits_of_float(scale)); });
    for (unsigned g = d.a.groups + lane; g < d.a.scale_bytes / 4; g += arch::warp_width)
        send_scale(d, to, g, 0);
}

/* ---- rows that a NIC takes --------------------------------------------------------------------------------------------------- */

/* Puts what the mirror has for the far rank j of tokens `begin` to `end`, by one thread. */
SHMEMX_DEVICE_FN void put_tokens(const dispatching &d, unsigned j, unsigned begin, unsigned end)
{
    int first = -1, last = -1;
    for (unsigned t = begin; t < end && first < 0; ++t)
        first = d.r.pos[static_cast<u64>(t) * d.ranks + j];
    for (unsigned t = end; t > begin && last < 0; --t)
        last = d.r.pos[static_cast<u64>(t - 1) * d.ranks + j];
    if (first < 0)
        return;
    const auto p = static_cast<u64>(first), n = static_cast<u64>(last) - p + 1;
    const u64 there = d.before(j) + p, here = static_cast<u64>(j) * d.o.max_tokens + p;
    const shmemi_moen_result &to = d.a.result;
    const shmemi_moen_mirror &from = d.o.mirror;
    put_rows(d.m, j, to.x, there, from.x, here, n, d.a.row_bytes);
    if (d.a.scale_bytes != 0)
        put_rows(d.m, j, to.scales, there, from.scales, here, n, d.a.scale_bytes);
    put_rows(d.m, j, to.source_token, there, from.source_token, here, n, 4);
    if (d.a.idx == 0)
        return;
    put_rows(d.m, j, to.topk_idx, there, from.topk_idx, here, n, 8ull * d.o.topk);
    if (d.a.weights != 0 || d.a.ones != 0)
        put_rows(d.m, j, to.topk_weights, there, from.topk_weights, here, n, 4ull * d.o.topk);
}

/* A warp has written its tokens of a tile, TILE tokens of each of so many warps. The last one to do so puts all rows of it. d by
 * value, as for send_chunk_vectors. */
SHMEMX_DEVICE_CALL void count_tile(dispatching d, unsigned tile, unsigned warps)
{
    const unsigned size = SHMEMI_MOEN_TILE * warps, begin = tile * size, left = d.tokens - begin,
                   here = left < warps ? left : warps;
    arch::bulk_wait(); // each lane: what it has started is written
    arch::sync(warp);
    bool last = true;
    if (arch::lane(warp) == 0) {
        u32 *staged = at<u32>(d.o.mirror.staged) + tile;
        // observers: this warp, which has written to the mirror, and the one that puts it; of this GPU: a post has a fence for the NIC
        arch::fence_gpu();
        last = arch::fetch_add(staged, 1u) == here - 1;
        if (last) {
            // observers: the warps that have counted before, and this one, which puts
            arch::fence_gpu();
            arch::store_relaxed(staged, 0u);
        }
    }
    if (!arch::all(warp, last))
        return;
    for (unsigned j = arch::lane(warp); j < d.ranks; j += arch::warp_width)
        if (far(d.o, j))
            put_tokens(d, j, begin, left < size ? d.tokens : begin + size);
    arch::sync(warp);
}
/* Its i-th token, the first of which is w. */
SHMEMX_DEVICE_FN void count_token(const dispatching &d, unsigned w, unsigned warps, unsigned i)
{
    const bool ends = (i + 1) % SHMEMI_MOEN_TILE == 0 || w + (i + 1) * warps >= d.tokens;
    if (detail::some_far() && d.o.mirror.far != 0 && ends)
        count_tile(d, i / SHMEMI_MOEN_TILE, warps);
}

#if SHMEMI_MOEN_BULK

/* A warp's tokens, by the copy engine: token w + i * warps is its i-th. Rows that are quantized go part by part. Others may
 * travel by some blocks, and be copied within the rank by the rest, so that copies do not wait behind what waits for a link. */
struct bulk_sender {
    const dispatching &d;
    pipeline pipe;
    unsigned w, warps, n;  // n: tokens of this warp
    const unsigned columns, values; // of a part; bytes of its values as they travel
    bulk_cursor coming = {0, 0, 0};
    const unsigned char *next_part = nullptr; // of `coming`
    u64 shift[lane_ranks]; // from an own address to that of each of this lane's ranks

    SHMEMX_DEVICE_FN bulk_sender(const dispatching &d_, unsigned char *shared, unsigned mine)
        : d(d_), pipe(d_.a.pipe, shared, mine), w(arch::block_index() - first(d_) + mine * crew(d_)),
          warps(crew(d_) * d_.a.pipe.warps),
          n(w < d_.tokens ? (d_.tokens - w + warps - 1) / warps : 0), columns(d_.o.hidden / d_.a.parts),
          values(d_.a.row_bytes / d_.a.parts)
    {
        SHMEMX_DEVICE_UNROLL
        for (unsigned i = 0; i < lane_ranks; ++i) {
            const unsigned j = rank(i);
            shift[i] = j < d.ranks && !far(d.o, j) ? detail::copy_of(d.m, static_cast<int>(j)) - arch::state().copy : 0;
        }
    }
    /* The blocks that share the tokens with this one: the first, and how many. */
    SHMEMX_DEVICE_FN static unsigned first(const dispatching &d)
    {
        return arch::block_index() < d.a.abroad ? 0 : d.a.abroad;
    }
    SHMEMX_DEVICE_FN static unsigned crew(const dispatching &d)
    {
        return arch::block_index() < d.a.abroad ? d.a.abroad : arch::blocks() - d.a.abroad;
    }
    SHMEMX_DEVICE_FN bool abroad() const // this block sends to other ranks
    {
        return arch::block_index() < d.a.abroad || d.a.abroad == 0;
    }
    /* This lane's i-th rank; `ranks` = none. Lane 0 has the rank behind this one: not all go to one at once. */
    SHMEMX_DEVICE_FN unsigned rank(unsigned i) const
    {
        const unsigned j = arch::lane(warp) + i * arch::warp_width, k = d.me + 1 + j;
        return j >= d.ranks ? d.ranks : k < d.ranks ? k : k - d.ranks;
    }
    SHMEMX_DEVICE_FN unsigned token(unsigned i) const
    {
        return w + i * warps;
    }
    /* The next part that is to come; by lane 0. */
    SHMEMX_DEVICE_FN void load()
    {
        if (coming.row >= n)
            return;
        const unsigned bytes = d.quantizes() ? columns * 2 : values, done = pipe.done + 8 * coming.slot;
        const u64 t = token(coming.row);
        if (coming.part == 0)
            next_part = at<const unsigned char>(d.a.x + t * d.a.x_stride);
        arch::bulk_load(pipe.address(coming.slot), next_part, bytes, done);
        next_part += bytes;
        if (d.a.bulk_scales != 0)
            arch::bulk_load(pipe.address(coming.slot) + d.a.pipe.scales,
                            at<const unsigned char>(d.a.x_scales + t * d.a.x_scales_row), d.a.scale_bytes, done);
        coming.next(d.a.parts, pipe.slots);
    }
    /* How many parts are loaded before the first is sent. A slot from which a row leaves as it came is free only when it
     * has left: one slot fewer is loaded. */
    SHMEMX_DEVICE_FN unsigned ahead() const
    {
        return d.quantizes() || pipe.slots == 1 ? pipe.slots : pipe.slots - 1;
    }
    SHMEMX_DEVICE_FN void begin()
    {
        if (arch::lane(warp) == 0)
            for (unsigned i = 0; i < ahead(); ++i)
                load();
    }
    /* Instead of run: nothing is sent, but what has been asked for must come. */
    SHMEMX_DEVICE_FN void abandon()
    {
        for (unsigned i = 0; i < ahead() && i < n * d.a.parts; ++i)
            pipe.wait(i);
    }
    SHMEMX_DEVICE_FN void look_up(unsigned i, int (&pos)[lane_ranks]) const
    {
        SHMEMX_DEVICE_UNROLL
        for (unsigned k = 0; k < lane_ranks; ++k) {
            const unsigned j = rank(k);
            pos[k] = has(k) && i < n && j < d.ranks && d.serves(j) ? d.r.pos[static_cast<u64>(token(i)) * d.ranks + j] : -1;
        }
    }
    /* Whether this lane has an i-th rank at all; the question alone spares most jobs half of what follows. */
    SHMEMX_DEVICE_FN bool has(unsigned i) const
    {
        return i == 0 || d.ranks > i * arch::warp_width;
    }
    /* Where the rows for this lane's i-th rank are written. */
    SHMEMX_DEVICE_FN u64 arriving(unsigned i, u64 result, u64 mirror) const
    {
        return far(d.o, rank(i)) ? mirror : result + shift[i];
    }
    /* A part: one store for each of this lane's ranks that get the token, as their row[..]; `scales`, if not 0: the row's, where
     * they lie. */
    SHMEMX_DEVICE_FN void store(unsigned from, u64 part, unsigned scales, const int (&row)[lane_ranks]) const
    {
        SHMEMX_DEVICE_UNROLL
        for (unsigned k = 0; k < lane_ranks; ++k)
            if (has(k) && row[k] >= 0) {
                arch::bulk_store(at<unsigned char>(arriving(k, d.a.result.x, d.o.mirror.x) + part +
                                                   static_cast<u64>(static_cast<unsigned>(row[k])) * d.a.row_bytes),
                                 from, values);
                if (scales != 0)
                    arch::bulk_store(
                        at<unsigned char>(arriving(k, d.a.result.scales, d.o.mirror.scales) +
                                          static_cast<u64>(static_cast<unsigned>(row[k])) * d.a.scale_bytes),
                        scales, d.a.scale_bytes);
            }
        arch::bulk_commit();
    }
    SHMEMX_DEVICE_FN void run()
    {
        const bool leads = arch::lane(warp) == 0, quantizes = d.quantizes();
        const unsigned parts = d.a.parts;
        int row[lane_ranks], next[lane_ranks];
        quantizer codec = d.codec();
        const unsigned log = quick_log(codec), groups = (columns + codec.group - 1) / codec.group; // of a part
        codec.hidden = columns;
        const small_sender small(d);
        small_sender::words beside = {-1, 0, 0, 0};
        if (n != 0)
            beside = small.load(w);
        // observers: this lane, which has seen that the receivers are done with their buffers, and the copy engine, which
        // writes there
        arch::bulk_fence();
        look_up(0, next);
        pipe.clear_side(d.a.pipe);
        unsigned s = 0;
        for (unsigned i = 0; i < n; ++i) {
            const unsigned t = token(i);
            const places to(d, t);
            SHMEMX_DEVICE_UNROLL
            for (unsigned k = 0; k < lane_ranks; ++k)
                row[k] = has(k) && next[k] >= 0 ? to.start[rank(k)] + next[k] : -1;
            small.send(t, to, beside);
            if (i + 1 < n)
                beside = small.load(token(i + 1));
            look_up(i + 1, next);
            if (d.a.x_scales != 0 && d.a.bulk_scales == 0)
                send_scales(d, to, t);
            unsigned char *side = pipe.side(d.a.pipe, i);
            for (unsigned part = 0; part < parts; ++part) {
                const unsigned from = pipe.address(s);
                pipe.wait(s);
                if (quantizes) {
                    slot_free(pipe);
                    quantize_slot(codec, log, pipe.slot(s), d.a.pipe.values,
                                  reinterpret_cast<u32 *>(side) + part * groups);
                    if (leads)
                        load();
                    store(from + d.a.pipe.values, part * values, part + 1 == parts ? arch::shared_address(side) : 0,
                          row);
                } else {
                    store(from, part * values, d.a.bulk_scales != 0 ? from + d.a.pipe.scales : 0, row);
                    slot_free(pipe);
                    if (leads)
                        load();
                }
                s = s + 1 == pipe.slots ? 0 : s + 1;
            }
            if (abroad())
                count_token(d, w, warps, i);
        }
    }
};

#endif // SHMEMI_MOEN_BULK

/* ---- dispatch ------------------------------------------------------------------------------------------------------------ */

/* The end: the block that is last tells all ranks that everything from here has arrived, and waits for theirs. */
SHMEMX_DEVICE_FN void part(const dispatching &d, bool failed)
{
    const unsigned lane = arch::lane(block), width = arch::width(block);
    auto *local = at<shmemi_moen_local>(d.o.local);
    arch::bulk_wait(); // each lane: what it has started is written
    arch::sync(block);
    failed = !settle_far(d.o, d.m) || failed;
    bool last = true;
    if (lane == 0) {
        if (failed)
            arch::store_relaxed(&local->failed[0], d.round);
        // observers: this block, which has stored into the members' memory, and the last one, which tells them
        arch::fence();
        last = arch::fetch_add(&local->finished[0], 1u) == arch::blocks() - 1;
        // observers: the blocks that have counted before, and this one, which tells
        if (last)
            arch::fence();
    }
    if (!arch::all(block, last))
        return;
    bool ok =
        arch::load_relaxed(&local->failed[0]) != d.round; // else rows may be missing: the others wait in vain
    for (unsigned j = 0; ok && lane == 0 && j < d.ranks; ++j)
        if (j != d.me) // relaxed: by the thread of the fence above; observers: all blocks of this launch, and rank j below
            tell(d.o, d.m, j, d.o.arrived, d.me, d.round);
    // Nobody waits for these words to be complete. They have no source in memory; and the next ones, which another block may
    // post, come when all ranks have begun that round, so have seen these. That all before them has arrived was just seen: one
    // that fails alone is found by the next wait for its queue pair, here or on the host.
    for (unsigned j = lane; ok && j < d.ranks; j += width)
        if (j != d.me)
            detail::wait_for(SHMEMX_DEVICE_CALL_MOE_DISPATCH, at<const u64>(d.o.arrived) + j, ge, d.round,
                             [&] { return d.world(j); });
    arch::sync(block);
    if (lane == 0) {
        arch::store_relaxed(&local->finished[0], 0u);
        arch::store_relaxed(&local->dispatches, d.round);
    }
}

/* Rows behind the received ones. */
SHMEMX_DEVICE_FN void mark_empty(const dispatching &d, unsigned problem)
{
    const u64 rows = problem == 0 ? d.received() : 0;
    const u64 end = static_cast<u64>(d.o.capacity) * d.o.topk, width = arch::width(detail::grid);
    for (u64 i = rows * d.o.topk + arch::lane(detail::grid); i < end; i += width)
        arch::store_plain(at<u64>(d.a.result.topk_idx) + i, ~0ull);
}

/* Threads: pipe.warps warps. */
SHMEMX_DEVICE_FN void dispatch(const shmemi_moen &o, const shmemi_moen_dispatch &a, unsigned char *shared)
{
    const members m = detail::find(block, static_cast<team>(o.team), SHMEMX_DEVICE_CALL_MOE_DISPATCH);
    if (m.n == 0)
        return;
    const auto ranks = static_cast<unsigned>(m.n);
    const unsigned mine = arch::lane(block) / arch::warp_width,
                   words = (8 * a.pipe.warps * a.pipe.slots + 15) / 16 * 16;
    auto *count = reinterpret_cast<int *>(shared + words);
    int *const start = count + ranks * o.sources * ranks;
    const u64 round = arch::load_relaxed(&at<shmemi_moen_local>(o.local)->dispatches) + 1;
    const routing r(o, a.routing, ranks);
    const dispatching d{o,     a, m,     round, ranks, static_cast<unsigned>(m.me), r.tokens(a.tokens),
                        r,     count, start, start + o.sources * ranks};
#if SHMEMI_MOEN_BULK
    if (a.pipe.slots != 0) {
        if (arch::lane(block) == 0)
            arch::bulk_open(reinterpret_cast<u64 *>(shared), a.pipe.warps * a.pipe.slots,
                            a.bulk_scales != 0 ? 2 : 1);
        // observers: this thread, which sees what the stream did before, and the copy engine, which reads it
        arch::bulk_fence();
        arch::sync(block);
    }
    bulk_sender engine(d, shared, mine);
    if (a.pipe.slots != 0)
        engine.begin(); // the first rows come while the ranks meet
#endif
    if (arch::block_index() == 0)
        announce(d);
    unsigned problem = meet_all(d);
    if (arch::block_index() == 0 && !write_down(d, problem))
        problem = SHMEMI_MOEN_NO_PEER;
    if (a.worst_case != 0 && a.cached == 0)
        mark_empty(d, problem);
#if SHMEMI_MOEN_BULK
    if (a.pipe.slots != 0) {
        if (problem == 0)
            engine.run();
        else
            engine.abandon();
    }
#endif
    if (problem == 0 && (a.pipe.slots == 0 || !SHMEMI_MOEN_BULK)) {
        const unsigned warps = arch::blocks() * a.pipe.warps;
        const small_sender small(d);
        const unsigned first = arch::block_index() + mine * arch::blocks();
        for (unsigned t = first; t < d.tokens; t += warps) {
            const places to(d, t);
            small.send(t, to, small.load(t));
            send_vectors(d, to, t);
            count_token(d, first, warps, (t - first) / warps);
        }
    }
    part(d, problem == SHMEMI_MOEN_NO_PEER);
}

} // namespace normal
} // namespace moe
} // namespace shmem

#endif
