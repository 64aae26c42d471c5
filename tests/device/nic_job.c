#include "nic_job.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gpu/gpu_state.h"
#include "gpu_nic.h"
#include "nic_late.h"
#include "sim_faults.h"
#include "team.h"
#include "transport/ibgda.h"

enum { SLOT_BYTES = 2048, AREA_BYTES = 64 << 10 };

static struct {
    bool gpu;
    struct shmemx_device_state state;
    struct shmemx_device_team teams[NIC_JOB_TEAMS];
    struct shmemx_device_error box;
    unsigned claim;
    unsigned long long *bases; /* [npes] */
    unsigned long long *members[NIC_JOB_TEAMS];
    int *table[NIC_JOB_TEAMS];
    char *device, *symmetric, *beyond;
    struct shmemi_transport broken;
    int error;
} job;

/* ---- kernels' memory ------------------------------------------------------------------------------------ */

static int pin(const char *call, size_t bytes, void **p)
{
    bytes = (bytes + 63) / 64 * 64;
    *p = aligned_alloc(64, bytes);
    if (!*p)
        return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "out of memory for %zu bytes", bytes);
    memset(*p, 0, bytes);
    return 0;
}
static int write_here(const char *call, void *to, const void *from, size_t bytes)
{
    (void)call;
    memcpy(to, from, bytes);
    return 0;
}
static const struct shmemi_kernel_memory memory = {SHMEMI_SEGMENT_HOST, pin, free, write_here};

static void must(int rc, const char *what)
{
    if (rc) {
        fprintf(stderr, "%s: %s: %s\n", what, shmemx_error_name(rc), shmemx_last_error());
        shmem_global_exit(1);
    }
}

/* ---- the state ------------------------------------------------------------------------------------------ */

static uint64_t copy_of(int pe)
{
    const struct shmemi_segment *s = &shmemi_world.segments[SHMEMI_SEGMENT_HOST];
    int local = shmemi_node.local_of[pe];
    return local < 0 ? 0 : (uintptr_t)shmemi_copy_at(s, local);
}

/* pes: members in their order, n of them; this PE may be none. The area has the arrivals, then two slots a member. */
static void make_team(int number, const int *pes, int n, bool slots, size_t area)
{
    struct shmemx_device_team *t = &job.teams[number];
    int me = -1;
    for (int j = 0; j < n; ++j)
        me = pes[j] == shmemi_world.me ? j : me;
    if (me < 0)
        return;
    job.table[number] = malloc(sizeof(int) * (size_t)n);
    job.members[number] = malloc(sizeof(unsigned long long) * (size_t)n);
    for (int j = 0; j < n; ++j) {
        job.table[number][j] = pes[j];
        job.members[number][j] = copy_of(pes[j]);
    }
    *t = (struct shmemx_device_team){
        .me = me,
        .n = n,
        .start = pes[0],
        .stride = n > 1 ? pes[1] - pes[0] : 1,
        .table = (uintptr_t)job.table[number],
        .bases = (uintptr_t)job.members[number],
        .sync = area,
        .packets = area + 4096,
        .slot_bytes = slots ? SLOT_BYTES : 0,
        .unmapped = shmemi_gpu_nic_unmapped(pes, n),
    };
}

static void make_teams(size_t area)
{
    int n = shmemi_world.npes, pes[64], count = 0;
    for (int pe = 0; pe < n; ++pe)
        pes[pe] = pe;
    make_team(0, pes, n, true, area);
    for (int pe = 0; pe < n; ++pe)
        if (shmemi_node.local_of[pe] >= 0)
            pes[count++] = pe;
    make_team(1, pes, count, true, area + AREA_BYTES);
    count = 0;
    for (int pe = 0; pe < n; pe += 2)
        pes[count++] = pe;
    make_team(NIC_JOB_EVEN, pes, count, true, area + 2 * AREA_BYTES);
    for (int pe = 0; pe < n; ++pe)
        pes[pe] = n - 1 - pe;
    make_team(NIC_JOB_REVERSED, pes, n, false, area + 3 * AREA_BYTES);
    int each = job.teams[1].n, columns = n / each;
    for (int node = 0; node < columns; ++node)
        pes[node] = node * each + job.teams[1].me;
    make_team(NIC_JOB_COLUMN, pes, columns, false, area + 4 * AREA_BYTES);
}

int nic_job_init(void)
{
    return shmemx_init();
}
const char *nic_job_last_error(void)
{
    return shmemx_last_error();
}
const char *nic_job_error_name(int code)
{
    return shmemx_error_name(code);
}
void nic_job_finalize(void)
{
    shmem_finalize();
}
void nic_job_log(int on)
{
    shmemx_log_errors(on);
}

/* ---- the GPU heap ---------------------------------------------------------------------------------------- */

static struct shmemx_device_state *open_gpu(unsigned long bytes, void **user, double timeout)
{
    job.symmetric = *user = shmemx_malloc(bytes, SHMEMX_MEM_DEVICE);
    must(job.symmetric ? 0 : SHMEMX_ERR_NO_MEMORY, "GPU heap");
    memset(job.symmetric, 0, bytes);
    shmem_team_t even, all;
    int n = shmemi_world.npes;
    shmem_team_split_strided(SHMEM_TEAM_WORLD, 0, 2, (n + 1) / 2, NULL, 0, &even);
    shmem_team_split_strided(SHMEM_TEAM_WORLD, 0, 1, n, NULL, 0, &all);
    if ((shmemi_world.me % 2 == 0 && shmemx_team_device(even) != NIC_JOB_EVEN) ||
        shmemx_team_device(all) != NIC_JOB_REVERSED)
        must(SHMEMX_ERR_TEAM, "numbers of teams");
    job.state = *shmemi_gpu_state();
    job.state.timeout_ns = (unsigned long long)(timeout * 1e9);
    shmem_barrier_all();
    return &job.state;
}

static struct shmemx_device_state *open_host(unsigned long bytes, void **user, double timeout)
{
    const char *call = "nic_job_open";
    struct shmemi_world *w = &shmemi_world;
    const struct shmemi_segment *s = &w->segments[SHMEMI_SEGMENT_HOST];
    const char *beyond = getenv("NIC_JOB_BEYOND");
    if (beyond)
        must((job.beyond = shmem_malloc(strtoull(beyond, NULL, 0))) ? 0 : SHMEMX_ERR_NO_MEMORY, call);
    job.symmetric = shmem_align(4096, NIC_JOB_TEAMS * AREA_BYTES + bytes);
    must(job.symmetric ? 0 : SHMEMX_ERR_NO_MEMORY, call);
    memset(job.symmetric, 0, NIC_JOB_TEAMS * AREA_BYTES + bytes);
    *user = job.symmetric + NIC_JOB_TEAMS * AREA_BYTES;
    job.device = aligned_alloc(128, shmemi_gpu_nic_bytes(w->npes));
    memset(job.device, 0, shmemi_gpu_nic_bytes(w->npes));
    job.bases = malloc(sizeof *job.bases * (size_t)w->npes);
    for (int pe = 0; pe < w->npes; ++pe)
        job.bases[pe] = copy_of(pe);
    must(shmemi_gpu_nic_agree(call), call);
    job.state = (struct shmemx_device_state){
        .version = SHMEMX_DEVICE_STATE_VERSION,
        .me = w->me,
        .npes = w->npes,
        .flags = SHMEMX_DEVICE_LINES128,
        .bytes = s->bytes,
        .mailbox = (uintptr_t)&job.box,
        .timeout_ns = (unsigned long long)(timeout * 1e9),
        .teams = (uintptr_t)job.teams,
        .nteams = NIC_JOB_TEAMS,
        .copy = (uintptr_t)s->base,
        .bases = (uintptr_t)job.bases,
        .claim = (uintptr_t)&job.claim,
    };
    must(shmemi_gpu_nic_open(call, &memory, job.device, &job.state), call);
    make_teams((size_t)(job.symmetric - s->base));
    job.state.world_sync = job.teams[0].sync;
    job.state.world_packets = job.teams[0].packets;
    job.state.world_slot_bytes = job.teams[0].slot_bytes;
    shmem_barrier_all();
    return &job.state;
}

struct shmemx_device_state *nic_job_open(unsigned long bytes, void **user, double timeout)
{
    const char *where = getenv("NIC_JOB_MEMORY"), *late = getenv("NIC_JOB_LATE_US");
    job.gpu = where && strcmp(where, "gpu") == 0;
    struct shmemx_device_state *state = (job.gpu ? open_gpu : open_host)(bytes, user, timeout);
    if (late)
        nic_late_open((unsigned)atoi(late));
    return state;
}

int nic_job_refused(void)
{
    const char *where = getenv("NIC_JOB_MEMORY");
    struct shmemx_device_state none = {0};
    void *p = NULL;
    if (where && strcmp(where, "gpu") == 0) {
        int rc = shmemx_allocate(&p, 4096, 0, 0, SHMEMX_MEM_DEVICE);
        shmem_free(p);
        return rc;
    }
    char *device = aligned_alloc(128, shmemi_gpu_nic_bytes(shmemi_world.npes));
    int rc = shmemi_gpu_nic_open("nic_job_refused", &memory, device, &none);
    if (rc == 0)
        shmemi_gpu_nic_close();
    free(device);
    return rc;
}

void nic_job_meet(void)
{
    shmemi_gpu_nic_drain();
    must(shmemx_barrier(SHMEM_TEAM_WORLD), "barrier");
}

int nic_job_error(char *text, unsigned long n)
{
    int rc = shmemi_gpu_nic_error(text, n);
    shmemi_gpu_nic_go_on();
    const struct shmemx_device_error *note = nic_job_note();
    return rc == 0 && note->kind == SHMEMX_DEVICE_NIC ? shmemi_ibgda_explain(note, text, n) : rc;
}
void nic_job_unregister(void)
{
    (void)shmemi_ibgda_forget(0);
}
int nic_job_recover(int n)
{
    shmem_team_t team = SHMEM_TEAM_WORLD;
    if (n != shmemi_world.npes)
        must(shmem_team_split_strided(SHMEM_TEAM_WORLD, 0, 1, n, NULL, 0, &team), "team");
    int rc = shmemi_world.me < n ? shmemx_gpu_nic_recover(team) : 0;
    if (n != shmemi_world.npes && shmemi_world.me < n)
        shmem_team_destroy(team);
    return rc;
}
const struct shmemx_device_error *nic_job_note(void)
{
    return (void *)(uintptr_t)job.state.mailbox;
}
void nic_job_forget_note(void)
{
    ((struct shmemx_device_error *)(uintptr_t)job.state.mailbox)->kind = 0;
    *(unsigned *)(uintptr_t)job.state.claim = 0;
}

static int broken_put(int pe, int segment, uint64_t offset, const void *source, size_t n, unsigned how)
{
    (void)segment, (void)source, (void)n, (void)how;
    return shmemi_fail(job.error, "put", "the wire to PE %d is cut at offset %llu", pe,
                       (unsigned long long)offset);
}

void nic_job_break(int pe, int error)
{
    static const struct shmemi_transport *before;
    const struct shmemi_transport **route = job.gpu ? shmemi_world.gpu_route : shmemi_world.route;
    if (!before)
        before = route[pe];
    job.broken = *before;
    job.broken.put = broken_put;
    job.error = error;
    route[pe] = error ? &job.broken : before;
    if (!error)
        before = NULL;
}

void nic_job_ways(char *text, unsigned long n)
{
    shmemi_gpu_nic_table(text, n);
}
void nic_job_info(char *text, unsigned long n)
{
    (void)shmemx_info(text, n);
}

void *nic_job_more(unsigned long bytes)
{
    void *p = shmemx_calloc(1, bytes, job.gpu ? SHMEMX_MEM_DEVICE : SHMEMX_MEM_HOST);
    must(p ? 0 : SHMEMX_ERR_NO_MEMORY, "more memory");
    return p;
}
int nic_job_no_more(unsigned long bytes, int broken, char *text, unsigned long n)
{
    void *p;
    if (broken && !set_sim_faults("no_key=1"))
        must(SHMEMX_ERR_UNSUPPORTED, "the software NIC's faults");
    shmemx_log_errors(0);
    int rc = shmemx_allocate(&p, bytes, 0, 0, SHMEMX_MEM_DEVICE);
    shmemx_log_errors(1);
    snprintf(text, n, "%s", rc ? shmemx_last_error() : "");
    if (broken)
        (void)set_sim_faults("");
    return rc;
}
unsigned long nic_job_heap(void)
{
    size_t bytes = 0;
    shmemx_heap_info(SHMEMX_MEM_DEVICE, &bytes, NULL, NULL);
    return bytes;
}
void nic_job_give(void *p)
{
    shmem_free(p);
}

void nic_job_close(void)
{
    nic_late_close();
    if (!job.gpu)
        shmemi_gpu_nic_close();
    shmem_free(job.symmetric);
    shmem_free(job.beyond);
    free(job.device);
    free(job.bases);
    for (int i = 0; i < NIC_JOB_TEAMS; ++i) {
        free(job.table[i]);
        free(job.members[i]);
    }
    memset(&job, 0, sizeof job);
}
