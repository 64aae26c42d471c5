#include "nic_late.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "world.h"

enum kind { PUT, GET, AMO, SIGNAL };

/* An operation that has not taken place. */
struct late {
    struct late *next;
    enum kind kind;
    int pe, segment, signal_segment, signal_op;
    unsigned how;
    uint64_t offset, signal_offset, signal, due, epoch; /* due: ns; epoch: fences to that PE before it */
    void *local;
    size_t n;
    struct shmemi_amo amo;
    char copy[]; /* of a source that the caller may change */
};

static struct {
    pthread_mutex_t lock; /* held while something takes place */
    pthread_t thread;
    bool stop;
    const struct shmemi_transport *real; /* one for all these PEs */
    struct shmemi_transport late;
    struct late *first;
    uint64_t most, random;
    uint64_t *epoch, *atomics; /* [npes]; atomics: ns, when the last one is due */
    int rc;                        /* the first error since a quiet said it */
} l = {.lock = PTHREAD_MUTEX_INITIALIZER};

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- with the lock held ---------------------------------------------------------------------------------- */

static int take_place(struct late *o)
{
    const struct shmemi_transport *t = l.real;
    switch (o->kind) {
    case PUT:
        return t->put(o->pe, o->segment, o->offset, o->local, o->n, o->how);
    case GET:
        return t->get(o->pe, o->segment, o->offset, o->local, o->n, o->how);
    case AMO:
        return t->amo(o->pe, o->segment, o->offset, &o->amo, o->how);
    default:
        return t->put_signal(o->pe, o->segment, o->offset, o->local, o->n, o->signal_segment, o->signal_offset,
                             o->signal, o->signal_op, o->how);
    }
}

/* The operation to that PE (-1: any) that is due first, and before which no fence stands; NULL = none. */
static struct late **earliest(int pe)
{
    struct late **best = NULL;
    for (struct late **at = &l.first; *at; at = &(*at)->next) {
        bool free = pe < 0 || (*at)->pe == pe;
        for (struct late *o = l.first; free && o; o = o->next)
            free = o->pe != (*at)->pe || o->epoch >= (*at)->epoch;
        if (free && (!best || (*at)->due < (*best)->due))
            best = at;
    }
    return best;
}

/* What is due, or, to one PE or all, everything. */
static void deliver(int pe, bool all)
{
    for (struct late **at; (at = earliest(pe)) != NULL && (all || (*at)->due <= now());) {
        struct late *o = *at;
        *at = o->next;
        int rc = take_place(o);
        l.rc = l.rc ? l.rc : rc;
        free(o);
    }
}

/* ---- the slots --------------------------------------------------------------------------------------------- */

/* `source`, if not NULL: n bytes that may change when the call has returned. */
static int later(struct late like, const void *source)
{
    struct late *o = malloc(sizeof *o + (source ? like.n : 0));
    if (!o)
        return shmemi_fail(SHMEMX_ERR_SYSTEM, "nic_late", "out of memory");
    *o = like;
    if (source)
        o->local = memcpy(o->copy, source, like.n);
    pthread_mutex_lock(&l.lock);
    l.random = l.random * 6364136223846793005u + 1442695040888963407u;
    o->due = now() + (l.random >> 33) % (l.most + 1);
    if (o->kind == AMO) {
        o->due = o->due > l.atomics[o->pe] ? o->due : l.atomics[o->pe] + 1;
        l.atomics[o->pe] = o->due;
    }
    o->epoch = l.epoch[o->pe];
    o->next = l.first;
    l.first = o;
    pthread_mutex_unlock(&l.lock);
    return 0;
}

static int late_put(int pe, int segment, uint64_t offset, const void *source, size_t n, unsigned how)
{
    return later((struct late){.kind = PUT,
                               .pe = pe,
                               .segment = segment,
                               .how = how,
                               .offset = offset,
                               .local = (void *)source,
                               .n = n},
                 shmemi_nbi(how) ? NULL : source);
}
static int late_get(int pe, int segment, uint64_t offset, void *dest, size_t n, unsigned how)
{
    if (!shmemi_nbi(how))
        return l.real->get(pe, segment, offset, dest, n, how);
    return later((struct late){.kind = GET,
                               .pe = pe,
                               .segment = segment,
                               .how = how,
                               .offset = offset,
                               .local = dest,
                               .n = n},
                 NULL);
}
/* In order among themselves, as transports have them. */
static int late_amo(int pe, int segment, uint64_t offset, const struct shmemi_amo *a, unsigned how)
{
    if (!shmemi_nbi(how) && a->fetched) {
        pthread_mutex_lock(&l.lock);
        deliver(pe, true);
        pthread_mutex_unlock(&l.lock);
        return l.real->amo(pe, segment, offset, a, how);
    }
    return later(
        (struct late){
            .kind = AMO, .pe = pe, .segment = segment, .how = how, .offset = offset, .amo = *a},
        NULL);
}
static int late_put_signal(int pe, int segment, uint64_t offset, const void *source, size_t n, int signal_segment,
                           uint64_t signal_offset, uint64_t signal, int signal_op, unsigned how)
{
    return later((struct late){.kind = SIGNAL,
                               .pe = pe,
                               .segment = segment,
                               .signal_segment = signal_segment,
                               .signal_op = signal_op,
                               .how = how,
                               .offset = offset,
                               .signal_offset = signal_offset,
                               .signal = signal,
                               .local = (void *)source,
                               .n = n},
                 shmemi_nbi(how) ? NULL : source);
}
static int late_fence(int pe, unsigned context)
{
    pthread_mutex_lock(&l.lock);
    for (int i = 0; i < shmemi_world.npes; ++i)
        l.epoch[i] += pe < 0 || pe == i;
    pthread_mutex_unlock(&l.lock);
    return l.real->fence(pe, context);
}
static int late_quiet(int pe, unsigned context)
{
    pthread_mutex_lock(&l.lock);
    deliver(pe, true);
    int rc = l.rc;
    l.rc = 0;
    pthread_mutex_unlock(&l.lock);
    return rc ? rc : l.real->quiet(pe, context);
}

/* ---- open, close --------------------------------------------------------------------------------------------- */

static void *serve(void *unused)
{
    (void)unused;
    pthread_mutex_lock(&l.lock);
    while (!l.stop) {
        deliver(-1, false);
        pthread_mutex_unlock(&l.lock);
        nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
        pthread_mutex_lock(&l.lock);
    }
    pthread_mutex_unlock(&l.lock);
    return NULL;
}

static void stand(const struct shmemi_transport *before, const struct shmemi_transport *behind)
{
    const struct shmemi_transport **route = shmemi_world.gpu_route ? shmemi_world.gpu_route : shmemi_world.route;
    for (int pe = 0; pe < shmemi_world.npes; ++pe)
        if (route[pe] == behind)
            route[pe] = before;
    for (int i = 0; i < shmemi_world.nopen; ++i)
        if (shmemi_world.open[i] == behind)
            shmemi_world.open[i] = before;
}

void nic_late_open(unsigned most_us)
{
    const struct shmemi_transport **route = shmemi_world.gpu_route ? shmemi_world.gpu_route : shmemi_world.route;
    for (int pe = 0; pe < shmemi_world.npes; ++pe)
        if (shmemi_node.local_of[pe] < 0)
            l.real = route[pe];
    if (!l.real)
        return;
    l.most = most_us * 1000ull;
    l.random = (uint64_t)shmemi_world.me;
    l.epoch = calloc((size_t)shmemi_world.npes, sizeof *l.epoch);
    l.atomics = calloc((size_t)shmemi_world.npes, sizeof *l.atomics);
    l.late = *l.real;
    l.late.put = late_put;
    l.late.get = late_get;
    l.late.amo = late_amo;
    l.late.put_signal = late_put_signal;
    l.late.fence = late_fence;
    l.late.quiet = late_quiet;
    if (!l.epoch || !l.atomics || pthread_create(&l.thread, NULL, serve, NULL) != 0) {
        fprintf(stderr, "nic_late: no memory, or no thread\n");
        exit(1);
    }
    stand(&l.late, l.real);
}

void nic_late_close(void)
{
    if (!l.real)
        return;
    stand(l.real, &l.late);
    pthread_mutex_lock(&l.lock);
    deliver(-1, true);
    l.stop = true;
    pthread_mutex_unlock(&l.lock);
    pthread_join(l.thread, NULL);
    free(l.epoch);
    free(l.atomics);
    l.real = NULL;
}
