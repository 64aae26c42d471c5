/* Contexts: a set of operations that fence and quiet order by themselves. Shared memory orders them all at once, so
 * a context here is its team, whose PE numbers it uses. */
#include <pthread.h>

#include "team.h"

enum { CONTEXTS = 1024 };

static struct {
    bool used;
    unsigned generation;
    shmem_team_t team;
} contexts[CONTEXTS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* contexts may be made by any thread */

/* handle = 2 + index + CONTEXTS * generation; 1 is the default context. */
static shmem_ctx_t handle_of(int i)
{
    return (shmem_ctx_t)((uintptr_t)2 + (uintptr_t)i + (uintptr_t)contexts[i].generation * CONTEXTS);
}

/* Index, or -1: logged, *rc set. */
static int find(const char *call, shmem_ctx_t ctx, int *rc)
{
    uintptr_t h = (uintptr_t)ctx - 2, i = h % CONTEXTS;
    if (shmemi_world.npes == 0)
        *rc = shmemi_not_initialized(call);
    else if (ctx == SHMEM_CTX_INVALID)
        *rc = shmemi_fail(SHMEMX_ERR_CONTEXT, call, "the context is SHMEM_CTX_INVALID");
    else if (!contexts[i].used || contexts[i].generation != h / CONTEXTS)
        *rc = shmemi_fail(SHMEMX_ERR_CONTEXT, call,
                          "handle %p is no context of this PE (destroyed, or never made)", (void *)ctx);
    else
        return (int)i;
    return -1;
}

int shmemi_ctx_pe(const char *call, shmem_ctx_t ctx, int pe, int *rc)
{
    int i = find(call, ctx, rc);
    struct shmemi_team *t = i < 0 ? NULL : shmemi_team_get(call, contexts[i].team, rc);
    if (!t)
        return -1;
    if (pe >= 0 && pe < t->n)
        return t->pes[pe];
    *rc = shmemi_bad_pe(call, pe, t->n);
    return -1;
}

int shmem_team_create_ctx(shmem_team_t team, long options, shmem_ctx_t *ctx)
{
    const char *call = "shmem_team_create_ctx";
    int rc = 0;
    if (!ctx)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "ctx is NULL");
    *ctx = SHMEM_CTX_INVALID;
    if (options & ~(long)(SHMEM_CTX_SERIALIZED | SHMEM_CTX_PRIVATE | SHMEM_CTX_NOSTORE))
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "options 0x%lx have unknown bits",
                           (unsigned long)options);
    if (!shmemi_team_get(call, team, &rc))
        return rc;
    rc = SHMEMX_ERR_LIMIT;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < CONTEXTS && rc; ++i)
        if (!contexts[i].used) {
            contexts[i].used = true;
            contexts[i].team = team;
            *ctx = handle_of(i);
            rc = SHMEMX_SUCCESS;
        }
    pthread_mutex_unlock(&lock);
    return rc ? shmemi_fail(rc, call, "no context left: %d at a time is the limit", CONTEXTS) : rc;
}

int shmem_ctx_create(long options, shmem_ctx_t *ctx)
{
    return shmem_team_create_ctx(SHMEM_TEAM_WORLD, options, ctx);
}

int shmem_ctx_get_team(shmem_ctx_t ctx, shmem_team_t *team)
{
    const char *call = "shmem_ctx_get_team";
    int rc = 0;
    if (!team)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "team is NULL");
    *team = SHMEM_TEAM_INVALID;
    SHMEMI_REQUIRE_INIT(call);
    if (ctx == SHMEM_CTX_DEFAULT) {
        *team = SHMEM_TEAM_WORLD;
        return SHMEMX_SUCCESS;
    }
    int i = find(call, ctx, &rc);
    if (i >= 0)
        *team = contexts[i].team;
    return rc;
}

static void release(int i)
{
    contexts[i].used = false;
    contexts[i].generation++;
}

int shmemx_ctx_destroy(shmem_ctx_t ctx)
{
    const char *call = "shmem_ctx_destroy";
    int rc = 0;
    SHMEMI_REQUIRE_INIT(call);
    if (ctx == SHMEM_CTX_INVALID)
        return SHMEMX_SUCCESS;
    if (ctx == SHMEM_CTX_DEFAULT)
        return shmemi_fail(SHMEMX_ERR_CONTEXT, call, "SHMEM_CTX_DEFAULT cannot be destroyed");
    pthread_mutex_lock(&lock);
    int i = find(call, ctx, &rc);
    pthread_mutex_unlock(&lock);
    if (i < 0 || (rc = shmemx_quiet(ctx)) != 0)
        return rc;
    pthread_mutex_lock(&lock);
    release(i);
    pthread_mutex_unlock(&lock);
    return SHMEMX_SUCCESS;
}

void shmem_ctx_destroy(shmem_ctx_t ctx)
{
    shmemi_void(shmemx_ctx_destroy(ctx));
}

/* A team's contexts go with it; all of them at finalize (SHMEM_TEAM_INVALID). */
void shmemi_ctx_drop_team(shmem_team_t team)
{
    pthread_mutex_lock(&lock);
    for (int i = 0; i < CONTEXTS; ++i)
        if (contexts[i].used && (team == SHMEM_TEAM_INVALID || contexts[i].team == team))
            release(i);
    pthread_mutex_unlock(&lock);
}
