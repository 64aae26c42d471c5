/* How objects over the heap are created by all PEs together: everybody shows its configuration, all judge alike, then the
 * memory is taken; and which objects live. Used by moe.c, moe_gpu.c and moe_ll.c. Layer: moe. */
#ifndef SHMEMI_MOE_AGREE_H
#define SHMEMI_MOE_AGREE_H

#include <pthread.h>
#include <stdbool.h>
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

/* What an object begins with. */
struct shmemi_moe_object {
    struct shmemi_moe_object *next;
    char *block;  /* its share of the heap; PEs outside the teams have one too */
    unsigned job; /* shmemi_world.jobs at create: after a finalize the object is a stranger */
};

/* Living objects of one kind. Users hold pointers; one that is not listed is never followed. */
struct shmemi_moe_list {
    pthread_mutex_t lock;
    struct shmemi_moe_object *first;
    const char *what; /* "MoE object" */
};

void shmemi_moe_enlist(struct shmemi_moe_list *list, struct shmemi_moe_object *object, void *block);
/* Whether `object` is listed and of this job. Logs under `call`. */
int shmemi_moe_check(struct shmemi_moe_list *list, const char *call, const struct shmemi_moe_object *object);
/* Gives the block back and takes the object off the list. Collective over the world. False: nothing has changed, *rc says
 * why; true: the rest is the caller's to free, *rc may be an error all the same. */
bool shmemi_moe_dismiss(struct shmemi_moe_list *list, const char *call, struct shmemi_moe_object *object,
                        int *rc);

#endif
