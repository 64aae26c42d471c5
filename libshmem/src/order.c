/* Memory ordering: fence and quiet of a context for all PEs, and pe_quiet for those named. Transports know what each context
 * has issued (transport.h). */
#include "world.h"

typedef int order_fn(const struct shmemi_transport *t, int pe, unsigned context); /* -1 = all */

static inline int fence(const struct shmemi_transport *t, int pe, unsigned context)
{
    return SHMEMI_UNLIKELY(shmemi_world.fence_waits) ? t->quiet(pe, context) : t->fence(pe, context);
}

static inline int quiet(const struct shmemi_transport *t, int pe, unsigned context)
{
    return t->quiet(pe, context);
}

static inline int by_all(order_fn *order, int pe, unsigned context)
{
    int rc = SHMEMX_SUCCESS;
    for (int i = 0; rc == 0 && i < shmemi_world.nopen; ++i)
        rc = order(shmemi_world.open[i], pe, context);
    return rc;
}

static inline int of_context(const char *call, shmem_ctx_t ctx, order_fn *order)
{
    if (SHMEMI_LIKELY(ctx == SHMEM_CTX_DEFAULT))
        return by_all(order, -1, SHMEMI_CONTEXT_DEFAULT);
    int rc = shmemi_ctx_check(call, ctx);
    return rc ? rc : by_all(order, -1, shmemi_ctx_number(ctx));
}

int shmemi_quiet_number(unsigned context)
{
    return by_all(quiet, -1, context);
}

int shmemx_fence(shmem_ctx_t ctx)
{
    const char *call = "shmem_fence";
    SHMEMI_REQUIRE_INIT(call);
    return of_context(call, ctx, fence);
}

int shmemx_quiet(shmem_ctx_t ctx)
{
    const char *call = "shmem_quiet";
    SHMEMI_REQUIRE_INIT(call);
    return of_context(call, ctx, quiet);
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
        rc = rc ? rc : by_all(quiet, pe, shmemi_ctx_number(ctx));
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
