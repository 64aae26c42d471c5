/* Block-strided transfers: shapes, sizes and contexts against a copy here; mistakes; and a quiet for some PEs, sessions. */
#include "pes.h"

enum { ROOM = 4096 };
static int32_t *dest, *source;
static int32_t expected[ROOM], got[ROOM];
static shmem_ctx_t ctx;

static void fill(int who, unsigned salt, int32_t *words)
{
    for (size_t i = 0; i < ROOM; i++)
        words[i] = (int32_t)mix(who, i, salt);
}

static void test_shapes(void)
{
    const int to = (me + 1) % npes, from = (me + npes - 1) % npes;
    int32_t theirs[ROOM];
    for (unsigned round = 0; round < 60; round++) {
        size_t bsize = common_random(9), nblocks = common_random(20);
        ptrdiff_t dst = (ptrdiff_t)(bsize + common_random(40)), sst = (ptrdiff_t)(bsize + common_random(40));
        dst += dst == 0;
        sst += sst == 0;
        fill(me, round, source);
        for (size_t i = 0; i < ROOM; i++)
            dest[i] = expected[i] = -7;
        fill(from, round, theirs);
        for (size_t b = 0; b < nblocks; b++)
            for (size_t i = 0; i < bsize; i++)
                expected[b * (size_t)dst + i] = theirs[b * (size_t)sst + i];
        shmem_barrier_all();
        switch (round % 5) {
        case 0:
            shmem_int32_ibput(dest, source, dst, sst, bsize, nblocks, to);
            break;
        case 1:
            shmem_ctx_int32_ibput(ctx, dest, source, dst, sst, bsize, nblocks, to);
            break;
        case 2:
            shmem_ibput32(dest, source, dst, sst, bsize, nblocks, to);
            break;
        case 3:
            shmem_ctx_ibput32(ctx, dest, source, dst, sst, bsize, nblocks, to);
            break;
        default:
            CHECK(shmemx_ibput(ctx, dest, source, dst, sst, 4, bsize, nblocks, to) == 0, "%s",
                  shmemx_last_error());
        }
        shmem_barrier_all();
        CHECK(memcmp(dest, expected, sizeof expected) == 0, "ibput, round %u: %zu blocks of %zu, %td, %td",
              round, nblocks, bsize, dst, sst);
        memset(got, -7, sizeof got);
        for (size_t i = 0; i < ROOM; i++)
            got[i] = -7;
        switch (round % 4) {
        case 0:
            shmem_int32_ibget(got, source, dst, sst, bsize, nblocks, from);
            break;
        case 1:
            shmem_ctx_int32_ibget(ctx, got, source, dst, sst, bsize, nblocks, from);
            break;
        case 2:
            shmem_ibget32(got, source, dst, sst, bsize, nblocks, from);
            break;
        default:
            shmem_ctx_ibget32(ctx, got, source, dst, sst, bsize, nblocks, from);
        }
        CHECK(memcmp(got, expected, sizeof expected) == 0, "ibget, round %u: %zu blocks of %zu, %td, %td",
              round, nblocks, bsize, dst, sst);
        shmem_barrier_all();
    }
    /* 8, 16, 64 and 128 bits: two blocks of two */
    unsigned char *d = (unsigned char *)dest, *s = (unsigned char *)source;
    for (int bits = 8; bits <= 128; bits *= 2) {
        size_t w = (size_t)bits / 8;
        memset(d, 0, 10 * w);
        for (size_t i = 0; i < 10 * w; i++)
            s[i] = (unsigned char)(i + (size_t)me);
        shmem_barrier_all();
        if (bits == 8)
            shmem_ibput8(d, s, 5, 3, 2, 2, to);
        else if (bits == 16)
            shmem_ibput16(d, s, 5, 3, 2, 2, to);
        else if (bits == 32)
            shmem_ibput32(d, s, 5, 3, 2, 2, to);
        else if (bits == 64)
            shmem_ibput64(d, s, 5, 3, 2, 2, to);
        else
            shmem_ibput128(d, s, 5, 3, 2, 2, to);
        shmem_barrier_all();
        for (size_t i = 0; i < 2 * w; i++)
            CHECK(d[i] == (unsigned char)(i + (size_t)from) &&
                      d[5 * w + i] == (unsigned char)(3 * w + i + (size_t)from) && d[2 * w + i] == 0,
                  "ibput%d: byte %zu", bits, i);
        shmem_barrier_all();
    }
}

#define REFUSED(code, text, call)                                                                            \
    do {                                                                                                     \
        int rc = (call);                                                                                     \
        CHECK(rc == (code) && strstr(shmemx_last_error(), text), #call ": gave %d (%s)", rc,                 \
              shmemx_last_error());                                                                          \
    } while (0)

static void test_mistakes(void)
{
    for (size_t i = 0; i < ROOM; i++)
        dest[i] = -7;
    shmem_barrier_all();
    shmemx_log_errors(0);
    const shmem_ctx_t c = SHMEM_CTX_DEFAULT;
    REFUSED(SHMEMX_ERR_ARGUMENT, "start at 4", shmemx_ibput(c, dest, source, 3, 4, 4, 4, 2, 0));
    REFUSED(SHMEMX_ERR_ARGUMENT, "start at 4", shmemx_ibget(c, got, source, 4, 3, 4, 4, 2, 0));
    REFUSED(SHMEMX_ERR_ARGUMENT, "start at 1", shmemx_ibput(c, dest, source, 0, 1, 4, 1, 2, 0));
    REFUSED(SHMEMX_ERR_ARGUMENT, "overflow",
            shmemx_ibput(c, dest, source, PTRDIFF_MAX, 4, 4, 4, SIZE_MAX / 8, 0));
    REFUSED(SHMEMX_ERR_ADDRESS, "past the end", shmemx_ibput(c, dest, source, 1 << 20, 4, 4, 4, 1 << 10, 0));
    REFUSED(SHMEMX_ERR_ADDRESS, "not in the symmetric heap", shmemx_ibput(c, got, source, 4, 4, 4, 4, 1, 0));
    REFUSED(SHMEMX_ERR_ARGUMENT, "source is NULL", shmemx_ibput(c, dest, NULL, 4, 4, 4, 4, 1, 0));
    REFUSED(SHMEMX_ERR_PE, "out of range", shmemx_ibput(c, dest, source, 4, 4, 4, 4, 1, npes));
    REFUSED(SHMEMX_ERR_PE, "out of range", shmemx_quiet_pes(c, &npes, 1));
    REFUSED(SHMEMX_ERR_ARGUMENT, "target_pes is NULL", shmemx_quiet_pes(c, NULL, 1));
    CHECK(shmemx_quiet_pes(c, NULL, 0) == 0, "no PEs at all");
    shmem_ctx_session_stop((shmem_ctx_t)99999);
    CHECK(strstr(shmemx_last_error(), "no context of this PE") != NULL, "%s", shmemx_last_error());
    shmem_ctx_session_start(ctx, 1L << 20, NULL, 0);
    CHECK(strstr(shmemx_last_error(), "options 0x100000") != NULL, "%s", shmemx_last_error());
    shmem_ctx_session_start(ctx, 0, NULL, SHMEM_CTX_SESSION_TOTAL_OPS);
    CHECK(strstr(shmemx_last_error(), "config is NULL") != NULL, "%s", shmemx_last_error());
    shmemx_log_errors(1);
    shmem_barrier_all();
    for (size_t i = 0; i < ROOM; i++)
        CHECK(dest[i] == -7, "a refused call wrote");
}

/* What went to a PE is there once pe_quiet for it returns: a third PE, told by this one, finds it. And a context's quiet. */
static void test_pe_quiet(void)
{
    long *row = pes_alloc((size_t)npes * sizeof *row), *told = pes_alloc(sizeof *told), value;
    int *all = pes_private((size_t)npes * sizeof *all);
    for (int i = 0; i < npes; i++)
        all[i] = npes - 1 - i;
    const int to = (me + 1) % npes, third = (me + 2) % npes, first = (me + npes - 2) % npes;
    for (long round = 1; round <= 100; round++) {
        value = 1000 * me + round;
        switch (round % 4) {
        case 0:
            shmem_long_put_nbi(row + me, &value, 1, to);
            shmem_pe_quiet(&to, 1);
            break;
        case 1:
            shmem_ctx_long_put_nbi(ctx, row + me, &value, 1, to);
            shmem_ctx_pe_quiet(ctx, &to, 1);
            break;
        case 2:
            shmem_long_put_nbi(row + me, &value, 1, to);
            shmem_pe_quiet(all, (size_t)npes);
            break;
        default:
            shmem_ctx_long_put_nbi(ctx, row + me, &value, 1, to);
            shmem_ctx_quiet(ctx);
        }
        shmem_long_atomic_set(told, round, third);
        shmem_wait_until(told, SHMEM_CMP_EQ, round);
        long found = shmem_long_g(row + first, (first + 1) % npes);
        CHECK(found == 1000 * first + round, "round %ld: found %ld", round, found);
        shmem_barrier_all();
    }
    free(all);
    shmem_free(told);
    shmem_free(row);
}

static void test_session(void)
{
    uint64_t *word = pes_alloc(sizeof *word);
    const shmem_ctx_session_config_t config = {.total_ops = 100};
    shmem_ctx_session_start(SHMEM_CTX_INVALID, 0, NULL, 0); /* nothing, by the specification */
    shmem_ctx_session_start(SHMEM_CTX_DEFAULT, SHMEM_CTX_SESSION_BATCH, NULL, 0);
    shmem_ctx_session_start(ctx, SHMEM_CTX_SESSION_SAME_AMO, &config, SHMEM_CTX_SESSION_TOTAL_OPS);
    shmem_ctx_session_start(ctx, SHMEM_CTX_SESSION_BATCH, NULL, 0); /* adds to it */
    for (int i = 0; i < 100; i++)
        shmem_ctx_uint64_atomic_add(ctx, word, 1, (me + i) % npes);
    shmem_ctx_session_stop(ctx);
    shmem_ctx_session_stop(SHMEM_CTX_DEFAULT);
    char said[256];
    snprintf(said, sizeof said, "%s", shmemx_last_error());
    shmem_ctx_session_stop(ctx); /* stopped already: without effect, by the specification */
    shmem_ctx_session_stop(SHMEM_CTX_INVALID);
    CHECK(strcmp(said, shmemx_last_error()) == 0, "a second stop: %s", shmemx_last_error());
    const shmem_session_config_t draft = config; /* and by the names of the draft */
    shmem_session_start(ctx, SHMEM_SESSION_BATCH, &draft, SHMEM_SESSION_TOTAL_OPS);
    shmem_session_stop(ctx);
    shmem_ctx_quiet(ctx);
    shmem_barrier_all();
    uint64_t sum = 0;
    for (int pe = 0; pe < npes; pe++)
        sum += shmem_uint64_g(word, pe);
    CHECK(sum == 100u * (unsigned)npes, "%llu added", (unsigned long long)sum);
    shmem_barrier_all();
    shmem_free(word);
}

int main(void)
{
    pes_begin();
    dest = pes_alloc(ROOM * sizeof *dest);
    source = pes_alloc(ROOM * sizeof *source);
    CHECK(shmem_ctx_create(SHMEM_CTX_PRIVATE, &ctx) == 0, "%s", shmemx_last_error());
    test_shapes();
    test_pe_quiet();
    test_session();
    test_mistakes();
    shmem_ctx_destroy(ctx);
    return pes_end();
}
