/* UAR pages, queue pairs, and the machine of their states: RESET, INIT, RTR, RTS, and from all of them ERR and RESET. */
#define _GNU_SOURCE
#include "engine.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct sim_uar *sim_uar_create(struct sim_nic *nic, bool announced)
{
    struct sim_uar *uar = calloc(1, sizeof *uar);
    /* shared: a forked child's copy on write must not part a program from the page that the NIC looks at */
    void *page = mmap(NULL, SHMEMX_MLX5_UAR_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (!uar || page == MAP_FAILED) {
        free(uar);
        return NULL;
    }
    *uar =
        (struct sim_uar){.next = nic->uars, .number = nic->next_uar++, .page = page, .announced = announced};
    nic->uars = uar;
    return uar;
}

void sim_uar_destroy(struct sim_nic *nic, struct sim_uar *uar)
{
    struct sim_uar **at = &nic->uars;
    while (*at && *at != uar)
        at = &(*at)->next;
    if (*at)
        *at = uar->next;
    munmap(uar->page, SHMEMX_MLX5_UAR_BYTES);
    free(uar);
}

struct sim_uar *sim_uar_find(struct sim_nic *nic, uint32_t number)
{
    struct sim_uar *uar = nic->uars;
    while (uar && uar->number != number)
        uar = uar->next;
    return uar;
}

static void reset(struct sim_qp *qp)
{
    qp->producer = qp->fetched = qp->flushed = qp->rq_taken = qp->rq_flushed = 0;
    qp->first = qp->next_sent = qp->last = 0;
    qp->sent = qp->reads = qp->landed = qp->received = 0;
    qp->cursor = (struct sim_cursor){0, 0};
    qp->stopped = qp->stalled = qp->within = false;
    qp->progress = qp->rnr_until = qp->doorbell_at = 0;
}

struct sim_qp *sim_qp_create(struct sim_nic *nic, const struct sim_qp *like)
{
    struct sim_qp *qp = malloc(sizeof *qp);
    if (!qp)
        return NULL;
    memcpy(qp, like, sizeof *qp);
    unsigned blocks = qp->sq_blocks ? qp->sq_blocks : 1;
    qp->sq_blocks = blocks;
    qp->flight = calloc(blocks, sizeof *qp->flight);
    qp->copy = calloc(blocks + SIM_MOST_BLOCKS - 1u, SHMEMX_MLX5_BLOCK);
    if (!qp->flight || !qp->copy) {
        free(qp->flight);
        free(qp->copy);
        free(qp);
        return NULL;
    }
    do
        qp->number = nic->next_number++ & 0xffffff;
    while (qp->number < 2); /* 0 and 1 are the subnet's */
    qp->state = SIM_RESET;
    reset(qp);
    if (qp->uar)
        qp->uar->users++;
    qp->next = nic->qps;
    nic->qps = qp;
    sim_trace_qp_state(nic, qp);
    return qp;
}

void sim_qp_destroy(struct sim_nic *nic, struct sim_qp *qp)
{
    struct sim_qp **at = &nic->qps;
    while (*at && *at != qp)
        at = &(*at)->next;
    if (*at)
        *at = qp->next;
    nic->found[qp->number & 255] = NULL;
    if (qp->uar)
        qp->uar->users--;
    qp->state = SIM_GONE;
    sim_trace_qp_state(nic, qp);
    free(qp->flight);
    free(qp->copy);
    free(qp);
}

struct sim_qp *sim_qp_find(struct sim_nic *nic, uint32_t number)
{
    struct sim_qp *qp = nic->found[number & 255];
    if (qp && qp->number == number)
        return qp;
    qp = nic->qps;
    while (qp && qp->number != number)
        qp = qp->next;
    nic->found[number & 255] = qp;
    return qp;
}

bool sim_qp_step(struct sim_nic *nic, struct sim_qp *qp, enum sim_state state)
{
    if (state == SIM_ERR) {
        if (qp->state == SIM_ERR)
            return true;
        sim_flush(nic, qp);
    } else if (state == SIM_RESET) {
        reset(qp);
    } else if (state == SIM_INIT ? qp->state != SIM_RESET && qp->state != SIM_INIT
                                 : (int)qp->state != (int)state - 1 && qp->state != state) {
        return false;
    }
    if (state == SIM_RTR && qp->state != SIM_RTR)
        qp->expected = qp->receive_psn;
    if (state == SIM_RTS && qp->state != SIM_RTS) {
        qp->sequence = qp->send_psn;
        qp->rnr_left = qp->rnr_retries;
    }
    qp->state = state;
    sim_trace_qp_state(nic, qp);
    return true;
}

const char *sim_state_name(enum sim_state state)
{
    static const char *const names[] = {"RESET", "INIT", "RTR", "RTS", "ERR", "gone"};
    return names[state];
}
