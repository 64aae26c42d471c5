/* Quantized collectives and the codec on GPU memory (shmemx_quant_stream.h): checks, choices, and one kernel of
 * gpu/quant_coll.cuh or gpu/quant_rows.cuh, or where nothing is quantized the calls of shmemx_stream.h. */
#include "gpu/quant_args.h"
#include "quant.h"
#include "shmemx_quant_stream.h"
#include "stream.h"

/* From so many bytes in all, for each member, quantization pays. H100 over NVLink, all-reduce, unquantized and INT8, us:
 *   2 PEs  float32 1 MiB 9.1 and 10.8, 2 MiB 17.2 and 12.2;  bfloat16 1 MiB 9.7 and 11.8, 2 MiB 18.2 and 14.1
 *   4 PEs  float32 2 MiB 21.0 and 22.9, 4 MiB 30.4 and 24.3; bfloat16 2 MiB 22.6 and 24.5, 4 MiB 33.3 and 27.5
 * So it is 1 MiB a member, whatever the elements. More than four are extrapolated: what a call takes at least grows with
 * them. So are the other collectives, of which 128 MiB was measured. */
static const size_t PAYS_BYTES = 1u << 20;

/* Elements travel as they are. */
static bool is_raw(const struct shmemi_quant *q)
{
    size_t bytes = q->nelems * q->size, n = (size_t)q->t->n;
    bool blocks = q->kind != SHMEMI_QUANT_ALLREDUCE && q->kind != SHMEMI_QUANT_BROADCAST;
    if (q->how.min_bytes != SHMEMX_QUANT_AUTO)
        return bytes < q->how.min_bytes;
    return shmemi_gpu_packet_bytes(0) == 0 || bytes * (blocks ? n : 1) < n * PAYS_BYTES;
}

static int kernel_kind(const struct shmemi_quant *q, size_t wire_bytes)
{
    static const int kinds[] = {
        [SHMEMI_QUANT_REDUCE_SCATTER] = SHMEMI_QUANT_GPU_REDUCE_SCATTER,
        [SHMEMI_QUANT_ALLGATHER] = SHMEMI_QUANT_GPU_ALLGATHER,
        [SHMEMI_QUANT_ALLTOALL] = SHMEMI_QUANT_GPU_ALLTOALL,
        [SHMEMI_QUANT_BROADCAST] = SHMEMI_QUANT_GPU_BROADCAST,
    };
    size_t n = (size_t)q->t->n;
    if (q->kind != SHMEMI_QUANT_ALLREDUCE)
        return kinds[q->kind];
    return SHMEMX_DEVICE_TWO_SHOTS((uint64_t)wire_bytes, n) ? SHMEMI_QUANT_GPU_TWO_SHOT
                                                            : SHMEMI_QUANT_GPU_ONE_SHOT;
}

/* What all members must agree on, in 32 bits (FNV-1a). */
static unsigned signature_of(const struct shmemi_quant *q, const struct shmemi_quant_coll *a)
{
    uint64_t words[] = {a->nelems,          a->kind,
                        a->format,          a->group,
                        a->record,          a->root,
                        (uint64_t)q->dtype, (uint64_t)q->how.op,
                        a->residual != 0,   (uint64_t)q->how.on_nonfinite,
                        a->workers,         a->slot};
    const unsigned char *bytes = (const unsigned char *)words;
    unsigned hash = 2166136261u;
    for (size_t i = 0; i < sizeof words; ++i)
        hash = (hash ^ bytes[i]) * 16777619u;
    return hash;
}

static int launch(struct shmemi_quant *q, bool raw, void *stream)
{
    size_t n = (size_t)q->t->n, npes = (size_t)shmemi_world.npes;
    size_t piece = raw ? SHMEMI_QUANT_GPU_PIECE / q->size : SHMEMI_QUANT_GPU_PIECE;
    bool lines = shmemi_gpu_packet_bytes(0) != 0, mean = q->how.op == SHMEMX_QUANT_MEAN;
    struct shmemi_quant_coll a = {
        .dest = (uintptr_t)q->dest,
        .source = (uintptr_t)q->source,
        .residual = (uintptr_t)q->residual,
        .nelems = q->nelems,
        .team = (unsigned)shmemi_team_slot(q->t),
        .format = raw ? SHMEMI_QUANT_GPU_RAW : (unsigned)q->how.format,
        .group = (unsigned)q->how.group,
        .record = (unsigned)(raw          ? piece
                             : q->how.row ? q->how.row
                                          : SHMEMI_QUANT_GPU_PIECE),
        .slot = lines ? SHMEMI_QUANT_GPU_SLOT_LINES : SHMEMI_QUANT_GPU_SLOT_PAIRS,
        .root = (unsigned)q->root,
        .strict = q->how.on_nonfinite == SHMEMX_NONFINITE_ERROR,
        .factor = mean ? 1.0f / (float)q->t->n : 1.0f,
    };
    a.pieces = (unsigned)((a.record + piece - 1) / piece);
    size_t records = (q->nelems + a.record - 1) / a.record;
    a.kind = (unsigned)kernel_kind(q, records * a.pieces * SHMEMI_QUANT_GPU_MESSAGE);
    a.regions = a.kind == SHMEMI_QUANT_GPU_BROADCAST ? 3 : 2;
    size_t room = shmemi_gpu_stage((uint64_t *)&a.stage) - SHMEMI_QUANT_GPU_SLOTS(npes);
    a.area = room / npes / SHMEMI_QUANT_GPU_ALIGN * SHMEMI_QUANT_GPU_ALIGN;
    size_t workers = a.area / ((size_t)a.regions * a.pieces * a.slot);
    bool dealt = a.kind == SHMEMI_QUANT_GPU_TWO_SHOT || a.kind == SHMEMI_QUANT_GPU_BROADCAST;
    size_t units = dealt ? (records + n - 1) / n : records;
    size_t most = (size_t)shmemi_gpu_processors() * SHMEMI_QUANT_GPU_WARPS;
    workers = workers < most ? workers : most;
    workers = workers < units ? workers : units;
    if (n > SHMEMI_QUANT_GPU_MEMBERS || workers == 0)
        return shmemi_fail(SHMEMX_ERR_LIMIT, q->call,
                           "%zu members, at most %d; rows of %zu elements on %zu PEs", n,
                           SHMEMI_QUANT_GPU_MEMBERS, q->how.row, npes);
    if (units / workers >= (1u << SHMEMI_QUANT_GPU_STEP_BITS) - 1)
        return shmemi_fail(SHMEMX_ERR_LIMIT, q->call, "%zu elements are too many for one call", q->nelems);
    a.workers = (unsigned)workers;
    a.signature = signature_of(q, &a);
    /* few workers: one or two on each SM */
    size_t processors = shmemi_gpu_processors(), each = (workers + processors - 1) / processors;
    unsigned warps = (unsigned)(each < SHMEMI_QUANT_GPU_WARPS ? each : SHMEMI_QUANT_GPU_WARPS);
    void *arguments[] = {&a};
    return shmemi_gpu_kernel_shared(q->call, SHMEMI_K_QUANT_COLL + SHMEMI_FLOAT_INDEX(q->dtype),
                                    (unsigned)((workers + warps - 1) / warps), warps * 32,
                                    SHMEMI_QUANT_GPU_SHARED(warps), arguments, stream);
}

static bool in_heap(const void *p)
{
    return shmemi_kind(p) == SHMEMX_MEM_DEVICE;
}

/* The call of shmemx_stream.h that does the same without quantization, if there is one and it takes these buffers. */
static bool goes_straight(struct shmemi_quant *q, shmem_team_t team, void *stream, int *rc)
{
    size_t bytes = q->nelems * q->size;
    bool apart = q->dest != q->source;
    if (q->residual || !in_heap(q->dest) || (q->source && !in_heap(q->source)))
        return false;
    if (q->kind == SHMEMI_QUANT_ALLREDUCE && q->how.op == SHMEMX_QUANT_SUM)
        *rc =
            shmemx_reduce_on_stream(team, SHMEMX_REDUCE_SUM, q->dtype, q->dest, q->source, q->nelems, stream);
    else if (q->kind == SHMEMI_QUANT_ALLGATHER && q->source + 0 != q->dest + (size_t)q->t->me * bytes)
        *rc = shmemx_fcollect_on_stream(team, q->dest, q->source, bytes, stream);
    else if (q->kind == SHMEMI_QUANT_ALLTOALL && apart)
        *rc = shmemx_alltoall_on_stream(team, q->dest, q->source, bytes, stream);
    else if (q->kind == SHMEMI_QUANT_BROADCAST && q->source)
        *rc = shmemx_broadcast_on_stream(team, q->dest, q->source, bytes, q->root, stream);
    else
        return false;
    return true;
}

static int check_alignment(const struct shmemi_quant *q)
{
    if (((uintptr_t)q->dest | (uintptr_t)q->source) % q->size)
        return shmemi_fail(SHMEMX_ERR_ADDRESS, q->call, "dest %p or source %p is not aligned to %zu bytes",
                           (void *)q->dest, (const void *)q->source, q->size);
    return SHMEMX_SUCCESS;
}

int shmemi_quant_on_stream(struct shmemi_quant *q, shmem_team_t team, void *stream)
{
    q->gpu = true;
    int rc = shmemi_stream_ready(q->call);
    if (rc || (rc = shmemi_quant_check(q)) != 0 || (rc = check_alignment(q)) != 0 || q->nelems == 0)
        return rc;
    size_t bytes = q->nelems * q->size;
    if (q->t->n == 1)
        return q->dest == q->source ? SHMEMX_SUCCESS
                                    : shmemi_gpu_copy(q->call, q->dest, q->source, bytes, stream);
    bool raw = is_raw(q);
    if (raw && goes_straight(q, team, stream, &rc))
        return rc;
    return launch(q, raw, stream);
}

static int collective(const char *call, int kind, shmem_team_t team, void *dest, const void *source,
                      size_t nelems, int dtype, int root, const shmemx_quant_t *how, float *residual,
                      void *stream)
{
    struct shmemi_quant q;
    int rc = shmemi_quant_called(&q, call, kind, team, dest, source, nelems, dtype, root, how, residual);
    return rc ? rc : shmemi_quant_on_stream(&q, team, stream);
}

int shmemx_allreduce_int8_on_stream(shmem_team_t team, void *dest, const void *source, size_t nelems,
                                    int dtype, const shmemx_quant_t *how, float *residual, void *stream)
{
    return collective(__func__, SHMEMI_QUANT_ALLREDUCE, team, dest, source, nelems, dtype, 0, how, residual,
                      stream);
}

int shmemx_reduce_scatter_int8_on_stream(shmem_team_t team, void *dest, const void *source, size_t nelems,
                                         int dtype, const shmemx_quant_t *how, float *residual, void *stream)
{
    return collective(__func__, SHMEMI_QUANT_REDUCE_SCATTER, team, dest, source, nelems, dtype, 0, how,
                      residual, stream);
}

int shmemx_allgather_int8_on_stream(shmem_team_t team, void *dest, const void *source, size_t nelems,
                                    int dtype, const shmemx_quant_t *how, void *stream)
{
    return collective(__func__, SHMEMI_QUANT_ALLGATHER, team, dest, source, nelems, dtype, 0, how, NULL,
                      stream);
}

int shmemx_alltoall_int8_on_stream(shmem_team_t team, void *dest, const void *source, size_t nelems,
                                   int dtype, const shmemx_quant_t *how, void *stream)
{
    return collective(__func__, SHMEMI_QUANT_ALLTOALL, team, dest, source, nelems, dtype, 0, how, NULL,
                      stream);
}

int shmemx_broadcast_int8_on_stream(shmem_team_t team, void *dest, const void *source, size_t nelems,
                                    int dtype, int root, const shmemx_quant_t *how, void *stream)
{
    return collective(__func__, SHMEMI_QUANT_BROADCAST, team, dest, source, nelems, dtype, root, how, NULL,
                      stream);
}

/* ---- the codec alone ------------------------------------------------------------------------------------------------ */

static int rows(const char *call, int kernel, int format, void *records, size_t row_stride, void *x,
                size_t x_stride, int dtype, size_t nrows, size_t cols, size_t group, int on_nonfinite,
                void *stream)
{
    int rc = shmemi_stream_ready(call);
    if (rc || nrows == 0)
        return rc;
    if ((rc = shmemi_quant_check_rows(call, format, x, &x_stride, dtype, records, &row_stride, cols,
                                      group)) != 0)
        return rc;
    if (on_nonfinite < SHMEMX_NONFINITE_ERROR || on_nonfinite > SHMEMX_NONFINITE_PROPAGATE)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "on_nonfinite %d is none of 0, 1, 2", on_nonfinite);
    size_t size = shmemi_float_bytes(dtype);
    if ((uintptr_t)x % size)
        return shmemi_fail(SHMEMX_ERR_ADDRESS, call, "elements at %p are not aligned to %zu bytes", x, size);
    if (!shmemi_is_gpu(x) || !shmemi_is_gpu(records))
        return shmemi_fail(SHMEMX_ERR_ADDRESS, call, "elements %p or rows %p are not GPU memory", x, records);
    struct shmemi_quant_rows a = {
        .rows = (uintptr_t)records,
        .row_stride = row_stride,
        .x = (uintptr_t)x,
        .x_stride = x_stride * size,
        .nrows = nrows,
        .cols = cols,
        .format = (unsigned)format,
        .group = (unsigned)group,
        .nonfinite = (unsigned)on_nonfinite,
    };
    /* a warp for each piece, until the SMs are full several times over */
    enum { WARPS = SHMEMI_QUANT_GPU_ROWS_WARPS, WAVES = 16 };
    size_t pieces = nrows * (group ? (cols + SHMEMI_QUANT_GPU_PIECE - 1) / SHMEMI_QUANT_GPU_PIECE : 1);
    size_t blocks = (pieces + WARPS - 1) / WARPS, most = (size_t)shmemi_gpu_processors() * WAVES;
    void *arguments[] = {&a};
    return shmemi_gpu_kernel(call, kernel + SHMEMI_FLOAT_INDEX(dtype),
                             (unsigned)(blocks < most ? blocks : most), WARPS * 32, arguments, stream);
}

int shmemx_quantize_on_stream(int format, void *records, size_t row_stride_bytes, const void *x,
                              size_t x_stride_elements, int dtype, size_t nrows, size_t cols, size_t group,
                              int on_nonfinite, void *stream)
{
    return rows(__func__, SHMEMI_K_QUANTIZE, format, records, row_stride_bytes, (void *)(uintptr_t)x,
                x_stride_elements, dtype, nrows, cols, group, on_nonfinite, stream);
}

int shmemx_dequantize_on_stream(int format, void *out, size_t out_stride_elements, int dtype,
                                const void *records, size_t row_stride_bytes, size_t nrows, size_t cols,
                                size_t group, void *stream)
{
    return rows(__func__, SHMEMI_K_DEQUANTIZE, format, (void *)(uintptr_t)records, row_stride_bytes, out,
                out_stride_elements, dtype, nrows, cols, group, SHMEMX_NONFINITE_ERROR, stream);
}
