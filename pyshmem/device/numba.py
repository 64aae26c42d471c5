"""libshmem in Numba-CUDA kernels.

    from numba import cuda
    import pyshmem as shmem
    from pyshmem.device import numba as shmem_numba

    @cuda.jit
    def ring(to, source, sig):
        next = (shmem_numba.my_pe() + 1) % shmem_numba.n_pes()
        shmem_numba.put_signal(shmem_numba.block, to, source, sig, 1, shmem_numba.signal_set, next)
        shmem_numba.signal_wait_until(shmem_numba.block, sig, shmem_numba.ge, 1)

The names, the order of arguments and the meaning are those of ``shmem_device.h``, which see: the first
argument of a call with a scope is `thread`, `warp` or `block`. Arrays stand for pointers and sizes:
contiguous device arrays (CuPy's, torch's), slices of them, and ``cuda.shared.array`` or ``cuda.local.array``
on the local side. A transfer has as many elements as the smaller of both arrays. What types show (layout,
dtypes that differ) is a TypingError when the kernel is compiled. Calls that can meet a deadline return bool.

How it works: each function is declared to Numba and defined by the C functions of ``device/wrappers.h``, as
CUDA C++ source that Numba compiles with its own NVRTC and links into every module that calls one, as LTO-IR
where the kernel asks for it (``@cuda.jit(lto=True)``, then the scope's branch disappears), else as PTX. The
state is the linked code's symbol ``shmem_device_state``, filled by a callback when Numba loads the module; so
kernels have no hidden argument. The GPU heap must be open by then.

In Numba's simulator (NUMBA_ENABLE_CUDASIM=1) the same functions run as Python over the host heap, whose
arrays stand for device arrays. Nothing is compiled there: a TypingError comes when the call is made.
"""

# Numba is typed only in parts.
# mypy: disable-error-code="no-untyped-call, no-untyped-def, untyped-decorator, call-arg, misc, no-any-return"
from __future__ import annotations

from typing import Any

from numba import config, cuda

from ..types import CMP, SIGNAL

core: Any  # the functions named c_ are C's, the others read arrays and values
if getattr(config, "ENABLE_CUDASIM", 0):
    from . import _numba_sim as core
else:
    from . import _numba_core as core

__all__ = [
    "all_reduce", "alltoall", "atomic_add", "atomic_and", "atomic_compare_swap", "atomic_fetch",
    "atomic_fetch_add", "atomic_fetch_and", "atomic_fetch_inc", "atomic_fetch_or", "atomic_fetch_xor",
    "atomic_inc", "atomic_or", "atomic_set", "atomic_swap", "atomic_xor", "barrier", "block", "broadcast",
    "eq",
    "fcollect", "fence", "g", "ge", "get", "get_nbi", "gt", "le", "lt", "my_pe", "n_pes", "ne", "p", "peer",
    "put", "put_nbi", "put_packets", "put_signal", "put_signal_nbi", "quiet", "recv_packets", "shared",
    "signal_add", "signal_fetch", "signal_op", "signal_set", "signal_wait_until", "sum_exscan", "sum_inscan",
    "sync", "team_my_pe", "team_n_pes", "test", "test_all", "test_any", "thread", "wait_until",
    "wait_until_all", "wait_until_any", "warp", "world",
]  # fmt: skip

thread, warp, block = 0, 1, 2
eq, ne, gt, ge, lt, le = (int(CMP[name]) for name in ("EQ", "NE", "GT", "GE", "LT", "LE"))
signal_set, signal_add = int(SIGNAL.SET), int(SIGNAL.ADD)
world, shared = 0, 1
SUM, PROD, MIN, MAX = 0, 1, 2, 3

_device = cuda.jit(device=True)


# ---- who and where -----------------------------------------------------------------------------------------


@_device
def my_pe():
    """The number of this PE."""
    return core.c_my_pe()


@_device
def n_pes():
    """How many PEs the job has."""
    return core.c_n_pes()


@_device
def team_my_pe(team):
    """This PE's number in `team` (world, shared, or a device team number)."""
    return core.c_team_my_pe(team)


@_device
def team_n_pes(team):
    """Members of `team`."""
    return core.c_team_n_pes(team)


@cuda.jit(device=True, inline="always")  # into the caller: a compiled function could not return an array
def peer(a, pe):
    """PE `pe`'s copy of a symmetric array, to be loaded and stored directly; check `pe` first."""
    return core.moved(a, core.c_ptr(core.address(a), pe))


# ---- put and get -------------------------------------------------------------------------------------------


@_device
def p(target, value, pe):
    """Stores `value` in the first element of `target` on PE `pe`; elements of 1, 4 or 8 bytes."""
    bits = core.to_bits(target, value)
    if core.width(target) == 8:
        core.c_p8(core.address(target), bits, pe)
    elif core.width(target) == 32:
        core.c_p32(core.address(target), bits, pe)
    else:
        core.c_p64(core.address(target), bits, pe)


@_device
def g(source, pe):
    """The first element of `source` on PE `pe`."""
    if core.width(source) == 8:
        bits = core.types.uint64(core.c_g8(core.address(source), pe))
    elif core.width(source) == 32:
        bits = core.types.uint64(core.c_g32(core.address(source), pe))
    else:
        bits = core.c_g64(core.address(source), pe)
    return core.from_bits(source, bits)


@_device
def put(scope, target, source, pe):
    """Copies local `source` to `target` on PE `pe`."""
    core.c_put(scope, core.address(target), core.address(source), core.bytes_of(target, source), pe)


@_device
def get(scope, target, source, pe):
    """Copies `source` on PE `pe` to local `target`."""
    core.c_get(scope, core.address(target), core.address(source), core.bytes_of(target, source), pe)


@_device
def put_nbi(scope, target, source, pe):
    """As `put`, without the scope's barrier at the end."""
    core.c_put_nbi(scope, core.address(target), core.address(source), core.bytes_of(target, source), pe)


@_device
def get_nbi(scope, target, source, pe):
    """As `get`; the data is there after `quiet` of the same scope."""
    core.c_get_nbi(scope, core.address(target), core.address(source), core.bytes_of(target, source), pe)


@_device
def put_signal(scope, target, source, sig, value, op, pe):
    """As `put`, then PE `pe`'s `sig` is set or added to (signal_set, signal_add)."""
    core.c_put_signal(
        scope,
        core.address(target),
        core.address(source),
        core.bytes_of(target, source),
        core.signal_word(sig),
        value,
        op,
        pe,
    )


@_device
def put_signal_nbi(scope, target, source, sig, value, op, pe):
    """As `put_signal`; `source` may be written again after the scope's next barrier."""
    core.c_put_signal_nbi(
        scope,
        core.address(target),
        core.address(source),
        core.bytes_of(target, source),
        core.signal_word(sig),
        value,
        op,
        pe,
    )


@_device
def put_packets(scope, packets, source, round, pe):
    """All of `source` as packets into `packets` (uint8, symmetric) of PE `pe`; scope warp or block."""
    return (
        core.c_put_packets(
            scope, core.address(packets), core.address(source), core.bytes_of(source, source), round, pe
        )
        != 0
    )


@_device
def recv_packets(scope, target, packets, round):
    """Waits for round `round` in this PE's `packets`, which fills all of `target`."""
    return (
        core.c_recv_packets(
            scope, core.address(target), core.address(packets), core.bytes_of(target, target), round
        )
        != 0
    )


# ---- order, sync -------------------------------------------------------------------------------------------


@_device
def fence(scope, pe=-1):
    """The scope's puts so far come before its later ones, on each PE or on `pe` alone."""
    core.c_fence(scope, pe)


@_device
def quiet(scope, pe=-1):
    """The scope's puts so far are complete, on every PE or on `pe` alone; False after an error of a NIC's
    path."""
    return core.c_quiet(scope, pe) != 0


@_device
def sync(scope, team):
    """All members have arrived; completes nothing."""
    return core.c_sync(scope, team) != 0


@_device
def barrier(scope, team):
    """All members have arrived, and the calling scopes' puts are complete and visible."""
    return core.c_barrier(scope, team) != 0


# ---- waits and signals -------------------------------------------------------------------------------------


@_device
def wait_until(scope, ivar, cmp, value):
    """Waits until the first element of this PE's `ivar` compares true; int32, int64 or uint64."""
    kind = core.comparison_of(ivar)
    if kind == 32:
        return core.c_wait32(scope, core.address(ivar), cmp, value) != 0
    if kind == 64:
        return core.c_wait64(scope, core.address(ivar), cmp, core.types.uint64(core.types.int64(value))) != 0
    return core.c_signal_wait(scope, core.address(ivar), cmp, value) != 0


@_device
def _compared(seen, cmp, value):
    if cmp == 1:
        return seen == value
    if cmp == 2:
        return seen != value
    if cmp == 3:
        return seen > value
    if cmp == 4:
        return seen >= value
    if cmp == 5:
        return seen < value
    return seen <= value


@_device
def test(ivar, cmp, value):
    """Whether the first element of this PE's `ivar` compares true now; int32, int64 or uint64."""
    kind = core.comparison_of(ivar)
    if kind == 32:
        return core.c_test32(core.address(ivar), cmp, value) != 0
    if kind == 64:
        return core.c_test64(core.address(ivar), cmp, core.types.uint64(core.types.int64(value))) != 0
    return _compared(core.c_signal_fetch(core.address(ivar)), cmp, core.types.uint64(value))


@_device
def _bits(ivars, value):
    if core.comparison_of(ivars) == 65:
        return core.types.uint64(value)
    return core.types.uint64(core.types.int64(value))


@_device
def wait_until_all(scope, ivars, cmp, value):
    """Waits until all elements of this PE's `ivars` compare true; the scope's threads share them."""
    kind = core.comparison_of(ivars)
    return core.c_wait_all(scope, core.address(ivars), ivars.size, kind, cmp, _bits(ivars, value)) != 0


@_device
def wait_until_any(ivars, cmp, value):
    """Waits, by one thread, until an element of this PE's `ivars` compares true, and returns its index; -1 if
    there is no element, or after the deadline."""
    kind = core.comparison_of(ivars)
    return core.types.int64(core.c_wait_any(core.address(ivars), ivars.size, kind, cmp, _bits(ivars, value)))


@_device
def test_all(ivars, cmp, value):
    """Whether all elements of this PE's `ivars` compare true now."""
    kind = core.comparison_of(ivars)
    return core.c_test_all(core.address(ivars), ivars.size, kind, cmp, _bits(ivars, value)) != 0


@_device
def test_any(ivars, cmp, value):
    """The index of an element of this PE's `ivars` that compares true now, or -1."""
    kind = core.comparison_of(ivars)
    return core.types.int64(core.c_test_any(core.address(ivars), ivars.size, kind, cmp, _bits(ivars, value)))


@_device
def signal_wait_until(scope, sig, cmp, value):
    """Waits until this PE's signal word compares true with `value`, unsigned."""
    return core.c_signal_wait(scope, core.signal_word(sig), cmp, value) != 0


@_device
def signal_fetch(sig):
    """The value of this PE's signal word."""
    return core.c_signal_fetch(core.signal_word(sig))


@_device
def signal_op(sig, value, op, pe):
    """Sets or adds to PE `pe`'s signal word, without data."""
    core.c_signal_op(core.signal_word(sig), value, op, pe)


# ---- atomics, on first elements; the numbers are those of device/wrappers.h --------------------------------


@_device
def _atomic(op, target, bits, condition, pe):
    if core.width(target) == 32:
        return core.types.uint64(core.c_atomic32(op, core.address(target), bits, condition, pe))
    return core.c_atomic64(op, core.address(target), bits, condition, pe)


@_device
def atomic_fetch(source, pe):
    """The first element of `source` on PE `pe`, read atomically."""
    return core.from_bits(source, _atomic(0, source, core.types.uint64(0), core.types.uint64(0), pe))


@_device
def atomic_set(target, value, pe):
    """Stores `value` in the first element of `target` on PE `pe`."""
    _atomic(1, target, core.to_bits(target, value), core.types.uint64(0), pe)


@_device
def atomic_swap(target, value, pe):
    """As `atomic_set`; returns the old value."""
    return core.from_bits(target, _atomic(2, target, core.to_bits(target, value), core.types.uint64(0), pe))


@_device
def atomic_compare_swap(target, condition, value, pe):
    """Stores `value` if the old value equals `condition`; returns the old value."""
    core.integers(target)
    return core.from_bits(
        target, _atomic(3, target, core.to_bits(target, value), core.to_bits(target, condition), pe)
    )


@_device
def atomic_fetch_add(target, value, pe):
    """Adds; returns the old value. Integers, as all below."""
    core.integers(target)
    return core.from_bits(target, _atomic(4, target, core.to_bits(target, value), core.types.uint64(0), pe))


@_device
def atomic_fetch_inc(target, pe):
    """Adds 1; returns the old value."""
    return atomic_fetch_add(target, 1, pe)


@_device
def atomic_fetch_and(target, value, pe):
    """Bitwise and; returns the old value."""
    core.integers(target)
    return core.from_bits(target, _atomic(5, target, core.to_bits(target, value), core.types.uint64(0), pe))


@_device
def atomic_fetch_or(target, value, pe):
    """Bitwise or; returns the old value."""
    core.integers(target)
    return core.from_bits(target, _atomic(6, target, core.to_bits(target, value), core.types.uint64(0), pe))


@_device
def atomic_fetch_xor(target, value, pe):
    """Bitwise exclusive or; returns the old value."""
    core.integers(target)
    return core.from_bits(target, _atomic(7, target, core.to_bits(target, value), core.types.uint64(0), pe))


@_device
def atomic_add(target, value, pe):
    """Adds `value` to the first element of `target` on PE `pe`."""
    atomic_fetch_add(target, value, pe)


@_device
def atomic_inc(target, pe):
    """Adds 1."""
    atomic_fetch_add(target, 1, pe)


@_device
def atomic_and(target, value, pe):
    """Bitwise and."""
    atomic_fetch_and(target, value, pe)


@_device
def atomic_or(target, value, pe):
    """Bitwise or."""
    atomic_fetch_or(target, value, pe)


@_device
def atomic_xor(target, value, pe):
    """Bitwise exclusive or."""
    atomic_fetch_xor(target, value, pe)


# ---- collectives: scope warp or block ----------------------------------------------------------------------


@_device
def broadcast(scope, team, target, source, root):
    """The root's `source` to everybody's `target`."""
    return (
        core.c_broadcast(
            scope, team, core.address(target), core.address(source), core.bytes_of(target, source), root
        )
        != 0
    )


@_device
def fcollect(scope, team, target, source):
    """`target` has the members' sources, one after another; it must be n times as large as `source`."""
    return (
        core.c_fcollect(
            scope, team, core.address(target), core.address(source), core.bytes_of(source, source)
        )
        != 0
    )


@_device
def alltoall(scope, team, target, source):
    """Block j of `source` becomes block me of member j's `target`; both have a block for each member."""
    nbytes = core.bytes_of(target, source) // core.types.uint64(core.c_team_n_pes(team))
    return core.c_alltoall(scope, team, core.address(target), core.address(source), nbytes) != 0


@_device
def all_reduce(op, team, target, source):
    """Reduction by a block: `op` is SUM, PROD, MIN or MAX; both symmetric, and may be the same array."""
    kind = core.reduction_of(target)
    nelems = core.bytes_of(target, source) // core.types.uint64(core.width(target) // 8)
    if kind == 0:
        return core.c_reduce_i32(op, team, core.address(target), core.address(source), nelems) != 0
    if kind == 1:
        return core.c_reduce_i64(op, team, core.address(target), core.address(source), nelems) != 0
    if kind == 2:
        return core.c_reduce_f32(op, team, core.address(target), core.address(source), nelems) != 0
    return core.c_reduce_f64(op, team, core.address(target), core.address(source), nelems) != 0


@_device
def _scan(exclusive, team, target, source):
    kind = core.reduction_of(target)
    nelems = core.bytes_of(target, source) // core.types.uint64(core.width(target) // 8)
    if kind == 0:
        return core.c_scan_i32(exclusive, team, core.address(target), core.address(source), nelems) != 0
    if kind == 1:
        return core.c_scan_i64(exclusive, team, core.address(target), core.address(source), nelems) != 0
    if kind == 2:
        return core.c_scan_f32(exclusive, team, core.address(target), core.address(source), nelems) != 0
    return core.c_scan_f64(exclusive, team, core.address(target), core.address(source), nelems) != 0


@_device
def sum_inscan(team, target, source):
    """Prefix sums over the members up to this one, by a block; arrays as in `all_reduce`."""
    return _scan(0, team, target, source)


@_device
def sum_exscan(team, target, source):
    """Prefix sums over the members before this one, 0 on the first, by a block; arrays as in `all_reduce`."""
    return _scan(1, team, target, source)
