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
    /* at the start of the host segment: the library's own (team.h), and the program's variables (globals.h) */
    size_t internal_bytes;
    size_t quick_bytes; /* of the host segment: addresses in it need no other check; 0 in debug mode */
    uintptr_t suspect; /* local buffers up to this address are looked at: 0 = NULL alone, in debug mode all */
    bool debug;        /* SHMEM_DEBUG=1 on some PE */
    const struct shmemi_transport *
        *route; /* [npes] for host memory on both sides; tables with no NULL slot */
    const struct shmemi_transport *
        *gpu_route; /* [npes] where GPU memory is on either side; NULL = no GPU heap yet */
    bool
        fence_waits; /* host and GPU memory of some PE are reached by different networks, which know no order of each other's */
    const struct shmemi_transport
        *atomics[SHMEMI_SEGMENT_COUNT];     /* the one that owns all atomics on a segment; NULL = none does */
    const struct shmemi_transport *open[8]; /* those in use, for fence and quiet */
    int nopen;
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
/* Logs that there is no job, or that this process was forked by a PE: threads and locks of the parent are not here. */
int shmemi_require_parent(const char *call);
/* World number of a context's PE; sets *rc on error. For contexts other than the default one. */
int shmemi_ctx_pe(const char *call, shmem_ctx_t ctx, int pe, int *rc);
/* Checks such a context. */
int shmemi_ctx_check(const char *call, shmem_ctx_t ctx);
/* Quiet of the context of that number, which may be gone by now (order.c). */
int shmemi_quiet_number(unsigned context);
/* A context's number, by which transports know it; it has been checked. handle = 1 + number + SHMEMI_CONTEXTS *
 * generation, and so the default context, whose handle is 1, is number 0. */
static inline unsigned shmemi_ctx_number(shmem_ctx_t ctx)
{
    return (unsigned)(((uintptr_t)ctx - 1) % SHMEMI_CONTEXTS);
}

/* SHMEMX_MEM_* of a symmetric address, -1 for any other, without a word. */
int shmemi_kind(const void *addr);
/* GPU memory, of the heap or any other. Only asked once a GPU heap exists. */
bool shmemi_is_gpu(const void *p);

#define SHMEMI_REQUIRE_INIT(call)                                                                            \
    do {                                                                                                     \
        if (SHMEMI_UNLIKELY(shmemi_world.npes == 0))                                                         \
            return shmemi_not_initialized(call);                                                             \
    } while (0)

/* For addresses that are not in the host heap: global and static variables, the GPU heap, or the error. */
SHMEMI_COLD int shmemi_locate_rest(const char *call, const char *what, const void *addr, size_t n,
                                   size_t align, struct shmemi_place *p);

/* Checks that [addr, addr + n) is symmetric memory of this PE and says where; elements aligned to `align` bytes, which
 * debug mode checks. */
static inline int shmemi_locate_typed(const char *call, const char *what, const void *addr, size_t n,
                                      size_t align, struct shmemi_place *p)
{
    const size_t quick = shmemi_world.quick_bytes;
    uint64_t off = (uint64_t)((const char *)addr - shmemi_world.segments[SHMEMI_SEGMENT_HOST].base);
    p->segment = SHMEMI_SEGMENT_HOST;
    p->offset = off;
    if (SHMEMI_UNLIKELY(off >= quick || n > quick - off || off < shmemi_world.internal_bytes))
        return shmemi_locate_rest(call, what, addr, n, align, p);
    return SHMEMX_SUCCESS;
}

/* The same for bytes. */
static inline int shmemi_locate(const char *call, const char *what, const void *addr, size_t n,
                                struct shmemi_place *p)
{
    return shmemi_locate_typed(call, what, addr, n, 1, p);
}

/* Says what is wrong with a local buffer: NULL; and in debug mode memory that is not there, or freed, or not aligned. */
SHMEMI_COLD int shmemi_check_local(const char *call, const char *what, const void *addr, size_t n,
                                   size_t align);
static inline bool shmemi_suspect(const void *local)
{
    if (__builtin_constant_p(local ==
                             NULL)) /* the compiler sees whose address it is: of p's or g's own value */
        return local == NULL;
    return SHMEMI_UNLIKELY((uintptr_t)local <= shmemi_world.suspect);
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

/* The same, and how an operation on that context is issued: one branch for both. */
static inline int shmemi_check_issue(const char *call, shmem_ctx_t ctx, int *pe, bool nbi, unsigned *how)
{
    *how = shmemi_how(nbi, SHMEMI_CONTEXT_DEFAULT);
    if (SHMEMI_UNLIKELY(ctx != SHMEM_CTX_DEFAULT)) {
        *how = shmemi_how(nbi, shmemi_ctx_number(ctx));
        return shmemi_check_pe(call, ctx, pe);
    }
    return shmemi_check_pe(call, SHMEM_CTX_DEFAULT, pe);
}

/* The transport for one operation: `local` is this PE's side of it, NULL = host memory. */
static inline const struct shmemi_transport *shmemi_route(int pe, int segment, const void *local)
{
    if (SHMEMI_UNLIKELY(shmemi_world.gpu_route != NULL) &&
        (segment == SHMEMI_SEGMENT_DEVICE || (local && shmemi_is_gpu(local))))
        return shmemi_world.gpu_route[pe];
    return shmemi_world.route[pe];
}

/* The transport for an atomic. */
static inline const struct shmemi_transport *shmemi_amo_route(int pe, int segment)
{
    if (SHMEMI_UNLIKELY(shmemi_world.atomics[segment] != NULL))
        return shmemi_world.atomics[segment];
    return shmemi_route(pe, segment, NULL);
}

/* The direct pointer to that PE's copy of a place, NULL = not mapped here. A GPU pointer for the GPU heap. */
static inline void *shmemi_map(int pe, struct shmemi_place p)
{
    return shmemi_route(pe, p.segment, NULL)->map(pe, p.segment, p.offset);
}

/* A place in GPU memory of a PE of this host, as the device and the driver's copies reach it: mapped, whatever its route is. */
static inline void *shmemi_map_gpu(int pe, struct shmemi_place p)
{
    return shmemi_copy_at(&shmemi_world.segments[SHMEMI_SEGMENT_DEVICE], pe) + p.offset;
}

/* What a void call does with its error: all have been logged and had no effect; but after a lost peer or a deadline
 * the caller would run on as if the wait had ended well, so the job ends. */
static inline void shmemi_void(int rc)
{
    if (SHMEMI_UNLIKELY(rc == SHMEMX_ERR_TIMEOUT || rc == SHMEMX_ERR_PEER_DEAD))
        shmem_global_exit(1);
}

/* sync.c: waits until this PE's word compares true, under the name of the call that needs it. */
int shmemi_wait_word(const char *call, uint64_t *word, int cmp, uint64_t value);

/* route.c: reads SHMEM_TRANSPORTS. */
int shmemi_route_settings(const char *call);
/* Does a transport reach that PE's segment? GPU memory of other hosts may be out of reach, but for kernels. */
bool shmemi_route_is(int pe, int segment);
/* Do PEs of one node map each other's host memory? */
bool shmemi_route_maps_node(void);
/* Opens the transports of transports.def, finds one for every PE. */
int shmemi_route_open(const char *call);
/* The same for the GPU heap, once its segment is mapped. */
int shmemi_route_open_gpu(const char *call);
/* Forgets the GPU heap's routes, and closes the transports that served nothing else. */
void shmemi_route_close_gpu(void);
void shmemi_route_close(void);
/* A range of local memory, for the transports in use whose bit (row of transports.def) is not in *known yet; *held gets
 * the bits of those that hold something for it. After an error nobody has heard more than before. */
int shmemi_route_register(void *addr, size_t n, unsigned *known, unsigned *held);
void shmemi_route_unregister(void *addr, unsigned *known, unsigned *held);
/* route_network.c: gives `t` the PEs without a route, if both ends have it (`there`: this one has). All PEs in step. */
int shmemi_network_connect(const char *call, struct shmemi_transport *t, bool there, int segment,
                           const struct shmemi_transport **route, int *without);
void shmemi_network_close(void);
/* Has the job any PEs that only a network reaches? The same answer on all of them. */
bool shmemi_route_has_networks(void);
/* Does a network hold the GPU heap's memory, so that none of it may be given back? */
bool shmemi_route_keeps_gpu(void);
/* Does a network reach GPU memory of some PE? */
bool shmemi_route_serves_gpu(void);
/* Makes a range of the segment fit for networks; all PEs in step, ranges without gaps. Nothing without networks. */
int shmemi_route_expose(const char *call, int segment, uint64_t offset, size_t n);
/* One line a transport, and one line for PEs in a row that the same transport serves, for shmemx_info. */
void shmemi_route_report(char *text, size_t n);
void shmemi_route_table(char *text, size_t n);

#endif
