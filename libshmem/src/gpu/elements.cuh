/* The types and operators of reductions, for the files that are compiled once a type (libshmem/tools/ptx.py). */
#ifndef SHMEMI_GPU_ELEMENTS_CUH
#define SHMEMI_GPU_ELEMENTS_CUH

#include "shmem_device.h"

#define SHMEMI_SUM 5 /* SHMEMX_REDUCE_SUM */

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

} // namespace shmem

#endif
