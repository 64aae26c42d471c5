/* MoE objects: create and destroy over the heap, and the handles they give out. */
#include "moe.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "world.h"

enum { DEFAULT_RESULTS = 2, MAX_RESULTS = 64 };

bool shmemi_moe_never_direct;

static struct shmemi_moe_list objects = {.lock = PTHREAD_MUTEX_INITIALIZER, .what = "MoE object"};

/* ---- lists --------------------------------------------------------------------------------------------- */

struct shmemx_moe *shmemi_moe_find(const char *call, struct shmemx_moe *moe, int *rc)
{
    *rc = shmemi_moe_check(&objects, call, (const struct shmemi_moe_object *)moe);
    if (*rc == 0 && moe->ranks == 0)
        *rc = shmemi_fail(SHMEMX_ERR_TEAM, call, "this PE is no member of the object's team");
    else if (*rc == 0 && moe->broken)
        *rc = shmemi_fail(
            SHMEMX_ERR_MISMATCH, call,
            "this object is of no use since a dispatch or combine was given up; PEs are out of step");
    return *rc ? NULL : moe;
}

/* With the lock held: another thread may free a handle at any time. */
static bool holds(const struct shmemx_moe *moe, const struct shmemx_moe_handle *handle)
{
    const struct shmemx_moe_handle *h = moe->handles;
    while (h && h != handle)
        h = h->next;
    return h != NULL;
}

bool shmemi_moe_has_handle(const struct shmemx_moe *moe, const struct shmemx_moe_handle *handle)
{
    pthread_mutex_lock(&objects.lock);
    bool found = holds(moe, handle);
    pthread_mutex_unlock(&objects.lock);
    return found;
}

int shmemi_moe_check_handle(const char *call, const struct shmemx_moe_handle *handle)
{
    bool found = false;
    if (shmemi_world.npes == 0)
        return shmemi_not_initialized(call);
    pthread_mutex_lock(&objects.lock);
    for (const struct shmemi_moe_object *o = objects.first; o && !found; o = o->next)
        found = o->job == shmemi_world.jobs && holds((const struct shmemx_moe *)o, handle);
    pthread_mutex_unlock(&objects.lock);
    if (!found)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call,
                           "%p is no living handle (freed, or its object destroyed?)", (const void *)handle);
    return SHMEMX_SUCCESS;
}

int shmemi_moe_new_handle(const char *call, struct shmemx_moe *moe, struct shmemi_moe_route *route,
                          uint64_t number, struct shmemx_moe_handle **handle)
{
    struct shmemx_moe_handle *h = malloc(sizeof *h);
    if (h == NULL)
        return shmemi_fail(SHMEMX_ERR_NO_MEMORY, call, "%zu bytes of private memory for a handle", sizeof *h);
    *h = (struct shmemx_moe_handle){NULL, moe, route, number, (int)(number % (uint64_t)moe->slots)};
    pthread_mutex_lock(&objects.lock);
    h->next = moe->handles;
    moe->handles = h;
    pthread_mutex_unlock(&objects.lock);
    *handle = h;
    return SHMEMX_SUCCESS;
}

int shmemx_moe_handle_free(shmemx_moe_handle_t *handle)
{
    if (handle == NULL)
        return SHMEMX_SUCCESS;
    struct shmemx_moe_handle **link = NULL;
    pthread_mutex_lock(&objects.lock);
    for (struct shmemi_moe_object *o = objects.first; o && link == NULL; o = o->next) {
        struct shmemx_moe_handle **l = &((struct shmemx_moe *)o)->handles;
        while (*l && *l != handle)
            l = &(*l)->next;
        link = *l ? l : NULL;
    }
    if (link)
        *link = handle->next;
    pthread_mutex_unlock(&objects.lock);
    if (link == NULL)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, __func__,
                           "%p is no living handle (freed, or its object destroyed?)", (void *)handle);
    shmemi_moe_route_release(handle->route);
    free(handle);
    return SHMEMX_SUCCESS;
}

/* Frees what is private; the block has gone already, or never came. */
static void free_object(struct shmemx_moe *m)
{
    if (m == NULL)
        return;
    while (m->handles) {
        struct shmemx_moe_handle *h = m->handles;
        m->handles = h->next;
        shmemi_moe_route_release(h->route);
        free(h);
    }
    for (int r = 0; m->stage && r < m->ranks; r++)
        free(m->stage[r]);
    void *const all[] = {m->world, m->owner, m->first, m->node,           m->peer,
                         m->stage, m->sent,  m->line,  m->record_scratch, m->sum};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    free(m);
}

/* ---- configuration ------------------------------------------------------------------------------------- */

static int bad(const char *call, const char *name, int64_t value, const char *want)
{
    return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "%s is %lld, must be %s", name, (long long)value, want);
}

static int check_kinds(const char *call, const shmemx_moe_config_t *c)
{
    if (!shmemi_float_bytes(c->type))
        return bad(call, "type", c->type, "SHMEMX_FLOAT32, SHMEMX_FLOAT16 or SHMEMX_BFLOAT16");
    if (c->mode != SHMEMX_MOE_EXCHANGE && c->mode != SHMEMX_MOE_WORST_CASE)
        return bad(call, "mode", c->mode, "SHMEMX_MOE_EXCHANGE (0) or SHMEMX_MOE_WORST_CASE (1)");
    if (c->quant != SHMEMX_MOE_QUANT_NONE && c->quant != SHMEMX_MOE_QUANT_INT8)
        return bad(call, "quant", c->quant, "SHMEMX_MOE_QUANT_NONE (0) or SHMEMX_MOE_QUANT_INT8 (1)");
    if (c->combine_quant != SHMEMX_MOE_QUANT_NONE && c->combine_quant != SHMEMX_MOE_QUANT_INT8)
        return bad(call, "combine_quant", c->combine_quant,
                   "SHMEMX_MOE_QUANT_NONE (0) or SHMEMX_MOE_QUANT_INT8 (1)");
    if (c->group != 0 && c->group != 32 && c->group != 64 && c->group != 128)
        return bad(call, "group", c->group, "32, 64, 128 or 0 (= row)");
    if (c->nonfinite != SHMEMX_NONFINITE_ERROR && c->nonfinite != SHMEMX_NONFINITE_SATURATE)
        return bad(call, "nonfinite", c->nonfinite,
                   "SHMEMX_NONFINITE_ERROR (0) or SHMEMX_NONFINITE_SATURATE (1)");
    return SHMEMX_SUCCESS;
}

static int check_sizes(const char *call, const shmemx_moe_config_t *c, int ranks)
{
    if (c->hidden < 1 || c->hidden > INT32_MAX / 8 ||
        c->hidden * (int64_t)shmemi_float_bytes(c->type) % 16 != 0)
        return bad(call, "hidden", c->hidden, "positive, below 2^28, a row a multiple of 16 bytes");
    if (c->num_experts < 1 || c->num_experts > INT32_MAX)
        return bad(call, "num_experts", c->num_experts, "1 to 2^31 - 1");
    if (c->topk < 1 || c->topk > SHMEMX_MOE_MAX_TOPK)
        return bad(call, "topk", c->topk, "1 to 32");
    if (c->results < 1 || c->results > MAX_RESULTS)
        return bad(call, "results", c->results, "1 to 64, or 0 = 2");
    if (c->expert_alignment < 1 || c->expert_alignment > 1 << 20)
        return bad(call, "expert_alignment", c->expert_alignment, "1 to 2^20, or 0 = 1");
    /* Row numbers and places in the expert form are int32 everywhere. */
    int64_t local = c->num_experts / ranks + 1;
    if (c->max_tokens < 1 || c->max_tokens > INT32_MAX / (ranks * c->topk))
        return bad(call, "max_tokens", c->max_tokens, "positive, with ranks * max_tokens * topk below 2^31");
    if (c->capacity < 1 || c->capacity > (INT32_MAX - local * c->expert_alignment) / c->topk)
        return bad(call, "capacity", c->capacity,
                   "positive, with capacity * topk and the padding below 2^31");
    return SHMEMX_SUCCESS;
}

/* The member's view of an object before there is memory: everything that needs no other PE. */
static int prepare(const char *call, const shmemx_moe_config_t *config, struct shmemx_moe *m)
{
    m->c = *config;
    m->ranks = shmem_team_n_pes(config->team);
    m->me = shmem_team_my_pe(config->team);
    if (m->ranks < 1 || m->me < 0)
        return shmemi_fail(SHMEMX_ERR_TEAM, call,
                           "team %p is not valid here; PEs of no team give SHMEM_TEAM_INVALID",
                           (void *)config->team);
    m->c.results = m->c.results ? m->c.results : DEFAULT_RESULTS;
    m->c.expert_alignment = m->c.expert_alignment ? m->c.expert_alignment : 1;
    if (m->c.capacity == 0 || m->c.mode == SHMEMX_MOE_WORST_CASE)
        m->c.capacity = m->c.max_tokens < 1 || m->c.max_tokens > INT32_MAX ? 1 : m->ranks * m->c.max_tokens;
    int rc = check_kinds(call, &m->c);
    return rc ? rc : check_sizes(call, &m->c, m->ranks);
}

static size_t up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

/* Which ranks share a node, and how many of them a token may go to. */
static int find_nodes(const char *call, struct shmemx_moe *m)
{
    int most = 1, apart = 0;
    m->world = malloc((size_t)m->ranks * sizeof *m->world);
    m->node = malloc((size_t)m->ranks * sizeof *m->node);
    if (!m->world || !m->node)
        return shmemi_fail(SHMEMX_ERR_NO_MEMORY, call, "no private memory for %d ranks", m->ranks);
    for (int r = 0; r < m->ranks; r++) {
        m->world[r] = shmem_team_translate_pe(m->c.team, r, SHMEM_TEAM_WORLD);
        m->node[r] = shmemi_moe_never_direct ? r : shmemi_node.node_of[m->world[r]];
        int mates = 1;
        for (int before = 0; before < r; before++)
            mates += m->node[before] == m->node[r];
        most = mates > most ? mates : most;
        apart |= m->node[r] != m->node[0];
    }
    m->fan = !apart ? 0 : (most < m->c.topk ? most : (int)m->c.topk) - 1;
    return SHMEMX_SUCCESS;
}

/* Where everything is in records and in the block. */
static void lay_out(struct shmemx_moe *m)
{
    const shmemx_moe_config_t *c = &m->c;
    size_t ranks = (size_t)m->ranks, k = (size_t)c->topk, part = up(k * 4, 16);
    m->element = shmemi_float_bytes(c->type);
    m->row = (size_t)c->hidden * m->element;
    size_t quantized = shmemx_int8_row_bytes((size_t)c->hidden, (size_t)c->group);
    m->sent_row = c->quant ? quantized : m->row;
    m->back_row = c->combine_quant ? quantized : m->row;
    m->ids_at = up(m->sent_row, 16);
    m->weights_at = m->ids_at + part;
    m->source_at = m->weights_at + part;
    m->record = up(m->source_at + 16, SHMEMI_CACHE_LINE);
    m->back_weights_at = up(m->back_row, 16);
    m->back_record = up(m->back_weights_at + part, SHMEMI_CACHE_LINE);
    /* One buffer more where nothing tells a sender that its peers have begun the same dispatch
     * (moe_dispatch.c). */
    m->slots = c->results + (c->mode == SHMEMX_MOE_WORST_CASE);
    m->combine_rows =
        c->max_tokens * (c->mode == SHMEMX_MOE_WORST_CASE || m->ranks < c->topk ? m->ranks : c->topk);
    m->line_bytes = up(sizeof(struct shmemi_moe_line) + ranks * sizeof(int32_t), SHMEMI_CACHE_LINE);
    m->receive_at = up(2 * ranks * m->line_bytes, 4096);
    m->receive_bytes = up((size_t)c->capacity * m->record, 4096);
    m->combine_at = m->receive_at + (size_t)m->slots * m->receive_bytes;
    m->combine_bytes = up((size_t)m->combine_rows * m->back_record, 4096);
    m->parts_at = m->combine_at + 2 * m->combine_bytes;
    m->block_bytes = m->parts_at + (m->fan ? (size_t)c->capacity * (size_t)c->hidden * sizeof(float) : 0);
    m->info.ranks = m->ranks;
    m->info.rank = m->me;
    m->info.capacity = c->capacity;
    m->info.record_bytes = (int64_t)m->record;
    m->info.combine_record_bytes = (int64_t)m->back_record;
    m->info.heap_bytes = (int64_t)m->block_bytes;
}

/* Private memory and tables. */
static int fill(const char *call, struct shmemx_moe *m)
{
    size_t ranks = (size_t)m->ranks, experts = (size_t)m->c.num_experts;
    m->owner = malloc(experts * sizeof *m->owner);
    m->first = malloc((ranks + 1) * sizeof *m->first);
    m->peer = calloc(ranks, sizeof *m->peer);
    m->stage = calloc(ranks, sizeof *m->stage);
    m->sent = malloc(ranks * sizeof *m->sent);
    m->line = calloc(1, m->line_bytes);
    m->record_scratch = malloc(m->sent_row);
    m->sum = malloc((size_t)m->c.hidden * sizeof *m->sum);
    if (!m->owner || !m->first || !m->peer || !m->stage || !m->sent || !m->line || !m->record_scratch ||
        !m->sum)
        return shmemi_fail(SHMEMX_ERR_NO_MEMORY, call, "no private memory for %d ranks, %zu experts",
                           m->ranks, experts);
    int64_t each = m->c.num_experts / m->ranks, more = m->c.num_experts % m->ranks;
    m->first[0] = 0;
    for (int r = 0; r < m->ranks; r++) {
        m->first[r + 1] = m->first[r] + (int32_t)(each + (r < more));
        for (int32_t e = m->first[r]; e < m->first[r + 1]; e++)
            m->owner[e] = r;
    }
    m->info.first_expert = m->first[m->me];
    m->info.local_experts = m->first[m->me + 1] - m->first[m->me];
    return SHMEMX_SUCCESS;
}

/* ---- agreement ----------------------------------------------------------------------------------------- */

/* What must be equal in all members, with the names for the message. */
#define AGREED(X)                                                                                            \
    X(type)                                                                                                  \
    X(mode)                                                                                                  \
    X(quant)                                                                                                 \
    X(combine_quant)                                                                                         \
    X(group)                                                                                                 \
    X(nonfinite)                                                                                             \
    X(results)                                                                                               \
    X(hidden)                                                                                                \
    X(num_experts)                                                                                           \
    X(topk)                                                                                                  \
    X(max_tokens)                                                                                            \
    X(capacity)                                                                                              \
    X(expert_alignment)
#define ONE(field) +1
enum { FIELDS = 0 AGREED(ONE) };
#undef ONE
static const char *const field_names[FIELDS] = {
#define NAME(field) #field,
    AGREED(NAME)
#undef NAME
};

static void make_offer(const struct shmemx_moe *m, int error, struct shmemi_moe_offer *o)
{
    *o = (struct shmemi_moe_offer){.error = error};
    if (error || m->ranks == 0)
        return;
    shmemi_moe_offer_team(o, m->world, m->ranks);
    o->bytes = (int64_t)m->block_bytes;
    int i = 0;
#define COPY(field) o->fields[i++] = m->c.field;
    AGREED(COPY)
#undef COPY
}

/* ---- create, destroy ----------------------------------------------------------------------------------- */

/* After the block is there: pointers to it, and empty lines. */
static int connect_ranks(const char *call, void *object, void *block)
{
    struct shmemx_moe *m = object;
    m->base.block = block;
    memset(m->base.block, 0, m->receive_at);
    size_t in = (size_t)m->c.max_tokens * m->record, back = (size_t)m->c.max_tokens * m->back_record;
    for (int r = 0; r < m->ranks; r++) {
        m->peer[r] = r == m->me                ? m->base.block
                     : shmemi_moe_never_direct ? NULL
                                               : shmem_ptr(m->base.block, m->world[r]);
        if (m->peer[r])
            continue;
        m->far = true;
        m->stage[r] = malloc(in > back ? in : back);
        if (m->stage[r] == NULL)
            return shmemi_fail(SHMEMX_ERR_NO_MEMORY, call, "%zu bytes to stage rows for PE %d",
                               in > back ? in : back, m->world[r]);
    }
    return SHMEMX_SUCCESS;
}

int shmemx_moe_create(const shmemx_moe_config_t *config, shmemx_moe_t **moe)
{
    SHMEMI_REQUIRE_INIT(__func__);
    int error = SHMEMX_SUCCESS;
    struct shmemx_moe *m = NULL;
    if (moe == NULL || config == NULL) {
        error = shmemi_fail(SHMEMX_ERR_ARGUMENT, __func__, "%s is NULL", moe ? "config" : "moe");
    } else if ((m = calloc(1, sizeof *m)) == NULL) {
        error = shmemi_fail(SHMEMX_ERR_NO_MEMORY, __func__, "%zu bytes of private memory", sizeof *m);
    } else if (config->team != SHMEM_TEAM_INVALID) {
        error = prepare(__func__, config, m);
        error = error ? error : find_nodes(__func__, m);
        if (!error) {
            lay_out(m);
            error = fill(__func__, m);
        }
    }
    if (moe)
        *moe = NULL;
    struct shmemi_moe_offer mine;
    struct shmemi_moe_creation how = {.call = __func__,
                                      .names = field_names,
                                      .fields = FIELDS,
                                      .kind = SHMEMX_MEM_HOST,
                                      .ready = connect_ranks,
                                      .object = m};
    make_offer(m, error, &mine);
    void *block;
    int rc = shmemi_moe_create(&how, &mine, &block);
    if (rc) {
        free_object(m);
        return rc;
    }
    shmemi_moe_enlist(&objects, &m->base, block);
    *moe = m;
    return SHMEMX_SUCCESS;
}

int shmemx_moe_destroy(shmemx_moe_t *moe)
{
    int rc;
    if (shmemi_moe_dismiss(&objects, __func__, (struct shmemi_moe_object *)moe, &rc))
        free_object(moe);
    return rc;
}

int shmemx_moe_info(shmemx_moe_t *moe, shmemx_moe_info_t *info)
{
    int rc;
    if (!shmemi_moe_find(__func__, moe, &rc))
        return rc;
    if (info == NULL)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, __func__, "info is NULL");
    *info = moe->info;
    return SHMEMX_SUCCESS;
}
