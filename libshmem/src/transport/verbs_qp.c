/* Transport verbs: queue pairs, posting, completions. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "verbs.h"

static struct shmemi_verbs_lib const *lib;

/* ---- making and connecting ----------------------------------------------------------------------------- */

static unsigned power_below(unsigned n)
{
    unsigned p = 1;
    while (p * 2 <= n)
        p *= 2;
    return p;
}

static void drop(struct verbs_peer *p)
{
    if (p->qp)
        (void)lib->destroy_qp(p->qp);
    p->qp = NULL;
    free(p->ring);
    p->ring = NULL;
}

static struct ibv_qp *create_qp(unsigned inline_bytes, unsigned depth)
{
    struct ibv_qp_init_attr a = {
        .send_cq = shmemi_verbs.sent,
        .recv_cq = shmemi_verbs.received,
        .cap = {depth, VERBS_CREDITS, 1, 1, inline_bytes},
        .qp_type = IBV_QPT_RC,
    };
    return lib->create_qp(shmemi_verbs.pd, &a);
}

/* Not every device sends VERBS_INLINE bytes inline; the first queue pair finds out. */
static struct ibv_qp *create_first_qp(void)
{
    struct shmemi_verbs *v = &shmemi_verbs;
    struct ibv_qp *qp;
    for (v->inline_bytes = VERBS_INLINE; !(qp = create_qp(v->inline_bytes, v->depth)); v->inline_bytes /= 2)
        if (v->inline_bytes <= 32) /* a request of an atomic */
            return NULL;
    return qp;
}

int shmemi_verbs_qp_create(const char *call, struct verbs_peer *p, struct ibv_qp *qp)
{
    struct shmemi_verbs *v = &shmemi_verbs;
    p->landing = shmemi_verbs_landing(p->pe);
    p->ring = malloc(sizeof *p->ring * v->depth);
    p->qp = qp ? qp : create_qp(v->inline_bytes, v->depth);
    if (p->ring && p->qp)
        return SHMEMX_SUCCESS;
    int rc =
        p->ring
            ? shmemi_fail(SHMEMX_ERR_SYSTEM, call,
                          "%s cannot make a queue pair for PE %d of %d (%u requests, %u bytes inline): %s",
                          v->port.name, p->pe, v->job->npes, v->depth, v->inline_bytes, strerror(errno))
            : shmemi_fail(SHMEMX_ERR_SYSTEM, call, "out of memory for %d PEs", v->job->npes);
    drop(p);
    return rc;
}

int shmemi_verbs_qp_open(const char *call)
{
    struct shmemi_verbs *v = &shmemi_verbs;
    lib = v->lib;
    unsigned npes = (unsigned)v->job->npes, most = (unsigned)v->port.device.max_cqe;
    /* every posted request may complete at once, that of an error does: both queues must hold all of them */
    unsigned each = VERBS_WQES / npes < most / npes ? VERBS_WQES / npes : most / npes;
    if (each > (unsigned)v->port.device.max_qp_wr)
        each = (unsigned)v->port.device.max_qp_wr;
    if (each < VERBS_CREDITS)
        return shmemi_fail(SHMEMX_ERR_LIMIT, call,
                           "%u PEs are too many for %s: its completion queues hold %u entries", npes,
                           v->port.name, most);
    v->depth = power_below(each < VERBS_DEPTH ? each : VERBS_DEPTH);
    v->sent = lib->create_cq(v->port.context, (int)(v->depth * npes), NULL, NULL, 0);
    unsigned room = VERBS_CREDITS * npes + (v->lazy ? shmemi_verbs_hello_entries() : 0);
    v->received = v->channel ? lib->create_cq(v->port.context, (int)room, NULL, v->channel, 0) : NULL;
    if (!v->sent || !v->received)
        return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "%s cannot make completion queues of %u entries: %s",
                           v->port.name, v->depth * npes, strerror(errno));
    struct ibv_qp *first = create_first_qp();
    if (!first)
        return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "%s cannot make a queue pair of %u requests: %s",
                           v->port.name, v->depth, strerror(errno));
    for (unsigned pe = 0; pe < npes; ++pe)
        v->peers[pe].pe = (int)pe;
    if (v->lazy) {
        (void)lib->destroy_qp(first);
        return shmemi_verbs_hello_open(call);
    }
    int rc = shmemi_verbs_qp_create(call, &v->peers[0], first);
    for (unsigned pe = 1; pe < npes && rc == 0; ++pe)
        rc = shmemi_verbs_qp_create(call, &v->peers[pe], NULL);
    return rc;
}

void shmemi_verbs_qp_drop_idle(void)
{
    for (int pe = 0; pe < shmemi_verbs.job->npes; ++pe)
        if (!shmemi_verbs.peers[pe].reachable)
            drop(&shmemi_verbs.peers[pe]);
}

void shmemi_verbs_qp_close(void)
{
    struct shmemi_verbs *v = &shmemi_verbs;
    for (int pe = 0; v->peers && pe < v->job->npes; ++pe) {
        drop(&v->peers[pe]);
        free(v->peers[pe].why);
    }
    shmemi_verbs_hello_close();
    if (v->sent)
        (void)lib->destroy_cq(v->sent);
    if (v->received)
        (void)lib->destroy_cq(v->received);
    v->sent = v->received = NULL;
}

static int to_init(struct verbs_peer *p)
{
    struct ibv_qp_attr a = {
        .qp_state = IBV_QPS_INIT,
        .pkey_index = (uint16_t)shmemi_verbs.port.pkey_index,
        .port_num = shmemi_verbs.port.number,
        .qp_access_flags = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ |
                           (shmemi_verbs.native ? IBV_ACCESS_REMOTE_ATOMIC : 0),
    };
    return lib->modify_qp(p->qp, &a, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
}

/* Before a step is taken again: a queue pair that stopped half way holds receives. */
static void to_reset(struct verbs_peer *p)
{
    struct ibv_qp_attr a = {.qp_state = IBV_QPS_RESET};
    (void)lib->modify_qp(p->qp, &a, IBV_QP_STATE);
}

static uint8_t smaller(int a, int b)
{
    return (uint8_t)(a < b ? a : b);
}

static int to_receive(struct verbs_peer *p)
{
    const struct verbs_port *port = &shmemi_verbs.port;
    struct ibv_qp_attr a = {
        .qp_state = IBV_QPS_RTR,
        .path_mtu = (enum ibv_mtu)smaller(port->attr.active_mtu, p->card.mtu),
        .dest_qp_num = p->peer_qpn,
        .rq_psn = p->card.psn,
        .max_dest_rd_atomic = smaller(port->device.max_qp_rd_atom, 16),
        .min_rnr_timer = 12, /* 0.64 ms; never needed, a receive is always there */
        .ah_attr = shmemi_verbs_path(port, p->card.lid, p->card.gid),
    };
    return lib->modify_qp(p->qp, &a,
                          IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
                              IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER);
}

static int to_send(struct verbs_peer *p)
{
    struct ibv_qp_attr a = {
        .qp_state = IBV_QPS_RTS,
        .timeout = (uint8_t)shmemi_env.IB_TIMEOUT,
        .retry_cnt = (uint8_t)shmemi_env.IB_RETRY_COUNT,
        .rnr_retry = 7, /* for ever */
        .sq_psn = shmemi_verbs.psn,
        .max_rd_atomic = smaller(shmemi_verbs.port.device.max_qp_init_rd_atom, p->card.reads),
    };
    return lib->modify_qp(p->qp, &a,
                          IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
                              IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC);
}

int shmemi_verbs_qp_connect(const char *call, struct verbs_peer *p, uint32_t number)
{
    const struct shmemi_verbs *v = &shmemi_verbs;
    const struct verbs_card *card = &p->card;
    p->peer_qpn = number;
    p->peer_landing = card->landing + (uint64_t)v->job->me * VERBS_CREDITS * sizeof(struct verbs_landing);
    p->peer_landing_key = card->landing_key;
    const char *step = "initialize";
    int err = to_init(p);
    for (unsigned i = 0; i < VERBS_CREDITS && err == 0; ++i)
        err = shmemi_verbs_receive(p, i);
    bool reaches = err == 0;
    if (reaches) {
        step = "reach the peer (an address that the network does not resolve, a firewall, a VLAN?)";
        if ((err = to_receive(p)) == 0)
            step = "send", reaches = false, err = to_send(p);
    }
    if (err) {
        err = err > 0 ? err : errno;
        to_reset(p);
        /* the network asks for an address three times and gives up: a link that loses packets answers later */
        if (reaches && v->lazy && p->pe != v->job->me && (err == ETIMEDOUT || err == EHOSTUNREACH)) {
            shmemi_debug("verbs: queue pair %u cannot reach PE %d at %s yet: %s", p->qp->qp_num, p->pe,
                         card->port, strerror(err));
            return SHMEMX_ERR_TIMEOUT;
        }
        return shmemi_fail(SHMEMX_ERR_SYSTEM, call,
                           "%s: queue pair %u to PE %d at %s, queue pair %u cannot %s: %s", v->port.name,
                           p->qp->qp_num, p->pe, card->port, p->peer_qpn, step, strerror(err));
    }
    if (card->mtu != v->port.attr.active_mtu)
        shmemi_debug("verbs: PE %d's port has an MTU of %d, this one of %d: the smaller is used", p->pe,
                     128 << card->mtu, 128 << v->port.attr.active_mtu);
    p->connected = true;
    return SHMEMX_SUCCESS;
}

/* ---- errors -------------------------------------------------------------------------------------------- */

static const char *const doing[] = {
    [VERBS_WRITE] = "put",    [VERBS_READ] = "get",      [VERBS_REQUEST] = "request of an atomic",
    [VERBS_REPLY] = "answer", [VERBS_ATOMIC] = "atomic", [VERBS_PROBE] = "sign of life",
};

static const char *advice(int status)
{
    switch (status) {
    case IBV_WC_RETRY_EXC_ERR:
        return "it ended, or the link is down";
    case IBV_WC_RNR_RETRY_EXC_ERR:
        return "it does not take requests";
    case IBV_WC_REM_ACCESS_ERR:
    case IBV_WC_REM_INV_REQ_ERR:
    case IBV_WC_REM_OP_ERR:
        return "it is ending";
    case IBV_WC_LOC_PROT_ERR:
    case IBV_WC_LOC_LEN_ERR:
        return "local memory that is not registered, or no longer there";
    default:
        return "see the kernel's log";
    }
}

void shmemi_verbs_break(struct verbs_peer *p, int code, char *why)
{
    struct shmemi_verbs *v = &shmemi_verbs;
    p->broken = code;
    p->why = why;
    for (; p->done < p->posted; ++p->done, --v->wqes)
        if (p->ring[p->done & (v->depth - 1)].slot >= 0)
            shmemi_verbs_slot_give(p->ring[p->done & (v->depth - 1)].slot);
    v->amos -= p->amos - p->amos_done;
    p->amos_done = p->amos;
}

/* The first error of a queue pair is the cause; all later ones are its flushing. */
static void failed(struct verbs_peer *p, const struct ibv_wc *wc)
{
    const struct shmemi_verbs *v = &shmemi_verbs;
    uint64_t number = p->done + (uint32_t)((uint32_t)wc->wr_id - (uint32_t)p->done);
    const struct verbs_wqe *e = &p->ring[number & (v->depth - 1)];
    char *why = NULL;
    /* Peers register their memory for as long as they live. So a refusal comes from one that is being torn
     * down too. */
    bool ours = wc->status == IBV_WC_LOC_LEN_ERR || wc->status == IBV_WC_LOC_QP_OP_ERR ||
                wc->status == IBV_WC_LOC_PROT_ERR || wc->status == IBV_WC_FATAL_ERR;
    if (asprintf(&why, "%s (status %d, vendor 0x%x): %s of %u bytes at 0x%llx, queue pair %u to %u by %s; %s",
                 lib->wc_status_str(wc->status), (int)wc->status, wc->vendor_err, doing[e->what], e->bytes,
                 (unsigned long long)e->remote, p->qp->qp_num, p->peer_qpn, v->port.name,
                 advice(wc->status)) < 0)
        why = NULL;
    shmemi_verbs_break(p, ours ? SHMEMX_ERR_SYSTEM : SHMEMX_ERR_PEER_DEAD, why);
}

int shmemi_verbs_broken(const char *call, struct verbs_peer *p)
{
    return shmemi_fail(p->broken, call, "connection to PE %d lost: %s", p->pe,
                       p->why ? p->why : "(no memory)");
}

/* ---- completions --------------------------------------------------------------------------------------- */

static void complete(const struct verbs_wqe *e)
{
    if (e->slot < 0)
        return;
    if (e->dest)
        memcpy(e->dest, shmemi_verbs_slot(e->slot), e->bytes);
    shmemi_verbs_slot_give(e->slot);
}

/* An atomic by the NIC has left the old value where answers land. */
static void complete_atomic(struct verbs_peer *p)
{
    unsigned at = p->amos_done % VERBS_CREDITS;
    if (p->fetched[at])
        memcpy(p->fetched[at], &p->landing[at].value, 8);
    p->amos_done++;
    shmemi_verbs.amos--;
}

/* Requests of a queue pair complete in order: a completion speaks for all before it. */
static void retire(struct verbs_peer *p, uint32_t last)
{
    struct shmemi_verbs *v = &shmemi_verbs;
    for (uint32_t n = last + 1 - (uint32_t)p->done; n > 0; --n, ++p->done, --v->wqes) {
        const struct verbs_wqe *e = &p->ring[p->done & (v->depth - 1)];
        complete(e);
        if (e->what == VERBS_ATOMIC)
            complete_atomic(p);
    }
}

int shmemi_verbs_poll(void)
{
    struct shmemi_verbs *v = &shmemi_verbs;
    struct ibv_wc wc[16];
    int n, all = 0;
    if (v->wqes == 0)
        return 0;
    do {
        n = ibv_poll_cq(v->sent, 16, wc);
        for (int i = 0; i < n; ++i) {
            struct verbs_peer *p = &v->peers[wc[i].wr_id >> 32];
            if (SHMEMI_UNLIKELY(p->broken))
                continue;
            if (SHMEMI_LIKELY(wc[i].status == IBV_WC_SUCCESS))
                retire(p, (uint32_t)wc[i].wr_id);
            else
                failed(p, &wc[i]);
        }
        all += n > 0 ? n : 0;
    } while (n == 16);
    return all;
}

int shmemi_verbs_step(struct shmemi_wait *w, struct verbs_peer *p)
{
    uint64_t answered = p->amos_done;
    int news = shmemi_verbs_poll();
    shmemi_verbs_amo_collect(p);
    if (SHMEMI_UNLIKELY(p->broken))
        return shmemi_verbs_broken(w->call, p);
    if (news || p->amos_done != answered)
        return SHMEMX_SUCCESS;
    pthread_mutex_unlock(&shmemi_verbs.lock);
    int rc = shmemi_wait_step(w);
    pthread_mutex_lock(&shmemi_verbs.lock);
    return rc;
}

/* ---- posting ------------------------------------------------------------------------------------------- */

struct ibv_send_wr *shmemi_verbs_add(struct verbs_list *l, enum ibv_wr_opcode opcode, const void *local,
                                     size_t n, uint32_t lkey, uint64_t remote, uint32_t rkey,
                                     struct verbs_wqe wqe)
{
    struct verbs_peer *p = l->p;
    struct ibv_send_wr *wr = &l->wr[l->n];
    uint64_t number = p->posted + l->n;
    l->sge[l->n] = (struct ibv_sge){(uint64_t)(uintptr_t)local, (uint32_t)n, lkey};
    wqe.remote = remote;
    wqe.bytes = (uint32_t)n;
    p->ring[number & (shmemi_verbs.depth - 1)] = wqe;
    wr->wr_id = (uint64_t)p->pe << 32 | (uint32_t)number;
    wr->next = NULL;
    wr->sg_list = &l->sge[l->n];
    wr->num_sge = n > 0;
    wr->opcode = opcode;
    wr->send_flags = lkey == 0 && n ? IBV_SEND_INLINE : 0;
    wr->wr.rdma.remote_addr = remote;
    wr->wr.rdma.rkey = rkey;
    if (l->n)
        l->wr[l->n - 1].next = wr;
    l->n++;
    return wr;
}

int shmemi_verbs_post(const char *call, struct verbs_list *l)
{
    struct shmemi_verbs *v = &shmemi_verbs;
    struct verbs_peer *p = l->p;
    struct ibv_send_wr *bad;
    if (l->n == 0)
        return SHMEMX_SUCCESS;
    uint64_t end = p->posted + l->n;
    /* A completion for the first of a burst, so that a single one needs no more; then for a few of each
     * queue's depth. What has none is settled by a later one, at the latest by quiet's
     * (shmemi_verbs_nudge). */
    if (l->signal || p->posted == p->done || end - p->signalled >= v->depth / 4 || p->posted < p->mixed) {
        l->wr[l->n - 1].send_flags |= IBV_SEND_SIGNALED;
        p->signalled = end;
    }
    p->posted = end;
    if (l->mark)
        l->mark->posted = end;
    v->wqes += l->n;
    unsigned n = l->n;
    l->n = 0;
    int err = ibv_post_send(p->qp, l->wr, &bad);
    if (SHMEMI_LIKELY(err == 0))
        return SHMEMX_SUCCESS;
    char *why = NULL;
    if (asprintf(&why, "%s does not take request %u of %u for queue pair %u: %s", v->port.name,
                 (unsigned)(bad - l->wr), n, p->qp->qp_num, strerror(err > 0 ? err : errno)) < 0)
        why = NULL;
    shmemi_verbs_break(p, SHMEMX_ERR_SYSTEM, why);
    return shmemi_verbs_broken(call, p);
}

int shmemi_verbs_end(struct verbs_list *l, int rc)
{
    for (; SHMEMI_UNLIKELY(rc != 0) && l->n; --l->n) {
        int slot = l->p->ring[(l->p->posted + l->n - 1) & (shmemi_verbs.depth - 1)].slot;
        if (slot >= 0)
            shmemi_verbs_slot_give(slot);
    }
    pthread_mutex_unlock(&shmemi_verbs.lock);
    return rc;
}

int shmemi_verbs_room(const char *call, struct verbs_list *l)
{
    struct verbs_peer *p = l->p;
    int rc = SHMEMX_SUCCESS;
    if (SHMEMI_UNLIKELY(l->n == VERBS_LIST) && (rc = shmemi_verbs_post(call, l)) != 0)
        return rc;
    if (SHMEMI_LIKELY(p->posted + l->n - p->done < shmemi_verbs.depth))
        return rc;
    if ((rc = shmemi_verbs_post(call, l)) != 0)
        return rc;
    struct shmemi_wait w = SHMEMI_WAIT_FOR(call, p->pe, NULL);
    while (p->posted - p->done >= shmemi_verbs.depth && rc == 0)
        rc = shmemi_verbs_step(&w, p);
    return rc;
}

struct verbs_mark *shmemi_verbs_mark(struct verbs_peer *p, unsigned context)
{
    if (SHMEMI_LIKELY(context == SHMEMI_CONTEXT_DEFAULT))
        return &p->own;
    struct verbs_mark *marks = shmemi_verbs.marks[context];
    return marks ? &marks[p->pe] : NULL;
}

/* Another context issues. A quiet of the one before needs a completion that does not come behind this one's requests: its
 * last request gets one now, and where they go on to take turns each of theirs has one, which costs less. */
static int take_turn(const char *call, struct verbs_list *l, unsigned context)
{
    struct verbs_peer *p = l->p;
    p->owner = context;
    p->mixed = p->posted + shmemi_verbs.depth / 4;
    if (p->signalled == p->posted)
        return SHMEMX_SUCCESS;
    int rc = shmemi_verbs_room(call, l);
    return rc ? rc : shmemi_verbs_nudge(p, false);
}

int shmemi_verbs_begin(const char *call, struct verbs_list *l, int pe, unsigned how)
{
    struct shmemi_verbs *v = &shmemi_verbs;
    struct verbs_peer *p = &v->peers[pe];
    unsigned context = shmemi_context(how);
    int rc = SHMEMX_SUCCESS;
    l->p = p;
    l->n = 0;
    l->signal = false;
    pthread_mutex_lock(&v->lock);
    if (SHMEMI_UNLIKELY(p->broken))
        return shmemi_verbs_broken(call, p);
    if (SHMEMI_UNLIKELY(!p->ready) && (rc = shmemi_verbs_reach(call, p)) != 0)
        return rc;
    l->mark = shmemi_verbs_mark(p, context);
    if (SHMEMI_UNLIKELY(!l->mark)) {
        v->marks[context] = calloc((size_t)v->job->npes, sizeof *l->mark);
        if (!(l->mark = shmemi_verbs_mark(p, context)))
            return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "out of memory for %d PEs", v->job->npes);
    }
    return SHMEMI_LIKELY(p->owner == context) ? rc : take_turn(call, l, context);
}

/* A write of no bytes: it needs no key, and is complete when the peer's NIC has answered. */
int shmemi_verbs_nudge(struct verbs_peer *p, bool always)
{
    if ((p->signalled == p->posted && !always) || p->posted - p->done >= shmemi_verbs.depth)
        return SHMEMX_SUCCESS;
    struct verbs_list l = {.p = p, .signal = true};
    shmemi_verbs_add(&l, IBV_WR_RDMA_WRITE, NULL, 0, 0, 0, 0,
                     (struct verbs_wqe){.slot = -1, .what = VERBS_PROBE});
    return shmemi_verbs_post("shmem_quiet", &l);
}
