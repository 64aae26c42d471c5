/* RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT: torchrun's variables, or anybody's.
 *
 * torchrun's own store usually listens on MASTER_PORT, so rank 0's hub takes the first port of
 * MASTER_PORT .. MASTER_PORT + 31 that is free and the others look on all of them. The hub and they prove
 * to each other that they have the same key: a digest of what names the job, and of SHMEM_JOB_SECRET when
 * it is set. Without it, anyone who knows those names could join over the network; on one machine another
 * user is turned away by the owner of his socket.
 */
#include "bootstrap_star.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

enum { PORTS = 32, MAX_HOSTS = 4 };

/* Inits of this process so far: every init of the job is a job of its own (all PEs count alike). */
static unsigned generation;

static bool parse_number(const char *text, long low, long high, long *out)
{
    char *end;
    errno = 0;
    *out = strtol(text, &end, 10);
    return end != text && *end == 0 && errno == 0 && *out >= low && *out <= high;
}

static void set_port(struct star_address *a, int port)
{
    if (a->sa.ss_family == AF_INET)
        ((struct sockaddr_in *)&a->sa)->sin_port = htons((uint16_t)port);
    else
        ((struct sockaddr_in6 *)&a->sa)->sin6_port = htons((uint16_t)port);
}

static bool is_loopback(const struct star_address *a)
{
    if (a->sa.ss_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)&a->sa)->sin_addr.s_addr) >> 24 == 127;
    return IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)&a->sa)->sin6_addr);
}

static void job_key(uint8_t key[STAR_KEY_BYTES], const char *host, long port, long size)
{
    static const uint8_t zero[STAR_KEY_BYTES];
    const char *run = getenv("TORCHELASTIC_RUN_ID"), *restart = getenv("TORCHELASTIC_RESTART_COUNT");
    const char *secret = shmemi_env.JOB_SECRET;
    char names[1024];
    int n = snprintf(names, sizeof names, "libshmem\n%ld\n%ld\n%u\n%.256s\n%.256s\n%.64s\n", port, size,
                     generation, host, run ? run : "", restart ? restart : "");
    uint8_t first[STAR_KEY_BYTES] = {0};
    if (secret && *secret) /* first, so that a secret of any length counts in full */
        shmemi_star_mac(first, zero, secret, strlen(secret));
    shmemi_star_mac(key, first, names, (size_t)n);
}

/* All of the host's addresses, without duplicates; 0 with an error logged. */
static int resolve(const char *host, struct star_address *out)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *list = NULL;
    int error = getaddrinfo(host, NULL, &hints, &list);
    if (error) {
        shmemi_fail(SHMEMX_ERR_BOOTSTRAP, "shmem_init", "MASTER_ADDR=\"%.100s\" cannot be resolved: %s%s",
                    host, gai_strerror(error),
                    getenv("TORCHELASTIC_RUN_ID")
                        ? "; torchrun took the first host's own name: give each host's "
                          "address to torchrun --local-addr"
                        : "");
        return 0;
    }
    int n = 0;
    for (struct addrinfo *i = list; i && n < MAX_HOSTS; i = i->ai_next) {
        if (i->ai_family != AF_INET && i->ai_family != AF_INET6)
            continue;
        memset(&out[n], 0, sizeof out[n]);
        memcpy(&out[n].sa, i->ai_addr, i->ai_addrlen);
        out[n].len = i->ai_addrlen;
        n++;
    }
    freeaddrinfo(list);
    if (n == 0)
        shmemi_fail(SHMEMX_ERR_BOOTSTRAP, "shmem_init", "MASTER_ADDR=\"%.100s\" has no IP address", host);
    return n;
}

/* Does MASTER_ADDR mean this machine alone? Not where it is a host's name: Debian's /etc/hosts has 127.0.1.1 for its own,
 * and other hosts find another address. */
static bool means_loopback(const char *host, const struct star_address *hosts, int n)
{
    static const char localhost[] = "localhost";
    size_t length = strlen(host), tail = sizeof localhost - 1;
    for (int i = 0; i < n; i++)
        if (!is_loopback(&hosts[i]))
            return false;
    return strchr(host, ':') != NULL || host[strspn(host, "0123456789.")] == 0 ||
           (length >= tail && strcasecmp(host + length - tail, localhost) == 0) ||
           strncmp(host, localhost, tail) == 0;
}

/* Rank 0: the first free port, on the loopback alone if that is what MASTER_ADDR means. Returns the
 * listener and sets *reach to an address for this process itself; -1 with an error logged. */
static int listen_somewhere(const struct star_address *hosts, int n, const char *host, long port,
                            struct star_address *reach)
{
    bool local = means_loopback(host, hosts, n);
    struct star_address wild[2] = {{.len = sizeof(struct sockaddr_in6)}, {.len = sizeof(struct sockaddr_in)}};
    ((struct sockaddr_in6 *)&wild[0].sa)->sin6_family = AF_INET6;
    ((struct sockaddr_in6 *)&wild[0].sa)->sin6_addr = in6addr_any;
    ((struct sockaddr_in *)&wild[1].sa)->sin_family = AF_INET;
    const struct star_address *at = local ? hosts : wild;
    int ways = local ? n : 2, error = EADDRINUSE;
    for (long p = port; p < port + PORTS && p <= 65535; p++)
        for (int i = 0; i < ways; i++) {
            *reach = at[i];
            set_port(reach, (int)p);
            int fd = shmemi_star_listen(reach);
            if (fd < 0) {
                if (errno == EADDRINUSE)
                    break; /* somebody has this port, perhaps for one family only: leave it alone */
                error = errno;
                continue;
            }
            if (!local && i == 0)
                ((struct sockaddr_in6 *)&reach->sa)->sin6_addr = in6addr_loopback;
            else if (!local)
                ((struct sockaddr_in *)&reach->sa)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
            return fd;
        }
    shmemi_fail(SHMEMX_ERR_BOOTSTRAP, "shmem_init",
                "rank 0 finds no port to listen on in %ld..%ld (MASTER_PORT) at %.100s: %s", port,
                port + PORTS - 1 < 65535 ? port + PORTS - 1 : 65535, host, strerror(error));
    return -1;
}

int shmemi_bootstrap_env(struct shmemi_bootstrap *b, char *why, size_t n)
{
    static const char call[] = "shmem_init";
    static const char *const names[] = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"};
    const char *values[4];
    for (int i = 0; i < 4; i++) {
        values[i] = getenv(names[i]);
        if (values[i] == NULL || *values[i] == 0) {
            snprintf(why, n, "no %s in the environment", names[i]);
            return 0;
        }
    }
    long rank, size, port;
    const char *host = values[2];
    snprintf(why, n, "RANK=%.20s WORLD_SIZE=%.20s MASTER_ADDR=%.60s MASTER_PORT=%.20s", values[0], values[1],
             host, values[3]);
    if (!parse_number(values[1], 1, INT32_MAX, &size))
        return shmemi_fail(SHMEMX_ERR_BOOTSTRAP, call, "WORLD_SIZE=\"%.40s\" is not a number of processes",
                           values[1]);
    if (!parse_number(values[0], 0, size - 1, &rank))
        return shmemi_fail(SHMEMX_ERR_BOOTSTRAP, call, "RANK=\"%.40s\" is not a number from 0 to %ld",
                           values[0], size - 1);
    if (!parse_number(values[3], 1, 65535, &port))
        return shmemi_fail(SHMEMX_ERR_BOOTSTRAP, call, "MASTER_PORT=\"%.40s\" is not a port", values[3]);

    struct star_address hosts[MAX_HOSTS], ways[MAX_HOSTS * PORTS];
    int host_count = resolve(host, hosts), count = 0;
    if (host_count == 0)
        return SHMEMX_ERR_BOOTSTRAP;
    uint8_t key[STAR_KEY_BYTES];
    job_key(key, host, port, size);
    generation++;
    if (rank == 0) {
        int listener = listen_somewhere(hosts, host_count, host, port, &ways[0]);
        if (listener < 0)
            return SHMEMX_ERR_BOOTSTRAP;
        int status = shmemi_star_serve(listener, key);
        if (status != SHMEMX_SUCCESS)
            return status;
        count = 1;
    } else {
        for (long p = port; p < port + PORTS && p <= 65535; p++)
            for (int i = 0; i < host_count; i++) {
                ways[count] = hosts[i];
                set_port(&ways[count++], (int)p);
            }
    }
    char hint[240];
    snprintf(hint, sizeof hint, "rank 0 listens on one of ports %ld..%ld at MASTER_ADDR=%.100s: does it run?",
             port, port + PORTS - 1 < 65535 ? port + PORTS - 1 : 65535, host);
    struct star_join join = {.addresses = ways,
                             .count = count,
                             .retry = true,
                             .key = key,
                             .rank = (int)rank,
                             .size = (int)size,
                             .name = "env",
                             .hint = hint};
    int status = shmemi_star_join(b, &join);
    if (status != SHMEMX_SUCCESS)
        return status;
    /* torchrun is our parent; a shell script that set the variables by hand may well end before us */
    b->launched = getenv("TORCHELASTIC_RUN_ID") != NULL;
    return 1;
}
