/* PMI-1: MPICH's hydra, and others that speak its wire protocol over an inherited socket, PMI_FD.
 *
 * Lines of "key=value" words, one answer a request. Values are short text, so bytes travel in base 64, cut
 * to the server's length. The connection stays open for the life of the process, since a server takes only
 * one init and one finalize: later inits go on with it under new key names.
 *
 * There is one connection a process and no way to share it: MPICH's MPI_Init speaks over the same socket.
 * Where MPI is initialized already, it carries an id from rank 0 to the others (bootstrap_mpi.c).
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* memmem */
#endif
#include "bootstrap.h"
#include "bootstrap_kin.h"
#include "bootstrap_star.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LINE_BYTES = 8192, KEY_BYTES = 48, MAX_VALUE = 4096 };

static struct {
    int fd; /* valid if ready */
    bool ready, lost;
    int open; /* bootstraps in use */
    pid_t owner;
    dev_t device; /* of the socket: the number may come to mean another file */
    ino_t inode;
    char space[256];
    size_t value_max; /* characters of one value, without the final zero */
    unsigned generation;
    char line[LINE_BYTES];
    size_t have;
} pmi;

struct pmi_state {
    unsigned generation, round;
};

/* ---- lines ---- */

static bool same_socket(void)
{
    struct stat s;
    return fstat(pmi.fd, &s) == 0 && S_ISSOCK(s.st_mode) && s.st_dev == pmi.device && s.st_ino == pmi.inode;
}

static int lost(const char *what)
{
    pmi.lost = true;
    return shmemi_fail(SHMEMX_ERR_BOOTSTRAP, "bootstrap", "%s, on PMI_FD=%d", what, pmi.fd);
}

static bool wait_for(short events, double deadline)
{
    for (;;) {
        double left = deadline - shmemi_now();
        if (left <= 0)
            return false;
        struct pollfd p = {.fd = pmi.fd, .events = events};
        int n = poll(&p, 1, left > 1 ? 1000 : (int)(left * 1000) + 1);
        if (n > 0 || (n < 0 && errno != EINTR))
            return true; /* or an error that the next call reports */
    }
}

/* Sends all of the text; MSG_DONTWAIT since the socket's own mode belongs to whoever made it. */
static int send_text(const char *text, size_t n, double deadline)
{
    while (n > 0) {
        ssize_t k = send(pmi.fd, text, n, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (k >= 0) {
            text += k;
            n -= (size_t)k;
        } else if (errno == EAGAIN) {
            if (!wait_for(POLLOUT, deadline))
                return lost("the process manager does not read");
        } else if (errno != EINTR) {
            return lost("the process manager is gone");
        }
    }
    return SHMEMX_SUCCESS;
}

/* The next line, without its end, until the next call. TIMEOUT is returned without a message. */
static int receive_line(char **line, double deadline)
{
    static size_t used; /* of the line handed out last */
    memmove(pmi.line, pmi.line + used, pmi.have - used);
    pmi.have -= used;
    used = 0;
    for (;;) {
        char *end = memchr(pmi.line, '\n', pmi.have);
        if (end) {
            *end = 0;
            used = (size_t)(end + 1 - pmi.line);
            *line = pmi.line;
            return SHMEMX_SUCCESS;
        }
        if (pmi.have == sizeof pmi.line)
            return lost("the process manager sent a line without end");
        ssize_t n = recv(pmi.fd, pmi.line + pmi.have, sizeof pmi.line - pmi.have, MSG_DONTWAIT);
        if (n > 0)
            pmi.have += (size_t)n;
        else if (n == 0 || (errno != EAGAIN && errno != EINTR))
            return lost("the process manager closed the connection");
        else if (errno == EAGAIN && !wait_for(POLLIN, deadline))
            return SHMEMX_ERR_TIMEOUT;
    }
}

/* The value of `name` in a line, in place; NULL if it is not there. The value ends at a space. */
static char *word(char *line, const char *name)
{
    size_t n = strlen(name);
    for (char *p = line; *p; p += strcspn(p, " ")) {
        p += strspn(p, " ");
        if (strncmp(p, name, n) == 0 && p[n] == '=')
            return p + n + 1;
    }
    return NULL;
}

static bool word_is(char *line, const char *name, const char *value)
{
    const char *found = word(line, name);
    size_t n = strlen(value);
    return found && strncmp(found, value, n) == 0 && (found[n] == 0 || found[n] == ' ');
}

/* One request, one answer that is cmd=`answer` with rc=0 or without rc. */
static int request(char **line, const char *answer, double seconds, const char *fmt, ...) SHMEMI_PRINTF(4, 5);
static int request(char **line, const char *answer, double seconds, const char *fmt, ...)
{
    char text[MAX_VALUE + 1024];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (pmi.lost || !same_socket())
        return lost("the connection to the process manager is no longer ours");
    double deadline = shmemi_now() + seconds;
    int status = send_text(text, (size_t)n, deadline);
    if (status == SHMEMX_SUCCESS)
        status = receive_line(line, deadline);
    if (status != SHMEMX_SUCCESS)
        return status;
    if (!word_is(*line, "cmd", answer) || (word(*line, "rc") && !word_is(*line, "rc", "0"))) {
        pmi.lost = true;
        return shmemi_fail(SHMEMX_ERR_BOOTSTRAP, "bootstrap",
                           "the process manager answered \"%.100s\" to \"%.60s\"", *line, text);
    }
    return SHMEMX_SUCCESS;
}

/* The same for what the server answers at once: a silence is an error, too. */
static int ask(char **line, const char *answer, const char *text)
{
    int status = request(line, answer, shmemi_bootstrap_patience(), "%s", text);
    return status == SHMEMX_ERR_TIMEOUT ? lost("the process manager does not answer") : status;
}

/* ---- bytes in text ---- */

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-";

static void encode(char *text, const uint8_t *bytes, size_t n)
{
    unsigned bits = 0, have = 0;
    for (size_t i = 0; i < n; i++) {
        bits = bits << 8 | bytes[i];
        for (have += 8; have >= 6; have -= 6)
            *text++ = digits[bits >> (have - 6) & 63];
    }
    if (have > 0)
        *text++ = digits[bits << (6 - have) & 63];
    *text = 0;
}

/* False if the text is not exactly n bytes. */
static bool decode(uint8_t *bytes, size_t n, const char *text)
{
    unsigned bits = 0, have = 0;
    size_t i = 0, characters = 0;
    for (; *text && *text != ' '; text++, characters++) {
        const char *digit = strchr(digits, *text);
        if (digit == NULL)
            return false;
        bits = bits << 6 | (unsigned)(digit - digits);
        have += 6;
        if (have < 8)
            continue;
        have -= 8;
        if (i == n)
            return false;
        bytes[i++] = (uint8_t)(bits >> have);
    }
    return i == n && characters == (n * 8 + 5) / 6;
}

/* ---- the ops ---- */

static int pmi_barrier(struct shmemi_bootstrap *b)
{
    struct pmi_state *s = b->state;
    char *line;
    double patience = shmemi_bootstrap_patience();
    int status = request(&line, "barrier_out", patience, "cmd=barrier_in\n");
    s->round++;
    if (status != SHMEMX_ERR_TIMEOUT)
        return status;
    pmi.lost = true; /* its answer may still come and would be taken for another's */
    return shmemi_fail(status, "bootstrap",
                       "some of %d PEs did not arrive within %g s (SHMEM_TIMEOUT); round %u over PMI, whose "
                       "server does not tell which",
                       b->size, patience, s->round - 1);
}

static void name_key(const struct pmi_state *s, int rank, size_t part, char key[KEY_BYTES])
{
    snprintf(key, KEY_BYTES, "shm-%u-%u-%d-%zu", s->generation, s->round, rank, part);
}

static int pmi_allgather(struct shmemi_bootstrap *b, const void *mine, void *all, size_t n)
{
    struct pmi_state *s = b->state;
    struct pmi_state at = *s; /* the barrier counts on */
    size_t most = pmi.value_max * 6 / 8;
    char key[KEY_BYTES], value[MAX_VALUE + 1], *line;
    memmove((char *)all + (size_t)b->rank * n, mine, n);
    for (size_t from = 0, part = 0; from < n; from += most, part++) {
        name_key(&at, b->rank, part, key);
        encode(value, (const uint8_t *)mine + from, n - from < most ? n - from : most);
        int status = request(&line, "put_result", shmemi_bootstrap_patience(),
                             "cmd=put kvsname=%s key=%s value=%s\n", pmi.space, key, value);
        if (status != SHMEMX_SUCCESS)
            return status == SHMEMX_ERR_TIMEOUT ? lost("the process manager does not answer a put") : status;
    }
    int status = pmi_barrier(b);
    if (status != SHMEMX_SUCCESS)
        return status;
    for (int rank = 0; rank < b->size; rank++) {
        if (rank == b->rank)
            continue;
        for (size_t from = 0, part = 0; from < n; from += most, part++) {
            size_t bytes = n - from < most ? n - from : most;
            name_key(&at, rank, part, key);
            status = request(&line, "get_result", shmemi_bootstrap_patience(), "cmd=get kvsname=%s key=%s\n",
                             pmi.space, key);
            if (status != SHMEMX_SUCCESS)
                return status == SHMEMX_ERR_TIMEOUT ? lost("the process manager does not answer a get")
                                                    : status;
            const char *text = word(line, "value");
            if (text == NULL || !decode((uint8_t *)all + (size_t)rank * n + from, bytes, text))
                return shmemi_fail(SHMEMX_ERR_MISMATCH, "bootstrap",
                                   "PE %d gave another number of bytes to an exchange of %zu", rank, n);
        }
    }
    return SHMEMX_SUCCESS;
}

static void pmi_abort(struct shmemi_bootstrap *b, int status)
{
    (void)b;
    char text[64];
    int n = snprintf(text, sizeof text, "cmd=abort exitcode=%d\n", status);
    if (!pmi.lost && same_socket())
        send_text(text, (size_t)n, shmemi_now() + 1);
}

static void pmi_close(struct shmemi_bootstrap *b)
{
    pmi.open--;
    free(b->state); /* the connection stays, see above */
    memset(b, 0, sizeof *b);
}

/* ---- opening ---- */

/* Without it the server takes the end of the process for a crash and ends the job; as it should if the
 * process ends with a bootstrap open. */
static void say_goodbye(void)
{
    static const char text[] = "cmd=finalize\n";
    char *line;
    if (!pmi.ready || pmi.lost || pmi.open > 0 || pmi.owner != getpid() || !same_socket())
        return;
    pmi.ready = false;
    if (send(pmi.fd, text, sizeof text - 1, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)sizeof text - 1)
        receive_line(&line, shmemi_now() + 1);
}

static bool parse_number(const char *text, long high, int *out)
{
    char *end;
    errno = 0;
    long number = strtol(text, &end, 10);
    if (end == text || *end || errno || number < 0 || number > high)
        return false;
    *out = (int)number;
    return true;
}

static int hand_shake(void)
{
    char *line;
    int status = ask(&line, "response_to_init", "cmd=init pmi_version=1 pmi_subversion=1\n");
    if (status != SHMEMX_SUCCESS)
        return status;
    if ((status = ask(&line, "maxes", "cmd=get_maxes\n")) != SHMEMX_SUCCESS)
        return status;
    const char *keys = word(line, "keylen_max"), *values = word(line, "vallen_max");
    long key_max = keys ? strtol(keys, NULL, 10) : 0, value_max = values ? strtol(values, NULL, 10) : 0;
    if (key_max <= KEY_BYTES || value_max < 64)
        return lost("the process manager's keys or values are too short (keylen_max, vallen_max)");
    /* A round number of base 64 groups of 4, and short enough that a line of it fits both sides. */
    pmi.value_max = (size_t)((value_max - 1 < MAX_VALUE ? value_max - 1 : MAX_VALUE) / 4 * 4);
    if ((status = ask(&line, "my_kvsname", "cmd=get_my_kvsname\n")) != SHMEMX_SUCCESS)
        return status;
    const char *space = word(line, "kvsname");
    if (space == NULL || strcspn(space, " ") >= sizeof pmi.space)
        return lost("the process manager names no key space");
    snprintf(pmi.space, sizeof pmi.space, "%.*s", (int)strcspn(space, " "), space);
    return SHMEMX_SUCCESS;
}

int shmemi_bootstrap_pmi(struct shmemi_bootstrap *b, char *why, size_t n)
{
    static const char call[] = "shmem_init";
    static const char *const names[] = {"PMI_FD", "PMI_RANK", "PMI_SIZE", NULL};
    static const char *const libraries[] = {"/libmpi.so", "/libmpich.so", NULL};
    const char *values[3];
    for (int i = 0; i < 3; i++) {
        values[i] = getenv(names[i]);
        if (values[i] == NULL) {
            snprintf(why, n, "no %s in the environment", names[i]);
            return 0;
        }
    }
    if (shmemi_bootstrap_inherited(names, libraries, true, why, n))
        return 0;
    int fd, rank, size;
    if (!parse_number(values[0], INT32_MAX, &fd) || !parse_number(values[2], INT32_MAX, &size) || size < 1 ||
        !parse_number(values[1], size - 1, &rank))
        return shmemi_fail(SHMEMX_ERR_BOOTSTRAP, call,
                           "PMI_FD=%.20s PMI_RANK=%.20s PMI_SIZE=%.20s make no sense", values[0], values[1],
                           values[2]);
    struct stat s;
    if (fstat(fd, &s) != 0 || !S_ISSOCK(s.st_mode) || (pmi.ready && pmi.owner != getpid())) {
        snprintf(why, n, "PMI_FD=%d is no connection of ours: a child of PE %d?", fd, rank);
        return 0;
    }
    if (!pmi.ready && shmemi_mpi_initialized())
        return shmemi_bootstrap_mpi(b);
    if (!pmi.ready) {
        pmi.fd = fd;
        pmi.device = s.st_dev;
        pmi.inode = s.st_ino;
        pmi.owner = getpid();
        int status = hand_shake();
        if (status != SHMEMX_SUCCESS)
            return status;
        fcntl(fd, F_SETFD, FD_CLOEXEC); /* our children shall not speak for us */
        pmi.ready = true;
        atexit(say_goodbye);
    }
    struct pmi_state *state = calloc(1, sizeof *state);
    if (state == NULL)
        return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "no memory for the bootstrap");
    state->generation = pmi.generation++;
    pmi.open++;
    *b = (struct shmemi_bootstrap){
        .name = "pmi",
        .rank = rank,
        .size = size,
        .launched = true,
        .state = state,
        .allgather = pmi_allgather,
        .barrier = pmi_barrier,
        .abort = pmi_abort,
        .close = pmi_close,
    };
    snprintf(b->detail, sizeof b->detail, "PMI-1 on descriptor %d, job %.80s", fd, pmi.space);
    return 1;
}
