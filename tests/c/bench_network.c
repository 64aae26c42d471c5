/* What a network costs between PE 0 and PE 1: latency of put + quiet, get and atomics, bandwidth, message
 * rate. The figures stand beside perftest's (tests/roce/bench): ib_write_lat, ib_read_lat, ib_atomic_lat,
 * ib_write_bw.
 *
 *     launch -n 2 bench_network [rounds]
 * */
#include "pes.h"

enum { BLOCK = 64 << 10, WINDOW = 64 };

static char *block;
static uint64_t *word, *over;

static void report(const char *what, double value, const char *unit)
{
    if (me == 0)
        printf("%-32s %10.2f %s\n", what, value, unit);
}

/* PE 1 takes no part and leaves its processor to others, as perftest's server does, until PE 0 says that
 * it has ended. */
static void begin(void)
{
    static uint64_t round;
    round++;
    shmem_barrier_all();
    while (me == 1 && __atomic_load_n(over, __ATOMIC_ACQUIRE) < round)
        doze(1000);
}

static void end(void)
{
    static uint64_t round;
    round++;
    if (me == 0)
        shmem_uint64_p(over, round, 1);
    shmem_barrier_all();
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Median and least time of one BODY, which PE 0 executes. */
#define TIMED(WHAT, ROUNDS, BODY)                                                                            \
    do {                                                                                                     \
        begin();                                                                                             \
        for (int i = -16; me == 0 && i < (ROUNDS); i++) {                                                    \
            double start_ = seconds();                                                                       \
            BODY;                                                                                            \
            if (i >= 0)                                                                                      \
                took[i] = (seconds() - start_) * 1e6;                                                        \
        }                                                                                                    \
        qsort(took, (size_t)(ROUNDS), sizeof *took, ascending);                                              \
        report(WHAT, took[(ROUNDS) / 2], "us");                                                              \
        report("    least", took[0], "us");                                                                  \
        end();                                                                                               \
    } while (0)

static double seconds_of_puts(int n, size_t bytes)
{
    begin();
    double start = seconds();
    if (me == 0) {
        for (int i = 0; i < n; i++)
            shmem_putmem_nbi(block, block, bytes, 1);
        shmem_quiet();
    }
    double took = seconds() - start;
    end();
    return took;
}

int main(int argc, char **argv)
{
    pes_begin();
    int rounds = argc > 1 ? atoi(argv[1]) : 1000;
    if (npes != 2 || rounds < 1) {
        fprintf(stderr, "bench_network: 2 PEs, at least 1 round\n");
        shmem_global_exit(2);
    }
    block = pes_alloc(BLOCK);
    word = pes_alloc(sizeof *word);
    over = pes_alloc(sizeof *over);
    double *took = pes_private((size_t)rounds * sizeof *took);
    uint64_t mine = 1, old;

    TIMED("put 8 B + quiet", rounds, {
        shmem_putmem(word, &mine, 8, 1);
        shmem_quiet();
    });
    TIMED("get 8 B", rounds, shmem_getmem(&mine, word, 8, 1));
    TIMED("fetch-add 8 B", rounds, old = shmem_uint64_atomic_fetch_add(word, 1, 1));
    TIMED("compare-swap 8 B", rounds, old = shmem_uint64_atomic_compare_swap(word, 0, 1, 1));
    TIMED("add 8 B + quiet", rounds, {
        shmem_uint64_atomic_add(word, 1, 1);
        shmem_quiet();
    });
    (void)old;

    (void)seconds_of_puts(WINDOW, 8);
    report("put_nbi 8 B, rate", rounds * 4 / seconds_of_puts(rounds * 4, 8) * 1e-3, "k/s");
    int blocks = rounds / 4 + 1;
    (void)seconds_of_puts(4, BLOCK);
    report("put_nbi 64 KiB, bandwidth", blocks / seconds_of_puts(blocks, BLOCK) * BLOCK / (1 << 20), "MiB/s");
    free(took);
    shmem_finalize();
    return 0;
}
