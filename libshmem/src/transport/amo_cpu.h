/* Atomics by this machine's processors, and what each operation makes of a value: for every transport that executes them
 * with the CPU, be it the issuing PE's (shm) or the target's. Words that these touch must see no other kind of atomic. */
#ifndef SHMEMI_AMO_CPU_H
#define SHMEMI_AMO_CPU_H

#include <stdatomic.h>
#include <string.h>

#include "shmemx.h"
#include "transport.h"

/* Sequentially consistent: atomics of one PE are seen by all in the order it issued them, which is more than
 * OpenSHMEM asks and costs nothing on x86. Fetching loads and sets need only be indivisible. */
#define SHMEMI_AMO_CPU(BITS)                                                                                 \
    static inline uint64_t shmemi_amo_cpu_##BITS(_Atomic uint##BITS##_t *p, const struct shmemi_amo *a)      \
    {                                                                                                        \
        uint##BITS##_t v = (uint##BITS##_t)a->value, c = (uint##BITS##_t)a->cond;                            \
        switch (a->op) {                                                                                     \
        case SHMEMX_AMO_FETCH:                                                                               \
            return atomic_load_explicit(p, memory_order_acquire);                                            \
        case SHMEMX_AMO_SET:                                                                                 \
            if (!a->fetched) {                                                                               \
                atomic_store_explicit(p, v, memory_order_release);                                           \
                return 0;                                                                                    \
            }                                                                                                \
            return atomic_exchange(p, v);                                                                    \
        case SHMEMX_AMO_SWAP:                                                                                \
            return atomic_exchange(p, v);                                                                    \
        case SHMEMX_AMO_COMPARE_SWAP:                                                                        \
            atomic_compare_exchange_strong(p, &c, v);                                                        \
            return c;                                                                                        \
        case SHMEMX_AMO_ADD:                                                                                 \
            return atomic_fetch_add(p, v);                                                                   \
        case SHMEMX_AMO_AND:                                                                                 \
            return atomic_fetch_and(p, v);                                                                   \
        case SHMEMX_AMO_OR:                                                                                  \
            return atomic_fetch_or(p, v);                                                                    \
        default:                                                                                             \
            return atomic_fetch_xor(p, v);                                                                   \
        }                                                                                                    \
    }
SHMEMI_AMO_CPU(32)
SHMEMI_AMO_CPU(64)
#undef SHMEMI_AMO_CPU

/* Executes it on the word at p; the old value goes to a->fetched, if that is wanted. */
static inline void shmemi_amo_cpu(void *p, const struct shmemi_amo *a)
{
    uint64_t old = a->size == 8 ? shmemi_amo_cpu_64(p, a) : shmemi_amo_cpu_32(p, a);
    if (a->fetched)
        memcpy(a->fetched, &old, a->size); /* little-endian: its bits are the low ones */
}

#endif
