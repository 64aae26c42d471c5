/* All-reduce with and without quantization, by size: float32 and bfloat16, sums over all PEs.
 *
 *     launch -n 2 bench_quant [largest, MiB] [seconds a line] [from KiB]
 *
 * A line a size: bytes of the vector, then medians in microseconds of shmemx_reduce, of shmemx_allreduce_int8 with INT8
 * in groups of 128, of the automatic choice, and of FP8. The times of the slowest PE. Docs: docs/quant.md. */
#include "pes.h"

enum { ROUNDS = 2000, WAYS = 4 };
static const char *const ways[WAYS] = {"unquantized", "int8", "auto", "e4m3"};

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int once(int way, int dtype, void *dest, const void *source, size_t n)
{
    shmemx_quant_t how;
    shmemx_quant_defaults(&how);
    if (way == 0)
        return shmemx_reduce(SHMEM_TEAM_WORLD, SHMEMX_REDUCE_SUM, dtype, dest, source, n);
    how.format = way == 3 ? SHMEMX_QUANT_E4M3 : SHMEMX_QUANT_INT8;
    how.min_bytes = way == 2 ? SHMEMX_QUANT_AUTO : 0;
    return shmemx_allreduce_int8(SHMEM_TEAM_WORLD, dest, source, n, dtype, &how, NULL);
}

int main(int argc, char **argv)
{
    pes_begin();
    size_t largest = (size_t)(argc > 1 ? atoi(argv[1]) : 64) << 20;
    double budget = argc > 2 ? atof(argv[2]) : 0.5;
    size_t smallest = (size_t)(argc > 3 ? atoi(argv[3]) : 1) << 10;
    float *source = pes_alloc(largest), *dest = pes_alloc(largest);
    double *took = pes_alloc(WAYS * ROUNDS * sizeof *took), *worst = pes_alloc(ROUNDS * sizeof *worst);
    int *go = pes_alloc(sizeof *go);
    for (size_t i = 0; i < largest / 4; i++) { /* sound as float32, and as two of bfloat16 */
        float x = (float)((int)own_random(2001) - 1000) / 997;
        uint32_t bits;
        memcpy(&bits, &x, sizeof bits);
        bits = (bits & 0xffff0000u) | bits >> 16;
        memcpy(&source[i], &bits, sizeof bits);
    }
    if (me == 0)
        printf("type bytes %s %s %s %s\n", ways[0], ways[1], ways[2], ways[3]);
    for (int dtype = SHMEMX_BFLOAT16; dtype <= SHMEMX_FLOAT32; dtype++)
        for (size_t bytes = smallest; bytes <= largest; bytes *= 4) {
            size_t n = bytes / (dtype == SHMEMX_FLOAT32 ? 4 : 2);
            double median[WAYS];
            int rounds = 0;
            double end = seconds() + budget;
            for (int i = -2; i < ROUNDS; i++) { /* the ways in turn, so that a busy machine is busy for all */
                for (int way = 0; way < WAYS; way++) {
                    shmem_barrier_all();
                    double start = seconds();
                    if (once(way, dtype, dest, source, n) != 0)
                        shmem_global_exit(1);
                    if (i >= 0)
                        took[way * ROUNDS + i] = seconds() - start;
                }
                rounds = i + 1;
                *go = i < 4 || seconds() < end; /* PE 0's clock decides */
                if (shmem_broadcastmem(SHMEM_TEAM_WORLD, go, go, sizeof *go, 0) != 0 || !*go)
                    break;
            }
            for (int way = 0; way < WAYS; way++) {
                shmem_double_max_reduce(SHMEM_TEAM_WORLD, worst, took + way * ROUNDS, (size_t)rounds);
                qsort(worst, (size_t)rounds, sizeof *worst, ascending);
                median[way] = worst[rounds / 2] * 1e6;
            }
            if (me == 0) {
                printf("%s %zu %.1f %.1f %.1f %.1f\n", dtype == SHMEMX_FLOAT32 ? "float32" : "bfloat16",
                       bytes, median[0], median[1], median[2], median[3]);
                fflush(stdout);
            }
        }
    shmem_finalize();
    return 0;
}
