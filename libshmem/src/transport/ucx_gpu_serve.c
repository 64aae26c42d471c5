/* Transport ucx: GPU memory of this PE, for others. A thread of its own executes what they ask for, and puts in its place what
 * this PE has asked for (ucx_gpu.c). It waits for the driver, and for nothing else; whoever makes progress only hands it
 * the requests, so UCX never waits for a GPU.
 *
 * By copies of the driver go all bytes and loads, by the stream itself stores of words, SHMEM_SIGNAL_SET among them: neither needs room
 * beside a kernel, so one that fills the GPU and spins on a signal gets it. All other atomics are kernels of one thread, as in transport
 * cuda: so they are atomic to those of the GPU's own kernels and of the PEs that map this memory, which a read and a write by
 * the driver would not be. They need room for one block; a kernel that leaves none, and waits for one of these, waits until its
 * own deadline, and this thread with it; then both go on. The kernels are loaded when the GPU heap opens (gpu_state.c), since
 * loading waits for kernels that run.
 *
 * Of what has been issued to the stream a running kernel may see a later copy before an earlier one: so before a signal,
 * and before what is behind a fence, the thread waits for the stream. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "amo_cpu.h"
#include "base/wait.h"
#include "gpu/gpu_kernels.h"
#include "ucx_gpu.h"

#define ucx shmemi_ucx_state
/* Requests that are answered together. */
enum { MOST = 256 };

/* What was told to a PE that asks; the thread's own. */
struct asker {
    uint64_t bytes, unanswered; /* of its requests; number of the last one that has no answer yet */
    uint64_t bad_epoch;         /* + 1: its requests of that epoch are not executed any more */
    int code;
    bool told;
    char text[160];
};

static struct {
    pthread_mutex_t lock; /* of the queue; taken with ucx.lock held, never the other way round */
    pthread_cond_t more;
    struct ucx_work *first, **end;
    atomic_uint queued;
    bool stop, running;
    pthread_t thread;
    shmemi_stream_t stream;
    uint64_t *cells; /* [MOST], pinned */
    struct asker *askers;
    _Atomic uint64_t exposed; /* bytes of the GPU heap */
} serve = {.lock = PTHREAD_MUTEX_INITIALIZER, .more = PTHREAD_COND_INITIALIZER};

static const char CALL[] = "GPU memory for other nodes";

/* ---- the queue ------------------------------------------------------------------------------------------------------------ */

static void enqueue(struct ucx_work *w)
{
    w->next = NULL;
    pthread_mutex_lock(&serve.lock);
    *serve.end = w;
    serve.end = &w->next;
    atomic_fetch_add_explicit(&serve.queued, 1, memory_order_relaxed);
    pthread_cond_signal(&serve.more);
    pthread_mutex_unlock(&serve.lock);
}

/* The network may have changed their order. */
static void in_turn(struct ucx_work *w)
{
    struct ucx_peer *p = &ucx.peers[w->ask.pe];
    struct ucx_work **at = &p->early;
    while (*at && (*at)->ask.number < w->ask.number)
        at = &(*at)->next;
    w->next = *at;
    *at = w;
    while ((w = p->early) != NULL && w->ask.number == p->asked + 1) {
        p->early = w->next;
        p->asked++;
        enqueue(w);
    }
}

void shmemi_ucx_serve_landing(struct ucx_work *w)
{
    if (serve.running) {
        enqueue(w);
        return;
    }
    shmemi_ucx_give_block(w->data); /* close */
    free(w);
}

static ucx_status asked(void *arg, const void *header, size_t header_bytes, void *data, size_t n,
                        const void *param)
{
    (void)arg, (void)header_bytes, (void)param;
    struct ucx_work *w = calloc(1, sizeof *w);
    struct ucx_ask ask;
    memcpy(&ask, header, sizeof ask);
    if (!w || !serve.running || ask.pe < 0 || ask.pe >= ucx.job->npes || ask.n > UCX_PIECE ||
        n != (ask.get ? 0 : ask.n)) {
        free(w); /* no answer: its PE ends at its deadline */
        return UCX_OK;
    }
    w->ask = ask;
    if (n) {
        w->data = shmemi_ucx_block_locked(n);
        if (w->data)
            memcpy(w->data, data, n);
    }
    in_turn(w);
    return UCX_OK;
}

/* Up to MOST, after a look of a while where nothing is there yet: the next request mostly follows, and to be woken takes as long as
 * a copy. NULL = the end. */
static struct ucx_work *next_batch(void)
{
    double until = ucx.linger > 0 ? shmemi_now() + ucx.linger : 0;
    while (until > 0 && atomic_load_explicit(&serve.queued, memory_order_relaxed) == 0 &&
           shmemi_now() < until)
        shmemi_pause();
    pthread_mutex_lock(&serve.lock);
    while (!serve.first && !serve.stop)
        pthread_cond_wait(&serve.more, &serve.lock);
    struct ucx_work *batch = serve.stop ? NULL : serve.first, *last = batch;
    unsigned n = batch != NULL;
    for (; batch && last->next && n < MOST; n++)
        last = last->next;
    if (batch) {
        serve.first = last->next;
        last->next = NULL;
        if (!serve.first)
            serve.end = &serve.first;
        atomic_fetch_sub_explicit(&serve.queued, n, memory_order_relaxed);
    }
    pthread_mutex_unlock(&serve.lock);
    return batch;
}

/* ---- executing -------------------------------------------------------------------------------------------------------------- */

/* Of the batch, from here on: issued to the stream, and not known to be complete. */
static struct ucx_work *issued;

/* The error that was logged last is this request's. */
static void fault(struct ucx_work *w, int rc)
{
    w->status = rc;
    if (w->want)
        return;
    struct asker *a = &serve.askers[w->ask.pe];
    if (a->bad_epoch == w->ask.epoch + 1ull)
        return;
    a->bad_epoch = w->ask.epoch + 1ull;
    a->code = rc;
    a->told = false;
    snprintf(a->text, sizeof a->text, "%s", shmemx_last_error());
}

/* Waits for what has been issued up to `end`, which is not part of it. */
static int settle(const struct ucx_work *end)
{
    if (!issued)
        return SHMEMX_SUCCESS;
    int rc = shmemi_gpu_sync(CALL, serve.stream);
    for (struct ucx_work *w = issued; rc && w != end; w = w->next)
        if (!w->status)
            fault(w, rc);
    issued = NULL;
    return rc;
}

static char *place(int segment, uint64_t offset)
{
    return ucx.job->segments[segment].base + offset;
}

static int copy(struct ucx_work *w, void *to, const void *from, size_t n)
{
    issued = issued ? issued : w;
    return shmemi_gpu_copy(CALL, to, from, n, serve.stream);
}

/* Askers have checked it against what they know; what is not there would end this process. */
static int check(const struct ucx_ask *ask, int segment, uint64_t offset, uint64_t n, uint64_t align)
{
    uint64_t bytes = 0;
    if (segment < SHMEMI_SEGMENT_COUNT)
        bytes = __atomic_load_n(&ucx.job->segments[segment].bytes, __ATOMIC_RELAXED);
    if (segment ==
        SHMEMI_SEGMENT_DEVICE) { /* what grows is exposed once it is mapped; what shrinks is unmapped after it */
        uint64_t exposed = atomic_load_explicit(&serve.exposed, memory_order_acquire);
        bytes = bytes < exposed ? bytes : exposed;
    }
    if (segment < SHMEMI_SEGMENT_COUNT && offset <= bytes && n <= bytes - offset && offset % align == 0)
        return SHMEMX_SUCCESS;
    return shmemi_fail(SHMEMX_ERR_ADDRESS, CALL,
                       "PE %d asks for %llu bytes at offset 0x%llx of the %s heap, of 0x%llx, %s", ask->pe,
                       (unsigned long long)n, (unsigned long long)offset,
                       segment == SHMEMI_SEGMENT_HOST ? "host" : "GPU", (unsigned long long)bytes,
                       offset % align ? "which is not aligned" : "which are not there");
}

static int bytes_of(struct ucx_work *w)
{
    const struct ucx_ask *ask = &w->ask;
    char *here = place(ask->segment, ask->offset);
    if (ask->get && !(w->data = shmemi_ucx_block(CALL, ask->n)))
        return SHMEMX_ERR_SYSTEM;
    if (!w->data)
        return shmemi_fail(SHMEMX_ERR_SYSTEM, CALL, "out of memory for %llu bytes of PE %d",
                           (unsigned long long)ask->n, ask->pe);
    char *to = ask->get ? w->data : here, *from = ask->get ? here : w->data;
    if (ask->segment == SHMEMI_SEGMENT_DEVICE)
        return copy(w, to, from, ask->n);
    memcpy(to, from, ask->n);
    return SHMEMX_SUCCESS;
}

static int word_of(struct ucx_work *w)
{
    const struct ucx_ask *ask = &w->ask;
    void *here = place(ask->word_segment, ask->word);
    struct shmemi_amo a = {ask->op, ask->size, ask->value, ask->cond, ask->wanted ? w->cell : NULL};
    if (ask->word_segment == SHMEMI_SEGMENT_HOST) {
        shmemi_amo_cpu(here, &a);
        return SHMEMX_SUCCESS;
    }
    if (a.op == SHMEMX_AMO_SET && !ask->wanted) {
        issued = issued ? issued : w;
        return shmemi_gpu_store(CALL, here, a.value, a.size, serve.stream);
    }
    if (a.op == SHMEMX_AMO_FETCH)
        return copy(w, w->cell, here, a.size);
    int op = a.op, size = (int)a.size, me = ucx.job->me;
    uint64_t *cell = a.fetched;
    void *arguments[] = {&op, &size, &here, &a.value, &a.cond, &me, &cell};
    issued = issued ? issued : w;
    return shmemi_gpu_kernel(CALL, SHMEMI_K_ATOMIC, 1, 1, arguments, serve.stream);
}

static int execute(struct ucx_work *w)
{
    const struct ucx_ask *ask = &w->ask;
    if (w->want) {
        shmemi_ucx_lock();
        void *dest = w->want->dest;
        shmemi_ucx_unlock();
        return dest ? copy(w, dest, w->data, ask->n) : SHMEMX_SUCCESS;
    }
    struct asker *a = &serve.askers[ask->pe];
    if (a->bad_epoch == ask->epoch + 1ull)
        return a->code;
    int rc = check(ask, ask->segment, ask->offset, ask->n, 1);
    if (rc == 0 && ask->size)
        rc = check(ask, ask->word_segment, ask->word, ask->size, ask->size);
    if (rc == 0 && ask->fenced)
        rc = settle(w);
    if (rc == 0 && ask->n)
        rc = bytes_of(w);
    if (rc == 0 && ask->n && ask->size)
        rc = settle(w->next); /* the word says that they are there */
    return rc == 0 && ask->size ? word_of(w) : rc;
}

/* ---- answering -------------------------------------------------------------------------------------------------------------- */

/* With the lock held. */
static void answer(int pe, uint64_t number, int status, uint64_t value, char *block, size_t n)
{
    struct ucx_answer a = {number, serve.askers[pe].bytes, value, ucx.job->me, status};
    struct ucx_peer *p = &ucx.peers[pe];
    ucx_status sent = p->status ? UCX_OK : UCX_INPROGRESS;
    if (sent == UCX_INPROGRESS)
        sent = shmemi_ucx_parcel(p, UCX_ANSWER_ID, &a, sizeof a, block, n);
    else
        shmemi_ucx_give_block(block);
    if (sent)
        shmemi_ucx_lose(p, sent);
}

static void answer_failed(const struct ucx_work *w)
{
    struct asker *a = &serve.askers[w->ask.pe];
    size_t n = strlen(a->text);
    char *text = malloc(n + 1); /* a block of its own: it is not many */
    if (text)
        memcpy(text, a->text, n + 1);
    answer(w->ask.pe, w->ask.number, w->status, 0, text, text ? n : 0);
    a->told = true;
}

/* With the lock held. */
static void end(struct ucx_work *w)
{
    struct ucx_ask *ask = &w->ask;
    if (w->want) {
        struct ucx_peer *p = &ucx.peers[ask->pe];
        if (w->status) {
            static const char text[] = "what it sent cannot be copied to GPU memory here";
            shmemi_ucx_gpu_failed(p, w->want->number, w->status, text, sizeof text);
        }
        shmemi_ucx_want_ended(p, w->want);
        shmemi_ucx_give_block(w->data);
        return;
    }
    struct asker *a = &serve.askers[ask->pe];
    bool wanted = ask->get || ask->wanted;
    a->bytes += ask->n;
    if (w->status && (wanted || !a->told)) {
        shmemi_ucx_give_block(w->data);
        answer_failed(w);
        a->unanswered = 0;
    } else if (wanted) {
        answer(ask->pe, ask->number, 0, ask->wanted ? *w->cell : 0, w->data, ask->get ? ask->n : 0);
        a->unanswered = 0;
    } else {
        shmemi_ucx_give_block(w->data);
        a->unanswered = ask->number;
    }
}

static void end_all(struct ucx_work *batch)
{
    shmemi_ucx_lock();
    for (struct ucx_work *w = batch; w; w = w->next)
        end(w);
    for (struct ucx_work *w = batch, *next; w; w = next) {
        next = w->next;
        struct asker *a = w->want ? NULL : &serve.askers[w->ask.pe];
        if (a && a->unanswered) {
            answer(w->ask.pe, a->unanswered, 0, 0, NULL, 0);
            a->unanswered = 0;
        }
        free(w);
    }
    (void)ucx.u.progress(ucx.worker);
    ucx.served = true; /* who waits looks again: something may have landed */
    shmemi_ucx_unlock();
}

static void *run(void *unused)
{
    struct ucx_work *batch;
    (void)unused;
    shmemi_wait_in_background = true;
    shmemi_gpu_outside_captures();
    while ((batch = next_batch()) != NULL) {
        size_t i = 0;
        issued = NULL;
        for (struct ucx_work *w = batch; w; w = w->next) {
            w->cell = &serve.cells[i++];
            *w->cell = 0;
            int rc = execute(w);
            if (rc)
                fault(w, rc);
        }
        (void)settle(NULL);
        end_all(batch);
    }
    return NULL;
}

/* ---- open and close ----------------------------------------------------------------------------------------------------------- */

void shmemi_ucx_serve_expose(uint64_t bytes)
{
    atomic_store_explicit(&serve.exposed, bytes,
                          memory_order_release); /* its memory is mapped; observer: the thread */
}

int shmemi_ucx_serve_open(const char *call)
{
    void *cells = NULL;
    serve.first = NULL;
    serve.end = &serve.first;
    serve.stop = false;
    atomic_store(&serve.queued, 0);
    atomic_store(&serve.exposed, 0);
    serve.askers = calloc((size_t)ucx.job->npes, sizeof *serve.askers);
    int rc = serve.askers ? shmemi_gpu_stream_create(call, &serve.stream)
                          : shmemi_fail(SHMEMX_ERR_SYSTEM, call, "out of memory for %d PEs", ucx.job->npes);
    if (rc == 0)
        rc = shmemi_gpu_host_alloc(call, MOST * sizeof *serve.cells, &cells);
    serve.cells = cells;
    if (rc)
        return rc;
    shmemi_ucx_lock();
    struct ucx_am_params params = {.mask = UCX_AM_ID | UCX_AM_CALL, .id = UCX_ASK_ID, .call = asked};
    ucx_status status = ucx.u.am_handler(ucx.worker, &params);
    shmemi_ucx_unlock();
    if (status)
        return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "UCX %s: active messages: %s", ucx.u.version(),
                           ucx.u.text(status));
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old); /* the program's signals go to the program's threads */
    int err = pthread_create(&serve.thread, NULL, run, NULL);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (err)
        return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "pthread_create: %s", strerror(err));
    (void)pthread_setname_np(serve.thread, "shmem-ucx-gpu");
    shmemi_ucx_lock();
    serve.running = true;
    shmemi_ucx_unlock();
    return SHMEMX_SUCCESS;
}

void shmemi_ucx_serve_close(void)
{
    if (serve.running) {
        pthread_mutex_lock(&serve.lock);
        serve.stop = true;
        pthread_cond_signal(&serve.more);
        pthread_mutex_unlock(&serve.lock);
        pthread_join(serve.thread, NULL);
    }
    shmemi_ucx_lock();
    serve.running = false;
    for (struct ucx_work *w = serve.first, *next; w; w = next) {
        next = w->next;
        shmemi_ucx_give_block(w->data);
        free(w);
    }
    serve.first = NULL;
    serve.end = &serve.first;
    shmemi_ucx_unlock();
    free(serve.askers);
    serve.askers = NULL;
    shmemi_gpu_stream_destroy(serve.stream);
    serve.stream = NULL;
    shmemi_gpu_host_free(serve.cells);
    serve.cells = NULL;
}
