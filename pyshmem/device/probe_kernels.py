"""The kernels of `pyshmem.device.probe`: each item by the functions that the library's kernels use, those of
device/arch_*.h, so that a port is measured as it will run."""

from __future__ import annotations

__all__ = ["KERNELS"]

KERNELS = r"""
#include <shmem_device.h>

typedef unsigned long long u64;
using namespace shmem;

constexpr u64 patience_ns = 2000000000ull; // of each wait

/* What a kernel leaves for the host, in words that were 0: how long it took, waits that met their deadline,
 * three counts of what was wrong, and for the first of those what was wanted and what was there. */
enum { TOOK, LATE, COUNT, WANTED = COUNT + 3, FOUND };

static __device__ void note(u64 *out, int what, u64 wanted, u64 found)
{
    if (arch::fetch_add(out + what, (u64)1) != 0)
        return;
    arch::store_relaxed(out + WANTED, wanted);
    arch::store_relaxed(out + FOUND, found);
}

/* Waits until *word is `value`; false, and noted, after the deadline. */
static __device__ bool wait(const u64 *word, u64 value, u64 *out)
{
    const u64 begin = arch::nanoseconds();
    u64 found;
    while ((found = arch::load_acquire(word)) < value) {
        arch::relax();
        if (arch::nanoseconds() - begin > patience_ns) {
            note(out, LATE, value, found);
            return false;
        }
    }
    return true;
}
/* The same by one thread for its block. acquire; observers: who released *word, and this block's threads,
 * behind the barrier. */
static __device__ bool wait_together(const u64 *word, u64 value, u64 *out)
{
    return arch::all(block, arch::lane(block) != 0 || wait(word, value, out));
}

/* words[0] = words[1] + 1 */
extern "C" __global__ void k_store(u64 *words, u64 *out)
{
    arch::store_release(words, arch::load_acquire(words + 1) + 1);
    out[TOOK] = 0;
}

extern "C" __global__ void k_release(u64 *words, int n, u64 *out)
{
    const u64 begin = arch::nanoseconds();
    for (int i = 0; i < n; ++i) {
        arch::store_relaxed(words, (u64)i);
        arch::store_release(words + 8, (u64)i);
    }
    arch::fence();
    out[TOOK] = arch::nanoseconds() - begin;
    out[LATE] = out[TOOK] > 1000000000ull;
}

/* The CPU's part: shmemx_gpu_echo. */
extern "C" __global__ void k_ping(u64 *to_cpu, const u64 *from_cpu, int n, u64 first, u64 *out)
{
    const u64 begin = arch::nanoseconds();
    bool ok = true;
    for (u64 i = first; ok && i < first + n; ++i) {
        arch::store_release(to_cpu, i);
        ok = wait(from_cpu, i, out);
    }
    out[TOOK] = arch::nanoseconds() - begin;
}

extern "C" __global__ void k_add(u64 *word, int n, u64 *out)
{
    const u64 begin = arch::nanoseconds();
    for (int i = 0; i < n; ++i)
        (void)arch::fetch_add(word, (u64)1);
    arch::sync(block);
    if (arch::lane(block) == 0)
        out[TOOK] = arch::nanoseconds() - begin;
}

/* All blocks, n times. */
extern "C" __global__ void k_meet(u64 *counter, int n, u64 *out)
{
    const u64 begin = arch::nanoseconds();
    bool goes = true;
    for (int i = 1; i <= n && goes; ++i) {
        if (arch::lane(block) == 0)
            arch::add_release(counter, 1);
        goes = wait_together(counter, (u64)i * arch::blocks(), out);
    }
    if (arch::block_index() == 0 && arch::lane(block) == 0)
        out[TOOK] = arch::nanoseconds() - begin;
}

/* With naps as the library's waits have them, or without. */
extern "C" __global__ void k_warp(int naps, u64 *out)
{
    const u64 begin = arch::nanoseconds();
    if (arch::lane(warp) == 0) {
        while (arch::load_acquire(out) == 0 && out[LATE] == 0) {
            if (naps != 0)
                arch::nap();
            if (arch::nanoseconds() - begin > 1000000000ull)
                out[LATE] = 1;
        }
    } else if (arch::lane(warp) == arch::warp_width - 1) {
        arch::store_release(out, (u64)1);
    }
}

extern "C" __global__ void k_wait(const u64 *flag, u64 *out)
{
    wait(flag, 1, out);
}

extern "C" __global__ void k_set(u64 *flag)
{
    arch::store_release(flag, (u64)1);
}

/* ---- litmus tests: two sides that run at the same time (probe_litmus.py) ------------------------------- */

/* Message passing. A side's memory: a flag; a word for each thread of the other side, which stores it; and a
 * word from each of its own, for the other side to load. 128 bytes apart: none travels with another. */
constexpr unsigned line = 16;

static __device__ void tell(u64 *here, u64 *there, u64 round)
{
    const unsigned at = line * (1 + arch::lane(block));
    arch::store_plain(there + at, round);
    arch::store_plain(here + at + line * arch::width(block), round);
    arch::sync(block);
    // observers: this thread, which has seen its block's stores through the barrier, and the other side,
    // which acquires the flag
    if (arch::lane(block) == 0)
        arch::store_release(there, round);
}
static __device__ bool told(const u64 *here, const u64 *there, u64 round, int loads, u64 *out)
{
    if (!wait_together(here, round, out))
        return false;
    const unsigned at = line * (1 + arch::lane(block));
    const u64 stored = arch::load_plain(here + at);
    if (stored != round)
        note(out, COUNT, round, stored);
    if (loads == 0)
        return true;
    const u64 loaded = arch::load_remote(there + at + line * arch::width(block));
    if (loaded != round)
        note(out, COUNT + 1, round, loaded);
    return true;
}
/* One side begins, the other answers; an answer frees the words, since it is released after they were read.
 * The CPU's part, without words to load: shmemx_gpu_messages. */
extern "C" __global__ void k_messages(u64 *here, u64 *there, int begins, int loads, int rounds, u64 *out)
{
    const u64 begin = arch::nanoseconds();
    bool goes = true;
    for (u64 round = 1; goes && round <= (u64)rounds; ++round) {
        if (begins != 0)
            tell(here, there, round);
        goes = told(here, there, round, loads, out);
        if (goes && begins == 0)
            tell(here, there, round);
    }
    if (arch::lane(block) == 0)
        out[TOOK] = arch::nanoseconds() - begin;
}

/* Every atomic, by `threads` threads, of which these are number `first` and following: on words[0] additions
 * (`rounds` each), on words[1] exchanges, on words[2] additions without a result, on words[3] the maximum;
 * from words[16] on "or", "xor" and "and" of the thread's own bit, then words that the first to come takes.
 * Old values of additions and exchanges are kept for the host. Counted: threads with a wrong old value of the
 * others; words taken. */
template <class T>
static __device__ void atomics(T *words, T *olds, const u64 *gate_here, u64 *gate_there, unsigned first,
                               unsigned threads, int own, int rounds, u64 *out)
{
    const u64 begin = arch::nanoseconds();
    if (rounds == 0)
        return;
    // Every block touches what is on the other GPU, then waits for all of the other side: a page's first
    // touch takes 0.1 to 0.3 ms there (H100), in which one side would be done, as it would while its gate
    // is on the way. What is loaded, zeros, is part of what is stored: ptxas drops a load that nobody
    // needs. Gates are stored, not added to: atomics are what is tested.
    const unsigned lane = arch::lane(block);
    if (lane == 0) {
        u64 *const gate = gate_there + arch::block_index();
        const u64 touched = arch::fetch_add(words, (T)0) + arch::load_relaxed(gate);
        // observers: this block, which has touched, and all blocks of the other side
        arch::store_release(gate, touched + 1);
    }
    if (!arch::all(block, lane >= arch::blocks() || wait(gate_here + lane, 1, out)))
        return;
    const unsigned mine = arch::block_index() * arch::width(block) + lane, me = first + mine;
    for (int i = 0; i < rounds; ++i)
        olds[(u64)mine * rounds + i] = arch::fetch_add(words, (T)1);
    olds[(u64)arch::blocks() * arch::width(block) * rounds + mine] = arch::swap(words + 1, (T)(me + 1));
    arch::add_relaxed(words + 2, (T)1);
    if constexpr (sizeof(T) == 8)
        if (own != 0)
            arch::max_relaxed(words + 3, (u64)me + 1);
    const unsigned sets = threads / (8 * sizeof(T)), at = me % sets;
    const T bit = (T)1 << me / sets;
    T *const set = words + 16 + at;
    const T ored = arch::fetch_or(set, bit), xored = arch::fetch_xor(set + sets, bit),
            anded = arch::fetch_and(set + 2 * sets, (T)~bit);
    if ((ored & bit) != 0 || (xored & bit) != 0 || (anded & bit) == 0)
        note(out, COUNT, bit, ored);
    if (arch::compare_swap(set + 3 * sets, (T)0, (T)(me + 1)) == 0)
        (void)arch::fetch_add(out + COUNT + 1, (u64)1);
    if (mine == 0)
        out[TOOK] = arch::nanoseconds() - begin;
}
extern "C" __global__ void k_atomics4(u32 *words, u32 *olds, const u64 *gate_here, u64 *gate_there,
                                      unsigned first, unsigned threads, int own, int rounds, u64 *out)
{
    atomics(words, olds, gate_here, gate_there, first, threads, own, rounds, out);
}
extern "C" __global__ void k_atomics8(u64 *words, u64 *olds, const u64 *gate_here, u64 *gate_there,
                                      unsigned first, unsigned threads, int own, int rounds, u64 *out)
{
    atomics(words, olds, gate_here, gate_there, first, threads, own, rounds, out);
}

/* Packets. Until the last words of all lines that this warp looks at are `value`. Counted: words with halves
 * of two rounds, 16 bytes of two rounds, and 16 bytes that are not there though their line's last word is. */
static __device__ bool lines_come(const u64 *at, u64 value, u64 *out)
{
    const u64 begin = arch::nanoseconds();
    const unsigned last = arch::lane(warp) | 7;
    for (bool came = false;;) {
        const arch::vec16 v = arch::line_load(at);
        const bool had = came;
        came = (arch::ballot(v.y == value) >> last & 1) != 0;
        if ((u32)v.x != v.x >> 32 || (u32)v.y != v.y >> 32)
            note(out, COUNT, v.x, v.y);
        if (v.x != v.y)
            note(out, COUNT + 1, v.x, v.y);
        if (came && !had && (v.x != value || v.y != value))
            note(out, COUNT + 2, value, v.x != value ? v.x : v.y);
        if (arch::all(warp, came))
            return true;
        arch::relax();
        if (!arch::all(warp, arch::nanoseconds() - begin <= patience_ns)) {
            if (!came)
                note(out, LATE, (u32)value, (u32)v.y);
            return false;
        }
    }
}
/* One side stores lines of 128 bytes, 16 a thread; the other looks, and each of its blocks answers. */
extern "C" __global__ void k_lines(u64 *lines, u64 *answers, int stores, int rounds, u64 *out)
{
    u64 *const mine = lines + 2 * (arch::block_index() * arch::width(block) + arch::lane(block));
    u64 *const answer = answers + line * arch::block_index();
    const u64 begin = arch::nanoseconds();
    bool goes = true;
    for (u64 round = 1; goes && round <= (u64)rounds; ++round) {
        const u64 value = round << 32 | round;
        if (stores != 0) {
            arch::line_store(mine, true, value, value, arch::lane(warp) % 8 == 7);
            goes = wait_together(answer, round, out);
        } else {
            goes = arch::all(block, lines_come(mine, value, out));
            // observers: this thread, whose block has read its lines, and the other side, which stores again
            if (goes && arch::lane(block) == 0)
                arch::store_release(answer, round);
        }
    }
    if (arch::block_index() == 0 && arch::lane(block) == 0)
        out[TOOK] = arch::nanoseconds() - begin;
}

/* Message passing by the copy engine: 16 KiB from one side's memory into the other's, then a flag. */
constexpr unsigned bulk_words = 2048, bulk_chunk = 4096, bulk_slots = 3;

extern "C" __global__ void k_bulk(u64 *source, u64 *target, u64 *flag, u64 *answer, int stores, int rounds,
                                  u64 *out)
{
    __shared__ __align__(128) unsigned char slots[bulk_chunk * bulk_slots];
    __shared__ u64 done[bulk_slots];
    const unsigned lane = arch::lane(block), width = arch::width(block);
    if (lane == 0)
        arch::bulk_open(done, bulk_slots);
    arch::sync(block);
    const u64 begin = arch::nanoseconds();
    unsigned phases = 0;
    bool goes = true;
    for (u64 round = 1; goes && round <= (u64)rounds; ++round) {
        if (stores != 0) {
            for (unsigned i = lane; i < bulk_words; i += width)
                arch::store_plain(source + i, round << 32 | i);
            // observers: this thread, which has written the source, and the copy engine, which reads it
            arch::bulk_fence();
            arch::sync(block);
            if (lane == 0) {
                arch::bulk_copy((unsigned char *)target, (const unsigned char *)source, 8 * bulk_words, slots,
                                bulk_chunk, bulk_slots, done, phases);
                arch::bulk_wait();
                // observers: this thread, which has waited for the engine's stores, and the other side, which
                // acquires the flag
                arch::store_release(flag, round);
            }
            goes = wait_together(answer, round, out);
        } else {
            goes = wait_together(flag, round, out);
            for (unsigned i = lane; goes && i < bulk_words; i += width) {
                const u64 found = arch::load_plain(target + i);
                if (found != (round << 32 | i))
                    note(out, COUNT, round << 32 | i, found);
            }
            arch::sync(block);
            // observers: this thread, whose block has read the words, and the other side, which copies again
            if (goes && lane == 0)
                arch::store_release(answer, round);
        }
    }
    if (lane == 0)
        out[TOOK] = arch::nanoseconds() - begin;
}

/* ---- threads of a warp, streams ------------------------------------------------------------------------ */

/* Groups by the lane's number modulo 5: of whole warps, and of those lanes of a branch that come together.
 * Counted: lanes with a wrong group of either kind; what the sizes of the second lack of all its lanes. */
extern "C" __global__ void k_groups(u64 *out)
{
    const unsigned lane = arch::lane(warp), key = lane % 5;
    const bool some = lane % 3 == 1;
    const arch::group whole = arch::group_of(warp, key);
    const u64 leader = whole.from_first(lane);
    const u32 yes = arch::ballot(some), other = arch::shuffle_xor(lane, 5);
    if (whole.size() != (arch::warp_width - 1 - key) / 5 + 1 || whole.rank() != lane / 5 || leader != key)
        note(out, COUNT, key, leader);
    if ((yes >> lane & 1) != some || arch::count_bits(yes) != (arch::warp_width + 1) / 3 ||
        other != (lane ^ 5))
        note(out, COUNT, lane ^ 5, other);
    if (some) {
        const arch::group here = arch::group_of(thread, key);
        const u64 first = here.from_first(lane);
        if (first % 3 != 1 || first % 5 != key || first > lane || here.rank() >= here.size())
            note(out, COUNT + 1, lane, first);
        (void)arch::fetch_add(out + COUNT + 2, (u64)(here.rank() == 0 ? here.size() : 0) - 1);
    }
}

/* words[..] = value, one a thread, not before `ns` have passed. */
extern "C" __global__ void k_slow(u64 *words, u64 value, u64 ns)
{
    for (const u64 begin = arch::nanoseconds(); arch::nanoseconds() - begin < ns;)
        arch::nap();
    words[arch::lane(block)] = value;
}
extern "C" __global__ void k_compare(const u64 *words, u64 value, u64 *out)
{
    const u64 found = words[arch::lane(block)];
    if (found != value)
        note(out, COUNT, value, found);
}

/* As much shared memory as the launch gives, each word written and read. */
extern __shared__ unsigned room[];

extern "C" __global__ void k_shared(int words, u64 *out)
{
    const unsigned lane = arch::lane(block), width = arch::width(block);
    for (unsigned i = lane; i < (unsigned)words; i += width)
        room[i] = 7 * i + 1;
    arch::sync(block);
    for (unsigned i = width - 1 - lane; i < (unsigned)words; i += width)
        if (room[i] != 7 * i + 1)
            note(out, COUNT, 7 * i + 1, room[i]);
}
"""
