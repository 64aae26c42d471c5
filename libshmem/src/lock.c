/* Locks: a ticket lock in the 64-bit word on PE 0: next ticket in the high half, ticket being served in the low half.
 * Fair, one atomic to ask and one to leave; its waiters look at a word on PE 0 (Mellor-Crummey and Scott, 1991, call it
 * the ticket lock). Halves wrap at 2^32 without touching each other: leaving adds 1 to the low half only. */
#include <stdatomic.h>

#include "base/wait.h"
#include "world.h"

_Static_assert(sizeof(long) == 8, "a lock word holds two 32-bit tickets");
static const uint64_t TICKET = (uint64_t)1 << 32;
enum { HOME = 0 };

static int locate(const char *call, long *lock, struct shmemi_place *p)
{
    SHMEMI_REQUIRE_INIT(call);
    if ((uintptr_t)lock % sizeof *lock)
        return shmemi_fail(SHMEMX_ERR_ADDRESS, call, "lock %p is not aligned to 8 bytes", (void *)lock);
    return shmemi_locate(call, "lock", lock, sizeof *lock, p);
}

static int amo(struct shmemi_place p, size_t size, int op, uint64_t value, uint64_t cond, void *old)
{
    struct shmemi_amo a = {.op = op, .size = size, .value = value, .cond = cond, .fetched = old};
    return shmemi_amo_route(HOME, p.segment)->amo(HOME, p.segment, p.offset, &a, SHMEMI_BLOCKING);
}

int shmemx_set_lock(long *lock)
{
    const char *call = "shmem_set_lock";
    struct shmemi_place p = {0};
    uint64_t word;
    int rc = locate(call, lock, &p);
    if (rc || (rc = amo(p, 8, SHMEMX_AMO_ADD, TICKET, 0, &word)) != 0)
        return rc;
    uint32_t mine = (uint32_t)(word >> 32);
    struct shmemi_wait w = SHMEMI_WAIT_FOR(call, -1, lock);
    while ((uint32_t)word != mine) {
        if ((rc = shmemi_wait_step(&w)) != 0 || (rc = amo(p, 8, SHMEMX_AMO_FETCH, 0, 0, &word)) != 0)
            return rc;
    }
    return SHMEMX_SUCCESS;
}

int shmemx_test_lock(long *lock, int *busy)
{
    const char *call = "shmem_test_lock";
    struct shmemi_place p = {0};
    uint64_t word, seen;
    *busy = 1;
    int rc = locate(call, lock, &p);
    if (rc || (rc = amo(p, 8, SHMEMX_AMO_FETCH, 0, 0, &word)) != 0)
        return rc;
    if ((uint32_t)(word >> 32) != (uint32_t)word)
        return SHMEMX_SUCCESS;
    rc = amo(p, 8, SHMEMX_AMO_COMPARE_SWAP, word + TICKET, word, &seen);
    *busy = rc != 0 || seen != word;
    return rc;
}

int shmemx_clear_lock(long *lock)
{
    const char *call = "shmem_clear_lock";
    struct shmemi_place p = {0};
    uint64_t word;
    int rc = locate(call, lock, &p);
    /* the next holder must find everything that this one put */
    if (rc || (rc = shmemx_quiet(SHMEM_CTX_DEFAULT)) != 0 ||
        (rc = amo(p, 8, SHMEMX_AMO_FETCH, 0, 0, &word)) != 0)
        return rc;
    if ((uint32_t)(word >> 32) == (uint32_t)word)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "lock %p is not held by anybody", (void *)lock);
    return amo(p, 4, SHMEMX_AMO_ADD, 1, 0,
               NULL); /* the low half is the word's first 4 bytes (little endian) */
}

void shmem_set_lock(long *lock)
{
    shmemi_void(shmemx_set_lock(lock));
}

void shmem_clear_lock(long *lock)
{
    shmemi_void(shmemx_clear_lock(lock));
}

int shmem_test_lock(long *lock)
{
    int busy;
    shmemi_void(shmemx_test_lock(lock, &busy));
    return busy;
}
