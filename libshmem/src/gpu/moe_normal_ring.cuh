/* Adding by way of shared memory, by blocks that do nothing else: one warp loads the rows of a token by the SM's copy engine,
 * part by part, into a ring of stages, and the others add what is there. */
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
    unsigned full, empty; // addresses of the stages' completion words
    addend *lists;        // of each stage, then the filling warp's; entry 0: row = how many follow, or gone
    unsigned columns;     // of a part
    unsigned stage = 0, phase = 0;

    static constexpr u64 gone = ~0ull;

    SHMEMX_DEVICE_FN ring(const combining &c_, unsigned char *shared)
        : c(c_), data(shared + c_.a.ring.at), full(arch::shared_address(shared + c_.a.ring.words)),
          empty(full + 8 * SHMEMI_MOEN_STAGES),
          lists(reinterpret_cast<addend *>(shared + c_.a.ring.words + 16 * SHMEMI_MOEN_STAGES)),
          columns(c_.o.hidden / c_.a.ring.parts)
    {
    }
    /* By one thread, before a barrier of the block. */
    SHMEMX_DEVICE_FN static void open(const shmemi_moen_ring &r, unsigned char *shared, unsigned adders)
    {
        auto *words = reinterpret_cast<u64 *>(shared + r.words);
        arch::bulk_open(words, SHMEMI_MOEN_STAGES);
        arch::bulk_open(words + SHMEMI_MOEN_STAGES, SHMEMI_MOEN_STAGES, adders);
    }
    SHMEMX_DEVICE_FN addend *list(unsigned s) const
    {
        return lists + s * (c.a.ring.rows + 1);
    }
    SHMEMX_DEVICE_FN unsigned char *slot(unsigned s, unsigned row) const
    {
        return data + (s * c.a.ring.rows + row) * c.a.ring.slot;
    }
    SHMEMX_DEVICE_FN unsigned scales_in_slot() const
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
        if (++stage == SHMEMI_MOEN_STAGES) {
            stage = 0;
            phase ^= 1;
        }
    }

    /* ---- the warp that fills ---- */

    /* One part of a row; returns its bytes. */
    SHMEMX_DEVICE_FN unsigned load(const addend &from, unsigned row, unsigned part) const
    {
        const auto *x = at<const unsigned char>(from.row);
        const unsigned to = arch::shared_address(slot(stage, row)), done = full + 8 * stage;
        if (from.quantized == 0) {
            arch::bulk_load_of_many(to, x + part * columns * 2, columns * 2, done);
            return columns * 2;
        }
        const bool one = c.a.shift == 31; // scale for the row
        const unsigned each = (columns >> c.a.shift) * 4; // bytes of a part's scales
        const unsigned scales = c.a.ring.parts == 1 ? c.a.row_bytes - c.scales_at() : one ? 16 : each;
        arch::bulk_load_of_many(to, x + part * columns, scales_in_slot(), done);
        arch::bulk_load_of_many(to + scales_in_slot(), x + c.scales_at() + (one ? 0 : part * each), scales, done);
        return scales_in_slot() + scales;
    }
    SHMEMX_DEVICE_FN void wait_empty(bool first_turn) const
    {
        if (!first_turn)
            arch::bulk_loaded(empty + 8 * stage, phase ^ 1);
    }
    /* Looks up `per` tokens at once, from t on, a lane a (token, rank), `width` lanes a token: the places and flags of all
     * are on their way together. False: some rows do not come; reported. */
    SHMEMX_DEVICE_FN bool look_up(unsigned t, unsigned per, unsigned width, bool some)
    {
        const unsigned lane = arch::lane(warp), i = lane / width, j = lane % width, token = t + i * step();
        const bool here = i < per && token < c.tokens && j < c.ranks;
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
        addend *own = list(SHMEMI_MOEN_STAGES + (i < per ? i : 0));
        unsigned n = arch::count_bits(all);
        if (p >= 0)
            own[1 + arch::count_bits(all & ((1u << j) - 1))] = row;
        if (here && j == 0) {
            for (unsigned b = 0; b < 2; ++b)
                if (c.a.bias[b] != 0)
                    own[1 + n++] = addend{c.a.bias[b] + static_cast<u64>(token) * c.o.hidden * 2, 1, 0};
            own->row = n;
        }
        arch::sync(warp);
        return true;
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
                for (unsigned k = 0; k < n; ++k)
                    bytes += load(own[1 + k], k, part);
                arch::bulk_expect(full + 8 * stage, bytes);
            }
            next();
            first_turn = first_turn && stage != 0;
        }
    }
    SHMEMX_DEVICE_FN void fill_all()
    {
        const bool some = c.r.head->valid != 0; // else the dispatch did not fit: no rows
        unsigned width = 1;
        while (width < c.ranks)
            width *= 2;
        constexpr unsigned most = SHMEMI_MOEN_LISTS;
        const unsigned fit = arch::warp_width / width, per = fit < most ? fit : most;
        bool first_turn = true;
        for (unsigned t = first(); t < c.tokens; t += per * step()) {
            if (!look_up(t, per, width, some)) { // the others' rows will not come either
                wait_empty(first_turn);
                if (arch::lane(warp) == 0) {
                    list(stage)->row = gone;
                    arch::bulk_expect(full + 8 * stage, 0);
                }
                return;
            }
            // observers: this warp, which has seen the flags, and the copy engine, which reads the rows
            arch::bulk_fence();
            for (unsigned i = 0; i < per && t + i * step() < c.tokens; ++i) {
                const unsigned token = t + i * step();
                fill(list(SHMEMI_MOEN_STAGES + i), first_turn);
                if (c.a.out_weights != 0)
                    return_weights(c, c.r.pos + static_cast<u64>(token) * c.ranks, token, some);
            }
            arch::sync(warp); // the lists have been read
        }
    }

    /* ---- the warps that add ---- */

    SHMEMX_DEVICE_FN void add(const addend *rows, unsigned n, unsigned t, unsigned part, unsigned lane,
                              unsigned width) const
    {
        auto *out = at<arch::vec16>(c.a.out + t * c.a.out_stride) + part * (columns / 8);
        SHMEMX_DEVICE_ROLLED
        for (unsigned v = lane; v < columns / 8; v += width) {
            float sum[8] = {};
            SHMEMX_DEVICE_ROLLED
            for (unsigned k = 0; k < n; ++k) {
                const unsigned char *from = slot(stage, k);
                float f[8];
                float factor = rows[k].factor;
                if (rows[k].quantized != 0) {
                    const u64 w = *reinterpret_cast<const u64 *>(from + v * 8);
                    factor *= reinterpret_cast<const float *>(from + scales_in_slot())[v * 8 >> c.a.shift];
                    SHMEMX_DEVICE_UNROLL
                    for (unsigned i = 0; i < 8; ++i)
                        f[i] = int8_of(w, i);
                } else {
                    unpack_bf16(*reinterpret_cast<const arch::vec16 *>(from + v * 16), f);
                }
                SHMEMX_DEVICE_UNROLL
                for (unsigned i = 0; i < 8; ++i)
                    sum[i] += f[i] * factor;
            }
            arch::store_plain(out + v, arch::make_vec16(pack_bf16(sum[0], sum[1], sum[2], sum[3]),
                                                        pack_bf16(sum[4], sum[5], sum[6], sum[7])));
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
                arch::sync(warp); // all lanes have read
                if (arch::lane(warp) == 0)
                    arch::bulk_arrive(empty + 8 * stage);
                next();
            }
    }
};

#endif // SHMEMI_MOEN_BULK

} // namespace normal
} // namespace moe
} // namespace shmem

#endif
