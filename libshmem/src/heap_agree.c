/* How PEs come to change a heap together: all ask for the same, and all learn whether it worked. */
#include <stdio.h>
#include <string.h>

#include "heap.h"
#include "team.h"

static void describe(const struct shmemi_heap_request *r, char *text, size_t n)
{
    static const char *const names[] = {[SHMEMI_HEAP_MALLOC] = "malloc",
                                        [SHMEMI_HEAP_FREE] = "free",
                                        [SHMEMI_HEAP_REALLOC] = "realloc",
                                        [SHMEMI_HEAP_SPACE] = "space_create",
                                        [SHMEMI_HEAP_UNSPACE] = "space_destroy"};
    char where[40] = "host memory";
    if (r->space)
        snprintf(where, sizeof where, "space %d", r->space - 1);
    else if (r->kind == SHMEMX_MEM_DEVICE)
        snprintf(where, sizeof where, "GPU memory");
    snprintf(text, n, "%s of %llu bytes%s in %s, alignment %llu, offset %llu", names[r->what],
             (unsigned long long)r->bytes, r->zeroed ? " of zeros" : "", where, (unsigned long long)r->align,
             (unsigned long long)r->offset);
}

int shmemi_heap_agree(const char *call, const struct shmemi_heap_request *mine)
{
    int rc = 0;
    struct shmemi_team *world = shmemi_team_get(call, SHMEM_TEAM_WORLD, &rc);
    if (!world || (rc = shmemx_quiet(SHMEM_CTX_DEFAULT)) != 0 ||
        (rc = shmemi_ctx_quiet_team(SHMEM_TEAM_INVALID)) != 0 ||
        (rc = shmemi_show(call, world, shmemi_tag(SHMEMI_MEMORY, 0, 0), mine, sizeof *mine)) != 0)
        return rc;
    for (int j = 0; j < world->n; ++j) {
        struct shmemi_heap_request r;
        memcpy(&r, shmemi_note_of(world, j, world->epoch)->data, sizeof r);
        if (memcmp(&r, mine, sizeof r) != 0) {
            char theirs[160], ours[160];
            describe(&r, theirs, sizeof theirs);
            describe(mine, ours, sizeof ours);
            return shmemi_fail(SHMEMX_ERR_MISMATCH, call, "PE %d is in %s; this PE in %s", j, theirs, ours);
        }
    }
    return SHMEMX_SUCCESS;
}

int shmemi_heap_refuse(const char *call, int why)
{
    int rc = 0;
    struct shmemi_team *world = shmemi_team_get(call, SHMEM_TEAM_WORLD, &rc);
    return world ? shmemi_refuse(call, world, why) : rc;
}

int shmemi_all_well(const char *call, int mine)
{
    int rc = 0;
    struct shmemi_team *world = shmemi_team_get(call, SHMEM_TEAM_WORLD, &rc);
    if (!world || (rc = shmemi_show(call, world, shmemi_tag(SHMEMI_MEMORY, 1, 0), &mine, sizeof mine)) != 0)
        return rc;
    for (int j = 0; j < world->n && mine == 0; ++j) {
        int theirs;
        memcpy(&theirs, shmemi_note_of(world, j, world->epoch)->data, sizeof theirs);
        if (theirs)
            return shmemi_fail(theirs, call, "PE %d failed: %s (its own message says why)", j,
                               shmemx_strerror(theirs));
    }
    return mine;
}
