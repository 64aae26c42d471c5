/* Routing: which rank each token goes to, where its row lies there, and where what comes back will lie. */
#include <stdlib.h>
#include <string.h>

#include "moe.h"

/* The choice at `i` as int64. */
static inline int64_t choice(const void *topk_idx, int idx_type, size_t i)
{
    return idx_type == SHMEMX_INT64 ? ((const int64_t *)topk_idx)[i] : ((const int32_t *)topk_idx)[i];
}

static int bad_choice(const char *call, const struct shmemx_moe *moe, size_t i, int64_t id)
{
    size_t k = (size_t)moe->c.topk;
    return shmemi_fail(SHMEMX_ERR_ARGUMENT, call,
                       "topk_idx[%zu][%zu] is %lld, not -1 or an expert in [0, %lld)", i / k, i % k,
                       (long long)id, (long long)moe->c.num_experts);
}

static int check_choices(const char *call, const struct shmemx_moe *moe, const void *topk_idx, int idx_type,
                         int64_t tokens)
{
    if (idx_type != SHMEMX_INT64 && idx_type != SHMEMX_INT32)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call,
                           "idx_type is %d, neither SHMEMX_INT64 (%d) nor SHMEMX_INT32 (%d)", idx_type,
                           SHMEMX_INT64, SHMEMX_INT32);
    if (tokens < 0 || tokens > moe->c.max_tokens)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "%lld tokens, must be 0 to max_tokens = %lld",
                           (long long)tokens, (long long)moe->c.max_tokens);
    if (tokens > 0 && topk_idx == NULL)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "topk_idx is NULL with %lld tokens", (long long)tokens);
    size_t n = (size_t)(tokens * moe->c.topk);
    for (size_t i = 0; i < n; i++) {
        int64_t id = choice(topk_idx, idx_type, i);
        if (SHMEMI_UNLIKELY(id < -1 || id >= moe->c.num_experts))
            return bad_choice(call, moe, i, id);
    }
    return SHMEMX_SUCCESS;
}

int shmemx_moe_layout(shmemx_moe_t *moe, const void *topk_idx, int idx_type, int64_t tokens,
                      int32_t *num_tokens_per_rank, int32_t *num_tokens_per_expert, uint8_t *is_token_in_rank)
{
    int rc;
    if (!shmemi_moe_find(__func__, moe, &rc))
        return rc;
    rc = check_choices(__func__, moe, topk_idx, idx_type, tokens);
    if (rc)
        return rc;
    size_t k = (size_t)moe->c.topk, ranks = (size_t)moe->ranks;
    if (num_tokens_per_rank)
        memset(num_tokens_per_rank, 0, ranks * sizeof *num_tokens_per_rank);
    if (num_tokens_per_expert)
        memset(num_tokens_per_expert, 0, (size_t)moe->c.num_experts * sizeof *num_tokens_per_expert);
    if (is_token_in_rank)
        memset(is_token_in_rank, 0, (size_t)tokens * ranks);
    for (size_t t = 0; t < (size_t)tokens; t++) {
        int32_t seen[SHMEMX_MOE_MAX_TOPK];
        int nseen = 0;
        for (size_t j = 0; j < k; j++) {
            int64_t id = choice(topk_idx, idx_type, t * k + j);
            if (id < 0)
                continue;
            if (num_tokens_per_expert)
                num_tokens_per_expert[id]++;
            int32_t r = moe->owner[id];
            int s = 0;
            while (s < nseen && seen[s] != r)
                s++;
            if (s < nseen)
                continue;
            seen[nseen++] = r;
            if (num_tokens_per_rank)
                num_tokens_per_rank[r]++;
            if (is_token_in_rank)
                is_token_in_rank[t * ranks + (size_t)r] = 1;
        }
    }
    return SHMEMX_SUCCESS;
}

/* ---- memory: one block a side, its arrays laid out by the same code that measures it ------------------- */

static void *carve(char *base, size_t *used, size_t count, size_t size)
{
    void *p = base ? base + *used : NULL;
    *used += (count * size + 15) & ~(size_t)15;
    return p;
}

static size_t carve_sending(const struct shmemx_moe *moe, struct shmemi_moe_route *r, char *base)
{
    size_t used = 0, ranks = (size_t)moe->ranks, t = (size_t)r->tokens, k = (size_t)moe->c.topk;
    size_t pairs = t * (k < ranks ? k : ranks);
    r->start = carve(base, &used, t + 1, sizeof *r->start);
    r->rank = carve(base, &used, pairs, sizeof *r->rank);
    r->at = carve(base, &used, pairs, sizeof *r->at);
    r->via = carve(base, &used, pairs, sizeof *r->via);
    r->owner = carve(base, &used, t * k, sizeof *r->owner);
    int32_t **const by_rank[] = {&r->send_count, &r->send_base,   &r->own_base, &r->recv_start,
                                 &r->recv_count, &r->return_base, &r->total};
    for (size_t i = 0; i < sizeof by_rank / sizeof *by_rank; i++)
        *by_rank[i] = carve(base, &used, ranks, sizeof(int32_t));
    return used;
}

static size_t carve_receiving(const struct shmemx_moe *moe, struct shmemi_moe_route *r, char *base)
{
    size_t used = 0, rows = (size_t)r->rows, k = (size_t)moe->c.topk, local = (size_t)moe->info.local_experts;
    r->ids = carve(base, &used, rows * k, sizeof *r->ids);
    r->weights = carve(base, &used, rows * k, sizeof *r->weights);
    r->source_rank = carve(base, &used, rows, sizeof *r->source_rank);
    r->source_token = carve(base, &used, rows, sizeof *r->source_token);
    r->copy_rank = carve(base, &used, rows, sizeof *r->copy_rank);
    r->copy_row = carve(base, &used, rows, sizeof *r->copy_row);
    r->parts = carve(base, &used, moe->fan ? rows : 0, sizeof *r->parts);
    r->part_rank = carve(base, &used, rows * (size_t)moe->fan, sizeof *r->part_rank);
    r->part_row = carve(base, &used, rows * (size_t)moe->fan, sizeof *r->part_row);
    r->place = carve(base, &used, rows * k, sizeof *r->place);
    r->per_expert = carve(base, &used, local, sizeof *r->per_expert);
    r->offsets = carve(base, &used, local + 1, sizeof *r->offsets);
    return used;
}

static int no_memory(const char *call, size_t bytes)
{
    return shmemi_fail(SHMEMX_ERR_NO_MEMORY, call, "%zu bytes of private memory for the routing", bytes);
}

void shmemi_moe_route_release(struct shmemi_moe_route *route)
{
    if (route == NULL || --route->refs > 0)
        return;
    free(route->sending);
    free(route->receiving);
    free(route);
}

/* ---- sending side -------------------------------------------------------------------------------------- */

int shmemi_moe_plan(const char *call, const struct shmemx_moe *moe, const void *topk_idx, int idx_type,
                    int64_t tokens, struct shmemi_moe_route **route)
{
    *route = NULL;
    int rc = check_choices(call, moe, topk_idx, idx_type, tokens);
    if (rc)
        return rc;
    struct shmemi_moe_route *r = calloc(1, sizeof *r);
    if (r == NULL)
        return no_memory(call, sizeof *r);
    r->refs = 1;
    r->tokens = tokens;
    size_t bytes = carve_sending(moe, r, NULL);
    r->sending = malloc(bytes);
    if (r->sending == NULL) {
        free(r);
        return no_memory(call, bytes);
    }
    carve_sending(moe, r, r->sending);
    memset(r->send_count, 0, (size_t)moe->ranks * sizeof *r->send_count);
    size_t k = (size_t)moe->c.topk, used = 0;
    for (size_t t = 0; t < (size_t)tokens; t++) {
        size_t begin = used;
        r->start[t] = (int32_t)begin;
        for (size_t j = 0; j < k; j++) {
            int64_t id = choice(topk_idx, idx_type, t * k + j);
            int32_t owner = id < 0 ? -1 : moe->owner[id];
            r->owner[t * k + j] = owner;
            if (owner < 0)
                continue;
            /* Insert into the token's ranks, kept ascending: at most K of them. */
            size_t i = used;
            while (i > begin && r->rank[i - 1] > owner)
                i--;
            if (i > begin && r->rank[i - 1] == owner)
                continue;
            memmove(r->rank + i + 1, r->rank + i, (used - i) * sizeof *r->rank);
            r->rank[i] = owner;
            used++;
        }
        for (size_t i = begin; i < used; i++) {
            r->at[i] = r->send_count[r->rank[i]]++;
            size_t first = begin;
            while (moe->node[r->rank[first]] != moe->node[r->rank[i]])
                first++;
            r->via[i] = first == i || moe->peer[r->rank[i]] ? -1 : (int32_t)first;
        }
    }
    r->start[tokens] = (int32_t)used;
    *route = r;
    return SHMEMX_SUCCESS;
}

/* ---- where rows lie ------------------------------------------------------------------------------------ */

/* What rank `from` sends to rank `to`, by the lines of this round. */
static int32_t count_of(const struct shmemx_moe *moe, int from, int to)
{
    return shmemi_moe_line_of(moe, moe->base.block, moe->round, from)->counts[to];
}

static int place_packed(const char *call, const struct shmemx_moe *moe, struct shmemi_moe_route *r)
{
    int me = moe->me;
    for (int to = 0; to < moe->ranks; to++) {
        int64_t total = 0;
        r->send_base[to] = 0;
        for (int from = 0; from < moe->ranks; from++) {
            if (from == me)
                r->send_base[to] = (int32_t)total;
            total += count_of(moe, from, to);
        }
        if (total > moe->info.capacity)
            return shmemi_fail(SHMEMX_ERR_LIMIT, call,
                               "rank %d (PE %d) would receive %lld rows, its capacity is %lld", to,
                               moe->world[to], (long long)total, (long long)moe->info.capacity);
        r->total[to] = (int32_t)total;
    }
    int32_t in = 0, back = 0;
    for (int from = 0; from < moe->ranks; from++) {
        r->recv_start[from] = in;
        r->recv_count[from] = count_of(moe, from, me);
        in += r->recv_count[from];
        r->own_base[from] = back;
        back += r->send_count[from];
        r->return_base[from] = 0;
        for (int before = 0; before < me; before++)
            r->return_base[from] += count_of(moe, from, before);
    }
    r->rows = in;
    return SHMEMX_SUCCESS;
}

int shmemi_moe_place(const char *call, const struct shmemx_moe *moe, struct shmemi_moe_route *r)
{
    if (moe->c.mode == SHMEMX_MOE_EXCHANGE)
        return place_packed(call, moe, r);
    int32_t slots = (int32_t)moe->c.max_tokens;
    for (int rank = 0; rank < moe->ranks; rank++) {
        r->send_base[rank] = r->return_base[rank] = moe->me * slots;
        r->own_base[rank] = r->recv_start[rank] = rank * slots;
    }
    r->rows = moe->info.capacity;
    return SHMEMX_SUCCESS;
}

int shmemi_moe_reserve(const char *call, const struct shmemx_moe *moe, struct shmemi_moe_route *r)
{
    size_t bytes = carve_receiving(moe, r, NULL);
    r->receiving = malloc(bytes);
    if (r->receiving == NULL)
        return no_memory(call, bytes);
    carve_receiving(moe, r, r->receiving);
    return SHMEMX_SUCCESS;
}

/* ---- receiving side ------------------------------------------------------------------------------------ */

static void read_record(const struct shmemx_moe *moe, struct shmemi_moe_route *r, const char *record,
                        size_t row, int32_t source)
{
    size_t k = (size_t)moe->c.topk;
    const int32_t *ids = (const int32_t *)(const void *)(record + moe->ids_at);
    const float *weights = (const float *)(const void *)(record + moe->weights_at);
    for (size_t j = 0; j < k; j++) {
        r->ids[row * k + j] = ids[j];
        r->weights[row * k + j] = weights[j];
        if (ids[j] >= 0)
            r->per_expert[ids[j]]++;
    }
    int32_t from[4];
    memcpy(from, record + moe->source_at, sizeof from);
    r->source_rank[row] = source;
    r->source_token[row] = from[0];
    r->copy_rank[row] = from[2];
    r->copy_row[row] = from[3];
}

static void empty_slots(const struct shmemx_moe *moe, struct shmemi_moe_route *r, size_t from, size_t to)
{
    size_t k = (size_t)moe->c.topk;
    for (size_t i = from * k; i < to * k; i++) {
        r->ids[i] = -1;
        r->weights[i] = 0;
    }
    for (size_t row = from; row < to; row++)
        r->source_rank[row] = r->source_token[row] = r->copy_rank[row] = -1;
}

void shmemi_moe_copy_rows(const struct shmemx_moe *moe, const struct shmemi_moe_route *r, size_t offset)
{
    for (size_t row = 0; moe->far && row < (size_t)r->rows; row++)
        if (r->copy_rank[row] >= 0)
            memcpy(moe->base.block + offset + row * moe->record,
                   moe->peer[r->copy_rank[row]] + offset + (size_t)r->copy_row[row] * moe->record,
                   moe->sent_row);
}

/* Those among rows [from, to) of another rank whose row is this one's. */
static void find_parts_of(const struct shmemx_moe *moe, struct shmemi_moe_route *r, size_t offset, int rank,
                          size_t from, size_t to)
{
    for (size_t row = from; row < to; row++) {
        int32_t source[4];
        memcpy(source, moe->peer[rank] + offset + row * moe->record + moe->source_at, sizeof source);
        if (source[2] != moe->me)
            continue;
        size_t at = (size_t)source[3] * (size_t)moe->fan + (size_t)r->parts[source[3]]++;
        r->part_rank[at] = rank;
        r->part_row[at] = (int32_t)row;
    }
}

void shmemi_moe_find_parts(const struct shmemx_moe *moe, struct shmemi_moe_route *r, size_t offset)
{
    if (moe->fan == 0)
        return;
    memset(r->parts, 0, (size_t)r->rows * sizeof *r->parts);
    for (int rank = 0; rank < moe->ranks; rank++) {
        if (rank == moe->me || moe->node[rank] != moe->node[moe->me])
            continue;
        if (moe->c.mode == SHMEMX_MOE_EXCHANGE)
            find_parts_of(moe, r, offset, rank, 0, (size_t)r->total[rank]);
        else
            for (int source = 0; source < moe->ranks; source++) {
                size_t row = (size_t)r->recv_start[source]; /* every rank has the same slots */
                find_parts_of(moe, r, offset, rank, row, row + (size_t)count_of(moe, source, rank));
            }
    }
}

void shmemi_moe_read_records(const struct shmemx_moe *moe, struct shmemi_moe_route *r, const char *buffer)
{
    size_t k = (size_t)moe->c.topk, local = (size_t)moe->info.local_experts;
    memset(r->per_expert, 0, local * sizeof *r->per_expert);
    for (int source = 0; source < moe->ranks; source++) {
        size_t row = (size_t)r->recv_start[source], end = row + (size_t)r->recv_count[source];
        for (; row < end; row++) {
            const char *record = buffer + row * moe->record;
            /* Strides of kilobytes are beyond the hardware's prefetcher. */
            __builtin_prefetch(record + 8 * moe->record + moe->ids_at);
            read_record(moe, r, record, row, source);
        }
        size_t next = source + 1 < moe->ranks ? (size_t)r->recv_start[source + 1] : (size_t)r->rows;
        empty_slots(moe, r, row, next);
    }
    int64_t align = moe->c.expert_alignment, total = 0;
    for (size_t e = 0; e < local; e++) {
        r->offsets[e] = total;
        total += (r->per_expert[e] + align - 1) / align * align;
    }
    r->offsets[local] = total;
    /* per_expert serves as each expert's fill level, and is whole again at the end. */
    memset(r->per_expert, 0, local * sizeof *r->per_expert);
    for (size_t i = 0; i < (size_t)r->rows * k; i++) {
        int64_t e = r->ids[i];
        r->place[i] = e < 0 ? -1 : (int32_t)(r->offsets[e] + r->per_expert[e]++);
    }
}
