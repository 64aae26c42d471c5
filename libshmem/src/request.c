/* Requests of nonblocking collectives, and what runs them.
 *
 * A team that has started some has a *lane*: a queue of them, a thread that runs them in order, and a *twin*, a second team
 * of the same members in a slot of its own. So a nonblocking collective moves on while the program computes, over any
 * transport, and its notes are not those of the blocking collectives of the team, which may run meanwhile. One lane a team:
 * members may start the collectives of different teams in different orders, and none of them waits behind another team's.
 *
 * The first one of a team makes the twin, within the lane: the members agree on its slot in words of their own
 * (team_agree.c), as any notes of the team may be in use.
 *
 * Whoever waits for a request runs the lane itself if the thread has not begun yet: a small collective that is waited for at
 * once costs no change of threads. At any time one of them runs it: `busy`.
 *
 * All state here changes under one lock, which nobody holds while a collective runs. */
#include "nonblocking.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "quant.h"

enum { REQUESTS = 4096 }; /* open ones; shmemx_nonblocking.h */

struct request {
    enum { FREE, QUEUED, RUNNING, DONE } state;
    unsigned generation; /* of the slot; part of the handle */
    struct shmemi_task task;
    struct lane *lane;    /* while not done */
    uint64_t number;      /* 1 = the lane's first */
    struct request *next; /* in its queue */
    int rc;
    char *why; /* text of the error */
};

struct lane {
    shmem_team_t team, twin; /* twin: SHMEM_TEAM_INVALID until the first one has run */
    struct request *first, *last, *running;
    bool busy, stop;
    atomic_bool given_up; /* what runs ends at its next look */
    int broken;           /* the error after which the members are no longer in step */
    uint64_t started;
    pthread_t thread;
    pthread_cond_t work;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct lane *lanes[SHMEMI_TEAMS]; /* by the team's slot */
static struct request requests[REQUESTS];
static pthread_cond_t finished; /* some request is done */
static pthread_once_t finished_once = PTHREAD_ONCE_INIT;
static int waiters;

static void make_finished(void)
{
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&finished, &monotonic);
    pthread_condattr_destroy(&monotonic);
}

/* ---- running ---------------------------------------------------------------------------------------------------------- */

/* Where the members of a team agree on its twin. */
static struct shmemi_place twin_words(const struct shmemi_team *t)
{
    uint64_t all = SHMEMI_STAGES * SHMEMI_STAGE_BYTES + SHMEMI_TWIN_BYTES;
    return (struct shmemi_place){SHMEMI_SEGMENT_HOST, shmemi_world.internal_bytes - all +
                                                          (uint64_t)shmemi_team_slot(t) * SHMEMI_CACHE_LINE};
}

static int make_twin(const char *call, struct lane *l)
{
    int rc = SHMEMX_SUCCESS, slot;
    uint64_t epoch;
    bool scarce;
    struct shmemi_team *t = shmemi_team_get(call, l->team, &rc);
    if (!t)
        return rc;
    struct shmemi_set members = {call, t->pes, t->n, twin_words(t)};
    rc = shmemi_team_agree(&members, &slot, &epoch, &scarce);
    return rc ? rc : shmemi_team_twin(call, t, slot, epoch, &l->twin);
}

/* Only one thread at a time is here for a lane. */
static int run(struct lane *l, const struct shmemi_task *j)
{
    if (l->broken)
        return shmemi_fail(
            l->broken, j->call,
            "an earlier nonblocking collective of this team failed so; its members are no longer "
            "in step");
    int rc = l->twin == SHMEM_TEAM_INVALID ? make_twin(j->call, l) : SHMEMX_SUCCESS;
    rc = rc ? rc : shmemi_task_run(j, l->twin);
    if (rc == SHMEMX_ERR_TIMEOUT || rc == SHMEMX_ERR_PEER_DEAD || rc == SHMEMX_ERR_INTERRUPTED)
        l->broken = rc;
    return rc;
}

/* Locked from here on, but where it says so. */

static void finish(struct request *r, int rc, char *why)
{
    r->rc = rc;
    r->why = why;
    r->lane = NULL;
    r->state = DONE;
    if (waiters)
        pthread_cond_broadcast(&finished);
}

/* Runs the first one of an idle lane's queue, unlocked meanwhile. */
static void run_first(struct lane *l)
{
    struct request *r = l->first;
    l->first = r->next;
    l->running = r;
    l->busy = true;
    r->state = RUNNING;
    pthread_mutex_unlock(&lock);
    shmemi_wait_given_up = &l->given_up;
    int rc = run(l, &r->task);
    shmemi_wait_given_up = NULL;
    char *why = rc ? strdup(shmemx_last_error()) : NULL;
    pthread_mutex_lock(&lock);
    l->busy = false;
    l->running = NULL;
    finish(r, rc, why);
    if (l->first)
        pthread_cond_signal(&l->work);
}

static void *serve(void *lane) /* unlocked */
{
    struct lane *l = lane;
    shmemi_wait_in_background = true;
    pthread_mutex_lock(&lock);
    while (!l->stop)
        if (l->first && !l->busy)
            run_first(l);
        else
            pthread_cond_wait(&l->work, &lock);
    pthread_mutex_unlock(&lock);
    return NULL;
}

/* Sleeps until some request is done, at most 10 ms; true: a signal of the program's wants the wait to end. */
static bool doze(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_nsec += 10000000;
    t.tv_sec += t.tv_nsec / 1000000000;
    t.tv_nsec %= 1000000000;
    waiters++;
    pthread_cond_timedwait(&finished, &lock, &t);
    waiters--;
    pthread_mutex_unlock(&lock); /* the program's handler may start and wait itself */
    bool interrupted = shmemi_wait_interrupted();
    pthread_mutex_lock(&lock);
    return interrupted;
}

/* ---- starting ------------------------------------------------------------------------------------------------------------ */

/* handle = 1 + slot + REQUESTS * generation */
static shmemx_request_t handle_of(const struct request *r)
{
    return (shmemx_request_t)(uintptr_t)(1 + (size_t)(r - requests) + (size_t)r->generation * REQUESTS);
}

static struct request *find(const char *call, shmemx_request_t handle)
{
    uintptr_t h = (uintptr_t)handle - 1;
    struct request *r = &requests[h % REQUESTS];
    if (r->state != FREE && r->generation == h / REQUESTS)
        return r;
    shmemi_fail(SHMEMX_ERR_ARGUMENT, call,
                "handle %p is no open request of this PE (waited for already, or never made)",
                (void *)handle);
    return NULL;
}

static struct lane *make_lane(const char *call, shmem_team_t team, int *rc)
{
    struct lane *l = calloc(1, sizeof *l);
    if (!l) {
        *rc = shmemi_fail(SHMEMX_ERR_SYSTEM, call, "out of memory for %zu bytes", sizeof *l);
        return NULL;
    }
    l->team = team;
    l->twin = SHMEM_TEAM_INVALID;
    pthread_cond_init(&l->work, NULL);
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old); /* the program's signals go to the program's threads */
    int err = pthread_create(&l->thread, NULL, serve, l);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (err) {
        *rc = shmemi_fail(SHMEMX_ERR_SYSTEM, call, "pthread_create: %s", strerror(err));
        pthread_cond_destroy(&l->work);
        free(l);
        return NULL;
    }
    return l;
}

static struct request *new_request(const char *call, int *rc)
{
    static unsigned next;
    for (unsigned i = 0; i < REQUESTS; ++i) {
        struct request *r = &requests[next++ % REQUESTS];
        if (r->state == FREE)
            return r;
    }
    *rc = shmemi_fail(SHMEMX_ERR_LIMIT, call, "%d requests are open, the most that can be: wait for some",
                      REQUESTS);
    return NULL;
}

int shmemi_request_start(shmem_team_t team, shmemx_request_t *request, const struct shmemi_task *task)
{ /* unlocked */
    int rc = SHMEMX_SUCCESS;
    if (!request)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, task->call, "request is NULL");
    *request = SHMEMX_REQUEST_NULL;
    if ((rc = shmemi_require_parent(task->call)) != 0)
        return rc;
    struct shmemi_team *t = shmemi_team_get(task->call, team, &rc);
    if (!t)
        return rc;
    pthread_once(&finished_once, make_finished);
    pthread_mutex_lock(&lock);
    struct lane *l = lanes[shmemi_team_slot(t)];
    struct request *r = new_request(task->call, &rc);
    if (r && !l)
        l = lanes[shmemi_team_slot(t)] = make_lane(task->call, team, &rc);
    bool idle = false;
    if (rc == 0) {
        r->state = QUEUED;
        r->task = *task;
        r->lane = l;
        r->number = ++l->started;
        r->next = NULL;
        *(l->first ? &l->last->next : &l->first) = r;
        l->last = r;
        *request = handle_of(r);
        idle = !l->busy; /* else who runs it looks at the queue again */
    }
    pthread_mutex_unlock(&lock);
    if (idle)
        pthread_cond_signal(&l->work); /* unlocked, or the thread would wake only to wait for the lock */
    return rc;
}

/* ---- requests ---------------------------------------------------------------------------------------------------------- */

/* Ends a request that is done: the caller gets its result, as if the collective had run in its thread. */
static int take(struct request *r, shmemx_request_t *request)
{
    int rc = r->rc;
    if (rc)
        shmemi_adopt_error(r->why ? r->why : shmemx_strerror(rc));
    free(r->why);
    r->why = NULL;
    r->state = FREE;
    r->generation++;
    *request = SHMEMX_REQUEST_NULL;
    return rc;
}

int shmemx_request_wait(shmemx_request_t *request)
{
    const char *call = "shmemx_request_wait";
    if (!request)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "request is NULL");
    if (*request == SHMEMX_REQUEST_NULL)
        return SHMEMX_SUCCESS;
    int rc = shmemi_require_parent(call);
    if (rc)
        return rc;
    pthread_mutex_lock(&lock);
    for (;;) {
        struct request *r = find(call, *request);
        if (!r || r->state == DONE) {
            rc = r ? take(r, request) : SHMEMX_ERR_ARGUMENT;
            break;
        }
        if (!r->lane->busy) {
            run_first(r->lane);
        } else if (doze()) {
            rc = shmemi_fail(SHMEMX_ERR_INTERRUPTED, call, "interrupted by a signal; the collective goes on");
            break;
        }
    }
    pthread_mutex_unlock(&lock);
    return rc;
}

int shmemx_request_test(shmemx_request_t *request, int *done)
{
    const char *call = "shmemx_request_test";
    if (!request || !done)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "%s is NULL", request ? "done" : "request");
    *done = *request == SHMEMX_REQUEST_NULL;
    int rc = *done ? SHMEMX_SUCCESS : shmemi_require_parent(call);
    if (rc || *done)
        return rc;
    pthread_mutex_lock(&lock);
    struct request *r = find(call, *request);
    *done = r && r->state == DONE;
    if (!r || *done)
        rc = r ? take(r, request) : SHMEMX_ERR_ARGUMENT;
    pthread_mutex_unlock(&lock);
    if (rc == 0 && !*done)
        sched_yield(); /* a loop of tests must not keep the processor from the thread that it waits for */
    return rc;
}

int shmemx_request_wait_all(shmemx_request_t *list, size_t n)
{
    int result = SHMEMX_SUCCESS;
    if (n && !list)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, "shmemx_request_wait_all", "requests is NULL");
    char *why = NULL;
    for (size_t i = 0; i < n && result != SHMEMX_ERR_INTERRUPTED; ++i) {
        int rc = shmemx_request_wait(&list[i]);
        if (rc && (result == 0 || rc == SHMEMX_ERR_INTERRUPTED)) {
            free(why);
            result = rc;
            why = strdup(shmemx_last_error());
        }
    }
    if (why)
        shmemi_adopt_error(why); /* later ones may have failed as well */
    free(why);
    return result;
}

int shmemx_request_wait_any(shmemx_request_t *list, size_t n, size_t *index)
{
    const char *call = "shmemx_request_wait_any";
    if (!index || (n && !list))
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "%s is NULL", index ? "requests" : "index");
    *index = SIZE_MAX;
    int rc = shmemi_require_parent(call);
    if (rc)
        return rc;
    pthread_mutex_lock(&lock);
    for (;;) {
        bool open = false;
        for (size_t i = 0; i < n && *index == SIZE_MAX; ++i) {
            if (list[i] == SHMEMX_REQUEST_NULL)
                continue;
            struct request *r = find(call, list[i]);
            open = true;
            if (r && r->state != DONE)
                continue;
            *index = i;
            rc = r ? take(r, &list[i]) : SHMEMX_ERR_ARGUMENT;
        }
        if (*index != SIZE_MAX || !open)
            break;
        if (doze()) {
            rc = shmemi_fail(SHMEMX_ERR_INTERRUPTED, call, "interrupted by a signal; the collectives go on");
            break;
        }
    }
    pthread_mutex_unlock(&lock);
    return rc;
}

/* ---- the end of a team, and of the job -------------------------------------------------------------------------------- */

/* Ends those of the queue with a number above `limit`; what runs is told if it is one of them. */
static void give_up(struct lane *l, uint64_t limit)
{
    struct request **at = &l->first, *r;
    l->last = NULL;
    while (*at && (*at)->number <= limit) {
        l->last = *at;
        at = &(*at)->next;
    }
    r = *at;
    *at = NULL;
    while (r) {
        struct request *next = r->next;
        shmemi_fail(SHMEMX_ERR_INTERRUPTED, r->task.call,
                    "given up: its team or the job has ended, and not all members have started it");
        finish(r, SHMEMX_ERR_INTERRUPTED, strdup(shmemx_last_error()));
        r = next;
    }
    if (l->running && l->running->number > limit)
        atomic_store_explicit(&l->given_up, true, memory_order_relaxed); /* observer: look() in wait.c */
}

/* Completes the lane's first `limit` collectives, gives up the others, and ends its thread. */
static void drain(struct lane *l, uint64_t limit)
{
    pthread_mutex_lock(&lock);
    give_up(l, limit);
    while (l->busy || l->first)
        if (!l->busy)
            run_first(l);
        else if (doze())
            give_up(l, 0);
    l->stop = true;
    pthread_cond_signal(&l->work);
    pthread_mutex_unlock(&lock);
    pthread_join(l->thread, NULL);
    pthread_cond_destroy(&l->work);
}

/* What a team's members have started: the least of them is what can be completed. The numbers are in the notes of `shown`,
 * those of the slot at `at`; member j of t is number pes[j] there, or j. Logs a difference. */
static int compare(const char *call, const struct shmemi_team *t, const struct shmemi_team *shown, size_t at,
                   uint64_t *least, uint64_t *most)
{
    int who[2] = {0, 0};
    *least = UINT64_MAX;
    *most = 0;
    for (int j = 0; j < t->n; ++j) {
        uint64_t n;
        memcpy(&n, shmemi_note_of(shown, shown == t ? j : t->pes[j], shown->epoch)->data + at * sizeof n,
               sizeof n);
        if (n < *least)
            who[0] = j, *least = n;
        if (n > *most)
            who[1] = j, *most = n;
    }
    return *least == *most
               ? SHMEMX_SUCCESS
               : shmemi_fail(SHMEMX_ERR_MISMATCH, call,
                             "PE %d has started %llu nonblocking collectives of a team of %d PEs, PE %d %llu",
                             t->pes[who[1]], (unsigned long long)*most, t->n, t->pes[who[0]],
                             (unsigned long long)*least);
}

uint64_t shmemi_nonblocking_started(const struct shmemi_team *t)
{
    const struct lane *l =
        lanes[shmemi_team_slot(t)]; /* who destroys a team starts nothing on it in another thread */
    return l ? l->started : 0;
}

int shmemi_nonblocking_drop(const char *call, struct shmemi_team *t, int rc)
{
    struct lane **l = &lanes[shmemi_team_slot(t)];
    uint64_t least = 0, most = 0;
    bool in_step = rc == 0;
    if (in_step)
        rc = compare(call, t, t, 0, &least, &most);
    if (*l)
        drain(*l, least);
    if (in_step && most > 0) {
        /* nobody may still read this PE's notes of the twin, or write to its words for it */
        int met = shmemi_meet(call, t, shmemi_tag(SHMEMI_TEAM, 4, 0));
        rc = rc ? rc : met;
        memset(shmemi_map(shmemi_world.me, twin_words(t)), 0, SHMEMI_CACHE_LINE);
    }
    if (*l && (*l)->twin != SHMEM_TEAM_INVALID)
        shmemi_team_drop_twin((*l)->twin);
    free(*l);
    *l = NULL;
    return rc;
}

int shmemi_nonblocking_close(const char *call, bool in_step)
{
    uint64_t mine[SHMEMI_TEAMS] = {0}, least[SHMEMI_TEAMS] = {0}, most;
    int rc = SHMEMX_SUCCESS;
    struct shmemi_team *world = shmemi_team_get(call, SHMEM_TEAM_WORLD, &rc), *t;
    for (int i = 0; i < SHMEMI_TEAMS; ++i)
        mine[i] = lanes[i] ? lanes[i]->started : 0;
    if (in_step && world &&
        (rc = shmemi_show(call, world, shmemi_tag(SHMEMI_SYNC, 0, 0), mine, sizeof mine)) == 0)
        for (int i = 0; i < SHMEMI_TEAMS; ++i)
            if ((t = shmemi_team_in_slot(i)) != NULL) {
                int differs = compare(call, t, world, (size_t)i, &least[i], &most);
                rc = rc ? rc : differs;
            }
    for (int i = 0; i < SHMEMI_TEAMS; ++i)
        if (lanes[i]) {
            drain(lanes[i], least[i]);
            free(lanes[i]);
            lanes[i] = NULL;
        }
    pthread_mutex_lock(&lock);
    for (int i = 0; i < REQUESTS; ++i)
        if (requests[i].state != FREE) { /* nobody has waited for it */
            shmemx_request_t unused;
            free(requests[i].why);
            requests[i].rc = 0;
            requests[i].why = NULL;
            (void)take(&requests[i], &unused);
        }
    pthread_mutex_unlock(&lock);
    return rc;
}

void shmemi_nonblocking_abandon(void)
{
    pthread_mutex_lock(&lock);
    for (int i = 0; i < SHMEMI_TEAMS; ++i)
        if (lanes[i])
            atomic_store_explicit(&lanes[i]->given_up, true, memory_order_relaxed);
    pthread_mutex_unlock(&lock);
}
