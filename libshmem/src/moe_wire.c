/* Rounds between the ranks of an object: rows first, then one line to every rank. */
#include <string.h>

#include "base/wait.h"
#include "moe.h"
#include "shmemx.h"

void shmemi_moe_begin_round(struct shmemx_moe *moe)
{
    moe->round++;
}

int shmemi_moe_flush(struct shmemx_moe *moe, int rank, size_t offset, size_t from, size_t n)
{
    if (moe->peer[rank] || n == 0)
        return SHMEMX_SUCCESS;
    return shmemx_put_nbi(SHMEM_CTX_DEFAULT, moe->base.block + offset + from, moe->stage[rank] + from, n,
                          moe->world[rank]);
}

static int tell(struct shmemx_moe *moe, int rank, uint64_t word, size_t bytes)
{
    struct shmemi_moe_line *mine = moe->line;
    if (moe->peer[rank]) {
        struct shmemi_moe_line *there = shmemi_moe_line_of(moe, moe->peer[rank], moe->round, moe->me);
        memcpy(&there->tag, &mine->tag, bytes);
        /* observers: that rank, which reads the word with acquire in hear, finds tag, counts and all rows
         * stored before */
        atomic_store_explicit(&there->word, word, memory_order_release);
        return SHMEMX_SUCCESS;
    }
    struct shmemi_moe_line *there = shmemi_moe_line_of(moe, moe->base.block, moe->round, moe->me);
    return shmemx_put_signal(SHMEM_CTX_DEFAULT, &there->tag, &mine->tag, bytes,
                             (uint64_t *)(void *)&there->word, word, SHMEM_SIGNAL_SET, moe->world[rank]);
}

/* Waits for that rank's line of this round. */
static int hear(const char *call, const struct shmemx_moe *moe, int rank, uint64_t *word)
{
    struct shmemi_moe_line *line = shmemi_moe_line_of(moe, moe->base.block, moe->round, rank);
    struct shmemi_wait w = SHMEMI_WAIT_FOR(call, moe->world[rank], &line->word);
    /* acquire: see tell */
    while ((*word = atomic_load_explicit(&line->word, memory_order_acquire)) >> 16 < moe->round) {
        int rc = shmemi_wait_step(&w);
        if (rc)
            return rc;
    }
    if (*word >> 16 > moe->round)
        return shmemi_fail(SHMEMX_ERR_MISMATCH, call,
                           "PE %d is in round %llu of this object, this PE in round %llu", moe->world[rank],
                           (unsigned long long)(*word >> 16), (unsigned long long)moe->round);
    return SHMEMX_SUCCESS;
}

static const char *step_name(unsigned step)
{
    static const char *const names[] = {
        "no call", "the sizes of a dispatch",  "the rows of a dispatch", "combine",
        "combine", "combine with topk_weights"};
    return step < sizeof names / sizeof *names ? names[step] : "an unknown call";
}

static int compare(const char *call, const struct shmemx_moe *moe, enum shmemi_moe_step step, uint64_t tag,
                   int rank)
{
    const struct shmemi_moe_line *line = shmemi_moe_line_of(moe, moe->base.block, moe->round, rank);
    uint64_t word = atomic_load_explicit(&line->word, memory_order_relaxed);
    int code = -(int)(word & 0xff), pe = moe->world[rank];
    unsigned theirs = (unsigned)(word >> 8) & 0xff;
    if (code)
        return shmemi_fail(SHMEMX_ERR_MISMATCH, call,
                           "PE %d could not take part: SHMEMX_ERR_%s (%s); see its message", pe,
                           shmemx_error_name(code), shmemx_strerror(code));
    if (theirs != (unsigned)step)
        return shmemi_fail(SHMEMX_ERR_MISMATCH, call, "PE %d is in %s, this PE in %s", pe, step_name(theirs),
                           step_name((unsigned)step));
    if (line->tag != tag)
        return shmemi_fail(SHMEMX_ERR_MISMATCH, call,
                           "PE %d uses the routing of round %llu, this PE that of round %llu (0 = a new one)",
                           pe, (unsigned long long)line->tag, (unsigned long long)tag);
    return SHMEMX_SUCCESS;
}

/* What the object counts follows from the lines of all ranks and not from what this one called, so that ranks
 * agree on the next buffers even after calls that did not match. */
static void note_steps(struct shmemx_moe *moe)
{
    enum shmemi_moe_step first = moe->c.mode == SHMEMX_MOE_EXCHANGE ? SHMEMI_MOE_SIZES : SHMEMI_MOE_ROWS;
    bool dispatch = false, combine = false;
    for (int rank = 0; rank < moe->ranks; rank++) {
        struct shmemi_moe_line *line = shmemi_moe_line_of(moe, moe->base.block, moe->round, rank);
        unsigned step = (unsigned)(atomic_load_explicit(&line->word, memory_order_relaxed) >> 8) & 0xff;
        dispatch |= step == (unsigned)first;
        combine |= step >= SHMEMI_MOE_COMBINE;
    }
    if (combine) {
        moe->combine_slot = shmemi_moe_combine_slot(moe);
        moe->combine_round = moe->round;
    }
    moe->dispatches += dispatch;
}

int shmemi_moe_end_round(const char *call, struct shmemx_moe *moe, enum shmemi_moe_step step, int error,
                         uint64_t tag, const int32_t *counts)
{
    size_t bytes = sizeof moe->line->tag;
    moe->line->tag = tag;
    if (counts) {
        memcpy(moe->line->counts, counts, (size_t)moe->ranks * sizeof *counts);
        bytes += (size_t)moe->ranks * sizeof *counts;
    }
    uint64_t word = moe->round << 16 | (uint64_t)step << 8 | (uint64_t)-error;
    /* Rows put by flush are there before any line is: a rank reads those of its node that lie in another's buffer
     * (moe_dispatch.c). And the stages are free for the next round. */
    int rc = moe->far ? shmemx_quiet(SHMEM_CTX_DEFAULT) : SHMEMX_SUCCESS;
    /* Each begins behind itself, so that not all write to one rank at a time. */
    for (int i = 1; i <= moe->ranks && rc == 0; i++)
        rc = tell(moe, (moe->me + i) % moe->ranks, word, bytes);
    for (int i = 1; i <= moe->ranks && rc == 0; i++) {
        uint64_t theirs;
        rc = hear(call, moe, (moe->me + i) % moe->ranks, &theirs);
    }
    if (rc) {
        moe->broken = true;
        return error ? error : rc;
    }
    note_steps(moe);
    for (int rank = 0; rank < moe->ranks && error == 0; rank++)
        error = compare(call, moe, step, tag, rank);
    return error;
}
