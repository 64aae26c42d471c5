// Kernels on GPUs that reach each other through a NIC alone, a real one or the software NIC: every operation from many
// threads, and what posting costs. One line a figure. Links libshmem; two PEs or more, one GPU each (or one for all).
//   nvcc -std=c++17 -O3 -arch=sm_90 -Ilibshmem/include -Ibuild/c/libshmem/include tests/device/gpu_nic.cu -o gpu_nic
//        -Lbuild/c/libshmem -lshmem -Xlinker -rpath=build/c/libshmem
//   SHMEM_NODE_ID=/1 SHMEM_GPU_NIC=ibgda SHMEM_IBVERBS_LIB=build/c/libshmem/libshmem_sim.so SHMEM_TIMEOUT=30
//        build/c/tests/c/launch -n 2 ./gpu_nic [check|time|rate]
// (each one line). Exit status 1 if a check failed.
__device__ unsigned long long marks[4];
#define SHMEMX_IBGDA_MARK(what) marks[what] = clock64()

#include <shmem_device.h> // before shmemx_stream.h, whose function has the name of a struct here

#include <cuda.h>
#include <cuda_runtime.h>
#include <shmem.h>
#include <shmemx.h>
#include <shmemx_stream.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <thread>
#include <vector>

using u64 = unsigned long long;
using shmem::detail::ibgda;

#define CUDA(call)                                                                                           \
    do {                                                                                                     \
        cudaError_t code = (call);                                                                           \
        if (code != cudaSuccess) {                                                                           \
            std::fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(code));    \
            std::exit(1);                                                                                    \
        }                                                                                                    \
    } while (0)

// The heap's part for tests, in bytes.
constexpr size_t part = 48 << 20, words_at = 0, counters_at = 1 << 20, sources_at = 4 << 20,
                 targets_at = 20 << 20, backs_at = 36 << 20;

struct verdict { // of one PE's kernels
    u64 wrong, first, checks;
};

__device__ void expect(bool ok, verdict *v, u64 what)
{
    atomicAdd(&v->checks, 1ull);
    if (!ok && atomicAdd(&v->wrong, 1ull) == 0)
        v->first = what;
}
__device__ unsigned char pattern(size_t i, unsigned salt, int pe)
{
    return static_cast<unsigned char>(i * 131 + (i >> 8) * 7 + salt * 29 + pe * 59 + 1);
}

// ---- checks

/* Every thread its own word: p, g, put, get; blocks and warps larger ones, from the heap and from shared memory. */
__global__ void check_moves(unsigned char *heap, verdict *v)
{
    const int me = shmem::my_pe(), n = shmem::n_pes(), next = (me + 1) % n, before = (me + n - 1) % n;
    const unsigned id = blockIdx.x * blockDim.x + threadIdx.x;
    u64 *words = reinterpret_cast<u64 *>(heap + words_at);
    for (u64 round = 1; round <= 20; ++round) {
        shmem::p(words + id, round << 32 | id, next);
        expect(shmem::quiet(shmem::block), v, 100);
        expect(shmem::g(words + id, next) == (round << 32 | id), v, 101);
        const u64 mine = ~round;
        shmem::put(shmem::thread, words + 65536 + id, &mine, 1, next);
        shmem::quiet(shmem::thread);
        u64 back = 0;
        shmem::get(shmem::thread, &back, words + 65536 + id, 1, next);
        expect(back == mine, v, 102);
    }
    (void)before;
    __shared__ unsigned char local[512];
    for (unsigned i = threadIdx.x; i < sizeof local; i += blockDim.x)
        local[i] = pattern(i, 7, me + static_cast<int>(blockIdx.x));
    __syncthreads();
    const size_t slice = 1 << 19, base = slice * blockIdx.x; // 32 blocks at most
    for (size_t bytes : {1, 28, 29, 220, 4096, 70001, 500000}) {
        unsigned char *src = heap + sources_at + base, *dst = heap + targets_at + base,
                      *back = heap + backs_at + base % (8 << 20);
        if (base >= (8 << 20) && bytes > 4096)
            break; // `back` is shared by two blocks then
        for (size_t i = threadIdx.x; i < bytes; i += blockDim.x)
            src[i] = pattern(i, static_cast<unsigned>(bytes), me);
        __syncthreads();
        shmem::put(shmem::block, dst, src, bytes, next);
        expect(shmem::quiet(shmem::block), v, 103);
        if (base >= (8 << 20))
            continue;
        shmem::get(shmem::block, back, dst, bytes, next);
        size_t wrong = 0;
        for (size_t i = threadIdx.x; i < bytes; i += blockDim.x)
            wrong += back[i] != pattern(i, static_cast<unsigned>(bytes), me);
        expect(wrong == 0, v, 104000 + bytes);
        __syncthreads();
    }
    shmem::put(shmem::block, heap + targets_at + base + 1, local, sizeof local, next);
    expect(shmem::quiet(shmem::block), v, 105);
    __syncthreads();
    for (unsigned i = threadIdx.x; i < sizeof local; i += blockDim.x)
        local[i] = 0;
    __syncthreads();
    shmem::get(shmem::block, local, heap + targets_at + base + 1, sizeof local, next);
    size_t wrong = 0;
    for (unsigned i = threadIdx.x; i < sizeof local; i += blockDim.x)
        wrong += local[i] != pattern(i, 7, me + static_cast<int>(blockIdx.x));
    expect(wrong == 0, v, 106);
}

/* All operations by one thread, then sums of all PEs' threads at once. */
template <class T> __device__ void check_each_atomic(T *word, int pe, verdict *v)
{
    for (T value : {T(0), T(1), T(~T(0)), T(T(1) << (sizeof(T) * 8 - 1)), T(0x1234567)}) {
        const T start = T(0xfedcba9876543210ull);
        shmem::atomic_set(word, start, pe);
        expect(shmem::atomic_fetch_add(word, value, pe) == start, v, 200);
        expect(shmem::atomic_fetch_and(word, T(value | 0xff), pe) == T(start + value), v, 201);
        T now = T((start + value) & (value | 0xff));
        expect(shmem::atomic_fetch_or(word, value, pe) == now, v, 202);
        now |= value;
        expect(shmem::atomic_fetch_xor(word, T(0x5555), pe) == now, v, 203);
        now ^= T(0x5555);
        expect(shmem::atomic_compare_swap(word, T(now + 1), T(9), pe) == now, v, 204);
        expect(shmem::atomic_compare_swap(word, now, T(77), pe) == now, v, 205);
        expect(shmem::atomic_swap(word, value, pe) == T(77), v, 206);
        expect(shmem::atomic_fetch(word, pe) == value, v, 207);
        shmem::atomic_add(word, T(3), pe);
        shmem::atomic_inc(word, pe);
        shmem::atomic_or(word, T(0x80), pe);
        shmem::atomic_and(word, T(0xfff), pe);
        shmem::atomic_xor(word, T(0x3), pe);
        shmem::quiet(shmem::thread);
        expect(shmem::g(word, pe) == T((((value + 4) | 0x80) & 0xfff) ^ 3), v, 208);
    }
}
__global__ void check_atomics(unsigned char *heap, verdict *v, unsigned rounds)
{
    const int next = (shmem::my_pe() + 1) % shmem::n_pes();
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        check_each_atomic(reinterpret_cast<u64 *>(heap + counters_at + 4096), next, v);
        check_each_atomic(reinterpret_cast<unsigned *>(heap + counters_at + 8192), next, v);
    }
    auto *sums = reinterpret_cast<u64 *>(heap + counters_at);
    auto *small = reinterpret_cast<unsigned *>(sums + 1);
    u64 last = 0;
    for (unsigned i = 0; i < rounds; ++i) {
        const u64 old = shmem::atomic_fetch_add(sums, 1, next);
        expect(i == 0 || old > last, v, 209); // one thread's additions are in order
        last = old;
        shmem::atomic_add(small, 1u, next);
        shmem::atomic_xor(sums + 2, 1ull << threadIdx.x % 64, next);
    }
    expect(shmem::quiet(shmem::block), v, 210);
}

/* Rounds of data and signal between neighbours, a block each; the signal is seen after the data. */
__global__ void check_signals(unsigned char *heap, verdict *v, unsigned rounds)
{
    const int me = shmem::my_pe(), n = shmem::n_pes(), next = (me + 1) % n, before = (me + n - 1) % n;
    const size_t base = (256 << 10) * static_cast<size_t>(blockIdx.x);
    auto *sig = reinterpret_cast<u64 *>(heap + counters_at + 65536) + blockIdx.x * 2;
    unsigned char *src = heap + sources_at + base, *dst = heap + targets_at + base;
    for (u64 round = 1; round <= rounds; ++round) {
        const size_t bytes = round % 3 == 0 ? 16 : round % 3 == 1 ? 1000 : 200000;
        for (size_t i = threadIdx.x; i < bytes; i += blockDim.x)
            src[i] = pattern(i, static_cast<unsigned>(round), me);
        __syncthreads();
        shmem::put_signal(shmem::block, dst, src, bytes, sig, 1, shmem::signal_add, next);
        expect(shmem::signal_wait_until(shmem::block, sig, shmem::ge, round), v, 300);
        size_t wrong = 0;
        for (size_t i = threadIdx.x; i < bytes; i += blockDim.x)
            wrong += reinterpret_cast<volatile unsigned char *>(dst)[i] !=
                     pattern(i, static_cast<unsigned>(round), before);
        expect(wrong == 0, v, 301);
        __syncthreads();
        if (threadIdx.x == 0)
            shmem::signal_op(sig + 1, round, shmem::signal_set, before); // it may write again
        expect(shmem::signal_wait_until(shmem::block, sig + 1, shmem::ge, round), v, 302);
    }
}

/* The same with blocks that leave no room for a kernel beside them: what they wait for is bytes and signals that are set. */
__global__ void check_full(unsigned char *heap, verdict *v, unsigned rounds)
{
    const int me = shmem::my_pe(), n = shmem::n_pes(), next = (me + 1) % n, before = (me + n - 1) % n;
    auto *sig = reinterpret_cast<u64 *>(heap + counters_at + 131072) + blockIdx.x * 2;
    auto *src = reinterpret_cast<u64 *>(heap + sources_at) + blockIdx.x,
         *dst = src + (targets_at - sources_at) / sizeof *src;
    for (u64 round = 1; round <= rounds && threadIdx.x == 0; ++round) {
        *src = round << 32 | blockIdx.x << 8 | static_cast<unsigned>(me);
        shmem::put_signal(shmem::thread, dst, src, sizeof *src, sig, round, shmem::signal_set, next);
        expect(shmem::signal_wait_until(shmem::thread, sig, shmem::ge, round), v, 350);
        expect(*reinterpret_cast<volatile u64 *>(dst) ==
                   (round << 32 | blockIdx.x << 8 | static_cast<unsigned>(before)),
               v, 351);
        shmem::atomic_set(sig + 1, round, before); // it may write again
        expect(shmem::signal_wait_until(shmem::thread, sig + 1, shmem::ge, round), v, 352);
    }
}

__global__ void check_collectives(unsigned char *heap, verdict *v)
{
    const int me = shmem::my_pe(), n = shmem::n_pes();
    auto *src = reinterpret_cast<int *>(heap + sources_at), *dst = reinterpret_cast<int *>(heap + targets_at);
    for (size_t count : {1, 31, 1000, 100000}) {
        for (int root = 0; root < n; ++root) {
            for (size_t i = threadIdx.x; i < count * n; i += blockDim.x)
                src[i] = static_cast<int>(i) * 3 + me * 1000 + root, dst[i] = -1;
            expect(shmem::barrier(shmem::block), v, 400);
            expect(shmem::broadcast(shmem::block, shmem::world, dst, src, count, root), v, 401);
            for (size_t i = threadIdx.x; i < count; i += blockDim.x)
                expect(dst[i] == static_cast<int>(i) * 3 + root * 1000 + root, v, 402);
            expect(shmem::barrier(shmem::block), v, 403);
        }
        expect(shmem::fcollect(shmem::block, shmem::world, dst, src, count), v, 404);
        for (size_t i = threadIdx.x; i < count * n; i += blockDim.x)
            expect(dst[i] == static_cast<int>(i % count) * 3 + static_cast<int>(i / count) * 1000 + n - 1, v,
                   405);
        expect(shmem::barrier(shmem::block), v, 406);
        expect(shmem::alltoall(shmem::block, shmem::world, dst, src, count), v, 407);
        for (size_t i = threadIdx.x; i < count * n; i += blockDim.x)
            expect(dst[i] == static_cast<int>(i % count + me * count) * 3 +
                                 static_cast<int>(i / count) * 1000 + n - 1,
                   v, 408);
        expect(shmem::barrier(shmem::block), v, 409);
        expect(shmem::reduce(shmem::block, shmem::world, shmem::sum, dst, src, count), v, 410);
        for (size_t i = threadIdx.x; i < count; i += blockDim.x)
            expect(dst[i] == n * (static_cast<int>(i) * 3 + n - 1) + 1000 * n * (n - 1) / 2, v, 411);
        expect(shmem::barrier(shmem::block), v, 412);
        expect(shmem::sync(shmem::block), v, 413);
    }
}

// ---- timings, by PE 0 to PE 1

constexpr unsigned pieces = 14; // as many as one WQE takes
enum post_kind { POST_NOP, POST_ONE, POST_WARP, POST_SINGLY, POST_GATHER };
const char *const post_names[] = {"a NOP", "one thread's put of 8 bytes", "a warp's 32 puts of 8 bytes",
                                  "one thread's 14 puts of 8 bytes",
                                  "one thread's gather of 14 pieces of 8 bytes"};
/* cycles: [0] to the doorbell, [1] to the register's store, [2] to the return; from the register's store [3] to quiet's
 * return, [4] to the last look, [5] to the entry */
constexpr unsigned post_columns = 6;
/* A kernel for each: none pays for what others need. */
template <post_kind kind> __global__ void time_post(u64 offset, const u64 *src, u64 *cycles, unsigned rounds)
{
    __shared__ shmem::gather_piece list[pieces];
    if (threadIdx.x == 0)
        for (unsigned k = 0; k < pieces; ++k)
            list[k] = {src + k, 8};
    __syncwarp();
    for (unsigned i = 0; i < rounds; ++i) {
        ibgda::qp &q = ibgda::mine(1);
        __syncwarp();
        const u64 start = clock64();
        if constexpr (kind == POST_WARP)
            ibgda::put_each(shmem::warp, q, offset + 8 * threadIdx.x, src + threadIdx.x, 8);
        else if constexpr (kind == POST_ONE)
            ibgda::put(shmem::thread, 1, offset, src, 8);
        else if constexpr (kind == POST_SINGLY)
            for (unsigned k = 0; k < pieces; ++k)
                ibgda::put(shmem::thread, 1, offset + 8 * k, src + k, 8);
        else if constexpr (kind == POST_GATHER)
            ibgda::gather_on(q, offset, list, pieces);
        else
            ibgda::nop(q);
        const u64 posted = clock64();
        (void)ibgda::settle_qp(q);
        const u64 end = clock64();
        if (threadIdx.x == 0) {
            const volatile u64 *mark = marks;
            u64 *row = cycles + i * post_columns;
            row[0] = mark[0] - start;
            row[1] = mark[1] - start;
            row[2] = posted - start;
            row[3] = end - mark[1];
            row[4] = mark[2] - mark[1];
            row[5] = mark[3] - mark[1];
        }
        __syncwarp();
    }
}
/* The same as a user calls it, with any path: a put of 8 bytes, and a put with quiet. */
__global__ void time_api(u64 *dst, const u64 *src, u64 *cycles, unsigned rounds, bool immediate)
{
    for (unsigned i = 0; i < rounds; ++i) {
        const u64 start = clock64();
        if (immediate)
            shmem::p(dst, static_cast<u64>(i), 1);
        else
            shmem::put_nbi(shmem::thread, dst, src, 1, 1);
        const u64 posted = clock64();
        (void)shmem::quiet(shmem::thread);
        cycles[i * 2] = posted - start;
        cycles[i * 2 + 1] = clock64() - start;
    }
}
__global__ void time_ping(u64 *to_cpu, const u64 *from_cpu, u64 *cycles, unsigned rounds)
{
    for (u64 i = 1; i <= rounds; ++i) {
        const u64 start = clock64();
        shmem::arch::store_relaxed(to_cpu, i);
        while (shmem::arch::load_relaxed(from_cpu) != i)
            ;
        cycles[i - 1] = clock64() - start;
    }
}

__global__ void time_messages(unsigned char *dst, const unsigned char *src, u64 bytes, int n)
{
    const u64 at = (static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x) * bytes;
    for (int i = 0; i < n; ++i)
        shmem::put_nbi(shmem::thread, dst + at, src + at, bytes, 1);
    (void)shmem::quiet(shmem::block);
}

static double median(std::vector<u64> v)
{
    std::sort(v.begin(), v.end());
    return static_cast<double>(v[v.size() / 2]);
}
static std::vector<u64> column(const u64 *cycles, unsigned rounds, unsigned columns, unsigned which)
{
    std::vector<u64> all(static_cast<size_t>(rounds) * columns), v;
    CUDA(cudaMemcpy(all.data(), cycles, all.size() * sizeof(u64), cudaMemcpyDeviceToHost));
    for (unsigned i = rounds / 5; i < rounds; ++i) // the first ones warm up
        v.push_back(all[i * columns + which]);
    return v;
}
static void figure(const char *name, double value, const char *unit)
{
    std::printf("%-70s %9.3f %s\n", name, value, unit);
    std::fflush(stdout);
}

/* What a software NIC's thread does to write GPU memory, and see that it is there. */
static double time_driver_write(unsigned char *target, u64 *words)
{
    using batch = CUresult (*)(CUstream, unsigned, CUstreamBatchMemOpParams *, unsigned);
    void *entry = nullptr;
    cudaDriverEntryPointQueryResult found;
    cudaStream_t stream;
    std::vector<double> us;
    CUDA(cudaGetDriverEntryPointByVersion("cuStreamBatchMemOp", &entry, 12000, cudaEnableDefault, &found));
    CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    volatile u64 *flag = words + 128;
    for (u64 i = 1; i <= 500; ++i) {
        CUstreamBatchMemOpParams o[2] = {};
        for (auto &each : o) {
            each.operation = CU_STREAM_MEM_OP_WRITE_VALUE_64;
            each.writeValue.value64 = i;
        }
        o[0].writeValue.address = reinterpret_cast<CUdeviceptr>(target);
        o[1].writeValue.address = reinterpret_cast<CUdeviceptr>(words + 128);
        const auto start = std::chrono::steady_clock::now();
        if (reinterpret_cast<batch>(entry)(stream, 2, o, 0) != CUDA_SUCCESS)
            return 0;
        while (*flag != i)
            ;
        us.push_back(
            std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count());
    }
    CUDA(cudaStreamDestroy(stream));
    std::sort(us.begin(), us.end());
    return us[us.size() / 2];
}

static void time_all(unsigned char *heap, u64 offset, double ghz, bool posts)
{
    constexpr unsigned rounds = 2000;
    u64 *cycles, *words;
    CUDA(cudaMalloc(&cycles, rounds * post_columns * sizeof(u64)));
    CUDA(cudaMallocHost(&words, 4096));
    std::memset(words, 0, 4096);
    std::thread cpu([&] {
        for (u64 i = 1; i <= rounds; ++i) {
            while (__atomic_load_n(words, __ATOMIC_ACQUIRE) != i)
                ;
            __atomic_store_n(words + 64, i, __ATOMIC_RELEASE);
        }
    });
    time_ping<<<1, 1>>>(words, words + 64, cycles, rounds);
    CUDA(cudaDeviceSynchronize());
    cpu.join();
    const double ping = median(column(cycles, rounds, 1, 0)) / ghz / 1e3;
    figure("GPU to CPU to GPU, bare words in pinned memory", ping, "us");
    auto *src = reinterpret_cast<u64 *>(heap + sources_at);
    const double write = time_driver_write(heap + targets_at, words);
    figure("CPU to GPU memory, 8 bytes by the driver, until a flag says so", write, "us");
    if (posts) {
        double before[std::size(post_names)];
        const decltype(&time_post<POST_NOP>) kernels[] = {time_post<POST_NOP>, time_post<POST_ONE>,
                                                          time_post<POST_WARP>, time_post<POST_SINGLY>,
                                                          time_post<POST_GATHER>};
        for (post_kind kind : {POST_NOP, POST_ONE, POST_WARP, POST_SINGLY, POST_GATHER}) {
            kernels[kind]<<<1, kind == POST_WARP ? 32 : 1>>>(offset + targets_at, src, cycles, rounds);
            CUDA(cudaDeviceSynchronize());
            char name[100];
            double us[post_columns];
            for (unsigned k = 0; k < post_columns; ++k)
                us[k] = median(column(cycles, rounds, post_columns, k)) / ghz / 1e3;
            before[kind] = us[0];
            const char *until[] = {
                "before the doorbell",        "with fences and record",           "until it returns",
                "doorbell to quiet's return", "doorbell to the look that saw it", "doorbell to completion"};
            for (unsigned k = 0; k < post_columns; ++k) {
                std::snprintf(name, sizeof name, "ibgda, %s: %s", post_names[kind], until[k]);
                figure(name, us[k], "us");
            }
            if (kind == POST_NOP || kind == POST_ONE) {
                std::snprintf(name, sizeof name, "ibgda, %s: doorbell to completion against the bare words",
                              post_names[kind]);
                figure(name, us[5] / ping, "times");
            }
            if (kind == POST_ONE)
                figure("ibgda, the same against the bare words and the driver's write",
                       us[5] / (ping + write), "times");
        }
        figure("ibgda, a warp's 32 puts against one, before the doorbell",
               before[POST_WARP] / before[POST_ONE], "times");
        figure("ibgda, 14 pieces gathered against one by one, before the last doorbell",
               before[POST_GATHER] / before[POST_SINGLY], "times");
    }
    for (bool immediate : {false, true}) {
        time_api<<<1, 1>>>(reinterpret_cast<u64 *>(heap + targets_at), src, cycles, rounds, immediate);
        CUDA(cudaDeviceSynchronize());
        const char *call = immediate ? "shmem::p" : "shmem::put_nbi of 8 bytes";
        char name[100];
        std::snprintf(name, sizeof name, "%s, until it returns", call);
        figure(name, median(column(cycles, rounds, 2, 0)) / ghz / 1e3, "us");
        std::snprintf(name, sizeof name, "%s and quiet", call);
        figure(name, median(column(cycles, rounds, 2, 1)) / ghz / 1e3, "us");
    }
    CUDA(cudaFree(cycles));
    CUDA(cudaFreeHost(words));
}

/* Millions of messages a second, by so many blocks and threads, of 8 bytes and of more. */
static void time_rates(unsigned char *heap)
{
    struct {
        int blocks, threads, bytes;
    } shapes[] = {{1, 1, 8},     {1, 32, 8},  {1, 256, 8},  {8, 128, 8},   {32, 128, 8},
                  {128, 128, 8}, {8, 32, 64}, {8, 32, 512}, {8, 32, 4096}, {8, 32, 14336}};
    cudaEvent_t begin, end;
    CUDA(cudaEventCreate(&begin));
    CUDA(cudaEventCreate(&end));
    for (auto [blocks, threads, bytes] : shapes) {
        const int all = blocks * threads,
                  n = std::max((1 << 14) / all / (all == 1 ? 8 : 1) / (1 + bytes / 512), 1);
        float ms[4];
        for (float &t : ms) {
            CUDA(cudaEventRecord(begin));
            time_messages<<<blocks, threads>>>(heap + targets_at, heap + sources_at, bytes, n);
            CUDA(cudaEventRecord(end));
            CUDA(cudaDeviceSynchronize());
            CUDA(cudaEventElapsedTime(&t, begin, end));
        }
        std::sort(ms + 1, ms + 4); // the first one warms up
        char name[100];
        std::snprintf(name, sizeof name, "messages of %d bytes, %d blocks of %d threads", bytes, blocks,
                      threads);
        figure(name, n * all / ms[2] / 1e3, "M/s");
    }
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "all";
    int devices = 0, khz = 0;
    shmem_init();
    const int me = shmem_my_pe(), n = shmem_n_pes();
    CUDA(cudaGetDeviceCount(&devices));
    CUDA(cudaSetDevice(me % devices));
    CUDA(cudaFree(nullptr));
    CUDA(cudaDeviceGetAttribute(&khz, cudaDevAttrClockRate, me % devices));
    auto *heap = static_cast<unsigned char *>(shmemx_malloc(part, SHMEMX_MEM_DEVICE));
    struct shmemx_device_state state;
    if (heap == nullptr || shmemx_device_state(&state, sizeof state) != 0) {
        std::fprintf(stderr, "PE %d: %s\n", me, shmemx_last_error());
        return 1;
    }
    CUDA(cudaMemcpyToSymbol(shmem_device_state, &state, sizeof state));
    CUDA(cudaMemset(heap, 0, part));
    CUDA(cudaDeviceSynchronize());
    shmem_barrier_all();
    verdict *v, seen;
    CUDA(cudaMalloc(&v, sizeof *v));
    CUDA(cudaMemset(v, 0, sizeof *v));
    int failed = 0;
    if (std::strcmp(what, "check") == 0 || std::strcmp(what, "all") == 0) {
        constexpr unsigned blocks = 32, threads = 256, rounds = 10;
        int processors = 0, each = 0;
        CUDA(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, me % devices));
        CUDA(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, check_full, threads, 0));
        const char *names[] = {"moves", "atomics", "signals", "a full GPU", "collectives"};
        for (int k = 0; k < 5; ++k) {
            if (k == 0)
                check_moves<<<blocks, threads>>>(heap, v);
            else if (k == 1)
                check_atomics<<<blocks, threads>>>(heap, v, rounds);
            else if (k == 2)
                check_signals<<<16, threads>>>(heap, v, 30);
            else if (k == 3)
                check_full<<<processors * each, threads>>>(heap, v, 10);
            else
                check_collectives<<<1, threads>>>(heap, v);
            CUDA(cudaDeviceSynchronize());
            shmem_barrier_all();
            CUDA(cudaMemcpy(&seen, v, sizeof seen, cudaMemcpyDeviceToHost));
            CUDA(cudaMemset(v, 0, sizeof *v));
            if (k == 1) {
                u64 sums[3];
                CUDA(cudaMemcpy(sums, heap + counters_at, sizeof sums, cudaMemcpyDeviceToHost));
                const u64 all = static_cast<u64>(blocks) * threads * rounds;
                seen.checks += 2;
                seen.wrong += sums[0] != all;
                seen.wrong += (sums[1] & 0xffffffff) != all;
            }
            const int error = shmemx_stream_check();
            failed |= seen.wrong != 0 || error != 0;
            std::printf("PE %d of %d: %-12s %llu checks, %llu failed, the first number %llu%s%s\n", me, n,
                        names[k], seen.checks, seen.wrong, seen.first, error != 0 ? ": " : "",
                        error != 0 ? shmemx_last_error() : "");
            std::fflush(stdout);
            shmem_barrier_all();
        }
    }
    if (std::strcmp(what, "check") != 0 && n > 1) {
        bool posts = false;
        if (state.nic != 0) {
            shmemx_device_nic nic;
            CUDA(cudaMemcpy(&nic, reinterpret_cast<void *>(state.nic), sizeof nic, cudaMemcpyDeviceToHost));
            posts = (nic.used & 1u << SHMEMX_NIC_IBGDA) != 0;
        }
        if (me == 0)
            std::strcmp(what, "rate") == 0
                ? time_rates(heap)
                : time_all(heap, reinterpret_cast<u64>(heap) - state.copy, khz / 1e6, posts);
        shmem_barrier_all();
    }
    CUDA(cudaFree(v));
    shmemx_free(heap);
    shmem_finalize();
    return failed;
}
