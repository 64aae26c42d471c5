#define _GNU_SOURCE
#include "node.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "fdpass.h"

struct shmemi_node shmemi_node;

enum { SOCKET_NAME = 64 };
enum pe_state { PE_ABSENT, PE_RUNNING, PE_LEFT };

/* The control segment. */
struct control {
    _Atomic uint32_t ending; /* futex: 1 = every PE exits with `status` */
    _Atomic int32_t status;
    char pad[SHMEMI_CACHE_LINE - 8];
    struct {
        _Atomic uint32_t state;
        int32_t pid;
    } pe[]; /* by local number */
};

static struct {
    struct control *control;
    size_t bytes;
    int fd;
    int *world_of;                  /* [local_npes] */
    int listener;                   /* between learn and open */
    char first_socket[SOCKET_NAME]; /* of the node's first PE */
    bool launched, watching;
    pid_t parent;
    pthread_t watcher;
    _Atomic bool stop;
} node = {.fd = -1, .listener = -1};

/* What each PE tells the others before there is any shared memory. */
struct card {
    char machine[40];         /* equal = same processors: boot id */
    char host[48];            /* equal on one machine = descriptors can be shared: network namespace, user */
    char node[64];            /* equal on one host = same node: what the user says */
    char socket[SOCKET_NAME]; /* where its descriptors are to be had */
    uint64_t heap_bytes;
    cpu_set_t cpus;
};

void shmemi_node_machine(char *name, size_t n)
{
    char boot[64] = "";
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        ssize_t got = read(fd, boot, sizeof boot - 1);
        boot[got > 0 ? got : 0] = 0;
        close(fd);
    }
    if (!boot[0])
        gethostname(boot, sizeof boot - 1);
    snprintf(name, n, "%.36s", boot);
}

/* SHMEM_NODE_ID: "/2" = two PEs in a row a node, "%2" = two nodes in turn, any other text is a node's name. */
static int node_id(const char *call, int pe, char *id, size_t n)
{
    const char *text = shmemi_env.NODE_ID;
    if (text[0] != '/' && text[0] != '%') {
        if (strlen(text) >= n)
            return shmemi_fail(SHMEMX_ERR_ARGUMENT, call,
                               "SHMEM_NODE_ID has %zu characters, up to %zu are possible", strlen(text),
                               n - 1);
        snprintf(id, n, "%s", text);
        return SHMEMX_SUCCESS;
    }
    char *end;
    long by = strtol(text + 1, &end, 10);
    if (end == text + 1 || *end || by < 1)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call,
                           "SHMEM_NODE_ID is \"%s\": a whole number from 1 on follows %c", text, text[0]);
    snprintf(id, n, "%ld", text[0] == '/' ? pe / by : pe % by);
    return SHMEMX_SUCCESS;
}

static void name_host(char *name, size_t n)
{
    /* descriptors travel over an abstract socket, which lives in the network namespace */
    struct stat ns = {0};
    (void)stat("/proc/self/ns/net", &ns);
    snprintf(name, n, "%lx/%u", (unsigned long)ns.st_ino, (unsigned)getuid());
}

static bool same_host(const struct card *a, const struct card *b)
{
    return strcmp(a->machine, b->machine) == 0 && strcmp(a->host, b->host) == 0;
}

static int lock_byte(int pe, short type)
{
    struct flock f = {.l_type = type, .l_whence = SEEK_SET, .l_start = pe, .l_len = 1};
    return fcntl(node.fd, F_SETLK, &f);
}

static void flush_and_exit(int status)
{
    /* another thread may hold a stream's lock for good: never wait for it */
    FILE *streams[] = {stdout, stderr};
    for (int i = 0; i < 2; ++i)
        if (ftrylockfile(streams[i]) == 0) {
            fflush(streams[i]);
            funlockfile(streams[i]);
        }
    _exit(status);
}

int shmemi_node_find_dead(int *pid)
{
    if (!node.control)
        return -1;
    for (int i = 0; i < shmemi_node.local_npes; ++i) {
        if (i == shmemi_node.local_me)
            continue;
        if (atomic_load_explicit(&node.control->pe[i].state, memory_order_acquire) != PE_RUNNING)
            continue;
        struct flock f = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = i, .l_len = 1};
        if (fcntl(node.fd, F_GETLK, &f) == 0 && f.l_type == F_UNLCK &&
            atomic_load_explicit(&node.control->pe[i].state, memory_order_acquire) == PE_RUNNING) {
            /* ended the job before it lost its lock, and this PE's watcher has not had a processor since */
            if (atomic_load_explicit(&node.control->ending, memory_order_acquire))
                flush_and_exit(atomic_load_explicit(&node.control->status, memory_order_relaxed));
            if (pid)
                *pid = node.control->pe[i].pid;
            return node.world_of[i];
        }
    }
    return -1;
}

/* Sleeps until somebody ends the job; once a second sees whether the launcher still lives. */
static void *watch(void *unused)
{
    (void)unused;
    struct control *c = node.control;
    while (!atomic_load_explicit(&node.stop, memory_order_acquire)) {
        struct timespec second = {.tv_sec = 1};
        syscall(SYS_futex, &c->ending, FUTEX_WAIT, 0, &second, NULL, 0);
        if (atomic_load_explicit(&node.stop, memory_order_acquire))
            break;
        if (atomic_load_explicit(&c->ending, memory_order_acquire))
            flush_and_exit(atomic_load_explicit(&c->status, memory_order_relaxed));
        if (node.launched && getppid() != node.parent) {
            shmemi_warn("the launcher (process %d) is gone; this PE ends", (int)node.parent);
            flush_and_exit(1);
        }
    }
    return NULL;
}

static void wake_watchers(void)
{
    syscall(SYS_futex, &node.control->ending, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

void shmemi_node_end_all(int status)
{
    /* the first one's status counts: it tells the cause, later ones may be what the others made of it */
    if (!node.control || atomic_load_explicit(&node.control->ending, memory_order_acquire))
        return;
    atomic_store_explicit(&node.control->status, status, memory_order_relaxed);
    /* release: a watcher that sees `ending` (acquire) reads this status */
    atomic_store_explicit(&node.control->ending, 1, memory_order_release);
    wake_watchers();
}

static int start_watcher(const char *call)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old); /* the program's signals go to the program's threads */
    atomic_store(&node.stop, false);
    int err = pthread_create(&node.watcher, NULL, watch, NULL);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (err)
        return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "pthread_create: %s", strerror(err));
    node.watching = true;
    return SHMEMX_SUCCESS;
}

static int make_memfd(const char *call, const char *what, size_t bytes)
{
    int fd = memfd_create(what, MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)bytes) != 0) {
        int err = errno;
        if (fd >= 0)
            close(fd);
        return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "%zu bytes of shared memory for %s: %s", bytes, what,
                           strerror(err));
    }
    return fd;
}

static int out_of_memory(const char *call, int npes)
{
    return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "out of memory for %d PEs", npes);
}

/* Fills the tables of shmemi_node from everybody's cards. */
static int sort_cards(const char *call, const struct card *mine, const struct card *all)
{
    struct shmemi_node *n = &shmemi_node;
    cpu_set_t together;
    CPU_ZERO(&together);
    for (int pe = 0; pe < n->npes; ++pe) {
        if (all[pe].heap_bytes != mine->heap_bytes)
            return shmemi_fail(
                SHMEMX_ERR_MISMATCH, call,
                "PE %d has a heap of %llu bytes, this PE of %llu: SHMEM_SYMMETRIC_SIZE must be the "
                "same on all PEs",
                pe, (unsigned long long)all[pe].heap_bytes, (unsigned long long)mine->heap_bytes);
        int first = 0; /* PE of the same node */
        while (!same_host(&all[first], &all[pe]) || strcmp(all[first].node, all[pe].node) != 0)
            first++;
        n->node_of[pe] = first == pe ? n->nodes++ : n->node_of[first];
        n->index_of[pe] = n->node_npes[n->node_of[pe]]++;
        n->on_host[pe] = same_host(&all[pe], mine);
        n->host_npes += n->on_host[pe];
        if (strcmp(all[pe].machine, mine->machine) == 0) {
            CPU_OR(&together, &together, &all[pe].cpus);
            n->neighbours++;
        }
    }
    n->my_node = n->node_of[n->me];
    n->local_me = n->index_of[n->me];
    n->local_npes = n->node_npes[n->my_node];
    n->processors = CPU_COUNT(&together);
    for (int pe = 0; pe < n->npes; ++pe) {
        bool here = n->node_of[pe] == n->my_node;
        n->local_of[pe] = here ? n->index_of[pe] : -1;
        if (here)
            node.world_of[n->index_of[pe]] = pe;
    }
    snprintf(node.first_socket, sizeof node.first_socket, "%s", all[node.world_of[0]].socket);
    return SHMEMX_SUCCESS;
}

int shmemi_node_learn(const char *call, struct shmemi_bootstrap *b, size_t heap_bytes, bool together)
{
    struct shmemi_node *n = &shmemi_node;
    struct card mine;
    memset(&mine, 0, sizeof mine);
    shmemi_node_machine(mine.machine, sizeof mine.machine);
    mine.heap_bytes = heap_bytes;
    if (sched_getaffinity(0, sizeof mine.cpus, &mine.cpus) != 0)
        CPU_SET(0, &mine.cpus);
    name_host(mine.host, sizeof mine.host);
    int rc = node_id(call, b->rank, mine.node, sizeof mine.node - 16);
    if (rc)
        return rc;
    if (!together)
        snprintf(mine.node + strlen(mine.node), 16, "/%d", b->rank);
    node.listener = shmemi_fdpass_listen(call, mine.socket, sizeof mine.socket);
    if (node.listener < 0)
        return node.listener;
    size_t npes = (size_t)b->size;
    n->me = b->rank;
    n->npes = b->size;
    n->local_of = malloc(sizeof(int) * npes);
    n->node_of = malloc(sizeof(int) * npes);
    n->index_of = malloc(sizeof(int) * npes);
    n->node_npes = calloc(npes, sizeof(int));
    n->on_host = calloc(npes, sizeof(bool));
    node.world_of = malloc(sizeof(int) * npes);
    struct card *all = malloc(sizeof *all * npes);
    if (!n->local_of || !n->node_of || !n->index_of || !n->node_npes || !n->on_host || !node.world_of || !all)
        rc = out_of_memory(call, b->size);
    else if ((rc = b->allgather(b, &mine, all, sizeof mine)) == 0)
        rc = sort_cards(call, &mine, all);
    free(all);
    if (rc)
        shmemi_node_close();
    return rc;
}

int shmemi_node_pe(int node_number, int index)
{
    int pe = 0;
    while (shmemi_node.node_of[pe] != node_number || shmemi_node.index_of[pe] != index)
        pe++;
    return pe;
}

int shmemi_node_open(const char *call, struct shmemi_bootstrap *b, size_t bytes, int *heap_fd)
{
    struct shmemi_node *n = &shmemi_node;
    int fds[2] = {-1, -1}, rc;
    node.bytes = sizeof *node.control + sizeof node.control->pe[0] * (size_t)n->local_npes;
    if (n->local_me != 0)
        rc = shmemi_fdpass_fetch(call, node.first_socket, node.world_of[0], fds, 2);
    else if ((fds[0] = make_memfd(call, "libshmem control", node.bytes)) < 0)
        rc = fds[0];
    else if ((fds[1] = make_memfd(call, "libshmem heap", bytes * (size_t)n->local_npes)) < 0)
        rc = fds[1];
    else
        rc = shmemi_fdpass_serve(call, node.listener, fds, 2, n->local_npes - 1);
    close(node.listener);
    node.listener = -1;
    if (rc == 0) {
        node.fd = fds[0];
        void *p = mmap(NULL, node.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, node.fd, 0);
        if (p == MAP_FAILED || lock_byte(n->local_me, F_WRLCK) != 0) {
            rc = shmemi_fail(SHMEMX_ERR_SYSTEM, call, "control segment of %zu bytes: %s", node.bytes,
                             strerror(errno));
        } else {
            node.control = p;
            node.control->pe[n->local_me].pid = getpid();
            atomic_store_explicit(&node.control->pe[n->local_me].state, PE_RUNNING, memory_order_release);
            node.launched = b->launched;
            node.parent = getppid();
            rc = start_watcher(call);
        }
    }
    if (rc) {
        for (int i = 0; i < 2; ++i)
            if (fds[i] >= 0 && fds[i] != node.fd)
                close(fds[i]);
        shmemi_node_close();
        return rc;
    }
    *heap_fd = fds[1];
    return SHMEMX_SUCCESS;
}

void shmemi_node_close(void)
{
    if (node.watching) {
        atomic_store_explicit(&node.stop, true, memory_order_release);
        wake_watchers();
        /* a wake between the watcher's test of `stop` and its sleep is lost: it then sleeps out its second; so
         * wake until it is gone */
        struct timespec t;
        do {
            clock_gettime(CLOCK_REALTIME, &t);
            t.tv_nsec += 1000000;
            if (t.tv_nsec >= 1000000000)
                t.tv_sec++, t.tv_nsec -= 1000000000;
            wake_watchers();
        } while (pthread_timedjoin_np(node.watcher, NULL, &t) == ETIMEDOUT);
        node.watching = false;
    }
    if (node.control) {
        /* left before unlocked: find_dead looks at the state again after it saw the lock gone */
        atomic_store_explicit(&node.control->pe[shmemi_node.local_me].state, PE_LEFT, memory_order_release);
        munmap(node.control, node.bytes);
        node.control = NULL;
    }
    if (node.fd >= 0)
        close(node.fd); /* drops the record lock */
    node.fd = -1;
    if (node.listener >= 0)
        close(node.listener);
    node.listener = -1;
    free(node.world_of);
    free(shmemi_node.local_of);
    free(shmemi_node.node_of);
    free(shmemi_node.index_of);
    free(shmemi_node.node_npes);
    free(shmemi_node.on_host);
    node.world_of = NULL;
    memset(&shmemi_node, 0, sizeof shmemi_node);
}
