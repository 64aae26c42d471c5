/* wait_until and test: all, any, some and their vector forms, status masks, every comparison and type. */
#include "pes.h"

enum { N = 13 };

static int mask_odd[N], mask_all[N];

static bool compares(int cmp, long a, long b)
{
    switch (cmp) {
    case SHMEM_CMP_EQ:
        return a == b;
    case SHMEM_CMP_NE:
        return a != b;
    case SHMEM_CMP_GT:
        return a > b;
    case SHMEM_CMP_GE:
        return a >= b;
    case SHMEM_CMP_LT:
        return a < b;
    default:
        return a <= b;
    }
}

/* Calls that look at values already there: variables 0..N-1 hold 10 + index. */
#define DEFINE(NAME, T, CORE)                                                                                \
    static void still_##NAME(T *v)                                                                           \
    {                                                                                                        \
        T values[N];                                                                                         \
        size_t found[N];                                                                                     \
        for (size_t i = 0; i < N; i++)                                                                       \
            v[i] = (T)(10 + i);                                                                              \
        for (int cmp = SHMEM_CMP_EQ; cmp <= SHMEM_CMP_LE; cmp++)                                             \
            for (long x = 9; x <= 11; x++) {                                                                 \
                bool want = compares(cmp, 10, x);                                                            \
                CHECK(shmem_##NAME##_test(v, cmp, (T)x) == want, #NAME " test 10 (%d) %ld", cmp, x);         \
                if (want)                                                                                    \
                    shmem_##NAME##_wait_until(v, cmp, (T)x);                                                 \
            }                                                                                                \
        for (int cmp = SHMEM_CMP_EQ; cmp <= SHMEM_CMP_LE; cmp++)                                             \
            for (int masked = 0; masked < 2; masked++) {                                                     \
                const int *status = masked ? mask_odd : NULL;                                                \
                const long x = 14;                                                                           \
                size_t some = 0, all = 0, first = SIZE_MAX;                                                  \
                bool is[N];                                                                                  \
                for (size_t i = 0; i < N; i++) {                                                             \
                    is[i] = !(status && status[i]) && compares(cmp, 10 + (long)i, x);                        \
                    some += is[i];                                                                           \
                    all += !(status && status[i]);                                                           \
                    values[i] = (T)x;                                                                        \
                    if (is[i] && first == SIZE_MAX)                                                          \
                        first = i;                                                                           \
                }                                                                                            \
                CHECK(shmem_##NAME##_test_all(v, N, status, cmp, (T)x) == (some == all), #NAME " all");      \
                CHECK(shmem_##NAME##_test_all_vector(v, N, status, cmp, values) == (some == all),            \
                      #NAME " all_vector");                                                                  \
                for (int form = 0; form < 4; form++) {                                                       \
                    if (form > 1 && some == 0)                                                               \
                        continue; /* would wait for ever */                                                  \
                    size_t i = form == 0   ? shmem_##NAME##_test_any(v, N, status, cmp, (T)x)                \
                               : form == 1 ? shmem_##NAME##_test_any_vector(v, N, status, cmp, values)       \
                               : form == 2                                                                   \
                                   ? shmem_##NAME##_wait_until_any(v, N, status, cmp, (T)x)                  \
                                   : shmem_##NAME##_wait_until_any_vector(v, N, status, cmp, values);        \
                    CHECK(some ? i < N &&is[i] : i == SIZE_MAX, #NAME " any, form %d: %zu", form, i);        \
                    memset(found, 0xff, sizeof found);                                                       \
                    size_t n =                                                                               \
                        form == 0   ? shmem_##NAME##_test_some(v, N, found, status, cmp, (T)x)               \
                        : form == 1 ? shmem_##NAME##_test_some_vector(v, N, found, status, cmp, values)      \
                        : form == 2                                                                          \
                            ? shmem_##NAME##_wait_until_some(v, N, found, status, cmp, (T)x)                 \
                            : shmem_##NAME##_wait_until_some_vector(v, N, found, status, cmp, values);       \
                    CHECK(n == some, #NAME " some, form %d: %zu of %zu", form, n, some);                     \
                    bool had[N] = {false};                                                                   \
                    for (size_t k = 0; k < n && k < N; k++) {                                                \
                        CHECK(found[k] < N && is[found[k]] && !had[found[k]], #NAME " some: index %zu",      \
                              found[k]);                                                                     \
                        if (found[k] < N)                                                                    \
                            had[found[k]] = true;                                                            \
                    }                                                                                        \
                }                                                                                            \
                if (some == all) {                                                                           \
                    shmem_##NAME##_wait_until_all(v, N, status, cmp, (T)x);                                  \
                    shmem_##NAME##_wait_until_all_vector(v, N, status, cmp, values);                         \
                }                                                                                            \
            }                                                                                                \
        /* each its own value: true where the vector says so */                                              \
        for (size_t i = 0; i < N; i++)                                                                       \
            values[i] = (T)(10 + i + (i == 3));                                                              \
        CHECK(!shmem_##NAME##_test_all_vector(v, N, NULL, SHMEM_CMP_EQ, values), #NAME " 3 differs");        \
        CHECK(shmem_##NAME##_test_any_vector(v, N, NULL, SHMEM_CMP_NE, values) == 3,                         \
              #NAME " only 3 differs");                                                                      \
        CHECK(shmem_##NAME##_test_some_vector(v, N, found, NULL, SHMEM_CMP_EQ, values) == N - 1, #NAME);     \
        CHECK(shmem_##NAME##_test_all_vector(v, N, mask_odd, SHMEM_CMP_EQ, values), #NAME " 3 is masked");   \
        shmem_##NAME##_wait_until_all_vector(v, N, mask_odd, SHMEM_CMP_EQ, values);                          \
        /* nothing to look at */                                                                             \
        for (int form = 0; form < 2; form++) {                                                               \
            size_t n = form ? 0 : N;                                                                         \
            const int *status = form ? NULL : mask_all;                                                      \
            shmem_##NAME##_wait_until_all(v, n, status, SHMEM_CMP_EQ, 1);                                    \
            shmem_##NAME##_wait_until_all_vector(v, n, status, SHMEM_CMP_EQ, values);                        \
            CHECK(shmem_##NAME##_wait_until_any(v, n, status, SHMEM_CMP_EQ, 1) == SIZE_MAX, #NAME);          \
            CHECK(shmem_##NAME##_wait_until_any_vector(v, n, status, SHMEM_CMP_EQ, values) == SIZE_MAX,      \
                  #NAME);                                                                                    \
            CHECK(shmem_##NAME##_wait_until_some(v, n, found, status, SHMEM_CMP_EQ, 1) == 0, #NAME);         \
            CHECK(shmem_##NAME##_wait_until_some_vector(v, n, found, status, SHMEM_CMP_EQ, values) == 0,     \
                  #NAME);                                                                                    \
            CHECK(shmem_##NAME##_test_all(v, n, status, SHMEM_CMP_EQ, 1) == 1, #NAME);                       \
            CHECK(shmem_##NAME##_test_any(v, n, status, SHMEM_CMP_EQ, 1) == SIZE_MAX, #NAME);                \
            CHECK(shmem_##NAME##_test_some(v, n, found, status, SHMEM_CMP_EQ, 1) == 0, #NAME);               \
        }                                                                                                    \
        /* the sign counts */                                                                                \
        v[0] = (T) - 1;                                                                                      \
        CHECK(shmem_##NAME##_test(v, SHMEM_CMP_GT, 1) == ((T) - 1 > (T)1), #NAME " -1 > 1");                 \
        CHECK(shmem_##NAME##_test(v, SHMEM_CMP_LT, 1) == ((T) - 1 < (T)1), #NAME " -1 < 1");                 \
    }                                                                                                        \
    /* The neighbour writes while this PE waits: by p, put, set and add, in any order of the indices. */     \
    static void moving_##NAME(T *v)                                                                          \
    {                                                                                                        \
        const int to = (me + 1) % npes;                                                                      \
        size_t found[N];                                                                                     \
        int got[N] = {0};                                                                                    \
        memset(v, 0, N * sizeof(T));                                                                         \
        shmem_barrier_all();                                                                                 \
        for (size_t k = 0; k < N; k++) {                                                                     \
            size_t i = k * 5 % N;                                                                            \
            T value = (T)(i + 1);                                                                            \
            dawdle();                                                                                        \
            if (k % 4 == 0)                                                                                  \
                shmem_##NAME##_p(v + i, value, to);                                                          \
            else if (k % 4 == 1)                                                                             \
                shmem_##NAME##_put(v + i, &value, 1, to);                                                    \
            else if (k % 4 == 2)                                                                             \
                shmem_##NAME##_atomic_set(v + i, value, to);                                                 \
            else                                                                                             \
                shmem_##NAME##_atomic_add(v + i, value, to);                                                 \
        }                                                                                                    \
        for (size_t left = N; left > 0;) {                                                                   \
            if (left % 2) {                                                                                  \
                size_t i = shmem_##NAME##_wait_until_any(v, N, got, SHMEM_CMP_NE, 0);                        \
                CHECK(i < N && !got[i] && v[i] == (T)(i + 1), #NAME " any gave %zu", i);                     \
                if (i >= N)                                                                                  \
                    break;                                                                                   \
                got[i] = 1;                                                                                  \
                left--;                                                                                      \
                continue;                                                                                    \
            }                                                                                                \
            size_t n = shmem_##NAME##_wait_until_some(v, N, found, got, SHMEM_CMP_GT, 0);                    \
            CHECK(n > 0 && n <= left, #NAME " some gave %zu of %zu", n, left);                               \
            for (size_t k = 0; k < n && k < N; k++) {                                                        \
                CHECK(!got[found[k]] && v[found[k]] == (T)(found[k] + 1), #NAME " some gave %zu", found[k]); \
                got[found[k]] = 1;                                                                           \
            }                                                                                                \
            if (n == 0 || n > left)                                                                          \
                break;                                                                                       \
            left -= n;                                                                                       \
        }                                                                                                    \
        shmem_barrier_all(); /* the neighbour may change them now */                                         \
        T want[N];                                                                                           \
        for (size_t i = 0; i < N; i++)                                                                       \
            want[i] = (T)(2 * (i + 1));                                                                      \
        for (size_t i = 0; i < N; i++) {                                                                     \
            dawdle();                                                                                        \
            shmem_##NAME##_atomic_add(v + i, (T)(i + 1), to);                                                \
        }                                                                                                    \
        shmem_##NAME##_wait_until_all_vector(v, N, NULL, SHMEM_CMP_EQ, want);                                \
        shmem_##NAME##_wait_until_all(v, N, NULL, SHMEM_CMP_GE, 2);                                          \
        for (size_t i = 0; i < N; i++)                                                                       \
            CHECK(v[i] == want[i], #NAME " element %zu after wait_until_all_vector", i);                     \
        shmem_barrier_all();                                                                                 \
        *v = 0;                                                                                              \
        shmem_barrier_all();                                                                                 \
        shmem_##NAME##_p(v, (T) - 1, to);                                                                    \
        while (!shmem_##NAME##_test(v, SHMEM_CMP_EQ, (T) - 1))                                               \
            sched_yield();                                                                                   \
        shmem_barrier_all();                                                                                 \
    }
SHMEM_TYPES_AMO(DEFINE)

/* A token goes round the ring: each hop waits for the one before. */
static void test_ring(void)
{
    enum { LAPS = 200 };
    long *token = pes_alloc(sizeof *token);
    for (long lap = 1; lap <= LAPS; lap++) {
        if (me == 0) {
            shmem_long_p(token, lap, 1 % npes);
            shmem_long_wait_until(token, SHMEM_CMP_EQ, lap);
        } else {
            shmem_long_wait_until(token, SHMEM_CMP_EQ, lap);
            shmem_long_p(token, lap, (me + 1) % npes);
        }
    }
    CHECK(*token == LAPS, "the token says %ld", *token);
    shmem_barrier_all();
    shmem_free(token);
}

static void test_core(void)
{
    int32_t *v = pes_alloc(sizeof *v * 3), value = 0;
    size_t result = 99, indices[3];
    CHECK(shmemx_test(SHMEMX_INT32, SHMEMX_ALL, v, 3, NULL, NULL, SHMEM_CMP_EQ, &value, 0, &result) == 0 &&
              result == 1,
          "%s", shmemx_last_error());
    v[1] = -4;
    CHECK(shmemx_test(SHMEMX_INT32, SHMEMX_ANY, v, 3, NULL, NULL, SHMEM_CMP_LT, &value, 0, &result) == 0 &&
              result == 1,
          "%s", shmemx_last_error());
    CHECK(shmemx_wait_until(SHMEMX_INT32, SHMEMX_SOME, v, 3, indices, NULL, SHMEM_CMP_GE, &value, 0,
                            &result) == 0 &&
              result == 2 && indices[0] + indices[1] == 2,
          "%s", shmemx_last_error());
    CHECK(shmemx_test(SHMEMX_UINT32, SHMEMX_ALL, v, 3, NULL, NULL, SHMEM_CMP_LT, (uint32_t[]){1, 0, 1}, 1,
                      &result) == 0 &&
              result == 0,
          "%s", shmemx_last_error());
    shmem_free(v);
}

int main(void)
{
    pes_begin();
    void *v = pes_alloc(N * 8);
    for (size_t i = 0; i < N; i++) {
        mask_odd[i] = (int)(i % 2);
        mask_all[i] = -1;
    }
#define RUN(NAME, T, CORE)                                                                                   \
    still_##NAME(v);                                                                                         \
    moving_##NAME(v);
    SHMEM_TYPES_AMO(RUN)
    test_ring();
    test_core();
    return pes_end();
}
