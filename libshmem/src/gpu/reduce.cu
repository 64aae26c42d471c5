/* Kernels of the reductions of one type: small vectors as packets, larger ones by shares between two meetings. Sums are
 * compiled by themselves, the other operators choose at run time. libshmem/tools/ptx.py compiles this file once for each
 * type, into a file of its own: the driver needs some 0.3 s for one, and a job seldom uses more than two. */
#include "together.cuh"
#include "elements.cuh"

namespace shmem
{

template <class T, class Op> __device__ void reduce_by(const detail::members &t, Op op, void *dst, const void *src, u64 n)
{
    together(t, [&] { detail::reduce_share(detail::grid, t, op, static_cast<T *>(dst), static_cast<const T *>(src), n); });
}

} // namespace shmem

using namespace shmem;

/* What ptx.py defines. */
using element = SHMEMI_ELEMENT;

extern "C" __global__ void __launch_bounds__(512)
    shmem_k_reduce_packets(unsigned t, int op, void *dst, const void *src, u64 nelems)
{
    const detail::members m = detail::enter(detail::grid, static_cast<team>(t), SHMEMX_DEVICE_CALL_REDUCE);
    if (m.n == 0)
        return;
    if (op == SHMEMI_SUM)
        detail::reduce_packets<true, element>(detail::grid, m, sum, dst, src, nelems * sizeof(element));
    else
        detail::reduce_packets<true, element>(detail::grid, m, any_op{op}, dst, src, nelems * sizeof(element));
}

extern "C" __global__ void __launch_bounds__(512)
    shmem_k_reduce(unsigned t, int op, void *dst, const void *src, u64 nelems)
{
    const detail::members m = detail::find(thread, static_cast<team>(t), SHMEMX_DEVICE_CALL_REDUCE);
    if (m.n == 0)
        return;
    if (op == SHMEMI_SUM)
        reduce_by<element>(m, sum, dst, src, nelems);
    else
        reduce_by<element>(m, any_op{op}, dst, src, nelems);
}
