/* Packets: messages whose every line says itself that it has arrived.
 *
 * Two forms, chosen by the job's SHMEMX_DEVICE_LINES128:
 *   line  128 bytes: 120 of data, then the round (8 bytes). Eight lanes store it in one instruction, 16 bytes each;
 *         where 128-byte stores arrive whole, whoever sees the round sees the data (NCCL calls this LL128).
 *   pair  16 bytes: 4 of data, 4 of the round, twice. Each 8-byte half is valid by itself, so no more is asked of the
 *         machine than whole 8-byte stores (NCCL's LL).
 * A warp moves a group at once: warp_width / 8 lines or warp_width pairs, and `batch` groups fly together. Lane l of
 * a warp always has the same place in a group, so a place of a message belongs to one lane, on both sides.
 */
#ifndef SHMEM_DEVICE_PACKETS_H
#define SHMEM_DEVICE_PACKETS_H

namespace shmem {

namespace detail {

constexpr unsigned line_data = 120;
/* Groups in flight a warp: 4 x 512 bytes; with 32 warps 64 KiB, more than the largest message worth packets. */
constexpr unsigned batch = 4;

/* The form and this lane's place in it. */
struct packet_place {
    bool lines;
    bool flag;      // this lane holds the line's round
    unsigned data;  // bytes of data a group carries
    unsigned at;    // where in a group's data this lane's words begin
    unsigned wire;  // bytes a group takes in the slot
    unsigned piece; // where in them this lane's 16 bytes are

    SHMEMX_DEVICE_FN packet_place()
        : lines((arch::state().flags & SHMEMX_DEVICE_LINES128) != 0)
    {
        const unsigned l = arch::thread_index() % arch::warp_width;
        flag = lines && l % 8 == 7;
        data = lines ? arch::warp_width / 8 * line_data : arch::warp_width * 8;
        at = lines ? l / 8 * line_data + l % 8 * 16 : l * 8;
        wire = arch::warp_width * 16;
        piece = l * 16;
    }
    /* Words of 8 bytes that this lane carries in a group. */
    SHMEMX_DEVICE_FN unsigned words() const
    {
        return lines && !flag ? 2 : 1;
    }
    SHMEMX_DEVICE_FN u64 groups(u64 bytes) const
    {
        return (bytes + data - 1) / data;
    }
    SHMEMX_DEVICE_FN u64 capacity(u64 slot_bytes) const
    {
        return slot_bytes / wire * data;
    }
};

/* Which warp of the scope this is, and how many whole ones there are; lanes of a last, partial warp get index = count. */
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

/* The word of a message at byte `offset`, which lies below `bytes`; what is beyond the end reads as 0. */
SHMEMX_DEVICE_FN u64 read_word(const unsigned char *src, u64 offset, u64 bytes)
{
    if (reinterpret_cast<u64>(src) % 8 == 0 && bytes - offset >= 8)
        return arch::load_plain(reinterpret_cast<const u64 *>(src + offset));
    u64 w = 0;
    unsigned n = bytes - offset < 8 ? static_cast<unsigned>(bytes - offset) : 8;
    for (unsigned i = 0; i < n; ++i)
        w |= static_cast<u64>(arch::load_plain(src + offset + i)) << 8 * i;
    return w;
}
SHMEMX_DEVICE_FN void write_word(unsigned char *dst, u64 offset, u64 bytes, u64 w)
{
    if (reinterpret_cast<u64>(dst) % 8 == 0 && bytes - offset >= 8) {
        arch::store_plain(reinterpret_cast<u64 *>(dst + offset), w);
        return;
    }
    unsigned n = bytes - offset < 8 ? static_cast<unsigned>(bytes - offset) : 8;
    for (unsigned i = 0; i < n; ++i)
        arch::store_plain(dst + offset + i, static_cast<unsigned char>(w >> 8 * i));
}

/* A whole warp sends the groups first .. first + count - 1, count <= batch, of a message of `bytes` to `slot`. */
SHMEMX_DEVICE_FN void send_batch(const packet_place &place, unsigned char *slot, const unsigned char *src, u64 bytes, u64 first,
                                 unsigned count, u64 round)
{
    arch::vec16 v[batch];
#pragma GCC unroll 4
    for (unsigned i = 0; i < batch; ++i) {
        const u64 at = (first + i) * place.data + place.at;
        u64 a = 0, b = place.flag ? round : 0;
        if (i < count && at < bytes)
            a = read_word(src, at, bytes);
        if (i < count && place.words() == 2 && at + 8 < bytes)
            b = read_word(src, at + 8, bytes);
        v[i] = arch::make_vec16(a, b);
    }
#pragma GCC unroll 4
    for (unsigned i = 0; i < batch; ++i) {
        if (i >= count)
            continue;
        const u64 group = first + i;
        unsigned char *to = slot + group * place.wire + place.piece;
        if (place.lines) {
            // a line goes when any of its data is inside the message: a whole line, or none of it
            const bool here = group * place.data + place.piece / 128 * line_data < bytes;
            arch::line_store(here ? to : nullptr, v[i].x, v[i].y, place.flag);
        } else if (group * place.data + place.at < bytes) {
            const u64 tag = round << 32; // each half vouches for itself; observers: recv_batch, half by half
            arch::store_relaxed(reinterpret_cast<u64 *>(to), (v[i].x & 0xffffffffu) | tag);
            arch::store_relaxed(reinterpret_cast<u64 *>(to) + 1, (v[i].x >> 32) | tag);
        }
    }
}

/* A whole warp waits for groups of a message and gets this lane's words of each. False: the patience ended. */
template <class Patience>
SHMEMX_DEVICE_FN bool recv_batch(const packet_place &place, arch::vec16 (&v)[batch], const unsigned char *slot, u64 bytes,
                                 u64 first, unsigned count, u64 round, Patience &left)
{
    const unsigned char *from = slot + first * place.wire + place.piece;
    if (place.lines) {
        unsigned valid = 0;
#pragma GCC unroll 4
        for (unsigned i = 0; i < batch; ++i)
            if (i < count && (first + i) * place.data + place.piece / 128 * line_data < bytes)
                valid |= 1u << i;
        return arch::lines_load(v, from, place.wire, count, valid, place.flag, round, left);
    }
    const u32 tag = static_cast<u32>(round);
    bool ok = true;
#pragma GCC unroll 4
    for (unsigned i = 0; i < batch; ++i) {
        if (i >= count || (first + i) * place.data + place.at >= bytes)
            continue;
        for (;;) {
            arch::vec16 pair = arch::line_load(from + i * place.wire);
            if (static_cast<u32>(pair.x >> 32) == tag && static_cast<u32>(pair.y >> 32) == tag) {
                v[i] = arch::make_vec16((pair.x & 0xffffffffu) | pair.y << 32, 0);
                break;
            }
            ok = ok && !left.over();
            if (!ok)
                break;
        }
    }
    return arch::all(warp, ok);
}

/* Waits for a message and hands each word that it holds to sink(offset, word). Per warp; false after a timeout. */
template <class Scope, class Sink>
SHMEMX_DEVICE_FN bool recv_words(const Scope &scope, unsigned call, int who, const unsigned char *slot, u64 bytes, u64 round, Sink sink)
{
    const packet_place place;
    const u64 groups = place.groups(bytes);
    const unsigned warps = warp_count(scope), mine = warp_index(scope);
    patience left;
    bool ok = true;
    // neighbouring warps take neighbouring groups until each has one, so that short messages use many warps
    for (u64 first = mine; mine < warps && first < groups; first += static_cast<u64>(warps) * batch)
        for (u64 group = first; group < groups && group < first + static_cast<u64>(warps) * batch; group += warps) {
            arch::vec16 v[batch];
            ok = recv_batch(place, v, slot, bytes, group, 1, round, left);
            if (!ok)
                break;
            const u64 at = group * place.data + place.at;
            if (at < bytes)
                sink(at, v[0].x);
            if (place.words() == 2 && at + 8 < bytes)
                sink(at + 8, v[0].y);
        }
    if (!ok && arch::lane(scope) % arch::warp_width == 0)
        report(SHMEMX_DEVICE_TIMEOUT, call, who, slot, 0, round);
    return ok;
}

} // namespace detail
} // namespace shmem
#endif
