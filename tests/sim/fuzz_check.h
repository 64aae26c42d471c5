/* What must hold after every step of the fuzzer: entries in order, one for each request that wants one, memory as the model
 * has it. */
#ifndef TESTS_SIM_FUZZ_CHECK_H
#define TESTS_SIM_FUZZ_CHECK_H

#include <stdarg.h>
#include <unistd.h>

#include "fuzz_post.h"

enum { LANES = 3, PD = 7 };

static struct lane lanes[LANES];
static unsigned lane_count;
static struct completions queue;
static uint64_t seed, rounds_done, errors_seen, flushes_seen;
static const char *scene, *traces;

static __attribute__((format(printf, 2, 3), noreturn)) void wrong(const struct lane *l, const char *fmt, ...)
{
    va_list args;
    printf("sim_fuzz: seed %llu (%s), round %llu", (unsigned long long)seed, scene,
           (unsigned long long)rounds_done);
    if (l)
        printf(", lane %td of depth %u, %u posted, %u checked", l - lanes, l->depth, l->count, l->checked);
    printf(": ");
    va_start(args, fmt);
    vprintf(fmt, args);
    va_end(args);
    printf("\n  again: sim_fuzz --seed %llu --rounds 1\n", (unsigned long long)seed);
    fflush(stdout);
    _exit(1);
}

/* ---- completions ---------------------------------------------------------------------------------------------- */

static struct lane *lane_of(uint32_t qpn)
{
    for (unsigned i = 0; i < lane_count; i++)
        if (lanes[i].qp->number == qpn)
            return &lanes[i];
    return NULL;
}

/* The next flush: where the heads in the ring say, whatever they say. */
static void flushed(struct lane *l, uint16_t index, uint8_t syndrome, uint8_t vendor)
{
    if (syndrome != SHMEMX_MLX5_SYNDROME_FLUSHED || vendor != SHMEMX_MLX5_VENDOR_FLUSHED)
        wrong(l, "after a failed WQE comes %02x/%02x, not a flush", syndrome, vendor);
    if (index != l->flush || (int16_t)(index - l->told) >= 0)
        wrong(l, "block %04x is flushed, %04x is next, %04x announced", index, l->flush, l->told);
    unsigned blocks = ((lane_block(l, index)[7] & 0x3f) + 3) / 4u;
    l->flush = (uint16_t)(index + (blocks ? blocks : 1));
    flushes_seen++;
}

static void entry(struct lane *l, const unsigned char *e)
{
    unsigned kind = e[63] >> 4;
    uint16_t index = (uint16_t)(e[60] << 8 | e[61]);
    bool error = kind == SHMEMX_MLX5_CQE_REQUEST_ERROR;
    uint8_t syndrome = error ? e[55] : 0;
    if (kind != SHMEMX_MLX5_CQE_REQUEST && !error)
        wrong(l, "an entry of kind %u in a queue of sends", kind);
    if (l->failed) {
        flushed(l, index, syndrome, e[54]);
        return;
    }
    while (l->checked < l->count) {
        const struct posted *p = &l->list[l->checked++];
        bool dies = l->may_die && syndrome == l->may_die && index == p->index;
        if (!p->signalled && !p->syndrome && !dies) {
            lane_apply(l);
            continue;
        }
        if (index != p->index)
            wrong(l, "an entry for block %04x, where that of %04x is due", index, p->index);
        if ((int16_t)(index - l->told) >= 0)
            wrong(l, "block %04x is done, and only %04x announced", index, l->told);
        if (syndrome != p->syndrome && !dies)
            wrong(l, "block %04x, opcode %02x: ends with %02x, not %02x", index, p->opcode, syndrome,
                  p->syndrome);
        if (e[56] != p->opcode)
            wrong(l, "block %04x: opcode %02x in its entry, not %02x", index, e[56], p->opcode);
        l->flush = (uint16_t)(p->index + p->blocks);
        l->failed = error;
        errors_seen += error;
        if (dies) /* its bytes may have landed: an immediate waits for a receive behind them, an answer may be lost */
            memcpy(l->far.model + p->remote, l->far.memory + p->remote, p->bytes);
        if (!error)
            lane_apply(l);
        return;
    }
    wrong(l, "an entry for block %04x, and no WQE waits for one", index);
}

/* Takes what is there, or a part. */
static bool next_entry(struct completions *c, unsigned char *e)
{
    unsigned n = 1u << c->cq->log_size;
    const unsigned char *at = c->buffer + (size_t)(c->taken % n) * SHMEMX_MLX5_CQE;
    uint32_t last = __atomic_load_n((const uint32_t *)(at + 60), __ATOMIC_ACQUIRE);
    memcpy(e, at, SHMEMX_MLX5_CQE);
    memcpy(e + 60, &last, 4);
    if (e[63] >> 4 == SHMEMX_MLX5_CQE_INVALID || (e[63] & 1) != (c->taken / n & 1))
        return false;
    c->taken++;
    record_set(&c->record[SHMEMX_MLX5_RECORD_CQ], c->taken & 0xffffff);
    return true;
}

static void take_entries(unsigned most)
{
    unsigned char e[SHMEMX_MLX5_CQE];
    while (most-- && next_entry(&queue, e)) {
        struct lane *l = lane_of(sim_be32(e + 56) & 0xffffff);
        if (!l)
            wrong(NULL, "an entry of queue pair %x, which is not there", sim_be32(e + 56) & 0xffffff);
        entry(l, e);
    }
}

/* Receives complete in order, each with the bytes of the next request that wants one. */
static void take_received(struct lane *l)
{
    unsigned char e[SHMEMX_MLX5_CQE];
    while (next_entry(&l->peer_cq, e)) {
        unsigned kind = e[63] >> 4;
        if (kind == SHMEMX_MLX5_CQE_RECEIVE_ERROR) {
            if (e[55] != SHMEMX_MLX5_SYNDROME_FLUSHED || l->peer->state != SIM_ERR)
                wrong(l, "a receive ends with %02x", e[55]);
            continue;
        }
        unsigned i = 0, seen = 0;
        for (; i < l->count; i++) {
            uint8_t o = l->list[i].opcode;
            if (o == SHMEMX_MLX5_RDMA_WRITE_IMM || o == SHMEMX_MLX5_SEND || o == SHMEMX_MLX5_SEND_IMM)
                if (seen++ == l->received)
                    break;
        }
        if (i == l->count)
            wrong(l, "something is received that was not sent");
        const struct posted *p = &l->list[i];
        bool imm = p->opcode != SHMEMX_MLX5_SEND, written = p->opcode == SHMEMX_MLX5_RDMA_WRITE_IMM;
        unsigned want = written ? SHMEMX_MLX5_CQE_WRITE_IMM
                        : imm   ? SHMEMX_MLX5_CQE_SEND_IMM
                                : SHMEMX_MLX5_CQE_SEND;
        uint16_t slot = (uint16_t)l->received;
        if (kind != want || sim_be32(e + 44) != p->bytes || (imm && sim_be32(e + 36) != p->imm) ||
            (uint16_t)(e[60] << 8 | e[61]) != slot)
            wrong(l, "received: kind %u, %u bytes, immediate %x, receive %02x%02x", kind, sim_be32(e + 44),
                  sim_be32(e + 36), e[60], e[61]);
        if (!written && p->pieces &&
            memcmp(l->landing + (size_t)(slot % RECEIVES) * RECEIVE, l->source.model + p->local[0],
                   p->bytes) != 0)
            wrong(l, "receive %u has other bytes than were sent", slot);
        l->received++;
    }
}

static void check_memory(struct lane *l, bool far)
{
    for (; !l->failed && !l->qp->stalled && l->checked < l->count; l->checked++) {
        if (l->list[l->checked].signalled)
            wrong(l, "block %04x has no entry", l->list[l->checked].index);
        lane_apply(l);
    }
    struct {
        const char *name;
        const struct area *area;
    } areas[] = {{"source", &l->source}, {"answers", &l->answers}, {"far", &l->far}};
    for (unsigned i = 0; i < 2u + far; i++) {
        long at = area_wrong(areas[i].area);
        if (l->qp->stalled && i > 0 && at >= 0) /* for ever on the way */
            at = guards_wrong(areas[i].area);
        if (at >= 0 && at < AREA)
            wrong(l, "%s memory: byte %ld is %02x, not %02x", areas[i].name, at, areas[i].area->memory[at],
                  areas[i].area->model[at]);
        if (at != -1)
            wrong(l, "%s memory: byte %ld is written, which no key covers", areas[i].name, at);
    }
}

#endif
