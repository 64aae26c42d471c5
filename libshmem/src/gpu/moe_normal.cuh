/* What the MoE kernels for large batches share, and where tokens go. The others: moe_normal_dispatch.cuh,
 * moe_normal_combine.cuh. Compiled for GPUs (moe_normal.cu) and for CPU threads (tests/device). */
#ifndef SHMEMI_GPU_MOE_NORMAL_CUH
#define SHMEMI_GPU_MOE_NORMAL_CUH

#include "moe_normal_args.h"
#include "moe_normal_quant.cuh"

/* Is there a copy engine, or what stands for it on CPU threads? */
#if !defined(__CUDACC__) || (defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900)
#define SHMEMI_MOEN_BULK 1
#else
#define SHMEMI_MOEN_BULK 0
#endif

namespace shmem
{
namespace moe
{
namespace normal
{

using detail::members;

/* Ranks are shared out to the lanes of a warp: lane, lane + 32, .. */
constexpr unsigned lane_ranks = SHMEMI_MOEN_MAX_RANKS / arch::warp_width;

template <class T> SHMEMX_DEVICE_FN T *at(u64 address)
{
    return reinterpret_cast<T *>(address);
}
SHMEMX_DEVICE_FN long long choice(u64 idx, unsigned wide, u64 i)
{
    return wide != 0 ? at<const long long>(idx)[i] : at<const int>(idx)[i];
}

/* Which experts are whose: each rank has those of `each` shares. */
struct owners {
    unsigned base, extra, each;

    SHMEMX_DEVICE_FN owners(unsigned experts, unsigned ranks, unsigned each_ = 1)
        : base(experts / (ranks * each_)), extra(experts % (ranks * each_)), each(each_)
    {
    }
    SHMEMX_DEVICE_FN owners(const shmemi_moen &o, unsigned ranks) : owners(o.experts, ranks, o.each)
    {
    }
    SHMEMX_DEVICE_FN unsigned first(unsigned rank) const
    {
        const unsigned share = rank * each;
        return share * base + (share < extra ? share : extra);
    }
    SHMEMX_DEVICE_FN unsigned count(unsigned rank) const
    {
        return first(rank + 1) - first(rank);
    }
    SHMEMX_DEVICE_FN unsigned owner(unsigned e) const
    {
        const unsigned wide = extra * (base + 1);
        return (e < wide ? e / (base + 1) : extra + (e - wide) / base) / each;
    }
    SHMEMX_DEVICE_FN bool has(unsigned rank, long long e) const
    {
        return e >= first(rank) && e < first(rank) + count(rank);
    }
};

/* A routing's arrays. */
struct routing {
    shmemi_moen_routing *head;
    int *count, *sources, *chosen, *mine, *pos;

    SHMEMX_DEVICE_FN routing(const shmemi_moen &o, u64 address, unsigned ranks)
    {
        const shmemi_moen_places p = shmemi_moen_place_all(&o, ranks);
        head = at<shmemi_moen_routing>(address);
        count = at<int>(address + p.count);
        sources = at<int>(address + p.sources);
        chosen = at<int>(address + p.chosen);
        mine = at<int>(address + p.mine);
        pos = at<int>(address + p.pos);
    }
    /* How many tokens it is of, where the host knows or not. */
    SHMEMX_DEVICE_FN unsigned tokens(unsigned known) const
    {
        return known != SHMEMI_MOEN_ROUTED ? known : static_cast<unsigned>(head->tokens);
    }
};

/* ---- where tokens go --------------------------------------------------------------------------------------------------- */

/* Tokens that a thread takes at a time; shared memory: a byte for each, and two words a thread. */
constexpr unsigned layout_run = 16;

/* Sums of all threads' values up to the own one, which is included. */
SHMEMX_DEVICE_FN u32 running_sum(u32 value, u32 *sums, u32 &total)
{
    const unsigned lane = arch::lane(block), width = arch::width(block);
    u32 *from = sums, *to = sums + width;
    from[lane] = value;
    arch::sync(block);
    SHMEMX_DEVICE_ROLLED
    for (unsigned apart = 1; apart < width; apart *= 2) {
        value += lane >= apart ? from[lane - apart] : 0;
        to[lane] = value;
        arch::sync(block);
        u32 *const swap = from;
        from = to;
        to = swap;
    }
    total = from[width - 1];
    arch::sync(block);
    return value;
}

SHMEMX_DEVICE_FN unsigned tokens_of(const shmemi_moen_layout &a, unsigned source)
{
    return a.sources != 0 ? static_cast<unsigned>(at<int>(a.sources)[source]) : a.tokens;
}
SHMEMX_DEVICE_FN unsigned tokens_of_all(const shmemi_moen &o, const shmemi_moen_layout &a)
{
    unsigned all = 0;
    for (unsigned s = 0; s < o.sources; ++s)
        all += tokens_of(a, s);
    return all;
}

/* One rank's column for the tokens from `first` to `last`, by a block; `before` of the tokens in front of them go there.
 * Returns how many with these. */
SHMEMX_DEVICE_FN u32 layout_rank(const shmemi_moen &o, const shmemi_moen_layout &a, const members &m,
                                 unsigned rank, unsigned first, unsigned last, u32 before, u32 *shared)
{
    const unsigned lane = arch::lane(block), width = arch::width(block), ranks = static_cast<unsigned>(m.n);
    const owners who(o, ranks);
    const routing r(o, a.routing, ranks);
    auto *goes = reinterpret_cast<u8 *>(shared + 2 * width);
    for (unsigned from = first; from < last; from += layout_run * width) {
        const unsigned left = last - from, tile = left < layout_run * width ? left : layout_run * width;
        const unsigned run = (tile + width - 1) / width;
        for (unsigned i = lane; i < tile; i += width) { // neighbours read neighbouring tokens
            bool here = false;
            for (unsigned k = 0; k < o.topk; ++k)
                here = here || who.has(rank, choice(a.idx, a.wide, static_cast<u64>(from + i) * o.topk + k));
            goes[i] = here;
            if (a.in_rank != 0)
                at<u8>(a.in_rank)[static_cast<u64>(from + i) * ranks + rank] = here;
        }
        arch::sync(block);
        const unsigned begin = lane * run < tile ? lane * run : tile,
                       end = begin + run < tile ? begin + run : tile;
        u32 here = 0, total;
        for (unsigned i = begin; i < end; ++i)
            here += goes[i];
        u32 next = before + running_sum(here, shared, total) - here;
        for (unsigned i = begin; a.routing != 0 && i < end; ++i)
            r.pos[static_cast<u64>(from + i) * ranks + rank] = goes[i] != 0 ? static_cast<int>(next++) : -1;
        before += total;
        arch::sync(block);
    }
    return before;
}
/* The whole column. */
SHMEMX_DEVICE_FN void layout_rank(const shmemi_moen &o, const shmemi_moen_layout &a, const members &m,
                                  unsigned rank, u32 *shared)
{
    const unsigned ranks = static_cast<unsigned>(m.n);
    const bool leads = arch::lane(block) == 0;
    const routing r(o, a.routing, ranks);
    unsigned first = 0;
    u32 before = 0;
    for (unsigned s = 0; s < o.sources; ++s) {
        const unsigned n = tokens_of(a, s);
        const u32 all = layout_rank(o, a, m, rank, first, first + n, before, shared);
        if (leads && a.routing != 0) {
            r.count[(static_cast<unsigned>(m.me) * o.sources + s) * ranks + rank] = static_cast<int>(all - before);
            if (rank == 0)
                r.sources[s] = static_cast<int>(n);
        }
        first += n;
        before = all;
    }
    if (leads && a.per_rank != 0)
        at<int>(a.per_rank)[rank] = static_cast<int>(before);
    if (leads && a.routing != 0 && rank == 0)
        *r.head = shmemi_moen_routing{0, static_cast<int>(first), {0, 0}};
}

/* Choices of each expert, by a block that also reports what is no expert. */
SHMEMX_DEVICE_FN void layout_experts(const shmemi_moen &o, const shmemi_moen_layout &a, const members &m,
                                     u32 *shared)
{
    const unsigned lane = arch::lane(block), width = arch::width(block);
    const routing r(o, a.routing, static_cast<unsigned>(m.n));
    const u64 all = static_cast<u64>(tokens_of_all(o, a)) * o.topk;
    const unsigned window = SHMEMI_MOEN_WINDOW;
    for (unsigned base = 0; base < o.experts; base += window) {
        const unsigned left = o.experts - base, n = left < window ? left : window;
        for (unsigned e = lane; e < n; e += width)
            shared[e] = 0;
        arch::sync(block);
        for (u64 i = lane; i < all; i += width) {
            const long long e = choice(a.idx, a.wide, i);
            if (e >= base && e < base + n)
                arch::add_shared(shared + (static_cast<unsigned>(e) - base), 1);
            else if (base == 0 && (e < -1 || e >= o.experts))
                detail::report(SHMEMX_DEVICE_EXPERT, SHMEMX_DEVICE_CALL_MOE_LAYOUT, -1, at<const u8>(a.idx),
                               i, o.experts);
        }
        arch::sync(block);
        for (unsigned e = lane; e < n; e += width) {
            if (a.per_expert != 0)
                at<int>(a.per_expert)[base + e] = static_cast<int>(shared[e]);
            if (a.routing != 0)
                r.mine[base + e] = static_cast<int>(shared[e]);
        }
        arch::sync(block);
    }
}

/* Reports a token that goes to more nodes than the caller has said. */
SHMEMX_DEVICE_FN void check_nodes(const shmemi_moen &o, const shmemi_moen_layout &a, unsigned ranks)
{
    const owners who(o, ranks);
    for (unsigned t = arch::lane(block); t < a.tokens; t += arch::width(block)) {
        u64 nodes = 0;
        for (unsigned k = 0; k < o.topk; ++k) {
            const long long e = choice(a.idx, a.wide, static_cast<u64>(t) * o.topk + k);
            if (e >= 0 && e < o.experts)
                nodes |= static_cast<u64>(1) << who.owner(static_cast<unsigned>(e));
        }
        unsigned n = 0;
        for (; nodes != 0; nodes &= nodes - 1)
            ++n;
        if (n > o.max_nodes)
            detail::report(SHMEMX_DEVICE_NODES, SHMEMX_DEVICE_CALL_MOE_LAYOUT, static_cast<int>(n),
                           at<const u8>(a.idx), t, o.max_nodes);
    }
}

/* Blocks: one a rank, and one more. Shared memory: shmemi_moen_layout_shared. */
SHMEMX_DEVICE_FN void layout(const shmemi_moen &o, const shmemi_moen_layout &a, unsigned char *shared)
{
    const members m = detail::find(thread, static_cast<team>(o.team), SHMEMX_DEVICE_CALL_MOE_LAYOUT);
    const unsigned b = arch::block_index();
    if (m.n == 0)
        return;
    if (b < static_cast<unsigned>(m.n))
        layout_rank(o, a, m, b, reinterpret_cast<u32 *>(shared));
    else {
        layout_experts(o, a, m, reinterpret_cast<u32 *>(shared));
        if (o.max_nodes != 0)
            check_nodes(o, a, static_cast<unsigned>(m.n));
    }
}

/* ---- what dispatch and combine share -------------------------------------------------------------------------------------- */

/* Is the rank's memory not mapped here? Compiled away in kernels for mapped memory. */
SHMEMX_DEVICE_FN bool far(const shmemi_moen &o, unsigned rank)
{
    return detail::some_far() && (o.mirror.far >> rank & 1) != 0;
}
/* Rank's words[i] becomes that; relaxed. `words`: in the own copy. */
SHMEMX_DEVICE_FN void tell(const shmemi_moen &o, const members &m, unsigned rank, u64 words, unsigned i, u64 value)
{
    const auto member = static_cast<int>(rank);
    if (far(o, rank))
        detail::far_p(at<u64>(words) + i, value, 8, detail::world_pe(m, member));
    else
        arch::store_relaxed(detail::peer(m, member, at<u64>(words)) + i, value);
}

/* The block waits until n words have reached a round; word i is of rank i / each. */
SHMEMX_DEVICE_FN bool await(const members &m, unsigned call, const u64 *words, unsigned n, unsigned each,
                            u64 round)
{
    bool ok = true;
    for (unsigned i = arch::lane(block); i < n; i += arch::width(block))
        ok = detail::wait_for(call, words + i, ge, round,
                              [&] { return detail::world_pe(m, static_cast<int>(i / each)); }) &&
             ok;
    return arch::all(block, ok);
}

#if SHMEMI_MOEN_BULK

/* What a warp that uses the copy engine has in shared memory. */
struct pipeline {
    unsigned char *room;                 // its slots
    unsigned first, done, bytes, slots, phases; // first, done: addresses of slots and completion words; phases: a bit a slot

    SHMEMX_DEVICE_FN pipeline(const shmemi_moen_pipe &p, unsigned char *shared, unsigned mine)
        : room(shared + p.head + mine * (p.slots * p.slot + p.side)), first(arch::shared_address(room)),
          done(arch::shared_address(shared) + 8 * mine * p.slots), bytes(p.slot), slots(p.slots), phases(0)
    {
    }
    /* The scales of a row that is quantized: rows take turns. */
    SHMEMX_DEVICE_FN unsigned char *side(const shmemi_moen_pipe &p, unsigned row) const
    {
        return room + slots * bytes + (row & 1) * (p.side / 2);
    }
    /* There are zeros behind a row's last scale. */
    SHMEMX_DEVICE_FN void clear_side(const shmemi_moen_pipe &p) const
    {
        auto *scales = reinterpret_cast<u32 *>(room + slots * bytes);
        for (unsigned i = arch::lane(warp); i < p.side / 4; i += arch::warp_width)
            scales[i] = 0;
        arch::sync(warp);
    }
    SHMEMX_DEVICE_FN unsigned char *slot(unsigned s) const
    {
        return room + s * bytes;
    }
    SHMEMX_DEVICE_FN unsigned address(unsigned s) const // of a slot, for the engine
    {
        return first + s * bytes;
    }
    SHMEMX_DEVICE_FN void wait(unsigned s)
    {
        arch::bulk_loaded(done + 8 * s, phases >> s & 1);
        phases ^= 1u << s;
    }
};

/* Goes through the parts of a warp's rows, in order, and through the slots beside them. */
struct bulk_cursor {
    unsigned row, part, slot;

    SHMEMX_DEVICE_FN void next(unsigned parts, unsigned slots)
    {
        slot = slot + 1 == slots ? 0 : slot + 1;
        if (++part == parts) {
            part = 0;
            ++row;
        }
    }
};

/* Before quantizing into a slot: what this lane has stored from it has been read. */
SHMEMX_DEVICE_FN void slot_free(const pipeline &p)
{
    if (p.slots == 1)
        arch::bulk_read<0>();
    else
        arch::bulk_read<1>(); // one token's stores are of the slot before
    arch::sync(warp);
}
/* A part of a row of BF16 in a slot becomes `values` in it, and scales at `scale_to`. The whole warp; on return lane 0 may
 * store them and load into the slot's beginning. */
SHMEMX_DEVICE_FN void quantize_slot(const quantizer &q, unsigned log, unsigned char *slot, unsigned values, u32 *scale_to)
{
    auto *to = reinterpret_cast<u64 *>(slot + values);
    quantize(
        q, log, [=](unsigned w) { return arch::load_plain(reinterpret_cast<const arch::vec16 *>(slot) + w); },
        [=](unsigned w, u64 eight) { arch::store_plain(to + w, eight); },
        [=](unsigned g, float scale) { arch::store_plain(scale_to + g, bits_of_float(scale)); });
    // observers: this lane, which has written values and scales, and the copy engine, which reads them after the barrier
    arch::bulk_fence_shared();
    arch::sync(warp);
}

#endif // SHMEMI_MOEN_BULK

} // namespace normal
} // namespace moe
} // namespace shmem

#endif
