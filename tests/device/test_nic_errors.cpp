// Path ibgda over the software NIC, when something is wrong: the kernel ends, the host gets the decoded cause, other
// connections go on, and finalize works.
//
//     test_nic_errors            bad keys, addresses and sizes, memory that a peer has freed
//     test_nic_errors dead       the last PE is killed: SHMEM_SIM_FAULTS=retry_ms=..
//     test_nic_errors grow       no error: the GPU heap grows and shrinks by chunks, NIC_JOB_MEMORY=gpu
//     test_nic_errors stall      the NIC stands still: SHMEM_SIM_FAULTS=stall=1
#include "nic_check.h"

#include <algorithm>
#include <csignal>
#include <cstdlib>
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
    const bool well = failures == 0 && text.find("PEER_DEAD: retries exceeded") != std::string::npos;
    std::printf("dead: PE %d: %s: %s\n", state->me, well ? "ended" : "FAILED", text.c_str());
    std::fflush(stdout);
    return well ? 0 : 1;
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
    }
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
    } else if (what == "grow") {
        test_grow();
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
