/* Kernels post to an mlx5 NIC themselves. The queues are described in ibgda_state.h, WQEs in ibgda_wqe.h.
 *
 * Posting. Blocks of a send queue are reserved by one atomic addition, written by their owners at the same time, and
 * published in the order of their numbers: whoever is next adds its own to `ready`. A doorbell is rung by whoever
 * publishes, while it is its turn, so the record never goes back and never announces a block that is not written. It is
 * left to a later reservation where there is one: that one cannot end without ringing, or leaving it to a still later
 * one; and never for more than a quarter of the queue, so that whoever waits for room always gets it. Threads of a warp
 * that post to one queue pair at the same time share a reservation and a doorbell.
 *
 * Queue pairs. A block posts to queue pair (its number modulo how many there are) of each PE, so that what it does to a
 * PE happens there in order: RDMA writes and atomics of one queue pair do. Callers that choose queue pairs themselves
 * (`at`) have order within each.
 *
 * Local memory. The NIC reads and writes the heap, which is registered, and nothing else of this PE: puts of
 * other memory (registers, shared memory) go inside of WQEs, SHMEMX_IBGDA_MOST_INLINE bytes each; gets to other memory come
 * through the queue pair's answers, SHMEMX_IBGDA_ANSWER bytes at a time, and are complete on return.
 *
 * Included by shmem_device.h only. */
#ifndef SHMEM_DEVICE_IBGDA_H
#define SHMEM_DEVICE_IBGDA_H

#include "ibgda_cq.h"
#include "ibgda_wqe.h"

namespace shmem::detail
{

struct ibgda {
    using qp = shmemx_ibgda_qp;

    /* ---- the members that device/nic.h knows of every path ---- */

    /* `src` may change on return where it is no memory of the heap, or has at most 28 bytes; else after quiet. The
     * leader posts: the scope has met before if others wrote the source. */
    template <class Scope>
    SHMEMX_DEVICE_FN static void put(Scope scope, int pe, u64 offset, const void *src, u64 bytes)
    {
        if (arch::lane(scope) == 0)
            put_on(mine(pe), offset, src, bytes);
    }
    template <class Scope>
    SHMEMX_DEVICE_FN static void get(Scope scope, int pe, u64 offset, void *dst, u64 bytes)
    {
        if (registers(dst)) {
            if (arch::lane(scope) == 0)
                get_on(mine(pe), offset, dst, bytes);
        } else {
            bring(mine(pe), offset, dst, bytes, arch::lane(scope), arch::width(scope));
        }
    }
    /* The signal is set or added to behind the data, in the same queue. */
    template <class Scope>
    SHMEMX_DEVICE_FN static void put_signal(Scope scope, int pe, u64 offset, const void *src, u64 bytes,
                                            u64 sig_offset, u64 value, signal_kind op)
    {
        if (arch::lane(scope) == 0)
            put_signal_on(mine(pe), offset, src, bytes, sig_offset, value, op);
    }
    SHMEMX_DEVICE_FN static u64 amo(int pe, u64 offset, atomic_op op, unsigned size, u64 value, u64 cond,
                                    bool fetch)
    {
        return amo_on(mine(pe), offset, op, size, value, cond, fetch);
    }
    /* Everything that any thread has posted to that PE, by any queue pair, before the call: complete. The lanes share the
     * queue pairs. Begins and ends with a barrier of the scope. */
    template <class Scope> SHMEMX_DEVICE_FN static bool quiet(Scope scope, int pe)
    {
        const u32 each = arch::state().ways.qps;
        const u32 first = pe < 0 ? 0 : static_cast<u32>(pe) * each;
        const u32 count = pe < 0 ? static_cast<u32>(arch::state().npes) * each : each;
        arch::sync(scope);
        // mapped PEs have atomics alone under way, and mostly none: one load instead of one for each queue pair to them
        const bool passes = pe < 0 && arch::load_relaxed(&nic().amos) == 0;
        bool ok = true;
        SHMEMX_DEVICE_ROLLED
        for (u32 i = arch::lane(scope); i < count; i += arch::width(scope))
            if (!passes || path_to(static_cast<int>(i / each)) != SHMEMX_NIC_MAPPED)
                ok = settle_qp(pairs()[first + i]) && ok;
        return arch::all(scope, ok);
    }
    /* A block's posts to a PE are in one queue, which keeps their order at the target: writes and atomics. */
    template <class Scope> SHMEMX_DEVICE_FN static void fence(Scope, int) {}

    /* May src change once its put is posted? */
    SHMEMX_DEVICE_FN static bool captured(const void *src, u64 bytes)
    {
        return bytes <= inline_block || !registers(src);
    }

    /* ---- for callers that choose the queue pair ---- */

    SHMEMX_DEVICE_FN static const shmemx_device_ibgda &view()
    {
        return *reinterpret_cast<const shmemx_device_ibgda *>(fixed(nic().ibgda));
    }
    SHMEMX_DEVICE_FN static qp *pairs()
    {
        return reinterpret_cast<qp *>(arch::state().ways.qp);
    }
    /* Queue pair `number` to a PE, 0 to qps - 1. */
    SHMEMX_DEVICE_FN static qp &at(int pe, u32 number)
    {
        return pairs()[static_cast<u32>(pe) * arch::state().ways.qps + number];
    }
    SHMEMX_DEVICE_FN static qp &mine(int pe)
    {
        return at(pe, arch::block_index() & (arch::state().ways.qps - 1));
    }
    SHMEMX_DEVICE_SLOW void put_on(qp &pair, u64 offset, const void *src, u64 bytes)
    {
        const queue q(pair);
        if (oversized(q, SHMEMX_DEVICE_CALL_PUT, src, bytes))
            return;
        const bool registered = registers(src);
        const auto *from = static_cast<const unsigned char *>(src);
        SHMEMX_DEVICE_ROLLED
        while (bytes != 0) {
            const u64 n = post_piece(thread, q, offset, from, bytes, registered);
            if (n == 0)
                return;
            offset += n;
            from += n;
            bytes -= n;
        }
    }
    /* Every thread of a warp (or of a block of whole warps) has a put of its own, to whichever PEs, of whichever sizes;
     * those of a warp that go to one queue pair and take as many blocks cost one reservation and one doorbell. By `thread`
     * that is so for threads that happen to come together. */
    template <class Scope>
    SHMEMX_DEVICE_FN static void put_each(Scope, qp &pair, u64 offset, const void *src, u64 bytes)
    {
        const queue q(pair);
        const bool registered = registers(src);
        const bool single = bytes != 0 && piece(q, offset, src, bytes, registered).n == bytes;
        if (arch::all(warp, single))
            (void)post_piece(warp, q, offset, static_cast<const unsigned char *>(src), bytes, registered);
        else
            put_on(pair, offset, src, bytes);
    }
    /* Pieces of this PE's memory, one behind the other at the peer: as many as one WQE takes of those that lie in one chunk of
     * the heap, the others as puts of their own, in order. */
    SHMEMX_DEVICE_SLOW void gather_on(qp &pair, u64 offset, const gather_piece *list, u64 count)
    {
        const queue q(pair);
        SHMEMX_DEVICE_ROLLED
        while (count != 0) {
            u64 bytes = 0;
            u32 n = 0;
            SHMEMX_DEVICE_ROLLED
            for (; n < count && n < most_parts; ++n) {
                const u64 size = list[n].bytes, all = bytes + size;
                u64 here = size, there = all;
                if (size == 0 || !registers(list[n].src) || all > view().most)
                    break;
                (void)local(q, list[n].src, here);
                (void)remote(q, offset, there);
                if (here != size || there != all)
                    break;
                bytes = all;
            }
            if (n < 2) {
                put_on(pair, offset, list->src, list->bytes);
                offset += list->bytes;
                ++list, --count;
                continue;
            }
            u64 all = bytes;
            const nic_place there = remote(q, offset, all);
            const u32 blocks = blocks_of(2 + n);
            if (post(arch::group_of(thread, key(q, blocks)), q, 0, blocks, SHMEMX_DEVICE_CALL_PUT,
                     [&](u64 block, u32 flags) {
                         build_gather(
                             wqe(q, block), there, n,
                             [&](u32 i) {
                                 u64 size = list[i].bytes;
                                 return gather_part{local(q, list[i].src, size), static_cast<u32>(size)};
                             },
                             flags);
                     }) == refused)
                return;
            offset += bytes, list += n, count -= n;
        }
    }
    SHMEMX_DEVICE_SLOW void get_on(qp &pair, u64 offset, void *dst, u64 bytes)
    {
        const queue q(pair);
        if (oversized(q, SHMEMX_DEVICE_CALL_GET, dst, bytes))
            return;
        auto *to = static_cast<unsigned char *>(dst);
        SHMEMX_DEVICE_ROLLED
        while (bytes != 0) {
            u64 n = bytes < view().most ? bytes : view().most;
            const nic_place there = remote(q, offset, n), here = local(q, to, n);
            if (post(arch::group_of(thread, key(q, 1)), q, 0, 1, SHMEMX_DEVICE_CALL_GET,
                     [&](u64 block, u32 flags) {
                         build_read(wqe(q, block), there, here, static_cast<u32>(n), flags);
                     }) == refused)
                return;
            offset += n;
            to += n;
            bytes -= n;
        }
    }
    /* The data's last piece and the signal are one reservation. */
    SHMEMX_DEVICE_SLOW void put_signal_on(qp &pair, u64 offset, const void *src, u64 bytes, u64 sig_offset,
                                          u64 value, signal_kind op)
    {
        const queue q(pair);
        if (oversized(q, SHMEMX_DEVICE_CALL_PUT_SIGNAL, src, bytes))
            return;
        const bool registered = registers(src);
        const auto *from = static_cast<const unsigned char *>(src);
        piece_of_put p = piece(q, offset, from, bytes, registered);
        SHMEMX_DEVICE_ROLLED
        for (; p.n < bytes; p = piece(q, offset, from, bytes, registered)) {
            const u64 n = post_piece(thread, q, offset, from, bytes, registered);
            if (n == 0)
                return;
            offset += n;
            from += n;
            bytes -= n;
        }
        u64 room = 8;
        const nic_place signal = remote(q, sig_offset, room);
        const atomic_op what = op == signal_set ? amo_set : amo_add;
        const u32 data = bytes == 0 ? 0 : p.blocks, last = blocks_of(amo_ds(what, 8));
        (void)post(arch::group_of(thread, key(q, data + last)), q, data, last, SHMEMX_DEVICE_CALL_PUT_SIGNAL,
                   [&](u64 block, u32 flags) {
                       if (data != 0)
                           build_piece(q, block, p, from, SHMEMX_MLX5_CE_ERROR);
                       build_amo(wqe(q, block + data), signal, nobody(q), what, 8, value, 0, flags);
                   });
    }
    /* Returns the old value if `fetch`, 0 otherwise and after an error. */
    SHMEMX_DEVICE_SLOW u64 amo_on(qp &pair, u64 offset, atomic_op op, u32 size, u64 value, u64 cond,
                                  bool fetch)
    {
        const queue q(pair);
        u64 room = size, block = 0;
        const nic_place there = remote(q, offset, room);
        const u32 blocks = blocks_of(amo_ds(op, size));
        const u64 end = post(arch::group_of(thread, key(q, blocks)), q, 0, blocks, SHMEMX_DEVICE_CALL_ATOMIC,
                             [&](u64 first, u32 flags) {
                                 block = first;
                                 build_amo(wqe(q, first), there, fetch ? claim(q, first) : nobody(q), op,
                                           size, value, cond, flags);
                             });
        if (!fetch || end == refused)
            return 0;
        u64 old = 0;
        if (ibgda_cq::wait_done(pair, end, SHMEMX_DEVICE_CALL_ATOMIC)) {
            const u64 at = answer(q, block);
            old = size == 4 ? arch::big(arch::load_relaxed(reinterpret_cast<const u32 *>(at)))
                            : arch::load_relaxed(reinterpret_cast<const u64 *>(at));
        }
        release(q, block);
        return old;
    }
    /* A write whose arrival the peer's NIC reports: it takes a receive of the peer, and the queue pairs that the library makes
     * have no receive queue, since no call of the API needs one; for programs with queue pairs of their own. src is memory of the
     * heap, within one chunk. */
    SHMEMX_DEVICE_SLOW void write_imm(qp &pair, u64 offset, const void *src, u64 bytes, u32 imm)
    {
        const queue q(pair);
        u64 n = bytes;
        const nic_place there = remote(q, offset, n), here = local(q, src, n);
        (void)post(arch::group_of(thread, key(q, 1)), q, 0, 1, SHMEMX_DEVICE_CALL_PUT,
                   [&](u64 block, u32 flags) {
                       build_write_imm(wqe(q, block), there, here, static_cast<u32>(n), imm, flags);
                   });
    }
    SHMEMX_DEVICE_SLOW void nop(qp &pair)
    {
        const queue q(pair);
        (void)post(arch::group_of(thread, key(q, 1)), q, 0, 1, SHMEMX_DEVICE_CALL_QUIET,
                   [&](u64 block, u32 flags) { build_nop(wqe(q, block), flags); });
    }
    /* What was posted to this queue pair before is complete. By one thread. False after the deadline or an error. */
    SHMEMX_DEVICE_SLOW bool settle_qp(qp &q)
    {
        if (fixed(q.wq) == 0)
            return true;
        const u64 target = arch::load_relaxed(&q.reserved); // before what this thread goes on to post
        return ibgda_cq::wait_done(q, target, SHMEMX_DEVICE_CALL_QUIET);
    }

  private:
    static constexpr u64 refused = ~0ull; // the queue pair has failed

    /* More than there is: nothing of it is posted. */
    SHMEMX_DEVICE_FN static bool oversized(const queue &q, unsigned call, const void *p, u64 bytes)
    {
        return bytes > arch::state().bytes &&
               !refuse(thread, SHMEMX_DEVICE_ADDRESS, call, fixed(q.qp->pe), p, bytes);
    }
    /* Is it memory of the heap? What begins there and is longer than the heap is the NIC's to refuse. */
    SHMEMX_DEVICE_FN static bool registers(const void *p)
    {
        return symmetric(p, 1);
    }
    /* What threads must agree in to post together: queue pairs have 256 bytes. */
    SHMEMX_DEVICE_FN static u64 key(const queue &q, u32 blocks)
    {
        return reinterpret_cast<u64>(q.qp) + blocks;
    }

    /* ---- places: n shrinks to what lies in one chunk ---- */

    SHMEMX_DEVICE_SLOW u32 chunk_at(u64 offset)
    {
        const shmemx_device_ibgda &d = view();
        const auto *chunk = reinterpret_cast<const shmemx_ibgda_chunk *>(d.chunks);
        u32 i = 0;
        while (i + 1 < d.count && offset >= chunk[i].end)
            ++i;
        return i;
    }
    SHMEMX_DEVICE_FN static nic_place remote(const queue &q, u64 offset, u64 &n)
    {
        if (offset + n <= q.first_end)
            return nic_place{q.first_address + offset, q.first_key};
        const shmemx_device_ibgda &d = view();
        const u32 i = chunk_at(offset);
        const u64 end = reinterpret_cast<const shmemx_ibgda_chunk *>(d.chunks)[i].end;
        if (offset < end && n > end - offset)
            n = end - offset;
        const auto &k = reinterpret_cast<const shmemx_ibgda_key *>(
            d.keys)[static_cast<u32>(fixed(q.qp->pe)) * d.room + i];
        return nic_place{k.address + offset, k.key};
    }
    /* p is in the heap. */
    SHMEMX_DEVICE_FN static nic_place local(const queue &q, const void *p, u64 &n)
    {
        const u64 offset = reinterpret_cast<u64>(p) - my_copy();
        if (offset + n <= q.first_end)
            return nic_place{reinterpret_cast<u64>(p), q.first_local};
        const auto &c = reinterpret_cast<const shmemx_ibgda_chunk *>(view().chunks)[chunk_at(offset)];
        if (offset < c.end && n > c.end - offset)
            n = c.end - offset;
        return nic_place{reinterpret_cast<u64>(p), c.key};
    }
    SHMEMX_DEVICE_FN static u64 answer(const queue &q, u64 block)
    {
        return fixed(q.qp->answers) + (block & q.mask) * SHMEMX_IBGDA_ANSWER;
    }
    SHMEMX_DEVICE_FN static nic_place nobody(const queue &q)
    {
        return nic_place{fixed(q.qp->answers) + (q.mask + 1ull) * SHMEMX_IBGDA_ANSWER,
                         fixed(q.qp->answers_key)};
    }
    /* The answer of a reserved block, once the thread that had it before has read it. It has all it waits for: the block
     * would not be free if its batch were not done. */
    SHMEMX_DEVICE_FN static nic_place claim(const queue &q, u64 block)
    {
        u32 *taken = reinterpret_cast<u32 *>(q.slots) + q.mask + 1 + (block & q.mask);
        while (arch::load_acquire(taken) != 0 && arch::load_relaxed(&q.qp->failed) == SHMEMX_IBGDA_WORKS)
            arch::give_way();
        arch::store_relaxed(taken, 1u);
        return nic_place{answer(q, block), fixed(q.qp->answers_key)};
    }
    SHMEMX_DEVICE_FN static void release(const queue &q, u64 block)
    {
        arch::fence_gpu(); // observers: this thread, which has read the answer, and whoever claims it next
        arch::store_relaxed(reinterpret_cast<u32 *>(q.slots) + q.mask + 1 + (block & q.mask), 0u);
    }

    /* ---- what a put becomes ---- */

    struct piece_of_put {
        nic_place there, here;
        u64 n;
        u32 blocks;
        bool inside; // the WQE
        inline_words few;
    };
    SHMEMX_DEVICE_FN static piece_of_put piece(const queue &q, u64 offset, const void *from, u64 bytes,
                                               bool registered)
    {
        piece_of_put p;
        p.inside = bytes <= inline_block || !registered;
        const u64 most = p.inside ? static_cast<u64>(SHMEMX_IBGDA_MOST_INLINE) : view().most;
        p.n = bytes < most ? bytes : most;
        p.there = remote(q, offset, p.n);
        p.here = p.inside ? nic_place{0, 0} : local(q, from, p.n);
        p.few =
            p.inside && p.n <= inline_words::most ? load_inline(from, static_cast<u32>(p.n)) : inline_words{};
        p.blocks = p.inside ? blocks_of(inline_ds(static_cast<u32>(p.n))) : 1;
        return p;
    }
    SHMEMX_DEVICE_FN static void build_piece(const queue &q, u64 block, const piece_of_put &p,
                                             const void *from, u32 flags)
    {
        const u32 n = static_cast<u32>(p.n);
        if (p.inside)
            build_inline(wqe(q, block), p.there, from, n, p.few, flags);
        else
            build_write(wqe(q, block), p.there, p.here, n, flags);
    }
    /* Returns the bytes that are on their way, 0 = the queue pair has failed. */
    template <class Scope>
    SHMEMX_DEVICE_FN static u64 post_piece(Scope scope, const queue &q, u64 offset, const unsigned char *from,
                                           u64 bytes, bool registered)
    {
        const piece_of_put p = piece(q, offset, from, bytes, registered);
        const u64 end = post(arch::group_of(scope, key(q, p.blocks)), q, 0, p.blocks, SHMEMX_DEVICE_CALL_PUT,
                             [&](u64 block, u32 flags) { build_piece(q, block, p, from, flags); });
        return end == refused ? 0 : p.n;
    }
    /* By lanes of a scope, each its pieces. */
    SHMEMX_DEVICE_SLOW void bring(qp &pair, u64 offset, void *dst, u64 bytes, u32 lane, u32 width)
    {
        const queue q(pair);
        SHMEMX_DEVICE_ROLLED
        for (u64 at = lane * static_cast<u64>(SHMEMX_IBGDA_ANSWER); at < bytes;
             at += width * static_cast<u64>(SHMEMX_IBGDA_ANSWER)) {
            u64 end = at + SHMEMX_IBGDA_ANSWER < bytes ? at + SHMEMX_IBGDA_ANSWER : bytes, n = 0;
            for (u64 from = at; from < end; from += n) {
                n = end - from;
                if (!bring_piece(q, offset + from, static_cast<unsigned char *>(dst) + from, n))
                    return;
            }
        }
    }
    SHMEMX_DEVICE_FN static bool bring_piece(const queue &q, u64 offset, unsigned char *to, u64 &n)
    {
        u64 block = 0;
        const nic_place there = remote(q, offset, n);
        const u32 bytes = static_cast<u32>(n);
        const u64 end = post(arch::group_of(thread, key(q, 1)), q, 0, 1, SHMEMX_DEVICE_CALL_GET,
                             [&](u64 first, u32 flags) {
                                 block = first;
                                 build_read(wqe(q, first), there, claim(q, first), bytes, flags);
                             });
        if (end == refused)
            return false;
        const bool ok = ibgda_cq::wait_done(*q.qp, end, SHMEMX_DEVICE_CALL_GET);
        const auto *from = reinterpret_cast<const unsigned char *>(answer(q, block));
        for (u32 i = 0; ok && i < bytes; ++i)
            arch::store_plain(to + i, arch::load_relaxed(from + i));
        release(q, block);
        return ok;
    }

    /* ---- posting ---- */

    /* A warp's 32 puts within WQEs, each with a signal of two blocks, are one reservation. It waits for room, and the doorbell
     * of what was published before may be left to it: up to a quarter of the queue, which is done only after that. */
    static_assert(32 * (blocks_of(inline_ds(SHMEMX_IBGDA_MOST_INLINE)) + 2) <=
                      SHMEMX_IBGDA_LEAST_DEPTH - (SHMEMX_IBGDA_LEAST_DEPTH / 4 - 1),
                  "who waits for room would never get it");
    /* The threads of a group each post a batch of before + last blocks; its last WQE has `last`. build(first block, flags of
     * the last WQE) writes it. Returns what `done` will be when the group's WQEs are complete, or `refused`. */
    template <class Build>
    SHMEMX_DEVICE_FN static u64 post(const arch::group &g, const queue &q, u32 before, u32 last,
                                     unsigned call, Build build)
    {
        const u32 each = before + last, all = each * g.size();
        u64 base = 0;
        seen_counts seen = {};
        if (g.rank() == 0)
            base = reserve(q, all, seen, call);
        base = g.from_first(base);
        if (base == refused) {
            g.sync(); // other groups of the warp do
            return refused;
        }
        const u64 end = base + all;
        const bool closes = g.rank() + 1 == g.size();
        build(base + g.rank() * each, closes ? SHMEMX_MLX5_CE_ALWAYS : SHMEMX_MLX5_CE_ERROR);
        if (closes)
            arch::store_relaxed(reinterpret_cast<u32 *>(q.slots) + ((end - last) & q.mask), last);
        g.sync();
        if (g.rank() == 0)
            publish(q, base, end, seen, call);
        // lanes that have posted together go on together: else each posts, waits and has an entry of its own from here on
        g.sync();
        return end;
    }
    /* What the counts were just after a reservation. */
    struct seen_counts {
        u64 ready, reserved, rung;
    };
    /* `n` blocks, which the NIC has done with. */
    SHMEMX_DEVICE_FN static u64 reserve(const queue &q, u32 n, seen_counts &seen, unsigned call)
    {
        const u64 base = arch::fetch_add(&q.qp->reserved, static_cast<u64>(n));
        const arch::vec16 counts = arch::load_pair(&q.qp->ready); // and `done`: in flight beside the addition
        const arch::vec16 others = arch::load_pair(&q.qp->reserved); // and `rung`
        seen = seen_counts{counts.x, others.x, others.y};
        if (base + n - counts.y > q.mask + 1ull && !wait_room(*q.qp, base + n - (q.mask + 1ull), call))
            return refused;
        return base;
    }
    SHMEMX_DEVICE_FN static void publish(const queue &q, u64 base, u64 end, seen_counts seen, unsigned call)
    {
        if (seen.ready != base) {
            if (!wait_turn(*q.qp, base, call))
                return;
            const arch::vec16 others = arch::load_pair(&q.qp->reserved);
            seen.reserved = others.x;
            seen.rung = others.y;
        }
        // it is this thread's turn until it says otherwise
        if (seen.reserved == end || end - seen.rung >= (q.mask + 1) / 4) {
            const u32 index = arch::big(static_cast<u32>(end) & 0xffffu);
            SHMEMX_IBGDA_MARK(0);
            // observers: the group's threads and earlier publishers, which wrote WQEs, and the NIC, which reads them when
            // it has seen the record or the doorbell
            arch::fence();
            arch::store_relaxed(reinterpret_cast<u32 *>(q.record), index);
            arch::fence(); // observers: this thread, and the NIC, which reads the record after the doorbell
            SHMEMX_IBGDA_MARK(1);
            arch::store_relaxed(reinterpret_cast<u64 *>(q.uar),
                                big_pair((static_cast<u32>(end) & 0xffffu) << 8, q.qpn));
            arch::store_relaxed(&q.qp->rung, end);
        } else {
            arch::fence_gpu(); // observers: the group and earlier publishers, and who rings for them
        }
        arch::store_relaxed(&q.qp->ready, end); // after the fence; observer: the next publisher
    }
    SHMEMX_DEVICE_SLOW bool wait_room(qp &q, u64 done, unsigned call)
    {
        if (ibgda_cq::wait_done<steady_patience>(q, done, call))
            return true;
        leave(q);
        return false;
    }
    /* Blocks below `base` are written. */
    SHMEMX_DEVICE_SLOW bool wait_turn(qp &q, u64 base, unsigned call)
    {
        steady_patience left;
        u64 ready;
        while ((ready = arch::load_acquire(&q.ready)) != base) {
            if (arch::load_relaxed(&q.failed) != SHMEMX_IBGDA_WORKS)
                return false;
            arch::give_way();
            if (left.over()) {
                report(SHMEMX_DEVICE_TIMEOUT, call, fixed(q.pe), &q.ready, ready, base);
                leave(q);
                return false;
            }
        }
        return true;
    }
    /* Blocks of this thread stay unwritten, so none behind them is ever published. */
    SHMEMX_DEVICE_FN static void leave(qp &q)
    {
        (void)arch::compare_swap(&q.failed, static_cast<u64>(SHMEMX_IBGDA_WORKS),
                                 static_cast<u64>(SHMEMX_IBGDA_LEFT));
    }
};

} // namespace shmem::detail

#endif
