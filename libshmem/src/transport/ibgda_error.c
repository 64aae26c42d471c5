#include <stdio.h>

#include "device/mlx5.h"
#include "ibgda.h"

static const char *syndrome_text(unsigned syndrome)
{
    switch (syndrome) {
#define X(name, value, text)                                                                                 \
    case value:                                                                                              \
        return text;
        SHMEMX_MLX5_SYNDROMES(X)
#undef X
    default:
        return "unknown cause";
    }
}

static const char *opcode_text(unsigned opcode)
{
    switch (opcode) {
    case SHMEMX_MLX5_NOP:
        return "NOP";
    case SHMEMX_MLX5_RDMA_WRITE:
        return "RDMA write";
    case SHMEMX_MLX5_RDMA_WRITE_IMM:
        return "RDMA write with immediate";
    case SHMEMX_MLX5_RDMA_READ:
        return "RDMA read";
    case SHMEMX_MLX5_ATOMIC_CS:
        return "compare and swap";
    case SHMEMX_MLX5_ATOMIC_FA:
        return "fetch and add";
    case SHMEMX_MLX5_ATOMIC_MASKED_CS:
        return "masked compare and swap";
    case SHMEMX_MLX5_ATOMIC_MASKED_FA:
        return "masked fetch and add";
    default:
        return "request";
    }
}

static const char *advice(unsigned syndrome)
{
    switch (syndrome) {
    case SHMEMX_MLX5_SYNDROME_RETRY_EXCEEDED:
        return "it ended, or the link is down";
    case SHMEMX_MLX5_SYNDROME_REMOTE_ACCESS:
    case SHMEMX_MLX5_SYNDROME_REMOTE_INVALID_REQUEST:
    case SHMEMX_MLX5_SYNDROME_REMOTE_OPERATION:
        return "an address outside of its heap, a misaligned atomic, or it is ending";
    case SHMEMX_MLX5_SYNDROME_LOCAL_PROTECTION:
    case SHMEMX_MLX5_SYNDROME_LOCAL_LENGTH:
        return "a local address outside of the heap, or memory that was freed";
    case SHMEMX_MLX5_SYNDROME_FLUSHED:
        return "the cause was an earlier request's";
    default:
        return "see the kernel's log";
    }
}

int shmemi_ibgda_explain(const struct shmemx_device_error *e, char *text, size_t n)
{
    unsigned syndrome = (unsigned)(e->value & 0xff), vendor = (unsigned)(e->value >> 8 & 0xff);
    unsigned opcode = (unsigned)(e->value >> 16 & 0xff), entry = (unsigned)(e->value >> 24 & 0xff);
    if (entry != SHMEMX_MLX5_CQE_REQUEST_ERROR) {
        snprintf(
            text, n,
            "the NIC's completion entry has opcode %u, which no request of a kernel has; queue pair 0x%llx",
            entry, e->expected);
        return SHMEMX_ERR_SYSTEM;
    }
    snprintf(text, n,
             "%s (syndrome 0x%02x, vendor 0x%02x): %s at PE %d's address 0x%llx, block %llu of queue pair "
             "0x%llx; %s",
             syndrome_text(syndrome), syndrome, vendor, opcode_text(opcode), e->pe, e->address,
             e->value >> 32 & 0xffff, e->expected, advice(syndrome));
    return syndrome == SHMEMX_MLX5_SYNDROME_RETRY_EXCEEDED ? SHMEMX_ERR_PEER_DEAD : SHMEMX_ERR_SYSTEM;
}
