// What Triton's kernels do to PEs that they reach by ibgda (device/ibgda.h): one function for each kind of operation, of
// which libshmem/tools/ptx.py makes the inline assembly of pyshmem/device/_triton_ibgda.py. All threads of a program call, with the
// same arguments; its first one posts. Offsets and sizes are in bytes. CPU threads run the same functions in tests.
#ifdef __CUDACC__
// All is inlined, since assembly in a function has no calls. The state is where the register `shmem_state` says, which the
// assembly fills from its first argument.
struct shmemx_device_state;
__device__ __forceinline__ const shmemx_device_state &shmemi_triton_state()
{
    unsigned long long address;
    asm("mov.b64 %0, shmem_state;" : "=l"(address));
    // an address of global memory is the same in both spaces; named as one of it, its loads need not find out
    return *static_cast<const shmemx_device_state *>(__cvta_global_to_generic(address));
}
#define SHMEMX_DEVICE_STATE shmemi_triton_state()
#define SHMEMX_DEVICE_SLOW static __device__ __forceinline__
#define SHMEMI_TRITON extern "C" __device__ shmem::u64
#else
#define SHMEMI_TRITON [[maybe_unused]] static shmem::u64
#endif

#include "shmem_device.h"

namespace shmem::detail
{

/* The leader's result; the others have less, so that the largest is the program's. */
template <class Call> SHMEMX_DEVICE_FN u64 of_leader(Call call)
{
    u64 result = 1ull << 63;
    if (arch::lane(block) == 0)
        result = call();
    return result;
}

} // namespace shmem::detail

SHMEMI_TRITON shmem_triton_put(shmem::u64 offset, shmem::u64 source, shmem::u64 nbytes, int pe)
{
    shmem::detail::ibgda::put(shmem::block, pe, offset, reinterpret_cast<const void *>(source), nbytes);
    return 0;
}
SHMEMI_TRITON shmem_triton_get(shmem::u64 target, shmem::u64 offset, shmem::u64 nbytes, int pe)
{
    shmem::detail::ibgda::get(shmem::block, pe, offset, reinterpret_cast<void *>(target), nbytes);
    return 0;
}
SHMEMI_TRITON shmem_triton_put_signal(shmem::u64 offset, shmem::u64 source, shmem::u64 nbytes,
                                      shmem::u64 sig_offset, shmem::u64 value, unsigned add, int pe)
{
    shmem::detail::ibgda::put_signal(shmem::block, pe, offset, reinterpret_cast<const void *>(source), nbytes,
                                     sig_offset, value, add ? shmem::signal_add : shmem::signal_set);
    return 0;
}
/* The signal alone, behind what the program has posted to that PE. */
SHMEMI_TRITON shmem_triton_signal(shmem::u64 sig_offset, shmem::u64 value, unsigned add, int pe)
{
    if (shmem::arch::lane(shmem::block) == 0)
        shmem::detail::note_amo(pe);
    shmem::detail::ibgda::put_signal(shmem::block, pe, 0, nullptr, 0, sig_offset, value,
                                     add ? shmem::signal_add : shmem::signal_set);
    return 0;
}
SHMEMI_TRITON shmem_triton_p(shmem::u64 offset, shmem::u64 bits, unsigned nbytes, int pe)
{
    shmem::detail::ibgda::put(shmem::block, pe, offset, &bits, nbytes); // the lowest byte comes first
    return 0;
}
SHMEMI_TRITON shmem_triton_g(shmem::u64 offset, unsigned nbytes, int pe)
{
    return shmem::detail::of_leader([&] {
        shmem::u64 bits = 0;
        shmem::detail::ibgda::get(shmem::thread, pe, offset, &bits, nbytes);
        return bits;
    });
}
/* op: enum shmemx_amo. */
SHMEMI_TRITON shmem_triton_atomic(unsigned op, unsigned nbytes, unsigned fetch, shmem::u64 offset,
                                  shmem::u64 value, shmem::u64 condition, int pe)
{
    return shmem::detail::of_leader([&] {
        shmem::detail::note_amo(pe);
        return shmem::detail::ibgda::amo(pe, offset, static_cast<shmem::detail::atomic_op>(op), nbytes, value,
                                         condition, fetch != 0);
    });
}
SHMEMI_TRITON shmem_triton_fence()
{
    using namespace shmem::detail; // fence_amos, without the proxy's part
    if (some_amos(shmem::block))
        for (int pe = 0; pe < shmem::n_pes(); ++pe)
            if (path_to(pe) == SHMEMX_NIC_MAPPED)
                (void)ibgda::quiet(shmem::block, pe);
    return 0;
}
/* All that the program has posted is complete: 1, in all threads, or 0 after an error. */
SHMEMI_TRITON shmem_triton_quiet()
{
    return shmem::detail::ibgda::quiet(shmem::block, -1);
}
