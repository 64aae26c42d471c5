/* Contexts: a set of operations that fence and quiet order by themselves. Transports know a context by its number and keep
 * what it has issued (transport.h). Its PE numbers are its team's. Sessions are hints on a context. */
#include <pthread.h>
#include <stdatomic.h>

#include "heap.h"
#include "team.h"

static struct {
    bool used;
    unsigned generation;
    shmem_team_t team;
} contexts[SHMEMI_CONTEXTS];    /* by number */
static _Atomic int end_of_used; /* no context has ever had this number, or a higher one */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* contexts may be made by any thread */

static shmem_ctx_t handle_of(int i)
{
    return (shmem_ctx_t)((uintptr_t)1 + (uintptr_t)i + (uintptr_t)contexts[i].generation * SHMEMI_CONTEXTS);
}

/* Its number, or -1: logged, *rc set. */
static int find(const char *call, shmem_ctx_t ctx, int *rc)
{
    unsigned i = shmemi_ctx_number(ctx);
    if (shmemi_world.npes == 0)
        *rc = shmemi_not_initialized(call);
    else if (ctx == SHMEM_CTX_INVALID)
        *rc = shmemi_fail(SHMEMX_ERR_CONTEXT, call, "the context is SHMEM_CTX_INVALID");
    else if (!contexts[i].used || contexts[i].generation != ((uintptr_t)ctx - 1) / SHMEMI_CONTEXTS)
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

int shmemi_ctx_check(const char *call, shmem_ctx_t ctx)
{
    int rc = SHMEMX_SUCCESS;
    (void)find(call, ctx, &rc);
    return rc;
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
    for (int i = SHMEMI_CONTEXT_DEFAULT + 1; i < SHMEMI_CONTEXTS && rc; ++i)
        if (!contexts[i].used) {
            contexts[i].used = true;
            contexts[i].team = team;
            if (i >= atomic_load_explicit(&end_of_used, memory_order_relaxed))
                atomic_store_explicit(&end_of_used, i + 1, memory_order_relaxed); /* under the lock */
            *ctx = handle_of(i);
            rc = SHMEMX_SUCCESS;
        }
    pthread_mutex_unlock(&lock);
    return rc ? shmemi_fail(rc, call, "no context left: %d at a time is the limit", SHMEMI_CONTEXTS - 1) : rc;
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

/* ---- sessions -------------------------------------------------------------------------------------------------------- */

/* There is nothing to note of a session; but a context that is none is said. */
static void check_session(const char *call, shmem_ctx_t ctx)
{
    int rc = SHMEMX_SUCCESS;
    pthread_mutex_lock(&lock);
    if (shmemi_world.npes == 0)
        (void)shmemi_not_initialized(call);
    else if (ctx != SHMEM_CTX_DEFAULT &&
             ctx != SHMEM_CTX_INVALID) /* INVALID: the specification wants no action */
        (void)find(call, ctx, &rc);
    pthread_mutex_unlock(&lock);
}

void shmem_ctx_session_start(shmem_ctx_t ctx, long options, const shmem_ctx_session_config_t *config,
                             long config_mask)
{
    const char *call = "shmem_ctx_session_start";
    if (options & ~(long)(SHMEM_CTX_SESSION_BATCH | SHMEM_CTX_SESSION_SAME_AMO))
        shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "options 0x%lx have unknown bits", (unsigned long)options);
    else if (config_mask & ~(long)SHMEM_CTX_SESSION_TOTAL_OPS)
        shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "config_mask 0x%lx has unknown bits",
                    (unsigned long)config_mask);
    else if (config_mask && !config)
        shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "config is NULL while config_mask is 0x%lx",
                    (unsigned long)config_mask);
    else
        check_session(call, ctx);
}

void shmem_ctx_session_stop(shmem_ctx_t ctx)
{
    check_session("shmem_ctx_session_stop", ctx);
}

static bool goes_with(int i, shmem_team_t team)
{
    return contexts[i].used && (team == SHMEM_TEAM_INVALID || contexts[i].team == team);
}

int shmemi_ctx_quiet_team(shmem_team_t team)
{
    int rc = SHMEMX_SUCCESS;
    /* a program that orders a context's making before this call, as it must, has this number too */
    int end = shmemi_route_has_networks() ? atomic_load_explicit(&end_of_used, memory_order_relaxed) : 0;
    for (int i = 0; i < end; ++i) {
        pthread_mutex_lock(&lock);
        bool wanted = goes_with(i, team);
        pthread_mutex_unlock(&lock);
        int error = wanted ? shmemi_quiet_number((unsigned)i) : SHMEMX_SUCCESS;
        rc = rc ? rc : error;
    }
    return rc;
}

void shmemi_ctx_drop_team(shmem_team_t team)
{
    pthread_mutex_lock(&lock);
    for (int i = 0; i < SHMEMI_CONTEXTS; ++i)
        if (goes_with(i, team))
            release(i);
    pthread_mutex_unlock(&lock);
}
