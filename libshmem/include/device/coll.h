/* Collectives in a kernel, by a warp or a block of each member, or (the library's own kernels) by all blocks
 * of a launch.
 *
 * Each is one epoch of the team. Small ones are packets: every message is written into the receiver's slot
 * for this sender, and carries the epoch as its round. There are two slots a sender, used in turn: a slot of
 * epoch e is written again in e + 2, by a member that has finished e + 1; in every collective each member
 * hears from all others, who finished e before they spoke in e + 1. So the old contents have been read, and
 * nothing needs to be cleared. No barrier is needed either, inside a member or between them, even where dst
 * is src: a warp that writes a place of dst has read that place of src, or has data that another member could
 * not have made without it. Large ones write into the members' `dst` directly and end with a barrier; so do
 * all of a team with members whose copies are not mapped (coll_far.h).
 * Included by shmem_device.h only. */
#ifndef SHMEM_DEVICE_COLL_H
#define SHMEM_DEVICE_COLL_H

namespace shmem
{

namespace detail
{

/* Most bytes of a message that one block sends as packets: beyond, its bulk copies are faster (one SM moves
 * 25 GB/s in packets, unpacking included, 45 in copies). */
constexpr u64 block_packets = 30720;

SHMEMX_DEVICE_FN bool fits_packets(const members &t, u64 bytes)
{
    return bytes <= block_packets && bytes <= capacity(t.slot_bytes) && !some_far(t);
}

/* Where `receiver` finds what `sender` says in epoch e. */
SHMEMX_DEVICE_FN unsigned char *slot(const members &t, int receiver, int sender, u64 e)
{
    const u64 number = (e & 1) * static_cast<u64>(t.n) + static_cast<u64>(sender);
    return area<unsigned char>(t, receiver, t.packets + number * t.slot_bytes);
}
SHMEMX_DEVICE_FN unsigned char *own_slot(const members &t, int sender, u64 e)
{
    const u64 number = (e & 1) * static_cast<u64>(t.n) + static_cast<u64>(sender);
    return own_area<unsigned char>(t.packets + number * t.slot_bytes);
}

/* The scope's warps, shared out over the n - 1 other members: work(member, crew) once for each member and
 * warp. */
template <class Scope, class Work>
SHMEMX_DEVICE_FN void for_others(const Scope &scope, const members &t, Work work)
{
    const unsigned others = static_cast<unsigned>(t.n - 1), w = warp_index(scope), warps = warp_count(scope);
    if (w >= warps || others == 0)
        return;
    const unsigned each = arch::quotient(warps, others); // 0: fewer warps than members
    const unsigned mine = arch::quotient(w, others);
    unsigned o = w - mine * others;
    for (unsigned k = w; k < others || k == w; k += warps) {
        // member me + 1 first: all members start at different receivers
        int j = t.me + 1 + static_cast<int>(o);
        j = j < t.n ? j : j - t.n;
        work(j, each != 0 ? crew{mine, each + (o < warps - each * others ? 1u : 0u)} : crew{0, 1});
        o += warps;
    }
}

/* Finds the team of a collective that needs whole warps; n = 0: none, reported. */
template <class Scope> SHMEMX_DEVICE_FN members enter(const Scope &scope, team t, unsigned call)
{
    members found = find(scope, t, call);
    if (!has_warp(scope, call))
        found.n = 0;
    return found;
}
/* Past the SM's cache: another block may have written it. */
SHMEMX_DEVICE_FN u64 next_epoch(const members &t)
{
    return arch::load_relaxed(&t.home->epoch) + 1;
}
/* The scope has done epoch e. */
template <class Scope> SHMEMX_DEVICE_FN bool leave(const Scope &scope, const members &t, u64 e, bool ok)
{
    arch::sync(scope); // every lane has read the epoch
    if (arch::lane(scope) == 0)
        arch::store_relaxed(&t.home->epoch, e);
    return arch::all(scope, ok);
}
/* By the block that is last: all others have read the epoch, or they would not be done. */
SHMEMX_DEVICE_FN bool leave(grid_scope, const members &t, u64 e, bool ok)
{
    arch::sync(block);
    if (arch::lane(block) == 0 && arch::fetch_add(&t.home->finished, 1u) == arch::blocks() - 1) {
        t.home->finished = 0;
        arch::store_relaxed(&t.home->epoch, e);
    }
    return ok;
}

/* Local copy of a member's own part. */
template <class Scope> SHMEMX_DEVICE_FN void keep(const Scope &scope, void *dst, const void *src, u64 bytes)
{
    if (dst != src)
        copy<from_here>(scope, dst, src, bytes);
}

/* ---- as packets, by any scope; everything fits into the slots ------------------------------------------ */

template <class Scope>
SHMEMX_DEVICE_FN bool broadcast_packets(const Scope &scope, const members &t, unsigned char *dst,
                                        const unsigned char *src, u64 bytes, int root)
{
    const u64 e = next_epoch(t);
    // everybody says that it is here, as in sync: the slots' turns need to hear from all, the data comes from
    // the root
    const bool first = warp_index(scope) == 0 && t.n > 1;
    if (first)
        arrive(warp, t, order::none);
    bool ok = true;
    if (root == t.me) {
        keep(scope, dst, src, bytes);
        for_others(scope, t,
                   [&](int j, const crew &c) { send_message(c, slot(t, j, root, e), src, bytes, e); });
    } else {
        ok = recv_message(
            whole_crew(scope), SHMEMX_DEVICE_CALL_BROADCAST, [&] { return world_pe(t, root); }, dst,
            own_slot(t, root, e), bytes, e);
    }
    if (first)
        ok = gather(warp, t, SHMEMX_DEVICE_CALL_BROADCAST) && ok;
    return leave(scope, t, e, ok);
}

/* Member j gets `part` bytes from src + j * step, at dst + me * part. */
template <class Scope>
SHMEMX_DEVICE_FN bool exchange_packets(const Scope &scope, const members &t, unsigned call,
                                       unsigned char *dst, const unsigned char *src, u64 part, u64 step)
{
    const u64 e = next_epoch(t);
    const auto mine = static_cast<u64>(t.me);
    bool ok = true;
    for_others(scope, t, [&](int j, const crew &c) {
        send_message(c, slot(t, j, t.me, e), src + static_cast<u64>(j) * step, part, e);
    });
    keep(scope, dst + mine * part, src + mine * step, part);
    for_others(scope, t, [&](int j, const crew &c) {
        ok = recv_message(
                 c, call, [&] { return world_pe(t, j); }, dst + static_cast<u64>(j) * part, own_slot(t, j, e),
                 part, e) &&
             ok;
    });
    return leave(scope, t, e, ok);
}

/* alltoall and fcollect. */
template <class Scope>
SHMEMX_DEVICE_CALL bool exchange(const Scope &scope, team handle, unsigned call, unsigned char *dst,
                                 const unsigned char *src, u64 part, u64 step)
{
    const members t = enter(scope, handle, call);
    if (t.n == 0)
        return false;
    if (fits_packets(t, part) && part != 0)
        return exchange_packets(scope, t, call, dst, src, part, step);
    const auto mine = static_cast<u64>(t.me);
    keep(scope, dst + mine * part, src + mine * step, part);
    for (int k = 1; k < t.n; ++k) { // member me + 1 first: no receiver is everybody's target at once
        const int j = (t.me + k) % t.n;
        put_member(scope, t, j, dst + mine * part, src + static_cast<u64>(j) * step, part);
    }
    return meet(scope, t, call, order::publish);
}

} // namespace detail

template <class Scope, class T>
SHMEMX_DEVICE_CALL bool broadcast(const Scope &scope, team handle, T *dst, const T *src, size nelems,
                                  int root)
{
    const detail::members t = detail::enter(scope, handle, SHMEMX_DEVICE_CALL_BROADCAST);
    if (t.n == 0)
        return false;
    if (root < 0 || root >= t.n)
        return detail::refuse(scope, SHMEMX_DEVICE_PE, SHMEMX_DEVICE_CALL_BROADCAST, root, nullptr,
                              static_cast<u64>(t.n));
    const u64 bytes = nelems * sizeof(T);
    if (detail::fits_packets(t, bytes))
        return detail::broadcast_packets(scope, t, reinterpret_cast<unsigned char *>(dst),
                                         reinterpret_cast<const unsigned char *>(src), bytes, root);
    const bool mine = root == t.me;
    if (mine)
        detail::keep(scope, dst, src, bytes);
    for (int k = 1; mine && k < t.n; ++k)
        detail::put_member(scope, t, (t.me + k) % t.n, dst, src, bytes);
    return detail::meet(scope, t, SHMEMX_DEVICE_CALL_BROADCAST, detail::order::publish);
}

template <class Scope, class T>
SHMEMX_DEVICE_FN bool fcollect(const Scope &scope, team t, T *dst, const T *src, size nelems)
{
    return detail::exchange(scope, t, SHMEMX_DEVICE_CALL_FCOLLECT, reinterpret_cast<unsigned char *>(dst),
                            reinterpret_cast<const unsigned char *>(src), nelems * sizeof(T), 0);
}

template <class Scope, class T>
SHMEMX_DEVICE_FN bool alltoall(const Scope &scope, team t, T *dst, const T *src, size nelems)
{
    const u64 part = nelems * sizeof(T);
    return detail::exchange(scope, t, SHMEMX_DEVICE_CALL_ALLTOALL, reinterpret_cast<unsigned char *>(dst),
                            reinterpret_cast<const unsigned char *>(src), part, part);
}

} // namespace shmem

#endif
