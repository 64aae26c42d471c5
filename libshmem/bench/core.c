/* Speed of libshmem from C, by its public functions alone: what `pyshmem bench` starts for its C figures.
 *
 *   mpirun -n 2 bench_core [--rounds N] [--slice-us T] [--only GROUP,...] [--others-sleep]
 *
 * Standard output of PE 0 is one JSON object a line: first what was run, then "progress" from 0 to 1, then the figures
 *   {"group": "put", "op": "put", "bytes": 8, "unit": "ns", "median": 11.8, "q1": 11.6, "q3": 12.4, "rounds": 15}
 * with unit ns (time of one call), GB/s or x (a ratio to another figure of the same round).
 *
 * How it measures. A round times every operation once, one after another, in a loop of about T microseconds, so that
 * a machine that slows down for a while does so to all of them; a figure is the median of its rounds with the
 * quartiles, q1 being what a quieter machine would give more often. Ratios are taken in each round. Loops start after a barrier.
 * An operation of PE 0 alone has the others waiting in that barrier's successor; with --others-sleep they leave their
 * processors alone until it is over, as servers of perftest do.
 */
#include <getopt.h>
#include <math.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core.h"
#include "shmem.h"
#include "shmemx.h"

enum { MAX_ROUNDS = 1001, MIB = 1 << 20, LARGEST = 4 * MIB, COLD_BYTES = 1 << 15, STRIDED = 1024 };
enum { INT8_ROWS = 128, INT8_COLS = 2048 };

int me;
static int npes, peer;
static char *src, *dst, *direct; /* symmetric, symmetric, the peer's dst as plain memory or NULL */
static uint64_t *words; /* symmetric: the ping-pong's flag, its signal, atomics' target, p's target */
enum {
    FLAG = 0,
    SIGNAL = 8,
    COUNTER = 16,
    TARGET = 24,
    LINE = 32,
    OVER = 40,
    WORDS = 48
}; /* each in a cache line of its own */
static long *lock, *guarded; /* symmetric */
static uint64_t *line_there; /* LINE on the other PE of a ping-pong as plain memory, or NULL */
static uint64_t turn[3];     /* ping-pongs played so far: flag, signal */
static uint64_t added;       /* what COUNTER on the peer must hold */
static long acquired;        /* what *guarded on PE 0 must hold: this PE's share */
static volatile uint64_t sink;
static float *matrix;
static void *records;

static double now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e9 * (double)t.tv_sec + (double)t.tv_nsec;
}

static void fail(const char *what)
{
    fprintf(stderr, "bench_core: PE %d: %s: %s\n", me, what, shmemx_last_error());
    shmem_global_exit(1);
}

void must(int code, const char *what)
{
    if (code != 0)
        fail(what);
}

void *allocate(size_t bytes)
{
    void *p = malloc(bytes);
    if (p == NULL) {
        fprintf(stderr, "bench_core: PE %d: no memory for %zu bytes\n", me, bytes);
        shmem_global_exit(1);
    }
    return p;
}

/* ---- the operations, each in its loop ---------------------------------------------------------------------- */

#define LOOP(name, statement)                                                                                \
    static void name(const struct op *op, long iterations)                                                   \
    {                                                                                                        \
        const size_t n = op->bytes;                                                                          \
        (void)n;                                                                                             \
        for (long i = 0; i < iterations; i++) {                                                              \
            statement;                                                                                       \
            __asm__ volatile("" ::: "memory"); /* no call may be merged with the next one */                 \
        }                                                                                                    \
    }

LOOP(run_memcpy, memcpy(direct, src, n))
LOOP(run_memcpy_from, memcpy(dst, direct, n))
LOOP(run_put, (shmem_putmem(dst, src, n, peer), shmem_quiet()))
LOOP(run_put_nbi, shmem_putmem_nbi(dst, src, n, peer))
LOOP(run_put_16, ({
         for (int k = 0; k < 16; k++)
             shmem_putmem_nbi(dst, src, n, peer);
         shmem_quiet();
     }))
LOOP(run_get, shmem_getmem(dst, src, n, peer))
LOOP(run_p, shmem_uint64_p(words + TARGET, (uint64_t)i, peer))
LOOP(run_g, sink = shmem_uint64_g(words + TARGET, peer))
LOOP(run_iput, (shmem_iput64(dst, src, 2, 2, n / 8, peer), shmem_quiet()))
LOOP(run_iget, shmem_iget64(dst, src, 2, 2, n / 8, peer))
LOOP(run_fetch_add, sink = shmem_uint64_atomic_fetch_add(words + COUNTER, 1, peer))
LOOP(run_add, shmem_uint64_atomic_add(words + COUNTER, 1, peer))
LOOP(run_compare_swap, sink = shmem_uint64_atomic_compare_swap(words + TARGET, 0, 1, peer))
LOOP(run_lock, (shmem_set_lock(lock), shmem_clear_lock(lock)))
LOOP(run_barrier, shmem_barrier_all())
LOOP(run_sync, shmem_sync_all())
LOOP(run_broadcast, must(shmem_broadcastmem(SHMEM_TEAM_WORLD, dst, src, n, 0), "broadcast"))
LOOP(run_reduce,
     must(shmem_double_sum_reduce(SHMEM_TEAM_WORLD, (double *)dst, (double *)src, n / 8), "reduce"))
LOOP(run_fcollect, must(shmem_fcollectmem(SHMEM_TEAM_WORLD, dst, src, n), "fcollect"))
LOOP(run_alltoall, must(shmem_alltoallmem(SHMEM_TEAM_WORLD, dst, src, n), "alltoall"))

/* Everybody at once, a PE's number of turns each: the time is that of one turn of anybody. */
static void run_lock_contended(const struct op *op, long iterations)
{
    (void)op;
    for (long i = 0; i < iterations; i++) {
        shmem_set_lock(lock);
        shmem_long_p(guarded, shmem_long_g(guarded, 0) + 1, 0); /* not atomic: wrong if two hold the lock */
        shmem_clear_lock(lock);
    }
    acquired += iterations;
}

static void run_p_wait(const struct op *op, long iterations)
{
    (void)op;
    uint64_t *flag = words + FLAG;
    for (long i = 0; i < iterations; i++) {
        uint64_t value = ++turn[0];
        if (me == 0)
            shmem_uint64_p(flag, value, 1);
        shmem_uint64_wait_until(flag, SHMEM_CMP_GE, value);
        if (me == 1)
            shmem_uint64_p(flag, value, 0);
    }
}

/* What the hardware takes: one cache line from core to core, by plain stores and loads. */
static void run_line(const struct op *op, long iterations)
{
    (void)op;
    for (long i = 0; i < iterations; i++) {
        uint64_t value = ++turn[2];
        if (me == 0)
            __atomic_store_n(line_there, value,
                             __ATOMIC_RELEASE); /* seen by the loop below on the other PE */
        for (unsigned spins = 1; __atomic_load_n(words + LINE, __ATOMIC_ACQUIRE) < value; spins++)
            if (spins % 4096 == 0)
                sched_yield(); /* the other may need this core */
        if (me == 1)
            __atomic_store_n(line_there, value, __ATOMIC_RELEASE);
    }
}

static void run_put_signal(const struct op *op, long iterations)
{
    uint64_t *sig = words + SIGNAL;
    for (long i = 0; i < iterations; i++) {
        uint64_t value = ++turn[1];
        if (me == 0)
            shmem_putmem_signal(dst, src, op->bytes, sig, value, SHMEM_SIGNAL_SET, 1);
        shmem_signal_wait_until(sig, SHMEM_CMP_GE, value);
        if (me == 1)
            shmem_putmem_signal(dst, src, op->bytes, sig, value, SHMEM_SIGNAL_SET, 0);
    }
}

LOOP(run_quantize, must(shmemx_int8_quantize(records, 0, matrix, 0, SHMEMX_FLOAT32, INT8_ROWS, INT8_COLS,
                                             INT8_GROUP, SHMEMX_NONFINITE_ERROR, NULL),
                        "int8_quantize"))
LOOP(run_dequantize,
     must(shmemx_int8_dequantize(matrix, 0, SHMEMX_FLOAT32, records, 0, INT8_ROWS, INT8_COLS, INT8_GROUP),
          "int8_dequantize"))

/* ---- the list ------------------------------------------------------------------------------------------------ */

#define SIZES(X, ...)                                                                                        \
    X(8, __VA_ARGS__), X(64, __VA_ARGS__), X(512, __VA_ARGS__), X(1024, __VA_ARGS__), X(4096, __VA_ARGS__),  \
        X(32768, __VA_ARGS__), X(262144, __VA_ARGS__), X(MIB, __VA_ARGS__), X(LARGEST, __VA_ARGS__)
/* A call and what it is compared with, one right after the other in every round. */
#define BESIDE(n, group, plain, run_plain, name, run)                                                        \
    TIME(n, group, plain, PE0, run_plain), TIME(n, group, name, PE0, run)
#define TIME(n, group, name, who, run) {group, name, n, who, NANOSECONDS, run, NULL, NULL, 0, NULL}
#define OVER(n, group, name, of, against) {group, name, n, PE0, RATIO, NULL, against, of, 0, NULL}
#define RATE(n, group, name, who, run) {group, name, n, who, GIGABYTES, run, NULL, NULL, 0, NULL}

static struct op ops[] = {
    SIZES(BESIDE, "put", "memcpy", run_memcpy, "put", run_put),
    OVER(MIB, "put", "put / memcpy", "put", "memcpy"),
    OVER(LARGEST, "put", "put / memcpy", "put", "memcpy"),
    TIME(8, "put", "put_nbi", PE0, run_put_nbi),
    TIME(8, "put", "p", PE0, run_p),
    SIZES(BESIDE, "get", "memcpy_from", run_memcpy_from, "get", run_get),
    OVER(MIB, "get", "get / memcpy_from", "get", "memcpy_from"),
    TIME(8, "get", "g", PE0, run_g),
    TIME(8, "network", "put", PE0, run_put),
    TIME(8, "network", "get", PE0, run_get),
    TIME(8, "network", "put_nbi", PE0, run_put_nbi),
    TIME(8, "network", "16 put_nbi + quiet", PE0, run_put_16),
    RATE(65536, "network", "put_nbi", PE0, run_put_nbi),
    TIME(8 * STRIDED, "strided", "iput64", PE0, run_iput),
    TIME(8 * STRIDED, "strided", "iget64", PE0, run_iget),
    TIME(8, "atomics", "fetch_add", PE0, run_fetch_add),
    TIME(8, "atomics", "add", PE0, run_add),
    TIME(8, "atomics", "compare_swap", PE0, run_compare_swap),
    TIME(8, "signals", "cache line", PAIR, run_line),
    TIME(8, "signals", "p_wait", PAIR, run_p_wait),
    OVER(8, "signals", "p_wait / cache line", "p_wait", "cache line"),
    TIME(8, "signals", "put_signal_wait", PAIR, run_put_signal),
    TIME(65536, "signals", "put_signal_wait", PAIR, run_put_signal),
    TIME(0, "locks", "lock", PE0, run_lock),
    TIME(0, "locks", "lock_contended", ALL, run_lock_contended),
    TIME(0, "sync", "barrier", ALL, run_barrier),
    TIME(0, "sync", "sync", ALL, run_sync),
    TIME(8, "collectives", "broadcast", ALL, run_broadcast),
    TIME(MIB, "collectives", "broadcast", ALL, run_broadcast),
    TIME(8, "collectives", "reduce", ALL, run_reduce),
    TIME(MIB, "collectives", "reduce", ALL, run_reduce),
    TIME(8, "collectives", "fcollect", ALL, run_fcollect),
    TIME(MIB, "collectives", "fcollect", ALL, run_fcollect),
    TIME(8, "collectives", "alltoall", ALL, run_alltoall),
    TIME(MIB, "collectives", "alltoall", ALL, run_alltoall),
    RATE(sizeof(float) * INT8_ROWS * INT8_COLS, "int8", "quantize", PE0, run_quantize),
    RATE(sizeof(float) * INT8_ROWS * INT8_COLS, "int8", "dequantize", PE0, run_dequantize),
    TIME(sizeof(float) * TOKENS * HIDDEN, "moe", "dispatch", ALL, run_dispatch),
    TIME(sizeof(float) * TOKENS * HIDDEN, "moe", "dispatch_int8", ALL, run_dispatch),
    OVER(sizeof(float) * TOKENS * HIDDEN, "moe", "dispatch_int8 / dispatch", "dispatch_int8", "dispatch"),
    TIME(sizeof(float) * TOKENS * HIDDEN, "moe", "combine", ALL, run_combine),
    TIME(sizeof(float) * TOKENS * HIDDEN, "moe", "combine_int8", ALL, run_combine),
};
enum { OPS = sizeof ops / sizeof *ops };

static bool in_list(const char *list, const char *name)
{
    size_t n = strlen(name);
    for (const char *at = list; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL)
        if (strncmp(at, name, n) == 0 && (at[n] == ',' || at[n] == 0))
            return true;
    return false;
}

static bool group_exists(const char *name, size_t n)
{
    for (int i = 0; i < OPS; i++)
        if (strlen(ops[i].group) == n && strncmp(ops[i].group, name, n) == 0)
            return true;
    return false;
}

/* Whether this operation is wanted and possible in this job. */
static bool selected(const struct op *op, const char *only)
{
    if (only && !in_list(only, op->group))
        return false;
    bool beside = direct != NULL; /* the peer's memory is ours to load and store */
    if ((strstr(op->name, "memcpy") && !beside) || (strcmp(op->group, "network") == 0 && beside))
        return false;
    if (op->run == run_line && line_there == NULL)
        return false;
    return op->who != PAIR || npes > 1;
}

static struct op *find(const char *name, size_t bytes)
{
    for (int i = 0; i < OPS; i++)
        if (strcmp(ops[i].name, name) == 0 && ops[i].bytes == bytes)
            return &ops[i];
    return NULL;
}

/* ---- timing -------------------------------------------------------------------------------------------------- */

static bool others_sleep;

/* All but PE 0 sleep until it comes here too. */
static void sleep_through(void)
{
    static uint64_t rounds;
    rounds++;
    for (int pe = 1; me == 0 && pe < npes; pe++)
        shmem_uint64_p(words + OVER, rounds, pe);
    while (me != 0 && __atomic_load_n(words + OVER, __ATOMIC_ACQUIRE) < rounds)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

/* Nanoseconds of one of `iterations` calls; meaningful on PE 0. */
static double time_one(struct op *op, long iterations)
{
    bool mine = op->who == ALL || me == 0 || (op->who == PAIR && me == 1);
    if (mine && op->bytes >= COLD_BYTES)
        op->run(op, 1); /* else a short loop would show what the operations before it left in the caches */
    shmem_barrier_all();
    double start = now_ns();
    if (mine)
        op->run(op, iterations);
    if (op->run == run_put_nbi || op->run == run_p || op->run == run_add)
        shmem_quiet();
    if (op->run == run_lock_contended)
        shmem_sync_all(); /* the time until the last one has had its turns */
    double took = now_ns() - start;
    if (others_sleep && op->who == PE0)
        sleep_through();
    shmem_barrier_all();
    if (op->run == run_fetch_add || op->run == run_add)
        added += (uint64_t)iterations;
    double per_call = took / (double)iterations;
    return op->who == PAIR ? per_call / 2 : op->run == run_lock_contended ? per_call / npes : per_call;
}

/* Iterations that take about `slice_ns`; PE 0 decides, since the others' clocks say other things. */
static void calibrate(struct op *op, double slice_ns)
{
    for (long n = 1;; n *= 4) {
        double took =
            fmin(fmin(time_one(op, n), time_one(op, n)), time_one(op, n)) * (double)n; /* no hiccup */
        long *mine = (long *)src, *all = (long *)dst;
        mine[0] = 0;
        if (me == 0 && (took > slice_ns / 4 || n >= 1 << 22)) {
            double wanted = (double)n * slice_ns / fmax(took, 1);
            mine[0] = wanted < 1 ? 1 : wanted > 1e8 ? 100000000 : (long)wanted;
        }
        must(shmem_broadcastmem(SHMEM_TEAM_WORLD, all, mine, sizeof(long), 0), "broadcast");
        op->iterations = all[0];
        shmem_barrier_all();
        memset(src, 0, sizeof(long));
        if (op->iterations > 0)
            return;
    }
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_figure(struct op *op, int rounds)
{
    static const char *const units[] = {"ns", "GB/s", "x"};
    double *v = op->samples;
    qsort(v, (size_t)rounds, sizeof *v, by_value);
    double median = rounds % 2 ? v[rounds / 2] : (v[rounds / 2 - 1] + v[rounds / 2]) / 2;
    printf("{\"group\": \"%s\", \"op\": \"%s\", \"bytes\": %zu, \"unit\": \"%s\", \"median\": %.4f, \"q1\": "
           "%.4f, "
           "\"q3\": %.4f, \"rounds\": %d}\n",
           op->group, op->name, op->bytes, units[op->unit], median, v[rounds / 4], v[rounds - 1 - rounds / 4],
           rounds);
}

static void measure(const char *only, int rounds, double slice_ns)
{
    int chosen = 0;
    for (int i = 0; i < OPS; i++) {
        struct op *op = &ops[i];
        if (!selected(op, only) || (op->unit == RATIO && !find(op->against, op->bytes)->samples))
            continue;
        op->samples = allocate(sizeof(double) * (size_t)rounds);
        chosen++;
        if (op->unit != RATIO)
            calibrate(op, slice_ns);
    }
    for (int r = 0; r < rounds; r++) {
        for (int i = 0; i < OPS; i++) {
            struct op *op = &ops[i];
            if (op->samples == NULL)
                continue;
            if (op->unit == RATIO) {
                op->samples[r] =
                    find(op->of, op->bytes)->samples[r] / find(op->against, op->bytes)->samples[r];
                continue;
            }
            double ns = time_one(op, op->iterations);
            op->samples[r] = op->unit == GIGABYTES ? (double)op->bytes / ns : ns;
        }
        if (me == 0) {
            printf("{\"progress\": %.4f}\n", (r + 1.0) / rounds);
            fflush(stdout);
        }
    }
    for (int i = 0; i < OPS; i++)
        if (ops[i].samples && me == 0)
            print_figure(&ops[i], rounds);
    for (int i = 0; i < OPS; i++)
        free(ops[i].samples);
}

/* A figure of a call that did the wrong thing is worth nothing: what can be counted is counted. */
static void check_counts(void)
{
    uint64_t got = shmem_uint64_atomic_fetch(words + COUNTER, peer);
    if (me == 0 && got != added) {
        fprintf(stderr, "bench_core: %llu additions were made, the counter holds %llu\n",
                (unsigned long long)added, (unsigned long long)got);
        shmem_global_exit(1);
    }
    uint64_t *mine = words + TARGET, *sum = words + FLAG;
    *mine = (uint64_t)acquired;
    must(shmem_uint64_sum_reduce(SHMEM_TEAM_WORLD, sum, mine, 1), "reduce");
    if (me == 0 && *sum != (uint64_t)*guarded) {
        fprintf(stderr, "bench_core: the lock was held %llu times, what it guards counted %ld\n",
                (unsigned long long)*sum, *guarded);
        shmem_global_exit(1);
    }
}

static int usage(const char *wrong)
{
    fprintf(stderr,
            "bench_core: %s\nusage: bench_core [--rounds 1.." /* the list is short: by hand */
            "1001] [--slice-us 1..1000000] [--only "
            "put,get,network,strided,atomics,signals,locks,sync,collectives,int8,moe] [--others-sleep]\n",
            wrong);
    return 2;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"rounds", required_argument, NULL, 'r'},
                                            {"slice-us", required_argument, NULL, 's'},
                                            {"only", required_argument, NULL, 'o'},
                                            {"others-sleep", no_argument, NULL, 'z'},
                                            {0}};
    long rounds = 15;
    double slice_us = 2000;
    const char *only = NULL;
    char *end;
    int option;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1)
        switch (option) {
        case 'r':
            rounds = strtol(optarg, &end, 10);
            if (*end || rounds < 1 || rounds > MAX_ROUNDS)
                return usage("--rounds wants a number from 1 to 1001");
            break;
        case 's':
            slice_us = strtod(optarg, &end);
            if (*end || !(slice_us >= 1 && slice_us <= 1e6))
                return usage("--slice-us wants a number from 1 to 1000000");
            break;
        case 'o':
            only = optarg;
            for (const char *at = only; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL)
                if (!group_exists(at, strcspn(at, ",")))
                    return usage("--only names a group that does not exist");
            break;
        case 'z':
            others_sleep = true;
            break;
        default:
            return usage("unknown option");
        }
    if (optind < argc)
        return usage("it takes options only");

    if (shmemx_init() != 0)
        return 1; /* logged */
    me = shmem_my_pe();
    npes = shmem_n_pes();
    peer = (me + 1) % npes;
    size_t room = (size_t)npes * MIB > LARGEST ? (size_t)npes * MIB : LARGEST;
    src = shmem_malloc(room);
    dst = shmem_malloc(room);
    words = shmem_align(64, WORDS * sizeof *words);
    lock = shmem_calloc(1, sizeof *lock);
    guarded = shmem_calloc(1, sizeof *guarded);
    if (!src || !dst || !words || !lock || !guarded)
        fail("shmem_malloc");
    memset(src, 0, room); /* committed before anything is timed; doubles of 0 stay 0 in sums */
    memset(dst, 0, room);
    memset(words, 0, WORDS * sizeof *words);
    direct = shmem_ptr(dst, peer);
    line_there = npes > 1 && me < 2 ? shmem_ptr(words + LINE, 1 - me) : words; /* others take no part */
    records = allocate(INT8_ROWS * shmemx_int8_row_bytes(INT8_COLS, INT8_GROUP));
    matrix = allocate(sizeof(float) * INT8_ROWS * INT8_COLS);
    for (int i = 0; i < INT8_ROWS * INT8_COLS; i++)
        matrix[i] = (float)(i % 1021 - 510) / 512;
    bool moe = !only || in_list(only, "moe");
    if (me == 0)
        printf("{\"program\": \"bench_core\", \"version\": \"%s\", \"npes\": %d, \"rounds\": %ld, "
               "\"slice_us\": %g}\n",
               SHMEMX_VERSION_STRING, npes, rounds, slice_us);
    if (moe)
        set_up_layers();
    measure(only, (int)rounds, slice_us * 1e3);
    check_counts();
    if (moe)
        check_and_free_layers();
    free(records);
    free(matrix);
    shmem_finalize();
    return 0;
}
