/* Reductions: small ones as packets, large ones by shares; and where members' copies are not mapped.
 * Included by shmem_device.h only. */
#ifndef SHMEM_DEVICE_REDUCE_H
#define SHMEM_DEVICE_REDUCE_H

namespace shmem
{

namespace detail
{

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

/* Whose operands are joined: those of members 0 to n - 1, all of them in a reduction, and the call's name in a report. */
struct operands {
    int n;
    unsigned call;
};
SHMEMX_DEVICE_FN operands everybody(const members &t)
{
    return operands{t.n, SHMEMX_DEVICE_CALL_REDUCE};
}

/* This lane's words of one group: joined from the members' pieces, in their order; those that are not wanted are waited
 * for too, or their slots could not take turns. `from` is its piece in the slot
 * of member 0, `v` this member's own part and then the result. Four members' lines are in flight at once; the code
 * that joins one is there once, since for the smaller types it is long. False: the patience ended. */
template <bool Lines, class T, class Op>
SHMEMX_DEVICE_FN bool join_pieces(const place<Lines> &me, const members &t, const operands &of, Op op,
                                  const unsigned char *from, bool here, u64 round, patience &left,
                                  arch::vec16 &v)
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
        for (int k = j; k < j + flight && k < of.n; ++k) {
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
SHMEMX_DEVICE_FN bool join_groups(const Scope &scope, const members &t, const operands &of, u64 e, Op op,
                                  unsigned char *dst, const unsigned char *src, u64 bytes, bool share,
                                  u64 back)
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
        ok = join_pieces<Lines, T>(me, t, of, op, slots + piece, here, e, left, v);
        if (!ok)
            break;
        if (share)
            send_to_others(me, t, e, back + piece, here, v);
        write_part(me, dst, begin, static_cast<unsigned>(bytes), v);
    }
    if (!ok && arch::thread_index() % arch::warp_width == 0)
        report(SHMEMX_DEVICE_TIMEOUT, of.call, -1, slots, 0, e);
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
    const bool ok = join_groups<Lines, T>(scope, t, everybody(t), e, op, dst + s.begin, src + s.begin,
                                          s.bytes, two, back);
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

/* This member's share of the vector, of equal ones: work(dst, src, n) for its 16-byte words, and for single elements. (An object
 * and no lambda with `auto`: NVRTC takes that for a function of the host unless told otherwise, and Numba does not tell it.) */
template <class T, class Work>
SHMEMX_DEVICE_FN void own_share(const members &t, T *dst, const T *src, u64 nelems, Work work)
{
    constexpr u64 each = 16 / sizeof(T);
    const u64 vectors = nelems / each;
    const bool aligned = (reinterpret_cast<u64>(dst) | reinterpret_cast<u64>(src)) % 16 == 0;
    const u64 whole = aligned ? vectors : 0; // 16-byte words; the rest goes element by element
    const u64 me = static_cast<u64>(t.me), n = static_cast<u64>(t.n);
    const u64 begin = whole * me / n, end = whole * (me + 1) / n;
    work(reinterpret_cast<arch::vec16 *>(dst) + begin, reinterpret_cast<const arch::vec16 *>(src) + begin,
         end - begin);
    const u64 rest = nelems - whole * each, from = whole * each + rest * me / n,
              to = whole * each + rest * (me + 1) / n;
    work(words(dst + from), words(src + from), to - from);
}
template <class T, class Op, class Scope> struct reducer {
    const Scope &scope;
    const members &t;
    Op op;
    template <class Word> SHMEMX_DEVICE_FN void operator()(Word *dst, const Word *src, u64 n) const
    {
        reduce_words<T>(scope, t, op, dst, src, n);
    }
};
/* Member k reduces the k-th share of the vector and gives it to all: each word is read and written once a
 * member. */
template <class T, class Op, class Scope>
SHMEMX_DEVICE_FN void reduce_share(const Scope &scope, const members &t, Op op, T *dst, const T *src,
                                   u64 nelems)
{
    own_share(t, dst, src, nelems, reducer<T, Op, Scope>{scope, t, op});
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

/* ---- with members whose copies are not mapped ---------------------------------------------------------- */

/* The elements of n members, which element(j) gives, joined in the order of the members; of none: 0. */
template <class T, class Op, class Element> SHMEMX_DEVICE_FN T join_members(Op op, int n, Element element)
{
    if (n == 0)
        return static_cast<T>(accumulated<T>(0));
    auto total = static_cast<accumulated<T>>(element(0));
    SHMEMX_DEVICE_ROLLED
    for (int j = 1; j < n; ++j)
        total = join(op, total, static_cast<accumulated<T>>(element(j)));
    return static_cast<T>(total);
}
/* Teams with slots: what fits into one at a time, everybody's to everybody. The slots are plain memory here: such a team has
 * no packets. A slot is written again two rounds later, when all have met once more, and so have read it. */
template <class Scope, class Op, class T>
SHMEMX_DEVICE_CALL bool reduce_by_slots(Scope scope, members t, operands of, Op op, T *dst, const T *src,
                                        u64 nelems)
{
    const u64 most = t.slot_bytes / sizeof(T);
    u64 e = next_epoch(t) - 1, first = 0;
    bool ok = true;
    do {
        const u64 n = nelems - first < most ? nelems - first : most;
        ++e;
        for (int k = 1; k < t.n; ++k)
            put_member(scope, t, (t.me + k) % t.n, own_slot(t, t.me, e), src + first, n * sizeof(T));
        ok = meet(scope, t, of.call, order::publish);
        for (u64 i = arch::lane(scope); ok && i < n; i += arch::width(scope))
            dst[first + i] = join_members<T>(op, of.n, [&](int j) {
                auto *there = reinterpret_cast<const T *>(own_slot(t, j, e));
                return j == t.me ? src[first + i] : bits<T>(arch::load_remote(words(there + i)));
            });
        first += n;
    } while (ok && first < nelems);
    return leave(scope, t, e, ok);
}
/* The others: each member fetches its share of every vector, element by element, and gives the result to all. */
template <class Scope, class Op, class T>
SHMEMX_DEVICE_CALL bool reduce_by_words(Scope scope, members t, Op op, T *dst, const T *src, u64 nelems)
{
    const auto me = static_cast<u64>(t.me), n = static_cast<u64>(t.n);
    bool ok = meet(scope, t, SHMEMX_DEVICE_CALL_REDUCE, order::publish);
    const u64 end = nelems * (me + 1) / n;
    SHMEMX_DEVICE_ROLLED
    for (u64 i = nelems * me / n + arch::lane(scope); ok && i < end; i += arch::width(scope)) {
        const T total = join_members<T>(op, t.n, [&](int j) { return g(src + i, world_pe(t, j)); });
        SHMEMX_DEVICE_ROLLED
        for (int j = 0; j < t.n; ++j)
            p(dst + i, total, world_pe(t, j));
    }
    return meet(scope, t, SHMEMX_DEVICE_CALL_REDUCE, order::publish) && ok;
}
template <class Scope, class Op, class T>
SHMEMX_DEVICE_FN bool reduce_far(const Scope &scope, const members &t, Op op, T *dst, const T *src,
                                 u64 nelems)
{
    return t.slot_bytes != 0 ? reduce_by_slots(plain(scope), t, everybody(t), op, dst, src, nelems)
                             : reduce_by_words(plain(scope), t, op, dst, src, nelems);
}

} // namespace detail

template <class Scope, class Op, class T>
SHMEMX_DEVICE_CALL bool reduce(const Scope &scope, team handle, Op op, T *dst, const T *src, size nelems)
{
    static_assert(sizeof(T) <= 8, "reductions take types of 1, 2, 4 and 8 bytes");
    const detail::members t = detail::enter(scope, handle, SHMEMX_DEVICE_CALL_REDUCE);
    if (t.n == 0)
        return false;
    const u64 bytes = nelems * sizeof(T);
    if (detail::some_far(t))
        return detail::reduce_far(scope, t, op, dst, src, nelems);
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
