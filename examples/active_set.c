/* A program of the days before teams: start_pes, work arrays, and sums over the even PEs by an active set. Such programs compile
 * and run as they are; new ones take teams. Build and run: see README.md beside this file. */
#include <stdio.h>

#include <mpp/shmem.h>

static long psync[_SHMEM_REDUCE_SYNC_SIZE]; /* static variables are symmetric */
static double work[_SHMEM_REDUCE_MIN_WRKDATA_SIZE], value, sum;

int main(void)
{
    start_pes(0);
    int me = _my_pe(), n = _num_pes(), evens = (n + 1) / 2;

    for (int i = 0; i < _SHMEM_REDUCE_SYNC_SIZE; i++)
        psync[i] = _SHMEM_SYNC_VALUE;
    value = me;
    shmem_barrier_all();

    if (me % 2 == 0) { /* PEs 0, 2, 4, ..: from 0 on, 2^1 apart */
        shmem_double_sum_to_all(&sum, &value, 1, 0, 1, evens, work, psync);
        printf("PE %d of %d: the even PEs have %g in all\n", me, n, sum);
    }
    return 0; /* finalized when main returns */
}
