/* The device API for languages that call C functions: Numba-CUDA (this file compiled to LTO-IR or PTX and
 * linked) and Triton (as bitcode, extern_elementwise). Include it in one file of a device library; C++
 * programs need none of it.
 *
 * The same operations under one prefix, shmem_device_. `scope` is 0 thread, 1 warp, 2 block: give a constant,
 * and after linking with optimization one branch is left. Sizes are in bytes; addresses are 64-bit; team, cmp
 * and op have the values of shmem_device.h. Every function returns a value, since Triton knows no other: 1 or
 * the result, and 0 where the C++ call returns false. The state is the module's symbol shmem_device_state, as
 * everywhere.
 */
#ifndef SHMEM_DEVICE_WRAPPERS_H
#define SHMEM_DEVICE_WRAPPERS_H

#include "../shmem_device.h"

/* How the functions are declared; whoever wants a few of them only may define it as static __device__. */
#ifndef SHMEMX_DEVICE_C
#ifdef __CUDACC__
#define SHMEMX_DEVICE_C extern "C" __device__
#else
#define SHMEMX_DEVICE_C extern "C" inline
#endif
#endif

/* A statement for the scope that the argument `scope` names; in it the scope is s. Text and not a generic lambda,
 * because NVRTC 13.0 takes those for host functions here. */
#define SHMEMX_BY_SCOPE(scope, ...)                                                                          \
    if ((scope) == 0) {                                                                                      \
        constexpr auto s = shmem::thread;                                                                    \
        __VA_ARGS__                                                                                          \
    } else                                                                                                   \
        SHMEMX_BY_WARPS(scope, __VA_ARGS__)
#define SHMEMX_BY_WARPS(scope, ...)                                                                          \
    if ((scope) == 1) {                                                                                      \
        constexpr auto s = shmem::warp;                                                                      \
        __VA_ARGS__                                                                                          \
    } else {                                                                                                 \
        constexpr auto s = shmem::block;                                                                     \
        __VA_ARGS__                                                                                          \
    }

/* The same for the type of a word, which is `word` in it. */
#define SHMEMX_BY_KIND(kind, ...)                                                                            \
    if ((kind) == 32) {                                                                                      \
        using word = int;                                                                                    \
        __VA_ARGS__                                                                                          \
    } else if ((kind) == 64) {                                                                               \
        using word = long long;                                                                              \
        __VA_ARGS__                                                                                          \
    } else {                                                                                                 \
        using word = unsigned long long;                                                                     \
        __VA_ARGS__                                                                                          \
    }

namespace shmem
{
namespace detail
{

using bytes = unsigned char;

template <class T> SHMEMX_DEVICE_FN bool reduce_by(int op, team t, T *dst, const T *src, u64 nelems)
{
    switch (op) {
    case 0:
        return reduce(block, t, sum, dst, src, nelems);
    case 1:
        return reduce(block, t, prod, dst, src, nelems);
    case 2:
        return reduce(block, t, min, dst, src, nelems);
    default:
        return reduce(block, t, max, dst, src, nelems);
    }
}

} // namespace detail
} // namespace shmem

/* ---- who and where ------------------------------------------------------------------------------------- */

SHMEMX_DEVICE_C int shmem_device_my_pe()
{
    return shmem::my_pe();
}
SHMEMX_DEVICE_C int shmem_device_n_pes()
{
    return shmem::n_pes();
}
SHMEMX_DEVICE_C int shmem_device_team_my_pe(unsigned team)
{
    return shmem::team_my_pe(shmem::team(team));
}
SHMEMX_DEVICE_C int shmem_device_team_n_pes(unsigned team)
{
    return shmem::team_n_pes(shmem::team(team));
}
SHMEMX_DEVICE_C int shmem_device_team_translate_pe(unsigned from, int pe, unsigned to)
{
    return shmem::team_translate_pe(shmem::team(from), pe, shmem::team(to));
}
SHMEMX_DEVICE_C void *shmem_device_ptr(void *p, int pe)
{
    return shmem::ptr(static_cast<unsigned char *>(p), pe);
}

/* ---- put and get --------------------------------------------------------------------------------------- */

SHMEMX_DEVICE_C int shmem_device_p8(void *dst, unsigned value, int pe)
{
    shmem::p(static_cast<shmem::u8 *>(dst), static_cast<shmem::u8>(value), pe);
    return 1;
}
SHMEMX_DEVICE_C int shmem_device_p32(void *dst, unsigned value, int pe)
{
    shmem::p(static_cast<shmem::u32 *>(dst), value, pe);
    return 1;
}
SHMEMX_DEVICE_C int shmem_device_p64(void *dst, unsigned long long value, int pe)
{
    shmem::p(static_cast<shmem::u64 *>(dst), value, pe);
    return 1;
}
SHMEMX_DEVICE_C unsigned shmem_device_g8(const void *src, int pe)
{
    return shmem::g(static_cast<const shmem::u8 *>(src), pe);
}
SHMEMX_DEVICE_C unsigned shmem_device_g32(const void *src, int pe)
{
    return shmem::g(static_cast<const shmem::u32 *>(src), pe);
}
SHMEMX_DEVICE_C unsigned long long shmem_device_g64(const void *src, int pe)
{
    return shmem::g(static_cast<const shmem::u64 *>(src), pe);
}
SHMEMX_DEVICE_C int shmem_device_put(int scope, void *dst, const void *src, unsigned long long nbytes, int pe)
{
    using shmem::detail::bytes;
    SHMEMX_BY_SCOPE(scope,
                    shmem::put(s, static_cast<bytes *>(dst), static_cast<const bytes *>(src), nbytes, pe);)
    return 1;
}
SHMEMX_DEVICE_C int shmem_device_get(int scope, void *dst, const void *src, unsigned long long nbytes, int pe)
{
    using shmem::detail::bytes;
    SHMEMX_BY_SCOPE(scope,
                    shmem::get(s, static_cast<bytes *>(dst), static_cast<const bytes *>(src), nbytes, pe);)
    return 1;
}
SHMEMX_DEVICE_C int shmem_device_put_nbi(int scope, void *dst, const void *src, unsigned long long nbytes,
                                         int pe)
{
    using shmem::detail::bytes;
    SHMEMX_BY_SCOPE(
        scope, shmem::put_nbi(s, static_cast<bytes *>(dst), static_cast<const bytes *>(src), nbytes, pe);)
    return 1;
}
SHMEMX_DEVICE_C int shmem_device_get_nbi(int scope, void *dst, const void *src, unsigned long long nbytes,
                                         int pe)
{
    using shmem::detail::bytes;
    SHMEMX_BY_SCOPE(
        scope, shmem::get_nbi(s, static_cast<bytes *>(dst), static_cast<const bytes *>(src), nbytes, pe);)
    return 1;
}
SHMEMX_DEVICE_C int shmem_device_put_signal(int scope, void *dst, const void *src, unsigned long long nbytes,
                                            void *sig, unsigned long long value, int op, int pe)
{
    using shmem::detail::bytes;
    SHMEMX_BY_SCOPE(scope, shmem::put_signal(s, static_cast<bytes *>(dst), static_cast<const bytes *>(src),
                                             nbytes, static_cast<unsigned long long *>(sig), value,
                                             static_cast<shmem::signal_kind>(op), pe);)
    return 1;
}

SHMEMX_DEVICE_C int shmem_device_put_signal_nbi(int scope, void *dst, const void *src,
                                                unsigned long long nbytes, void *sig,
                                                unsigned long long value, int op, int pe)
{
    using shmem::detail::bytes;
    SHMEMX_BY_SCOPE(scope,
                    shmem::put_signal_nbi(s, static_cast<bytes *>(dst), static_cast<const bytes *>(src),
                                          nbytes, static_cast<unsigned long long *>(sig), value,
                                          static_cast<shmem::signal_kind>(op), pe);)
    return 1;
}

/* By a block, through `memory` of its shared memory (shmem::stage): once _stage_open, then any number of
 * calls. */
SHMEMX_DEVICE_C int shmem_device_stage_open(void *memory, unsigned memory_bytes)
{
    return shmem::stage(memory, memory_bytes).usable() ? 1 : 0;
}
SHMEMX_DEVICE_C int shmem_device_put_staged(void *memory, unsigned memory_bytes, void *dst, const void *src,
                                            unsigned long long nbytes, int pe)
{
    using shmem::detail::bytes;
    shmem::put(shmem::stage::attach(memory, memory_bytes), static_cast<bytes *>(dst),
               static_cast<const bytes *>(src), nbytes, pe);
    return 1;
}
SHMEMX_DEVICE_C int shmem_device_get_staged(void *memory, unsigned memory_bytes, void *dst, const void *src,
                                            unsigned long long nbytes, int pe)
{
    using shmem::detail::bytes;
    shmem::get(shmem::stage::attach(memory, memory_bytes), static_cast<bytes *>(dst),
               static_cast<const bytes *>(src), nbytes, pe);
    return 1;
}

/* ---- order, sync --------------------------------------------------------------------------------------- */

SHMEMX_DEVICE_C int shmem_device_fence(int scope, int pe)
{
    SHMEMX_BY_SCOPE(scope, shmem::fence(s, pe);)
    return 1;
}
SHMEMX_DEVICE_C int shmem_device_quiet(int scope, int pe)
{
    SHMEMX_BY_SCOPE(scope, return shmem::quiet(s, pe);)
}
SHMEMX_DEVICE_C int shmem_device_sync(int scope, unsigned team)
{
    bool ok = false;
    SHMEMX_BY_SCOPE(scope, ok = shmem::sync(s, shmem::team(team));)
    return ok;
}
SHMEMX_DEVICE_C int shmem_device_barrier(int scope, unsigned team)
{
    bool ok = false;
    SHMEMX_BY_SCOPE(scope, ok = shmem::barrier(s, shmem::team(team));)
    return ok;
}

/* ---- waits, signals: cmp 1 to 6 is eq ne gt ge lt le --------------------------------------------------- */

SHMEMX_DEVICE_C int shmem_device_wait_until32(int scope, const void *ivar, int cmp, int value)
{
    bool ok = false;
    SHMEMX_BY_SCOPE(scope, ok = shmem::wait_until(s, static_cast<const int *>(ivar),
                                                  static_cast<shmem::cmp>(cmp), value);)
    return ok;
}
SHMEMX_DEVICE_C int shmem_device_wait_until64(int scope, const void *ivar, int cmp, long long value)
{
    bool ok = false;
    SHMEMX_BY_SCOPE(scope, ok = shmem::wait_until(s, static_cast<const long long *>(ivar),
                                                  static_cast<shmem::cmp>(cmp), value);)
    return ok;
}
SHMEMX_DEVICE_C int shmem_device_test32(const void *ivar, int cmp, int value)
{
    return shmem::test(static_cast<const int *>(ivar), static_cast<shmem::cmp>(cmp), value);
}
SHMEMX_DEVICE_C int shmem_device_test64(const void *ivar, int cmp, long long value)
{
    return shmem::test(static_cast<const long long *>(ivar), static_cast<shmem::cmp>(cmp), value);
}
/* Of several words; kind is 32 or 64 (signed) or 65 (64 bits, unsigned). any: the index, or all ones for none. */
SHMEMX_DEVICE_C int shmem_device_wait_until_all(int scope, const void *ivars, unsigned long long nelems,
                                                int kind, int cmp, unsigned long long value)
{
    bool ok = false;
    SHMEMX_BY_KIND(kind, SHMEMX_BY_SCOPE(scope, ok = shmem::wait_until_all(
                                                    s, static_cast<const word *>(ivars), nelems, nullptr,
                                                    static_cast<shmem::cmp>(cmp), static_cast<word>(value));))
    return ok;
}
SHMEMX_DEVICE_C unsigned long long shmem_device_wait_until_any(const void *ivars, unsigned long long nelems,
                                                               int kind, int cmp, unsigned long long value)
{
    SHMEMX_BY_KIND(kind,
                   return shmem::wait_until_any(static_cast<const word *>(ivars), nelems, nullptr,
                                                static_cast<shmem::cmp>(cmp), static_cast<word>(value));)
}
SHMEMX_DEVICE_C int shmem_device_test_all(const void *ivars, unsigned long long nelems, int kind, int cmp,
                                          unsigned long long value)
{
    SHMEMX_BY_KIND(kind, return shmem::test_all(static_cast<const word *>(ivars), nelems, nullptr,
                                                static_cast<shmem::cmp>(cmp), static_cast<word>(value));)
}
SHMEMX_DEVICE_C unsigned long long shmem_device_test_any(const void *ivars, unsigned long long nelems,
                                                         int kind, int cmp, unsigned long long value)
{
    SHMEMX_BY_KIND(kind, return shmem::test_any(static_cast<const word *>(ivars), nelems, nullptr,
                                                static_cast<shmem::cmp>(cmp), static_cast<word>(value));)
}
SHMEMX_DEVICE_C int shmem_device_signal_wait_until(int scope, const void *sig, int cmp,
                                                   unsigned long long value)
{
    bool ok = false;
    SHMEMX_BY_SCOPE(scope, ok = shmem::signal_wait_until(s, static_cast<const unsigned long long *>(sig),
                                                         static_cast<shmem::cmp>(cmp), value);)
    return ok;
}
SHMEMX_DEVICE_C unsigned long long shmem_device_signal_fetch(const void *sig)
{
    return shmem::signal_fetch(static_cast<const unsigned long long *>(sig));
}
SHMEMX_DEVICE_C int shmem_device_signal_op(void *sig, unsigned long long value, int op, int pe)
{
    shmem::signal_op(static_cast<unsigned long long *>(sig), value, static_cast<shmem::signal_kind>(op), pe);
    return 1;
}

/* ---- atomics: op is 0 fetch, 1 set, 2 swap, 3 compare_swap, 4 add, 5 and, 6 or, 7 xor (SHMEMX_AMO_*) --- */

SHMEMX_DEVICE_C unsigned shmem_device_atomic32(int op, void *dst, unsigned value, unsigned condition, int pe)
{
    return shmem::detail::atomic_by(op, static_cast<shmem::u32 *>(dst), value, condition, pe);
}
SHMEMX_DEVICE_C unsigned long long shmem_device_atomic64(int op, void *dst, unsigned long long value,
                                                         unsigned long long condition, int pe)
{
    return shmem::detail::atomic_by(op, static_cast<shmem::u64 *>(dst), value, condition, pe);
}

/* ---- packets and collectives: scope 1 or 2; reductions by a block, op 0 sum, 1 prod, 2 min, 3 max ------ */

SHMEMX_DEVICE_C int shmem_device_put_packets(int scope, void *packets, const void *src,
                                             unsigned long long nbytes, unsigned long long round, int pe)
{
    SHMEMX_BY_WARPS(scope, return shmem::put_packets(s, packets, static_cast<const unsigned char *>(src),
                                                     nbytes, round, pe);)
}
SHMEMX_DEVICE_C int shmem_device_recv_packets(int scope, void *dst, const void *packets,
                                              unsigned long long nbytes, unsigned long long round)
{
    SHMEMX_BY_WARPS(scope,
                    return shmem::recv_packets(s, static_cast<unsigned char *>(dst), packets, nbytes, round);)
}
SHMEMX_DEVICE_C int shmem_device_broadcast(int scope, unsigned team, void *dst, const void *src,
                                           unsigned long long nbytes, int root)
{
    using shmem::detail::bytes;
    SHMEMX_BY_WARPS(scope, return shmem::broadcast(s, shmem::team(team), static_cast<bytes *>(dst),
                                                   static_cast<const bytes *>(src), nbytes, root);)
}
SHMEMX_DEVICE_C int shmem_device_fcollect(int scope, unsigned team, void *dst, const void *src,
                                          unsigned long long nbytes)
{
    using shmem::detail::bytes;
    SHMEMX_BY_WARPS(scope, return shmem::fcollect(s, shmem::team(team), static_cast<bytes *>(dst),
                                                  static_cast<const bytes *>(src), nbytes);)
}
SHMEMX_DEVICE_C int shmem_device_alltoall(int scope, unsigned team, void *dst, const void *src,
                                          unsigned long long nbytes)
{
    using shmem::detail::bytes;
    SHMEMX_BY_WARPS(scope, return shmem::alltoall(s, shmem::team(team), static_cast<bytes *>(dst),
                                                  static_cast<const bytes *>(src), nbytes);)
}
SHMEMX_DEVICE_C int shmem_device_reduce_i32(int op, unsigned team, void *dst, const void *src,
                                            unsigned long long nelems)
{
    return shmem::detail::reduce_by(op, shmem::team(team), static_cast<int *>(dst),
                                    static_cast<const int *>(src), nelems);
}
SHMEMX_DEVICE_C int shmem_device_reduce_i64(int op, unsigned team, void *dst, const void *src,
                                            unsigned long long nelems)
{
    return shmem::detail::reduce_by(op, shmem::team(team), static_cast<long long *>(dst),
                                    static_cast<const long long *>(src), nelems);
}
SHMEMX_DEVICE_C int shmem_device_reduce_f32(int op, unsigned team, void *dst, const void *src,
                                            unsigned long long nelems)
{
    return shmem::detail::reduce_by(op, shmem::team(team), static_cast<float *>(dst),
                                    static_cast<const float *>(src), nelems);
}
SHMEMX_DEVICE_C int shmem_device_reduce_f64(int op, unsigned team, void *dst, const void *src,
                                            unsigned long long nelems)
{
    return shmem::detail::reduce_by(op, shmem::team(team), static_cast<double *>(dst),
                                    static_cast<const double *>(src), nelems);
}
SHMEMX_DEVICE_C int shmem_device_scan_i32(int exclusive, unsigned team, void *dst, const void *src,
                                          unsigned long long nelems)
{
    return shmem::detail::scan(shmem::block, shmem::team(team), exclusive != 0, static_cast<int *>(dst),
                               static_cast<const int *>(src), nelems);
}
SHMEMX_DEVICE_C int shmem_device_scan_i64(int exclusive, unsigned team, void *dst, const void *src,
                                          unsigned long long nelems)
{
    return shmem::detail::scan(shmem::block, shmem::team(team), exclusive != 0, static_cast<long long *>(dst),
                               static_cast<const long long *>(src), nelems);
}
SHMEMX_DEVICE_C int shmem_device_scan_f32(int exclusive, unsigned team, void *dst, const void *src,
                                          unsigned long long nelems)
{
    return shmem::detail::scan(shmem::block, shmem::team(team), exclusive != 0, static_cast<float *>(dst),
                               static_cast<const float *>(src), nelems);
}
SHMEMX_DEVICE_C int shmem_device_scan_f64(int exclusive, unsigned team, void *dst, const void *src,
                                          unsigned long long nelems)
{
    return shmem::detail::scan(shmem::block, shmem::team(team), exclusive != 0, static_cast<double *>(dst),
                               static_cast<const double *>(src), nelems);
}

#undef SHMEMX_BY_KIND
#undef SHMEMX_BY_WARPS
#undef SHMEMX_BY_SCOPE

#endif
