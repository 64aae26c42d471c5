/* PEs whose copy of the heap is not mapped here: which path goes to each, and one function for each kind of operation
 * that takes it. With every copy mapped (state.nic 0: one host, NVLink) a caller asks some_far() alone, one load of
 * constant memory; all else is out of line.
 *
 * The paths are structs with the same static members, in bytes and offsets into the peer's copy; all lanes of the scope
 * call:
 *
 *   put(scope, pe, offset, src, bytes)       done with src at quiet, or on return if captured(src, bytes)
 *   get(scope, pe, offset, dst, bytes)       complete at quiet, or on return if dst is not in the heap
 *   put_signal(scope, pe, offset, src, bytes, sig_offset, value, op)
 *                                            whoever sees the signal sees the bytes; bytes may be 0: then the puts
 *                                            that the scope's lanes have posted to that PE come before it
 *   amo(pe, offset, op, size, value, cond, fetch)
 *                                            op: atomic_op; one thread; fetch: waits for the old value
 *   quiet(scope, pe)                         what the scope's block has posted to pe (-1: to all) is complete; false,
 *                                            in all lanes, after an error or the deadline, which the mailbox has
 *   fence(scope, pe)                         orders that for pe; waits for nothing
 *
 * None begins or ends with a barrier of the scope unless it needs one.
 * Included by shmem_device.h only. */
#ifndef SHMEM_DEVICE_NIC_H
#define SHMEM_DEVICE_NIC_H

#include "nic_state.h"

namespace shmem
{

namespace detail
{

/* As enum shmemx_amo of shmemx.h. */
enum atomic_op { amo_fetch, amo_set, amo_swap, amo_compare_swap, amo_add, amo_and, amo_or, amo_xor };

/* A stage stands for its block. */
template <class Scope> SHMEMX_DEVICE_FN Scope plain(Scope scope)
{
    return scope;
}
SHMEMX_DEVICE_FN block_scope plain(const stage &)
{
    return block;
}

/* Is any PE's copy not mapped? The library's own kernels, which serve mapped memory alone, are compiled without the
 * question. */
SHMEMX_DEVICE_FN bool some_far()
{
#ifdef SHMEM_DEVICE_MAPPED
    return false;
#else
    return __builtin_expect(arch::state().nic != 0, 0);
#endif
}
SHMEMX_DEVICE_FN shmemx_device_nic &nic()
{
    return *reinterpret_cast<shmemx_device_nic *>(arch::state().nic);
}
/* A field that does not change while a kernel runs: loaded once, and kept over whatever fences come. */
template <class Word> SHMEMX_DEVICE_FN Word fixed(const Word &field)
{
    return arch::load_constant(&field);
}
/* SHMEMX_NIC_* of a PE; only where some_far(). */
SHMEMX_DEVICE_FN unsigned path_to(int pe)
{
    const shmemx_device_ways &w = arch::state().ways;
    if (w.path == SHMEMX_NIC_TABLE)
        return fixed(reinterpret_cast<const u8 *>(fixed(nic().path))[pe]);
    return static_cast<u32>(pe - w.mapped_first) < w.mapped ? static_cast<u32>(SHMEMX_NIC_MAPPED) : w.path;
}
SHMEMX_DEVICE_FN bool far(int pe)
{
    return some_far() && path_to(pe) != SHMEMX_NIC_MAPPED;
}
/* The same for atomics. Those of a NIC and those of a GPU are not atomic with each other; so where a NIC executes other
 * PEs', all go its way: those to PEs that are mapped, and to this one, too. */
SHMEMX_DEVICE_FN unsigned amo_path_to(int pe)
{
    const unsigned path = path_to(pe);
    return path == SHMEMX_NIC_MAPPED ? arch::state().ways.atomics : path;
}
SHMEMX_DEVICE_FN bool amo_far(int pe)
{
    return some_far() && amo_path_to(pe) != SHMEMX_NIC_MAPPED;
}
/* An atomic goes to pe by a NIC. If pe is mapped, quiet and fence have something to wait for, which they look for here. */
SHMEMX_DEVICE_FN void note_amo(int pe)
{
    if (path_to(pe) == SHMEMX_NIC_MAPPED && arch::load_relaxed(&nic().amos) == 0)
        arch::store_relaxed(&nic().amos, 1u);
}
/* Have there been any to mapped PEs? All lanes of the scope call, and get one answer. Only where some_far(). */
template <class Scope> SHMEMX_DEVICE_FN bool some_amos(const Scope &scope)
{
    return arch::state().ways.atomics != SHMEMX_NIC_MAPPED &&
           arch::all(scope, arch::lane(scope) != 0 || arch::load_relaxed(&nic().amos) != 0);
}
/* Whose turn it is to look at a word of the host's memory, among all threads of this GPU that wait for it. Loads of one
 * such word are served one after the other, 1 us each, and what the driver has to do for others waits behind them: a
 * write by a stream took 5 us, beside 128 threads that polled one word 760 us, beside 512 that polled one each 8 us
 * (H100). Who does not get the turn looks at the GPU's memory, naps, and asks again. No lock: a look without the turn would
 * be as right. */
class turn
{
  public:
    SHMEMX_DEVICE_FN explicit turn(u32 *taken)
    {
        taken_ = taken;
        mine_ = arch::load_relaxed(taken) == 0 && arch::compare_swap(taken, 0u, 1u) == 0;
    }
    SHMEMX_DEVICE_FN bool mine() const
    {
        return mine_;
    }
    SHMEMX_DEVICE_FN void end() const
    {
        arch::store_relaxed(taken_, 0u);
    }

  private:
    u32 *taken_;
    bool mine_;
};
/* Waits for an error of a path that the host has not asked for yet? False also where it is another thread's turn to look:
 * whoever waits asks again. */
SHMEMX_DEVICE_FN bool nic_failed()
{
    const u64 word = fixed(nic().failed);
    if (word == 0)
        return false;
    const turn t(&nic().look);
    if (!t.mine())
        return false;
    const bool failed = arch::load_relaxed(reinterpret_cast<const u32 *>(word)) != 0;
    t.end();
    return failed;
}
/* A wait of this thread's is over in vain: so are the others, until the host asks. Before the report, which releases it: the
 * host takes the report first, so that no word stays behind that belongs to none. */
SHMEMX_DEVICE_FN void nic_fails()
{
    if (const u64 word = fixed(nic().failed))
        arch::store_relaxed(reinterpret_cast<u32 *>(word), 1u);
}
SHMEMX_DEVICE_FN u64 offset_of(const volatile void *p)
{
    return reinterpret_cast<u64>(p) - my_copy();
}

} // namespace detail

} // namespace shmem

#include "patience.h"

#include "ibgda.h"
#include "proxy.h"

namespace shmem
{

namespace detail
{

/* A call of the member of the path that goes to pe. */
#define SHMEMX_BY_PATH(pe, member, ...)                                                                      \
    (path_to(pe) == SHMEMX_NIC_PROXY ? proxy::member(__VA_ARGS__) : ibgda::member(__VA_ARGS__))

/* Where both paths are open, long puts alone go by the proxy, and what is between the two is ordered by waiting: quiet and
 * fence end what is under way on either. A message and its signal take one. */
SHMEMX_DEVICE_FN bool put_by_proxy(int pe, u64 bytes)
{
    const unsigned path = path_to(pe);
    return path == SHMEMX_NIC_PROXY || (path == SHMEMX_NIC_BOTH && bytes >= fixed(nic().proxy_from));
}

/* The scope has posted; true: all of it is complete, on pe (-1: everywhere). */
template <class Scope> SHMEMX_DEVICE_SLOW bool far_quiet(Scope scope, int pe)
{
    if (pe >= 0 && amo_path_to(pe) != SHMEMX_NIC_BOTH)
        return amo_path_to(pe) == SHMEMX_NIC_PROXY ? proxy::quiet(scope, pe) : ibgda::quiet(scope, pe);
    bool ok = true;
    if (nic().used & 1u << SHMEMX_NIC_PROXY)
        ok = proxy::quiet(scope, pe);
    if (nic().used & 1u << SHMEMX_NIC_IBGDA)
        ok = ibgda::quiet(scope, pe) && ok;
    return ok;
}
/* Atomics by a NIC on words of PEs that are mapped come before stores to them. */
template <class Scope> SHMEMX_DEVICE_SLOW void fence_amos(Scope scope, int pe)
{
    SHMEMX_DEVICE_ROLLED
    for (int i = pe < 0 ? 0 : pe; i < (pe < 0 ? arch::state().npes : pe + 1); ++i)
        if (path_to(i) == SHMEMX_NIC_MAPPED)
            (void)far_quiet(scope, i);
}
template <class Scope> SHMEMX_DEVICE_SLOW void far_fence(Scope scope)
{
    if (some_amos(scope))
        fence_amos(scope, -1);
    if (nic().used & 1u << SHMEMX_NIC_BOTH) {
        (void)far_quiet(scope, -1);
        return;
    }
    if (nic().used & 1u << SHMEMX_NIC_PROXY)
        proxy::fence(scope, -1);
    if (nic().used & 1u << SHMEMX_NIC_IBGDA)
        ibgda::fence(scope, -1);
}

template <class Scope> SHMEMX_DEVICE_SLOW void far_fence(Scope scope, int pe)
{
    if (path_to(pe) == SHMEMX_NIC_BOTH) // neither path knows of what the other has under way
        (void)far_quiet(scope, pe);
    else
        SHMEMX_BY_PATH(pe, fence, scope, pe);
}

/* The following are for PEs that are far, far_amo for those whose atomics are. wait: on return src may be written again, or
 * dst has the data. */
template <class Scope>
SHMEMX_DEVICE_SLOW void far_put(Scope scope, void *dst, const void *src, u64 bytes, int pe, bool wait)
{
    const bool proxied = put_by_proxy(pe, bytes);
    if (proxied)
        proxy::put(scope, pe, offset_of(dst), src, bytes);
    else
        ibgda::put(scope, pe, offset_of(dst), src, bytes);
    if (wait && !(proxied ? proxy::captured(src, bytes) : ibgda::captured(src, bytes))) {
        arch::sync(scope); // all lanes have posted what the first will wait for
        (void)(proxied ? proxy::quiet(scope, pe) : ibgda::quiet(scope, pe));
    }
}
template <class Scope>
SHMEMX_DEVICE_SLOW void far_get(Scope scope, void *dst, const void *src, u64 bytes, int pe, bool wait)
{
    SHMEMX_BY_PATH(pe, get, scope, pe, offset_of(src), dst, bytes);
    if (wait && symmetric(dst, 1)) {
        arch::sync(scope);
        (void)SHMEMX_BY_PATH(pe, quiet, scope, pe);
    }
}
template <class Scope>
SHMEMX_DEVICE_SLOW void far_put_signal(Scope scope, void *dst, const void *src, u64 bytes, void *sig,
                                       u64 value, signal_kind op, int pe, bool wait)
{
    if (bytes == 0 && path_to(pe) == SHMEMX_NIC_BOTH)
        (void)proxy::quiet(scope, pe); // the puts that come before it
    SHMEMX_BY_PATH(pe, put_signal, scope, pe, offset_of(dst), src, bytes, offset_of(sig), value, op);
    if (wait && !SHMEMX_BY_PATH(pe, captured, src, bytes)) {
        arch::sync(scope);
        (void)SHMEMX_BY_PATH(pe, quiet, scope, pe);
    }
}
/* A value of 1, 2, 4 or 8 bytes, by one thread. */
SHMEMX_DEVICE_SLOW void far_p(void *dst, u64 value, unsigned bytes, int pe)
{
    if (path_to(pe) == SHMEMX_NIC_PROXY)
        proxy::p(pe, offset_of(dst), value, bytes);
    else
        ibgda::put(thread, pe, offset_of(dst), &value, bytes); // the lowest byte comes first
}
SHMEMX_DEVICE_SLOW u64 far_g(const void *src, unsigned bytes, int pe)
{
    u64 value = 0;
    far_get(thread, &value, src, bytes, pe, true);
    return value;
}
SHMEMX_DEVICE_SLOW u64 far_amo(const volatile void *p, int pe, atomic_op op, unsigned size, u64 value,
                               u64 cond, bool fetch)
{
    note_amo(pe);
    return amo_path_to(pe) == SHMEMX_NIC_PROXY ? proxy::amo(pe, offset_of(p), op, size, value, cond, fetch)
                                               : ibgda::amo(pe, offset_of(p), op, size, value, cond, fetch);
}

} // namespace detail

} // namespace shmem

#endif
