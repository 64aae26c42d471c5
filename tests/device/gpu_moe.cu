// Dispatch and combine of MoE, large batches, on 2 or more GPUs of one host, without the library's host side: rows bit by
// bit, sums against the tokens; JSON lines. compute-sanitizer can watch it.
//   nvcc -std=c++17 -O3 -arch=sm_90 -Ilibshmem/include -Ilibshmem/src/gpu tests/device/gpu_moe.cu -o gpu_moe -ldl
//   ./gpu_moe [GPUs = 2] [ROUNDS = 6]
// Exit status 1 if something was wrong.
#include "gpu_scene.h"

#include "moe_normal_combine.cuh"
#include "moe_normal_dispatch.cuh"
#include "moe_normal_shape.h"

#include <algorithm>
#include <cmath>
#include <random>

using u64 = unsigned long long;
using bf16 = unsigned short;

extern __shared__ __align__(128) unsigned char shared_memory[];

__global__ void __launch_bounds__(1024)
    k_layout(const __grid_constant__ shmemi_moen o, const __grid_constant__ shmemi_moen_layout a)
{
    shmem::moe::normal::layout(o, a, shared_memory);
}
__global__ void __launch_bounds__(512, 1)
    k_dispatch(const __grid_constant__ shmemi_moen o, const __grid_constant__ shmemi_moen_dispatch a)
{
    shmem::moe::normal::dispatch(o, a, shared_memory);
}
__global__ void __launch_bounds__(512, 1)
    k_combine(const __grid_constant__ shmemi_moen o, const __grid_constant__ shmemi_moen_combine a)
{
    shmem::moe::normal::combine(o, a, shared_memory);
}
// y = x * 2^up: exact, and zero stays zero.
__global__ void k_scale(bf16 *y, const bf16 *x, size_t n, unsigned up)
{
    for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < n; i += size_t(gridDim.x) * blockDim.x)
        y[i] = (x[i] & 0x7f80) != 0 ? x[i] + (up << 7) : x[i];
}

static float float_of(bf16 b)
{
    unsigned u = unsigned(b) << 16;
    float f;
    std::memcpy(&f, &u, 4);
    return f;
}
static bf16 bf16_of(float f) // finite; to the nearest, ties to even
{
    unsigned u;
    std::memcpy(&u, &f, 4);
    return bf16((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

struct sizes {
    unsigned hidden, tokens, experts, topk;
};
constexpr unsigned blocks = 24, warps = 16, combines = 3; // combines: launched in a row

// One shape on all GPUs. Tokens have 8 significant bits, so that BF16 sums can be told exactly.
struct batch {
    struct rank {
        shmemi_moen o = {};
        shmemi_moen_result result = {};
        std::vector<bf16> x;
        std::vector<long long> idx;
        std::vector<bool> goes; // [T][n]
        bf16 *dx, *y, *out;     // out: one behind the other for each combine
        long long *didx;
        unsigned char *routing;
    };
    gpu_scene &job;
    sizes s;
    int n;
    unsigned room = 0; // shared memory of a block
    std::vector<rank> ranks;

    static u64 lay_out(rank &r, sizes s, int n, u64 base)
    {
        r.o.hidden = s.hidden;
        r.o.experts = s.experts;
        r.o.topk = s.topk;
        r.o.max_tokens = s.tokens;
        r.o.capacity = n * s.tokens;
        r.o.most = (s.experts + n - 1) / n;
        r.o.each = r.o.sources = 1;
        const unsigned groups = shmemi_moen_groups(s.hidden, 128);
        u64 end = shmemi_moen_lay_out(&r.o, n, groups, base);
        return shmemi_moen_lay_out_result(&r.result, &r.o, n, groups, end);
    }
    int owner(unsigned e) const
    {
        const unsigned base = s.experts / n, extra = s.experts % n, wide = extra * (base + 1);
        return int(e < wide ? e / (base + 1) : extra + (e - wide) / base);
    }
    template <class T> static T *allocate(size_t count)
    {
        T *p;
        CUDA(cudaMalloc(&p, count * sizeof *p));
        return p;
    }

    batch(gpu_scene &job_, sizes s_) : job(job_), s(s_), n(job_.n), ranks(job_.n)
    {
        std::mt19937 random(5);
        for (int g = 0; g < n; ++g) {
            rank &r = ranks[g];
            CUDA(cudaSetDevice(g));
            const u64 begin = reinterpret_cast<u64>(job.at<char>(g, 0)), end = lay_out(r, s, n, begin);
            CUDA(cudaMemset(job.at<char>(g, 0), 0, end - begin));
            r.x.resize(size_t(s.tokens) * s.hidden);
            for (bf16 &v : r.x)
                v = bf16_of((float(random() & 0xff) - 128) / 64);
            r.goes.resize(size_t(s.tokens) * n);
            for (unsigned t = 0; t < s.tokens; ++t)
                for (unsigned k = 0; k < s.topk; ++k) {
                    const auto chosen = r.idx.end() - k;
                    long long e = random() % s.experts;
                    while (std::find(chosen, r.idx.end(), e) != r.idx.end())
                        e = random() % s.experts;
                    r.goes[size_t(t) * n + owner(unsigned(e))] = true;
                    r.idx.push_back(e);
                }
            r.dx = allocate<bf16>(r.x.size());
            r.y = allocate<bf16>(r.x.size() * n);
            r.out = allocate<bf16>(r.x.size() * combines);
            r.didx = allocate<long long>(r.idx.size());
            r.routing = allocate<unsigned char>(shmemi_moen_routing_size(&r.o, n, s.tokens));
            CUDA(cudaMemcpy(r.dx, r.x.data(), r.x.size() * 2, cudaMemcpyHostToDevice));
            CUDA(cudaMemcpy(r.didx, r.idx.data(), r.idx.size() * 8, cudaMemcpyHostToDevice));
            int most;
            CUDA(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, g));
            room = unsigned(most) - 1024; // what the kernels have of their own is less
            CUDA(cudaFuncSetAttribute(k_dispatch, cudaFuncAttributeMaxDynamicSharedMemorySize, int(room)));
            CUDA(cudaFuncSetAttribute(k_combine, cudaFuncAttributeMaxDynamicSharedMemorySize, int(room)));
            CUDA(cudaDeviceSynchronize());
        }
    }
    ~batch()
    {
        for (rank &r : ranks)
            for (void *p : {static_cast<void *>(r.dx), static_cast<void *>(r.y), static_cast<void *>(r.out),
                            static_cast<void *>(r.didx), static_cast<void *>(r.routing)})
                CUDA(cudaFree(p));
    }

    // Rows that are not what their source has sent; what is not written is NaN.
    unsigned dispatch()
    {
        job.run([&](int g) {
            CUDA(cudaMemsetAsync(reinterpret_cast<void *>(ranks[g].result.x), 0xff,
                                 size_t(n) * s.tokens * s.hidden * 2, job.streams[g]));
        });
        bool ok = job.run([&](int g) {
            rank &r = ranks[g];
            shmemi_moen_layout l = {};
            l.idx = reinterpret_cast<u64>(r.didx);
            l.routing = reinterpret_cast<u64>(r.routing);
            l.tokens = s.tokens;
            l.wide = 1;
            const unsigned threads = s.tokens > 256 ? 1024 : 256;
            k_layout<<<n + 1, threads, shmemi_moen_layout_shared(threads, s.experts), job.streams[g]>>>(r.o,
                                                                                                        l);
            shmemi_moen_dispatch a = {};
            a.result = r.result;
            a.routing = l.routing;
            a.x = reinterpret_cast<u64>(r.dx);
            a.x_stride = s.hidden * 2;
            a.idx = l.idx;
            a.tokens = s.tokens;
            a.wide = a.alignment = 1;
            const unsigned shared = shmemi_moen_shape_dispatch(&a, &r.o, n, room, warps, blocks);
            k_dispatch<<<blocks, a.pipe.warps * 32, shared, job.streams[g]>>>(r.o, a);
        });
        unsigned wrong = !ok;
        std::vector<bf16> row(s.hidden);
        for (int g = 0; g < n; ++g) {
            const auto *at = reinterpret_cast<const bf16 *>(ranks[g].result.x);
            for (const rank &from : ranks)
                for (unsigned t = 0; t < s.tokens; ++t)
                    if (from.goes[size_t(t) * n + g]) {
                        CUDA(cudaMemcpy(row.data(), at, s.hidden * 2, cudaMemcpyDeviceToHost));
                        wrong += !std::equal(row.begin(), row.end(), &from.x[size_t(t) * s.hidden]);
                        at += s.hidden;
                    }
        }
        return wrong;
    }

    // Tokens whose sum is wrong, of `combines` combines in a row with y of other sizes, so that a row of an earlier one
    // shows.
    unsigned combine(unsigned format)
    {
        const size_t all = ranks[0].x.size();
        job.run([&](int g) {
            CUDA(cudaMemsetAsync(ranks[g].out, 0xff, all * combines * 2, job.streams[g]));
            CUDA(cudaMemsetAsync(reinterpret_cast<void *>(ranks[g].o.back), 0xff,
                                 size_t(2) * n * s.tokens * ranks[g].o.back_row, job.streams[g]));
        });
        bool ok = job.run([&](int g) {
            rank &r = ranks[g];
            for (unsigned i = 0; i < combines; ++i) {
                k_scale<<<256, 256, 0, job.streams[g]>>>(r.y, reinterpret_cast<const bf16 *>(r.result.x),
                                                         all * n, i);
                shmemi_moen_combine a = {};
                a.routing = reinterpret_cast<u64>(r.routing);
                a.y = reinterpret_cast<u64>(r.y);
                a.out = reinterpret_cast<u64>(r.out + all * i);
                a.y_stride = a.out_stride = s.hidden * 2;
                a.tokens = s.tokens;
                a.format = format;
                a.group = 128;
                a.shift = 7;
                const unsigned shared = shmemi_moen_shape_combine(&a, &r.o, n, room, warps, blocks);
                k_combine<<<blocks, warps * 32, shared, job.streams[g]>>>(r.o, a);
            }
        });
        unsigned wrong = !ok;
        std::vector<bf16> out(all * combines);
        for (const rank &r : ranks) {
            CUDA(cudaMemcpy(out.data(), r.out, out.size() * 2, cudaMemcpyDeviceToHost));
            for (unsigned i = 0; i < combines; ++i)
                for (unsigned t = 0; t < s.tokens; ++t) {
                    const auto copies =
                        std::count(r.goes.begin() + size_t(t) * n, r.goes.begin() + size_t(t + 1) * n, true);
                    const float times = float(copies << i), step = float(1 << i) * 2 / 127;
                    bool right = true;
                    for (size_t c = size_t(t) * s.hidden; c < size_t(t + 1) * s.hidden; ++c) {
                        const float want = times * float_of(r.x[c]), got = float_of(out[all * i + c]);
                        // INT8: half a step for each copy, and a rounding to BF16
                        right = right && (format == SHMEMI_MOEN_BF16
                                              ? got == float_of(bf16_of(want))
                                              : std::fabs(got - want) <=
                                                    float(copies) * step / 2 + std::fabs(want) / 200 + 1e-6f);
                    }
                    wrong += !right;
                }
        }
        return wrong;
    }
};

int main(int argc, char **argv)
{
    const int n = argc > 1 ? std::atoi(argv[1]) : 2, rounds = argc > 2 ? std::atoi(argv[2]) : 6;
    // With lazy loading a kernel's first launch may wait for another GPU's kernel, which waits for it.
    setenv("CUDA_MODULE_LOADING", "EAGER", 1);
    int devices = 0;
    CUDA(cudaGetDeviceCount(&devices));
    if (n < 1 || n > devices || rounds < 1) {
        std::fprintf(stderr, "usage: gpu_moe [GPUs = 2] [ROUNDS = 6]; %d GPUs here\n", devices);
        return 2;
    }
    const sizes shapes[] = {{7168, 4096, 256, 8}, {7168, 512, 256, 8}, {2048, 512, 64, 6},
                            {1024, 1024, 32, 8},  {1024, 64, 32, 8},   {256, 300, 16, 4},
                            {16, 2000, 8, 2}};
    u64 most = 0;
    for (sizes s : shapes) {
        batch::rank r;
        most = std::max(most, batch::lay_out(r, s, n, 0));
    }
    gpu_scene job(n, most, SHMEMX_DEVICE_LINES128);
    bool fine = true;
    for (sizes s : shapes) {
        batch b(job, s);
        unsigned rows = 0, sums[2] = {};
        for (int round = 0; round < rounds; ++round) {
            rows += b.dispatch();
            for (unsigned format : {SHMEMI_MOEN_BF16, SHMEMI_MOEN_INT8})
                if (format == SHMEMI_MOEN_BF16 || s.hidden % 128 == 0)
                    sums[format] += b.combine(format);
        }
        std::printf(
            "{\"gpus\": %d, \"hidden\": %u, \"tokens\": %u, \"experts\": %u, \"topk\": %u, \"rounds\": %d, "
            "\"wrong_rows\": %u, \"wrong_sums_bf16\": %u, \"wrong_sums_int8\": %u}\n",
            n, s.hidden, s.tokens, s.experts, s.topk, rounds, rows, sums[0], sums[1]);
        std::fflush(stdout);
        fine = fine && rows + sums[0] + sums[1] == 0;
    }
    return !fine;
}
