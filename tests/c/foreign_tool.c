/* A tool that stands before the library, as profilers do: not another library. */
#include <stdio.h>
#include "shmemx.h"

void shmem_init(void)
{
    fprintf(stderr, "tool: shmem_init\n");
    if (shmemx_init() != 0)
        shmem_global_exit(1);
}
