/* MoE on GPUs, large batches (shmemx_moe_gpu.h): checks of calls, launches. The work is in gpu/moe_normal*.cuh. */
#include "base/wait.h"
#include "moe_gpu.h"
#include "stream.h"

enum { MAX_BLOCKS = 128, WARPS = 16, THREADS_A_WARP = 32 };

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
        return shmemi_moe_gpu_bad(call, "idx_type", idx_type, "SHMEMX_INT64 or SHMEMX_INT32");
    *wide = idx_type == SHMEMX_INT64;
    return check_pointer(call, "topk_idx", topk_idx, *wide ? 8 : 4);
}

static int check_group(const char *call, const struct shmemx_moe_gpu *m, int group, unsigned *columns,
                       unsigned *groups)
{
    if (group != 0 && !shmemi_moe_gpu_is_group(group))
        return shmemi_moe_gpu_bad(call, "group", group, "32, 64, 128, or 0 = the whole row");
    *columns = group ? (unsigned)group : m->object.hidden;
    *groups = shmemi_moen_groups(m->object.hidden, (unsigned)group);
    if (*groups > m->info.max_groups)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call,
                           "a group of %d columns: the object was made for %d or more", group, m->c.group);
    return SHMEMX_SUCCESS;
}

static int check_blocks(const char *call, int blocks, unsigned *n)
{
    *n = blocks ? (unsigned)blocks : SHMEMI_MOE_GPU_BLOCKS;
    return blocks < 0 || blocks > MAX_BLOCKS
               ? shmemi_moe_gpu_bad(call, "blocks", blocks, "1 to 128, or 0 = 24")
               : SHMEMX_SUCCESS;
}

/* What kernels of this PE have reported stays for shmemx_stream_check: a call that stopped for it on this PE alone would
 * let the other ranks wait. */
static struct shmemx_moe_gpu *enter(const char *call, shmemx_moe_gpu_t *moe, const void *args, int64_t tokens,
                                    int *rc)
{
    struct shmemx_moe_gpu *m = shmemi_moe_gpu_find(call, moe, rc);
    if (m == NULL || (*rc = shmemi_moe_gpu_check_tokens(call, m, tokens)) != 0)
        return NULL;
    if (args == NULL)
        *rc = shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "args is NULL");
    return *rc ? NULL : m;
}

/* ---- launches ------------------------------------------------------------------------------------------------ */

static int launch_layout(const char *call, const struct shmemi_moen *o, unsigned ranks,
                         const struct shmemi_moen_layout *a, void *stream)
{
    unsigned threads = a->tokens > 256 || a->sources ? 1024 : 256;
    void *arguments[] = {(void *)o, (void *)a};
    return shmemi_gpu_kernel_shared(call, SHMEMI_K_MOE_LAYOUT, ranks + 1, threads,
                                    shmemi_moen_layout_shared(threads, o->experts), arguments, stream);
}

/* The kernel for what is mapped, or the one behind it. */
static int form_of(const struct shmemi_moen *o, int kernel)
{
    return kernel + (o->mirror.far != 0);
}

static int launch_dispatch(const char *call, const struct shmemi_moen *o, unsigned ranks,
                           struct shmemi_moen_dispatch *a, unsigned blocks, void *stream)
{
    unsigned shared = shmemi_moen_shape_dispatch(a, o, ranks, shmemi_gpu_bulk_bytes(), WARPS, blocks);
    void *arguments[] = {(void *)o, a};
    return shmemi_gpu_kernel_shared(call, form_of(o, SHMEMI_K_MOE_DISPATCH), blocks,
                                    a->pipe.warps * THREADS_A_WARP, shared, arguments, stream);
}

static int launch_combine(const char *call, const struct shmemi_moen *o, unsigned ranks,
                          struct shmemi_moen_combine *a, unsigned blocks, void *stream)
{
    unsigned shared = shmemi_moen_shape_combine(a, o, ranks, shmemi_gpu_bulk_bytes(), WARPS, blocks);
    void *arguments[] = {(void *)o, a};
    return shmemi_gpu_kernel_shared(call, form_of(o, SHMEMI_K_MOE_COMBINE), blocks, WARPS * THREADS_A_WARP,
                                    shared, arguments, stream);
}

/* The routing's parts, between nodes. */
static struct shmemi_moen_way way_of(const struct shmemx_moe_gpu *m, const void *routing, int64_t tokens)
{
    return shmemi_moen_way_at(&m->levels, (uintptr_t)routing, (uint64_t)tokens);
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
    if (m->levels.nodes == 0)
        return launch_layout(call, &m->object, (unsigned)m->ranks, &a, stream);
    struct shmemi_moen_layout tables = a;
    tables.routing = 0;
    if (num_tokens_per_rank || num_tokens_per_expert || is_token_in_rank)
        rc = launch_layout(call, &m->object, (unsigned)m->ranks, &tables, stream);
    a.routing = routing ? way_of(m, routing, tokens).between : 0;
    a.per_rank = a.per_expert = a.in_rank = 0;
    return rc ? rc : launch_layout(call, &m->levels.between, m->levels.nodes, &a, stream);
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
        return shmemi_moe_gpu_bad(call, "format", d->format, "one of enum shmemx_moe_gpu_format");
    if (!bf16 && h % 16)
        return shmemi_moe_gpu_bad(call, "hidden", h,
                                  "a multiple of 16 where rows travel with 1 byte a column");
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

/* A dispatch between nodes. */
static int dispatch_levels(const char *call, const struct shmemx_moe_gpu *m,
                           const struct shmemi_moen_dispatch *a, int result, unsigned blocks, void *stream)
{
    const struct shmemi_moen_levels *l = &m->levels;
    struct shmemi_moen_way w = way_of(m, shmemi_moe_gpu_pointer(a->routing), a->tokens);
    struct shmemi_moen_dispatch d = shmemi_moen_dispatch_between(l, &w, a);
    d.result.host = (uintptr_t)shmemi_moe_gpu_staged(m, result);
    int rc = launch_dispatch(call, &l->between, l->nodes, &d, blocks, stream);
    if (rc == 0 && !a->cached) {
        struct shmemi_moen_layout layout = shmemi_moen_layout_within(l, &w);
        rc = shmemi_gpu_copy(call, shmemi_moe_gpu_pointer(w.choices),
                             shmemi_moe_gpu_pointer(l->stage.topk_idx), shmemi_moen_choices_bytes(l), stream);
        rc = rc ? rc : launch_layout(call, &l->within, l->each, &layout, stream);
    }
    d = shmemi_moen_dispatch_within(l, &w, a);
    return rc ? rc : launch_dispatch(call, &l->within, l->each, &d, blocks, stream);
}

int shmemx_moe_gpu_dispatch(shmemx_moe_gpu_t *moe, const shmemx_moe_gpu_dispatch_t *args, void *stream)
{
    const char *call = "shmemx_moe_gpu_dispatch";
    const shmemx_moe_gpu_dispatch_t *d = args;
    int rc;
    struct shmemx_moe_gpu *m = enter(call, moe, args, args ? args->tokens : 0, &rc);
    struct shmemi_moen_dispatch a = {0};
    unsigned blocks;
    if (m == NULL || (rc = shmemi_moe_gpu_check_result(call, m, d->result)) != 0 ||
        (rc = check_pointer(call, "routing", d->routing, 16)) != 0 || (rc = check_x(call, m, d, &a)) != 0 ||
        (rc = check_blocks(call, d->blocks, &blocks)) != 0)
        return rc;
    bool ids = (d->topk_idx || (d->tokens == 0 && d->topk_weights)) && !d->cached;
    if (ids && d->tokens && (rc = check_ids(call, d->topk_idx, d->idx_type, &a.wide)) != 0)
        return rc;
    if (!ids && d->topk_weights && !d->cached)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "topk_weights travel with topk_idx, which is NULL");
    if (m->levels.nodes && !ids && !d->cached && d->tokens)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "topk_idx is NULL; between nodes it must travel");
    if (d->expert_alignment < 0 || d->expert_alignment > 1 << 20)
        return shmemi_moe_gpu_bad(call, "expert_alignment", d->expert_alignment, "1 to 2^20, or 0 = 1");
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
    a.ticket = ++m->ticket ? m->ticket : ++m->ticket; /* never 0 */
    rc = m->levels.nodes ? dispatch_levels(call, m, &a, d->result, blocks, stream)
                         : launch_dispatch(call, &m->object, (unsigned)m->ranks, &a, blocks, stream);
    if (rc == 0)
        m->tickets[d->result] = a.ticket;
    return rc;
}

/* Why a dispatch received nothing. The kernel's own report says more, if it is the one in the mailbox; another one stays
 * there for shmemx_stream_check. */
static int nothing_came(const char *call, const struct shmemx_moe_gpu *m, uint32_t problem)
{
    const struct shmemx_device_error *report = shmemi_moe_gpu_pointer(shmemi_gpu_state()->mailbox);
    unsigned kind = problem == SHMEMI_MOEN_NO_ROOM   ? SHMEMX_DEVICE_LIMIT
                    : problem == SHMEMI_MOEN_NO_PEER ? SHMEMX_DEVICE_TIMEOUT
                                                     : SHMEMX_DEVICE_MISMATCH;
    /* relaxed: only asked what it is; shmemi_gpu_mailbox acquires */
    unsigned is = __atomic_load_n(&report->kind, __ATOMIC_RELAXED);
    bool path = is == SHMEMX_DEVICE_PROXY || is == SHMEMX_DEVICE_NIC; /* why the wait was in vain */
    int rc =
        is == kind || (path && kind == SHMEMX_DEVICE_TIMEOUT) ? shmemi_gpu_mailbox(call) : SHMEMX_SUCCESS;
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

/* Waits for the kernel's word of that dispatch. */
static int read_count(const char *call, const uint64_t *word, unsigned ticket, uint32_t *value)
{
    struct shmemi_wait w = SHMEMI_WAIT_FOR(call, shmemi_world.me, word);
    uint64_t seen;
    int rc = SHMEMX_SUCCESS;
    /* relaxed: each word says all by itself */
    while (rc == 0 && (seen = __atomic_load_n(word, __ATOMIC_RELAXED)) >> 32 != ticket)
        rc = shmemi_wait_step(&w);
    if (rc == 0)
        *value = (uint32_t)seen;
    return rc;
}

int shmemx_moe_gpu_counts(shmemx_moe_gpu_t *moe, int result, int64_t *rows, int32_t *per_expert)
{
    const char *call = "shmemx_moe_gpu_counts";
    int rc;
    struct shmemx_moe_gpu *m = shmemi_moe_gpu_find(call, moe, &rc);
    if (m == NULL || (rc = shmemi_moe_gpu_check_result(call, m, result)) != 0)
        return rc;
    unsigned ticket = m->tickets[result];
    if (ticket == 0)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "there was no dispatch into result %d", result);
    uint32_t value = 0;
    /* between nodes what came for the node is known first; it may be why nothing came within */
    if (m->levels.nodes && (rc = read_count(call, shmemi_moe_gpu_staged(m, result), ticket, &value)) != 0)
        return rc;
    const uint64_t *words = shmemi_moe_gpu_pointer(m->result[result].host);
    if (value <= SHMEMI_MOEN_MOST_ROWS && (rc = read_count(call, words, ticket, &value)) != 0)
        return rc;
    if (value > SHMEMI_MOEN_MOST_ROWS)
        return nothing_came(call, m, value);
    if (rows)
        *rows = (int64_t)value;
    for (int64_t e = 0; per_expert && e < m->info.local_experts; ++e) {
        if ((rc = read_count(call, &words[1 + e], ticket, &value)) != 0)
            return rc;
        per_expert[e] = (int32_t)value;
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

/* A combine between nodes. */
static int combine_levels(const char *call, const struct shmemx_moe_gpu *m,
                          const struct shmemi_moen_combine *a, unsigned blocks, void *stream)
{
    const struct shmemi_moen_levels *l = &m->levels;
    struct shmemi_moen_way w = way_of(m, shmemi_moe_gpu_pointer(a->routing), a->tokens);
    struct shmemi_moen_combine c = shmemi_moen_combine_within(l, &w, a);
    int rc = launch_combine(call, &l->within, l->each, &c, blocks, stream);
    c = shmemi_moen_combine_between(l, &w, a);
    return rc ? rc : launch_combine(call, &l->between, l->nodes, &c, blocks, stream);
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
        return shmemi_moe_gpu_bad(call, "format", c->format, "SHMEMX_MOE_GPU_BF16 or SHMEMX_MOE_GPU_INT8");
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
    return m->levels.nodes ? combine_levels(call, m, &a, blocks, stream)
                           : launch_combine(call, &m->object, (unsigned)m->ranks, &a, blocks, stream);
}

/* ---- the expert form ----------------------------------------------------------------------------------------- */

/* A warp takes a row at a time; more blocks than a GPU holds at once would only wait. */
static int launch_rows(const char *call, int kernel, int64_t rows, void *args, void *stream)
{
    enum { WARPS_A_BLOCK = 8, MOST = 2048 };
    int64_t blocks = (rows + WARPS_A_BLOCK - 1) / WARPS_A_BLOCK;
    void *arguments[] = {args};
    return rows == 0 ? SHMEMX_SUCCESS
                     : shmemi_gpu_kernel(call, kernel, (unsigned)(blocks < MOST ? blocks : MOST),
                                         WARPS_A_BLOCK * THREADS_A_WARP, arguments, stream);
}

static struct shmemx_moe_gpu *enter_rows(const char *call, shmemx_moe_gpu_t *moe, const void *args,
                                         int64_t rows, int *rc)
{
    struct shmemx_moe_gpu *m = shmemi_moe_gpu_find(call, moe, rc);
    if (m != NULL && args == NULL)
        *rc = shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "args is NULL");
    else if (m != NULL && (rows < 0 || rows > SHMEMI_MOEN_MOST_ROWS))
        *rc = shmemi_moe_gpu_bad(call, "rows", rows, "0 to 2^31 - 17");
    return m == NULL || *rc ? NULL : m;
}

int shmemx_moe_gpu_gather(shmemx_moe_gpu_t *moe, const shmemx_moe_gpu_gather_t *args, void *stream)
{
    const char *call = "shmemx_moe_gpu_gather";
    const shmemx_moe_gpu_gather_t *g = args;
    int rc;
    struct shmemx_moe_gpu *m = enter_rows(call, moe, args, args ? args->rows : 0, &rc);
    if (m == NULL)
        return rc;
    bool quantized = g->format == SHMEMX_MOE_GPU_INT8 || g->format == SHMEMX_MOE_GPU_FP8;
    unsigned h = m->object.hidden;
    if (g->format < SHMEMX_MOE_GPU_BF16 || g->format > SHMEMX_MOE_GPU_BYTES)
        return shmemi_moe_gpu_bad(call, "format", g->format, "one of enum shmemx_moe_gpu_format");
    if (g->format != SHMEMX_MOE_GPU_BF16 && h % 16)
        return shmemi_moe_gpu_bad(call, "hidden", h, "a multiple of 16 where rows have 1 byte a column");
    if (quantized && (g->group < 1 || (unsigned)g->group > h))
        return shmemi_moe_gpu_bad(call, "group", g->group, "1 to hidden");
    if (quantized && (g->scales_stride < 0 || g->scales_stride % 4))
        return shmemi_moe_gpu_bad(call, "scales_stride", g->scales_stride, "a multiple of 4, in bytes");
    if (g->rows == 0)
        return SHMEMX_SUCCESS;
    if ((rc = check_pointer(call, "out", g->out, 16)) != 0 ||
        ((g->x || !g->source) && (rc = check_pointer(call, "x", g->x, 16)) != 0) ||
        (quantized && g->x && (rc = check_pointer(call, "scales", g->scales, 4)) != 0) ||
        (g->source && (rc = check_pointer(call, "source", g->source, 8)) != 0) ||
        (g->rows_on_gpu && (rc = check_pointer(call, "rows_on_gpu", g->rows_on_gpu, 4)) != 0))
        return rc;
    struct shmemi_moen_gather a = {.x = (uintptr_t)g->x,
                                   .scales = (uintptr_t)g->scales,
                                   .scales_row = (uint64_t)g->scales_stride,
                                   .source = (uintptr_t)g->source,
                                   .out = (uintptr_t)g->out,
                                   .rows = (uint64_t)g->rows,
                                   .rows_at = (uintptr_t)g->rows_on_gpu,
                                   .hidden = h,
                                   .format = (unsigned)g->format,
                                   .group = quantized ? (unsigned)g->group : h};
    return launch_rows(call, SHMEMI_K_MOE_GATHER, g->rows, &a, stream);
}

int shmemx_moe_gpu_sum(shmemx_moe_gpu_t *moe, const shmemx_moe_gpu_sum_t *args, void *stream)
{
    const char *call = "shmemx_moe_gpu_sum";
    const shmemx_moe_gpu_sum_t *s = args;
    int rc;
    struct shmemx_moe_gpu *m = enter_rows(call, moe, args, args ? args->rows : 0, &rc);
    if (m == NULL || s->rows == 0)
        return rc;
    struct shmemi_moen_sum a = {.y = (uintptr_t)s->y,
                                .y_stride = 2 * m->object.hidden,
                                .position = (uintptr_t)s->position,
                                .weights = (uintptr_t)s->weights,
                                .out = (uintptr_t)s->out,
                                .rows = (uint64_t)s->rows,
                                .rows_at = (uintptr_t)s->rows_on_gpu,
                                .hidden = m->object.hidden,
                                .topk = m->object.topk};
    if ((rc = check_pointer(call, "out", s->out, 16)) != 0 ||
        (rc = check_pointer(call, "position", s->position, 8)) != 0 ||
        ((s->y || s->y_stride) &&
         (rc = check_rows(call, "y", s->y, s->y_stride, 2 * m->object.hidden, &a.y_stride)) != 0) ||
        (s->weights && (rc = check_pointer(call, "weights", s->weights, 4)) != 0) ||
        (s->rows_on_gpu && (rc = check_pointer(call, "rows_on_gpu", s->rows_on_gpu, 4)) != 0))
        return rc;
    return launch_rows(call, SHMEMI_K_MOE_SUM, s->rows, &a, stream);
}
