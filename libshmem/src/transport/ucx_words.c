/* Transport ucx: words and messages, all that is executed at the target by a processor.
 *
 * A message is a few bytes and an atomic of one word behind them, as one active message: put_signal, and without the
 * bytes an atomic that fetches nothing and an aligned put of 4 or 8 bytes. The target executes it with the processor's
 * instructions, in whatever thread makes progress there, so it is atomic against the PEs that share the target's memory.
 * Nobody answers it, which makes it the fastest that TCP has: 5 us a way where a put of UCX's own takes 12, and data,
 * fence and signal took 37 (medians, half of a ping-pong of 8 bytes). And it keeps words whole: UCX receives a put
 * straight from the socket, and what has arrived may end in the middle of an element.
 *
 * A word is an atomic that fetches, and an aligned get of 4 or 8 bytes: UCX's atomic, which has the answer. Those run in
 * the same place with the same instructions (ATOMIC_MODE=cpu, ucx.c).
 *
 * Both run in the order in which they were issued to a peer: they take the one lane of UCX's active messages, which keeps
 * order. So a word that comes back tells that the messages before it have run, and quiet needs no more than that.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "amo_cpu.h"
#include "base/wait.h"
#include "shmem.h"
#include "shmemx.h"
#include "ucx_state.h"

#define ucx shmemi_ucx_state
/* With its head one packet over TCP (UCX_TCP_TX_SEG_SIZE); longer data can better afford the round trip of a fence. */
enum { MESSAGE_BYTES = 8000, MESSAGE_ID = 1, WORDS_A_BLOCK = 64 };
/* That the network has not taken yet; who issues more waits. At most 32 MiB. */
enum { NOTES = 4096 };

/* The operands of an atomic; UCX reads and writes them until it is done. */
struct ucx_word {
    uint64_t value, old; /* `old` of a compare-and-swap is what to store, until it is the old value */
    size_t size;
    void *fetched; /* where the caller wants the old value, NULL = nowhere */
    struct ucx_peer *peer;
    bool waited, done; /* the caller waits for it and gives it back; it may */
    struct ucx_word *next;
};

/* A message on its way out. */
struct ucx_note {
    struct ucx_head {
        uint64_t to, word; /* addresses at the target */
        uint64_t value, cond;
        uint32_t op, size; /* of the atomic on `word` */
    } head;
    char data[];
};

/* ---- words ------------------------------------------------------------------------------------------------------------- */

static struct ucx_word *take_word(void)
{
    if (!ucx.free_words) {
        struct ucx_word *block = calloc(WORDS_A_BLOCK, sizeof *block);
        if (!block)
            return NULL;
        block[0].next = ucx.word_blocks; /* the first of a block only holds it */
        ucx.word_blocks = block;
        for (int i = 1; i < WORDS_A_BLOCK; i++) {
            block[i].next = ucx.free_words;
            ucx.free_words = &block[i];
        }
    }
    struct ucx_word *w = ucx.free_words;
    ucx.free_words = w->next;
    return w;
}

static void give_word(struct ucx_word *w)
{
    w->next = ucx.free_words;
    ucx.free_words = w;
}

static void word_ended(struct ucx_word *w, ucx_status status)
{
    if (status)
        shmemi_ucx_lose(w->peer, status);
    else if (w->fetched)
        memcpy(w->fetched, &w->old, w->size);
    w->peer->reached |= status == UCX_OK;
    w->peer->words.done++;
    ucx.pending--;
    w->done = true;
    if (!w->waited)
        give_word(w);
}

static void word_done(void *request, ucx_status status, void *user)
{
    ucx.u.request_free(request);
    word_ended(user, status);
}

/* By what UCX has: a load adds nothing, a store swaps and drops what was there. */
static int decode(const struct shmemi_amo *a, struct ucx_word *w)
{
    w->value = a->op == SHMEMX_AMO_FETCH ? 0 : a->value;
    w->size = a->size;
    w->fetched = a->fetched;
    switch (a->op) {
    case SHMEMX_AMO_SET:
    case SHMEMX_AMO_SWAP:
        return UCX_ATOMIC_SWAP;
    case SHMEMX_AMO_COMPARE_SWAP:
        w->value = a->cond;
        w->old = a->value;
        return UCX_ATOMIC_CSWAP;
    case SHMEMX_AMO_AND:
        return UCX_ATOMIC_AND;
    case SHMEMX_AMO_OR:
        return UCX_ATOMIC_OR;
    case SHMEMX_AMO_XOR:
        return UCX_ATOMIC_XOR;
    default:
        return UCX_ATOMIC_ADD;
    }
}

static void send_word(struct ucx_word *w, struct ucx_peer *p, int op, uint64_t remote, void *key)
{
    struct ucx_op how = {.mask = UCX_OP_DONE | UCX_OP_USER | UCX_OP_DATATYPE | UCX_OP_MEMORY | UCX_OP_REPLY,
                         .done = word_done,
                         .user = w,
                         .datatype = (uint64_t)w->size << UCX_CONTIG_SHIFT,
                         .reply = &w->old,
                         .memory = UCX_MEMORY_HOST};
    w->peer = p;
    w->done = false;
    p->words.issued++;
    p->unanswered = false;
    ucx.pending++;
    ucx_request request = ucx.u.atomic(p->ep, op, &w->value, 1, remote, key, &how);
    if (!request || ucx_is_error(request)) /* ended on the spot, without the callback */
        word_ended(w, request ? ucx_error_of(request) : UCX_OK);
}

/* With the lock held. */
static int fetch(const char *call, enum ucx_kind kind, int pe, uint64_t remote, void *key,
                 const struct shmemi_amo *a, struct ucx_mark *m, bool nbi)
{
    struct ucx_peer *p = &ucx.peers[pe];
    int rc = shmemi_ucx_drain(call, pe, &p->flushes, m->fenced_flush);
    rc = rc ? rc : shmemi_ucx_gpu_fenced(call, pe, m);
    if (rc || p->status)
        return rc ? rc : shmemi_ucx_dead(call, pe);
    struct ucx_word *w = take_word();
    if (!w)
        return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "out of memory");
    int op = decode(a, w);
    w->waited = !nbi;
    shmemi_ucx_note(pe, kind, a->size);
    send_word(w, p, op, remote, key);
    m->word = p->words.issued;
    if (nbi)
        return p->status ? shmemi_ucx_dead(call, pe) : SHMEMX_SUCCESS;
    struct shmemi_wait look = SHMEMI_WAIT_FOR(call, pe, NULL);
    unsigned rounds = 0;
    while (!w->done && rc == 0 && !p->status)
        rc = shmemi_ucx_step(&look, &rounds);
    bool done = w->done;
    /* after a deadline it is its callback's, and no longer wanted */
    w->waited = false;
    w->fetched = NULL;
    if (done)
        give_word(w);
    return rc == 0 && p->status ? shmemi_ucx_dead(call, pe) : rc;
}

int shmemi_ucx_ping(int pe)
{
    struct ucx_chunk *c = ucx.segment[SHMEMI_SEGMENT_HOST].chunks;
    if (!c || !c->at[pe].key)
        return SHMEMX_SUCCESS; /* nothing has been issued to that PE */
    struct ucx_word *w = take_word();
    if (!w)
        return shmemi_fail(SHMEMX_ERR_SYSTEM, "shmem_quiet", "out of memory");
    *w = (struct ucx_word){.size = 8};
    send_word(w, &ucx.peers[pe], UCX_ATOMIC_ADD, c->at[pe].base, c->at[pe].key);
    return SHMEMX_SUCCESS;
}

/* ---- messages ----------------------------------------------------------------------------------------------------------- */

static void message_done(void *request, ucx_status status, void *user)
{
    (void)status; /* of the peer, on_error will tell */
    ucx.u.request_free(request);
    free(user);
    ucx.notes--;
}

/* At the target. */
static ucx_status receive(void *arg, const void *header, size_t header_bytes, void *data, size_t n,
                          const void *param)
{
    (void)arg, (void)header_bytes, (void)param;
    struct ucx_head m;
    memcpy(&m, header, sizeof m);
    if (n)
        memcpy((void *)(uintptr_t)m.to, data, n);
    /* a PE that reads the word (acquire, in signal.c and sync.c) sees the bytes: none of these is weaker than release */
    struct shmemi_amo a = {.op = (int)m.op, .size = m.size, .value = m.value, .cond = m.cond};
    shmemi_amo_cpu((void *)(uintptr_t)m.word, &a);
    return UCX_OK;
}

/* With the lock held; 1 = sent. */
static int message(const char *call, enum ucx_kind kind, int pe, uint64_t to, const void *source, size_t n,
                   uint64_t word, const struct shmemi_amo *a, unsigned context)
{
    struct ucx_peer *p = &ucx.peers[pe];
    struct ucx_mark *mark = shmemi_ucx_mark(call, pe, context);
    int rc = mark ? shmemi_ucx_drain(call, pe, &p->flushes, mark->fenced_flush) : SHMEMX_ERR_SYSTEM;
    rc = rc ? rc : shmemi_ucx_gpu_fenced(call, pe, mark);
    struct shmemi_wait w = SHMEMI_WAIT_FOR(call, pe, NULL);
    unsigned rounds = 0;
    while (ucx.notes >= NOTES && rc == 0 && !p->status)
        rc = shmemi_ucx_step(&w, &rounds);
    if (rc || p->status)
        return rc ? rc : shmemi_ucx_dead(call, pe);
    struct ucx_note *m = malloc(sizeof *m + n);
    if (!m)
        return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "out of memory");
    m->head = (struct ucx_head){to, word, a->value, a->cond, (uint32_t)a->op, (uint32_t)a->size};
    if (n)
        memcpy(m->data, source, n);
    struct ucx_op how = {.mask = UCX_OP_DONE | UCX_OP_USER | UCX_OP_FLAGS | UCX_OP_MEMORY,
                         .flags = UCX_AM_EAGER,
                         .done = message_done,
                         .user = m,
                         .memory = UCX_MEMORY_HOST};
    ucx_request request = ucx.u.am_send(p->ep, MESSAGE_ID, &m->head, sizeof m->head, m->data, n, &how);
    p->messages_of = p->unanswered && p->messages_of != context ? UCX_SEVERAL : context;
    p->unanswered = true;
    mark->word = p->words.issued + 1;
    shmemi_ucx_note(pe, kind, n ? n : a->size);
    if (request && !ucx_is_error(request))
        ucx.notes++;
    else
        free(m);
    return ucx_is_error(request) ? shmemi_ucx_refused(call, pe, n, ucx_error_of(request)) : 1;
}

static uint64_t remote_of(const struct ucx_chunk *c, int pe, uint64_t offset)
{
    return c->at[pe].base + (offset - c->offset);
}

int shmemi_ucx_word(const char *call, enum ucx_kind kind, int pe, int segment, uint64_t offset,
                    const struct shmemi_amo *a, unsigned how)
{
    shmemi_ucx_lock();
    struct ucx_chunk *c = shmemi_ucx_chunk(segment, offset);
    struct ucx_mark *m = shmemi_ucx_mark(call, pe, shmemi_context(how));
    int rc = !m   ? SHMEMX_ERR_SYSTEM
             : !c ? shmemi_ucx_not_exposed(call, pe, offset, a->size)
             : a->fetched
                 ? fetch(call, kind, pe, remote_of(c, pe, offset), c->at[pe].key, a, m, shmemi_nbi(how))
                 : message(call, kind, pe, 0, NULL, 0, remote_of(c, pe, offset), a, shmemi_context(how));
    shmemi_ucx_unlock();
    return rc > 0 ? SHMEMX_SUCCESS : rc;
}

int shmemi_ucx_message(int pe, int segment, uint64_t offset, const void *source, size_t n, int sig_segment,
                       uint64_t sig_offset, const struct shmemi_amo *signal, unsigned how)
{
    static const char call[] = "shmem_put_signal";
    if (n > MESSAGE_BYTES)
        return 0;
    shmemi_ucx_lock();
    struct ucx_chunk *c = n ? shmemi_ucx_chunk(segment, offset) : NULL,
                     *s = shmemi_ucx_chunk(sig_segment, sig_offset);
    int rc = 0;
    if (!s)
        rc = shmemi_ucx_not_exposed(call, pe, sig_offset, signal->size);
    else if (n == 0 || (c && offset + n <= c->offset + c->n)) /* not in two ranges */
        rc = message(call, UCX_PUT_SIGNAL, pe, n ? remote_of(c, pe, offset) : 0, source, n,
                     remote_of(s, pe, sig_offset), signal, shmemi_context(how));
    shmemi_ucx_unlock();
    return rc;
}

/* ---- open and close ------------------------------------------------------------------------------------------------------ */

ucx_status shmemi_ucx_words_open(void)
{
    struct ucx_am_params params = {.mask = UCX_AM_ID | UCX_AM_CALL, .id = MESSAGE_ID, .call = receive};
    return ucx.u.am_handler(ucx.worker, &params);
}

void shmemi_ucx_words_close(void)
{
    for (struct ucx_word *b = ucx.word_blocks, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    ucx.free_words = ucx.word_blocks = NULL;
    ucx.notes = 0;
}
