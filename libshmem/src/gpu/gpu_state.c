#include "gpu/gpu_state.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/gpu.h"
#include "gpu_nic.h"
#include "heap.h"
#include "shmemx_stream.h"
#include "transport/ibgda.h"

/* Packet slots cost 2 * n * slot_bytes a team in every PE's heap: world, shared and the first few others have them, the
 * rest take the path by puts and barriers. */
enum { PACKET_TEAMS = 4 };
/* All members' messages of one collective: 2 MiB, and at least 30,720 bytes each. Up to there packets are faster than
 * copies between two meetings, which cost some 4 us more; 4.3 MiB a team are what it costs. */
static const size_t MESSAGES_BYTES = 2u << 20;
/* What quantized collectives send passes through here: room for 12 warps on each of 132 SMs to send two messages of 1280
 * bytes to each of 4 PEs, and some more. */
static const size_t STAGE_BYTES = 20u << 20;
enum { LEAST_SLOT_BYTES = 32768, LINE_BYTES = 128, LINE_DATA = 120 };

static struct {
    bool open;
    struct shmemx_device_state state;
    struct shmemx_device_error *mailbox; /* &cells->error */
    struct {
        struct shmemx_device_error error;
        uint64_t old; /* what an atomic fetched */
    } *cells;         /* pinned */
} gpu;

/* ---- layout of the internal bytes -------------------------------------------------------------------------------------- */

static size_t lines_up(size_t n)
{
    return (n + LINE_BYTES - 1) / LINE_BYTES * LINE_BYTES; /* teams do not share lines */
}
static size_t claim_at(void)
{
    return lines_up(sizeof(struct shmemx_device_team) * SHMEMI_TEAMS);
}
/* A copy of the state. */
static size_t state_at(void)
{
    return claim_at() + LINE_BYTES;
}
/* Per team: world numbers and addresses of the members. */
static size_t tables_at(void)
{
    return state_at() + lines_up(sizeof gpu.state);
}
static size_t table_bytes(int npes)
{
    return lines_up((sizeof(int) + sizeof(uint64_t)) * (size_t)npes);
}
/* Per team and member: the word of its arrivals, and two that collect wants. */
static size_t sync_at(int npes)
{
    return tables_at() + table_bytes(npes) * SHMEMI_TEAMS;
}
static size_t sync_bytes(int npes)
{
    return lines_up(3 * sizeof(uint64_t) * (size_t)npes);
}
static size_t packets_at(int npes)
{
    return sync_at(npes) + sync_bytes(npes) * SHMEMI_TEAMS;
}
static size_t slot_bytes(int npes)
{
    size_t lines = (MESSAGES_BYTES / (size_t)npes + LINE_DATA - 1) / LINE_DATA;
    size_t bytes = (lines * LINE_BYTES + 1023) / 1024 * 1024; /* two halves of whole groups */
    return bytes > LEAST_SLOT_BYTES ? bytes : LEAST_SLOT_BYTES;
}
static size_t packet_bytes(int npes)
{
    return (size_t)2 * (size_t)npes * slot_bytes(npes);
}

/* For PEs that are not mapped. */
static size_t nic_at(int npes)
{
    return packets_at(npes) + packet_bytes(npes) * PACKET_TEAMS;
}
/* Of quantized collectives. */
static size_t stage_at(int npes)
{
    return lines_up(nic_at(npes) + shmemi_gpu_nic_bytes(npes));
}

size_t shmemi_gpu_internal_bytes(int npes)
{
    const size_t page = 65536;
    return (stage_at(npes) + STAGE_BYTES + page - 1) / page * page;
}

size_t shmemi_gpu_stage(uint64_t *offset)
{
    *offset = stage_at(shmemi_world.npes);
    return STAGE_BYTES;
}

/* ---- teams ---------------------------------------------------------------------------------------------------------------- */

static char *mine(size_t offset)
{
    return shmemi_world.segments[SHMEMI_SEGMENT_DEVICE].base + offset;
}

/* Where kernels find PE's copy of the heap. */
static uint64_t copy_of(int pe)
{
    return (uintptr_t)shmemi_copy_at(&shmemi_world.segments[SHMEMI_SEGMENT_DEVICE], pe);
}

/* Members at one distance from each other need no tables, where the heaps are. */
static bool regular(const struct shmemi_team *t)
{
    if (shmemi_world.segments[SHMEMI_SEGMENT_DEVICE].bases)
        return false;
    int stride = t->n > 1 ? t->pes[1] - t->pes[0] : 1;
    for (int j = 2; j < t->n; ++j)
        if (t->pes[j] - t->pes[j - 1] != stride)
            return false;
    return true;
}

static int write_tables(const char *call, struct shmemx_device_team *d, size_t at,
                        const struct shmemi_team *t)
{
    uint64_t *copies = malloc(sizeof *copies * (size_t)t->n);
    if (!copies)
        return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "out of memory for %d PEs", t->n);
    for (int j = 0; j < t->n; ++j)
        copies[j] = copy_of(t->pes[j]);
    d->bases = (uintptr_t)mine(at);
    d->table = d->bases + sizeof *copies * (size_t)t->n;
    shmemi_stream_t s = shmemi_gpu_stream();
    int rc = shmemi_gpu_copy(call, mine(at), copies, sizeof *copies * (size_t)t->n, s);
    if (rc == 0)
        rc = shmemi_gpu_copy(call, (void *)(uintptr_t)d->table, t->pes, sizeof(int) * (size_t)t->n, s);
    if (rc == 0)
        rc = shmemi_gpu_sync(call, s);
    free(copies);
    return rc;
}

static int write_team(const char *call, int slot, const struct shmemi_team *t)
{
    int npes = shmemi_world.npes, rc = 0;
    struct shmemx_device_team d = {
        .me = t->me,
        .n = t->n,
        .start = t->pes[0],
        .stride = t->n > 1 ? t->pes[1] - t->pes[0] : 1,
        .sync = sync_at(npes) + sync_bytes(npes) * (size_t)slot,
        .unmapped = shmemi_gpu_nic_unmapped(t->pes, t->n),
    };
    if (slot < PACKET_TEAMS) {
        d.packets = packets_at(npes) + packet_bytes(npes) * (size_t)slot;
        d.slot_bytes = slot_bytes(npes);
    }
    if (!regular(t) && (rc = write_tables(call, &d, tables_at() + table_bytes(npes) * (size_t)slot, t)) != 0)
        return rc;
    shmemi_stream_t s = shmemi_gpu_stream();
    if ((rc = shmemi_gpu_fill(call, mine(d.sync), 0, sync_bytes(npes), s)) != 0 ||
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
    bool lines = gpu.state.flags & SHMEMX_DEVICE_LINES128;
    const struct shmemi_team *t = shmemi_team_in_slot(slot);
    /* kernels' collectives of a team that is not all mapped use the slots in another way */
    if (!t || shmemi_gpu_nic_unmapped(t->pes, t->n))
        return 0;
    return slot < PACKET_TEAMS && lines ? slot_bytes(shmemi_world.npes) / LINE_BYTES * LINE_DATA : 0;
}

/* ---- what the paths to other hosts need of a GPU --- */

static int pin(const char *call, size_t bytes, void **p)
{
    int rc = shmemi_gpu_host_alloc(call, bytes, p);
    if (rc == 0)
        memset(*p, 0, bytes);
    return rc;
}

static int write_device(const char *call, void *to, const void *from, size_t bytes)
{
    int rc = shmemi_gpu_copy(call, to, from, bytes, shmemi_gpu_stream());
    return rc ? rc : shmemi_gpu_sync(call, shmemi_gpu_stream());
}

static const struct shmemi_kernel_memory gpu_memory = {SHMEMI_SEGMENT_DEVICE, pin, shmemi_gpu_host_free,
                                                       write_device};

/* The kernels by which transports do atomics and signals are loaded now: once other kernels run that wait for what
 * these do, loading would wait for those. */
static int load_words(const char *call)
{
    const struct shmemi_transport *t = shmemi_world.gpu_route[shmemi_world.me];
    uint64_t old;
    struct shmemi_amo look = {SHMEMX_AMO_FETCH, sizeof old, 0, 0, &old};
    int rc = t->amo(shmemi_world.me, SHMEMI_SEGMENT_DEVICE, claim_at() + 64, &look, SHMEMI_BLOCKING);
    if (rc == 0) /* adds nothing */
        rc = t->put_signal(shmemi_world.me, SHMEMI_SEGMENT_DEVICE, claim_at() + 64, NULL, 0,
                           SHMEMI_SEGMENT_DEVICE, claim_at() + 64, 0, SHMEM_SIGNAL_ADD, SHMEMI_BLOCKING);
    return rc ? rc : shmemi_gpu_sync(call, shmemi_gpu_stream());
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
        .flags = shmemi_gpu_lines_whole() ? SHMEMX_DEVICE_LINES128 : 0,
        .heap = copy_of(0),
        .stride = s->stride,
        .bytes = s->stride,
        .mailbox = (uintptr_t)gpu.mailbox,
        .timeout_ns = (unsigned long long)(shmemi_env.TIMEOUT * 1e9),
        .internal = 0,
        .teams = (uintptr_t)s->base,
        .nteams = SHMEMI_TEAMS,
        .copy = (uintptr_t)s->base,
        .bases = s->bases ? (uintptr_t)mine(tables_at()) : 0, /* the table of slot 0, the world */
        .world_sync = sync_at(w->npes),
        .world_packets = packets_at(w->npes),
        .world_slot_bytes = slot_bytes(w->npes),
        .claim = (uintptr_t)mine(claim_at()),
        .self = (uintptr_t)mine(state_at()),
    };
    rc = shmemi_gpu_nic_open(call, &gpu_memory, mine(nic_at(w->npes)), &gpu.state);
    unsigned used = shmemi_gpu_nic_used();
    if (rc == 0 && used & 1u << SHMEMX_NIC_IBGDA && !(used & 1u << SHMEMX_NIC_BOTH))
        gpu.state.flags |= SHMEMX_DEVICE_POSTS;
    if (rc == 0)
        rc = write_device(call, mine(state_at()), &gpu.state, sizeof gpu.state);
    for (int slot = 0; slot < SHMEMI_TEAMS && rc == 0; ++slot) {
        struct shmemi_team *t = shmemi_team_in_slot(slot);
        rc = t ? write_team(call, slot, t) : 0;
    }
    /* kernels find copies by the world's tables, so not before those are written */
    if (rc == 0 && (gpu.state.nic || shmemi_route_serves_gpu()))
        rc = load_words(call);
    gpu.open = rc == 0;
    return rc;
}

void shmemi_gpu_state_close(void)
{
    shmemi_gpu_nic_close();
    shmemi_gpu_unload_kernels();
    shmemi_gpu_host_free(gpu.cells);
    memset(&gpu, 0, sizeof gpu);
}

bool shmemi_gpu_state_is_open(void)
{
    return gpu.open;
}

const struct shmemx_device_state *shmemi_gpu_state(void)
{
    return &gpu.state;
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

/* Room for the next note. */
static void forget_note(const char *call)
{
    gpu.mailbox->kind = SHMEMX_DEVICE_OK;
    if (shmemi_gpu_fill(call, mine(claim_at()), 0, sizeof(uint32_t), shmemi_gpu_stream()) == 0)
        (void)shmemi_gpu_sync(call, shmemi_gpu_stream());
}

int shmemi_gpu_mailbox(const char *call)
{
    static const char *const calls[] = {
#define X(name, text) text,
        SHMEMX_DEVICE_CALLS(X)
#undef X
    };
    struct shmemx_device_error *m = gpu.mailbox, e;
    char cause[600];
    int failed = shmemi_gpu_nic_error(cause, sizeof cause);
    /* acquire: pairs with the kernel's release of `kind`; the rest of the report is there */
    bool noted = m && __atomic_load_n(&m->kind, __ATOMIC_ACQUIRE) != SHMEMX_DEVICE_OK;
    if (SHMEMI_UNLIKELY(noted)) {
        e = *m;
        forget_note(call);
    }
    shmemi_gpu_nic_go_on();      /* after the note has been taken: nic.h */
    if (SHMEMI_UNLIKELY(failed)) /* what kernels have noted since is what came of it */
        return shmemi_fail(failed, call, "a kernel's operation failed: %s", cause);
    if (!noted)
        return SHMEMX_SUCCESS;
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
    case SHMEMX_DEVICE_ROOM:
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call,
                           "%s: %llu bytes are to come to 0x%llx, which has room for %llu", where, e.expected,
                           e.address, e.value);
    case SHMEMX_DEVICE_EXPERT:
        return shmemi_fail(
            SHMEMX_ERR_ARGUMENT, call,
            "%s: choice %llu of topk_idx, at 0x%llx, is neither -1 nor one of the %llu experts", where,
            e.value, e.address, e.expected);
    case SHMEMX_DEVICE_NODES:
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call,
                           "%s: token %llu of topk_idx, at 0x%llx, goes to %d nodes, max_nodes is %llu",
                           where, e.value, e.address, e.pe, e.expected);
    case SHMEMX_DEVICE_LIMIT:
        return shmemi_fail(SHMEMX_ERR_LIMIT, call, "%s: PE %d is to receive %llu rows and has room for %llu",
                           where, e.pe, e.value, e.expected);
    case SHMEMX_DEVICE_MISMATCH:
        return shmemi_fail(
            SHMEMX_ERR_MISMATCH, call,
            "%s: PE %d makes another call, or with other arguments: its word at 0x%llx is 0x%llx, this PE's "
            "0x%llx",
            where, e.pe, e.address, e.value, e.expected);
    case SHMEMX_DEVICE_NIC: {
        char text[400];
        int code = shmemi_ibgda_explain(&e, text, sizeof text);
        return shmemi_fail(code, call, "%s: the NIC: %s", where, text);
    }
    case SHMEMX_DEVICE_PROXY: /* its own words have been told before */
        return shmemi_fail(-(int)e.value, call, "%s: the proxy's operation on %s failed: %s", where, who,
                           shmemx_strerror(-(int)e.value));
    case SHMEMX_DEVICE_DATA:
        return shmemi_fail(
            SHMEMX_ERR_DATA, call,
            "%s: one of the %llu elements at 0x%llx is NaN or infinity, or their sum is; clean the "
            "input or pass SHMEMX_NONFINITE_PROPAGATE",
            where, e.value, e.address);
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
    /* one that comes too late writes the cell before the next one does */
    if (rc == 0 && cell && (rc = shmemi_gpu_sync_in_time(call, shmemi_gpu_stream())) == 0)
        memcpy(a->fetched, cell, a->size); /* the low bytes come first */
    pthread_mutex_unlock(&cell_lock);
    return rc;
}
