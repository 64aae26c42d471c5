/* Teams, and the notes their members leave for each other: the base of every collective.
 *
 * At the start of the host segment every PE has, for each team slot, SHMEMI_NOTES notes: an epoch word and room for
 * a small payload. A collective is one or two epochs. In each epoch e a member writes its payload into its own note
 * number e % SHMEMI_NOTES, then stores e in the note's epoch word; the others read it there. Nothing is cleared and
 * nothing is written remotely: one line moves from each member to each reader.
 *
 * When may a note be written again? `seen` is an epoch that every member is known to have finished. A member that
 * posts e has finished e - 1, so seeing everybody's e (barrier, reduce, ..) gives seen = e - 1 for nothing; in a
 * broadcast only the root is looked at, and begin() below looks at the others when the notes run out.
 */
#ifndef SHMEMI_TEAM_H
#define SHMEMI_TEAM_H

#include <stdatomic.h>

#include "base/wait.h"
#include "world.h"

enum { SHMEMI_TEAMS = 128, SHMEMI_NOTES = 4, SHMEMI_NOTE_BYTES = 4096 };
enum { SHMEMI_NOTE_ROOM = SHMEMI_NOTE_BYTES - 8 }; /* largest inline payload */

struct shmemi_note {
    _Atomic uint64_t epoch;
    unsigned char data[SHMEMI_NOTE_ROOM];
};
/* Bytes that the notes take at the start of the host segment. */
#define SHMEMI_INTERNAL_BYTES ((size_t)SHMEMI_TEAMS * SHMEMI_NOTES * SHMEMI_NOTE_BYTES)

struct shmemi_team {
    bool used;
    unsigned generation; /* of the slot; part of the handle */
    int me, n;
    int *pes;                   /* [n] world numbers */
    struct shmemi_note **notes; /* [n] each member's SHMEMI_NOTES notes for this team */
    uint64_t epoch, seen;
    shmem_team_config_t config;
};

/* The team of a handle, or NULL: logged, *rc set (NOT_INITIALIZED or TEAM). */
struct shmemi_team *shmemi_team_get(const char *call, shmem_team_t handle, int *rc);
/* World and shared; collective, the segments are mapped. */
int shmemi_team_open(const char *call);
void shmemi_team_close(void);

static inline struct shmemi_note *shmemi_note_of(const struct shmemi_team *t, int member, uint64_t epoch)
{
    return &t->notes[member][epoch % SHMEMI_NOTES];
}

/* Waits until `member` has posted `epoch`; then its note may be read. */
static inline int shmemi_await(const char *call, const struct shmemi_team *t, int member, uint64_t epoch)
{
    _Atomic uint64_t *word = &shmemi_note_of(t, member, epoch)->epoch;
    /* acquire: pairs with the release in shmemi_post of `member`; its payload and earlier puts are visible */
    if (SHMEMI_LIKELY(atomic_load_explicit(word, memory_order_acquire) >= epoch))
        return SHMEMX_SUCCESS;
    struct shmemi_wait w = SHMEMI_WAIT_FOR(call, t->pes[member], NULL);
    do {
        int rc = shmemi_wait_step(&w);
        if (SHMEMI_UNLIKELY(rc != 0))
            return rc;
    } while (atomic_load_explicit(word, memory_order_acquire) < epoch);
    return SHMEMX_SUCCESS;
}

/* Starts the next epoch; on return this PE's note for it may be written. */
static inline int shmemi_begin(const char *call, struct shmemi_team *t)
{
    uint64_t e = ++t->epoch;
    if (SHMEMI_LIKELY(t->seen + SHMEMI_NOTES >= e))
        return SHMEMX_SUCCESS;
    for (int j = 0; j < t->n; ++j) { /* a member that posted e - 3 has finished e - 4, which used the same note */
        int rc = j == t->me ? 0 : shmemi_await(call, t, j, e - SHMEMI_NOTES + 1);
        if (SHMEMI_UNLIKELY(rc != 0))
            return rc;
    }
    t->seen = e - SHMEMI_NOTES;
    return SHMEMX_SUCCESS;
}

static inline unsigned char *shmemi_my_note(const struct shmemi_team *t)
{
    return shmemi_note_of(t, t->me, t->epoch)->data;
}

/* release: a member that reads the epoch (shmemi_await) sees the payload and all this PE stored before */
static inline void shmemi_post(const struct shmemi_team *t)
{
    atomic_store_explicit(&shmemi_note_of(t, t->me, t->epoch)->epoch, t->epoch, memory_order_release);
}

static inline int shmemi_await_all(const char *call, struct shmemi_team *t)
{
    for (int j = 0; j < t->n; ++j) {
        int rc = j == t->me ? 0 : shmemi_await(call, t, j, t->epoch);
        if (SHMEMI_UNLIKELY(rc != 0))
            return rc;
    }
    t->seen = t->epoch - 1;
    return SHMEMX_SUCCESS;
}

/* One epoch without payload: everybody has arrived. */
static inline int shmemi_meet(const char *call, struct shmemi_team *t)
{
    int rc = shmemi_begin(call, t);
    if (SHMEMI_UNLIKELY(rc != 0))
        return rc;
    shmemi_post(t);
    return shmemi_await_all(call, t);
}

/* One epoch in which everybody shows `n` <= SHMEMI_NOTE_ROOM bytes; read them with shmemi_note_of(t, j,
 * t->epoch)->data before the next epoch begins. */
int shmemi_show(const char *call, struct shmemi_team *t, const void *mine, size_t n);

#endif
