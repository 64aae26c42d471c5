/* Reading work queue elements. */
#include "engine.h"

#include <infiniband/verbs.h>
#include <string.h>

#include "transport/mlx5_prm.h"

uint32_t sim_be32(const void *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return __builtin_bswap32(v);
}

uint64_t sim_be64(const void *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return __builtin_bswap64(v);
}

void sim_put_be32(void *p, uint32_t v)
{
    v = __builtin_bswap32(v);
    memcpy(p, &v, sizeof v);
}

void sim_put_be64(void *p, uint64_t v)
{
    v = __builtin_bswap64(v);
    memcpy(p, &v, sizeof v);
}

/* ---- lists of data segments and inline data ------------------------------------------------------------ */

struct piece {
    const unsigned char *data; /* of inline data; NULL = memory */
    uint64_t address;
    uint32_t lkey, bytes;
    unsigned next; /* segment of the next one */
};

/* false = the list ends */
static bool piece_at(const unsigned char *list, unsigned segments, unsigned at, struct piece *p)
{
    if (at >= segments)
        return false;
    const unsigned char *s = list + (size_t)at * SHMEMX_MLX5_SEGMENT;
    uint32_t word = sim_be32(s);
    if (word & SHMEMX_MLX5_INLINE) {
        uint32_t n = word & ~SHMEMX_MLX5_INLINE;
        *p = (struct piece){.data = s + 4, .bytes = n, .next = at + (4 + n + 15) / 16};
        return true;
    }
    *p = (struct piece){.address = sim_be64(s + 8), .lkey = sim_be32(s + 4), .bytes = word, .next = at + 1};
    if (p->lkey == SHMEMX_MLX5_INVALID_LKEY && word == 0)
        return false;
    if (word == 0)
        p->bytes = 1u << 31;
    return true;
}

uint32_t sim_list_bytes(const unsigned char *list, unsigned segments)
{
    uint64_t sum = 0;
    struct piece p;
    for (unsigned at = 0; piece_at(list, segments, at, &p); at = p.next)
        sum += p.bytes;
    return sum > SHMEMX_MLX5_MOST_MESSAGE ? SHMEMX_MLX5_MOST_MESSAGE + 1u : (uint32_t)sum;
}

uint8_t sim_list_check(struct sim_nic *nic, const struct sim_qp *qp, const unsigned char *list,
                       unsigned segments, uint32_t access)
{
    struct piece p;
    for (unsigned at = 0; piece_at(list, segments, at, &p); at = p.next)
        if (!p.data && !sim_key_check(nic, p.lkey, qp->pd, p.address, p.bytes, access))
            return SHMEMX_MLX5_SYNDROME_LOCAL_PROTECTION;
    return 0;
}

static uint8_t move(struct sim_nic *nic, const struct sim_qp *qp, const unsigned char *list,
                    unsigned segments, struct sim_cursor *c, unsigned char *to, const unsigned char *from,
                    uint32_t n)
{
    struct piece p;
    while (n) {
        if (!piece_at(list, segments, c->segment, &p))
            return SHMEMX_MLX5_SYNDROME_LOCAL_LENGTH;
        uint32_t take = p.bytes - c->at < n ? p.bytes - c->at : n;
        if (p.data) {
            memcpy(to, p.data + c->at, take);
        } else if (take) {
            const struct sim_key *k = sim_key_check(nic, p.lkey, qp->pd, p.address + c->at, take,
                                                    from ? IBV_ACCESS_LOCAL_WRITE : 0);
            if (!k || !(from ? sim_store(k, p.address + c->at, from, take)
                             : sim_load(k, to, p.address + c->at, take)))
                return SHMEMX_MLX5_SYNDROME_LOCAL_PROTECTION;
        }
        to = to ? to + take : NULL;
        from = from ? from + take : NULL;
        n -= take;
        c->at += take;
        if (c->at == p.bytes)
            *c = (struct sim_cursor){p.next, 0};
    }
    return 0;
}

uint8_t sim_gather(struct sim_nic *nic, const struct sim_qp *qp, const unsigned char *list, unsigned segments,
                   struct sim_cursor *c, void *to, uint32_t n)
{
    return move(nic, qp, list, segments, c, to, NULL, n);
}

uint8_t sim_scatter(struct sim_nic *nic, const struct sim_qp *qp, const unsigned char *list,
                    unsigned segments, struct sim_cursor *c, const void *from, uint32_t n)
{
    return move(nic, qp, list, segments, c, NULL, from, n);
}

/* ---- the element --------------------------------------------------------------------------------------- */

/* Where the list begins, for an opcode with the right number of segments; 0 = it has not. */
static unsigned list_of(const struct sim_qp *qp, const struct sim_wqe *w)
{
    switch (w->opcode) {
    case SHMEMX_MLX5_NOP:
        return w->ds; /* what follows the control segment is not looked at */
    case SHMEMX_MLX5_RDMA_WRITE:
    case SHMEMX_MLX5_RDMA_WRITE_IMM:
    case SHMEMX_MLX5_RDMA_READ:
        return w->ds >= 2 ? 2 : 0;
    case SHMEMX_MLX5_SEND:
    case SHMEMX_MLX5_SEND_IMM:
        return qp->type == PRM_ST_UD ? (w->ds >= 4 ? 4 : 0) : 1;
    case SHMEMX_MLX5_DUMP:
        return 1;
    case SHMEMX_MLX5_WAIT:
        return w->ds == 2 ? 2 : 0;
    default: {
        unsigned n = w->opcode == SHMEMX_MLX5_ATOMIC_MASKED_CS && w->opmod == SHMEMX_MLX5_OPMOD_8 ? 4 : 3;
        return w->ds == n + 1 ? n : 0;
    }
    }
}

static bool is_atomic(uint8_t opcode)
{
    return opcode == SHMEMX_MLX5_ATOMIC_CS || opcode == SHMEMX_MLX5_ATOMIC_FA ||
           opcode == SHMEMX_MLX5_ATOMIC_MASKED_CS || opcode == SHMEMX_MLX5_ATOMIC_MASKED_FA;
}

static bool known(const struct sim_qp *qp, const struct sim_wqe *w)
{
    switch (w->opcode) {
    case SHMEMX_MLX5_NOP:
    case SHMEMX_MLX5_SEND:
    case SHMEMX_MLX5_SEND_IMM:
    case SHMEMX_MLX5_WAIT:
    case SHMEMX_MLX5_DUMP:
        return true;
    case SHMEMX_MLX5_RDMA_WRITE:
    case SHMEMX_MLX5_RDMA_WRITE_IMM:
    case SHMEMX_MLX5_RDMA_READ:
        return qp->type == PRM_ST_RC;
    default:
        return is_atomic(w->opcode) && qp->type == PRM_ST_RC;
    }
}

uint8_t sim_wqe_read(const struct sim_qp *qp, struct sim_wqe *w, uint16_t expected, const char **why)
{
    const uint8_t wrong = SHMEMX_MLX5_SYNDROME_LOCAL_QP_OPERATION;
    const unsigned char *raw = w->raw;
    uint32_t word = sim_be32(raw), qpn_ds = sim_be32(raw + 4);
    w->index = expected;
    w->opcode = (uint8_t)word;
    w->opmod = (uint8_t)(word >> 24);
    w->ds = qpn_ds & 0x3f;
    w->flags = raw[11];
    w->imm = sim_be32(raw + 12);
    *why = NULL;
    if ((uint16_t)(word >> 8) != expected)
        return *why = "its control segment has another index", wrong;
    if (qpn_ds >> 8 != qp->number)
        return *why = "its control segment has another queue pair", wrong;
    if (!known(qp, w))
        return *why = "no such opcode for this queue pair", wrong;
    if (w->ds == 0 || (qpn_ds & 0xc0) || (w->list = (uint8_t)list_of(qp, w)) == 0)
        return *why = "its opcode does not go with that number of segments (ds)", wrong;
    const unsigned char *list = raw + w->list * 16;
    unsigned segments = w->ds - w->list, end = 0;
    bool data_only =
        is_atomic(w->opcode) || w->opcode == SHMEMX_MLX5_RDMA_READ || w->opcode == SHMEMX_MLX5_DUMP;
    struct piece p;
    for (; w->opcode != SHMEMX_MLX5_NOP && piece_at(list, segments, end, &p); end = p.next)
        if (p.next > segments || (p.data && data_only))
            return *why = p.data && data_only ? "inline data where the NIC writes or only reads"
                                              : "inline data past the end of the element",
                   wrong;
    w->bytes = w->opcode == SHMEMX_MLX5_NOP ? 0 : sim_list_bytes(list, segments);
    if (w->opcode != SHMEMX_MLX5_NOP && w->opcode != SHMEMX_MLX5_WAIT && w->opcode != SHMEMX_MLX5_DUMP) {
        w->remote = qp->type == PRM_ST_RC;
        if (w->bytes > 1ull << qp->log_message)
            return *why = "the message is too long", SHMEMX_MLX5_SYNDROME_LOCAL_LENGTH;
    }
    if (w->remote && w->opcode != SHMEMX_MLX5_SEND && w->opcode != SHMEMX_MLX5_SEND_IMM) {
        w->address = sim_be64(raw + 16);
        w->rkey = sim_be32(raw + 24);
    }
    if (!is_atomic(w->opcode))
        return 0;
    unsigned operand = sim_atomic_bytes(w->opcode, w->opmod);
    if (operand == 0)
        return *why = "no such atomic (opmod)", wrong;
    if (w->bytes != operand)
        return *why = "an atomic's data segment has not the size of its operand",
               SHMEMX_MLX5_SYNDROME_LOCAL_LENGTH;
    return 0;
}
