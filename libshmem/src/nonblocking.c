/* Nonblocking collectives (shmemx_nonblocking.h): each is the blocking one over the team's twin, run by another thread
 * (request.c). */
#include "nonblocking.h"

#include "coll.h"

int shmemi_task_run(const struct shmemi_task *j, shmem_team_t twin)
{
    int rc = SHMEMX_SUCCESS;
    struct shmemi_team *t = shmemi_team_get(j->call, twin, &rc);
    if (!t)
        return rc;
    if (shmemi_both_gpu(j->dest, j->source))
        return shmemi_refuse(
            j->call, t,
            shmemi_fail(SHMEMX_ERR_UNSUPPORTED, j->call,
                        "dest %p and source %p are in the GPU heap; the calls of shmemx_stream.h "
                        "return at once",
                        j->dest, j->source));
    switch (j->kind) {
    case SHMEMI_TASK_SYNC:
        return shmemi_sync(j->call, twin);
    case SHMEMI_TASK_BARRIER:
        return shmemi_barrier(j->call, twin);
    case SHMEMI_TASK_BROADCAST:
        return shmemi_broadcast(j->call, twin, j->dest, j->source, j->n, j->which);
    case SHMEMI_TASK_COLLECT:
        return shmemi_collect(j->call, twin, j->dest, j->room, j->source, j->n);
    case SHMEMI_TASK_FCOLLECT:
        return shmemi_fcollect(j->call, twin, j->dest, j->source, j->n);
    case SHMEMI_TASK_ALLTOALL:
        return shmemi_alltoall(j->call, twin, j->dest, j->source, j->n);
    case SHMEMI_TASK_ALLTOALLS:
        return shmemi_alltoalls(j->call, twin, j->dest, j->source, j->dst, j->sst, j->elem_size, j->n);
    case SHMEMI_TASK_REDUCE:
        return shmemi_reduce(j->call, twin, j->which, j->type, j->dest, j->source, j->n);
    case SHMEMI_TASK_SCAN:
        break;
    }
    return shmemi_scan(j->call, twin, j->which, j->type, j->dest, j->source, j->n);
}

/* A task on the caller's dest and source. */
#define TASK(CALL, KIND, ...)                                                                                \
    &(struct shmemi_task)                                                                                    \
    {                                                                                                        \
        .call = CALL, .kind = KIND, .dest = dest, .source = source, __VA_ARGS__                              \
    }

int shmemx_sync_nb(shmem_team_t team, shmemx_request_t *request)
{
    return shmemi_request_start(team, request,
                                &(struct shmemi_task){.call = "shmemx_sync_nb", .kind = SHMEMI_TASK_SYNC});
}

int shmemx_barrier_nb(shmem_team_t team, shmemx_request_t *request)
{
    return shmemi_request_start(
        team, request, &(struct shmemi_task){.call = "shmemx_barrier_nb", .kind = SHMEMI_TASK_BARRIER});
}

int shmemx_broadcastmem_nb(shmem_team_t team, void *dest, const void *source, size_t nbytes, int root,
                           shmemx_request_t *request)
{
    return shmemi_request_start(
        team, request, TASK("shmemx_broadcast_nb", SHMEMI_TASK_BROADCAST, .n = nbytes, .which = root));
}

int shmemx_collectmem_nb(shmem_team_t team, void *dest, size_t dest_nbytes, const void *source, size_t nbytes,
                         shmemx_request_t *request)
{
    return shmemi_request_start(
        team, request, TASK("shmemx_collect_nb", SHMEMI_TASK_COLLECT, .n = nbytes, .room = dest_nbytes));
}

int shmemx_fcollectmem_nb(shmem_team_t team, void *dest, const void *source, size_t nbytes,
                          shmemx_request_t *request)
{
    return shmemi_request_start(team, request, TASK("shmemx_fcollect_nb", SHMEMI_TASK_FCOLLECT, .n = nbytes));
}

int shmemx_alltoallmem_nb(shmem_team_t team, void *dest, const void *source, size_t nbytes,
                          shmemx_request_t *request)
{
    return shmemi_request_start(team, request, TASK("shmemx_alltoall_nb", SHMEMI_TASK_ALLTOALL, .n = nbytes));
}

int shmemx_alltoallsmem_nb(shmem_team_t team, void *dest, const void *source, ptrdiff_t dst, ptrdiff_t sst,
                           size_t elem_size, size_t nelems, shmemx_request_t *request)
{
    return shmemi_request_start(team, request,
                                TASK("shmemx_alltoalls_nb", SHMEMI_TASK_ALLTOALLS, .n = nelems,
                                     .elem_size = elem_size, .dst = dst, .sst = sst));
}

int shmemx_reduce_nb(shmem_team_t team, int op, int type, void *dest, const void *source, size_t nelems,
                     shmemx_request_t *request)
{
    return shmemi_request_start(
        team, request, TASK("shmemx_reduce_nb", SHMEMI_TASK_REDUCE, .n = nelems, .which = op, .type = type));
}

int shmemx_scan_nb(shmem_team_t team, int exclusive, int type, void *dest, const void *source, size_t nelems,
                   shmemx_request_t *request)
{
    return shmemi_request_start(
        team, request,
        TASK("shmemx_scan_nb", SHMEMI_TASK_SCAN, .n = nelems, .which = exclusive != 0, .type = type));
}
