/* A PE of a job between hosts in which something goes wrong: tests/net/run.sh makes the hosts, breaks them and reads what
 * this says. The last PE is the one in trouble.
 *
 *     net_faults put | barrier | wait    it kills itself: while PE 0 puts to it, before a barrier, while PE 0 waits for it
 *     net_faults silent                  it never answers PE 0, which waits; nobody sends anything
 *     net_faults stream SECONDS          nothing happens here: bulk, atomics and barriers for that long, each checked
 *
 * Every PE that lives on says how its call ended and after how long, finalizes and ends with 0. */
#include <signal.h>

#include "pes.h"

enum { BULK = 1 << 20 };
static char *bulk, *source;
static long *words;

static int put_until_error(int victim, double until)
{
    int rc = 0;
    while (rc == 0 && seconds() < until) {
        rc = shmemx_put(SHMEM_CTX_DEFAULT, bulk, source, BULK, victim);
        rc = rc ? rc : shmemx_quiet(SHMEM_CTX_DEFAULT);
    }
    return rc;
}

/* What the last PE receives it gives back; each round is compared. */
static int stream(double until)
{
    int rc = 0, last = npes - 1;
    long rounds = 0, old = 0, more = 1;
    while (rc == 0 && more) {
        if (me == 0) {
            memset(source, (int)(rounds % 251), BULK);
            rc = shmemx_put(SHMEM_CTX_DEFAULT, bulk, source, BULK, last);
            rc = rc ? rc : shmemx_atomic(SHMEM_CTX_DEFAULT, SHMEMX_AMO_ADD, 8, words, 1, 0, last, &old);
            CHECK(rc || old == rounds, "round %ld: counter %ld", rounds, old);
            more = seconds() < until;
            for (int pe = 0; pe < npes && rc == 0; pe++)
                rc = shmemx_put(SHMEM_CTX_DEFAULT, words + 1, &more, sizeof more, pe);
        }
        rc = rc ? rc : shmemx_barrier(SHMEM_TEAM_WORLD);
        if (rc == 0 && me == last) {
            int wrong = 0;
            for (int i = 0; i < BULK; i++)
                wrong += (unsigned char)bulk[i] != rounds % 251;
            CHECK(wrong == 0, "round %ld: %d bytes are wrong", rounds, wrong);
        }
        more = words[1];
        rounds++;
        rc = rc ? rc : shmemx_barrier(SHMEM_TEAM_WORLD);
    }
    if (me == 0)
        check_say("%ld rounds", rounds);
    return rc;
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    pes_begin();
    int victim = npes - 1, rc = 0;
    bulk = pes_alloc(BULK);
    words = pes_alloc(64);
    source = pes_private(BULK);
    shmem_barrier_all();
    double begin = seconds();
    bool dies = strcmp(what, "stream") != 0, silent = strcmp(what, "silent") == 0;
    if (silent && me == victim)
        doze(18000000); /* as a program that computes */
    if (dies && me == victim) {
        doze(300000);
        raise(SIGKILL);
    }
    if (!dies)
        rc = stream(begin + (argc > 2 ? atof(argv[2]) : 1));
    else if (strcmp(what, "put") == 0 && me == 0)
        rc = put_until_error(victim, begin + 60);
    else if ((silent || strcmp(what, "wait") == 0) && me == 0)
        rc = shmemx_signal_wait_until((uint64_t *)words, SHMEM_CMP_EQ, 1, NULL);
    else
        rc = shmemx_barrier(SHMEM_TEAM_WORLD);
    check_say("%s: %s after %.1f s", what, shmemx_error_name(rc), seconds() - begin);
    begin = seconds();
    int end = shmemx_finalize();
    check_say("finalize: %s after %.1f s", shmemx_error_name(end), seconds() - begin);
    CHECK(dies ? rc != 0 : true, "%s ended well", what);
    return check_done();
}
