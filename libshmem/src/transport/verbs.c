/* Transport verbs: RDMA over InfiniBand and RoCE, between nodes. The slots of the contract.
 *
 * A put is one or several RDMA writes: small ones carry their bytes in the work request; from registered
 * memory (the heap, users' buffers) the NIC reads them itself; all others are copied to bounce slots, so
 * that a blocking put returns once the bytes are there. One queue pair a peer keeps writes and requests of
 * atomics in order, so a fence is free, but for atomics that the target's processor executes: what follows
 * a fence waits for their answers. */
#define _GNU_SOURCE
#include "verbs.h"

#include <errno.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "shmem.h"
#include "shmemx.h"

enum { CARD_VERSION = 2 };
/* Peers without news are asked for a sign of life, some at a time, from waits. */
enum { PROBES = 64 };
static const double PROBE_SECONDS = 1;
/* The last requests (a barrier's) are given this long to arrive before their queue pairs go. */
static const double DRAIN_SECONDS = 10;

struct shmemi_verbs shmemi_verbs = {.lock = PTHREAD_MUTEX_INITIALIZER};
static double next_probe;
static int first_probe;

/* ---- opening ------------------------------------------------------------------------------------------- */

static int verbs_probe(char *why, size_t n)
{
    struct verbs_port port;
    if (!shmemi_verbs_choose(&port, 0, NULL, why, n))
        return 0;
    (void)shmemi_verbs_lib(why, n)->close_device(port.context);
    return 1;
}

static void release(void)
{
    struct shmemi_verbs *v = &shmemi_verbs;
    shmemi_verbs_amo_close();
    shmemi_verbs_qp_close();
    shmemi_verbs_memory_close();
    if (v->channel)
        (void)v->lib->destroy_comp_channel(v->channel);
    if (v->pd)
        (void)v->lib->dealloc_pd(v->pd);
    if (v->port.context)
        (void)v->lib->close_device(v->port.context);
    free(v->peers);
    for (int i = 0; i < SHMEMI_CONTEXTS; ++i)
        free(v->marks[i]);
    *v = (struct shmemi_verbs){.lock = PTHREAD_MUTEX_INITIALIZER};
}

static int choose_atomics(const char *call)
{
    struct shmemi_verbs *v = &shmemi_verbs;
    v->native = strcmp(shmemi_env.IB_ATOMICS, "native") == 0;
    if (v->native && v->port.device.atomic_cap == IBV_ATOMIC_NONE)
        return shmemi_fail(SHMEMX_ERR_UNSUPPORTED, call,
                           "SHMEM_IB_ATOMICS=native: %s has no atomics; SHMEM_IB_ATOMICS=target does without",
                           v->port.name);
    return SHMEMX_SUCCESS;
}

static int set_up(const char *call)
{
    struct shmemi_verbs *v = &shmemi_verbs;
    int rc;
    if ((rc = shmemi_verbs_settings(call, &v->port)) != 0 || (rc = choose_atomics(call)) != 0)
        return rc;
    v->lazy = strcmp(shmemi_env.IB_CONNECT, "lazy") == 0 ||
              (strcmp(shmemi_env.IB_CONNECT, "auto") == 0 && v->job->npes > VERBS_EAGER);
    v->max_message = v->port.attr.max_msg_sz;
    if (getrandom(&v->psn, sizeof v->psn, 0) != sizeof v->psn)
        v->psn = (uint32_t)(uintptr_t)v->port.context;
    v->psn &= 0xffffff;
    v->peers = calloc((size_t)v->job->npes, sizeof *v->peers);
    v->pd = v->lib->alloc_pd(v->port.context);
    v->channel = v->lib->create_comp_channel(v->port.context);
    if (!v->peers || !v->pd || !v->channel)
        return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "%s: %s", v->port.name, strerror(errno));
    if ((rc = shmemi_verbs_memory_open(call)) != 0 || (rc = shmemi_verbs_qp_open(call)) != 0)
        return rc;
    return shmemi_verbs_amo_open(call);
}

static int verbs_open(const struct shmemi_job *job)
{
    const char *call = "shmem_init";
    struct shmemi_verbs *v = &shmemi_verbs;
    char why[400];
    v->job = job;
    if (!shmemi_verbs_choose(&v->port, job->local_of[job->me], NULL, why, sizeof why)) {
        release();
        return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "%s", why);
    }
    v->lib = shmemi_verbs_lib(why, 0);
    shmemi_debug("verbs: %s", why);
    int rc = set_up(call);
    if (rc)
        release();
    return rc;
}

static int verbs_owns_atomics(void)
{
    return shmemi_verbs.native;
}

static size_t card_bytes(bool lazy)
{
    return sizeof(struct verbs_card) + (lazy ? 0 : sizeof(uint32_t) * (size_t)shmemi_verbs.job->npes);
}

static int verbs_address(void *card, size_t room)
{
    const struct shmemi_verbs *v = &shmemi_verbs;
    struct verbs_card *c = card;
    size_t bytes = card_bytes(v->lazy);
    if (room < bytes)
        return shmemi_fail(SHMEMX_ERR_LIMIT, "shmem_init",
                           "the card for %d PEs has %zu bytes, %zu are possible", v->job->npes, bytes, room);
    *c = (struct verbs_card){
        .version = CARD_VERSION,
        .psn = v->psn,
        .landing = (uint64_t)(uintptr_t)shmemi_verbs_landing(0),
        .landing_key = shmemi_verbs_landing_key(true),
        .max_message = v->max_message,
        .lid = v->port.attr.lid,
        .roce = (uint8_t)v->port.roce,
        .mtu = (uint8_t)v->port.attr.active_mtu,
        .reads = (uint8_t)(v->port.device.max_qp_rd_atom < 16 ? v->port.device.max_qp_rd_atom : 16),
        .native = v->native,
        .lazy = v->lazy,
        .hello_qpn = shmemi_verbs_hello_number(),
    };
    memcpy(c->gid, v->port.gid.raw, sizeof c->gid);
    snprintf(c->port, sizeof c->port, "%.23s", v->port.name);
    for (int pe = 0; pe < v->job->npes && !v->lazy; ++pe)
        ((uint32_t *)(c + 1))[pe] = v->peers[pe].qp->qp_num;
    return (int)bytes;
}

/* Two ports that cannot talk, or PEs that do not want the same. */
static int check_card(const char *call, int pe, const struct verbs_card *c)
{
    const struct shmemi_verbs *v = &shmemi_verbs;
    if (c->native != v->native)
        return shmemi_fail(SHMEMX_ERR_MISMATCH, call,
                           "PE %d has SHMEM_IB_ATOMICS=%s, this PE %s: they must be the same", pe,
                           c->native ? "native" : "target", v->native ? "native" : "target");
    if (c->lazy != v->lazy)
        return shmemi_fail(SHMEMX_ERR_MISMATCH, call,
                           "PE %d has SHMEM_IB_CONNECT=%s, this PE %s: they must be the same", pe,
                           c->lazy ? "lazy" : "eager", v->lazy ? "lazy" : "eager");
    if (!c->roce != !v->port.roce)
        return shmemi_fail(SHMEMX_ERR_MISMATCH, call,
                           "PE %d uses %s, which is %s, this PE %s, which is %s: SHMEM_HCA_LIST chooses", pe,
                           c->port, c->roce ? "RoCE" : "InfiniBand", v->port.name,
                           v->port.roce ? "RoCE" : "InfiniBand");
    bool theirs = IN6_IS_ADDR_V4MAPPED((const struct in6_addr *)c->gid);
    bool ours = IN6_IS_ADDR_V4MAPPED((const struct in6_addr *)v->port.gid.raw);
    if (c->roce && (c->roce != v->port.roce || theirs != ours))
        return shmemi_fail(SHMEMX_ERR_MISMATCH, call,
                           "PE %d's GID at %s is RoCE v%d, IPv%d, this PE's at %s RoCE v%d, IPv%d: "
                           "SHMEM_IB_GID_INDEX chooses",
                           pe, c->port, c->roce, theirs ? 4 : 6, v->port.name, v->port.roce, ours ? 4 : 6);
    return SHMEMX_SUCCESS;
}

static int verbs_connect(int pe, int segment, const void *card, size_t n)
{
    const char *call = "shmem_init";
    struct shmemi_verbs *v = &shmemi_verbs;
    struct verbs_peer *p = &v->peers[pe];
    const struct verbs_card *c = card;
    if (!p->qp && !v->lazy)
        return 0;
    /* the target's processor, which executes atomics unless the NIC does, cannot touch GPU memory */
    if (segment == SHMEMI_SEGMENT_DEVICE && (!v->native || !v->job->segments[segment].base))
        return 0;
    if (p->reachable)
        return 1;
    if (n < sizeof *c || c->version != CARD_VERSION || n != card_bytes(c->lazy))
        return shmemi_fail(SHMEMX_ERR_MISMATCH, call,
                           "PE %d runs another version of libshmem (card of %zu bytes)", pe, n);
    int rc = check_card(call, pe, c);
    if (rc)
        return rc;
    if (c->max_message < v->max_message)
        v->max_message = c->max_message;
    pthread_mutex_lock(&v->lock);
    memcpy(&p->card, c, sizeof p->card);
    rc = v->lazy ? SHMEMX_SUCCESS : shmemi_verbs_qp_connect(call, p, ((const uint32_t *)(c + 1))[v->job->me]);
    p->reachable = rc == 0;
    p->ready = p->connected; /* the peer does the same before it uses it */
    pthread_mutex_unlock(&v->lock);
    return rc ? rc : 1;
}

/* A queue pair takes what is still on its way along. */
static void drain(void)
{
    struct shmemi_verbs *v = &shmemi_verbs;
    double until = shmemi_now() + DRAIN_SECONDS;
    pthread_mutex_lock(&v->lock);
    while (v->wqes && shmemi_now() < until) {
        for (int pe = 0; pe < v->job->npes; ++pe)
            if (v->peers[pe].connected && !v->peers[pe].broken)
                (void)shmemi_verbs_nudge(&v->peers[pe], false);
        if (shmemi_verbs_poll() == 0) {
            pthread_mutex_unlock(&v->lock);
            sched_yield();
            pthread_mutex_lock(&v->lock);
        }
    }
    pthread_mutex_unlock(&v->lock);
}

static void verbs_close(void)
{
    drain();
    release();
}

/* ---- puts and gets ------------------------------------------------------------------------------------- */

/* As shmemi_verbs_begin, and behind what the context's last fence put in front. */
static int begin(const char *call, struct verbs_list *l, int pe, unsigned how)
{
    int rc = shmemi_verbs_begin(call, l, pe, how);
    struct verbs_peer *p = l->p;
    if (SHMEMI_UNLIKELY(rc != 0) || SHMEMI_LIKELY(p->amos_done >= l->mark->fence))
        return rc;
    struct shmemi_wait w = SHMEMI_WAIT_FOR(call, pe, NULL);
    shmemi_verbs_amo_collect(p);
    while (p->amos_done < l->mark->fence && rc == 0)
        rc = shmemi_verbs_step(&w, p);
    return rc;
}

/* Waits until the peer's first `done` requests are complete. */
static int wait_for(const char *call, struct verbs_peer *p, uint64_t done)
{
    struct shmemi_wait w = SHMEMI_WAIT_FOR(call, p->pe, NULL);
    int rc = SHMEMX_SUCCESS;
    while (p->done < done && rc == 0)
        rc = shmemi_verbs_step(&w, p);
    return rc;
}

static int take_slot(const char *call, struct verbs_list *l, int *slot)
{
    *slot = shmemi_verbs_slot_take();
    if (SHMEMI_LIKELY(*slot >= 0))
        return SHMEMX_SUCCESS;
    int rc = shmemi_verbs_post(call, l);
    struct shmemi_wait w = SHMEMI_WAIT_FOR(call, l->p->pe, NULL);
    /* every list with a slot has a completion coming */
    while (rc == 0 && (*slot = shmemi_verbs_slot_take()) < 0)
        rc = shmemi_verbs_step(&w, l->p);
    return rc;
}

/* The part of a transfer that one work request moves. */
struct piece {
    uint64_t remote;
    uint32_t rkey, lkey;
    size_t n;
    bool local; /* the local side is registered */
    bool gpu;   /* and is GPU memory, which the processor must not touch */
};

static int find_piece(const char *call, const struct verbs_list *l, int segment, uint64_t offset,
                      const void *local, size_t n, struct piece *x)
{
    x->n = n < shmemi_verbs.max_message ? n : shmemi_verbs.max_message;
    int rc = shmemi_verbs_remote(call, l->p->pe, segment, offset, &x->n, &x->remote, &x->rkey);
    if (SHMEMI_LIKELY(rc == 0))
        x->local = shmemi_verbs_local(local, &x->n, &x->lkey, &x->gpu);
    return rc;
}

/* Adds the writes of a put. *wait: the NIC still reads `source` after they are posted, and it is not nbi. */
static int add_put(const char *call, struct verbs_list *l, int segment, uint64_t offset, const void *source,
                   size_t n, bool nbi, bool *wait)
{
    struct verbs_wqe wqe = {.slot = -1, .what = VERBS_WRITE};
    int rc = SHMEMX_SUCCESS;
    l->signal |= !nbi;
    for (const char *from = source; n > 0 && rc == 0;) {
        struct piece x;
        int slot = -1;
        if ((rc = find_piece(call, l, segment, offset, from, n, &x)) != 0)
            return rc;
        const void *bytes = from;
        bool copy = !x.local || (!nbi && !x.gpu && n <= VERBS_SLOT_BYTES);
        if (x.n <= shmemi_verbs.inline_bytes && !x.gpu) {
            x.lkey = 0;
        } else if (copy) {
            x.n = x.n < VERBS_SLOT_BYTES ? x.n : VERBS_SLOT_BYTES;
            if ((rc = take_slot(call, l, &slot)) != 0)
                return rc;
            bytes = memcpy(shmemi_verbs_slot(slot), from, x.n);
            x.lkey = shmemi_verbs_slot_key();
            l->signal = true;
        } else {
            *wait |= !nbi;
        }
        wqe.slot = (int16_t)slot;
        if ((rc = shmemi_verbs_room(call, l)) != 0) {
            if (slot >= 0)
                shmemi_verbs_slot_give(slot);
            return rc;
        }
        shmemi_verbs_add(l, IBV_WR_RDMA_WRITE, bytes, x.n, x.lkey, x.remote, x.rkey, wqe);
        from += x.n;
        offset += x.n;
        n -= x.n;
    }
    return rc;
}

static int verbs_put(int pe, int segment, uint64_t offset, const void *source, size_t n, unsigned how)
{
    bool nbi = shmemi_nbi(how);
    const char *call = nbi ? "shmem_put_nbi" : "shmem_put";
    struct verbs_list l;
    bool wait = false;
    int rc = begin(call, &l, pe, how);
    if (rc || (rc = add_put(call, &l, segment, offset, source, n, nbi, &wait)) != 0 ||
        (rc = shmemi_verbs_post(call, &l)) != 0)
        return shmemi_verbs_end(&l, rc);
    return shmemi_verbs_end(&l, wait ? wait_for(call, l.p, l.p->posted) : 0);
}

/* The bytes that are still to come to `dest` have nowhere to go any more. */
static void forget(struct verbs_peer *p, uint64_t from)
{
    for (uint64_t i = from > p->done ? from : p->done; i < p->posted; ++i)
        p->ring[i & (shmemi_verbs.depth - 1)].dest = NULL;
}

static int verbs_get(int pe, int segment, uint64_t offset, void *dest, size_t n, unsigned how)
{
    bool nbi = shmemi_nbi(how);
    const char *call = nbi ? "shmem_get_nbi" : "shmem_get";
    struct verbs_list l;
    int rc = begin(call, &l, pe, how);
    uint64_t first = l.p->posted;
    l.signal = !nbi;
    for (char *to = dest; n > 0 && rc == 0;) {
        struct piece x;
        int slot = -1;
        if ((rc = find_piece(call, &l, segment, offset, to, n, &x)) != 0)
            break;
        struct verbs_wqe wqe = {.dest = to, .slot = -1, .what = VERBS_READ};
        const void *bytes = to;
        if (!x.local) {
            x.n = x.n < VERBS_SLOT_BYTES ? x.n : VERBS_SLOT_BYTES;
            if ((rc = take_slot(call, &l, &slot)) != 0)
                break;
            bytes = shmemi_verbs_slot(slot);
            x.lkey = shmemi_verbs_slot_key();
            wqe.slot = (int16_t)slot;
            l.signal = true;
        }
        if ((rc = shmemi_verbs_room(call, &l)) != 0) {
            if (slot >= 0)
                shmemi_verbs_slot_give(slot);
            break;
        }
        shmemi_verbs_add(&l, IBV_WR_RDMA_READ, bytes, x.n, x.lkey, x.remote, x.rkey, wqe);
        to += x.n;
        offset += x.n;
        n -= x.n;
    }
    if (rc == 0 && (rc = shmemi_verbs_post(call, &l)) == 0 && !nbi)
        rc = wait_for(call, l.p, l.p->posted);
    if (rc)
        forget(l.p, first);
    return shmemi_verbs_end(&l, rc);
}

static int verbs_put_signal(int pe, int segment, uint64_t offset, const void *source, size_t n,
                            int sig_segment, uint64_t sig_offset, uint64_t signal, int sig_op, unsigned how)
{
    bool nbi = shmemi_nbi(how);
    const char *call = nbi ? "shmem_put_signal_nbi" : "shmem_put_signal";
    struct verbs_list l;
    char request[VERBS_REQUEST_BYTES];
    bool wait = false, unused;
    int rc = begin(call, &l, pe, how);
    if (rc == 0 && n)
        rc = add_put(call, &l, segment, offset, source, n, nbi, &wait);
    /* the same queue pair carries the signal: it arrives behind the bytes */
    struct shmemi_amo add = {.op = SHMEMX_AMO_ADD, .size = 8, .value = signal};
    if (rc == 0)
        rc = sig_op == SHMEM_SIGNAL_SET
                 ? add_put(call, &l, sig_segment, sig_offset, &signal, sizeof signal, nbi, &unused)
                 : shmemi_verbs_amo_add(call, &l, sig_segment, sig_offset, &add, request);
    if (rc || (rc = shmemi_verbs_post(call, &l)) != 0)
        return shmemi_verbs_end(&l, rc);
    return shmemi_verbs_end(&l, wait ? wait_for(call, l.p, l.p->posted) : 0);
}

/* ---- order and completion ------------------------------------------------------------------------------ */

/* A completion is on its way that comes behind a context's last request. */
static int see_to(struct verbs_peer *p, uint64_t posted)
{
    return p->signalled < posted ? shmemi_verbs_nudge(p, false) : SHMEMX_SUCCESS;
}

static int quiet_peer(const char *call, struct verbs_peer *p, unsigned context)
{
    struct shmemi_wait w = SHMEMI_WAIT_FOR(call, p->pe, NULL);
    const struct verbs_mark *mark = shmemi_verbs_mark(p, context);
    if (!mark || (mark != &p->own && mark->posted == 0))
        return SHMEMX_SUCCESS;                         /* a lost peer is not its business */
    uint64_t posted = mark->posted, amos = mark->amos; /* other threads may go on with it */
    int rc = SHMEMX_SUCCESS;
    shmemi_verbs_amo_collect(p);
    while ((p->done < posted || p->amos_done < amos) && rc == 0)
        if ((rc = see_to(p, posted)) == 0)
            rc = shmemi_verbs_step(&w, p);
    if (p->broken && !p->told) {
        rc = rc ? rc : shmemi_verbs_broken(call, p);
        p->told = true;
    }
    return rc;
}

/* What processors execute is waited for by the next put (begin). Of the NICs' atomics those to PEs that
 * are put to by other ways, the ones of this node, must be over; a queue pair keeps the rest in order. */
static int verbs_fence(int pe, unsigned context)
{
    struct shmemi_verbs *v = &shmemi_verbs;
    int rc = SHMEMX_SUCCESS;
    pthread_mutex_lock(&v->lock);
    for (int i = pe < 0 ? 0 : pe; v->amos && i < (pe < 0 ? v->job->npes : pe + 1) && rc == 0; ++i) {
        struct verbs_mark *mark = shmemi_verbs_mark(&v->peers[i], context);
        if (!v->native && mark)
            mark->fence = mark->amos;
        else if (v->native && v->job->local_of[i] >= 0)
            rc = quiet_peer("shmem_fence", &v->peers[i], context);
    }
    pthread_mutex_unlock(&v->lock);
    return rc;
}

static int verbs_quiet(int pe, unsigned context)
{
    const char *call = "shmem_quiet";
    struct shmemi_verbs *v = &shmemi_verbs;
    int first = pe < 0 ? 0 : pe, last = pe < 0 ? v->job->npes : pe + 1, result = SHMEMX_SUCCESS;
    pthread_mutex_lock(&v->lock);
    for (int i = first; i < last; ++i) { /* all at once, then one after the other */
        const struct verbs_mark *mark = shmemi_verbs_mark(&v->peers[i], context);
        if (mark)
            (void)see_to(&v->peers[i], mark->posted);
    }
    for (int i = first; i < last; ++i) {
        int rc = quiet_peer(call, &v->peers[i], context);
        result = result ? result : rc;
    }
    pthread_mutex_unlock(&v->lock);
    return result;
}

static bool verbs_progress(void)
{
    struct shmemi_verbs *v = &shmemi_verbs;
    if (pthread_mutex_trylock(&v->lock) != 0)
        return false; /* whoever has it does the same */
    bool moved = shmemi_verbs_poll() > 0;
    if (!v->native || v->lazy)
        moved |= shmemi_verbs_amo_serve() > 0;
    v->looks++;
    pthread_mutex_unlock(&v->lock);
    return moved;
}

/* A peer that owes nothing and died is only found by asking: its NIC no longer answers for it. */
static void ask_for_life(void)
{
    struct shmemi_verbs *v = &shmemi_verbs;
    double now = shmemi_now();
    if (now < next_probe)
        return;
    next_probe = now + PROBE_SECONDS;
    int npes = v->job->npes, asked = 0;
    for (int i = 0; i < npes && asked < PROBES; ++i) {
        struct verbs_peer *p = &v->peers[(first_probe + i) % npes];
        if (!p->reachable || p->broken || p->pe == v->job->me || p->signalled > p->done)
            continue; /* or news is on its way */
        if (p->connected)
            (void)shmemi_verbs_nudge(p, true);
        else
            shmemi_verbs_ask_unconnected(p);
        asked++;
    }
    first_probe = (first_probe + asked) % npes;
}

static int verbs_lost(char *why, size_t n)
{
    struct shmemi_verbs *v = &shmemi_verbs;
    int pe = -1;
    if (pthread_mutex_trylock(&v->lock) != 0)
        return -1;
    (void)shmemi_verbs_poll();
    ask_for_life();
    for (int i = 0; i < v->job->npes && pe < 0; ++i)
        if (v->peers[i].broken) {
            snprintf(why, n, "%s", v->peers[i].why ? v->peers[i].why : "(no memory for the cause)");
            pe = i;
        }
    pthread_mutex_unlock(&v->lock);
    return pe;
}

const struct shmemi_transport shmemi_transport_verbs = {
    .name = "verbs",
    .probe = verbs_probe,
    .open = verbs_open,
    .address = verbs_address,
    .connect = verbs_connect,
    .expose = shmemi_verbs_expose,
    .learn = shmemi_verbs_learn,
    .close = verbs_close,
    .put = verbs_put,
    .get = verbs_get,
    .amo = shmemi_verbs_amo,
    .owns_atomics = verbs_owns_atomics,
    .put_signal = verbs_put_signal,
    .fence = verbs_fence,
    .quiet = verbs_quiet,
    .buffer_register = shmemi_verbs_buffer_register,
    .buffer_unregister = shmemi_verbs_buffer_unregister,
    .progress = verbs_progress,
    .lost = verbs_lost,
};
