/* Prefix sums (scans) over the members, element by element. As reductions are made: small ones as packets, of which each
 * member joins those of the members before it; larger ones by shares, of which each member gives every other its part.
 * Included by shmem_device.h only. */
#ifndef SHMEM_DEVICE_SCAN_H
#define SHMEM_DEVICE_SCAN_H

namespace shmem
{

namespace detail
{

SHMEMX_DEVICE_FN operands before(const members &t, bool exclusive)
{
    return operands{exclusive ? t.me : t.me + 1, SHMEMX_DEVICE_CALL_SCAN};
}

/* One trip: worth it, and possible, where a reduction takes one. */
SHMEMX_DEVICE_FN bool scan_fits_packets(const members &t, u64 bytes)
{
    return bytes != 0 && fits_packets(t, bytes) && !SHMEMX_DEVICE_TWO_SHOTS(bytes, static_cast<u64>(t.n));
}
template <bool Lines, class T, class Scope>
SHMEMX_DEVICE_FN bool scan_packets(const Scope &scope, const members &t, bool exclusive, void *to,
                                   const void *from, u64 bytes)
{
    const u64 e = next_epoch(t);
    auto *src = static_cast<const unsigned char *>(from);
    send_to_all<Lines>(scope, t, e, src, bytes);
    return leave(scope, t, e,
                 join_groups<Lines, T>(scope, t, before(t, exclusive), e, sum,
                                       static_cast<unsigned char *>(to), src, bytes, false, 0));
}

/* Words number 0, 1, .. of everybody's src: each member's sum goes to its dst. A word is read before the one in its place
 * is written, by the same thread: src may be dst. */
template <class T, class Word, class Scope>
SHMEMX_DEVICE_FN void scan_words(const Scope &scope, const members &t, bool exclusive, Word *dst,
                                 const Word *src, u64 n)
{
    constexpr unsigned depth = sizeof(Word) == 16 ? 4 : 1; // as reduce_words
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
            Word *to = peer(t, j, dst) + i;
            SHMEMX_DEVICE_UNROLL
            for (unsigned k = 0; k < depth; ++k) {
                const Word without = total[k].result();
                if (j == 0)
                    total[k].first(now[k]); // not 0 + now: -0.0 stays
                else
                    total[k].next(sum, now[k]);
                if (i + k * width < n)
                    arch::store_plain(to + k * width, exclusive ? without : total[k].result());
                now[k] = next[k];
            }
        }
    }
}
template <class T, class Scope> struct scanner {
    const Scope &scope;
    const members &t;
    bool exclusive;
    template <class Word> SHMEMX_DEVICE_FN void operator()(Word *dst, const Word *src, u64 n) const
    {
        scan_words<T>(scope, t, exclusive, dst, src, n);
    }
};
template <class T, class Scope>
SHMEMX_DEVICE_FN void scan_share(const Scope &scope, const members &t, bool exclusive, T *dst, const T *src,
                                 u64 nelems)
{
    own_share(t, dst, src, nelems, scanner<T, Scope>{scope, t, exclusive});
}

/* With members whose copies are not mapped, in a team without slots: element by element. */
template <class Scope, class T>
SHMEMX_DEVICE_CALL bool scan_by_words(Scope scope, members t, bool exclusive, T *dst, const T *src,
                                      u64 nelems)
{
    const auto me = static_cast<u64>(t.me), n = static_cast<u64>(t.n);
    bool ok = meet(scope, t, SHMEMX_DEVICE_CALL_SCAN, order::publish);
    const u64 end = nelems * (me + 1) / n;
    SHMEMX_DEVICE_ROLLED
    for (u64 i = nelems * me / n + arch::lane(scope); ok && i < end; i += arch::width(scope)) {
        accumulated<T> total = 0;
        SHMEMX_DEVICE_ROLLED
        for (int j = 0; j < t.n; ++j) {
            const int pe = world_pe(t, j);
            const auto value = static_cast<accumulated<T>>(g(src + i, pe));
            const auto with = j == 0 ? value : join(sum, total, value);
            p(dst + i, static_cast<T>(exclusive ? total : with), pe);
            total = with;
        }
    }
    return meet(scope, t, SHMEMX_DEVICE_CALL_SCAN, order::publish) && ok;
}

template <class Scope, class T>
SHMEMX_DEVICE_CALL bool scan(const Scope &scope, team handle, bool exclusive, T *dst, const T *src,
                             size nelems)
{
    static_assert(sizeof(T) <= 8, "scans take types of 1, 2, 4 and 8 bytes");
    const members t = enter(scope, handle, SHMEMX_DEVICE_CALL_SCAN);
    if (t.n == 0)
        return false;
    const u64 bytes = nelems * sizeof(T);
    if (some_far(t))
        return t.slot_bytes != 0
                   ? reduce_by_slots(plain(scope), t, before(t, exclusive), sum, dst, src, nelems)
                   : scan_by_words(plain(scope), t, exclusive, dst, src, nelems);
    if (scan_fits_packets(t, bytes))
        return lines_here() ? scan_packets<true, T>(scope, t, exclusive, dst, src, bytes)
                            : scan_packets<false, T>(scope, t, exclusive, dst, src, bytes);
    bool ok = meet(scope, t, SHMEMX_DEVICE_CALL_SCAN, order::publish);
    if (ok)
        scan_share(scope, t, exclusive, dst, src, nelems);
    return meet(scope, t, SHMEMX_DEVICE_CALL_SCAN, order::publish) && ok;
}

} // namespace detail

template <class Scope, class T>
SHMEMX_DEVICE_FN bool sum_inscan(const Scope &scope, team t, T *dst, const T *src, size nelems)
{
    return detail::scan(scope, t, false, dst, src, nelems);
}
template <class Scope, class T>
SHMEMX_DEVICE_FN bool sum_exscan(const Scope &scope, team t, T *dst, const T *src, size nelems)
{
    return detail::scan(scope, t, true, dst, src, nelems);
}

} // namespace shmem

#endif
