// Meetings, collectives and packets where PEs are not mapped: a part of test_nic.cpp.
#ifndef NIC_TEAMS_H
#define NIC_TEAMS_H

#include "nic_scene.h"

template <class Scope, class T, class Op>
static void reduction(const Scope &scope, team t, Op op, std::size_t n, bool in_place,
                      T (*expected)(std::size_t, int))
{
    const int members = team_n_pes(t), me = team_my_pe(t);
    T *src = at<T>(half), *dst = in_place ? src : at<T>(2 * half);
    for (std::size_t i = arch::lane(scope); i < n; i += arch::width(scope))
        arch::store_plain(src + i, static_cast<T>((i % 7 + 1) * static_cast<unsigned>(me + 1)));
    arch::sync(scope);
    CHECK(reduce(scope, t, op, dst, src, n), "reduce");
    std::size_t wrong = 0;
    for (std::size_t i = arch::lane(scope); i < n; i += arch::width(scope))
        wrong += arch::load_plain(dst + i) != expected(i, members);
    CHECK(wrong == 0, "team %u of %d, %zu elements of %zu bytes: %zu wrong", t, members, n, sizeof(T), wrong);
    CHECK(barrier(scope, t), "barrier");
}
template <class Scope, class T>
static void prefix_sums(const Scope &scope, team t, std::size_t n, bool exclusive, bool in_place)
{
    const int me = team_my_pe(t);
    T *src = at<T>(half), *dst = in_place ? src : at<T>(2 * half);
    for (std::size_t i = arch::lane(scope); i < n; i += arch::width(scope))
        arch::store_plain(src + i, static_cast<T>((i % 7 + 1) * static_cast<unsigned>(me + 1)));
    arch::sync(scope);
    CHECK(exclusive ? sum_exscan(scope, t, dst, src, n) : sum_inscan(scope, t, dst, src, n), "scan");
    const auto members = static_cast<unsigned>(me + !exclusive);
    std::size_t wrong = 0;
    for (std::size_t i = arch::lane(scope); i < n; i += arch::width(scope))
        wrong += arch::load_plain(dst + i) != static_cast<T>((i % 7 + 1) * (members * (members + 1) / 2));
    CHECK(wrong == 0, "scan of team %u, %zu elements of %zu bytes: %zu wrong", t, n, sizeof(T), wrong);
    CHECK(barrier(scope, t), "barrier");
}
template <class T> static T sum_of(std::size_t i, int members)
{
    return static_cast<T>((i % 7 + 1) * static_cast<unsigned>(members * (members + 1) / 2));
}
template <class T> static T max_of(std::size_t i, int members)
{
    return static_cast<T>((i % 7 + 1) * static_cast<unsigned>(members));
}
template <class Scope> static void collectives(const Scope &scope, team t)
{
    const int n = team_n_pes(t), me = team_my_pe(t);
    const unsigned lane = arch::lane(scope), width = arch::width(scope);
    for (std::size_t bytes : {0, 1, 24, 1000, 5000}) {
        uchar *src = at<uchar>(half), *dst = at<uchar>(2 * half);
        const int root = n - 1;
        for (std::size_t i = lane; i < bytes * static_cast<std::size_t>(n); i += width)
            arch::store_plain(src + i, pattern(i, 50, me));
        arch::sync(scope);
        CHECK(broadcast(scope, t, dst, src, bytes, root), "broadcast");
        std::size_t wrong = 0;
        for (std::size_t i = lane; i < bytes; i += width)
            wrong += arch::load_plain(dst + i) != pattern(i, 50, root);
        CHECK(wrong == 0, "broadcast of %zu: %zu wrong", bytes, wrong);
        CHECK(barrier(scope, t), "barrier");
        CHECK(fcollect(scope, t, dst, src, bytes), "fcollect");
        for (int j = 0; j < n; ++j)
            for (std::size_t i = lane; i < bytes; i += width)
                wrong += arch::load_plain(dst + static_cast<std::size_t>(j) * bytes + i) != pattern(i, 50, j);
        CHECK(wrong == 0, "fcollect of %zu: %zu wrong", bytes, wrong);
        CHECK(barrier(scope, t), "barrier");
        CHECK(alltoall(scope, t, dst, src, bytes), "alltoall");
        for (int j = 0; j < n; ++j)
            for (std::size_t i = lane; i < bytes; i += width)
                wrong += arch::load_plain(dst + static_cast<std::size_t>(j) * bytes + i) !=
                         pattern(static_cast<std::size_t>(me) * bytes + i, 50, j);
        CHECK(wrong == 0, "alltoall of %zu: %zu wrong", bytes, wrong);
        CHECK(barrier(scope, t), "barrier");
    }
    for (std::size_t k : {0, 1, 3, 100}) {
        reduction<Scope, int>(scope, t, sum, k, false, sum_of<int>);
        reduction<Scope, u8>(scope, t, max, k, true, max_of<u8>);
        prefix_sums<Scope, int>(scope, t, k, false, k == 3);
        prefix_sums<Scope, u8>(scope, t, k, true, k != 3);
    }
    if (t != static_cast<team>(NIC_JOB_REVERSED)) { // that one takes a trip for each element
        reduction<Scope, double>(scope, t, sum, 700, true, sum_of<double>);
        prefix_sums<Scope, double>(scope, t, 700, true, true);
        reduction<Scope, float>(scope, t, sum, 1025, false, sum_of<float>);
    }
}
static void test_teams()
{
    const auto even = static_cast<team>(NIC_JOB_EVEN), reversed = static_cast<team>(NIC_JOB_REVERSED);
    step(1, 8, [] {
        for (int i = 0; i < 20; ++i)
            CHECK(sync(warp) && barrier(warp), "meetings of warps");
    });
    step(1, 8, [] { collectives(warp, world); });
    step(1, 16, [] { collectives(block, shared); });
    if (state->me % 2 == 0)
        run(1, 16, [even] { collectives(block, even); });
    nic_job_meet();
    step(1, 8, [reversed] { collectives(warp, reversed); });
}

static void test_packets()
{
    for (unsigned lines : {1u, 0u}) {
        state->flags = lines ? SHMEMX_DEVICE_LINES128 : 0;
        std::memset(memory, 0, 2 * half);
        nic_job_meet();
        step(1, 16, [] {
            uchar *src = at<uchar>(2 * half), *dst = at<uchar>(3 * half);
            u64 r = 0;
            for (std::size_t n : {1, 8, 119, 120, 121, 960, 3001}) {
                for (unsigned i = arch::thread_index(); i < n; i += 16)
                    arch::store_plain(src + i, pattern(i, 70 + static_cast<unsigned>(n), my_pe()));
                arch::sync(block);
                ++r;
                CHECK(put_packets(block, at<uchar>(r % 2 * half), src, n, r, next_pe()), "put_packets");
                CHECK(recv_packets(block, dst, at<uchar>(r % 2 * half), n, r), "recv_packets");
                std::size_t wrong = 0;
                for (unsigned i = arch::thread_index(); i < n; i += 16)
                    wrong += arch::load_plain(dst + i) !=
                             pattern(i, 70 + static_cast<unsigned>(n), (my_pe() + n_pes() - 1) % n_pes());
                CHECK(wrong == 0, "message of %zu: %zu wrong", n, wrong);
                CHECK(barrier(block), "barrier");
            }
        });
    }
    state->flags = SHMEMX_DEVICE_LINES128;
}

#endif
