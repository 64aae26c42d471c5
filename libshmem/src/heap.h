/* The symmetric heap: one segment a PE, [the library's notes and mirrors | what shmem_malloc hands out]. */
#ifndef SHMEMI_HEAP_H
#define SHMEMI_HEAP_H

#include "world.h"

/* Rounded up to what parts of a segment are aligned to. */
size_t shmemi_heap_aligned(size_t bytes);
/* Bytes that one PE hands out, from SHMEM_SYMMETRIC_SIZE, rounded to huge pages. */
int shmemi_heap_bytes(const char *call, size_t *bytes);
/* Maps the node's segments of `bytes` each from `fd`, which it owns from here on. */
int shmemi_heap_open(const char *call, int fd, size_t bytes);
/* Makes the segment up to `end` fit for networks; all PEs in step. */
int shmemi_heap_cover(const char *call, uint64_t end);
void shmemi_heap_close(void);

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

/* ctx.c: quiet of a team's contexts, which then go with it. SHMEM_TEAM_INVALID = of all teams, at finalize. */
int shmemi_ctx_quiet_team(shmem_team_t team);
void shmemi_ctx_drop_team(shmem_team_t team);

#endif
