/* A job of one process, started by nobody. */
#include "bootstrap.h"

#include <stdio.h>
#include <stdlib.h>
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

/* srun without --mpi starts tasks that cannot find each other; that is rarely meant. */
static void warn_of_srun(void)
{
    const char *tasks = getenv("SLURM_STEP_NUM_TASKS");
    if (strcmp(shmemi_env.BOOTSTRAP, "auto") != 0 || tasks == NULL || strcmp(tasks, "1") == 0 ||
        getenv("PMI_FD") || getenv("PMIX_RANK") || getenv("RANK"))
        return;
    shmemi_warn(
        "srun has started %.20s tasks without a way to find each other, so this one is a job of its own: "
        "srun --mpi=pmix or --mpi=pmi2 (srun --mpi=list says which there are); "
        "SHMEM_BOOTSTRAP=single if it is meant so",
        tasks);
}

int shmemi_bootstrap_single(struct shmemi_bootstrap *b)
{
    warn_of_srun();
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
