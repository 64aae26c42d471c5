/* Collectives over active sets, deprecated: each is the team's collective.
 *
 * The first call over a set makes a team of it, and the later ones find that: `known`. Only members call, so they agree on
 * the team's slot among themselves, in words of pSync (team_agree.c). */
#include <pthread.h>
#include <stdlib.h>

#include "coll.h"

_Static_assert((int)SHMEMI_AGREE_WORDS <= (int)SHMEM_SYNC_SIZE && sizeof(long) == 8, "they fit pSync");
_Static_assert(SHMEM_SYNC_VALUE == 0, "their words begin so");

struct set {
    const char *call;
    int start, stride, n;      /* stride of PE numbers */
    struct shmemi_place words; /* pSync */
};

static struct known {
    int start, stride, n;
    shmem_team_t team;
    struct known *next;
} *known;
static unsigned known_job; /* the job that they are of */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Makes the team of a set. */
static int make(const struct set *s, shmem_team_t *team, bool *only_now)
{
    struct shmemi_team *world;
    uint64_t epoch;
    int rc = 0, slot, *pes;
    if (!(world = shmemi_team_get(s->call, SHMEM_TEAM_WORLD, &rc)))
        return rc;
    if (!(pes = malloc(sizeof *pes * (size_t)s->n)))
        return shmemi_fail(SHMEMX_ERR_SYSTEM, s->call, "out of memory for a set of %d PEs", s->n);
    for (int i = 0; i < s->n; ++i)
        pes[i] = s->start + i * s->stride;
    /* where few are left they are for teams that the program makes */
    rc = shmemi_team_agree(&(struct shmemi_set){s->call, pes, s->n, s->words}, &slot, &epoch, only_now);
    free(pes);
    return rc ? rc : shmemi_team_join(s->call, world, slot, epoch, s->start, s->stride, s->n, NULL, 0, team);
}

static shmem_team_t find(const struct set *s)
{
    shmem_team_t team = SHMEM_TEAM_INVALID;
    pthread_mutex_lock(&lock);
    while (known && known_job != shmemi_world.jobs) { /* of a job that has ended */
        struct known *next = known->next;
        free(known);
        known = next;
    }
    known_job = shmemi_world.jobs;
    for (struct known *k = known; k && !team; k = k->next)
        if (k->start == s->start && k->stride == s->stride && k->n == s->n)
            team = k->team;
    pthread_mutex_unlock(&lock);
    return team;
}

static void remember(const struct set *s, shmem_team_t team)
{
    struct known *k = malloc(sizeof *k);
    if (!k)
        abort(); /* the other members will not make this team again */
    *k = (struct known){s->start, s->stride, s->n, team, NULL};
    pthread_mutex_lock(&lock);
    k->next = known;
    known = k;
    pthread_mutex_unlock(&lock);
}

/* The team of an active set; `only_now`: leave() destroys it. */
static int enter(const char *call, int start, int log_stride, int n, long *psync, shmem_team_t *team,
                 bool *only_now)
{
    int rc, me = shmemi_world.me, npes = shmemi_world.npes;
    *only_now = false;
    SHMEMI_REQUIRE_INIT(call);
    if (start < 0 || n < 1 || log_stride < 0 || log_stride > 30 ||
        (int64_t)start + ((int64_t)(n - 1) << log_stride) >= npes)
        return shmemi_fail(SHMEMX_ERR_PE, call,
                           "PE_start %d, logPE_stride %d, PE_size %d is no active set of PEs 0 to %d", start,
                           log_stride, n, npes - 1);
    struct set s = {call, start, n == 1 ? 1 : 1 << log_stride, n, {0}};
    if (me < start || (me - start) % s.stride != 0 || (me - start) / s.stride >= n)
        return shmemi_fail(SHMEMX_ERR_PE, call,
                           "PE %d is not in the active set PE_start %d, logPE_stride %d, PE_size %d", me,
                           start, log_stride, n);
    if ((rc = shmemi_locate(call, "pSync", psync, SHMEMI_AGREE_WORDS * sizeof *psync, &s.words)) != 0)
        return rc;
    if (s.words.segment != SHMEMI_SEGMENT_HOST)
        return shmemi_fail(SHMEMX_ERR_UNSUPPORTED, call, "pSync %p is in the GPU heap", (void *)psync);
    if ((uintptr_t)psync % sizeof *psync)
        return shmemi_fail(SHMEMX_ERR_ADDRESS, call, "pSync %p is not aligned to 8 bytes", (void *)psync);
    *team = n == npes ? SHMEM_TEAM_WORLD : find(&s);
    if (*team)
        return SHMEMX_SUCCESS;
    rc = make(&s, team, only_now);
    if (rc == 0 && !*only_now)
        remember(&s, *team);
    return rc;
}

static void leave(shmem_team_t team, bool only_now, int rc)
{
    if (only_now && rc == 0)
        rc = shmemx_team_destroy(team);
    shmemi_void(rc);
}

/* One call: its name, then what it does with `team`. */
#define OVER_SET(NAME, EXPRESSION)                                                                           \
    shmem_team_t team = SHMEM_TEAM_INVALID;                                                                  \
    bool only_now;                                                                                           \
    int rc = enter(NAME, PE_start, logPE_stride, PE_size, pSync, &team, &only_now);                          \
    leave(team, only_now, rc ? rc : (EXPRESSION))

void shmem_barrier(int PE_start, int logPE_stride, int PE_size, long *pSync)
{
    OVER_SET("shmem_barrier", shmemi_barrier("shmem_barrier", team));
}

void shmem_sync(int PE_start, int logPE_stride, int PE_size, long *pSync)
{
    OVER_SET("shmem_sync", shmemx_sync(team));
}

/* Bytes of nelems elements; SIZE_MAX, which fits no heap, when that overflows. */
static size_t bytes_of(size_t nelems, size_t size)
{
    size_t bytes;
    return __builtin_mul_overflow(nelems, size, &bytes) ? SIZE_MAX : bytes;
}

/* The root's dest stays as it is: for the team's broadcast it is the source. (Both in GPU memory: kernels write where dest
 * is, so the root gets its copy there.) */
static int broadcast(shmem_team_t team, void *dest, const void *source, size_t bytes, int root)
{
    if (shmem_team_my_pe(team) == root && !shmemi_both_gpu(dest, source))
        dest = (void *)(uintptr_t)source;
    return shmemx_broadcast(team, dest, source, bytes, root);
}

#define SIZED(BITS)                                                                                          \
    void shmem_broadcast##BITS(void *dest, const void *source, size_t nelems, int PE_root, int PE_start,     \
                               int logPE_stride, int PE_size, long *pSync)                                   \
    {                                                                                                        \
        OVER_SET("shmem_broadcast" #BITS,                                                                    \
                 broadcast(team, dest, source, bytes_of(nelems, (BITS) / 8), PE_root));                      \
    }                                                                                                        \
    void shmem_collect##BITS(void *dest, const void *source, size_t nelems, int PE_start, int logPE_stride,  \
                             int PE_size, long *pSync)                                                       \
    {                                                                                                        \
        OVER_SET("shmem_collect" #BITS,                                                                      \
                 shmemx_collect(team, dest, SIZE_MAX, source, bytes_of(nelems, (BITS) / 8)));                \
    }                                                                                                        \
    void shmem_fcollect##BITS(void *dest, const void *source, size_t nelems, int PE_start, int logPE_stride, \
                              int PE_size, long *pSync)                                                      \
    {                                                                                                        \
        OVER_SET("shmem_fcollect" #BITS, shmemx_fcollect(team, dest, source, bytes_of(nelems, (BITS) / 8))); \
    }                                                                                                        \
    void shmem_alltoall##BITS(void *dest, const void *source, size_t nelems, int PE_start, int logPE_stride, \
                              int PE_size, long *pSync)                                                      \
    {                                                                                                        \
        OVER_SET("shmem_alltoall" #BITS, shmemx_alltoall(team, dest, source, bytes_of(nelems, (BITS) / 8))); \
    }                                                                                                        \
    void shmem_alltoalls##BITS(void *dest, const void *source, ptrdiff_t dst, ptrdiff_t sst, size_t nelems,  \
                               int PE_start, int logPE_stride, int PE_size, long *pSync)                     \
    {                                                                                                        \
        OVER_SET("shmem_alltoalls" #BITS,                                                                    \
                 shmemx_alltoalls(team, dest, source, dst, sst, (BITS) / 8, nelems));                        \
    }
SIZED(32)
SIZED(64)

static int reduce(const char *call, shmem_team_t team, int op, int type, void *dest, const void *source,
                  int n)
{
    if (n < 0)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "nreduce is %d", n);
    return shmemx_reduce(team, op, type, dest, source, (size_t)n);
}

#define TO_ALL(NAME, T, CORE, OPNAME, OP)                                                                    \
    void shmem_##NAME##_##OPNAME##_to_all(T *dest, const T *source, int nreduce, int PE_start,               \
                                          int logPE_stride, int PE_size, T *pWrk, long *pSync)               \
    {                                                                                                        \
        (void)pWrk;                                                                                          \
        OVER_SET("shmem_" #NAME "_" #OPNAME "_to_all",                                                       \
                 reduce("shmem_" #NAME "_" #OPNAME "_to_all", team, OP, CORE, dest, source, nreduce));       \
    }
#define BITWISE(NAME, T, CORE)                                                                               \
    TO_ALL(NAME, T, CORE, and, SHMEMX_REDUCE_AND)                                                            \
    TO_ALL(NAME, T, CORE, or, SHMEMX_REDUCE_OR)                                                              \
    TO_ALL(NAME, T, CORE, xor, SHMEMX_REDUCE_XOR)
#define ORDERED(NAME, T, CORE)                                                                               \
    TO_ALL(NAME, T, CORE, max, SHMEMX_REDUCE_MAX)                                                            \
    TO_ALL(NAME, T, CORE, min, SHMEMX_REDUCE_MIN)
#define ARITHMETIC(NAME, T, CORE)                                                                            \
    TO_ALL(NAME, T, CORE, sum, SHMEMX_REDUCE_SUM)                                                            \
    TO_ALL(NAME, T, CORE, prod, SHMEMX_REDUCE_PROD)
SHMEM_TYPES_TO_ALL_BITWISE(BITWISE)
SHMEM_TYPES_TO_ALL_ORDERED(ORDERED)
SHMEM_TYPES_TO_ALL_ORDERED(ARITHMETIC)
SHMEM_TYPES_COMPLEX(ARITHMETIC)
