/* Every PE puts its number into the memory of its right neighbour. Build and run: see README.md beside this file. */
#include <stdio.h>

#include "shmem.h"

int main(void)
{
    shmem_init();
    int me = shmem_my_pe(), n = shmem_n_pes();

    long *from = shmem_calloc(1, sizeof *from); /* symmetric: every PE has one, and can reach all of them */
    shmem_long_p(from, me, (me + 1) % n);
    shmem_barrier_all(); /* all puts are complete, on all PEs */

    printf("PE %d of %d: my left neighbour is %ld\n", me, n, *from);
    shmem_free(from);
    shmem_finalize();
    return 0;
}
