/* What the codec of 8-bit records (quant.h) is made of: elements, scales, and words of eight codes.
 *
 * Products and sums are rounded one by one, never fused, as the CPU's are.
 * Included by shmem_device.h only. */
#ifndef SHMEM_DEVICE_CODEC_H
#define SHMEM_DEVICE_CODEC_H

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
template <unsigned N> SHMEMX_DEVICE_FN float over(float x)
{
    constexpr float n = N;
#ifdef __CUDA_ARCH__
    constexpr float part = 1 / n;
    const float q = x * part;
    return __fmaf_rn(__fmaf_rn(q, -n, x), part, q);
#else
    return x / n;
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
    const float s = over<127>(amax);
    return s < 0x1p-126f ? 0x1p-126f : s > 0x1.020406p121f ? 0x1.020406p121f : s;
}
SHMEMX_DEVICE_FN float held_over_448(float amax)
{
    const float s = over<448>(amax);
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
SHMEMX_DEVICE_FN void unpack_four(bool e4m3, u32 w, float scale, float (&f)[4])
{
    if (e4m3) {
        from_e4m3_pair(w & 0xffffu, f[0], f[1]);
        from_e4m3_pair(w >> 16, f[2], f[3]);
    } else {
        const u32 b = w ^ 0x80808080u;
        f[0] = from_biased<0>(b), f[1] = from_biased<1>(b), f[2] = from_biased<2>(b),
        f[3] = from_biased<3>(b);
    }
    SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < 4; ++i)
        f[i] = product(f[i], scale);
}
SHMEMX_DEVICE_FN void unpack(bool e4m3, u64 w, float scale, float (&f)[8])
{
    float low[4], high[4];
    unpack_four(e4m3, static_cast<u32>(w), scale, low);
    unpack_four(e4m3, static_cast<u32>(w >> 32), scale, high);
    SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < 4; ++i)
        f[i] = low[i], f[i + 4] = high[i];
}

/* ---- elements in memory, eight at a time ---------------------------------------------------------------- */

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
    static SHMEMX_DEVICE_FN void store_four(u8 *p, const float (&f)[4])
    {
        arch::store_plain(reinterpret_cast<arch::vec16 *>(p),
                          arch::make_vec16(two(f[0], f[1]), two(f[2], f[3])));
    }
    static SHMEMX_DEVICE_FN void store_eight(u8 *p, const float (&f)[8])
    {
        store_four(p, {f[0], f[1], f[2], f[3]});
        store_four(p + 16, {f[4], f[5], f[6], f[7]});
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

} // namespace codec

} // namespace shmem

#endif
