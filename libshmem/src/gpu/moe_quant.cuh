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

using namespace codec; // device/quant.h

SHMEMX_DEVICE_FN float largest(float a, float b) // NaN loses
{
    return a > b ? a : b == b ? b : a;
}
SHMEMX_DEVICE_FN float magnitude(float a)
{
    return float_of_bits(bits_of_float(a) & 0x7fffffffu);
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
    return to_bf16_pair(a, b) | static_cast<u64>(to_bf16_pair(c, d)) << 32;
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

/* Correctly rounded, without the cases that these numbers have not: a third of the instructions of a division. */
SHMEMX_DEVICE_FN float reciprocal(float x) // of a normal number whose reciprocal is one
{
#ifdef __CUDA_ARCH__
    return __frcp_rn(x);
#else
    return 1.0f / x;
#endif
}
SHMEMX_DEVICE_FN scaling scaling_of(const quantizer &q, float amax)
{
    if (q.how == as_int8) {
        if (amax == 0)
            return scaling{0, 0};
        const float s = held_over_127(amax);
        return scaling{s, reciprocal_within(s)};
    }
    amax = amax < 1e-4f ? 1e-4f : amax > 3.4028234e38f ? 3.4028234e38f : amax;
    if (q.ue8m0 == 0)
        return scaling{amax * (1.0f / 448.0f), 448.0f * reciprocal(amax)};
    u32 b = bits_of_float(amax * (1.0f / 448.0f));
    b = (b + 0x7fffffu) & 0x7f800000u; // up to a power of two
    return scaling{float_of_bits(b), float_of_bits((254u << 23) - b)};
}
SHMEMX_DEVICE_FN u64 quantize_eight(const quantizer &q, const float (&f)[8], float inverse)
{
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
SHMEMX_DEVICE_FN float largest_of(const float (&f)[8])
{
    float m = 0;
    SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < 8; ++i)
        m = largest(m, magnitude(f[i]));
    return m;
}

/* Vectors of a row that a lane has in its hands at once: their loads are in flight together. */
constexpr unsigned quantize_batch = 2;

/* Lanes that share a group: the least power of two that gives each a vector, or a warp. */
SHMEMX_DEVICE_FN unsigned lanes_of_group(unsigned vectors)
{
    unsigned team = arch::warp_width;
    while (team / 2 >= vectors)
        team /= 2;
    return team;
}
/* The largest of the lanes of a group. */
SHMEMX_DEVICE_FN float largest_of_lanes(float amax, unsigned team)
{
    SHMEMX_DEVICE_ROLLED
    for (unsigned m = 1; m < team; m *= 2)
        amax = largest(amax, float_of_bits(arch::shuffle_xor(bits_of_float(amax), m)));
    return amax;
}

/* The warps of `c` quantize one row. fill(w, f) gives the floats of words w[0], w[1], .. (no_word = none; f is 0 then)
 * and may be asked twice; word(w, eight values) and scale(g, value) take the results, each once, from some lane. All
 * lanes of the warps call. */
constexpr unsigned no_word = ~0u;
template <class Fill, class Word, class Scale>
SHMEMX_DEVICE_FN void quantize_floats(const detail::crew &c, const quantizer &q, Fill fill, Word word, Scale scale)
{
    constexpr unsigned N = quantize_batch;
    const unsigned vectors = (q.group + 7) / 8, team = lanes_of_group(vectors); // vectors of a group
    const unsigned lane = arch::lane(warp), sub = lane % team, teams = arch::warp_width / team;
    const unsigned groups = q.groups(), all = q.words(), step = c.warps * teams;
    if (vectors <= team) { // a vector each lane: several groups at once
        SHMEMX_DEVICE_ROLLED
        for (unsigned u = c.mine * teams; u < groups; u += N * step) {
            unsigned w[N];
            float f[N][8] = {};
            SHMEMX_DEVICE_UNROLL
            for (unsigned i = 0; i < N; ++i) {
                const unsigned g = u + i * step + lane / team, at = g * vectors + sub;
                w[i] = g < groups && sub < vectors && at < all ? at : no_word;
            }
            fill(w, f);
            SHMEMX_DEVICE_UNROLL
            for (unsigned i = 0; i < N; ++i) {
                if (u + i * step >= groups) // of all lanes
                    break;
                const unsigned g = u + i * step + lane / team;
                const scaling s = scaling_of(q, largest_of_lanes(largest_of(f[i]), team));
                if (sub == 0 && g < groups)
                    scale(g, s.scale);
                if (w[i] != no_word)
                    word(w[i], quantize_eight(q, f[i], s.inverse));
            }
        }
        return;
    }
    SHMEMX_DEVICE_ROLLED
    for (unsigned g = c.mine; g < groups; g += c.warps) { // a warp each group, all its vectors twice
        const unsigned begin = g * vectors, end = begin + vectors < all ? begin + vectors : all;
        float amax = 0;
        scaling s = {0, 0};
        SHMEMX_DEVICE_ROLLED
        for (unsigned pass = 0; pass < 2; ++pass) {
            SHMEMX_DEVICE_ROLLED
            for (unsigned at = begin + lane; at < end; at += N * arch::warp_width) {
                unsigned w[N];
                float f[N][8] = {};
                SHMEMX_DEVICE_UNROLL
                for (unsigned i = 0; i < N; ++i)
                    w[i] = at + i * arch::warp_width < end ? at + i * arch::warp_width : no_word;
                fill(w, f);
                SHMEMX_DEVICE_UNROLL
                for (unsigned i = 0; i < N; ++i)
                    if (pass == 0)
                        amax = largest(amax, largest_of(f[i]));
                    else if (w[i] != no_word)
                        word(w[i], quantize_eight(q, f[i], s.inverse));
            }
            if (pass == 0) {
                s = scaling_of(q, largest_of_lanes(amax, team));
                if (lane == 0)
                    scale(g, s.scale);
            }
        }
    }
}
/* The same for a row of BF16: vector(w) gives its w-th 16 bytes. */
template <class Vector, class Word, class Scale>
SHMEMX_DEVICE_FN void quantize_row(const detail::crew &c, const quantizer &q, Vector vector, Word word, Scale scale)
{
    quantize_floats(
        c, q,
        [&](const unsigned(&w)[quantize_batch], float(&f)[quantize_batch][8]) {
            arch::vec16 v[quantize_batch];
            // loads without conditions, so that all are in flight before the first is used
            SHMEMX_DEVICE_UNROLL
            for (unsigned i = 0; i < quantize_batch; ++i)
                v[i] = vector(w[i] != no_word ? w[i] : 0);
            SHMEMX_DEVICE_UNROLL
            for (unsigned i = 0; i < quantize_batch; ++i)
                unpack_bf16(w[i] != no_word ? v[i] : arch::make_vec16(0, 0), f[i]);
        },
        word, scale);
}

} // namespace moe
} // namespace shmem

#endif
