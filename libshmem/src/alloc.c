#include "alloc.h"

#include <stdlib.h>

static size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) & ~(to - 1);
}

static struct shmemi_block *insert_after(struct shmemi_block *b, size_t offset, size_t bytes)
{
    struct shmemi_block *n = malloc(sizeof *n);
    if (!n)
        return NULL;
    *n = (struct shmemi_block){.offset = offset, .bytes = bytes, .prev = b, .next = b->next};
    if (b->next)
        b->next->prev = n;
    b->next = n;
    return n;
}

static void merge_next(struct shmemi_block *b)
{
    struct shmemi_block *n = b->next;
    b->bytes += n->bytes;
    b->next = n->next;
    if (n->next)
        n->next->prev = b;
    free(n);
}

bool shmemi_alloc_open(struct shmemi_alloc *a, size_t size)
{
    *a = (struct shmemi_alloc){.size = size};
    a->first = calloc(1, sizeof *a->first);
    if (a->first)
        a->first->bytes = size;
    return a->first != NULL;
}

void shmemi_alloc_close(struct shmemi_alloc *a)
{
    while (a->first) {
        struct shmemi_block *n = a->first->next;
        free(a->first);
        a->first = n;
    }
    *a = (struct shmemi_alloc){0};
}

size_t shmemi_alloc_take(struct shmemi_alloc *a, size_t bytes, size_t align)
{
    return shmemi_alloc_take_from(a, 0, bytes, align);
}

size_t shmemi_alloc_take_from(struct shmemi_alloc *a, size_t from, size_t bytes, size_t align)
{
    if (bytes > a->size)
        return SHMEMI_ALLOC_NONE;
    bytes = round_up(bytes, SHMEMI_ALLOC_GRAIN);
    if (align < SHMEMI_ALLOC_GRAIN)
        align = SHMEMI_ALLOC_GRAIN;
    for (struct shmemi_block *b = a->first; b; b = b->next) {
        if (b->used)
            continue;
        size_t start = round_up(b->offset > from ? b->offset : from, align), gap = start - b->offset;
        if (start < b->offset || gap > b->bytes || b->bytes - gap < bytes)
            continue;
        if (gap) {
            struct shmemi_block *rest = insert_after(b, start, b->bytes - gap);
            if (!rest)
                return SHMEMI_ALLOC_NONE;
            b->bytes = gap;
            b = rest;
        }
        if (b->bytes > bytes) {
            if (!insert_after(b, start + bytes, b->bytes - bytes))
                return SHMEMI_ALLOC_NONE;
            b->bytes = bytes;
        }
        b->used = true;
        a->used += bytes;
        return start;
    }
    return SHMEMI_ALLOC_NONE;
}

struct shmemi_block *shmemi_alloc_find(struct shmemi_alloc *a, size_t offset)
{
    for (struct shmemi_block *b = a->first; b && b->offset <= offset; b = b->next)
        if (b->offset == offset)
            return b->used ? b : NULL;
    return NULL;
}

void shmemi_alloc_give(struct shmemi_alloc *a, struct shmemi_block *b)
{
    a->used -= b->bytes;
    b->used = false;
    if (b->next && !b->next->used)
        merge_next(b);
    if (b->prev && !b->prev->used)
        merge_next(b->prev);
}

bool shmemi_alloc_resize(struct shmemi_alloc *a, struct shmemi_block *b, size_t bytes)
{
    if (bytes > a->size)
        return false;
    bytes = round_up(bytes, SHMEMI_ALLOC_GRAIN);
    size_t room = b->bytes + (b->next && !b->next->used ? b->next->bytes : 0);
    if (bytes > room)
        return false;
    size_t was = b->bytes;
    if (room > b->bytes)
        merge_next(b);
    if (room > bytes) {
        if (!insert_after(b, b->offset + bytes, room - bytes))
            bytes = room; /* keep it all */
        else
            b->bytes = bytes;
    }
    a->used = a->used - was + bytes;
    return true;
}

static struct shmemi_block *last(const struct shmemi_alloc *a)
{
    struct shmemi_block *b = a->first;
    while (b && b->next)
        b = b->next;
    return b;
}

bool shmemi_alloc_extend(struct shmemi_alloc *a, size_t bytes)
{
    struct shmemi_block *b = last(a);
    if (b && !b->used)
        b->bytes += bytes;
    else if (!b || !insert_after(b, a->size, bytes))
        return false;
    a->size += bytes;
    return true;
}

bool shmemi_alloc_cut(struct shmemi_alloc *a, size_t bytes)
{
    struct shmemi_block *b = last(a);
    if (!b || b->used || b->bytes < bytes)
        return false;
    b->bytes -= bytes;
    a->size -= bytes;
    if (b->bytes == 0 && b->prev) {
        b->prev->next = NULL;
        free(b);
    }
    return true;
}

size_t shmemi_alloc_largest(const struct shmemi_alloc *a)
{
    size_t most = 0;
    for (const struct shmemi_block *b = a->first; b; b = b->next)
        if (!b->used && b->bytes > most)
            most = b->bytes;
    return most;
}
