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
"""

# Numba is typed only in parts.
# mypy: disable-error-code="no-untyped-call, no-untyped-def, untyped-decorator, call-arg, misc, no-any-return"
from __future__ import annotations

from numba import cuda

from ..types import CMP, SIGNAL
from ._numba_core import (
    address,
    bytes_of,
    c_alltoall,
    c_atomic32,
    c_atomic64,
    c_barrier,
    c_broadcast,
    c_fcollect,
    c_fence,
    c_g8,
    c_g32,
    c_g64,
    c_get,
    c_get_nbi,
    c_my_pe,
    c_n_pes,
    c_p8,
    c_p32,
    c_p64,
    c_ptr,
    c_put,
    c_put_nbi,
    c_put_packets,
    c_put_signal,
    c_quiet,
    c_recv_packets,
    c_reduce_f32,
    c_reduce_f64,
    c_reduce_i32,
    c_reduce_i64,
    c_signal_fetch,
    c_signal_op,
    c_signal_wait,
    c_sync,
    c_team_my_pe,
    c_team_n_pes,
    c_test32,
    c_test64,
    c_wait32,
    c_wait64,
    comparison_of,
    from_bits,
    integers,
    moved,
    reduction_of,
    signal_word,
    to_bits,
    types,
    width,
)

__all__ = [
    "all_reduce", "alltoall", "atomic_add", "atomic_and", "atomic_compare_swap", "atomic_fetch",
    "atomic_fetch_add", "atomic_fetch_and", "atomic_fetch_inc", "atomic_fetch_or", "atomic_fetch_xor",
    "atomic_inc", "atomic_or", "atomic_set", "atomic_swap", "atomic_xor", "barrier", "block", "broadcast",
    "eq",
    "fcollect", "fence", "g", "ge", "get", "get_nbi", "gt", "le", "lt", "my_pe", "n_pes", "ne", "p", "peer",
    "put", "put_nbi", "put_packets", "put_signal", "quiet", "recv_packets", "shared", "signal_add",
    "signal_fetch", "signal_op", "signal_set", "signal_wait_until", "sync", "team_my_pe",
    "team_n_pes", "test", "thread", "wait_until", "warp", "world",
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
    return c_my_pe()


@_device
def n_pes():
    """How many PEs the job has."""
    return c_n_pes()


@_device
def team_my_pe(team):
    """This PE's number in `team` (world, shared, or a device team number)."""
    return c_team_my_pe(team)


@_device
def team_n_pes(team):
    """Members of `team`."""
    return c_team_n_pes(team)


@cuda.jit(device=True, inline="always")  # into the caller: a compiled function could not return an array
def peer(a, pe):
    """PE `pe`'s copy of a symmetric array, to be loaded and stored directly; check `pe` first."""
    return moved(a, c_ptr(address(a), pe))


# ---- put and get -------------------------------------------------------------------------------------------


@_device
def p(target, value, pe):
    """Stores `value` in the first element of `target` on PE `pe`; elements of 1, 4 or 8 bytes."""
    bits = to_bits(target, value)
    if width(target) == 8:
        c_p8(address(target), bits, pe)
    elif width(target) == 32:
        c_p32(address(target), bits, pe)
    else:
        c_p64(address(target), bits, pe)


@_device
def g(source, pe):
    """The first element of `source` on PE `pe`."""
    if width(source) == 8:
        bits = types.uint64(c_g8(address(source), pe))
    elif width(source) == 32:
        bits = types.uint64(c_g32(address(source), pe))
    else:
        bits = c_g64(address(source), pe)
    return from_bits(source, bits)


@_device
def put(scope, target, source, pe):
    """Copies local `source` to `target` on PE `pe`."""
    c_put(scope, address(target), address(source), bytes_of(target, source), pe)


@_device
def get(scope, target, source, pe):
    """Copies `source` on PE `pe` to local `target`."""
    c_get(scope, address(target), address(source), bytes_of(target, source), pe)


@_device
def put_nbi(scope, target, source, pe):
    """As `put`, without the scope's barrier at the end."""
    c_put_nbi(scope, address(target), address(source), bytes_of(target, source), pe)


@_device
def get_nbi(scope, target, source, pe):
    """As `get`; the data is there after `quiet` of the same scope."""
    c_get_nbi(scope, address(target), address(source), bytes_of(target, source), pe)


@_device
def put_signal(scope, target, source, sig, value, op, pe):
    """As `put`, then PE `pe`'s `sig` is set or added to (signal_set, signal_add)."""
    c_put_signal(
        scope, address(target), address(source), bytes_of(target, source), signal_word(sig), value, op, pe
    )


@_device
def put_packets(scope, packets, source, round, pe):
    """All of `source` as packets into `packets` (uint8, symmetric) of PE `pe`; scope warp or block."""
    return c_put_packets(scope, address(packets), address(source), bytes_of(source, source), round, pe) != 0


@_device
def recv_packets(scope, target, packets, round):
    """Waits for round `round` in this PE's `packets`, which fills all of `target`."""
    return c_recv_packets(scope, address(target), address(packets), bytes_of(target, target), round) != 0


# ---- order, sync -------------------------------------------------------------------------------------------


@_device
def fence(scope):
    """The scope's puts so far come before its later ones, on each PE."""
    c_fence(scope)


@_device
def quiet(scope):
    """The scope's puts so far are complete, on every PE."""
    c_quiet(scope)


@_device
def sync(scope, team):
    """All members have arrived; completes nothing."""
    return c_sync(scope, team) != 0


@_device
def barrier(scope, team):
    """All members have arrived, and the calling scopes' puts are complete and visible."""
    return c_barrier(scope, team) != 0


# ---- waits and signals -------------------------------------------------------------------------------------


@_device
def wait_until(scope, ivar, cmp, value):
    """Waits until the first element of this PE's `ivar` compares true; int32, int64 or uint64."""
    kind = comparison_of(ivar)
    if kind == 32:
        return c_wait32(scope, address(ivar), cmp, value) != 0
    if kind == 64:
        return c_wait64(scope, address(ivar), cmp, types.uint64(types.int64(value))) != 0
    return c_signal_wait(scope, address(ivar), cmp, value) != 0


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
    kind = comparison_of(ivar)
    if kind == 32:
        return c_test32(address(ivar), cmp, value) != 0
    if kind == 64:
        return c_test64(address(ivar), cmp, types.uint64(types.int64(value))) != 0
    return _compared(c_signal_fetch(address(ivar)), cmp, types.uint64(value))


@_device
def signal_wait_until(scope, sig, cmp, value):
    """Waits until this PE's signal word compares true with `value`, unsigned."""
    return c_signal_wait(scope, signal_word(sig), cmp, value) != 0


@_device
def signal_fetch(sig):
    """The value of this PE's signal word."""
    return c_signal_fetch(signal_word(sig))


@_device
def signal_op(sig, value, op, pe):
    """Sets or adds to PE `pe`'s signal word, without data."""
    c_signal_op(signal_word(sig), value, op, pe)


# ---- atomics, on first elements; the numbers are those of device/wrappers.h --------------------------------


@_device
def _atomic(op, target, bits, condition, pe):
    if width(target) == 32:
        return types.uint64(c_atomic32(op, address(target), bits, condition, pe))
    return c_atomic64(op, address(target), bits, condition, pe)


@_device
def atomic_fetch(source, pe):
    """The first element of `source` on PE `pe`, read atomically."""
    return from_bits(source, _atomic(0, source, types.uint64(0), types.uint64(0), pe))


@_device
def atomic_set(target, value, pe):
    """Stores `value` in the first element of `target` on PE `pe`."""
    _atomic(1, target, to_bits(target, value), types.uint64(0), pe)


@_device
def atomic_swap(target, value, pe):
    """As `atomic_set`; returns the old value."""
    return from_bits(target, _atomic(2, target, to_bits(target, value), types.uint64(0), pe))


@_device
def atomic_compare_swap(target, condition, value, pe):
    """Stores `value` if the old value equals `condition`; returns the old value."""
    integers(target)
    return from_bits(target, _atomic(3, target, to_bits(target, value), to_bits(target, condition), pe))


@_device
def atomic_fetch_add(target, value, pe):
    """Adds; returns the old value. Integers, as all below."""
    integers(target)
    return from_bits(target, _atomic(4, target, to_bits(target, value), types.uint64(0), pe))


@_device
def atomic_fetch_inc(target, pe):
    """Adds 1; returns the old value."""
    return atomic_fetch_add(target, 1, pe)


@_device
def atomic_fetch_and(target, value, pe):
    """Bitwise and; returns the old value."""
    integers(target)
    return from_bits(target, _atomic(5, target, to_bits(target, value), types.uint64(0), pe))


@_device
def atomic_fetch_or(target, value, pe):
    """Bitwise or; returns the old value."""
    integers(target)
    return from_bits(target, _atomic(6, target, to_bits(target, value), types.uint64(0), pe))


@_device
def atomic_fetch_xor(target, value, pe):
    """Bitwise exclusive or; returns the old value."""
    integers(target)
    return from_bits(target, _atomic(7, target, to_bits(target, value), types.uint64(0), pe))


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
    return c_broadcast(scope, team, address(target), address(source), bytes_of(target, source), root) != 0


@_device
def fcollect(scope, team, target, source):
    """`target` has the members' sources, one after another; it must be n times as large as `source`."""
    return c_fcollect(scope, team, address(target), address(source), bytes_of(source, source)) != 0


@_device
def alltoall(scope, team, target, source):
    """Block j of `source` becomes block me of member j's `target`; both have a block for each member."""
    nbytes = bytes_of(target, source) // types.uint64(c_team_n_pes(team))
    return c_alltoall(scope, team, address(target), address(source), nbytes) != 0


@_device
def all_reduce(op, team, target, source):
    """Reduction by a block: `op` is SUM, PROD, MIN or MAX; both symmetric, and may be the same array."""
    kind = reduction_of(target)
    nelems = bytes_of(target, source) // types.uint64(width(target) // 8)
    if kind == 0:
        return c_reduce_i32(op, team, address(target), address(source), nelems) != 0
    if kind == 1:
        return c_reduce_i64(op, team, address(target), address(source), nelems) != 0
    if kind == 2:
        return c_reduce_f32(op, team, address(target), address(source), nelems) != 0
    return c_reduce_f64(op, team, address(target), address(source), nelems) != 0
