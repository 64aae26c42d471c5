/* The symmetric heap: same offsets on every PE, alignment, contents kept, nothing lost, a full heap named. */
#include "pes.h"

static char *anchor; /* the first block: other blocks are told apart by their distance from it */

/* Every PE got the same offset. */
static void check_symmetric(const void *p, const char *what)
{
    static long *slots;
    if (slots == NULL)
        slots = pes_alloc(sizeof *slots * 64);
    long mine = p ? (long)((const char *)p - anchor) : -1;
    for (int pe = 0; pe < npes; pe++)
        shmem_long_p(&slots[me], mine, pe);
    shmem_barrier_all();
    for (int pe = 0; pe < npes; pe++)
        CHECK(slots[pe] == mine, "%s is at %ld here and at %ld on PE %d", what, mine, slots[pe], pe);
    shmem_barrier_all();
}

static size_t used(void)
{
    size_t total = 0, in_use = 0, largest = 0;
    CHECK(shmemx_heap_info(SHMEMX_MEM_HOST, &total, &in_use, &largest) == 0, "%s", shmemx_last_error());
    CHECK(in_use <= total && largest <= total, "total %zu, used %zu, largest %zu", total, in_use, largest);
    return in_use;
}

static size_t largest(void)
{
    size_t most = 0;
    CHECK(shmemx_heap_info(SHMEMX_MEM_HOST, NULL, NULL, &most) == 0, "%s", shmemx_last_error());
    return most;
}

static void test_alignment(void)
{
    static const size_t sizes[] = {1, 2, 15, 16, 17, 63, 64, 65, 1000, 4096, 100001};
    void *blocks[sizeof sizes / sizeof *sizes];
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        blocks[i] = shmem_malloc(sizes[i]);
        size_t wanted = sizes[i] < 64 ? 16 : 64;
        CHECK(blocks[i] != NULL && (uintptr_t)blocks[i] % wanted == 0, "%zu bytes at %p", sizes[i],
              blocks[i]);
        check_symmetric(blocks[i], "a block");
        memset(blocks[i], 1, sizes[i]);
    }
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        shmem_free(blocks[i]);
    for (size_t alignment = sizeof(void *); alignment <= 1 << 20; alignment *= 2) {
        char *p = shmem_align(alignment, 100), *q = shmem_align(alignment, 1);
        CHECK(p && q && (uintptr_t)p % alignment == 0 && (uintptr_t)q % alignment == 0,
              "alignment %zu: %p, %p", alignment, (void *)p, (void *)q);
        check_symmetric(p, "an aligned block");
        CHECK(p == NULL || q == NULL || p + 100 <= q || q + 1 <= p, "%p and %p overlap", (void *)p,
              (void *)q);
        shmem_free(p);
        shmem_free(q);
    }
    void *p = shmem_malloc_with_hints(1000, SHMEM_MALLOC_ATOMICS_REMOTE | SHMEM_MALLOC_SIGNAL_REMOTE);
    CHECK(p != NULL, "with hints: %s", shmemx_last_error());
    shmem_free(p);
    p = shmem_malloc_with_hints(1000, 0);
    CHECK(p != NULL, "without hints: %s", shmemx_last_error());
    shmem_free(p);
}

static void test_nothing(void)
{
    CHECK(shmem_malloc(0) == NULL, "malloc(0)");
    CHECK(shmem_calloc(0, 8) == NULL, "calloc(0, 8)");
    CHECK(shmem_calloc(8, 0) == NULL, "calloc(8, 0)");
    CHECK(shmem_align(64, 0) == NULL, "align(64, 0)");
    CHECK(shmem_malloc_with_hints(0, 0) == NULL, "malloc_with_hints(0, 0)");
    shmem_free(NULL);
    CHECK(shmemx_free(NULL) == 0, "free(NULL): %s", shmemx_last_error());
}

static void test_calloc(void)
{
    size_t n = 100000, dirty = 0;
    char *p = shmem_malloc(n);
    memset(p, 0xff, n);
    shmem_free(p);
    char *q = shmem_calloc(n / 4, 4);
    /* zero on return everywhere: a neighbour's copy too, at once */
    char *theirs = shmem_ptr(q, (me + 1) % npes);
    for (size_t i = 0; i < n; i++)
        dirty += q[i] != 0 || (theirs && theirs[i] != 0);
    CHECK(dirty == 0, "%zu of %zu bytes of calloc are not zero", dirty, n);
    shmem_barrier_all();
    shmem_free(q);
}

static void test_realloc(void)
{
    unsigned char *p = shmem_realloc(NULL, 100);
    CHECK(p != NULL, "realloc(NULL, 100): %s", shmemx_last_error());
    size_t size = 100;
    for (size_t i = 0; i < size; i++)
        p[i] = (unsigned char)mix(me, i, 1);
    static const size_t sizes[] = {101, 5000, 64, 200000, 16, 1, 3000};
    size_t kept = size;
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        p = shmem_realloc(p, sizes[k]);
        CHECK(p != NULL, "realloc to %zu: %s", sizes[k], shmemx_last_error());
        check_symmetric(p, "a reallocated block");
        kept = kept < sizes[k] ? kept : sizes[k];
        size_t wrong = 0;
        for (size_t i = 0; i < kept; i++)
            wrong += p[i] != (unsigned char)mix(me, i, 1);
        CHECK(wrong == 0, "%zu of %zu bytes lost by realloc to %zu", wrong, kept, sizes[k]);
        memset(p + kept, 0x5a, sizes[k] - kept);
    }
    void *too_much = shmem_realloc(p, (size_t)1 << 46);
    CHECK(too_much == NULL, "realloc to 64 TiB gave %p", too_much);
    CHECK(p[0] == (unsigned char)mix(me, 0, 1), "a failed realloc touched the block");
    p = shmem_realloc(p, 0);
    CHECK(p == NULL, "realloc to 0 gave %p", (void *)p);
}

/* Random blocks in random order, each full of its own pattern, written by the neighbour. */
static void test_stress(void)
{
    enum { BLOCKS = 60, ROUNDS = 1500 };
    struct {
        unsigned char *p;
        size_t size;
        unsigned tag;
    } blocks[BLOCKS] = {0};
    size_t before = used(), most = largest();
    for (unsigned round = 0; round < ROUNDS; round++) {
        size_t i = common_random(BLOCKS);
        if (blocks[i].p) {
            size_t wrong = 0;
            for (size_t b = 0; b < blocks[i].size; b += 37)
                wrong += blocks[i].p[b] != (unsigned char)(blocks[i].tag + b);
            CHECK(wrong == 0, "round %u: a block of %zu bytes was overwritten", round, blocks[i].size);
            shmem_free(blocks[i].p);
            blocks[i].p = NULL;
            continue;
        }
        blocks[i].size = 1 + common_random((size_t)1 << common_random(16));
        blocks[i].tag = round;
        size_t alignment = (size_t)8 << common_random(9);
        blocks[i].p = round % 3 ? shmem_malloc(blocks[i].size) : shmem_align(alignment, blocks[i].size);
        CHECK(blocks[i].p != NULL, "round %u: no %zu bytes: %s", round, blocks[i].size, shmemx_last_error());
        if (blocks[i].p == NULL)
            continue;
        for (size_t b = 0; b < blocks[i].size; b++)
            blocks[i].p[b] = (unsigned char)(round + b);
    }
    for (size_t i = 0; i < BLOCKS; i++)
        shmem_free(blocks[i].p);
    CHECK(used() == before, "%zu bytes in use after the stress, %zu before", used(), before);
    CHECK(largest() == most, "largest free block is %zu after the stress, %zu before: not joined again",
          largest(), most);
}

static void test_full(void)
{
    size_t most = largest();
    CHECK(most >= (size_t)1 << 20, "the largest free block is %zu bytes", most);
    void *all = NULL;
    int code = shmemx_allocate(&all, most, 0, 0, SHMEMX_MEM_HOST);
    CHECK(code == 0 && all != NULL, "malloc of the largest block, %zu bytes: %s", most, shmemx_last_error());
    check_symmetric(all, "the largest block");
    shmem_free(all);
    static const struct {
        size_t size;
        const char *text;
    } rows[] = {
        {(size_t)1 << 40, "1099511627776"}, {SIZE_MAX, "SHMEM_SYMMETRIC_SIZE"}, {SIZE_MAX - 63, "SYMM"}};
    shmemx_log_errors(0);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        all = anchor;
        code = shmemx_allocate(&all, rows[i].size, 0, 0, SHMEMX_MEM_HOST);
        CHECK(code == SHMEMX_ERR_NO_MEMORY, "malloc of %zu bytes: %d %s", rows[i].size, code,
              shmemx_last_error());
        CHECK(strstr(shmemx_last_error(), "SHMEM_SYMMETRIC_SIZE"), "not named: %s", shmemx_last_error());
        CHECK(strstr(shmemx_last_error(), rows[i].text), "no %s in: %s", rows[i].text, shmemx_last_error());
        CHECK(shmem_malloc(rows[i].size) == NULL, "malloc of %zu bytes", rows[i].size);
        CHECK(shmem_align(4096, rows[i].size) == NULL, "align of %zu bytes", rows[i].size);
    }
    CHECK(shmem_calloc(SIZE_MAX / 2, 4) == NULL, "a product beyond size_t");
    CHECK(shmem_calloc((size_t)1 << 33, (size_t)1 << 33) == NULL, "a product beyond size_t");
    CHECK(shmem_malloc(most + 4096) == NULL, "more than the largest block");
    CHECK(shmem_align(24, 100) == NULL, "alignment 24 is no power of two");
    CHECK(shmem_align(2, 100) == NULL, "alignment 2 is below sizeof(void *)");
    shmemx_log_errors(1);
    void *p = shmem_malloc(100);
    CHECK(p != NULL, "malloc after a full heap: %s", shmemx_last_error());
    shmem_free(p);
}

static void test_pointers(void)
{
    int *p = pes_alloc(sizeof *p * 64);
    for (int pe = 0; pe < npes; pe++) {
        int *theirs = shmem_ptr(p, pe);
        CHECK((theirs != NULL) == (shmem_team_translate_pe(SHMEM_TEAM_WORLD, pe, SHMEM_TEAM_SHARED) >= 0),
              "shmem_ptr to PE %d: %p", pe, (void *)theirs);
        CHECK(pe != me || theirs == p, "shmem_ptr to myself is %p, not %p", (void *)theirs, (void *)p);
        if (theirs)
            theirs[me] = 100 + me;
        else
            shmem_int_p(p + me, 100 + me, pe);
        CHECK(shmem_addr_accessible(p + 63, pe) == 1, "the last element on PE %d", pe);
    }
    shmem_barrier_all();
    for (int pe = 0; pe < npes; pe++)
        CHECK(p[pe] == 100 + pe, "stored by PE %d: %d", pe, p[pe]);
    shmem_barrier_all();
    int on_stack = 0;
    static int fixed;
    CHECK(shmem_ptr(&on_stack, me) == NULL, "a pointer for the stack");
    CHECK(shmem_ptr(p, npes) == NULL && shmem_ptr(p, -1) == NULL, "a pointer for a PE that is not there");
    CHECK(shmem_ptr(NULL, me) == NULL, "a pointer for NULL");
    CHECK(shmem_addr_accessible(&on_stack, me) == 0, "the stack is accessible");
    CHECK(shmem_addr_accessible(&fixed, 0) == 0, "a static variable is accessible");
    CHECK(shmem_addr_accessible(p, npes) == 0 && shmem_addr_accessible(p, -1) == 0, "a PE that is not there");
    shmem_free(p);
}

int main(void)
{
    pes_begin();
    anchor = pes_alloc(64);
    check_symmetric(anchor, "the first block");
    size_t before = used(), most = largest();
    test_alignment();
    test_nothing();
    test_calloc();
    test_realloc();
    test_stress();
    test_full();
    test_pointers();
    CHECK(used() == before, "%zu bytes in use at the end, %zu at the start", used(), before);
    CHECK(largest() == most, "largest free block at the end %zu, at the start %zu", largest(), most);
    return pes_end();
}
