/* Between the two forms of what a dispatch has received: rows gathered by expert (or only made BF16 again), and the experts'
 * rows summed back to one for each received row. Local to a GPU, and as fast as its memory: a warp takes a row. */
#ifndef SHMEMI_GPU_MOE_NORMAL_FORM_CUH
#define SHMEMI_GPU_MOE_NORMAL_FORM_CUH

#include "moe_normal_add.cuh"

namespace shmem
{
namespace moe
{
namespace normal
{

/* Warps of the launch, and this one. */
struct walk {
    unsigned lane = arch::lane(warp), mine, step;

    SHMEMX_DEVICE_FN walk()
        : mine(arch::lane(detail::grid) / arch::warp_width), step(arch::width(detail::grid) / arch::warp_width)
    {
    }
};

/* Of `rows` at most, those that the word at `at` counts. More are reported. */
SHMEMX_DEVICE_FN u64 rows_there(u64 rows, u64 word)
{
    if (word == 0)
        return rows;
    const u64 there = static_cast<u64>(arch::load_plain(at<const int>(word)));
    if (there > rows && arch::lane(detail::grid) == 0)
        detail::report(SHMEMX_DEVICE_LIMIT, SHMEMX_DEVICE_CALL_MOE_DISPATCH, arch::state().me, at<const int>(word), there, rows);
    return there < rows ? there : rows;
}

SHMEMX_DEVICE_FN arch::vec16 dequantize_vector(const quantizer &q, const unsigned char *row, const float *scales, unsigned v)
{
    const u64 w = reinterpret_cast<const u64 *>(row)[v];
    float f[8];
    if (q.group % 8 == 0) {
        dequantize_word(q, w, scales[v * 8 / q.group], f);
    } else {
        dequantize_word(q, w, 1, f);
        SHMEMX_DEVICE_UNROLL
        for (unsigned i = 0; i < 8; ++i)
            f[i] *= scales[(v * 8 + i) / q.group];
    }
    return arch::make_vec16(pack_bf16(f[0], f[1], f[2], f[3]), pack_bf16(f[4], f[5], f[6], f[7]));
}

SHMEMX_DEVICE_FN void gather(const shmemi_moen_gather &a)
{
    const walk w;
    const bool quantized = a.format == SHMEMI_MOEN_INT8 || a.format == SHMEMI_MOEN_FP8;
    const unsigned row_bytes = a.format == SHMEMI_MOEN_BF16 ? 2 * a.hidden : a.hidden;
    const unsigned vectors = (quantized ? 2 * a.hidden : row_bytes) / 16; // of a row of out
    const quantizer codec = {a.format == SHMEMI_MOEN_INT8 ? as_int8 : as_fp8, a.hidden, a.group, 0};
    const u64 rows = rows_there(a.rows, a.rows_at);
    for (u64 r = w.mine; r < rows; r += w.step) {
        const long long from = a.source != 0 ? at<const long long>(a.source)[r] : static_cast<long long>(r);
        const auto *x = at<const unsigned char>(a.x) + static_cast<u64>(from) * row_bytes;
        const auto *scales = at<const float>(a.scales + static_cast<u64>(from) * a.scales_row);
        auto *out = at<arch::vec16>(a.out) + r * vectors;
        SHMEMX_DEVICE_ROLLED
        for (unsigned v = w.lane; v < vectors; v += arch::warp_width)
            arch::store_plain(out + v, from < 0    ? arch::make_vec16(0, 0)
                                       : quantized ? dequantize_vector(codec, x, scales, v)
                                                   : arch::load_plain(reinterpret_cast<const arch::vec16 *>(x) + v));
    }
}

SHMEMX_DEVICE_FN void sum_choices(const shmemi_moen_sum &a)
{
    const walk w;
    const unsigned vectors = a.hidden / 8;
    const u64 rows = rows_there(a.rows, a.rows_at);
    for (u64 r = w.mine; r < rows; r += w.step) {
        const auto *position = at<const long long>(a.position) + r * a.topk;
        auto *out = at<arch::vec16>(a.out) + r * vectors;
        SHMEMX_DEVICE_ROLLED
        for (unsigned v = w.lane; v < vectors; v += arch::warp_width) {
            float sum[8] = {};
            SHMEMX_DEVICE_ROLLED
            for (unsigned k = 0; k < a.topk; ++k) { // the same for all lanes
                const long long p = position[k];
                if (p < 0)
                    continue;
                const float weight = a.weights != 0 ? at<const float>(a.weights)[r * a.topk + k] : 1;
                float f[8];
                unpack_bf16(arch::load_plain(at<const arch::vec16>(a.y + static_cast<u64>(p) * a.y_stride) + v), f);
                SHMEMX_DEVICE_UNROLL
                for (unsigned i = 0; i < 8; ++i)
                    sum[i] = add_product(sum[i], f[i], weight);
            }
            arch::store_plain(out + v, arch::make_vec16(pack_bf16(sum[0], sum[1], sum[2], sum[3]),
                                                        pack_bf16(sum[4], sum[5], sum[6], sum[7])));
        }
    }
}

} // namespace normal
} // namespace moe
} // namespace shmem

#endif
