/* What the atomic opcodes compute. */
#include "engine.h"

unsigned sim_atomic_bytes(uint8_t opcode, uint8_t opmod)
{
    if (opcode == SHMEMX_MLX5_ATOMIC_CS || opcode == SHMEMX_MLX5_ATOMIC_FA)
        return opmod == 0 ? 8 : 0;
    return opmod == SHMEMX_MLX5_OPMOD_4 ? 4 : opmod == SHMEMX_MLX5_OPMOD_8 ? 8 : 0;
}

void sim_atomic_operands(uint8_t opcode, unsigned bytes, const unsigned char *segment, uint64_t operand[4])
{
    bool masked_cs = opcode == SHMEMX_MLX5_ATOMIC_MASKED_CS;
    for (unsigned i = 0; i < 4; ++i)
        operand[i] = i >= 2 && !masked_cs ? 0
                     : bytes == 4         ? sim_be32(segment + 4 * i)
                                          : sim_be64(segment + 8 * i);
}

/* Adds without carries out of the bits of `boundary`, the highest of each field. */
static uint64_t add_fields(uint64_t a, uint64_t b, uint64_t boundary)
{
    uint64_t low =
        (a & ~boundary) + (b & ~boundary); /* a carry into a boundary bit is its sum's third part */
    return low ^ ((a ^ b) & boundary);
}

uint64_t sim_atomic_apply(uint8_t opcode, unsigned bytes, uint64_t old, const uint64_t operand[4])
{
    uint64_t all = bytes == 4 ? 0xffffffffu : ~(uint64_t)0;
    switch (opcode) {
    case SHMEMX_MLX5_ATOMIC_CS:
        return old == operand[1] ? operand[0] : old;
    case SHMEMX_MLX5_ATOMIC_FA:
        return old + operand[0];
    case SHMEMX_MLX5_ATOMIC_MASKED_CS:
        return ((old ^ operand[1]) & operand[3]) ? old
                                                 : ((old & ~operand[2]) | (operand[0] & operand[2])) & all;
    default:
        return add_fields(old, operand[0], operand[1]) & all;
    }
}
