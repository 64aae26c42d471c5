/* What posting to a NIC needs, on CPU threads; the counterpart of arch_cuda_nic.h, same names.
 * Included by arch_host.h only. */
#ifndef SHMEM_DEVICE_ARCH_HOST_NIC_H
#define SHMEM_DEVICE_ARCH_HOST_NIC_H

namespace shmem
{
namespace arch
{

inline void give_way()
{
    relax();
}
inline u32 big(u32 v)
{
    return __builtin_bswap32(v);
}
inline u64 big(u64 v)
{
    return __builtin_bswap64(v);
}
template <class Word> inline Word load_constant(const Word *p)
{
    return *p;
}
inline vec16 load_constants(const void *p)
{
    return load_plain(static_cast<const vec16 *>(p));
}
inline vec16 load_pair(const u64 *p)
{
    return make_vec16(load_acquire(p), load_acquire(p + 1));
}
inline vec16 load_pair_acquire(const u64 *p)
{
    return load_pair(p);
}
inline void store_after_loads(u32 *p, u32 v)
{
    __atomic_store_n(in_memory(p), v, __ATOMIC_RELEASE);
}
inline void fence_gpu()
{
    fence();
}
inline void max_relaxed(u64 *p, u64 v)
{
    for (u64 seen = load_relaxed(p); seen < v;)
        if (__atomic_compare_exchange_n(in_memory(p), &seen, v, true, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
            return;
}
inline void max_release(u64 *p, u64 v)
{
    max_relaxed(p, v); // what this thread has seen; what it has stored is for a fence to show
}

/* Lanes of a warp that have called together, with one key. */
class group
{
  public:
    group() = default; // this lane alone
    explicit group(u64 key) : alone_(false)
    {
        (void)exchange(static_cast<u32>(key)); // keys that differ in their low half alone are enough
        const u32 *lanes = warp_lanes();
        const unsigned me = thread_index() % warp_width;
        size_ = 0;
        for (unsigned i = warp_width; i-- > 0;)
            if (lanes[i] == static_cast<u32>(key)) {
                first_ = i;
                ++size_;
                rank_ += i < me;
            }
        arch::sync(warp_scope{});
    }
    unsigned rank() const
    {
        return rank_;
    }
    unsigned size() const
    {
        return size_;
    }
    u64 from_first(u64 v) const
    {
        if (alone_)
            return v;
        u64 got = 0;
        for (unsigned half = 0; half < 64; half += 32) {
            got |= static_cast<u64>(exchange(static_cast<u32>(v >> half))) << half;
            arch::sync(warp_scope{});
        }
        return got;
    }
    void sync() const
    {
        if (!alone_)
            arch::sync(warp_scope{});
    }

  private:
    static u32 *warp_lanes()
    {
        return here().block->lanes.data() + thread_index() / warp_width * warp_width;
    }
    u32 exchange(u32 v) const
    {
        warp_lanes()[thread_index() % warp_width] = v;
        arch::sync(warp_scope{});
        return warp_lanes()[first_];
    }
    bool alone_ = true;
    unsigned first_ = 0, rank_ = 0, size_ = 1;
};
/* Lanes do not keep step: nobody else is here. */
inline group group_of(thread_scope, u64)
{
    return group();
}
inline group group_of(warp_scope, u64 key)
{
    return group(key);
}

} // namespace arch
} // namespace shmem

#endif
