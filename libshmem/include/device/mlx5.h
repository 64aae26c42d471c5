/* The work queue format of mlx5 NICs: what a program writes (work queue elements, doorbell record, UAR), and what the
 * NIC writes back (completion queue entries). Shared by the kernels that post to a NIC themselves (device/ibgda.h), and
 * by the software NIC (libshmem/sim). Facts from NVIDIA's public "ethernet adapters programming manual" and the
 * header of libmlx5.
 *
 * Plain C with fixed widths and no includes, since NVRTC has no standard headers. All fields of more than one byte are
 * big-endian, whatever the processor; values that are not are said to be. No struct has padding.
 *
 * Send queue: a ring of 2^n blocks of 64 bytes. A WQE is a control segment and what its opcode asks for, in units of
 * 16 bytes (ds); it takes ceil(ds / 4) blocks, and goes on at the ring's start where it passes its end. Blocks are
 * numbered by a free-running 16-bit counter, block i lies at i modulo the ring's size. WQE by opcode:
 *   NOP                    control
 *   RDMA_WRITE, WRITE_IMM  control, remote address, data segments or inline data
 *   SEND, SEND_IMM         control, data segments or inline data
 *   RDMA_READ              control, remote address, data segments
 *   ATOMIC_CS, ATOMIC_FA   control, remote address, atomic, data segment of 8 bytes
 *   ATOMIC_MASKED_CS       control, remote address, masked_cs32, data segment of 4 bytes
 *                          or masked_cs64, which makes it 2 blocks, data segment of 8 bytes
 *   ATOMIC_MASKED_FA       control, remote address, masked_fa32 or masked_fa64, data segment of 4 or 8 bytes
 *   DUMP                   control, data segments: their bytes are read, and go nowhere
 *   WAIT                   control, wait: later WQEs begin when that CQ has that many entries
 * Announcing WQEs: write them, fence, doorbell record [SEND] = number of the block after the last one, fence, then one
 * store of 8 bytes to the UAR's register. The fences must reach who reads: a NIC on PCIe, or the CPU's threads.
 */
#ifndef SHMEM_DEVICE_MLX5_H
#define SHMEM_DEVICE_MLX5_H

enum {
    SHMEMX_MLX5_BLOCK = 64,   /* bytes of a block of the send queue */
    SHMEMX_MLX5_SEGMENT = 16, /* bytes of a segment, the unit of ds */
    SHMEMX_MLX5_MOST_DS = 63, /* what the 6 bits of ds hold */
    SHMEMX_MLX5_CQE = 64,     /* bytes of a completion queue entry */
    /* A UAR page: the send doorbell's register (BlueFlame: `reg_addr` of mlx5dv_devx_uar points here), and the CQs'. */
    SHMEMX_MLX5_UAR_BYTES = 4096,
    SHMEMX_MLX5_UAR_SEND = 0x800,
    SHMEMX_MLX5_UAR_CQ = 0x20,
    /* Words of a doorbell record. For a CQ: consumer index, and what arms it. */
    SHMEMX_MLX5_RECORD_RECEIVE = 0,
    SHMEMX_MLX5_RECORD_SEND = 1,
    SHMEMX_MLX5_RECORD_CQ = 0,
    SHMEMX_MLX5_RECORD_CQ_ARM = 1,
    SHMEMX_MLX5_MOST_MESSAGE = 1 << 30 /* bytes of one WQE's transfer */
};

enum shmemx_mlx5_opcode {
    SHMEMX_MLX5_NOP = 0x00,
    SHMEMX_MLX5_RDMA_WRITE = 0x08,
    SHMEMX_MLX5_RDMA_WRITE_IMM = 0x09,
    SHMEMX_MLX5_SEND = 0x0a,
    SHMEMX_MLX5_SEND_IMM = 0x0b,
    SHMEMX_MLX5_WAIT = 0x0f,
    SHMEMX_MLX5_RDMA_READ = 0x10,
    SHMEMX_MLX5_ATOMIC_CS = 0x11,
    SHMEMX_MLX5_ATOMIC_FA = 0x12,
    SHMEMX_MLX5_ATOMIC_MASKED_CS = 0x14,
    SHMEMX_MLX5_ATOMIC_MASKED_FA = 0x15,
    SHMEMX_MLX5_DUMP = 0x23
};

/* shmemx_mlx5_control.fm_ce_se */
enum {
    SHMEMX_MLX5_CE_ERROR = 0x00,     /* an entry in the CQ for an error only */
    SHMEMX_MLX5_CE_ALWAYS = 0x08,    /* always one */
    SHMEMX_MLX5_SOLICITED = 0x02,    /* wakes who waits for events of the receiver's CQ */
    SHMEMX_MLX5_FENCE_SMALL = 0x20,  /* begins when the reads and atomics before it are done */
    SHMEMX_MLX5_FENCE_STRONG = 0x80, /* the same, and local changes of keys */
    SHMEMX_MLX5_FENCE_MASK = 0xe0
};

/* opmod of masked atomics: operands of 4 or 8 bytes */
enum { SHMEMX_MLX5_OPMOD_4 = 0x08, SHMEMX_MLX5_OPMOD_8 = 0x09 };

#define SHMEMX_MLX5_INLINE 0x80000000u       /* with the length, in the first 4 bytes of inline data */
#define SHMEMX_MLX5_INVALID_LKEY 0x00000100u /* a data segment with it ends the list */

struct shmemx_mlx5_control {
    unsigned opmod_index_opcode; /* opmod << 24 | number of the WQE's first block << 8 | opcode */
    unsigned qpn_ds;             /* queue pair's number << 8 | ds */
    unsigned char signature, reserved[2], fm_ce_se;
    unsigned imm; /* as it shall arrive; the general identifier of other opcodes */
};

struct shmemx_mlx5_remote {
    unsigned long long address;
    unsigned rkey, reserved;
};

struct shmemx_mlx5_data {
    unsigned bytes, lkey; /* bytes 0 means 2^31 */
    unsigned long long address;
};

struct shmemx_mlx5_atomic {
    unsigned long long swap_add, compare;
};

/* Where (value & compare_mask) == (compare & compare_mask), the bits of swap_mask become swap's. */
struct shmemx_mlx5_masked_cs32 {
    unsigned swap, compare, swap_mask, compare_mask;
};
struct shmemx_mlx5_masked_cs64 {
    unsigned long long swap, compare, swap_mask, compare_mask;
};
/* Adds; no carry leaves a bit that is set in `boundary`: 0 = one field, all ones = exclusive or. */
struct shmemx_mlx5_masked_fa32 {
    unsigned add, boundary, reserved[2];
};
struct shmemx_mlx5_masked_fa64 {
    unsigned long long add, boundary;
};

struct shmemx_mlx5_wait {
    unsigned reserved[2];
    unsigned count; /* entries that the CQ has had, modulo 2^32 */
    unsigned cqn;
};

/* The address segment of an unreliable datagram, 48 bytes, after the control segment of SEND. */
struct shmemx_mlx5_av {
    unsigned qkey, reserved;
    unsigned qpn; /* with bit 31 set: the rest is here too */
    unsigned char rate_sl, mlid;
    unsigned char lid[2]; /* RoCE: UDP's source port */
    unsigned reserved2;
    unsigned char mac[6], tclass, hop_limit;
    unsigned grh_gid_flow;
    unsigned char gid[16];
};

/* shmemx_mlx5_cqe.op_own: opcode << 4 | what is solicited << 1 | owner */
enum shmemx_mlx5_cqe_opcode {
    SHMEMX_MLX5_CQE_REQUEST = 0,        /* a WQE of the send queue is done */
    SHMEMX_MLX5_CQE_WRITE_IMM = 1,      /* received */
    SHMEMX_MLX5_CQE_SEND = 2,           /* received */
    SHMEMX_MLX5_CQE_SEND_IMM = 3,       /* received */
    SHMEMX_MLX5_CQE_REQUEST_ERROR = 13, /* shmemx_mlx5_error_cqe */
    SHMEMX_MLX5_CQE_RECEIVE_ERROR = 14, /* shmemx_mlx5_error_cqe */
    SHMEMX_MLX5_CQE_INVALID = 15        /* nothing yet */
};

/* A ring CQ of 2^n entries: entry i lies at i modulo 2^n and is there when its owner bit is (i >> n) & 1 and its
 * opcode is not INVALID. A collapsed CQ has one place, which each entry overwrites. The buffer is 0xff at first, by
 * its owner. The NIC writes bytes 60 to 63 last, by one store with release. wqe_counter is the number of the WQE's
 * first block. */
struct shmemx_mlx5_cqe {
    unsigned char reserved[32];
    unsigned srqn_uidx;
    unsigned imm;
    unsigned app;
    unsigned byte_count;
    unsigned char timestamp[8];
    unsigned opcode_qpn; /* the WQE's opcode << 24 | queue pair's number */
    unsigned char wqe_counter[2], signature, op_own;
};

struct shmemx_mlx5_error_cqe {
    unsigned char reserved[32];
    unsigned srqn;
    unsigned char reserved2[18], vendor, syndrome;
    unsigned opcode_qpn;
    unsigned char wqe_counter[2], signature, op_own;
};

/* The causes of errors: X(NAME, value, "text"). */
#define SHMEMX_MLX5_SYNDROMES(X)                                                                             \
    X(LOCAL_LENGTH, 0x01, "local length error")                                                              \
    X(LOCAL_QP_OPERATION, 0x02, "local QP operation error")                                                  \
    X(LOCAL_PROTECTION, 0x04, "local protection error: a local key that does not cover the address")         \
    X(FLUSHED, 0x05, "flushed: an earlier work request of this queue pair has failed")                       \
    X(MEMORY_WINDOW, 0x06, "memory window bind error")                                                       \
    X(BAD_RESPONSE, 0x10, "bad response")                                                                    \
    X(LOCAL_ACCESS, 0x11, "local access error")                                                              \
    X(REMOTE_INVALID_REQUEST, 0x12, "remote invalid request error: misaligned, too long, or not enabled")    \
    X(REMOTE_ACCESS, 0x13,                                                                                   \
      "remote access error: a remote key that does not cover the address, or forbids it")                    \
    X(REMOTE_OPERATION, 0x14, "remote operation error")                                                      \
    X(RETRY_EXCEEDED, 0x15, "retries exceeded: the peer does not answer")                                    \
    X(RNR_EXCEEDED, 0x16, "retries exceeded: the peer has no receive posted")                                \
    X(REMOTE_ABORTED, 0x22, "remote aborted error")
enum shmemx_mlx5_syndrome {
#define X(name, value, text) SHMEMX_MLX5_SYNDROME_##name = value,
    SHMEMX_MLX5_SYNDROMES(X)
#undef X
        SHMEMX_MLX5_SYNDROME_NONE = 0
};

/* error_cqe.vendor; measured on ConnectX-6, firmware 20.43, by others. The rest of these bytes is the firmware's. */
enum {
    SHMEMX_MLX5_VENDOR_FLUSHED = 0xf9,
    SHMEMX_MLX5_VENDOR_REMOTE_ACCESS = 0x88,
    SHMEMX_MLX5_VENDOR_MISALIGNED_ATOMIC = 0x8a
};

#endif
