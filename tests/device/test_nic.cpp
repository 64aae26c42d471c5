// The device API where PEs are not mapped: every operation between processes that are nodes of their own, by CPU threads,
// over the path that SHMEM_GPU_NIC names. The same program for every path; tests/device/CMakeLists.txt starts it.
//
//     test_nic           all operations, and errors that this PE makes itself
//     test_nic dead      the last PE is killed while the others' kernels wait for it
//     test_nic deep      more than the deepest queues hold, with numbers that wrap
//     test_nic amos      atomics alone, where some PEs are mapped; with stores as weak as a GPU's
//     test_nic weak      what others find of a PE's stores, with stores as weak as a GPU's
//     test_nic speed     figures, by hand
#include "nic_amos.h"
#include "nic_posts.h"
#include "nic_teams.h"
#include "nic_triton.h"
#include "nic_ways.h"
#include "nic_weak.h"

#include <csignal>
#include <cstdlib>
#include <string>
#include <unistd.h>

// ---- one value at a time

struct odd {
    uchar c[12];
};
static void test_values()
{
    step(1, 8, [] {
        const unsigned t = arch::thread_index();
        const int pe = next_pe();
        p(at<u8>(t), static_cast<u8>(t + 1), pe);
        p(at<u16>(64) + t, static_cast<u16>(t + 1000), pe);
        p(at<u32>(128) + t, t + 100000u, pe);
        p(at<u64>(256) + t, 0x8123456789abcdefull + t, pe); // the top bit too
        p(at<double>(512) + t, 0.5 * t, pe);
        p(at<odd>(1024) + t, odd{{static_cast<uchar>(t), 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}}, pe);
        CHECK(quiet(thread), "quiet of puts");
    });
    step(1, 8, [] {
        const unsigned t = arch::thread_index();
        CHECK(*at<u8>(t) == t + 1 && at<u16>(64)[t] == t + 1000 && at<u32>(128)[t] == t + 100000u &&
                  at<u64>(256)[t] == 0x8123456789abcdefull + t && at<double>(512)[t] == 0.5 * t,
              "value %u", t);
        CHECK(at<odd>(1024)[t].c[0] == t && at<odd>(1024)[t].c[11] == 11, "12 bytes of thread %u", t);
        const int pe = next_pe();
        CHECK(g(at<u8>(t), pe) == t + 1 && g(at<u16>(64) + t, pe) == t + 1000 &&
                  g(at<u32>(128) + t, pe) == t + 100000u && g(at<double>(512) + t, pe) == 0.5 * t,
              "g %u", t);
        CHECK(g(at<u64>(256) + t, pe) == 0x8123456789abcdefull + t, "g of 64 bits");
        CHECK(g(at<odd>(1024) + t, pe).c[11] == 11, "g of 12 bytes");
        const bool here = pe == my_pe();
        CHECK((ptr(at<u8>(0), pe) != nullptr) == here || state->nic == 0, "ptr of a PE that is not mapped");
    });
}

// ---- bytes, by every scope

static const std::size_t sizes[] = {0, 1, 7, 8, 9, 16, 17, 120, 511, 512, 513, 1025, 4096, 30001};

template <class Scope> static void move(const Scope &scope, unsigned salt)
{
    const int pe = next_pe(), me = my_pe();
    const unsigned lane = arch::lane(scope), width = arch::width(scope);
    uchar outside[2048]; // not in the heap; each lane has its own
    for (std::size_t n : sizes)
        for (std::size_t skew : {0, 3}) {
            uchar *src = at<uchar>(half + skew), *dst = at<uchar>(2 * half + skew),
                  *back = at<uchar>(3 * half + skew);
            for (std::size_t i = lane; i < n; i += width)
                src[i] = pattern(i, salt, me);
            arch::sync(scope);
            put(scope, dst, src, n, pe);
            put_nbi(scope, dst + half / 2, src, n, pe);
            CHECK(quiet(scope), "quiet");
            get(scope, back, dst, n, pe);
            std::size_t wrong = 0;
            for (std::size_t i = lane; i < n; i += width)
                wrong += back[i] != pattern(i, salt, me);
            CHECK(wrong == 0, "put and get of %zu + %zu: %zu wrong", n, skew, wrong);
            arch::sync(scope);
            get_nbi(scope, back, dst + half / 2, n, pe);
            CHECK(quiet(scope), "quiet");
            for (std::size_t i = lane; i < n; i += width)
                wrong += back[i] != pattern(i, salt, me);
            CHECK(wrong == 0, "put_nbi and get_nbi of %zu + %zu: %zu wrong", n, skew, wrong);
            arch::sync(scope);
            if (n > sizeof outside || width != 1)
                continue;
            for (std::size_t i = 0; i < n; ++i)
                outside[i] = pattern(i, salt + 1, me);
            put(scope, dst, outside, n, pe);
            std::memset(outside, 0, sizeof outside);
            CHECK(quiet(scope), "quiet");
            get(scope, outside, dst, n, pe);
            for (std::size_t i = 0; i < n; ++i)
                wrong += outside[i] != pattern(i, salt + 1, me);
            CHECK(wrong == 0, "from and to the stack, %zu bytes: %zu wrong", n, wrong);
        }
}
static void test_bytes()
{
    step(1, 1, [] { move(thread, 1); });
    step(1, 8, [] { move(warp, 2); });
    step(1, 20, [] { move(block, 3); });
    step(1, 16, [] { move(stage(host::shared(), 16384 + 128), 4); });
    // shared memory as source of a block's put, target of its get
    step(1, 16, [] {
        uchar *shared = host::shared();
        for (unsigned i = arch::thread_index(); i < 3000; i += 16)
            shared[i] = pattern(i, 5, my_pe());
        arch::sync(block);
        put(block, at<uchar>(0), shared, 3000, next_pe());
        for (unsigned i = arch::thread_index(); i < 3000; i += 16)
            shared[i] = 0;
        CHECK(quiet(block), "quiet");
        get(block, shared, at<uchar>(0), 3000, next_pe());
        std::size_t wrong = 0;
        for (unsigned i = arch::thread_index(); i < 3000; i += 16)
            wrong += shared[i] != pattern(i, 5, my_pe());
        CHECK(wrong == 0, "shared memory: %zu wrong", wrong);
    });
}

// ---- signals: whoever sees the word sees the bytes

static constexpr unsigned rounds = 12;
template <class Scope> static void signals(const Scope &scope, unsigned salt, bool outside)
{
    const int pe = next_pe(), me = my_pe(), from = (me + n_pes() - 1) % n_pes();
    const unsigned lane = arch::lane(scope), width = arch::width(scope);
    uchar *src = outside ? host::shared() : at<uchar>(half), *dst = at<uchar>(2 * half);
    u64 *sig = at<u64>(64), *ack = at<u64>(128);
    for (unsigned r = 1; r <= rounds; ++r) {
        const std::size_t n = r % 4 == 1 ? 8 : r % 4 == 2 ? 16 : 700 * r;
        for (std::size_t i = lane; i < n; i += width)
            src[i] = pattern(i, salt + r, me);
        arch::sync(scope);
        if (r % 3 == 0)
            put_signal_nbi(scope, dst, src, n, sig, 1, signal_add, pe);
        else
            put_signal(scope, dst, src, n, sig, r, signal_set, pe);
        CHECK(signal_wait_until(scope, sig, ge, r), "signal %u", r);
        std::size_t wrong = 0;
        for (std::size_t i = lane; i < n; i += width)
            wrong += dst[i] != pattern(i, salt + r, from);
        CHECK(wrong == 0, "round %u, %zu bytes: %zu wrong", r, n, wrong);
        quiet(scope);
        if (lane == 0)
            signal_op(ack, 1, signal_add, from);
        CHECK(signal_wait_until(scope, ack, ge, r), "acknowledgement %u", r);
    }
    quiet(scope);
    if (lane == 0)
        *sig = *ack = 0;
}
static void test_signals()
{
    std::memset(memory, 0, memory_bytes);
    nic_job_meet();
    step(1, 1, [] { signals(thread, 10, false); });
    step(1, 8, [] { signals(warp, 20, false); });
    step(1, 16, [] { signals(block, 30, false); });
    step(1, 8, [] { signals(warp, 40, true); });
    // data, fence, flag: without a signal's own order
    step(1, 1, [] {
        u64 *flag = at<u64>(64), *data = at<u64>(4096);
        for (u64 r = 1; r <= 40; ++r) {
            for (unsigned i = 0; i < 8; ++i)
                p(data + i, r * 10 + i, next_pe());
            fence(thread);
            p(flag, r, next_pe());
            CHECK(wait_until(thread, flag, ge, r), "flag %llu", r);
            for (unsigned i = 0; i < 8; ++i)
                CHECK(arch::load_relaxed(data + i) >= r * 10 + i, "behind the fence");
            sync(thread);
        }
        quiet(thread);
        *flag = 0;
    });
}

/* Blocks on all rings at once, more commands than there are slots. */
static void test_many()
{
    static constexpr unsigned blocks = 4, threads = 12, each = 40;
    std::memset(memory, 0, memory_bytes);
    nic_job_meet();
    step(blocks, threads, [] {
        const unsigned t = arch::block_index() * threads + arch::thread_index();
        for (unsigned i = 0; i < each; ++i) {
            p(at<u64>(0) + t * each + i, (static_cast<u64>(t) << 32) + i + 1, next_pe());
            if (i % 16 == 15)
                CHECK(quiet(thread), "quiet");
        }
        CHECK(quiet(block), "quiet");
    });
    std::size_t wrong = 0;
    for (unsigned t = 0; t < blocks * threads; ++t)
        for (unsigned i = 0; i < each; ++i)
            wrong += at<u64>(0)[t * each + i] != (static_cast<u64>(t) << 32) + i + 1;
    CHECK(wrong == 0, "%zu of the values are wrong", wrong);
    nic_job_meet();
}

// ---- errors

static bool mentions(const char *text, const char *part)
{
    return std::strstr(text, part) != nullptr;
}
static void forget()
{
    char text[600];
    (void)nic_job_error(text, sizeof text);
    nic_job_forget_note();
}
/* Host and kernel know; both go on afterwards. */
static void expect_error(const char *what, int code, const char *words, bool ok)
{
    char text[600] = "";
    const int rc = nic_job_error(text, sizeof text);
    CHECK(!ok, "%s: quiet was well", what);
    CHECK(rc == code && mentions(text, words), "%s: %s: %s", what, nic_job_error_name(rc), text);
    CHECK(nic_job_note()->kind != SHMEMX_DEVICE_OK, "%s: no note", what);
    forget();
    bool after = false;
    run(1, 8, [&after] {
        const bool well = quiet(warp);
        if (arch::thread_index() == 0)
            after = well;
    });
    CHECK(after, "%s: it does not work again", what);
}
static void test_errors()
{
    const int pe = (state->me + 1) % state->npes;
    std::atomic<bool> ok{true};
    nic_job_log(0);
    const auto *nic = reinterpret_cast<const shmemx_device_nic *>(state->nic);
    const bool proxies = nic != nullptr && nic->used == 1u << SHMEMX_NIC_PROXY; // others: test_nic_errors
    if (state->npes > 1 && proxies) {
        run(1, 1, [&ok, pe] {
            const u64 beyond = state->copy + state->bytes;
            p(reinterpret_cast<u64 *>(beyond + 64), 1, pe);
            ok = quiet(thread);
        });
        expect_error("a put beyond the heap", SHMEMX_ERR_ADDRESS, "not allocated", ok);
        run(1, 1, [&ok, pe] {
            atomic_add(reinterpret_cast<u64 *>(memory + 4), 1, pe);
            ok = quiet(thread);
        });
        expect_error("an atomic that is not aligned", SHMEMX_ERR_ADDRESS, "not aligned", ok);
        run(1, 1, [&ok, pe] {
            const u64 old = atomic_fetch(reinterpret_cast<u64 *>(state->copy + state->bytes + 8), pe);
            CHECK(old == 0, "a fetch that failed returns 0");
            ok = false;
        });
        expect_error("a fetch beyond the heap", SHMEMX_ERR_ADDRESS, "not allocated", ok);
        for (const u64 bytes : {~0ull >> 2, 1ull << 63 | 8}) {
            run(1, 1, [&ok, pe, bytes] {
                put(thread, memory, memory, bytes, pe);
                ok = quiet(thread);
            });
            expect_error("an oversized message", SHMEMX_ERR_ADDRESS, "not allocated", ok);
        }
        nic_job_break(pe, SHMEMX_ERR_TIMEOUT);
        run(1, 16, [&ok, pe] {
            put_nbi(block, memory, memory + half, 4096, pe);
            const bool well = quiet(block);
            if (arch::thread_index() == 0)
                ok = well;
            // nobody will ever store this: the error ends the wait, long before the deadline
            CHECK(!signal_wait_until(block, at<u64>(8 * 1000), eq, 12345), "a wait after an error");
            CHECK(!barrier(block), "a barrier after an error");
        });
        nic_job_break(pe, 0);
        expect_error("a stalled transport", SHMEMX_ERR_TIMEOUT, "is cut", ok);
    }
    nic_job_log(1);
}

static void test_settings()
{
    static const struct {
        const char *name, *value, *words;
    } bad[] = {
        {"SHMEM_GPU_NIC", "both", "SHMEM_GPU_NIC=both is unknown; choices: auto, proxy, ibgda, off"},
        {"SHMEM_GPU_NIC", "Proxy", "is unknown"},
        {"SHMEM_GPU_NIC_RINGS", "3", "SHMEM_GPU_NIC_RINGS=3 is not a power of 2"},
        {"SHMEM_GPU_NIC_DEPTH", "2", "SHMEM_GPU_NIC_DEPTH=2 is not a power of 2 from 4"},
    };
    nic_job_log(0);
    for (const auto &b : bad) {
        const char *now = std::getenv(b.name);
        const std::string before = now ? now : "";
        setenv(b.name, b.value, 1);
        const int rc = nic_job_init();
        if (rc != SHMEMX_ERR_ARGUMENT || !mentions(nic_job_last_error(), b.words)) {
            std::fprintf(stderr, "%s=%s: %d, %s\n", b.name, b.value, rc, nic_job_last_error());
            ++failures;
        }
        if (now)
            setenv(b.name, before.c_str(), 1);
        else
            unsetenv(b.name);
    }
    nic_job_log(1);
}

/* The last PE is killed; the others' kernels, which wait for it, end with the cause, and so does the host. */
static int test_dead()
{
    const int victim = state->npes - 1;
    if (state->me == victim) {
        usleep(200000);
        std::raise(SIGKILL);
    }
    nic_job_log(0);
    bool waited = true, met = true;
    run(1, 8, [&waited, &met] {
        const bool a = signal_wait_until(warp, at<u64>(64), eq, 1), b = barrier(warp);
        if (arch::thread_index() == 0)
            waited = a, met = b;
    });
    char text[600] = "";
    const int rc = nic_job_error(text, sizeof text);
    const bool well = !waited && !met && (rc == SHMEMX_ERR_PEER_DEAD || rc == SHMEMX_ERR_TIMEOUT);
    std::printf("dead: PE %d: %s: %s\n", state->me, well ? "ended" : "FAILED", rc ? text : "no error");
    std::fflush(stdout);
    sleep(1); // this PE leaves without a word: the others are to see the victim's death before that
    return well ? 0 : 1;
}

/* Turns of the proxy's answers near the ends of their 24 bits and of the word that they are counted in: what is fetched is this
 * turn's, over all of these. */
static void test_turns()
{
    const auto *nic = reinterpret_cast<const shmemx_device_nic *>(state->nic);
    if (nic == nullptr || nic->used != 1u << SHMEMX_NIC_PROXY)
        return;
    const auto *proxy = reinterpret_cast<const shmemx_device_proxy *>(nic->proxy);
    auto *turns = reinterpret_cast<u32 *>(proxy->turns);
    for (unsigned i = 0; i < proxy->cells; ++i)
        turns[i] = i % 2 ? 0xfffffffcu : 0x01fffffcu;
    std::memset(memory, 0, 256);
    nic_job_meet();
    step(1, 32, [] {
        u64 *word = at<u64>(8 * arch::thread_index());
        for (u64 i = 0; i < 5; ++i)
            CHECK(atomic_fetch_add(word, 1, next_pe()) == i, "fetch %llu", i);
    });
    for (unsigned i = 0; i < 8; ++i)
        CHECK((turns[i] & 0xffffff) < 64 && turns[i] % 2 == 0, "cell %u: 0x%x", i, turns[i]);
}
/* 70000 commands of one thread, or 280000 blocks of a send queue, and nobody waits: rings of 2^16 and queues of 2^15 are full
 * and wrap. The last put to each place is there. */
static void test_deep()
{
    constexpr unsigned puts = 70000, places = 4096, bytes = 200;
    step(1, 1, [] {
        uchar data[bytes];
        for (unsigned i = 0; i < puts; ++i) {
            std::memset(data, static_cast<int>(i / places), bytes);
            std::memcpy(data, &i, sizeof i);
            put_nbi(thread, at<uchar>(i % places * 256), data, bytes, next_pe());
        }
        CHECK(quiet(thread), "quiet of %u puts", puts);
    });
    for (unsigned i = puts - places, have; i < puts; ++i) {
        const uchar *p = at<uchar>(i % places * 256);
        std::memcpy(&have, p, sizeof have);
        CHECK(have == i && p[sizeof i] == i / places && p[bytes - 1] == i / places, "put %u: %u", i, have);
    }
}

static void test_speed()
{
    using clock = std::chrono::steady_clock;
    auto timed = [](const char *what, unsigned n, auto kernel) {
        const auto start = clock::now();
        run(1, 1, kernel);
        const double ns = static_cast<double>(std::chrono::nanoseconds(clock::now() - start).count()) / n;
        if (state->me == 0)
            std::printf("%-24s %8.0f ns\n", what, ns);
    };
    if (state->me == 0) {
        timed("p, then one quiet", 100000, [] {
            for (unsigned i = 0; i < 100000; ++i)
                p(at<u64>(0), i, next_pe());
            quiet(thread);
        });
        timed("p and quiet", 10000, [] {
            for (unsigned i = 0; i < 10000; ++i) {
                p(at<u64>(0), i, next_pe());
                quiet(thread);
            }
        });
        timed("fetch_add", 10000, [] {
            for (unsigned i = 0; i < 10000; ++i)
                (void)atomic_fetch_add(at<u64>(0), 1, next_pe());
        });
    }
    nic_job_meet();
}

int main(int argc, char **argv)
{
    const std::string what = argc > 1 ? argv[1] : "";
    if (what.empty())
        test_settings();
    if (nic_job_init() != 0)
        return 1;
    void *symmetric;
    state = nic_job_open(memory_bytes, &symmetric, 30);
    memory = static_cast<uchar *>(symmetric);
    char ways[1024];
    nic_job_ways(ways, sizeof ways);
    if (state->me == 0)
        std::printf("%s", ways);
    if (what == "dead")
        std::_Exit(test_dead());
    if (what == "speed") {
        test_speed();
    } else if (what == "deep") {
        test_deep();
    } else if (what == "amos") {
        CHECK(state->ways.atomics != SHMEMX_NIC_MAPPED, "atomics that do not all go one way");
        arch::weak_stores() = true;
        test_atomics();
        test_mapped_atomics();
    } else if (what == "weak") {
        test_weak();
    } else {
        test_ring_by_ring();
        test_values();
        test_bytes();
        test_signals();
        test_ways_in_order();
        test_one_way();
        test_gather();
        test_nop();
        test_put_each();
        test_atomics();
        test_mapped_atomics();
        test_teams();
        test_packets();
        test_many();
        test_triton();
        test_errors();
        test_turns();
        char text[600];
        const int rc = nic_job_error(text, sizeof text);
        CHECK(rc == 0, "an error that nobody made: %s", text);
        CHECK(nic_job_note()->kind == SHMEMX_DEVICE_OK, "a note: kind %u, call %u", nic_job_note()->kind,
              nic_job_note()->call);
    }
    nic_job_meet();
    const bool first = state->me == 0;
    nic_job_close();
    if (first)
        std::printf("device API over a NIC's path: %lu checks, %lu failed\n", passed.load(), failures.load());
    const bool ok = failures.load() == 0;
    nic_job_finalize();
    return ok ? 0 : 1;
}
