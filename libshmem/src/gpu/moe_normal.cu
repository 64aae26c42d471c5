/* The MoE kernels for large batches; moe_gpu.c launches them. Without SHMEM_DEVICE_MAPPED: those that also know a NIC's path. */
#include "moe_normal_combine.cuh"
#include "moe_normal_dispatch.cuh"
#include "moe_normal_form.cuh"

using namespace shmem;

extern __shared__ __align__(128) unsigned char shared_memory[];

#ifdef SHMEM_DEVICE_MAPPED
#define OF_FORM(name) name
#else
#define OF_FORM(name) name##_far
#endif

extern "C" __global__ void __launch_bounds__(512, 1)
    OF_FORM(shmem_k_moe_dispatch)(const __grid_constant__ shmemi_moen o,
                                  const __grid_constant__ shmemi_moen_dispatch a)
{
    moe::normal::dispatch(o, a, shared_memory);
}

extern "C" __global__ void __launch_bounds__(512, 1)
    OF_FORM(shmem_k_moe_combine)(const __grid_constant__ shmemi_moen o,
                                 const __grid_constant__ shmemi_moen_combine a)
{
    moe::normal::combine(o, a, shared_memory);
}

#ifdef SHMEM_DEVICE_MAPPED

extern "C" __global__ void __launch_bounds__(1024)
    shmem_k_moe_layout(const __grid_constant__ shmemi_moen o, const __grid_constant__ shmemi_moen_layout a)
{
    moe::normal::layout(o, a, shared_memory);
}

extern "C" __global__ void __launch_bounds__(256) shmem_k_moe_gather(const __grid_constant__ shmemi_moen_gather a)
{
    moe::normal::gather(a);
}

extern "C" __global__ void __launch_bounds__(256) shmem_k_moe_sum(const __grid_constant__ shmemi_moen_sum a)
{
    moe::normal::sum_choices(a);
}

#endif
