/* INT8 kernels for AVX2 with F16C. */
#if defined(__x86_64__)
#include "int8_strict.h"

#include "int8.h"

#include <immintrin.h>

#define INT8_TARGET __attribute__((target("avx2,f16c")))
#define INT8_OP inline __attribute__((always_inline)) INT8_TARGET

typedef struct {
    __m256 lo, hi;
} block;

typedef struct {
    __m256i lo, hi;
} mags;

static INT8_OP block load_f32(const void *x)
{
    return (block){_mm256_loadu_ps((const float *)x), _mm256_loadu_ps((const float *)x + 8)};
}

static INT8_OP void store_f32(void *x, block b)
{
    _mm256_storeu_ps((float *)x, b.lo);
    _mm256_storeu_ps((float *)x + 8, b.hi);
}

static INT8_OP block load_f16(const void *x)
{
    return (block){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i_u *)x)),
                   _mm256_cvtph_ps(_mm_loadu_si128((const __m128i_u *)x + 1))};
}

static INT8_OP void store_f16(void *x, block b)
{
    _mm_storeu_si128((__m128i_u *)x, _mm256_cvtps_ph(b.lo, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128((__m128i_u *)x + 1, _mm256_cvtps_ph(b.hi, _MM_FROUND_TO_NEAREST_INT));
}

static INT8_OP __m256 bf16_widen(__m128i bits)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

static INT8_OP block load_bf16(const void *x)
{
    return (block){bf16_widen(_mm_loadu_si128((const __m128i_u *)x)),
                   bf16_widen(_mm_loadu_si128((const __m128i_u *)x + 1))};
}

/* The upper half, rounded, in the low 16 bits of each lane; a NaN with its quiet bit set. */
static INT8_OP __m256i bf16_round(__m256 value)
{
    __m256i bits = _mm256_castps_si256(value), upper = _mm256_srli_epi32(bits, 16);
    __m256i odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
    __m256i nan = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
    __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(value, value, _CMP_UNORD_Q));
    return _mm256_blendv_epi8(_mm256_srli_epi32(rounded, 16), nan, is_nan);
}

static INT8_OP void store_bf16(void *x, block b)
{
    __m256i words = _mm256_packus_epi32(bf16_round(b.lo), bf16_round(b.hi)); /* within 128-bit lanes */
    _mm256_storeu_si256((__m256i_u *)x, _mm256_permute4x64_epi64(words, 0xd8));
}

static INT8_OP block load_q(const void *q)
{
    __m128i bytes = _mm_loadu_si128((const __m128i_u *)q);
    return (block){_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
                   _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
}

static INT8_OP void store_q(void *q, block b)
{
    __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(b.lo), _mm256_cvtps_epi32(b.hi));
    words = _mm256_permute4x64_epi64(words, 0xd8);
    _mm_storeu_si128((__m128i_u *)q,
                     _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}

static INT8_OP block mul(block b, float factor)
{
    __m256 f = _mm256_set1_ps(factor);
    return (block){_mm256_mul_ps(b.lo, f), _mm256_mul_ps(b.hi, f)};
}

static INT8_OP block add(block a, block b)
{
    return (block){_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}

static INT8_OP mags mags_zero(void)
{
    return (mags){_mm256_setzero_si256(), _mm256_setzero_si256()};
}

static INT8_OP mags mags_max(mags m, block b)
{
    __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    return (mags){_mm256_max_epi32(m.lo, _mm256_and_si256(_mm256_castps_si256(b.lo), magnitude)),
                  _mm256_max_epi32(m.hi, _mm256_and_si256(_mm256_castps_si256(b.hi), magnitude))};
}

static INT8_OP uint32_t mags_reduce(mags m)
{
    __m256i both = _mm256_max_epi32(m.lo, m.hi);
    __m128i max = _mm_max_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
    max = _mm_max_epi32(max, _mm_shuffle_epi32(max, 0x4e));
    max = _mm_max_epi32(max, _mm_shuffle_epi32(max, 0xb1));
    return (uint32_t)_mm_cvtsi128_si32(max);
}

#include "int8_kernels.inc"

INT8_TABLE(avx2);
#else
typedef int shmemi_int8_no_avx2; /* ISO C wants something here */
#endif
