/* INT8 codec and the row kernels below it, every implementation of this machine against a plain reference.
 * One process is enough. pes: 1 */
#include "check.h"
#include "int8.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <sys/wait.h>

extern const char *shmemx_last_error(void);

static const char *const isa_names[] = {"portable", "avx2", "avx512", "neon"};
static const char *isas[4]; /* those that run here */
static int isa_count;
static const int dtypes[] = {SHMEMX_FLOAT32, SHMEMX_FLOAT16, SHMEMX_BFLOAT16};
static const size_t groups[] = {0, 32, 64, 128};

enum { CANARY = 0xa5, MAX_COLS = 1100 };

static uint64_t random_state = 88172645463325252u;

static uint32_t random_u32(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 16);
}

static double gaussian(void)
{
    double u = (random_u32() + 1.0) / 4294967297.0, v = random_u32() / 4294967296.0;
    return sqrt(-2 * log(u)) * cos(2 * acos(-1.0) * v);
}

/* ---- reference ------------------------------------------------------------------------------------- */

static float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}

/* Value of a 16-bit format of `mantissa` bits whose smallest normal number is 2^least. */
static double ref_widen(uint16_t bits, int mantissa, int least)
{
    int field = (bits & 0x7fff) >> mantissa, top = (0x7fff >> mantissa);
    double sign = bits & 0x8000 ? -1 : 1, fraction = bits & ((1 << mantissa) - 1);
    if (field == top)
        return fraction != 0 ? (double)NAN : sign * INFINITY;
    if (field == 0)
        return sign * ldexp(fraction, least - mantissa);
    return sign * ldexp(fraction + (1 << mantissa), least + field - 1 - mantissa);
}

static uint16_t ref_narrow(double value, int mantissa, int least)
{
    uint16_t sign = signbit(value) ? 0x8000 : 0, infinity = (uint16_t)(0x7fff >> mantissa << mantissa);
    int exponent;
    if (isnan(value))
        return sign | infinity | 1;
    if (isinf(value))
        return sign | infinity;
    if (value == 0)
        return sign; /* frexp gives it exponent 0 */
    frexp(value, &exponent);
    exponent = exponent - 1 < least ? least : exponent - 1;
    double units = rint(ldexp(fabs(value), mantissa - exponent)); /* may reach the next power of 2 */
    double bits = units + ldexp(exponent - least, mantissa);
    return sign | (bits > infinity ? infinity : (uint16_t)bits);
}

static int mantissa_of(int dtype)
{
    return dtype == SHMEMX_FLOAT16 ? 10 : 7;
}

static int least_of(int dtype)
{
    return dtype == SHMEMX_FLOAT16 ? -14 : -126;
}

static double get(const unsigned char *x, int dtype, size_t i)
{
    if (dtype == SHMEMX_FLOAT32) {
        float value;
        memcpy(&value, x + 4 * i, 4);
        return (double)value;
    }
    uint16_t bits;
    memcpy(&bits, x + 2 * i, 2);
    return ref_widen(bits, mantissa_of(dtype), least_of(dtype));
}

static void put(unsigned char *x, int dtype, size_t i, double value)
{
    if (dtype == SHMEMX_FLOAT32) {
        float rounded = (float)value;
        memcpy(x + 4 * i, &rounded, 4);
        return;
    }
    uint16_t bits = ref_narrow(value, mantissa_of(dtype), least_of(dtype));
    memcpy(x + 2 * i, &bits, 2);
}

/* The whole record as the header describes it; returns the number of replaced elements. */
static uint64_t ref_record(unsigned char *record, const unsigned char *x, int dtype, size_t cols,
                           size_t group)
{
    size_t length = group ? group : cols, scales = (cols + 3) / 4 * 4;
    uint64_t replaced = 0;
    memset(record, 0, (scales + 4 * ((cols + length - 1) / length) + 15) / 16 * 16);
    for (size_t c = 0; c < cols; c += length) {
        size_t end = c + length < cols ? c + length : cols;
        double amax = 0;
        for (size_t i = c; i < end; i++) {
            double value = fabs(get(x, dtype, i));
            amax = isfinite(value) && value > amax ? value : amax;
        }
        float scale = (float)amax / 127.0f;
        scale = amax == 0 ? 0 : fminf(fmaxf(scale, FLT_MIN), 0x1.020406p121f);
        memcpy(record + scales + c / length * 4, &scale, 4);
        for (size_t i = c; i < end; i++) {
            double value = get(x, dtype, i);
            if (!isfinite(value)) {
                replaced++;
                value = isnan(value) ? 0 : copysign(amax, value);
            }
            float reciprocal = scale == 0 ? 0 : 1.0f / scale, scaled = (float)value * reciprocal;
            record[i] = (unsigned char)(int8_t)rintf(scaled);
        }
    }
    return replaced;
}

/* ---- data ------------------------------------------------------------------------------------------ */

enum data { GAUSSIAN, OUTLIERS, SPARSE, SUBNORMAL, TINY, HUGE_VALUES, ANY_BITS, ZERO, DATA_KINDS };

static double value_of(enum data data, int dtype)
{
    double largest = dtype == SHMEMX_FLOAT16 ? 65504 : dtype == SHMEMX_BFLOAT16 ? 0x1.fep127 : FLT_MAX;
    switch (data) {
    case GAUSSIAN:
        return gaussian();
    case OUTLIERS:
        return gaussian() * (random_u32() % 50 ? 1 : 300);
    case SPARSE: /* whole groups of 0 and -0 */
        return random_u32() % 60 ? random_u32() % 2 ? -0.0 : 0.0 : gaussian();
    case SUBNORMAL:
        return ldexp((double)(random_u32() % 400) - 200, dtype == SHMEMX_FLOAT16 ? -24 : -149);
    case TINY: /* amax / 127 around the smallest normal number */
        return ldexp(gaussian(), dtype == SHMEMX_FLOAT16 ? -14 : -126 + (int)(random_u32() % 8));
    case HUGE_VALUES:
        return random_u32() % 4 ? largest * (1 - random_u32() % 7 * 0x1p-24) * (random_u32() % 2 ? 1 : -1)
                                : largest / 254 * (double)(random_u32() % 255);
    case ANY_BITS: {
        float value = float_of(random_u32());
        return isfinite(value) && fabs((double)value) <= largest ? (double)value : 0;
    }
    default:
        return 0;
    }
}

static void fill(unsigned char *x, int dtype, size_t n, enum data data)
{
    for (size_t i = 0; i < n; i++)
        put(x, dtype, i, value_of(data, dtype));
}

/* ---- tests ----------------------------------------------------------------------------------------- */

/* One matrix through quantize, dequantize and dequantize_add; `offset` spoils all alignments. */
static void test_matrix(int dtype, size_t nrows, size_t cols, size_t group, size_t gap, size_t offset,
                        enum data data)
{
    size_t size = shmemi_float_bytes(dtype), record = shmemx_int8_row_bytes(cols, group);
    size_t x_stride = cols + gap, row_stride = record + gap * 8, length = group ? group : cols;
    static unsigned char x_memory[4 * 4 * MAX_COLS], rows_memory[4 * 4 * MAX_COLS],
        out_memory[4 * 4 * MAX_COLS];
    static unsigned char expected[4 * MAX_COLS];
    unsigned char *x = x_memory + offset, *rows = rows_memory + offset, *out = out_memory + offset;
    fill(x, dtype, nrows * x_stride, data);
#define WHERE "%s dtype %d, %zu x %zu group %zu gap %zu offset %zu data %d, row %zu"
#define PLACE isas[k], dtype, nrows, cols, group, gap, offset, (int)data, r
    for (int k = 0; k < isa_count; k++) {
        size_t r = 0;
        shmemx_int8_set_isa(isas[k]);
        memset(rows_memory, CANARY, sizeof rows_memory);
        uint64_t saturated = 99;
        int status = shmemx_int8_quantize(rows, gap ? row_stride : 0, x, gap ? x_stride : 0, dtype, nrows,
                                          cols, group, SHMEMX_NONFINITE_ERROR, &saturated);
        if (!CHECK(status == 0 && saturated == 0, WHERE ": status %d, saturated %d", PLACE, status,
                   (int)saturated))
            return;
        for (; r < nrows; r++) {
            ref_record(expected, x + r * x_stride * size, dtype, cols, group);
            for (size_t b = 0; b < row_stride; b++) {
                int want = b < record ? expected[b] : CANARY, is = rows[r * row_stride + b];
                if (!CHECK(is == want, WHERE ": byte %zu of %zu is %d, not %d", PLACE, b, record, is, want))
                    break;
            }
        }
        r = 0;
        for (size_t t = 0; t < 3; t++) {
            size_t to = shmemi_float_bytes(dtypes[t]);
            memset(out_memory, CANARY, sizeof out_memory);
            status = shmemx_int8_dequantize(out, gap ? x_stride : 0, dtypes[t], rows, gap ? row_stride : 0,
                                            nrows, cols, group);
            CHECK(status == 0 && out[(nrows - 1) * x_stride * to + cols * to] == CANARY, WHERE ": status %d",
                  PLACE, status);
            for (r = 0; r < nrows; r++) {
                for (size_t i = 0; i < cols; i++) {
                    const unsigned char *row = rows + r * row_stride;
                    float scale;
                    memcpy(&scale, row + (cols + 3) / 4 * 4 + i / length * 4, 4);
                    float product = (float)(int8_t)row[i] * scale;
                    unsigned char want[4];
                    put(want, dtypes[t], 0, (double)product);
                    if (!CHECK(!memcmp(want, out + (r * x_stride + i) * to, to),
                               WHERE ": col %zu is %a, not %a", PLACE, i,
                               get(out + r * x_stride * to, dtypes[t], i), get(want, dtypes[t], 0)))
                        break;
                    /* Half a step, the rounding of x / scale (127 * 2^-23 steps) and that of the product. */
                    double error = fabs(get(x + r * x_stride * size, dtype, i) - (double)product);
                    double bound = (double)scale * (0.5 + 127 * 0x1p-23) + fabs((double)product) * 0x1p-24;
                    if (!CHECK(error <= bound, WHERE ": col %zu, error %a above %a", PLACE, i, error, bound))
                        break;
                }
            }
        }
        r = 0;
        float *acc = (float *)(void *)out_memory; /* float's alignment is the language's demand */
        for (size_t i = 0; i < nrows * x_stride; i++)
            acc[i] = (float)i - 7.25f;
        float weight = (float[]){0.0f, 1.0f, -1.7f}[random_u32() % 3];
        status = shmemx_int8_dequantize_add(acc, gap ? x_stride : 0, rows, gap ? row_stride : 0, nrows, cols,
                                            group, weight);
        CHECK(status == 0, WHERE ": status %d", PLACE, status);
        for (r = 0; r < nrows; r++) {
            for (size_t i = 0; i < x_stride; i++) {
                const unsigned char *row = rows + r * row_stride;
                float scale = 0;
                if (i < cols)
                    memcpy(&scale, row + (cols + 3) / 4 * 4 + i / length * 4, 4);
                volatile float term = i < cols ? (float)(int8_t)row[i] * scale : 0; /* volatile: no fusing */
                term = term * weight;
                float want = ((float)(r * x_stride + i) - 7.25f) + term, is = acc[r * x_stride + i];
                if (!CHECK(bits_of(is) == bits_of(want), WHERE ": acc %zu is %a, not %a", PLACE, i,
                           (double)is, (double)want))
                    break;
            }
        }
    }
}

static void test_matrices(void)
{
    static const size_t cols[] = {1,  2,  3,   4,   5,   15,  16,  17,  31,  32,  33,  47,  63,
                                  64, 65, 127, 128, 129, 130, 160, 255, 256, 257, 300, 1024};
    for (size_t d = 0; d < 3; d++)
        for (size_t g = 0; g < 4; g++)
            for (size_t c = 0; c < sizeof cols / sizeof *cols; c++)
                for (enum data data = 0; data < DATA_KINDS; data++)
                    test_matrix(dtypes[d], 3, cols[c], groups[g], c % 2 ? 5 : 0, c % 3, data);
    for (int i = 0; i < 1500; i++)
        test_matrix(dtypes[random_u32() % 3], 1 + random_u32() % 3, 1 + random_u32() % 700,
                    groups[random_u32() % 4], random_u32() % 4, random_u32() % 17,
                    (enum data)(random_u32() % DATA_KINDS));
}

static void test_accuracy(void)
{
    enum { ROWS = 64, COLS = 2048 };
    float *x = malloc(sizeof *x * ROWS * COLS), *y = malloc(sizeof *y * ROWS * COLS);
    unsigned char *rows = malloc(ROWS * shmemx_int8_row_bytes(COLS, 32));
    fill((unsigned char *)x, SHMEMX_FLOAT32, ROWS * COLS, GAUSSIAN);
    /* A step of amax / 127 has noise step^2 / 12, hence 127^2 * 12 / E[amax^2]: for the largest of 2048, 32,
     * 64 and 128 Gaussians (13.3, 5.7, 6.9, 8.2) 41.6, 45.3, 44.5 and 43.8 dB. */
    static const double least[] = {41.3, 45.0, 44.2, 43.5}, most[] = {42.0, 45.7, 44.8, 44.1};
    for (int k = 0; k < isa_count; k++) {
        shmemx_int8_set_isa(isas[k]);
        for (size_t g = 0; g < 4; g++) {
            double signal = 0, noise = 0;
            shmemx_int8_quantize(rows, 0, x, 0, SHMEMX_FLOAT32, ROWS, COLS, groups[g], 0, NULL);
            shmemx_int8_dequantize(y, 0, SHMEMX_FLOAT32, rows, 0, ROWS, COLS, groups[g]);
            for (size_t i = 0; i < ROWS * COLS; i++) {
                signal += (double)x[i] * (double)x[i];
                noise += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
            }
            double sqnr = 10 * log10(signal / noise);
            CHECK(sqnr >= least[g] && sqnr <= most[g], "%s group %zu: %.2f dB, expected %.1f to %.1f",
                  isas[k], groups[g], sqnr, least[g], most[g]);
        }
    }
    free(x);
    free(y);
    free(rows);
}

static void test_nonfinite(void)
{
    enum { ROWS = 3, COLS = 300 };
    static unsigned char x[ROWS * COLS * 4], rows[ROWS * 400], expected[400], clean[ROWS * 400];
    static const double bad[] = {NAN, INFINITY, -INFINITY};
    for (int k = 0; k < isa_count; k++) {
        shmemx_int8_set_isa(isas[k]);
        for (size_t d = 0; d < 3; d++) {
            for (size_t trial = 0; trial < 200; trial++) {
                int dtype = dtypes[d];
                size_t size = shmemi_float_bytes(dtype), group = groups[trial % 4];
                size_t stride = shmemx_int8_row_bytes(COLS, group);
                size_t row = random_u32() % ROWS, col = random_u32() % COLS;
                double value = bad[trial % 3];
                fill(x, dtype, ROWS * COLS, trial % 5 ? GAUSSIAN : ZERO);
                shmemx_int8_quantize(clean, 0, x, 0, dtype, ROWS, COLS, group, 0, NULL);
                put(x, dtype, row * COLS + col, value);
                for (size_t more = trial % 7; more > 0; more--) /* only behind the first one */
                    put(x, dtype, row * COLS + col + random_u32() % (ROWS * COLS - row * COLS - col), value);
                memset(rows, CANARY, sizeof rows);
                int status = shmemx_int8_quantize(rows, 0, x, 0, dtype, ROWS, COLS, group,
                                                  SHMEMX_NONFINITE_ERROR, NULL);
                char place[32], text[32];
                snprintf(place, sizeof place, "x[%zu][%zu] is", row, col);
                snprintf(text, sizeof text, "%sinf", value < 0 ? "-" : "");
                CHECK(status == SHMEMX_ERR_DATA, "%s dtype %d: status %d", isas[k], dtype, status);
                CHECK(strstr(shmemx_last_error(), place) &&
                          strstr(shmemx_last_error(), isnan(value) ? "nan" : text),
                      "%s dtype %d: \"%s\" lacks \"%s\" or the value", isas[k], dtype, shmemx_last_error(),
                      place);
                CHECK(!memcmp(rows, clean, row * stride), "%s: a row before row %zu is incomplete", isas[k],
                      row);
                for (size_t b = (row + 1) * stride; b < sizeof rows; b++)
                    CHECK(rows[b] == CANARY, "%s: byte %zu behind row %zu was written", isas[k], b, row);

                uint64_t saturated = 0, want = 0;
                status = shmemx_int8_quantize(rows, 0, x, 0, dtype, ROWS, COLS, group,
                                              SHMEMX_NONFINITE_SATURATE, &saturated);
                CHECK(status == 0, "%s dtype %d: status %d", isas[k], dtype, status);
                for (size_t r = 0; r < ROWS; r++) {
                    want += ref_record(expected, x + r * COLS * size, dtype, COLS, group);
                    CHECK(!memcmp(rows + r * stride, expected, stride),
                          "%s dtype %d group %zu: row %zu differs from the reference", isas[k], dtype, group,
                          r);
                }
                CHECK(saturated == want, "%s: %d saturated, not %d", isas[k], (int)saturated, (int)want);
            }
        }
        /* What the header promises, without the reference: +-inf at the finite maximum, NaN at 0. */
        float y[40] = {0}, in[40] = {[0] = 2.5f, [1] = INFINITY, [2] = -INFINITY, [3] = NAN, [39] = INFINITY};
        uint64_t saturated = 0;
        shmemx_int8_quantize(rows, 0, in, 0, SHMEMX_FLOAT32, 1, 40, 32, SHMEMX_NONFINITE_SATURATE,
                             &saturated);
        shmemx_int8_dequantize(y, 0, SHMEMX_FLOAT32, rows, 0, 1, 40, 32);
        CHECK(saturated == 4 && fabsf(y[1] - 2.5f) < 1e-6f && y[2] == -y[1] && y[3] == 0.0f && y[39] == 0.0f,
              "%s: %d saturated to %g %g %g %g", isas[k], (int)saturated, (double)y[1], (double)y[2],
              (double)y[3], (double)y[39]);
    }
}

#define REFUSED(call, part)                                                                                  \
    do {                                                                                                     \
        memset(rows, CANARY, sizeof rows);                                                                   \
        int refused = (call);                                                                                \
        CHECK(refused == SHMEMX_ERR_ARGUMENT, "status %d", refused);                                         \
        CHECK(strstr(shmemx_last_error(), part), "message \"%s\" lacks \"%s\"", shmemx_last_error(), part);  \
        CHECK(rows[0] == CANARY && rows[sizeof rows - 1] == CANARY && x[0] == 1.0f,                          \
              "something was written");                                                                      \
    } while (0)

static void test_arguments(void)
{
    static unsigned char rows[1024];
    static float x[256] = {1.0f};
    const int f32 = SHMEMX_FLOAT32;
    const size_t huge = SIZE_MAX / 2;
    REFUSED(shmemx_int8_quantize(rows, 0, x, 0, f32, 1, 128, 48, 0, NULL), "group 48");
    REFUSED(shmemx_int8_quantize(rows, 0, x, 0, f32, 1, 128, 1, 0, NULL), "group 1");
    REFUSED(shmemx_int8_quantize(rows, 0, x, 0, SHMEMX_FLOAT64, 1, 128, 32, 0, NULL), "dtype 11");
    REFUSED(shmemx_int8_quantize(rows, 0, x, 0, -1, 1, 128, 32, 0, NULL), "dtype -1");
    REFUSED(shmemx_int8_quantize(rows, 0, x, 0, f32, 1, 0, 32, 0, NULL), "0 columns");
    REFUSED(shmemx_int8_quantize(rows, 0, x, 0, f32, 1, SIZE_MAX, 32, 0, NULL), "too many");
    REFUSED(shmemx_int8_quantize(rows, 0, x, 0, f32, 1, huge, 0, 0, NULL), "too many");
    REFUSED(shmemx_int8_quantize(rows, 0, NULL, 0, f32, 1, 128, 32, 0, NULL), "x is NULL");
    REFUSED(shmemx_int8_quantize(NULL, 0, x, 0, f32, 1, 128, 32, 0, NULL), "rows is NULL");
    REFUSED(shmemx_int8_quantize(rows, 0, x, 127, f32, 2, 128, 32, 0, NULL), "127 elements");
    REFUSED(shmemx_int8_quantize(rows, 143, x, 0, f32, 2, 128, 32, 0, NULL), "143 bytes");
    REFUSED(shmemx_int8_quantize(rows, 0, x, 0, f32, 1, 128, 32, 3, NULL), "on_nonfinite 3");
    REFUSED(shmemx_int8_quantize(rows, 0, rows + 16, 0, f32, 1, 128, 32, 0, NULL), "overlap");
    REFUSED(shmemx_int8_dequantize(x, 0, f32, rows, 0, 1, 128, 256), "group 256");
    REFUSED(shmemx_int8_dequantize(x, 0, 99, rows, 0, 1, 128, 32), "dtype 99");
    REFUSED(shmemx_int8_dequantize(NULL, 0, f32, rows, 0, 1, 128, 32), "out is NULL");
    REFUSED(shmemx_int8_dequantize(x, 0, f32, NULL, 0, 1, 128, 32), "rows is NULL");
    REFUSED(shmemx_int8_dequantize(x, 5, f32, rows, 0, 1, 128, 32), "5 elements");
    REFUSED(shmemx_int8_dequantize_add(x, 0, rows, 8, 1, 128, 32, 1.0f), "8 bytes");
    REFUSED(shmemx_int8_dequantize_add(NULL, 0, rows, 0, 1, 128, 32, 1.0f), "acc is NULL");
    REFUSED(shmemx_int8_dequantize_add(x, 0, rows, 0, 1, 0, 32, 1.0f), "0 columns");
    REFUSED(shmemx_int8_set_isa("sse9"), "sse9");
    REFUSED(shmemx_int8_set_isa(NULL), "NULL");
    uint64_t saturated = 5;
    CHECK(shmemx_int8_quantize(NULL, 0, NULL, 0, f32, 0, 128, 32, 0, &saturated) == 0 && saturated == 0,
          "no rows: saturated %d", (int)saturated);
    CHECK(shmemx_int8_dequantize(NULL, 0, f32, NULL, 0, 0, 128, 32) == 0, "no rows");
    CHECK(shmemx_int8_dequantize_add(NULL, 0, NULL, 0, 0, 128, 32, 1.0f) == 0, "no rows");

    static const struct {
        size_t cols, group, bytes;
    } sizes[] = {{1, 0, 16},       {1, 32, 16},     {12, 128, 16},     {13, 128, 32},    {128, 128, 144},
                 {128, 32, 144},   {129, 128, 144}, {2048, 128, 2112}, {2048, 32, 2304}, {2048, 0, 2064},
                 {7168, 64, 7616}, {0, 32, 0},      {128, 16, 0},      {128, 256, 0},    {SIZE_MAX, 0, 0}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        size_t bytes = shmemx_int8_row_bytes(sizes[i].cols, sizes[i].group);
        CHECK(bytes == sizes[i].bytes, "%zu columns, group %zu: %zu bytes, not %zu", sizes[i].cols,
              sizes[i].group, bytes, sizes[i].bytes);
    }
}

/* Every 16-bit pattern to float32; every pattern, tie and neighbour of a tie, and random bits back. */
static void test_conversions(void)
{
    enum { N = 65536, MORE = 1 << 18 };
    uint16_t *narrow = malloc(sizeof *narrow * MORE);
    float *wide = malloc(sizeof *wide * MORE), *in = malloc(sizeof *in * MORE);
    for (int k = 0; k < isa_count; k++) {
        shmemx_int8_set_isa(isas[k]);
        const struct shmemi_int8_kernels *kernels = shmemi_int8_kernels();
        for (size_t d = 1; d < 3; d++) {
            int at = SHMEMI_FLOAT_INDEX(dtypes[d]), mantissa = mantissa_of(dtypes[d]),
                least = least_of(dtypes[d]);
            for (size_t i = 0; i < N; i++)
                narrow[i] = (uint16_t)i;
            kernels->widen[at](wide, narrow, N - 1); /* an odd length, then one element */
            kernels->widen[at](wide + N - 1, narrow + N - 1, 1);
            for (size_t i = 0; i < N; i++) {
                double want = ref_widen((uint16_t)i, mantissa, least);
                CHECK(isnan(want) ? isnan(wide[i])
                                  : (double)wide[i] == want && !signbit(wide[i]) == !signbit(want),
                      "%s dtype %d: 0x%04zx is %a, not %a", isas[k], dtypes[d], i, (double)wide[i], want);
            }
            for (size_t i = 0; i < MORE; i++) {
                /* The value, then the tie with the next larger magnitude and the floats around the tie. */
                uint16_t next = (uint16_t)(i % N + 1), last = (uint16_t)(i % N - 1);
                double value = ref_widen((uint16_t)(i % N), mantissa, least), tie = value;
                if (isfinite(value) && isfinite(ref_widen(next, mantissa, least)))
                    tie = (value + ref_widen(next, mantissa, least)) / 2;
                else if (isfinite(value))
                    tie = value + (value - ref_widen(last, mantissa, least)) / 2;
                float around[] = {(float)value, nextafterf((float)tie, 0), (float)tie,
                                  nextafterf((float)tie, (float)copysign(INFINITY, tie))};
                in[i] = around[i / N];
                if (i % 5 == 0)
                    in[i] = float_of(random_u32());
            }
            kernels->narrow[at](narrow, in, MORE - 3);
            kernels->narrow[at](narrow + MORE - 3, in + MORE - 3, 3);
            for (size_t i = 0; i < MORE; i++) {
                uint16_t want = ref_narrow((double)in[i], mantissa, least);
                CHECK(isnan(in[i]) ? isnan(ref_widen(narrow[i], mantissa, least)) &&
                                         !signbit(in[i]) == !(narrow[i] & 0x8000)
                                   : narrow[i] == want,
                      "%s dtype %d: %a (0x%08x) is 0x%04x, not 0x%04x", isas[k], dtypes[d], (double)in[i],
                      bits_of(in[i]), narrow[i], want);
            }
            /* NaN payloads and random bits: the same in all implementations. */
            static uint16_t first[2][N], again[N];
            random_state = 777;
            for (size_t i = 0; i < N; i++)
                in[i] = float_of(i % 2 ? random_u32() : random_u32() | 0x7f800000);
            kernels->narrow[at](k ? again : first[d - 1], in, N);
            CHECK(!k || !memcmp(again, first[d - 1], sizeof again), "%s dtype %d: differs from %s", isas[k],
                  dtypes[d], isas[0]);
        }
        /* float32 to itself is a copy, whatever the bits. */
        kernels->widen[SHMEMI_FLOAT_INDEX(SHMEMX_FLOAT32)](wide, in, 1003);
        CHECK(!memcmp(wide, in, 1003 * 4), "%s: float32 changed", isas[k]);
    }
    free(narrow);
    free(wide);
    free(in);
}

static void test_axpy(void)
{
    static unsigned char x[4 * 300];
    float acc[304];
    for (int k = 0; k < isa_count; k++) {
        shmemx_int8_set_isa(isas[k]);
        for (size_t d = 0; d < 3; d++) {
            for (size_t n = 0; n < 300; n += n < 40 ? 1 : 13) {
                float weight = (float)gaussian();
                fill(x, dtypes[d], 300, n % 2 ? GAUSSIAN : SUBNORMAL);
                for (size_t i = 0; i < 304; i++)
                    acc[i] = (float)i * 0.37f;
                shmemi_int8_kernels()->axpy[SHMEMI_FLOAT_INDEX(dtypes[d])](acc, x, n, weight);
                for (size_t i = 0; i < 304; i++) {
                    volatile float term = i < n ? weight * (float)get(x, dtypes[d], i) : 0;
                    volatile float want = (float)i * 0.37f;
                    want = want + term;
                    CHECK(bits_of(acc[i]) == bits_of(want), "%s dtype %d n %zu: %zu is %a, not %a", isas[k],
                          dtypes[d], n, i, (double)acc[i], (double)want);
                }
            }
        }
    }
}

/* SHMEM_INT8_ISA in a process of its own, as the choice is made once; before any other call. */
static void test_environment(void)
{
    static const struct {
        const char *value, *isa, *warning;
    } cases[] = {{"portable", "portable", NULL},
                 {"sse9", NULL, "SHMEM_INT8_ISA=sse9"},
                 {"auto", NULL, NULL},
#if defined(__x86_64__)
                 {"neon", NULL, "not available"},
#else
                 {"avx2", NULL, "not available"},
#endif
                 {"", NULL, NULL}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int pipes[2];
        char text[512] = "";
        size_t n = 0;
        if (!CHECK(pipe(pipes) == 0, "no pipe"))
            return;
        pid_t child = fork();
        if (child == 0) {
            dup2(pipes[1], STDERR_FILENO);
            close(pipes[0]);
            setenv("SHMEM_INT8_ISA", cases[i].value, 1);
            shmemi_env.INT8_ISA = NULL;
            const char *isa = shmemx_int8_isa(), *best = isa;
            if (!cases[i].isa && shmemx_int8_set_isa("auto") == 0)
                best = shmemx_int8_isa();
            _exit(strcmp(isa, cases[i].isa ? cases[i].isa : best) ? 1 : 0);
        }
        close(pipes[1]);
        for (ssize_t got; n < sizeof text - 1 && (got = read(pipes[0], text + n, sizeof text - 1 - n)) > 0;)
            n += (size_t)got;
        close(pipes[0]);
        int status = -1;
        waitpid(child, &status, 0);
        CHECK(status == 0, "SHMEM_INT8_ISA=%s: wrong choice, status %d", cases[i].value, status);
        CHECK(cases[i].warning ? strstr(text, cases[i].warning) != NULL : n == 0,
              "SHMEM_INT8_ISA=%s: the warning is \"%s\"", cases[i].value, text);
    }
}

int main(void)
{
    test_environment();
    shmemx_log_errors(0);
    for (size_t i = 0; i < sizeof isa_names / sizeof *isa_names; i++) {
        int status = shmemx_int8_set_isa(isa_names[i]);
        if (status == 0)
            isas[isa_count++] = isa_names[i];
        else
            CHECK(status == SHMEMX_ERR_UNSUPPORTED, "%s: status %d", isa_names[i], status);
    }
    CHECK(isa_count > 0 && !strcmp(isas[0], "portable"), "%d implementations", isa_count);
    test_arguments();
    test_matrices();
    test_accuracy();
    test_nonfinite();
    test_conversions();
    test_axpy();
    return check_done();
}
