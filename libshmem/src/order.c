/* Memory ordering: fence and quiet, of the default context for all PEs, of any other for the PEs that it has sent to, and
 * pe_quiet for those named. Networks order and complete by peer; what another context sent to the same peer is waited for
 * as well. */
#include <stdatomic.h>

#include "world.h"

typedef int order_fn(const struct shmemi_transport *t, int pe); /* -1 = all */

static inline int fence(const struct shmemi_transport *t, int pe)
{
    return t->fence(pe);
}

static inline int quiet(const struct shmemi_transport *t, int pe)
{
    return t->quiet(pe);
}

static inline int of_all(order_fn *order, int pe)
{
    int rc = SHMEMX_SUCCESS;
    for (int i = 0; rc == 0 && i < shmemi_world.nopen; ++i)
        rc = order(shmemi_world.open[i], pe);
    return rc;
}

/* Of a context that is not the default one. */
static int of_context(const char *call, shmem_ctx_t ctx, order_fn *order)
{
    const _Atomic uint64_t *sent = NULL;
    int rc = shmemi_ctx_sent(call, ctx, &sent);
    if (rc || !sent)
        return rc ? rc : of_all(order, -1);
    /* what went to PEs of this node was stored by this thread's processor; observers: as in shm.c */
    atomic_thread_fence(memory_order_seq_cst);
    for (int word = 0; word * 64 < shmemi_world.npes && rc == 0; ++word) {
        uint64_t bits =
            atomic_load_explicit(&sent[word], memory_order_relaxed); /* of this thread's own calls */
        for (; bits && rc == 0; bits &= bits - 1)
            rc = of_all(order, word * 64 + __builtin_ctzll(bits));
    }
    return rc;
}

int shmemx_fence(shmem_ctx_t ctx)
{
    const char *call = "shmem_fence";
    SHMEMI_REQUIRE_INIT(call);
    return SHMEMI_LIKELY(ctx == SHMEM_CTX_DEFAULT) ? of_all(fence, -1) : of_context(call, ctx, fence);
}

int shmemx_quiet(shmem_ctx_t ctx)
{
    const char *call = "shmem_quiet";
    SHMEMI_REQUIRE_INIT(call);
    return SHMEMI_LIKELY(ctx == SHMEM_CTX_DEFAULT) ? of_all(quiet, -1) : of_context(call, ctx, quiet);
}

int shmemx_quiet_pes(shmem_ctx_t ctx, const int *pes, size_t n)
{
    const char *call = "shmem_pe_quiet";
    SHMEMI_REQUIRE_INIT(call);
    if (n && !pes)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "target_pes is NULL");
    int rc = SHMEMX_SUCCESS;
    for (size_t i = 0; i < n; ++i) { /* all are checked before any is waited for */
        int pe = pes[i];
        if ((rc = shmemi_check_pe(call, ctx, &pe)) != 0)
            return rc;
    }
    for (size_t i = 0; i < n && rc == 0; ++i) {
        int pe = pes[i];
        rc = shmemi_check_pe(call, ctx, &pe);
        rc = rc ? rc : of_all(quiet, pe);
    }
    return rc;
}

void shmem_fence(void)
{
    shmemi_void(shmemx_fence(SHMEM_CTX_DEFAULT));
}

void shmem_ctx_fence(shmem_ctx_t ctx)
{
    shmemi_void(shmemx_fence(ctx));
}

void shmem_quiet(void)
{
    shmemi_void(shmemx_quiet(SHMEM_CTX_DEFAULT));
}

void shmem_ctx_quiet(shmem_ctx_t ctx)
{
    shmemi_void(shmemx_quiet(ctx));
}

void shmem_pe_quiet(const int *target_pes, size_t npes)
{
    shmemi_void(shmemx_quiet_pes(SHMEM_CTX_DEFAULT, target_pes, npes));
}

void shmem_ctx_pe_quiet(shmem_ctx_t ctx, const int *target_pes, size_t npes)
{
    shmemi_void(shmemx_quiet_pes(ctx, target_pes, npes));
}
