/* Two software NICs in one process, driven step by step, with small queues: what the tests of their rules share. WQEs are
 * written here by hand, so that neither the kernels' builder nor the verbs' face vouches for itself. */
#ifndef SIM_SCENE_H
#define SIM_SCENE_H

#include <infiniband/verbs.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "engine.h"
#include "transport/mlx5_prm.h"

enum { MEMORY = 1 << 16, PD = 7, ALL_ACCESS = 15 };

/* One end of a connection, with queues of its own. */
struct end {
    struct sim_nic *nic;
    struct sim_qp *qp;
    struct sim_cq *cq, *rcq;
    struct sim_uar *uar;
    unsigned char *sq, *rq, *cqes, *rcqes;
    _Atomic uint32_t record[2], consumer[2], rconsumer[2];
    unsigned char *memory;
    uint32_t key;
    unsigned blocks, receives;
    uint16_t head, receive_head;
    uint32_t consumed, rconsumed;
};

struct options {
    unsigned blocks, log_cq; /* 0 = 8 blocks, 2^3 entries */
    bool collapsed, ignore_overrun, ud;
    unsigned log_reads, log_served;
    int ack_timeout, rnr_retries;
};

static struct end a, b;

static void open_end(struct end *e, const struct options *o)
{
    memset(e, 0, sizeof *e);
    e->nic = sim_open(false);
    if (!CHECK(e->nic, "no NIC"))
        exit(1);
    e->blocks = o->blocks ? o->blocks : 8;
    e->receives = 4;
    unsigned log = o->log_cq ? o->log_cq : 3;
    e->sq = aligned_alloc(64, e->blocks * 64);
    e->rq = aligned_alloc(64, e->receives * 64);
    e->cqes = aligned_alloc(64, 64u << log);
    e->rcqes = aligned_alloc(64, 64u << log);
    e->memory = aligned_alloc(64, MEMORY);
    memset(e->sq, 0, e->blocks * 64);
    memset(e->cqes, 0xff, 64u << log);
    memset(e->rcqes, 0xff, 64u << log);
    for (unsigned i = 0; i < MEMORY; ++i)
        e->memory[i] = (unsigned char)(i * 7 + (e == &b));
    struct sim_cq like = {.log_size = log,
                          .collapsed = o->collapsed,
                          .ignore_overrun = o->ignore_overrun,
                          .buffer = e->cqes,
                          .record = e->consumer};
    e->cq = sim_cq_create(e->nic, &like);
    like.collapsed = false;
    like.buffer = e->rcqes;
    like.record = e->rconsumer;
    e->rcq = sim_cq_create(e->nic, &like);
    e->uar = sim_uar_create(e->nic, false);
    struct sim_qp q = {.pd = PD,
                       .type = o->ud ? PRM_ST_UD : PRM_ST_RC,
                       .send_cq = e->cq,
                       .receive_cq = e->rcq,
                       .uar = e->uar,
                       .sq = e->sq,
                       .rq = e->rq,
                       .sq_blocks = e->blocks,
                       .rq_count = e->receives,
                       .rq_stride = 64,
                       .record = e->record,
                       .log_message = 30};
    e->qp = sim_qp_create(e->nic, &q);
    e->key = sim_key_create(e->nic, PD, (uint64_t)(uintptr_t)e->memory, MEMORY, ALL_ACCESS, false);
}

static void connect_end(struct end *e, const struct end *to, const struct options *o)
{
    struct sim_qp *q = e->qp;
    q->remote_lid = to->nic->lid;
    q->remote_qpn = to->qp->number;
    q->remote_read = q->remote_write = q->remote_atomic = true;
    q->send_psn = q->receive_psn = 0xfffffe; /* so that sequence numbers wrap */
    q->log_reads = (uint8_t)(o->log_reads ? o->log_reads : 2);
    q->log_served = (uint8_t)(o->log_served ? o->log_served : 2);
    q->ack_timeout = (uint8_t)o->ack_timeout;
    q->retries = 1;
    q->rnr_retries = (uint8_t)o->rnr_retries;
    q->rnr_timer = 1; /* 10 us */
    q->qkey = 77;
    CHECK(sim_qp_step(e->nic, q, SIM_INIT) && sim_qp_step(e->nic, q, SIM_RTR) &&
              sim_qp_step(e->nic, q, SIM_RTS),
          "the steps to ready to send");
}

static void begin(struct options o)
{
    open_end(&a, &o);
    open_end(&b, &o);
    connect_end(&a, &b, &o);
    connect_end(&b, &a, &o);
}

static void close_end(struct end *e)
{
    sim_close(e->nic);
    free(e->sq);
    free(e->rq);
    free(e->cqes);
    free(e->rcqes);
    free(e->memory);
}

static void finish(void)
{
    close_end(&a);
    close_end(&b);
}

/* Until nothing has moved for a while. */
static void run(void)
{
    for (int idle = 0; idle < 20; ++idle)
        if (sim_step(a.nic) | sim_step(b.nic))
            idle = 0;
        else if (idle > 10)
            usleep(60); /* sockets are looked at every 50 us */
}

static inline void run_for(double seconds)
{
    for (uint64_t end = sim_now() + (uint64_t)(seconds * 1e9); sim_now() < end;)
        if (!(sim_step(a.nic) | sim_step(b.nic)))
            usleep(20);
}

/* ---- writing WQEs -------------------------------------------------------------------------------------- */

/* A WQE that grows by segments. */
struct wqe {
    unsigned char raw[1024];
    unsigned bytes;
};

static struct wqe wqe(const struct end *e, unsigned opcode, unsigned opmod, unsigned flags)
{
    struct wqe w = {.bytes = 16};
    sim_put_be32(w.raw, opmod << 24 | (unsigned)e->head << 8 | opcode);
    sim_put_be32(w.raw + 4, e->qp->number << 8);
    w.raw[11] = (unsigned char)flags;
    sim_put_be32(w.raw + 12, 0x11223344);
    return w;
}

static void add_remote(struct wqe *w, const void *address, uint32_t rkey)
{
    sim_put_be64(w->raw + w->bytes, (uint64_t)(uintptr_t)address);
    sim_put_be32(w->raw + w->bytes + 8, rkey);
    w->bytes += 16;
}

static void add_data(struct wqe *w, const void *address, uint32_t bytes, uint32_t lkey)
{
    sim_put_be32(w->raw + w->bytes, bytes);
    sim_put_be32(w->raw + w->bytes + 4, lkey);
    sim_put_be64(w->raw + w->bytes + 8, (uint64_t)(uintptr_t)address);
    w->bytes += 16;
}

static inline void add_inline(struct wqe *w, const void *data, uint32_t bytes)
{
    sim_put_be32(w->raw + w->bytes, 0x80000000u | bytes);
    memcpy(w->raw + w->bytes + 4, data, bytes);
    w->bytes += (4 + bytes + 15) / 16 * 16;
}

static inline void add_words(struct wqe *w, unsigned size, unsigned count, const uint64_t *words)
{
    for (unsigned i = 0; i < count; ++i)
        size == 4 ? sim_put_be32(w->raw + w->bytes + 4 * i, (uint32_t)words[i])
                  : sim_put_be64(w->raw + w->bytes + 8 * i, words[i]);
    w->bytes += size * count;
}

/* Puts it into the ring; its first block's number. */
static uint16_t put(struct end *e, struct wqe *w)
{
    uint16_t index = e->head;
    w->raw[7] = (unsigned char)(w->raw[7] | w->bytes / 16); /* ds, unless a test has set it */
    for (unsigned i = 0; i < w->bytes; i += 64, e->head++)
        memcpy(e->sq + (e->head % e->blocks) * 64, w->raw + i, 64);
    return index;
}

static void set_record(struct end *e, uint16_t index)
{
    atomic_store(&e->record[1], __builtin_bswap32(index));
}

static void ring_as(struct end *e, uint32_t first, uint32_t second)
{
    unsigned char reg[8];
    sim_put_be32(reg, first);
    sim_put_be32(reg + 4, second);
    memcpy(e->uar->page + SHMEMX_MLX5_UAR_SEND, reg, 8);
}

static void ring(struct end *e)
{
    set_record(e, e->head);
    ring_as(e, (uint32_t)e->head << 8, e->qp->number << 8);
}

static inline uint16_t post(struct end *e, struct wqe w)
{
    uint16_t index = put(e, &w);
    ring(e);
    return index;
}

static struct wqe write_wqe(const struct end *e, const struct end *to, unsigned from, unsigned at, unsigned n,
                            unsigned flags)
{
    struct wqe w = wqe(e, SHMEMX_MLX5_RDMA_WRITE, 0, flags);
    add_remote(&w, to->memory + at, to->key);
    if (n)
        add_data(&w, e->memory + from, n, e->key);
    return w;
}

static inline struct wqe read_wqe(const struct end *e, const struct end *from, unsigned to, unsigned at,
                                  unsigned n, unsigned flags)
{
    struct wqe w = write_wqe(e, from, to, at, n, flags);
    w.raw[3] = SHMEMX_MLX5_RDMA_READ;
    return w;
}

static inline void post_receive(struct end *e, unsigned at, unsigned n)
{
    unsigned char *r = e->rq + (e->receive_head % e->receives) * 64;
    struct wqe w = {.bytes = 0};
    add_data(&w, e->memory + at, n, e->key);
    for (int i = 1; i < 4; ++i)
        add_data(&w, NULL, 0, SHMEMX_MLX5_INVALID_LKEY);
    memcpy(r, w.raw, 64);
    atomic_store(&e->record[0], __builtin_bswap32(++e->receive_head));
}

/* ---- reading CQEs -------------------------------------------------------------------------------------- */

struct seen {
    int opcode; /* -1 = there is none */
    unsigned syndrome, vendor, wqe_opcode, bytes, imm;
    uint16_t counter;
};

static struct seen look(const unsigned char *cqes, uint32_t index, unsigned log)
{
    const unsigned char *c = cqes + (size_t)(index & ((1u << log) - 1)) * 64;
    if (c[63] >> 4 == SHMEMX_MLX5_CQE_INVALID || (c[63] & 1) != (index >> log & 1))
        return (struct seen){.opcode = -1};
    struct seen s = {.opcode = c[63] >> 4,
                     .wqe_opcode = c[56],
                     .counter = (uint16_t)(c[60] << 8 | c[61]),
                     .imm = sim_be32(c + 36),
                     .bytes = sim_be32(c + 44)};
    if (s.opcode >= SHMEMX_MLX5_CQE_REQUEST_ERROR) {
        s.vendor = c[54];
        s.syndrome = c[55];
    }
    return s;
}

static inline struct seen next(struct end *e)
{
    struct seen s = look(e->cqes, e->consumed, e->cq->log_size);
    if (s.opcode >= 0)
        atomic_store(&e->consumer[0], __builtin_bswap32(++e->consumed & 0xffffff));
    return s;
}

static inline struct seen next_received(struct end *e)
{
    struct seen s = look(e->rcqes, e->rconsumed, e->rcq->log_size);
    if (s.opcode >= 0)
        atomic_store(&e->rconsumer[0], __builtin_bswap32(++e->rconsumed & 0xffffff));
    return s;
}

/* Until there is an entry; on a busy machine that may take long. */
static inline void run_to_entry(struct end *e)
{
    for (uint64_t end = sim_now() + 10000000000u;
         sim_now() < end && look(e->cqes, e->consumed, e->cq->log_size).opcode < 0;)
        if (!(sim_step(a.nic) | sim_step(b.nic)))
            usleep(20);
}

#define NOTHING(e)                                                                                           \
    do {                                                                                                     \
        struct seen s_ = next(e);                                                                            \
        CHECK(s_.opcode == -1, "a CQE of opcode %d, syndrome 0x%x, counter %u", s_.opcode, s_.syndrome,      \
              s_.counter);                                                                                   \
    } while (0)
#define SUCCESS(e, index)                                                                                    \
    do {                                                                                                     \
        struct seen s_ = next(e);                                                                            \
        CHECK(s_.opcode == 0 && s_.counter == (uint16_t)(index),                                             \
              "opcode %d, syndrome 0x%x, counter %u not %u", s_.opcode, s_.syndrome, s_.counter,             \
              (unsigned)(index));                                                                            \
    } while (0)
#define ERROR(e, index, synd, vend)                                                                          \
    do {                                                                                                     \
        struct seen s_ = next(e);                                                                            \
        CHECK(s_.opcode == 13 && s_.syndrome == (synd) && s_.vendor == (vend) &&                             \
                  s_.counter == (uint16_t)(index),                                                           \
              "opcode %d, syndrome 0x%x, vendor 0x%x, counter %u", s_.opcode, s_.syndrome, s_.vendor,        \
              s_.counter);                                                                                   \
    } while (0)

#define SIGNALLED SHMEMX_MLX5_CE_ALWAYS

#endif
