/* fence, quiet and barrier: what each promises about the order and the completion of what went before. */
#include "pes.h"

enum { WORDS = 200, ROUNDS = 300 };

static shmem_ctx_t ctx;
static uint64_t *data, *flag, *reply;

static void check_data(const uint64_t *p, int who, unsigned round, const char *what)
{
    size_t wrong = 0;
    for (size_t i = 0; i < WORDS; i++)
        wrong += p[i] != mix(who, i, round);
    CHECK(wrong == 0, "%s, round %u: %zu of %d words of PE %d are missing", what, round, wrong, WORDS, who);
}

/* data, fence, flag: who sees the flag sees the data. The answer lets the writer go on. */
static void test_fence(void)
{
    int to = (me + 1) % npes, from = (me - 1 + npes) % npes;
    uint64_t mine[WORDS];
    *flag = *reply = 0;
    shmem_barrier_all();
    for (unsigned round = 1; round <= ROUNDS; round++) {
        for (size_t i = 0; i < WORDS; i++)
            mine[i] = mix(me, i, round);
        switch (round % 4) {
        case 0:
            shmem_put64(data, mine, WORDS, to);
            shmem_fence();
            shmem_uint64_p(flag, round, to);
            break;
        case 1:
            shmem_putmem_nbi(data, mine, sizeof mine, to);
            shmem_fence();
            shmem_uint64_atomic_set(flag, round, to);
            break;
        case 2:
            shmem_ctx_uint64_iput(ctx, data, mine, 2, 2, WORDS / 2, to);
            shmem_ctx_uint64_iput(ctx, data + 1, mine + 1, 2, 2, WORDS / 2, to);
            shmem_ctx_fence(ctx);
            shmem_ctx_uint64_atomic_inc(ctx, flag, to);
            break;
        default:
            for (size_t i = 0; i < WORDS; i++)
                shmem_uint64_p(data + i, mine[i], to);
            shmem_quiet();
            shmem_signal_set(flag, round, to);
        }
        shmem_uint64_wait_until(flag, SHMEM_CMP_GE, round);
        check_data(data, from, round, "fence");
        shmem_uint64_p(reply, round, from);
        shmem_uint64_wait_until(reply, SHMEM_CMP_GE, round);
        shmem_quiet();
        shmem_ctx_quiet(ctx);
    }
    shmem_barrier_all();
}

/* PE 0 writes to the last PE, completes, tells PE 1, which tells the last: quiet is seen by third parties. */
static void test_third_party(void)
{
    if (npes < 3)
        return;
    int last = npes - 1;
    uint64_t mine[WORDS];
    *flag = 0;
    shmem_barrier_all();
    for (unsigned round = 1; round <= ROUNDS; round++) {
        if (me == 0) {
            for (size_t i = 0; i < WORDS; i++)
                mine[i] = mix(0, i, round);
            shmem_put64_nbi(data, mine, WORDS, last);
            shmem_quiet();
            shmem_uint64_p(flag, round, 1);
            shmem_uint64_wait_until(flag, SHMEM_CMP_EQ, round);
        } else if (me == 1) {
            shmem_uint64_wait_until(flag, SHMEM_CMP_EQ, round);
            shmem_uint64_p(flag, round, last);
        }
        if (me == last) {
            shmem_uint64_wait_until(flag, SHMEM_CMP_EQ, round);
            check_data(data, 0, round, "third party");
            shmem_uint64_p(flag, round, 0);
        }
    }
    shmem_barrier_all();
}

/* barrier_all completes every PE's puts of the default context, nbi ones too. */
static void test_barrier(void)
{
    uint64_t *rows = pes_alloc(sizeof *rows * WORDS * (size_t)npes), mine[WORDS];
    for (unsigned round = 1; round <= ROUNDS / 3; round++) {
        for (size_t i = 0; i < WORDS; i++)
            mine[i] = mix(me, i, round);
        for (int pe = 0; pe < npes; pe++)
            shmem_uint64_put_nbi(rows + WORDS * me, mine, WORDS, pe);
        dawdle();
        shmem_barrier_all();
        for (int pe = 0; pe < npes; pe++)
            check_data(rows + WORDS * pe, pe, round, "barrier");
        shmem_sync_all();
    }
    shmem_barrier_all();
    shmem_free(rows);
}

/* get_nbi is complete after quiet, of its own context. */
static void test_get_nbi(void)
{
    int to = (me + 1) % npes;
    uint64_t got[WORDS], again[WORDS];
    for (unsigned round = 1; round <= ROUNDS / 3; round++) {
        for (size_t i = 0; i < WORDS; i++)
            data[i] = mix(me, i, round);
        shmem_barrier_all();
        memset(got, 0, sizeof got);
        memset(again, 0, sizeof again);
        shmem_uint64_get_nbi(got, data, WORDS, to);
        shmem_ctx_uint64_get_nbi(ctx, again, data, WORDS, to);
        shmem_quiet();
        check_data(got, to, round, "get_nbi");
        shmem_ctx_quiet(ctx);
        check_data(again, to, round, "ctx_get_nbi");
        shmem_barrier_all();
    }
}

int main(void)
{
    pes_begin();
    data = pes_alloc(sizeof *data * WORDS);
    flag = pes_alloc(sizeof *flag);
    reply = pes_alloc(sizeof *reply);
    CHECK(shmem_ctx_create(0, &ctx) == 0, "%s", shmemx_last_error());
    CHECK(shmemx_fence(ctx) == 0 && shmemx_quiet(SHMEM_CTX_DEFAULT) == 0, "%s", shmemx_last_error());
    test_fence();
    test_third_party();
    test_barrier();
    test_get_nbi();
    shmem_ctx_destroy(ctx);
    return pes_end();
}
