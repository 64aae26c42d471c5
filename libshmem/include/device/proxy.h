/* The proxy path: commands to a thread of the host, which posts them to whatever transport reaches the PE. One thread
 * posts a command by one atomic in the GPU's memory and a few stores of 8 bytes to pinned host memory; a release only where
 * the command names memory that this GPU has written. proxy_state.h has the layout, src/proxy.c the other end.
 *
 * The NIC's side of a put or get may be the heap alone, by address; what begins in the heap must end there. Anything else, shared memory and registers' spill
 * included, goes as a value (8 bytes at most) or through the pinned bytes beside a slot, 512 at a time.
 *
 * No wait here has a deadline of its own: the host's thread executes every command, and where SHMEM_TIMEOUT is set its
 * transport's waits end then with an error, which is the answer. While a call that the thread makes does not return, one
 * of the driver for instance, nothing ends the kernel's wait.
 * Included by shmem_device.h only. */
#ifndef SHMEM_DEVICE_PROXY_H
#define SHMEM_DEVICE_PROXY_H

#include "proxy_state.h"

namespace shmem
{

namespace detail
{

struct proxy {
    SHMEMX_DEVICE_FN static const shmemx_device_proxy &own()
    {
        return *reinterpret_cast<const shmemx_device_proxy *>(fixed(nic().proxy));
    }
    /* What posting needs of the calling block's ring. */
    struct channel {
        SHMEMX_DEVICE_FN channel()
        {
            const shmemx_device_ways &w = arch::state().ways;
            const u32 number = arch::block_index() & (w.rings - 1);
            ring = reinterpret_cast<shmemx_proxy_ring *>(w.ring) + number;
            slots = reinterpret_cast<u64 *>(w.slots + number * w.slots_stride);
            depth = w.depth;
        }
        shmemx_proxy_ring *ring;
        u64 *slots;
        u32 depth;
    };

    /* A command's number in the ring; its slot is free. The host has zeroed the slot before it moved `head`, and this thread
     * stores to it, relaxed, only where the count seen says so: nothing is stored ahead of that branch. Plain stores, to the
     * payload, need the acquire. */
    SHMEMX_DEVICE_FN static u32 claim(const channel &c, bool payload)
    {
        const u64 number = arch::fetch_add(&c.ring->tail, 1ull);
        // acquire; observers: this thread, and, through whoever looked at `head` before, the host, which has read the
        // payload. Relaxed it is in flight beside the addition.
        u64 seen = payload ? arch::load_acquire(&c.ring->head_seen) : arch::load_relaxed(&c.ring->head_seen);
        if (number - seen >= c.depth)
            wait_room(c.ring, c.depth, number);
        return static_cast<u32>(number) & (c.depth - 1);
    }
    SHMEMX_DEVICE_SLOW void wait_room(shmemx_proxy_ring *r, u32 depth, u64 number)
    {
        while (number - arch::load_acquire(&r->head_seen) >= depth) {
            const turn t(&r->look);
            if (t.mine()) {
                const u64 seen = arch::load_acquire(reinterpret_cast<const u64 *>(fixed(r->head)));
                arch::store_release(&r->head_seen,
                                    seen); // may go back a little: then the next one looks again
                t.end();
            }
            arch::give_way();
        }
    }

    SHMEMX_DEVICE_FN static void send(u64 *slot, u64 header, unsigned at, u64 x)
    {
        if (SHMEMX_PROXY_HAS(header) >> at & 1)
            arch::store_relaxed(slot + at, x << 1 | 1);
    }
    SHMEMX_DEVICE_FN static u64 top(unsigned at, u64 x)
    {
        return (x >> 63) << (16 + at);
    }
    /* Writes a command into a slot that was claimed. publish: it names memory that this thread, or others before a barrier,
     * have written or read. */
    SHMEMX_DEVICE_FN static void write(const channel &c, u32 number, u64 header, u64 offset, u64 bytes,
                                       u64 local, u64 value, u64 signal, u64 answer, bool publish)
    {
        u64 *slot = c.slots + static_cast<u64>(number) * SHMEMX_PROXY_WORDS;
        send(slot, header, SHMEMX_PROXY_AT_OFFSET, offset);
        send(slot, header, SHMEMX_PROXY_AT_BYTES, bytes);
        send(slot, header, SHMEMX_PROXY_AT_LOCAL, local);
        send(slot, header, SHMEMX_PROXY_AT_VALUE, value);
        send(slot, header, SHMEMX_PROXY_AT_SIGNAL, signal);
        send(slot, header, SHMEMX_PROXY_AT_ANSWER, answer);
        header |= top(SHMEMX_PROXY_AT_BYTES, bytes) | top(SHMEMX_PROXY_AT_LOCAL, local) |
                  top(SHMEMX_PROXY_AT_VALUE, value) | top(SHMEMX_PROXY_AT_SIGNAL, signal);
        if (publish)
            arch::store_release(slot, header); // observer: the host's thread, which passes the memory on
        else
            arch::store_relaxed(slot, header);
    }
    /* The header of a command that has the words whose bits are set in `has`. */
    SHMEMX_DEVICE_FN static u64 head(unsigned op, unsigned has, int pe, unsigned about = 0)
    {
        return static_cast<u64>(static_cast<u32>(pe)) << 32 | about << 24 | has << 8 | op << 1 | 1;
    }
    static constexpr unsigned where = 1u << SHMEMX_PROXY_AT_OFFSET | 1u << SHMEMX_PROXY_AT_BYTES,
                              local_too = where | 1u << SHMEMX_PROXY_AT_LOCAL,
                              answered = 1u << SHMEMX_PROXY_AT_ANSWER;
    SHMEMX_DEVICE_SLOW void post(u64 header, u64 offset, u64 bytes, u64 local, u64 value, u64 signal,
                                 u64 answer, bool publish)
    {
        const channel c;
        write(c, claim(c, false), header, offset, bytes, local, value, signal, answer, publish);
    }

    /* ---- answers --------------------------------------------------------------------------------------- */

    /* A cell for one answer: its number, and from bit 32 on its turn. */
    SHMEMX_DEVICE_SLOW u64 take()
    {
        auto *turns = reinterpret_cast<u32 *>(fixed(own().turns));
        const u32 mask = fixed(own().cells) - 1;
        for (u32 at = arch::thread_index() + arch::block_index() * 67;; ++at) {  // warps apart, lanes beside
            const u32 cell = at & mask, turn = arch::load_acquire(turns + cell); // observers: as give's
            if (turn % 2 == 0 && arch::compare_swap(turns + cell, turn, turn + 1) == turn)
                return static_cast<u64>((turn / 2 + 1) & 0xffffff) << 32 | cell;
            arch::give_way();
        }
    }
    SHMEMX_DEVICE_FN static unsigned char *payload_of(u64 answer)
    {
        return reinterpret_cast<unsigned char *>(fixed(own().payload)) +
               static_cast<u32>(answer) * static_cast<u64>(SHMEMX_PROXY_PAYLOAD);
    }
    /* The value that the host answers; `status` above 0 is its error. Acquire; observers: the host, which has seen gets and
     * fetches end and has filled the payload, and this thread. By the loads, since a fence waits for this thread's stores
     * as well: 1.5 us where GPUs map each other. Each empties the SM's cache, which slows loads of warps beside up to 4.7
     * times while this waits; relaxed looks and one that acquires at the end leave it to them, and take 0.8 us more (H100). */
    SHMEMX_DEVICE_FN static u64 await(u64 answer, unsigned &status)
    {
        const auto *cell = reinterpret_cast<const u64 *>(
            reinterpret_cast<const shmemx_proxy_answer *>(fixed(own().answers)) + static_cast<u32>(answer));
        const u32 turn = static_cast<u32>(answer >> 32);
        arch::vec16 v = arch::load_pair_acquire(cell);
        while ((v.x >> 32 & 0xffffff) != turn || (v.y >> 32 & 0xffffff) != turn) {
            arch::give_way();
            v = arch::load_pair_acquire(cell);
        }
        status = static_cast<unsigned>(v.x >> 56);
        return (v.x & 0xffffffff) | v.y << 32;
    }
    /* Observers: this thread, which has read answer and payload, and the one of this GPU that takes the cell next
     * and has the host write them anew. */
    SHMEMX_DEVICE_FN static void give(u64 answer)
    {
        auto *word = reinterpret_cast<u32 *>(fixed(own().turns)) + static_cast<u32>(answer);
        arch::store_after_loads(word, arch::load_relaxed(word) + 1);
    }
    SHMEMX_DEVICE_SLOW bool fine(unsigned status, unsigned call, int pe)
    {
        if (status != 0)
            report(SHMEMX_DEVICE_PROXY, call, pe, nullptr, status, 0);
        return status == 0;
    }

    /* ---- the operations (nic.h says what each promises) ------------------------------------------------ */

    SHMEMX_DEVICE_FN static bool captured(const void *src, u64 bytes)
    {
        return bytes <= 8 || !symmetric(src, 1);
    }

    /* By one thread; the host's side is past this SM's cache anyway, and new each time. */
    SHMEMX_DEVICE_FN static void copy_piece(unsigned char *to, const unsigned char *from, unsigned bytes)
    {
        if ((reinterpret_cast<u64>(to) | reinterpret_cast<u64>(from) | bytes) % 8 == 0) {
            SHMEMX_DEVICE_ROLLED
            for (unsigned i = 0; i < bytes; i += 8)
                arch::store_plain(reinterpret_cast<u64 *>(to + i),
                                  arch::load_plain(reinterpret_cast<const u64 *>(from + i)));
            return;
        }
        SHMEMX_DEVICE_ROLLED
        for (unsigned i = 0; i < bytes; ++i)
            arch::store_plain(to + i, arch::load_plain(from + i));
    }
    SHMEMX_DEVICE_FN static u64 load_few(const unsigned char *src, unsigned bytes)
    {
        if (bytes == 8 && reinterpret_cast<u64>(src) % 8 == 0)
            return arch::load_plain(reinterpret_cast<const u64 *>(src));
        if (bytes == 4 && reinterpret_cast<u64>(src) % 4 == 0)
            return arch::load_plain(reinterpret_cast<const u32 *>(src));
        u64 value = 0;
        SHMEMX_DEVICE_ROLLED
        for (unsigned i = 0; i < bytes; ++i)
            value |= static_cast<u64>(arch::load_plain(src + i)) << 8 * i;
        return value;
    }
    /* 1 to 8 bytes, the lowest one first, by one thread. Nothing of it is a call but for the wait: through three calls a
     * `p` took 1.05 us, so it takes 0.48 (H100). */
    SHMEMX_DEVICE_FN static void p(int pe, u64 offset, u64 value, unsigned bytes)
    {
        const channel c;
        write(c, claim(c, false), head(SHMEMX_PROXY_WORD, local_too, pe), offset, bytes, value, 0, 0, 0,
              false);
    }
    /* One thread's bytes, 1 to 512, that are not in the heap. */
    SHMEMX_DEVICE_SLOW void put_piece(int pe, u64 offset, const unsigned char *src, unsigned bytes)
    {
        if (bytes <= 8) {
            p(pe, offset, load_few(src, bytes), bytes);
            return;
        }
        const channel c;
        const u32 number = claim(c, true);
        auto *to = reinterpret_cast<unsigned char *>(fixed(c.ring->payload)) +
                   static_cast<u64>(number) * SHMEMX_PROXY_PAYLOAD;
        copy_piece(to, src, bytes);
        write(c, number, head(SHMEMX_PROXY_PAYLOAD_PUT, where, pe), offset, bytes, 0, 0, 0, 0, true);
    }
    SHMEMX_DEVICE_SLOW void get_piece(int pe, u64 offset, unsigned char *dst, unsigned bytes)
    {
        const u64 answer = take();
        post(head(SHMEMX_PROXY_GET, local_too | answered, pe), offset, bytes, 0, 0, 0, answer, false);
        unsigned status;
        const u64 value = await(answer, status);
        if (fine(status, SHMEMX_DEVICE_CALL_GET, pe))
            copy_piece(dst, bytes > 8 ? payload_of(answer) : reinterpret_cast<const unsigned char *>(&value),
                       bytes);
        give(answer);
    }

    template <class Scope>
    SHMEMX_DEVICE_FN static void put(Scope scope, int pe, u64 offset, const void *src, u64 bytes)
    {
        if (bytes > 8)
            put_long(scope, pe, offset, src, bytes);
        else if (arch::lane(scope) == 0 && bytes != 0)
            p(pe, offset, load_few(static_cast<const unsigned char *>(src), static_cast<u32>(bytes)),
              static_cast<u32>(bytes));
    }
    template <class Scope>
    SHMEMX_DEVICE_SLOW void put_long(Scope scope, int pe, u64 offset, const void *src, u64 bytes)
    {
        if (!captured(src, bytes)) {
            if (arch::lane(scope) == 0)
                post(head(SHMEMX_PROXY_PUT, local_too, pe), offset, bytes, reinterpret_cast<u64>(src), 0, 0,
                     0, true);
            return;
        }
        const u64 step = static_cast<u64>(SHMEMX_PROXY_PAYLOAD) * arch::width(scope);
        SHMEMX_DEVICE_ROLLED
        for (u64 at = arch::lane(scope) * static_cast<u64>(SHMEMX_PROXY_PAYLOAD); at < bytes; at += step)
            put_piece(pe, offset + at, static_cast<const unsigned char *>(src) + at, piece(bytes - at));
    }
    template <class Scope> SHMEMX_DEVICE_SLOW void get(Scope scope, int pe, u64 offset, void *dst, u64 bytes)
    {
        if (symmetric(dst, 1)) {
            if (arch::lane(scope) == 0 && bytes != 0)
                post(head(SHMEMX_PROXY_GET, local_too, pe), offset, bytes, reinterpret_cast<u64>(dst), 0, 0,
                     0, true);
            return;
        }
        const u64 step = static_cast<u64>(SHMEMX_PROXY_PAYLOAD) * arch::width(scope);
        SHMEMX_DEVICE_ROLLED
        for (u64 at = arch::lane(scope) * static_cast<u64>(SHMEMX_PROXY_PAYLOAD); at < bytes; at += step)
            get_piece(pe, offset + at, static_cast<unsigned char *>(dst) + at, piece(bytes - at));
    }
    template <class Scope>
    SHMEMX_DEVICE_SLOW void put_signal(Scope scope, int pe, u64 offset, const void *src, u64 bytes,
                                       u64 sig_offset, u64 value, signal_kind op)
    {
        const bool by_address = bytes == 0 || !captured(src, bytes);
        if (!by_address) {
            put(scope, pe, offset, src, bytes);
            arch::sync(scope);
        }
        if (arch::lane(scope) == 0)
            post(head(SHMEMX_PROXY_PUT_SIGNAL,
                      local_too | 1u << SHMEMX_PROXY_AT_VALUE | 1u << SHMEMX_PROXY_AT_SIGNAL, pe, op),
                 offset, by_address ? bytes : 0, by_address ? reinterpret_cast<u64>(src) : 0, value,
                 sig_offset, 0, true);
    }
    SHMEMX_DEVICE_SLOW u64 amo(int pe, u64 offset, unsigned op, unsigned size, u64 value, u64 cond,
                               bool fetch)
    {
        const u64 answer = fetch ? take() : 0;
        post(head(SHMEMX_PROXY_AMO,
                  1u << SHMEMX_PROXY_AT_OFFSET | 1u << SHMEMX_PROXY_AT_LOCAL | 1u << SHMEMX_PROXY_AT_VALUE |
                      (fetch ? answered : 0),
                  pe, op | (size == 8 ? 0x80u : 0u)),
             offset, 0, value, cond, 0, answer, false);
        if (!fetch)
            return 0;
        unsigned status;
        const u64 old = await(answer, status);
        give(answer);
        return fine(status, SHMEMX_DEVICE_CALL_ATOMIC, pe) ? old : 0;
    }
    template <class Scope> SHMEMX_DEVICE_SLOW bool quiet(Scope scope, int pe)
    {
        bool ok = true;
        if (arch::lane(scope) == 0) {
            const u64 answer = take();
            // no release: what the scope has posted before is in this ring before it, each with its own
            post(head(SHMEMX_PROXY_QUIET, answered, pe), 0, 0, 0, 0, 0, answer, false);
            // observers: the scope's threads (a barrier before), and whoever hears of this PE's arrival next (barrier). While
            // the host works it costs nothing
            arch::fence();
            unsigned status;
            (void)await(answer, status);
            give(answer);
            ok = fine(status, SHMEMX_DEVICE_CALL_QUIET, pe);
        }
        return arch::all(scope, ok);
    }
    template <class Scope> SHMEMX_DEVICE_SLOW void fence(Scope scope, int pe)
    {
        if (arch::lane(scope) == 0)
            post(head(SHMEMX_PROXY_FENCE, 0, pe), 0, 0, 0, 0, 0, 0, false); // as quiet's
    }

  private:
    SHMEMX_DEVICE_FN static unsigned piece(u64 left)
    {
        constexpr unsigned most = SHMEMX_PROXY_PAYLOAD;
        return left < most ? static_cast<unsigned>(left) : most;
    }
};

} // namespace detail

} // namespace shmem

#endif
