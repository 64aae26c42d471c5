/* What the fuzzer posts: requests of all opcodes, broken ones of many kinds, doorbells in all orders. */
#ifndef TESTS_SIM_FUZZ_POST_H
#define TESTS_SIM_FUZZ_POST_H

#include "fuzz_lane.h"

static struct sim_nic *near_nic, *far_nic;
static uint64_t wqes_done;

/* The engine's clock, in place of its own: it goes on with the steps, so that a seed gives the same run again. */
static uint64_t clock_ns = 1000000;

uint64_t sim_now(void)
{
    return clock_ns;
}

static void step(struct sim_nic *nic)
{
    clock_ns += 200 + chance(3000);
    (void)sim_step(nic);
}

/* ---- building ------------------------------------------------------------------------------------------------ */

struct builder {
    unsigned char raw[SIM_MOST_BLOCKS * SHMEMX_MLX5_BLOCK];
    unsigned ds;
};

static void data_segment(struct builder *b, uint32_t bytes, uint32_t key, uint64_t address)
{
    unsigned char *s = b->raw + b->ds++ * 16;
    sim_put_be32(s, bytes);
    sim_put_be32(s + 4, key);
    sim_put_be64(s + 8, address);
}

static void pieces(struct lane *l, struct builder *b, struct posted *p, const struct area *a, int most)
{
    p->pieces = (int)chance((uint64_t)most + 1);
    unsigned width = AREA / 4;
    for (int i = 0; i < p->pieces; i++) {
        p->length[i] = 1 + (uint32_t)chance(one_in(4) ? width : 64);
        p->local[i] = (uint32_t)(i * (int)width + (int)chance(width - p->length[i] + 1));
        p->bytes += p->length[i];
        data_segment(b, p->length[i], a->key, address_of(a, p->local[i]));
    }
    (void)l;
}

static void remote_segment(struct lane *l, struct builder *b, const struct posted *p)
{
    sim_put_be64(b->raw + 16, address_of(&l->far, p->remote));
    sim_put_be32(b->raw + 24, l->far.key);
}

static void build_write(struct lane *l, struct builder *b, struct posted *p)
{
    b->ds = 2;
    if (one_in(2)) {
        p->inlines = true;
        unsigned most =
            l->depth * SHMEMX_MLX5_BLOCK - 36 < MOST_INLINE ? l->depth * SHMEMX_MLX5_BLOCK - 36 : MOST_INLINE;
        p->bytes = (uint32_t)chance(most + 1);
        fill(p->inlined, p->bytes);
        sim_put_be32(b->raw + 32, p->bytes | SHMEMX_MLX5_INLINE);
        memcpy(b->raw + 36, p->inlined, p->bytes);
        b->ds += (4 + p->bytes + 15) / 16;
    } else {
        pieces(l, b, p, &l->source, 3);
    }
    p->remote = (uint32_t)chance(AREA - p->bytes + 1);
    remote_segment(l, b, p);
}

static void build_atomic(struct lane *l, struct builder *b, struct posted *p)
{
    unsigned char *s = b->raw + 32;
    bool masked = p->opcode == SHMEMX_MLX5_ATOMIC_MASKED_CS || p->opcode == SHMEMX_MLX5_ATOMIC_MASKED_FA;
    bool swaps = p->opcode == SHMEMX_MLX5_ATOMIC_MASKED_CS;
    p->bytes = masked && one_in(2) ? 4 : 8;
    p->opmod = masked ? (p->bytes == 4 ? SHMEMX_MLX5_OPMOD_4 : SHMEMX_MLX5_OPMOD_8) : 0;
    p->remote = (uint32_t)chance(8) * p->bytes; /* few words, so that comparisons are true at times */
    for (unsigned i = 0; i < 4; i++) {
        p->operand[i] = one_in(3) ? 0 : one_in(3) ? ~0ull : chance(UINT64_MAX);
        p->operand[i] &= p->bytes == 4 ? 0xffffffffu : ~0ull;
    }
    if (one_in(2))
        memcpy(&p->operand[1], l->far.memory + p->remote, p->bytes); /* likely what it is */
    unsigned words = p->bytes == 8 && swaps ? 4 : 16 / p->bytes;
    if (p->bytes == 4 && !swaps)
        words = 2;
    for (unsigned i = 0; i < words; i++)
        if (p->bytes == 4)
            sim_put_be32(s + 4 * i, (uint32_t)p->operand[i]);
        else
            sim_put_be64(s + 8 * i, p->operand[i]);
    b->ds = p->bytes == 8 && swaps ? 4 : 3;
    p->pieces = 0;
    p->local[0] = (uint32_t)chance(AREA / 8) * 8;
    data_segment(b, p->bytes, l->answers.key, address_of(&l->answers, p->local[0]));
    remote_segment(l, b, p);
}

/* Spoils a request that is complete but for its control segment, which `index` and `qpn` and b->ds will make. */
static void spoil(struct lane *l, struct builder *b, struct posted *p, uint16_t *index, uint32_t *qpn)
{
    bool remote = p->opcode != SHMEMX_MLX5_NOP && p->opcode != SHMEMX_MLX5_SEND &&
                  p->opcode != SHMEMX_MLX5_DUMP && p->opcode != SHMEMX_MLX5_SEND_IMM;
    const uint8_t wrong_wqe = SHMEMX_MLX5_SYNDROME_LOCAL_QP_OPERATION;
    switch (chance(8)) {
    case 0:
        *index += 1 + (uint16_t)chance(0xffff);
        p->syndrome = wrong_wqe;
        break;
    case 1:
        *qpn ^= 1 + (uint32_t)chance(0xffff);
        p->syndrome = wrong_wqe;
        break;
    case 2:
        p->opcode = 0x30 + (uint8_t)chance(0x80);
        p->syndrome = wrong_wqe;
        break;
    case 3:
        if (p->pieces == 0 || p->inlines)
            return;
        sim_put_be32(b->raw + (b->ds - 1) * 16 + 4, 0xdead00 + (uint32_t)chance(256));
        p->syndrome = SHMEMX_MLX5_SYNDROME_LOCAL_PROTECTION;
        break;
    case 4: /* the far end: a key of nothing, or a range that ends behind it */
        if (!remote || p->bytes == 0)
            return;
        if (one_in(2))
            sim_put_be32(b->raw + 24, l->far.key ^ 0x100);
        else
            sim_put_be64(b->raw + 16, (address_of(&l->far, AREA - p->bytes) + 8) & ~7ull);
        p->syndrome = SHMEMX_MLX5_SYNDROME_REMOTE_ACCESS;
        break;
    case 5:
        if (p->opcode < SHMEMX_MLX5_ATOMIC_CS || p->opcode > SHMEMX_MLX5_ATOMIC_MASKED_FA)
            return;
        sim_put_be64(b->raw + 16, address_of(&l->far, p->remote) + 1 + chance(p->bytes - 1));
        p->syndrome = SHMEMX_MLX5_SYNDROME_REMOTE_INVALID_REQUEST;
        break;
    case 6: /* the last segment's memory ends too early */
        if (p->pieces == 0 || p->inlines)
            return;
        sim_put_be64(b->raw + (b->ds - 1) * 16 + 8,
                     address_of(&l->source, AREA) - p->length[p->pieces - 1] + 1);
        sim_put_be32(b->raw + (b->ds - 1) * 16 + 4, l->source.key);
        p->syndrome = SHMEMX_MLX5_SYNDROME_LOCAL_PROTECTION;
        break;
    default:
        if (!p->inlines)
            return;
        sim_put_be32(b->raw + 32, ((b->ds - 2) * 16 + (uint32_t)chance(1 << 20)) | SHMEMX_MLX5_INLINE);
        p->syndrome = wrong_wqe;
    }
}

/* Posts one request; false = the queue has no room for it. */
static bool post(struct lane *l, unsigned broken_one_in)
{
    static const uint8_t opcodes[] = {SHMEMX_MLX5_NOP,
                                      SHMEMX_MLX5_RDMA_WRITE,
                                      SHMEMX_MLX5_RDMA_WRITE,
                                      SHMEMX_MLX5_RDMA_WRITE,
                                      SHMEMX_MLX5_RDMA_READ,
                                      SHMEMX_MLX5_RDMA_WRITE_IMM,
                                      SHMEMX_MLX5_SEND,
                                      SHMEMX_MLX5_ATOMIC_FA,
                                      SHMEMX_MLX5_ATOMIC_CS,
                                      SHMEMX_MLX5_ATOMIC_MASKED_CS,
                                      SHMEMX_MLX5_ATOMIC_MASKED_FA,
                                      SHMEMX_MLX5_DUMP,
                                      SHMEMX_MLX5_RDMA_WRITE,
                                      SHMEMX_MLX5_SEND_IMM};
    struct builder b = {.ds = 1};
    if (l->count == MOST_POSTED)
        return false;
    struct posted *p = &l->list[l->count];
    *p = (struct posted){.index = l->next, .opcode = opcodes[chance(sizeof opcodes)]};
    switch (p->opcode) {
    case SHMEMX_MLX5_NOP:
        break;
    case SHMEMX_MLX5_RDMA_WRITE_IMM:
    case SHMEMX_MLX5_RDMA_WRITE:
        build_write(l, &b, p);
        break;
    case SHMEMX_MLX5_RDMA_READ:
        b.ds = 2;
        pieces(l, &b, p, &l->answers, 3);
        p->remote = (uint32_t)chance(AREA - p->bytes + 1);
        remote_segment(l, &b, p);
        break;
    case SHMEMX_MLX5_SEND:
    case SHMEMX_MLX5_SEND_IMM:
    case SHMEMX_MLX5_DUMP:
        pieces(l, &b, p, &l->source, 1);
        if (p->bytes > RECEIVE) {
            p->bytes = p->length[0] = RECEIVE;
            sim_put_be32(b.raw + 16, RECEIVE);
        }
        break;
    default:
        build_atomic(l, &b, p);
    }
    uint16_t index = l->next;
    uint32_t qpn = l->qp->number;
    if (broken_one_in && !l->broken && one_in(broken_one_in))
        spoil(l, &b, p, &index, &qpn);
    p->blocks = (uint8_t)((b.ds + 3) / 4);
    unsigned used = (uint16_t)(l->next - l->flush);
    if (used + p->blocks > l->depth)
        return false;
    bool receive = p->opcode == SHMEMX_MLX5_RDMA_WRITE_IMM || p->opcode == SHMEMX_MLX5_SEND ||
                   p->opcode == SHMEMX_MLX5_SEND_IMM;
    if (receive && l->receives_needed - l->received >= RECEIVES - 1)
        return false;
    l->receives_needed += receive && !l->broken && !p->syndrome;
    l->broken |= p->syndrome != 0;
    p->signalled = one_in(2) || used + p->blocks + 5 > l->depth; /* the last that fits must be waited for */
    p->imm = (uint32_t)chance(UINT32_MAX);
    sim_put_be32(b.raw, (uint32_t)p->opmod << 24 | (uint32_t)index << 8 | p->opcode);
    sim_put_be32(b.raw + 4, qpn << 8 | b.ds);
    b.raw[8] = (unsigned char)chance(256);
    b.raw[11] =
        (unsigned char)((p->signalled ? SHMEMX_MLX5_CE_ALWAYS : 0) | (one_in(4)   ? SHMEMX_MLX5_FENCE_STRONG
                                                                      : one_in(4) ? SHMEMX_MLX5_FENCE_SMALL
                                                                                  : 0));
    sim_put_be32(b.raw + 12, p->imm);
    lane_store(l, b.raw, b.ds);
    l->next = (uint16_t)(l->next + p->blocks);
    l->count++;
    wqes_done++;
    return true;
}

/* ---- doorbells ------------------------------------------------------------------------------------------------ */

static void ring_uar(struct lane *l, uint16_t index, const unsigned char *control)
{
    unsigned char reg[8];
    uint64_t word;
    sim_put_be32(reg, (uint32_t)(index | chance(256) << 16) << 8); /* the NIC looks at 16 bits */
    sim_put_be32(reg + 4, l->qp->number << 8);
    memcpy(&word, control ? control : reg, 8);
    __atomic_store_n((uint64_t *)(l->qp->uar->page + SHMEMX_MLX5_UAR_SEND), word, __ATOMIC_RELEASE);
    l->told = l->rung = index;
}

static void record(struct lane *l)
{
    record_set(&l->record[SHMEMX_MLX5_RECORD_SEND], l->next);
    l->told = l->next;
}

static void steps(unsigned most)
{
    for (uint64_t n = chance(most + 1); n; n--)
        step(far_nic && one_in(2) ? far_nic : near_nic);
}

static void ring(struct lane *l)
{
    const struct posted *last = l->count ? &l->list[l->count - 1] : NULL;
    uint16_t before = l->rung;
    switch (chance(6)) {
    case 0: /* as a driver rings: the last WQE's first 8 bytes, whose index and ds say where it ends */
        record(l);
        if (last && !l->broken && last->index + last->blocks == l->next)
            ring_uar(l, l->next, lane_block(l, last->index));
        else
            ring_uar(l, l->next, NULL);
        break;
    case 1: /* register, record, register */
        ring_uar(l, l->next, NULL);
        steps(2);
        record(l);
        ring_uar(l, l->next, NULL);
        break;
    case 2: /* a stale one in between */
        record(l);
        ring_uar(l, before, NULL);
        l->told = l->next;
        steps(2);
        ring_uar(l, l->next, NULL);
        break;
    case 3: /* twice */
        record(l);
        ring_uar(l, l->next, NULL);
        steps(3);
        ring_uar(l, l->next, NULL);
        break;
    default:
        record(l);
        ring_uar(l, l->next, NULL);
    }
}

#endif
