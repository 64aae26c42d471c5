/* Registered buffers: the registry, its errors, many threads. What a GPU makes of them is gpu_buffer.c's. */
#include <pthread.h>

#include "pes.h"

#define REFUSED(code, text, call)                                                                            \
    do {                                                                                                     \
        int rc = (call);                                                                                     \
        CHECK(rc == (code) && strstr(shmemx_last_error(), text), "gave %d, not %d: %s", rc, code,            \
              shmemx_last_error());                                                                          \
    } while (0)

static void test_use(void)
{
    enum { N = 10000 };
    long *mine = malloc(N * sizeof *mine), *inbox = shmem_malloc(N * sizeof *inbox);
    CHECK(shmemx_buffer_register(mine, N * sizeof *mine) == 0, "%s", shmemx_last_error());
    for (long i = 0; i < N; ++i)
        mine[i] = i * 3 + me;
    shmem_long_put(inbox, mine, N, (me + 1) % npes);
    shmem_barrier_all();
    shmem_long_get(mine, inbox, N, (me + 1) % npes);
    size_t wrong = 0;
    for (long i = 0; i < N; ++i)
        wrong += mine[i] != i * 3 + me || inbox[i] != i * 3 + (me + npes - 1) % npes;
    CHECK(wrong == 0, "%zu wrong", wrong);
    CHECK(shmemx_buffer_unregister(mine) == 0, "%s", shmemx_last_error());
    shmem_barrier_all();
    shmem_free(inbox);
    free(mine);
}

static void test_errors(void)
{
    static char room[4096];
    char *symmetric = shmem_malloc(64);
    shmemx_log_errors(0);
    REFUSED(SHMEMX_ERR_ARGUMENT, "NULL", shmemx_buffer_register(NULL, 8));
    REFUSED(SHMEMX_ERR_ARGUMENT, "0 bytes", shmemx_buffer_register(room, 0));
    REFUSED(SHMEMX_ERR_ARGUMENT, "no range", shmemx_buffer_register(room, SIZE_MAX));
    REFUSED(SHMEMX_ERR_ARGUMENT, "symmetric host heap", shmemx_buffer_register(symmetric, 8));
    for (int pe = 0; pe < npes; pe++)
        if (shmem_ptr(symmetric, pe))
            REFUSED(SHMEMX_ERR_ARGUMENT, "symmetric host heap",
                    shmemx_buffer_register(shmem_ptr(symmetric, pe), 8));
    REFUSED(SHMEMX_ERR_ADDRESS, "no registered buffer", shmemx_buffer_unregister(room));
    REFUSED(SHMEMX_ERR_ADDRESS, "no registered buffer", shmemx_buffer_unregister(NULL));
    CHECK(shmemx_buffer_register(room + 1000, 1000) == 0, "%s", shmemx_last_error());
    REFUSED(SHMEMX_ERR_ARGUMENT, "overlap", shmemx_buffer_register(room + 1000, 1000));
    REFUSED(SHMEMX_ERR_ARGUMENT, "overlap", shmemx_buffer_register(room, 1001));
    REFUSED(SHMEMX_ERR_ARGUMENT, "overlap", shmemx_buffer_register(room + 1999, 1));
    REFUSED(SHMEMX_ERR_ARGUMENT, "overlap", shmemx_buffer_register(room, sizeof room));
    REFUSED(SHMEMX_ERR_ADDRESS, "no registered buffer", shmemx_buffer_unregister(room + 1001));
    CHECK(shmemx_buffer_register(room, 1000) == 0, "before it: %s", shmemx_last_error());
    CHECK(shmemx_buffer_register(room + 2000, 1) == 0, "behind it: %s", shmemx_last_error());
    CHECK(shmemx_buffer_unregister(room + 1000) == 0, "%s", shmemx_last_error());
    REFUSED(SHMEMX_ERR_ADDRESS, "no registered buffer", shmemx_buffer_unregister(room + 1000));
    CHECK(shmemx_buffer_register(room + 1000, 1000) == 0, "again: %s", shmemx_last_error());
    /* all three are left to finalize */
    shmemx_log_errors(1);
    shmem_free(symmetric);
}

enum { THREADS = 4, ROUNDS = 300, SLOTS = 8, SLOT = 64 };
static char shared[THREADS * SLOTS * SLOT];

static void *work(void *argument)
{
    char *own = (char *)argument;
    size_t bad = 0;
    for (int round = 0; round < ROUNDS; ++round) {
        for (int i = 0; i < SLOTS; ++i)
            bad += shmemx_buffer_register(own + i * SLOT, SLOT) != 0;
        for (int i = 0; i < SLOTS; ++i)
            bad += shmemx_buffer_unregister(own + (i * 3 + round) % SLOTS * SLOT) != 0;
    }
    return (void *)bad;
}

static void test_threads(void)
{
    pthread_t threads[THREADS];
    for (size_t t = 0; t < THREADS; ++t)
        pthread_create(&threads[t], NULL, work, shared + t * SLOTS * SLOT);
    for (int t = 0; t < THREADS; ++t) {
        void *bad;
        pthread_join(threads[t], &bad);
        CHECK(!bad, "thread %d: %zu calls failed", t, (size_t)bad);
    }
    CHECK(shmemx_buffer_register(shared, sizeof shared) == 0, "something is left: %s", shmemx_last_error());
}

static void test_not_initialized(void)
{
    char c;
    shmemx_log_errors(0);
    REFUSED(SHMEMX_ERR_NOT_INITIALIZED, "shmem_init", shmemx_buffer_register(&c, 1));
    REFUSED(SHMEMX_ERR_NOT_INITIALIZED, "shmem_init", shmemx_buffer_unregister(&c));
    shmemx_log_errors(1);
}

int main(void)
{
    test_not_initialized();
    for (int round = 0; round < 2; ++round) { /* finalize has forgotten all */
        shmem_init();
        me = shmem_my_pe();
        npes = shmem_n_pes();
        test_use();
        test_errors();
        test_threads();
        shmem_finalize();
        test_not_initialized();
    }
    return check_done();
}
