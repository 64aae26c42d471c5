/* MoE on GPUs, large batches (shmemx_moe_gpu.h): objects. Their calls: moe_gpu_calls.c. */
#include "moe_gpu.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "gpu_nic.h"
#include "stream.h"
#include "team.h"
#include "world.h"

enum { MAX_TOPK = 32 };

static struct shmemi_moe_list objects = {.lock = PTHREAD_MUTEX_INITIALIZER, .what = "MoE object"};

struct shmemx_moe_gpu *shmemi_moe_gpu_find(const char *call, struct shmemx_moe_gpu *moe, int *rc)
{
    *rc = shmemi_moe_check(&objects, call, (const struct shmemi_moe_object *)moe);
    if (*rc == 0 && moe->ranks == 0)
        *rc = shmemi_fail(SHMEMX_ERR_TEAM, call, "this PE is no member of the object's team");
    return *rc ? NULL : moe;
}

/* ---- create, destroy ------------------------------------------------------------------------------------- */

int shmemi_moe_gpu_bad(const char *call, const char *name, int64_t value, const char *want)
{
    return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "%s is %lld, must be %s", name, (long long)value, want);
}

static int check_config(const char *call, const shmemx_moe_gpu_config_t *c, int ranks)
{
    if (ranks > SHMEMI_MOEN_MAX_RANKS)
        return shmemi_moe_gpu_bad(call, "members of the team", ranks, "64 at most");
    if (c->results < 1 || c->results > SHMEMI_MOE_GPU_RESULTS)
        return shmemi_moe_gpu_bad(call, "results", c->results, "1 to 64, or 0 = 2");
    if (!shmemi_moe_gpu_is_group(c->group))
        return shmemi_moe_gpu_bad(call, "group", c->group, "32, 64, 128 or 0 = 128");
    if (c->hidden < 8 || c->hidden > 1 << 20 || c->hidden % 8)
        return shmemi_moe_gpu_bad(call, "hidden", c->hidden, "8 to 2^20, a multiple of 8");
    if (c->num_experts < 1 || c->num_experts > 1 << 24)
        return shmemi_moe_gpu_bad(call, "num_experts", c->num_experts, "1 to 2^24");
    if (c->topk < 1 || c->topk > MAX_TOPK)
        return shmemi_moe_gpu_bad(call, "topk", c->topk, "1 to 32");
    /* row numbers are int32, ranks * max_tokens * topk as well */
    if (c->max_tokens < 1 || c->max_tokens > INT32_MAX / (ranks * c->topk))
        return shmemi_moe_gpu_bad(call, "max_tokens", c->max_tokens,
                                  "positive, with ranks * max_tokens * topk below 2^31");
    if (c->capacity < 1 || c->capacity > SHMEMI_MOEN_MOST_ROWS / c->topk)
        return shmemi_moe_gpu_bad(call, "capacity", c->capacity,
                                  "positive, with capacity * topk below 2^31, or 0 = ranks * max_tokens");
    if (c->max_nodes < 0 || c->max_nodes > SHMEMI_MOEN_MAX_RANKS)
        return shmemi_moe_gpu_bad(call, "max_nodes", c->max_nodes, "1 to 64, or 0 = any number");
    return SHMEMX_SUCCESS;
}

/* The node of each rank: as configured, or as it is; pes_per_node becomes what it stands for. */
static int find_nodes(const char *call, struct shmemx_moe_gpu *m)
{
    shmemx_moe_gpu_config_t *c = &m->c;
    bool here[SHMEMI_MOEN_MAX_RANKS];
    int near = 0;
    for (int r = 0; r < m->ranks; ++r) {
        int pe = shmem_team_translate_pe(c->team, r, SHMEM_TEAM_WORLD);
        here[r] = shmemi_node.node_of[pe] == shmemi_node.my_node;
        near += here[r];
    }
    int each = c->pes_per_node ? c->pes_per_node : near;
    if (each < 1 || each > m->ranks || m->ranks % each)
        return shmemi_fail(
            SHMEMX_ERR_ARGUMENT, call,
            "pes_per_node is %d, must be the same on all nodes and divide the %d members of the "
            "team; 0 = as many as share a node, here %d",
            each, m->ranks, near);
    int first = m->me / each * each;
    for (int r = first; r < first + each; ++r) /* and so mapped */
        if (!here[r])
            return shmemi_fail(
                SHMEMX_ERR_ARGUMENT, call,
                "ranks %d to %d would be one node (pes_per_node is %d), but ranks %d and %d do not "
                "share one; the ranks of a node must follow each other",
                first, first + each - 1, each, m->me, r);
    c->pes_per_node = each;
    if (each > 1 && each < m->ranks) {
        m->levels.nodes = (unsigned)(m->ranks / each);
        m->levels.each = (unsigned)each;
    }
    return SHMEMX_SUCCESS;
}

/* Bit j: kernels reach the j-th rank of the object, or of the level between nodes, by a NIC's path. */
static uint64_t far_ranks(const struct shmemx_moe_gpu *m)
{
    int each = m->levels.nodes ? (int)m->levels.each : 1;
    uint64_t far = 0;
    for (int j = 0; j < m->ranks / each; ++j)
        far |= (uint64_t)shmemi_gpu_nic_far(
                   shmem_team_translate_pe(m->c.team, j * each + m->me % each, SHMEM_TEAM_WORLD))
               << j;
    return far;
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
    int rc = check_config(call, c, m->ranks);
    if (rc == 0 && (rc = find_nodes(call, m)) == 0)
        m->object.mirror.far = far_ranks(m);
    return rc;
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
    o->each = o->sources = 1;
    o->max_nodes = c->pes_per_node < m->ranks ? (unsigned)c->max_nodes : 0;
    struct shmemi_moen_levels *l = &m->levels;
    uint64_t end = l->nodes ? shmemi_moen_lay_out_levels(l, o, (unsigned)m->me / l->each, groups, base)
                            : shmemi_moen_lay_out(o, ranks, groups, base);
    if (l->nodes)
        o->max_nodes = 0; /* `between` has it; here ranks are not nodes */
    for (int i = 0; i < c->results; ++i)
        end = shmemi_moen_lay_out_result(&m->result[i], l->nodes ? &l->within : o, l->nodes ? l->each : ranks,
                                         groups, end);
    int64_t each = c->num_experts / ranks, more = c->num_experts % ranks;
    m->info = (shmemx_moe_gpu_info_t){
        .ranks = m->ranks,
        .rank = m->me,
        .results = c->results,
        .blocks = SHMEMI_MOE_GPU_BLOCKS,
        .first_expert = m->me * each + (m->me < more ? m->me : more),
        .local_experts = each + (m->me < more),
        .capacity = c->capacity,
        .max_groups = groups,
        .heap_bytes = (int64_t)(end - base),
        .nodes = m->ranks / c->pes_per_node,
        .pes_per_node = c->pes_per_node,
    };
    return end - base;
}

static int team_of(shmem_team_t team, struct shmemi_moen *o)
{
    int slot = shmemx_team_device(team);
    o->team = (unsigned)slot;
    return slot < 0 ? slot : SHMEMX_SUCCESS;
}

/* There is memory, all zero. The teams come first: all members make them together. */
static int ready(const char *call, void *object, void *block)
{
    struct shmemx_moe_gpu *m = object;
    int rc = m->levels.nodes ? shmem_team_split_2d(m->c.team, (int)m->levels.each, NULL, 0, &m->within, NULL,
                                                   0, &m->between)
                             : SHMEMX_SUCCESS;
    if (rc)
        return rc;
    lay_out(m, (uintptr_t)block);
    rc = team_of(m->c.team, &m->object);
    if (rc == 0 && m->levels.nodes && (rc = team_of(m->within, &m->levels.within)) == 0)
        rc = team_of(m->between, &m->levels.between);
    if (rc)
        return rc;
    size_t words = 1 + m->object.most, bytes = (size_t)m->c.results * (words + 1) * sizeof *m->host;
    void *host;
    if ((rc = shmemi_gpu_host_alloc(call, bytes, &host)) != 0)
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
        .fields = {c->results, c->group, c->hidden, c->num_experts, c->topk, c->max_tokens, c->capacity,
                   c->pes_per_node, c->max_nodes},
    };
    shmemi_moe_offer_team(offer, world, m->ranks);
}

/* Not the teams. After a create that failed they stay until the end of the job: a member that has none would not come to
 * destroy them. */
static void release(struct shmemx_moe_gpu *m)
{
    if (m && m->host)
        shmemi_gpu_host_free(m->host);
    free(m);
}

int shmemx_moe_gpu_create(const shmemx_moe_gpu_config_t *config, shmemx_moe_gpu_t **moe)
{
    static const char *const names[] = {"results",    "group",    "hidden",       "num_experts", "topk",
                                        "max_tokens", "capacity", "pes_per_node", "max_nodes"};
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
    if (shmemi_world.npes == 0 || moe->base.job != shmemi_world.jobs) {
        moe->host = NULL; /* went with the job, as the GPU's memory and the teams */
    } else if (moe->levels.nodes) {
        int within = shmemx_team_destroy(moe->within), between = shmemx_team_destroy(moe->between);
        rc = rc ? rc : within ? within : between;
    }
    release(moe);
    return rc;
}

/* ---- what it is -------------------------------------------------------------------------------------------- */

int shmemx_moe_gpu_info(shmemx_moe_gpu_t *moe, shmemx_moe_gpu_info_t *info)
{
    const char *call = "shmemx_moe_gpu_info";
    int rc;
    if (!shmemi_moe_gpu_find(call, moe, &rc))
        return rc;
    if (info == NULL)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "info is NULL");
    *info = moe->info;
    return SHMEMX_SUCCESS;
}

int shmemi_moe_gpu_check_result(const char *call, const struct shmemx_moe_gpu *m, int i)
{
    if (i >= 0 && i < m->c.results)
        return SHMEMX_SUCCESS;
    return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "result is %d, must be 0 to %d", i, m->c.results - 1);
}

int shmemx_moe_gpu_result(shmemx_moe_gpu_t *moe, int i, shmemx_moe_gpu_result_t *result)
{
    const char *call = "shmemx_moe_gpu_result";
    int rc;
    if (!shmemi_moe_gpu_find(call, moe, &rc) || (rc = shmemi_moe_gpu_check_result(call, moe, i)) != 0)
        return rc;
    if (result == NULL)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "result is NULL");
    const struct shmemi_moen_result *r = &moe->result[i];
    *result = (shmemx_moe_gpu_result_t){
        .x = shmemi_moe_gpu_pointer(r->x),
        .scales = shmemi_moe_gpu_pointer(r->scales),
        .topk_idx = shmemi_moe_gpu_pointer(r->topk_idx),
        .topk_weights = shmemi_moe_gpu_pointer(r->topk_weights),
        .source_token = shmemi_moe_gpu_pointer(r->source_token),
        .rows = shmemi_moe_gpu_pointer(r->rows),
        .per_expert = shmemi_moe_gpu_pointer(r->per_expert),
        .per_source = shmemi_moe_gpu_pointer(r->per_source),
    };
    return SHMEMX_SUCCESS;
}

int shmemi_moe_gpu_check_tokens(const char *call, const struct shmemx_moe_gpu *m, int64_t tokens)
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
    if (!shmemi_moe_gpu_find(call, moe, &rc) || (rc = shmemi_moe_gpu_check_tokens(call, moe, tokens)) != 0)
        return rc;
    return (int64_t)(moe->levels.nodes
                         ? shmemi_moen_way_at(&moe->levels, 0, (uint64_t)tokens).end
                         : shmemi_moen_routing_size(&moe->object, (unsigned)moe->ranks, (uint64_t)tokens));
}
