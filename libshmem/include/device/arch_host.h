/* What the device API needs of a machine, on CPU threads; the counterpart of arch_cuda.h, same names.
 *
 * A kernel is a callable that shmem::host::launch runs once a lane, each lane a thread, so that all
 * concurrency is real. A warp is 8 lanes here: one packet line, and few enough threads for a small machine.
 * "System scope" is std::atomic's ordinary scope: processes that share the heap observe it too.
 * Included by shmem_device.h only. */
#ifndef SHMEM_DEVICE_ARCH_HOST_H
#define SHMEM_DEVICE_ARCH_HOST_H

#include <chrono>
#include <condition_variable>
#include <cstring>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "arch_host_weak.h"

#define SHMEMX_DEVICE_FN inline
#define SHMEMX_DEVICE_BOTH inline
#define SHMEMX_DEVICE_CALL inline
#define SHMEMX_DEVICE_SLOW static inline
#define SHMEMX_DEVICE_UNROLL
#define SHMEMX_DEVICE_ROLLED

namespace shmem
{
namespace arch
{

constexpr unsigned warp_width = 8;

/* A barrier that also answers whether all who came said yes. */
class meeting
{
  public:
    explicit meeting(unsigned members) : members_(members) {}
    bool all(bool ok)
    {
        std::unique_lock<std::mutex> lock(mutex_);
        agreed_ = agreed_ && ok;
        if (++here_ == members_) {
            verdict_ = agreed_;
            agreed_ = true;
            here_ = 0;
            ++round_;
            changed_.notify_all();
            return verdict_;
        }
        unsigned round = round_;
        changed_.wait(lock, [&] { return round != round_; });
        return verdict_; // stays until all have come again, this lane among them
    }

  private:
    std::mutex mutex_;
    std::condition_variable changed_;
    unsigned members_, here_ = 0, round_ = 0;
    bool agreed_ = true, verdict_ = true;
};

class bulk_engine;
struct block_shared {
    block_shared(unsigned threads, std::size_t bytes_, bulk_engine *engine_)
        : everybody(threads), bytes(bytes_), memory(bytes_ + 128, 0xff), lanes(threads + warp_width),
          engine(engine_)
    {
        for (unsigned i = 0; i < threads; i += warp_width)
            warps.push_back(std::make_unique<meeting>(threads - i < warp_width ? threads - i : warp_width));
    }
    meeting everybody;
    std::vector<std::unique_ptr<meeting>> warps;
    unsigned char *begin()
    {
        unsigned char *p = memory.data();
        return p + (128 - reinterpret_cast<std::uintptr_t>(p) % 128) % 128;
    }
    std::size_t bytes;
    std::vector<unsigned char> memory; // NaN, as numbers, until somebody writes
    std::vector<u32> lanes;            // what a shuffle passes from one lane to another
    bulk_engine *engine;               // of the launch: see arch_host_bulk.h
    std::vector<unsigned> words;       // addresses of completion words that were opened
    store_buffer stores;               // where they are weak
};

struct lane_state {
    const shmemx_device_state *state;
    block_shared *block;
    unsigned thread, threads, block_number, blocks;
};
/* Of the calling lane; set by host::launch. */
inline lane_state &here()
{
    static thread_local lane_state lane = {nullptr, nullptr, 0, 1, 0, 1};
    return lane;
}

inline const shmemx_device_state &state()
{
    return *here().state;
}
inline unsigned thread_index()
{
    return here().thread;
}
inline unsigned block_index()
{
    return here().block_number;
}
inline unsigned block_threads()
{
    return here().threads;
}
inline unsigned lane(thread_scope)
{
    return 0;
}
inline unsigned lane(warp_scope)
{
    return thread_index() % warp_width;
}
inline unsigned lane(block_scope)
{
    return thread_index();
}
inline unsigned width(thread_scope)
{
    return 1;
}
inline unsigned width(warp_scope)
{
    return warp_width;
}
inline unsigned width(block_scope)
{
    return block_threads();
}
inline unsigned lane(grid_scope)
{
    return here().block_number * here().threads + here().thread;
}
inline unsigned width(grid_scope)
{
    return here().blocks * here().threads;
}
inline unsigned blocks()
{
    return here().blocks;
}
inline u64 opaque(u64 x)
{
    return x;
}
inline unsigned quotient(unsigned a, unsigned b)
{
    return a / b;
}

/* ---- stores that wait, where they are weak -------------------------------------------------------------- */

inline store_buffer *waiting_stores()
{
    return weak_stores() && here().block != nullptr ? &here().block->stores : nullptr;
}
inline bool waits(const void *p)
{
    if (!weak_stores())
        return false;
    const block_shared *b = here().block;
    return b != nullptr && !on_my_stack(p) &&
           reinterpret_cast<std::uintptr_t>(p) - reinterpret_cast<std::uintptr_t>(b->memory.data()) >=
               b->memory.size();
}
inline void show_block()
{
    if (store_buffer *b = waiting_stores())
        b->meet(here().thread);
}
inline void show_all()
{
    if (store_buffer *b = waiting_stores())
        b->publish(here().thread);
}
/* Before an atomic, which does not wait. */
template <class Word> inline Word *in_memory(Word *p)
{
    if (store_buffer *b = waiting_stores())
        b->publish(p, sizeof *p);
    return p;
}
/* true: it waits. */
template <class Word> inline bool put_off(Word *p, const Word &v)
{
    if (!waits(p))
        return false;
    waiting_stores()->store(p, &v, sizeof v, here().thread);
    return true;
}
template <class Word> inline bool look_up(const Word *p, Word &v)
{
    return waits(p) && waiting_stores()->load(p, &v, sizeof v, here().thread);
}

/* ---- barriers of a scope ------------------------------------------------------------------------------- */

inline bool all(thread_scope, bool ok)
{
    return ok;
}
inline void jitter(); // lanes of a warp do not keep step
inline bool all(warp_scope, bool ok)
{
    jitter();
    show_block();
    return here().block->warps[thread_index() / warp_width]->all(ok);
}
inline bool all(block_scope, bool ok)
{
    show_block();
    return here().block->everybody.all(ok);
}
template <class Scope> inline void sync(Scope scope)
{
    (void)all(scope, true);
}
inline u32 shuffle_xor(u32 v, unsigned mask)
{
    u32 *lanes = here().block->lanes.data();
    lanes[thread_index()] = v;
    sync(warp_scope{});
    const u32 got = lanes[thread_index() ^ mask];
    sync(warp_scope{});
    return got;
}
inline u32 ballot(bool yes)
{
    u32 *lanes = here().block->lanes.data() + thread_index() / warp_width * warp_width, bits = 0;
    lanes[thread_index() % warp_width] = yes;
    sync(warp_scope{});
    for (unsigned i = 0; i < warp_width; ++i)
        bits |= lanes[i] << i;
    sync(warp_scope{});
    return bits;
}
inline unsigned lowest_bit(u64 x)
{
    return static_cast<unsigned>(__builtin_ctzll(x));
}
inline unsigned count_bits(u32 x)
{
    return static_cast<unsigned>(__builtin_popcount(x));
}
inline void shared_add(u32 *p, u32 v)
{
    (void)__atomic_fetch_add(p, v, __ATOMIC_RELAXED);
}
inline void shared_or(u32 *p, u32 v)
{
    (void)__atomic_fetch_or(p, v, __ATOMIC_RELAXED);
}

/* ---- loads and stores ---------------------------------------------------------------------------------- */

/* ThreadSanitizer does not see fences: under it the store that follows one carries the release itself. */
#ifdef __SANITIZE_THREAD__
constexpr int relaxed_store = __ATOMIC_RELEASE;
#else
constexpr int relaxed_store = __ATOMIC_RELAXED;
#endif

template <class Word> inline Word load_relaxed(const Word *p)
{
    Word v;
    return look_up(p, v) ? v : __atomic_load_n(p, __ATOMIC_RELAXED);
}
template <class Word> inline Word load_acquire(const Word *p)
{
    Word v;
    return look_up(p, v) ? v : __atomic_load_n(p, __ATOMIC_ACQUIRE);
}
template <class Word> inline void store_relaxed(Word *p, Word v)
{
    if (!put_off(p, v))
        __atomic_store_n(p, v, relaxed_store);
}
template <class Word> inline void store_release(Word *p, Word v)
{
    show_all();
    if (!put_off(p, v))
        __atomic_store_n(p, v, __ATOMIC_RELEASE);
}
inline void add_release(u64 *p, u64 v)
{
    show_all();
    (void)__atomic_fetch_add(in_memory(p), v, __ATOMIC_RELEASE);
}
/* Observers: lanes of other PEs that read, with an acquire, what this lane stores later. */
inline void fence()
{
    show_all();
#ifndef __SANITIZE_THREAD__
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

/* ---- bulk data ----------------------------------------------------------------------------------------- */

struct alignas(16) vec16 {
    u64 x, y;
};
inline vec16 make_vec16(u64 a, u64 b)
{
    return vec16{a, b};
}
/* memcpy: the words belong to objects of the caller's types. */
template <class Word> inline Word load_plain(const Word *p)
{
    Word v;
    if (!look_up(p, v))
        std::memcpy(&v, static_cast<const void *>(p), sizeof v);
    return v;
}
template <class Word> inline Word load_remote(const Word *p)
{
    return load_plain(p);
}
template <class Word> inline void store_plain(Word *p, Word v)
{
    if (!put_off(p, v))
        std::memcpy(static_cast<void *>(p), &v, sizeof v);
}

/* ---- atomics; each returns the old value --------------------------------------------------------------- */

template <class Word> inline Word fetch_add(Word *p, Word v)
{
    return __atomic_fetch_add(in_memory(p), v, __ATOMIC_ACQ_REL);
}
template <class Word> inline Word fetch_and(Word *p, Word v)
{
    return __atomic_fetch_and(in_memory(p), v, __ATOMIC_ACQ_REL);
}
template <class Word> inline Word fetch_or(Word *p, Word v)
{
    return __atomic_fetch_or(in_memory(p), v, __ATOMIC_ACQ_REL);
}
template <class Word> inline Word fetch_xor(Word *p, Word v)
{
    return __atomic_fetch_xor(in_memory(p), v, __ATOMIC_ACQ_REL);
}
template <class Word> inline void add_relaxed(Word *p, Word v)
{
    (void)fetch_add(p, v);
}
template <class Word> inline void and_relaxed(Word *p, Word v)
{
    (void)fetch_and(p, v);
}
template <class Word> inline void or_relaxed(Word *p, Word v)
{
    (void)fetch_or(p, v);
}
template <class Word> inline void xor_relaxed(Word *p, Word v)
{
    (void)fetch_xor(p, v);
}
template <class Word> inline Word swap(Word *p, Word v)
{
    return __atomic_exchange_n(in_memory(p), v, __ATOMIC_ACQ_REL);
}
template <class Word> inline Word compare_swap(Word *p, Word condition, Word v)
{
    __atomic_compare_exchange_n(in_memory(p), &condition, v, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
    return condition;
}

inline void add_shared(u32 *p, u32 v)
{
    (void)fetch_add(p, v);
}

/* ---- time ---------------------------------------------------------------------------------------------- */

inline u64 nanoseconds()
{
    auto now = std::chrono::steady_clock::now().time_since_epoch();
    return static_cast<u64>(std::chrono::duration_cast<std::chrono::nanoseconds>(now).count());
}
/* There are more lanes than cores: whoever waits gives way at once. */
inline void relax()
{
    if (store_buffer *b = waiting_stores())
        b->age();
    std::this_thread::yield();
}
inline void nap() {}

inline void async_copy(void *shared, const void *global)
{
    std::memcpy(shared, global, 16);
}
inline void async_wait() {}

/* ---- packets: the flag of a line is stored after its data, and read before ----------------------------- */

inline void line_store(void *p, bool here, u64 a, u64 b, bool flag_lane)
{
    u64 *word = static_cast<u64 *>(p);
    if (here) {
        __atomic_store_n(word, a, relaxed_store);
        if (!flag_lane)
            __atomic_store_n(word + 1, b, relaxed_store);
    }
    sync(warp_scope{}); // the other lanes' words come before the flag
    if (here && flag_lane)
        __atomic_store_n(word + 1, b,
                         __ATOMIC_RELEASE); // observer: the flag lane of the receiver, in lines_load
}
inline void pair_store(void *p, u64 a, u64 b)
{
    __atomic_store_n(static_cast<u64 *>(p), a, relaxed_store);
    __atomic_store_n(static_cast<u64 *>(p) + 1, b, relaxed_store);
}
template <unsigned N, class Patience>
inline bool lines_load(vec16 (&v)[N], const unsigned char *const (&from)[N], const bool (&wanted)[N],
                       bool flag_lane, u64 round, Patience &left)
{
    bool ok = true;
    for (unsigned i = 0; i < N; ++i)
        if (flag_lane && wanted[i])
            while (ok && load_acquire(reinterpret_cast<const u64 *>(from[i]) + 1) != round)
                ok = !left.over();
    if (!all(warp_scope{}, ok)) // the flag lanes' acquires come before the other lanes' loads
        return false;
    for (unsigned i = 0; i < N; ++i)
        if (wanted[i]) {
            const u64 *word = reinterpret_cast<const u64 *>(from[i]);
            v[i] = make_vec16(load_relaxed(word), load_relaxed(word + 1));
        }
    return true;
}
/* acquire, where a GPU's needs a fence after it: ThreadSanitizer does not see those */
inline vec16 line_load(const void *p)
{
    const u64 *word = static_cast<const u64 *>(p);
    const u64 first = load_acquire(word);
    return make_vec16(first, load_acquire(word + 1));
}

} // namespace arch
} // namespace shmem

#include "arch_host_bulk.h"
#include "arch_host_nic.h"

namespace shmem
{
namespace host
{

/* Runs kernel() in blocks * threads lanes, all at once, and returns when every one is done. Each block has
 * shared_bytes of memory (128-byte aligned, not zero) at host::shared(). */
template <class Kernel>
void launch(const shmemx_device_state &state, unsigned blocks, unsigned threads, std::size_t shared_bytes,
            Kernel kernel)
{
    std::vector<std::unique_ptr<arch::block_shared>> shared;
    std::vector<std::thread> lanes;
    arch::bulk_engine engine;
    for (unsigned b = 0; b < blocks; ++b) {
        shared.push_back(std::make_unique<arch::block_shared>(threads, shared_bytes, &engine));
        for (unsigned t = 0; t < threads; ++t)
            lanes.emplace_back([&state, &kernel, block = shared.back().get(), threads, t, b, blocks] {
                arch::here() = arch::lane_state{&state, block, t, threads, b, blocks};
                kernel();
                arch::my_bulk().end();
                block->stores.end(t);
            });
    }
    for (std::thread &lane : lanes)
        lane.join();
    if (engine.loads() != 0)
        arch::bulk_misuse("the lanes have ended before their loads", engine.loads(), 0);
}
inline unsigned char *shared()
{
    return arch::block_memory();
}

} // namespace host
} // namespace shmem

#endif
