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

Tensors are PyTorch's over the GPU heap (`pyshmem.device.torch`) or anything else that Triton takes. Calls are
made by all threads of a program, together. They are plain Triton code, so nothing is linked, and the kernels
can be cached. The state holds addresses of this job: ask for it again after `init`.
"""

# Triton's language is not typed.
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, no-any-return, misc"
from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from .._core import lib
from ..errors import CLASSES
from . import state as _state

__all__ = [
    "State", "barrier", "fence", "my_pe", "n_pes", "peer", "signal_add", "signal_set", "signal_wait", "state",
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


def state() -> State:
    """The argument for kernels' parameter `state`. Local; the GPU heap must be open.

    NotImplementedError where kernels cannot load and store every PE's GPU memory: other hosts, or the nodes
    of ``SHMEM_NODE_ID`` under ``SHMEM_GPU_NIC=proxy`` or ``ibgda``. What a NIC's path needs is C++; use
    CuPy's raw kernels or Numba there.
    """
    now = _state.current("triton.state")
    if now["nic"]:
        raise CLASSES[lib.SHMEMX_ERR_UNSUPPORTED](
            "triton.state: some PEs' GPU memory is not mapped here, and Triton's kernels have loads and "
            "stores alone; pyshmem.device.raw and pyshmem.device.numba go through the NIC (SHMEM_GPU_NIC)"
        )
    names = ("me", "npes", "stride", "copy", "teams", "timeout_ns", "mailbox", "bases", "claim")
    return State(*(int(now[name]) for name in names))


# Numbers of device/state.h: what a note in the mailbox says, and where fields of the structures are, in units
# of 4 bytes for the mailbox, 8 for a team. Tests compare them with the header.
TIMEOUT = tl.constexpr(1)
CALL_SIGNAL_WAIT_UNTIL = tl.constexpr(10)
CALL_BARRIER = tl.constexpr(12)
TEAM_SYNC = tl.constexpr(3)
TEAM_MEETINGS = tl.constexpr(9)
ERROR_KIND, ERROR_CALL, ERROR_ME, ERROR_PE = (tl.constexpr(n) for n in (0, 1, 2, 3))
ERROR_BLOCK, ERROR_ADDRESS, ERROR_VALUE, ERROR_EXPECTED = (tl.constexpr(n) for n in (4, 6, 8, 10))


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
        there = tl.load(_at(state.bases) + pe).to(tl.int64)
        # all copies start at pages: without the hint Triton would load and store element by element
        offset = tl.multiple_of(there - tl.cast(state.copy, tl.int64), 16)
    return (pointer.to(tl.pointer_type(tl.uint8)) + offset).to(pointer.dtype)


@triton.jit
def _at(address):
    """A number as a pointer to 64-bit words."""
    return tl.cast(tl.cast(address, tl.int64), tl.pointer_type(tl.uint64))


# ---- order and signals -------------------------------------------------------------------------------------


@triton.jit
def fence():
    """This program's stores so far come before its later ones, for all who acquire one of those. Begins
    and ends with a barrier of the program."""
    tl.debug_barrier()
    # observers: this thread, with all it has seen through the barrier, and whoever acquires a later store
    tl.inline_asm_elementwise(
        "fence.acq_rel.sys; mov.u32 $0, 0;", "=r", [], dtype=tl.uint32, is_pure=False, pack=1
    )
    tl.debug_barrier()


@triton.jit
def signal_set(sig, value, pe, state):
    """Stores `value` in PE `pe`'s word `sig` (pointer to a 64-bit integer). Who sees it (by `signal_wait` or
    any acquire) sees what this program has stored before."""
    tl.debug_barrier()  # all threads' stores come before the release of the one that signals
    tl.atomic_xchg(peer(sig, pe, state), value, sem="release", scope="sys")


@triton.jit
def signal_add(sig, value, pe, state):
    """As `signal_set`, adding."""
    tl.debug_barrier()
    tl.atomic_add(peer(sig, pe, state), value, sem="release", scope="sys")


@triton.jit
def _now():
    """Nanoseconds, the same number in all threads of the program, so that they leave a loop together."""
    mine = tl.inline_asm_elementwise(
        "mov.u64 $0, %globaltimer;", "=l", [], dtype=tl.int64, is_pure=False, pack=1
    )
    # 1024 = the threads of the largest program: the maximum goes through all warps
    return tl.max(tl.zeros((1024,), tl.int64) + mine, axis=0)


@triton.jit
def _report(call, pe, address, value, expected, state):
    """The note of a wait that met its deadline, if no other note is there."""
    if state.mailbox != 0:
        words = tl.cast(tl.cast(state.mailbox, tl.int64), tl.pointer_type(tl.uint32))
        claim = tl.cast(tl.cast(state.claim, tl.int64), tl.pointer_type(tl.uint32))
        if (
            tl.atomic_cas(claim, tl.cast(0, tl.uint32), tl.cast(1, tl.uint32), sem="acq_rel", scope="sys")
            == 0
        ):
            block = tl.program_id(0) + tl.num_programs(0) * (
                tl.program_id(1) + tl.num_programs(1) * tl.program_id(2)
            )
            tl.store(words + ERROR_CALL, tl.cast(call, tl.uint32))
            tl.store(words + ERROR_ME, tl.cast(state.me, tl.int32).to(tl.uint32))
            tl.store(words + ERROR_PE, tl.cast(pe, tl.int32).to(tl.uint32))
            tl.store(words + ERROR_BLOCK, block.to(tl.uint32))
            tl.store((words + ERROR_ADDRESS).to(tl.pointer_type(tl.uint64)), tl.cast(address, tl.uint64))
            tl.store((words + ERROR_VALUE).to(tl.pointer_type(tl.uint64)), tl.cast(value, tl.uint64))
            tl.store((words + ERROR_EXPECTED).to(tl.pointer_type(tl.uint64)), tl.cast(expected, tl.uint64))
            fence()  # observers: this program, which wrote the rest, and the host, which polls kind
            tl.store(words + ERROR_KIND, tl.cast(TIMEOUT, tl.uint32))


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
        if polls % 256 == 0:  # noqa: SIM102 - a short wait never pays for the clock
            if state.timeout_ns != 0:
                now = _now()
                if start == 0:
                    start = now
                late = now - start > tl.cast(state.timeout_ns, tl.int64)
    if not there:
        _report(call, pe, word.to(tl.uint64), seen, wanted, state)
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
    team = _at(state.world)
    count = tl.load(team + TEAM_MEETINGS) + 1
    words = _at(tl.cast(state.copy, tl.int64) + tl.load(team + TEAM_SYNC).to(tl.int64))
    me = tl.cast(state.me, tl.int32)
    tl.debug_barrier()  # all threads' stores come before the releases, and all have read the count
    for other in range(state.n_pes):
        if other != me:
            # release; observers: this program, by the barrier above, and the waiting program of `other`
            tl.atomic_add(peer(words + me, other, state), 1, sem="release", scope="sys")
    met = me >= 0
    for other in range(state.n_pes):
        if other != me:
            met = _await(words + other, count, other, CALL_BARRIER, False, state) & met
    tl.store(team + TEAM_MEETINGS, count)
    tl.debug_barrier()
    return met
