// The device API on 2 or more GPUs of one host: checks every operation; JSON lines. (`pyshmem bench --device cuda`
// measures.)
//   nvcc -std=c++17 -O3 -arch=sm_90 -Ilibshmem/include tests/device/gpu_check.cu -o gpu_check -ldl
//   ./gpu_check [GPUs = 2]                           every operation, in every scope
//   ./gpu_check [GPUs = 2] --stress [LINES = 1.2e9]  do lines of 128 bytes arrive whole? (no NVLink multicast)
// Exit status 1 if a check failed or a line was torn.
#include "gpu_scene.h"

#include <algorithm>
#include <string>

using u64 = unsigned long long;

constexpr int max_threads = 1024;
constexpr size_t box_bytes = 1 << 18, data_bytes = 8 << 20;
// offsets in the part for tests: signals, packet boxes, then source and target, then the stress's messages
constexpr size_t signals = 0, boxes = 1 << 16, sources = 8 << 20, targets = sources + data_bytes,
                 scratch = targets + data_bytes, stress = scratch + (4 << 20);

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
        for (int exclusive = 0; exclusive < 2; ++exclusive) {
            expect(exclusive ? shmem::sum_exscan(s, shmem::world, y, x, count) : shmem::sum_inscan(s, shmem::world, y, x, count),
                   wrong, 607);
            for (size_t i = lane; i < count; i += width) {
                float want = exclusive && me == 0 ? 0 : 1.0f / (1 + i % 97);
                for (int j = 1; j < me + 1 - exclusive; ++j)
                    want += 1.0f / (1 + i % 97 + j);
                expect(y[i] == want, wrong, 660 + what);
            }
            shmem::sync(s);
        }
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

// ---- stress: neighbours exchange messages of whole lines, and every word of what arrives is looked at

constexpr int most_blocks = 128, lines = 546; // 65,520 bytes of data: 15 words a line beside the round
constexpr size_t words = 15 * lines, message = words * 8, room = 1 << 17;
// a block's memory: a box for each neighbour and parity, then what it sends and what it received
constexpr size_t block_bytes = 4 * room + 2 * (message + 16);

/* Differs in every word from what the box held before, two rounds ago, and between senders and ways. */
__device__ u64 stress_word(u64 round, size_t i, int pe, int way)
{
    return (round * 0x9e3779b97f4a7c15ull) ^ ((i << 20) + blockIdx.x * 4 + pe * 1024ull + way + 1);
}
/* Each round a block sends a message to the next PE and one to the PE before, and receives theirs. A box is
 * free again two rounds later: who has sent round r + 1 has received round r. Counts torn lines; false after a
 * deadline. */
__global__ void __launch_bounds__(max_threads) k_stress(u64 *torn, u64 first, int rounds)
{
    const int me = shmem::my_pe(), n = shmem::n_pes();
    const int to[2] = {(me + 1) % n, (me + n - 1) % n};
    unsigned char *mem = mine(stress) + blockIdx.x * block_bytes;
    u64 *src = reinterpret_cast<u64 *>(mem + 4 * room), *dst = src + words + 2;
    for (u64 round = first; round < first + rounds; ++round) {
        unsigned char *box = mem + round % 2 * 2 * room;
        for (int way = 0; way < 2; ++way) {
            for (size_t i = threadIdx.x; i < words; i += blockDim.x)
                src[i] = stress_word(round, i, me, way);
            __syncthreads();
            shmem::put_packets(shmem::block, box + way * room, src, words, round, to[way]);
        }
        for (int way = 0; way < 2; ++way) { // what goes to the next comes from the one before
            if (!shmem::recv_packets(shmem::block, dst, box + way * room, words, round))
                return;
            __syncthreads();
            for (size_t line = threadIdx.x; line < lines; line += blockDim.x) {
                bool whole = true;
                for (size_t i = 15 * line; i < 15 * line + 15; ++i)
                    whole = whole && dst[i] == stress_word(round, i, to[1 - way], way);
                if (!whole)
                    atomicAdd(torn, 1ull);
            }
            __syncthreads();
        }
    }
}

/* `wanted` lines from each GPU to each neighbour, in equal parts by 1, 2, 4 .. 128 blocks. */
static bool run_stress(gpu_scene &job, u64 wanted)
{
    std::vector<u64 *> torn(job.n);
    for (int g = 0; g < job.n; ++g) {
        CUDA(cudaSetDevice(g));
        CUDA(cudaMalloc(&torn[g], 8));
        CUDA(cudaMemset(torn[g], 0, 8));
        CUDA(cudaDeviceSynchronize());
    }
    const u64 ways = job.n > 2 ? 1 : 2; // 2 GPUs are each other's neighbour on both sides
    u64 round = 1, sent = 0;
    bool ok = true;
    for (int blocks = 1; blocks <= most_blocks && ok; blocks *= 2) {
        const u64 part = (wanted + 7) / 8, a_round = static_cast<u64>(blocks) * lines * ways;
        for (u64 left = (part + a_round - 1) / a_round; left > 0 && ok;) {
            const int rounds = static_cast<int>(std::min<u64>(left, 5000)); // some 0.1 s a launch
            ok = job.run(
                [&](int g) { k_stress<<<blocks, max_threads, 0, job.streams[g]>>>(torn[g], round, rounds); });
            round += rounds;
            left -= rounds;
            sent += rounds * a_round;
        }
    }
    u64 all = 0;
    for (int g = 0; g < job.n; ++g) {
        u64 count;
        CUDA(cudaSetDevice(g));
        CUDA(cudaMemcpy(&count, torn[g], 8, cudaMemcpyDeviceToHost));
        all += count;
    }
    std::printf(
        "{\"stress\": \"lines of 128 bytes\", \"npes\": %d, \"lines_each_way\": %llu, \"lines\": %llu, "
        "\"torn\": %llu, \"ok\": %s}\n",
        job.n, sent, sent * job.n * (job.n > 2 ? 2 : 1), all, ok && all == 0 ? "true" : "false");
    return ok && all == 0;
}

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
    int n = 2;
    u64 wanted = 0;
    for (int i = 1; i < argc; ++i) {
        if (std::strcmp(argv[i], "--stress") == 0)
            wanted = i + 1 < argc ? static_cast<u64>(std::atof(argv[++i])) : 1'200'000'000;
        else if (std::strcmp(argv[i], "--check") != 0)
            n = std::atoi(argv[i]);
    }
    setenv("CUDA_MODULE_LOADING", "EAGER", 1); // a kernel must not be loaded while another GPU's waits for it
    int have = 0;
    CUDA(cudaGetDeviceCount(&have));
    if (n < 1 || n > have) {
        std::fprintf(stderr, "%d GPUs asked for, %d here\n", n, have);
        return 2;
    }
    gpu_scene job(n, stress + most_blocks * block_bytes, SHMEMX_DEVICE_LINES128);
    if (wanted != 0)
        return run_stress(job, wanted) ? 0 : 1;
    for (int g = 0; g < n; ++g) {
        CUDA(cudaSetDevice(g));
        CUDA(cudaFuncSetAttribute(k_check_moves, cudaFuncAttributeMaxDynamicSharedMemorySize, 100 << 10));
        CUDA(cudaFuncSetAttribute(k_check_together, cudaFuncAttributeMaxDynamicSharedMemorySize, 100 << 10));
    }
    return check(job) ? 0 : 1;
}
