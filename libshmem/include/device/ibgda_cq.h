/* Completion queues of queue pairs that kernels post to (ibgda.h), as those who wait see them.
 *
 * The last WQE of each reservation has a completion entry. Of those who wait one at a time looks at the queue and takes
 * entries, in order, for all; none goes past one that is an error, so that its cause is there to be read, and every later
 * wait fails, until the host begins the queue pair anew (src/transport/ibgda_settle.c).
 *
 * Included by ibgda.h only. */
#ifndef SHMEM_DEVICE_IBGDA_CQ_H
#define SHMEM_DEVICE_IBGDA_CQ_H

#include "ibgda_state.h"
#include "mlx5.h"

/* For programs that measure: 0, a doorbell is about to be rung; 1, all but the register is written; 2, a look at a
 * completion queue begins; 3, an entry is there. */
#ifndef SHMEMX_IBGDA_MARK
#define SHMEMX_IBGDA_MARK(what) (void)0
#endif

namespace shmem::detail
{

struct ibgda_cq {
    using qp = shmemx_ibgda_qp;

    /* acquire; observers: this thread, and the NIC, which has read the sources and written the answers */
    template <class Patience = patience> SHMEMX_DEVICE_SLOW bool wait_done(qp &q, u64 target, unsigned call)
    {
        Patience left;
        u64 done;
        while ((done = arch::load_acquire(&q.done)) < target) {
            const arch::vec16 counts = arch::load_pair(&q.entries); // and `failed`
            if (counts.y != SHMEMX_IBGDA_WORKS)
                return false;
            const turn t(&q.look);
            if (t.mine()) {
                SHMEMX_IBGDA_MARK(2);
                const u64 reached = poll(q, counts.x, done, target, call);
                t.end();
                if (reached == broken)
                    return false;
                if (reached >= target)
                    return true;
            }
            arch::give_way();
            if (left.over()) {
                if (!left.cut()) {
                    nic_fails(); // a kernel with many waits ends within the deadline, too
                    arch::store_relaxed(&q.late, 1u);
                    report(SHMEMX_DEVICE_TIMEOUT, call, fixed(q.pe), &q.done, done, target);
                }
                return false;
            }
        }
        return true;
    }

    /* Takes what there is of the completion queue from entry `first` on, not much more than is needed for `target`. Returns
     * what is done then, or `broken`: the queue pair has failed. The opcode is read each time: an entry speaks of success
     * only if it says so. `first` and `done`, which was loaded before it, may be old: what others have taken meanwhile is
     * taken once, and with a `done` that is so old that 16 bits cannot say how far an entry's block is ahead nothing is
     * taken: the entry would be gone, and nobody done by it. */
    SHMEMX_DEVICE_FN static u64 poll(qp &q, u64 first, u64 done, u64 target, unsigned call)
    {
        u64 number = first;
        // observers: this thread, and the NIC, which wrote it last
        const u32 tail = arch::load_acquire(tail_at(q, number));
        if (!written(q, number, tail))
            return done;
        SHMEMX_IBGDA_MARK(3);
        if (tail >> 28 != SHMEMX_MLX5_CQE_REQUEST)
            return fail(q, number, tail, call) ? broken : done;
        u64 end = end_of(q, done, tail);
        if (end < target) { // those behind it, all in one trip
            u32 behind[ahead];
            SHMEMX_DEVICE_UNROLL
            for (u32 i = 0; i < ahead; ++i)
                behind[i] = arch::load_relaxed(tail_at(q, number + 1 + i));
            u32 more = 0;
            SHMEMX_DEVICE_UNROLL
            for (u32 i = 0; i < ahead; ++i)
                more += more == i && written(q, number + 1 + i, behind[i]) &&
                        behind[i] >> 28 == SHMEMX_MLX5_CQE_REQUEST;
            number += more;
            if (more != 0) // acquire; observers: as above
                end = end_of(q, done, arch::load_acquire(tail_at(q, number)));
        }
        // what is under way is at most a queue ahead of `done` as it is now, a load beside that of end_of
        if (arch::load_relaxed(&q.done) - done > 0xffffu - fixed(q.mask))
            return done;
        arch::max_relaxed(&q.entries, number + 1); // nobody waits for it to have happened
        arch::max_release(&q.done, end);           // observers: this thread, and who waits for `done`
        return end;
    }

  private:
    static constexpr u64 broken = ~0ull;
    /* Entries that are looked at beyond the first one. With four a kernel of one `p` had 107 registers, not 97. */
    static constexpr u32 ahead = 2;
    SHMEMX_DEVICE_FN static const u32 *entry_at(const qp &q, u64 number)
    {
        return reinterpret_cast<const u32 *>(fixed(q.cq) +
                                             (number & ((1ull << fixed(q.log_cq)) - 1)) * SHMEMX_MLX5_CQE);
    }
    SHMEMX_DEVICE_FN static const u32 *tail_at(const qp &q, u64 number)
    {
        return entry_at(q, number) + 15;
    }
    /* Whether a tail is that of entry `number`, not of what was there a round before. */
    SHMEMX_DEVICE_FN static bool written(const qp &q, u64 number, u32 tail)
    {
        return tail >> 28 != SHMEMX_MLX5_CQE_INVALID && (tail >> 24 & 1) == (number >> fixed(q.log_cq) & 1);
    }
    /* The blocks below it are done, by an entry that says so. Numbers of blocks under way differ by less than 2^16, from
     * `done` on. */
    SHMEMX_DEVICE_FN static u64 end_of(const qp &q, u64 done, u32 tail)
    {
        const u64 block = done + ((counter(tail) - static_cast<u32>(done)) & 0xffffu);
        return block +
               arch::load_relaxed(reinterpret_cast<const u32 *>(fixed(q.slots)) + (block & fixed(q.mask)));
    }
    SHMEMX_DEVICE_FN static u32 counter(u32 tail)
    {
        return arch::big(tail) >> 16;
    }
    /* Entry `number` is an error, unless others have taken it meanwhile: then false. It stays for everybody to see. */
    SHMEMX_DEVICE_SLOW bool fail(qp &q, u64 number, u32 tail, unsigned call)
    {
        const u32 *entry = entry_at(q, number);
        const u32 syndromes = arch::big(arch::load_relaxed(entry + 13));
        const u32 opcode = arch::big(arch::load_relaxed(entry + 14)) >> 24;
        if (arch::load_acquire(&q.entries) != number)
            return false;
        u64 address = 0;
        if (opcode != SHMEMX_MLX5_NOP) {
            const u64 at = fixed(q.wq) + (counter(tail) & fixed(q.mask)) * SHMEMX_MLX5_BLOCK;
            address = arch::big(arch::load_relaxed(reinterpret_cast<const u64 *>(at) + 2));
        }
        nic_fails();
        // before `failed` of the queue pair: who finds that set may end the kernel, and the host look
        report(SHMEMX_DEVICE_NIC, call, fixed(q.pe), reinterpret_cast<const void *>(address),
               SHMEMX_IBGDA_ERROR_VALUE(syndromes & 0xff, syndromes >> 8 & 0xff, opcode, tail >> 28,
                                        counter(tail)),
               fixed(q.qpn) >> 8);
        (void)arch::compare_swap(&q.failed, static_cast<u64>(SHMEMX_IBGDA_WORKS),
                                 static_cast<u64>(SHMEMX_IBGDA_ERROR));
        return true;
    }
};

} // namespace shmem::detail

#endif
