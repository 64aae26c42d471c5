// What a machine lacks for path ibgda is said exactly, and SHMEM_GPU_NIC=auto takes the next path. Each case is a job of its
// own in these processes, on a software NIC that lacks something (SHMEM_SIM_LACKS), or with a setting that is wrong.
//
//     test_nic_lacks auto        the proxy is taken, works, and the table of ways says why; ibgda where nothing lacks
//     test_nic_lacks ibgda       SHMEM_GPU_NIC=ibgda is an error with the same words
//     test_nic_lacks gpu         what a GPU can lack: NIC_JOB_MEMORY=gpu on the fake driver
#include "nic_check.h"

#include <cstdlib>
#include <cstring>
#include <string>
#include <unistd.h>

using namespace shmem;

struct lack {
    const char *name, *value; // a variable
    int code;
    const char *text;
    int pe = -1; // the one that lacks it; -1 = all
};

static const lack lacks[] = {
    {"SHMEM_SIM_LACKS", "mlx5", SHMEMX_ERR_UNSUPPORTED,
     "sim_0 is no mlx5 device: kernels cannot post to it themselves"},
    {"SHMEM_SIM_LACKS", "devx", SHMEMX_ERR_UNSUPPORTED,
     "sim_0 cannot be opened for DevX commands: mlx5dv_open_device: Operation not supported (the kernel's "
     "mlx5_ib must "
     "have DevX, and the process access to /dev/infiniband/uverbs*)"},
    {"SHMEM_SIM_LACKS", "commands", SHMEMX_ERR_UNSUPPORTED,
     "sim_0 takes no DevX commands (QUERY_HCA_CAP: Operation not supported); the kernel's mlx5_ib must have "
     "DevX, and the "
     "process access to /dev/infiniband/uverbs*"},
    {"SHMEM_SIM_LACKS", "cq_oi", SHMEMX_ERR_UNSUPPORTED,
     "sim_0 has no completion queues without consumer index (cq_oi)"},
    {"SHMEM_SIM_LACKS", "atomics", SHMEMX_ERR_UNSUPPORTED, "sim_0 has no atomics"},
    {"SHMEM_SIM_LACKS", "masked_atomics", SHMEMX_ERR_UNSUPPORTED,
     "sim_0 lacks atomics: operations 0x3, bytes 0xc; swap, and, or, xor and those of 4 bytes need masked "
     "ones (0xf, of "
     "0xc)"},
    {"SHMEM_SIM_LACKS", "atomics_of_4", SHMEMX_ERR_UNSUPPORTED,
     "sim_0 lacks atomics: operations 0xf, bytes 0x8; swap, and, or, xor and those of 4 bytes need masked "
     "ones (0xf, of "
     "0xc)"},
    {"SHMEM_SIM_LACKS", "cq_oi,masked_atomics", SHMEMX_ERR_UNSUPPORTED,
     "sim_0 has no completion queues without consumer index (cq_oi)"},
    {"SHMEM_SIM_LACKS", "umem", SHMEMX_ERR_SYSTEM,
     "sim_0:1 cannot use 36864 bytes of this host for a kernel's queues: mlx5dv_devx_umem_reg: Operation not "
     "supported; "
     "`ulimit -l`, a smaller SHMEM_IBGDA_DEPTH, or SHMEM_IBGDA_MEMORY=host"},
    {"SHMEM_SIM_LACKS", "uar", SHMEMX_ERR_SYSTEM, "sim_0:1: mlx5dv_devx_alloc_uar: Cannot allocate memory"},
    {"SHMEM_SIM_LACKS", "cq_oi", SHMEMX_ERR_UNSUPPORTED,
     "sim_0 has no completion queues without consumer index (cq_oi)", 1},
    {"SHMEM_HCA_LIST", "mlx5_7", SHMEMX_ERR_UNSUPPORTED, "sim_0:1 is not in SHMEM_HCA_LIST=mlx5_7"},
    {"SHMEM_IBGDA_QPS", "3", SHMEMX_ERR_ARGUMENT, "SHMEM_IBGDA_QPS=3; a power of 2 from 1 to 64 is possible"},
    {"SHMEM_IBGDA_QPS", "128", SHMEMX_ERR_ARGUMENT,
     "SHMEM_IBGDA_QPS=128; a power of 2 from 1 to 64 is possible"},
    {"SHMEM_IBGDA_QPS", "0", SHMEMX_ERR_ARGUMENT, "SHMEM_IBGDA_QPS=0; a power of 2 from 1 to 64 is possible"},
    {"SHMEM_IBGDA_DEPTH", "300", SHMEMX_ERR_ARGUMENT,
     "SHMEM_IBGDA_DEPTH=300; a power of 2 from 256 to 32768 is possible"},
    {"SHMEM_IBGDA_DEPTH", "128", SHMEMX_ERR_ARGUMENT,
     "SHMEM_IBGDA_DEPTH=128; a power of 2 from 256 to 32768 is possible"},
    {"SHMEM_IBGDA_DEPTH", "65536", SHMEMX_ERR_ARGUMENT,
     "SHMEM_IBGDA_DEPTH=65536; a power of 2 from 256 to 32768 is possible"},
    {"SHMEM_IBGDA_MEMORY", "nowhere", SHMEMX_ERR_ARGUMENT,
     "SHMEM_IBGDA_MEMORY=nowhere; auto, host and gpu are possible"},
    {"SHMEM_IBGDA_MEMORY", "gpu", SHMEMX_ERR_ARGUMENT,
     "SHMEM_IBGDA_MEMORY=gpu, but the queues are for threads of the CPU"},
};
static const lack unknown = {"SHMEM_SIM_LACKS", "uar,speed", SHMEMX_ERR_UNSUPPORTED,
                             "sim_0 cannot be opened for DevX commands: mlx5dv_open_device: Invalid argument "
                             "(the kernel's mlx5_ib must have DevX, "
                             "and the process access to /dev/infiniband/uverbs*)"};
static const lack of_gpus[] = {
    {"FAKE_CUDA_FAIL", "cuMemHostRegister_v2", SHMEMX_ERR_UNSUPPORTED,
     "sim_0:1's doorbell register cannot be mapped for the GPU: cuMemHostRegister: CUDA error 1, an error of "
     "the fake "
     "driver, as I/O memory; 1, an error of the fake driver, as plain memory. NVIDIA's driver needs the "
     "registry key "
     "PeerMappingOverride=1 (NVreg_RegistryDwords) for unprivileged users; SHMEM_GPU_NIC=proxy needs "
     "neither"},
    {"SHMEM_SIM_LACKS", "umem", SHMEMX_ERR_UNSUPPORTED,
     "SHMEM_IBGDA_MEMORY=gpu: sim_0:1 takes no queues there: mlx5dv_devx_umem_reg_ex of a dmabuf: Operation "
     "not "
     "supported; "
     "mlx5dv_devx_umem_reg by address: Operation not supported (modprobe nvidia_peermem)"},
};

static shmemx_device_state before; // there is none yet: CHECK names the PE by it
static int rank;

/* A job where that is so; then(), on all PEs; the environment as before. */
template <class Then> static void job(const lack &l, Then then)
{
    const char *now = std::getenv(l.name);
    const std::string was = now != nullptr ? now : "";
    if (l.pe < 0 || l.pe == rank)
        setenv(l.name, l.value, 1);
    const bool fine = nic_job_init() == 0;
    CHECK(fine, "%s=%s: init: %s", l.name, l.value, nic_job_last_error());
    if (fine)
        then();
    state = &before;
    nic_job_finalize();
    if (now != nullptr)
        setenv(l.name, was.c_str(), 1);
    else
        unsetenv(l.name);
}

/* A little of everything, to the other PE. */
static void use(const char *what)
{
    void *symmetric;
    state = nic_job_open(1 << 16, &symmetric, 30);
    auto *memory = static_cast<unsigned char *>(symmetric);
    auto *words = reinterpret_cast<u64 *>(memory);
    for (int i = 0; i < 4096; ++i)
        memory[4096 + i] = static_cast<unsigned char>(i * 7 + state->me);
    nic_job_meet();
    bool fine = false;
    u64 old = 0;
    host::launch(*state, 1, 4, 0, [&] {
        const int pe = 1 - my_pe();
        put_signal(block, memory + 8192, memory + 4096, 4096, words, 1, signal_set, pe);
        atomic_add(words + 1, 3, pe);
        atomic_or(reinterpret_cast<u32 *>(words + 2), 1u << arch::thread_index(), pe);
        const bool came = signal_wait_until(block, words, ge, 1);
        const bool done = quiet(block);
        if (arch::thread_index() == 0) {
            old = atomic_fetch(words + 3, pe);
            fine = came && done;
        }
    });
    nic_job_meet();
    int wrong = 0;
    for (int i = 0; i < 4096; ++i)
        wrong += memory[8192 + i] != static_cast<unsigned char>(i * 7 + 1 - state->me);
    CHECK(fine && wrong == 0 && words[1] == 12 && words[2] == 15 && old == 0,
          "%s: %d wrong bytes, %llu, %llu", what, wrong, words[1], words[2]);
}

static void expect_ways(const char *what, const std::string &path)
{
    char ways[1024];
    nic_job_ways(ways, sizeof ways);
    const std::string mine = "kernels to PE " + std::to_string(rank) + ": loads and stores\n",
                      other = "kernels to PE " + std::to_string(1 - rank) + ": " + path + "\n";
    CHECK(ways == (rank == 0 ? mine + other : other + mine), "%s: %s", what, ways);
}

/* Where the NIC is asked, and nothing else: what is seen without GPU memory, too. */
static void expect_info(const std::string &line)
{
    static char text[65536];
    nic_job_info(text, sizeof text);
    const std::string all = text;
    const auto is = all.find("\nibgda: ");
    CHECK(all.find("\nibgda: " + line + "\n") != std::string::npos, "%s: info says %s", line.c_str(),
          is == std::string::npos ? "nothing" : all.substr(is + 1, all.find('\n', is + 1) - is - 1).c_str());
}

static void test_auto(const lack &l)
{
    job(l, [&l] {
        use(l.value);
        expect_ways(l.value, std::string("proxy over wire (ibgda: ") +
                                 (l.pe >= 0 && l.pe != rank ? "PE 1 has it not, and says why" : l.text) +
                                 ")");
        if (l.code == SHMEMX_ERR_UNSUPPORTED && l.pe < 0)
            expect_info(std::string("not possible (") + l.text + ")");
        nic_job_close();
    });
}

static void test_ibgda(const lack &l)
{
    job(l, [&l] {
        const int code = nic_job_refused();
        const std::string said = nic_job_last_error(),
                          text = l.pe >= 0 && l.pe != rank
                                     ? "SHMEM_GPU_NIC=ibgda: PE 1 has it not; its own message says why"
                                     : l.text;
        CHECK(code == l.code && said.size() >= text.size() &&
                  said.compare(said.size() - text.size(), text.size(), text) == 0,
              "%s=%s: %s: %s", l.name, l.value, nic_job_error_name(code), said.c_str());
    });
}

/* The software NIC says itself what it did not understand. */
static void test_unknown()
{
    char said[600] = "";
    std::FILE *file = std::tmpfile();
    const int out = dup(STDERR_FILENO);
    std::fflush(stderr);
    dup2(fileno(file), STDERR_FILENO);
    test_ibgda(unknown);
    std::fflush(stderr);
    dup2(out, STDERR_FILENO);
    close(out);
    std::rewind(file);
    (void)!std::fread(said, 1, sizeof said - 1, file);
    std::fclose(file);
    if (failures != 0)
        std::fputs(said, stderr);
    CHECK(std::strstr(said,
                      "libshmem_sim: SHMEM_SIM_LACKS: not known from \"speed\" on; possible are mlx5 devx "
                      "commands cq_oi atomics masked_atomics atomics_of_4 umem uar\n") != nullptr,
          "it says %s", said);
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    const std::string what = argv[1];
    const char *number = std::getenv("RANK");
    before.me = rank = number != nullptr ? std::atoi(number) : 0;
    state = &before;
    nic_job_log(0);
    if (what == "auto") {
        for (const lack &l : lacks)
            test_auto(l);
    } else if (what == "ibgda") {
        for (const lack &l : lacks)
            test_ibgda(l);
        test_unknown();
    } else {
        setenv("SHMEM_IBGDA_MEMORY", "gpu", 1);
        for (const lack &l : of_gpus)
            test_ibgda(l);
    }
    // and in the end nothing lacks
    const lack nothing = {"SHMEM_SIM_LACKS", "", 0, ""};
    job(nothing, [&what] {
        if (what == "gpu") {
            CHECK(nic_job_refused() == 0, "nothing lacks: %s", nic_job_last_error());
            return;
        }
        use("nothing lacks");
        expect_ways("nothing lacks", "ibgda");
        expect_info("possible (sim_0:1, open)");
        nic_job_close();
    });
    if (rank == 0)
        std::printf("what a machine lacks: %lu checks, %lu failed\n", passed.load(), failures.load());
    return failures == 0 ? 0 : 1;
}
