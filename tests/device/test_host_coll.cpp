// Collectives of the device API on CPU threads, small (packets) and large (direct), against plain loops.
#include "host_scene.h"

#include <cmath>
#include <limits>

using shmem::arch::warp_width;

void test_collectives(scene &job);
void test_all_blocks(scene &job);

static constexpr unsigned threads = 2 * warp_width;

/* bfloat16 as CUDA has it: a class of 2 bytes that converts from and to float. */
class bfloat
{
  public:
    bfloat() = default;
    explicit bfloat(float f)
    {
        unsigned w;
        std::memcpy(&w, &f, sizeof w);
        bits_ = static_cast<unsigned short>((w + 0x7fff + (w >> 16 & 1)) >> 16);
    }
    operator float() const
    {
        unsigned w = static_cast<unsigned>(bits_) << 16;
        float f;
        std::memcpy(&f, &w, sizeof f);
        return f;
    }

  private:
    unsigned short bits_ = 0;
};

template <class T> static T value(std::size_t i, int pe)
{
    return static_cast<T>(static_cast<float>((i * 7 + static_cast<unsigned>(pe) * 13) % 23) -
                          3.0f * (static_cast<T>(-1.0f) < static_cast<T>(0.0f)));
}

/* Reference: operands in the order of the members, 16-bit floats in float. */
template <class T, class Op> static T reference(Op op, shmem::team t, std::size_t i)
{
    using A = shmem::detail::accumulated<T>;
    A total = static_cast<A>(value<T>(i, shmem::team_translate_pe(t, 0, shmem::world)));
    for (int j = 1; j < shmem::team_n_pes(t); ++j) {
        A next = static_cast<A>(value<T>(i, shmem::team_translate_pe(t, j, shmem::world)));
        if constexpr (std::is_same_v<Op, shmem::sum_op>)
            total = static_cast<A>(total + next);
        else if constexpr (std::is_same_v<Op, shmem::prod_op>)
            total = static_cast<A>(total * next);
        else if constexpr (std::is_same_v<Op, shmem::min_op>)
            total = next < total ? next : total;
        else if constexpr (std::is_same_v<Op, shmem::max_op>)
            total = total < next ? next : total;
        else if constexpr (std::is_same_v<Op, shmem::bit_and_op>)
            total = static_cast<A>(total & next);
        else if constexpr (std::is_same_v<Op, shmem::bit_or_op>)
            total = static_cast<A>(total | next);
        else
            total = static_cast<A>(total ^ next);
        (void)op;
    }
    return static_cast<T>(total);
}

template <class T, class Scope, class Op>
static void one_reduce(const Scope &scope, shmem::team t, Op op, std::size_t count, bool in_place,
                       std::size_t skew)
{
    T *src = mine<T>(4096 + skew * sizeof(T)), *dst = in_place ? src : mine<T>(65536 + skew * sizeof(T));
    for (std::size_t i = shmem::arch::lane(scope); i < count; i += shmem::arch::width(scope))
        src[i] = value<T>(i, shmem::my_pe());
    shmem::arch::sync(scope);
    CHECK(shmem::reduce(scope, t, op, dst, src, count), "reduce");
    std::size_t wrong = 0;
    for (std::size_t i = shmem::arch::lane(scope); i < count; i += shmem::arch::width(scope)) {
        T want = reference<T>(op, t, i);
        wrong += std::memcmp(&want, dst + i, sizeof want) != 0;
    }
    CHECK(wrong == 0, "reduce of %zu elements of %zu bytes, skew %zu: %zu wrong", count, sizeof(T), skew,
          wrong);
    CHECK(shmem::sync(scope, t), "sync");
}
template <class T, class Scope> static void reduces(const Scope &scope, shmem::team t, bool bitwise_too)
{
    for (std::size_t count : {1, 33, 1500}) {
        one_reduce<T>(scope, t, shmem::sum, count, false, 0);
        one_reduce<T>(scope, t, shmem::max, count, true, 1);
    }
    one_reduce<T>(scope, t, shmem::prod, 50, false, 3);
    one_reduce<T>(scope, t, shmem::min, 50, true, 0);
    if constexpr (!std::is_class_v<T> && std::is_integral_v<T>)
        if (bitwise_too) {
            one_reduce<T>(scope, t, shmem::bit_and, 40, true, 0);
            one_reduce<T>(scope, t, shmem::bit_or, 40, false, 0);
            one_reduce<T>(scope, t, shmem::bit_xor, 1300, true, 0);
        }
}
/* Everybody's prefix of what reduces() adds up, exclusive or not; -0.0 and 16-bit floats bit by bit. */
template <class T, class Scope>
static void one_scan(const Scope &scope, shmem::team t, std::size_t count, bool exclusive, bool in_place, std::size_t skew)
{
    using A = shmem::detail::accumulated<T>;
    T *src = mine<T>(4096 + skew * sizeof(T)), *dst = in_place ? src : mine<T>(131072 + skew * sizeof(T));
    auto operand = [&](std::size_t i, int j) {
        const T v = value<T>(i, shmem::team_translate_pe(t, j, shmem::world));
        return i % 5 == 4 ? static_cast<T>(-static_cast<A>(0)) : v;
    };
    const int me = shmem::team_my_pe(t), members = exclusive ? me : me + 1;
    for (std::size_t i = shmem::arch::lane(scope); i < count; i += shmem::arch::width(scope))
        src[i] = operand(i, me);
    shmem::arch::sync(scope);
    const bool ok = exclusive ? shmem::sum_exscan(scope, t, dst, src, count) : shmem::sum_inscan(scope, t, dst, src, count);
    CHECK(ok, "scan");
    std::size_t wrong = 0;
    for (std::size_t i = shmem::arch::lane(scope); i < count; i += shmem::arch::width(scope)) {
        A total = members == 0 ? A() : static_cast<A>(operand(i, 0));
        for (int j = 1; j < members; ++j)
            total = static_cast<A>(total + static_cast<A>(operand(i, j)));
        const T want = static_cast<T>(total);
        wrong += std::memcmp(&want, dst + i, sizeof want) != 0;
    }
    CHECK(wrong == 0, "%s scan of %zu elements of %zu bytes, skew %zu: %zu wrong", exclusive ? "exclusive" : "inclusive",
          count, sizeof(T), skew, wrong);
    CHECK(shmem::sync(scope, t), "sync");
}
template <class T, class Scope> static void scans(const Scope &scope, shmem::team t)
{
    if (shmem::n_pes() == 4) // 1 to 3 have a first, a middle and a last one; the threads of 4 cost the most
        return;
    CHECK(shmem::sum_inscan(scope, t, mine<T>(0), mine<T>(0), 0), "scan of nothing");
    for (std::size_t count : {1, 33, 700}) {
        one_scan<T>(scope, t, count, false, count != 33, 0);
        one_scan<T>(scope, t, count, true, count == 33, 1);
    }
    one_scan<T>(scope, t, 5000 / sizeof(T), false, false, 0); // by shares: whole vectors, and element by element
    one_scan<T>(scope, t, 5000 / sizeof(T), true, true, 3);
}

static void nan_reduces()
{
    const float nan = std::numeric_limits<float>::quiet_NaN();
    float *src = mine<float>(4096), *dst = mine<float>(8192);
    for (int who = 0; who < shmem::n_pes(); ++who) {
        if (shmem::arch::thread_index() == 0)
            src[0] = shmem::my_pe() == who ? nan : 1.0f;
        shmem::arch::sync(shmem::warp);
        CHECK(shmem::reduce(shmem::warp, shmem::world, shmem::min, dst, src, 1) && std::isnan(dst[0]),
              "min with a NaN of PE %d", who);
        CHECK(shmem::reduce(shmem::warp, shmem::world, shmem::max, dst, src, 1) && std::isnan(dst[0]),
              "max with a NaN of PE %d", who);
    }
}

template <class Scope> static void moves(const Scope &scope, shmem::team t, std::size_t count, unsigned salt)
{
    const int n = shmem::team_n_pes(t), me = shmem::team_my_pe(t);
    const unsigned lane = shmem::arch::lane(scope), width = shmem::arch::width(scope);
    const auto all = count * static_cast<std::size_t>(n);
    unsigned char *src = mine<unsigned char>(4096 + salt % 9), *dst = mine<unsigned char>(131072 + salt % 5);
    for (std::size_t i = lane; i < all; i += width) {
        src[i] = pattern(i, salt, me);
        dst[i] = 0;
    }
    CHECK(shmem::barrier(scope, t), "barrier");
    const int root = static_cast<int>(salt) % n;
    std::size_t wrong = 0;
    CHECK(shmem::broadcast(scope, t, dst, src, count, root), "broadcast");
    for (std::size_t i = lane; i < count; i += width)
        wrong += dst[i] != pattern(i, salt, root);
    CHECK(wrong == 0, "broadcast of %zu from %d of %d: %zu wrong", count, root, n, wrong);
    shmem::sync(scope, t); // dst is read by all lanes; fcollect writes it
    CHECK(shmem::fcollect(scope, t, dst, src, count), "fcollect");
    for (std::size_t i = lane; i < all; i += width)
        wrong += dst[i] != pattern(i % count, salt, static_cast<int>(i / count));
    CHECK(wrong == 0, "fcollect of %zu by %d: %zu wrong", count, n, wrong);
    shmem::sync(scope, t);
    CHECK(shmem::alltoall(scope, t, dst, src, count), "alltoall");
    for (std::size_t i = lane; i < all; i += width)
        wrong += dst[i] !=
                 pattern(static_cast<std::size_t>(me) * count + i % count, salt, static_cast<int>(i / count));
    CHECK(wrong == 0, "alltoall of %zu by %d: %zu wrong", count, n, wrong);
    shmem::sync(scope, t);
}
template <class Scope> static void all_moves(const Scope &scope, shmem::team t)
{
    unsigned salt = 0;
    for (std::size_t count : {0, 1, 8, 120, 121, 700, 2100, 20000})
        moves(scope, t, count, salt++);
}

/* What the library's own kernels do: one collective a launch, made by all blocks. dst = src for odd salts where
 * that is allowed. */
static void by_all_blocks(scene &job, unsigned blocks, std::size_t bytes, unsigned salt)
{
    using shmem::detail::grid;
    const std::size_t from = 4096 + salt % 9, to = 262144 + salt % 5;
    job.run(1, 1, 0, [=] {
        for (std::size_t i = 0; i < bytes * static_cast<std::size_t>(shmem::n_pes()); ++i)
            mine<unsigned char>(from)[i] = pattern(i, salt, shmem::my_pe());
    });
    auto check = [&](const char *what, auto wanted) {
        job.run(1, 1, 0, [=] {
            std::size_t wrong = 0;
            for (std::size_t i = 0; i < bytes * static_cast<std::size_t>(shmem::n_pes()); ++i)
                wrong += mine<unsigned char>(to)[i] != wanted(i);
            CHECK(wrong == 0, "%s of %zu bytes by %u blocks: %zu wrong", what, bytes, blocks, wrong);
        });
    };
    job.run(blocks, threads, 0, [=] {
        const auto t = shmem::detail::enter(grid, shmem::world, 0);
        CHECK(shmem::detail::exchange_packets(grid, t, 0, mine<unsigned char>(to), mine<unsigned char>(from),
                                              bytes, 0),
              "fcollect");
    });
    check("fcollect", [=](std::size_t i) { return pattern(i % bytes, salt, static_cast<int>(i / bytes)); });
    job.run(blocks, threads, 0, [=] {
        const auto t = shmem::detail::enter(grid, shmem::world, 0);
        CHECK(shmem::detail::exchange_packets(grid, t, 0, mine<unsigned char>(to), mine<unsigned char>(from),
                                              bytes, bytes),
              "alltoall");
    });
    check("alltoall", [=](std::size_t i) {
        return pattern(static_cast<unsigned>(shmem::my_pe()) * bytes + i % bytes, salt,
                       static_cast<int>(i / bytes));
    });
    const int root = static_cast<int>(salt) % job.npes;
    job.run(blocks, threads, 0, [=] {
        const auto t = shmem::detail::enter(grid, shmem::world, 0);
        CHECK(shmem::detail::broadcast_packets(grid, t, mine<unsigned char>(to), mine<unsigned char>(from),
                                               bytes, root),
              "broadcast");
    });
    check("broadcast", [=](std::size_t i) {
        return i < bytes ? pattern(i, salt, root)
                         : pattern(static_cast<unsigned>(shmem::my_pe()) * bytes + i % bytes, salt,
                                   static_cast<int>(i / bytes));
    });
}
/* Sums of int by all blocks, in one trip and in two; the vector fills the slots. */
template <bool Lines>
static void sums_by_all_blocks(scene &job, unsigned blocks, std::size_t count, bool twice)
{
    using shmem::detail::grid;
    const std::size_t from = 4096, to = count % 2 != 0 ? from : 262144; // in place every other time
    job.run(1, 1, 0, [=] {
        for (std::size_t i = 0; i < count; ++i)
            mine<int>(from)[i] = value<int>(i, shmem::my_pe());
    });
    job.run(blocks, threads, 0, [=] {
        const auto t = shmem::detail::enter(grid, shmem::world, 0);
        const unsigned long long e = shmem::detail::next_epoch(t);
        auto *dst = mine<unsigned char>(to), *src = mine<unsigned char>(from);
        const bool ok =
            shmem::detail::reduce_shots<Lines, int>(grid, t, e, shmem::sum, dst, src, count * 4, twice);
        CHECK(shmem::detail::leave(grid, t, e, ok), "sum");
    });
    job.run(1, 1, 0, [=] {
        std::size_t wrong = 0;
        for (std::size_t i = 0; i < count; ++i)
            wrong += mine<int>(to)[i] != reference<int>(shmem::sum, shmem::world, i);
        CHECK(wrong == 0, "sum of %zu in %d trip(s) by %u blocks: %zu wrong", count, twice ? 2 : 1, blocks,
              wrong);
    });
}
/* The library's kernels of scans: packets, and shares, by all blocks. */
template <bool Lines> static void scans_by_all_blocks(scene &job, unsigned blocks, std::size_t count, bool packets)
{
    using shmem::detail::grid;
    const std::size_t from = 4096;
    for (bool exclusive : {false, true}) {
        const std::size_t to = exclusive ? from : 262144; // in place every other time
        job.run(1, 1, 0, [=] {
            for (std::size_t i = 0; i < count; ++i)
                mine<int>(from)[i] = value<int>(i, shmem::my_pe());
        });
        job.run(blocks, threads, 0, [=] {
            auto *dst = mine<int>(to), *src = mine<int>(from);
            if (packets) {
                const auto t = shmem::detail::enter(grid, shmem::world, 0);
                CHECK((shmem::detail::scan_packets<Lines, int>(grid, t, exclusive, dst, src, count * 4)), "scan");
            } else { // job.run stands for the meetings
                const auto t = shmem::detail::find(shmem::thread, shmem::world, 0);
                shmem::detail::scan_share(grid, t, exclusive, dst, src, count);
            }
        });
        job.run(1, 1, 0, [=] {
            std::size_t wrong = 0;
            for (std::size_t i = 0; i < count; ++i) {
                int want = 0;
                for (int j = 0; j < shmem::my_pe() + !exclusive; ++j)
                    want += value<int>(i, j);
                wrong += mine<int>(to)[i] != want;
            }
            CHECK(wrong == 0, "%s scan of %zu by %u blocks, packets %d: %zu wrong", exclusive ? "exclusive" : "inclusive",
                  count, blocks, packets, wrong);
        });
    }
}
void test_all_blocks(scene &job)
{
    const bool lines = (job.states[0].flags & SHMEMX_DEVICE_LINES128) != 0;
    const std::size_t room = scene::slot_bytes / 128 * (lines ? 120 : 64);
    unsigned salt = 0;
    for (unsigned blocks : {1u, 3u})
        for (std::size_t bytes : {std::size_t(1), std::size_t(119), std::size_t(961), room})
            by_all_blocks(job, blocks, bytes, ++salt);
    for (std::size_t count : {std::size_t(1), std::size_t(211), room / 4})
        for (bool packets : {true, false}) {
            if (lines)
                scans_by_all_blocks<true>(job, 3, count, packets);
            else
                scans_by_all_blocks<false>(job, 3, count, packets);
        }
    for (unsigned blocks : {1u, 3u})
        for (bool twice : {false, true})
            for (std::size_t count :
                 {std::size_t(4 * job.npes), std::size_t(4 * job.npes + 1), std::size_t(211),
                  twice ? room / 8 * static_cast<std::size_t>(job.npes) - 8 : room / 4}) {
                if (lines)
                    sums_by_all_blocks<true>(job, blocks, count, twice);
                else
                    sums_by_all_blocks<false>(job, blocks, count, twice);
            }
}

void test_collectives(scene &job)
{
    job.run(1, warp_width, 0, [] {
        all_moves(shmem::warp, shmem::world);
        reduces<int>(shmem::warp, shmem::world, true);
        reduces<float>(shmem::warp, shmem::team(3), false);
        scans<float>(shmem::warp, shmem::team(3));
        nan_reduces();
        if (shmem::my_pe() % 2 == 0) {
            all_moves(shmem::warp, shmem::team(2));
            reduces<double>(shmem::warp, shmem::team(2), false);
            scans<double>(shmem::warp, shmem::team(2));
        }
    });
    job.run(1, 3 * warp_width + 5, 20000, [] { // more warps than members, and a partial one
        all_moves(shmem::block, shmem::team(3));
        reduces<unsigned char>(shmem::block, shmem::world, true);
        reduces<short>(shmem::block, shmem::world, true);
        reduces<unsigned long long>(shmem::block, shmem::world, true);
        reduces<double>(shmem::block, shmem::world, false);
        reduces<bfloat>(shmem::block, shmem::world, false);
        scans<unsigned char>(shmem::block, shmem::world);
        scans<bfloat>(shmem::block, shmem::world);
        shmem::stage scope(shmem::host::shared(), 16384 + 128);
        all_moves(scope, shmem::world);
        reduces<long>(scope, shmem::world, true);
    });
    // rounds back to back, a different root each time: slots are used again as early as the contract allows
    job.run(1, threads, 0, [] {
        long *cell = mine<long>(4096), *out = mine<long>(8192), *sums = mine<long>(12288);
        const int n = shmem::n_pes(), me = shmem::my_pe();
        long local[8], bad = 0;
        for (int r = 0; r < 60; ++r) {
            if (shmem::arch::thread_index() == 0)
                cell[0] = 1000L * r + me;
            shmem::arch::sync(shmem::block);
            bad += !shmem::broadcast(shmem::block, shmem::world, out, cell, 1, r % n);
            bad += out[0] != 1000L * r + r % n;
            bad += !shmem::fcollect(shmem::block, shmem::world, sums, cell, 1);
            for (int j = 0; j < n; ++j)
                bad += (local[j % 8] = sums[j]) != 1000L * r + j;
            bad += !shmem::reduce(shmem::block, shmem::world, shmem::sum, out + 1, cell, 1);
            bad += out[1] != 1000L * r * n + n * (n - 1) / 2;
            bad += !shmem::sum_exscan(shmem::block, shmem::world, out + 2, cell, 1);
            bad += out[2] != 1000L * r * me + me * (me - 1) / 2;
            shmem::arch::sync(shmem::block);
        }
        CHECK(bad == 0, "%ld wrong", bad);
    });
}
