/* A PE of a job that a launcher starts over several hosts (tests/net/launchers.sh): a put to everybody, a barrier, a
 * reduction. Says who it is, how it came to be, and the result.
 *
 *     net_start            as the launcher says
 *     net_start FILE       by a unique id that RANK 0 leaves in that file, for WORLD_SIZE PEs */
#include <stdio.h>

#include "pes.h"

static int by_uid(const char *file)
{
    shmemx_uniqueid_t id;
    int rank = atoi(getenv("RANK")), size = atoi(getenv("WORLD_SIZE"));
    char made[4096];
    FILE *f;
    snprintf(made, sizeof made, "%s.new", file);
    if (rank == 0) {
        int rc = shmemx_get_uniqueid(&id);
        if (rc || !(f = fopen(made, "wb")))
            return 1;
        bool written = fwrite(&id, sizeof id, 1, f) == 1;
        if (fclose(f) != 0 || !written || rename(made, file) != 0)
            return 1;
    } else {
        for (double until = seconds() + 30; !(f = fopen(file, "rb")); doze(10000))
            if (seconds() > until)
                return 1;
        bool read = fread(&id, sizeof id, 1, f) == 1;
        fclose(f);
        if (!read)
            return 1;
    }
    return shmemx_init_uid(rank, size, &id);
}

int main(int argc, char **argv)
{
    CHECK(argc < 2 || by_uid(argv[1]) == 0, "a unique id: %s", shmemx_last_error());
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
    if (argc > 1)
        shmem_finalize(); /* init_uid was the first init */
    return pes_end();
}
