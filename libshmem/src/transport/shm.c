/* Transport shm: the peers' copies are mapped into this process, so every operation is a load or a store and is
 * complete for this thread when its instruction retires; fence and quiet only order what other PEs see.
 *
 * Transport wire: the same operations between the simulated nodes of one machine (SHMEM_NODE_ID), in place of a network: it
 * has a network's cards and keys, and nobody above gets a pointer through it. */
#define _GNU_SOURCE
#include "transport.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "amo_cpu.h"
#include "base/node.h"
#include "shmem.h"
#include "shmemx.h"

static const struct shmemi_job *job;
static char **bases; /* [npes] of the host segments, of both transports; NULL = not reached */
static int users;    /* transports that are open */

static int open_bases(const struct shmemi_job *j)
{
    if (users++)
        return SHMEMX_SUCCESS;
    job = j;
    bases = calloc((size_t)j->npes, sizeof *bases);
    if (bases)
        return SHMEMX_SUCCESS;
    users = 0;
    return shmemi_fail(SHMEMX_ERR_SYSTEM, "shmem_init", "out of memory for %d PEs", j->npes);
}

static void close_bases(void)
{
    if (--users)
        return;
    free(bases);
    bases = NULL;
    job = NULL;
}

static int shm_probe(char *why, size_t n)
{
    snprintf(why, n, "always there");
    return 1;
}

static int shm_connect(int pe, int segment, const void *card, size_t n)
{
    (void)card, (void)n;
    if (segment != SHMEMI_SEGMENT_HOST || job->local_of[pe] < 0)
        return 0;
    bases[pe] = shmemi_copy_at(&job->segments[segment], job->local_of[pe]);
    return 1;
}

static inline char *at(int pe, int segment, uint64_t offset)
{
    (void)segment; /* host memory alone */
    return bases[pe] + offset;
}

static void *shm_map(int pe, int segment, uint64_t offset)
{
    return at(pe, segment, offset);
}

/* An aligned element of 4 or 8 bytes is one relaxed atomic store or load: a PE that waits on it never sees half of it.
 * The rest is memcpy, whose order within the bytes is nobody's business. */
static inline bool aligned(const void *p, size_t n)
{
    return ((uintptr_t)p & (n - 1)) == 0;
}

static inline void store(void *dest, const void *source, size_t n)
{
    if (n == 8 && aligned(dest, 8)) {
        uint64_t v;
        memcpy(&v, source, 8);
        __atomic_store_n((uint64_t *)dest, v, __ATOMIC_RELAXED);
    } else if (n == 4 && aligned(dest, 4)) {
        uint32_t v;
        memcpy(&v, source, 4);
        __atomic_store_n((uint32_t *)dest, v, __ATOMIC_RELAXED);
    } else {
        memcpy(dest, source, n);
    }
}

static inline void load(void *dest, const void *source, size_t n)
{
    if (n == 8 && aligned(source, 8)) {
        uint64_t v = __atomic_load_n((const uint64_t *)source, __ATOMIC_RELAXED);
        memcpy(dest, &v, 8);
    } else if (n == 4 && aligned(source, 4)) {
        uint32_t v = __atomic_load_n((const uint32_t *)source, __ATOMIC_RELAXED);
        memcpy(dest, &v, 4);
    } else {
        memcpy(dest, source, n);
    }
}

static int shm_put(int pe, int segment, uint64_t offset, const void *source, size_t n, unsigned how)
{
    (void)how;
    store(at(pe, segment, offset), source, n);
    return SHMEMX_SUCCESS;
}

static int shm_get(int pe, int segment, uint64_t offset, void *dest, size_t n, unsigned how)
{
    (void)how;
    load(dest, at(pe, segment, offset), n);
    return SHMEMX_SUCCESS;
}

static int shm_amo(int pe, int segment, uint64_t offset, const struct shmemi_amo *a, unsigned how)
{
    (void)how;
    shmemi_amo_cpu(at(pe, segment, offset), a);
    return SHMEMX_SUCCESS;
}

static int shm_put_signal(int pe, int segment, uint64_t offset, const void *source, size_t n, int sig_segment,
                          uint64_t sig_offset, uint64_t signal, int sig_op, unsigned how)
{
    (void)how;
    if (n)
        store(at(pe, segment, offset), source, n);
    _Atomic uint64_t *word = (void *)at(pe, sig_segment, sig_offset);
    /* release: the PE that reads the word (acquire, in signal.c and sync.c) sees the bytes */
    if (sig_op == SHMEM_SIGNAL_SET)
        atomic_store_explicit(word, signal, memory_order_release);
    else
        atomic_fetch_add_explicit(word, signal, memory_order_release);
    return SHMEMX_SUCCESS;
}

static int shm_fence(int pe, unsigned context)
{
    (void)pe, (void)context;
    /* observers: the target PE, which reads a later put first, must find the earlier one */
    atomic_thread_fence(memory_order_release);
    return SHMEMX_SUCCESS;
}

static int shm_quiet(int pe, unsigned context)
{
    (void)pe, (void)context;
    /* observers: this PE's next load and any PE whose own quiet comes later: of two PEs that put, quiet and then get
     * each other's word, at least one sees the other's. Needs the store buffer drained, hence the full fence. */
    atomic_thread_fence(memory_order_seq_cst);
    return SHMEMX_SUCCESS;
}

/* ---- wire -------------------------------------------------------------------------------------------------------------- */

/* Where another process finds this PE's copy: through the descriptor of the process that holds the node's memory. */
struct wire_card {
    char machine[40];
    int32_t pid, fd;
    uint64_t inode, stride, index;
};
/* A PE that is reached. */
static struct wire_peer {
    int pe;
    int32_t pid, fd;
} *wire_peers;
static int wire_peer_count;
/* The memory of a node, mapped once. */
struct wire_node {
    uint64_t inode;
    char *base;
    size_t bytes;
};
static struct wire_node *wire_nodes;
static int wire_count;

static void wire_descriptor(const struct wire_peer *p, char *name, size_t n)
{
    snprintf(name, n, "/proc/%d/fd/%d", (int)p->pid, (int)p->fd);
}

static int wire_probe(char *why, size_t n)
{
    bool simulated = shmemi_env.NODE_ID[0] != 0;
    snprintf(why, n, "%s",
             simulated ? "SHMEM_NODE_ID is set" : "only between nodes that SHMEM_NODE_ID makes");
    return simulated;
}

static int wire_address(void *card, size_t room)
{
    struct wire_card c = {.pid = getpid(), .fd = job->segments[SHMEMI_SEGMENT_HOST].fd};
    struct stat st;
    if (fstat(c.fd, &st) != 0 || room < sizeof c)
        return shmemi_fail(SHMEMX_ERR_SYSTEM, "shmem_init", "fstat of the heap: %s", strerror(errno));
    shmemi_node_machine(c.machine, sizeof c.machine);
    c.inode = st.st_ino;
    c.stride = job->segments[SHMEMI_SEGMENT_HOST].stride;
    c.index = (uint64_t)job->local_of[job->me];
    memcpy(card, &c, sizeof c);
    return sizeof c;
}

static int map_node(const struct wire_card *c, const struct wire_peer *peer, char **base)
{
    for (int i = 0; i < wire_count; ++i)
        if (wire_nodes[i].inode == c->inode) {
            *base = wire_nodes[i].base;
            return SHMEMX_SUCCESS;
        }
    char name[64];
    struct stat st;
    wire_descriptor(peer, name, sizeof name);
    int fd = open(name, O_RDWR | O_CLOEXEC);
    void *p = MAP_FAILED;
    if (fd >= 0 && fstat(fd, &st) == 0 && st.st_ino == c->inode)
        p = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    int err = errno;
    if (fd >= 0)
        close(fd);
    struct wire_node *more = realloc(wire_nodes, sizeof *more * (size_t)(wire_count + 1));
    if (more)
        wire_nodes = more;
    if (p == MAP_FAILED || !more) {
        if (p != MAP_FAILED)
            munmap(p, (size_t)st.st_size);
        return shmemi_fail(SHMEMX_ERR_SYSTEM, "shmem_init", "memory of PE %d, %s: %s", peer->pe, name,
                           strerror(err));
    }
    (void)madvise(p, (size_t)st.st_size, MADV_DONTDUMP);
    wire_nodes[wire_count++] = (struct wire_node){c->inode, p, (size_t)st.st_size};
    *base = p;
    return SHMEMX_SUCCESS;
}

static int wire_connect(int pe, int segment, const void *card, size_t n)
{
    struct wire_card c;
    char machine[sizeof c.machine], *base = NULL;
    if (segment != SHMEMI_SEGMENT_HOST || n != sizeof c)
        return 0;
    memcpy(&c, card, sizeof c);
    shmemi_node_machine(machine, sizeof machine);
    if (strcmp(machine, c.machine) != 0)
        return 0;
    if (!wire_peers)
        wire_peers = calloc((size_t)job->npes, sizeof *wire_peers);
    if (!wire_peers)
        return shmemi_fail(SHMEMX_ERR_SYSTEM, "shmem_init", "out of memory for %d PEs", job->npes);
    struct wire_peer *peer = &wire_peers[wire_peer_count];
    *peer = (struct wire_peer){pe, c.pid, c.fd};
    int rc = map_node(&c, peer, &base);
    if (rc)
        return rc;
    wire_peer_count++;
    bases[pe] = base + c.index * c.stride;
    return 1;
}

/* A dead process has no descriptors, not even while its parent has not looked yet. */
static int wire_lost(char *why, size_t n)
{
    char name[64];
    for (int i = 0; i < wire_peer_count; ++i) {
        wire_descriptor(&wire_peers[i], name, sizeof name);
        if (access(name, F_OK) != 0) {
            snprintf(why, n, "process %d ended without shmem_finalize", (int)wire_peers[i].pid);
            return wire_peers[i].pe;
        }
    }
    return -1;
}

static void wire_close(void)
{
    for (int i = 0; i < wire_count; ++i)
        munmap(wire_nodes[i].base, wire_nodes[i].bytes);
    free(wire_nodes);
    free(wire_peers);
    wire_nodes = NULL;
    wire_peers = NULL;
    wire_count = wire_peer_count = 0;
    close_bases();
}

#define LOADS_AND_STORES                                                                                     \
    .put = shm_put, .get = shm_get, .amo = shm_amo, .put_signal = shm_put_signal, .fence = shm_fence,        \
    .quiet = shm_quiet

const struct shmemi_transport shmemi_transport_shm = {
    .name = "shm",
    .probe = shm_probe,
    .open = open_bases,
    .connect = shm_connect,
    .close = close_bases,
    .map = shm_map,
    LOADS_AND_STORES,
};

const struct shmemi_transport shmemi_transport_wire = {
    .name = "wire",
    .probe = wire_probe,
    .open = open_bases,
    .address = wire_address,
    .connect = wire_connect,
    .close = wire_close,
    .lost = wire_lost,
    LOADS_AND_STORES,
};
