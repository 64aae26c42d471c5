/* Debug mode: what it finds, with the call, the PE and the argument named. Only the odd PEs (or the only one) ask for it: it
 * is on for all of them then.
 *
 * With an argument: "finalize" is a finalize that others do not match; "leave" a PE that ends without it; "off" shows that
 * the same mistakes stay unnamed without debug mode, so that the tests above test it. */
#include <sys/mman.h>

#include "pes.h"

static int other;

static const char *last(void)
{
    return shmemx_last_error();
}

#define NAMED(text, code, call)                                                                              \
    do {                                                                                                     \
        int rc_ = (call);                                                                                    \
        CHECK(rc_ == (code) && strstr(last(), text), "gave %d, not %d with \"%s\": %s", rc_, code, text,     \
              last());                                                                                       \
    } while (0)

/* A void call that must name `text`. */
#define SAID(text, call)                                                                                     \
    do {                                                                                                     \
        (void)shmemx_put(SHMEM_CTX_DEFAULT, NULL, NULL, 8, -5); /* another last error */                     \
        call;                                                                                                \
        CHECK(strstr(last(), text), "\"%s\" is not in: %s", text, last());                                   \
    } while (0)

static void test_blocks(void)
{
    char *first = pes_alloc(64), *second = pes_alloc(64), here[256] = "";
    char text[64];
    const int bad = SHMEMX_ERR_ADDRESS;
    NAMED("0 bytes into one of 64 bytes", bad, shmemx_put(SHMEM_CTX_DEFAULT, first, here, 65, other));
    NAMED("60 bytes into one of 64 bytes", bad, shmemx_get(SHMEM_CTX_DEFAULT, here, first + 60, 5, other));
    NAMED("no shmem_malloc returned it", bad,
          shmemx_put(SHMEM_CTX_DEFAULT, second + (1 << 20), here, 8, other));
    shmem_free(first);
    snprintf(text, sizeof text, "dest: 8 bytes at %p", (void *)first);
    NAMED(text, bad, shmemx_put(SHMEM_CTX_DEFAULT, first, here, 8, other));
    NAMED("shmem_free was called for the 64 bytes", bad,
          shmemx_put(SHMEM_CTX_DEFAULT, first, here, 8, other));
    NAMED("shmem_free was called", bad,
          shmemx_atomic(SHMEM_CTX_DEFAULT, SHMEMX_AMO_ADD, 8, first, 1, 0, other, NULL));
    NAMED("shmem_free was called", bad, shmemx_put(SHMEM_CTX_DEFAULT, second, first, 8, other));
    NAMED("shmem_free was called", bad, shmemx_free(first));
    SAID("shmem_long_p: dest", shmem_long_p((long *)(void *)first, 1, other));
    CHECK(shmemx_put(SHMEM_CTX_DEFAULT, second, here, 64, other) == 0, "a whole block: %s", last());
    shmem_barrier_all();
    shmem_free(second);
}

static void test_alignment(void)
{
    char *block = pes_alloc(256);
    double here[4] = {0};
    void *odd = block + 4;
    SAID("shmem_double_put: dest", shmem_double_put(odd, here, 2, other));
    CHECK(strstr(last(), "is not aligned to 8 bytes"), "%s", last());
    SAID("shmem_double_get: source", shmem_double_get(here, odd, 2, other));
    SAID("shmem_double_put: source", shmem_double_put((void *)block, odd, 1, other));
    SAID("not aligned to 8", shmem_long_iput(odd, (long[]){1, 2}, 1, 1, 2, other));
    SAID("shmem_double_p: dest", shmem_double_p(odd, 1.0, other));
    CHECK(shmemx_put(SHMEM_CTX_DEFAULT, odd, here, 8, other) == 0, "bytes may be anywhere: %s", last());
    shmem_float_put(odd, (float[]){1}, 1, other);
    shmem_barrier_all();
    shmem_free(block);
}

static void test_local(void)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *block = pes_alloc(4 * page);
    char *gone = mmap(NULL, 3 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(gone + page, page);
    const int bad = SHMEMX_ERR_ADDRESS;
    NAMED("source: 8 bytes", bad, shmemx_put(SHMEM_CTX_DEFAULT, block, gone + page, 8, other));
    NAMED("there is no memory", bad, shmemx_put(SHMEM_CTX_DEFAULT, block, gone, 3 * page, other));
    NAMED("there is no memory", bad, shmemx_get(SHMEM_CTX_DEFAULT, gone + page - 4, block, 8, other));
    CHECK(shmemx_put(SHMEM_CTX_DEFAULT, block, gone, page, other) == 0, "what is there: %s", last());
    munmap(gone, page);
    munmap(gone + 2 * page, page);
    shmem_barrier_all();
    shmem_free(block);
}

/* Only with others to disagree with. After each the library works as before. */
static void test_collectives(void)
{
    long *a = pes_alloc(8 * 64), *b = pes_alloc(8 * 64), *c = pes_alloc(8 * 64);
    const int bad = SHMEMX_ERR_MISMATCH;
    bool odd = me % 2 == 1;
    const char *theirs = odd ? "shmem_barrier_all" : "shmem_sync_all";
    if (odd)
        SAID(theirs, shmem_sync_all());
    else
        SAID(theirs, shmem_barrier_all());
    if (odd)
        NAMED("shmem_fcollect", bad, shmemx_alltoall(SHMEM_TEAM_WORLD, a, b, 8));
    else
        NAMED("shmem_alltoall", bad, shmemx_fcollect(SHMEM_TEAM_WORLD, a, b, 8));
    if (odd)
        NAMED("shmem_sync", bad, shmemx_broadcast(SHMEM_TEAM_WORLD, a, b, 8, 0));
    else
        NAMED("shmem_broadcast", bad, shmemx_sync(SHMEM_TEAM_WORLD));
    NAMED("dest is another object on PE", bad, shmemx_broadcast(SHMEM_TEAM_WORLD, odd ? a : c, b, 8, 0));
    NAMED("source is another object on PE", bad,
          shmemx_reduce(SHMEM_TEAM_WORLD, SHMEMX_REDUCE_SUM, SHMEMX_INT64, a, odd ? b : c, 1));
    NAMED("root is", bad, shmemx_broadcast(SHMEM_TEAM_WORLD, a, b, 8, odd));
    NAMED("the number of bytes of dest is", bad, shmemx_fcollect(SHMEM_TEAM_WORLD, a, b, odd ? 8 : 16));
    NAMED(
        "operation", bad,
        shmemx_reduce(SHMEM_TEAM_WORLD, odd ? SHMEMX_REDUCE_SUM : SHMEMX_REDUCE_MAX, SHMEMX_INT64, a, b, 1));
    for (int i = 0; i < 20; i++)
        *b = me, shmem_barrier_all();
    CHECK(shmem_long_sum_reduce(SHMEM_TEAM_WORLD, a, b, 1) == 0 && *a == (long)npes * (npes - 1) / 2,
          "after all that the sum is %ld: %s", *a, last());
    CHECK(shmem_team_sync(SHMEM_TEAM_WORLD) == 0, "team_sync: %s", last());
    shmem_free(c);
    shmem_free(b);
    shmem_free(a);
}

static void test_overlap(void)
{
    long *a = pes_alloc(8 * 64);
    const int bad = SHMEMX_ERR_ARGUMENT;
    NAMED("overlap", bad, shmemx_fcollect(SHMEM_TEAM_WORLD, a, a, 8));
    NAMED("overlap", bad, shmemx_alltoall(SHMEM_TEAM_WORLD, a, a + npes - 1, 8));
    NAMED("overlap", bad, shmemx_broadcast(SHMEM_TEAM_WORLD, a, a + 1, 16, 0));
    NAMED("overlap in part", bad,
          shmemx_reduce(SHMEM_TEAM_WORLD, SHMEMX_REDUCE_SUM, SHMEMX_INT64, a, a + 1, 2));
    shmem_barrier_all();
    shmem_free(a);
}

static int off(void)
{
    pes_begin();
    other = (me + 1) % npes;
    char *block = pes_alloc(64), *next = pes_alloc(64), here[256] = "";
    CHECK(shmemx_put(SHMEM_CTX_DEFAULT, block, here, 65, other) == 0, "found without debug mode: %s", last());
    shmem_barrier_all();
    shmem_free(next);
    shmem_barrier_all();
    CHECK(shmemx_put(SHMEM_CTX_DEFAULT, next, here, 8, other) == 0, "found without debug mode: %s", last());
    shmem_barrier_all();
    shmem_free(block);
    return pes_end();
}

/* 2 PEs. */
static int unmatched_finalize(void)
{
    pes_begin();
    if (me == 0) {
        CHECK(shmemx_finalize() == SHMEMX_ERR_MISMATCH && strstr(last(), "shmem_barrier_all"), "%s", last());
        return check_done();
    }
    SAID("PE 0 is in shmem_finalize, this PE in shmem_barrier_all", shmem_barrier_all());
    int rc = check_done();
    fflush(NULL);
    _exit(rc);
}

int main(int argc, char **argv)
{
    const char *rank = getenv("RANK"), *size = getenv("WORLD_SIZE"), *mode = argc > 1 ? argv[1] : "";
    bool asks = (rank && atoi(rank) % 2) || !size || atoi(size) == 1;
    if (strcmp(mode, "off") == 0)
        return off();
    setenv("SHMEM_DEBUG", asks ? "1" : "0", 1);
    if (strcmp(mode, "finalize") == 0)
        return unmatched_finalize();
    pes_begin();
    if (strcmp(mode, "leave") == 0)
        return me == npes - 1 ? 0 : pes_end();
    other = (me + 1) % npes;
    test_blocks();
    test_alignment();
    test_local();
    test_overlap();
    if (npes > 1)
        test_collectives();
    return pes_end();
}
