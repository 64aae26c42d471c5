// The device API on 2 or more GPUs of one host: checks every operation, then measures; JSON lines.
//   nvcc -std=c++17 -O3 -arch=sm_90 -Ilibshmem/include tests/device/gpu_bench.cu -o gpu_bench -ldl
//   ./gpu_bench [GPUs = 2] [--check | --bench]   (no NVLink multicast)
// Exit status 1 if a check failed. A one-way latency is half a round trip of a ping-pong, kernel launch
// spread over it.
#include "gpu_scene.h"

#include <algorithm>
#include <string>

using u64 = unsigned long long;

constexpr int max_threads = 1024;
constexpr size_t box_bytes = 1 << 18, data_bytes = 256ull << 20;
// offsets in the part for tests: signals, packet boxes, then source and target
constexpr size_t signals = 0, boxes = 1 << 16, sources = 8 << 20, targets = sources + data_bytes,
                 scratch = targets + data_bytes;

__device__ unsigned char *mine(size_t offset)
{
    return reinterpret_cast<unsigned char *>(shmem::detail::my_copy() + gpu_scene::team_bytes + offset);
}
__device__ unsigned char pattern(size_t i, unsigned salt, int pe)
{
    return static_cast<unsigned char>(i * 131 + (i >> 8) * 7 + salt * 29 + pe * 59 + 1);
}
__device__ void expect(bool ok, u64 *wrong, int what)
{
    if (!ok && atomicAdd(wrong, 1ull) == 0)
        wrong[1] = what;
}
__device__ void pause_all()
{
    shmem::barrier(shmem::block);
}

// ---- checks: *wrong counts, wrong[1] says which was first

template <class Scope> __device__ void check_moves(const Scope &s, bool active, u64 *wrong, int what)
{
    const int me = shmem::my_pe(), n = shmem::n_pes(), next = (me + 1) % n, before = (me + n - 1) % n;
    const size_t sizes[] = {1, 15, 16, 255, 4096, 70001, 300000}, skews[] = {0, 1, 4, 8};
    auto *sig = reinterpret_cast<u64 *>(mine(signals) + 1024 + 8 * what);
    unsigned salt = what;
    for (size_t bytes : sizes)
        for (size_t to : skews)
            for (size_t from : skews) {
                ++salt;
                unsigned char *src = mine(sources + from), *dst = mine(targets + 64 + to),
                              *back = mine(scratch + to);
                for (size_t i = threadIdx.x; i < bytes + 64; i += blockDim.x) {
                    if (i < bytes)
                        src[i] = pattern(i, salt, me);
                    dst[i] = 0xee;
                    back[i] = 0xdd;
                }
                pause_all();
                if (active) {
                    if (salt % 2)
                        shmem::put_signal(s, dst, src, bytes, sig, 1, shmem::signal_add, next);
                    else
                        shmem::put(s, dst, src, bytes, next);
                    shmem::get(s, back, src, bytes, next);
                    if (salt % 2) // the signal alone must be enough
                        expect(shmem::signal_wait_until(s, sig, shmem::ge, (salt - what + 1) / 2), wrong,
                               100 + what);
                    else
                        shmem::quiet(s);
                }
                if (salt % 2 == 0)
                    pause_all();
                else
                    __syncthreads();
                for (size_t i = threadIdx.x; i < bytes + 64; i += blockDim.x) {
                    expect(dst[i] == (i < bytes ? pattern(i, salt, before) : 0xee), wrong, 200 + what);
                    expect(back[i] == (i < bytes ? pattern(i, salt, next) : 0xdd), wrong, 300 + what);
                }
                pause_all();
            }
}
__global__ void __launch_bounds__(max_threads) k_check_moves(u64 *wrong, unsigned stage_bytes)
{
    extern __shared__ __align__(128) unsigned char memory[];
    check_moves(shmem::thread, threadIdx.x == 0, wrong, 2);
    check_moves(shmem::warp, threadIdx.x < 32, wrong, 4);
    check_moves(shmem::block, true, wrong, 6);
    check_moves(shmem::stage(memory, stage_bytes), true, wrong, 8);
}
template <class T> __device__ void check_integers(size_t at, u64 *wrong)
{
    const int n = shmem::n_pes();
    T *x = reinterpret_cast<T *>(mine(scratch + at));
    if (threadIdx.x < 8)
        x[threadIdx.x] = 0;
    pause_all();
    shmem::atomic_add(x, 2, 0);
    shmem::atomic_inc(x, 0);
    shmem::atomic_fetch_add(x, 3, 0);
    shmem::atomic_fetch_inc(x, 0);
    if (shmem::atomic_compare_swap(x + 1, 0, static_cast<T>(threadIdx.x + 1), 0) == 0)
        shmem::atomic_inc(x + 2, 0);
    const T bit = static_cast<T>(1) << (threadIdx.x % 31);
    shmem::atomic_or(x + 3, bit, 0);
    shmem::atomic_xor(x + 4, bit, 0);
    shmem::atomic_fetch_or(x + 5, bit, 0);
    pause_all();
    expect(shmem::atomic_fetch(x, 0) == static_cast<T>(7) * static_cast<T>(blockDim.x * n), wrong, 401);
    expect(shmem::atomic_fetch(x + 2, 0) == 1, wrong, 402);
    expect(shmem::atomic_fetch(x + 3, 0) == 0x7fffffff, wrong, 403);
    pause_all();
    shmem::atomic_and(x + 3, static_cast<T>(~bit), 0);
    shmem::atomic_fetch_and(x + 5, static_cast<T>(~bit), 0);
    shmem::atomic_fetch_xor(x + 4, bit, 0); // twice: nothing is left
    pause_all();
    expect(shmem::atomic_fetch(x + 3, 0) == 0 && shmem::atomic_fetch(x + 5, 0) == 0, wrong, 404);
    expect(shmem::atomic_fetch(x + 4, 0) == 0, wrong, 405);
    pause_all();
}
template <class T> __device__ void check_floats(size_t at, u64 *wrong)
{
    const int me = shmem::my_pe(), next = (me + 1) % shmem::n_pes();
    T *x = reinterpret_cast<T *>(mine(scratch + at));
    if (threadIdx.x == 0) {
        shmem::atomic_set(x, static_cast<T>(me + 0.5), next);
        expect(shmem::atomic_swap(x, static_cast<T>(-1.25), next) == static_cast<T>(me + 0.5), wrong, 406);
        expect(shmem::atomic_fetch(x, next) == static_cast<T>(-1.25), wrong, 407);
        shmem::p(x + 1, static_cast<T>(me), next);
        shmem::quiet(shmem::thread);
        expect(shmem::g(x + 1, next) == static_cast<T>(me), wrong, 408);
    }
    pause_all();
}
__global__ void __launch_bounds__(max_threads) k_check_atomics(u64 *wrong)
{
    check_integers<int>(0, wrong), check_integers<unsigned>(128, wrong);
    check_integers<long long>(256, wrong), check_integers<u64>(512, wrong);
    check_floats<float>(1024, wrong), check_floats<double>(2048, wrong);
}
template <class Scope> __device__ void check_sync(const Scope &s, u64 *wrong, int what)
{
    const int me = shmem::my_pe(), n = shmem::n_pes();
    auto *cells = reinterpret_cast<volatile int *>(mine(scratch + 8192));
    for (int r = 1; r <= 300; ++r) {
        if (shmem::arch::lane(s) == 0)
            for (int j = 0; j < n; ++j)
                *shmem::ptr(const_cast<int *>(cells) + me, j) = what * 1000 + r;
        expect(shmem::barrier(s), wrong, 500 + what);
        for (int j = 0; j < n; ++j)
            expect(cells[j] == what * 1000 + r, wrong, 510 + what);
        expect(shmem::sync(s), wrong, 520 + what);
    }
}
template <class Scope> __device__ void check_together(const Scope &s, u64 *wrong, int what)
{
    const int me = shmem::my_pe(), n = shmem::n_pes();
    const unsigned lane = shmem::arch::lane(s), width = shmem::arch::width(s);
    unsigned salt = 0;
    for (size_t count : {1, 8, 121, 3000, 16000, 100000}) {
        ++salt;
        const size_t all = count * n;
        unsigned char *src = mine(sources + salt % 3), *dst = mine(targets + salt % 2);
        for (size_t i = lane; i < all; i += width)
            src[i] = pattern(i, salt, me);
        expect(shmem::barrier(s), wrong, 600);
        const int root = salt % n;
        expect(shmem::broadcast(s, shmem::world, dst, src, count, root), wrong, 601);
        for (size_t i = lane; i < count; i += width)
            expect(dst[i] == pattern(i, salt, root), wrong, 610 + what);
        shmem::sync(s);
        expect(shmem::fcollect(s, shmem::world, dst, src, count), wrong, 602);
        for (size_t i = lane; i < all; i += width)
            expect(dst[i] == pattern(i % count, salt, i / count), wrong, 620 + what);
        shmem::sync(s);
        expect(shmem::alltoall(s, shmem::world, dst, src, count), wrong, 603);
        for (size_t i = lane; i < all; i += width)
            expect(dst[i] == pattern(me * count + i % count, salt, i / count), wrong, 630 + what);
        shmem::sync(s);
        auto *x = reinterpret_cast<float *>(mine(sources)), *y = reinterpret_cast<float *>(mine(targets));
        for (size_t i = lane; i < count; i += width)
            x[i] = 1.0f / (1 + i % 97 + me);
        expect(shmem::barrier(s), wrong, 604);
        expect(shmem::reduce(s, shmem::world, shmem::sum, y, x, count), wrong, 605);
        for (size_t i = lane; i < count; i += width) {
            float want = 1.0f / (1 + i % 97);
            for (int j = 1; j < n; ++j)
                want += 1.0f / (1 + i % 97 + j);
            expect(y[i] == want, wrong, 640 + what);
        }
        shmem::sync(s);
        expect(shmem::reduce(s, shmem::world, shmem::max, x, x, count), wrong, 606);
        for (size_t i = lane; i < count; i += width)
            expect(x[i] == 1.0f / (1 + i % 97), wrong, 650 + what);
        shmem::sync(s);
    }
}
__global__ void __launch_bounds__(max_threads) k_check_sync(u64 *wrong, int scope)
{
    if (scope == 0)
        check_sync(shmem::thread, wrong, 1);
    else if (scope == 1)
        check_sync(shmem::warp, wrong, 2);
    else
        check_sync(shmem::block, wrong, 3);
}
__global__ void __launch_bounds__(max_threads) k_check_together(u64 *wrong, int scope, unsigned stage_bytes)
{
    extern __shared__ __align__(128) unsigned char memory[];
    if (scope == 1)
        check_together(shmem::warp, wrong, 1);
    else if (scope == 2)
        check_together(shmem::block, wrong, 2);
    else
        check_together(shmem::stage(memory, stage_bytes), wrong, 3);
}
// Each block its own ring of boxes; sizes change every round; every byte is checked.
__global__ void __launch_bounds__(max_threads) k_check_packets(u64 *wrong, int rounds, u64 first)
{
    const int me = shmem::my_pe(), n = shmem::n_pes(), next = (me + 1) % n, before = (me + n - 1) % n;
    const size_t room = 16384, most = 7000;
    unsigned char *box = mine(boxes) + blockIdx.x * 4 * room;
    unsigned char *src = mine(sources) + blockIdx.x * 2 * room, *dst = mine(targets) + blockIdx.x * 2 * room;
    for (int r = 1; r <= rounds; ++r) {
        const u64 round = first + r;
        const size_t bytes = r % 8 == 0 ? most : r * 97 % most, to = r % 3 ? 0 : r % 8,
                     from = r % 5 ? 0 : r % 7;
        for (size_t i = threadIdx.x; i < bytes; i += blockDim.x)
            src[from + i] = pattern(i, r, me);
        __syncthreads();
        unsigned char *buffer = box + r % 2 * room, *answer = box + (2 + r % 2) * room;
        shmem::put_packets(shmem::block, buffer, src + from, bytes, round, next);
        expect(shmem::recv_packets(shmem::block, dst + to, buffer, bytes, round), wrong, 700);
        for (size_t i = threadIdx.x; i < bytes; i += blockDim.x)
            expect(dst[to + i] == pattern(i, r, before), wrong, 701);
        __syncthreads();
        shmem::put_packets(shmem::block, answer, &r, 1, round, before);
        int seen = 0;
        expect(shmem::recv_packets(shmem::warp, &seen, answer, 1, round), wrong, 702);
    }
}

// ---- measurements

__global__ void k_p(long long *flag, int n, long long first, int peer, bool leads)
{
    for (long long i = first; i < first + n; ++i) {
        if (!leads)
            shmem::wait_until(shmem::thread, flag, shmem::ge, i);
        shmem::p(flag, i, peer);
        if (leads)
            shmem::wait_until(shmem::thread, flag, shmem::ge, i);
    }
}
__global__ void __launch_bounds__(max_threads)
    k_put_signal(unsigned char *dst, const unsigned char *src, size_t bytes, u64 *sig, int n, u64 first,
                 int peer, bool leads, unsigned stage_bytes)
{
    extern __shared__ __align__(128) unsigned char memory[];
    shmem::stage s(memory, stage_bytes); // 0: not usable, as block
    for (u64 i = first; i < first + n; ++i) {
        if (!leads)
            shmem::signal_wait_until(shmem::block, sig, shmem::ge, i);
        if (stage_bytes != 0)
            shmem::put_signal(s, dst, src, bytes, sig, i, shmem::signal_set, peer);
        else
            shmem::put_signal(shmem::block, dst, src, bytes, sig, i, shmem::signal_set, peer);
        if (leads)
            shmem::signal_wait_until(shmem::block, sig, shmem::ge, i);
    }
}
// The other way to order: every thread that stored fences for itself, then a relaxed signal. For comparison.
__global__ void __launch_bounds__(max_threads)
    k_fence_each(unsigned char *dst, const unsigned char *src, size_t bytes, u64 *sig, int n, u64 first,
                 int peer, bool leads)
{
    for (u64 i = first; i < first + n; ++i) {
        if (!leads)
            shmem::signal_wait_until(shmem::block, sig, shmem::ge, i);
        shmem::put_nbi(shmem::block, dst, src, bytes, peer);
        if (threadIdx.x * 16 < bytes)
            shmem::arch::fence(); // observers: this thread's stores and the peer that acquires the signal
        __syncthreads();
        if (threadIdx.x == 0)
            shmem::signal_op(sig, i, shmem::signal_set, peer);
        if (leads)
            shmem::signal_wait_until(shmem::block, sig, shmem::ge, i);
    }
}
__global__ void __launch_bounds__(max_threads)
    k_packets(unsigned char *box, unsigned char *dst, const unsigned char *src, size_t bytes, int n,
              u64 first, int peer, bool leads)
{
    for (u64 i = first; i < first + n; ++i) {
        unsigned char *buffer = box + i % 2 * box_bytes;
        if (!leads)
            shmem::recv_packets(shmem::block, dst, buffer, bytes, i);
        shmem::put_packets(shmem::block, buffer, src, bytes, i, peer);
        if (leads)
            shmem::recv_packets(shmem::block, dst, buffer, bytes, i);
    }
}
__global__ void __launch_bounds__(max_threads)
    k_bandwidth(unsigned char *dst, const unsigned char *src, size_t bytes, int peer, bool get,
                unsigned stage_bytes)
{
    extern __shared__ __align__(128) unsigned char memory[];
    const size_t part = bytes / gridDim.x / 128 * 128, at = part * blockIdx.x;
    if (stage_bytes != 0) {
        shmem::stage s(memory, stage_bytes);
        if (get)
            shmem::get(s, dst + at, src + at, part, peer);
        else
            shmem::put(s, dst + at, src + at, part, peer);
    } else if (get) {
        shmem::get(shmem::block, dst + at, src + at, part, peer);
    } else {
        shmem::put(shmem::block, dst + at, src + at, part, peer);
    }
    shmem::quiet(shmem::block);
}
__global__ void k_fetch_add(u64 *target, int peer, int n, u64 *out)
{
    u64 sum = 0;
    for (int i = 0; i < n; ++i)
        sum += shmem::atomic_fetch_add(target, 1 + (sum >> 63), peer);
    *out = sum;
}
enum call { SYNC, BARRIER, BROADCAST, FCOLLECT, ALLTOALL, REDUCE };
__global__ void __launch_bounds__(max_threads)
    k_together(call what, float *dst, const float *src, size_t nelems, int n)
{
    for (int i = 0; i < n; ++i) {
        if (what == SYNC)
            shmem::sync(shmem::block);
        else if (what == BARRIER)
            shmem::barrier(shmem::block);
        else if (what == BROADCAST)
            shmem::broadcast(shmem::block, shmem::world, dst, src, nelems, 0);
        else if (what == FCOLLECT)
            shmem::fcollect(shmem::block, shmem::world, dst, src, nelems);
        else if (what == ALLTOALL)
            shmem::alltoall(shmem::block, shmem::world, dst, src, nelems);
        else
            shmem::reduce(shmem::block, shmem::world, shmem::sum, dst, src, nelems);
    }
}

struct bench {
    gpu_scene &job;
    u64 round = 1;
    bool ok = true;

    /* Median of 7 runs, us on PE 0's stream, after 2 that do not count. */
    template <class Start> double time(Start start)
    {
        std::vector<float> us;
        CUDA(cudaSetDevice(0));
        cudaEvent_t a, b;
        CUDA(cudaEventCreate(&a));
        CUDA(cudaEventCreate(&b));
        for (int r = 0; r < 9; ++r) {
            ok = job.run([&](int g) {
                if (g == 0)
                    CUDA(cudaEventRecord(a, job.streams[0]));
                start(g);
                if (g == 0)
                    CUDA(cudaEventRecord(b, job.streams[0]));
            }) && ok;
            float ms;
            CUDA(cudaEventElapsedTime(&ms, a, b));
            if (r >= 2)
                us.push_back(ms * 1e3f);
        }
        CUDA(cudaEventDestroy(a));
        CUDA(cudaEventDestroy(b));
        std::sort(us.begin(), us.end());
        return us[us.size() / 2];
    }
    void say(const std::string &op, size_t bytes, int blocks, int threads, const char *unit, double value)
    {
        std::printf("{\"peer\": \"libshmem\", \"npes\": %d, \"op\": \"%s\", \"bytes\": %zu, \"blocks\": %d, "
                    "\"threads\": %d, \"%s\": %.3f}\n",
                    job.n, op.c_str(), bytes, blocks, threads, unit, value);
        std::fflush(stdout);
    }
    /* go(g, peer, leads, first): PEs 0 and 1 play n rounds; prints half a round trip. */
    template <class Go> void pingpong(const std::string &op, size_t bytes, int threads, int n, Go go)
    {
        double us = 0;
        u64 rounds = round;
        us = time([&](int g) {
            if (g < 2)
                go(g, 1 - g, g == 0, rounds, n);
            if (g == job.n - 1)
                rounds += n;
        });
        round = rounds;
        say(op, bytes, 1, threads, "us", us / n / 2);
    }
    void latencies()
    {
        pingpong("p_latency", 8, 1, 2000, [&](int g, int peer, bool leads, u64 first, int n) {
            k_p<<<1, 1, 0, job.streams[g]>>>(job.at<long long>(g, signals), n, first, peer, leads);
        });
        for (int threads : {1024, 256})
            for (size_t bytes : {8ul, 1024ul, 14336ul, 65536ul, 1048576ul}) {
                pingpong("put_signal_latency", bytes, threads, 300,
                         [&](int g, int peer, bool leads, u64 first, int n) {
                             k_put_signal<<<1, threads, 0, job.streams[g]>>>(
                                 job.at<unsigned char>(g, targets), job.at<unsigned char>(g, sources), bytes,
                                 job.at<u64>(g, signals + 64), n, first, peer, leads, 0);
                         });
                if (bytes >= 14336)
                    pingpong("put_signal_latency_staged", bytes, threads, 300,
                             [&](int g, int peer, bool leads, u64 first, int n) {
                                 k_put_signal<<<1, threads, 65536 + 128, job.streams[g]>>>(
                                     job.at<unsigned char>(g, targets), job.at<unsigned char>(g, sources),
                                     bytes, job.at<u64>(g, signals + 64), n, first, peer, leads, 65536 + 128);
                             });
                pingpong("fence_each_latency", bytes, threads, 300,
                         [&](int g, int peer, bool leads, u64 first, int n) {
                             k_fence_each<<<1, threads, 0, job.streams[g]>>>(
                                 job.at<unsigned char>(g, targets), job.at<unsigned char>(g, sources), bytes,
                                 job.at<u64>(g, signals + 64), n, first, peer, leads);
                         });
            }
        for (bool lines : {true, false}) {
            job.set_flags(lines ? SHMEMX_DEVICE_LINES128 : 0);
            for (int threads : {1024, 512, 128})
                for (size_t bytes : {8ul, 120ul, 960ul, 14400ul, 65520ul})
                    pingpong(lines ? "packets_latency" : "pair_packets_latency", bytes, threads, 300,
                             [&](int g, int peer, bool leads, u64 first, int n) {
                                 k_packets<<<1, threads, 0, job.streams[g]>>>(
                                     job.at<unsigned char>(g, boxes + (lines ? 0 : 4) * box_bytes),
                                     job.at<unsigned char>(g, targets), job.at<unsigned char>(g, sources),
                                     bytes, n, first, peer, leads);
                             });
        }
        job.set_flags(SHMEMX_DEVICE_LINES128);
        const int n = 2000;
        double us = time([&](int g) {
            if (g == 0)
                k_fetch_add<<<1, 1, 0, job.streams[g]>>>(job.at<u64>(g, signals + 128), 1, n,
                                                         job.at<u64>(g, scratch));
        });
        say("fetch_add_latency", 8, 1, 1, "us", us / n);
    }
    void bandwidths()
    {
        const unsigned stages[] = {0, 2 * 32768 + 128, 4 * 32768 + 128, 6 * 32768 + 128};
        for (bool get : {false, true})
            for (unsigned stage : stages)
                for (int threads : {1024, 128})
                    for (int blocks : {1, 2, 4, 8, 16, 32, 64, 132}) {
                        if (stage == 0 ? threads == 128 : blocks > 64)
                            continue;
                        const size_t bytes = blocks < 4 ? data_bytes / 8 : data_bytes;
                        double us = time([&](int g) {
                            k_bandwidth<<<blocks, threads, stage, job.streams[g]>>>(
                                job.at<unsigned char>(g, targets), job.at<unsigned char>(g, sources), bytes,
                                (g + 1) % job.n, get, stage);
                        });
                        std::string op = get ? "get_bw_all_pes" : "put_bw_all_pes";
                        say(stage == 0 ? op + "_plain" : op + "_stage" + std::to_string(stage / 1024), bytes,
                            blocks, threads, "GBps", bytes / us / 1e3);
                    }
    }
    void collectives()
    {
        const char *names[] = {"sync_in_kernel",     "barrier_in_kernel",  "broadcast_in_kernel",
                               "fcollect_in_kernel", "alltoall_in_kernel", "reduce_in_kernel"};
        for (int threads : {32, 1024})
            for (int what = SYNC; what <= REDUCE; ++what)
                for (size_t bytes :
                     {8ul, 4096ul, 65536ul, 1048576ul}) { // in all, as NVSHMEM's benchmark counts
                    if ((what <= BARRIER && bytes != 8) || (threads == 32 && bytes > 4096))
                        continue;
                    const int n = bytes > 65536 ? 50 : 500;
                    size_t nelems = bytes / 4;
                    if (what == FCOLLECT || what == ALLTOALL)
                        nelems = nelems / job.n != 0 ? nelems / job.n : 1;
                    double us = time([&](int g) {
                        k_together<<<1, threads, 0, job.streams[g]>>>(static_cast<call>(what),
                                                                      job.at<float>(g, targets),
                                                                      job.at<float>(g, sources), nelems, n);
                    });
                    say(names[what], what <= BARRIER ? 0 : bytes, 1, threads, "us", us / n);
                }
    }
};

static bool check(gpu_scene &job)
{
    const unsigned stage = 65536 + 128;
    std::vector<u64 *> wrong(job.n);
    for (int g = 0; g < job.n; ++g) {
        CUDA(cudaSetDevice(g));
        CUDA(cudaMalloc(&wrong[g], 16));
    }
    bool good = true;
    auto expect_none = [&](const char *name, auto start) {
        for (int g = 0; g < job.n; ++g) {
            CUDA(cudaSetDevice(g));
            CUDA(cudaMemset(wrong[g], 0, 16));
            CUDA(cudaDeviceSynchronize());
        }
        bool ok = job.run(start);
        for (int g = 0; g < job.n; ++g) {
            u64 count[2];
            CUDA(cudaSetDevice(g));
            CUDA(cudaMemcpy(count, wrong[g], 16, cudaMemcpyDeviceToHost));
            if (count[0] != 0)
                std::printf("PE %d: %s: %llu wrong, first %llu\n", g, name, count[0], count[1]);
            ok = ok && count[0] == 0;
        }
        std::printf("{\"check\": \"%s\", \"npes\": %d, \"ok\": %s}\n", name, job.n, ok ? "true" : "false");
        std::fflush(stdout);
        good = good && ok;
    };
    const char *scopes[] = {"thread", "warp", "block", "stage"};
    for (int s = 0; s < 3; ++s)
        expect_none((std::string("sync ") + scopes[s]).c_str(), [&](int g) {
            k_check_sync<<<1, s == 0 ? 1 : s == 1 ? 32 : 256, 0, job.streams[g]>>>(wrong[g], s);
        });
    expect_none("moves", [&](int g) { k_check_moves<<<1, 256, stage, job.streams[g]>>>(wrong[g], stage); });
    expect_none("atomics", [&](int g) { k_check_atomics<<<1, 256, 0, job.streams[g]>>>(wrong[g]); });
    for (bool lines : {true, false}) {
        const char *form = lines ? " lines" : " pairs";
        job.set_flags(lines ? SHMEMX_DEVICE_LINES128 : 0);
        for (int g = 0; g < job.n; ++g) { // slots and boxes hold the other form's rounds
            CUDA(cudaSetDevice(g));
            CUDA(cudaMemset(job.base + g * job.stride + 4096, 0, 1 << 19));
            CUDA(cudaMemset(job.at<char>(g, boxes), 0, 16 * box_bytes));
            CUDA(cudaDeviceSynchronize());
        }
        for (int s = 1; s < 4; ++s)
            expect_none((std::string("collectives ") + scopes[s] + form).c_str(), [&](int g) {
                k_check_together<<<1, s == 1 ? 32 : 512, stage, job.streams[g]>>>(wrong[g], s, stage);
            });
        for (int threads : {32, 256, 1024})
            expect_none((std::string("packets") + form + " " + std::to_string(threads)).c_str(), [&](int g) {
                k_check_packets<<<16, threads, 0, job.streams[g]>>>(wrong[g], 2000, threads * 100000ull);
            });
    }
    for (int g = 0; g < job.n; ++g) {
        CUDA(cudaSetDevice(g));
        CUDA(cudaMemset(job.base + g * job.stride + 4096, 0, 1 << 19));
        CUDA(cudaMemset(job.at<char>(g, boxes), 0, 16 * box_bytes));
        CUDA(cudaMemset(job.at<char>(g, signals), 0, 4096));
        CUDA(cudaDeviceSynchronize());
    }
    job.set_flags(SHMEMX_DEVICE_LINES128);
    return good;
}

int main(int argc, char **argv)
{
    const int n = argc > 1 && argv[1][0] != '-' ? std::atoi(argv[1]) : 2;
    const std::string mode = argc > 1 && argv[argc - 1][0] == '-' ? argv[argc - 1] : "";
    setenv("CUDA_MODULE_LOADING", "EAGER", 1); // a kernel must not be loaded while another GPU's waits for it
    int have = 0;
    CUDA(cudaGetDeviceCount(&have));
    if (n < 1 || n > have) {
        std::fprintf(stderr, "%d GPUs asked for, %d here\n", n, have);
        return 2;
    }
    gpu_scene job(n, scratch + (4 << 20), SHMEMX_DEVICE_LINES128);
    for (int g = 0; g < n; ++g) {
        CUDA(cudaSetDevice(g));
        CUDA(cudaFuncSetAttribute(k_bandwidth, cudaFuncAttributeMaxDynamicSharedMemorySize, 200 << 10));
        CUDA(cudaFuncSetAttribute(k_put_signal, cudaFuncAttributeMaxDynamicSharedMemorySize, 100 << 10));
        CUDA(cudaFuncSetAttribute(k_check_moves, cudaFuncAttributeMaxDynamicSharedMemorySize, 100 << 10));
        CUDA(cudaFuncSetAttribute(k_check_together, cudaFuncAttributeMaxDynamicSharedMemorySize, 100 << 10));
    }
    bool ok = mode == "--bench" || check(job);
    if (mode != "--check") {
        bench b{job};
        if (n > 1)
            b.latencies();
        b.bandwidths();
        b.collectives();
        ok = ok && b.ok;
    }
    return ok ? 0 : 1;
}
