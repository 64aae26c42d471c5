/* MoE on GPUs, large batches (shmemx_moe_gpu.h): objects, checks, launches. The work is in gpu/moe_normal*.cuh. */
#include "shmemx_moe_gpu.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/wait.h"
#include "gpu/moe_normal_shape.h"
#include "moe_agree.h"
#include "stream.h"

/* BLOCKS: 24 SMs' copy engines give three times what NVLink takes, and their warps keep up with quantizing. */
enum { MAX_RESULTS = 64, MAX_TOPK = 32, BLOCKS = 24, MAX_BLOCKS = 128, WARPS = 16, THREADS_A_WARP = 32 };

struct shmemx_moe_gpu {
    struct shmemi_moe_object base;
    shmemx_moe_gpu_config_t c;
    int ranks, me; /* ranks 0: this PE is no member and only holds its share of the heap */
    struct shmemi_moen object;
    struct shmemi_moen_result result[MAX_RESULTS];
    uint64_t *host;                /* pinned: [results][1 + most] */
    unsigned tickets[MAX_RESULTS]; /* of the last dispatch into each; 0 = none */
    unsigned ticket;
    shmemx_moe_gpu_info_t info;
};

static struct shmemi_moe_list objects = {.lock = PTHREAD_MUTEX_INITIALIZER, .what = "MoE object"};

/* The object, if it lives and this PE is a member; else NULL, *rc set and logged. */
static struct shmemx_moe_gpu *find(const char *call, struct shmemx_moe_gpu *moe, int *rc)
{
    *rc = shmemi_moe_check(&objects, call, (const struct shmemi_moe_object *)moe);
    if (*rc == 0 && moe->ranks == 0)
        *rc = shmemi_fail(SHMEMX_ERR_TEAM, call, "this PE is no member of the object's team");
    return *rc ? NULL : moe;
}

/* ---- create, destroy ------------------------------------------------------------------------------------- */

static int bad(const char *call, const char *name, int64_t value, const char *want)
{
    return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "%s is %lld, must be %s", name, (long long)value, want);
}

static bool is_group(int64_t group)
{
    return group == 32 || group == 64 || group == 128;
}

static int check_config(const char *call, const shmemx_moe_gpu_config_t *c, int ranks)
{
    if (ranks > SHMEMI_MOEN_MAX_RANKS)
        return bad(call, "members of the team", ranks, "64 at most");
    if (c->results < 1 || c->results > MAX_RESULTS)
        return bad(call, "results", c->results, "1 to 64, or 0 = 2");
    if (!is_group(c->group))
        return bad(call, "group", c->group, "32, 64, 128 or 0 = 128");
    if (c->hidden < 8 || c->hidden > 1 << 20 || c->hidden % 8)
        return bad(call, "hidden", c->hidden, "8 to 2^20, a multiple of 8");
    if (c->num_experts < 1 || c->num_experts > 1 << 24)
        return bad(call, "num_experts", c->num_experts, "1 to 2^24");
    if (c->topk < 1 || c->topk > MAX_TOPK)
        return bad(call, "topk", c->topk, "1 to 32");
    /* row numbers are int32, ranks * max_tokens * topk as well */
    if (c->max_tokens < 1 || c->max_tokens > INT32_MAX / (ranks * c->topk))
        return bad(call, "max_tokens", c->max_tokens, "positive, with ranks * max_tokens * topk below 2^31");
    if (c->capacity < 1 || c->capacity > SHMEMI_MOEN_MOST_ROWS / c->topk)
        return bad(call, "capacity", c->capacity,
                   "positive, with capacity * topk below 2^31, or 0 = ranks * max_tokens");
    return SHMEMX_SUCCESS;
}

static int prepare(const char *call, const shmemx_moe_gpu_config_t *config, struct shmemx_moe_gpu *m)
{
    shmemx_moe_gpu_config_t *c = &m->c;
    *c = *config;
    m->ranks = shmem_team_n_pes(c->team);
    m->me = shmem_team_my_pe(c->team);
    if (m->ranks < 1 || m->me < 0)
        return shmemi_fail(SHMEMX_ERR_TEAM, call,
                           "team %p is not valid here; PEs of no team give SHMEM_TEAM_INVALID",
                           (void *)c->team);
    c->results = c->results ? c->results : 2;
    c->group = c->group ? c->group : 128;
    if (c->capacity == 0)
        c->capacity = c->max_tokens < 1 || c->max_tokens > INT32_MAX ? 1 : m->ranks * c->max_tokens;
    return check_config(call, c, m->ranks);
}

/* Places from `base` on, which is 0 when only the size is wanted. */
static uint64_t lay_out(struct shmemx_moe_gpu *m, uint64_t base)
{
    const shmemx_moe_gpu_config_t *c = &m->c;
    unsigned ranks = (unsigned)m->ranks, groups = shmemi_moen_groups((unsigned)c->hidden, (unsigned)c->group);
    struct shmemi_moen *o = &m->object;
    o->hidden = (unsigned)c->hidden;
    o->experts = (unsigned)c->num_experts;
    o->topk = (unsigned)c->topk;
    o->max_tokens = (unsigned)c->max_tokens;
    o->capacity = (unsigned)c->capacity;
    o->most = (o->experts + ranks - 1) / ranks;
    uint64_t end = shmemi_moen_lay_out(o, ranks, groups, base);
    for (int i = 0; i < c->results; ++i)
        end = shmemi_moen_lay_out_result(&m->result[i], o, ranks, groups, end);
    int64_t each = c->num_experts / ranks, more = c->num_experts % ranks;
    m->info = (shmemx_moe_gpu_info_t){
        .ranks = m->ranks,
        .rank = m->me,
        .results = c->results,
        .blocks = BLOCKS,
        .first_expert = m->me * each + (m->me < more ? m->me : more),
        .local_experts = each + (m->me < more),
        .capacity = c->capacity,
        .max_groups = groups,
        .heap_bytes = (int64_t)(end - base),
    };
    return end - base;
}

/* There is memory, all zero. */
static int ready(const char *call, void *object, void *block)
{
    struct shmemx_moe_gpu *m = object;
    int slot = shmemx_team_device(m->c.team);
    if (slot < 0)
        return slot;
    lay_out(m, (uintptr_t)block);
    m->object.team = (unsigned)slot;
    size_t words = 1 + m->object.most, bytes = (size_t)m->c.results * words * sizeof *m->host;
    void *host;
    int rc = shmemi_gpu_host_alloc(call, bytes, &host);
    if (rc)
        return rc;
    memset(host, 0, bytes);
    m->host = host;
    for (int i = 0; i < m->c.results; ++i)
        m->result[i].host = (uintptr_t)(m->host + (size_t)i * words);
    return SHMEMX_SUCCESS;
}

static void make_offer(const struct shmemx_moe_gpu *m, int error, struct shmemi_moe_offer *offer,
                       uint64_t bytes)
{
    const shmemx_moe_gpu_config_t *c = &m->c;
    int world[SHMEMI_MOEN_MAX_RANKS];
    for (int r = 0; r < m->ranks; ++r)
        world[r] = shmem_team_translate_pe(c->team, r, SHMEM_TEAM_WORLD);
    *offer = (struct shmemi_moe_offer){
        .error = error,
        .bytes = (int64_t)bytes,
        .fields = {c->results, c->group, c->hidden, c->num_experts, c->topk, c->max_tokens, c->capacity},
    };
    shmemi_moe_offer_team(offer, world, m->ranks);
}

static void release(struct shmemx_moe_gpu *m)
{
    if (m && m->host)
        shmemi_gpu_host_free(m->host);
    free(m);
}

int shmemx_moe_gpu_create(const shmemx_moe_gpu_config_t *config, shmemx_moe_gpu_t **moe)
{
    static const char *const names[] = {"results", "group",      "hidden",  "num_experts",
                                        "topk",    "max_tokens", "capacity"};
    const char *call = "shmemx_moe_gpu_create";
    SHMEMI_REQUIRE_INIT(call);
    int error = SHMEMX_SUCCESS;
    struct shmemx_moe_gpu *m = NULL;
    struct shmemi_moe_offer offer = {0};
    if (moe == NULL || config == NULL)
        error = shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "%s is NULL", moe ? "config" : "moe");
    else if ((m = calloc(1, sizeof *m)) == NULL)
        error = shmemi_fail(SHMEMX_ERR_NO_MEMORY, call, "%zu bytes of private memory", sizeof *m);
    else if (config->team != SHMEM_TEAM_INVALID && (error = prepare(call, config, m)) == 0)
        make_offer(m, 0, &offer, lay_out(m, 0));
    if (error)
        offer = (struct shmemi_moe_offer){.error = error};
    if (moe)
        *moe = NULL;
    struct shmemi_moe_creation how = {call, names, sizeof names / sizeof *names, SHMEMX_MEM_DEVICE, ready, m};
    void *block = NULL;
    int rc = shmemi_moe_create(&how, &offer, &block);
    if (rc == 0 && error)
        rc = error;
    if (rc) {
        release(m);
        return rc;
    }
    shmemi_moe_enlist(&objects, &m->base, block);
    *moe = m;
    return SHMEMX_SUCCESS;
}

int shmemx_moe_gpu_destroy(shmemx_moe_gpu_t *moe)
{
    int rc;
    if (!shmemi_moe_dismiss(&objects, "shmemx_moe_gpu_destroy", (struct shmemi_moe_object *)moe, &rc))
        return rc;
    if (shmemi_world.npes == 0 || moe->base.job != shmemi_world.jobs)
        moe->host = NULL; /* went with the job, as the GPU's memory */
    release(moe);
    return rc;
}

/* ---- what it is -------------------------------------------------------------------------------------------- */

int shmemx_moe_gpu_info(shmemx_moe_gpu_t *moe, shmemx_moe_gpu_info_t *info)
{
    const char *call = "shmemx_moe_gpu_info";
    int rc;
    if (!find(call, moe, &rc))
        return rc;
    if (info == NULL)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "info is NULL");
    *info = moe->info;
    return SHMEMX_SUCCESS;
}

static int check_result(const char *call, const struct shmemx_moe_gpu *m, int i)
{
    if (i >= 0 && i < m->c.results)
        return SHMEMX_SUCCESS;
    return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "result is %d, must be 0 to %d", i, m->c.results - 1);
}

static void *pointer(uint64_t address)
{
    return (void *)(uintptr_t)address;
}

int shmemx_moe_gpu_result(shmemx_moe_gpu_t *moe, int i, shmemx_moe_gpu_result_t *result)
{
    const char *call = "shmemx_moe_gpu_result";
    int rc;
    if (!find(call, moe, &rc) || (rc = check_result(call, moe, i)) != 0)
        return rc;
    if (result == NULL)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "result is NULL");
    const struct shmemi_moen_result *r = &moe->result[i];
    *result = (shmemx_moe_gpu_result_t){
        .x = pointer(r->x),
        .scales = pointer(r->scales),
        .topk_idx = pointer(r->topk_idx),
        .topk_weights = pointer(r->topk_weights),
        .source_token = pointer(r->source_token),
        .rows = pointer(r->rows),
        .per_expert = pointer(r->per_expert),
        .per_source = pointer(r->per_source),
    };
    return SHMEMX_SUCCESS;
}

static int check_tokens(const char *call, const struct shmemx_moe_gpu *m, int64_t tokens)
{
    if (tokens >= 0 && tokens <= m->c.max_tokens)
        return SHMEMX_SUCCESS;
    return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "tokens is %lld, must be 0 to max_tokens = %lld",
                       (long long)tokens, (long long)m->c.max_tokens);
}

int64_t shmemx_moe_gpu_routing_bytes(shmemx_moe_gpu_t *moe, int64_t tokens)
{
    const char *call = "shmemx_moe_gpu_routing_bytes";
    int rc;
    if (!find(call, moe, &rc) || (rc = check_tokens(call, moe, tokens)) != 0)
        return rc;
    return (int64_t)shmemi_moen_routing_size(&moe->object, (unsigned)moe->ranks, (uint64_t)tokens);
}

/* ---- checks ---------------------------------------------------------------------------------------------------- */

/* Not NULL, and aligned. */
static int check_pointer(const char *call, const char *name, const void *p, unsigned alignment)
{
    if (p != NULL && (uintptr_t)p % alignment == 0)
        return SHMEMX_SUCCESS;
    return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "%s is %p, must be aligned to %u bytes, not NULL", name, p,
                       alignment);
}

/* Rows of `bytes`, 16-byte aligned; *stride 0 becomes that. */
static int check_rows(const char *call, const char *name, const void *p, ptrdiff_t given, unsigned bytes,
                      shmemi_moen_u64 *stride)
{
    *stride = given ? (uint64_t)given : bytes;
    if (given < 0 || *stride < bytes || *stride % 16)
        return shmemi_fail(
            SHMEMX_ERR_ARGUMENT, call,
            "rows of %s are %lld bytes apart, must be a multiple of 16 and at least the row's %u", name,
            (long long)given, bytes);
    return check_pointer(call, name, p, 16);
}

static int check_ids(const char *call, const void *topk_idx, int idx_type, unsigned *wide)
{
    if (idx_type != SHMEMX_INT32 && idx_type != SHMEMX_INT64)
        return bad(call, "idx_type", idx_type, "SHMEMX_INT64 or SHMEMX_INT32");
    *wide = idx_type == SHMEMX_INT64;
    return check_pointer(call, "topk_idx", topk_idx, *wide ? 8 : 4);
}

static int check_group(const char *call, const struct shmemx_moe_gpu *m, int group, unsigned *columns,
                       unsigned *groups)
{
    if (group != 0 && !is_group(group))
        return bad(call, "group", group, "32, 64, 128, or 0 = the whole row");
    *columns = group ? (unsigned)group : m->object.hidden;
    *groups = shmemi_moen_groups(m->object.hidden, (unsigned)group);
    if (*groups > m->info.max_groups)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call,
                           "a group of %d columns: the object was made for %d or more", group, m->c.group);
    return SHMEMX_SUCCESS;
}

static int check_blocks(const char *call, int blocks, unsigned *n)
{
    *n = blocks ? (unsigned)blocks : BLOCKS;
    return blocks < 0 || blocks > MAX_BLOCKS ? bad(call, "blocks", blocks, "1 to 128, or 0 = 24")
                                             : SHMEMX_SUCCESS;
}

/* What kernels of this PE have reported stays for shmemx_stream_check: a call that stopped for it on this PE alone would
 * let the other ranks wait. */
static struct shmemx_moe_gpu *enter(const char *call, shmemx_moe_gpu_t *moe, const void *args, int64_t tokens,
                                    int *rc)
{
    struct shmemx_moe_gpu *m = find(call, moe, rc);
    if (m == NULL || (*rc = check_tokens(call, m, tokens)) != 0)
        return NULL;
    if (args == NULL)
        *rc = shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "args is NULL");
    return *rc ? NULL : m;
}

/* ---- layout -------------------------------------------------------------------------------------------------- */

int shmemx_moe_gpu_layout(shmemx_moe_gpu_t *moe, const void *topk_idx, int idx_type, int64_t tokens,
                          void *routing, int32_t *num_tokens_per_rank, int32_t *num_tokens_per_expert,
                          uint8_t *is_token_in_rank, void *stream)
{
    const char *call = "shmemx_moe_gpu_layout";
    int rc;
    struct shmemx_moe_gpu *m = enter(call, moe, call, tokens, &rc);
    struct shmemi_moen_layout a = {0};
    if (m == NULL || (tokens && (rc = check_ids(call, topk_idx, idx_type, &a.wide)) != 0) ||
        (routing && (rc = check_pointer(call, "routing", routing, 16)) != 0))
        return rc;
    a.idx = (uintptr_t)topk_idx;
    a.routing = (uintptr_t)routing;
    a.per_rank = (uintptr_t)num_tokens_per_rank;
    a.per_expert = (uintptr_t)num_tokens_per_expert;
    a.in_rank = (uintptr_t)is_token_in_rank;
    a.tokens = (unsigned)tokens;
    unsigned threads = tokens > 256 ? 1024 : 256;
    void *arguments[] = {&m->object, &a};
    return shmemi_gpu_kernel_shared(call, SHMEMI_K_MOE_LAYOUT, (unsigned)m->ranks + 1, threads,
                                    shmemi_moen_layout_shared(threads, m->object.experts), arguments, stream);
}

/* ---- dispatch ------------------------------------------------------------------------------------------------ */

/* The rows and their scales. */
static int check_x(const char *call, const struct shmemx_moe_gpu *m, const shmemx_moe_gpu_dispatch_t *d,
                   struct shmemi_moen_dispatch *a)
{
    int rc = SHMEMX_SUCCESS;
    unsigned h = m->object.hidden;
    bool bytes = d->format == SHMEMX_MOE_GPU_BYTES, bf16 = d->format == SHMEMX_MOE_GPU_BF16;
    if (d->format < SHMEMX_MOE_GPU_BF16 || d->format > SHMEMX_MOE_GPU_BYTES)
        return bad(call, "format", d->format, "one of enum shmemx_moe_gpu_format");
    if (!bf16 && h % 16)
        return bad(call, "hidden", h, "a multiple of 16 where rows travel with 1 byte a column");
    a->format = (unsigned)d->format;
    a->ue8m0 = d->ue8m0 != 0;
    a->group = h;
    if (!bf16 && !bytes && (rc = check_group(call, m, d->group, &a->group, &a->groups)) != 0)
        return rc;
    if (d->tokens)
        rc = check_rows(call, "x", d->x, d->x_stride, bytes ? h : 2 * h, &a->x_stride);
    if (rc || !bytes)
        return rc;
    if (d->x_groups < 0 || d->x_groups > m->info.max_groups)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call,
                           "x_groups is %d, must be 0 to %lld, as the object was made for", d->x_groups,
                           (long long)m->info.max_groups);
    a->groups = (unsigned)d->x_groups;
    if (a->groups == 0 || d->tokens == 0)
        return SHMEMX_SUCCESS;
    a->x_scales = (uintptr_t)d->x_scales;
    a->x_scales_row = d->x_scales_stride ? (uint64_t)d->x_scales_stride : 4ull * a->groups;
    a->x_scales_column = d->x_scales_column_stride ? (uint64_t)d->x_scales_column_stride : 4;
    if (d->x_scales_stride % 4 || d->x_scales_column_stride % 4)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call,
                           "strides of x_scales are %td and %td bytes, must be multiples of 4",
                           d->x_scales_stride, d->x_scales_column_stride);
    a->bulk_scales = a->x_scales_column == 4 && (a->x_scales | a->x_scales_row | 4ull * a->groups) % 16 == 0;
    return check_pointer(call, "x_scales", d->x_scales, 4);
}

int shmemx_moe_gpu_dispatch(shmemx_moe_gpu_t *moe, const shmemx_moe_gpu_dispatch_t *args, void *stream)
{
    const char *call = "shmemx_moe_gpu_dispatch";
    const shmemx_moe_gpu_dispatch_t *d = args;
    int rc;
    struct shmemx_moe_gpu *m = enter(call, moe, args, args ? args->tokens : 0, &rc);
    struct shmemi_moen_dispatch a = {0};
    unsigned blocks;
    if (m == NULL || (rc = check_result(call, m, d->result)) != 0 ||
        (rc = check_pointer(call, "routing", d->routing, 16)) != 0 || (rc = check_x(call, m, d, &a)) != 0 ||
        (rc = check_blocks(call, d->blocks, &blocks)) != 0)
        return rc;
    bool ids = (d->topk_idx || (d->tokens == 0 && d->topk_weights)) && !d->cached;
    if (ids && d->tokens && (rc = check_ids(call, d->topk_idx, d->idx_type, &a.wide)) != 0)
        return rc;
    if (!ids && d->topk_weights && !d->cached)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "topk_weights travel with topk_idx, which is NULL");
    if (d->expert_alignment < 0 || d->expert_alignment > 1 << 20)
        return bad(call, "expert_alignment", d->expert_alignment, "1 to 2^20, or 0 = 1");
    a.result = m->result[d->result];
    a.routing = (uintptr_t)d->routing;
    a.x = (uintptr_t)d->x;
    a.idx = ids ? (uintptr_t)d->topk_idx : 0;
    a.weights = ids ? (uintptr_t)d->topk_weights : 0;
    a.tokens = (unsigned)d->tokens;
    a.cached = d->cached != 0;
    a.worst_case = d->worst_case != 0;
    a.alignment = d->expert_alignment ? (unsigned)d->expert_alignment : 1;
    /* ranks without tokens need not say what would travel */
    a.what = (unsigned)d->result | a.cached << 6 | a.format << 7 | a.groups << 9;
    unsigned shared =
        shmemi_moen_shape_dispatch(&a, &m->object, (unsigned)m->ranks, shmemi_gpu_bulk_bytes(), WARPS);
    a.ticket = ++m->ticket ? m->ticket : ++m->ticket; /* never 0 */
    void *arguments[] = {&m->object, &a};
    rc = shmemi_gpu_kernel_shared(call, SHMEMI_K_MOE_DISPATCH, blocks, a.pipe.warps * THREADS_A_WARP, shared,
                                  arguments, stream);
    if (rc == 0)
        m->tickets[d->result] = a.ticket;
    return rc;
}

/* Why a dispatch received nothing. The kernel's own report says more, if it is the one in the mailbox; another one stays
 * there for shmemx_stream_check. */
static int nothing_came(const char *call, const struct shmemx_moe_gpu *m, uint32_t problem)
{
    const struct shmemx_device_error *report = pointer(shmemi_gpu_state()->mailbox);
    unsigned kind = problem == SHMEMI_MOEN_NO_ROOM   ? SHMEMX_DEVICE_LIMIT
                    : problem == SHMEMI_MOEN_NO_PEER ? SHMEMX_DEVICE_TIMEOUT
                                                     : SHMEMX_DEVICE_MISMATCH;
    /* relaxed: only asked what it is; shmemi_gpu_mailbox acquires */
    int rc =
        __atomic_load_n(&report->kind, __ATOMIC_RELAXED) == kind ? shmemi_gpu_mailbox(call) : SHMEMX_SUCCESS;
    if (rc)
        return rc;
    if (kind == SHMEMX_DEVICE_LIMIT)
        return shmemi_fail(SHMEMX_ERR_LIMIT, call,
                           "some rank was to receive more rows than its capacity, %lld",
                           (long long)m->c.capacity);
    if (kind == SHMEMX_DEVICE_TIMEOUT)
        return shmemi_fail(SHMEMX_ERR_TIMEOUT, call, "the dispatch has waited for a rank in vain");
    return shmemi_fail(SHMEMX_ERR_MISMATCH, call, "a rank was in another kind of dispatch, or result");
}

int shmemx_moe_gpu_counts(shmemx_moe_gpu_t *moe, int result, int64_t *rows, int32_t *per_expert)
{
    const char *call = "shmemx_moe_gpu_counts";
    int rc;
    struct shmemx_moe_gpu *m = find(call, moe, &rc);
    if (m == NULL || (rc = check_result(call, m, result)) != 0)
        return rc;
    unsigned ticket = m->tickets[result];
    if (ticket == 0)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "there was no dispatch into result %d", result);
    const uint64_t *words = pointer(m->result[result].host);
    for (int64_t i = 0; i <= (per_expert ? m->info.local_experts : 0); ++i) {
        struct shmemi_wait w = SHMEMI_WAIT_FOR(call, shmemi_world.me, &words[i]);
        uint64_t word;
        /* relaxed: each word says all by itself */
        while ((word = __atomic_load_n(&words[i], __ATOMIC_RELAXED)) >> 32 != ticket)
            if ((rc = shmemi_wait_step(&w)) != 0)
                return rc;
        uint32_t value = (uint32_t)word;
        if (i == 0 && value > SHMEMI_MOEN_MOST_ROWS)
            return nothing_came(call, m, value);
        if (i == 0 && rows)
            *rows = (int64_t)value;
        if (i > 0)
            per_expert[i - 1] = (int32_t)value;
    }
    return SHMEMX_SUCCESS;
}

/* ---- combine --------------------------------------------------------------------------------------------------- */

static int check_sums(const char *call, const struct shmemx_moe_gpu *m, const shmemx_moe_gpu_combine_t *c,
                      struct shmemi_moen_combine *a)
{
    int rc;
    if (c->tokens == 0)
        return SHMEMX_SUCCESS;
    if ((rc = check_rows(call, "out", c->out, c->out_stride, 2 * m->object.hidden, &a->out_stride)) != 0)
        return rc;
    for (int b = 0; b < 2; ++b) {
        if (c->bias[b] && (rc = check_pointer(call, "bias", c->bias[b], 16)) != 0)
            return rc;
        a->bias[b] = (uintptr_t)c->bias[b];
    }
    if (c->weights && (rc = check_pointer(call, "out_weights", c->out_weights, 4)) != 0)
        return rc;
    if (c->topk_weights && ((rc = check_pointer(call, "topk_weights", c->topk_weights, 4)) != 0 ||
                            (rc = check_ids(call, c->topk_idx, c->idx_type, &a->wide)) != 0))
        return rc;
    return SHMEMX_SUCCESS;
}

int shmemx_moe_gpu_combine(shmemx_moe_gpu_t *moe, const shmemx_moe_gpu_combine_t *args, void *stream)
{
    const char *call = "shmemx_moe_gpu_combine";
    const shmemx_moe_gpu_combine_t *c = args;
    int rc;
    struct shmemx_moe_gpu *m = enter(call, moe, args, args ? args->tokens : 0, &rc);
    struct shmemi_moen_combine a = {0};
    unsigned blocks, groups;
    if (m == NULL || (rc = check_pointer(call, "routing", c->routing, 16)) != 0 ||
        (rc = check_sums(call, m, c, &a)) != 0 || (rc = check_blocks(call, c->blocks, &blocks)) != 0 ||
        (rc = check_group(call, m, c->group, &a.group, &groups)) != 0)
        return rc;
    if (c->format != SHMEMX_MOE_GPU_BF16 && c->format != SHMEMX_MOE_GPU_INT8)
        return bad(call, "format", c->format, "SHMEMX_MOE_GPU_BF16 or SHMEMX_MOE_GPU_INT8");
    /* who has received nothing may have no y */
    a.y_stride = 2 * m->object.hidden;
    if ((c->y || c->y_stride) &&
        (rc = check_rows(call, "y", c->y, c->y_stride, 2 * m->object.hidden, &a.y_stride)) != 0)
        return rc;
    a.routing = (uintptr_t)c->routing;
    a.y = (uintptr_t)c->y;
    a.weights = (uintptr_t)c->weights;
    a.out_weights = (uintptr_t)c->out_weights;
    a.idx = (uintptr_t)c->topk_idx;
    a.topk_weights = (uintptr_t)c->topk_weights;
    a.out = (uintptr_t)c->out;
    a.tokens = (unsigned)c->tokens;
    a.format = (unsigned)c->format;
    a.shift = 31;
    for (unsigned bit = 5; c->group && bit <= 7; ++bit)
        a.shift = c->group == 1 << bit ? bit : a.shift;
    unsigned shared =
        shmemi_moen_shape_combine(&a, &m->object, (unsigned)m->ranks, shmemi_gpu_bulk_bytes(), WARPS, blocks);
    void *arguments[] = {&m->object, &a};
    return shmemi_gpu_kernel_shared(call, SHMEMI_K_MOE_COMBINE, blocks, WARPS * THREADS_A_WARP, shared,
                                    arguments, stream);
}
