/* Nonblocking collectives against the blocking ones: every type and operation, several open at once, teams in different orders,
 * blocking collectives of the same team meanwhile, threads; wrong requests and arguments; the ends of teams and of the job
 * with requests open. */
#include <complex.h>
#include <pthread.h>
#include <sys/wait.h>

#include "pes.h"

enum {
    SMALL = 5,
    LARGE = 3000,
    ROOM = 16 * LARGE
}; /* elements; ROOM: bytes of a block of the largest type */
static unsigned char *dest, *source, *wanted;
static unsigned salt;
static shmem_team_t world;

#define WAITED(REQUEST, CODE, ...)                                                                           \
    do {                                                                                                     \
        int code = shmemx_request_wait(REQUEST);                                                             \
        CHECK(code == (CODE) && *(REQUEST) == SHMEMX_REQUEST_NULL, __VA_ARGS__);                             \
    } while (0)

/* ---- every type ------------------------------------------------------------------------------------------------------------ */

static void fill(size_t bytes)
{
    uint64_t state = (uint64_t)me * 1000003u + ++salt;
    for (size_t i = 0; i < bytes; i++)
        source[i] = (unsigned char)(random_next(&state) % 64); /* no float of these bytes is a NaN */
    memset(dest, 7, bytes * (size_t)npes);
    memset(wanted, 7, bytes * (size_t)npes);
    shmem_barrier_all();
}

/* The blocking call gives `wanted`, the other dest: the same bytes, and the same beyond the end. */
#define AGREE(NAME, T, n, START, BLOCKING)                                                                   \
    do {                                                                                                     \
        fill(sizeof(T) * ((n) + 1) * (size_t)npes);                                                          \
        shmemx_request_t r;                                                                                  \
        int rc = START;                                                                                      \
        CHECK(rc == 0, NAME ": start gave %d: %s", rc, shmemx_last_error());                                 \
        rc = BLOCKING; /* meanwhile */                                                                       \
        CHECK(rc == 0, NAME ": %s", shmemx_last_error());                                                    \
        WAITED(&r, 0, NAME ": wait: %s", shmemx_last_error());                                               \
        CHECK(memcmp(dest, wanted, sizeof(T) * ((n) + 1) * (size_t)npes) == 0,                               \
              NAME " of %zu elements differs from the blocking one", (size_t)(n));                           \
    } while (0)

#define MOVES(NAME, T, CORE)                                                                                 \
    static void moves_##NAME(shmem_team_t team, size_t n)                                                    \
    {                                                                                                        \
        T *to = (T *)dest, *want = (T *)wanted, *from = (T *)source;                                         \
        const int root = (int)common_random((size_t)shmem_team_n_pes(team));                                 \
        AGREE(#NAME "_broadcast", T, n, shmemx_##NAME##_broadcast_nb(team, to, from, n, root, &r),           \
              shmem_##NAME##_broadcast(team, want, from, n, root));                                          \
        AGREE(#NAME "_collect", T, n, shmemx_##NAME##_collect_nb(team, to, from, n, &r),                     \
              shmem_##NAME##_collect(team, want, from, n));                                                  \
        AGREE(#NAME "_fcollect", T, n, shmemx_##NAME##_fcollect_nb(team, to, from, n, &r),                   \
              shmem_##NAME##_fcollect(team, want, from, n));                                                 \
        AGREE(#NAME "_alltoall", T, n, shmemx_##NAME##_alltoall_nb(team, to, from, n, &r),                   \
              shmem_##NAME##_alltoall(team, want, from, n));                                                 \
        AGREE(#NAME "_alltoalls", T, n, shmemx_##NAME##_alltoalls_nb(team, to, from, 2, 1, (n + 1) / 2, &r), \
              shmem_##NAME##_alltoalls(team, want, from, 2, 1, (n + 1) / 2));                                \
    }
SHMEM_TYPES_RMA(MOVES)

#define REDUCES(NAME, T, OP)                                                                                 \
    AGREE(#NAME "_" #OP, T, n, shmemx_##NAME##_##OP##_nb(team, to, from, n, &r),                             \
          shmem_##NAME##_##OP(team, want, from, n))
#define DEFINE(KIND, NAME, T, ...)                                                                           \
    static void KIND##_##NAME(shmem_team_t team, size_t n)                                                   \
    {                                                                                                        \
        T *to = (T *)dest, *want = (T *)wanted, *from = (T *)source;                                         \
        __VA_ARGS__                                                                                          \
    }
#define BITWISE(NAME, T, CORE)                                                                               \
    DEFINE(bitwise, NAME, T, REDUCES(NAME, T, and_reduce); REDUCES(NAME, T, or_reduce);                      \
           REDUCES(NAME, T, xor_reduce);)
#define ORDERED(NAME, T, CORE)                                                                               \
    DEFINE(ordered, NAME, T, REDUCES(NAME, T, max_reduce); REDUCES(NAME, T, min_reduce);)
#define ARITHMETIC(NAME, T, CORE)                                                                            \
    DEFINE(arithmetic, NAME, T, REDUCES(NAME, T, sum_reduce); REDUCES(NAME, T, prod_reduce);                 \
           REDUCES(NAME, T, sum_inscan); REDUCES(NAME, T, sum_exscan);)
SHMEM_TYPES_REDUCE_BITWISE(BITWISE)
SHMEM_TYPES_REDUCE_ORDERED(ORDERED)
SHMEM_TYPES_REDUCE_ORDERED(ARITHMETIC)
SHMEM_TYPES_COMPLEX(ARITHMETIC)

static void test_types(const shmem_team_t *teams)
{
#define RUN(NAME, T, CORE) moves_##NAME(world, SMALL);
    SHMEM_TYPES_RMA(RUN)
#undef RUN
#define RUN(NAME, T, CORE) bitwise_##NAME(world, SMALL);
    SHMEM_TYPES_REDUCE_BITWISE(RUN)
#undef RUN
#define RUN(NAME, T, CORE) ordered_##NAME(world, SMALL);
    SHMEM_TYPES_REDUCE_ORDERED(RUN)
#undef RUN
#define RUN(NAME, T, CORE) arithmetic_##NAME(world, SMALL);
    SHMEM_TYPES_REDUCE_ORDERED(RUN)
    SHMEM_TYPES_COMPLEX(RUN)
#undef RUN
    static const size_t counts[] = {0, 1, 511, LARGE};
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
        moves_short(world, counts[c]);
        moves_longdouble(world, counts[c]);
        arithmetic_double(world, counts[c]);
        ordered_int(world, counts[c]);
        bitwise_uint64(world, counts[c]);
    }
    for (int t = 1; t < SOME_TEAMS; t++) { /* all come to the barriers of fill() as often */
        shmem_barrier_all();
        if (teams[t] == SHMEM_TEAM_INVALID)
            continue;
        long *in = (long *)source, *sum = (long *)dest, n = shmem_team_n_pes(teams[t]);
        shmemx_request_t r;
        for (size_t i = 0; i < LARGE; i++)
            in[i] = (long)i * 3 + t;
        CHECK(shmemx_long_sum_reduce_nb(teams[t], sum, in, LARGE, &r) == 0, "%s", shmemx_last_error());
        WAITED(&r, 0, "team %d: %s", t, shmemx_last_error());
        CHECK(sum[5] == n * in[5] && sum[LARGE - 1] == n * in[LARGE - 1], "team %d: %ld", t, sum[5]);
        shmem_team_sync(teams[t]);
    }
    shmem_barrier_all();
    CHECK(shmemx_barrier_nb(world, &(shmemx_request_t){0}) == 0, "nobody waits for it: %s",
          shmemx_last_error());
}

/* ---- many at once ---------------------------------------------------------------------------------------------------------- */

enum { OPEN = 24 };

/* Teams in an order of each PE's own, the collectives of one team in the same; ended in another order, in all ways. */
static void test_many(const shmem_team_t *teams)
{
    long *in = (long *)source, *out = (long *)dest, *meanwhile = (long *)wanted;
    int order[SOME_TEAMS];
    for (int round = 0; round < 12; round++) {
        shmemx_request_t r[SOME_TEAMS * OPEN] = {0};
        const int each = round % 3 == 0 ? OPEN : 3;
        for (int t = 0; t < SOME_TEAMS; t++)
            order[t] = t;
        for (int t = SOME_TEAMS - 1; t > 0; t--) {
            int other = (int)own_random((size_t)t + 1), swap = order[t];
            order[t] = order[other], order[other] = swap;
        }
        for (int i = 0; i < SOME_TEAMS * OPEN; i++)
            in[i] = (me + 1) * 1000L + i, out[i] = -1;
        shmem_barrier_all();
        for (int k = 0; k < SOME_TEAMS; k++) {
            int t = order[k];
            for (int i = t * OPEN; i < t * OPEN + each && teams[t] != SHMEM_TEAM_INVALID; i++) {
                CHECK(shmemx_long_max_reduce_nb(teams[t], out + i, in + i, 1, &r[i]) == 0, "%s",
                      shmemx_last_error());
                dawdle();
            }
        }
        meanwhile[0] = me;
        shmem_sync_all();
        CHECK(shmem_long_sum_reduce(world, meanwhile + 1, meanwhile, 1) == 0 &&
                  meanwhile[1] == npes * (npes - 1L) / 2,
              "blocking, meanwhile: %ld (%s)", meanwhile[1], shmemx_last_error());
        if (round % 4 == 0) {
            CHECK(shmemx_request_wait_all(r, SOME_TEAMS * OPEN) == 0, "%s", shmemx_last_error());
        } else if (round % 4 == 1) {
            for (size_t at = 0, n = 0; at != SIZE_MAX && n <= SOME_TEAMS * OPEN; n++) {
                CHECK(shmemx_request_wait_any(r, SOME_TEAMS * OPEN, &at) == 0, "%s", shmemx_last_error());
                CHECK(at == SIZE_MAX || (r[at] == SHMEMX_REQUEST_NULL && out[at] >= 0), "number %zu", at);
            }
        } else {
            for (int k = SOME_TEAMS * OPEN - 1; k >= 0; k--) {
                int done = round % 4 == 3;
                while (!done)
                    CHECK(shmemx_request_test(&r[k], &done) == 0, "%s", shmemx_last_error());
                CHECK(shmemx_request_wait(&r[k]) == 0, "%s", shmemx_last_error());
            }
        }
        for (int t = 0; t < SOME_TEAMS; t++) {
            long last = 0;
            for (int j = 0; teams[t] != SHMEM_TEAM_INVALID && j < shmem_team_n_pes(teams[t]); j++) {
                int pe = shmem_team_translate_pe(teams[t], j, world);
                last = pe > last ? pe : last;
            }
            for (int i = t * OPEN; i < t * OPEN + each; i++)
                CHECK(r[i] == SHMEMX_REQUEST_NULL &&
                          (teams[t] == SHMEM_TEAM_INVALID || out[i] == (last + 1) * 1000 + i),
                      "round %d, team %d, %d: %ld", round, t, i, out[i]);
        }
        shmem_barrier_all();
    }
}

/* Started by one thread, ended by another; each thread has its team. */
struct duty {
    shmem_team_t team;
    shmemx_request_t request;
    long *in, *out;
    int rc;
};

static void *wait_for(void *argument)
{
    struct duty *d = argument;
    d->rc = shmemx_request_wait(&d->request);
    for (int i = 0; i < 20 && d->rc == 0; i++) {
        d->rc = shmemx_long_sum_reduce_nb(d->team, d->out, d->in, 1, &d->request);
        d->rc = d->rc ? d->rc : shmemx_request_wait(&d->request);
    }
    return NULL;
}

static void test_threads(void)
{
    enum { THREADS = 3 };
    struct duty duties[THREADS];
    pthread_t threads[THREADS];
    for (int t = 0; t < THREADS; t++) {
        struct duty *d = &duties[t];
        d->in = (long *)source + t, d->out = (long *)dest + t;
        *d->in = me + t;
        CHECK(shmem_team_split_strided(world, 0, 1, npes, NULL, 0, &d->team) == 0, "%s", shmemx_last_error());
        shmem_barrier_all();
        CHECK(shmemx_long_sum_reduce_nb(d->team, d->out, d->in, 1, &d->request) == 0, "%s",
              shmemx_last_error());
    }
    for (int t = 0; t < THREADS; t++)
        if (pthread_create(&threads[t], NULL, wait_for, &duties[t]) != 0)
            shmem_global_exit(3);
    for (int t = 0; t < THREADS; t++) {
        pthread_join(threads[t], NULL);
        CHECK(duties[t].rc == 0 && *duties[t].out == npes * (npes - 1L) / 2 + (long)npes * t,
              "thread %d: %d, %ld", t, duties[t].rc, *duties[t].out);
        shmem_team_destroy(duties[t].team);
    }
}

/* ---- what is wrong --------------------------------------------------------------------------------------------------------- */

static void test_requests(void)
{
    shmemx_request_t none = SHMEMX_REQUEST_NULL, r, copy, list[2];
    int done = 0;
    size_t at = 0;
    CHECK(shmemx_sync_nb(world, NULL) == SHMEMX_ERR_ARGUMENT, "no request");
    CHECK(shmemx_request_wait(NULL) == SHMEMX_ERR_ARGUMENT, "no request");
    CHECK(shmemx_request_test(&none, NULL) == SHMEMX_ERR_ARGUMENT, "no done");
    CHECK(shmemx_request_test(NULL, &done) == SHMEMX_ERR_ARGUMENT, "no request");
    CHECK(shmemx_request_wait_all(NULL, 1) == SHMEMX_ERR_ARGUMENT, "no list");
    CHECK(shmemx_request_wait_any(&none, 1, NULL) == SHMEMX_ERR_ARGUMENT, "no index");
    CHECK(shmemx_request_wait(&none) == 0 && shmemx_request_test(&none, &done) == 0 && done == 1,
          "null is done");
    CHECK(shmemx_request_wait_any(&none, 1, &at) == 0 && at == SIZE_MAX, "index %zu", at);
    CHECK(shmemx_request_wait_all(NULL, 0) == 0, "an empty list");
    r = (shmemx_request_t)(uintptr_t)12345;
    CHECK(shmemx_request_wait(&r) == SHMEMX_ERR_ARGUMENT, "a handle out of the air");
    r = (shmemx_request_t)&done;
    CHECK(shmemx_request_test(&r, &done) == SHMEMX_ERR_ARGUMENT && !done, "a pointer");
    r = (shmemx_request_t)&done;
    CHECK(shmemx_sync_nb(SHMEM_TEAM_INVALID, &r) == SHMEMX_ERR_TEAM && r == SHMEMX_REQUEST_NULL, "no team");
    CHECK(shmemx_sync_nb(world, &r) == 0, "%s", shmemx_last_error());
    copy = r;
    WAITED(&r, 0, "%s", shmemx_last_error());
    CHECK(shmemx_request_wait(&copy) == SHMEMX_ERR_ARGUMENT, "waited for twice");
    CHECK(strstr(shmemx_last_error(), "waited for already") != NULL, "%s", shmemx_last_error());
    CHECK(shmemx_request_test(&copy, &done) == SHMEMX_ERR_ARGUMENT && !done, "tested after the wait");
    CHECK(shmemx_sync_nb(world, &list[0]) == 0, "%s", shmemx_last_error());
    list[1] = copy;
    CHECK(shmemx_request_wait_all(list, 2) == SHMEMX_ERR_ARGUMENT && list[0] == SHMEMX_REQUEST_NULL,
          "a bad one among them");
    pid_t child = fork();
    if (child == 0)
        _exit(shmemx_sync_nb(world, &r) == SHMEMX_ERR_NOT_INITIALIZED ? 0 : 1);
    int how = 0;
    waitpid(child, &how, 0);
    CHECK(how == 0, "a forked child starts a collective: %d", how);
}

static void test_limit(void)
{
    enum { MOST = 4096 - 1 }; /* test_types left one open */
    static shmemx_request_t r[MOST + 1];
    if (npes > 2)
        return; /* it is each PE's own */
    for (int i = 0; i < MOST; i++)
        CHECK(shmemx_sync_nb(world, &r[i]) == 0, "%d: %s", i, shmemx_last_error());
    CHECK(shmemx_sync_nb(world, &r[MOST]) == SHMEMX_ERR_LIMIT && r[MOST] == SHMEMX_REQUEST_NULL,
          "one more than can be");
    CHECK(shmemx_request_wait_all(r, MOST + 1) == 0, "%s", shmemx_last_error());
}

static void works(const char *after)
{
    long *in = (long *)source, *out = (long *)dest;
    shmemx_request_t r;
    *in = me + 1;
    *out = 0;
    shmem_barrier_all();
    CHECK(shmemx_long_sum_reduce_nb(world, out, in, 1, &r) == 0, "%s", shmemx_last_error());
    WAITED(&r, 0, "after %s: %s", after, shmemx_last_error());
    CHECK(*out == npes * (npes + 1L) / 2, "after %s: %ld", after, *out);
    shmem_barrier_all();
}

static void test_arguments(void)
{
    long here[4], *in = (long *)source, *out = (long *)dest;
    shmemx_request_t r, s;
    /* wrong everywhere */
    CHECK(shmemx_long_broadcast_nb(world, out, in, 1, npes, &r) == 0, "%s", shmemx_last_error());
    WAITED(&r, SHMEMX_ERR_PE, "root: %s", shmemx_last_error());
    CHECK(strstr(shmemx_last_error(), "shmemx_broadcast_nb: root") != NULL, "%s", shmemx_last_error());
    CHECK(shmemx_reduce_nb(world, SHMEMX_REDUCE_XOR, SHMEMX_FLOAT32, out, in, 1, &r) == 0, "%s",
          shmemx_last_error());
    WAITED(&r, SHMEMX_ERR_ARGUMENT, "xor of floats: %s", shmemx_last_error());
    CHECK(shmemx_long_fcollect_nb(world, out, in, SIZE_MAX / 2, &r) == 0, "%s", shmemx_last_error());
    WAITED(&r, SHMEMX_ERR_ADDRESS, "size: %s", shmemx_last_error());
    CHECK(shmemx_collectmem_nb(world, out, 3, in, 8, &r) == 0, "%s", shmemx_last_error());
    WAITED(&r, SHMEMX_ERR_ARGUMENT, "room: %s", shmemx_last_error());
    works("wrong arguments");
    if (npes == 1)
        return;
    /* wrong on one PE: the others hear of it */
    CHECK(shmemx_long_sum_reduce_nb(world, me == 1 ? here : out, in, 1, &r) == 0, "%s", shmemx_last_error());
    WAITED(&r, me == 1 ? SHMEMX_ERR_ADDRESS : SHMEMX_ERR_MISMATCH, "private dest: %d, %s", code,
           shmemx_last_error());
    works("a private dest");
    /* two in different orders, and a different root */
    int rc = me == 0 ? shmemx_long_sum_reduce_nb(world, out, in, 1, &r) : shmemx_sync_nb(world, &r);
    rc = rc ? rc : me == 0 ? shmemx_sync_nb(world, &s) : shmemx_long_sum_reduce_nb(world, out, in, 1, &s);
    CHECK(rc == 0, "%s", shmemx_last_error());
    WAITED(&r, SHMEMX_ERR_MISMATCH, "another order: %d, %s", code, shmemx_last_error());
    WAITED(&s, SHMEMX_ERR_MISMATCH, "another order: %d, %s", code, shmemx_last_error());
    CHECK(strstr(shmemx_last_error(), "PE ") != NULL, "no PE named: %s", shmemx_last_error());
    works("another order");
}

/* ---- ends ---------------------------------------------------------------------------------------------------------------- */

static void test_team_end(void)
{
    long *in = (long *)source, *out = (long *)dest;
    shmem_team_t team;
    shmemx_request_t r[9], none;
    for (int round = 0; round < 3; round++) { /* slots and their words are used again */
        CHECK(shmem_team_split_strided(world, 0, 1, npes, NULL, 0, &team) == 0, "%s", shmemx_last_error());
        for (int i = 0; i < 8; i++)
            in[i] = me + i, out[i] = -1;
        shmem_barrier_all();
        for (int i = 0; i < 8; i++)
            CHECK(shmemx_long_max_reduce_nb(team, out + i, in + i, 1, &r[i]) == 0, "%s", shmemx_last_error());
        /* one more on the last PE in the second round: it is given up, and everybody is told */
        const bool uneven = round == 1 && npes > 1;
        if (uneven && me == npes - 1)
            CHECK(shmemx_long_max_reduce_nb(team, out + 8, in, 1, &r[8]) == 0, "%s", shmemx_last_error());
        int rc = shmemx_team_destroy(team);
        CHECK(rc == (uneven ? SHMEMX_ERR_MISMATCH : 0), "destroy gave %d: %s", rc, shmemx_last_error());
        for (int i = 0; i < 8; i++) {
            WAITED(&r[i], 0, "%d: %s", i, shmemx_last_error());
            CHECK(out[i] == npes - 1 + i, "completed before the team's end: %ld", out[i]);
        }
        if (uneven && me == npes - 1)
            WAITED(&r[8], SHMEMX_ERR_INTERRUPTED, "given up: %d, %s", code, shmemx_last_error());
        CHECK(shmemx_sync_nb(team, &none) == SHMEMX_ERR_TEAM, "a team that has been destroyed");
    }
    /* nothing but what is given up: the team never had a twin */
    CHECK(shmem_team_split_strided(world, 0, 1, npes, NULL, 0, &team) == 0, "%s", shmemx_last_error());
    if (me == 0)
        CHECK(shmemx_sync_nb(team, &r[0]) == 0, "%s", shmemx_last_error());
    int rc = shmemx_team_destroy(team);
    CHECK(rc == (npes > 1 ? SHMEMX_ERR_MISMATCH : 0), "destroy gave %d: %s", rc, shmemx_last_error());
    if (me == 0)
        WAITED(&r[0], npes > 1 ? SHMEMX_ERR_INTERRUPTED : 0, "never begun: %d, %s", code,
               shmemx_last_error());
    works("teams that ended");
}

/* Finalize completes what all have started, and gives the rest up. */
static void test_job_end(void)
{
    long *in = (long *)source, *out = (long *)dest;
    shmemx_request_t r = SHMEMX_REQUEST_NULL, more = SHMEMX_REQUEST_NULL;
    in[0] = me;
    shmem_barrier_all();
    CHECK(shmemx_long_max_reduce_nb(world, out, in, 1, &r) == 0, "%s", shmemx_last_error());
    if (me == 0)
        CHECK(shmemx_sync_nb(world, &more) == 0, "%s", shmemx_last_error());
    const double start = seconds();
    int rc = shmemx_finalize();
    CHECK(rc == (npes > 1 ? SHMEMX_ERR_MISMATCH : 0), "finalize gave %d: %s", rc, shmemx_last_error());
    CHECK(seconds() - start < 30, "finalize took %.1f s", seconds() - start);
    CHECK(shmemx_request_wait(&r) == SHMEMX_ERR_NOT_INITIALIZED, "after finalize");
    shmem_init();
    CHECK(shmemx_request_wait(&r) == SHMEMX_ERR_ARGUMENT, "of a job that has ended");
    world = SHMEM_TEAM_WORLD;
    dest = pes_alloc(64), source = pes_alloc(64);
    works("another init");
    CHECK(shmemx_long_max_reduce_nb(world, (long *)dest, (long *)source, 1, &r) == 0, "open at the end: %s",
          shmemx_last_error());
}

int main(void)
{
    pes_begin();
    shmem_team_t teams[SOME_TEAMS];
    pes_teams(teams);
    world = SHMEM_TEAM_WORLD;
    size_t bytes = (size_t)(ROOM + 16) * (size_t)npes * (size_t)npes;
    bytes = bytes < 1 << 16 ? 1 << 16 : bytes;
    dest = pes_alloc(bytes);
    source = pes_alloc(bytes);
    wanted = pes_alloc(bytes);
    shmemx_log_errors(0);
    test_types(teams);
    test_many(teams);
    test_threads();
    test_requests();
    test_limit();
    test_arguments();
    test_team_end();
    pes_teams_destroy(teams);
    test_job_end();
    return pes_end();
}
