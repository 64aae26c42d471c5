/* INT8 kernels for AVX-512 (F, BW, DQ, VL). Its BF16 conversion is not used: it flushes subnormals. */
#if defined(__x86_64__)
#include "int8_strict.h"

#include "int8.h"

#include <immintrin.h>

#define INT8_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#define INT8_OP inline __attribute__((always_inline)) INT8_TARGET

typedef __m512 block;
typedef __m512i mags;

static INT8_OP block load_f32(const void *x)
{
    return _mm512_loadu_ps(x);
}

static INT8_OP void store_f32(void *x, block b)
{
    _mm512_storeu_ps(x, b);
}

static INT8_OP block load_f16(const void *x)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i_u *)x));
}

static INT8_OP void store_f16(void *x, block b)
{
    _mm256_storeu_si256((__m256i_u *)x, _mm512_cvtps_ph(b, _MM_FROUND_TO_NEAREST_INT));
}

static INT8_OP block load_bf16(const void *x)
{
    __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i_u *)x));
    return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
}

static INT8_OP void store_bf16(void *x, block b)
{
    __m512i bits = _mm512_castps_si512(b), upper = _mm512_srli_epi32(bits, 16);
    __m512i odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    __mmask16 nan = _mm512_cmp_ps_mask(b, b, _CMP_UNORD_Q); /* their quiet bit set, not rounded */
    rounded = _mm512_mask_or_epi32(_mm512_srli_epi32(rounded, 16), nan, upper, _mm512_set1_epi32(0x40));
    _mm256_storeu_si256((__m256i_u *)x, _mm512_cvtepi32_epi16(rounded));
}

static INT8_OP block load_q(const void *q)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i_u *)q)));
}

static INT8_OP void store_q(void *q, block b)
{
    _mm_storeu_si128((__m128i_u *)q, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(b)));
}

static INT8_OP block mul(block b, float factor)
{
    return _mm512_mul_ps(b, _mm512_set1_ps(factor));
}

static INT8_OP block add(block a, block b)
{
    return _mm512_add_ps(a, b);
}

static INT8_OP mags mags_zero(void)
{
    return _mm512_setzero_si512();
}

static INT8_OP mags mags_max(mags m, block b)
{
    return _mm512_max_epi32(m, _mm512_and_si512(_mm512_castps_si512(b), _mm512_set1_epi32(0x7fffffff)));
}

static INT8_OP uint32_t mags_reduce(mags m)
{
    return (uint32_t)_mm512_reduce_max_epi32(m);
}

#include "int8_kernels.inc"

INT8_TABLE(avx512);
#else
typedef int shmemi_int8_no_avx512; /* ISO C wants something here */
#endif
