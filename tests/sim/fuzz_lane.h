/* One queue pair of the fuzzer and what is known of it: the WQEs that were posted, what each must do to memory and with
 * which entry it must end. A lane's memory is its own, so that what is right does not depend on how queue pairs of one
 * NIC take turns. */
#ifndef TESTS_SIM_FUZZ_LANE_H
#define TESTS_SIM_FUZZ_LANE_H

#include <infiniband/verbs.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"
#include "transport/mlx5_prm.h"

enum {
    GUARD = 64,         /* bytes around each area, which no key covers */
    AREA = 4096,        /* bytes of an area */
    MOST_POSTED = 4096, /* WQEs of a lane's life */
    RECEIVES = 64,      /* of the peer's ring */
    RECEIVE = 512,      /* bytes of one */
    MOST_INLINE = 220,
};

/* ---- chance ------------------------------------------------------------------------------------------------- */

static uint64_t chance_state;

static inline uint64_t chance(uint64_t below) /* splitmix64 (Steele, Lea, Flood 2014) */
{
    uint64_t z = (chance_state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (z ^ (z >> 31)) % below;
}

static inline bool one_in(unsigned n)
{
    return chance(n) == 0;
}

static inline void fill(unsigned char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (unsigned char)chance(256);
}

/* ---- memory --------------------------------------------------------------------------------------------------- */

/* Memory that a key covers, guards at both ends that none does, and what should be in it. */
struct area {
    unsigned char *memory; /* AREA bytes, GUARD before and after */
    unsigned char model[AREA];
    uint32_t key;
};

static inline uint64_t address_of(const struct area *a, size_t offset)
{
    return (uint64_t)(uintptr_t)a->memory + offset;
}

static inline bool area_open(struct area *a, struct sim_nic *nic, uint32_t pd, uint32_t access)
{
    unsigned char *all = malloc(AREA + 2 * GUARD);
    if (!all)
        return false;
    memset(all, 0xa5, AREA + 2 * GUARD);
    a->memory = all + GUARD;
    fill(a->memory, AREA);
    memcpy(a->model, a->memory, AREA);
    a->key = sim_key_create(nic, pd, address_of(a, 0), AREA, access, false);
    return a->key != 0;
}

static inline void area_close(struct area *a)
{
    if (a->memory)
        free(a->memory - GUARD);
    a->memory = NULL;
}

/* The first byte that is wrong, -1 where none is; guards count. */
static inline long area_wrong(const struct area *a)
{
    for (long i = -GUARD; i < AREA + GUARD; i++)
        if (a->memory[i] != (i < 0 || i >= AREA ? 0xa5 : a->model[i]))
            return i;
    return -1;
}

/* The same of the guards alone. */
static inline long guards_wrong(const struct area *a)
{
    for (long i = -GUARD; i < AREA + GUARD; i++)
        if ((i < 0 || i >= AREA) && a->memory[i] != 0xa5)
            return i;
    return -1;
}

/* ---- requests -------------------------------------------------------------------------------------------------- */

/* A WQE as it was posted. */
struct posted {
    uint16_t index;
    uint8_t blocks, opcode, opmod, syndrome; /* that it must end with, 0 = well */
    bool signalled;
    uint32_t bytes; /* of its entry */
    uint32_t remote, imm;
    uint32_t local[3], length[3]; /* offsets in `source` or `answers` */
    int pieces;
    unsigned char inlined[MOST_INLINE];
    bool inlines;
    uint64_t operand[4];
};

/* Masked and plain atomics, bit by bit, as the manual has it: another way than the engine's. */
static inline uint64_t atomic_model(const struct posted *p, unsigned bits, uint64_t old)
{
    uint64_t result = 0, all = bits == 32 ? 0xffffffffu : ~0ull;
    if (p->opcode == SHMEMX_MLX5_ATOMIC_CS || p->opcode == SHMEMX_MLX5_ATOMIC_MASKED_CS) {
        bool masked = p->opcode == SHMEMX_MLX5_ATOMIC_MASKED_CS;
        for (unsigned b = 0; b < bits; b++) {
            bool counts = !masked || (p->operand[3] >> b & 1);
            if (counts && (old >> b & 1) != (p->operand[1] >> b & 1))
                return old;
        }
        for (unsigned b = 0; b < bits; b++) {
            bool takes = !masked || (p->operand[2] >> b & 1);
            result |= ((takes ? p->operand[0] : old) >> b & 1) << b;
        }
        return result & all;
    }
    unsigned carry = 0;
    for (unsigned b = 0; b < bits; b++) {
        unsigned sum = (unsigned)((old >> b & 1) + (p->operand[0] >> b & 1)) + carry;
        result |= (uint64_t)(sum & 1) << b;
        bool boundary = p->opcode == SHMEMX_MLX5_ATOMIC_MASKED_FA && (p->operand[1] >> b & 1);
        carry = boundary ? 0 : sum >> 1;
    }
    return result;
}

/* ---- the lane --------------------------------------------------------------------------------------------------- */

struct completions {
    struct sim_cq *cq;
    unsigned char *buffer;
    _Atomic uint32_t record[2];
    uint32_t taken;
};

struct lane {
    struct sim_qp *qp, *peer;
    unsigned char *ring, *receives, *landing; /* landing: RECEIVE bytes for each receive */
    _Atomic uint32_t record[2], peer_record[2];
    struct area source, answers, far; /* `source` never changes; `far` is the peer's */
    struct completions *cq, peer_cq;
    uint32_t landing_key;
    unsigned depth; /* blocks */
    uint16_t next, told,
        rung; /* block to post next; that record or register has told of; that a register has */
    struct posted *list;
    unsigned count, checked,
        applied;         /* WQEs posted; whose entry is behind us; whose effect is in the models */
    bool failed, broken; /* an error entry has come; a WQE that must fail is posted */
    uint8_t may_die;     /* by a fault any WQE may end with this syndrome; 0 = none may */
    uint16_t flush;      /* the next block to be flushed */
    uint16_t receives_posted;
    uint32_t receives_needed, received;
};

static inline unsigned char *lane_block(struct lane *l, uint16_t index)
{
    return l->ring + (size_t)(index & (l->depth - 1)) * SHMEMX_MLX5_BLOCK;
}

/* Stores ds segments where they belong, through the end of the ring. */
static inline void lane_store(struct lane *l, const unsigned char *wqe, unsigned ds)
{
    unsigned char *at = lane_block(l, l->next);
    for (unsigned s = 0; s < ds; s++) {
        memcpy(at, wqe + s * 16, 16);
        at += 16;
        if (at == l->ring + (size_t)l->depth * SHMEMX_MLX5_BLOCK)
            at = l->ring;
    }
}

static inline void record_set(_Atomic uint32_t *word, uint32_t value)
{
    atomic_store_explicit(word, __builtin_bswap32(value), memory_order_release);
}

static inline void lane_receive(struct lane *l)
{
    unsigned slot = l->receives_posted % RECEIVES;
    unsigned char *r = l->receives + (size_t)slot * 16;
    sim_put_be32(r, RECEIVE);
    sim_put_be32(r + 4, l->landing_key);
    sim_put_be64(r + 8, (uint64_t)(uintptr_t)(l->landing + (size_t)slot * RECEIVE));
    l->receives_posted++;
    record_set(&l->peer_record[SHMEMX_MLX5_RECORD_RECEIVE], l->receives_posted);
}

/* The effect of the next WQE, on the models. */
static inline void lane_apply(struct lane *l)
{
    const struct posted *p = &l->list[l->applied++];
    unsigned char data[AREA];
    size_t n = 0;
    for (int i = 0; i < p->pieces; i++) {
        memcpy(data + n, l->source.model + p->local[i], p->length[i]);
        n += p->length[i];
    }
    switch (p->opcode) {
    case SHMEMX_MLX5_RDMA_WRITE:
    case SHMEMX_MLX5_RDMA_WRITE_IMM:
        memcpy(l->far.model + p->remote, p->inlines ? p->inlined : data, p->bytes);
        break;
    case SHMEMX_MLX5_RDMA_READ:
        for (int i = 0, from = (int)p->remote; i < p->pieces; from += (int)p->length[i], i++)
            memcpy(l->answers.model + p->local[i], l->far.model + from, p->length[i]);
        break;
    case SHMEMX_MLX5_ATOMIC_CS:
    case SHMEMX_MLX5_ATOMIC_FA:
    case SHMEMX_MLX5_ATOMIC_MASKED_CS:
    case SHMEMX_MLX5_ATOMIC_MASKED_FA: {
        uint64_t old = 0;
        memcpy(&old, l->far.model + p->remote, p->bytes);
        uint64_t next = atomic_model(p, p->bytes * 8, old);
        memcpy(l->far.model + p->remote, &next, p->bytes);
        if (p->bytes == 4)
            old = __builtin_bswap32((uint32_t)old); /* 4 bytes come back big-endian, 8 in host order */
        memcpy(l->answers.model + p->local[0], &old, p->bytes);
        break;
    }
    default: /* SEND: looked at where it lands; NOP, DUMP: nothing */
        break;
    }
}

#endif
