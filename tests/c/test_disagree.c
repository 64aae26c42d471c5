/* Collectives in which one PE's call is refused or differs from the others': nobody hangs, nobody gets wrong
 * data in silence, and the next collective works as if nothing had been.
 *
 * pes: 2 3 4 8 */
#include "pes.h"

enum { WORDS = 1 << 14 };
enum op { SYNC, BROADCAST, COLLECT, FCOLLECT, ALLTOALL, ALLTOALLS, REDUCE, OPS };
static const char *const names[] = {"sync",     "broadcast", "collect", "fcollect",
                                    "alltoall", "alltoalls", "reduce"};

static long *dest, *source;

static int call(int op, long *to, size_t n, int root)
{
    switch (op) {
    case SYNC:
        return shmemx_sync(SHMEM_TEAM_WORLD);
    case BROADCAST:
        return shmem_long_broadcast(SHMEM_TEAM_WORLD, to, source, n, root);
    case COLLECT:
        return shmem_long_collect(SHMEM_TEAM_WORLD, to, source, n);
    case FCOLLECT:
        return shmem_long_fcollect(SHMEM_TEAM_WORLD, to, source, n);
    case ALLTOALL:
        return shmem_long_alltoall(SHMEM_TEAM_WORLD, to, source, n);
    case ALLTOALLS:
        return shmem_long_alltoalls(SHMEM_TEAM_WORLD, to, source, 1, 1, n);
    default:
        return shmem_long_sum_reduce(SHMEM_TEAM_WORLD, to, source, n);
    }
}

/* Everything is in step again: three collectives in a row, with data. */
static void works(const char *after, int op, size_t n, int odd)
{
    long *in = source, *out = dest, want = 0;
    CHECK(shmemx_barrier(SHMEM_TEAM_WORLD) == 0, "barrier after %s %s of %zu, PE %d: %s", after, names[op], n,
          odd, shmemx_last_error());
    in[0] = me + 1;
    for (int pe = 0; pe < npes; pe++)
        want += pe + 1;
    out[0] = out[1] = 0;
    CHECK(call(REDUCE, out, 1, 0) == 0 && out[0] == want, "reduce after %s %s of %zu, PE %d: %ld (%s)", after,
          names[op], n, odd, out[0], shmemx_last_error());
    CHECK(call(BROADCAST, out + 1, 1, odd) == 0 && out[1] == odd + 1,
          "broadcast after %s %s of %zu, PE %d: %ld (%s)", after, names[op], n, odd, out[1],
          shmemx_last_error());
    CHECK(shmemx_barrier(SHMEM_TEAM_WORLD) == 0, "%s", shmemx_last_error());
}

static void check_others(const char *what, int op, size_t n, int odd, int rc, bool all_see)
{
    CHECK(rc == SHMEMX_ERR_MISMATCH || (rc == 0 && !all_see), "%s %s of %zu, PE %d: %d here (%s)", what,
          names[op], n, odd, rc, shmemx_last_error());
    if (rc != 0)
        CHECK(strstr(shmemx_last_error(), "PE ") != NULL, "no PE named: %s", shmemx_last_error());
}

/* The PE `odd` gives a private dest. Who needs nothing of it need not know: in a broadcast all but the
 * readers of its data; in a collect a member to whom all the data came. */
static void test_refused(int op, size_t n, int odd)
{
    static long private_[4];
    for (size_t i = 0; i < n; i++)
        source[i] = 100000L * (me + 1) + (long)i;
    memset(dest, 0, sizeof *dest * n * (size_t)npes);
    shmem_barrier_all();
    int rc = call(op, me == odd ? private_ : dest, n, 0);
    if (me == odd)
        CHECK(rc == SHMEMX_ERR_ADDRESS, "refused %s of %zu: %d", names[op], n, rc);
    else
        check_others("refused", op, n, odd, rc, op != COLLECT && (op != BROADCAST || odd == 0));
    size_t wrong = 0;
    for (size_t i = 0; op == COLLECT && me != odd && rc == 0 && i < n * (size_t)npes; i++)
        wrong += dest[i] != 100000L * (long)(i / n + 1) + (long)(i % n);
    CHECK(wrong == 0, "collect of %zu, refused by PE %d, succeeded here without %zu words", n, odd, wrong);
    works("refused", op, n, odd);
}

/* Its size differs; in a broadcast the root does not look at the others. */
static void test_size(int op, size_t n, size_t other, int odd)
{
    int rc = call(op, dest, me == odd ? other : n, 0);
    check_others("another size in", op, n, odd, rc, op != BROADCAST);
    CHECK(op != BROADCAST || me == 0 || rc != 0 || (me != odd && odd != 0),
          "broadcast of %zu, not %zu: no error", n, other);
    works("another size in", op, n, odd);
}

/* It is in another call. */
static void test_call(int op, int other, size_t n, int odd)
{
    int rc = call(me == odd ? other : op, dest, n, 0);
    check_others("another call than", op, n, odd, rc, op != BROADCAST && other != BROADCAST);
    works("another call than", op, n, odd);
}

int main(void)
{
    static const size_t sizes[] = {1, 700, 1500};
    pes_begin();
    shmemx_log_errors(0);
    dest = pes_alloc(sizeof *dest * WORDS);
    source = pes_alloc(sizeof *source * WORDS);
    for (int odd = 0; odd < npes; odd++)
        for (int op = 0; op < OPS; op++)
            for (size_t i = 0; i < 3; i++) {
                if (op != SYNC)
                    test_refused(op, sizes[i], odd);
                if (op != SYNC && op != COLLECT) { /* collect takes what each gives */
                    test_size(op, sizes[i], sizes[(i + 1) % 3], odd);
                    test_size(op, sizes[i], sizes[i] + 1, odd);
                    test_size(op, sizes[i], 0, odd);
                }
                for (int other = 0; other < OPS; other++)
                    if (other != op)
                        test_call(op, other, sizes[i], odd);
            }
    return pes_end();
}
