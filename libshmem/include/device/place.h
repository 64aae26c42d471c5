/* What every operation begins with: errors to the mailbox, symmetric addresses, values as words.
 * Included by shmem_device.h only. */
#ifndef SHMEM_DEVICE_PLACE_H
#define SHMEM_DEVICE_PLACE_H

namespace shmem
{

namespace detail
{

#ifdef SHMEM_DEVICE_CHECKS
constexpr bool checks = true;
#else
constexpr bool checks = false;
#endif

/* ---- errors -------------------------------------------------------------------------------------------- */

/* Writes the mailbox if it is still empty. */
SHMEMX_DEVICE_SLOW void report(unsigned kind, unsigned call, int pe, const volatile void *address, u64 value,
                               u64 expected)
{
    const shmemx_device_state &s = arch::state();
    auto *box = reinterpret_cast<shmemx_device_error *>(s.mailbox);
    if (box == nullptr || arch::compare_swap(reinterpret_cast<u32 *>(s.claim), 0u, 1u) != 0)
        return;
    box->call = call;
    box->me = s.me;
    box->pe = pe;
    box->block = arch::block_index();
    box->thread = arch::thread_index();
    box->address = reinterpret_cast<u64>(address);
    box->value = value;
    box->expected = expected;
    // release; observers: this thread, which wrote the fields, and the host, which polls kind and then reads
    // them
    arch::store_release(&box->kind, kind);
}

/* ---- addresses ----------------------------------------------------------------------------------------- */

SHMEMX_DEVICE_FN u64 my_copy()
{
    return arch::state().copy;
}
SHMEMX_DEVICE_FN bool symmetric(const volatile void *p, u64 bytes)
{
    u64 offset = reinterpret_cast<u64>(p) - my_copy();
    return offset <= arch::state().bytes && bytes <= arch::state().bytes - offset;
}
/* PE's copy of p; no check. */
template <class T> SHMEMX_DEVICE_FN T *at(T *p, int pe)
{
    const shmemx_device_state &s = arch::state();
    const u64 a = reinterpret_cast<u64>(p);
    if (s.bases != 0)
        return reinterpret_cast<T *>(reinterpret_cast<const u64 *>(s.bases)[pe] + (a - s.copy));
    return reinterpret_cast<T *>(a + static_cast<u64>(static_cast<long long>(pe - s.me)) * s.stride);
}
template <class Scope>
SHMEMX_DEVICE_SLOW bool refuse(Scope scope, unsigned kind, unsigned call, int pe, const volatile void *p,
                               u64 value)
{
    if (arch::lane(scope) == 0)
        report(kind, call, pe, p, value, 0);
    return false;
}
/* With SHMEM_DEVICE_CHECKS: whether there is such a PE; whether bytes at p exist in its copy. The leader reports. Otherwise
 * true. */
template <class Scope>
SHMEMX_DEVICE_FN bool valid_pe(Scope scope, unsigned call, int pe, const volatile void *p = nullptr)
{
    if (!checks || static_cast<unsigned>(pe) < static_cast<unsigned>(arch::state().npes))
        return true;
    return refuse(scope, SHMEMX_DEVICE_PE, call, pe, p, static_cast<u64>(arch::state().npes));
}
template <class Scope>
SHMEMX_DEVICE_FN bool valid(Scope scope, unsigned call, const volatile void *p, u64 bytes, int pe,
                            u64 alignment = 1)
{
    if (!checks)
        return true;
    if (!valid_pe(scope, call, pe, p))
        return false;
    if (!symmetric(p, bytes) || reinterpret_cast<u64>(p) % alignment != 0)
        return refuse(scope, SHMEMX_DEVICE_ADDRESS, call, pe, p, bytes);
    return true;
}

/* ---- values as words ----------------------------------------------------------------------------------- */

template <unsigned Bytes> struct word_of;
template <> struct word_of<1> {
    using type = u8;
};
template <> struct word_of<2> {
    using type = u16;
};
template <> struct word_of<4> {
    using type = u32;
};
template <> struct word_of<8> {
    using type = u64;
};
template <class T> using word = typename word_of<sizeof(T)>::type;

template <class To, class From> SHMEMX_DEVICE_FN To bits(const From &from)
{
    static_assert(sizeof(To) == sizeof(From), "only the type changes");
    To to;
    memcpy(static_cast<void *>(&to), &from, sizeof to);
    return to;
}
template <class T> SHMEMX_DEVICE_FN word<T> *words(T *p)
{
    return reinterpret_cast<word<T> *>(p);
}
template <class T> SHMEMX_DEVICE_FN const word<T> *words(const T *p)
{
    return reinterpret_cast<const word<T> *>(p);
}
constexpr SHMEMX_DEVICE_FN bool is_word(u64 bytes)
{
    return bytes == 1 || bytes == 2 || bytes == 4 || bytes == 8;
}

} // namespace detail

} // namespace shmem

#endif
