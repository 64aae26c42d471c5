/* What the collectives share: the team, and where the caller's buffers are. */
#ifndef SHMEMI_COLL_H
#define SHMEMI_COLL_H

#include "team.h"

struct shmemi_coll {
    const char *call;
    struct shmemi_team *t;
    struct shmemi_place dest, source;
    int root;   /* of a broadcast, else 0 */
    bool shown; /* in debug mode: the members have compared their buffers */
};

int shmemi_coll_enter(const char *call, shmem_team_t team, struct shmemi_coll *c);
/* Both buffers must be symmetric where they have bytes. */
int shmemi_coll_buffers(struct shmemi_coll *c, const void *dest, size_t dest_bytes, const void *source,
                        size_t source_bytes);
/* Both in the GPU heap: then the stream-ordered call on the library's stream does it, and gpu_finish waits. */
bool shmemi_both_gpu(const void *dest, const void *source);
int shmemi_gpu_finish(const char *call, int rc);
/* The collectives under the name of the call that needs them, on host memory alone; shmemi_barrier is in team.h. */
int shmemi_sync(const char *call, shmem_team_t team);
int shmemi_broadcast(const char *call, shmem_team_t team, void *dest, const void *source, size_t nbytes,
                     int root);
int shmemi_collect(const char *call, shmem_team_t team, void *dest, size_t dest_nbytes, const void *source,
                   size_t nbytes);
int shmemi_fcollect(const char *call, shmem_team_t team, void *dest, const void *source, size_t nbytes);
int shmemi_alltoall(const char *call, shmem_team_t team, void *dest, const void *source, size_t nbytes);
int shmemi_alltoalls(const char *call, shmem_team_t team, void *dest, const void *source, ptrdiff_t dst,
                     ptrdiff_t sst, size_t elem_size, size_t nelems);
int shmemi_reduce(const char *call, shmem_team_t team, int op, int type, void *dest, const void *source,
                  size_t nelems);
int shmemi_scan(const char *call, shmem_team_t team, bool exclusive, int type, void *dest, const void *source,
                size_t nelems);
/* Bytes of an element if the reduction exists, else 0, logged. */
size_t shmemi_reduce_size(const char *call, int op, int type);
/* shmemx_reduce (sum) over a team on one node whose members have just met in the caller's own epoch, so that all sources
 * are ready. */
int shmemi_sum_met(const char *call, shmem_team_t team, int type, void *dest, const void *source,
                   size_t nelems);
/* Checks strides and finds how many bytes `n` elements span at each side (rma.c). */
int shmemi_spans(const char *call, ptrdiff_t dst, ptrdiff_t sst, size_t size, size_t n, size_t *dspan,
                 size_t *sspan);
bool shmemi_overlap(const void *a, size_t na, const void *b, size_t nb);

#endif
