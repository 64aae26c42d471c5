/* Asks rdma-core's mlx5 provider for work queue entries, and shows it completion entries, on the device of
 * fake_uverbs.c; prints what it wrote and what it read as the lines of tests/sim/golden.def. golden.py runs it. */
#include <endian.h>
#include <errno.h>
#include <infiniband/mlx5dv.h>
#include <infiniband/verbs.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fake_uverbs.h"

enum { SIGNALLED = 1, FENCE = 2, SOLICITED = 4, INLINE = 8, RAW = 16 };
enum { BLOCK = 64, INLINE_MOST = 200 };

static struct ibv_cq *cq;
static struct ibv_qp *qp;
static unsigned next_block; /* the index of the next WQE, free-running */
static unsigned polled;     /* consumer index of the completion queue */

static void fail(const char *what)
{
    fprintf(stderr, "provider.c: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* ---- what the provider wrote ------------------------------------------------------------------------------- */

static void print_hex(const unsigned char *bytes, size_t n)
{
    printf("\"");
    for (size_t i = 0; i < n; i++)
        printf("%s%02x", i && i % 16 == 0 ? " " : "", bytes[i]);
    printf("\"");
}

static void clear_doorbells(void)
{
    for (int u = 0; u < fake_uverbs.uars; u++)
        memset(fake_uverbs.uar[u].pages, 0, fake_uverbs.uar[u].n);
}

/* The one doorbell that was rung, if one was. */
static const unsigned char *doorbell(void)
{
    const unsigned char *found = NULL;
    for (int u = 0; u < fake_uverbs.uars; u++)
        for (size_t i = 0; i < fake_uverbs.uar[u].n; i += 8)
            if (*(const uint64_t *)(fake_uverbs.uar[u].pages + i)) {
                if (found)
                    fail("two doorbells");
                found = fake_uverbs.uar[u].pages + i;
            }
    return found;
}

/* A request, in the words of golden.h. */
struct request {
    const char *name;
    unsigned opcode, opmod, flags;
    uint64_t raddr;
    uint32_t rkey, imm;
    uint64_t swap_add, compare, swap_mask, compare_mask;
    struct ibv_sge sge[3];
    int sges;
};

static void print_wqe(const struct request *r, bool rung)
{
    const unsigned char *bell = doorbell();
    if (rung != !!bell)
        fail("a doorbell too few or too many");
    printf("GOLDEN_WQE(%s, %u, 0x%04x, 0x%02x, %u, %u, 0x%llx, 0x%x, 0x%x, 0x%llx, 0x%llx, 0x%llx, 0x%llx,\n"
           "    GOLDEN_SGES(%d",
           r->name, fake_uverbs.depth, next_block, r->opcode, r->opmod, r->flags,
           (unsigned long long)r->raddr, r->rkey, r->imm, (unsigned long long)r->swap_add,
           (unsigned long long)r->compare, (unsigned long long)r->swap_mask,
           (unsigned long long)r->compare_mask, r->flags & INLINE ? 0 : r->sges);
    for (int s = 0; s < 3; s++) {
        const struct ibv_sge none = {0}, *e = r->flags & INLINE || s >= r->sges ? &none : &r->sge[s];
        printf(", {0x%llx, %u, 0x%x}", (unsigned long long)e->addr, e->length, e->lkey);
    }
    printf("),\n    ");
    unsigned char inlined[INLINE_MOST];
    size_t n = 0;
    for (int s = 0; r->flags & INLINE && s < r->sges; s++) {
        memcpy(inlined + n, (void *)(uintptr_t)r->sge[s].addr, r->sge[s].length);
        n += r->sge[s].length;
    }
    print_hex(inlined, n);
    unsigned ds = fake_uverbs.sq[next_block % fake_uverbs.depth * BLOCK + 7];
    unsigned blocks = (ds + 3) / 4;
    if (rung)
        printf(", 0x%04x, ", be32toh(fake_uverbs.record[1]));
    else
        printf(", -1, ");
    print_hex(bell, bell ? 8 : 0);
    printf(",\n    ");
    unsigned char wqe[16 * 63];
    for (unsigned b = 0; b < ds * 16; b++)
        wqe[b] = fake_uverbs.sq[(next_block % fake_uverbs.depth * BLOCK + b) % (fake_uverbs.depth * BLOCK)];
    print_hex(wqe, ds * 16);
    printf(")\n");
    next_block = (next_block + blocks) & 0xffff;
    clear_doorbells();
}

/* ---- completions ----------------------------------------------------------------------------------------------- */

/* An entry as a NIC would write it. Zeros where neither side looks. */
static struct mlx5_cqe64 entry(unsigned opcode, unsigned wqe_opcode, unsigned counter)
{
    struct mlx5_cqe64 e = {0};
    e.sop_drop_qpn = htobe32(wqe_opcode << 24 | FAKE_QPN);
    e.wqe_counter = htobe16((uint16_t)counter);
    e.op_own = (uint8_t)(opcode << 4 | ((polled / fake_uverbs.cqes) & 1));
    return e;
}

static int show(const struct mlx5_cqe64 *e, struct ibv_wc *wc)
{
    memcpy(fake_uverbs.cq + polled % fake_uverbs.cqes * BLOCK, e, sizeof *e);
    int n = ibv_poll_cq(cq, 1, wc);
    if (n < 0)
        fail("ibv_poll_cq");
    polled += (unsigned)n;
    return n;
}

/* Shows the entry, prints what came of it. Opcode and length mean nothing in a failed one. */
static void golden_cqe(const char *name, const struct mlx5_cqe64 *e)
{
    struct ibv_wc wc = {0};
    unsigned at = polled;
    int n = show(e, &wc);
    bool good = n && wc.status == IBV_WC_SUCCESS;
    printf("GOLDEN_CQE(%s, %u, %u, ", name, fake_uverbs.cqes, at);
    print_hex((const unsigned char *)e, sizeof *e);
    printf(",\n    %d, %d, 0x%02x, %d, %u, 0x%x, 0x%x, 0x%04x, 0x%06x)\n", n, (int)wc.status, wc.vendor_err,
           good ? (int)wc.opcode : -1, good ? wc.byte_len : 0,
           good && wc.wc_flags & IBV_WC_WITH_IMM ? be32toh(wc.imm_data) : 0, n ? wc.qp_num : 0,
           (unsigned)wc.wr_id, be32toh(fake_uverbs.cq_record[0]));
}

/* The queue is emptied by a completion of its last WQE. */
static void complete(unsigned first_block)
{
    struct ibv_wc wc;
    const struct mlx5_cqe64 e = entry(MLX5_CQE_REQ, MLX5_OPCODE_RDMA_WRITE, first_block);
    if (show(&e, &wc) != 1 || wc.status != IBV_WC_SUCCESS)
        fail("a completion is not taken");
}

/* ---- posting ---------------------------------------------------------------------------------------------------- */

static unsigned char pattern[INLINE_MOST];

static enum ibv_wr_opcode verb(unsigned opcode)
{
    switch (opcode) {
    case MLX5_OPCODE_RDMA_WRITE:
        return IBV_WR_RDMA_WRITE;
    case MLX5_OPCODE_RDMA_WRITE_IMM:
        return IBV_WR_RDMA_WRITE_WITH_IMM;
    case MLX5_OPCODE_SEND:
        return IBV_WR_SEND;
    case MLX5_OPCODE_SEND_IMM:
        return IBV_WR_SEND_WITH_IMM;
    case MLX5_OPCODE_RDMA_READ:
        return IBV_WR_RDMA_READ;
    case MLX5_OPCODE_ATOMIC_CS:
        return IBV_WR_ATOMIC_CMP_AND_SWP;
    case MLX5_OPCODE_ATOMIC_FA:
        return IBV_WR_ATOMIC_FETCH_AND_ADD;
    }
    fail("no such verb");
    return IBV_WR_SEND;
}

static struct ibv_send_wr work(struct request *r, unsigned block)
{
    struct ibv_send_wr wr = {.wr_id = block,
                             .sg_list = r->sge,
                             .num_sge = r->sges,
                             .opcode = verb(r->opcode),
                             .imm_data = htobe32(r->imm)};
    wr.send_flags = (r->flags & SIGNALLED ? IBV_SEND_SIGNALED : 0) | (r->flags & FENCE ? IBV_SEND_FENCE : 0) |
                    (r->flags & SOLICITED ? IBV_SEND_SOLICITED : 0) |
                    (r->flags & INLINE ? IBV_SEND_INLINE : 0);
    if (r->opcode == MLX5_OPCODE_ATOMIC_CS || r->opcode == MLX5_OPCODE_ATOMIC_FA) {
        wr.wr.atomic.remote_addr = r->raddr;
        wr.wr.atomic.rkey = r->rkey;
        wr.wr.atomic.compare_add = r->opcode == MLX5_OPCODE_ATOMIC_CS ? r->compare : r->swap_add;
        wr.wr.atomic.swap = r->swap_add;
    } else {
        wr.wr.rdma.remote_addr = r->raddr;
        wr.wr.rdma.rkey = r->rkey;
    }
    return wr;
}

/* What the provider leaves as it was (the end of inline data, the compare value of an addition) shall be zero. */
static void clear_ring(void)
{
    memset(fake_uverbs.sq, 0, (size_t)fake_uverbs.depth * BLOCK);
}

static void post_quietly(struct request *r)
{
    struct ibv_send_wr wr = work(r, next_block), *bad;
    clear_ring();
    errno = ibv_post_send(qp, &wr, &bad);
    if (errno)
        fail(r->name ? r->name : "filling");
}

static void post(struct request r)
{
    unsigned at = next_block;
    post_quietly(&r);
    print_wqe(&r, true);
    complete(at);
}

/* Writes without lines, until the next WQE has this index. */
static void advance(unsigned to)
{
    while (next_block != to) {
        struct request r = {
            .opcode = MLX5_OPCODE_RDMA_WRITE, .flags = SIGNALLED, .sges = 1, .sge = {{64, 8, 1}}};
        unsigned at = next_block;
        post_quietly(&r);
        next_block = (next_block + 1) & 0xffff;
        complete(at);
    }
    clear_doorbells();
}

/* Requests that share a doorbell. */
static void post_chain(struct request *r, int n)
{
    struct ibv_send_wr wr[4], *bad;
    unsigned last = 0;
    clear_ring();
    for (int i = 0; i < n; i++) {
        last = next_block + (unsigned)i; /* each has one block */
        wr[i] = work(&r[i], last);
        wr[i].next = i + 1 < n ? &wr[i + 1] : NULL;
    }
    errno = ibv_post_send(qp, wr, &bad);
    if (errno)
        fail("chain");
    unsigned char bell[8];
    unsigned char *rung = (unsigned char *)doorbell();
    if (!rung)
        fail("no doorbell");
    memcpy(bell, rung, 8);
    clear_doorbells();
    for (int i = 0; i < n; i++) {
        if (i + 1 == n)
            memcpy(rung, bell, 8);
        print_wqe(&r[i], i + 1 == n);
    }
    complete(last);
}

/* A WQE whose segments after the control segment are ours: the provider has no verb for it. Index, number of the
 * queue pair, place in the ring and doorbell are the provider's. */
static void post_raw(struct request r, const void *segments, unsigned n)
{
    unsigned char wqe[128] = {0};
    mlx5dv_set_ctrl_seg((struct mlx5_wqe_ctrl_seg *)wqe, 0, (uint8_t)r.opcode, (uint8_t)r.opmod, FAKE_QPN,
                        r.flags & SIGNALLED ? MLX5_WQE_CTRL_CQ_UPDATE : 0, (uint8_t)(1 + n / 16), 0, 0);
    memcpy(wqe + 16, segments, n);
    struct ibv_qp_ex *ex = ibv_qp_to_qp_ex(qp);
    unsigned at = next_block;
    clear_ring();
    ibv_wr_start(ex);
    ex->wr_id = at;
    ex->wr_flags = r.flags & SIGNALLED ? IBV_SEND_SIGNALED : 0;
    mlx5dv_wr_raw_wqe(mlx5dv_qp_ex_from_ibv_qp_ex(ex), wqe);
    errno = ibv_wr_complete(ex);
    if (errno)
        fail(r.name);
    r.flags |= RAW;
    print_wqe(&r, true);
    complete(at);
}

static void put64(unsigned char *to, uint64_t value)
{
    value = htobe64(value);
    memcpy(to, &value, 8);
}

static void put32(unsigned char *to, uint32_t value)
{
    value = htobe32(value);
    memcpy(to, &value, 4);
}

/* Masked atomics: values and masks as pairs; 4 bytes (opmod 8) in one segment, 8 bytes (opmod 9) compare and swap in
 * two. What is summed has the field boundary where there would be a mask. */
static void post_masked(const char *name, unsigned opcode, unsigned opmod, uint64_t swap_add,
                        uint64_t compare, uint64_t swap_mask, uint64_t compare_mask)
{
    struct request r = {name,
                        opcode,
                        opmod,
                        SIGNALLED,
                        0x7f11a0003000 + (opmod == 8 ? 4 : 8),
                        0x11aa22,
                        0,
                        swap_add,
                        compare,
                        swap_mask,
                        compare_mask,
                        {{0x7f22b0000100, opmod == 8 ? 4 : 8, 0x33bb44}},
                        1};
    unsigned char s[64] = {0}, *at = s + 16;
    put64(s, r.raddr);
    put32(s + 8, r.rkey);
    bool swap = opcode == MLX5_OPCODE_ATOMIC_MASKED_CS;
    if (opmod == 8) {
        put32(at, (uint32_t)swap_add);
        put32(at + 4, (uint32_t)(swap ? compare : swap_mask));
        put32(at + 8, swap ? (uint32_t)swap_mask : 0);
        put32(at + 12, swap ? (uint32_t)compare_mask : 0);
        at += 16;
    } else {
        put64(at, swap_add);
        put64(at + 8, swap ? compare : swap_mask);
        at += 16;
        if (swap) {
            put64(at, swap_mask);
            put64(at + 8, compare_mask);
            at += 16;
        }
    }
    mlx5dv_set_data_seg((struct mlx5_wqe_data_seg *)at, r.sge[0].length, r.sge[0].lkey, r.sge[0].addr);
    post_raw(r, s, (unsigned)(at + 16 - s));
}

/* ---- the lines --------------------------------------------------------------------------------------------------- */

#define FAR 0x7f11a0001000, 0x11aa22
static struct ibv_sge near_by(unsigned n)
{
    return (struct ibv_sge){0x7f22b0000000 + n, n, 0x33bb44};
}

static void post_inline(const char *name, unsigned opcode, unsigned flags, unsigned n)
{
    unsigned imm = opcode == MLX5_OPCODE_RDMA_WRITE_IMM ? 0x8badf00d : 0;
    struct request r = {name, opcode, 0, INLINE | flags, FAR, imm, 0, 0, 0, 0, {{(uintptr_t)pattern, n, 0}},
                        1};
    post(r);
}

/* A request with data segments of these lengths. */
static void post_data(const char *name, unsigned opcode, unsigned flags, unsigned imm, int n,
                      const unsigned *bytes)
{
    struct request r = {.name = name, .opcode = opcode, .flags = flags, .imm = imm, .sges = n};
    if (opcode != MLX5_OPCODE_SEND && opcode != MLX5_OPCODE_SEND_IMM)
        r = (struct request){name, opcode, 0, flags, FAR, imm, 0, 0, 0, 0, {{0}}, n};
    for (int s = 0; s < n; s++)
        r.sge[s] = near_by(bytes[s]);
    post(r);
}
#define LENGTHS(...)                                                                                         \
    (int)(sizeof((unsigned[]){__VA_ARGS__}) / sizeof(unsigned)), (const unsigned[])                          \
    {                                                                                                        \
        __VA_ARGS__                                                                                          \
    }
#define NOTHING 0, NULL

static void post_atomic(const char *name, unsigned opcode, unsigned flags, uint64_t swap_add,
                        uint64_t compare)
{
    post((struct request){
        name, opcode, 0, flags, 0x7f11a0002008, 0x11aa22, 0, swap_add, compare, 0, 0, {near_by(8)}, 1});
}

static void verbs_requests(void)
{
    enum { WRITE = MLX5_OPCODE_RDMA_WRITE, IMM = MLX5_OPCODE_RDMA_WRITE_IMM, READ = MLX5_OPCODE_RDMA_READ };
    post_data("write_one", WRITE, SIGNALLED, 0, LENGTHS(4096));
    post_data("write_two", WRITE, SIGNALLED, 0, LENGTHS(24, 4096));
    post_data("write_three", WRITE, SIGNALLED, 0, LENGTHS(8, 16, 1 << 20)); /* two blocks */
    post_data("write_none", WRITE, SIGNALLED, 0, NOTHING);
    post_data("write_unsignalled", WRITE, 0, 0, LENGTHS(64));
    post_data("write_fence", WRITE, SIGNALLED | FENCE, 0, LENGTHS(64));
    post_data("write_fence_unsignalled", WRITE, FENCE, 0, LENGTHS(64));
    post_data("write_imm", IMM, SIGNALLED | SOLICITED, 0x01020304, LENGTHS(128));
    post_data("write_imm_none", IMM, SIGNALLED, 0xfffefdfc, NOTHING);
    post_inline("write_imm_inline", IMM, SIGNALLED | SOLICITED, 16);
    post_data("read", READ, SIGNALLED, 0, LENGTHS(8192));
    post_data("read_two", READ, SIGNALLED | FENCE, 0, LENGTHS(8, 16));
    post_data("send", MLX5_OPCODE_SEND, SIGNALLED | SOLICITED, 0, LENGTHS(512));
    post_data("send_imm", MLX5_OPCODE_SEND_IMM, SIGNALLED, 7, LENGTHS(512));
    post_atomic("fetch_add", MLX5_OPCODE_ATOMIC_FA, SIGNALLED, 0x0102030405060708, 0);
    post_atomic("compare_swap", MLX5_OPCODE_ATOMIC_CS, SIGNALLED | FENCE, 0x1112131415161718,
                0x2122232425262728);
    post_inline("inline_1", WRITE, SIGNALLED, 1);
    post_inline("inline_8", WRITE, SIGNALLED, 8);
    post_inline("inline_12", WRITE, SIGNALLED, 12); /* fills the segment that begins with its length */
    post_inline("inline_13", WRITE, 0, 13);
    post_inline("inline_28", WRITE, SIGNALLED, 28); /* fills the block */
    post_inline("inline_29", WRITE, SIGNALLED, 29);
    post_inline("inline_92", WRITE, SIGNALLED, 92);
    post_inline("inline_200", WRITE, SIGNALLED | FENCE, 200);

    struct request chain[3] = {
        {"chain_1", WRITE, 0, 0, FAR, 0, 0, 0, 0, 0, {near_by(64)}, 1},
        {"chain_2", WRITE, 0, 0, FAR, 0, 0, 0, 0, 0, {near_by(128)}, 1},
        {"chain_3", MLX5_OPCODE_ATOMIC_FA, 0, SIGNALLED, FAR, 0, 1, 0, 0, 0, {near_by(8)}, 1}};
    post_chain(chain, 3);
}

static void ends_of_the_ring(void)
{
    unsigned lap = (next_block / fake_uverbs.depth + 1) * fake_uverbs.depth;
    advance(lap + fake_uverbs.depth - 1);
    post_inline("inline_wraps_1", MLX5_OPCODE_RDMA_WRITE, SIGNALLED,
                100); /* one block before the end, two after */
    advance(lap + 2 * fake_uverbs.depth - 2);
    post_inline("inline_wraps_2", MLX5_OPCODE_RDMA_WRITE, SIGNALLED, 100);
    advance(lap + 3 * fake_uverbs.depth - 1);
    post_data("gather_wraps", MLX5_OPCODE_RDMA_WRITE, SIGNALLED, 0, LENGTHS(8, 16, 32));
    advance(lap + 4 * fake_uverbs.depth - 1);
    post_masked("masked_swap_8_wraps", MLX5_OPCODE_ATOMIC_MASKED_CS, 9, 0x3132333435363738, 0, ~0ull, 0);
    advance(0xffff);
    post_data("index_ffff", MLX5_OPCODE_RDMA_WRITE, SIGNALLED, 0, LENGTHS(64));
    advance(0xfffe);
    post_inline("index_fffe_inline", MLX5_OPCODE_RDMA_WRITE, SIGNALLED, 100);
}

static void masked_requests(void)
{
    enum { CS = MLX5_OPCODE_ATOMIC_MASKED_CS, FA = MLX5_OPCODE_ATOMIC_MASKED_FA };
    post_masked("masked_swap_4", CS, 8, 0x31323334, 0, 0xffffffff, 0);
    post_masked("masked_compare_swap_4", CS, 8, 0x31323334, 0x41424344, 0xffffffff, 0xffffffff);
    post_masked("masked_or_4", CS, 8, 0x0f0f0000, 0, 0x0f0f0000, 0);
    post_masked("masked_swap_8", CS, 9, 0x3132333435363738, 0, ~0ull, 0);
    post_masked("masked_compare_swap_8", CS, 9, 0x3132333435363738, 0x4142434445464748, ~0ull, ~0ull);
    post_masked("masked_and_8", CS, 9, 0xff00ff00ff00ff00, 0, 0x00ff00ff00ff00ff, 0);
    post_masked("masked_add_4", FA, 8, 0x51525354, 0, 0, 0);
    post_masked("masked_xor_4", FA, 8, 0x51525354, 0, 0xffffffff, 0);
    post_masked("masked_add_8", FA, 9, 0x5152535455565758, 0, 0, 0);
    post_masked("masked_fields_8", FA, 9, 0x0001000100010001, 0, 0x8000800080008000, 0);
    post_masked("masked_xor_8", FA, 9, 0x5152535455565758, 0, ~0ull, 0);
    post_raw((struct request){.name = "nop", .opcode = MLX5_OPCODE_NOP, .flags = SIGNALLED}, "", 0);
    post_raw((struct request){.name = "nop_unsignalled", .opcode = MLX5_OPCODE_NOP}, "", 0);
}

/* One outstanding request, then the entry that a NIC would write for it. */
static struct mlx5_cqe64 answered(unsigned opcode, unsigned wqe_opcode)
{
    struct request r = {.opcode = wqe_opcode, .flags = SIGNALLED, .sges = 1, .sge = {{64, 8, 1}}};
    unsigned at = next_block;
    post_quietly(&r);
    next_block = (next_block + 1) & 0xffff;
    clear_doorbells();
    return entry(opcode, wqe_opcode, at);
}

static void completions(void)
{
    const unsigned opcodes[] = {MLX5_OPCODE_RDMA_WRITE, MLX5_OPCODE_RDMA_WRITE_IMM, MLX5_OPCODE_RDMA_READ,
                                MLX5_OPCODE_SEND,       MLX5_OPCODE_ATOMIC_CS,      MLX5_OPCODE_ATOMIC_FA};
    const char *const names[] = {"cqe_write", "cqe_write_imm",    "cqe_read",
                                 "cqe_send",  "cqe_compare_swap", "cqe_fetch_add"};
    for (size_t i = 0; i < sizeof opcodes / sizeof *opcodes; i++) {
        struct mlx5_cqe64 e = answered(MLX5_CQE_REQ, opcodes[i]);
        e.byte_cnt = htobe32(8);
        golden_cqe(names[i], &e);
    }
    const struct {
        const char *name;
        uint8_t syndrome, vendor;
    } errors[] = {
        {"cqe_local_length", 0x01, 0x68},     {"cqe_local_qp", 0x02, 0x00},
        {"cqe_local_protection", 0x04, 0x52}, {"cqe_flushed", 0x05, 0xf9},
        {"cqe_mw_bind", 0x06, 0x00},          {"cqe_bad_response", 0x10, 0x00},
        {"cqe_local_access", 0x11, 0x00},     {"cqe_remote_request", 0x12, 0x8a},
        {"cqe_remote_access", 0x13, 0x88},    {"cqe_remote_operation", 0x14, 0x89},
        {"cqe_retries", 0x15, 0x81},          {"cqe_rnr_retries", 0x16, 0x00},
        {"cqe_remote_aborted", 0x22, 0x00},
    };
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
        struct mlx5_cqe64 e = answered(MLX5_CQE_REQ_ERR, MLX5_OPCODE_RDMA_WRITE);
        struct mlx5_err_cqe *bad = (struct mlx5_err_cqe *)&e;
        bad->syndrome = errors[i].syndrome;
        bad->vendor_err_synd = errors[i].vendor;
        golden_cqe(errors[i].name, &e);
    }
    /* What is received: the next of the receive queue, with or without its immediate. */
    unsigned received = 0;
    const unsigned kinds[] = {MLX5_CQE_RESP_WR_IMM, MLX5_CQE_RESP_SEND, MLX5_CQE_RESP_SEND_IMM};
    const char *const receives[] = {"cqe_received_write_imm", "cqe_received_send", "cqe_received_send_imm"};
    for (size_t i = 0; i < 3; i++) {
        struct ibv_sge place = near_by(512);
        struct ibv_recv_wr wr = {.wr_id = received, .sg_list = &place, .num_sge = 1}, *bad;
        errno = ibv_post_recv(qp, &wr, &bad);
        if (errno)
            fail("ibv_post_recv");
        struct mlx5_cqe64 e = entry(kinds[i], 0, received++);
        e.byte_cnt = htobe32(96);
        if (kinds[i] != MLX5_CQE_RESP_SEND)
            e.imm_inval_pkey = htobe32(0x01020304);
        golden_cqe(receives[i], &e);
    }
    /* What is no entry yet: a buffer as it was laid out, and an entry of the lap before. */
    struct mlx5_cqe64 none;
    memset(&none, 0xff, sizeof none);
    golden_cqe("cqe_initial", &none);
    struct mlx5_cqe64 e = answered(MLX5_CQE_REQ, MLX5_OPCODE_RDMA_WRITE);
    e.op_own ^= 1;
    golden_cqe("cqe_lap_before", &e);
    e.op_own ^= 1;
    golden_cqe("cqe_this_lap", &e);
}

static void open_everything(void)
{
    struct ibv_device **devices = ibv_get_device_list(NULL);
    struct ibv_context *context = devices && *devices ? ibv_open_device(*devices) : NULL;
    struct ibv_pd *pd = context ? ibv_alloc_pd(context) : NULL;
    cq = pd ? ibv_create_cq(context, 15, NULL, NULL, 0) : NULL;
    if (!cq)
        fail("no device, or no completion queue on it");
    struct ibv_qp_init_attr_ex plain = {.send_cq = cq,
                                        .recv_cq = cq,
                                        .qp_type = IBV_QPT_RC,
                                        .cap = {.max_send_wr = 4,
                                                .max_recv_wr = 4,
                                                .max_send_sge = 3,
                                                .max_recv_sge = 1,
                                                .max_inline_data = INLINE_MOST},
                                        .comp_mask = IBV_QP_INIT_ATTR_PD | IBV_QP_INIT_ATTR_SEND_OPS_FLAGS,
                                        .pd = pd,
                                        .send_ops_flags = IBV_QP_EX_WITH_RDMA_WRITE};
    struct mlx5dv_qp_init_attr raw = {.comp_mask = MLX5DV_QP_INIT_ATTR_MASK_SEND_OPS_FLAGS,
                                      .send_ops_flags = MLX5DV_QP_EX_WITH_RAW_WQE};
    qp = mlx5dv_create_qp(context, &plain, &raw);
    if (!qp)
        fail("mlx5dv_create_qp");
    for (int state = IBV_QPS_INIT; state <= IBV_QPS_RTS; state++) {
        struct ibv_qp_attr attr = {.qp_state = (enum ibv_qp_state)state};
        errno = ibv_modify_qp(qp, &attr, IBV_QP_STATE);
        if (errno)
            fail("ibv_modify_qp");
    }
}

int main(void)
{
    setenv("MLX5_SHUT_UP_BF", "1", 1); /* doorbells of 8 bytes, no WQE written through the doorbell page */
    for (unsigned i = 0; i < INLINE_MOST; i++)
        pattern[i] = (unsigned char)(i + 1);
    open_everything();
    clear_doorbells();
    verbs_requests();
    masked_requests();
    ends_of_the_ring();
    completions();
    return 0;
}
