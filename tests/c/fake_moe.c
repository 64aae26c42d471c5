/* The host's part of MoE on GPUs without one: creating and destroying the objects of shmemx_moe_gpu.h and
 * shmemx_moe_ll.h. Their calls: fake_moe_calls.c. */
#define _GNU_SOURCE
#include "fake_moe.h"

/* A field of a configuration: where, another value that is right, and some that are not. */
struct field {
    const char *name;
    size_t offset;
    bool wide;
    int64_t other, wrong[3]; /* 0 as a wrong value: no more */
};
#define FIELD(type, name, wide, ...) {#name, offsetof(type, name), wide, __VA_ARGS__}
#define GPU(...) FIELD(shmemx_moe_gpu_config_t, __VA_ARGS__)
#define LL(...) FIELD(shmemx_moe_ll_config_t, __VA_ARGS__)
static const struct field gpu_fields[] = {
    GPU(results, false, 3, {-1, 65}),
    GPU(group, false, 64, {5, 256, -1}),
    GPU(hidden, true, 512, {-8, 12, (1 << 20) + 8}),
    GPU(num_experts, true, 8, {-1, (1 << 24) + 1}),
    GPU(topk, true, 3, {-1, 33}),
    GPU(max_tokens, true, 33, {-1, INT32_MAX, (int64_t)1 << 40}),
    GPU(capacity, true, 65, {-1, INT32_MAX}),
    GPU(pes_per_node, false, 1, {-1, 65}),
    GPU(max_nodes, false, 3, {-1, 65}),
};
static const struct field ll_fields[] = {
    LL(format, false, SHMEMX_MOE_GPU_INT8, {-1, SHMEMX_MOE_GPU_BYTES}),
    LL(combine_format, false, SHMEMX_MOE_GPU_INT8, {-1, SHMEMX_MOE_GPU_FP8}),
    LL(group, false, 0, {5, 256, -1}),
    LL(ue8m0, false, 1, {2, -1}),
    LL(hidden, true, 512, {-8, 12, 1 << 20}),
    LL(num_experts, true, 8, {-1, 65536}),
    LL(topk, true, 3, {-1, 33}),
    LL(max_tokens, true, 33, {-1, 1025}),
};

static int64_t get(const void *config, const struct field *f)
{
    int narrow = 0;
    int64_t value = 0;
    memcpy(f->wide ? (void *)&value : (void *)&narrow, (const char *)config + f->offset,
           f->wide ? sizeof value : sizeof narrow);
    return f->wide ? value : narrow;
}
static void set(void *config, const struct field *f, int64_t value)
{
    int narrow = (int)value;
    memcpy((char *)config + f->offset, f->wide ? (void *)&value : (void *)&narrow,
           f->wide ? sizeof value : sizeof narrow);
}

typedef union {
    shmemx_moe_gpu_config_t gpu;
    shmemx_moe_ll_config_t ll;
} config_t;
struct kind {
    const char *name;
    const struct field *fields;
    size_t nfields;
    void *object;
};
static config_t config_of(const struct kind *k)
{
    config_t c = {.gpu = {0}};
    if (k->fields == gpu_fields)
        c.gpu = gpu_config();
    else
        c.ll = ll_config();
    return c;
}
static int create(struct kind *k, const config_t *c)
{
    k->object = (void *)k;
    return k->fields == gpu_fields ? shmemx_moe_gpu_create(&c->gpu, (shmemx_moe_gpu_t **)&k->object)
                                   : shmemx_moe_ll_create(&c->ll, (shmemx_moe_ll_t **)&k->object);
}
static int destroy(struct kind *k)
{
    return k->fields == gpu_fields ? shmemx_moe_gpu_destroy(k->object) : shmemx_moe_ll_destroy(k->object);
}

/* A create that fails: on `culprit` by `code` and `text`, on the others by a MISMATCH that names it. */
static void fails(struct kind *k, const config_t *c, int culprit, int code, const char *text)
{
    char other[24];
    snprintf(other, sizeof other, "PE %d could not", culprit);
    int rc = create(k, c);
    const char *wanted = me == culprit ? text : other;
    CHECK(rc == (me == culprit ? code : SHMEMX_ERR_MISMATCH) && strstr(shmemx_last_error(), wanted),
          "%s: gave %d, wanted \"%s\": %s", k->name, rc, wanted, shmemx_last_error());
    CHECK(k->object == NULL, "%s: an object in spite of an error", k->name);
}

static void test_create(struct kind *k)
{
    shmemx_log_errors(0);
    for (size_t i = 0; i < k->nfields; ++i) {
        const struct field *f = &k->fields[i];
        char text[120];
        config_t c = config_of(k);
        for (int w = 0; w < 3 && (w == 0 || f->wrong[w]); ++w) {
            snprintf(text, sizeof text, "%s is %lld, must be", f->name, (long long)f->wrong[w]);
            set(&c, f, me == last ? f->wrong[w] : get(&c, f));
            fails(k, &c, last, SHMEMX_ERR_ARGUMENT, text);
            c = config_of(k);
        }
        snprintf(text, sizeof text, "%s is %lld on PE 0 and %lld on PE %d", f->name, (long long)get(&c, f),
                 (long long)f->other, last);
        if (me == last)
            set(&c, f, f->other);
        int rc = create(k, &c);
        if (npes == 1) {
            CHECK(rc == 0 && destroy(k) == 0, "%s: %s", text, shmemx_last_error());
            continue;
        }
        CHECK(rc == SHMEMX_ERR_MISMATCH && strstr(shmemx_last_error(), text), "%s: gave %d, not \"%s\": %s",
              k->name, rc, text, shmemx_last_error());
    }
    config_t c = config_of(k);
    shmem_team_t *team = k->fields == gpu_fields ? &c.gpu.team : &c.ll.team;
    if (npes > 1) { /* it is in the team, and gives another one */
        *team = me == last ? SHMEM_TEAM_INVALID : *team;
        int rc = create(k, &c);
        CHECK(rc == SHMEMX_ERR_MISMATCH && strstr(shmemx_last_error(), "members, "), "%s: gave %d: %s",
              k->name, rc, shmemx_last_error());
    }
    *team = me == last ? (shmem_team_t)(uintptr_t)0x7777 : SHMEM_TEAM_WORLD;
    fails(k, &c, last, SHMEMX_ERR_TEAM, "team");
    shmemx_log_errors(1);
}

/* The last PE is outside the team; with 1 PE all is. */
static void test_outside(struct kind *k)
{
    shmem_team_t some = SHMEM_TEAM_INVALID;
    config_t c = config_of(k);
    if (npes > 1)
        CHECK(shmem_team_split_strided(SHMEM_TEAM_WORLD, 0, 1, npes - 1, NULL, 0, &some) == 0, "split");
    *(k->fields == gpu_fields ? &c.gpu.team : &c.ll.team) = me == last ? SHMEM_TEAM_INVALID : some;
    if (k->fields == gpu_fields && npes > 1)
        c.gpu.capacity = c.gpu.pes_per_node = 0;
    int rc = create(k, &c);
    if (!CHECK(rc == 0, "%s: gave %d: %s", k->name, rc, shmemx_last_error()))
        return;
    shmemx_log_errors(0);
    shmemx_moe_gpu_info_t g = {0};
    shmemx_moe_ll_info_t l = {0};
    shmemx_moe_gpu_dispatch_t gd = {.routing = memory};
    shmemx_moe_ll_dispatch_t ld = {.idx_type = SHMEMX_INT64, .recv_x = memory};
    uint64_t dead;
    bool normal = k->fields == gpu_fields;
    if (me == last) {
        REFUSED(normal ? shmemx_moe_gpu_info(k->object, &g) : shmemx_moe_ll_info(k->object, &l), TEAM,
                "no member");
        REFUSED(normal ? shmemx_moe_gpu_dispatch(k->object, &gd, NULL)
                       : shmemx_moe_ll_dispatch(k->object, &ld, SHMEMX_MOE_LL_SEND, NULL),
                TEAM, "no member");
        REFUSED(normal ? shmemx_moe_gpu_counts(k->object, 0, NULL, NULL)
                       : shmemx_moe_ll_dead(k->object, &dead),
                TEAM, "no member");
    } else {
        rc = normal ? shmemx_moe_gpu_info(k->object, &g) : shmemx_moe_ll_info(k->object, &l);
        CHECK(rc == 0 && (normal ? g.ranks : l.ranks) == npes - 1, "%s: %d", k->name, rc);
    }
    shmemx_log_errors(1);
    CHECK(destroy(k) == 0, "%s", shmemx_last_error());
    if (npes > 1 && me != last)
        shmem_team_destroy(some);
    shmem_barrier_all();
}

static void test_nothing(void)
{
    shmemx_moe_gpu_config_t g = gpu_config();
    shmemx_moe_ll_config_t l = ll_config();
    shmemx_moe_gpu_t *moe;
    shmemx_moe_ll_t *ll;
    shmemx_log_errors(0);
    REFUSED(shmemx_moe_gpu_create(NULL, &moe), ARGUMENT, "config is NULL");
    REFUSED(shmemx_moe_gpu_create(&g, NULL), ARGUMENT, "moe is NULL");
    REFUSED(shmemx_moe_ll_create(NULL, &ll), ARGUMENT, "config is NULL");
    REFUSED(shmemx_moe_ll_create(&l, NULL), ARGUMENT, "moe is NULL");
    REFUSED(shmemx_moe_gpu_destroy((void *)memory), ARGUMENT, "destroyed already?");
    REFUSED(shmemx_moe_ll_destroy(NULL), ARGUMENT, "destroyed already?");
    /* larger than the device, than shared memory */
    g.hidden = 1 << 20;
    g.max_tokens = 1 << 16;
    g.capacity = 0;
    REFUSED(shmemx_moe_gpu_create(&g, &moe), NO_MEMORY, "");
    l.hidden = (1 << 20) - 8;
    REFUSED(shmemx_moe_ll_create(&l, &ll), UNSUPPORTED, "bytes of shared memory");
    shmemx_log_errors(1);
}

/* 0 is the default, and agrees with it said. */
static void test_defaults(void)
{
    shmemx_moe_gpu_config_t c = gpu_config();
    shmemx_moe_gpu_info_t info = {0};
    shmemx_moe_gpu_t *moe;
    c.results = me == last ? 0 : 2;
    c.group = me == last ? 0 : 128;
    c.capacity = me == last ? 0 : npes * c.max_tokens;
    CHECK(shmemx_moe_gpu_create(&c, &moe) == 0 && shmemx_moe_gpu_info(moe, &info) == 0, "%s",
          shmemx_last_error());
    CHECK(info.results == 2 && info.max_groups == 2 && info.capacity == npes * c.max_tokens, "%d, %lld, %lld",
          info.results, (long long)info.max_groups, (long long)info.capacity);
    CHECK(shmemx_moe_gpu_destroy(moe) == 0, "%s", shmemx_last_error());
}

/* ---- objects that are no more ---------------------------------------------------------------------------------- */

static void gone(shmemx_moe_gpu_t *moe, shmemx_moe_ll_t *ll, int code, const char *text)
{
    shmemx_moe_gpu_info_t info;
    shmemx_moe_ll_info_t ll_info;
    shmemx_moe_gpu_result_t result;
    shmemx_moe_gpu_dispatch_t d = {.routing = memory};
    shmemx_moe_gpu_combine_t c = {.routing = memory};
    shmemx_moe_ll_dispatch_t ld = {HANDLE};
    shmemx_moe_ll_combine_t lc = {HANDLE};
    uint64_t dead;
    const int found[] = {shmemx_moe_gpu_info(moe, &info),
                         shmemx_moe_gpu_result(moe, 0, &result),
                         (int)shmemx_moe_gpu_routing_bytes(moe, 1),
                         shmemx_moe_gpu_layout(moe, NULL, 0, 0, memory, NULL, NULL, NULL, NULL),
                         shmemx_moe_gpu_dispatch(moe, &d, NULL),
                         shmemx_moe_gpu_counts(moe, 0, NULL, NULL),
                         shmemx_moe_gpu_combine(moe, &c, NULL),
                         shmemx_moe_ll_info(ll, &ll_info),
                         shmemx_moe_ll_dispatch(ll, &ld, BOTH, NULL),
                         shmemx_moe_ll_combine(ll, &lc, BOTH, NULL),
                         shmemx_moe_ll_dead(ll, &dead),
                         shmemx_moe_ll_mask(ll, 0)};
    for (size_t i = 0; i < sizeof found / sizeof *found; ++i)
        CHECK(found[i] == code, "%s: call %zu gave %d", text, i, found[i]);
    CHECK(strstr(shmemx_last_error(), text), "no \"%s\" in: %s", text, shmemx_last_error());
}

static void test_destroyed(void)
{
    shmemx_moe_gpu_config_t g = gpu_config();
    shmemx_moe_ll_config_t l = ll_config();
    shmemx_moe_gpu_t *moe = NULL;
    shmemx_moe_ll_t *ll = NULL;
    CHECK(shmemx_moe_gpu_create(&g, &moe) == 0 && shmemx_moe_ll_create(&l, &ll) == 0, "%s",
          shmemx_last_error());
    CHECK(shmemx_moe_gpu_destroy(moe) == 0 && shmemx_moe_ll_destroy(ll) == 0, "%s", shmemx_last_error());
    shmemx_log_errors(0);
    gone(moe, ll, SHMEMX_ERR_ARGUMENT, "destroyed already?");
    REFUSED(shmemx_moe_gpu_destroy(moe), ARGUMENT, "destroyed already?");
    REFUSED(shmemx_moe_ll_destroy(ll), ARGUMENT, "destroyed already?");
    shmemx_log_errors(1);
}

/* Objects that outlive their job. */
static void test_after_the_job(void)
{
    shmemx_moe_gpu_config_t g = gpu_config();
    shmemx_moe_ll_config_t l = ll_config();
    shmemx_moe_gpu_t *moe = NULL, *none;
    shmemx_moe_ll_t *ll = NULL;
    CHECK(shmemx_moe_gpu_create(&g, &moe) == 0 && shmemx_moe_ll_create(&l, &ll) == 0, "%s",
          shmemx_last_error());
    shmem_finalize();
    shmemx_log_errors(0);
    gone(moe, ll, SHMEMX_ERR_NOT_INITIALIZED, "init");
    REFUSED(shmemx_moe_gpu_create(&g, &none), NOT_INITIALIZED, "init");
    start();
    shmemx_log_errors(0);
    gone(moe, ll, SHMEMX_ERR_ARGUMENT, "of this job");
    shmemx_log_errors(1);
    CHECK(shmemx_moe_gpu_destroy(moe) == 0 && shmemx_moe_ll_destroy(ll) == 0, "%s", shmemx_last_error());
    shmem_finalize();
}

int main(void)
{
    struct kind kinds[] = {{"gpu", gpu_fields, sizeof gpu_fields / sizeof *gpu_fields, NULL},
                           {"ll", ll_fields, sizeof ll_fields / sizeof *ll_fields, NULL}};
    if (!on_the_fake_driver())
        return check_done();
    start();
    for (size_t i = 0; i < 2; ++i) {
        test_create(&kinds[i]);
        test_outside(&kinds[i]);
    }
    test_nothing();
    test_defaults();
    test_destroyed();
    test_after_the_job();
    return check_done();
}
