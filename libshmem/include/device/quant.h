/* The codec of 8-bit records in kernels: bit by bit what shmemx_quantize of shmemx_int8.h writes and reads.
 *
 * A record is taken in pieces of 1024 elements, 128 words of 8 bytes. Lane l of a warp holds words l, l + W, .. of a
 * piece (W lanes), 8 elements each, as floats in its registers; the lanes that share a group find its largest magnitude
 * by shuffles, compared as integers, where NaN and infinity are above all others.
 *
 * Products and sums are rounded one by one, never fused, as the CPU's are.
 * Included by shmem_device.h only. */
#ifndef SHMEM_DEVICE_QUANT_H
#define SHMEM_DEVICE_QUANT_H

namespace shmem
{

namespace codec
{

/* ---- elements ------------------------------------------------------------------------------------------- */

SHMEMX_DEVICE_FN float float_of_bits(u32 b)
{
    return detail::bits<float>(b);
}
SHMEMX_DEVICE_FN u32 bits_of_float(float f)
{
    return detail::bits<u32>(f);
}
SHMEMX_DEVICE_FN float product(float a, float b)
{
#ifdef __CUDA_ARCH__
    return __fmul_rn(a, b);
#else
    return a * b;
#endif
}
SHMEMX_DEVICE_FN float total(float a, float b)
{
#ifdef __CUDA_ARCH__
    return __fadd_rn(a, b);
#else
    return a + b;
#endif
}

/* To nearest even; NaN stays one. */
SHMEMX_DEVICE_FN u32 to_bf16(float f)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    unsigned short h;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h) : "f"(f));
    return h;
#else
    const u32 u = bits_of_float(f);
    return f != f ? (u >> 16 | 0x40u) : (u + 0x7fff + (u >> 16 & 1)) >> 16;
#endif
}
SHMEMX_DEVICE_FN u32 to_bf16_pair(float low, float high)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    u32 pair; // one instruction, and not the converter that takes four cycles for each
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#else
    return to_bf16(low) | to_bf16(high) << 16;
#endif
}
SHMEMX_DEVICE_FN float low_bf16(u32 pair)
{
    return float_of_bits(pair << 16);
}
SHMEMX_DEVICE_FN float high_bf16(u32 pair)
{
    return float_of_bits(pair & 0xffff0000u);
}
SHMEMX_DEVICE_FN u32 to_f16(float f)
{
#ifdef __CUDA_ARCH__
    unsigned short h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
    return h;
#else
    return detail::bits<u16>(static_cast<_Float16>(f));
#endif
}
SHMEMX_DEVICE_FN float from_f16(u32 h)
{
#ifdef __CUDA_ARCH__
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(static_cast<unsigned short>(h)));
    return f;
#else
    return static_cast<float>(detail::bits<_Float16>(static_cast<u16>(h)));
#endif
}

/* E4M3 without infinities: to nearest even, beyond 448 becomes 448. */
SHMEMX_DEVICE_FN u32 to_e4m3(float f)
{
    const u32 u = bits_of_float(f), sign = u >> 24 & 0x80u, m = u & 0x7fffffffu;
    if (m > 0x7f800000u)
        return sign | 0x7fu;
    if (m >= 0x43e80000u) // 464: would round to 480, which does not exist
        return sign | 0x7eu;
    if (m < 0x3c800000u) { // below 2^-6: a multiple of 2^-9
        const float scaled = float_of_bits(m) * 512.0f, magic = 8388608.0f;
        return sign | (bits_of_float(scaled + magic) & 0xfu);
    }
    return sign | (m - 0x3c000000u + 0x7ffffu + (m >> 20 & 1)) >> 20;
}
SHMEMX_DEVICE_FN u32 to_e4m3_pair(float low, float high)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
    unsigned short h;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(h) : "f"(high), "f"(low));
    return h;
#else
    return to_e4m3(low) | to_e4m3(high) << 8;
#endif
}
SHMEMX_DEVICE_FN float from_e4m3(u32 b)
{
    const u32 sign = (b & 0x80u) << 24, e = b >> 3 & 15, m = b & 7;
    if (e == 0)
        return float_of_bits(sign | bits_of_float(static_cast<float>(m) * 0.001953125f));
    if ((b & 0x7f) == 0x7f)
        return float_of_bits(0x7fc00000u);
    return float_of_bits(sign | (e + 120) << 23 | m << 20);
}
/* Two codes of the lower half of a word, exactly. */
SHMEMX_DEVICE_FN void from_e4m3_pair(u32 pair, float &low, float &high)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
    u32 halves;
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(static_cast<unsigned short>(pair)));
    low = from_f16(halves);
    high = from_f16(halves >> 16);
#else
    low = from_e4m3(pair & 0xffu);
    high = from_e4m3(pair >> 8 & 0xffu);
#endif
}

/* x * inverse to the nearest integer, as the low byte; the product is within 127. */
SHMEMX_DEVICE_FN u32 int8_bits(float x, float inverse)
{
    return bits_of_float(total(product(x, inverse), 12582912.0f)); // 1.5 * 2^23
}
SHMEMX_DEVICE_FN u32 low_bytes(u32 a, u32 b, u32 c, u32 d)
{
#ifdef __CUDA_ARCH__
    return __byte_perm(__byte_perm(a, b, 0x0040), __byte_perm(c, d, 0x0040), 0x5410);
#else
    return (a & 0xff) | (b & 0xff) << 8 | (c & 0xff) << 16 | d << 24;
#endif
}
/* Byte `I` of a word, an int8 plus 128, as that int8: 2^23 + byte, less 2^23 + 128. */
template <unsigned I> SHMEMX_DEVICE_FN float from_biased(u32 w)
{
#ifdef __CUDA_ARCH__
    return __fsub_rn(float_of_bits(__byte_perm(w, 0x4b000000u, 0x7540 + I)), 8388736.0f);
#else
    return float_of_bits(0x4b000000u | (w >> 8 * I & 0xff)) - 8388736.0f;
#endif
}

/* ---- scales --------------------------------------------------------------------------------------------- */

/* Correctly rounded, without the cases that these numbers have not: a third of the instructions of a division.
 * One step of the remainder makes a quotient that is within one of the last place the right one, if the reciprocal is
 * rounded (Markstein); tests/device/test_quant.cpp tries all mantissas. */
SHMEMX_DEVICE_FN float over_127(float x)
{
#ifdef __CUDA_ARCH__
    const float part = 0x1.020408p-7f, q = x * part; // 1 / 127, rounded
    return __fmaf_rn(__fmaf_rn(q, -127.0f, x), part, q);
#else
    return x / 127.0f;
#endif
}
SHMEMX_DEVICE_FN float over_448(float x)
{
#ifdef __CUDA_ARCH__
    const float part = 0x1.24924ap-9f, q = x * part; // 1 / 448, rounded
    return __fmaf_rn(__fmaf_rn(q, -448.0f, x), part, q);
#else
    return x / 448.0f;
#endif
}
/* Without a branch, of 2^-126 to 2^125. */
SHMEMX_DEVICE_FN float reciprocal_within(float x)
{
#ifdef __CUDA_ARCH__
    float near; // within 1 of the last place, and so one step of Newton's rounds it
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(near) : "f"(x));
    return __fmaf_rn(near, -__fmaf_rn(x, near, -1.0f), near);
#else
    return 1.0f / x;
#endif
}
/* INT8's scale: held where 1 / scale and 127 * scale are finite and normal. */
SHMEMX_DEVICE_FN float held_over_127(float amax)
{
    const float s = over_127(amax);
    return s < 0x1p-126f ? 0x1p-126f : s > 0x1.020406p121f ? 0x1.020406p121f : s;
}
SHMEMX_DEVICE_FN float held_over_448(float amax)
{
    const float s = over_448(amax);
    return s < 0x1p-126f ? 0x1p-126f : s > 0x1.249248p119f ? 0x1.249248p119f : s;
}

struct scaling {
    float scale, inverse;
};
constexpr u32 infinity = 0x7f800000u, not_a_number = 0x7fc00000u;
/* Of a record of shmemx_int8.h, from the bits of the largest magnitude. Not finite: NaN, and codes 0. */
SHMEMX_DEVICE_FN scaling scaling_of_record(bool e4m3, u32 amax)
{
    const float a = float_of_bits(amax), s = e4m3 ? held_over_448(a) : held_over_127(a);
    if (amax >= infinity)
        return scaling{float_of_bits(not_a_number), 0};
    return scaling{amax == 0 ? 0 : s, amax == 0 ? 0 : reciprocal_within(s)};
}

/* ---- words of eight ------------------------------------------------------------------------------------- */

SHMEMX_DEVICE_FN u64 pack(bool e4m3, const float (&f)[8], float inverse)
{
    if (e4m3) {
        u32 p[4];
        SHMEMX_DEVICE_UNROLL
        for (unsigned i = 0; i < 4; ++i)
            p[i] = to_e4m3_pair(product(f[2 * i], inverse), product(f[2 * i + 1], inverse));
        return (p[0] | p[1] << 16) | static_cast<u64>(p[2] | p[3] << 16) << 32;
    }
    u32 b[8];
    SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < 8; ++i)
        b[i] = int8_bits(f[i], inverse);
    return low_bytes(b[0], b[1], b[2], b[3]) | static_cast<u64>(low_bytes(b[4], b[5], b[6], b[7])) << 32;
}
SHMEMX_DEVICE_FN void unpack(bool e4m3, u64 w, float scale, float (&f)[8])
{
    const u32 low = static_cast<u32>(w), high = static_cast<u32>(w >> 32);
    if (e4m3) {
        from_e4m3_pair(low & 0xffffu, f[0], f[1]);
        from_e4m3_pair(low >> 16, f[2], f[3]);
        from_e4m3_pair(high & 0xffffu, f[4], f[5]);
        from_e4m3_pair(high >> 16, f[6], f[7]);
    } else {
        const u32 a = low ^ 0x80808080u, b = high ^ 0x80808080u;
        f[0] = from_biased<0>(a), f[1] = from_biased<1>(a), f[2] = from_biased<2>(a),
        f[3] = from_biased<3>(a);
        f[4] = from_biased<0>(b), f[5] = from_biased<1>(b), f[6] = from_biased<2>(b),
        f[7] = from_biased<3>(b);
    }
    SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < 8; ++i)
        f[i] = product(f[i], scale);
}

/* ---- pieces: a warp's 1024 elements --------------------------------------------------------------------- */

constexpr unsigned piece = 1024, piece_words = piece / 8, lane_words = piece_words / arch::warp_width;
/* Values and at most 32 scales. */
constexpr unsigned piece_bytes = piece + piece / 32 * 4;
using floats = float[lane_words][8];
using words = u64[lane_words];

SHMEMX_DEVICE_FN unsigned larger(u32 a, u32 b)
{
    return a > b ? a : b;
}
SHMEMX_DEVICE_FN u32 magnitude_of(const float (&f)[8])
{
    u32 m = 0;
    SHMEMX_DEVICE_UNROLL
    for (unsigned k = 0; k < 8; ++k)
        m = larger(m, bits_of_float(f[k]) & 0x7fffffffu);
    return m;
}
/* The largest of all lanes. */
SHMEMX_DEVICE_FN u32 largest_of_warp(u32 m)
{
    SHMEMX_DEVICE_UNROLL
    for (unsigned d = 1; d < arch::warp_width; d *= 2)
        m = larger(m, arch::shuffle_xor(m, d));
    return m;
}
/* Of one lane's part of a piece. */
SHMEMX_DEVICE_FN u32 magnitude_of_piece(const floats &f)
{
    u32 m = 0;
    SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < lane_words; ++i)
        m = larger(m, magnitude_of(f[i]));
    return m;
}
/* The largest magnitude of the group of each of this lane's words; `words_each`: words of a group, 4, 8 or 16. The whole
 * warp calls. */
SHMEMX_DEVICE_FN void magnitudes(const floats &f, unsigned words_each, u32 (&m)[lane_words])
{
    SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < lane_words; ++i)
        m[i] = magnitude_of(f[i]);
    if constexpr (arch::warp_width < 16)
        if (words_each > arch::warp_width) // two words of one lane are of one group
            for (unsigned i = 0; i < lane_words; i += 2)
                m[i] = m[i + 1] = larger(m[i], m[i + 1]);
    SHMEMX_DEVICE_ROLLED
    for (unsigned d = 1; d < words_each && d < arch::warp_width; d *= 2)
        SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < lane_words; ++i)
        m[i] = larger(m[i], arch::shuffle_xor(m[i], d));
}
/* NaN becomes 0, infinity becomes `limit` with its sign: SHMEMX_NONFINITE_SATURATE. */
SHMEMX_DEVICE_FN void saturate(floats &f, unsigned words_each, u32 whole)
{
    floats finite;
    SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < lane_words; ++i)
        SHMEMX_DEVICE_UNROLL
    for (unsigned k = 0; k < 8; ++k)
        finite[i][k] = (bits_of_float(f[i][k]) & infinity) == infinity ? 0 : f[i][k];
    u32 m[lane_words];
    magnitudes(finite, words_each, m);
    SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < lane_words; ++i)
        SHMEMX_DEVICE_UNROLL
    for (unsigned k = 0; k < 8; ++k) {
        const u32 b = bits_of_float(f[i][k]);
        if ((b & 0x7fffffffu) == infinity)
            finite[i][k] = float_of_bits((words_each != 0 ? m[i] : whole) | (b & 0x80000000u));
        f[i][k] = finite[i][k];
    }
}

/* What a record is made like. */
struct form {
    bool e4m3;
    unsigned group; // elements of a scale: 32, 64 or 128; 0 = the record has one
    bool saturate;  // NaN and infinity are replaced; else their group becomes NaN

    /* Scales of a piece, words of a group (0: the record's), and bytes of a piece by itself. */
    SHMEMX_DEVICE_FN unsigned scales() const
    {
        return group == 0 ? 1 : group == 32 ? 32 : group == 64 ? 16 : 8;
    }
    SHMEMX_DEVICE_FN unsigned words_each() const
    {
        return group / 8;
    }
    SHMEMX_DEVICE_FN unsigned group_of(unsigned word) const // of a piece
    {
        return group == 0 ? 0 : group == 32 ? word / 4 : group == 64 ? word / 8 : word / 16;
    }
    SHMEMX_DEVICE_FN bool leads(unsigned word) const // the first of its group
    {
        return (word & (group == 0 ? piece_words - 1 : words_each() - 1)) == 0;
    }
};

/* A warp quantizes its piece f into codes and scales; `whole`: the record's largest magnitude, where it has one scale.
 * With saturate f changes to what is sent. Returns whether this lane's groups are finite. */
SHMEMX_DEVICE_FN bool quantize_piece(const form &how, floats &f, u32 whole, words &w,
                                     float (&scale)[lane_words])
{
    u32 m[lane_words];
    bool finite = true;
    if (how.group != 0) {
        magnitudes(f, how.words_each(), m);
    } else {
        SHMEMX_DEVICE_UNROLL
        for (unsigned i = 0; i < lane_words; ++i)
            m[i] = whole;
    }
    SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < lane_words; ++i)
        finite = finite && m[i] < infinity;
    SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < lane_words; ++i) {
        const scaling s = scaling_of_record(how.e4m3, m[i]);
        scale[i] = s.scale;
        const u64 codes = pack(how.e4m3, f[i], s.inverse);
        w[i] = m[i] < infinity ? codes : 0;
    }
    return finite;
}
/* The largest magnitude that is finite, of all lanes: what `saturate` and one scale need. */
SHMEMX_DEVICE_FN u32 finite_magnitude_of_piece(const floats &f)
{
    u32 m = 0;
    SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < lane_words; ++i)
        SHMEMX_DEVICE_UNROLL
    for (unsigned k = 0; k < 8; ++k) {
        const u32 b = bits_of_float(f[i][k]) & 0x7fffffffu;
        m = b < infinity ? larger(m, b) : m;
    }
    return m;
}
SHMEMX_DEVICE_FN bool all_finite(const floats &f) // of this lane
{
    return magnitude_of_piece(f) < infinity;
}

/* ---- elements in memory --------------------------------------------------------------------------------- */

/* What users' elements are; enum shmemx_type has the same order. */
struct float32 {
    static constexpr unsigned bytes = 4;
    static SHMEMX_DEVICE_FN float load(const u8 *p)
    {
        return float_of_bits(arch::load_plain(reinterpret_cast<const u32 *>(p)));
    }
    static SHMEMX_DEVICE_FN void store(u8 *p, float f)
    {
        arch::store_plain(reinterpret_cast<u32 *>(p), bits_of_float(f));
    }
    static SHMEMX_DEVICE_FN void load_eight(const u8 *p, float (&f)[8]) // 16-byte aligned
    {
        const auto *v = reinterpret_cast<const arch::vec16 *>(p);
        const arch::vec16 a = arch::load_plain(v), b = arch::load_plain(v + 1);
        f[0] = float_of_bits(static_cast<u32>(a.x)), f[1] = float_of_bits(static_cast<u32>(a.x >> 32));
        f[2] = float_of_bits(static_cast<u32>(a.y)), f[3] = float_of_bits(static_cast<u32>(a.y >> 32));
        f[4] = float_of_bits(static_cast<u32>(b.x)), f[5] = float_of_bits(static_cast<u32>(b.x >> 32));
        f[6] = float_of_bits(static_cast<u32>(b.y)), f[7] = float_of_bits(static_cast<u32>(b.y >> 32));
    }
    static SHMEMX_DEVICE_FN u64 two(float a, float b)
    {
        return bits_of_float(a) | static_cast<u64>(bits_of_float(b)) << 32;
    }
    static SHMEMX_DEVICE_FN void store_eight(u8 *p, const float (&f)[8])
    {
        auto *v = reinterpret_cast<arch::vec16 *>(p);
        arch::store_plain(v, arch::make_vec16(two(f[0], f[1]), two(f[2], f[3])));
        arch::store_plain(v + 1, arch::make_vec16(two(f[4], f[5]), two(f[6], f[7])));
    }
};
template <class Own> struct sixteen_bits {
    static constexpr unsigned bytes = 2;
    static SHMEMX_DEVICE_FN float load(const u8 *p)
    {
        return Own::widen(arch::load_plain(reinterpret_cast<const u16 *>(p)));
    }
    static SHMEMX_DEVICE_FN void store(u8 *p, float f)
    {
        arch::store_plain(reinterpret_cast<u16 *>(p), static_cast<u16>(Own::pair(f, 0)));
    }
    static SHMEMX_DEVICE_FN void load_eight(const u8 *p, float (&f)[8])
    {
        const arch::vec16 v = arch::load_plain(reinterpret_cast<const arch::vec16 *>(p));
        const u32 w[4] = {static_cast<u32>(v.x), static_cast<u32>(v.x >> 32), static_cast<u32>(v.y),
                          static_cast<u32>(v.y >> 32)};
        SHMEMX_DEVICE_UNROLL
        for (unsigned i = 0; i < 4; ++i) {
            f[2 * i] = Own::widen(w[i] & 0xffffu);
            f[2 * i + 1] = Own::widen(w[i] >> 16);
        }
    }
    static SHMEMX_DEVICE_FN u64 four(float a, float b, float c, float d)
    {
        return Own::pair(a, b) | static_cast<u64>(Own::pair(c, d)) << 32;
    }
    static SHMEMX_DEVICE_FN void store_eight(u8 *p, const float (&f)[8])
    {
        arch::store_plain(reinterpret_cast<arch::vec16 *>(p),
                          arch::make_vec16(four(f[0], f[1], f[2], f[3]), four(f[4], f[5], f[6], f[7])));
    }
};
struct float16 : sixteen_bits<float16> {
    static SHMEMX_DEVICE_FN float widen(u32 h)
    {
        return from_f16(h);
    }
    static SHMEMX_DEVICE_FN u32 pair(float low, float high)
    {
#ifdef __CUDA_ARCH__
        u32 both;
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
        return both;
#else
        return to_f16(low) | to_f16(high) << 16;
#endif
    }
};
struct bfloat16 : sixteen_bits<bfloat16> {
    static SHMEMX_DEVICE_FN float widen(u32 h)
    {
        return low_bf16(h);
    }
    static SHMEMX_DEVICE_FN u32 pair(float low, float high)
    {
        return to_bf16_pair(low, high);
    }
};

/* Where this lane's word number i of a piece is. */
SHMEMX_DEVICE_FN unsigned word_of(unsigned i)
{
    return arch::lane(warp) + i * arch::warp_width;
}
SHMEMX_DEVICE_FN bool by_vectors(const void *p, unsigned count)
{
    return count >= piece && reinterpret_cast<u64>(p) % 16 == 0;
}
struct values {
    floats f;
};
/* What is not whole, or not aligned: out of line, by value, so that floats elsewhere stay in registers. */
template <class E> SHMEMX_DEVICE_CALL values load_some(const u8 *src, unsigned count)
{
    values v;
    SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < lane_words; ++i)
        SHMEMX_DEVICE_UNROLL
    for (unsigned k = 0; k < 8; ++k) {
        const unsigned at = word_of(i) * 8 + k;
        v.f[i][k] = at < count ? E::load(src + at * E::bytes) : 0;
    }
    return v;
}
template <class E> SHMEMX_DEVICE_CALL void store_some(u8 *dst, unsigned count, values v)
{
    SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < lane_words; ++i)
        SHMEMX_DEVICE_UNROLL
    for (unsigned k = 0; k < 8; ++k) {
        const unsigned at = word_of(i) * 8 + k;
        if (at < count)
            E::store(dst + at * E::bytes, v.f[i][k]);
    }
}
SHMEMX_DEVICE_FN void copy(const floats &from, floats &to)
{
    SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < lane_words; ++i)
        SHMEMX_DEVICE_UNROLL
    for (unsigned k = 0; k < 8; ++k)
        to[i][k] = from[i][k];
}
/* `count` elements of a piece; behind them zeros. */
template <class E> SHMEMX_DEVICE_FN void load_piece(const u8 *src, unsigned count, floats &f)
{
    if (by_vectors(src, count)) {
        SHMEMX_DEVICE_UNROLL
        for (unsigned i = 0; i < lane_words; ++i)
            E::load_eight(src + word_of(i) * 8 * E::bytes, f[i]);
    } else {
        const values v = load_some<E>(src, count);
        copy(v.f, f);
    }
}
template <class E> SHMEMX_DEVICE_FN void store_piece(u8 *dst, unsigned count, const floats &f)
{
    if (by_vectors(dst, count)) {
        SHMEMX_DEVICE_UNROLL
        for (unsigned i = 0; i < lane_words; ++i)
            E::store_eight(dst + word_of(i) * 8 * E::bytes, f[i]);
    } else {
        values v;
        copy(f, v.f);
        store_some<E>(dst, count, v);
    }
}

/* ---- pieces of records ---------------------------------------------------------------------------------- */

/* Where the scales of a record are, and where it ends (shmemx_int8_row_bytes). */
SHMEMX_DEVICE_FN u64 scales_at(u64 cols)
{
    return (cols + 3) & ~3ull;
}
SHMEMX_DEVICE_FN u64 groups_of(u64 cols, unsigned group)
{
    return group == 0 ? 1 : (cols + group - 1) / group;
}

/* Codes and scales of the piece at column `from` go to their places in a record of cols columns; the last piece writes
 * the padding. */
SHMEMX_DEVICE_FN void put_piece(u8 *record, u64 cols, const form &how, u64 from, const words &w,
                                const float (&scale)[lane_words])
{
    const unsigned count = cols - from < piece ? static_cast<unsigned>(cols - from) : piece;
    u8 *values = record + from;
    u8 *scales = record + scales_at(cols) + (how.group == 0 ? 0 : from / how.group * 4);
    const bool whole = count == piece && reinterpret_cast<u64>(values) % 8 == 0;
    const bool aligned = reinterpret_cast<u64>(scales) % 4 == 0;
    SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < lane_words; ++i) {
        const unsigned word = word_of(i);
        if (whole)
            arch::store_plain(reinterpret_cast<u64 *>(values + word * 8), w[i]);
        else
            detail::write_bytes(values, word * 8, count, w[i]);
        if (how.leads(word) && word * 8 < count && (how.group != 0 || from == 0)) {
            u8 *to = scales + how.group_of(word) * 4;
            if (aligned)
                arch::store_plain(reinterpret_cast<u32 *>(to), bits_of_float(scale[i]));
            else
                detail::write_bytes(to, 0, 4, bits_of_float(scale[i]));
        }
    }
    if (from + count == cols) {
        const u64 end = scales_at(cols) + groups_of(cols, how.group) * 4;
        const unsigned lane = arch::lane(warp);
        for (u64 i = cols + lane; i < scales_at(cols); i += arch::warp_width)
            arch::store_plain(record + i, static_cast<u8>(0));
        for (u64 i = end + lane; i < ((end + 15) & ~15ull); i += arch::warp_width)
            arch::store_plain(record + i, static_cast<u8>(0));
    }
}
SHMEMX_DEVICE_FN void take_piece(const u8 *record, u64 cols, const form &how, u64 from, floats &f)
{
    const unsigned count = cols - from < piece ? static_cast<unsigned>(cols - from) : piece;
    const u8 *values = record + from;
    const u8 *scales = record + scales_at(cols) + (how.group == 0 ? 0 : from / how.group * 4);
    const bool whole = count == piece && reinterpret_cast<u64>(values) % 8 == 0;
    const bool aligned = reinterpret_cast<u64>(scales) % 4 == 0;
    u64 w[lane_words];
    u32 s[lane_words];
    SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < lane_words; ++i) { // all loads before the first use
        const unsigned word = word_of(i);
        w[i] = whole ? arch::load_plain(reinterpret_cast<const u64 *>(values + word * 8))
                     : detail::read_bytes(values, word * 8, count);
        const u8 *at = scales + how.group_of(word) * 4;
        s[i] = word * 8 >= count ? 0
               : aligned         ? arch::load_plain(reinterpret_cast<const u32 *>(at))
                                 : static_cast<u32>(detail::read_bytes(at, 0, 4));
    }
    SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < lane_words; ++i)
        unpack(how.e4m3, w[i], float_of_bits(s[i]), f[i]);
}

/* One record by warp c.mine of c.warps. load(from, count, f) gives the elements from column `from` on, zeros behind
 * `count`; it is asked twice where the record has one scale. Returns whether what this lane saw is finite. */
template <class Load>
SHMEMX_DEVICE_FN bool quantize_record(const detail::crew &c, u8 *record, u64 cols, const form &how, Load load)
{
    u32 whole = 0;
    bool finite = true;
    if (how.group == 0) { // every warp looks at the whole record
        SHMEMX_DEVICE_ROLLED
        for (u64 from = 0; from < cols; from += piece) {
            floats f;
            load(from, cols - from < piece ? static_cast<unsigned>(cols - from) : piece, f);
            whole = larger(whole, how.saturate ? finite_magnitude_of_piece(f) : magnitude_of_piece(f));
        }
        whole = largest_of_warp(whole);
    }
    SHMEMX_DEVICE_ROLLED
    for (u64 from = static_cast<u64>(c.mine) * piece; from < cols;
         from += static_cast<u64>(c.warps) * piece) {
        floats f;
        words w;
        float scale[lane_words];
        load(from, cols - from < piece ? static_cast<unsigned>(cols - from) : piece, f);
        const bool here = all_finite(f);
        finite = finite && here;
        if (how.saturate && !arch::all(warp, here))
            saturate(f, how.words_each(), whole);
        (void)quantize_piece(how, f, whole, w, scale);
        put_piece(record, cols, how, from, w, scale);
    }
    return finite;
}
template <class Store>
SHMEMX_DEVICE_FN void dequantize_record(const detail::crew &c, const u8 *record, u64 cols, const form &how,
                                        Store store)
{
    SHMEMX_DEVICE_ROLLED
    for (u64 from = static_cast<u64>(c.mine) * piece; from < cols;
         from += static_cast<u64>(c.warps) * piece) {
        floats f;
        take_piece(record, cols, how, from, f);
        store(from, cols - from < piece ? static_cast<unsigned>(cols - from) : piece, f);
    }
}

/* ---- what users hand over -------------------------------------------------------------------------------- */

template <class T>
struct element_of; // float, and the 16-bit classes of the headers that were included before
template <> struct element_of<float> {
    using type = float32;
};
#ifdef __CUDA_FP16_H__
template <> struct element_of<__half> {
    using type = float16;
};
#endif
#ifdef __CUDA_BF16_H__
template <> struct element_of<__nv_bfloat16> {
    using type = bfloat16;
};
#endif

/* Memory of the user's, or a function of the element's number. */
template <class X> struct source {
    const X &value;
    SHMEMX_DEVICE_FN void operator()(u64 from, unsigned count, floats &f) const
    {
        SHMEMX_DEVICE_UNROLL
        for (unsigned i = 0; i < lane_words; ++i)
            SHMEMX_DEVICE_UNROLL
        for (unsigned k = 0; k < 8; ++k) {
            const unsigned at = word_of(i) * 8 + k;
            f[i][k] = at < count ? static_cast<float>(value(static_cast<size>(from + at))) : 0;
        }
    }
};
template <class T> struct source<const T *> {
    const T *const &value;
    SHMEMX_DEVICE_FN void operator()(u64 from, unsigned count, floats &f) const
    {
        load_piece<typename element_of<T>::type>(reinterpret_cast<const u8 *>(value + from), count, f);
    }
};
template <class T> struct source<T *> {
    T *const &value;
    SHMEMX_DEVICE_FN void operator()(u64 from, unsigned count, floats &f) const
    {
        load_piece<typename element_of<T>::type>(reinterpret_cast<const u8 *>(value + from), count, f);
    }
};
template <class X> struct target {
    const X &value;
    SHMEMX_DEVICE_FN void operator()(u64 from, unsigned count, const floats &f) const
    {
        SHMEMX_DEVICE_UNROLL
        for (unsigned i = 0; i < lane_words; ++i)
            SHMEMX_DEVICE_UNROLL
        for (unsigned k = 0; k < 8; ++k) {
            const unsigned at = word_of(i) * 8 + k;
            if (at < count)
                value(static_cast<size>(from + at), f[i][k]);
        }
    }
};
template <class T> struct target<T *> {
    T *const &value;
    SHMEMX_DEVICE_FN void operator()(u64 from, unsigned count, const floats &f) const
    {
        store_piece<typename element_of<T>::type>(reinterpret_cast<u8 *>(value + from), count, f);
    }
};

} // namespace codec

template <class Scope, class X>
SHMEMX_DEVICE_FN bool quantize(const Scope &scope, void *record, const X &x, size cols, quant how)
{
    const detail::crew c = detail::whole_crew(scope);
    const codec::form form = {how.format == quant_e4m3, how.group, how.nonfinite == quant_saturate};
    bool finite = true;
    if (c.mine < c.warps)
        finite = codec::quantize_record(c, static_cast<u8 *>(record), cols, form, codec::source<X>{x});
    return arch::all(scope, finite);
}

template <class Scope, class Y>
SHMEMX_DEVICE_FN void dequantize(const Scope &scope, const Y &y, const void *record, size cols, quant how)
{
    const detail::crew c = detail::whole_crew(scope);
    const codec::form form = {how.format == quant_e4m3, how.group, false};
    if (c.mine < c.warps)
        codec::dequantize_record(c, static_cast<const u8 *>(record), cols, form, codec::target<Y>{y});
    arch::sync(scope);
}

} // namespace shmem

#endif
