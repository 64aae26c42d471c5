/* Locks: one PE at a time, each in its turn, several locks apart from one another. */
#include "pes.h"

enum { TURNS = 200, LOCKS = 5 };

static long *locks; /* LOCKS of them */
static long *counter, *inside, *grants;

/* Read, dawdle, write back: the sum is exact only if nobody else was between. */
static void test_exclusion(void)
{
    for (int i = 0; i < TURNS; i++) {
        long *lock = locks + i % LOCKS, *sum = counter + i % LOCKS, *here = inside + i % LOCKS;
        shmem_set_lock(lock);
        CHECK(shmem_long_atomic_fetch_inc(here, 0) == 0, "turn %d: somebody else has the lock", i);
        long value = shmem_long_g(sum, npes - 1);
        if (i % 16 == 0)
            dawdle();
        shmem_long_p(sum, value + 1, npes - 1); /* complete when the lock is given up */
        CHECK(shmem_long_atomic_fetch_add(here, -1, 0) == 1, "turn %d: somebody came in", i);
        shmem_clear_lock(lock);
    }
    shmem_barrier_all();
    for (int k = 0; k < LOCKS; k++) {
        long total = shmem_long_g(counter + k, npes - 1), want = (long)TURNS / LOCKS * npes;
        CHECK(total == want, "lock %d: %ld increments of %ld survived", k, total, want);
    }
    shmem_barrier_all();
}

static void test_try(void)
{
    int busy = -1;
    for (int owner = 0; owner < npes; owner++) {
        if (me == owner)
            CHECK(shmem_test_lock(locks) == 0, "a free lock is not given");
        shmem_barrier_all();
        if (me != owner)
            CHECK(shmem_test_lock(locks) == 1, "PE %d has it, and I got it too", owner);
        shmem_barrier_all();
        if (me == owner)
            shmem_clear_lock(locks);
        shmem_barrier_all();
    }
    /* by test alone, all at once */
    shmem_barrier_all();
    memset(counter, 0, sizeof *counter);
    shmem_barrier_all();
    for (int i = 0; i < TURNS / 4; i++) {
        while (shmemx_test_lock(locks, &busy) == 0 && busy)
            sched_yield();
        shmem_long_p(counter, shmem_long_g(counter, 0) + 1, 0);
        CHECK(shmemx_clear_lock(locks) == 0, "%s", shmemx_last_error());
    }
    shmem_barrier_all();
    CHECK(me != 0 || *counter == (long)TURNS / 4 * npes, "%ld increments by test_lock", *counter);
}

/* FIFO: between asking and getting, the others get at most one turn each (and what came before the asking was
 * seen, hence the margin). A lock that starves somebody fails by far. */
static void test_fairness(void)
{
    long late = 0;
    shmem_barrier_all();
    for (int i = 0; i < TURNS; i++) {
        long asked = shmem_long_atomic_fetch(grants, 0);
        shmem_set_lock(locks + 1);
        late += shmem_long_atomic_fetch_inc(grants, 0) - asked > 2L * npes;
        shmem_clear_lock(locks + 1);
    }
    CHECK(late <= TURNS / 5, "%ld of %d times more than %d turns of others passed before mine", late, TURNS,
          2 * npes);
    shmem_barrier_all();
    CHECK(me != 0 || *grants == (long)TURNS * npes, "%ld turns", *grants);
}

/* The holder's puts are visible to the next holder. */
static void test_handover(void)
{
    enum { WORDS = 64 };
    long *board = pes_alloc(sizeof *board * WORDS), row[WORDS];
    for (int i = 0; i < TURNS / 2; i++) {
        shmem_set_lock(locks + 2);
        shmem_long_get(row, board, WORDS, npes / 2);
        size_t wrong = 0;
        for (size_t k = 1; k < WORDS; k++)
            wrong += row[k] != row[0];
        CHECK(wrong == 0, "turn %d: the last holder's put is not all there", i);
        for (size_t k = 0; k < WORDS; k++)
            row[k]++;
        shmem_long_put_nbi(board, row, WORDS, npes / 2);
        shmem_clear_lock(locks + 2);
    }
    shmem_barrier_all();
    CHECK(me != npes / 2 || board[WORDS - 1] == (long)(TURNS / 2) * npes, "%ld turns", board[WORDS - 1]);
    shmem_free(board);
}

int main(void)
{
    pes_begin();
    locks = pes_alloc(sizeof *locks * LOCKS);
    counter = pes_alloc(sizeof *counter * LOCKS);
    inside = pes_alloc(sizeof *inside * LOCKS);
    grants = pes_alloc(sizeof *grants);
    test_exclusion();
    test_try();
    test_fairness();
    test_handover();
    return pes_end();
}
