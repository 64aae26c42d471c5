/* The low-latency MoE kernels (moe_ll.cuh), as moe_ll.c launches them: for ranks that are all mapped, and, without
 * SHMEM_DEVICE_MAPPED, for those that a NIC's path reaches. */
#include "moe_ll_combine.cuh"
#include "moe_ll_dispatch.cuh"

extern __shared__ __align__(128) unsigned char shared_memory[];

/* Blocks a multiprocessor: SHMEMI_MOE_LL_DISPATCH_BLOCKS, .._COMBINE_BLOCKS. On 4 H100, 128 tokens, FP8: dispatch took
 * 23.6, 23.8 and 21.9 us with 2, 3 and 4, most of which wait for loads; combine, which adds up rows, 27.3 and 30.7 with 2
 * and 3, for want of registers. */
#ifdef SHMEM_DEVICE_MAPPED
#define DISPATCH_BLOCKS SHMEMI_MOE_LL_DISPATCH_BLOCKS
#define COMBINE_BLOCKS SHMEMI_MOE_LL_COMBINE_BLOCKS
#else
#define DISPATCH_BLOCKS SHMEMI_MOE_LL_FAR_BLOCKS
#define COMBINE_BLOCKS SHMEMI_MOE_LL_FAR_BLOCKS
#endif
extern "C" __global__ void __launch_bounds__(SHMEMI_MOE_LL_THREADS, DISPATCH_BLOCKS)
    shmem_k_moe_ll_dispatch(const __grid_constant__ shmemi_moe_ll o, const __grid_constant__ shmemi_moe_ll_dispatch a)
{
    shmem::moe::ll_dispatch(o, a, shared_memory);
}

extern "C" __global__ void __launch_bounds__(SHMEMI_MOE_LL_THREADS, COMBINE_BLOCKS)
    shmem_k_moe_ll_combine(const __grid_constant__ shmemi_moe_ll o, const __grid_constant__ shmemi_moe_ll_combine a)
{
    shmem::moe::ll_combine(o, a, shared_memory);
}
