/* The codec alone: rows of elements to records and back. Also compiled for CPU threads (tests/device/test_quant.cpp).
 *
 * A warp takes a piece of a row at a time. It is as fast as memory if enough is on its way, which takes 32 warps of an SM,
 * and so no more than 64 registers: first come pieces that are whole, then out of line, so that it takes no registers from
 * them, all else. */
#ifndef SHMEMI_GPU_QUANT_ROWS_CUH
#define SHMEMI_GPU_QUANT_ROWS_CUH

#include "quant_args.h"
#include "shmem_device.h"

namespace shmem
{
namespace quantized
{

/* Warps of a block, and blocks that an SM has at once. */
constexpr unsigned rows_warps = SHMEMI_QUANT_GPU_ROWS_WARPS, rows_blocks = 4;

/* Items: pieces of rows, or whole rows where a row has one scale; by all warps of the launch. work(row, crew). */
template <class Work> SHMEMX_DEVICE_FN void for_rows(const shmemi_quant_rows &a, Work work)
{
    const u64 each = a.group == 0 ? 1 : (a.cols + codec::piece - 1) / codec::piece;
    const u64 warps = static_cast<u64>(arch::blocks()) * detail::warp_count(block);
    const u64 first = static_cast<u64>(arch::block_index()) * detail::warp_count(block) + detail::warp_index(block);
    // divided once: from one item to the next it is always as many rows and pieces
    const u64 rows = warps / each, pieces = warps - rows * each;
    u64 row = first / each, p = first - row * each;
    SHMEMX_DEVICE_ROLLED
    while (row < a.nrows) {
        work(row, detail::crew{static_cast<unsigned>(p), static_cast<unsigned>(each)});
        row += rows, p += pieces;
        if (p >= each)
            ++row, p -= each;
    }
}

SHMEMX_DEVICE_FN u8 *elements_of(const shmemi_quant_rows &a, u64 row)
{
    return reinterpret_cast<u8 *>(a.x + row * a.x_stride);
}
SHMEMX_DEVICE_FN u8 *record_of(const shmemi_quant_rows &a, u64 row)
{
    return reinterpret_cast<u8 *>(a.rows + row * a.row_stride);
}
/* Piece c.mine of a row is whole, aligned, and has scales of its own. */
SHMEMX_DEVICE_FN bool is_whole(const shmemi_quant_rows &a, u64 row, const detail::crew &c)
{
    const u64 end = (static_cast<u64>(c.mine) + 1) * codec::piece;
    return a.group != 0 && end <= a.cols && reinterpret_cast<u64>(elements_of(a, row)) % 16 == 0 &&
           reinterpret_cast<u64>(record_of(a, row)) % 8 == 0;
}

/* What the first round leaves to the second. */
enum { rest_other = 1, rest_not_finite = 2 };

/* ---- to records ------------------------------------------------------------------------------------------------- */

/* Returns whether it is finite. */
template <class E, bool E4m3>
SHMEMX_DEVICE_FN bool quantize_whole(const shmemi_quant_rows &a, u64 row, u64 from)
{
    const codec::form how = {E4m3, a.group, false};
    codec::floats f;
    codec::words w;
    float scale[codec::lane_words];
    codec::load_whole<E>(elements_of(a, row) + from * E::bytes, f);
    const bool finite = codec::quantize_piece(how, f, 0, w, scale);
    codec::put_whole(codec::place_of(record_of(a, row), a.cols, how, from), how, false, w, scale);
    return finite;
}
/* What is not whole; and all again if something is not finite, to replace it or to say so. */
template <class E> SHMEMX_DEVICE_CALL void quantize_rest(const shmemi_quant_rows &a, unsigned rest)
{
    const codec::form how = {a.format == SHMEMI_QUANT_GPU_E4M3, a.group, a.nonfinite == 1};
    for_rows(a, [&](u64 row, const detail::crew &c) {
        if (rest == rest_other && is_whole(a, row, c))
            return;
        const bool finite =
            codec::quantize_record(c, record_of(a, row), a.cols, how, [&](u64 from, unsigned count, codec::floats &f) {
                codec::load_piece<E>(elements_of(a, row) + from * E::bytes, count, f);
            });
        if (a.nonfinite == 0 && !finite)
            detail::report(SHMEMX_DEVICE_DATA, SHMEMX_DEVICE_CALL_QUANT, -1, elements_of(a, row), a.cols, row);
    });
}
template <class E> SHMEMX_DEVICE_FN void quantize_rows(const shmemi_quant_rows &a)
{
    unsigned rest = 0;
    for_rows(a, [&](u64 row, const detail::crew &c) {
        const u64 from = static_cast<u64>(c.mine) * codec::piece;
        if (!is_whole(a, row, c))
            rest |= rest_other;
        else if (!(a.format == SHMEMI_QUANT_GPU_E4M3 ? quantize_whole<E, true>(a, row, from)
                                                     : quantize_whole<E, false>(a, row, from)))
            rest |= rest_not_finite;
    });
    const bool finite = a.nonfinite == 2 || arch::all(warp, (rest & rest_not_finite) == 0);
    rest = (rest & rest_other) | (finite ? 0 : rest_not_finite);
    if (rest != 0)
        quantize_rest<E>(a, rest);
}

/* ---- and back --------------------------------------------------------------------------------------------------- */

template <class E, bool E4m3>
SHMEMX_DEVICE_FN void dequantize_whole(const shmemi_quant_rows &a, u64 row, u64 from)
{
    const codec::form how = {E4m3, a.group, false};
    const codec::place at = codec::place_of(record_of(a, row), a.cols, how, from);
    u8 *const to = elements_of(a, row) + from * E::bytes;
    if constexpr (E::bytes == 4) { // four at a time: then what the warp stores at once is one piece of memory
        constexpr unsigned each = codec::piece / 4 / arch::warp_width;
        u32 w[each];
        float scale[each];
        SHMEMX_DEVICE_UNROLL
        for (unsigned i = 0; i < each; ++i) {
            const unsigned four = arch::lane(warp) + i * arch::warp_width;
            w[i] = arch::load_plain(reinterpret_cast<const u32 *>(at.values + four * 4));
            scale[i] = codec::float32::load(at.scales + how.group_of(four / 2) * 4);
        }
        SHMEMX_DEVICE_UNROLL
        for (unsigned i = 0; i < each; ++i) {
            float f[4];
            codec::unpack_four(E4m3, w[i], scale[i], f);
            E::store_four(to + (arch::lane(warp) + i * arch::warp_width) * 16, f);
        }
    } else {
        codec::floats f;
        codec::take_whole(at, how, f);
        codec::store_whole<E>(to, f);
    }
}
template <class E> SHMEMX_DEVICE_CALL void dequantize_rest(const shmemi_quant_rows &a)
{
    const codec::form how = {a.format == SHMEMI_QUANT_GPU_E4M3, a.group, false};
    for_rows(a, [&](u64 row, const detail::crew &c) {
        if (!is_whole(a, row, c))
            codec::dequantize_record(c, record_of(a, row), a.cols, how,
                                     [&](u64 from, unsigned count, const codec::floats &f) {
                                         codec::store_piece<E>(elements_of(a, row) + from * E::bytes, count, f);
                                     });
    });
}
template <class E> SHMEMX_DEVICE_FN void dequantize_rows(const shmemi_quant_rows &a)
{
    bool rest = false;
    for_rows(a, [&](u64 row, const detail::crew &c) {
        const u64 from = static_cast<u64>(c.mine) * codec::piece;
        if (!is_whole(a, row, c))
            rest = true;
        else if (a.format == SHMEMI_QUANT_GPU_E4M3)
            dequantize_whole<E, true>(a, row, from);
        else
            dequantize_whole<E, false>(a, row, from);
    });
    if (rest)
        dequantize_rest<E>(a);
}

} // namespace quantized
} // namespace shmem

#endif
