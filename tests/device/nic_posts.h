// What no call of the API posts by itself, to queue pairs of ibgda: NOPs, and puts of each thread of a block. And the proxy's rings,
// one by one.
// A part of test_nic.cpp.
#ifndef NIC_POSTS_H
#define NIC_POSTS_H

#include "device/proxy_state.h"
#include "nic_scene.h"

#include <cstdlib>
#include <unistd.h>

/* The last completion entry that was taken of a queue pair: the opcodes of entry and WQE, and the WQE's first block. */
struct taken_entry {
    unsigned opcode, wqe_opcode, block;
};
static taken_entry last_entry(const shmemx_ibgda_qp &q)
{
    const auto *e = reinterpret_cast<const uchar *>(q.cq) + ((q.entries - 1) & ((1u << q.log_cq) - 1)) * 64;
    return taken_entry{e[63] / 16u, e[56], e[60] * 256u + e[61]};
}

/* A NOP has an entry of its own, which speaks for what was posted before it. */
static void test_nop()
{
    std::memset(memory, 0, memory_bytes);
    nic_job_meet();
    step(1, 1, [] {
        const int pe = next_pe();
        if (queue_pairs(pe) == 0)
            return;
        for (u64 round = 1; round <= 300; ++round) { // of 256 blocks
            shmemx_ibgda_qp &q = detail::ibgda::at(pe, static_cast<u32>(round) & (queue_pairs(pe) - 1));
            const u64 entries = q.entries, block = q.reserved;
            detail::ibgda::put_on(q, detail::offset_of(at<u64>(64)), &round, 8);
            detail::ibgda::nop(q);
            CHECK(q.reserved == block + 2, "%llu blocks", q.reserved - block);
            CHECK(detail::ibgda::settle_qp(q), "the completion of a NOP");
            const taken_entry e = last_entry(q);
            CHECK(q.entries == entries + 2 && e.opcode == SHMEMX_MLX5_CQE_REQUEST &&
                      e.wqe_opcode == SHMEMX_MLX5_NOP && e.block == ((block + 1) & 0xffff),
                  "%llu entries, the last of opcode %u for 0x%x, block %u", q.entries - entries, e.opcode,
                  e.wqe_opcode, e.block);
            if (round % 64 == 0)
                CHECK(g(at<u64>(64), pe) == round, "what was put before NOP %llu", round);
        }
    });
}

/* Each thread of a block has a put of its own: those of a warp to one queue pair are one reservation, with one entry. */
static void test_put_each()
{
    constexpr unsigned warps = 3, threads = warps * arch::warp_width;
    std::memset(memory, 0, memory_bytes);
    nic_job_meet();
    step(2, threads, [] {
        const int pe = next_pe(), me = my_pe();
        if (queue_pairs(pe) == 0)
            return;
        const unsigned t = arch::thread_index(), t_all = arch::block_index() * threads + t;
        shmemx_ibgda_qp &q = detail::ibgda::mine(pe);
        const bool alone = queue_pairs(pe) > 1; // each block has a queue pair then
        for (u64 round = 1; round <= 20; ++round) {
            uchar own[300];
            uchar *src = at<uchar>(half) + t_all * 1024, *dst = at<uchar>(2 * half) + t_all * 1024;
            // from the stack, within the WQE; one thread's in several; from the heap
            const unsigned what = round % 3;
            const std::size_t n = what == 0 ? 8 + t % 4 : what == 1 ? (t == 5 ? 300 : 20) : 700;
            const uchar *from = what == 2 ? src : own;
            for (std::size_t i = 0; i < n; ++i)
                (what == 2 ? src : own)[i] = pattern(i, static_cast<unsigned>(round), me);
            CHECK(quiet(block), "quiet");
            const u64 blocks = arch::load_relaxed(&q.reserved), entries = arch::load_relaxed(&q.entries);
            arch::sync(block);
            detail::ibgda::put_each(block, q, detail::offset_of(dst), from, n);
            std::memset(own, 0, sizeof own); // it was taken
            CHECK(quiet(block, pe), "quiet of puts of each");
            const u64 more = arch::load_relaxed(&q.reserved) - blocks,
                      told = arch::load_relaxed(&q.entries) - entries;
            if (alone && what != 1)
                CHECK(more == threads && told == warps, "%llu blocks, %llu entries for %u puts of %u warps",
                      more, told, threads, warps);
            arch::sync(block);
            uchar *back = at<uchar>(3 * half) + t_all * 1024;
            get(thread, back, dst, n, pe);
            CHECK(quiet(thread), "quiet");
            std::size_t wrong = 0;
            for (std::size_t i = 0; i < n; ++i)
                wrong += back[i] != pattern(i, static_cast<unsigned>(round), me);
            CHECK(wrong == 0, "thread %u, round %llu: %zu of %zu bytes wrong", t_all, round, wrong, n);
            arch::sync(block);
        }
    });
}

/* The host looks for a command at the place that the kernel has written (others' proxy polled another: DeepEP 677): each ring
 * alone, all at different places. Before all else that goes by the proxy: it would wait for ever. */
static void test_ring_by_ring()
{
    const auto *nic = reinterpret_cast<const shmemx_device_nic *>(state->nic);
    if (state->npes == 1 || nic == nullptr || nic->used != 1u << SHMEMX_NIC_PROXY)
        return;
    const auto *proxy = reinterpret_cast<const shmemx_device_proxy *>(nic->proxy);
    auto *rings = reinterpret_cast<shmemx_proxy_ring *>(proxy->ring);
    const unsigned used = proxy->rings < 8 ? proxy->rings : 8;
    for (unsigned turn = 0; turn < 3; ++turn)
        for (unsigned r = 0; r < used; ++r) {
            std::vector<u64> before(proxy->rings);
            for (unsigned i = 0; i < proxy->rings; ++i)
                before[i] = rings[i].tail;
            // fewer than any ring has slots: nobody waits on the GPU's side
            const unsigned commands = r % 3 + 1;
            const unsigned first = (turn * used + r) * 4; // word
            run(r + 1, 1, [r, first, commands] {
                for (unsigned i = 0; arch::block_index() == r && i < commands; ++i)
                    p(at<u64>(0) + first + i, first + i + 1000ull, next_pe());
            });
            for (unsigned i = 0; i < proxy->rings; ++i) {
                const auto *head = reinterpret_cast<const u64 *>(rings[i].head);
                const u64 want = before[i] + (i == r ? commands : 0);
                u64 have = arch::load_acquire(head);
                for (int ms = 0; have < want && ms < 5000; ++ms, have = arch::load_acquire(head))
                    usleep(1000);
                CHECK(rings[i].tail == want && have == want,
                      "commands to ring %u: ring %u has %llu, of which the host has found %llu, not %llu", r,
                      i, rings[i].tail, have, want);
            }
            if (failures.load() != 0)
                std::_Exit(1);
        }
    step(1, 1, [] { CHECK(quiet(thread), "quiet"); });
    for (unsigned i = 0; i < 3 * used * 4; ++i) {
        const bool written = i % 4 <= i / 4 % used % 3;
        CHECK(at<u64>(0)[i] == (written ? i + 1000 : 0), "word %u: %llu", i, at<u64>(0)[i]);
    }
    nic_job_meet();
}

#endif
