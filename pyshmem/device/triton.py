"""libshmem in Triton kernels.

    import triton, triton.language as tl
    import pyshmem as shmem
    from pyshmem.device import triton as shmem_triton

    @triton.jit
    def shift(to, source, sig, state, N: tl.constexpr):
        pe = (state.me + 1) % state.n_pes
        i = tl.arange(0, N)
        tl.store(shmem_triton.peer(to, pe, state) + i, tl.load(source + i))  # into the peer's memory
        shmem_triton.signal_set(sig, 1, pe, state)
        shmem_triton.signal_wait(sig, 1, state)

    shift[(1,)](to, source, sig, shmem_triton.state(), N=1024)

A kernel gets the state as one argument, the tuple `state()`, and addresses a peer's copy of a symmetric
tensor by `peer`, which adds to the pointer a multiple of the heap's stride, or what a table says where the
driver has chosen the places (SHMEM_DEVICE_SHARING=ipc); loads, stores and atomics on it are Triton's own,
vectorized and pipelined as any other. What Triton does not have are functions here: signals that publish what
the whole program has stored, waits with the deadline of SHMEM_TIMEOUT, a fence, a barrier.

`put`, `get`, `put_signal`, `p`, `g`, the atomics, `quiet`, signals and the barrier also serve PEs whose GPU
memory is not mapped, on another host, where `peer` has nothing to offer: by commands to the proxy, or by
posting to the NIC (SHMEM_GPU_NIC). Kernels that use these alone run in any job. Where all is mapped nothing
of that is compiled.

Tensors are PyTorch's over the GPU heap (`pyshmem.device.torch`) or anything else that Triton takes. Calls
are made by all threads of a program, together; values are scalars, the same in all of them. They are plain
Triton code with inline assembly, so nothing is linked, and the kernels can be cached. The state holds
addresses of this job: ask for it again after `init`.
"""

# Triton's language is not typed.
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, no-any-return, misc"
from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from . import _triton_nic as nic
from . import state as _state
from ._triton_core import (
    CALL_BARRIER,
    CALL_SIGNAL_WAIT_UNTIL,
    TEAM_MEETINGS,
    TEAM_SYNC,
    TIMEOUT,
    at,
    clock,
    compare_swap_word,
    given,
    join_warp,
    most,
    publish,
    report,
)

__all__ = [
    "State", "atomic_add", "atomic_and", "atomic_compare_swap", "atomic_fetch", "atomic_fetch_add",
    "atomic_fetch_and", "atomic_fetch_or", "atomic_fetch_xor", "atomic_or", "atomic_set", "atomic_swap",
    "atomic_xor", "barrier", "fence", "g", "get", "is_mapped", "my_pe", "n_pes", "p", "peer", "put",
    "put_nbi", "put_signal", "put_signal_nbi", "quiet", "signal_add", "signal_set", "signal_wait", "state",
    "wait_until_equal",
]  # fmt: skip


class State(NamedTuple):
    """What a kernel needs to know; made by `state`."""

    me: int  # this PE's number
    n_pes: int
    stride: int  # bytes from one PE's copy of the heap to the next one's
    copy: int  # address of this PE's copy
    world: int  # address of struct shmemx_device_team of all PEs
    timeout_ns: int  # of each wait; 0 = none
    mailbox: int  # address of struct shmemx_device_error; 0 = none
    bases: int  # address of the table of all PEs' copies (64-bit numbers); 0 = they are `stride` apart
    claim: int  # address of the mailbox's word in GPU memory
    nic: int | None = None  # address of struct shmemx_device_nic; None = every PE's copy is mapped
    posts: int | None = None  # address of struct shmemx_device_state; None = kernels do not post to a NIC
    amos: int | None = None  # SHMEMX_NIC_* of what executes atomics of mapped PEs; None = this GPU


def state() -> State:
    """The argument for kernels' parameter `state`. Local; the GPU heap must be open."""
    now = _state.current("triton.state")
    names = ("me", "npes", "stride", "copy", "teams", "timeout_ns", "mailbox", "bases", "claim")
    posts = int(now["self"]) if now["flags"] & _state.POSTS else None
    # with both paths open these kernels post by the proxy alone, whose atomics on mapped PEs are the GPU's
    by_nic = posts is not None or now["ways"]["atomics"] == _state.NIC_PROXY
    amos = int(now["ways"]["atomics"]) if by_nic else None
    return State(*(int(now[name]) for name in names), nic=int(now["nic"]) or None, posts=posts, amos=amos)


# ---- who and where -----------------------------------------------------------------------------------------


@triton.jit
def my_pe(state):
    """The number of this PE."""
    return state.me


@triton.jit
def n_pes(state):
    """How many PEs the job has."""
    return state.n_pes


@triton.jit
def peer(pointer, pe, state):
    """Where this kernel finds PE `pe`'s copy of what `pointer` (a pointer or a tensor of them) points to."""
    offset = (tl.cast(pe, tl.int64) - tl.cast(state.me, tl.int64)) * tl.cast(state.stride, tl.int64)
    if state.bases != 0:
        there = tl.load(at(state.bases) + pe).to(tl.int64)
        # all copies start at pages: without the hint Triton would load and store element by element
        offset = tl.multiple_of(there - tl.cast(state.copy, tl.int64), 16)
    return (pointer.to(tl.pointer_type(tl.uint8)) + offset).to(pointer.dtype)


@triton.jit
def is_mapped(pe, state):
    """Whether `peer` may be asked for PE `pe`: for an `if`, a constant where all are mapped."""
    return not nic.far(pe, state)


@triton.jit
def _offset(pointer, state):
    """Where in each PE's copy."""
    return pointer.to(tl.uint64) - tl.cast(tl.cast(state.copy, tl.int64), tl.uint64)


# ---- put and get -------------------------------------------------------------------------------------------


@triton.jit
def _copy(to, source, nelems, BLOCK: tl.constexpr):
    for begin in range(0, nelems, BLOCK):
        i = begin + tl.arange(0, BLOCK)
        tl.store(to + i, tl.load(source + i, mask=i < nelems), mask=i < nelems)


@triton.jit
def put_nbi(to, source, nelems, pe, state, BLOCK: tl.constexpr = 1024):
    """`nelems` elements from `source` to PE `pe`'s copy of `to`: pointers of one dtype, both symmetric. The
    program copies BLOCK elements at a time where `pe` is mapped. `source` stays in use, and nothing is
    complete, before `quiet`. What the program has stored before into `source` is sent."""
    if nic.far(pe, state):
        nbytes = tl.cast(nelems, tl.int64) * (to.dtype.element_ty.primitive_bitwidth // 8)
        nic.put(_offset(to, state), source.to(tl.uint64), nbytes, pe, state)
    else:
        tl.debug_barrier()
        _copy(peer(to, pe, state), source, nelems, BLOCK)


@triton.jit
def put(to, source, nelems, pe, state, BLOCK: tl.constexpr = 1024):
    """As `put_nbi`; on return `source` may be written again."""
    put_nbi(to, source, nelems, pe, state, BLOCK)
    if nic.far(pe, state):
        nic.quiet(state)
    else:
        tl.debug_barrier()


@triton.jit
def get(to, source, nelems, pe, state, BLOCK: tl.constexpr = 1024):
    """`nelems` elements of PE `pe`'s copy of `source` to this PE's `to`, both symmetric; there on return."""
    if nic.far(pe, state):
        nbytes = tl.cast(nelems, tl.int64) * (to.dtype.element_ty.primitive_bitwidth // 8)
        nic.get(to.to(tl.uint64), _offset(source, state), nbytes, pe, state)
        nic.quiet(state)
    else:
        _copy(to, peer(source, pe, state), nelems, BLOCK)
        tl.debug_barrier()


@triton.jit
def put_signal_nbi(
    to, source, nelems, sig, value, pe, state, ADD: tl.constexpr = False, BLOCK: tl.constexpr = 1024
):
    """As `put_nbi`, then PE `pe`'s word `sig` (64 bits) is set, or added to with ADD: who sees the signal
    sees the data."""
    if nic.far(pe, state):
        nbytes = tl.cast(nelems, tl.int64) * (to.dtype.element_ty.primitive_bitwidth // 8)
        nic.put_signal(
            _offset(to, state), source.to(tl.uint64), nbytes, _offset(sig, state), value, ADD, pe, state
        )
    else:
        put_nbi(to, source, nelems, pe, state, BLOCK)
        if ADD:
            signal_add(sig, value, pe, state)
        else:
            signal_set(sig, value, pe, state)


@triton.jit
def put_signal(
    to, source, nelems, sig, value, pe, state, ADD: tl.constexpr = False, BLOCK: tl.constexpr = 1024
):
    """As `put_signal_nbi`; on return `source` may be written again."""
    put_signal_nbi(to, source, nelems, sig, value, pe, state, ADD, BLOCK)
    if nic.far(pe, state):
        nic.quiet(state)
    else:
        tl.debug_barrier()


@triton.jit
def _bits(value, dtype: tl.constexpr):
    """A value of the dtype as the low bits of a 64-bit number."""
    as_integer: tl.constexpr = tl.core.get_int_dtype(dtype.primitive_bitwidth, signed=False)
    return tl.cast(value, dtype).to(as_integer, bitcast=True).to(tl.uint64)


@triton.jit
def _value(bits, dtype: tl.constexpr):
    as_integer: tl.constexpr = tl.core.get_int_dtype(dtype.primitive_bitwidth, signed=False)
    return bits.to(as_integer).to(dtype, bitcast=True)


@triton.jit
def p(to, value, pe, state):
    """One value, a scalar, into PE `pe`'s copy of what `to` points to; complete at `quiet`."""
    dtype: tl.constexpr = to.dtype.element_ty
    if nic.far(pe, state):
        nic.p(_offset(to, state), _bits(value, dtype), dtype.primitive_bitwidth // 8, pe, state)
    else:
        tl.store(peer(to, pe, state), tl.cast(value, dtype))


@triton.jit
def g(source, pe, state):
    """PE `pe`'s value of what `source` points to; 0 after an error, which `pyshmem.device.check` raises."""
    dtype: tl.constexpr = source.dtype.element_ty
    if nic.far(pe, state):
        value = _value(nic.g(_offset(source, state), dtype.primitive_bitwidth // 8, pe, state), dtype)
    else:
        value = tl.load(peer(source, pe, state), volatile=True)
    return value


# ---- atomics: scalars of 4 and 8 bytes, relaxed ------------------------------------------------------------


@triton.jit
def _atomic(OP: tl.constexpr, FETCH: tl.constexpr, word, value, condition, pe, state):
    """OP: enum shmemx_amo: fetch, set, swap, compare_swap, add, and, or, xor."""
    dtype: tl.constexpr = word.dtype.element_ty
    value, condition = tl.cast(value, dtype), tl.cast(condition, dtype)
    if nic.amo_far(pe, state):
        bits = nic.atomic(
            OP, dtype.primitive_bitwidth // 8, FETCH, _offset(word, state), _bits(value, dtype),
            _bits(condition, dtype), pe, state,
        )  # fmt: skip
        old = _value(bits, dtype)
    else:
        there = peer(word, pe, state)
        if OP == 0:
            old = tl.atomic_add(there, tl.cast(0, dtype), sem="relaxed", scope="sys")
        elif OP == 1 or OP == 2:
            old = tl.atomic_xchg(there, value, sem="relaxed", scope="sys")
        elif OP == 3 and dtype.primitive_bitwidth == 64:
            mine = compare_swap_word(there, _bits(condition, dtype), _bits(value, dtype))
            old = _value(most(mine).to(tl.uint64, bitcast=True), dtype)
        elif OP == 3:
            old = tl.atomic_cas(there, condition, value, sem="relaxed", scope="sys")
        elif OP == 4:
            old = tl.atomic_add(there, value, sem="relaxed", scope="sys")
        elif OP == 5:
            old = tl.atomic_and(there, value, sem="relaxed", scope="sys")
        elif OP == 6:
            old = tl.atomic_or(there, value, sem="relaxed", scope="sys")
        else:
            old = tl.atomic_xor(there, value, sem="relaxed", scope="sys")
        join_warp()
    return old


@triton.jit
def atomic_fetch(word, pe, state):
    """PE `pe`'s word (pointer to 32 or 64 bits)."""
    return _atomic(0, True, word, 0, 0, pe, state)


@triton.jit
def atomic_set(word, value, pe, state):
    """PE `pe`'s word becomes `value`. As the other atomics without a result, it is complete at `quiet`."""
    _atomic(1, False, word, value, 0, pe, state)


@triton.jit
def atomic_swap(word, value, pe, state):
    """As `atomic_set`; returns what was there."""
    return _atomic(2, True, word, value, 0, pe, state)


@triton.jit
def atomic_compare_swap(word, condition, value, pe, state):
    """Stores `value` if the word, of integers, equals `condition`; returns what was there."""
    return _atomic(3, True, word, value, condition, pe, state)


@triton.jit
def atomic_add(word, value, pe, state):
    """Adds to a word of integers."""
    _atomic(4, False, word, value, 0, pe, state)


@triton.jit
def atomic_and(word, value, pe, state):
    """Bitwise and."""
    _atomic(5, False, word, value, 0, pe, state)


@triton.jit
def atomic_or(word, value, pe, state):
    """Bitwise or."""
    _atomic(6, False, word, value, 0, pe, state)


@triton.jit
def atomic_xor(word, value, pe, state):
    """Bitwise exclusive or."""
    _atomic(7, False, word, value, 0, pe, state)


@triton.jit
def atomic_fetch_add(word, value, pe, state):
    """As `atomic_add`; returns what was there."""
    return _atomic(4, True, word, value, 0, pe, state)


@triton.jit
def atomic_fetch_and(word, value, pe, state):
    """As `atomic_and`; returns what was there."""
    return _atomic(5, True, word, value, 0, pe, state)


@triton.jit
def atomic_fetch_or(word, value, pe, state):
    """As `atomic_or`; returns what was there."""
    return _atomic(6, True, word, value, 0, pe, state)


@triton.jit
def atomic_fetch_xor(word, value, pe, state):
    """As `atomic_xor`; returns what was there."""
    return _atomic(7, True, word, value, 0, pe, state)


# ---- order and signals -------------------------------------------------------------------------------------


@triton.jit
def fence(state=None):
    """This program's stores so far come before its later ones, for all who acquire one of those; with
    `state`, what it has posted for PEs that are not mapped, too. Begins and ends with a barrier of the
    program."""
    if given(state):  # noqa: SIM102 - constants; the second is asked of a state alone
        if state.nic is not None:
            nic.fence(state)
    publish()


@triton.jit
def quiet(state):
    """This program's puts, stores to peers and atomics are complete. False after an error of a NIC's path,
    which `pyshmem.device.check` raises. Begins and ends with a barrier of the program."""
    if state.nic is not None:  # noqa: SIM108 - a constant chooses
        fine = nic.quiet(state)
    else:
        fine = state.n_pes > 0
    publish()
    return fine


@triton.jit
def signal_set(sig, value, pe, state):
    """Stores `value` in PE `pe`'s word `sig` (pointer to a 64-bit integer). Who sees it (by `signal_wait` or
    any acquire) sees what this program has stored there before."""
    if nic.far(pe, state):
        nic.signal(_offset(sig, state), value, False, pe, state)
    else:
        tl.debug_barrier()  # all threads' stores come before the release of the one that signals
        tl.atomic_xchg(peer(sig, pe, state), value, sem="release", scope="sys")
        join_warp()


@triton.jit
def signal_add(sig, value, pe, state):
    """As `signal_set`, adding."""
    if nic.amo_far(pe, state):
        nic.signal(_offset(sig, state), value, True, pe, state)
    else:
        tl.debug_barrier()
        tl.atomic_add(peer(sig, pe, state), value, sem="release", scope="sys")
        join_warp()


@triton.jit
def _await(word, value, pe, call, EQUAL: tl.constexpr, state):
    # A read by an atomic: Triton gives all threads the one value that its first thread read, and acquires.
    nothing = tl.cast(0, word.dtype.element_ty)
    wanted = tl.cast(value, word.dtype.element_ty)
    seen = tl.atomic_add(word, nothing, sem="acquire", scope="sys")
    there = (seen == wanted) if EQUAL else (seen >= wanted)
    polls = 0
    start = tl.cast(0, tl.int64)
    late = polls > 0
    while (not there) and (not late):
        seen = tl.atomic_add(word, nothing, sem="acquire", scope="sys")
        there = (seen == wanted) if EQUAL else (seen >= wanted)
        polls += 1
        if polls % 256 == 0:  # a short wait never pays for the clock
            if state.timeout_ns != 0:
                now = most(clock())
                if start == 0:
                    start = now
                late = now - start > tl.cast(state.timeout_ns, tl.int64)
            if state.nic is not None:
                late = late | nic.failed(state)
    if not there:
        report(TIMEOUT, call, pe, word.to(tl.uint64), seen, wanted, state)
    tl.debug_barrier()  # no thread reads what was published before the first thread's acquire
    return there


@triton.jit
def signal_wait(sig, value, state):
    """Waits until this PE's word `sig` (pointer to a 32- or 64-bit integer) is at least `value`.

    Returns whether it is: false after the deadline, which is also reported to the host
    (`pyshmem.device.check`)."""
    return _await(sig, value, -1, CALL_SIGNAL_WAIT_UNTIL, False, state)


@triton.jit
def wait_until_equal(word, value, state):
    """As `signal_wait`, until the word equals `value`."""
    return _await(word, value, -1, CALL_SIGNAL_WAIT_UNTIL, True, state)


@triton.jit
def barrier(state):
    """All PEs have called, each by one program of one kernel, and all that these programs have stored is
    complete and visible. Returns false after the deadline.

    It is the barrier of ``shmem_device.h`` over all PEs: kernels in either language meet in it."""
    team = at(state.world)
    count = tl.load(team + TEAM_MEETINGS) + 1
    words = at(tl.cast(state.copy, tl.int64) + tl.load(team + TEAM_SYNC).to(tl.int64))
    me = tl.cast(state.me, tl.int32)
    tl.debug_barrier()  # all threads' stores come before the releases, and all have read the count
    met = me >= 0
    if state.nic is not None:
        met = nic.quiet(state) & met
    for other in range(state.n_pes):
        if other != me:
            if nic.far(other, state):
                nic.atomic(4, 8, False, _offset(words + me, state), tl.cast(1, tl.uint64), 0, other, state)
            else:
                # release; observers: this program, by the barrier above, and the waiting program of `other`
                tl.atomic_add(peer(words + me, other, state), 1, sem="release", scope="sys")
    for other in range(state.n_pes):
        if other != me:
            met = _await(words + other, count, other, CALL_BARRIER, False, state) & met
    tl.store(team + TEAM_MEETINGS, count)
    tl.debug_barrier()
    return met
