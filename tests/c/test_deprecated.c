/* Names that the specification keeps for old programs, used as those do: start_pes and no finalize, _my_pe, shmalloc, waits
 * without "until", atomics without "atomic", caches. Active sets are test_active_set.c's. */
#include <mpp/shmem.h>

#include "pes.h"

#define DEFINE_OLD(NAME, T, CORE)                                                                            \
    static void old_##NAME(void)                                                                             \
    {                                                                                                        \
        T *word = shmalloc(sizeof *word);                                                                    \
        const int to = (_my_pe() + 1) % _num_pes();                                                          \
        *word = (T)1;                                                                                        \
        shmem_barrier_all();                                                                                 \
        shmem_##NAME##_inc(word, to);                                                                        \
        shmem_##NAME##_add(word, (T)2, to);                                                                  \
        shmem_quiet();                                                                                       \
        CHECK(shmem_##NAME##_finc(word, to) == (T)4, #NAME ": finc");                                        \
        CHECK(shmem_##NAME##_fadd(word, (T)3, to) == (T)5, #NAME ": fadd");                                  \
        CHECK(shmem_##NAME##_cswap(word, (T)8, (T)9, to) == (T)8, #NAME ": cswap");                          \
        CHECK(shmem_finc(word, to) == (T)9 && shmem_fadd(word, (T)1, to) == (T)10, #NAME ": generic");       \
        CHECK(shmem_cswap(word, (T)0, (T)1, to) == (T)11, #NAME ": generic cswap");                          \
        shmem_inc(word, to);                                                                                 \
        shmem_add(word, (T)1, to);                                                                           \
        shmem_quiet();                                                                                       \
        CHECK(shmem_fetch(word, to) == (T)13, #NAME ": generic inc and add");                                \
        shmem_barrier_all();                                                                                 \
        shfree(word);                                                                                        \
    }
SHMEM_TYPES_OLD_AMO(DEFINE_OLD)
#define DEFINE_EXTENDED(NAME, T, CORE)                                                                       \
    static void extended_##NAME(void)                                                                        \
    {                                                                                                        \
        T *word = shmalloc(sizeof *word);                                                                    \
        const int to = (_my_pe() + 1) % _num_pes();                                                          \
        shmem_barrier_all();                                                                                 \
        shmem_##NAME##_set(word, (T)5, to);                                                                  \
        CHECK(shmem_##NAME##_fetch(word, to) == (T)5, #NAME ": set, fetch");                                 \
        CHECK(shmem_##NAME##_swap(word, (T)6, to) == (T)5, #NAME ": swap");                                  \
        shmem_set(word, (T)7, to);                                                                           \
        CHECK(shmem_swap(word, (T)8, to) == (T)7 && shmem_fetch(word, to) == (T)8, #NAME ": generic");       \
        shmem_barrier_all();                                                                                 \
        shfree(word);                                                                                        \
    }
SHMEM_TYPES_OLD_AMO_EXTENDED(DEFINE_EXTENDED)

#define WAITED(NAME, T, CORE)                                                                                \
    {                                                                                                        \
        T *word = shmemalign(64, sizeof *word);                                                              \
        CHECK((uintptr_t)word % 64 == 0, "shmemalign: %p", (void *)word);                                    \
        *word = 0;                                                                                           \
        shmem_barrier_all();                                                                                 \
        dawdle();                                                                                            \
        shmem_##NAME##_p(word, 3, (me + 1) % npes);                                                          \
        shmem_##NAME##_wait(word, 0);                                                                        \
        CHECK(*word == 3, #NAME "_wait");                                                                    \
        shmem_barrier_all();                                                                                 \
        shfree(word);                                                                                        \
    }

static void test_waits(void)
{
    WAITED(short, short, )
    SHMEM_TYPES_OLD_AMO(WAITED)
    long *word = shmalloc(2 * sizeof *word);
    unsigned short *small = shmalloc(sizeof *small);
    word[0] = word[1] = 0;
    *small = 0;
    word = shrealloc(word, 4 * sizeof *word);
    CHECK(word[0] == 0 && word[1] == 0, "shrealloc keeps what was there");
    shmem_barrier_all();
    shmem_long_p(word, 7, (me + 1) % npes);
    shmem_ushort_p(small, 40000, (me + 1) % npes);
    shmem_wait(word, 0);
    (shmem_wait_until)(word, SHMEM_CMP_EQ, 7); /* the function of that name, for long */
    shmem_wait_until(small, SHMEM_CMP_GT, 39999);
    CHECK(shmem_test(small, _SHMEM_CMP_EQ, 40000) && !shmem_ushort_test(small, _SHMEM_CMP_LT, 2), "ushort");
    shmem_barrier_all();
    shfree(small);
    shfree(word);
}

int main(void)
{
    size_t total, used, largest;
    unsetenv("SHMEM_SYMMETRIC_SIZE");
    setenv("SMA_SYMMETRIC_SIZE", "34M", 1);
    start_pes(0);
    start_pes(7); /* again: nothing */
    CHECK(shmemx_heap_info(SHMEMX_MEM_HOST, &total, &used, &largest) == 0 && total == 34u << 20,
          "SMA_SYMMETRIC_SIZE=34M made a heap of %zu bytes", total);
    me = _my_pe();
    npes = _num_pes();
    check_pe = me;
    own_state = 1000u + (uint64_t)me;
    CHECK(me == shmem_my_pe() && npes == shmem_n_pes(), "PE %d of %d", me, npes);
#define RUN_OLD(NAME, T, CORE) old_##NAME();
#define RUN_EXTENDED(NAME, T, CORE) extended_##NAME();
    SHMEM_TYPES_OLD_AMO(RUN_OLD)
    SHMEM_TYPES_OLD_AMO_EXTENDED(RUN_EXTENDED)
    test_waits();
    long line = 5;
    shmem_set_cache_inv();
    shmem_set_cache_line_inv(&line);
    shmem_clear_cache_inv();
    shmem_clear_cache_line_inv(&line);
    shmem_udcflush();
    shmem_udcflush_line(&line);
    CHECK(line == 5, "a cache routine wrote");
    return check_done(); /* no finalize: launch sees whether that is taken for a failure */
}
