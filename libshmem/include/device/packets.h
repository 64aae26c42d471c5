/* Packets: messages whose every line says itself that it has arrived.
 *
 * Two forms, chosen by the job's SHMEMX_DEVICE_LINES128:
 *   line  128 bytes: 120 of data, then the round (8 bytes). Eight lanes store it in one instruction, 16 bytes
 *         each; where 128-byte stores arrive whole, whoever sees the round sees the data (NCCL calls this
 *         LL128).
 *   pair  16 bytes: 4 of data, 4 of the round, twice. Each 8-byte half is valid by itself, so no more is
 *         asked of the machine than whole 8-byte stores (NCCL's LL).
 * A warp moves a group at once: warp_width / 8 lines or warp_width pairs, and `batch` groups fly together.
 * Lane l of a warp always has the same place in a group, so a place of a message belongs to one lane, on both
 * sides.
 * Included by shmem_device.h only. */
#ifndef SHMEM_DEVICE_PACKETS_H
#define SHMEM_DEVICE_PACKETS_H

namespace shmem
{

namespace detail
{

constexpr unsigned line_data = 120;
/* Groups in flight a warp: 4 x 512 bytes; with 32 warps 64 KiB, more than the largest message worth packets.
 * */
constexpr unsigned batch = 4;

constexpr u64 lines_group =
    arch::warp_width / 8 * line_data; // bytes of data that a group carries, in either form
constexpr u64 pairs_group = arch::warp_width * 8;
constexpr unsigned wire_group = arch::warp_width * 16; // and its bytes in the slot

/* The form and this lane's place in it. */
struct packet_place {
    bool lines;
    bool flag;      // this lane holds the line's round
    unsigned data;  // bytes of data a group carries
    unsigned at;    // where in a group's data this lane's words begin
    unsigned piece; // where in a group's slot this lane's 16 bytes are

    SHMEMX_DEVICE_FN packet_place() : lines((arch::state().flags & SHMEMX_DEVICE_LINES128) != 0)
    {
        const unsigned l = arch::thread_index() % arch::warp_width;
        flag = lines && l % 8 == 7;
        data = static_cast<unsigned>(lines ? lines_group : pairs_group);
        at = lines ? l / 8 * line_data + l % 8 * 16 : l * 8;
        piece = l * 16;
    }
    /* Words of 8 bytes that this lane carries in a group. */
    SHMEMX_DEVICE_FN unsigned words() const
    {
        return lines && !flag ? 2 : 1;
    }
    /* Divisions by constants: one by `data` is a subroutine of a hundred instructions. */
    SHMEMX_DEVICE_FN u64 groups(u64 bytes) const
    {
        return lines ? (bytes + lines_group - 1) / lines_group : (bytes + pairs_group - 1) / pairs_group;
    }
    SHMEMX_DEVICE_FN u64 capacity(u64 slot_bytes) const
    {
        return slot_bytes / wire_group * data;
    }
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
template <class Scope> SHMEMX_DEVICE_FN bool has_warp(const Scope &scope, unsigned call)
{
    return warp_count(scope) > 0 || refuse(scope, SHMEMX_DEVICE_SCOPE, call, -1, nullptr, arch::width(scope));
}

/* Whether the word at byte `offset` of a message can be moved as one. */
SHMEMX_DEVICE_FN bool whole_word(const void *p, u64 offset, u64 bytes)
{
    return reinterpret_cast<u64>(p) % 8 == 0 && offset + 8 <= bytes;
}
/* The word of a message at byte `offset` < bytes, whatever the alignment; what is beyond the end reads as 0.
 * */
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
SHMEMX_DEVICE_FN u64 read_word(const unsigned char *src, u64 offset, u64 bytes)
{
    return whole_word(src, offset, bytes) ? arch::load_plain(reinterpret_cast<const u64 *>(src + offset))
                                          : read_bytes(src, offset, bytes);
}
SHMEMX_DEVICE_FN void write_word(unsigned char *dst, u64 offset, u64 bytes, u64 w)
{
    if (whole_word(dst, offset, bytes))
        arch::store_plain(reinterpret_cast<u64 *>(dst + offset), w);
    else
        write_bytes(dst, offset, bytes, w);
}

/* Which of the groups first, first + step, .. (batch of them) have data of this lane's line or pair: bit i.
 * */
SHMEMX_DEVICE_FN unsigned present(const packet_place &place, u64 bytes, u64 first, unsigned step)
{
    // a line goes when any of its data is inside the message: a whole line, or none of it
    const unsigned begin = place.lines ? place.piece / 128 * line_data : place.at;
    unsigned mask = 0;
    SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < batch; ++i)
        mask |= static_cast<unsigned>((first + static_cast<u64>(i) * step) * place.data + begin < bytes) << i;
    return mask;
}

/* A whole warp sends the groups first, first + step, .. (batch of them) of a message of `bytes`. */
SHMEMX_DEVICE_FN void send_batch(const packet_place &place, unsigned char *slot, const unsigned char *src,
                                 u64 bytes, u64 first, unsigned step, u64 round)
{
    const unsigned mask = present(place, bytes, first, step);
    const bool two = place.words() == 2;
    arch::vec16 v[batch];
    SHMEMX_DEVICE_UNROLL // whole words first, so that all their loads are in flight
        for (unsigned i = 0; i < batch; ++i)
    {
        const u64 at = (first + static_cast<u64>(i) * step) * place.data + place.at;
        v[i] = arch::make_vec16(0, place.flag ? round : 0);
        if (whole_word(src, at, bytes))
            v[i].x = arch::load_plain(reinterpret_cast<const u64 *>(src + at));
        if (two && whole_word(src, at + 8, bytes))
            v[i].y = arch::load_plain(reinterpret_cast<const u64 *>(src + at + 8));
    }
    SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < batch; ++i) {
        const u64 at = (first + static_cast<u64>(i) * step) * place.data + place.at;
        if (at < bytes && !whole_word(src, at, bytes))
            v[i].x = read_bytes(src, at, bytes);
        if (two && at + 8 < bytes && !whole_word(src, at + 8, bytes))
            v[i].y = read_bytes(src, at + 8, bytes);
    }
    unsigned char *to = slot + first * wire_group + place.piece;
    SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < batch; ++i, to += static_cast<u64>(step) * wire_group) {
        if (place.lines) {
            arch::line_store((mask >> i & 1) != 0 ? to : nullptr, v[i].x, v[i].y, place.flag);
        } else if ((mask >> i & 1) != 0) {
            const u64 tag = round << 32;
            arch::pair_store(to, (v[i].x & 0xffffffffu) | tag, (v[i].x >> 32) | tag);
        }
    }
}

/* A whole warp waits for the groups at from + i * step bytes (this lane's pieces; bits of `mask`) and gets
 * its words. False: the patience ended. */
template <class Patience>
SHMEMX_DEVICE_FN bool recv_batch(const packet_place &place, arch::vec16 (&v)[batch],
                                 const unsigned char *from, u64 step, unsigned mask, u64 round,
                                 Patience &left)
{
    if (place.lines)
        return arch::lines_load(v, from, step, mask, place.flag, round, left);
    const u32 tag = static_cast<u32>(round);
    bool ok = true;
    for (unsigned late = mask; late != 0 && ok;) {
        SHMEMX_DEVICE_UNROLL
        for (unsigned i = 0; i < batch; ++i)
            if ((late >> i & 1) != 0)
                v[i] = arch::line_load(from + i * step);
        SHMEMX_DEVICE_UNROLL
        for (unsigned i = 0; i < batch; ++i)
            if ((late >> i & 1) != 0 && static_cast<u32>(v[i].x >> 32) == tag &&
                static_cast<u32>(v[i].y >> 32) == tag) {
                v[i] = arch::make_vec16((v[i].x & 0xffffffffu) | v[i].y << 32, 0);
                late &= ~(1u << i);
            }
        ok = late == 0 || !left.over();
    }
    return arch::all(warp, ok);
}

/* Warps that work on one message: this one's number and how many there are. */
struct crew {
    unsigned mine, warps;
};
template <class Scope> SHMEMX_DEVICE_FN crew whole_crew(const Scope &scope)
{
    return crew{warp_index(scope), warp_count(scope)};
}

/* Sends a message to a slot (a peer's address). Lanes of a partial warp do nothing. */
SHMEMX_DEVICE_FN void send_message(const crew &c, void *slot, const void *src, u64 bytes, u64 round)
{
    const packet_place place;
    const u64 groups = place.groups(bytes);
    // neighbouring warps take neighbouring groups until each has one: a short message uses many warps
    for (u64 first = c.mine; c.mine < c.warps && first < groups; first += static_cast<u64>(c.warps) * batch)
        send_batch(place, static_cast<unsigned char *>(slot), static_cast<const unsigned char *>(src), bytes,
                   first, c.warps, round);
}
/* Waits for a message in this PE's slot and writes it to dst. False, reported, after a timeout. */
SHMEMX_DEVICE_FN bool recv_message(const crew &c, unsigned call, int who, void *dst, const void *slot,
                                   u64 bytes, u64 round)
{
    const packet_place place;
    const u64 groups = place.groups(bytes);
    const auto *lines = static_cast<const unsigned char *>(slot);
    auto *to = static_cast<unsigned char *>(dst);
    patience left;
    bool ok = true;
    for (u64 first = c.mine; c.mine < c.warps && first < groups && ok;
         first += static_cast<u64>(c.warps) * batch) {
        arch::vec16 v[batch];
        ok = recv_batch(place, v, lines + first * wire_group + place.piece,
                        static_cast<u64>(c.warps) * wire_group, present(place, bytes, first, c.warps), round,
                        left);
        SHMEMX_DEVICE_UNROLL
        for (unsigned i = 0; i < batch; ++i) {
            const u64 at = (first + static_cast<u64>(i) * c.warps) * place.data + place.at;
            if (ok && at < bytes)
                write_word(to, at, bytes, v[i].x);
            if (ok && place.words() == 2 && at + 8 < bytes)
                write_word(to, at + 8, bytes, v[i].y);
        }
    }
    if (!ok && arch::thread_index() % arch::warp_width == 0)
        report(SHMEMX_DEVICE_TIMEOUT, call, who, slot, 0, round);
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
    bool ok = detail::recv_message(detail::whole_crew(scope), SHMEMX_DEVICE_CALL_RECV_PACKETS, -1, dst,
                                   packets, nelems * sizeof(T), round);
    return arch::all(scope, ok);
}

} // namespace shmem

#endif
