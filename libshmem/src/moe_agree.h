/* How objects over the heap are created by all PEs together: everybody shows its configuration, all judge alike, then the
 * memory is taken. Used by moe.c, moe_gpu.c and moe_ll.c. Layer: moe. */
#ifndef SHMEMI_MOE_AGREE_H
#define SHMEMI_MOE_AGREE_H

#include <stddef.h>
#include <stdint.h>

#include "shmem.h"

enum { SHMEMI_MOE_FIELDS = 16 };

/* One PE's part of a create, as all see it. */
struct shmemi_moe_offer {
    int64_t error; /* SHMEMX_ERR_*, 0 = fine */
    uint64_t team; /* hash of the members' PE numbers; 0 = member of none */
    int64_t ranks, bytes;
    int64_t fields[SHMEMI_MOE_FIELDS];
};

/* What a create is told by its kind of object. `ready` is called on members of a team when there is memory (zero, where
 * it is the GPU's) and may fail; behind it all PEs meet. */
struct shmemi_moe_creation {
    const char *call;
    const char *const *names; /* of the fields that members of one team must have alike */
    int fields;
    int kind; /* SHMEMX_MEM_.. */
    int (*ready)(const char *call, void *object, void *block);
    void *object;
};

/* Team and ranks of an offer. */
void shmemi_moe_offer_team(struct shmemi_moe_offer *offer, const int *world, int ranks);
/* Collective over the world; the same verdict on every PE. The memory is as large as the largest offer. */
int shmemi_moe_create(const struct shmemi_moe_creation *how, const struct shmemi_moe_offer *mine,
                      void **block);

#endif
