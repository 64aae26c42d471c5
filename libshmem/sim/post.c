/* Face of libibverbs: posting. It does what a driver does: WQEs in the ring, the doorbell record, the register. */
#include "faces.h"

#include <errno.h>
#include <string.h>

static uint8_t wqe_opcode(enum ibv_wr_opcode opcode)
{
    switch (opcode) {
    case IBV_WR_RDMA_WRITE:
        return SHMEMX_MLX5_RDMA_WRITE;
    case IBV_WR_RDMA_WRITE_WITH_IMM:
        return SHMEMX_MLX5_RDMA_WRITE_IMM;
    case IBV_WR_SEND:
        return SHMEMX_MLX5_SEND;
    case IBV_WR_SEND_WITH_IMM:
        return SHMEMX_MLX5_SEND_IMM;
    case IBV_WR_RDMA_READ:
        return SHMEMX_MLX5_RDMA_READ;
    case IBV_WR_ATOMIC_CMP_AND_SWP:
        return SHMEMX_MLX5_ATOMIC_CS;
    case IBV_WR_ATOMIC_FETCH_AND_ADD:
        return SHMEMX_MLX5_ATOMIC_FA;
    default:
        return SHMEMX_MLX5_NOP;
    }
}

static void put_data(unsigned char *at, const struct ibv_sge *s)
{
    sim_put_be32(at, s->length);
    sim_put_be32(at + 4, s->lkey);
    sim_put_be64(at + 8, s->addr);
}

/* What stands in front of the list; how many bytes, with the control segment. */
static unsigned put_head(const struct face_qp *qp, const struct ibv_send_wr *wr, uint8_t opcode,
                         unsigned char *wqe)
{
    bool atomic = opcode == SHMEMX_MLX5_ATOMIC_CS || opcode == SHMEMX_MLX5_ATOMIC_FA;
    if (qp->base.qp_type == IBV_QPT_UD) {
        struct mlx5_wqe_av av = ((struct face_ah *)wr->wr.ud.ah)->av;
        av.key.qkey.qkey = __builtin_bswap32(wr->wr.ud.remote_qkey);
        av.dqp_dct = __builtin_bswap32(wr->wr.ud.remote_qpn | MLX5_EXTENDED_UD_AV);
        memcpy(wqe + 16, &av, sizeof av);
        return 64;
    }
    if (opcode == SHMEMX_MLX5_SEND || opcode == SHMEMX_MLX5_SEND_IMM)
        return 16;
    sim_put_be64(wqe + 16, atomic ? wr->wr.atomic.remote_addr : wr->wr.rdma.remote_addr);
    sim_put_be32(wqe + 24, atomic ? wr->wr.atomic.rkey : wr->wr.rdma.rkey);
    sim_put_be32(wqe + 28, 0);
    if (!atomic)
        return 32;
    bool swap = opcode == SHMEMX_MLX5_ATOMIC_CS;
    sim_put_be64(wqe + 32, swap ? wr->wr.atomic.swap : wr->wr.atomic.compare_add);
    sim_put_be64(wqe + 40, swap ? wr->wr.atomic.compare_add : 0);
    return 48;
}

/* Writes a WQE of at most `most_blocks`; bytes, or 0 = it does not fit. */
static unsigned put_wqe(const struct face_qp *qp, const struct ibv_send_wr *wr, unsigned char *wqe)
{
    uint8_t opcode = wqe_opcode(wr->opcode);
    unsigned n = put_head(qp, wr, opcode, wqe), most = qp->most_blocks * SHMEMX_MLX5_BLOCK;
    if (wr->send_flags & IBV_SEND_INLINE) {
        unsigned bytes = 0;
        for (int i = 0; i < wr->num_sge; ++i) {
            if (bytes + wr->sg_list[i].length > qp->inline_bytes)
                return 0;
            memcpy(wqe + n + 4 + bytes, (const void *)(uintptr_t)wr->sg_list[i].addr, wr->sg_list[i].length);
            bytes += wr->sg_list[i].length;
        }
        if (bytes) {
            sim_put_be32(wqe + n, SHMEMX_MLX5_INLINE | bytes);
            n += (4 + bytes + 15) / 16 * 16;
        }
    } else {
        for (int i = 0; i < wr->num_sge; ++i) {
            if (wr->sg_list[i].length == 0)
                continue;
            if (n + 16 > most)
                return 0;
            put_data(wqe + n, &wr->sg_list[i]);
            n += 16;
        }
    }
    bool imm = wr->opcode == IBV_WR_RDMA_WRITE_WITH_IMM || wr->opcode == IBV_WR_SEND_WITH_IMM;
    unsigned char flags = (qp->all || (wr->send_flags & IBV_SEND_SIGNALED) ? SHMEMX_MLX5_CE_ALWAYS : 0) |
                          (wr->send_flags & IBV_SEND_SOLICITED ? SHMEMX_MLX5_SOLICITED : 0) |
                          (wr->send_flags & IBV_SEND_FENCE ? SHMEMX_MLX5_FENCE_STRONG : 0);
    sim_put_be32(wqe, (uint32_t)qp->head << 8 | opcode);
    sim_put_be32(wqe + 4, qp->base.qp_num << 8 | n / 16);
    memset(wqe + 8, 0, 8);
    wqe[11] = flags;
    if (imm)
        memcpy(wqe + 12, &wr->imm_data, 4);
    return n;
}

static int post_send(struct ibv_qp *base, struct ibv_send_wr *wr, struct ibv_send_wr **bad)
{
    struct face_qp *qp = (struct face_qp *)base;
    unsigned char wqe[(SIM_MOST_BLOCKS + 1) * SHMEMX_MLX5_BLOCK];
    int err = 0;
    pthread_mutex_lock(&qp->lock);
    uint16_t first = qp->head;
    for (; wr && !err; wr = err ? wr : wr->next) {
        /* acquire: pairs with polling's release: the NIC has done with what lay here */
        uint16_t used = (uint16_t)(qp->head - atomic_load_explicit(&qp->tail, memory_order_acquire));
        unsigned n = put_wqe(qp, wr, wqe), blocks = (n + SHMEMX_MLX5_BLOCK - 1) / SHMEMX_MLX5_BLOCK;
        if (n == 0 || wr->num_sge > 30)
            err = EINVAL;
        else if (used + blocks > qp->blocks)
            err = ENOMEM;
        if (err) {
            *bad = wr;
            break;
        }
        qp->ids[qp->head & (qp->blocks - 1)] = wr->wr_id;
        for (unsigned i = 0; i < blocks; ++i)
            sim_copy_in(qp->sq + (size_t)((qp->head + i) & (qp->blocks - 1)) * SHMEMX_MLX5_BLOCK,
                        wqe + i * SHMEMX_MLX5_BLOCK,
                        i + 1 < blocks ? SHMEMX_MLX5_BLOCK : n - i * SHMEMX_MLX5_BLOCK);
        qp->head = (uint16_t)(qp->head + blocks);
    }
    if (qp->head != first) {
        unsigned char reg[8];
        uint64_t word;
        sim_put_be32(reg, (uint32_t)qp->head << 8);
        sim_put_be32(reg + 4, base->qp_num << 8);
        memcpy(&word, reg, sizeof word);
        /* release, both: pair with the NIC's acquires: it sees the WQEs, and the record */
        atomic_store_explicit(&qp->record[SHMEMX_MLX5_RECORD_SEND], __builtin_bswap32(qp->head),
                              memory_order_release);
        __atomic_store_n((uint64_t *)(qp->qp->uar->page + SHMEMX_MLX5_UAR_SEND), word, __ATOMIC_RELEASE);
    }
    bool rung = qp->head != first;
    pthread_mutex_unlock(&qp->lock);
    if (rung)
        sim_wake(face_nic(base->context));
    return err;
}

static int post_recv(struct ibv_qp *base, struct ibv_recv_wr *wr, struct ibv_recv_wr **bad)
{
    struct face_qp *qp = (struct face_qp *)base;
    int err = 0;
    pthread_mutex_lock(&qp->lock);
    for (; wr && !err; wr = wr->next) {
        uint16_t used =
            (uint16_t)(qp->receive_head - atomic_load_explicit(&qp->receive_tail, memory_order_acquire));
        unsigned slot = qp->receive_head & (qp->receives - 1), most = qp->stride / 16;
        unsigned char list[16 * 32];
        if (used >= qp->receives || (unsigned)wr->num_sge > most) {
            err = used >= qp->receives ? ENOMEM : EINVAL;
            *bad = wr;
            break;
        }
        for (unsigned i = 0; i < most; ++i)
            put_data(list + 16 * i, i < (unsigned)wr->num_sge
                                        ? &wr->sg_list[i]
                                        : &(struct ibv_sge){.lkey = SHMEMX_MLX5_INVALID_LKEY});
        qp->receive_ids[slot] = wr->wr_id;
        sim_copy_in(qp->rq + (size_t)slot * qp->stride, list, qp->stride);
        qp->receive_head++;
    }
    /* release: pairs with the NIC's acquire: it sees the receives */
    atomic_store_explicit(&qp->record[SHMEMX_MLX5_RECORD_RECEIVE], __builtin_bswap32(qp->receive_head),
                          memory_order_release);
    pthread_mutex_unlock(&qp->lock);
    return err;
}

const struct ibv_context_ops face_ops = {
    .poll_cq = face_poll, .req_notify_cq = face_notify, .post_send = post_send, .post_recv = post_recv};
