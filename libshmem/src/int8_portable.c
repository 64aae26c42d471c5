/* INT8 kernels in C with 16-byte vectors, which the compiler maps on what the machine has or on scalars. */
#include "int8_strict.h"

#include "int8.h"

#include <string.h>

#define INT8_TARGET
#define INT8_OP inline __attribute__((always_inline))

typedef float vec_f __attribute__((vector_size(16)));
typedef int32_t vec_i __attribute__((vector_size(16)));
typedef int8_t vec_b __attribute__((vector_size(4)));

typedef struct {
    vec_f v[4];
} block;

typedef struct {
    vec_i v[4];
} mags;

/* binary16 <-> binary32 by integers, so that it does not depend on the flush-to-zero modes. */
static inline uint32_t f16_to_f32(uint32_t half)
{
    uint32_t sign = (half & 0x8000u) << 16, exponent = half >> 10 & 31, mantissa = half & 1023;
    if (exponent == 31) { /* a signaling NaN becomes quiet, as the hardware has it */
        return sign | 0x7f800000u | (mantissa ? 0x00400000u | mantissa << 13 : 0);
    }
    if (exponent == 0) {
        if (mantissa == 0) {
            return sign;
        }
        uint32_t shift = (uint32_t)__builtin_clz(mantissa) - 21; /* brings the first one to bit 10 */
        return sign | (113 - shift) << 23 | (mantissa << shift & 1023) << 13;
    }
    return sign | (exponent + 112) << 23 | mantissa << 13;
}

static inline uint32_t f32_to_f16(uint32_t bits)
{
    uint32_t sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {
        return sign | 0x7e00u | (magnitude >> 13 & 1023);
    }
    if (magnitude >= 0x477ff000u) { /* 65520, half way between the largest and 2^16 */
        return sign | 0x7c00u;
    }
    /* Below 2^-14: a multiple of 2^-24, and 2^-25 is a tie with 0. */
    if (magnitude < 0x38800000u) {
        if (magnitude <= 0x33000000u) {
            return sign;
        }
        uint32_t shift = 126 - (magnitude >> 23), mantissa = (magnitude & 0x7fffffu) | 0x800000u;
        uint32_t floor = mantissa >> shift, rest = mantissa & ((1u << shift) - 1), half = 1u << (shift - 1);
        return sign | (floor + (rest > half || (rest == half && (floor & 1))));
    }
    return sign | (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1)) >> 13;
}

static INT8_OP block load_f32(const void *x)
{
    block b;
    memcpy(&b, x, sizeof b);
    return b;
}

static INT8_OP void store_f32(void *x, block b)
{
    memcpy(x, &b, sizeof b);
}

static INT8_OP block load_bits(const void *x, uint32_t (*widen)(uint32_t))
{
    uint16_t narrow[16];
    uint32_t wide[16];
    memcpy(narrow, x, sizeof narrow);
    for (int i = 0; i < 16; i++) {
        wide[i] = widen(narrow[i]);
    }
    return load_f32(wide);
}

static INT8_OP void store_bits(void *x, block b, uint32_t (*narrow)(uint32_t))
{
    uint32_t wide[16];
    uint16_t out[16];
    store_f32(wide, b);
    for (int i = 0; i < 16; i++) {
        out[i] = (uint16_t)narrow(wide[i]);
    }
    memcpy(x, out, sizeof out);
}

static inline uint32_t bf16_to_f32(uint32_t bits)
{
    return bits << 16;
}

static inline uint32_t f32_to_bf16(uint32_t bits)
{
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return bits >> 16 | 0x40u; /* keeps a NaN whose payload is cut a NaN */
    }
    return (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
}

static INT8_OP block load_f16(const void *x)
{
    return load_bits(x, f16_to_f32);
}

static INT8_OP void store_f16(void *x, block b)
{
    store_bits(x, b, f32_to_f16);
}

static INT8_OP block load_bf16(const void *x)
{
    return load_bits(x, bf16_to_f32);
}

static INT8_OP void store_bf16(void *x, block b)
{
    store_bits(x, b, f32_to_bf16);
}

static INT8_OP block load_q(const void *q)
{
    int8_t bytes[16];
    float values[16];
    memcpy(bytes, q, sizeof bytes);
    for (int i = 0; i < 16; i++) {
        values[i] = (float)bytes[i];
    }
    return load_f32(values);
}

static INT8_OP void store_q(void *q, block b)
{
    /* Adding 1.5 * 2^23 rounds to an integer and leaves it in the lowest bits. */
    INT8_UNROLL
    for (int k = 0; k < 4; k++) {
        vec_b bytes = __builtin_convertvector((vec_i)(b.v[k] + 0x1.8p23f), vec_b);
        memcpy((unsigned char *)q + 4 * k, &bytes, sizeof bytes);
    }
}

static INT8_OP block mul(block b, float factor)
{
    INT8_UNROLL
    for (int k = 0; k < 4; k++) {
        b.v[k] *= factor;
    }
    return b;
}

static INT8_OP block add(block a, block b)
{
    INT8_UNROLL
    for (int k = 0; k < 4; k++) {
        a.v[k] += b.v[k];
    }
    return a;
}

static INT8_OP vec_i vec_max(vec_i a, vec_i b)
{
    vec_i larger = a > b;
    return (a & larger) | (b & ~larger);
}

static INT8_OP mags mags_zero(void)
{
    return (mags){{{0}, {0}, {0}, {0}}};
}

static INT8_OP mags mags_max(mags m, block b)
{
    INT8_UNROLL
    for (int k = 0; k < 4; k++) {
        m.v[k] = vec_max(m.v[k], (vec_i)b.v[k] & 0x7fffffff);
    }
    return m;
}

static INT8_OP uint32_t mags_reduce(mags m)
{
    vec_i pair = vec_max(vec_max(m.v[0], m.v[1]), vec_max(m.v[2], m.v[3]));
    int32_t a = pair[0] > pair[1] ? pair[0] : pair[1], b = pair[2] > pair[3] ? pair[2] : pair[3];
    return (uint32_t)(a > b ? a : b);
}

#include "int8_kernels.inc"

INT8_TABLE(portable);
