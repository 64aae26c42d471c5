/* A slot for a team whose members meet in no other team's collective: they agree on it among themselves, in a few symmetric
 * words that the first of them (the root) and each member have. Active sets do (pSync is the words), and the twin of a team
 * that nonblocking collectives run on (nonblocking.c).
 *
 *   root      ARRIVED   members that have come so far
 *             BUSY      two words: or of the members' slots that are in use; bit 0, which always is, says "refused" instead
 *             RETIRED   highest epoch of any member's former teams
 *   everyone  VERDICT   the root's answer
 *
 * Each member adds to the root's words, then counts itself; the root waits for all, clears them and answers. A second
 * round says whether all could take the slot, which another thread may have been given meanwhile; then all begin again.
 * A word is cleared by its reader before its next writer can know, so the words end as they began: zero. */
#include "team.h"

enum { ARRIVED, BUSY, RETIRED = BUSY + 2, VERDICT, WORDS };
_Static_assert(SHMEMI_TEAMS == 128, "BUSY has two words");
_Static_assert((int)WORDS <= (int)SHMEMI_AGREE_WORDS, "they fit");

/* VERDICT: 1 + slot in 8 bits, one bit "few are left", the epoch above. Or one of: */
enum { AGAIN = 0xfe, REFUSED = 0xff };
#define SCARCE ((uint64_t)0x100)
enum { EPOCH_SHIFT = 16 };

static int update(const struct shmemi_set *s, int pe, int word, int op, uint64_t value, uint64_t cond,
                  uint64_t *old)
{
    uint64_t unused; /* with an answer it is complete, so that the next one is later everywhere */
    struct shmemi_amo a = {op, sizeof value, value, cond, old ? old : &unused};
    const struct shmemi_place *p = &s->words;
    return shmemi_amo_route(pe, p->segment)
        ->amo(pe, p->segment, p->offset + (uint64_t)word * sizeof value, &a, false);
}

/* This PE's own words. */
static const _Atomic uint64_t *mine(const struct shmemi_set *s)
{
    return shmemi_map(shmemi_world.me, s->words);
}

/* Waits until this PE's word is at least that; `pe` = who makes it so, -1 = any. */
static int await(const struct shmemi_set *s, int word, uint64_t least, int pe)
{
    const _Atomic uint64_t *at = mine(s) + word;
    struct shmemi_wait w = SHMEMI_WAIT_FOR(s->call, pe, at);
    int rc = SHMEMX_SUCCESS;
    /* acquire: pairs with the atomics of `update`; what the members wrote before they counted themselves is there */
    while (rc == 0 && atomic_load_explicit(at, memory_order_acquire) < least)
        rc = shmemi_wait_step(&w);
    return rc;
}

static int store_max(const struct shmemi_set *s, uint64_t value)
{
    uint64_t seen;
    int rc = update(s, s->pes[0], RETIRED, SHMEMX_AMO_FETCH, 0, 0, &seen);
    while (rc == 0 && seen < value) {
        uint64_t before = seen;
        if ((rc = update(s, s->pes[0], RETIRED, SHMEMX_AMO_COMPARE_SWAP, value, before, &seen)) == 0 &&
            seen == before)
            break;
    }
    return rc;
}

/* The root's half of a round: waits for all, reads and clears what they left, and answers them all. */
static int answer(const struct shmemi_set *s, bool second, uint64_t first_verdict)
{
    uint64_t busy[2], retired, arrived, verdict = REFUSED;
    int root = s->pes[0], free_slots = 0;
    int rc = await(s, ARRIVED, (uint64_t)s->n, -1);
    if (rc || (rc = update(s, root, BUSY, SHMEMX_AMO_SWAP, 0, 0, &busy[0])) != 0 ||
        (rc = update(s, root, BUSY + 1, SHMEMX_AMO_SWAP, 0, 0, &busy[1])) != 0 ||
        (rc = update(s, root, RETIRED, SHMEMX_AMO_SWAP, 0, 0, &retired)) != 0 ||
        (rc = update(s, root, ARRIVED, SHMEMX_AMO_SWAP, 0, 0, &arrived)) != 0)
        return rc;
    if (second) {
        verdict = busy[0] ? AGAIN : (retired << EPOCH_SHIFT | (first_verdict & 0x1ff));
    } else if (!(busy[0] & 1) && arrived == (uint64_t)s->n) { /* else the words began with something else */
        busy[0] |= 3;                                         /* world and shared */
        for (int slot = SHMEMI_TEAMS - 1; slot >= 0; --slot)
            if (!(busy[slot / 64] >> slot % 64 & 1)) {
                verdict = (uint64_t)slot + 1;
                free_slots++;
            }
        if (verdict != REFUSED && free_slots < SHMEMI_TEAMS / 2)
            verdict |= SCARCE;
    }
    for (int i = 0; i < s->n && rc == 0; ++i)
        rc = update(s, s->pes[i], VERDICT, SHMEMX_AMO_SWAP, verdict, 0, NULL);
    return rc;
}

/* One round; `busy` and `retired` are this member's part. */
static int ask(const struct shmemi_set *s, const uint64_t busy[2], uint64_t retired, bool second,
               uint64_t before, uint64_t *verdict)
{
    int rc = SHMEMX_SUCCESS;
    for (int k = 0; k < 2 && rc == 0; ++k)
        rc = update(s, s->pes[0], BUSY + k, SHMEMX_AMO_OR, busy[k], 0, NULL);
    rc = rc ? rc : store_max(s, retired);
    rc = rc ? rc : update(s, s->pes[0], ARRIVED, SHMEMX_AMO_ADD, 1, 0, NULL);
    if (rc == 0 && shmemi_world.me == s->pes[0])
        rc = answer(s, second, before);
    if (rc || (rc = await(s, VERDICT, 1, s->pes[0])) != 0)
        return rc;
    return update(s, shmemi_world.me, VERDICT, SHMEMX_AMO_SWAP, 0, 0, verdict);
}

int shmemi_team_agree(const struct shmemi_set *s, int *slot, uint64_t *epoch, bool *scarce)
{
    uint64_t busy[2], retired, verdict, first;
    int rc = SHMEMX_SUCCESS;
    do {
        shmemi_team_busy(busy, &retired);
        busy[0] &= ~(uint64_t)3;
        /* relaxed: nobody writes it before this member has asked */
        if (atomic_load_explicit(mine(s) + VERDICT, memory_order_relaxed) != 0) {
            rc = shmemi_fail(SHMEMX_ERR_ARGUMENT, s->call, "pSync does not hold SHMEM_SYNC_VALUE");
            busy[0] |= 1;
        }
        int failed = ask(s, busy, retired, false, 0, &first);
        if (rc || failed)
            return rc ? rc : failed;
        if (first == REFUSED)
            return shmemi_fail(SHMEMX_ERR_LIMIT, s->call,
                               "no team could be made of PEs %d .. %d (%d of them): a member refused, or %d "
                               "teams are in use",
                               s->pes[0], s->pes[s->n - 1], s->n, SHMEMI_TEAMS);
        *slot = (int)(first & 0xff) - 1;
        bool taken = shmemi_team_take(*slot);
        shmemi_team_busy(busy, &retired);
        if ((rc = ask(s, (const uint64_t[2]){!taken, 0}, retired, true, first, &verdict)) != 0)
            return rc;
        if (verdict == AGAIN && taken)
            shmemi_team_untake(*slot);
    } while (verdict == AGAIN);
    *scarce = verdict & SCARCE;
    *epoch = verdict >> EPOCH_SHIFT;
    return SHMEMX_SUCCESS;
}
