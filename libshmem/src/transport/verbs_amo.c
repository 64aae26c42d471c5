/* Transport verbs: atomics. The PEs of a node use the processor's, and a NIC's are not atomic against
 * those; so all go one way. By default that is the target's processor: a request arrives as a message,
 * whichever thread of the target is at hand executes it (one that waits in the library, else the service
 * thread), and the answer is written where the requester looks. With SHMEM_IB_ATOMICS=native every atomic
 * of the job goes through the NICs, this PE's on its own memory too. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "amo_cpu.h"
#include "verbs.h"

struct request {
    uint64_t sequence, offset, value, cond;
    uint8_t op, size, segment, fetch;
};

/* ---- the target ---------------------------------------------------------------------------------------- */

/* After its last request the service thread looks for more before it sleeps: who asks once asks again, and
 * waking it costs 5 us on idle hardware, 50 us and more in a busy virtual machine. Where another thread
 * served the request it does not look: that one does. */
static const double LINGER = 100e-6;
/* A thread of this PE that waits in the library serves all requests itself, and an event for each of them
 * would only take its processor away (soft-RoCE, 2 emulated processors: a fetch-add took 64 us, without
 * events 46). Then the service thread asks for none, and looks this often whether the other still waits: every
 * 0.8 ms put and quiet took 45.9 us instead of 46.4 there, which is not worth an answer that comes later. */
static const struct timespec NAP = {.tv_nsec = 200000};

static struct {
    pthread_t thread;
    bool running;
    int stop; /* eventfd */
} service = {.stop = -1};

static uint64_t execute(const struct verbs_peer *p, const struct request *r)
{
    const struct shmemi_verbs *v = &shmemi_verbs;
    uint64_t old = 0;
    struct shmemi_amo a = {r->op, r->size, r->value, r->cond, r->fetch ? &old : NULL};
    if (r->segment == SHMEMI_SEGMENT_HOST && r->offset + r->size <= v->chunks[r->segment].end)
        shmemi_amo_cpu(v->job->segments[r->segment].base + r->offset, &a);
    else
        shmemi_warn("verbs: PE %d asks for an atomic at offset %llu, which is no memory of this PE", p->pe,
                    (unsigned long long)r->offset);
    return old;
}

/* Room for an answer. It needs nothing but the NICs: requests, which could keep a queue full, always find
 * a receive. */
static bool room_for_answer(struct verbs_list *l)
{
    struct verbs_peer *p = l->p;
    if (l->n < VERBS_LIST && p->posted + l->n - p->done < shmemi_verbs.depth)
        return true;
    if (shmemi_verbs_post("answer an atomic", l) != 0)
        return false;
    while (!p->broken && p->posted - p->done >= shmemi_verbs.depth)
        if (shmemi_verbs_poll() == 0)
            sched_yield();
    return !p->broken;
}

int shmemi_verbs_amo_serve(void)
{
    struct shmemi_verbs *v = &shmemi_verbs;
    struct ibv_wc wc[VERBS_LIST];
    struct verbs_landing answers[VERBS_LIST];
    struct verbs_list l;
    int n = ibv_poll_cq(v->received, VERBS_LIST, wc);
    l.n = 0;
    l.mark = NULL;
    for (int i = 0; i < n; ++i) {
        if (wc[i].wr_id >> 32 == (uint64_t)v->job->npes) {
            if (wc[i].status == IBV_WC_SUCCESS)
                shmemi_verbs_heard((uint32_t)wc[i].wr_id, wc[i].byte_len);
            continue;
        }
        struct verbs_peer *p = &v->peers[wc[i].wr_id >> 32];
        if (wc[i].status != IBV_WC_SUCCESS || p->broken)
            continue; /* the sending side knows the cause */
        struct request r;
        memcpy(&r, shmemi_verbs_received(p, (uint32_t)wc[i].wr_id), sizeof r);
        if (l.n && l.p != p)
            (void)shmemi_verbs_post("answer an atomic", &l);
        l.p = p;
        l.signal = false;
        answers[i] = (struct verbs_landing){execute(p, &r), r.sequence};
        /* the receive first: after the answer the peer may send again */
        if (shmemi_verbs_receive(p, (uint32_t)wc[i].wr_id) != 0 || !room_for_answer(&l))
            continue;
        uint64_t at = (r.sequence - 1) % VERBS_CREDITS * sizeof(struct verbs_landing);
        shmemi_verbs_add(&l, IBV_WR_RDMA_WRITE, &answers[i], sizeof answers[i], 0, p->peer_landing + at,
                         p->peer_landing_key, (struct verbs_wqe){.slot = -1, .what = VERBS_REPLY});
    }
    if (l.n)
        (void)shmemi_verbs_post("answer an atomic", &l); /* whoever waits for this peer next gets the error */
    return n > 0 ? n : 0;
}

static int serve(bool arm)
{
    struct shmemi_verbs *v = &shmemi_verbs;
    pthread_mutex_lock(&v->lock);
    if (arm)
        (void)ibv_req_notify_cq(v->received, 0);
    int n = shmemi_verbs_amo_serve();
    pthread_mutex_unlock(&v->lock);
    return n;
}

static uint64_t looks(void)
{
    struct shmemi_verbs *v = &shmemi_verbs;
    pthread_mutex_lock(&v->lock);
    uint64_t n = v->looks;
    pthread_mutex_unlock(&v->lock);
    return n;
}

/* Sleeps until no other thread looks for requests any more, or the thread shall stop. */
static void leave_to_others(uint64_t seen)
{
    struct pollfd stop = {service.stop, POLLIN, 0};
    for (uint64_t now; (now = looks()) != seen; seen = now)
        if (ppoll(&stop, 1, &NAP, NULL) != 0)
            return;
}

static void *serve_until_stopped(void *unused)
{
    struct shmemi_verbs *v = &shmemi_verbs;
    (void)unused;
    for (;;) {
        uint64_t seen = looks();
        /* after arming: what came before it gives no event */
        if (serve(true) > 0)
            for (double last = shmemi_now(), now = last; now - last < LINGER; now = shmemi_now()) {
                if (serve(false) > 0)
                    last = now;
                else
                    sched_yield();
            }
        struct pollfd fds[] = {{v->channel->fd, POLLIN, 0}, {service.stop, POLLIN, 0}};
        if (poll(fds, 2, -1) < 0 && errno != EINTR)
            return NULL;
        if (fds[1].revents)
            return NULL;
        struct ibv_cq *cq;
        void *user;
        if (fds[0].revents && v->lib->get_cq_event(v->channel, &cq, &user) == 0)
            v->lib->ack_cq_events(cq, 1);
        if (serve(false) == 0)
            leave_to_others(seen);
    }
}

int shmemi_verbs_amo_open(const char *call)
{
    struct shmemi_verbs *v = &shmemi_verbs;
    if (v->native && !v->lazy)
        return SHMEMX_SUCCESS;
    service.stop = eventfd(0, EFD_CLOEXEC);
    int err = service.stop < 0 ? errno : pthread_create(&service.thread, NULL, serve_until_stopped, NULL);
    service.running = err == 0;
    return err ? shmemi_fail(SHMEMX_ERR_SYSTEM, call, "no thread for atomics: %s", strerror(err))
               : SHMEMX_SUCCESS;
}

void shmemi_verbs_amo_close(void)
{
    if (service.running) {
        uint64_t one = 1;
        while (write(service.stop, &one, sizeof one) < 0 && errno == EINTR)
            ;
        pthread_join(service.thread, NULL);
    }
    if (service.stop >= 0)
        close(service.stop);
    service.stop = -1;
    service.running = false;
}

/* ---- the requester ------------------------------------------------------------------------------------- */

void shmemi_verbs_amo_collect(struct verbs_peer *p)
{
    struct shmemi_verbs *v = &shmemi_verbs;
    while (p->amos_done < p->amos && !v->native) {
        unsigned at = p->amos_done % VERBS_CREDITS;
        /* acquire: pairs with the peer's NIC, which writes the value first */
        if (atomic_load_explicit(&p->landing[at].sequence, memory_order_acquire) != p->amos_done + 1)
            return;
        if (p->fetched[at])
            memcpy(p->fetched[at], &p->landing[at].value, p->size[at]);
        p->amos_done++;
        v->amos--;
    }
}

/* Waits until the first `done` atomics to a peer have been answered. */
static int wait_for_answers(const char *call, struct verbs_peer *p, uint64_t done)
{
    struct shmemi_wait w = SHMEMI_WAIT_FOR(call, p->pe, NULL);
    int rc = SHMEMX_SUCCESS;
    shmemi_verbs_amo_collect(p);
    while (p->amos_done < done && rc == 0) {
        if (shmemi_verbs.native) /* the NIC answers by completions alone */
            rc = shmemi_verbs_nudge(p, false);
        rc = rc ? rc : shmemi_verbs_step(&w, p);
    }
    return rc;
}

/* One more atomic is under way; returns its place among the landings. There is a credit for it. */
static unsigned begin(const struct verbs_list *l, void *fetched, size_t size)
{
    struct verbs_peer *p = l->p;
    unsigned at = p->amos++ % VERBS_CREDITS;
    l->mark->amos = p->amos;
    p->fetched[at] = fetched;
    p->size[at] = (uint8_t)size;
    shmemi_verbs.amos++;
    return at;
}

/* A wait for an old value was given up: it has nowhere to go any more. */
static void forget(struct verbs_peer *p, const void *fetched)
{
    for (unsigned i = 0; i < VERBS_CREDITS; ++i)
        if (p->fetched[i] == fetched)
            p->fetched[i] = NULL;
}

/* Waits until one more atomic may be under way and its request fits. Either wait lets other threads in. */
static int credit(const char *call, struct verbs_list *l)
{
    struct verbs_peer *p = l->p;
    int rc;
    while ((rc = shmemi_verbs_room(call, l)) == 0 && p->amos - p->amos_done >= VERBS_CREDITS)
        if ((rc = shmemi_verbs_post(call, l)) != 0 ||
            (rc = wait_for_answers(call, p, p->amos - VERBS_CREDITS + 1)) != 0)
            break;
    return rc;
}

static int add_request(const char *call, struct verbs_list *l, int segment, uint64_t offset,
                       const struct shmemi_amo *a, struct request *r)
{
    if (segment != SHMEMI_SEGMENT_HOST)
        return shmemi_fail(SHMEMX_ERR_UNSUPPORTED, call,
                           "atomics on GPU memory of other nodes need SHMEM_IB_ATOMICS=native");
    int rc = credit(call, l);
    if (rc)
        return rc;
    (void)begin(l, a->fetched, a->size);
    *r = (struct request){l->p->amos,     offset,           a->value,         a->cond,
                          (uint8_t)a->op, (uint8_t)a->size, (uint8_t)segment, a->fetched != NULL};
    shmemi_verbs_add(l, IBV_WR_SEND, r, sizeof *r, 0, offset, 0,
                     (struct verbs_wqe){.slot = -1, .what = VERBS_REQUEST});
    return SHMEMX_SUCCESS;
}

static int add_native(const char *call, struct verbs_list *l, int segment, uint64_t offset, bool swap,
                      uint64_t value, uint64_t cond, void *fetched)
{
    uint64_t addr;
    uint32_t rkey;
    size_t n = 8;
    int rc = shmemi_verbs_remote(call, l->p->pe, segment, offset, &n, &addr, &rkey);
    if (rc || (rc = credit(call, l)) != 0)
        return rc;
    unsigned at = begin(l, fetched, 8);
    struct ibv_send_wr *wr = shmemi_verbs_add(
        l, swap ? IBV_WR_ATOMIC_CMP_AND_SWP : IBV_WR_ATOMIC_FETCH_AND_ADD, &l->p->landing[at].value, 8,
        shmemi_verbs_landing_key(false), addr, rkey, (struct verbs_wqe){.slot = -1, .what = VERBS_ATOMIC});
    wr->wr.atomic.remote_addr = addr;
    wr->wr.atomic.rkey = rkey;
    wr->wr.atomic.compare_add = swap ? cond : value;
    wr->wr.atomic.swap = value;
    return SHMEMX_SUCCESS;
}

int shmemi_verbs_amo_add(const char *call, struct verbs_list *l, int segment, uint64_t offset,
                         const struct shmemi_amo *a, void *room)
{
    _Static_assert(sizeof(struct request) <= VERBS_REQUEST_BYTES, "room for a request");
    return shmemi_verbs.native ? add_native(call, l, segment, offset, false, a->value, 0, NULL)
                               : add_request(call, l, segment, offset, a, room);
}

static int finish(const char *call, struct verbs_list *l, const void *fetched)
{
    struct verbs_peer *p = l->p;
    int rc = shmemi_verbs_post(call, l);
    if (rc || !fetched)
        return rc;
    rc = wait_for_answers(call, p, p->amos);
    if (rc)
        forget(p, fetched);
    return rc;
}

static int amo_target(const char *call, struct verbs_list *l, int segment, uint64_t offset,
                      const struct shmemi_amo *a, bool nbi)
{
    struct request r;
    int rc = add_request(call, l, segment, offset, a, &r);
    return rc ? rc : finish(call, l, nbi ? NULL : a->fetched);
}

/* What the NIC does for 8 bytes: fetch and add, compare and swap. With `fetched`, and not nbi, waits for
 * the old value. */
static int native(const char *call, struct verbs_list *l, int segment, uint64_t offset, bool swap,
                  uint64_t value, uint64_t cond, void *fetched, bool nbi)
{
    int rc = add_native(call, l, segment, offset, swap, value, cond, fetched);
    if (rc)
        return rc;
    l->signal = fetched != NULL;
    return finish(call, l, nbi ? NULL : fetched);
}

static uint64_t apply(const struct shmemi_amo *a, uint64_t old)
{
    switch (a->op) {
    case SHMEMX_AMO_FETCH:
        return old;
    case SHMEMX_AMO_COMPARE_SWAP:
        return old == a->cond ? a->value : old;
    case SHMEMX_AMO_ADD:
        return old + a->value;
    case SHMEMX_AMO_AND:
        return old & a->value;
    case SHMEMX_AMO_OR:
        return old | a->value;
    case SHMEMX_AMO_XOR:
        return old ^ a->value;
    default: /* SET, SWAP */
        return a->value;
    }
}

/* Everything else is a compare and swap of the 8 bytes around the element until it succeeds. The neighbour
 * of a 4-byte element takes part: a plain store to it in between by anybody but a NIC may be lost. */
static int amo_loop(const char *call, struct verbs_list *l, int segment, uint64_t offset,
                    const struct shmemi_amo *a)
{
    uint64_t word = offset & ~(uint64_t)7, mask = a->size == 8 ? ~(uint64_t)0 : 0xffffffffu, seen, old;
    unsigned shift = (unsigned)(offset & 7) * 8;
    int rc = native(call, l, segment, word, false, 0, 0, &seen, false);
    do {
        if (rc)
            return rc;
        old = seen;
        uint64_t want = apply(a, old >> shift & mask) & mask, next = (old & ~(mask << shift)) | want << shift;
        if (next == old)
            break;
        rc = native(call, l, segment, word, true, next, old, &seen, false);
    } while (rc || seen != old);
    old = old >> shift & mask;
    if (a->fetched)
        memcpy(a->fetched, &old, a->size);
    return SHMEMX_SUCCESS;
}

static int amo_native(const char *call, struct verbs_list *l, int segment, uint64_t offset,
                      const struct shmemi_amo *a, bool nbi)
{
    if (a->size == 8 && (a->op == SHMEMX_AMO_ADD || a->op == SHMEMX_AMO_FETCH))
        return native(call, l, segment, offset, false, a->op == SHMEMX_AMO_ADD ? a->value : 0, 0, a->fetched,
                      nbi);
    if (a->size == 8 && a->op == SHMEMX_AMO_COMPARE_SWAP)
        return native(call, l, segment, offset, true, a->value, a->cond, a->fetched, nbi);
    return amo_loop(call, l, segment, offset, a);
}

int shmemi_verbs_amo(int pe, int segment, uint64_t offset, const struct shmemi_amo *a, unsigned how)
{
    const char *call = "shmem_atomic";
    struct verbs_list l;
    int rc = shmemi_verbs_begin(call, &l, pe, how);
    if (rc == 0)
        rc = shmemi_verbs.native ? amo_native(call, &l, segment, offset, a, shmemi_nbi(how))
                                 : amo_target(call, &l, segment, offset, a, shmemi_nbi(how));
    return shmemi_verbs_end(&l, rc);
}
