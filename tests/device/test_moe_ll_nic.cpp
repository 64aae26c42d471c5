// The low-latency MoE kernels between PEs that are not mapped, over the path that SHMEM_GPU_NIC names: bit for bit what they
// give where all are mapped. tests/device/CMakeLists.txt starts it.
//
//     test_moe_ll_nic          every format, many rounds, two dispatches under way
//     test_moe_ll_nic few      the same with two shapes and fewer rounds
//     test_moe_ll_nic one      with one
//     test_moe_ll_nic late     with one, and stores as a GPU makes them, for a NIC or a transport that takes its time
//     test_moe_ll_nic alone    with one, compared with nothing: for ThreadSanitizer
//     test_moe_ll_nic dead     the last PE is killed between two rounds, the others go on without it
#include "moe_ll_scene.h"

#include "nic_job.h"
#include "shmemx_errors.h"

#include <csignal>
#include <unistd.h>

static shmemx_device_state *state;
static unsigned char *memory; // symmetric: the object's, then a digest of each rank
static constexpr std::size_t digests_at = 4 << 20;

/* This process's rank of the job. */
struct far_world {
    int npes;
    u64 far = 0, offset;
    static constexpr std::size_t room = digests_at;

    far_world() : npes(state->npes), offset(reinterpret_cast<u64>(memory) - state->copy)
    {
        for (int pe = 0; state->nic != 0 && pe < npes; ++pe) {
            const auto &nic = *reinterpret_cast<const shmemx_device_nic *>(state->nic);
            if (reinterpret_cast<const unsigned char *>(nic.path)[pe] != SHMEMX_NIC_MAPPED)
                far |= 1ull << pe;
        }
    }
    static bool here(unsigned r)
    {
        return static_cast<int>(r) == state->me;
    }
    void clear()
    {
        nic_job_meet();
        std::memset(memory, 0, digests_at + 8 * 64);
        nic_job_meet();
    }
    template <class Kernel> void run(unsigned n, unsigned each, std::size_t shared_bytes, Kernel kernel)
    {
        host::launch(*state, n, each, shared_bytes, kernel);
    }
};

/* A rank's digest, to PE 0. */
static void tell(u64 digest)
{
    host::launch(*state, 1, 1, 128, [digest] {
        p(reinterpret_cast<u64 *>(memory + digests_at) + my_pe(), digest, 0);
        (void)quiet(thread);
    });
}
static u64 told(unsigned r)
{
    return arch::load_acquire(reinterpret_cast<const u64 *>(memory + digests_at) + r);
}

template <bool Lines> static void compare(const shape &s, unsigned rounds, bool alone)
{
    state->flags = Lines ? SHMEMX_DEVICE_LINES128 : 0;
    far_world world;
    job<Lines, far_world> j(world, s);
    const auto me = static_cast<unsigned>(state->me);
    std::vector<chain> found(j.ranks);
    play_all(j, rounds, found, me == 0);
    CHECK(j.local[me].dead == 0, "dead ranks %llx", static_cast<unsigned long long>(j.local[me].dead));
    tell(found[me].sum());
    nic_job_meet();
    if (me != 0 || alone)
        return;
    mapped_world all(state->npes, Lines, 0);
    job<Lines> reference(all, s);
    std::vector<chain> wanted(j.ranks);
    play_all(reference, rounds, wanted);
    for (unsigned r = 0; r < j.ranks; ++r)
        CHECK(told(r) == wanted[r].sum(), "rank %u: format %u and back %u, lines %d: not what it is where all are mapped", r,
              s.how, s.back_how, Lines);
}

/* Its deadline ends the others' waits; then nothing is sent to it, and sums lack its part. */
static int dead()
{
    const shape s = {128, 9, 3, 5, moe::as_int8, moe::as_bf16, 32, 0, true, true, false};
    const auto me = static_cast<unsigned>(state->me), victim = static_cast<unsigned>(state->npes - 1);
    const u64 bit = 1ull << victim;
    far_world world;
    job<true, far_world> j(world, s);
    std::vector<chain> found(j.ranks), wanted(j.ranks);
    j.o.timeout_ns = 1'000'000'000;
    j.round("random", [] {}, [] {});
    nic_job_meet();
    if (me == victim)
        std::raise(SIGKILL);
    nic_job_log(0);
    j.absent = victim;
    play_all(j, 4, found);
    tell(found[me].sum());
    if (me == 0) {
        mapped_world all(state->npes, true, 0);
        job<true> reference(all, s);
        reference.round("random", [] {}, [] {});
        reference.absent = victim;
        for (shmemi_moe_ll_local &l : reference.local)
            l.dead = bit;
        play_all(reference, 4, wanted);
    }
    for (int i = 0; me == 0 && i < 3000; ++i) {
        bool all = true;
        for (unsigned r = 0; r < victim; ++r)
            all = all && told(r) != 0;
        if (all)
            break;
        usleep(10000);
    }
    bool same = true;
    for (unsigned r = 0; me == 0 && r < victim; ++r)
        same = same && told(r) == wanted[r].sum();
    char text[600] = "";
    const int rc = nic_job_error(text, sizeof text);
    const bool well = same && j.local[me].dead == bit && (rc == 0 || rc == SHMEMX_ERR_PEER_DEAD);
    std::printf("dead: PE %u: %s: given up 0x%llx, %s; %s\n", me, well ? "went on" : "FAILED", j.local[me].dead,
                same ? "the same sums" : "OTHER SUMS", rc ? text : "no error");
    std::fflush(stdout);
    sleep(2); // as in test_nic.cpp: what this PE has told is to arrive
    return well ? 0 : 1;
}

int main(int argc, char **argv)
{
    const std::string what = argc > 1 ? argv[1] : "";
    if (nic_job_init() != 0)
        return 1;
    void *symmetric;
    state = nic_job_open(digests_at + 8 * 64, &symmetric, 60);
    memory = static_cast<unsigned char *>(symmetric);
    if (what == "dead")
        std::_Exit(dead());
    const shape shapes[] = {
        {136, 7, 4, 6, moe::as_fp8, moe::as_bf16, 128, 0, true, true, false},
        {128, 8, 3, 5, moe::as_int8, moe::as_int8, 32, 0, false, false, true},
        {128, 8, 3, 5, moe::as_bf16, moe::as_bf16, 128, 0, true, false, false},
        {128, 5, 2, 33, moe::as_fp8, moe::as_int8, 64, 1, false, true, true},
    };
    arch::weak_stores() = what == "late";
    const unsigned n = what.empty() ? 4 : what == "few" ? 2 : 1, rounds = what.empty() ? 7 : 2;
    for (unsigned i = 0; i < n; ++i)
        compare<true>(shapes[i], what == "few" && i > 0 ? 1 : rounds, what == "alone");
    if (n > 1)
        compare<false>(shapes[0], 1, false);
    char text[600] = "";
    CHECK(nic_job_error(text, sizeof text) == 0, "an error that nobody made: %s", text);
    CHECK(nic_job_note()->kind == SHMEMX_DEVICE_OK, "a note: kind %u", nic_job_note()->kind);
    nic_job_meet();
    const bool first = state->me == 0;
    nic_job_close();
    if (first)
        std::printf("low-latency MoE over a NIC's path: %lu checks, %lu failed\n", passed.load(), failures.load());
    const bool ok = failures.load() == 0;
    nic_job_finalize();
    return ok ? 0 : 1;
}
