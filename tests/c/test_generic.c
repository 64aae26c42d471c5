/* The names that serve every type, one routine family after the other, on every type of C: compiled as C11 (_Generic) and, by
 * test_overloads.cpp, as C++17 (overloads). That each name reaches the function of its type is
 * tests/python/test_openshmem.py's; here they move data. */
#include "pes.h"

enum { N = 6 };
static shmem_ctx_t ctx;
static uint64_t *sig;
static void *dest_, *source_;

/* The types of C. (Not the header's lists: a macro does not expand inside itself.) */
#define AMO_TYPES(X)                                                                                         \
    X(int, int)                                                                                              \
    X(long, long)                                                                                            \
    X(longlong, long long)                                                                                   \
    X(uint, unsigned int)                                                                                    \
    X(ulong, unsigned long)                                                                                  \
    X(ulonglong, unsigned long long)
#define BITWISE_TYPES(X)                                                                                     \
    X(int32, int32_t)                                                                                        \
    X(int64, int64_t)                                                                                        \
    X(uint, unsigned int)                                                                                    \
    X(ulong, unsigned long)                                                                                  \
    X(ulonglong, unsigned long long)
#define EXTENDED_TYPES(X)                                                                                    \
    AMO_TYPES(X)                                                                                             \
    X(float, float)                                                                                          \
    X(double, double)
#define RMA_TYPES(X)                                                                                         \
    EXTENDED_TYPES(X)                                                                                        \
    X(char, char)                                                                                            \
    X(schar, signed char)                                                                                    \
    X(short, short)                                                                                          \
    X(uchar, unsigned char)                                                                                  \
    X(ushort, unsigned short)                                                                                \
    X(longdouble, long double)

/* Element i of PE `who`, small enough for the smallest type. */
#define ELEMENT(T, who, i) ((T)((who) % 8 * 10 + (int)(i) % 10))

#define DEFINE_RMA(NAME, T)                                                                                  \
    static void rma_##NAME(void)                                                                             \
    {                                                                                                        \
        T *dest = (T *)dest_, *source = (T *)source_, got[2 * N];                                            \
        const int to = (me + 1) % npes, from = (me + npes - 1) % npes;                                       \
        for (int i = 0; i < 2 * N; i++)                                                                      \
            source[i] = ELEMENT(T, me, i), dest[i] = (T)99, got[i] = (T)99;                                  \
        *sig = 0;                                                                                            \
        shmem_barrier_all();                                                                                 \
        shmem_put(dest, source, 1, to);                                                                      \
        shmem_put(ctx, dest + 1, source + 1, 1, to);                                                         \
        shmem_put_nbi(dest + 2, source + 2, 1, to);                                                          \
        shmem_put_nbi(ctx, dest + 3, source + 3, 1, to);                                                     \
        shmem_p(dest + 4, source[4], to);                                                                    \
        shmem_p(ctx, dest + 5, source[5], to);                                                               \
        shmem_iput(dest + 6, source + 6, 2, 2, 1, to);                                                       \
        shmem_iput(ctx, dest + 7, source + 7, 2, 2, 1, to);                                                  \
        shmem_ibput(dest + 8, source + 8, 2, 2, 1, 1, to);                                                   \
        shmem_ibput(ctx, dest + 9, source + 9, 2, 2, 1, 1, to);                                              \
        shmem_quiet();                                                                                       \
        shmem_ctx_quiet(ctx);                                                                                \
        shmem_put_signal(dest + 10, source + 10, 1, sig, (uint64_t)1, SHMEM_SIGNAL_ADD, to);                 \
        shmem_put_signal_nbi(ctx, dest + 11, source + 11, 1, sig, (uint64_t)1, SHMEM_SIGNAL_ADD, to);        \
        shmem_signal_add(sig, (uint64_t)1, to);                                                              \
        shmem_signal_add(ctx, sig, (uint64_t)1, to);                                                         \
        shmem_signal_wait_until(sig, SHMEM_CMP_EQ, 4);                                                       \
        shmem_barrier_all();                                                                                 \
        for (int i = 0; i < 2 * N; i++)                                                                      \
            CHECK(dest[i] == ELEMENT(T, from, i), #NAME ": put, element %d", i);                             \
        shmem_get(got, source, 1, from);                                                                     \
        shmem_get(ctx, got + 1, source + 1, 1, from);                                                        \
        shmem_get_nbi(got + 2, source + 2, 1, from);                                                         \
        shmem_get_nbi(ctx, got + 3, source + 3, 1, from);                                                    \
        got[4] = shmem_g(source + 4, from);                                                                  \
        got[5] = shmem_g(ctx, source + 5, from);                                                             \
        shmem_iget(got + 6, source + 6, 2, 2, 1, from);                                                      \
        shmem_iget(ctx, got + 7, source + 7, 2, 2, 1, from);                                                 \
        shmem_ibget(got + 8, source + 8, 2, 2, 2, 1, from);                                                  \
        shmem_ibget(ctx, got + 10, source + 10, 2, 2, 2, 1, from);                                           \
        shmem_quiet();                                                                                       \
        shmem_ctx_quiet(ctx);                                                                                \
        for (int i = 0; i < 2 * N; i++)                                                                      \
            CHECK(got[i] == ELEMENT(T, from, i), #NAME ": get, element %d", i);                              \
        shmem_barrier_all();                                                                                 \
    }                                                                                                        \
    static void coll_##NAME(void)                                                                            \
    {                                                                                                        \
        T *dest = (T *)dest_, *source = (T *)source_;                                                        \
        const shmem_team_t world = SHMEM_TEAM_WORLD;                                                         \
        for (int i = 0; i < npes; i++)                                                                       \
            source[i] = ELEMENT(T, me, i);                                                                   \
        shmem_sync(world);                                                                                   \
        CHECK(shmem_broadcast(world, dest, source, 1, npes - 1) == 0 && dest[0] == ELEMENT(T, npes - 1, 0),  \
              #NAME ": broadcast");                                                                          \
        CHECK(shmem_collect(world, dest, source, 1) == 0 && dest[npes - 1] == ELEMENT(T, npes - 1, 0),       \
              #NAME ": collect");                                                                            \
        CHECK(shmem_fcollect(world, dest, source, 1) == 0 && dest[npes - 1] == ELEMENT(T, npes - 1, 0),      \
              #NAME ": fcollect");                                                                           \
        CHECK(shmem_alltoall(world, dest, source, 1) == 0 && dest[npes - 1] == ELEMENT(T, npes - 1, me),     \
              #NAME ": alltoall");                                                                           \
        CHECK(shmem_alltoalls(world, dest, source, 1, 1, 1) == 0 &&                                          \
                  dest[npes - 1] == ELEMENT(T, npes - 1, me),                                                \
              #NAME ": alltoalls");                                                                          \
        source[0] = (T)(1 + me % 2);                                                                         \
        shmem_sync(world);                                                                                   \
        CHECK(shmem_max_reduce(world, dest, source, 1) == 0 && dest[0] == (T)(npes > 1 ? 2 : 1),             \
              #NAME ": max");                                                                                \
        CHECK(shmem_min_reduce(world, dest, source, 1) == 0 && dest[0] == (T)1, #NAME ": min");              \
        CHECK(shmem_prod_reduce(world, dest, source, 1) == 0 && dest[0] == (T)(1 << npes / 2),               \
              #NAME ": prod");                                                                               \
        CHECK(shmem_sum_reduce(world, dest, source, 1) == 0 && dest[0] == (T)(npes + npes / 2),              \
              #NAME ": sum");                                                                                \
        CHECK(shmem_sum_inscan(world, dest, source, 1) == 0 && dest[0] == (T)(me + 1 + (me + 1) / 2),        \
              #NAME ": inscan");                                                                             \
        CHECK(shmem_sum_exscan(world, dest, source, 1) == 0 && dest[0] == (T)(me + me / 2),                  \
              #NAME ": exscan");                                                                             \
        shmem_sync(world);                                                                                   \
    }
RMA_TYPES(DEFINE_RMA)

/* Started and waited for. */
static shmemx_request_t r;
#define ENDED(START) ((START) == 0 && shmemx_request_wait(&r) == 0)
#define DEFINE_NB(NAME, T)                                                                                   \
    static void nb_##NAME(void)                                                                              \
    {                                                                                                        \
        T *dest = (T *)dest_, *source = (T *)source_;                                                        \
        const shmem_team_t w = SHMEM_TEAM_WORLD;                                                             \
        const T last = ELEMENT(T, npes - 1, 0), block = ELEMENT(T, npes - 1, me);                            \
        for (int i = 0; i < npes; i++)                                                                       \
            source[i] = ELEMENT(T, me, i);                                                                   \
        CHECK(ENDED(shmemx_broadcast_nb(w, dest, source, 1, npes - 1, &r)) && dest[0] == last,               \
              #NAME ": broadcast_nb");                                                                       \
        CHECK(ENDED(shmemx_collect_nb(w, dest, source, 1, &r)) && dest[npes - 1] == last,                    \
              #NAME ": collect_nb");                                                                         \
        CHECK(ENDED(shmemx_fcollect_nb(w, dest, source, 1, &r)) && dest[npes - 1] == last,                   \
              #NAME ": fcollect_nb");                                                                        \
        CHECK(ENDED(shmemx_alltoall_nb(w, dest, source, 1, &r)) && dest[npes - 1] == block,                  \
              #NAME ": alltoall_nb");                                                                        \
        CHECK(ENDED(shmemx_alltoalls_nb(w, dest, source, 1, 1, 1, &r)) && dest[npes - 1] == block,           \
              #NAME ": alltoalls_nb");                                                                       \
        shmem_sync(w);                                                                                       \
        source[0] = (T)(1 + me % 2);                                                                         \
        CHECK(ENDED(shmemx_max_reduce_nb(w, dest, source, 1, &r)) && dest[0] == (T)(npes > 1 ? 2 : 1),       \
              #NAME ": max_nb");                                                                             \
        CHECK(ENDED(shmemx_min_reduce_nb(w, dest, source, 1, &r)) && dest[0] == (T)1, #NAME ": min_nb");     \
        CHECK(ENDED(shmemx_prod_reduce_nb(w, dest, source, 1, &r)) && dest[0] == (T)(1 << npes / 2),         \
              #NAME ": prod_nb");                                                                            \
        CHECK(ENDED(shmemx_sum_reduce_nb(w, dest, source, 1, &r)) && dest[0] == (T)(npes + npes / 2),        \
              #NAME ": sum_nb");                                                                             \
        CHECK(ENDED(shmemx_sum_inscan_nb(w, dest, source, 1, &r)) && dest[0] == (T)(me + 1 + (me + 1) / 2),  \
              #NAME ": inscan_nb");                                                                          \
        CHECK(ENDED(shmemx_sum_exscan_nb(w, dest, source, 1, &r)) && dest[0] == (T)(me + me / 2),            \
              #NAME ": exscan_nb");                                                                          \
        shmem_sync(w);                                                                                       \
    }
RMA_TYPES(DEFINE_NB)

/* On the next PE's word, which nobody else touches. */
#define DEFINE_EXTENDED(NAME, T)                                                                             \
    static void extended_##NAME(void)                                                                        \
    {                                                                                                        \
        T *word = (T *)dest_, old = (T)0;                                                                    \
        const int to = (me + 1) % npes;                                                                      \
        shmem_barrier_all();                                                                                 \
        shmem_atomic_set(word, (T)5, to);                                                                    \
        shmem_atomic_set(ctx, word, (T)6, to);                                                               \
        CHECK(shmem_atomic_fetch(word, to) == (T)6 && shmem_atomic_fetch(ctx, word, to) == (T)6,             \
              #NAME ": fetch");                                                                              \
        shmem_atomic_fetch_nbi(&old, word, to);                                                              \
        shmem_quiet();                                                                                       \
        CHECK(old == (T)6, #NAME ": fetch_nbi");                                                             \
        CHECK(shmem_atomic_swap(word, (T)7, to) == (T)6, #NAME ": swap");                                    \
        shmem_atomic_swap_nbi(ctx, &old, word, (T)8, to);                                                    \
        shmem_ctx_quiet(ctx);                                                                                \
        CHECK(old == (T)7 && shmem_atomic_swap(ctx, word, (T)9, to) == (T)8, #NAME ": swap_nbi");            \
        shmem_barrier_all();                                                                                 \
    }
EXTENDED_TYPES(DEFINE_EXTENDED)

#define DEFINE_AMO(NAME, T)                                                                                  \
    static void amo_##NAME(void)                                                                             \
    {                                                                                                        \
        T *word = (T *)dest_, *mine = (T *)source_, old = (T)0;                                              \
        const int to = (me + 1) % npes;                                                                      \
        *word = (T)1;                                                                                        \
        mine[0] = mine[1] = (T)0;                                                                            \
        shmem_barrier_all();                                                                                 \
        shmem_atomic_inc(word, to);                                                                          \
        shmem_atomic_add(ctx, word, (T)2, to);                                                               \
        shmem_ctx_quiet(ctx);                                                                                \
        shmem_quiet();                                                                                       \
        CHECK(shmem_atomic_fetch_inc(word, to) == (T)4, #NAME ": fetch_inc");                                \
        CHECK(shmem_atomic_fetch_add(ctx, word, (T)3, to) == (T)5, #NAME ": fetch_add");                     \
        CHECK(shmem_atomic_compare_swap(word, (T)8, (T)10, to) == (T)8, #NAME ": compare_swap");             \
        CHECK(shmem_atomic_compare_swap(ctx, word, (T)8, (T)11, to) == (T)10, #NAME ": compare_swap fails"); \
        shmem_atomic_compare_swap_nbi(&old, word, (T)10, (T)12, to);                                         \
        shmem_quiet();                                                                                       \
        CHECK(old == (T)10, #NAME ": compare_swap_nbi");                                                     \
        shmem_atomic_fetch_inc_nbi(ctx, &old, word, to);                                                     \
        shmem_ctx_quiet(ctx);                                                                                \
        CHECK(old == (T)12, #NAME ": fetch_inc_nbi");                                                        \
        shmem_atomic_fetch_add_nbi(&old, word, (T)2, to);                                                    \
        shmem_quiet();                                                                                       \
        CHECK(old == (T)13, #NAME ": fetch_add_nbi");                                                        \
        /* and waits, in each form */                                                                        \
        size_t indices[2];                                                                                   \
        T values[2] = {(T)3, (T)4};                                                                          \
        shmem_atomic_set(mine, (T)3, to);                                                                    \
        shmem_atomic_set(mine + 1, (T)4, to);                                                                \
        shmem_wait_until(mine, SHMEM_CMP_EQ, (T)3);                                                          \
        shmem_wait_until_all(mine, 2, NULL, SHMEM_CMP_GE, (T)3);                                             \
        shmem_wait_until_all_vector(mine, 2, NULL, SHMEM_CMP_EQ, values);                                    \
        CHECK(shmem_wait_until_any(mine, 2, NULL, SHMEM_CMP_EQ, (T)4) == 1, #NAME ": wait_until_any");       \
        CHECK(shmem_wait_until_any_vector(mine, 2, NULL, SHMEM_CMP_EQ, values) < 2, #NAME ": any_vector");   \
        CHECK(shmem_wait_until_some(mine, 2, indices, NULL, SHMEM_CMP_GE, (T)3) == 2, #NAME ": some");       \
        CHECK(shmem_wait_until_some_vector(mine, 2, indices, NULL, SHMEM_CMP_EQ, values) == 2 &&             \
                  indices[1] == 1,                                                                           \
              #NAME ": some_vector");                                                                        \
        CHECK(shmem_test(mine, SHMEM_CMP_LT, (T)4) && !shmem_test(mine, SHMEM_CMP_NE, (T)3),                 \
              #NAME ": test");                                                                               \
        CHECK(!shmem_test_all(mine, 2, NULL, SHMEM_CMP_EQ, (T)3), #NAME ": test_all");                       \
        CHECK(shmem_test_all_vector(mine, 2, NULL, SHMEM_CMP_LE, values), #NAME ": test_all_vector");        \
        CHECK(shmem_test_any(mine, 2, NULL, SHMEM_CMP_EQ, (T)9) == SIZE_MAX, #NAME ": test_any");            \
        CHECK(shmem_test_any_vector(mine, 2, NULL, SHMEM_CMP_NE, values) == SIZE_MAX, #NAME ": any_vector"); \
        CHECK(shmem_test_some(mine, 2, indices, NULL, SHMEM_CMP_EQ, (T)4) == 1 && indices[0] == 1,           \
              #NAME ": test_some");                                                                          \
        CHECK(shmem_test_some_vector(mine, 2, indices, NULL, SHMEM_CMP_GT, values) == 0, #NAME ": some");    \
        shmem_barrier_all();                                                                                 \
    }
AMO_TYPES(DEFINE_AMO)

#define DEFINE_BITWISE(NAME, T)                                                                              \
    static void bitwise_##NAME(void)                                                                         \
    {                                                                                                        \
        T *word = (T *)dest_, *source = (T *)source_, old = (T)0;                                            \
        const int to = (me + 1) % npes;                                                                      \
        *word = (T)6;                                                                                        \
        shmem_barrier_all();                                                                                 \
        shmem_atomic_or(word, (T)9, to);                                                                     \
        shmem_quiet();                                                                                       \
        shmem_atomic_and(ctx, word, (T)12, to);                                                              \
        shmem_ctx_quiet(ctx);                                                                                \
        shmem_atomic_xor(word, (T)3, to);                                                                    \
        shmem_quiet();                                                                                       \
        CHECK(shmem_atomic_fetch_or(word, (T)16, to) == (T)15, #NAME ": fetch_or");                          \
        CHECK(shmem_atomic_fetch_and(ctx, word, (T)17, to) == (T)31, #NAME ": fetch_and");                   \
        CHECK(shmem_atomic_fetch_xor(word, (T)1, to) == (T)17, #NAME ": fetch_xor");                         \
        shmem_atomic_fetch_or_nbi(&old, word, (T)1, to);                                                     \
        shmem_quiet();                                                                                       \
        CHECK(old == (T)16, #NAME ": fetch_or_nbi");                                                         \
        shmem_atomic_fetch_and_nbi(ctx, &old, word, (T)1, to);                                               \
        shmem_ctx_quiet(ctx);                                                                                \
        CHECK(old == (T)17, #NAME ": fetch_and_nbi");                                                        \
        shmem_atomic_fetch_xor_nbi(&old, word, (T)1, to);                                                    \
        shmem_quiet();                                                                                       \
        CHECK(old == (T)1, #NAME ": fetch_xor_nbi");                                                         \
        source[0] = (T)(me % 2 ? 3 : 5);                                                                     \
        shmem_barrier_all();                                                                                 \
        const shmem_team_t world = SHMEM_TEAM_WORLD;                                                         \
        CHECK(shmem_and_reduce(world, word, source, 1) == 0 && *word == (T)(npes > 1 ? 1 : 5),               \
              #NAME ": and");                                                                                \
        CHECK(shmem_or_reduce(world, word, source, 1) == 0 && *word == (T)(npes > 1 ? 7 : 5), #NAME ": or"); \
        CHECK(shmem_xor_reduce(world, word, source, 1) == 0 &&                                               \
                  *word == (T)(((npes + 1) / 2 % 2 ? 5 : 0) ^ (npes / 2 % 2 ? 3 : 0)),                       \
              #NAME ": xor");                                                                                \
        const T ored = (T)(npes > 1 ? 7 : 5), xored = *word;                                                 \
        CHECK(ENDED(shmemx_and_reduce_nb(world, word, source, 1, &r)) && *word == (T)(npes > 1 ? 1 : 5),     \
              #NAME ": and_nb");                                                                             \
        CHECK(ENDED(shmemx_or_reduce_nb(world, word, source, 1, &r)) && *word == ored, #NAME ": or_nb");     \
        CHECK(ENDED(shmemx_xor_reduce_nb(world, word, source, 1, &r)) && *word == xored, #NAME ": xor_nb");  \
        shmem_barrier_all();                                                                                 \
    }
BITWISE_TYPES(DEFINE_BITWISE)

#define RUN_RMA(NAME, T) rma_##NAME();
#define RUN_COLL(NAME, T)                                                                                    \
    coll_##NAME();                                                                                           \
    nb_##NAME();
#define RUN_EXTENDED(NAME, T) extended_##NAME();
#define RUN_AMO(NAME, T) amo_##NAME();
#define RUN_BITWISE(NAME, T) bitwise_##NAME();

/* The names that other libraries had before the standard. */
static void test_other_names(void)
{
    long *dest = (long *)dest_, *source = (long *)source_;
    const int to = (me + 1) % npes, from = (me + npes - 1) % npes;
    int initialized = 0;
    shmemx_query_initialized(&initialized);
    CHECK(initialized == 1, "shmemx_query_initialized");
    for (int i = 0; i < 8; i++)
        source[i] = ELEMENT(long, me, i), dest[i] = -1;
    *sig = 0;
    shmem_barrier_all();
    shmemx_ibput(dest, source, 4, 4, 1, 2, to);
    shmemx_ibput(ctx, dest + 1, source + 1, 4, 4, 1, 2, to);
    shmemx_long_ibput(dest + 2, source + 2, 4, 4, 1, 2, to);
    shmemx_ctx_ibput64(ctx, dest + 3, source + 3, 4, 4, 1, 2, to);
    shmemx_pe_quiet(&to, 1);
    shmemx_ctx_pe_quiet(ctx, &to, 1);
    shmemx_signal_add(sig, (uint64_t)3, to);
    shmemx_ctx_signal_add(ctx, sig, (uint64_t)4, to);
    shmem_signal_wait_until(sig, SHMEM_CMP_EQ, 7);
    for (int i = 0; i < 8; i++)
        CHECK(dest[i] == ELEMENT(long, from, i), "shmemx_ibput: element %d is %ld", i, dest[i]);
    long got[8];
    shmemx_ibget(got, source, 4, 4, 2, 2, from);
    shmemx_ibget(ctx, got + 2, source + 2, 4, 4, 2, 2, from);
    for (int i = 0; i < 8; i++)
        CHECK(got[i] == ELEMENT(long, from, i), "shmemx_ibget: element %d is %ld", i, got[i]);
    shmem_barrier_all();
    source[0] = 1;
    shmem_barrier_all();
    CHECK(shmemx_sum_inscan(SHMEM_TEAM_WORLD, dest, source, 1) == 0 && dest[0] == me + 1,
          "shmemx_sum_inscan");
    CHECK(shmemx_long_sum_exscan(SHMEM_TEAM_WORLD, dest, source, 1) == 0 && dest[0] == me, "sum_exscan");
    CHECK(shmemx_team_ptr(SHMEM_TEAM_WORLD, dest, to) == shmem_ptr(dest, to), "shmemx_team_ptr");
    shmem_barrier_all();
}

int main(void)
{
    pes_begin();
    dest_ = pes_alloc(64 * (size_t)(npes + 2 * N));
    source_ = pes_alloc(64 * (size_t)(npes + 2 * N));
    sig = (uint64_t *)pes_alloc(sizeof *sig);
    CHECK(shmem_ctx_create(0, &ctx) == 0, "%s", shmemx_last_error());
    RMA_TYPES(RUN_RMA)
    RMA_TYPES(RUN_COLL)
    EXTENDED_TYPES(RUN_EXTENDED)
    AMO_TYPES(RUN_AMO)
    BITWISE_TYPES(RUN_BITWISE)
    test_other_names();
    shmem_ctx_destroy(ctx);
    return pes_end();
}
