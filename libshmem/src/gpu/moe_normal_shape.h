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

static inline shmemi_moen_u64 shmemi_moen_lay_out_mirror(struct shmemi_moen *o, unsigned ranks,
                                                         unsigned groups, shmemi_moen_u64 end)
{
    shmemi_moen_u64 rows = (shmemi_moen_u64)ranks * o->max_tokens;
    struct shmemi_moen_mirror *m = &o->mirror;
    m->x = shmemi_moen_take(&end, rows * o->back_row);
    m->scales = shmemi_moen_take(&end, rows * shmemi_moen_up(4 * groups, 16));
    m->topk_idx = shmemi_moen_take(&end, rows * o->topk * 8);
    m->topk_weights = shmemi_moen_take(&end, rows * o->topk * 4);
    m->source_token = shmemi_moen_take(&end, rows * 4);
    m->chosen = shmemi_moen_take(&end, 8ull * o->experts);
    m->staged = shmemi_moen_take(&end, 4ull * (o->max_tokens / SHMEMI_MOEN_TILE + 1));
    return end;
}

/* Addresses of an object with sizes, `most`, `sources` and mirror.far set, at `end`; returns where it ends. groups: the most a row
 * can have. */
static inline shmemi_moen_u64 shmemi_moen_lay_out(struct shmemi_moen *o, unsigned ranks, unsigned groups,
                                                  shmemi_moen_u64 end)
{
    shmemi_moen_u64 chunks = (o->max_tokens >> SHMEMI_MOEN_CHUNK_QUANTIZED) + 1;
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
    return o->mirror.far ? shmemi_moen_lay_out_mirror(o, ranks, groups, end) : end;
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
    p->slots = 0;
    for (; warps && !p->slots; warps /= 2) {
        unsigned each = room > head ? (room - head) / warps : 0;
        unsigned fit = each > p->side ? (each - p->side) / p->slot : 0;
        if (fit >= (warps > 1 ? least : 1)) {
            p->slots = fit < most ? fit : most;
            p->warps = warps;
        }
    }
}
static inline unsigned shmemi_moen_pipe_end(const struct shmemi_moen_pipe *p)
{
    return p->head + (p->slots ? p->warps * (p->slots * p->slot + p->side) : 0);
}

/* May rows be taken in so many parts? They begin at multiples of 16 bytes. shift: of the columns of a scale, 31 where a row
 * has one. */
static inline int shmemi_moen_parts(unsigned hidden, unsigned shift, unsigned parts)
{
    unsigned columns = hidden / parts;
    return parts == 1 || (hidden % parts == 0 && columns % 16 == 0 &&
                          (shift == 31 || columns >> shift << shift == columns));
}
/* Slots for rows that are quantized, whose scales take scale_bytes; returns in how many parts a row is taken. Quantizing waits
 * more than it computes: what counts is that many warps do it, then that each has a slot to load while it works on
 * another, then that parts are large. A dispatch of 4,096 rows of 7,168 to 2 H100 by 24 blocks takes with 8 warps, a slot for a
 * whole row each, 193 us; with 16 warps and 2 slots for a seventh 119, for a quarter 112; 4 for a seventh 127; 1 for half 125. */
static inline unsigned shmemi_moen_slice(struct shmemi_moen_pipe *p, unsigned hidden, unsigned shift,
                                         unsigned scale_bytes, unsigned head, unsigned room, unsigned warps)
{
    unsigned parts, chosen = 1, best = 0;
    struct shmemi_moen_pipe q = *p;
    p->slots = 0;
    for (parts = 1; parts <= (shift == 31 ? 1u : 8u); ++parts) {
        unsigned columns = hidden / parts, score;
        if (!shmemi_moen_parts(hidden, shift, parts))
            continue;
        q.values = (unsigned)shmemi_moen_up(2 * columns, 128);
        q.scales = 0;
        q.slot = q.values + (unsigned)shmemi_moen_up(columns, 128);
        q.side = 2 * (unsigned)shmemi_moen_up(scale_bytes, 128);
        shmemi_moen_fill(&q, head, room, warps, 1, SHMEMI_MOEN_SLOTS);
        score = q.slots ? 2 * q.warps + (q.slots > 1) : 0;
        if (score > best) {
            best = score;
            chosen = parts;
            *p = q;
        }
    }
    return chosen;
}

/* How many of a dispatch's blocks send rows as they are to the other ranks, where the rest copies within the own; 0 = all do both.
 * An SM's copy engine takes its stores in turn, and those over a link hold up the others. Measured with 4,096 rows of 14 KiB, us:
 *   2 H100, 24 blocks: all do both 222; 8, 9, 11 stay at home 223, 202, 200; 64 blocks: 188; 8, 12, 16: 219, 181, 182
 *   4 H100, 24 blocks: 512; 3, 4, 5, 8: 546, 498, 500, 506; 64 blocks: 478; 4 to 16: 477
 * By 16 blocks it brought nothing. */
static inline unsigned shmemi_moen_abroad(unsigned ranks, unsigned blocks)
{
    unsigned home = ranks == 2 ? 11 : ranks <= 4 ? 16 / ranks : 2;
    return ranks > 1 && blocks >= 24 ? blocks - home : 0;
}

/* Rows and scales of a dispatch with format, group, groups and tokens set: where they are in shared memory, of which a
 * block may have `room` bytes, with up to `warps` warps, by `blocks` blocks. Returns the bytes it takes. */
static inline unsigned shmemi_moen_shape_dispatch(struct shmemi_moen_dispatch *a, const struct shmemi_moen *o,
                                                  unsigned ranks, unsigned room, unsigned warps,
                                                  unsigned blocks)
{
    unsigned h = o->hidden, quantizes = a->format == SHMEMI_MOEN_INT8 || a->format == SHMEMI_MOEN_FP8;
    unsigned tables = 4 * o->sources * (ranks * ranks + ranks + 1), shift = 31, s;
    struct shmemi_moen_pipe *p = &a->pipe;
    a->row_bytes = a->format == SHMEMI_MOEN_BF16 ? 2 * h : h;
    a->scale_bytes = a->groups ? (unsigned)shmemi_moen_up(4 * a->groups, 16) : 0;
    a->parts = 1;
    for (s = 5; quantizes && s < 8; ++s)
        shift = a->group == 1u << s && a->group != h ? s : shift;
    if (quantizes) {
        a->parts = shmemi_moen_slice(p, h, shift, a->scale_bytes, tables + 640, room, warps);
    } else {
        p->values = p->side = 0;
        p->scales = (unsigned)shmemi_moen_up(a->row_bytes, 128);
        p->slot = p->scales + (a->bulk_scales ? (unsigned)shmemi_moen_up(a->scale_bytes, 128) : 0);
        /* a row that leaves as it came is loaded while two others leave */
        shmemi_moen_fill(p, tables + 640, room, warps < 8 ? warps : 8, 3, 8);
    }
    a->abroad = p->slots && !quantizes ? shmemi_moen_abroad(ranks, blocks) : 0;
    if (!p->slots) {
        p->warps = warps;
        a->parts = 1;
        a->bulk_scales = 0;
    }
    p->head = (unsigned)shmemi_moen_up(shmemi_moen_up(8 * p->warps * p->slots, 16) + tables, 128);
    return shmemi_moen_pipe_end(p);
}

/* A ring from `from` on in `room` bytes, for tokens of up to `rows` rows and `biases`; parts as large as three stages allow,
 * then as many stages as there is room for. Returns where it ends, 0 if there is no room. */
static inline unsigned shmemi_moen_fill_ring(struct shmemi_moen_combine *a, unsigned hidden, unsigned rows,
                                             unsigned biases, unsigned from, unsigned room)
{
    struct shmemi_moen_ring *r = &a->ring;
    unsigned parts, shift = a->format == SHMEMI_MOEN_BF16 ? 31 : a->shift;
    unsigned words = 16 * SHMEMI_MOEN_MOST_STAGES + 32 +
                     16 * (rows + biases + 1) * (SHMEMI_MOEN_MOST_STAGES + 2 * SHMEMI_MOEN_LISTS);
    for (parts = 1; parts <= 32; ++parts) {
        unsigned columns = hidden / parts, fit, plain = 2 * columns, packed = plain;
        if (!shmemi_moen_parts(hidden, shift, parts) || (shift < 31 && parts > 1 && (columns >> shift) % 4))
            continue;                      /* a part's scales begin at a multiple of 16 bytes too */
        if (a->format != SHMEMI_MOEN_BF16) /* with the scales; but for the own row, and biases */
            packed = (unsigned)shmemi_moen_up(columns, 16) +
                     (parts == 1    ? a->row_bytes - (unsigned)shmemi_moen_up(hidden, 16)
                      : shift == 31 ? 16
                                    : (columns >> shift) * 4);
        r->words = from;
        r->at = (unsigned)shmemi_moen_up(from + words, 128);
        r->parts = parts;
        r->rows = rows + biases;
        r->stage = (biases + 1) * (plain > packed ? plain : packed) + (rows - 1) * packed;
        r->stage = (unsigned)shmemi_moen_up(r->stage, 128);
        fit = room > r->at ? (room - r->at) / r->stage : 0;
        r->stages = fit < SHMEMI_MOEN_MOST_STAGES ? fit : (unsigned)SHMEMI_MOEN_MOST_STAGES;
        if (fit >= SHMEMI_MOEN_STAGES)
            return r->at + r->stages * r->stage;
    }
    return 0;
}

/* How many of a combine's blocks send, where the others add. Measured with 4,096 tokens of 7,168, us:
 *   BF16, 2 H100, 24 blocks: 7, 8, 9, 10, 12 send 225, 204, 195, 203, 235; 64 blocks: 12, 16, 20: 178, 179, 180
 *         4 H100, 24 blocks: 9, 10, 11, 12, 13 send 506, 487, 476, 472, 476; 64 blocks: 12, 16, 20: 477, 470, 475
 *   INT8, 2 H100, 24 blocks: 8, 9, 10, 11, 12 send 274, 250, 245, 260, 278; 64 blocks: 20, 24, 26, 28: 136, 129, 132, 136
 *         4 H100, 24 blocks: 11, 12, 13, 14 send 510, 472, 449, 483; 64 blocks: 24, 28, 32, 37: 286, 271, 278, 294
 * so of 24ths, and where that is more than fills the link, what fills it. */
static inline unsigned shmemi_moen_senders(unsigned quantizes, unsigned ranks, unsigned blocks)
{
    unsigned of_24 = quantizes ? (ranks > 2 ? 13 : 10) : (ranks > 2 ? 12 : 9), most = quantizes ? 28 : 16;
    unsigned some = blocks * of_24 / 24;
    return some > most ? most : some ? some : 1;
}

/* The same for a combine by `blocks` blocks of `warps` warps; those that send are pipe.warps. With the copy engine, two
 * blocks or more and up to 8 ranks some blocks send and the others add. */
static inline unsigned shmemi_moen_shape_combine(struct shmemi_moen_combine *a, const struct shmemi_moen *o,
                                                 unsigned ranks, unsigned room, unsigned warps,
                                                 unsigned blocks)
{
    unsigned h = o->hidden, quantizes = a->format != SHMEMI_MOEN_BF16, end, some;
    unsigned rows = ranks < o->topk ? ranks : o->topk, biases = (a->bias[0] != 0) + (a->bias[1] != 0);
    unsigned tables = 4 * (2 * ranks * o->sources + warps) + 16 +
                      16 * (ranks + 2) * warps; /* addends, if all warps had them */
    struct shmemi_moen_pipe *p = &a->pipe;
    a->row_bytes =
        quantizes ? shmemi_moen_record(h, shmemi_moen_groups(h, a->group == h ? 0 : a->group)) : 2 * h;
    a->ring.senders =
        blocks > 1 && warps > 2 && ranks <= 8 ? shmemi_moen_senders(quantizes, ranks, blocks) : 0;
    some = a->ring.senders == 0 ? warps / 2 : quantizes || warps < 4 ? warps : 4;
    a->parts = 1;
    a->chunk = quantizes ? SHMEMI_MOEN_CHUNK_QUANTIZED : SHMEMI_MOEN_CHUNK;
    if (quantizes) {
        a->parts = shmemi_moen_slice(p, h, a->shift, a->row_bytes - (unsigned)shmemi_moen_up(h, 16),
                                     tables + 640, room, some);
    } else {
        p->values = p->scales = p->side = 0;
        p->slot = (unsigned)shmemi_moen_up(a->row_bytes, 128);
        shmemi_moen_fill(p, tables + 640, room, some, 3, 8);
    }
    p->head = (unsigned)shmemi_moen_up(shmemi_moen_up(8 * p->warps * p->slots, 16) + tables, 128);
    if (!p->slots) {
        a->ring.senders = 0;
        p->warps = warps / 2;
    }
    end = shmemi_moen_pipe_end(p);
    if (a->ring.senders) {
        unsigned other = shmemi_moen_fill_ring(a, h, rows, biases, p->head, room);
        if (other)
            return end > other ? end : other;
        a->ring.senders = 0;
        return shmemi_moen_shape_combine(a, o, ranks, room, warps, 1);
    }
    return end;
}

#endif
