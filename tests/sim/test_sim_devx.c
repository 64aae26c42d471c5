/* The software NIC's face of mlx5dv: objects by firmware commands, the steps to ready, data between two queue pairs of one
 * process, refused commands with their status; and our formats against libmlx5's own header. */
#include <errno.h>
#include <infiniband/mlx5dv.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "check.h"
#include "engine.h"
#include "transport/mlx5_prm.h"

#define SAME_SIZE(ours, theirs) _Static_assert(sizeof(struct ours) == sizeof(struct theirs), #ours)
#define SAME_PLACE(ours, field, theirs, other)                                                               \
    _Static_assert(offsetof(struct ours, field) == offsetof(struct theirs, other), #ours "." #field)
SAME_SIZE(shmemx_mlx5_control, mlx5_wqe_ctrl_seg);
SAME_SIZE(shmemx_mlx5_remote, mlx5_wqe_raddr_seg);
SAME_SIZE(shmemx_mlx5_data, mlx5_wqe_data_seg);
SAME_SIZE(shmemx_mlx5_atomic, mlx5_wqe_atomic_seg);
SAME_SIZE(shmemx_mlx5_av, mlx5_wqe_av);
SAME_SIZE(shmemx_mlx5_cqe, mlx5_cqe64);
SAME_SIZE(shmemx_mlx5_error_cqe, mlx5_err_cqe);
SAME_PLACE(shmemx_mlx5_control, fm_ce_se, mlx5_wqe_ctrl_seg, fm_ce_se);
SAME_PLACE(shmemx_mlx5_av, mac, mlx5_wqe_av, rmac);
SAME_PLACE(shmemx_mlx5_av, gid, mlx5_wqe_av, rgid);
SAME_PLACE(shmemx_mlx5_cqe, imm, mlx5_cqe64, imm_inval_pkey);
SAME_PLACE(shmemx_mlx5_cqe, byte_count, mlx5_cqe64, byte_cnt);
SAME_PLACE(shmemx_mlx5_cqe, timestamp, mlx5_cqe64, timestamp);
SAME_PLACE(shmemx_mlx5_cqe, opcode_qpn, mlx5_cqe64, sop_drop_qpn);
SAME_PLACE(shmemx_mlx5_cqe, wqe_counter, mlx5_cqe64, wqe_counter);
SAME_PLACE(shmemx_mlx5_cqe, op_own, mlx5_cqe64, op_own);
SAME_PLACE(shmemx_mlx5_error_cqe, vendor, mlx5_err_cqe, vendor_err_synd);
SAME_PLACE(shmemx_mlx5_error_cqe, opcode_qpn, mlx5_err_cqe, s_wqe_opcode_qpn);
_Static_assert((int)SHMEMX_MLX5_ATOMIC_MASKED_FA == (int)MLX5_OPCODE_ATOMIC_MASKED_FA, "opcodes");
_Static_assert((int)SHMEMX_MLX5_SYNDROME_REMOTE_ABORTED == (int)MLX5_CQE_SYNDROME_REMOTE_ABORTED_ERR,
               "syndromes");

/* Each field of commands is where its row says, and nowhere else. */
static void fields(void)
{
    unsigned char command[512];
#define X(name, offset, width)                                                                               \
    do {                                                                                                     \
        int bits = 0, wrong = 0;                                                                             \
        memset(command, 0, sizeof command);                                                                  \
        shmemi_prm_set(command, 64, PRM_##name, ~0ull);                                                      \
        for (unsigned i = 0; i < sizeof command * 8; ++i) {                                                  \
            int bit = command[i / 8] >> (7 - i % 8) & 1;                                                     \
            bits += bit;                                                                                     \
            wrong += bit && (i < 64 + offset || i >= 64 + offset + width);                                   \
        }                                                                                                    \
        CHECK(bits == width && wrong == 0, "%s: %d bits, %d of them elsewhere", #name, bits, wrong);         \
        CHECK(shmemi_prm_get(command, 64, PRM_##name) == (width == 64 ? ~0ull : (1ull << (width % 64)) - 1), \
              "%s", #name);                                                                                  \
    } while (0);
    SHMEMI_PRM_HEADER(X) SHMEMI_PRM_MEMORY(X) SHMEMI_PRM_QPC(X) SHMEMI_PRM_CQC(X) SHMEMI_PRM_CAP(X)
#undef X
}

enum { LOG_DEPTH = 4, CQ_AT = 64 << LOG_DEPTH, RECORDS_AT = 2 * CQ_AT, BYTES = 4096 };

struct qp {
    unsigned char *memory; /* send queue, CQ, records */
    struct mlx5dv_devx_umem *umem;
    struct mlx5dv_devx_uar *uar;
    struct mlx5dv_devx_obj *cq, *qp;
    uint32_t cqn, number;
    uint16_t head;
    unsigned seen;
};

static struct ibv_context *context;
static struct ibv_pd *pd;
static uint32_t pdn;
static union ibv_gid gid;
static uint16_t lid;

static struct mlx5dv_devx_obj *create(unsigned char *in, size_t n, uint32_t *number, unsigned *status)
{
    unsigned char out[PRM_SHORT_OUT];
    struct mlx5dv_devx_obj *o = mlx5dv_devx_obj_create(context, in, n, out, sizeof out);
    *number = (uint32_t)shmemi_prm_get(out, 0, PRM_OUT_NUMBER);
    *status = (unsigned)shmemi_prm_get(out, 0, PRM_OUT_STATUS);
    return o;
}

static void cq_command(const struct qp *q, unsigned char in[PRM_CREATE_CQ_IN])
{
    memset(in, 0, PRM_CREATE_CQ_IN);
    shmemi_prm_set(in, 0, PRM_IN_OPCODE, PRM_CREATE_CQ);
    shmemi_prm_set(in, PRM_CQC, PRM_CQC_LOG_SIZE, LOG_DEPTH);
    shmemi_prm_set(in, PRM_CQC, PRM_CQC_OVERRUN_IGNORE, 1);
    shmemi_prm_set(in, PRM_CQC, PRM_CQC_UAR_PAGE, q->uar->page_id);
    shmemi_prm_set(in, PRM_CQC, PRM_CQC_DBR_UMEM_VALID, 1);
    shmemi_prm_set(in, PRM_CQC, PRM_CQC_DBR_UMEM_ID, q->umem->umem_id);
    shmemi_prm_set(in, PRM_CQC, PRM_CQC_DBR_ADDR, RECORDS_AT + 64);
    shmemi_prm_set(in, 0, PRM_CQ_UMEM_OFFSET, CQ_AT);
    shmemi_prm_set(in, 0, PRM_CQ_UMEM_ID, q->umem->umem_id);
    shmemi_prm_set(in, 0, PRM_CQ_UMEM_VALID, 1);
}

static void qp_command(const struct qp *q, unsigned char in[PRM_CREATE_QP_IN])
{
    memset(in, 0, PRM_CREATE_QP_IN);
    shmemi_prm_set(in, 0, PRM_IN_OPCODE, PRM_CREATE_QP);
    shmemi_prm_set(in, PRM_QPC, PRM_QPC_ST, PRM_ST_RC);
    shmemi_prm_set(in, PRM_QPC, PRM_QPC_PD, pdn);
    shmemi_prm_set(in, PRM_QPC, PRM_QPC_UAR_PAGE, q->uar->page_id);
    shmemi_prm_set(in, PRM_QPC, PRM_QPC_CQN_SND, q->cqn);
    shmemi_prm_set(in, PRM_QPC, PRM_QPC_CQN_RCV, q->cqn);
    shmemi_prm_set(in, PRM_QPC, PRM_QPC_LOG_SQ_SIZE, LOG_DEPTH);
    shmemi_prm_set(in, PRM_QPC, PRM_QPC_RQ_TYPE, PRM_RQ_NONE);
    shmemi_prm_set(in, PRM_QPC, PRM_QPC_DBR_UMEM_VALID, 1);
    shmemi_prm_set(in, PRM_QPC, PRM_QPC_DBR_UMEM_ID, q->umem->umem_id);
    shmemi_prm_set(in, PRM_QPC, PRM_QPC_DBR_ADDR, RECORDS_AT);
    shmemi_prm_set(in, 0, PRM_QP_UMEM_ID, q->umem->umem_id);
    shmemi_prm_set(in, 0, PRM_QP_UMEM_VALID, 1);
}

static void make(struct qp *q)
{
    unsigned char cq[PRM_CREATE_CQ_IN], qp[PRM_CREATE_QP_IN];
    unsigned status;
    memset(q, 0, sizeof *q);
    q->memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(q->memory + CQ_AT, 0xff, CQ_AT);
    q->umem = mlx5dv_devx_umem_reg(context, q->memory, BYTES, IBV_ACCESS_LOCAL_WRITE);
    q->uar = mlx5dv_devx_alloc_uar(context, MLX5DV_UAR_ALLOC_TYPE_BF);
    cq_command(q, cq);
    q->cq = create(cq, sizeof cq, &q->cqn, &status);
    CHECK(q->cq && status == 0, "CREATE_CQ: status 0x%x", status);
    qp_command(q, qp);
    q->qp = create(qp, sizeof qp, &q->number, &status);
    CHECK(q->qp && status == 0, "CREATE_QP: status 0x%x", status);
}

static unsigned step(const struct qp *q, unsigned command, unsigned char *in)
{
    unsigned char out[PRM_SHORT_OUT];
    shmemi_prm_set(in, 0, PRM_IN_OPCODE, command);
    shmemi_prm_set(in, 0, PRM_IN_NUMBER, q->number);
    (void)mlx5dv_devx_obj_modify(q->qp, in, PRM_STEP_QP_IN, out, sizeof out);
    return (unsigned)shmemi_prm_get(out, 0, PRM_OUT_STATUS);
}

static unsigned state(const struct qp *q)
{
    unsigned char in[PRM_SHORT_IN] = {0}, out[PRM_QUERY_QP_OUT];
    shmemi_prm_set(in, 0, PRM_IN_OPCODE, PRM_QUERY_QP);
    CHECK(mlx5dv_devx_obj_query(q->qp, in, sizeof in, out, sizeof out) == 0, "QUERY_QP");
    return (unsigned)shmemi_prm_get(out, PRM_QUERIED_QPC, PRM_QPC_STATE);
}

static void rtr_command(const struct qp *to, unsigned char in[PRM_STEP_QP_IN], bool roce)
{
    memset(in, 0, PRM_STEP_QP_IN);
    shmemi_prm_set(in, PRM_QPC, PRM_QPC_MTU, PRM_MTU_4096);
    shmemi_prm_set(in, PRM_QPC, PRM_QPC_LOG_MSG_MAX, 30);
    shmemi_prm_set(in, PRM_QPC, PRM_QPC_REMOTE_QPN, to->number);
    shmemi_prm_set(in, PRM_QPC, PRM_QPC_NEXT_RCV_PSN, 100);
    shmemi_prm_set(in, PRM_QPC, PRM_QPC_LOG_RRA_MAX, 4);
    if (!roce) {
        shmemi_prm_set(in, PRM_QPC, PRM_QPC_RLID, lid);
        return;
    }
    shmemi_prm_set(in, PRM_QPC, PRM_QPC_HOP_LIMIT, 64);
    shmemi_prm_set(in, PRM_QPC, PRM_QPC_SRC_ADDR_INDEX, 3);
    for (unsigned i = 0; i < 4; ++i)
        shmemi_prm_set(
            in, PRM_QPC,
            (enum shmemi_prm_field[]){PRM_QPC_RGID_0, PRM_QPC_RGID_1, PRM_QPC_RGID_2, PRM_QPC_RGID_3}[i],
            sim_be32(gid.raw + 4 * i));
    shmemi_prm_set(in, PRM_QPC, PRM_QPC_RMAC_HIGH, 0x0253); /* of the software NIC with that GID */
    shmemi_prm_set(in, PRM_QPC, PRM_QPC_RMAC_LOW, 0x484d0000 | (sim_be32(gid.raw + 12) & 0xffff));
    shmemi_prm_set(in, PRM_QPC, PRM_QPC_UDP_SPORT, 0xc123);
    shmemi_prm_set(in, PRM_QPC, PRM_QPC_TCLASS, 106);
    shmemi_prm_set(in, PRM_QPC, PRM_QPC_DSCP, 26);
}

static void join(const struct qp *q, const struct qp *to, bool roce)
{
    unsigned char in[PRM_STEP_QP_IN] = {0};
    CHECK(step(q, PRM_INIT2RTR_QP, in) == PRM_STATUS_BAD_QP_STATE, "INIT2RTR before RST2INIT");
    memset(in, 0, sizeof in);
    CHECK(step(q, PRM_RST2INIT_QP, in) == PRM_STATUS_BAD_PARAMETER, "RST2INIT without port");
    shmemi_prm_set(in, PRM_QPC, PRM_QPC_PORT, 1);
    shmemi_prm_set(in, PRM_QPC, PRM_QPC_RWE, 1);
    shmemi_prm_set(in, PRM_QPC, PRM_QPC_RRE, 1);
    shmemi_prm_set(in, PRM_QPC, PRM_QPC_RAE, 1);
    shmemi_prm_set(in, PRM_QPC, PRM_QPC_ATOMIC_MODE, PRM_ATOMIC_UP_TO_8);
    CHECK(step(q, PRM_RST2INIT_QP, in) == 0 && state(q) == PRM_QP_INIT, "RST2INIT");
    rtr_command(to, in, roce);
    shmemi_prm_set(in, PRM_QPC, PRM_QPC_MTU, 0);
    CHECK(step(q, PRM_INIT2RTR_QP, in) == PRM_STATUS_BAD_PARAMETER, "INIT2RTR without MTU");
    rtr_command(to, in, roce);
    shmemi_prm_set(in, PRM_QPC, roce ? PRM_QPC_HOP_LIMIT : PRM_QPC_RLID, 0);
    CHECK(step(q, PRM_INIT2RTR_QP, in) == PRM_STATUS_BAD_PARAMETER, "INIT2RTR without a way");
    for (int what = 0; roce && what < 3; ++what) {
        rtr_command(to, in, roce);
        shmemi_prm_set(in, PRM_QPC,
                       (enum shmemi_prm_field[]){PRM_QPC_RMAC_LOW, PRM_QPC_UDP_SPORT, PRM_QPC_DSCP}[what], 1);
        CHECK(step(q, PRM_INIT2RTR_QP, in) == PRM_STATUS_BAD_PARAMETER, "INIT2RTR over RoCE v2, wrong: %d",
              what);
    }
    rtr_command(to, in, roce);
    CHECK(step(q, PRM_INIT2RTR_QP, in) == 0 && state(q) == PRM_QP_RTR, "INIT2RTR");
    memset(in, 0, sizeof in);
    shmemi_prm_set(in, PRM_QPC, PRM_QPC_NEXT_SEND_PSN, 100);
    shmemi_prm_set(in, PRM_QPC, PRM_QPC_LOG_SRA_MAX, 4);
    shmemi_prm_set(in, PRM_QPC, PRM_QPC_RETRY_COUNT, 6);
    shmemi_prm_set(in, PRM_QPC, PRM_QPC_ACK_TIMEOUT, 20);
    CHECK(step(q, PRM_RTR2RTS_QP, in) == 0 && state(q) == PRM_QP_RTS, "RTR2RTS");
}

/* Posts a write of 8 bytes as a kernel does, and waits for its entry; its syndrome, 0 = success. */
static unsigned write8(struct qp *q, uint64_t remote, uint32_t rkey, uint64_t value)
{
    unsigned char wqe[64] = {0}, reg[8];
    uint64_t word;
    sim_put_be32(wqe, (uint32_t)q->head << 8 | SHMEMX_MLX5_RDMA_WRITE);
    sim_put_be32(wqe + 4, q->number << 8 | 3);
    wqe[11] = SHMEMX_MLX5_CE_ALWAYS;
    sim_put_be64(wqe + 16, remote);
    sim_put_be32(wqe + 24, rkey);
    sim_put_be32(wqe + 32, SHMEMX_MLX5_INLINE | 8);
    memcpy(wqe + 36, &value, 8);
    sim_copy_in(q->memory + (q->head & ((1u << LOG_DEPTH) - 1)) * 64, wqe, sizeof wqe);
    q->head++;
    __atomic_store_n((uint32_t *)(q->memory + RECORDS_AT + 4), __builtin_bswap32(q->head), __ATOMIC_RELEASE);
    sim_put_be32(reg, (uint32_t)q->head << 8);
    sim_put_be32(reg + 4, q->number << 8);
    memcpy(&word, reg, sizeof word);
    __atomic_store_n((uint64_t *)q->uar->reg_addr, word, __ATOMIC_RELEASE);
    unsigned char *cqe = q->memory + CQ_AT + (q->seen & ((1u << LOG_DEPTH) - 1)) * 64;
    for (uint64_t end = sim_now() + 20000000000u; sim_now() < end;) {
        uint32_t last = __atomic_load_n((uint32_t *)(cqe + 60), __ATOMIC_ACQUIRE);
        if (last >> 28 != SHMEMX_MLX5_CQE_INVALID && (last >> 24 & 1) == (q->seen >> LOG_DEPTH & 1)) {
            q->seen++;
            return last >> 28 == SHMEMX_MLX5_CQE_REQUEST ? 0 : cqe[55];
        }
        sched_yield();
    }
    return 0xff;
}

static void drop(struct qp *q)
{
    CHECK(mlx5dv_devx_obj_destroy(q->cq) == EBUSY, "a CQ in use was destroyed");
    CHECK(mlx5dv_devx_obj_destroy(q->qp) == 0 && mlx5dv_devx_obj_destroy(q->cq) == 0, "destroying");
    mlx5dv_devx_umem_dereg(q->umem);
    mlx5dv_devx_free_uar(q->uar);
    munmap(q->memory, BYTES);
}

static void wrong_commands(struct qp *q)
{
    unsigned char in[PRM_CREATE_QP_IN], cq[PRM_CREATE_CQ_IN], out[PRM_SHORT_OUT];
    unsigned status;
    uint32_t number;
    static const struct {
        enum shmemi_prm_field field;
        uint64_t value;
        unsigned base, status;
    } cases[] = {{PRM_QPC_PD, 0xfff, PRM_QPC, PRM_STATUS_BAD_RESOURCE},
                 {PRM_QPC_CQN_SND, 0xabcdef, PRM_QPC, PRM_STATUS_BAD_RESOURCE},
                 {PRM_QPC_UAR_PAGE, 0xfff, PRM_QPC, PRM_STATUS_BAD_RESOURCE},
                 {PRM_QPC_ST, 5, PRM_QPC, PRM_STATUS_BAD_PARAMETER},
                 {PRM_QPC_RQ_TYPE, PRM_RQ_SRQ, PRM_QPC, PRM_STATUS_BAD_PARAMETER},
                 {PRM_QPC_LOG_SQ_SIZE, 9, PRM_QPC, PRM_STATUS_BAD_RESOURCE}, /* its umem is too small */
                 {PRM_QPC_DBR_ADDR, BYTES - 4, PRM_QPC, PRM_STATUS_BAD_RESOURCE},
                 {PRM_QPC_DBR_UMEM_VALID, 0, PRM_QPC, PRM_STATUS_BAD_PARAMETER},
                 {PRM_QP_UMEM_ID, 0x7777, 0, PRM_STATUS_BAD_RESOURCE},
                 {PRM_QP_UMEM_OFFSET, 32, 0, PRM_STATUS_BAD_RESOURCE},
                 {PRM_IN_OPCODE, 0x777, 0, PRM_STATUS_BAD_OPERATION}};
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; ++i) {
        qp_command(q, in);
        shmemi_prm_set(in, cases[i].base, cases[i].field, cases[i].value);
        errno = 0;
        CHECK(!create(in, sizeof in, &number, &status) && status == cases[i].status && errno == EREMOTEIO,
              "case %u: status 0x%x, errno %d", i, status, errno);
    }
    qp_command(q, in);
    CHECK(!create(in, 64, &number, &status) && status == PRM_STATUS_BAD_LENGTH, "a short command: 0x%x",
          status);
    cq_command(q, cq);
    shmemi_prm_set(cq, PRM_CQC, PRM_CQC_LOG_SIZE, 20);
    CHECK(!create(cq, sizeof cq, &number, &status) && status == PRM_STATUS_BAD_RESOURCE,
          "a CQ too long: 0x%x", status);
    memset(in, 0, sizeof in);
    shmemi_prm_set(in, 0, PRM_IN_OPCODE, PRM_RST2INIT_QP);
    shmemi_prm_set(in, 0, PRM_IN_NUMBER, q->number + 1);
    CHECK(mlx5dv_devx_obj_modify(q->qp, in, PRM_STEP_QP_IN, out, sizeof out) == EREMOTEIO &&
              shmemi_prm_get(out, 0, PRM_OUT_STATUS) == PRM_STATUS_BAD_RESOURCE,
          "another queue pair's number");
    CHECK(!mlx5dv_devx_umem_reg(context, (void *)64, 4096, 0) && errno == EFAULT, "memory that is not there");
    CHECK(!ibv_reg_mr(pd, (void *)64, 4096, 0) && errno == EFAULT, "memory that is not there");
    CHECK(!(ibv_reg_mr)(pd, q->memory, 64, IBV_ACCESS_REMOTE_WRITE) && errno == EINVAL,
          "remote write without local");
}

static void capabilities(bool roce)
{
    unsigned char in[PRM_SHORT_IN] = {0};
    static unsigned char out[PRM_QUERY_HCA_CAP_OUT];
    shmemi_prm_set(in, 0, PRM_IN_OPCODE, PRM_QUERY_HCA_CAP);
    shmemi_prm_set(in, 0, PRM_IN_OP_MOD, PRM_GENERAL | PRM_CURRENT);
    CHECK(mlx5dv_devx_general_cmd(context, in, sizeof in, out, sizeof out) == 0, "QUERY_HCA_CAP");
    CHECK(shmemi_prm_get(out, PRM_CAPABILITY, PRM_CAP_ROCE) == roce, "RoCE");
    CHECK(shmemi_prm_get(out, PRM_CAPABILITY, PRM_CAP_LOG_MAX_QP_SIZE) == SIM_LOG_MOST_DEPTH, "depth");
    shmemi_prm_set(in, 0, PRM_IN_OP_MOD, PRM_ATOMICS | PRM_CURRENT);
    CHECK(mlx5dv_devx_general_cmd(context, in, sizeof in, out, sizeof out) == 0 &&
              shmemi_prm_get(out, PRM_CAPABILITY, PRM_ATOMIC_OPERATIONS) == 15,
          "atomics");
    shmemi_prm_set(in, 0, PRM_IN_OP_MOD, 0x40);
    CHECK(mlx5dv_devx_general_cmd(context, in, sizeof in, out, sizeof out) == EREMOTEIO,
          "capabilities of no kind");
}

static void work(bool roce)
{
    setenv("SHMEM_SIM_LINK", roce ? "roce" : "ib", 1);
    struct ibv_device **list = ibv_get_device_list(NULL);
    struct mlx5dv_context_attr attr = {.flags = MLX5DV_CONTEXT_FLAGS_DEVX};
    context = mlx5dv_is_supported(list[0]) ? mlx5dv_open_device(list[0], &attr) : NULL;
    ibv_free_device_list(list);
    struct ibv_port_attr port = {0};
    if (!CHECK(context && (ibv_query_port)(context, 1, (struct _compat_ibv_port_attr *)&port) == 0,
               "the device"))
        return;
    CHECK(port.link_layer == (roce ? IBV_LINK_LAYER_ETHERNET : IBV_LINK_LAYER_INFINIBAND), "its link");
    lid = port.lid;
    struct ibv_gid_entry e;
    CHECK(_ibv_query_gid_ex(context, 1, roce ? 3 : 0, &e, 0, sizeof e) == 0 &&
              e.gid_type == (roce ? IBV_GID_TYPE_ROCE_V2 : IBV_GID_TYPE_IB),
          "its GID");
    gid = e.gid;
    pd = ibv_alloc_pd(context);
    struct mlx5dv_pd pd_view;
    struct mlx5dv_obj view = {.pd = {pd, &pd_view}};
    CHECK(mlx5dv_init_obj(&view, MLX5DV_OBJ_PD) == 0, "the domain's number");
    pdn = pd_view.pdn;
    capabilities(roce);
    struct qp x, y;
    make(&x);
    make(&y);
    wrong_commands(&x);
    join(&x, &y, roce);
    join(&y, &x, roce);
    static uint64_t words[64];
    struct ibv_mr *mr =
        (ibv_reg_mr)(pd, words, sizeof words, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE);
    for (uint64_t i = 0; i < 100; ++i) {
        struct qp *q = i % 3 ? &x : &y;
        unsigned syndrome = write8(q, (uint64_t)(uintptr_t)&words[i % 64], mr->rkey, i);
        uint64_t there = __atomic_load_n(&words[i % 64], __ATOMIC_ACQUIRE);
        if (!CHECK(syndrome == 0 && there == i, "write %llu: syndrome 0x%x, word %llu", (unsigned long long)i,
                   syndrome, (unsigned long long)there))
            break;
    }
    ibv_dereg_mr(mr);
    CHECK(write8(&x, (uint64_t)(uintptr_t)&words[0], mr ? 1 << 8 : 0, 5) == 0x13,
          "memory that was given back");
    CHECK(state(&x) == PRM_QP_ERR, "state after an error");
    unsigned char in[PRM_STEP_QP_IN] = {0};
    CHECK(step(&x, PRM_2RST_QP, in) == 0 && state(&x) == PRM_QP_RST, "2RST");
    drop(&x);
    drop(&y);
    ibv_dealloc_pd(pd);
    ibv_close_device(context);
}

int main(void)
{
    fields();
    work(false);
    work(true);
    return check_done();
}
