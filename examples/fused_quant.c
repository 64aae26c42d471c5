/* Quantization fused into a producer, dequantization into a consumer, for those who move the bytes by a library of their
 * own: the codec needs no shmem_init and no memory of ours.
 *
 * The producer computes rows of y = gelu(x) and packs each while it is in the cache; what leaves it are records, a
 * quarter of the bytes. The consumer adds the records of several producers into its rows without unpacking them first.
 * In between, send() stands for any transport.
 *
 *     gcc examples/fused_quant.c -o fused_quant -I"$P/include" "$P/lib/libshmem.so.0" -Wl,-rpath,"$P/lib" -lm
 *     ./fused_quant
 */
#include <math.h>
#include <shmemx_int8.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PRODUCERS = 4, ROWS = 256, COLS = 1024, GROUP = 128 };

static float input(int producer, size_t i)
{
    return sinf((float)i * 0.37f + (float)producer) * 3.0f;
}

static float gelu(float x)
{
    return 0.5f * x * (1.0f + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
}

/* Rows to records: one row of float32 exists at a time. */
static int produce(int producer, unsigned char *records, size_t record)
{
    float row[COLS];
    for (size_t r = 0; r < ROWS; r++) {
        for (size_t c = 0; c < COLS; c++)
            row[c] = gelu(input(producer, r * COLS + c));
        int rc = shmemx_int8_quantize(records + r * record, 0, row, 0, SHMEMX_FLOAT32, 1, COLS, GROUP,
                                      SHMEMX_NONFINITE_ERROR, NULL);
        if (rc)
            return rc;
    }
    return 0;
}

static void send(unsigned char *there, const unsigned char *records, size_t bytes)
{
    memcpy(there, records, bytes);
}

/* sum += the producer's rows, in float32, and never a dequantized copy. */
static int consume(float *sum, const unsigned char *records)
{
    return shmemx_int8_dequantize_add(sum, 0, records, 0, ROWS, COLS, GROUP, 1.0f);
}

int main(void)
{
    size_t record = shmemx_int8_row_bytes(COLS, GROUP), bytes = ROWS * record;
    unsigned char *records = malloc(bytes), *arrived = malloc(bytes);
    float *sum = calloc((size_t)ROWS * COLS, sizeof *sum);
    if (!records || !arrived || !sum)
        return 2;
    for (int p = 0; p < PRODUCERS; p++) {
        if (produce(p, records, record))
            return 1;
        send(arrived, records, bytes);
        if (consume(sum, arrived))
            return 1;
    }
    double signal = 0, noise = 0;
    for (size_t i = 0; i < (size_t)ROWS * COLS; i++) {
        double exact = 0;
        for (int p = 0; p < PRODUCERS; p++)
            exact += (double)gelu(input(p, i));
        signal += exact * exact;
        noise += (exact - (double)sum[i]) * (exact - (double)sum[i]);
    }
    double db = 10 * log10(signal / noise);
    printf("%d producers, %zu bytes each instead of %zu, SQNR of the sum %.1f dB\n", PRODUCERS, bytes,
           sizeof(float) * ROWS * COLS, db);
    free(records);
    free(arrived);
    free(sum);
    return db > 35 ? 0 : 1;
}
