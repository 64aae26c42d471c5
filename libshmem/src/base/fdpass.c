#define _GNU_SOURCE
#include "fdpass.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { MAX_FDS = 4, DEFAULT_SECONDS = 120 };

static double deadline(void)
{
    return shmemi_now() + (shmemi_env.TIMEOUT > 0 ? shmemi_env.TIMEOUT : DEFAULT_SECONDS);
}

static int wait_readable(int fd, double until)
{
    double left = until - shmemi_now();
    struct pollfd p = {.fd = fd, .events = POLLIN};
    int rc;
    do {
        rc = poll(&p, 1, left > 0 ? (int)(left * 1e3) + 1 : 0);
    } while (rc < 0 && errno == EINTR);
    return rc;
}

/* Abstract names start with a 0 byte and have an exact length. */
static socklen_t address(struct sockaddr_un *a, const char *name)
{
    memset(a, 0, sizeof *a);
    a->sun_family = AF_UNIX;
    size_t n = strlen(name);
    memcpy(a->sun_path + 1, name, n);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + n);
}

/* Other users of the machine can see and reach an abstract name: they are turned away here. */
static bool same_user(int fd)
{
    struct ucred who;
    socklen_t n = sizeof who;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &n) == 0 && who.uid == geteuid();
}

int shmemi_fdpass_listen(const char *call, char *name, size_t n)
{
    uint64_t r[2];
    if (getrandom(r, sizeof r, 0) != (ssize_t)sizeof r)
        return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "getrandom: %s", strerror(errno));
    snprintf(name, n, "libshmem-%016llx%016llx", (unsigned long long)r[0], (unsigned long long)r[1]);
    struct sockaddr_un a;
    socklen_t len = address(&a, name);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&a, len) != 0 || listen(fd, SOMAXCONN) != 0) {
        int err = errno;
        if (fd >= 0)
            close(fd);
        return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "Unix socket @%s: %s", name, strerror(err));
    }
    return fd;
}

int shmemi_fdpass_serve(const char *call, int listener, const int *fds, int count, int clients)
{
    double until = deadline();
    for (int served = 0; served < clients;) {
        int ready = wait_readable(listener, until);
        if (ready <= 0)
            return shmemi_fail(SHMEMX_ERR_TIMEOUT, call,
                               "%d of %d processes of this node did not come for the shared memory",
                               clients - served, clients);
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0)
            continue;
        if (same_user(fd)) {
            union {
                struct cmsghdr head;
                char room[CMSG_SPACE(sizeof(int) * MAX_FDS)];
            } control = {0};
            char byte = 'd';
            struct iovec io = {.iov_base = &byte, .iov_len = 1};
            struct msghdr m = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = control.room};
            m.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)count);
            struct cmsghdr *c = CMSG_FIRSTHDR(&m);
            c->cmsg_level = SOL_SOCKET;
            c->cmsg_type = SCM_RIGHTS;
            c->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)count);
            memcpy(CMSG_DATA(c), fds, sizeof(int) * (size_t)count);
            if (sendmsg(fd, &m, MSG_NOSIGNAL) == 1)
                served++;
        }
        close(fd);
    }
    return SHMEMX_SUCCESS;
}

static int receive(int fd, int *fds, int count)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof(int) * MAX_FDS)];
    } control = {0};
    char byte;
    struct iovec io = {.iov_base = &byte, .iov_len = 1};
    struct msghdr m = {
        .msg_iov = &io, .msg_iovlen = 1, .msg_control = control.room, .msg_controllen = sizeof control.room};
    ssize_t got;
    do {
        got = recvmsg(fd, &m, MSG_CMSG_CLOEXEC);
    } while (got < 0 && errno == EINTR);
    struct cmsghdr *c = got == 1 ? CMSG_FIRSTHDR(&m) : NULL;
    if (!c || c->cmsg_type != SCM_RIGHTS || c->cmsg_len != CMSG_LEN(sizeof(int) * (size_t)count)) {
        if (got >= 0)
            errno = ECONNRESET;
        return -1;
    }
    memcpy(fds, CMSG_DATA(c), sizeof(int) * (size_t)count);
    return 0;
}

int shmemi_fdpass_fetch(const char *call, const char *name, int pe, int *fds, int count)
{
    struct sockaddr_un a;
    socklen_t len = address(&a, name);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    int rc = SHMEMX_SUCCESS;
    if (fd < 0 || connect(fd, (struct sockaddr *)&a, len) != 0)
        rc = shmemi_fail(SHMEMX_ERR_SYSTEM, call, "cannot reach PE %d at Unix socket @%s: %s", pe, name,
                         strerror(errno));
    else if (!same_user(fd))
        rc = shmemi_fail(SHMEMX_ERR_BOOTSTRAP, call, "Unix socket @%s belongs to another user", name);
    else if (wait_readable(fd, deadline()) <= 0)
        rc = shmemi_fail(SHMEMX_ERR_TIMEOUT, call, "PE %d did not hand over the shared memory", pe);
    else if (receive(fd, fds, count) != 0)
        rc = shmemi_fail(SHMEMX_ERR_SYSTEM, call, "shared memory from PE %d: %s", pe, strerror(errno));
    if (fd >= 0)
        close(fd);
    return rc;
}
