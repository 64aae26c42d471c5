/* Collectives in a kernel, by a warp or a block of each member, or (the library's own kernels) by all blocks
 * of a launch.
 *
 * Each is one epoch of the team. Small ones are packets: every message is written into the receiver's slot
 * for this sender, and carries the epoch as its round. There are two slots a sender, used in turn: a slot of
 * epoch e is written again in e + 2, by a member that has finished e + 1; in every collective each member
 * hears from all others, who finished e before they spoke in e + 1. So the old contents have been read, and
 * nothing needs to be cleared. No barrier is needed either, inside a member or between them, even where dst
 * is src: a warp that writes a place of dst has read that place of src, or has data that another member could
 * not have made without it. Large ones write into the members' `dst` directly and end with a barrier.
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
    return bytes <= block_packets && bytes <= capacity(t.slot_bytes);
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

/* ---- reductions ---------------------------------------------------------------------------------------- */

/* Classes of 2 bytes are the 16-bit floats (half, bfloat16): added in float, rounded once at the end. */
template <class T, bool Half = __is_class(T)> struct accumulator {
    using type = T;
};
template <class T> struct accumulator<T, true> {
    static_assert(sizeof(T) == 2, "reductions take numbers and 16-bit floats");
    using type = float;
};
template <class T> using accumulated = typename accumulator<T>::type;

/* Integers wrap around, signed ones too. */
template <class A> SHMEMX_DEVICE_FN A join(sum_op, A a, A b)
{
    if constexpr (is_integer<A>())
        return static_cast<A>(static_cast<u64>(a) + static_cast<u64>(b));
    else
        return a + b;
}
template <class A> SHMEMX_DEVICE_FN A join(prod_op, A a, A b)
{
    if constexpr (is_integer<A>())
        return static_cast<A>(static_cast<u64>(a) * static_cast<u64>(b));
    else
        return a * b;
}
/* A NaN on either side is the result: a != a keeps it. */
template <class A> SHMEMX_DEVICE_FN A join(min_op, A a, A b)
{
    return b < a || b != b ? (a != a ? a : b) : a;
}
template <class A> SHMEMX_DEVICE_FN A join(max_op, A a, A b)
{
    return a < b || b != b ? (a != a ? a : b) : a;
}
template <class A> SHMEMX_DEVICE_FN A join(bit_and_op, A a, A b)
{
    return static_cast<A>(a & b);
}
template <class A> SHMEMX_DEVICE_FN A join(bit_or_op, A a, A b)
{
    return static_cast<A>(a | b);
}
template <class A> SHMEMX_DEVICE_FN A join(bit_xor_op, A a, A b)
{
    return static_cast<A>(a ^ b);
}

/* a[i] = a[i] op b[i]. */
template <class Op, class A, unsigned N> SHMEMX_DEVICE_FN void join_all(Op op, A (&a)[N], const A (&b)[N])
{
    SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < N; ++i)
        a[i] = join(op, a[i], b[i]);
}

/* Word (8 or 16 bytes) of T's being reduced: first, then join in the order of the members. */
template <class T, class Word> struct running {
    static constexpr unsigned n = sizeof(Word) / sizeof(T);
    accumulated<T> value[n] = {};

    SHMEMX_DEVICE_FN void first(const Word &w)
    {
        const Word word = w; // one load: memcpy from where w lies takes it byte by byte
        T part[n];
        memcpy(static_cast<void *>(part), &word, sizeof word);
        SHMEMX_DEVICE_UNROLL
        for (unsigned i = 0; i < n; ++i)
            value[i] = static_cast<accumulated<T>>(part[i]);
    }
    template <class Op> SHMEMX_DEVICE_FN void next(Op op, const Word &w)
    {
        running other;
        other.first(w);
        join_all(op, value, other.value);
    }
    SHMEMX_DEVICE_FN Word result() const
    {
        T part[n];
        SHMEMX_DEVICE_UNROLL
        for (unsigned i = 0; i < n; ++i)
            part[i] = static_cast<T>(value[i]);
        Word w;
        memcpy(&w, part, sizeof w);
        return w;
    }
};

/* This lane's piece of a group, `at` bytes into this member's slot, to all other members. */
template <bool Lines>
SHMEMX_DEVICE_FN void send_to_others(const place<Lines> &me, const members &t, u64 e, u64 at, bool here,
                                     const arch::vec16 &v)
{
    for (int k = 1; k < t.n; ++k) {
        const int j = t.me + k < t.n ? t.me + k : t.me + k - t.n;
        send_piece(me, slot(t, j, t.me, e) + at, here, v, e);
    }
}

/* This lane's words of one group: joined from all members' pieces, in their order. `from` is its piece in the slot
 * of member 0, `v` this member's own part and then the result. Four members' lines are in flight at once; the code
 * that joins one is there once, since for the smaller types it is long. False: the patience ended. */
template <bool Lines, class T, class Op>
SHMEMX_DEVICE_FN bool join_pieces(const place<Lines> &me, const members &t, Op op, const unsigned char *from,
                                  bool here, u64 round, patience &left, arch::vec16 &v)
{
    constexpr int flight = 4;
    running<T, u64> low, high;
    for (int j = 0; j < t.n; j += flight) {
        arch::vec16 in[flight] = {};
        const unsigned char *piece[flight];
        bool wanted[flight];
        SHMEMX_DEVICE_UNROLL
        for (int i = 0; i < flight; ++i) {
            wanted[i] = here && j + i < t.n && j + i != t.me;
            piece[i] = from + static_cast<u64>(static_cast<unsigned>(j + i)) * t.slot_bytes;
        }
        if (!await_pieces(me, in, piece, wanted, round, left))
            return false;
        SHMEMX_DEVICE_ROLLED
        for (int k = j; k < j + flight && k < t.n; ++k) {
            const arch::vec16 next = k == t.me ? v : in[0];
            if (k == 0)
                low.first(next.x), high.first(next.y);
            else
                low.next(op, next.x), high.next(op, next.y);
            SHMEMX_DEVICE_UNROLL
            for (int i = 0; i + 1 < flight; ++i)
                in[i] = in[i + 1];
        }
    }
    v = arch::make_vec16(low.result(), high.result());
    return true;
}

/* Groups of one part of the vector, by all warps of the scope: each takes its groups from everybody's slots
 * and joins them. share = true: and sends the result to all others, `back` bytes into their slots for this
 * member. */
template <bool Lines, class T, class Op, class Scope>
SHMEMX_DEVICE_FN bool join_groups(const Scope &scope, const members &t, u64 e, Op op, unsigned char *dst,
                                  const unsigned char *src, u64 bytes, bool share, u64 back)
{
    const place<Lines> me;
    const crew c = whole_crew(scope);
    const unsigned groups = c.mine < c.warps ? group_count<Lines>(bytes) : 0;
    const unsigned char *slots = own_slot(t, 0, e);
    patience left;
    bool ok = true;
    for (unsigned g = c.mine; g < groups; g += c.warps) {
        const unsigned begin = g * place<Lines>::data;
        const u64 piece = g * static_cast<u64>(wire_group) + me.piece;
        const bool here = begin + me.first < bytes;
        arch::vec16 v = read_part(me, src, begin, static_cast<unsigned>(bytes));
        ok = join_pieces<Lines, T>(me, t, op, slots + piece, here, e, left, v);
        if (!ok)
            break;
        if (share)
            send_to_others(me, t, e, back + piece, here, v);
        write_part(me, dst, begin, static_cast<unsigned>(bytes), v);
    }
    if (!ok && arch::thread_index() % arch::warp_width == 0)
        report(SHMEMX_DEVICE_TIMEOUT, SHMEMX_DEVICE_CALL_REDUCE, -1, slots, 0, e);
    return ok;
}

/* Everybody gets everybody's vector and adds them up itself, in the same order: one trip. The warp that writes
 * a group of dst is the one that has sent that group of src. */
template <bool Lines, class Scope>
SHMEMX_DEVICE_FN void send_to_all(const Scope &scope, const members &t, u64 e, const unsigned char *src,
                                  u64 bytes)
{
    const place<Lines> me;
    const crew c = whole_crew(scope);
    const unsigned groups = c.mine < c.warps ? group_count<Lines>(bytes) : 0;
    for (unsigned g = c.mine; g < groups; g += c.warps) {
        const unsigned begin = g * place<Lines>::data;
        send_to_others(me, t, e, g * static_cast<u64>(wire_group) + me.piece, begin + me.first < bytes,
                       read_part(me, src, begin, static_cast<unsigned>(bytes)));
    }
}

/* Where member j's share of a vector begins, and how long it is: whole words of 16 bytes, the last has the
 * rest. */
struct share_of {
    u64 begin, bytes;
};
SHMEMX_DEVICE_FN share_of nth_share(u64 bytes, int j, int n)
{
    const unsigned words = static_cast<unsigned>(bytes) / 16, k = static_cast<unsigned>(j);
    const unsigned each = words / static_cast<unsigned>(n), more = words - each * static_cast<unsigned>(n);
    const u64 begin = static_cast<u64>(each * k + (k < more ? k : more)) * 16;
    return share_of{begin, j == n - 1 ? bytes - begin : static_cast<u64>(each + (k < more ? 1 : 0)) * 16};
}

/* Member j gets everybody's j-th share, adds them up and gives the result to all: two trips, and 2 (n - 1) / n
 * of the vector sent instead of n - 1. The shares come in the first half of the slots, the results in the
 * second. */
template <class Scope>
SHMEMX_DEVICE_CALL void send_shares(Scope scope, members t, u64 e, const unsigned char *src, u64 bytes)
{
    for_others(scope, t, [&](int j, const crew &c) {
        const share_of s = nth_share(bytes, j, t.n);
        send_message(c, slot(t, j, t.me, e), src + s.begin, s.bytes, e);
    });
}
template <class Scope>
SHMEMX_DEVICE_CALL bool recv_shares(Scope scope, members t, u64 e, unsigned char *dst, u64 bytes, u64 back)
{
    bool ok = true;
    for_others(scope, t, [&](int j, const crew &c) {
        const share_of from = nth_share(bytes, j, t.n);
        ok = recv_message(
                 c, SHMEMX_DEVICE_CALL_REDUCE, [&] { return world_pe(t, j); }, dst + from.begin,
                 own_slot(t, j, e) + back, from.bytes, e) &&
             ok;
    });
    return ok;
}
template <bool Lines, class T, class Op, class Scope>
SHMEMX_DEVICE_FN bool reduce_shots(const Scope &scope, const members &t, u64 e, Op op, unsigned char *dst,
                                   const unsigned char *src, u64 bytes, bool two)
{
    const u64 back = t.slot_bytes / 2 / wire_group * wire_group;
    if (two)
        send_shares(scope, t, e, src, bytes);
    else
        send_to_all<Lines>(scope, t, e, src, bytes);
    const share_of s = two ? nth_share(bytes, t.me, t.n) : share_of{0, bytes};
    const bool ok = join_groups<Lines, T>(scope, t, e, op, dst + s.begin, src + s.begin, s.bytes, two, back);
    return (!two || recv_shares(scope, t, e, dst, bytes, back)) && ok;
}

/* Words number first, first + 1, .. of everybody's src, reduced here and written to everybody's dst. The next
 * member's words are asked for before this one's are joined. */
template <class T, class Op, class Word, class Scope>
SHMEMX_DEVICE_FN void reduce_words(const Scope &scope, const members &t, Op op, Word *dst, const Word *src,
                                   u64 n)
{
    constexpr unsigned depth =
        sizeof(Word) == 16 ? 4 : 1; // words of one member in flight: 4 x 16 bytes a lane
    const u64 width = arch::width(scope);
    for (u64 i = arch::lane(scope); i < n; i += depth * width) {
        running<T, Word> total[depth];
        Word now[depth], next[depth] = {};
        auto ask = [&](Word(&w)[depth], int j) {
            const Word *from = peer(t, j, src) + i;
            SHMEMX_DEVICE_UNROLL
            for (unsigned k = 0; k < depth; ++k)
                w[k] = arch::load_remote(from + (i + k * width < n ? k * width : 0));
        };
        ask(now, 0);
        SHMEMX_DEVICE_ROLLED
        for (int j = 0; j < t.n; ++j) {
            if (j + 1 < t.n)
                ask(next, j + 1);
            SHMEMX_DEVICE_UNROLL
            for (unsigned k = 0; k < depth; ++k) {
                if (j == 0)
                    total[k].first(now[k]);
                else
                    total[k].next(op, now[k]);
                now[k] = next[k];
            }
        }
        SHMEMX_DEVICE_UNROLL
        for (unsigned k = 0; k < depth; ++k)
            now[k] = total[k].result();
        for (int k = 0; k < t.n; ++k) {
            Word *to = peer(t, t.me + k < t.n ? t.me + k : t.me + k - t.n, dst) + i;
            SHMEMX_DEVICE_UNROLL
            for (unsigned d = 0; d < depth; ++d)
                if (i + d * width < n)
                    arch::store_plain(to + d * width, now[d]);
        }
    }
}

/* Member k reduces the k-th share of the vector and gives it to all: each word is read and written once a
 * member. */
template <class T, class Op, class Scope>
SHMEMX_DEVICE_FN void reduce_share(const Scope &scope, const members &t, Op op, T *dst, const T *src,
                                   u64 nelems)
{
    constexpr u64 each = 16 / sizeof(T);
    const u64 vectors = nelems / each;
    const bool aligned = (reinterpret_cast<u64>(dst) | reinterpret_cast<u64>(src)) % 16 == 0;
    const u64 whole = aligned ? vectors : 0; // 16-byte words; the rest goes element by element
    const u64 me = static_cast<u64>(t.me), n = static_cast<u64>(t.n);
    const u64 begin = whole * me / n, end = whole * (me + 1) / n;
    reduce_words<T>(scope, t, op, reinterpret_cast<arch::vec16 *>(dst) + begin,
                    reinterpret_cast<const arch::vec16 *>(src) + begin, end - begin);
    const u64 rest = nelems - whole * each, from = whole * each + rest * me / n,
              to = whole * each + rest * (me + 1) / n;
    reduce_words<T>(scope, t, op, words(dst + from), words(src + from), to - from);
}

} // namespace detail

/* The collectives as packets, by any scope. Everything fits into the slots. ------------------------------- */

namespace detail
{

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

template <bool Lines, class T, class Op, class Scope>
SHMEMX_DEVICE_FN bool reduce_packets(const Scope &scope, const members &t, Op op, void *dst, const void *src,
                                     u64 bytes)
{
    const u64 e = next_epoch(t);
    const bool ok = reduce_shots<Lines, T>(scope, t, e, op, static_cast<unsigned char *>(dst),
                                           static_cast<const unsigned char *>(src), bytes,
                                           SHMEMX_DEVICE_TWO_SHOTS(bytes, static_cast<u64>(t.n)));
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
        copy<from_here>(scope, peer(t, j, dst + mine * part), src + static_cast<u64>(j) * step, part);
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
        detail::copy<detail::from_here>(scope, detail::peer(t, (t.me + k) % t.n, dst), src, bytes);
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

template <class Scope, class Op, class T>
SHMEMX_DEVICE_CALL bool reduce(const Scope &scope, team handle, Op op, T *dst, const T *src, size nelems)
{
    static_assert(sizeof(T) <= 8, "reductions take types of 1, 2, 4 and 8 bytes");
    const detail::members t = detail::enter(scope, handle, SHMEMX_DEVICE_CALL_REDUCE);
    if (t.n == 0)
        return false;
    const u64 bytes = nelems * sizeof(T);
    if (detail::fits_packets(t, bytes) && bytes != 0)
        return detail::lines_here() ? detail::reduce_packets<true, T>(scope, t, op, dst, src, bytes)
                                    : detail::reduce_packets<false, T>(scope, t, op, dst, src, bytes);
    // the sources are ready once all are here; then each reads its share of all of them
    bool ok = detail::meet(scope, t, SHMEMX_DEVICE_CALL_REDUCE, detail::order::publish);
    if (ok)
        detail::reduce_share(scope, t, op, dst, src, nelems);
    return detail::meet(scope, t, SHMEMX_DEVICE_CALL_REDUCE, detail::order::publish) && ok;
}

} // namespace shmem

#endif
