/* Stream-ordered collectives (shmemx_stream.h).
 *
 * While the members' messages fit into the team's slots: one kernel, packets, no meeting. Then one kernel whose blocks
 * copy or add up between two meetings of the members. From COPY_ENGINE_BYTES on, broadcast, fcollect and alltoall are a
 * barrier kernel, copies by the copy engine straight into the members' dest, and a barrier kernel.
 */
#include "coll.h"
#include "stream.h"

/* The copy engine moves 390 GB/s over NVLink, kernels 350, but two barriers more cost some 10 us: even at 16 MiB. */
static const size_t COPY_ENGINE_BYTES = 16u << 20;
enum { THREADS = 512, MOST_BLOCKS = 64 };

static unsigned blocks_for(size_t bytes, size_t each)
{
    size_t blocks = bytes / each + 1;
    return blocks < MOST_BLOCKS ? (unsigned)blocks : MOST_BLOCKS;
}
/* Copies: 32 bytes a thread. */
static unsigned copy_blocks(size_t bytes)
{
    return blocks_for(bytes, 32 * THREADS);
}
/* Packets: each of the 16 warps has one group of 480 bytes, so that all are in flight at once. */
static unsigned packet_blocks(size_t bytes)
{
    return blocks_for(bytes, 16 * 480);
}

struct group {
    struct shmemi_team *t;
    unsigned slot;  /* the team's number in kernels */
    size_t packets; /* most bytes of one message as packets */
};

static int enter(const char *call, shmem_team_t team, struct group *g)
{
    int rc = shmemi_stream_ready(call);
    *g = (struct group){0};
    if (rc || !(g->t = shmemi_team_get(call, team, &rc)))
        return rc;
    g->slot = (unsigned)shmemi_team_slot(g->t);
    g->packets = shmemi_gpu_packet_bytes((int)g->slot);
    return shmemi_stream_reaches(call, g->t->pes, g->t->n);
}

int shmemx_team_device(shmem_team_t team)
{
    const char *call = "shmemx_team_device";
    int rc = shmemi_stream_ready(call);
    const struct shmemi_team *t = rc ? NULL : shmemi_team_get(call, team, &rc);
    return t ? shmemi_team_slot(t) : rc;
}

static size_t times(size_t a, size_t b)
{
    size_t r;
    return __builtin_mul_overflow(a, b, &r) ? SIZE_MAX : r; /* fails the address check */
}

static int locate_both(const char *call, const void *dest, size_t dest_bytes, struct shmemi_place *d,
                       const void *source, size_t source_bytes, struct shmemi_place *s)
{
    int rc = shmemi_stream_locate(call, "dest", dest, dest_bytes, d);
    return rc ? rc : shmemi_stream_locate(call, "source", source, source_bytes, s);
}

static int refuse_overlap(const char *call, const void *dest, size_t dest_bytes, const void *source,
                          size_t source_bytes)
{
    if (!shmemi_overlap(dest, dest_bytes, source, source_bytes))
        return SHMEMX_SUCCESS;
    return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "dest [%p, +%zu) and source [%p, +%zu) overlap", dest,
                       dest_bytes, source, source_bytes);
}

/* ---- barrier ----------------------------------------------------------------------------------------------------------- */

static int barrier(const char *call, const struct group *g, void *stream)
{
    unsigned slot = g->slot;
    void *arguments[] = {&slot};
    return shmemi_gpu_kernel(call, SHMEMI_K_BARRIER, 1, 32, arguments, stream);
}

int shmemx_barrier_on_stream(shmem_team_t team, void *stream)
{
    const char *call = "shmemx_barrier_on_stream";
    struct group g;
    int rc = enter(call, team, &g);
    return rc ? rc : barrier(call, &g, stream);
}

/* ---- moves ------------------------------------------------------------------------------------------------------------- */

int shmemx_broadcast_on_stream(shmem_team_t team, void *dest, const void *source, size_t nbytes, int root,
                               void *stream)
{
    const char *call = "shmemx_broadcast_on_stream";
    struct group g;
    struct shmemi_place d, s;
    int rc = enter(call, team, &g);
    if (rc || nbytes == 0)
        return rc;
    if (root < 0 || root >= g.t->n)
        return shmemi_fail(SHMEMX_ERR_PE, call, "root %d is out of range, 0 to %d", root, g.t->n - 1);
    if ((rc = locate_both(call, dest, nbytes, &d, source, nbytes, &s)) != 0)
        return rc;
    uint64_t n = nbytes;
    void *arguments[] = {&g.slot, &dest, &source, &n, &root};
    if (nbytes <= g.packets)
        return shmemi_gpu_kernel(call, SHMEMI_K_BROADCAST_PACKETS, packet_blocks(nbytes), THREADS, arguments,
                                 stream);
    if (nbytes < COPY_ENGINE_BYTES)
        return shmemi_gpu_kernel(call, SHMEMI_K_FETCH, copy_blocks(nbytes), THREADS, arguments, stream);
    if ((rc = barrier(call, &g, stream)) != 0)
        return rc;
    if (g.t->me != root)
        rc = shmemi_gpu_copy(call, dest, shmemi_map_gpu(g.t->pes[root], s), nbytes, stream);
    else if (dest != source)
        rc = shmemi_gpu_copy(call, dest, source, nbytes, stream);
    return rc ? rc : barrier(call, &g, stream);
}

/* Member j's block comes from source + j * step and goes to my place in its dest. The own block is copied beside the
 * others, on a stream of its own: in a row it would cost as much again as its share of the memory's time, 26 us for
 * 32 MiB. */
static int copy_to_all(const char *call, const struct group *g, struct shmemi_place dest, const void *source,
                       size_t nbytes, size_t step, void *stream)
{
    size_t n = (size_t)g->t->n, me = (size_t)g->t->me;
    shmemi_stream_t beside;
    int rc = shmemi_gpu_side_stream(call, &beside);
    if (rc || (rc = shmemi_gpu_join(call, beside, stream)) != 0)
        return rc;
    dest.offset += me * nbytes;
    for (size_t k = 0; k < n && rc == 0;
         ++k) { /* the next member first, so that not all write to one at once */
        size_t j = (me + k) % n;
        rc = shmemi_gpu_copy(call, shmemi_map_gpu(g->t->pes[j], dest), (const char *)source + j * step,
                             nbytes, k ? stream : beside);
    }
    int joined = shmemi_gpu_join(call, stream, beside);
    return rc ? rc : joined;
}

/* step 0: every member gets `source` (fcollect); step = nbytes: member j its block (alltoall). */
static int exchange(const char *call, shmem_team_t team, void *dest, const void *source, size_t nbytes,
                    size_t step, void *stream)
{
    struct group g;
    struct shmemi_place d, s;
    int rc = enter(call, team, &g);
    if (rc || nbytes == 0)
        return rc;
    size_t n = (size_t)g.t->n, everything = times(n, nbytes), brought = step ? everything : nbytes;
    if ((rc = locate_both(call, dest, everything, &d, source, brought, &s)) != 0 ||
        (rc = refuse_overlap(call, dest, everything, source, brought)) != 0)
        return rc;
    uint64_t bytes = nbytes, apart = step;
    void *arguments[] = {&g.slot, &dest, &source, &bytes, &apart};
    if (nbytes <= g.packets)
        return shmemi_gpu_kernel(call, SHMEMI_K_EXCHANGE_PACKETS, packet_blocks(everything - nbytes), THREADS,
                                 arguments, stream);
    if (everything < COPY_ENGINE_BYTES)
        return shmemi_gpu_kernel(call, SHMEMI_K_EXCHANGE, copy_blocks(everything), THREADS, arguments,
                                 stream);
    if ((rc = barrier(call, &g, stream)) != 0 ||
        (rc = copy_to_all(call, &g, d, source, nbytes, step, stream)) != 0)
        return rc;
    return barrier(call, &g, stream);
}

int shmemx_fcollect_on_stream(shmem_team_t team, void *dest, const void *source, size_t nbytes, void *stream)
{
    return exchange("shmemx_fcollect_on_stream", team, dest, source, nbytes, 0, stream);
}

int shmemx_alltoall_on_stream(shmem_team_t team, void *dest, const void *source, size_t nbytes, void *stream)
{
    return exchange("shmemx_alltoall_on_stream", team, dest, source, nbytes, nbytes, stream);
}

int shmemx_collect_on_stream(shmem_team_t team, void *dest, size_t dest_nbytes, const void *source,
                             size_t nbytes, void *stream)
{
    const char *call = "shmemx_collect_on_stream";
    struct group g;
    struct shmemi_place d = {0}, s;
    int rc = enter(call, team, &g);
    if (rc || (rc = shmemi_stream_locate(call, "dest", dest, 1, &d)) != 0 ||
        (nbytes && (rc = shmemi_stream_locate(call, "source", source, nbytes, &s)) != 0))
        return rc;
    /* how much comes is known only on the device: what the heap holds behind dest is the limit for everybody */
    size_t end = shmemi_world.segments[SHMEMI_SEGMENT_DEVICE].bytes - d.offset;
    uint64_t room = dest_nbytes < end ? dest_nbytes : end, bytes = nbytes;
    void *arguments[] = {&g.slot, &dest, &room, &source, &bytes};
    return shmemi_gpu_kernel(call, SHMEMI_K_COLLECT, copy_blocks(times((size_t)g.t->n, nbytes)), THREADS,
                             arguments, stream);
}

int shmemx_alltoalls_on_stream(shmem_team_t team, void *dest, const void *source, ptrdiff_t dst,
                               ptrdiff_t sst, size_t elem_size, size_t nelems, void *stream)
{
    const char *call = "shmemx_alltoalls_on_stream";
    struct group g;
    struct shmemi_place d, s;
    int rc = enter(call, team, &g);
    if (rc)
        return rc;
    size_t dspan, sspan, count = times((size_t)g.t->n, nelems);
    if ((rc = shmemi_spans(call, dst, sst, elem_size, count, &dspan, &sspan)) != 0 || nelems == 0 ||
        (rc = locate_both(call, dest, dspan, &d, source, sspan, &s)) != 0 ||
        (rc = refuse_overlap(call, dest, dspan, source, sspan)) != 0)
        return rc;
    uint64_t dstep = (uint64_t)dst * elem_size, sstep = (uint64_t)sst * elem_size, size = elem_size,
             n = nelems;
    void *arguments[] = {&g.slot, &dest, &source, &dstep, &sstep, &size, &n};
    return shmemi_gpu_kernel(call, SHMEMI_K_ALLTOALLS, copy_blocks(count * elem_size), THREADS, arguments,
                             stream);
}

/* ---- reductions and scans -------------------------------------------------------------------------------------------------------- */

/* Do all the messages of device/coll.h's reduce_packets fit? In two trips a share has half a slot. */
static bool fits_packets(const struct group *g, size_t bytes)
{
    size_t n = (size_t)g->t->n;
    return SHMEMX_DEVICE_TWO_SHOTS((uint64_t)bytes, n) ? bytes / n + 32 <= g->packets / 2 / 480 * 480
                                                       : bytes <= g->packets;
}

/* From here on the SM's copy engine is used, where there is one: for all that packets are not. */
static const size_t BULK_BYTES = 1u << 20;
/* The best of 8 to 48 blocks, 128 and 256 threads, chunks of 4 to 16 KiB on 4 H100: what comes in from others at each
 * stage is what counts. Stages: reduce_bulk.cu. */
enum { BULK_BLOCKS = 14, BULK_STAGES = 6, BULK_REMOTE_BYTES = 16 << 10 };

static unsigned bulk_shared(const struct group *g, unsigned chunk)
{
    return 128 + BULK_STAGES * (unsigned)g->t->n * chunk;
}

/* Bytes of a chunk, a power of two (5 KiB for 4 members took 670 us where 4 KiB took 604); 0 = not this way: for that
 * many members they would be too small. */
static unsigned bulk_chunk(const struct group *g, size_t bytes, const void *dest, const void *source)
{
    enum { LEAST = 512 };
    if (bytes < BULK_BYTES || ((uintptr_t)dest | (uintptr_t)source) % 16 || g->t->n == 1)
        return 0;
    for (unsigned chunk = BULK_REMOTE_BYTES; chunk >= LEAST; chunk /= 2)
        if (chunk * (unsigned)(g->t->n - 1) <= BULK_REMOTE_BYTES &&
            bulk_shared(g, chunk) <= shmemi_gpu_bulk_bytes())
            return chunk;
    return 0;
}

/* What reductions and scans check: the team, that `op` is there for the type, both buffers. *bytes: of each. */
static int enter_reduction(const char *call, shmem_team_t team, int op, int type, const void *dest,
                           const void *source, size_t nelems, struct group *g, size_t *bytes)
{
    struct shmemi_place d, s;
    int rc = enter(call, team, g);
    if (rc)
        return rc;
    size_t size = shmemi_reduce_size(call, op, type), align = size < 8 ? size : 8;
    *bytes = times(nelems, size);
    if (size == 0)
        return SHMEMX_ERR_ARGUMENT;
    if (nelems == 0)
        return SHMEMX_SUCCESS;
    if ((rc = locate_both(call, dest, *bytes, &d, source, *bytes, &s)) != 0)
        return rc;
    if (((uintptr_t)dest | (uintptr_t)source) % align)
        return shmemi_fail(SHMEMX_ERR_ADDRESS, call, "dest %p or source %p is not aligned to %zu bytes", dest,
                           source, align);
    return dest == source ? SHMEMX_SUCCESS : refuse_overlap(call, dest, *bytes, source, *bytes);
}

/* A sum of complex numbers is that of their parts. */
static int type_of_parts(int type, uint64_t *nelems)
{
    if (type != SHMEMX_COMPLEX64 && type != SHMEMX_COMPLEX128)
        return type;
    *nelems *= 2;
    return type == SHMEMX_COMPLEX64 ? SHMEMX_FLOAT32 : SHMEMX_FLOAT64;
}

int shmemx_reduce_on_stream(shmem_team_t team, int op, int type, void *dest, const void *source,
                            size_t nelems, void *stream)
{
    const char *call = "shmemx_reduce_on_stream";
    struct group g;
    size_t bytes;
    int rc = enter_reduction(call, team, op, type, dest, source, nelems, &g, &bytes);
    if (rc || nelems == 0)
        return rc;
    uint64_t n = nelems;
    if (op == SHMEMX_REDUCE_SUM)
        type = type_of_parts(type, &n);
    void *arguments[] = {&g.slot, &op, &dest, &source, &n};
    if (g.t->n > 1 && fits_packets(&g, bytes))
        return shmemi_gpu_kernel(call, SHMEMI_K_REDUCE_PACKETS + type, packet_blocks(bytes), THREADS,
                                 arguments, stream);
    unsigned chunk = bulk_chunk(&g, bytes, dest, source);
    if (chunk) {
        void *more[] = {&g.slot, &op, &dest, &source, &n, &chunk};
        return shmemi_gpu_kernel_shared(call, SHMEMI_K_REDUCE_BULK + type, BULK_BLOCKS,
                                        chunk > 8192 ? 256 : 128, bulk_shared(&g, chunk), more, stream);
    }
    return shmemi_gpu_kernel(call, SHMEMI_K_REDUCE + type, copy_blocks(bytes / (size_t)g.t->n), THREADS,
                             arguments, stream);
}

int shmemx_scan_on_stream(shmem_team_t team, int exclusive, int type, void *dest, const void *source,
                          size_t nelems, void *stream)
{
    const char *call = "shmemx_scan_on_stream";
    struct group g;
    size_t bytes;
    int rc = enter_reduction(call, team, SHMEMX_REDUCE_SUM, type, dest, source, nelems, &g, &bytes);
    if (rc || nelems == 0)
        return rc;
    uint64_t n = nelems, members = (uint64_t)g.t->n;
    type = type_of_parts(type, &n);
    if (type <= SHMEMX_INT64) /* signed or not, the sums are the same bits */
        type += SHMEMX_UINT8 - SHMEMX_INT8;
    void *arguments[] = {&g.slot, &exclusive, &dest, &source, &n};
    if (members > 1 && bytes <= g.packets && !SHMEMX_DEVICE_TWO_SHOTS((uint64_t)bytes, members))
        return shmemi_gpu_kernel(call, SHMEMI_K_SCAN_PACKETS + type, packet_blocks(bytes), THREADS, arguments,
                                 stream);
    return shmemi_gpu_kernel(call, SHMEMI_K_SCAN + type, copy_blocks(bytes / (size_t)members), THREADS,
                             arguments, stream);
}
