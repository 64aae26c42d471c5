/* Buffers: memory of the program that the transports are told of, so that they can use it as the local side of puts and
 * gets without detours. The list is kept here, since transports come and go: one that opens later is told then. */
#include <pthread.h>
#include <stdlib.h>

#include "heap.h"

struct buffer {
    char *start;
    size_t bytes;
    unsigned known, held; /* transports that have been told, and those that hold something for it (route.c) */
    struct buffer *next;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct buffer *buffers;

static bool overlap(const char *a, size_t a_bytes, const char *b, size_t b_bytes)
{
    return a < b + b_bytes && b < a + a_bytes;
}

/* The heaps that are mapped here are known to all transports. */
static int outside_heaps(const char *call, const char *start, size_t bytes)
{
    static const char *const names[] = {[SHMEMI_SEGMENT_HOST] = "host", [SHMEMI_SEGMENT_DEVICE] = "GPU"};
    for (int k = 0; k < SHMEMI_SEGMENT_COUNT; ++k) {
        const struct shmemi_segment *s = &shmemi_world.segments[k];
        int copies = k == SHMEMI_SEGMENT_HOST ? shmemi_node.local_npes : shmemi_world.npes;
        for (int i = 0; s->base && i < copies; ++i) {
            const char *copy = shmemi_copy_at(s, i);
            if (overlap(start, bytes, copy, s->stride))
                return shmemi_fail(SHMEMX_ERR_ARGUMENT, call,
                                   "%zu bytes at %p are in the symmetric %s heap [%p, +%zu), which needs no "
                                   "registration",
                                   bytes, (const void *)start, names[k], (const void *)copy, s->stride);
        }
    }
    return SHMEMX_SUCCESS;
}

static int check(const char *call, const char *start, size_t bytes)
{
    if (!start)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "addr is NULL");
    if (bytes == 0 || bytes > UINTPTR_MAX - (uintptr_t)start)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "%zu bytes at %p are no range of memory", bytes,
                           (const void *)start);
    return outside_heaps(call, start, bytes);
}

/* The lock is held. */
static int add(const char *call, struct buffer *new)
{
    for (const struct buffer *b = buffers; b; b = b->next)
        if (overlap(new->start, new->bytes, b->start, b->bytes))
            return shmemi_fail(SHMEMX_ERR_ARGUMENT, call,
                               "%zu bytes at %p overlap with [%p, +%zu), which is registered already",
                               new->bytes, (void *)new->start, (void *)b->start, b->bytes);
    int rc = shmemi_route_register(new->start, new->bytes, &new->known, &new->held);
    if (rc)
        return rc;
    new->next = buffers;
    buffers = new;
    return SHMEMX_SUCCESS;
}

int shmemx_buffer_register(void *addr, size_t nbytes)
{
    const char *call = "shmemx_buffer_register";
    SHMEMI_REQUIRE_INIT(call);
    int rc = check(call, addr, nbytes);
    if (rc)
        return rc;
    struct buffer *new = malloc(sizeof *new);
    if (!new)
        return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "out of memory");
    *new = (struct buffer){.start = addr, .bytes = nbytes};
    pthread_mutex_lock(&lock);
    rc = add(call, new);
    pthread_mutex_unlock(&lock);
    if (rc)
        free(new);
    return rc;
}

int shmemx_buffer_unregister(void *addr)
{
    const char *call = "shmemx_buffer_unregister";
    SHMEMI_REQUIRE_INIT(call);
    pthread_mutex_lock(&lock);
    struct buffer **at = &buffers;
    while (*at && (*at)->start != addr)
        at = &(*at)->next;
    struct buffer *found = *at;
    if (found) {
        *at = found->next;
        shmemi_route_unregister(addr, &found->known, &found->held);
    }
    pthread_mutex_unlock(&lock);
    free(found);
    return found ? SHMEMX_SUCCESS
                 : shmemi_fail(SHMEMX_ERR_ADDRESS, call, "no registered buffer starts at %p", addr);
}

int shmemi_buffer_announce(const char *call)
{
    int rc = SHMEMX_SUCCESS;
    pthread_mutex_lock(&lock);
    for (struct buffer *b = buffers; b && rc == 0; b = b->next) {
        rc = shmemi_route_register(b->start, b->bytes, &b->known, &b->held);
        if (rc)
            shmemi_warn(
                "%s: the buffer of %zu bytes at %p, registered before the GPU heap opened, is no good; "
                "was its memory freed?",
                call, b->bytes, (void *)b->start);
    }
    pthread_mutex_unlock(&lock);
    return rc;
}

void shmemi_buffer_withdraw(void)
{
    pthread_mutex_lock(&lock);
    for (struct buffer *b = buffers; b; b = b->next)
        shmemi_route_unregister(b->start, &b->known, &b->held);
    pthread_mutex_unlock(&lock);
}

void shmemi_buffer_close(void)
{
    shmemi_buffer_withdraw();
    pthread_mutex_lock(&lock);
    while (buffers) {
        struct buffer *b = buffers;
        buffers = b->next;
        free(b);
    }
    pthread_mutex_unlock(&lock);
}
