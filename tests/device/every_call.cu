// Every operation in every scope, for compile.py: nothing here is run. One kernel a family, so that the
// compiler's report of registers and spills says which family they belong to.
#include "shmem_device.h"

#define KERNEL extern "C" __global__ void __launch_bounds__(1024)

struct half_like { // as __half: a class of 2 bytes
    unsigned short bits;
    __device__ explicit operator float() const
    {
        return static_cast<float>(bits);
    }
    half_like() = default;
    __device__ explicit half_like(float f) : bits(static_cast<unsigned short>(f)) {}
};

template <class T> __device__ void one_value(T *x, int pe)
{
    shmem::p(x, static_cast<T>(1), pe);
    x[1] = shmem::g(x, pe);
}
KERNEL k_p_g(unsigned char *a, short *b, int *c, unsigned long *d, double *e, float4 *f, int pe)
{
    one_value(a, pe), one_value(b, pe), one_value(c, pe), one_value(d, pe), one_value(e, pe);
    shmem::p(f, f[1], pe);
    f[2] = shmem::g(f, pe);
    c[5] = shmem::my_pe() + shmem::n_pes() + shmem::team_my_pe(shmem::world) +
           shmem::team_n_pes(shmem::shared) + shmem::team_translate_pe(shmem::world, pe, shmem::team(3));
    *shmem::ptr(c, pe) = 1;
}
template <class Scope>
__device__ void moves(const Scope &s, float *dst, const float *src, shmem::size n, unsigned long *sig, int pe)
{
    shmem::put(s, dst, src, n, pe);
    shmem::get(s, dst, src, n, pe);
    shmem::put_nbi(s, dst, src, n, pe);
    const shmem::gather_piece pieces[2] = {{src, n}, {dst, 1}};
    shmem::put_gather_nbi(s, dst, pieces, 2, pe);
    shmem::get_nbi(s, dst, src, n, pe);
    shmem::put_signal(s, dst, src, n, sig, 1, shmem::signal_add, pe);
    shmem::put_signal_nbi(s, dst, src, n, sig, 1, shmem::signal_set, pe);
    shmem::fence(s);
    shmem::quiet(s);
}
KERNEL k_put_block(char *dst, const char *src, shmem::size n, int pe)
{
    shmem::put(shmem::block, dst, src, n, pe);
}
KERNEL k_get_block(char *dst, const char *src, shmem::size n, int pe)
{
    shmem::get(shmem::block, dst, src, n, pe);
}
KERNEL k_put_stage(char *dst, const char *src, shmem::size n, int pe)
{
    extern __shared__ __align__(128) unsigned char memory[];
    shmem::put(shmem::stage(memory, 65536 + 128), dst, src, n, pe);
}
KERNEL k_put_signal_block(char *dst, const char *src, shmem::size n, unsigned long *sig, int pe)
{
    shmem::put_signal(shmem::block, dst, src, n, sig, 1, shmem::signal_set, pe);
}
KERNEL k_rma(float *dst, const float *src, shmem::size n, unsigned long *sig, int pe)
{
    extern __shared__ __align__(128) unsigned char memory[];
    moves(shmem::thread, dst, src, n, sig, pe);
    moves(shmem::warp, dst, src, n, sig, pe);
    moves(shmem::block, dst, src, n, sig, pe);
    moves(shmem::stage(memory, 65536 + 128), dst, src, n, sig, pe);
}
template <class T> __device__ void integer_atomics(T *x, T v, int pe)
{
    shmem::atomic_set(x, v, pe);
    shmem::atomic_add(x, v, pe), shmem::atomic_inc(x, pe);
    shmem::atomic_and(x, v, pe), shmem::atomic_or(x, v, pe), shmem::atomic_xor(x, v, pe);
    x[1] = shmem::atomic_fetch(x, pe) + shmem::atomic_swap(x, v, pe) +
           shmem::atomic_compare_swap(x, v, 1, pe) + shmem::atomic_fetch_add(x, v, pe) +
           shmem::atomic_fetch_inc(x, pe) + shmem::atomic_fetch_and(x, v, pe) +
           shmem::atomic_fetch_or(x, v, pe) + shmem::atomic_fetch_xor(x, v, pe);
}
template <class T> __device__ void float_atomics(T *x, T v, int pe)
{
    shmem::atomic_set(x, v, pe);
    x[1] = shmem::atomic_fetch(x, pe) + shmem::atomic_swap(x, v, pe);
}
KERNEL k_atomics(int *a, unsigned *b, long *c, unsigned long long *d, float *e, double *f, int pe)
{
    integer_atomics(a, 3, pe), integer_atomics(b, 3u, pe), integer_atomics(c, 3l, pe),
        integer_atomics(d, 3ull, pe);
    float_atomics(e, 3.0f, pe), float_atomics(f, 3.0, pe);
}
template <class Scope>
__device__ int waits(const Scope &s, const int *a, const unsigned long long *sig, const int *status,
                     shmem::size n)
{
    int ok = shmem::wait_until(s, a, shmem::ge, 3) + shmem::wait_until_all(s, a, n, status, shmem::ne, 0);
    ok += shmem::signal_wait_until(s, sig, shmem::eq, 1);
    return ok + shmem::sync(s) + shmem::barrier(s, shmem::team(2));
}
KERNEL k_sync(int n)
{
    for (int i = 0; i < n; ++i)
        shmem::sync(shmem::block);
}
KERNEL k_waits(const int *a, unsigned long long *sig, const int *status, shmem::size n, int *out, int pe)
{
    *out = waits(shmem::thread, a, sig, status, n) + waits(shmem::warp, a, sig, status, n) +
           waits(shmem::block, a, sig, status, n);
    out[1] = static_cast<int>(shmem::wait_until_any(a, n, status, shmem::gt, 1) +
                              shmem::test_any(a, n, status, shmem::lt, 1));
    out[2] = shmem::test(a, shmem::le, 1) + shmem::test_all(a, n, status, shmem::eq, 1);
    shmem::signal_op(sig, shmem::signal_fetch(sig), shmem::signal_add, pe);
}
KERNEL k_queue_pairs(float *dst, const float *src, shmem::size n, unsigned long long *sig, int *out, int pe)
{
    const shmem::queue_pair way{pe, shmem::queue_pairs(pe) - 1};
    shmem::put_nbi(shmem::block, dst, src, n, way);
    shmem::get_nbi(shmem::warp, dst, src, n, way);
    shmem::put_signal_nbi(shmem::thread, dst, src, n, sig, 1, shmem::signal_add, way);
    shmem::fence(shmem::warp, pe);
    *out = shmem::quiet(shmem::block, way) + shmem::quiet(shmem::warp, pe);
}
KERNEL k_packets_block(unsigned char *box, const float *src, float *dst, shmem::size n,
                       unsigned long long round, int pe)
{
    shmem::put_packets(shmem::block, box, src, n, round, pe);
    shmem::recv_packets(shmem::block, dst, box, n, round);
}
KERNEL k_packets_warp(unsigned char *box, const short *src, short *dst, shmem::size n,
                      unsigned long long round, int pe)
{
    shmem::put_packets(shmem::warp, box, src, n, round, pe);
    shmem::recv_packets(shmem::warp, dst, box, n, round);
}
template <class Scope>
__device__ bool moves_together(const Scope &s, double *dst, const double *src, shmem::size n)
{
    return shmem::broadcast(s, shmem::world, dst, src, n, 0) &&
           shmem::fcollect(s, shmem::world, dst, src, n) && shmem::alltoall(s, shmem::world, dst, src, n);
}
KERNEL k_collectives(double *dst, const double *src, shmem::size n)
{
    extern __shared__ __align__(128) unsigned char memory[];
    moves_together(shmem::warp, dst, src, n);
    moves_together(shmem::block, dst, src, n);
    moves_together(shmem::stage(memory, 65536 + 128), dst, src, n);
}
KERNEL k_reduce_float(float *dst, const float *src, shmem::size n)
{
    shmem::reduce(shmem::block, shmem::world, shmem::sum, dst, src, n);
}
KERNEL k_reduce_half(half_like *dst, const half_like *src, shmem::size n)
{
    shmem::reduce(shmem::block, shmem::world, shmem::sum, dst, src, n);
}
KERNEL k_reduce_others(unsigned char *a, long long *b, double *c, shmem::size n)
{
    shmem::reduce(shmem::block, shmem::world, shmem::bit_xor, a, a + n, n);
    shmem::reduce(shmem::warp, shmem::world, shmem::bit_and, b, b + n, n);
    shmem::reduce(shmem::warp, shmem::world, shmem::bit_or, b, b + n, n);
    shmem::reduce(shmem::warp, shmem::world, shmem::max, b, b + n, n);
    shmem::reduce(shmem::block, shmem::world, shmem::min, c, c + n, n);
    shmem::reduce(shmem::block, shmem::world, shmem::prod, c, c + n, n);
}
KERNEL k_scan(float *a, half_like *b, unsigned char *c, shmem::size n)
{
    shmem::sum_inscan(shmem::block, shmem::world, a, a + n, n);
    shmem::sum_exscan(shmem::block, shmem::world, b, b + n, n);
    shmem::sum_exscan(shmem::warp, shmem::world, c, c, n);
}
template <class Scope> __device__ void records(const Scope &s, unsigned char *record, float *x, shmem::size n)
{
    const shmem::quant fp8 = {shmem::quant_e4m3, 0, shmem::quant_saturate};
    if (shmem::quantize(s, record, x, n))
        shmem::dequantize(s, x, record, n);
    shmem::quantize(s, record, [=](shmem::size i) { return x[i] + 1; }, n, fp8);
    shmem::dequantize(s, [=](shmem::size i, float v) { x[i] += v; }, record, n, fp8);
    x[0] = static_cast<float>(shmem::quant_bytes(n) + shmem::quant_bytes(n, 32));
}
extern "C" __global__ void __launch_bounds__(256) k_quantize(unsigned char *record, float *x, shmem::size n)
{
    records(shmem::warp, record, x, n);
    records(shmem::block, record, x, n);
}
