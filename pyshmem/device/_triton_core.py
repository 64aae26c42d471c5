"""Below `pyshmem.device.triton`: single words, numbers of the headers, notes in the mailbox."""

# Triton's language is not typed.
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, no-any-return, misc"
from __future__ import annotations

import triton
import triton.language as tl

# Numbers of device/state.h: what a note in the mailbox says, and where fields of the structures are, in units
# of 4 bytes for the mailbox, 8 for a team. Tests compare them with the header.
TIMEOUT = tl.constexpr(1)
PROXY = tl.constexpr(11)
CALL_G, CALL_ATOMIC = tl.constexpr(3), tl.constexpr(8)
CALL_SIGNAL_WAIT_UNTIL = tl.constexpr(10)
CALL_BARRIER = tl.constexpr(12)
CALL_QUIET = tl.constexpr(24)
TEAM_SYNC = tl.constexpr(3)
TEAM_MEETINGS = tl.constexpr(9)
ERROR_KIND, ERROR_CALL, ERROR_ME, ERROR_PE = (tl.constexpr(n) for n in (0, 1, 2, 3))
ERROR_BLOCK, ERROR_ADDRESS, ERROR_VALUE, ERROR_EXPECTED = (tl.constexpr(n) for n in (4, 6, 8, 10))


def given(state, **_):
    """Whether a function has got its argument `state`; a constant. Not `is not None` in a kernel: Triton 3.4
    to 3.6 cannot compare a tuple that has None in it."""
    missing = state is None or (isinstance(state, tl.constexpr) and state.value is None)
    return tl.constexpr(not missing)


given.__triton_builtin__ = True  # type: ignore[attr-defined]  # for the compiler to call


@triton.jit
def at(address):
    """A number as a pointer to 64-bit words."""
    return tl.cast(tl.cast(address, tl.int64), tl.pointer_type(tl.uint64))


@triton.jit
def block_index():
    """The linear number of the program."""
    return tl.program_id(0) + tl.num_programs(0) * (tl.program_id(1) + tl.num_programs(1) * tl.program_id(2))


# ---- single words: what is left of kernels in Triton's interpreter is replaced here (tests) ----------------


@triton.jit
def system_fence():
    """Of each thread."""
    tl.inline_asm_elementwise(
        "fence.acq_rel.sys; mov.u32 $0, 0;", "=r", [], dtype=tl.uint32, is_pure=False, pack=1
    )


@triton.jit
def clock():
    """Nanoseconds, of each thread."""
    return tl.inline_asm_elementwise(
        "mov.u64 $0, %globaltimer;", "=l", [], dtype=tl.int64, is_pure=False, pack=1
    )


# What one thread alone does in inline assembly ends with a barrier of its warp. Without it ptxas lets the
# other threads run ahead to a barrier of the program, where the warp must be in one piece. It does so, too,
# with what Triton makes of an atomic addition of 0, a relaxed load: so words are loaded by `look`. And with
# what it makes of an atomic whose old value nobody asks for: so `join_warp` comes behind those. Of five
# kernels over the proxy the three with such places did not end on an H200, the other two did (ptxas 12.8).
_FIRST = tl.constexpr("{ .reg .pred p; .reg .u32 t; mov.u32 t, %tid.x; setp.eq.u32 p, t, 0; ")
_NONE = tl.constexpr("mov.b64 $0, 0x8000000000000000; ")
_AGAIN = tl.constexpr(" bar.warp.sync 0xffffffff; }")


@triton.jit
def join_warp():
    """Each warp goes on as a whole."""
    tl.inline_asm_elementwise(
        "mov.u32 $0, 0; bar.warp.sync 0xffffffff;", "=r", [], dtype=tl.uint32, is_pure=False, pack=1
    )


@triton.jit
def load_word(pointer, BITS: tl.constexpr = 64):
    """*pointer, 32 or 64 bits that a host may be writing: in the program's first thread, acquire; the least
    int64 in the others."""
    wide: tl.constexpr = "@p ld.acquire.sys.global.u64 $0, [$1];"
    half: tl.constexpr = ".reg .u32 w; @p ld.acquire.sys.global.u32 w, [$1]; @p cvt.u64.u32 $0, w;"
    return tl.inline_asm_elementwise(
        _FIRST + _NONE + (wide if BITS == 64 else half) + _AGAIN,
        "=&l,l",
        [pointer.to(tl.uint64)],
        dtype=tl.int64,
        is_pure=False,
        pack=1,
    )


@triton.jit
def store_word(pointer, value, RELEASE: tl.constexpr):
    """*pointer = value, 64 bits that a host looks at, by one thread of the program."""
    how: tl.constexpr = "release" if RELEASE else "relaxed"
    tl.inline_asm_elementwise(
        _FIRST + "mov.u32 $0, 0; @p st." + how + ".sys.global.u64 [$1], $2;" + _AGAIN,
        "=&r,l,l",
        [pointer.to(tl.uint64), value],
        dtype=tl.uint32,
        is_pure=False,
        pack=1,
    )


@triton.jit
def compare_swap_word(pointer, condition, value):
    """*pointer, 64 bits of any PE, as it was: in the program's first thread; the least int64 in the others.
    Triton's own does not compile for this size before version 3.6."""
    return tl.inline_asm_elementwise(
        _FIRST + _NONE + "@p atom.relaxed.sys.global.cas.b64 $0, [$1], $2, $3;" + _AGAIN,
        "=&l,l,l,l",
        [pointer.to(tl.uint64), condition, value],
        dtype=tl.int64,
        is_pure=False,
        pack=1,
    )


@triton.jit
def most(mine):
    """The largest of what the threads have in an int64: the same number in all of them, so that they leave a
    loop together."""
    # 1024 = the threads of the largest program: the maximum goes through all warps
    return tl.max(tl.zeros((1024,), tl.int64) + mine, axis=0)


@triton.jit
def look(pointer, BITS: tl.constexpr = 64):
    """*pointer as `load_word` has it, in all threads."""
    return most(load_word(pointer, BITS)).to(tl.uint64, bitcast=True)


@triton.jit
def begin_turn(taken):
    """Whether it is this program's turn to look at a word of the host's, which are served one by one; until
    `end_turn`. `taken`: a pointer to the word's 32 bits in the GPU's memory (device/nic.h, turn)."""
    mine = look(taken, 32) == 0
    if mine:
        one = tl.cast(1, tl.uint32)
        mine = tl.atomic_cas(taken, tl.cast(0, tl.uint32), one, sem="relaxed", scope="gpu") == 0
    return mine


@triton.jit
def end_turn(taken):
    tl.atomic_xchg(taken, tl.cast(0, tl.uint32), sem="relaxed", scope="gpu")


# ---- notes -------------------------------------------------------------------------------------------------


@triton.jit
def publish():
    """This program's stores so far come before its later ones. Begins and ends with a barrier of it."""
    tl.debug_barrier()
    # observers: this thread, with all it has seen through the barrier, and whoever acquires a later store
    system_fence()
    tl.debug_barrier()


@triton.jit
def report(KIND: tl.constexpr, call, pe, address, value, expected, state):
    """Leaves a note, if no other note is there."""
    if state.mailbox != 0:
        words = tl.cast(tl.cast(state.mailbox, tl.int64), tl.pointer_type(tl.uint32))
        claim = tl.cast(tl.cast(state.claim, tl.int64), tl.pointer_type(tl.uint32))
        if (
            tl.atomic_cas(claim, tl.cast(0, tl.uint32), tl.cast(1, tl.uint32), sem="acq_rel", scope="sys")
            == 0
        ):
            tl.store(words + ERROR_CALL, tl.cast(call, tl.uint32))
            tl.store(words + ERROR_ME, tl.cast(state.me, tl.int32).to(tl.uint32))
            tl.store(words + ERROR_PE, tl.cast(pe, tl.int32).to(tl.uint32))
            tl.store(words + ERROR_BLOCK, block_index().to(tl.uint32))
            tl.store((words + ERROR_ADDRESS).to(tl.pointer_type(tl.uint64)), tl.cast(address, tl.uint64))
            tl.store((words + ERROR_VALUE).to(tl.pointer_type(tl.uint64)), tl.cast(value, tl.uint64))
            tl.store((words + ERROR_EXPECTED).to(tl.pointer_type(tl.uint64)), tl.cast(expected, tl.uint64))
            publish()  # observers: this program, which wrote the rest, and the host, which polls kind
            tl.store(words + ERROR_KIND, tl.cast(KIND, tl.uint32))
