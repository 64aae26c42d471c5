// Atomics where PEs are not mapped: those of all PEs on one word are atomic with each other, also the target's own and those of
// PEs that have it mapped; and what quiet and fence say of them. A part of test_nic.cpp.
#ifndef NIC_AMOS_H
#define NIC_AMOS_H

#include "nic_scene.h"

/* By many threads at once, of all PEs; and every operation. */
static void test_atomics()
{
    static constexpr unsigned threads = 24, blocks = 2, times = 20;
    u64 *counters = at<u64>(0);
    std::memset(counters, 0, 1024);
    nic_job_meet();
    // By ibgda PE 0's own are its NIC's as well. By the proxy over this test's transport they are its processor's, and that
    // transport's are not atomic with those.
    const bool alone = state->npes == 1, one_way = state->ways.atomics != SHMEMX_NIC_MAPPED;
    step(blocks, threads, [counters, alone, one_way] {
        if (my_pe() == 0 && !alone && !one_way)
            return;
        if (my_pe() == 0 && !alone) // in the midst of the others'
            CHECK(wait_until(thread, counters, ne, 0), "the others' first");
        for (unsigned i = 0; i < times; ++i) {
            atomic_add(counters, 3, 0);
            atomic_inc(reinterpret_cast<u32 *>(counters + 1), 0);
            atomic_xor(counters + 2, 1ull << arch::thread_index(), 0);
            atomic_or(counters + 3, 1ull << arch::thread_index(), 0);
        }
        const u64 seen = atomic_fetch_add(counters + 4, 1, 0);
        CHECK(seen < static_cast<u64>(threads * blocks) * n_pes(), "old value %llu", seen);
        for (u64 old = atomic_fetch(counters + 5, 0), was;; old = was) // an add by hand
            if ((was = atomic_compare_swap(counters + 5, old, old + 1, 0)) == old)
                break;
        CHECK(quiet(thread), "quiet");
    });
    const auto all = static_cast<u64>(threads * blocks) *
                     static_cast<u64>(alone || one_way ? state->npes : state->npes - 1);
    if (state->me == 0) {
        CHECK(counters[0] == 3 * times * all, "adds: %llu, not %llu", counters[0], 3 * times * all);
        CHECK(*reinterpret_cast<u32 *>(counters + 1) == times * all, "incs");
        CHECK(counters[2] == 0, "xors: %llx", counters[2]);
        CHECK(counters[3] == (1ull << threads) - 1, "ors: %llx", counters[3]);
        CHECK(counters[4] == all && counters[5] == all, "fetch_add %llu, compare_swap %llu", counters[4],
              counters[5]);
    }
    nic_job_meet();
    step(1, 1, [] { // every operation, its old value
        const int pe = next_pe();
        u64 *a = at<u64>(2048);
        u32 *b = at<u32>(2056);
        atomic_set(a, ~0ull, pe);
        CHECK(atomic_fetch(a, pe) == ~0ull, "set");
        CHECK(atomic_swap(a, 0xf0f0f0f0f0f0f0f0ull, pe) == ~0ull, "swap");
        CHECK(atomic_fetch_and(a, 0xff00ff00ff00ff00ull, pe) == 0xf0f0f0f0f0f0f0f0ull, "and");
        CHECK(atomic_fetch_or(a, 0xfull, pe) == 0xf000f000f000f000ull, "or");
        CHECK(atomic_fetch_xor(a, ~0ull, pe) == 0xf000f000f000f00full, "xor");
        CHECK(atomic_fetch_add(a, 1, pe) == 0x0fff0fff0fff0ff0ull, "add");
        CHECK(atomic_compare_swap(a, 5, 6, pe) == 0x0fff0fff0fff0ff1ull, "compare_swap that fails");
        CHECK(atomic_compare_swap(a, 0x0fff0fff0fff0ff1ull, 6, pe) == 0x0fff0fff0fff0ff1ull,
              "and one that does not");
        atomic_and(a, 2, pe);
        CHECK(atomic_fetch(a, pe) == 2, "and without the old value");
        atomic_set(b, ~0u, pe);
        CHECK(atomic_fetch_inc(b, pe) == ~0u && atomic_fetch(b, pe) == 0, "32 bits wrap");
        atomic_set(reinterpret_cast<float *>(b), 1.5f, pe);
        CHECK(atomic_swap(reinterpret_cast<float *>(b), 2.5f, pe) == 1.5f, "float");
        CHECK(atomic_fetch(a, pe) == 2, "the word beside");
    });
}

/* On PEs that are mapped, this one first: complete at quiet, before stores at fence, and a signal that is added comes behind its
 * data. word[0] to word[3] are this PE's alone. */
template <class Scope> static void on_mapped(const Scope &scope, int pe, unsigned salt)
{
    const bool leader = arch::lane(scope) == 0;
    u64 *word = at<u64>(4096) + 8 * my_pe(), *there = static_cast<u64 *>(ptr(word, pe));
    for (u64 i = 1; i <= 20; ++i) {
        if (leader)
            atomic_add(word, 2, pe);
        CHECK(quiet(scope, pe), "quiet of a mapped PE");
        CHECK(arch::load_relaxed(there) == 4 * i - 2, "an atomic on PE %d after quiet: %llu", pe, *there);
        arch::sync(scope);
        if (leader)
            atomic_inc(word, pe);
        fence(scope, pe);
        CHECK(arch::load_relaxed(there) == 4 * i - 1, "an atomic on PE %d after its fence: %llu", pe, *there);
        arch::sync(scope);
        if (leader)
            signal_op(word, 1, signal_add, pe);
        fence(scope);
        CHECK(arch::load_relaxed(there) == 4 * i, "an atomic on PE %d after fence: %llu", pe, *there);
        uchar *src = at<uchar>(half), *dst = at<uchar>(2 * half) + 1024 * my_pe();
        arch::sync(scope);
        if (leader)
            for (unsigned k = 0; k < 700; ++k)
                src[k] = pattern(k, salt + static_cast<unsigned>(i), my_pe());
        arch::sync(scope);
        put_signal(scope, dst, src, 700, word + 1, 1, signal_add, pe);
        if (leader && pe == my_pe()) {
            CHECK(signal_wait_until(thread, word + 1, ge, i), "a signal that is added to this PE");
            unsigned wrong = 0;
            for (unsigned k = 0; k < 700; ++k)
                wrong += dst[k] != pattern(k, salt + static_cast<unsigned>(i), my_pe());
            CHECK(wrong == 0, "data before a signal to this PE: %u bytes wrong", wrong);
        }
        CHECK(quiet(scope), "quiet");
        CHECK(arch::load_relaxed(there + 1) == i, "a signal added on PE %d after quiet: %llu", pe, there[1]);
        arch::sync(scope);
        if (leader)
            CHECK(atomic_fetch_add(word + 2, 3, pe) == 3 * i - 3 && atomic_swap(word + 3, i, pe) == i - 1 &&
                      atomic_fetch(word + 1, pe) == i,
                  "old values on PE %d", pe);
        arch::sync(scope);
    }
}
static bool is_mapped(int pe)
{
    const auto *nic = reinterpret_cast<const shmemx_device_nic *>(state->nic);
    return nic == nullptr || reinterpret_cast<const u8 *>(nic->path)[pe] == SHMEMX_NIC_MAPPED;
}
static void test_mapped_atomics()
{
    unsigned salt = 0;
    for (int pe = 0; pe < state->npes; ++pe) {
        std::memset(memory, 0, memory_bytes);
        nic_job_meet();
        if (is_mapped(pe))
            run(1, 1, [pe, salt] { on_mapped(thread, pe, salt); });
        nic_job_meet();
        std::memset(memory, 0, memory_bytes);
        nic_job_meet();
        if (is_mapped(pe))
            run(1, 12, [pe, salt] { on_mapped(block, pe, salt + 50); });
        nic_job_meet();
        salt += 100;
    }
}

#endif
