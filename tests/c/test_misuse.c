/* Mistakes that programs make: each is refused with a message that has the values, and nothing is written;
 * the void forms are harmless. Then the library still works. */
#include "pes.h"

enum { WORDS = 64 };

static long *heap; /* WORDS symmetric words, known contents */
static long private_[WORDS];
static const char *calls; /* what the mistake is, for messages */

#define REFUSED(code, text, call)                                                                            \
    do {                                                                                                     \
        int rc = (call);                                                                                     \
        CHECK(rc == (code), "%s: gave %d, not %d (%s)", calls, rc, code, shmemx_last_error());               \
        CHECK(strstr(shmemx_last_error(), text) != NULL, "%s: \"%s\" is not in: %s", calls, text,            \
              shmemx_last_error());                                                                          \
    } while (0)

static void refill(void)
{
    for (long i = 0; i < WORDS; i++)
        heap[i] = 1000 + i, private_[i] = 2000 + i;
}

static void untouched(void)
{
    size_t wrong = 0;
    for (long i = 0; i < WORDS; i++)
        wrong += heap[i] != 1000 + i || private_[i] != 2000 + i;
    CHECK(wrong == 0, "%s: %zu words were written", calls, wrong);
    refill();
}

/* Every family, with the library not initialized: before init and after finalize. */
static void test_not_initialized(const char *when)
{
    calls = when;
    long value = 5, word = 7;
    uint64_t sig = 3, got = 9;
    size_t result;
    int busy = 5;
    const int code = SHMEMX_ERR_NOT_INITIALIZED;
    const char *text = "shmem_init";
    void *p = &value;
    shmem_team_t team = SHMEM_TEAM_WORLD;
    shmem_ctx_t ctx = SHMEM_CTX_DEFAULT;
    REFUSED(code, text, shmemx_put(SHMEM_CTX_DEFAULT, &word, &value, 8, 0));
    REFUSED(code, text, shmemx_get(SHMEM_CTX_DEFAULT, &word, &value, 8, 0));
    REFUSED(code, text, shmemx_put_nbi(SHMEM_CTX_DEFAULT, &word, &value, 8, 0));
    REFUSED(code, text, shmemx_get_nbi(SHMEM_CTX_DEFAULT, &word, &value, 8, 0));
    REFUSED(code, text, shmemx_iput(SHMEM_CTX_DEFAULT, &word, &value, 1, 1, 8, 1, 0));
    REFUSED(code, text, shmemx_iget(SHMEM_CTX_DEFAULT, &word, &value, 1, 1, 8, 1, 0));
    REFUSED(code, text, shmemx_put_signal(SHMEM_CTX_DEFAULT, &word, &value, 8, &sig, 1, SHMEM_SIGNAL_SET, 0));
    REFUSED(code, text, shmemx_atomic(SHMEM_CTX_DEFAULT, SHMEMX_AMO_ADD, 8, &word, 1, 0, 0, NULL));
    REFUSED(code, text, shmemx_fence(SHMEM_CTX_DEFAULT));
    REFUSED(code, text, shmemx_quiet(SHMEM_CTX_DEFAULT));
    REFUSED(code, text, shmemx_allocate(&p, 8, 0, 0, SHMEMX_MEM_HOST));
    REFUSED(code, text, shmemx_free(&value));
    REFUSED(
        code, text,
        shmemx_wait_until(SHMEMX_INT64, SHMEMX_ALL, &word, 1, NULL, NULL, SHMEM_CMP_EQ, &value, 0, &result));
    REFUSED(code, text,
            shmemx_test(SHMEMX_INT64, SHMEMX_ALL, &word, 1, NULL, NULL, SHMEM_CMP_EQ, &value, 0, &result));
    REFUSED(code, text, shmemx_signal_fetch(&sig, &got));
    REFUSED(code, text, shmemx_signal_wait_until(&sig, SHMEM_CMP_EQ, 4, &got));
    REFUSED(code, text, shmemx_set_lock(&word));
    REFUSED(code, text, shmemx_clear_lock(&word));
    REFUSED(code, text, shmemx_test_lock(&word, &busy));
    REFUSED(code, text, shmemx_sync(SHMEM_TEAM_WORLD));
    REFUSED(code, text, shmemx_barrier(SHMEM_TEAM_WORLD));
    REFUSED(code, text, shmemx_broadcast(SHMEM_TEAM_WORLD, &word, &value, 8, 0));
    REFUSED(code, text, shmemx_collect(SHMEM_TEAM_WORLD, &word, 8, &value, 8));
    REFUSED(code, text, shmemx_fcollect(SHMEM_TEAM_WORLD, &word, &value, 8));
    REFUSED(code, text, shmemx_alltoall(SHMEM_TEAM_WORLD, &word, &value, 8));
    REFUSED(code, text, shmemx_reduce(SHMEM_TEAM_WORLD, SHMEMX_REDUCE_SUM, SHMEMX_INT64, &word, &value, 1));
    REFUSED(code, text, shmem_team_split_strided(SHMEM_TEAM_WORLD, 0, 1, 1, NULL, 0, &team));
    REFUSED(code, text, shmem_ctx_create(0, &ctx));
    REFUSED(code, text, shmemx_finalize());
    shmem_putmem(&word, &value, 8, 0);
    shmem_long_p(&word, 5, 0);
    CHECK(shmem_long_g(&value, 0) == 0, "%s: g gave a value", calls);
    CHECK(shmem_long_atomic_fetch_add(&word, 1, 0) == 0, "%s: fetch_add gave a value", calls);
    shmem_long_wait_until(&word, SHMEM_CMP_EQ, 5);
    shmem_barrier_all();
    shmem_sync_all();
    shmem_quiet();
    shmem_fence();
    shmem_set_lock(&word);
    shmem_free(&value);
    shmem_finalize();
    CHECK(shmem_malloc(8) == NULL && shmem_calloc(1, 8) == NULL && shmem_align(64, 8) == NULL, "%s: malloc",
          calls);
    CHECK(shmem_ptr(&word, 0) == NULL && shmem_addr_accessible(&word, 0) == 0, "%s: ptr", calls);
    CHECK(shmem_pe_accessible(0) == 0, "%s: PE 0 is accessible", calls);
    CHECK(shmem_my_pe() <= 0 && shmem_n_pes() <= 0, "%s: PE %d of %d", calls, shmem_my_pe(), shmem_n_pes());
    CHECK(shmem_team_my_pe(SHMEM_TEAM_WORLD) == -1, "%s: a number in the world", calls);
    CHECK(word == 7 && value == 5 && sig == 3, "%s: something was written", calls);
}

/* `target`: an address that is no good as the symmetric side of `n` bytes. */
static void test_target(const char *what, void *target, size_t n)
{
    const int pe = (me + 1) % npes, code = SHMEMX_ERR_ADDRESS;
    char text[32];
    size_t elements = n / 8, result = 77;
    snprintf(text, sizeof text, "%p", target);
    calls = what;
    uint64_t got = 0;
    REFUSED(code, text, shmemx_put(SHMEM_CTX_DEFAULT, target, private_, n, pe));
    REFUSED(code, text, shmemx_put_nbi(SHMEM_CTX_DEFAULT, target, private_, n, pe));
    REFUSED(code, text, shmemx_get(SHMEM_CTX_DEFAULT, private_, target, n, pe));
    REFUSED(code, text, shmemx_get_nbi(SHMEM_CTX_DEFAULT, private_, target, n, pe));
    REFUSED(code, "", shmemx_iput(SHMEM_CTX_DEFAULT, target, private_, 1, 1, 8, elements, pe));
    REFUSED(code, "", shmemx_iget(SHMEM_CTX_DEFAULT, private_, target, 1, 1, 8, elements, pe));
    REFUSED(
        code, "",
        shmemx_put_signal(SHMEM_CTX_DEFAULT, target, private_, n, (uint64_t *)heap, 1, SHMEM_SIGNAL_SET, pe));
    REFUSED(code, "", shmemx_broadcast(SHMEM_TEAM_WORLD, target, heap, n, 0));
    REFUSED(code, "", shmemx_broadcast(SHMEM_TEAM_WORLD, heap, target, n, 0));
    REFUSED(code, "", shmemx_fcollect(SHMEM_TEAM_WORLD, target, heap, n));
    REFUSED(code, "", shmemx_alltoall(SHMEM_TEAM_WORLD, heap, target, n));
    REFUSED(code, "",
            shmemx_reduce(SHMEM_TEAM_WORLD, SHMEMX_REDUCE_SUM, SHMEMX_INT64, target, heap, elements));
    if (n == 8) { /* one word */
        REFUSED(code, "",
                shmemx_put_signal(SHMEM_CTX_DEFAULT, heap, private_, 8, target, 1, SHMEM_SIGNAL_ADD, pe));
        REFUSED(code, "", shmemx_atomic(SHMEM_CTX_DEFAULT, SHMEMX_AMO_ADD, 8, target, 1, 0, pe, &got));
        REFUSED(code, "",
                shmemx_wait_until(SHMEMX_INT64, SHMEMX_ALL, target, 1, NULL, NULL, SHMEM_CMP_EQ, &got, 0,
                                  &result));
        REFUSED(code, "",
                shmemx_test(SHMEMX_INT64, SHMEMX_ANY, target, 1, NULL, NULL, SHMEM_CMP_EQ, &got, 0, &result));
        REFUSED(code, "", shmemx_signal_fetch(target, &got));
        REFUSED(code, "", shmemx_signal_wait_until(target, SHMEM_CMP_EQ, 1, &got));
        REFUSED(code, "", shmemx_set_lock(target));
        REFUSED(code, "", shmemx_clear_lock(target));
        int busy;
        REFUSED(code, "", shmemx_test_lock(target, &busy));
        shmem_long_p(target, 9, pe);
        CHECK(shmem_long_g(target, pe) == 0, "%s: g gave a value", calls);
        CHECK(shmem_long_atomic_fetch_inc(target, pe) == 0, "%s: fetch_inc gave a value", calls);
        shmem_long_wait_until(target, SHMEM_CMP_EQ, 9);
        shmem_set_lock(target);
        shmem_signal_set(target, 1, pe);
        CHECK(got == 0 && result == 77, "%s: a result was written", calls);
    }
    shmem_putmem(target, private_, n, pe);
    shmem_getmem(private_, target, n, pe);
    shmem_barrier_all();
    untouched();
    shmem_barrier_all();
}

static void test_pe(int pe)
{
    calls = "PE out of range";
    char text[32], range[32];
    uint64_t got = 0;
    snprintf(text, sizeof text, "%d", pe);
    snprintf(range, sizeof range, "%d", npes - 1);
    const int code = SHMEMX_ERR_PE;
    REFUSED(code, text, shmemx_put(SHMEM_CTX_DEFAULT, heap, private_, 8, pe));
    REFUSED(code, range, shmemx_put(SHMEM_CTX_DEFAULT, heap, private_, 8, pe));
    REFUSED(code, text, shmemx_put(SHMEM_CTX_DEFAULT, heap, private_, 0, pe));
    REFUSED(code, text, shmemx_get(SHMEM_CTX_DEFAULT, private_, heap, 8, pe));
    REFUSED(code, text, shmemx_put_nbi(SHMEM_CTX_DEFAULT, heap, private_, 8, pe));
    REFUSED(code, text, shmemx_get_nbi(SHMEM_CTX_DEFAULT, private_, heap, 8, pe));
    REFUSED(code, text, shmemx_iput(SHMEM_CTX_DEFAULT, heap, private_, 1, 1, 8, 1, pe));
    REFUSED(code, text, shmemx_iget(SHMEM_CTX_DEFAULT, private_, heap, 1, 1, 8, 1, pe));
    REFUSED(
        code, text,
        shmemx_put_signal(SHMEM_CTX_DEFAULT, heap, private_, 8, (uint64_t *)heap, 1, SHMEM_SIGNAL_SET, pe));
    REFUSED(code, text, shmemx_atomic(SHMEM_CTX_DEFAULT, SHMEMX_AMO_SWAP, 8, heap, 1, 0, pe, &got));
    REFUSED(code, text, shmemx_atomic_nbi(SHMEM_CTX_DEFAULT, SHMEMX_AMO_SWAP, 4, heap, 1, 0, pe, &got));
    REFUSED(code, text, shmemx_broadcast(SHMEM_TEAM_WORLD, heap, heap + 8, 8, pe));
    shmem_long_p(heap, 1, pe);
    shmem_signal_add((uint64_t *)heap, 1, pe);
    shmem_int_put((int *)heap, (int *)private_, 2, pe);
    CHECK(shmem_double_g((double *)heap, pe) == 0, "g from PE %d gave a value", pe);
    CHECK(shmem_long_atomic_swap(heap, 1, pe) == 0 && got == 0, "swap on PE %d gave a value", pe);
    untouched();
}

static void test_arguments(void)
{
    const int pe = (me + 1) % npes, code = SHMEMX_ERR_ARGUMENT;
    uint64_t got = 0, *word = (uint64_t *)heap;
    long want = 1000;
    size_t result = 77, indices[4];
    calls = "NULL source";
    REFUSED(code, "NULL", shmemx_put(SHMEM_CTX_DEFAULT, heap, NULL, 8, pe));
    REFUSED(code, "NULL", shmemx_get(SHMEM_CTX_DEFAULT, NULL, heap, 8, pe));
    REFUSED(code, "NULL", shmemx_put_nbi(SHMEM_CTX_DEFAULT, heap, NULL, 8, pe));
    REFUSED(code, "NULL", shmemx_iput(SHMEM_CTX_DEFAULT, heap, NULL, 1, 1, 8, 2, pe));
    REFUSED(code, "NULL", shmemx_iget(SHMEM_CTX_DEFAULT, NULL, heap, 1, 1, 8, 2, pe));
    REFUSED(code, "NULL", shmemx_put_signal(SHMEM_CTX_DEFAULT, heap, NULL, 8, word, 1, SHMEM_SIGNAL_SET, pe));
    shmem_long_put(heap, NULL, 3, pe);
    shmem_long_get(NULL, heap, 3, pe);
    untouched();
    calls = "zero or negative stride";
    for (ptrdiff_t stride = 0; stride >= -1; stride--) {
        const char *text = stride ? "-1" : "0";
        REFUSED(code, text, shmemx_iput(SHMEM_CTX_DEFAULT, heap, private_, stride, 1, 8, 3, pe));
        REFUSED(code, text, shmemx_iput(SHMEM_CTX_DEFAULT, heap, private_, 1, stride, 8, 3, pe));
        REFUSED(code, text, shmemx_iget(SHMEM_CTX_DEFAULT, private_, heap, stride, 1, 8, 3, pe));
        REFUSED(code, text, shmemx_iget(SHMEM_CTX_DEFAULT, private_, heap, 1, stride, 8, 3, pe));
        REFUSED(code, text, shmemx_alltoalls(SHMEM_TEAM_WORLD, heap, heap + 32, stride, 1, 8, 1));
        REFUSED(code, text, shmemx_alltoalls(SHMEM_TEAM_WORLD, heap, heap + 32, 1, stride, 8, 1));
        shmem_long_iput(heap, private_, stride, 1, 3, pe);
        shmem_long_iget(private_, heap, 1, stride, 3, pe);
    }
    untouched();
    calls = "bad comparison";
    static const int comparisons[] = {0, 7, -1, 99};
    for (size_t i = 0; i < 4; i++) {
        char text[16];
        snprintf(text, sizeof text, "%d", comparisons[i]);
        REFUSED(code, text,
                shmemx_wait_until(SHMEMX_INT64, SHMEMX_ALL, heap, 1, NULL, NULL, comparisons[i], &want, 0,
                                  &result));
        REFUSED(code, text,
                shmemx_test(SHMEMX_INT64, SHMEMX_SOME, heap, 1, indices, NULL, comparisons[i], &want, 0,
                            &result));
        REFUSED(code, text, shmemx_signal_wait_until(word, comparisons[i], 5, &got));
        shmem_long_wait_until(heap, comparisons[i], 5);
        shmem_long_wait_until_all(heap, 3, NULL, comparisons[i], 5);
        CHECK(shmem_long_test(heap, comparisons[i], 1000) == 0, "test with comparison %d", comparisons[i]);
    }
    calls = "bad arguments of wait_until";
    REFUSED(code, "",
            shmemx_test(SHMEMX_FLOAT32, SHMEMX_ALL, heap, 1, NULL, NULL, SHMEM_CMP_EQ, &want, 0, &result));
    REFUSED(code, "",
            shmemx_test(SHMEMX_INT8, SHMEMX_ALL, heap, 1, NULL, NULL, SHMEM_CMP_EQ, &want, 0, &result));
    REFUSED(code, "", shmemx_test(-1, SHMEMX_ALL, heap, 1, NULL, NULL, SHMEM_CMP_EQ, &want, 0, &result));
    REFUSED(code, "", shmemx_test(SHMEMX_INT64, 9, heap, 1, NULL, NULL, SHMEM_CMP_EQ, &want, 0, &result));
    REFUSED(code, "NULL",
            shmemx_test(SHMEMX_INT64, SHMEMX_ALL, heap, 1, NULL, NULL, SHMEM_CMP_EQ, NULL, 0, &result));
    REFUSED(code, "NULL",
            shmemx_test(SHMEMX_INT64, SHMEMX_SOME, heap, 2, NULL, NULL, SHMEM_CMP_NE, &want, 0, &result));
    REFUSED(SHMEMX_ERR_ADDRESS, "aligned",
            shmemx_test(SHMEMX_INT64, SHMEMX_ALL, (char *)heap + 1, 1, NULL, NULL, SHMEM_CMP_EQ, &want, 0,
                        &result));
    CHECK(result == 77 && got == 0, "a result was written: %zu", result);
    calls = "bad signal operation";
    REFUSED(code, "0", shmemx_put_signal(SHMEM_CTX_DEFAULT, heap, private_, 8, word + 2, 1, 0, pe));
    REFUSED(code, "9", shmemx_put_signal_nbi(SHMEM_CTX_DEFAULT, heap, private_, 8, word + 2, 1, 9, pe));
    shmem_putmem_signal(heap, private_, 8, word + 2, 1, 9, pe);
    untouched();
    calls = "bad atomic";
    REFUSED(code, "99", shmemx_atomic(SHMEM_CTX_DEFAULT, 99, 8, heap, 1, 0, pe, &got));
    REFUSED(code, "-1", shmemx_atomic(SHMEM_CTX_DEFAULT, -1, 8, heap, 1, 0, pe, &got));
    REFUSED(code, "2", shmemx_atomic(SHMEM_CTX_DEFAULT, SHMEMX_AMO_ADD, 2, heap, 1, 0, pe, &got));
    untouched();
    calls = "a misaligned address";
    const int address = SHMEMX_ERR_ADDRESS;
    char *odd = (char *)heap + 4;
    REFUSED(address, "aligned", shmemx_atomic(SHMEM_CTX_DEFAULT, SHMEMX_AMO_ADD, 8, odd, 1, 0, pe, &got));
    REFUSED(address, "aligned", shmemx_atomic(SHMEM_CTX_DEFAULT, SHMEMX_AMO_ADD, 4, odd + 2, 1, 0, pe, &got));
    REFUSED(
        address, "aligned",
        shmemx_put_signal(SHMEM_CTX_DEFAULT, heap, private_, 8, (uint64_t *)odd, 1, SHMEM_SIGNAL_ADD, pe));
    REFUSED(address, "aligned", shmemx_signal_wait_until((uint64_t *)odd, SHMEM_CMP_EQ, 1, &got));
    REFUSED(address, "aligned", shmemx_set_lock((long *)odd));
    untouched();
    calls = "bad reduction";
    REFUSED(code, "", shmemx_reduce(SHMEM_TEAM_WORLD, 99, SHMEMX_INT64, heap, heap + 8, 1));
    REFUSED(code, "", shmemx_reduce(SHMEM_TEAM_WORLD, -1, SHMEMX_INT64, heap, heap + 8, 1));
    REFUSED(code, "", shmemx_reduce(SHMEM_TEAM_WORLD, SHMEMX_REDUCE_SUM, 99, heap, heap + 8, 1));
    REFUSED(code, "", shmemx_reduce(SHMEM_TEAM_WORLD, SHMEMX_REDUCE_AND, SHMEMX_FLOAT32, heap, heap + 8, 1));
    REFUSED(code, "",
            shmemx_reduce(SHMEM_TEAM_WORLD, SHMEMX_REDUCE_MAX, SHMEMX_COMPLEX64, heap, heap + 8, 1));
    calls = "no team";
    REFUSED(SHMEMX_ERR_TEAM, "", shmemx_sync(SHMEM_TEAM_INVALID));
    REFUSED(SHMEMX_ERR_TEAM, "", shmemx_barrier((shmem_team_t)(uintptr_t)12345678));
    REFUSED(SHMEMX_ERR_TEAM, "", shmemx_broadcast((shmem_team_t)heap, heap, heap + 8, 8, 0));
    REFUSED(SHMEMX_ERR_TEAM, "", shmemx_reduce(SHMEM_TEAM_INVALID, 0, 0, heap, heap + 8, 1));
    untouched();
}

/* Sizes whose product or end does not fit. */
static void test_overflow(void)
{
    const int pe = (me + 1) % npes, code = SHMEMX_ERR_ADDRESS;
    static const size_t sizes[] = {SIZE_MAX, SIZE_MAX - 7, (size_t)1 << 63, (size_t)1 << 40};
    calls = "more bytes than there are";
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        REFUSED(code, "", shmemx_put(SHMEM_CTX_DEFAULT, heap, private_, sizes[i], pe));
        REFUSED(code, "", shmemx_get(SHMEM_CTX_DEFAULT, private_, heap, sizes[i], pe));
        REFUSED(code, "", shmemx_broadcast(SHMEM_TEAM_WORLD, heap, heap + 8, sizes[i], 0));
        shmem_long_put(heap, private_, sizes[i] / 4 + 2, pe); /* times 8 it wraps around to little */
        shmem_long_get(private_, heap, ((size_t)1 << 61) + 1, pe);
        shmem_put128(heap, private_, ((size_t)1 << 60) + 1, pe);
        shmem_long_put_signal(heap, private_, ((size_t)1 << 61) + 1, (uint64_t *)heap, 1, SHMEM_SIGNAL_SET,
                              pe);
        CHECK(shmem_long_broadcast(SHMEM_TEAM_WORLD, heap, heap + 8, ((size_t)1 << 61) + 1, 0) != 0,
              "a broadcast");
        CHECK(shmem_long_sum_reduce(SHMEM_TEAM_WORLD, heap, heap + 8, ((size_t)1 << 61) + 1) != 0,
              "a reduction");
        CHECK(shmem_long_fcollect(SHMEM_TEAM_WORLD, heap, heap + 8, ((size_t)1 << 61) + 1) != 0,
              "a fcollect");
        CHECK(shmem_long_alltoall(SHMEM_TEAM_WORLD, heap, heap + 8, ((size_t)1 << 61) + 1) != 0,
              "an alltoall");
        shmem_long_wait_until_all(heap, ((size_t)1 << 61) + 1, NULL, SHMEM_CMP_EQ, 5);
        const int code = SHMEMX_ERR_ARGUMENT;
        REFUSED(code, "", shmemx_iput(SHMEM_CTX_DEFAULT, heap, private_, PTRDIFF_MAX, 1, 8, 3, pe));
        REFUSED(code, "", shmemx_iget(SHMEM_CTX_DEFAULT, private_, heap, 1, PTRDIFF_MAX / 8, 8, 9, pe));
        REFUSED(code, "", shmemx_iput(SHMEM_CTX_DEFAULT, heap, private_, (ptrdiff_t)1 << 61, 1, 8, 2, pe));
        REFUSED(SHMEMX_ERR_ADDRESS, "", shmemx_iput(SHMEM_CTX_DEFAULT, heap, private_, 1 << 28, 1, 8, 2, pe));
    }
    untouched();
}

static void test_free(void)
{
    char *block = pes_alloc(256);
    long on_stack = 0;
    calls = "free of what malloc did not give";
    REFUSED(SHMEMX_ERR_ADDRESS, "", shmemx_free(&on_stack));
    REFUSED(SHMEMX_ERR_ADDRESS, "", shmemx_free(private_));
    REFUSED(SHMEMX_ERR_ADDRESS, "", shmemx_free(block + 16));
    shmem_free(private_);
    shmem_free(block + 64);
    CHECK(shmem_realloc(private_, 100) == NULL, "realloc of a private pointer");
    CHECK(shmem_realloc(block + 16, 100) == NULL, "realloc inside a block");
    memset(block, 1, 256);
    CHECK(shmemx_free(block) == 0, "%s", shmemx_last_error());
    calls = "a second free";
    REFUSED(SHMEMX_ERR_ADDRESS, "", shmemx_free(block));
    shmem_free(block);
    void *p = private_;
    calls = "bad malloc";
    REFUSED(SHMEMX_ERR_NO_MEMORY, "SHMEM_SYMMETRIC_SIZE",
            shmemx_allocate(&p, (size_t)1 << 40, 0, 0, SHMEMX_MEM_HOST));
    CHECK(p == NULL || p == private_, "a refused malloc gave %p", p);
    REFUSED(SHMEMX_ERR_ARGUMENT, "48", shmemx_allocate(&p, 100, 48, 0, SHMEMX_MEM_HOST));
    REFUSED(SHMEMX_ERR_ARGUMENT, "NULL", shmemx_allocate(NULL, 100, 0, 0, SHMEMX_MEM_HOST));
    CHECK(shmem_malloc((size_t)1 << 40) == NULL, "a TiB");
    untouched();
}

/* PEs that disagree: every one of them is told, none gets anything. */
static void test_disagreement(void)
{
    if (npes < 2)
        return;
    void *p = private_, *a = pes_alloc(64), *b = pes_alloc(64);
    shmem_team_t team = SHMEM_TEAM_WORLD, other = SHMEM_TEAM_WORLD;
    size_t before, after;
    const int code = SHMEMX_ERR_MISMATCH;
    calls = "different arguments";
    shmemx_heap_info(SHMEMX_MEM_HOST, NULL, &before, NULL);
    REFUSED(code, "PE", shmemx_allocate(&p, 100 + (size_t)(me == 1), 0, 0, SHMEMX_MEM_HOST));
    REFUSED(code, "PE", shmemx_allocate(&p, 128, me == 0 ? 64 : 128, 0, SHMEMX_MEM_HOST));
    CHECK(p == NULL || p == private_, "%s: malloc gave %p", calls, p);
    CHECK(shmem_malloc(200 + (size_t)me) == NULL, "%s: malloc", calls);
    REFUSED(code, "PE", shmemx_free(me == 0 ? a : b));
    shmemx_heap_info(SHMEMX_MEM_HOST, NULL, &after, NULL);
    CHECK(before == after, "%s: %zu bytes in use, %zu before", calls, after, before);
    REFUSED(code, "PE", shmem_team_split_strided(SHMEM_TEAM_WORLD, 0, 1, me ? npes : 1, NULL, 0, &team));
    REFUSED(code, "PE",
            shmem_team_split_2d(SHMEM_TEAM_WORLD, 1 + (me == 1), NULL, 0, &team, NULL, 0, &other));
    CHECK(team == SHMEM_TEAM_INVALID && other == SHMEM_TEAM_INVALID, "%s: a team", calls);
    shmem_free(a);
    shmem_free(b);
}

int main(void)
{
    shmemx_log_errors(0);
    test_not_initialized("before init");
    pes_begin();
    heap = pes_alloc(sizeof *heap * WORDS);
    refill();
    shmem_barrier_all();
    size_t total = 0, used, most;
    shmemx_heap_info(SHMEMX_MEM_HOST, &total, &used, &most);
    test_target("a private target", private_, 8);
    test_target("a private target", private_, 64);
    test_target("the stack", (long[]){0}, 8);
    test_target("NULL", NULL, 8);
    test_target("before the heap", (char *)heap - ((uintptr_t)heap % ((size_t)1 << 32)) - ((size_t)1 << 33),
                8);
    test_target("past the heap's end", heap, total + 8);
    test_target("far past the heap", (char *)heap + total + ((size_t)1 << 20), 8);
    test_target("the end of the address space", (void *)(UINTPTR_MAX - 7), 8);
    for (int k = 0; k < 4; k++)
        test_pe((const int[]){npes, -1, INT32_MAX, INT32_MIN}[k]);
    test_arguments();
    test_overflow();
    test_free();
    test_disagreement();
    shmem_barrier_all();
    long value = me;
    shmem_long_put(heap, &value, 1, (me + 1) % npes);
    shmem_barrier_all();
    CHECK(heap[0] == (me + npes - 1) % npes, "the library does not work any more");
    shmem_finalize();
    test_not_initialized("after finalize");
    return check_done();
}
