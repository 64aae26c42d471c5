/* Transport ucx: GPU memory of PEs on other nodes, the side that asks.
 *
 * UCX sees host memory alone here: so it needs no CUDA of its own, no GPUDirect and no privilege, and works over whatever network
 * there is. GPU memory goes through pinned blocks of UCX_PIECE bytes, copied by the driver. A piece is a request, an active message
 * that the target's thread for GPU memory executes and answers (ucx_gpu_serve.c); so quiet, which waits for the answers,
 * means that the bytes are in the target's GPU memory.
 *
 * Requests to a PE have numbers and are executed in their order, whatever the network makes of it (UCX may send long messages over
 * several lanes). So fence needs only to say that what was before is to be complete before the next one; what is of host
 * memory, and goes other ways (ucx_ops.c, ucx_words.c), waits for answers.
 *
 * After an error the target executes nothing more of that PE's until the PE knows: no signal arrives whose data did not. The next quiet
 * tells it, and then the two go on.
 *
 * Copies have streams of their own: the library's may hold a kernel that waits for what these bring. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/wait.h"
#include "shmemx.h"
#include "ucx_gpu.h"

#define ucx shmemi_ucx_state
/* Requests on the way to a PE, and their bytes: puts of 4 MiB took as long with 1 and with 16 MiB (fake device, TCP by the
 * loopback, medians). */
enum { MOST_ASKS = 1024, MOST_BYTES = 4 << 20 };

struct ucx_gpu {
    shmemi_stream_t out; /* from GPU memory here, by who calls */
    char *pinned;        /* UCX_BLOCKS blocks */
    char *free_block;    /* each begins with the address of the next one */
};

bool shmemi_ucx_is_gpu(int segment, const void *local)
{
    const struct shmemi_segment *s = &ucx.job->segments[SHMEMI_SEGMENT_DEVICE];
    return segment == SHMEMI_SEGMENT_DEVICE || (uint64_t)((const char *)local - s->base) < s->bytes;
}

/* ---- blocks, messages --------------------------------------------------------------------------------------------------- */

char *shmemi_ucx_block_locked(size_t n)
{
    char *block = ucx.gpu->free_block;
    if (!block)
        return malloc(n);
    memcpy(&ucx.gpu->free_block, block, sizeof block);
    return block;
}

char *shmemi_ucx_block(const char *call, size_t n)
{
    shmemi_ucx_lock();
    char *block = shmemi_ucx_block_locked(n);
    shmemi_ucx_unlock();
    if (!block)
        shmemi_fail(SHMEMX_ERR_SYSTEM, call, "out of memory for %zu bytes", n);
    return block;
}

void shmemi_ucx_give_block(char *block)
{
    if (!block)
        return;
    if ((uintptr_t)block - (uintptr_t)ucx.gpu->pinned >= (size_t)UCX_PIECE * UCX_BLOCKS) {
        free(block);
        return;
    }
    memcpy(block, &ucx.gpu->free_block, sizeof block);
    ucx.gpu->free_block = block;
}

/* On its way out: UCX reads both until it is done. */
struct ucx_parcel {
    char *block;
    char head[];
};

static void parcel_done(void *request, ucx_status status, void *user)
{
    struct ucx_parcel *m = user;
    (void)status; /* of the peer, on_error will tell */
    ucx.u.request_free(request);
    shmemi_ucx_give_block(m->block);
    free(m);
    ucx.pending--;
}

ucx_status shmemi_ucx_parcel(struct ucx_peer *p, unsigned id, const void *head, size_t head_bytes,
                             char *block, size_t n)
{
    enum { NO_MEMORY = -4 };
    struct ucx_parcel *m = malloc(sizeof *m + head_bytes);
    if (!m) {
        shmemi_ucx_give_block(block);
        return NO_MEMORY;
    }
    memcpy(m->head, head, head_bytes);
    m->block = block;
    struct ucx_op how = {.mask = UCX_OP_DONE | UCX_OP_USER | UCX_OP_FLAGS | UCX_OP_MEMORY,
                         .flags = UCX_AM_EAGER,
                         .done = parcel_done,
                         .user = m,
                         .memory = UCX_MEMORY_HOST};
    ucx_request request = ucx.u.am_send(p->ep, id, m->head, head_bytes, block, n, &how);
    if (request && !ucx_is_error(request)) {
        ucx.pending++;
        return UCX_OK;
    }
    shmemi_ucx_give_block(block);
    free(m);
    return request ? ucx_error_of(request) : UCX_OK;
}

/* ---- requests ----------------------------------------------------------------------------------------------------------- */

/* Waits until a request of n bytes may go. */
static int ready(const char *call, int pe, const struct ucx_mark *m, size_t n)
{
    struct ucx_peer *p = &ucx.peers[pe];
    struct shmemi_wait w = SHMEMI_WAIT_FOR(call, pe, NULL);
    unsigned rounds = 0;
    int rc = shmemi_ucx_after_fence(call, pe, m);
    while (rc == 0 && !p->status &&
           (p->gpu.issued - p->gpu.done >= MOST_ASKS || p->gpu_out - p->gpu_back + n > MOST_BYTES))
        rc = shmemi_ucx_step(&w, &rounds);
    return rc == 0 && p->status ? shmemi_ucx_dead(call, pe) : rc;
}

static ucx_status send_ask(struct ucx_peer *p, struct ucx_mark *m, struct ucx_ask *ask, char *block)
{
    ask->number = p->gpu.issued + 1;
    ask->pe = ucx.job->me;
    ask->epoch = p->gpu_epoch;
    ask->fenced = m->gpu_fence;
    ucx_status status = shmemi_ucx_parcel(p, UCX_ASK_ID, ask, sizeof *ask, block, ask->get ? 0 : ask->n);
    if (status == UCX_OK) {
        p->gpu.issued = ask->number;
        p->gpu_out += ask->n;
        m->gpu = ask->number;
        m->gpu_fence = false;
        m->gpu_lost |= p->gpu_error.stands; /* it will not be executed */
    }
    return status;
}

/* Sends a request, with a block of data that it takes over, or with a want. */
static int issue(const char *call, enum ucx_kind kind, int pe, struct ucx_ask *ask, char *block,
                 struct ucx_want *want, unsigned context)
{
    struct ucx_peer *p = &ucx.peers[pe];
    shmemi_ucx_lock();
    struct ucx_mark *m = shmemi_ucx_mark(call, pe, context);
    int rc = m ? ready(call, pe, m, ask->n) : SHMEMX_ERR_SYSTEM;
    if (rc) {
        shmemi_ucx_give_block(block);
    } else {
        ucx_status status = send_ask(p, m, ask, block);
        shmemi_ucx_note(pe, kind, ask->n ? ask->n : ask->size);
        rc = status ? shmemi_ucx_refused(call, pe, ask->n, status) : 0;
    }
    if (rc) {
        free(want);
    } else if (want) {
        struct ucx_want **at = &p->wants;
        while (*at)
            at = &(*at)->next;
        want->number = ask->number;
        *at = want;
    }
    shmemi_ucx_unlock();
    return rc;
}

static struct ucx_want *new_want(const char *call, void *dest, size_t n, bool gpu)
{
    struct ucx_want *w = calloc(1, sizeof *w);
    if (!w)
        shmemi_fail(SHMEMX_ERR_SYSTEM, call, "out of memory");
    else
        *w = (struct ucx_want){.dest = dest, .n = n, .gpu = gpu};
    return w;
}

/* ---- what comes back ------------------------------------------------------------------------------------------------------ */

void shmemi_ucx_want_ended(struct ucx_peer *p, struct ucx_want *w)
{
    struct ucx_want **at = &p->wants;
    while (*at && *at != w)
        at = &(*at)->next;
    if (*at)
        *at = w->next;
    free(w);
}

void shmemi_ucx_gpu_failed(struct ucx_peer *p, uint64_t number, int code, const char *text, size_t n)
{
    if (p->gpu_error.stands)
        return; /* the first one is the cause */
    int pe = (int)(p - ucx.peers);
    p->gpu_error.stands = true;
    p->gpu_error.code = code;
    p->own.gpu_lost |= p->own.gpu >= number;
    for (int i = 0; i < SHMEMI_CONTEXTS; i++)
        if (ucx.marks[i] && ucx.marks[i][pe].gpu >= number)
            ucx.marks[i][pe].gpu_lost = true;
    snprintf(p->gpu_error.text, sizeof p->gpu_error.text, "%.*s", (int)n, n ? text : "");
}

static void landing(struct ucx_peer *p, struct ucx_want *w, const void *data, size_t n)
{
    struct ucx_work *work = calloc(1, sizeof *work);
    char *block = shmemi_ucx_block_locked(n);
    if (!work || !block) {
        static const char text[] = "out of memory for what came";
        free(work);
        shmemi_ucx_give_block(block);
        shmemi_ucx_gpu_failed(p, w->number, SHMEMX_ERR_SYSTEM, text, sizeof text);
        shmemi_ucx_want_ended(p, w);
        return;
    }
    memcpy(block, data, n);
    *work = (struct ucx_work){.ask = {.n = n, .pe = (int32_t)(p - ucx.peers)}, .data = block, .want = w};
    shmemi_ucx_serve_landing(work);
}

static ucx_status answered(void *arg, const void *header, size_t header_bytes, void *data, size_t n,
                           const void *param)
{
    (void)arg, (void)header_bytes, (void)param;
    struct ucx_answer a;
    memcpy(&a, header, sizeof a);
    if (!ucx.gpu || a.pe < 0 || a.pe >= ucx.job->npes)
        return UCX_OK;
    struct ucx_peer *p = &ucx.peers[a.pe];
    p->reached = true;
    if (a.number > p->gpu.done)
        p->gpu.done = a.number;
    if (a.bytes > p->gpu_back)
        p->gpu_back = a.bytes;
    if (a.status)
        shmemi_ucx_gpu_failed(p, a.number, a.status, data, n);
    struct ucx_want *w = p->wants;
    while (w && w->number < a.number)
        w = w->next;
    if (!w || w->number != a.number)
        return UCX_OK;
    if (a.status == 0 && w->dest && w->gpu && n == w->n) {
        landing(p, w, data, n);
        return UCX_OK;
    }
    if (a.status == 0 && w->dest)
        memcpy(w->dest, n == w->n ? data : &a.value,
               n == w->n               ? n
               : sizeof a.value < w->n ? sizeof a.value
                                       : w->n);
    shmemi_ucx_want_ended(p, w);
    return UCX_OK;
}

/* ---- waiting ---------------------------------------------------------------------------------------------------------------- */

static int tell(const char *call, int pe)
{
    const struct ucx_peer *p = &ucx.peers[pe];
    return shmemi_fail(p->gpu_error.code, call, "GPU memory of PE %d: %s", pe, p->gpu_error.text);
}

/* Told: what the context asks for now is new. */
static int told(const char *call, int pe, struct ucx_mark *m)
{
    struct ucx_peer *p = &ucx.peers[pe];
    m->gpu_lost = false;
    p->gpu_epoch += p->gpu_error.stands;
    p->gpu_error.stands = false;
    return tell(call, pe);
}

int shmemi_ucx_gpu_fenced(const char *call, int pe, const struct ucx_mark *m)
{
    if (SHMEMI_LIKELY(m->fenced_gpu == 0))
        return SHMEMX_SUCCESS;
    int rc = shmemi_ucx_drain(call, pe, &ucx.peers[pe].gpu, m->fenced_gpu);
    return rc == 0 && m->gpu_lost ? tell(call, pe) : rc;
}

/* All up to last are answered, and what they brought is in its place. */
static int wait_for(const char *call, int pe, uint64_t first, uint64_t last)
{
    struct ucx_peer *p = &ucx.peers[pe];
    struct shmemi_wait w = SHMEMI_WAIT_FOR(call, pe, NULL);
    unsigned rounds = 0;
    int rc = shmemi_ucx_drain(call, pe, &p->gpu, last);
    while (rc == 0 && !p->status && p->wants && p->wants->number <= last)
        rc = shmemi_ucx_step(&w, &rounds);
    for (struct ucx_want *left = p->wants; left && left->number <= last; left = left->next)
        if (left->number >= first || p->status)
            left->dest = NULL; /* nobody waits any more: the place is the caller's again */
    return rc;
}

int shmemi_ucx_gpu_quiet(const char *call, int pe, struct ucx_mark *m, uint64_t number)
{
    int rc = wait_for(call, pe, number, number);
    return rc == 0 && !ucx.peers[pe].status && m->gpu_lost ? told(call, pe, m) : rc;
}

/* For what the caller wants now. What the context has lost before is told here, too. */
static int wait_now(const char *call, int pe, uint64_t first, uint64_t last, unsigned context)
{
    struct ucx_peer *p = &ucx.peers[pe];
    shmemi_ucx_lock();
    int rc = wait_for(call, pe, first, last);
    struct ucx_mark *m = shmemi_ucx_mark(call, pe, context); /* there since it was sent */
    if (rc == 0 && p->status)
        rc = shmemi_ucx_dead(call, pe);
    else if (rc == 0 && m->gpu_lost)
        rc = told(call, pe, m);
    shmemi_ucx_unlock();
    return rc;
}

/* ---- operations ------------------------------------------------------------------------------------------------------------- */

static void set_word(struct ucx_ask *ask, int segment, uint64_t offset, const struct shmemi_amo *a)
{
    ask->word_segment = (uint8_t)segment;
    ask->word = offset;
    ask->op = (uint8_t)a->op;
    ask->size = (uint8_t)a->size;
    ask->value = a->value;
    ask->cond = a->cond;
    ask->wanted = a->fetched != NULL;
}

static int fill_block(const char *call, char *block, const void *source, size_t n, bool gpu)
{
    if (!gpu) {
        memcpy(block, source, n);
        return SHMEMX_SUCCESS;
    }
    int rc = shmemi_gpu_copy(call, block, source, n, ucx.gpu->out);
    return rc ? rc : shmemi_gpu_sync_in_time(call, ucx.gpu->out);
}

int shmemi_ucx_gpu_put(const char *call, enum ucx_kind kind, int pe, int segment, uint64_t offset,
                       const void *source, size_t n, int word_segment, uint64_t word_offset,
                       const struct shmemi_amo *word, unsigned how)
{
    bool gpu = n && (shmemi_ucx_is_gpu(SHMEMI_SEGMENT_HOST, source) || shmemi_gpu_owns(source));
    size_t at = 0, part;
    int rc;
    do {
        part = n - at < UCX_PIECE ? n - at : UCX_PIECE;
        struct ucx_ask ask = {.segment = (uint8_t)segment, .offset = offset + at, .n = part};
        if (word && at + part == n)
            set_word(&ask, word_segment, word_offset, word);
        char *block = part ? shmemi_ucx_block(call, part) : NULL;
        rc = part && !block ? SHMEMX_ERR_SYSTEM : 0;
        if (rc == 0 && part && (rc = fill_block(call, block, (const char *)source + at, part, gpu)) != 0) {
            shmemi_ucx_lock();
            shmemi_ucx_give_block(block);
            shmemi_ucx_unlock();
        }
        if (rc == 0)
            rc = issue(call, kind, pe, &ask, block, NULL, shmemi_context(how));
        at += part;
    } while (rc == 0 && at < n);
    return rc;
}

int shmemi_ucx_gpu_get(const char *call, int pe, int segment, uint64_t offset, void *dest, size_t n,
                       unsigned how)
{
    bool gpu = shmemi_ucx_is_gpu(SHMEMI_SEGMENT_HOST, dest) || shmemi_gpu_owns(dest);
    uint64_t first = 0, last = 0;
    int rc = 0;
    for (size_t at = 0, part; at < n && rc == 0; at += part) {
        part = n - at < UCX_PIECE ? n - at : UCX_PIECE;
        struct ucx_ask ask = {.segment = (uint8_t)segment, .offset = offset + at, .n = part, .get = 1};
        struct ucx_want *want = new_want(call, (char *)dest + at, part, gpu);
        rc = want ? issue(call, UCX_GET, pe, &ask, NULL, want, shmemi_context(how)) : SHMEMX_ERR_SYSTEM;
        if (rc == 0)
            last = ask.number;
        first = first ? first : last;
    }
    if (last && (rc || !shmemi_nbi(how))) {
        int waited = wait_now(call, pe, first, last, shmemi_context(how));
        rc = rc ? rc : waited;
    }
    return rc;
}

int shmemi_ucx_gpu_amo(int pe, uint64_t offset, const struct shmemi_amo *a, unsigned how)
{
    static const char call[] = "shmem_atomic";
    struct ucx_ask ask = {0};
    set_word(&ask, SHMEMI_SEGMENT_DEVICE, offset, a);
    struct ucx_want *want = a->fetched ? new_want(call, a->fetched, a->size, false) : NULL;
    if (a->fetched && !want)
        return SHMEMX_ERR_SYSTEM;
    int rc = issue(call, UCX_AMO, pe, &ask, NULL, want, shmemi_context(how));
    return rc || !a->fetched || shmemi_nbi(how)
               ? rc
               : wait_now(call, pe, ask.number, ask.number, shmemi_context(how));
}

void shmemi_ucx_gpu_ping(int pe)
{
    struct ucx_peer *p = &ucx.peers[pe];
    struct ucx_mark none = {0};
    struct ucx_ask ask = {0};
    if (p->gpu.issued) /* never to a PE that may not have opened its GPU heap yet */
        (void)send_ask(p, &none, &ask, NULL);
}

/* ---- open and close ----------------------------------------------------------------------------------------------------------- */

int shmemi_ucx_gpu_open(const char *call)
{
    if (ucx.gpu)
        return SHMEMX_SUCCESS;
    struct ucx_gpu *g = calloc(1, sizeof *g);
    void *pinned = NULL;
    if (!g)
        return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "out of memory");
    int rc = shmemi_gpu_stream_create(call, &g->out);
    if (rc == 0)
        rc = shmemi_gpu_host_alloc(call, (size_t)UCX_PIECE * UCX_BLOCKS, &pinned);
    g->pinned = pinned;
    shmemi_ucx_lock();
    ucx.gpu = g;
    for (int i = 0; rc == 0 && i < UCX_BLOCKS; i++)
        shmemi_ucx_give_block(g->pinned + (size_t)i * UCX_PIECE);
    struct ucx_am_params params = {.mask = UCX_AM_ID | UCX_AM_CALL, .id = UCX_ANSWER_ID, .call = answered};
    ucx_status status = rc ? UCX_OK : ucx.u.am_handler(ucx.worker, &params);
    shmemi_ucx_unlock();
    if (status)
        rc = shmemi_fail(SHMEMX_ERR_SYSTEM, call, "UCX %s: active messages: %s", ucx.u.version(),
                         ucx.u.text(status));
    rc = rc ? rc : shmemi_ucx_serve_open(call);
    if (rc) {
        shmemi_ucx_gpu_close();
        shmemi_ucx_gpu_free();
    }
    return rc;
}

void shmemi_ucx_gpu_expose(uint64_t bytes)
{
    shmemi_ucx_serve_expose(bytes);
}

void shmemi_ucx_gpu_close(void)
{
    if (ucx.gpu)
        shmemi_ucx_serve_close();
}

void shmemi_ucx_gpu_free(void)
{
    struct ucx_gpu *g = ucx.gpu;
    if (!g)
        return;
    for (int pe = 0; pe < ucx.job->npes; pe++) {
        struct ucx_peer *p = &ucx.peers[pe];
        while (p->wants)
            shmemi_ucx_want_ended(p, p->wants);
        for (struct ucx_work *next; p->early; p->early = next) {
            next = p->early->next;
            shmemi_ucx_give_block(p->early->data);
            free(p->early);
        }
    }
    ucx.gpu = NULL;
    shmemi_gpu_stream_destroy(g->out);
    shmemi_gpu_host_free(g->pinned);
    free(g);
}
