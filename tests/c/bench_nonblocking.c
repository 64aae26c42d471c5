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

static double timed(void (*call)(void), int rounds)
{
    static double t[SMALL_ROUNDS];
    for (int i = -rounds / 10 - 1; i < rounds; i++) {
        shmem_sync_all();
        double start = seconds();
        call();
        if (i >= 0)
            t[i] = seconds() - start;
    }
    return median(t, rounds);
}

int main(int argc, char **argv)
{
    pes_begin();
    const int rounds = argc > 1 ? atoi(argv[1]) : 50;
    dest = pes_alloc(LARGE_BYTES);
    source = pes_alloc(LARGE_BYTES);
    count = 1;
    double a = timed(blocking, SMALL_ROUNDS), b = timed(nonblocking, SMALL_ROUNDS);
    if (me == 0)
        printf("sum of 8 B: blocking %.2f us, start and wait %.2f us\n", a * 1e6, b * 1e6);
    count = LARGE_BYTES / sizeof(double);
    double before = seconds();
    compute(2e7);
    steps_per_second = 2e7 / (seconds() - before);
    a = timed(blocking, rounds), b = timed(nonblocking, rounds);
    if (me == 0)
        printf("sum of 16 MiB: blocking %.2f ms, start and wait %.2f ms\n", a * 1e3, b * 1e3);
    for (int sleeps = 1; sleeps >= 0; sleeps--) {
        work_sleeps = sleeps;
        work_seconds = a; /* as long as the sum */
        double alone = timed(work, rounds), in_turn = timed(one_after_the_other, rounds),
               both = timed(overlapped, rounds);
        if (me == 0)
            printf("work that %s, %.2f ms: one after the other %.2f ms, overlapped %.2f ms, %.0f%% of the "
                   "sum hidden\n",
                   sleeps ? "sleeps" : "computes", alone * 1e3, in_turn * 1e3, both * 1e3,
                   100 * (in_turn - both) / (in_turn - alone));
    }
    shmem_finalize();
    return 0;
}
