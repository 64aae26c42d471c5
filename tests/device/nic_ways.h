// What is in order, and complete, where messages take several ways to a PE: by their length, by the queue pair that a kernel
// names. A part of test_nic.cpp.
#ifndef NIC_WAYS_H
#define NIC_WAYS_H

#include "nic_scene.h"

/* Pieces of many sizes from several places, of which some are not of the heap, are one behind the other; by ibgda those of the
 * heap are few messages. */
constexpr unsigned gather_pieces = 40, gather_most = 700, gather_own = 64;

static u64 gather_list(unsigned block, const unsigned char *own, gather_piece *list)
{
    u64 all = 0;
    for (unsigned i = 0; i < gather_pieces; ++i) {
        const unsigned bytes = i % 9 == 4 ? 0 : 1 + (i * 97 + block) % gather_most;
        list[i] = i % 11 == 10 ? gather_piece{own, 1 + i}
                               : gather_piece{memory + half + i * (gather_most + 5) + i % 5, bytes};
        all += list[i].bytes;
    }
    return all;
}
static void test_gather()
{
    constexpr unsigned room = gather_pieces * gather_most;
    std::memset(memory, 0, memory_bytes);
    for (unsigned i = 0; i < gather_pieces * (gather_most + 5); ++i)
        memory[half + i] = pattern(i, 1, state->me);
    nic_job_meet();
    step(2, 8, [] {
        gather_piece list[gather_pieces];
        uchar own[gather_own];
        for (unsigned i = 0; i < gather_own; ++i)
            own[i] = pattern(i, 2, my_pe());
        const unsigned block_number = arch::block_index();
        (void)gather_list(block_number, own, list);
        put_gather_nbi(block, memory + 2 * half + block_number * room + 3, list, gather_pieces, next_pe());
        CHECK(quiet(block), "quiet after a list");
    });
    step(2, 1, [] {
        gather_piece list[gather_pieces];
        uchar own[gather_own] = {};
        const unsigned block_number = arch::block_index();
        const int from = (my_pe() + n_pes() - 1) % n_pes();
        const uchar *dst = memory + 2 * half + block_number * room + 3;
        const u64 all = gather_list(block_number, own, list);
        std::size_t wrong = dst[-1] != 0 || dst[all] != 0;
        for (unsigned i = 0; i < gather_pieces; dst += list[i++].bytes)
            for (u64 k = 0; k < list[i].bytes; ++k)
                wrong += dst[k] != (list[i].src == own ? pattern(k, 2, from)
                                                       : pattern(i * (gather_most + 5) + i % 5 + k, 1, from));
        CHECK(wrong == 0, "list: %zu bytes are wrong", wrong);
    });
    step(1, 1, [] { // 16 segments: four blocks
        if (queue_pairs(next_pe()) == 0)
            return;
        gather_piece list[14];
        auto &pair = detail::ibgda::mine(next_pe());
        const u64 before = arch::load_relaxed(&pair.reserved);
        for (unsigned i = 0; i < 14; ++i)
            list[i] = gather_piece{memory + half + i * 200, 100};
        put_gather_nbi(thread, memory, list, 14, next_pe());
        const u64 blocks = arch::load_relaxed(&pair.reserved) - before;
        CHECK(blocks == 4, "14 pieces: %llu blocks", blocks);
        CHECK(quiet(thread), "quiet");
    });
}

/* Long data and a short flag, which may take different ways: behind a fence, and behind a signal of no bytes; then short
 * data and a long message that ends with the flag. */
static void test_ways_in_order()
{
    constexpr unsigned words = 600; // 4800 bytes
    std::memset(memory, 0, memory_bytes);
    nic_job_meet();
    step(1, 16, [] {
        const unsigned lane = arch::thread_index();
        u64 *flag = at<u64>(64), *sig = at<u64>(128), *data = at<u64>(4096), *src = at<u64>(half);
        for (u64 r = 1; r <= 30; ++r) {
            for (unsigned i = lane; i < words; i += 16)
                src[i] = r * 1000 + i;
            arch::sync(block);
            put_nbi(block, data, src, words, next_pe());
            if (r % 2 == 0) {
                put_signal(block, data, src, 0, sig, r, signal_set, next_pe());
                CHECK(signal_wait_until(block, sig, ge, r), "signal %llu", r);
            } else {
                fence(block);
                if (lane == 0)
                    p(flag, r, next_pe());
                CHECK(wait_until(block, flag, ge, r), "flag %llu", r);
            }
            std::size_t early = 0;
            for (unsigned i = lane; i < words; i += 16)
                early += arch::load_relaxed(data + i) < r * 1000 + i;
            CHECK(early == 0, "round %llu: %zu words after their flag", r, early);
            CHECK(barrier(block), "barrier");
        }
        for (u64 r = 1; r <= 20; ++r) {
            if (lane == 0) {
                src[words - 1] = r; // the long message's last word is the flag
                p(flag + 1, r * 10, next_pe());
            }
            fence(block);
            arch::sync(block);
            put_nbi(block, data, src, words, next_pe());
            CHECK(wait_until(block, data + words - 1, eq, r), "long message %llu", r);
            CHECK(arch::load_relaxed(flag + 1) >= r * 10, "round %llu: short data after it", r);
            CHECK(barrier(block), "barrier");
        }
    });
}

// ---- one PE alone, one queue pair alone

static void test_one_way()
{
    std::memset(memory, 0, memory_bytes);
    nic_job_meet();
    step(1, 1, [] {
        const unsigned ways = queue_pairs(next_pe());
        CHECK((ways & (ways - 1)) == 0, "%u queue pairs", ways);
        CHECK(queue_pairs(my_pe()) == 0 && queue_pairs(-1) == 0 && queue_pairs(n_pes()) == 0, "queue pairs");
    });
    step(1, 12, [] {
        const unsigned lane = arch::thread_index();
        const int pe = next_pe(), from = (my_pe() + n_pes() - 1) % n_pes();
        constexpr unsigned words = 100;
        u64 *src = at<u64>(half), *dst = at<u64>(2 * half), *back = at<u64>(3 * half), *sig = at<u64>(64),
            own[words];
        for (u64 round = 1; round <= 12; ++round) {
            const queue_pair way{pe, static_cast<unsigned>(round)}; // beyond the last one it begins anew
            for (unsigned i = lane; i < words; i += 12)
                arch::store_plain(src + i, round * 1000 + i);
            arch::sync(block);
            put_nbi(block, dst, src, words, way);
            CHECK(quiet(block, way), "quiet of a queue pair");
            get_nbi(block, back, dst, words, way);
            CHECK(round % 2 ? quiet(block, way) : quiet(block, pe), "quiet of one PE");
            if (lane == 0)
                get_nbi(thread, own, dst, words, way); // not in the heap: there on return
            std::size_t wrong = 0;
            for (unsigned i = 0; i < words; ++i)
                wrong += back[i] != round * 1000 + i || (lane == 0 && own[i] != round * 1000 + i);
            CHECK(wrong == 0, "by queue pair %u: %zu wrong", way.number, wrong);
            put_signal_nbi(block, dst + words, src, words, sig, round, signal_set, way);
            CHECK(signal_wait_until(block, sig, ge, round), "signal %llu", round);
            for (unsigned i = 0; i < words; ++i)
                wrong += dst[words + i] != round * 1000 + i;
            CHECK(wrong == 0, "behind the signal of PE %d: %zu wrong", from, wrong);
            fence(block, pe);
            CHECK(quiet(block, my_pe()) && quiet(block, all_pes) && barrier(block),
                  "quiet of this PE, and of all");
        }
    });
    *at<u64>(64) = 0;
}

#endif
