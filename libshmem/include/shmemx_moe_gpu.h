/* MoE dispatch and combine on GPUs, for large batches (training, prefill): in the order of a stream, over memory that the
 * GPUs of the team reach in each other (NVLink). Small batches: shmemx_moe_ll.h. On CPUs: shmemx_moe.h.
 *
 * Words
 *   rank     a PE's number in the object's team, 0 .. R-1.
 *   expert   0 .. E-1, in contiguous blocks: E / R a rank, the first E % R ranks hold one more. A local id counts from
 *            the rank's first expert.
 *   choice   one entry of topk_idx [T][K]: an expert, or -1 = none. Any other id is reported (ARGUMENT, by the next
 *            shmemx_stream_check) and taken as -1.
 *   result   one of the object's receive buffers, 0 .. results-1. Received rows lie packed: by source rank, then in the
 *            order of the source's tokens; nothing depends on timing. One row for each (token, rank), however many
 *            experts of that rank the token chose.
 *   routing  local GPU memory of the caller, 16-byte aligned, shmemx_moe_gpu_routing_bytes of it: where this rank's
 *            tokens go. Written by layout and by a dispatch that is not cached; read by cached dispatches and combines,
 *            any number of them, for as long as the caller keeps it. Not to be copied to another object.
 *
 *   node     P ranks that follow each other. With more than one node, and more than one rank in each, a token is sent once
 *            to each node that has one of its experts, to the rank there of the source's number in its node, which
 *            forwards it within the node; sums come back the same way, rounded once more on it. All else is as if the
 *            ranks were of one node: also the order of the rows.
 *
 * Usual order: layout, dispatch, (counts), experts, combine. Backward: a combine's is a cached dispatch, a dispatch's a
 * combine with `weights`.
 *
 * Completion. A call returns at once and happens in the order of `stream` (a CUstream, NULL = the default one). When
 * what comes later in the stream begins, all rows for this rank are there (dispatch), `out` is (combine), and inputs may
 * be written again. All calls but counts can be captured in a CUDA graph, which may be replayed any number of times, by
 * all ranks alike.
 *
 * A launch's blocks wait for other ranks' blocks: `blocks` of them must be on the GPU at once, one an SM, beside whatever
 * else runs there; 1 to 128.
 *
 * dispatch and combine are collective: every rank makes the same calls in the same order, on one stream at a time, with
 * the same result, cached, format, group, ue8m0 and (in combine) weights given or not; tokens, blocks and all else may
 * differ. Rows in result i stay until the next dispatch into i begins on this rank: no peer writes before.
 *
 * Between nodes: ids travel with every dispatch that is not cached; a combine's topk_weights stand for those that the
 * dispatch has sent (1 each where it had none), and they, and `weights`, are given on all ranks or on none, whatever these
 * have received; a LIMIT is known on the ranks of that node alone, and the other nodes' sums lack what it had.
 *
 * Errors. 0, or a negative SHMEMX_ERR_* for what can be seen at the call: then nothing is launched, and the other ranks
 * time out unless their call fails as well. What kernels find is reported by the next shmemx_stream_check, or the next call
 * of shmemx_stream.h; the calls here go on in spite of it, since the other ranks wait for them. It is TIMEOUT (who was waited
 * for; the ranks are out of step, destroy the object), LIMIT (more rows for some rank than `capacity`: on all ranks alike,
 * no row is sent, result and routing are empty, the object goes on), MISMATCH (a rank uses another result or routing mode)
 * or ARGUMENT (an id out of range, or a token that goes to more than max_nodes nodes, which it does all the same). The first three are errors of counts too, of the dispatch that it is asked about, and
 * are then not reported once more.
 *
 * Source of the algorithm: rank de-duplication, local ids and unweighted combine as in DeepEP's normal kernels; direct
 * stores at places computed from all ranks' counts, without queues, as in its V2; round numbers as flags, so that
 * nothing is cleared, as in FlashInfer's all-to-all.
 */
#ifndef SHMEMX_MOE_GPU_H
#define SHMEMX_MOE_GPU_H

#include <stddef.h>
#include <stdint.h>

#include "shmem.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How a row travels and arrives. */
enum shmemx_moe_gpu_format {
    SHMEMX_MOE_GPU_BF16 = 0, /* as it is */
    /* BF16 at the source, quantized there: int8 [hidden] and float32 [groups], the codec of shmemx_int8.h */
    SHMEMX_MOE_GPU_INT8,
    /* E4M3, scale = max(amax, 1e-4) / 448, dispatch only */
    SHMEMX_MOE_GPU_FP8,
    /* made by the caller: 1 byte a column and, if x_scales is given, float32 scales, both as they are; dispatch only */
    SHMEMX_MOE_GPU_BYTES
};

/* Equal on all members (checked by create), but for `team` where handles differ. Fields set to 0 mean the default. */
typedef struct {
    shmem_team_t team;   /* SHMEM_TEAM_INVALID: not a member, takes part in the allocation only */
    int results;         /* receive buffers, 1 to 64; 0 = 2 */
    int group;           /* the least columns of a scale that calls may use; 0 = 128 */
    int64_t hidden;      /* H, a multiple of 8 (16 for 1-byte rows) */
    int64_t num_experts; /* E >= 1 */
    int64_t topk;        /* K, 1 to 32 */
    int64_t max_tokens;  /* largest T of any rank, >= 1 */
    int64_t capacity;    /* rows that a rank can receive; 0 = R * max_tokens, which always suffices */
    int pes_per_node;    /* P: ranks 0 to P - 1 are the first node, and so on; 0 = as many as share a node */
    int max_nodes;       /* nodes that a token may go to; 0 = any number */
} shmemx_moe_gpu_config_t;

typedef struct shmemx_moe_gpu shmemx_moe_gpu_t;

/* Collective over the world, because the heap is: PEs of several teams each give their own, PEs of none
 * SHMEM_TEAM_INVALID (their object only knows destroy). Opens the GPU heap if need be. Errors on all PEs alike: ARGUMENT,
 * MISMATCH (naming field and both values), NO_MEMORY, UNSUPPORTED (no GPU). *moe is NULL on error. At most 64 ranks. */
SHMEMX_API int shmemx_moe_gpu_create(const shmemx_moe_gpu_config_t *config, shmemx_moe_gpu_t **moe);
/* Collective over the world; the streams that used it have ended everywhere. After shmem_finalize it is local. */
SHMEMX_API int shmemx_moe_gpu_destroy(shmemx_moe_gpu_t *moe);

typedef struct {
    int ranks, rank;
    int results;          /* receive buffers */
    int blocks;           /* what 0 stands for in calls: thread blocks of a launch, one an SM */
    int64_t first_expert; /* of this rank */
    int64_t local_experts;
    int64_t capacity;   /* rows of a receive buffer */
    int64_t max_groups; /* scales that a row can have */
    int64_t heap_bytes; /* of the symmetric block */
    int nodes, pes_per_node;
} shmemx_moe_gpu_info_t;
SHMEMX_API int shmemx_moe_gpu_info(shmemx_moe_gpu_t *moe, shmemx_moe_gpu_info_t *info);

/* Where result i lies: addresses of this PE's GPU heap, the same for the object's life. Rows behind the received ones
 * hold what they held, but see worst_case. */
typedef struct {
    void *x; /* [capacity] rows without gaps: hidden BF16 (2 * hidden bytes), or hidden bytes */
    float
        *scales; /* [capacity][groups rounded up to a multiple of 4] float32; INT8, FP8, BYTES with scales */
    int64_t *topk_idx;     /* [capacity][K] local ids, -1 = none or an expert elsewhere */
    float *topk_weights;   /* [capacity][K] 0 where topk_idx is -1 */
    int32_t *source_token; /* [capacity] its number at its source */
    int32_t *rows;         /* [1] received rows */
    int32_t *per_expert;   /* [local_experts] choices of each, rounded up to expert_alignment */
    int32_t *per_source;   /* [R] rows from each rank */
} shmemx_moe_gpu_result_t;
SHMEMX_API int shmemx_moe_gpu_result(shmemx_moe_gpu_t *moe, int i, shmemx_moe_gpu_result_t *result);

/* Bytes of the routing of up to `tokens` tokens, or a negative error. */
SHMEMX_API int64_t shmemx_moe_gpu_routing_bytes(shmemx_moe_gpu_t *moe, int64_t tokens);

/* Where T tokens go. Local; GPU memory.
 *   topk_idx               [tokens][K], idx_type SHMEMX_INT64 or SHMEMX_INT32
 *   routing                written, for a dispatch of these tokens; or NULL
 *   num_tokens_per_rank    [R] int32, tokens with at least one expert there; or NULL
 *   num_tokens_per_expert  [E] int32, choices of it; or NULL
 *   is_token_in_rank       [tokens][R] 0 or 1; or NULL */
SHMEMX_API int shmemx_moe_gpu_layout(shmemx_moe_gpu_t *moe, const void *topk_idx, int idx_type,
                                     int64_t tokens, void *routing, int32_t *num_tokens_per_rank,
                                     int32_t *num_tokens_per_expert, uint8_t *is_token_in_rank, void *stream);

/* Arguments of a dispatch; zero what is not used. Pointers are to memory that the GPU reaches. */
typedef struct {
    void *routing;      /* from layout; with `cached`, from an earlier dispatch, on all ranks the same one */
    int64_t tokens;     /* T of that layout, 0 to max_tokens */
    const void *x;      /* [tokens][hidden] BF16, or 1-byte rows with BYTES; 16-byte aligned */
    ptrdiff_t x_stride; /* bytes from row to row, a multiple of 16; 0 = rows without gaps */
    const float *x_scales;            /* BYTES: [tokens][x_groups], or NULL */
    ptrdiff_t x_scales_stride;        /* bytes from row to row; 0 = without gaps */
    ptrdiff_t x_scales_column_stride; /* bytes from column to column; 0 = 4 */
    int x_groups;                     /* columns of x_scales, 0 to max_groups */
    int format;                       /* enum shmemx_moe_gpu_format */
    int group;                        /* INT8, FP8: columns of a scale, 32, 64, 128, or 0 = the whole row */
    int ue8m0;                        /* FP8: scales are powers of two */
    const void
        *topk_idx; /* [tokens][K] as for layout; NULL = ids and weights do not travel (always so if cached) */
    int idx_type;  /* SHMEMX_INT64 or SHMEMX_INT32 */
    const float *topk_weights; /* [tokens][K], NULL = they do not travel */
    int result;                /* receive buffer, 0 to results - 1 */
    int cached;                /* 1: the routing has been dispatched before; only rows travel, no counts */
    int worst_case; /* 1: topk_idx of all rows behind the received ones becomes -1 (not if cached) */
    int64_t expert_alignment; /* of per_expert; 0 = 1 */
    int blocks;               /* thread blocks, 0 = default */
} shmemx_moe_gpu_dispatch_t;
/* Sends each token's row to every rank that holds one of its experts, into `result` there. */
SHMEMX_API int shmemx_moe_gpu_dispatch(shmemx_moe_gpu_t *moe, const shmemx_moe_gpu_dispatch_t *args,
                                       void *stream);

/* Waits until the last dispatch called into `result` knows what it receives, which is before the rows are here; not for
 * the stream. rows and per_expert [local_experts] (host memory, or NULL) take what the result's arrays of these names will
 * hold. Not for dispatches in graphs, and not while one is captured. LIMIT: see above; TIMEOUT: SHMEM_TIMEOUT is over, or
 * the kernel's wait was; ARGUMENT: there was no dispatch into `result`. */
SHMEMX_API int shmemx_moe_gpu_counts(shmemx_moe_gpu_t *moe, int result, int64_t *rows, int32_t *per_expert);

/* Arguments of a combine; zero what is not used. */
typedef struct {
    const void *routing; /* of a dispatch that has happened */
    int64_t tokens;      /* T of it */
    const void *y;       /* [received rows][hidden] BF16, in any memory of this GPU; 16-byte aligned */
    ptrdiff_t y_stride;  /* bytes from row to row, a multiple of 16; 0 = rows without gaps */
    int format;          /* BF16 or INT8: on the way; rows of the own rank are never quantized */
    int group;           /* INT8: columns of a scale, 32, 64, 128, or 0 = the whole row */
    const float *
        weights; /* [received rows][K] to send back with the rows, or NULL: on all ranks that have received rows */
    float *
        out_weights; /* [tokens][K] their sum over ranks, 0 for tokens that went nowhere; NULL without weights */
    const float *
        topk_weights; /* [tokens][K] of this rank's own tokens, with topk_idx: each rank's row is multiplied by
                                  the sum of the token's weights there; NULL = not */
    const void *topk_idx; /* [tokens][K], with topk_weights */
    int idx_type;
    const void *bias[2];  /* [tokens][hidden] BF16 without gaps, 16-byte aligned, added at the end; or NULL */
    void *out;            /* [tokens][hidden] BF16, 16-byte aligned */
    ptrdiff_t out_stride; /* bytes from row to row, a multiple of 16; 0 = rows without gaps */
    int blocks;           /* thread blocks, 0 = default */
} shmemx_moe_gpu_combine_t;
/* Sends one row for each received row back and sums them: out[t] = sum over ranks, in rank order, of that rank's row for
 * t (times its weight), then the biases, added in float32, rounded once. Tokens that went nowhere get the biases or 0. */
SHMEMX_API int shmemx_moe_gpu_combine(shmemx_moe_gpu_t *moe, const shmemx_moe_gpu_combine_t *args,
                                      void *stream);

/* Arguments of a gather; like a sum it is local to the PE, in the stream's order, for the expert form. */
typedef struct {
    int64_t rows;  /* of out */
    const void *x; /* rows of hidden columns without gaps, as a dispatch has received them, 16-byte aligned */
    int format;    /* of x: BF16; INT8 and FP8 with scales; BYTES are copied as they are */
    int group;     /* INT8, FP8: columns of a scale, 1 to hidden */
    const float *scales;     /* INT8, FP8: row r's from scales + r * scales_stride bytes on */
    ptrdiff_t scales_stride; /* bytes from row to row, a multiple of 4 */
    const int64_t *source; /* [rows] row of x that each row of out is of, -1 = zeros; NULL: row r of row r */
    void *out; /* [rows][hidden] BF16, value times scale to nearest even; of BYTES bytes; 16-byte aligned */
    const int32_t
        *rows_on_gpu; /* NULL, or where the number of rows will be: the first so many of out are written. More
                                 * than `rows` are reported by shmemx_stream_check (SHMEMX_ERR_LIMIT) and left out. */
} shmemx_moe_gpu_gather_t;
/* Gathers received rows by expert, or makes BF16 of quantized ones. Addresses of GPU memory; sources are not checked. */
SHMEMX_API int shmemx_moe_gpu_gather(shmemx_moe_gpu_t *moe, const shmemx_moe_gpu_gather_t *args,
                                     void *stream);

/* Arguments of a sum. */
typedef struct {
    int64_t rows;               /* of out and position */
    const void *y;              /* rows of hidden BF16, 16-byte aligned */
    ptrdiff_t y_stride;         /* bytes from row to row, a multiple of 16; 0 = rows without gaps */
    const int64_t *position;    /* [rows][K] rows of y, -1 = none; not checked */
    const float *weights;       /* [rows][K], or NULL: all are 1 */
    void *out;                  /* [rows][hidden] BF16, 16-byte aligned, apart from y */
    const int32_t *rows_on_gpu; /* NULL, or as there */
} shmemx_moe_gpu_sum_t;
/* out[r] = the sum of weights[r][k] * y[position[r][k]] over k in order, in float32, rounded once: what a combine takes for rows
 * that several experts of this PE have worked on. */
SHMEMX_API int shmemx_moe_gpu_sum(shmemx_moe_gpu_t *moe, const shmemx_moe_gpu_sum_t *args, void *stream);

#ifdef __cplusplus
}
#endif
#endif
