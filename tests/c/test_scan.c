/* Prefix sums: every type, inclusive and exclusive, in notes and in slices, in place, on teams; and refused calls. */
#include <complex.h>

#include "pes.h"

enum { LARGE = 70001 };
static const size_t counts[] = {1, 3, 257, 4080, LARGE};
static unsigned char *dest, *source;
static unsigned salt;

/* Whole numbers that every type holds, and their sums over 16 PEs too; integers wrap alike. */
#define VALUE_OF(T, who, i) ((T)(mix(who, i, salt) % 7))

#define DEFINE(NAME, T, CORE)                                                                                \
    static void scan_##NAME(shmem_team_t team, size_t n, bool exclusive, bool in_place)                      \
    {                                                                                                        \
        const int mine = shmem_team_my_pe(team);                                                             \
        T *in = (T *)source, *out = in_place ? in : (T *)dest;                                               \
        salt++;                                                                                              \
        for (size_t i = 0; i < n; i++)                                                                       \
            in[i] = VALUE_OF(T, mine, i);                                                                    \
        if (!in_place)                                                                                       \
            out[n] = (T)77;                                                                                  \
        shmem_team_sync(team);                                                                               \
        int rc = exclusive ? shmem_##NAME##_sum_exscan(team, out, in, n)                                     \
                           : shmem_##NAME##_sum_inscan(team, out, in, n);                                    \
        CHECK(rc == 0, #NAME ": %s", shmemx_last_error());                                                   \
        size_t wrong = 0;                                                                                    \
        for (size_t i = 0; i < n; i++) {                                                                     \
            T sum = 0;                                                                                       \
            for (int j = 0; j < mine + !exclusive; j++)                                                      \
                sum = (T)(sum + VALUE_OF(T, j, i));                                                          \
            wrong += out[i] != sum;                                                                          \
        }                                                                                                    \
        CHECK(wrong == 0, #NAME ": %zu of %zu are wrong, exclusive %d, in place %d", wrong, n, exclusive,    \
              in_place);                                                                                     \
        CHECK(in_place || out[n] == (T)77, #NAME ": wrote past %zu elements", n);                            \
        shmem_team_sync(team);                                                                               \
    }
SHMEM_TYPES_REDUCE_ORDERED(DEFINE)
SHMEM_TYPES_COMPLEX(DEFINE)

static void test_refused(void)
{
    double *d = (double *)dest, *s = (double *)source;
    CHECK(shmemx_scan(SHMEM_TEAM_INVALID, 0, SHMEMX_FLOAT64, d, s, 1) == SHMEMX_ERR_TEAM, "no team");
    shmem_barrier_all();
    CHECK(shmem_double_sum_inscan(SHMEM_TEAM_WORLD, d, s, SIZE_MAX / 4) == SHMEMX_ERR_ADDRESS, "size");
    shmem_barrier_all();
    double here[2] = {0};
    CHECK(shmem_double_sum_exscan(SHMEM_TEAM_WORLD, here, s, 2) == SHMEMX_ERR_ADDRESS, "private dest");
    shmem_barrier_all();
    CHECK(shmem_double_sum_inscan(SHMEM_TEAM_WORLD, d, d + 1, 2) == SHMEMX_ERR_ARGUMENT, "overlap in part");
    shmem_barrier_all();
    CHECK(shmemx_scan(SHMEM_TEAM_WORLD, 0, SHMEMX_TYPE_COUNT, d, s, 1) == SHMEMX_ERR_ARGUMENT, "no type");
    shmem_barrier_all();
    if (npes > 1) { /* one in an inclusive scan, the others in an exclusive one */
        int rc = me == 0 ? shmem_double_sum_inscan(SHMEM_TEAM_WORLD, d, s, 1)
                         : shmem_double_sum_exscan(SHMEM_TEAM_WORLD, d, s, 1);
        CHECK(rc == SHMEMX_ERR_MISMATCH || (me != 0 && npes > 2), "gave %d", rc);
        shmem_barrier_all();
    }
    CHECK(shmem_double_sum_inscan(SHMEM_TEAM_WORLD, NULL, NULL, 0) == 0, "nothing: %s", shmemx_last_error());
}

int main(void)
{
    pes_begin();
    shmem_team_t teams[SOME_TEAMS];
    pes_teams(teams);
    dest = pes_alloc((LARGE + 1) * sizeof(long double));
    source = pes_alloc((LARGE + 1) * sizeof(long double));
    for (int variant = 0; variant < 4; variant++) {
        bool exclusive = variant & 1, in_place = variant & 2;
#define RUN(NAME, T, CORE)                                                                                   \
    for (size_t c = 0; c < 3; c++)                                                                           \
        scan_##NAME(SHMEM_TEAM_WORLD, counts[c], exclusive, in_place);
        SHMEM_TYPES_REDUCE_ORDERED(RUN)
        SHMEM_TYPES_COMPLEX(RUN)
        for (size_t c = 3; c < sizeof counts / sizeof *counts; c++) {
            scan_int8(SHMEM_TEAM_WORLD, counts[c], exclusive, in_place);
            scan_double(SHMEM_TEAM_WORLD, counts[c], exclusive, in_place);
            scan_longdouble(SHMEM_TEAM_WORLD, counts[c], exclusive, in_place);
            scan_complexd(SHMEM_TEAM_WORLD, counts[c], exclusive, in_place);
        }
        for (int t = 1; t < SOME_TEAMS; t++)
            if (teams[t] != SHMEM_TEAM_INVALID) {
                scan_long(teams[t], 11, exclusive, in_place);
                scan_float(teams[t], LARGE, exclusive, in_place);
            }
    }
    shmemx_log_errors(0);
    test_refused();
    shmemx_log_errors(1);
    pes_teams_destroy(teams);
    return pes_end();
}
