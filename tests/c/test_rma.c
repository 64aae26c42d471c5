/* put, get and their relatives: every typed and sized form, every stride, unaligned and large messages.
 *
 * Each row of `kinds` wraps one type's calls, made from the type tables; the tests below know only bytes. In
 * exchange `shift` each PE writes to (or reads from) the PE `shift` further on, so each is target of one. */
#include "pes.h"

enum { COUNT = 301, STRIDES = 7, SLACK = 4, LARGE = 8 << 20 };

enum put_form {
    PUT,
    PUT_NBI,
    CTX_PUT,
    CTX_PUT_NBI,
    SIGNAL,
    SIGNAL_NBI,
    CTX_SIGNAL,
    CTX_SIGNAL_NBI,
    PUT_FORMS
};
enum get_form { GET, GET_NBI, CTX_GET, CTX_GET_NBI, GET_FORMS };

struct kind {
    const char *name;
    size_t size;
    void (*make)(void *p, unsigned x);
    bool (*is)(const void *p, unsigned x);
    void (*put)(int form, void *dest, const void *source, size_t n, uint64_t *sig, int pe);
    void (*get)(int form, void *dest, const void *source, size_t n, int pe);
    void (*iput)(int ctx, void *dest, const void *source, ptrdiff_t dst, ptrdiff_t sst, size_t n, int pe);
    void (*iget)(int ctx, void *dest, const void *source, ptrdiff_t dst, ptrdiff_t sst, size_t n, int pe);
    void (*p)(int ctx, void *dest, const void *value, int pe); /* NULL for the sized forms */
    void (*g)(int ctx, void *value, const void *source, int pe);
};

static shmem_ctx_t ctx;

/* PUT_ .. CTX_IGET_ are the names of the calls; the nbi and signal forms are made by appending. */
#define DEFINE_CALLS(ID, T, PUT_, GET_, IPUT_, IGET_, CTX_PUT_, CTX_GET_, CTX_IPUT_, CTX_IGET_)              \
    static void make_##ID(void *p, unsigned x)                                                               \
    {                                                                                                        \
        *(T *)p = VALUE(T, x);                                                                               \
    }                                                                                                        \
    static bool is_##ID(const void *p, unsigned x)                                                           \
    {                                                                                                        \
        return *(const T *)p == VALUE(T, x);                                                                 \
    }                                                                                                        \
    static void put_##ID(int form, void *dest, const void *source, size_t n, uint64_t *sig, int pe)          \
    {                                                                                                        \
        switch (form) {                                                                                      \
        case PUT:                                                                                            \
            PUT_(dest, source, n, pe);                                                                       \
            break;                                                                                           \
        case PUT_NBI:                                                                                        \
            PUT_##_nbi(dest, source, n, pe);                                                                 \
            break;                                                                                           \
        case CTX_PUT:                                                                                        \
            CTX_PUT_(ctx, dest, source, n, pe);                                                              \
            break;                                                                                           \
        case CTX_PUT_NBI:                                                                                    \
            CTX_PUT_##_nbi(ctx, dest, source, n, pe);                                                        \
            break;                                                                                           \
        case SIGNAL:                                                                                         \
            PUT_##_signal(dest, source, n, sig, 1, SHMEM_SIGNAL_SET, pe);                                    \
            break;                                                                                           \
        case SIGNAL_NBI:                                                                                     \
            PUT_##_signal_nbi(dest, source, n, sig, 1, SHMEM_SIGNAL_ADD, pe);                                \
            break;                                                                                           \
        case CTX_SIGNAL:                                                                                     \
            CTX_PUT_##_signal(ctx, dest, source, n, sig, 1, SHMEM_SIGNAL_ADD, pe);                           \
            break;                                                                                           \
        default:                                                                                             \
            CTX_PUT_##_signal_nbi(ctx, dest, source, n, sig, 1, SHMEM_SIGNAL_SET, pe);                       \
        }                                                                                                    \
    }                                                                                                        \
    static void get_##ID(int form, void *dest, const void *source, size_t n, int pe)                         \
    {                                                                                                        \
        switch (form) {                                                                                      \
        case GET:                                                                                            \
            GET_(dest, source, n, pe);                                                                       \
            break;                                                                                           \
        case GET_NBI:                                                                                        \
            GET_##_nbi(dest, source, n, pe);                                                                 \
            shmem_quiet();                                                                                   \
            break;                                                                                           \
        case CTX_GET:                                                                                        \
            CTX_GET_(ctx, dest, source, n, pe);                                                              \
            break;                                                                                           \
        default:                                                                                             \
            CTX_GET_##_nbi(ctx, dest, source, n, pe);                                                        \
            shmem_ctx_quiet(ctx);                                                                            \
        }                                                                                                    \
    }                                                                                                        \
    static void iput_##ID(int with, void *dest, const void *source, ptrdiff_t dst, ptrdiff_t sst, size_t n,  \
                          int pe)                                                                            \
    {                                                                                                        \
        if (with)                                                                                            \
            CTX_IPUT_(ctx, dest, source, dst, sst, n, pe);                                                   \
        else                                                                                                 \
            IPUT_(dest, source, dst, sst, n, pe);                                                            \
    }                                                                                                        \
    static void iget_##ID(int with, void *dest, const void *source, ptrdiff_t dst, ptrdiff_t sst, size_t n,  \
                          int pe)                                                                            \
    {                                                                                                        \
        if (with)                                                                                            \
            CTX_IGET_(ctx, dest, source, dst, sst, n, pe);                                                   \
        else                                                                                                 \
            IGET_(dest, source, dst, sst, n, pe);                                                            \
    }

#define DEFINE_TYPED(NAME, T, CORE)                                                                          \
    DEFINE_CALLS(NAME, T, shmem_##NAME##_put, shmem_##NAME##_get, shmem_##NAME##_iput, shmem_##NAME##_iget,  \
                 shmem_ctx_##NAME##_put, shmem_ctx_##NAME##_get, shmem_ctx_##NAME##_iput,                    \
                 shmem_ctx_##NAME##_iget)                                                                    \
    static void p_##NAME(int with, void *dest, const void *value, int pe)                                    \
    {                                                                                                        \
        if (with)                                                                                            \
            shmem_ctx_##NAME##_p(ctx, dest, *(const T *)value, pe);                                          \
        else                                                                                                 \
            shmem_##NAME##_p(dest, *(const T *)value, pe);                                                   \
    }                                                                                                        \
    static void g_##NAME(int with, void *value, const void *source, int pe)                                  \
    {                                                                                                        \
        *(T *)value = with ? shmem_ctx_##NAME##_g(ctx, source, pe) : shmem_##NAME##_g(source, pe);           \
    }
SHMEM_TYPES_RMA(DEFINE_TYPED)

typedef uint8_t bits8;
typedef uint16_t bits16;
typedef uint32_t bits32;
typedef uint64_t bits64;
typedef unsigned __int128 bits128;
#define DEFINE_SIZED(BITS)                                                                                   \
    DEFINE_CALLS(bits##BITS, bits##BITS, shmem_put##BITS, shmem_get##BITS, shmem_iput##BITS,                 \
                 shmem_iget##BITS, shmem_ctx_put##BITS, shmem_ctx_get##BITS, shmem_ctx_iput##BITS,           \
                 shmem_ctx_iget##BITS)
SHMEM_SIZES(DEFINE_SIZED)

static const struct kind kinds[] = {
#define ROW(ID, T, P, G) {#ID, sizeof(T), make_##ID, is_##ID, put_##ID, get_##ID, iput_##ID, iget_##ID, P, G},
#define TYPED_ROW(NAME, T, CORE) ROW(NAME, T, p_##NAME, g_##NAME)
#define SIZED_ROW(BITS) ROW(bits##BITS, bits##BITS, NULL, NULL)
    SHMEM_TYPES_RMA(TYPED_ROW) SHMEM_SIZES(SIZED_ROW)};
enum { KINDS = sizeof kinds / sizeof *kinds };

static unsigned char *zone, *window; /* symmetric: written by puts, read by gets */
static unsigned char *local;         /* private */
static uint64_t *signal_word;
static unsigned salt;
static const unsigned untouched = 77;

static int to, from; /* whom this PE writes to and who writes here, in the exchange going on */

static void aim(int shift)
{
    to = (me + shift) % npes;
    from = (me - shift % npes + npes) % npes;
}

static void fill(const struct kind *k, unsigned char *p, size_t n, int who)
{
    for (size_t i = 0; i < n; i++)
        k->make(p + i * k->size, mix(who, i, salt));
}

static void blank(const struct kind *k, unsigned char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        k->make(p + i * k->size, untouched);
}

/* Element i of `n` from `who` lies at i * stride, and nothing else of `all` elements was written. */
static void expect(const struct kind *k, const char *what, const unsigned char *p, size_t n, size_t stride,
                   size_t all, int who, size_t source_stride)
{
    size_t first = SIZE_MAX;
    for (size_t at = all; at-- > 0;) {
        bool written = at % stride == 0 && at / stride < n;
        unsigned x = written ? mix(who, at / stride * source_stride, salt) : untouched;
        if (!k->is(p + at * k->size, x))
            first = at;
    }
    CHECK(first == SIZE_MAX, "%s %s of %zu elements at stride %zu from PE %d: element %zu is wrong", k->name,
          what, n, stride, who, first);
}

static void test_put(const struct kind *k, int form, size_t n)
{
    salt++;
    fill(k, local, n, me);
    blank(k, zone, n + SLACK);
    *signal_word = 0;
    shmem_barrier_all();
    k->put(form, zone, local, n, signal_word, to);
    if (form >= SIGNAL) {
        shmem_signal_wait_until(signal_word, SHMEM_CMP_EQ,
                                1); /* and then the data is there, no barrier needed */
        expect(k, "put_signal", zone, n, 1, n + SLACK, from, 1);
        shmem_quiet();
        shmem_ctx_quiet(ctx);
    } else if (form == CTX_PUT_NBI) {
        shmem_ctx_quiet(ctx);
    }
    shmem_barrier_all();
    expect(k, "put", zone, n, 1, n + SLACK, from, 1);
}

static void test_get(const struct kind *k, int form, size_t n)
{
    salt++;
    shmem_barrier_all();
    fill(k, window, n, me);
    blank(k, local, n + SLACK);
    shmem_barrier_all();
    k->get(form, local, window, n, to);
    expect(k, "get", local, n, 1, n + SLACK, to, 1);
}

static void test_element(const struct kind *k, int with)
{
    enum { N = 9 };
    salt++;
    blank(k, zone, N + SLACK);
    shmem_barrier_all();
    for (size_t i = 0; i < N; i++) {
        _Alignas(16) unsigned char value[16];
        k->make(value, mix(me, i, salt));
        k->p(with, zone + i * k->size, value, to);
    }
    shmem_ctx_quiet(ctx);
    shmem_barrier_all();
    expect(k, "p", zone, N, 1, N + SLACK, from, 1);
    for (size_t i = 0; i < N; i++) {
        _Alignas(16) unsigned char value[16];
        k->g(with, value, zone + i * k->size, to);
        CHECK(k->is(value, mix(me, i, salt)), "%s g of element %zu from PE %d", k->name, i, to);
    }
    shmem_barrier_all();
}

static void test_strided(const struct kind *k, int with, size_t dst, size_t sst, size_t n)
{
    size_t all = n * dst + SLACK;
    salt++;
    fill(k, local, n * sst, me);
    blank(k, zone, all);
    shmem_barrier_all();
    k->iput(with, zone, local, (ptrdiff_t)dst, (ptrdiff_t)sst, n, to);
    shmem_ctx_quiet(ctx);
    shmem_barrier_all();
    expect(k, "iput", zone, n, dst, all, from, sst);

    salt++;
    fill(k, window, n * sst, me);
    blank(k, local, all);
    shmem_barrier_all();
    k->iget(with, local, window, (ptrdiff_t)dst, (ptrdiff_t)sst, n, to);
    expect(k, "iget", local, n, dst, all, to, sst);
}

static void test_kind(const struct kind *k)
{
    static const size_t counts[] = {0, 1, 7, 64, COUNT};
    for (int form = 0; form < PUT_FORMS; form++)
        for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
            test_put(k, form, counts[i]);
    for (int form = 0; form < GET_FORMS; form++)
        for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
            test_get(k, form, counts[i]);
    for (int with = 0; with < 2 && k->p; with++)
        test_element(k, with);
    for (size_t dst = 1; dst <= STRIDES; dst++)
        for (size_t sst = 1; sst <= STRIDES; sst++)
            test_strided(k, (dst + sst) % 2, dst, sst, (dst * sst) % 3 == 0 ? 40 : 5);
    test_strided(k, 0, 2, 3, 0);
    test_strided(k, 1, 3, 2, 1);
}

/* Byte by byte at any alignment of either side. */
static void test_unaligned(void)
{
    for (unsigned round = 0; round < 300; round++) {
        size_t n = common_random(200), dest_at = common_random(17), source_at = common_random(17);
        salt++;
        memset(zone, 0xee, 256);
        for (size_t i = 0; i < n; i++)
            local[source_at + i] = (unsigned char)mix(me, i, salt);
        shmem_barrier_all();
        if (round % 2)
            shmem_putmem(zone + dest_at, local + source_at, n, to);
        else
            shmem_ctx_putmem_nbi(ctx, zone + dest_at, local + source_at, n, to);
        shmem_ctx_quiet(ctx);
        shmem_barrier_all();
        size_t wrong = 256;
        for (size_t i = 0; i < 256; i++) {
            bool written = i >= dest_at && i < dest_at + n;
            if (zone[i] != (written ? (unsigned char)mix(from, i - dest_at, salt) : 0xee))
                wrong = i;
        }
        CHECK(wrong == 256, "putmem of %zu bytes to offset %zu: byte %zu is wrong", n, dest_at, wrong);
        memset(local, 0xdd, 256);
        if (round % 2)
            shmem_getmem(local + source_at, zone + dest_at, n, to);
        else
            shmem_ctx_getmem(ctx, local + source_at, zone + dest_at, n, to);
        for (size_t i = 0; i < 256; i++) {
            bool written = i >= source_at && i < source_at + n;
            if (local[i] != (written ? (unsigned char)mix(me, i - source_at, salt) : 0xdd))
                wrong = i;
        }
        CHECK(wrong == 256, "getmem of %zu bytes from offset %zu: byte %zu is wrong", n, dest_at, wrong);
        shmem_barrier_all();
    }
}

/* The untyped strided core takes any element size. */
static void test_odd_elements(void)
{
    enum { ELEMENT = 5, N = 11 };
    memset(zone, 0, 1024);
    for (size_t i = 0; i < ELEMENT * N * 3; i++)
        local[i] = (unsigned char)mix(me, i, 0);
    shmem_barrier_all();
    CHECK(shmemx_iput(SHMEM_CTX_DEFAULT, zone, local, 2, 3, ELEMENT, N, to) == 0, "%s", shmemx_last_error());
    shmem_barrier_all();
    for (size_t i = 0; i < N; i++)
        for (size_t b = 0; b < ELEMENT; b++) {
            unsigned char want = (unsigned char)mix(from, i * 3 * ELEMENT + b, 0);
            CHECK(zone[i * 2 * ELEMENT + b] == want, "byte %zu of element %zu: %d, not %d", b, i,
                  zone[i * 2 * ELEMENT + b], want);
            CHECK(zone[(i * 2 + 1) * ELEMENT + b] == 0, "byte %zu of the gap after element %zu", b, i);
        }
    memset(local, 0, 1024);
    CHECK(shmemx_iget(ctx, local, zone, 3, 2, ELEMENT, N, to) == 0, "%s", shmemx_last_error());
    for (size_t i = 0; i < N; i++)
        CHECK(memcmp(local + i * 3 * ELEMENT, (unsigned char[]){(unsigned char)mix(me, i * 3 * ELEMENT, 0)},
                     1) == 0,
              "element %zu back", i);
    shmem_barrier_all();
}

static void test_large(void)
{
    uint64_t *target = pes_alloc(LARGE), *mine = pes_private(LARGE);
    size_t n = LARGE / sizeof *mine;
    for (size_t i = 0; i < n; i++)
        mine[i] = (uint64_t)me << 56 | i * 2654435761u;
    shmem_put64(target, mine, n, to);
    shmem_barrier_all();
    size_t wrong = 0;
    for (size_t i = 0; i < n; i++)
        wrong += target[i] != ((uint64_t)from << 56 | i * 2654435761u);
    CHECK(wrong == 0, "%zu of %zu words of PE %d's large put are wrong", wrong, n, from);
    memset(mine, 0, LARGE);
    shmem_getmem_nbi((char *)mine + 1, (char *)target + 1, LARGE - 2, to);
    shmem_quiet();
    wrong = 0;
    for (size_t i = 1; i + 1 < n; i++)
        wrong += mine[i] != ((uint64_t)me << 56 | i * 2654435761u);
    CHECK(wrong == 0, "%zu words of PE %d's large get are wrong", wrong, to);
    free(mine);
    shmem_free(target);
}

int main(void)
{
    pes_begin();
    size_t bytes = (size_t)(COUNT + SLACK) * 16 + 64;
    zone = pes_alloc(bytes);
    window = pes_alloc(bytes);
    signal_word = pes_alloc(sizeof *signal_word);
    local = pes_private(bytes);
    CHECK(shmem_ctx_create(0, &ctx) == 0, "%s", shmemx_last_error());
    int shifts[] = {0, 1, npes - 1};
    for (size_t i = 0; i < 3; i++) {
        if (i > 0 && shifts[i] <= shifts[i - 1])
            continue; /* few PEs: had that */
        aim(shifts[i]);
        for (size_t k = 0; k < KINDS; k++)
            test_kind(&kinds[k]);
        test_unaligned();
        test_odd_elements();
        test_large();
    }
    shmem_ctx_destroy(ctx);
    free(local);
    return pes_end();
}
