/* The codec of 8-bit records: checks of shmemx_int8.h, the loop over rows, and what is too rare for the kernels. */
#include "int8.h"

#include <math.h>
#include <string.h>

size_t shmemi_float_bytes(int dtype)
{
    switch (dtype) {
    case SHMEMX_FLOAT32:
        return 4;
    case SHMEMX_FLOAT16:
    case SHMEMX_BFLOAT16:
        return 2;
    default:
        return 0;
    }
}

float shmemi_float_at(const void *x, int dtype, size_t i)
{
    float value;
    shmemi_int8_portable.widen[SHMEMI_FLOAT_INDEX(dtype)](
        &value, (const unsigned char *)x + i * shmemi_float_bytes(dtype), 1);
    return value;
}

bool shmemi_quant_is_format(int format)
{
    return format == SHMEMX_QUANT_INT8 || format == SHMEMX_QUANT_E4M3;
}

bool shmemi_quant_is_group(size_t group)
{
    return group == 0 || group == 32 || group == 64 || group == 128;
}

static size_t groups_of(size_t cols, size_t group)
{
    return group ? cols / group + (cols % group != 0) : 1;
}

size_t shmemx_int8_row_bytes(size_t cols, size_t group)
{
    /* 2 * cols + 32 bounds the sum below: at most a scale of 4 bytes for 32 values, and two paddings. */
    if (cols == 0 || !shmemi_quant_is_group(group) || cols > (SIZE_MAX - 32) / 2) {
        return 0;
    }
    return (SHMEMI_INT8_SCALES(cols) + groups_of(cols, group) * sizeof(float) + 15) & ~(size_t)15;
}

/* Quantizes n elements with NaN and infinity replaced; returns how many were. */
static SHMEMI_COLD uint64_t saturate_group(const struct shmemi_int8_kernels *k, int format, unsigned char *q,
                                           unsigned char *scale, const unsigned char *x, int dtype, size_t n)
{
    float largest = 0.0f;
    for (size_t i = 0; i < n; i++) {
        float value = shmemi_float_at(x, dtype, i);
        if (isfinite(value) && fabsf(value) > largest) {
            largest = fabsf(value);
        }
    }
    /* A record of its own takes 32 elements at a time with the group's maximum before them, so that the
     * kernel finds the right scale: its bytes are those of the kernels, whatever their arithmetic. */
    enum { PART = 32 };
    uint64_t replaced = 0;
    for (size_t from = 0; from < n; from += PART) {
        float clean[PART + 1] = {largest};
        unsigned char record[SHMEMI_INT8_SCALES(PART + 1) + sizeof(float)];
        size_t count = n - from < PART ? n - from : PART;
        for (size_t i = 0; i < count; i++) {
            float value = shmemi_float_at(x, dtype, from + i);
            if (!isfinite(value)) {
                replaced++;
                value = isnan(value) ? 0.0f : copysignf(largest, value);
            }
            clean[1 + i] = value;
        }
        k->quantize[format][SHMEMI_FLOAT_INDEX(SHMEMX_FLOAT32)](record, clean, 0, PART + 1, PART + 1);
        memcpy(q + from, record + 1, count);
        memcpy(scale, record + SHMEMI_INT8_SCALES(PART + 1), sizeof(float));
    }
    return replaced;
}

/* A scale that is NaN makes every element of the group one; returns how many are not finite. */
static SHMEMI_COLD uint64_t poison_group(unsigned char *q, unsigned char *scale, const unsigned char *x,
                                         int dtype, size_t n)
{
    const uint32_t nan = 0x7fc00000u;
    uint64_t found = 0;
    memset(q, 0, n);
    memcpy(scale, &nan, sizeof nan);
    for (size_t i = 0; i < n; i++) {
        found += !isfinite(shmemi_float_at(x, dtype, i));
    }
    return found;
}

size_t shmemi_quantize_row(const struct shmemi_int8_kernels *k, int format, void *row, const void *x,
                           int dtype, size_t cols, size_t group, int on_nonfinite, uint64_t *replaced)
{
    unsigned char *q = row, *scales = q + SHMEMI_INT8_SCALES(cols);
    size_t length = SHMEMI_INT8_GROUP(cols, group), from = 0;
    for (;;) {
        from = k->quantize[format][SHMEMI_FLOAT_INDEX(dtype)](row, x, from, cols, length);
        if (SHMEMI_LIKELY(from >= cols)) {
            break;
        }
        if (on_nonfinite == SHMEMX_NONFINITE_ERROR) {
            while (isfinite(shmemi_float_at(x, dtype, from))) {
                from++;
            }
            return from;
        }
        size_t n = cols - from < length ? cols - from : length;
        const unsigned char *source = (const unsigned char *)x + from * shmemi_float_bytes(dtype);
        unsigned char *scale = scales + from / length * sizeof(float);
        *replaced += on_nonfinite == SHMEMX_NONFINITE_SATURATE
                         ? saturate_group(k, format, q + from, scale, source, dtype, n)
                         : poison_group(q + from, scale, source, dtype, n);
        from += n;
    }
    size_t end = SHMEMI_INT8_SCALES(cols) + groups_of(cols, group) * sizeof(float);
    memset(q + cols, 0, SHMEMI_INT8_SCALES(cols) - cols);
    memset(q + end, 0, -end & 15);
    return cols;
}

size_t shmemi_int8_quantize_row(const struct shmemi_int8_kernels *k, void *row, const void *x, int dtype,
                                size_t cols, size_t group, uint64_t *saturated)
{
    return shmemi_quantize_row(k, SHMEMX_QUANT_INT8, row, x, dtype, cols, group,
                               saturated ? SHMEMX_NONFINITE_SATURATE : SHMEMX_NONFINITE_ERROR, saturated);
}

int shmemi_int8_fail_nonfinite(const char *call, const void *x, int dtype, size_t row, size_t col)
{
    return shmemi_fail(SHMEMX_ERR_DATA, call,
                       "x[%zu][%zu] is %g; clean the input or pass SHMEMX_NONFINITE_SATURATE", row, col,
                       (double)shmemi_float_at(x, dtype, col));
}

/* The arguments that all three calls have; fills in the strides given as 0. */
static int check(const char *call, const char *name, const void *x, size_t *x_stride, int dtype,
                 const void *rows, size_t *row_stride, size_t cols, size_t group)
{
    size_t row_bytes = shmemx_int8_row_bytes(cols, group);
    if (!shmemi_float_bytes(dtype)) {
        return shmemi_fail(
            SHMEMX_ERR_ARGUMENT, call,
            "dtype %d is none of SHMEMX_FLOAT32 (%d), SHMEMX_FLOAT16 (%d), SHMEMX_BFLOAT16 (%d)", dtype,
            SHMEMX_FLOAT32, SHMEMX_FLOAT16, SHMEMX_BFLOAT16);
    }
    if (!shmemi_quant_is_group(group)) {
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "group %zu is none of 32, 64, 128, 0 (= row)", group);
    }
    if (!row_bytes) {
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "%zu columns are too %s", cols, cols ? "many" : "few");
    }
    if (*x_stride && *x_stride < cols) {
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call,
                           "%s has a stride of %zu elements, less than its %zu columns", name, *x_stride,
                           cols);
    }
    if (*row_stride && *row_stride < row_bytes) {
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call,
                           "rows have a stride of %zu bytes, less than the %zu of a row of %zu columns",
                           *row_stride, row_bytes, cols);
    }
    if (!x || !rows) {
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "%s is NULL", x ? "rows" : name);
    }
    uintptr_t a = (uintptr_t)x, b = (uintptr_t)rows;
    if (a < b + row_bytes && b < a + cols * shmemi_float_bytes(dtype)) {
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "%s (%p) and rows (%p) overlap", name, x, rows);
    }
    *x_stride = *x_stride ? *x_stride : cols;
    *row_stride = *row_stride ? *row_stride : row_bytes;
    return SHMEMX_SUCCESS;
}

static int check_format(const char *call, int format)
{
    if (shmemi_quant_is_format(format)) {
        return SHMEMX_SUCCESS;
    }
    return shmemi_fail(SHMEMX_ERR_ARGUMENT, call,
                       "format %d is neither SHMEMX_QUANT_INT8 (0) nor SHMEMX_QUANT_E4M3 (1)", format);
}

int shmemi_quant_check_rows(const char *call, int format, const void *x, size_t *x_stride, int dtype,
                            const void *rows, size_t *row_stride, size_t cols, size_t group)
{
    int status = check_format(call, format);
    return status ? status : check(call, "x", x, x_stride, dtype, rows, row_stride, cols, group);
}

static int quantize(const char *call, int format, void *rows, size_t row_stride_bytes, const void *x,
                    size_t x_stride_elements, int dtype, size_t nrows, size_t cols, size_t group,
                    int on_nonfinite, uint64_t *replaced)
{
    if (on_nonfinite < SHMEMX_NONFINITE_ERROR || on_nonfinite > SHMEMX_NONFINITE_PROPAGATE) {
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call,
                           "on_nonfinite %d is none of SHMEMX_NONFINITE_ERROR (0), _SATURATE (1), "
                           "_PROPAGATE (2)",
                           on_nonfinite);
    }
    uint64_t count = 0;
    int status = SHMEMX_SUCCESS;
    if (nrows) {
        status = check(call, "x", x, &x_stride_elements, dtype, rows, &row_stride_bytes, cols, group);
        if (status) {
            return status;
        }
        const struct shmemi_int8_kernels *k = shmemi_int8_kernels();
        size_t x_stride_bytes = x_stride_elements * shmemi_float_bytes(dtype);
        for (size_t r = 0; r < nrows; r++) {
            const unsigned char *source = (const unsigned char *)x + r * x_stride_bytes;
            unsigned char *row = (unsigned char *)rows + r * row_stride_bytes;
            size_t col =
                shmemi_quantize_row(k, format, row, source, dtype, cols, group, on_nonfinite, &count);
            if (SHMEMI_UNLIKELY(col < cols)) {
                status = shmemi_int8_fail_nonfinite(call, source, dtype, r, col);
                break;
            }
        }
    }
    if (replaced) {
        *replaced = count;
    }
    return status;
}

static int dequantize(const char *call, int format, void *out, size_t out_stride_elements, int dtype,
                      const void *rows, size_t row_stride_bytes, size_t nrows, size_t cols, size_t group)
{
    if (nrows == 0) {
        return SHMEMX_SUCCESS;
    }
    int status = check(call, "out", out, &out_stride_elements, dtype, rows, &row_stride_bytes, cols, group);
    if (status) {
        return status;
    }
    const struct shmemi_int8_kernels *k = shmemi_int8_kernels();
    size_t out_stride_bytes = out_stride_elements * shmemi_float_bytes(dtype);
    for (size_t r = 0; r < nrows; r++) {
        k->dequantize[format][SHMEMI_FLOAT_INDEX(dtype)]((unsigned char *)out + r * out_stride_bytes,
                                                         (const unsigned char *)rows + r * row_stride_bytes,
                                                         cols, SHMEMI_INT8_GROUP(cols, group));
    }
    return SHMEMX_SUCCESS;
}

static int dequantize_add(const char *call, int format, float *acc, size_t acc_stride_elements,
                          const void *rows, size_t row_stride_bytes, size_t nrows, size_t cols, size_t group,
                          float weight)
{
    if (nrows == 0) {
        return SHMEMX_SUCCESS;
    }
    int status =
        check(call, "acc", acc, &acc_stride_elements, SHMEMX_FLOAT32, rows, &row_stride_bytes, cols, group);
    if (status) {
        return status;
    }
    const struct shmemi_int8_kernels *k = shmemi_int8_kernels();
    for (size_t r = 0; r < nrows; r++) {
        k->dequantize_add[format](acc + r * acc_stride_elements,
                                  (const unsigned char *)rows + r * row_stride_bytes, cols,
                                  SHMEMI_INT8_GROUP(cols, group), weight);
    }
    return SHMEMX_SUCCESS;
}

int shmemx_int8_quantize(void *rows, size_t row_stride_bytes, const void *x, size_t x_stride_elements,
                         int dtype, size_t nrows, size_t cols, size_t group, int on_nonfinite,
                         uint64_t *saturated)
{
    return quantize(__func__, SHMEMX_QUANT_INT8, rows, row_stride_bytes, x, x_stride_elements, dtype, nrows,
                    cols, group, on_nonfinite, saturated);
}

int shmemx_int8_dequantize(void *out, size_t out_stride_elements, int dtype, const void *rows,
                           size_t row_stride_bytes, size_t nrows, size_t cols, size_t group)
{
    return dequantize(__func__, SHMEMX_QUANT_INT8, out, out_stride_elements, dtype, rows, row_stride_bytes,
                      nrows, cols, group);
}

int shmemx_int8_dequantize_add(float *acc, size_t acc_stride_elements, const void *rows,
                               size_t row_stride_bytes, size_t nrows, size_t cols, size_t group, float weight)
{
    return dequantize_add(__func__, SHMEMX_QUANT_INT8, acc, acc_stride_elements, rows, row_stride_bytes,
                          nrows, cols, group, weight);
}

int shmemx_quantize(int format, void *rows, size_t row_stride_bytes, const void *x, size_t x_stride_elements,
                    int dtype, size_t nrows, size_t cols, size_t group, int on_nonfinite, uint64_t *replaced)
{
    int status = check_format(__func__, format);
    return status ? status
                  : quantize(__func__, format, rows, row_stride_bytes, x, x_stride_elements, dtype, nrows,
                             cols, group, on_nonfinite, replaced);
}

int shmemx_dequantize(int format, void *out, size_t out_stride_elements, int dtype, const void *rows,
                      size_t row_stride_bytes, size_t nrows, size_t cols, size_t group)
{
    int status = check_format(__func__, format);
    return status ? status
                  : dequantize(__func__, format, out, out_stride_elements, dtype, rows, row_stride_bytes,
                               nrows, cols, group);
}

int shmemx_dequantize_add(int format, float *acc, size_t acc_stride_elements, const void *rows,
                          size_t row_stride_bytes, size_t nrows, size_t cols, size_t group, float weight)
{
    int status = check_format(__func__, format);
    return status ? status
                  : dequantize_add(__func__, format, acc, acc_stride_elements, rows, row_stride_bytes, nrows,
                                   cols, group, weight);
}
