/* MoE dispatch and combine: scenes of every kind, many rounds in a row, teams. */
#include "base/node.h"
#include "moe_scene.h"

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
    CHECK(v.rows == 0 || shmemx_moe_rows(first, in.x, (ptrdiff_t)row_bytes(s)) == SHMEMX_ERR_ARGUMENT,
          "stale rows");
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

/* Many rounds with no barrier between them and every PE at its own pace: buffers must not be written too
 * early. */
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

/* A row crosses to a node once, however many of the PEs there want it; the others get what belongs to it. And one sum
 * comes back from there, with the weights of each. */
static void one_copy_a_node(void)
{
    enum { TOKENS = 5, K = 8 };
    struct scene s = {.c = plain_config(), .idx_type = SHMEMX_INT32};
    s.c.num_experts = npes; /* an expert a PE, and every token wants the first K */
    s.c.topk = npes < K ? npes : K;
    s.c.max_tokens = TOKENS;
    shmemx_moe_t *moe = create(&s);
    int32_t idx[TOKENS * K];
    for (int64_t i = 0; i < TOKENS * s.c.topk; i++)
        idx[i] = (int32_t)(i % s.c.topk);
    char *x = calloc(TOKENS, row_bytes(&s));
    shmemx_moe_handle_t *handle = NULL, *cached = NULL;
    int rc = shmemx_moe_dispatch(moe, x, (ptrdiff_t)row_bytes(&s), TOKENS, idx, SHMEMX_INT32, NULL, &handle);
    CHECK(rc == 0, "dispatch gives %d: %s", rc, shmemx_last_error());
    shmemx_moe_info_t info;
    (void)shmemx_moe_info(moe, &info);
    int64_t want = 0, want_cached = 0, whole = info.record_bytes, behind = whole - (int64_t)moe->ids_at;
    for (int pe = 0; pe < s.c.topk; pe++) {
        bool first = true;
        for (int before = 0; before < pe; before++)
            first &= shmemi_node.node_of[before] != shmemi_node.node_of[pe];
        bool there = shmemi_node.node_of[pe] == shmemi_node.my_node;
        want += pe == me ? 0 : there || first ? whole : behind;
        want_cached += pe == me ? 0 : there || first ? whole : 0;
    }
    CHECK(info.dispatch_bytes_remote == TOKENS * want, "%lld bytes, not %lld",
          (long long)info.dispatch_bytes_remote, (long long)(TOKENS * want));
    rc = shmemx_moe_dispatch_cached(moe, handle, x, (ptrdiff_t)row_bytes(&s), TOKENS, &cached);
    CHECK(rc == 0, "cached dispatch gives %d: %s", rc, shmemx_last_error());
    (void)shmemx_moe_info(moe, &info);
    CHECK(info.dispatch_bytes_remote == TOKENS * (want + want_cached), "%lld bytes, not %lld",
          (long long)info.dispatch_bytes_remote, (long long)(TOKENS * (want + want_cached)));
    shmemx_moe_received_t v;
    (void)shmemx_moe_received(handle, &v);
    size_t bytes = row_bytes(&s), weights = (size_t)s.c.topk * sizeof(float);
    char *y = calloc((size_t)v.rows + 1, bytes), *out = calloc(TOKENS, bytes);
    shmemx_moe_combine_t a = {.y = y,
                              .y_stride = (ptrdiff_t)bytes,
                              .y_rows = v.rows,
                              .topk_weights = v.topk_weights,
                              .out = out,
                              .out_stride = (ptrdiff_t)bytes};
    rc = shmemx_moe_combine(moe, handle, &a);
    CHECK(rc == 0, "combine gives %d: %s", rc, shmemx_last_error());
    (void)shmemx_moe_info(moe, &info);
    want = 0;
    bool sends = true; /* for its node */
    for (int before = 0; before < me; before++)
        sends &= shmemi_node.node_of[before] != shmemi_node.my_node;
    for (int pe = 0; pe < npes && me < s.c.topk; pe++)
        if (pe != me)
            want += (int64_t)weights +
                    (sends || shmemi_node.node_of[pe] == shmemi_node.my_node ? (int64_t)bytes : 0);
    CHECK(info.combine_bytes_remote == TOKENS * want, "%lld bytes back, not %lld",
          (long long)info.combine_bytes_remote, (long long)(TOKENS * want));
    free(y);
    free(out);
    (void)shmemx_moe_handle_free(handle);
    (void)shmemx_moe_handle_free(cached);
    free(x);
    (void)shmemx_moe_destroy(moe);
}

/* Rows of the ranks of a node are added in float32 before they are rounded for the way: two ranks that add 3/1024 to 1
 * are not lost in bfloat16, whose steps are 1/128 there. */
static void sums_of_a_node_are_float32(void)
{
    struct scene s = {.c = plain_config(), .idx_type = SHMEMX_INT32};
    s.c.type = SHMEMX_BFLOAT16;
    s.c.num_experts = s.c.topk = npes;
    s.c.max_tokens = 1;
    shmemx_moe_t *moe = create(&s);
    int32_t idx[npes];
    for (int i = 0; i < npes; i++)
        idx[i] = i;
    char *row = calloc(1, row_bytes(&s));
    shmemx_moe_handle_t *handle = NULL;
    int rc = shmemx_moe_dispatch(moe, row, 0, 1, idx, SHMEMX_INT32, NULL, &handle);
    CHECK(rc == 0, "dispatch gives %d: %s", rc, shmemx_last_error());
    float value[s.c.hidden];
    bool first = true; /* of its node: it adds 1 */
    for (int before = 0; before < me; before++)
        first &= shmemi_node.node_of[before] != shmemi_node.my_node;
    for (int64_t h = 0; h < s.c.hidden; h++)
        value[h] = first ? 1.0f : 3.0f / 1024;
    char *y = pes_private((size_t)npes * row_bytes(&s)), *out = pes_private(row_bytes(&s));
    for (int i = 0; i < npes; i++)
        narrow(&s, y + (size_t)i * row_bytes(&s), value);
    shmemx_moe_combine_t a = {.y = y,
                              .y_stride = (ptrdiff_t)row_bytes(&s),
                              .y_rows = npes,
                              .out = out,
                              .out_stride = (ptrdiff_t)row_bytes(&s)};
    rc = shmemx_moe_combine(moe, handle, &a);
    CHECK(rc == 0, "combine gives %d: %s", rc, shmemx_last_error());
    double want = 0;
    for (int node = 0; node < shmemi_node.nodes; node++) {
        double sum = 0;
        for (int pe = 0, seen = 0; pe < npes; pe++)
            if (shmemi_node.node_of[pe] == node)
                sum += seen++ ? 3.0 / 1024 : 1;
        float rounded = (float)sum; /* what travels is bfloat16, this node's own is not */
        char travels[row_bytes(&s)];
        for (int64_t h = 0; h < s.c.hidden; h++)
            value[h] = rounded;
        narrow(&s, travels, value);
        want += node == shmemi_node.my_node ? sum : (double)at(&s, travels, 0);
    }
    for (int64_t h = 0; h < s.c.hidden; h++)
        value[h] = (float)want;
    narrow(&s, y, value);
    CHECK(at(&s, out, 0) == at(&s, y, 0), "%g, not %g", (double)at(&s, out, 0), (double)at(&s, y, 0));
    free(row);
    free(y);
    free(out);
    (void)shmemx_moe_handle_free(handle);
    (void)shmemx_moe_destroy(moe);
}

int main(void)
{
    pes_begin();
    shmemx_log_errors(0);
    one_copy_a_node();
    sums_of_a_node_are_float32();
    all_scenes();
    in_a_row(SHMEMX_MOE_EXCHANGE);
    in_a_row(SHMEMX_MOE_WORST_CASE);
    teams();
    shmemx_log_errors(1);
    return pes_end();
}
