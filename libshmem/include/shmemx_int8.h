/* INT8 rows: symmetric quantization with float32 scales inline behind each row.
 *
 * A matrix of nrows x cols floating-point elements becomes nrows records. One record is
 *
 *     cols int8 values | zeros up to a multiple of 4 bytes | ceil(cols / group) float32 scales | zeros
 *
 * with zeros up to a multiple of 16 bytes at its end, so that a record can be sent, compared and copied as
 * plain bytes; its length is shmemx_int8_row_bytes(cols, group). A group is 32, 64 or 128 consecutive
 * elements of a row, or with group = 0 the whole row; the last group of a row is shorter where cols is not
 * a multiple of group. Every group is quantized alone, in float32 and rounding to nearest even:
 *
 *     amax  = largest |x| of the group
 *     scale = 0 if amax is 0, else amax / 127 held within [2^-126, 0x1.020406p121]
 *     q     = rint(x * (1 / scale)), within [-127, 127]; all 0 if scale is 0
 *     x'    = q * scale
 *
 * and |x - x'| <= scale / 2 up to the rounding of float32. The lower bound keeps 1 / scale finite and no
 * operand subnormal (values below 2^-127 become 0); the upper one keeps 127 * scale finite. Every
 * implementation (portable, AVX2, AVX-512, NEON) writes the same bytes.
 *
 * These functions need no shmem_init, take no lock and may be called by any number of threads at once.
 * No pointer needs an alignment, but 64 bytes are the fastest. Input and output must not overlap. With
 * nrows = 0 nothing happens and the pointers may be NULL. They return SHMEMX_SUCCESS (0) or a negative
 * SHMEMX_ERR_* code; on SHMEMX_ERR_ARGUMENT nothing was written. */
#ifndef SHMEMX_INT8_H
#define SHMEMX_INT8_H

#include <stddef.h>
#include <stdint.h>

#include "shmemx_types.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What shmemx_int8_quantize does with NaN and infinity. */
enum shmemx_nonfinite_t {
    /* It returns SHMEMX_ERR_DATA, and the message names row, column and value of the first one (row by
     * row). The records of the rows before it are complete, the record of its row is unspecified, and
     * the records behind it are untouched. */
    SHMEMX_NONFINITE_ERROR = 0,
    /* NaN becomes 0 and +-infinity becomes the group's largest finite magnitude (q = +-127): amax is taken
     * over finite elements only. A group without a finite element other than 0 becomes all 0, scale 0. */
    SHMEMX_NONFINITE_SATURATE = 1,
    /* The scale of a group with a NaN or an infinity becomes NaN, so that all its elements come back as NaN: what
     * was no number never looks like one. */
    SHMEMX_NONFINITE_PROPAGATE = 2,
};

/* What the codes of a record are. Both formats have the same record, of the same size. */
enum shmemx_quant_format {
    SHMEMX_QUANT_INT8 = 0,
    /* FP8 e4m3 (OCP 8-bit Floating Point Specification): as above with amax / 448, held within
     * [2^-126, 0x1.249248p119], and q = x * (1 / scale) rounded to the nearest e4m3 value, ties to even, within
     * [-448, 448]. |x - x'| <= |x| / 16, or scale * 2^-10 where that is more, up to the rounding of float32. */
    SHMEMX_QUANT_E4M3 = 1,
    SHMEMX_QUANT_FORMATS = 2
};

/* Bytes of one record, a multiple of 16; 0 where cols is 0, group is none of 0, 32, 64, 128, or the size
 * does not fit size_t. */
SHMEMX_API size_t shmemx_int8_row_bytes(size_t cols, size_t group);

/* Quantizes nrows x cols elements at `x` into nrows records at `rows`.
 *   row_stride_bytes   from one record to the next, in bytes, >= shmemx_int8_row_bytes(cols, group); 0 =
 *                      exactly that. Bytes between records are left alone.
 *   x_stride_elements  from one row of x to the next, in elements of dtype, >= cols; 0 = cols.
 *   dtype              of x: SHMEMX_FLOAT32, SHMEMX_FLOAT16 or SHMEMX_BFLOAT16.
 *   on_nonfinite       one of enum shmemx_nonfinite_t.
 *   saturated          if not NULL, receives the number of NaN and infinities met, 0 with SHMEMX_NONFINITE_ERROR;
 *                      not written on SHMEMX_ERR_ARGUMENT.
 * Errors: SHMEMX_ERR_ARGUMENT, SHMEMX_ERR_DATA (see SHMEMX_NONFINITE_ERROR). */
SHMEMX_API int shmemx_int8_quantize(void *rows, size_t row_stride_bytes, const void *x,
                                    size_t x_stride_elements, int dtype, size_t nrows, size_t cols,
                                    size_t group, int on_nonfinite, uint64_t *saturated);

/* Dequantizes nrows records at `rows` into nrows x cols elements of dtype (as above) at `out`: q * scale in
 * float32, then rounded to nearest even (a magnitude above the range of float16 becomes infinity).
 * Strides as above: out_stride_elements in elements of dtype, row_stride_bytes in bytes.
 * Errors: SHMEMX_ERR_ARGUMENT. The records' bytes are trusted: a NaN scale gives NaN. */
SHMEMX_API int shmemx_int8_dequantize(void *out, size_t out_stride_elements, int dtype, const void *rows,
                                      size_t row_stride_bytes, size_t nrows, size_t cols, size_t group);

/* acc += weight * (q * scale), every operation rounded to float32 (never fused): the sum of a combine or
 * an all-reduce without a dequantized copy. acc_stride_elements in float32 elements, >= cols or 0 = cols.
 * Errors: SHMEMX_ERR_ARGUMENT. */
SHMEMX_API int shmemx_int8_dequantize_add(float *acc, size_t acc_stride_elements, const void *rows,
                                          size_t row_stride_bytes, size_t nrows, size_t cols, size_t group,
                                          float weight);

/* The same three for either format (enum shmemx_quant_format); with SHMEMX_QUANT_INT8 they are those above. */
SHMEMX_API int shmemx_quantize(int format, void *rows, size_t row_stride_bytes, const void *x,
                               size_t x_stride_elements, int dtype, size_t nrows, size_t cols, size_t group,
                               int on_nonfinite, uint64_t *replaced);
SHMEMX_API int shmemx_dequantize(int format, void *out, size_t out_stride_elements, int dtype,
                                 const void *rows, size_t row_stride_bytes, size_t nrows, size_t cols,
                                 size_t group);
SHMEMX_API int shmemx_dequantize_add(int format, float *acc, size_t acc_stride_elements, const void *rows,
                                     size_t row_stride_bytes, size_t nrows, size_t cols, size_t group,
                                     float weight);

/* The implementation in use: "portable", "avx2", "avx512" or "neon". The first call of any function here
 * chooses the fastest one this machine runs, or the one named by SHMEM_INT8_ISA; a name that is unknown or
 * not available here gives a warning and the automatic choice. */
SHMEMX_API const char *shmemx_int8_isa(void);

/* Changes the implementation for the whole process, for calls that start after this one: a name as above,
 * or "auto". Errors: SHMEMX_ERR_ARGUMENT (NULL or unknown name), SHMEMX_ERR_UNSUPPORTED (not on this
 * machine or not in this build); the choice is then as before. */
SHMEMX_API int shmemx_int8_set_isa(const char *isa);

#ifdef __cplusplus
}
#endif

#endif
