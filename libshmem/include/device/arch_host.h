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

#define SHMEMX_DEVICE_FN inline
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

struct block_shared {
    block_shared(unsigned threads, std::size_t bytes)
        : everybody(threads), memory(bytes + 128), lanes(threads + warp_width)
    {
        for (unsigned i = 0; i < threads; i += warp_width)
            warps.push_back(std::make_unique<meeting>(threads - i < warp_width ? threads - i : warp_width));
    }
    meeting everybody;
    std::vector<std::unique_ptr<meeting>> warps;
    std::vector<unsigned char> memory;
    std::vector<u32> lanes; // what a shuffle passes from one lane to another
    struct bulk_load_op {
        unsigned to, bytes, done;
        const unsigned char *from;
    };
    std::mutex engine;
    std::vector<bulk_load_op> loads; // of the copy engine, under way
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

/* ---- barriers of a scope ------------------------------------------------------------------------------- */

inline bool all(thread_scope, bool ok)
{
    return ok;
}
inline bool all(warp_scope, bool ok)
{
    return here().block->warps[thread_index() / warp_width]->all(ok);
}
inline bool all(block_scope, bool ok)
{
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
    return __atomic_load_n(p, __ATOMIC_RELAXED);
}
template <class Word> inline Word load_acquire(const Word *p)
{
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}
template <class Word> inline void store_relaxed(Word *p, Word v)
{
    __atomic_store_n(p, v, relaxed_store);
}
template <class Word> inline void store_release(Word *p, Word v)
{
    __atomic_store_n(p, v, __ATOMIC_RELEASE);
}
inline void add_release(u64 *p, u64 v)
{
    (void)__atomic_fetch_add(p, v, __ATOMIC_RELEASE);
}
/* Observers: lanes of other PEs that read, with an acquire, what this lane stores later. */
inline void fence()
{
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
    std::memcpy(&v, static_cast<const void *>(p), sizeof v);
    return v;
}
template <class Word> inline Word load_remote(const Word *p)
{
    return load_plain(p);
}
template <class Word> inline void store_plain(Word *p, Word v)
{
    std::memcpy(static_cast<void *>(p), &v, sizeof v);
}

/* ---- atomics; each returns the old value --------------------------------------------------------------- */

template <class Word> inline Word fetch_add(Word *p, Word v)
{
    return __atomic_fetch_add(p, v, __ATOMIC_ACQ_REL);
}
template <class Word> inline Word fetch_and(Word *p, Word v)
{
    return __atomic_fetch_and(p, v, __ATOMIC_ACQ_REL);
}
template <class Word> inline Word fetch_or(Word *p, Word v)
{
    return __atomic_fetch_or(p, v, __ATOMIC_ACQ_REL);
}
template <class Word> inline Word fetch_xor(Word *p, Word v)
{
    return __atomic_fetch_xor(p, v, __ATOMIC_ACQ_REL);
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
    return __atomic_exchange_n(p, v, __ATOMIC_ACQ_REL);
}
template <class Word> inline Word compare_swap(Word *p, Word condition, Word v)
{
    __atomic_compare_exchange_n(p, &condition, v, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
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
        store_relaxed(word, a);
        if (!flag_lane)
            store_relaxed(word + 1, b);
    }
    sync(warp_scope{}); // the other lanes' words come before the flag
    if (here && flag_lane)
        store_release(word + 1, b); // observer: the flag lane of the receiver, in lines_load
}
inline void pair_store(void *p, u64 a, u64 b)
{
    store_relaxed(static_cast<u64 *>(p), a);
    store_relaxed(static_cast<u64 *>(p) + 1, b);
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
inline vec16 line_load(const void *p)
{
    const u64 *word = static_cast<const u64 *>(p);
    return make_vec16(load_relaxed(word), load_relaxed(word + 1));
}

/* ---- bulk copies: the same slots, filled and emptied by one lane --------------------------------------- */

constexpr bool has_bulk = true;

inline bool bulk_reaches(const void *, const void *)
{
    return true;
}
/* The block's shared memory, and addresses in it. */
inline unsigned char *block_memory()
{
    unsigned char *p = here().block->memory.data();
    return p + (128 - reinterpret_cast<std::uintptr_t>(p) % 128) % 128;
}
inline unsigned shared_address(const void *p)
{
    return static_cast<unsigned>(static_cast<const unsigned char *>(p) - block_memory());
}
/* When the engine does what it is told: at once, or as late as it may. A load is then done when somebody waits for it, a
 * store reads shared memory in bulk_read and writes in bulk_wait; what forgets a wait is wrong in one of the two ways. */
inline bool &late_engine()
{
    static bool late = false;
    return late;
}
/* A completion word: arrivals of a phase in the upper 16 bits, then those that have come, below the phases done. */
inline void bulk_open(u64 *done, unsigned count, unsigned loads = 1)
{
    for (unsigned i = 0; i < count; ++i)
        done[i] = static_cast<u64>(loads) << 48;
}
inline void bulk_fence() {}
inline u64 *bulk_word(unsigned done)
{
    return reinterpret_cast<u64 *>(block_memory() + done);
}
/* With the engine's lock: the phase of a word ends, if all have arrived and its loads are done, or `now` does them. */
inline void bulk_complete(unsigned done, bool now)
{
    block_shared &block = *here().block;
    u64 word = load_relaxed(bulk_word(done));
    if ((word >> 32 & 0xffff) != word >> 48)
        return;
    for (std::size_t i = block.loads.size(); i-- > 0;) {
        if (block.loads[i].done != done)
            continue;
        if (!now)
            return;
        std::memcpy(block_memory() + block.loads[i].to, block.loads[i].from, block.loads[i].bytes);
        block.loads.erase(block.loads.begin() + static_cast<std::ptrdiff_t>(i));
    }
    // observers: the lanes that have arrived, and those that wait in bulk_loaded
    store_release(bulk_word(done), (word >> 48 << 48 | (word & 0xffffffff)) + 1);
}
inline void bulk_arrive(unsigned done)
{
    std::lock_guard<std::mutex> lock(here().block->engine);
    store_release(bulk_word(done), load_relaxed(bulk_word(done)) + (1ull << 32));
    bulk_complete(done, !late_engine());
}
inline void bulk_load_of_many(unsigned to, const unsigned char *from, unsigned bytes, unsigned done)
{
    std::lock_guard<std::mutex> lock(here().block->engine);
    here().block->loads.push_back({to, bytes, done, from});
}
inline void bulk_expect(unsigned done, unsigned)
{
    bulk_arrive(done);
}
inline void bulk_load(unsigned to, const unsigned char *from, unsigned bytes, unsigned done)
{
    bulk_load_of_many(to, from, bytes, done);
    bulk_arrive(done);
}
inline void bulk_loaded(unsigned done, unsigned phase)
{
    while ((load_acquire(bulk_word(done)) & 1) == phase) {
        {
            std::lock_guard<std::mutex> lock(here().block->engine);
            bulk_complete(done, true);
        }
        relax();
    }
}
/* A lane's stores, in groups. */
struct bulk_store_op {
    unsigned char *to;
    unsigned from, bytes;
    std::vector<unsigned char> read;
};
struct bulk_groups {
    std::vector<std::vector<bulk_store_op>> committed;
    std::vector<bulk_store_op> open;
};
inline bulk_groups &my_bulk_groups()
{
    static thread_local bulk_groups groups;
    return groups;
}
inline void bulk_read_op(bulk_store_op &op)
{
    if (op.read.empty())
        op.read.assign(block_memory() + op.from, block_memory() + op.from + op.bytes);
}
inline void bulk_store(unsigned char *to, unsigned from, unsigned bytes)
{
    if (late_engine())
        my_bulk_groups().open.push_back({to, from, bytes, {}});
    else
        std::memcpy(to, block_memory() + from, bytes);
}
inline void bulk_commit()
{
    bulk_groups &mine = my_bulk_groups();
    mine.committed.push_back(std::move(mine.open));
    mine.open.clear();
}
template <int Pending> inline void bulk_read()
{
    auto &groups = my_bulk_groups().committed;
    for (std::size_t i = 0; i + Pending < groups.size(); ++i)
        for (bulk_store_op &op : groups[i])
            bulk_read_op(op);
}
inline void bulk_wait()
{
    for (auto &group : my_bulk_groups().committed)
        for (bulk_store_op &op : group) {
            bulk_read_op(op);
            std::memcpy(op.to, op.read.data(), op.bytes);
        }
    my_bulk_groups().committed.clear();
}
inline void bulk_copy(unsigned char *dst, const unsigned char *src, u64 bytes, unsigned char *slot,
                      unsigned chunk, unsigned slots, u64 *done, unsigned &phases)
{
    unsigned in = 0;
    for (u64 at = 0; at < bytes; at += chunk, in = in + 1 == slots ? 0 : in + 1) {
        std::size_t n = bytes - at < chunk ? static_cast<std::size_t>(bytes - at) : chunk;
        std::memcpy(slot + static_cast<std::size_t>(in) * chunk, src + at, n);
        std::memcpy(dst + at, slot + static_cast<std::size_t>(in) * chunk, n);
        ++done[in];
        phases ^= 1u << in;
    }
}

} // namespace arch

namespace host
{

/* Runs kernel() in blocks * threads lanes, all at once, and returns when every one is done. Each block has
 * shared_bytes of memory (128-byte aligned, zero) at host::shared(). */
template <class Kernel>
void launch(const shmemx_device_state &state, unsigned blocks, unsigned threads, std::size_t shared_bytes,
            Kernel kernel)
{
    std::vector<std::unique_ptr<arch::block_shared>> shared;
    std::vector<std::thread> lanes;
    for (unsigned b = 0; b < blocks; ++b) {
        shared.push_back(std::make_unique<arch::block_shared>(threads, shared_bytes));
        for (unsigned t = 0; t < threads; ++t)
            lanes.emplace_back([&state, &kernel, block = shared.back().get(), threads, t, b, blocks] {
                arch::here() = arch::lane_state{&state, block, t, threads, b, blocks};
                kernel();
            });
    }
    for (std::thread &lane : lanes)
        lane.join();
}
inline unsigned char *shared()
{
    return arch::block_memory();
}

} // namespace host
} // namespace shmem

#endif
