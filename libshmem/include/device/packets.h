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
 * long as the way over NVLink. So what is aligned goes by words, with arithmetic of 32 bits, and what is not
 * by a slow way of its own.
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

/* Groups of a message. Messages have less than 4 GiB: arithmetic of 64 bits takes twice the instructions, and a
 * division is a subroutine. */
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
SHMEMX_DEVICE_FN u64 read_bytes(const unsigned char *src, unsigned at, unsigned bytes)
{
    u64 w = 0;
    SHMEMX_DEVICE_ROLLED
    for (unsigned i = 0; i < 8 && at + i < bytes; ++i)
        w |= static_cast<u64>(arch::load_plain(src + at + i)) << 8 * i;
    return w;
}
SHMEMX_DEVICE_FN void write_bytes(unsigned char *dst, unsigned at, unsigned bytes, u64 w)
{
    SHMEMX_DEVICE_ROLLED
    for (unsigned i = 0; i < 8 && at + i < bytes; ++i)
        arch::store_plain(dst + at + i, static_cast<unsigned char>(w >> 8 * i));
}
/* Of a message whose address and size are multiples of 8: this lane's words of the group at byte `begin`. */
template <bool Lines>
SHMEMX_DEVICE_FN arch::vec16 read_words(const place<Lines> &me, const unsigned char *src, unsigned begin,
                                        unsigned bytes)
{
    const unsigned at = begin + me.at;
    auto *w = reinterpret_cast<const u64 *>(src + at);
    const u64 x = at < bytes ? arch::load_plain(w) : 0;
    return arch::make_vec16(x, me.two() && at + 8 < bytes ? arch::load_plain(w + 1) : 0);
}
template <bool Lines>
SHMEMX_DEVICE_FN void write_words(const place<Lines> &me, unsigned char *dst, unsigned begin, unsigned bytes,
                                  const arch::vec16 &v)
{
    const unsigned at = begin + me.at;
    auto *w = reinterpret_cast<u64 *>(dst + at);
    if (at < bytes)
        arch::store_plain(w, v.x);
    if (me.two() && at + 8 < bytes)
        arch::store_plain(w + 1, v.y);
}
/* How many bytes of a message, from its begin, can be moved by words: all, all whole groups, or none. */
template <bool Lines> SHMEMX_DEVICE_FN unsigned by_words(const void *p, unsigned bytes)
{
    if (reinterpret_cast<u64>(p) % 8 != 0)
        return 0;
    return bytes % 8 == 0 ? bytes : bytes / place<Lines>::data * place<Lines>::data;
}
/* Any message. */
template <bool Lines>
SHMEMX_DEVICE_CALL arch::vec16 read_any(const place<Lines> &me, const unsigned char *src, unsigned begin,
                                        unsigned bytes)
{
    const unsigned at = begin + me.at;
    const u64 x = read_bytes(src, at, bytes);
    return arch::make_vec16(x, me.two() ? read_bytes(src, at + 8, bytes) : 0);
}
template <bool Lines>
SHMEMX_DEVICE_CALL void write_any(const place<Lines> &me, unsigned char *dst, unsigned begin, unsigned bytes,
                                  const arch::vec16 &v)
{
    write_bytes(dst, begin + me.at, bytes, v.x);
    if (me.two())
        write_bytes(dst, begin + me.at + 8, bytes, v.y);
}

/* The fast way where the group lies in what can be moved by words. */
template <bool Lines>
SHMEMX_DEVICE_FN arch::vec16 read_part(const place<Lines> &me, const unsigned char *src, unsigned begin,
                                       unsigned bytes)
{
    const unsigned fast = by_words<Lines>(src, bytes);
    return begin < fast ? read_words(me, src, begin, fast) : read_any(me, src, begin, bytes);
}
template <bool Lines>
SHMEMX_DEVICE_FN void write_part(const place<Lines> &me, unsigned char *dst, unsigned begin, unsigned bytes,
                                 const arch::vec16 &v)
{
    const unsigned fast = by_words<Lines>(dst, bytes);
    if (begin < fast)
        write_words(me, dst, begin, fast, v);
    else
        write_any(me, dst, begin, bytes, v);
}

/* ---- one group over the wire; the whole warp calls ------------------------------------------------------ */

/* `to`: this lane's piece in the receiver's slot; `here`: its line is inside the message. */
template <bool Lines>
SHMEMX_DEVICE_FN void send_piece(const place<Lines> &me, unsigned char *to, bool here, arch::vec16 v,
                                 u64 round)
{
    if constexpr (Lines) {
        arch::line_store(to, here, v.x, me.flag ? round : v.y, me.flag);
    } else if (here) {
        const u64 tag = round << 32;
        arch::pair_store(to, (v.x & 0xffffffffu) | tag, (v.x >> 32) | tag);
    }
}
/* Waits for N groups at once, this lane's pieces at from[i], where wanted[i]: its line is inside the message.
 * False: the patience ended. */
template <bool Lines, unsigned N, class Patience>
SHMEMX_DEVICE_FN bool await_pieces(const place<Lines> &me, arch::vec16 (&v)[N],
                                   const unsigned char *const (&from)[N], const bool (&wanted)[N], u64 round,
                                   Patience &left)
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

/* Groups `from`, .. of a message that this warp has to do, one after the other, whatever the message: what is left by
 * the fast ways below. Out of line, and with few registers: a call in the way of a loop costs it those that the callee
 * may use. */
template <bool Lines>
SHMEMX_DEVICE_CALL void send_slowly(crew c, unsigned char *slot, const unsigned char *src, unsigned from,
                                    unsigned bytes, u64 round)
{
    const place<Lines> me;
    const unsigned groups = group_count<Lines>(bytes);
    SHMEMX_DEVICE_ROLLED
    for (unsigned g = c.mine; g < groups; g += c.warps) {
        const unsigned begin = g * me.data;
        if (g >= from)
            send_piece(me, slot + g * static_cast<u64>(wire_group) + me.piece, begin + me.first < bytes,
                       read_any(me, src, begin, bytes), round);
    }
}
template <bool Lines>
SHMEMX_DEVICE_CALL bool recv_slowly(crew c, unsigned char *dst, const unsigned char *slot, unsigned from,
                                    unsigned bytes, u64 round)
{
    const place<Lines> me;
    const unsigned groups = group_count<Lines>(bytes);
    patience left;
    bool ok = true;
    SHMEMX_DEVICE_ROLLED
    for (unsigned g = c.mine; ok && g < groups; g += c.warps) {
        if (g < from)
            continue;
        const unsigned begin = g * me.data;
        const unsigned char *const piece[1] = {slot + g * static_cast<u64>(wire_group) + me.piece};
        const bool wanted[1] = {begin + me.first < bytes};
        arch::vec16 v[1] = {};
        ok = await_pieces(me, v, piece, wanted, round, left);
        if (ok)
            write_any(me, dst, begin, bytes, v[0]);
    }
    return ok;
}

/* One group of a message that can be moved by words, which may end in it. slot and src are the message's. */
SHMEMX_DEVICE_FN void send_group(const place<true> &me, unsigned char *slot, const unsigned char *src,
                                 unsigned g, unsigned bytes, u64 round)
{
    const unsigned begin = g * me.data;
    send_piece(me, slot + g * static_cast<u64>(wire_group) + me.piece, begin + me.first < bytes,
               read_words(me, src, begin, bytes), round);
}
SHMEMX_DEVICE_FN bool recv_group(const place<true> &me, unsigned char *dst, const unsigned char *slot,
                                 unsigned g, unsigned bytes, u64 round, patience &left)
{
    const unsigned begin = g * me.data;
    const unsigned char *const from[1] = {slot + g * static_cast<u64>(wire_group) + me.piece};
    const bool wanted[1] = {begin + me.first < bytes};
    arch::vec16 v[1] = {};
    const bool ok = await_pieces(me, v, from, wanted, round, left);
    if (ok)
        write_words(me, dst, begin, bytes, v[0]);
    return ok;
}
/* N groups, `step` apart, that lie whole in the message; slot and src are where this lane's words of the first
 * are. No test of any place: long messages are as fast as their instructions are few. */
template <unsigned N>
SHMEMX_DEVICE_FN void send_whole(const place<true> &me, unsigned char *slot, const unsigned char *src,
                                 unsigned step, u64 round)
{
    arch::vec16 v[N];
    SHMEMX_DEVICE_UNROLL // all loads are in flight before the first store
        for (unsigned i = 0; i < N; ++i)
    {
        auto *w = reinterpret_cast<const u64 *>(src + i * static_cast<u64>(step * me.data));
        v[i] = arch::make_vec16(arch::load_plain(w), me.two() ? arch::load_plain(w + 1) : 0);
    }
    SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < N; ++i)
        send_piece(me, slot + i * static_cast<u64>(step * wire_group), true, v[i], round);
}
template <unsigned N>
SHMEMX_DEVICE_FN bool recv_whole(const place<true> &me, unsigned char *dst, const unsigned char *slot,
                                 unsigned step, u64 round, patience &left)
{
    arch::vec16 v[N];
    const unsigned char *from[N];
    bool wanted[N];
    SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < N; ++i) {
        from[i] = slot + i * static_cast<u64>(step * wire_group);
        wanted[i] = true;
    }
    if (!await_pieces(me, v, from, wanted, round, left))
        return false;
    SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < N; ++i) {
        auto *w = reinterpret_cast<u64 *>(dst + i * static_cast<u64>(step * me.data));
        arch::store_plain(w, v[i].x);
        if (me.two())
            arch::store_plain(w + 1, v[i].y);
    }
    return true;
}
/* The same for as many of the warp's groups as there are N at a time, from g on, which moves on. */
template <unsigned N>
SHMEMX_DEVICE_FN void send_many(const place<true> &me, const crew &c, unsigned char *slot,
                                const unsigned char *src, unsigned &g, unsigned whole, u64 round)
{
    SHMEMX_DEVICE_ROLLED
    for (; g + (N - 1) * c.warps < whole; g += N * c.warps)
        send_whole<N>(me, slot + g * static_cast<u64>(wire_group) + me.piece,
                      src + g * static_cast<u64>(me.data) + me.at, c.warps, round);
}
template <unsigned N>
SHMEMX_DEVICE_FN bool recv_many(const place<true> &me, const crew &c, unsigned char *dst,
                                const unsigned char *slot, unsigned &g, unsigned whole, u64 round,
                                patience &left)
{
    bool ok = true;
    SHMEMX_DEVICE_ROLLED
    for (; ok && g + (N - 1) * c.warps < whole; g += N * c.warps)
        ok = recv_whole<N>(me, dst + g * static_cast<u64>(me.data) + me.at,
                           slot + g * static_cast<u64>(wire_group) + me.piece, c.warps, round, left);
    return ok;
}
/* All groups of such a message that this warp has to do. */
SHMEMX_DEVICE_FN void send_groups(const crew &c, unsigned char *slot, const unsigned char *src,
                                  unsigned bytes, u64 round)
{
    const place<true> me;
    unsigned g = c.mine;
    send_many<4>(me, c, slot, src, g, bytes / me.data, round);
    send_many<2>(me, c, slot, src, g, bytes / me.data, round);
    SHMEMX_DEVICE_ROLLED
    for (; g * me.data < bytes; g += c.warps)
        send_group(me, slot, src, g, bytes, round);
}
SHMEMX_DEVICE_FN bool recv_groups(const crew &c, unsigned char *dst, const unsigned char *slot,
                                  unsigned bytes, u64 round)
{
    const place<true> me;
    unsigned g = c.mine;
    patience left;
    bool ok = recv_many<4>(me, c, dst, slot, g, bytes / me.data, round, left) &&
              recv_many<2>(me, c, dst, slot, g, bytes / me.data, round, left);
    SHMEMX_DEVICE_ROLLED
    for (; ok && g * me.data < bytes; g += c.warps)
        ok = recv_group(me, dst, slot, g, bytes, round, left);
    return ok;
}

/* Sends a message to a slot (a peer's address). Lanes of a partial warp do nothing. Neighbouring warps take
 * neighbouring groups, so that a short message uses many. */
SHMEMX_DEVICE_FN void send_message(const crew &c, void *slot, const void *src, u64 nbytes, u64 round)
{
    auto *to = static_cast<unsigned char *>(slot);
    auto *from = static_cast<const unsigned char *>(src);
    const auto bytes = static_cast<unsigned>(nbytes);
    if (c.mine >= c.warps)
        return;
    if (!lines_here()) {
        send_slowly<false>(c, to, from, 0, bytes, round);
        return;
    }
    // a message of a group for each warp, or less, has a way of its own: it should not fetch the code of the long
    const unsigned fast = by_words<true>(from, bytes);
    if (fast > c.warps * place<true>::data)
        send_groups(c, to, from, fast, round);
    else if (c.mine * place<true>::data < fast)
        send_group(place<true>(), to, from, c.mine, fast, round);
    if (fast != bytes)
        send_slowly<true>(c, to, from, fast / place<true>::data, bytes, round);
}
/* Waits for a message in this PE's slot and writes it to dst. False, reported, after a timeout; who() is the PE that
 * should have sent, -1 = nobody knows. */
template <class Who>
SHMEMX_DEVICE_FN bool recv_message(const crew &c, unsigned call, Who who, void *dst, const void *slot,
                                   u64 nbytes, u64 round)
{
    auto *to = static_cast<unsigned char *>(dst);
    auto *from = static_cast<const unsigned char *>(slot);
    const auto bytes = static_cast<unsigned>(nbytes);
    bool ok = true;
    if (c.mine >= c.warps)
        return true;
    if (!lines_here()) {
        ok = recv_slowly<false>(c, to, from, 0, bytes, round);
    } else {
        const unsigned fast = by_words<true>(to, bytes);
        patience left;
        if (fast > c.warps * place<true>::data)
            ok = recv_groups(c, to, from, fast, round);
        else if (c.mine * place<true>::data < fast)
            ok = recv_group(place<true>(), to, from, c.mine, fast, round, left);
        if (ok && fast != bytes)
            ok = recv_slowly<true>(c, to, from, fast / place<true>::data, bytes, round);
    }
    if (!ok && arch::thread_index() % arch::warp_width == 0)
        report(SHMEMX_DEVICE_TIMEOUT, call, who(), slot, 0, round);
    return ok;
}

/* A message's lines, built by a thread each and put. The receiver polls them as it does those that are stored, so a line
 * must not show its round before its data: all lines go first with round 0, which is none, and again behind a fence. Lines
 * of pairs need no second time: each half says itself that it is there. */
template <bool Lines, class Scope>
SHMEMX_DEVICE_FN void put_lines(const Scope &scope, unsigned char *slot, const unsigned char *src,
                                unsigned bytes, u64 round, int pe)
{
    constexpr unsigned data = Lines ? line_data : 64;
    const unsigned width = arch::width(scope);
    SHMEMX_DEVICE_ROLLED
    for (unsigned line = arch::lane(scope); line * static_cast<u64>(data) < bytes; line += width) {
        u64 out[16];
        SHMEMX_DEVICE_ROLLED
        for (unsigned i = 0; i < data / 8; ++i) {
            const u64 v = read_bytes(src, line * data + i * 8, bytes), tag = round << 32;
            if (Lines) {
                out[i] = v;
            } else {
                out[2 * i] = (v & 0xffffffff) | tag;
                out[2 * i + 1] = v >> 32 | tag;
            }
        }
        if (Lines)
            out[15] = round;
        far_put(thread, slot + line * 128ull, out, sizeof out, pe, true);
    }
}
template <class Scope>
SHMEMX_DEVICE_SLOW void far_put_packets(Scope scope, unsigned char *slot, const unsigned char *src,
                                        unsigned bytes, u64 round, int pe)
{
    if (!lines_here()) {
        put_lines<false>(scope, slot, src, bytes, round, pe);
        return;
    }
    put_lines<true>(scope, slot, src, bytes, 0, pe);
    arch::sync(scope);
    far_fence(scope);
    arch::sync(scope);
    put_lines<true>(scope, slot, src, bytes, round, pe);
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
    if (detail::far(pe))
        detail::far_put_packets(detail::plain(scope), static_cast<unsigned char *>(packets),
                                reinterpret_cast<const unsigned char *>(src), static_cast<unsigned>(bytes),
                                round, pe);
    else
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
