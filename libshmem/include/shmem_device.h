/* libshmem in kernels: one-sided operations, atomics, waits, packets and collectives, called by GPU threads.
 *
 * C++17, header only, namespace shmem. The same code is compiled by NVRTC, by nvcc and, for CPU threads over
 * the host heap, by g++. How to read it: this file is the contract; device/state.h is what the host tells a
 * kernel; device/arch_cuda.h and device/arch_host.h are all that differs between machines; the rest is one
 * file a family.
 *
 *     __global__ void ring(float *dst, const float *src, size_t n, unsigned long long *sig) {
 *         int next = (shmem::my_pe() + 1) % shmem::n_pes();
 *         shmem::put_signal(shmem::block, dst, src, n, sig, 1, shmem::signal_set, next);
 *         shmem::signal_wait_until(shmem::block, sig, shmem::ge, 1);
 *     }
 *
 * Scopes. The first argument says who makes the call: `thread` (each thread by itself), `warp` (all 32
 * threads of a warp, together) or `block` (all threads of a block, together), with the same arguments in all
 * of them. A `stage` stands for its block (see there). Calls without a scope are made by one thread. A call
 * of a scope reads its source as the calling thread sees it: after other threads of the scope wrote it,
 * synchronize first. Calls that return nothing about a wait end with a barrier of the scope, except the nbi
 * forms and packets' as said there.
 *
 * Addresses. `dst` of a put and `src` of a get are symmetric: this PE's address, which names the same place
 * on `pe`. The other side may be any memory of this PE, shared memory and registers' spill included. Sizes
 * are in elements.
 *
 * Completion.
 *   p, put, put_nbi          on return the source may be written again (nbi: after the scope's next barrier).
 *                            Complete after quiet or barrier by the same scope (a block's put: quiet(block)),
 *                            or, for whoever waits on the signal, with put_signal's signal.
 *   g, get                   the data is there on return, for the whole scope. get_nbi: after quiet of the
 *                            same scope.
 *   atomics, signal_op       relaxed: ordered with nothing. One that returns a value is complete. Atomic with each
 *                            other, whoever issues them: where a NIC executes some, it executes all.
 *   wait_until, test, ..     acquire: what was complete before the word was stored is visible after, to the
 *                            whole scope.
 * A release at system scope costs 1.5 us over NVLink (H100) and a relaxed store nothing, so: sync publishes
 * nothing, barrier = quiet + sync, put_signal has one release, packets have none.
 *
 * PEs of other hosts. Where a PE's copy cannot be mapped, the same calls go through a NIC: by commands to a thread of the
 * host, or by work that the kernel itself posts (device/nic.h; docs, "GPU and NIC"). What differs there: ptr is null; nbi
 * forms use the source until quiet; put of more than 8 bytes of the heap waits for the peer, so that the source is free;
 * a scope's quiet and fence are for what its block has posted. With SHMEM_DEVICE_MAPPED defined none of this is compiled,
 * for kernels that are only ever run where all is mapped: they need fewer registers.
 *
 * Errors never trap. A wait that meets its deadline (SHMEM_TIMEOUT) returns false and leaves a note for the
 * host (the mailbox, struct shmemx_device_error: first error only); so does a wrong team. With
 * SHMEM_DEVICE_CHECKS defined, PEs and addresses of every call are checked too; a refused call has no effect
 * and returns 0 or false.
 *
 * A collective (sync, barrier, broadcast, ..) is called by one warp or block of every member, in the same
 * order, with the same sizes; a member must not be in two collectives of one team at once. All kernels that
 * wait for each other must be resident at the same time.
 */
#ifndef SHMEM_DEVICE_H
#define SHMEM_DEVICE_H

#include "device/state.h"

namespace shmem
{

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;
using size = decltype(sizeof 0);

/* Scope tags are enumerators: values without storage, so that device code may name them. */
enum thread_scope { thread };
enum warp_scope { warp };
enum block_scope { block };
namespace detail
{
/* All blocks of a launch: for the library's own kernels, whose collectives are made by all of them. */
enum grid_scope { grid };
} // namespace detail

/* Device number of a team (shmemx_team_device gives it); world and shared are always there. */
enum team : unsigned { world = 0, shared = 1 };

/* Comparisons and signal operations, with the values of SHMEM_CMP_* and SHMEM_SIGNAL_*. */
enum cmp { eq = 1, ne, gt, ge, lt, le };
enum signal_kind { signal_set = 1, signal_add };

/* Reduction operators, a type each. */
enum sum_op { sum };
enum prod_op { prod };
enum min_op { min };
enum max_op { max };
enum bit_and_op { bit_and };
enum bit_or_op { bit_or };
enum bit_xor_op { bit_xor };

/* "No index": what the any forms return when nothing matches. */
constexpr size none = ~static_cast<size>(0);

template <class T> struct same_type {
    using type = T;
};
/* T, but not deduced from this argument: shmem::p(counter64, 1, pe) takes the pointer's type. */
template <class T> using same = typename same_type<T>::type;

} // namespace shmem

namespace shmem::arch
{
using detail::grid_scope;
}

#ifdef __CUDACC__
#include "device/arch_cuda.h"
#else
#include "device/arch_host.h"
#endif

namespace shmem
{

/* ---- stages -------------------------------------------------------------------------------------------- */

/* Shared memory lent to a block's bulk copies. Stands for `block` wherever a scope is wanted, and large puts
 * and gets then go through the SM's copy engine (TMA, sm_90 and later): from one block 46 GB/s put and 50
 * GB/s get over NVLink (H100), with one thread at work, where vector copies by 1024 threads give 38 and less;
 * 8 blocks fill the link. Without a stage a call uses no shared memory at all: none is taken from a kernel
 * that did not ask for it.
 *
 *     extern __shared__ __align__(128) unsigned char memory[];
 *     shmem::stage blk(memory, 65536 + 128);    // all threads of the block
 *     shmem::put(blk, dst, src, n, pe);
 *
 * `memory` is 16-byte aligned, stays the stage's until the block ends, and holds bytes >= 8192 + 128 (64 to
 * 128 KiB are best; more lets more chunks fly). On older GPUs the memory is ignored and vectors are used. */
class stage
{
  public:
    /* All threads of the block. Ends with a block barrier. */
    SHMEMX_DEVICE_FN stage(void *memory, unsigned bytes);
    /* The same memory again, after a first `stage` on it: for functions that cannot hand the object on. */
    static SHMEMX_DEVICE_FN stage attach(void *memory, unsigned bytes)
    {
        return stage(memory, bytes, 0);
    }
    SHMEMX_DEVICE_FN operator block_scope() const
    {
        return block;
    }
    /* For the implementation: whether there is room for at least four chunks; the leader's part of a copy. */
    SHMEMX_DEVICE_FN bool usable() const
    {
        return chunk_ >= 2048;
    }
    SHMEMX_DEVICE_FN void engine(unsigned char *dst, const unsigned char *src, u64 bytes) const;

  private:
    SHMEMX_DEVICE_FN stage(void *memory, unsigned bytes, int);

    unsigned char *memory_; // 8 completion words, the word of their phases, from byte 128 on the slots
    unsigned chunk_, slots_;
};

/* ---- who and where ------------------------------------------------------------------------------------- */

SHMEMX_DEVICE_FN int my_pe();
SHMEMX_DEVICE_FN int n_pes();
/* This PE's number in the team, its members; -1 and a note in the mailbox if this PE is not in it. */
SHMEMX_DEVICE_FN int team_my_pe(team t);
SHMEMX_DEVICE_FN int team_n_pes(team t);
/* The number in `to` of member `pe` of `from`, or -1. */
SHMEMX_DEVICE_FN int team_translate_pe(team from, int pe, team to);
/* Where this PE can load and store pe's copy of p; null if p is not symmetric, there is no such PE, or its copy is not
 * mapped here. */
template <class T> SHMEMX_DEVICE_FN T *ptr(T *p, int pe);

/* ---- put and get --------------------------------------------------------------------------------------- */

/* One value by one thread, a single relaxed store or load for 1, 2, 4 and 8 bytes. */
template <class T> SHMEMX_DEVICE_FN void p(T *dst, same<T> value, int pe);
template <class T> SHMEMX_DEVICE_FN T g(const T *src, int pe);
/* nelems elements by a scope: 16-byte vectors when both addresses agree modulo 16, then 8, 4, 1. */
template <class Scope, class T>
SHMEMX_DEVICE_FN void put(const Scope &scope, T *dst, const T *src, size nelems, int pe);
template <class Scope, class T>
SHMEMX_DEVICE_FN void get(const Scope &scope, T *dst, const T *src, size nelems, int pe);
/* Without the barrier at the end. */
template <class Scope, class T>
SHMEMX_DEVICE_FN void put_nbi(const Scope &scope, T *dst, const T *src, size nelems, int pe);
template <class Scope, class T>
SHMEMX_DEVICE_FN void get_nbi(const Scope &scope, T *dst, const T *src, size nelems, int pe);
/* Pieces of this PE's memory, any of it, of any sizes, one behind the other at dst of pe: as put_nbi of each, in order;
 * `pieces` may change on return, what they name after quiet. Where ibgda reaches pe up to 14 pieces of the heap
 * are one message, which the NIC gathers. */
struct gather_piece {
    const void *src;
    size bytes;
};
template <class Scope>
SHMEMX_DEVICE_FN void put_gather_nbi(const Scope &scope, void *dst, const gather_piece *pieces, size count,
                                     int pe);
/* put, then *sig of pe is set or added to; who sees the signal (signal_wait_until) sees the data. S is a
 * 64-bit type. */
template <class Scope, class T, class S>
SHMEMX_DEVICE_FN void put_signal(const Scope &scope, T *dst, const T *src, size nelems, S *sig, u64 value,
                                 signal_kind op, int pe);
template <class Scope, class T, class S>
SHMEMX_DEVICE_FN void put_signal_nbi(const Scope &scope, T *dst, const T *src, size nelems, S *sig, u64 value,
                                     signal_kind op, int pe);

/* ---- order --------------------------------------------------------------------------------------------- */

/* In the place of a PE: all of them. */
constexpr int all_pes = -1;
/* The scope's puts so far are complete, on every PE or on `pe` alone; gets_nbi have their data. Begins and ends with a barrier of
 * the scope. False, in all threads, after an error of a NIC's path, which the mailbox has; where all is mapped always true. */
template <class Scope> SHMEMX_DEVICE_FN bool quiet(const Scope &scope, int pe = all_pes);
/* The scope's puts so far come before its later ones, on each PE or on `pe`. Costs what quiet costs where copies are mapped, and
 * waits for nothing on a NIC's path. */
template <class Scope> SHMEMX_DEVICE_FN void fence(const Scope &scope, int pe = all_pes);

/* ---- queue pairs --------------------------------------------------------------------------------------- */

/* In the place of a PE: its queue pair `number`, modulo queue_pairs(pe), for kernels that lay out their own traffic. A block that
 * names none uses the one of its own number. What takes one queue pair arrives in order; between two, `quiet` of the
 * first orders, and `fence` does not. To a PE that has none the calls do what they do with the PE. */
struct queue_pair {
    int pe;
    unsigned number;
};
/* SHMEM_IBGDA_QPS where the PE is reached by ibgda, else 0. */
SHMEMX_DEVICE_FN unsigned queue_pairs(int pe);
/* dst, src, sig: as with a PE. */
template <class Scope, class T>
SHMEMX_DEVICE_FN void put_nbi(const Scope &scope, T *dst, const T *src, size nelems, queue_pair to);
template <class Scope, class T>
SHMEMX_DEVICE_FN void get_nbi(const Scope &scope, T *dst, const T *src, size nelems, queue_pair from);
template <class Scope, class T, class S>
SHMEMX_DEVICE_FN void put_signal_nbi(const Scope &scope, T *dst, const T *src, size nelems, S *sig, u64 value,
                                     signal_kind op, queue_pair to);
/* What any thread of this GPU has posted to that queue pair is complete; otherwise as quiet of the PE. */
template <class Scope> SHMEMX_DEVICE_FN bool quiet(const Scope &scope, queue_pair of);

/* ---- atomics: 32- and 64-bit integers; fetch, set and swap also float and double ----------------------- */

template <class T> SHMEMX_DEVICE_FN T atomic_fetch(const T *src, int pe);
template <class T> SHMEMX_DEVICE_FN void atomic_set(T *dst, same<T> value, int pe);
template <class T> SHMEMX_DEVICE_FN T atomic_swap(T *dst, same<T> value, int pe);
/* Stores value if *dst equals condition; returns what was there. */
template <class T> SHMEMX_DEVICE_FN T atomic_compare_swap(T *dst, same<T> condition, same<T> value, int pe);
template <class T> SHMEMX_DEVICE_FN void atomic_add(T *dst, same<T> value, int pe);
template <class T> SHMEMX_DEVICE_FN void atomic_inc(T *dst, int pe);
template <class T> SHMEMX_DEVICE_FN void atomic_and(T *dst, same<T> value, int pe);
template <class T> SHMEMX_DEVICE_FN void atomic_or(T *dst, same<T> value, int pe);
template <class T> SHMEMX_DEVICE_FN void atomic_xor(T *dst, same<T> value, int pe);
/* These return what was there before. */
template <class T> SHMEMX_DEVICE_FN T atomic_fetch_add(T *dst, same<T> value, int pe);
template <class T> SHMEMX_DEVICE_FN T atomic_fetch_inc(T *dst, int pe);
template <class T> SHMEMX_DEVICE_FN T atomic_fetch_and(T *dst, same<T> value, int pe);
template <class T> SHMEMX_DEVICE_FN T atomic_fetch_or(T *dst, same<T> value, int pe);
template <class T> SHMEMX_DEVICE_FN T atomic_fetch_xor(T *dst, same<T> value, int pe);

/* ---- waits, on this PE's own symmetric words of 4 or 8 bytes ------------------------------------------- */

/* True when *ivar op value holds; false after the deadline. */
template <class Scope, class T>
SHMEMX_DEVICE_FN bool wait_until(const Scope &scope, const T *ivar, cmp op, same<T> value);
/* All words; the scope's threads share them. status: null, or int[nelems], words with a nonzero entry are
 * left out. */
template <class Scope, class T>
SHMEMX_DEVICE_FN bool wait_until_all(const Scope &scope, const T *ivars, size nelems, const int *status,
                                     cmp op, same<T> value);
/* The index of a word that fits; `none` if there are no words, or after the deadline. */
template <class T>
SHMEMX_DEVICE_FN size wait_until_any(const T *ivars, size nelems, const int *status, cmp op, same<T> value);
template <class T> SHMEMX_DEVICE_FN bool test(const T *ivar, cmp op, same<T> value);
template <class T>
SHMEMX_DEVICE_FN bool test_all(const T *ivars, size nelems, const int *status, cmp op, same<T> value);
template <class T>
SHMEMX_DEVICE_FN size test_any(const T *ivars, size nelems, const int *status, cmp op, same<T> value);
/* Signals are 64-bit unsigned words; the value seen can be read with signal_fetch afterwards. */
template <class Scope, class S>
SHMEMX_DEVICE_FN bool signal_wait_until(const Scope &scope, const S *sig, cmp op, u64 value);
template <class S> SHMEMX_DEVICE_FN u64 signal_fetch(const S *sig);
template <class S> SHMEMX_DEVICE_FN void signal_op(S *sig, u64 value, signal_kind op, int pe);

/* ---- packets ------------------------------------------------------------------------------------------- */

/* Bytes of packet buffer that a message of nbytes needs at most, in either form. */
constexpr SHMEMX_DEVICE_FN u64 packets_size(u64 nbytes)
{
    return (nbytes * 2 + 511) / 512 * 512;
}
/* A message with its arrival in every line (device/packets.h): less latency than put_signal up to some
 * 14 KiB (docs, "GPUs", has figures). Scopes: warp, and blocks of at least a warp (a last, partial warp does not take part).
 * `packets`: symmetric, 128-byte aligned, packets_size bytes, zero at first, used for nothing else.
 * `round`: not 0, and new for each message in this buffer (its low 32 bits too), as 1, 2, 3, ..; both sides
 * count. The sender may send again when it knows that the receiver has the last one; two buffers in turn save
 * that message where each round is answered. A message has less than 4 GiB. put_packets ends with a barrier of the scope; src may be any
 * local memory. */
template <class Scope, class T>
SHMEMX_DEVICE_FN bool put_packets(const Scope &scope, void *packets, const T *src, size nelems, u64 round,
                                  int pe);
/* Waits for round `round` in this PE's `packets` and writes it to dst (any local memory). False after the
 * deadline; dst may be written in part then. */
template <class Scope, class T>
SHMEMX_DEVICE_FN bool recv_packets(const Scope &scope, T *dst, const void *packets, size nelems, u64 round);

/* ---- collectives: true, or false after the deadline (the data is undefined then) ----------------------- */

/* All members have arrived. Publishes nothing: puts before it may still be under way. */
template <class Scope> SHMEMX_DEVICE_FN bool sync(const Scope &scope, team t = world);
/* All members have arrived, and all puts that the calling scopes made before are complete and visible. */
template <class Scope> SHMEMX_DEVICE_FN bool barrier(const Scope &scope, team t = world);
/* The others by warps and blocks of whole warps. dst is symmetric and ready on all members before any calls;
 * no member leaves before all have come. Small messages go as packets (up to a slot of the team: the host's
 * choice). broadcast: root's src to everybody's dst, root included. fcollect: dst has n * nelems, in the
 * order of the members. alltoall: src and dst have n * nelems; part j of src is part me of member j's dst. */
template <class Scope, class T>
SHMEMX_DEVICE_CALL bool broadcast(const Scope &scope, team t, T *dst, const T *src, size nelems, int root);
template <class Scope, class T>
SHMEMX_DEVICE_FN bool fcollect(const Scope &scope, team t, T *dst, const T *src, size nelems);
template <class Scope, class T>
SHMEMX_DEVICE_FN bool alltoall(const Scope &scope, team t, T *dst, const T *src, size nelems);
/* shmem::reduce(shmem::block, shmem::world, shmem::sum, dst, src, n). src is symmetric too and may be dst.
 * The same bits on every member: operands are taken in the order of the members. T: integers, float, double,
 * and 16-bit float classes (half, bfloat16), which are added in float. min and max: a NaN operand gives a
 * NaN. */
template <class Scope, class Op, class T>
SHMEMX_DEVICE_CALL bool reduce(const Scope &scope, team t, Op op, T *dst, const T *src, size nelems);
/* Prefix sums, element by element: over the members up to this one, and over those before it (0 on the first). As reduce
 * in all else. */
template <class Scope, class T>
SHMEMX_DEVICE_FN bool sum_inscan(const Scope &scope, team t, T *dst, const T *src, size nelems);
template <class Scope, class T>
SHMEMX_DEVICE_FN bool sum_exscan(const Scope &scope, team t, T *dst, const T *src, size nelems);

/* ---- 8-bit records (shmemx_int8.h) ---------------------------------------------------------------------- */

/* How elements are packed; a record is read with what it was made with. */
enum quant_format : unsigned { quant_int8 = 0, quant_e4m3 = 1 };
/* NaN and infinity: the whole group becomes NaN, or NaN becomes 0 and infinity its group's largest finite magnitude. */
enum quant_nonfinite : unsigned { quant_propagate, quant_saturate };
struct quant {
    quant_format format = quant_int8;
    unsigned group = 128; // elements a scale: 32, 64, 128; 0 = one for the record
    quant_nonfinite nonfinite = quant_propagate;
};
/* Bytes of a record of cols elements, a multiple of 16: shmemx_int8_row_bytes. For hosts too. */
constexpr SHMEMX_DEVICE_BOTH u64 quant_bytes(u64 cols, unsigned group = 128)
{
    return ((((cols + 3) & ~3ull) + (group == 0 ? 1 : (cols + group - 1) / group) * 4) + 15) & ~15ull;
}
/* One record of `cols` elements, by a warp or a block of whole warps, bit by bit as shmemx_quantize writes it on a CPU.
 * `record`: any memory, a peer's included (shmem::ptr; then quiet or put_signal's release as for any store); 8-byte
 * alignment is the fastest. Ends with a barrier of the scope.
 *   x  float *, __half * or __nv_bfloat16 * (include cuda_fp16.h, cuda_bf16.h before this file), 16-byte alignment is
 *      the fastest; or a function float(size i) of the element's number, which a producer computes on the spot; called
 *      once for each element, twice with group 0.
 * Returns whether all elements are finite, in all threads of the scope. */
template <class Scope, class X>
SHMEMX_DEVICE_FN bool quantize(const Scope &scope, void *record, const X &x, size cols, quant how = quant());
/* And back. y: a pointer as x, or a function void(size i, float value) that consumes them, called once for each. */
template <class Scope, class Y>
SHMEMX_DEVICE_FN void dequantize(const Scope &scope, const Y &y, const void *record, size cols,
                                 quant how = quant());

} // namespace shmem

#include "device/stage.h"
#include "device/place.h"
#include "device/nic.h"
#include "device/rma.h"
#include "device/amo.h"
#include "device/sync.h"
#include "device/gather.h"
#include "device/queue_pair.h"
#include "device/packets.h"
#include "device/codec.h"
#include "device/quant.h"
#include "device/coll.h"
#include "device/join.h"
#include "device/reduce.h"
#include "device/scan.h"

#endif
