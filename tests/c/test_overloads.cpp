/* The same in C++17, and what is C++'s own: std::complex, qualifiers, one name for a function and its overloads. */
#define main generic_main
#include "test_generic.c"
#undef main

#include <complex>

template <class C> static void test_complex()
{
    C *dest = static_cast<C *>(pes_alloc(sizeof(C))), *source = static_cast<C *>(pes_alloc(sizeof(C)));
    *source = C(1, me);
    shmem_barrier_all();
    CHECK(shmem_sum_reduce(SHMEM_TEAM_WORLD, dest, source, 1) == 0, "%s", shmemx_last_error());
    CHECK(*dest == C(npes, npes * (npes - 1) / 2), "sum of complex numbers");
    CHECK(shmem_sum_inscan(SHMEM_TEAM_WORLD, dest, source, 1) == 0, "%s", shmemx_last_error());
    CHECK(*dest == C(me + 1, me * (me + 1) / 2), "inclusive scan of complex numbers");
    CHECK(shmem_sum_exscan(SHMEM_TEAM_WORLD, dest, source, 1) == 0, "%s", shmemx_last_error());
    CHECK(*dest == C(me, me * (me - 1) / 2), "exclusive scan of complex numbers");
    *source = C(0, 1);
    shmem_barrier_all();
    CHECK(shmem_prod_reduce(SHMEM_TEAM_WORLD, dest, source, 1) == 0, "%s", shmemx_last_error());
    static const C powers[4] = {C(1, 0), C(0, 1), C(-1, 0), C(0, -1)};
    CHECK(*dest == powers[npes % 4], "product of complex numbers");
    CHECK(ENDED(shmemx_prod_reduce_nb(SHMEM_TEAM_WORLD, dest, source, 1, &r)) && *dest == powers[npes % 4],
          "product of complex numbers, nonblocking");
    CHECK(ENDED(shmemx_sum_exscan_nb(SHMEM_TEAM_WORLD, dest, source, 1, &r)) && *dest == C(0, me),
          "exclusive scan of complex numbers, nonblocking");
    shmem_barrier_all();
    shmem_free(dest);
    shmem_free(source);
}

int main()
{
    shmem_init(); /* nested: generic_main's own pair leaves the job running */
    int failed = generic_main();
    long *late = static_cast<long *>(pes_alloc(sizeof(long)));
    shmem_init();
    if (me == 0) { /* a nested finalize is a barrier too: nobody passes it before PE 0 has put */
        doze(20000);
        for (int pe = 0; pe < npes; pe++)
            shmem_p(late, 5L, pe);
    }
    shmem_finalize();
    CHECK(*late == 5, "a nested finalize was no barrier");
    int initialized = 0;
    shmem_query_initialized(&initialized);
    CHECK(initialized == 1, "a nested finalize ended the job");
    test_complex<std::complex<float>>();
    test_complex<std::complex<double>>();
    const long *constant = static_cast<long *>(pes_alloc(sizeof(long)));
    CHECK(shmem_g(constant, 0) == 0 && shmem_atomic_fetch(constant, 0) == 0, "sources may be const");
    long *psync = static_cast<long *>(pes_alloc(SHMEM_SYNC_SIZE * sizeof(long)));
    shmem_sync(0, 0, npes, psync);
    shmem_sync(SHMEM_TEAM_WORLD);
    int ended = pes_end();
    shmem_query_initialized(&initialized);
    CHECK(initialized == 0, "the last finalize did not end the job");
    return failed || ended || check_done();
}
