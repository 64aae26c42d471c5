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

#include "moe_normal.cuh"

namespace shmem
{
namespace moe
{
namespace normal
{

/* ---- the meeting of a dispatch ------------------------------------------------------------------------------------------ */

/* A dispatch as a block sees it. */
struct dispatching {
    const shmemi_moen &o;
    const shmemi_moen_dispatch &a;
    const members m;
    const u64 round;
    const unsigned ranks, me, tokens;
    const routing r;
    // shared memory: [R][S][R] rows from s to d; [S][R] where my rows number 0 would lie, if all were of that source;
    // [S] its first token
    int *count, *start, *first;

    SHMEMX_DEVICE_FN bool quantizes() const
    {
        return a.format == SHMEMI_MOEN_INT8 || a.format == SHMEMI_MOEN_FP8;
    }
    SHMEMX_DEVICE_FN quantizer codec() const
    {
        return quantizer{a.format == SHMEMI_MOEN_INT8 ? as_int8 : as_fp8, o.hidden, a.group, a.ue8m0};
    }
    template <class T> SHMEMX_DEVICE_FN T *there(unsigned rank, u64 address) const
    {
        return detail::peer(m, static_cast<int>(rank), at<T>(address));
    }
    SHMEMX_DEVICE_FN int world(unsigned rank) const
    {
        return detail::world_pe(m, static_cast<int>(rank));
    }
    SHMEMX_DEVICE_FN int rows(unsigned from, unsigned source, unsigned to) const
    {
        return count[(from * o.sources + source) * ranks + to];
    }
    /* What this rank receives. */
    SHMEMX_DEVICE_FN unsigned received() const
    {
        unsigned all = 0;
        for (unsigned i = 0; i < ranks * o.sources; ++i)
            all += static_cast<unsigned>(count[i * ranks + me]);
        return all;
    }
    /* Where the rows of token t lie at rank j: the pos[j]-th from start_of(t)[j] on. */
    SHMEMX_DEVICE_FN const int *start_of(unsigned t) const
    {
        unsigned s = 0;
        while (s + 1 < o.sources && static_cast<int>(t) >= first[s + 1])
            ++s;
        return start + s * ranks;
    }
};

/* Where one token goes: to each rank j with pos[j] >= 0, as its row start[j] + pos[j]. */
struct places {
    const int *pos, *start;

    SHMEMX_DEVICE_FN places(const dispatching &d, unsigned t)
        : pos(d.r.pos + static_cast<u64>(t) * d.ranks), start(d.start_of(t))
    {
    }
    SHMEMX_DEVICE_FN bool go(unsigned j) const
    {
        return pos[j] >= 0;
    }
    SHMEMX_DEVICE_FN u64 row(unsigned j) const
    {
        return static_cast<u64>(start[j] + pos[j]);
    }
};

/* Tells all ranks that this one has begun, and what it is going to send. Relaxed: the words are all there is to know;
 * what this PE's stream did before, like reading the receive buffer, is complete. */
SHMEMX_DEVICE_FN void announce(const dispatching &d)
{
    const unsigned lane = arch::lane(block), width = arch::width(block);
    const u64 tag = d.round << 32;
    for (unsigned j = lane; j < d.ranks; j += width)
        arch::store_relaxed(d.there<u64>(j, d.o.begun) + d.me, tag | d.a.what);
    if (d.a.cached != 0)
        return;
    const unsigned mine = d.o.sources * d.ranks; // words of a rank
    for (unsigned i = lane; i < d.ranks * mine; i += width) {
        const unsigned column = d.me * mine + i % mine;
        arch::store_relaxed(d.there<u64>(i / mine, d.o.counts) + column,
                            tag | static_cast<u32>(d.r.count[column]));
    }
    const owners who(d.o, d.ranks);
    for (unsigned e = lane; d.o.most != 0 && e < d.o.experts; e += width) {
        const unsigned j = who.owner(e);
        arch::store_relaxed(d.there<u64>(j, d.o.chosen) + d.me * d.o.most + (e - who.first(j)),
                            tag | static_cast<u32>(d.r.mine[e]));
    }
}

/* All ranks are here: 0, with `count` and `start` filled; or SHMEMI_MOEN_NO_.., when no row may be sent. Block 0 reports. */
SHMEMX_DEVICE_FN unsigned meet_all(const dispatching &d)
{
    const unsigned lane = arch::lane(block), width = arch::width(block),
                   call = SHMEMX_DEVICE_CALL_MOE_DISPATCH;
    const bool speaks = arch::block_index() == 0;
    const u64 tag = d.round << 32, *begun = at<const u64>(d.o.begun), *counts = at<const u64>(d.o.counts);
    bool ok = true;
    if (!await(d.m, call, begun, d.ranks, 1, tag))
        return SHMEMI_MOEN_NO_PEER;
    for (unsigned j = lane; j < d.ranks; j += width) {
        const u32 what = static_cast<u32>(arch::load_relaxed(begun + j));
        if (what != d.a.what && speaks)
            detail::report(SHMEMX_DEVICE_MISMATCH, call, d.world(j), begun + j, what, d.a.what);
        ok = ok && what == d.a.what;
    }
    if (!arch::all(block, ok))
        return SHMEMI_MOEN_NO_MATCH;
    const unsigned mine = d.o.sources * d.ranks; // words of a rank
    if (d.a.cached == 0 && !await(d.m, call, counts, d.ranks * mine, mine, tag))
        return SHMEMI_MOEN_NO_PEER;
    for (unsigned i = lane; i < d.ranks * mine; i += width)
        d.count[i] = d.a.cached != 0 ? d.r.count[i]
                                     : static_cast<int>(static_cast<u32>(arch::load_relaxed(counts + i)));
    for (unsigned s = lane; s < d.o.sources; s += width) {
        d.first[s] = 0;
        for (unsigned i = 0; i < s; ++i)
            d.first[s] += d.r.sources[i];
    }
    arch::sync(block);
    for (unsigned j = lane; j < d.ranks; j += width) {
        u64 total = 0, own = 0;
        for (unsigned i = 0; i < d.o.sources; ++i) // the order of rows: by source, by rank, by token
            for (unsigned s = 0; s < d.ranks; ++s) {
                const auto n = static_cast<u64>(d.rows(s, i, j));
                if (s == d.me) {
                    d.start[i * d.ranks + j] = static_cast<int>(total - own);
                    own += n;
                }
                total += n;
            }
        if (total > d.o.capacity && speaks)
            detail::report(SHMEMX_DEVICE_LIMIT, call, d.world(j), nullptr, total, d.o.capacity);
        ok = ok && total <= d.o.capacity;
    }
    if (d.a.cached != 0 && d.r.head->valid == 0) // of a dispatch that did not fit: reported then
        ok = false;
    return arch::all(block, ok) ? 0 : static_cast<unsigned>(SHMEMI_MOEN_NO_ROOM);
}

/* Writes down what this rank receives, for the stream, the host and later calls with this routing; by block 0. */
SHMEMX_DEVICE_FN bool write_down(const dispatching &d, unsigned problem)
{
    const unsigned lane = arch::lane(block), width = arch::width(block), ranks = d.ranks;
    const u64 ticket = static_cast<u64>(d.a.ticket) << 32;
    u64 *host = at<u64>(d.a.result.host);
    if (lane == 0) {
        const unsigned rows = problem == 0 ? d.received() : 0;
        *at<int>(d.a.result.rows) = static_cast<int>(rows);
        if (host != nullptr)
            arch::store_relaxed(host, ticket | (problem != 0 ? problem : rows));
        if (d.a.cached == 0)
            d.r.head->valid = problem == 0;
    }
    for (unsigned i = lane; i < d.o.sources * ranks; i += width)
        at<int>(d.a.result.per_source)[i] = problem == 0 ? d.rows(i % ranks, i / ranks, d.me) : 0;
    for (unsigned i = lane; d.a.cached == 0 && i < ranks * d.o.sources * ranks; i += width)
        d.r.count[i] = problem == 0 ? d.count[i] : 0;
    bool ok = true;
    const unsigned experts = d.o.most != 0 ? owners(d.o, ranks).count(d.me) : 0;
    for (unsigned e = lane; e < experts; e += width) {
        unsigned n = problem == 0 && d.a.cached != 0 ? static_cast<unsigned>(d.r.chosen[e]) : 0;
        for (unsigned s = 0; problem == 0 && d.a.cached == 0 && s < ranks; ++s) {
            const u64 *word = at<const u64>(d.o.chosen) + s * d.o.most + e;
            ok = detail::wait_for(SHMEMX_DEVICE_CALL_MOE_DISPATCH, word, ge, d.round << 32,
                                  [&] { return d.world(s); }) &&
                 ok;
            n += static_cast<u32>(arch::load_relaxed(word));
        }
        if (d.a.cached == 0)
            d.r.chosen[e] = static_cast<int>(n);
        n = (n + d.a.alignment - 1) / d.a.alignment * d.a.alignment;
        at<int>(d.a.result.per_expert)[e] = static_cast<int>(n);
        if (host != nullptr)
            arch::store_relaxed(host + 1 + e, ticket | n);
    }
    return arch::all(block, ok);
}

/* ---- rows on their way --------------------------------------------------------------------------------------------------- */

/* Token t's ids, weights and number: by the lanes of a warp, straight into the receivers' arrays. */
SHMEMX_DEVICE_FN void send_small(const dispatching &d, const places &to, unsigned t)
{
    const unsigned lane = arch::lane(warp), topk = d.o.topk;
    const owners who(d.o, d.ranks);
    for (unsigned j = lane; j < d.ranks; j += arch::warp_width)
        if (to.go(j))
            arch::store_plain(d.there<u32>(j, d.a.result.source_token) + to.row(j),
                              d.a.numbers != 0 ? at<const u32>(d.a.numbers)[t] : t);
    if (d.a.idx == 0)
        return;
    for (unsigned p = lane; p < d.ranks * topk; p += arch::warp_width) {
        const unsigned j = p / topk, k = p % topk;
        if (!to.go(j))
            continue;
        const u64 from = static_cast<u64>(t) * topk + k, place = to.row(j) * topk + k;
        const long long e = choice(d.a.idx, d.a.wide, from);
        const bool here = who.has(j, e);
        arch::store_plain(d.there<u64>(j, d.a.result.topk_idx) + place,
                          static_cast<u64>(here ? e - who.first(j) : -1));
        if (d.a.weights != 0 || d.a.ones != 0)
            arch::store_plain(d.there<u32>(j, d.a.result.topk_weights) + place,
                              !here               ? 0u
                              : d.a.weights != 0 ? at<const u32>(d.a.weights)[from]
                                                 : bits_of_float(1));
    }
}

/* The place of a token's row, or scales, at rank j. */
SHMEMX_DEVICE_FN unsigned char *row_there(const dispatching &d, const places &to, unsigned j)
{
    return d.there<unsigned char>(j, d.a.result.x) + to.row(j) * d.a.row_bytes;
}
SHMEMX_DEVICE_FN unsigned char *scales_there(const dispatching &d, const places &to, unsigned j)
{
    return d.there<unsigned char>(j, d.a.result.scales) + to.row(j) * d.a.scale_bytes;
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

#if SHMEMI_MOEN_BULK

/* A warp's tokens, by the copy engine: token w + i * warps is its i-th. */
struct bulk_sender {
    const dispatching &d;
    pipeline pipe;
    unsigned w, warps, n;  // n: tokens of this warp
    u64 shift[lane_ranks]; // from an own address to that of each of this lane's ranks

    SHMEMX_DEVICE_FN bulk_sender(const dispatching &d_, unsigned char *shared, unsigned mine)
        : d(d_), pipe(d_.a.pipe, shared, mine), w(arch::block_index() + mine * arch::blocks()),
          warps(arch::blocks() * d_.a.pipe.warps),
          n(w < d_.tokens ? (d_.tokens - w + warps - 1) / warps : 0)
    {
        SHMEMX_DEVICE_UNROLL
        for (unsigned i = 0; i < lane_ranks; ++i) {
            const unsigned j = rank(i);
            shift[i] = j < d.ranks ? detail::copy_of(d.m, static_cast<int>(j)) - arch::state().copy : 0;
        }
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
    /* By lane 0. */
    SHMEMX_DEVICE_FN void load(unsigned i) const
    {
        if (i >= n)
            return;
        const unsigned s = i % pipe.slots, bytes = d.quantizes() ? d.o.hidden * 2 : d.a.row_bytes;
        const u64 t = token(i);
        unsigned char *slot = pipe.slot(s);
        arch::bulk_load(arch::shared_address(slot), at<const unsigned char>(d.a.x + t * d.a.x_stride), bytes,
                        pipe.done + 8 * s);
        if (d.a.bulk_scales != 0)
            arch::bulk_load(arch::shared_address(slot + d.a.pipe.scales),
                            at<const unsigned char>(d.a.x_scales + t * d.a.x_scales_row), d.a.scale_bytes,
                            pipe.done + 8 * s);
    }
    /* How many tokens are loaded before the first is sent. A slot from which a row leaves as it came is free only when it
     * has left: one slot fewer is loaded. */
    SHMEMX_DEVICE_FN unsigned ahead() const
    {
        return d.quantizes() || pipe.slots == 1 ? pipe.slots : pipe.slots - 1;
    }
    SHMEMX_DEVICE_FN void begin() const
    {
        if (arch::lane(warp) == 0)
            for (unsigned i = 0; i < ahead(); ++i)
                load(i);
    }
    /* Instead of run: nothing is sent, but what has been asked for must come. */
    SHMEMX_DEVICE_FN void abandon()
    {
        for (unsigned i = 0; i < ahead() && i < n; ++i)
            pipe.wait(i % pipe.slots);
    }
    SHMEMX_DEVICE_FN void look_up(unsigned i, int (&pos)[lane_ranks]) const
    {
        SHMEMX_DEVICE_UNROLL
        for (unsigned k = 0; k < lane_ranks; ++k) {
            const unsigned j = rank(k);
            pos[k] = i < n && j < d.ranks ? d.r.pos[static_cast<u64>(token(i)) * d.ranks + j] : -1;
        }
    }
    /* One store for each of this lane's ranks that get the token. */
    SHMEMX_DEVICE_FN void store(unsigned char *slot, const int (&pos)[lane_ranks], const int *start) const
    {
        const unsigned from = arch::shared_address(slot);
        const bool scales = d.quantizes() || d.a.bulk_scales != 0;
        SHMEMX_DEVICE_UNROLL
        for (unsigned k = 0; k < lane_ranks; ++k)
            if (pos[k] >= 0) {
                const u64 row = static_cast<u64>(start[rank(k)] + pos[k]);
                arch::bulk_store(at<unsigned char>(d.a.result.x + shift[k] + row * d.a.row_bytes),
                                 from + d.a.pipe.values, d.a.row_bytes);
                if (scales)
                    arch::bulk_store(at<unsigned char>(d.a.result.scales + shift[k] + row * d.a.scale_bytes),
                                     from + d.a.pipe.scales, d.a.scale_bytes);
            }
        arch::bulk_commit();
    }
    SHMEMX_DEVICE_FN void run()
    {
        const bool leads = arch::lane(warp) == 0;
        int pos[lane_ranks], next[lane_ranks];
        // observers: this lane, which has seen that the receivers are done with their buffers, and the copy engine, which
        // writes there
        arch::bulk_fence();
        look_up(0, pos);
        for (unsigned i = 0; i < n; ++i) {
            const unsigned s = i % pipe.slots, t = token(i);
            unsigned char *slot = pipe.slot(s);
            look_up(i + 1, next); // while this token's row comes
            const places to(d, t);
            send_small(d, to, t);
            if (d.a.x_scales != 0 && d.a.bulk_scales == 0)
                send_scales(d, to, t);
            pipe.wait(s);
            if (d.quantizes()) {
                slot_free(pipe);
                quantize_slot(d.codec(), slot, d.a.pipe.values, d.a.pipe.scales, d.a.scale_bytes);
                if (leads)
                    load(i + pipe.slots);
                store(slot, pos, to.start);
            } else {
                store(slot, pos, to.start);
                slot_free(pipe);
                if (leads)
                    load(i + ahead());
            }
            SHMEMX_DEVICE_UNROLL
            for (unsigned k = 0; k < lane_ranks; ++k)
                pos[k] = next[k];
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
    bool last = true;
    if (lane == 0) {
        if (failed)
            arch::store_relaxed(&local->failed[0], d.round);
        // observers: this block, which has stored into the members' memory, and the last one, which tells them
        arch::fence();
        last = arch::fetch_add(&local->finished[0], 1u) == arch::blocks() - 1;
        // observers: the blocks that have counted before, and this one, which tells
        arch::fence();
    }
    if (!arch::all(block, last))
        return;
    bool ok =
        arch::load_relaxed(&local->failed[0]) != d.round; // else rows may be missing: the others wait in vain
    for (unsigned j = lane; ok && j < d.ranks; j += width)
        if (j != d.me) // release; observers: all blocks of this launch, and rank j below
            arch::store_release(d.there<u64>(j, d.o.arrived) + d.me, d.round);
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
        for (unsigned t = arch::block_index() + mine * arch::blocks(); t < d.tokens; t += warps) {
            const places to(d, t);
            send_small(d, to, t);
            send_vectors(d, to, t);
        }
    }
    part(d, problem == SHMEMI_MOEN_NO_PEER);
}

} // namespace normal
} // namespace moe
} // namespace shmem

#endif
