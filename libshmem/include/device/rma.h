/* Puts and gets: check, copy; or hand over to a NIC's path. The contract is in shmem_device.h.
 * Included by shmem_device.h only. */
#ifndef SHMEM_DEVICE_RMA_H
#define SHMEM_DEVICE_RMA_H

namespace shmem
{

namespace detail
{

/* ---- copies -------------------------------------------------------------------------------------------- */

struct from_here { // put: the source is local, the target may be a peer's
    template <class Word> static SHMEMX_DEVICE_FN Word load(const Word *p)
    {
        return arch::load_plain(p);
    }
    static constexpr unsigned depth =
        4; // 1024 threads x 4 x 16 bytes: 64 KiB in flight fill the SM's store path
};
struct from_peer { // get: each load is a round trip, so twice as many fly together
    template <class Word> static SHMEMX_DEVICE_FN Word load(const Word *p)
    {
        return arch::load_remote(p);
    }
    static constexpr unsigned depth = 8;
};

/* n words, aligned; the scope's lanes take neighbouring words, `depth` loads of each are in flight. */
template <class From, class Word>
SHMEMX_DEVICE_FN void copy_words(unsigned lane, unsigned width, Word *dst, const Word *src, u64 n)
{
    constexpr unsigned depth = From::depth;
    u64 i = lane;
    for (; i + static_cast<u64>(depth - 1) * width < n; i += static_cast<u64>(depth) * width) {
        Word v[depth];
        SHMEMX_DEVICE_UNROLL
        for (unsigned k = 0; k < depth; ++k)
            v[k] = From::load(src + i + static_cast<u64>(k) * width);
        SHMEMX_DEVICE_UNROLL
        for (unsigned k = 0; k < depth; ++k)
            arch::store_plain(dst + i + static_cast<u64>(k) * width, v[k]);
    }
    for (; i < n; i += width)
        arch::store_plain(dst + i, From::load(src + i));
}

/* Words between the first and the last aligned address of dst, bytes before and after. */
template <class From, class Word>
SHMEMX_DEVICE_FN void copy_as(unsigned lane, unsigned width, unsigned char *dst, const unsigned char *src,
                              u64 bytes)
{
    u64 head = (0 - reinterpret_cast<u64>(dst)) % sizeof(Word);
    if (head > bytes)
        head = bytes;
    u64 n = (bytes - head) / sizeof(Word), tail = head + n * sizeof(Word);
    copy_words<From>(lane, width, reinterpret_cast<Word *>(dst + head),
                     reinterpret_cast<const Word *>(src + head), n);
    if (sizeof(Word) > 1 && (head != 0 || tail != bytes)) {
        for (u64 i = lane; i < head; i += width)
            arch::store_plain(dst + i, From::load(src + i));
        for (u64 i = tail + lane; i < bytes; i += width)
            arch::store_plain(dst + i, From::load(src + i));
    }
}

/* Addresses that do not agree modulo 16. Out of line: rare, and three times the code of the common case. */
template <class From>
SHMEMX_DEVICE_SLOW void copy_skewed(unsigned lane, unsigned width, unsigned char *dst,
                                    const unsigned char *src, u64 bytes)
{
    unsigned skew = static_cast<unsigned>(reinterpret_cast<u64>(dst) ^ reinterpret_cast<u64>(src));
    if (skew % 8 == 0)
        copy_as<From, u64>(lane, width, dst, src, bytes);
    else if (skew % 4 == 0)
        copy_as<From, u32>(lane, width, dst, src, bytes);
    else
        copy_as<From, u8>(lane, width, dst, src, bytes);
}

template <class From>
SHMEMX_DEVICE_FN void copy_lanes(unsigned lane, unsigned width, void *to, const void *from, u64 bytes)
{
    auto *dst = static_cast<unsigned char *>(to);
    auto *src = static_cast<const unsigned char *>(from);
    // a vector for each lane at most: the short way of short messages, whose time is that of their instructions
    if ((reinterpret_cast<u64>(dst) | reinterpret_cast<u64>(src) | bytes) % 16 == 0 &&
        bytes <= width * 16ull) {
        if (lane * 16ull < bytes)
            arch::store_plain(reinterpret_cast<arch::vec16 *>(dst) + lane,
                              From::load(reinterpret_cast<const arch::vec16 *>(src) + lane));
        return;
    }
    if ((reinterpret_cast<u64>(dst) ^ reinterpret_cast<u64>(src)) % 16 == 0)
        copy_as<From, arch::vec16>(lane, width, dst, src, bytes);
    else
        copy_skewed<From>(lane, width, dst, src, bytes);
}

/* At most 16 bytes by one thread: a word or a few, all loaded before the first is stored, where the addresses allow. */
template <class Word>
SHMEMX_DEVICE_FN void copy_few_as(unsigned char *dst, const unsigned char *src, unsigned n)
{
    constexpr unsigned most = 16 / sizeof(Word);
    Word w[most];
    SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < most; ++i)
        w[i] = i < n ? arch::load_plain(reinterpret_cast<const Word *>(src) + i) : Word();
    SHMEMX_DEVICE_UNROLL
    for (unsigned i = 0; i < most; ++i)
        if (i < n)
            arch::store_plain(reinterpret_cast<Word *>(dst) + i, w[i]);
}
SHMEMX_DEVICE_FN void copy_few(void *to, const void *from, u64 bytes)
{
    auto *dst = static_cast<unsigned char *>(to);
    auto *src = static_cast<const unsigned char *>(from);
    const u64 all = reinterpret_cast<u64>(dst) | reinterpret_cast<u64>(src) | bytes;
    if (all % 8 == 0)
        copy_few_as<u64>(dst, src, static_cast<unsigned>(bytes) / 8);
    else if (all % 4 == 0)
        copy_few_as<u32>(dst, src, static_cast<unsigned>(bytes) / 4);
    else
        copy_few_as<u8>(dst, src, static_cast<unsigned>(bytes));
}

/* No barrier before or after. */
template <class From, class Scope>
SHMEMX_DEVICE_FN void copy(Scope scope, void *dst, const void *src, u64 bytes)
{
    copy_lanes<From>(arch::lane(scope), arch::width(scope), dst, src, bytes);
}
/* With a stage: the leader drives the copy engine, the others copy the unaligned ends. Worth it from the size
 * that vector copies do in one batch: below, the engine's longer way (global, shared, global) costs more than
 * it saves. */
template <class From> SHMEMX_DEVICE_FN void copy(const stage &scope, void *to, const void *from, u64 bytes)
{
    const unsigned lane = arch::lane(scope), width = arch::width(scope);
    auto *dst = static_cast<unsigned char *>(to);
    auto *src = static_cast<const unsigned char *>(from);
    const u64 skew = reinterpret_cast<u64>(dst) ^ reinterpret_cast<u64>(src);
    if (!arch::has_bulk || !scope.usable() || skew % 16 != 0 || bytes < 64ull * width + 32 ||
        !arch::bulk_reaches(dst, src)) {
        copy_lanes<From>(lane, width, to, from, bytes);
        return;
    }
    // observers: this thread, which may have written the source, and the copy engine, which reads it
    arch::bulk_fence();
    arch::sync(block);
    const u64 head = (0 - reinterpret_cast<u64>(dst)) % 16, middle = (bytes - head) / 16 * 16;
    if (lane == 0)
        scope.engine(dst + head, src + head, middle);
    const u64 ends =
        bytes - middle; // fewer than 32 bytes; left to the last lanes, away from the leader's warp
    for (u64 i = width - 1 - lane; i < ends; i += width) {
        u64 j = i < head ? i : i + middle;
        arch::store_plain(dst + j, From::load(src + j));
    }
}

/* What the leader's copy engine has under way is written; others have nothing there. */
template <class Scope> SHMEMX_DEVICE_FN void settle(Scope scope)
{
    if (arch::lane(scope) == 0)
        arch::bulk_wait();
}
/* The same for one copy: without a stage it has not used the engine. */
template <class Scope> SHMEMX_DEVICE_FN void settle_copy(const Scope &) {}
SHMEMX_DEVICE_FN void settle_copy(const stage &scope)
{
    settle(scope);
}

} // namespace detail

SHMEMX_DEVICE_FN int my_pe()
{
    return arch::state().me;
}
SHMEMX_DEVICE_FN int n_pes()
{
    return arch::state().npes;
}

template <class T> SHMEMX_DEVICE_FN T *ptr(T *p, int pe)
{
    bool ok = static_cast<unsigned>(pe) < static_cast<unsigned>(n_pes()) && detail::symmetric(p, 1);
    return ok && !detail::far(pe) ? detail::at(p, pe) : nullptr;
}

template <class T> SHMEMX_DEVICE_FN void p(T *dst, same<T> value, int pe)
{
    if (!detail::valid(thread, SHMEMX_DEVICE_CALL_P, dst, sizeof(T), pe, alignof(T)))
        return;
    if (detail::far(pe)) {
        if constexpr (detail::is_word(sizeof(T)))
            detail::far_p(dst, detail::bits<detail::word<T>>(value), sizeof(T), pe);
        else
            detail::far_put(thread, dst, &value, sizeof(T), pe, true);
        return;
    }
    if constexpr (detail::is_word(sizeof(T)))
        arch::store_relaxed(detail::words(detail::at(dst, pe)), detail::bits<detail::word<T>>(value));
    else
        detail::copy<detail::from_here>(thread, detail::at(dst, pe), &value, sizeof(T));
}

template <class T> SHMEMX_DEVICE_FN T g(const T *src, int pe)
{
    T value{};
    if (!detail::valid(thread, SHMEMX_DEVICE_CALL_G, src, sizeof(T), pe, alignof(T)))
        return value;
    if (detail::far(pe)) {
        if constexpr (detail::is_word(sizeof(T)))
            value = detail::bits<T>(static_cast<detail::word<T>>(detail::far_g(src, sizeof(T), pe)));
        else
            detail::far_get(thread, &value, src, sizeof(T), pe, true);
        return value;
    }
    if constexpr (detail::is_word(sizeof(T)))
        value = detail::bits<T>(arch::load_relaxed(detail::words(detail::at(src, pe))));
    else
        detail::copy<detail::from_peer>(thread, &value, detail::at(src, pe), sizeof(T));
    return value;
}

namespace detail
{

/* wait: as far_put and far_get. */
template <class Scope>
SHMEMX_DEVICE_FN void put_bytes(const Scope &scope, void *dst, const void *src, u64 bytes, int pe, bool wait)
{
    if (!valid(scope, SHMEMX_DEVICE_CALL_PUT, dst, bytes, pe))
        return;
    if (far(pe))
        far_put(plain(scope), dst, src, bytes, pe, wait);
    else
        copy<from_here>(scope, at(dst, pe), src, bytes);
}
template <class Scope>
SHMEMX_DEVICE_FN void get_bytes(const Scope &scope, void *dst, const void *src, u64 bytes, int pe, bool wait)
{
    if (!valid(scope, SHMEMX_DEVICE_CALL_GET, src, bytes, pe))
        return;
    if (far(pe))
        far_get(plain(scope), dst, src, bytes, pe, wait);
    else
        copy<from_peer>(scope, dst, at(src, pe), bytes);
}

} // namespace detail

template <class Scope, class T>
SHMEMX_DEVICE_FN void put_nbi(const Scope &scope, T *dst, const T *src, size nelems, int pe)
{
    detail::put_bytes(scope, dst, src, nelems * sizeof(T), pe, false);
}

template <class Scope, class T>
SHMEMX_DEVICE_FN void put(const Scope &scope, T *dst, const T *src, size nelems, int pe)
{
    detail::put_bytes(scope, dst, src, nelems * sizeof(T), pe, true);
    arch::sync(scope);
}

template <class Scope, class T>
SHMEMX_DEVICE_FN void get_nbi(const Scope &scope, T *dst, const T *src, size nelems, int pe)
{
    detail::get_bytes(scope, dst, src, nelems * sizeof(T), pe, false);
}

template <class Scope, class T>
SHMEMX_DEVICE_FN void get(const Scope &scope, T *dst, const T *src, size nelems, int pe)
{
    detail::get_bytes(scope, dst, src, nelems * sizeof(T), pe, true);
    detail::settle_copy(scope);
    arch::sync(scope);
}

namespace detail
{
/* What the scope's threads have stored comes before what they store next. */
template <class Scope> SHMEMX_DEVICE_FN void publish(const Scope &scope)
{
    if (arch::lane(scope) == 0)
        arch::fence(); // observers: the scope's threads (barriers) and whoever acquires what they store next
    arch::sync(scope);
}
/* Is there anything for a NIC's path to do, for a PE or all_pes? */
template <class Scope> SHMEMX_DEVICE_FN bool far_or_all(const Scope &scope, int pe)
{
    return some_far() && (pe == all_pes || path_to(pe) != SHMEMX_NIC_MAPPED || some_amos(scope));
}
} // namespace detail

template <class Scope> SHMEMX_DEVICE_FN bool quiet(const Scope &scope, int pe)
{
    bool ok = pe == all_pes || detail::valid_pe(scope, SHMEMX_DEVICE_CALL_QUIET, pe);
    detail::settle(scope);
    arch::sync(scope);
    if (ok && detail::far_or_all(scope, pe))
        ok = detail::far_quiet(detail::plain(scope), pe);
    detail::publish(scope);
    return ok;
}

/* Over NVLink a put is ordered by waiting for its acknowledgement: there is no cheaper fence. */
template <class Scope> SHMEMX_DEVICE_FN void fence(const Scope &scope, int pe)
{
    if (pe != all_pes && !detail::valid_pe(scope, SHMEMX_DEVICE_CALL_FENCE, pe))
        return;
    detail::settle(scope);
    arch::sync(scope);
    if (detail::far_or_all(scope, pe)) {
        if (pe == all_pes)
            detail::far_fence(detail::plain(scope));
        else if (detail::far(pe))
            detail::far_fence(detail::plain(scope), pe);
        else
            detail::fence_amos(detail::plain(scope), pe);
    }
    detail::publish(scope);
}

} // namespace shmem

#endif
