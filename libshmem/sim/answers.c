/* The requester: what peers answer. */
#include "requester.h"

#include <string.h>

/* Nanoseconds that a receiver asks for by its code for the RNR timer, IBTA's table. */
static uint64_t rnr_ns(uint8_t code)
{
    static const uint16_t times[32] = {0,    1,    2,    3,    4,    6,     8,     12,    16,    24,   32,
                                       48,   64,   96,   128,  192,  256,   384,   512,   768,   1024, 1536,
                                       2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768, 49152};
    return code == 0 ? 655360000ull : times[code & 31] * 10000ull;
}

/* The receiver was not ready for a message: it is sent again later, with all that went after it. */
static void again(struct sim_nic *nic, struct sim_qp *qp, unsigned number, const struct sim_packet *p)
{
    struct sim_wqe *w = in_flight(qp, number);
    if (qp->rnr_retries != 7) {
        if (qp->rnr_left == 0) {
            fail(nic, qp, w, SHMEMX_MLX5_SYNDROME_RNR_EXCEEDED, VENDOR_RNR);
            return;
        }
        qp->rnr_left--;
    }
    unsigned end = qp->next_sent + (qp->sent > 0);
    for (unsigned i = number; i != end; ++i) {
        const struct sim_wqe *later = in_flight(qp, i);
        if (later->remote && !later->done && (is_read(later) || is_atomic(later)) && i != qp->next_sent)
            qp->reads--;
    }
    qp->next_sent = number;
    qp->sent = 0;
    qp->cursor = (struct sim_cursor){0, 0};
    qp->sequence = w->sequence;
    qp->rnr_until = nic->now + rnr_ns(p->syndrome);
}

static void read_data(struct sim_nic *nic, struct sim_qp *qp, struct sim_wqe *w, const struct sim_packet *p,
                      const unsigned char *payload)
{
    if (qp->landed == 0)
        qp->landing = (struct sim_cursor){0, 0};
    uint8_t syndrome = sim_scatter(nic, qp, w->raw + w->list * 16, (unsigned)w->ds - w->list, &qp->landing,
                                   payload, p->payload);
    qp->landed += p->payload;
    if (syndrome)
        fail(nic, qp, w, syndrome, VENDOR_LOCAL_PROTECTION);
    else if (p->flags & SIM_LAST)
        done(nic, w);
    if (w->done || (p->flags & SIM_LAST)) {
        qp->reads -= p->flags & SIM_LAST ? 1 : 0;
        qp->landed = p->flags & SIM_LAST ? 0 : qp->landed;
    }
}

static void old_value(struct sim_nic *nic, struct sim_qp *qp, struct sim_wqe *w, const struct sim_packet *p)
{
    unsigned char bytes[8];
    struct sim_cursor c = {0, 0};
    if (w->bytes == 4)
        sim_put_be32(bytes, (uint32_t)p->operand[0]);
    else
        memcpy(bytes, &p->operand[0], 8);
    uint8_t syndrome =
        sim_scatter(nic, qp, w->raw + w->list * 16, (unsigned)w->ds - w->list, &c, bytes, w->bytes);
    qp->reads--;
    if (syndrome)
        fail(nic, qp, w, syndrome, VENDOR_LOCAL_PROTECTION);
    else
        done(nic, w);
}

void sim_answered(struct sim_nic *nic, const struct sim_packet *p, const unsigned char *payload)
{
    struct sim_qp *qp = sim_qp_find(nic, p->to);
    if (!qp || qp->state != SIM_RTS || qp->remote_qpn != p->from || qp->remote_lid != p->lid)
        return;
    for (unsigned i = qp->first; i != qp->next_sent + (qp->sent > 0); ++i) {
        struct sim_wqe *w = in_flight(qp, i);
        if (!w->remote || w->done)
            continue;
        int32_t ahead = (int32_t)((p->sequence - w->sequence) << 8) >> 8; /* of 24 bits */
        if (ahead < 0)
            return; /* an answer from before */
        if (ahead > 0) {
            if (!is_read(w) && !is_atomic(w))
                done(nic, w); /* what comes in order speaks for all before it */
            continue;
        }
        qp->progress = nic->now;
        if (p->kind != SIM_RNR)
            qp->rnr_left = qp->rnr_retries;
        if (p->kind == SIM_NAK)
            fail(nic, qp, w, p->syndrome, p->vendor);
        else if (p->kind == SIM_RNR)
            again(nic, qp, i, p);
        else if (p->kind == SIM_READ_DATA && is_read(w))
            read_data(nic, qp, w, p, payload);
        else if (p->kind == SIM_OLD_VALUE && is_atomic(w))
            old_value(nic, qp, w, p);
        else if (p->kind == SIM_ACK)
            done(nic, w);
        if (w->done && w->syndrome && i == qp->next_sent)
            sent_whole(qp);
        return;
    }
}
