/* The GPU heap: one range of device address space a PE, filled with memory chunk by chunk.
 *
 * Each PE reserves room for all PEs' heaps, so that PE p's copy of an address a of mine is a + (p - me) * stride, in
 * kernels too. When an allocation does not fit, every PE creates a chunk of the same size, hands its descriptor to the
 * other processes of the node, and maps all chunks at the same offset of each copy. Chunks at the end that nobody uses
 * are given back. Opened by the first allocation of GPU memory: a program that asks for none pays nothing.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "alloc.h"
#include "base/fdpass.h"
#include "base/gpu.h"
#include "gpu/gpu_state.h"
#include "heap.h"
#include "team.h"

/* Larger chunks mean fewer exchanges (about 1 ms each on 4 PEs), smaller ones less memory held for nothing. */
static const size_t CHUNK_BYTES = 64u << 20;

struct chunk {
    size_t bytes;
    shmemi_chunk_t *of; /* [npes] */
    struct chunk *below;
};

static struct {
    bool open;
    size_t internal;           /* the first bytes of every copy belong to the library (gpu/gpu_state.h) */
    struct shmemi_alloc alloc; /* of [0, committed) */
    struct chunk *top;         /* the last chunk */
    int listener;
    char (*sockets)[64]; /* [npes] */
} gpu;

static struct shmemi_segment *segment(void)
{
    return &shmemi_world.segments[SHMEMI_SEGMENT_DEVICE];
}

/* Everybody learns whether everybody has succeeded: 0, or this PE's error, or MISMATCH naming one that failed. */
static int all_well(const char *call, int mine)
{
    int rc = 0;
    struct shmemi_team *world = shmemi_team_get(call, SHMEM_TEAM_WORLD, &rc);
    if (!world || (rc = shmemi_show(call, world, shmemi_tag(SHMEMI_MEMORY, 1, 0), &mine, sizeof mine)) != 0)
        return rc;
    for (int j = 0; j < world->n && mine == 0; ++j) {
        int theirs;
        memcpy(&theirs, shmemi_note_of(world, j, world->epoch)->data, sizeof theirs);
        if (theirs)
            return shmemi_fail(theirs, call, "PE %d failed: %s (its own message says why)", j,
                               shmemx_strerror(theirs));
    }
    return mine;
}

/* ---- chunks --------------------------------------------------------------------------------------------------------- */

/* Gives this PE's descriptor to all others and imports theirs, one giver after another. */
static int exchange(const char *call, int mine, struct chunk *c)
{
    struct shmemi_world *w = &shmemi_world;
    for (int giver = 0; giver < w->npes; ++giver) {
        int rc, fd = -1;
        if (giver == w->me)
            rc = shmemi_fdpass_serve(call, gpu.listener, &mine, 1, w->npes - 1);
        else if ((rc = shmemi_fdpass_fetch(call, gpu.sockets[giver], giver, &fd, 1)) == 0) {
            rc = shmemi_gpu_chunk_import(call, fd, giver, &c->of[giver]);
            close(fd);
        }
        if (rc)
            return rc;
    }
    return SHMEMX_SUCCESS;
}

static char *place_of(int pe, size_t offset)
{
    return segment()->node_base + (size_t)pe * segment()->stride + offset;
}

static int map_all(const char *call, const struct chunk *c, size_t offset)
{
    int rc = SHMEMX_SUCCESS;
    for (int pe = 0; pe < shmemi_world.npes && rc == 0; ++pe)
        rc = shmemi_gpu_chunk_map(call, place_of(pe, offset), c->bytes, c->of[pe]);
    return rc;
}

/* Collective: the heap has `bytes` more (rounded up), or an error everywhere. */
static int grow(const char *call, size_t bytes)
{
    struct shmemi_segment *s = segment();
    size_t grain = shmemi_gpu_granularity();
    bytes = bytes > CHUNK_BYTES ? bytes : CHUNK_BYTES;
    bytes = (bytes + grain - 1) / grain * grain;
    if (bytes > s->stride - s->bytes)
        return shmemi_fail(SHMEMX_ERR_NO_MEMORY, call,
                           "%zu bytes more than the %zu in the GPU heap exceed its limit of %zu: "
                           "SHMEM_DEVICE_SYMMETRIC_SIZE",
                           bytes, s->bytes, s->stride);
    struct chunk *c = calloc(1, sizeof *c);
    if (!c || !(c->of = calloc((size_t)shmemi_world.npes, sizeof *c->of))) {
        free(c);
        return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "out of memory");
    }
    c->bytes = bytes;
    c->below = gpu.top;
    int fd = -1, rc = shmemi_gpu_chunk_create(call, bytes, &c->of[shmemi_world.me], &fd);
    if ((rc = all_well(call, rc)) == 0)
        rc = all_well(call, exchange(call, fd, c));
    if (fd >= 0)
        close(fd);
    if (rc == 0)
        rc = all_well(call, map_all(call, c, s->bytes));
    if (rc) {
        for (int pe = 0; pe < shmemi_world.npes; ++pe)
            if (c->of[pe])
                shmemi_gpu_chunk_unmap(place_of(pe, s->bytes), bytes, c->of[pe]);
        free(c->of);
        free(c);
        return rc;
    }
    gpu.top = c;
    s->bytes += bytes;
    return SHMEMX_SUCCESS;
}

static void drop_top(void)
{
    struct chunk *c = gpu.top;
    segment()->bytes -= c->bytes;
    for (int pe = 0; pe < shmemi_node.npes; ++pe)
        shmemi_gpu_chunk_unmap(place_of(pe, segment()->bytes), c->bytes, c->of[pe]);
    gpu.top = c->below;
    free(c->of);
    free(c);
}

/* ---- opening ----------------------------------------------------------------------------------------------------------- */

/* The part that can fail on one PE alone. */
static int open_here(const char *call)
{
    struct shmemi_world *w = &shmemi_world;
    struct shmemi_segment *s = segment();
    int rc = shmemi_gpu_open(call, shmemi_node.local_me);
    if (rc)
        return rc;
    size_t grain = shmemi_gpu_granularity();
    size_t limit =
        shmemi_env.DEVICE_SYMMETRIC_SIZE ? shmemi_env.DEVICE_SYMMETRIC_SIZE : shmemi_gpu_total_bytes();
    s->stride = (limit + grain - 1) / grain * grain;
    s->fd = -1;
    char *base;
    if ((rc = shmemi_gpu_reserve(call, s->stride * (size_t)w->npes, &base)) != 0)
        return rc;
    s->node_base = base;
    s->base = base + (size_t)w->me * s->stride;
    gpu.sockets = calloc((size_t)w->npes, sizeof *gpu.sockets);
    if (!gpu.sockets)
        return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "out of memory for %d PEs", w->npes);
    gpu.listener = shmemi_fdpass_listen(call, gpu.sockets[w->me], sizeof gpu.sockets[w->me]);
    return gpu.listener < 0 ? gpu.listener : SHMEMX_SUCCESS;
}

/* What must be equal everywhere, and where each PE's descriptors are to be had. */
static int agree_on_room(const char *call)
{
    struct {
        uint64_t stride, grain;
        char socket[64];
    } mine = {segment()->stride, shmemi_gpu_granularity(), ""}, theirs;
    memcpy(mine.socket, gpu.sockets[shmemi_world.me], sizeof mine.socket);
    int rc = 0;
    struct shmemi_team *world = shmemi_team_get(call, SHMEM_TEAM_WORLD, &rc);
    if (!world || (rc = shmemi_show(call, world, shmemi_tag(SHMEMI_MEMORY, 2, 0), &mine, sizeof mine)) != 0)
        return rc;
    for (int j = 0; j < world->n; ++j) {
        memcpy(&theirs, shmemi_note_of(world, j, world->epoch)->data, sizeof theirs);
        memcpy(gpu.sockets[j], theirs.socket, sizeof theirs.socket);
        if (theirs.stride != mine.stride || theirs.grain != mine.grain)
            return shmemi_fail(
                SHMEMX_ERR_MISMATCH, call,
                "PE %d has room for %llu bytes of GPU heap in pages of %llu, this PE for %llu in %llu; "
                "set SHMEM_DEVICE_SYMMETRIC_SIZE to the same value on all PEs",
                j, (unsigned long long)theirs.stride, (unsigned long long)theirs.grain,
                (unsigned long long)mine.stride, (unsigned long long)mine.grain);
    }
    return SHMEMX_SUCCESS;
}

int shmemi_heap_gpu_open(const char *call)
{
    if (gpu.open)
        return SHMEMX_SUCCESS;
    struct shmemi_segment *s = segment();
    *s = (struct shmemi_segment){.fd = -1};
    gpu.listener = -1;
    int rc = all_well(call, open_here(call));
    if (rc == 0)
        rc = agree_on_room(call);
    gpu.internal = shmemi_gpu_internal_bytes(shmemi_world.npes);
    if (rc == 0)
        rc = grow(call, gpu.internal);
    if (rc == 0)
        rc = shmemi_gpu_fill(call, s->base, 0, gpu.internal, shmemi_gpu_stream());
    if (rc == 0)
        rc = shmemi_gpu_sync(call, shmemi_gpu_stream());
    if (rc == 0 && (!shmemi_alloc_open(&gpu.alloc, s->bytes) ||
                    shmemi_alloc_take(&gpu.alloc, gpu.internal, SHMEMI_ALLOC_GRAIN) != 0))
        rc = shmemi_fail(SHMEMX_ERR_SYSTEM, call, "out of memory");
    if (rc == 0)
        rc = shmemi_route_open_gpu(call);
    if (rc == 0)
        rc = shmemi_gpu_state_open(call);
    rc = all_well(call, rc);
    gpu.open = rc == 0;
    if (rc)
        shmemi_heap_gpu_close();
    return rc;
}

void shmemi_heap_gpu_close(void)
{
    struct shmemi_segment *s = segment();
    shmemi_gpu_state_close();
    while (gpu.top)
        drop_top();
    if (s->node_base)
        shmemi_gpu_unreserve(s->node_base, s->stride * (size_t)shmemi_node.npes);
    if (gpu.listener > 0)
        close(gpu.listener);
    free(gpu.sockets);
    shmemi_alloc_close(&gpu.alloc);
    shmemi_gpu_close();
    memset(s, 0, sizeof *s);
    memset(&gpu, 0, sizeof gpu);
}

/* ---- what heap.c calls ------------------------------------------------------------------------------------------------- */

int shmemi_heap_gpu_take(const char *call, size_t size, size_t align, bool zeroed, void **ptr)
{
    int rc = shmemi_heap_gpu_open(call);
    if (rc)
        return rc;
    size_t at = shmemi_alloc_take(&gpu.alloc, size, align);
    if (at == SHMEMI_ALLOC_NONE) {
        size_t before = segment()->bytes;
        /* the free tail of the heap does not count: a new chunk holds the whole block, aligned */
        if ((rc = grow(call, size + align)) != 0)
            return rc;
        if (!shmemi_alloc_extend(&gpu.alloc, segment()->bytes - before) ||
            (at = shmemi_alloc_take(&gpu.alloc, size, align)) == SHMEMI_ALLOC_NONE)
            return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "out of memory");
    }
    *ptr = segment()->base + at;
    if (!zeroed)
        return SHMEMX_SUCCESS;
    if ((rc = shmemi_gpu_fill(call, *ptr, 0, size, shmemi_gpu_stream())) == 0)
        rc = shmemi_gpu_sync(call, shmemi_gpu_stream());
    return all_well(call, rc);
}

struct shmemi_block *shmemi_heap_gpu_find(const void *ptr)
{
    uint64_t off = (uint64_t)((const char *)ptr - segment()->base);
    return gpu.open && off < segment()->bytes && off >= gpu.internal ? shmemi_alloc_find(&gpu.alloc, off)
                                                                     : NULL;
}

void shmemi_heap_gpu_give(struct shmemi_block *b)
{
    shmemi_alloc_give(&gpu.alloc, b);
    /* every PE does the same, and none may use a chunk that this PE has dropped: they are all in free */
    while (gpu.top->below && shmemi_alloc_cut(&gpu.alloc, gpu.top->bytes))
        drop_top();
}

void shmemi_heap_gpu_info(size_t *total, size_t *used, size_t *largest)
{
    *total = gpu.open ? gpu.alloc.size - gpu.internal : 0;
    *used = gpu.open ? gpu.alloc.used - gpu.internal : 0;
    *largest = gpu.open ? shmemi_alloc_largest(&gpu.alloc) : 0;
}

bool shmemi_heap_gpu_inside(const void *addr, struct shmemi_place *p)
{
    uint64_t off = (uint64_t)((const char *)addr - segment()->base);
    *p = (struct shmemi_place){SHMEMI_SEGMENT_DEVICE, off};
    return gpu.open && off >= gpu.internal && off < segment()->bytes;
}

int shmemi_locate_gpu(const char *call, const char *what, const void *addr, size_t n, struct shmemi_place *p)
{
    if (shmemi_heap_gpu_inside(addr, p) && n <= segment()->bytes - p->offset)
        return SHMEMX_SUCCESS;
    return shmemi_bad_address(call, what, addr, n);
}

bool shmemi_is_gpu(const void *p)
{
    const struct shmemi_segment *h = &shmemi_world.segments[SHMEMI_SEGMENT_HOST], *d = segment();
    const char *a = p;
    if (a >= d->node_base && a < d->node_base + d->stride * (size_t)shmemi_world.npes)
        return true;
    if (a >= h->base && a < h->base + h->bytes)
        return false;
    return shmemi_gpu_owns(p);
}
