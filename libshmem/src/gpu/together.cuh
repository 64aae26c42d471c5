/* All blocks of one launch as one member of a collective. */
#ifndef SHMEMI_GPU_TOGETHER_CUH
#define SHMEMI_GPU_TOGETHER_CUH

#include "shmem_device.h"

namespace shmem
{

/* Runs work() in all blocks between the members' arrival and their departure. Block 0 meets the other members, by
 * arrive(), which one warp of it calls, and opens the gate; the block that finishes last makes everybody's stores
 * visible and meets them again. All blocks are on the GPU at once: there are at most one for each SM, and block 0 is
 * started first. The team's gate and count of blocks are zero between launches: a team has one collective at a time. */
template <class Arrive, class Work> __device__ void together(const detail::members &t, Arrive arrive, Work work)
{
    __shared__ bool last;
    if (blockIdx.x == 0 && threadIdx.x < arch::warp_width) {
        arrive();
        if (threadIdx.x == 0)
            atomicExch(&t.home->gate, 1u);
    }
    if (threadIdx.x == 0) {
        while (atomicAdd(&t.home->gate, 0u) == 0)
            __nanosleep(20);
        // observers: block 0, which saw the members arrive, and this block, which reads what they have written
        __threadfence();
    }
    __syncthreads();
    work();
    __syncthreads();
    if (threadIdx.x == 0) {
        // observers: this block, which has stored into the members' memory, and the members after the last meeting
        __threadfence_system();
        last = atomicAdd(&t.home->finished, 1u) == gridDim.x - 1;
    }
    __syncthreads();
    if (last && threadIdx.x < arch::warp_width) {
        if (threadIdx.x == 0)
            t.home->gate = t.home->finished = 0;
        __syncwarp();
        detail::meet(warp, t, SHMEMX_DEVICE_CALL_BARRIER, detail::order::publish);
    }
}

/* The usual arrival. What this PE's stream did before the launch is complete, so there is nothing to publish. */
template <class Work> __device__ void together(const detail::members &t, Work work)
{
    together(t, [=] { detail::meet(warp, t, SHMEMX_DEVICE_CALL_SYNC, detail::order::none); }, work);
}

} // namespace shmem

#endif
