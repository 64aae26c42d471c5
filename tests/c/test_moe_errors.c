/* MoE misuse: a clear error on every PE, no hang, and the object works on. */
#include "moe_scene.h"

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
    rc = shmemx_moe_dispatch(moe, in.x, stride, me == culprit ? s.c.max_tokens + 1 : in.tokens, in.idx,
                             s.idx_type, in.weights, &handle);
    check_failed_on(culprit, SHMEMX_ERR_ARGUMENT, rc, "too many tokens");
    rc = shmemx_moe_dispatch(moe, me == culprit ? NULL : in.x, stride, in.tokens, in.idx, s.idx_type,
                             in.weights, &handle);
    check_failed_on(culprit, SHMEMX_ERR_ARGUMENT, rc, "x NULL");
    rc = shmemx_moe_dispatch(moe, in.x, stride - (me == culprit ? 4 : 0), in.tokens, in.idx, s.idx_type,
                             in.weights, &handle);
    check_failed_on(culprit, SHMEMX_ERR_ARGUMENT, rc, "short stride");
    rc = shmemx_moe_dispatch(moe, in.x, stride, in.tokens, in.idx, me == culprit ? SHMEMX_INT8 : s.idx_type,
                             in.weights, &handle);
    check_failed_on(culprit, SHMEMX_ERR_ARGUMENT, rc, "idx type");
    rc = shmemx_moe_dispatch(moe, in.x, stride, in.tokens, in.idx, s.idx_type, in.weights,
                             me == culprit ? NULL : &handle);
    check_failed_on(culprit, SHMEMX_ERR_ARGUMENT, rc, "handle NULL");
    works(&s, moe);
    rc = shmemx_moe_dispatch_cached(moe, me == culprit ? (void *)&in : (void *)good, in.x, stride, in.tokens,
                                    &handle);
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
    char *y = pes_private((size_t)v.rows * row_bytes(&s)),
         *out = pes_private((size_t)in.tokens * row_bytes(&s));
    shmemx_moe_combine_t a = {
        .y = y, .y_stride = stride, .y_rows = v.rows + (me == culprit), .out = out, .out_stride = stride};
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
    rc = me == culprit
             ? shmemx_moe_reject(moe, SHMEMX_ERR_DATA)
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
    char *y = pes_private((size_t)v.rows * row_bytes(&s)),
         *out = pes_private((size_t)in.tokens * row_bytes(&s));
    shmemx_moe_combine_t args = {
        .y = y, .y_stride = stride, .y_rows = v.rows, .out = out, .out_stride = stride};
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
    int rc = shmemx_moe_dispatch(moe, in.x, (ptrdiff_t)row_bytes(&s), in.tokens, in.idx, s.idx_type,
                                 in.weights, &handle);
    char want[64];
    snprintf(want, sizeof want, "%ld rows, its capacity is %ld", (long)(npes * s.c.max_tokens),
             (long)s.c.capacity);
    CHECK(rc == SHMEMX_ERR_LIMIT && handle == NULL && strstr(shmemx_last_error(), want), "overflow: %d: %s",
          rc, shmemx_last_error());
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

/* A sum that INT8 cannot hold is named by the rank whose experts made it, whichever rank of its node sends. */
static void nonfinite_sums(void)
{
    struct scene s = {.c = plain_config(), .idx_type = SHMEMX_INT32};
    s.c.num_experts = s.c.topk = npes;
    s.c.max_tokens = 1;
    s.c.combine_quant = SHMEMX_MOE_QUANT_INT8;
    shmemx_moe_t *moe = create(&s);
    int32_t idx[npes];
    for (int i = 0; i < npes; i++)
        idx[i] = i;
    size_t cols = (size_t)s.c.hidden;
    float *y = pes_private((size_t)npes * row_bytes(&s)), out[cols];
    memset(out, 0, sizeof out);
    memset(y, 0, (size_t)npes * row_bytes(&s));
    shmemx_moe_handle_t *handle = NULL;
    int rc = shmemx_moe_dispatch(moe, out, 0, 1, idx, SHMEMX_INT32, NULL, &handle);
    CHECK(rc == 0, "dispatch gives %d: %s", rc, shmemx_last_error());
    shmemx_moe_combine_t a = {.y = y,
                              .y_stride = (ptrdiff_t)row_bytes(&s),
                              .y_rows = npes,
                              .out = out,
                              .out_stride = (ptrdiff_t)row_bytes(&s)};
    int culprit = npes - 1;
    for (int row = 0; me == culprit && row < npes; row++)
        y[(size_t)row * cols + 7] = NAN;
    rc = shmemx_moe_combine(moe, handle, &a);
    if (npes > 1) /* rows of the own rank are never quantized */
        check_failed_on(culprit, SHMEMX_ERR_DATA, rc, "NaN in y");
    memset(y, 0, (size_t)npes * row_bytes(&s));
    rc = shmemx_moe_combine(moe, handle, &a);
    CHECK(rc == 0 && out[7] == 0, "combine afterwards gives %d, %g: %s", rc, (double)out[7],
          shmemx_last_error());
    free(y);
    (void)shmemx_moe_handle_free(handle);
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
        BAD32(type, SHMEMX_FLOAT64),
        BAD32(mode, 2),
        BAD32(quant, 2),
        BAD32(combine_quant, -1),
        BAD32(group, 48),
        BAD32(nonfinite, 7),
        BAD32(results, 65),
        BAD32(results, -1),
        BAD64(hidden, 0),
        BAD64(hidden, 6),
        BAD64(hidden, -16),
        BAD64(num_experts, 0),
        BAD64(topk, 0),
        BAD64(topk, 33),
        BAD64(max_tokens, 0),
        BAD64(max_tokens, INT32_MAX),
        BAD64(max_tokens, INT64_MAX),
        BAD64(capacity, -1),
        BAD64(expert_alignment, -8),
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        shmemx_moe_config_t c = good;
        int32_t narrow_value = (int32_t)wrong[i].value;
        if (me == npes - 1)
            memcpy((char *)&c + wrong[i].offset,
                   wrong[i].wide ? (void *)&wrong[i].value : (void *)&narrow_value, wrong[i].wide ? 8 : 4);
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
        CHECK(rc == SHMEMX_ERR_MISMATCH &&
                  strstr(shmemx_last_error(), "max_tokens is 24 on PE 0 and 25 on PE 1"),
              "%d: %s", rc, shmemx_last_error());
        c = good;
        c.team = me == 0 ? SHMEM_TEAM_INVALID : good.team;
        rc = shmemx_moe_create(&c, &moe);
        CHECK(rc == SHMEMX_ERR_MISMATCH && strstr(shmemx_last_error(), "team"), "%d: %s", rc,
              shmemx_last_error());
    }
    c = good;
    c.hidden = 1 << 20;
    c.max_tokens = 1 << 14;
    rc = shmemx_moe_create(&c, &moe);
    CHECK(rc == SHMEMX_ERR_NO_MEMORY && strstr(shmemx_last_error(), "SHMEM_SYMMETRIC_SIZE"), "%d: %s", rc,
          shmemx_last_error());
    size_t used;
    CHECK(shmemx_heap_info(SHMEMX_MEM_HOST, NULL, &used, NULL) == 0 && used == 0,
          "%zu bytes of heap are left behind", used);
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
    CHECK(shmemx_moe_expert_rows(handle, 0, in.x, 1, NULL, 0) == SHMEMX_ERR_ARGUMENT,
          "expert rows after free");
    CHECK(shmemx_moe_destroy(moe) == 0, "destroy");
    CHECK(shmemx_moe_destroy(moe) == SHMEMX_ERR_ARGUMENT, "destroy twice");
    CHECK(shmemx_moe_info(moe, &info) == SHMEMX_ERR_ARGUMENT, "info after destroy");
    CHECK(shmemx_moe_dispatch(moe, in.x, 4, 0, in.idx, SHMEMX_INT64, NULL, &none) == SHMEMX_ERR_ARGUMENT,
          "dispatch after destroy");
    CHECK(shmemx_moe_combine(moe, handle, NULL) == SHMEMX_ERR_ARGUMENT, "combine after destroy");
    free_input(&in);
}

int main(void)
{
    pes_begin();
    shmemx_log_errors(0);
    for (int mode = 0; mode < 2; mode++) {
        one_fails(mode, 0);
        one_fails(mode, 1);
        out_of_step(mode);
    }
    overflow();
    saturation();
    nonfinite_sums();
    bad_configs();
    strangers();
    shmemx_log_errors(1);
    return pes_end();
}
