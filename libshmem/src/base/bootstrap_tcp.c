/* A unique id: one process makes it, the program carries it to the others by its own means, and all meet
 * at the hub whose addresses, port and key are in it.
 */
#include "bootstrap_star.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

enum { UID_VERSION = 2, UID_ADDRESSES = 12 };

/* The 128 bytes. An id is of use on machines of one byte order; the magic tells. */
struct uid {
    char magic[8];
    uint32_t version;
    uint16_t port;  /* network byte order */
    uint16_t count; /* of address[] */
    uint64_t boot;  /* this machine, this boot: loopback leads to the maker only here */
    uint8_t key[STAR_KEY_BYTES];
    uint32_t address[UID_ADDRESSES]; /* IPv4, network byte order; loopback first */
    struct in6_addr address6;        /* IPv6, unspecified = none: for hosts without IPv4 */
    uint8_t check[STAR_MAC_BYTES];   /* of all before it: a torn or mistyped id is told from a real one */
    uint8_t zero[SHMEMI_UID_BYTES - 120];
};
_Static_assert(sizeof(struct uid) == SHMEMI_UID_BYTES, "a unique id is 128 bytes");
static const char uid_magic[8] = {'s', 'h', 'm', 'e', 'm', 'u', 'i', 'd'};

static void check_of(uint8_t check[STAR_MAC_BYTES], const struct uid *u)
{
    shmemi_star_mac(check, u->key, u, offsetof(struct uid, check));
}

static uint64_t boot_number(void)
{
    static const uint8_t zero[STAR_KEY_BYTES];
    char text[64] = "";
    size_t n = 0;
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");
    if (f) {
        n = fread(text, 1, sizeof text, f);
        fclose(f);
    }
    if (n == 0)
        n = gethostname(text, sizeof text - 1) == 0 ? strlen(text) : 0;
    uint8_t mac[STAR_MAC_BYTES];
    shmemi_star_mac(mac, zero, text, n);
    uint64_t boot;
    memcpy(&boot, mac, sizeof boot);
    return boot;
}

static void add(struct uid *u, const struct sockaddr *sa)
{
    if (sa->sa_family == AF_INET6) {
        const struct in6_addr *in6 = &((const struct sockaddr_in6 *)sa)->sin6_addr;
        /* a link's own would need the name of each host's interface */
        if (IN6_IS_ADDR_UNSPECIFIED(&u->address6) && !IN6_IS_ADDR_LINKLOCAL(in6))
            u->address6 = *in6;
        return;
    }
    if (sa->sa_family != AF_INET)
        return;
    uint32_t address = ((const struct sockaddr_in *)sa)->sin_addr.s_addr;
    for (int i = 0; i < u->count; i++)
        if (u->address[i] == address)
            return;
    if (u->count < UID_ADDRESSES)
        u->address[u->count++] = address;
}

/* A port on all of this host's addresses, or on the loopback where there are no others: none listens to it either. */
static int listen_on_all(struct uid *u)
{
    struct star_address a = {.len = sizeof(struct sockaddr_in6)};
    int fd = -1;
    if (!IN6_IS_ADDR_UNSPECIFIED(&u->address6)) { /* then IPv4 as well */
        ((struct sockaddr_in6 *)&a.sa)->sin6_family = AF_INET6;
        fd = shmemi_star_listen(&a);
        u->port = ((struct sockaddr_in6 *)&a.sa)->sin6_port;
    }
    if (fd < 0) {
        a = (struct star_address){.len = sizeof(struct sockaddr_in)};
        ((struct sockaddr_in *)&a.sa)->sin_family = AF_INET;
        if (u->count == 1)
            ((struct sockaddr_in *)&a.sa)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        fd = shmemi_star_listen(&a);
        u->port = ((struct sockaddr_in *)&a.sa)->sin_port;
    }
    return fd;
}

int shmemi_bootstrap_uid(unsigned char out[SHMEMI_UID_BYTES])
{
    static const char call[] = "shmemx_get_uniqueid";
    struct uid u = {.version = UID_VERSION, .boot = boot_number()};
    memcpy(u.magic, uid_magic, sizeof u.magic);
    if (getrandom(u.key, sizeof u.key, 0) != STAR_KEY_BYTES)
        return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "no random bytes for the id: %s", strerror(errno));
    u.address[u.count++] = htonl(INADDR_LOOPBACK);
    struct ifaddrs *list = NULL;
    if (getifaddrs(&list) == 0) {
        for (struct ifaddrs *i = list; i; i = i->ifa_next)
            if (i->ifa_addr && (i->ifa_flags & IFF_UP) && !(i->ifa_flags & IFF_LOOPBACK))
                add(&u, i->ifa_addr);
        freeifaddrs(list);
    }
    int listener = listen_on_all(&u);
    if (listener < 0)
        return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "no TCP port to listen on: %s", strerror(errno));
    check_of(u.check, &u);
    int status = shmemi_star_serve(listener, u.key);
    if (status != SHMEMX_SUCCESS)
        return status;
    memcpy(out, &u, sizeof u);
    return SHMEMX_SUCCESS;
}

int shmemi_bootstrap_tcp(struct shmemi_bootstrap *b, const struct shmemi_bootstrap_request *req)
{
    static const char call[] = "shmem_init";
    struct uid u;
    uint8_t check[STAR_MAC_BYTES];
    if (req->size < 1 || req->rank < 0 || req->rank >= req->size)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "rank %d of %d is not possible", req->rank, req->size);
    memcpy(&u, req->uid, sizeof u);
    check_of(check, &u);
    if (memcmp(u.magic, uid_magic, sizeof u.magic) != 0 || !shmemi_star_equal(check, u.check, sizeof check) ||
        u.count < 1 || u.count > UID_ADDRESSES)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call,
                           "the %d bytes are not a unique id (damaged, or never filled)", SHMEMI_UID_BYTES);
    if (u.version != UID_VERSION)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "the unique id is of version %u, this library knows %d",
                           u.version, UID_VERSION);
    struct star_address ways[UID_ADDRESSES + 1];
    int count = 0;
    bool same_host = u.boot == boot_number();
    for (int i = 0; i < u.count; i++) {
        if (!same_host && ntohl(u.address[i]) >> 24 == 127)
            continue;
        struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = u.port, .sin_addr.s_addr = u.address[i]};
        memset(&ways[count], 0, sizeof ways[count]);
        memcpy(&ways[count].sa, &in, sizeof in);
        ways[count++].len = sizeof in;
    }
    if (!IN6_IS_ADDR_UNSPECIFIED(&u.address6)) {
        struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = u.port, .sin6_addr = u.address6};
        memset(&ways[count], 0, sizeof ways[count]);
        memcpy(&ways[count].sa, &in6, sizeof in6);
        ways[count++].len = sizeof in6;
    }
    if (count == 0)
        return shmemi_fail(SHMEMX_ERR_BOOTSTRAP, call,
                           "the unique id was made on another machine without a network address");
    struct star_join join = {
        .addresses = ways,
        .count = count,
        .key = u.key,
        .rank = req->rank,
        .size = req->size,
        .name = "uid",
        .hint = "the process that made the unique id must be running, and an id serves one init"};
    int status = shmemi_star_join(b, &join);
    return status != SHMEMX_SUCCESS ? status : 1;
}
