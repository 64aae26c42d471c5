/* Completion queues. */
#include "engine.h"

#include <stdlib.h>
#include <string.h>

static void trace_cq(struct sim_nic *nic, const struct sim_cq *cq, bool gone)
{
    struct sim_trace_cq t = {cq->log_size, cq->collapsed, cq->ignore_overrun, gone, cq->overrun};
    sim_trace(nic, SIM_TRACE_CQ, cq->number, &t, sizeof t, NULL, 0);
}

struct sim_cq *sim_cq_create(struct sim_nic *nic, const struct sim_cq *like)
{
    struct sim_cq *cq = malloc(sizeof *cq);
    if (!cq)
        return NULL;
    memcpy(cq, like, sizeof *cq);
    cq->number = nic->next_number++ & 0xffffff;
    cq->produced = 0;
    cq->overrun = false;
    cq->next = nic->cqs;
    nic->cqs = cq;
    trace_cq(nic, cq, false);
    return cq;
}

void sim_cq_destroy(struct sim_nic *nic, struct sim_cq *cq)
{
    struct sim_cq **at = &nic->cqs;
    while (*at && *at != cq)
        at = &(*at)->next;
    if (*at)
        *at = cq->next;
    trace_cq(nic, cq, true);
    free(cq);
}

struct sim_cq *sim_cq_find(struct sim_nic *nic, uint32_t number)
{
    struct sim_cq *cq = nic->cqs;
    while (cq && cq->number != number)
        cq = cq->next;
    return cq;
}

bool sim_cq_room(const struct sim_cq *cq)
{
    if (cq->ignore_overrun || !cq->record)
        return true;
    /* acquire: pairs with the program's release of the consumer index: it has read what lies below */
    uint32_t consumed =
        __builtin_bswap32(atomic_load_explicit(&cq->record[SHMEMX_MLX5_RECORD_CQ], memory_order_acquire));
    return ((cq->produced - consumed) & 0xffffff) < 1u << cq->log_size;
}

void sim_cq_add(struct sim_nic *nic, struct sim_cq *cq, const struct sim_qp *qp, const struct sim_entry *e)
{
    unsigned char cqe[SHMEMX_MLX5_CQE] = {0};
    bool error = e->opcode >= SHMEMX_MLX5_CQE_REQUEST_ERROR;
    if (!sim_cq_room(cq)) {
        if (!cq->overrun)
            sim_violation(nic, cq->number,
                          "completion queue %u is overrun: it holds %u entries, none of which was consumed",
                          cq->number, 1u << cq->log_size);
        cq->overrun = true;
        trace_cq(nic, cq, false);
        return;
    }
    sim_put_be32(cqe + 24, e->remote_qpn);
    if (error) {
        cqe[54] = e->vendor;
        cqe[55] = e->syndrome;
    } else {
        sim_put_be32(cqe + 32, qp->user_index);
        sim_put_be32(cqe + 36, e->imm);
        sim_put_be32(cqe + 44, e->bytes);
        sim_put_be64(cqe + 48, nic->now);
    }
    sim_put_be32(cqe + 56, (uint32_t)e->wqe_opcode << 24 | qp->number);
    cqe[60] = (unsigned char)(e->counter >> 8);
    cqe[61] = (unsigned char)e->counter;
    cqe[63] = (unsigned char)(e->opcode << 4 | e->solicited << 1 | (cq->produced >> cq->log_size & 1));
    unsigned slot = cq->collapsed ? 0 : cq->produced & ((1u << cq->log_size) - 1);
    unsigned char *at = cq->buffer + (size_t)slot * SHMEMX_MLX5_CQE;
    uint32_t last;
    memcpy(&last, cqe + 60, sizeof last);
    sim_copy_in(at, cqe, 60);
    /* release: who sees the owner bit sees the entry, and all that has landed before it */
    __atomic_store_n((uint32_t *)(at + 60), last, __ATOMIC_RELEASE);
    sim_trace(nic, SIM_TRACE_CQE, cq->number, &(struct sim_trace_cqe){cq->produced, qp->number},
              sizeof(struct sim_trace_cqe), cqe, sizeof cqe);
    cq->produced++;
    /* acq_rel: pairs with the arming thread's store; it looks at the queue once more after that */
    if (cq->event && atomic_exchange_explicit(&cq->armed, 0, memory_order_acq_rel))
        cq->event(cq);
}
