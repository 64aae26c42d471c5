/* Point-to-point synchronization: wait_until and test in all their forms, over one loop a width and comparison. */
#include <stdlib.h>
#include <string.h>

#include "base/gpu.h"
#include "base/wait.h"
#include "world.h"

/* Everything a form needs. `values` holds one value, or one an element (step = its size). */
struct condition {
    const char *call;
    int type, which, cmp;
    size_t size;
    void *ivars;
    void *mirror; /* host copy of ivars that are in GPU memory, else NULL */
    size_t n;
    size_t *indices;
    const int *status;
    const char *values;
    size_t step;
};

static inline bool compares(int type, int cmp, const void *ivar, const void *value)
{
    /* acquire: pairs with the release of a signal or atomic at the sender; what it put before is visible */
#define COMPARE(T)                                                                                           \
    {                                                                                                        \
        T a = __atomic_load_n((const T *)ivar, __ATOMIC_ACQUIRE), b;                                         \
        memcpy(&b, value, sizeof b);                                                                         \
        switch (cmp) {                                                                                       \
        case SHMEM_CMP_EQ:                                                                                   \
            return a == b;                                                                                   \
        case SHMEM_CMP_NE:                                                                                   \
            return a != b;                                                                                   \
        case SHMEM_CMP_GT:                                                                                   \
            return a > b;                                                                                    \
        case SHMEM_CMP_GE:                                                                                   \
            return a >= b;                                                                                   \
        case SHMEM_CMP_LT:                                                                                   \
            return a < b;                                                                                    \
        default:                                                                                             \
            return a <= b;                                                                                   \
        }                                                                                                    \
    }
    switch (type) {
    case SHMEMX_INT16:
        COMPARE(int16_t)
    case SHMEMX_UINT16:
        COMPARE(uint16_t)
    case SHMEMX_INT32:
        COMPARE(int32_t)
    case SHMEMX_UINT32:
        COMPARE(uint32_t)
    case SHMEMX_INT64:
        COMPARE(int64_t)
    default:
        COMPARE(uint64_t)
    }
#undef COMPARE
}

static inline bool holds(const struct condition *c, size_t i)
{
    const char *words = c->mirror ? c->mirror : c->ivars;
    return compares(c->type, c->cmp, words + i * c->size, c->values + i * c->step);
}

/* Looks once. true = the condition is met, *result set. */
static bool look(const struct condition *c, size_t *result, size_t *first_open)
{
    size_t taken = 0, found = 0;
    for (size_t i = 0; i < c->n; ++i) {
        if (c->status && c->status[i])
            continue;
        taken++;
        if (holds(c, i)) {
            if (c->which == SHMEMX_ANY) {
                *result = i;
                return true;
            }
            if (c->which == SHMEMX_SOME)
                c->indices[found] = i;
            found++;
        } else if (c->which == SHMEMX_ALL) {
            *first_open = i;
            *result = 0;
            return false;
        } else {
            *first_open = i;
        }
    }
    if (c->which == SHMEMX_ALL)
        *result = 1;
    else
        *result = c->which == SHMEMX_SOME ? found : SIZE_MAX;
    /* with nothing to wait for (n = 0, or all left out) the answer is there at once */
    return c->which == SHMEMX_ALL || taken == 0 || found > 0;
}

/* Fetches the words again if they are in GPU memory. */
static int refresh(const struct condition *c)
{
    if (SHMEMI_LIKELY(!c->mirror))
        return SHMEMX_SUCCESS;
    int rc = shmemi_gpu_copy(c->call, c->mirror, c->ivars, c->n * c->size, shmemi_gpu_stream());
    return rc ? rc : shmemi_gpu_sync(c->call, shmemi_gpu_stream());
}

/* Bytes of a type that can be waited for, else 0. */
static size_t size_of(int type)
{
    switch (type) {
    case SHMEMX_INT16:
    case SHMEMX_UINT16:
        return 2;
    case SHMEMX_INT32:
    case SHMEMX_UINT32:
        return 4;
    case SHMEMX_INT64:
    case SHMEMX_UINT64:
        return 8;
    default:
        return 0;
    }
}

static int check(struct condition *c)
{
    struct shmemi_place p;
    SHMEMI_REQUIRE_INIT(c->call);
    if (c->cmp < SHMEM_CMP_EQ || c->cmp > SHMEM_CMP_LE)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, c->call,
                           "comparison %d, SHMEM_CMP_EQ = %d to SHMEM_CMP_LE = %d exist", c->cmp,
                           SHMEM_CMP_EQ, SHMEM_CMP_LE);
    c->size = size_of(c->type);
    if (c->size == 0)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, c->call, "type %d; integers of 2, 4 and 8 bytes are possible",
                           c->type);
    if (c->which < SHMEMX_ALL || c->which > SHMEMX_SOME)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, c->call, "form %d, 0 to %d exist", c->which, SHMEMX_SOME);
    if (c->n == 0)
        return SHMEMX_SUCCESS;
    if (c->which == SHMEMX_SOME && !c->indices)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, c->call, "indices is NULL");
    if (!c->values)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, c->call, "values is NULL");
    if ((uintptr_t)c->ivars % c->size)
        return shmemi_fail(SHMEMX_ERR_ADDRESS, c->call, "ivars %p is not aligned to its %zu bytes", c->ivars,
                           c->size);
    size_t bytes;
    if (__builtin_mul_overflow(c->n, c->size, &bytes))
        bytes = SIZE_MAX;
    int rc = shmemi_locate(c->call, "ivars", c->ivars, bytes, &p);
    if (SHMEMI_UNLIKELY(rc == 0 && p.segment == SHMEMI_SEGMENT_DEVICE)) {
        c->mirror = aligned_alloc(8, (bytes + 7) & ~(size_t)7);
        rc = c->mirror ? refresh(c)
                       : shmemi_fail(SHMEMX_ERR_SYSTEM, c->call, "out of memory for %zu bytes", bytes);
    }
    return rc;
}

static int wait_loop(struct condition *c, size_t *result)
{
    size_t open = 0;
    int rc;
    if (look(c, result, &open))
        return SHMEMX_SUCCESS;
    struct shmemi_wait w = SHMEMI_WAIT_FOR(c->call, -1, (char *)c->ivars + open * c->size);
    while (!look(c, result, &open)) {
        w.addr = (char *)c->ivars + open * c->size;
        if ((rc = shmemi_wait_step(&w)) != 0 || (rc = refresh(c)) != 0)
            return rc;
    }
    return SHMEMX_SUCCESS;
}

static int wait_until(struct condition *c, size_t *result)
{
    int rc = check(c);
    if (rc == 0)
        rc = wait_loop(c, result);
    free(c->mirror);
    return rc;
}

static int test(struct condition *c, size_t *result)
{
    size_t open;
    int rc = check(c);
    if (rc == 0)
        (void)look(c, result, &open);
    free(c->mirror);
    return rc;
}

#define CONDITION(call_, type_, which_, ivars_, n_, indices_, status_, cmp_, values_, vector_)               \
    {.call = (call_),                                                                                        \
     .type = (type_),                                                                                        \
     .which = (which_),                                                                                      \
     .cmp = (cmp_),                                                                                          \
     .ivars = (ivars_),                                                                                      \
     .n = (n_),                                                                                              \
     .indices = (indices_),                                                                                  \
     .status = (status_),                                                                                    \
     .values = (const char *)(values_),                                                                      \
     .step = (vector_) ? size_of(type_) : 0}

int shmemx_wait_until(int type, int which, void *ivars, size_t nelems, size_t *indices, const int *status,
                      int cmp, const void *values, int vector, size_t *result)
{
    size_t mine;
    struct condition c =
        CONDITION("shmem_wait_until", type, which, ivars, nelems, indices, status, cmp, values, vector);
    return wait_until(&c, result ? result : &mine);
}

int shmemi_wait_word(const char *call, uint64_t *word, int cmp, uint64_t value)
{
    size_t result;
    struct condition c = CONDITION(call, SHMEMX_UINT64, SHMEMX_ALL, word, 1, NULL, NULL, cmp, &value, 0);
    return wait_until(&c, &result);
}

int shmemx_test(int type, int which, void *ivars, size_t nelems, size_t *indices, const int *status, int cmp,
                const void *values, int vector, size_t *result)
{
    size_t mine;
    struct condition c =
        CONDITION("shmem_test", type, which, ivars, nelems, indices, status, cmp, values, vector);
    return test(&c, result ? result : &mine);
}

/* ---- the standard's names ------------------------------------------------------------------------------------------- */

/* One wait_until form and its test twin. RESULT is what a failed call returns. */
#define FORMS(NAME, T, CORE, SUFFIX, WRET, TRET, WHICH, INDEXPARAM, INDICES, VPARAM, VALUES, VECTOR, FAILED) \
    WRET shmem_##NAME##_wait_until##SUFFIX(T *ivars, size_t n, INDEXPARAM const int *status, int cmp,        \
                                           VPARAM)                                                           \
    {                                                                                                        \
        size_t result = FAILED;                                                                              \
        struct condition c = CONDITION("shmem_" #NAME "_wait_until" #SUFFIX, CORE, WHICH, ivars, n, INDICES, \
                                       status, cmp, VALUES, VECTOR);                                         \
        shmemi_void(wait_until(&c, &result));                                                                \
        return (WRET)result;                                                                                 \
    }                                                                                                        \
    TRET shmem_##NAME##_test##SUFFIX(T *ivars, size_t n, INDEXPARAM const int *status, int cmp, VPARAM)      \
    {                                                                                                        \
        size_t result = FAILED;                                                                              \
        struct condition c = CONDITION("shmem_" #NAME "_test" #SUFFIX, CORE, WHICH, ivars, n, INDICES,       \
                                       status, cmp, VALUES, VECTOR);                                         \
        shmemi_void(test(&c, &result));                                                                      \
        return (TRET)result;                                                                                 \
    }
#define INDEX_PARAM size_t *indices,
/* `return (void)result` is how a void form uses the same text; gcc and clang accept it. */
#pragma GCC diagnostic ignored "-Wpedantic"

#define SYNC_ONE(NAME, T, CORE)                                                                              \
    void shmem_##NAME##_wait_until(T *ivar, int cmp, T value)                                                \
    {                                                                                                        \
        size_t result;                                                                                       \
        struct condition c =                                                                                 \
            CONDITION("shmem_" #NAME "_wait_until", CORE, SHMEMX_ALL, ivar, 1, NULL, NULL, cmp, &value, 0);  \
        shmemi_void(wait_until(&c, &result));                                                                \
    }                                                                                                        \
    int shmem_##NAME##_test(T *ivar, int cmp, T value)                                                       \
    {                                                                                                        \
        size_t result = 0;                                                                                   \
        struct condition c =                                                                                 \
            CONDITION("shmem_" #NAME "_test", CORE, SHMEMX_ALL, ivar, 1, NULL, NULL, cmp, &value, 0);        \
        shmemi_void(test(&c, &result));                                                                      \
        return (int)result;                                                                                  \
    }
#define SYNC_CALLS(NAME, T, CORE)                                                                            \
    SYNC_ONE(NAME, T, CORE)                                                                                  \
    FORMS(NAME, T, CORE, _all, void, int, SHMEMX_ALL, , NULL, T value, &value, 0, 0)                         \
    FORMS(NAME, T, CORE, _any, size_t, size_t, SHMEMX_ANY, , NULL, T value, &value, 0, SIZE_MAX)             \
    FORMS(NAME, T, CORE, _some, size_t, size_t, SHMEMX_SOME, INDEX_PARAM, indices, T value, &value, 0, 0)    \
    FORMS(NAME, T, CORE, _all_vector, void, int, SHMEMX_ALL, , NULL, const T *values, values, 1, 0)          \
    FORMS(NAME, T, CORE, _any_vector, size_t, size_t, SHMEMX_ANY, , NULL, const T *values, values, 1,        \
          SIZE_MAX)                                                                                          \
    FORMS(NAME, T, CORE, _some_vector, size_t, size_t, SHMEMX_SOME, INDEX_PARAM, indices, const T *values,   \
          values, 1, 0)
SHMEM_TYPES_AMO(SYNC_CALLS)
SHMEM_TYPES_OLD_SYNC(SYNC_ONE)
