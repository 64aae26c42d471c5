/* The codec of 8-bit records in kernels: bit by bit what shmemx_quantize of shmemx_int8.h writes and reads.
 *
 * A record is taken in pieces of 1024 elements, 128 words of 8 bytes. Lane l of a warp holds words l, l + W, .. of a
 * piece (W lanes), 8 elements each, as floats in its registers; the lanes that share a group find its largest magnitude
 * by shuffles, compared as integers, where NaN and infinity are above all others.
 *
 * Included by shmem_device.h only. */
#ifndef SHMEM_DEVICE_QUANT_H
#define SHMEM_DEVICE_QUANT_H

namespace shmem
{

namespace codec
{

/* ---- pieces: a warp's 1024 elements --------------------------------------------------------------------- */

constexpr unsigned piece = 1024, piece_words = piece / 8, lane_words = piece_words / arch::warp_width;
/* Values and at most 32 scales. */
constexpr unsigned piece_bytes = piece + piece / 32 * 4;
using floats = float[lane_words][8];
using words = u64[lane_words];

SHMEMX_DEVICE_FN unsigned larger(u32 a, u32 b)
{
    return a > b ? a : b;
}
SHMEMX_DEVICE_FN u32 magnitude_of(const float (&f)[8])
{
    u32 m = 0;
    SHMEMX_DEVICE_UNROLL
    for (unsigned k = 0; k < 8; ++k)
        m = larger(m, bits_of_float(f[k]) & 0x7fffffffu);
    return m;
}
/* The largest of all lanes. */
SHMEMX_DEVICE_FN u32 largest_of_warp(u32 m)
{
    SHMEMX_DEVICE_UNROLL
    for (unsigned d = 1; d < arch::warp_width; d *= 2)
        m = larger(m, arch::shuffle_xor(m, d));
    return m;
}
/* Of one lane's part of a piece. */
SHMEMX_DEVICE_FN u32 magnitude_of_piece(const floats &f)
{
    u32 m = 0;
    SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < lane_words; ++i)
        m = larger(m, magnitude_of(f[i]));
    return m;
}
/* The largest magnitude of the group of each of this lane's words; `words_each`: words of a group, 4, 8 or 16. The whole
 * warp calls. */
SHMEMX_DEVICE_FN void magnitudes(const floats &f, unsigned words_each, u32 (&m)[lane_words])
{
    SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < lane_words; ++i)
        m[i] = magnitude_of(f[i]);
    if constexpr (arch::warp_width < 16)
        if (words_each > arch::warp_width) // two words of one lane are of one group
            for (unsigned i = 0; i < lane_words; i += 2)
                m[i] = m[i + 1] = larger(m[i], m[i + 1]);
    SHMEMX_DEVICE_ROLLED
    for (unsigned d = 1; d < words_each && d < arch::warp_width; d *= 2)
        SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < lane_words; ++i)
        m[i] = larger(m[i], arch::shuffle_xor(m[i], d));
}
/* NaN becomes 0, infinity becomes `limit` with its sign: SHMEMX_NONFINITE_SATURATE. */
SHMEMX_DEVICE_FN void saturate(floats &f, unsigned words_each, u32 whole)
{
    floats finite;
    SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < lane_words; ++i)
        SHMEMX_DEVICE_UNROLL
    for (unsigned k = 0; k < 8; ++k)
        finite[i][k] = (bits_of_float(f[i][k]) & infinity) == infinity ? 0 : f[i][k];
    u32 m[lane_words];
    magnitudes(finite, words_each, m);
    SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < lane_words; ++i)
        SHMEMX_DEVICE_UNROLL
    for (unsigned k = 0; k < 8; ++k) {
        const u32 b = bits_of_float(f[i][k]);
        if ((b & 0x7fffffffu) == infinity)
            finite[i][k] = float_of_bits((words_each != 0 ? m[i] : whole) | (b & 0x80000000u));
        f[i][k] = finite[i][k];
    }
}

/* What a record is made like. */
struct form {
    bool e4m3;
    unsigned group; // elements of a scale: 32, 64 or 128; 0 = the record has one
    bool saturate;  // NaN and infinity are replaced; else their group becomes NaN

    /* Scales of a piece, words of a group (0: the record's), and bytes of a piece by itself. */
    SHMEMX_DEVICE_FN unsigned scales() const
    {
        return group == 0 ? 1 : group == 32 ? 32 : group == 64 ? 16 : 8;
    }
    SHMEMX_DEVICE_FN unsigned words_each() const
    {
        return group / 8;
    }
    SHMEMX_DEVICE_FN unsigned group_of(unsigned word) const // of a piece
    {
        return group == 0 ? 0 : word >> (group == 32 ? 2 : group == 64 ? 3 : 4);
    }
    SHMEMX_DEVICE_FN bool leads(unsigned word) const // the first of its group
    {
        return (word & (group == 0 ? piece_words - 1 : words_each() - 1)) == 0;
    }
};

/* A warp quantizes its piece f into codes and scales; `whole`: the record's largest magnitude, where it has one scale.
 * With saturate f changes to what is sent. Returns whether this lane's groups are finite. */
SHMEMX_DEVICE_FN bool quantize_piece(const form &how, floats &f, u32 whole, words &w,
                                     float (&scale)[lane_words])
{
    u32 m[lane_words];
    bool finite = true;
    if (how.group != 0) {
        magnitudes(f, how.words_each(), m);
    } else {
        SHMEMX_DEVICE_UNROLL
        for (unsigned i = 0; i < lane_words; ++i)
            m[i] = whole;
    }
    SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < lane_words; ++i)
        finite = finite && m[i] < infinity;
    SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < lane_words; ++i) {
        const scaling s = scaling_of_record(how.e4m3, m[i]);
        scale[i] = s.scale;
        const u64 codes = pack(how.e4m3, f[i], s.inverse);
        w[i] = m[i] < infinity ? codes : 0;
    }
    return finite;
}
/* The largest magnitude that is finite, of all lanes: what `saturate` and one scale need. */
SHMEMX_DEVICE_FN u32 finite_magnitude_of_piece(const floats &f)
{
    u32 m = 0;
    SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < lane_words; ++i)
        SHMEMX_DEVICE_UNROLL
    for (unsigned k = 0; k < 8; ++k) {
        const u32 b = bits_of_float(f[i][k]) & 0x7fffffffu;
        m = b < infinity ? larger(m, b) : m;
    }
    return m;
}
SHMEMX_DEVICE_FN bool all_finite(const floats &f) // of this lane
{
    return magnitude_of_piece(f) < infinity;
}

/* ---- elements in memory --------------------------------------------------------------------------------- */

/* Where this lane's word number i of a piece is. */
SHMEMX_DEVICE_FN unsigned word_of(unsigned i)
{
    return arch::lane(warp) + i * arch::warp_width;
}
SHMEMX_DEVICE_FN bool by_vectors(const void *p, unsigned count)
{
    return count >= piece && reinterpret_cast<u64>(p) % 16 == 0;
}
struct values {
    floats f;
};
/* What is not whole, or not aligned: out of line, by value, so that floats elsewhere stay in registers. */
template <class E> SHMEMX_DEVICE_CALL values load_some(const u8 *src, unsigned count)
{
    values v;
    SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < lane_words; ++i)
        SHMEMX_DEVICE_UNROLL
    for (unsigned k = 0; k < 8; ++k) {
        const unsigned at = word_of(i) * 8 + k;
        v.f[i][k] = at < count ? E::load(src + at * E::bytes) : 0;
    }
    return v;
}
template <class E> SHMEMX_DEVICE_CALL void store_some(u8 *dst, unsigned count, values v)
{
    SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < lane_words; ++i)
        SHMEMX_DEVICE_UNROLL
    for (unsigned k = 0; k < 8; ++k) {
        const unsigned at = word_of(i) * 8 + k;
        if (at < count)
            E::store(dst + at * E::bytes, v.f[i][k]);
    }
}
SHMEMX_DEVICE_FN void copy(const floats &from, floats &to)
{
    SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < lane_words; ++i)
        SHMEMX_DEVICE_UNROLL
    for (unsigned k = 0; k < 8; ++k)
        to[i][k] = from[i][k];
}
/* All of a piece, aligned. */
template <class E> SHMEMX_DEVICE_FN void load_whole(const u8 *src, floats &f)
{
    SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < lane_words; ++i)
        E::load_eight(src + word_of(i) * 8 * E::bytes, f[i]);
}
template <class E> SHMEMX_DEVICE_FN void store_whole(u8 *dst, const floats &f)
{
    SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < lane_words; ++i)
        E::store_eight(dst + word_of(i) * 8 * E::bytes, f[i]);
}
/* `count` elements of a piece; behind them zeros. */
template <class E> SHMEMX_DEVICE_FN void load_piece(const u8 *src, unsigned count, floats &f)
{
    if (by_vectors(src, count)) {
        load_whole<E>(src, f);
    } else {
        const values v = load_some<E>(src, count);
        copy(v.f, f);
    }
}
template <class E> SHMEMX_DEVICE_FN void store_piece(u8 *dst, unsigned count, const floats &f)
{
    if (by_vectors(dst, count)) {
        store_whole<E>(dst, f);
    } else {
        values v;
        copy(f, v.f);
        store_some<E>(dst, count, v);
    }
}

/* ---- pieces of records ---------------------------------------------------------------------------------- */

/* Where the scales of a record are, and where it ends (shmemx_int8_row_bytes). */
SHMEMX_DEVICE_FN u64 scales_at(u64 cols)
{
    return (cols + 3) & ~3ull;
}
SHMEMX_DEVICE_FN u64 groups_of(u64 cols, unsigned group)
{
    return group == 0 ? 1 : (cols + group - 1) / group;
}

/* The piece at column `from` of a record of cols columns. */
struct place {
    u8 *values, *scales;
    unsigned count; // elements
    bool whole;     // all of a piece, and aligned
};
SHMEMX_DEVICE_FN place place_of(u8 *record, u64 cols, const form &how, u64 from)
{
    u8 *scales = record + scales_at(cols) + (how.group == 0 ? 0 : from / piece * how.scales() * 4);
    const unsigned count = cols - from < piece ? static_cast<unsigned>(cols - from) : piece;
    return place{record + from, scales, count, count == piece && reinterpret_cast<u64>(record) % 8 == 0};
}
/* Codes and scales of a whole piece go to their places; not the scale of a whole record but with the first piece. */
SHMEMX_DEVICE_FN void put_whole(const place &to, const form &how, bool first, const words &w,
                                const float (&scale)[lane_words])
{
    SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < lane_words; ++i) {
        const unsigned word = word_of(i);
        arch::store_plain(reinterpret_cast<u64 *>(to.values + word * 8), w[i]);
        if (how.leads(word) && (how.group != 0 || first))
            float32::store(to.scales + how.group_of(word) * 4, scale[i]);
    }
}
/* Of any piece; the last one writes the padding. */
SHMEMX_DEVICE_FN void put_piece(u8 *record, u64 cols, const form &how, u64 from, const words &w,
                                const float (&scale)[lane_words])
{
    const place to = place_of(record, cols, how, from);
    if (to.whole) {
        put_whole(to, how, from == 0, w, scale);
    } else {
        SHMEMX_DEVICE_UNROLL
        for (unsigned i = 0; i < lane_words; ++i) {
            const unsigned word = word_of(i);
            detail::write_bytes(to.values, word * 8, to.count, w[i]);
            if (how.leads(word) && word * 8 < to.count && (how.group != 0 || from == 0))
                detail::write_bytes(to.scales + how.group_of(word) * 4, 0, 4, bits_of_float(scale[i]));
        }
    }
    if (from + to.count == cols) {
        const u64 end = scales_at(cols) + groups_of(cols, how.group) * 4;
        const unsigned lane = arch::lane(warp);
        for (u64 i = cols + lane; i < scales_at(cols); i += arch::warp_width)
            arch::store_plain(record + i, static_cast<u8>(0));
        for (u64 i = end + lane; i < ((end + 15) & ~15ull); i += arch::warp_width)
            arch::store_plain(record + i, static_cast<u8>(0));
    }
}
SHMEMX_DEVICE_FN void take_whole(const place &from, const form &how, floats &f)
{
    words w;
    float scale[lane_words];
    SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < lane_words; ++i) { // all loads before the first use
        w[i] = arch::load_plain(reinterpret_cast<const u64 *>(from.values + word_of(i) * 8));
        scale[i] = float32::load(from.scales + how.group_of(word_of(i)) * 4);
    }
    SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < lane_words; ++i)
        unpack(how.e4m3, w[i], scale[i], f[i]);
}
SHMEMX_DEVICE_FN void take_piece(const u8 *record, u64 cols, const form &how, u64 from, floats &f)
{
    const place at = place_of(const_cast<u8 *>(record), cols, how, from);
    if (at.whole) {
        take_whole(at, how, f);
        return;
    }
    SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < lane_words; ++i) {
        const unsigned word = word_of(i);
        const u64 scale =
            word * 8 < at.count ? detail::read_bytes(at.scales + how.group_of(word) * 4, 0, 4) : 0;
        unpack(how.e4m3, detail::read_bytes(at.values, word * 8, at.count),
               float_of_bits(static_cast<u32>(scale)), f[i]);
    }
}

/* One record by warp c.mine of c.warps. load(from, count, f) gives the elements from column `from` on, zeros behind
 * `count`; it is asked twice where the record has one scale. Returns whether what this lane saw is finite. */
template <class Load>
SHMEMX_DEVICE_FN bool quantize_record(const detail::crew &c, u8 *record, u64 cols, const form &how, Load load)
{
    u32 whole = 0;
    bool finite = true;
    if (how.group == 0) { // every warp looks at the whole record
        SHMEMX_DEVICE_ROLLED
        for (u64 from = 0; from < cols; from += piece) {
            floats f;
            load(from, cols - from < piece ? static_cast<unsigned>(cols - from) : piece, f);
            whole = larger(whole, how.saturate ? finite_magnitude_of_piece(f) : magnitude_of_piece(f));
        }
        whole = largest_of_warp(whole);
    }
    SHMEMX_DEVICE_ROLLED
    for (u64 from = static_cast<u64>(c.mine) * piece; from < cols;
         from += static_cast<u64>(c.warps) * piece) {
        floats f;
        words w;
        float scale[lane_words];
        load(from, cols - from < piece ? static_cast<unsigned>(cols - from) : piece, f);
        const bool here = all_finite(f);
        finite = finite && here;
        if (how.saturate && !arch::all(warp, here))
            saturate(f, how.words_each(), whole);
        (void)quantize_piece(how, f, whole, w, scale);
        put_piece(record, cols, how, from, w, scale);
    }
    return finite;
}
template <class Store>
SHMEMX_DEVICE_FN void dequantize_record(const detail::crew &c, const u8 *record, u64 cols, const form &how,
                                        Store store)
{
    SHMEMX_DEVICE_ROLLED
    for (u64 from = static_cast<u64>(c.mine) * piece; from < cols;
         from += static_cast<u64>(c.warps) * piece) {
        floats f;
        take_piece(record, cols, how, from, f);
        store(from, cols - from < piece ? static_cast<unsigned>(cols - from) : piece, f);
    }
}

/* ---- what users hand over -------------------------------------------------------------------------------- */

template <class T>
struct element_of; // float, and the 16-bit classes of the headers that were included before
template <> struct element_of<float> {
    using type = float32;
};
#ifdef __CUDA_FP16_H__
template <> struct element_of<__half> {
    using type = float16;
};
#endif
#ifdef __CUDA_BF16_H__
template <> struct element_of<__nv_bfloat16> {
    using type = bfloat16;
};
#endif

/* Memory of the user's, or a function of the element's number. */
template <class X> struct source {
    const X &value;
    SHMEMX_DEVICE_FN void operator()(u64 from, unsigned count, floats &f) const
    {
        SHMEMX_DEVICE_UNROLL
        for (unsigned i = 0; i < lane_words; ++i)
            SHMEMX_DEVICE_UNROLL
        for (unsigned k = 0; k < 8; ++k) {
            const unsigned at = word_of(i) * 8 + k;
            f[i][k] = at < count ? static_cast<float>(value(static_cast<size>(from + at))) : 0;
        }
    }
};
template <class T> struct source<const T *> {
    const T *const &value;
    SHMEMX_DEVICE_FN void operator()(u64 from, unsigned count, floats &f) const
    {
        load_piece<typename element_of<T>::type>(reinterpret_cast<const u8 *>(value + from), count, f);
    }
};
template <class T> struct source<T *> {
    T *const &value;
    SHMEMX_DEVICE_FN void operator()(u64 from, unsigned count, floats &f) const
    {
        load_piece<typename element_of<T>::type>(reinterpret_cast<const u8 *>(value + from), count, f);
    }
};
template <class X> struct target {
    const X &value;
    SHMEMX_DEVICE_FN void operator()(u64 from, unsigned count, const floats &f) const
    {
        SHMEMX_DEVICE_UNROLL
        for (unsigned i = 0; i < lane_words; ++i)
            SHMEMX_DEVICE_UNROLL
        for (unsigned k = 0; k < 8; ++k) {
            const unsigned at = word_of(i) * 8 + k;
            if (at < count)
                value(static_cast<size>(from + at), f[i][k]);
        }
    }
};
template <class T> struct target<T *> {
    T *const &value;
    SHMEMX_DEVICE_FN void operator()(u64 from, unsigned count, const floats &f) const
    {
        store_piece<typename element_of<T>::type>(reinterpret_cast<u8 *>(value + from), count, f);
    }
};

} // namespace codec

template <class Scope, class X>
SHMEMX_DEVICE_FN bool quantize(const Scope &scope, void *record, const X &x, size cols, quant how)
{
    const detail::crew c = detail::whole_crew(scope);
    const codec::form form = {how.format == quant_e4m3, how.group, how.nonfinite == quant_saturate};
    bool finite = true;
    if (c.mine < c.warps)
        finite = codec::quantize_record(c, static_cast<u8 *>(record), cols, form, codec::source<X>{x});
    return arch::all(scope, finite);
}

template <class Scope, class Y>
SHMEMX_DEVICE_FN void dequantize(const Scope &scope, const Y &y, const void *record, size cols, quant how)
{
    const detail::crew c = detail::whole_crew(scope);
    const codec::form form = {how.format == quant_e4m3, how.group, false};
    if (c.mine < c.warps)
        codec::dequantize_record(c, static_cast<const u8 *>(record), cols, form, codec::target<Y>{y});
    arch::sync(scope);
}

} // namespace shmem

#endif
