/* The symmetric heap: one segment a PE, [the library's notes and mirrors | what shmem_malloc hands out]. */
#ifndef SHMEMI_HEAP_H
#define SHMEMI_HEAP_H

#include <pthread.h>

#include "alloc.h"
#include "world.h"

/* A part of what shmem_malloc hands out that blocks are taken from: the heap itself, or a space. */
struct shmemi_area {
    struct shmemi_alloc alloc;
    size_t at; /* where it starts, as an offset in the heap */
};
/* Guards what areas there are and their blocks: calls of other threads look at them in debug mode. */
extern pthread_mutex_t shmemi_heap_blocks;

/* Rounded up to what parts of a segment are aligned to. */
size_t shmemi_heap_aligned(size_t bytes);
/* Bytes that one PE hands out, from SHMEM_SYMMETRIC_SIZE, rounded to huge pages. */
int shmemi_heap_bytes(const char *call, size_t *bytes);
/* Maps the node's segments of `bytes` each from `fd`, which it owns from here on. */
int shmemi_heap_open(const char *call, int fd, size_t bytes);
/* Makes the segment up to `end` fit for networks; all PEs in step. */
int shmemi_heap_cover(const char *call, uint64_t end);
/* The same, and no byte more: the next space begins behind it. */
int shmemi_heap_cover_exactly(const char *call, uint64_t end);
void shmemi_heap_close(void);

/* Collective calls on the heap: what all PEs must agree on before it changes. */
enum shmemi_heap_change {
    SHMEMI_HEAP_MALLOC,
    SHMEMI_HEAP_FREE,
    SHMEMI_HEAP_REALLOC,
    SHMEMI_HEAP_SPACE,
    SHMEMI_HEAP_UNSPACE
};
struct shmemi_heap_request {
    int32_t what, kind, zeroed, space; /* space: 0 = none, else its number + 1 */
    uint64_t offset, bytes, align;
};
/* A barrier in which every PE shows its request; MISMATCH names the first PE whose differs. */
int shmemi_heap_agree(const char *call, const struct shmemi_heap_request *mine);
/* A call that is wrong on this PE alone: the others get an error instead of waiting for it. Returns `why`. */
SHMEMI_COLD int shmemi_heap_refuse(const char *call, int why);
/* Everybody learns whether everybody has succeeded: 0, or this PE's error, or that of one that failed, named. */
int shmemi_all_well(const char *call, int mine);
/* Allocates from a space, as from the heap. */
int shmemi_heap_take(const char *call, struct shmemi_area *area, int space, void **ptr, size_t size,
                     size_t align, bool zeroed);

/* heap_space.c: parts of the heap on NUMA nodes. For them heap.c gives out whole ranges of the heap that have no pages
 * (false: it has no such range, logged), and takes them back. */
bool shmemi_heap_reserve(const char *call, size_t bytes, size_t *offset);
void shmemi_heap_unreserve(size_t offset);
/* This PE's copy of a range: where it is, and its pages given back to the system. */
char *shmemi_heap_place(size_t offset);
void shmemi_heap_drop_pages(size_t offset, size_t bytes);
/* Gives [offset, offset + bytes) of this PE's copy its pages, by the policy that holds there. */
int shmemi_heap_commit(const char *call, size_t offset, size_t bytes);
/* The space that an offset of the heap is in, NULL = none; its number + 1. Under shmemi_heap_blocks where other threads may be. */
struct shmemi_area *shmemi_space_at(size_t offset, int *space);
/* Is SHMEM_HEAP_NUMA one of its words? */
int shmemi_space_settings(const char *call);
/* Its policy for a range of this PE's heap; `again`: the range had another one. */
int shmemi_space_heap_policy(const char *call, void *addr, size_t bytes, bool again);
/* Lines for shmemx_info. */
void shmemi_space_report(char *text, size_t n);
void shmemi_space_close(void);

/* heap_gpu.c: the GPU heap. Is SHMEM_DEVICE_SHARING one of its words? */
int shmemi_heap_gpu_settings(const char *call);
/* take and give are collective, the arguments agreed by the caller. */
struct shmemi_block;
/* Opens it if it is not open; collective. */
int shmemi_heap_gpu_open(const char *call);
int shmemi_heap_gpu_take(const char *call, size_t size, size_t align, bool zeroed, void **ptr);
struct shmemi_block *shmemi_heap_gpu_find(const void *ptr);
void shmemi_heap_gpu_give(struct shmemi_block *b);
void shmemi_heap_gpu_info(size_t *total, size_t *used, size_t *largest);
bool shmemi_heap_gpu_inside(const void *addr, struct shmemi_place *p);
/* "vmm" or "ipc": how the processes of the node share it; "" while it is not open. */
const char *shmemi_heap_gpu_sharing(void);
/* Collective, where the way of sharing wants it: on return no PE has another's GPU memory open any more, and close may
 * free this PE's. */
int shmemi_heap_gpu_leave(const char *call);
void shmemi_heap_gpu_close(void);

/* buffer.c: memory of the program that transports know of. Tells those that were opened since. */
int shmemi_buffer_announce(const char *call);
/* Transports give back what they hold, and have heard of nothing. */
void shmemi_buffer_withdraw(void);
/* The same, and the list is empty. */
void shmemi_buffer_close(void);

#endif
