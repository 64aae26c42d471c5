/* What the collectives share: the team, and where the caller's buffers are. */
#ifndef SHMEMI_COLL_H
#define SHMEMI_COLL_H

#include "team.h"

struct shmemi_coll {
    const char *call;
    struct shmemi_team *t;
    struct shmemi_place dest, source;
};

int shmemi_coll_enter(const char *call, shmem_team_t team, struct shmemi_coll *c);
/* Both buffers must be symmetric where they have bytes. */
int shmemi_coll_buffers(struct shmemi_coll *c, const void *dest, size_t dest_bytes, const void *source,
                        size_t source_bytes);
bool shmemi_overlap(const void *a, size_t na, const void *b, size_t nb);

#endif
