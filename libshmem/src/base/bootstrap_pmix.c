/* PMIx: Open MPI's mpirun, PRRTE, Slurm.
 *
 * PMIx carries one thing: the unique id of a hub that rank 0 makes. All else goes over that star, which the
 * process keeps for later inits. Unless MPI has PMIx initialized already, a forked child speaks to PMIx, so
 * that the process stays clean of it. Reasons, all seen with Open MPI 5.0.11 and OpenPMIx 5.0: MPI_Init fails
 * ("local rank: Not found") while anybody else in the process has PMIx initialized; and the second
 * PMIx_Finalize of a process, MPI's own for instance, corrupts the heap. The star also names who is missing
 * and sees a dead PE at once, which a fence does not.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* RTLD_DEFAULT */
#endif
#include "bootstrap.h"
#include "bootstrap_kin.h"
#include "bootstrap_pmix.h"
#include "bootstrap_star.h"

#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct shmemi_pmix pmix;
static const char *library; /* where it came from */
static unsigned attempts;   /* opens of this process before there was a star: every PE counts alike */
static pid_t user;          /* the process that has used PMIx, 0 = none yet */
static struct shmemi_bootstrap star; /* kept from the first init on; state NULL = not yet */

/* A PE of the job while it is being opened. */
struct job {
    pmix_proc_t me;
    int size;
    char key[64]; /* of this attempt */
};

/* ---- waiting for PMIx ---- */

/* One operation under way. PMIx may call back after we gave up, so both sides hold it. */
struct pending {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int holders, left, status;
    char *arrived;                       /* probe: one flag a rank */
    unsigned char uid[SHMEMI_UID_BYTES]; /* uid_done: rank 0's, if the status is SUCCESS */
    pmix_info_t info[2];
    pmix_proc_t everybody;
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

/* After a fence that did not end: who has not put its key? "PE 2, 5", or "" when the server does not say. */
static void name_missing(const struct job *job, char *text, size_t n)
{
    text[0] = 0;
    struct pending *p = make_pending(job->size, (size_t)job->size);
    if (p == NULL)
        return;
    set_bool(&p->info[0], "pmix.immediate");
    p->info[1].value.type = PMIX_INT;
    p->info[1].value.data.integer = 1;
    snprintf(p->info[1].key, sizeof p->info[1].key, "pmix.timeout");
    for (int rank = 0; rank < job->size; rank++) {
        p->probes[rank] = (struct probe){.whole = p, .rank = (uint32_t)rank};
        pmix_proc_t who = job->me;
        who.rank = (uint32_t)rank;
        pmix_status_t status = pmix.Get_nb(&who, job->key, p->info, 2, probe_done, &p->probes[rank]);
        if (status != PMIX_SUCCESS)
            probe_done(status == PMIX_OPERATION_SUCCEEDED ? PMIX_SUCCESS : status, NULL, &p->probes[rank]);
    }
    wait_pending(p, 1.5);
    pthread_mutex_lock(&p->lock);
    size_t used = 0;
    for (int rank = 0; rank < job->size && used + 32 < n; rank++)
        if (p->arrived[rank] != 2 && (uint32_t)rank != job->me.rank)
            used += (size_t)snprintf(text + used, n - used, "%s%d", used ? ", " : "PE ", rank);
    pthread_mutex_unlock(&p->lock);
    release(p, 1);
}

/* ---- opening ---- */

static int broken(const char *what, pmix_status_t status)
{
    return shmemi_fail(SHMEMX_ERR_BOOTSTRAP, "shmem_init", "PMIx_%s: %s (%d)", what,
                       pmix.Error_string(status), status);
}

/* Puts n bytes under the job's key. */
static int put(const struct job *job, const void *mine, size_t n)
{
    pmix_value_t value = {.type = PMIX_BYTE_OBJECT};
    value.data.bo.bytes = (char *)(uintptr_t)mine;
    value.data.bo.size = n;
    pmix_status_t status = pmix.Put(PMIX_GLOBAL, job->key, &value);
    if (status != PMIX_SUCCESS)
        return broken("Put", status);
    return (status = pmix.Commit()) == PMIX_SUCCESS ? SHMEMX_SUCCESS : broken("Commit", status);
}

/* Until everybody has. */
static int fence(const struct job *job)
{
    struct pending *p = make_pending(1, 0);
    if (p == NULL)
        return shmemi_fail(SHMEMX_ERR_SYSTEM, "shmem_init", "no memory for the bootstrap");
    set_bool(&p->info[0], "pmix.collect");
    p->everybody = job->me;
    p->everybody.rank = PMIX_RANK_WILDCARD;
    double patience = shmemi_bootstrap_patience();
    pmix_status_t status = pmix.Fence_nb(&p->everybody, 1, p->info, 1, fence_done, p);
    if (status != PMIX_SUCCESS) /* then PMIx does not call back, also not for OPERATION_SUCCEEDED */
        one_done(p, status == PMIX_OPERATION_SUCCEEDED ? PMIX_SUCCESS : status);
    bool done = wait_pending(p, patience);
    status = done ? p->status : PMIX_SUCCESS;
    release(p, 1);
    if (!done) {
        char missing[256];
        name_missing(job, missing, sizeof missing);
        return shmemi_fail(SHMEMX_ERR_TIMEOUT, "shmem_init",
                           "%s of %d did not arrive within %g s (SHMEM_TIMEOUT)",
                           missing[0] ? missing : "some PE", job->size, patience);
    }
    if (status == PMIX_PARTIAL_SUCCESS || status == PMIX_LOST_CONNECTION)
        return shmemi_fail(SHMEMX_ERR_PEER_DEAD, "shmem_init",
                           "a PE of %d, or the launcher, left while others wait: PMIx_Fence: %s (%d)",
                           job->size, pmix.Error_string(status), status);
    return status == PMIX_SUCCESS ? SHMEMX_SUCCESS : broken("Fence", status);
}

static void uid_done(pmix_status_t status, pmix_value_t *value, void *data)
{
    struct pending *p = data;
    bool right = status == PMIX_SUCCESS && value && value->type == PMIX_BYTE_OBJECT &&
                 value->data.bo.size == sizeof p->uid;
    if (right)
        memcpy(p->uid, value->data.bo.bytes, sizeof p->uid);
    one_done(p, right || status != PMIX_SUCCESS ? status : PMIX_ERROR);
}

/* Rank 0's unique id. `there`: it has put it, and an answer that is none is an error; else it is asked for until it is there. */
static int get_uid(const struct job *job, unsigned char uid[SHMEMI_UID_BYTES], bool there)
{
    /* seconds until it is asked again: a question that is lost, one that was answered with no */
    static const double AGAIN = 1, REST = 0.02;
    double patience = shmemi_bootstrap_patience(), deadline = shmemi_now() + patience, left = patience;
    pmix_proc_t hub = job->me;
    hub.rank = 0;
    pmix_status_t status = PMIX_ERROR;
    for (; left > 0; left = deadline - shmemi_now()) {
        struct pending *p = make_pending(1, 0);
        if (p == NULL)
            return shmemi_fail(SHMEMX_ERR_SYSTEM, "shmem_init", "no memory for the bootstrap");
        status = pmix.Get_nb(&hub, job->key, NULL, 0, uid_done, p);
        if (status != PMIX_SUCCESS)
            uid_done(status, NULL, p);
        bool done = wait_pending(p, left < AGAIN ? left : AGAIN);
        pthread_mutex_lock(&p->lock);
        status = done ? p->status : PMIX_ERROR;
        memcpy(uid, p->uid, sizeof p->uid);
        pthread_mutex_unlock(&p->lock);
        release(p, 1);
        if (status == PMIX_SUCCESS)
            return SHMEMX_SUCCESS;
        if (done && there)
            return broken("Get", status);
        if (done)
            usleep((useconds_t)(REST * 1e6));
    }
    return shmemi_fail(SHMEMX_ERR_TIMEOUT, "shmem_init",
                       "PE 0 of %d did not arrive within %g s (SHMEM_TIMEOUT); PMIx_Get: %s (%d)", job->size,
                       patience, pmix.Error_string(status), status);
}

/* Rank 0's unique id, everywhere. Where all can meet in a fence, the others put a word, too: it shows that they are there.
 * Where they may come from MPI_Finalize they cannot: a PE that is still in it leaves PMIx under the fence of others, which
 * then ends for some of them and not for others (seen with OpenPMIx 5.0). The star names who is missing there. */
static int share_uid(const struct job *job, unsigned char uid[SHMEMI_UID_BYTES], bool fences)
{
    bool first = job->me.rank == 0;
    int error = SHMEMX_SUCCESS;
    if (first || fences)
        error = put(job, first ? (const void *)uid : "x", first ? SHMEMI_UID_BYTES : 1);
    if (error == SHMEMX_SUCCESS && fences)
        error = fence(job);
    return error != SHMEMX_SUCCESS || first ? error : get_uid(job, uid, fences);
}

/* MPI was here, and with it PMIx: our PMIx_Finalize would be the second. */
static bool mpi_is_finalized(void)
{
    int (*finalized)(int *) = (int (*)(int *))dlsym(RTLD_DEFAULT, "MPI_Finalized");
    if (finalized == NULL) {
        void *mpi = dlopen("libmpi.so.40", RTLD_LAZY | RTLD_NOLOAD);
        finalized = mpi ? (int (*)(int *))dlsym(mpi, "MPI_Finalized") : NULL;
    }
    int flag = 0;
    return finalized && finalized(&flag) == 0 && flag;
}

static void pmix_abort(struct shmemi_bootstrap *b, int status)
{
    pmix_proc_t me;
    char text[80];
    snprintf(text, sizeof text, "libshmem: PE %d ended the job with status %d", b->rank, status);
    if (pmix.Init(&me, NULL, 0) == PMIX_SUCCESS)
        pmix.Abort(status, text, NULL, 0);
}

static void pmix_close(struct shmemi_bootstrap *b)
{
    memset(b, 0, sizeof *b); /* the star stays, see above */
}

/* Rank 0's id to everybody, through PMIx. *size becomes the number of PEs. */
static int speak(const char *space, bool finalize, unsigned char uid[SHMEMI_UID_BYTES], int32_t *size_out)
{
    static const char call[] = "shmem_init";
    struct job job;
    memset(&job, 0, sizeof job);
    pmix_status_t status = pmix.Init(&job.me, NULL, 0);
    if (status != PMIX_SUCCESS)
        return shmemi_fail(SHMEMX_ERR_BOOTSTRAP, call, "PMIx_Init in job %.100s: %s (%d), library %.200s",
                           space, pmix.Error_string(status), status, library);
    snprintf(job.key, sizeof job.key, "libshmem.%u", attempts);
    pmix_proc_t whole = job.me;
    whole.rank = PMIX_RANK_WILDCARD;
    pmix_value_t *size = NULL;
    status = pmix.Get(&whole, "pmix.job.size", NULL, 0, &size);
    bool right = status == PMIX_SUCCESS && size && size->type == PMIX_UINT32 &&
                 size->data.uint32 <= INT32_MAX && job.me.rank < size->data.uint32;
    job.size = right ? (int)size->data.uint32 : 0;
    free(size);
    int error = right ? share_uid(&job, uid, !mpi_is_finalized())
                      : shmemi_fail(SHMEMX_ERR_BOOTSTRAP, call,
                                    "the PMIx server does not tell the size of job %.100s: %s (%d)", space,
                                    pmix.Error_string(status), status);
    *size_out = job.size;
    if (finalize)
        pmix.Finalize(NULL, 0);
    return error;
}

/* What the child tells its parent. */
struct answer {
    int32_t error, size;
    unsigned char uid[SHMEMI_UID_BYTES];
    char text[512];
};

static bool pass(int fd, void *bytes, size_t n, bool out)
{
    for (size_t done = 0; done < n;) {
        ssize_t k = out ? send(fd, (char *)bytes + done, n - done, MSG_NOSIGNAL)
                        : recv(fd, (char *)bytes + done, n - done, 0);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return false;
        done += (size_t)k;
    }
    return true;
}

static void child(int fd, pid_t parent, const char *space, bool first)
{
    struct answer a;
    memset(&a, 0, sizeof a);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent || (first && !pass(fd, a.uid, sizeof a.uid, false)))
        _exit(1);
    shmemx_log_errors(false); /* the parent does */
    a.error = speak(space, true, a.uid, &a.size);
    const char *text = strstr(shmemx_last_error(), "shmem_init: ");
    snprintf(a.text, sizeof a.text, "%s", text ? text + strlen("shmem_init: ") : shmemx_last_error());
    _exit(pass(fd, &a, sizeof a, true) ? 0 : 1);
}

/* The same as speak, by a child. `first`: we are rank 0, whose id it is. */
static int speak_by_child(const char *space, bool first, unsigned char uid[SHMEMI_UID_BYTES], int32_t *size)
{
    static const char call[] = "shmem_init";
    int ends[2];
    pid_t parent = getpid();
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
        return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "socketpair: %s", strerror(errno));
    pid_t pid = fork();
    if (pid == 0) {
        close(ends[0]);
        child(ends[1], parent, space, first);
    }
    close(ends[1]);
    if (pid < 0) {
        close(ends[0]);
        return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "fork: %s", strerror(errno));
    }
    int error = SHMEMX_SUCCESS;
    struct answer a;
    memset(&a, 0, sizeof a);
    /* After the fork, since making the id starts a thread. */
    if (first && (error = shmemi_bootstrap_uid(a.uid)) == SHMEMX_SUCCESS)
        pass(ends[0], a.uid, sizeof a.uid, true);
    /* The child has a deadline for the fence and the question who is missing; PMIx_Init has none. */
    struct pollfd p = {.fd = ends[0], .events = POLLIN};
    double deadline = shmemi_now() + shmemi_bootstrap_patience() + 10;
    while (error == SHMEMX_SUCCESS && shmemi_now() < deadline && poll(&p, 1, 100) <= 0)
        continue;
    if (error == SHMEMX_SUCCESS && !p.revents)
        error =
            shmemi_fail(SHMEMX_ERR_TIMEOUT, call, "no answer from the PMIx server of job %.100s within %g s",
                        space, shmemi_bootstrap_patience() + 10);
    else if (error == SHMEMX_SUCCESS && !pass(ends[0], &a, sizeof a, false))
        error = shmemi_fail(SHMEMX_ERR_BOOTSTRAP, call,
                            "the process that asks PMIx ended early (library %.200s)", library);
    else if (error == SHMEMX_SUCCESS && a.error != SHMEMX_SUCCESS)
        error = shmemi_fail(a.error, call, "%.*s", (int)sizeof a.text - 1, a.text);
    close(ends[0]);
    if (error != SHMEMX_SUCCESS)
        kill(pid, SIGKILL);
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        continue;
    memcpy(uid, a.uid, SHMEMI_UID_BYTES);
    *size = a.size;
    return error;
}

static int open_star(const char *rank_text, const char *space)
{
    static const char call[] = "shmem_init";
    char *end;
    long rank = strtol(rank_text, &end, 10);
    if (end == rank_text || *end || rank < 0 || rank >= INT32_MAX)
        return shmemi_fail(SHMEMX_ERR_BOOTSTRAP, call, "PMIX_RANK=\"%.40s\" is not a rank", rank_text);
    user = getpid();
    unsigned char uid[SHMEMI_UID_BYTES];
    int32_t size = 0;
    int error = SHMEMX_SUCCESS;
    bool live = pmix.Initialized() != 0;
    if (live || mpi_is_finalized()) { /* after MPI's own, a PMIx_Finalize of ours would be the second */
        if (rank == 0)
            error = shmemi_bootstrap_uid(uid);
        if (error == SHMEMX_SUCCESS)
            error = speak(space, live, uid, &size);
    } else {
        error = speak_by_child(space, rank == 0, uid, &size);
    }
    attempts++;
    if (error != SHMEMX_SUCCESS)
        return error;
    struct shmemi_bootstrap_request request = {(int)rank, size, uid};
    error = shmemi_bootstrap_tcp(&star, &request);
    if (error < 0)
        return error;
    char hub[64];
    snprintf(hub, sizeof hub, "%.60s", star.detail);
    snprintf(star.detail, sizeof star.detail, "%.80s, then %s", library, hub);
    star.name = "pmix";
    star.launched = true;
    star.abort = pmix_abort;
    star.close = pmix_close;
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
    if (!shmemi_pmix_find(&pmix, &library, why,
                          n)) /* a launcher that meant several PEs must not become as many single jobs */
        return shmemi_fail(SHMEMX_ERR_BOOTSTRAP, call, "%s", why);
    if (star.state == NULL) {
        int error = open_star(rank, space);
        if (error != SHMEMX_SUCCESS)
            return error;
    }
    *b = star;
    return 1;
}
