#include "team.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gpu/gpu_state.h"
#include "nonblocking.h"

static struct shmemi_team teams[SHMEMI_TEAMS];
static uint64_t retired; /* highest epoch of any team of this PE that was destroyed */
/* Threads may split different teams at once: slots, generations and `retired` change under this lock, and a slot that a
 * split has chosen is `taken` until its team is filled in. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool taken[SHMEMI_TEAMS];
_Static_assert(SHMEMI_TEAMS <= 256, "slots fit the handle's low byte");

enum { WORLD_SLOT, SHARED_SLOT, FIRST_SLOT };

/* handle = 1 + slot + 256 * generation; 1 and 2 are world and shared. */
static shmem_team_t handle_of(const struct shmemi_team *t)
{
    return (shmem_team_t)(uintptr_t)(1 + (size_t)(t - teams) + ((size_t)t->generation << 8));
}

struct shmemi_team *shmemi_team_get(const char *call, shmem_team_t handle, int *rc)
{
    uintptr_t h = (uintptr_t)handle - 1, slot = h & 0xff;
    if (SHMEMI_LIKELY(slot < SHMEMI_TEAMS && teams[slot].used && teams[slot].generation == h >> 8))
        return &teams[slot];
    if (shmemi_world.npes == 0)
        *rc = shmemi_not_initialized(call);
    else if (handle == SHMEM_TEAM_INVALID)
        *rc = shmemi_fail(SHMEMX_ERR_TEAM, call, "the team is SHMEM_TEAM_INVALID");
    else
        *rc = shmemi_fail(SHMEMX_ERR_TEAM, call, "handle %p is no team of this PE (destroyed, or never made)",
                          (void *)handle);
    return NULL;
}

int shmemi_team_slot(const struct shmemi_team *t)
{
    return (int)(t - teams);
}

struct shmemi_team *shmemi_team_in_slot(int slot)
{
    return teams[slot].used ? &teams[slot] : NULL;
}

int shmemi_show(const char *call, struct shmemi_team *t, uint64_t tag, const void *mine, size_t n)
{
    int rc = shmemi_begin(call, t, tag);
    if (rc)
        return rc;
    if (n)
        memcpy(shmemi_my_note(t), mine, n);
    rc = shmemi_post(t, n);
    return rc ? rc : shmemi_await_all(call, t);
}

int shmemi_refuse(const char *call, struct shmemi_team *t, int rc)
{
    if (t->told)
        t->told = false;
    else if (shmemi_begin(call, t, SHMEMI_TAG_REFUSED) == 0)
        (void)shmemi_post(t, 0); /* an error of the network has been logged; the caller's own comes first */
    return rc;
}

static void describe(uint64_t tag, char *text, size_t n)
{
    static const char *const names[] = {[SHMEMI_REFUSED] =
                                            "a call that it refused (its own message says why)",
#define X(name, text) [SHMEMI_##name] = text,
                                        SHMEMI_COLLECTIVES(X)
#undef X
    };
    unsigned kind = tag & 0xff, argument = tag >> 8 & 0xffff;
    const char *name = kind < sizeof names / sizeof *names ? names[kind] : "an unknown call";
    unsigned long long bytes = tag >> 24;
    if (kind == SHMEMI_REFUSED || kind == SHMEMI_SYNC || kind == SHMEMI_MEMORY || kind == SHMEMI_TEAM ||
        kind == SHMEMI_ARGUMENTS)
        snprintf(text, n, "%s", name);
    else if (kind == SHMEMI_BROADCAST)
        snprintf(text, n, "%s, root %u, %llu bytes", name, argument, bytes);
    else if (kind == SHMEMI_REDUCE) /* enum shmemx_reduce_op and shmemx_type */
        snprintf(text, n, "%s, operation %u, type %u, %llu bytes", name, argument >> 8, argument & 0xff,
                 bytes);
    else if (kind >= SHMEMI_QUANT_ALLREDUCE && kind <= SHMEMI_QUANT_BROADCAST) /* enum shmemx_type */
        snprintf(text, n, "%s, type %u, blocks of %llu bytes", name, argument, bytes);
    else
        snprintf(text, n, "%s, %llu bytes", name, bytes);
}

int shmemi_disagree(const char *call, const struct shmemi_team *t, int member)
{
    char theirs[128], mine[128];
    describe(shmemi_note_of(t, member, t->epoch)->tag, theirs, sizeof theirs);
    describe(t->tag, mine, sizeof mine);
    return shmemi_fail(SHMEMX_ERR_MISMATCH, call, "PE %d is in %s; this PE in %s", t->pes[member], theirs,
                       mine);
}

static void free_team(struct shmemi_team *t)
{
    free(t->pes);
    t->pes = NULL;
    shmemi_team_unplace(t);
    pthread_mutex_lock(&lock);
    t->generation++;
    if (t->epoch > retired)
        retired = t->epoch;
    t->used = false;
    pthread_mutex_unlock(&lock);
}

/* Makes the team of a slot; `pes` are the world's numbers of its members, and the team's from here on. */
static int fill_team(const char *call, int slot, int *pes, int n, uint64_t epoch)
{
    struct shmemi_team *t = &teams[slot];
    t->pes = pes;
    t->n = n;
    t->me = 0;
    while (t->pes[t->me] != shmemi_world.me)
        t->me++;
    int rc = shmemi_team_place(call, t, slot);
    if (rc) {
        free(pes);
        return rc;
    }
    t->epoch = t->seen = epoch;
    t->config = (shmem_team_config_t){0};
    pthread_mutex_lock(&lock);
    t->used = true;
    pthread_mutex_unlock(&lock);
    return SHMEMX_SUCCESS;
}

/* Room for the numbers of n members. */
static int *new_members(const char *call, int n, int *rc)
{
    int *pes = malloc(sizeof *pes * (size_t)n);
    if (!pes)
        *rc = shmemi_fail(SHMEMX_ERR_SYSTEM, call, "out of memory for a team of %d PEs", n);
    return pes;
}

int shmemi_team_open(const char *call)
{
    retired = 0;
    memset(taken, 0, sizeof taken);
    for (int i = 0; i < SHMEMI_TEAMS; ++i)
        teams[i].generation = i < FIRST_SLOT ? 0 : teams[i].generation;
    /* shared: the PEs whose memory this one can load and store, those of its node; the nodes share the slot */
    for (int slot = WORLD_SLOT; slot <= SHARED_SLOT; ++slot) {
        int rc = 0, n = 0, *pes = new_members(call, shmemi_world.job.npes, &rc);
        for (int pe = 0; rc == 0 && pe < shmemi_world.job.npes; ++pe)
            if (slot == WORLD_SLOT || shmemi_world.job.local_of[pe] >= 0)
                pes[n++] = pe;
        if (rc || (rc = fill_team(call, slot, pes, n, 0)) != 0)
            return rc;
    }
    return SHMEMX_SUCCESS;
}

void shmemi_team_close(void)
{
    for (int i = 0; i < SHMEMI_TEAMS; ++i)
        if (teams[i].used)
            free_team(&teams[i]);
}

/* ---- queries ------------------------------------------------------------------------------------------- */

/* The standard's queries answer -1 for SHMEM_TEAM_INVALID without any fuss. */
static struct shmemi_team *query(const char *call, shmem_team_t team)
{
    int rc;
    return team == SHMEM_TEAM_INVALID && shmemi_world.npes ? NULL : shmemi_team_get(call, team, &rc);
}

int shmem_team_my_pe(shmem_team_t team)
{
    struct shmemi_team *t = query("shmem_team_my_pe", team);
    return t ? t->me : -1;
}

int shmem_team_n_pes(shmem_team_t team)
{
    struct shmemi_team *t = query("shmem_team_n_pes", team);
    return t ? t->n : -1;
}

static int bad_mask(const char *call, long mask)
{
    return mask & ~(long)SHMEM_TEAM_NUM_CONTEXTS
               ? shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "config_mask 0x%lx has unknown bits",
                             (unsigned long)mask)
               : SHMEMX_SUCCESS;
}

int shmem_team_get_config(shmem_team_t team, long config_mask, shmem_team_config_t *config)
{
    const char *call = "shmem_team_get_config";
    int rc = 0;
    struct shmemi_team *t = shmemi_team_get(call, team, &rc);
    if (!t || (rc = bad_mask(call, config_mask)) != 0)
        return rc;
    if (config_mask && !config)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "config is NULL while config_mask is 0x%lx",
                           (unsigned long)config_mask);
    if (config_mask)
        *config = t->config;
    return SHMEMX_SUCCESS;
}

int shmem_team_translate_pe(shmem_team_t src_team, int src_pe, shmem_team_t dest_team)
{
    const char *call = "shmem_team_translate_pe";
    struct shmemi_team *src = query(call, src_team), *dest = query(call, dest_team);
    if (!src || !dest || src_pe < 0 || src_pe >= src->n)
        return -1;
    for (int i = 0; i < dest->n; ++i)
        if (dest->pes[i] == src->pes[src_pe])
            return i;
    return -1;
}

void *shmem_team_ptr(shmem_team_t team, const void *dest, int pe)
{
    struct shmemi_team *t = query("shmem_team_ptr", team);
    return t && pe >= 0 && pe < t->n ? shmem_ptr(dest, t->pes[pe]) : NULL;
}

/* ---- split and destroy ------------------------------------------------------------------------------------ */

/* What members of the parent show each other before a split. */
struct offer {
    uint64_t busy[SHMEMI_TEAMS / 64];
    int64_t arguments[4]; /* which call, and what must be equal everywhere */
};
/* And when each has tried to take the slot that the offers name. */
struct claim {
    bool mine;
    uint64_t retired;
};

void shmemi_team_busy(uint64_t busy[SHMEMI_TEAMS / 64], uint64_t *highest)
{
    memset(busy, 0, SHMEMI_TEAMS / 8);
    pthread_mutex_lock(&lock);
    for (int i = 0; i < SHMEMI_TEAMS; ++i)
        busy[i / 64] |= (uint64_t)(i < FIRST_SLOT || teams[i].used || taken[i]) << i % 64;
    *highest = retired;
    pthread_mutex_unlock(&lock);
}

bool shmemi_team_take(int slot)
{
    pthread_mutex_lock(&lock);
    bool mine = !teams[slot].used && !taken[slot];
    taken[slot] |= mine;
    pthread_mutex_unlock(&lock);
    return mine;
}

static int choose_slot(const char *call, struct shmemi_team *parent, const int64_t arguments[4], int *slot)
{
    struct offer mine, o;
    uint64_t common[SHMEMI_TEAMS / 64];
    memcpy(mine.arguments, arguments, sizeof mine.arguments);
    uint64_t highest; /* claims carry it */
    shmemi_team_busy(mine.busy, &highest);
    int rc = shmemi_show(call, parent, shmemi_tag(SHMEMI_TEAM, 0, 0), &mine, sizeof mine);
    if (rc)
        return rc;
    memcpy(common, mine.busy, sizeof common);
    for (int j = 0; j < parent->n; ++j) {
        memcpy(&o, shmemi_note_of(parent, j, parent->epoch)->data, sizeof o);
        for (int k = 0; k < 4; ++k)
            if (o.arguments[k] != arguments[k])
                return shmemi_fail(SHMEMX_ERR_MISMATCH, call, "argument %lld here, %lld on PE %d",
                                   (long long)arguments[k], (long long)o.arguments[k], parent->pes[j]);
        for (int k = 0; k < SHMEMI_TEAMS / 64; ++k)
            common[k] |= o.busy[k];
    }
    for (*slot = FIRST_SLOT; *slot < SHMEMI_TEAMS; ++*slot)
        if (!(common[*slot / 64] >> *slot % 64 & 1))
            return SHMEMX_SUCCESS;
    return shmemi_fail(SHMEMX_ERR_LIMIT, call, "no team left: %d at a time is the limit, destroy some",
                       SHMEMI_TEAMS);
}

void shmemi_team_untake(int slot)
{
    pthread_mutex_lock(&lock);
    taken[slot] = false;
    pthread_mutex_unlock(&lock);
}

/* Agrees on a slot that is free on every member and takes it. Another thread of some member may take it in between;
 * then all choose again. */
static int agree(const char *call, struct shmemi_team *parent, const int64_t arguments[4], int *slot,
                 uint64_t *epoch)
{
    bool all = false;
    while (!all) {
        int rc = choose_slot(call, parent, arguments, slot);
        if (rc)
            return rc;
        struct claim c = {shmemi_team_take(*slot), 0};
        uint64_t busy[SHMEMI_TEAMS / 64];
        shmemi_team_busy(busy, &c.retired);
        rc = shmemi_show(call, parent, shmemi_tag(SHMEMI_TEAM, 2, 0), &c, sizeof c);
        all = rc == 0;
        /* notes of the slot's former teams carry epochs up to the highest `retired`: start above */
        *epoch = c.retired;
        for (int j = 0; j < parent->n && all; ++j) {
            struct claim theirs;
            memcpy(&theirs, shmemi_note_of(parent, j, parent->epoch)->data, sizeof theirs);
            all &= theirs.mine;
            *epoch = theirs.retired > *epoch ? theirs.retired : *epoch;
        }
        if (!all && c.mine)
            shmemi_team_untake(*slot);
        if (rc)
            return rc;
    }
    return SHMEMX_SUCCESS;
}

static int check_config(const char *call, const shmem_team_config_t *config, long mask)
{
    int rc = bad_mask(call, mask);
    if (rc)
        return rc;
    if (mask && !config)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "config is NULL while config_mask is 0x%lx",
                           (unsigned long)mask);
    if (mask && config->num_contexts < 0)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "num_contexts is %d", config->num_contexts);
    return SHMEMX_SUCCESS;
}

/* The team of some members of `parent` in a slot that this PE has taken. */
static int make_team(const char *call, const struct shmemi_team *parent, int slot, uint64_t epoch, int start,
                     int stride, int n)
{
    int rc = 0, *pes = new_members(call, n, &rc);
    for (int i = 0; rc == 0 && i < n; ++i)
        pes[i] = parent->pes[start + i * stride];
    rc = rc ? rc : fill_team(call, slot, pes, n, epoch);
    shmemi_team_untake(slot);
    return rc;
}

int shmemi_team_join(const char *call, const struct shmemi_team *parent, int slot, uint64_t epoch, int start,
                     int stride, int n, const shmem_team_config_t *config, long mask, shmem_team_t *out)
{
    int rc = make_team(call, parent, slot, epoch, start, stride, n);
    if (rc)
        return rc;
    if (mask)
        teams[slot].config = *config;
    *out = handle_of(&teams[slot]);
    return shmemi_gpu_team_made(call, slot, &teams[slot]);
}

int shmemi_team_twin(const char *call, const struct shmemi_team *t, int slot, uint64_t epoch,
                     shmem_team_t *out)
{
    int rc = make_team(call, t, slot, epoch, 0, 1, t->n);
    if (rc == 0)
        *out = handle_of(&teams[slot]);
    return rc;
}

void shmemi_team_drop_twin(shmem_team_t twin)
{
    int rc = 0;
    struct shmemi_team *t = shmemi_team_get("shmem_team_destroy", twin, &rc);
    if (t)
        free_team(t);
}

int shmem_team_split_strided(shmem_team_t parent, int start, int stride, int size,
                             const shmem_team_config_t *config, long config_mask, shmem_team_t *new_team)
{
    const char *call = "shmem_team_split_strided";
    int rc = 0;
    if (!new_team)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "new_team is NULL");
    *new_team = SHMEM_TEAM_INVALID;
    struct shmemi_team *p = shmemi_team_get(call, parent, &rc);
    if (!p)
        return rc;
    if ((rc = check_config(call, config, config_mask)) != 0)
        return shmemi_refuse(call, p, rc);
    long last = start + (long)(size - 1) * stride;
    if (size < 1 || start < 0 || start >= p->n || last < 0 || last >= p->n || (stride == 0 && size > 1))
        return shmemi_refuse(call, p,
                             shmemi_fail(SHMEMX_ERR_ARGUMENT, call,
                                         "start %d, stride %d, size %d in a team of %d PEs", start, stride,
                                         size, p->n));
    int slot;
    uint64_t epoch;
    const int64_t arguments[4] = {'s', start, stride, size};
    if ((rc = agree(call, p, arguments, &slot, &epoch)) != 0)
        return rc;
    for (int i = 0; i < size; ++i)
        if (start + i * stride == p->me)
            return shmemi_team_join(call, p, slot, epoch, start, stride, size, config, config_mask, new_team);
    shmemi_team_untake(slot); /* not a member: the slot is free here for other teams */
    return SHMEMX_SUCCESS;
}

int shmem_team_split_2d(shmem_team_t parent, int xrange, const shmem_team_config_t *xaxis_config,
                        long xaxis_mask, shmem_team_t *xaxis_team, const shmem_team_config_t *yaxis_config,
                        long yaxis_mask, shmem_team_t *yaxis_team)
{
    const char *call = "shmem_team_split_2d";
    int rc = 0;
    if (!xaxis_team || !yaxis_team)
        return shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "%s is NULL", xaxis_team ? "yaxis_team" : "xaxis_team");
    *xaxis_team = *yaxis_team = SHMEM_TEAM_INVALID;
    struct shmemi_team *p = shmemi_team_get(call, parent, &rc);
    if (!p)
        return rc;
    if ((rc = check_config(call, xaxis_config, xaxis_mask)) != 0 ||
        (rc = check_config(call, yaxis_config, yaxis_mask)) != 0)
        return shmemi_refuse(call, p, rc);
    if (xrange < 1)
        return shmemi_refuse(call, p, shmemi_fail(SHMEMX_ERR_ARGUMENT, call, "xrange is %d", xrange));
    if (xrange > p->n)
        xrange = p->n;
    int row = p->me / xrange, column = p->me % xrange, slot;
    int width = (row + 1) * xrange <= p->n ? xrange : p->n - row * xrange;
    int height = (p->n - column + xrange - 1) / xrange;
    uint64_t epoch;
    /* the rows are disjoint, so one slot serves them all; then the same for the columns */
    const int64_t arguments[4] = {'2', xrange, 0, 0};
    if ((rc = agree(call, p, arguments, &slot, &epoch)) != 0 ||
        (rc = shmemi_team_join(call, p, slot, epoch, row * xrange, 1, width, xaxis_config, xaxis_mask,
                               xaxis_team)) != 0)
        return rc;
    if ((rc = agree(call, p, arguments, &slot, &epoch)) != 0)
        return rc;
    return shmemi_team_join(call, p, slot, epoch, column, xrange, height, yaxis_config, yaxis_mask,
                            yaxis_team);
}

int shmemx_team_destroy(shmem_team_t team)
{
    const char *call = "shmem_team_destroy";
    int rc = 0;
    if (team == SHMEM_TEAM_INVALID && shmemi_world.npes)
        return SHMEMX_SUCCESS;
    struct shmemi_team *t = shmemi_team_get(call, team, &rc);
    if (!t)
        return rc;
    if (t - teams < FIRST_SLOT)
        return shmemi_fail(SHMEMX_ERR_TEAM, call,
                           "SHMEM_TEAM_WORLD and SHMEM_TEAM_SHARED cannot be destroyed");
    /* nobody may still read this PE's notes of an earlier collective when the slot is given away */
    uint64_t started = shmemi_nonblocking_started(t);
    rc = shmemi_show(call, t, shmemi_tag(SHMEMI_TEAM, 1, 0), &started, sizeof started);
    rc = shmemi_nonblocking_drop(call, t, rc);
    rc = rc ? rc : shmemi_ctx_quiet_team(team);
    shmemi_ctx_drop_team(team);
    shmemi_gpu_team_gone(shmemi_team_slot(t));
    free_team(t);
    return rc;
}

void shmem_team_destroy(shmem_team_t team)
{
    shmemi_void(shmemx_team_destroy(team));
}
