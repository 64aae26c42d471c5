/* Prefix sums tell each PE where its part begins; then all write into one array on PE 0, and a flag says that it is complete.
 * One name serves every type: shmem_put, shmem_sum_exscan. Build and run: see README.md beside this file. */
#include <stdio.h>

#include <shmem.h>

int main(void)
{
    shmem_init();
    int me = shmem_my_pe(), n = shmem_n_pes();

    size_t *count = shmem_calloc(2, sizeof *count), *start = count + 1;
    double *all = shmem_calloc((size_t)n * (size_t)(n + 1) / 2, sizeof *all), mine[256];
    uint64_t *arrived = shmem_calloc(1, sizeof *arrived);

    *count = (size_t)(me + 1) % 256; /* PE 0 has one number, PE 1 two, and so on */
    for (size_t i = 0; i < *count; i++)
        mine[i] = me + i / 10.0;
    shmem_sum_exscan(SHMEM_TEAM_WORLD, start, count, 1);

    shmem_put(all + *start, mine, *count, 0); /* shmem_double_put */
    shmem_fence();                            /* the numbers before the flag */
    shmem_atomic_inc(arrived, 0);             /* shmem_uint64_atomic_inc */

    if (me == 0) {
        shmem_wait_until(arrived, SHMEM_CMP_EQ, (uint64_t)n);
        for (size_t i = 0; i < (size_t)n * (size_t)(n + 1) / 2; i++)
            printf("%g ", all[i]);
        printf("\n");
    }
    shmem_finalize();
    return 0;
}
