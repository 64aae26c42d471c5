// What Triton's kernels get as assembly, for its interpreter: the same functions by one CPU thread, called by
// tests/gpu/triton_interpreter.py. state: address of struct shmemx_device_state. A library for that alone.
#include "triton.cu"

using shmem::u64;

template <class Call> static u64 by_one_thread(u64 state, Call call)
{
    u64 result = 0;
    shmem::host::launch(*reinterpret_cast<const shmemx_device_state *>(state), 1, 1, 0,
                        [&] { result = call(); });
    return result;
}

/* As the functions of triton.cu, with a first argument. */
extern "C" {
u64 triton_put(u64 state, u64 offset, u64 source, u64 nbytes, int pe)
{
    return by_one_thread(state, [=] { return shmem_triton_put(offset, source, nbytes, pe); });
}
u64 triton_get(u64 state, u64 target, u64 offset, u64 nbytes, int pe)
{
    return by_one_thread(state, [=] { return shmem_triton_get(target, offset, nbytes, pe); });
}
u64 triton_put_signal(u64 state, u64 offset, u64 source, u64 nbytes, u64 sig_offset, u64 value, unsigned add,
                      int pe)
{
    return by_one_thread(
        state, [=] { return shmem_triton_put_signal(offset, source, nbytes, sig_offset, value, add, pe); });
}
u64 triton_signal(u64 state, u64 sig_offset, u64 value, unsigned add, int pe)
{
    return by_one_thread(state, [=] { return shmem_triton_signal(sig_offset, value, add, pe); });
}
u64 triton_p(u64 state, u64 offset, u64 bits, unsigned nbytes, int pe)
{
    return by_one_thread(state, [=] { return shmem_triton_p(offset, bits, nbytes, pe); });
}
u64 triton_g(u64 state, u64 offset, unsigned nbytes, int pe)
{
    return by_one_thread(state, [=] { return shmem_triton_g(offset, nbytes, pe); });
}
u64 triton_atomic(u64 state, unsigned op, unsigned nbytes, unsigned fetch, u64 offset, u64 value,
                  u64 condition, int pe)
{
    return by_one_thread(
        state, [=] { return shmem_triton_atomic(op, nbytes, fetch, offset, value, condition, pe); });
}
u64 triton_fence(u64 state)
{
    return by_one_thread(state, [] { return shmem_triton_fence(); });
}
u64 triton_quiet(u64 state)
{
    return by_one_thread(state, [] { return shmem_triton_quiet(); });
}
}
