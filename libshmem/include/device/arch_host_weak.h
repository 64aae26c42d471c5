/* Stores as a GPU makes them, on CPU threads; part of arch_host.h.
 *
 * A processor of x86 shows every store to all, in order. A GPU does not: what a lane has stored comes into memory at any time and
 * in any order, until a fence or a release; a barrier shows it to the block alone, and the fence of one lane is then one for all
 * that had met before, as is a lane's end. With weak_stores() on, stores wait in their block's buffer accordingly, so whoever is told too early, by
 * a store, an atomic or a doorbell without a fence before it, finds memory as it was. Loads are not made weak: that an acquire is
 * missing ThreadSanitizer sees, or nobody.
 *
 * Atomics, the copy engine and lines of packets go to memory at once, as do stores to shared memory and to the lane's stack. What
 * a kernel reads by C++'s own loads must not come from these stores.
 * Included by arch_host.h only. */
#ifndef SHMEM_DEVICE_ARCH_HOST_WEAK_H
#define SHMEM_DEVICE_ARCH_HOST_WEAK_H

#include <chrono>
#include <cstring>
#include <mutex>
#include <pthread.h>
#include <random>
#include <thread>
#include <vector>

namespace shmem
{
namespace arch
{

inline bool &weak_stores()
{
    static bool on = false;
    return on;
}

/* Of a block. */
class store_buffer
{
  public:
    void store(const void *at, const void *value, unsigned bytes, unsigned lane)
    {
        std::lock_guard<std::mutex> lock(mutex_);
        for (std::size_t i = 0; i < waiting_.size();)
            if (waiting_[i].overlaps(at, bytes))
                drain(i); // stores to one place keep their order
            else
                ++i;
        waiting_.push_back({at, bytes, lane, false, {}});
        std::memcpy(waiting_.back().value, value, bytes);
        if (waiting_.size() > most)
            drain(random_() % waiting_.size());
    }
    /* What the lane finds there, if it is not what memory has. */
    bool load(const void *at, void *value, unsigned bytes, unsigned lane)
    {
        std::lock_guard<std::mutex> lock(mutex_);
        for (std::size_t i = 0; i < waiting_.size();) {
            const waiting &w = waiting_[i];
            if (!w.overlaps(at, bytes) || !w.seen_by(lane)) {
                ++i;
            } else if (w.at == at && w.bytes == bytes) {
                std::memcpy(value, w.value, bytes);
                return true;
            } else {
                drain(i);
            }
        }
        return false;
    }
    /* A fence: what the lane has stored, and what others had before they met, is there. It may take its time. */
    void publish(unsigned lane)
    {
        pass(lane, 8);
    }
    /* The lane has ended: somebody else goes on. */
    void end(unsigned lane)
    {
        pass(lane, 1);
    }
    /* What is at that place, before an atomic. */
    void publish(const void *at, unsigned bytes)
    {
        std::lock_guard<std::mutex> lock(mutex_);
        for (std::size_t i = 0; i < waiting_.size();)
            if (waiting_[i].overlaps(at, bytes))
                drain(i);
            else
                ++i;
    }
    /* The lane comes to a barrier. */
    void meet(unsigned lane)
    {
        std::lock_guard<std::mutex> lock(mutex_);
        for (waiting &w : waiting_)
            w.met = w.met || w.lane == lane;
    }
    /* Time passes. */
    void age()
    {
        std::lock_guard<std::mutex> lock(mutex_);
        if (!waiting_.empty())
            drain(random_() % waiting_.size());
    }

  private:
    static constexpr std::size_t most = 64;
    struct waiting {
        const void *at;
        unsigned bytes, lane;
        bool met;
        unsigned char value[16];

        bool overlaps(const void *p, unsigned n) const
        {
            const auto a = reinterpret_cast<std::uintptr_t>(at), b = reinterpret_cast<std::uintptr_t>(p);
            return a < b + n && b < a + bytes;
        }
        bool seen_by(unsigned who) const
        {
            return met || lane == who;
        }
    };
    /* One in so many is slow. */
    void pass(unsigned lane, unsigned slow)
    {
        std::unique_lock<std::mutex> lock(mutex_);
        if (!waiting_.empty() && random_() % slow == 0) {
            lock.unlock();
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
            lock.lock();
        }
        for (std::size_t i = waiting_.size(); i-- > 0;) // the last one first: nothing orders them
            if (waiting_[i].seen_by(lane))
                drain(i);
    }
    void drain(std::size_t i)
    {
        const waiting w = waiting_[i];
        waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(i));
        void *to = const_cast<void *>(w.at);
        u64 v = 0;
        std::memcpy(&v, w.value, w.bytes < 8 ? w.bytes : 8);
        if (w.bytes == 8 && reinterpret_cast<std::uintptr_t>(to) % 8 == 0)
            __atomic_store_n(static_cast<u64 *>(to), v, __ATOMIC_RELEASE);
        else if (w.bytes == 4 && reinterpret_cast<std::uintptr_t>(to) % 4 == 0)
            __atomic_store_n(static_cast<u32 *>(to), static_cast<u32>(v), __ATOMIC_RELEASE);
        else
            std::memcpy(to, w.value, w.bytes);
    }

    std::mutex mutex_;
    std::vector<waiting> waiting_;
    std::minstd_rand random_{7};
};

/* The lane's stack, which nobody else knows. */
inline bool on_my_stack(const void *p)
{
    static thread_local struct bounds {
        std::uintptr_t begin = 0, bytes = 0;
        bounds()
        {
            pthread_attr_t attributes;
            void *lowest = nullptr;
            std::size_t n = 0;
            if (pthread_getattr_np(pthread_self(), &attributes) == 0) {
                (void)pthread_attr_getstack(&attributes, &lowest, &n);
                (void)pthread_attr_destroy(&attributes);
            }
            begin = reinterpret_cast<std::uintptr_t>(lowest);
            bytes = n;
        }
    } mine;
    return reinterpret_cast<std::uintptr_t>(p) - mine.begin < mine.bytes;
}

} // namespace arch
} // namespace shmem

#endif
