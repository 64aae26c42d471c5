/* Setup and query: init, finalize, who am I, how to end. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/gpu.h"
#include "checks.h"
#include "globals.h"
#include "gpu/gpu_state.h"
#include "gpu_nic.h"
#include "heap.h"
#include "nonblocking.h"
#include "quant.h"
#include "team.h"
#include "transport/ibgda.h"

struct shmemi_world shmemi_world;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* init and finalize from any thread */
static int nesting;
static bool abandoned; /* by shmemx_abandon: this process cannot join a job again */
static pid_t owner;    /* the process that initialized: a forked child is not a PE */

/* ---- messages of the checks in world.h --------------------------------------------------------------------- */

int shmemi_not_initialized(const char *call)
{
    const char *foreign = shmemi_foreign_library();
    return shmemi_fail(SHMEMX_ERR_NOT_INITIALIZED, call,
                       "called before shmem_init or after shmem_finalize%s%s%s",
                       foreign ? "; the program's shmem_init is that of another library, " : "",
                       foreign ? foreign : "", foreign ? ", with which it is linked as well" : "");
}

int shmemi_require_parent(const char *call)
{
    SHMEMI_REQUIRE_INIT(call);
    return getpid() == owner ? SHMEMX_SUCCESS
                             : shmemi_fail(SHMEMX_ERR_NOT_INITIALIZED, call,
                                           "process %d was forked by PE %d and is no PE itself",
                                           (int)getpid(), shmemi_world.me);
}

int shmemi_bad_pe(const char *call, int pe, int npes)
{
    if (shmemi_world.npes == 0)
        return shmemi_not_initialized(call);
    return shmemi_fail(SHMEMX_ERR_PE, call, "PE %d is out of range, 0 to %d", pe, npes - 1);
}

int shmemi_bad_address(const char *call, const char *what, const void *addr, size_t n)
{
    const struct shmemi_segment *s = &shmemi_world.segments[SHMEMI_SEGMENT_HOST];
    if (shmemi_world.npes == 0)
        return shmemi_not_initialized(call);
    const char *start = s->base + shmemi_world.internal_bytes, *end = s->base + s->bytes, *a = addr;
    if (a >= start && a < end)
        return shmemi_fail(SHMEMX_ERR_ADDRESS, call,
                           "%s: %zu bytes at %p go %zu past the end of the symmetric heap", what, n, addr,
                           n - (size_t)(end - a));
    char globals[160];
    return shmemi_fail(
        SHMEMX_ERR_ADDRESS, call,
        "%s: %zu bytes at %p are not in the symmetric heap [%p, %p) and no global or static variables "
        "(%s)",
        what, n, addr, (const void *)start, (const void *)end, shmemi_globals_text(globals, sizeof globals));
}

/* ---- init and finalize ----------------------------------------------------------------------------------------- */

static void tear_down(void)
{
    struct shmemi_world *w = &shmemi_world;
    shmemi_gpu_nic_close(); /* its thread uses all the rest */
    w->npes = 0;
    shmemi_checks_close();
    shmemi_team_close();
    shmemi_ctx_drop_team(SHMEM_TEAM_INVALID);
    shmemi_buffer_close();
    shmemi_route_close();
    shmemi_heap_gpu_close();
    shmemi_globals_close();
    shmemi_heap_close();
    shmemi_node_close();
    if (w->boot.close)
        w->boot.close(&w->boot);
    memset(&w->boot, 0, sizeof w->boot);
    shmemi_log_set_pe(-1);
}

static int set_up(const char *call, const struct shmemi_bootstrap_request *request)
{
    struct shmemi_world *w = &shmemi_world;
    int rc, fd = -1;
    if ((rc = shmemi_env_read(call)) != 0 || (rc = shmemi_heap_gpu_settings(call)) != 0 ||
        (rc = shmemi_gpu_lines_settings(call)) != 0 || (rc = shmemi_gpu_nic_settings(call)) != 0 ||
        (rc = shmemi_route_settings(call)) != 0 || (rc = shmemi_space_settings(call)) != 0)
        return rc;
    size_t bytes;
    if ((rc = shmemi_heap_bytes(call, &bytes)) != 0 || (rc = shmemi_bootstrap_open(&w->boot, request)) != 0)
        return rc;
    shmemi_log_set_pe(w->boot.rank);
    if ((rc = shmemi_node_learn(call, &w->boot, bytes, shmemi_route_maps_node())) != 0)
        return rc;
    size_t notes = (size_t)(1 + shmemi_mirrors()) * SHMEMI_NOTES_BYTES, globals;
    if ((rc = shmemi_globals_find(call, &w->boot, &globals)) != 0)
        return rc;
    /* notes, variables, and last the words of twins and the stages of quantized collectives */
    w->internal_bytes =
        shmemi_heap_aligned(notes + globals + SHMEMI_TWIN_BYTES + (size_t)SHMEMI_STAGES * SHMEMI_STAGE_BYTES);
    bytes += w->internal_bytes;
    if ((rc = shmemi_node_open(call, &w->boot, bytes, &fd)) != 0)
        return rc;
    shmemi_wait_setup(shmemi_node.neighbours, shmemi_node.processors);
    w->me = w->boot.rank;
    w->job = (struct shmemi_job){w->boot.rank, w->boot.size, shmemi_node.local_of, shmemi_node.on_host,
                                 w->segments};
    if ((rc = shmemi_heap_open(call, fd, bytes)) != 0 || (rc = shmemi_globals_open(call, notes)) != 0 ||
        (rc = shmemi_route_open(call)) != 0 || (rc = shmemi_heap_cover(call, w->internal_bytes)) != 0 ||
        (rc = shmemi_team_open(call)) != 0)
        return rc;
    /* from here on every PE's notes are mapped everywhere, and zero: the first collective of all */
    w->npes = w->boot.size;
    w->jobs++;
    int ok = 0;
    if (!shmemi_team_get(call, SHMEM_TEAM_WORLD, &ok))
        return ok;
    if ((rc = w->boot.barrier(&w->boot)) != 0 || (rc = shmemi_checks_open(call)) != 0)
        return rc;
    shmemi_debug("%d PEs by %s (%s), %d on this node, %d processors, heap of %zu bytes", w->npes,
                 w->boot.name, w->boot.detail, shmemi_node.local_npes, shmemi_node.processors, bytes);
    if (w->me == 0 && (shmemi_env.INFO || shmemi_env.VERSION)) {
        char text[8192];
        shmemx_info(text, sizeof text);
        if (!shmemi_env.INFO)
            *strchrnul(text, '\n') = 0; /* the first line has the version */
        fprintf(stderr, "%s\n", text);
    }
    return SHMEMX_SUCCESS;
}

static int init(const char *call, const struct shmemi_bootstrap_request *request)
{
    int rc = SHMEMX_SUCCESS;
    const char *foreign = shmemi_foreign_library();
    pthread_mutex_lock(&lock);
    if (foreign) {
        rc = shmemi_fail(
            SHMEMX_ERR_BOOTSTRAP, call,
            "the program is linked with another OpenSHMEM library as well, %s: compile and link it anew "
            "with libshmem alone (pyshmem config --cflags --libs)",
            foreign);
    } else if (abandoned) {
        rc = shmemi_fail(SHMEMX_ERR_NOT_INITIALIZED, call, "this process abandoned its job after an error");
    } else if (nesting == 0) {
        if ((rc = set_up(call, request)) != 0)
            tear_down();
        owner = getpid();
    }
    nesting += rc == 0;
    pthread_mutex_unlock(&lock);
    return rc;
}

int shmemx_init(void)
{
    return init("shmem_init", &(struct shmemi_bootstrap_request){0});
}

int shmemx_init_uid(int rank, int size, const shmemx_uniqueid_t *id)
{
    const char *call = "shmemx_init_uid";
    _Static_assert((int)SHMEMI_UID_BYTES == (int)SHMEMX_UNIQUEID_BYTES, "one size of unique ids");
    if (!id)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "id is NULL");
    if (size < 1 || rank < 0 || rank >= size)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "rank %d of %d", rank, size);
    return init(call, &(struct shmemi_bootstrap_request){rank, size, id->bytes});
}

int shmemx_get_uniqueid(shmemx_uniqueid_t *id)
{
    if (!id)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, "shmemx_get_uniqueid", "id is NULL");
    int rc = shmemi_env_read("shmemx_get_uniqueid");
    return rc ? rc : shmemi_bootstrap_uid(id->bytes);
}

/* `fatal`: a PE that is lost or late ends the job, while there still is one to end. */
static int finalize(bool fatal)
{
    const char *call = "shmem_finalize";
    int rc = shmemi_require_parent(
        call); /* a forked child that exits through the same code must not end the job */
    if (rc)
        return rc;
    shmemi_gpu_nic_drain(); /* kernels have ended, what they posted may not have */
    /* also where the job goes on: the specification makes every finalize a barrier */
    rc = shmemi_barrier(call, SHMEM_TEAM_WORLD);
    if (rc == SHMEMX_ERR_NOT_INITIALIZED)
        return rc; /* another thread was first */
    pthread_mutex_lock(&lock);
    if (nesting > 1) {
        nesting--;
        if (fatal)
            shmemi_void(rc);
    } else {
        int left = shmemi_nonblocking_close(call, rc == 0); /* what is still open, before the rest goes */
        rc = rc ? rc : shmemi_heap_gpu_leave(call);
        if (rc == 0 && shmemi_route_has_networks()) {
            /* what this PE posted last has arrived before it closes; and nobody closes before all have come here */
            rc = shmemx_quiet(SHMEM_CTX_DEFAULT);
            rc = rc ? rc : shmemi_world.boot.barrier(&shmemi_world.boot);
        }
        rc = rc ? rc : left;
        if (fatal)
            shmemi_void(rc);
        tear_down();
        nesting = 0;
    }
    pthread_mutex_unlock(&lock);
    return rc;
}

int shmemx_finalize(void)
{
    return finalize(false);
}

void shmemx_abandon(void)
{
    pthread_mutex_lock(&lock);
    if (nesting && getpid() == owner) {
        nesting = 0;
        abandoned = true;
        shmemi_nonblocking_abandon();
        /* state stays RUNNING in the control segment: the others see a PE that ended without finalize */
        shmemi_world.npes = 0;
    }
    pthread_mutex_unlock(&lock);
}

void shmem_init(void)
{
    if (shmemx_init() != 0) {
        fflush(NULL);
        _exit(1); /* no job, so nothing that shmem_global_exit could end; the launcher sees the status */
    }
}

int shmem_init_thread(int requested, int *provided)
{
    if (requested < SHMEM_THREAD_SINGLE || requested > SHMEM_THREAD_MULTIPLE)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, "shmem_init_thread", "thread level %d, 0 to %d exist",
                           requested, SHMEM_THREAD_MULTIPLE);
    int rc = init("shmem_init_thread", &(struct shmemi_bootstrap_request){0});
    if (rc == 0 && provided)
        *provided = SHMEM_THREAD_MULTIPLE;
    return rc;
}

void shmem_query_thread(int *provided)
{
    *provided = SHMEM_THREAD_MULTIPLE;
}

void shmem_query_initialized(int *initialized)
{
    *initialized = shmemi_world.npes > 0;
}

void shmem_finalize(void)
{
    (void)finalize(true);
}

/* The specification's implicit finalization. A PE that fails must not wait for the others: they see it end without. */
static void finalize_at_exit(int status, void *unused)
{
    (void)unused;
    if (status == 0 && shmemi_world.npes && getpid() == owner)
        shmem_finalize();
}

void start_pes(int npes)
{
    (void)npes;
    if (shmemi_world.npes)
        return;
    shmem_init();
    on_exit(finalize_at_exit, NULL);
}

void shmem_global_exit(int status)
{
    fflush(NULL);
    if (shmemi_world.npes) {
        shmemi_node_end_all(status);
        if (status != 0 && shmemi_world.boot.abort)
            shmemi_world.boot.abort(&shmemi_world.boot, status);
    }
    /* not exit(): its handlers may wait for PEs that are gone */
    _exit(status);
}

/* ---- queries ------------------------------------------------------------------------------------------------------- */

int shmem_my_pe(void)
{
    if (shmemi_world.npes == 0) {
        shmemi_not_initialized("shmem_my_pe");
        return -1;
    }
    return shmemi_world.me;
}

int shmem_n_pes(void)
{
    if (shmemi_world.npes == 0) {
        shmemi_not_initialized("shmem_n_pes");
        return -1;
    }
    return shmemi_world.npes;
}

int shmem_pe_accessible(int pe)
{
    return pe >= 0 && pe < shmemi_world.npes;
}

void shmem_info_get_version(int *major, int *minor)
{
    *major = SHMEM_MAJOR_VERSION;
    *minor = SHMEM_MINOR_VERSION;
}

void shmem_info_get_name(char *name)
{
    snprintf(name, SHMEM_MAX_NAME_LEN, "%s", SHMEM_VENDOR_STRING);
}

void shmem_pcontrol(int level, ...)
{
    (void)level; /* for profiling tools that interpose it */
}

/* ---- info ---------------------------------------------------------------------------------------------------------------- */

struct sink {
    char *text;
    size_t size, at;
};

static void say(struct sink *s, const char *fmt, ...) SHMEMI_PRINTF(2, 3);
static void say(struct sink *s, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    bool room = s->at < s->size;
    int n = vsnprintf(room ? s->text + s->at : NULL, room ? s->size - s->at : 0, fmt, ap);
    va_end(ap);
    s->at += n > 0 ? (size_t)n : 0;
}

const char *shmemx_bootstrap_name(void)
{
    return shmemi_world.npes ? shmemi_world.boot.name : "";
}

/* One overload a kind of environment.def. */
static void say_SIZE(struct sink *s, size_t v)
{
    say(s, "%zu", v);
}
static void say_SECONDS(struct sink *s, double v)
{
    say(s, "%g", v);
}
static void say_BOOL(struct sink *s, bool v)
{
    say(s, "%d", v);
}
static void say_ANY(struct sink *s, bool v)
{
    say_BOOL(s, v);
}
static void say_INT(struct sink *s, long v) __attribute__((unused));
static void say_INT(struct sink *s, long v)
{
    say(s, "%ld", v);
}
static void say_STRING(struct sink *s, const char *v)
{
    say(s, "%s", v);
}
static void say_SECRET(struct sink *s, const char *v)
{
    say(s, "%s", *v ? "(set)" : "");
}

size_t shmemx_info(char *text, size_t size)
{
    struct sink s = {text, text ? size : 0, 0};
    struct shmemi_world *w = &shmemi_world;
    char part[2048];
    say(&s, "libshmem: %s, OpenSHMEM %d.%d\n", SHMEMX_VERSION_STRING, SHMEM_MAJOR_VERSION,
        SHMEM_MINOR_VERSION);
    if (w->npes) {
        size_t total, used, largest;
        shmemx_heap_info(SHMEMX_MEM_HOST, &total, &used, &largest);
        say(&s, "job: PE %d of %d, by %s (%s)\n", w->me, w->npes, w->boot.name, w->boot.detail);
        say(&s, "node: %d PEs, node %d of %d; %d PEs on this machine's %d processors, waits %s\n",
            shmemi_node.local_npes, shmemi_node.my_node, shmemi_node.nodes, shmemi_node.neighbours,
            shmemi_node.processors, shmemi_spin_limit ? "spin, then yield" : "yield at once");
        say(&s, "heap: %zu bytes, %zu in use, largest free block %zu\n", total, used, largest);
        say(&s, "global variables: %s\n", shmemi_globals_text(part, sizeof part));
        shmemx_heap_info(SHMEMX_MEM_DEVICE, &total, &used, &largest);
        if (total)
            say(&s, "GPU heap: %s, shared by %s, %s, %zu bytes, %zu in use, largest free block %zu\n",
                shmemi_gpu_name(), shmemi_heap_gpu_sharing(), shmemi_gpu_lines_text(part, sizeof part), total,
                used, largest);
    } else {
        say(&s, "job: not initialized\n");
        (void)shmemi_env_read("shmemx_info");
    }
    shmemi_space_report(part, sizeof part);
    say(&s, "%s", part);
    shmemi_bootstrap_report(part, sizeof part);
    say(&s, "bootstraps:\n%s%s", part, part[0] && part[strlen(part) - 1] == '\n' ? "" : "\n");
    shmemi_route_report(part, sizeof part);
    say(&s, "transports:\n%s", part);
    int possible = shmemi_ibgda_probe(part, sizeof part);
    say(&s, "ibgda: %s (%s)\n", possible ? "possible" : "not possible", part);
    shmemi_route_table(part, sizeof part);
    say(&s, "routes:\n%s", part);
    shmemi_gpu_nic_table(part, sizeof part);
    say(&s, "%s", part);
    say(&s, "int8: %s\n", shmemx_int8_isa());
    say(&s, "variables:\n");
#define SHMEM_ENV(name, kind, dflt, help)                                                                    \
    say(&s, "  SHMEM_%s=", #name);                                                                           \
    say_##kind(&s, shmemi_env.name);                                                                         \
    say(&s, " (default %s) %s\n", dflt[0] ? dflt : "empty", help);
#include "environment.def"
#undef SHMEM_ENV
    return s.at;
}
