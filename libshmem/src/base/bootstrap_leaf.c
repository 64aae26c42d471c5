/* The rim of the star: finding the hub among many addresses, and a PE's collectives over it. */
#include "bootstrap_star.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

static const double verdict = 2; /* seconds beyond the deadline in which the hub names who is missing */
static const double answer = 5;  /* seconds for a hub that greeted to answer hello */
static const double retry_refused = 0.02, retry_foreign = 0.5;
enum { MAX_WAYS = 256 };

struct star {
    int fd;
    uint64_t round;
    uint64_t hub_rank; /* UINT64_MAX when the hub's process is no PE */
    int error;         /* the first failure; the connection is of no use after it */
    char hub[96];
};

/* One address on the way to a greeting. */
struct way {
    const struct star_address *address;
    enum { RESTING, CONNECTING, LISTENING, GREETED, HOPELESS } state;
    int fd;
    double at; /* RESTING: try again then */
    struct star_greeting greeting;
    size_t have;
    enum { NOTHING, REFUSED, UNREACHABLE, SILENT, NO_HUB, NOT_OURS } why;
};

static void rest(struct way *w, bool retry, int why, double pause)
{
    if (w->fd >= 0)
        close(w->fd);
    w->fd = -1;
    w->why = why;
    w->have = 0;
    w->state = retry ? RESTING : HOPELESS;
    w->at = shmemi_now() + pause;
}

static void dial(struct way *w, bool retry)
{
    w->fd = socket(w->address->sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (w->fd < 0) {
        rest(w, retry, UNREACHABLE, retry_foreign);
        return;
    }
    int yes = 1;
    setsockopt(w->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    w->state = LISTENING;
    w->why = SILENT;
    if (connect(w->fd, (const struct sockaddr *)&w->address->sa, w->address->len) == 0)
        return;
    if (errno == EINPROGRESS) {
        w->state = CONNECTING;
        w->why = UNREACHABLE;
    } else {
        rest(w, retry, errno == ECONNREFUSED ? REFUSED : UNREACHABLE, retry_refused);
    }
}

/* Connecting to a free port of our own machine may hit ourselves: TCP's simultaneous open. */
static bool is_self(int fd)
{
    struct sockaddr_storage a, b;
    memset(&a, 0, sizeof a);
    memset(&b, 0, sizeof b);
    socklen_t n = sizeof a, m = sizeof b;
    return getsockname(fd, (struct sockaddr *)&a, &n) == 0 &&
           getpeername(fd, (struct sockaddr *)&b, &m) == 0 && n == m && memcmp(&a, &b, n) == 0;
}

/* Moves w on after poll said something about it. */
static void advance(struct way *w, bool retry)
{
    if (w->state == CONNECTING) {
        int error = 0;
        socklen_t n = sizeof error;
        getsockopt(w->fd, SOL_SOCKET, SO_ERROR, &error, &n);
        if (error || is_self(w->fd)) {
            rest(w, retry, error == ECONNREFUSED || !error ? REFUSED : UNREACHABLE, retry_refused);
            return;
        }
        w->state = LISTENING;
        w->why = SILENT;
    }
    if (w->state != LISTENING)
        return;
    ssize_t got = recv(w->fd, (char *)&w->greeting + w->have, sizeof w->greeting - w->have, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0) {
        rest(w, retry, NO_HUB, retry_foreign);
        return;
    }
    w->have += (size_t)got;
    size_t magic = w->have < sizeof w->greeting.magic ? w->have : sizeof w->greeting.magic;
    if (memcmp(w->greeting.magic, STAR_MAGIC, magic) != 0 || shmemi_star_foreign_user(w->fd))
        rest(w, retry, NO_HUB, retry_foreign);
    else if (w->have == sizeof w->greeting)
        w->state = GREETED;
}

/* Waits until `deadline` for the n bytes. n, 0 at the end of the stream, or -1 with errno (ETIMEDOUT). */
static ssize_t receive(int fd, void *to, size_t n, double deadline)
{
    size_t have = 0;
    while (have < n) {
        ssize_t got = recv(fd, (char *)to + have, n - have, 0);
        if (got > 0) {
            have += (size_t)got;
            continue;
        }
        if (got == 0)
            return 0;
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN)
            return -1;
        double left = deadline - shmemi_now();
        if (left <= 0) {
            errno = ETIMEDOUT;
            return -1;
        }
        struct pollfd p = {.fd = fd, .events = POLLIN};
        poll(&p, 1, left > 1 ? 1000 : (int)(left * 1000) + 1);
    }
    return (ssize_t)n;
}

static int transmit(int fd, const void *from, size_t n, double deadline)
{
    size_t sent = 0;
    while (sent < n) {
        ssize_t k = send(fd, (const char *)from + sent, n - sent, MSG_NOSIGNAL);
        if (k >= 0) {
            sent += (size_t)k;
            continue;
        }
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN)
            return -1;
        double left = deadline - shmemi_now();
        if (left <= 0) {
            errno = ETIMEDOUT;
            return -1;
        }
        struct pollfd p = {.fd = fd, .events = POLLOUT};
        poll(&p, 1, left > 1 ? 1000 : (int)(left * 1000) + 1);
    }
    return 0;
}

/* Hello and welcome over a way that greeted. True: this is our hub. */
static bool ask(struct way *w, const struct star_join *join, double patience)
{
    struct star_hello hello = {.rank = join->rank,
                               .size = join->size,
                               .process = shmemi_star_process(),
                               .timeout_ms = (uint64_t)(patience * 1000)};
    memcpy(hello.magic, STAR_MAGIC, sizeof hello.magic);
    if (getrandom(hello.nonce, sizeof hello.nonce, 0) != STAR_NONCE_BYTES)
        return false;
    shmemi_star_proof(hello.mac, join->key, "leaf", &w->greeting, &hello);
    struct star_welcome welcome;
    double deadline = shmemi_now() + answer;
    if (transmit(w->fd, &hello, sizeof hello, deadline) != 0 ||
        receive(w->fd, &welcome, sizeof welcome, deadline) != sizeof welcome)
        return false;
    uint8_t proof[STAR_MAC_BYTES];
    shmemi_star_proof(proof, join->key, "hub", &w->greeting, &hello);
    return shmemi_star_equal(proof, welcome.mac, sizeof proof);
}

/* Tries all ways at once and asks those that greet one after the other, since two addresses may lead to
 * the same hub. Returns the one that is ours, or NULL at the deadline or when all are hopeless. */
static struct way *search(struct way *ways, int count, const struct star_join *join, double deadline,
                          double patience)
{
    struct pollfd polls[MAX_WAYS];
    struct way *polled[MAX_WAYS];
    for (;;) {
        double now = shmemi_now(), next = deadline;
        int n = 0, hopeless = 0;
        if (now >= deadline)
            return NULL;
        for (int i = 0; i < count; i++) {
            struct way *w = &ways[i];
            if (w->state == RESTING && now >= w->at)
                dial(w, join->retry);
            if (w->state == GREETED) {
                if (ask(w, join, patience))
                    return w;
                rest(w, join->retry, NOT_OURS, retry_foreign);
            }
            if (w->state == RESTING && w->at < next)
                next = w->at;
            if (w->state == HOPELESS)
                hopeless++;
            if (w->state == CONNECTING || w->state == LISTENING) {
                polls[n] = (struct pollfd){.fd = w->fd, .events = w->state == LISTENING ? POLLIN : POLLOUT};
                polled[n++] = w;
            }
        }
        if (hopeless == count)
            return NULL;
        double wait = next - shmemi_now();
        if (poll(polls, (nfds_t)n, wait <= 0 ? 0 : wait > 1 ? 1000 : (int)(wait * 1000) + 1) <= 0)
            continue;
        for (int i = 0; i < n; i++)
            if (polls[i].revents)
                advance(polled[i], join->retry);
    }
}

/* "127.0.0.1:29500 refused, ... +29 more" */
static void name_ways(const struct way *ways, int count, char *text, size_t n)
{
    static const char *const words[] = {"not tried", "refused",         "unreachable",
                                        "silent",    "another service", "another job's"};
    size_t used = 0;
    text[0] = 0;
    int shown = 0;
    for (int why = NOT_OURS; why >= NOTHING; why--) /* the telling ones first */
        for (int i = 0; i < count && shown < 4; i++) {
            char address[96];
            if ((int)ways[i].why != why || used >= n)
                continue;
            used += (size_t)snprintf(text + used, n - used, "%s%s %s", shown ? ", " : "",
                                     shmemi_star_text(ways[i].address, address, sizeof address), words[why]);
            shown++;
        }
    if (shown < count && used < n)
        snprintf(text + used, n - used, " and %d more", count - shown);
}

/* Waits for the hub's answer: 0 and `frame`, or the error, logged. */
static int hear(struct shmemi_bootstrap *b, const char *call, double deadline, struct star_frame *frame)
{
    struct star *s = b->state;
    ssize_t got = receive(s->fd, frame, sizeof *frame, deadline);
    if (got == (ssize_t)sizeof *frame && frame->magic == STAR_FRAME_MAGIC) {
        if (frame->op == SHMEMX_SUCCESS)
            return SHMEMX_SUCCESS;
        char text[STAR_TEXT_BYTES + 1] = "";
        size_t n = frame->bytes < STAR_TEXT_BYTES ? (size_t)frame->bytes : STAR_TEXT_BYTES;
        if (receive(s->fd, text, n, deadline) != (ssize_t)n)
            snprintf(text, sizeof text, "the job failed (the reason was lost on the way)");
        s->error = frame->op < 0 ? frame->op : SHMEMX_ERR_BOOTSTRAP;
        return shmemi_fail(s->error, call, "%s", text);
    }
    if (got < 0 && errno == ETIMEDOUT) {
        s->error = SHMEMX_ERR_TIMEOUT;
        return shmemi_fail(s->error, call, "PE %d of %d got no answer from the job's hub at %s within %g s",
                           b->rank, b->size, s->hub, shmemi_bootstrap_patience());
    }
    if (got > 0) {
        s->error = SHMEMX_ERR_BOOTSTRAP;
        return shmemi_fail(s->error, call, "the job's hub at %s sent something that is not a frame (%#x)",
                           s->hub, frame->magic);
    }
    char who[32] = "";
    if (s->hub_rank != UINT64_MAX)
        snprintf(who, sizeof who, " (PE %d)", (int)s->hub_rank);
    s->error = SHMEMX_ERR_PEER_DEAD;
    return shmemi_fail(s->error, call, "the process%s with the job's hub at %s died: %s", who, s->hub,
                       got == 0 ? "connection closed" : strerror(errno));
}

static int round_trip(struct shmemi_bootstrap *b, enum star_op op, const void *mine, void *all, size_t n)
{
    static const char call[] = "bootstrap";
    struct star *s = b->state;
    if (s->error)
        return shmemi_fail(s->error, call,
                           "the connection to the job's hub at %s is broken since an earlier error", s->hub);
    double patience = shmemi_bootstrap_patience(), deadline = shmemi_now() + patience + verdict;
    struct star_frame frame = {.magic = STAR_FRAME_MAGIC,
                               .op = op,
                               .round = s->round++,
                               .bytes = n,
                               .timeout_ms = (uint64_t)(patience * 1000)};
    /* A failed send has a reason, and the hub may have told it: hear says which. */
    if (transmit(s->fd, &frame, sizeof frame, deadline) == 0 && n > 0)
        (void)transmit(s->fd, mine, n, deadline);
    struct star_frame reply;
    int status = hear(b, call, deadline, &reply);
    if (status != SHMEMX_SUCCESS)
        return status;
    size_t bytes = op == STAR_ALLGATHER ? n * (size_t)b->size : 0;
    if (reply.round != frame.round || reply.bytes != bytes) {
        s->error = SHMEMX_ERR_BOOTSTRAP;
        return shmemi_fail(s->error, call,
                           "the job's hub answered round %llu with %llu bytes, expected %llu with %zu",
                           (unsigned long long)reply.round, (unsigned long long)reply.bytes,
                           (unsigned long long)frame.round, bytes);
    }
    if (bytes > 0 && receive(s->fd, all, bytes, deadline) != (ssize_t)bytes) {
        s->error = SHMEMX_ERR_PEER_DEAD;
        return shmemi_fail(s->error, call, "the job's hub at %s broke off in a reply of %zu bytes", s->hub,
                           bytes);
    }
    return SHMEMX_SUCCESS;
}

static int star_allgather(struct shmemi_bootstrap *b, const void *mine, void *all, size_t n)
{
    return round_trip(b, STAR_ALLGATHER, mine, all, n);
}

static int star_barrier(struct shmemi_bootstrap *b)
{
    return round_trip(b, STAR_BARRIER, NULL, NULL, 0);
}

static void say(struct star *s, enum star_op op, uint64_t value)
{
    struct star_frame frame = {.magic = STAR_FRAME_MAGIC, .op = op, .bytes = value};
    (void)transmit(s->fd, &frame, sizeof frame, shmemi_now() + 1); /* nobody there = nobody to tell */
}

static void star_abort(struct shmemi_bootstrap *b, int status)
{
    struct star *s = b->state;
    if (!s->error)
        say(s, STAR_ABORT, (uint64_t)(uint32_t)status);
}

static void star_close(struct shmemi_bootstrap *b)
{
    struct star *s = b->state;
    if (!s->error)
        say(s, STAR_BYE, 0);
    close(s->fd);
    free(s);
    memset(b, 0, sizeof *b);
}

int shmemi_star_join(struct shmemi_bootstrap *b, const struct star_join *join)
{
    static const char call[] = "shmem_init";
    double patience = shmemi_bootstrap_patience(), deadline = shmemi_now() + patience;
    int count = join->count < MAX_WAYS ? join->count : MAX_WAYS;
    struct star *s = calloc(1, sizeof *s);
    struct way *ways = calloc((size_t)count + 1, sizeof *ways);
    if (s == NULL || ways == NULL) {
        free(s);
        free(ways);
        return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "no memory for the bootstrap");
    }
    for (int i = 0; i < count; i++)
        ways[i] = (struct way){.address = &join->addresses[i], .state = RESTING, .fd = -1};
    struct way *found = search(ways, count, join, deadline, patience);
    char text[320];
    bool hopeless = shmemi_now() < deadline;
    name_ways(ways, count, text, sizeof text);
    if (found) {
        s->fd = found->fd;
        found->fd = -1;
        shmemi_star_text(found->address, s->hub, sizeof s->hub);
    }
    for (int i = 0; i < count; i++)
        if (ways[i].fd >= 0)
            close(ways[i].fd);
    free(ways);
    if (found == NULL) {
        free(s);
        if (hopeless)
            return shmemi_fail(SHMEMX_ERR_BOOTSTRAP, call, "PE %d of %d finds no hub of this job: %s; %s",
                               join->rank, join->size, text, join->hint);
        return shmemi_fail(SHMEMX_ERR_TIMEOUT, call,
                           "PE %d of %d found no hub of this job within %g s: %s; %s", join->rank, join->size,
                           patience, text, join->hint);
    }
    *b = (struct shmemi_bootstrap){
        .name = join->name,
        .rank = join->rank,
        .size = join->size,
        .state = s,
        .allgather = star_allgather,
        .barrier = star_barrier,
        .abort = star_abort,
        .close = star_close,
    };
    snprintf(b->detail, sizeof b->detail, "TCP, hub at %s", s->hub);
    s->hub_rank = UINT64_MAX;
    struct star_frame frame;
    int status = hear(b, call, deadline + verdict, &frame);
    if (status != SHMEMX_SUCCESS) {
        star_close(b);
        return status;
    }
    s->hub_rank = frame.round;
    s->round = 1;
    return SHMEMX_SUCCESS;
}
