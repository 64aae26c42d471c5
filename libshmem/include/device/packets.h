/* Packets: messages whose every line says itself that it has arrived.
 *
 * Two forms, chosen by the job's SHMEMX_DEVICE_LINES128:
 *   line  128 bytes: 120 of data, then the round (8 bytes). Eight lanes store it in one instruction, 16 bytes
 *         each; where 128-byte stores arrive whole, whoever sees the round sees the data (NCCL calls this
 *         LL128).
 *   pair  16 bytes: 4 of data, 4 of the round, twice. Each 8-byte half is valid by itself, so no more is
 *         asked of the machine than whole 8-byte stores (NCCL's LL).
 * A warp moves a group at once: warp_width / 8 lines or warp_width pairs. Lane l of a warp always has the
 * same place in a group, so a place of a message belongs to one lane, on both sides, whoever else is there.
 *
 * What a small message costs is instructions: one warp takes some 4 cycles for each, and 400 of them are as
 * long as the way over NVLink. So whole groups are moved without any test of a byte's place, and the message's
 * end is the one that is careful.
 * Included by shmem_device.h only. */
#ifndef SHMEM_DEVICE_PACKETS_H
#define SHMEM_DEVICE_PACKETS_H

namespace shmem
{

namespace detail
{

constexpr unsigned line_data = 120;
constexpr unsigned wire_group = arch::warp_width * 16; // bytes of a group in the slot, in either form

/* This lane's place in a group. */
template <bool Lines> struct place {
    static constexpr unsigned data = Lines ? arch::warp_width / 8 * line_data : arch::warp_width * 8;
    unsigned piece; // where in a group's slot this lane's 16 bytes are
    unsigned at;    // where in a group's data its words begin
    unsigned first; // where the data of its line or pair begins: it goes when this is inside the message
    bool flag;      // this lane holds a line's round

    SHMEMX_DEVICE_FN place()
    {
        const unsigned l = arch::thread_index() % arch::warp_width;
        piece = l * 16;
        first = Lines ? l / 8 * line_data : l * 8;
        at = Lines ? first + l % 8 * 16 : first;
        flag = Lines && l % 8 == 7;
    }
    /* A second word of 8 bytes? Pairs and the lanes with the round carry one. */
    SHMEMX_DEVICE_FN bool two() const
    {
        return Lines && !flag;
    }
};

/* Groups of a message. 32 bits: a division of 64 is a subroutine. */
template <bool Lines> SHMEMX_DEVICE_FN unsigned group_count(u64 bytes)
{
    return (static_cast<unsigned>(bytes) + place<Lines>::data - 1) / place<Lines>::data;
}
SHMEMX_DEVICE_FN bool lines_here()
{
    return (arch::state().flags & SHMEMX_DEVICE_LINES128) != 0;
}
/* What fits into a slot. */
SHMEMX_DEVICE_FN u64 capacity(u64 slot_bytes)
{
    return static_cast<unsigned>(slot_bytes) / wire_group *
           (lines_here() ? place<true>::data : place<false>::data);
}

/* Warps that work on one message: this one's number and how many there are. */
struct crew {
    unsigned mine, warps;
};
/* Which warp of the scope this is, and how many whole ones there are; lanes of a last, partial warp get index
 * = count. */
template <class Scope> SHMEMX_DEVICE_FN unsigned warp_count(const Scope &scope)
{
    return arch::width(scope) / arch::warp_width;
}
template <class Scope> SHMEMX_DEVICE_FN unsigned warp_index(const Scope &scope)
{
    return arch::lane(scope) / arch::warp_width;
}
template <class Scope> SHMEMX_DEVICE_FN crew whole_crew(const Scope &scope)
{
    return crew{warp_index(scope), warp_count(scope)};
}
template <class Scope> SHMEMX_DEVICE_FN bool has_warp(const Scope &scope, unsigned call)
{
    return warp_count(scope) > 0 || refuse(scope, SHMEMX_DEVICE_SCOPE, call, -1, nullptr, arch::width(scope));
}

/* ---- words of a message -------------------------------------------------------------------------------- */

/* Whatever the alignment; what is beyond the end reads as 0, and is not written. */
SHMEMX_DEVICE_SLOW u64 read_bytes(const unsigned char *src, u64 offset, u64 bytes)
{
    u64 w = 0;
    for (unsigned i = 0; i < 8 && offset + i < bytes; ++i)
        w |= static_cast<u64>(arch::load_plain(src + offset + i)) << 8 * i;
    return w;
}
SHMEMX_DEVICE_SLOW void write_bytes(unsigned char *dst, u64 offset, u64 bytes, u64 w)
{
    for (unsigned i = 0; i < 8 && offset + i < bytes; ++i)
        arch::store_plain(dst + offset + i, static_cast<unsigned char>(w >> 8 * i));
}
SHMEMX_DEVICE_FN bool by_words(const void *p)
{
    return reinterpret_cast<u64>(p) % 8 == 0;
}
SHMEMX_DEVICE_FN u64 read_word(const unsigned char *src, u64 offset, u64 bytes)
{
    if (offset + 8 <= bytes && by_words(src))
        return arch::load_plain(reinterpret_cast<const u64 *>(src + offset));
    return offset < bytes ? read_bytes(src, offset, bytes) : 0;
}
SHMEMX_DEVICE_FN void write_word(unsigned char *dst, u64 offset, u64 bytes, u64 w)
{
    if (offset + 8 <= bytes && by_words(dst))
        arch::store_plain(reinterpret_cast<u64 *>(dst + offset), w);
    else if (offset < bytes)
        write_bytes(dst, offset, bytes, w);
}
/* This lane's words of the group at byte `begin` of a message that may end inside it. */
template <bool Lines>
SHMEMX_DEVICE_FN arch::vec16 read_end(const place<Lines> &me, const unsigned char *src, u64 begin, u64 bytes)
{
    return arch::make_vec16(read_word(src, begin + me.at, bytes),
                            me.two() ? read_word(src, begin + me.at + 8, bytes) : 0);
}
template <bool Lines>
SHMEMX_DEVICE_FN void write_end(const place<Lines> &me, unsigned char *dst, u64 begin, u64 bytes,
                                const arch::vec16 &v)
{
    write_word(dst, begin + me.at, bytes, v.x);
    if (me.two())
        write_word(dst, begin + me.at + 8, bytes, v.y);
}
/* The same of a group that lies in the message as a whole, at an aligned address: p = its data + me.at. */
template <bool Lines> SHMEMX_DEVICE_FN arch::vec16 read_whole(const place<Lines> &me, const unsigned char *p)
{
    auto *w = reinterpret_cast<const u64 *>(p);
    return arch::make_vec16(arch::load_plain(w), me.two() ? arch::load_plain(w + 1) : 0);
}
template <bool Lines>
SHMEMX_DEVICE_FN void write_whole(const place<Lines> &me, unsigned char *p, const arch::vec16 &v)
{
    auto *w = reinterpret_cast<u64 *>(p);
    arch::store_plain(w, v.x);
    if (me.two())
        arch::store_plain(w + 1, v.y);
}

/* ---- one group over the wire; the whole warp calls ------------------------------------------------------ */

/* `to`: this lane's piece in the receiver's slot; nullptr = its line is beyond the message's end. */
template <bool Lines>
SHMEMX_DEVICE_FN void send_piece(const place<Lines> &me, unsigned char *to, arch::vec16 v, u64 round)
{
    if constexpr (Lines) {
        arch::line_store(to, v.x, me.flag ? round : v.y, me.flag);
    } else if (to != nullptr) {
        const u64 tag = round << 32;
        arch::pair_store(to, (v.x & 0xffffffffu) | tag, (v.x >> 32) | tag);
    }
}
/* Waits for N groups at once, this lane's pieces at from[i], where wanted[i]: its line is inside the message.
 * False: the patience ended. */
template <bool Lines, unsigned N>
SHMEMX_DEVICE_FN bool await_pieces(const place<Lines> &me, arch::vec16 (&v)[N],
                                   const unsigned char *const (&from)[N], const bool (&wanted)[N], u64 round,
                                   patience &left)
{
    if constexpr (Lines) {
        return arch::lines_load(v, from, wanted, me.flag, round, left);
    } else {
        const u32 tag = static_cast<u32>(round);
        bool ok = true;
        SHMEMX_DEVICE_UNROLL
        for (unsigned i = 0; i < N; ++i)
            while (wanted[i] && ok) {
                v[i] = arch::line_load(from[i]);
                if (static_cast<u32>(v[i].x >> 32) == tag && static_cast<u32>(v[i].y >> 32) == tag) {
                    v[i] = arch::make_vec16((v[i].x & 0xffffffffu) | v[i].y << 32, 0);
                    break;
                }
                ok = !left.over();
            }
        return arch::all(warp, ok);
    }
}

/* ---- messages ------------------------------------------------------------------------------------------ */

/* N whole groups, `step` apart in the message; src and slot are where this lane's words are. */
template <unsigned N, bool Lines>
SHMEMX_DEVICE_FN void send_groups(const place<Lines> &me, unsigned char *slot, const unsigned char *src,
                                  unsigned step, u64 round)
{
    arch::vec16 v[N];
    SHMEMX_DEVICE_UNROLL // all loads are in flight before the first store
        for (unsigned i = 0; i < N; ++i) v[i] =
            read_whole(me, src + i * step * static_cast<u64>(place<Lines>::data));
    SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < N; ++i)
        send_piece(me, slot + i * step * static_cast<u64>(wire_group), v[i], round);
}
template <unsigned N, bool Lines>
SHMEMX_DEVICE_FN bool recv_groups(const place<Lines> &me, unsigned char *dst, const unsigned char *slot,
                                  unsigned step, u64 round, patience &left)
{
    arch::vec16 v[N];
    const unsigned char *from[N];
    bool wanted[N];
    SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < N; ++i) {
        from[i] = slot + i * step * static_cast<u64>(wire_group);
        wanted[i] = true;
    }
    const bool ok = await_pieces(me, v, from, wanted, round, left);
    SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; ok && i < N; ++i)
        write_whole(me, dst + i * step * static_cast<u64>(place<Lines>::data), v[i]);
    return ok;
}

/* Sends a message to a slot (a peer's address). Lanes of a partial warp do nothing. Neighbouring warps take
 * neighbouring groups, so that a short message uses many. */
template <bool Lines>
SHMEMX_DEVICE_FN void send_as(const crew &c, unsigned char *slot, const unsigned char *src, u64 bytes,
                              u64 round)
{
    constexpr unsigned data = place<Lines>::data;
    const place<Lines> me;
    const unsigned groups = group_count<Lines>(bytes), w = c.warps;
    const unsigned whole = by_words(src) ? static_cast<unsigned>(bytes) / data : 0;
    unsigned g = c.mine < w ? c.mine : groups;
    unsigned char *to = slot + g * static_cast<u64>(wire_group) + me.piece;
    const unsigned char *from = src + g * static_cast<u64>(data) + me.at;
    for (; g + 3 * w < whole; g += 4 * w, to += 4ull * w * wire_group, from += 4ull * w * data)
        send_groups<4>(me, to, from, w, round);
    for (; g < whole; g += w, to += static_cast<u64>(w) * wire_group, from += static_cast<u64>(w) * data)
        send_groups<1>(me, to, from, w, round);
    for (; g < groups; g += w, to += static_cast<u64>(w) * wire_group) {
        const u64 begin = g * static_cast<u64>(data);
        send_piece(me, begin + me.first < bytes ? to : nullptr, read_end(me, src, begin, bytes), round);
    }
}
/* Waits for a message in this PE's slot and writes it to dst. */
template <bool Lines>
SHMEMX_DEVICE_FN bool recv_as(const crew &c, unsigned char *dst, const unsigned char *slot, u64 bytes,
                              u64 round)
{
    constexpr unsigned data = place<Lines>::data;
    const place<Lines> me;
    const unsigned groups = group_count<Lines>(bytes), w = c.warps;
    const unsigned whole = by_words(dst) ? static_cast<unsigned>(bytes) / data : 0;
    unsigned g = c.mine < w ? c.mine : groups;
    const unsigned char *from = slot + g * static_cast<u64>(wire_group) + me.piece;
    unsigned char *to = dst + g * static_cast<u64>(data) + me.at;
    patience left;
    bool ok = true;
    for (; ok && g + 3 * w < whole; g += 4 * w, from += 4ull * w * wire_group, to += 4ull * w * data)
        ok = recv_groups<4>(me, to, from, w, round, left);
    for (; ok && g < whole;
         g += w, from += static_cast<u64>(w) * wire_group, to += static_cast<u64>(w) * data)
        ok = recv_groups<1>(me, to, from, w, round, left);
    for (; ok && g < groups; g += w, from += static_cast<u64>(w) * wire_group) {
        const u64 begin = g * static_cast<u64>(data);
        const unsigned char *const piece[1] = {from};
        const bool wanted[1] = {begin + me.first < bytes};
        arch::vec16 v[1] = {};
        ok = await_pieces(me, v, piece, wanted, round, left);
        if (ok)
            write_end(me, dst, begin, bytes, v[0]);
    }
    return ok;
}

/* Machines without whole lines take the calls out of line: they are slower by more than a call. */
SHMEMX_DEVICE_SLOW void send_pairs(crew c, unsigned char *slot, const unsigned char *src, u64 bytes,
                                   u64 round)
{
    send_as<false>(c, slot, src, bytes, round);
}
SHMEMX_DEVICE_SLOW bool recv_pairs(crew c, unsigned char *dst, const unsigned char *slot, u64 bytes,
                                   u64 round)
{
    return recv_as<false>(c, dst, slot, bytes, round);
}

SHMEMX_DEVICE_FN void send_message(const crew &c, void *slot, const void *src, u64 bytes, u64 round)
{
    auto *to = static_cast<unsigned char *>(slot);
    auto *from = static_cast<const unsigned char *>(src);
    if (lines_here())
        send_as<true>(c, to, from, bytes, round);
    else
        send_pairs(c, to, from, bytes, round);
}
/* False, reported, after a timeout; who() is the PE that should have sent, -1 = nobody knows. */
template <class Who>
SHMEMX_DEVICE_FN bool recv_message(const crew &c, unsigned call, Who who, void *dst, const void *slot,
                                   u64 bytes, u64 round)
{
    auto *to = static_cast<unsigned char *>(dst);
    auto *from = static_cast<const unsigned char *>(slot);
    const bool ok =
        lines_here() ? recv_as<true>(c, to, from, bytes, round) : recv_pairs(c, to, from, bytes, round);
    if (!ok && arch::thread_index() % arch::warp_width == 0)
        report(SHMEMX_DEVICE_TIMEOUT, call, who(), slot, 0, round);
    return ok;
}

} // namespace detail

template <class Scope, class T>
SHMEMX_DEVICE_FN bool put_packets(const Scope &scope, void *packets, const T *src, size nelems, u64 round,
                                  int pe)
{
    const u64 bytes = nelems * sizeof(T);
    if (!detail::valid(scope, SHMEMX_DEVICE_CALL_PUT_PACKETS, packets, packets_size(bytes), pe, 128) ||
        !detail::has_warp(scope, SHMEMX_DEVICE_CALL_PUT_PACKETS))
        return false;
    detail::send_message(detail::whole_crew(scope), detail::at(static_cast<unsigned char *>(packets), pe),
                         src, bytes, round);
    arch::sync(scope);
    return true;
}

template <class Scope, class T>
SHMEMX_DEVICE_FN bool recv_packets(const Scope &scope, T *dst, const void *packets, size nelems, u64 round)
{
    if (!detail::has_warp(scope, SHMEMX_DEVICE_CALL_RECV_PACKETS))
        return false;
    const bool ok = detail::recv_message(
        detail::whole_crew(scope), SHMEMX_DEVICE_CALL_RECV_PACKETS, [] { return -1; }, dst, packets,
        nelems * sizeof(T), round);
    return arch::all(scope, ok);
}

} // namespace shmem

#endif
