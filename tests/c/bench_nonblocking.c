/* Nonblocking collectives: what a start and a wait cost beside the blocking call, and how much of a large reduction hides
 * behind the program's own work. Medians of PE 0.
 *
 *     build/c/tests/c/launch -n 2 build/c/tests/c/bench_nonblocking [rounds] */
#include "pes.h"

enum { SMALL_ROUNDS = 4000, LARGE_BYTES = 16 << 20 };

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *t, int n)
{
    qsort(t, (size_t)n, sizeof *t, by_value);
    return t[n / 2];
}

static double *dest, *source;
static size_t count;
static double work_seconds;
static bool work_sleeps;

/* The program's own work: so many steps that keep a processor busy, or as long a wait for something else (a GPU, a file). */
static double steps_per_second;
static volatile double sink;

static void compute(double steps)
{
    double x = 1;
    for (double i = 0; i < steps; i++)
        x = x * 0.999999 + 1e-6;
    sink = x;
}

static void work(void)
{
    if (work_sleeps)
        doze((long)(work_seconds * 1e6));
    else
        compute(work_seconds * steps_per_second);
}

static void blocking(void)
{
    shmem_double_sum_reduce(SHMEM_TEAM_WORLD, dest, source, count);
}

static void nonblocking(void)
{
    shmemx_request_t r;
    shmemx_double_sum_reduce_nb(SHMEM_TEAM_WORLD, dest, source, count, &r);
    shmemx_request_wait(&r);
}

static void overlapped(void)
{
    shmemx_request_t r;
    shmemx_double_sum_reduce_nb(SHMEM_TEAM_WORLD, dest, source, count, &r);
    work();
    shmemx_request_wait(&r);
}

static void one_after_the_other(void)
{
    blocking();
    work();
}

/* Medians of several calls, one after the other in each round: what else the machine does concerns all of them. */
static void measure(void (*const calls[])(void), int n, int rounds, double *result)
{
    static double t[4][SMALL_ROUNDS];
    for (int i = -rounds / 10 - 1; i < rounds; i++)
        for (int k = 0; k < n; k++) {
            shmem_sync_all();
            double start = seconds();
            calls[k]();
            if (i >= 0)
                t[k][i] = seconds() - start;
        }
    for (int k = 0; k < n; k++)
        result[k] = median(t[k], rounds);
}

int main(int argc, char **argv)
{
    pes_begin();
    const int rounds = argc > 1 ? atoi(argv[1]) : 50;
    double r[4];
    dest = pes_alloc(LARGE_BYTES);
    source = pes_alloc(LARGE_BYTES);
    count = 1;
    measure((void (*const[])(void)){blocking, nonblocking}, 2, SMALL_ROUNDS, r);
    if (me == 0)
        printf("sum of 8 B: blocking %.2f us, start and wait %.2f us\n", r[0] * 1e6, r[1] * 1e6);
    count = LARGE_BYTES / sizeof(double);
    for (int i = 0; i < 20; i++) { /* the fastest: others use the processor */
        double before = seconds();
        compute(1e6);
        double rate = 1e6 / (seconds() - before);
        steps_per_second = rate > steps_per_second ? rate : steps_per_second;
    }
    measure((void (*const[])(void)){blocking, nonblocking}, 2, rounds, r);
    if (me == 0)
        printf("sum of 16 MiB: blocking %.2f ms, start and wait %.2f ms\n", r[0] * 1e3, r[1] * 1e3);
    work_seconds = r[0]; /* as long as the sum */
    for (int sleeps = 1; sleeps >= 0; sleeps--) {
        work_sleeps = sleeps;
        measure((void (*const[])(void)){work, one_after_the_other, overlapped}, 3, rounds, r);
        if (me == 0)
            printf(
                "work that %s, %.2f ms: then the sum %.2f ms, overlapped %.2f ms: %.0f%% of the sum hidden\n",
                sleeps ? "sleeps" : "computes", r[0] * 1e3, r[1] * 1e3, r[2] * 1e3,
                100 * (r[1] - r[2]) / (r[1] - r[0]));
    }
    shmem_finalize();
    return 0;
}
