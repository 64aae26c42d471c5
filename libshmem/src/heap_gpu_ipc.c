/* The GPU heap shared by cudaIpc, for devices without virtual memory management or descriptors for it: one allocation a
 * PE, of fixed size, whose handle the other processes of the node open. The driver chooses the addresses, so that a table
 * says where each PE's copy is. A process cannot open its own handle: its own copy is where it was allocated. */
#include <stdlib.h>
#include <string.h>

#include "base/gpu.h"
#include "heap_gpu.h"
#include "team.h"

static const size_t DEFAULT_BYTES = 1u << 30;

static struct {
    struct shmemi_gpu_handle handle;
} ipc;

static int ipc_open(const char *call)
{
    struct shmemi_segment *s = shmemi_gpu_segment();
    /* whole pages: the driver puts smaller allocations together in one, and the handle would be that page's */
    size_t grain = shmemi_gpu_granularity();
    size_t bytes = shmemi_env.DEVICE_SYMMETRIC_SIZE ? shmemi_env.DEVICE_SYMMETRIC_SIZE : DEFAULT_BYTES;
    s->stride = (bytes + grain - 1) / grain * grain;
    s->bases = calloc((size_t)shmemi_world.npes, sizeof *s->bases);
    if (!s->bases)
        return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "out of memory for %d PEs", shmemi_world.npes);
    int rc = shmemi_gpu_shared_alloc(call, s->stride, &s->base, &ipc.handle);
    s->bases[shmemi_world.me] = s->base;
    return rc;
}

struct shown {
    uint64_t stride;
    struct shmemi_gpu_handle handle;
};

static int open_peers(const char *call, const struct shmemi_team *world)
{
    struct shmemi_segment *s = shmemi_gpu_segment();
    struct shown theirs;
    for (int j = 0; j < world->n; ++j) {
        int rc = SHMEMX_SUCCESS;
        memcpy(&theirs, shmemi_note_of(world, j, world->epoch)->data, sizeof theirs);
        if (theirs.stride != s->stride)
            rc = shmemi_other_room(call, j, theirs.stride, shmemi_gpu_granularity());
        else if (j != world->me && shmemi_node.on_host[j])
            rc = shmemi_gpu_shared_open(call, &theirs.handle, j, &s->bases[j]);
        if (rc)
            return rc;
    }
    return SHMEMX_SUCCESS;
}

static int ipc_meet(const char *call)
{
    struct shmemi_segment *s = shmemi_gpu_segment();
    struct shown mine = {s->stride, ipc.handle};
    int rc = 0;
    struct shmemi_team *world = shmemi_team_get(call, SHMEM_TEAM_WORLD, &rc);
    if (!world || (rc = shmemi_show(call, world, shmemi_tag(SHMEMI_MEMORY, 2, 0), &mine, sizeof mine)) != 0)
        return rc;
    if ((rc = shmemi_all_well(call, open_peers(call, world))) == 0)
        s->bytes = s->stride;
    return rc;
}

static int ipc_grow(const char *call, size_t bytes)
{
    return shmemi_fail(
        SHMEMX_ERR_NO_MEMORY, call,
        "%zu bytes do not fit in the GPU heap of %zu, which cannot grow: it is shared by cudaIpc "
        "(SHMEM_DEVICE_SHARING); set SHMEM_DEVICE_SYMMETRIC_SIZE",
        bytes, shmemi_gpu_segment()->stride);
}

static void ipc_trim(struct shmemi_alloc *a)
{
    (void)a; /* one allocation, whole */
}

static void ipc_leave(void)
{
    struct shmemi_segment *s = shmemi_gpu_segment();
    for (int i = 0; s->bases && i < shmemi_world.job.npes; ++i)
        if (s->bases[i] != s->base) {
            shmemi_gpu_shared_close(s->bases[i]);
            s->bases[i] = NULL;
        }
}

static void ipc_close(void)
{
    ipc_leave();
    shmemi_gpu_shared_free(shmemi_gpu_segment()->base);
    free(shmemi_gpu_segment()->bases);
    memset(&ipc, 0, sizeof ipc);
}

const struct shmemi_sharing shmemi_sharing_ipc = {
    .name = "ipc",
    .open = ipc_open,
    .meet = ipc_meet,
    .grow = ipc_grow,
    .trim = ipc_trim,
    .leave = ipc_leave,
    .close = ipc_close,
};
