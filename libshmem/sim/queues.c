/* Face of libibverbs: completion queues and polling, queue pairs. It reads CQEs as a driver does, in memory that it shares
 * with the NIC and without its lock. */
#define _GNU_SOURCE
#include "faces.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "transport/mlx5_prm.h"

static void *shared_memory(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static unsigned power_above(unsigned n)
{
    unsigned p = 1;
    while (p < n)
        p *= 2;
    return p;
}

/* ---- events -------------------------------------------------------------------------------------------- */

SIM_EXPORT struct ibv_comp_channel *ibv_create_comp_channel(struct ibv_context *context)
{
    int fd[2];
    struct face_channel *c = calloc(1, sizeof *c);
    if (!c || pipe2(fd, O_CLOEXEC) != 0) {
        free(c);
        return NULL;
    }
    (void)fcntl(fd[1], F_SETFL,
                O_NONBLOCK); /* the NIC never waits: with so many unread events one less wakes as well */
    c->base = (struct ibv_comp_channel){.context = context, .fd = fd[0]};
    c->write = fd[1];
    return &c->base;
}

SIM_EXPORT int ibv_destroy_comp_channel(struct ibv_comp_channel *channel)
{
    close(channel->fd);
    close(((struct face_channel *)channel)->write);
    free(channel);
    return 0;
}

static void event(struct sim_cq *cq)
{
    struct ibv_cq *base = cq->user;
    (void)!write(((struct face_channel *)base->channel)->write, &base, sizeof base);
}

SIM_EXPORT int ibv_get_cq_event(struct ibv_comp_channel *channel, struct ibv_cq **cq, void **user)
{
    if (read(channel->fd, cq, sizeof *cq) != sizeof *cq)
        return -1;
    *user = (*cq)->cq_context;
    return 0;
}

SIM_EXPORT void ibv_ack_cq_events(struct ibv_cq *cq, unsigned n)
{
    (void)cq;
    (void)n;
}

/* ---- completion queues --------------------------------------------------------------------------------- */

SIM_EXPORT struct ibv_cq *ibv_create_cq(struct ibv_context *context, int entries, void *user,
                                        struct ibv_comp_channel *channel, int vector)
{
    struct sim_nic *nic = face_nic(context);
    struct face_cq *cq = calloc(1, sizeof *cq);
    unsigned n = entries > 0 && entries <= 1 << 22 ? power_above((unsigned)entries) : 0, log = 0;
    (void)vector;
    if (!cq || n == 0) {
        free(cq);
        errno = EINVAL;
        return NULL;
    }
    while (1u << log < n)
        log++;
    size_t bytes = (size_t)n * SHMEMX_MLX5_CQE;
    cq->buffer = shared_memory(bytes + 4096); /* the record is behind it */
    if (!cq->buffer) {
        free(cq);
        return NULL;
    }
    memset(cq->buffer, 0xff, bytes);
    cq->record = (_Atomic uint32_t *)(cq->buffer + bytes);
    cq->base = (struct ibv_cq){.context = context, .channel = channel, .cq_context = user, .cqe = (int)n};
    pthread_mutex_init(&cq->lock, NULL);
    struct sim_cq like = {.log_size = log,
                          .buffer = cq->buffer,
                          .record = cq->record,
                          .event = channel ? event : NULL,
                          .user = &cq->base};
    sim_lock(nic);
    cq->cq = sim_cq_create(nic, &like);
    sim_unlock(nic);
    if (cq->cq)
        return &cq->base;
    munmap(cq->buffer, bytes + 4096);
    free(cq);
    return NULL;
}

SIM_EXPORT int ibv_destroy_cq(struct ibv_cq *base)
{
    struct face_cq *cq = (struct face_cq *)base;
    struct sim_nic *nic = face_nic(base->context);
    if (cq->qps)
        return EBUSY;
    sim_lock(nic);
    sim_cq_destroy(nic, cq->cq);
    sim_unlock(nic);
    munmap(cq->buffer, (size_t)base->cqe * SHMEMX_MLX5_CQE + 4096);
    pthread_mutex_destroy(&cq->lock);
    free(cq);
    return 0;
}

static enum ibv_wc_status status_of(uint8_t syndrome)
{
    static const unsigned char status[] = {
        [SHMEMX_MLX5_SYNDROME_LOCAL_LENGTH] = IBV_WC_LOC_LEN_ERR,
        [SHMEMX_MLX5_SYNDROME_LOCAL_QP_OPERATION] = IBV_WC_LOC_QP_OP_ERR,
        [SHMEMX_MLX5_SYNDROME_LOCAL_PROTECTION] = IBV_WC_LOC_PROT_ERR,
        [SHMEMX_MLX5_SYNDROME_FLUSHED] = IBV_WC_WR_FLUSH_ERR,
        [SHMEMX_MLX5_SYNDROME_MEMORY_WINDOW] = IBV_WC_MW_BIND_ERR,
        [SHMEMX_MLX5_SYNDROME_BAD_RESPONSE] = IBV_WC_BAD_RESP_ERR,
        [SHMEMX_MLX5_SYNDROME_LOCAL_ACCESS] = IBV_WC_LOC_ACCESS_ERR,
        [SHMEMX_MLX5_SYNDROME_REMOTE_INVALID_REQUEST] = IBV_WC_REM_INV_REQ_ERR,
        [SHMEMX_MLX5_SYNDROME_REMOTE_ACCESS] = IBV_WC_REM_ACCESS_ERR,
        [SHMEMX_MLX5_SYNDROME_REMOTE_OPERATION] = IBV_WC_REM_OP_ERR,
        [SHMEMX_MLX5_SYNDROME_RETRY_EXCEEDED] = IBV_WC_RETRY_EXC_ERR,
        [SHMEMX_MLX5_SYNDROME_RNR_EXCEEDED] = IBV_WC_RNR_RETRY_EXC_ERR,
        [SHMEMX_MLX5_SYNDROME_REMOTE_ABORTED] = IBV_WC_REM_ABORT_ERR,
    };
    unsigned s = syndrome < sizeof status ? status[syndrome] : 0;
    return s ? (enum ibv_wc_status)s : IBV_WC_GENERAL_ERR;
}

static enum ibv_wc_opcode opcode_of(uint8_t wqe)
{
    switch (wqe) {
    case SHMEMX_MLX5_SEND:
    case SHMEMX_MLX5_SEND_IMM:
        return IBV_WC_SEND;
    case SHMEMX_MLX5_RDMA_READ:
        return IBV_WC_RDMA_READ;
    case SHMEMX_MLX5_ATOMIC_CS:
        return IBV_WC_COMP_SWAP;
    case SHMEMX_MLX5_ATOMIC_FA:
        return IBV_WC_FETCH_ADD;
    default:
        return IBV_WC_RDMA_WRITE;
    }
}

static struct face_qp *qp_of(const struct face_cq *cq, uint32_t number)
{
    struct face_qp *qp = cq->qps;
    while (qp && qp->base.qp_num != number)
        qp = qp->base.send_cq == &cq->base ? qp->next_sent : qp->next_received;
    return qp;
}

/* Takes a completion. The places that it frees may be posted to once the consumer index is out. */
static void take(struct face_cq *cq, const unsigned char *cqe, struct ibv_wc *wc)
{
    uint8_t opcode = cqe[63] >> 4;
    bool error = opcode >= SHMEMX_MLX5_CQE_REQUEST_ERROR;
    bool sent = opcode == SHMEMX_MLX5_CQE_REQUEST || opcode == SHMEMX_MLX5_CQE_REQUEST_ERROR;
    uint16_t counter = (uint16_t)(cqe[60] << 8 | cqe[61]);
    uint32_t number = sim_be32(cqe + 56) & 0xffffff;
    struct face_qp *qp = qp_of(cq, number);
    *wc = (struct ibv_wc){.qp_num = number, .status = error ? status_of(cqe[55]) : IBV_WC_SUCCESS};
    if (error)
        wc->vendor_err = cqe[54];
    if (!qp)
        return; /* destroyed meanwhile */
    if (sent) {
        unsigned slot = counter & (qp->blocks - 1);
        wc->wr_id = qp->ids[slot];
        wc->opcode = opcode_of(cqe[56]);
        unsigned blocks = ((qp->sq[(size_t)slot * SHMEMX_MLX5_BLOCK + 7] & 0x3fu) + 3) / 4;
        wc->byte_len = error ? 0 : sim_be32(cqe + 44);
        /* release: pairs with posting's acquire */
        atomic_store_explicit(&qp->tail, (uint16_t)(counter + blocks), memory_order_release);
        return;
    }
    wc->wr_id = qp->receive_ids[counter & (qp->receives - 1)];
    atomic_store_explicit(&qp->receive_tail, (uint16_t)(counter + 1), memory_order_release);
    wc->opcode = opcode == SHMEMX_MLX5_CQE_WRITE_IMM ? IBV_WC_RECV_RDMA_WITH_IMM : IBV_WC_RECV;
    if (error)
        return;
    wc->byte_len = sim_be32(cqe + 44);
    memcpy(&wc->imm_data, cqe + 36, 4);
    wc->wc_flags = (opcode != SHMEMX_MLX5_CQE_SEND ? IBV_WC_WITH_IMM : 0) |
                   (qp->base.qp_type == IBV_QPT_UD ? IBV_WC_GRH : 0);
    wc->src_qp = sim_be32(cqe + 24) & 0xffffff;
}

int face_poll(struct ibv_cq *base, int entries, struct ibv_wc *wc)
{
    struct face_cq *cq = (struct face_cq *)base;
    int n = 0;
    pthread_mutex_lock(&cq->lock);
    for (; n < entries; ++n, ++cq->consumed) {
        unsigned size = (unsigned)base->cqe;
        const unsigned char *at = cq->buffer + (size_t)(cq->consumed & (size - 1)) * SHMEMX_MLX5_CQE;
        /* acquire: pairs with the NIC's release after the entry's body, and what it stands for */
        uint32_t last = __atomic_load_n((const uint32_t *)(at + 60), __ATOMIC_ACQUIRE);
        unsigned op_own = last >> 24;
        if (op_own >> 4 == SHMEMX_MLX5_CQE_INVALID || (op_own & 1) != ((cq->consumed / size) & 1))
            break;
        take(cq, at, &wc[n]);
    }
    if (n) /* release: pairs with the NIC's acquire: the places may be written again */
        atomic_store_explicit(&cq->record[SHMEMX_MLX5_RECORD_CQ], __builtin_bswap32(cq->consumed & 0xffffff),
                              memory_order_release);
    pthread_mutex_unlock(&cq->lock);
    return n;
}

int face_notify(struct ibv_cq *base, int solicited)
{
    (void)solicited;
    atomic_store_explicit(&((struct face_cq *)base)->cq->armed, 1,
                          memory_order_release); /* pairs with sim_cq_add */
    return 0;
}

/* ---- queue pairs --------------------------------------------------------------------------------------- */

static void enlist(struct face_qp *qp, bool in)
{
    struct face_cq *const cqs[2] = {(struct face_cq *)qp->base.send_cq, (struct face_cq *)qp->base.recv_cq};
    for (int i = 0; i < 1 + (cqs[1] != cqs[0]); ++i) {
        struct face_cq *cq = cqs[i];
        pthread_mutex_lock(&cq->lock);
        struct face_qp **at = &cq->qps;
        while (!in && *at && *at != qp)
            at = (*at)->base.send_cq == &cq->base ? &(*at)->next_sent : &(*at)->next_received;
        struct face_qp **next = i == 0 ? &qp->next_sent : &qp->next_received;
        if (in) {
            *next = cq->qps;
            cq->qps = qp;
        } else if (*at) {
            *at = *next;
        }
        pthread_mutex_unlock(&cq->lock);
    }
}

static void free_qp(struct face_qp *qp)
{
    if (qp->sq)
        munmap(qp->sq, qp->bytes);
    free(qp->ids);
    free(qp->receive_ids);
    free(qp);
}

/* Bytes of the largest WQE: control, remote address or datagram's address, atomic, and the larger of list and inline. */
static unsigned wqe_bytes(const struct ibv_qp_cap *cap, bool ud)
{
    unsigned list = cap->max_send_sge * 16, in_line = (4 + cap->max_inline_data + 15) / 16 * 16;
    return 16 + (ud ? 48 : 32) + (list > in_line ? list : in_line);
}

SIM_EXPORT struct ibv_qp *ibv_create_qp(struct ibv_pd *pd, struct ibv_qp_init_attr *a)
{
    struct sim_nic *nic = face_nic(pd->context);
    bool ud = a->qp_type == IBV_QPT_UD;
    unsigned most = (wqe_bytes(&a->cap, ud) + SHMEMX_MLX5_BLOCK - 1) / SHMEMX_MLX5_BLOCK;
    unsigned long blocks = (unsigned long)most * a->cap.max_send_wr;
    if ((!ud && a->qp_type != IBV_QPT_RC) || a->srq || most > SIM_MOST_BLOCKS || a->cap.max_send_sge > 30 ||
        a->cap.max_recv_sge > 30 || blocks > 1u << SIM_LOG_MOST_DEPTH ||
        a->cap.max_recv_wr > 1u << SIM_LOG_MOST_DEPTH) {
        errno = EINVAL;
        return NULL;
    }
    struct face_qp *qp = calloc(1, sizeof *qp);
    if (!qp)
        return NULL;
    qp->most_blocks = most;
    qp->blocks = power_above(blocks ? (unsigned)blocks : 1);
    qp->receives = power_above(a->cap.max_recv_wr ? a->cap.max_recv_wr : 1);
    qp->stride = power_above(a->cap.max_recv_sge ? a->cap.max_recv_sge : 1) * 16;
    qp->inline_bytes = a->cap.max_inline_data;
    qp->all = a->sq_sig_all;
    size_t sq = (size_t)qp->blocks * SHMEMX_MLX5_BLOCK, rq = (size_t)qp->receives * qp->stride;
    qp->bytes = sq + rq + 64;
    qp->sq = shared_memory(qp->bytes);
    qp->ids = calloc(qp->blocks, sizeof *qp->ids);
    qp->receive_ids = calloc(qp->receives, sizeof *qp->receive_ids);
    if (!qp->sq || !qp->ids || !qp->receive_ids) {
        free_qp(qp);
        errno = ENOMEM;
        return NULL;
    }
    qp->rq = qp->sq + sq;
    qp->record = (_Atomic uint32_t *)(qp->rq + (rq + 63) / 64 * 64);
    pthread_mutex_init(&qp->lock, NULL);
    struct sim_qp like = {.pd = ((struct face_pd *)pd)->number,
                          .type = ud ? PRM_ST_UD : PRM_ST_RC,
                          .send_cq = ((struct face_cq *)a->send_cq)->cq,
                          .receive_cq = ((struct face_cq *)a->recv_cq)->cq,
                          .sq = qp->sq,
                          .rq = qp->rq,
                          .sq_blocks = qp->blocks,
                          .rq_count = qp->receives,
                          .rq_stride = qp->stride,
                          .record = qp->record,
                          .log_message = 30,
                          .user = qp};
    sim_lock(nic);
    like.uar = sim_uar_create(nic, true);
    qp->qp = like.uar ? sim_qp_create(nic, &like) : NULL;
    sim_unlock(nic);
    if (!qp->qp) {
        free_qp(qp);
        errno = ENOMEM;
        return NULL;
    }
    qp->base = (struct ibv_qp){.context = pd->context,
                               .qp_context = a->qp_context,
                               .pd = pd,
                               .send_cq = a->send_cq,
                               .recv_cq = a->recv_cq,
                               .qp_num = qp->qp->number,
                               .state = IBV_QPS_RESET,
                               .qp_type = a->qp_type};
    enlist(qp, true);
    return &qp->base;
}

SIM_EXPORT int ibv_destroy_qp(struct ibv_qp *base)
{
    struct face_qp *qp = (struct face_qp *)base;
    struct sim_nic *nic = face_nic(base->context);
    struct sim_uar *uar = qp->qp->uar;
    sim_lock(nic);
    sim_qp_destroy(nic, qp->qp);
    sim_uar_destroy(nic, uar);
    sim_unlock(nic);
    enlist(qp, false);
    pthread_mutex_destroy(&qp->lock);
    free_qp(qp);
    return 0;
}

/* Attributes that a step must have, for RC and for UD. */
static int needed(enum ibv_qp_state state, bool ud)
{
    switch (state) {
    case IBV_QPS_INIT:
        return IBV_QP_PKEY_INDEX | IBV_QP_PORT | (ud ? IBV_QP_QKEY : IBV_QP_ACCESS_FLAGS);
    case IBV_QPS_RTR:
        return ud ? 0
                  : IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
                        IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER;
    case IBV_QPS_RTS:
        return IBV_QP_SQ_PSN |
               (ud ? 0 : IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_MAX_QP_RD_ATOMIC);
    default:
        return 0;
    }
}

static uint8_t log_of(unsigned n)
{
    uint8_t log = 0;
    while (2u << log <= n)
        log++;
    return log;
}

static void take_attributes(struct sim_qp *q, const struct ibv_qp_attr *a, int mask)
{
    if (mask & IBV_QP_ACCESS_FLAGS) {
        q->remote_read = a->qp_access_flags & IBV_ACCESS_REMOTE_READ;
        q->remote_write = a->qp_access_flags & IBV_ACCESS_REMOTE_WRITE;
        q->remote_atomic = a->qp_access_flags & IBV_ACCESS_REMOTE_ATOMIC;
    }
    if (mask & IBV_QP_QKEY)
        q->qkey = a->qkey;
    if (mask & IBV_QP_AV)
        q->remote_lid = face_lid(&a->ah_attr);
    if (mask & IBV_QP_DEST_QPN)
        q->remote_qpn = a->dest_qp_num;
    if (mask & IBV_QP_RQ_PSN)
        q->receive_psn = a->rq_psn & 0xffffff;
    if (mask & IBV_QP_MAX_DEST_RD_ATOMIC)
        q->log_served = log_of(a->max_dest_rd_atomic);
    if (mask & IBV_QP_MIN_RNR_TIMER)
        q->rnr_timer = a->min_rnr_timer;
    if (mask & IBV_QP_PATH_MTU)
        q->mtu = (uint8_t)a->path_mtu;
    if (mask & IBV_QP_SQ_PSN)
        q->send_psn = a->sq_psn & 0xffffff;
    if (mask & IBV_QP_TIMEOUT)
        q->ack_timeout = a->timeout & 31;
    if (mask & IBV_QP_RETRY_CNT)
        q->retries = a->retry_cnt & 7;
    if (mask & IBV_QP_RNR_RETRY)
        q->rnr_retries = a->rnr_retry & 7;
    if (mask & IBV_QP_MAX_QP_RD_ATOMIC)
        q->log_reads = log_of(a->max_rd_atomic);
}

SIM_EXPORT int ibv_modify_qp(struct ibv_qp *base, struct ibv_qp_attr *a, int mask)
{
    static const signed char states[] = {
        [IBV_QPS_RESET] = SIM_RESET, [IBV_QPS_INIT] = SIM_INIT, [IBV_QPS_RTR] = SIM_RTR,
        [IBV_QPS_RTS] = SIM_RTS,     [IBV_QPS_SQD] = -1,        [IBV_QPS_SQE] = -1,
        [IBV_QPS_ERR] = SIM_ERR};
    struct face_qp *qp = (struct face_qp *)base;
    struct sim_nic *nic = face_nic(base->context);
    enum ibv_qp_state to = mask & IBV_QP_STATE ? a->qp_state : base->state;
    bool step = to != base->state;
    if ((unsigned)to > IBV_QPS_ERR || states[to] < 0 ||
        (step && (needed(to, base->qp_type == IBV_QPT_UD) & ~mask)) ||
        ((mask & IBV_QP_PORT) && a->port_num != 1))
        return EINVAL;
    sim_lock(nic);
    (void)sim_doorbells(nic); /* as for commands, devx.c */
    struct sim_qp before = *qp->qp;
    take_attributes(qp->qp, a, mask);
    bool far = to == IBV_QPS_RTR && base->qp_type == IBV_QPT_RC && qp->qp->remote_lid != nic->lid;
    int err = far && nic->unresolved < nic->faults.unresolved ? ETIMEDOUT : 0;
    if (err)
        sim_trace_text(nic, SIM_TRACE_FAULT, qp->qp->number, "unresolved=%llu",
                       (unsigned long long)++nic->unresolved);
    else if (step && !sim_qp_step(nic, qp->qp, (enum sim_state)states[to]))
        err = EINVAL;
    if (err)
        *qp->qp = before;
    sim_unlock(nic);
    if (err)
        return err;
    if (to == IBV_QPS_RESET && step) {
        pthread_mutex_lock(&qp->lock);
        qp->head = qp->receive_head = 0;
        atomic_store(&qp->tail, 0);
        atomic_store(&qp->receive_tail, 0);
        atomic_store(&qp->record[0], 0);
        atomic_store(&qp->record[1], 0);
        pthread_mutex_unlock(&qp->lock);
    }
    base->state = to;
    return 0;
}
