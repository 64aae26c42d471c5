/* Speed of the INT8 codec: one JSON line a figure, medians of repeats, for every implementation this machine
 * has, every element type in groups of 128, and float32 also in groups of 32 and whole rows, on one core.
 *
 *   bench_int8 [repeats = 7] [implementation]
 *
 * GB/s counts the floating-point side, which is what a caller has: input bytes of quantize, output bytes of
 * dequantize, accumulator bytes (once) of dequantize_add; "traffic" counts all bytes read and written (a
 * written line is also read first). "copy" is memcpy of the same number of floating-point bytes. */
#include "shmemx_int8.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_REPEATS = 101 };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

enum what { COPY, QUANTIZE, DEQUANTIZE, DEQUANTIZE_ADD };
static const char *const what_names[] = {"copy", "quantize", "dequantize", "dequantize_add"};
static const struct {
    int type;
    const char *name;
} dtypes[] = {{SHMEMX_FLOAT32, "float32"}, {SHMEMX_FLOAT16, "float16"}, {SHMEMX_BFLOAT16, "bfloat16"}};

struct work {
    size_t rows, cols, group;
    int dtype;
    const char *dtype_name;
    unsigned char *x, *out, *records;
};

static int once(enum what what, const struct work *w)
{
    switch (what) {
    case COPY:
        memcpy(w->out, w->x, w->rows * w->cols * (w->dtype == SHMEMX_FLOAT32 ? 4 : 2));
        return 0;
    case QUANTIZE:
        return shmemx_int8_quantize(w->records, 0, w->x, 0, w->dtype, w->rows, w->cols, w->group,
                                    SHMEMX_NONFINITE_ERROR, NULL);
    case DEQUANTIZE:
        return shmemx_int8_dequantize(w->out, 0, w->dtype, w->records, 0, w->rows, w->cols, w->group);
    default:
        return shmemx_int8_dequantize_add((float *)(void *)w->out, 0, w->records, 0, w->rows, w->cols,
                                          w->group, 0.5f);
    }
}

static int figure(enum what what, const struct work *w, int repeats)
{
    double seconds[MAX_REPEATS];
    size_t element = w->dtype == SHMEMX_FLOAT32 ? 4 : 2, bytes = w->rows * w->cols * element;
    size_t records = w->rows * shmemx_int8_row_bytes(w->cols, w->group);
    int inner = (int)(((size_t)32 << 20) / bytes) + 1; /* small cases: several runs a reading of the clock */
    for (int r = -1; r < repeats; r++) {
        double start = now();
        for (int i = 0; i < inner; i++) {
            if (once(what, w)) {
                return 1;
            }
        }
        if (r >= 0) {
            seconds[r] = (now() - start) / inner;
        }
    }
    qsort(seconds, (size_t)repeats, sizeof *seconds, by_value);
    double median = seconds[repeats / 2];
    size_t traffic = what == COPY ? 3 * bytes : what == QUANTIZE ? bytes + 2 * records : 2 * bytes + records;
    printf("{\"bench\": \"int8\", \"what\": \"%s\", \"isa\": \"%s\", \"dtype\": \"%s\", \"group\": %zu, "
           "\"rows\": %zu, \"cols\": %zu, \"us\": %.1f, \"us_min\": %.1f, \"GBps\": %.2f, "
           "\"GBps_traffic\": %.2f, \"ns_per_element\": %.4f, \"repeats\": %d}\n",
           what_names[what], what == COPY ? "libc" : shmemx_int8_isa(), w->dtype_name, w->group, w->rows,
           w->cols, median * 1e6, seconds[0] * 1e6, (double)bytes / median * 1e-9,
           (double)traffic / median * 1e-9, median * 1e9 / (double)(w->rows * w->cols), repeats);
    fflush(stdout);
    return 0;
}

/* Values as activations have them, not all alike; every dtype gets finite ones. */
static void fill(unsigned char *x, int dtype, size_t n)
{
    uint32_t state = 12345;
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        float value = ((float)(state >> 8) / 8388608.0f - 1.0f) * 3.0f; /* within +-3 */
        uint32_t bits;
        memcpy(&bits, &value, 4);
        uint16_t half = dtype == SHMEMX_BFLOAT16
                            ? (uint16_t)(bits >> 16)
                            : (uint16_t)((state >> 16 & 0x83ffu) | 0x3c00u); /* +-[1, 2) */
        if (dtype == SHMEMX_FLOAT32) {
            memcpy(x + 4 * i, &value, 4);
        } else {
            memcpy(x + 2 * i, &half, 2);
        }
    }
}

int main(int argc, char **argv)
{
#if defined(__x86_64__)
    static const char *const isas[] = {"avx512", "avx2", "portable"};
#elif defined(__aarch64__)
    static const char *const isas[] = {"neon", "portable"};
#else
    static const char *const isas[] = {"portable"};
#endif
    /* In L1 and L2 | beyond L2 | beyond every cache (64 MiB of float32). */
    static const struct {
        size_t rows, cols;
    } sizes[] = {{32, 2048}, {512, 2048}, {8192, 2048}};
    static const size_t groups[] = {128, 32, 0};
    int repeats = argc > 1 ? atoi(argv[1]) : 7;
    if (repeats < 1 || repeats > MAX_REPEATS) {
        fprintf(stderr, "repeats must be 1 to %d, not %s\n", MAX_REPEATS, argv[1]);
        return 2;
    }
    struct work w = {.x = malloc((size_t)64 << 20),
                     .out = calloc((size_t)64 << 20, 1),
                     .records = calloc((size_t)24 << 20, 1)};
    if (!w.x || !w.out || !w.records) {
        fprintf(stderr, "not enough memory\n");
        return 2;
    }
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        w.rows = sizes[s].rows, w.cols = sizes[s].cols;
        for (size_t d = 0; d < sizeof dtypes / sizeof *dtypes; d++) {
            w.dtype = dtypes[d].type, w.dtype_name = dtypes[d].name;
            fill(w.x, w.dtype, w.rows * w.cols);
            w.group = 128;
            int failed = figure(COPY, &w, repeats);
            for (size_t i = 0; i < sizeof isas / sizeof *isas; i++) {
                if ((argc > 2 && strcmp(argv[2], isas[i])) || shmemx_int8_set_isa(isas[i])) {
                    continue; /* not asked for, or not on this machine */
                }
                for (size_t g = 0; g < (d ? 1 : sizeof groups / sizeof *groups); g++) {
                    w.group = groups[g];
                    failed |= figure(QUANTIZE, &w, repeats) || figure(DEQUANTIZE, &w, repeats) ||
                              (w.dtype == SHMEMX_FLOAT32 && figure(DEQUANTIZE_ADD, &w, repeats));
                }
            }
            if (failed) {
                return 1;
            }
        }
    }
    free(w.x);
    free(w.out);
    free(w.records);
    return 0;
}
