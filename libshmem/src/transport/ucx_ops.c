/* Transport ucx: bulk, and the order of things.
 *
 * Bulk is UCX's put and get; words and messages are in ucx_words.c. Order between bulk and the rest is made here and not
 * by UCX's fence, which may wait inside of UCX, without a deadline and for a peer that is gone: fence starts a flush and
 * notes where both kinds stand; the context's next operation of the other kind waits until that has been reached.
 *
 * A flush is about all bulk to a peer, a word about all messages. So before other contexts' bulk there are started those that
 * speak for what was there: a quiet then need not wait for what came later, but for TURN_BYTES. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/gpu.h"
#include "base/wait.h"
#include "shmem.h"
#include "shmemx.h"
#include "ucx_state.h"

#define ucx shmemi_ucx_state
enum { ROUNDS_A_LOOK = 256 };
/* Puts of 100 bytes by two contexts in turns took 5.3 us each, 22 with a flush before each, 6.3 with one in so many bytes
 * (medians, TCP by the loopback, a busy machine). */
enum { TURN_BYTES = 65536 };

/* ---- what all need ---------------------------------------------------------------------------------------------------- */

int shmemi_ucx_refused(const char *call, int pe, size_t n, ucx_status status)
{
    if (ucx.peers[pe].status)
        return shmemi_ucx_dead(call, pe);
    return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "%zu bytes with PE %d: UCX: %s", n, pe, ucx.u.text(status));
}

int shmemi_ucx_not_exposed(const char *call, int pe, uint64_t offset, size_t n)
{
    return shmemi_fail(SHMEMX_ERR_ADDRESS, call, "%zu bytes at offset 0x%llx of PE %d are not registered", n,
                       (unsigned long long)offset, pe);
}

struct ucx_chunk *shmemi_ucx_chunk(int segment, uint64_t offset)
{
    struct ucx_chunk *c = ucx.segment[segment].chunks;
    int low = 0,
        high = ucx.segment[segment].n - 1; /* ranges without gaps: the last that starts at or before it */
    while (low < high) {
        int middle = (low + high + 1) / 2;
        if (c[middle].offset <= offset)
            low = middle;
        else
            high = middle - 1;
    }
    return high < 0 || offset < c[low].offset || offset >= c[low].offset + c[low].n ? NULL : &c[low];
}

void shmemi_ucx_note(int pe, enum ucx_kind kind, size_t n)
{
    ucx.peers[pe].last = kind;
    ucx.peers[pe].last_bytes = n;
}

int shmemi_ucx_step(struct shmemi_wait *w, unsigned *rounds)
{
    unsigned moved = ucx.u.progress(ucx.worker);
    atomic_fetch_add_explicit(&ucx.attended, 1, memory_order_relaxed);
    shmemi_ucx_unlock();
    int rc = moved && ++*rounds % ROUNDS_A_LOOK ? 0 : shmemi_wait_step(w);
    shmemi_ucx_lock();
    return rc;
}

int shmemi_ucx_drain(const char *call, int pe, const struct ucx_count *c, uint64_t until)
{
    struct shmemi_wait w = SHMEMI_WAIT_FOR(call, pe, NULL);
    unsigned rounds = 0;
    int rc = 0;
    while (c->done < until && !ucx.peers[pe].status && rc == 0)
        rc = shmemi_ucx_step(&w, &rounds);
    return rc;
}

/* ---- flush, fence, quiet ----------------------------------------------------------------------------------------------- */

static void flush_ended(struct ucx_peer *p, ucx_status status)
{
    p->flushes.done++;
    ucx.pending--;
    if (status)
        shmemi_ucx_lose(p, status);
    else
        p->reached = true;
}

static void flush_done(void *request, ucx_status status, void *user)
{
    ucx.u.request_free(request);
    flush_ended(user, status);
}

static void flush(struct ucx_peer *p)
{
    if (!p->dirty || p->status)
        return;
    p->dirty = false;
    p->flushes.issued++;
    ucx.pending++;
    struct ucx_op op = {.mask = UCX_OP_DONE | UCX_OP_USER, .done = flush_done, .user = p};
    ucx_request request = ucx.u.ep_flush(p->ep, &op);
    if (!request || ucx_is_error(request))
        flush_ended(p, request ? ucx_error_of(request) : UCX_OK);
}

static struct ucx_mark *find_mark(int pe, unsigned context)
{
    if (SHMEMI_LIKELY(context == SHMEMI_CONTEXT_DEFAULT))
        return &ucx.peers[pe].own;
    return ucx.marks[context] ? &ucx.marks[context][pe] : NULL;
}

struct ucx_mark *shmemi_ucx_mark(const char *call, int pe, unsigned context)
{
    if (SHMEMI_UNLIKELY(!find_mark(pe, context)))
        ucx.marks[context] = calloc((size_t)ucx.job->npes, sizeof **ucx.marks);
    struct ucx_mark *m = find_mark(pe, context);
    if (!m)
        shmemi_fail(SHMEMX_ERR_SYSTEM, call, "out of memory for %d PEs", ucx.job->npes);
    return m;
}

/* The flush and the word of these numbers are on their way. */
static int see_to(int pe, uint64_t flushed, uint64_t word)
{
    struct ucx_peer *p = &ucx.peers[pe];
    if (p->flushes.issued < flushed)
        flush(p);
    return p->words.issued < word && !p->status ? shmemi_ucx_ping(pe) : SHMEMX_SUCCESS;
}

int shmemi_ucx_fence(int pe, unsigned context)
{
    shmemi_ucx_lock();
    for (int i = pe < 0 ? 0 : pe; i < (pe < 0 ? ucx.job->npes : pe + 1); i++) {
        struct ucx_mark *m = find_mark(i, context);
        if (!m)
            break; /* it has issued nothing */
        m->fenced_flush = m->flush;
        m->fenced_word = m->word;
        m->fenced_gpu = m->gpu;
        m->gpu_fence = m->gpu > 0;
        (void)see_to(i, m->flush, 0);
    }
    shmemi_ucx_unlock();
    return SHMEMX_SUCCESS;
}

int shmemi_ucx_quiet(int pe, unsigned context)
{
    static const char call[] = "shmem_quiet";
    int first = pe < 0 ? 0 : pe, end = pe < 0 ? ucx.job->npes : pe + 1, rc = 0;
    bool flushed = false;
    shmemi_ucx_lock();
    if (!find_mark(first, context)) /* it has issued nothing */
        end = first;
    for (int i = first; i < end && rc == 0; i++) { /* all at once, so that they overlap */
        const struct ucx_mark *m = find_mark(i, context);
        flushed |= ucx.peers[i].flushes.issued < m->flush;
        rc = see_to(i, m->flush, m->word);
    }
    for (int i = first; i < end && rc == 0; i++) {
        struct ucx_peer *p = &ucx.peers[i];
        struct ucx_mark m = *find_mark(i, context); /* other threads may go on with it */
        rc = shmemi_ucx_drain(call, i, &p->flushes, m.flush);
        rc = rc ? rc : shmemi_ucx_drain(call, i, &p->words, m.word);
        rc = rc || !m.gpu ? rc : shmemi_ucx_gpu_quiet(call, i, find_mark(i, context), m.gpu);
    }
    /* an endpoint that has just failed flushes at once and without an error; the next progress calls on_error */
    if (flushed && rc == 0)
        (void)ucx.u.progress(ucx.worker);
    /* what was lost is told once; a later quiet that concerns only the living succeeds */
    for (int i = first; i < end && rc == 0 && ucx.owing > 0; i++) {
        const struct ucx_mark *m = find_mark(i, context);
        if (!ucx.peers[i].owes || (m != &ucx.peers[i].own && m->flush == 0 && m->word == 0 && m->gpu == 0))
            continue;
        rc = shmemi_ucx_dead(call, i);
        ucx.peers[i].owes = false;
        ucx.owing--;
    }
    shmemi_ucx_unlock();
    return rc;
}

/* ---- bulk -------------------------------------------------------------------------------------------------------------- */

static int wait_request(const char *call, int pe, size_t n, ucx_request request)
{
    struct shmemi_wait w = SHMEMI_WAIT_FOR(call, pe, NULL);
    unsigned rounds = 0;
    int rc = 0;
    ucx_status status;
    while ((status = ucx.u.request_status(request)) == UCX_INPROGRESS && rc == 0 && !ucx.peers[pe].status)
        rc = shmemi_ucx_step(&w, &rounds);
    ucx.u.request_free(request); /* after a deadline UCX goes on with it by itself */
    if (rc || status == UCX_OK)
        return rc;
    return shmemi_ucx_refused(call, pe, n, status);
}

int shmemi_ucx_after_fence(const char *call, int pe, const struct ucx_mark *m)
{
    struct ucx_peer *p = &ucx.peers[pe];
    int rc = see_to(pe, m->fenced_flush, m->fenced_word);
    rc = rc ? rc : shmemi_ucx_drain(call, pe, &p->flushes, m->fenced_flush);
    rc = rc ? rc : shmemi_ucx_drain(call, pe, &p->words, m->fenced_word);
    return rc == 0 && p->status ? shmemi_ucx_dead(call, pe) : rc;
}

/* What other contexts have issued gets its flush and its word in front of this one's n bytes. */
static int take_turn(int pe, unsigned context, size_t n)
{
    struct ucx_peer *p = &ucx.peers[pe];
    bool bulk = p->dirty && p->bulk_of != context, messages = p->unanswered && p->messages_of != context;
    if (SHMEMI_LIKELY(!bulk && !messages)) {
        p->turn_bytes = 0;
        return SHMEMX_SUCCESS;
    }
    p->turn_bytes += n;
    if (p->turn_bytes < TURN_BYTES)
        return SHMEMX_SUCCESS;
    p->turn_bytes = 0;
    return see_to(pe, p->flushes.issued + bulk, p->words.issued + messages);
}

static int bulk(const char *call, enum ucx_kind kind, int pe, int segment, uint64_t offset, char *local,
                size_t n, unsigned how)
{
    static const struct ucx_op op = {.mask = UCX_OP_MEMORY, .memory = UCX_MEMORY_HOST};
    struct ucx_peer *p = &ucx.peers[pe];
    shmemi_ucx_lock();
    struct ucx_mark *m = shmemi_ucx_mark(call, pe, shmemi_context(how));
    int rc = m ? shmemi_ucx_after_fence(call, pe, m) : SHMEMX_ERR_SYSTEM;
    rc = rc ? rc : shmemi_ucx_gpu_fenced(call, pe, m);
    rc = rc ? rc : take_turn(pe, shmemi_context(how), n);
    while (n > 0 && rc == 0) {
        struct ucx_chunk *c = shmemi_ucx_chunk(segment, offset);
        if (!c) {
            rc = shmemi_ucx_not_exposed(call, pe, offset, n);
            break;
        }
        uint64_t within = offset - c->offset, remote = c->at[pe].base + within;
        size_t part = n < c->n - within ? n : c->n - within;
        ucx_request request = kind == UCX_PUT ? ucx.u.put(p->ep, local, part, remote, c->at[pe].key, &op)
                                              : ucx.u.get(p->ep, local, part, remote, c->at[pe].key, &op);
        p->bulk_of = p->dirty && p->bulk_of != shmemi_context(how) ? UCX_SEVERAL : shmemi_context(how);
        p->dirty = true;
        m->flush = p->flushes.issued + 1;
        shmemi_ucx_note(pe, kind, part);
        if (ucx_is_error(request))
            rc = shmemi_ucx_refused(call, pe, part, ucx_error_of(request));
        else if (request && shmemi_nbi(how))
            ucx.u.request_free(request);
        else if (request)
            rc = wait_request(call, pe, part, request);
        local += part;
        offset += part;
        n -= part;
    }
    shmemi_ucx_unlock();
    return rc;
}

/* ---- slots ------------------------------------------------------------------------------------------------------------- */

static bool is_word(uint64_t offset, size_t n)
{
    return (n == 8 || n == 4) && offset % n == 0;
}

int shmemi_ucx_put(int pe, int segment, uint64_t offset, const void *source, size_t n, unsigned how)
{
    if (SHMEMI_UNLIKELY(ucx.gpu && shmemi_ucx_is_gpu(segment, source)))
        return shmemi_ucx_gpu_put("shmem_put", UCX_PUT, pe, segment, offset, source, n, 0, 0, NULL, how);
    if (!is_word(offset, n))
        return bulk("shmem_put", UCX_PUT, pe, segment, offset, (char *)(uintptr_t)source, n, how);
    struct shmemi_amo a = {.op = SHMEMX_AMO_SET, .size = n};
    memcpy(&a.value, source, n); /* into the low bytes: UCX knows no machine that puts them last */
    return shmemi_ucx_word("shmem_put", UCX_PUT, pe, segment, offset, &a, how);
}

int shmemi_ucx_get(int pe, int segment, uint64_t offset, void *dest, size_t n, unsigned how)
{
    if (SHMEMI_UNLIKELY(ucx.gpu && shmemi_ucx_is_gpu(segment, dest)))
        return shmemi_ucx_gpu_get("shmem_get", pe, segment, offset, dest, n, how);
    if (!is_word(offset, n))
        return bulk("shmem_get", UCX_GET, pe, segment, offset, dest, n, how);
    struct shmemi_amo a = {.op = SHMEMX_AMO_FETCH, .size = n, .fetched = dest};
    return shmemi_ucx_word("shmem_get", UCX_GET, pe, segment, offset, &a, how);
}

int shmemi_ucx_amo(int pe, int segment, uint64_t offset, const struct shmemi_amo *a, unsigned how)
{
    if (SHMEMI_UNLIKELY(segment == SHMEMI_SEGMENT_DEVICE))
        return shmemi_ucx_gpu_amo(pe, offset, a, how);
    return shmemi_ucx_word("shmem_atomic", UCX_AMO, pe, segment, offset, a, how);
}

int shmemi_ucx_put_signal(int pe, int segment, uint64_t offset, const void *source, size_t n, int sig_segment,
                          uint64_t sig_offset, uint64_t signal, int sig_op, unsigned how)
{
    struct shmemi_amo a = {
        .op = sig_op == SHMEM_SIGNAL_SET ? SHMEMX_AMO_SET : SHMEMX_AMO_ADD, .size = 8, .value = signal};
    if (SHMEMI_UNLIKELY(ucx.gpu &&
                        (sig_segment == SHMEMI_SEGMENT_DEVICE || shmemi_ucx_is_gpu(segment, source) ||
                         (n && shmemi_gpu_owns(source))))) /* any GPU memory may be the source */
        return shmemi_ucx_gpu_put("shmem_put_signal", UCX_PUT_SIGNAL, pe, segment, offset, source, n,
                                  sig_segment, sig_offset, &a, how);
    int rc = shmemi_ucx_message(pe, segment, offset, source, n, sig_segment, sig_offset, &a, how);
    if (rc)
        return rc > 0 ? SHMEMX_SUCCESS : rc;
    /* the signal waits for the flush, so the data are not waited for twice */
    unsigned context = shmemi_context(how), nbi = shmemi_how(true, context);
    if ((rc = shmemi_ucx_put(pe, segment, offset, source, n, nbi)) != 0 ||
        (rc = shmemi_ucx_fence(pe, context)) != 0)
        return rc;
    return shmemi_ucx_word("shmem_put_signal", UCX_PUT_SIGNAL, pe, sig_segment, sig_offset, &a, nbi);
}
