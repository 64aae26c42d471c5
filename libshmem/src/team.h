/* Teams, and the notes their members leave for each other: the base of every collective.
 *
 * At the start of the host segment every PE has, for each team slot, SHMEMI_NOTES notes: an epoch word and room for
 * a small payload. A collective is one or two epochs. In each epoch e a member writes its payload into its own note
 * number e % SHMEMI_NOTES, then stores e in the note's epoch word; the others read it there. Nothing is cleared and
 * nothing is written remotely: one line moves from each member to each reader.
 *
 * Beside the epoch a note carries a tag: which collective, with which root, type and size. Readers compare it with their
 * own, so that members who are in different calls, or disagree on an argument, get an error instead of each other's
 * bytes; and a member whose own arguments are wrong posts SHMEMI_TAG_REFUSED, so that nobody waits for it.
 *
 * When may a note be written again? `seen` is an epoch that every member is known to have finished. A member that
 * posts e has finished e - 1, so seeing everybody's e (barrier, reduce, ..) gives seen = e - 1 for nothing; in a
 * broadcast only the root is looked at, and begin() below looks at the others when the notes run out.
 *
 * Members on other nodes cannot read a PE's memory: its notes are mirrored there. A poster puts its note once to each
 * other node of the team, into the memory of one PE, where all PEs of that node read it (mirror.c).
 */
#ifndef SHMEMI_TEAM_H
#define SHMEMI_TEAM_H

#include <stdatomic.h>

#include "base/wait.h"
#include "world.h"

enum { SHMEMI_TEAMS = 128, SHMEMI_NOTES = 4, SHMEMI_NOTE_BYTES = 4096 };
enum { SHMEMI_NOTE_ROOM = SHMEMI_NOTE_BYTES - 16 }; /* largest inline payload */

struct shmemi_note {
    _Atomic uint64_t epoch;
    uint64_t tag;
    unsigned char data[SHMEMI_NOTE_ROOM];
};
/* Bytes that a PE's notes take at the start of the host segment; the mirrors of others' follow. */
#define SHMEMI_NOTES_BYTES ((size_t)SHMEMI_TEAMS * SHMEMI_NOTES * SHMEMI_NOTE_BYTES)

/* The members on one node. */
struct shmemi_team_node {
    int n, *members; /* [n] rising */
    /* of another node: where this PE's notes are mirrored */
    int pe;
    uint64_t offset;
};

struct shmemi_team {
    bool used;
    unsigned generation; /* of the slot; part of the handle */
    int me, n;
    int *pes;                   /* [n] world numbers */
    struct shmemi_note **notes; /* [n] each member's SHMEMI_NOTES notes for this team, or their mirror here */
    int nnodes, home;           /* nodes with members; this PE's among them */
    struct shmemi_team_node *nodes;
    int *node, *rank; /* [n] each member's node, and its number among the members there */
    uint64_t epoch, seen;
    uint64_t tag; /* of the collective this PE is in */
    bool told;    /* debug mode: the members know already that this PE refuses */
    shmem_team_config_t config;
};

/* The collectives a tag can name. */
#define SHMEMI_COLLECTIVES(X)                                                                                \
    X(SYNC, "sync or barrier")                                                                               \
    X(MEMORY, "allocation, realloc or free")                                                                 \
    X(TEAM, "split or destruction of a team")                                                                \
    X(BROADCAST, "broadcast")                                                                                \
    X(COLLECT, "collect")                                                                                    \
    X(FCOLLECT, "fcollect")                                                                                  \
    X(ALLTOALL, "alltoall")                                                                                  \
    X(ALLTOALLS, "alltoalls")                                                                                \
    X(REDUCE, "reduction")                                                                                   \
    X(SCAN, "scan")                                                                                          \
    X(ARGUMENTS, "a collective that its own message names")                                                  \
    X(QUANT_ALLREDUCE, "quantized allreduce")                                                                \
    X(QUANT_REDUCE_SCATTER, "quantized reduce_scatter")                                                      \
    X(QUANT_ALLGATHER, "quantized allgather")                                                                \
    X(QUANT_ALLTOALL, "quantized alltoall")                                                                  \
    X(QUANT_BROADCAST, "quantized broadcast")                                                                \
    X(GPU_NIC_RECOVER, "recovery of kernels' queue pairs")
enum shmemi_collective {
    SHMEMI_REFUSED, /* no arguments: what a refused call posts */
#define X(name, text) SHMEMI_##name,
    SHMEMI_COLLECTIVES(X)
#undef X
};
#define SHMEMI_TAG_REFUSED ((uint64_t)SHMEMI_REFUSED)

/* kind in 8 bits, argument (root, or type and operation) in 16, bytes in 40. */
static inline uint64_t shmemi_tag(enum shmemi_collective kind, unsigned argument, uint64_t bytes)
{
    return (uint64_t)kind | (uint64_t)(argument & 0xffff) << 8 | bytes << 24;
}

/* The team of a handle, or NULL: logged, *rc set (NOT_INITIALIZED or TEAM). */
struct shmemi_team *shmemi_team_get(const char *call, shmem_team_t handle, int *rc);
/* The slot of a team, the same number on all members; the team in a slot, NULL = none. */
int shmemi_team_slot(const struct shmemi_team *t);
struct shmemi_team *shmemi_team_in_slot(int slot);
/* For those who agree on a slot by themselves (active_set.c). Bits of the slots that cannot be had now, and the highest
 * epoch that any former team of this PE has used: the new team starts above. */
void shmemi_team_busy(uint64_t busy[SHMEMI_TEAMS / 64], uint64_t *retired);
/* Reserves a slot; false: another thread has it. */
bool shmemi_team_take(int slot);
void shmemi_team_untake(int slot);
/* Makes the team of PEs start, start + stride, .. (n of them, numbers of `parent`, this PE among them) in a slot that all
 * of them have taken. */
int shmemi_team_join(const char *call, const struct shmemi_team *parent, int slot, uint64_t epoch, int start,
                     int stride, int n, const shmem_team_config_t *config, long mask, shmem_team_t *out);
/* The members of a team to be, and SHMEMI_AGREE_WORDS symmetric words for them, zero before and after. Agrees on a slot and
 * takes it (team_agree.c); `scarce`: fewer than half of all are left. Every member calls. The same error on all: LIMIT. */
struct shmemi_set {
    const char *call;
    const int *pes; /* [n] world numbers */
    int n;
    struct shmemi_place words;
};
enum { SHMEMI_AGREE_WORDS = 5 };
int shmemi_team_agree(const struct shmemi_set *s, int *slot, uint64_t *epoch, bool *scarce);
/* The same members once more, in a slot that all of them have taken; no kernel uses it. */
int shmemi_team_twin(const char *call, const struct shmemi_team *t, int slot, uint64_t epoch,
                     shmem_team_t *out);
/* Local: gives a twin's slot back. Nobody reads its notes any more. */
void shmemi_team_drop_twin(shmem_team_t twin);
/* ctx.c: quiet of the contexts that were made on a team; SHMEM_TEAM_INVALID = on any, as a barrier's is of all contexts. Over
 * networks alone: elsewhere the default one's quiet is everybody's (transport.h). */
int shmemi_ctx_quiet_team(shmem_team_t team);
/* A team's contexts go with it; at finalize (SHMEM_TEAM_INVALID) all. */
void shmemi_ctx_drop_team(shmem_team_t team);
/* World and shared; collective, the segments are mapped. */
int shmemi_team_open(const char *call);
void shmemi_team_close(void);

static inline struct shmemi_note *shmemi_note_of(const struct shmemi_team *t, int member, uint64_t epoch)
{
    return &t->notes[member][epoch % SHMEMI_NOTES];
}

/* Waits until `member` has posted `epoch` or a later one, whatever it says. */
static inline int shmemi_arrived(const char *call, const struct shmemi_team *t, int member, uint64_t epoch)
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

/* Logs how `member`'s call differs from this PE's; returns MISMATCH. */
SHMEMI_COLD int shmemi_disagree(const char *call, const struct shmemi_team *t, int member);

/* Waits until `member` has posted this epoch; then its note may be read, and is from the same call. */
static inline int shmemi_await(const char *call, const struct shmemi_team *t, int member)
{
    int rc = shmemi_arrived(call, t, member, t->epoch);
    if (SHMEMI_UNLIKELY(rc != 0))
        return rc;
    return SHMEMI_LIKELY(shmemi_note_of(t, member, t->epoch)->tag == t->tag)
               ? SHMEMX_SUCCESS
               : shmemi_disagree(call, t, member);
}

/* Starts the next epoch of the collective `tag`; on return this PE's note for it may be written. */
static inline int shmemi_begin(const char *call, struct shmemi_team *t, uint64_t tag)
{
    uint64_t e = ++t->epoch;
    t->tag = tag;
    if (SHMEMI_LIKELY(t->seen + SHMEMI_NOTES >= e))
        return SHMEMX_SUCCESS;
    for (int j = 0; j < t->n;
         ++j) { /* a member that posted e - 3 has finished e - 4, which used the same note */
        int rc = j == t->me ? 0 : shmemi_arrived(call, t, j, e - SHMEMI_NOTES + 1);
        if (SHMEMI_UNLIKELY(rc != 0))
            return rc;
    }
    t->seen = e - SHMEMI_NOTES;
    return SHMEMX_SUCCESS;
}

/* mirror.c: puts this PE's note of the epoch, with `n` bytes of payload, where members on other nodes look for it. */
SHMEMI_COLD int shmemi_mirror(const struct shmemi_team *t, size_t n);

static inline unsigned char *shmemi_my_note(const struct shmemi_team *t)
{
    return shmemi_note_of(t, t->me, t->epoch)->data;
}

/* `n`: bytes of payload. release: a member that reads the epoch (shmemi_await) sees them and all this PE stored before */
static inline int shmemi_post(const struct shmemi_team *t, size_t n)
{
    struct shmemi_note *note = shmemi_note_of(t, t->me, t->epoch);
    note->tag = t->tag;
    atomic_store_explicit(&note->epoch, t->epoch, memory_order_release);
    return SHMEMI_LIKELY(t->nnodes == 1) ? SHMEMX_SUCCESS : shmemi_mirror(t, n);
}

/* Everybody is waited for also after a disagreement, so that all leave the epoch together. */
static inline int shmemi_await_all(const char *call, struct shmemi_team *t)
{
    int result = SHMEMX_SUCCESS;
    for (int j = 0; j < t->n; ++j) {
        int rc = j == t->me ? 0 : shmemi_await(call, t, j);
        if (SHMEMI_UNLIKELY(rc != 0)) {
            if (rc != SHMEMX_ERR_MISMATCH)
                return rc;
            result = rc;
        }
    }
    t->seen = t->epoch - 1;
    return result;
}

/* One epoch without payload: everybody has arrived in the same call. */
static inline int shmemi_meet(const char *call, struct shmemi_team *t, uint64_t tag)
{
    int rc = shmemi_begin(call, t, tag);
    if (SHMEMI_UNLIKELY(rc != 0) || SHMEMI_UNLIKELY((rc = shmemi_post(t, 0)) != 0))
        return rc;
    return shmemi_await_all(call, t);
}

/* One epoch in which everybody shows `n` <= SHMEMI_NOTE_ROOM bytes; read them with shmemi_note_of(t, j,
 * t->epoch)->data before the next epoch begins. */
int shmemi_show(const char *call, struct shmemi_team *t, uint64_t tag, const void *mine, size_t n);

/* mirror.c: how many mirrors of notes a PE holds for others, the same number on all; after shmemi_node_learn. */
int shmemi_mirrors(void);
/* Fills nodes, node, rank and notes of a team from its pes; `slot` is its slot. */
int shmemi_team_place(const char *call, struct shmemi_team *t, int slot);
void shmemi_team_unplace(struct shmemi_team *t);
/* The member on this PE's node that has, for all of them, what member `j` of another node sends. */
static inline int shmemi_stand_in(const struct shmemi_team *t, int j)
{
    const struct shmemi_team_node *home = &t->nodes[t->home];
    return home->members[t->rank[j] % home->n];
}

/* quiet, then sync; for calls that start or end with a barrier under their own name. */
int shmemi_barrier(const char *call, shmem_team_t team);

/* For a call whose arguments are wrong on this PE, before its first epoch: tells the others, does not wait, returns
 * `rc`. They get MISMATCH. */
SHMEMI_COLD int shmemi_refuse(const char *call, struct shmemi_team *t, int rc);

#endif
