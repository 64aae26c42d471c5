/* SHMEM_THREAD_MULTIPLE: several threads of every PE put, get, add, wait and reduce at once. */
#include <pthread.h>

#include "pes.h"

enum { THREADS = 4, ROUNDS = 150, WORDS = 40 };

/* check.h counts without a lock. */
static pthread_mutex_t check_lock = PTHREAD_MUTEX_INITIALIZER;
#define SAFE_CHECK(condition, ...)                                                                           \
    do {                                                                                                     \
        bool holds = (condition);                                                                            \
        pthread_mutex_lock(&check_lock);                                                                     \
        (void)(holds ? check_pass() : check_fail(__FILE__, __LINE__, #condition, __VA_ARGS__));              \
        pthread_mutex_unlock(&check_lock);                                                                   \
    } while (0)

static long *counter, *tickets, *inbox, *flags, *shared_lock, *guarded, *cells;
static uint64_t *signals;
static shmem_team_t teams[THREADS];

static void run(void *(*body)(void *))
{
    pthread_t threads[THREADS];
    shmem_barrier_all();
    for (long t = 0; t < THREADS; t++)
        if (pthread_create(&threads[t], NULL, body, (void *)t) != 0)
            shmem_global_exit(3);
    for (int t = 0; t < THREADS; t++)
        pthread_join(threads[t], NULL);
    shmem_barrier_all();
}

/* All threads of all PEs add to every PE's counter. */
static void *add(void *argument)
{
    long last = -1, t = (long)argument;
    for (int i = 0; i < ROUNDS; i++) {
        for (int pe = 0; pe < npes; pe++)
            shmem_long_atomic_add(counter, t + 1, pe);
        long ticket = shmem_long_atomic_fetch_inc(tickets, npes - 1);
        SAFE_CHECK(ticket > last, "%ld after %ld", ticket, last);
        last = ticket;
    }
    return NULL;
}

/* Thread t plays with thread t of the neighbours, with data of its own. */
static void *play(void *argument)
{
    const long t = (long)argument;
    const int to = (me + 1) % npes, from = (me - 1 + npes) % npes;
    long row[WORDS], back[WORDS], *box = inbox + t * WORDS;
    for (unsigned round = 1; round <= ROUNDS; round++) {
        for (size_t i = 0; i < WORDS; i++)
            row[i] = mix(me * THREADS + (int)t, i, round);
        if (round % 2) {
            shmem_long_put_signal(box, row, WORDS, signals + t, round, SHMEM_SIGNAL_SET, to);
        } else {
            shmem_long_put_nbi(box, row, WORDS, to);
            shmem_fence();
            shmem_signal_set(signals + t, round, to);
        }
        uint64_t got = shmem_signal_wait_until(signals + t, SHMEM_CMP_GE, round);
        SAFE_CHECK(got == round, "%lu in round %u", (unsigned long)got, round);
        size_t wrong = 0;
        for (size_t i = 0; i < WORDS; i++)
            wrong += box[i] != mix(from * THREADS + (int)t, i, round);
        SAFE_CHECK(wrong == 0, "round %u: %zu words from thread %ld of PE %d", round, wrong, t, from);
        shmem_long_get(back, box, WORDS, to);
        SAFE_CHECK(memcmp(back, row, sizeof row) == 0, "round %u: read back", round);
        shmem_long_p(flags + t, (long)round, from); /* the box may be filled again */
        shmem_long_wait_until(flags + t, SHMEM_CMP_GE, (long)round);
        shmem_quiet();
    }
    return NULL;
}

/* Threads of one PE wait for one another. */
static void *relay(void *argument)
{
    const long t = (long)argument;
    for (long lap = 0; lap < ROUNDS; lap++) {
        shmem_long_wait_until(cells, SHMEM_CMP_EQ, lap * THREADS + t);
        if ((lap + t) % 2)
            shmem_long_p(cells, lap * THREADS + t + 1, me);
        else
            shmem_long_atomic_inc(cells, me);
    }
    return NULL;
}

/* Contexts come and go in all threads. */
static void *contexts(void *argument)
{
    const long t = (long)argument;
    const int to = (me + 1) % npes;
    for (long round = 0; round < ROUNDS; round++) {
        shmem_ctx_t ctx;
        SAFE_CHECK(shmem_ctx_create(round % 2 ? SHMEM_CTX_PRIVATE : 0, &ctx) == 0, "%s", shmemx_last_error());
        long value = me * 1000000L + t * 10000 + round, got = 0;
        shmem_ctx_long_put_nbi(ctx, inbox + t, &value, 1, to);
        shmem_ctx_quiet(ctx);
        shmem_ctx_long_get_nbi(ctx, &got, inbox + t, 1, to);
        shmem_ctx_quiet(ctx);
        SAFE_CHECK(got == value, "%ld, not %ld", got, value);
        shmem_ctx_destroy(ctx);
    }
    return NULL;
}

/* Each thread has a team of its own (all PEs) and calls collectives on it. */
static void *collect(void *argument)
{
    const long t = (long)argument;
    long *in = inbox + t * WORDS, *out = cells + t * WORDS;
    for (unsigned round = 0; round < ROUNDS; round++) {
        size_t n = 1 + round % WORDS, wrong = 0;
        const int root = (int)round % npes;
        for (size_t i = 0; i < n; i++)
            in[i] = (long)mix(me, i, round) + t;
        SAFE_CHECK(shmem_long_sum_reduce(teams[t], out, in, n) == 0, "%s", shmemx_last_error());
        for (size_t i = 0; i < n; i++) {
            long want = 0;
            for (int pe = 0; pe < npes; pe++)
                want += (long)mix(pe, i, round) + t;
            wrong += out[i] != want;
        }
        SAFE_CHECK(wrong == 0, "round %u, thread %ld: %zu of %zu sums", round, t, wrong, n);
        SAFE_CHECK(shmem_team_sync(teams[t]) == 0, "%s", shmemx_last_error());
        SAFE_CHECK(shmem_long_broadcast(teams[t], out, in, n, root) == 0, "%s", shmemx_last_error());
        SAFE_CHECK(out[0] ==
                       (long)mix(shmem_team_translate_pe(teams[t], root, SHMEM_TEAM_WORLD), 0, round) + t,
                   "round %u: broadcast", round);
        SAFE_CHECK(shmem_team_sync(teams[t]) == 0, "%s", shmemx_last_error());
    }
    return NULL;
}

/* Teams made and destroyed in all threads, each out of its thread's own. */
static void *split(void *argument)
{
    const long t = (long)argument;
    for (int round = 0; round < ROUNDS / 5; round++) {
        shmem_team_t team;
        long *in = inbox + t * WORDS, *out = cells + t * WORDS;
        SAFE_CHECK(shmem_team_split_strided(teams[t], 0, 1, 1 + round % npes, NULL, 0, &team) == 0, "%s",
                   shmemx_last_error());
        if (team == SHMEM_TEAM_INVALID)
            continue;
        *in = t + 1;
        SAFE_CHECK(shmem_long_sum_reduce(team, out, in, 1) == 0, "%s", shmemx_last_error());
        SAFE_CHECK(*out == (t + 1) * shmem_team_n_pes(team), "round %d, thread %ld: sum %ld over %d", round,
                   t, *out, shmem_team_n_pes(team));
        shmem_team_destroy(team);
    }
    return NULL;
}

/* The lock is the PE's: among its threads a mutex decides, among the PEs the lock. */
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static void *locking(void *argument)
{
    (void)argument;
    for (int i = 0; i < ROUNDS / 3; i++) {
        pthread_mutex_lock(&turn);
        shmem_set_lock(shared_lock);
        shmem_long_p(guarded, shmem_long_g(guarded, 0) + 1, 0);
        shmem_clear_lock(shared_lock);
        pthread_mutex_unlock(&turn);
    }
    return NULL;
}

/* The last error is each thread's own. */
static void *errors(void *argument)
{
    const long t = (long)argument;
    char wanted[32];
    snprintf(wanted, sizeof wanted, "%ld", 1000 + t);
    SAFE_CHECK(shmemx_last_error()[0] == 0, "a new thread has an error: %s", shmemx_last_error());
    for (int i = 0; i < ROUNDS; i++) {
        SAFE_CHECK(shmemx_put(SHMEM_CTX_DEFAULT, counter, counter, 0, 1000 + (int)t) == SHMEMX_ERR_PE,
                   "PE %s", wanted);
        SAFE_CHECK(strstr(shmemx_last_error(), wanted) != NULL, "%s is not in: %s", wanted,
                   shmemx_last_error());
    }
    return NULL;
}

int main(void)
{
    int provided = -1;
    CHECK(shmem_init_thread(SHMEM_THREAD_MULTIPLE, &provided) == 0, "%s", shmemx_last_error());
    CHECK(provided == SHMEM_THREAD_MULTIPLE, "level %d", provided);
    me = shmem_my_pe();
    npes = shmem_n_pes();
    check_pe = me;
    counter = pes_alloc(sizeof(long));
    tickets = pes_alloc(sizeof(long));
    inbox = pes_alloc(sizeof(long) * THREADS * WORDS);
    flags = pes_alloc(sizeof(long) * THREADS);
    signals = pes_alloc(sizeof(uint64_t) * THREADS);
    cells = pes_alloc(sizeof(long) * THREADS * WORDS);
    shared_lock = pes_alloc(sizeof(long));
    guarded = pes_alloc(sizeof(long));
    for (int t = 0; t < THREADS; t++)
        CHECK(shmem_team_split_strided(SHMEM_TEAM_WORLD, t % 2 ? npes - 1 : 0, t % 2 ? -1 : 1, npes, NULL, 0,
                                       &teams[t]) == 0,
              "%s", shmemx_last_error());

    run(add);
    CHECK(*counter == (long)ROUNDS * npes * THREADS * (THREADS + 1) / 2, "sum %ld", *counter);
    CHECK(me != npes - 1 || *tickets == (long)ROUNDS * npes * THREADS, "%ld tickets", *tickets);
    run(play);
    run(relay);
    CHECK(*cells == (long)ROUNDS * THREADS, "the relay ended at %ld", *cells);
    run(contexts);
    run(collect);
    run(split);
    run(locking);
    CHECK(me != 0 || *guarded == (long)(ROUNDS / 3) * THREADS * npes, "%ld of them under the lock", *guarded);
    shmemx_log_errors(0);
    run(errors);
    shmemx_log_errors(1);

    for (int t = 0; t < THREADS; t++)
        shmem_team_destroy(teams[t]);
    return pes_end();
}
