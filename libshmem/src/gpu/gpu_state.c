#include "gpu/gpu_state.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/gpu.h"
#include "heap.h"
#include "shmemx_stream.h"

extern const char shmemi_kernels_ptx[];

/* Packet slots cost 2 * n * SLOT_BYTES a team in every PE's heap: world, shared and the first few others have them, the
 * rest take the path by puts and barriers. 32 KiB hold 30,720 bytes as 128-byte lines. */
enum { PACKET_TEAMS = 4, SLOT_BYTES = 32768 };

static struct {
    bool open;
    struct shmemx_device_state state;
    struct shmemx_device_error *mailbox; /* &cells->error */
    struct {
        struct shmemx_device_error error;
        uint64_t old; /* what an atomic fetched */
    } *cells;         /* pinned */
    void *module, *kernels[SHMEMI_K_COUNT];
} gpu;

/* ---- layout of the internal bytes -------------------------------------------------------------------------------------- */

static size_t tables_at(void)
{
    return sizeof(struct shmemx_device_team) * SHMEMI_TEAMS;
}
static size_t sync_at(int npes)
{
    return (tables_at() + sizeof(int) * (size_t)npes * SHMEMI_TEAMS + 127) & ~(size_t)127;
}
static size_t sync_bytes(int npes)
{
    return (8 * (size_t)npes + 127) & ~(size_t)127; /* teams do not share lines */
}
static size_t packets_at(int npes)
{
    return sync_at(npes) + sync_bytes(npes) * SHMEMI_TEAMS;
}
static size_t packet_bytes(int npes)
{
    return (size_t)2 * (size_t)npes * SLOT_BYTES;
}

size_t shmemi_gpu_internal_bytes(int npes)
{
    const size_t page = 65536;
    return (packets_at(npes) + packet_bytes(npes) * PACKET_TEAMS + page - 1) / page * page;
}

/* ---- teams ---------------------------------------------------------------------------------------------------------------- */

static char *mine(size_t offset)
{
    return shmemi_world.segments[SHMEMI_SEGMENT_DEVICE].base + offset;
}

static int write_team(const char *call, int slot, const struct shmemi_team *t)
{
    int npes = shmemi_world.npes, rc;
    struct shmemx_device_team d = {
        .me = t->me,
        .n = t->n,
        .table = (uintptr_t)mine(tables_at() + sizeof(int) * (size_t)npes * (size_t)slot),
        .sync = sync_at(npes) + sync_bytes(npes) * (size_t)slot,
    };
    if (slot < PACKET_TEAMS) {
        d.packets = packets_at(npes) + packet_bytes(npes) * (size_t)slot;
        d.slot_bytes = SLOT_BYTES;
    }
    shmemi_stream_t s = shmemi_gpu_stream();
    if ((rc = shmemi_gpu_copy(call, (void *)(uintptr_t)d.table, t->pes, sizeof(int) * (size_t)t->n, s)) !=
            0 ||
        (rc = shmemi_gpu_fill(call, mine(d.sync), 0, sync_bytes(npes), s)) != 0 ||
        (d.slot_bytes && (rc = shmemi_gpu_fill(call, mine(d.packets), 0, packet_bytes(npes), s)) != 0) ||
        (rc = shmemi_gpu_copy(call, mine(sizeof d * (size_t)slot), &d, sizeof d, s)) != 0)
        return rc;
    return shmemi_gpu_sync(call, s);
}

int shmemi_gpu_team_made(const char *call, int slot, struct shmemi_team *t)
{
    if (!gpu.open)
        return SHMEMX_SUCCESS;
    int rc = write_team(call, slot, t), met = shmemi_meet(call, t, shmemi_tag(SHMEMI_TEAM, 3, 0));
    return rc ? rc : met; /* nobody writes to a member's flags before that member has zeroed them */
}

void shmemi_gpu_team_gone(int slot)
{
    if (gpu.open &&
        shmemi_gpu_fill("shmem_team_destroy", mine(sizeof(struct shmemx_device_team) * (size_t)slot), 0,
                        sizeof(struct shmemx_device_team), shmemi_gpu_stream()) == 0)
        (void)shmemi_gpu_sync("shmem_team_destroy", shmemi_gpu_stream());
}

size_t shmemi_gpu_packet_bytes(int slot)
{
    return slot < PACKET_TEAMS ? SLOT_BYTES / 128 * 120 : 0;
}

/* ---- state ------------------------------------------------------------------------------------------------------------------ */

int shmemi_gpu_state_open(const char *call)
{
    struct shmemi_world *w = &shmemi_world;
    const struct shmemi_segment *s = &w->segments[SHMEMI_SEGMENT_DEVICE];
    void *p;
    int rc = shmemi_gpu_host_alloc(call, sizeof *gpu.cells, &p);
    if (rc)
        return rc;
    gpu.cells = p;
    gpu.mailbox = &gpu.cells->error;
    memset(gpu.cells, 0, sizeof *gpu.cells);
    gpu.state = (struct shmemx_device_state){
        .version = SHMEMX_DEVICE_STATE_VERSION,
        .me = w->me,
        .npes = w->npes,
        .flags = SHMEMX_DEVICE_LINES128,
        .heap = (uintptr_t)s->node_base,
        .stride = s->stride,
        .bytes = s->stride,
        .mailbox = (uintptr_t)gpu.mailbox,
        .timeout_ns = (unsigned long long)(shmemi_env.TIMEOUT * 1e9),
        .internal = 0,
        .teams = (uintptr_t)s->base,
        .nteams = SHMEMI_TEAMS,
    };
    for (int slot = 0; slot < SHMEMI_TEAMS && rc == 0; ++slot) {
        struct shmemi_team *t = shmemi_team_in_slot(slot);
        rc = t ? write_team(call, slot, t) : 0;
    }
    gpu.open = rc == 0;
    return rc;
}

void shmemi_gpu_state_close(void)
{
    shmemi_gpu_unload(gpu.module);
    shmemi_gpu_host_free(gpu.cells);
    memset(&gpu, 0, sizeof gpu);
}

bool shmemi_gpu_state_is_open(void)
{
    return gpu.open;
}

int shmemx_device_state(void *state, size_t bytes)
{
    const char *call = "shmemx_device_state";
    SHMEMI_REQUIRE_INIT(call);
    if (!state || bytes != sizeof gpu.state)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "state %p of %zu bytes; this library's has %zu", state,
                           bytes, sizeof gpu.state);
    int rc = gpu.open ? 0 : shmemi_heap_gpu_open(call);
    if (rc == 0)
        memcpy(state, &gpu.state, sizeof gpu.state);
    return rc;
}

/* ---- the mailbox --------------------------------------------------------------------------------------------------------------- */

int shmemi_gpu_mailbox(const char *call)
{
    static const char *const calls[] = {
#define X(name, text) text,
        SHMEMX_DEVICE_CALLS(X)
#undef X
    };
    struct shmemx_device_error *m = gpu.mailbox, e;
    /* acquire: pairs with the kernel's release of `kind`; the rest of the report is there */
    if (SHMEMI_LIKELY(!m || __atomic_load_n(&m->kind, __ATOMIC_ACQUIRE) == SHMEMX_DEVICE_OK))
        return SHMEMX_SUCCESS;
    e = *m;
    m->kind = SHMEMX_DEVICE_OK;
    __atomic_store_n(&m->taken, 0, __ATOMIC_RELEASE);
    const char *what = e.call < sizeof calls / sizeof *calls ? calls[e.call] : "unknown call";
    char where[96], who[32] = "any PE";
    snprintf(where, sizeof where, "in a kernel, shmem::%s, block %u, thread %u", what, e.block, e.thread);
    if (e.pe >= 0)
        snprintf(who, sizeof who, "PE %d", e.pe);
    switch (e.kind) {
    case SHMEMX_DEVICE_TIMEOUT:
        return shmemi_fail(SHMEMX_ERR_TIMEOUT, call,
                           "%s: waited for %s at 0x%llx, which held %llu, wanted %llu; "
                           "SHMEM_TIMEOUT=%g is over",
                           where, who, e.address, e.value, e.expected, shmemi_env.TIMEOUT);
    case SHMEMX_DEVICE_PE:
        return shmemi_fail(SHMEMX_ERR_PE, call, "%s: PE %d is out of range, 0 to %lld", where, e.pe,
                           (long long)e.value - 1);
    case SHMEMX_DEVICE_ADDRESS:
        return shmemi_fail(SHMEMX_ERR_ADDRESS, call,
                           "%s: %llu bytes at 0x%llx are not in the GPU heap, or not aligned", where, e.value,
                           e.address);
    case SHMEMX_DEVICE_TEAM:
        return shmemi_fail(SHMEMX_ERR_TEAM, call, "%s: team %llu is none of this PE", where, e.value);
    default:
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call,
                           "%s: the call needs whole warps, the block has %llu threads", where, e.value);
    }
}

int shmemx_stream_check(void)
{
    SHMEMI_REQUIRE_INIT("shmemx_stream_check");
    return shmemi_gpu_mailbox("shmemx_stream_check");
}

/* ---- atomics from the host --- */

/* One word of pinned memory brings old values back; making one each time would cost 100 us. */
static pthread_mutex_t cell_lock = PTHREAD_MUTEX_INITIALIZER;

int shmemi_gpu_atomic(const char *call, const struct shmemi_amo *a, void *dst, int pe)
{
    uint64_t value = a->value, cond = a->cond, *cell = a->fetched ? &gpu.cells->old : NULL;
    int op = a->op, size = (int)a->size;
    void *arguments[] = {&op, &size, &dst, &value, &cond, &pe, &cell};
    pthread_mutex_lock(&cell_lock);
    int rc = shmemi_gpu_kernel(call, SHMEMI_K_ATOMIC, 1, 1, arguments, shmemi_gpu_stream());
    if (rc == 0 && cell && (rc = shmemi_gpu_sync(call, shmemi_gpu_stream())) == 0)
        memcpy(a->fetched, cell, a->size); /* the low bytes come first */
    pthread_mutex_unlock(&cell_lock);
    return rc;
}

/* ---- the library's kernels ------------------------------------------------------------------------------------------------------- */

static const char *const names[SHMEMI_K_COUNT] = {
    [SHMEMI_K_ATOMIC] = "shmem_k_atomic",
    [SHMEMI_K_SIGNAL] = "shmem_k_signal",
    [SHMEMI_K_SIGNAL_WAIT] = "shmem_k_signal_wait",
    [SHMEMI_K_BARRIER] = "shmem_k_barrier",
    [SHMEMI_K_BROADCAST] = "shmem_k_broadcast",
    [SHMEMI_K_FCOLLECT] = "shmem_k_fcollect",
    [SHMEMI_K_ALLTOALL] = "shmem_k_alltoall",
    [SHMEMI_K_EXCHANGE] = "shmem_k_exchange",
    [SHMEMI_K_FETCH] = "shmem_k_fetch",
    [SHMEMI_K_REDUCE + SHMEMX_INT8] = "shmem_k_reduce_int8",
    [SHMEMI_K_REDUCE + SHMEMX_INT16] = "shmem_k_reduce_int16",
    [SHMEMI_K_REDUCE + SHMEMX_INT32] = "shmem_k_reduce_int32",
    [SHMEMI_K_REDUCE + SHMEMX_INT64] = "shmem_k_reduce_int64",
    [SHMEMI_K_REDUCE + SHMEMX_UINT8] = "shmem_k_reduce_uint8",
    [SHMEMI_K_REDUCE + SHMEMX_UINT16] = "shmem_k_reduce_uint16",
    [SHMEMI_K_REDUCE + SHMEMX_UINT32] = "shmem_k_reduce_uint32",
    [SHMEMI_K_REDUCE + SHMEMX_UINT64] = "shmem_k_reduce_uint64",
    [SHMEMI_K_REDUCE + SHMEMX_FLOAT16] = "shmem_k_reduce_float16",
    [SHMEMI_K_REDUCE + SHMEMX_BFLOAT16] = "shmem_k_reduce_bfloat16",
    [SHMEMI_K_REDUCE + SHMEMX_FLOAT32] = "shmem_k_reduce_float32",
    [SHMEMI_K_REDUCE + SHMEMX_FLOAT64] = "shmem_k_reduce_float64",
};

static int load_module(const char *call)
{
    char *symbol;
    size_t bytes;
    int rc = shmemi_gpu_load(call, shmemi_kernels_ptx, &gpu.module);
    for (int k = 0; k < SHMEMI_K_COUNT && rc == 0; ++k)
        rc = names[k] ? shmemi_gpu_function(call, gpu.module, names[k], &gpu.kernels[k]) : 0;
    if (rc == 0)
        rc = shmemi_gpu_global(call, gpu.module, "shmem_device_state", &symbol, &bytes);
    if (rc == 0 && bytes != sizeof gpu.state)
        rc = shmemi_fail(SHMEMX_ERR_SYSTEM, call, "kernels expect a state of %zu bytes, not %zu", bytes,
                         sizeof gpu.state);
    if (rc == 0)
        rc = shmemi_gpu_copy(call, symbol, &gpu.state, sizeof gpu.state, shmemi_gpu_stream());
    return rc ? rc : shmemi_gpu_sync(call, shmemi_gpu_stream());
}

int shmemi_gpu_kernel(const char *call, int kernel, unsigned blocks, unsigned threads, void **arguments,
                      void *stream)
{
    int rc = gpu.module ? 0 : load_module(call);
    if (rc == 0 && !gpu.kernels[kernel])
        rc = shmemi_fail(SHMEMX_ERR_UNSUPPORTED, call, "not on a GPU for this type");
    return rc ? rc : shmemi_gpu_launch(call, gpu.kernels[kernel], blocks, threads, 0, arguments, stream);
}
