// The device API on CPU threads: every operation and scope against a plain reference.
//   g++ -std=c++17 -pthread -O1 -DSHMEM_DEVICE_CHECKS -Ilibshmem/include -Itests/device
//   tests/device/test_host.cpp
#include "host_scene.h"

using shmem::arch::warp_width;

static constexpr unsigned threads = 2 * warp_width; // a block: two warps

// ---- who and where

static void test_query(scene &job)
{
    job.run(1, 1, 0, [&] {
        int me = shmem::my_pe(), n = shmem::n_pes();
        CHECK(n == job.npes, "n_pes %d", n);
        unsigned char *here = mine<unsigned char>(64);
        for (int pe = 0; pe < n; ++pe) {
            unsigned char *want = job.memory + static_cast<std::size_t>(pe) * scene::stride + 64;
            CHECK(shmem::ptr(here, pe) == want, "ptr to PE %d: %p, not %p", pe, shmem::ptr(here, pe), want);
        }
        CHECK(shmem::ptr(here, n) == nullptr && shmem::ptr(here, -1) == nullptr, "ptr to no PE");
        int local = 0;
        CHECK(n == 1 || shmem::ptr(&local, 0) == nullptr, "ptr of an address that is not symmetric");
        CHECK(shmem::team_my_pe(shmem::world) == me && shmem::team_n_pes(shmem::shared) == n,
              "world and shared");
        auto even = shmem::team(2), reversed = shmem::team(3);
        if (me % 2 == 0) {
            CHECK(shmem::team_my_pe(even) == me / 2 && shmem::team_n_pes(even) == (n + 1) / 2, "even team");
            for (int j = 0; j < (n + 1) / 2; ++j)
                CHECK(shmem::team_translate_pe(even, j, shmem::world) == 2 * j, "even %d in world", j);
            for (int j = 0; j < n; ++j)
                CHECK(shmem::team_translate_pe(shmem::world, j, even) == (j % 2 == 0 ? j / 2 : -1),
                      "%d in even", j);
        }
        for (int j = 0; j < n; ++j)
            CHECK(shmem::team_translate_pe(shmem::world, j, reversed) == n - 1 - j, "world %d in reversed",
                  j);
        CHECK(shmem::team_translate_pe(shmem::world, n, reversed) == -1, "no such member");
    });
}

// ---- p and g

struct odd {
    unsigned char byte[12];
    bool operator==(const odd &o) const
    {
        return std::memcmp(byte, o.byte, sizeof byte) == 0;
    }
};

template <class T> static void p_and_g(std::size_t at, T a, T b)
{
    int me = shmem::my_pe(), n = shmem::n_pes(), next = (me + 1) % n;
    T *cell = mine<T>(at);
    shmem::p(cell, me % 2 != 0 ? a : b, next);
    shmem::barrier(shmem::thread);
    int before = (me + n - 1) % n;
    CHECK(*cell == (before % 2 != 0 ? a : b), "p of %zu bytes", sizeof(T));
    CHECK(shmem::g(cell, next) == (me % 2 != 0 ? a : b), "g of %zu bytes", sizeof(T));
    shmem::barrier(shmem::thread);
}
static void test_p_g(scene &job)
{
    job.run(1, 1, 0, [] {
        p_and_g<unsigned char>(1, 200, 100);
        p_and_g<short>(2, -200, 100);
        p_and_g<int>(4, -70000, 1);
        p_and_g<float>(8, 1.5f, -2.25f);
        p_and_g<double>(16, 1e300, -0.0);
        p_and_g<long>(24, -1, 1L << 40);
        p_and_g<odd>(32, odd{{1, 2, 3}}, odd{{4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}});
    });
}

// ---- put and get

static constexpr std::size_t sizes[] = {0, 1, 7, 16, 33, 255, 1024, 1999, 9000};
static constexpr std::size_t skews[] = {0, 1, 4, 8, 13, 16};

template <class Scope>
static void put_get(const Scope &scope, std::size_t region, std::size_t bytes, std::size_t to,
                    std::size_t from, unsigned salt)
{
    const int me = shmem::my_pe(), n = shmem::n_pes(), next = (me + 1) % n, before = (me + n - 1) % n;
    const unsigned lane = shmem::arch::lane(scope);
    unsigned char *src = mine<unsigned char>(region + 64 + from),
                  *dst = mine<unsigned char>(region + 40064 + to);
    unsigned char *back = mine<unsigned char>(region + 80064 + to);
    if (lane == 0) {
        for (std::size_t i = 0; i < bytes; ++i)
            src[i] = pattern(i, salt, me);
        std::memset(dst - 32, 0xee, bytes + 64);
        std::memset(back - 32, 0xdd, bytes + 64);
    }
    shmem::arch::sync(scope);
    shmem::barrier(scope);
    if (salt % 2 != 0) {
        shmem::put(scope, dst, src, bytes, next);
    } else {
        shmem::put_nbi(scope, dst, src, bytes, next);
        shmem::quiet(scope);
    }
    shmem::barrier(scope);
    if (salt % 2 != 0) {
        shmem::get(scope, back, src, bytes, next);
    } else {
        shmem::get_nbi(scope, back, src, bytes, next);
        shmem::quiet(scope);
    }
    if (lane == 0) {
        std::size_t wrong = 0, wrong_back = 0;
        for (std::size_t i = 0; i < bytes; ++i) {
            wrong += dst[i] != pattern(i, salt, before);
            wrong_back += back[i] != pattern(i, salt, next);
        }
        for (std::size_t i = 0; i < 32; ++i) {
            wrong += dst[bytes + i] != 0xee || dst[i - 32] != 0xee;
            wrong_back += back[bytes + i] != 0xdd || back[i - 32] != 0xdd;
        }
        CHECK(wrong == 0, "put of %zu bytes to +%zu from +%zu: %zu bytes wrong", bytes, to, from, wrong);
        CHECK(wrong_back == 0, "get of %zu bytes to +%zu from +%zu: %zu bytes wrong", bytes, to, from,
              wrong_back);
    }
    shmem::barrier(scope);
}
template <class Scope> static void put_get_cases(const Scope &scope, unsigned every)
{
    unsigned salt = 0;
    for (std::size_t bytes : sizes)
        for (std::size_t to : skews)
            for (std::size_t from : skews)
                if (salt++ % every == 0)
                    put_get(scope, 0, bytes, to, from, salt);
}
static void test_put_get(scene &job)
{
    job.run(1, 1, 0, [] { put_get_cases(shmem::thread, 1); });
    job.run(1, warp_width, 0, [] { put_get_cases(shmem::warp, 5); });
    job.run(1, threads, 0, [] { put_get_cases(shmem::block, 7); });
    job.run(1, threads, 12000, [] {
        shmem::stage scope(shmem::host::shared(), 8192 + 128);
        CHECK(scope.usable(), "a stage of the smallest size");
        put_get_cases(scope, 11);
        for (std::size_t bytes : {2000, 20000, 39901})
            put_get(shmem::stage::attach(shmem::host::shared(), 8192 + 128), 0, bytes, 5, 5 + 16, 3);
        shmem::stage none(shmem::host::shared() + 8192 + 256, 1024); // too small: works as block
        CHECK(!none.usable(), "a stage that is too small");
        put_get(none, 0, 9000, 0, 0, 1);
    });
    // several blocks at once, each its own region
    job.run(3, threads, 0, [] {
        const int next = (shmem::my_pe() + 1) % shmem::n_pes(),
                  before = (shmem::my_pe() + shmem::n_pes() - 1) % shmem::n_pes();
        const unsigned b = shmem::arch::block_index();
        unsigned char *src = mine<unsigned char>(200000 + 30000 * b),
                      *dst = mine<unsigned char>(300000 + 30000 * b);
        auto *sig = mine<unsigned long>(190000 + 8 * b);
        for (std::size_t i = shmem::arch::thread_index(); i < 25000; i += threads)
            src[i] = pattern(i, b, shmem::my_pe());
        shmem::arch::sync(shmem::block);
        shmem::put_signal(shmem::block, dst, src, 25000, sig, 7, shmem::signal_set, next);
        CHECK(shmem::signal_wait_until(shmem::block, sig, shmem::eq, 7), "signal");
        std::size_t wrong = 0;
        for (std::size_t i = shmem::arch::thread_index(); i < 25000; i += threads)
            wrong += dst[i] != pattern(i, b, before);
        CHECK(wrong == 0, "block %u: %zu bytes wrong", b, wrong);
    });
}

// ---- signals, waits

template <class Scope> static void signals(const Scope &scope, std::size_t region)
{
    const int me = shmem::my_pe(), n = shmem::n_pes(), next = (me + 1) % n, before = (me + n - 1) % n;
    auto *src = mine<unsigned>(region), *dst = mine<unsigned>(region + 8192);
    auto *sig = mine<std::uint64_t>(region + 20000), *back = mine<std::uint64_t>(region + 20008);
    const unsigned lane = shmem::arch::lane(scope), width = shmem::arch::width(scope);
    for (unsigned round = 1; round <= 30; ++round) {
        const unsigned count = round % 3 == 0 ? 2 : round * 37;
        for (unsigned i = lane; i < count; i += width)
            src[i] = round * 100000 + i * 10 + static_cast<unsigned>(me);
        shmem::arch::sync(scope);
        if (round % 2 != 0)
            shmem::put_signal(scope, dst, src, count, sig, 1, shmem::signal_add, next);
        else
            shmem::put_signal_nbi(scope, dst, src, count, sig, round, shmem::signal_set, next);
        CHECK(shmem::signal_wait_until(scope, sig, shmem::ge, round), "signal of round %u", round);
        CHECK(shmem::signal_fetch(sig) == round, "signal_fetch");
        unsigned wrong = 0;
        for (unsigned i = lane; i < count; i += width)
            wrong += dst[i] != round * 100000 + i * 10 + static_cast<unsigned>(before);
        CHECK(wrong == 0, "round %u: %u words wrong", round, wrong);
        shmem::arch::sync(scope);
        if (lane == 0) { // the receiver is done: the sender may go on
            shmem::fence(shmem::thread);
            shmem::signal_op(back, round % 2 != 0 ? 1 : round,
                             round % 2 != 0 ? shmem::signal_add : shmem::signal_set, before);
        }
        CHECK(shmem::wait_until(scope, back, shmem::ge, round), "answer of round %u", round);
    }
    shmem::barrier(scope);
}
static void test_signals(scene &job)
{
    job.run(1, 1, 0, [] { signals(shmem::thread, 400000); });
    job.run(1, warp_width, 0, [] { signals(shmem::warp, 430000); });
    job.run(1, threads, 0, [] { signals(shmem::block, 460000); });
    job.run(1, threads, 10000, [] { signals(shmem::stage(shmem::host::shared(), 8320), 490000); });
}
static void test_waits(scene &job)
{
    job.run(1, threads, 0, [] {
        const int me = shmem::my_pe(), n = shmem::n_pes();
        auto *flags = mine<int>(600000);
        int status[8] = {};
        if (leader()) {
            CHECK(shmem::test_any(flags, 8, nullptr, shmem::ne, 0) == shmem::none, "nothing is set");
            CHECK(!shmem::test_all(flags, 8, nullptr, shmem::ne, 0) &&
                      shmem::test_all(flags, 0, nullptr, shmem::ne, 0),
                  "test_all");
        }
        shmem::barrier(shmem::block);
        if (leader())
            for (int i = 0; i < 8; ++i)
                shmem::p(flags + i, -5, (me + 1) % n);
        CHECK(shmem::wait_until_all(shmem::block, flags, 8, nullptr, shmem::lt, 0), "wait_until_all");
        if (leader()) {
            status[0] = 1;
            std::size_t which = shmem::wait_until_any(flags, 8, status, shmem::le, -5);
            CHECK(which == 1, "wait_until_any gives %zu", which);
            CHECK(shmem::wait_until_any(flags, 0, nullptr, shmem::eq, 0) == shmem::none, "any of nothing");
            int all[8] = {1, 1, 1, 1, 1, 1, 1, 1};
            CHECK(shmem::wait_until_any(flags, 8, all, shmem::eq, 77) == shmem::none, "any, all left out");
            CHECK(shmem::test_all(flags, 8, all, shmem::eq, 77), "all, all left out");
            CHECK(shmem::test(flags, shmem::lt, 0) && !shmem::test(flags, shmem::ge, 0) &&
                      !shmem::test(flags, shmem::gt, 3),
                  "test");
        }
        shmem::barrier(shmem::block);
    });
}

// ---- atomics

template <class T> static void integer_atomics(std::size_t at)
{
    const int me = shmem::my_pe(), n = shmem::n_pes();
    T *sum = mine<T>(at), *swapped = mine<T>(at + 64), *once = mine<T>(at + 128), *bit = mine<T>(at + 192);
    const T lanes = static_cast<T>(threads);
    for (int i = 0; i < 10; ++i) {
        shmem::atomic_add(sum, 2, 0);
        shmem::atomic_inc(sum, 0);
        (void)shmem::atomic_fetch_add(sum, 3, 0);
        (void)shmem::atomic_fetch_inc(sum, 0);
    }
    if (shmem::atomic_compare_swap(swapped, 0, static_cast<T>(me + 1), 0) == 0)
        shmem::atomic_inc(once, 0);
    const T own = static_cast<T>(static_cast<T>(1) << shmem::arch::thread_index());
    if (me == 0) {
        shmem::atomic_or(bit, own, 0);
        T before = shmem::atomic_fetch_or(bit + 1, own, 0);
        CHECK((before & own) == 0, "fetch_or");
        shmem::atomic_xor(bit + 1, own, 0);
        before = shmem::atomic_fetch_xor(bit + 2, own, 0);
        CHECK((before & own) == 0, "fetch_xor");
        before = shmem::atomic_fetch_and(bit + 2, static_cast<T>(~own), 0);
        CHECK((before & own) != 0, "fetch_and");
        shmem::atomic_or(bit + 3, own, 0);
        shmem::atomic_and(bit + 3, static_cast<T>(~own), 0);
    }
    shmem::barrier(shmem::block);
    T all = shmem::atomic_fetch(sum, 0);
    CHECK(all == static_cast<T>(70) * lanes * static_cast<T>(n), "sum %lld", static_cast<long long>(all));
    CHECK(shmem::atomic_fetch(once, 0) == 1, "one compare_swap wins");
    CHECK(shmem::atomic_fetch(swapped, 0) >= 1, "the winner's value stays");
    CHECK(shmem::atomic_fetch(bit, 0) == static_cast<T>((static_cast<std::uint64_t>(1) << threads) - 1),
          "or");
    for (int i = 1; i < 4; ++i)
        CHECK(shmem::atomic_fetch(bit + i, 0) == 0, "bits %d", i);
    shmem::barrier(shmem::block);
}
template <class T> static void float_atomics(std::size_t at)
{
    const int me = shmem::my_pe(), n = shmem::n_pes();
    T *cell = mine<T>(at);
    if (leader()) {
        shmem::atomic_set(cell, static_cast<T>(me) + static_cast<T>(0.5), (me + 1) % n);
        shmem::quiet(shmem::thread);
    }
    shmem::barrier(shmem::block);
    if (leader()) {
        T was = shmem::atomic_swap(cell, static_cast<T>(-1.25), (me + 1) % n);
        CHECK(was == static_cast<T>(me) + static_cast<T>(0.5), "swap");
        CHECK(shmem::atomic_fetch(cell, (me + 1) % n) == static_cast<T>(-1.25), "fetch");
    }
    shmem::barrier(shmem::block);
}
static void test_atomics(scene &job)
{
    job.run(1, threads, 0, [] {
        integer_atomics<int>(610000 + 16);
        integer_atomics<unsigned>(611000 + 16);
        integer_atomics<long>(612000);
        integer_atomics<unsigned long long>(613000);
        float_atomics<float>(614000);
        float_atomics<double>(614800);
    });
}

// ---- sync and barrier

template <class Scope> static void meetings(const Scope &scope, shmem::team t, int rounds)
{
    if (shmem::detail::find(shmem::thread, t, 0).n == 0)
        return;
    const int n = shmem::team_n_pes(t), me = shmem::team_my_pe(t);
    auto *cells = mine<int>(620000 + 1024 * static_cast<unsigned>(t));
    for (int r = 1; r <= rounds; ++r) {
        if (shmem::arch::lane(scope) == 0)
            for (int j = 0; j < n; ++j)
                *shmem::ptr(cells + me, shmem::team_translate_pe(t, j, shmem::world)) =
                    r; // plain: the barrier publishes
        CHECK(shmem::barrier(scope, t), "barrier");
        for (int j = 0; j < n; ++j)
            CHECK(cells[j] == r, "round %d: member %d says %d", r, j, cells[j]);
        CHECK(shmem::sync(scope, t), "sync");
    }
}
static void test_sync(scene &job)
{
    for (unsigned t : {0u, 1u, 3u, 2u}) {
        auto team = shmem::team(t);
        job.run(1, t == 2 ? threads : 1, 0, [team] {
            if (team != 2 || shmem::my_pe() % 2 == 0) {
                if (team == 2)
                    meetings(shmem::block, team, 20);
                else
                    meetings(shmem::thread, team, 50);
            }
        });
    }
    job.run(1, warp_width, 0, [] { meetings(shmem::warp, shmem::world, 30); });
    job.run(1, threads, 0, [] { meetings(shmem::block, shmem::team(3), 30); });
}

// ---- packets

template <class Scope> static void packets(const Scope &scope, int rounds)
{
    constexpr std::size_t most = 3000;
    const int me = shmem::my_pe(), n = shmem::n_pes(), next = (me + 1) % n, before = (me + n - 1) % n;
    const unsigned lane = shmem::arch::lane(scope), width = shmem::arch::width(scope);
    static constexpr std::size_t room = shmem::packets_size(most);
    unsigned char *box = mine<unsigned char>(655360), *answer = mine<unsigned char>(655360 + 4 * room);
    unsigned char *src = mine<unsigned char>(655360 + 6 * room),
                  *dst = mine<unsigned char>(655360 + 7 * room);
    for (int r = 1; r <= rounds; ++r) {
        const unsigned salt = static_cast<unsigned>(r);
        const std::size_t bytes = r % 4 == 0 ? 1 + salt % 130 : r % 16 == 1 ? most : salt * 97 % most;
        const std::size_t to = salt % 3 == 0 ? salt % 8 : 0, from = salt % 5 == 0 ? salt % 7 : 0;
        for (std::size_t i = lane; i < bytes + 8; i += width) {
            if (i < bytes)
                src[from + i] = pattern(i, salt, me);
            dst[to + i] = 0x11;
        }
        shmem::arch::sync(scope);
        unsigned char *buffer = box + static_cast<unsigned>(r % 2) * room;
        CHECK(shmem::put_packets(scope, buffer, src + from, bytes, static_cast<unsigned>(r), next),
              "put_packets");
        CHECK(shmem::recv_packets(scope, dst + to, buffer, bytes, static_cast<unsigned>(r)), "recv_packets");
        std::size_t wrong = 0;
        for (std::size_t i = lane; i < bytes; i += width)
            wrong += dst[to + i] != pattern(i, salt, before);
        if (lane == 0)
            for (std::size_t i = bytes; i < bytes + 8; ++i)
                wrong += dst[to + i] != 0x11;
        CHECK(wrong == 0, "round %d of %zu bytes: %zu wrong", r, bytes, wrong);
        // the receiver has round r: in a ring nobody else would tell the sender
        int done = r, seen = 0;
        CHECK(shmem::put_packets(scope, answer + static_cast<unsigned>(r % 2) * 512, &done, 1,
                                 static_cast<unsigned>(r), before),
              "answer");
        CHECK(shmem::recv_packets(shmem::warp, &seen, answer + static_cast<unsigned>(r % 2) * 512, 1,
                                  static_cast<unsigned>(r)),
              "answer");
        shmem::arch::sync(scope);
    }
}
static void test_packets(scene &job, int rounds)
{
    job.run(1, warp_width, 0, [rounds] { packets(shmem::warp, rounds); });
    std::memset(job.memory, 0, scene::stride * static_cast<std::size_t>(job.npes)); // rounds start again
    for (auto &teams : job.teams)
        for (auto &team : teams)
            team.epoch = team.meetings = 0;
    job.run(1, threads + 3, 0, [rounds] { packets(shmem::block, rounds / 4); }); // a partial warp besides
    std::memset(job.memory, 0, scene::stride * static_cast<std::size_t>(job.npes));
}

// ---- errors

static void test_errors(int n)
{
    scene job(n, true, 20'000'000);
    shmemx_device_error *box = job.boxes.data();
    auto last = [&](int pe) -> shmemx_device_error & { return box[pe]; };
    job.run(1, threads, 0, [] { // nobody answers: PE n - 1 does not come
        auto *word = mine<long>(0);
        CHECK(!shmem::wait_until(shmem::block, word, shmem::eq, 42), "a wait that must time out");
    });
    for (int pe = 0; pe < n; ++pe) {
        const shmemx_device_error &e = last(pe);
        bool ok = e.kind == SHMEMX_DEVICE_TIMEOUT && e.call == SHMEMX_DEVICE_CALL_WAIT_UNTIL && e.me == pe &&
                  e.expected == 42 && e.value == 0 &&
                  e.address == reinterpret_cast<std::uintptr_t>(job.memory) +
                                   static_cast<std::size_t>(pe) * scene::stride;
        shmem::arch::here().state = &job.states[static_cast<std::size_t>(pe)];
        CHECK(ok, "mailbox: kind %u call %u me %d value %llu", e.kind, e.call, e.me, e.value);
    }
    job.clear_mailboxes();
    job.run(1, threads, 0, [n] {
        if (shmem::my_pe() != n - 1) {
            CHECK(!shmem::sync(shmem::block), "sync without one");
            CHECK(!shmem::recv_packets(shmem::block, mine<int>(4096), mine<char>(8192), 4, 1),
                  "packets that nobody sends");
            int value = 3;
            CHECK(!shmem::reduce(shmem::block, shmem::world, shmem::sum, mine<int>(64), mine<int>(0), 1),
                  "reduce without one");
            CHECK(!shmem::broadcast(shmem::block, shmem::world, mine<int>(64), &value, 1, n - 1),
                  "broadcast without its root");
        }
    });
    for (int pe = 0; pe < n - 1; ++pe) {
        shmem::arch::here().state = &job.states[static_cast<std::size_t>(pe)];
        CHECK(last(pe).kind == SHMEMX_DEVICE_TIMEOUT && last(pe).call == SHMEMX_DEVICE_CALL_SYNC &&
                  last(pe).pe == n - 1,
              "kind %u call %u pe %d", last(pe).kind, last(pe).call, last(pe).pe);
    }
    auto refused = [&](const char *what, unsigned kind, unsigned call, int pe,
                       const std::function<void()> &kernel) {
        job.clear_mailboxes();
        shmem::host::launch(job.states[0], 1, warp_width, 0, kernel);
        shmem::arch::here().state = &job.states[0];
        CHECK(box->kind == kind && box->call == call && box->pe == pe, "%s: kind %u call %u pe %d", what,
              box->kind, box->call, box->pe);
    };
    int local[4] = {1, 2, 3, 4};
    refused("wrong team", SHMEMX_DEVICE_TEAM, SHMEMX_DEVICE_CALL_SYNC, -1,
            [] { CHECK(!shmem::sync(shmem::warp, shmem::team(9)), "team 9"); });
    refused("root", SHMEMX_DEVICE_PE, SHMEMX_DEVICE_CALL_BROADCAST, n, [&] {
        CHECK(!shmem::broadcast(shmem::warp, shmem::world, mine<int>(0), local, 1, n), "root %d", n);
    });
    refused("PE of put", SHMEMX_DEVICE_PE, SHMEMX_DEVICE_CALL_PUT, n,
            [&] { shmem::put(shmem::warp, mine<int>(0), local, 4, n); });
    refused("PE of p", SHMEMX_DEVICE_PE, SHMEMX_DEVICE_CALL_P, -1, [&] { shmem::p(mine<int>(0), 4, -1); });
    refused("address of get", SHMEMX_DEVICE_ADDRESS, SHMEMX_DEVICE_CALL_GET, 0, [&] {
        int out[4];
        shmem::get(shmem::warp, out, local, 4, 0);
    });
    refused("end of put", SHMEMX_DEVICE_ADDRESS, SHMEMX_DEVICE_CALL_PUT_SIGNAL, 0, [&] {
        shmem::put_signal(shmem::warp, mine<int>(scene::stride - 12), local, 4, mine<long>(0), 1,
                          shmem::signal_set, 0);
    });
    refused("alignment", SHMEMX_DEVICE_ADDRESS, SHMEMX_DEVICE_CALL_ATOMIC, 0,
            [] { CHECK(shmem::atomic_fetch_add(mine<int>(2), 1, 0) == 0, "refused"); });
    refused("alignment of packets", SHMEMX_DEVICE_ADDRESS, SHMEMX_DEVICE_CALL_PUT_PACKETS, 0,
            [&] { CHECK(!shmem::put_packets(shmem::warp, mine<char>(64), local, 4, 1, 0), "refused"); });
    refused("a block without a warp", SHMEMX_DEVICE_SCOPE, SHMEMX_DEVICE_CALL_FCOLLECT, -1, [&] {
        if (leader())
            shmem::host::launch(job.states[0], 1, 3, 0, [&] {
                CHECK(!shmem::fcollect(shmem::block, shmem::world, mine<int>(0), local, 1), "3 lanes");
            });
    });
    shmem::arch::here().state = &job.states[0];
    CHECK(*mine<int>(0) == 0, "refused calls write nothing");
}

void test_collectives(scene &job); // test_host_coll.cpp
void test_all_blocks(scene &job);

/* test_device_host [most PEs, 4] */
int main(int argc, char **argv)
{
    const int most = argc > 1 ? std::atoi(argv[1]) : 4;
    for (int n = 1; n <= most; ++n)
        for (bool lines : {true, false}) {
            scene job(n, lines);
            test_query(job);
            if (lines) { // these do not depend on the form of packets
                test_p_g(job);
                if (n != 4)
                    test_put_get(job);
                test_signals(job);
                test_waits(job);
                test_atomics(job);
                test_sync(job);
            }
            test_packets(job, n == 2 ? 2000 : 200);
            test_collectives(job);
            test_all_blocks(job);
        }
    test_errors(2);
    test_errors(3);
    std::printf("device API on the host: %lu checks, %lu failed\n", passed.load(), failures.load());
    return failures.load() != 0;
}
