/* One source that measures any OpenSHMEM library by the standard's calls alone; `pyshmem bench --peer` compiles it for
 * libshmem and with oshcc, and runs the two in turn.
 *
 *   oshcc -O2 peer_openshmem.c -o peer && oshrun -n 2 ./peer [REPEATS]
 *
 * Standard output of PE 0 is a JSON object a figure: {"op": "get", "bytes": 8, "ns": [T, ...]}, REPEATS times of one call.
 * A put is timed with its quiet; a ping-pong one way. Calls of PE 0 alone have the others waiting in a barrier.
 */
#define _GNU_SOURCE
#include <shmem.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { LARGE = 1 << 20, CAPACITY = 4 << 20, DOUBLES = LARGE / 8, MOST_REPEATS = 101 };

/* OpenSHMEM 1.4 has no teams and no put with signal: its calls with active sets and static work arrays stand in. */
#if SHMEM_MAJOR_VERSION == 1 && SHMEM_MINOR_VERSION < 5
enum {
    SETS = 4,
    LONGS =
        SHMEM_ALLTOALL_SYNC_SIZE + SHMEM_BCAST_SYNC_SIZE + SHMEM_REDUCE_SYNC_SIZE + SHMEM_COLLECT_SYNC_SIZE
};
static long sync_longs[SETS][LONGS];
static double work[DOUBLES / 2 + 1 + SHMEM_REDUCE_MIN_WRKDATA_SIZE];
static unsigned set;
#define NEXT_SET sync_longs[set++ % SETS]
#define PUT_SIGNAL(dest, source, n, word, value, pe)                                                         \
    (shmem_putmem(dest, source, n, pe), shmem_fence(), shmem_uint64_p(word, value, pe))
#define WAIT_SIGNAL(word, value) shmem_uint64_wait_until(word, SHMEM_CMP_GE, value)
#define SUM(dest, source, n) shmem_double_sum_to_all(dest, source, n, 0, 0, npes, work, NEXT_SET)
#define BROADCAST(dest, source, n) shmem_broadcast64(dest, source, (n) / 8, 0, 0, 0, npes, NEXT_SET)
#define ALLTOALL(dest, source, n) shmem_alltoall64(dest, source, (n) / 8, 0, 0, npes, NEXT_SET)
#define FCOLLECT(dest, source, n) shmem_fcollect64(dest, source, (n) / 8, 0, 0, npes, NEXT_SET)
static void prepare(void)
{
    for (int i = 0; i < SETS * LONGS; ++i)
        sync_longs[i / LONGS][i % LONGS] = SHMEM_SYNC_VALUE;
}
#else
#define PUT_SIGNAL(dest, source, n, word, value, pe)                                                         \
    shmem_putmem_signal(dest, source, n, word, value, SHMEM_SIGNAL_SET, pe)
#define WAIT_SIGNAL(word, value) shmem_signal_wait_until(word, SHMEM_CMP_GE, value)
#define SUM(dest, source, n) shmem_double_sum_reduce(SHMEM_TEAM_WORLD, dest, source, n)
#define BROADCAST(dest, source, n) shmem_broadcastmem(SHMEM_TEAM_WORLD, dest, source, n, 0)
#define ALLTOALL(dest, source, n) shmem_alltoallmem(SHMEM_TEAM_WORLD, dest, source, n)
#define FCOLLECT(dest, source, n) shmem_fcollectmem(SHMEM_TEAM_WORLD, dest, source, n)
static void prepare(void) {}
#endif

static int me, npes, repeats = 5;
static double samples[MOST_REPEATS];

static double now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e9 * (double)t.tv_sec + (double)t.tv_nsec;
}

static void report(const char *op, size_t bytes)
{
    if (me != 0)
        return;
    printf("{\"op\": \"%s\", \"bytes\": %zu, \"ns\": [", op, bytes);
    for (int r = 0; r < repeats; ++r)
        printf("%s%.2f", r ? ", " : "", samples[r]);
    printf("]}\n");
    fflush(stdout);
}

/* `who`: does this PE make the call? */
#define MEASURE(op, bytes, calls, who, statement)                                                            \
    do {                                                                                                     \
        for (int r_ = 0; r_ < repeats; ++r_) {                                                               \
            shmem_barrier_all();                                                                             \
            double start_ = now_ns();                                                                        \
            for (long i_ = 0; (who) && i_ < (calls); ++i_) {                                                 \
                statement;                                                                                   \
            }                                                                                                \
            if (me == 0)                                                                                     \
                shmem_quiet();                                                                               \
            samples[r_] = (now_ns() - start_) / (calls);                                                     \
            shmem_barrier_all();                                                                             \
        }                                                                                                    \
        report(op, bytes);                                                                                   \
    } while (0)

static void ping_pong(char *dest, const char *source, uint64_t *word, size_t bytes, int rounds)
{
    static uint64_t turn;
    for (int r = 0; r < repeats; ++r) {
        shmem_barrier_all();
        double start = now_ns();
        for (int i = 0; i < rounds && me < 2; ++i) {
            ++turn;
            if (me == 1)
                WAIT_SIGNAL(word, turn);
            PUT_SIGNAL(dest, source, bytes, word, turn, 1 - me);
            if (me == 0)
                WAIT_SIGNAL(word, turn);
        }
        samples[r] = (now_ns() - start) / rounds / 2;
    }
    report("put_signal ping-pong", bytes);
}

int main(int argc, char **argv)
{
    static const size_t sizes[] = {8, 1024, 65536, LARGE};
    if (argc > 1 && atoi(argv[1]) > 0 && atoi(argv[1]) <= MOST_REPEATS)
        repeats = atoi(argv[1]);
    shmem_init();
    me = shmem_my_pe();
    npes = shmem_n_pes();
    if (npes < 2) {
        fprintf(stderr, "peer_openshmem: it takes 2 PEs\n");
        shmem_global_exit(2);
    }
    const int peer = (me + 1) % npes;
    char *source = shmem_malloc(CAPACITY), *dest = shmem_malloc((size_t)CAPACITY * (size_t)npes);
    uint64_t *word = shmem_calloc(8, sizeof *word);
    long *counter = shmem_calloc(8, sizeof *counter);
    volatile long sink = 0;
    if (!source || !dest || !word || !counter)
        shmem_global_exit(3);
    memset(source, 0, CAPACITY);
    memset(dest, 0, (size_t)CAPACITY * (size_t)npes);
    prepare();
    shmem_barrier_all();
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; ++k) {
        size_t n = sizes[k];
        long calls = n <= 1024 ? 20000 : n <= 65536 ? 500 : 50;
        MEASURE("put + quiet", n, calls, me == 0, (shmem_putmem(dest, source, n, peer), shmem_quiet()));
        MEASURE("get", n, calls, me == 0, shmem_getmem(dest, source, n, peer));
    }
    MEASURE("put_nbi", (size_t)CAPACITY, 20, me == 0, shmem_putmem_nbi(dest, source, CAPACITY, peer));
    MEASURE("get", (size_t)CAPACITY, 20, me == 0, shmem_getmem(dest, source, CAPACITY, peer));
    MEASURE("p", (size_t)8, 50000, me == 0, shmem_long_p(counter + 1, i_, peer));
    MEASURE("g", (size_t)8, 20000, me == 0, sink += shmem_long_g(counter + 1, peer));
    MEASURE("atomic_fetch_add", (size_t)8, 20000, me == 0,
            sink += shmem_long_atomic_fetch_add(counter, 1, peer));
    MEASURE("atomic_add", (size_t)8, 20000, me == 0, shmem_long_atomic_add(counter, 1, peer));
    MEASURE("atomic_compare_swap", (size_t)8, 20000, me == 0,
            sink += shmem_long_atomic_compare_swap(counter, 0, 1, peer));
    ping_pong(dest, source, word, 8, 2000);
    ping_pong(dest, source, word, 14336, 500);
    ping_pong(dest, source, word, 65536, 200);
    MEASURE("barrier_all", (size_t)0, 2000, 1, shmem_barrier_all());
    MEASURE("sync_all", (size_t)0, 2000, 1, shmem_sync_all());
    MEASURE("sum_reduce", (size_t)8, 1000, 1, SUM((double *)(void *)dest, (double *)(void *)source, 1));
    MEASURE("sum_reduce", (size_t)LARGE, 20, 1,
            SUM((double *)(void *)dest, (double *)(void *)source, DOUBLES));
    MEASURE("broadcast", (size_t)8, 1000, 1, BROADCAST(dest, source, 8));
    MEASURE("broadcast", (size_t)LARGE, 20, 1, BROADCAST(dest, source, LARGE));
    MEASURE("alltoall", (size_t)8, 1000, 1, ALLTOALL(dest, source, 8));
    MEASURE("alltoall", (size_t)LARGE, 20, 1, ALLTOALL(dest, source, LARGE));
    MEASURE("fcollect", (size_t)8, 1000, 1, FCOLLECT(dest, source, 8));
    MEASURE("fcollect", (size_t)LARGE, 20, 1, FCOLLECT(dest, source, LARGE));
    shmem_barrier_all();
    shmem_finalize();
    return sink == -1;
}
