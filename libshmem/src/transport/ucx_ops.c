/* Transport ucx: moving bytes.
 *
 * Bulk is UCX's put and get; a word, that is an aligned put of 4 or 8 bytes, a signal or an atomic, is UCX's atomic.
 * Those run at the target with the processor's atomic instructions (ATOMIC_MODE=cpu, ucx.c), in whatever thread makes
 * progress there, so they are atomic against the loads, stores and atomics of the PEs that share the target's memory.
 * And they are what keeps words whole: over TCP UCX receives a put straight from the socket, which may end in the middle
 * of an element. An answer costs nothing more, since UCX acknowledges puts as well: median of 10,000 ping-pongs of 8
 * bytes over veth 11.5 us with puts, 11.6 us with swaps.
 */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/wait.h"
#include "shmem.h"
#include "shmemx.h"
#include "ucx_state.h"

#define ucx shmemi_ucx_state
enum { WORDS_A_BLOCK = 64, ROUNDS_A_LOOK = 256 };

/* ---- errors and waits, all with the lock held ------------------------------------------------------------------------ */

/* For an operation that was refused on the spot. */
static int refused(const char *call, int pe, size_t n, ucx_status status)
{
    if (ucx.peers[pe].status)
        return shmemi_ucx_dead(call, pe);
    return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "%zu bytes with PE %d: UCX: %s", n, pe, ucx.u.text(status));
}

static void note(int pe, enum ucx_kind kind, size_t n)
{
    struct ucx_peer *p = &ucx.peers[pe];
    p->dirty = true;
    p->last = kind;
    p->last_bytes = n;
    if (!p->listed) {
        p->listed = true;
        ucx.dirty[ucx.ndirty++] = pe;
    }
}

/* One look of a waiting caller: moves things on, and gives way where nothing moved. */
static int step(struct shmemi_wait *w, unsigned *rounds)
{
    unsigned moved = ucx.u.progress(ucx.worker);
    atomic_fetch_add_explicit(&ucx.attended, 1, memory_order_relaxed);
    shmemi_ucx_unlock();
    int rc = moved && ++*rounds % ROUNDS_A_LOOK ? 0 : shmemi_wait_step(w);
    shmemi_ucx_lock();
    return rc;
}

static struct ucx_chunk *chunk_at(int segment, uint64_t offset)
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

static int not_exposed(const char *call, int pe, uint64_t offset, size_t n)
{
    return shmemi_fail(SHMEMX_ERR_ADDRESS, call, "%zu bytes at offset 0x%llx of PE %d are not registered", n,
                       (unsigned long long)offset, pe);
}

/* ---- bulk -------------------------------------------------------------------------------------------------------------- */

static int wait_request(const char *call, int pe, size_t n, ucx_request request)
{
    struct shmemi_wait w = SHMEMI_WAIT_FOR(call, pe, NULL);
    unsigned rounds = 0;
    int rc = 0;
    ucx_status status;
    while ((status = ucx.u.request_status(request)) == UCX_INPROGRESS && rc == 0 && !ucx.peers[pe].status)
        rc = step(&w, &rounds);
    ucx.u.request_free(request); /* after a deadline UCX goes on with it by itself */
    if (rc || status == UCX_OK)
        return rc;
    return refused(call, pe, n, status);
}

static int bulk(const char *call, enum ucx_kind kind, int pe, int segment, uint64_t offset, char *local,
                size_t n, bool nbi)
{
    static const struct ucx_op op = {.mask = UCX_OP_MEMORY, .memory = UCX_MEMORY_HOST};
    const struct ucx_peer *p = &ucx.peers[pe];
    int rc = 0;
    shmemi_ucx_lock();
    while (n > 0 && rc == 0) {
        struct ucx_chunk *c = chunk_at(segment, offset);
        if (!c || p->status) {
            rc = p->status ? shmemi_ucx_dead(call, pe) : not_exposed(call, pe, offset, n);
            break;
        }
        uint64_t within = offset - c->offset, remote = c->at[pe].base + within;
        size_t part = n < c->n - within ? n : c->n - within;
        ucx_request request = kind == UCX_PUT ? ucx.u.put(p->ep, local, part, remote, c->at[pe].key, &op)
                                              : ucx.u.get(p->ep, local, part, remote, c->at[pe].key, &op);
        note(pe, kind, part);
        if (ucx_is_error(request))
            rc = refused(call, pe, part, ucx_error_of(request));
        else if (request && nbi)
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

/* ---- words ------------------------------------------------------------------------------------------------------------- */

static struct ucx_word *take_word(void)
{
    if (!ucx.words) {
        struct ucx_word *block = calloc(WORDS_A_BLOCK, sizeof *block);
        if (!block)
            return NULL;
        block[0].next = ucx.blocks; /* the first of a block only holds it */
        ucx.blocks = block;
        for (int i = 1; i < WORDS_A_BLOCK; i++) {
            block[i].next = ucx.words;
            ucx.words = &block[i];
        }
    }
    struct ucx_word *w = ucx.words;
    ucx.words = w->next;
    return w;
}

static void give_word(struct ucx_word *w)
{
    w->next = ucx.words;
    ucx.words = w;
}

void shmemi_ucx_words_close(void)
{
    for (struct ucx_word *b = ucx.blocks, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    ucx.words = ucx.blocks = NULL;
}

static void deliver(struct ucx_word *w)
{
    if (w->fetched)
        memcpy(w->fetched, &w->old, w->size);
    w->peer->reached = true;
}

static void word_done(void *request, ucx_status status, void *user)
{
    struct ucx_word *w = user;
    ucx.u.request_free(request);
    if (status == UCX_OK)
        deliver(w);
    w->done = true;
    if (!w->waited)
        give_word(w);
}

/* Fills `op` by what UCX has: a load adds nothing, a store swaps and drops what was there. */
static int decode(const struct shmemi_amo *a, struct ucx_word *w, bool *answer)
{
    w->value = a->value;
    w->size = a->size;
    w->fetched = a->fetched;
    *answer = a->fetched != NULL;
    switch (a->op) {
    case SHMEMX_AMO_FETCH:
        w->value = 0;
        return UCX_ATOMIC_ADD;
    case SHMEMX_AMO_SET:
    case SHMEMX_AMO_SWAP:
        *answer = true;
        return UCX_ATOMIC_SWAP;
    case SHMEMX_AMO_COMPARE_SWAP:
        *answer = true;
        w->value = a->cond;
        memcpy(&w->old, &(uint64_t){a->value}, sizeof w->old);
        return UCX_ATOMIC_CSWAP;
    case SHMEMX_AMO_ADD:
        return UCX_ATOMIC_ADD;
    case SHMEMX_AMO_AND:
        return UCX_ATOMIC_AND;
    case SHMEMX_AMO_OR:
        return UCX_ATOMIC_OR;
    default:
        return UCX_ATOMIC_XOR;
    }
}

static int word(const char *call, enum ucx_kind kind, int pe, int segment, uint64_t offset,
                const struct shmemi_amo *a, bool nbi)
{
    struct ucx_peer *p = &ucx.peers[pe];
    int rc = 0;
    shmemi_ucx_lock();
    struct ucx_chunk *c = chunk_at(segment, offset);
    struct ucx_word *w = c && !p->status ? take_word() : NULL;
    if (!w) {
        rc = p->status ? shmemi_ucx_dead(call, pe)
             : c       ? shmemi_fail(SHMEMX_ERR_SYSTEM, call, "out of memory")
                       : not_exposed(call, pe, offset, a->size);
        shmemi_ucx_unlock();
        return rc;
    }
    bool answer;
    int op = decode(a, w, &answer);
    w->peer = p;
    w->done = false;
    w->waited = a->fetched && !nbi;
    struct ucx_op how = {.mask = UCX_OP_DONE | UCX_OP_USER | UCX_OP_DATATYPE | UCX_OP_MEMORY |
                                 (answer ? UCX_OP_REPLY : 0),
                         .done = word_done,
                         .user = w,
                         .datatype = (uint64_t)a->size << UCX_CONTIG_SHIFT,
                         .reply = &w->old,
                         .memory = UCX_MEMORY_HOST};
    ucx_request request =
        ucx.u.atomic(p->ep, op, &w->value, 1, c->at[pe].base + (offset - c->offset), c->at[pe].key, &how);
    note(pe, kind, a->size);
    if (ucx_is_error(request)) {
        rc = refused(call, pe, a->size, ucx_error_of(request));
        give_word(w);
    } else if (!request) { /* done on the spot: no callback */
        deliver(w);
        give_word(w);
    } else if (w->waited) {
        struct shmemi_wait wait = SHMEMI_WAIT_FOR(call, pe, NULL);
        unsigned rounds = 0;
        while (!w->done && rc == 0)
            rc = p->status ? shmemi_ucx_dead(call, pe) : step(&wait, &rounds);
        w->waited = false;
        w->fetched = NULL;
        if (w->done) {
            rc = rc == 0 && p->status ? shmemi_ucx_dead(call, pe) : rc;
            give_word(w);
        }
    }
    shmemi_ucx_unlock();
    return rc;
}

/* ---- slots ------------------------------------------------------------------------------------------------------------- */

int shmemi_ucx_put(int pe, int segment, uint64_t offset, const void *source, size_t n, bool nbi)
{
    if ((n == 8 || n == 4) && offset % n == 0) {
        struct shmemi_amo a = {.op = SHMEMX_AMO_SET, .size = n};
        memcpy(&a.value, source, n); /* the low bytes come first: little endian, as all that UCX runs on */
        return word("shmem_put", UCX_PUT, pe, segment, offset, &a, true);
    }
    return bulk("shmem_put", UCX_PUT, pe, segment, offset, (char *)(uintptr_t)source, n, nbi);
}

int shmemi_ucx_get(int pe, int segment, uint64_t offset, void *dest, size_t n, bool nbi)
{
    if ((n == 8 || n == 4) && offset % n == 0) {
        struct shmemi_amo a = {.op = SHMEMX_AMO_FETCH, .size = n, .fetched = dest};
        return word("shmem_get", UCX_GET, pe, segment, offset, &a, nbi);
    }
    return bulk("shmem_get", UCX_GET, pe, segment, offset, dest, n, nbi);
}

int shmemi_ucx_amo(int pe, int segment, uint64_t offset, const struct shmemi_amo *a, bool nbi)
{
    return word("shmem_atomic", UCX_AMO, pe, segment, offset, a, nbi);
}

int shmemi_ucx_put_signal(int pe, int segment, uint64_t offset, const void *source, size_t n, int sig_segment,
                          uint64_t sig_offset, uint64_t signal, int sig_op, bool nbi)
{
    int rc = n ? shmemi_ucx_put(pe, segment, offset, source, n, nbi) : 0;
    if (rc || (n && (rc = shmemi_ucx_fence(pe)) != 0))
        return rc;
    struct shmemi_amo a = {
        .op = sig_op == SHMEM_SIGNAL_SET ? SHMEMX_AMO_SET : SHMEMX_AMO_ADD, .size = 8, .value = signal};
    return word("shmem_put_signal", UCX_AMO, pe, sig_segment, sig_offset, &a, true);
}

int shmemi_ucx_fence(int pe)
{
    shmemi_ucx_lock();
    /* the worker's fence holds for all peers */
    bool needed = pe < 0 ? ucx.ndirty > 0 : ucx.peers[pe].dirty;
    ucx_status status = needed ? ucx.u.fence(ucx.worker) : UCX_OK;
    shmemi_ucx_unlock();
    if (status == UCX_OK)
        return SHMEMX_SUCCESS;
    return shmemi_fail(SHMEMX_ERR_SYSTEM, "shmem_fence", "UCX: %s", ucx.u.text(status));
}

static void flush_ended(struct ucx_peer *p, bool ok)
{
    p->flushed++;
    p->reached |= ok;
    ucx.flushing--;
}

static void flush_done(void *request, ucx_status status, void *user)
{
    ucx.u.request_free(request);
    flush_ended(user, status == UCX_OK);
}

static void flush(struct ucx_peer *p)
{
    if (!p->dirty || p->status)
        return;
    p->dirty = false;
    p->flushes++;
    ucx.flushing++;
    struct ucx_op op = {.mask = UCX_OP_DONE | UCX_OP_USER, .done = flush_done, .user = p};
    ucx_request request = ucx.u.ep_flush(p->ep, &op);
    if (!request || ucx_is_error(request))
        flush_ended(p, !request);
}

static int drain(int pe)
{
    struct ucx_peer *p = &ucx.peers[pe];
    struct shmemi_wait w = SHMEMI_WAIT_FOR("shmem_quiet", pe, NULL);
    unsigned rounds = 0, until = p->flushes;
    int rc = 0;
    while ((int)(p->flushed - until) < 0 && !p->status && rc == 0)
        rc = step(&w, &rounds);
    return rc;
}

/* What was lost is told once; a later quiet that concerns only the living succeeds. */
static int settle(int pe)
{
    struct ucx_peer *p = &ucx.peers[pe];
    if (!p->owes)
        return SHMEMX_SUCCESS;
    int rc = shmemi_ucx_dead("shmem_quiet", pe);
    p->owes = false;
    ucx.owing--;
    return rc;
}

int shmemi_ucx_quiet(int pe)
{
    int rc = 0;
    shmemi_ucx_lock();
    bool any = pe < 0 ? ucx.ndirty > 0 : ucx.peers[pe].dirty;
    if (pe >= 0) {
        flush(&ucx.peers[pe]);
        rc = drain(pe);
    } else {
        for (int i = 0; i < ucx.ndirty; i++) { /* all at once, so that they overlap */
            ucx.peers[ucx.dirty[i]].listed = false;
            flush(&ucx.peers[ucx.dirty[i]]);
        }
        ucx.ndirty = 0;
        for (int i = 0; i < ucx.job->npes && ucx.flushing > 0 && rc == 0; i++)
            rc = drain(i);
    }
    /* an endpoint that has just failed flushes at once and without an error; the next progress calls on_error */
    if (any && rc == 0)
        (void)ucx.u.progress(ucx.worker);
    for (int i = pe < 0 ? 0 : pe; ucx.owing > 0 && rc == 0 && i < (pe < 0 ? ucx.job->npes : pe + 1); i++)
        rc = settle(i);
    shmemi_ucx_unlock();
    return rc;
}
