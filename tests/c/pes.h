/* What every C test of the public API starts with: the job, random numbers, values of every type. */
#ifndef TESTS_PES_H
#define TESTS_PES_H

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "shmemx.h"

static int me, npes;
/* Two streams of random numbers: one gives every PE the same, the other is this PE's own. */
static uint64_t common_state = 20, own_state;

static inline uint64_t random_next(uint64_t *state) /* splitmix64 (Steele, Lea, Flood 2014) */
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static inline size_t common_random(size_t below)
{
    return (size_t)(random_next(&common_state) % below);
}

static inline size_t own_random(size_t below)
{
    return (size_t)(random_next(&own_state) % below);
}

static inline double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static inline void doze(long microseconds)
{
    struct timespec t = {microseconds / 1000000, microseconds % 1000000 * 1000};
    nanosleep(&t, NULL);
}

/* Nothing, a yield or up to 200 us of sleep: PEs come to the next call in any order. */
static inline void dawdle(void)
{
    switch (own_random(8)) {
    case 0:
        doze((long)own_random(200));
        break;
    case 1:
    case 2:
        sched_yield();
        break;
    default:
        break;
    }
}

/* After the program's own call of init. */
static inline void pes_joined(void)
{
    me = shmem_my_pe();
    npes = shmem_n_pes();
    own_state = 1000u + (uint64_t)me;
    check_pe = me;
}

static inline void pes_begin(void)
{
    shmem_init();
    pes_joined();
}

static inline int pes_end(void)
{
    shmem_finalize();
    return check_done();
}

/* A handful of teams that this PE may be in; those it is not in are SHMEM_TEAM_INVALID. Collective. */
enum { SOME_TEAMS = 7 };
static inline void pes_teams(shmem_team_t teams[SOME_TEAMS])
{
    const int odds = npes / 2;
    teams[0] = SHMEM_TEAM_WORLD;
    teams[1] = SHMEM_TEAM_SHARED;
    shmem_team_split_strided(SHMEM_TEAM_WORLD, npes - 1, -1, npes, NULL, 0, &teams[2]); /* reversed */
    shmem_team_split_strided(SHMEM_TEAM_WORLD, 0, 2, (npes + 1) / 2, NULL, 0, &teams[3]);
    teams[4] = SHMEM_TEAM_INVALID;
    if (odds)
        shmem_team_split_strided(SHMEM_TEAM_WORLD, 2 * odds - 1, -2, odds, NULL, 0, &teams[4]);
    shmem_team_split_2d(SHMEM_TEAM_WORLD, 3, NULL, 0, &teams[5], NULL, 0, &teams[6]);
}

static inline void pes_teams_destroy(shmem_team_t teams[SOME_TEAMS])
{
    shmem_barrier_all();
    for (int i = 2; i < SOME_TEAMS; i++)
        shmem_team_destroy(teams[i]);
}

/* Zeroed symmetric memory; without it no test can go on. With PES_MEMORY=gpu of the GPU heap on the fake driver (fake_cuda.c),
 * whose memory the test's own loads and stores reach. */
static inline void *pes_alloc(size_t bytes)
{
    const char *where = getenv("PES_MEMORY");
    bool gpu = where && strcmp(where, "gpu") == 0;
    void *p = shmemx_calloc(1, bytes, gpu ? SHMEMX_MEM_DEVICE : SHMEMX_MEM_HOST);
    if (p == NULL) {
        fprintf(stderr, "no symmetric memory for %zu bytes: %s\n", bytes, shmemx_last_error());
        shmem_global_exit(3);
    }
    return p;
}

/* Ordinary memory for `bytes`, zeroed. */
static inline void *pes_private(size_t bytes)
{
    void *p = calloc(1, bytes ? bytes : 1);
    if (p == NULL) {
        fprintf(stderr, "no memory for %zu bytes\n", bytes);
        shmem_global_exit(3);
    }
    return p;
}

/* The value of type T that stands for number x: exact in T, and different for near numbers. */
#define VALUE(T, x)                                                                                          \
    ((T)(sizeof(T) == 1 ? (x) * 37u % 101u : sizeof(T) == 2 ? (x) * 37u % 32003u : (x) % 16777213u))

/* One number for (who, index, salt): what PE `who` sends as element `i` in exchange number `salt`. */
static inline unsigned mix(int who, size_t i, unsigned salt)
{
    return (unsigned)who * 7919u + (unsigned)i * 13u + salt * 104729u + 5u;
}

#endif
