"""The CUDA sources of the GPU tests; strings only, so that they are compiled for several GPUs without one."""

COMMON = r"""
#include <shmem_device.h>

typedef unsigned char u8;
typedef unsigned long long u64;

/* The call is made by one thread, one warp or the block. */
template <class Call> __device__ void by(int scope, Call call)
{
    if (scope == 0) {
        if (threadIdx.x == 0)
            call(shmem::thread);
    } else if (scope == 1) {
        if (threadIdx.x < 32)
            call(shmem::warp);
    } else {
        call(shmem::block);
    }
}
"""

RMA = (
    COMMON
    + r"""
extern "C" __global__ void rma(int call, int scope, u8 *dst, u8 *src, u64 n, u64 *sig, int pe, int *ok)
{
    by(scope, [&](auto s) {
        switch (call) {
        case 0:
            shmem::put(s, dst, src, n, pe);
            shmem::quiet(s);
            break;
        case 1:
            shmem::get(s, dst, src, n, pe);
            break;
        case 2:
            shmem::put_nbi(s, dst, src, n, pe);
            shmem::quiet(s);
            break;
        case 3:
            shmem::get_nbi(s, dst, src, n, pe);
            shmem::quiet(s);
            break;
        case 4:
            shmem::put_signal(s, dst, src, n, sig, 7, shmem::signal_set, pe);
            *ok = shmem::signal_wait_until(s, sig, shmem::eq, 7) ? 1 : 0;
            break;
        case 5:
            shmem::put_signal_nbi(s, dst, src, n, sig, 3, shmem::signal_add, pe);
            *ok = shmem::signal_wait_until(s, sig, shmem::ge, 3) ? 1 : 0;
            break;
        case 6:
            shmem::put_nbi(s, dst, src, n, pe);
            shmem::fence(s, pe);
            *ok = shmem::quiet(s, pe) && shmem::quiet(s, shmem::my_pe()) ? 1 : 0;
            break;
        case 7:
            shmem::put_nbi(s, dst, src, n, shmem::queue_pair{pe, 3});
            *ok = shmem::quiet(s, shmem::queue_pair{pe, 3}) ? 1 : 0;
            break;
        case 8:
            shmem::get_nbi(s, dst, src, n, shmem::queue_pair{pe, 1});
            *ok = shmem::quiet(s, shmem::queue_pair{pe, 1}) ? 1 : 0;
            break;
        case 9:
            shmem::put_signal_nbi(s, dst, src, n, sig, 5, shmem::signal_set, shmem::queue_pair{pe, 2});
            *ok = shmem::signal_wait_until(s, sig, shmem::eq, 5) ? 1 : 0;
            break;
        default:
            const u64 a = n / 3, b = a + n / 5;
            const shmem::gather_piece pieces[] = {{src, a}, {src + a, b - a}, {src + b, n - b}};
            shmem::put_gather_nbi(s, dst, pieces, 3, pe);
            *ok = shmem::quiet(s) ? 1 : 0;
        }
    });
}

/* Through a stage: shared memory for the copy engine. */
extern "C" __global__ void staged(int call, u8 *dst, u8 *src, u64 n, int pe)
{
    __shared__ __align__(128) unsigned char memory[32768 + 128];
    shmem::stage blk(memory, sizeof memory);
    if (call == 0) {
        shmem::put(blk, dst, src, n, pe);
        shmem::quiet(shmem::block);
    } else {
        shmem::get(blk, dst, src, n, pe);
    }
}

/* Single elements; the next PE's slot of each type gets me + 1 and is fetched back. */
extern "C" __global__ void words(int *i, long long *l, float *f, double *d, u8 *b, double *out, int pe)
{
    const int me = shmem::my_pe();
    shmem::p(i, -me - 1, pe);
    shmem::p(l, -me - 1, pe);
    shmem::p(f, me + 0.5f, pe);
    shmem::p(d, me + 0.25, pe);
    shmem::p(b, me + 1, pe);
    shmem::fence(shmem::thread);
    shmem::quiet(shmem::thread);
    out[0] = shmem::g(i, pe);
    out[1] = static_cast<double>(shmem::g(l, pe));
    out[2] = shmem::g(f, pe);
    out[3] = shmem::g(d, pe);
    out[4] = shmem::g(b, pe);
    out[5] = shmem::n_pes();
    out[6] = *shmem::ptr(i, pe);
    out[7] = shmem::ptr(i, shmem::n_pes()) == nullptr;
    out[8] = shmem::team_my_pe(shmem::world) * 1000 + shmem::team_n_pes(shmem::world);
}
"""
)

ATOMICS = (
    COMMON
    + r"""
/* Every thread of every PE adds to PE 0's words. */
template <class T> __device__ void count(T *words)
{
    shmem::atomic_inc(words, 0);
    shmem::atomic_add(words + 1, 3, 0);
    shmem::atomic_fetch_inc(words + 2, 0);
    shmem::atomic_fetch_add(words + 3, 2, 0);
    shmem::atomic_or(words + 4, static_cast<T>(1) << (threadIdx.x % 31), 0);
    shmem::atomic_fetch_or(words + 5, static_cast<T>(1) << (threadIdx.x % 31), 0);
    shmem::atomic_xor(words + 6, 5, 0);
    shmem::atomic_fetch_xor(words + 7, 5, 0);
    shmem::atomic_and(words + 8, 6, 0);
    shmem::atomic_fetch_and(words + 9, 6, 0);
}
extern "C" __global__ void count32(unsigned *words)
{
    count(words);
}
extern "C" __global__ void count64(long long *words)
{
    count(words);
}

/* One thread: values that come back. */
extern "C" __global__ void values(long long *w, double *d, long long *out, int pe)
{
    out[0] = shmem::atomic_fetch(w, pe);
    out[1] = shmem::atomic_swap(w, -5, pe);
    out[2] = shmem::atomic_compare_swap(w, -5, 8, pe);
    out[3] = shmem::atomic_compare_swap(w, 1, 9, pe);
    shmem::atomic_set(w + 1, 4, pe);
    out[4] = shmem::atomic_fetch(w + 1, pe);
    out[5] = static_cast<long long>(shmem::atomic_swap(d, 2.5, pe) * 2);
    out[6] = static_cast<long long>(shmem::atomic_fetch(d, pe) * 2);
    out[7] = shmem::atomic_fetch_add(w, 10, pe);
    out[8] = shmem::atomic_fetch(w, pe);
}
"""
)

SYNC = (
    COMMON
    + r"""
/* In each round all tell the next PE the number of the round, and after the barrier read their own word. */
extern "C" __global__ void rounds(int scope, long long *word, int rounds, int *wrong, int pe)
{
    by(scope, [&](auto s) {
        for (int round = 1; round <= rounds; ++round) {
            if (threadIdx.x == 0)
                shmem::p(word, round, pe);
            if (!shmem::barrier(s))
                *wrong = -1;
            if (threadIdx.x == 0 && *static_cast<volatile long long *>(word) != round)
                *wrong = round;
            if (!shmem::sync(s)) // nobody starts the next round before all have looked
                *wrong = -1;
        }
    });
}

/* Each PE sets bit by bit the next one's words; all the forms of waiting. */
extern "C" __global__ void waits(int scope, int *words, long long *sig, int *out, int pe)
{
    if (threadIdx.x == 0) {
        for (int i = 0; i < 8; ++i)
            shmem::p(words + i, i + 1, pe);
        shmem::fence(shmem::thread);
        shmem::signal_op(sig, 40, shmem::signal_set, pe);
        shmem::signal_op(sig, 2, shmem::signal_add, pe);
    }
    __syncthreads();
    by(scope, [&](auto s) {
        bool ok = shmem::wait_until(s, words + 7, shmem::eq, 8);
        ok = shmem::wait_until_all(s, words, 8, nullptr, shmem::gt, 0) && ok;
        ok = shmem::signal_wait_until(s, sig, shmem::ge, 42) && ok;
        if (threadIdx.x == 0) {
            const int left_out[8] = {1, 1, 1, 1, 1, 0, 1, 1};
            out[0] = ok;
            out[1] = static_cast<int>(shmem::wait_until_any(words, 8, left_out, shmem::ne, 0));
            out[2] = shmem::test(words, shmem::lt, 2) && !shmem::test(words, shmem::gt, 1);
            out[3] = shmem::test_all(words, 8, nullptr, shmem::le, 8);
            out[4] = shmem::test_any(words, 8, nullptr, shmem::gt, 8) == shmem::none;
            out[5] = static_cast<int>(shmem::signal_fetch(sig));
        }
    });
}
"""
)

COLL = (
    COMMON
    + r"""
extern "C" __global__ void coll(int call, int scope, float *dst, float *src, u64 n, int root, int *ok)
{
    auto run = [&](auto s) {
        bool fine = false;
        if (call == 0)
            fine = shmem::broadcast(s, shmem::world, dst, src, n, root);
        else if (call == 1)
            fine = shmem::fcollect(s, shmem::world, dst, src, n);
        else if (call == 2)
            fine = shmem::alltoall(s, shmem::world, dst, src, n);
        else if (call == 3)
            fine = shmem::reduce(s, shmem::world, shmem::sum, dst, src, n);
        else if (call == 4)
            fine = shmem::sum_inscan(s, shmem::world, dst, src, n);
        else
            fine = shmem::sum_exscan(s, shmem::world, dst, src, n);
        if (threadIdx.x == 0)
            *ok = fine;
    };
    if (scope == 2)
        run(shmem::block);
    else if (threadIdx.x < 32)
        run(shmem::warp);
}

extern "C" __global__ void packets(int scope, void *buffer, u8 *dst, const u8 *src, u64 n, u64 round, int pe,
                                   int *ok)
{
    auto run = [&](auto s) {
        bool fine = shmem::put_packets(s, buffer, src, n, round, pe);
        fine = shmem::recv_packets(s, dst, buffer, n, round) && fine;
        if (threadIdx.x == 0)
            *ok = fine;
    };
    if (scope == 2)
        run(shmem::block);
    else if (threadIdx.x < 32)
        run(shmem::warp);
}
"""
)

ERRORS = (
    COMMON
    + r"""
extern "C" __global__ void bad_pe(long long *word, int pe)
{
    shmem::p(word, 1, pe);
}
extern "C" __global__ void bad_address(long long *word)
{
    shmem::p(word, 1, 0);
}
extern "C" __global__ void posts(u8 *dst, u8 *src, u64 bytes, int rounds, int pe, int *failed)
{
    for (int i = 0; i < rounds; ++i) {
        shmem::put_nbi(shmem::thread, dst, src, bytes, pe);
        *failed += !shmem::quiet(shmem::thread);
    }
}
/* A put by a queue pair that meanwhile has another key of the peer's memory, or of this PE's. */
extern "C" __global__ void wrong_key(u8 *dst, u8 *src, u64 bytes, int local, int pe, int *failed)
{
    using shmem::detail::ibgda;
    auto &pair = ibgda::mine(pe);
    unsigned &key = local ? pair.first_local : pair.first_key;
    key ^= 0x01000000;
    ibgda::put_on(pair, shmem::detail::offset_of(dst), src, bytes);
    key ^= 0x01000000;
    *failed += !shmem::quiet(shmem::thread);
}
extern "C" __global__ void endless(long long *word, int *ok)
{
    *ok = shmem::wait_until(shmem::thread, word, shmem::eq, 12345) ? 1 : 0;
}
"""
)
