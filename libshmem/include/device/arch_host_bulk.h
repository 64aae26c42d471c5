/* The copy engine of an SM (TMA) on CPU threads, as strict as PTX describes it; part of arch_host.h.
 *
 * A launch has one engine, a thread that copies what lanes have asked for. It shares nothing with them but what the
 * hardware shares: a load ends by bytes that a completion word counts, a store by two steps that only the lane that has
 * committed it can wait for. So ThreadSanitizer sees a slot that is written too early. What PTX forbids ends the program:
 * addresses and sizes that are no multiples of 16, an arrival that nobody expects, a load over an open completion word,
 * a waiter that a phase has overtaken, a lane that ends with stores or loads under way.
 * Included by arch_host.h only. */
#ifndef SHMEM_DEVICE_ARCH_HOST_BULK_H
#define SHMEM_DEVICE_ARCH_HOST_BULK_H

#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>

namespace shmem
{
namespace arch
{

constexpr bool has_bulk = true;

/* When the engine does what it is told: at once; as late as it may, when somebody waits for it; or at any time, piece by
 * piece, one before the other, and lanes pause here and there. What forgets a wait is wrong in one of these ways. */
enum class pace { at_once, late, any };
inline pace &engine_pace()
{
    static pace now = pace::at_once;
    return now;
}

[[noreturn]] inline void bulk_misuse(const char *what, u64 a, u64 b)
{
    std::fprintf(stderr, "copy engine, block %u, thread %u: %s (%llu, %llu)\n", block_index(), thread_index(),
                 what, a, b);
    std::abort();
}

/* A lane's place in the order of things, made uncertain. */
inline void jitter()
{
    if (engine_pace() != pace::any)
        return;
    static thread_local std::minstd_rand random(
        static_cast<unsigned>(reinterpret_cast<std::uintptr_t>(&here()) >> 6));
    if (random() % 64 == 0)
        std::this_thread::sleep_for(std::chrono::microseconds(random() % 200));
}

/* The block's shared memory, and addresses in it. */
inline unsigned char *block_memory()
{
    return here().block->begin();
}
inline unsigned shared_address(const void *p)
{
    return static_cast<unsigned>(static_cast<const unsigned char *>(p) - block_memory());
}
inline bool bulk_reaches(const void *, const void *)
{
    return true;
}

/* ---- completion words ------------------------------------------------------------------------------------ */

/* From the lowest bit on: phases done (16 bits), arrivals that are missing in this one and in each (9 bits each), bytes
 * that are expected, less those that have come (signed, 30 bits). */
struct bulk_word {
    unsigned phase, missing, each;
    int bytes;

    static bulk_word of(u64 w)
    {
        return bulk_word{static_cast<unsigned>(w & 0xffff), static_cast<unsigned>(w >> 16 & 0x1ff),
                         static_cast<unsigned>(w >> 25 & 0x1ff),
                         static_cast<int>(static_cast<long long>(w) >> 34)};
    }
    u64 bits() const
    {
        return (phase & 0xffffu) | static_cast<u64>(missing) << 16 | static_cast<u64>(each) << 25 |
               static_cast<u64>(static_cast<long long>(bytes)) << 34;
    }
};
/* One step of a word: `arrivals` come, `bytes` are expected (less than 0: have come). release; observers: who arrives, or
 * the engine, and the lanes that wait in bulk_loaded */
inline void bulk_step(u64 *word, unsigned arrivals, int bytes)
{
    u64 old = __atomic_load_n(word, __ATOMIC_RELAXED), next;
    do {
        bulk_word w = bulk_word::of(old);
        if (w.each == 0 || w.missing < arrivals)
            bulk_misuse("an arrival that the word was not opened for", w.each, w.missing);
        w.missing -= arrivals;
        w.bytes += bytes;
        if (w.bytes >= 1 << 20 || w.bytes <= -(1 << 20))
            bulk_misuse("more bytes than a completion word can count", static_cast<u64>(w.bytes), 0);
        if (w.missing == 0 && w.bytes == 0) {
            w.missing = w.each;
            ++w.phase;
        }
        next = w.bits();
    } while (!__atomic_compare_exchange_n(word, &old, next, true, __ATOMIC_RELEASE, __ATOMIC_RELAXED));
}

/* ---- the engine ------------------------------------------------------------------------------------------ */

struct bulk_op {
    unsigned char *to;
    const unsigned char *from;
    unsigned bytes;
    u64 *done;                            // the word that counts a load's bytes; null: a store
    bulk_op *next = nullptr;              // in the engine's mailbox
    unsigned copied = 0;                  // by the engine
    std::vector<unsigned char> read = {}; // by a store
    unsigned steps = 0, wanted = 0;       // of a store: 1 it has read, 2 it has written
};

class bulk_engine
{
  public:
    bulk_engine() : thread_([this] { work(); }) {}
    ~bulk_engine()
    {
        __atomic_store_n(&stop_, true, __ATOMIC_RELAXED);
        thread_.join();
    }
    bulk_engine(const bulk_engine &) = delete;
    bulk_engine &operator=(const bulk_engine &) = delete;

    /* release; observers: the lane that asks, and the engine. The lane learns nothing of what the engine has done. */
    void ask(bulk_op *op)
    {
        op->next = __atomic_load_n(&mailbox_, __ATOMIC_RELAXED);
        while (
            !__atomic_compare_exchange_n(&mailbox_, &op->next, op, true, __ATOMIC_RELEASE, __ATOMIC_RELAXED))
            ;
    }
    /* Somebody waits for loads: late ones are done now. */
    void hurry()
    {
        __atomic_store_n(&hurry_, true, __ATOMIC_RELAXED);
    }
    /* Loads that are not done yet. */
    unsigned loads() const
    {
        return __atomic_load_n(&loads_, __ATOMIC_RELAXED);
    }
    void count_load()
    {
        __atomic_fetch_add(&loads_, 1u, __ATOMIC_RELAXED);
    }

  private:
    void take()
    {
        for (bulk_op *op = __atomic_exchange_n(&mailbox_, nullptr, __ATOMIC_ACQUIRE); op != nullptr;) {
            bulk_op *after = op->next;
            ops_.push_back(op);
            op = after;
        }
    }
    /* Whether the op is over. */
    bool step(bulk_op *op, bool whole)
    {
        if (op->done == nullptr) {
            if (op->steps == 0)
                op->read.assign(op->from, op->from + op->bytes);
            else
                std::memcpy(op->to, op->read.data(), op->bytes);
            const bool over = op->steps == 1;
            // release; observers: the engine, and the lane that waits in bulk_read or bulk_wait
            __atomic_store_n(&op->steps, op->steps + 1, __ATOMIC_RELEASE);
            return over;
        }
        const unsigned left = op->bytes - op->copied;
        const unsigned n = whole ? left : 16 * (1 + static_cast<unsigned>(random_()) % (left / 16));
        std::memcpy(op->to + op->copied, op->from + op->copied, n);
        op->copied += n;
        u64 *done = op->done;
        const bool over = n == left;
        if (over) {
            delete op;
            __atomic_fetch_sub(&loads_, 1u, __ATOMIC_RELAXED);
        }
        bulk_step(done, 0, -static_cast<int>(n));
        return over;
    }
    void work()
    {
        for (;;) {
            const bool stop = __atomic_load_n(&stop_, __ATOMIC_RELAXED);
            take();
            if (ops_.empty()) {
                if (stop)
                    return;
                std::this_thread::yield();
                continue;
            }
            const pace how = engine_pace();
            const bool loads = how != pace::late || __atomic_exchange_n(&hurry_, false, __ATOMIC_RELAXED);
            bool some = false;
            for (std::size_t tries = ops_.size(); tries-- > 0 && !ops_.empty();) {
                const std::size_t i =
                    how == pace::at_once ? 0 : static_cast<std::size_t>(random_()) % ops_.size();
                bulk_op *op = ops_[i];
                if (how == pace::any && random_() % 8 == 0)
                    break; // it rests
                const bool now =
                    how != pace::late ||
                    (op->done != nullptr ? loads
                                         : __atomic_load_n(&op->wanted, __ATOMIC_RELAXED) > op->steps);
                if (!now)
                    continue;
                some = true;
                if (step(op, how == pace::at_once)) {
                    ops_[i] = ops_.back();
                    ops_.pop_back();
                }
            }
            if (!some)
                std::this_thread::yield();
        }
    }

    bulk_op *mailbox_ = nullptr;
    std::vector<bulk_op *> ops_;
    std::minstd_rand random_{5};
    unsigned loads_ = 0;
    bool stop_ = false, hurry_ = false;
    std::thread thread_;
};

/* ---- what a lane has under way ---------------------------------------------------------------------------- */

struct bulk_lane {
    std::vector<std::vector<std::unique_ptr<bulk_op>>> committed;
    std::vector<std::unique_ptr<bulk_op>> open;
    std::map<unsigned, unsigned> waits; // phases of each word that this lane has waited for

    /* When a lane ends: nothing may be under way. */
    void end() const
    {
        for (const auto &group : committed)
            for (const auto &op : group)
                if (__atomic_load_n(&op->steps, __ATOMIC_ACQUIRE) < 2)
                    bulk_misuse("a lane has ended before its stores", op->bytes, op->steps);
        if (!open.empty())
            bulk_misuse("a lane has ended with stores that it has not committed", open.size(), 0);
    }
};
inline bulk_lane &my_bulk()
{
    static thread_local bulk_lane mine;
    return mine;
}

inline u64 *word_at(unsigned done)
{
    return reinterpret_cast<u64 *>(block_memory() + done);
}
inline void bulk_open(u64 *done, unsigned count, unsigned loads = 1)
{
    for (unsigned i = 0; i < count; ++i) {
        __atomic_store_n(done + i, bulk_word{0, loads, loads, 0}.bits(), __ATOMIC_RELAXED);
        here().block->words.push_back(shared_address(done + i));
    }
}
inline void bulk_fence() {}
inline void bulk_fence_shared() {}
inline void bulk_arrive(unsigned done)
{
    jitter();
    bulk_step(word_at(done), 1, 0);
}
inline void bulk_check(unsigned shared, const void *global, unsigned bytes)
{
    if (shared % 16 != 0 || reinterpret_cast<std::uintptr_t>(global) % 16 != 0 || bytes % 16 != 0 ||
        bytes == 0)
        bulk_misuse("no multiples of 16", shared | reinterpret_cast<std::uintptr_t>(global), bytes);
    if (static_cast<std::size_t>(shared) + bytes > here().block->bytes)
        bulk_misuse("beyond the shared memory", shared, bytes);
}
inline void bulk_load_of_many(unsigned to, const unsigned char *from, unsigned bytes, unsigned done)
{
    jitter();
    bulk_check(to, from, bytes);
    for (unsigned word : here().block->words)
        if (word + 8 > to && word < to + bytes)
            bulk_misuse("a load over an open completion word", to, word);
    bulk_engine &engine = *here().block->engine;
    engine.count_load();
    engine.ask(new bulk_op{block_memory() + to, from, bytes, word_at(done)});
}
inline void bulk_expect(unsigned done, unsigned bytes)
{
    jitter();
    bulk_step(word_at(done), 1, static_cast<int>(bytes));
}
inline void bulk_load(unsigned to, const unsigned char *from, unsigned bytes, unsigned done)
{
    bulk_expect(done, bytes);
    bulk_load_of_many(to, from, bytes, done);
}
inline void bulk_loaded(unsigned done, unsigned phase)
{
    jitter();
    unsigned &waits = my_bulk().waits[done];
    if ((waits & 1) != phase)
        bulk_misuse("a lane waits for a phase that is not the next", waits, phase);
    // acquire; pairs with bulk_step
    while ((__atomic_load_n(word_at(done), __ATOMIC_ACQUIRE) & 1) == phase) {
        here().block->engine->hurry();
        relax();
    }
    ++waits;
    const unsigned now = bulk_word::of(__atomic_load_n(word_at(done), __ATOMIC_RELAXED)).phase;
    if (now != (waits & 0xffff))
        bulk_misuse("a phase has overtaken a lane that waits for an earlier one", now, waits);
}
inline void bulk_store(unsigned char *to, unsigned from, unsigned bytes)
{
    jitter();
    bulk_check(from, to, bytes);
    my_bulk().open.emplace_back(new bulk_op{to, block_memory() + from, bytes, nullptr});
    here().block->engine->ask(my_bulk().open.back().get());
}
inline void bulk_commit()
{
    bulk_lane &mine = my_bulk();
    mine.committed.push_back(std::move(mine.open));
    mine.open.clear();
}
/* All groups but the last `pending` have come to that step. acquire; pairs with the engine's */
inline void bulk_await(std::size_t pending, unsigned steps)
{
    jitter();
    auto &groups = my_bulk().committed;
    for (std::size_t i = 0; i + pending < groups.size(); ++i)
        for (const auto &op : groups[i]) {
            __atomic_store_n(&op->wanted, steps, __ATOMIC_RELAXED);
            while (__atomic_load_n(&op->steps, __ATOMIC_ACQUIRE) < steps)
                relax();
        }
}
template <int Pending> inline void bulk_read()
{
    bulk_await(Pending, 1);
}
inline void bulk_wait()
{
    bulk_await(0, 2);
    my_bulk().committed.clear();
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
} // namespace shmem

#endif
