/* Queue pairs of kernels: opening, connecting, what kernels see. */
#include "ibgda.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/gpu.h"
#include "base/wait.h"
#include "device/mlx5.h"
#include "ibgda_state.h"

struct shmemi_ibgda shmemi_ibgda = {.queues_fd = -1};

/* ---- opening ------------------------------------------------------------------------------------------- */

/* verbs_opener: for DevX commands, if the device has what is wanted. */
static struct ibv_context *open_mlx5(struct ibv_device *device, char *why, size_t n)
{
    const struct shmemi_mlx5_lib *dv = shmemi_mlx5_lib(why, n);
    struct mlx5dv_context_attr attr = {.flags = MLX5DV_CONTEXT_FLAGS_DEVX};
    if (!dv)
        return NULL;
    if (!dv->is_supported(device)) {
        snprintf(why, n, "is no mlx5 device: kernels cannot post to it themselves");
        return NULL;
    }
    struct ibv_context *context = dv->open_device(device, &attr);
    if (!context) {
        snprintf(why, n,
                 "cannot be opened for DevX commands: mlx5dv_open_device: %s (the kernel's mlx5_ib must have "
                 "DevX, and the process access to /dev/infiniband/uverbs*)",
                 strerror(errno));
        return NULL;
    }
    if (shmemi_ibgda_capable(context, why, n))
        return context;
    (void)shmemi_verbs_lib(NULL, 0)->close_device(context);
    return NULL;
}

int shmemi_ibgda_probe(char *why, size_t n)
{
    struct verbs_port port;
    if (shmemi_ibgda_is_open()) { /* what it has found of its device stays */
        snprintf(why, n, "%s, open", shmemi_ibgda.port.name);
        return 1;
    }
    if (!shmemi_mlx5_lib(why, n) || !shmemi_verbs_choose(&port, 0, open_mlx5, why, n))
        return 0;
    (void)shmemi_verbs_lib(NULL, 0)->close_device(port.context);
    return 1;
}

static unsigned log2_of(long n)
{
    unsigned log = 0;
    while (1l << log < n)
        ++log;
    return log;
}

static int settings(const char *call)
{
    struct shmemi_ibgda *g = &shmemi_ibgda;
    long qps = shmemi_env.IBGDA_QPS, depth = shmemi_env.IBGDA_DEPTH;
    if (qps < 1 || qps > 64 || 1l << log2_of(qps) != qps)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call,
                           "SHMEM_IBGDA_QPS=%ld; a power of 2 from 1 to 64 is possible", qps);
    if (depth < SHMEMX_IBGDA_LEAST_DEPTH || depth > SHMEMX_IBGDA_MOST_DEPTH || 1l << log2_of(depth) != depth)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call,
                           "SHMEM_IBGDA_DEPTH=%ld; a power of 2 from %d to %d is possible", depth,
                           SHMEMX_IBGDA_LEAST_DEPTH, SHMEMX_IBGDA_MOST_DEPTH);
    g->qps = (unsigned)qps;
    g->log_depth = log2_of(depth);
    if (g->most_log_depth && g->log_depth > g->most_log_depth)
        g->log_depth = g->most_log_depth;
    g->depth = 1u << g->log_depth;
    int reads = g->port.device.max_qp_rd_atom;
    g->reads = reads > 16 ? 16 : reads < 1 ? 1 : reads;
    return shmemi_verbs_settings(call, &g->port);
}

uint32_t shmemi_ibgda_draw_psn(void)
{
    struct shmemi_ibgda *g = &shmemi_ibgda;
    if (getrandom(&g->psn, sizeof g->psn, 0) != sizeof g->psn)
        g->psn += (uint32_t)(uintptr_t)g->port.context;
    return g->psn &= 0xffffff;
}

static int set_up(const char *call)
{
    struct shmemi_ibgda *g = &shmemi_ibgda;
    int rc = settings(call);
    if (rc)
        return rc;
    (void)shmemi_ibgda_draw_psn();
    size_t count = (size_t)g->job->npes * g->qps;
    g->qp = calloc(count, sizeof *g->qp);
    g->connected = calloc((size_t)g->job->npes, sizeof *g->connected);
    g->cards = calloc((size_t)g->job->npes, sizeof *g->cards);
    g->pd = g->lib->alloc_pd(g->port.context);
    if (!g->qp || !g->connected || !g->cards || !g->pd)
        return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "%s: %s", g->port.name, strerror(errno));
    if ((rc = shmemi_ibgda_domain(call)) != 0 || (rc = shmemi_ibgda_memory_open(call)) != 0)
        return rc;
    for (size_t i = 0; i < count && rc == 0; ++i)
        rc = shmemi_ibgda_make(call, i);
    return rc;
}

int shmemi_ibgda_open(const char *call, const struct shmemi_job *job, int segment)
{
    struct shmemi_ibgda *g = &shmemi_ibgda;
    char why[400];
    if (shmemi_ibgda_is_open())
        return SHMEMX_SUCCESS;
    g->lib = shmemi_verbs_lib(why, sizeof why);
    g->dv = g->lib ? shmemi_mlx5_lib(why, sizeof why) : NULL;
    if (!g->dv || !shmemi_verbs_choose(&g->port, job->local_of[job->me], open_mlx5, why, sizeof why)) {
        *g = (struct shmemi_ibgda){.queues_fd = -1};
        return shmemi_fail(SHMEMX_ERR_UNSUPPORTED, call, "ibgda: %s", why);
    }
    g->job = job;
    g->segment = segment;
    g->gpu = segment == SHMEMI_SEGMENT_DEVICE;
    int rc = set_up(call);
    if (rc)
        shmemi_ibgda_close();
    else
        shmemi_debug("ibgda: %s; %u queue pairs of %u blocks to each PE, in memory of the %s", why, g->qps,
                     g->depth, g->queues_on_gpu ? "GPU" : "host");
    return rc;
}

bool shmemi_ibgda_is_open(void)
{
    return shmemi_ibgda.job != NULL;
}

void shmemi_ibgda_close(void)
{
    struct shmemi_ibgda *g = &shmemi_ibgda;
    if (!g->job)
        return;
    for (size_t i = (size_t)g->job->npes * g->qps;
         g->qp && i-- > 0;) /* the last first: they share registers */
        shmemi_ibgda_drop(i);
    shmemi_ibgda_memory_close();
    if (g->pd)
        (void)g->lib->dealloc_pd(g->pd);
    (void)g->lib->close_device(g->port.context);
    free(g->qp);
    free(g->connected);
    free(g->cards);
    *g = (struct shmemi_ibgda){.queues_fd = -1};
}

/* ---- connecting ---------------------------------------------------------------------------------------- */

size_t shmemi_ibgda_card_bytes(int npes)
{
    return sizeof(struct ibgda_card) + sizeof(uint32_t) * (size_t)npes * shmemi_ibgda.qps;
}

int shmemi_ibgda_card(void *card, size_t room)
{
    const struct shmemi_ibgda *g = &shmemi_ibgda;
    size_t bytes = shmemi_ibgda_card_bytes(g->job->npes), count = (size_t)g->job->npes * g->qps;
    if (room < bytes)
        return shmemi_fail(SHMEMX_ERR_LIMIT, "ibgda", "the card for %d PEs has %zu bytes, %zu are possible",
                           g->job->npes, bytes, room);
    struct ibgda_card c = {.version = IBGDA_CARD_VERSION,
                           .psn = g->psn,
                           .qps = g->qps,
                           .lid = g->port.attr.lid,
                           .mtu = (uint8_t)g->port.attr.active_mtu,
                           .reads = (uint8_t)g->reads};
    memcpy(c.gid, g->port.gid.raw, sizeof c.gid);
    snprintf(c.port, sizeof c.port, "%.23s", g->port.name);
    memcpy(card, &c, sizeof c);
    for (size_t i = 0; i < count; ++i)
        memcpy((char *)card + sizeof c + i * sizeof(uint32_t), &g->qp[i].qpn, sizeof(uint32_t));
    return (int)bytes;
}

int shmemi_ibgda_connect(const char *call, int pe, const void *card, size_t n)
{
    struct shmemi_ibgda *g = &shmemi_ibgda;
    struct ibgda_card c;
    if (n < sizeof c)
        return shmemi_fail(SHMEMX_ERR_MISMATCH, call, "PE %d's card for ibgda has %zu bytes", pe, n);
    memcpy(&c, card, sizeof c);
    if (c.version != IBGDA_CARD_VERSION || c.qps != g->qps || n != shmemi_ibgda_card_bytes(g->job->npes))
        return shmemi_fail(SHMEMX_ERR_MISMATCH, call,
                           "PE %d has version %u of ibgda and SHMEM_IBGDA_QPS=%u, this PE version %d and %u",
                           pe, c.version, c.qps, IBGDA_CARD_VERSION, g->qps);
    int rc = SHMEMX_SUCCESS;
    g->cards[pe] = c;
    for (unsigned k = 0; k < g->qps && rc == 0; ++k) {
        size_t i = (size_t)pe * g->qps + k;
        memcpy(&g->qp[i].peer_qpn,
               (const char *)card + sizeof c + ((size_t)g->job->me * g->qps + k) * sizeof(uint32_t),
               sizeof(uint32_t));
        rc = shmemi_ibgda_join(call, i, pe);
    }
    g->connected[pe] = rc == 0;
    return rc;
}

/* ---- what kernels see ---------------------------------------------------------------------------------- */

size_t shmemi_ibgda_slots_at(size_t i)
{
    const struct shmemi_ibgda *g = &shmemi_ibgda;
    return (size_t)g->job->npes * g->qps * sizeof(struct shmemx_ibgda_qp) +
           i * g->depth * 2 * sizeof(uint32_t);
}

static void describe(struct shmemx_ibgda_qp *q, size_t i)
{
    const struct shmemi_ibgda *g = &shmemi_ibgda;
    const char *queue = g->queues.base + i * shmemi_ibgda_queue_bytes();
    size_t pe = i / g->qps;
    const struct verbs_key *key = &g->chunk[0].keys[pe];
    *q = (struct shmemx_ibgda_qp){
        .wq = (uintptr_t)queue,
        .record = (uintptr_t)queue + shmemi_ibgda_records_at() + SHMEMX_MLX5_RECORD_SEND * sizeof(uint32_t),
        .uar = g->qp[i].uar_seen,
        .cq = (uintptr_t)queue + shmemi_ibgda_cq_at(),
        .answers = (uintptr_t)g->answers.base + i * shmemi_ibgda_answer_bytes(),
        .slots = (uintptr_t)g->counts.base + shmemi_ibgda_slots_at(i),
        .qpn = g->qp[i].qpn << 8,
        .mask = g->depth - 1,
        .log_cq = g->log_depth,
        .answers_key = htonl(g->answers_mr->lkey),
        .pe = (int)pe,
        .number = (unsigned)(i % g->qps),
        .first_end = g->chunk[0].n,
        .first_address = key->addr,
        .first_key = htonl(key->rkey),
        .first_local = htonl(g->chunk[0].mr->lkey),
    };
}

static int make_counts(const char *call)
{
    struct shmemi_ibgda *g = &shmemi_ibgda;
    size_t count = (size_t)g->job->npes * g->qps;
    struct shmemx_ibgda_qp *qps = calloc(count, sizeof *qps);
    int rc = qps ? shmemi_ibgda_get(call, &g->counts, g->gpu ? IBGDA_ON_GPU : IBGDA_PRIVATE,
                                    shmemi_ibgda_slots_at(count))
                 : shmemi_fail(SHMEMX_ERR_SYSTEM, call, "out of memory for %zu queue pairs", count);
    for (size_t i = 0; i < count && rc == 0; ++i)
        if (g->connected[i / g->qps])
            describe(&qps[i], i);
    if (rc == 0)
        rc = shmemi_ibgda_write(call, &g->counts, 0, qps, count * sizeof *qps);
    free(qps);
    return rc;
}

/* The header, the chunks, every PE's keys of them. */
static int make_tables(const char *call)
{
    struct shmemi_ibgda *g = &shmemi_ibgda;
    size_t npes = (size_t)g->job->npes, header = 256;
    unsigned room = g->room ? g->room : 16;
    while (room < (unsigned)g->chunks)
        room *= 2;
    size_t chunks = header, keys = chunks + room * sizeof(struct shmemx_ibgda_chunk);
    size_t bytes = keys + npes * room * sizeof(struct shmemx_ibgda_key);
    int rc = SHMEMX_SUCCESS;
    if (room != g->room) {
        shmemi_ibgda_give(&g->tables);
        rc = shmemi_ibgda_get(call, &g->tables, g->gpu ? IBGDA_ON_GPU : IBGDA_PRIVATE, bytes);
    }
    char *all = rc ? NULL : calloc(1, bytes);
    if (rc == 0 && !all)
        rc = shmemi_fail(SHMEMX_ERR_SYSTEM, call, "out of memory for %zu PEs", npes);
    if (rc)
        return rc;
    g->room = room;
    struct shmemx_device_ibgda view = {.count = (unsigned)g->chunks,
                                       .room = room,
                                       .most = SHMEMX_MLX5_MOST_MESSAGE,
                                       .chunks = (uintptr_t)g->tables.base + chunks,
                                       .keys = (uintptr_t)g->tables.base + keys};
    memcpy(all, &view, sizeof view);
    for (int i = 0; i < g->chunks; ++i) {
        const struct ibgda_chunk *c = &g->chunk[i];
        struct shmemx_ibgda_chunk *to = (struct shmemx_ibgda_chunk *)(all + chunks) + i;
        *to = (struct shmemx_ibgda_chunk){c->offset + c->n, htonl(c->mr->lkey), 0};
        for (size_t pe = 0; pe < npes; ++pe)
            ((struct shmemx_ibgda_key *)(all + keys))[pe * room + (size_t)i] =
                (struct shmemx_ibgda_key){c->keys[pe].addr - c->offset, htonl(c->keys[pe].rkey), 0};
    }
    rc = shmemi_ibgda_write(call, &g->tables, 0, all, bytes);
    free(all);
    return rc;
}

int shmemi_ibgda_view(const char *call, struct shmemx_device_nic *view, struct shmemx_device_ways *ways)
{
    struct shmemi_ibgda *g = &shmemi_ibgda;
    if (g->chunks == 0)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "ibgda: no memory is registered yet");
    int rc = g->counts.base ? SHMEMX_SUCCESS : make_counts(call);
    if (rc == 0)
        rc = make_tables(call);
    view->ibgda = (uintptr_t)g->tables.base;
    ways->qp = (uintptr_t)g->counts.base;
    ways->qps = g->qps;
    return rc;
}
