/* The requester: doorbells, fetching, sending, completing, timers, flushing. */
#include "requester.h"

#include <infiniband/verbs.h>
#include <string.h>

#include "transport/mlx5_prm.h"

/* The first block that is not complete. */
static uint16_t completed(struct sim_qp *qp)
{
    return qp->first != qp->last ? in_flight(qp, qp->first)->index : qp->fetched;
}

static void read_record(const struct sim_qp *qp, uint8_t raw[8], uint16_t *receive, uint16_t *send)
{
    uint32_t words[2] = {0, 0};
    if (qp->record) {
        /* acquire: pairs with the program's release after it has written what the record announces */
        words[0] = atomic_load_explicit(&qp->record[SHMEMX_MLX5_RECORD_RECEIVE], memory_order_acquire);
        words[1] = atomic_load_explicit(&qp->record[SHMEMX_MLX5_RECORD_SEND], memory_order_acquire);
    }
    memcpy(raw, words, 8);
    *receive = (uint16_t)__builtin_bswap32(words[0]);
    *send = (uint16_t)__builtin_bswap32(words[1]);
}

/* ---- doorbells ----------------------------------------------------------------------------------------- */

static void trace_doorbell(struct sim_nic *nic, const struct sim_qp *qp, enum sim_trace_kind kind,
                           const void *reg, uint16_t producer, bool taken)
{
    struct sim_trace_doorbell t = {.producer = producer, .fetched = qp->fetched, .taken = taken};
    uint16_t unused[2];
    if (!nic->trace)
        return;
    memcpy(t.reg, reg, sizeof t.reg);
    read_record(qp, t.record, &unused[0], &unused[1]);
    sim_trace(nic, kind, qp->number, &t, sizeof t, NULL, 0);
}

/* The send queue's producer index, as a register or a record says it. Stale ones change nothing; in the error state
 * none is taken from a register. */
static bool told(struct sim_nic *nic, struct sim_qp *qp, uint16_t index)
{
    if (qp->state != SIM_RTS || sim_ahead(index, qp->producer) == 0)
        return false;
    /* a NIC owes nobody any haste: it may read a source, and write at the peer, long after the doorbell */
    if (nic->faults.late_us && qp->first == qp->last && qp->fetched == qp->producer &&
        sim_random(nic) % 2 == 0)
        qp->late = nic->now + nic->faults.late_us * 1000;
    qp->producer = index;
    if ((uint16_t)(index - completed(qp)) > qp->sq_blocks) {
        sim_violation(
            nic, qp->number,
            "send queue of queue pair %u is overrun: block %u is announced, %u of %u are not complete",
            qp->number, (unsigned)index, (unsigned)(uint16_t)(index - completed(qp)), qp->sq_blocks);
        (void)sim_qp_step(nic, qp, SIM_ERR);
    }
    return true;
}

static bool rung(struct sim_nic *nic, struct sim_uar *uar, uint64_t word)
{
    unsigned char reg[8];
    memcpy(reg, &word, sizeof reg);
    uint32_t number = sim_be32(reg + 4) >> 8, ds = sim_be32(reg + 4) & 0x3f;
    /* with ds it is the beginning of the last WQE's control segment (BlueFlame), else the number after it */
    uint16_t index = (uint16_t)((sim_be32(reg) >> 8) + (ds + 3) / 4);
    struct sim_qp *qp = sim_qp_find(nic, number);
    if (!qp || qp->uar != uar) {
        sim_violation(nic, number, "doorbell for queue pair %u at UAR %u, which is not its", number,
                      uar->number);
        return false;
    }
    nic->doorbells++;
    if (nic->faults.drop_doorbell == nic->doorbells) {
        trace_doorbell(nic, qp, SIM_TRACE_DOORBELL, reg, index, false);
        sim_trace_text(nic, SIM_TRACE_FAULT, number, "drop_doorbell=%llu",
                       (unsigned long long)nic->faults.drop_doorbell);
        return false;
    }
    if (nic->faults.delay_doorbell_us) {
        qp->doorbell = index;
        qp->doorbell_at = qp->doorbell_at ? qp->doorbell_at : nic->now + nic->faults.delay_doorbell_us * 1000;
        return true;
    }
    bool taken = told(nic, qp, index);
    trace_doorbell(nic, qp, SIM_TRACE_DOORBELL, reg, index, taken);
    return true;
}

/* The register is memory here, which holds the last write alone: where several queue pairs share it, another one's may
 * be gone. Its record was written before. */
static void hidden(struct sim_nic *nic, const struct sim_uar *uar, uint32_t number)
{
    for (struct sim_qp *qp = uar->users > 1 ? nic->qps : NULL; qp; qp = qp->next) {
        uint8_t raw[8];
        uint16_t receive, send;
        if (qp->number == number || qp->uar != uar || qp->state != SIM_RTS)
            continue;
        read_record(qp, raw, &receive, &send);
        if (told(nic, qp, send))
            trace_doorbell(nic, qp, SIM_TRACE_DOORBELL, &(uint64_t){0}, send, true);
    }
}

bool sim_doorbells(struct sim_nic *nic)
{
    bool moved = false;
    for (struct sim_uar *u = nic->uars; u; u = u->next) {
        /* acquire: pairs with the program's release after record and WQEs */
        uint64_t word = __atomic_load_n((uint64_t *)(u->page + SHMEMX_MLX5_UAR_SEND), __ATOMIC_ACQUIRE);
        if (!word)
            continue;
        /* Taken out, so that the same doorbell again is one: after a reset, or when it hides another queue pair's. */
        word = __atomic_exchange_n((uint64_t *)(u->page + SHMEMX_MLX5_UAR_SEND), 0, __ATOMIC_ACQUIRE);
        moved |= rung(nic, u, word);
        hidden(nic, u, sim_be32((char *)&word + 4) >> 8);
    }
    return moved;
}

/* ---- fetching ------------------------------------------------------------------------------------------ */

static bool fault_stall(struct sim_nic *nic, struct sim_qp *qp)
{
    if (nic->faults.stall != nic->wqes)
        return false;
    sim_trace_text(nic, SIM_TRACE_FAULT, qp->number, "stall=%llu", (unsigned long long)nic->faults.stall);
    return qp->stalled = true;
}

static void fetch(struct sim_nic *nic, struct sim_qp *qp)
{
    unsigned mask = qp->sq_blocks - 1, slot = qp->fetched & mask;
    struct sim_wqe *w = in_flight(qp, qp->last);
    unsigned char *raw = qp->copy + (size_t)slot * SHMEMX_MLX5_BLOCK;
    const char *why = NULL;
    sim_copy_out(raw, qp->sq + (size_t)slot * SHMEMX_MLX5_BLOCK, SHMEMX_MLX5_BLOCK);
    unsigned blocks = ((raw[7] & 0x3f) + 3) / 4u, told = (uint16_t)(qp->producer - qp->fetched);
    blocks = blocks ? blocks : 1;
    for (unsigned i = 1; i < blocks; ++i) /* the ring goes on at its start */
        sim_copy_out(raw + (size_t)i * SHMEMX_MLX5_BLOCK,
                     qp->sq + (size_t)((slot + i) & mask) * SHMEMX_MLX5_BLOCK, SHMEMX_MLX5_BLOCK);
    *w = (struct sim_wqe){.raw = raw, .blocks = (uint8_t)blocks};
    uint8_t syndrome = sim_wqe_read(qp, w, qp->fetched, &why), vendor = VENDOR_QP_OPERATION;
    if (!syndrome && blocks > told)
        syndrome = SHMEMX_MLX5_SYNDROME_LOCAL_QP_OPERATION, why = "it ends after the producer index";
    if (syndrome)
        sim_violation(nic, qp->number, "queue pair %u, block %u, opcode 0x%02x, ds %u: %s", qp->number,
                      (unsigned)qp->fetched, w->opcode, w->ds, why);
    if (nic->faults.nak == nic->wqes && !syndrome) {
        sim_trace_text(nic, SIM_TRACE_FAULT, qp->number, "nak=%llu", (unsigned long long)nic->faults.nak);
        syndrome = (uint8_t)nic->faults.nak_syndrome;
        vendor = 0;
        syndrome = syndrome ? syndrome : SHMEMX_MLX5_SYNDROME_REMOTE_OPERATION;
    }
    sim_trace(nic, SIM_TRACE_WQE, qp->number, &(struct sim_trace_wqe){qp->fetched, (uint16_t)blocks},
              sizeof(struct sim_trace_wqe), raw, w->ds ? w->ds * 16u : 16u);
    qp->fetched = (uint16_t)(qp->fetched + blocks);
    qp->last++;
    if (syndrome)
        fail(nic, qp, w, syndrome, vendor);
}

/* ---- sending ------------------------------------------------------------------------------------------- */

/* What this NIC does alone. true = it is done. */
static bool local(struct sim_nic *nic, struct sim_qp *qp, struct sim_wqe *w)
{
    uint8_t syndrome = 0;
    if (w->opcode == SHMEMX_MLX5_WAIT) {
        const struct sim_cq *cq = sim_cq_find(nic, sim_be32(w->raw + 28) & 0xffffff);
        if (!cq)
            syndrome = SHMEMX_MLX5_SYNDROME_LOCAL_QP_OPERATION;
        else if ((int32_t)(cq->produced - sim_be32(w->raw + 24)) < 0)
            return false;
    } else if (w->opcode == SHMEMX_MLX5_DUMP) {
        struct sim_cursor c = {0, 0};
        for (uint32_t n = w->bytes, take; n && !syndrome; n -= take) {
            take = n < SIM_PAYLOAD ? n : SIM_PAYLOAD;
            syndrome = sim_gather(nic, qp, w->raw + 16, w->ds - 1u, &c, nic->payload, take);
        }
    }
    if (syndrome)
        fail(nic, qp, w, syndrome,
             syndrome == SHMEMX_MLX5_SYNDROME_LOCAL_PROTECTION ? VENDOR_LOCAL_PROTECTION
                                                               : VENDOR_QP_OPERATION);
    else
        done(nic, w);
    return true;
}

/* An unreliable datagram: it goes, or is lost. */
static void datagram(struct sim_nic *nic, struct sim_qp *qp, struct sim_wqe *w)
{
    const struct shmemx_mlx5_av *av = (const void *)(w->raw + 16);
    struct sim_cursor c = {0, 0};
    if (w->bytes > 4096) {
        fail(nic, qp, w, SHMEMX_MLX5_SYNDROME_LOCAL_LENGTH, 0);
        return;
    }
    uint8_t syndrome =
        sim_gather(nic, qp, w->raw + w->list * 16, (unsigned)w->ds - w->list, &c, nic->payload, w->bytes);
    if (syndrome) {
        fail(nic, qp, w, syndrome, VENDOR_LOCAL_PROTECTION);
        return;
    }
    static const unsigned char none[16];
    uint16_t lid = memcmp(av->gid, none, 16) != 0 ? (uint16_t)(av->gid[14] << 8 | av->gid[15])
                                                  : (uint16_t)(av->lid[0] << 8 | av->lid[1]);
    struct sim_link *link = sim_link_to(nic, lid);
    struct sim_packet *p = link ? sim_packet_room(link, w->bytes) : NULL;
    if (p) {
        p->kind = SIM_DATAGRAM;
        p->flags = SIM_FIRST | SIM_LAST;
        p->opcode = w->opcode;
        p->to = sim_be32(&av->qpn) & 0xffffff;
        p->from = qp->number;
        p->payload = p->total = w->bytes;
        p->imm = w->imm;
        p->qkey = sim_be32(&av->qkey);
        memcpy(p + 1, nic->payload, w->bytes);
        sim_packet_push(nic, link);
    }
    done(nic, w);
}

/* Whether a request may begin now; it may fail here as well. */
static bool may_begin(struct sim_nic *nic, struct sim_qp *qp, struct sim_wqe *w)
{
    if ((w->flags & SHMEMX_MLX5_FENCE_MASK) && qp->reads)
        return false;
    if (!w->remote)
        return true;
    bool reads = is_read(w) || is_atomic(w);
    if (reads && qp->reads >= 1u << qp->log_reads)
        return false;
    uint8_t syndrome = sim_list_check(nic, qp, w->raw + w->list * 16, (unsigned)w->ds - w->list,
                                      reads ? IBV_ACCESS_LOCAL_WRITE : 0);
    if (syndrome)
        fail(nic, qp, w, syndrome, VENDOR_LOCAL_PROTECTION);
    return true;
}

/* One packet of a request. false = it cannot go now. */
static bool send_packet(struct sim_nic *nic, struct sim_qp *qp, struct sim_wqe *w)
{
    bool read = is_read(w), atomic = is_atomic(w);
    uint32_t left = read || atomic ? 0 : w->bytes - qp->sent, n = left < SIM_PAYLOAD ? left : SIM_PAYLOAD;
    struct sim_link *link = sim_link_to(nic, qp->remote_lid);
    struct sim_packet *p = link ? sim_packet_room(link, n) : NULL;
    if (!p)
        return false;
    p->kind = SIM_REQUEST;
    p->flags = (uint8_t)((qp->sent == 0 ? SIM_FIRST : 0) | (n == left ? SIM_LAST : 0) |
                         (w->flags & SHMEMX_MLX5_SOLICITED ? SIM_SOLICITED : 0));
    p->opcode = w->opcode;
    p->opmod = w->opmod;
    p->to = qp->remote_qpn;
    p->from = qp->number;
    if (qp->sent == 0)
        w->sequence = qp->sequence;
    p->sequence = w->sequence;
    p->payload = n;
    p->total = w->bytes;
    p->rkey = w->rkey;
    p->address = w->address;
    p->imm = w->imm;
    if (atomic)
        sim_atomic_operands(w->opcode, w->bytes, w->raw + 32, p->operand);
    uint8_t syndrome =
        n ? sim_gather_later(nic, qp, w->raw + w->list * 16, (unsigned)w->ds - w->list, &qp->cursor, p + 1, n)
          : 0;
    if (syndrome) {
        fail(nic, qp, w, syndrome, VENDOR_LOCAL_PROTECTION);
        sent_whole(qp);
        return true;
    }
    qp->reads += read || atomic;
    p->reads = (uint8_t)qp->reads;
    qp->progress = nic->now;
    sim_packet_push(nic, link);
    qp->sent += n;
    if (n == left) {
        qp->sequence = (qp->sequence + 1) & 0xffffff;
        sent_whole(qp);
    }
    return true;
}

/* Whether a WQE before the next one has failed: that one is to be flushed, and begins nothing. */
static bool failed_before(struct sim_qp *qp)
{
    unsigned i = qp->first;
    while (qp->stopped && i != qp->next_sent && !in_flight(qp, i)->syndrome)
        ++i;
    return qp->stopped && i != qp->next_sent;
}

static bool send_some(struct sim_nic *nic, struct sim_qp *qp)
{
    bool moved = false;
    for (uint32_t bytes = 0; qp->next_sent != qp->last && bytes < SIM_BURST;) {
        struct sim_wqe *w = in_flight(qp, qp->next_sent);
        if (failed_before(qp))
            break;
        if (qp->sent == 0 && !w->done && (nic->now < qp->late || !may_begin(nic, qp, w)))
            break;
        if (w->done) { /* failed, or, when a refused message is sent again, done before */
            sent_whole(qp);
        } else if (w->remote) {
            if (nic->now < qp->rnr_until)
                break;
            if (qp->first == qp->next_sent && qp->sent == 0 && !moved)
                qp->progress = qp->progress ? qp->progress : nic->now;
            uint32_t before = qp->sent;
            if (!send_packet(nic, qp, w))
                break;
            bytes += 512 + (qp->sent > before ? qp->sent - before : 0);
        } else if (w->opcode == SHMEMX_MLX5_SEND || w->opcode == SHMEMX_MLX5_SEND_IMM) {
            datagram(nic, qp, w);
            sent_whole(qp);
        } else {
            if (!local(nic, qp, w))
                break;
            sent_whole(qp);
        }
        moved = true;
    }
    return moved;
}

/* ---- completing ---------------------------------------------------------------------------------------- */

static void complete_error(struct sim_nic *nic, struct sim_qp *qp, uint8_t opcode, uint16_t index,
                           uint8_t syndrome, uint8_t vendor)
{
    sim_cq_add(nic, qp->send_cq, qp,
               &(struct sim_entry){.opcode = SHMEMX_MLX5_CQE_REQUEST_ERROR,
                                   .wqe_opcode = opcode,
                                   .syndrome = syndrome,
                                   .vendor = vendor,
                                   .counter = index});
}

static bool complete(struct sim_nic *nic, struct sim_qp *qp)
{
    bool moved = false;
    while (qp->first != qp->next_sent) {
        struct sim_wqe *w = in_flight(qp, qp->first);
        if (!w->done || nic->now < w->done_at + nic->faults.slow_cqe_us * 1000)
            break;
        moved = true;
        uint16_t index = w->index;
        qp->first++;
        if (w->syndrome) {
            complete_error(nic, qp, w->opcode, index, w->syndrome, w->vendor);
            (void)sim_qp_step(nic, qp, SIM_ERR);
            break;
        }
        if ((w->flags & 0x0c) != SHMEMX_MLX5_CE_ALWAYS)
            continue;
        sim_cq_add(nic, qp->send_cq, qp,
                   &(struct sim_entry){.opcode = SHMEMX_MLX5_CQE_REQUEST,
                                       .wqe_opcode = w->opcode,
                                       .counter = index,
                                       .bytes = w->bytes});
        if (qp->send_cq->overrun) {
            (void)sim_qp_step(nic, qp, SIM_ERR);
            break;
        }
    }
    return moved;
}

void sim_flush(struct sim_nic *nic, struct sim_qp *qp)
{
    (void)nic;
    qp->flushed = completed(qp);
    qp->first = qp->next_sent = qp->last;
    qp->reads = 0;
    qp->rq_flushed = qp->rq_taken;
    qp->sent = 0;
    qp->cursor = (struct sim_cursor){0, 0};
}

/* In the error state the record alone says what is to be flushed, whenever it rises. */
static bool flush(struct sim_nic *nic, struct sim_qp *qp)
{
    uint8_t raw[8];
    uint16_t receive, send;
    bool moved = false;
    read_record(qp, raw, &receive, &send);
    if (sim_ahead(send, qp->flushed) && sim_ahead(send, qp->flushed) <= qp->sq_blocks) {
        trace_doorbell(nic, qp, SIM_TRACE_RECORD, &(uint64_t){0}, send, true);
        while (sim_ahead(send, qp->flushed) && sim_cq_room(qp->send_cq)) {
            unsigned char head[16];
            sim_copy_out(head, qp->sq + (size_t)(qp->flushed & (qp->sq_blocks - 1)) * SHMEMX_MLX5_BLOCK,
                         sizeof head);
            unsigned blocks = ((head[7] & 0x3f) + 3) / 4u;
            complete_error(nic, qp, head[3], qp->flushed, SHMEMX_MLX5_SYNDROME_FLUSHED,
                           SHMEMX_MLX5_VENDOR_FLUSHED);
            qp->flushed = (uint16_t)(qp->flushed + (blocks ? blocks : 1));
            moved = true;
        }
    }
    while (qp->rq && sim_ahead(receive, qp->rq_flushed) && sim_cq_room(qp->receive_cq)) {
        sim_cq_add(nic, qp->receive_cq, qp,
                   &(struct sim_entry){.opcode = SHMEMX_MLX5_CQE_RECEIVE_ERROR,
                                       .syndrome = SHMEMX_MLX5_SYNDROME_FLUSHED,
                                       .vendor = SHMEMX_MLX5_VENDOR_FLUSHED,
                                       .counter = qp->rq_flushed});
        qp->rq_flushed++;
        moved = true;
    }
    return moved;
}

/* ---- time ---------------------------------------------------------------------------------------------- */

static void watch_the_peer(struct sim_nic *nic, struct sim_qp *qp)
{
    const struct sim_wqe *w = in_flight(qp, qp->first);
    if (qp->first == qp->last || !w->remote || w->done) {
        qp->progress = 0;
        return;
    }
    if (qp->progress == 0 || nic->now < qp->rnr_until)
        qp->progress = nic->now;
    uint64_t limit = (uint64_t)(4096ull << qp->ack_timeout) * (qp->retries + 1u);
    if (qp->ack_timeout == 0) /* waits for ever */
        limit = UINT64_MAX;
    if (nic->faults.retry_ms)
        limit = nic->faults.retry_ms * 1000000;
    if (nic->now - qp->progress <= limit)
        return;
    fail(nic, qp, in_flight(qp, qp->first), SHMEMX_MLX5_SYNDROME_RETRY_EXCEEDED, VENDOR_RETRY);
    if (qp->first == qp->next_sent)
        sent_whole(qp);
}

bool sim_send(struct sim_nic *nic, struct sim_qp *qp)
{
    if (qp->state == SIM_ERR)
        return flush(nic, qp);
    if (qp->state != SIM_RTS)
        return false;
    bool moved = false;
    if (qp->doorbell_at && nic->now >= qp->doorbell_at) {
        qp->doorbell_at = 0;
        bool taken = told(nic, qp, qp->doorbell);
        trace_doorbell(nic, qp, SIM_TRACE_DOORBELL, &(uint64_t){0}, qp->doorbell, taken);
        if (qp->state != SIM_RTS)
            return true;
    }
    while (qp->fetched != qp->producer && !qp->stopped && !qp->stalled &&
           qp->last - qp->first < qp->sq_blocks) {
        nic->wqes++;
        if (fault_stall(nic, qp))
            break;
        fetch(nic, qp);
        moved = true;
    }
    moved |= send_some(nic, qp);
    watch_the_peer(nic, qp);
    return complete(nic, qp) || moved;
}
