/* PEs of a job over real verbs to which something happens (tests/roce/faults): each says what it saw.
 *
 *     trouble start | put | barrier | atomic | cut SECONDS
 */
#include <signal.h>

#include "pes.h"

enum { VICTIM = 1 };

static long *words;

/* What a call gave back; the program goes on and leaves in order. */
static void came_back(const char *call, int rc, double since)
{
    fprintf(stderr, "PE %d: %s came back after %.1f s with %s\n", me, call, seconds() - since,
            shmemx_error_name(rc));
    int end = shmemx_finalize();
    fprintf(stderr, "PE %d: finalize gave %s\n", me, shmemx_error_name(end));
    exit(rc == SHMEMX_ERR_PEER_DEAD ? 0 : 4);
}

static void die_soon(void)
{
    doze(300000);
    raise(SIGKILL);
}

/* Puts until one fails. */
static void put_until_error(size_t bytes)
{
    double start = seconds();
    for (;;) {
        int rc = shmemx_put(SHMEM_CTX_DEFAULT, words, words + 8192, bytes, VICTIM);
        rc = rc ? rc : shmemx_quiet(SHMEM_CTX_DEFAULT);
        if (rc)
            came_back("put", rc, start);
    }
}

static void add_until_error(void)
{
    double start = seconds();
    for (;;) {
        long old;
        int rc = shmemx_atomic(SHMEM_CTX_DEFAULT, SHMEMX_AMO_ADD, 8, words, 1, 0, VICTIM, &old);
        if (rc)
            came_back("atomic", rc, start);
    }
}

/* Works for some seconds, whatever happens to the link; every put must arrive. */
static void work(double time)
{
    double start = seconds(), slowest = 0;
    long n = 0;
    while (seconds() - start < time) {
        double began = seconds();
        n++;
        if (me == 0) {
            shmem_long_p(words, n, VICTIM);
            shmem_quiet();
            CHECK(shmem_long_g(words, VICTIM) == n, "put %ld did not arrive", n);
        }
        double took = seconds() - began;
        slowest = took > slowest ? took : slowest;
    }
    shmem_barrier_all();
    if (me == 0)
        fprintf(stderr, "%s, the slowest put took %.1f s\n", check_failed ? "LOST" : "nothing is lost",
                slowest);
    (void)check_pass(); /* of PEs that only take part */
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    pes_begin();
    words = pes_alloc(16384 * sizeof *words);
    shmem_barrier_all();
    if (strcmp(what, "start") == 0) {
        shmem_long_p(words, 1, (me + 1) % npes);
        shmem_barrier_all();
        CHECK(words[0] == 1, "%ld", words[0]);
    } else if (strcmp(what, "cut") == 0) {
        work(argc > 2 ? atof(argv[2]) : 3);
    } else if (me == VICTIM) {
        die_soon();
    } else if (strcmp(what, "put") == 0) {
        put_until_error(me == 0 ? 65536 : 8);
    } else if (strcmp(what, "atomic") == 0) {
        add_until_error();
    } else {
        double start = seconds();
        int rc = shmemx_barrier(SHMEM_TEAM_WORLD);
        came_back("barrier", rc, start);
    }
    return pes_end();
}
