/* How the memory of an object and the shared memory of its kernels are divided (moe_normal_args.h): for moe_gpu.c and the
 * tests on CPU threads. Plain C. */
#ifndef SHMEMI_GPU_MOE_NORMAL_SHAPE_H
#define SHMEMI_GPU_MOE_NORMAL_SHAPE_H

#include "moe_normal_args.h"

static inline shmemi_moen_u64 shmemi_moen_up(shmemi_moen_u64 n, shmemi_moen_u64 to)
{
    return (n + to - 1) / to * to;
}
/* A place for n bytes behind *end, 128-byte aligned. */
static inline shmemi_moen_u64 shmemi_moen_take(shmemi_moen_u64 *end, shmemi_moen_u64 n)
{
    shmemi_moen_u64 place = *end;
    *end += shmemi_moen_up(n, 128);
    return place;
}
static inline unsigned shmemi_moen_groups(unsigned hidden, unsigned group) /* 0 = the row */
{
    return group ? (hidden + group - 1) / group : 1;
}
/* A row quantized for combine: values, then scales. */
static inline unsigned shmemi_moen_record(unsigned hidden, unsigned groups)
{
    return (unsigned)(shmemi_moen_up(hidden, 16) + shmemi_moen_up(4 * groups, 16));
}

/* Addresses of an object with sizes, `most` and `sources` set, at `end`; returns where it ends. groups: the most a row can have. */
static inline shmemi_moen_u64 shmemi_moen_lay_out(struct shmemi_moen *o, unsigned ranks, unsigned groups,
                                                  shmemi_moen_u64 end)
{
    shmemi_moen_u64 chunks = (o->max_tokens + SHMEMI_MOEN_CHUNK - 1) / SHMEMI_MOEN_CHUNK;
    shmemi_moen_u64 rows = (shmemi_moen_u64)2 * ranks * o->max_tokens;
    unsigned record = shmemi_moen_record(o->hidden, groups);
    o->back_row = shmemi_moen_up(record > 2 * o->hidden ? record : 2 * o->hidden, 128);
    o->begun = shmemi_moen_take(&end, 8ull * ranks);
    o->counts = shmemi_moen_take(&end, 8ull * ranks * o->sources * ranks);
    o->chosen = shmemi_moen_take(&end, 8ull * ranks * o->most);
    o->arrived = shmemi_moen_take(&end, 8ull * ranks);
    o->back_begun = shmemi_moen_take(&end, 8ull * ranks);
    o->chunks = shmemi_moen_take(&end, 8 * ranks * chunks);
    o->local = shmemi_moen_take(&end, sizeof(struct shmemi_moen_local));
    o->back = shmemi_moen_take(&end, rows * o->back_row);
    o->back_weights = shmemi_moen_take(&end, rows * o->topk * 4);
    return end;
}
static inline shmemi_moen_u64 shmemi_moen_lay_out_result(struct shmemi_moen_result *r,
                                                         const struct shmemi_moen *o, unsigned ranks,
                                                         unsigned groups, shmemi_moen_u64 end)
{
    shmemi_moen_u64 rows = o->capacity;
    r->x = shmemi_moen_take(&end, rows * o->hidden * 2);
    r->scales = shmemi_moen_take(&end, rows * shmemi_moen_up(4 * groups, 16));
    r->topk_idx = shmemi_moen_take(&end, rows * o->topk * 8);
    r->topk_weights = shmemi_moen_take(&end, rows * o->topk * 4);
    r->source_token = shmemi_moen_take(&end, rows * 4);
    r->rows = shmemi_moen_take(&end, 4);
    r->per_expert = shmemi_moen_take(&end, 4ull * o->most);
    r->per_source = shmemi_moen_take(&end, 4ull * ranks * o->sources);
    return end;
}
static inline shmemi_moen_u64 shmemi_moen_routing_size(const struct shmemi_moen *o, unsigned ranks,
                                                       shmemi_moen_u64 tokens)
{
    return shmemi_moen_up(shmemi_moen_place_all(o, ranks).pos + 4 * tokens * ranks, 16);
}

static inline unsigned shmemi_moen_layout_shared(unsigned threads, unsigned experts)
{
    unsigned most = SHMEMI_MOEN_WINDOW, scan = 24 * threads, window = 4 * (experts < most ? experts : most);
    return scan > window ? scan : window;
}

/* As many warps as there is room for, up to `warps`, with at least `least` slots each (one for the last), `most` at most;
 * none where not even one fits. `head` bytes come before them. */
static inline void shmemi_moen_fill(struct shmemi_moen_pipe *p, unsigned head, unsigned room, unsigned warps,
                                    unsigned least, unsigned most)
{
    unsigned fit = room > head ? (room - head) / p->slot : 0;
    p->slots = 0;
    for (; warps && !p->slots; warps /= 2)
        if (fit / warps >= (warps > 1 ? least : 1)) {
            p->slots = fit / warps < most ? fit / warps : most;
            p->warps = warps;
        }
}

/* Rows and scales of a dispatch with format, group, groups and tokens set: where they are in shared memory, of which a
 * block may have `room` bytes, with up to `warps` warps. Returns the bytes it takes. */
static inline unsigned shmemi_moen_shape_dispatch(struct shmemi_moen_dispatch *a, const struct shmemi_moen *o,
                                                  unsigned ranks, unsigned room, unsigned warps)
{
    unsigned h = o->hidden, quantizes = a->format == SHMEMI_MOEN_INT8 || a->format == SHMEMI_MOEN_FP8;
    struct shmemi_moen_pipe *p = &a->pipe;
    a->row_bytes = a->format == SHMEMI_MOEN_BF16 ? 2 * h : h;
    a->scale_bytes = a->groups ? (unsigned)shmemi_moen_up(4 * a->groups, 16) : 0;
    p->values = quantizes ? (unsigned)shmemi_moen_up(2 * h, 128) : 0;
    p->scales = p->values + (unsigned)shmemi_moen_up(a->row_bytes, 128);
    p->slot = p->scales + (quantizes || a->bulk_scales ? (unsigned)shmemi_moen_up(a->scale_bytes, 128) : 0);
    unsigned tables = 4 * o->sources * (ranks * ranks + ranks + 1);
    /* quantizing takes 8 warps' time; a row that leaves as it came is loaded while two others leave */
    shmemi_moen_fill(p, tables + 640, room, warps < 8 ? warps : 8, quantizes ? 1 : 3, quantizes ? 4 : 8);
    if (!p->slots) {
        p->warps = warps;
        a->bulk_scales = 0;
    }
    p->head = (unsigned)shmemi_moen_up(shmemi_moen_up(8 * p->warps * p->slots, 16) + tables, 128);
    return p->head + p->warps * p->slots * p->slot;
}

/* May rows be taken in so many parts? Parts, and their scales, begin at multiples of 16 bytes. */
static inline int shmemi_moen_parts(const struct shmemi_moen_combine *a, unsigned hidden, unsigned parts)
{
    unsigned columns = hidden / parts;
    if (parts == 1)
        return 1;
    if (hidden % parts || columns % 16)
        return 0;
    return a->format == SHMEMI_MOEN_BF16 || a->shift == 31 ||
           (((columns >> a->shift) << a->shift) == columns && (columns >> a->shift) % 4 == 0);
}
/* A ring from `from` on in `room` bytes, for tokens of up to `rows` rows; parts as large as three stages allow. Returns where
 * it ends, 0 if there is no room. */
static inline unsigned shmemi_moen_fill_ring(struct shmemi_moen_combine *a, unsigned hidden, unsigned rows,
                                             unsigned from, unsigned room)
{
    struct shmemi_moen_ring *r = &a->ring;
    unsigned words = 16 * SHMEMI_MOEN_STAGES + 16 * (rows + 1) * (SHMEMI_MOEN_STAGES + SHMEMI_MOEN_LISTS),
             parts;
    for (parts = 1; parts <= 32; ++parts) {
        if (!shmemi_moen_parts(a, hidden, parts))
            continue;
        r->words = from;
        r->at = (unsigned)shmemi_moen_up(from + words, 128);
        r->parts = parts;
        r->rows = rows;
        /* the last part's scales may be read beyond their end */
        r->slot = (unsigned)shmemi_moen_up(2 * (hidden / parts) + 16, 128);
        if (r->at + SHMEMI_MOEN_STAGES * rows * r->slot <= room)
            return r->at + SHMEMI_MOEN_STAGES * rows * r->slot;
    }
    return 0;
}

/* How many of a combine's blocks send, where the others add. Measured on 4 H100 (2 H100), 4096 tokens of 7168: BF16 by 24
 * blocks, where all did both, took 763 us; with 8, 10, 12, 14 that send 525, 489, 497, 541 (250, 287, 337); by 64 blocks with
 * 16, 21, 32 478, 483, 495 (193, 202, 264): ten fill the link. INT8, whose arithmetic is the limit: 10, 14, 16 of 24: 845, 672,
 * 786 (430 with 10). */
static inline unsigned shmemi_moen_senders(unsigned quantizes, unsigned ranks, unsigned blocks)
{
    unsigned some = blocks * (quantizes ? (ranks > 2 ? 7 : 5) : (ranks > 2 ? 5 : 4)) / 12;
    some = quantizes || some < 16 ? some : 16;
    return some ? some : 1;
}

/* The same for a combine by `blocks` blocks of `warps` warps; those that send are pipe.warps. With the copy engine, two
 * blocks or more and up to 8 ranks some blocks send and the others add. */
static inline unsigned shmemi_moen_shape_combine(struct shmemi_moen_combine *a, const struct shmemi_moen *o,
                                                 unsigned ranks, unsigned room, unsigned warps,
                                                 unsigned blocks)
{
    unsigned h = o->hidden, quantizes = a->format != SHMEMI_MOEN_BF16, most = quantizes ? warps : 4, end;
    unsigned rows = (ranks < o->topk ? ranks : o->topk) + (a->bias[0] != 0) + (a->bias[1] != 0);
    unsigned tables = 4 * (2 * ranks * o->sources + warps) + 16 +
                      16 * (ranks + 2) * warps; /* addends, if all warps had them */
    struct shmemi_moen_pipe *p = &a->pipe;
    a->row_bytes =
        quantizes ? shmemi_moen_record(h, shmemi_moen_groups(h, a->group == h ? 0 : a->group)) : 2 * h;
    a->ring.senders =
        blocks > 1 && warps > 1 && ranks <= 8 ? shmemi_moen_senders(quantizes, ranks, blocks) : 0;
    for (a->parts = 1; a->parts <= 4; ++a->parts) {
        unsigned columns = h / a->parts;
        if (!shmemi_moen_parts(a, h, a->parts) || (a->parts > 1 && (!quantizes || a->shift == 31)))
            continue; /* a row's one scale wants the whole row */
        p->values = quantizes ? (unsigned)shmemi_moen_up(2 * columns, 128) : 0;
        p->scales = p->values + (unsigned)shmemi_moen_up(columns, 16);
        p->slot = p->values +
                  (unsigned)shmemi_moen_up(a->parts == 1 ? a->row_bytes : columns + columns / 8 + 16, 128);
        shmemi_moen_fill(p, tables + 640, room, a->ring.senders ? (warps < most ? warps : most) : warps / 2,
                         quantizes ? 1 : 3, quantizes ? 1 : 8);
        if (p->slots && (p->warps == warps || !quantizes))
            break;
    }
    if (a->parts > 4) { /* as many warps as whole rows leave */
        a->parts = 1;
        p->values = quantizes ? (unsigned)shmemi_moen_up(2 * h, 128) : 0;
        p->scales = p->values + (unsigned)shmemi_moen_up(h, 16);
        p->slot = p->values + (unsigned)shmemi_moen_up(a->row_bytes, 128);
        shmemi_moen_fill(p, tables + 640, room, a->ring.senders ? (warps < most ? warps : most) : warps / 2,
                         quantizes ? 1 : 3, quantizes ? 1 : 8);
    }
    p->head = (unsigned)shmemi_moen_up(shmemi_moen_up(8 * p->warps * p->slots, 16) + tables, 128);
    if (!p->slots) {
        a->ring.senders = 0;
        p->warps = warps / 2;
    }
    end = p->head + p->warps * p->slots * p->slot;
    if (a->ring.senders) {
        unsigned other = shmemi_moen_fill_ring(a, h, rows, p->head, room);
        if (other)
            return end > other ? end : other;
        a->ring.senders = 0;
        return shmemi_moen_shape_combine(a, o, ranks, room, warps, 1);
    }
    return end;
}

#endif
