/* The state of an initialized job, and the one check that every call makes first.
 *
 * `shmemi_world.npes` is 0 outside init .. finalize, so a single unsigned comparison of the PE number answers both
 * "initialized?" and "in range?" on the fast path; the slow path says which it was. */
#ifndef SHMEMI_WORLD_H
#define SHMEMI_WORLD_H

#include "base/bootstrap.h"
#include "base/node.h"
#include "shmem.h"
#include "shmemx.h"
#include "transport.h"

struct shmemi_world {
    int me, npes;
    unsigned jobs; /* inits so far: what was made in an earlier job is known by it */
    struct shmemi_segment segments[SHMEMI_SEGMENT_COUNT];
    size_t internal_bytes; /* at the start of the host segment: the library's own (team.h) */
    const struct shmemi_transport **route; /* [npes], tables with no NULL slot */
    const struct shmemi_transport *open[8]; /* those in use, for fence and quiet */
    int nopen;
    bool all_mapped; /* every PE's host segment can be loaded and stored directly */
    struct shmemi_bootstrap boot;
    struct shmemi_job job;
};
extern struct shmemi_world shmemi_world;

/* Where a symmetric address is. */
struct shmemi_place {
    int segment;
    uint64_t offset;
};

/* Logs why `pe` is no good: not initialized, or out of range. */
SHMEMI_COLD int shmemi_bad_pe(const char *call, int pe, int npes);
SHMEMI_COLD int shmemi_bad_address(const char *call, const char *what, const void *addr, size_t n);
SHMEMI_COLD int shmemi_not_initialized(const char *call);
/* World number of a context's PE; sets *rc on error. For contexts other than the default one. */
int shmemi_ctx_pe(const char *call, shmem_ctx_t ctx, int pe, int *rc);

#define SHMEMI_REQUIRE_INIT(call)                                                                            \
    do {                                                                                                     \
        if (SHMEMI_UNLIKELY(shmemi_world.npes == 0))                                                         \
            return shmemi_not_initialized(call);                                                             \
    } while (0)

/* Checks that [addr, addr + n) is in this PE's symmetric heap and says where. */
static inline int shmemi_locate(const char *call, const char *what, const void *addr, size_t n,
                                struct shmemi_place *p)
{
    const struct shmemi_segment *s = &shmemi_world.segments[SHMEMI_SEGMENT_HOST];
    uint64_t off = (uint64_t)((const char *)addr - s->base);
    p->segment = SHMEMI_SEGMENT_HOST;
    p->offset = off;
    if (SHMEMI_UNLIKELY(off >= s->bytes || n > s->bytes - off || off < shmemi_world.internal_bytes))
        return shmemi_bad_address(call, what, addr, n);
    return SHMEMX_SUCCESS;
}

/* Checks context and PE number; *pe becomes a number of the world. */
static inline int shmemi_check_pe(const char *call, shmem_ctx_t ctx, int *pe)
{
    int rc = SHMEMX_SUCCESS;
    if (SHMEMI_UNLIKELY(ctx != SHMEM_CTX_DEFAULT)) {
        *pe = shmemi_ctx_pe(call, ctx, *pe, &rc);
        return rc;
    }
    if (SHMEMI_UNLIKELY((unsigned)*pe >= (unsigned)shmemi_world.npes))
        return shmemi_bad_pe(call, *pe, shmemi_world.npes);
    return rc;
}

/* The direct pointer to that PE's copy of a place, NULL = not mapped here. */
static inline void *shmemi_map(int pe, struct shmemi_place p)
{
    const struct shmemi_transport *t = shmemi_world.route[pe];
    return t->map(pe, p.segment, p.offset);
}

/* What a void call does with its error: all have been logged and had no effect; but after a lost peer or a deadline
 * the caller would run on as if the wait had ended well, so the job ends. */
static inline void shmemi_void(int rc)
{
    if (SHMEMI_UNLIKELY(rc == SHMEMX_ERR_TIMEOUT || rc == SHMEMX_ERR_PEER_DEAD))
        shmem_global_exit(1);
}

/* route.c: opens the transports of transports.def, finds one for every PE. */
int shmemi_route_open(const char *call);
void shmemi_route_close(void);
/* One line a transport for shmemx_info. */
void shmemi_route_report(char *text, size_t n);

#endif
