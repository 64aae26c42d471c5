/* Contexts: of the world and of teams, whose PE numbers they use; completion, limits, dead handles. */
#include "pes.h"

static long *cells; /* one a PE */

/* Every call that takes a context, over that context: PE numbers are the team's. */
static void use(shmem_ctx_t ctx, shmem_team_t team, const char *what)
{
    int mine = shmem_team_my_pe(team), n = shmem_team_n_pes(team);
    shmem_team_sync(team);
    for (int i = 0; i < npes; i++)
        cells[i] = -1;
    shmem_team_sync(team);
    for (int i = 0; i < n; i++) {
        long value = 100 * mine + i;
        if (i % 3 == 0)
            shmem_ctx_long_p(ctx, cells + mine, value, i);
        else if (i % 3 == 1)
            shmem_ctx_long_put_nbi(ctx, cells + mine, &value, 1, i);
        else
            shmem_ctx_putmem(ctx, cells + mine, &value, sizeof value, i);
        shmem_ctx_fence(ctx);
        if (i % 3 == 1)
            shmem_ctx_quiet(ctx); /* `value` is about to go */
    }
    shmem_ctx_quiet(ctx);
    shmem_team_sync(team);
    for (int i = 0; i < n; i++) {
        CHECK(cells[i] == 100 * i + mine, "%s: from member %d: %ld", what, i, cells[i]);
        CHECK(shmem_ctx_long_g(ctx, cells + i, i) == 101 * i, "%s: got from member %d", what, i);
        long got = 0;
        shmem_ctx_getmem_nbi(ctx, &got, cells + mine, sizeof got, i);
        shmem_ctx_quiet(ctx);
        CHECK(got == 100 * mine + i, "%s: my value at member %d is %ld", what, i, got);
    }
    for (int i = n; i < npes; i++)
        CHECK(cells[i] == -1, "%s: somebody beyond member %d wrote", what, n);
    shmem_team_sync(team);
    long before = shmem_ctx_long_atomic_fetch_add(ctx, cells + mine, 1000, (mine + 1) % n);
    CHECK(before == 100 * mine + (mine + 1) % n, "%s: fetched %ld", what, before);
    shmem_team_sync(team);
}

static void test_world(void)
{
    static const long options[] = {0, SHMEM_CTX_PRIVATE, SHMEM_CTX_SERIALIZED, SHMEM_CTX_NOSTORE,
                                   SHMEM_CTX_PRIVATE | SHMEM_CTX_NOSTORE};
    use(SHMEM_CTX_DEFAULT, SHMEM_TEAM_WORLD, "the default context");
    for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
        shmem_ctx_t ctx = SHMEM_CTX_INVALID;
        shmem_team_t team = SHMEM_TEAM_INVALID;
        CHECK(shmem_ctx_create(options[i], &ctx) == 0, "options %ld: %s", options[i], shmemx_last_error());
        CHECK(ctx != SHMEM_CTX_INVALID && ctx != SHMEM_CTX_DEFAULT, "options %ld: handle %p", options[i],
              (void *)ctx);
        CHECK(shmem_ctx_get_team(ctx, &team) == 0 && team == SHMEM_TEAM_WORLD, "its team is the world");
        use(ctx, SHMEM_TEAM_WORLD, "a context of the world");
        shmem_ctx_destroy(ctx);
    }
    shmem_team_t team = SHMEM_TEAM_INVALID;
    CHECK(shmem_ctx_get_team(SHMEM_CTX_DEFAULT, &team) == 0 && team == SHMEM_TEAM_WORLD,
          "the default context's team");
}

static void test_teams(void)
{
    int n = (npes + 1) / 2;
    shmem_team_t evens, row, column;
    shmem_ctx_t ctx;
    CHECK(shmem_team_split_strided(SHMEM_TEAM_WORLD, 2 * (n - 1), -2, n, NULL, 0, &evens) == 0, "%s",
          shmemx_last_error());
    if (evens != SHMEM_TEAM_INVALID) {
        shmem_ctx_t both[2];
        shmem_team_t of = SHMEM_TEAM_INVALID;
        for (int i = 0; i < 2; i++)
            CHECK(shmem_team_create_ctx(evens, 0, &both[i]) == 0, "%s", shmemx_last_error());
        CHECK(both[0] != both[1], "two contexts have one handle");
        CHECK(shmem_ctx_get_team(both[1], &of) == 0 && of == evens, "a team context's team");
        use(both[0], evens, "evens in reverse");
        use(both[1], evens, "evens in reverse, the other context");
        shmemx_log_errors(0);
        long value = 1, kept = cells[0];
        CHECK(shmemx_put(both[0], cells, &value, sizeof value, n) == SHMEMX_ERR_PE, "member %d of %d", n, n);
        CHECK(strstr(shmemx_last_error(), "out of range"), "%s", shmemx_last_error());
        CHECK(cells[0] == kept, "a refused put was made");
        shmemx_log_errors(1);
        shmem_ctx_destroy(both[0]);
        use(both[1], evens, "after its brother is gone");
        shmem_team_destroy(evens); /* takes both[1] along */
        shmemx_log_errors(0);
        CHECK(shmemx_put(both[1], cells, &value, sizeof value, 0) == SHMEMX_ERR_CONTEXT,
              "a context outlived its team");
        shmemx_log_errors(1);
    }
    CHECK(shmem_team_split_2d(SHMEM_TEAM_WORLD, 2, NULL, 0, &row, NULL, 0, &column) == 0, "%s",
          shmemx_last_error());
    CHECK(shmem_team_create_ctx(column, SHMEM_CTX_PRIVATE, &ctx) == 0, "%s", shmemx_last_error());
    use(ctx, column, "a column");
    shmem_ctx_destroy(ctx);
    shmem_barrier_all();
    shmem_team_destroy(row);
    shmem_team_destroy(column);
}

/* destroy completes what was started. */
static void test_destroy(void)
{
    enum { WORDS = 1000, ROUNDS = 50 };
    long *target = pes_alloc(sizeof *target * WORDS), mine[WORDS];
    int to = (me + 1) % npes, from = (me - 1 + npes) % npes;
    for (unsigned round = 0; round < ROUNDS; round++) {
        shmem_ctx_t ctx;
        CHECK(shmem_ctx_create(0, &ctx) == 0, "%s", shmemx_last_error());
        for (size_t i = 0; i < WORDS; i++)
            mine[i] = mix(me, i, round);
        shmem_ctx_long_put_nbi(ctx, target, mine, WORDS, to);
        shmem_ctx_destroy(ctx);
        shmem_sync_all();
        size_t wrong = 0;
        for (size_t i = 0; i < WORDS; i++)
            wrong += target[i] != mix(from, i, round);
        CHECK(wrong == 0, "round %u: %zu words were not complete at ctx_destroy", round, wrong);
        shmem_sync_all();
    }
    shmem_free(target);
}

/* Three contexts issue to one PE in turns, and each changes what it has sent as soon as its quiet is over: the others' are
 * still on their way. */
static void test_turns(void)
{
    enum { TURNS = 400, MOST = 40, PARTS = 3, WORDS = 64, ROOM = TURNS * 4 };
    shmem_ctx_t ctx[PARTS] = {SHMEM_CTX_DEFAULT};
    long *target = pes_alloc(sizeof *target * WORDS * ROOM), *mine = pes_alloc(sizeof *mine * WORDS * ROOM);
    uint64_t *sum = pes_alloc(sizeof *sum);
    size_t next = 0, whose[ROOM], wrong = 0, changed[PARTS] = {0};
    uint64_t added = 0;
    int to = (me + 1) % npes, from = (me - 1 + npes) % npes;
    for (int i = 1; i < PARTS; i++)
        CHECK(shmem_ctx_create(i == 1 ? SHMEM_CTX_PRIVATE : 0, &ctx[i]) == 0, "%s", shmemx_last_error());
    for (size_t i = 0; i < (size_t)WORDS * ROOM; i++)
        mine[i] = mix(me, i, 7);
    shmem_sync_all();
    for (int turn = 0; turn < TURNS && next < ROOM; turn++) {
        size_t who = own_random(PARTS), n = own_random(4) ? 1 + own_random(3) : own_random(MOST);
        for (; n > 0 && next < ROOM; n--, next++) {
            size_t at = next * WORDS;
            whose[next] = who;
            shmem_ctx_long_put_nbi(ctx[who], target + at, mine + at, own_random(2) ? WORDS : 1, to);
        }
        if (own_random(3) == 0) {
            shmem_ctx_uint64_atomic_add(ctx[who], sum, 1, to);
            added++;
        }
        if (own_random(3) == 0)
            shmem_ctx_fence(ctx[own_random(PARTS)]);
        if (own_random(2))
            continue;
        who = own_random(PARTS);
        shmem_ctx_quiet(ctx[who]);
        for (size_t i = changed[who]; i < next; i++)
            if (whose[i] == who)
                memset(mine + i * WORDS, 0, sizeof *mine * WORDS);
        changed[who] = next;
    }
    for (int i = 0; i < PARTS; i++)
        shmem_ctx_quiet(ctx[i]);
    shmem_ulong_put((unsigned long *)cells, &(unsigned long){next}, 1, to);
    shmem_long_p((long *)target + WORDS * ROOM - 1, (long)added, to);
    shmem_barrier_all();
    for (size_t i = 0; i < (size_t)cells[0]; i++)
        wrong += target[i * WORDS] != mix(from, i * WORDS, 7);
    CHECK(wrong == 0, "%zu of %ld puts carry what was there after their quiet", wrong, cells[0]);
    CHECK(*sum == (uint64_t)target[WORDS * ROOM - 1], "%lu atomics of %ld", (unsigned long)*sum,
          target[WORDS * ROOM - 1]);
    for (int i = 1; i < PARTS; i++)
        shmem_ctx_destroy(ctx[i]);
    shmem_free(sum);
    shmem_free(mine);
    shmem_free(target);
}

static void test_many(void)
{
    enum { MOST = 20000, AGAIN = 2000 };
    static shmem_ctx_t all[MOST];
    int n = 0, rc = 0;
    shmemx_log_errors(0);
    while (n < MOST && (rc = shmem_ctx_create(0, &all[n])) == 0)
        n++;
    CHECK(n >= 64, "only %d contexts at a time", n);
    if (rc != 0) {
        CHECK(rc == SHMEMX_ERR_LIMIT && all[n] == SHMEM_CTX_INVALID, "beyond %d: %d %s", n, rc,
              shmemx_last_error());
        CHECK(strpbrk(shmemx_last_error(), "123456789"), "no limit in: %s", shmemx_last_error());
    }
    shmemx_log_errors(1);
    for (int i = 0; i < n; i++)
        shmem_ctx_long_p(all[i], cells, i, me);
    for (int i = 0; i < n; i++)
        shmem_ctx_destroy(all[i]);
    for (int i = 0; i < AGAIN; i++) {
        shmem_ctx_t ctx;
        CHECK(shmem_ctx_create(i % 8, &ctx) == 0, "time %d: %s", i, shmemx_last_error());
        shmem_ctx_destroy(ctx);
    }
}

static void test_bad_handles(void)
{
    shmem_ctx_t gone;
    long value = 9, kept = cells[0], got = 5;
    CHECK(shmem_ctx_create(0, &gone) == 0, "%s", shmemx_last_error());
    shmem_ctx_destroy(gone);
    const shmem_ctx_t bad[] = {gone, SHMEM_CTX_INVALID, (shmem_ctx_t)(uintptr_t)0x123456789a,
                               (shmem_ctx_t)&value, (shmem_ctx_t)UINTPTR_MAX};
    shmemx_log_errors(0);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        shmem_team_t team = SHMEM_TEAM_WORLD;
        CHECK(shmemx_put(bad[i], cells, &value, sizeof value, me) == SHMEMX_ERR_CONTEXT, "put, handle %zu",
              i);
        CHECK(shmemx_get(bad[i], &got, cells, sizeof got, me) == SHMEMX_ERR_CONTEXT, "get, handle %zu", i);
        CHECK(shmemx_iput(bad[i], cells, &value, 1, 1, 8, 1, me) == SHMEMX_ERR_CONTEXT, "iput, handle %zu",
              i);
        CHECK(shmemx_atomic(bad[i], SHMEMX_AMO_ADD, 8, cells, 1, 0, me, NULL) == SHMEMX_ERR_CONTEXT,
              "add, %zu", i);
        CHECK(shmemx_quiet(bad[i]) == SHMEMX_ERR_CONTEXT, "quiet, handle %zu", i);
        CHECK(shmemx_fence(bad[i]) == SHMEMX_ERR_CONTEXT, "fence, handle %zu", i);
        CHECK(shmem_ctx_get_team(bad[i], &team) == SHMEMX_ERR_CONTEXT && team == SHMEM_TEAM_INVALID,
              "team, %zu", i);
        shmem_ctx_long_p(bad[i], cells, 9, me);
        CHECK(shmem_ctx_long_g(bad[i], cells, me) == 0, "g, handle %zu", i);
        shmem_ctx_quiet(bad[i]);
        shmem_ctx_fence(bad[i]);
        if (bad[i] != SHMEM_CTX_INVALID)
            CHECK(shmemx_ctx_destroy(bad[i]) == SHMEMX_ERR_CONTEXT, "destroy, handle %zu", i);
        else
            shmem_ctx_destroy(bad[i]); /* the standard: nothing happens */
        CHECK(cells[0] == kept && got == 5, "handle %zu: a refused call was made", i);
    }
    CHECK(shmemx_ctx_destroy(SHMEM_CTX_DEFAULT) == SHMEMX_ERR_CONTEXT, "the default context was destroyed");
    CHECK(shmem_ctx_create(1L << 20, &gone) == SHMEMX_ERR_ARGUMENT && gone == SHMEM_CTX_INVALID,
          "unknown options");
    CHECK(shmem_ctx_create(0, NULL) == SHMEMX_ERR_ARGUMENT, "no place for the handle");
    CHECK(shmem_team_create_ctx(SHMEM_TEAM_INVALID, 0, &gone) != 0 && gone == SHMEM_CTX_INVALID, "no team");
    CHECK(shmem_ctx_get_team(SHMEM_CTX_DEFAULT, NULL) == SHMEMX_ERR_ARGUMENT, "no place for the team");
    shmemx_log_errors(1);
    use(SHMEM_CTX_DEFAULT, SHMEM_TEAM_WORLD, "the default context in the end");
}

int main(void)
{
    pes_begin();
    cells = pes_alloc(sizeof *cells * (size_t)npes);
    test_world();
    test_teams();
    test_destroy();
    test_turns();
    test_many();
    test_bad_handles();
    return pes_end();
}
