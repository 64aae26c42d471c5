/* Memory ordering: fence and quiet. A context orders at least its own operations; transports here order all. */
#include "world.h"

/* Any context but the default one is looked up, so that a stale handle is an error. */
static int check_ctx(const char *call, shmem_ctx_t ctx)
{
    int rc = SHMEMX_SUCCESS;
    SHMEMI_REQUIRE_INIT(call);
    if (SHMEMI_UNLIKELY(ctx != SHMEM_CTX_DEFAULT))
        (void)shmemi_ctx_pe(call, ctx, 0, &rc);
    return rc;
}

int shmemx_fence(shmem_ctx_t ctx)
{
    int rc = check_ctx("shmem_fence", ctx);
    for (int i = 0; rc == 0 && i < shmemi_world.nopen; ++i)
        rc = shmemi_world.open[i]->fence(-1);
    return rc;
}

int shmemx_quiet(shmem_ctx_t ctx)
{
    int rc = check_ctx("shmem_quiet", ctx);
    for (int i = 0; rc == 0 && i < shmemi_world.nopen; ++i)
        rc = shmemi_world.open[i]->quiet(-1);
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
