/* What the requester's files share: requester.c sends, answers.c takes what comes back. */
#ifndef SIM_REQUESTER_H
#define SIM_REQUESTER_H

#include "engine.h"

/* Vendor's codes that nobody has measured for us; they look like those that firmware gives. */
enum { VENDOR_LOCAL_PROTECTION = 0x51, VENDOR_QP_OPERATION = 0x68, VENDOR_RETRY = 0x81, VENDOR_RNR = 0x87 };

static inline struct sim_wqe *in_flight(struct sim_qp *qp, unsigned number)
{
    return &qp->flight[number & (qp->sq_blocks - 1)];
}

static inline bool is_read(const struct sim_wqe *w)
{
    return w->opcode == SHMEMX_MLX5_RDMA_READ;
}

static inline bool is_atomic(const struct sim_wqe *w)
{
    return w->opcode >= SHMEMX_MLX5_ATOMIC_CS && w->opcode <= SHMEMX_MLX5_ATOMIC_MASKED_FA;
}

static inline void done(struct sim_nic *nic, struct sim_wqe *w)
{
    w->done = true;
    w->done_at = nic->now;
}

/* It completes with an error, when those before it are complete; nothing is fetched any more. */
static inline void fail(struct sim_nic *nic, struct sim_qp *qp, struct sim_wqe *w, uint8_t syndrome,
                        uint8_t vendor)
{
    done(nic, w);
    w->syndrome = syndrome;
    w->vendor = vendor;
    qp->stopped = true;
}

/* The next WQE's turn. */
static inline void sent_whole(struct sim_qp *qp)
{
    qp->next_sent++;
    qp->sent = 0;
    qp->cursor = (struct sim_cursor){0, 0};
}

#endif
