/* Adding by way of shared memory, by blocks that do nothing else: one warp finds out which rows a token has and waits until they
 * are there, one loads them by the SM's copy engine, part by part, into a ring of stages, and the others add. So what is looked up
 * waits for nothing that is loaded: by one warp both took 20 us more of a combine's 250. */
#ifndef SHMEMI_GPU_MOE_NORMAL_RING_CUH
#define SHMEMI_GPU_MOE_NORMAL_RING_CUH

#include "moe_normal_add.cuh"

namespace shmem
{
namespace moe
{
namespace normal
{

#if SHMEMI_MOEN_BULK

struct ring {
    const combining &c;
    unsigned char *data;
    // addresses of completion words: stages are full, empty; lists have been written, have been read
    unsigned full, empty, listed, unlisted;
    // of each stage, then two times LISTS; entry 0: row = how many follow, or gone; in a stage's, row is where in the stage
    addend *lists;
    unsigned columns;       // of a part
    unsigned stage = 0, phase = 0;

    static constexpr u64 gone = ~0ull;
    static constexpr unsigned others = 2; // warps that do not add

    SHMEMX_DEVICE_FN ring(const combining &c_, unsigned char *shared)
        : c(c_), data(shared + c_.a.ring.at), full(arch::shared_address(shared + c_.a.ring.words)),
          empty(full + 8 * SHMEMI_MOEN_MOST_STAGES), listed(empty + 8 * SHMEMI_MOEN_MOST_STAGES), unlisted(listed + 16),
          lists(reinterpret_cast<addend *>(shared + c_.a.ring.words + 16 * SHMEMI_MOEN_MOST_STAGES + 32)),
          columns(c_.o.hidden / c_.a.ring.parts)
    {
    }
    /* By one thread, before a barrier of the block. */
    SHMEMX_DEVICE_FN static void open(const shmemi_moen_ring &r, unsigned char *shared, unsigned adders)
    {
        auto *words = reinterpret_cast<u64 *>(shared + r.words);
        arch::bulk_open(words, SHMEMI_MOEN_MOST_STAGES);
        arch::bulk_open(words + SHMEMI_MOEN_MOST_STAGES, SHMEMI_MOEN_MOST_STAGES, adders);
        arch::bulk_open(words + 2 * SHMEMI_MOEN_MOST_STAGES, 4);
    }
    SHMEMX_DEVICE_FN addend *list(unsigned s) const
    {
        return lists + s * (c.a.ring.rows + 1);
    }
    SHMEMX_DEVICE_FN unsigned char *at_stage(u64 offset) const
    {
        return data + stage * c.a.ring.stage + offset;
    }
    SHMEMX_DEVICE_FN unsigned values_in_stage() const
    {
        return (columns + 15) / 16 * 16;
    }
    /* Tokens of this block. */
    SHMEMX_DEVICE_FN unsigned first() const
    {
        return arch::block_index() - c.a.ring.senders;
    }
    SHMEMX_DEVICE_FN unsigned step() const
    {
        return arch::blocks() - c.a.ring.senders;
    }
    SHMEMX_DEVICE_FN void next()
    {
        if (++stage == c.a.ring.stages) {
            stage = 0;
            phase ^= 1;
        }
    }

    /* ---- tokens in batches, of the warp that looks up and of the one that fills ---- */

    struct batch {
        const unsigned width, per; // lanes of a token, tokens at once
        unsigned t, half = 0, turn = 0;

        SHMEMX_DEVICE_FN explicit batch(const ring &r)
            : width(wide(r.c.ranks)), per(least(arch::warp_width / width, SHMEMI_MOEN_LISTS)), t(r.first())
        {
        }
        SHMEMX_DEVICE_FN static unsigned wide(unsigned ranks)
        {
            unsigned width = 1;
            while (width < ranks)
                width *= 2;
            return width;
        }
        SHMEMX_DEVICE_FN static unsigned least(unsigned a, unsigned b)
        {
            return a < b ? a : b;
        }
        SHMEMX_DEVICE_FN void next(const ring &r)
        {
            t += per * r.step();
            half ^= 1;
            turn += half == 0;
        }
    };
    /* The list of a batch's i-th token. */
    SHMEMX_DEVICE_FN addend *list(const batch &b, unsigned i) const
    {
        return list(SHMEMI_MOEN_MOST_STAGES + b.half * SHMEMI_MOEN_LISTS + i);
    }
    SHMEMX_DEVICE_FN void arrive(unsigned word) const // all lanes of the warp are done
    {
        arch::sync(warp);
        if (arch::lane(warp) == 0)
            arch::bulk_arrive(word);
    }

    /* ---- the warp that looks up ---- */

    /* A lane a (token, rank): the places and flags of all are on their way together. False: some rows do not come; reported. */
    SHMEMX_DEVICE_FN bool look_up(const batch &b, bool some) const
    {
        const unsigned lane = arch::lane(warp), width = b.width, i = lane / width, j = lane % width,
                       token = b.t + i * step();
        const bool here = i < b.per && token < c.tokens && j < c.ranks;
        const int p = here && some ? c.r.pos[static_cast<u64>(token) * c.ranks + j] : -1;
        addend row = {0, 1, 0};
        const u64 *flag = nullptr;
        if (p >= 0) {
            row = row_of(c, j, static_cast<unsigned>(p), token);
            flag = j == c.me ? nullptr : flag_of(c, j, static_cast<unsigned>(p));
        }
        detail::patience left;
        bool come = flag == nullptr || arch::load_acquire(flag) >= c.round;
        while (!arch::all(warp, come)) { // acquire; observers: the warp that has released the chunk, and this one
            if (left.over_in_step()) {
                if (!come)
                    detail::report(SHMEMX_DEVICE_TIMEOUT, SHMEMX_DEVICE_CALL_MOE_COMBINE,
                                   detail::world_pe(c.m, static_cast<int>(j)), flag, arch::load_relaxed(flag), c.round);
                return false;
            }
            come = come || arch::load_acquire(flag) >= c.round;
        }
        const u32 all = arch::ballot(p >= 0) >> i * width & (width == 32 ? ~0u : (1u << width) - 1);
        addend *own = list(b, i < b.per ? i : 0);
        unsigned n = arch::count_bits(all);
        if (p >= 0)
            own[1 + arch::count_bits(all & ((1u << j) - 1))] = row;
        if (here && j == 0) {
            for (unsigned k = 0; k < 2; ++k)
                if (c.a.bias[k] != 0)
                    own[1 + n++] = addend{c.a.bias[k] + static_cast<u64>(token) * c.o.hidden * 2, 1, 0};
            own->row = n;
        }
        return true;
    }
    SHMEMX_DEVICE_FN void look_up_all() const
    {
        const bool some = c.r.head->valid != 0; // else the dispatch did not fit: no rows
        bool fine = true;
        for (batch b(*this); fine && b.t < c.tokens; b.next(*this)) {
            if (b.turn != 0)
                arch::bulk_loaded(unlisted + 8 * b.half, (b.turn & 1) ^ 1);
            fine = look_up(b, some);
            if (!fine && arch::lane(warp) == 0)
                list(b, 0)->row = gone; // the others' rows will not come either
            // observers: this warp, which has seen the flags, and the copy engine, which reads the rows for the warp that fills
            arch::bulk_fence();
            arrive(listed + 8 * b.half);
            for (unsigned i = 0; fine && c.a.out_weights != 0 && i < b.per && b.t + i * step() < c.tokens; ++i) {
                const unsigned token = b.t + i * step();
                return_weights(c, c.r.pos + static_cast<u64>(token) * c.ranks, token, some);
            }
        }
    }

    /* ---- the warp that fills ---- */

    /* One part of a row, to that offset; returns its bytes. */
    SHMEMX_DEVICE_FN unsigned load(const addend &from, unsigned offset, unsigned part) const
    {
        const auto *x = at<const unsigned char>(from.row);
        const unsigned to = arch::shared_address(at_stage(offset)), done = full + 8 * stage;
        if (from.quantized == 0) {
            arch::bulk_load_of_many(to, x + part * columns * 2, columns * 2, done);
            return columns * 2;
        }
        const bool one = c.a.shift == 31; // scale for the row
        const unsigned each = (columns >> c.a.shift) * 4; // bytes of a part's scales
        const unsigned scales = c.a.ring.parts == 1 ? c.a.row_bytes - c.scales_at() : one ? 16 : each;
        arch::bulk_load_of_many(to, x + part * columns, values_in_stage(), done);
        arch::bulk_load_of_many(to + values_in_stage(), x + c.scales_at() + (one ? 0 : part * each), scales, done);
        return values_in_stage() + scales;
    }
    SHMEMX_DEVICE_FN void wait_empty(bool first_turn) const
    {
        if (!first_turn)
            arch::bulk_loaded(empty + 8 * stage, phase ^ 1);
    }
    SHMEMX_DEVICE_FN void fill(const addend *own, bool &first_turn)
    {
        const unsigned lane = arch::lane(warp), n = static_cast<unsigned>(own->row);
        for (unsigned part = 0; part < c.a.ring.parts; ++part) {
            wait_empty(first_turn);
            for (unsigned k = lane; k <= n; k += arch::warp_width)
                list(stage)[k] = own[k];
            arch::sync(warp);
            if (lane == 0) {
                unsigned bytes = 0;
                for (unsigned k = 0; k < n; ++k) {
                    list(stage)[1 + k].row = bytes;
                    bytes += load(own[1 + k], bytes, part);
                }
                arch::bulk_expect(full + 8 * stage, bytes);
            }
            next();
            first_turn = first_turn && stage != 0;
        }
    }
    SHMEMX_DEVICE_FN void fill_all()
    {
        bool first_turn = true;
        for (batch b(*this); b.t < c.tokens; b.next(*this)) {
            arch::bulk_loaded(listed + 8 * b.half, b.turn & 1);
            if (list(b, 0)->row == gone) {
                wait_empty(first_turn);
                if (arch::lane(warp) == 0) {
                    list(stage)->row = gone;
                    arch::bulk_expect(full + 8 * stage, 0);
                }
                return;
            }
            for (unsigned i = 0; i < b.per && b.t + i * step() < c.tokens; ++i)
                fill(list(b, i), first_turn);
            arrive(unlisted + 8 * b.half);
        }
    }

    /* ---- the warps that add ---- */

    /* Two vectors a lane at a time: what one waits for, the other computes. */
    SHMEMX_DEVICE_FN void add(const addend *rows, unsigned n, unsigned t, unsigned part, unsigned lane,
                              unsigned width) const
    {
        constexpr unsigned wide = 2;
        const unsigned vectors = columns / 8;
        auto *out = at<arch::vec16>(c.a.out + t * c.a.out_stride) + part * vectors;
        SHMEMX_DEVICE_ROLLED
        for (unsigned v = lane; v < vectors; v += wide * width) {
            unsigned at_[wide]; // behind the end the first again
            SHMEMX_DEVICE_UNROLL
            for (unsigned i = 0; i < wide; ++i)
                at_[i] = v + i * width < vectors ? v + i * width : v;
            float sum[wide][8] = {};
            SHMEMX_DEVICE_ROLLED
            for (unsigned k = 0; k < n; ++k) {
                const addend row = rows[k];
                const unsigned char *from = at_stage(row.row);
                if (row.quantized != 0) {
                    u64 w[wide];
                    float factor[wide];
                    SHMEMX_DEVICE_UNROLL
                    for (unsigned i = 0; i < wide; ++i) {
                        w[i] = *reinterpret_cast<const u64 *>(from + at_[i] * 8);
                        factor[i] =
                            reinterpret_cast<const float *>(from + values_in_stage())[at_[i] * 8 >> c.a.shift] * row.factor;
                    }
                    SHMEMX_DEVICE_UNROLL
                    for (unsigned i = 0; i < wide; ++i)
                        SHMEMX_DEVICE_UNROLL
                        for (unsigned e = 0; e < 8; ++e)
                            sum[i][e] = add_product(sum[i][e], int8_of(w[i], e), factor[i]);
                } else {
                    arch::vec16 x[wide];
                    SHMEMX_DEVICE_UNROLL
                    for (unsigned i = 0; i < wide; ++i)
                        x[i] = *reinterpret_cast<const arch::vec16 *>(from + at_[i] * 16);
                    SHMEMX_DEVICE_UNROLL
                    for (unsigned i = 0; i < wide; ++i) {
                        float f[8];
                        unpack_bf16(x[i], f);
                        SHMEMX_DEVICE_UNROLL
                        for (unsigned e = 0; e < 8; ++e)
                            sum[i][e] = add_product(sum[i][e], f[e], row.factor);
                    }
                }
            }
            SHMEMX_DEVICE_UNROLL
            for (unsigned i = 0; i < wide; ++i)
                arch::store_plain(out + at_[i], arch::make_vec16(pack_bf16(sum[i][0], sum[i][1], sum[i][2], sum[i][3]),
                                                                 pack_bf16(sum[i][4], sum[i][5], sum[i][6], sum[i][7])));
        }
    }
    /* Warp `mine` of `warps`. */
    SHMEMX_DEVICE_FN void add_all(unsigned mine, unsigned warps)
    {
        const unsigned lane = mine * arch::warp_width + arch::lane(warp), width = warps * arch::warp_width;
        for (unsigned t = first(); t < c.tokens; t += step())
            for (unsigned part = 0; part < c.a.ring.parts; ++part) {
                arch::bulk_loaded(full + 8 * stage, phase);
                const addend *rows = list(stage);
                if (rows->row == gone)
                    return;
                add(rows + 1, static_cast<unsigned>(rows->row), t, part, lane, width);
                arrive(empty + 8 * stage);
                next();
            }
    }
};

#endif // SHMEMI_MOEN_BULK

} // namespace normal
} // namespace moe
} // namespace shmem

#endif
