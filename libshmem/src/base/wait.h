/* Waiting: every loop of the library that waits for another PE goes through here.
 *
 * A wait spins for a short while, then gives the processor away at each step, and from then on looks for dead
 * PEs and for the deadline SHMEM_TIMEOUT. Use:
 *
 *     struct shmemi_wait w = SHMEMI_WAIT_FOR("shmem_barrier", pe, addr);
 *     while (load(addr) < value)
 *         if ((rc = shmemi_wait_step(&w)) != 0)
 *             return rc;          // logged: who waits for whom, on what address, since when
 */
#ifndef SHMEMI_WAIT_H
#define SHMEMI_WAIT_H

#include <stdatomic.h>

#include "base.h"

struct shmemi_wait {
    const char *call;          /* public name of the call that waits */
    const volatile void *addr; /* what it looks at, NULL = nothing to show */
    int pe;                    /* world number of the PE it waits for, -1 = any */
    unsigned spins, yields;
    double since, next_look, news; /* news: when a network last moved something */
    bool reported;
};
#define SHMEMI_WAIT_FOR(call_, pe_, addr_) {.call = (call_), .pe = (pe_), .addr = (addr_)}

/* Spins before the first yield: 0 when this node has more PEs than processors. */
extern unsigned shmemi_spin_limit;
/* Set at init from the number of PEs and of the processors they may use together. */
void shmemi_wait_setup(int pes_on_node, int processors);

/* What networks want of every wait: `progress` between two looks, `lost` every 10 ms (transport.h); NULL,
 * NULL = nothing. */
extern bool (*shmemi_wait_progress)(void);
void shmemi_wait_networks(bool (*progress)(void), int (*lost)(char *why, size_t n));

/* Room for why a PE is lost: a network's cause has operation, queue pairs and advice, 240 bytes and more. */
enum { SHMEMI_LOST_BYTES = 400 };
/* World number of a PE that is known to be gone, with the whole sentence in `why`; -1 = none. Never blocks. */
int shmemi_wait_find_lost(char *why, size_t n);
/* Set by a thread of the library's own, whose waits no signal of the program's should end. */
extern _Thread_local bool shmemi_wait_in_background;
/* Where a thread's waits look whether what they wait for has become pointless: then INTERRUPTED. NULL = it never does. */
extern _Thread_local const atomic_bool *shmemi_wait_given_up;
/* Does a signal of the program's want waits of this thread to end (shmemx_set_interrupt)? */
bool shmemi_wait_interrupted(void);

/* 0 = look again; TIMEOUT, PEER_DEAD or INTERRUPTED = give up, logged. */
SHMEMI_COLD int shmemi_wait_slow(struct shmemi_wait *w);

static inline void shmemi_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory");
#endif
}

/* Looking at a network's queues takes as long as some spins (0.1 us; in a virtual machine without
 * hardware's help 3 us, and there whoever is to answer may wait for this very processor). */
enum { SHMEMI_SPINS_OF_PROGRESS = 7 };

static inline int shmemi_wait_step(struct shmemi_wait *w)
{
    if (SHMEMI_LIKELY(w->spins < shmemi_spin_limit)) {
        w->spins++;
        if (SHMEMI_UNLIKELY(shmemi_wait_progress != NULL)) {
            w->spins += SHMEMI_SPINS_OF_PROGRESS;
            (void)shmemi_wait_progress();
        }
        shmemi_pause();
        return SHMEMX_SUCCESS;
    }
    return shmemi_wait_slow(w);
}

#endif
