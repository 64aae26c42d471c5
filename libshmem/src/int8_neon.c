/* INT8 kernels for NEON on aarch64, where it is always there. */
#if defined(__aarch64__)
#include "int8_strict.h"

#include "int8.h"

#include <arm_neon.h>

#define INT8_TARGET
#define INT8_OP inline __attribute__((always_inline))

typedef struct {
    float32x4_t v[4];
} block;

typedef struct {
    uint32x4_t v[4];
} mags;

/* Through bytes: vld1q_u8 asks for no alignment. */
static INT8_OP block load_f32(const void *x)
{
    block b;
    INT8_UNROLL
    for (int k = 0; k < 4; k++) {
        b.v[k] = vreinterpretq_f32_u8(vld1q_u8((const uint8_t *)x + 16 * k));
    }
    return b;
}

static INT8_OP void store_f32(void *x, block b)
{
    INT8_UNROLL
    for (int k = 0; k < 4; k++) {
        vst1q_u8((uint8_t *)x + 16 * k, vreinterpretq_u8_f32(b.v[k]));
    }
}

static INT8_OP block load_f16(const void *x)
{
    block b;
    INT8_UNROLL
    for (int k = 0; k < 4; k++) {
        b.v[k] = vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8((const uint8_t *)x + 8 * k)));
    }
    return b;
}

static INT8_OP void store_f16(void *x, block b)
{
    INT8_UNROLL
    for (int k = 0; k < 4; k++) {
        vst1_u8((uint8_t *)x + 8 * k, vreinterpret_u8_f16(vcvt_f16_f32(b.v[k])));
    }
}

static INT8_OP block load_bf16(const void *x)
{
    block b;
    INT8_UNROLL
    for (int k = 0; k < 4; k++) {
        uint16x4_t bits = vreinterpret_u16_u8(vld1_u8((const uint8_t *)x + 8 * k));
        b.v[k] = vreinterpretq_f32_u32(vshll_n_u16(bits, 16));
    }
    return b;
}

static INT8_OP void store_bf16(void *x, block b)
{
    INT8_UNROLL
    for (int k = 0; k < 4; k++) {
        uint32x4_t bits = vreinterpretq_u32_f32(b.v[k]), upper = vshrq_n_u32(bits, 16);
        uint32x4_t odd = vandq_u32(upper, vdupq_n_u32(1));
        uint32x4_t rounded = vshrq_n_u32(vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), odd), 16);
        uint32x4_t number = vceqq_f32(b.v[k], b.v[k]); /* a NaN gets its quiet bit and no rounding */
        rounded = vbslq_u32(number, rounded, vorrq_u32(upper, vdupq_n_u32(0x40)));
        vst1_u8((uint8_t *)x + 8 * k, vreinterpret_u8_u16(vmovn_u32(rounded)));
    }
}

static INT8_OP block load_q(const void *q)
{
    int8x16_t bytes = vld1q_s8(q);
    int16x8_t lo = vmovl_s8(vget_low_s8(bytes)), hi = vmovl_high_s8(bytes);
    return (block){{vcvtq_f32_s32(vmovl_s16(vget_low_s16(lo))), vcvtq_f32_s32(vmovl_high_s16(lo)),
                    vcvtq_f32_s32(vmovl_s16(vget_low_s16(hi))), vcvtq_f32_s32(vmovl_high_s16(hi))}};
}

static INT8_OP void store_q(void *q, block b)
{
    int16x8_t lo = vcombine_s16(vmovn_s32(vcvtnq_s32_f32(b.v[0])), vmovn_s32(vcvtnq_s32_f32(b.v[1])));
    int16x8_t hi = vcombine_s16(vmovn_s32(vcvtnq_s32_f32(b.v[2])), vmovn_s32(vcvtnq_s32_f32(b.v[3])));
    vst1q_s8(q, vcombine_s8(vmovn_s16(lo), vmovn_s16(hi)));
}

static INT8_OP block mul(block b, float factor)
{
    INT8_UNROLL
    for (int k = 0; k < 4; k++) {
        b.v[k] = vmulq_n_f32(b.v[k], factor);
    }
    return b;
}

static INT8_OP block add(block a, block b)
{
    INT8_UNROLL
    for (int k = 0; k < 4; k++) {
        a.v[k] = vaddq_f32(a.v[k], b.v[k]);
    }
    return a;
}

static INT8_OP mags mags_zero(void)
{
    uint32x4_t zero = vdupq_n_u32(0);
    return (mags){{zero, zero, zero, zero}};
}

static INT8_OP mags mags_max(mags m, block b)
{
    INT8_UNROLL
    for (int k = 0; k < 4; k++) {
        uint32x4_t bits = vandq_u32(vreinterpretq_u32_f32(b.v[k]), vdupq_n_u32(0x7fffffff));
        m.v[k] = vmaxq_u32(m.v[k], bits);
    }
    return m;
}

static INT8_OP uint32_t mags_reduce(mags m)
{
    return vmaxvq_u32(vmaxq_u32(vmaxq_u32(m.v[0], m.v[1]), vmaxq_u32(m.v[2], m.v[3])));
}

#include "int8_kernels.inc"

INT8_TABLE(neon);
#else
typedef int shmemi_int8_no_neon; /* ISO C wants something here */
#endif
