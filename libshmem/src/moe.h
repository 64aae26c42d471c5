/* MoE dispatch and combine, inside. Layer: moe, over the public calls of heap, rma, sync, coll, team, and
 * int8.
 *
 *   moe.c           objects: create, destroy, handles, info moe_route.c     where tokens go: layout, and the
 *   routing of one dispatch moe_wire.c      rounds: one flag line from every rank to every rank, data before
 *   it moe_dispatch.c  rows out; the two forms of what arrived moe_combine.c   rows back
 *
 * Rounds. Every collective step is a round: each rank stores what it has for a peer, then one line (flag
 * word, counts) at that peer, and ends the round when the lines of all ranks are there. So whoever has ended
 * round n knows that every rank has begun round n, and that every rank has ended round n - 1. Two sets of
 * lines, by the parity of n, are enough: a line of n + 2 is written after round n + 1, whose end shows that
 * its reader has ended round n.
 */
#ifndef SHMEMI_MOE_H
#define SHMEMI_MOE_H

#include <stdatomic.h>

#include "base/base.h"
#include "int8.h"
#include "moe_agree.h"
#include "shmemx_moe.h"

enum shmemi_moe_step {
    SHMEMI_MOE_NOTHING = 0,
    SHMEMI_MOE_SIZES,
    SHMEMI_MOE_ROWS,
    SHMEMI_MOE_PARTS,
    SHMEMI_MOE_COMBINE,
    SHMEMI_MOE_COMBINE_WEIGHTS
};

/* What one rank tells another in one round. */
struct shmemi_moe_line {
    _Atomic uint64_t word; /* round << 16 | step << 8 | -error */
    uint64_t tag;          /* which routing: number of the round in which it was made, 0 = a new one */
    int32_t counts[];      /* [R] rows from the sender to each rank; only with tag 0 */
};

/* The routing of one dispatch; immutable once complete, shared by its handle and those made from it. */
struct shmemi_moe_route {
    _Atomic int refs; /* handles may be freed by another thread than the one that dispatches */
    uint64_t tag;
    int64_t tokens, rows;
    /* Sending side: token t goes to rank[i] as the at[i]-th row of the (this PE, rank[i]) stream, for
     * start[t] <= i < start[t + 1], ranks ascending. */
    int32_t *start, *rank, *at;
    int32_t *
        via; /* of entry i: the token's first entry on the same node, which is not this PE's: its row alone goes
                     * there, and the rank of entry i copies it; -1 = the row goes to the rank itself */
    int32_t *owner;      /* [tokens][K] rank of each choice, -1 = dropped */
    int32_t *send_count; /* [R] rows to each rank */
    int32_t *send_base;  /* [R] where they start in its receive buffer */
    int32_t *own_base;   /* [R] where what each rank sends back starts in this PE's combine buffer */
    /* Receiving side, by source rank. */
    int32_t *recv_start, *recv_count; /* [R] rows in this PE's receive buffer */
    int32_t *return_base;             /* [R] where they start in the source's combine buffer */
    int32_t *total;                   /* [R] rows of each rank, where rows are packed */
    int64_t *ids;                     /* [rows][K], and so on as in shmemx_moe_received_t */
    float *weights;
    int32_t *source_rank, *source_token;
    int32_t *copy_rank, *copy_row; /* [rows] where the row lies on this node, -1 = in its own place */
    /* [rows] ranks of this node that copied the row, [rows][fan] which, ascending, and as which of their rows: in a
     * combine they leave their sums here, and one goes back. */
    int32_t *parts, *part_rank, *part_row;
    int32_t *per_expert;
    int64_t *offsets;
    int32_t *place;
    void *sending, *receiving; /* the memory of the two sides */
};

struct shmemx_moe_handle {
    struct shmemx_moe_handle *next;
    struct shmemx_moe *moe;
    struct shmemi_moe_route *route;
    uint64_t number; /* of its dispatch */
    int slot;        /* its receive buffer */
};

struct shmemx_moe {
    struct shmemi_moe_object base;
    shmemx_moe_config_t c;
    int ranks, me;       /* ranks 0: this PE is no member and only holds its share of the heap */
    int32_t *world;      /* [R] PE numbers in the world */
    int32_t *owner;      /* [E] rank of each expert */
    int32_t *first;      /* [R + 1] first expert of each rank */
    size_t element, row; /* bytes of an element, of a row of them */
    /* Byte offsets inside a dispatched record (hidden is at 0) and a returned one, and their lengths. */
    size_t ids_at, weights_at, source_at, record;
    size_t back_weights_at, back_record;
    size_t sent_row, back_row; /* bytes of hidden in them: row, or an INT8 record */
    /* The symmetric block, base.block: lines [2][R], receive buffers [slots], combine buffers [2], with fan > 0 the float32
     * sums of received rows [capacity][hidden]. */
    size_t line_bytes, receive_at, receive_bytes, combine_at, combine_bytes, parts_at, block_bytes;
    int slots;
    int64_t combine_rows;
    int32_t *node; /* [R] ranks of one number map each other's memory */
    bool far;      /* some ranks are not mapped */
    int fan; /* most ranks of one node, but one, that a token of another node goes to; the same in all ranks */
    char **peer;  /* [R] block of each rank as mapped here, NULL = not mapped */
    char **stage; /* [R] for ranks not mapped: rows to be put, max(receive, combine) bytes of one stream */
    size_t *sent; /* [R] bytes of each rank's stream that are on their way, in store_rows */
    struct shmemi_moe_line *line; /* the line being told */
    uint64_t round, dispatches, combine_round;
    int combine_slot;
    bool broken;          /* a round did not end: ranks are out of step */
    char *record_scratch; /* one INT8 record */
    float *sum;           /* one row in float32 */
    shmemx_moe_info_t info;
    struct shmemx_moe_handle *handles;
};

/* Tests set it before create: no rank is stored to directly, all goes the way of a transport without mapping.
 */
extern bool shmemi_moe_never_direct;

/* moe.c */
/* NULL, *rc set and logged, when `moe` is no living object whose ranks are in step. */
struct shmemx_moe *shmemi_moe_find(const char *call, struct shmemx_moe *moe, int *rc);
bool shmemi_moe_has_handle(const struct shmemx_moe *moe, const struct shmemx_moe_handle *handle);
/* ARGUMENT when it belongs to no living object. */
int shmemi_moe_check_handle(const char *call, const struct shmemx_moe_handle *handle);
int shmemi_moe_new_handle(const char *call, struct shmemx_moe *moe, struct shmemi_moe_route *route,
                          uint64_t number, struct shmemx_moe_handle **handle);

/* moe_route.c */
/* The sending side of a new routing from topk_idx; ARGUMENT names the first bad id. *route is NULL on error.
 */
int shmemi_moe_plan(const char *call, const struct shmemx_moe *moe, const void *topk_idx, int idx_type,
                    int64_t tokens, struct shmemi_moe_route **route);
/* Where rows go, from the lines of this round. EXCHANGE: LIMIT, the same on every rank, when they do not fit.
 */
int shmemi_moe_place(const char *call, const struct shmemx_moe *moe, struct shmemi_moe_route *route);
/* Memory of the receiving side. */
int shmemi_moe_reserve(const char *call, const struct shmemx_moe *moe, struct shmemi_moe_route *route);
/* Reads ids, weights, sources out of the arrived records and lays out the expert form. */
void shmemi_moe_read_records(const struct shmemx_moe *moe, struct shmemi_moe_route *route,
                             const char *buffer);
/* Copies the rows that came to another rank of this node, from its buffer, which starts at the same `offset`. */
void shmemi_moe_copy_rows(const struct shmemx_moe *moe, const struct shmemi_moe_route *route, size_t offset);
/* The ranks of this node that copy rows of this one, from their records; right after the round that brought them. */
void shmemi_moe_find_parts(const struct shmemx_moe *moe, struct shmemi_moe_route *r, size_t offset);
void shmemi_moe_route_release(struct shmemi_moe_route *route);

/* moe_wire.c */
/* Begins the next round's telling: from here on rows of the round are stored. */
void shmemi_moe_begin_round(struct shmemx_moe *moe);
/* Where rows for that rank are to be written, `offset` bytes into its block: there, or in the stage. */
static inline char *shmemi_moe_target(const struct shmemx_moe *moe, int rank, size_t offset)
{
    return moe->peer[rank] ? moe->peer[rank] + offset : moe->stage[rank];
}
/* Sends of what was staged for `offset` of a rank's block n bytes, `from` bytes on. Nothing to do where it is mapped. */
int shmemi_moe_flush(struct shmemx_moe *moe, int rank, size_t offset, size_t from, size_t n);
/* Tells all ranks that this one's rows of the round are stored, or with error != 0 that there are none; then
 * waits for all lines. Returns `error` if there is one; else what went wrong elsewhere (MISMATCH naming the
 * PE) or here (TIMEOUT, PEER_DEAD: the object is broken). counts may be NULL. */
int shmemi_moe_end_round(const char *call, struct shmemx_moe *moe, enum shmemi_moe_step step, int error,
                         uint64_t tag, const int32_t *counts);
/* What that rank told in the round just ended. */
static inline struct shmemi_moe_line *shmemi_moe_line_of(const struct shmemx_moe *moe, char *block,
                                                         uint64_t round, int rank)
{
    size_t index = (size_t)(round & 1) * (size_t)moe->ranks + (size_t)rank;
    return (struct shmemi_moe_line *)(void *)(block + index * moe->line_bytes);
}

/* The combine buffer of the round that has begun. The last one used serves again when a round has passed
 * since: its end shows that every rank has begun it, and so has read what the combine brought. One buffer
 * stays in cache. */
static inline int shmemi_moe_combine_slot(const struct shmemx_moe *moe)
{
    return moe->round - moe->combine_round >= 2 ? moe->combine_slot : !moe->combine_slot;
}

/* Whether two matrices of `row` bytes a row, at least one row each, touch; by their outermost bytes. */
static inline bool shmemi_moe_overlap(const void *a, ptrdiff_t a_stride, int64_t a_rows, const void *b,
                                      ptrdiff_t b_stride, int64_t b_rows, size_t row)
{
    uintptr_t from_a = (uintptr_t)a, from_b = (uintptr_t)b;
    return from_a < from_b + (size_t)(b_rows - 1) * (size_t)b_stride + row &&
           from_b < from_a + (size_t)(a_rows - 1) * (size_t)a_stride + row;
}

#endif
