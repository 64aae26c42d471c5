/* The firmware commands of mlx5 NICs that libshmem sends through DevX (mlx5dv_devx_obj_create and the others), as field
 * tables: transport ibgda writes them, the software NIC (libshmem/sim) reads them. Facts from the public "programming
 * reference manual", as the Linux kernel's header mlx5_ifc.h has them.
 *
 * A command is a big-endian bit string: bit 0 is the highest bit of byte 0. A field is (offset, width) in bits; none
 * crosses a word of 32 bits but those of 64. X(NAME, offset, width). */
#ifndef SHMEMI_MLX5_PRM_H
#define SHMEMI_MLX5_PRM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum shmemi_prm_command {
    PRM_QUERY_HCA_CAP = 0x100,
    PRM_CREATE_CQ = 0x400,
    PRM_DESTROY_CQ = 0x401,
    PRM_QUERY_CQ = 0x402,
    PRM_CREATE_QP = 0x500,
    PRM_DESTROY_QP = 0x501,
    PRM_RST2INIT_QP = 0x502,
    PRM_INIT2RTR_QP = 0x503,
    PRM_RTR2RTS_QP = 0x504,
    PRM_RTS2RTS_QP = 0x505,
    PRM_2ERR_QP = 0x507,
    PRM_2RST_QP = 0x50a,
    PRM_QUERY_QP = 0x50b,
    PRM_INIT2INIT_QP = 0x50e,
};

/* What begins every command and every answer. */
#define SHMEMI_PRM_HEADER(X)                                                                                 \
    X(IN_OPCODE, 0x00, 16)                                                                                   \
    X(IN_UID, 0x10, 16)                                                                                      \
    X(IN_OP_MOD, 0x30, 16)                                                                                   \
    X(OUT_STATUS, 0x00, 8)                                                                                   \
    X(OUT_SYNDROME, 0x20, 32)                                                                                \
    X(IN_NUMBER, 0x48, 24)  /* the QP or CQ of every command that has one */                                 \
    X(OUT_NUMBER, 0x48, 24) /* that CREATE_QP or CREATE_CQ has made */                                       \
    X(IN_OPT_PARAM_MASK, 0x80, 32)
/* opt_param_mask of INIT2RTR and RTR2RTS: fields that are optional in that step */
enum {
    PRM_OPT_ALTERNATE = 1 << 0,
    PRM_OPT_RRE = 1 << 1,
    PRM_OPT_RAE = 1 << 2,
    PRM_OPT_RWE = 1 << 3,
    PRM_OPT_PKEY_INDEX = 1 << 4,
    PRM_OPT_Q_KEY = 1 << 5,
    PRM_OPT_RNR_TIMEOUT = 1 << 6,
};

/* Where contexts begin in their commands, in bits; QUERY_QP's and QUERY_CQ's answers have them at the same place. */
enum {
    PRM_QPC = 0xc0,         /* CREATE_QP, the steps of its state */
    PRM_QUERIED_QPC = 0xc0, /* the answer to QUERY_QP */
    PRM_CQC = 0x80,         /* CREATE_CQ, the answer to QUERY_CQ */
    PRM_CAPABILITY = 0x80,  /* the answer to QUERY_HCA_CAP */
};
/* Bytes of commands and answers. */
enum {
    PRM_CREATE_QP_IN = 0x880 / 8,
    PRM_CREATE_CQ_IN = 0x880 / 8,
    PRM_STEP_QP_IN = 0x880 / 8, /* RST2INIT, INIT2RTR, RTR2RTS */
    PRM_SHORT_IN = 0x80 / 8,    /* DESTROY_QP, DESTROY_CQ, 2ERR, 2RST, QUERY_QP, QUERY_CQ, QUERY_HCA_CAP */
    PRM_SHORT_OUT = 0x80 / 8,   /* answers but those of queries */
    PRM_QUERY_QP_OUT = 0x880 / 8,
    PRM_QUERY_CQ_OUT = 0x880 / 8,
    PRM_QUERY_HCA_CAP_OUT = (0x80 + 0x8000) / 8,
};

/* After the contexts. */
#define SHMEMI_PRM_MEMORY(X)                                                                                 \
    X(QP_UMEM_OFFSET, 0x800, 64) /* CREATE_QP: where the queues begin in that umem: receives, then sends */  \
    X(QP_UMEM_ID, 0x840, 32)                                                                                 \
    X(QP_UMEM_VALID, 0x860, 1)                                                                               \
    X(CQ_UMEM_OFFSET, 0x280, 64) /* CREATE_CQ */                                                             \
    X(CQ_UMEM_ID, 0x2c0, 32)                                                                                 \
    X(CQ_UMEM_VALID, 0x2e0, 1)

/* The queue pair's context, from PRM_QPC. */
#define SHMEMI_PRM_QPC(X)                                                                                    \
    X(QPC_STATE, 0x00, 4)                                                                                    \
    X(QPC_ST, 0x08, 8)                                                                                       \
    X(QPC_PM_STATE, 0x13, 2)                                                                                 \
    X(QPC_PD, 0x28, 24)                                                                                      \
    X(QPC_MTU, 0x40, 3)                                                                                      \
    X(QPC_LOG_MSG_MAX, 0x43, 5)                                                                              \
    X(QPC_LOG_RQ_SIZE, 0x49, 4)                                                                              \
    X(QPC_LOG_RQ_STRIDE, 0x4d, 3) /* bytes of a receive: 16 << this */                                       \
    X(QPC_NO_SQ, 0x50, 1)                                                                                    \
    X(QPC_LOG_SQ_SIZE, 0x51, 4) /* blocks */                                                                 \
    X(QPC_TS_FORMAT, 0x58, 2)                                                                                \
    X(QPC_RLKY, 0x5b, 1)                                                                                     \
    X(QPC_UAR_PAGE, 0x68, 24)                                                                                \
    X(QPC_USER_INDEX, 0x88, 24)                                                                              \
    X(QPC_LOG_PAGE_SIZE, 0xa3, 5)                                                                            \
    X(QPC_REMOTE_QPN, 0xa8, 24)                                                                              \
    X(QPC_PKEY_INDEX, 0xd0, 16) /* the address path: 0xc0 to 0x1ff */                                        \
    X(QPC_GRH, 0xe8, 1)                                                                                      \
    X(QPC_MLID, 0xe9, 7)                                                                                     \
    X(QPC_RLID, 0xf0, 16)                                                                                    \
    X(QPC_ACK_TIMEOUT, 0x100, 5)                                                                             \
    X(QPC_SRC_ADDR_INDEX, 0x108, 8)                                                                          \
    X(QPC_STAT_RATE, 0x114, 4)                                                                               \
    X(QPC_HOP_LIMIT, 0x118, 8)                                                                               \
    X(QPC_TCLASS, 0x124, 8)                                                                                  \
    X(QPC_FLOW_LABEL, 0x12c, 20)                                                                             \
    X(QPC_RGID_0, 0x140, 32)                                                                                 \
    X(QPC_RGID_1, 0x160, 32)                                                                                 \
    X(QPC_RGID_2, 0x180, 32)                                                                                 \
    X(QPC_RGID_3, 0x1a0, 32)                                                                                 \
    X(QPC_DSCP, 0x1ca, 6)                                                                                    \
    X(QPC_UDP_SPORT, 0x1d0, 16)                                                                              \
    X(QPC_ETH_PRIO, 0x1e1, 3)                                                                                \
    X(QPC_SL, 0x1e4, 4)                                                                                      \
    X(QPC_PORT, 0x1e8, 8)                                                                                    \
    X(QPC_RMAC_HIGH, 0x1f0, 16)                                                                              \
    X(QPC_RMAC_LOW, 0x200, 32)                                                                               \
    X(QPC_LOG_ACK_REQ_FREQ, 0x380, 4)                                                                        \
    X(QPC_LOG_SRA_MAX, 0x388, 3) /* reads and atomics under way, as requester */                             \
    X(QPC_RETRY_COUNT, 0x38d, 3)                                                                             \
    X(QPC_RNR_RETRY, 0x390, 3)                                                                               \
    X(QPC_FRE, 0x394, 1)                                                                                     \
    X(QPC_NEXT_SEND_PSN, 0x3c8, 24)                                                                          \
    X(QPC_CQN_SND, 0x3e8, 24)                                                                                \
    X(QPC_LAST_ACKED_PSN, 0x448, 24)                                                                         \
    X(QPC_LOG_RRA_MAX, 0x488, 3) /* as responder */                                                          \
    X(QPC_ATOMIC_MODE, 0x48c, 4)                                                                             \
    X(QPC_RRE, 0x490, 1)                                                                                     \
    X(QPC_RWE, 0x491, 1)                                                                                     \
    X(QPC_RAE, 0x492, 1)                                                                                     \
    X(QPC_PAGE_OFFSET, 0x494, 6)                                                                             \
    X(QPC_MIN_RNR_NAK, 0x4a3, 5)                                                                             \
    X(QPC_NEXT_RCV_PSN, 0x4a8, 24)                                                                           \
    X(QPC_CQN_RCV, 0x4e8, 24)                                                                                \
    X(QPC_DBR_ADDR, 0x500, 64) /* of the doorbell record: with dbr_umem_valid an offset in that umem */      \
    X(QPC_Q_KEY, 0x540, 32)                                                                                  \
    X(QPC_RQ_TYPE, 0x565, 3)                                                                                 \
    X(QPC_SRQN, 0x568, 24)                                                                                   \
    X(QPC_HW_SQ_COUNTER, 0x5a0, 16) /* blocks that the NIC has done */                                       \
    X(QPC_SW_SQ_COUNTER, 0x5b0, 16) /* blocks that it was told of */                                         \
    X(QPC_HW_RQ_COUNTER, 0x5c0, 32)                                                                          \
    X(QPC_SW_RQ_COUNTER, 0x5e0, 32)                                                                          \
    X(QPC_DBR_UMEM_VALID, 0x683, 1)                                                                          \
    X(QPC_DBR_UMEM_ID, 0x720, 32)
enum { PRM_ST_RC = 0, PRM_ST_UD = 2 };
enum { PRM_PM_MIGRATED = 3 };
enum { PRM_RQ_OF_ITS_OWN = 0, PRM_RQ_SRQ = 1, PRM_RQ_NONE = 3 };
enum { PRM_MTU_256 = 1, PRM_MTU_512, PRM_MTU_1024, PRM_MTU_2048, PRM_MTU_4096 };
enum { PRM_ATOMIC_IB = 1, PRM_ATOMIC_ONLY_8 = 2, PRM_ATOMIC_UP_TO_8 = 3 };
enum shmemi_prm_qp_state { PRM_QP_RST = 0, PRM_QP_INIT = 1, PRM_QP_RTR = 2, PRM_QP_RTS = 3, PRM_QP_ERR = 6 };

/* The completion queue's context, from PRM_CQC. */
#define SHMEMI_PRM_CQC(X)                                                                                    \
    X(CQC_STATUS, 0x00, 4)                                                                                   \
    X(CQC_DBR_UMEM_VALID, 0x06, 1)                                                                           \
    X(CQC_CQE_SIZE, 0x08, 3)       /* 0 = 64 bytes */                                                        \
    X(CQC_COLLAPSED, 0x0b, 1)      /* cc: all entries in place 0 */                                          \
    X(CQC_OVERRUN_IGNORE, 0x0e, 1) /* oi: no consumer index to respect */                                    \
    X(CQC_STATE, 0x14, 4)                                                                                    \
    X(CQC_DBR_UMEM_ID, 0x20, 32)                                                                             \
    X(CQC_PAGE_OFFSET, 0x54, 6)                                                                              \
    X(CQC_LOG_SIZE, 0x63, 5)                                                                                 \
    X(CQC_UAR_PAGE, 0x68, 24)                                                                                \
    X(CQC_EQN, 0xa0, 32)                                                                                     \
    X(CQC_LOG_PAGE_SIZE, 0xc3, 5)                                                                            \
    X(CQC_CONSUMER, 0x148, 24)                                                                               \
    X(CQC_PRODUCER, 0x168, 24)                                                                               \
    X(CQC_DBR_ADDR, 0x1c0, 64)
enum { PRM_CQ_OK = 0, PRM_CQ_OVERFLOW = 9, PRM_CQ_WRITE_FAILED = 10 }; /* CQC_STATUS */

/* QUERY_HCA_CAP: op_mod says which, and whether current or most; fields from PRM_CAPABILITY. */
enum { PRM_MOST = 0, PRM_CURRENT = 1, PRM_GENERAL = 0 << 1, PRM_ATOMICS = 3 << 1 }; /* or'ed */
#define SHMEMI_PRM_CAP(X)                                                                                    \
    X(CAP_LOG_MAX_QP_SIZE, 0x88, 8)                                                                          \
    X(CAP_LOG_MAX_QP, 0x9b, 5)                                                                               \
    X(CAP_LOG_MAX_CQ_SIZE, 0xc8, 8)                                                                          \
    X(CAP_LOG_MAX_CQ, 0xdb, 5)                                                                               \
    X(CAP_LOG_MAX_MKEY, 0xea, 6)                                                                             \
    X(CAP_LOG_MAX_RA_REQ, 0x14a, 6)                                                                          \
    X(CAP_LOG_MAX_RA_RES, 0x15a, 6)                                                                          \
    X(CAP_PORT_TYPE, 0x1b6, 2) /* 0 = InfiniBand, 1 = Ethernet */                                            \
    X(CAP_NUM_PORTS, 0x1b8, 8)                                                                               \
    X(CAP_LOG_MAX_MSG, 0x1c3, 5)                                                                             \
    X(CAP_CQE_VERSION, 0x1fc, 4)                                                                             \
    X(CAP_ROCE, 0x21d, 1)                                                                                    \
    X(CAP_ATOMIC, 0x21e, 1)                                                                                  \
    X(CAP_CQ_OI, 0x220, 1)                                                                                   \
    X(CAP_UAR_4K, 0x240, 1)                                                                                  \
    X(CAP_BF, 0x260, 1)                                                                                      \
    X(CAP_LOG_BF_REG_SIZE, 0x26b, 5)                                                                         \
    X(CAP_MAX_WQE_BYTES_SQ, 0x290, 16)                                                                       \
    X(CAP_LOG_MAX_PD, 0x32b, 5)                                                                              \
    X(CAP_SQ_TS_FORMAT, 0x440, 2)                                                                            \
    X(CAP_FREQUENCY_KHZ, 0x4e0, 32)                                                                          \
    X(ATOMIC_OPERATIONS, 0x90, 16) /* of PRM_ATOMICS: as below */                                            \
    X(ATOMIC_SIZE_QP, 0xb0, 16)    /* bytes, one bit each: 4 and 8 */
enum { PRM_ATOMIC_CS = 1, PRM_ATOMIC_FA = 2, PRM_ATOMIC_MASKED_CS = 4, PRM_ATOMIC_MASKED_FA = 8 };

/* OUT_STATUS */
#define SHMEMI_PRM_STATUS(X)                                                                                 \
    X(OK, 0x00, "no error")                                                                                  \
    X(INTERNAL, 0x01, "internal error")                                                                      \
    X(BAD_OPERATION, 0x02, "bad operation: a command that the device does not know")                         \
    X(BAD_PARAMETER, 0x03, "bad parameter")                                                                  \
    X(BAD_SYSTEM_STATE, 0x04, "bad system state")                                                            \
    X(BAD_RESOURCE, 0x05, "bad resource: no such object")                                                    \
    X(BUSY, 0x06, "resource busy")                                                                           \
    X(LIMIT, 0x08, "a limit is exceeded")                                                                    \
    X(BAD_STATE, 0x09, "the object's state does not allow it")                                               \
    X(BAD_INDEX, 0x0a, "bad index")                                                                          \
    X(NO_RESOURCES, 0x0f, "no resources")                                                                    \
    X(BAD_LENGTH, 0x50, "bad length of the command")                                                         \
    X(BAD_OUT_LENGTH, 0x51, "bad length of the answer")                                                      \
    X(BAD_QP_STATE, 0x10, "the queue pair's state does not allow it")                                        \
    X(BAD_PACKET, 0x30, "bad packet")                                                                        \
    X(BAD_SIZE, 0x40, "bad size")
enum shmemi_prm_status {
#define X(name, value, text) PRM_STATUS_##name = value,
    SHMEMI_PRM_STATUS(X)
#undef X
};
static inline const char *shmemi_prm_status_text(unsigned status)
{
    switch (status) {
#define X(name, value, text)                                                                                 \
    case value:                                                                                              \
        return text;
        SHMEMI_PRM_STATUS(X)
#undef X
    default:
        return "unknown status";
    }
}

/* A field: offset << 8 | width. */
enum shmemi_prm_field {
#define X(name, offset, width) PRM_##name = (offset) << 8 | (width),
    SHMEMI_PRM_HEADER(X) SHMEMI_PRM_MEMORY(X) SHMEMI_PRM_QPC(X) SHMEMI_PRM_CQC(X) SHMEMI_PRM_CAP(X)
#undef X
};

/* A field of a command. base: where what the field belongs to begins, in bits: 0, PRM_QPC, PRM_CQC, PRM_CAPABILITY. */
static inline uint64_t shmemi_prm_get(const void *command, unsigned base, enum shmemi_prm_field field)
{
    unsigned at = base + ((unsigned)field >> 8), width = (unsigned)field & 0xff;
    const unsigned char *p = (const unsigned char *)command + at / 32 * 4;
    uint64_t word = 0;
    for (unsigned i = 0; i < (width == 64 ? 8 : 4); ++i)
        word = word << 8 | p[i];
    return width == 64 ? word : word >> (32 - at % 32 - width) & (((uint64_t)1 << width) - 1);
}

/* Bits of `value` that the field does not have are dropped. */
static inline void shmemi_prm_set(void *command, unsigned base, enum shmemi_prm_field field, uint64_t value)
{
    unsigned at = base + ((unsigned)field >> 8), width = (unsigned)field & 0xff;
    unsigned char *p = (unsigned char *)command + at / 32 * 4;
    if (width < 64) {
        uint64_t mask = (((uint64_t)1 << width) - 1) << (32 - at % 32 - width), word = 0;
        for (unsigned i = 0; i < 4; ++i)
            word = word << 8 | p[i];
        value = (word & ~mask) | (value << (32 - at % 32 - width) & mask);
    }
    for (int i = width == 64 ? 7 : 3; i >= 0; --i, value >>= 8)
        p[i] = (unsigned char)value;
}

#endif
