/* A PE of a job that a launcher starts over several hosts (tests/net/launchers.sh): a put to everybody, a barrier, a
 * reduction. Says who it is, how it came to be, and the result. */
#include "pes.h"

int main(void)
{
    pes_begin();
    long *row = shmem_calloc((size_t)npes, sizeof *row), *sum = shmem_calloc(2, sizeof *sum);
    CHECK(row && sum, "memory");
    for (int pe = 0; pe < npes; pe++)
        shmem_long_p(row + me, me + 1, pe);
    shmem_barrier_all();
    for (int pe = 0; pe < npes; pe++)
        sum[0] += row[pe];
    CHECK(shmem_long_sum_reduce(SHMEM_TEAM_WORLD, sum + 1, sum, 1) == 0, "reduction");
    printf("PE %d of %d by %s, %d on this node: %ld\n", me, npes, shmemx_bootstrap_name(),
           shmem_team_n_pes(SHMEM_TEAM_SHARED), sum[1]);
    return pes_end();
}
