/* MPI and libshmem in one process: the argument says what is called in which order, a letter each: m MPI_Init,
 * s shmem_init, x exchange by what is initialized, S shmem_finalize, M MPI_Finalize. (tests/python/test_mpi_order.py)
 * Of PMIx's ranks, MPI_ORDER_LATE leaves PMIx a second later than it would, MPI_ORDER_ABSENT ends instead of shmem_init. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* RTLD_NEXT */
#endif
#include <dlfcn.h>
#include <mpi.h>
#include <shmemx.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static long inbox; /* symmetric */

static int i_am(const char *variable)
{
    const char *rank = getenv("PMIX_RANK"), *who = getenv(variable);
    return rank && who && strcmp(rank, who) == 0;
}

/* Open MPI's MPI_Finalize calls it here. */
int PMIx_Finalize(const void *info, size_t n);
int PMIx_Finalize(const void *info, size_t n)
{
    int (*next)(const void *, size_t);
    *(void **)&next = dlsym(RTLD_NEXT, "PMIx_Finalize");
    if (i_am("MPI_ORDER_LATE"))
        sleep(1);
    return next ? next(info, n) : -1;
}

static int by_shmem(int round)
{
    int me = shmem_my_pe(), n = shmem_n_pes();
    shmem_long_p(&inbox, 100 * round + me, (me + 1) % n);
    shmem_barrier_all();
    long got = inbox;
    shmem_barrier_all();
    return got == 100 * round + (me + n - 1) % n;
}

static int by_mpi(int round)
{
    int me, n, got = -1;
    MPI_Comm_rank(MPI_COMM_WORLD, &me);
    MPI_Comm_size(MPI_COMM_WORLD, &n);
    int mine = 100 * round + me;
    MPI_Sendrecv(&mine, 1, MPI_INT, (me + 1) % n, 7, &got, 1, MPI_INT, (me + n - 1) % n, 7, MPI_COMM_WORLD,
                 MPI_STATUS_IGNORE);
    return got == 100 * round + (me + n - 1) % n;
}

int main(int argc, char **argv)
{
    int shmem = 0, mpi = 0, round = 0, ok = 1, same = 1, me = -1, n = 0;
    for (const char *c = argc > 1 ? argv[1] : ""; *c; ++c) {
        switch (*c) {
        case 'm':
            ok = ok && MPI_Init(&argc, &argv) == MPI_SUCCESS;
            mpi = 1;
            break;
        case 's':
            if (i_am("MPI_ORDER_ABSENT"))
                return 0;
            shmem_init();
            shmem = 1;
            me = shmem_my_pe();
            n = shmem_n_pes();
            break;
        case 'S':
            shmem_finalize();
            shmem = 0;
            break;
        case 'M':
            MPI_Finalize();
            mpi = 0;
            break;
        default:
            ++round;
            if (mpi && shmem) {
                int rank;
                MPI_Comm_rank(MPI_COMM_WORLD, &rank);
                same = same && rank == shmem_my_pe();
            }
            ok = ok && (!shmem || by_shmem(round)) && (!mpi || by_mpi(round)) &&
                 (!shmem || by_shmem(round + 50));
        }
    }
    printf("PE %d of %d: %s\n", me, n, !same ? "ranks differ" : ok ? "ok" : "wrong");
    return !(ok && same);
}
