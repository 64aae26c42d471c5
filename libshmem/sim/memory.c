/* The bytes that keys name. Words of 8 bytes where they are aligned, so that an element that others look at arrives
 * whole, and in ascending order: who acquires a word sees those before it. */
#include "engine.h"

#include <infiniband/verbs.h>
#include <string.h>

/* Calls `word` for each aligned piece of 8, 4, 2 or 1 bytes of [at, at + n), in order. */
#define PIECES(at, n, X)                                                                                     \
    while (n) {                                                                                              \
        if (((at) & 7) == 0 && n >= 8) {                                                                     \
            X(uint64_t)                                                                                      \
        } else if (((at) & 3) == 0 && n >= 4) {                                                              \
            X(uint32_t)                                                                                      \
        } else if (((at) & 1) == 0 && n >= 2) {                                                              \
            X(uint16_t)                                                                                      \
        } else {                                                                                             \
            X(uint8_t)                                                                                       \
        }                                                                                                    \
    }

/* ThreadSanitizer does not see a NIC's accesses to memory, nor the order that other processes give them: a program that waits
 * for a peer before it writes again would be reported. */
#define DMA __attribute__((no_sanitize_thread))

DMA void sim_copy_out(void *to, const void *memory, size_t n)
{
    uintptr_t at = (uintptr_t)memory;
    unsigned char *out = to;
#define LOAD(type)                                                                                           \
    type v = __atomic_load_n((const type *)at, __ATOMIC_RELAXED);                                            \
    memcpy(out, &v, sizeof v);                                                                               \
    at += sizeof v;                                                                                          \
    out += sizeof v;                                                                                         \
    n -= sizeof v;
    PIECES(at, n, LOAD)
#undef LOAD
}

DMA void sim_copy_in(void *memory, const void *from, size_t n)
{
    uintptr_t at = (uintptr_t)memory;
    const unsigned char *in = from;
    /* release: whoever acquires this word sees the bytes that landed before it */
#define STORE(type)                                                                                          \
    type v;                                                                                                  \
    memcpy(&v, in, sizeof v);                                                                                \
    __atomic_store_n((type *)at, v, __ATOMIC_RELEASE);                                                       \
    at += sizeof v;                                                                                          \
    in += sizeof v;                                                                                          \
    n -= sizeof v;
    PIECES(at, n, STORE)
#undef STORE
}

bool sim_load(const struct sim_key *k, void *to, uint64_t address, size_t n)
{
    if (k->gpu)
        return sim_gpu_load(to, address, n);
    sim_copy_out(to, (const void *)(uintptr_t)address, n);
    return true;
}

bool sim_load_later(const struct sim_key *k, void *to, uint64_t address, size_t n)
{
    return k->gpu ? sim_gpu_load_later(to, address, n) : sim_load(k, to, address, n);
}

/* Relaxed ordering: no order among the lines of a packet; the last ones first shows who relies on one. */
enum { LINE = 64 };

bool sim_store(const struct sim_key *k, uint64_t address, const void *from, size_t n)
{
    if (k->gpu)
        return sim_gpu_store(address, from, n);
    char *to = (char *)(uintptr_t)address;
    sim_gpu_settle(); /* what came before lands before */
    if (k->access & IBV_ACCESS_RELAXED_ORDERING)
        for (; n > LINE; n -= (n - 1) % LINE + 1)
            sim_copy_in(to + n - ((n - 1) % LINE + 1), (const char *)from + n - ((n - 1) % LINE + 1),
                        (n - 1) % LINE + 1);
    sim_copy_in(to, from, n);
    return true;
}

DMA bool sim_replace(uint64_t address, unsigned bytes, uint64_t *old, uint64_t next)
{
    if (bytes == 8)
        return __atomic_compare_exchange_n((uint64_t *)(uintptr_t)address, old, next, false, __ATOMIC_ACQ_REL,
                                           __ATOMIC_ACQUIRE);
    uint32_t was = (uint32_t)*old;
    bool done = __atomic_compare_exchange_n((uint32_t *)(uintptr_t)address, &was, (uint32_t)next, false,
                                            __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
    *old = was;
    return done;
}
