/* The GPU heap: what heap.c calls. Opened by the first allocation of GPU memory: a program that asks for none pays
 * nothing. How its memory is shared with the other processes of the node is heap_gpu_vmm.c's or heap_gpu_ipc.c's, the same
 * on all PEs. */
#include "heap_gpu.h"

#include <stdlib.h>
#include <string.h>

#include "base/gpu.h"
#include "gpu/gpu_state.h"
#include "gpu_nic.h"
#include "team.h"

static struct {
    bool open;
    const struct shmemi_sharing *sharing; /* NULL = not chosen */
    size_t internal;           /* the first bytes of every copy belong to the library (gpu/gpu_state.h) */
    struct shmemi_alloc alloc; /* of [0, committed) */
} gpu;

static struct shmemi_segment *segment(void)
{
    return shmemi_gpu_segment();
}

/* ---- how it is shared ------------------------------------------------------------------------------------------------ */

enum { AUTO, VMM, IPC };
static const char *const words[] = {[AUTO] = "auto", [VMM] = "vmm", [IPC] = "ipc"};

/* Number of the variable's word, -1 = none. */
static int wanted(void)
{
    for (int i = AUTO; i <= IPC; ++i)
        if (strcmp(shmemi_env.DEVICE_SHARING, words[i]) == 0)
            return i;
    return -1;
}

int shmemi_heap_gpu_settings(const char *call)
{
    return wanted() >= 0 ? SHMEMX_SUCCESS
                         : shmemi_fail(SHMEMX_ERR_ARGUMENT, call,
                                       "SHMEM_DEVICE_SHARING=%.100s is unknown; choices: auto, vmm, ipc",
                                       shmemi_env.DEVICE_SHARING);
}

const char *shmemi_heap_gpu_sharing(void)
{
    return gpu.open ? gpu.sharing->name : "";
}

int shmemi_other_room(const char *call, int pe, size_t theirs, size_t grain)
{
    return shmemi_fail(SHMEMX_ERR_MISMATCH, call,
                       "PE %d has room for %zu bytes of GPU heap in pages of %zu, this PE for %zu in %zu; "
                       "set SHMEM_DEVICE_SYMMETRIC_SIZE to the same value on all PEs",
                       pe, theirs, grain, segment()->stride, shmemi_gpu_granularity());
}

/* One way for all: what some ask for, else vmm if every device has it. All PEs see the same notes, and decide alike. */
static int choose(const char *call)
{
    struct {
        int32_t wanted;
        char lacks[60]; /* for vmm; "" = nothing */
    } mine = {wanted(), ""}, theirs;
    const char *lacks = shmemi_gpu_lacks_chunks();
    strncpy(mine.lacks, lacks ? lacks : "", sizeof mine.lacks - 1);
    int rc = 0, asks[IPC + 1] = {-1, -1, -1}, without = -1;
    char what[sizeof mine.lacks] = "";
    struct shmemi_team *world = shmemi_team_get(call, SHMEM_TEAM_WORLD, &rc);
    if (!world || (rc = shmemi_show(call, world, shmemi_tag(SHMEMI_MEMORY, 3, 0), &mine, sizeof mine)) != 0)
        return rc;
    for (int j = world->n - 1; j >= 0; --j) { /* the first PE of each kind is named */
        memcpy(&theirs, shmemi_note_of(world, j, world->epoch)->data, sizeof theirs);
        asks[theirs.wanted] = j;
        if (theirs.lacks[0]) {
            without = j;
            memcpy(what, theirs.lacks, sizeof what);
        }
    }
    if (asks[VMM] >= 0 && asks[IPC] >= 0)
        return shmemi_fail(
            SHMEMX_ERR_MISMATCH, call,
            "SHMEM_DEVICE_SHARING is vmm on PE %d and ipc on PE %d; all PEs share the GPU heap in "
            "one way",
            asks[VMM], asks[IPC]);
    if (asks[VMM] >= 0 && without >= 0)
        return shmemi_fail(
            SHMEMX_ERR_UNSUPPORTED, call,
            "SHMEM_DEVICE_SHARING is vmm on PE %d, and the device of PE %d has no %s; auto or ipc "
            "work without",
            asks[VMM], without, what);
    gpu.sharing = asks[IPC] >= 0 || without >= 0 ? &shmemi_sharing_ipc : &shmemi_sharing_vmm;
    if (without >= 0 && asks[IPC] < 0)
        shmemi_debug("GPU heap: the device of PE %d has no %s; shared by cudaIpc", without, what);
    return SHMEMX_SUCCESS;
}

/* ---- opening ----------------------------------------------------------------------------------------------------------- */

/* The heap of this PE and its bookkeeping, once memory is shared. */
static int open_heap(const char *call)
{
    struct shmemi_segment *s = segment();
    int rc = shmemi_gpu_fill(call, s->base, 0, gpu.internal, shmemi_gpu_stream());
    if (rc == 0)
        rc = shmemi_gpu_sync(call, shmemi_gpu_stream());
    if (rc == 0 && (!shmemi_alloc_open(&gpu.alloc, s->bytes) ||
                    shmemi_alloc_take(&gpu.alloc, gpu.internal, SHMEMI_ALLOC_GRAIN) != 0))
        rc = shmemi_fail(SHMEMX_ERR_SYSTEM, call, "out of memory");
    if (rc == 0)
        rc = shmemi_route_open_gpu(call);
    if (rc == 0)
        rc = shmemi_route_expose(call, SHMEMI_SEGMENT_DEVICE, 0, s->bytes);
    if (rc == 0)
        rc = shmemi_buffer_announce(call);
    if (rc == 0)
        rc = shmemi_gpu_state_open(call);
    return rc;
}

int shmemi_heap_gpu_open(const char *call)
{
    if (gpu.open)
        return SHMEMX_SUCCESS;
    *segment() = (struct shmemi_segment){.fd = -1};
    gpu.internal = shmemi_gpu_internal_bytes(shmemi_world.npes);
    int rc = shmemi_all_well(call, shmemi_gpu_open(call, shmemi_world.me));
    if (rc == 0)
        rc = choose(call);
    if (rc == 0)
        rc = shmemi_gpu_nic_agree(call);
    if (rc == 0)
        rc = shmemi_gpu_lines_agree(call);
    if (rc == 0)
        rc = shmemi_all_well(call, gpu.sharing->open(call));
    if (rc == 0)
        rc = gpu.sharing->meet(call);
    if (rc == 0 && segment()->bytes < gpu.internal)
        rc = gpu.sharing->grow(call, gpu.internal);
    if (rc == 0)
        rc = shmemi_all_well(call, open_heap(call));
    gpu.open = rc == 0;
    if (rc) {
        shmemi_gpu_nic_close();
        shmemi_buffer_withdraw();
        shmemi_route_close_gpu();
        if (rc != SHMEMX_ERR_TIMEOUT && rc != SHMEMX_ERR_PEER_DEAD)
            (void)shmemi_heap_gpu_leave(call);
        shmemi_heap_gpu_close();
        (void)shmemi_buffer_announce(call); /* what the transports that are left had before */
    }
    return rc;
}

int shmemi_heap_gpu_leave(const char *call)
{
    if (!gpu.sharing || !gpu.sharing->leave)
        return SHMEMX_SUCCESS;
    gpu.sharing->leave();
    return shmemi_all_well(call, 0);
}

void shmemi_heap_gpu_close(void)
{
    shmemi_gpu_state_close();
    if (gpu.sharing)
        gpu.sharing->close();
    shmemi_alloc_close(&gpu.alloc);
    shmemi_gpu_close();
    memset(segment(), 0, sizeof *segment());
    memset(&gpu, 0, sizeof gpu);
}

/* Collective: at least that much more, which every path to it knows; or an error everywhere, and the heap gives out what it gave
 * out before. */
static int more(const char *call, size_t bytes)
{
    size_t before = gpu.alloc.size;
    int rc = 0;
    if (before != segment()->bytes)
        rc = shmemi_fail(
            SHMEMX_ERR_NO_MEMORY, call,
            "%zu bytes do not fit in the GPU heap of %zu, which cannot grow any more: a part that "
            "it grew by could not be registered everywhere, and a network still has it",
            bytes, before);
    if ((rc = shmemi_all_well(call, rc)) != 0 || (rc = gpu.sharing->grow(call, bytes)) != 0)
        return rc;
    size_t grown = segment()->bytes - before;
    if (!shmemi_alloc_extend(&gpu.alloc, grown))
        rc = shmemi_fail(SHMEMX_ERR_SYSTEM, call, "out of memory");
    if ((rc = shmemi_all_well(call, rc)) == 0 &&
        (rc = shmemi_route_expose(call, SHMEMI_SEGMENT_DEVICE, before, grown)) == 0)
        rc = shmemi_all_well(call, shmemi_gpu_nic_resize(call));
    if (rc == 0)
        return SHMEMX_SUCCESS;
    if (shmemi_route_keeps_gpu()) {
        (void)shmemi_alloc_cut(&gpu.alloc, gpu.alloc.size - before);
    } else {
        gpu.sharing->trim(&gpu.alloc);
        (void)shmemi_gpu_nic_resize(call);
    }
    return rc;
}

/* ---- what heap.c calls ------------------------------------------------------------------------------------------------- */

int shmemi_heap_gpu_take(const char *call, size_t size, size_t align, bool zeroed, void **ptr)
{
    int rc = shmemi_heap_gpu_open(call);
    if (rc)
        return rc;
    size_t at = shmemi_alloc_take(&gpu.alloc, size, align);
    if (at == SHMEMI_ALLOC_NONE) {
        /* the free tail of the heap does not count: a new chunk holds the whole block, aligned */
        if ((rc = more(call, size > SIZE_MAX - align ? SIZE_MAX : size + align)) != 0)
            return rc;
        if ((at = shmemi_alloc_take(&gpu.alloc, size, align)) == SHMEMI_ALLOC_NONE)
            return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "out of memory");
    }
    *ptr = segment()->base + at;
    if (!zeroed)
        return SHMEMX_SUCCESS;
    if ((rc = shmemi_gpu_fill(call, *ptr, 0, size, shmemi_gpu_stream())) == 0)
        rc = shmemi_gpu_sync(call, shmemi_gpu_stream());
    return shmemi_all_well(call, rc);
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
    if (!shmemi_route_keeps_gpu())
        gpu.sharing->trim(&gpu.alloc);
    (void)shmemi_gpu_nic_resize("shmem_free"); /* has said what is wrong */
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

/* Is it in any PE's copy of the GPU heap, as mapped here? */
static bool mapped(const char *a)
{
    const struct shmemi_segment *s = segment();
    if (!s->bases)
        return a >= s->node_base && a < s->node_base + s->stride * (size_t)shmemi_world.npes;
    for (int i = 0; i < shmemi_world.npes; ++i)
        if (s->bases[i] && (uint64_t)(a - s->bases[i]) < s->stride)
            return true;
    return false;
}

bool shmemi_is_gpu(const void *p)
{
    const struct shmemi_segment *h = &shmemi_world.segments[SHMEMI_SEGMENT_HOST];
    const char *a = p;
    if (mapped(a))
        return true;
    if (a >= h->base && a < h->base + h->bytes)
        return false;
    return shmemi_gpu_owns(p);
}
