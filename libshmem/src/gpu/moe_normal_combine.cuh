/* Combine of MoE for large batches: rows go back to their tokens' owner, and are added there.
 *
 * In one launch the first warps of each block send and the others add. A row goes to the owner's buffer, to the place of
 * (this rank, the token's number among those that came here), which both sides know from the dispatch. Rows are sent in
 * chunks of one owner, the owners in turn; a chunk's flag is released when its rows have arrived, and a warp that adds
 * waits for just the chunks that its token needs, so that adding runs a little behind the sending. Rows of the own rank
 * are read where they are.
 *
 * Reuse. Round n uses half n % 2 of the buffer, at an owner that has begun round n - 1 and so has ended n - 2. A flag of
 * round n + 1 in the place of n's says the same and more: its sender has ended n. */
#ifndef SHMEMI_GPU_MOE_NORMAL_COMBINE_CUH
#define SHMEMI_GPU_MOE_NORMAL_COMBINE_CUH

#include "moe_normal.cuh"

namespace shmem
{
namespace moe
{
namespace normal
{

/* A row to add, in shared memory. */
struct addend {
    u64 row;
    float factor;
    u32 quantized;
};

/* A combine as a block sees it. */
struct combining {
    const shmemi_moen &o;
    const shmemi_moen_combine &a;
    const members m;
    const u64 round;
    const unsigned ranks, me;
    const routing r;
    int *first, *rows; // shared memory, [R]: where rank s's rows begin here, how many there are

    SHMEMX_DEVICE_FN unsigned chunks() const // of a rank
    {
        return (o.max_tokens + SHMEMI_MOEN_CHUNK - 1) / SHMEMI_MOEN_CHUNK;
    }
    /* Place of the row that rank `from` sends as its number `pos`, in the owner's buffer. */
    SHMEMX_DEVICE_FN u64 place(unsigned from, unsigned pos) const
    {
        return ((round & 1) * ranks + from) * o.max_tokens + pos;
    }
    SHMEMX_DEVICE_FN quantizer codec() const
    {
        return quantizer{as_int8, o.hidden, a.group, 0};
    }
    SHMEMX_DEVICE_FN unsigned scales_at() const // in a quantized row
    {
        return (o.hidden + 15) / 16 * 16;
    }
    SHMEMX_DEVICE_FN const unsigned char *mine(u64 row) const
    {
        return at<const unsigned char>(a.y + row * a.y_stride);
    }
};

/* ---- sending --------------------------------------------------------------------------------------------------------------- */

/* Some rows of one owner. */
struct chunk {
    unsigned owner, number, rows;
    u64 from;          // the first one's number in y
    unsigned char *to; // its place at the owner
};

/* Without the copy engine. Arguments by value: c is not to have an address, for which it would leave its registers. */
SHMEMX_DEVICE_CALL void send_chunk_vectors(combining c, chunk k)
{
    const unsigned lane = arch::lane(warp);
    for (unsigned i = 0; i < k.rows; ++i) {
        const unsigned char *y = c.mine(k.from + i);
        unsigned char *to = k.to + i * c.o.back_row;
        if (c.a.format == SHMEMI_MOEN_BF16) {
            detail::copy_lanes<detail::from_here>(lane, arch::warp_width, to, y, c.a.row_bytes);
            continue;
        }
        quantize_row(
            detail::crew{0, 1}, c.codec(),
            [&](unsigned w) { return arch::load_plain(reinterpret_cast<const arch::vec16 *>(y) + w); },
            [&](unsigned w, u64 eight) { arch::store_plain(reinterpret_cast<u64 *>(to) + w, eight); },
            [&](unsigned g, float scale) {
                arch::store_plain(reinterpret_cast<u32 *>(to + c.scales_at()) + g, bits_of_float(scale));
            });
    }
}

#if SHMEMI_MOEN_BULK
/* By the copy engine; lane 0 stores. On its return the rows have arrived. */
SHMEMX_DEVICE_FN void send_chunk_bulk(const combining &c, const chunk &k, pipeline &pipe)
{
    const bool leads = arch::lane(warp) == 0, quantizes = c.a.format != SHMEMI_MOEN_BF16;
    const unsigned slots = pipe.slots, ahead = quantizes || slots == 1 ? slots : slots - 1;
    const auto load = [&](unsigned i) {
        if (leads && i < k.rows)
            arch::bulk_load(arch::shared_address(pipe.slot(i % slots)), c.mine(k.from + i), c.o.hidden * 2,
                            pipe.done + 8 * (i % slots));
    };
    const auto store = [&](unsigned i) {
        if (leads) {
            arch::bulk_store(k.to + i * c.o.back_row,
                             arch::shared_address(pipe.slot(i % slots)) + c.a.pipe.values, c.a.row_bytes);
            arch::bulk_commit();
        }
    };
    for (unsigned i = 0; i < ahead; ++i)
        load(i);
    for (unsigned i = 0; i < k.rows; ++i) {
        pipe.wait(i % slots);
        if (quantizes) {
            slot_free(pipe);
            quantize_slot(c.codec(), pipe.slot(i % slots), c.a.pipe.values, c.a.pipe.scales,
                          c.a.row_bytes - c.scales_at());
            load(i + slots);
            store(i);
        } else {
            store(i);
            slot_free(pipe);
            load(i + ahead);
        }
    }
    arch::bulk_wait();
}
#endif

/* A warp that sends takes chunks until none is left; the u-th is of the (u % (R - 1))-th rank behind this one.
 * `word`: shared memory of this warp. */
SHMEMX_DEVICE_FN void send_back(const combining &c, unsigned char *shared, unsigned mine, u32 *word)
{
    if (c.ranks == 1)
        return;
    const unsigned lane = arch::lane(warp), others = c.ranks - 1;
    unsigned most = 0;
    for (unsigned j = 0; j < c.ranks; ++j) {
        const unsigned n = (static_cast<unsigned>(c.rows[j]) + SHMEMI_MOEN_CHUNK - 1) / SHMEMI_MOEN_CHUNK;
        most = j != c.me && n > most ? n : most;
    }
#if SHMEMI_MOEN_BULK
    pipeline pipe(c.a.pipe, shared, mine);
#else
    (void)shared, (void)mine;
#endif
    for (;;) {
        if (lane == 0)
            *word = arch::fetch_add(&at<shmemi_moen_local>(c.o.local)->taken, 1u);
        arch::sync(warp);
        const unsigned u = *word;
        arch::sync(warp);
        if (u / others >= most)
            return;
        chunk k;
        k.owner = (c.me + 1 + u % others) % c.ranks;
        k.number = u / others;
        const unsigned begin = k.number * SHMEMI_MOEN_CHUNK, all = static_cast<unsigned>(c.rows[k.owner]);
        if (begin >= all)
            continue;
        k.rows = all - begin < SHMEMI_MOEN_CHUNK ? all - begin : static_cast<unsigned>(SHMEMI_MOEN_CHUNK);
        k.from = static_cast<u64>(static_cast<unsigned>(c.first[k.owner])) + begin;
        const int owner = static_cast<int>(k.owner);
        const u64 place = c.place(c.me, begin);
        k.to = detail::peer(c.m, owner, at<unsigned char>(c.o.back)) + place * c.o.back_row;
        if (c.a.weights != 0)
            detail::copy_lanes<detail::from_here>(
                lane, arch::warp_width,
                detail::peer(c.m, owner, at<float>(c.o.back_weights)) + place * c.o.topk,
                at<const float>(c.a.weights) + k.from * c.o.topk, static_cast<u64>(k.rows) * c.o.topk * 4);
#if SHMEMI_MOEN_BULK
        if (pipe.slots != 0)
            send_chunk_bulk(c, k, pipe);
        else
#endif
            send_chunk_vectors(c, k);
        arch::sync(warp);
        if (lane == 0) // release; observers: this warp's lanes, which have stored, and who adds at the owner
            arch::store_release(detail::peer(c.m, owner, at<u64>(c.o.chunks)) + c.me * c.chunks() + k.number,
                                c.round);
    }
}

/* ---- adding ------------------------------------------------------------------------------------------------------------------ */

/* Vectors (8 columns) of a row that a lane adds at a time: with two rows and 8 warps some 32 KiB an SM are in flight, what a
 * microsecond takes at its share of 20 bytes/ns. */
constexpr unsigned deep = 4;

SHMEMX_DEVICE_FN float int8_of(u64 w, unsigned i) // byte i
{
#ifdef __CUDA_ARCH__
    // the bytes of 2^23 + (q + 128), then exactly q
    const u32 half = i < 4 ? static_cast<u32>(w) : static_cast<u32>(w >> 32);
    return float_of_bits(__byte_perm(half ^ 0x80808080u, 0x4b000000u, 0x7440u | i % 4)) - 8388736.0f;
#else
    return static_cast<float>(static_cast<signed char>(w >> 8 * i & 0xff));
#endif
}

/* A row's vectors v, v + 32, ..: BF16, or words of int8 with the bits of their scales. Mixed: rows may be quantized. */
template <bool Mixed>
SHMEMX_DEVICE_FN void load_row(const combining &c, const addend &from, unsigned v, arch::vec16 (&e)[deep])
{
    const unsigned vectors = c.o.hidden / 8;
    const auto *row = at<const unsigned char>(from.row);
    if (Mixed && from.quantized != 0) {
        SHMEMX_DEVICE_UNROLL
        for (unsigned i = 0; i < deep; ++i)
            if (const unsigned w = v + i * arch::warp_width; w < vectors)
                e[i] = arch::make_vec16(arch::load_plain(reinterpret_cast<const u64 *>(row) + w),
                                        arch::load_plain(reinterpret_cast<const u32 *>(row + c.scales_at()) +
                                                         (w * 8 >> c.a.shift)));
    } else {
        SHMEMX_DEVICE_UNROLL
        for (unsigned i = 0; i < deep; ++i)
            if (const unsigned w = v + i * arch::warp_width; w < vectors)
                e[i] = arch::load_plain(reinterpret_cast<const arch::vec16 *>(row) + w);
    }
}
/* What lies behind the row's end was not loaded, and is not used. */
template <bool Mixed>
SHMEMX_DEVICE_FN void add_row(float (&sum)[deep][8], const addend &from, const arch::vec16 (&e)[deep])
{
    const float factor = from.factor;
    if (Mixed && from.quantized != 0) {
        SHMEMX_DEVICE_UNROLL
        for (unsigned i = 0; i < deep; ++i) {
            const float s = float_of_bits(static_cast<u32>(e[i].y)) * factor;
            SHMEMX_DEVICE_UNROLL
            for (unsigned k = 0; k < 8; ++k)
                sum[i][k] += int8_of(e[i].x, k) * s;
        }
    } else {
        SHMEMX_DEVICE_UNROLL
        for (unsigned i = 0; i < deep; ++i) {
            float f[8];
            unpack_bf16(e[i], f);
            SHMEMX_DEVICE_UNROLL
            for (unsigned k = 0; k < 8; ++k)
                sum[i][k] += f[k] * factor;
        }
    }
}

/* Token t: the n rows in order; the lanes take vectors. */
template <bool Mixed>
SHMEMX_DEVICE_FN void add_rows(const combining &c, const addend *rows, unsigned n, unsigned t)
{
    const unsigned vectors = c.o.hidden / 8, width = arch::warp_width;
    auto *out = at<arch::vec16>(c.a.out + t * c.a.out_stride);
    SHMEMX_DEVICE_ROLLED
    for (unsigned v = arch::lane(warp); v < vectors; v += deep * width) {
        float sum[deep][8] = {};
        unsigned k = 0;
        SHMEMX_DEVICE_ROLLED
        for (; k + 2 <= n; k += 2) { // two rows' loads are in flight together
            arch::vec16 a[deep] = {}, b[deep] = {};
            load_row<Mixed>(c, rows[k], v, a);
            load_row<Mixed>(c, rows[k + 1], v, b);
            add_row<Mixed>(sum, rows[k], a);
            add_row<Mixed>(sum, rows[k + 1], b);
        }
        if (k < n) {
            arch::vec16 a[deep] = {};
            load_row<Mixed>(c, rows[k], v, a);
            add_row<Mixed>(sum, rows[k], a);
        }
        SHMEMX_DEVICE_UNROLL
        for (unsigned i = 0; i < deep; ++i)
            if (v + i * width < vectors)
                arch::store_plain(out + v + i * width,
                                  arch::make_vec16(pack_bf16(sum[i][0], sum[i][1], sum[i][2], sum[i][3]),
                                                   pack_bf16(sum[i][4], sum[i][5], sum[i][6], sum[i][7])));
    }
}

/* The factor of a rank's row: the sum of the token's weights there. */
SHMEMX_DEVICE_FN float factor_of(const combining &c, unsigned rank, unsigned t)
{
    if (c.a.topk_weights == 0)
        return 1;
    const owners who(c.o.experts, c.ranks);
    float sum = 0;
    for (unsigned k = 0; k < c.o.topk; ++k) {
        const u64 i = static_cast<u64>(t) * c.o.topk + k;
        if (who.has(rank, choice(c.a.idx, c.a.wide, i)))
            sum += at<const float>(c.a.topk_weights)[i];
    }
    return sum;
}

/* A warp waits for the rows of token t and lists them in the order of the ranks, then the biases; false: some did not
 * come. `some`: there are rows at all. */
SHMEMX_DEVICE_FN bool gather_rows(const combining &c, const int *pos, unsigned t, bool some, addend *rows,
                                  unsigned &n)
{
    bool ok = true;
    n = 0;
    for (unsigned j = 0; some && j < c.ranks; ++j)
        n += pos[j] >= 0;
    for (unsigned b = 0; b < 2; ++b)
        if (c.a.bias[b] != 0) {
            if (arch::lane(warp) == 0)
                rows[n] = addend{c.a.bias[b] + static_cast<u64>(t) * c.o.hidden * 2, 1, 0};
            ++n;
        }
    for (unsigned j = arch::lane(warp); some && j < c.ranks; j += arch::warp_width) {
        if (pos[j] < 0)
            continue;
        unsigned before = 0;
        for (unsigned i = 0; i < j; ++i)
            before += pos[i] >= 0;
        const auto p = static_cast<unsigned>(pos[j]);
        addend row = {0, factor_of(c, j, t), c.a.format != SHMEMI_MOEN_BF16};
        if (j == c.me) {
            row.row = c.a.y + (static_cast<u64>(static_cast<unsigned>(c.first[j])) + p) * c.a.y_stride;
            row.quantized = 0;
        } else {
            row.row = c.o.back + c.place(j, p) * c.o.back_row;
            ok = detail::wait_for(SHMEMX_DEVICE_CALL_MOE_COMBINE,
                                  at<const u64>(c.o.chunks) + j * c.chunks() + p / SHMEMI_MOEN_CHUNK, ge,
                                  c.round, [&] { return detail::world_pe(c.m, static_cast<int>(j)); }) &&
                 ok;
        }
        rows[before] = row;
    }
    return arch::all(warp, ok); // the lanes' acquires come before all lanes' loads of rows
}

/* What came back for each choice. */
SHMEMX_DEVICE_FN void add_weights(const combining &c, const int *pos, unsigned t)
{
    for (unsigned k = arch::lane(warp); k < c.o.topk; k += arch::warp_width) {
        float sum = 0;
        for (unsigned j = 0; j < c.ranks; ++j) {
            if (pos[j] < 0)
                continue;
            const auto p = static_cast<unsigned>(pos[j]);
            const float *from = j == c.me
                                    ? at<const float>(c.a.weights) +
                                          (static_cast<unsigned>(c.first[j]) + p) * static_cast<u64>(c.o.topk)
                                    : at<const float>(c.o.back_weights) + c.place(j, p) * c.o.topk;
            sum += from[k];
        }
        at<float>(c.a.out_weights)[static_cast<u64>(t) * c.o.topk + k] = sum;
    }
}

/* A warp that adds takes every so-manieth token. rows: shared memory of this warp, [R + 2]. */
SHMEMX_DEVICE_FN void add_tokens(const combining &c, unsigned mine, unsigned warps, addend *rows)
{
    const bool empty = c.r.head->valid == 0; // the dispatch did not fit: no rows
    for (unsigned t = arch::block_index() + mine * arch::blocks(); t < c.a.tokens;
         t += arch::blocks() * warps) {
        const int *pos = c.r.pos + static_cast<u64>(t) * c.ranks;
        unsigned n = 0;
        if (!gather_rows(c, pos, t, !empty, rows, n))
            return; // reported; the others' rows will not come either
        if (c.a.format == SHMEMI_MOEN_BF16)
            add_rows<false>(c, rows, n, t);
        else
            add_rows<true>(c, rows, n, t);
        if (c.a.out_weights != 0) {
            if (!empty)
                add_weights(c, pos, t);
            else
                for (unsigned k = arch::lane(warp); k < c.o.topk; k += arch::warp_width)
                    at<float>(c.a.out_weights)[static_cast<u64>(t) * c.o.topk + k] = 0;
        }
        arch::sync(warp); // the list has been read
    }
}

/* ---- combine ----------------------------------------------------------------------------------------------------------------- */

/* Tells all ranks that this one has begun, and waits until they have begun the round before. */
SHMEMX_DEVICE_FN bool meet_back(const combining &c)
{
    if (arch::block_index() == 0)
        for (unsigned j = arch::lane(block); j < c.ranks; j += arch::width(block))
            // relaxed: what this PE's stream did before, like reading the buffer, is complete
            arch::store_relaxed(detail::peer(c.m, static_cast<int>(j), at<u64>(c.o.back_begun)) + c.me,
                                c.round);
    return await(c.m, SHMEMX_DEVICE_CALL_MOE_COMBINE, at<const u64>(c.o.back_begun), c.ranks, 1, c.round - 1);
}

/* Threads: pipe.warps warps that send, then those that add. Shared memory below pipe.head: the slots' completion words,
 * [R] first, [R] rows, a word a sending warp, [R + 2] addends an adding warp. */
SHMEMX_DEVICE_FN void combine(const shmemi_moen &o, const shmemi_moen_combine &a, unsigned char *shared)
{
    const members m = detail::find(block, static_cast<team>(o.team), SHMEMX_DEVICE_CALL_MOE_COMBINE);
    if (m.n == 0)
        return;
    const auto ranks = static_cast<unsigned>(m.n);
    auto *local = at<shmemi_moen_local>(o.local);
    const unsigned lane = arch::lane(block), mine = lane / arch::warp_width, senders = a.pipe.warps;
    unsigned char *at_word = shared + (8 * senders * a.pipe.slots + 15) / 16 * 16;
    auto *first = reinterpret_cast<int *>(at_word), *rows = first + ranks;
    auto *words = reinterpret_cast<u32 *>(rows + ranks);
    auto *lists = reinterpret_cast<addend *>(at_word + (4 * (2 * ranks + senders) + 15) / 16 * 16);
    const combining c{o,
                      a,
                      m,
                      arch::load_relaxed(&local->combines) + 1,
                      ranks,
                      static_cast<unsigned>(m.me),
                      routing(o, a.routing, ranks),
                      first,
                      rows};
#if SHMEMI_MOEN_BULK
    if (a.pipe.slots != 0) {
        if (lane == 0)
            arch::bulk_open(reinterpret_cast<u64 *>(shared), senders * a.pipe.slots);
        // observers: this thread, which sees what the stream did before, and the copy engine, which reads it
        arch::bulk_fence();
    }
#endif
    for (unsigned j = lane; j < ranks; j += arch::width(block)) { // count is 0 where the dispatch did not fit
        int before = 0;
        for (unsigned s = 0; s < j; ++s)
            before += c.r.count[s * ranks + c.me];
        first[j] = before;
        rows[j] = c.r.count[j * ranks + c.me];
    }
    if (meet_back(c)) {
        if (mine < senders)
            send_back(c, shared, mine, words + mine);
        else
            add_tokens(c, mine - senders, arch::width(block) / arch::warp_width - senders,
                       lists + (mine - senders) * (ranks + 2));
    }
    arch::sync(block);
    if (lane == 0 && arch::fetch_add(&local->finished[1], 1u) == arch::blocks() - 1) {
        arch::store_relaxed(&local->finished[1], 0u);
        arch::store_relaxed(&local->taken, 0u);
        arch::store_relaxed(&local->combines, c.round);
    }
}

} // namespace normal
} // namespace moe
} // namespace shmem

#endif
