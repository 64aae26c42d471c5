/* Quantized collectives: the calls of shmemx_quant.h, their checks, and the agreement on how they were called.
 *
 * A call's first meeting is a note of every member with how it was called, where its stage is, and the records themselves
 * where all that a member has to show fits beside (up to 15 KiB of float32, quantized). Larger ones go through stages
 * (quant_exchange.c). */
#include <string.h>

#include "base/gpu.h"
#include "quant.h"

/* Elements of a record where the caller has no rows: short enough that a vector divides evenly among members, long enough
 * that a call of the codec costs little beside it. */
enum { RECORD = 1024 };
/* Of an allreduce of float32 in shared memory: from here on INT8 took 0.75 to 0.9 of the time, 2 PEs. */
enum { LARGE_BYTES = 4 << 20 };
void shmemx_quant_defaults(shmemx_quant_t *how)
{
    *how = (shmemx_quant_t){.format = SHMEMX_QUANT_INT8,
                            .on_nonfinite = SHMEMX_NONFINITE_ERROR,
                            .op = SHMEMX_QUANT_SUM,
                            .group = 128,
                            .min_bytes = SHMEMX_QUANT_AUTO};
}

/* ---- arguments ----------------------------------------------------------------------------------------------------- */

static int check_how(const char *call, const shmemx_quant_t *how)
{
    if (!shmemi_quant_is_format(how->format))
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call,
                           "format %d is neither SHMEMX_QUANT_INT8 (0) nor SHMEMX_QUANT_E4M3 (1)",
                           how->format);
    if (how->on_nonfinite != SHMEMX_NONFINITE_ERROR && how->on_nonfinite != SHMEMX_NONFINITE_PROPAGATE)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call,
                           "on_nonfinite %d is neither SHMEMX_NONFINITE_ERROR (0) nor _PROPAGATE (2)",
                           how->on_nonfinite);
    if (how->op != SHMEMX_QUANT_SUM && how->op != SHMEMX_QUANT_MEAN)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call,
                           "op %d is neither SHMEMX_QUANT_SUM (0) nor SHMEMX_QUANT_MEAN (1)", how->op);
    if (!shmemi_quant_is_group(how->group))
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "group %zu is none of 32, 64, 128, 0 (= row)",
                           how->group);
    if (how->row > SHMEMX_QUANT_MAX_ROW || (how->group == 0 && how->row == 0))
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "row %zu with group %zu: rows have %d to %d elements",
                           how->row, how->group, how->group == 0, SHMEMX_QUANT_MAX_ROW);
    return SHMEMX_SUCCESS;
}

static int check_memory(const struct shmemi_quant *q, const char *what, const void *p, size_t bytes)
{
    if (bytes && !p)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, q->call, "%s is NULL", what);
    if (bytes && q->gpu != (shmemi_world.gpu_route && shmemi_is_gpu(p)))
        return shmemi_fail(SHMEMX_ERR_ADDRESS, q->call, "%s %p is %s memory, unlike the others", what, p,
                           q->gpu ? "host" : "GPU");
    return SHMEMX_SUCCESS;
}

/* Blocks of nelems elements at dest and at source. */
struct blocks {
    size_t dest, source;
};

static struct blocks blocks_of(const struct shmemi_quant *q)
{
    size_t n = (size_t)q->t->n;
    switch (q->kind) {
    case SHMEMI_QUANT_REDUCE_SCATTER:
        return (struct blocks){1, n};
    case SHMEMI_QUANT_ALLGATHER:
        return (struct blocks){n, 1};
    case SHMEMI_QUANT_ALLTOALL:
        return (struct blocks){n, n};
    case SHMEMI_QUANT_BROADCAST:
        return (struct blocks){1, q->t->me == q->root};
    default:
        return (struct blocks){1, 1};
    }
}

/* Where dest and source may lie in the same place: blocks of dest, or of source, before the common one. */
static bool in_place(const struct shmemi_quant *q)
{
    size_t before = (size_t)q->t->me * q->nelems * q->size;
    const unsigned char *dest = q->dest, *source = q->source;
    dest += q->kind == SHMEMI_QUANT_ALLGATHER ? before : 0;
    source += q->kind == SHMEMI_QUANT_REDUCE_SCATTER ? before : 0;
    return dest == source;
}

int shmemi_quant_check(struct shmemi_quant *q)
{
    int rc = check_how(q->call, &q->how);
    if (rc)
        return rc;
    if (!(q->size = shmemi_float_bytes(q->dtype)))
        return shmemi_fail(
            SHMEMX_ERR_ARGUMENT, q->call,
            "dtype %d is none of SHMEMX_FLOAT32 (%d), SHMEMX_FLOAT16 (%d), SHMEMX_BFLOAT16 (%d)", q->dtype,
            SHMEMX_FLOAT32, SHMEMX_FLOAT16, SHMEMX_BFLOAT16);
    if (q->root < 0 || q->root >= q->t->n)
        return shmemi_fail(SHMEMX_ERR_PE, q->call, "root %d is out of range, 0 to %d", q->root, q->t->n - 1);
    struct blocks b = blocks_of(q);
    size_t most, residual = q->residual ? b.source * q->nelems * sizeof(float) : 0;
    /* a tag has room for 40 bits of bytes */
    if (__builtin_mul_overflow(q->nelems, (size_t)q->t->n * sizeof(float), &most) || most >> 40)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, q->call, "%zu elements for each of %d members are too many",
                           q->nelems, q->t->n);
    size_t dest = b.dest * q->nelems * q->size, source = b.source * q->nelems * q->size;
    if ((rc = check_memory(q, "dest", q->dest, dest)) != 0 ||
        (rc = check_memory(q, "source", q->source, source)) != 0 ||
        (rc = check_memory(q, "residual", q->residual, residual)) != 0)
        return rc;
    if ((uintptr_t)q->residual % sizeof(float))
        return shmemi_fail(SHMEMX_ERR_ADDRESS, q->call, "residual %p is not aligned to 4 bytes",
                           (void *)q->residual);
    if (shmemi_overlap(q->dest, dest, q->source, source) && !in_place(q))
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, q->call,
                           "dest [%p, +%zu) and source [%p, +%zu) overlap, and not in place", (void *)q->dest,
                           dest, (const void *)q->source, source);
    if (shmemi_overlap(q->residual, residual, q->dest, dest) ||
        shmemi_overlap(q->residual, residual, q->source, source))
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, q->call, "residual [%p, +%zu) overlaps dest or source",
                           (void *)q->residual, residual);
    return SHMEMX_SUCCESS;
}

static void choose_codec(struct shmemi_quant *q)
{
    /* Where quantization pays (docs/quant.md). Between nodes: as soon as elements would not fit into the first note as they
     * are. Within one node shared memory is as fast as the codec but for float32 that no cache holds. */
    bool near = q->t->nnodes == 1,
         large = near && q->kind == SHMEMI_QUANT_ALLREDUCE && q->dtype == SHMEMX_FLOAT32;
    size_t pays = large ? LARGE_BYTES : near ? SIZE_MAX : SHMEMI_NOTE_ROOM - SHMEMI_QUANT_HELLO + 1;
    size_t min = q->how.min_bytes == SHMEMX_QUANT_AUTO ? pays : q->how.min_bytes;
    bool raw = q->t->n == 1 || q->nelems * q->size < min;
    q->codec = (struct shmemi_codec){.format = raw ? SHMEMI_QUANT_RAW : q->how.format,
                                     .dtype = q->dtype,
                                     .on_nonfinite = q->how.on_nonfinite,
                                     .group = q->how.group,
                                     .record = q->how.row ? q->how.row : RECORD,
                                     .k = shmemi_int8_kernels()};
    q->factor = q->how.op == SHMEMX_QUANT_MEAN ? 1.0f / (float)q->t->n : 1.0f;
}

/* ---- the first meeting ----------------------------------------------------------------------------------------------- */

enum { FIELDS = 8 };
struct hello {
    uint64_t stage; /* and in its lowest bit whether the buffers are fit to go straight */
    int64_t fields[FIELDS];
};
_Static_assert(sizeof(struct hello) <= (size_t)SHMEMI_QUANT_HELLO, "a hello fits before the payload");

/* Members come to the same verdict, since each compares all with the first. */
static int judge(const struct shmemi_quant *q)
{
    static const char *const names[FIELDS] = {"format", "on_nonfinite", "op",   "group",
                                              "row",    "min_bytes",    "root", "residual (0 = NULL)"};
    const struct shmemi_team *t = q->t;
    struct hello first, other;
    memcpy(&first, shmemi_note_of(t, 0, t->epoch)->data, sizeof first);
    for (int j = 1; j < t->n; ++j) {
        memcpy(&other, shmemi_note_of(t, j, t->epoch)->data, sizeof other);
        for (int f = 0; f < FIELDS; ++f)
            if (first.fields[f] != other.fields[f])
                return shmemi_fail(SHMEMX_ERR_MISMATCH, q->call, "%s is %lld on PE %d and %lld on PE %d",
                                   names[f], (long long)first.fields[f], t->pes[0],
                                   (long long)other.fields[f], t->pes[j]);
    }
    return SHMEMX_SUCCESS;
}

int shmemi_quant_agree(struct shmemi_quant *q)
{
    const shmemx_quant_t *h = &q->how;
    struct shmemi_team *t = q->t;
    struct hello mine = {q->stage | shmemi_quant_direct(q),
                         {h->format, h->on_nonfinite, h->op, (int64_t)h->group, (int64_t)h->row,
                          (int64_t)h->min_bytes, q->root, q->residual != NULL}};
    int rc = shmemi_begin(q->call, t, q->tag);
    if (rc)
        return rc;
    memcpy(shmemi_my_note(t), &mine, sizeof mine);
    if (q->payload_bytes)
        memcpy(shmemi_my_note(t) + SHMEMI_QUANT_HELLO, q->payload, q->payload_bytes);
    rc = shmemi_post(t, SHMEMI_QUANT_HELLO + q->payload_bytes);
    rc = rc ? rc : shmemi_await_all(q->call, t);
    rc = rc ? rc : judge(q);
    q->all_direct = true;
    for (int j = 0; j < t->n && rc == 0 && !q->in_notes; ++j) {
        uint64_t stage;
        memcpy(&stage, shmemi_note_of(t, j, t->epoch)->data, sizeof stage);
        q->all_direct &= stage & 1;
        stage &= ~(uint64_t)1;
        memcpy(q->base + q->stages + (size_t)j * sizeof stage, &stage, sizeof stage);
    }
    q->agreed = true;
    return rc;
}

/* ---- the calls --------------------------------------------------------------------------------------------------------- */

int shmemi_quant_called(struct shmemi_quant *q, const char *call, int kind, shmem_team_t team, void *dest,
                        const void *source, size_t nelems, int dtype, int root, const shmemx_quant_t *how,
                        float *residual)
{
    int rc = SHMEMX_SUCCESS;
    *q = (struct shmemi_quant){.call = call,
                               .kind = kind,
                               .dest = dest,
                               .source = source,
                               .nelems = nelems,
                               .dtype = dtype,
                               .root = root,
                               .residual = residual};
    q->t = shmemi_team_get(q->call, team, &rc);
    if (how)
        q->how = *how;
    else
        shmemx_quant_defaults(&q->how);
    return rc;
}

static int collective(const char *call, int kind, shmem_team_t team, void *dest, const void *source,
                      size_t nelems, int dtype, int root, const shmemx_quant_t *how, float *residual)
{
    struct shmemi_quant q;
    int rc = shmemi_quant_called(&q, call, kind, team, dest, source, nelems, dtype, root, how, residual);
    if (rc)
        return rc;
    const void *any = dest ? dest : source;
    if (any && shmemi_world.gpu_route && shmemi_is_gpu(any))
        return shmemi_gpu_finish(q.call, shmemi_quant_on_stream(&q, team, shmemi_gpu_stream()));
    if ((rc = shmemi_quant_check(&q)) != 0 || (rc = shmemi_stage_take(q.call, &q.stage)) != 0)
        return shmemi_refuse(q.call, q.t, rc);
    choose_codec(&q);
    q.tag = shmemi_tag(q.kind, (unsigned)q.dtype, q.nelems * q.size);
    q.base =
        (unsigned char *)shmemi_map(shmemi_world.me, (struct shmemi_place){SHMEMI_SEGMENT_HOST, q.stage});
    rc = shmemi_quant_exchange(&q, team);
    shmemi_stage_give(q.stage);
    return rc;
}

int shmemx_allreduce_int8(shmem_team_t team, void *dest, const void *source, size_t nelems, int dtype,
                          const shmemx_quant_t *how, float *residual)
{
    return collective(__func__, SHMEMI_QUANT_ALLREDUCE, team, dest, source, nelems, dtype, 0, how, residual);
}

int shmemx_reduce_scatter_int8(shmem_team_t team, void *dest, const void *source, size_t nelems, int dtype,
                               const shmemx_quant_t *how, float *residual)
{
    return collective(__func__, SHMEMI_QUANT_REDUCE_SCATTER, team, dest, source, nelems, dtype, 0, how,
                      residual);
}

int shmemx_allgather_int8(shmem_team_t team, void *dest, const void *source, size_t nelems, int dtype,
                          const shmemx_quant_t *how)
{
    return collective(__func__, SHMEMI_QUANT_ALLGATHER, team, dest, source, nelems, dtype, 0, how, NULL);
}

int shmemx_alltoall_int8(shmem_team_t team, void *dest, const void *source, size_t nelems, int dtype,
                         const shmemx_quant_t *how)
{
    return collective(__func__, SHMEMI_QUANT_ALLTOALL, team, dest, source, nelems, dtype, 0, how, NULL);
}

int shmemx_broadcast_int8(shmem_team_t team, void *dest, const void *source, size_t nelems, int dtype,
                          int root, const shmemx_quant_t *how)
{
    return collective(__func__, SHMEMI_QUANT_BROADCAST, team, dest, source, nelems, dtype, root, how, NULL);
}
