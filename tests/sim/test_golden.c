/* include/device/mlx5.h against golden.def: WQEs put together from its structs and constants are those of rdma-core's
 * provider, byte by byte, and completion entries read through its structs say what the provider reads from them. */
#include <endian.h>

#include "check.h"
#include "device/mlx5.h"
#include "golden.h"

/* A request as a WQE; returns its bytes. `ring` takes nothing here: wrapping is the reader's affair. */
static size_t encode(const struct golden_wqe *w, unsigned char *out)
{
    unsigned char *at = out + sizeof(struct shmemx_mlx5_control);
    memset(out, 0, GOLDEN_MOST);
    bool remote =
        w->opcode != SHMEMX_MLX5_NOP && w->opcode != SHMEMX_MLX5_SEND && w->opcode != SHMEMX_MLX5_SEND_IMM;
    if (remote) {
        struct shmemx_mlx5_remote r = {htobe64(w->raddr), htobe32(w->rkey), 0};
        memcpy(at, &r, sizeof r);
        at += sizeof r;
    }
#define ADD(type, ...)                                                                                       \
    {                                                                                                        \
        struct type segment = {__VA_ARGS__};                                                                 \
        memcpy(at, &segment, sizeof segment);                                                                \
        at += sizeof segment;                                                                                \
    }
    bool four = w->opmod == SHMEMX_MLX5_OPMOD_4;
    if (w->opcode == SHMEMX_MLX5_ATOMIC_CS || w->opcode == SHMEMX_MLX5_ATOMIC_FA)
        ADD(shmemx_mlx5_atomic, htobe64(w->swap_add), htobe64(w->compare))
    else if (w->opcode == SHMEMX_MLX5_ATOMIC_MASKED_CS && four)
        ADD(shmemx_mlx5_masked_cs32, htobe32((uint32_t)w->swap_add), htobe32((uint32_t)w->compare),
            htobe32((uint32_t)w->swap_mask), htobe32((uint32_t)w->compare_mask))
    else if (w->opcode == SHMEMX_MLX5_ATOMIC_MASKED_CS)
        ADD(shmemx_mlx5_masked_cs64, htobe64(w->swap_add), htobe64(w->compare), htobe64(w->swap_mask),
            htobe64(w->compare_mask))
    else if (w->opcode == SHMEMX_MLX5_ATOMIC_MASKED_FA && four)
        ADD(shmemx_mlx5_masked_fa32, htobe32((uint32_t)w->swap_add), htobe32((uint32_t)w->swap_mask), {0})
    else if (w->opcode == SHMEMX_MLX5_ATOMIC_MASKED_FA)
        ADD(shmemx_mlx5_masked_fa64, htobe64(w->swap_add), htobe64(w->swap_mask))
    for (int s = 0; s < w->sges; s++)
        ADD(shmemx_mlx5_data, htobe32(w->sge[s].bytes), htobe32(w->sge[s].lkey), htobe64(w->sge[s].address))
    if (w->flags & GOLDEN_INLINE) {
        size_t n = golden_bytes(w->inlined, at + 4, GOLDEN_MOST);
        uint32_t head = htobe32((uint32_t)n | SHMEMX_MLX5_INLINE);
        memcpy(at, &head, 4);
        at += (4 + n + SHMEMX_MLX5_SEGMENT - 1) / SHMEMX_MLX5_SEGMENT * SHMEMX_MLX5_SEGMENT;
    }
#undef ADD
    size_t bytes = (size_t)(at - out);
    struct shmemx_mlx5_control c = {
        htobe32(w->opmod << 24 | w->index << 8 | w->opcode),
        htobe32(GOLDEN_QPN << 8 | (uint32_t)(bytes / SHMEMX_MLX5_SEGMENT)),
        0,
        {0},
        (unsigned char)((w->flags & GOLDEN_SIGNALLED ? SHMEMX_MLX5_CE_ALWAYS : SHMEMX_MLX5_CE_ERROR) |
                        (w->flags & GOLDEN_FENCE ? SHMEMX_MLX5_FENCE_STRONG : 0) |
                        (w->flags & GOLDEN_SOLICITED ? SHMEMX_MLX5_SOLICITED : 0)),
        htobe32(w->imm)};
    memcpy(out, &c, sizeof c);
    return bytes;
}

static void check_wqes(void)
{
    for (const struct golden_wqe *w = golden_wqes; w < golden_wqes + GOLDEN_WQES; w++) {
        unsigned char built[GOLDEN_MOST * 2], golden[GOLDEN_MOST], uar[8];
        size_t n = encode(w, built), want = golden_bytes(w->wqe, golden, sizeof golden);
        CHECK(n == want, "%s: %zu bytes, the provider writes %zu", w->name, n, want);
        for (size_t i = 0; i < n && i < want; i++)
            CHECK(built[i] == golden[i], "%s: byte %zu is %02x, the provider writes %02x", w->name, i,
                  built[i], golden[i]);
        if (w->record < 0)
            continue;
        unsigned blocks = (unsigned)((n + SHMEMX_MLX5_BLOCK - 1) / SHMEMX_MLX5_BLOCK);
        CHECK((unsigned)w->record == ((w->index + blocks) & 0xffff), "%s: record %x, index %x, %u blocks",
              w->name, (unsigned)w->record, w->index, blocks);
        /* The provider rings with the first 8 bytes of the last WQE: its own index and length, not the next one. */
        CHECK(golden_bytes(w->uar, uar, 8) == 8 && !memcmp(uar, golden, 8), "%s: doorbell %s", w->name,
              w->uar);
    }
}

static void check_cqes(void)
{
    for (const struct golden_cqe *c = golden_cqes; c < golden_cqes + GOLDEN_CQES; c++) {
        unsigned char bytes[sizeof(struct shmemx_mlx5_cqe)];
        struct shmemx_mlx5_cqe e;
        struct shmemx_mlx5_error_cqe bad;
        CHECK(golden_bytes(c->cqe, bytes, sizeof bytes) == sizeof e, "%s", c->name);
        memcpy(&e, bytes, sizeof e);
        memcpy(&bad, bytes, sizeof bad);
        unsigned opcode = e.op_own >> 4, owner = e.op_own & 1;
        bool there = opcode != SHMEMX_MLX5_CQE_INVALID && owner == ((c->consumer / c->entries) & 1);
        CHECK(there == (c->polled == 1), "%s: opcode %u, owner %u", c->name, opcode, owner);
        if (!there)
            continue;
        CHECK((be32toh(e.opcode_qpn) & 0xffffff) == c->qpn, "%s: %x", c->name, be32toh(e.opcode_qpn));
        CHECK((unsigned)(e.wqe_counter[0] << 8 | e.wqe_counter[1]) == c->index, "%s: counter", c->name);
        bool failed = opcode == SHMEMX_MLX5_CQE_REQUEST_ERROR || opcode == SHMEMX_MLX5_CQE_RECEIVE_ERROR;
        CHECK(failed == (c->status != 0), "%s: opcode %u, status %d", c->name, opcode, c->status);
        if (failed)
            CHECK(bad.vendor == c->vendor_error, "%s: vendor %x", c->name, bad.vendor);
        else if (c->byte_len)
            CHECK(be32toh(e.byte_count) == c->byte_len || c->opcode == 3 || c->opcode == 4, "%s", c->name);
        if (c->imm)
            CHECK(be32toh(e.imm) == c->imm, "%s: immediate %x", c->name, be32toh(e.imm));
    }
}

int main(void)
{
    check_wqes();
    check_cqes();
    return check_done();
}
