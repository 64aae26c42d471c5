/* How the ranks of a dispatch of MoE for large batches meet: who sends how many rows to whom, and so where. The rows themselves:
 * moe_normal_dispatch.cuh, which also says why nothing is reset. */
#ifndef SHMEMI_GPU_MOE_NORMAL_MEET_CUH
#define SHMEMI_GPU_MOE_NORMAL_MEET_CUH

#include "moe_normal_far.cuh"

namespace shmem
{
namespace moe
{
namespace normal
{

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

    /* Whether this block sends to rank j. */
    SHMEMX_DEVICE_FN bool serves(unsigned j) const
    {
        return a.abroad == 0 || (arch::block_index() < a.abroad) == (j != me);
    }
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
    /* Where rows for a rank are written: in its result, or in the mirror of that. */
    template <class T> SHMEMX_DEVICE_FN T *arriving(unsigned rank, u64 result, u64 mirror) const
    {
        return far(o, rank) ? at<T>(mirror) : there<T>(rank, result);
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
    /* Rows of rank j before those from here; S is 1. */
    SHMEMX_DEVICE_FN unsigned before(unsigned j) const
    {
        unsigned all = 0;
        for (unsigned s = 0; s < me; ++s)
            all += static_cast<unsigned>(rows(s, 0, j));
        return all;
    }
    /* Where the rows of token t lie at rank j, or in the mirror: the pos[j]-th from start_of(t)[j] on. */
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
    const dispatching &d;
    const int *pos, *start;

    SHMEMX_DEVICE_FN places(const dispatching &d_, unsigned t)
        : d(d_), pos(d.r.pos + static_cast<u64>(t) * d.ranks), start(d.start_of(t))
    {
    }
    SHMEMX_DEVICE_FN bool go(unsigned j) const
    {
        return pos[j] >= 0 && d.serves(j);
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
        if (!far(d.o, j))
            arch::store_relaxed(d.there<u64>(j, d.o.begun) + d.me, tag | d.a.what);
    if (d.a.cached == 0) {
        const unsigned mine = d.o.sources * d.ranks; // words of a rank
        for (unsigned i = lane; i < d.ranks * mine; i += width) {
            const unsigned column = d.me * mine + i % mine;
            if (!far(d.o, i / mine))
                arch::store_relaxed(d.there<u64>(i / mine, d.o.counts) + column,
                                    tag | static_cast<u32>(d.r.count[column]));
        }
        const owners who(d.o, d.ranks);
        for (unsigned e = lane; d.o.most != 0 && e < d.o.experts; e += width) {
            const unsigned j = who.owner(e);
            u64 *word = far(d.o, j) ? at<u64>(d.o.mirror.chosen) + e
                                    : d.there<u64>(j, d.o.chosen) + d.me * d.o.most + (e - who.first(j));
            arch::store_relaxed(word, tag | static_cast<u32>(d.r.mine[e]));
        }
    }
    announce_far(d.o, d.m, d.a.cached == 0, tag | d.a.what);
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
                    d.start[i * d.ranks + j] = static_cast<int>(far(d.o, j) ? j * d.o.max_tokens : total - own);
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

} // namespace normal
} // namespace moe
} // namespace shmem

#endif
