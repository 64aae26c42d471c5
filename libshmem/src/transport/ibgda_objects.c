/* Queue pairs of kernels: DevX objects of one queue pair, and the steps of its state. Commands after the public
 * "programming reference manual" (mlx5_prm.h). */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/gpu.h"
#include "ibgda_state.h"
#include "mlx5_prm.h"

/* ---- commands ------------------------------------------------------------------------------------------ */

static void set(void *command, enum shmemi_prm_field field, uint64_t value)
{
    shmemi_prm_set(command, 0, field, value);
}
static void set_qpc(void *command, enum shmemi_prm_field field, uint64_t value)
{
    shmemi_prm_set(command, PRM_QPC, field, value);
}
static void set_cqc(void *command, enum shmemi_prm_field field, uint64_t value)
{
    shmemi_prm_set(command, PRM_CQC, field, value);
}

/* What the firmware said to a command that failed, after the call's errno. */
static const char *said(const void *out, int err, char *text, size_t n)
{
    unsigned status = (unsigned)shmemi_prm_get(out, 0, PRM_OUT_STATUS);
    if (status)
        snprintf(text, n, "%s; the device says status 0x%02x, %s, syndrome 0x%x", strerror(err), status,
                 shmemi_prm_status_text(status), (unsigned)shmemi_prm_get(out, 0, PRM_OUT_SYNDROME));
    else
        snprintf(text, n, "%s", strerror(err));
    return text;
}

static struct mlx5dv_devx_obj *create(const void *in, size_t inlen, void *out, uint32_t *number)
{
    struct mlx5dv_devx_obj *made =
        shmemi_ibgda.dv->devx_obj_create(shmemi_ibgda.port.context, in, inlen, out, PRM_SHORT_OUT);
    if (made)
        *number = (uint32_t)shmemi_prm_get(out, 0, PRM_OUT_NUMBER);
    return made;
}

/* ---- what the device can do ---------------------------------------------------------------------------- */

static int query_caps(struct ibv_context *context, unsigned which, unsigned char *out, char *why, size_t n)
{
    unsigned char in[PRM_SHORT_IN] = {0};
    char text[160];
    set(in, PRM_IN_OPCODE, PRM_QUERY_HCA_CAP);
    set(in, PRM_IN_OP_MOD, which | PRM_CURRENT);
    memset(out, 0, PRM_QUERY_HCA_CAP_OUT);
    int rc = shmemi_mlx5_lib(NULL, 0)->devx_general_cmd(context, in, sizeof in, out, PRM_QUERY_HCA_CAP_OUT);
    if (rc == 0)
        return 1;
    snprintf(why, n,
             "takes no DevX commands (QUERY_HCA_CAP: %s); the kernel's mlx5_ib must have DevX, and the "
             "process access to /dev/infiniband/uverbs*",
             said(out, rc > 0 ? rc : errno, text, sizeof text));
    return 0;
}

int shmemi_ibgda_capable(struct ibv_context *context, char *why, size_t n)
{
    static unsigned char out[PRM_QUERY_HCA_CAP_OUT]; /* 4 KiB; one caller at a time */
    const unsigned wanted = PRM_ATOMIC_CS | PRM_ATOMIC_FA | PRM_ATOMIC_MASKED_CS | PRM_ATOMIC_MASKED_FA;
    if (!query_caps(context, PRM_GENERAL, out, why, n))
        return 0;
    shmemi_ibgda.free_running = shmemi_prm_get(out, PRM_CAPABILITY, PRM_CAP_SQ_TS_FORMAT) == 0;
    shmemi_ibgda.most_log_depth = (unsigned)shmemi_prm_get(out, PRM_CAPABILITY, PRM_CAP_LOG_MAX_QP_SIZE);
    if (!shmemi_prm_get(out, PRM_CAPABILITY, PRM_CAP_CQ_OI)) {
        snprintf(why, n, "has no completion queues without consumer index (cq_oi)");
        return 0;
    }
    if (!shmemi_prm_get(out, PRM_CAPABILITY, PRM_CAP_ATOMIC)) {
        snprintf(why, n, "has no atomics");
        return 0;
    }
    if (!query_caps(context, PRM_ATOMICS, out, why, n))
        return 0;
    unsigned have = (unsigned)shmemi_prm_get(out, PRM_CAPABILITY, PRM_ATOMIC_OPERATIONS);
    unsigned sizes = (unsigned)shmemi_prm_get(out, PRM_CAPABILITY, PRM_ATOMIC_SIZE_QP);
    if ((have & wanted) != wanted || (sizes & 12) != 12) {
        snprintf(
            why, n,
            "lacks atomics: operations 0x%x, bytes 0x%x; swap, and, or, xor and those of 4 bytes need masked "
            "ones (0x%x, of 0xc)",
            have, sizes, wanted);
        return 0;
    }
    return 1;
}

int shmemi_ibgda_domain(const char *call)
{
    struct shmemi_ibgda *g = &shmemi_ibgda;
    struct mlx5dv_pd pd = {0};
    struct mlx5dv_obj obj = {.pd = {g->pd, &pd}};
    int err = g->dv->init_obj(&obj, MLX5DV_OBJ_PD);
    if (err)
        return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "%s: mlx5dv_init_obj of a protection domain: %s",
                           g->port.name, strerror(err > 0 ? err : errno));
    g->pdn = pd.pdn;
    err = g->dv->devx_query_eqn(g->port.context, 0, &g->eqn);
    return err ? shmemi_fail(SHMEMX_ERR_SYSTEM, call, "%s: mlx5dv_devx_query_eqn: %s", g->port.name,
                             strerror(err > 0 ? err : errno))
               : SHMEMX_SUCCESS;
}

/* ---- one queue pair ------------------------------------------------------------------------------------ */

/* In its memory: send queue, completion queue, records; from pages of their own. */
size_t shmemi_ibgda_cq_at(void)
{
    return (size_t)shmemi_ibgda.depth * SHMEMX_MLX5_BLOCK;
}

size_t shmemi_ibgda_records_at(void)
{
    return shmemi_ibgda_cq_at() + (size_t)shmemi_ibgda.depth * SHMEMX_MLX5_CQE;
}

size_t shmemi_ibgda_queue_bytes(void)
{
    size_t page = shmemi_ibgda.queues_on_gpu ? IBGDA_GPU_PAGE : IBGDA_PAGE;
    return (shmemi_ibgda_records_at() + 2 * IBGDA_LINE + page - 1) / page * page;
}

static int make_umem(const char *call, struct ibgda_qp *q, size_t i)
{
    struct shmemi_ibgda *g = &shmemi_ibgda;
    size_t bytes = shmemi_ibgda_queue_bytes();
    if (g->queues_fd >= 0) {
        struct mlx5dv_devx_umem_in in = {.addr = (void *)(i * bytes), /* from the descriptor's start */
                                         .size = bytes,
                                         .access = IBV_ACCESS_LOCAL_WRITE,
                                         .pgsz_bitmap = ~(uint64_t)(IBGDA_PAGE - 1),
                                         .comp_mask = MLX5DV_UMEM_MASK_DMABUF,
                                         .dmabuf_fd = g->queues_fd};
        q->umem = g->dv->devx_umem_reg_ex(g->port.context, &in);
    } else {
        q->umem =
            g->dv->devx_umem_reg(g->port.context, g->queues.base + i * bytes, bytes, IBV_ACCESS_LOCAL_WRITE);
    }
    return q->umem
               ? SHMEMX_SUCCESS
               : shmemi_fail(SHMEMX_ERR_SYSTEM, call,
                             "%s cannot use %zu bytes %s for a kernel's queues: mlx5dv_devx_umem_reg%s: %s; "
                             "`ulimit -l`, a smaller SHMEM_IBGDA_DEPTH, or SHMEM_IBGDA_MEMORY=host",
                             g->port.name, bytes, g->queues_on_gpu ? "of the GPU" : "of this host",
                             g->queues_fd >= 0 ? "_ex" : "", strerror(errno));
}

/* A page of registers each: their stores cannot be taken for another's. Where the device has no more of them, and there
 * are some thousand, queue pairs share the last one. */
static int make_uar(const char *call, struct ibgda_qp *q, size_t i)
{
    struct shmemi_ibgda *g = &shmemi_ibgda;
    char why[200];
    q->uar = g->dv->devx_alloc_uar(g->port.context, MLX5DV_UAR_ALLOC_TYPE_BF);
    if (!q->uar)
        q->uar = g->dv->devx_alloc_uar(g->port.context, MLX5DV_UAR_ALLOC_TYPE_NC);
    if (!q->uar && i > 0 && g->qp[i - 1].uar) {
        q->uar = g->qp[i - 1].uar;
        q->uar_seen = g->qp[i - 1].uar_seen;
        q->shares_uar = true;
        return SHMEMX_SUCCESS;
    }
    if (!q->uar)
        return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "%s: mlx5dv_devx_alloc_uar: %s", g->port.name,
                           strerror(errno));
    if (!g->gpu) {
        q->uar_seen = (uint64_t)(uintptr_t)q->uar->reg_addr;
        return SHMEMX_SUCCESS;
    }
    return shmemi_gpu_map_register(q->uar->reg_addr, &q->uar_seen, why, sizeof why)
               ? SHMEMX_SUCCESS
               : shmemi_fail(
                     SHMEMX_ERR_UNSUPPORTED, call,
                     "%s's doorbell register cannot be mapped for the GPU: %s. NVIDIA's driver needs the "
                     "registry key PeerMappingOverride=1 (NVreg_RegistryDwords) for unprivileged users; "
                     "SHMEM_GPU_NIC=proxy needs neither",
                     g->port.name, why);
}

static int make_cq(const char *call, struct ibgda_qp *q)
{
    struct shmemi_ibgda *g = &shmemi_ibgda;
    unsigned char in[PRM_CREATE_CQ_IN] = {0}, out[PRM_SHORT_OUT] = {0};
    char text[200];
    set(in, PRM_IN_OPCODE, PRM_CREATE_CQ);
    set_cqc(in, PRM_CQC_LOG_SIZE, g->log_depth);
    set_cqc(in, PRM_CQC_OVERRUN_IGNORE, 1); /* never more entries than blocks: kernels see to that */
    set_cqc(in, PRM_CQC_UAR_PAGE, q->uar->page_id);
    set_cqc(in, PRM_CQC_EQN, g->eqn);
    set_cqc(in, PRM_CQC_DBR_UMEM_VALID, 1);
    set_cqc(in, PRM_CQC_DBR_UMEM_ID, q->umem->umem_id);
    set_cqc(in, PRM_CQC_DBR_ADDR, shmemi_ibgda_records_at() + IBGDA_LINE);
    set(in, PRM_CQ_UMEM_OFFSET, shmemi_ibgda_cq_at());
    set(in, PRM_CQ_UMEM_ID, q->umem->umem_id);
    set(in, PRM_CQ_UMEM_VALID, 1);
    q->cq = create(in, sizeof in, out, &q->cqn);
    return q->cq ? SHMEMX_SUCCESS
                 : shmemi_fail(SHMEMX_ERR_SYSTEM, call, "%s: CREATE_CQ of %u entries for kernels: %s",
                               g->port.name, g->depth, said(out, errno, text, sizeof text));
}

static int make_qp(const char *call, struct ibgda_qp *q)
{
    struct shmemi_ibgda *g = &shmemi_ibgda;
    unsigned char in[PRM_CREATE_QP_IN] = {0}, out[PRM_SHORT_OUT] = {0};
    char text[200];
    set(in, PRM_IN_OPCODE, PRM_CREATE_QP);
    set_qpc(in, PRM_QPC_ST, PRM_ST_RC);
    set_qpc(in, PRM_QPC_PM_STATE, PRM_PM_MIGRATED);
    set_qpc(in, PRM_QPC_PD, g->pdn);
    set_qpc(in, PRM_QPC_UAR_PAGE, q->uar->page_id);
    set_qpc(in, PRM_QPC_CQN_SND, q->cqn);
    set_qpc(in, PRM_QPC_CQN_RCV, q->cqn);
    set_qpc(in, PRM_QPC_LOG_SQ_SIZE, g->log_depth);
    set_qpc(in, PRM_QPC_RQ_TYPE, PRM_RQ_NONE);
    set_qpc(in, PRM_QPC_TS_FORMAT, g->free_running ? 0 : 1);
    set_qpc(in, PRM_QPC_USER_INDEX, 0xffffff);
    set_qpc(in, PRM_QPC_DBR_UMEM_VALID, 1);
    set_qpc(in, PRM_QPC_DBR_UMEM_ID, q->umem->umem_id);
    set_qpc(in, PRM_QPC_DBR_ADDR, shmemi_ibgda_records_at());
    set(in, PRM_QP_UMEM_OFFSET, 0);
    set(in, PRM_QP_UMEM_ID, q->umem->umem_id);
    set(in, PRM_QP_UMEM_VALID, 1);
    q->qp = create(in, sizeof in, out, &q->qpn);
    return q->qp ? SHMEMX_SUCCESS
                 : shmemi_fail(SHMEMX_ERR_SYSTEM, call, "%s: CREATE_QP of %u blocks for kernels: %s",
                               g->port.name, g->depth, said(out, errno, text, sizeof text));
}

int shmemi_ibgda_make(const char *call, size_t i)
{
    struct ibgda_qp *q = &shmemi_ibgda.qp[i];
    int rc = make_umem(call, q, i);
    if (rc == 0)
        rc = make_uar(call, q, i);
    if (rc == 0)
        rc = make_cq(call, q);
    return rc ? rc : make_qp(call, q);
}

void shmemi_ibgda_drop(size_t i)
{
    struct shmemi_ibgda *g = &shmemi_ibgda;
    struct ibgda_qp *q = &g->qp[i];
    if (q->qp)
        (void)g->dv->devx_obj_destroy(q->qp);
    if (q->cq)
        (void)g->dv->devx_obj_destroy(q->cq);
    if (q->umem)
        (void)g->dv->devx_umem_dereg(q->umem);
    if (q->uar && !q->shares_uar) {
        if (g->gpu && q->uar_seen)
            shmemi_gpu_unmap_register(q->uar->reg_addr);
        g->dv->devx_free_uar(q->uar);
    }
    *q = (struct ibgda_qp){0};
}

/* ---- the steps of its state: reset, initialized, ready to receive, ready to send ------------------------ */

static int step(const char *call, const struct ibgda_qp *q, unsigned char *in,
                enum shmemi_prm_command command, const char *name, int pe)
{
    struct shmemi_ibgda *g = &shmemi_ibgda;
    unsigned char out[PRM_SHORT_OUT] = {0};
    char text[200];
    set(in, PRM_IN_OPCODE, command);
    set(in, PRM_IN_NUMBER, q->qpn);
    size_t bytes = command == PRM_2RST_QP ? PRM_SHORT_IN : PRM_STEP_QP_IN;
    int err = g->dv->devx_obj_modify(q->qp, in, bytes, out, sizeof out);
    return err ? shmemi_fail(SHMEMX_ERR_SYSTEM, call, "%s: %s of queue pair 0x%x to PE %d: %s", g->port.name,
                             name, q->qpn, pe, said(out, err > 0 ? err : errno, text, sizeof text))
               : SHMEMX_SUCCESS;
}

/* What peers may do to this PE's memory by it. */
static void permit(unsigned char *in)
{
    set_qpc(in, PRM_QPC_RWE, 1);
    set_qpc(in, PRM_QPC_RRE, 1);
    set_qpc(in, PRM_QPC_RAE, 1);
    set_qpc(in, PRM_QPC_ATOMIC_MODE, PRM_ATOMIC_UP_TO_8);
}

/* The way to the peer's port. On RoCE the driver finds out the hardware address that belongs to its GID. */
static int set_path(const char *call, unsigned char *in, int pe, const struct ibgda_card *peer)
{
    struct shmemi_ibgda *g = &shmemi_ibgda;
    struct ibv_ah_attr a = shmemi_verbs_path(&g->port, peer->lid, peer->gid);
    const uint8_t *gid = a.grh.dgid.raw;
    set_qpc(in, PRM_QPC_PORT, a.port_num);
    set_qpc(in, PRM_QPC_PKEY_INDEX, (uint64_t)g->port.pkey_index);
    set_qpc(in, PRM_QPC_HOP_LIMIT, a.grh.hop_limit);
    set_qpc(in, PRM_QPC_SRC_ADDR_INDEX, a.grh.sgid_index);
    set_qpc(in, PRM_QPC_TCLASS, a.grh.traffic_class);
    if (a.is_global) {
        set_qpc(in, PRM_QPC_GRH, 1);
        for (unsigned i = 0; i < 4; ++i, gid += 4)
            set_qpc(
                in,
                (enum shmemi_prm_field[]){PRM_QPC_RGID_0, PRM_QPC_RGID_1, PRM_QPC_RGID_2, PRM_QPC_RGID_3}[i],
                (uint64_t)gid[0] << 24 | (uint64_t)gid[1] << 16 | (uint64_t)gid[2] << 8 | gid[3]);
    }
    if (!g->port.ethernet) {
        set_qpc(in, PRM_QPC_RLID, a.dlid);
        set_qpc(in, PRM_QPC_SL, a.sl);
        return SHMEMX_SUCCESS;
    }
    struct mlx5dv_ah view = {0};
    struct ibv_ah *ah = g->lib->create_ah(g->pd, &a);
    struct mlx5dv_obj obj = {.ah = {ah, &view}};
    int err = !ah ? errno : g->dv->init_obj(&obj, MLX5DV_OBJ_AH);
    if (err) {
        if (ah)
            (void)g->lib->destroy_ah(ah);
        return shmemi_fail(
            SHMEMX_ERR_SYSTEM, call,
            "%s: no way to PE %d at %s: %s (an address that the network does not resolve, a firewall, a "
            "VLAN?)",
            g->port.name, pe, peer->port, strerror(err > 0 ? err : errno));
    }
    const uint8_t *mac = view.av->rmac, *port = (const uint8_t *)&view.av->rlid;
    set_qpc(in, PRM_QPC_RMAC_HIGH, (uint64_t)mac[0] << 8 | mac[1]);
    set_qpc(in, PRM_QPC_RMAC_LOW,
            (uint64_t)mac[2] << 24 | (uint64_t)mac[3] << 16 | (uint64_t)mac[4] << 8 | mac[5]);
    set_qpc(in, PRM_QPC_UDP_SPORT, (uint64_t)port[0] << 8 | port[1]);
    set_qpc(in, PRM_QPC_DSCP, a.grh.traffic_class >> 2);
    set_qpc(in, PRM_QPC_ETH_PRIO, a.sl & 7);
    (void)g->lib->destroy_ah(ah);
    return SHMEMX_SUCCESS;
}

static unsigned log2_below(unsigned n)
{
    unsigned log = 0;
    while (2u << log <= n)
        ++log;
    return log;
}

int shmemi_ibgda_reset(const char *call, size_t i, int pe)
{
    unsigned char in[PRM_SHORT_IN] = {0};
    return step(call, &shmemi_ibgda.qp[i], in, PRM_2RST_QP, "2RST", pe);
}

int shmemi_ibgda_join(const char *call, size_t i, int pe)
{
    struct shmemi_ibgda *g = &shmemi_ibgda;
    const struct ibgda_qp *q = &g->qp[i];
    const struct ibgda_card *peer = &g->cards[pe];
    unsigned char init[PRM_STEP_QP_IN] = {0}, receive[PRM_STEP_QP_IN] = {0}, send[PRM_STEP_QP_IN] = {0};
    set_qpc(init, PRM_QPC_PM_STATE, PRM_PM_MIGRATED);
    set_qpc(init, PRM_QPC_PORT, g->port.number);
    set_qpc(init, PRM_QPC_PKEY_INDEX, (uint64_t)g->port.pkey_index);
    permit(init);
    int rc = step(call, q, init, PRM_RST2INIT_QP, "RST2INIT", pe);
    if (rc)
        return rc;
    uint8_t mtu = (uint8_t)g->port.attr.active_mtu;
    set(receive, PRM_IN_OPT_PARAM_MASK, PRM_OPT_RRE | PRM_OPT_RWE | PRM_OPT_RAE);
    set_qpc(receive, PRM_QPC_MTU, mtu < peer->mtu ? mtu : peer->mtu);
    set_qpc(receive, PRM_QPC_LOG_MSG_MAX, 30);
    set_qpc(receive, PRM_QPC_REMOTE_QPN, q->peer_qpn);
    set_qpc(receive, PRM_QPC_NEXT_RCV_PSN, peer->psn);
    set_qpc(receive, PRM_QPC_MIN_RNR_NAK, 12); /* 0.64 ms; there are no receives to wait for */
    set_qpc(receive, PRM_QPC_LOG_RRA_MAX, log2_below((unsigned)g->reads));
    permit(receive);
    if ((rc = set_path(call, receive, pe, peer)) != 0 ||
        (rc = step(call, q, receive, PRM_INIT2RTR_QP, "INIT2RTR", pe)) != 0)
        return rc;
    set_qpc(send, PRM_QPC_LOG_ACK_REQ_FREQ, 0);
    set_qpc(send, PRM_QPC_LOG_SRA_MAX, log2_below(peer->reads));
    set_qpc(send, PRM_QPC_NEXT_SEND_PSN, g->psn);
    set_qpc(send, PRM_QPC_RETRY_COUNT, (uint64_t)shmemi_env.IB_RETRY_COUNT);
    set_qpc(send, PRM_QPC_RNR_RETRY, 7);
    set_qpc(send, PRM_QPC_ACK_TIMEOUT, (uint64_t)shmemi_env.IB_TIMEOUT);
    return step(call, q, send, PRM_RTR2RTS_QP, "RTR2RTS", pe);
}
