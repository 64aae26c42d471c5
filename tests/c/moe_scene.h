/* What the MoE tests share: scenes whose input every PE can compute for every other PE, so that it knows what
 * must arrive, and the checks of dispatch and combine against a plain sequential computation. */
#ifndef TESTS_MOE_SCENE_H
#define TESTS_MOE_SCENE_H

#include <math.h>

#include "moe.h"
#include "pes.h"

enum pattern { RANDOM, EMPTY, UNEVEN, DROPPED, ONE_RANK, DUPLICATES, PATTERNS };

struct scene {
    shmemx_moe_config_t c;
    enum pattern pattern;
    unsigned salt;
    int idx_type;
};

static shmemx_moe_config_t plain_config(void)
{
    return (shmemx_moe_config_t){.team = SHMEM_TEAM_WORLD,
                                 .type = SHMEMX_FLOAT32,
                                 .group = 32,
                                 .hidden = 64,
                                 .num_experts = 2 * npes + 1,
                                 .topk = 3,
                                 .max_tokens = 24};
}

/* ---- every PE's input ---------------------------------------------------------------------------------- */

static unsigned hash(const struct scene *s, int pe, int64_t t, int64_t i)
{
    uint64_t state = ((uint64_t)s->salt << 48) ^ ((uint64_t)pe << 40) ^ ((uint64_t)t << 20) ^ (uint64_t)i;
    return (unsigned)(random_next(&state) >> 33);
}

static int64_t tokens_of(const struct scene *s, int pe)
{
    int64_t most = s->c.max_tokens;
    switch (s->pattern) {
    case EMPTY:
        return 0;
    case UNEVEN:
        return pe % 3 == 1 ? 0 : (int64_t)(hash(s, pe, 1, 1) % (unsigned)(most + 1));
    default:
        return most;
    }
}

static int64_t choice_of(const struct scene *s, int pe, int64_t t, int64_t j)
{
    int64_t experts = s->c.num_experts;
    switch (s->pattern) {
    case DROPPED:
        return -1;
    case ONE_RANK: /* the last expert block of the last rank */
        return experts - 1;
    case DUPLICATES:
        return (int64_t)(hash(s, pe, t, 7) % (unsigned)experts);
    default: { /* distinct where E allows, a quarter dropped */
        unsigned h = hash(s, pe, t, 1000 + j);
        return h % 4 == 0 ? -1 : (int64_t)((hash(s, pe, t, 999) + (unsigned)j * 5) % (unsigned)experts);
    }
    }
}

static float weight_of(const struct scene *s, int pe, int64_t t, int64_t j)
{
    return (float)(hash(s, pe, t, 2000 + j) % 16) / 8.0f; /* exact, 0 included */
}

/* Small integers: exact in all three types. */
static float x_of(const struct scene *s, int pe, int64_t t, int64_t h)
{
    return (float)((int)(hash(s, pe, t, 5000 + h) % 17) - 8);
}

static int rank_of(const struct scene *s, int64_t expert)
{
    int64_t each = s->c.num_experts / npes, more = s->c.num_experts % npes, start = 0;
    int r = 0;
    while (expert >= start + each + (r < more))
        start += each + (r++ < more);
    return r;
}

static int64_t first_of(const struct scene *s, int rank)
{
    int64_t each = s->c.num_experts / npes, more = s->c.num_experts % npes;
    return rank * each + (rank < more ? rank : more);
}

static bool goes_to(const struct scene *s, int pe, int64_t t, int rank)
{
    for (int64_t j = 0; j < s->c.topk; j++) {
        int64_t e = choice_of(s, pe, t, j);
        if (e >= 0 && rank_of(s, e) == rank)
            return true;
    }
    return false;
}

/* ---- rows in the scene's type -------------------------------------------------------------------------- */

static size_t row_bytes(const struct scene *s)
{
    return (size_t)s->c.hidden * shmemi_float_bytes(s->c.type);
}

static void narrow(const struct scene *s, void *row, const float *value)
{
    shmemi_int8_kernels()->narrow[SHMEMI_FLOAT_INDEX(s->c.type)](row, value, (size_t)s->c.hidden);
}

static float at(const struct scene *s, const void *row, int64_t h)
{
    return shmemi_float_at(row, s->c.type, (size_t)h);
}

/* All of this PE's input, made once a scene. */
struct input {
    int64_t tokens;
    char *x;
    void *idx;
    float *weights;
};

static struct input make_input(const struct scene *s)
{
    struct input in = {.tokens = tokens_of(s, me)};
    size_t n = (size_t)in.tokens, k = (size_t)s->c.topk, cols = (size_t)s->c.hidden;
    float *row = pes_private(cols * sizeof *row);
    in.x = pes_private(n * row_bytes(s));
    in.idx = pes_private(n * k * sizeof(int64_t));
    in.weights = pes_private(n * k * sizeof(float));
    for (size_t t = 0; t < n; t++) {
        for (size_t h = 0; h < cols; h++)
            row[h] = x_of(s, me, (int64_t)t, (int64_t)h);
        narrow(s, in.x + t * row_bytes(s), row);
        for (size_t j = 0; j < k; j++) {
            int64_t e = choice_of(s, me, (int64_t)t, (int64_t)j);
            if (s->idx_type == SHMEMX_INT64)
                ((int64_t *)in.idx)[t * k + j] = e;
            else
                ((int32_t *)in.idx)[t * k + j] = (int32_t)e;
            in.weights[t * k + j] = weight_of(s, me, (int64_t)t, (int64_t)j);
        }
    }
    free(row);
    return in;
}

static void free_input(struct input *in)
{
    free(in->x);
    free(in->idx);
    free(in->weights);
}

/* ---- checks -------------------------------------------------------------------------------------------- */

static inline void check_layout(const struct scene *s, shmemx_moe_t *moe, const struct input *in)
{
    size_t experts = (size_t)s->c.num_experts, ranks = (size_t)npes;
    int32_t *per_rank = pes_private(ranks * 4), *per_expert = pes_private(experts * 4);
    uint8_t *inside = pes_private((size_t)in->tokens * ranks);
    int rc = shmemx_moe_layout(moe, in->idx, s->idx_type, in->tokens, per_rank, per_expert, inside);
    CHECK(rc == 0, "layout gives %d: %s", rc, shmemx_last_error());
    for (int64_t t = 0; t < in->tokens; t++) {
        for (int r = 0; r < npes; r++) {
            bool there = goes_to(s, me, t, r);
            CHECK(inside[t * npes + r] == there, "token %ld rank %d: %d", (long)t, r, inside[t * npes + r]);
            per_rank[r] -= there;
        }
        for (int64_t j = 0; j < s->c.topk; j++)
            if (choice_of(s, me, t, j) >= 0)
                per_expert[choice_of(s, me, t, j)]--;
    }
    for (size_t r = 0; r < ranks; r++)
        CHECK(per_rank[r] == 0, "rank %zu is off by %d", r, per_rank[r]);
    for (size_t e = 0; e < experts; e++)
        CHECK(per_expert[e] == 0, "expert %zu is off by %d", e, per_expert[e]);
    free(per_rank);
    free(per_expert);
    free(inside);
}

/* The exact bytes that must arrive for a token: its row, or its INT8 record. */
static void expected_row(const struct scene *s, int pe, int64_t t, char *row, char *record)
{
    size_t cols = (size_t)s->c.hidden;
    float value[cols];
    for (size_t h = 0; h < cols; h++)
        value[h] = x_of(s, pe, t, (int64_t)h);
    narrow(s, row, value);
    if (s->c.quant)
        (void)shmemx_int8_quantize(record, 0, row, 0, s->c.type, 1, cols, (size_t)s->c.group, 0, NULL);
}

static inline void check_received(const struct scene *s, const shmemx_moe_handle_t *handle, bool new_x)
{
    shmemx_moe_received_t v;
    int rc = shmemx_moe_received(handle, &v);
    CHECK(rc == 0 && v.x != NULL, "received gives %d, x %p", rc, v.x);
    if (rc || !v.x)
        return;
    int64_t k = s->c.topk, row = 0, first = first_of(s, me), local = first_of(s, me + 1) - first;
    size_t cols = (size_t)s->c.hidden, record = shmemx_int8_row_bytes(cols, (size_t)s->c.group);
    size_t bytes = s->c.quant ? record : row_bytes(s);
    char want[row_bytes(s)], want_record[record];
    char *out = pes_private((size_t)v.rows * row_bytes(s)), *ready = pes_private(row_bytes(s));
    rc = shmemx_moe_rows(handle, out, (ptrdiff_t)row_bytes(s));
    CHECK(rc == 0, "rows gives %d", rc);
    int32_t counts[local + 1];
    memset(counts, 0, sizeof counts);
    for (int pe = 0; pe < npes; pe++) {
        if (s->c.mode == SHMEMX_MOE_WORST_CASE)
            row = pe * s->c.max_tokens;
        int32_t from_pe = 0;
        for (int64_t t = 0; t < tokens_of(s, pe); t++) {
            if (!goes_to(s, pe, t, me))
                continue;
            CHECK(row < v.rows && v.source_rank[row] == pe && v.source_token[row] == t,
                  "row %ld of %ld is token %d of rank %d, not %ld of %d", (long)row, (long)v.rows,
                  v.source_token[row], v.source_rank[row], (long)t, pe);
            if (new_x) {
                expected_row(s, pe, t, want, want_record);
                const char *got = (const char *)v.x + row * v.stride;
                CHECK(memcmp(got, s->c.quant ? want_record : want, bytes) == 0, "row %ld differs", (long)row);
                const char *full = want;
                if (s->c.quant) {
                    (void)shmemx_int8_dequantize(ready, 0, s->c.type, want_record, 0, 1, cols,
                                                 (size_t)s->c.group);
                    full = ready;
                }
                CHECK(memcmp(out + (size_t)row * row_bytes(s), full, row_bytes(s)) == 0, "rows: %ld differs",
                      (long)row);
            }
            for (int64_t j = 0; j < k; j++) {
                int64_t e = choice_of(s, pe, t, j);
                bool mine = e >= 0 && rank_of(s, e) == me;
                CHECK(v.topk_idx[row * k + j] == (mine ? e - first : -1), "row %ld choice %ld is %ld",
                      (long)row, (long)j, (long)v.topk_idx[row * k + j]);
                CHECK(v.topk_weights[row * k + j] == (mine ? weight_of(s, pe, t, j) : 0),
                      "row %ld weight %ld is %g", (long)row, (long)j, (double)v.topk_weights[row * k + j]);
                if (mine) {
                    int32_t place = (int32_t)v.expert_offsets[e - first] + counts[e - first]++;
                    CHECK(v.expert_position[row * k + j] == place, "row %ld choice %ld at %d, not %d",
                          (long)row, (long)j, v.expert_position[row * k + j], place);
                }
            }
            row++;
            from_pe++;
        }
        CHECK(v.tokens_per_source[pe] == from_pe, "%d rows from %d, not %d", v.tokens_per_source[pe], pe,
              from_pe);
        for (; s->c.mode == SHMEMX_MOE_WORST_CASE && row < (pe + 1) * s->c.max_tokens; row++)
            CHECK(v.source_rank[row] == -1 && v.topk_idx[row * k] == -1, "slot %ld is not empty", (long)row);
    }
    CHECK(row == v.rows, "%ld rows, not %ld", (long)v.rows, (long)row);
    int64_t align = s->c.expert_alignment ? s->c.expert_alignment : 1, offset = 0;
    for (int64_t e = 0; e < local; e++) {
        CHECK(v.tokens_per_expert[e] == counts[e] && v.expert_offsets[e] == offset, "expert %ld: %d at %ld",
              (long)e, v.tokens_per_expert[e], (long)v.expert_offsets[e]);
        offset += (counts[e] + align - 1) / align * align;
    }
    CHECK(v.expert_rows == offset, "%ld expert rows, not %ld", (long)v.expert_rows, (long)offset);
    free(out);
    free(ready);
}

/* Expert e's function of a row: times e + 1. In expert form; fills y [expert_rows][hidden]. */
static char *apply_experts(const struct scene *s, const shmemx_moe_handle_t *handle)
{
    shmemx_moe_received_t v;
    (void)shmemx_moe_received(handle, &v);
    char *y = pes_private((size_t)v.expert_rows * row_bytes(s));
    memset(y, 0x7f, (size_t)v.expert_rows * row_bytes(s));
    int rc = shmemx_moe_expert_rows(handle, 0, y, (ptrdiff_t)row_bytes(s), NULL, 0);
    CHECK(rc == 0, "expert_rows gives %d: %s", rc, shmemx_last_error());
    int64_t first = first_of(s, me), local = first_of(s, me + 1) - first;
    float value[s->c.hidden];
    for (int64_t e = 0; e < local; e++)
        for (int64_t p = v.expert_offsets[e]; p < v.expert_offsets[e + 1]; p++) {
            bool padding = p >= v.expert_offsets[e] + v.tokens_per_expert[e];
            for (int64_t h = 0; h < s->c.hidden; h++) {
                value[h] = at(s, y + p * (int64_t)row_bytes(s), h) * (float)(first + e + 1);
                CHECK(!padding || value[h] == 0, "padding row %ld is %g", (long)p, (double)value[h]);
            }
            narrow(s, y + (size_t)p * row_bytes(s), value);
        }
    if (s->c.quant) {
        size_t cols = (size_t)s->c.hidden, group = s->c.group ? (size_t)s->c.group : cols;
        size_t groups = (cols + group - 1) / group, n = (size_t)v.expert_rows;
        int8_t *q = pes_private(n * cols);
        float *scales = pes_private(n * groups * sizeof *scales);
        rc = shmemx_moe_expert_rows(handle, 1, q, (ptrdiff_t)cols, scales,
                                    (ptrdiff_t)(groups * sizeof *scales));
        CHECK(rc == 0, "quantized expert_rows gives %d", rc);
        for (int64_t row = 0; row < v.rows; row++)
            for (int64_t j = row * s->c.topk; j < (row + 1) * s->c.topk; j++) {
                if (v.expert_position[j] < 0)
                    continue;
                const char *record = (const char *)v.x + row * v.stride;
                size_t p = (size_t)v.expert_position[j];
                CHECK(memcmp(q + p * cols, record, cols) == 0 &&
                          memcmp(scales + p * groups, record + SHMEMI_INT8_SCALES(cols), groups * 4) == 0,
                      "quantized expert row %zu differs", p);
            }
        free(q);
        free(scales);
    }
    return y;
}

/* out against the sum over all choices in double, with the rounding that the types and INT8 allow. */
static inline void check_sum(const struct scene *s, const char *what, const struct input *in, const char *out,
                             bool weighted, bool by_rank, const char *bias)
{
    double eps = s->c.type == SHMEMX_FLOAT32 ? 1e-6 : s->c.type == SHMEMX_FLOAT16 ? 1.0 / 1024 : 1.0 / 128;
    for (int64_t t = 0; t < in->tokens; t++)
        for (int64_t h = 0; h < s->c.hidden; h++) {
            double sum = 0, size = 0;
            bool seen[npes];
            memset(seen, 0, sizeof seen);
            for (int64_t j = 0; j < s->c.topk; j++) {
                int64_t e = choice_of(s, me, t, j);
                if (e < 0 || (by_rank && seen[rank_of(s, e)]))
                    continue;
                seen[rank_of(s, e)] = true;
                double factor =
                    by_rank ? 1 : (double)(e + 1) * (weighted ? (double)weight_of(s, me, t, j) : 1);
                sum += factor * (double)x_of(s, me, t, h);
                size += factor * 8;
            }
            if (bias) {
                sum += (double)at(s, bias + t * (int64_t)row_bytes(s), h);
                size += 8;
            }
            /* an INT8 hop errs by half a step of amax / 127, rounded up for the float16 rounding inside it */
            double bound =
                size * (3 * eps + (s->c.quant ? 1.05 / 254 : 0) + (s->c.combine_quant ? 1.05 / 254 : 0));
            double got = (double)at(s, out + t * (int64_t)row_bytes(s), h);
            CHECK(fabs(got - sum) <= bound, "%s: token %ld column %ld is %g, not %g (within %g)", what,
                  (long)t, (long)h, got, sum, bound);
        }
}

static inline void check_combine(const struct scene *s, shmemx_moe_t *moe, const shmemx_moe_handle_t *handle,
                                 const struct input *in)
{
    shmemx_moe_received_t v;
    (void)shmemx_moe_received(handle, &v);
    ptrdiff_t stride = (ptrdiff_t)row_bytes(s);
    char *out = pes_private((size_t)in->tokens * row_bytes(s));
    char *y = apply_experts(s, handle), *rows = pes_private((size_t)v.rows * row_bytes(s));
    for (int weighted = 0; weighted < 2; weighted++) {
        shmemx_moe_combine_t a = {.y = y,
                                  .y_stride = stride,
                                  .y_rows = v.expert_rows,
                                  .by_expert = 1,
                                  .weighted = weighted,
                                  .out = out,
                                  .out_stride = stride};
        a.bias = weighted ? in->x : NULL;
        a.bias_stride = stride;
        dawdle();
        int rc = shmemx_moe_combine(moe, handle, &a);
        CHECK(rc == 0, "combine by expert gives %d: %s", rc, shmemx_last_error());
        check_sum(s, weighted ? "expert form, weighted, bias" : "expert form", in, out, weighted, false,
                  a.bias);
    }
    (void)shmemx_moe_rows(handle, rows, stride);
    size_t k = (size_t)s->c.topk;
    float *back = pes_private((size_t)in->tokens * k * sizeof *back);
    memset(back, 0x7f, (size_t)in->tokens * k * sizeof *back);
    shmemx_moe_combine_t a = {.y = rows,
                              .y_stride = stride,
                              .y_rows = v.rows,
                              .topk_weights = v.topk_weights,
                              .out = out,
                              .out_stride = stride,
                              .out_weights = back};
    dawdle();
    int rc = shmemx_moe_combine(moe, handle, &a);
    CHECK(rc == 0, "combine gives %d: %s", rc, shmemx_last_error());
    check_sum(s, "token form", in, out, false, true, NULL);
    for (size_t i = 0; i < (size_t)in->tokens * k; i++) {
        int64_t t = (int64_t)(i / k), j = (int64_t)(i % k);
        float want = choice_of(s, me, t, j) < 0 ? 0 : weight_of(s, me, t, j);
        CHECK(back[i] == want, "weight of token %ld choice %ld came back as %g, not %g", (long)t, (long)j,
              (double)back[i], (double)want);
    }
    free(out);
    free(y);
    free(rows);
    free(back);
}

static inline shmemx_moe_t *create(const struct scene *s)
{
    shmemx_moe_t *moe = NULL;
    int rc = shmemx_moe_create(&s->c, &moe);
    CHECK(rc == 0 && moe != NULL, "create gives %d: %s", rc, shmemx_last_error());
    if (moe == NULL)
        shmem_global_exit(3);
    return moe;
}

static inline shmemx_moe_handle_t *dispatch(const struct scene *s, shmemx_moe_t *moe, const struct input *in)
{
    shmemx_moe_handle_t *handle = NULL;
    dawdle();
    int rc = shmemx_moe_dispatch(moe, in->x, (ptrdiff_t)row_bytes(s), in->tokens, in->idx, s->idx_type,
                                 in->weights, &handle);
    CHECK(rc == 0 && handle != NULL, "dispatch gives %d: %s", rc, shmemx_last_error());
    if (handle == NULL)
        shmem_global_exit(3);
    return handle;
}

/* One dispatch and its combines, checked; the object is as new. */
static inline void works(const struct scene *s, shmemx_moe_t *moe)
{
    struct input in = make_input(s);
    shmemx_moe_handle_t *handle = dispatch(s, moe, &in);
    check_received(s, handle, true);
    check_combine(s, moe, handle, &in);
    (void)shmemx_moe_handle_free(handle);
    free_input(&in);
}

#endif
