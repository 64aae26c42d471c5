/* Global and static variables are symmetric: of the program and of a library that it links, for every family of calls.
 *
 * With an argument: "brief" is less of the same, for networks that are emulated; "off" is run under SHMEM_SYMMETRIC_GLOBALS=0; "some" sets that on odd PEs; "mixed" runs another
 * build of this program on odd PEs, with the same library. */
#include <sys/wait.h>

#include "globals_lib.h"
#include "pes.h"

enum { MANY = 300000 };
static int rounds = 200;

long exported = 1234;                       /* .data */
static long zeroed[16];                     /* .bss */
static unsigned char bytes[MANY + 1] = {9}; /* larger than a page, put to at odd addresses */
static const char *pointer_to = "text";     /* a relocation: differs from PE to PE and survives the move */
static const long constant = 77;            /* read-only: not symmetric */
static const char *const relocated[] = {"a", "b"}; /* RELRO: read-only after relocation */
static __thread long own_thread = 3;
static uint64_t signal_word, other_signal;
static long lock, guarded;
static double sums[64], parts[64];
static int counter, compare = 10;
static long before_init;
static volatile long huge[64 << 20]; /* 512 MiB that nobody touches but at one place */

static int right(void)
{
    return (me + 1) % npes;
}

static int left(void)
{
    return (me + npes - 1) % npes;
}

static void test_values_survive(void)
{
    CHECK(exported == 1234 && bytes[0] == 9 && compare == 10, "initial values: %ld, %d, %d", exported,
          bytes[0], compare);
    CHECK(before_init == 100 + getpid(), "what was stored before init is %ld", before_init);
    CHECK(strcmp(pointer_to, "text") == 0 && strcmp(relocated[1], "b") == 0, "pointers were moved");
    CHECK(library_word == 41 && *library_hidden() == 5, "the library's: %ld, %ld", library_word,
          *library_hidden());
    shmem_barrier_all();
}

/* A word of this kind goes round the ring, is read back, and is stored to directly. */
static void one_word(const char *what, long *word)
{
    *word = 1000 + me;
    shmem_barrier_all();
    CHECK(shmem_long_g(word, right()) == 1000 + right(), "%s: g gave %ld", what, shmem_long_g(word, right()));
    shmem_barrier_all();
    shmem_long_p(word, 2000 + me, right());
    shmem_barrier_all();
    CHECK(*(volatile long *)word == 2000 + left(), "%s: p left %ld", what, *word);
    CHECK(shmem_addr_accessible(word, right()) == 1, "%s: not accessible", what);
    CHECK(shmem_ptr(word, me) == (void *)word, "%s: my own is at %p, not %p", what, shmem_ptr(word, me),
          (void *)word);
    long *there = shmem_ptr(word, right());
    CHECK(there == NULL || *there == 2000 + me, "%s: shmem_ptr shows %ld", what, there ? *there : 0);
    CHECK(shmem_long_atomic_fetch_add(word, 0, right()) == 2000 + me, "%s: fetch", what);
    shmem_barrier_all();
    for (int i = 0; i < rounds; i++)
        shmem_long_atomic_add(word, 1, i % npes);
    shmem_barrier_all();
    long all = 0;
    for (int i = 0; i < rounds; i++)
        all += (i % npes == me) * npes;
    CHECK(*(volatile long *)word == 2000 + left() + all, "%s: atomics of all PEs made %ld", what, *word);
    shmem_barrier_all();
}

static void test_words(void)
{
    static long in_function;
    one_word("global", &exported);
    one_word("static", &zeroed[3]);
    one_word("static in a function", &in_function);
    one_word("the library's global", &library_word);
    one_word("the library's static", library_hidden());
}

static void test_bytes(void)
{
    static const size_t sizes[] = {1, 2, 3, 7, 8, 9, 31, 64, 4095, 4096, 4097, 65537, MANY - 64};
    unsigned char *mine = pes_private(MANY);
    for (unsigned k = 0; k < sizeof sizes / sizeof *sizes; k++)
        for (size_t shift = 0; shift < 9; shift += rounds < 200 ? 5 : 1 + shift / 3) {
            size_t n = sizes[k], wrong = 0;
            memset(bytes, 0, sizeof bytes);
            for (size_t i = 0; i < n; i++)
                mine[i] = (unsigned char)mix(me, i, k);
            shmem_barrier_all();
            shmem_putmem(bytes + shift, mine, n, right());
            shmem_barrier_all();
            for (size_t i = 0; i < sizeof bytes; i++)
                wrong +=
                    bytes[i] != (i < shift || i >= shift + n ? 0 : (unsigned char)mix(left(), i - shift, k));
            CHECK(wrong == 0, "put of %zu bytes at +%zu: %zu bytes are wrong", n, shift, wrong);
            shmem_getmem_nbi(mine, bytes + shift, n, right());
            shmem_quiet();
            wrong = 0;
            for (size_t i = 0; i < n; i++)
                wrong += mine[i] != (unsigned char)mix(me, i, k);
            CHECK(wrong == 0, "get of %zu bytes at +%zu: %zu bytes are wrong", n, shift, wrong);
            shmem_barrier_all();
        }
    /* from one variable to another, and strided */
    for (int i = 0; i < 64; i++)
        parts[i] = me * 100 + i;
    shmem_double_iput(library_array, parts, 3, 2, 32, right());
    shmem_barrier_all();
    for (int i = 0; i < 32; i++)
        CHECK(library_array[3 * i] == left() * 100 + 2 * i, "iput: element %d is %g", i,
              library_array[3 * i]);
    shmem_double_iget(sums, library_array, 1, 3, 32, right());
    for (int i = 0; i < 32; i++)
        CHECK(sums[i] == me * 100 + 2 * i, "iget: element %d is %g", i, sums[i]);
    shmem_barrier_all();
    free(mine);
}

static void test_atomics(void)
{
    counter = 0;
    shmem_barrier_all();
    int sum = 0, mine = 0;
    for (int i = 0; i < rounds; i++)
        mine += shmem_int_atomic_fetch_inc(&counter, 0) >= 0;
    shmem_barrier_all();
    sum = shmem_int_atomic_fetch(&counter, 0);
    CHECK(mine == rounds && sum == rounds * npes, "fetch_inc of all PEs made %d", sum);
    shmem_barrier_all();
    compare = -1;
    shmem_barrier_all();
    int won = shmem_int_atomic_compare_swap(&compare, -1, me, npes - 1) == -1;
    shmem_barrier_all();
    int winner = shmem_int_g(&compare, npes - 1);
    CHECK(won == (winner == me), "compare_swap: PE %d won, this one says %d", winner, won);
    shmem_barrier_all();
    CHECK(shmem_int_atomic_swap(&compare, 5, me) >= -1 && compare == 5, "swap left %d", compare);
    shmem_barrier_all();
}

static void test_signals(void)
{
    signal_word = other_signal = 0;
    shmem_barrier_all();
    for (unsigned round = 1; round <= (unsigned)rounds; round++) {
        size_t n = round * 7 % 300;
        static unsigned char outbox[300], inbox[300];
        for (size_t i = 0; i < n; i++)
            outbox[i] = (unsigned char)mix(me, i, round);
        shmem_putmem_signal(inbox, outbox, n, &signal_word, round, SHMEM_SIGNAL_SET, right());
        uint64_t got = shmem_signal_wait_until(&signal_word, SHMEM_CMP_GE, round);
        CHECK(got == round, "signal %u is %lu", round, (unsigned long)got);
        size_t wrong = 0;
        for (size_t i = 0; i < n; i++)
            wrong += inbox[i] != (unsigned char)mix(left(), i, round);
        CHECK(wrong == 0, "round %u: %zu bytes are not there with the signal", round, wrong);
        shmem_signal_add(&other_signal, 1, left());
        shmem_uint64_wait_until(&other_signal, SHMEM_CMP_GE, round);
    }
    shmem_barrier_all();
    CHECK(shmem_signal_fetch(&other_signal) == (uint64_t)rounds, "added signals make %lu",
          (unsigned long)other_signal);
    shmem_barrier_all();
}

static void test_lock(void)
{
    lock = guarded = 0;
    shmem_barrier_all();
    for (int i = 0; i < rounds; i++) {
        shmem_set_lock(&lock);
        shmem_long_p(&guarded, shmem_long_g(&guarded, 0) + 1, 0);
        shmem_quiet();
        shmem_clear_lock(&lock);
    }
    shmem_barrier_all();
    CHECK(shmem_long_g(&guarded, 0) == (long)rounds * npes, "counted %ld under the lock",
          shmem_long_g(&guarded, 0));
    shmem_barrier_all();
}

static void test_collectives(void)
{
    static long all[64 * 16], mine[64 * 16];
    for (int n = 1; n <= 16; n *= 4) {
        memset(all, 0, sizeof all);
        for (int i = 0; i < 64 * 16; i++)
            mine[i] = me * 10000 + i;
        shmem_barrier_all();
        CHECK(shmem_long_fcollect(SHMEM_TEAM_WORLD, all, mine, (size_t)n) == 0, "fcollect");
        for (int pe = 0; pe < npes; pe++)
            CHECK(all[pe * n + n - 1] == pe * 10000 + n - 1, "fcollect: block %d", pe);
        shmem_barrier_all();
        CHECK(shmem_long_alltoall(SHMEM_TEAM_WORLD, all, mine, (size_t)n) == 0, "alltoall");
        for (int pe = 0; pe < npes; pe++)
            CHECK(all[pe * n] == pe * 10000 + me * n, "alltoall: block %d", pe);
        CHECK(shmem_long_sum_reduce(SHMEM_TEAM_WORLD, all, mine, (size_t)n) == 0, "sum");
        CHECK(all[0] == 10000L * npes * (npes - 1) / 2, "sum is %ld", all[0]);
        CHECK(shmem_long_broadcast(SHMEM_TEAM_WORLD, all, mine, (size_t)n, npes - 1) == 0, "broadcast");
        CHECK(all[n - 1] == (npes - 1) * 10000 + n - 1, "broadcast: %ld", all[n - 1]);
        shmem_barrier_all();
    }
    /* too large for notes, from the library's variables into the program's heap and back */
    double *heap = pes_alloc(sizeof library_array);
    for (int i = 0; i < LIBRARY_ELEMENTS; i++)
        library_array[i] = me + i;
    CHECK(shmem_double_max_reduce(SHMEM_TEAM_WORLD, heap, library_array, LIBRARY_ELEMENTS) == 0, "max");
    CHECK(shmem_double_min_reduce(SHMEM_TEAM_WORLD, library_array, heap, LIBRARY_ELEMENTS) == 0, "min");
    size_t wrong = 0;
    for (int i = 0; i < LIBRARY_ELEMENTS; i++)
        wrong += library_array[i] != npes - 1 + i;
    CHECK(wrong == 0, "max and min: %zu elements are wrong", wrong);
    shmem_barrier_all();
    shmem_free(heap);
}

/* One page of 512 MiB is used; init did not touch the rest, or this test would be killed where memory is small. But a NIC
 * has it all, locked. */
static void test_huge(void)
{
    const size_t at = (48 << 20) + 5;
    shmem_long_p((long *)&huge[at], me + 1, right());
    shmem_barrier_all();
    CHECK(huge[at] == left() + 1, "in the large array: %ld", huge[at]);
    shmem_barrier_all();
}

static void test_refused(void)
{
    long on_stack = 1;
    const struct {
        const char *what;
        void *addr;
        size_t n;
    } bad[] = {
        {"stack", &on_stack, 8},
        {"thread-local", &own_thread, 8},
        {"constant", (void *)(uintptr_t)&constant, 8},
        {"constant pointers", (void *)(uintptr_t)relocated, 8},
        {"code", (void *)(uintptr_t)test_huge, 8},
        {"the C library's", stdout, 8},
        {"past the end", (void *)(uintptr_t)&huge[0], (size_t)1 << 40},
    };
    long value = 5;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        int rc = shmemx_put(SHMEM_CTX_DEFAULT, bad[i].addr, &value, bad[i].n, right());
        CHECK(rc == SHMEMX_ERR_ADDRESS, "%s: %d", bad[i].what, rc);
        CHECK(strstr(shmemx_last_error(), "global or static") != NULL, "%s: %s", bad[i].what,
              shmemx_last_error());
    }
    int rc = shmemx_free(&exported);
    CHECK(rc == SHMEMX_ERR_ADDRESS, "free of a global: %d, %s", rc, shmemx_last_error());
    shmem_barrier_all();
}

/* A forked child has variables of its own, and the PE does not see what it stores. */
static void test_fork(void)
{
    exported = 7;
    library_word = 8;
    shmem_barrier_all();
    pid_t child = fork();
    if (child == 0) {
        int ok = exported == 7 && library_word == 8 && huge[(48 << 20) + 5] == left() + 1;
        exported = library_word = 99;
        _exit(ok ? 0 : 1);
    }
    int status = -1;
    CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0, "child ended with %d", status);
    CHECK(*(volatile long *)&exported == 7 && *(volatile long *)&library_word == 8,
          "the child's stores are here: %ld, %ld", exported, library_word);
    shmem_barrier_all();
    shmem_long_p(&exported, 70 + me, right());
    shmem_barrier_all();
    CHECK(*(volatile long *)&exported == 70 + left(), "after a fork: %ld", exported);
    shmem_barrier_all();
}

/* The program's variables are not symmetric, the library's are where `library` says so. */
static int without(const char *text, bool library)
{
    pes_begin();
    long value = 5;
    int rc = shmemx_put(SHMEM_CTX_DEFAULT, &exported, &value, sizeof value, right());
    CHECK(rc == SHMEMX_ERR_ADDRESS && strstr(shmemx_last_error(), text), "%d, %s", rc, shmemx_last_error());
    CHECK(shmem_ptr(&exported, me) == NULL && !shmem_addr_accessible(&exported, me), "still there");
    if (library)
        one_word("the library's static", library_hidden());
    else
        CHECK(!shmem_addr_accessible(library_hidden(), me), "the library's is still there");
    return pes_end();
}

int main(int argc, char **argv)
{
    before_init = 100 + getpid();
    const char *rank = getenv("RANK"), *mode = argc > 1 ? argv[1] : "";
    bool odd = rank && atoi(rank) % 2;
    if (strcmp(mode, "off") == 0)
        return without("SHMEM_SYMMETRIC_GLOBALS=0", false);
    if (strcmp(mode, "some") == 0) {
        setenv("SHMEM_SYMMETRIC_GLOBALS", odd ? "0" : "1", 1);
        return without("global or static", false);
    }
    if (strcmp(mode, "mixed") == 0) {
#ifndef OTHER_BUILD
        char other[4096];
        snprintf(other, sizeof other, "%s_other", argv[0]);
        if (odd)
            execl(other, other, mode, (char *)NULL);
#endif
        return without("global or static", true);
    }
    int jobs = 2; /* what finalize leaves is what the second init finds */
    if (strcmp(mode, "brief") == 0)
        jobs = 1, rounds = 10;
    for (int job = 0; job < jobs; job++) {
        pes_begin();
        if (job == 0)
            test_values_survive();
        test_words();
        test_bytes();
        test_atomics();
        test_signals();
        test_lock();
        test_collectives();
        test_huge();
        test_refused();
        test_fork();
        exported = 4321;
        bytes[MANY] = 17;
        shmem_finalize();
        CHECK(exported == 4321 && bytes[MANY] == 17 && huge[(48 << 20) + 5] == left() + 1,
              "finalize lost values: %ld, %d", exported, bytes[MANY]);
        exported = 4322;
        CHECK(*(volatile long *)&exported == 4322, "cannot store after finalize");
    }
    return check_done();
}
