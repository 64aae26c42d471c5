/* Kernels of the reductions of one type: small vectors as packets, larger ones by shares between two meetings. Sums are
 * compiled by themselves, the other operators choose at run time. libshmem/tools/ptx.py compiles this file once for each
 * type, into a file of its own: the driver needs some 0.3 s for one, and a job seldom uses more than two. */
#include "together.cuh"

namespace shmem
{

/* 16-bit floats as the device API wants them: classes that convert from and to float, in which they are added. */
struct half_bits {
    u16 bits;
    half_bits() = default;
    __device__ explicit half_bits(float f)
    {
        asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(f));
    }
    __device__ operator float() const
    {
        float f;
        asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(bits));
        return f;
    }
};
struct brain_bits {
    u16 bits;
    brain_bits() = default;
    __device__ explicit brain_bits(float f)
    {
        const u32 u = __float_as_uint(f);
        bits = f != f ? static_cast<u16>(u >> 16 | 0x40) : static_cast<u16>((u + 0x7fff + (u >> 16 & 1)) >> 16);
    }
    __device__ operator float() const
    {
        return __uint_as_float(static_cast<u32>(bits) << 16);
    }
};

/* An operator that is known at run time: enum shmemx_reduce_op. One choice for a whole vector of elements. */
struct any_op {
    int op;
};
template <class A, unsigned N> __device__ void join_all(any_op any, A (&a)[N], const A (&b)[N])
{
    if (any.op == 3)
        return detail::join_all(max, a, b);
    if (any.op == 4)
        return detail::join_all(min, a, b);
    if (any.op == 6)
        return detail::join_all(prod, a, b);
    if constexpr (detail::is_integer<A>()) {
        if (any.op == 0)
            detail::join_all(bit_and, a, b);
        else if (any.op == 1)
            detail::join_all(bit_or, a, b);
        else
            detail::join_all(bit_xor, a, b);
    }
}

template <class T, class Op> __device__ void reduce_by(const detail::members &t, Op op, void *dst, const void *src, u64 n)
{
    together(t, [&] { detail::reduce_share(detail::grid, t, op, static_cast<T *>(dst), static_cast<const T *>(src), n); });
}

} // namespace shmem

using namespace shmem;

/* What ptx.py defines. */
using element = SHMEMI_ELEMENT;
#define SHMEMI_SUM 5 /* SHMEMX_REDUCE_SUM */

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
