/* What both ends of the star need: the proof of the key, addresses, whose socket it is. */
#include "bootstrap_star.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

static uint64_t rotate(uint64_t x, int by)
{
    return x << by | x >> (64 - by);
}

static void sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[1] = rotate(v[1], 13) ^ v[0];
    v[0] = rotate(v[0], 32);
    v[2] += v[3];
    v[3] = rotate(v[3], 16) ^ v[2];
    v[0] += v[3];
    v[3] = rotate(v[3], 21) ^ v[0];
    v[2] += v[1];
    v[1] = rotate(v[1], 17) ^ v[2];
    v[2] = rotate(v[2], 32);
}

static uint64_t load64(const uint8_t *p)
{
    uint64_t x = 0;
    for (int i = 7; i >= 0; i--)
        x = x << 8 | p[i];
    return x;
}

static void store64(uint8_t *p, uint64_t x)
{
    for (int i = 0; i < 8; i++, x >>= 8)
        p[i] = (uint8_t)x;
}

void shmemi_star_mac(uint8_t mac[STAR_MAC_BYTES], const uint8_t key[STAR_KEY_BYTES], const void *data,
                     size_t n)
{
    uint64_t k0 = load64(key), k1 = load64(key + 8);
    uint64_t v[4] = {k0 ^ 0x736f6d6570736575u, k1 ^ 0x646f72616e646f6du ^ 0xee, k0 ^ 0x6c7967656e657261u,
                     k1 ^ 0x7465646279746573u};
    const uint8_t *p = data;
    uint64_t last = (uint64_t)n << 56;
    for (; n >= 8; n -= 8, p += 8) {
        uint64_t m = load64(p);
        v[3] ^= m;
        sip_round(v);
        sip_round(v);
        v[0] ^= m;
    }
    for (size_t i = 0; i < n; i++)
        last |= (uint64_t)p[i] << (8 * i);
    v[3] ^= last;
    sip_round(v);
    sip_round(v);
    v[0] ^= last;
    v[2] ^= 0xee;
    for (int half = 0; half < 2; half++) {
        if (half)
            v[1] ^= 0xdd;
        for (int i = 0; i < 4; i++)
            sip_round(v);
        store64(mac + 8 * half, v[0] ^ v[1] ^ v[2] ^ v[3]);
    }
}

void shmemi_star_proof(uint8_t mac[STAR_MAC_BYTES], const uint8_t key[STAR_KEY_BYTES], const char *side,
                       const struct star_greeting *greeting, const struct star_hello *hello)
{
    struct {
        char side[8];
        struct star_greeting greeting;
        struct star_hello hello;
    } text;
    memset(&text, 0, sizeof text);
    snprintf(text.side, sizeof text.side, "%s", side);
    text.greeting = *greeting;
    text.hello = *hello;
    memset(text.hello.mac, 0, sizeof text.hello.mac);
    shmemi_star_mac(mac, key, &text, sizeof text);
}

bool shmemi_star_equal(const uint8_t *a, const uint8_t *b, size_t n)
{
    uint8_t different = 0;
    for (size_t i = 0; i < n; i++)
        different |= a[i] ^ b[i];
    return different == 0;
}

uint64_t shmemi_star_process(void)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static pid_t owner;
    static uint64_t number;
    pthread_mutex_lock(&lock);
    if (owner != getpid()) {
        owner = getpid();
        if (getrandom(&number, sizeof number, 0) != sizeof number)
            number = (uint64_t)owner << 32 ^ (uint64_t)(shmemi_now() * 1e9);
    }
    uint64_t result = number;
    pthread_mutex_unlock(&lock);
    return result;
}

/* An address as /proc/net/tcp and tcp6 print it; an IPv4 one inside IPv6 becomes plain. */
static bool proc_form(const struct sockaddr_storage *sa, char *text, size_t n, bool *v6)
{
    if (sa->ss_family == AF_INET) {
        const struct sockaddr_in *a = (const struct sockaddr_in *)sa;
        snprintf(text, n, "%08X:%04X", a->sin_addr.s_addr, ntohs(a->sin_port));
        *v6 = false;
        return true;
    }
    if (sa->ss_family != AF_INET6)
        return false;
    const struct sockaddr_in6 *a = (const struct sockaddr_in6 *)sa;
    uint32_t word[4];
    memcpy(word, &a->sin6_addr, sizeof word);
    *v6 = true;
    snprintf(text, n, "%08X%08X%08X%08X:%04X", word[0], word[1], word[2], word[3], ntohs(a->sin6_port));
    return true;
}

/* Looks the pair up in one table; 1 = there with *uid, 0 = not there. */
static int owner_of(const char *table, const char *local, const char *remote, unsigned *uid)
{
    FILE *f = fopen(table, "re");
    if (f == NULL)
        return 0;
    char line[512], a[64], b[64];
    int found = 0;
    while (!found && fgets(line, sizeof line, f)) {
        unsigned who;
        if (sscanf(line, " %*d: %63s %63s %*x %*s %*s %*s %u", a, b, &who) == 3 && strcmp(a, local) == 0 &&
            strcmp(b, remote) == 0) {
            *uid = who;
            found = 1;
        }
    }
    fclose(f);
    return found;
}

bool shmemi_star_foreign_user(int fd)
{
    struct sockaddr_storage here, there;
    socklen_t n = sizeof here, m = sizeof there;
    char local[64], remote[64];
    bool v6, peer_v6;
    if (getsockname(fd, (struct sockaddr *)&here, &n) != 0 ||
        getpeername(fd, (struct sockaddr *)&there, &m) != 0)
        return false;
    if (!proc_form(&here, local, sizeof local, &v6) || !proc_form(&there, remote, sizeof remote, &peer_v6))
        return false;
    /* The peer's own row has the two ends the other way round. One end may see the pair as IPv4 and the
     * other as IPv4 inside IPv6, so both tables are asked. Not found = on another machine. */
    unsigned uid;
    if (v6 && strncmp(local, "0000000000000000FFFF0000", 24) == 0 &&
        owner_of("/proc/net/tcp", remote + 24, local + 24, &uid))
        return uid != geteuid();
    if (v6)
        return owner_of("/proc/net/tcp6", remote, local, &uid) && uid != geteuid();
    if (owner_of("/proc/net/tcp", remote, local, &uid))
        return uid != geteuid();
    char local6[96], remote6[96];
    snprintf(local6, sizeof local6, "0000000000000000FFFF0000%s", local);
    snprintf(remote6, sizeof remote6, "0000000000000000FFFF0000%s", remote);
    return owner_of("/proc/net/tcp6", remote6, local6, &uid) && uid != geteuid();
}

const char *shmemi_star_text(const struct star_address *a, char *text, size_t n)
{
    char host[INET6_ADDRSTRLEN] = "?";
    if (a->sa.ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)&a->sa;
        inet_ntop(AF_INET, &in->sin_addr, host, sizeof host);
        snprintf(text, n, "%s:%d", host, ntohs(in->sin_port));
    } else {
        const struct sockaddr_in6 *in = (const struct sockaddr_in6 *)&a->sa;
        inet_ntop(AF_INET6, &in->sin6_addr, host, sizeof host);
        snprintf(text, n, "[%s]:%d", host, ntohs(in->sin6_port));
    }
    return text;
}

int shmemi_star_listen(struct star_address *a)
{
    int fd = socket(a->sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    int yes = 1, no = 0;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (a->sa.ss_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof no);
    socklen_t len = sizeof a->sa;
    if (bind(fd, (struct sockaddr *)&a->sa, a->len) != 0 || listen(fd, SOMAXCONN) != 0 ||
        getsockname(fd, (struct sockaddr *)&a->sa, &len) != 0) {
        int saved = errno;
        close(fd);
        errno = saved;
        return -1;
    }
    a->len = len;
    return fd;
}

double shmemi_bootstrap_patience(void)
{
    return shmemi_env.TIMEOUT > 0 ? shmemi_env.TIMEOUT : 120;
}
