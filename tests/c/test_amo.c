/* Atomics: every operation on every type, alone and all PEs at once: sums are exact, tickets unique. */
#include "pes.h"

enum { TICKETS = 200 };

static shmem_ctx_t ctx;
static unsigned char
    *cells;       /* 3 elements of the type in test: the middle one is used, the outer ones guard */
static int *seen; /* on PE 0: how often each ticket was drawn */

/* Room for one element between two guards, all zero, on every PE. */
#define OPEN(T)                                                                                              \
    T *cell = (T *)cells + 1;                                                                                \
    T old, expected;                                                                                         \
    const T a = (T)VALUE(T, mix(me, 1, 1)), b = (T)VALUE(T, mix(me, 2, 2));                                  \
    (void)old, (void)expected, (void)a, (void)b;                                                             \
    shmem_barrier_all();                                                                                     \
    memset(cells, 0, 3 * sizeof(T));                                                                         \
    shmem_barrier_all()
#define GUARDS(T, NAME) CHECK(cell[-1] == 0 && cell[1] == 0, #NAME ": a neighbour was written")

/* `call` is made on the cell of the PE `to`, of which this PE is the only user; then the cell is `want`. */
#define STEP(NAME, T, call, want)                                                                            \
    do {                                                                                                     \
        call;                                                                                                \
        shmem_quiet();                                                                                       \
        shmem_ctx_quiet(ctx);                                                                                \
        expected = (want);                                                                                   \
        T now = shmem_##NAME##_g(cell, to);                                                                  \
        CHECK(now == expected, #NAME ": after " #call " %.20g, not %.20g", (double)now, (double)expected);   \
    } while (0)
/* The call also fetches what was there. */
#define FETCH(NAME, T, call, want)                                                                           \
    do {                                                                                                     \
        T before = shmem_##NAME##_g(cell, to);                                                               \
        old = (T)(before + 1);                                                                               \
        STEP(NAME, T, call, want);                                                                           \
        CHECK(old == before, #NAME ": " #call " fetched %.20g, not %.20g", (double)old, (double)before);     \
    } while (0)

#define DEFINE_EXTENDED(NAME, T, CORE)                                                                       \
    static void extended_##NAME(int to)                                                                      \
    {                                                                                                        \
        OPEN(T);                                                                                             \
        STEP(NAME, T, shmem_##NAME##_atomic_set(cell, a, to), a);                                            \
        STEP(NAME, T, shmem_ctx_##NAME##_atomic_set(ctx, cell, b, to), b);                                   \
        FETCH(NAME, T, old = shmem_##NAME##_atomic_fetch(cell, to), b);                                      \
        FETCH(NAME, T, old = shmem_ctx_##NAME##_atomic_fetch(ctx, cell, to), b);                             \
        FETCH(NAME, T, shmem_##NAME##_atomic_fetch_nbi(&old, cell, to), b);                                  \
        FETCH(NAME, T, shmem_ctx_##NAME##_atomic_fetch_nbi(ctx, &old, cell, to), b);                         \
        FETCH(NAME, T, old = shmem_##NAME##_atomic_swap(cell, a, to), a);                                    \
        FETCH(NAME, T, old = shmem_ctx_##NAME##_atomic_swap(ctx, cell, b, to), b);                           \
        FETCH(NAME, T, shmem_##NAME##_atomic_swap_nbi(&old, cell, a, to), a);                                \
        FETCH(NAME, T, shmem_ctx_##NAME##_atomic_swap_nbi(ctx, &old, cell, b, to), b);                       \
        GUARDS(T, NAME);                                                                                     \
    }                                                                                                        \
    /* Tokens 1..npes travel by swap: whatever the order, none is lost and none doubled. */                  \
    static void swaps_##NAME(void)                                                                           \
    {                                                                                                        \
        OPEN(T);                                                                                             \
        T token = (T)(me + 1);                                                                               \
        for (int i = 0; i < TICKETS; i++)                                                                    \
            token = shmem_##NAME##_atomic_swap(cell, token, 0);                                              \
        shmem_int_atomic_inc(&seen[(int)token], 0);                                                          \
        shmem_barrier_all();                                                                                 \
        if (me == 0) {                                                                                       \
            seen[(int)*cell]++;                                                                              \
            for (int i = 0; i <= npes; i++)                                                                  \
                CHECK(seen[i] == 1, #NAME ": token %d is there %d times", i, seen[i]);                       \
            memset(seen, 0, sizeof *seen *(size_t)(npes + 1));                                               \
        }                                                                                                    \
        GUARDS(T, NAME);                                                                                     \
    }
SHMEM_TYPES_AMO_EXTENDED(DEFINE_EXTENDED)

#define DEFINE_STANDARD(NAME, T, CORE)                                                                       \
    static void standard_##NAME(int to)                                                                      \
    {                                                                                                        \
        OPEN(T);                                                                                             \
        T c = 0;                                                                                             \
        STEP(NAME, T, shmem_##NAME##_atomic_add(cell, a, to), c = (T)(c + a));                               \
        STEP(NAME, T, shmem_ctx_##NAME##_atomic_add(ctx, cell, b, to), c = (T)(c + b));                      \
        STEP(NAME, T, shmem_##NAME##_atomic_inc(cell, to), c = (T)(c + 1));                                  \
        STEP(NAME, T, shmem_ctx_##NAME##_atomic_inc(ctx, cell, to), c = (T)(c + 1));                         \
        STEP(NAME, T, shmem_##NAME##_atomic_add(cell, (T) - 3, to), c = (T)(c - 3));                         \
        FETCH(NAME, T, old = shmem_##NAME##_atomic_fetch_add(cell, a, to), c = (T)(c + a));                  \
        FETCH(NAME, T, old = shmem_ctx_##NAME##_atomic_fetch_add(ctx, cell, b, to), c = (T)(c + b));         \
        FETCH(NAME, T, shmem_##NAME##_atomic_fetch_add_nbi(&old, cell, a, to), c = (T)(c + a));              \
        FETCH(NAME, T, shmem_ctx_##NAME##_atomic_fetch_add_nbi(ctx, &old, cell, b, to), c = (T)(c + b));     \
        FETCH(NAME, T, old = shmem_##NAME##_atomic_fetch_inc(cell, to), c = (T)(c + 1));                     \
        FETCH(NAME, T, old = shmem_ctx_##NAME##_atomic_fetch_inc(ctx, cell, to), c = (T)(c + 1));            \
        FETCH(NAME, T, shmem_##NAME##_atomic_fetch_inc_nbi(&old, cell, to), c = (T)(c + 1));                 \
        FETCH(NAME, T, shmem_ctx_##NAME##_atomic_fetch_inc_nbi(ctx, &old, cell, to), c = (T)(c + 1));        \
        FETCH(NAME, T, old = shmem_##NAME##_atomic_compare_swap(cell, c, a, to), c = a);                     \
        FETCH(NAME, T, old = shmem_##NAME##_atomic_compare_swap(cell, (T)(c + 1), b, to), c);                \
        FETCH(NAME, T, old = shmem_ctx_##NAME##_atomic_compare_swap(ctx, cell, c, (T) - 1, to),              \
              c = (T) - 1);                                                                                  \
        FETCH(NAME, T, old = shmem_##NAME##_atomic_compare_swap(cell, (T) - 1, (T) - 9, to), c = (T) - 9);   \
        FETCH(NAME, T, shmem_##NAME##_atomic_compare_swap_nbi(&old, cell, c, a, to), c = a);                 \
        FETCH(NAME, T, shmem_ctx_##NAME##_atomic_compare_swap_nbi(ctx, &old, cell, c, b, to), c = b);        \
        GUARDS(T, NAME);                                                                                     \
    }                                                                                                        \
    /* All PEs at once on PE 0's cell: the sum is exact, and fetch_inc gives each ticket to one. */          \
    static void together_##NAME(void)                                                                        \
    {                                                                                                        \
        OPEN(T);                                                                                             \
        T last = 0, sum = 0;                                                                                 \
        for (int i = 0; i < TICKETS; i++) {                                                                  \
            T ticket = i % 2 ? shmem_##NAME##_atomic_fetch_inc(cell, 0)                                      \
                             : shmem_##NAME##_atomic_fetch_add(cell, 1, 0);                                  \
            CHECK(i == 0 || ticket > last, #NAME ": ticket %ld after %ld", (long)ticket, (long)last);        \
            CHECK((long)ticket < (long)npes * TICKETS, #NAME ": ticket %ld", (long)ticket);                  \
            last = ticket;                                                                                   \
            shmem_int_atomic_inc(&seen[(size_t)ticket % (TICKETS * 64)], 0);                                 \
        }                                                                                                    \
        shmem_barrier_all();                                                                                 \
        for (int i = 0; me == 0 && i < npes * TICKETS; i++) {                                                \
            CHECK(seen[i] == 1, #NAME ": ticket %d was drawn %d times", i, seen[i]);                         \
            seen[i] = 0;                                                                                     \
        }                                                                                                    \
        CHECK(me != 0 || *cell == (T)(npes * TICKETS), #NAME ": %ld drawn", (long)*cell);                    \
        shmem_barrier_all();                                                                                 \
        for (int i = 0; i < TICKETS; i++) {                                                                  \
            shmem_##NAME##_atomic_add(cell, (T)(me + i), 0);                                                 \
            shmem_##NAME##_atomic_inc(cell, 0);                                                              \
            T guess = shmem_##NAME##_atomic_fetch(cell, 0), found;                                           \
            while ((found = shmem_##NAME##_atomic_compare_swap(cell, guess, (T)(guess + 2), 0)) != guess)    \
                guess = found;                                                                               \
        }                                                                                                    \
        shmem_barrier_all();                                                                                 \
        for (int pe = 0; pe < npes; pe++)                                                                    \
            for (int i = 0; i < TICKETS; i++)                                                                \
                sum = (T)(sum + (T)(pe + i) + 4);                                                            \
        CHECK(me != 0 || *cell == sum, #NAME ": sum %ld, not %ld", (long)*cell, (long)sum);                  \
        GUARDS(T, NAME);                                                                                     \
    }
SHMEM_TYPES_AMO(DEFINE_STANDARD)

#define DEFINE_BITWISE(NAME, T, CORE)                                                                        \
    static void bitwise_##NAME(int to)                                                                       \
    {                                                                                                        \
        OPEN(T);                                                                                             \
        T c = 0;                                                                                             \
        STEP(NAME, T, shmem_##NAME##_atomic_or(cell, a, to), c |= a);                                        \
        STEP(NAME, T, shmem_ctx_##NAME##_atomic_or(ctx, cell, b, to), c |= b);                               \
        STEP(NAME, T, shmem_##NAME##_atomic_xor(cell, (T) ~(T)0, to), c = (T)~c);                            \
        STEP(NAME, T, shmem_ctx_##NAME##_atomic_xor(ctx, cell, a, to), c ^= a);                              \
        STEP(NAME, T, shmem_##NAME##_atomic_and(cell, (T)~a, to), c &= (T)~a);                               \
        STEP(NAME, T, shmem_ctx_##NAME##_atomic_and(ctx, cell, (T)~b, to), c &= (T)~b);                      \
        FETCH(NAME, T, old = shmem_##NAME##_atomic_fetch_or(cell, a, to), c |= a);                           \
        FETCH(NAME, T, old = shmem_ctx_##NAME##_atomic_fetch_or(ctx, cell, b, to), c |= b);                  \
        FETCH(NAME, T, shmem_##NAME##_atomic_fetch_or_nbi(&old, cell, (T)16, to), c |= (T)16);               \
        FETCH(NAME, T, shmem_ctx_##NAME##_atomic_fetch_or_nbi(ctx, &old, cell, (T)64, to), c |= (T)64);      \
        FETCH(NAME, T, old = shmem_##NAME##_atomic_fetch_xor(cell, b, to), c ^= b);                          \
        FETCH(NAME, T, old = shmem_ctx_##NAME##_atomic_fetch_xor(ctx, cell, a, to), c ^= a);                 \
        FETCH(NAME, T, shmem_##NAME##_atomic_fetch_xor_nbi(&old, cell, b, to), c ^= b);                      \
        FETCH(NAME, T, shmem_ctx_##NAME##_atomic_fetch_xor_nbi(ctx, &old, cell, a, to), c ^= a);             \
        FETCH(NAME, T, old = shmem_##NAME##_atomic_fetch_and(cell, (T) ~(T)1, to), c &= (T) ~(T)1);          \
        FETCH(NAME, T, old = shmem_ctx_##NAME##_atomic_fetch_and(ctx, cell, (T) ~(T)2, to), c &= (T) ~(T)2); \
        FETCH(NAME, T, shmem_##NAME##_atomic_fetch_and_nbi(&old, cell, (T) ~(T)4, to), c &= (T) ~(T)4);      \
        FETCH(NAME, T, shmem_ctx_##NAME##_atomic_fetch_and_nbi(ctx, &old, cell, a, to), c &= a);             \
        GUARDS(T, NAME);                                                                                     \
    }                                                                                                        \
    /* Each PE owns one bit of PE 0's cell and sees it as it left it, whatever the others do. */             \
    static void bits_##NAME(void)                                                                            \
    {                                                                                                        \
        OPEN(T);                                                                                             \
        const T mine = (T)((T)1 << me % 31);                                                                 \
        for (int i = 0; i < TICKETS && me < 31; i++) {                                                       \
            CHECK(!(shmem_##NAME##_atomic_fetch_or(cell, mine, 0) & mine), #NAME ": the bit was set");       \
            CHECK(shmem_##NAME##_atomic_fetch_and(cell, (T)~mine, 0) & mine, #NAME ": the bit was clear");   \
            CHECK(!(shmem_##NAME##_atomic_fetch_xor(cell, mine, 0) & mine), #NAME ": the bit was set");      \
            shmem_##NAME##_atomic_and(cell, (T)~mine, 0);                                                    \
            shmem_##NAME##_atomic_or(cell, mine, 0);                                                         \
            shmem_##NAME##_atomic_xor(cell, mine, 0);                                                        \
        }                                                                                                    \
        if (me < 31)                                                                                         \
            shmem_##NAME##_atomic_or(cell, mine, 0);                                                         \
        shmem_barrier_all();                                                                                 \
        CHECK(me != 0 || *cell == (T)((T)((T)1 << (npes < 31 ? npes : 31)) - 1), #NAME ": bits %lx",         \
              (unsigned long)*cell);                                                                         \
        GUARDS(T, NAME);                                                                                     \
    }
SHMEM_TYPES_AMO_BITWISE(DEFINE_BITWISE)

/* The untyped core: 4 bytes and 8, fetched or not, carries zero-extended. */
static void test_core(void)
{
    uint64_t *word = (uint64_t *)cells, fetched = 0;
    uint32_t fetched32 = 0;
    int to = (me + 1) % npes;
    shmem_barrier_all();
    memset(cells, 0xff, 24);
    shmem_barrier_all();
    CHECK(shmemx_atomic(ctx, SHMEMX_AMO_ADD, 4, word, 2, 0, to, &fetched32) == 0, "%s", shmemx_last_error());
    CHECK(fetched32 == UINT32_MAX, "fetched %x", fetched32);
    CHECK(shmemx_atomic(ctx, SHMEMX_AMO_FETCH, 8, word, 0, 0, to, &fetched) == 0, "%s", shmemx_last_error());
    CHECK(fetched == 0xffffffff00000001u, "a 4-byte add carried over: %lx", (unsigned long)fetched);
    CHECK(shmemx_atomic(SHMEM_CTX_DEFAULT, SHMEMX_AMO_COMPARE_SWAP, 8, word, 5, fetched, to, NULL) == 0, "%s",
          shmemx_last_error());
    CHECK(shmemx_atomic_nbi(ctx, SHMEMX_AMO_SWAP, 8, word, 6, 0, to, &fetched) == 0, "%s",
          shmemx_last_error());
    CHECK(shmemx_quiet(ctx) == 0 && fetched == 5, "swap fetched %lx", (unsigned long)fetched);
    shmem_barrier_all();
    CHECK(word[0] == 6 && word[1] == UINT64_MAX && word[2] == UINT64_MAX, "a neighbour was written");
    shmem_barrier_all();
}

int main(void)
{
    pes_begin();
    cells = pes_alloc(64);
    seen = pes_alloc(sizeof *seen * TICKETS * 64);
    CHECK(shmem_ctx_create(0, &ctx) == 0, "%s", shmemx_last_error());
    for (int shift = 0; shift < (npes < 2 ? 1 : 2); shift++) {
        int to = (me + shift) % npes;
#define RUN_EXTENDED(NAME, T, CORE) extended_##NAME(to);
#define RUN_STANDARD(NAME, T, CORE) standard_##NAME(to);
#define RUN_BITWISE(NAME, T, CORE) bitwise_##NAME(to);
        SHMEM_TYPES_AMO_EXTENDED(RUN_EXTENDED)
        SHMEM_TYPES_AMO(RUN_STANDARD)
        SHMEM_TYPES_AMO_BITWISE(RUN_BITWISE)
    }
#define RUN_SWAPS(NAME, T, CORE) swaps_##NAME();
#define RUN_TOGETHER(NAME, T, CORE) together_##NAME();
#define RUN_BITS(NAME, T, CORE) bits_##NAME();
    SHMEM_TYPES_AMO_EXTENDED(RUN_SWAPS)
    SHMEM_TYPES_AMO(RUN_TOGETHER)
    SHMEM_TYPES_AMO_BITWISE(RUN_BITS)
    test_core();
    shmem_ctx_destroy(ctx);
    return pes_end();
}
