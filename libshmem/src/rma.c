/* RMA: put, get, p, g, strided and block-strided forms, nbi. Each call: check context, PE and address, then the peer's transport. */
#include <stdlib.h>
#include <string.h>

#include "base/gpu.h"
#include "world.h"

/* ---- the core ----------------------------------------------------------------------------------------------------- */

/* GPU memory here, and there memory to which a network leads that cannot read this? It can the GPU heap where it serves
 * such heaps. */
SHMEMI_INLINE bool apart(const struct shmemi_transport *t, int pe, struct shmemi_place p, const void *local)
{
    return SHMEMI_UNLIKELY(shmemi_world.gpu_route != NULL) && t == shmemi_world.gpu_route[pe] &&
           !t->map(pe, p.segment, p.offset) && shmemi_is_gpu(local) &&
           (!t->address || shmemi_kind(local) != SHMEMX_MEM_DEVICE);
}

/* A put (`out`) or get by way of host memory, a piece at a time; `gpu` is the side here. */
enum { STAGE_BYTES = 1 << 20 };

static SHMEMI_COLD int staged(const char *call, bool out, struct shmemi_place p, char *gpu, size_t n, int pe,
                              unsigned how)
{
    const struct shmemi_transport *t = shmemi_route(pe, p.segment, NULL);
    char *stage = malloc(STAGE_BYTES);
    how = shmemi_how(false, shmemi_context(how));
    int rc = stage ? 0 : shmemi_fail(SHMEMX_ERR_SYSTEM, call, "out of memory for %d bytes", STAGE_BYTES);
    for (size_t at = 0; at < n && rc == 0; at += STAGE_BYTES) {
        size_t piece = n - at < STAGE_BYTES ? n - at : STAGE_BYTES;
        if (!out)
            rc = t->get(pe, p.segment, p.offset + at, stage, piece, how);
        rc = rc ? rc
                : shmemi_gpu_copy(call, out ? stage : gpu + at, out ? gpu + at : stage, piece,
                                  shmemi_gpu_stream());
        rc = rc ? rc : shmemi_gpu_sync(call, shmemi_gpu_stream());
        if (out && rc == 0)
            rc = t->put(pe, p.segment, p.offset + at, stage, piece, how);
    }
    free(stage);
    return rc;
}

/* `align`: of the elements. */
SHMEMI_INLINE int put_core(const char *call, shmem_ctx_t ctx, void *dest, size_t align, const void *source,
                           size_t n, int pe, bool nbi)
{
    struct shmemi_place p;
    unsigned how;
    int rc = shmemi_check_issue(call, ctx, &pe, nbi, &how);
    if (SHMEMI_UNLIKELY(rc != 0))
        return rc;
    if (SHMEMI_UNLIKELY(n == 0))
        return SHMEMX_SUCCESS;
    if (SHMEMI_UNLIKELY((rc = shmemi_locate_typed(call, "dest", dest, n, align, &p)) != 0))
        return rc;
    if (shmemi_suspect(source) && (rc = shmemi_check_local(call, "source", source, n, align)) != 0)
        return rc;
    const struct shmemi_transport *t = shmemi_route(pe, p.segment, source);
    if (SHMEMI_UNLIKELY(apart(t, pe, p, source)))
        return staged(call, true, p, (char *)(uintptr_t)source, n, pe, how);
    return t->put(pe, p.segment, p.offset, source, n, how);
}

SHMEMI_INLINE int get_core(const char *call, shmem_ctx_t ctx, void *dest, size_t align, const void *source,
                           size_t n, int pe, bool nbi)
{
    struct shmemi_place p;
    unsigned how;
    int rc = shmemi_check_issue(call, ctx, &pe, nbi, &how);
    if (SHMEMI_UNLIKELY(rc != 0))
        return rc;
    if (SHMEMI_UNLIKELY(n == 0))
        return SHMEMX_SUCCESS;
    if (SHMEMI_UNLIKELY((rc = shmemi_locate_typed(call, "source", source, n, align, &p)) != 0))
        return rc;
    if (shmemi_suspect(dest) && (rc = shmemi_check_local(call, "dest", dest, n, align)) != 0)
        return rc;
    const struct shmemi_transport *t = shmemi_route(pe, p.segment, dest);
    if (SHMEMI_UNLIKELY(apart(t, pe, p, dest)))
        return staged(call, false, p, dest, n, pe, how);
    return t->get(pe, p.segment, p.offset, dest, n, how);
}

/* One copy of each for all calls but p and g, which the compiler can shorten. */
static __attribute__((noinline)) int put_elements(const char *call, shmem_ctx_t ctx, void *dest, size_t align,
                                                  const void *source, size_t n, int pe, bool nbi)
{
    return put_core(call, ctx, dest, align, source, n, pe, nbi);
}

static __attribute__((noinline)) int get_elements(const char *call, shmem_ctx_t ctx, void *dest, size_t align,
                                                  const void *source, size_t n, int pe, bool nbi)
{
    return get_core(call, ctx, dest, align, source, n, pe, nbi);
}

/* The same with the alignment that the pointers' type asks for; 1 for void. */
#define put(call, ctx, dest, ...) put_elements(call, ctx, dest, __alignof__(*(dest)), __VA_ARGS__)
#define get(call, ctx, dest, ...) get_elements(call, ctx, dest, __alignof__(*(dest)), __VA_ARGS__)

int shmemx_put(shmem_ctx_t ctx, void *dest, const void *source, size_t nbytes, int pe)
{
    return put("shmem_put", ctx, dest, source, nbytes, pe, false);
}

int shmemx_get(shmem_ctx_t ctx, void *dest, const void *source, size_t nbytes, int pe)
{
    return get("shmem_get", ctx, dest, source, nbytes, pe, false);
}

int shmemx_put_nbi(shmem_ctx_t ctx, void *dest, const void *source, size_t nbytes, int pe)
{
    return put("shmem_put_nbi", ctx, dest, source, nbytes, pe, true);
}

int shmemx_get_nbi(shmem_ctx_t ctx, void *dest, const void *source, size_t nbytes, int pe)
{
    return get("shmem_get_nbi", ctx, dest, source, nbytes, pe, true);
}

/* ---- strided -------------------------------------------------------------------------------------------------------- */

static inline void strided_as(char *d, const char *s, size_t dstep, size_t sstep, size_t size, size_t n)
{
    for (size_t i = 0; i < n; ++i, d += dstep, s += sstep)
        memcpy(d, s, size);
}

/* Element copies of a constant size are single moves. */
static void strided_copy(char *d, const char *s, size_t dstep, size_t sstep, size_t size, size_t n)
{
    switch (size) {
    case 1:
        strided_as(d, s, dstep, sstep, 1, n);
        break;
    case 2:
        strided_as(d, s, dstep, sstep, 2, n);
        break;
    case 4:
        strided_as(d, s, dstep, sstep, 4, n);
        break;
    case 8:
        strided_as(d, s, dstep, sstep, 8, n);
        break;
    case 16:
        strided_as(d, s, dstep, sstep, 16, n);
        break;
    default:
        strided_as(d, s, dstep, sstep, size, n);
    }
}

/* Bytes that n blocks of bsize elements span. */
static bool span(size_t n, size_t stride, size_t bsize, size_t size, size_t *bytes)
{
    return __builtin_mul_overflow(n ? n - 1 : 0, stride, bytes) ||
           __builtin_add_overflow(*bytes, bsize, bytes) || __builtin_mul_overflow(*bytes, size, bytes);
}

static int block_spans(const char *call, ptrdiff_t dst, ptrdiff_t sst, size_t size, size_t bsize, size_t n,
                       size_t *dspan, size_t *sspan)
{
    if (dst < 1 || sst < 1 || (size_t)dst < bsize || (size_t)sst < bsize)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "strides dst %td, sst %td; they start at %zu", dst, sst,
                           bsize);
    if (size == 0)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "elements of 0 bytes");
    if (span(n, (size_t)dst, bsize, size, dspan) || span(n, (size_t)sst, bsize, size, sspan))
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call,
                           "%zu times %zu elements of %zu bytes at strides %td, %td overflow", n, bsize, size,
                           dst, sst);
    return SHMEMX_SUCCESS;
}

int shmemi_spans(const char *call, ptrdiff_t dst, ptrdiff_t sst, size_t size, size_t n, size_t *dspan,
                 size_t *sspan)
{
    return block_spans(call, dst, sst, size, 1, n, dspan, sspan);
}

/* n blocks of bsize elements; iput's have one. Below, a block is one element of bsize * size bytes. */
static int ibput_elements(const char *call, shmem_ctx_t ctx, void *dest, size_t align, const void *source,
                          ptrdiff_t dst, ptrdiff_t sst, size_t size, size_t bsize, size_t n, int pe)
{
    struct shmemi_place p;
    size_t dspan, sspan;
    int number = pe, rc = shmemi_check_pe(call, ctx, &number); /* of the world */
    if (rc || n == 0 || bsize == 0 ||
        (rc = block_spans(call, dst, sst, size, bsize, n, &dspan, &sspan)) != 0 ||
        (rc = shmemi_locate_typed(call, "dest", dest, dspan, align, &p)) != 0)
        return rc;
    if (shmemi_suspect(source) && (rc = shmemi_check_local(call, "source", source, sspan, align)) != 0)
        return rc;
    size_t dstep = (size_t)dst * size, sstep = (size_t)sst * size;
    size *= bsize;
    const struct shmemi_transport *t = shmemi_route(number, p.segment, source);
    char *d = t->map(number, p.segment, p.offset);
    if (d && t == shmemi_world.route[number]) {
        strided_copy(d, source, dstep, sstep, size, n);
        return SHMEMX_SUCCESS;
    }
    if (d && t->strided)
        return t->strided(d, dstep, source, sstep, size, n);
    for (size_t i = 0; i < n && rc == 0; ++i)
        rc = put_elements(call, ctx, (char *)dest + i * dstep, align, (const char *)source + i * sstep, size,
                          pe, false);
    return rc;
}

static int ibget_elements(const char *call, shmem_ctx_t ctx, void *dest, size_t align, const void *source,
                          ptrdiff_t dst, ptrdiff_t sst, size_t size, size_t bsize, size_t n, int pe)
{
    struct shmemi_place p;
    size_t dspan, sspan;
    int number = pe, rc = shmemi_check_pe(call, ctx, &number); /* of the world */
    if (rc || n == 0 || bsize == 0 ||
        (rc = block_spans(call, dst, sst, size, bsize, n, &dspan, &sspan)) != 0 ||
        (rc = shmemi_locate_typed(call, "source", source, sspan, align, &p)) != 0)
        return rc;
    if (shmemi_suspect(dest) && (rc = shmemi_check_local(call, "dest", dest, dspan, align)) != 0)
        return rc;
    size_t dstep = (size_t)dst * size, sstep = (size_t)sst * size;
    size *= bsize;
    const struct shmemi_transport *t = shmemi_route(number, p.segment, dest);
    const char *s = t->map(number, p.segment, p.offset);
    if (s && t == shmemi_world.route[number]) {
        strided_copy(dest, s, dstep, sstep, size, n);
        return SHMEMX_SUCCESS;
    }
    if (s && t->strided)
        return t->strided(dest, dstep, s, sstep, size, n);
    for (size_t i = 0; i < n && rc == 0; ++i)
        rc = get_elements(call, ctx, (char *)dest + i * dstep, align, (const char *)source + i * sstep, size,
                          pe, true);
    return rc ? rc : t->quiet(number, shmemi_ctx_number(ctx));
}

#define ibput(call, ctx, dest, ...) ibput_elements(call, ctx, dest, __alignof__(*(dest)), __VA_ARGS__)
#define ibget(call, ctx, dest, ...) ibget_elements(call, ctx, dest, __alignof__(*(dest)), __VA_ARGS__)
#define iput(call, ctx, dest, source, dst, sst, size, n, pe)                                                 \
    ibput(call, ctx, dest, source, dst, sst, size, 1, n, pe)
#define iget(call, ctx, dest, source, dst, sst, size, n, pe)                                                 \
    ibget(call, ctx, dest, source, dst, sst, size, 1, n, pe)

int(shmemx_ibput)(shmem_ctx_t ctx, void *dest, const void *source, ptrdiff_t dst, ptrdiff_t sst,
                  size_t elem_size, size_t bsize, size_t nblocks, int pe)
{
    return ibput("shmem_ibput", ctx, dest, source, dst, sst, elem_size, bsize, nblocks, pe);
}

int(shmemx_ibget)(shmem_ctx_t ctx, void *dest, const void *source, ptrdiff_t dst, ptrdiff_t sst,
                  size_t elem_size, size_t bsize, size_t nblocks, int pe)
{
    return ibget("shmem_ibget", ctx, dest, source, dst, sst, elem_size, bsize, nblocks, pe);
}

int shmemx_iput(shmem_ctx_t ctx, void *dest, const void *source, ptrdiff_t dst, ptrdiff_t sst,
                size_t elem_size, size_t nelems, int pe)
{
    return iput("shmem_iput", ctx, dest, source, dst, sst, elem_size, nelems, pe);
}

int shmemx_iget(shmem_ctx_t ctx, void *dest, const void *source, ptrdiff_t dst, ptrdiff_t sst,
                size_t elem_size, size_t nelems, int pe)
{
    return iget("shmem_iget", ctx, dest, source, dst, sst, elem_size, nelems, pe);
}

/* ---- the standard's names ------------------------------------------------------------------------------------------- */

/* put, get and nbi of n elements of `size` bytes, under every name that has this shape. n * size cannot be a valid
 * range when it overflows: SIZE_MAX then fails the address check, with the message it deserves. */
static inline size_t bytes_of(size_t n, size_t size)
{
    size_t bytes;
    return __builtin_mul_overflow(n, size, &bytes) ? SIZE_MAX : bytes;
}

#define RMA_CALLS(PLAIN, CTX, P, CP, SIZE, SUFFIX)                                                           \
    void PLAIN##put##SUFFIX(P dest, CP source, size_t n, int pe)                                             \
    {                                                                                                        \
        shmemi_void(                                                                                         \
            put(#PLAIN "put" #SUFFIX, SHMEM_CTX_DEFAULT, dest, source, bytes_of(n, SIZE), pe, false));       \
    }                                                                                                        \
    void PLAIN##get##SUFFIX(P dest, CP source, size_t n, int pe)                                             \
    {                                                                                                        \
        shmemi_void(                                                                                         \
            get(#PLAIN "get" #SUFFIX, SHMEM_CTX_DEFAULT, dest, source, bytes_of(n, SIZE), pe, false));       \
    }                                                                                                        \
    void PLAIN##put##SUFFIX##_nbi(P dest, CP source, size_t n, int pe)                                       \
    {                                                                                                        \
        shmemi_void(                                                                                         \
            put(#PLAIN "put" #SUFFIX "_nbi", SHMEM_CTX_DEFAULT, dest, source, bytes_of(n, SIZE), pe, true)); \
    }                                                                                                        \
    void PLAIN##get##SUFFIX##_nbi(P dest, CP source, size_t n, int pe)                                       \
    {                                                                                                        \
        shmemi_void(                                                                                         \
            get(#PLAIN "get" #SUFFIX "_nbi", SHMEM_CTX_DEFAULT, dest, source, bytes_of(n, SIZE), pe, true)); \
    }                                                                                                        \
    void CTX##put##SUFFIX(shmem_ctx_t ctx, P dest, CP source, size_t n, int pe)                              \
    {                                                                                                        \
        shmemi_void(put(#CTX "put" #SUFFIX, ctx, dest, source, bytes_of(n, SIZE), pe, false));               \
    }                                                                                                        \
    void CTX##get##SUFFIX(shmem_ctx_t ctx, P dest, CP source, size_t n, int pe)                              \
    {                                                                                                        \
        shmemi_void(get(#CTX "get" #SUFFIX, ctx, dest, source, bytes_of(n, SIZE), pe, false));               \
    }                                                                                                        \
    void CTX##put##SUFFIX##_nbi(shmem_ctx_t ctx, P dest, CP source, size_t n, int pe)                        \
    {                                                                                                        \
        shmemi_void(put(#CTX "put" #SUFFIX "_nbi", ctx, dest, source, bytes_of(n, SIZE), pe, true));         \
    }                                                                                                        \
    void CTX##get##SUFFIX##_nbi(shmem_ctx_t ctx, P dest, CP source, size_t n, int pe)                        \
    {                                                                                                        \
        shmemi_void(get(#CTX "get" #SUFFIX "_nbi", ctx, dest, source, bytes_of(n, SIZE), pe, true));         \
    }

#define STRIDED_CALLS(PLAIN, CTX, P, CP, SIZE, SUFFIX)                                                       \
    void PLAIN##iput##SUFFIX(P dest, CP source, ptrdiff_t dst, ptrdiff_t sst, size_t n, int pe)              \
    {                                                                                                        \
        shmemi_void(iput(#PLAIN "iput" #SUFFIX, SHMEM_CTX_DEFAULT, dest, source, dst, sst, SIZE, n, pe));    \
    }                                                                                                        \
    void PLAIN##iget##SUFFIX(P dest, CP source, ptrdiff_t dst, ptrdiff_t sst, size_t n, int pe)              \
    {                                                                                                        \
        shmemi_void(iget(#PLAIN "iget" #SUFFIX, SHMEM_CTX_DEFAULT, dest, source, dst, sst, SIZE, n, pe));    \
    }                                                                                                        \
    void CTX##iput##SUFFIX(shmem_ctx_t ctx, P dest, CP source, ptrdiff_t dst, ptrdiff_t sst, size_t n,       \
                           int pe)                                                                           \
    {                                                                                                        \
        shmemi_void(iput(#CTX "iput" #SUFFIX, ctx, dest, source, dst, sst, SIZE, n, pe));                    \
    }                                                                                                        \
    void CTX##iget##SUFFIX(shmem_ctx_t ctx, P dest, CP source, ptrdiff_t dst, ptrdiff_t sst, size_t n,       \
                           int pe)                                                                           \
    {                                                                                                        \
        shmemi_void(iget(#CTX "iget" #SUFFIX, ctx, dest, source, dst, sst, SIZE, n, pe));                    \
    }

/* Plain and ctx form of ibput or ibget. */
#define BLOCK_CALLS(PLAIN, CTX, OP, P, CP, SIZE, SUFFIX)                                                     \
    void PLAIN##OP##SUFFIX(P dest, CP source, ptrdiff_t dst, ptrdiff_t sst, size_t bsize, size_t nblocks,    \
                           int pe)                                                                           \
    {                                                                                                        \
        shmemi_void(                                                                                         \
            OP(#PLAIN #OP #SUFFIX, SHMEM_CTX_DEFAULT, dest, source, dst, sst, SIZE, bsize, nblocks, pe));    \
    }                                                                                                        \
    void CTX##OP##SUFFIX(shmem_ctx_t ctx, P dest, CP source, ptrdiff_t dst, ptrdiff_t sst, size_t bsize,     \
                         size_t nblocks, int pe)                                                             \
    {                                                                                                        \
        shmemi_void(OP(#CTX #OP #SUFFIX, ctx, dest, source, dst, sst, SIZE, bsize, nblocks, pe));            \
    }

/* p and g: one element by value. */
#define ELEMENT_CALLS(NAME, T)                                                                               \
    void shmem_##NAME##_p(T *dest, T value, int pe)                                                          \
    {                                                                                                        \
        shmemi_void(put_core("shmem_" #NAME "_p", SHMEM_CTX_DEFAULT, dest, _Alignof(T), &value,              \
                             sizeof value, pe, false));                                                      \
    }                                                                                                        \
    T shmem_##NAME##_g(const T *source, int pe)                                                              \
    {                                                                                                        \
        T value = 0;                                                                                         \
        shmemi_void(get_core("shmem_" #NAME "_g", SHMEM_CTX_DEFAULT, &value, _Alignof(T), source,            \
                             sizeof value, pe, false));                                                      \
        return value;                                                                                        \
    }                                                                                                        \
    void shmem_ctx_##NAME##_p(shmem_ctx_t ctx, T *dest, T value, int pe)                                     \
    {                                                                                                        \
        shmemi_void(                                                                                         \
            put_core("shmem_ctx_" #NAME "_p", ctx, dest, _Alignof(T), &value, sizeof value, pe, false));     \
    }                                                                                                        \
    T shmem_ctx_##NAME##_g(shmem_ctx_t ctx, const T *source, int pe)                                         \
    {                                                                                                        \
        T value = 0;                                                                                         \
        shmemi_void(                                                                                         \
            get_core("shmem_ctx_" #NAME "_g", ctx, &value, _Alignof(T), source, sizeof value, pe, false));   \
        return value;                                                                                        \
    }

#define TYPED(NAME, T, CORE)                                                                                 \
    RMA_CALLS(shmem_##NAME##_, shmem_ctx_##NAME##_, T *, const T *, sizeof(T), )                             \
    STRIDED_CALLS(shmem_##NAME##_, shmem_ctx_##NAME##_, T *, const T *, sizeof(T), )                         \
    BLOCK_CALLS(shmem_##NAME##_, shmem_ctx_##NAME##_, ibput, T *, const T *, sizeof(T), )                    \
    BLOCK_CALLS(shmem_##NAME##_, shmem_ctx_##NAME##_, ibget, T *, const T *, sizeof(T), )                    \
    ELEMENT_CALLS(NAME, T)
SHMEM_TYPES_RMA(TYPED)

#define SIZED(BITS)                                                                                          \
    RMA_CALLS(shmem_, shmem_ctx_, void *, const void *, (BITS) / 8, BITS)                                    \
    STRIDED_CALLS(shmem_, shmem_ctx_, void *, const void *, (BITS) / 8, BITS)                                \
    BLOCK_CALLS(shmem_, shmem_ctx_, ibput, void *, const void *, (BITS) / 8, BITS)                           \
    BLOCK_CALLS(shmem_, shmem_ctx_, ibget, void *, const void *, (BITS) / 8, BITS)
SHMEM_SIZES(SIZED)

RMA_CALLS(shmem_, shmem_ctx_, void *, const void *, 1, mem)
