/* Transport verbs: connections that are made when they are first used (SHMEM_IB_CONNECT).
 *
 * Up front, every PE makes a queue pair for each peer, and cards carry their numbers. On first use there are
 * none; a card names an unreliable queue pair instead, one a PE, which takes hellos. Who needs a connection
 * makes its queue pair and says its number; the peer makes and connects its own and says that of it. Whichever
 * thread of the peer is at hand hears it, as with requests of atomics. Hellos may be lost and may cross: they
 * are said again until answered, and hearing one twice changes nothing. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "verbs.h"

enum { HELLO_MAGIC = 0x53484d31, HELLOS = 64, SENDS = 32, HEADER = 40 /* in front of what is received */ };
/* An unanswered hello is repeated after this long, then after twice that, up to the last. */
static const double REPEAT_SECONDS = 0.05, REPEAT_AT_MOST = 1;

struct hello {
    uint32_t magic, pe, qpn; /* qpn 0 = a sign of life, no connection is wanted */
    uint8_t asks;            /* for an answer */
    uint8_t connected;       /* the sender's end takes requests */
    uint8_t failed;          /* the sender cannot make its end */
};
enum { ROOM = 64 }; /* of a received hello with its header */
_Static_assert(HEADER + sizeof(struct hello) <= ROOM, "room for a hello");

static struct {
    char *room; /* [HELLOS] */
    struct ibv_mr *mr;
    struct ibv_cq *sent;
    struct ibv_qp *qp;
    unsigned under_way;
} hello;

static int receive(uint32_t index)
{
    struct ibv_sge sge = {(uint64_t)(uintptr_t)(hello.room + index * ROOM), ROOM, hello.mr->lkey};
    struct ibv_recv_wr *bad,
        wr = {.wr_id = (uint64_t)shmemi_verbs.job->npes << 32 | index, .sg_list = &sge, .num_sge = 1};
    return ibv_post_recv(hello.qp, &wr, &bad);
}

static int make_ready(void)
{
    const struct shmemi_verbs *v = &shmemi_verbs;
    struct ibv_qp_attr a = {.qp_state = IBV_QPS_INIT,
                            .pkey_index = (uint16_t)v->port.pkey_index,
                            .port_num = v->port.number,
                            .qkey = v->psn};
    int err = v->lib->modify_qp(hello.qp, &a, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_QKEY);
    for (uint32_t i = 0; i < HELLOS && err == 0; ++i)
        err = receive(i);
    a.qp_state = IBV_QPS_RTR;
    err = err ? err : v->lib->modify_qp(hello.qp, &a, IBV_QP_STATE);
    a.qp_state = IBV_QPS_RTS;
    a.sq_psn = 0;
    return err ? err : v->lib->modify_qp(hello.qp, &a, IBV_QP_STATE | IBV_QP_SQ_PSN);
}

int shmemi_verbs_hello_open(const char *call)
{
    struct shmemi_verbs *v = &shmemi_verbs;
    /* shared, as all that the NIC knows: verbs_memory.c */
    void *p = mmap(NULL, HELLOS * ROOM, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "no memory for hellos: %s", strerror(errno));
    hello.room = p;
    int rc = shmemi_verbs_register(call, p, HELLOS * ROOM, IBV_ACCESS_LOCAL_WRITE, &hello.mr);
    if (rc)
        return rc;
    hello.sent = v->lib->create_cq(v->port.context, SENDS, NULL, NULL, 0);
    struct ibv_qp_init_attr a = {.send_cq = hello.sent,
                                 .recv_cq = v->received,
                                 .cap = {SENDS, HELLOS, 1, 1, sizeof(struct hello)},
                                 .qp_type = IBV_QPT_UD,
                                 .sq_sig_all = 1};
    hello.qp = hello.sent ? v->lib->create_qp(v->pd, &a) : NULL;
    int err = hello.qp ? make_ready() : errno;
    if (err)
        return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "%s cannot make a queue pair for hellos: %s",
                           v->port.name, strerror(err > 0 ? err : errno));
    return SHMEMX_SUCCESS;
}

unsigned shmemi_verbs_hello_entries(void)
{
    return HELLOS;
}

uint32_t shmemi_verbs_hello_number(void)
{
    return hello.qp ? hello.qp->qp_num : 0;
}

void shmemi_verbs_hello_close(void)
{
    struct shmemi_verbs *v = &shmemi_verbs;
    for (int pe = 0; v->peers && pe < v->job->npes; ++pe)
        if (v->peers[pe].ah)
            (void)v->lib->destroy_ah(v->peers[pe].ah);
    if (hello.qp)
        (void)v->lib->destroy_qp(hello.qp);
    if (hello.sent)
        (void)v->lib->destroy_cq(hello.sent);
    if (hello.mr)
        (void)v->lib->dereg_mr(hello.mr);
    if (hello.room)
        munmap(hello.room, HELLOS * ROOM);
    memset(&hello, 0, sizeof hello);
}

/* Says hello; 0, or the error number of a peer that has no address. A lost one is said again by who waits. */
static int say(struct verbs_peer *p, struct hello h)
{
    struct shmemi_verbs *v = &shmemi_verbs;
    struct ibv_wc wc[SENDS];
    int n = ibv_poll_cq(hello.sent, SENDS, wc);
    hello.under_way -= n > 0 ? (unsigned)n : 0;
    if (!p->ah) {
        struct ibv_ah_attr to = shmemi_verbs_path(&shmemi_verbs.port, p->card.lid, p->card.gid);
        if (!(p->ah = v->lib->create_ah(v->pd, &to)))
            return errno ? errno : EHOSTUNREACH;
    }
    if (hello.under_way == SENDS)
        return 0;
    h.magic = HELLO_MAGIC;
    h.pe = (uint32_t)v->job->me;
    h.connected = p->connected;
    struct ibv_sge sge = {(uint64_t)(uintptr_t)&h, sizeof h, 0};
    struct ibv_send_wr *bad, wr = {.sg_list = &sge,
                                   .num_sge = 1,
                                   .opcode = IBV_WR_SEND,
                                   .send_flags = IBV_SEND_INLINE,
                                   .wr.ud = {p->ah, p->card.hello_qpn, p->card.psn}};
    int err = ibv_post_send(hello.qp, &wr, &bad);
    hello.under_way += err == 0;
    return err;
}

/* This end, connected to the peer's queue pair. */
static int make_end(const char *call, struct verbs_peer *p, uint32_t qpn)
{
    int rc = p->qp ? SHMEMX_SUCCESS : shmemi_verbs_qp_create(call, p, NULL);
    return rc || p->connected || qpn == 0 ? rc : shmemi_verbs_qp_connect(call, p, qpn);
}

void shmemi_verbs_heard(uint32_t index, uint32_t bytes)
{
    struct shmemi_verbs *v = &shmemi_verbs;
    struct hello h;
    memcpy(&h, hello.room + index * ROOM + HEADER, sizeof h);
    (void)receive(index);
    if (bytes != HEADER + sizeof h || h.magic != HELLO_MAGIC || h.pe >= (uint32_t)v->job->npes)
        return;
    struct verbs_peer *p = &v->peers[h.pe];
    if (!p->reachable || p->broken)
        return;
    p->asked = 0;
    if (h.failed) {
        shmemi_verbs_break(p, SHMEMX_ERR_SYSTEM, strdup("it cannot make its end; its own message says why"));
        return;
    }
    struct hello answer = {0};
    bool news = false;
    if (h.qpn) {
        int rc = make_end("connect", p, h.qpn);
        if (rc == SHMEMX_ERR_TIMEOUT) /* not yet: the peer asks again */
            return;
        answer.failed = rc != 0;
        answer.qpn = rc ? 0 : p->qp->qp_num;
        news = rc == 0 && h.connected && !p->ready;
        p->ready |= news;
    }
    if (h.asks || news)       /* news: so that the peer need not ask when its turn comes */
        (void)say(p, answer); /* unheard, it is asked for again */
}

/* How long a peer may leave hellos without an answer: as long as verbs waits for answers to requests, and no less than
 * a busy machine takes to wake a thread. */
static double patience(void)
{
    double limit =
        4.096e-6 * (double)(1ull << shmemi_env.IB_TIMEOUT) * (double)(shmemi_env.IB_RETRY_COUNT + 1);
    return limit > 10 ? limit : 10;
}

static void lose(struct verbs_peer *p, int err, const char *what)
{
    const struct shmemi_verbs *v = &shmemi_verbs;
    char *why = NULL;
    if (asprintf(&why, "no connection from %s to its %s: %s%s%s in %.0f s; it ended, or the link is down",
                 v->port.name, p->card.port, what, err ? ": " : "", err ? strerror(err) : "", patience()) < 0)
        why = NULL;
    shmemi_verbs_break(p, SHMEMX_ERR_PEER_DEAD, why);
}

int shmemi_verbs_reach(const char *call, struct verbs_peer *p)
{
    struct shmemi_wait w = SHMEMI_WAIT_FOR(call, p->pe, NULL);
    double start = shmemi_now(), next = start, gap = REPEAT_SECONDS;
    bool own = p->pe == shmemi_verbs.job->me;
    int rc = make_end(call, p, 0);
    if (rc == 0 && own && (rc = make_end(call, p, p->qp->qp_num)) == 0)
        p->ready = true;
    while (rc == 0 && !p->ready) {
        double now = shmemi_now();
        if (now >= next) {
            int err = say(p, (struct hello){.qpn = p->qp->qp_num, .asks = 1});
            now = shmemi_now(); /* an address that does not resolve takes seconds */
            if (now - start > patience())
                lose(p, err, "its end did not answer");
            next = now + gap;
            gap = gap * 2 < REPEAT_AT_MOST ? gap * 2 : REPEAT_AT_MOST;
        }
        rc = shmemi_verbs_step(&w, p);
    }
    return rc;
}

void shmemi_verbs_ask_unconnected(struct verbs_peer *p)
{
    if (p->asked == 0)
        p->asked = shmemi_now();
    int err = say(p, (struct hello){.asks = 1});
    if (shmemi_now() - p->asked > patience())
        lose(p, err, "no sign of life");
}
