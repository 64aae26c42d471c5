#include "gpu_nic.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shmemx.h"
#include "team.h"
#include "transport/ibgda.h"

enum { AUTO, PROXY, IBGDA, OFF };
static const char *const words[] = {[AUTO] = "auto", [PROXY] = "proxy", [IBGDA] = "ibgda", [OFF] = "off"};

static struct {
    bool open;
    unsigned char *path; /* [npes] SHMEMX_NIC_* */
    const struct shmemi_kernel_memory *memory;
    uint32_t *failed; /* pinned */
    char *device;     /* where `view` is written to */
    struct shmemx_device_nic view;
    struct shmemx_device_ways ways;
} nic;

/* ---- settings ---------------------------------------------------------------------------------------------------------- */

/* Number of the variable's word, -1 = none. */
static int wanted(void)
{
    for (int i = AUTO; i <= OFF; ++i)
        if (strcmp(shmemi_env.GPU_NIC, words[i]) == 0)
            return i;
    return -1;
}

static int power_of_2(const char *call, const char *name, long long value, long long least, long long most)
{
    if (value >= least && value <= most && (value & (value - 1)) == 0)
        return SHMEMX_SUCCESS;
    return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "%s=%lld is not a power of 2 from %lld to %lld", name,
                       value, least, most);
}

int shmemi_gpu_nic_settings(const char *call)
{
    if (wanted() < 0)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call,
                           "SHMEM_GPU_NIC=%.100s is unknown; choices: auto, proxy, ibgda, off",
                           shmemi_env.GPU_NIC);
    int rc = power_of_2(call, "SHMEM_GPU_NIC_RINGS", shmemi_env.GPU_NIC_RINGS, 1, 256);
    return rc ? rc : power_of_2(call, "SHMEM_GPU_NIC_DEPTH", shmemi_env.GPU_NIC_DEPTH, 4, 65536);
}

int shmemi_gpu_nic_agree(const char *call)
{
    int32_t mine = wanted(), theirs;
    int rc = 0;
    struct shmemi_team *world = shmemi_team_get(call, SHMEM_TEAM_WORLD, &rc);
    if (!world || (rc = shmemi_show(call, world, shmemi_tag(SHMEMI_MEMORY, 6, 0), &mine, sizeof mine)) != 0)
        return rc;
    for (int j = 0; j < world->n; ++j) {
        memcpy(&theirs, shmemi_note_of(world, j, world->epoch)->data, sizeof theirs);
        if (theirs != mine)
            return shmemi_fail(SHMEMX_ERR_MISMATCH, call,
                               "SHMEM_GPU_NIC is %s on PE %d and %s on this PE; set it to the same on all",
                               words[theirs], j, words[mine]);
    }
    return SHMEMX_SUCCESS;
}

/* ---- the choice ---------------------------------------------------------------------------------------------------------- */

/* Can kernels load and store that PE's copy? */
static bool mapped(int pe, int segment)
{
    if (shmemi_node.local_of[pe] >= 0)
        return true;
    /* the nodes that SHMEM_NODE_ID makes of a machine share its GPUs, unless the word asks to see what hosts would */
    return segment == SHMEMI_SEGMENT_DEVICE && shmemi_node.on_host[pe] &&
           (wanted() == AUTO || wanted() == OFF);
}

bool shmemi_gpu_nic_far(int pe)
{
    return !mapped(pe, SHMEMI_SEGMENT_DEVICE);
}

/* "": it is open, or was not asked for by `auto`. */
static const char *why_not_ibgda(void)
{
    return wanted() == AUTO ? shmemi_gpu_nic_ibgda_lacks() : "";
}

int shmemi_gpu_nic_choice(int pe, int segment, char *why, size_t n)
{
    if (mapped(pe, segment))
        return SHMEMX_NIC_MAPPED;
    if (wanted() == OFF) {
        snprintf(why, n, "SHMEM_GPU_NIC=off");
        return SHMEMX_ERR_UNSUPPORTED;
    }
    if (shmemi_ibgda_is_open())
        return shmemi_env.GPU_NIC_PROXY_FROM && shmemi_route_is(pe, segment) ? SHMEMX_NIC_BOTH
                                                                             : SHMEMX_NIC_IBGDA;
    if (wanted() == IBGDA) {
        snprintf(why, n, "SHMEM_GPU_NIC=ibgda: it is not open");
        return SHMEMX_ERR_UNSUPPORTED;
    }
    if (shmemi_route_is(pe, segment))
        return SHMEMX_NIC_PROXY;
    snprintf(why, n,
             "it is on another host, where no transport in use reaches GPU memory (ucx does, and verbs with "
             "SHMEM_IB_ATOMICS=native)%s%s",
             *why_not_ibgda() ? ", and ibgda is not possible: " : "", why_not_ibgda());
    return SHMEMX_ERR_UNSUPPORTED;
}

/* ---- opening ------------------------------------------------------------------------------------------------------------- */

static size_t lines_up(size_t n)
{
    return (n + 127) / 128 * 128;
}
/* In the kernels' memory: the struct, the paths, and what the proxy wants. */
static const size_t PATHS_AT = 128;
_Static_assert(sizeof(struct shmemx_device_nic) <= 128, "the paths begin behind it");
static size_t proxy_at(int npes)
{
    return PATHS_AT + lines_up((size_t)npes);
}

size_t shmemi_gpu_nic_bytes(int npes)
{
    return lines_up(proxy_at(npes) + shmemi_proxy_bytes());
}

/* All PEs have the same word, and one that is not mapped sees none mapped: so they come here together or not at all. */
static int try_ibgda(const char *call, int segment)
{
    bool far = false;
    for (int pe = 0; pe < shmemi_world.npes; ++pe)
        far |= !mapped(pe, segment);
    return far && (wanted() == AUTO || wanted() == IBGDA)
               ? shmemi_gpu_nic_ibgda_open(call, segment, wanted() == IBGDA)
               : SHMEMX_SUCCESS;
}

static int choose(const char *call, int segment, struct shmemx_device_nic *view)
{
    for (int pe = 0; pe < shmemi_world.npes; ++pe) {
        char why[600];
        int path = shmemi_gpu_nic_choice(pe, segment, why, sizeof why);
        if (path < 0)
            return shmemi_fail(path, call, "kernels cannot reach PE %d: %s", pe, why);
        nic.path[pe] = (unsigned char)path;
        view->unmapped += path != SHMEMX_NIC_MAPPED;
        if (path != SHMEMX_NIC_MAPPED)
            view->used |= 1u << path;
        if (path == SHMEMX_NIC_BOTH)
            view->used |= 1u << SHMEMX_NIC_PROXY | 1u << SHMEMX_NIC_IBGDA;
    }
    return SHMEMX_SUCCESS;
}

/* One path for all PEs but those mapped, where these are a row of numbers. */
static void note_path(void)
{
    int npes = shmemi_world.npes, first = 0, end;
    struct shmemx_device_ways *w = &nic.ways;
    while (first < npes && nic.path[first] != SHMEMX_NIC_MAPPED)
        first++;
    for (end = first; end < npes && nic.path[end] == SHMEMX_NIC_MAPPED; end++)
        ;
    w->mapped_first = first;
    w->mapped = (unsigned)(end - first);
    w->path = nic.path[first > 0 ? 0 : end]; /* not all are mapped */
    for (int pe = 0; pe < npes; ++pe)
        if ((pe < first || pe >= end) && nic.path[pe] != w->path)
            w->path = SHMEMX_NIC_TABLE;
}

static int start(const char *call, char *device, struct shmemx_device_nic *view)
{
    void *word;
    int rc = nic.memory->pinned(call, sizeof *nic.failed, &word);
    if (rc)
        return rc;
    nic.failed = word;
    view->failed = (uintptr_t)nic.failed;
    view->path = (uintptr_t)device + PATHS_AT;
    view->proxy_from = shmemi_env.GPU_NIC_PROXY_FROM;
    if (view->used & 1u << SHMEMX_NIC_PROXY) {
        char *at = device + proxy_at(shmemi_world.npes);
        view->proxy = (uintptr_t)at;
        rc = shmemi_proxy_open(call, nic.memory, at, nic.failed, &nic.ways);
    }
    nic.ways.atomics = shmemi_world.atomics[nic.memory->segment] ? SHMEMX_NIC_PROXY : SHMEMX_NIC_MAPPED;
    if (rc == 0 && view->used & 1u << SHMEMX_NIC_IBGDA) {
        rc = shmemi_gpu_nic_ibgda_resize(call, view, &nic.ways);
        nic.ways.atomics = SHMEMX_NIC_IBGDA;
    }
    note_path();
    nic.device = device;
    nic.view = *view;
    if (rc == 0)
        rc = nic.memory->write(call, device + PATHS_AT, nic.path, (size_t)shmemi_world.npes);
    return rc ? rc : nic.memory->write(call, device, view, sizeof *view);
}

int shmemi_gpu_nic_open(const char *call, const struct shmemi_kernel_memory *m, char *device,
                        struct shmemx_device_state *state)
{
    struct shmemx_device_nic view = {0};
    state->nic = 0;
    nic.memory = m;
    nic.path = calloc((size_t)shmemi_world.npes, 1);
    if (!nic.path)
        return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "out of memory for %d PEs", shmemi_world.npes);
    nic.open = true;
    int rc = try_ibgda(call, m->segment);
    if (rc == 0)
        rc = choose(call, m->segment, &view);
    if (rc == 0 && view.unmapped) {
        rc = start(call, device, &view);
        state->nic = (uintptr_t)device;
        state->ways = nic.ways;
    }
    if (rc)
        shmemi_gpu_nic_close();
    return rc;
}

unsigned shmemi_gpu_nic_used(void)
{
    return nic.view.used;
}

unsigned shmemi_gpu_nic_unmapped(const int *pes, int n)
{
    unsigned far = 0;
    for (int i = 0; nic.open && i < n; ++i)
        far += nic.path[pes[i]] != SHMEMX_NIC_MAPPED;
    return far;
}

int shmemi_gpu_nic_resize(const char *call)
{
    if (!nic.open || !shmemi_gpu_nic_ibgda_stale())
        return SHMEMX_SUCCESS;
    int rc = shmemi_gpu_nic_ibgda_resize(call, &nic.view, &nic.ways);
    return rc ? rc : nic.memory->write(call, nic.device, &nic.view, sizeof nic.view);
}

void shmemi_gpu_nic_drain(void)
{
    shmemi_proxy_drain();
    shmemi_ibgda_drain();
}

void shmemi_gpu_nic_close(void)
{
    shmemi_proxy_close();
    shmemi_gpu_nic_ibgda_close();
    if (nic.failed)
        nic.memory->unpin(nic.failed);
    free(nic.path);
    memset(&nic, 0, sizeof nic);
}

int shmemi_gpu_nic_error(char *text, size_t n)
{
    return shmemi_proxy_error(text, n);
}

void shmemi_gpu_nic_go_on(void)
{
    if (nic.failed && shmemi_ibgda_is_open())
        __atomic_store_n(nic.failed, 0, __ATOMIC_RELAXED);
}

int shmemx_gpu_nic_recover(shmem_team_t team)
{
    static const char call[] = "shmemx_gpu_nic_recover";
    int rc = SHMEMX_SUCCESS;
    struct shmemi_team *t = shmemi_team_get(call, team, &rc);
    if (!t)
        return rc;
    if (!nic.open || !(nic.view.used & 1u << SHMEMX_NIC_IBGDA)) /* no queue pairs, on no PE */
        return shmemi_meet(call, t, shmemi_tag(SHMEMI_GPU_NIC_RECOVER, 1, 0));
    if ((rc = shmemi_gpu_nic_ibgda_recover(call, t)) == 0)
        __atomic_store_n(nic.failed, 0, __ATOMIC_RELAXED); /* what kernels waited for in vain is over */
    return rc;
}

/* ---- for people ---------------------------------------------------------------------------------------------------------- */

void shmemi_gpu_nic_table(char *text, size_t n)
{
    static const char *const ways[] = {
        [SHMEMX_NIC_MAPPED] = "loads and stores",
        [SHMEMX_NIC_PROXY] = "proxy",
        [SHMEMX_NIC_IBGDA] = "ibgda",
        [SHMEMX_NIC_BOTH] = "ibgda, long puts by the proxy",
    };
    size_t at = 0;
    text[0] = 0;
    for (int from = 0, to; nic.open && from < shmemi_world.npes && at < n; from = to) {
        char who[48], over[500] = "";
        const char *lacks = why_not_ibgda();
        for (to = from + 1; to < shmemi_world.npes && nic.path[to] == nic.path[from];)
            to++;
        if (to - from == 1)
            snprintf(who, sizeof who, "PE %d", from);
        else
            snprintf(who, sizeof who, "PEs %d to %d", from, to - 1);
        if (nic.path[from] == SHMEMX_NIC_PROXY || nic.path[from] == SHMEMX_NIC_BOTH)
            snprintf(over, sizeof over, " over %s%s%s%s", shmemi_route(from, nic.memory->segment, NULL)->name,
                     *lacks ? " (ibgda: " : "", lacks, *lacks ? ")" : "");
        at += (size_t)snprintf(text + at, n - at, "kernels to %s: %s%s\n", who, ways[nic.path[from]], over);
    }
}
