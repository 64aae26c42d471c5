/* Atomics on symmetric words of 4 and 8 bytes, relaxed, at system scope: one thread each.
 * Included by shmem_device.h only. */
#ifndef SHMEM_DEVICE_AMO_H
#define SHMEM_DEVICE_AMO_H

namespace shmem
{

namespace detail
{

/* PE's copy of p as a plain word, or nullptr (reported). */
template <class T> SHMEMX_DEVICE_FN word<T> *target(T *p, int pe)
{
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "atomics take 32- and 64-bit types");
    return valid(thread, SHMEMX_DEVICE_CALL_ATOMIC, p, sizeof(T), pe, sizeof(T)) ? words(at(p, pe)) : nullptr;
}
/* On a PE whose atomics are a NIC's, unless the target was refused (w null): with the old value, and without. */
template <class T>
SHMEMX_DEVICE_FN T far_old(const void *w, const T *p, int pe, atomic_op op, T value, T condition = T())
{
    return w == nullptr ? T()
                        : bits<T>(static_cast<word<T>>(far_amo(p, pe, op, sizeof(T), bits<word<T>>(value),
                                                               bits<word<T>>(condition), true)));
}
template <class T> SHMEMX_DEVICE_FN void far_only(const void *w, T *p, int pe, atomic_op op, T value)
{
    if (w != nullptr)
        (void)far_amo(p, pe, op, sizeof(T), bits<word<T>>(value), 0, false);
}
template <class T> constexpr SHMEMX_DEVICE_FN bool is_integer()
{
    return static_cast<T>(7) / static_cast<T>(2) == static_cast<T>(3);
}

} // namespace detail

template <class T> SHMEMX_DEVICE_FN T atomic_fetch(const T *src, int pe)
{
    auto *w = detail::target(const_cast<T *>(src), pe);
    if (detail::amo_far(pe))
        return detail::far_old(w, src, pe, detail::amo_fetch, T());
    return w == nullptr ? T() : detail::bits<T>(arch::load_relaxed(w));
}
template <class T> SHMEMX_DEVICE_FN void atomic_set(T *dst, same<T> value, int pe)
{
    auto *w = detail::target(dst, pe);
    if (detail::amo_far(pe))
        detail::far_only(w, dst, pe, detail::amo_set, value);
    else if (w != nullptr)
        arch::store_relaxed(w, detail::bits<detail::word<T>>(value));
}
template <class T> SHMEMX_DEVICE_FN T atomic_swap(T *dst, same<T> value, int pe)
{
    auto *w = detail::target(dst, pe);
    if (detail::amo_far(pe))
        return detail::far_old(w, dst, pe, detail::amo_swap, value);
    return w == nullptr ? T() : detail::bits<T>(arch::swap(w, detail::bits<detail::word<T>>(value)));
}
template <class T> SHMEMX_DEVICE_FN T atomic_compare_swap(T *dst, same<T> condition, same<T> value, int pe)
{
    static_assert(detail::is_integer<T>(), "compare_swap takes integers");
    auto *w = detail::target(dst, pe);
    if (detail::amo_far(pe))
        return detail::far_old(w, dst, pe, detail::amo_compare_swap, value, condition);
    return w == nullptr ? T()
                        : detail::bits<T>(arch::compare_swap(w, detail::bits<detail::word<T>>(condition),
                                                             detail::bits<detail::word<T>>(value)));
}
template <class T> SHMEMX_DEVICE_FN T atomic_fetch_add(T *dst, same<T> value, int pe)
{
    static_assert(detail::is_integer<T>(), "add takes integers");
    auto *w = detail::target(dst, pe);
    if (detail::amo_far(pe))
        return detail::far_old(w, dst, pe, detail::amo_add, value);
    return w == nullptr ? T() : detail::bits<T>(arch::fetch_add(w, detail::bits<detail::word<T>>(value)));
}
template <class T> SHMEMX_DEVICE_FN T atomic_fetch_and(T *dst, same<T> value, int pe)
{
    static_assert(detail::is_integer<T>(), "and takes integers");
    auto *w = detail::target(dst, pe);
    if (detail::amo_far(pe))
        return detail::far_old(w, dst, pe, detail::amo_and, value);
    return w == nullptr ? T() : detail::bits<T>(arch::fetch_and(w, detail::bits<detail::word<T>>(value)));
}
template <class T> SHMEMX_DEVICE_FN T atomic_fetch_or(T *dst, same<T> value, int pe)
{
    static_assert(detail::is_integer<T>(), "or takes integers");
    auto *w = detail::target(dst, pe);
    if (detail::amo_far(pe))
        return detail::far_old(w, dst, pe, detail::amo_or, value);
    return w == nullptr ? T() : detail::bits<T>(arch::fetch_or(w, detail::bits<detail::word<T>>(value)));
}
template <class T> SHMEMX_DEVICE_FN T atomic_fetch_xor(T *dst, same<T> value, int pe)
{
    static_assert(detail::is_integer<T>(), "xor takes integers");
    auto *w = detail::target(dst, pe);
    if (detail::amo_far(pe))
        return detail::far_old(w, dst, pe, detail::amo_xor, value);
    return w == nullptr ? T() : detail::bits<T>(arch::fetch_xor(w, detail::bits<detail::word<T>>(value)));
}

/* Without a result it is a reduction, which does not wait for the peer. */
template <class T> SHMEMX_DEVICE_FN void atomic_add(T *dst, same<T> value, int pe)
{
    static_assert(detail::is_integer<T>(), "add takes integers");
    auto *w = detail::target(dst, pe);
    if (detail::amo_far(pe))
        detail::far_only(w, dst, pe, detail::amo_add, value);
    else if (w != nullptr)
        arch::add_relaxed(w, detail::bits<detail::word<T>>(value));
}
template <class T> SHMEMX_DEVICE_FN void atomic_and(T *dst, same<T> value, int pe)
{
    static_assert(detail::is_integer<T>(), "and takes integers");
    auto *w = detail::target(dst, pe);
    if (detail::amo_far(pe))
        detail::far_only(w, dst, pe, detail::amo_and, value);
    else if (w != nullptr)
        arch::and_relaxed(w, detail::bits<detail::word<T>>(value));
}
template <class T> SHMEMX_DEVICE_FN void atomic_or(T *dst, same<T> value, int pe)
{
    static_assert(detail::is_integer<T>(), "or takes integers");
    auto *w = detail::target(dst, pe);
    if (detail::amo_far(pe))
        detail::far_only(w, dst, pe, detail::amo_or, value);
    else if (w != nullptr)
        arch::or_relaxed(w, detail::bits<detail::word<T>>(value));
}
template <class T> SHMEMX_DEVICE_FN void atomic_xor(T *dst, same<T> value, int pe)
{
    static_assert(detail::is_integer<T>(), "xor takes integers");
    auto *w = detail::target(dst, pe);
    if (detail::amo_far(pe))
        detail::far_only(w, dst, pe, detail::amo_xor, value);
    else if (w != nullptr)
        arch::xor_relaxed(w, detail::bits<detail::word<T>>(value));
}
template <class T> SHMEMX_DEVICE_FN T atomic_fetch_inc(T *dst, int pe)
{
    return atomic_fetch_add(dst, static_cast<T>(1), pe);
}
template <class T> SHMEMX_DEVICE_FN void atomic_inc(T *dst, int pe)
{
    atomic_add(dst, static_cast<T>(1), pe);
}

namespace detail
{

/* The operation with the number `op` (enum shmemx_amo of shmemx.h), for callers that learn it at run time: the old value,
 * 0 for set. `condition` is for compare_swap. */
template <class T> SHMEMX_DEVICE_FN T atomic_by(int op, T *dst, T value, T condition, int pe)
{
    switch (op) {
    case 0:
        return atomic_fetch(dst, pe);
    case 1:
        atomic_set(dst, value, pe);
        return 0;
    case 2:
        return atomic_swap(dst, value, pe);
    case 3:
        return atomic_compare_swap(dst, condition, value, pe);
    case 4:
        return atomic_fetch_add(dst, value, pe);
    case 5:
        return atomic_fetch_and(dst, value, pe);
    case 6:
        return atomic_fetch_or(dst, value, pe);
    default:
        return atomic_fetch_xor(dst, value, pe);
    }
}

} // namespace detail
} // namespace shmem

#endif
