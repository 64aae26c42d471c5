/* The host's part of shmemx_quant_stream.h without a GPU: what its calls refuse, and that they launch nothing then; what is
 * quantized and what is not; that all members tell their kernels the same; and what becomes of kernels' reports. */
#define _GNU_SOURCE
#include "base/cuda_driver.h"
#include "fake_launch.h"
#include "gpu/quant_args.h"
#include "shmemx_quant_stream.h"

static struct shmemi_quant_coll coll;
static struct shmemi_quant_rows rows;
static unsigned threads_of_launch;

static void kernel(const char *name, unsigned blocks, unsigned threads, unsigned shared, void **arguments)
{
    count_launch(name, blocks);
    threads_of_launch = threads;
    if (strcmp(name, "shmem_k_quant_coll") == 0) {
        coll = *(const struct shmemi_quant_coll *)arguments[0];
        CHECK(shared == SHMEMI_QUANT_GPU_SHARED(threads / 32) && threads <= SHMEMI_QUANT_GPU_WARPS * 32 &&
                  blocks * (threads / 32) >= coll.workers,
              "%u blocks of %u threads, %u bytes shared, %u workers", blocks, threads, shared, coll.workers);
    } else if (strstr(name, "quantize")) {
        rows = *(const struct shmemi_quant_rows *)arguments[0];
    }
}

enum { MIB = 1 << 20 };
static unsigned char *x, *y;        /* npes + 1 MiB of the GPU heap each */
static unsigned char *plain, *more; /* GPU memory of no heap */
static float host[64];
static const int types[] = {SHMEMX_FLOAT32, SHMEMX_FLOAT16, SHMEMX_BFLOAT16};
static shmemx_quant_t how;

#define ALLREDUCE(dest, source, n, type)                                                                     \
    shmemx_allreduce_int8_on_stream(SHMEM_TEAM_WORLD, dest, source, n, type, &how, NULL, NULL)
#define COLL(call) LAUNCHES_KERNEL(call, "shmem_k_quant_coll")
#define TRY(code, text, ...) (REFUSED(__VA_ARGS__, code, text), shmemx_quant_defaults(&how))

static void *gpu_memory(size_t bytes)
{
    CUresult (*allocate)(CUdeviceptr *, size_t) = NULL;
    CUdeviceptr p = 0;
    *(void **)&allocate = dlsym(dlopen("libcuda.so.1", RTLD_NOW), "cuMemAlloc_v2");
    CHECK(allocate && allocate(&p, bytes) == 0, "cuMemAlloc");
    return (void *)(uintptr_t)p;
}

/* ---- arguments ------------------------------------------------------------------------------------------------------ */

static void test_refused(void)
{
    const int f32 = SHMEMX_FLOAT32;
    float *residual = (float *)(void *)plain;
    shmemx_quant_defaults(&how);
    how.format = 2, TRY(ARGUMENT, "format 2", ALLREDUCE(y, x, 8, f32));
    how.group = 5, TRY(ARGUMENT, "group 5", ALLREDUCE(y, x, 8, f32));
    how.group = 0, TRY(ARGUMENT, "row 0 with group 0", ALLREDUCE(y, x, 8, f32));
    how.row = SHMEMX_QUANT_MAX_ROW + 1, TRY(ARGUMENT, "row 65537", ALLREDUCE(y, x, 8, f32));
    how.op = 2, TRY(ARGUMENT, "op 2", ALLREDUCE(y, x, 8, f32));
    how.on_nonfinite = SHMEMX_NONFINITE_SATURATE, TRY(ARGUMENT, "on_nonfinite 1", ALLREDUCE(y, x, 8, f32));
    TRY(ARGUMENT, "dtype", ALLREDUCE(y, x, 8, SHMEMX_INT32));
    TRY(ARGUMENT, "too many", ALLREDUCE(y, x, (size_t)1 << 40, f32));
    TRY(ARGUMENT, "too many", ALLREDUCE(y, x, SIZE_MAX, f32));
    TRY(ARGUMENT, "dest is NULL", ALLREDUCE(NULL, x, 8, f32));
    TRY(ARGUMENT, "source is NULL", ALLREDUCE(y, NULL, 8, f32));
    TRY(ARGUMENT, "overlap", ALLREDUCE(x + 4, x, 8, f32));
    TRY(ADDRESS, "is host memory", ALLREDUCE(host, x, 8, f32));
    TRY(ADDRESS, "is host memory", ALLREDUCE(y, host, 8, f32));
    if (npes > 1) { /* of one PE a copy */
        TRY(ADDRESS, "not aligned to 4 bytes", ALLREDUCE(y + 2, x, 8, f32));
        TRY(ADDRESS, "not aligned to 2 bytes", ALLREDUCE(y, x + 1, 8, SHMEMX_BFLOAT16));
    }
    TRY(ADDRESS, "residual",
        shmemx_allreduce_int8_on_stream(SHMEM_TEAM_WORLD, y, x, 8, f32, &how, host, NULL));
    TRY(ADDRESS, "residual",
        shmemx_allreduce_int8_on_stream(SHMEM_TEAM_WORLD, y, x, 8, f32, &how, (float *)(void *)(plain + 2),
                                        NULL));
    TRY(ARGUMENT, "overlaps dest or source",
        shmemx_reduce_scatter_int8_on_stream(SHMEM_TEAM_WORLD, plain, x, 8, f32, &how, residual, NULL));
    TRY(PE, "root", shmemx_broadcast_int8_on_stream(SHMEM_TEAM_WORLD, y, x, 8, f32, npes, &how, NULL));
    TRY(PE, "root", shmemx_broadcast_int8_on_stream(SHMEM_TEAM_WORLD, y, x, 8, f32, -1, &how, NULL));
    TRY(TEAM, "SHMEM_TEAM_INVALID",
        shmemx_allgather_int8_on_stream(SHMEM_TEAM_INVALID, y, x, 8, f32, &how, NULL));
    TRY(ARGUMENT, "overlap", shmemx_alltoall_int8_on_stream(SHMEM_TEAM_WORLD, x + 4, x, 8, f32, NULL, NULL));
}

static void test_refused_rows(void)
{
    enum { FORMAT = SHMEMX_QUANT_INT8, F32 = SHMEMX_FLOAT32 };
#define QUANTIZE(format, rows, row_stride, x, x_stride, type, n, cols, group, policy)                        \
    shmemx_quantize_on_stream(format, rows, row_stride, x, x_stride, type, n, cols, group, policy, NULL)
    REFUSED(QUANTIZE(2, y, 0, x, 0, F32, 1, 64, 64, 0), ARGUMENT, "format 2");
    REFUSED(QUANTIZE(FORMAT, y, 0, x, 0, SHMEMX_INT8, 1, 64, 64, 0), ARGUMENT, "dtype");
    REFUSED(QUANTIZE(FORMAT, y, 0, x, 0, F32, 1, 64, 5, 0), ARGUMENT, "group 5");
    REFUSED(QUANTIZE(FORMAT, y, 0, x, 0, F32, 1, 0, 64, 0), ARGUMENT, "0 columns");
    REFUSED(QUANTIZE(FORMAT, y, 0, x, 63, F32, 1, 64, 64, 0), ARGUMENT, "stride of 63 elements");
    REFUSED(QUANTIZE(FORMAT, y, 79, x, 0, F32, 1, 64, 64, 0), ARGUMENT, "stride of 79 bytes");
    REFUSED(QUANTIZE(FORMAT, NULL, 0, x, 0, F32, 1, 64, 64, 0), ARGUMENT, "rows is NULL");
    REFUSED(QUANTIZE(FORMAT, y, 0, NULL, 0, F32, 1, 64, 64, 0), ARGUMENT, "x is NULL");
    REFUSED(QUANTIZE(FORMAT, x + 8, 0, x, 0, F32, 1, 64, 64, 0), ARGUMENT, "overlap");
    REFUSED(QUANTIZE(FORMAT, y, 0, x, 0, F32, 1, 64, 64, 3), ARGUMENT, "on_nonfinite 3");
    REFUSED(QUANTIZE(FORMAT, y, 0, x, 0, F32, 1, 64, 64, -1), ARGUMENT, "on_nonfinite -1");
    REFUSED(QUANTIZE(FORMAT, y, 0, x + 2, 0, F32, 1, 64, 64, 0), ADDRESS, "not aligned to 4 bytes");
    REFUSED(QUANTIZE(FORMAT, y, 0, host, 0, F32, 1, 64, 64, 0), ADDRESS, "not GPU memory");
    REFUSED(QUANTIZE(FORMAT, host, 0, x, 0, F32, 1, 64, 64, 0), ADDRESS, "not GPU memory");
    REFUSED(shmemx_dequantize_on_stream(FORMAT, host, 0, F32, y, 0, 1, 64, 64, NULL), ADDRESS,
            "not GPU memory");
    unsigned before = launches;
    CHECK(QUANTIZE(2, NULL, 0, NULL, 0, F32, 0, 64, 64, 0) == 0 && launches == before, "no rows");
#undef QUANTIZE
}

/* ---- what is launched ----------------------------------------------------------------------------------------------- */

/* The same on all members, and another where a call is another. */
static void same_everywhere(const char *what)
{
    unsigned *mine = shmem_malloc(sizeof *mine), *all = shmem_calloc((size_t)npes, sizeof *all);
    CHECK(mine && all, "%s", shmemx_last_error());
    *mine = coll.signature;
    CHECK(shmem_uint_fcollect(SHMEM_TEAM_WORLD, all, mine, 1) == 0, "%s", shmemx_last_error());
    for (int pe = 0; pe < npes; ++pe)
        CHECK(all[pe] == *mine, "%s: signature %08x, of PE %d %08x", what, *mine, pe, all[pe]);
    shmem_free(all);
    shmem_free(mine);
}

static void test_choice(void)
{
    for (int t = 0; t < 3; ++t) {
        size_t size = types[t] == SHMEMX_FLOAT32 ? 4 : 2, pays = (size_t)npes * MIB / size;
        shmemx_quant_defaults(&how);
        COLL(ALLREDUCE(y, x, pays, types[t]));
        CHECK(coll.format == SHMEMI_QUANT_GPU_INT8 && coll.nelems == pays && coll.strict, "%u", coll.format);
        COLL(ALLREDUCE(plain, x, pays - 1, types[t])); /* not in the heap: through the stage as it is */
        CHECK(coll.format == SHMEMI_QUANT_GPU_RAW && coll.record == 1024 / size, "%u", coll.format);
        unsigned before = launches;
        int rc = ALLREDUCE(y, x, pays - 1, types[t]);
        CHECK(rc == 0 && launches > before && strcmp(launched, "shmem_k_quant_coll") != 0,
              "%d: launched %s, not what reduces without quantization", rc, launched);
        how.min_bytes = 0, how.format = SHMEMX_QUANT_E4M3, how.on_nonfinite = SHMEMX_NONFINITE_PROPAGATE;
        COLL(ALLREDUCE(y, x, 1, types[t]));
        CHECK(coll.format == SHMEMI_QUANT_GPU_E4M3 && coll.workers == 1 && !coll.strict, "%u, %u workers",
              coll.format, coll.workers);
        how.min_bytes = pays * size + 1;
        COLL(ALLREDUCE(plain, x, pays, types[t]));
        CHECK(coll.format == SHMEMI_QUANT_GPU_RAW, "%u", coll.format);
    }
    shmemx_quant_defaults(&how);
    COLL(shmemx_allgather_int8_on_stream(SHMEM_TEAM_WORLD, y, x, MIB / 4, SHMEMX_FLOAT32, &how, NULL));
    CHECK(coll.kind == SHMEMI_QUANT_GPU_ALLGATHER && coll.format == SHMEMI_QUANT_GPU_INT8, "%u", coll.kind);
    COLL(shmemx_reduce_scatter_int8_on_stream(SHMEM_TEAM_WORLD, y, x, 100, SHMEMX_FLOAT32, &how, NULL, NULL));
    CHECK(coll.kind == SHMEMI_QUANT_GPU_REDUCE_SCATTER && coll.format == SHMEMI_QUANT_GPU_RAW, "%u",
          coll.kind);
    how.min_bytes = 0;
    COLL(shmemx_alltoall_int8_on_stream(SHMEM_TEAM_WORLD, y, x, 100, SHMEMX_FLOAT32, &how, NULL));
    CHECK(coll.kind == SHMEMI_QUANT_GPU_ALLTOALL, "%u", coll.kind);
    COLL(shmemx_broadcast_int8_on_stream(SHMEM_TEAM_WORLD, y, me == last ? x : NULL, 5000, SHMEMX_FLOAT32,
                                         last, &how, NULL));
    CHECK(coll.kind == SHMEMI_QUANT_GPU_BROADCAST && coll.root == (unsigned)last && coll.regions == 3, "%u",
          coll.kind);
    how.op = SHMEMX_QUANT_MEAN, how.group = 0, how.row = 3000;
    COLL(ALLREDUCE(y, x, 9000, SHMEMX_FLOAT32));
    CHECK(coll.record == 3000 && coll.pieces == 3 && coll.factor == 1.0f / (float)npes && coll.group == 0,
          "%u, %u", coll.record, coll.pieces);
}

static void test_agreement(void)
{
    shmemx_quant_defaults(&how);
    how.min_bytes = 0;
    size_t large = (size_t)npes * MIB / 4;
    COLL(ALLREDUCE(me % 2 ? y : plain, x, large, SHMEMX_FLOAT32));
    unsigned two = coll.signature, shots = npes > 2 ? SHMEMI_QUANT_GPU_TWO_SHOT : SHMEMI_QUANT_GPU_ONE_SHOT;
    CHECK(coll.kind == shots, "kind %u", coll.kind);
    same_everywhere("large");
    CHECK(coll.area * (unsigned)npes + SHMEMI_QUANT_GPU_SLOTS((unsigned)npes) <= 20 * MIB &&
              (size_t)coll.workers * coll.regions * coll.pieces * coll.slot <= coll.area,
          "slots of %u workers in %llu bytes", coll.workers, coll.area);
    COLL(ALLREDUCE(y, x, 1000, SHMEMX_FLOAT32));
    CHECK(coll.kind == SHMEMI_QUANT_GPU_ONE_SHOT, "kind %u", coll.kind);
    same_everywhere("small");
    unsigned small = coll.signature;
    CHECK(small != two, "%08x", small);
    how.group = 64;
    COLL(ALLREDUCE(y, x, 1000, SHMEMX_FLOAT32));
    CHECK(coll.signature != small, "%08x", small);
    how.group = 128;
    COLL(ALLREDUCE(y, x, 1000, SHMEMX_FLOAT32));
    CHECK(coll.signature == small, "%08x and %08x", small, coll.signature);
    COLL(ALLREDUCE(y, x, 1000, SHMEMX_BFLOAT16));
    CHECK(coll.signature != small, "%08x", small);
}

static void test_one_pe(void)
{
    float values[16], got[16] = {0};
    for (int i = 0; i < 16; ++i)
        values[i] = (float)i;
    shmemx_quant_defaults(&how);
    CHECK(shmemx_put(SHMEM_CTX_DEFAULT, x, values, sizeof values, 0) == 0, "%s", shmemx_last_error());
    CHECK(ALLREDUCE(y, x, 16, SHMEMX_FLOAT32) == 0 && ALLREDUCE(x, x, 16, SHMEMX_FLOAT32) == 0, "%s",
          shmemx_last_error());
    CHECK(shmemx_get(SHMEM_CTX_DEFAULT, got, y, sizeof got, 0) == 0 && memcmp(got, values, sizeof got) == 0,
          "a copy of %g, %g", (double)got[0], (double)got[1]);
    CHECK(launches == 0, "launched %s", launched);
}

static void test_rows(void)
{
    LAUNCHES_KERNEL(shmemx_quantize_on_stream(SHMEMX_QUANT_E4M3, y, 0, x, 200, SHMEMX_FLOAT16, 50, 100, 32,
                                              SHMEMX_NONFINITE_SATURATE, NULL),
                    "shmem_k_quantize");
    CHECK(rows.nrows == 50 && rows.cols == 100 && rows.group == 32 && rows.format == SHMEMI_QUANT_GPU_E4M3 &&
              rows.x_stride == 400 && rows.row_stride == shmemx_int8_row_bytes(100, 32) &&
              rows.nonfinite == 1,
          "%llu bytes from row to row", rows.row_stride);
    CHECK(blocks_of_launch == 7 && threads_of_launch == 256, "%u blocks of %u", blocks_of_launch,
          threads_of_launch);
    LAUNCHES_KERNEL(shmemx_dequantize_on_stream(SHMEMX_QUANT_INT8, plain, 0, SHMEMX_FLOAT32, more, 4096, 1,
                                                3000, 0, NULL),
                    "shmem_k_dequantize");
    CHECK(rows.x_stride == 12000 && rows.row_stride == 4096 && blocks_of_launch == 1, "%u blocks",
          blocks_of_launch);
}

/* What a kernel has found is said by the next check, once, on the PE that found it. */
static void test_reports(void)
{
    static const struct {
        unsigned kind;
        int code;
    } reports[] = {{SHMEMX_DEVICE_DATA, SHMEMX_ERR_DATA}, {SHMEMX_DEVICE_MISMATCH, SHMEMX_ERR_MISMATCH}};
    for (size_t i = 0; i < sizeof reports / sizeof *reports; ++i) {
        if (me == last) {
            *mailbox = (struct shmemx_device_error){.call = SHMEMX_DEVICE_CALL_QUANT, .pe = 0, .value = 64};
            mailbox->kind = reports[i].kind;
            int rc = shmemx_stream_check();
            CHECK(rc == reports[i].code && strstr(shmemx_last_error(), "quant"), "gave %d: %s", rc,
                  shmemx_last_error());
        }
        CHECK(shmemx_stream_check() == 0, "said twice: %s", shmemx_last_error());
    }
}

int main(void)
{
    if (!on_the_fake_driver())
        return check_done();
    shmem_init();
    shmemx_log_errors(0);
    CHECK(shmemx_allreduce_int8_on_stream(SHMEM_TEAM_WORLD, host, host, 8, SHMEMX_FLOAT32, NULL, NULL,
                                          NULL) == SHMEMX_ERR_UNSUPPORTED,
          "before there is a GPU heap: %s", shmemx_last_error());
    shmem_finalize();
    start_with(kernel);
    shmemx_log_errors(0);
    size_t bytes = (size_t)(npes + 1) * MIB;
    x = shmemx_malloc(bytes, SHMEMX_MEM_DEVICE), y = shmemx_malloc(bytes, SHMEMX_MEM_DEVICE);
    plain = gpu_memory(bytes), more = gpu_memory(bytes);
    CHECK(x && y && plain && more, "%s", shmemx_last_error());
    if (npes == 1)
        test_one_pe();
    test_refused();
    test_refused_rows();
    test_rows();
    if (npes > 1) {
        test_choice();
        test_agreement();
    }
    CHECK(shmemx_allreduce_int8_on_stream(SHMEM_TEAM_WORLD, NULL, NULL, 0, SHMEMX_FLOAT32, NULL, NULL,
                                          NULL) == 0,
          "no elements: %s", shmemx_last_error());
    test_reports();
    shmemx_log_errors(1);
    shmem_finalize();
    return check_done();
}
