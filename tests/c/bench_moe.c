/* Dispatch and combine of 512 x 2048 tokens a PE, top-4 of 16 experts: `launch -n 2 bench_moe [rounds]`.
 * Prints, for each configuration, the median and the fastest round, in microseconds, of the slowest PE; and
 * the bytes that left PE 0. */
#include <math.h>

#include "pes.h"

enum { TOKENS = 512, HIDDEN = 2048, TOPK = 4, EXPERTS = 16 };

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Median and minimum over rounds of the slowest PE's time. */
static void show(const char *name, double *times, size_t rounds, double *symmetric)
{
    memcpy(symmetric, times, rounds * sizeof *times);
    shmemx_reduce(SHMEM_TEAM_WORLD, SHMEMX_REDUCE_MAX, SHMEMX_FLOAT64, symmetric, symmetric, rounds);
    qsort(symmetric, rounds, sizeof *symmetric, by_size);
    if (me == 0)
        printf("  %-10s median %7.0f  fastest %7.0f us\n", name, 1e6 * symmetric[rounds / 2],
               1e6 * symmetric[0]);
}

static void run(const char *title, int quant, int combine_quant, int mode, size_t rounds)
{
    shmemx_moe_config_t c = {.team = SHMEM_TEAM_WORLD,
                             .type = SHMEMX_FLOAT32,
                             .mode = mode,
                             .quant = quant,
                             .combine_quant = combine_quant,
                             .group = 128,
                             .hidden = HIDDEN,
                             .num_experts = EXPERTS,
                             .topk = TOPK,
                             .max_tokens = TOKENS};
    shmemx_moe_t *moe;
    CHECK(shmemx_moe_create(&c, &moe) == 0, "%s", shmemx_last_error());
    float *x = pes_private(TOKENS * HIDDEN * sizeof *x), *out = pes_private(TOKENS * HIDDEN * sizeof *out);
    float *rows = pes_private((size_t)npes * TOKENS * HIDDEN * sizeof *rows);
    int64_t *idx = pes_private(TOKENS * TOPK * sizeof *idx);
    for (size_t i = 0; i < TOKENS * HIDDEN; i++)
        x[i] = (float)own_random(2001) / 1000 - 1;
    for (size_t t = 0; t < TOKENS; t++) {
        size_t start = own_random(EXPERTS), step = 1 + 2 * own_random(EXPERTS / 2);
        for (size_t j = 0; j < TOPK; j++)
            idx[t * TOPK + j] = (int64_t)((start + j * step) % EXPERTS);
    }
    double *times[3], *symmetric = pes_alloc(rounds * sizeof *symmetric);
    for (int i = 0; i < 3; i++)
        times[i] = pes_private(rounds * sizeof **times);
    for (size_t r = 0; r < rounds; r++) {
        shmemx_moe_handle_t *handle;
        shmemx_moe_received_t v;
        shmem_sync_all();
        double t0 = seconds();
        CHECK(shmemx_moe_dispatch(moe, x, HIDDEN * 4, TOKENS, idx, SHMEMX_INT64, NULL, &handle) == 0, "%s",
              shmemx_last_error());
        double t1 = seconds();
        shmemx_moe_received(handle, &v);
        shmemx_moe_combine_t a = {
            .y = v.x, .y_stride = v.stride, .y_rows = v.rows, .out = out, .out_stride = HIDDEN * 4};
        if (quant) {
            shmemx_moe_rows(handle, rows, HIDDEN * 4);
            a.y = rows;
            a.y_stride = HIDDEN * 4;
        }
        shmem_sync_all();
        double t2 = seconds();
        CHECK(shmemx_moe_combine(moe, handle, &a) == 0, "%s", shmemx_last_error());
        double t3 = seconds();
        shmemx_moe_handle_free(handle);
        times[0][r] = t1 - t0;
        times[1][r] = t2 - t1;
        times[2][r] = t3 - t2;
    }
    shmemx_moe_info_t info;
    shmemx_moe_info(moe, &info);
    if (me == 0)
        printf("%s: dispatch sends %ld bytes, combine %ld\n", title,
               (long)(info.dispatch_bytes_remote / info.dispatches),
               (long)(info.combine_bytes_remote / info.combines));
    show("dispatch", times[0], rounds, symmetric);
    if (quant)
        show("dequantize", times[1], rounds, symmetric);
    show("combine", times[2], rounds, symmetric);
    for (int i = 0; i < 3; i++)
        free(times[i]);
    free(x);
    free(out);
    free(rows);
    free(idx);
    shmem_free(symmetric);
    shmemx_moe_destroy(moe);
}

int main(int argc, char **argv)
{
    size_t rounds = argc > 1 ? strtoul(argv[1], NULL, 10) : 200;
    pes_begin();
    run("float32", SHMEMX_MOE_QUANT_NONE, SHMEMX_MOE_QUANT_NONE, SHMEMX_MOE_EXCHANGE, rounds);
    run("float32, worst case", SHMEMX_MOE_QUANT_NONE, SHMEMX_MOE_QUANT_NONE, SHMEMX_MOE_WORST_CASE, rounds);
    run("int8 out", SHMEMX_MOE_QUANT_INT8, SHMEMX_MOE_QUANT_NONE, SHMEMX_MOE_EXCHANGE, rounds);
    run("int8 out and back", SHMEMX_MOE_QUANT_INT8, SHMEMX_MOE_QUANT_INT8, SHMEMX_MOE_EXCHANGE, rounds);
    return pes_end();
}
