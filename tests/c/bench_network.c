/* What a network costs between PE 0 and PE 1: latency of put + quiet, get and atomics, bandwidth, message rate. The figures
 * stand beside perftest's (tests/roce/bench): ib_write_lat, ib_read_lat, ib_atomic_lat, ib_write_bw.
 *
 *     launch -n 2 bench_network [rounds]
 */
#include "pes.h"

enum { BLOCK = 64 << 10, WINDOW = 64 };

static char *block;
static uint64_t *word;

static void report(const char *what, double value, const char *unit)
{
    if (me == 0)
        printf("%-32s %10.2f %s\n", what, value, unit);
}

/* PE 0 works, PE 1 waits in the barrier: it serves requests from there. */
#define TIMED(WHAT, ROUNDS, BODY)                                                                            \
    do {                                                                                                     \
        shmem_barrier_all();                                                                                 \
        if (me == 0) {                                                                                       \
            BODY;                                                                                            \
            double start_ = seconds();                                                                       \
            for (int i = 0; i < (ROUNDS); i++)                                                               \
                BODY;                                                                                        \
            report(WHAT, (seconds() - start_) / (ROUNDS) * 1e6, "us");                                       \
        }                                                                                                    \
        shmem_barrier_all();                                                                                 \
    } while (0)

static double seconds_of_puts(int n, size_t bytes)
{
    shmem_barrier_all();
    double start = seconds();
    if (me == 0) {
        for (int i = 0; i < n; i++)
            shmem_putmem_nbi(block, block, bytes, 1);
        shmem_quiet();
    }
    double took = seconds() - start;
    shmem_barrier_all();
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
    double took = seconds_of_puts(rounds * 4, 8);
    report("put_nbi 8 B, rate", rounds * 4 / took * 1e-3, "k/s");
    int blocks = rounds / 4 + 1;
    (void)seconds_of_puts(4, BLOCK);
    took = seconds_of_puts(blocks, BLOCK);
    report("put_nbi 64 KiB, bandwidth", blocks / took * BLOCK / (1 << 20), "MiB/s");
    shmem_finalize();
    return 0;
}
