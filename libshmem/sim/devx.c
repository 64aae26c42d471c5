/* Face of mlx5dv: objects made by firmware commands (DevX), registers, memory for queues, and what libmlx5 tells of
 * libibverbs' objects. Commands are checked as firmware does; what is wrong with one is said on standard error, where a
 * real one leaves it in the kernel's log. */
#include "faces.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "transport/mlx5_prm.h"

struct mlx5dv_devx_obj {
    struct sim_nic *nic;
    struct sim_qp *qp;
    struct sim_cq *cq;
};

struct umem {
    struct mlx5dv_devx_umem base;
    struct umem *next;
    struct sim_nic *nic;
    char *address;
    size_t bytes;
};
static struct umem *umems; /* of all NICs; guarded by `guard` */
static uint32_t last_umem;
static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;

struct uar {
    struct mlx5dv_devx_uar base;
    struct sim_nic *nic;
    struct sim_uar *uar;
};

/* ---- device -------------------------------------------------------------------------------------------- */

SIM_EXPORT bool mlx5dv_is_supported(struct ibv_device *device)
{
    /* asked before there is a NIC; a name that is unknown is said when it opens */
    const char *text = getenv("SHMEM_SIM_LACKS");
    uint32_t lacks;
    (void)device;
    return !text || sim_lacks_read(&lacks, text) != 0 || !(lacks >> SIM_LACK_mlx5 & 1);
}

SIM_EXPORT struct ibv_context *mlx5dv_open_device(struct ibv_device *device, struct mlx5dv_context_attr *a)
{
    if (a && (a->flags & ~(uint32_t)MLX5DV_CONTEXT_FLAGS_DEVX)) {
        errno = EOPNOTSUPP;
        return NULL;
    }
    struct ibv_context *context = ibv_open_device(device);
    if (context && a && (a->flags & MLX5DV_CONTEXT_FLAGS_DEVX) &&
        sim_lacks(face_nic(context), SIM_LACK_devx)) {
        (void)ibv_close_device(context);
        errno = EOPNOTSUPP;
        return NULL;
    }
    return context;
}

SIM_EXPORT int mlx5dv_devx_query_eqn(struct ibv_context *context, uint32_t vector, uint32_t *eqn)
{
    (void)context;
    (void)vector;
    *eqn = 1;
    return 0;
}

SIM_EXPORT struct mlx5dv_devx_uar *mlx5dv_devx_alloc_uar(struct ibv_context *context, uint32_t flags)
{
    struct sim_nic *nic = face_nic(context);
    struct uar *u = calloc(1, sizeof *u);
    (void)flags; /* write combining or not: memory is neither */
    if (!u)
        return NULL;
    sim_lock(nic);
    u->uar = sim_lacks(nic, SIM_LACK_uar) ? NULL : sim_uar_create(nic, false);
    sim_unlock(nic);
    if (!u->uar) {
        free(u);
        errno = ENOMEM;
        return NULL;
    }
    u->nic = nic;
    u->base = (struct mlx5dv_devx_uar){.reg_addr = u->uar->page + SHMEMX_MLX5_UAR_SEND,
                                       .base_addr = u->uar->page,
                                       .page_id = u->uar->number};
    return &u->base;
}

SIM_EXPORT void mlx5dv_devx_free_uar(struct mlx5dv_devx_uar *base)
{
    struct uar *u = (struct uar *)base;
    sim_lock(u->nic);
    sim_uar_destroy(u->nic, u->uar);
    sim_unlock(u->nic);
    free(u);
}

/* ---- memory of queues ---------------------------------------------------------------------------------- */

SIM_EXPORT struct mlx5dv_devx_umem *mlx5dv_devx_umem_reg(struct ibv_context *context, void *address, size_t n,
                                                         uint32_t access)
{
    (void)access;
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), first = (uintptr_t)address & ~(page - 1);
    if (sim_gpu_owns((uint64_t)(uintptr_t)address) || sim_lacks(face_nic(context), SIM_LACK_umem)) {
        errno = EOPNOTSUPP; /* this NIC reads queues by the processor's loads */
        return NULL;
    }
    if (n == 0 || msync((void *)first, (uintptr_t)address + n - first, MS_ASYNC) != 0) {
        errno = n ? EFAULT : EINVAL;
        return NULL;
    }
    struct umem *u = calloc(1, sizeof *u);
    if (!u)
        return NULL;
    pthread_mutex_lock(&guard);
    *u = (struct umem){{++last_umem}, umems, face_nic(context), address, n};
    umems = u;
    pthread_mutex_unlock(&guard);
    return &u->base;
}

SIM_EXPORT struct mlx5dv_devx_umem *mlx5dv_devx_umem_reg_ex(struct ibv_context *context,
                                                            struct mlx5dv_devx_umem_in *in)
{
    if (in->comp_mask) {
        errno = EOPNOTSUPP; /* a dmabuf is a GPU's memory */
        return NULL;
    }
    return mlx5dv_devx_umem_reg(context, in->addr, in->size, in->access);
}

SIM_EXPORT int mlx5dv_devx_umem_dereg(struct mlx5dv_devx_umem *base)
{
    pthread_mutex_lock(&guard);
    struct umem **at = &umems;
    while (*at && &(*at)->base != base)
        at = &(*at)->next;
    if (*at)
        *at = (*at)->next;
    pthread_mutex_unlock(&guard);
    free(base);
    return 0;
}

/* Where `n` bytes at an offset of a umem are; NULL = it has not so many. */
static void *in_umem(const struct sim_nic *nic, uint64_t id, uint64_t offset, uint64_t n)
{
    pthread_mutex_lock(&guard);
    const struct umem *u = umems;
    while (u && (u->base.umem_id != id || u->nic != nic))
        u = u->next;
    void *p = u && offset <= u->bytes && n <= u->bytes - offset ? u->address + offset : NULL;
    pthread_mutex_unlock(&guard);
    return p;
}

/* ---- answers to commands ------------------------------------------------------------------------------- */

static int refuse(void *out, enum shmemi_prm_status status, const char *fmt, ...) SIM_PRINTF(3, 4);
static int refuse(void *out, enum shmemi_prm_status status, const char *fmt, ...)
{
    char text[200];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    fprintf(stderr, "libshmem_sim: command refused: %s (%s)\n", text, shmemi_prm_status_text(status));
    shmemi_prm_set(out, 0, PRM_OUT_STATUS, status);
    return errno = EREMOTEIO;
}

static unsigned opcode(const void *in, size_t n)
{
    return n >= PRM_SHORT_IN ? (unsigned)shmemi_prm_get(in, 0, PRM_IN_OPCODE) : 0;
}

#define QPC(field) shmemi_prm_get(in, PRM_QPC, PRM_QPC_##field)
#define CQC(field) shmemi_prm_get(in, PRM_CQC, PRM_CQC_##field)

/* ---- making -------------------------------------------------------------------------------------------- */

static int create_cq(struct mlx5dv_devx_obj *o, const void *in, size_t n, void *out)
{
    struct sim_nic *nic = o->nic;
    if (n < PRM_CREATE_CQ_IN)
        return refuse(out, PRM_STATUS_BAD_LENGTH, "CREATE_CQ of %zu bytes", n);
    struct sim_cq like = {.log_size = (uint32_t)CQC(LOG_SIZE),
                          .collapsed = CQC(COLLAPSED),
                          .ignore_overrun = CQC(OVERRUN_IGNORE)};
    if (like.log_size > 22)
        return refuse(out, PRM_STATUS_LIMIT, "CREATE_CQ: log_cq_size %u, 22 are possible", like.log_size);
    if (CQC(CQE_SIZE) != 0)
        return refuse(out, PRM_STATUS_BAD_PARAMETER, "CREATE_CQ: entries of 64 bytes alone are possible");
    if (!shmemi_prm_get(in, 0, PRM_CQ_UMEM_VALID) || !CQC(DBR_UMEM_VALID))
        return refuse(out, PRM_STATUS_BAD_PARAMETER,
                      "CREATE_CQ: cq_umem_valid and dbr_umem_valid are needed");
    uint64_t bytes = like.collapsed ? SHMEMX_MLX5_CQE : (uint64_t)SHMEMX_MLX5_CQE << like.log_size;
    like.buffer =
        in_umem(nic, shmemi_prm_get(in, 0, PRM_CQ_UMEM_ID), shmemi_prm_get(in, 0, PRM_CQ_UMEM_OFFSET), bytes);
    like.record = in_umem(nic, CQC(DBR_UMEM_ID), CQC(DBR_ADDR), 8);
    if (!like.buffer || (uintptr_t)like.buffer % SHMEMX_MLX5_CQE || !like.record ||
        (uintptr_t)like.record % 8)
        return refuse(out, PRM_STATUS_BAD_RESOURCE,
                      "CREATE_CQ: its umems do not hold %llu bytes of entries, aligned to 64, and a record",
                      (unsigned long long)bytes);
    if (!sim_uar_find(nic, (uint32_t)CQC(UAR_PAGE)))
        return refuse(out, PRM_STATUS_BAD_RESOURCE, "CREATE_CQ: no UAR %u", (unsigned)CQC(UAR_PAGE));
    o->cq = sim_cq_create(nic, &like);
    if (!o->cq)
        return refuse(out, PRM_STATUS_NO_RESOURCES, "CREATE_CQ: out of memory");
    shmemi_prm_set(out, 0, PRM_OUT_NUMBER, o->cq->number);
    return 0;
}

static int create_qp(struct mlx5dv_devx_obj *o, const void *in, size_t n, void *out)
{
    struct sim_nic *nic = o->nic;
    if (n < PRM_CREATE_QP_IN)
        return refuse(out, PRM_STATUS_BAD_LENGTH, "CREATE_QP of %zu bytes", n);
    struct sim_qp like = {.pd = (uint32_t)QPC(PD),
                          .user_index = (uint32_t)QPC(USER_INDEX),
                          .type = (uint8_t)QPC(ST),
                          .send_cq = sim_cq_find(nic, (uint32_t)QPC(CQN_SND)),
                          .receive_cq = sim_cq_find(nic, (uint32_t)QPC(CQN_RCV)),
                          .uar = sim_uar_find(nic, (uint32_t)QPC(UAR_PAGE)),
                          .sq_blocks = QPC(NO_SQ) ? 0 : 1u << QPC(LOG_SQ_SIZE),
                          .log_message = 30};
    bool receives = QPC(RQ_TYPE) == PRM_RQ_OF_ITS_OWN;
    if (like.type != PRM_ST_RC && like.type != PRM_ST_UD)
        return refuse(out, PRM_STATUS_BAD_PARAMETER, "CREATE_QP: transport (st) %u; RC and UD are possible",
                      like.type);
    if (!receives && QPC(RQ_TYPE) != PRM_RQ_NONE)
        return refuse(out, PRM_STATUS_BAD_PARAMETER, "CREATE_QP: shared receive queues are not possible");
    if (like.pd == 0 || like.pd >= nic->next_pd)
        return refuse(out, PRM_STATUS_BAD_RESOURCE, "CREATE_QP: no domain (pd) %u", like.pd);
    if (!like.send_cq || (receives && !like.receive_cq) || !like.uar)
        return refuse(out, PRM_STATUS_BAD_RESOURCE,
                      "CREATE_QP: no such completion queue (cqn_snd %u, cqn_rcv %u) or UAR (%u)",
                      (unsigned)QPC(CQN_SND), (unsigned)QPC(CQN_RCV), (unsigned)QPC(UAR_PAGE));
    if (!shmemi_prm_get(in, 0, PRM_QP_UMEM_VALID) || !QPC(DBR_UMEM_VALID))
        return refuse(out, PRM_STATUS_BAD_PARAMETER,
                      "CREATE_QP: wq_umem_valid and dbr_umem_valid are needed");
    if (receives) {
        like.rq_count = 1u << QPC(LOG_RQ_SIZE);
        like.rq_stride = 16u << QPC(LOG_RQ_STRIDE);
    }
    uint64_t rq = (uint64_t)like.rq_count * like.rq_stride, sq = (uint64_t)like.sq_blocks * SHMEMX_MLX5_BLOCK;
    unsigned char *queues = in_umem(nic, shmemi_prm_get(in, 0, PRM_QP_UMEM_ID),
                                    shmemi_prm_get(in, 0, PRM_QP_UMEM_OFFSET), rq + sq);
    like.record = in_umem(nic, QPC(DBR_UMEM_ID), QPC(DBR_ADDR), 8);
    if (!queues || (uintptr_t)(queues + rq) % SHMEMX_MLX5_BLOCK || !like.record || (uintptr_t)like.record % 8)
        return refuse(out, PRM_STATUS_BAD_RESOURCE,
                      "CREATE_QP: its umems do not hold %llu bytes of queues, aligned to 64, and a record",
                      (unsigned long long)(rq + sq));
    like.rq = receives ? queues : NULL;
    like.sq = queues + rq;
    o->qp = sim_qp_create(nic, &like);
    if (!o->qp)
        return refuse(out, PRM_STATUS_NO_RESOURCES, "CREATE_QP: out of memory");
    shmemi_prm_set(out, 0, PRM_OUT_NUMBER, o->qp->number);
    return 0;
}

SIM_EXPORT struct mlx5dv_devx_obj *mlx5dv_devx_obj_create(struct ibv_context *context, const void *in,
                                                          size_t n, void *out, size_t out_bytes)
{
    struct sim_nic *nic = face_nic(context);
    struct mlx5dv_devx_obj *o = calloc(1, sizeof *o);
    if (!o || out_bytes < PRM_SHORT_OUT) {
        free(o);
        errno = EINVAL;
        return NULL;
    }
    memset(out, 0, out_bytes);
    o->nic = nic;
    sim_lock(nic);
    unsigned command = opcode(in, n);
    int err = command == PRM_CREATE_CQ ? create_cq(o, in, n, out)
              : command == PRM_CREATE_QP
                  ? create_qp(o, in, n, out)
                  : refuse(out, PRM_STATUS_BAD_OPERATION, "opcode 0x%x makes nothing", command);
    sim_unlock(nic);
    if (!err)
        return o;
    free(o);
    errno = err;
    return NULL;
}

SIM_EXPORT int mlx5dv_devx_obj_destroy(struct mlx5dv_devx_obj *o)
{
    struct sim_nic *nic = o->nic;
    bool busy = false;
    sim_lock(nic);
    for (const struct sim_qp *qp = nic->qps; qp && o->cq; qp = qp->next)
        busy |= qp->send_cq == o->cq || qp->receive_cq == o->cq;
    if (!busy && o->cq)
        sim_cq_destroy(nic, o->cq);
    if (o->qp)
        sim_qp_destroy(nic, o->qp);
    sim_unlock(nic);
    if (busy)
        return EBUSY;
    free(o);
    return 0;
}

/* ---- states -------------------------------------------------------------------------------------------- */

static void take_access(struct sim_qp *qp, const void *in, uint32_t which)
{
    if (which & PRM_OPT_RRE)
        qp->remote_read = QPC(RRE);
    if (which & PRM_OPT_RWE)
        qp->remote_write = QPC(RWE);
    if (which & PRM_OPT_RAE) /* without a mode there are none */
        qp->remote_atomic = QPC(RAE) && QPC(ATOMIC_MODE);
}

static int init_to_rtr(struct sim_nic *nic, struct sim_qp *qp, const void *in, void *out)
{
    uint64_t gid_end = QPC(RGID_3), mtu = QPC(MTU);
    bool gid = QPC(RGID_0) | QPC(RGID_1) | QPC(RGID_2) | gid_end;
    union ibv_gid unused;
    uint32_t type;
    if (mtu < PRM_MTU_256 || mtu > PRM_MTU_4096 || QPC(LOG_MSG_MAX) > 30)
        return refuse(out, PRM_STATUS_BAD_PARAMETER,
                      "INIT2RTR_QP: mtu %u, log_msg_max %u; 1 to 5 and up to 30 are possible", (unsigned)mtu,
                      (unsigned)QPC(LOG_MSG_MAX));
    if (qp->type == PRM_ST_RC && (nic->roce ? !gid || QPC(HOP_LIMIT) == 0 : QPC(RLID) == 0))
        return refuse(out, PRM_STATUS_BAD_PARAMETER, "INIT2RTR_QP: %s",
                      nic->roce ? "RoCE needs rgid_rip and hop_limit" : "InfiniBand needs rlid");
    if (qp->type == PRM_ST_RC && nic->roce &&
        (QPC(RMAC_HIGH) != 0x0253 || QPC(RMAC_LOW) != (0x484d0000 | (gid_end & 0xffff)) ||
         QPC(UDP_SPORT) < 0xc000 || QPC(DSCP) != QPC(TCLASS) >> 2))
        return refuse(out, PRM_STATUS_BAD_PARAMETER,
                      "INIT2RTR_QP: rmac %04x%08x, udp_sport 0x%x, dscp %u, traffic class %u: RoCE v2 needs "
                      "the GID's address, a port from 0xc000 on, and the class's upper six bits as dscp",
                      (unsigned)QPC(RMAC_HIGH), (unsigned)QPC(RMAC_LOW), (unsigned)QPC(UDP_SPORT),
                      (unsigned)QPC(DSCP), (unsigned)QPC(TCLASS));
    if ((nic->roce || QPC(GRH)) && !face_gid(nic, (unsigned)QPC(SRC_ADDR_INDEX), &unused, &type))
        return refuse(out, PRM_STATUS_BAD_INDEX, "INIT2RTR_QP: src_addr_index %u: the port has no such GID",
                      (unsigned)QPC(SRC_ADDR_INDEX));
    qp->remote_lid = (uint16_t)(nic->roce ? gid_end : QPC(RLID));
    qp->remote_qpn = (uint32_t)QPC(REMOTE_QPN);
    qp->receive_psn = (uint32_t)QPC(NEXT_RCV_PSN);
    qp->log_message = (uint8_t)QPC(LOG_MSG_MAX);
    qp->log_served = (uint8_t)QPC(LOG_RRA_MAX);
    qp->rnr_timer = (uint8_t)QPC(MIN_RNR_NAK);
    qp->mtu = (uint8_t)mtu;
    take_access(qp, in, (uint32_t)shmemi_prm_get(in, 0, PRM_IN_OPT_PARAM_MASK));
    return 0;
}

static void rtr_to_rts(struct sim_qp *qp, const void *in)
{
    qp->send_psn = (uint32_t)QPC(NEXT_SEND_PSN);
    qp->log_reads = (uint8_t)QPC(LOG_SRA_MAX);
    qp->retries = (uint8_t)QPC(RETRY_COUNT);
    qp->rnr_retries = (uint8_t)QPC(RNR_RETRY);
    qp->ack_timeout = (uint8_t)QPC(ACK_TIMEOUT);
    take_access(qp, in, (uint32_t)shmemi_prm_get(in, 0, PRM_IN_OPT_PARAM_MASK));
}

/* The state that a command leads to, and the one that it needs; false = it is no such command. */
static bool step_of(unsigned command, enum sim_state *from, enum sim_state *to)
{
    static const struct {
        unsigned command;
        enum sim_state from, to;
    } steps[] = {{PRM_RST2INIT_QP, SIM_RESET, SIM_INIT}, {PRM_INIT2INIT_QP, SIM_INIT, SIM_INIT},
                 {PRM_INIT2RTR_QP, SIM_INIT, SIM_RTR},   {PRM_RTR2RTS_QP, SIM_RTR, SIM_RTS},
                 {PRM_RTS2RTS_QP, SIM_RTS, SIM_RTS},     {PRM_2ERR_QP, SIM_GONE, SIM_ERR},
                 {PRM_2RST_QP, SIM_GONE, SIM_RESET}};
    for (unsigned i = 0; i < sizeof steps / sizeof *steps; ++i)
        if (steps[i].command == command) {
            *from = steps[i].from;
            *to = steps[i].to;
            return true;
        }
    return false;
}

static int modify(struct mlx5dv_devx_obj *o, const void *in, size_t n, void *out)
{
    struct sim_qp *qp = o->qp;
    enum sim_state from, to;
    unsigned command = opcode(in, n);
    if (!step_of(command, &from, &to))
        return refuse(out, PRM_STATUS_BAD_OPERATION, "opcode 0x%x changes no queue pair", command);
    if (!qp || shmemi_prm_get(in, 0, PRM_IN_NUMBER) != qp->number)
        return refuse(out, PRM_STATUS_BAD_RESOURCE, "command 0x%x for queue pair %u, which the object is not",
                      command, (unsigned)shmemi_prm_get(in, 0, PRM_IN_NUMBER));
    if (from != SIM_GONE && qp->state != from)
        return refuse(out, PRM_STATUS_BAD_QP_STATE,
                      "command 0x%x needs a queue pair in state %s, %u is in %s", command,
                      sim_state_name(from), qp->number, sim_state_name(qp->state));
    if (from != SIM_GONE && n < PRM_STEP_QP_IN)
        return refuse(out, PRM_STATUS_BAD_LENGTH, "command 0x%x of %zu bytes", command, n);
    int err = 0;
    if (to == SIM_INIT) {
        if (QPC(PORT) != 1)
            return refuse(out, PRM_STATUS_BAD_PARAMETER, "RST2INIT_QP: vhca_port_num %u, 1 is possible",
                          (unsigned)QPC(PORT));
        take_access(qp, in, PRM_OPT_RRE | PRM_OPT_RWE | PRM_OPT_RAE);
        qp->qkey = (uint32_t)QPC(Q_KEY);
    } else if (to == SIM_RTR) {
        err = init_to_rtr(o->nic, qp, in, out);
    } else if (to == SIM_RTS && from == SIM_RTR) {
        rtr_to_rts(qp, in);
    }
    if (!err)
        (void)sim_qp_step(o->nic, qp, to);
    return err;
}

SIM_EXPORT int mlx5dv_devx_obj_modify(struct mlx5dv_devx_obj *o, const void *in, size_t n, void *out,
                                      size_t out_bytes)
{
    if (out_bytes < PRM_SHORT_OUT)
        return errno = EINVAL;
    memset(out, 0, out_bytes);
    sim_lock(o->nic);
    (void)sim_doorbells(o->nic); /* a command comes behind the doorbells that were written before it */
    int err = modify(o, in, n, out);
    sim_unlock(o->nic);
    return err;
}

/* ---- queries ------------------------------------------------------------------------------------------- */

static int query_qp(const struct sim_qp *qp, void *out, size_t out_bytes)
{
    static const unsigned char states[] = {[SIM_RESET] = PRM_QP_RST,
                                           [SIM_INIT] = PRM_QP_INIT,
                                           [SIM_RTR] = PRM_QP_RTR,
                                           [SIM_RTS] = PRM_QP_RTS,
                                           [SIM_ERR] = PRM_QP_ERR};
    const unsigned q = PRM_QUERIED_QPC;
    if (out_bytes < PRM_QUERY_QP_OUT)
        return errno = EINVAL;
    shmemi_prm_set(out, q, PRM_QPC_STATE, states[qp->state]);
    shmemi_prm_set(out, q, PRM_QPC_ST, qp->type);
    shmemi_prm_set(out, q, PRM_QPC_PD, qp->pd);
    shmemi_prm_set(out, q, PRM_QPC_MTU, qp->mtu);
    shmemi_prm_set(out, q, PRM_QPC_REMOTE_QPN, qp->remote_qpn);
    shmemi_prm_set(out, q, PRM_QPC_RLID, qp->remote_lid);
    shmemi_prm_set(out, q, PRM_QPC_LOG_SQ_SIZE, (unsigned)__builtin_ctz(qp->sq_blocks));
    shmemi_prm_set(out, q, PRM_QPC_NEXT_SEND_PSN, qp->sequence);
    shmemi_prm_set(out, q, PRM_QPC_NEXT_RCV_PSN, qp->expected);
    shmemi_prm_set(out, q, PRM_QPC_HW_SQ_COUNTER, qp->fetched);
    shmemi_prm_set(out, q, PRM_QPC_SW_SQ_COUNTER, qp->producer);
    shmemi_prm_set(out, q, PRM_QPC_HW_RQ_COUNTER, qp->rq_taken);
    shmemi_prm_set(out, q, PRM_QPC_RRE, qp->remote_read);
    shmemi_prm_set(out, q, PRM_QPC_RWE, qp->remote_write);
    shmemi_prm_set(out, q, PRM_QPC_RAE, qp->remote_atomic);
    return 0;
}

static int query_cq(const struct sim_cq *cq, void *out, size_t out_bytes)
{
    if (out_bytes < PRM_QUERY_CQ_OUT)
        return errno = EINVAL;
    shmemi_prm_set(out, PRM_CQC, PRM_CQC_STATUS, cq->overrun ? PRM_CQ_OVERFLOW : PRM_CQ_OK);
    shmemi_prm_set(out, PRM_CQC, PRM_CQC_LOG_SIZE, cq->log_size);
    shmemi_prm_set(out, PRM_CQC, PRM_CQC_COLLAPSED, cq->collapsed);
    shmemi_prm_set(out, PRM_CQC, PRM_CQC_OVERRUN_IGNORE, cq->ignore_overrun);
    shmemi_prm_set(out, PRM_CQC, PRM_CQC_PRODUCER, cq->produced);
    return 0;
}

SIM_EXPORT int mlx5dv_devx_obj_query(struct mlx5dv_devx_obj *o, const void *in, size_t n, void *out,
                                     size_t out_bytes)
{
    if (out_bytes < PRM_SHORT_OUT)
        return errno = EINVAL;
    memset(out, 0, out_bytes);
    unsigned command = opcode(in, n);
    sim_lock(o->nic);
    int err = command == PRM_QUERY_QP && o->qp ? query_qp(o->qp, out, out_bytes)
              : command == PRM_QUERY_CQ && o->cq
                  ? query_cq(o->cq, out, out_bytes)
                  : refuse(out, PRM_STATUS_BAD_OPERATION, "opcode 0x%x asks for nothing here", command);
    sim_unlock(o->nic);
    return err;
}

static void query_general(const struct sim_nic *nic, void *out)
{
    const struct {
        enum shmemi_prm_field field;
        uint32_t value;
    } caps[] = {{PRM_CAP_LOG_MAX_QP_SIZE, SIM_LOG_MOST_DEPTH},
                {PRM_CAP_LOG_MAX_QP, 16},
                {PRM_CAP_LOG_MAX_CQ_SIZE, 22},
                {PRM_CAP_LOG_MAX_CQ, 16},
                {PRM_CAP_LOG_MAX_MKEY, 16},
                {PRM_CAP_LOG_MAX_RA_REQ, 4},
                {PRM_CAP_LOG_MAX_RA_RES, 4},
                {PRM_CAP_NUM_PORTS, 1},
                {PRM_CAP_LOG_MAX_MSG, 30},
                {PRM_CAP_CQE_VERSION, 1},
                {PRM_CAP_ATOMIC, !sim_lacks(nic, SIM_LACK_atomics)},
                {PRM_CAP_CQ_OI, !sim_lacks(nic, SIM_LACK_cq_oi)},
                {PRM_CAP_UAR_4K, 1},
                {PRM_CAP_BF, 1},
                {PRM_CAP_LOG_BF_REG_SIZE, 9},
                {PRM_CAP_MAX_WQE_BYTES_SQ, SIM_MOST_BLOCKS * SHMEMX_MLX5_BLOCK},
                {PRM_CAP_LOG_MAX_PD, 16},
                {PRM_CAP_FREQUENCY_KHZ, 1000000}};
    for (unsigned i = 0; i < sizeof caps / sizeof *caps; ++i)
        shmemi_prm_set(out, PRM_CAPABILITY, caps[i].field, caps[i].value);
    shmemi_prm_set(out, PRM_CAPABILITY, PRM_CAP_PORT_TYPE, nic->roce);
    shmemi_prm_set(out, PRM_CAPABILITY, PRM_CAP_ROCE, nic->roce);
}

SIM_EXPORT int mlx5dv_devx_general_cmd(struct ibv_context *context, const void *in, size_t n, void *out,
                                       size_t out_bytes)
{
    if (out_bytes < PRM_SHORT_OUT)
        return errno = EINVAL;
    memset(out, 0, out_bytes);
    const struct sim_nic *nic = face_nic(context);
    if (sim_lacks(nic, SIM_LACK_commands))
        return errno = EOPNOTSUPP;
    unsigned command = opcode(in, n),
             what = command ? (unsigned)shmemi_prm_get(in, 0, PRM_IN_OP_MOD) & ~1u : 0;
    if (command != PRM_QUERY_HCA_CAP || (what != PRM_GENERAL && what != PRM_ATOMICS))
        return refuse(out, PRM_STATUS_BAD_OPERATION, "opcode 0x%x, op_mod 0x%x", command, what);
    if (out_bytes < PRM_QUERY_HCA_CAP_OUT)
        return refuse(out, PRM_STATUS_BAD_OUT_LENGTH, "QUERY_HCA_CAP answers %d bytes",
                      PRM_QUERY_HCA_CAP_OUT);
    if (what == PRM_GENERAL) {
        query_general(nic, out);
    } else {
        shmemi_prm_set(out, PRM_CAPABILITY, PRM_ATOMIC_OPERATIONS,
                       sim_lacks(nic, SIM_LACK_masked_atomics)
                           ? PRM_ATOMIC_CS | PRM_ATOMIC_FA
                           : PRM_ATOMIC_CS | PRM_ATOMIC_FA | PRM_ATOMIC_MASKED_CS | PRM_ATOMIC_MASKED_FA);
        shmemi_prm_set(out, PRM_CAPABILITY, PRM_ATOMIC_SIZE_QP,
                       sim_lacks(nic, SIM_LACK_atomics_of_4) ? 8 : 4 | 8);
    }
    return 0;
}

/* ---- what libmlx5 tells of libibverbs' objects --------------------------------------------------------- */

SIM_EXPORT int mlx5dv_init_obj(struct mlx5dv_obj *o, uint64_t types)
{
    if (types & ~(uint64_t)(MLX5DV_OBJ_PD | MLX5DV_OBJ_AH | MLX5DV_OBJ_QP | MLX5DV_OBJ_CQ))
        return EOPNOTSUPP;
    if (types & MLX5DV_OBJ_PD)
        o->pd.out->pdn = ((struct face_pd *)o->pd.in)->number;
    if (types & MLX5DV_OBJ_AH)
        o->ah.out->av = &((struct face_ah *)o->ah.in)->av;
    if (types & MLX5DV_OBJ_QP) {
        struct face_qp *qp = (struct face_qp *)o->qp.in;
        struct mlx5dv_qp *out = o->qp.out;
        out->dbrec = (__be32 *)qp->record;
        out->sq.buf = qp->sq;
        out->sq.wqe_cnt = qp->blocks;
        out->sq.stride = SHMEMX_MLX5_BLOCK;
        out->rq.buf = qp->rq;
        out->rq.wqe_cnt = qp->receives;
        out->rq.stride = qp->stride;
        out->bf.reg = qp->qp->uar->page + SHMEMX_MLX5_UAR_SEND;
        out->bf.size = 0;
        out->comp_mask = 0;
        struct sim_nic *nic = face_nic(qp->base.context);
        sim_lock(nic);
        qp->qp->uar->announced = false; /* who asks writes it without us */
        sim_unlock(nic);
    }
    if (types & MLX5DV_OBJ_CQ) {
        struct face_cq *cq = (struct face_cq *)o->cq.in;
        *o->cq.out = (struct mlx5dv_cq){.buf = cq->buffer,
                                        .dbrec = (__be32 *)cq->record,
                                        .cqe_cnt = (uint32_t)cq->base.cqe,
                                        .cqe_size = SHMEMX_MLX5_CQE,
                                        .cqn = cq->cq->number};
    }
    return 0;
}
