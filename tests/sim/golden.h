/* Golden vectors: work queue entries, doorbells and completion entries as rdma-core's own mlx5 provider writes and reads
 * them, in golden.def. Whoever builds WQEs must give these bytes for these requests, whoever reads them must find
 * these requests. */
#ifndef TESTS_SIM_GOLDEN_H
#define TESTS_SIM_GOLDEN_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { GOLDEN_QPN = 0xa1b2, GOLDEN_MOST = 16 * 16 /* bytes of the longest WQE */ };

/* golden_wqe.flags */
enum {
    GOLDEN_SIGNALLED = 1,
    GOLDEN_FENCE = 2,
    GOLDEN_SOLICITED = 4,
    GOLDEN_INLINE = 8, /* the data is in the WQE: `inlined` */
    /* Posted by mlx5dv_wr_raw_wqe, since verbs have no such request: the segments behind the control segment are our
     * reading of the manual; index, number of the queue pair, place in the ring and doorbell are the provider's. */
    GOLDEN_RAW = 16
};

struct golden_sge {
    uint64_t address;
    uint32_t bytes, lkey;
};

/* Bytes are hexadecimal digits, spaces between segments. */
struct golden_wqe {
    const char *name;
    unsigned depth; /* blocks of the ring */
    unsigned index; /* of the WQE's first block, free-running, 16 bits */
    unsigned opcode, opmod, flags;
    uint64_t raddr;
    uint32_t rkey, imm;
    /* Atomics. A masked addition has its field boundary in swap_mask. */
    uint64_t swap_add, compare, swap_mask, compare_mask;
    int sges;
    struct golden_sge sge[3];
    const char *inlined;
    int record; /* the doorbell record's send word afterwards, -1 where a later WQE rings for this one as well */
    const char *uar; /* the 8 bytes of the doorbell, "" likewise */
    const char *wqe;
};

#define GOLDEN_SGES(n, ...)                                                                                  \
    n,                                                                                                       \
    {                                                                                                        \
        __VA_ARGS__                                                                                          \
    }
#define GOLDEN_WQE(name, depth, index, opcode, opmod, flags, raddr, rkey, imm, swap_add, compare, swap_mask, \
                   compare_mask, sges, inlined, record, uar, wqe)                                            \
    {#name,    depth,   index,     opcode,       opmod, flags,   raddr,  rkey, imm,                          \
     swap_add, compare, swap_mask, compare_mask, sges,  inlined, record, uar,  wqe},
#define GOLDEN_CQE(...)
static const struct golden_wqe golden_wqes[] = {
#include "golden.def"
};
#undef GOLDEN_WQE
#undef GOLDEN_CQE

/* A completion entry that lies at place `consumer` % `entries` of a queue of `entries`, and what ibv_poll_cq says. */
struct golden_cqe {
    const char *name;
    unsigned entries, consumer;
    const char *cqe;
    int polled; /* 1: an entry, 0: none yet */
    int status; /* enum ibv_wc_status */
    unsigned vendor_error;
    int opcode;        /* enum ibv_wc_opcode, -1 for errors */
    unsigned byte_len; /* 0 where the provider does not set it */
    uint32_t imm, qpn;
    unsigned index;  /* of the WQE's first block; of the receive */
    unsigned record; /* the queue's doorbell record afterwards: the consumer index */
};

#define GOLDEN_WQE(...)
#define GOLDEN_CQE(name, entries, consumer, cqe, polled, status, vendor, opcode, byte_len, imm, qpn, index,  \
                   record)                                                                                   \
    {#name, entries, consumer, cqe, polled, status, vendor, opcode, byte_len, imm, qpn, index, record},
static const struct golden_cqe golden_cqes[] = {
#include "golden.def"
};
#undef GOLDEN_WQE
#undef GOLDEN_CQE
#undef GOLDEN_SGES

enum {
    GOLDEN_WQES = sizeof golden_wqes / sizeof *golden_wqes,
    GOLDEN_CQES = sizeof golden_cqes / sizeof *golden_cqes
};

/* The bytes of `hex`, at most `room`; returns how many. */
static inline size_t golden_bytes(const char *hex, unsigned char *out, size_t room)
{
    static const char digits[] = "0123456789abcdef";
    size_t n = 0;
    for (; *hex && n < room; hex++) {
        if (*hex == ' ')
            continue;
        out[n++] =
            (unsigned char)((strchr(digits, hex[0]) - digits) << 4 | (strchr(digits, hex[1]) - digits));
        hex++;
    }
    return n;
}

/* How many bytes at the end of the WQE are filling behind inline data, which nobody reads. */
static inline size_t golden_filling(const struct golden_wqe *w)
{
    unsigned char inlined[GOLDEN_MOST];
    size_t n = golden_bytes(w->inlined, inlined, sizeof inlined);
    return w->flags & GOLDEN_INLINE ? (16 - (4 + n) % 16) % 16 : 0;
}

#endif
