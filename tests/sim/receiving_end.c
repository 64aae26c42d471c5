#include "receiving_end.h"

#include "scene.h"

enum { LOG_BLOCKS = 6 };
static unsigned slots[2 << LOG_BLOCKS]; /* what the kernel keeps of its blocks */

void receiving_open(struct shmemx_ibgda_qp *q, unsigned char **here, const unsigned char **there,
                    unsigned long *bytes)
{
    begin((struct options){.blocks = 1 << LOG_BLOCKS, .log_cq = LOG_BLOCKS, .ignore_overrun = true});
    *here = a.memory;
    *there = b.memory;
    *bytes = MEMORY;
    memset(q, 0, sizeof *q);
    q->wq = (uintptr_t)a.sq;
    q->record = (uintptr_t)&a.record[SHMEMX_MLX5_RECORD_SEND];
    q->uar = (uintptr_t)a.uar->page + SHMEMX_MLX5_UAR_SEND;
    q->slots = (uintptr_t)slots;
    q->qpn = a.qp->number << 8;
    q->mask = (1 << LOG_BLOCKS) - 1;
    q->first_key = __builtin_bswap32(b.key);
    q->first_local = __builtin_bswap32(a.key);
    q->first_end = MEMORY;
    q->first_address = (uintptr_t)b.memory;
    q->cq = (uintptr_t)a.cqes;
    q->log_cq = LOG_BLOCKS;
    q->pe = 1;
}

void receiving_post(void)
{
    post_receive(&b, 0, 0);
}

void receiving_run(void)
{
    run();
}

struct receiving_arrival receiving_next(void)
{
    struct seen s = next_received(&b);
    return (struct receiving_arrival){s.opcode, s.bytes, s.imm, s.counter};
}

unsigned receiving_violations(void)
{
    return a.nic->violations + b.nic->violations;
}

void receiving_close(void)
{
    finish();
}
