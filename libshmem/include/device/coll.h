/* Collectives in a kernel, by a warp or a block of each member.
 *
 * Each is one epoch of the team. Small ones are packets: every message is written into the receiver's slot
 * for this sender, and carries the epoch as its round. There are two slots a sender, used in turn: a slot of
 * epoch e is written again in e + 2, by a member that has finished e + 1; in every collective each member
 * hears from all others, who finished e before they spoke in e + 1. So the old contents have been read, and
 * nothing needs to be cleared. Large ones write into the members' `dst` directly and end with a barrier.
 * Included by shmem_device.h only. */
#ifndef SHMEM_DEVICE_COLL_H
#define SHMEM_DEVICE_COLL_H

namespace shmem
{

namespace detail
{

template <class Scope>
SHMEMX_DEVICE_FN bool fits_packets(const Scope &, const shmemx_device_team &t, u64 bytes)
{
    return bytes <= packet_place().capacity(t.slot_bytes);
}
/* Where `receiver` finds what `sender` says in epoch e. */
SHMEMX_DEVICE_FN unsigned char *slot(const shmemx_device_team &t, int receiver, int sender, u64 e)
{
    u64 number = (e & 1) * static_cast<u64>(t.n) + static_cast<u64>(sender);
    return area<unsigned char>(t, receiver, t.packets + number * t.slot_bytes);
}

/* The scope's warps, shared out over the n - 1 other members: work(member, crew) once for each member and
 * warp. */
template <class Scope, class Work>
SHMEMX_DEVICE_FN void for_others(const Scope &scope, const shmemx_device_team &t, Work work)
{
    const unsigned others = static_cast<unsigned>(t.n - 1), w = warp_index(scope), warps = warp_count(scope);
    if (w >= warps)
        return;
    for (unsigned k = w; k < others || (k == w && others != 0); k += warps) {
        const unsigned o = k % others;
        // member me + 1 first: all members start at different receivers
        const int j = static_cast<int>((static_cast<unsigned>(t.me) + 1 + o) % static_cast<unsigned>(t.n));
        work(j, warps > others ? crew{w / others, (warps - o + others - 1) / others} : crew{0, 1});
    }
}

/* Finds the team and opens its next epoch. */
template <class Scope> SHMEMX_DEVICE_FN shmemx_device_team *enter(const Scope &scope, team t, unsigned call)
{
    shmemx_device_team *found = find(scope, t, call);
    return found != nullptr && has_warp(scope, call) ? found : nullptr;
}
template <class Scope> SHMEMX_DEVICE_FN bool leave(const Scope &scope, shmemx_device_team &t, u64 e, bool ok)
{
    arch::sync(scope); // every lane has read the epoch
    if (arch::lane(scope) == 0)
        t.epoch = e;
    return arch::all(scope, ok);
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

/* Word (8 or 16 bytes) of T's being reduced: first, then join in the order of the members. */
template <class T, class Word> struct running {
    static constexpr unsigned n = sizeof(Word) / sizeof(T);
    accumulated<T> value[n] = {};

    SHMEMX_DEVICE_FN void first(const Word &w)
    {
        T part[n];
        memcpy(static_cast<void *>(part), &w, sizeof w);
        SHMEMX_DEVICE_UNROLL
        for (unsigned i = 0; i < n; ++i)
            value[i] = static_cast<accumulated<T>>(part[i]);
    }
    template <class Op> SHMEMX_DEVICE_FN void next(Op op, const Word &w)
    {
        T part[n];
        memcpy(static_cast<void *>(part), &w, sizeof w);
        SHMEMX_DEVICE_UNROLL
        for (unsigned i = 0; i < n; ++i)
            value[i] = join(op, value[i], static_cast<accumulated<T>>(part[i]));
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

/* Each member has everybody's vector in its slots (its own in src) and adds them up itself, in the same
 * order. */
template <class T, class Op, class Scope>
SHMEMX_DEVICE_FN bool reduce_packets(const Scope &scope, const shmemx_device_team &t, u64 e, Op op,
                                     unsigned char *dst, const unsigned char *src, u64 bytes)
{
    for_others(scope, t, [&](int j, const crew &c) { send_message(c, slot(t, j, t.me, e), src, bytes, e); });
    arch::sync(scope); // dst may be src: nobody writes before all have sent
    const packet_place place;
    const unsigned char *slots = slot(t, t.me, 0, e);
    const u64 groups = place.groups(bytes);
    patience left;
    bool ok = true;
    for (u64 group = warp_index(scope); warp_index(scope) < warp_count(scope) && group < groups && ok;
         group += warp_count(scope)) {
        const bool here = (present(place, bytes, group, 0) & 1) != 0;
        const u64 at = group * place.data + place.at;
        running<T, u64> low, high;
        for (int j = 0; j < t.n && ok; j += static_cast<int>(batch)) { // some members at a time
            unsigned mask = 0;
            for (int i = 0; i < static_cast<int>(batch) && j + i < t.n; ++i)
                mask |= static_cast<unsigned>(here && j + i != t.me) << i;
            arch::vec16 v[batch];
            ok = recv_batch(place, v,
                            slots + static_cast<u64>(j) * t.slot_bytes + group * wire_group + place.piece,
                            t.slot_bytes, mask, e, left);
            SHMEMX_DEVICE_UNROLL
            for (int i = 0; i < static_cast<int>(batch); ++i) {
                if (!ok || j + i >= t.n || at >= bytes)
                    continue;
                const bool two = place.words() == 2 && at + 8 < bytes;
                if (j + i == t.me)
                    v[i] =
                        arch::make_vec16(read_word(src, at, bytes), two ? read_word(src, at + 8, bytes) : 0);
                if (j + i == 0)
                    low.first(v[i].x), high.first(two ? v[i].y : 0);
                else
                    low.next(op, v[i].x), high.next(op, two ? v[i].y : 0);
            }
        }
        if (ok && at < bytes)
            write_word(dst, at, bytes, low.result());
        if (ok && place.words() == 2 && at + 8 < bytes)
            write_word(dst, at + 8, bytes, high.result());
    }
    if (!ok && arch::thread_index() % arch::warp_width == 0)
        report(SHMEMX_DEVICE_TIMEOUT, SHMEMX_DEVICE_CALL_REDUCE, -1, slots, 0, e);
    return ok;
}

/* Words number first, first + 1, .. of everybody's src, reduced here and written to everybody's dst. */
template <class T, class Op, class Word, class Scope>
SHMEMX_DEVICE_FN void reduce_words(const Scope &scope, const shmemx_device_team &t, Op op, Word *dst,
                                   const Word *src, u64 n)
{
    constexpr unsigned depth =
        sizeof(Word) == 16 ? 4 : 2; // words of one member in flight: 4 x 16 bytes a lane
    const u64 width = arch::width(scope);
    for (u64 i = arch::lane(scope); i < n; i += depth * width) {
        running<T, Word> total[depth];
        for (int j = 0; j < t.n; ++j) {
            const Word *from = at(src, world_pe(t, j));
            Word w[depth];
            SHMEMX_DEVICE_UNROLL
            for (unsigned k = 0; k < depth; ++k)
                w[k] = arch::load_remote(from + (i + k * width < n ? i + k * width : i));
            SHMEMX_DEVICE_UNROLL
            for (unsigned k = 0; k < depth; ++k)
                if (j == 0)
                    total[k].first(w[k]);
                else
                    total[k].next(op, w[k]);
        }
        for (int k = 0; k < t.n; ++k) {
            Word *to = at(dst, world_pe(t, (t.me + k) % t.n));
            SHMEMX_DEVICE_UNROLL
            for (unsigned d = 0; d < depth; ++d)
                if (i + d * width < n)
                    arch::store_plain(to + i + d * width, total[d].result());
        }
    }
}

/* Member k reduces the k-th share of the vector and gives it to all: each word is read and written once a
 * member. */
template <class T, class Op, class Scope>
SHMEMX_DEVICE_FN void reduce_share(const Scope &scope, const shmemx_device_team &t, Op op, T *dst,
                                   const T *src, u64 nelems)
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

template <class Scope, class T>
SHMEMX_DEVICE_CALL bool broadcast(const Scope &scope, team handle, T *dst, const T *src, size nelems,
                                  int root)
{
    auto *t = detail::enter(scope, handle, SHMEMX_DEVICE_CALL_BROADCAST);
    if (t == nullptr)
        return false;
    if (root < 0 || root >= t->n)
        return detail::refuse(scope, SHMEMX_DEVICE_PE, SHMEMX_DEVICE_CALL_BROADCAST, root, nullptr,
                              static_cast<u64>(t->n));
    const u64 bytes = nelems * sizeof(T), e = t->epoch + 1;
    const bool mine = root == t->me;
    if (mine)
        detail::keep(scope, dst, src, bytes);
    if (!detail::fits_packets(scope, *t, bytes)) {
        for (int k = 1; mine && k < t->n; ++k)
            detail::copy<detail::from_here>(scope, detail::at(dst, detail::world_pe(*t, (t->me + k) % t->n)),
                                            src, bytes);
        return detail::meet(scope, *t, SHMEMX_DEVICE_CALL_BROADCAST, detail::order::publish);
    }
    // everybody says that it is here, as in sync: the slots' turns need to hear from all, the data comes from
    // the root
    detail::arrive(scope, *t, e, detail::order::none);
    bool ok = true;
    if (mine)
        detail::for_others(scope, *t, [&](int j, const detail::crew &c) {
            detail::send_message(c, detail::slot(*t, j, root, e), src, bytes, e);
        });
    else
        ok =
            detail::recv_message(detail::whole_crew(scope), SHMEMX_DEVICE_CALL_BROADCAST,
                                 detail::world_pe(*t, root), dst, detail::slot(*t, t->me, root, e), bytes, e);
    ok = detail::await(scope, *t, e, SHMEMX_DEVICE_CALL_BROADCAST) && ok;
    return detail::leave(scope, *t, e, ok);
}

namespace detail
{

/* alltoall and fcollect: member j gets `part` bytes from src + j * step, at dst + me * part. */
template <class Scope>
SHMEMX_DEVICE_CALL bool exchange(const Scope &scope, team handle, unsigned call, unsigned char *dst,
                                 const unsigned char *src, u64 part, u64 step)
{
    auto *t = enter(scope, handle, call);
    if (t == nullptr)
        return false;
    const u64 e = t->epoch + 1;
    const auto mine = static_cast<u64>(t->me);
    if (fits_packets(scope, *t, part) && part != 0) {
        bool ok = true;
        for_others(scope, *t, [&](int j, const crew &c) {
            send_message(c, slot(*t, j, t->me, e), src + static_cast<u64>(j) * step, part, e);
        });
        keep(scope, dst + mine * part, src + mine * step, part);
        for_others(scope, *t, [&](int j, const crew &c) {
            ok = recv_message(c, call, world_pe(*t, j), dst + static_cast<u64>(j) * part,
                              slot(*t, t->me, j, e), part, e) &&
                 ok;
        });
        return leave(scope, *t, e, ok);
    }
    keep(scope, dst + mine * part, src + mine * step, part);
    for (int k = 1; k < t->n; ++k) { // member me + 1 first: no receiver is everybody's target at once
        const int j = (t->me + k) % t->n;
        copy<from_here>(scope, at(dst + mine * part, world_pe(*t, j)), src + static_cast<u64>(j) * step,
                        part);
    }
    return meet(scope, *t, call, order::publish);
}

} // namespace detail

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
    auto *t = detail::enter(scope, handle, SHMEMX_DEVICE_CALL_REDUCE);
    if (t == nullptr)
        return false;
    const u64 bytes = nelems * sizeof(T), e = t->epoch + 1;
    if (detail::fits_packets(scope, *t, bytes) && bytes != 0) {
        bool ok = detail::reduce_packets<T>(scope, *t, e, op, reinterpret_cast<unsigned char *>(dst),
                                            reinterpret_cast<const unsigned char *>(src), bytes);
        return detail::leave(scope, *t, e, ok);
    }
    // the sources are ready once all are here; then each reads its share of all of them
    bool ok = detail::meet(scope, *t, SHMEMX_DEVICE_CALL_REDUCE, detail::order::publish);
    if (ok)
        detail::reduce_share(scope, *t, op, dst, src, nelems);
    return detail::meet(scope, *t, SHMEMX_DEVICE_CALL_REDUCE, detail::order::publish) && ok;
}

} // namespace shmem

#endif
