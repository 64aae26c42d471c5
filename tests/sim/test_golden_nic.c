/* The software NIC against golden.def: its posting writes rdma-core's bytes, in ring, record and register; its reader of
 * WQEs finds the requests in them; its polling says of completion entries what rdma-core's says. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "faces.h"
#include "golden.h"
#include "transport/mlx5_prm.h"

/* ---- reading ----------------------------------------------------------------------------------------------- */

static void check_read(const struct golden_wqe *g, const unsigned char *raw, size_t n)
{
    static struct sim_qp qp; /* large */
    const char *why = NULL;
    struct sim_wqe w = {.raw = raw};
    qp.number = GOLDEN_QPN;
    qp.type = PRM_ST_RC;
    qp.log_message = 30;
    uint8_t syndrome = sim_wqe_read(&qp, &w, (uint16_t)g->index, &why);
    CHECK(syndrome == 0, "%s: %02x, %s", g->name, syndrome, why ? why : "");
    CHECK(w.index == g->index && w.opcode == g->opcode && w.opmod == g->opmod && w.ds == n / 16, "%s",
          g->name);
    CHECK(((w.flags & 0x0c) == SHMEMX_MLX5_CE_ALWAYS) == !!(g->flags & GOLDEN_SIGNALLED), "%s: %02x", g->name,
          w.flags);
    CHECK(!!(w.flags & SHMEMX_MLX5_FENCE_MASK) == !!(g->flags & GOLDEN_FENCE), "%s: %02x", g->name, w.flags);
    CHECK(!!(w.flags & SHMEMX_MLX5_SOLICITED) == !!(g->flags & GOLDEN_SOLICITED), "%s: %02x", g->name,
          w.flags);
    CHECK(w.address == g->raddr && w.rkey == g->rkey && w.imm == g->imm, "%s", g->name);
    unsigned char inlined[GOLDEN_MOST], found[GOLDEN_MOST];
    size_t bytes = golden_bytes(g->inlined, inlined, sizeof inlined), sum = bytes;
    for (int s = 0; s < g->sges; s++)
        sum += g->sge[s].bytes;
    CHECK(w.bytes == sum, "%s: %u bytes, not %zu", g->name, w.bytes, sum);
    if (g->flags & GOLDEN_INLINE) {
        struct sim_cursor c = {0, 0};
        CHECK(sim_gather(NULL, &qp, raw + w.list * 16, (unsigned)w.ds - w.list, &c, found, (uint32_t)bytes) ==
                      0 &&
                  memcmp(found, inlined, bytes) == 0,
              "%s: inline data", g->name);
    }
    for (int s = 0; s < g->sges; s++) {
        const unsigned char *at = raw + (w.list + s) * 16;
        CHECK(sim_be32(at) == g->sge[s].bytes && sim_be32(at + 4) == g->sge[s].lkey &&
                  sim_be64(at + 8) == g->sge[s].address,
              "%s: data segment %d", g->name, s);
    }
    unsigned width = g->opcode >= SHMEMX_MLX5_ATOMIC_CS && g->opcode <= SHMEMX_MLX5_ATOMIC_MASKED_FA
                         ? sim_atomic_bytes(w.opcode, w.opmod)
                         : 0;
    if (width) {
        uint64_t o[4];
        bool adds = g->opcode == SHMEMX_MLX5_ATOMIC_FA || g->opcode == SHMEMX_MLX5_ATOMIC_MASKED_FA;
        sim_atomic_operands(w.opcode, width, raw + 32, o);
        CHECK(o[0] == g->swap_add, "%s: %llx", g->name, (unsigned long long)o[0]);
        CHECK(o[1] == (adds ? g->swap_mask : g->compare), "%s: %llx", g->name, (unsigned long long)o[1]);
        CHECK(o[2] == (adds ? 0 : g->swap_mask) && o[3] == (adds ? 0 : g->compare_mask), "%s: masks",
              g->name);
    }
}

/* ---- posting ------------------------------------------------------------------------------------------------ */

static enum ibv_wr_opcode verb(unsigned opcode)
{
    switch (opcode) {
    case SHMEMX_MLX5_RDMA_WRITE_IMM:
        return IBV_WR_RDMA_WRITE_WITH_IMM;
    case SHMEMX_MLX5_SEND:
        return IBV_WR_SEND;
    case SHMEMX_MLX5_SEND_IMM:
        return IBV_WR_SEND_WITH_IMM;
    case SHMEMX_MLX5_RDMA_READ:
        return IBV_WR_RDMA_READ;
    case SHMEMX_MLX5_ATOMIC_CS:
        return IBV_WR_ATOMIC_CMP_AND_SWP;
    case SHMEMX_MLX5_ATOMIC_FA:
        return IBV_WR_ATOMIC_FETCH_AND_ADD;
    default:
        return IBV_WR_RDMA_WRITE;
    }
}

static struct ibv_send_wr request(const struct golden_wqe *g, struct ibv_sge *sge, unsigned char *inlined)
{
    size_t n = golden_bytes(g->inlined, inlined, GOLDEN_MOST);
    for (int s = 0; s < g->sges; s++)
        sge[s] = (struct ibv_sge){g->sge[s].address, g->sge[s].bytes, g->sge[s].lkey};
    if (g->flags & GOLDEN_INLINE)
        sge[0] = (struct ibv_sge){(uint64_t)(uintptr_t)inlined, (uint32_t)n, 0};
    struct ibv_send_wr wr = {.sg_list = sge,
                             .num_sge = g->flags & GOLDEN_INLINE ? 1 : g->sges,
                             .opcode = verb(g->opcode),
                             .imm_data = __builtin_bswap32(g->imm),
                             .send_flags = (g->flags & GOLDEN_SIGNALLED ? IBV_SEND_SIGNALED : 0u) |
                                           (g->flags & GOLDEN_FENCE ? IBV_SEND_FENCE : 0u) |
                                           (g->flags & GOLDEN_SOLICITED ? IBV_SEND_SOLICITED : 0u) |
                                           (g->flags & GOLDEN_INLINE ? IBV_SEND_INLINE : 0u)};
    if (g->opcode == SHMEMX_MLX5_ATOMIC_CS || g->opcode == SHMEMX_MLX5_ATOMIC_FA) {
        wr.wr.atomic.remote_addr = g->raddr;
        wr.wr.atomic.rkey = g->rkey;
        wr.wr.atomic.swap = g->swap_add;
        wr.wr.atomic.compare_add = g->opcode == SHMEMX_MLX5_ATOMIC_CS ? g->compare : g->swap_add;
    } else {
        wr.wr.rdma.remote_addr = g->raddr;
        wr.wr.rdma.rkey = g->rkey;
    }
    return wr;
}

/* Posts this one and those behind it that have no doorbell of their own, and looks at what there is. */
static void check_post(struct face_qp *qp, const struct golden_wqe *g)
{
    struct ibv_send_wr wr[8], *bad = NULL;
    struct ibv_sge sge[8][3];
    unsigned char inlined[8][GOLDEN_MOST], golden[GOLDEN_MOST];
    int n = 0;
    do {
        wr[n] = request(&g[n], sge[n], inlined[n]);
        if (n)
            wr[n - 1].next = &wr[n];
    } while (g[n++].record < 0);
    qp->head = (uint16_t)g->index;
    qp->tail = (uint16_t)g->index;
    memset(qp->sq, 0, (size_t)qp->blocks * SHMEMX_MLX5_BLOCK);
    int err = ibv_post_send(&qp->base, wr, &bad);
    CHECK(err == 0, "%s: %s", g->name, strerror(err));
    for (int i = 0; i < n; i++) {
        size_t bytes = golden_bytes(g[i].wqe, golden, sizeof golden),
               ring = (size_t)qp->blocks * SHMEMX_MLX5_BLOCK;
        for (size_t b = 0; b < bytes - golden_filling(&g[i]); b++) {
            unsigned char found = qp->sq[(g[i].index % qp->blocks * SHMEMX_MLX5_BLOCK + b) % ring];
            CHECK(found == golden[b], "%s: byte %zu is %02x, not %02x", g[i].name, b, found, golden[b]);
        }
    }
    const struct golden_wqe *last = &g[n - 1];
    unsigned record = __builtin_bswap32(qp->record[SHMEMX_MLX5_RECORD_SEND]);
    CHECK(record == (unsigned)last->record, "%s: record %04x, not %04x", last->name, record,
          (unsigned)last->record);
    unsigned char uar[8];
    (void)golden_bytes(last->uar, uar, sizeof uar);
    CHECK(memcmp(qp->qp->uar->page + SHMEMX_MLX5_UAR_SEND, uar, 8) == 0, "%s: the register", last->name);
}

/* ---- polling ------------------------------------------------------------------------------------------------- */

static void check_poll(struct face_cq *cq, struct face_qp *qp, const struct golden_cqe *g)
{
    struct ibv_wc wc = {0};
    unsigned char *at = cq->buffer + (size_t)(g->consumer % g->entries) * SHMEMX_MLX5_CQE;
    bool receives = strstr(g->name, "received") != NULL;
    (void)golden_bytes(g->cqe, at, SHMEMX_MLX5_CQE);
    cq->consumed = g->consumer;
    for (unsigned i = 0; i < qp->blocks; i++)
        qp->ids[i] = g->index;
    for (unsigned i = 0; i < qp->receives; i++)
        qp->receive_ids[i] = g->index;
    int n = ibv_poll_cq(&cq->base, 1, &wc);
    CHECK(n == g->polled, "%s: %d entries, not %d", g->name, n, g->polled);
    if (!g->polled)
        return;
    CHECK((int)wc.status == g->status, "%s: status %d, not %d", g->name, (int)wc.status, g->status);
    CHECK(wc.vendor_err == g->vendor_error, "%s: vendor's %02x, not %02x", g->name, wc.vendor_err,
          g->vendor_error);
    CHECK(wc.qp_num == g->qpn && wc.wr_id == g->index, "%s: queue pair %x, request %llx", g->name, wc.qp_num,
          (unsigned long long)wc.wr_id);
    CHECK((__builtin_bswap32(cq->record[SHMEMX_MLX5_RECORD_CQ]) & 0xffffff) == g->record,
          "%s: record %x, not %x", g->name, __builtin_bswap32(cq->record[SHMEMX_MLX5_RECORD_CQ]), g->record);
    if (g->status != 0)
        return;
    CHECK((int)wc.opcode == g->opcode, "%s: opcode %d, not %d", g->name, (int)wc.opcode, g->opcode);
    if (receives || g->byte_len)
        CHECK(wc.byte_len == g->byte_len, "%s: %u bytes, not %u", g->name, wc.byte_len, g->byte_len);
    bool imm = wc.wc_flags & IBV_WC_WITH_IMM;
    CHECK(imm == (g->imm != 0) && (!imm || __builtin_bswap32(wc.imm_data) == g->imm), "%s: immediate",
          g->name);
}

int main(void)
{
    unsetenv("SHMEM_SIM_FAULTS");
    unsigned char raw[GOLDEN_MOST];
    for (const struct golden_wqe *g = golden_wqes; g < golden_wqes + GOLDEN_WQES; g++)
        check_read(g, raw, golden_bytes(g->wqe, raw, sizeof raw));

    int count = 0;
    struct ibv_device **devices = ibv_get_device_list(&count);
    struct ibv_context *context = count ? ibv_open_device(devices[0]) : NULL;
    struct ibv_pd *pd = context ? ibv_alloc_pd(context) : NULL;
    struct ibv_cq *cq = pd ? ibv_create_cq(context, 15, NULL, NULL, 0) : NULL;
    struct ibv_qp_init_attr attr = {.send_cq = cq,
                                    .recv_cq = cq,
                                    .qp_type = IBV_QPT_RC,
                                    .cap = {.max_send_wr = 4,
                                            .max_recv_wr = 4,
                                            .max_send_sge = 3,
                                            .max_recv_sge = 1,
                                            .max_inline_data = 200}};
    struct ibv_qp *base = cq ? ibv_create_qp(pd, &attr) : NULL;
    CHECK(base != NULL, "no queue pair: %s", strerror(errno));
    if (!base)
        return check_done();
    struct face_qp *qp = (struct face_qp *)base;
    CHECK(qp->blocks == golden_wqes[0].depth, "%u blocks for the same attributes, rdma-core makes %u",
          qp->blocks, golden_wqes[0].depth);
    /* Both must name the queue pair alike, and the NIC must look at neither ring nor register. */
    struct sim_nic *nic = face_nic(context);
    sim_lock(nic);
    uint32_t own = base->qp_num;
    base->qp_num = GOLDEN_QPN;
    for (const struct golden_wqe *g = golden_wqes; g < golden_wqes + GOLDEN_WQES; g++)
        if (!(g->flags & GOLDEN_RAW) && (g == golden_wqes || g[-1].record >= 0))
            check_post(qp, g);
    for (const struct golden_cqe *g = golden_cqes; g < golden_cqes + GOLDEN_CQES; g++)
        check_poll((struct face_cq *)cq, qp, g);
    memset(qp->qp->uar->page + SHMEMX_MLX5_UAR_SEND, 0, 8);
    base->qp_num = own;
    sim_unlock(nic);
    CHECK(ibv_destroy_qp(base) == 0 && ibv_destroy_cq(cq) == 0 && ibv_dealloc_pd(pd) == 0 &&
              ibv_close_device(context) == 0,
          "closing");
    ibv_free_device_list(devices);
    return check_done();
}
