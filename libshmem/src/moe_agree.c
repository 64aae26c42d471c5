#include "moe_agree.h"

#include "base/base.h"
#include "world.h"

void shmemi_moe_offer_team(struct shmemi_moe_offer *offer, const int *world, int ranks)
{
    uint64_t hash = 14695981039346656037u; /* FNV-1a */
    for (int r = 0; r < ranks; r++)
        hash = (hash ^ (uint64_t)(uint32_t)world[r]) * 1099511628211u;
    offer->team = hash | 1;
    offer->ranks = ranks;
}

/* Members of one team gave the same, and all of them came. */
static int judge_team(const struct shmemi_moe_creation *how, const struct shmemi_moe_offer *all, int npes,
                      int p)
{
    int64_t same = 0;
    for (int q = 0; q < npes; q++) {
        if (all[q].team != all[p].team)
            continue;
        same++;
        for (int f = 0; f < how->fields; f++)
            if (all[p].fields[f] != all[q].fields[f])
                return shmemi_fail(SHMEMX_ERR_MISMATCH, how->call, "%s is %lld on PE %d and %lld on PE %d",
                                   how->names[f], (long long)all[p].fields[f], p, (long long)all[q].fields[f],
                                   q);
    }
    if (same != all[p].ranks)
        return shmemi_fail(SHMEMX_ERR_MISMATCH, how->call,
                           "team of PE %d has %lld members, %lld PEs gave that team", p,
                           (long long)all[p].ranks, (long long)same);
    return SHMEMX_SUCCESS;
}

/* The verdict on all offers: the same on every PE, members of other teams included, since all allocate together. */
static int judge(const struct shmemi_moe_creation *how, const struct shmemi_moe_offer *all, size_t *bytes)
{
    int npes = shmemi_world.npes, me = shmemi_world.me, rc = SHMEMX_SUCCESS;
    *bytes = 0;
    for (int p = 0; p < npes; p++) {
        if (all[p].error && all[me].error)
            return (int)all[me].error; /* logged where it was found */
        if (all[p].error)
            return shmemi_fail(SHMEMX_ERR_MISMATCH, how->call,
                               "PE %d could not take part: SHMEMX_ERR_%s (%s); see its message", p,
                               shmemx_error_name((int)all[p].error), shmemx_strerror((int)all[p].error));
        if ((size_t)all[p].bytes > *bytes)
            *bytes = (size_t)all[p].bytes;
    }
    for (int p = 0; p < npes && rc == 0; p++)
        if (all[p].team)
            rc = judge_team(how, all, npes, p);
    return rc;
}

/* Shows `mine` to all PEs of the world and judges all. `scratch` is symmetric, npes + 1 offers. */
static int meet(const struct shmemi_moe_creation *how, struct shmemi_moe_offer *scratch,
                const struct shmemi_moe_offer *mine, size_t *bytes)
{
    scratch[shmemi_world.npes] = *mine;
    int rc = shmemx_fcollect(SHMEM_TEAM_WORLD, scratch, &scratch[shmemi_world.npes], sizeof *mine);
    return rc ? rc : judge(how, scratch, bytes);
}

int shmemi_moe_create(const struct shmemi_moe_creation *how, const struct shmemi_moe_offer *mine,
                      void **block)
{
    /* Every step ends alike on all PEs, so that none is left in the next one. */
    struct shmemi_moe_offer *scratch, again = *mine;
    size_t bytes = 0;
    void *taken = NULL;
    *block = NULL;
    int rc = shmemx_allocate((void **)&scratch, (size_t)(shmemi_world.npes + 1) * sizeof *scratch, 0, 0,
                             SHMEMX_MEM_HOST);
    if (rc)
        return mine->error ? (int)mine->error : rc;
    rc = meet(how, scratch, mine, &bytes);
    if (!rc)
        rc = shmemx_allocate(&taken, bytes, 4096, how->kind != SHMEMX_MEM_HOST, how->kind);
    if (!rc && taken) {
        again.error = mine->team ? how->ready(how->call, how->object, taken) : SHMEMX_SUCCESS;
        /* The second meeting is also the barrier behind which peers may write into the memory. */
        rc = meet(how, scratch, &again, &bytes);
        if (rc)
            (void)shmemx_free(taken);
        else
            *block = taken;
    }
    (void)shmemx_free(scratch);
    return rc;
}

/* ---- living objects ---------------------------------------------------------------------------------------- */

/* With the lock held: where the list points to the object, or its end. */
static struct shmemi_moe_object **link_of(struct shmemi_moe_list *list,
                                          const struct shmemi_moe_object *object)
{
    struct shmemi_moe_object **link = &list->first;
    while (*link && *link != object)
        link = &(*link)->next;
    return link;
}

void shmemi_moe_enlist(struct shmemi_moe_list *list, struct shmemi_moe_object *object, void *block)
{
    object->block = block;
    object->job = shmemi_world.jobs;
    pthread_mutex_lock(&list->lock);
    object->next = list->first;
    list->first = object;
    pthread_mutex_unlock(&list->lock);
}

int shmemi_moe_check(struct shmemi_moe_list *list, const char *call, const struct shmemi_moe_object *object)
{
    SHMEMI_REQUIRE_INIT(call);
    pthread_mutex_lock(&list->lock);
    const struct shmemi_moe_object *found = *link_of(list, object);
    pthread_mutex_unlock(&list->lock);
    if (found && found->job == shmemi_world.jobs)
        return SHMEMX_SUCCESS;
    return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "%p is no %s of this job (destroyed already?)",
                       (const void *)object, list->what);
}

bool shmemi_moe_dismiss(struct shmemi_moe_list *list, const char *call, struct shmemi_moe_object *object,
                        int *rc)
{
    *rc = SHMEMX_SUCCESS;
    pthread_mutex_lock(&list->lock);
    bool found = *link_of(list, object) != NULL;
    pthread_mutex_unlock(&list->lock);
    if (!found) {
        *rc = shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "%p is no %s (destroyed already?)", (void *)object,
                          list->what);
        return false;
    }
    if (shmemi_world.npes && object->job == shmemi_world.jobs) /* else the heap went with the job */
        *rc = shmemx_free(object->block);
    if (*rc == SHMEMX_ERR_MISMATCH)
        return false; /* a PE is in another call */
    pthread_mutex_lock(&list->lock);
    *link_of(list, object) = object->next;
    pthread_mutex_unlock(&list->lock);
    return true;
}
