/* Transport verbs: registered memory. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "base/gpu.h"
#include "verbs.h"

struct buffer {
    char *addr;
    size_t n;
    struct ibv_mr *mr;
};

static struct {
    char *base; /* landings, which peers write; then receives and bounce slots, which are local */
    size_t bytes, local_at;
    struct ibv_mr *landing, *local;
    char *receives, *slots;
    int16_t free_slot[VERBS_SLOTS];
    int free_slots;
    struct buffer *buffers; /* by address */
    int count, room;
} memory;

/* ---- registering --------------------------------------------------------------------------------------- */

int shmemi_verbs_register(const char *call, void *addr, size_t n, int access, struct ibv_mr **mr)
{
    return shmemi_verbs_register_in(call, &shmemi_verbs.port, shmemi_verbs.pd, addr, n, access, mr);
}

int shmemi_verbs_register_in(const char *call, const struct verbs_port *port, struct ibv_pd *pd, void *addr,
                             size_t n, int access, struct ibv_mr **mr)
{
    *mr = shmemi_verbs_lib(NULL, 0)->reg_mr(pd, addr, n, access);
    if (*mr)
        return SHMEMX_SUCCESS;
    int err = errno;
    struct rlimit limit = {0};
    char most[32] = "unlimited";
    if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
        snprintf(most, sizeof most, "%llu KiB", (unsigned long long)limit.rlim_cur >> 10);
    bool locked = err == ENOMEM || err == EAGAIN || err == EPERM;
    return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "%s cannot register %zu bytes at %p: %s%s%s%s", port->name, n,
                       addr, strerror(err), locked ? "; this process may lock " : "", locked ? most : "",
                       locked ? " of memory (`ulimit -l`, /etc/security/limits.conf, or a smaller "
                                "SHMEM_SYMMETRIC_SIZE)"
                              : "");
}

static void deregister(struct ibv_mr **mr)
{
    if (*mr)
        (void)shmemi_verbs.lib->dereg_mr(*mr);
    *mr = NULL;
}

static size_t up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

int shmemi_verbs_memory_open(const char *call)
{
    size_t npes = (size_t)shmemi_verbs.job->npes, page = 4096;
    size_t landings = up(npes * VERBS_CREDITS * sizeof(struct verbs_landing), page);
    size_t receives = up(npes * VERBS_CREDITS * VERBS_REQUEST_BYTES, page);
    memory.local_at = landings;
    memory.bytes = landings + receives + (size_t)VERBS_SLOTS * VERBS_SLOT_BYTES;
    /* shared: a forked child's copy on write must not part us from the pages that the NIC knows */
    char *p = mmap(NULL, memory.bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "%zu bytes of memory: %s", memory.bytes, strerror(errno));
    memory.base = p;
    memory.receives = p + landings;
    memory.slots = p + landings + receives;
    for (memory.free_slots = 0; memory.free_slots < VERBS_SLOTS; ++memory.free_slots)
        memory.free_slot[memory.free_slots] = (int16_t)memory.free_slots;
    int rc = shmemi_verbs_register(call, p, landings, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE,
                                   &memory.landing);
    return rc ? rc
              : shmemi_verbs_register(call, p + landings, memory.bytes - landings, IBV_ACCESS_LOCAL_WRITE,
                                      &memory.local);
}

void shmemi_verbs_memory_close(void)
{
    for (int segment = 0; segment < SHMEMI_SEGMENT_COUNT; ++segment) {
        struct verbs_chunks *c = &shmemi_verbs.chunks[segment];
        for (int i = 0; i < c->count; ++i) {
            deregister(&c->chunk[i].mr);
            free(c->chunk[i].keys);
        }
        free(c->chunk);
        *c = (struct verbs_chunks){0};
    }
    for (int i = 0; i < memory.count; ++i)
        deregister(&memory.buffers[i].mr);
    free(memory.buffers);
    deregister(&memory.landing);
    deregister(&memory.local);
    if (memory.base)
        munmap(memory.base, memory.bytes);
    memset(&memory, 0, sizeof memory);
}

/* ---- the heap's chunks --------------------------------------------------------------------------------- */

static int exposed(int segment, uint64_t offset, size_t n, struct verbs_key *key)
{
    const char *call = "register memory for its peers";
    struct verbs_chunks *c = &shmemi_verbs.chunks[segment];
    struct verbs_chunk new = {offset, n, NULL, calloc((size_t)shmemi_verbs.job->npes, sizeof *new.keys)};
    struct verbs_chunk *more = realloc(c->chunk, sizeof *more * (size_t)(c->count + 1));
    if (more)
        c->chunk = more;
    if (!new.keys || !more) {
        free(new.keys);
        return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "out of memory for %d PEs", shmemi_verbs.job->npes);
    }
    char *addr = shmemi_verbs.job->segments[segment].base + offset;
    int rc = shmemi_verbs_register(call, addr, n,
                                   IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ |
                                       (shmemi_verbs.native ? IBV_ACCESS_REMOTE_ATOMIC : 0),
                                   &new.mr);
    if (rc) {
        free(new.keys);
        return rc;
    }
    c->chunk[c->count++] = new;
    c->end = offset + n;
    *key = (struct verbs_key){(uint64_t)(uintptr_t)addr, new.mr->rkey, 1};
    return SHMEMX_SUCCESS;
}

int shmemi_verbs_expose(int segment, uint64_t offset, size_t n, void *key, size_t room)
{
    struct verbs_key mine;
    if (room < sizeof mine)
        return shmemi_fail(SHMEMX_ERR_LIMIT, "register memory for its peers", "a key has %zu bytes, not %zu",
                           sizeof mine, room);
    pthread_mutex_lock(&shmemi_verbs.lock);
    shmemi_verbs_qp_drop_idle();
    int rc = exposed(segment, offset, n, &mine);
    pthread_mutex_unlock(&shmemi_verbs.lock);
    if (rc)
        return rc;
    memcpy(key, &mine, sizeof mine);
    return sizeof mine;
}

/* The chunk that holds an offset, NULL = none. */
static struct verbs_chunk *chunk_at(int segment, uint64_t offset)
{
    struct verbs_chunks *c = &shmemi_verbs.chunks[segment];
    int low = 0, high = c->count;
    if (SHMEMI_UNLIKELY(offset >= c->end))
        return NULL;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (c->chunk[middle].offset <= offset)
            low = middle;
        else
            high = middle;
    }
    return &c->chunk[low];
}

int shmemi_verbs_learn(int pe, int segment, uint64_t offset, size_t n, const void *key, size_t key_bytes)
{
    (void)n;
    pthread_mutex_lock(&shmemi_verbs.lock);
    struct verbs_chunk *c = chunk_at(segment, offset);
    if (c && key_bytes == sizeof *c->keys)
        memcpy(&c->keys[pe], key, sizeof *c->keys);
    pthread_mutex_unlock(&shmemi_verbs.lock);
    return c && key_bytes == sizeof *c->keys ? SHMEMX_SUCCESS
                                             : shmemi_fail(SHMEMX_ERR_MISMATCH, "learn its peers' keys",
                                                           "PE %d gave %zu bytes for offset %llu", pe,
                                                           key_bytes, (unsigned long long)offset);
}

static void shrink(size_t *n, size_t most)
{
    if (*n > most)
        *n = most;
}

int shmemi_verbs_remote(const char *call, int pe, int segment, uint64_t offset, size_t *n, uint64_t *addr,
                        uint32_t *rkey)
{
    const struct verbs_chunk *c = chunk_at(segment, offset);
    if (SHMEMI_UNLIKELY(!c || !c->keys[pe].known))
        return shmemi_fail(SHMEMX_ERR_UNSUPPORTED, call,
                           "offset %llu of PE %d's memory is not registered for this transport",
                           (unsigned long long)offset, pe);
    *addr = c->keys[pe].addr + (offset - c->offset);
    *rkey = c->keys[pe].rkey;
    shrink(n, c->n - (size_t)(offset - c->offset));
    return SHMEMX_SUCCESS;
}

/* ---- local memory -------------------------------------------------------------------------------------- */

/* Number of users' buffers that start at or below an address. */
static int below(const char *addr)
{
    int low = 0, high = memory.count;
    while (low < high) {
        int middle = (low + high) / 2;
        if (memory.buffers[middle].addr <= addr)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

bool shmemi_verbs_local(const void *addr, size_t *n, uint32_t *lkey)
{
    for (int segment = 0; segment < SHMEMI_SEGMENT_COUNT; ++segment) {
        uint64_t offset = (uint64_t)((const char *)addr - shmemi_verbs.job->segments[segment].base);
        const struct verbs_chunk *c = chunk_at(segment, offset);
        if (!c)
            continue;
        *lkey = c->mr->lkey;
        shrink(n, c->n - (size_t)(offset - c->offset));
        return true;
    }
    int i = below(addr);
    const struct buffer *b = i ? &memory.buffers[i - 1] : NULL;
    if (!b || (const char *)addr >= b->addr + b->n)
        return false;
    *lkey = b->mr->lkey;
    shrink(n, (size_t)(b->addr + b->n - (const char *)addr));
    return true;
}

int shmemi_verbs_buffer_register(void *addr, size_t n)
{
    const char *call = "shmemx_buffer_register";
    struct ibv_mr *mr = NULL;
    if (shmemi_gpu_owns(addr))
        return 0; /* goes by way of host memory (rma.c) */
    pthread_mutex_lock(&shmemi_verbs.lock);
    int rc = 0;
    if (memory.count == memory.room) {
        int room = memory.room ? memory.room * 2 : 16;
        struct buffer *more = realloc(memory.buffers, sizeof *more * (size_t)room);
        if (more) {
            memory.buffers = more;
            memory.room = room;
        } else {
            rc = shmemi_fail(SHMEMX_ERR_SYSTEM, call, "out of memory for %d buffers", room);
        }
    }
    if (rc == 0 && (rc = shmemi_verbs_register(call, addr, n, IBV_ACCESS_LOCAL_WRITE, &mr)) == 0) {
        int at = below(addr);
        memmove(&memory.buffers[at + 1], &memory.buffers[at],
                sizeof *memory.buffers * (size_t)(memory.count - at));
        memory.buffers[at] = (struct buffer){addr, n, mr};
        memory.count++;
        rc = 1;
    }
    pthread_mutex_unlock(&shmemi_verbs.lock);
    return rc;
}

void shmemi_verbs_buffer_unregister(void *addr)
{
    pthread_mutex_lock(&shmemi_verbs.lock);
    int at = below(addr) - 1;
    if (at >= 0 && memory.buffers[at].addr == (char *)addr) {
        deregister(&memory.buffers[at].mr);
        memory.count--;
        memmove(&memory.buffers[at], &memory.buffers[at + 1],
                sizeof *memory.buffers * (size_t)(memory.count - at));
    }
    pthread_mutex_unlock(&shmemi_verbs.lock);
}

int shmemi_verbs_slot_take(void)
{
    return memory.free_slots ? memory.free_slot[--memory.free_slots] : -1;
}

void shmemi_verbs_slot_give(int slot)
{
    memory.free_slot[memory.free_slots++] = (int16_t)slot;
}

void *shmemi_verbs_slot(int slot)
{
    return memory.slots + (size_t)slot * VERBS_SLOT_BYTES;
}

uint32_t shmemi_verbs_slot_key(void)
{
    return memory.local->lkey;
}

uint32_t shmemi_verbs_landing_key(bool remote)
{
    return remote ? memory.landing->rkey : memory.landing->lkey;
}

struct verbs_landing *shmemi_verbs_landing(int pe)
{
    return (struct verbs_landing *)memory.base + (size_t)pe * VERBS_CREDITS;
}

const void *shmemi_verbs_received(const struct verbs_peer *p, unsigned index)
{
    return memory.receives + ((size_t)p->pe * VERBS_CREDITS + index) * VERBS_REQUEST_BYTES;
}

int shmemi_verbs_receive(struct verbs_peer *p, unsigned index)
{
    struct ibv_sge sge = {(uint64_t)(uintptr_t)shmemi_verbs_received(p, index), VERBS_REQUEST_BYTES,
                          memory.local->lkey};
    struct ibv_recv_wr *bad, wr = {.wr_id = (uint64_t)p->pe << 32 | index, .sg_list = &sge, .num_sge = 1};
    return ibv_post_recv(p->qp, &wr, &bad);
}
