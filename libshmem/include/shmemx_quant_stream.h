/* The quantized collectives of shmemx_quant.h on GPU memory, in the order of a stream, and its codec there.
 *
 * As the calls of shmemx_stream.h: each returns at once; the work comes after what the stream holds and before what comes
 * later; all can be captured in a CUDA graph. The GPU heap must be open (shmemx_malloc with SHMEMX_MEM_DEVICE, or
 * shmemx_device_state). Results are bit by bit what the codec of shmemx_int8.h gives; allreduce, allgather and broadcast
 * give the same bits on every member, and the same each time with as many members.
 *
 * dest, source and residual are memory of this PE's GPU, of the heap or not, aligned to their elements; 16 bytes are the
 * fastest. Where all of dest and source is in the GPU heap, it is so on all members, at symmetric addresses: then what is
 * not quantized goes the way of shmemx_stream.h. In place as in shmemx_quant.h, on all members or on none. No elements:
 * nothing happens.
 *
 * Collective over the team, in the same order everywhere, with the same nelems, dtype, root and how; residual on all
 * members or on none. A PE is in one such call at a time, whatever the teams and streams. Return 0 or a negative
 * SHMEMX_ERR_* for what can be seen now. What kernels find is said by shmemx_stream_check and by every call here after it:
 *   MISMATCH   another member's call is not this one; nothing was sent, and the next call works.
 *   DATA       SHMEMX_NONFINITE_ERROR, and an element that this PE packs, or a sum that it makes, is not finite. The group
 *              is NaN on all members, as with _PROPAGATE; the others are not told. What is not quantized in symmetric
 *              memory is not looked at.
 *   TIMEOUT    a member has not come within SHMEM_TIMEOUT.
 * LIMIT at once: more than 64 members, or rows too long for so many PEs.
 *
 * Memory beyond dest and source: 20 MiB in each PE's GPU heap, whatever nelems is.
 *
 * min_bytes: as in shmemx_quant.h; SHMEMX_QUANT_AUTO stands for where quantization pays between GPUs of one host by
 * measurement (docs/quant.md), and for never where 128-byte stores to a peer do not arrive whole (docs/gpu.md, packets).
 */
#ifndef SHMEMX_QUANT_STREAM_H
#define SHMEMX_QUANT_STREAM_H

#include "shmemx_quant.h"

#ifdef __cplusplus
extern "C" {
#endif

SHMEMX_API int shmemx_allreduce_int8_on_stream(shmem_team_t team, void *dest, const void *source,
                                               size_t nelems, int dtype, const shmemx_quant_t *how,
                                               float *residual, void *stream);
SHMEMX_API int shmemx_reduce_scatter_int8_on_stream(shmem_team_t team, void *dest, const void *source,
                                                    size_t nelems, int dtype, const shmemx_quant_t *how,
                                                    float *residual, void *stream);
SHMEMX_API int shmemx_allgather_int8_on_stream(shmem_team_t team, void *dest, const void *source,
                                               size_t nelems, int dtype, const shmemx_quant_t *how,
                                               void *stream);
SHMEMX_API int shmemx_alltoall_int8_on_stream(shmem_team_t team, void *dest, const void *source,
                                              size_t nelems, int dtype, const shmemx_quant_t *how,
                                              void *stream);
SHMEMX_API int shmemx_broadcast_int8_on_stream(shmem_team_t team, void *dest, const void *source,
                                               size_t nelems, int dtype, int root, const shmemx_quant_t *how,
                                               void *stream);

/* shmemx_quantize and shmemx_dequantize of GPU memory, with their arguments, by this PE alone: for those who move the
 * records by a library of their own. SHMEMX_NONFINITE_ERROR: the group becomes NaN, and shmemx_stream_check returns DATA.
 * Strides of elements as given there; x and out are aligned to their elements; rows and their strides need no alignment,
 * 8 bytes are the fastest. */
SHMEMX_API int shmemx_quantize_on_stream(int format, void *rows, size_t row_stride_bytes, const void *x,
                                         size_t x_stride_elements, int dtype, size_t nrows, size_t cols,
                                         size_t group, int on_nonfinite, void *stream);
SHMEMX_API int shmemx_dequantize_on_stream(int format, void *out, size_t out_stride_elements, int dtype,
                                           const void *rows, size_t row_stride_bytes, size_t nrows,
                                           size_t cols, size_t group, void *stream);

#ifdef __cplusplus
}
#endif

#endif
