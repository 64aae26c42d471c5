/* Quantized collectives against float64: error bounds, the same bits on every PE, odd sizes, misaligned and shared
 * buffers, error feedback, NaN and infinity, members that disagree.
 *
 * pes: 1 2 3 4 8 */
#include <math.h>

#include "pes.h"

enum { MOST = 300007, MARGIN = 64 };
enum call { ALLREDUCE, REDUCE_SCATTER, ALLGATHER, ALLTOALL, BROADCAST, CALLS };
static const char *const names[CALLS] = {"allreduce", "reduce_scatter", "allgather", "alltoall", "broadcast"};

static unsigned char *dest, *source;
static unsigned salt;
static size_t pays; /* SHMEMX_QUANT_AUTO is then so many bytes */

static uint32_t float_bits(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

static size_t size_of(int dtype)
{
    return dtype == SHMEMX_FLOAT32 ? 4 : 2;
}

/* Values of 7 bits, times a power of two that differs between groups: exact in all three types. */
static double value(int pe, size_t i)
{
    int magnitude = (int)(mix(pe, i, salt) * 2654435761u >> 9 & 127) - 64;
    return ldexp(magnitude, (int)(i / 200 % 9) - 8);
}

static void put_element(unsigned char *to, int dtype, size_t i, double x)
{
    float f = (float)x;
    uint32_t bits = float_bits(f);
    uint16_t half = (uint16_t)(bits >> 16);
    if (dtype == SHMEMX_FLOAT16) {
        half = (uint16_t)(bits >> 16 & 0x8000);
        if (f != 0.0f)
            half = (uint16_t)(half | (((bits >> 23 & 255) - 112) << 10 | (bits >> 13 & 1023)));
    }
    memcpy(to + i * size_of(dtype), dtype == SHMEMX_FLOAT32 ? (void *)&f : (void *)&half, size_of(dtype));
}

static double element(const unsigned char *from, int dtype, size_t i)
{
    float f;
    uint16_t half;
    if (dtype == SHMEMX_FLOAT32) {
        memcpy(&f, from + 4 * i, sizeof f);
        return f;
    }
    memcpy(&half, from + 2 * i, sizeof half);
    if (dtype == SHMEMX_BFLOAT16) {
        uint32_t bits = (uint32_t)half << 16;
        memcpy(&f, &bits, sizeof f);
        return f;
    }
    int exponent = half >> 10 & 31, mantissa = half & 1023;
    double x = exponent == 31 ? (mantissa ? NAN : INFINITY)
               : exponent     ? ldexp(1024 + mantissa, exponent - 25)
                              : ldexp(mantissa, -24);
    return half & 0x8000 ? -x : x;
}

static int run(int call, shmem_team_t team, void *to, const void *from, size_t n, int dtype, int root,
               const shmemx_quant_t *how, float *residual)
{
    switch (call) {
    case ALLREDUCE:
        return shmemx_allreduce_int8(team, to, from, n, dtype, how, residual);
    case REDUCE_SCATTER:
        return shmemx_reduce_scatter_int8(team, to, from, n, dtype, how, residual);
    case ALLGATHER:
        return shmemx_allgather_int8(team, to, from, n, dtype, how);
    case ALLTOALL:
        return shmemx_alltoall_int8(team, to, from, n, dtype, how);
    default:
        return shmemx_broadcast_int8(team, to, from, n, dtype, root, how);
    }
}

/* Blocks at source and dest, and element i of what member `me` of the team must get. */
static size_t blocks_in(int call, int n)
{
    return call == REDUCE_SCATTER || call == ALLTOALL ? (size_t)n : 1;
}

static size_t blocks_out(int call, int n)
{
    return call == ALLGATHER || call == ALLTOALL ? (size_t)n : 1;
}

static double wanted(int call, shmem_team_t team, size_t n, size_t i, int root, int op)
{
    const int members = shmem_team_n_pes(team), mine = shmem_team_my_pe(team);
    double sum = 0;
    switch (call) {
    case ALLGATHER:
        return value((int)(i / n), i % n);
    case ALLTOALL:
        return value((int)(i / n), (size_t)mine * n + i % n);
    case BROADCAST:
        return value(root, i);
    default:
        for (int j = 0; j < members; j++)
            sum += value(j, call == ALLREDUCE ? i : (size_t)mine * n + i);
        return op == SHMEMX_QUANT_MEAN ? sum / members : sum;
    }
}

/* The largest error that the format allows: half a step of INT8 is amax / 254, of e4m3 amax / 16 at most (32 where a value
 * is not just above a power of two). amax is 64 once and members * 64 for the sum. Then the type's own rounding. */
static double bound(int call, int dtype, const shmemx_quant_t *how, int members, bool raw)
{
    double step = raw ? 0 : how->format == SHMEMX_QUANT_INT8 ? 1 / 254.0 : 1 / 16.0;
    bool sums = call == ALLREDUCE || call == REDUCE_SCATTER;
    double largest = sums ? 64.0 * members : 64.0, error = largest * step;
    if (call == ALLREDUCE)
        error += (largest + error) * step;
    double rounding = dtype == SHMEMX_FLOAT32 ? 0x1p-20 : dtype == SHMEMX_FLOAT16 ? 0x1p-10 : 0x1p-7;
    /* over nodes elements as they are, or sums of a node, may be rounded on their way when nothing is quantized */
    error += (largest + error) * rounding * (raw ? 3 : 1);
    return sums && how->op == SHMEMX_QUANT_MEAN ? error / members : error;
}

static uint64_t hash(const unsigned char *p, size_t n)
{
    uint64_t h = 14695981039346656037u;
    for (size_t i = 0; i < n; i++)
        h = (h ^ p[i]) * 1099511628211u;
    return h;
}

/* The same bits on all members. */
static void check_same(shmem_team_t team, const char *what, const unsigned char *p, size_t n)
{
    static uint64_t *mine, *all;
    if (!mine)
        mine = pes_alloc(sizeof *mine), all = pes_alloc(sizeof *all * 64);
    *mine = hash(p, n);
    CHECK(shmemx_fcollect(team, all, mine, sizeof *mine) == 0, "%s", shmemx_last_error());
    for (int j = 0; j < shmem_team_n_pes(team); j++)
        CHECK(all[j] == *mine, "%s: member %d has other bits", what, j);
    shmem_team_sync(team);
}

/* `misaligned`: bytes by which dest and source are off any alignment. */
static void test(int call, shmem_team_t team, size_t n, int dtype, const shmemx_quant_t *how, bool in_place,
                 size_t misaligned)
{
    const int members = shmem_team_n_pes(team), mine = shmem_team_my_pe(team),
              root = (int)(n % (size_t)members);
    size_t size = size_of(dtype), in = n * blocks_in(call, members), out = n * blocks_out(call, members);
    unsigned char *from = source + MARGIN + misaligned, *to = dest + MARGIN + misaligned;
    salt++;
    if (in_place)
        from = to + (call == ALLGATHER ? (size_t)mine * n * size : 0);
    if (in_place && call == REDUCE_SCATTER)
        from = to, to += (size_t)mine * n * size;
    memset(dest, 0xa5, MARGIN + misaligned);
    for (size_t i = 0; i < in && (call != BROADCAST || mine == root); i++)
        put_element(from, dtype, i, value(mine, i));
    if (!in_place)
        memset(to + out * size, 0xa5, MARGIN);
    int rc = run(call, team, to, from, n, dtype, root, how, NULL);
    CHECK(rc == 0, "%s of %zu: %s", names[call], n, shmemx_last_error());
    shmemx_quant_t defaults;
    shmemx_quant_defaults(&defaults);
    const shmemx_quant_t *h = how ? how : &defaults;
    /* every test but that of MOST, which is less than 4 MiB, is far below what is quantized within one node */
    bool raw = members == 1 || n * size < (h->min_bytes == SHMEMX_QUANT_AUTO ? pays : h->min_bytes);
    double limit = bound(call, dtype, h, members, raw), worst = 0;
    size_t wrong = 0, first = 0;
    for (size_t i = 0; i < out && rc == 0; i++) {
        double error = fabs(element(to, dtype, i) - wanted(call, team, n, i, root, h->op));
        worst = fmax(worst, error);
        first = error <= limit || wrong ? first : i;
        wrong += !(error <= limit);
    }
    CHECK(wrong == 0, "%s of %zu, type %d, format %d, group %zu: %zu wrong, first %zu; %g, at most %g",
          names[call], n, dtype, h->format, h->group, wrong, first, worst, limit);
    for (size_t i = 0; i < MARGIN && !in_place; i++)
        CHECK(to[out * size + i] == 0xa5, "%s of %zu: byte %zu past the end was written", names[call], n, i);
    CHECK(dest[MARGIN + misaligned - 1] == 0xa5, "%s of %zu: written before the start", names[call], n);
    if (call == ALLREDUCE || call == ALLGATHER || call == BROADCAST)
        check_same(team, names[call], to, out * size);
}

static shmemx_quant_t how_of(int format, size_t group, size_t row)
{
    shmemx_quant_t how;
    shmemx_quant_defaults(&how);
    how.format = format;
    how.group = group;
    how.row = row;
    how.min_bytes = 0;
    return how;
}

static void test_shapes(void)
{
    static const size_t counts[] = {0, 1, 31, 129, 1000, 1024, 4000, 4097, 20001};
    static const int types[] = {SHMEMX_FLOAT32, SHMEMX_FLOAT16, SHMEMX_BFLOAT16};
    shmemx_quant_t hows[] = {how_of(SHMEMX_QUANT_INT8, 128, 0),  how_of(SHMEMX_QUANT_INT8, 64, 0),
                             how_of(SHMEMX_QUANT_INT8, 32, 100), how_of(SHMEMX_QUANT_INT8, 0, 333),
                             how_of(SHMEMX_QUANT_E4M3, 128, 0),  how_of(SHMEMX_QUANT_E4M3, 0, 4096)};
    enum { HOWS = sizeof hows / sizeof *hows };
    hows[1].op = hows[4].op = SHMEMX_QUANT_MEAN;
    hows[2].min_bytes = SHMEMX_QUANT_AUTO;
    hows[3].min_bytes = 9000; /* both sides of it */
    for (int call = 0; call < CALLS; call++)
        for (size_t c = 0; c < sizeof counts / sizeof *counts; c++)
            for (int h = 0; h < HOWS; h++)
                test(call, SHMEM_TEAM_WORLD, counts[c], types[(c + (size_t)h) % 3], &hows[h],
                     h % 2 && call != BROADCAST, (c + (size_t)h) % 4);
    test(ALLREDUCE, SHMEM_TEAM_WORLD, MOST, SHMEMX_FLOAT32, NULL, false, 0);
    test(ALLREDUCE, SHMEM_TEAM_WORLD, MOST, SHMEMX_BFLOAT16, &hows[4], true, 1);
    hows[0].min_bytes = SIZE_MAX - 1; /* all as it is, through stages */
    test(ALLREDUCE, SHMEM_TEAM_WORLD, MOST, SHMEMX_FLOAT32, &hows[0], false, 0);
    for (int call = REDUCE_SCATTER; call < CALLS; call++)
        test(call, SHMEM_TEAM_WORLD, MOST / (size_t)npes, SHMEMX_FLOAT16, NULL, false, 3);
}

static void test_teams(void)
{
    shmem_team_t teams[SOME_TEAMS];
    pes_teams(teams);
    for (int t = 0; t < SOME_TEAMS; t++) {
        salt = 10000u * (unsigned)(t + 1);
        for (int call = 0; call < CALLS && teams[t] != SHMEM_TEAM_INVALID; call++) {
            test(call, teams[t], 777, SHMEMX_FLOAT32, NULL, false, 0);
            test(call, teams[t], 33333, SHMEMX_BFLOAT16, NULL, false, 2);
        }
        shmem_barrier_all();
    }
    salt = 1;
    pes_teams_destroy(teams);
}

/* What dest lacks is in the residuals: their sum is the difference from the exact sum, round after round. */
static void test_residual(int call, size_t n, int format, int op)
{
    const size_t in = n * blocks_in(call, npes);
    float *residual = pes_private(in * sizeof *residual);
    double *all = pes_alloc(in * sizeof *all), *carried = pes_private(in * sizeof *carried);
    shmemx_quant_t how = how_of(format, 128, 0);
    how.op = op;
    how.min_bytes = 0;
    for (size_t i = 0; i < in; i++) /* left over from calls before */
        all[i] = residual[i] = (float)value(me, i + 7) / 256;
    CHECK(shmem_double_sum_reduce(SHMEM_TEAM_WORLD, all, all, in) == 0, "%s", shmemx_last_error());
    memcpy(carried, all, in * sizeof *all);
    for (int round = 0; round < 3; round++) {
        salt++;
        for (size_t i = 0; i < in; i++)
            put_element(source, SHMEMX_FLOAT32, i, value(me, i));
        int rc = run(call, SHMEM_TEAM_WORLD, dest, source, n, SHMEMX_FLOAT32, 0, &how, residual);
        CHECK(rc == 0, "%s", shmemx_last_error());
        for (size_t i = 0; i < in; i++)
            all[i] = residual[i];
        CHECK(shmem_double_sum_reduce(SHMEM_TEAM_WORLD, all, all, in) == 0, "%s", shmemx_last_error());
        size_t wrong = 0, some = 0;
        for (size_t i = 0; i < n; i++) {
            size_t at = call == ALLREDUCE ? i : (size_t)me * n + i;
            double got = element(dest, SHMEMX_FLOAT32, i) * (op == SHMEMX_QUANT_MEAN ? npes : 1),
                   exact = carried[at];
            for (int pe = 0; pe < npes; pe++)
                exact += value(pe, at);
            wrong += fabs(got + all[at] - exact) > 1e-4 * npes;
            some += all[at] != 0;
        }
        CHECK(wrong == 0, "%s of %zu with error feedback, format %d, round %d: %zu elements lost something",
              names[call], n, format, round, wrong);
        CHECK(npes == 1 || n < 100 || some > 0, "%s of %zu: nothing was left out", names[call], n);
        memcpy(carried, all, in * sizeof *all);
        shmem_barrier_all();
    }
    free(residual);
    free(carried);
    shmem_free(all);
}

/* One PE has a NaN, an infinity or both; sizes in a note and beyond. */
static void test_nonfinite(int call, size_t n, int odd, double bad, size_t min_bytes)
{
    const int members = npes;
    size_t in = n * blocks_in(call, members), out = n * blocks_out(call, members), at = in - 1;
    shmemx_quant_t how = how_of(SHMEMX_QUANT_INT8, 128, 0);
    how.min_bytes = min_bytes;
    for (size_t i = 0; i < in; i++)
        put_element(source, SHMEMX_FLOAT32, i, value(me, i));
    if (me == odd) {
        float f = (float)bad;
        memcpy(source + at * 4, &f, sizeof f);
    }
    int root = odd, rc = run(call, SHMEM_TEAM_WORLD, dest, source, n, SHMEMX_FLOAT32, root, &how, NULL);
    if (me == odd && call != REDUCE_SCATTER) /* there it may be the sum that shows it, at its owner */
        CHECK(rc == SHMEMX_ERR_DATA || (call == ALLREDUCE && rc == SHMEMX_ERR_MISMATCH),
              "%s of %zu with %g: %d (%s)", names[call], n, bad, rc, shmemx_last_error());
    else
        CHECK(rc == SHMEMX_ERR_MISMATCH || rc == SHMEMX_ERR_DATA || (call == REDUCE_SCATTER && rc == 0),
              "%s of %zu with %g on PE %d: %d (%s)", names[call], n, bad, odd, rc, shmemx_last_error());
    shmem_barrier_all();
    how.on_nonfinite = SHMEMX_NONFINITE_PROPAGATE;
    rc = run(call, SHMEM_TEAM_WORLD, dest, source, n, SHMEMX_FLOAT32, root, &how, NULL);
    CHECK(rc == 0, "%s of %zu with %g: %s", names[call], n, bad, shmemx_last_error());
    /* the last element of: everybody's result, the last member's, the block of `odd` */
    bool gets = call == ALLREDUCE || call == BROADCAST || call == ALLGATHER || me == npes - 1;
    size_t last = call == ALLGATHER || call == ALLTOALL ? ((size_t)odd + 1) * n - 1 : out - 1;
    CHECK(!gets || !isfinite(element(dest, SHMEMX_FLOAT32, last)), "%s of %zu: %g became %g", names[call], n,
          bad, element(dest, SHMEMX_FLOAT32, last));
    size_t wrong = 0;
    for (size_t i = 0; i < out; i++)
        wrong += !isfinite(element(dest, SHMEMX_FLOAT32, i));
    CHECK(wrong <= 128, "%s of %zu: %g spread to %zu elements", names[call], n, bad, wrong);
    shmem_barrier_all();
}

/* The sum of finite ones is not finite. */
static void test_overflow(size_t n)
{
    const float huge = 3e38f;
    for (size_t i = 0; i < n; i++)
        memcpy(source + 4 * i, &huge, sizeof huge);
    int rc = shmemx_allreduce_int8(SHMEM_TEAM_WORLD, dest, source, n, SHMEMX_FLOAT32, NULL, NULL);
    CHECK(npes == 1 ? rc == 0 : rc == SHMEMX_ERR_DATA || rc == SHMEMX_ERR_MISMATCH, "%zu: %d", n, rc);
    shmem_barrier_all();
}

static void works(const char *after)
{
    for (size_t i = 0; i < 5000; i++)
        put_element(source, SHMEMX_FLOAT32, i, 64);
    int rc = shmemx_allreduce_int8(SHMEM_TEAM_WORLD, dest, source, 5000, SHMEMX_FLOAT32, NULL, NULL);
    CHECK(rc == 0 && fabs(element(dest, SHMEMX_FLOAT32, 4999) - 64.0 * npes) < 1e-3, "after %s: %d, %g (%s)",
          after, rc, element(dest, SHMEMX_FLOAT32, 4999), shmemx_last_error());
    shmem_barrier_all();
}

static void test_disagreements(int call, int odd)
{
    static const char *const fields[] = {"format", "on_nonfinite", "op", "group", "row", "min_bytes", "root"};
    const int code = SHMEMX_ERR_MISMATCH;
    for (size_t n = 500; n < 50000; n *= 60) {
        int rc =
            run(call, SHMEM_TEAM_WORLD, dest, source, me == odd ? n - 1 : n, SHMEMX_FLOAT32, 0, NULL, NULL);
        CHECK(rc == code && strstr(shmemx_last_error(), "PE "), "%s, another size: %d", names[call], rc);
        works("another size");
        /* the same bytes of another type */
        rc = run(call, SHMEM_TEAM_WORLD, dest, source, me == odd ? 2 * n : n,
                 me == odd ? SHMEMX_FLOAT16 : SHMEMX_FLOAT32, 0, NULL, NULL);
        CHECK(rc == code && strstr(shmemx_last_error(), "type"), "%s, another type: %d", names[call], rc);
        works("another type");
        for (int f = 0; f < (call == BROADCAST ? 7 : 6); f++) {
            shmemx_quant_t how;
            shmemx_quant_defaults(&how);
            if (me == odd) {
                how.format = f == 0;
                how.on_nonfinite = f == 1 ? SHMEMX_NONFINITE_PROPAGATE : SHMEMX_NONFINITE_ERROR;
                how.op = f == 2;
                how.group = f == 3 ? 64 : 128;
                how.row = f == 4 ? 512 : 0;
                how.min_bytes = f == 5 ? 7 : SHMEMX_QUANT_AUTO;
            }
            rc =
                run(call, SHMEM_TEAM_WORLD, dest, source, n, SHMEMX_FLOAT32, f == 6 && me == odd, &how, NULL);
            CHECK(rc == code && strstr(shmemx_last_error(), fields[f]), "%s, another %s: %d (%s)",
                  names[call], fields[f], rc, shmemx_last_error());
            works(fields[f]);
        }
        rc = me == odd ? shmemx_sync(SHMEM_TEAM_WORLD)
                       : run(call, SHMEM_TEAM_WORLD, dest, source, n, SHMEMX_FLOAT32, 0, NULL, NULL);
        CHECK(rc == code, "%s beside a sync: %d", names[call], rc);
        works("a sync");
    }
    if (call == ALLREDUCE) {
        float *residual = pes_private(500 * sizeof *residual);
        int rc = run(call, SHMEM_TEAM_WORLD, dest, source, 500, SHMEMX_FLOAT32, 0, NULL,
                     me == odd ? residual : NULL);
        CHECK(rc == code && strstr(shmemx_last_error(), "residual"), "a residual on one PE: %d", rc);
        works("a residual");
        free(residual);
    }
}

#define REFUSED(code, text, call)                                                                            \
    do {                                                                                                     \
        int rc_ = (call);                                                                                    \
        CHECK(rc_ == (code), "gave %d, not %d (%s)", rc_, code, shmemx_last_error());                        \
        CHECK(strstr(shmemx_last_error(), text), "\"%s\" is not in: %s", text, shmemx_last_error());         \
        works(text);                                                                                         \
    } while (0)

/* All PEs make the same mistake: each is refused by itself, and dest stays as it is. */
static void test_misuse(void)
{
    const shmem_team_t w = SHMEM_TEAM_WORLD;
    const int f32 = SHMEMX_FLOAT32, argument = SHMEMX_ERR_ARGUMENT;
    float *r = pes_private(1000 * sizeof *r);
    shmemx_quant_t h;
#define WITH(FIELD, VALUE) (h = how_of(SHMEMX_QUANT_INT8, 128, 0), h.FIELD = (VALUE), &h)
    REFUSED(SHMEMX_ERR_TEAM, "team",
            shmemx_allreduce_int8(SHMEM_TEAM_INVALID, dest, source, 10, f32, NULL, NULL));
    REFUSED(argument, "format 2", shmemx_allreduce_int8(w, dest, source, 10, f32, WITH(format, 2), NULL));
    REFUSED(argument, "on_nonfinite 1",
            shmemx_allreduce_int8(w, dest, source, 10, f32, WITH(on_nonfinite, 1), NULL));
    REFUSED(argument, "op 5", shmemx_allreduce_int8(w, dest, source, 10, f32, WITH(op, 5), NULL));
    REFUSED(argument, "group 48", shmemx_allgather_int8(w, dest, source, 10, f32, WITH(group, 48)));
    REFUSED(argument, "row 0", shmemx_alltoall_int8(w, dest, source, 10, f32, WITH(group, 0)));
    REFUSED(argument, "row 65537", shmemx_alltoall_int8(w, dest, source, 10, f32, WITH(row, 65537)));
    REFUSED(argument, "dtype 11", shmemx_allreduce_int8(w, dest, source, 10, SHMEMX_FLOAT64, NULL, NULL));
    REFUSED(argument, "source is NULL", shmemx_allreduce_int8(w, dest, NULL, 10, f32, NULL, NULL));
    REFUSED(argument, "dest is NULL", shmemx_allgather_int8(w, NULL, source, 10, f32, NULL));
    REFUSED(argument, "too many", shmemx_allreduce_int8(w, dest, source, SIZE_MAX / 2, f32, NULL, NULL));
    REFUSED(argument, "overlap", shmemx_allreduce_int8(w, dest, dest + 4, 10, f32, NULL, NULL));
    REFUSED(argument, "overlap", shmemx_allgather_int8(w, dest, dest + (size_t)me * 40 + 4, 10, f32, NULL));
    REFUSED(argument, "residual", shmemx_allreduce_int8(w, dest, r, 10, f32, NULL, r + 9));
    REFUSED(SHMEMX_ERR_ADDRESS, "aligned",
            shmemx_allreduce_int8(w, dest, source, 10, f32, NULL, (float *)(void *)((char *)r + 1)));
    REFUSED(SHMEMX_ERR_PE, "root 64", shmemx_broadcast_int8(w, dest, source, 10, f32, 64, NULL));
    REFUSED(SHMEMX_ERR_PE, "root -1", shmemx_broadcast_int8(w, dest, source, 10, f32, -1, NULL));
    free(r);
}

/* One PE's arguments are wrong: the others hear of it. */
static void test_refused(int call, size_t n, int odd)
{
    int rc = run(call, SHMEM_TEAM_WORLD, me == odd ? NULL : dest, source, n, SHMEMX_FLOAT32, 0, NULL, NULL);
    CHECK(rc == (me == odd ? SHMEMX_ERR_ARGUMENT : SHMEMX_ERR_MISMATCH), "%s of %zu: %d (%s)", names[call], n,
          rc, shmemx_last_error());
    works("a refused call");
}

int main(void)
{
    float f = 1;
    CHECK(shmemx_allreduce_int8(SHMEM_TEAM_WORLD, &f, &f, 1, SHMEMX_FLOAT32, NULL, NULL) ==
              SHMEMX_ERR_NOT_INITIALIZED,
          "before init");
    pes_begin();
    shmemx_log_errors(0);
    pays = shmem_team_n_pes(SHMEM_TEAM_SHARED) == npes ? SIZE_MAX : 4001;
    size_t room = (size_t)(MOST + 20001 * npes) * 4 + 2 * MARGIN + 8;
    for (int symmetric = 1; symmetric >= 0; symmetric--) { /* the rest with ordinary memory */
        dest = symmetric ? pes_alloc(room) : pes_private(room);
        source = symmetric ? pes_alloc(room) : pes_private(room);
        test_shapes();
        test_teams();
        if (symmetric) {
            test_nonfinite(ALLREDUCE, 40000, 0, NAN, SHMEMX_QUANT_AUTO);
            test_nonfinite(ALLGATHER, 40000, npes - 1, INFINITY, SHMEMX_QUANT_AUTO);
            works("NaN");
            shmem_free(source);
            shmem_free(dest);
        }
    }
    for (int call = ALLREDUCE; call <= REDUCE_SCATTER; call++)
        for (int op = SHMEMX_QUANT_SUM; op <= SHMEMX_QUANT_MEAN; op++) {
            test_residual(call, 300, SHMEMX_QUANT_INT8, op);
            test_residual(call, 9000, SHMEMX_QUANT_INT8, op);
            test_residual(call, call == ALLREDUCE ? 150001 : 150001 / (size_t)npes, SHMEMX_QUANT_E4M3, op);
        }
    for (int call = 0; call < CALLS; call++) {
        test_nonfinite(call, 800, 0, NAN, 0);
        test_nonfinite(call, 800, npes - 1, INFINITY, 0);
        test_nonfinite(call, 40000, npes / 2, -INFINITY, 0);
        test_nonfinite(call, 40, 0, NAN, SHMEMX_QUANT_AUTO);
        test_nonfinite(call, 40000, 0, NAN, SIZE_MAX - 1);
        works("NaN");
        for (int odd = 0; odd < npes && npes > 1; odd += npes - 1) {
            test_disagreements(call, odd);
            test_refused(call, 100, odd);
            test_refused(call, 30000, odd);
        }
    }
    test_overflow(100);
    test_overflow(100000);
    works("overflow");
    test_misuse();
    free(dest);
    free(source);
    return pes_end();
}
