/* An allocator of offsets: hands out ranges of [0, size) without touching the memory they stand for, so that the
 * heap stays uncommitted and its bookkeeping cannot be overwritten through it. First fit in address order: every PE
 * that makes the same calls gets the same offsets. Not thread safe. */
#ifndef SHMEMI_ALLOC_H
#define SHMEMI_ALLOC_H

#include <stdbool.h>
#include <stddef.h>

struct shmemi_block {
    size_t offset, bytes; /* bytes: as handed out, rounded up to the grain */
    bool used;
    struct shmemi_block *prev, *next; /* in address order */
};
struct shmemi_alloc {
    struct shmemi_block *first;
    size_t size, used;
};

enum { SHMEMI_ALLOC_GRAIN = 16 };
#define SHMEMI_ALLOC_NONE ((size_t)-1)

bool shmemi_alloc_open(struct shmemi_alloc *a, size_t size);
void shmemi_alloc_close(struct shmemi_alloc *a);
/* bytes > 0, align a power of two. NONE when nothing fits. */
size_t shmemi_alloc_take(struct shmemi_alloc *a, size_t bytes, size_t align);
/* The same at offset `from` or above. */
size_t shmemi_alloc_take_from(struct shmemi_alloc *a, size_t from, size_t bytes, size_t align);
/* The used block that starts at `offset`, or NULL. */
struct shmemi_block *shmemi_alloc_find(struct shmemi_alloc *a, size_t offset);
void shmemi_alloc_give(struct shmemi_alloc *a, struct shmemi_block *b);
/* Grows or shrinks a used block where it is; false when what follows is in the way. */
bool shmemi_alloc_resize(struct shmemi_alloc *a, struct shmemi_block *b, size_t bytes);
/* Makes [0, size) larger, false when out of memory. */
bool shmemi_alloc_extend(struct shmemi_alloc *a, size_t bytes);
/* Makes it smaller by that much; false when something in use is in the way. */
bool shmemi_alloc_cut(struct shmemi_alloc *a, size_t bytes);
size_t shmemi_alloc_largest(const struct shmemi_alloc *a);

#endif
