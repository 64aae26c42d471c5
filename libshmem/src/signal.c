/* Signals: puts that announce themselves in a 64-bit word. */
#include <stdatomic.h>

#include "world.h"

/* The adding of a signal is an atomic, and those are another transport's. */
static int put_and_add(const struct shmemi_transport *t, int pe, struct shmemi_place d, const void *source,
                       size_t n, struct shmemi_place s, uint64_t signal, unsigned how)
{
    struct shmemi_amo add = {.op = SHMEMX_AMO_ADD, .size = sizeof signal, .value = signal};
    int rc = n ? t->put(pe, d.segment, d.offset, source, n, how) : SHMEMX_SUCCESS;
    /* complete, not only in order: the two take different ways to the peer */
    if (rc || (rc = t->quiet(pe, shmemi_context(how))) != 0)
        return rc;
    return shmemi_world.atomics[s.segment]->amo(pe, s.segment, s.offset, &add, how);
}

static int put_signal(const char *call, shmem_ctx_t ctx, void *dest, const void *source, size_t n,
                      uint64_t *sig_addr, uint64_t signal, int sig_op, int pe, bool nbi)
{
    struct shmemi_place d, s;
    unsigned how;
    int rc = shmemi_check_issue(call, ctx, &pe, nbi, &how);
    if (rc || (rc = shmemi_locate(call, "sig_addr", sig_addr, sizeof *sig_addr, &s)) != 0)
        return rc;
    d = s; /* without bytes the signal alone decides the way */
    if (n && (rc = shmemi_locate(call, "dest", dest, n, &d)) != 0)
        return rc;
    if (n && shmemi_suspect(source) && (rc = shmemi_check_local(call, "source", source, n, 1)) != 0)
        return rc;
    if (SHMEMI_UNLIKELY((uintptr_t)sig_addr % sizeof *sig_addr))
        return shmemi_fail(SHMEMX_ERR_ADDRESS, call, "sig_addr %p is not aligned to 8 bytes",
                           (void *)sig_addr);
    if (SHMEMI_UNLIKELY(sig_op != SHMEM_SIGNAL_SET && sig_op != SHMEM_SIGNAL_ADD))
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call,
                           "sig_op is %d, neither SHMEM_SIGNAL_SET nor SHMEM_SIGNAL_ADD", sig_op);
    const struct shmemi_transport *t = shmemi_route(pe, d.segment, source);
    if (SHMEMI_UNLIKELY(s.segment != d.segment))
        t = shmemi_route(pe, SHMEMI_SEGMENT_DEVICE, NULL); /* one of the two is GPU memory */
    if (SHMEMI_UNLIKELY(shmemi_world.atomics[s.segment] && shmemi_world.atomics[s.segment] != t &&
                        sig_op == SHMEM_SIGNAL_ADD))
        return put_and_add(t, pe, d, source, n, s, signal, how);
    return t->put_signal(pe, d.segment, d.offset, source, n, s.segment, s.offset, signal, sig_op, how);
}

int shmemx_put_signal(shmem_ctx_t ctx, void *dest, const void *source, size_t nbytes, uint64_t *sig_addr,
                      uint64_t signal, int sig_op, int pe)
{
    return put_signal("shmem_put_signal", ctx, dest, source, nbytes, sig_addr, signal, sig_op, pe, false);
}

int shmemx_put_signal_nbi(shmem_ctx_t ctx, void *dest, const void *source, size_t nbytes, uint64_t *sig_addr,
                          uint64_t signal, int sig_op, int pe)
{
    return put_signal("shmem_put_signal_nbi", ctx, dest, source, nbytes, sig_addr, signal, sig_op, pe, true);
}

int shmemx_signal_fetch(const uint64_t *sig_addr, uint64_t *value)
{
    const char *call = "shmem_signal_fetch";
    struct shmemi_place p;
    int rc = shmemi_locate(call, "sig_addr", sig_addr, sizeof *sig_addr, &p);
    if (rc)
        return rc;
    if (SHMEMI_UNLIKELY(p.segment == SHMEMI_SEGMENT_DEVICE))
        return shmemx_get(SHMEM_CTX_DEFAULT, value, sig_addr, sizeof *value, shmemi_world.me);
    /* acquire: pairs with the release in the sender's put_signal; its bytes are visible with the value */
    *value = __atomic_load_n(sig_addr, __ATOMIC_ACQUIRE);
    return SHMEMX_SUCCESS;
}

int shmemx_signal_wait_until(uint64_t *sig_addr, int cmp, uint64_t cmp_value, uint64_t *value)
{
    int rc = shmemi_wait_word("shmem_signal_wait_until", sig_addr, cmp, cmp_value);
    /* the word may have moved on since it compared true; reading it again gives a value that is at least as new */
    return rc == 0 && value ? shmemx_signal_fetch(sig_addr, value) : rc;
}

uint64_t shmem_signal_fetch(const uint64_t *sig_addr)
{
    uint64_t value = 0;
    shmemi_void(shmemx_signal_fetch(sig_addr, &value));
    return value;
}

uint64_t shmem_signal_wait_until(uint64_t *sig_addr, int cmp, uint64_t cmp_value)
{
    uint64_t value = 0;
    shmemi_void(shmemx_signal_wait_until(sig_addr, cmp, cmp_value, &value));
    return value;
}

void shmem_signal_add(uint64_t *sig_addr, uint64_t signal, int pe)
{
    shmemi_void(put_signal("shmem_signal_add", SHMEM_CTX_DEFAULT, NULL, NULL, 0, sig_addr, signal,
                           SHMEM_SIGNAL_ADD, pe, false));
}

void shmem_ctx_signal_add(shmem_ctx_t ctx, uint64_t *sig_addr, uint64_t signal, int pe)
{
    shmemi_void(put_signal("shmem_ctx_signal_add", ctx, NULL, NULL, 0, sig_addr, signal, SHMEM_SIGNAL_ADD, pe,
                           false));
}

void shmem_ctx_signal_set(shmem_ctx_t ctx, uint64_t *sig_addr, uint64_t signal, int pe)
{
    shmemi_void(put_signal("shmem_ctx_signal_set", ctx, NULL, NULL, 0, sig_addr, signal, SHMEM_SIGNAL_SET, pe,
                           false));
}

void shmem_signal_set(uint64_t *sig_addr, uint64_t signal, int pe)
{
    shmemi_void(put_signal("shmem_signal_set", SHMEM_CTX_DEFAULT, NULL, NULL, 0, sig_addr, signal,
                           SHMEM_SIGNAL_SET, pe, false));
}

/* ---- the standard's names ------------------------------------------------------------------------------------------- */

#define SIGNAL_CALL(FULL, CTXPARAM, CTX, P, CP, SIZE, NBI)                                                   \
    void FULL(CTXPARAM P dest, CP source, size_t n, uint64_t *sig_addr, uint64_t signal, int sig_op, int pe) \
    {                                                                                                        \
        size_t bytes;                                                                                        \
        if (__builtin_mul_overflow(n, SIZE, &bytes))                                                         \
            bytes = SIZE_MAX; /* fails the address check */                                                  \
        shmemi_void(put_signal(#FULL, CTX, dest, source, bytes, sig_addr, signal, sig_op, pe, NBI));         \
    }
#define CTX_PARAM shmem_ctx_t ctx,
#define SIGNAL_CALLS(PLAIN, CTX, P, CP, SIZE)                                                                \
    SIGNAL_CALL(PLAIN, , SHMEM_CTX_DEFAULT, P, CP, SIZE, false)                                              \
    SIGNAL_CALL(PLAIN##_nbi, , SHMEM_CTX_DEFAULT, P, CP, SIZE, true)                                         \
    SIGNAL_CALL(CTX, CTX_PARAM, ctx, P, CP, SIZE, false)                                                     \
    SIGNAL_CALL(CTX##_nbi, CTX_PARAM, ctx, P, CP, SIZE, true)

#define TYPED(NAME, T, CORE)                                                                                 \
    SIGNAL_CALLS(shmem_##NAME##_put_signal, shmem_ctx_##NAME##_put_signal, T *, const T *, sizeof(T))
SHMEM_TYPES_RMA(TYPED)
#define SIZED(BITS)                                                                                          \
    SIGNAL_CALLS(shmem_put##BITS##_signal, shmem_ctx_put##BITS##_signal, void *, const void *, (BITS) / 8)
SHMEM_SIZES(SIZED)
SIGNAL_CALLS(shmem_putmem_signal, shmem_ctx_putmem_signal, void *, const void *, 1)
