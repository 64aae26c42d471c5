/* The GPU heap shared by virtual memory (CUDA VMM): each PE reserves address space for all PEs' heaps, side by side, so
 * that PE p's copy of an address a of mine is a + (p - me) * stride, in kernels too; there is nothing at the places of PEs of
 * other hosts. To grow, every PE creates a chunk of
 * the same size, hands its descriptor to the other processes of the node, and maps all chunks at the same offset of each
 * copy. Chunks at the end that nobody uses are given back. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fdpass.h"
#include "base/gpu.h"
#include "heap_gpu.h"
#include "team.h"

/* Larger chunks mean fewer exchanges (about 1 ms each on 4 PEs), smaller ones less memory held for nothing. */
static const size_t CHUNK_BYTES = 64u << 20;

struct chunk {
    size_t bytes;
    shmemi_chunk_t *of; /* [npes] */
    struct chunk *below;
};

static struct {
    struct chunk *top; /* the last one */
    int listener;
    char (*sockets)[64]; /* [npes] */
} vmm;

/* ---- opening ----------------------------------------------------------------------------------------------------------- */

static int vmm_open(const char *call)
{
    struct shmemi_world *w = &shmemi_world;
    struct shmemi_segment *s = shmemi_gpu_segment();
    vmm.listener = -1;
    size_t grain = shmemi_gpu_granularity();
    size_t limit =
        shmemi_env.DEVICE_SYMMETRIC_SIZE ? shmemi_env.DEVICE_SYMMETRIC_SIZE : shmemi_gpu_total_bytes();
    s->stride = (limit + grain - 1) / grain * grain;
    int rc = shmemi_gpu_reserve(call, s->stride * (size_t)w->npes, &s->node_base);
    if (rc)
        return rc;
    s->base = s->node_base + (size_t)w->me * s->stride;
    vmm.sockets = calloc((size_t)w->npes, sizeof *vmm.sockets);
    if (!vmm.sockets)
        return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "out of memory for %d PEs", w->npes);
    vmm.listener = shmemi_fdpass_listen(call, vmm.sockets[w->me], sizeof vmm.sockets[w->me]);
    return vmm.listener < 0 ? vmm.listener : SHMEMX_SUCCESS;
}

/* What must be equal everywhere, and where each PE's descriptors are to be had. */
static int vmm_meet(const char *call)
{
    struct {
        uint64_t stride, grain;
        char socket[64];
    } mine = {shmemi_gpu_segment()->stride, shmemi_gpu_granularity(), ""}, theirs;
    memcpy(mine.socket, vmm.sockets[shmemi_world.me], sizeof mine.socket);
    int rc = 0;
    struct shmemi_team *world = shmemi_team_get(call, SHMEM_TEAM_WORLD, &rc);
    if (!world || (rc = shmemi_show(call, world, shmemi_tag(SHMEMI_MEMORY, 2, 0), &mine, sizeof mine)) != 0)
        return rc;
    for (int j = 0; j < world->n; ++j) {
        memcpy(&theirs, shmemi_note_of(world, j, world->epoch)->data, sizeof theirs);
        memcpy(vmm.sockets[j], theirs.socket, sizeof theirs.socket);
        if (theirs.stride != mine.stride || theirs.grain != mine.grain)
            return shmemi_other_room(call, j, theirs.stride, theirs.grain);
    }
    return SHMEMX_SUCCESS;
}

/* ---- chunks --------------------------------------------------------------------------------------------------------- */

/* Gives this PE's descriptor to all others and imports theirs, one giver after another. A descriptor that is no good here
 * does not keep the others waiting for this PE's. */
static int exchange(const char *call, int mine, struct chunk *c)
{
    struct shmemi_world *w = &shmemi_world;
    int imported = SHMEMX_SUCCESS;
    for (int giver = 0; giver < w->npes; ++giver) {
        int rc = 0, fd = -1;
        if (!shmemi_node.on_host[giver])
            continue;
        if (giver == w->me)
            rc = shmemi_fdpass_serve(call, vmm.listener, &mine, 1, shmemi_node.host_npes - 1);
        else
            rc = shmemi_fdpass_fetch(call, vmm.sockets[giver], giver, &fd, 1);
        if (rc)
            return rc;
        if (fd >= 0) {
            if (imported == 0)
                imported = shmemi_gpu_chunk_import(call, fd, giver, &c->of[giver]);
            close(fd);
        }
    }
    return imported;
}

static char *place_of(int pe, size_t offset)
{
    return shmemi_copy_at(shmemi_gpu_segment(), pe) + offset;
}

/* Maps what it can, of the PEs of this host; *mapped says of how many PEs. */
static int map_all(const char *call, const struct chunk *c, size_t offset, int *mapped)
{
    int rc = SHMEMX_SUCCESS;
    for (*mapped = 0; *mapped < shmemi_world.npes; ++*mapped)
        if (shmemi_node.on_host[*mapped] &&
            (rc = shmemi_gpu_chunk_map(call, place_of(*mapped, offset), c->bytes, c->of[*mapped])) != 0)
            break;
    return rc;
}

static void drop(struct chunk *c, size_t offset, int mapped)
{
    for (int pe = 0; pe < shmemi_node.npes; ++pe)
        if (pe < mapped && c->of[pe])
            shmemi_gpu_chunk_unmap(place_of(pe, offset), c->bytes, c->of[pe]);
        else if (c->of[pe])
            shmemi_gpu_chunk_release(c->of[pe]);
    free(c->of);
    free(c);
}

static int vmm_grow(const char *call, size_t bytes)
{
    struct shmemi_segment *s = shmemi_gpu_segment();
    size_t grain = shmemi_gpu_granularity();
    bytes = bytes > CHUNK_BYTES ? bytes : CHUNK_BYTES;
    if (bytes > s->stride - s->bytes)
        return shmemi_fail(SHMEMX_ERR_NO_MEMORY, call,
                           "%zu bytes more than the %zu in the GPU heap exceed its limit of %zu: "
                           "SHMEM_DEVICE_SYMMETRIC_SIZE",
                           bytes, s->bytes, s->stride);
    bytes = (bytes + grain - 1) / grain * grain;
    struct chunk *c = calloc(1, sizeof *c);
    if (!c || !(c->of = calloc((size_t)shmemi_world.npes, sizeof *c->of))) {
        free(c);
        return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "out of memory");
    }
    c->bytes = bytes;
    c->below = vmm.top;
    int fd = -1, mapped = 0, rc = shmemi_gpu_chunk_create(call, bytes, &c->of[shmemi_world.me], &fd);
    if ((rc = shmemi_all_well(call, rc)) == 0)
        rc = shmemi_all_well(call, exchange(call, fd, c));
    if (fd >= 0)
        close(fd);
    if (rc == 0)
        rc = shmemi_all_well(call, map_all(call, c, s->bytes, &mapped));
    if (rc) {
        drop(c, s->bytes, mapped);
        return rc;
    }
    vmm.top = c;
    s->bytes += bytes;
    return SHMEMX_SUCCESS;
}

static void drop_top(void)
{
    struct shmemi_segment *s = shmemi_gpu_segment();
    struct chunk *c = vmm.top;
    s->bytes -= c->bytes;
    vmm.top = c->below;
    drop(c, s->bytes, shmemi_node.npes);
}

static void vmm_trim(struct shmemi_alloc *a)
{
    /* every PE does the same, and none may use a chunk that this PE has dropped: they are all in free */
    while (vmm.top->below && shmemi_alloc_cut(a, vmm.top->bytes))
        drop_top();
}

static void vmm_close(void)
{
    struct shmemi_segment *s = shmemi_gpu_segment();
    while (vmm.top)
        drop_top();
    if (s->node_base)
        shmemi_gpu_unreserve(s->node_base, s->stride * (size_t)shmemi_node.npes);
    if (vmm.listener > 0)
        close(vmm.listener);
    free(vmm.sockets);
    memset(&vmm, 0, sizeof vmm);
}

const struct shmemi_sharing shmemi_sharing_vmm = {
    .name = "vmm",
    .open = vmm_open,
    .meet = vmm_meet,
    .grow = vmm_grow,
    .trim = vmm_trim,
    .close = vmm_close,
};
