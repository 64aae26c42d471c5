/* NVSHMEM's figures for `pyshmem bench --device cuda --peer`, on its public API: the calls, loops and statistics
 * of gpu.py and gpu_kernels.cu. plan.h is what gpu_plan.py writes.
 *
 *   nvcc -std=c++17 -O3 -arch=native -rdc=true -I FOLDER_OF_PLAN -I $NVSHMEM/include peer_nvshmem.cu -o peer
 *        -L $NVSHMEM/lib -lnvshmem_device -l:libnvshmem_host.so.3
 *   ./peer GPUS
 *
 * It forks one process a GPU and prints a line of JSON a figure, with all timings. */
#include "plan.h"

#include <cuda_runtime.h>
#include <nvshmem.h>
#include <nvshmemx.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

#define CUDA(call)                                                                                           \
    do {                                                                                                     \
        cudaError_t rc_ = (call);                                                                            \
        if (rc_ != cudaSuccess) {                                                                            \
            std::fprintf(stderr, "%s: %s\n", #call, cudaGetErrorString(rc_));                                \
            _exit(1);                                                                                        \
        }                                                                                                    \
    } while (0)

using u64 = unsigned long long;

__global__ void k_hold(u64 ns)
{
    u64 begin, now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(begin));
    do {
        asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    } while (now - begin < ns);
}

__global__ void k_p(long *flag, int n, long first, int peer, bool leads)
{
    for (long i = first; i < first + n; ++i) {
        if (!leads)
            nvshmem_long_wait_until(flag, NVSHMEM_CMP_GE, i);
        nvshmem_long_p(flag, i, peer);
        if (leads)
            nvshmem_long_wait_until(flag, NVSHMEM_CMP_GE, i);
    }
}

__device__ void wait_block(uint64_t *sig, u64 value)
{
    if (threadIdx.x == 0)
        nvshmem_signal_wait_until(sig, NVSHMEM_CMP_GE, value);
    __syncthreads();
}
__global__ void __launch_bounds__(1024) k_put_signal(char *dst, const char *src, size_t bytes, uint64_t *sig,
                                                     int n, u64 first, int peer, bool leads)
{
    for (u64 i = first; i < first + n; ++i) {
        if (!leads)
            wait_block(sig, i);
        nvshmemx_putmem_signal_nbi_block(dst, src, bytes, sig, i, NVSHMEM_SIGNAL_SET, peer);
        if (leads)
            wait_block(sig, i);
    }
}

__global__ void __launch_bounds__(1024)
    k_bandwidth(char *dst, const char *src, size_t bytes, int peer, bool get)
{
    const size_t part = bytes / gridDim.x, at = part * blockIdx.x;
    if (get)
        nvshmemx_getmem_nbi_block(dst + at, src + at, part, peer);
    else
        nvshmemx_putmem_nbi_block(dst + at, src + at, part, peer);
    __syncthreads();
    if (threadIdx.x == 0)
        nvshmem_quiet();
}

__global__ void k_fetch_add(u64 *target, int n, int peer, u64 *out)
{
    u64 sum = 0;
    for (int i = 0; i < n; ++i)
        sum += nvshmem_ulonglong_atomic_fetch_add(target, 1 + (sum >> 63), peer);
    *out = sum;
}

__global__ void k_meet(bool barrier, int n)
{
    for (int i = 0; i < n; ++i) {
        if (barrier)
            nvshmemx_barrier_all_warp();
        else
            nvshmemx_sync_all_warp();
    }
}

struct bench {
    int me, n;
    cudaStream_t stream;
    cudaEvent_t begin, end;

    /* Nanoseconds of one of the `calls` that work() enqueues, each round. */
    template <class Work> std::vector<double> samples(int calls, Work work)
    {
        std::vector<double> found;
        for (int r = 0; r < warm + rounds; ++r) {
            CUDA(cudaStreamSynchronize(stream));
            nvshmem_barrier_all();
            k_hold<<<1, 1, 0, stream>>>(1000ull * hold_us);
            nvshmemx_barrier_all_on_stream(stream);
            CUDA(cudaEventRecord(begin, stream));
            work();
            CUDA(cudaGetLastError());
            CUDA(cudaEventRecord(end, stream));
            CUDA(cudaStreamSynchronize(stream));
            float ms;
            CUDA(cudaEventElapsedTime(&ms, begin, end));
            if (r >= warm)
                found.push_back(1e6 * ms / calls);
        }
        nvshmem_barrier_all();
        return found;
    }
    /* A row of calls: once(0), once(1), .. */
    template <class Once> std::vector<double> row(int calls, Once once)
    {
        return samples(calls, [&] {
            for (int i = 0; i < calls; ++i)
                once();
        });
    }
    template <class Go> std::vector<double> pingpong(int calls, u64 &round, Go go)
    {
        auto ns = samples(calls, [&] {
            if (me < 2)
                go(round, 1 - me, me == 0);
            round += calls;
        });
        for (double &one : ns)
            one /= 2;
        return ns;
    }
    void say(const char *group, const char *op, size_t bytes, int blocks, const std::vector<double> &ns,
             bool rate = false)
    {
        if (me != 0)
            return;
        std::printf("{\"group\": \"%s\", \"op\": \"%s\", \"nbytes\": %zu, \"blocks\": %d, \"unit\": \"%s\", "
                    "\"samples\": [",
                    group, op, bytes, blocks, rate ? "GB/s" : "ns");
        for (size_t i = 0; i < ns.size(); ++i)
            std::printf("%s%.4f", i == 0 ? "" : ", ", rate ? bytes / ns[i] : ns[i]);
        std::puts("]}");
        std::fflush(stdout);
    }
    void run();
};

void bench::run()
{
    const int next = (me + 1) % n;
    size_t room = copy_bytes;
    for (size_t bytes : collective_bytes)
        room = bytes > room ? bytes : room;
    char *src = static_cast<char *>(nvshmem_malloc(room)), *dst = static_cast<char *>(nvshmem_malloc(room));
    auto *sig = static_cast<uint64_t *>(nvshmem_calloc(64, 8));
    auto *flag = static_cast<long *>(nvshmem_calloc(64, 8));
    auto *counter = static_cast<u64 *>(nvshmem_calloc(64, 8));
    u64 *out;
    CUDA(cudaMalloc(&out, 8));
    if (src == nullptr || dst == nullptr || sig == nullptr || flag == nullptr || counter == nullptr) {
        std::fprintf(stderr, "nvshmem_malloc: no room for 2 x %zu bytes\n", room);
        _exit(1);
    }
    CUDA(cudaMemset(src, 0, room)); // floats that add up quickly
    CUDA(cudaMemset(dst, 0, room));
    CUDA(cudaDeviceSynchronize());

    u64 round = 1;
    if (n > 1) {
        say("put", "p", 8, 1, pingpong(p_calls, round, [&](u64 first, int peer, bool leads) {
                k_p<<<1, 1, 0, stream>>>(flag, p_calls, static_cast<long>(first), peer, leads);
            }));
        for (size_t bytes : put_signal_bytes)
            say("signals", "put_signal", bytes, 1,
                pingpong(put_signal_calls, round, [&](u64 first, int peer, bool leads) {
                    k_put_signal<<<1, 1024, 0, stream>>>(dst, src, bytes, sig, put_signal_calls, first, peer,
                                                         leads);
                }));
    }
    for (bool get : {false, true})
        for (size_t blocks : copy_blocks) {
            auto ns = row(copy_calls,
                          [&] { k_bandwidth<<<blocks, 1024, 0, stream>>>(dst, src, copy_bytes, next, get); });
            say(get ? "get" : "put", get ? "get" : "put", copy_bytes, static_cast<int>(blocks), ns, true);
        }
    say("atomics", "fetch_add", 8, 1, samples(fetch_add_calls, [&] {
            if (me == 0)
                k_fetch_add<<<1, 1, 0, stream>>>(counter, fetch_add_calls, next, out);
        }));
    for (bool barrier : {false, true})
        say("sync", barrier ? "barrier" : "sync", 0, 1,
            samples(meet_calls, [&] { k_meet<<<1, 32, 0, stream>>>(barrier, meet_calls); }));

    say("put", "put_on_stream", copy_bytes, 0,
        row(stream_put_calls, [&] { nvshmemx_putmem_on_stream(dst, src, copy_bytes, next, stream); }), true);
    say("sync", "barrier_on_stream", 0, 0,
        row(barrier_calls, [&] { nvshmemx_barrier_all_on_stream(stream); }));
    auto *to = reinterpret_cast<float *>(dst), *from = reinterpret_cast<float *>(src);
    for (size_t bytes : collective_bytes) {
        const int calls = bytes <= 1u << 20 ? small_calls : large_calls;
        const size_t part = bytes / n / 4 != 0 ? bytes / n / 4 : 1;
        say("collectives", "alltoall_on_stream", bytes, 0, row(calls, [&] {
                nvshmemx_float_alltoall_on_stream(NVSHMEM_TEAM_WORLD, to, from, part, stream);
            }));
        say("collectives", "fcollect_on_stream", bytes, 0, row(calls, [&] {
                nvshmemx_float_fcollect_on_stream(NVSHMEM_TEAM_WORLD, to, from, part, stream);
            }));
        say("collectives", "sum_reduce_on_stream", bytes, 0, row(calls, [&] {
                nvshmemx_float_sum_reduce_on_stream(NVSHMEM_TEAM_WORLD, to, from, bytes / 4, stream);
            }));
    }
}

/* One PE; the unique id comes through memory shared with the others. */
struct meeting {
    nvshmemx_uniqueid_t id;
    volatile int ready;
};

static void pe(int me, int n, meeting *m)
{
    CUDA(cudaSetDevice(me));
    if (me == 0) {
        m->id = NVSHMEMX_UNIQUEID_INITIALIZER;
        if (nvshmemx_get_uniqueid(&m->id) != 0)
            _exit(1);
        __sync_synchronize(); // the id before the flag, for the other processes
        m->ready = 1;
    }
    while (m->ready == 0)
        usleep(100);
    nvshmemx_init_attr_t attributes = NVSHMEMX_INIT_ATTR_INITIALIZER;
    nvshmemx_set_attr_uniqueid_args(me, n, &m->id, &attributes);
    if (nvshmemx_init_attr(NVSHMEMX_INIT_WITH_UNIQUEID, &attributes) != 0)
        _exit(1);
    bench b = {};
    b.me = me;
    b.n = n;
    CUDA(cudaStreamCreateWithFlags(&b.stream, cudaStreamNonBlocking));
    CUDA(cudaEventCreate(&b.begin));
    CUDA(cudaEventCreate(&b.end));
    b.run();
    nvshmem_barrier_all();
    nvshmem_finalize();
}

int main(int argc, char **argv)
{
    const int n = argc > 1 ? std::atoi(argv[1]) : 2;
    void *memory = mmap(nullptr, sizeof(meeting), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return 1;
    std::vector<pid_t> pids;
    for (int i = 0; i < n; ++i) {
        const pid_t pid = fork();
        if (pid == 0) {
            pe(i, n, static_cast<meeting *>(memory));
            std::fflush(stdout);
            _exit(0);
        }
        pids.push_back(pid);
    }
    int worst = 0;
    for (int i = 0; i < n; ++i) {
        int status = 0;
        wait(&status);
        if (status != 0 && worst == 0) { // the others would wait for it
            worst = 1;
            for (pid_t pid : pids)
                kill(pid, SIGKILL);
        }
    }
    return worst;
}
