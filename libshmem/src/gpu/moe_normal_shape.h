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

/* Addresses of an object with sizes and `most` set, at `end`; returns where it ends. groups: the most a row can have. */
static inline shmemi_moen_u64 shmemi_moen_lay_out(struct shmemi_moen *o, unsigned ranks, unsigned groups,
                                                  shmemi_moen_u64 end)
{
    shmemi_moen_u64 chunks = (o->max_tokens + SHMEMI_MOEN_CHUNK - 1) / SHMEMI_MOEN_CHUNK;
    shmemi_moen_u64 rows = (shmemi_moen_u64)2 * ranks * o->max_tokens;
    unsigned record = shmemi_moen_record(o->hidden, groups);
    o->back_row = shmemi_moen_up(record > 2 * o->hidden ? record : 2 * o->hidden, 128);
    o->begun = shmemi_moen_take(&end, 8ull * ranks);
    o->counts = shmemi_moen_take(&end, 8ull * ranks * ranks);
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
    r->per_source = shmemi_moen_take(&end, 4ull * ranks);
    return end;
}
static inline shmemi_moen_u64 shmemi_moen_routing_size(const struct shmemi_moen *o, unsigned ranks,
                                                       shmemi_moen_u64 tokens)
{
    return shmemi_moen_up(shmemi_moen_place_all(ranks, o->most, o->experts).pos + 4 * tokens * ranks, 16);
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
    unsigned tables = 4 * (ranks * ranks + ranks);
    /* quantizing takes 8 warps' time; a row that leaves as it came is loaded while two others leave */
    shmemi_moen_fill(p, tables + 640, room, warps < 8 ? warps : 8, quantizes ? 1 : 3, quantizes ? 4 : 8);
    if (!p->slots) {
        p->warps = warps;
        a->bulk_scales = 0;
    }
    p->head = (unsigned)shmemi_moen_up(shmemi_moen_up(8 * p->warps * p->slots, 16) + tables, 128);
    return p->head + p->warps * p->slots * p->slot;
}

/* The same for a combine of `warps` warps in all; those that send are pipe.warps. */
static inline unsigned shmemi_moen_shape_combine(struct shmemi_moen_combine *a, const struct shmemi_moen *o,
                                                 unsigned ranks, unsigned room, unsigned warps)
{
    unsigned h = o->hidden, quantizes = a->format != SHMEMI_MOEN_BF16;
    struct shmemi_moen_pipe *p = &a->pipe;
    a->row_bytes =
        quantizes ? shmemi_moen_record(h, shmemi_moen_groups(h, a->group == h ? 0 : a->group)) : 2 * h;
    p->values = quantizes ? (unsigned)shmemi_moen_up(2 * h, 128) : 0;
    p->scales = p->values + (unsigned)shmemi_moen_up(h, 16);
    p->slot = p->values + (unsigned)shmemi_moen_up(a->row_bytes, 128);
    unsigned tables =
        4 * (2 * ranks + warps) + 16 + 16 * (ranks + 2) * warps; /* addends, if all warps had them */
    shmemi_moen_fill(p, tables + 640, room, warps / 2, quantizes ? 1 : 3, quantizes ? 4 : 8);
    if (!p->slots)
        p->warps = warps / 2;
    p->head = (unsigned)shmemi_moen_up(shmemi_moen_up(8 * p->warps * p->slots, 16) + tables, 128);
    return p->head + p->warps * p->slots * p->slot;
}

#endif
