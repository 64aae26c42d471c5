/* The symmetric heap: one segment a PE, [the library's notes | what shmem_malloc hands out]. */
#ifndef SHMEMI_HEAP_H
#define SHMEMI_HEAP_H

#include "world.h"

/* Bytes of one PE's segment, from SHMEM_SYMMETRIC_SIZE, rounded to huge pages. */
int shmemi_heap_bytes(const char *call, size_t *bytes);
/* Maps all PEs' segments from `fd`, which it owns from here on. */
int shmemi_heap_open(const char *call, int fd, size_t bytes);
void shmemi_heap_close(void);
/* ctx.c */
void shmemi_ctx_drop_team(shmem_team_t team);

#endif
