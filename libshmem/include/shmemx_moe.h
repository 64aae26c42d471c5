/* MoE dispatch and combine: tokens travel to the PEs that hold their experts, and results travel back.
 *
 * Words
 *   rank       a PE's number in the object's team, 0 .. R-1.
 *   expert     0 .. E-1, in contiguous blocks: E / R a rank, the first E % R ranks hold one more.
 *   choice     one entry of topk_idx [T][K]: an expert, or -1 = dropped. A local id counts from the rank's
 *              first expert.
 *   record     what travels for one (token, rank) pair, however many experts of that rank the token chose:
 *                  hidden (or INT8 values and scales) | K int32 local ids, -1 = elsewhere | K float32 weights
 *                  | source
 *              each part 16-byte aligned, the whole a multiple of 64 bytes, stored straight into the
 *              receiver's heap.
 *   result     what one dispatch gave: rows (in the receive buffer) and a handle (routing, private memory).
 *
 * Rows are received by source rank, then by the source's token order; nothing depends on timing, so the same
 * input gives the same bits.
 *
 * Collective calls (create, destroy, dispatch, dispatch_cached, combine, reject) are made by every member in
 * the same order. A local mistake in dispatch or combine fails on that PE with its cause, and with
 * SHMEMX_ERR_MISMATCH naming that PE on all others: nobody hangs, and the object stays usable. After
 * SHMEMX_ERR_TIMEOUT or SHMEMX_ERR_PEER_DEAD it is not. One object is used by one thread at a time; handles
 * may be freed by any.
 *
 * Lifetime of rows. Each object holds config.results receive buffers in turn: rows of a dispatch stay until
 * the results-th dispatch after it begins on this PE; then calls that need them fail. Handles stay until
 * freed. No PE writes a buffer before its owner has begun that later dispatch: the sizes round shows that in
 * SHMEMX_MOE_EXCHANGE; in SHMEMX_MOE_WORST_CASE there is one more buffer, and the arrival flags of the
 * dispatch before show it.
 *
 * Between nodes a row crosses to each node once, to the first of its ranks that want it; the others copy it from there, and
 * only ids, weights and source are sent to each. With group-limited gating (a group a node) a token crosses to at most
 * as many nodes as it has groups.
 *
 * Source of the algorithm: rank de-duplication, local ids and unweighted combine as in DeepEP's normal
 * kernels; round numbers as flags, so that nothing is cleared, as in FlashInfer's all-to-all.
 */
#ifndef SHMEMX_MOE_H
#define SHMEMX_MOE_H

#include <stddef.h>
#include <stdint.h>

#include "shmem.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { SHMEMX_MOE_MAX_TOPK = 32 };

enum shmemx_moe_mode {
    /* Counts first, then packed rows; more than `capacity` is an error on all PEs. */
    SHMEMX_MOE_EXCHANGE = 0,
    /* One round less: R * max_tokens row slots, those of rank r from r * max_tokens on. */
    SHMEMX_MOE_WORST_CASE
};

enum shmemx_moe_quant { SHMEMX_MOE_QUANT_NONE = 0, SHMEMX_MOE_QUANT_INT8 };

/* Equal on all members (checked by create), but for `team` where handles differ. Fields set to 0 mean the
 * default. */
typedef struct {
    shmem_team_t team;   /* SHMEM_TEAM_INVALID: not a member, takes part in the allocation only */
    int type;            /* SHMEMX_FLOAT32, SHMEMX_FLOAT16 or SHMEMX_BFLOAT16: of x, y, out, bias */
    int mode;            /* enum shmemx_moe_mode */
    int quant;           /* enum shmemx_moe_quant: hidden on its way out (rows arrive as INT8 records) */
    int combine_quant;   /* and on its way back (quantized by the sender, added in float32 by the owner) */
    int group;           /* INT8: columns a scale, 32, 64 or 128; 0 = the whole row */
    int nonfinite;       /* INT8: enum shmemx_nonfinite_t, NaN and infinity are an error or saturate */
    int results;         /* results whose rows live at a time, 1 to 64; 0 = 2 */
    int64_t hidden;      /* columns of x; a row must be a multiple of 16 bytes */
    int64_t num_experts; /* E >= 1 */
    int64_t topk;        /* K, 1 to SHMEMX_MOE_MAX_TOPK */
    int64_t max_tokens;  /* largest T of any rank, >= 1 */
    int64_t capacity; /* EXCHANGE: rows that a rank can receive; 0 = R * max_tokens, which always suffices */
    int64_t expert_alignment; /* expert form: each expert's rows start at a multiple of it; 0 = 1 */
} shmemx_moe_config_t;

typedef struct shmemx_moe shmemx_moe_t;
typedef struct shmemx_moe_handle shmemx_moe_handle_t;

/* Collective over the world, because the heap is: PEs of several teams each give their own, PEs of none
 * SHMEM_TEAM_INVALID (their object only knows destroy). Heap memory is reserved for the worst case, committed
 * as it is touched. Errors on all PEs alike: ARGUMENT, MISMATCH (naming field and both values), NO_MEMORY.
 * *moe is NULL on error. */
SHMEMX_API int shmemx_moe_create(const shmemx_moe_config_t *config, shmemx_moe_t **moe);
/* Collective over the world: every PE that took part in create, with its object. Its handles and rows end
 * with it. After shmem_finalize it is local and frees private memory only. */
SHMEMX_API int shmemx_moe_destroy(shmemx_moe_t *moe);

/* What an object is and has done. Local. */
typedef struct {
    int ranks, rank;      /* R and this PE's number */
    int64_t first_expert; /* of this rank */
    int64_t local_experts;
    int64_t capacity;     /* row slots of a receive buffer */
    int64_t record_bytes; /* a dispatched row in all; stride of recv rows */
    int64_t combine_record_bytes;
    int64_t heap_bytes;            /* reserved */
    int64_t dispatches, combines;  /* that ended well */
    int64_t dispatch_bytes_remote; /* sent to other PEs since create */
    int64_t dispatch_bytes_local;  /* stored into this PE's own buffer */
    int64_t combine_bytes_remote;
    int64_t saturated; /* NaN and infinities that SHMEMX_NONFINITE_SATURATE replaced here */
} shmemx_moe_info_t;
SHMEMX_API int shmemx_moe_info(shmemx_moe_t *moe, shmemx_moe_info_t *info);

/* Where T tokens would go. Local, one pass over topk_idx [T][K] (idx_type SHMEMX_INT64 or SHMEMX_INT32).
 *   num_tokens_per_rank    [R] tokens with at least one expert there
 *   num_tokens_per_expert  [E] choices of it
 *   is_token_in_rank       [T][R] 0 or 1
 * Any of the three may be NULL. ARGUMENT for an id below -1 or from E on, nothing written. */
SHMEMX_API int shmemx_moe_layout(shmemx_moe_t *moe, const void *topk_idx, int idx_type, int64_t tokens,
                                 int32_t *num_tokens_per_rank, int32_t *num_tokens_per_expert,
                                 uint8_t *is_token_in_rank);

/* Sends each token's row to every rank that holds one of its experts; returns when all rows for this PE are
 * here.
 *   x             [tokens][hidden] of the config's type, rows x_stride bytes apart; any memory, reusable on
 *                 return
 *   tokens        this PE's T, 0 to max_tokens, may differ between PEs
 *   topk_idx      [tokens][K], SHMEMX_INT64 or SHMEMX_INT32; -1 = dropped
 *   topk_weights  [tokens][K] float32, or NULL = all 1
 *   handle        receives the result, NULL on error; free it with shmemx_moe_handle_free
 * Errors: ARGUMENT, LIMIT (more rows than `capacity` for some rank: on all PEs, nothing written), DATA (NaN
 * or infinity with INT8), MISMATCH, NO_MEMORY, TIMEOUT, PEER_DEAD. */
SHMEMX_API int shmemx_moe_dispatch(shmemx_moe_t *moe, const void *x, ptrdiff_t x_stride, int64_t tokens,
                                   const void *topk_idx, int idx_type, const float *topk_weights,
                                   shmemx_moe_handle_t **handle);
/* The same with the routing of an earlier dispatch, all PEs that of the same one: only hidden travels. It is
 * the backward of an unweighted combine. */
SHMEMX_API int shmemx_moe_dispatch_cached(shmemx_moe_t *moe, const shmemx_moe_handle_t *routing,
                                          const void *x, ptrdiff_t x_stride, int64_t tokens,
                                          shmemx_moe_handle_t **handle);

/* What a rank has received. Pointers other than x belong to the handle and stay as long as it does. */
typedef struct {
    int64_t rows; /* row slots: EXCHANGE, received rows; WORST_CASE, R * max_tokens (see tokens_per_source) */
    int64_t expert_rows;     /* rows of the expert form, padding included */
    int64_t tokens;          /* T of this PE's own tokens in that dispatch */
    const void *x;           /* row i at x + i * stride: type [hidden], or an INT8 record of shmemx_int8.h;
                                 NULL when the buffer has been given to a later dispatch */
    int64_t stride;          /* bytes */
    const int64_t *topk_idx; /* [rows][K] local ids, -1 = an expert elsewhere or dropped, or an empty slot */
    const float *topk_weights;        /* [rows][K], 0 where topk_idx is -1 */
    const int32_t *source_rank;       /* [rows], -1 = empty slot */
    const int32_t *source_token;      /* [rows] */
    const int32_t *tokens_per_expert; /* [local_experts] choices */
    const int32_t *tokens_per_source; /* [R] rows from each rank */
    const int64_t *expert_offsets;    /* [local_experts + 1] first row of each expert in the expert form */
    const int32_t *expert_position;   /* [rows][K] row of each choice in the expert form, -1 = none */
} shmemx_moe_received_t;
SHMEMX_API int shmemx_moe_received(const shmemx_moe_handle_t *handle, shmemx_moe_received_t *received);

/* Copies the rows to out [rows][hidden], rows out_stride bytes apart; INT8 is dequantized to the config's
 * type. Empty slots are left alone. Local. */
SHMEMX_API int shmemx_moe_rows(const shmemx_moe_handle_t *handle, void *out, ptrdiff_t out_stride);
/* Copies each row once for each local expert it chose to out [expert_rows][hidden]: grouped by expert, in
 * each group by source rank and token, padding rows zero. With quantized != 0 (objects with INT8 dispatch)
 * out gets int8 values [expert_rows][hidden] and scales float32 [expert_rows][groups]; else scales is NULL.
 * Local. */
SHMEMX_API int shmemx_moe_expert_rows(const shmemx_moe_handle_t *handle, int quantized, void *out,
                                      ptrdiff_t out_stride, float *scales, ptrdiff_t scales_stride);

/* Arguments of a combine. */
typedef struct {
    const void *y;      /* token form [rows][hidden], expert form [expert_rows][hidden]; the config's type */
    ptrdiff_t y_stride; /* bytes from row to row */
    int64_t y_rows;     /* of y, must be what the handle says */
    int by_expert;      /* 0: one row a received token; 1: one row a choice (see shmemx_moe_expert_rows) */
    int weighted; /* multiply by the dispatched weights: expert form, each choice by its own; token form,
                                  the row by the sum of the token's weights on that rank */
    const float *topk_weights; /* [rows][K] to send back with the rows, or NULL (on every PE alike) */
    const void *bias;          /* [tokens][hidden] to add at the end, or NULL */
    ptrdiff_t bias_stride;
    void *out; /* [tokens][hidden], the sum; tokens that went nowhere get the bias or 0 */
    ptrdiff_t out_stride;
    float *out_weights; /* [tokens][K] what came back for each choice, 0 for dropped ones; NULL without
                                  topk_weights */
} shmemx_moe_combine_t;

/* Sends one row for each (token, rank) pair back and sums them: out[t] = sum over ranks, in rank order, of
 * that rank's row for t, added in float32, rounded once. Expert form: a token's rows are first added in
 * float32 in the order of its choices (and rounded once for the way, unless the rank is the token's own).
 * The ranks of another node count as one, at the place of the first of them: their rows are added in float32,
 * in rank order, and the sum is rounded (or quantized) once for the way.
 * Rows of the own rank never travel and are never quantized. Unweighted it is the backward of dispatch.
 * Errors as dispatch. */
SHMEMX_API int shmemx_moe_combine(shmemx_moe_t *moe, const shmemx_moe_handle_t *handle,
                                  const shmemx_moe_combine_t *args);

/* Takes part in the next dispatch, dispatch_cached or combine of the others only to say that this PE cannot:
 * they get SHMEMX_ERR_MISMATCH naming it and `code` (a SHMEMX_ERR_*), this call returns 0. For callers that
 * check arguments before they call. */
SHMEMX_API int shmemx_moe_reject(shmemx_moe_t *moe, int code);

/* Local. NULL is allowed. */
SHMEMX_API int shmemx_moe_handle_free(shmemx_moe_handle_t *handle);

#ifdef __cplusplus
}
#endif
#endif
