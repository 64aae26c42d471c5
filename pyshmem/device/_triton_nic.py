"""Triton kernels and PEs whose GPU memory is not mapped: which way goes there, as device/nic.h has it.

What `pyshmem.device.triton` calls here is for PEs that `far` says yes to, and is nothing where all is
mapped: some versions of Triton (3.4 to 3.6) compile what follows an `if` on a call, though its answer is a
constant. `state.posts` chooses when a kernel is compiled: it asks the proxy (`_triton_proxy`), or posts to
the NIC itself (`_triton_ibgda`). A program's threads call together; its first one posts. Offsets and sizes
are in bytes.
"""

# Triton's language is not typed.
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, no-any-return, misc"
from __future__ import annotations

import triton
import triton.language as tl

from . import _triton_ibgda as ibgda
from . import _triton_proxy as proxy
from ._triton_core import at, begin_turn, end_turn, look, most

# Places in struct shmemx_device_nic, in units of 8 bytes; tests compare them with the header.
NIC_PATH, NIC_FAILED, NIC_LOOK = (tl.constexpr(n) for n in (1, 4, 5))


@triton.jit
def far(pe, state):
    """Whether PE `pe` is reached through a NIC. A constant where all is mapped: then nothing of this file is
    compiled."""
    if state.nic is None:
        unmapped: tl.constexpr = False
    else:
        path = tl.cast(tl.load(at(state.nic) + NIC_PATH).to(tl.int64), tl.pointer_type(tl.uint8))
        unmapped = tl.load(path + pe) != 0
    return unmapped


@triton.jit
def amo_far(pe, state):
    """As `far`, for atomics: where a NIC executes those of some PEs it executes all (device/nic.h)."""
    if state.amos is not None:
        by_nic: tl.constexpr = True
    else:
        by_nic = far(pe, state)
    return by_nic


@triton.jit
def failed(state):
    """Whether an error of a path waits for the host to ask. False also where it is another program's turn to
    look: who waits asks again."""
    word = tl.load(at(state.nic) + NIC_FAILED)
    taken = (at(state.nic) + NIC_LOOK).to(tl.pointer_type(tl.uint32))
    bad = word < 0
    if word != 0:  # noqa: SIM102 - with `and` Triton would take the turn either way
        if begin_turn(taken):
            bad = look(at(word), 32) != 0
            end_turn(taken)
    return bad


@triton.jit
def put(offset, source, nbytes, pe, state):
    """Bytes of this PE's heap, at address `source`; they stay in use until `quiet`."""
    if state.nic is None:
        pass
    elif state.posts is None:
        proxy.put(offset, source, nbytes, pe, state)
    else:
        tl.debug_barrier()  # all threads' stores come before the post of the first one; observer: the NIC
        ibgda.put(state.posts, offset, source, nbytes, pe)


@triton.jit
def get(target, offset, nbytes, pe, state):
    """To this PE's heap, at address `target`; complete at `quiet`."""
    if state.nic is None:
        pass
    elif state.posts is None:
        proxy.get(target, offset, nbytes, pe, state)
    else:
        tl.debug_barrier()  # all threads have read what the NIC will write over
        ibgda.get(state.posts, target, offset, nbytes, pe)


@triton.jit
def put_signal(offset, source, nbytes, signal_offset, value, ADD: tl.constexpr, pe, state):
    """As `put`, then the signal."""
    if state.nic is None:
        pass
    elif state.posts is None:
        proxy.put_signal(offset, source, nbytes, signal_offset, value, ADD, pe, state)
    else:
        tl.debug_barrier()  # as in put
        ibgda.put_signal(state.posts, offset, source, nbytes, signal_offset, value, 1 if ADD else 0, pe)


@triton.jit
def signal(signal_offset, value, ADD: tl.constexpr, pe, state):
    """After all that this program has posted to `pe`."""
    if state.nic is None:
        pass
    elif state.posts is None:
        proxy.put_signal(0, 0, 0, signal_offset, value, ADD, pe, state)
    else:
        tl.debug_barrier()  # as in put: for what the peer will get here
        ibgda.signal(state.posts, signal_offset, value, 1 if ADD else 0, pe)


@triton.jit
def p(offset, bits, NBYTES: tl.constexpr, pe, state):
    if state.nic is None:
        pass
    elif state.posts is None:
        proxy.p(offset, bits, NBYTES, pe, state)
    else:
        ibgda.p(state.posts, offset, bits, NBYTES, pe)


@triton.jit
def g(offset, NBYTES: tl.constexpr, pe, state):
    if state.nic is None:
        bits = tl.cast(0, tl.uint64)
    elif state.posts is None:
        bits = proxy.g(offset, NBYTES, pe, state)
    else:
        bits = most(ibgda.g(state.posts, offset, NBYTES, pe)).to(tl.uint64, bitcast=True)
    return bits


@triton.jit
def atomic(OP: tl.constexpr, NBYTES: tl.constexpr, FETCH: tl.constexpr, offset, bits, condition, pe, state):
    """OP: enum shmemx_amo. The old value, or with FETCH False 0, without a wait."""
    if state.nic is None:
        old = tl.cast(0, tl.uint64)
    elif state.posts is None:
        old = proxy.atomic(OP, NBYTES, FETCH, offset, bits, condition, pe, state)
    else:
        mine = ibgda.atomic(state.posts, OP, NBYTES, 1 if FETCH else 0, offset, bits, condition, pe)
        old = most(mine).to(tl.uint64, bitcast=True) if FETCH else tl.cast(0, tl.uint64)
    return old


@triton.jit
def fence(state):
    # A mapped PE gets stores besides a NIC's atomics, which have no order among them but by waiting.
    if state.posts is not None:  # all that a program posts for one PE is in one queue, which keeps its order
        ibgda.fence(state.posts)
    elif state.amos is not None:
        proxy.quiet(state)
    else:
        proxy.fence(state)


@triton.jit
def quiet(state):
    """What this program has posted is complete; False after an error, which the mailbox has."""
    if state.nic is None:
        fine = tl.cast(0, tl.int32) == 0
    elif state.posts is None:
        fine = proxy.quiet(state)
    else:
        fine = ibgda.quiet(state.posts) != 0  # the same in all threads
    return fine
