/* The fabric: packets between the NICs of the processes of one machine and one user.
 *
 * A NIC is known by its LID, which it finds free by binding the abstract socket of that name: no directory, no file, and
 * the name is gone with the process. Who wants to ask a NIC connects to its socket, and passes a memfd with two rings:
 * its requests, and their answers. A byte on the socket wakes a NIC that sleeps; the end of the socket is the end of the
 * other process. Answers never wait for anything but their asker, which always takes them: so rings that are full on both
 * sides cannot block each other. */
#define _GNU_SOURCE
#include "engine.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { FIRST_LID = 1, LIDS = 0xbfff, HELLO = 0x53494d32, SKIP = 1u << 31, ALIGN = 64 };
static const uint64_t LOOK_NS = 50000, AGAIN_NS = 2000000;

struct hello {
    uint32_t magic, lid;
};

static socklen_t name_of(struct sockaddr_un *a, uint16_t lid)
{
    *a = (struct sockaddr_un){.sun_family = AF_UNIX};
    int n = snprintf(a->sun_path + 1, sizeof a->sun_path - 1, "libshmem_sim.%u", lid);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
}

bool sim_fabric_open(struct sim_nic *nic)
{
    nic->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    nic->bell = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (nic->listener < 0 || nic->bell < 0)
        return false;
    uint32_t first = (uint32_t)(sim_random(nic) % LIDS);
    for (uint32_t i = 0; i < LIDS; ++i) {
        struct sockaddr_un a;
        uint16_t lid = (uint16_t)(FIRST_LID + (first + i) % LIDS);
        if (bind(nic->listener, (struct sockaddr *)&a, name_of(&a, lid)) == 0) {
            nic->lid = lid;
            return listen(nic->listener, 128) == 0;
        }
        if (errno != EADDRINUSE)
            return false;
    }
    return false;
}

static void drop(struct sim_nic *nic, struct sim_link *link)
{
    struct sim_link **at = &nic->links;
    while (*at != link)
        at = &(*at)->next;
    *at = link->next;
    if (link->fd >= 0)
        close(link->fd);
    if (link->memory)
        munmap(link->memory, sizeof *link->memory);
    free(link);
}

void sim_fabric_close(struct sim_nic *nic)
{
    while (nic->links)
        drop(nic, nic->links);
    if (nic->listener >= 0)
        close(nic->listener);
    if (nic->bell >= 0)
        close(nic->bell);
}

/* ---- making a link ------------------------------------------------------------------------------------- */

static bool same_user(int fd)
{
    struct ucred c;
    socklen_t n = sizeof c;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &c, &n) == 0 && c.uid == geteuid();
}

static struct sim_link *add(struct sim_nic *nic, int fd, bool ours, uint16_t lid)
{
    struct sim_link *link = calloc(1, sizeof *link);
    if (!link)
        return NULL;
    link->fd = fd;
    link->ours = ours;
    link->lid = lid;
    link->next = nic->links;
    nic->links = link;
    return link;
}

static bool say_hello(struct sim_nic *nic, struct sim_link *link)
{
    int memory = memfd_create("libshmem_sim", MFD_CLOEXEC);
    bool said = false;
    if (memory >= 0 && ftruncate(memory, sizeof *link->memory) == 0) {
        void *p = mmap(NULL, sizeof *link->memory, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
        link->memory = p == MAP_FAILED ? NULL : p;
        struct hello h = {HELLO, nic->lid};
        struct iovec v = {&h, sizeof h};
        union {
            struct cmsghdr head;
            char room[CMSG_SPACE(sizeof(int))];
        } control = {.room = {0}};
        struct msghdr m = {
            .msg_iov = &v, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &memory, sizeof memory);
        said = link->memory && sendmsg(link->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT) == sizeof h;
    }
    if (memory >= 0)
        close(memory);
    return said;
}

static bool reach(struct sim_nic *nic, struct sim_link *link)
{
    struct sockaddr_un a;
    socklen_t n = name_of(&a, link->lid);
    link->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (link->fd >= 0 && connect(link->fd, (struct sockaddr *)&a, n) == 0 && same_user(link->fd) &&
        say_hello(nic, link))
        return true;
    if (link->fd >= 0)
        close(link->fd);
    if (link->memory)
        munmap(link->memory, sizeof *link->memory);
    link->fd = -1;
    link->memory = NULL;
    link->again = nic->now + AGAIN_NS;
    return false;
}

struct sim_link *sim_link_to(struct sim_nic *nic, uint16_t lid)
{
    struct sim_link *link = nic->links;
    while (link && (!link->ours || link->lid != lid || link->dead))
        link = link->next;
    if (!link && !(link = add(nic, -1, true, lid)))
        return NULL;
    if (link->memory)
        return link;
    return nic->now >= link->again && reach(nic, link) ? link : NULL;
}

/* Takes the hello of who has connected. It has sent it at once, or soon will. */
static void hear_hello(struct sim_link *link)
{
    struct hello h = {0};
    struct iovec v = {&h, sizeof h};
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof(int))];
    } control = {.room = {0}};
    struct msghdr m = {
        .msg_iov = &v, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t n = recvmsg(link->fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    int memory = -1;
    struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&m) : NULL;
    if (c && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof(int)))
        memcpy(&memory, CMSG_DATA(c), sizeof memory);
    struct stat s;
    if (memory >= 0 && n == sizeof h && h.magic == HELLO && fstat(memory, &s) == 0 &&
        s.st_size == sizeof *link->memory) {
        void *p = mmap(NULL, sizeof *link->memory, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
        link->memory = p == MAP_FAILED ? NULL : p;
        link->lid = (uint16_t)h.lid;
    }
    if (memory >= 0)
        close(memory);
    link->dead = !link->memory;
}

/* ---- rings --------------------------------------------------------------------------------------------- */

static struct sim_ring *outgoing(struct sim_link *link)
{
    return link->ours ? &link->memory->requests : &link->memory->answers;
}

static struct sim_ring *incoming(struct sim_link *link)
{
    return link->ours ? &link->memory->answers : &link->memory->requests;
}

static uint32_t packet_bytes(uint32_t payload)
{
    return (uint32_t)((sizeof(struct sim_packet) + payload + ALIGN - 1) / ALIGN * ALIGN);
}

struct sim_packet *sim_packet_room(struct sim_link *link, uint32_t payload)
{
    struct sim_ring *r = outgoing(link);
    uint32_t n = packet_bytes(payload);
    uint64_t head = atomic_load_explicit(&r->head, memory_order_relaxed);
    /* acquire: pairs with the receiver's release: it has read what lay here */
    uint64_t room = SIM_RING - (head - atomic_load_explicit(&r->tail, memory_order_acquire));
    uint32_t to_end = (uint32_t)(SIM_RING - head % SIM_RING), skip = to_end < n ? to_end : 0;
    if (link->dead || room > SIM_RING || room < skip + n)
        return NULL;
    if (skip) {
        *(uint32_t *)(r->data + head % SIM_RING) = SKIP | skip;
        atomic_store_explicit(&r->head, head += skip, memory_order_release); /* as in push */
    }
    struct sim_packet *p = (struct sim_packet *)(r->data + head % SIM_RING);
    memset(p, 0, sizeof *p);
    p->bytes = n;
    return p;
}

static void wake_other(struct sim_link *link)
{
    _Atomic uint32_t *sleeping = &link->memory->sleeping[link->ours ? 1 : 0];
    /* seq_cst, as the sleeper's exchange: either it has seen the ring's new head, or this sees that it sleeps */
    if (atomic_fetch_add(sleeping, 0) && atomic_exchange(sleeping, 0))
        (void)!send(link->fd, "", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
}

void sim_packet_push(struct sim_nic *nic, struct sim_link *link)
{
    struct sim_ring *r = outgoing(link);
    uint64_t head = atomic_load_explicit(&r->head, memory_order_relaxed);
    struct sim_packet *p = (struct sim_packet *)(r->data + head % SIM_RING);
    p->lid = nic->lid;
    /* release: pairs with the receiver's acquire: it sees the packet */
    atomic_store_explicit(&r->head, head + p->bytes, memory_order_release);
    wake_other(link);
}

/* Takes packets, at most a ring full. */
static bool take(struct sim_nic *nic, struct sim_link *link)
{
    struct sim_ring *r = incoming(link);
    uint64_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed), first = tail;
    uint64_t head = atomic_load_explicit(&r->head, memory_order_acquire); /* pairs with push */
    if (head - tail > SIM_RING)
        link->dead = true;
    while (tail != head && !link->dead && !link->answer.active) {
        const struct sim_packet *p = (const struct sim_packet *)(r->data + tail % SIM_RING);
        uint32_t n = p->bytes & ~SKIP;
        if (n == 0 || n % ALIGN || n > head - tail || tail % SIM_RING + n > SIM_RING ||
            (!(p->bytes & SKIP) && (p->payload > SIM_PAYLOAD || packet_bytes(p->payload) > n))) {
            link->dead = true; /* the other side writes nonsense */
            break;
        }
        const unsigned char *payload = (const unsigned char *)(p + 1);
        if (p->bytes & SKIP)
            ;
        else if (link->ours)
            sim_answered(nic, p, payload);
        else if (!sim_request(nic, link, p, payload))
            break;
        tail += n;
        /* release: pairs with the sender's acquire: the room may be written again */
        atomic_store_explicit(&r->tail, tail, memory_order_release);
    }
    return tail != first;
}

/* ---- sockets ------------------------------------------------------------------------------------------- */

static void look(struct sim_nic *nic)
{
    int fd;
    while ((fd = accept4(nic->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0)
        if (!same_user(fd) || !add(nic, fd, false, 0))
            close(fd);
    for (struct sim_link *link = nic->links; link; link = link->next) {
        char bytes[64];
        ssize_t n;
        if (link->fd < 0 || link->dead)
            continue;
        if (!link->memory)
            hear_hello(link);
        while (link->memory && (n = recv(link->fd, bytes, sizeof bytes, MSG_DONTWAIT)) != -1)
            if (n == 0) {
                link->dead = true;
                break;
            }
    }
}

bool sim_fabric_step(struct sim_nic *nic)
{
    bool moved = false;
    if (nic->now - nic->links_looked >= LOOK_NS) {
        nic->links_looked = nic->now;
        look(nic);
    }
    for (struct sim_link *link = nic->links, *next; link; link = next) {
        next = link->next;
        if (link->memory) {
            bool was_dead = link->dead;
            if (was_dead && link->ours)
                link->dead = false; /* what it has answered before it ended */
            if (!link->dead && !link->ours)
                moved |= sim_answer(nic, link);
            if (!link->dead)
                moved |= take(nic, link);
            link->dead |= was_dead;
        }
        if (link->dead)
            drop(nic, link);
    }
    return moved;
}

static bool something(struct sim_nic *nic)
{
    for (struct sim_link *link = nic->links; link; link = link->next)
        if (link->memory && !link->answer.active &&
            atomic_load_explicit(&incoming(link)->head, memory_order_acquire) !=
                atomic_load_explicit(&incoming(link)->tail, memory_order_relaxed))
            return true;
    return false;
}

void sim_fabric_sleep(struct sim_nic *nic, uint64_t ns)
{
    struct pollfd fixed[64], *fds = fixed;
    unsigned n = 2, room = 2;
    for (struct sim_link *link = nic->links; link; link = link->next)
        room++;
    if (room > 64 && !(fds = malloc(room * sizeof *fds)))
        return;
    fds[0] = (struct pollfd){nic->listener, POLLIN, 0};
    fds[1] = (struct pollfd){nic->bell, POLLIN, 0};
    for (struct sim_link *link = nic->links; link; link = link->next) {
        if (link->memory)
            (void)atomic_exchange(&link->memory->sleeping[link->ours ? 0 : 1], 1); /* pairs with wake_other */
        if (link->fd >= 0)
            fds[n++] = (struct pollfd){link->fd, POLLIN, 0};
    }
    struct timespec t = {(time_t)(ns / 1000000000), (long)(ns % 1000000000)};
    uint64_t rung;
    if (!something(nic) && ppoll(fds, n, &t, NULL) > 0) {
        nic->links_looked = 0;
        if (fds[1].revents)
            (void)!read(nic->bell, &rung, sizeof rung);
    }
    for (struct sim_link *link = nic->links; link; link = link->next)
        if (link->memory)
            atomic_store(&link->memory->sleeping[link->ours ? 0 : 1], 0);
    if (fds != fixed)
        free(fds);
}
