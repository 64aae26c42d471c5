/* The library's own kernels: what stream-ordered calls launch. Written on the device API, as a user's kernel would be.
 *
 * libshmem/tools/ptx.py compiles this file and reduce.cu to gpu/ptx/, which the library carries, so that building it needs
 * no CUDA and running it needs the driver alone. modules.c knows the names, stream.c and stream_coll.c the arguments. */
#include "shmem_device.h"

using namespace shmem;

/* *fetched (host memory that the device writes) = the old value. */
extern "C" __global__ void shmem_k_atomic(int op, int size, void *dst, u64 value, u64 cond, int pe, u64 *fetched)
{
    u64 old = size == 8 ? detail::atomic_by(op, static_cast<u64 *>(dst), value, cond, pe)
                        : detail::atomic_by(op, static_cast<u32 *>(dst), static_cast<u32>(value),
                                            static_cast<u32>(cond), pe);
    if (fetched)
        *fetched = old;
}

/* What the stream did before is visible wherever the signal is seen: the copies before this kernel are complete. */
extern "C" __global__ void shmem_k_signal(u64 *sig, u64 value, int op, int pe)
{
    quiet(thread);
    signal_op(sig, value, static_cast<signal_kind>(op), pe);
}

extern "C" __global__ void shmem_k_signal_wait(const u64 *sig, int op, u64 value)
{
    signal_wait_until(thread, sig, static_cast<cmp>(op), value);
}

/* What this PE's stream did before is complete when a kernel begins, with all its effects on other GPUs: the relaxed
 * words of sync are enough, and a release would cost 0.7 us more. */
extern "C" __global__ void shmem_k_barrier(unsigned t)
{
    sync(warp, static_cast<team>(t));
}

#include "coll.cuh"
