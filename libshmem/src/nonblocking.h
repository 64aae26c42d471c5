/* Nonblocking collectives inside: tasks, and what setup and teams tell those who run them. */
#ifndef SHMEMI_NONBLOCKING_H
#define SHMEMI_NONBLOCKING_H

#include "team.h"

/* In the internal part of the host segment, before the stages: a cache line a team slot, with the words by which the members
 * agree on the slot of its twin. */
#define SHMEMI_TWIN_BYTES ((size_t)SHMEMI_TEAMS * SHMEMI_CACHE_LINE)

/* What a request runs. */
struct shmemi_task {
    const char *call;
    enum {
        SHMEMI_TASK_SYNC,
        SHMEMI_TASK_BARRIER,
        SHMEMI_TASK_BROADCAST,
        SHMEMI_TASK_COLLECT,
        SHMEMI_TASK_FCOLLECT,
        SHMEMI_TASK_ALLTOALL,
        SHMEMI_TASK_ALLTOALLS,
        SHMEMI_TASK_REDUCE,
        SHMEMI_TASK_SCAN
    } kind;
    void *dest;
    const void *source;
    size_t n, room, elem_size; /* n: bytes, or elements; room: at dest */
    ptrdiff_t dst, sst;
    int which, type; /* which: root, operation, or exclusive */
};
/* nonblocking.c: the collective itself, over the team's twin. */
int shmemi_task_run(const struct shmemi_task *j, shmem_team_t twin);

/* The rest is request.c. Queues a copy of the task; errors as shmemx_nonblocking.h has them. */
int shmemi_request_start(shmem_team_t team, shmemx_request_t *request, const struct shmemi_task *task);
/* How many this PE has started on a team. */
uint64_t shmemi_nonblocking_started(const struct shmemi_team *t);
/* In the destruction of team `t`: all members have just shown each other these numbers, or failed to (`rc`). Completes what
 * all have started, gives the rest up, ends the team's thread and its twin. Returns rc, or MISMATCH. */
int shmemi_nonblocking_drop(const char *call, struct shmemi_team *t, int rc);
/* The same for all teams at the end of the job; collective over the world where `in_step`, else everything is given up. */
int shmemi_nonblocking_close(const char *call, bool in_step);
/* Local: the threads' waits end; nobody waits for them. */
void shmemi_nonblocking_abandon(void);

#endif
