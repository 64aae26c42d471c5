/* Atomics: one checked core over the transport's amo slot; the typed calls carry their operands' bits. */
#include <string.h>

#include "world.h"

static SHMEMI_COLD int bad_amo(const char *call, int op, size_t size, const void *dest)
{
    if (op < 0 || op >= SHMEMX_AMO_COUNT)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "operation %d, 0 to %d exist", op,
                           SHMEMX_AMO_COUNT - 1);
    if (size != 4 && size != 8)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "elements of %zu bytes; 4 and 8 are possible", size);
    return shmemi_fail(SHMEMX_ERR_ADDRESS, call, "dest %p is not aligned to its %zu bytes", dest, size);
}

static inline int amo(const char *call, shmem_ctx_t ctx, int op, size_t size, const void *dest,
                      uint64_t value, uint64_t cond, int pe, void *fetched, bool nbi)
{
    struct shmemi_place p;
    unsigned how;
    int rc = shmemi_check_issue(call, ctx, &pe, nbi, &how);
    if (SHMEMI_UNLIKELY(rc != 0))
        return rc;
    if (SHMEMI_UNLIKELY((size != 4 && size != 8) || (uintptr_t)dest % size != 0 || op < 0 ||
                        op >= SHMEMX_AMO_COUNT))
        return bad_amo(call, op, size, dest);
    if (SHMEMI_UNLIKELY((rc = shmemi_locate(call, "dest", dest, size, &p)) != 0))
        return rc;
    struct shmemi_amo a = {.op = op, .size = size, .value = value, .cond = cond, .fetched = fetched};
    return shmemi_amo_route(pe, p.segment)->amo(pe, p.segment, p.offset, &a, how);
}

int shmemx_atomic(shmem_ctx_t ctx, int op, size_t size, void *dest, uint64_t value, uint64_t cond, int pe,
                  void *fetched)
{
    return amo("shmem_atomic", ctx, op, size, dest, value, cond, pe, fetched, false);
}

int shmemx_atomic_nbi(shmem_ctx_t ctx, int op, size_t size, void *dest, uint64_t value, uint64_t cond, int pe,
                      void *fetched)
{
    return amo("shmem_atomic_nbi", ctx, op, size, dest, value, cond, pe, fetched, true);
}

/* ---- the standard's names ------------------------------------------------------------------------------------------- */

/* The bits of any 4- or 8-byte value, zero-extended. */
#define BITS_OF(v)                                                                                           \
    ({                                                                                                       \
        uint64_t bits_ = 0;                                                                                  \
        memcpy(&bits_, &(v), sizeof(v)); /* low bytes first on every machine this runs on */                 \
        bits_;                                                                                               \
    })
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "BITS_OF puts the value in the low bytes");

/* One name in its plain and ctx form. PARAMS are the parameters after ctx, each call names op, value, cond. */
#define FETCHING(NAME, T, OPNAME, OP, DEST, PARAMS, VALUE, COND)                                             \
    T shmem_##NAME##_atomic_##OPNAME PARAMS                                                                  \
    {                                                                                                        \
        T old = 0;                                                                                           \
        shmemi_void(amo("shmem_" #NAME "_atomic_" #OPNAME, SHMEM_CTX_DEFAULT, OP, sizeof(T), DEST, VALUE,    \
                        COND, pe, &old, false));                                                             \
        return old;                                                                                          \
    }
#define FETCHING_CTX(NAME, T, OPNAME, OP, DEST, PARAMS, VALUE, COND)                                         \
    T shmem_ctx_##NAME##_atomic_##OPNAME PARAMS                                                              \
    {                                                                                                        \
        T old = 0;                                                                                           \
        shmemi_void(amo("shmem_ctx_" #NAME "_atomic_" #OPNAME, ctx, OP, sizeof(T), DEST, VALUE, COND, pe,    \
                        &old, false));                                                                       \
        return old;                                                                                          \
    }
#define SILENT(FULL, CTX, OP, T, DEST, PARAMS, VALUE, COND, FETCH, NBI)                                      \
    void FULL PARAMS                                                                                         \
    {                                                                                                        \
        shmemi_void(amo(#FULL, CTX, OP, sizeof(T), DEST, VALUE, COND, pe, FETCH, NBI));                      \
    }

/* fetching with a value: blocking and nbi, plain and ctx */
#define FETCH_FORMS(NAME, T, OPNAME, OP)                                                                     \
    FETCHING(NAME, T, OPNAME, OP, dest, (T * dest, T value, int pe), BITS_OF(value), 0)                      \
    FETCHING_CTX(NAME, T, OPNAME, OP, dest, (shmem_ctx_t ctx, T * dest, T value, int pe), BITS_OF(value), 0) \
    SILENT(shmem_##NAME##_atomic_##OPNAME##_nbi, SHMEM_CTX_DEFAULT, OP, T, dest,                             \
           (T * fetch, T * dest, T value, int pe), BITS_OF(value), 0, fetch, true)                           \
    SILENT(shmem_ctx_##NAME##_atomic_##OPNAME##_nbi, ctx, OP, T, dest,                                       \
           (shmem_ctx_t ctx, T * fetch, T * dest, T value, int pe), BITS_OF(value), 0, fetch, true)
/* not fetching: plain and ctx */
#define SILENT_FORMS(NAME, T, OPNAME, OP)                                                                    \
    SILENT(shmem_##NAME##_atomic_##OPNAME, SHMEM_CTX_DEFAULT, OP, T, dest, (T * dest, T value, int pe),      \
           BITS_OF(value), 0, NULL, false)                                                                   \
    SILENT(shmem_ctx_##NAME##_atomic_##OPNAME, ctx, OP, T, dest,                                             \
           (shmem_ctx_t ctx, T * dest, T value, int pe), BITS_OF(value), 0, NULL, false)

#define EXTENDED(NAME, T, CORE)                                                                              \
    FETCHING(NAME, T, fetch, SHMEMX_AMO_FETCH, source, (const T *source, int pe), 0, 0)                      \
    FETCHING_CTX(NAME, T, fetch, SHMEMX_AMO_FETCH, source, (shmem_ctx_t ctx, const T *source, int pe), 0, 0) \
    SILENT(shmem_##NAME##_atomic_fetch_nbi, SHMEM_CTX_DEFAULT, SHMEMX_AMO_FETCH, T, source,                  \
           (T * fetch, const T *source, int pe), 0, 0, fetch, true)                                          \
    SILENT(shmem_ctx_##NAME##_atomic_fetch_nbi, ctx, SHMEMX_AMO_FETCH, T, source,                            \
           (shmem_ctx_t ctx, T * fetch, const T *source, int pe), 0, 0, fetch, true)                         \
    SILENT_FORMS(NAME, T, set, SHMEMX_AMO_SET)                                                               \
    FETCH_FORMS(NAME, T, swap, SHMEMX_AMO_SWAP)
SHMEM_TYPES_AMO_EXTENDED(EXTENDED)

#define STANDARD(NAME, T, CORE)                                                                              \
    FETCHING(NAME, T, compare_swap, SHMEMX_AMO_COMPARE_SWAP, dest, (T * dest, T cond, T value, int pe),      \
             BITS_OF(value), BITS_OF(cond))                                                                  \
    FETCHING_CTX(NAME, T, compare_swap, SHMEMX_AMO_COMPARE_SWAP, dest,                                       \
                 (shmem_ctx_t ctx, T * dest, T cond, T value, int pe), BITS_OF(value), BITS_OF(cond))        \
    SILENT(shmem_##NAME##_atomic_compare_swap_nbi, SHMEM_CTX_DEFAULT, SHMEMX_AMO_COMPARE_SWAP, T, dest,      \
           (T * fetch, T * dest, T cond, T value, int pe), BITS_OF(value), BITS_OF(cond), fetch, true)       \
    SILENT(shmem_ctx_##NAME##_atomic_compare_swap_nbi, ctx, SHMEMX_AMO_COMPARE_SWAP, T, dest,                \
           (shmem_ctx_t ctx, T * fetch, T * dest, T cond, T value, int pe), BITS_OF(value), BITS_OF(cond),   \
           fetch, true)                                                                                      \
    FETCHING(NAME, T, fetch_inc, SHMEMX_AMO_ADD, dest, (T * dest, int pe), 1, 0)                             \
    FETCHING_CTX(NAME, T, fetch_inc, SHMEMX_AMO_ADD, dest, (shmem_ctx_t ctx, T * dest, int pe), 1, 0)        \
    SILENT(shmem_##NAME##_atomic_fetch_inc_nbi, SHMEM_CTX_DEFAULT, SHMEMX_AMO_ADD, T, dest,                  \
           (T * fetch, T * dest, int pe), 1, 0, fetch, true)                                                 \
    SILENT(shmem_ctx_##NAME##_atomic_fetch_inc_nbi, ctx, SHMEMX_AMO_ADD, T, dest,                            \
           (shmem_ctx_t ctx, T * fetch, T * dest, int pe), 1, 0, fetch, true)                                \
    SILENT(shmem_##NAME##_atomic_inc, SHMEM_CTX_DEFAULT, SHMEMX_AMO_ADD, T, dest, (T * dest, int pe), 1, 0,  \
           NULL, false)                                                                                      \
    SILENT(shmem_ctx_##NAME##_atomic_inc, ctx, SHMEMX_AMO_ADD, T, dest, (shmem_ctx_t ctx, T * dest, int pe), \
           1, 0, NULL, false)                                                                                \
    FETCH_FORMS(NAME, T, fetch_add, SHMEMX_AMO_ADD)                                                          \
    SILENT_FORMS(NAME, T, add, SHMEMX_AMO_ADD)
SHMEM_TYPES_AMO(STANDARD)

#define BITWISE(NAME, T, CORE)                                                                               \
    FETCH_FORMS(NAME, T, fetch_and, SHMEMX_AMO_AND)                                                          \
    FETCH_FORMS(NAME, T, fetch_or, SHMEMX_AMO_OR)                                                            \
    FETCH_FORMS(NAME, T, fetch_xor, SHMEMX_AMO_XOR)                                                          \
    SILENT_FORMS(NAME, T, and, SHMEMX_AMO_AND)                                                               \
    SILENT_FORMS(NAME, T, or, SHMEMX_AMO_OR)                                                                 \
    SILENT_FORMS(NAME, T, xor, SHMEMX_AMO_XOR)
SHMEM_TYPES_AMO_BITWISE(BITWISE)
