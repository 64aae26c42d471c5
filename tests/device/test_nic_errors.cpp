// Path ibgda over the software NIC, when something is wrong: the kernel ends, the host gets the decoded cause, other
// connections go on, and finalize works.
//
//     test_nic_errors            bad keys, addresses and sizes, memory that a peer has freed
//     test_nic_errors dead       the last PE is killed: SHMEM_SIM_FAULTS=retry_ms=..
//     test_nic_errors recover    after errors the queue pairs are made anew, and work; SHMEM_IBGDA_QPS=2, 3 PEs
//     test_nic_errors grow       the GPU heap grows and shrinks by chunks, and a NIC refuses one, NIC_JOB_MEMORY=gpu
//     test_nic_errors stall      the NIC stands still: SHMEM_SIM_FAULTS=stall=1
#include "nic_check.h"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <string>
#include <unistd.h>

using namespace shmem;
using detail::ibgda;

static unsigned char *memory; // symmetric
static constexpr std::size_t memory_bytes = 1 << 18;

/* What one block does to PE 1, by a queue pair of its own, since one that has failed stays so. */
template <class Kernel>
static void expect(const char *what, unsigned number, int code, const char *words, Kernel kernel)
{
    std::atomic<bool> ok{true};
    bool other = false;
    host::launch(*state, number + 1, 4, 0, [&] {
        if (arch::block_index() != number)
            return;
        const bool leader = arch::thread_index() == 0;
        if (leader) {
            kernel(ibgda::mine(1));
            ok = ibgda::settle_qp(ibgda::mine(1));
        }
        CHECK(leader ? !ibgda::quiet(thread, 1) : true, "%s: quiet of PE 1", what);
    });
    char text[600] = "no error";
    const int rc = nic_job_error(text, sizeof text);
    CHECK(!ok, "%s: the queue pair is well", what);
    CHECK(rc == code && std::string(text).find(words) != std::string::npos, "%s: %s: %s", what,
          nic_job_error_name(rc), text);
    CHECK(nic_job_note()->pe == 1, "%s: PE %d", what, nic_job_note()->pe);
    nic_job_forget_note();
    // since the host has asked for the error waits are waits again, and other connections work
    host::launch(*state, 1, 1, 0, [&] {
        put_nbi(thread, memory + 1024, memory, 1024, 2);
        other = ibgda::quiet(thread, 2);
    });
    CHECK(other, "%s: nothing works any more", what);
}

static void test_bad()
{
    nic_job_meet();
    if (state->me == 0) {
        auto *words = reinterpret_cast<u64 *>(memory);
        const u64 beyond = state->bytes + 64;
        const char *access = "remote access error", *invalid = "remote invalid request";
        expect("a wrong key", 0, SHMEMX_ERR_SYSTEM, access, [&](ibgda::qp &q) {
            q.first_key ^= 0x01000000;
            ibgda::put_on(q, 4096, words, 512);
        });
        expect("a wrong local key", 1, SHMEMX_ERR_SYSTEM, "local protection error", [&](ibgda::qp &q) {
            q.first_local ^= 0x01000000;
            ibgda::put_on(q, 4096, words, 512);
        });
        expect("a put beyond the heap", 2, SHMEMX_ERR_SYSTEM, access,
               [&](ibgda::qp &q) { ibgda::put_on(q, beyond, words, 8); });
        expect("a get beyond the heap", 3, SHMEMX_ERR_SYSTEM, access,
               [&](ibgda::qp &q) { ibgda::get_on(q, beyond, words, 64); });
        expect("a fetch beyond the heap", 4, SHMEMX_ERR_SYSTEM, access, [&](ibgda::qp &q) {
            CHECK(ibgda::amo_on(q, beyond, detail::amo_add, 8, 1, 0, true) == 0,
                  "a fetch that failed returns 0");
        });
        expect("an atomic that is not aligned", 5, SHMEMX_ERR_SYSTEM, invalid,
               [&](ibgda::qp &q) { ibgda::amo_on(q, 4096 + 4, detail::amo_or, 8, 1, 0, false); });
    }
    nic_job_meet();
    if (state->me == 2) { // nothing of it is posted
        host::launch(*state, 1, 4, 0, [] {
            put_nbi(block, memory, memory + 64, 1ull << 50, 0);
            CHECK(quiet(block), "quiet after a put that was refused");
        });
        CHECK(nic_job_note()->kind == SHMEMX_DEVICE_ADDRESS && nic_job_note()->value == 1ull << 50,
              "an oversized message: kind %u, value %llu", nic_job_note()->kind, nic_job_note()->value);
        nic_job_forget_note();
    }
    nic_job_meet();
    if (state->me == 1)
        nic_job_unregister();
    nic_job_meet();
    if (state->me == 0)
        expect("memory that the peer has freed", 7, SHMEMX_ERR_SYSTEM, "remote access error",
               [&](ibgda::qp &q) { ibgda::put_on(q, 4096, memory, 64); });
    nic_job_meet();
}

// ---- anew

/* The host asks: there was an error, and it has these words. */
static void has_failed(const char *what, const char *words)
{
    char text[600] = "no error";
    (void)nic_job_error(text, sizeof text);
    CHECK(std::string(text).find(words) != std::string::npos, "%s: %s", what, text);
    nic_job_forget_note();
}
static bool works(int pe, unsigned number)
{
    std::atomic<bool> ok{false};
    host::launch(*state, number + 1, 1, 0, [&] {
        if (arch::block_index() == number) {
            put_nbi(thread, memory + 65536 + 8 * number, memory, 8, pe);
            ok = ibgda::settle_qp(ibgda::mine(pe));
        }
    });
    return ok;
}
/* All PEs to all others, by both queue pairs, more than their queues hold: each put, add and fetch is there, once. */
static void traffic(unsigned round)
{
    static constexpr unsigned lanes = 8, each = 40; // by two blocks, three kinds: 960 for each queue of 256
    auto *sums = reinterpret_cast<u64 *>(memory + 131072);
    std::atomic<bool> ok{true};
    const auto value = [=](int pe, unsigned i) {
        return (round + 1) * 1000000ull + static_cast<u64>(pe) * 10000 + i;
    };
    host::launch(*state, 2, lanes, 0, [&] {
        const unsigned me = static_cast<unsigned>(state->me);
        for (int pe = 0; pe < state->npes; ++pe) {
            auto *slots = reinterpret_cast<u64 *>(memory) + me * 1024;
            for (unsigned k = 0; k < each && pe != state->me; ++k) {
                const unsigned i = (arch::block_index() * lanes + arch::thread_index()) * each + k;
                p(slots + i, value(state->me, i), pe);
                if (k % 8 == 0)
                    (void)atomic_fetch_add(sums + me, u64(1), pe);
                if (k % 16 == 0 && g(slots + i, pe) != value(state->me, i))
                    ok = false;
            }
        }
        if (!quiet(block))
            ok = false;
    });
    CHECK(ok, "round %u: quiet, or a word that was put and read", round);
    nic_job_meet();
    std::size_t wrong = 0;
    for (int pe = 0; pe < state->npes; ++pe) {
        for (unsigned i = 0; i < 2 * lanes * each && pe != state->me; ++i)
            wrong += reinterpret_cast<u64 *>(memory)[static_cast<unsigned>(pe) * 1024 + i] != value(pe, i);
        wrong += pe != state->me && sums[pe] != (round + 1) * 2 * lanes * (each / 8);
    }
    CHECK(wrong == 0, "round %u: %zu words", round, wrong);
    nic_job_meet();
}
static void test_recover()
{
    const int me = state->me, npes = state->npes;
    auto *late = reinterpret_cast<u64 *>(memory + 196608); // what must not arrive
    const u64 beyond = state->bytes + 64;
    unsigned round = 0;
    traffic(round++);
    CHECK(nic_job_recover(npes) == 0, "nothing has failed");
    traffic(round++);
    // one request is refused, the many behind it are flushed; the peer's end is in error as well
    for (int culprit = 0; culprit < 2; ++culprit) {
        if (me == culprit) {
            host::launch(*state, 1, 8, 0, [&] {
                auto &q = ibgda::mine(1 - me);
                if (arch::thread_index() == 0)
                    ibgda::put_on(q, beyond, memory, 8);
                arch::sync(block);
                for (unsigned i = 0; i < 10; ++i)
                    p(late, u64(1), 1 - me);
                CHECK(!quiet(block), "a refused put and flushed ones");
            });
            has_failed("a put beyond the heap", "remote access error");
            CHECK(!works(1 - me, 0) && works(1 - me, 1) && works(2, 0),
                  "one queue pair has failed, no other");
        }
        nic_job_meet();
        CHECK(nic_job_recover(npes) == 0, "recovery");
        traffic(round++);
    }
    CHECK(*late == 0, "a put that was flushed has arrived");
    // both ends at once, by their own fault: wrong keys
    if (me < 2) {
        host::launch(*state, 1, 1, 0, [&] {
            auto &q =
                ibgda::at(1 - me, static_cast<u32>(me)); // one of them each: an end in error does not answer
            unsigned &key = me == 0 ? q.first_local : q.first_key;
            key ^= 0x01000000;
            ibgda::put_on(q, 4096, memory + 8192, 512);
            CHECK(!ibgda::settle_qp(q), "a wrong key");
            key ^= 0x01000000;
        });
        has_failed("a wrong key", me == 0 ? "local protection error" : "remote access error");
    }
    nic_job_meet();
    CHECK(nic_job_recover(npes) == 0, "recovery of both ends");
    traffic(round++);
    // between two of three: the third's connections stay as they are
    for (int pe = 1; pe < 3 && me == 0; ++pe) {
        host::launch(*state, 1, 1, 0, [&] {
            (void)ibgda::amo_on(ibgda::mine(pe), 4100, detail::amo_add, 8, 1, 0, false);
            CHECK(!ibgda::settle_qp(ibgda::mine(pe)), "an atomic that is not aligned");
        });
        has_failed("an atomic that is not aligned", "remote invalid request");
    }
    CHECK(nic_job_recover(2) == 0, "recovery of a pair");
    CHECK(me != 0 || (works(1, 0) && !works(2, 0)), "PE 1 and only PE 1 is reached again");
    if (me == 0)
        has_failed("a put to PE 2", "no error"); // its error was told
    nic_job_meet();
    CHECK(nic_job_recover(npes) == 0, "recovery of the rest");
    traffic(round++);
    // nobody waits for the request that fails: the host finds it, says so, and goes on
    if (me == 1)
        host::launch(*state, 1, 1, 0, [&] { ibgda::put_on(ibgda::mine(0), beyond, memory, 8); });
    CHECK(nic_job_recover(npes) == 0, "recovery from an error that nobody has seen");
    traffic(round++);
    // the cause is still there
    if (me == 1)
        nic_job_unregister();
    nic_job_meet();
    if (me == 0) {
        CHECK(!works(1, 0), "memory that the peer has freed");
        has_failed("memory that the peer has freed", "remote access error");
    }
    nic_job_meet();
    CHECK(nic_job_recover(npes) == 0, "recovery");
    if (me == 0) {
        CHECK(!works(1, 0), "memory that the peer has freed, again");
        has_failed("memory that the peer has freed, again", "remote access error");
        CHECK(works(2, 0), "PE 2");
    }
    nic_job_meet();
}

/* Returns the text that the host gets. */
static std::string put_in_vain(int pe)
{
    bool ok = true;
    host::launch(*state, 1, 8, 0, [&] {
        put_nbi(block, memory, memory + 4096, 4096, pe);
        const bool well = quiet(block);
        // others fail as well: nobody waits for the deadline
        const u64 old = atomic_fetch_inc(reinterpret_cast<u64 *>(memory + 8192), pe);
        if (arch::thread_index() == 0)
            ok = well || old != 0;
    });
    CHECK(!ok, "quiet of PE %d", pe);
    char text[600] = "";
    const int rc = nic_job_error(text, sizeof text);
    return std::string(nic_job_error_name(rc)) + ": " + text;
}

static int test_dead()
{
    const int victim = state->npes - 1;
    if (state->me == victim) {
        usleep(200000);
        std::raise(SIGKILL);
    }
    usleep(400000);
    nic_job_log(0);
    const std::string text = put_in_vain(victim);
    const std::string anew = nic_job_error_name(nic_job_recover(state->npes)); // the dead stay dead
    const bool well = failures == 0 && text.find("PEER_DEAD: retries exceeded") != std::string::npos &&
                      anew.find("PEER_DEAD") != std::string::npos;
    std::printf("dead: PE %d: %s: %s; recovery: %s\n", state->me, well ? "ended" : "FAILED", text.c_str(),
                anew.c_str());
    std::fflush(stdout);
    return well ? 0 : 1;
}

static double seconds()
{
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}
static void test_stall()
{
    if (state->me == 0) {
        (void)put_in_vain(1);
        CHECK(nic_job_note()->kind == SHMEMX_DEVICE_TIMEOUT && nic_job_note()->pe == 1 &&
                  nic_job_note()->call == SHMEMX_DEVICE_CALL_QUIET,
              "note of kind %u, PE %d, call %u", nic_job_note()->kind, nic_job_note()->pe,
              nic_job_note()->call);
        nic_job_forget_note();
        // the first of many waits has the deadline, 0.5 s, and what comes behind it none
        unsigned well = 0;
        const double begin = seconds();
        host::launch(*state, 1, 1, 0, [&] {
            for (unsigned i = 0; i < 20; ++i) {
                put_nbi(thread, memory, memory + 64, 64, 1);
                well += quiet(thread);
            }
        });
        const double took = seconds() - begin;
        CHECK(well == 0 && took > 0.4 && took < 4, "20 waits: %u are well, %.1f s", well, took);
        nic_job_forget_note();
    }
    // nor does the host wait for the same once more: its deadline is 60 s
    const double begin = seconds();
    nic_job_meet();
    CHECK(seconds() - begin < 20, "PE %d has met after %.1f s", state->me, seconds() - begin);
    if (state->me ==
        0) { // posts that find no room, while the path has failed, do not wait for a long deadline either
        const auto limit = state->timeout_ns;
        state->timeout_ns = 60'000'000'000;
        const double full = seconds();
        host::launch(*state, 1, 1, 0, [] {
            for (unsigned i = 0; i < 300; ++i) // the queue has 256 blocks
                put_nbi(thread, memory, memory + 64, 64, 1);
        });
        CHECK(seconds() - full < 20, "posts without room: %.1f s", seconds() - full);
        state->timeout_ns = limit;
    }
    nic_job_meet();
}

/* Blocks larger than what the heap has: new chunks, with keys of their own; puts and gets over the borders. Twice: the
 * second time at addresses that were given back meanwhile. */
static void test_grow()
{
    const int next = (state->me + 1) % state->npes, before = (state->me + state->npes - 1) % state->npes;
    static constexpr std::size_t bytes = 40 << 20;
    for (unsigned round = 0; round < 2; ++round) {
        unsigned char *block_of[3];
        for (auto &b : block_of)
            b = static_cast<unsigned char *>(nic_job_more(bytes));
        unsigned char *low = std::min({block_of[0], block_of[1], block_of[2]}), *high = low;
        for (auto *b : block_of)
            high = std::max(high, b);
        const std::size_t all = static_cast<std::size_t>(high - low) + bytes, half = all / 2;
        const auto seed = static_cast<unsigned char>(state->me + 10 * static_cast<int>(round));
        for (std::size_t i = 0; i < half; i += 4093)
            low[i] = static_cast<unsigned char>(i / 4093 + seed);
        nic_job_meet();
        bool ok = false;
        host::launch(*state, 1, 8, 0, [&] {
            put(block, low + half, low, half, next); // across chunks on both sides
            const bool well = quiet(block);
            if (arch::thread_index() == 0)
                ok = well;
        });
        CHECK(ok, "quiet of %zu bytes", half);
        nic_job_meet();
        std::size_t wrong = 0;
        const auto theirs = static_cast<unsigned char>(before + 10 * static_cast<int>(round));
        for (std::size_t i = 0; i < half; i += 4093)
            wrong += low[half + i] != static_cast<unsigned char>(i / 4093 + theirs);
        CHECK(wrong == 0, "%zu of the bytes are wrong", wrong);
        nic_job_meet();
        for (auto *b : block_of)
            nic_job_give(b);
    }
    CHECK(nic_job_note()->kind == SHMEMX_DEVICE_OK, "note of kind %u", nic_job_note()->kind);
}

/* One PE's NIC does not register what the heap has grown by: an error on all, the heap as before; it grows again, unless
 * the other PE's transport keeps what it has registered. */
static void test_no_growth(bool keeps)
{
    const unsigned long before = nic_job_heap();
    for (int broken = 0; broken < (keeps ? 1 : state->npes); ++broken) {
        char text[400], whose[20];
        std::snprintf(whose, sizeof whose, "PE %d ", broken);
        const int rc = nic_job_no_more(200 << 20, state->me == broken, text, sizeof text);
        CHECK(rc == SHMEMX_ERR_SYSTEM &&
                  std::strstr(text, state->me == broken ? "Cannot allocate memory" : whose) != nullptr,
              "%d: %s", rc, text);
        CHECK(nic_job_heap() == before, "%lu bytes, %lu before", nic_job_heap(), before);
    }
    if (!keeps) {
        test_grow();
        return;
    }
    char text[400];
    const int rc = nic_job_no_more(200 << 20, 0, text, sizeof text);
    CHECK(rc == SHMEMX_ERR_NO_MEMORY && std::strstr(text, "cannot grow any more") != nullptr, "%d: %s", rc,
          text);
    void *small = nic_job_more(1000); // what there is goes on working
    host::launch(*state, 1, 4, 0, [&] {
        put(block, memory, memory + 64, 64, (state->me + 1) % state->npes);
        CHECK(quiet(block), "quiet afterwards");
    });
    nic_job_meet();
    nic_job_give(small);
}

int main(int argc, char **argv)
{
    const std::string what = argc > 1 ? argv[1] : "";
    if (nic_job_init() != 0)
        return 1;
    void *symmetric;
    state = nic_job_open(memory_bytes, &symmetric, what == "stall" ? 0.5 : 30);
    memory = static_cast<unsigned char *>(symmetric);
    if (what == "dead")
        std::_Exit(test_dead());
    if (what == "stall") {
        test_stall();
        nic_job_log(0); // the host says the same at the end
    } else if (what == "recover") {
        test_recover();
    } else if (what == "grow") {
        const char *path = std::getenv("SHMEM_GPU_NIC");
        const bool keeps = path != nullptr && std::strcmp(path, "proxy") == 0; // by verbs, which keeps it
        test_grow();
        test_no_growth(keeps);
    } else {
        test_bad();
    }
    const bool first = state->me == 0;
    nic_job_close();
    if (first)
        std::printf("errors over a NIC's path: %lu checks, %lu failed\n", passed.load(), failures.load());
    const bool ok = failures == 0;
    nic_job_finalize();
    return ok ? 0 : 1;
}
