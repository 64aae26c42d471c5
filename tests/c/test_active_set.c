/* The deprecated collectives over active sets: every set of this many PEs, every call, sets made when teams are scarce;
 * mistakes are named and nothing is written. */
#include <complex.h>

#include "pes.h"

enum { COUNT = 5, ROOM = 2048 };
static long *psync, *data, *out, *flag;

static void clear(void)
{
    for (int i = 0; i < ROOM; i++)
        out[i] = -1;
}

static void check_psync(const char *what)
{
    for (int i = 0; i < SHMEM_SYNC_SIZE; i++)
        CHECK(psync[i] == SHMEM_SYNC_VALUE, "%s left %ld in pSync[%d]", what, psync[i], i);
}

static void test_barrier(int start, int log_stride, int n)
{
    const int stride = n == 1 ? 1 : 1 << log_stride, rank = (me - start) / stride;
    const int to = start + (rank + 1) % n * stride;
    for (long round = 1; round <= 3; round++) {
        dawdle();
        shmem_long_p(flag, 1000 * me + round, to); /* complete by the barrier */
        shmem_barrier(start, log_stride, n, psync);
        long from = start + (rank + n - 1) % n * stride;
        CHECK(*flag == 1000 * from + round, "barrier of %d from %d by %d: found %ld", n, start, stride,
              *flag);
        shmem_sync(start, log_stride, n, psync);
    }
}

static void test_data(int start, int log_stride, int n)
{
    const int stride = n == 1 ? 1 : 1 << log_stride, rank = (me - start) / stride, root = n - 1;
    int32_t *out32 = (int32_t *)out, *data32 = (int32_t *)data;
    for (int i = 0; i < COUNT * npes; i++)
        data[i] = 100 * rank + i;
    clear();
    shmem_sync(start, log_stride, n, psync);
    shmem_broadcast64(out, data, COUNT, root, start, log_stride, n, psync);
    for (int i = 0; i < COUNT; i++)
        CHECK(out[i] == (rank == root ? -1 : 100 * root + i), "broadcast64 to %d of %d: %ld", rank, n,
              out[i]);
    clear();
    shmem_sync(start, log_stride, n, psync);
    size_t mine = (size_t)(rank % 3); /* some bring nothing */
    shmem_collect64(out, data, mine, start, log_stride, n, psync);
    long *at = out;
    for (int j = 0; j < n; j++)
        for (int i = 0; i < j % 3; i++, at++)
            CHECK(*at == 100 * j + i, "collect64 of %d: %ld from member %d", n, *at, j);
    CHECK(*at == -1, "collect64 wrote past its end");
    clear();
    shmem_sync(start, log_stride, n, psync);
    shmem_fcollect64(out, data, COUNT, start, log_stride, n, psync);
    for (int i = 0; i < COUNT * n; i++)
        CHECK(out[i] == 100 * (i / COUNT) + i % COUNT, "fcollect64 of %d: element %d is %ld", n, i, out[i]);
    clear();
    shmem_sync(start, log_stride, n, psync);
    shmem_alltoall64(out, data, COUNT, start, log_stride, n, psync);
    for (int i = 0; i < COUNT * n; i++)
        CHECK(out[i] == 100 * (i / COUNT) + rank * COUNT + i % COUNT, "alltoall64 of %d: %ld", n, out[i]);
    clear();
    shmem_sync(start, log_stride, n, psync);
    shmem_alltoalls64(out, data, 2, 1, COUNT, start, log_stride, n, psync);
    for (int i = 0; i < COUNT * n; i++)
        CHECK(out[2 * i] == 100 * (i / COUNT) + rank * COUNT + i % COUNT && out[2 * i + 1] == -1,
              "alltoalls64 of %d: %ld, %ld", n, out[2 * i], out[2 * i + 1]);

    shmem_sync(start, log_stride, n, psync);
    for (int i = 0; i < COUNT * npes; i++)
        data32[i] = 100 * rank + i;
    clear();
    shmem_sync(start, log_stride, n, psync);
    shmem_broadcast32(out, data, COUNT, 0, start, log_stride, n, psync);
    CHECK(out32[COUNT - 1] == (rank == 0 ? -1 : COUNT - 1) && out32[COUNT] == -1, "broadcast32: %d",
          out32[COUNT - 1]);
    shmem_sync(start, log_stride, n, psync);
    shmem_fcollect32(out, data, 1, start, log_stride, n, psync);
    CHECK(out32[n - 1] == 100 * (n - 1), "fcollect32: %d", out32[n - 1]);
    shmem_sync(start, log_stride, n, psync);
    shmem_collect32(out, data, 2, start, log_stride, n, psync);
    CHECK(out32[2 * n - 1] == 100 * (n - 1) + 1, "collect32: %d", out32[2 * n - 1]);
    shmem_sync(start, log_stride, n, psync);
    shmem_alltoall32(out, data, 1, start, log_stride, n, psync);
    CHECK(out32[n - 1] == 100 * (n - 1) + rank, "alltoall32: %d", out32[n - 1]);
    shmem_sync(start, log_stride, n, psync);
    shmem_alltoalls32(out, data, 1, 2, 1, start, log_stride, n, psync);
    CHECK(out32[n - 1] == 100 * (n - 1) + 2 * rank, "alltoalls32: %d", out32[n - 1]);
    shmem_sync(start, log_stride, n, psync);
}

/* Member j brings 1 + j % 3. */
#define TO_ALL(NAME, T, OP, EXPRESSION)                                                                      \
    {                                                                                                        \
        T *in = (T *)data, *result = (T *)out, a = (T)1;                                                     \
        for (int j = 1; j < n; j++) {                                                                        \
            T b = (T)(1 + j % 3);                                                                            \
            a = (T)(EXPRESSION);                                                                             \
        }                                                                                                    \
        shmem_sync(start, log_stride, n, psync);                                                             \
        in[0] = in[1] = (T)(1 + rank % 3);                                                                   \
        shmem_sync(start, log_stride, n, psync);                                                             \
        shmem_##NAME##_##OP##_to_all(result, in, 2, start, log_stride, n, result + 16, psync);               \
        CHECK(result[0] == a && result[1] == a, #NAME "_" #OP "_to_all over %d", n);                         \
    }

static void test_to_all(int start, int log_stride, int n)
{
    const int stride = n == 1 ? 1 : 1 << log_stride, rank = (me - start) / stride;
#define BITWISE(NAME, T, CORE)                                                                               \
    TO_ALL(NAME, T, and, a &b)                                                                               \
    TO_ALL(NAME, T, or, a | b)                                                                               \
    TO_ALL(NAME, T, xor, a ^ b)
#define ORDERED(NAME, T, CORE)                                                                               \
    TO_ALL(NAME, T, max, a > b ? a : b)                                                                      \
    TO_ALL(NAME, T, min, a < b ? a : b)
#define ARITHMETIC(NAME, T, CORE)                                                                            \
    TO_ALL(NAME, T, sum, a + b)                                                                              \
    TO_ALL(NAME, T, prod, a *b)
    SHMEM_TYPES_TO_ALL_BITWISE(BITWISE)
    SHMEM_TYPES_TO_ALL_ORDERED(ORDERED)
    SHMEM_TYPES_TO_ALL_ORDERED(ARITHMETIC)
    SHMEM_TYPES_COMPLEX(ARITHMETIC)
    shmem_sync(start, log_stride, n, psync);
}

static void over_every_set(void (*test)(int start, int log_stride, int n))
{
    for (int log_stride = 0; 1 << log_stride <= npes; log_stride++)
        for (int start = 0; start < npes; start++)
            for (int n = 1; start + (n - 1) * (1 << log_stride) < npes; n++) {
                int away = me - start, stride = 1 << log_stride;
                if (away >= 0 && away % stride == 0 && away / stride < n && (n > 1 || log_stride == 0))
                    test(start, log_stride, n);
                shmem_barrier_all(); /* pSync is one for all sets */
                check_psync("a set");
                shmem_barrier_all(); /* before anybody comes to the next set */
            }
}

/* The program's own teams have the most slots: sets are made for one call each, and the teams stay. */
static void test_few_slots(void)
{
    enum { MANY = 90 };
    shmem_team_t teams[MANY];
    for (int i = 0; i < MANY; i++)
        CHECK(shmem_team_split_strided(SHMEM_TEAM_WORLD, 0, 1, npes, NULL, 0, &teams[i]) == 0, "%s",
              shmemx_last_error());
    for (int round = 0; round < 3; round++) {
        if (me < npes - 1)
            test_data(0, 0, npes - 1);
        shmem_barrier_all();
        check_psync("a set for one call");
        shmem_barrier_all();
    }
    for (int i = 0; i < MANY; i++) {
        CHECK(shmem_team_sync(teams[i]) == 0, "%s", shmemx_last_error());
        shmem_team_destroy(teams[i]);
    }
}

static void refused(const char *text)
{
    CHECK(strstr(shmemx_last_error(), text) != NULL, "\"%s\" is not in: %s", text, shmemx_last_error());
}

static void test_mistakes(void)
{
    long here[SHMEM_SYNC_SIZE] = {0};
    clear();
    shmemx_log_errors(0);
    shmem_barrier(0, 0, npes + 1, psync);
    refused("is no active set of PEs");
    shmem_barrier(-1, 0, 1, psync);
    refused("PE_start -1");
    shmem_barrier(0, -1, 1, psync);
    refused("logPE_stride -1");
    shmem_barrier(0, 0, 0, psync);
    refused("PE_size 0");
    shmem_sync(0, 31, 2, psync);
    refused("logPE_stride 31");
    shmem_sync((me + 1) % npes, 0, 1, npes > 1 ? psync : here);
    refused(npes > 1 ? "is not in the active set" : "pSync");
    shmem_broadcast64(out, data, 1, 0, 0, 0, npes, here);
    refused("pSync");
    shmem_long_sum_to_all(out, data, -1, 0, 0, npes, out, psync);
    refused("nreduce is -1");
    shmem_long_sum_to_all(here, data, 1, 0, 0, npes, out, psync);
    refused("dest");
    shmem_barrier_all();
    if (npes > 2) { /* pSync that is not as it must be, on one member */
        psync[4] = me == 1;
        shmem_barrier_all();
        if (me < npes - 1)
            shmem_sync(0, 0, npes - 1, psync);
        if (me < npes - 1)
            refused(me == 1 ? "SHMEM_SYNC_VALUE" : "a member refused");
        shmem_barrier_all();
        memset(psync, 0, SHMEM_SYNC_SIZE * sizeof *psync);
        shmem_barrier_all();
        if (me < npes - 1)
            shmem_sync(0, 0, npes - 1, psync); /* and now it is made */
    }
    shmemx_log_errors(1);
    shmem_barrier_all();
    for (int i = 0; i < ROOM; i++)
        CHECK(out[i] == -1, "a refused call wrote");
}

int main(void)
{
    for (int job = 0; job < 2; job++) { /* sets of the first job are not found in the second */
        pes_begin();
        psync = pes_alloc(SHMEM_SYNC_SIZE * sizeof *psync);
        data = pes_alloc(ROOM * sizeof *data);
        out = pes_alloc(ROOM * sizeof *out);
        flag = pes_alloc(sizeof *flag);
        if (job == 0)
            test_mistakes();
        over_every_set(test_barrier);
        if (job == 0) {
            over_every_set(test_data);
            over_every_set(test_to_all);
        }
        if (npes > 1 && job == 1)
            test_few_slots();
        shmem_finalize();
    }
    return check_done();
}
