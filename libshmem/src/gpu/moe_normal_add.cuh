/* Adding the rows that a combine has brought back: which rows, and by loads into registers. */
#ifndef SHMEMI_GPU_MOE_NORMAL_ADD_CUH
#define SHMEMI_GPU_MOE_NORMAL_ADD_CUH

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
    const unsigned ranks, me, tokens;
    const routing r;
    // shared memory, [S][R]: where row number 0 of rank s would lie here, if all were of that source; how many rows
    // there are of this source and those before
    int *first, *upto;

    SHMEMX_DEVICE_FN unsigned chunks() const // of a rank
    {
        return (o.max_tokens >> SHMEMI_MOEN_CHUNK_QUANTIZED) + 1;
    }
    /* Place of the row that rank `from` sends as its number `pos`, in the owner's buffer. */
    SHMEMX_DEVICE_FN u64 place(unsigned from, unsigned pos) const
    {
        return ((round & 1) * ranks + from) * o.max_tokens + pos;
    }
    SHMEMX_DEVICE_FN unsigned rows(unsigned rank) const // from that rank
    {
        return static_cast<unsigned>(upto[(o.sources - 1) * ranks + rank]);
    }
    /* Where the p-th of them lies in y. */
    SHMEMX_DEVICE_FN u64 row(unsigned rank, unsigned p) const
    {
        unsigned at = rank;
        for (unsigned s = 1; s < o.sources && static_cast<int>(p) >= upto[at]; ++s)
            at += ranks;
        return static_cast<u64>(first[at] + static_cast<int>(p));
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

/* ---- adding ------------------------------------------------------------------------------------------------------------------ */

/* Vectors (8 columns) of a row that a lane adds at a time, and rows. Adding waits for memory: on 4 H100, 24 blocks, it took
 * 389 us alone; three or four rows would not fit into the registers. */
constexpr unsigned deep = 4, together = 2;

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

/* sum + x * factor, rounded once, whatever the compiler makes of the expression. */
SHMEMX_DEVICE_FN float add_product(float sum, float x, float factor)
{
#ifdef __CUDA_ARCH__
    return __fmaf_rn(x, factor, sum);
#else
    return __builtin_fmaf(x, factor, sum);
#endif
}

/* A row's vectors v, v + 32, ..: BF16, or words of int8 with the bits of their scales. Mixed: rows may be quantized. Loads
 * have no conditions, so that all are in flight together: behind the end the last one comes again, and is not used. */
template <bool Mixed>
SHMEMX_DEVICE_FN void load_row(const combining &c, const addend &from, unsigned v, arch::vec16 (&e)[deep])
{
    const unsigned vectors = c.o.hidden / 8;
    const auto *row = at<const unsigned char>(from.row);
    if (Mixed && from.quantized != 0) {
        SHMEMX_DEVICE_UNROLL
        for (unsigned i = 0; i < deep; ++i) {
            const unsigned w = v + i * arch::warp_width < vectors ? v + i * arch::warp_width : vectors - 1;
            e[i] = arch::make_vec16(
                arch::load_plain(reinterpret_cast<const u64 *>(row) + w),
                arch::load_plain(reinterpret_cast<const u32 *>(row + c.scales_at()) + (w * 8 >> c.a.shift)));
        }
    } else {
        SHMEMX_DEVICE_UNROLL
        for (unsigned i = 0; i < deep; ++i) {
            const unsigned w = v + i * arch::warp_width < vectors ? v + i * arch::warp_width : vectors - 1;
            e[i] = arch::load_plain(reinterpret_cast<const arch::vec16 *>(row) + w);
        }
    }
}
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
                sum[i][k] = add_product(sum[i][k], int8_of(e[i].x, k), s);
        }
    } else {
        SHMEMX_DEVICE_UNROLL
        for (unsigned i = 0; i < deep; ++i) {
            float f[8];
            unpack_bf16(e[i], f);
            SHMEMX_DEVICE_UNROLL
            for (unsigned k = 0; k < 8; ++k)
                sum[i][k] = add_product(sum[i][k], f[k], factor);
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
        SHMEMX_DEVICE_ROLLED
        for (unsigned k = 0; k < n; k += together) { // the loads of so many rows are in flight together
            arch::vec16 e[together][deep];
            SHMEMX_DEVICE_UNROLL
            for (unsigned j = 0; j < together; ++j)
                if (k + j < n)
                    load_row<Mixed>(c, rows[k + j], v, e[j]);
            SHMEMX_DEVICE_UNROLL
            for (unsigned j = 0; j < together; ++j)
                if (k + j < n)
                    add_row<Mixed>(sum, rows[k + j], e[j]);
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
    const owners who(c.o, c.ranks);
    float sum = 0;
    for (unsigned k = 0; k < c.o.topk; ++k) {
        const u64 i = static_cast<u64>(t) * c.o.topk + k;
        if (who.has(rank, choice(c.a.idx, c.a.wide, i)))
            sum += at<const float>(c.a.topk_weights)[i];
    }
    return sum;
}

/* Row p of rank j, which is the token's; and the word that says that it is there, if j is another rank. */
SHMEMX_DEVICE_FN addend row_of(const combining &c, unsigned j, unsigned p, unsigned t)
{
    if (j == c.me)
        return addend{c.a.y + c.row(j, p) * c.a.y_stride, factor_of(c, j, t), 0};
    return addend{c.o.back + c.place(j, p) * c.o.back_row, factor_of(c, j, t), c.a.format != SHMEMI_MOEN_BF16};
}
SHMEMX_DEVICE_FN const u64 *flag_of(const combining &c, unsigned j, unsigned p)
{
    return at<const u64>(c.o.chunks) + j * c.chunks() + (p >> c.a.chunk);
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
        if (j != c.me)
            ok = detail::wait_for(SHMEMX_DEVICE_CALL_MOE_COMBINE, flag_of(c, j, p), ge, c.round,
                                  [&] { return detail::world_pe(c.m, static_cast<int>(j)); }) &&
                 ok;
        rows[before] = row_of(c, j, p, t);
    }
    return arch::all(warp, ok); // the lanes' acquires come before all lanes' loads of rows
}

/* What came back for each choice; `some`: there are rows at all. */
SHMEMX_DEVICE_FN void return_weights(const combining &c, const int *pos, unsigned t, bool some)
{
    for (unsigned k = arch::lane(warp); k < c.o.topk; k += arch::warp_width) {
        float sum = 0;
        for (unsigned j = 0; some && j < c.ranks; ++j) {
            if (pos[j] < 0)
                continue;
            const auto p = static_cast<unsigned>(pos[j]);
            const float *from = j == c.me
                                    ? at<const float>(c.a.weights) + c.row(j, p) * c.o.topk
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
    for (unsigned t = arch::block_index() + mine * arch::blocks(); t < c.tokens;
         t += arch::blocks() * warps) {
        const int *pos = c.r.pos + static_cast<u64>(t) * c.ranks;
        unsigned n = 0;
        if (!gather_rows(c, pos, t, !empty, rows, n))
            return; // reported; the others' rows will not come either
        if (c.a.format == SHMEMI_MOEN_BF16)
            add_rows<false>(c, rows, n, t);
        else
            add_rows<true>(c, rows, n, t);
        if (c.a.out_weights != 0)
            return_weights(c, pos, t, !empty);
        arch::sync(warp); // the list has been read
    }
}

} // namespace normal
} // namespace moe
} // namespace shmem

#endif
