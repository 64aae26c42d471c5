#include "wait.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>

#include "node.h"

/* Measured on 2 processors (EPYC VM, 2 PEs): a flag crosses in 0.05-0.07 us, a pause takes 0.02 us, a sched_yield that
 * finds nobody else returns in 0.3 us. 128 spins are some 3 us: longer than any answer of a PE that is running now. 2000
 * spins were as fast alone, but on cores shared with other programs each wait then cost 55 us instead of 3. */
enum { SPINS = 128, YIELDS_PER_LOOK = 16 };
/* After this long without news, be it for a peer that this PE serves, the other side computes: sleep so that it has the
 * processor to itself. */
static const double YIELD_SECONDS = 0.002, LOOK_SECONDS = 0.01, REPORT_SECONDS = 60;

unsigned shmemi_spin_limit = SPINS;

void shmemi_wait_setup(int pes_on_node, int processors)
{
    shmemi_spin_limit = pes_on_node > processors ? 0 : SPINS;
}

bool (*shmemi_wait_progress)(void);
static int (*find_lost)(char *why, size_t n);

void shmemi_wait_networks(bool (*progress)(void), int (*lost)(char *why, size_t n))
{
    shmemi_wait_progress = progress;
    find_lost = lost;
}

static int (*_Atomic interrupt)(void);
_Thread_local bool shmemi_wait_in_background;
_Thread_local const atomic_bool *shmemi_wait_given_up;

bool shmemi_wait_interrupted(void)
{
    int (*pending)(void) = atomic_load_explicit(&interrupt, memory_order_acquire);
    return pending && !shmemi_wait_in_background && pending();
}

void shmemx_set_interrupt(int (*pending)(void)); /* shmemx.h */

SHMEMX_API void shmemx_set_interrupt(int (*pending)(void))
{
    atomic_store_explicit(&interrupt, pending, memory_order_release);
}

static void describe(const struct shmemi_wait *w, char *text, size_t n)
{
    char who[32] = "any PE";
    if (w->pe >= 0)
        snprintf(who, sizeof who, "PE %d", w->pe);
    if (w->addr)
        snprintf(text, n, "waits for %s at address %p", who, (const void *)(uintptr_t)w->addr);
    else
        snprintf(text, n, "waits for %s", who);
}

int shmemi_wait_find_lost(char *why, size_t n)
{
    int pid, dead = shmemi_node_find_dead(&pid);
    if (dead >= 0) {
        snprintf(why, n, "PE %d (process %d) ended without shmem_finalize", dead, pid);
        return dead;
    }
    char cause[SHMEMI_LOST_BYTES - 32];
    dead = find_lost ? find_lost(cause, sizeof cause) : -1;
    if (dead >= 0)
        snprintf(why, n, "PE %d is lost: %s", dead, cause);
    return dead;
}

static int look(struct shmemi_wait *w, double now)
{
    char what[96], why[SHMEMI_LOST_BYTES];
    if (shmemi_wait_find_lost(why, sizeof why) >= 0) {
        describe(w, what, sizeof what);
        return shmemi_fail(SHMEMX_ERR_PEER_DEAD, w->call, "%s; this PE %s since %.1f s", why, what,
                           now - w->since);
    }
    if (shmemi_wait_interrupted()) {
        describe(w, what, sizeof what);
        return shmemi_fail(SHMEMX_ERR_INTERRUPTED, w->call,
                           "interrupted by a signal; this PE %s since %.1f s", what, now - w->since);
    }
    /* relaxed: who gives up joins this thread, or takes the lock that it holds next */
    if (shmemi_wait_given_up && atomic_load_explicit(shmemi_wait_given_up, memory_order_relaxed)) {
        describe(w, what, sizeof what);
        return shmemi_fail(SHMEMX_ERR_INTERRUPTED, w->call,
                           "its team or the job has ended; this PE %s since %.1f s", what, now - w->since);
    }
    double limit = shmemi_env.TIMEOUT;
    if (limit > 0 && now - w->since >= limit) {
        describe(w, what, sizeof what);
        return shmemi_fail(SHMEMX_ERR_TIMEOUT, w->call, "this PE %s since %.1f s; SHMEM_TIMEOUT=%g is over",
                           what, now - w->since, limit);
    }
    if (!w->reported && now - w->since >= REPORT_SECONDS) {
        w->reported = true;
        describe(w, what, sizeof what);
        shmemi_warn("%s: this PE %s since %.0f s and goes on waiting (SHMEM_TIMEOUT sets a deadline)",
                    w->call, what, now - w->since);
    }
    return SHMEMX_SUCCESS;
}

int shmemi_wait_slow(struct shmemi_wait *w)
{
    if (w->yields == 0) {
        w->since = shmemi_now();
        w->next_look = w->since + LOOK_SECONDS;
    }
    if (shmemi_wait_progress && shmemi_wait_progress())
        w->news = shmemi_now();
    if (++w->yields % YIELDS_PER_LOOK == 0) {
        double now = shmemi_now();
        if (now >= w->next_look) {
            int rc = look(w, now);
            if (rc)
                return rc;
            w->next_look = now + LOOK_SECONDS;
        }
        if (now - w->since > YIELD_SECONDS && now - w->news > YIELD_SECONDS) {
            /* one look in 16 steps is too rare once steps are long */
            w->yields = YIELDS_PER_LOOK - 1;
            struct timespec t = {.tv_nsec = 20000};
            nanosleep(&t, NULL);
            return SHMEMX_SUCCESS;
        }
    }
    sched_yield();
    return SHMEMX_SUCCESS;
}
