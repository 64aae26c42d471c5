/* Reductions: every operation and type against the same computation here; in place; same bits on every PE.
 *
 * pes: 1 2 3 4 8 16 */
#include <complex.h>
#include <math.h>

#include "pes.h"

enum { COUNT = 129, LARGE = (1 << 20) / 8 };

static unsigned char *dest, *source;
static unsigned salt;

#define IS_FLOAT(T) ((T)0.5 != 0)
#define IS_SIGNED(T) ((T) - 1 < (T)1)

static uint64_t bits(int who, size_t i)
{
    uint64_t state = (uint64_t)mix(who, i, salt) << 20;
    return random_next(&state);
}

/* Operands that do not overflow a signed type: what overflow gives is nobody's promise. */
#define FRACTION(who, i) ((double)(bits(who, i) >> 11) * 0x1p-53)
#define ANY(T, who, i) (IS_FLOAT(T) ? (T)(FRACTION(who, i) * 2e3 - 1e3) : (T)bits(who, i))
#define ADDEND(T, who, i)                                                                                    \
    (IS_FLOAT(T)    ? (T)(FRACTION(who, i) * 2 - 1)                                                          \
     : IS_SIGNED(T) ? (T)((int)(bits(who, i) % 7) - 3)                                                       \
                    : (T)bits(who, i))
#define FACTOR(T, who, i)                                                                                    \
    (IS_FLOAT(T)    ? (T)(FRACTION(who, i) + 0.5)                                                            \
     : IS_SIGNED(T) ? (T)((who) < 5 ? 1 + (int)(bits(who, i) % 2) : 1)                                       \
                    : (T)bits(who, i))

/* Every PE's result is the same to the bit. `n` bytes; long double has bytes that mean nothing. */
static void check_same(const char *what, const void *p, size_t n)
{
    static unsigned char *theirs;
    if (theirs == NULL)
        theirs = pes_alloc(COUNT * 16);
    shmem_barrier_all();
    CHECK(shmem_broadcastmem(SHMEM_TEAM_WORLD, theirs, p, n, npes - 1) == 0, "%s", shmemx_last_error());
    CHECK(memcmp(theirs, p, n) == 0, "%s: the result is not the same on PE %d", what, npes - 1);
    shmem_barrier_all();
}

#define DEFINE(NAME, T, OP, INPUT, COMBINE, EQUAL)                                                           \
    static void OP##_##NAME(shmem_team_t team, size_t n, bool in_place)                                      \
    {                                                                                                        \
        const int mine = shmem_team_my_pe(team), members = shmem_team_n_pes(team);                           \
        T *in = (T *)source, *out = in_place ? in : (T *)dest;                                               \
        salt++;                                                                                              \
        for (size_t i = 0; i < n; i++)                                                                       \
            in[i] = INPUT(T, mine, i);                                                                       \
        if (!in_place)                                                                                       \
            out[n] = (T)7;                                                                                   \
        shmem_team_sync(team);                                                                               \
        int rc = shmem_##NAME##_##OP##_reduce(team, out, in, n);                                             \
        CHECK(rc == 0, #OP "_" #NAME ": %s", shmemx_last_error());                                           \
        size_t wrong = 0, first = 0;                                                                         \
        for (size_t i = 0; i < n; i++) {                                                                     \
            T a = INPUT(T, 0, i);                                                                            \
            for (int j = 1; j < members; j++) {                                                              \
                T b = INPUT(T, j, i);                                                                        \
                a = (T)(COMBINE);                                                                            \
            }                                                                                                \
            T b = out[i];                                                                                    \
            if (!(EQUAL) && wrong++ == 0)                                                                    \
                first = i;                                                                                   \
        }                                                                                                    \
        CHECK(wrong == 0, #OP "_" #NAME " over %d, in place %d: %zu of %zu are wrong, first %zu", members,   \
              in_place, wrong, n, first);                                                                    \
        CHECK(in_place || out[n] == (T)7, #OP "_" #NAME ": wrote past %zu elements", n);                     \
        if (team == SHMEM_TEAM_WORLD && n <= COUNT && sizeof(T) <= 8)                                        \
            check_same(#OP "_" #NAME, out, n * sizeof(T));                                                   \
        shmem_team_sync(team);                                                                               \
    }

/* Over several nodes each node adds its own first, so floats are rounded elsewhere. */
static bool nodes;
#define CLOSE(T, a, b)                                                                                       \
    (a == b || (nodes && IS_FLOAT(T) &&                                                                      \
                fabsl((long double)a - (long double)b) <= 1e-5L * (1 + fabsl((long double)a))))
#define DEFINE_BITWISE(NAME, T, CORE)                                                                        \
    DEFINE(NAME, T, and, ANY, a &b, a == b)                                                                  \
    DEFINE(NAME, T, or, ANY, a | b, a == b)                                                                  \
    DEFINE(NAME, T, xor, ANY, a ^ b, a == b)
#define DEFINE_ORDERED(NAME, T, CORE)                                                                        \
    DEFINE(NAME, T, max, ANY, a > b ? a : b, a == b)                                                         \
    DEFINE(NAME, T, min, ANY, a < b ? a : b, a == b)                                                         \
    DEFINE(NAME, T, sum, ADDEND, IS_FLOAT(T) ? a + b : (T)((uint64_t)a + (uint64_t)b), CLOSE(T, a, b))       \
    DEFINE(NAME, T, prod, FACTOR, IS_FLOAT(T) ? a *b : (T)((uint64_t)a * (uint64_t)b), CLOSE(T, a, b))
/* A compiler may fuse the multiplication and addition inside a complex product, here or there. */
#define COMPLEX_ADDEND(T, who, i) ((T)(FRACTION(who, i) + I * FRACTION(who, (i) + 1000)))
#define DEFINE_COMPLEX(NAME, T, CORE)                                                                        \
    DEFINE(NAME, T, sum, COMPLEX_ADDEND, a + b, a == b || (nodes && cabs(a - b) <= 1e-5 * (1 + cabs(a))))    \
    DEFINE(NAME, T, prod, COMPLEX_ADDEND, a *b, cabs(a - b) <= 1e-5 * cabs(a))
SHMEM_TYPES_REDUCE_BITWISE(DEFINE_BITWISE)
SHMEM_TYPES_REDUCE_ORDERED(DEFINE_ORDERED)
SHMEM_TYPES_COMPLEX(DEFINE_COMPLEX)

static const struct {
    void (*run)(shmem_team_t team, size_t n, bool in_place);
} rows[] = {
#define BITWISE_ROWS(NAME, T, CORE) {and_##NAME}, {or_##NAME}, {xor_##NAME},
#define ORDERED_ROWS(NAME, T, CORE) {max_##NAME}, {min_##NAME}, {sum_##NAME}, {prod_##NAME},
#define COMPLEX_ROWS(NAME, T, CORE) {sum_##NAME}, {prod_##NAME},
    SHMEM_TYPES_REDUCE_BITWISE(BITWISE_ROWS) SHMEM_TYPES_REDUCE_ORDERED(ORDERED_ROWS)
        SHMEM_TYPES_COMPLEX(COMPLEX_ROWS)};
enum { ROWS = sizeof rows / sizeof *rows };

static void test_teams(void)
{
    static const size_t counts[] = {1, 2, 63, 1000, 4088 / 8, 4088 / 8 + 1, 20001};
    shmem_team_t teams[SOME_TEAMS];
    pes_teams(teams);
    for (int t = 0; t < SOME_TEAMS; t++) {
        salt = 10000u * (unsigned)(t + 1); /* the same on all PEs, in how many teams they were or not */
        for (size_t c = 0; c < sizeof counts / sizeof *counts && teams[t] != SHMEM_TEAM_INVALID; c++) {
            sum_double(teams[t], counts[c], c % 2);
            max_long(teams[t], counts[c], !(c % 2));
            xor_uchar(teams[t], counts[c], c % 2);
            sum_float(teams[t], counts[c], !(c % 2));
        }
        shmem_barrier_all();
    }
    salt = 1;
    for (int in_place = 0; in_place < 2; in_place++) {
        sum_double(SHMEM_TEAM_WORLD, LARGE, in_place);
        min_short(SHMEM_TEAM_WORLD, LARGE + 1, in_place);
        prod_float(teams[2], LARGE, in_place);
    }
    pes_teams_destroy(teams);
}

/* One PE's NaN is everybody's result, where it is and nowhere else; infinities are numbers. */
#define DEFINE_NAN(NAME, T)                                                                                  \
    static void nan_##NAME(void)                                                                             \
    {                                                                                                        \
        enum { N = 40 };                                                                                     \
        T *in = (T *)source, *out = (T *)dest;                                                               \
        for (int op = 0; op < 4; op++) {                                                                     \
            shmem_barrier_all();                                                                             \
            for (int i = 0; i < N; i++)                                                                      \
                in[i] = (T)(me + i);                                                                         \
            in[20] = (T)INFINITY;                                                                            \
            in[22] = (T) - INFINITY;                                                                         \
            for (int i = 1; i < N; i += 2)                                                                   \
                if (i % npes == me)                                                                          \
                    in[i] = (T)NAN;                                                                          \
            shmem_barrier_all();                                                                             \
            int rc = op == 0   ? shmem_##NAME##_max_reduce(SHMEM_TEAM_WORLD, out, in, N)                     \
                     : op == 1 ? shmem_##NAME##_min_reduce(SHMEM_TEAM_WORLD, out, in, N)                     \
                     : op == 2 ? shmem_##NAME##_sum_reduce(SHMEM_TEAM_WORLD, out, in, N)                     \
                               : shmem_##NAME##_prod_reduce(SHMEM_TEAM_WORLD, out, in, N);                   \
            CHECK(rc == 0, "%s", shmemx_last_error());                                                       \
            for (int i = 0; i < N; i++) {                                                                    \
                if (i % 2) {                                                                                 \
                    CHECK(isnan(out[i]), #NAME " op %d, element %d: %Lg, not NaN", op, i,                    \
                          (long double)out[i]);                                                              \
                    continue;                                                                                \
                }                                                                                            \
                if (op < 2 && i != 20 && i != 22)                                                            \
                    CHECK(out[i] == (T)(i + (op == 0 ? npes - 1 : 0)), #NAME " op %d, element %d: %Lg", op,  \
                          i, (long double)out[i]);                                                           \
                if (i == 20 || i == 22)                                                                      \
                    CHECK(isinf(out[i]), #NAME " op %d, element %d: %Lg", op, i, (long double)out[i]);       \
            }                                                                                                \
        }                                                                                                    \
    }
DEFINE_NAN(float, float)
DEFINE_NAN(double, double)
DEFINE_NAN(longdouble, long double)

/* Bits of a small whole number (0 to 2048; 256 for bfloat16), exact in both. */
static uint16_t half_bits(unsigned x)
{
    unsigned e = 0;
    while (x >> e > 1)
        e++;
    return (uint16_t)(x == 0 ? 0 : (15 + e) << 10 | ((x << 10 >> e) & 0x3ff));
}

static uint16_t bfloat_bits(unsigned x)
{
    float f = (float)x;
    uint32_t word;
    memcpy(&word, &f, sizeof word);
    return (uint16_t)(word >> 16);
}

static void test_half(void)
{
    enum { N = 21 };
    uint16_t *in = (uint16_t *)source, *out = (uint16_t *)dest;
    for (int wide = 0; wide < 2; wide++) {
        uint16_t (*const make)(unsigned) = wide ? bfloat_bits : half_bits;
        const int type = wide ? SHMEMX_BFLOAT16 : SHMEMX_FLOAT16;
        for (int op = SHMEMX_REDUCE_MAX; op <= SHMEMX_REDUCE_SUM; op++) {
            shmem_barrier_all();
            for (unsigned i = 0; i < N; i++)
                in[i] = make(i % 11 + (unsigned)me % 4);
            shmem_barrier_all();
            CHECK(shmemx_reduce(SHMEM_TEAM_WORLD, op, type, out, in, N) == 0, "%s", shmemx_last_error());
            for (unsigned i = 0; i < N; i++) {
                unsigned want =
                    op == SHMEMX_REDUCE_MAX ? i % 11 + (npes < 4 ? (unsigned)npes - 1 : 3) : i % 11;
                for (int pe = 1; op == SHMEMX_REDUCE_SUM && pe < npes; pe++)
                    want += i % 11 + (unsigned)pe % 4;
                CHECK(out[i] == make(want), "type %d op %d element %u: %04x, not %04x (%u)", type, op, i,
                      out[i], make(want), want);
            }
        }
        /* added in float32 and rounded once: 2048 + 1 + 1 is 2050 in float16, where 2048 + 1 is 2048 */
        shmem_barrier_all();
        unsigned large = wide ? 256 : 2048;
        in[0] = make(me == 0 ? large : me < 3 ? 1 : 0);
        shmem_barrier_all();
        CHECK(shmemx_reduce(SHMEM_TEAM_WORLD, SHMEMX_REDUCE_SUM, type, out, in, 1) == 0, "%s",
              shmemx_last_error());
        CHECK(npes < 3 || out[0] == make(large + 2), "type %d: %u + 1 + 1 is %04x, not %04x", type, large,
              out[0], make(large + 2));
    }
    shmem_barrier_all();
}

int main(void)
{
    pes_begin();
    nodes = shmem_team_n_pes(SHMEM_TEAM_SHARED) != npes;
    dest = pes_alloc(2 * LARGE * 8);
    source = pes_alloc(2 * LARGE * 8);
    for (size_t r = 0; r < ROWS; r++) {
        rows[r].run(SHMEM_TEAM_WORLD, 0, false);
        rows[r].run(SHMEM_TEAM_WORLD, 1, false);
        rows[r].run(SHMEM_TEAM_WORLD, COUNT, false);
        rows[r].run(SHMEM_TEAM_WORLD, COUNT - 2, true);
    }
    test_teams();
    nan_float();
    nan_double();
    nan_longdouble();
    test_half();
    return pes_end();
}
