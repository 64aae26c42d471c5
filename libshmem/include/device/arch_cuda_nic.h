/* What posting to a NIC needs of an NVIDIA GPU; the counterpart of arch_host_nic.h, same names.
 * Included by arch_cuda.h only. */
#ifndef SHMEM_DEVICE_ARCH_CUDA_NIC_H
#define SHMEM_DEVICE_ARCH_CUDA_NIC_H

namespace shmem
{
namespace arch
{

/* Once after each poll in vain by a thread that may wait for another one of its warp: without a nap a loop of loads kept the
 * rest of the warp from running for a second (H100, `pyshmem doctor --gpu`). And thousands of threads that poll the host's
 * memory without one fill PCIe. */
SHMEMX_DEVICE_FN void give_way()
{
    asm volatile("nanosleep.u32 50;");
}
/* The number as a NIC reads it. */
SHMEMX_DEVICE_FN u32 big(u32 v)
{
    return __byte_perm(v, 0, 0x0123);
}
SHMEMX_DEVICE_FN u64 big(u64 v)
{
    return static_cast<u64>(big(static_cast<u32>(v))) << 32 | big(static_cast<u32>(v >> 32));
}
/* What no kernel changes: this may come from a cache that fences do not empty. */
template <class Word> SHMEMX_DEVICE_FN Word load_constant(const Word *p)
{
    return __ldg(p);
}
/* Two neighbouring words of that kind, loaded here and now: not where they are first used, behind something slow. */
SHMEMX_DEVICE_FN vec16 load_constants(const void *p)
{
    vec16 v;
    asm volatile("ld.global.nc.v2.u64 {%0, %1}, [%2];" : "=l"(v.x), "=l"(v.y) : "l"(p));
    return v;
}
/* Two neighbouring words in one trip. Whoever stored them did so after a fence; the reader's comes after. */
SHMEMX_DEVICE_FN vec16 load_pair(const u64 *p)
{
    return line_load(p);
}
/* The same, and what comes after it sees what was stored before either word. */
SHMEMX_DEVICE_FN vec16 load_pair_acquire(const u64 *p)
{
    vec16 v;
    asm volatile("ld.acquire.sys.global.v2.u64 {%0, %1}, [%2];" : "=l"(v.x), "=l"(v.y) : "l"(p) : "memory");
    return v;
}
/* What this thread has loaded so far it has, for observers on this GPU. What it has stored need not be there: no fence. */
SHMEMX_DEVICE_FN void store_after_loads(u32 *p, u32 v)
{
    asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}
/* As fence(), for observers on this GPU alone. */
SHMEMX_DEVICE_FN void fence_gpu()
{
    asm volatile("fence.acq_rel.gpu;" ::: "memory");
}
/* *p becomes v if that is more. Observers of the second: threads of this GPU that load it with an acquire. */
SHMEMX_DEVICE_FN void max_relaxed(u64 *p, u64 v)
{
    asm volatile("red.relaxed.gpu.global.max.u64 [%0], %1;" ::"l"(p), "l"(v) : "memory");
}
SHMEMX_DEVICE_FN void max_release(u64 *p, u64 v)
{
    asm volatile("red.release.gpu.global.max.u64 [%0], %1;" ::"l"(p), "l"(v) : "memory");
}

/* Threads of a warp that are here together, with one key. */
class group
{
  public:
    SHMEMX_DEVICE_FN explicit group(unsigned mask)
    {
        mask_ = mask; // not by initializers: nvcc gives those to the host's compiler too
        first_ = __ffs(static_cast<int>(mask)) - 1;
        rank_ = static_cast<unsigned>(__popc(mask & ((1u << thread_index() % warp_width) - 1)));
    }
    SHMEMX_DEVICE_FN unsigned rank() const
    {
        return rank_;
    }
    SHMEMX_DEVICE_FN unsigned size() const
    {
        return static_cast<unsigned>(__popc(mask_));
    }
    /* The value of the thread with rank 0. All of them call it. */
    SHMEMX_DEVICE_FN u64 from_first(u64 v) const
    {
        return __shfl_sync(mask_, v, first_);
    }
    SHMEMX_DEVICE_FN void sync() const
    {
        __syncwarp(mask_);
    }

  private:
    unsigned mask_;
    int first_;
    unsigned rank_;
};
/* Whichever threads of the warp happen to be here. */
SHMEMX_DEVICE_FN group group_of(thread_scope, u64 key)
{
    return group(__match_any_sync(__activemask(), key));
}
/* All threads of the warp come, each with its key. */
SHMEMX_DEVICE_FN group group_of(warp_scope, u64 key)
{
    __syncwarp();
    return group(__match_any_sync(0xffffffffu, key));
}

} // namespace arch
} // namespace shmem

#endif
