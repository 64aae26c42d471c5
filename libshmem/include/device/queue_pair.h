/* Calls that name the queue pair they take (shmem_device.h): to a PE that ibgda reaches, that queue pair's; to any other PE,
 * and where long puts go by the proxy, the same call with the PE.
 * Included by shmem_device.h only. */
#ifndef SHMEM_DEVICE_QUEUE_PAIR_H
#define SHMEM_DEVICE_QUEUE_PAIR_H

namespace shmem
{

namespace detail
{
SHMEMX_DEVICE_FN shmemx_ibgda_qp &qp_of(queue_pair q)
{
    return ibgda::at(q.pe, q.number & (arch::state().ways.qps - 1));
}
} // namespace detail

SHMEMX_DEVICE_FN unsigned queue_pairs(int pe)
{
    const bool there = static_cast<unsigned>(pe) < static_cast<unsigned>(n_pes());
    return there && detail::some_far() && detail::path_to(pe) == SHMEMX_NIC_IBGDA ? arch::state().ways.qps
                                                                                  : 0;
}

template <class Scope, class T>
SHMEMX_DEVICE_FN void put_nbi(const Scope &scope, T *dst, const T *src, size nelems, queue_pair to)
{
    if (queue_pairs(to.pe) == 0)
        put_nbi(scope, dst, src, nelems, to.pe);
    else if (detail::valid(scope, SHMEMX_DEVICE_CALL_PUT, dst, nelems * sizeof(T), to.pe) &&
             arch::lane(scope) == 0)
        detail::ibgda::put_on(detail::qp_of(to), detail::offset_of(dst), src, nelems * sizeof(T));
}

template <class Scope, class T>
SHMEMX_DEVICE_FN void get_nbi(const Scope &scope, T *dst, const T *src, size nelems, queue_pair from)
{
    // memory that is not of the heap is filled on return, through answers: whichever queue pair they take
    if (queue_pairs(from.pe) == 0 || !detail::symmetric(dst, 1))
        get_nbi(scope, dst, src, nelems, from.pe);
    else if (detail::valid(scope, SHMEMX_DEVICE_CALL_GET, src, nelems * sizeof(T), from.pe) &&
             arch::lane(scope) == 0)
        detail::ibgda::get_on(detail::qp_of(from), detail::offset_of(src), dst, nelems * sizeof(T));
}

template <class Scope, class T, class S>
SHMEMX_DEVICE_FN void put_signal_nbi(const Scope &scope, T *dst, const T *src, size nelems, S *sig, u64 value,
                                     signal_kind op, queue_pair to)
{
    static_assert(sizeof(S) == 8, "a signal is a 64-bit word");
    if (queue_pairs(to.pe) == 0)
        put_signal_nbi(scope, dst, src, nelems, sig, value, op, to.pe);
    else if (detail::valid(scope, SHMEMX_DEVICE_CALL_PUT_SIGNAL, dst, nelems * sizeof(T), to.pe) &&
             detail::valid(scope, SHMEMX_DEVICE_CALL_PUT_SIGNAL, sig, 8, to.pe, 8) && arch::lane(scope) == 0)
        detail::ibgda::put_signal_on(detail::qp_of(to), detail::offset_of(dst), src, nelems * sizeof(T),
                                     detail::offset_of(sig), value, op);
}

template <class Scope> SHMEMX_DEVICE_FN bool quiet(const Scope &scope, queue_pair of)
{
    if (queue_pairs(of.pe) == 0)
        return quiet(scope, of.pe);
    bool ok = true;
    arch::sync(scope);
    if (arch::lane(scope) == 0)
        ok = detail::ibgda::settle_qp(detail::qp_of(of));
    ok = arch::all(detail::plain(scope), ok);
    detail::publish(scope);
    return ok;
}

} // namespace shmem

#endif
