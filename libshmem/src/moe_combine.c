/* Combine: one row for each (token, rank) pair goes back, and the token's owner adds them up. Of the ranks of another node
 * one alone sends a row back, to which it has added those of the others. */
#include <math.h>
#include <string.h>

#include "moe.h"

/* One combine at work. */
struct combine {
    const char *call;
    struct shmemx_moe *moe;
    const struct shmemi_moe_route *r;
    const shmemx_moe_combine_t *a;
    const struct shmemi_int8_kernels *k;
    size_t cols;
    int type; /* index into the kernels */
    uint64_t saturated;
};

static int check_matrix(const char *call, const char *name, const void *p, ptrdiff_t stride, int64_t rows,
                        size_t row)
{
    if (rows > 0 && p == NULL)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "%s is NULL with %lld rows", name, (long long)rows);
    if (rows > 1 && stride < (ptrdiff_t)row)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "%s_stride is %td bytes, a row has %zu", name, stride,
                           row);
    return SHMEMX_SUCCESS;
}

static int check_apart(const char *call, const struct shmemx_moe *moe, const char *name, const void *p,
                       ptrdiff_t stride, int64_t rows, const shmemx_moe_combine_t *a, int64_t tokens)
{
    if (rows > 0 && shmemi_moe_overlap(p, stride, rows, a->out, a->out_stride, tokens, moe->row))
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "%s (%p) and out (%p) overlap", name, p, a->out);
    return SHMEMX_SUCCESS;
}

static int check(const char *call, const struct shmemx_moe *moe, const shmemx_moe_handle_t *handle,
                 const shmemx_moe_combine_t *a)
{
    if (!shmemi_moe_has_handle(moe, handle))
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "handle %p is no living handle of this object",
                           (const void *)handle);
    if (a == NULL)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "args is NULL");
    const struct shmemi_moe_route *r = handle->route;
    int64_t rows = a->by_expert ? r->offsets[moe->info.local_experts] : r->rows;
    if (a->y_rows != rows)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call,
                           "y has %lld rows, the %s form of this dispatch has %lld", (long long)a->y_rows,
                           a->by_expert ? "expert" : "token", (long long)rows);
    int rc = check_matrix(call, "y", a->y, a->y_stride, rows, moe->row);
    if (!rc)
        rc = check_matrix(call, "out", a->out, a->out_stride, r->tokens, moe->row);
    if (!rc && a->bias)
        rc = check_matrix(call, "bias", a->bias, a->bias_stride, r->tokens, moe->row);
    if (!rc && r->tokens > 0) /* the sum is built in out while y and bias are read */
        rc = check_apart(call, moe, "y", a->y, a->y_stride, rows, a, r->tokens);
    if (!rc && r->tokens > 0 && a->bias)
        rc = check_apart(call, moe, "bias", a->bias, a->bias_stride, r->tokens, a, r->tokens);
    if (!rc && a->out_weights && !a->topk_weights)
        rc = shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "out_weights without topk_weights to send back");
    return rc;
}

static const char *y_row(const struct combine *c, ptrdiff_t i)
{
    return (const char *)c->a->y + i * c->a->y_stride;
}

/* The weight of a received row in token form: of all its choices here. */
static float row_weight(const struct combine *c, size_t row)
{
    float sum = 0;
    for (size_t k = (size_t)c->moe->c.topk, j = 0; j < k; j++)
        sum += c->r->weights[row * k + j]; /* 0 where the choice is elsewhere */
    return sum;
}

/* Adds a row of a type (an index into the kernels) to the sum, or begins it. */
static void add_typed(const struct combine *c, int type, float *sum, bool *begun, const void *row,
                      float weight)
{
    if (!*begun && weight == 1.0f) {
        c->k->widen[type](sum, row, c->cols);
    } else {
        if (!*begun)
            memset(sum, 0, c->cols * sizeof *sum);
        c->k->axpy[type](sum, row, c->cols, weight);
    }
    *begun = true;
}

static void add(const struct combine *c, float *sum, bool *begun, const void *row, float weight)
{
    add_typed(c, c->type, sum, begun, row, weight);
}

/* Adds what this rank's experts made of a received row. */
static void add_received(const struct combine *c, float *sum, bool *begun, size_t row)
{
    if (!c->a->by_expert) {
        add(c, sum, begun, y_row(c, (ptrdiff_t)row), c->a->weighted ? row_weight(c, row) : 1.0f);
        return;
    }
    for (size_t k = (size_t)c->moe->c.topk, j = row * k; j < (row + 1) * k; j++)
        if (c->r->place[j] >= 0)
            add(c, sum, begun, y_row(c, c->r->place[j]), c->a->weighted ? c->r->weights[j] : 1.0f);
}

/* A received row's sum as this rank leaves it for the one of its node that sends: float32, in the block of `rank`. */
static float *part(const struct shmemx_moe *moe, int rank, size_t row)
{
    return (float *)(void *)(moe->peer[rank] + moe->parts_at) + row * (size_t)moe->c.hidden;
}

static int leave_parts(const struct combine *c)
{
    const struct shmemx_moe *moe = c->moe;
    bool strict = moe->c.combine_quant == SHMEMX_MOE_QUANT_INT8 && !moe->c.nonfinite;
    for (size_t row = 0; row < (size_t)c->r->rows; row++) {
        if (c->r->copy_rank[row] < 0)
            continue;
        float *sum = part(moe, moe->me, row);
        bool begun = false;
        add_received(c, sum, &begun, row);
        for (size_t i = 0; strict && i < c->cols; i++)
            if (SHMEMI_UNLIKELY(!isfinite(sum[i])))
                return shmemi_int8_fail_nonfinite(c->call, sum, SHMEMX_FLOAT32, row, i);
    }
    return SHMEMX_SUCCESS;
}

/* Writes what goes back for a received row: this rank's sum, and those that others have left for it. */
static int write_row(struct combine *c, char *record, size_t row)
{
    struct shmemx_moe *moe = c->moe;
    const shmemx_moe_combine_t *a = c->a;
    int parts = moe->fan ? c->r->parts[row] : 0;
    bool plain = !a->by_expert && !a->weighted && !parts,
         quant = moe->c.combine_quant == SHMEMX_MOE_QUANT_INT8;
    /* Float32 rows are added up where they go; 8 KiB that were just written are in L1. */
    bool in_place = !quant && moe->c.type == SHMEMX_FLOAT32;
    float *sum = in_place ? (float *)(void *)record : moe->sum;
    const void *source = plain ? y_row(c, (ptrdiff_t)row) : (const char *)sum;
    if (!plain) {
        bool begun = false;
        add_received(c, sum, &begun, row);
        for (size_t i = row * (size_t)moe->fan, end = i + (size_t)parts; i < end; i++)
            add_typed(c, SHMEMI_FLOAT_INDEX(SHMEMX_FLOAT32), sum, &begun,
                      part(moe, c->r->part_rank[i], (size_t)c->r->part_row[i]), 1.0f);
    }
    int type = plain ? moe->c.type : SHMEMX_FLOAT32;
    if (quant) {
        size_t done = shmemi_int8_quantize_row(c->k, record, source, type, c->cols, (size_t)moe->c.group,
                                               moe->c.nonfinite ? &c->saturated : NULL);
        if (SHMEMI_UNLIKELY(done < c->cols))
            return shmemi_int8_fail_nonfinite(c->call, source, type, row, done);
    } else if (plain) {
        memcpy(record, source, moe->row);
    } else if (!in_place) {
        c->k->narrow[c->type](record, sum, c->cols);
    }
    return SHMEMX_SUCCESS;
}

static size_t combine_buffer(const struct shmemx_moe *moe)
{
    return moe->combine_at + (size_t)shmemi_moe_combine_slot(moe) * moe->combine_bytes;
}

/* What goes back to one source. Of rows that another rank of this node sends, the weights alone. */
static int send_back_to(struct combine *c, size_t buffer, int source)
{
    struct shmemx_moe *moe = c->moe;
    const struct shmemi_moe_route *r = c->r;
    size_t offset = buffer + (size_t)r->return_base[source] * moe->back_record;
    char *target = shmemi_moe_target(moe, source, offset);
    size_t first = (size_t)r->recv_start[source], count = (size_t)r->recv_count[source], sent = 0;
    size_t k = (size_t)moe->c.topk, weights = c->a->topk_weights ? k * sizeof(float) : 0;
    int rc = SHMEMX_SUCCESS;
    for (size_t j = 0; j < count && rc == 0; j++) {
        size_t at = j * moe->back_record, row = first + j;
        bool elsewhere = moe->fan && r->copy_rank[row] >= 0;
        if (weights)
            memcpy(target + at + moe->back_weights_at, c->a->topk_weights + row * k, weights);
        moe->info.combine_bytes_remote += (int64_t)((elsewhere ? 0 : moe->back_row) + weights);
        if (!elsewhere) {
            rc = write_row(c, target + at, row);
            continue;
        }
        rc = shmemi_moe_flush(moe, source, offset, sent, at - sent);
        if (rc == 0)
            rc = shmemi_moe_flush(moe, source, offset, at + moe->back_weights_at, weights);
        sent = at + moe->back_record;
    }
    return rc ? rc : shmemi_moe_flush(moe, source, offset, sent, count * moe->back_record - sent);
}

static int send_back(struct combine *c, size_t buffer)
{
    struct shmemx_moe *moe = c->moe;
    int rc = SHMEMX_SUCCESS;
    for (int i = 1; i < moe->ranks && rc == 0; i++)
        rc = send_back_to(c, buffer, (moe->me + i) % moe->ranks);
    moe->info.saturated += (int64_t)c->saturated;
    return rc;
}

/* The returned record of entry i of the sending side. */
static const char *returned(const struct combine *c, const char *buffer, size_t i)
{
    const struct shmemi_moe_route *r = c->r;
    return buffer + (size_t)(r->own_base[r->rank[i]] + r->at[i]) * c->moe->back_record;
}

static void sum_token(const struct combine *c, const char *buffer, size_t t)
{
    const struct shmemx_moe *moe = c->moe;
    const struct shmemi_moe_route *r = c->r;
    const shmemx_moe_combine_t *a = c->a;
    bool quant = moe->c.combine_quant == SHMEMX_MOE_QUANT_INT8, begun = false;
    char *out = (char *)a->out + (ptrdiff_t)t * a->out_stride;
    float *sum = moe->c.type == SHMEMX_FLOAT32 ? (float *)(void *)out : moe->sum;
    for (size_t i = (size_t)r->start[t], end = (size_t)r->start[t + 1]; i < end; i++) {
        if (r->rank[i] == moe->me) {
            add_received(c, sum, &begun, (size_t)(r->recv_start[moe->me] + r->at[i]));
            continue;
        }
        if (r->via[i] >= 0)
            continue; /* is in the row of that entry */
        const char *record = returned(c, buffer, i);
        if (!quant) {
            add(c, sum, &begun, record, 1.0f);
            continue;
        }
        if (!begun)
            memset(sum, 0, c->cols * sizeof *sum);
        begun = true;
        c->k->dequantize_add[SHMEMX_QUANT_INT8](sum, record, c->cols,
                                                SHMEMI_INT8_GROUP(c->cols, (size_t)moe->c.group), 1.0f);
    }
    if (a->bias)
        add(c, sum, &begun, (const char *)a->bias + (ptrdiff_t)t * a->bias_stride, 1.0f);
    if (!begun)
        memset(sum, 0, c->cols * sizeof *sum);
    if ((void *)sum != (void *)out)
        c->k->narrow[c->type](out, sum, c->cols);
}

/* Each choice's weight comes from the rank that owns it. */
static void gather_weights(const struct combine *c, const char *buffer, size_t t)
{
    const struct shmemx_moe *moe = c->moe;
    const struct shmemi_moe_route *r = c->r;
    size_t k = (size_t)moe->c.topk;
    float *out = c->a->out_weights + t * k;
    memset(out, 0, k * sizeof *out);
    for (size_t i = (size_t)r->start[t], end = (size_t)r->start[t + 1]; i < end; i++) {
        const float *from;
        if (r->rank[i] == moe->me)
            from = c->a->topk_weights + (size_t)(r->recv_start[moe->me] + r->at[i]) * k;
        else
            from = (const float *)(const void *)(returned(c, buffer, i) + moe->back_weights_at);
        for (size_t j = 0; j < k; j++)
            if (r->owner[t * k + j] == r->rank[i])
                out[j] = from[j];
    }
}

int shmemx_moe_combine(shmemx_moe_t *moe, const shmemx_moe_handle_t *handle, const shmemx_moe_combine_t *args)
{
    int rc;
    if (!shmemi_moe_find(__func__, moe, &rc))
        return rc;
    rc = check(__func__, moe, handle, args);
    const struct shmemi_moe_route *r = rc ? NULL : handle->route;
    struct combine c = {
        __func__, moe, r, args, shmemi_int8_kernels(), (size_t)moe->c.hidden, SHMEMI_FLOAT_INDEX(moe->c.type),
        0};
    if (moe->fan) { /* the round's end: all ranks of this node have left their parts */
        shmemi_moe_begin_round(moe);
        rc = rc ? rc : leave_parts(&c);
        rc = shmemi_moe_end_round(__func__, moe, SHMEMI_MOE_PARTS, rc, r ? r->tag : 0, NULL);
        if (rc)
            return rc;
    }
    shmemi_moe_begin_round(moe);
    size_t buffer = combine_buffer(moe);
    if (!rc)
        rc = send_back(&c, buffer);
    bool weights = r && args->topk_weights;
    rc = shmemi_moe_end_round(__func__, moe, weights ? SHMEMI_MOE_COMBINE_WEIGHTS : SHMEMI_MOE_COMBINE, rc,
                              r ? r->tag : 0, NULL);
    if (rc)
        return rc;
    for (size_t t = 0; t < (size_t)r->tokens; t++)
        sum_token(&c, moe->base.block + buffer, t);
    if (args->out_weights)
        for (size_t t = 0; t < (size_t)r->tokens; t++)
            gather_weights(&c, moe->base.block + buffer, t);
    moe->info.combines++;
    return SHMEMX_SUCCESS;
}
