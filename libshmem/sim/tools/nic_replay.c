/* Posts the requests of traces to software NICs once more, and compares the completions: `pyshmem nic-trace --replay`.
 *
 *   nic_replay [--json] TRACE...
 *
 * The traces of one job (trace.h), one file a process. Two NICs are opened here, driven step by step: `near` posts for every
 * queue pair of the traces, `far` answers as its peer. Memory is made anew for every key, as large and with the same
 * rights, so that addresses and keys in WQEs are put in place of the old ones; its content is zero, as traces do not have it:
 * what atomics find may differ, entries do not. A peer that fell silent falls silent again.
 *
 * Not replayed: unreliable datagrams, faults (the entries that they have made are shown as differences), and the times. */
#define _GNU_SOURCE
#include "replay.h"

#include <errno.h>
#include <fcntl.h>
#include <infiniband/verbs.h>
#include <unistd.h>

#include "transport/mlx5_prm.h"

enum { LOG_CQ = 16, RECEIVES = 1024, RECEIVE = 1 << 20 };
static const uint64_t IDLE_NS = 3000000, PATIENCE_NS = 2000000000;

struct replay replay;

/* ---- memory and keys --------------------------------------------------------------------------------------- */

static struct key *key_of(uint16_t lid, uint32_t number)
{
    for (struct key *k = replay.keys; k; k = k->next)
        if (k->lid == lid && k->number == number && k->good)
            return k;
    return NULL;
}

static uint32_t domain(uint16_t lid, uint32_t pd)
{
    return (uint32_t)lid << 16 ^ pd;
}

static void key_event(const struct record *r)
{
    const struct sim_trace_key *t = r->body;
    struct key *k = key_of(r->lid, r->head->number);
    if (k) {
        sim_key_destroy(replay.near, k->at_near);
        sim_key_destroy(replay.far, k->at_far);
        k->good = false;
    }
    if (t->bytes == 0)
        return;
    k = calloc(1, sizeof *k);
    size_t in_page = t->address % 4096;
    char *memory = mmap(NULL, t->bytes + in_page, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (!k || memory == MAP_FAILED)
        give_up("%s: key 0x%x: no memory for %llu bytes", r->file, r->head->number,
                (unsigned long long)t->bytes);
    uint64_t address = (uint64_t)(uintptr_t)memory + in_page;
    uint32_t pd = domain(r->lid, t->pd);
    *k = (struct key){.next = replay.keys,
                      .lid = r->lid,
                      .number = r->head->number,
                      .good = true,
                      .old = t->address,
                      .now = address,
                      .at_near = sim_key_create(replay.near, pd, address, t->bytes, t->access, false),
                      .at_far = sim_key_create(replay.far, pd, address, t->bytes, t->access, false)};
    replay.keys = k;
}

/* The key and the address that stand for those of the trace. What was no key becomes one that is none. */
static void translate(uint16_t lid, bool far, uint32_t *number, uint64_t *address)
{
    const struct key *k = key_of(lid, *number);
    *number = k ? (far ? k->at_far : k->at_near) : 0xffffff00u | (*number & 0xff);
    *address = k ? k->now + (*address - k->old) : *address;
}

/* ---- queue pairs --------------------------------------------------------------------------------------------- */

static struct ring *cq_of(uint16_t lid, uint32_t number)
{
    struct ring *c = replay.rings;
    while (c && (c->lid != lid || c->number != number))
        c = c->next;
    if (c)
        return c;
    c = calloc(1, sizeof *c);
    *c = (struct ring){.next = replay.rings, .lid = lid, .number = number};
    c->buffer = aligned_alloc(64, (size_t)SHMEMX_MLX5_CQE << LOG_CQ);
    memset(c->buffer, 0xff, (size_t)SHMEMX_MLX5_CQE << LOG_CQ);
    c->cq = sim_cq_create(replay.near, &(struct sim_cq){.log_size = LOG_CQ, .buffer = c->buffer});
    return replay.rings = c;
}

/* Receives for whatever comes. */
static void refill(struct pair *p)
{
    uint16_t taken = p->peer->rq_taken;
    atomic_store(&p->peer_record[SHMEMX_MLX5_RECORD_RECEIVE],
                 __builtin_bswap32((uint16_t)(taken + RECEIVES)));
}

static void connect_pair(struct pair *p)
{
    for (int state = SIM_INIT; state <= SIM_RTS; state++)
        if (!sim_qp_step(replay.near, p->qp, (enum sim_state)state) ||
            !sim_qp_step(replay.far, p->peer, (enum sim_state)state))
            give_up("queue pair 0x%x: no way to RTS", p->number);
    refill(p);
}

/* The domain of the other end: its trace tells, or else whichever the keys have that it names. */
static uint32_t far_domain(const struct sim_trace_qp *t)
{
    for (size_t i = 0; i < replay.count; i++) {
        const struct record *r = &replay.records[i];
        if (r->head->kind == SIM_TRACE_QP && r->lid == t->remote_lid && r->head->number == t->remote_qpn)
            return domain(r->lid, ((const struct sim_trace_qp *)r->body)->pd);
    }
    return domain(t->remote_lid, t->pd);
}

static struct pair *pair_open(const struct record *r, const struct sim_trace_qp *t)
{
    struct pair *p = calloc(1, sizeof *p);
    unsigned blocks = t->send_blocks ? t->send_blocks : 1, log_reads = 0;
    while (1u << log_reads < t->reads)
        log_reads++;
    *p = (struct pair){.next = replay.pairs,
                       .lid = r->lid,
                       .number = r->head->number,
                       .remote_lid = t->remote_lid,
                       .stream = take_stream(r->lid, r->head->number)};
    p->sq = aligned_alloc(64, (size_t)blocks * SHMEMX_MLX5_BLOCK);
    p->rq = aligned_alloc(64, RECEIVES * 16);
    memset(p->sq, 0, (size_t)blocks * SHMEMX_MLX5_BLOCK);
    uint32_t pd = far_domain(t);
    for (unsigned i = 0; i < RECEIVES; i++) {
        sim_put_be32(p->rq + i * 16, RECEIVE);
        sim_put_be32(p->rq + i * 16 + 4, sim_key_create(replay.far, pd, (uint64_t)(uintptr_t)replay.landing,
                                                        RECEIVE, IBV_ACCESS_LOCAL_WRITE, false));
        sim_put_be64(p->rq + i * 16 + 8, (uint64_t)(uintptr_t)replay.landing);
        if (i) { /* one key for all */
            sim_key_destroy(replay.far, sim_be32(p->rq + i * 16 + 4));
            memcpy(p->rq + i * 16, p->rq, 16);
        }
    }
    struct sim_qp like = {.pd = domain(r->lid, t->pd),
                          .send_cq = cq_of(r->lid, t->send_cq)->cq,
                          .receive_cq = cq_of(r->lid, t->receive_cq)->cq,
                          .uar = sim_uar_create(replay.near, false),
                          .sq = p->sq,
                          .sq_blocks = blocks,
                          .record = p->record,
                          .ack_timeout = 14,
                          .retries = 7,
                          .rnr_retries = 7,
                          .rnr_timer = 1,
                          .log_reads = (uint8_t)log_reads,
                          .log_served = 7,
                          .log_message = 30,
                          .mtu = PRM_MTU_4096,
                          .remote_read = true,
                          .remote_write = true,
                          .remote_atomic = true};
    struct sim_qp peer = like;
    static unsigned char *buffer;
    if (!buffer)
        memset(buffer = aligned_alloc(64, (size_t)SHMEMX_MLX5_CQE << LOG_CQ), 0xff,
               (size_t)SHMEMX_MLX5_CQE << LOG_CQ);
    peer.pd = pd;
    peer.send_cq = peer.receive_cq =
        sim_cq_create(replay.far, &(struct sim_cq){.log_size = LOG_CQ, .buffer = buffer});
    peer.uar = NULL;
    peer.rq = p->rq;
    peer.rq_count = RECEIVES;
    peer.rq_stride = 16;
    peer.sq = NULL;
    peer.sq_blocks = 0;
    peer.record = p->peer_record;
    p->qp = sim_qp_create(replay.near, &like);
    p->peer = sim_qp_create(replay.far, &peer);
    p->qp->remote_qpn = p->peer->number;
    p->qp->remote_lid = replay.far->lid;
    p->peer->remote_qpn = p->qp->number;
    p->peer->remote_lid = replay.near->lid;
    connect_pair(p);
    return replay.pairs = p;
}

static struct pair *pair_of(uint16_t lid, uint32_t number)
{
    struct pair *p = replay.pairs;
    while (p && (p->lid != lid || p->number != number || p->gone))
        p = p->next;
    return p;
}

static void settle(const struct pair *p);

/* An error state that comes of a request comes by itself. */
static void qp_event(const struct record *r)
{
    const struct sim_trace_qp *t = r->body;
    struct pair *p = pair_of(r->lid, r->head->number);
    if (t->type != 0)
        return;
    if (!p && t->state == SIM_RTS)
        p = pair_open(r, t);
    if (!p)
        return;
    if (t->state == SIM_GONE)
        p->gone = true;
    if (t->state == SIM_ERR && p->qp->state == SIM_RTS) {
        settle(p);
        if (p->qp->state == SIM_RTS)
            (void)sim_qp_step(replay.near, p->qp, SIM_ERR);
    }
    if (t->state == SIM_RESET) {
        (void)sim_qp_step(replay.near, p->qp, SIM_RESET);
        (void)sim_qp_step(replay.far, p->peer, SIM_RESET);
        memset(p->record, 0, sizeof p->record);
        p->begun = false;
        p->reset = true;
        const struct numbers *entries = &p->stream->entries;
        while (p->flushed < entries->count && entries->at[p->flushed] < (size_t)(r - replay.records))
            p->flushed++;
    }
    if (t->state == SIM_RTS && p->reset) {
        connect_pair(p);
        p->reset = false;
    }
}

/* ---- posting ------------------------------------------------------------------------------------------------- */

static void translate_list(const struct pair *p, unsigned char *at, const unsigned char *end)
{
    for (; at + 16 <= end; at += 16) {
        uint32_t word = sim_be32(at), key = sim_be32(at + 4);
        uint64_t address = sim_be64(at + 8);
        if (word & SHMEMX_MLX5_INLINE)
            return;
        translate(p->lid, false, &key, &address);
        sim_put_be32(at + 4, key);
        sim_put_be64(at + 8, address);
    }
}

static void translate_wqe(const struct pair *p, unsigned char *raw, unsigned n)
{
    uint8_t opcode = raw[3], opmod = raw[0];
    uint32_t qpn_ds = sim_be32(raw + 4);
    unsigned list = 16;
    if (qpn_ds >> 8 == p->number) /* else it is wrong, and stays so */
        sim_put_be32(raw + 4, p->qp->number << 8 | (qpn_ds & 0xff));
    switch (opcode) {
    case SHMEMX_MLX5_ATOMIC_CS:
    case SHMEMX_MLX5_ATOMIC_FA:
    case SHMEMX_MLX5_ATOMIC_MASKED_FA:
    case SHMEMX_MLX5_ATOMIC_MASKED_CS:
        list = opcode == SHMEMX_MLX5_ATOMIC_MASKED_CS && opmod == SHMEMX_MLX5_OPMOD_8 ? 64 : 48;
        break;
    case SHMEMX_MLX5_RDMA_WRITE:
    case SHMEMX_MLX5_RDMA_WRITE_IMM:
    case SHMEMX_MLX5_RDMA_READ:
        list = 32;
        break;
    case SHMEMX_MLX5_WAIT:
        if (n >= 32)
            sim_put_be32(raw + 28, cq_of(p->lid, sim_be32(raw + 28))->cq->number);
        return;
    case SHMEMX_MLX5_NOP:
        return;
    default:
        break;
    }
    if (list > 16 && n >= 32) {
        uint64_t address = sim_be64(raw + 16);
        uint32_t key = sim_be32(raw + 24);
        translate(p->remote_lid, true, &key, &address);
        sim_put_be64(raw + 16, address);
        sim_put_be32(raw + 24, key);
    }
    if (list < n)
        translate_list(p, raw + list, raw + n);
}

static void place(struct pair *p, uint16_t block, const unsigned char *raw, unsigned n)
{
    for (unsigned i = 0; i < n; i += 16)
        memcpy(p->sq + ((size_t)(block * 4u + i / 16) & (p->qp->sq_blocks * 4u - 1)) * 16, raw + i, 16);
}

/* Goes on until neither NIC has anything to do. */
static void settle(const struct pair *p)
{
    uint64_t began = sim_now(), last = began;
    for (uint64_t now = began; now - last < IDLE_NS && now - began < PATIENCE_NS; now = sim_now()) {
        bool moved = sim_step(replay.near);
        moved |= sim_step(replay.far);
        if (moved)
            last = now;
        bool idle =
            p->qp->first == p->qp->last && p->qp->fetched == p->qp->producer && p->qp->state == SIM_RTS;
        bool flushed = p->qp->state == SIM_ERR &&
                       p->qp->flushed == (uint16_t)__builtin_bswap32(p->record[SHMEMX_MLX5_RECORD_SEND]);
        if ((idle || flushed) && !moved)
            break;
    }
    for (struct pair *q = replay.pairs; q; q = q->next)
        refill(q);
    collect();
}

static void ring_up(struct pair *p, uint16_t producer, bool only_record)
{
    unsigned char reg[8];
    uint64_t word;
    atomic_store(&p->record[SHMEMX_MLX5_RECORD_SEND], __builtin_bswap32(producer));
    if (only_record)
        return;
    sim_put_be32(reg, (uint32_t)producer << 8);
    sim_put_be32(reg + 4, p->qp->number << 8);
    memcpy(&word, reg, sizeof word);
    __atomic_store_n((uint64_t *)(p->qp->uar->page + SHMEMX_MLX5_UAR_SEND), word, __ATOMIC_RELEASE);
}

/* WQEs that were flushed before they were fetched are not in the trace, their entries are: such a head has the same. */
static void place_flushed(struct pair *p, uint16_t producer)
{
    struct numbers *entries = &p->stream->entries;
    for (size_t *i = &p->flushed; *i < entries->count; ++*i) {
        const unsigned char *e = entry_at(entries, *i), *after = NULL;
        uint16_t index = (uint16_t)(e[60] << 8 | e[61]);
        if (!is_flush(e) || (int16_t)(index - p->written) < 0)
            continue;
        if (sim_ahead(producer, index) == 0)
            return;
        if (*i + 1 < entries->count && is_flush(entry_at(entries, *i + 1)))
            after = entry_at(entries, *i + 1);
        uint16_t end = after ? (uint16_t)(after[60] << 8 | after[61]) : producer;
        unsigned blocks = (uint16_t)(end - index);
        unsigned char head[16] = {0};
        sim_put_be32(head, (uint32_t)index << 8 | e[56]);
        sim_put_be32(head + 4, p->qp->number << 8 | (blocks < SIM_MOST_BLOCKS ? blocks * 4 : 1));
        place(p, index, head, 16);
        p->written = end;
    }
}

/* A doorbell: the WQEs that were fetched after it go into the ring first. One whose peer did not answer is rung for
 * alone, and meets a peer that does not. */
static void doorbell_event(const struct record *r)
{
    const struct sim_trace_doorbell *t = r->body;
    struct pair *p = pair_of(r->lid, r->head->number);
    bool by_record = r->head->kind == SIM_TRACE_RECORD;
    if (!p || !t->taken)
        return;
    if (!p->begun) {
        p->begun = true;
        p->written = p->qp->producer = p->qp->fetched = t->fetched;
    }
    struct numbers *wqes = &p->stream->wqes;
    for (; wqes->next < wqes->count && sim_ahead(t->producer, p->written); wqes->next++) {
        const struct record *w = &replay.records[wqes->at[wqes->next]];
        const struct sim_trace_wqe *at = w->body;
        unsigned char raw[SIM_MOST_BLOCKS * SHMEMX_MLX5_BLOCK];
        unsigned n = w->bytes - (unsigned)sizeof *at;
        if (at->index != p->written || n > sizeof raw)
            break;
        memcpy(raw, at + 1, n);
        translate_wqe(p, raw, n);
        place(p, at->index, raw, n);
        if (w->silent) {
            ring_up(p, p->written, false);
            settle(p);
            replay.near->faults.retry_ms = 1;
            replay.far->faults.deaf = 1;
        }
        p->written = (uint16_t)(p->written + at->blocks);
        replay.requests++;
    }
    place_flushed(p, t->producer);
    ring_up(p, t->producer, by_record);
    settle(p);
    replay.near->faults.retry_ms = replay.far->faults.deaf = 0;
    replay.far->deaf = false;
}

int main(int argc, char **argv)
{
    bool json = argc > 1 && !strcmp(argv[1], "--json");
    unsetenv("SHMEM_SIM_FAULTS");
    unsetenv("SHMEM_SIM_TRACE");
    if (argc < 2 + json) {
        fprintf(stderr, "nic_replay [--json] TRACE...\n");
        return 2;
    }
    read_traces(argv + 1 + json, argc - 1 - json);
    replay.near = sim_open(false);
    replay.far = sim_open(false);
    replay.landing = mmap(NULL, RECEIVE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!replay.near || !replay.far || replay.landing == MAP_FAILED)
        give_up("no software NIC: %s", strerror(errno));
    if (json) { /* what the engine says of broken rules is in the trace that is replayed */
        int quiet = open("/dev/null", O_WRONLY | O_CLOEXEC);
        dup2(quiet, STDERR_FILENO);
    }
    for (size_t i = 0; i < replay.count; i++)
        switch (replay.records[i].head->kind) {
        case SIM_TRACE_KEY:
            key_event(&replay.records[i]);
            break;
        case SIM_TRACE_QP:
            qp_event(&replay.records[i]);
            break;
        case SIM_TRACE_DOORBELL:
        case SIM_TRACE_RECORD:
            doorbell_event(&replay.records[i]);
            break;
        default:
            break;
        }
    return compare(json);
}
