/* A job of one process, started by nobody. */
#include "bootstrap.h"

#include <stdio.h>
#include <string.h>

static int single_allgather(struct shmemi_bootstrap *b, const void *mine, void *all, size_t n)
{
    (void)b;
    memcpy(all, mine, n);
    return SHMEMX_SUCCESS;
}

static int single_barrier(struct shmemi_bootstrap *b)
{
    (void)b;
    return SHMEMX_SUCCESS;
}

static void single_abort(struct shmemi_bootstrap *b, int status)
{
    (void)b;
    (void)status; /* the caller's exit is the end of the job */
}

static void single_close(struct shmemi_bootstrap *b)
{
    memset(b, 0, sizeof *b);
}

int shmemi_bootstrap_single(struct shmemi_bootstrap *b)
{
    *b = (struct shmemi_bootstrap){
        .name = "single",
        .rank = 0,
        .size = 1,
        .allgather = single_allgather,
        .barrier = single_barrier,
        .abort = single_abort,
        .close = single_close,
    };
    snprintf(b->detail, sizeof b->detail, "one process, no launcher");
    return 1;
}
