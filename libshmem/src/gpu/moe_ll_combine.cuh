/* The combine of moe_ll.cuh. */
#ifndef SHMEMI_GPU_MOE_LL_COMBINE_CUH
#define SHMEMI_GPU_MOE_LL_COMBINE_CUH

#include "moe_ll.cuh"

namespace shmem
{
namespace moe
{

/* At the experts: adds each token's rows and sends the sum to its owner. */
template <bool Lines> struct ll_returner : ll<Lines> {
    using base = ll<Lines>;
    using base::spot;
    using base::o;
    const shmemi_moe_ll_combine &a;
    unsigned char *head, *row; // shared, for a quantized row
    u64 *choices;              // shared, two tables of the handle's entries, in turn
    float *brought;            // shared, weights as they come
    u64 *to_ranks;             // shared
    u32 *present;              // shared: the handle's bits

    SHMEMX_DEVICE_FN ll_returner(const base &object, const shmemi_moe_ll_combine &arguments, unsigned char *shared)
        : base(object), a(arguments), head(shared), row(shared + o.back_head),
          choices(reinterpret_cast<u64 *>(row + (o.back_how == as_bf16 ? 0 : o.back_row))),
          brought(reinterpret_cast<float *>(choices + 2 * o.topk)),
          to_ranks(choices + 3 * o.topk), present(reinterpret_cast<u32 *>(to_ranks + 1))
    {
    }
    SHMEMX_DEVICE_FN unsigned weight_bytes() const
    {
        return (o.topk + 1) / 2 * 8;
    }

    /* My tokens' weights to the ranks that have rows of theirs. */
    SHMEMX_DEVICE_FN void send_weights(u64 round) const
    {
        const crew c = detail::whole_crew(block);
        auto *staged = reinterpret_cast<float *>(choices); // a table for each warp would not fit: one token at a time
        for (unsigned t = arch::block_index(); t < a.tokens; t += arch::blocks()) {
            for (unsigned k = arch::lane(block); k < weight_bytes() / 4; k += arch::width(block))
                staged[k] = k < o.topk ? arch::load_plain(pointer<const float>(a.weights) + t * o.topk + k) : 0;
            if (arch::lane(block) == 0)
                *to_ranks = arch::load_plain(pointer<const u64>(a.handle.routed) + t) &
                            ~arch::load_relaxed(&base::local()->dead);
            arch::sync(block);
            const unsigned slot = base::slot_of(static_cast<unsigned>(base::all_ranks.me), t);
            const u64 to = *to_ranks;
            base::send(c, head, 0, reinterpret_cast<const unsigned char *>(staged), weight_bytes(), base::written(to), round,
                       [&](unsigned r) { return base::target(r, round, base::weights(), slot, t); });
            arch::sync(block);
            if (c.mine == 0)
                base::post(to, round, base::weights(), slot, t);
        }
    }
    /* By one warp: the entries of (s, t), with the weights that count now. */
    SHMEMX_DEVICE_FN bool read_choices(u64 *table, unsigned s, unsigned t, u64 round) const
    {
        bool ok = true;
        const unsigned slot = base::slot_of(s, t);
        if (a.weights != 0) {
            vigil left(o, static_cast<u64>(1) << s, static_cast<int>(s));
            ok = base::arrived(s, round, base::weights(), slot, left) &&
                 base::recv(reinterpret_cast<unsigned char *>(brought), base::mine(round, base::weights(), slot),
                            weight_bytes(), round, left);
            arch::sync(warp);
        }
        for (unsigned k = arch::lane(warp); k < o.topk; k += arch::warp_width) {
            u64 word = arch::load_plain(pointer<const u64>(a.handle.choices) + slot * o.topk + k);
            if (word != no_row && a.weights != 0)
                word = static_cast<u64>(bits_of_float(brought[k])) << 32 | static_cast<u32>(word);
            table[k] = word;
        }
        return ok;
    }
    /* Four BF16 each of word 0 and 1, times w, onto f. */
    SHMEMX_DEVICE_FN static void add_words(float (&f)[8], u64 first, u64 second, float w)
    {
        float x[8];
        unpack_bf16(arch::make_vec16(first, second), x);
        SHMEMX_DEVICE_UNROLL
        for (unsigned i = 0; i < 8; ++i)
            f[i] += w * x[i];
    }
    /* The rows that a table names, E at a time so that their loads are in flight together: with(pointers, weights);
     * where there are fewer the last ones have weight 0, and any row's pointer. */
    template <unsigned E, class With> SHMEMX_DEVICE_FN void for_rows(const u64 *table, With with) const
    {
        unsigned k = 0;
        SHMEMX_DEVICE_ROLLED
        while (k < o.topk) {
            const unsigned char *from[E];
            float w[E];
            unsigned n = 0;
            SHMEMX_DEVICE_UNROLL
            for (unsigned i = 0; i < E; ++i) {
                u64 entry = no_row;
                while (k < o.topk && (entry = table[k++]) == no_row)
                    ;
                n += entry != no_row ? 1 : 0;
                from[i] = entry != no_row
                              ? pointer<const unsigned char>(a.y + static_cast<u32>(entry) *
                                                                       static_cast<u64>(o.hidden * 2))
                              : from[0];
                w[i] = entry != no_row ? float_of_bits(static_cast<u32>(entry >> 32)) : 0;
            }
            if (n != 0)
                with(from, w);
        }
    }
    template <class To> SHMEMX_DEVICE_FN void send_sum(const u64 *table, u64 round, To to) const
    {
        constexpr unsigned N = 2, E = 2; // groups and rows at a time
        const crew c = detail::whole_crew(block);
        const unsigned all = base::groups(o.back_row);
        SHMEMX_DEVICE_ROLLED
        for (unsigned g = c.mine; g < all; g += N * c.warps) {
            float f[N][8] = {};
            for_rows<E>(table, [&](const unsigned char *const(&from)[E], const float(&w)[E]) {
                arch::vec16 v[N][E];
                // loads without conditions, so that all are in flight together; what lies behind the row is not sent
                SHMEMX_DEVICE_UNROLL
                for (unsigned i = 0; i < N; ++i)
                    SHMEMX_DEVICE_UNROLL
                    for (unsigned j = 0; j < E; ++j) {
                        const unsigned at = (g + i * c.warps) * spot.data + spot.at, last = o.back_row - 8;
                        auto *one = reinterpret_cast<const u64 *>(from[j] + (at < last ? at : last));
                        auto *two = reinterpret_cast<const u64 *>(from[j] + (at + 8 < last ? at + 8 : last));
                        v[i][j] = arch::make_vec16(arch::load_plain(one), arch::load_plain(two));
                    }
                SHMEMX_DEVICE_UNROLL
                for (unsigned i = 0; i < N; ++i)
                    SHMEMX_DEVICE_UNROLL
                    for (unsigned j = 0; j < E; ++j)
                        if (w[j] != 0)
                            add_words(f[i], v[i][j].x, v[i][j].y, w[j]);
            });
            SHMEMX_DEVICE_UNROLL
            for (unsigned i = 0; i < N; ++i) {
                const unsigned begin = (g + i * c.warps) * spot.data;
                detail::send_piece(spot, to + (g + i * c.warps) * static_cast<u64>(detail::wire_group) + spot.piece,
                                   begin + spot.first < o.back_row,
                                   arch::make_vec16(pack_bf16(f[i][0], f[i][1], f[i][2], f[i][3]),
                                                    pack_bf16(f[i][4], f[i][5], f[i][6], f[i][7])),
                                   round);
            }
        }
    }
    template <class To> SHMEMX_DEVICE_FN void send_quantized(const u64 *table, unsigned s, u64 round, To to) const
    {
        constexpr unsigned N = quantize_batch, E = 2; // words and rows at a time
        const crew c = detail::whole_crew(block);
        quantize_floats(
            c, base::codec(o.back_how),
            [&](const unsigned(&w)[N], float(&f)[N][8]) {
                for_rows<E>(table, [&](const unsigned char *const(&from)[E], const float(&weight)[E]) {
                    arch::vec16 v[N][E];
                    SHMEMX_DEVICE_UNROLL
                    for (unsigned i = 0; i < N; ++i)
                        SHMEMX_DEVICE_UNROLL
                        for (unsigned j = 0; j < E; ++j)
                            v[i][j] = arch::load_plain(reinterpret_cast<const arch::vec16 *>(from[j]) +
                                                       (w[i] != no_word ? w[i] : 0));
                    SHMEMX_DEVICE_UNROLL
                    for (unsigned i = 0; i < N; ++i)
                        SHMEMX_DEVICE_UNROLL
                        for (unsigned j = 0; j < E; ++j)
                            if (weight[j] != 0 && w[i] != no_word)
                                add_words(f[i], v[i][j].x, v[i][j].y, weight[j]);
                });
            },
            [&](unsigned w, u64 eight) { reinterpret_cast<u64 *>(row)[w] = eight; },
            [&](unsigned g, float scale) { reinterpret_cast<float *>(head)[g] = scale; });
        arch::sync(block);
        base::send(c, head, o.back_head, row, o.back_row, static_cast<u64>(1) << s, round,
                   [&](unsigned) { return to; });
    }
    SHMEMX_DEVICE_FN void run() const
    {
        const u64 round = base::sending(combining);
        const crew c = detail::whole_crew(block);
        if (arch::block_index() == 0 && c.mine == 0)
            base::acknowledge();
        for (unsigned i = arch::lane(block); i < base::ranks() * o.bit_words; i += arch::width(block))
            present[i] = arch::load_plain(pointer<const u32>(a.handle.present) + i);
        if (c.mine == 0)
            base::await_room(combining, round);
        arch::sync(block);
        if (a.weights != 0)
            send_weights(round);
        chosen_bits items(base::ranks(), o.bit_words, arch::block_index(), arch::blocks());
        unsigned turn = 0, s, t;
        while (items.next([&](unsigned r) { return present + r * o.bit_words; }, s, t)) {
            u64 *table = choices + turn * o.topk;
            bool ok = (arch::load_relaxed(&base::local()->dead) >> s & 1) == 0;
            if (c.mine == 0 && (ok = arch::all(warp, ok)))
                ok = read_choices(table, s, t, round);
            // the table is there; the record and the table of the token before last have been sent
            if (!arch::all(block, ok))
                continue;
            const unsigned slot = base::slot_of(static_cast<unsigned>(base::all_ranks.me), t), copy = base::slot_of(s, t);
            unsigned char *to = base::target(s, round, base::back(), slot, copy);
            if (o.back_how == as_bf16)
                send_sum(table, round, to);
            else
                send_quantized(table, s, round, to);
            if (base::far(s)) {
                arch::sync(block); // the mirror is written
                if (c.mine == 0)
                    base::post(static_cast<u64>(1) << s, round, base::back(), slot, copy);
            }
            turn ^= 1;
        }
    }
};

/* At the owner: adds what the ranks have sent. */
template <bool Lines> struct ll_adder : ll<Lines> {
    using base = ll<Lines>;
    using base::spot;
    using base::o;
    const shmemi_moe_ll_combine &a;
    u64 *senders;         // shared: the ranks of a token, which all threads agree on
    unsigned char *heads; // shared: a rank's scales each

    SHMEMX_DEVICE_FN ll_adder(const base &object, const shmemi_moe_ll_combine &arguments, unsigned char *shared)
        : base(object), a(arguments), senders(reinterpret_cast<u64 *>(shared)), heads(shared + 8)
    {
    }
    SHMEMX_DEVICE_FN const unsigned char *slot(unsigned r, unsigned t, u64 round) const
    {
        return base::mine(round, base::back(), base::slot_of(r, t));
    }
    SHMEMX_DEVICE_FN const unsigned char *data(unsigned r, unsigned t, u64 round) const
    {
        return slot(r, t, round) + static_cast<u64>(o.back_head / spot.data) * detail::wire_group;
    }
    /* The first group of token t from each rank of `from`, by a warp each, or their scales: when they are there the rest is
     * near. Polls by all warps would be more than the L2 cache can serve. False: some rank is dead now. */
    SHMEMX_DEVICE_FN bool recv_heads(unsigned t, u64 from, u64 round) const
    {
        const crew c = detail::whole_crew(block);
        bool ok = true;
        unsigned turn = 0;
        for (u64 rest = from; rest != 0; rest &= rest - 1, ++turn) {
            if (turn % c.warps != c.mine)
                continue;
            const unsigned r = arch::lowest_bit(rest);
            vigil left(o, static_cast<u64>(1) << r, static_cast<int>(r));
            arch::vec16 v[1] = {};
            ok = base::arrived(r, round, base::back(), base::slot_of(r, t), left) &&
                 (o.back_head == 0 ? base::await(v, slot(r, t, round), 0, 1, o.back_row, round, left)
                                   : base::recv(heads + r * o.back_head, slot(r, t, round), o.back_head, round, left)) &&
                 ok;
        }
        return ok;
    }
    /* Adds a piece of rank r to the sums. */
    template <bool Quantized>
    SHMEMX_DEVICE_FN void add(float (&sum)[16], unsigned r, unsigned g, const arch::vec16 &v) const
    {
        const unsigned at = g * spot.data + spot.at;
        const u64 word[2] = {v.x, v.y};
        if constexpr (Quantized) {
            const quantizer q = base::codec(o.back_how);
            auto *scales = reinterpret_cast<const float *>(heads + r * o.back_head);
            SHMEMX_DEVICE_UNROLL
            for (unsigned i = 0; i < 2; ++i) {
                float f[8];
                const unsigned column = at + 8 * i;
                if (column >= o.hidden || (i == 1 && !spot.two()))
                    continue;
                dequantize_word(q, word[i], scales[column / o.group], f);
                SHMEMX_DEVICE_UNROLL
                for (unsigned j = 0; j < 8; ++j)
                    sum[8 * i + j] += f[j];
            }
        } else {
            float f[8];
            unpack_bf16(arch::make_vec16(word[0], word[1]), f);
            SHMEMX_DEVICE_UNROLL
            for (unsigned j = 0; j < 8; ++j)
                sum[j] += f[j];
        }
    }
    template <bool Quantized>
    SHMEMX_DEVICE_FN void write(unsigned char *out, unsigned g, const float (&sum)[16]) const
    {
        constexpr unsigned each = Quantized ? 8 : 4; // columns of a word
        const unsigned at = g * spot.data + spot.at, words = spot.two() ? 2 : 1;
        SHMEMX_DEVICE_UNROLL
        for (unsigned i = 0; i < 2; ++i) {
            const unsigned column = (at / 8 + i) * each;
            if (i >= words || column >= o.hidden)
                continue;
            SHMEMX_DEVICE_UNROLL
            for (unsigned j = 0; j < each; j += 4)
                *reinterpret_cast<u64 *>(out + (column + j) * 2) =
                    pack_bf16(sum[each * i + j], sum[each * i + j + 1], sum[each * i + j + 2], sum[each * i + j + 3]);
        }
    }
    /* The sum of group g: ranks four at a time, whose loads are in flight together. */
    template <bool Quantized>
    SHMEMX_DEVICE_FN void add_group(float (&sum)[16], unsigned t, unsigned g, u64 ranks, u64 round) const
    {
        constexpr unsigned N = 4;
        SHMEMX_DEVICE_ROLLED
        while (ranks != 0) {
            unsigned r[N];
            u64 few = 0;
            const unsigned char *from[N];
            bool wanted[N];
            arch::vec16 v[N] = {};
            const bool here = g * spot.data + spot.first < o.back_row;
            SHMEMX_DEVICE_UNROLL
            for (unsigned i = 0; i < N; ++i) {
                wanted[i] = ranks != 0 && here;
                r[i] = ranks != 0 ? arch::lowest_bit(ranks) : ~0u;
                from[i] = data(ranks != 0 ? r[i] : 0, t, round) + g * static_cast<u64>(detail::wire_group) + spot.piece;
                few |= ranks & (0 - ranks);
                ranks &= ranks - 1;
            }
            vigil left(o, few, -1);
            const bool all = detail::await_pieces(spot, v, from, wanted, round, left);
            SHMEMX_DEVICE_UNROLL
            for (unsigned i = 0; i < N; ++i) {
                if (r[i] == ~0u)
                    continue;
                bool ok = true;
                if (!all) { // somebody is dead: who?
                    vigil one(o, static_cast<u64>(1) << r[i], static_cast<int>(r[i]));
                    const unsigned char *const piece[1] = {from[i]};
                    const bool want[1] = {here};
                    arch::vec16 w[1] = {};
                    ok = detail::await_pieces(spot, w, piece, want, round, one);
                    v[i] = w[0];
                }
                if (ok)
                    add<Quantized>(sum, r[i], g, v[i]);
            }
        }
    }
    /* The ranks that send for token t and are not dead; all threads get the same. */
    SHMEMX_DEVICE_FN u64 living(unsigned t) const
    {
        if (arch::lane(block) == 0)
            *senders = arch::load_plain(pointer<const u64>(a.handle.routed) + t) &
                       ~arch::load_relaxed(&base::local()->dead);
        arch::sync(block);
        return *senders;
    }
    template <bool Quantized> SHMEMX_DEVICE_FN void add_token(unsigned t, const crew &c, u64 round) const
    {
        u64 from = living(t);
        if (!arch::all(block, recv_heads(t, from, round)))
            from = living(t);
        auto *out = pointer<unsigned char>(a.out + t * a.out_stride);
        const unsigned all = base::groups(o.back_row);
        SHMEMX_DEVICE_ROLLED
        for (unsigned g = c.mine; g < all; g += c.warps) {
            float sum[16] = {};
            add_group<Quantized>(sum, t, g, from, round);
            write<Quantized>(out, g, sum);
        }
        arch::sync(block); // the shared memory is done with
    }
    SHMEMX_DEVICE_FN void run() const
    {
        const u64 round = base::receiving(combining);
        const share mine(a.tokens, 2);
        for (unsigned t = mine.token; t < a.tokens; t += mine.tokens)
            if (o.back_how == as_bf16)
                add_token<false>(t, mine.warps(), round);
            else
                add_token<true>(t, mine.warps(), round);
    }
};

template <bool Lines>
SHMEMX_DEVICE_FN void ll_combine(const members &t, const shmemi_moe_ll &o, const shmemi_moe_ll_combine &a,
                                 unsigned char *shared)
{
    const ll<Lines> object(o, t);
    if (a.phases & SHMEMI_MOE_LL_SEND)
        ll_returner<Lines>(object, a, shared).run();
    arch::sync(block); // the shared memory changes hands
    if (a.phases & SHMEMI_MOE_LL_RECV)
        ll_adder<Lines>(object, a, shared).run();
    object.finish(combining, a.phases);
}
SHMEMX_DEVICE_FN void ll_combine(const shmemi_moe_ll &o, const shmemi_moe_ll_combine &a, unsigned char *shared)
{
    const members t = detail::find(block, static_cast<team>(o.team), SHMEMX_DEVICE_CALL_MOE_COMBINE);
    if (t.n == 0)
        return;
    if (detail::lines_here())
        ll_combine<true>(t, o, a, shared);
    else
        ll_combine<false>(t, o, a, shared);
}

} // namespace moe
} // namespace shmem

#endif
