/* Rows of BF16 as FP8 or INT8 with float32 scales, and back, by the lanes of a warp. Also compiled for CPU threads
 * (tests/device).
 *
 * Words of 8 bytes: word w of a quantized row holds its elements 8 w .. 8 w + 7, made of vector w (16 bytes) of the BF16
 * row. A group is 32, 64 or 128 columns, or the whole row. INT8 as shmemx_int8.h has it, bit by bit; FP8 (E4M3, finite):
 *     scale = max(amax, 1e-4) / 448, or with ue8m0 the next power of two above;  q = e4m3(x * (1 / scale))
 * which is DeepEP's cast up to the last bit. NaN becomes 0 as INT8 and stays NaN as FP8; infinity becomes the largest. */
#ifndef SHMEMI_GPU_MOE_QUANT_CUH
#define SHMEMI_GPU_MOE_QUANT_CUH

#include "shmem_device.h"

namespace shmem
{
namespace moe
{

/* How a row travels; shmemx_moe_gpu.h has the same numbers. */
enum format : unsigned { as_bf16 = 0, as_int8 = 1, as_fp8 = 2 };

struct quantizer {
    unsigned how;    // enum format, not as_bf16
    unsigned hidden; // columns, a multiple of 8
    unsigned group;  // columns of a scale; hidden = the whole row
    unsigned ue8m0;  // FP8: scales are powers of two

    SHMEMX_DEVICE_FN unsigned groups() const
    {
        return (hidden + group - 1) / group;
    }
    SHMEMX_DEVICE_FN unsigned words() const
    {
        return hidden / 8;
    }
};

/* ---- elements ------------------------------------------------------------------------------------------------------- */

SHMEMX_DEVICE_FN float float_of_bits(u32 b)
{
    return detail::bits<float>(b);
}
SHMEMX_DEVICE_FN u32 bits_of_float(float f)
{
    return detail::bits<u32>(f);
}
SHMEMX_DEVICE_FN float largest(float a, float b) // NaN loses
{
    return a > b ? a : b == b ? b : a;
}
SHMEMX_DEVICE_FN float magnitude(float a)
{
    return float_of_bits(bits_of_float(a) & 0x7fffffffu);
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
SHMEMX_DEVICE_FN float low_bf16(u32 pair)
{
    return float_of_bits(pair << 16);
}
SHMEMX_DEVICE_FN float high_bf16(u32 pair)
{
    return float_of_bits(pair & 0xffff0000u);
}
/* Eight BF16 of a vector as floats, and four floats as a word of BF16. */
SHMEMX_DEVICE_FN void unpack_bf16(const arch::vec16 &v, float (&f)[8])
{
    const u32 w[4] = {static_cast<u32>(v.x), static_cast<u32>(v.x >> 32), static_cast<u32>(v.y),
                      static_cast<u32>(v.y >> 32)};
    SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < 4; ++i) {
        f[2 * i] = low_bf16(w[i]);
        f[2 * i + 1] = high_bf16(w[i]);
    }
}
SHMEMX_DEVICE_FN u64 pack_bf16(float a, float b, float c, float d)
{
    return static_cast<u64>(to_bf16(a) | to_bf16(b) << 16) | static_cast<u64>(to_bf16(c) | to_bf16(d) << 16) << 32;
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
SHMEMX_DEVICE_FN u32 to_int8(float f) // of magnitude 127 at most, or NaN
{
#ifdef __CUDA_ARCH__
    return static_cast<u32>(__float2int_rn(f)) & 0xffu;
#else
    const float magic = 12582912.0f; // 1.5 * 2^23: the sum's last bits are the integer, to nearest even
    return f != f ? 0 : (bits_of_float(f + magic) - bits_of_float(magic)) & 0xffu;
#endif
}

/* ---- groups ---------------------------------------------------------------------------------------------------------- */

struct scaling {
    float scale, inverse;
};
SHMEMX_DEVICE_FN scaling scaling_of(const quantizer &q, float amax)
{
    if (q.how == as_int8) {
        if (amax == 0)
            return scaling{0, 0};
        float s = amax / 127.0f; // held where 1 / scale and 127 * scale are finite and normal
        s = s < 0x1p-126f ? 0x1p-126f : s > 0x1.020406p121f ? 0x1.020406p121f : s;
        return scaling{s, 1.0f / s};
    }
    amax = amax < 1e-4f ? 1e-4f : amax > 3.4028234e38f ? 3.4028234e38f : amax;
    if (q.ue8m0 == 0)
        return scaling{amax / 448.0f, 448.0f / amax};
    u32 b = bits_of_float(amax / 448.0f);
    b = (b + 0x7fffffu) & 0x7f800000u; // up to a power of two
    return scaling{float_of_bits(b), float_of_bits((254u << 23) - b)};
}
SHMEMX_DEVICE_FN u64 quantize_vector(const quantizer &q, const arch::vec16 &v, float inverse)
{
    float f[8];
    unpack_bf16(v, f);
    u64 w = 0;
    if (q.how == as_int8) {
        SHMEMX_DEVICE_UNROLL
        for (unsigned i = 0; i < 8; ++i) {
            float s = f[i] * inverse;
            s = s > 127.0f ? 127.0f : s < -127.0f ? -127.0f : s;
            w |= static_cast<u64>(to_int8(s)) << 8 * i;
        }
    } else {
        SHMEMX_DEVICE_UNROLL
        for (unsigned i = 0; i < 4; ++i)
            w |= static_cast<u64>(to_e4m3_pair(f[2 * i] * inverse, f[2 * i + 1] * inverse)) << 16 * i;
    }
    return w;
}
/* Eight values of a word, times their scale. */
SHMEMX_DEVICE_FN void dequantize_word(const quantizer &q, u64 w, float scale, float (&f)[8])
{
    SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < 8; ++i) {
        const u32 b = static_cast<u32>(w >> 8 * i) & 0xffu;
        f[i] = (q.how == as_int8 ? static_cast<float>(static_cast<int>(b ^ 0x80u) - 128) : from_e4m3(b)) * scale;
    }
}
SHMEMX_DEVICE_FN float largest_of(const arch::vec16 &v)
{
    float f[8], m = 0;
    unpack_bf16(v, f);
    SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < 8; ++i)
        m = largest(m, magnitude(f[i]));
    return m;
}

/* The warps of `c` quantize one row: vector(w) gives its w-th vector and may be asked twice; word(w, eight values) and
 * scale(g, value) take the results, each once, from some lane. All lanes of the warps call. */
template <class Vector, class Word, class Scale>
SHMEMX_DEVICE_FN void quantize_row(const detail::crew &c, const quantizer &q, Vector vector, Word word, Scale scale)
{
    const unsigned vectors = (q.group + 7) / 8; // of a group
    unsigned team = arch::warp_width; // lanes of a group: the least power of two that gives each a vector, or a warp
    while (team / 2 >= vectors)
        team /= 2;
    const unsigned lane = arch::lane(warp), sub = lane % team, teams = arch::warp_width / team;
    const unsigned groups = q.groups(), all = q.words();
    SHMEMX_DEVICE_ROLLED
    for (unsigned u = c.mine * teams; u < groups; u += c.warps * teams) {
        const unsigned g = u + lane / team, first = g * vectors + sub;
        const unsigned end = g < groups ? (g * vectors + vectors < all ? g * vectors + vectors : all) : 0;
        const arch::vec16 v = first < end ? vector(first) : arch::make_vec16(0, 0);
        float amax = largest_of(v);
        SHMEMX_DEVICE_ROLLED
        for (unsigned i = first + team; i < end; i += team)
            amax = largest(amax, largest_of(vector(i)));
        SHMEMX_DEVICE_ROLLED
        for (unsigned m = 1; m < team; m *= 2)
            amax = largest(amax, float_of_bits(arch::shuffle_xor(bits_of_float(amax), m)));
        const scaling s = scaling_of(q, amax);
        if (sub == 0 && g < groups)
            scale(g, s.scale);
        if (first < end)
            word(first, quantize_vector(q, v, s.inverse));
        SHMEMX_DEVICE_ROLLED
        for (unsigned i = first + team; i < end; i += team)
            word(i, quantize_vector(q, vector(i), s.inverse));
    }
}

} // namespace moe
} // namespace shmem

#endif
