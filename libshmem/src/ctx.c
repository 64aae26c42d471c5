/* Contexts: a set of operations that fence and quiet order by themselves. Shared memory orders them all at once; for
 * networks a context knows which PEs it has sent to, so that its quiet waits for no others. Its PE numbers are its team's.
 * Sessions are hints on a context. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "team.h"

enum { CONTEXTS = 1024 };

static struct {
    bool used;
    unsigned generation;
    shmem_team_t team;
    _Atomic uint64_t *sent; /* a bit a PE that a call has named; only grows. NULL in jobs without networks */
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
    if (pe >= 0 && pe < t->n) {
        int number = t->pes[pe];
        _Atomic uint64_t *sent = contexts[i].sent;
        uint64_t bit = (uint64_t)1 << number % 64;
        /* relaxed: the thread that sends and later calls quiet sees its own bit */
        if (SHMEMI_UNLIKELY(sent != NULL) &&
            !(atomic_load_explicit(&sent[number / 64], memory_order_relaxed) & bit))
            atomic_fetch_or_explicit(&sent[number / 64], bit, memory_order_relaxed);
        return number;
    }
    *rc = shmemi_bad_pe(call, pe, t->n);
    return -1;
}

int shmemi_ctx_sent(const char *call, shmem_ctx_t ctx, const _Atomic uint64_t **sent)
{
    int rc = SHMEMX_SUCCESS, i = find(call, ctx, &rc);
    *sent = i < 0 ? NULL : contexts[i].sent;
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
    _Atomic uint64_t *sent = NULL;
    size_t words = (size_t)(shmemi_world.npes + 63) / 64;
    if (shmemi_route_has_networks() && !(sent = calloc(words, sizeof *sent)))
        return shmemi_fail(SHMEMX_ERR_SYSTEM, call, "out of memory for %zu bytes", words * sizeof *sent);
    rc = SHMEMX_ERR_LIMIT;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < CONTEXTS && rc; ++i)
        if (!contexts[i].used) {
            contexts[i].used = true;
            contexts[i].team = team;
            contexts[i].sent = sent;
            *ctx = handle_of(i);
            rc = SHMEMX_SUCCESS;
        }
    pthread_mutex_unlock(&lock);
    if (rc)
        free(sent);
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
    free(contexts[i].sent);
    contexts[i].sent = NULL;
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

/* A team's contexts go with it; all of them at finalize (SHMEM_TEAM_INVALID). */
void shmemi_ctx_drop_team(shmem_team_t team)
{
    pthread_mutex_lock(&lock);
    for (int i = 0; i < CONTEXTS; ++i)
        if (contexts[i].used && (team == SHMEM_TEAM_INVALID || contexts[i].team == team))
            release(i);
    pthread_mutex_unlock(&lock);
}
