/* A context's quiet waits for that context's operations, not for those that others issued later. PE 0's NIC stops for ever
 * before a transfer of one context (fault "stall"); what came before it is complete all the same, what comes after it on the
 * same connection is not, and ends by SHMEM_TIMEOUT.
 *
 *     contexts first | burst | atomic     what the context has issued that shall not wait
 */
#include <errno.h>
#include <signal.h>

#include "base/base.h"
#include "pes.h"
#include "sim_faults.h"

enum { TARGET = 1, WORDS = 1 << 15, BURST = 100 };
static const double PATIENCE = 20, SHORT = 0.3; /* seconds */

static long *words, *source; /* [WORDS] */
static uint64_t *arrived, *answer;
static shmem_team_t alone; /* PE 0 */

static void set_faults(const char *text)
{
    CHECK(set_sim_faults(text), "no software NIC, or no fault %s", text);
}

static void issue(shmem_ctx_t ctx, const char *what)
{
    if (strcmp(what, "atomic") == 0)
        shmem_ctx_long_atomic_add(ctx, words, 1, TARGET);
    for (int i = 0; i < (strcmp(what, "burst") == 0 ? BURST : 1); i++)
        shmem_ctx_long_put_nbi(ctx, words + 1 + i, source + i, 1, TARGET);
    shmem_ctx_long_put_signal_nbi(ctx, words + 2000, source, 1000, arrived, (uint64_t)getpid(),
                                  SHMEM_SIGNAL_SET, TARGET);
}

/* The bytes are at the target, their completions may still be unseen. */
static void wait_for_answer(void)
{
    shmem_signal_wait_until(answer, SHMEM_CMP_EQ, 1);
}

static void ends_with(int want, const char *what, shmem_ctx_t ctx)
{
    static const int target = TARGET;
    const bool good = want == SHMEMX_SUCCESS;
    shmemi_env.TIMEOUT = good ? PATIENCE : SHORT;
    shmemx_log_errors(good);
    int rc = shmemx_fence(ctx);
    CHECK(rc == SHMEMX_SUCCESS, "fence of %s: %s", what, shmemx_last_error());
    rc = shmemx_quiet_pes(ctx, &target, 1);
    CHECK(rc == want, "pe_quiet of %s: %s", what, shmemx_error_name(rc));
    rc = shmemx_quiet(ctx);
    CHECK(rc == want, "quiet of %s: %s", what, shmemx_error_name(rc));
    shmemx_log_errors(1);
    shmemi_env.TIMEOUT = PATIENCE;
}

static void puts_and_quiets(const char *what)
{
    shmem_ctx_t before, idle, stuck, after;
    shmem_ctx_t *all[] = {&before, &idle, &stuck, &after};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        CHECK(shmem_ctx_create(i % 2 ? SHMEM_CTX_PRIVATE : 0, all[i]) == 0, "%s", shmemx_last_error());
    issue(before, what);
    wait_for_answer();
    /* the first request may be one of the library's own, which speaks for the context before */
    set_faults("stall=2");
    for (int i = 0; i < 3; i++)
        shmem_ctx_long_put_nbi(stuck, words, source, WORDS, TARGET);
    ends_with(SHMEMX_SUCCESS, "the context that came first", before);
    ends_with(SHMEMX_SUCCESS, "a context that has issued nothing", idle);
    ends_with(SHMEMX_SUCCESS, "the default context", SHMEM_CTX_DEFAULT);
    ends_with(SHMEMX_ERR_TIMEOUT, "the context that is under way", stuck);
    shmem_ctx_long_p(after, words, 1, TARGET);
    ends_with(SHMEMX_ERR_TIMEOUT, "a context behind it", after);
    ends_with(SHMEMX_SUCCESS, "the context that came first, again", before);
    shmemi_env.TIMEOUT = SHORT;
    shmemx_log_errors(0);
    CHECK(shmemx_barrier(alone) == SHMEMX_ERR_TIMEOUT, "a barrier is quiet of all contexts");
    shmemx_log_errors(1);
    shmemi_env.TIMEOUT = PATIENCE;
    CHECK(shmemx_ctx_destroy(before) == SHMEMX_SUCCESS, "%s", shmemx_last_error());
}

/* Answers, and lives as long as the other. */
static void be_the_target(void)
{
    shmem_signal_wait_until(arrived, SHMEM_CMP_NE, 0);
    pid_t other = (pid_t)*arrived;
    CHECK(words[1] == 1 && words[2000] == 1, "its bytes are not here: %ld %ld", words[1], words[2000]);
    shmem_signal_set(answer, 1, 0);
    shmem_quiet();
    for (double start = seconds(); kill(other, 0) == 0 && seconds() - start < 10 * PATIENCE;)
        doze(20000);
    CHECK(kill(other, 0) != 0 && errno == ESRCH, "process %d is still there", (int)other);
}

int main(int argc, char **argv)
{
    pes_begin();
    words = pes_alloc(sizeof *words * WORDS);
    source = pes_alloc(sizeof *source * WORDS);
    arrived = pes_alloc(sizeof *arrived);
    answer = pes_alloc(sizeof *answer);
    for (size_t i = 0; i < WORDS; i++)
        source[i] = 1;
    CHECK(shmem_team_split_strided(SHMEM_TEAM_WORLD, 0, 1, 1, NULL, 0, &alone) == 0, "%s",
          shmemx_last_error());
    shmem_barrier_all();
    if (me == TARGET)
        be_the_target();
    else
        puts_and_quiets(argc > 1 ? argv[1] : "first");
    shmemx_abandon(); /* there is no way to the other any more */
    return check_done();
}
