/* Rows of floating-point and INT8 elements: the kernels behind shmemx_int8.h, for the layers that work row
 * by row (moe, quantized collectives). No checks here: the callers have made them. Pointers need no
 * alignment; input and output must not overlap. Layer: int8, over base only. */
#ifndef SHMEMI_INT8_H
#define SHMEMI_INT8_H

#include "base/base.h"
#include "shmemx_int8.h"

/* The arrays below are indexed by SHMEMI_FLOAT_INDEX of SHMEMX_FLOAT16, SHMEMX_BFLOAT16, SHMEMX_FLOAT32. */
#define SHMEMI_FLOAT_TYPES 3
#define SHMEMI_FLOAT_INDEX(dtype) ((dtype) - SHMEMX_FLOAT16)

/* One implementation. All of them give the same bytes (a NaN's payload in axpy excepted). */
struct shmemi_int8_kernels {
    const char *name;
    /* Writes values and scales of the groups from column `from` (the first of a group) on. Returns cols, or
     * the first column of the first group with a NaN or an infinity, which it has not written; values of
     * the groups before it are written, the padding never is. `group` > 0. */
    size_t (*quantize[SHMEMX_QUANT_FORMATS][SHMEMI_FLOAT_TYPES])(void *row, const void *x, size_t from,
                                                                 size_t cols, size_t group);
    void (*dequantize[SHMEMX_QUANT_FORMATS][SHMEMI_FLOAT_TYPES])(void *out, const void *row, size_t cols,
                                                                 size_t group);
    /* acc[i] += weight * (q[i] * scale) */
    void (*dequantize_add[SHMEMX_QUANT_FORMATS])(float *acc, const void *row, size_t cols, size_t group,
                                                 float weight);
    /* To float32, exact; a NaN stays one. */
    void (*widen[SHMEMI_FLOAT_TYPES])(float *out, const void *x, size_t n);
    /* From float32, to nearest even; a NaN stays one, also where its payload is cut. */
    void (*narrow[SHMEMI_FLOAT_TYPES])(void *out, const float *x, size_t n);
    /* acc[i] += weight * x[i] */
    void (*axpy[SHMEMI_FLOAT_TYPES])(float *acc, const void *x, size_t n, float weight);
    /* Is no element a NaN or an infinity? */
    bool (*finite[SHMEMI_FLOAT_TYPES])(const void *x, size_t n);
};

extern const struct shmemi_int8_kernels shmemi_int8_portable;
#if defined(__x86_64__)
extern const struct shmemi_int8_kernels shmemi_int8_avx2;
extern const struct shmemi_int8_kernels shmemi_int8_avx512;
#elif defined(__aarch64__)
extern const struct shmemi_int8_kernels shmemi_int8_neon;
#endif

/* The table in use; fetch it once a call, not once a row. Never NULL. */
const struct shmemi_int8_kernels *shmemi_int8_kernels(void);

/* Bytes of an element of one of the three types; 0 for any other number. */
size_t shmemi_float_bytes(int dtype);
/* Element i of x as float32 (for messages and rare paths). */
float shmemi_float_at(const void *x, int dtype, size_t i);

/* Are format and group ones of shmemx_int8.h? */
bool shmemi_quant_is_format(int format);
bool shmemi_quant_is_group(size_t group);

/* The checks of shmemx_quantize and shmemx_dequantize, with rows; fills in the strides given as 0. */
int shmemi_quant_check_rows(const char *call, int format, const void *x, size_t *x_stride, int dtype,
                            const void *rows, size_t *row_stride, size_t cols, size_t group);

/* A group's length as the kernels want it. */
#define SHMEMI_INT8_GROUP(cols, group) ((group) ? (group) : (cols))
/* Byte offset of a record's scales. */
#define SHMEMI_INT8_SCALES(cols) (((cols) + 3) & ~(size_t)3)

/* Quantizes one row into one whole record, padding included (format and group as in shmemx_int8.h, 0 = the row).
 * SHMEMX_NONFINITE_ERROR: stops at a NaN or an infinity and returns the column of the first one, the record then
 * unspecified. Else returns cols, and adds to *replaced how many elements were not finite. */
size_t shmemi_quantize_row(const struct shmemi_int8_kernels *k, int format, void *row, const void *x,
                           int dtype, size_t cols, size_t group, int on_nonfinite, uint64_t *replaced);
/* The same in INT8; saturated = NULL is SHMEMX_NONFINITE_ERROR, else SHMEMX_NONFINITE_SATURATE. */
size_t shmemi_int8_quantize_row(const struct shmemi_int8_kernels *k, void *row, const void *x, int dtype,
                                size_t cols, size_t group, uint64_t *saturated);
/* Logs that x[row][col] (x = that row's first element) is not finite; returns SHMEMX_ERR_DATA. */
SHMEMI_COLD int shmemi_int8_fail_nonfinite(const char *call, const void *x, int dtype, size_t row,
                                           size_t col);

#endif
