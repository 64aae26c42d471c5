/* The mistakes that programs make most, without debug mode and by the void calls of the standard: each is named on standard
 * error with the call and the value, and the program goes on.
 *
 * With the argument "leave" a PE ends without shmem_finalize: named as well, and the job ends. */
#include "pes.h"

static char said[65536]; /* what libshmem wrote since the last look */
static int from_stderr, old_stderr;

static void listen(void)
{
    int ends[2];
    fflush(stderr);
    old_stderr = dup(STDERR_FILENO);
    if (old_stderr < 0 || pipe(ends) != 0 || dup2(ends[1], STDERR_FILENO) < 0)
        exit(3);
    close(ends[1]);
    from_stderr = ends[0];
}

static void hear(void)
{
    dup2(old_stderr, STDERR_FILENO);
    close(old_stderr);
    size_t n = 0;
    for (ssize_t got; (got = read(from_stderr, said + n, sizeof said - 1 - n)) > 0;)
        n += (size_t)got;
    said[n] = 0;
    close(from_stderr);
}

#define NAMED(call, what, statement)                                                                         \
    do {                                                                                                     \
        listen();                                                                                            \
        statement;                                                                                           \
        hear();                                                                                              \
        CHECK(strstr(said, call) && strstr(said, what), "\"%s\" and \"%s\" are not in: %s", call, what,      \
              said);                                                                                         \
    } while (0)

int main(int argc, char **argv)
{
    static long target, wide[128];
    long local[8] = {1, 2, 3}, *heap;
    void *p = NULL;
    NAMED("shmem_long_put", "called before shmem_init", shmem_long_put(&target, local, 1, 0));
    NAMED("shmem_malloc", "called before shmem_init", p = shmem_malloc(8));
    CHECK(p == NULL && target == 0, "it did something");
    pes_begin();
    const int pe = (me + 1) % npes;
    heap = pes_alloc(sizeof local);
    if (argc > 1 && strcmp(argv[1], "leave") == 0) {
        if (me == npes - 1)
            _exit(0);
        shmem_barrier_all();
        return 0;
    }
    NAMED("shmem_long_put: dest", "not in the symmetric heap", shmem_long_put(local + 4, local, 2, pe));
    NAMED("shmem_long_p", "is out of range, 0 to", shmem_long_p(heap, 1, npes));
    NAMED("shmem_long_get", "PE -1 is out of range", shmem_long_get(local, heap, 1, -1));
    NAMED("shmem_putmem: dest", "past the end of the symmetric heap",
          shmem_putmem(heap, local, (size_t)1 << 40, pe));
    NAMED("shmem_malloc", "SHMEM_SYMMETRIC_SIZE", p = shmem_malloc((size_t)1 << 40));
    CHECK(p == NULL, "1 TiB of heap");
    NAMED("shmem_free", "not in the symmetric heap", shmem_free(local));
    NAMED("shmem_free", "not the start of a block in use", shmem_free(heap + 1));
    NAMED("shmem_long_wait_until", "comparison 77", shmem_long_wait_until(heap, 77, 1));
    NAMED("shmem_long_put", "source is NULL", shmem_long_put(heap, NULL, 1, pe));
    NAMED("shmem_long_get", "dest is NULL", shmem_long_get(NULL, heap, 1, pe));
    NAMED("shmem_long_iput", "strides dst 0, sst 1", shmem_long_iput(heap, local, 0, 1, 2, pe));
    NAMED("shmem_long_atomic_add: dest", "not in the symmetric heap", shmem_long_atomic_add(local, 1, pe));
    if (npes > 1)
        NAMED("", me ? "is in alltoall" : "is in fcollect",
              (void)(me ? shmem_long_fcollect(SHMEM_TEAM_WORLD, wide, wide + 64, 1)
                        : shmem_long_alltoall(SHMEM_TEAM_WORLD, wide, wide + 64, 1)));
    shmem_barrier_all();
    CHECK(local[0] == 1 && local[4] == 0, "something was written");
    shmem_long_p(heap, 10 + me, pe);
    shmem_barrier_all();
    CHECK(heap[0] == 10 + (me + npes - 1) % npes, "and then it does not work: %ld", heap[0]);
    shmem_free(heap);
    shmem_finalize();
    NAMED("shmem_barrier_all", "after shmem_finalize", shmem_barrier_all());
    NAMED("shmem_finalize", "before shmem_init or after shmem_finalize", shmem_finalize());
    return check_done();
}
