/* Collectives over active sets, deprecated: each is the team's collective.
 *
 * The first call over a set makes a team of it, and the later ones find that: `known`. Only members call, so they agree on
 * the team's slot among themselves, in the words of pSync that the set's first PE (its root) and each member have:
 *
 *   root      ARRIVED   members that have come so far
 *             BUSY      two words: or of the members' slots that are in use; bit 0, which always is, says "refused" instead
 *             RETIRED   highest epoch of any member's former teams
 *   everyone  VERDICT   the root's answer
 *
 * Each member adds to the root's words, then counts itself; the root waits for all, clears them and answers. A second
 * round says whether all could take the slot, which another thread may have been given meanwhile; then all begin again.
 * A word is cleared by its reader before its next writer can know, so pSync ends as it began. */
#include <pthread.h>
#include <stdlib.h>

#include "coll.h"

enum { ARRIVED, BUSY, RETIRED = BUSY + 2, VERDICT, WORDS };
_Static_assert(SHMEMI_TEAMS == 128, "BUSY has two words");
_Static_assert((int)WORDS <= (int)SHMEM_SYNC_SIZE && sizeof(long) == 8, "they fit pSync");
_Static_assert(SHMEM_SYNC_VALUE == 0, "a count starts there");

/* VERDICT: 1 + slot in 8 bits, one bit "for this call only", the epoch above. Or one of: */
enum { AGAIN = 0xfe, REFUSED = 0xff };
#define ONLY_NOW ((uint64_t)0x100)
enum { EPOCH_SHIFT = 16 };

struct set {
    const char *call;
    int start, stride, n; /* stride of PE numbers */
    uint64_t *words;      /* pSync */
};

static struct known {
    int start, stride, n;
    shmem_team_t team;
    struct known *next;
} *known;
static unsigned known_job; /* the job that they are of */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int update(const struct set *s, int pe, int word, int op, uint64_t value, uint64_t cond, uint64_t *old)
{
    uint64_t unused; /* with an answer it is complete, so that the next one is later everywhere */
    return shmemx_atomic(SHMEM_CTX_DEFAULT, op, sizeof value, s->words + word, value, cond, pe,
                         old ? old : &unused);
}

static int store_max(const struct set *s, uint64_t value)
{
    uint64_t seen;
    int rc = update(s, s->start, RETIRED, SHMEMX_AMO_FETCH, 0, 0, &seen);
    while (rc == 0 && seen < value) {
        uint64_t before = seen;
        if ((rc = update(s, s->start, RETIRED, SHMEMX_AMO_COMPARE_SWAP, value, before, &seen)) == 0 &&
            seen == before)
            break;
    }
    return rc;
}

/* The root's half of a round: waits for all, reads and clears what they left, and answers them all. */
static int answer(const struct set *s, bool second, uint64_t first_verdict)
{
    uint64_t busy[2], retired, arrived, verdict = REFUSED;
    int rc = shmemi_wait_word(s->call, s->words + ARRIVED, SHMEM_CMP_GE, (uint64_t)s->n), free_slots = 0;
    if (rc || (rc = update(s, s->start, BUSY, SHMEMX_AMO_SWAP, 0, 0, &busy[0])) != 0 ||
        (rc = update(s, s->start, BUSY + 1, SHMEMX_AMO_SWAP, 0, 0, &busy[1])) != 0 ||
        (rc = update(s, s->start, RETIRED, SHMEMX_AMO_SWAP, 0, 0, &retired)) != 0 ||
        (rc = update(s, s->start, ARRIVED, SHMEMX_AMO_SWAP, 0, 0, &arrived)) != 0)
        return rc;
    if (second) {
        verdict = busy[0] ? AGAIN : (retired << EPOCH_SHIFT | (first_verdict & 0x1ff));
    } else if (!(busy[0] & 1) && arrived == (uint64_t)s->n) { /* else pSync began with something else */
        busy[0] |= 3;                                         /* world and shared */
        for (int slot = SHMEMI_TEAMS - 1; slot >= 0; --slot)
            if (!(busy[slot / 64] >> slot % 64 & 1)) {
                verdict = (uint64_t)slot + 1;
                free_slots++;
            }
        /* the rest of the slots is for teams that the program makes */
        if (verdict != REFUSED && free_slots < SHMEMI_TEAMS / 2)
            verdict |= ONLY_NOW;
    }
    for (int i = 0; i < s->n && rc == 0; ++i)
        rc = update(s, s->start + i * s->stride, VERDICT, SHMEMX_AMO_SWAP, verdict, 0, NULL);
    return rc;
}

/* One round; `busy` and `retired` are this member's part. */
static int ask(const struct set *s, const uint64_t busy[2], uint64_t retired, bool second, uint64_t before,
               uint64_t *verdict)
{
    int rc = SHMEMX_SUCCESS;
    for (int k = 0; k < 2 && rc == 0; ++k)
        rc = update(s, s->start, BUSY + k, SHMEMX_AMO_OR, busy[k], 0, NULL);
    rc = rc ? rc : store_max(s, retired);
    rc = rc ? rc : update(s, s->start, ARRIVED, SHMEMX_AMO_ADD, 1, 0, NULL);
    if (rc == 0 && shmemi_world.me == s->start)
        rc = answer(s, second, before);
    if (rc || (rc = shmemi_wait_word(s->call, s->words + VERDICT, SHMEM_CMP_NE, 0)) != 0)
        return rc;
    return update(s, shmemi_world.me, VERDICT, SHMEMX_AMO_SWAP, 0, 0, verdict);
}

/* Makes the team of a set. */
static int make(const struct set *s, shmem_team_t *team, bool *only_now)
{
    struct shmemi_team *world;
    uint64_t busy[2], retired, verdict, first;
    int rc = 0, slot;
    do {
        shmemi_team_busy(busy, &retired);
        busy[0] &= ~(uint64_t)3;
        if (s->words[VERDICT] != 0) {
            rc = shmemi_fail(SHMEMX_ERR_ARGUMENT, s->call, "pSync does not hold SHMEM_SYNC_VALUE");
            busy[0] |= 1;
        }
        int failed = ask(s, busy, retired, false, 0, &first);
        if (rc || failed)
            return rc ? rc : failed;
        if (first == REFUSED)
            return shmemi_fail(
                SHMEMX_ERR_LIMIT, s->call,
                "no team could be made of PEs %d, %d, .. (%d of them): a member refused, or %d "
                "teams are in use",
                s->start, s->start + s->stride, s->n, SHMEMI_TEAMS);
        slot = (int)(first & 0xff) - 1;
        bool mine = shmemi_team_take(slot);
        shmemi_team_busy(busy, &retired);
        if ((rc = ask(s, (const uint64_t[2]){!mine, 0}, retired, true, first, &verdict)) != 0)
            return rc;
        if (verdict == AGAIN && mine)
            shmemi_team_untake(slot);
    } while (verdict == AGAIN);
    *only_now = verdict & ONLY_NOW;
    if (!(world = shmemi_team_get(s->call, SHMEM_TEAM_WORLD, &rc)))
        return rc;
    return shmemi_team_join(s->call, world, slot, verdict >> EPOCH_SHIFT, s->start, s->stride, s->n, NULL, 0,
                            team);
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
    struct shmemi_place p;
    int rc, me = shmemi_world.me, npes = shmemi_world.npes;
    *only_now = false;
    SHMEMI_REQUIRE_INIT(call);
    if (start < 0 || n < 1 || log_stride < 0 || log_stride > 30 ||
        (int64_t)start + ((int64_t)(n - 1) << log_stride) >= npes)
        return shmemi_fail(SHMEMX_ERR_PE, call,
                           "PE_start %d, logPE_stride %d, PE_size %d is no active set of PEs 0 to %d", start,
                           log_stride, n, npes - 1);
    struct set s = {call, start, n == 1 ? 1 : 1 << log_stride, n, (uint64_t *)psync};
    if (me < start || (me - start) % s.stride != 0 || (me - start) / s.stride >= n)
        return shmemi_fail(SHMEMX_ERR_PE, call,
                           "PE %d is not in the active set PE_start %d, logPE_stride %d, PE_size %d", me,
                           start, log_stride, n);
    if ((rc = shmemi_locate(call, "pSync", psync, WORDS * sizeof *psync, &p)) != 0)
        return rc;
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
