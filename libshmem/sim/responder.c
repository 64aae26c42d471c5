/* The responder: what requests of peers do here. A queue pair takes messages in order and answers each; the link's later
 * requests wait while a read is being answered in pieces. */
#include "engine.h"

#include <infiniband/verbs.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "transport/mlx5_prm.h"

enum { GRH = 40 }; /* bytes in front of a datagram */

static struct sim_packet *answer(struct sim_link *link, const struct sim_packet *to, uint8_t kind,
                                 uint32_t payload)
{
    struct sim_packet *p = sim_packet_room(link, payload);
    if (p) {
        p->kind = kind;
        p->to = to->from;
        p->from = to->to;
        p->sequence = to->sequence;
        p->payload = payload;
    }
    return p;
}

static void trace_landed(struct sim_nic *nic, const struct sim_packet *p, uint64_t address, uint32_t bytes,
                         uint8_t syndrome, uint8_t vendor)
{
    struct sim_trace_landed t = {.opcode = p->opcode,
                                 .syndrome = syndrome,
                                 .vendor = vendor,
                                 .flags = (p->flags & SIM_LAST) != 0,
                                 .bytes = bytes,
                                 .address = address,
                                 .rkey = p->rkey,
                                 .remote_qpn = p->from,
                                 .sequence = p->sequence,
                                 .remote_lid = p->lid};
    sim_trace(nic, SIM_TRACE_LANDED, p->to, &t, sizeof t, NULL, 0);
}

/* There is room for an answer (sim_request has seen to it). */
static void acknowledge(struct sim_nic *nic, struct sim_link *link, struct sim_qp *qp,
                        const struct sim_packet *p)
{
    (void)answer(link, p, SIM_ACK, 0);
    sim_packet_push(nic, link);
    qp->expected = (qp->expected + 1) & 0xffffff;
    qp->within = false;
}

/* Refuses a message; this end of the connection is in error too. */
static void refuse(struct sim_nic *nic, struct sim_link *link, struct sim_qp *qp, const struct sim_packet *p,
                   uint8_t syndrome, uint8_t vendor)
{
    struct sim_packet *a = answer(link, p, SIM_NAK, 0);
    a->syndrome = syndrome;
    a->vendor = vendor;
    sim_packet_push(nic, link);
    trace_landed(nic, p, p->address, p->total, syndrome, vendor);
    (void)sim_qp_step(nic, qp, SIM_ERR);
}

static void not_ready(struct sim_nic *nic, struct sim_link *link, struct sim_qp *qp,
                      const struct sim_packet *p)
{
    struct sim_packet *a = answer(link, p, SIM_RNR, 0);
    a->syndrome = qp->rnr_timer;
    sim_packet_push(nic, link);
    qp->within = false;
}

/* ---- receives ------------------------------------------------------------------------------------------ */

static bool take_receive(struct sim_nic *nic, struct sim_qp *qp)
{
    if (!qp->rq || !qp->record)
        return false;
    /* acquire: pairs with the program's release after it has written the receive */
    uint16_t posted = (uint16_t)__builtin_bswap32(
        atomic_load_explicit(&qp->record[SHMEMX_MLX5_RECORD_RECEIVE], memory_order_acquire));
    if (sim_ahead(posted, qp->rq_taken) == 0)
        return false;
    unsigned bytes = qp->rq_stride < sizeof qp->receive ? qp->rq_stride : (unsigned)sizeof qp->receive;
    sim_copy_out(qp->receive, qp->rq + (size_t)(qp->rq_taken & (qp->rq_count - 1)) * qp->rq_stride, bytes);
    qp->receive_segments = bytes / SHMEMX_MLX5_SEGMENT;
    qp->receiving = (struct sim_cursor){0, 0};
    qp->receive_index = qp->rq_taken++;
    sim_trace(nic, SIM_TRACE_RECEIVE, qp->number, &(struct sim_trace_wqe){qp->receive_index, 1},
              sizeof(struct sim_trace_wqe), qp->receive, bytes);
    return true;
}

static void received(struct sim_nic *nic, struct sim_qp *qp, const struct sim_packet *p, uint32_t bytes,
                     uint8_t opcode, uint8_t syndrome)
{
    sim_cq_add(nic, qp->receive_cq, qp,
               &(struct sim_entry){.opcode = syndrome ? SHMEMX_MLX5_CQE_RECEIVE_ERROR : opcode,
                                   .wqe_opcode = p->opcode,
                                   .syndrome = syndrome,
                                   .solicited = (p->flags & SIM_SOLICITED) != 0,
                                   .counter = qp->receive_index,
                                   .bytes = bytes,
                                   .imm = p->imm,
                                   .remote_qpn = p->from});
}

static void receive_datagram(struct sim_nic *nic, const struct sim_packet *p, const unsigned char *payload)
{
    struct sim_qp *qp = sim_qp_find(nic, p->to);
    unsigned char grh[GRH] = {0};
    if (!qp || qp->type != PRM_ST_UD || (qp->state != SIM_RTR && qp->state != SIM_RTS) ||
        qp->qkey != p->qkey || !take_receive(nic, qp))
        return;
    memcpy(grh + 8, nic->gid, 14);
    grh[22] = (unsigned char)(p->lid >> 8);
    grh[23] = (unsigned char)p->lid;
    memcpy(grh + 24, nic->gid, 16);
    uint8_t syndrome =
        sim_scatter(nic, qp, qp->receive, qp->receive_segments, &qp->receiving, grh, sizeof grh);
    if (!syndrome)
        syndrome = sim_scatter(nic, qp, qp->receive, qp->receive_segments, &qp->receiving, payload, p->total);
    trace_landed(nic, p, 0, p->total, syndrome, 0);
    received(nic, qp, p, p->total + GRH,
             p->opcode == SHMEMX_MLX5_SEND_IMM ? SHMEMX_MLX5_CQE_SEND_IMM : SHMEMX_MLX5_CQE_SEND, syndrome);
}

static void take_send(struct sim_nic *nic, struct sim_link *link, struct sim_qp *qp,
                      const struct sim_packet *p, const unsigned char *payload)
{
    if ((p->flags & SIM_FIRST) && !take_receive(nic, qp)) {
        not_ready(nic, link, qp, p);
        return;
    }
    uint8_t syndrome =
        sim_scatter(nic, qp, qp->receive, qp->receive_segments, &qp->receiving, payload, p->payload);
    if (syndrome) {
        received(nic, qp, p, 0, 0, syndrome);
        refuse(nic, link, qp, p,
               syndrome == SHMEMX_MLX5_SYNDROME_LOCAL_LENGTH ? SHMEMX_MLX5_SYNDROME_REMOTE_INVALID_REQUEST
                                                             : SHMEMX_MLX5_SYNDROME_REMOTE_OPERATION,
               0);
        return;
    }
    trace_landed(nic, p, 0, p->payload, 0, 0);
    if (!(p->flags & SIM_LAST))
        return;
    received(nic, qp, p, p->total,
             p->opcode == SHMEMX_MLX5_SEND_IMM ? SHMEMX_MLX5_CQE_SEND_IMM : SHMEMX_MLX5_CQE_SEND, 0);
    acknowledge(nic, link, qp, p);
}

/* ---- memory -------------------------------------------------------------------------------------------- */

static void write_memory(struct sim_nic *nic, struct sim_link *link, struct sim_qp *qp,
                         const struct sim_packet *p, const unsigned char *payload)
{
    bool imm = p->opcode == SHMEMX_MLX5_RDMA_WRITE_IMM;
    uint32_t before = qp->received;
    if (!qp->remote_write) {
        refuse(nic, link, qp, p, SHMEMX_MLX5_SYNDROME_REMOTE_INVALID_REQUEST, 0);
        return;
    }
    if (p->total) { /* nothing needs no key */
        const struct sim_key *k =
            sim_key_check(nic, p->rkey, qp->pd, p->address, p->total, IBV_ACCESS_REMOTE_WRITE);
        if (!k || before + p->payload > p->total || !sim_store(k, p->address + before, payload, p->payload)) {
            refuse(nic, link, qp, p, SHMEMX_MLX5_SYNDROME_REMOTE_ACCESS, SHMEMX_MLX5_VENDOR_REMOTE_ACCESS);
            return;
        }
    }
    qp->received += p->payload;
    if ((p->flags & SIM_LAST) && imm && !take_receive(nic, qp)) {
        not_ready(nic, link, qp, p);
        return;
    }
    trace_landed(nic, p, p->address + before, p->payload, 0, 0);
    if (!(p->flags & SIM_LAST))
        return;
    if (imm)
        received(nic, qp, p, p->total, SHMEMX_MLX5_CQE_WRITE_IMM, 0);
    acknowledge(nic, link, qp, p);
}

static void read_memory(struct sim_nic *nic, struct sim_link *link, struct sim_qp *qp,
                        const struct sim_packet *p)
{
    if (!qp->remote_read || p->reads > 1u << qp->log_served) {
        refuse(nic, link, qp, p, SHMEMX_MLX5_SYNDROME_REMOTE_INVALID_REQUEST, 0);
    } else if (p->total &&
               !sim_key_check(nic, p->rkey, qp->pd, p->address, p->total, IBV_ACCESS_REMOTE_READ)) {
        refuse(nic, link, qp, p, SHMEMX_MLX5_SYNDROME_REMOTE_ACCESS, SHMEMX_MLX5_VENDOR_REMOTE_ACCESS);
    } else {
        trace_landed(nic, p, p->address, p->total, 0, 0);
        link->answer.active = true;
        link->answer.request = *p;
        link->answer.done = 0;
        qp->expected = (qp->expected + 1) & 0xffffff;
        (void)sim_answer(nic, link);
    }
}

bool sim_answer(struct sim_nic *nic, struct sim_link *link)
{
    const struct sim_packet *r = &link->answer.request;
    bool moved = false;
    while (link->answer.active) {
        uint32_t left = r->total - link->answer.done, n = left < SIM_PAYLOAD ? left : SIM_PAYLOAD;
        struct sim_qp *qp = sim_qp_find(nic, r->to);
        if (!qp || (qp->state != SIM_RTR && qp->state != SIM_RTS)) {
            link->answer.active = false; /* it has gone meanwhile: so has its answer */
            break;
        }
        struct sim_packet *p = answer(link, r, SIM_READ_DATA, n);
        if (!p)
            break;
        const struct sim_key *k =
            n ? sim_key_check(nic, r->rkey, qp->pd, r->address + link->answer.done, n, IBV_ACCESS_REMOTE_READ)
              : NULL;
        if (n && (!k || !sim_load_later(k, p + 1, r->address + link->answer.done, n))) {
            link->answer.active = false; /* the key was taken back meanwhile */
            refuse(nic, link, qp, r, SHMEMX_MLX5_SYNDROME_REMOTE_ACCESS, SHMEMX_MLX5_VENDOR_REMOTE_ACCESS);
            break;
        }
        p->flags = (uint8_t)((link->answer.done == 0 ? SIM_FIRST : 0) | (n == left ? SIM_LAST : 0));
        sim_packet_push(nic, link);
        link->answer.done += n;
        link->answer.active = n < left;
        moved = true;
    }
    return moved;
}

static void do_atomic(struct sim_nic *nic, struct sim_link *link, struct sim_qp *qp,
                      const struct sim_packet *p)
{
    unsigned bytes = sim_atomic_bytes(p->opcode, p->opmod);
    const struct sim_key *k =
        bytes ? sim_key_check(nic, p->rkey, qp->pd, p->address, bytes, IBV_ACCESS_REMOTE_ATOMIC) : NULL;
    uint64_t old = 0, next;
    if (!qp->remote_atomic || bytes == 0 || p->reads > 1u << qp->log_served) {
        refuse(nic, link, qp, p, SHMEMX_MLX5_SYNDROME_REMOTE_INVALID_REQUEST, 0);
        return;
    }
    if (p->address % bytes) {
        refuse(nic, link, qp, p, SHMEMX_MLX5_SYNDROME_REMOTE_INVALID_REQUEST,
               SHMEMX_MLX5_VENDOR_MISALIGNED_ATOMIC);
        return;
    }
    /* The NIC's atomics are atomic among themselves, since one thread executes them all. */
    bool there = k && sim_load(k, &old, p->address, bytes);
    next = sim_atomic_apply(p->opcode, bytes, old, p->operand);
    if (there && !k->gpu && nic->global_atomics) {
        while (!sim_replace(p->address, bytes, &old, next))
            next = sim_atomic_apply(p->opcode, bytes, old, p->operand);
    } else if (there && next != old) {
        sched_yield(); /* a NIC's load and store are a way apart: what others store between the two is lost */
        there = sim_store(k, p->address, &next, bytes);
    }
    if (!there) {
        refuse(nic, link, qp, p, SHMEMX_MLX5_SYNDROME_REMOTE_ACCESS, SHMEMX_MLX5_VENDOR_REMOTE_ACCESS);
        return;
    }
    trace_landed(nic, p, p->address, bytes, 0, 0);
    struct sim_packet *a = answer(link, p, SIM_OLD_VALUE, 0);
    a->operand[0] = old;
    sim_packet_push(nic, link);
    qp->expected = (qp->expected + 1) & 0xffffff;
}

/* ---- requests ------------------------------------------------------------------------------------------ */

static bool hears(struct sim_nic *nic, const struct sim_packet *p)
{
    if (p->flags & SIM_FIRST)
        nic->requests++;
    if (nic->faults.kill && nic->requests >= nic->faults.kill) {
        sim_trace_text(nic, SIM_TRACE_FAULT, p->to, "kill=%llu", (unsigned long long)nic->faults.kill);
        sim_trace_close(nic);
        kill(getpid(), SIGKILL);
    }
    if (nic->faults.deaf && nic->requests >= nic->faults.deaf && !nic->deaf) {
        sim_trace_text(nic, SIM_TRACE_FAULT, p->to, "deaf=%llu", (unsigned long long)nic->faults.deaf);
        nic->deaf = true;
    }
    return !nic->deaf;
}

bool sim_request(struct sim_nic *nic, struct sim_link *link, const struct sim_packet *p,
                 const unsigned char *payload)
{
    if (!sim_packet_room(link, 0))
        return false;
    if (!hears(nic, p))
        return true;
    if (p->kind == SIM_DATAGRAM) {
        receive_datagram(nic, p, payload);
        return true;
    }
    struct sim_qp *qp = sim_qp_find(nic, p->to);
    if (!qp || (qp->state != SIM_RTR && qp->state != SIM_RTS) || qp->type != PRM_ST_RC ||
        qp->remote_qpn != p->from || qp->remote_lid != p->lid || p->sequence != qp->expected)
        return true; /* not for this queue pair, or what comes after a message that is to come again */
    if (p->flags & SIM_FIRST) {
        qp->within = true;
        qp->received = 0;
    } else if (!qp->within) {
        return true;
    }
    switch (p->opcode) {
    case SHMEMX_MLX5_RDMA_WRITE:
    case SHMEMX_MLX5_RDMA_WRITE_IMM:
        write_memory(nic, link, qp, p, payload);
        break;
    case SHMEMX_MLX5_SEND:
    case SHMEMX_MLX5_SEND_IMM:
        take_send(nic, link, qp, p, payload);
        break;
    case SHMEMX_MLX5_RDMA_READ:
        read_memory(nic, link, qp, p);
        break;
    default:
        do_atomic(nic, link, qp, p);
    }
    return true;
}
