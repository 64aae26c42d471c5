/* Dispatch: rows out, and the two forms of what arrived. */
#include <string.h>

#include "moe.h"

/* The receive buffer of the dispatch that is about to begin. */
static char *next_buffer(const struct shmemx_moe *moe)
{
    size_t slot = (size_t)((moe->dispatches + 1) % (uint64_t)moe->slots);
    return moe->base.block + moe->receive_at + slot * moe->receive_bytes;
}

static int check_x(const char *call, const struct shmemx_moe *moe, const void *x, ptrdiff_t stride,
                   int64_t tokens)
{
    if (tokens <= 0) /* a negative number is named by the plan */
        return SHMEMX_SUCCESS;
    if (x == NULL)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "x is NULL with %lld tokens", (long long)tokens);
    if (tokens > 1 && stride < (ptrdiff_t)moe->row)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "x_stride is %td bytes, a row of %lld columns has %zu",
                           stride, (long long)moe->c.hidden, moe->row);
    const char *buffer = next_buffer(moe);
    if (shmemi_moe_overlap(x, stride, tokens, buffer, (ptrdiff_t)moe->record, moe->info.capacity,
                           moe->record))
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call,
                           "x (%p) lies in the receive buffer that this dispatch fills; "
                           "config.results is %d",
                           x, moe->c.results);
    return SHMEMX_SUCCESS;
}

/* Ids as the receiver counts them, weights, source: of token t, for the rank of that entry. */
static void write_routing(const struct shmemx_moe *moe, const struct shmemi_moe_route *r, char *record,
                          size_t entry, size_t t, const void *topk_idx, int idx_type,
                          const float *topk_weights)
{
    size_t k = (size_t)moe->c.topk;
    int32_t rank = r->rank[entry], via = r->via[entry];
    int32_t *ids = (int32_t *)(void *)(record + moe->ids_at);
    float *weights = (float *)(void *)(record + moe->weights_at);
    int32_t first = moe->first[rank];
    for (size_t i = t * k, j = 0; j < k; i++, j++) {
        bool there = r->owner[i] == rank;
        int32_t id = idx_type == SHMEMX_INT64 ? (int32_t)((const int64_t *)topk_idx)[i]
                                              : ((const int32_t *)topk_idx)[i];
        ids[j] = there ? id - first : -1;
        weights[j] = !there ? 0.0f : topk_weights ? topk_weights[i] : 1.0f;
    }
    int32_t source[4] = {(int32_t)t, moe->me, -1, 0};
    if (via >= 0) {
        source[2] = r->rank[via];
        source[3] = r->send_base[source[2]] + r->at[via];
    }
    memcpy(record + moe->source_at, source, sizeof source);
}

/* The new routing's inputs; topk_idx NULL = a cached routing, only hidden travels. */
struct input {
    const char *x;
    ptrdiff_t stride;
    const void *topk_idx;
    int idx_type;
    const float *topk_weights;
};

/* Where this rank's stream to another begins in that one's block; `buffer` is the receive buffer there. */
static size_t stream_at(const struct shmemx_moe *moe, const struct shmemi_moe_route *r, size_t buffer,
                        int rank)
{
    return buffer + (size_t)r->send_base[rank] * moe->record;
}

/* Sends what was staged: runs of whole records, and of those whose row goes to another rank of the same node only what is
 * behind the row, where that is new. One pass over the entries; moe->sent is how far each rank's stream has gone. */
static int send_rows(struct shmemx_moe *moe, const struct shmemi_moe_route *r, size_t buffer, bool routing)
{
    size_t tail = moe->record - moe->ids_at;
    int64_t skipped = 0; /* bytes of records that are not sent */
    int rc = SHMEMX_SUCCESS;
    memset(moe->sent, 0, (size_t)moe->ranks * sizeof *moe->sent);
    for (size_t i = 0, n = moe->far ? (size_t)r->start[r->tokens] : 0; i < n && rc == 0; i++) {
        if (r->via[i] < 0)
            continue;
        int rank = r->rank[i];
        size_t at = (size_t)r->at[i] * moe->record, stream = stream_at(moe, r, buffer, rank);
        rc = shmemi_moe_flush(moe, rank, stream, moe->sent[rank], at - moe->sent[rank]);
        if (rc == 0 && routing)
            rc = shmemi_moe_flush(moe, rank, stream, at + moe->ids_at, tail);
        moe->sent[rank] = at + moe->record;
        skipped += (int64_t)(moe->record - (routing ? tail : 0));
    }
    moe->info.dispatch_bytes_remote -= skipped;
    for (int rank = 0; rank < moe->ranks && rc == 0; rank++) {
        size_t bytes = (size_t)r->send_count[rank] * moe->record;
        rc = shmemi_moe_flush(moe, rank, stream_at(moe, r, buffer, rank), moe->sent[rank],
                              bytes - moe->sent[rank]);
        *(rank == moe->me ? &moe->info.dispatch_bytes_local : &moe->info.dispatch_bytes_remote) +=
            (int64_t)bytes;
    }
    return rc;
}

static int store_rows(const char *call, struct shmemx_moe *moe, const struct shmemi_moe_route *r,
                      size_t buffer, const struct input *in)
{
    const struct shmemi_int8_kernels *kernels = shmemi_int8_kernels();
    bool quant = moe->c.quant == SHMEMX_MOE_QUANT_INT8;
    uint64_t saturated = 0;
    for (size_t t = 0; t < (size_t)r->tokens; t++) {
        size_t i = (size_t)r->start[t], end = (size_t)r->start[t + 1];
        if (i == end)
            continue;
        const char *row = in->x + (ptrdiff_t)t * in->stride;
        if (quant) {
            /* Once a token, whatever number of ranks: the record stays in L1 for the copies. */
            size_t cols = (size_t)moe->c.hidden;
            size_t done =
                shmemi_int8_quantize_row(kernels, moe->record_scratch, row, moe->c.type, cols,
                                         (size_t)moe->c.group, moe->c.nonfinite ? &saturated : NULL);
            if (SHMEMI_UNLIKELY(done < cols))
                return shmemi_int8_fail_nonfinite(call, row, moe->c.type, t, done);
            row = moe->record_scratch;
        }
        for (; i < end; i++) {
            int32_t rank = r->rank[i];
            char *record = shmemi_moe_target(moe, rank, stream_at(moe, r, buffer, rank)) +
                           (size_t)r->at[i] * moe->record;
            /* Plain stores: 480 rows of 8 KiB to a mapped peer take 76-94 us with memcpy, 96-102 us with
             * non-temporal stores (EPYC 9005, 2 processors), and 58 MB in rows of 14 KiB 3.2 ms with both. */
            if (r->via[i] < 0)
                memcpy(record, row, moe->sent_row);
            if (in->topk_idx)
                write_routing(moe, r, record, i, t, in->topk_idx, in->idx_type, in->topk_weights);
        }
    }
    moe->info.saturated += (int64_t)saturated;
    return send_rows(moe, r, buffer, in->topk_idx != NULL);
}

/* The sizes round. EXCHANGE always has it: its end shows that all have begun this dispatch, so that their
 * oldest buffer may be written. A worst-case dispatch has it never: its buffers are one more than results. */
static int sizes_round(const char *call, struct shmemx_moe *moe, int error, uint64_t tag,
                       const int32_t *counts)
{
    if (moe->c.mode != SHMEMX_MOE_EXCHANGE)
        return error;
    shmemi_moe_begin_round(moe);
    return shmemi_moe_end_round(call, moe, SHMEMI_MOE_SIZES, error, tag, counts);
}

/* Both dispatches from the point where the local checks are done; `error` is what they gave, `route` NULL
 * then. The reference to route passes to the handle, or is dropped. */
static int run(const char *call, struct shmemx_moe *moe, int error, struct shmemi_moe_route *route,
               bool cached, const struct input *in, shmemx_moe_handle_t **handle)
{
    uint64_t number = moe->dispatches + 1, tag = cached && route ? route->tag : 0;
    size_t buffer = (size_t)(next_buffer(moe) - moe->base.block);
    bool packed = moe->c.mode == SHMEMX_MOE_EXCHANGE;
    const int32_t *counts = route && !cached ? route->send_count : NULL;
    int rc = sizes_round(call, moe, error, tag, packed ? counts : NULL);
    if (rc && (packed || moe->broken))
        goto out; /* all ranks know, none goes on to the rows */
    if (!rc && !cached) {
        route->tag = moe->round;
        rc = shmemi_moe_place(call, moe, route);
        if (rc && packed)
            goto out; /* computed from the same counts, so the same on every rank */
        rc = shmemi_moe_reserve(call, moe, route);
    }
    if (!rc)
        rc = shmemi_moe_new_handle(call, moe, route, number, handle);
    shmemi_moe_begin_round(moe);
    if (!rc)
        rc = store_rows(call, moe, route, buffer, in);
    rc = shmemi_moe_end_round(call, moe, SHMEMI_MOE_ROWS, rc, tag, packed ? NULL : counts);
    if (rc)
        goto out;
    if (!cached) {
        if (!packed) {
            route->tag = moe->round;
            for (int rank = 0; rank < moe->ranks; rank++)
                route->recv_count[rank] =
                    shmemi_moe_line_of(moe, moe->base.block, moe->round, rank)->counts[moe->me];
        }
        shmemi_moe_read_records(moe, route, moe->base.block + buffer);
        shmemi_moe_find_parts(moe, route, buffer);
    }
    shmemi_moe_copy_rows(moe, route, buffer);
    moe->info.dispatches++;
    return SHMEMX_SUCCESS;
out:
    if (*handle) {
        shmemx_moe_handle_free(*handle);
        *handle = NULL;
    } else {
        shmemi_moe_route_release(route);
    }
    return rc;
}

int shmemx_moe_dispatch(shmemx_moe_t *moe, const void *x, ptrdiff_t x_stride, int64_t tokens,
                        const void *topk_idx, int idx_type, const float *topk_weights,
                        shmemx_moe_handle_t **handle)
{
    int rc;
    if (!shmemi_moe_find(__func__, moe, &rc))
        return rc;
    shmemx_moe_handle_t *none = NULL;
    struct shmemi_moe_route *route = NULL;
    if (handle == NULL)
        rc = shmemi_fail(SHMEMX_ERR_ARGUMENT, __func__, "handle is NULL");
    if (!rc)
        rc = check_x(__func__, moe, x, x_stride, tokens);
    if (!rc)
        rc = shmemi_moe_plan(__func__, moe, topk_idx, idx_type, tokens, &route);
    handle = handle ? handle : &none;
    *handle = NULL;
    struct input in = {x, x_stride, topk_idx, idx_type, topk_weights};
    return run(__func__, moe, rc, route, false, &in, handle);
}

int shmemx_moe_dispatch_cached(shmemx_moe_t *moe, const shmemx_moe_handle_t *routing, const void *x,
                               ptrdiff_t x_stride, int64_t tokens, shmemx_moe_handle_t **handle)
{
    int rc;
    if (!shmemi_moe_find(__func__, moe, &rc))
        return rc;
    shmemx_moe_handle_t *none = NULL;
    struct shmemi_moe_route *route = NULL;
    if (handle == NULL)
        rc = shmemi_fail(SHMEMX_ERR_ARGUMENT, __func__, "handle is NULL");
    else if (!shmemi_moe_has_handle(moe, routing))
        rc = shmemi_fail(SHMEMX_ERR_ARGUMENT, __func__, "routing %p is no living handle of this object",
                         (const void *)routing);
    else if (tokens != routing->route->tokens)
        rc = shmemi_fail(SHMEMX_ERR_ARGUMENT, __func__, "%lld tokens, the cached routing has %lld",
                         (long long)tokens, (long long)routing->route->tokens);
    else
        rc = check_x(__func__, moe, x, x_stride, tokens);
    if (!rc) {
        route = routing->route;
        route->refs++;
    }
    handle = handle ? handle : &none;
    *handle = NULL;
    struct input in = {.x = x, .stride = x_stride};
    return run(__func__, moe, rc, route, true, &in, handle);
}

int shmemx_moe_reject(shmemx_moe_t *moe, int code)
{
    int rc;
    if (!shmemi_moe_find(__func__, moe, &rc))
        return rc;
    if (code >= 0 || code < -255)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, __func__, "code is %d, not a SHMEMX_ERR_* (-1 to -255)",
                           code);
    shmemi_moe_begin_round(moe);
    rc = shmemi_moe_end_round(__func__, moe, SHMEMI_MOE_NOTHING, code, 0, NULL);
    return moe->broken ? rc : SHMEMX_SUCCESS;
}

/* ---- what arrived -------------------------------------------------------------------------------------- */

static bool is_living(const struct shmemx_moe_handle *h)
{
    return h->moe->dispatches - h->number < (uint64_t)h->moe->c.results;
}

static const char *rows_of(const struct shmemx_moe_handle *h)
{
    return h->moe->base.block + h->moe->receive_at + (size_t)h->slot * h->moe->receive_bytes;
}

int shmemx_moe_received(const shmemx_moe_handle_t *handle, shmemx_moe_received_t *received)
{
    int rc = shmemi_moe_check_handle(__func__, handle);
    if (rc)
        return rc;
    if (received == NULL)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, __func__, "received is NULL");
    const struct shmemi_moe_route *r = handle->route;
    *received = (shmemx_moe_received_t){
        .rows = r->rows,
        .expert_rows = r->offsets[handle->moe->info.local_experts],
        .tokens = r->tokens,
        .x = is_living(handle) ? rows_of(handle) : NULL,
        .stride = (int64_t)handle->moe->record,
        .topk_idx = r->ids,
        .topk_weights = r->weights,
        .source_rank = r->source_rank,
        .source_token = r->source_token,
        .tokens_per_expert = r->per_expert,
        .tokens_per_source = r->recv_count,
        .expert_offsets = r->offsets,
        .expert_position = r->place,
    };
    return SHMEMX_SUCCESS;
}

/* The checks that the two forms share; `rows` of `row` bytes are about to be written. */
static int check_out(const char *call, const struct shmemx_moe_handle *handle, const void *out,
                     ptrdiff_t stride, int64_t rows, size_t row)
{
    if (!is_living(handle))
        return shmemi_fail(
            SHMEMX_ERR_ARGUMENT, call,
            "the rows of dispatch %llu are gone: dispatch %llu has begun and config.results is %d",
            (unsigned long long)handle->number, (unsigned long long)handle->moe->dispatches,
            handle->moe->c.results);
    if (rows > 0 && out == NULL)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "out is NULL with %lld rows", (long long)rows);
    if (rows > 1 && stride < (ptrdiff_t)row)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "out_stride is %td bytes, a row has %zu", stride, row);
    return SHMEMX_SUCCESS;
}

/* One received row in the config's type. */
static void read_row(const struct shmemx_moe *moe, const struct shmemi_int8_kernels *kernels, void *out,
                     const char *record)
{
    size_t cols = (size_t)moe->c.hidden;
    if (moe->c.quant == SHMEMX_MOE_QUANT_INT8)
        kernels->dequantize[SHMEMX_QUANT_INT8][SHMEMI_FLOAT_INDEX(moe->c.type)](
            out, record, cols, SHMEMI_INT8_GROUP(cols, (size_t)moe->c.group));
    else
        memcpy(out, record, moe->row);
}

int shmemx_moe_rows(const shmemx_moe_handle_t *handle, void *out, ptrdiff_t out_stride)
{
    int rc = shmemi_moe_check_handle(__func__, handle);
    if (rc)
        return rc;
    const struct shmemx_moe *moe = handle->moe;
    const struct shmemi_moe_route *r = handle->route;
    rc = check_out(__func__, handle, out, out_stride, r->rows, moe->row);
    if (rc)
        return rc;
    const struct shmemi_int8_kernels *kernels = shmemi_int8_kernels();
    const char *rows = rows_of(handle);
    for (int source = 0; source < moe->ranks; source++) {
        size_t row = (size_t)r->recv_start[source], end = row + (size_t)r->recv_count[source];
        for (; row < end; row++)
            read_row(moe, kernels, (char *)out + (ptrdiff_t)row * out_stride, rows + row * moe->record);
    }
    return SHMEMX_SUCCESS;
}

/* Where the expert form goes. */
struct expert_form {
    char *out;
    ptrdiff_t stride;
    size_t row; /* bytes of out's row */
    char *scales;
    ptrdiff_t scales_stride;
    size_t scale_bytes; /* 0: no scales */
};

/* Rows between an expert's last and the next expert's first are zero, so that a GEMM over them is harmless.
 */
static void zero_padding(const struct shmemx_moe *moe, const struct shmemi_moe_route *r,
                         const struct expert_form *f)
{
    for (int64_t e = 0; e < moe->info.local_experts; e++)
        for (int64_t p = r->offsets[e] + r->per_expert[e]; p < r->offsets[e + 1]; p++) {
            memset(f->out + p * f->stride, 0, f->row);
            if (f->scale_bytes)
                memset(f->scales + p * f->scales_stride, 0, f->scale_bytes);
        }
}

int shmemx_moe_expert_rows(const shmemx_moe_handle_t *handle, int quantized, void *out, ptrdiff_t out_stride,
                           float *scales, ptrdiff_t scales_stride)
{
    int rc = shmemi_moe_check_handle(__func__, handle);
    if (rc)
        return rc;
    const struct shmemx_moe *moe = handle->moe;
    const struct shmemi_moe_route *r = handle->route;
    size_t cols = (size_t)moe->c.hidden, k = (size_t)moe->c.topk;
    int64_t total = r->offsets[moe->info.local_experts];
    struct expert_form f = {out, out_stride, quantized ? cols : moe->row, (char *)scales, scales_stride, 0};
    rc = check_out(__func__, handle, out, out_stride, total, f.row);
    if (rc)
        return rc;
    if (quantized) {
        size_t group = SHMEMI_INT8_GROUP(cols, (size_t)moe->c.group);
        f.scale_bytes = (cols + group - 1) / group * sizeof(float);
        if (moe->c.quant != SHMEMX_MOE_QUANT_INT8)
            return shmemi_fail(SHMEMX_ERR_ARGUMENT, __func__,
                               "quantized rows asked of an object without INT8 dispatch");
        if (total > 0 && (scales == NULL || (total > 1 && scales_stride < (ptrdiff_t)f.scale_bytes)))
            return shmemi_fail(SHMEMX_ERR_ARGUMENT, __func__,
                               "scales is %p with a stride of %td bytes, a row has %zu", (void *)scales,
                               scales_stride, f.scale_bytes);
    }
    const struct shmemi_int8_kernels *kernels = shmemi_int8_kernels();
    const char *rows = rows_of(handle);
    for (size_t row = 0; row < (size_t)r->rows; row++) {
        const char *record = rows + row * moe->record, *ready = NULL;
        for (size_t j = 0; j < k; j++) {
            ptrdiff_t place = r->place[row * k + j];
            if (place < 0)
                continue;
            char *target = f.out + place * f.stride;
            if (f.scale_bytes) {
                memcpy(target, record, cols);
                memcpy(f.scales + place * f.scales_stride, record + SHMEMI_INT8_SCALES(cols), f.scale_bytes);
            } else if (ready) {
                memcpy(target, ready, f.row); /* dequantized once, copied from cache */
            } else {
                read_row(moe, kernels, target, record);
                ready = target;
            }
        }
    }
    zero_padding(moe, r, &f);
    return SHMEMX_SUCCESS;
}
