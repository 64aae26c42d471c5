// device/ibgda.h on CPU threads, against a NIC of this test's own (mini_nic.h): WQEs byte by byte; every operation by
// many threads on queues so short that all wraps, block numbers included; and one test for each bug of that kind that
// others have shipped.
#ifndef NDEBUG
#define NDEBUG // as users' kernels are built: what is an error is one there too
#endif
#undef SHMEM_DEVICE_CHECKS
#include "mini_nic.h"

using namespace shmem;
using detail::ibgda;

static constexpr unsigned depth =
    SHMEMX_IBGDA_LEAST_DEPTH / 32 * arch::warp_width; // for lanes here what the least one is for a GPU's
static constexpr u64 nearly_wrapped = 65500;
void test_sizes(); // test_ibgda_sizes.cpp

// ---- WQEs, byte by byte

static std::vector<unsigned char> built(mini_nic &nic, unsigned bytes)
{
    const unsigned char *p = nic.at(0, 0).wq;
    return std::vector<unsigned char>(p, p + bytes);
}
static void expect(const char *what, const std::vector<unsigned char> &have,
                   const std::vector<unsigned char> &want)
{
    for (std::size_t i = 0; i < want.size(); ++i)
        CHECK(have[i] == want[i], "%s: byte %zu is %02x, not %02x", what, i, have[i], want[i]);
}
static void test_bytes()
{
    scene job(1, false);
    mini_nic nic(job, depth, 1, 0);
    const detail::queue q(*nic.at(0, 0).qp); // number 0x41
    const u64 block = 0x12340;               // at the ring's start
    const detail::nic_place there{0x1122334455667788, __builtin_bswap32(0xa1a2a3a4)};
    const detail::nic_place here{0x99aabbccddeeff00, __builtin_bswap32(0xb1b2b3b4)};
    const detail::wqe w(q, block);
    const unsigned char data[] = {1, 2, 3, 4, 5, 6, 7, 8};
    detail::build_inline(w, there, data, 8, detail::load_inline(data, 8), SHMEMX_MLX5_CE_ALWAYS);
    expect("inline write", built(nic, 44),
           {0, 0x23, 0x40, 0x08, 0,    0,    0x41, 3,    0,    0,    0,    8,    0,    0, 0,
            0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0xa1, 0xa2, 0xa3, 0xa4, 0, 0,
            0, 0,    0x80, 0,    0,    8,    1,    2,    3,    4,    5,    6,    7,    8});
    detail::build_write(w, there, here, 0x10203, 0);
    expect("write", built(nic, 48),
           {0,    0x23, 0x40, 0x08, 0,    0,    0x41, 3,    0,    0,    0,    0,    0,    0,    0,    0,
            0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0xa1, 0xa2, 0xa3, 0xa4, 0,    0,    0,    0,
            0,    1,    2,    3,    0xb1, 0xb2, 0xb3, 0xb4, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff, 0});
    detail::build_write_imm(w, there, here, 4, 0xcafef00d, SHMEMX_MLX5_CE_ALWAYS | SHMEMX_MLX5_SOLICITED);
    expect("write with immediate", built(nic, 16),
           {0, 0x23, 0x40, 0x09, 0, 0, 0x41, 3, 0, 0, 0, 0x0a, 0xca, 0xfe, 0xf0, 0x0d});
    detail::build_read(w, there, here, 4, SHMEMX_MLX5_FENCE_SMALL);
    expect("read", built(nic, 16), {0, 0x23, 0x40, 0x10, 0, 0, 0x41, 3, 0, 0, 0, 0x20, 0, 0, 0, 0});
    detail::build_nop(w, SHMEMX_MLX5_CE_ALWAYS);
    expect("nop", built(nic, 16), {0, 0x23, 0x40, 0, 0, 0, 0x41, 1, 0, 0, 0, 8, 0, 0, 0, 0});
    detail::build_amo(w, there, here, detail::amo_compare_swap, 8, 0x0102030405060708, 0x1112131415161718, 0);
    auto have = built(nic, 64);
    expect("compare and swap", have, {0, 0x23, 0x40, 0x11, 0, 0, 0x41, 4});
    expect("compare and swap", std::vector<unsigned char>(have.begin() + 32, have.end()),
           {1, 2, 3, 4, 5,    6,    7,    8,    0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18,
            0, 0, 0, 8, 0xb1, 0xb2, 0xb3, 0xb4, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff, 0});
    detail::build_amo(w, there, here, detail::amo_and, 8, 0x00ff00ff00ff00ff, 0, 0);
    have = built(nic, 80);
    expect("and", have, {9, 0x23, 0x40, 0x14, 0, 0, 0x41, 5});
    expect("and", std::vector<unsigned char>(have.begin() + 32, have.end()),
           {0,    0xff, 0,    0xff, 0,    0xff, 0, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0,
            0xff, 0,    0xff, 0,    0xff, 0,    0, 0,    0, 0, 0, 0, 0, 0, 0, 0, 0,    8});
    detail::build_amo(w, there, here, detail::amo_xor, 4, 0x01020304, 0, 0);
    have = built(nic, 64);
    expect("xor of 4 bytes", have, {8, 0x23, 0x40, 0x15, 0, 0, 0x41, 4});
    expect("xor of 4 bytes", std::vector<unsigned char>(have.begin() + 32, have.end()),
           {1, 2, 3, 4, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4});
    detail::build_amo(w, there, here, detail::amo_compare_swap, 4, 5, 6, 0);
    have = built(nic, 64);
    expect("compare and swap of 4 bytes", have, {8, 0x23, 0x40, 0x14, 0, 0, 0x41, 4});
    expect("compare and swap of 4 bytes", std::vector<unsigned char>(have.begin() + 32, have.end()),
           {0, 0, 0, 5, 0, 0, 0, 6, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff});
    CHECK(detail::inline_ds(12) == 3 && detail::inline_ds(28) == 4 && detail::inline_ds(29) == 5 &&
              detail::blocks_of(detail::inline_ds(SHMEMX_IBGDA_MOST_INLINE)) == 4,
          "segments of inline data");
}

// ---- operations

/* Sizes around every limit, from the heap and from elsewhere, over the border between two chunks, in all scopes. */
template <class Scope> static void puts_and_gets(const Scope &scope, std::size_t region)
{
    const int me = my_pe(), n = n_pes(), next = (me + 1) % n, before = (me + n - 1) % n;
    const unsigned lane = arch::lane(scope);
    constexpr std::size_t most = 9000;
    static thread_local unsigned char other[most];
    for (std::size_t bytes : {1, 8, 12, 13, 28, 29, 220, 221, 500, 4096, 4097, 9000})
        for (bool heap : {true, false}) {
            if (!heap && bytes > 500)
                continue;
            unsigned char *src = heap ? mine<unsigned char>(region + 1) : other;
            unsigned char *dst = mine<unsigned char>(region + 20003),
                          *back = mine<unsigned char>(region + 40000);
            if (lane == 0) {
                for (std::size_t i = 0; i < bytes; ++i)
                    src[i] = pattern(i, static_cast<unsigned>(bytes), me);
                std::memset(back, 0, bytes);
            }
            arch::sync(scope);
            ibgda::put(scope, next, region + 20003, src, bytes);
            CHECK(ibgda::quiet(scope, next), "quiet");
            if (lane == 0) {
                ibgda::amo_on(ibgda::at(next, 0), region - 64, detail::amo_add, 8, 1, 0, false);
                detail::patience left;
                while (arch::load_acquire(mine<u64>(region - 64)) == 0 && !left.over())
                    ;
                std::size_t wrong = 0;
                for (std::size_t i = 0; i < bytes; ++i)
                    wrong += dst[i] != pattern(i, static_cast<unsigned>(bytes), before);
                CHECK(wrong == 0, "put of %zu bytes, heap %d: %zu wrong", bytes, heap, wrong);
            }
            arch::sync(scope);
            unsigned char *to = heap ? back : other;
            ibgda::get(scope, next, region + 20003, to, bytes); // what this PE has put there
            CHECK(ibgda::quiet(scope, -1), "quiet");
            std::size_t wrong = 0;
            for (std::size_t i = heap ? 0 : lane * 64; i < bytes && (heap || i < lane * 64 + 64); ++i)
                wrong += to[i] != pattern(i, static_cast<unsigned>(bytes), me);
            CHECK(wrong == 0, "get of %zu bytes, heap %d: %zu wrong", bytes, heap, wrong);
            arch::sync(scope);
            if (lane == 0) { // both are done before the next round writes
                ibgda::amo_on(ibgda::at(before, 0), region - 56, detail::amo_add, 8, 1, 0, false);
                detail::patience left;
                while (arch::load_acquire(mine<u64>(region - 56)) == 0 && !left.over())
                    ;
                arch::store_relaxed(mine<u64>(region - 64), u64(0));
                arch::store_relaxed(mine<u64>(region - 56), u64(0));
                ibgda::amo_on(ibgda::at(before, 0), region - 48, detail::amo_add, 8, 1, 0, false);
                while (arch::load_acquire(mine<u64>(region - 48)) == 0 && !left.over())
                    ;
                arch::store_relaxed(mine<u64>(region - 48), u64(0));
            }
            arch::sync(scope);
        }
}
static void test_put_get()
{
    scene job(3, false, 20000000000ull);
    mini_nic nic(job, depth, 2, nearly_wrapped);
    const std::size_t border = mini_nic::chunk_end - 22000; // put's targets and gets' sources lie over it
    job.run(1, 1, 0, [&] { puts_and_gets(thread, border); });
    job.run(1, arch::warp_width, 0, [&] { puts_and_gets(warp, border); });
    job.run(2, 2 * arch::warp_width, 0,
            [&] { puts_and_gets(block, arch::block_index() == 0 ? border : 4096); });
    CHECK(job.boxes[0].kind == 0, "error %u", job.boxes[0].kind);
}

static u64 applied(unsigned op, u64 old, u64 v, u64 cond)
{
    switch (op) {
    case detail::amo_fetch:
        return old;
    case detail::amo_set:
    case detail::amo_swap:
        return v;
    case detail::amo_compare_swap:
        return old == cond ? v : old;
    case detail::amo_add:
        return old + v;
    case detail::amo_and:
        return old & v;
    case detail::amo_or:
        return old | v;
    default:
        return old ^ v;
    }
}
/* All operations on 4 and 8 bytes; then sums by all threads at once, each fetched value once. */
static void test_atomics()
{
    scene job(2, false, 20000000000ull);
    mini_nic nic(job, depth, 1, nearly_wrapped);
    job.run(1, 1, 0, [] {
        const int peer = 1 - my_pe();
        for (unsigned size : {4u, 8u})
            for (detail::atomic_op op :
                 {detail::amo_fetch, detail::amo_set, detail::amo_swap, detail::amo_compare_swap,
                  detail::amo_add, detail::amo_and, detail::amo_or, detail::amo_xor})
                for (u64 v :
                     {0ull, 1ull, 0xffffffffffffffffull, 0x8000000080000001ull, 0x0123456789abcdefull}) {
                    const u64 mask = size == 4 ? 0xffffffffull : ~0ull, start = 0xfedcba9876543210ull & mask;
                    const u64 cond = v & 1 ? start : 5;
                    ibgda::amo(peer, 64, detail::amo_set, size, start, 0, false);
                    const u64 old = ibgda::amo(peer, 64, op, size, v & mask, cond, true);
                    const u64 now = ibgda::amo(peer, 64, detail::amo_fetch, size, 77, 0, true);
                    CHECK(old == start, "op %u, %u bytes: old 0x%llx, not 0x%llx", op, size, old, start);
                    CHECK(now == (applied(op, start, v, cond) & mask), "op %u of 0x%llx, %u bytes: 0x%llx",
                          op, v, size, now);
                }
    });
    constexpr unsigned each = 40;
    std::vector<std::atomic<unsigned>> hits(2 * 2 * 2 * arch::warp_width * each);
    job.run(2, 2 * arch::warp_width, 0, [&] {
        for (unsigned i = 0; i < each; ++i) {
            const u64 old = ibgda::amo(0, 128, detail::amo_add, 8, 1, 0, true); // PE 0's own copy too
            if (old < hits.size())
                hits[old]++;
            ibgda::amo(1, 136, detail::amo_add, 4, 3, 0, false);
            ibgda::amo(1, 144, detail::amo_xor, 8, 1ull << (i + arch::thread_index()) % 64, 0, false);
        }
        CHECK(ibgda::quiet(thread, -1), "quiet");
    });
    for (std::size_t i = 0; i < hits.size(); ++i)
        CHECK(hits[i] == 1, "%zu was fetched %u times", i, hits[i].load());
    u64 sum;
    std::memcpy(&sum, job.memory + scene::stride + 136, 8);
    CHECK(sum == 3 * hits.size(), "sum %llu", sum);
    CHECK(job.boxes[0].kind == 0 && job.boxes[1].kind == 0, "error");
}
/* The signal is seen after the data; two blocks in one reservation; both kinds of signal. */
static void test_put_signal()
{
    scene job(2, false, 20000000000ull);
    mini_nic nic(job, depth, 2, nearly_wrapped);
    job.run(2, arch::warp_width, 0, [] {
        const int peer = 1 - my_pe();
        const std::size_t at = 1024 + 65536 * arch::block_index(), sig = 64 + 8 * arch::block_index();
        for (u64 round = 1; round <= 30; ++round) {
            const u64 bytes = round % 3 == 0 ? 16 : round % 3 == 1 ? 300 : 9000;
            auto *src = mine<unsigned char>(at);
            for (u64 i = arch::lane(warp); i < bytes; i += arch::width(warp))
                src[i] = static_cast<unsigned char>(round + i);
            arch::sync(warp);
            ibgda::put_signal(warp, peer, at + 20000, src, bytes, sig, round % 2 ? round : 1,
                              round % 2 ? signal_set : signal_add);
            CHECK(signal_wait_until(warp, mine<u64>(sig), ge, round), "signal %llu", round);
            u64 wrong = 0;
            for (u64 i = arch::lane(warp); i < bytes; i += arch::width(warp))
                wrong += src[20000 + i] != static_cast<unsigned char>(round + i);
            CHECK(wrong == 0, "round %llu: %llu bytes wrong", round, wrong);
            CHECK(ibgda::quiet(warp, peer), "quiet"); // src is written again
            ibgda::put_signal(warp, peer, 0, nullptr, 0, sig + 512, 1, signal_add);
            CHECK(signal_wait_until(warp, mine<u64>(sig + 512), ge, round), "signal alone");
        }
    });
}
/* Writes with an immediate, whose data and number arrive, past the end of the ring. */
static void test_write_with_immediate()
{
    scene job(2, false, 20000000000ull);
    mini_nic nic(job, depth, 1, nearly_wrapped);
    constexpr u32 rounds = 100;
    job.run(1, 1, 0, [&] {
        if (my_pe() != 0)
            return;
        for (u32 i = 0; i < rounds; ++i) {
            *mine<u64>(1024) = i * 7;
            ibgda::write_imm(ibgda::at(1, 0), 2048 + 8 * i, mine<u64>(1024), 8, 0x80000000 + i);
            CHECK(ibgda::quiet(thread, 1), "quiet");
        }
    });
    CHECK(nic.immediates == rounds * 0x80000000ull + rounds * (rounds - 1) / 2, "immediates: %llx",
          nic.immediates.load());
    for (u32 i = 0; i < rounds; ++i) {
        const auto *there = reinterpret_cast<const u64 *>(job.memory + scene::stride + 2048) + i;
        CHECK(*there == i * 7, "write %u: %llu", i, *there);
    }
}
/* The lanes of a warp post together: one reservation, one doorbell. */
static void test_warp_posts_together()
{
    scene job(2, false, 20000000000ull);
    mini_nic nic(job, depth, 1, nearly_wrapped);
    job.run(1, arch::warp_width, 0, [&] {
        if (my_pe() != 0)
            return;
        auto &queue = nic.at(0, 1);
        for (unsigned round = 0; round < 50; ++round) {
            const u64 before = queue.qp->rung;
            const u64 value = round * 100 + arch::lane(warp);
            ibgda::put_each(warp, ibgda::mine(1), 1024 + 8 * arch::lane(warp), &value, 8);
            arch::sync(warp);
            if (arch::lane(warp) == 0)
                CHECK(queue.qp->rung == before + arch::warp_width, "rung %llu after %llu", queue.qp->rung,
                      before);
            CHECK(ibgda::quiet(warp, 1), "quiet");
            // to two PEs, one of them with more than one WQE
            ibgda::put_each(warp, ibgda::mine(static_cast<int>(arch::lane(warp) % 2)),
                            2048 + 8 * arch::lane(warp), &value, 8);
            static thread_local unsigned char big[500];
            std::memset(big, static_cast<int>(round), sizeof big);
            ibgda::put_each(warp, ibgda::mine(1), 4096 + 500 * arch::lane(warp), big,
                            arch::lane(warp) == 3 ? 500 : 8);
            CHECK(ibgda::quiet(warp, -1), "quiet");
            u64 have;
            std::memcpy(&have, job.memory + scene::stride + 1024 + 8 * arch::lane(warp), 8);
            CHECK(have == value, "lane %u: %llu", arch::lane(warp), have);
            std::memcpy(&have,
                        job.memory + scene::stride * (arch::lane(warp) % 2) + 2048 + 8 * arch::lane(warp), 8);
            CHECK(have == value, "lane %u: %llu", arch::lane(warp), have);
            CHECK(job.memory[scene::stride + 4096 + 500 * 3 + 499] == round % 256, "a lane's long put");
            arch::sync(warp);
        }
    });
    CHECK(nic.at(0, 1).doorbells <= 1000, "%llu doorbells", nic.at(0, 1).doorbells.load());
}

// ---- what others got wrong: each has a test that fails where it is done so here
//
//   a shared queue whose ready WQEs are not published in order (DeepEP 181)  test_shared_queue_and_last_doorbell
//   the completion queue's first content taken for an entry (DeepEP 371)     test_nothing_is_no_completion
//   a proxy that polls another place than kernels write (DeepEP 677)         test_nic.cpp: test_ring_by_ring
//   stores to WQEs that the compiler drops                                   test_wqe_stores.py
//   a wait for the counter alone, so that a flush is a success               test_error_has_its_cause,
//                                                                            test_record_is_the_one_for_sends
//   the doorbell record's word for receives                                  test_record_is_the_one_for_sends
//   a quiet that looks for errors in debug builds only                       test_error_has_its_cause, with NDEBUG
//   a doorbell that is left to others, and nobody comes                      test_shared_queue_and_last_doorbell

/* Unfinished WQEs of an earlier reservation must not be announced by a later one (DeepEP 181): the NIC checks the number
 * in each block. Nor may a doorbell be lost that was left to others: nobody waits, and all is executed. The last three are
 * beyond a multiple of a quarter of the queue, where one is rung whoever comes. */
static void test_shared_queue_and_last_doorbell()
{
    scene job(2, false, 20000000000ull);
    mini_nic nic(job, depth, 1, nearly_wrapped);
    constexpr unsigned each = 300;
    static_assert(4 * arch::warp_width * each % (depth / 4) == 0, "three more are not a multiple");
    const auto puts_of = [](unsigned number) { return number == 0 ? each + 3 : each; };
    job.run(4, arch::warp_width, 0, [&] {
        const unsigned number = arch::block_index() * arch::warp_width + arch::thread_index();
        for (u64 i = 1; i <= puts_of(number); ++i)
            ibgda::put(thread, 1 - my_pe(), 4096 + 8 * number, &i, 8);
    });
    for (int pe = 0; pe < 2; ++pe) {
        auto &queue = nic.at(pe, 1 - pe);
        CHECK(nic.drained(queue), "PE %d: reserved %llu, the NIC has seen %llu", pe, queue.qp->reserved,
              queue.seen.load());
        for (unsigned i = 0; i < 4 * arch::warp_width; ++i) {
            u64 have;
            std::memcpy(&have, job.memory + scene::stride * static_cast<std::size_t>(1 - pe) + 4096 + 8 * i,
                        8);
            CHECK(have == puts_of(i), "PE %d, thread %u: %llu", pe, i, have);
        }
        CHECK(queue.doorbells < queue.executed, "%llu doorbells for %llu WQEs", queue.doorbells.load(),
              queue.executed.load());
    }
}
/* The first value of the completion queue's memory is no completion (DeepEP 371), with any first number of a block; a wait
 * for a NIC that stands still ends with the deadline, not with success and not never. */
static void test_nothing_is_no_completion()
{
    for (u64 first : {0ull, 0xffffull - 1, 0xffffull, 0x10000ull}) {
        scene job(2, false, 200000000);
        mini_nic nic(job, depth, 1, first);
        nic.at(0, 1).stalled = true;
        bool ok = true;
        job.run(1, 1, 0, [&] {
            if (my_pe() == 0) {
                const u64 value = 1;
                ibgda::put(thread, 1, 64, &value, 8);
                ok = ibgda::quiet(thread, 1);
            }
        });
        CHECK(!ok, "quiet of a NIC that stands still, blocks from %llu on", first);
        CHECK(job.boxes[0].kind == SHMEMX_DEVICE_TIMEOUT && job.boxes[0].pe == 1 &&
                  job.boxes[0].call == SHMEMX_DEVICE_CALL_QUIET && job.boxes[0].expected == first + 1,
              "kind %u, PE %d, call %u", job.boxes[0].kind, job.boxes[0].pe, job.boxes[0].call);
    }
}
/* A queue that is full and does not move: those who post end too, whoever else waits for them as well. */
static void test_full_queue_ends()
{
    scene job(2, false, 200000000);
    mini_nic nic(job, depth, 1, 0);
    nic.at(0, 1).stalled = true;
    job.run(2, arch::warp_width, 0, [] {
        if (my_pe() == 0)
            for (u64 i = 0; i < 40; ++i)
                ibgda::put(thread, 1, 64, &i, 8);
    });
    CHECK(job.boxes[0].kind == SHMEMX_DEVICE_TIMEOUT, "kind %u", job.boxes[0].kind);
    CHECK(nic.at(0, 1).qp->failed == SHMEMX_IBGDA_LEFT, "failed %llu", nic.at(0, 1).qp->failed);
}
/* Three reservations: block 0's is published last of all, so block 1's finds a later one to leave its doorbell to, which is a
 * warp's of 4 blocks a lane, and that one must get its room all the same. */
static void test_largest_reservation()
{
    scene job(2, false, 1000000000ull);
    mini_nic nic(job, depth, 1, nearly_wrapped);
    auto &q = *nic.at(0, 1).qp;
    job.run(3, arch::warp_width, 0, [&] {
        if (my_pe() != 0)
            return;
        const auto reserved = [&q](u64 blocks) {
            while (arch::load_acquire(&q.reserved) != nearly_wrapped + blocks)
                arch::give_way();
        };
        unsigned char data[SHMEMX_IBGDA_MOST_INLINE];
        std::memset(data, 1 + static_cast<int>(arch::thread_index()), sizeof data);
        if (arch::block_index() == 0 && arch::thread_index() == 0) {
            detail::build_nop(detail::wqe(detail::queue(q), arch::fetch_add(&q.reserved, u64(1))), 0);
            reserved(2 + 4 * arch::warp_width);
            arch::store_release(&q.ready, nearly_wrapped + 1);
        } else if (arch::block_index() == 1 && arch::thread_index() == 0) {
            reserved(1);
            ibgda::put(thread, 1, 64, data, 8);
        } else if (arch::block_index() == 2) {
            if (arch::thread_index() == 0)
                reserved(2);
            arch::sync(warp);
            ibgda::put_each(warp, ibgda::mine(1), 4096 + 256 * arch::thread_index(), data, sizeof data);
            CHECK(ibgda::quiet(warp, 1), "quiet");
        }
    });
    for (unsigned i = 0; i < arch::warp_width; ++i)
        CHECK(job.memory[scene::stride + 4096 + 256 * i + SHMEMX_IBGDA_MOST_INLINE - 1] == 1 + i, "lane %u",
              i);
    CHECK(job.boxes[0].kind == 0, "error %u", job.boxes[0].kind);
}
/* A thread that had looked at `done`, and then saw nothing of the next 2^16 blocks, takes no entry: it could not say what is
 * done by it, and nobody else would take it again. */
static void test_old_done()
{
    constexpr u64 first = 70000;
    scene job(2, false, 500000000);
    mini_nic nic(job, depth, 1, first);
    job.run(1, 1, 0, [&] {
        if (my_pe() != 0)
            return;
        const u64 value = 1;
        auto &q = nic.at(0, 1);
        ibgda::put(thread, 1, 64, &value, 8);
        CHECK(nic.drained(q), "the NIC has not seen it");
        for (u64 old : {first - 65536, first - 65536 + depth - 1})
            CHECK(detail::ibgda_cq::poll(*q.qp, 0, old, first + 1, SHMEMX_DEVICE_CALL_QUIET) < first &&
                      q.qp->entries == 0,
                  "with %llu: entries %llu, done %llu", old, q.qp->entries, q.qp->done);
        const u64 fresh = first - 65536 + depth; // old, and not too old
        CHECK(detail::ibgda_cq::poll(*q.qp, 0, fresh, first + 1, SHMEMX_DEVICE_CALL_QUIET) == first + 1,
              "taken");
        CHECK(ibgda::quiet(thread, 1), "quiet");
    });
}
/* A failed request is an error with its cause, for whoever waits, however many WQEs are flushed behind it; quiet says so in
 * every build; and what others had under way to other PEs is not touched. */
static void test_error_has_its_cause()
{
    for (int what = 0; what < 3; ++what) {
        scene job(3, false, 20000000000ull);
        mini_nic nic(job, depth, 1, nearly_wrapped);
        std::atomic<unsigned> yes{0}, others{0};
        if (what == 0)
            nic.at(0, 1).qp->first_key = 0; // a wrong key
        else if (what == 1)
            nic.at(0, 1).dead = true;
        else
            nic.at(0, 1).qp->first_local = 0;
        job.run(2, arch::warp_width, 0, [&] {
            if (my_pe() != 0)
                return;
            for (u64 i = 0; i < 8; ++i) {
                ibgda::put(thread, 2, 4096 + 8 * arch::thread_index(), &i, 8);
                ibgda::put(thread, 1, 4096, mine<u64>(8192), 40);
                yes += ibgda::quiet(thread, 1);
                others += ibgda::quiet(thread, 2);
            }
            (void)ibgda::amo(1, 64, detail::amo_add, 8, 1, 0, true); // ends
        });
        const shmemx_device_error &e = job.boxes[0];
        const unsigned want = what == 0   ? SHMEMX_MLX5_SYNDROME_REMOTE_ACCESS
                              : what == 1 ? SHMEMX_MLX5_SYNDROME_RETRY_EXCEEDED
                                          : SHMEMX_MLX5_SYNDROME_LOCAL_PROTECTION;
        CHECK(yes == 0, "%u quiets succeeded", yes.load());
        CHECK(others == 2 * arch::warp_width * 8, "%u quiets of another PE succeeded", others.load());
        CHECK(e.kind == SHMEMX_DEVICE_NIC && e.pe == 1 && (e.value & 0xff) == want &&
                  (e.value >> 8 & 0xff) == 0x88 && (e.value >> 16 & 0xff) == SHMEMX_MLX5_RDMA_WRITE &&
                  (e.value >> 32) == nearly_wrapped && e.expected == nic.at(0, 1).qp->qpn >> 8,
              "kind %u, PE %d, value 0x%llx, queue pair 0x%llx", e.kind, e.pe, e.value, e.expected);
        CHECK(e.address == reinterpret_cast<std::uintptr_t>(job.memory) + scene::stride + 4096,
              "address 0x%llx", e.address);
    }
}
/* The host has not asked yet for what another queue pair has met: who posts to one that works waits for room and for its
 * turn all the same, and never leaves a hole in it. */
static void test_errors_elsewhere_stop_no_post()
{
    scene job(2, false, 20000000000ull);
    mini_nic nic(job, depth, 1, nearly_wrapped);
    unsigned word = 1;
    for (auto &n : nic.nics)
        n.failed = reinterpret_cast<std::uintptr_t>(&word);
    nic.at(0, 1).stalled = nic.at(1, 0).stalled = true; // for a while, so that all have to wait
    std::thread later([&nic] {
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
        nic.at(0, 1).stalled = nic.at(1, 0).stalled = false;
    });
    job.run(2, arch::warp_width, 0, [] {
        for (u64 i = 1; i <= 200; ++i)
            ibgda::put(thread, 1 - my_pe(), 4096 + 8 * arch::thread_index(), &i, 8);
    });
    later.join();
    for (int pe = 0; pe < 2; ++pe) {
        auto &queue = nic.at(pe, 1 - pe);
        CHECK(queue.qp->failed == SHMEMX_IBGDA_WORKS, "PE %d: failed %llu", pe, queue.qp->failed);
        CHECK(nic.drained(queue), "PE %d: reserved %llu, the NIC has seen %llu", pe, queue.qp->reserved,
              queue.seen.load());
    }
}
/* The record's word for sends is written, before the doorbell, and not that for receives: in the error state the NIC
 * flushes up to it, and a flush counts as failure. */
static void test_record_is_the_one_for_sends()
{
    scene job(2, false, 20000000000ull);
    mini_nic nic(job, depth, 1, nearly_wrapped);
    bool first = true, second = true;
    nic.at(0, 1).qp->first_key = 0;
    job.run(1, 1, 0, [&] {
        if (my_pe() != 0)
            return;
        const u64 value = 1;
        ibgda::put(thread, 1, 64, &value, 8);
        first = ibgda::quiet(thread, 1);
        ibgda::put(thread, 1, 64, &value, 8);
        second = ibgda::quiet(thread, 1);
    });
    CHECK(!first && !second, "quiet after an error");
    auto &queue = nic.at(0, 1);
    CHECK(nic.drained(queue), "the NIC is not told of what came after the error");
    CHECK(queue.record[SHMEMX_MLX5_RECORD_RECEIVE] == 0, "receive word 0x%x",
          queue.record[SHMEMX_MLX5_RECORD_RECEIVE]);
    CHECK(__builtin_bswap32(queue.record[SHMEMX_MLX5_RECORD_SEND]) == ((nearly_wrapped + 2) & 0xffff),
          "send word 0x%x", queue.record[SHMEMX_MLX5_RECORD_SEND]);
    CHECK(queue.entries == 2, "%llu completion entries", queue.entries.load());
}

int main()
{
    test_bytes();
    test_put_get();
    test_atomics();
    test_put_signal();
    test_write_with_immediate();
    test_warp_posts_together();
    test_sizes();
    test_shared_queue_and_last_doorbell();
    test_nothing_is_no_completion();
    test_full_queue_ends();
    test_largest_reservation();
    test_old_done();
    test_error_has_its_cause();
    test_errors_elsewhere_stop_no_post();
    test_record_is_the_one_for_sends();
    std::printf("test_ibgda: %lu checks, %lu failed\n", passed.load(), failures.load());
    return failures.load() == 0 ? 0 : 1;
}
