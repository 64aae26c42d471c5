/* The middle of the star: a thread that gathers from all leaves and answers all of them.
 *
 * It ends when its leaves have left. Whatever goes wrong becomes one error that every leaf, also one that
 * comes late, is told: who is missing since when, who left, who disagrees.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* accept4 */
#endif
#include "bootstrap_star.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

static const double hello_patience = 10; /* seconds for a connection to say who it is */
static const double linger =
    5; /* seconds after an error in which latecomers hear of it; then as many to go */
enum { MAX_STRANGERS = 4096, STACK_BYTES = 256 << 10 };
#define MAX_GATHER ((uint64_t)1 << 32) /* bytes of one allgather's result; a larger one is a mistake */

struct connection {
    int fd;
    int rank;     /* -1: a stranger until its hello is proved */
    double since; /* accepted at */
    struct star_greeting greeting;
    union {
        struct star_hello hello;
        struct star_frame frame;
    } in;
    size_t have;                /* bytes of `in` */
    uint64_t payload_left;      /* of the frame in `in`, still to be read */
    bool in_round, left, local; /* sent its frame; said bye; lives in the hub's process */
    struct star_frame out;
    const char *out_payload;
    uint64_t out_sent, out_bytes; /* of out and its payload together; equal = nothing to send */
    bool told_error;
};

struct hub {
    int listener;
    uint8_t key[STAR_KEY_BYTES];
    uint64_t process;
    int size, joined, arrived, gone; /* size 0: no hello yet */
    struct connection **all;
    size_t count, room;
    int op; /* of the round in progress: JOIN first */
    uint64_t round, bytes;
    double started, patience; /* of the round; started 0 = nobody waits */
    char *in, *out;           /* gathered so far; the last result, still being sent */
    int error;                /* 0, or what every leaf is told */
    double failed_at;
    char text[STAR_TEXT_BYTES];
};

static void fail(struct hub *h, int code, const char *fmt, ...) SHMEMI_PRINTF(3, 4);
static void fail(struct hub *h, int code, const char *fmt, ...)
{
    if (h->error)
        return; /* the first cause counts */
    va_list args;
    va_start(args, fmt);
    vsnprintf(h->text, sizeof h->text, fmt, args);
    va_end(args);
    h->error = code;
    h->failed_at = shmemi_now();
}

static struct connection *leaf_of(struct hub *h, int rank)
{
    for (size_t i = 0; i < h->count; i++)
        if (h->all[i]->rank == rank)
            return h->all[i];
    return NULL;
}

/* "PE 1, 3-5" of those that are not in the round. */
static void name_missing(struct hub *h, char *text, size_t n)
{
    char *missing = malloc((size_t)h->size);
    if (missing == NULL) {
        snprintf(text, n, "a PE");
        return;
    }
    memset(missing, 1, (size_t)h->size);
    for (size_t i = 0; i < h->count; i++)
        if (h->all[i]->rank >= 0 && (h->op == STAR_JOIN || h->all[i]->in_round))
            missing[h->all[i]->rank] = 0;
    size_t used = (size_t)snprintf(text, n, "PE");
    const char *separator = " ";
    for (int first = 0; first < h->size; first++) {
        if (!missing[first])
            continue;
        int last = first;
        while (last + 1 < h->size && missing[last + 1])
            last++;
        if (used + 32 > n) {
            snprintf(text + used, n - used, ", ...");
            break;
        }
        used += (size_t)snprintf(text + used, n - used, last > first ? "%s%d-%d" : "%s%d", separator, first,
                                 last);
        separator = ", ";
        first = last;
    }
    free(missing);
}

static void drop(struct hub *h, struct connection *c)
{
    for (size_t i = 0; i < h->count; i++)
        if (h->all[i] == c) {
            h->all[i] = h->all[--h->count];
            break;
        }
    if (c->rank >= 0) {
        h->gone++;
        if (!c->left)
            fail(h, SHMEMX_ERR_PEER_DEAD, "PE %d of %d left: its connection closed before the job was over",
                 c->rank, h->size);
    }
    close(c->fd);
    free(c);
}

static void greet(struct hub *h)
{
    for (;;) {
        int fd = accept4(h->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0) {
            if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
                usleep(20000); /* the listener stays readable: do not spin on it */
            return;
        }
        int yes = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        struct connection *c = calloc(1, sizeof *c);
        if (c && h->count == h->room) {
            size_t room = h->room ? 2 * h->room : 16;
            struct connection **all = realloc(h->all, room * sizeof *all);
            if (all) {
                h->all = all;
                h->room = room;
            }
        }
        if (c == NULL || h->count == h->room || h->count >= (size_t)h->size + MAX_STRANGERS) {
            free(c);
            close(fd);
            return;
        }
        c->fd = fd;
        c->rank = -1;
        c->since = shmemi_now();
        memcpy(c->greeting.magic, STAR_MAGIC, sizeof c->greeting.magic);
        h->all[h->count++] = c;
        if (getrandom(c->greeting.nonce, sizeof c->greeting.nonce, 0) != STAR_NONCE_BYTES ||
            send(fd, &c->greeting, sizeof c->greeting, MSG_NOSIGNAL) != (ssize_t)sizeof c->greeting)
            drop(h, c);
    }
}

/* Queues a frame for c; nothing may be queued yet. */
static void queue(struct connection *c, int status, uint64_t round, const char *payload, uint64_t bytes)
{
    c->out = (struct star_frame){.magic = STAR_FRAME_MAGIC, .op = status, .round = round, .bytes = bytes};
    c->out_payload = payload;
    c->out_sent = 0;
    c->out_bytes = sizeof c->out + bytes;
}

/* All are in the round: everyone gets the result. */
static void finish_round(struct hub *h)
{
    /* The last result has been sent: all leaves answered it with a frame of this round. */
    free(h->out);
    h->out = h->in;
    h->in = NULL;
    uint64_t bytes = h->op == STAR_ALLGATHER ? (uint64_t)h->size * h->bytes : 0;
    uint64_t tag = h->round;
    if (h->op == STAR_JOIN) {
        tag = UINT64_MAX;
        for (size_t i = 0; i < h->count; i++)
            if (h->all[i]->local)
                tag = (uint64_t)h->all[i]->rank;
        close(h->listener);
        h->listener = -1;
    }
    for (size_t i = 0; i < h->count; i++)
        if (h->all[i]->rank >= 0) {
            h->all[i]->in_round = false;
            queue(h->all[i], SHMEMX_SUCCESS, tag, h->out, bytes);
        }
    h->op = 0;
    h->round++;
    h->arrived = 0;
    h->started = 0;
}

static void wait_at_most(struct hub *h, uint64_t timeout_ms)
{
    double patience = (double)timeout_ms / 1000;
    if (h->started == 0) {
        h->started = shmemi_now();
        h->patience = patience;
    } else if (patience < h->patience) {
        h->patience = patience;
    }
}

/* Returns false if c was dropped. */
static bool take_hello(struct hub *h, struct connection *c)
{
    struct star_hello hello = c->in.hello;
    uint8_t proof[STAR_MAC_BYTES];
    shmemi_star_proof(proof, h->key, "leaf", &c->greeting, &hello);
    if (!shmemi_star_equal(proof, hello.mac, sizeof proof) || shmemi_star_foreign_user(c->fd)) {
        shmemi_debug("bootstrap: dropped a connection that does not belong to this job");
        drop(h, c);
        return false;
    }
    struct star_welcome welcome;
    shmemi_star_proof(welcome.mac, h->key, "hub", &c->greeting, &hello);
    if (send(c->fd, &welcome, sizeof welcome, MSG_NOSIGNAL) != (ssize_t)sizeof welcome) {
        drop(h, c);
        return false;
    }
    c->have = 0;
    c->rank = INT32_MAX; /* no more a stranger; not (yet) a PE that can leave */
    c->left = true;
    if (hello.size < 1 || hello.rank < 0 || hello.rank >= hello.size) {
        fail(h, SHMEMX_ERR_BOOTSTRAP, "a process calls itself PE %d of %d", hello.rank, hello.size);
        return true;
    }
    if (h->size == 0)
        h->size = hello.size;
    if (hello.size != h->size) {
        fail(h, SHMEMX_ERR_MISMATCH, "PE %d was started with %d PEs, others with %d", hello.rank, hello.size,
             h->size);
        return true;
    }
    if (leaf_of(h, hello.rank)) {
        fail(h, SHMEMX_ERR_BOOTSTRAP, "two processes are started as PE %d of %d", hello.rank, h->size);
        return true;
    }
    c->rank = hello.rank;
    c->left = false;
    c->local = hello.process == h->process;
    wait_at_most(h, hello.timeout_ms);
    if (++h->joined == h->size && !h->error)
        finish_round(h);
    return true;
}

/* Checks a frame whose header is complete; payload may follow. Sets h->error if it does not fit. */
static void take_frame(struct hub *h, struct connection *c)
{
    const struct star_frame *f = &c->in.frame;
    if (f->magic != STAR_FRAME_MAGIC) {
        fail(h, SHMEMX_ERR_BOOTSTRAP, "PE %d sent something that is not a frame (%#x)", c->rank, f->magic);
        return;
    }
    if (f->op == STAR_BYE) {
        c->left = true;
        if (h->started != 0)
            fail(h, SHMEMX_ERR_PEER_DEAD, "PE %d of %d left while others wait for it", c->rank, h->size);
        return;
    }
    if (f->op == STAR_ABORT) {
        fail(h, SHMEMX_ERR_PEER_DEAD, "PE %d of %d aborted the job with status %d", c->rank, h->size,
             (int)f->bytes);
        return;
    }
    if ((f->op != STAR_ALLGATHER && f->op != STAR_BARRIER) || c->in_round || h->listener >= 0 ||
        f->round != h->round) {
        fail(h, SHMEMX_ERR_BOOTSTRAP, "PE %d sent a frame out of turn (kind %d, round %llu, now %llu)",
             c->rank, f->op, (unsigned long long)f->round, (unsigned long long)h->round);
        return;
    }
    for (size_t i = 0; i < h->count; i++)
        if (h->all[i]->rank >= 0 && h->all[i]->left)
            fail(h, SHMEMX_ERR_PEER_DEAD, "PE %d of %d has already left the job", h->all[i]->rank, h->size);
    if (h->gone > 0)
        fail(h, SHMEMX_ERR_PEER_DEAD, "%d of %d PEs have already left the job", h->gone, h->size);
    if (h->arrived == 0) {
        h->op = f->op;
        h->bytes = f->bytes;
        if (f->op == STAR_ALLGATHER && (f->bytes == 0 || f->bytes > MAX_GATHER / (uint64_t)h->size))
            fail(h, SHMEMX_ERR_LIMIT, "allgather of %llu bytes from each of %d PEs",
                 (unsigned long long)f->bytes, h->size);
        else if (f->op == STAR_ALLGATHER && (h->in = malloc(f->bytes * (size_t)h->size)) == NULL)
            fail(h, SHMEMX_ERR_SYSTEM, "no memory to gather %llu bytes from each of %d PEs",
                 (unsigned long long)f->bytes, h->size);
    } else if (f->op != h->op || f->bytes != h->bytes) {
        fail(h, SHMEMX_ERR_MISMATCH, "PE %d entered %s of %llu bytes, others %s of %llu", c->rank,
             f->op == STAR_BARRIER ? "a barrier" : "an allgather", (unsigned long long)f->bytes,
             h->op == STAR_BARRIER ? "a barrier" : "an allgather", (unsigned long long)h->bytes);
    }
    if (h->error)
        return;
    wait_at_most(h, f->timeout_ms);
    h->arrived++;
    c->payload_left = f->op == STAR_ALLGATHER ? f->bytes : 0;
}

static void enter_round(struct hub *h, struct connection *c)
{
    c->in_round = true;
    c->have = 0;
    for (size_t i = 0; i < h->count; i++)
        if (h->all[i]->rank >= 0 && !h->all[i]->in_round)
            return;
    if (h->arrived == h->size)
        finish_round(h);
}

static void read_from(struct hub *h, struct connection *c)
{
    for (;;) {
        char scratch[4096];
        void *to = scratch;
        size_t want = sizeof scratch;
        if (c->rank < 0) {
            to = (char *)&c->in + c->have;
            want = sizeof c->in.hello - c->have;
        } else if (!h->error && c->payload_left > 0) {
            to = h->in + (uint64_t)(c->rank + 1) * h->bytes - c->payload_left;
            want = c->payload_left;
        } else if (!h->error) {
            to = (char *)&c->in + c->have;
            want = sizeof c->in.frame - c->have;
        } /* after an error: read on, so that the error reaches the leaf and no reset does */
        ssize_t got = recv(c->fd, to, want, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && errno == EAGAIN)
            return;
        if (got <= 0) {
            drop(h, c);
            return;
        }
        if (c->rank < 0) {
            c->have += (size_t)got;
            size_t magic = c->have < sizeof c->in.hello.magic ? c->have : sizeof c->in.hello.magic;
            if (memcmp(c->in.hello.magic, STAR_MAGIC, magic) != 0) {
                drop(h, c); /* not one of us */
                return;
            }
            if (c->have == sizeof c->in.hello && !take_hello(h, c))
                return;
            continue;
        }
        if (h->error)
            continue;
        if (c->payload_left > 0) {
            c->payload_left -= (uint64_t)got;
            if (c->payload_left == 0)
                enter_round(h, c);
            continue;
        }
        c->have += (size_t)got;
        if (c->have < sizeof c->in.frame)
            continue;
        take_frame(h, c);
        if (c->left)
            c->have = 0;
        else if (!h->error && c->payload_left == 0)
            enter_round(h, c);
    }
}

/* Sends what is queued as far as the socket takes it; false if c was dropped. */
static bool write_to(struct hub *h, struct connection *c)
{
    while (c->out_sent < c->out_bytes) {
        const char *from = (const char *)&c->out + c->out_sent;
        size_t n = sizeof c->out - c->out_sent;
        if (c->out_sent >= sizeof c->out) {
            from = c->out_payload + (c->out_sent - sizeof c->out);
            n = c->out_bytes - c->out_sent;
        }
        ssize_t sent = send(c->fd, from, n, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0 && errno == EAGAIN)
            return true;
        if (sent < 0) {
            drop(h, c);
            return false;
        }
        c->out_sent += (uint64_t)sent;
    }
    return true;
}

static bool idle(const struct connection *c)
{
    return c->out_sent == c->out_bytes;
}

static bool others_wait(const struct hub *h)
{
    for (size_t i = 0; i < h->count; i++)
        if (!h->all[i]->local && !idle(h->all[i]))
            return true;
    return false;
}

static void write_class(struct hub *h, bool local)
{
    for (size_t i = h->count; i-- > 0;) { /* downward: drop moves the last one, already done, to i */
        struct connection *c = h->all[i];
        if (c->rank < 0 || c->local != local || !write_to(h, c))
            continue;
        if (h->error && idle(c) && !c->told_error) {
            c->told_error = true;
            queue(c, h->error, h->round, h->text, strlen(h->text));
            write_to(h, c);
        }
    }
}

/* Sends to everybody. The leaf of the hub's own process is last: once it has its answer that process may
 * exit, and this thread with it. */
static void write_all(struct hub *h)
{
    int error;
    do {
        error = h->error;
        write_class(h, false);
        if (!others_wait(h))
            write_class(h, true);
    } while (h->error != error); /* a leaf that could not be written to has left: tell the others */
}

/* Seconds until something is due; also does what is due now. */
static double next_deadline(struct hub *h)
{
    double now = shmemi_now(), next = 3600;
    if (!h->error && h->started != 0 && now - h->started >= h->patience) {
        char missing[256];
        if (h->arrived == 0 && h->listener >= 0)
            h->op = STAR_JOIN;
        name_missing(h, missing, sizeof missing);
        fail(h, SHMEMX_ERR_TIMEOUT, "%s of %d did not %s within %g s (SHMEM_TIMEOUT)", missing, h->size,
             h->op == STAR_JOIN      ? "arrive"
             : h->op == STAR_BARRIER ? "enter the barrier"
                                     : "enter the exchange",
             h->patience);
    }
    if (!h->error && h->started != 0)
        next = h->started + h->patience - now;
    for (size_t i = h->count; i-- > 0;) {
        struct connection *c = h->all[i];
        if (c->rank >= 0)
            continue;
        if (now - c->since >= hello_patience)
            drop(h, c);
        else if (c->since + hello_patience - now < next)
            next = c->since + hello_patience - now;
    }
    if (h->error) {
        double end = h->failed_at + (now - h->failed_at < linger ? linger : 2 * linger);
        next = end - now < next ? end - now : next;
    }
    return next > 0 ? next : 0;
}

static bool over(const struct hub *h)
{
    for (size_t i = 0; i < h->count; i++)
        if (h->all[i]->rank >= 0 && !(h->error && shmemi_now() - h->failed_at > 2 * linger))
            return false;
    if (h->error)
        return shmemi_now() - h->failed_at >= linger || h->listener < 0;
    return h->size > 0 && h->joined == h->size && h->gone == h->size;
}

static void *run(void *arg)
{
    struct hub *h = arg;
    struct pollfd *polls = NULL;
    struct connection **polled = NULL;
    size_t room = 0;
    while (!over(h)) {
        double wait = next_deadline(h);
        write_all(h);
        if (room < h->room + 1) {
            room = h->room + 1;
            struct pollfd *p = realloc(polls, room * sizeof *p);
            struct connection **q = realloc(polled, room * sizeof *q);
            polls = p ? p : polls;
            polled = q ? q : polled;
            if (p == NULL || q == NULL)
                break; /* out of memory: the leaves see the connections close */
        }
        size_t n = 0;
        bool hold = others_wait(h);
        for (size_t i = 0; i < h->count; i++) {
            struct connection *c = h->all[i];
            bool send_now = !idle(c) && !(c->local && hold);
            polls[n] = (struct pollfd){.fd = c->fd, .events = (short)(POLLIN | (send_now ? POLLOUT : 0))};
            polled[n++] = c;
        }
        size_t connections = n;
        if (h->listener >= 0)
            polls[n++] = (struct pollfd){.fd = h->listener, .events = POLLIN};
        if (poll(polls, n, wait >= 60 ? 60000 : (int)(wait * 1000) + 1) < 0)
            continue;
        /* read_from drops at most its own connection, so polled[] stays valid for the others. */
        for (size_t i = 0; i < connections; i++)
            if (polls[i].revents & (POLLIN | POLLHUP | POLLERR))
                read_from(h, polled[i]);
        if (n > connections && h->listener >= 0 && polls[connections].revents)
            greet(h);
    }
    free(polls);
    free(polled);
    while (h->count > 0) {
        h->all[h->count - 1]->left = true;
        drop(h, h->all[h->count - 1]);
    }
    if (h->listener >= 0)
        close(h->listener);
    free(h->all);
    free(h->in);
    free(h->out);
    memset(h, 0, sizeof *h);
    free(h);
    return NULL;
}

int shmemi_star_serve(int listener, const uint8_t key[STAR_KEY_BYTES])
{
    struct hub *h = calloc(1, sizeof *h);
    if (h == NULL) {
        close(listener);
        return shmemi_fail(SHMEMX_ERR_SYSTEM, "shmem_init", "no memory for the bootstrap's hub");
    }
    h->listener = listener;
    h->op = STAR_JOIN;
    h->process = shmemi_star_process();
    memcpy(h->key, key, STAR_KEY_BYTES);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    sigset_t all, before;
    sigfillset(&all); /* the program's signals are for the program's threads */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_t thread;
    int error = pthread_create(&thread, &attributes, run, h);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    if (error) {
        close(listener);
        free(h);
        return shmemi_fail(SHMEMX_ERR_SYSTEM, "shmem_init", "cannot start the bootstrap's hub thread: %s",
                           strerror(error));
    }
    return SHMEMX_SUCCESS;
}
