/* Quantized collectives: who packs, fetches and adds up what, chunk by chunk.
 *
 * Members are grouped in units: those of one node, or each its own where all are on one. Within a unit elements are read
 * as they are; between units they travel as records. A reduction gives each member a span of the chunk to add up: of
 * every other unit the one that stands for it there packs the unit's sum, and it adds those up with its own unit's. In an
 * allreduce it then packs the result, and all take all results: reduce-scatter and allgather (Rabenseifner), quantized
 * once each. In the one-shot form everybody packs all and adds up everybody's: fewer meetings, one quantization, and of
 * two units no more bytes.
 *
 * Meetings are epochs of team.h. What a member shows in its stage it writes before a meeting and leaves alone until the
 * one that the comments name. */
#include <string.h>

#include "quant.h"

/* Elements of a chunk: on one node it stays in the second-level cache from one pass to the next; over nodes the ways there
 * and back should be small beside it. */
enum { CHUNK = 128 << 10, FAR_CHUNK = 512 << 10 };
/* And where nothing is packed: the result is looked through while the caches still have it. */
enum { DIRECT_CHUNK = 1 << 20 };
/* Records of a vector that everybody shows to more than one other, at most: above, two steps move fewer bytes. */
enum { ONE_SHOT_BYTES = 16 << 10 };

/* ---- units ----------------------------------------------------------------------------------------------------------- */

/* In notes everybody sees everybody's, so there are no nodes. */
static bool by_node(const struct shmemi_quant *q)
{
    return q->t->nnodes > 1 && !q->in_notes;
}

static int units(const struct shmemi_quant *q)
{
    return by_node(q) ? q->t->nnodes : q->t->n;
}

static int unit_of(const struct shmemi_quant *q, int member)
{
    return by_node(q) ? q->t->node[member] : member;
}

/* The member of a unit that works there for a member of another one. */
static int delegate(const struct shmemi_quant *q, int unit, int member)
{
    if (!by_node(q))
        return unit;
    const struct shmemi_team_node *node = &q->t->nodes[unit];
    return node->members[q->t->rank[member] % node->n];
}

/* Has any unit several members? */
static bool shared_units(const struct shmemi_quant *q)
{
    return by_node(q) && q->t->nnodes < q->t->n;
}

/* ---- form and layout --------------------------------------------------------------------------------------------------- */

static int layout(struct shmemi_quant *q)
{
    const struct shmemi_team *t = q->t;
    const struct shmemi_codec *c = &q->codec;
    size_t members = (size_t)t->n, record = c->record, far;
    size_t room = SHMEMI_NOTE_ROOM - SHMEMI_QUANT_HELLO, all = shmemi_codec_bytes(c, q->nelems);
    bool blocks = q->kind == SHMEMI_QUANT_REDUCE_SCATTER || q->kind == SHMEMI_QUANT_ALLTOALL;
    bool allreduce = q->kind == SHMEMI_QUANT_ALLREDUCE;
    q->in_notes = all <= room / (blocks ? members : 1);
    far = by_node(q) ? (size_t)units(q) : 0;
    q->one_shot =
        allreduce && (q->in_notes || (!shared_units(q) && (units(q) <= 2 || all <= ONE_SHOT_BYTES)));
    q->raw_dtype = q->residual ? SHMEMX_FLOAT32 : q->dtype;
    q->raw_size = (allreduce || q->kind == SHMEMI_QUANT_REDUCE_SCATTER) && shared_units(q)
                      ? shmemi_float_bytes(q->raw_dtype)
                      : 0;
    bool gathers = !blocks && !q->one_shot;

    /* how many spans each region holds */
    size_t raws = q->raw_size ? members : 0, results = gathers, outs = members, fetches = far;
    if (q->one_shot)
        outs = q->in_notes ? 1 : 2, fetches = far ? far - 1 : 0;
    else if (gathers && !allreduce)
        outs = far ? members : 0, fetches = 0;
    else if (q->kind == SHMEMI_QUANT_ALLTOALL)
        fetches = far ? members : 0;
    size_t record_bytes = shmemi_codec_bytes(c, record), each = outs + results + fetches;
    size_t fixed = (2 * record * sizeof(float) + members * sizeof(uint64_t) + 127) & ~(size_t)63;
    size_t cost = each * record_bytes + raws * record * q->raw_size;
    size_t records = fixed < SHMEMI_STAGE_BYTES ? (SHMEMI_STAGE_BYTES - fixed) / cost : 0;
    if (records == 0 && !q->in_notes)
        return shmemi_fail(SHMEMX_ERR_LIMIT, q->call,
                           "%zu members with rows of %zu elements need more than %zu bytes", members, record,
                           (size_t)SHMEMI_STAGE_BYTES);
    size_t spans = allreduce && !q->one_shot ? members : 1, shown = blocks ? members : spans;
    size_t wanted = (size_t)(far ? FAR_CHUNK : CHUNK) / record / shown,
           needed = (q->nelems / spans + record) / record;
    wanted = wanted ? wanted : 1;
    records = records < wanted ? records : wanted;
    records = records < needed ? records : needed;
    q->block = q->in_notes ? (q->nelems ? q->nelems : 1) : records * record;
    q->stride = shmemi_codec_bytes(c, q->block);
    q->raw_stride = q->block * q->raw_size;
    q->work = 0;
    q->stages = 2 * record * sizeof(float);
    q->raw = fixed;
    q->out = q->raw + raws * q->raw_stride;
    q->result = q->out + outs * q->stride;
    q->fetched = q->result + results * q->stride;
    if (q->in_notes) { /* shown from where it is packed, whichever region that is */
        q->payload = q->base + q->out;
        q->payload_bytes = blocks ? members * q->stride : all;
        q->result = q->out;
    }
    return SHMEMX_SUCCESS;
}

/* Elements of the chunk at `at` that member j adds up or gives: of the vector, or of its block. */
static struct shmemi_span span_of(const struct shmemi_quant *q, size_t at, int j)
{
    size_t members = (size_t)q->t->n, left = q->nelems - at, record = q->codec.record;
    if (q->kind != SHMEMI_QUANT_ALLREDUCE || q->one_shot)
        return (struct shmemi_span){at, left < q->block ? left : q->block};
    size_t n = left < members * q->block ? left : members * q->block, records = (n + record - 1) / record;
    size_t from = records * (size_t)j / members * record, to = records * ((size_t)j + 1) / members * record;
    to = to < n ? to : n;
    return (struct shmemi_span){at + from, to > from ? to - from : 0};
}

/* ---- records ------------------------------------------------------------------------------------------------------------ */

static float *work_of(const struct shmemi_quant *q)
{
    return (float *)(void *)(q->base + q->work);
}

/* Where that member's region is, for this process; it is on this node. */
static unsigned char *there(const struct shmemi_quant *q, int member, size_t region)
{
    uint64_t stage;
    memcpy(&stage, q->base + q->stages + (size_t)member * sizeof stage, sizeof stage);
    return shmemi_map(q->t->pes[member], (struct shmemi_place){SHMEMI_SEGMENT_HOST, stage + region});
}

/* Brings n bytes of a region of a member to `to` in this PE's stage, if that member is on another node and there is no
 * note to read. There after fetch_end. */
static int fetch(const struct shmemi_quant *q, int member, size_t region, size_t to, size_t n)
{
    if (!by_node(q) || q->t->node[member] == q->t->home || n == 0)
        return SHMEMX_SUCCESS;
    uint64_t stage;
    int pe = q->t->pes[member];
    memcpy(&stage, q->base + q->stages + (size_t)member * sizeof stage, sizeof stage);
    return shmemi_world.route[pe]->get(pe, SHMEMI_SEGMENT_HOST, stage + region, q->base + to, n, SHMEMI_NBI);
}

static int fetch_end(const struct shmemi_quant *q)
{
    return by_node(q) ? shmemx_quiet(SHMEM_CTX_DEFAULT) : SHMEMX_SUCCESS;
}

/* The records in slot `slot` of what a member shows in `out`; from another node they have been fetched to slot `to`. */
static const unsigned char *shown(const struct shmemi_quant *q, int member, size_t slot, size_t to)
{
    const struct shmemi_team *t = q->t;
    if (q->in_notes)
        return shmemi_note_of(t, member, t->epoch)->data + SHMEMI_QUANT_HELLO + slot * q->stride;
    if (t->node[member] == t->home)
        return there(q, member, q->out + slot * q->stride);
    return q->base + q->fetched + to * q->stride;
}

/* Everybody has come so far. With an error of this PE's the others get one as well, and nobody waits. */
static int meet(struct shmemi_quant *q, int rc)
{
    if (SHMEMI_UNLIKELY(rc != 0)) {
        if (rc == SHMEMX_ERR_DATA && !q->refused)
            (void)shmemi_refuse(q->call, q->t, rc);
        q->refused = true;
        return rc;
    }
    return q->agreed ? shmemi_meet(q->call, q->t, q->tag) : shmemi_quant_agree(q);
}

static SHMEMI_COLD int bad(const struct shmemi_quant *q, const char *what, const void *x, int dtype,
                           size_t at, size_t i)
{
    return shmemi_fail(SHMEMX_ERR_DATA, q->call,
                       "%s %zu is %g; clean the input or pass SHMEMX_NONFINITE_PROPAGATE", what, at + i,
                       (double)shmemi_float_at(x, dtype, i));
}

/* acc = (first) or += elements [from, from + n) of this unit's sum; they are `at` elements into span `slot`. */
static void add_unit(const struct shmemi_quant *q, float *acc, bool first, int slot, size_t at, size_t from,
                     size_t n)
{
    const struct shmemi_int8_kernels *k = q->codec.k;
    const struct shmemi_team_node *home = &q->t->nodes[q->t->home];
    int type = SHMEMI_FLOAT_INDEX(q->raw_size ? q->raw_dtype : q->dtype);
    for (int i = 0; i < (q->raw_size ? home->n : 1); ++i) {
        const unsigned char *x = q->source + from * q->size;
        if (q->raw_size)
            x = there(q, home->members[i], q->raw + (size_t)slot * q->raw_stride + at * q->raw_size);
        if (first && i == 0)
            k->widen[type](acc, x, n);
        else
            k->axpy[type](acc, x, n, 1.0f);
    }
    if (q->residual && !q->raw_size)
        k->axpy[SHMEMI_FLOAT_INDEX(SHMEMX_FLOAT32)](acc, q->residual + from, n, 1.0f);
}

/* residual = (acc - what the record says) / factor, the one that acc has already. `back` has room for a record. */
static void keep_rest(const struct shmemi_quant *q, float *acc, float *back, const unsigned char *record,
                      size_t from, size_t n, float factor)
{
    const struct shmemi_int8_kernels *k = q->codec.k;
    shmemi_codec_decode(&q->codec, back, SHMEMX_FLOAT32, record, n);
    k->axpy[SHMEMI_FLOAT_INDEX(SHMEMX_FLOAT32)](acc, back, n, -1.0f);
    for (size_t i = 0; i < n && factor != 1.0f; ++i)
        acc[i] /= factor;
    memcpy(q->residual + from, acc, n * sizeof *acc);
}

/* Packs this unit's elements of span `s`, which begins at element `from` of source, into records. */
static int pack(const struct shmemi_quant *q, unsigned char *records, int slot, size_t from, size_t count)
{
    float *acc = work_of(q), *back = acc + q->codec.record;
    for (size_t at = 0; at < count; at += q->codec.record) {
        size_t n = count - at < q->codec.record ? count - at : q->codec.record, done;
        const void *x = q->source + (from + at) * q->size;
        int dtype = q->dtype;
        if (q->residual || q->raw_size) {
            add_unit(q, acc, true, slot, at, from + at, n);
            x = acc;
            dtype = SHMEMX_FLOAT32;
        }
        if (SHMEMI_UNLIKELY((done = shmemi_codec_encode(&q->codec, records, x, dtype, n)) < n))
            return bad(q, "element", x, dtype, from + at, done);
        if (q->residual)
            keep_rest(q, acc, back, records, from + at, n, 1.0f);
        records += shmemi_codec_bytes(&q->codec, n);
    }
    return SHMEMX_SUCCESS;
}

static void unpack(const struct shmemi_quant *q, size_t to, const unsigned char *records, size_t count)
{
    for (size_t at = 0; at < count; at += q->codec.record) {
        size_t n = count - at < q->codec.record ? count - at : q->codec.record;
        shmemi_codec_decode(&q->codec, q->dest + (to + at) * q->size, q->dtype, records, n);
        records += shmemi_codec_bytes(&q->codec, n);
    }
}

/* acc times the factor; DATA where that is not finite, and must be. */
static int finish_sum(const struct shmemi_quant *q, float *acc, size_t to, size_t n)
{
    if (q->factor != 1.0f) {
        for (size_t i = 0; i < n; ++i)
            acc[i] *= q->factor;
    }
    size_t done =
        q->how.on_nonfinite == SHMEMX_NONFINITE_ERROR ? shmemi_first_nonfinite(acc, SHMEMX_FLOAT32, n) : n;
    return SHMEMI_LIKELY(done == n) ? SHMEMX_SUCCESS : bad(q, "sum", acc, SHMEMX_FLOAT32, to, done);
}

static void store_sum(const struct shmemi_quant *q, const float *acc, size_t to, size_t n)
{
    q->codec.k->narrow[SHMEMI_FLOAT_INDEX(q->dtype)](q->dest + to * q->size, acc, n);
}

/* ---- allreduce in one shot ------------------------------------------------------------------------------------------------ */

/* Where the records of another member's chunk go: there is no room for this PE's own. */
static size_t fetched_of(const struct shmemi_quant *q, int member)
{
    return (size_t)(member - (member > q->t->me));
}

/* Adds up everybody's records of a span, which are in slot `slot`. */
static int add_all(const struct shmemi_quant *q, struct shmemi_span s, size_t slot)
{
    size_t record = q->codec.record, offset = 0;
    int rc = SHMEMX_SUCCESS;
    for (size_t from = 0; from < s.n && rc == 0; from += record) {
        size_t n = s.n - from < record ? s.n - from : record;
        unsigned char *dest = q->dest + (s.from + from) * q->size;
        bool straight = q->dtype == SHMEMX_FLOAT32 && (uintptr_t)dest % sizeof(float) == 0;
        float *acc = straight ? (float *)(void *)dest : work_of(q);
        for (int j = 0; j < q->t->n; ++j) {
            const unsigned char *r = shown(q, j, slot, fetched_of(q, j)) + offset;
            if (j == 0)
                shmemi_codec_decode(&q->codec, acc, SHMEMX_FLOAT32, r, n);
            else
                shmemi_codec_add(&q->codec, acc, r, n);
        }
        rc = finish_sum(q, acc, s.from + from, n);
        if (rc == 0 && !straight)
            store_sum(q, acc, s.from + from, n);
        offset += shmemi_codec_bytes(&q->codec, n);
    }
    return rc;
}

/* All chunks. The next one is packed, into the other of two slots, while this one's records come from other nodes: a member
 * that comes to a meeting has read what the others showed before the last one. */
static int one_shot(struct shmemi_quant *q)
{
    const struct shmemi_team *t = q->t;
    struct shmemi_span s = span_of(q, 0, 0);
    size_t slot = 0;
    int rc = pack(q, q->base + q->out, 0, s.from, s.n);
    for (size_t at = 0;; at += q->block, slot ^= 1) {
        size_t bytes = shmemi_codec_bytes(&q->codec, s.n), next = at + q->block;
        int next_rc = SHMEMX_SUCCESS;
        rc = meet(q, rc);
        for (int j = 0; j < t->n && rc == 0; ++j)
            rc = fetch(q, j, q->out + slot * q->stride, q->fetched + fetched_of(q, j) * q->stride, bytes);
        if (rc)
            return rc;
        struct shmemi_span following = s;
        if (next < q->nelems) {
            following = span_of(q, next, 0);
            next_rc = pack(q, q->base + q->out + (slot ^ 1) * q->stride, 0, following.from, following.n);
        }
        rc = fetch_end(q);
        rc = rc ? rc : add_all(q, s, slot);
        if (next >= q->nelems || rc)
            return q->in_notes ? rc : meet(q, rc); /* until all have read the last records */
        s = following;
        rc = next_rc;
    }
}

/* ---- reduce-scatter ------------------------------------------------------------------------------------------------------- */

/* Where span j of the chunk begins in source. */
static size_t source_at(const struct shmemi_quant *q, int j, struct shmemi_span s)
{
    return q->kind == SHMEMI_QUANT_ALLREDUCE ? s.from : (size_t)j * q->nelems + s.from;
}

/* Puts elements as they are where this node's members read them; what the residual held has then been handed over. */
static void put_raw(const struct shmemi_quant *q, size_t at)
{
    const struct shmemi_int8_kernels *k = q->codec.k;
    for (int j = 0; j < q->t->n; ++j) {
        struct shmemi_span s = span_of(q, at, j);
        size_t from = source_at(q, j, s);
        unsigned char *to = q->base + q->raw + (size_t)j * q->raw_stride;
        const unsigned char *x = q->source + from * q->size;
        if (q->residual) {
            float *sum = (float *)(void *)to;
            k->widen[SHMEMI_FLOAT_INDEX(q->dtype)](sum, x, s.n);
            k->axpy[SHMEMI_FLOAT_INDEX(SHMEMX_FLOAT32)](sum, q->residual + from, s.n, 1.0f);
            memset(q->residual + from, 0, s.n * sizeof *sum);
        } else {
            memcpy(to, x, s.n * q->size);
        }
    }
}

/* This member's span: its own unit's sum as it is, the others' from their records; the result to dest, or packed. */
static int add_up(const struct shmemi_quant *q, size_t at)
{
    const struct shmemi_team *t = q->t;
    struct shmemi_span s = span_of(q, at, t->me);
    size_t record = q->codec.record, source = source_at(q, t->me, s), offset = 0;
    float *acc = work_of(q), *back = acc + record;
    bool scatter = q->kind == SHMEMI_QUANT_REDUCE_SCATTER;
    int home = unit_of(q, t->me), rc = SHMEMX_SUCCESS;
    for (size_t from = 0; from < s.n && rc == 0; from += record) {
        size_t n = s.n - from < record ? s.n - from : record;
        for (int u = 0; u < units(q); ++u) {
            if (u == home) {
                add_unit(q, acc, u == 0, t->me, from, source + from, n);
                continue;
            }
            const unsigned char *r = shown(q, delegate(q, u, t->me), (size_t)t->me, (size_t)u) + offset;
            if (u == 0)
                shmemi_codec_decode(&q->codec, acc, SHMEMX_FLOAT32, r, n);
            else
                shmemi_codec_add(&q->codec, acc, r, n);
        }
        if ((rc = finish_sum(q, acc, s.from + from, n)) != 0)
            break;
        if (scatter) {
            store_sum(q, acc, s.from + from, n);
            if (q->residual)
                memset(q->residual + source + from, 0, n * sizeof *acc);
        } else {
            unsigned char *result = q->base + q->result + offset;
            (void)shmemi_codec_encode(&q->codec, result, acc, SHMEMX_FLOAT32, n); /* finite, or it may be */
            if (q->residual)
                keep_rest(q, acc, back, result, source + from, n, q->factor);
        }
        offset += shmemi_codec_bytes(&q->codec, n);
    }
    return rc;
}

/* Up to the sum of this member's span; a meeting must follow before `out` or `raw` are written again. */
static int reduce_scatter(struct shmemi_quant *q, size_t at)
{
    const struct shmemi_team *t = q->t;
    int rc = SHMEMX_SUCCESS, home = unit_of(q, t->me);
    if (q->raw_size) {
        put_raw(q, at);
        rc = meet(q, rc);
    }
    for (int j = 0; j < t->n && rc == 0; ++j) {
        struct shmemi_span s = span_of(q, at, j);
        if (unit_of(q, j) != home && delegate(q, home, j) == t->me)
            rc = pack(q, q->base + q->out + (size_t)j * q->stride, j, source_at(q, j, s), s.n);
    }
    rc = meet(q, rc);
    size_t bytes = shmemi_codec_bytes(&q->codec, span_of(q, at, t->me).n);
    for (int u = 0; u < units(q) && rc == 0; ++u)
        rc = fetch(q, delegate(q, u, t->me), q->out + (size_t)t->me * q->stride,
                   q->fetched + (size_t)u * q->stride, bytes);
    rc = rc ? rc : fetch_end(q);
    return rc ? rc : add_up(q, at);
}

/* ---- allgather -------------------------------------------------------------------------------------------------------------- */

/* Everybody takes the spans that members first .. last have packed in `result`; on another node its members' stand-in
 * fetches them for all there. A meeting must follow before `result` or `out` are written again. */
static int gather(struct shmemi_quant *q, size_t at, int first, int last)
{
    const struct shmemi_team *t = q->t;
    int rc = meet(q, SHMEMX_SUCCESS);
    for (int j = first; j <= last && rc == 0; ++j)
        if (by_node(q) && shmemi_stand_in(t, j) == t->me)
            rc = fetch(q, j, q->result, q->out + (size_t)j * q->stride,
                       shmemi_codec_bytes(&q->codec, span_of(q, at, j).n));
    rc = rc ? rc : fetch_end(q);
    if (rc == 0 && by_node(q))
        rc = meet(q, rc);
    for (int j = first; j <= last && rc == 0; ++j) {
        struct shmemi_span s = span_of(q, at, j);
        const unsigned char *records;
        if (q->in_notes)
            records = shown(q, j, 0, 0);
        else if (t->node[j] == t->home)
            records = there(q, j, q->result);
        else
            records = there(q, shmemi_stand_in(t, j), q->out + (size_t)j * q->stride);
        unpack(q, (q->kind == SHMEMI_QUANT_ALLGATHER ? (size_t)j * q->nelems : 0) + s.from, records, s.n);
    }
    return rc;
}

/* ---- alltoall --------------------------------------------------------------------------------------------------------------- */

static int alltoall(struct shmemi_quant *q, size_t at)
{
    const struct shmemi_team *t = q->t;
    struct shmemi_span s = span_of(q, at, 0);
    size_t bytes = shmemi_codec_bytes(&q->codec, s.n), me = (size_t)t->me, own = me * q->nelems + s.from;
    int rc = SHMEMX_SUCCESS;
    for (int j = 0; j < t->n && rc == 0; ++j)
        if (j != t->me)
            rc = pack(q, q->base + q->out + (size_t)j * q->stride, j, (size_t)j * q->nelems + s.from, s.n);
    const unsigned char *x = q->source + own * q->size;
    size_t done =
        q->how.on_nonfinite == SHMEMX_NONFINITE_ERROR ? shmemi_first_nonfinite(x, q->dtype, s.n) : s.n;
    if (rc == 0 && done < s.n)
        rc = bad(q, "element", x, q->dtype, own, done);
    rc = meet(q, rc);
    for (int j = 0; j < t->n && rc == 0; ++j)
        rc = fetch(q, j, q->out + me * q->stride, q->fetched + (size_t)j * q->stride, bytes);
    rc = rc ? rc : fetch_end(q);
    for (int j = 0; j < t->n && rc == 0; ++j) {
        if (j != t->me)
            unpack(q, (size_t)j * q->nelems + s.from, shown(q, j, me, (size_t)j), s.n);
        else if (q->dest != q->source)
            memcpy(q->dest + own * q->size, x, s.n * q->size);
    }
    return rc;
}

/* ---- elements as they are, in the heap of one node --------------------------------------------------------------------------- */

/* Could this PE's buffers be used by the calls of shmemx.h? */
static bool symmetric(const struct shmemi_quant *q)
{
    size_t members = (size_t)q->t->n, block = q->nelems * q->size;
    size_t to =
        q->kind == SHMEMI_QUANT_ALLGATHER || q->kind == SHMEMI_QUANT_ALLTOALL ? members * block : block;
    size_t from = q->kind == SHMEMI_QUANT_ALLTOALL ? members * block : block;
    const char *heap = shmemi_world.segments[SHMEMI_SEGMENT_HOST].base + shmemi_world.internal_bytes;
    const char *end =
        shmemi_world.segments[SHMEMI_SEGMENT_HOST].base + shmemi_world.segments[SHMEMI_SEGMENT_HOST].bytes;
    const char *dest = (const char *)q->dest, *source = (const char *)q->source;
    bool same = dest == source && (q->kind == SHMEMI_QUANT_ALLREDUCE || q->kind == SHMEMI_QUANT_BROADCAST);
    return dest >= heap && dest + to <= end && source >= heap && source + from <= end &&
           (uintptr_t)dest % q->size == 0 && (uintptr_t)source % q->size == 0 &&
           (same || !shmemi_overlap(dest, to, source, from));
}

bool shmemi_quant_direct(const struct shmemi_quant *q)
{
    return q->codec.format == SHMEMI_QUANT_RAW && !q->in_notes && q->t->nnodes == 1 && !q->residual &&
           q->kind != SHMEMI_QUANT_REDUCE_SCATTER && symmetric(q);
}

static int reduce_direct(struct shmemi_quant *q, shmem_team_t team)
{
    int rc = SHMEMX_SUCCESS;
    const struct shmemi_int8_kernels *k = q->codec.k;
    float *acc = work_of(q);
    bool mean = q->factor != 1.0f;
    for (size_t at = 0; at < q->nelems && rc == 0; at += DIRECT_CHUNK) {
        size_t n = q->nelems - at < DIRECT_CHUNK ? q->nelems - at : DIRECT_CHUNK, record = q->codec.record;
        unsigned char *dest = q->dest + at * q->size;
        const unsigned char *source = q->source + at * q->size;
        rc = at == 0 ? shmemi_sum_met(q->call, team, q->dtype, dest, source, n)
                     : shmemx_reduce(team, SHMEMX_REDUCE_SUM, q->dtype, dest, source, n);
        if (rc == 0 && q->how.on_nonfinite == SHMEMX_NONFINITE_ERROR) {
            size_t done = shmemi_first_nonfinite(dest, q->dtype, n);
            rc = done < n ? bad(q, "sum", dest, q->dtype, at, done) : rc;
        }
        for (size_t from = 0; from < n && rc == 0 && mean; from += record) {
            size_t part = n - from < record ? n - from : record;
            k->widen[SHMEMI_FLOAT_INDEX(q->dtype)](acc, dest + from * q->size, part);
            for (size_t i = 0; i < part; ++i)
                acc[i] *= q->factor;
            store_sum(q, acc, at + from, part);
        }
    }
    return rc;
}

/* All members' buffers are symmetric: the calls without quantization do it, no slower than they are. */
static int direct(struct shmemi_quant *q, shmem_team_t team)
{
    size_t bytes = q->nelems * q->size;
    size_t given = q->nelems * (q->kind == SHMEMI_QUANT_ALLTOALL ? (size_t)q->t->n : 1), done = given;
    if (q->kind == SHMEMI_QUANT_ALLREDUCE)
        return reduce_direct(q, team);
    if (q->how.on_nonfinite == SHMEMX_NONFINITE_ERROR &&
        (q->kind != SHMEMI_QUANT_BROADCAST || q->t->me == q->root))
        done = shmemi_first_nonfinite(q->source, q->dtype, given);
    if (done < given)
        return meet(q, bad(q, "element", q->source, q->dtype, 0, done));
    if (q->kind == SHMEMI_QUANT_ALLGATHER)
        return shmemx_fcollect(team, q->dest, q->source, bytes);
    if (q->kind == SHMEMI_QUANT_ALLTOALL)
        return shmemx_alltoall(team, q->dest, q->source, bytes);
    return shmemx_broadcast(team, q->dest, q->source, bytes, q->root);
}

/* ---- all of them -------------------------------------------------------------------------------------------------------------- */

static int chunk(struct shmemi_quant *q, size_t at)
{
    int rc;
    switch (q->kind) {
    case SHMEMI_QUANT_ALLREDUCE:
        /* between two chunks no meeting is missing: `out` and `raw` are written again after everybody's results were
         * there, `result` after everybody's next records were */
        rc = reduce_scatter(q, at);
        return rc ? meet(q, rc) : gather(q, at, 0, q->t->n - 1);
    case SHMEMI_QUANT_REDUCE_SCATTER:
        rc = reduce_scatter(q, at);
        break;
    case SHMEMI_QUANT_ALLTOALL:
        rc = alltoall(q, at);
        break;
    default: {
        bool all = q->kind == SHMEMI_QUANT_ALLGATHER, mine = all || q->t->me == q->root;
        struct shmemi_span s = span_of(q, at, 0);
        rc = mine ? pack(q, q->base + q->result, 0, s.from, s.n) : SHMEMX_SUCCESS;
        rc = rc ? meet(q, rc) : gather(q, at, all ? 0 : q->root, all ? q->t->n - 1 : q->root);
    }
    }
    return q->in_notes ? rc : meet(q, rc);
}

int shmemi_quant_exchange(struct shmemi_quant *q, shmem_team_t team)
{
    int rc = layout(q);
    if (rc)
        return shmemi_refuse(q->call, q->t, rc);
    if (q->codec.format == SHMEMI_QUANT_RAW && !q->in_notes && q->t->nnodes == 1) {
        if ((rc = meet(q, rc)) != 0 || q->all_direct)
            return rc ? rc : direct(q, team);
    }
    if (q->one_shot)
        return one_shot(q);
    bool vector = q->kind == SHMEMI_QUANT_ALLREDUCE;
    size_t step = vector ? (size_t)q->t->n * q->block : q->block, at = 0;
    do {
        rc = chunk(q, at);
        at += step;
    } while (at < q->nelems && rc == 0);
    /* the last results stay until all have read them */
    return vector && rc == 0 ? meet(q, rc) : rc;
}
