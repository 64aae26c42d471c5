/* The codec of quantized collectives: elements as they are, or in the 8-bit records of shmemx_int8.h. */
#include <math.h>
#include <string.h>

#include "quant.h"

static size_t record_bytes(const struct shmemi_codec *c, size_t n)
{
    if (c->format == SHMEMI_QUANT_RAW)
        return (n * shmemi_float_bytes(c->dtype) + 15) & ~(size_t)15;
    return n ? shmemx_int8_row_bytes(n, c->group) : 0;
}

size_t shmemi_codec_bytes(const struct shmemi_codec *c, size_t n)
{
    return n / c->record * record_bytes(c, c->record) + record_bytes(c, n % c->record);
}

size_t shmemi_first_nonfinite(const void *x, int dtype, size_t n)
{
    if (SHMEMI_LIKELY(shmemi_int8_kernels()->finite[SHMEMI_FLOAT_INDEX(dtype)](x, n)))
        return n;
    size_t i = 0;
    while (isfinite(shmemi_float_at(x, dtype, i)))
        i++;
    return i;
}

size_t shmemi_codec_encode(const struct shmemi_codec *c, void *record, const void *x, int dtype, size_t n)
{
    uint64_t met = 0;
    if (c->format != SHMEMI_QUANT_RAW)
        return shmemi_quantize_row(c->k, c->format, record, x, dtype, n, c->group, c->on_nonfinite, &met);
    if (c->on_nonfinite == SHMEMX_NONFINITE_ERROR) {
        size_t bad = shmemi_first_nonfinite(x, dtype, n);
        if (SHMEMI_UNLIKELY(bad < n))
            return bad;
    }
    if (dtype == c->dtype)
        memcpy(record, x, n * shmemi_float_bytes(dtype));
    else
        c->k->narrow[SHMEMI_FLOAT_INDEX(c->dtype)](record, x, n);
    return n;
}

void shmemi_codec_decode(const struct shmemi_codec *c, void *out, int dtype, const void *record, size_t n)
{
    if (c->format != SHMEMI_QUANT_RAW)
        c->k->dequantize[c->format][SHMEMI_FLOAT_INDEX(dtype)](out, record, n,
                                                               SHMEMI_INT8_GROUP(n, c->group));
    else if (dtype == c->dtype)
        memcpy(out, record, n * shmemi_float_bytes(dtype));
    else
        c->k->widen[SHMEMI_FLOAT_INDEX(c->dtype)](out, record, n);
}

void shmemi_codec_add(const struct shmemi_codec *c, float *acc, const void *record, size_t n)
{
    if (c->format != SHMEMI_QUANT_RAW)
        c->k->dequantize_add[c->format](acc, record, n, SHMEMI_INT8_GROUP(n, c->group), 1.0f);
    else
        c->k->axpy[SHMEMI_FLOAT_INDEX(c->dtype)](acc, record, n, 1.0f);
}
