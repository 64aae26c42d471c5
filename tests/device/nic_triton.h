// The functions that Triton's kernels get as assembly (src/gpu/triton.cu), by blocks of CPU threads: a part of test_nic.cpp,
// where queue pairs are open.
#ifndef NIC_TRITON_H
#define NIC_TRITON_H

#include "nic_scene.h"
#include "triton.cu"

#include <limits>

/* A result as Triton's kernels see it: the largest of all threads. */
static u64 of_program(u64 mine)
{
    auto *most = reinterpret_cast<std::atomic<long long> *>(host::shared());
    arch::sync(block);
    if (arch::thread_index() == 0)
        *most = std::numeric_limits<long long>::min();
    arch::sync(block);
    const auto v = static_cast<long long>(mine);
    for (long long seen = *most; seen < v && !most->compare_exchange_weak(seen, v);)
        ;
    arch::sync(block);
    return static_cast<u64>(most->load());
}
static u64 triton_atomic(detail::atomic_op op, unsigned bytes, const void *word, u64 value, u64 condition = 0)
{
    return of_program(
        shmem_triton_atomic(op, bytes, 1, detail::offset_of(word), value, condition, next_pe()));
}
static bool triton_quiet()
{
    return shmem_triton_quiet() == 1;
}

/* Bytes there, with and without a signal, and back. */
static void triton_moves()
{
    const unsigned lane = arch::lane(block), width = arch::width(block);
    const int pe = next_pe(), before = (my_pe() + n_pes() - 1) % n_pes();
    const auto address = [](const void *p) { return reinterpret_cast<u64>(p); };
    u64 *signal = at<u64>(4096), round = 0;
    for (std::size_t n : {1, 28, 29, 221, 5000}) {
        uchar *src = at<uchar>(half), *dst = at<uchar>(2 * half), *back = at<uchar>(3 * half);
        for (std::size_t i = lane; i < n; i += width) {
            src[i] = pattern(i, 90, my_pe());
            back[i] = 0;
        }
        arch::sync(block);
        shmem_triton_put(detail::offset_of(dst), address(src), n, pe);
        CHECK(triton_quiet(), "quiet of %zu bytes", n);
        shmem_triton_get(address(back), detail::offset_of(dst), n, pe);
        CHECK(triton_quiet(), "quiet of %zu bytes back", n);
        std::size_t wrong = 0;
        for (std::size_t i = lane; i < n; i += width)
            wrong += back[i] != pattern(i, 90, my_pe());
        CHECK(wrong == 0, "put and get of %zu: %zu wrong", n, wrong);
        // two signals a round, the second alone; the next round's are sent when the peer has said that it has looked
        dst += half / 2;
        shmem_triton_put_signal(detail::offset_of(dst), address(src), n, detail::offset_of(signal),
                                2 * round + 1, 0, pe);
        CHECK(signal_wait_until(block, signal, ge, 2 * round + 1), "the signal behind %zu bytes", n);
        for (std::size_t i = lane; i < n; i += width)
            wrong += dst[i] != pattern(i, 90, before);
        CHECK(wrong == 0, "put_signal of %zu: %zu wrong", n, wrong);
        arch::sync(block);
        shmem_triton_signal(detail::offset_of(signal + 1), 1, 1, before);
        CHECK(signal_wait_until(block, signal + 1, ge, ++round), "the signal alone");
        CHECK(triton_quiet(), "quiet of signals");
    }
    CHECK(*signal == 2 * round - 1 && signal[1] == round, "signals %llu %llu", *signal, signal[1]);
}

static void triton_values()
{
    const int pe = next_pe();
    const u64 bits = 0x8123456789abcdefull;
    for (unsigned n : {1u, 2u, 4u, 8u}) {
        const u64 there = detail::offset_of(at<u64>(0) + n),
                  whole = n == 8 ? bits : bits & ((1ull << 8 * n) - 1);
        shmem_triton_p(there, bits, n, pe);
        CHECK(triton_quiet(), "quiet of p");
        const u64 got = of_program(shmem_triton_g(there, n, pe));
        CHECK(got == whole, "g of %u bytes: 0x%llx", n, got);
    }
    using namespace detail;
    const u64 f = 0xf0f0f0f0f0f0f0f0ull;
    for (unsigned n : {4u, 8u}) {
        const u64 mask = n == 8 ? ~0ull : 0xffffffffull;
        u64 *w = at<u64>(256) + n;
        (void)shmem_triton_atomic(amo_set, n, 0, offset_of(w), mask, 0, pe); // waits for nothing
        CHECK(triton_atomic(amo_fetch, n, w, 0) == mask, "set");
        CHECK(triton_atomic(amo_swap, n, w, f & mask) == mask, "swap");
        CHECK(triton_atomic(amo_and, n, w, 0xff00ff00ff00ff00ull & mask) == (f & mask), "and");
        CHECK(triton_atomic(amo_or, n, w, 15) == (0xf000f000f000f000ull & mask), "or");
        CHECK(triton_atomic(amo_xor, n, w, mask) == (0xf000f000f000f00full & mask), "xor");
        CHECK(triton_atomic(amo_add, n, w, 1) == (0x0fff0fff0fff0ff0ull & mask), "add");
        CHECK(triton_atomic(amo_compare_swap, n, w, 6, 5) == (0x0fff0fff0fff0ff1ull & mask),
              "a swap that fails");
        CHECK(triton_atomic(amo_compare_swap, n, w, 1ull << (8 * n - 1), 0x0fff0fff0fff0ff1ull & mask) ==
                  (0x0fff0fff0fff0ff1ull & mask),
              "compare_swap");
        const u64 last = triton_atomic(amo_fetch, n, w, 0);
        // the largest of all threads as signed numbers: 2^63 is the least, and the others have that
        CHECK(last == 1ull << (8 * n - 1), "the top bit alone: 0x%llx", last);
    }
}

static void test_triton()
{
    if (state->nic == 0 || reinterpret_cast<const shmemx_device_nic *>(state->nic)->ibgda == 0)
        return;
    std::memset(memory, 0, memory_bytes);
    nic_job_meet();
    step(1, 20, [] {
        triton_moves();
        triton_values();
    });
}

#endif
