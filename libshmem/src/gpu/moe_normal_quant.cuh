/* Quantizing for large batches: bit by bit what quantize_row of moe_quant.cuh makes, in fewer instructions. All rows of a
 * batch pass through a few SMs, which have some 6 instructions an element before they, not NVLink, are the limit.
 *
 * Four units (a vector of 8 columns a lane each) are taken at once. Their maxima are compared as integers, two at a time;
 * NaN and infinity, which compare above all others, are left to quantize_row. The lanes of a group halve the units
 * between them twice while they reduce, so that each computes one scale and not four. */
#ifndef SHMEMI_GPU_MOE_NORMAL_QUANT_CUH
#define SHMEMI_GPU_MOE_NORMAL_QUANT_CUH

#include "moe_quant.cuh"

namespace shmem
{
namespace moe
{
namespace normal
{

/* Of both halves. */
SHMEMX_DEVICE_FN u32 larger_pair(u32 a, u32 b)
{
#ifdef __CUDA_ARCH__
    return __vmaxu2(a, b);
#else
    return larger(a & 0xffff, b & 0xffff) | larger(a >> 16, b >> 16) << 16;
#endif
}
/* The largest magnitudes of eight BF16 at even and at odd places, 15 bits each. */
SHMEMX_DEVICE_FN u32 largest_pair(const arch::vec16 &v)
{
    const u32 sign = 0x7fff7fffu;
    return larger_pair(larger_pair(static_cast<u32>(v.x) & sign, static_cast<u32>(v.x >> 32) & sign),
                       larger_pair(static_cast<u32>(v.y) & sign, static_cast<u32>(v.y >> 32) & sign));
}

template <bool Int8> SHMEMX_DEVICE_FN u64 quantize_finite(const arch::vec16 &v, float inverse)
{
    float f[8];
    unpack_bf16(v, f);
    if (Int8) {
        u32 b[8];
        SHMEMX_DEVICE_UNROLL
        for (unsigned i = 0; i < 8; ++i)
            b[i] = int8_bits(f[i], inverse);
        return low_bytes(b[0], b[1], b[2], b[3]) | static_cast<u64>(low_bytes(b[4], b[5], b[6], b[7])) << 32;
    }
    u64 w = 0;
    SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < 4; ++i)
        w |= static_cast<u64>(to_e4m3_pair(f[2 * i] * inverse, f[2 * i + 1] * inverse)) << 16 * i;
    return w;
}

/* scaling_of for what is finite, without branches where INT8 leaves them out. */
template <bool Int8> SHMEMX_DEVICE_FN scaling scaling_of_finite(const quantizer &q, float amax)
{
    if (!Int8)
        return scaling_of(q, amax);
    const float s = held_over_127(amax);
    // nothing but zeros: their product with whatever is 0 too
    return scaling{amax == 0 ? 0 : s, reciprocal_within(s)};
}

SHMEMX_DEVICE_FN float shuffle_float(float v, unsigned mask)
{
    return float_of_bits(arch::shuffle_xor(bits_of_float(v), mask));
}

/* log2 of a group's vectors, if `quick` can: a power of two, at least 4, no more than the warp has lanes. Else 0. */
SHMEMX_DEVICE_FN unsigned quick_log(const quantizer &q)
{
    SHMEMX_DEVICE_UNROLL
    for (unsigned log = 2; 1u << log <= arch::warp_width; ++log)
        if (q.group == 8u << log)
            return log;
    return 0;
}
/* What a warp quantizes: units of 32 vectors, four of them at once, of rows with groups of 8 << Log columns. Log 0: of
 * 8 << log, known at run time alone. A division in here would cost as much as a whole unit. */
template <bool Int8, unsigned Log> struct quick {
    static constexpr unsigned units = 4, width = arch::warp_width;
    const quantizer &q;
    const unsigned log, team, lane, all, groups;
    const bool upper, odd; // which of the four units' scales this lane computes

    SHMEMX_DEVICE_FN quick(const quantizer &q_, unsigned log_)
        : q(q_), log(Log != 0 ? Log : log_), team(1u << log), lane(arch::lane(warp)), all(q.words()),
          groups((all + team - 1) >> log), upper((lane & team / 2) != 0), odd((lane & team / 4) != 0)
    {
    }
    /* The units from vector `base` on; All: the row has all of them. False: a value is not finite. */
    template <bool All, class Vector, class Word, class Scale>
    SHMEMX_DEVICE_FN bool take(unsigned base, Vector vector, Word word, Scale scale) const
    {
        arch::vec16 v[units];
        u32 m[units];
        SHMEMX_DEVICE_UNROLL
        for (unsigned i = 0; i < units; ++i) {
            const unsigned w = base + i * width + lane;
            v[i] = All || w < all ? vector(w) : arch::make_vec16(0, 0);
        }
        SHMEMX_DEVICE_UNROLL
        for (unsigned i = 0; i < units; ++i)
            m[i] = largest_pair(v[i]);
        // the upper half of a group's lanes keeps units 2 and 3, then the odd quarters the second of two
        const u32 a = larger_pair(upper ? m[2] : m[0], arch::shuffle_xor(upper ? m[0] : m[2], team / 2));
        const u32 b = larger_pair(upper ? m[3] : m[1], arch::shuffle_xor(upper ? m[1] : m[3], team / 2));
        u32 most = larger_pair(odd ? b : a, arch::shuffle_xor(odd ? a : b, team / 4));
        most = larger(most & 0xffff, most >> 16);
        if (Log != 0) {
            SHMEMX_DEVICE_UNROLL
            for (unsigned mask = (1u << Log) / 8; mask != 0; mask /= 2)
                most = larger(most, arch::shuffle_xor(most, mask));
        } else {
            SHMEMX_DEVICE_ROLLED
            for (unsigned mask = team / 8; mask != 0; mask /= 2)
                most = larger(most, arch::shuffle_xor(most, mask));
        }
        if (!arch::all(warp, most < 0x7f80))
            return false;
        const scaling s = scaling_of_finite<Int8>(q, float_of_bits(most << 16));
        const unsigned unit = (upper ? 2u : 0u) + (odd ? 1u : 0u);
        const unsigned g = (base + unit * width + lane) >> log;
        if ((lane & (team / 4 - 1)) == 0 && (All || g < groups))
            scale(g, s.scale);
        const float other = shuffle_float(s.inverse, team / 4);
        const float even_one = odd ? other : s.inverse, odd_one = odd ? s.inverse : other;
        const float even_two = shuffle_float(even_one, team / 2), odd_two = shuffle_float(odd_one, team / 2);
        const float inverse[units] = {upper ? even_two : even_one, upper ? odd_two : odd_one,
                                      upper ? even_one : even_two, upper ? odd_one : odd_two};
        SHMEMX_DEVICE_UNROLL
        for (unsigned i = 0; i < units; ++i) {
            const unsigned w = base + i * width + lane;
            if (All || w < all)
                word(w, quantize_finite<Int8>(v[i], inverse[i]));
        }
        return true;
    }
    /* A row: arguments as for quantize_row. False: results are to be written again. */
    template <class Vector, class Word, class Scale>
    SHMEMX_DEVICE_FN bool row(Vector vector, Word word, Scale scale) const
    {
        unsigned base = 0;
        SHMEMX_DEVICE_ROLLED
        for (; base + units * width <= all; base += units * width)
            if (!take<true>(base, vector, word, scale))
                return false;
        return base == all || take<false>(base, vector, word, scale);
    }
};

/* Out of line: rare, but for scales of whole rows, and it would take registers from the rest. */
template <class Vector, class Word, class Scale>
SHMEMX_DEVICE_CALL void quantize_any(quantizer q, Vector vector, Word word, Scale scale)
{
    quantize_row(detail::crew{0, 1}, q, vector, word, scale);
}
/* A warp quantizes a row, the quick way if it can; log: quick_log. Results may be written twice. */
template <class Vector, class Word, class Scale>
SHMEMX_DEVICE_FN void quantize(const quantizer &q, unsigned log, Vector vector, Word word, Scale scale)
{
    const bool int8 = q.how == as_int8;
    if (log == 4) { // 128 columns
        if (int8 ? quick<true, 4>(q, log).row(vector, word, scale) : quick<false, 4>(q, log).row(vector, word, scale))
            return;
    } else if (log != 0) {
        if (int8 ? quick<true, 0>(q, log).row(vector, word, scale) : quick<false, 0>(q, log).row(vector, word, scale))
            return;
    }
    quantize_any(q, vector, word, scale);
}

} // namespace normal
} // namespace moe
} // namespace shmem

#endif
