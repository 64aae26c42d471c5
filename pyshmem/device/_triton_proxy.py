"""Triton kernels' commands to the proxy, as device/proxy.h posts them.

A program posts as one: the words of a command are stored by its first thread, waits end in all threads
together. Offsets and sizes are in bytes. All is Triton's own code, of inline assembly only the load and store
of a word that a host sees, so that it runs in Triton's interpreter too.
"""

# Triton's language is not typed.
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, no-any-return, misc"
from __future__ import annotations

import triton
import triton.language as tl

from ._triton_core import (
    CALL_ATOMIC,
    CALL_G,
    CALL_QUIET,
    PROXY,
    at,
    begin_turn,
    block_index,
    end_turn,
    look,
    publish,
    report,
    store_word,
)

# Numbers of device/nic_state.h and device/proxy_state.h, places in units of 8 bytes; tests compare them with
# the headers.
NIC_PROXY = tl.constexpr(2)
PROXY_RINGS, PROXY_CELLS, PROXY_RING, PROXY_ANSWERS, PROXY_TURNS = (tl.constexpr(n) for n in (0, 1, 2, 3, 5))
RING_TAIL, RING_HEAD_SEEN, RING_HEAD, RING_SLOTS, RING_LOOK = (tl.constexpr(n) for n in (0, 1, 2, 3, 5))
RING_SIZE = tl.constexpr(16)
WORDS = tl.constexpr(8)
ANSWER_SIZE = tl.constexpr(4)
PUT, WORD, GET, PUT_SIGNAL, AMO, FENCE, QUIET = (tl.constexpr(n) for n in (1, 2, 4, 5, 6, 7, 8))
AT_OFFSET, AT_BYTES, AT_LOCAL, AT_VALUE, AT_SIGNAL, AT_ANSWER = (tl.constexpr(n) for n in (1, 2, 3, 4, 5, 6))
# The words that a command has.
_WHERE = tl.constexpr(1 << 1 | 1 << 2)
_LOCAL = tl.constexpr(1 << 1 | 1 << 2 | 1 << 3)
_SIGNALLED = tl.constexpr(1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5)
_ATOMIC = tl.constexpr(1 << 1 | 1 << 3 | 1 << 4)
_ANSWERED = tl.constexpr(1 << 6)
_NOTHING = tl.constexpr(0)


@triton.jit
def _proxy(state):
    return at(tl.load(at(state.nic) + NIC_PROXY))


@triton.jit
def _claim(ring, depth):
    """The number of a slot that is free."""
    number = tl.atomic_add(ring + RING_TAIL, tl.cast(1, tl.uint64), sem="relaxed", scope="gpu")
    # acquire; observers: the thread that will write the slot, and the host, which has zeroed it
    seen = look(ring + RING_HEAD_SEEN)
    taken = (ring + RING_LOOK).to(tl.pointer_type(tl.uint32))
    while number - seen >= depth:
        if begin_turn(taken):
            head = look(at(tl.load(ring + RING_HEAD)))
            tl.atomic_xchg(ring + RING_HEAD_SEEN, head, sem="release", scope="gpu")
            end_turn(taken)
        seen = look(ring + RING_HEAD_SEEN)
    return number & (depth - 1)


@triton.jit
def _send(slot, PLACE: tl.constexpr, HAS: tl.constexpr, x):
    if (HAS >> PLACE) & 1:
        store_word(slot + PLACE, (x << 1) | 1, False)


@triton.jit
def _post(
    OP: tl.constexpr, HAS: tl.constexpr, PUBLISH: tl.constexpr, pe, detail, offset, nbytes, local, value,
    signal, answer, state,
):  # fmt: skip
    """One command; the words that it does not have are not used. PUBLISH: it names memory of this GPU."""
    proxy = _proxy(state)
    settings = tl.load(proxy + PROXY_RINGS)  # rings, depth
    mine = block_index().to(tl.uint64) & ((settings & 0xFFFFFFFF) - 1)
    ring = at(tl.load(proxy + PROXY_RING)) + mine * RING_SIZE
    slot = at(tl.load(ring + RING_SLOTS)) + _claim(ring, settings >> 32) * WORDS
    local, value, signal = tl.cast(local, tl.uint64), tl.cast(value, tl.uint64), tl.cast(signal, tl.uint64)
    _send(slot, AT_OFFSET, HAS, tl.cast(offset, tl.uint64))
    _send(slot, AT_BYTES, HAS, tl.cast(nbytes, tl.uint64))
    _send(slot, AT_LOCAL, HAS, local)
    _send(slot, AT_VALUE, HAS, value)
    _send(slot, AT_SIGNAL, HAS, signal)
    _send(slot, AT_ANSWER, HAS, tl.cast(answer, tl.uint64))
    tops = (
        (local >> 63) << (16 + AT_LOCAL)
        | (value >> 63) << (16 + AT_VALUE)
        | (signal >> 63) << (16 + AT_SIGNAL)
    )
    who = tl.cast(tl.cast(pe, tl.int32).to(tl.uint32, bitcast=True), tl.uint64) << 32
    header = who | tl.cast(detail, tl.uint64) << 24 | tops | (HAS << 8 | OP << 1 | 1)
    if PUBLISH:
        # all threads' stores come before the release of the one that posts; observer: the host's thread
        tl.debug_barrier()
    store_word(slot, header, PUBLISH)


@triton.jit
def _take(state):
    """A cell for one answer: its number, and from bit 32 on its turn."""
    proxy = _proxy(state)
    last = (tl.load(proxy + PROXY_CELLS) & 0xFFFFFFFF).to(tl.int64) - 1
    turns = tl.cast(tl.load(proxy + PROXY_TURNS).to(tl.int64), tl.pointer_type(tl.uint32))
    cell = (block_index().to(tl.int64) * 67) & last
    turn = look(turns + cell, 32).to(tl.uint32)
    taken = turn % 2 == 0
    if taken:
        taken = tl.atomic_cas(turns + cell, turn, turn + 1, sem="acq_rel", scope="gpu") == turn
    while not taken:
        cell = (cell + 1) & last
        turn = look(turns + cell, 32).to(tl.uint32)
        taken = turn % 2 == 0
        if taken:
            taken = tl.atomic_cas(turns + cell, turn, turn + 1, sem="acq_rel", scope="gpu") == turn
    return ((turn // 2 + 1) & 0xFFFFFF).to(tl.uint64) << 32 | cell.to(tl.uint64)


@triton.jit
def _await(answer, call, pe, state):
    """What the host answers, 0 after an error, which is reported; and whether all is well. Gives the cell
    back."""
    proxy = _proxy(state)
    index, turn = answer & 0xFFFFFFFF, answer >> 32
    cell = at(tl.load(proxy + PROXY_ANSWERS)) + index * ANSWER_SIZE
    # no deadline here: the host's thread ends every command
    low = look(cell)
    while (low >> 32 & 0xFFFFFF) != turn:
        low = look(cell)
    high = look(cell + 1)
    while (high >> 32 & 0xFFFFFF) != turn:
        high = look(cell + 1)
    status = low >> 56
    value = (low & 0xFFFFFFFF) | high << 32
    turns = tl.cast(tl.load(proxy + PROXY_TURNS).to(tl.int64), tl.pointer_type(tl.uint32))
    tl.atomic_add(turns + index, tl.cast(1, tl.uint32), sem="release", scope="gpu")
    if status != 0:
        report(PROXY, call, pe, 0, status, 0, state)
        value = tl.cast(0, tl.uint64)
    return value, status == 0


# ---- the operations ----------------------------------------------------------------------------------------


@triton.jit
def put(offset, source, nbytes, pe, state):
    """Bytes of this PE's heap, at address `source`; they stay in use until `quiet`."""
    _post(PUT, _LOCAL, True, pe, 0, offset, nbytes, source, 0, 0, 0, state)


@triton.jit
def get(target, offset, nbytes, pe, state):
    """To this PE's heap, at address `target`; complete at `quiet`."""
    _post(GET, _LOCAL, True, pe, 0, offset, nbytes, target, 0, 0, 0, state)


@triton.jit
def put_signal(offset, source, nbytes, signal_offset, value, ADD: tl.constexpr, pe, state):
    """As `put`, then the signal; of 0 bytes: after all that this program has posted to `pe`."""
    _post(
        PUT_SIGNAL,
        _SIGNALLED,
        True,
        pe,
        2 if ADD else 1,
        offset,
        nbytes,
        source,
        value,
        signal_offset,
        0,
        state,
    )


@triton.jit
def p(offset, bits, NBYTES: tl.constexpr, pe, state):
    _post(WORD, _LOCAL, False, pe, 0, offset, NBYTES, bits, 0, 0, 0, state)


@triton.jit
def g(offset, NBYTES: tl.constexpr, pe, state):
    answer = _take(state)
    _post(GET, _LOCAL | _ANSWERED, False, pe, 0, offset, NBYTES, 0, 0, 0, answer, state)
    bits, _fine = _await(answer, CALL_G, pe, state)
    return bits


@triton.jit
def atomic(OP: tl.constexpr, NBYTES: tl.constexpr, FETCH: tl.constexpr, offset, bits, condition, pe, state):
    """OP: enum shmemx_amo. The old value, or with FETCH False 0, without a wait."""
    detail: tl.constexpr = OP | (0x80 if NBYTES == 8 else 0)
    if FETCH:
        answer = _take(state)
        _post(AMO, _ATOMIC | _ANSWERED, False, pe, detail, offset, 0, bits, condition, 0, answer, state)
        old, _fine = _await(answer, CALL_ATOMIC, pe, state)
    else:
        _post(AMO, _ATOMIC, False, pe, detail, offset, 0, bits, condition, 0, 0, state)
        old = tl.cast(0, tl.uint64)
    return old


@triton.jit
def fence(state):
    # no release here and below: the commands before it have their own
    _post(FENCE, _NOTHING, False, -1, 0, 0, 0, 0, 0, 0, 0, state)


@triton.jit
def quiet(state):
    """What this program has posted is complete; False after an error, which the mailbox has."""
    answer = _take(state)
    _post(QUIET, _ANSWERED, False, -1, 0, 0, 0, 0, 0, 0, answer, state)
    _value, fine = _await(answer, CALL_QUIET, -1, state)
    publish()  # acquire; observers: the host, which saw gets end, and this program
    return fine
