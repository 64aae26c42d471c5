/* Teams: who is in them, translation, nested splits, destroy and reuse, limits.
 *
 * pes: 1 2 3 4 8 16 */
#include "pes.h"

static long *cell;

/* The team is alive: a collective over it gives what its members make, and knows nobody else. */
static void use(shmem_team_t team, const char *what)
{
    int mine = shmem_team_my_pe(team), n = shmem_team_n_pes(team);
    cell[0] = me + 1;
    long want = 0;
    for (int i = 0; i < n; i++)
        want += shmem_team_translate_pe(team, i, SHMEM_TEAM_WORLD) + 1;
    CHECK(mine >= 0 && mine < n, "%s: number %d of %d", what, mine, n);
    CHECK(shmem_long_sum_reduce(team, cell + 1, cell, 1) == 0, "%s: %s", what, shmemx_last_error());
    CHECK(cell[1] == want, "%s: sum %ld, not %ld", what, cell[1], want);
    CHECK(shmem_team_sync(team) == 0, "%s: %s", what, shmemx_last_error());
}

static void test_predefined(void)
{
    shmem_team_t const teams[] = {SHMEM_TEAM_WORLD, SHMEM_TEAM_SHARED};
    int shared_size = 0;
    for (int pe = 0; pe < npes; pe++)
        shared_size += shmem_ptr(cell, pe) != NULL;
    for (size_t i = 0; i < 2; i++) {
        use(teams[i], "predefined");
        int n = shmem_team_n_pes(teams[i]), mapped = 0;
        for (int k = 0; k < n; k++) {
            int pe = shmem_team_translate_pe(teams[i], k, SHMEM_TEAM_WORLD);
            CHECK(shmem_team_ptr(teams[i], cell, k) == shmem_ptr(cell, pe), "team_ptr to %d", pe);
            CHECK((k == shmem_team_my_pe(teams[i])) == (pe == me), "number %d of team %zu is PE %d", k, i,
                  pe);
            mapped += shmem_ptr(cell, pe) != NULL;
        }
        /* shared: all PEs with a pointer, and no other */
        CHECK(i == 0 ? n == npes : n == shared_size, "team %zu of %d", i, n);
        CHECK(mapped == shared_size, "%d of the %d PEs of team %zu have a pointer", mapped, n, i);
    }
    CHECK(shmem_team_my_pe(SHMEM_TEAM_INVALID) == -1, "a number in no team");
    CHECK(shmem_team_n_pes(SHMEM_TEAM_INVALID) == -1, "a size of no team");
    CHECK(shmem_team_translate_pe(SHMEM_TEAM_INVALID, 0, SHMEM_TEAM_WORLD) == -1, "from no team");
    CHECK(shmem_team_translate_pe(SHMEM_TEAM_WORLD, 0, SHMEM_TEAM_INVALID) == -1, "to no team");
    CHECK(shmem_team_translate_pe(SHMEM_TEAM_WORLD, npes, SHMEM_TEAM_WORLD) == -1, "PE %d", npes);
    CHECK(shmem_team_translate_pe(SHMEM_TEAM_WORLD, -1, SHMEM_TEAM_WORLD) == -1, "PE -1");
    CHECK(shmem_team_ptr(SHMEM_TEAM_WORLD, cell, npes) == NULL, "a pointer to PE %d", npes);
    shmemx_log_errors(0);
    shmem_team_destroy(SHMEM_TEAM_WORLD); /* harmless */
    shmem_team_destroy(SHMEM_TEAM_SHARED);
    shmem_team_destroy(SHMEM_TEAM_INVALID);
    CHECK(shmemx_team_destroy(SHMEM_TEAM_WORLD) == SHMEMX_ERR_TEAM, "the world was destroyed");
    CHECK(shmemx_team_destroy(SHMEM_TEAM_SHARED) == SHMEMX_ERR_TEAM, "the shared team was destroyed");
    shmemx_log_errors(1);
    use(SHMEM_TEAM_WORLD, "the world after the attempts to destroy it");
}

/* Every legal (start, stride, size) of small worlds, many of larger ones. */
static void test_strided(void)
{
    for (int start = 0; start < npes; start++)
        for (int stride = -npes; stride <= npes; stride++)
            for (int size = 1; size <= npes; size++) {
                int last = start + (size - 1) * stride;
                if (last < 0 || last >= npes || (stride == 0 && size > 1) || (npes > 4 && common_random(4)))
                    continue;
                shmem_team_t team = SHMEM_TEAM_WORLD;
                int rc = shmem_team_split_strided(SHMEM_TEAM_WORLD, start, stride, size, NULL, 0, &team);
                CHECK(rc == 0, "start %d, stride %d, size %d: %s", start, stride, size, shmemx_last_error());
                int mine = -1;
                for (int i = 0; i < size; i++)
                    if (start + i * stride == me)
                        mine = i;
                CHECK(shmem_team_my_pe(team) == mine, "start %d, stride %d, size %d: number %d, not %d",
                      start, stride, size, shmem_team_my_pe(team), mine);
                if (mine < 0) {
                    CHECK(team == SHMEM_TEAM_INVALID, "not a member, and not SHMEM_TEAM_INVALID");
                    continue;
                }
                CHECK(shmem_team_n_pes(team) == size, "%d members, not %d", shmem_team_n_pes(team), size);
                for (int i = 0; i < size; i++) {
                    int pe = start + i * stride;
                    CHECK(shmem_team_translate_pe(team, i, SHMEM_TEAM_WORLD) == pe, "member %d", i);
                    CHECK(shmem_team_translate_pe(SHMEM_TEAM_WORLD, pe, team) == i, "PE %d", pe);
                    CHECK(shmem_team_ptr(team, cell, i) == shmem_ptr(cell, pe), "team_ptr of member %d", i);
                }
                CHECK(shmem_team_translate_pe(team, size, SHMEM_TEAM_WORLD) == -1, "member %d of %d", size,
                      size);
                CHECK(shmem_team_ptr(team, cell, size) == NULL, "team_ptr of member %d of %d", size, size);
                use(team, "strided");
                shmem_team_destroy(team);
            }
    shmem_barrier_all();
}

static void test_2d(void)
{
    for (int x = 1; x <= npes + 2; x++) {
        shmem_team_t row = SHMEM_TEAM_INVALID, column = SHMEM_TEAM_INVALID;
        CHECK(shmem_team_split_2d(SHMEM_TEAM_WORLD, x, NULL, 0, &row, NULL, 0, &column) == 0, "xrange %d: %s",
              x, shmemx_last_error());
        int wide = x < npes ? x : npes;
        int r = me / wide, c = me % wide;
        int row_size = npes - r * wide < wide ? npes - r * wide : wide;
        int column_size = npes / wide + (c < npes % wide);
        CHECK(shmem_team_my_pe(row) == c && shmem_team_n_pes(row) == row_size,
              "xrange %d: %d of %d in the row, not "
              "%d of %d",
              x, shmem_team_my_pe(row), shmem_team_n_pes(row), c, row_size);
        CHECK(shmem_team_my_pe(column) == r && shmem_team_n_pes(column) == column_size,
              "xrange %d: %d of %d in the "
              "column, not %d of %d",
              x, shmem_team_my_pe(column), shmem_team_n_pes(column), r, column_size);
        for (int i = 0; i < column_size; i++)
            CHECK(shmem_team_translate_pe(column, i, SHMEM_TEAM_WORLD) == i * wide + c, "column member %d",
                  i);
        use(row, "a row");
        use(column, "a column");
        use(row, "a row again");
        shmem_team_destroy(row);
        shmem_team_destroy(column);
    }
}

/* Halves of halves down to single PEs; parents live on. Then evens in reverse, and the first of those. */
static void test_nested(void)
{
    shmem_team_t teams[16] = {SHMEM_TEAM_WORLD};
    int depth = 0;
    while (shmem_team_n_pes(teams[depth]) > 1) {
        int n = shmem_team_n_pes(teams[depth]), half = n / 2, mine = shmem_team_my_pe(teams[depth]);
        shmem_team_t low, high;
        CHECK(shmem_team_split_strided(teams[depth], 0, 1, half, NULL, 0, &low) == 0, "%s",
              shmemx_last_error());
        CHECK(shmem_team_split_strided(teams[depth], n - 1, -1, n - half, NULL, 0, &high) == 0, "%s",
              shmemx_last_error());
        teams[++depth] = mine < half ? low : high;
        CHECK((low == SHMEM_TEAM_INVALID) == (mine >= half), "member %d of %d is in the wrong half", mine, n);
        use(teams[depth], "a half");
    }
    for (; depth > 0; depth--) {
        use(teams[depth - 1], "the parent of a half");
        shmem_team_destroy(teams[depth]);
    }
    shmem_team_t evens, first;
    int n = (npes + 1) / 2;
    CHECK(shmem_team_split_strided(SHMEM_TEAM_WORLD, 2 * (n - 1), -2, n, NULL, 0, &evens) == 0, "%s",
          shmemx_last_error());
    if (evens != SHMEM_TEAM_INVALID) {
        CHECK(shmem_team_split_strided(evens, 0, 1, 1, NULL, 0, &first) == 0, "%s", shmemx_last_error());
        CHECK((first != SHMEM_TEAM_INVALID) == (me == 2 * (n - 1)), "the first of the evens in reverse");
        CHECK(shmem_team_translate_pe(evens, 0, first) == (me == 2 * (n - 1) ? 0 : -1), "evens to first");
        shmem_team_destroy(evens); /* the child outlives the parent */
        if (first != SHMEM_TEAM_INVALID) {
            use(first, "a child whose parent is gone");
            shmem_team_destroy(first);
        }
    }
    shmem_barrier_all();
}

static void test_config(void)
{
    shmem_team_config_t config = {.num_contexts = 3}, got = {.num_contexts = -5};
    shmem_team_t team;
    CHECK(shmem_team_split_strided(SHMEM_TEAM_WORLD, 0, 1, npes, &config, SHMEM_TEAM_NUM_CONTEXTS, &team) ==
              0,
          "%s", shmemx_last_error());
    CHECK(shmem_team_get_config(team, SHMEM_TEAM_NUM_CONTEXTS, &got) == 0 && got.num_contexts == 3,
          "%d contexts", got.num_contexts);
    got.num_contexts = -5;
    CHECK(shmem_team_get_config(team, 0, &got) == 0 && got.num_contexts == -5, "mask 0 wrote %d",
          got.num_contexts);
    CHECK(shmem_team_get_config(team, 0, NULL) == 0, "mask 0, no config: %s", shmemx_last_error());
    shmem_team_destroy(team);
}

/* One slot used again and again, while another team lives beside it. */
static void test_reuse(void)
{
    enum { TIMES = 500 };
    shmem_team_t stays, old = SHMEM_TEAM_INVALID;
    CHECK(shmem_team_split_strided(SHMEM_TEAM_WORLD, npes - 1, -1, npes, NULL, 0, &stays) == 0, "%s",
          shmemx_last_error());
    for (int i = 0; i < TIMES; i++) {
        shmem_team_t team;
        int size = 1 + i % npes;
        CHECK(shmem_team_split_strided(i % 3 ? SHMEM_TEAM_WORLD : stays, 0, 1, size, NULL, 0, &team) == 0,
              "time %d: %s", i, shmemx_last_error());
        if (team != SHMEM_TEAM_INVALID) {
            if (i % 7 == 0)
                dawdle();
            use(team, "a team in a used slot");
            if (i % 5 == 0)
                use(team, "a team in a used slot, again");
            shmem_team_destroy(team);
            CHECK(team != old, "time %d: the handle of a destroyed team came back at once", i);
            old = team;
        }
        if (i % 50 == 0)
            use(stays, "the team that stays");
    }
    shmemx_log_errors(0);
    if (old != SHMEM_TEAM_INVALID) {
        CHECK(shmem_team_my_pe(old) == -1 && shmem_team_n_pes(old) == -1, "a destroyed team answers");
        CHECK(shmem_team_sync(old) == SHMEMX_ERR_TEAM, "a destroyed team syncs");
        CHECK(shmemx_team_destroy(old) == SHMEMX_ERR_TEAM, "a destroyed team is destroyed again");
    }
    shmemx_log_errors(1);
    use(stays, "the team that stays");
    shmem_team_destroy(stays);
}

static void test_limit(void)
{
    enum { MOST = 4096 };
    static shmem_team_t teams[MOST];
    int n = 0, rc = 0;
    shmemx_log_errors(0);
    while (n < MOST && (rc = shmem_team_split_strided(SHMEM_TEAM_WORLD, 0, 1, npes, NULL, 0, &teams[n])) == 0)
        n++;
    shmemx_log_errors(1);
    CHECK(n >= 64, "only %d teams at a time", n);
    if (rc != 0) {
        CHECK(rc == SHMEMX_ERR_LIMIT, "beyond %d teams: %d %s", n, rc, shmemx_last_error());
        CHECK(teams[n] == SHMEM_TEAM_INVALID, "a failed split gave a handle");
        CHECK(strpbrk(shmemx_last_error(), "123456789") != NULL, "no limit in: %s", shmemx_last_error());
    }
    for (int i = 0; i < n; i += 9)
        use(teams[i], "one of many teams");
    for (int i = 0; i < n; i++)
        shmem_team_destroy(teams[i % 2 ? i : n - 1 - (n % 2 ? i : i + 1)]);
    shmem_team_t again;
    CHECK(shmem_team_split_strided(SHMEM_TEAM_WORLD, 0, 1, npes, NULL, 0, &again) == 0, "after the limit: %s",
          shmemx_last_error());
    use(again, "a team after the limit");
    shmem_team_destroy(again);
}

/* Every PE gives the same bad arguments: an error, no team, and the next split works. */
static void test_bad_splits(void)
{
    const struct {
        int start, stride, size;
        const char *text;
    } rows[] = {
        {0, 1, npes + 1, "size"}, {-1, 1, 1, "-1"},    {npes, 1, 1, "start"}, {0, 0, 2, "stride 0"},
        {0, -1, 2, "-1"},         {0, 1, 0, "size 0"}, {0, 1, -3, "-3"},      {0, 1 << 30, 3, "1073741824"}};
    shmemx_log_errors(0);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        shmem_team_t team = SHMEM_TEAM_WORLD;
        int rc = shmem_team_split_strided(SHMEM_TEAM_WORLD, rows[i].start, rows[i].stride, rows[i].size, NULL,
                                          0, &team);
        CHECK(rc == SHMEMX_ERR_ARGUMENT && team == SHMEM_TEAM_INVALID, "start %d, stride %d, size %d: %d",
              rows[i].start, rows[i].stride, rows[i].size, rc);
        CHECK(strstr(shmemx_last_error(), rows[i].text), "no \"%s\" in: %s", rows[i].text,
              shmemx_last_error());
    }
    shmem_team_t row = SHMEM_TEAM_WORLD, column = SHMEM_TEAM_WORLD;
    for (int x = 0; x > -2; x--) {
        CHECK(shmem_team_split_2d(SHMEM_TEAM_WORLD, x, NULL, 0, &row, NULL, 0, &column) ==
                  SHMEMX_ERR_ARGUMENT,
              "xrange %d", x);
        CHECK(row == SHMEM_TEAM_INVALID && column == SHMEM_TEAM_INVALID, "a failed split gave handles");
    }
    CHECK(shmem_team_split_strided(SHMEM_TEAM_INVALID, 0, 1, 1, NULL, 0, &row) == SHMEMX_ERR_TEAM,
          "no parent");
    CHECK(shmem_team_split_strided(SHMEM_TEAM_WORLD, 0, 1, 1, NULL, 0, NULL) == SHMEMX_ERR_ARGUMENT,
          "no place for it");
    CHECK(shmem_team_split_strided(SHMEM_TEAM_WORLD, 0, 1, 1, NULL, SHMEM_TEAM_NUM_CONTEXTS, &row) ==
              SHMEMX_ERR_ARGUMENT,
          "a mask without a config");
    shmemx_log_errors(1);
    CHECK(shmem_team_split_strided(SHMEM_TEAM_WORLD, 0, 1, npes, NULL, 0, &row) == 0, "%s",
          shmemx_last_error());
    use(row, "a team after bad splits");
    shmem_team_destroy(row);
}

int main(void)
{
    pes_begin();
    cell = pes_alloc(2 * sizeof *cell);
    test_predefined();
    test_strided();
    test_2d();
    test_nested();
    test_config();
    test_reuse();
    test_limit();
    test_bad_splits();
    return pes_end();
}
