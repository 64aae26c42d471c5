/* Nonblocking collectives: a call starts the collective and returns, a request says when it is done.
 *
 *     shmemx_request_t r;
 *     shmemx_sum_reduce_nb(team, dest, source, n, &r);     // shmemx_double_sum_reduce_nb and so on
 *     compute();                                           // dest and source are the library's until r is done
 *     rc = shmemx_request_wait(&r);
 *
 * Every collective of shmem.h has such a form: its name with _nb at the end, its arguments, and a request. All members of
 * the team call, and start the nonblocking collectives of one team in the same order; between teams, and between these
 * and the blocking calls, there is no order to keep: a member may be in a barrier of the same team meanwhile. Neither dest
 * nor source may be written, nor dest read, nor either freed, between start and the end.
 *
 * A start checks the request and the team, and never waits for another PE. Whatever else is wrong (addresses, arguments that
 * differ between members, a lost PE, SHMEM_TIMEOUT) is the result of the request: wait and test return it. When a request is
 * done, this PE's dest is complete and its source may be written, as after the blocking call.
 *
 * A thread of the library's own runs them, one a team that has started some, asleep while there is nothing to do. Any thread
 * level will do; requests may be started, waited for and tested in any thread. A team that has started some counts twice
 * among the 128 that a PE can have. Destroying it, and shmem_finalize, first complete what all members have started; what
 * some member has not started ends with INTERRUPTED, and the call that ended it returns MISMATCH. Host memory alone: for GPU
 * memory shmemx_stream.h has calls that return at once.
 */
#ifndef SHMEMX_NONBLOCKING_H
#define SHMEMX_NONBLOCKING_H

#include "shmem.h"
#include "shmemx_errors.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A handle; copies name the same request. 4096 a PE may be open: started and not yet waited for, or tested, to the end. */
typedef struct shmemx_request_handle *shmemx_request_t;
#ifndef SHMEM_CDEF
#define SHMEMX_REQUEST_NULL ((shmemx_request_t)0)
#endif

/* ---- requests ---------------------------------------------------------------------------------------- */

/* Waits until it is done; returns what the blocking collective would return. *request becomes SHMEMX_REQUEST_NULL, for which
 * wait returns 0 at once; a copy of a request that was waited for gives ARGUMENT. INTERRUPTED (shmemx_set_interrupt): where
 * *request is still there it goes on and can be waited for again. */
SHMEMX_API int shmemx_request_wait(shmemx_request_t *request);
/* *done = 1 if it is done, and then as wait; else 0, and the processor has been given away once. */
SHMEMX_API int shmemx_request_test(shmemx_request_t *request, int *done);
/* Waits for all n; those that are SHMEMX_REQUEST_NULL count as done. Returns the first error, after all are done (INTERRUPTED:
 * at once). */
SHMEMX_API int shmemx_request_wait_all(shmemx_request_t *requests, size_t n);
/* Waits until one of n is done, and returns its result; *index is its number, SIZE_MAX if all are SHMEMX_REQUEST_NULL. */
SHMEMX_API int shmemx_request_wait_any(shmemx_request_t *requests, size_t n, size_t *index);

/* ---- the untyped core ----------------------------------------------------------------------------------- */

/* Arguments are those of shmemx_sync, shmemx_broadcast and so on, in bytes where these are. Start: 0, or ARGUMENT
 * (request is NULL), TEAM, NOT_INITIALIZED, LIMIT (4096 requests are open), SYSTEM; then *request is SHMEMX_REQUEST_NULL
 * and nothing has begun. */
SHMEMX_API int shmemx_sync_nb(shmem_team_t team, shmemx_request_t *request);
/* Done when all members have started it and what this PE had issued before it is complete (quiet of all contexts). */
SHMEMX_API int shmemx_barrier_nb(shmem_team_t team, shmemx_request_t *request);
SHMEMX_API int shmemx_broadcastmem_nb(shmem_team_t team, void *dest, const void *source, size_t nbytes,
                                      int root, shmemx_request_t *request);
/* dest_nbytes: the room at dest, SIZE_MAX = not known. */
SHMEMX_API int shmemx_collectmem_nb(shmem_team_t team, void *dest, size_t dest_nbytes, const void *source,
                                    size_t nbytes, shmemx_request_t *request);
SHMEMX_API int shmemx_fcollectmem_nb(shmem_team_t team, void *dest, const void *source, size_t nbytes,
                                     shmemx_request_t *request);
SHMEMX_API int shmemx_alltoallmem_nb(shmem_team_t team, void *dest, const void *source, size_t nbytes,
                                     shmemx_request_t *request);
/* Strides in elements of elem_size bytes. */
SHMEMX_API int shmemx_alltoallsmem_nb(shmem_team_t team, void *dest, const void *source, ptrdiff_t dst,
                                      ptrdiff_t sst, size_t elem_size, size_t nelems,
                                      shmemx_request_t *request);
/* op: enum shmemx_reduce_op, type: enum shmemx_type. */
SHMEMX_API int shmemx_reduce_nb(shmem_team_t team, int op, int type, void *dest, const void *source,
                                size_t nelems, shmemx_request_t *request);
SHMEMX_API int shmemx_scan_nb(shmem_team_t team, int exclusive, int type, void *dest, const void *source,
                              size_t nelems, shmemx_request_t *request);

#ifdef __cplusplus
}
#endif

#ifndef SHMEM_CDEF
#include "shmemx_nonblocking_typed.h"
#endif

#endif
