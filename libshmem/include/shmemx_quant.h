/* Quantized collectives: 8 bits an element travel instead of 16 or 32, with the float32 scales in the same message.
 *
 * Elements are float32, float16 or bfloat16, and so is the result; they are packed into records of shmemx_int8.h. Each
 * element is quantized once on its way to whoever adds it up, the sum is taken in float32, and in an all-reduce
 * quantized once more on its way back (reduce-scatter, then all-gather). What a PE keeps for itself is not quantized on
 * the way there. Small vectors are shown whole by every PE to every other one, which adds them up itself: then nothing
 * is quantized twice. Which of the forms is taken depends on sizes and PEs alone.
 *
 * allreduce, allgather and broadcast give the same bits on every member, the root and the own block included, and the
 * same bits each time on the same nodes. Over several nodes members of a node are added and copied unquantized, in shared
 * memory; what crosses to another node is quantized, and crosses once a node as in the collectives of shmemx.h.
 *
 * Collective over the team: the same nelems, dtype and how on all members, else MISMATCH on all of them. dest and source
 * are host memory of this PE, symmetric or not, with any alignment; dest may be source as said below, any other overlap
 * is an error. On return dest is complete and source may be reused. GPU memory, on all members: as by the calls of
 * shmemx_quant_stream.h, with what is said there, on the library's stream, then a wait for it. All calls return
 * SHMEMX_SUCCESS (0) or a negative SHMEMX_ERR_*: ARGUMENT (the others get MISMATCH, nothing is written), ADDRESS where one
 * of the buffers is GPU memory and another is not, and
 *   DATA       SHMEMX_NONFINITE_ERROR, and an element of source, or a sum of finite ones, is not finite. The others get
 *              MISMATCH, unless what they are to get was complete; dest and residual are unspecified on all of them.
 *   LIMIT      rows are too long for so many members, or 8 such calls of this PE are under way, in several threads.
 *
 * Memory beyond dest and source: a stage of 2 MiB in the library's part of the heap, whatever nelems is: four times what
 * a chunk of 128 Ki elements takes as float32. Vectors pass through it chunk by chunk. A PE has 8 stages, a call takes
 * one.
 */
#ifndef SHMEMX_QUANT_H
#define SHMEMX_QUANT_H

#include "shmem.h"
#include "shmemx_int8.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a reduction computes: the sum, or the sum times 1 / members in float32. */
enum shmemx_quant_op { SHMEMX_QUANT_SUM = 0, SHMEMX_QUANT_MEAN = 1 };

enum { SHMEMX_QUANT_MAX_ROW = 65536 };

/* How elements travel; shmemx_quant_defaults fills it in, NULL means those defaults. */
typedef struct {
    /* enum shmemx_quant_format; default SHMEMX_QUANT_INT8 */
    int format;
    /* SHMEMX_NONFINITE_ERROR (default), or _PROPAGATE: a group with a NaN or an infinity becomes NaN */
    int on_nonfinite;
    /* enum shmemx_quant_op, of allreduce and reduce_scatter; default SHMEMX_QUANT_SUM */
    int op;
    /* elements a scale: 32, 64, 128 (default), or 0 = a row */
    size_t group;
    /* elements after which a new group begins, 1 to SHMEMX_QUANT_MAX_ROW; 0 (default): there are no rows, groups follow
     * each other from the start of a block. With group 0 it must be given. */
    size_t row;
    /* a block with fewer bytes travels as it is, not quantized; 0: all are quantized; default SHMEMX_QUANT_AUTO. A block
     * is what one PE gives to one other, nelems elements. A team of one never quantizes. */
    size_t min_bytes;
} shmemx_quant_t;

/* min_bytes: where quantization pays, by measurement (docs/quant.md). Between nodes a block of more than 4000 bytes is
 * quantized; within one node float32 in an allreduce from 4 MiB on, nothing else. */
#define SHMEMX_QUANT_AUTO ((size_t)-1)

SHMEMX_API void shmemx_quant_defaults(shmemx_quant_t *how);

/* dest[i] = sum, or mean, over the members of source[i]; nelems of each. dest may be source.
 *   residual   NULL, or float32 [nelems], 4-byte aligned, this PE's own: error feedback. It is added to source before
 *              quantization, and receives what quantization left out: the residuals of all members together are the
 *              difference between the exact sum and the one in dest (the mean's, times the members), up to float32
 *              rounding. Zero it before the first call, and hand it to the next one of the same vector.
 *              All members have one or none has. */
SHMEMX_API int shmemx_allreduce_int8(shmem_team_t team, void *dest, const void *source, size_t nelems,
                                     int dtype, const shmemx_quant_t *how, float *residual);
/* dest [nelems] = sum, or mean, over the members of block `me` of source [members][nelems]; residual
 * [members * nelems] or NULL. dest may be block `me` of source. */
SHMEMX_API int shmemx_reduce_scatter_int8(shmem_team_t team, void *dest, const void *source, size_t nelems,
                                          int dtype, const shmemx_quant_t *how, float *residual);
/* dest [members][nelems] = source [nelems] of each member. source may be block `me` of dest. */
SHMEMX_API int shmemx_allgather_int8(shmem_team_t team, void *dest, const void *source, size_t nelems,
                                     int dtype, const shmemx_quant_t *how);
/* Block i of dest [members][nelems] = block `me` of member i's source [members][nelems]; the own block is copied, not
 * quantized. dest may be source. */
SHMEMX_API int shmemx_alltoall_int8(shmem_team_t team, void *dest, const void *source, size_t nelems,
                                    int dtype, const shmemx_quant_t *how);
/* dest [nelems] = the root's source [nelems]; the others' source is not read and may be NULL. dest may be source. */
SHMEMX_API int shmemx_broadcast_int8(shmem_team_t team, void *dest, const void *source, size_t nelems,
                                     int dtype, int root, const shmemx_quant_t *how);

#ifdef __cplusplus
}
#endif

#endif
