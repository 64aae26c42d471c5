/* Reductions: and, or, xor, max, min, sum, prod over teams; and prefix sums (scans).
 *
 * Up to a note's room every member shows its operands and adds up everybody's itself. Above, member i owns the i-th
 * slice: it reads that slice of every source, reduces it in a block that stays in the first-level cache and stores the
 * result into every dest; the slices are read and written by their owners only, which is why dest may be source.
 * Operands are taken in the order of the members' numbers, so every member has the same bits.
 *
 * Over several nodes: slices within each node first, into the owner's dest alone; then the owners of the same slice on all
 * nodes reduce a part of it each and hand the parts around; then every member copies the slices of its node's owners. A
 * byte crosses between two nodes twice for all their members together (once each way: Rabenseifner's reduce-scatter and
 * allgather, over the nodes). 16-bit floats are rounded after each of the two steps.
 */
#include <stdlib.h>
#include <string.h>

#include "base/gpu.h"
#include "coll.h"
#include "int8.h"

/* 8 KiB twice (sum and operand; twice that for 16-bit floats) fit the first-level cache beside the streams. */
enum { BLOCK_BYTES = 8192 };
_Static_assert((int)BLOCK_BYTES >= (int)SHMEMI_NOTE_ROOM, "a note is one block");
/* Fetched from each other node at a time: long enough that the way there and back is small beside it. */
enum { FETCH_BYTES = 32 * BLOCK_BYTES };

/* acc[i] = acc[i] OP in[i]; both aligned for the type, not overlapping. */
typedef void reduce_fn(void *acc, const void *in, size_t n);

/* vectorised by the compiler: -O2 alone leaves these loops scalar in gcc 12 */
#pragma GCC optimize("O3")

#define KERNEL(NAME, T, EXPR)                                                                                \
    static void NAME(void *acc_, const void *in_, size_t n)                                                  \
    {                                                                                                        \
        T *restrict acc = acc_;                                                                              \
        const T *restrict in = in_;                                                                          \
        for (size_t i = 0; i < n; ++i) {                                                                     \
            T a = acc[i], b = in[i];                                                                         \
            acc[i] = (T)(EXPR);                                                                              \
        }                                                                                                    \
    }
#define BITWISE(NAME, T)                                                                                     \
    KERNEL(NAME##_and, T, a &b)                                                                              \
    KERNEL(NAME##_or, T, a | b)                                                                              \
    KERNEL(NAME##_xor, T, a ^ b)
/* a NaN on either side comes out: it is not <= anything, and b is taken when a > b is false */
#define ORDERED(NAME, T)                                                                                     \
    KERNEL(NAME##_max, T, (a > b || a != a) ? a : b)                                                         \
    KERNEL(NAME##_min, T, (a < b || a != a) ? a : b)
#define ARITHMETIC(NAME, T)                                                                                  \
    KERNEL(NAME##_sum, T, a + b)                                                                             \
    KERNEL(NAME##_prod, T, a *b)
/* signed overflow wraps, as everybody expects of a reduction: done in unsigned, computed in 32 bits or more */
#define WRAPPING(NAME, T, U)                                                                                 \
    KERNEL(NAME##_sum, T, (U)a + (U)b)                                                                       \
    KERNEL(NAME##_prod, T, (U)a *(U)b)
#define INTEGER(NAME, T, U) BITWISE(NAME, T) ORDERED(NAME, T) WRAPPING(NAME, T, U)

INTEGER(i8, int8_t, uint32_t)
INTEGER(i16, int16_t, uint32_t)
INTEGER(i32, int32_t, uint32_t)
INTEGER(i64, int64_t, uint64_t)
INTEGER(u8, uint8_t, uint32_t)
INTEGER(u16, uint16_t, uint32_t)
INTEGER(u32, uint32_t, uint32_t)
INTEGER(u64, uint64_t, uint64_t)
#define FLOATING(NAME, T) ORDERED(NAME, T) ARITHMETIC(NAME, T)
FLOATING(f32, float)
FLOATING(f64, double)
FLOATING(ld, long double)
ARITHMETIC(c64, float _Complex)
ARITHMETIC(c128, double _Complex)

#define ROW_INTEGER(NAME) {NAME##_and, NAME##_or, NAME##_xor, NAME##_max, NAME##_min, NAME##_sum, NAME##_prod}
#define ROW_FLOATING(NAME) {NULL, NULL, NULL, NAME##_max, NAME##_min, NAME##_sum, NAME##_prod}
#define ROW_COMPLEX(NAME) {NULL, NULL, NULL, NULL, NULL, NAME##_sum, NAME##_prod}

/* [type][op]; NULL = the op does not exist for the type */
static const struct {
    const char *name;
    size_t size;
    reduce_fn *fn[SHMEMX_REDUCE_OP_COUNT];
} types[SHMEMX_TYPE_COUNT] = {
    [SHMEMX_INT8] = {"int8", 1, ROW_INTEGER(i8)},
    [SHMEMX_INT16] = {"int16", 2, ROW_INTEGER(i16)},
    [SHMEMX_INT32] = {"int32", 4, ROW_INTEGER(i32)},
    [SHMEMX_INT64] = {"int64", 8, ROW_INTEGER(i64)},
    [SHMEMX_UINT8] = {"uint8", 1, ROW_INTEGER(u8)},
    [SHMEMX_UINT16] = {"uint16", 2, ROW_INTEGER(u16)},
    [SHMEMX_UINT32] = {"uint32", 4, ROW_INTEGER(u32)},
    [SHMEMX_UINT64] = {"uint64", 8, ROW_INTEGER(u64)},
    /* operands widened, float32 kernels, rounded once at the end */
    [SHMEMX_FLOAT16] = {"float16", 2, ROW_FLOATING(f32)},
    [SHMEMX_BFLOAT16] = {"bfloat16", 2, ROW_FLOATING(f32)},
    [SHMEMX_FLOAT32] = {"float32", 4, ROW_FLOATING(f32)},
    [SHMEMX_FLOAT64] = {"float64", 8, ROW_FLOATING(f64)},
    [SHMEMX_LONGDOUBLE] = {"long double", sizeof(long double), ROW_FLOATING(ld)},
    [SHMEMX_COMPLEX64] = {"complex64", 8, ROW_COMPLEX(c64)},
    [SHMEMX_COMPLEX128] = {"complex128", 16, ROW_COMPLEX(c128)},
};
static const char *const ops[SHMEMX_REDUCE_OP_COUNT] = {"and", "or", "xor", "max", "min", "sum", "prod"};

/* ---- a block ----------------------------------------------------------------------------------------------------------- */

/* A running result of up to BLOCK_BYTES of operands. */
struct accumulator {
    int type;
    reduce_fn *fn;
    bool widened; /* 16-bit floats: held in float32 */
    _Alignas(64) unsigned char acc[2 * BLOCK_BYTES], in[2 * BLOCK_BYTES];
};

static void accumulator_init(struct accumulator *a, int type, reduce_fn *fn)
{
    a->type = type;
    a->fn = fn;
    a->widened = type == SHMEMX_FLOAT16 || type == SHMEMX_BFLOAT16;
}

static void load(const struct accumulator *a, void *to, const void *operand, size_t n)
{
    if (a->widened)
        shmemi_int8_kernels()->widen[SHMEMI_FLOAT_INDEX(a->type)](to, operand, n);
    else
        memcpy(to, operand, n * types[a->type].size);
}

/* Takes the next member's n operands, the first member's first. */
static void take(struct accumulator *a, bool first, const void *operand, size_t n)
{
    load(a, first ? a->acc : a->in, operand, n);
    if (!first)
        a->fn(a->acc, a->in, n);
}

static void give(struct accumulator *a, void *dest, size_t n)
{
    if (a->widened)
        shmemi_int8_kernels()->narrow[SHMEMI_FLOAT_INDEX(a->type)](dest, (const float *)a->acc, n);
    else
        memcpy(dest, a->acc, n * types[a->type].size);
}

/* ---- the two forms --------------------------------------------------------------------------------------------------- */

static int in_notes(const struct shmemi_coll *c, uint64_t tag, int type, reduce_fn *fn, void *dest,
                    const void *source, size_t nelems)
{
    struct shmemi_team *t = c->t;
    int rc = shmemi_show(c->call, t, tag, source, nelems * types[type].size);
    if (rc || nelems == 0)
        return rc;
    struct accumulator a;
    accumulator_init(&a, type, fn);
    for (int j = 0; j < t->n; ++j)
        take(&a, j == 0, shmemi_note_of(t, j, t->epoch)->data, nelems);
    give(&a, dest, nelems);
    return SHMEMX_SUCCESS;
}

/* Byte range of member i's slice: whole cache lines where possible, so that no line has two writers. */
static void slice(size_t bytes, int i, int n, size_t *from, size_t *to)
{
    size_t unit = SHMEMI_CACHE_LINE; /* a multiple of every type's size */
    size_t units = (bytes + unit - 1) / unit, share = units / (size_t)n, more = units % (size_t)n,
           k = (size_t)i;
    *from = (share * k + (k < more ? k : more)) * unit;
    *to = *from + (share + (k < more)) * unit;
    *from = *from < bytes ? *from : bytes;
    *to = *to < bytes ? *to : bytes;
}

/* Reduces bytes [from, to) of the sources of this node's members into the dests of members first .. first + n - 1 there. */
static void reduce_node(const struct shmemi_coll *c, int type, reduce_fn *fn, size_t from, size_t to,
                        int first, int n)
{
    const struct shmemi_team *t = c->t;
    const struct shmemi_team_node *home = &t->nodes[t->home];
    struct accumulator a;
    accumulator_init(&a, type, fn);
    size_t size = types[type].size, block = BLOCK_BYTES / size * size;
    for (size_t at = from; at < to; at += block) {
        size_t elements = (to - at < block ? to - at : block) / size;
        struct shmemi_place s = c->source, d = c->dest;
        s.offset += at;
        d.offset += at;
        for (int j = 0; j < home->n; ++j)
            take(&a, j == 0, shmemi_map(t->pes[home->members[j]], s), elements);
        for (int j = first; j < first + n; ++j)
            give(&a, shmemi_map(t->pes[home->members[j]], d), elements);
    }
}

static int in_slices(const struct shmemi_coll *c, uint64_t tag, int type, reduce_fn *fn, size_t bytes)
{
    struct shmemi_team *t = c->t;
    int rc = shmemi_meet(c->call, t, tag);
    if (rc)
        return rc;
    size_t from, to;
    slice(bytes, t->me, t->n, &from, &to);
    reduce_node(c, type, fn, from, to, 0, t->n);
    return shmemi_meet(c->call, t, tag);
}

/* The part [from, to) of a slice that this PE reduces over the nodes: from its own dest, and those of the members with the
 * same number on the other nodes; the result goes to all of them. */
static int reduce_nodes(const struct shmemi_coll *c, int type, reduce_fn *fn, size_t from, size_t to)
{
    const struct shmemi_team *t = c->t;
    struct accumulator a;
    accumulator_init(&a, type, fn);
    size_t size = types[type].size, room = (size_t)t->nnodes * FETCH_BYTES;
    char *fetched = malloc(room);
    int rc = fetched ? 0 : shmemi_fail(SHMEMX_ERR_SYSTEM, c->call, "out of memory for %zu bytes", room);
    for (size_t at = from; at < to && rc == 0; at += FETCH_BYTES) {
        size_t n = to - at < FETCH_BYTES ? to - at : FETCH_BYTES;
        struct shmemi_place d = c->dest;
        d.offset += at;
        char *mine = shmemi_map(shmemi_world.me, d);
        for (int k = 0; k < t->nnodes && rc == 0; ++k) {
            int pe = t->pes[t->nodes[k].members[t->rank[t->me]]];
            if (k != t->home)
                rc = shmemi_world.route[pe]->get(pe, d.segment, d.offset, fetched + (size_t)k * FETCH_BYTES,
                                                 n, SHMEMI_NBI);
        }
        rc = rc ? rc : shmemx_quiet(SHMEM_CTX_DEFAULT);
        for (size_t b = 0; b < n && rc == 0; b += BLOCK_BYTES) {
            size_t elements = (n - b < BLOCK_BYTES ? n - b : BLOCK_BYTES) / size;
            for (int k = 0; k < t->nnodes; ++k)
                take(&a, k == 0, k == t->home ? mine + b : fetched + (size_t)k * FETCH_BYTES + b, elements);
            give(&a, mine + b, elements);
        }
        for (int k = 0; k < t->nnodes && rc == 0; ++k) {
            int pe = t->pes[t->nodes[k].members[t->rank[t->me]]];
            if (k != t->home)
                rc = shmemi_world.route[pe]->put(pe, d.segment, d.offset, mine, n, SHMEMI_NBI);
        }
    }
    free(fetched);
    return rc;
}

static int over_nodes(const struct shmemi_coll *c, uint64_t tag, int type, reduce_fn *fn, size_t bytes)
{
    struct shmemi_team *t = c->t;
    const struct shmemi_team_node *home = &t->nodes[t->home];
    int owners = home->n, mine = t->rank[t->me], rc; /* a slice has an owner on every node */
    for (int k = 0; k < t->nnodes; ++k)
        owners = t->nodes[k].n < owners ? t->nodes[k].n : owners;
    size_t from, to, part_from, part_to;
    if ((rc = shmemi_meet(c->call, t, tag)) != 0)
        return rc;
    if (mine < owners) {
        slice(bytes, mine, owners, &from, &to);
        reduce_node(c, type, fn, from, to, mine, 1);
    }
    if ((rc = shmemi_meet(c->call, t, tag)) != 0)
        return rc;
    if (mine < owners) {
        slice(to - from, t->home, t->nnodes, &part_from, &part_to);
        rc = reduce_nodes(c, type, fn, from + part_from, from + part_to);
    }
    rc = rc ? rc : shmemx_quiet(SHMEM_CTX_DEFAULT);
    if (rc || (rc = shmemi_meet(c->call, t, tag)) != 0)
        return rc;
    for (int k = 0; k < owners; ++k) {
        slice(bytes, k, owners, &from, &to);
        struct shmemi_place d = c->dest;
        d.offset += from;
        if (k != mine && to > from)
            memcpy(shmemi_map(shmemi_world.me, d), shmemi_map(t->pes[home->members[k]], d), to - from);
    }
    return shmemi_meet(c->call, t, tag);
}

size_t shmemi_reduce_size(const char *call, int op, int type)
{
    if (type < 0 || type >= SHMEMX_TYPE_COUNT)
        shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "type %d, 0 to %d exist", type, SHMEMX_TYPE_COUNT - 1);
    else if (op < 0 || op >= SHMEMX_REDUCE_OP_COUNT)
        shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "operation %d, 0 to %d exist", op, SHMEMX_REDUCE_OP_COUNT - 1);
    else if (!types[type].fn[op])
        shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "%s of %s does not exist", ops[op], types[type].name);
    else
        return types[type].size;
    return 0;
}

/* Logs what is wrong with the arguments, if anything. */
static int check(struct shmemi_coll *c, int op, int type, const void *dest, const void *source, size_t nelems)
{
    size_t size = shmemi_reduce_size(c->call, op, type);
    if (size == 0)
        return SHMEMX_ERR_ARGUMENT;
    size_t align = size < 16 ? size : 16, bytes;
    if (__builtin_mul_overflow(nelems, size, &bytes))
        bytes = SIZE_MAX; /* fails the address check */
    int rc = shmemi_coll_buffers(c, dest, bytes, source, bytes);
    if (rc)
        return rc;
    if (nelems && ((uintptr_t)dest % align || (uintptr_t)source % align))
        return shmemi_fail(SHMEMX_ERR_ADDRESS, c->call, "dest %p or source %p is not aligned for %s", dest,
                           source, types[type].name);
    if (dest != source && shmemi_overlap(dest, bytes, source, bytes))
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, c->call,
                           "dest [%p, +%zu) and source [%p, +%zu) overlap in part", dest, bytes, source,
                           bytes);
    return SHMEMX_SUCCESS;
}

int shmemi_reduce(const char *call, shmem_team_t team, int op, int type, void *dest, const void *source,
                  size_t nelems)
{
    struct shmemi_coll c;
    int rc = shmemi_coll_enter(call, team, &c);
    if (rc)
        return rc;
    if ((rc = check(&c, op, type, dest, source, nelems)) != 0)
        return shmemi_refuse(call, c.t, rc);
    size_t bytes = nelems * types[type].size;
    uint64_t tag = shmemi_tag(SHMEMI_REDUCE, (unsigned)(op * 256 + type), bytes);
    if (bytes <= SHMEMI_NOTE_ROOM)
        return in_notes(&c, tag, type, types[type].fn[op], dest, source, nelems);
    return (c.t->nnodes == 1 ? in_slices : over_nodes)(&c, tag, type, types[type].fn[op], bytes);
}

/* On either memory. */
static int reduce(const char *call, shmem_team_t team, int op, int type, void *dest, const void *source,
                  size_t nelems)
{
    if (shmemi_both_gpu(dest, source))
        return shmemi_gpu_finish(
            call, shmemx_reduce_on_stream(team, op, type, dest, source, nelems, shmemi_gpu_stream()));
    return shmemi_reduce(call, team, op, type, dest, source, nelems);
}

int shmemi_sum_met(const char *call, shmem_team_t team, int type, void *dest, const void *source,
                   size_t nelems)
{
    struct shmemi_coll c;
    int rc = shmemi_coll_enter(call, team, &c);
    rc = rc ? rc : check(&c, SHMEMX_REDUCE_SUM, type, dest, source, nelems);
    if (rc)
        return rc;
    size_t from, to, bytes = nelems * types[type].size;
    slice(bytes, c.t->me, c.t->n, &from, &to);
    reduce_node(&c, type, types[type].fn[SHMEMX_REDUCE_SUM], from, to, 0, c.t->n);
    return shmemi_meet(call, c.t, shmemi_tag(SHMEMI_REDUCE, (unsigned)type, bytes));
}

int shmemx_reduce(shmem_team_t team, int op, int type, void *dest, const void *source, size_t nelems)
{
    return reduce("shmem_reduce", team, op, type, dest, source, nelems);
}

/* ---- scans ------------------------------------------------------------------------------------------------------------ */

/* The sum of no operands. */
static void clear(struct accumulator *a, size_t n)
{
    memset(a->acc, 0, n * (a->widened ? sizeof(float) : types[a->type].size));
}

/* Every member shows up to a note's room and adds up those before it: no member needs another's memory, so this serves any
 * number of nodes, a piece at a time. dest may be source: a piece is shown before it is written. */
static int scan_notes(const struct shmemi_coll *c, uint64_t tag, int type, reduce_fn *fn, bool exclusive,
                      char *dest, const char *source, size_t bytes)
{
    struct shmemi_team *t = c->t;
    size_t size = types[type].size, piece = SHMEMI_NOTE_ROOM / size * size, at = 0;
    int last = t->me - exclusive; /* -1: nobody is before this one */
    struct accumulator a;
    accumulator_init(&a, type, fn);
    do {
        size_t n = bytes - at < piece ? bytes - at : piece;
        int rc = shmemi_show(c->call, t, tag, source + at, n);
        if (rc || n == 0)
            return rc;
        if (last < 0)
            clear(&a, n / size);
        for (int j = 0; j <= last; ++j)
            take(&a, j == 0, shmemi_note_of(t, j, t->epoch)->data, n / size);
        give(&a, dest + at, n / size);
        at += n;
    } while (at < bytes);
    return SHMEMX_SUCCESS;
}

/* On one node member i owns the i-th slice, as in reductions: it reads every source once and writes every dest. */
static int scan_slices(const struct shmemi_coll *c, uint64_t tag, int type, reduce_fn *fn, bool exclusive,
                       size_t bytes)
{
    struct shmemi_team *t = c->t;
    int rc = shmemi_meet(c->call, t, tag);
    if (rc)
        return rc;
    struct accumulator a;
    accumulator_init(&a, type, fn);
    size_t from, to, size = types[type].size, block = BLOCK_BYTES / size * size;
    slice(bytes, t->me, t->n, &from, &to);
    for (size_t at = from; at < to; at += block) {
        size_t n = (to - at < block ? to - at : block) / size;
        struct shmemi_place s = c->source, d = c->dest;
        s.offset += at;
        d.offset += at;
        clear(&a, n);
        for (int j = 0; j < t->n; ++j) {
            load(&a, a.in, shmemi_map(t->pes[j], s), n); /* before dest, which may be the same, is written */
            if (exclusive)
                give(&a, shmemi_map(t->pes[j], d), n);
            if (j == 0)
                memcpy(a.acc, a.in, n * (a.widened ? sizeof(float) : size)); /* not 0 + in: -0.0 stays */
            else
                fn(a.acc, a.in, n);
            if (!exclusive)
                give(&a, shmemi_map(t->pes[j], d), n);
        }
    }
    return shmemi_meet(c->call, t, tag);
}

int shmemi_scan(const char *call, shmem_team_t team, bool exclusive, int type, void *dest, const void *source,
                size_t nelems)
{
    struct shmemi_coll c;
    if (shmemi_both_gpu(dest, source))
        return shmemi_gpu_finish(
            call, shmemx_scan_on_stream(team, exclusive, type, dest, source, nelems, shmemi_gpu_stream()));
    int rc = shmemi_coll_enter(call, team, &c);
    if (rc)
        return rc;
    if ((rc = check(&c, SHMEMX_REDUCE_SUM, type, dest, source, nelems)) != 0)
        return shmemi_refuse(call, c.t, rc);
    reduce_fn *fn = types[type].fn[SHMEMX_REDUCE_SUM];
    size_t bytes = nelems * types[type].size;
    uint64_t tag = shmemi_tag(SHMEMI_SCAN, (unsigned)(exclusive * 256 + type), bytes);
    if (bytes > SHMEMI_NOTE_ROOM && c.t->nnodes == 1)
        return scan_slices(&c, tag, type, fn, exclusive, bytes);
    return scan_notes(&c, tag, type, fn, exclusive, dest, source, bytes);
}

int shmemx_scan(shmem_team_t team, int exclusive, int type, void *dest, const void *source, size_t nelems)
{
    return shmemi_scan("shmem_scan", team, exclusive != 0, type, dest, source, nelems);
}

/* ---- the standard's names ------------------------------------------------------------------------------------------- */

#define REDUCE(NAME, T, CORE, OPNAME, OP)                                                                    \
    int shmem_##NAME##_##OPNAME##_reduce(shmem_team_t team, T *dest, const T *source, size_t n)              \
    {                                                                                                        \
        return reduce("shmem_" #NAME "_" #OPNAME "_reduce", team, OP, CORE, dest, source, n);                \
    }
#define BITWISE_CALLS(NAME, T, CORE)                                                                         \
    REDUCE(NAME, T, CORE, and, SHMEMX_REDUCE_AND)                                                            \
    REDUCE(NAME, T, CORE, or, SHMEMX_REDUCE_OR)                                                              \
    REDUCE(NAME, T, CORE, xor, SHMEMX_REDUCE_XOR)
#define ORDERED_CALLS(NAME, T, CORE)                                                                         \
    REDUCE(NAME, T, CORE, max, SHMEMX_REDUCE_MAX)                                                            \
    REDUCE(NAME, T, CORE, min, SHMEMX_REDUCE_MIN)
#define ARITHMETIC_CALLS(NAME, T, CORE)                                                                      \
    REDUCE(NAME, T, CORE, sum, SHMEMX_REDUCE_SUM)                                                            \
    REDUCE(NAME, T, CORE, prod, SHMEMX_REDUCE_PROD)
SHMEM_TYPES_REDUCE_BITWISE(BITWISE_CALLS)
SHMEM_TYPES_REDUCE_ORDERED(ORDERED_CALLS)
SHMEM_TYPES_REDUCE_ORDERED(ARITHMETIC_CALLS)
SHMEM_TYPES_COMPLEX(ARITHMETIC_CALLS)

#define SCAN_CALLS(NAME, T, CORE)                                                                            \
    int shmem_##NAME##_sum_inscan(shmem_team_t team, T *dest, const T *source, size_t n)                     \
    {                                                                                                        \
        return shmemi_scan("shmem_" #NAME "_sum_inscan", team, false, CORE, dest, source, n);                \
    }                                                                                                        \
    int shmem_##NAME##_sum_exscan(shmem_team_t team, T *dest, const T *source, size_t n)                     \
    {                                                                                                        \
        return shmemi_scan("shmem_" #NAME "_sum_exscan", team, true, CORE, dest, source, n);                 \
    }
SHMEM_TYPES_REDUCE_ORDERED(SCAN_CALLS)
SHMEM_TYPES_COMPLEX(SCAN_CALLS)
