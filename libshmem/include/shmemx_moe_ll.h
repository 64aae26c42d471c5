/* MoE dispatch and combine on GPUs, for small batches (decode): in the order of a stream, over memory that the GPUs of the
 * team reach in each other (NVLink), and through a NIC's path (SHMEM_GPU_NIC) to ranks whose memory is not mapped. Large
 * batches: shmemx_moe_gpu.h, which has the words rank, expert and choice.
 *
 * M = max_tokens, L = experts of this rank. A token goes once to each rank that has one of its experts, as BF16, INT8 or FP8
 * quantized on the way; there each of its experts gets a row. Combine adds a token's rows, each times its weight, on the
 * rank of the experts in float32, sends one row back, as BF16 or INT8, and adds those of all ranks in the order of the
 * ranks. The same input gives the same bits. A token that chooses an expert twice has one row there, weighted twice.
 *
 * Phases. SEND returns when this rank's data are on their way, RECV waits for the others' and writes the outputs. Both in
 * one call, or in two with anything between them, in which no multiprocessor is held. On one stream, in the same order on
 * all ranks; at most two dispatches (and two combines) whose RECV has not been called.
 *
 * Completion. A call returns at once and happens in the order of `stream`. When what comes later in the stream begins, the
 * outputs of a RECV are written, and inputs of a SEND may be written again. All can be captured in a CUDA graph, which all
 * ranks replay alike.
 *
 * Dead ranks. A rank that is not heard of for the deadline (SHMEM_TIMEOUT; 0 = none, a wait is then for ever) is dead for
 * this object from then on: nothing is sent to it, nothing expected from it; rows that it had begun to send are unspecified.
 * The others go on. shmemx_moe_ll_dead says which, shmemx_moe_ll_mask changes it. Of a rank that is reached through a NIC's
 * path shmemx_stream_check also says how the path failed.
 *
 * Errors. 0, or a negative SHMEMX_ERR_* for what can be seen at the call: then nothing is launched or counted. What kernels
 * find is reported by the next shmemx_stream_check, or the next call of shmemx_stream.h; the calls here go on in spite of it,
 * since the other ranks wait for them.
 *
 * A launch's blocks wait for other ranks' blocks: all must be on the GPU at once, beside whatever else runs there.
 *
 * Source: rank de-duplication and pre-reduction as in DeepEP's normal kernels, hooks and packed output as in its
 * low-latency ones, lines with inline flags as NCCL's LL128.
 */
#ifndef SHMEMX_MOE_LL_H
#define SHMEMX_MOE_LL_H

#include <stddef.h>
#include <stdint.h>

#include "shmem.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How rows travel: SHMEMX_MOE_GPU_BF16 (0), SHMEMX_MOE_GPU_INT8 (1), SHMEMX_MOE_GPU_FP8 (2) of shmemx_moe_gpu.h. Equal on
 * all members (checked by create), but for `team` where handles differ. */
typedef struct {
    shmem_team_t team;   /* SHMEM_TEAM_INVALID: not a member, takes part in the allocation only */
    int format;          /* of dispatch: BF16, INT8, FP8 */
    int combine_format;  /* of combine: BF16, INT8 */
    int group;           /* columns of a scale: 32, 64, 128, or 0 = the whole row */
    int ue8m0;           /* FP8: scales are powers of two */
    int64_t hidden;      /* H, a multiple of 8, below 2^20 */
    int64_t num_experts; /* E, 1 to 65,535 */
    int64_t topk;        /* K, 1 to 32 */
    int64_t max_tokens;  /* M, largest T of any rank: 1 to 1,024 */
} shmemx_moe_ll_config_t;

typedef struct shmemx_moe_ll shmemx_moe_ll_t;

enum { SHMEMX_MOE_LL_SEND = 1, SHMEMX_MOE_LL_RECV = 2 };

/* Collective over the world, because the heap is: PEs of several teams each give their own, PEs of none
 * SHMEM_TEAM_INVALID (their object only knows destroy). Opens the GPU heap if need be. Errors on all PEs alike: ARGUMENT,
 * MISMATCH (naming field and both values), NO_MEMORY, UNSUPPORTED (no GPU). *moe is NULL on error. At most 64 ranks. */
SHMEMX_API int shmemx_moe_ll_create(const shmemx_moe_ll_config_t *config, shmemx_moe_ll_t **moe);
/* Collective over the world; the streams that used it have ended everywhere. After shmem_finalize it is local. */
SHMEMX_API int shmemx_moe_ll_destroy(shmemx_moe_ll_t *moe);

typedef struct {
    int ranks, rank;
    int64_t first_expert; /* of this rank */
    int64_t local_experts;
    int64_t groups;                                     /* scales of a row */
    int64_t choices_bytes, present_bytes, routed_bytes; /* of a handle's parts */
    int64_t heap_bytes;                                 /* of the symmetric block */
} shmemx_moe_ll_info_t;
SHMEMX_API int shmemx_moe_ll_info(shmemx_moe_ll_t *moe, shmemx_moe_ll_info_t *info);

/* What a dispatch leaves for its combine: local GPU memory of the caller's, of the sizes that info says, 8-byte aligned. */
typedef struct {
    void *
        choices; /* uint64 [R][M][K] for what came: bits of the float32 weight << 32 | row of the output; all ones = none */
    void *present; /* uint32 [R][(M + 31) / 32]: a bit for each token that came */
    void *routed;  /* uint64 [M]: bits of the ranks that each of my tokens goes to */
} shmemx_moe_ll_handle_t;

/* Arguments of a dispatch; GPU memory. With SEND alone the outputs are not touched, with RECV alone x, topk_idx and
 * topk_weights are not; both calls give the same handle. */
typedef struct {
    const void *x;      /* [tokens][hidden] BF16, 16-byte aligned */
    ptrdiff_t x_stride; /* bytes from row to row, a multiple of 16; 0 = without gaps */
    int64_t tokens;     /* T, 0 to M */
    const void
        *topk_idx; /* [tokens][K], -1 = none; other ids out of range are reported (ARGUMENT, by the next
                             shmemx_stream_check) and dropped */
    int idx_type;  /* SHMEMX_INT64 or SHMEMX_INT32 */
    const float *topk_weights; /* [tokens][K], NULL = 1 each */
    void *recv_x; /* [L][R * M][hidden], BF16 or 1 byte; each expert's first recv_count rows are written */
    void *recv_scales; /* INT8, FP8: float32 at e * scale_expert + row * scale_row + g * scale_group */
    ptrdiff_t scale_expert, scale_row, scale_group; /* bytes */
    int scale_packed; /* with ue8m0: a byte, the exponent, at e * scale_expert + row * scale_row + g / 4 * scale_group + g % 4 */
    int32_t *recv_count;  /* [L] rows of each expert */
    int32_t *recv_source; /* [L][R * M]: rank * M + token of each row written; or NULL */
    shmemx_moe_ll_handle_t handle;
} shmemx_moe_ll_dispatch_t;
SHMEMX_API int shmemx_moe_ll_dispatch(shmemx_moe_ll_t *moe, const shmemx_moe_ll_dispatch_t *args, int phases,
                                      void *stream);

/* Arguments of a combine; GPU memory. */
typedef struct {
    const void *y; /* [L][R * M][hidden] BF16, 16-byte aligned: what the experts make of recv_x */
    const float *
        topk_weights; /* [tokens][K] of my tokens, brought to the experts now (on all ranks or on none); NULL =
                                  those of the dispatch */
    void *out;        /* [tokens][hidden] BF16, 16-byte aligned; a token that went nowhere gets 0 */
    ptrdiff_t out_stride; /* bytes from row to row, a multiple of 8; 0 = without gaps */
    int64_t tokens;       /* T of the dispatch */
    shmemx_moe_ll_handle_t handle;
} shmemx_moe_ll_combine_t;
SHMEMX_API int shmemx_moe_ll_combine(shmemx_moe_ll_t *moe, const shmemx_moe_ll_combine_t *args, int phases,
                                     void *stream);

/* Ranks that this object has given up, a bit each. Waits for the library's copy of a word, not for your streams. */
SHMEMX_API int shmemx_moe_ll_dead(shmemx_moe_ll_t *moe, uint64_t *ranks);
/* Sets which ranks are dead; nothing of this object may be running. For a rank that is back, all ranks must agree. */
SHMEMX_API int shmemx_moe_ll_mask(shmemx_moe_ll_t *moe, uint64_t ranks);

#ifdef __cplusplus
}
#endif
#endif
