/* MoE dispatch and combine against a plain sequential computation: every PE can compute every other PE's input, so
 * it knows what must arrive. Then misuse: a clear error on every PE, no hang, and the object works on. */
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

/* ---- every PE's input ------------------------------------------------------------------------------------------- */

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

/* ---- rows in the scene's type -------------------------------------------------------------------------------------- */

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

/* ---- checks -------------------------------------------------------------------------------------------------------- */

static void check_layout(const struct scene *s, shmemx_moe_t *moe, const struct input *in)
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

static void check_received(const struct scene *s, const shmemx_moe_handle_t *handle, bool new_x)
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
                  "row %ld of %ld is token %d of rank %d, not %ld of %d", (long)row, (long)v.rows, v.source_token[row],
                  v.source_rank[row], (long)t, pe);
            if (new_x) {
                expected_row(s, pe, t, want, want_record);
                const char *got = (const char *)v.x + row * v.stride;
                CHECK(memcmp(got, s->c.quant ? want_record : want, bytes) == 0, "row %ld differs", (long)row);
                const char *full = want;
                if (s->c.quant) {
                    (void)shmemx_int8_dequantize(ready, 0, s->c.type, want_record, 0, 1, cols, (size_t)s->c.group);
                    full = ready;
                }
                CHECK(memcmp(out + (size_t)row * row_bytes(s), full, row_bytes(s)) == 0, "rows: %ld differs", (long)row);
            }
            for (int64_t j = 0; j < k; j++) {
                int64_t e = choice_of(s, pe, t, j);
                bool mine = e >= 0 && rank_of(s, e) == me;
                CHECK(v.topk_idx[row * k + j] == (mine ? e - first : -1), "row %ld choice %ld is %ld", (long)row, (long)j,
                      (long)v.topk_idx[row * k + j]);
                CHECK(v.topk_weights[row * k + j] == (mine ? weight_of(s, pe, t, j) : 0), "row %ld weight %ld is %g",
                      (long)row, (long)j, (double)v.topk_weights[row * k + j]);
                if (mine) {
                    int32_t place = (int32_t)v.expert_offsets[e - first] + counts[e - first]++;
                    CHECK(v.expert_position[row * k + j] == place, "row %ld choice %ld at %d, not %d", (long)row, (long)j,
                          v.expert_position[row * k + j], place);
                }
            }
            row++;
            from_pe++;
        }
        CHECK(v.tokens_per_source[pe] == from_pe, "%d rows from %d, not %d", v.tokens_per_source[pe], pe, from_pe);
        for (; s->c.mode == SHMEMX_MOE_WORST_CASE && row < (pe + 1) * s->c.max_tokens; row++)
            CHECK(v.source_rank[row] == -1 && v.topk_idx[row * k] == -1, "slot %ld is not empty", (long)row);
    }
    CHECK(row == v.rows, "%ld rows, not %ld", (long)v.rows, (long)row);
    int64_t align = s->c.expert_alignment ? s->c.expert_alignment : 1, offset = 0;
    for (int64_t e = 0; e < local; e++) {
        CHECK(v.tokens_per_expert[e] == counts[e] && v.expert_offsets[e] == offset, "expert %ld: %d at %ld", (long)e,
              v.tokens_per_expert[e], (long)v.expert_offsets[e]);
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
        rc = shmemx_moe_expert_rows(handle, 1, q, (ptrdiff_t)cols, scales, (ptrdiff_t)(groups * sizeof *scales));
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
static void check_sum(const struct scene *s, const char *what, const struct input *in, const char *out, bool weighted,
                      bool by_rank, const char *bias)
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
                double factor = by_rank ? 1 : (double)(e + 1) * (weighted ? (double)weight_of(s, me, t, j) : 1);
                sum += factor * (double)x_of(s, me, t, h);
                size += factor * 8;
            }
            if (bias) {
                sum += (double)at(s, bias + t * (int64_t)row_bytes(s), h);
                size += 8;
            }
            /* an INT8 hop errs by half a step of amax / 127, rounded up for the float16 rounding inside it */
            double bound = size * (3 * eps + (s->c.quant ? 1.05 / 254 : 0) + (s->c.combine_quant ? 1.05 / 254 : 0));
            double got = (double)at(s, out + t * (int64_t)row_bytes(s), h);
            CHECK(fabs(got - sum) <= bound, "%s: token %ld column %ld is %g, not %g (within %g)", what, (long)t, (long)h,
                  got, sum, bound);
        }
}

static void check_combine(const struct scene *s, shmemx_moe_t *moe, const shmemx_moe_handle_t *handle,
                          const struct input *in)
{
    shmemx_moe_received_t v;
    (void)shmemx_moe_received(handle, &v);
    ptrdiff_t stride = (ptrdiff_t)row_bytes(s);
    char *out = pes_private((size_t)in->tokens * row_bytes(s));
    char *y = apply_experts(s, handle), *rows = pes_private((size_t)v.rows * row_bytes(s));
    for (int weighted = 0; weighted < 2; weighted++) {
        shmemx_moe_combine_t a = {.y = y, .y_stride = stride, .y_rows = v.expert_rows, .by_expert = 1,
                                  .weighted = weighted, .out = out, .out_stride = stride};
        a.bias = weighted ? in->x : NULL;
        a.bias_stride = stride;
        dawdle();
        int rc = shmemx_moe_combine(moe, handle, &a);
        CHECK(rc == 0, "combine by expert gives %d: %s", rc, shmemx_last_error());
        check_sum(s, weighted ? "expert form, weighted, bias" : "expert form", in, out, weighted, false, a.bias);
    }
    (void)shmemx_moe_rows(handle, rows, stride);
    size_t k = (size_t)s->c.topk;
    float *back = pes_private((size_t)in->tokens * k * sizeof *back);
    memset(back, 0x7f, (size_t)in->tokens * k * sizeof *back);
    shmemx_moe_combine_t a = {.y = rows, .y_stride = stride, .y_rows = v.rows, .topk_weights = v.topk_weights,
                              .out = out, .out_stride = stride, .out_weights = back};
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

static shmemx_moe_t *create(const struct scene *s)
{
    shmemx_moe_t *moe = NULL;
    int rc = shmemx_moe_create(&s->c, &moe);
    CHECK(rc == 0 && moe != NULL, "create gives %d: %s", rc, shmemx_last_error());
    if (moe == NULL)
        shmem_global_exit(3);
    return moe;
}

static shmemx_moe_handle_t *dispatch(const struct scene *s, shmemx_moe_t *moe, const struct input *in)
{
    shmemx_moe_handle_t *handle = NULL;
    dawdle();
    int rc = shmemx_moe_dispatch(moe, in->x, (ptrdiff_t)row_bytes(s), in->tokens, in->idx, s->idx_type, in->weights,
                                 &handle);
    CHECK(rc == 0 && handle != NULL, "dispatch gives %d: %s", rc, shmemx_last_error());
    if (handle == NULL)
        shmem_global_exit(3);
    return handle;
}

static void run_scene(const struct scene *s)
{
    shmemx_moe_t *moe = create(s);
    struct input in = make_input(s);
    check_layout(s, moe, &in);
    shmemx_moe_handle_t *first = dispatch(s, moe, &in), *cached = NULL, *third;
    check_received(s, first, true);
    check_combine(s, moe, first, &in);
    dawdle();
    int rc = shmemx_moe_dispatch_cached(moe, first, in.x, (ptrdiff_t)row_bytes(s), in.tokens, &cached);
    CHECK(rc == 0 && cached, "cached dispatch gives %d: %s", rc, shmemx_last_error());
    if (cached) {
        check_received(s, cached, true);
        check_received(s, first, true); /* two results live */
        check_combine(s, moe, cached, &in);
    }
    third = dispatch(s, moe, &in);
    shmemx_moe_received_t v;
    (void)shmemx_moe_received(first, &v);
    CHECK(v.x == NULL, "rows of the dispatch before the last are still %p", v.x);
    CHECK(v.rows == 0 || shmemx_moe_rows(first, in.x, (ptrdiff_t)row_bytes(s)) == SHMEMX_ERR_ARGUMENT, "stale rows");
    CHECK(shmemx_moe_handle_free(first) == 0, "free");
    check_received(s, cached, true); /* its routing lives on without the first handle */
    shmemx_moe_info_t info;
    CHECK(shmemx_moe_info(moe, &info) == 0 && info.dispatches == 3, "%ld dispatches", (long)info.dispatches);
    (void)shmemx_moe_handle_free(cached);
    (void)shmemx_moe_handle_free(third);
    free_input(&in);
    rc = shmemx_moe_destroy(moe);
    CHECK(rc == 0, "destroy gives %d: %s", rc, shmemx_last_error());
}

static void all_scenes(void)
{
    static const int types[] = {SHMEMX_FLOAT32, SHMEMX_FLOAT16, SHMEMX_BFLOAT16};
    static const int groups[] = {0, 32, 64, 128};
    unsigned salt = 1;
    for (int pattern = 0; pattern < PATTERNS; pattern++)
        for (int variant = 0; variant < 12; variant++, salt++) {
            struct scene s = {.c = plain_config(), .pattern = (enum pattern)pattern, .salt = salt};
            s.idx_type = variant % 2 ? SHMEMX_INT32 : SHMEMX_INT64;
            s.c.type = types[variant % 3];
            s.c.mode = variant / 2 % 2;
            s.c.quant = variant / 3 % 2;
            s.c.combine_quant = variant / 6 % 2;
            s.c.group = groups[common_random(4)];
            s.c.hidden = 16 + 8 * (int64_t)common_random(24);
            s.c.num_experts = 1 + (int64_t)common_random((size_t)(4 * npes));
            s.c.topk = 1 + (int64_t)common_random(8);
            s.c.max_tokens = 1 + (int64_t)common_random(40);
            s.c.expert_alignment = variant % 5 == 0 ? 8 : 0;
            shmemi_moe_never_direct = variant % 4 == 3;
            run_scene(&s);
        }
    shmemi_moe_never_direct = false;
}

/* Many rounds with no barrier between them and every PE at its own pace: buffers must not be written too early. */
static void in_a_row(int mode)
{
    struct scene s = {.c = plain_config(), .idx_type = SHMEMX_INT64};
    s.c.mode = mode;
    s.c.results = 2;
    shmemx_moe_t *moe = create(&s);
    shmemx_moe_handle_t *last = NULL;
    struct scene before = s;
    for (unsigned round = 0; round < 60; round++) {
        s.salt = 100 + round;
        s.pattern = round % 5 == 4 ? UNEVEN : RANDOM;
        struct input in = make_input(&s);
        shmemx_moe_handle_t *handle = dispatch(&s, moe, &in);
        dawdle();
        if (last) {
            check_received(&before, last, true);
            (void)shmemx_moe_handle_free(last);
        }
        check_received(&s, handle, true);
        for (unsigned i = 0; i < round % 4; i++)
            check_combine(&s, moe, handle, &in);
        last = handle;
        before = s;
        free_input(&in);
    }
    CHECK(shmemx_moe_destroy(moe) == 0, "destroy: %s", shmemx_last_error()); /* takes the last handle along */
}

/* ---- misuse ---------------------------------------------------------------------------------------------------------- */

/* The PE at fault gets `code`, the others MISMATCH that names it. */
static void check_failed_on(int culprit, int code, int rc, const char *what)
{
    char name[16];
    snprintf(name, sizeof name, "PE %d", culprit);
    if (me == culprit)
        CHECK(rc == code, "%s: %d, not %d: %s", what, rc, code, shmemx_last_error());
    else
        CHECK(rc == SHMEMX_ERR_MISMATCH && strstr(shmemx_last_error() + 1, name), "%s: %d: %s", what, rc,
              shmemx_last_error());
}

static void works(const struct scene *s, shmemx_moe_t *moe)
{
    struct input in = make_input(s);
    shmemx_moe_handle_t *handle = dispatch(s, moe, &in);
    check_received(s, handle, true);
    check_combine(s, moe, handle, &in);
    (void)shmemx_moe_handle_free(handle);
    free_input(&in);
}

static void one_fails(int mode, int quant)
{
    struct scene s = {.c = plain_config(), .idx_type = SHMEMX_INT64, .salt = 77};
    s.c.mode = mode;
    s.c.quant = s.c.combine_quant = quant;
    shmemx_moe_t *moe = create(&s);
    struct input in = make_input(&s);
    int culprit = npes - 1, rc;
    ptrdiff_t stride = (ptrdiff_t)row_bytes(&s);
    shmemx_moe_handle_t *handle = (void *)&in, *good = dispatch(&s, moe, &in);
    int64_t *idx = in.idx, kept = idx[1];
    static const int64_t wrong_ids[] = {-2, 1 << 20, INT64_MIN};
    for (size_t i = 0; i < 3; i++) {
        idx[1] = me == culprit ? wrong_ids[i] : kept;
        rc = shmemx_moe_dispatch(moe, in.x, stride, in.tokens, in.idx, s.idx_type, in.weights, &handle);
        check_failed_on(culprit, SHMEMX_ERR_ARGUMENT, rc, "id out of range");
        CHECK(handle == NULL, "a handle in spite of an error");
        if (me == culprit)
            CHECK(strstr(shmemx_last_error(), "topk_idx[0][1]"), "%s", shmemx_last_error());
    }
    idx[1] = kept;
    works(&s, moe);
    rc = shmemx_moe_dispatch(moe, in.x, stride, me == culprit ? s.c.max_tokens + 1 : in.tokens, in.idx, s.idx_type,
                             in.weights, &handle);
    check_failed_on(culprit, SHMEMX_ERR_ARGUMENT, rc, "too many tokens");
    rc = shmemx_moe_dispatch(moe, me == culprit ? NULL : in.x, stride, in.tokens, in.idx, s.idx_type, in.weights,
                             &handle);
    check_failed_on(culprit, SHMEMX_ERR_ARGUMENT, rc, "x NULL");
    rc = shmemx_moe_dispatch(moe, in.x, stride - (me == culprit ? 4 : 0), in.tokens, in.idx, s.idx_type, in.weights,
                             &handle);
    check_failed_on(culprit, SHMEMX_ERR_ARGUMENT, rc, "short stride");
    rc = shmemx_moe_dispatch(moe, in.x, stride, in.tokens, in.idx, me == culprit ? SHMEMX_INT8 : s.idx_type, in.weights,
                             &handle);
    check_failed_on(culprit, SHMEMX_ERR_ARGUMENT, rc, "idx type");
    rc = shmemx_moe_dispatch(moe, in.x, stride, in.tokens, in.idx, s.idx_type, in.weights,
                             me == culprit ? NULL : &handle);
    check_failed_on(culprit, SHMEMX_ERR_ARGUMENT, rc, "handle NULL");
    works(&s, moe);
    rc = shmemx_moe_dispatch_cached(moe, me == culprit ? (void *)&in : (void *)good, in.x, stride, in.tokens, &handle);
    check_failed_on(culprit, SHMEMX_ERR_ARGUMENT, rc, "no handle");
    rc = shmemx_moe_dispatch_cached(moe, good, in.x, stride, in.tokens - (me == culprit), &handle);
    check_failed_on(culprit, SHMEMX_ERR_ARGUMENT, rc, "other tokens");
    works(&s, moe);
    if (quant) {
        float *x = (float *)(void *)in.x, value = x[5];
        idx[0] = 0;
        if (me == culprit)
            x[5] = NAN;
        rc = shmemx_moe_dispatch(moe, in.x, stride, in.tokens, in.idx, s.idx_type, in.weights, &handle);
        check_failed_on(culprit, SHMEMX_ERR_DATA, rc, "NaN");
        if (me == culprit)
            CHECK(strstr(shmemx_last_error(), "x[0][5]"), "%s", shmemx_last_error());
        x[5] = value;
        works(&s, moe);
    }
    shmemx_moe_received_t v;
    CHECK(shmemx_moe_received(good, &v) == 0, "received");
    char *y = pes_private((size_t)v.rows * row_bytes(&s)), *out = pes_private((size_t)in.tokens * row_bytes(&s));
    shmemx_moe_combine_t a = {.y = y, .y_stride = stride, .y_rows = v.rows + (me == culprit), .out = out,
                              .out_stride = stride};
    rc = shmemx_moe_combine(moe, good, &a);
    check_failed_on(culprit, SHMEMX_ERR_ARGUMENT, rc, "rows of y");
    a.y_rows = v.rows;
    a.out = me == culprit ? NULL : out;
    rc = shmemx_moe_combine(moe, good, &a);
    check_failed_on(culprit, SHMEMX_ERR_ARGUMENT, rc, "out NULL");
    a.out = out;
    a.bias = me == culprit ? out : NULL;
    a.bias_stride = stride;
    rc = shmemx_moe_combine(moe, good, &a);
    check_failed_on(culprit, SHMEMX_ERR_ARGUMENT, rc, "bias in out");
    a.bias = NULL;
    rc = shmemx_moe_combine(moe, me == culprit ? (void *)y : (void *)good, &a);
    check_failed_on(culprit, SHMEMX_ERR_ARGUMENT, rc, "handle of nobody");
    rc = me == culprit ? shmemx_moe_reject(moe, SHMEMX_ERR_DATA) : shmemx_moe_combine(moe, good, &a);
    check_failed_on(culprit, 0, rc, "rejected combine");
    rc = me == culprit ? shmemx_moe_reject(moe, SHMEMX_ERR_DATA)
                       : shmemx_moe_dispatch(moe, in.x, stride, in.tokens, in.idx, s.idx_type, in.weights, &handle);
    check_failed_on(culprit, 0, rc, "rejected dispatch");
    works(&s, moe);
    CHECK(shmemx_moe_reject(moe, 0) == SHMEMX_ERR_ARGUMENT, "reject with success");
    free(y);
    free(out);
    free_input(&in);
    (void)shmemx_moe_destroy(moe);
}

/* PEs in different calls, or with routings of different dispatches: MISMATCH everywhere, and on it goes. */
static void out_of_step(int mode)
{
    struct scene s = {.c = plain_config(), .idx_type = SHMEMX_INT64, .salt = 78};
    s.c.mode = mode;
    shmemx_moe_t *moe = create(&s);
    struct input in = make_input(&s);
    ptrdiff_t stride = (ptrdiff_t)row_bytes(&s);
    shmemx_moe_handle_t *a = dispatch(&s, moe, &in), *b = dispatch(&s, moe, &in), *c;
    shmemx_moe_received_t v;
    (void)shmemx_moe_received(a, &v);
    char *y = pes_private((size_t)v.rows * row_bytes(&s)), *out = pes_private((size_t)in.tokens * row_bytes(&s));
    shmemx_moe_combine_t args = {.y = y, .y_stride = stride, .y_rows = v.rows, .out = out, .out_stride = stride};
    int want = npes > 1 ? SHMEMX_ERR_MISMATCH : SHMEMX_SUCCESS;
    int rc = me == 0 ? shmemx_moe_combine(moe, a, &args)
                     : shmemx_moe_dispatch(moe, in.x, stride, in.tokens, in.idx, s.idx_type, in.weights, &c);
    CHECK(rc == want, "combine against dispatch: %d: %s", rc, shmemx_last_error());
    works(&s, moe);
    rc = shmemx_moe_combine(moe, me == 0 ? a : b, &args);
    CHECK(rc == want, "two routings in one combine: %d: %s", rc, shmemx_last_error());
    rc = shmemx_moe_dispatch_cached(moe, me == 0 ? a : b, in.x, stride, in.tokens, &c);
    CHECK(rc == want, "two routings in one dispatch: %d: %s", rc, shmemx_last_error());
    args.topk_weights = me == 0 ? v.topk_weights : NULL;
    rc = shmemx_moe_combine(moe, a, &args);
    CHECK(rc == want, "weights from one PE only: %d: %s", rc, shmemx_last_error());
    works(&s, moe);
    free(y);
    free(out);
    free_input(&in);
    (void)shmemx_moe_destroy(moe);
}

static void overflow(void)
{
    struct scene s = {.c = plain_config(), .pattern = ONE_RANK, .idx_type = SHMEMX_INT64, .salt = 79};
    s.c.topk = 1; /* some token of RANDOM drops it */
    s.c.capacity = npes * s.c.max_tokens - 1;
    shmemx_moe_t *moe = create(&s);
    struct input in = make_input(&s);
    shmemx_moe_handle_t *handle;
    int rc = shmemx_moe_dispatch(moe, in.x, (ptrdiff_t)row_bytes(&s), in.tokens, in.idx, s.idx_type, in.weights,
                                 &handle);
    char want[64];
    snprintf(want, sizeof want, "%ld rows, its capacity is %ld", (long)(npes * s.c.max_tokens), (long)s.c.capacity);
    CHECK(rc == SHMEMX_ERR_LIMIT && handle == NULL && strstr(shmemx_last_error(), want), "overflow: %d: %s", rc,
          shmemx_last_error());
    s.pattern = RANDOM;
    works(&s, moe);
    free_input(&in);
    (void)shmemx_moe_destroy(moe);
}

static void saturation(void)
{
    struct scene s = {.c = plain_config(), .idx_type = SHMEMX_INT64, .salt = 80};
    s.c.quant = SHMEMX_MOE_QUANT_INT8;
    s.c.nonfinite = SHMEMX_NONFINITE_SATURATE;
    shmemx_moe_t *moe = create(&s);
    struct input in = make_input(&s);
    ((int64_t *)in.idx)[0] = 0;
    ((float *)(void *)in.x)[3] = INFINITY;
    shmemx_moe_handle_t *handle = dispatch(&s, moe, &in);
    shmemx_moe_info_t info;
    CHECK(shmemx_moe_info(moe, &info) == 0 && info.saturated == 1, "%ld saturated", (long)info.saturated);
    (void)shmemx_moe_handle_free(handle);
    free_input(&in);
    (void)shmemx_moe_destroy(moe);
}

static void bad_configs(void)
{
    shmemx_moe_config_t good = plain_config();
    shmemx_moe_t *moe = (void *)&good;
    struct {
        const char *name;
        size_t offset;
        bool wide;
        int64_t value;
    } wrong[] = {
#define BAD32(f, v) {#f, offsetof(shmemx_moe_config_t, f), false, v}
#define BAD64(f, v) {#f, offsetof(shmemx_moe_config_t, f), true, v}
        BAD32(type, SHMEMX_FLOAT64), BAD32(mode, 2), BAD32(quant, 2), BAD32(combine_quant, -1), BAD32(group, 48),
        BAD32(nonfinite, 7), BAD32(results, 65), BAD32(results, -1), BAD64(hidden, 0), BAD64(hidden, 6),
        BAD64(hidden, -16), BAD64(num_experts, 0), BAD64(topk, 0), BAD64(topk, 33), BAD64(max_tokens, 0),
        BAD64(max_tokens, INT32_MAX), BAD64(max_tokens, INT64_MAX), BAD64(capacity, -1),
        BAD64(expert_alignment, -8),
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        shmemx_moe_config_t c = good;
        int32_t narrow_value = (int32_t)wrong[i].value;
        if (me == npes - 1)
            memcpy((char *)&c + wrong[i].offset, wrong[i].wide ? (void *)&wrong[i].value : (void *)&narrow_value,
                   wrong[i].wide ? 8 : 4);
        int rc = shmemx_moe_create(&c, &moe);
        check_failed_on(npes - 1, SHMEMX_ERR_ARGUMENT, rc, wrong[i].name);
        if (me == npes - 1)
            CHECK(strstr(shmemx_last_error(), wrong[i].name), "%s: %s", wrong[i].name, shmemx_last_error());
        CHECK(moe == NULL, "an object in spite of an error");
    }
    int rc = shmemx_moe_create(me == 0 ? NULL : &good, &moe);
    check_failed_on(0, SHMEMX_ERR_ARGUMENT, rc, "config NULL");
    shmemx_moe_config_t c = good;
    c.team = me == 0 ? (shmem_team_t)(uintptr_t)0x7777 : good.team;
    rc = shmemx_moe_create(&c, &moe);
    check_failed_on(0, SHMEMX_ERR_TEAM, rc, "no team");
    if (npes > 1) {
        c = good;
        c.max_tokens += me == 1;
        rc = shmemx_moe_create(&c, &moe);
        CHECK(rc == SHMEMX_ERR_MISMATCH && strstr(shmemx_last_error(), "max_tokens is 24 on PE 0 and 25 on PE 1"),
              "%d: %s", rc, shmemx_last_error());
        c = good;
        c.team = me == 0 ? SHMEM_TEAM_INVALID : good.team;
        rc = shmemx_moe_create(&c, &moe);
        CHECK(rc == SHMEMX_ERR_MISMATCH && strstr(shmemx_last_error(), "team"), "%d: %s", rc, shmemx_last_error());
    }
    c = good;
    c.hidden = 1 << 20;
    c.max_tokens = 1 << 14;
    rc = shmemx_moe_create(&c, &moe);
    CHECK(rc == SHMEMX_ERR_NO_MEMORY && strstr(shmemx_last_error(), "SHMEM_SYMMETRIC_SIZE"), "%d: %s", rc,
          shmemx_last_error());
    size_t used;
    CHECK(shmemx_heap_info(NULL, &used, NULL) == 0 && used == 0, "%zu bytes of heap are left behind", used);
}

static void strangers(void)
{
    struct scene s = {.c = plain_config(), .idx_type = SHMEMX_INT64};
    shmemx_moe_t *moe = create(&s);
    struct input in = make_input(&s);
    shmemx_moe_handle_t *handle = dispatch(&s, moe, &in), *none;
    shmemx_moe_received_t v;
    shmemx_moe_info_t info;
    CHECK(shmemx_moe_handle_free(handle) == 0 && shmemx_moe_handle_free(NULL) == 0, "free");
    CHECK(shmemx_moe_handle_free(handle) == SHMEMX_ERR_ARGUMENT, "free twice");
    CHECK(shmemx_moe_received(handle, &v) == SHMEMX_ERR_ARGUMENT, "received after free");
    CHECK(shmemx_moe_rows(handle, in.x, 1) == SHMEMX_ERR_ARGUMENT, "rows after free");
    CHECK(shmemx_moe_expert_rows(handle, 0, in.x, 1, NULL, 0) == SHMEMX_ERR_ARGUMENT, "expert rows after free");
    CHECK(shmemx_moe_destroy(moe) == 0, "destroy");
    CHECK(shmemx_moe_destroy(moe) == SHMEMX_ERR_ARGUMENT, "destroy twice");
    CHECK(shmemx_moe_info(moe, &info) == SHMEMX_ERR_ARGUMENT, "info after destroy");
    CHECK(shmemx_moe_dispatch(moe, in.x, 4, 0, in.idx, SHMEMX_INT64, NULL, &none) == SHMEMX_ERR_ARGUMENT,
          "dispatch after destroy");
    CHECK(shmemx_moe_combine(moe, handle, NULL) == SHMEMX_ERR_ARGUMENT, "combine after destroy");
    free_input(&in);
}

/* Teams of their own side by side, of different sizes, and PEs in none. */
static void teams(void)
{
    shmem_team_t low = SHMEM_TEAM_INVALID, high = SHMEM_TEAM_INVALID;
    int half = (npes + 1) / 2, all = npes, world_me = me;
    (void)shmem_team_split_strided(SHMEM_TEAM_WORLD, 0, 1, half, NULL, 0, &low);
    if (npes > half + 1) /* the last PE is in none */
        (void)shmem_team_split_strided(SHMEM_TEAM_WORLD, half, 1, npes - half - 1, NULL, 0, &high);
    struct scene s = {.c = plain_config(), .idx_type = SHMEMX_INT64, .salt = 81};
    s.c.team = me < half ? low : high;
    s.c.num_experts = me < half ? 5 : 7; /* teams need not agree */
    shmemx_moe_t *moe = create(&s);
    if (s.c.team != SHMEM_TEAM_INVALID) {
        me = shmem_team_my_pe(s.c.team);
        npes = shmem_team_n_pes(s.c.team);
        works(&s, moe);
        me = world_me;
        npes = all;
    } else {
        shmemx_moe_info_t info;
        CHECK(shmemx_moe_info(moe, &info) == SHMEMX_ERR_TEAM, "a member in spite of no team");
    }
    CHECK(shmemx_moe_destroy(moe) == 0, "destroy: %s", shmemx_last_error());
    if (low != SHMEM_TEAM_INVALID)
        shmem_team_destroy(low);
    if (high != SHMEM_TEAM_INVALID)
        shmem_team_destroy(high);
}

int main(void)
{
    pes_begin();
    shmemx_log_errors(0);
    all_scenes();
    in_a_row(SHMEMX_MOE_EXCHANGE);
    in_a_row(SHMEMX_MOE_WORST_CASE);
    for (int mode = 0; mode < 2; mode++) {
        one_fails(mode, 0);
        one_fails(mode, 1);
        out_of_step(mode);
    }
    overflow();
    saturation();
    bad_configs();
    strangers();
    teams();
    shmemx_log_errors(1);
    return pes_end();
}
