"""What pyshmem.device.numba is made of in Numba's simulator: the host's calls, made by Python threads.

The simulator runs a kernel as a Python function, in one thread for each thread of a block, one block after
another; device memory is NumPy's. Here the host heap stands for the GPU's, so a call in a kernel is the
library's host call on the same address. A call with a scope is made by one thread of the scope, the leader;
the others wait for it where those of a GPU would.

Errors. A wait that meets the deadline returns False and is raised by `pyshmem.device.check`, as on a GPU.
Everything else (a PE that does not exist, memory that is not symmetric, a dtype, a team, a dead PE) is an
exception in the kernel, which the launch raises: what a debugger is wanted for.
"""

# Numba is typed only in parts.
# mypy: disable-error-code="no-untyped-call, attr-defined, method-assign, no-any-return"
from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray, FakeWithinKernelCUDAArray
from numba.cuda.simulator.kernel import FakeCUDAKernel

from .. import setup
from .._core import ffi, lib
from ..errors import CLASSES, check, fail
from ..heap import is_symmetric
from ..types import INT_WORDS, SIGNAL, Array, CData
from . import _numba_checks as checks
from . import state

_ArgumentError = CLASSES[lib.SHMEMX_ERR_ARGUMENT]
_AddressError = CLASSES[lib.SHMEMX_ERR_ADDRESS]
_CTX = ffi.cast("shmem_ctx_t", lib.SHMEMX_CTX_DEFAULT)
_TEAMS = {
    number: ffi.cast("shmem_team_t", handle)
    for number, handle in ((0, lib.SHMEMX_TEAM_WORLD), (1, lib.SHMEMX_TEAM_SHARED))
}
_THREAD, _WARP, _WARP_SIZE = 0, 1, 32

state.simulated = True


# ---- launches ----------------------------------------------------------------------------------------------


def _on_the_heap(launch: Callable[..., None]) -> Callable[..., None]:
    """The simulator copies the arrays of a launch, and the copies back when the kernel has ended. Symmetric
    ones go as they are: other PEs read and write them meanwhile."""

    def in_place(a: Any) -> Any:
        symmetric = isinstance(a, np.ndarray) and is_symmetric(a)
        return FakeCUDAArray(a.view(np.ndarray)) if symmetric else a

    def call(kernel: Any, *arguments: Any) -> Any:
        return launch(kernel, *map(in_place, arguments))

    return call


FakeCUDAKernel.__call__ = _on_the_heap(FakeCUDAKernel.__call__)


# ---- scopes ------------------------------------------------------------------------------------------------


class _Block:
    """The calling thread among all of its block, which the simulator lets meet."""

    def __init__(self, me: Any, threads: int) -> None:
        self._me, self.size, self.leader = me, threads, me.thread_id == 0

    def sync(self) -> None:
        self._me.syncthreads()

    def all(self, fine: bool) -> bool:
        """Whether all of them say so."""
        return bool(self._me.syncthreads_and(fine))

    def fail(self, error: Exception) -> None:
        pass  # the simulator ends the others


class _Meeting:
    """What the threads of one warp know of each other."""

    def __init__(self) -> None:
        self.here, self.round, self.fine, self.answer = 0, 0, True, True
        self.error: Exception | None = None
        self.changed = threading.Condition()


_meetings: WeakKeyDictionary[Any, defaultdict[int, _Meeting]] = WeakKeyDictionary()  # by block, by warp
_meetings_lock = threading.Lock()


class _Warp:
    """The calling thread among those of its warp, which the simulator does not let meet."""

    def __init__(self, me: Any, threads: int) -> None:
        self._me, self._warp = me, me.thread_id // _WARP_SIZE
        self.size = min(_WARP_SIZE, threads - self._warp * _WARP_SIZE)
        self.leader = me.thread_id % _WARP_SIZE == 0
        with _meetings_lock:
            self._meeting = _meetings.setdefault(me._manager, defaultdict(_Meeting))[self._warp]

    def sync(self) -> None:
        self.all(True)

    def all(self, fine: bool) -> bool:
        m = self._meeting
        with m.changed:
            round = m.round
            m.here, m.fine = m.here + 1, m.fine and fine
            if m.here == self.size:
                m.here, m.round, m.fine, m.answer = 0, round + 1, True, m.fine
                m.changed.notify_all()
            while m.round == round:
                if m.error is not None:
                    raise m.error
                if not m.changed.wait(1):
                    self._look_around()
            return m.answer

    def fail(self, error: Exception) -> None:
        with self._meeting.changed:
            self._meeting.error = error
            self._meeting.changed.notify_all()

    def _look_around(self) -> None:
        """An error when those who are missing will not come."""
        m, block = self._meeting, self._me._manager
        left = [t for t in threading.enumerate() if getattr(t, "_manager", None) is block]
        if self._me.abort:
            m.error = RuntimeError("another thread of the block has failed")
        elif sum(t.thread_id // _WARP_SIZE == self._warp for t in left) == m.here:
            m.error = RuntimeError(
                f"a call of scope warp was made by {m.here} of the {self.size} threads of its warp; "
                "the others have ended"
            )


def _group(scope: int) -> _Block | _Warp:
    me: Any = threading.current_thread()
    x, y, z = me._manager._block_dim
    return (_Warp if scope == _WARP else _Block)(me, x * y * z)


def _together(scope: int, work: Callable[[], bool], *, meet_first: bool = False) -> bool:
    """The leader does `work` (meet_first: when all have come), and all leave with its answer."""
    if scope == _THREAD:
        return work()
    group = _group(scope)
    if meet_first:
        group.sync()
    try:
        fine = work() if group.leader else True
    except Exception as error:
        group.fail(error)
        raise
    return group.all(fine)


def _leader(scope: int, work: Callable[[], bool]) -> None:
    """The leader does `work`; the others go on."""
    if scope == _THREAD or _group(scope).leader:
        work()


def _whole_warp(scope: int, call: str) -> None:
    if scope == _THREAD or _group(scope).size < _WARP_SIZE:
        raise _ArgumentError(f"{call}: by a warp, or by a block of at least {_WARP_SIZE} threads")


# ---- results -----------------------------------------------------------------------------------------------


def _in_time(code: int) -> bool:
    """False, and a note for `check`, after the deadline; other errors are raised."""
    if code == lib.SHMEMX_ERR_TIMEOUT:
        try:
            fail(code)
        except TimeoutError as error:
            me: Any = threading.current_thread()
            place = f"block {tuple(me.blockIdx)}, thread {tuple(me.threadIdx)}"
            state.note(type(error)(f"in a kernel, {place}: {error}"))
        return False
    check(code)
    return True


def _done(code: int) -> bool:
    check(code)
    return True


def _pointer(address: int) -> CData:
    return ffi.cast("char *", address)


def _team(number: int) -> CData:
    handle = _TEAMS.get(int(number))
    if handle is None:
        raise CLASSES[lib.SHMEMX_ERR_TEAM](f"there is no team {number} in a simulated kernel")
    return handle


# ---- arrays and values as bits -----------------------------------------------------------------------------


def _signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (value >> bits - 1 << bits)


types = SimpleNamespace(  # casts of integers, as compiled code makes them
    uint64=lambda value: int(value) & (1 << 64) - 1, int64=lambda value: _signed(int(value), 64)
)  # fmt: skip


def _array(a: Any) -> tuple[Array, Any]:
    """(NumPy array, Numba type) of a contiguous array in a kernel, which the simulator may have wrapped."""
    if not isinstance(a, (np.ndarray, FakeCUDAArray, FakeWithinKernelCUDAArray)):
        checks.checked_array(type(a).__name__)
    array = np.asarray(a)
    layout = "C" if array.flags.c_contiguous else "F" if array.flags.f_contiguous else "A"
    kind = checks.types.Array(checks.from_dtype(array.dtype), array.ndim, layout)
    return array, checks.checked_array(kind)


def address(a: Any) -> int:
    return int(_array(a)[0].ctypes.data)


def moved(a: Any, address: int) -> Array:
    array, _ = _array(a)
    if address == 0:
        raise _AddressError("peer: there is no such PE, or the array is not symmetric")
    memory = ffi.buffer(_pointer(address), array.nbytes)
    return np.ndarray(array.shape, array.dtype, memory, strides=array.strides)


def bytes_of(target: Any, source: Any) -> int:
    to, to_kind = _array(target)
    there, there_kind = _array(source)
    checks.same_dtype(to_kind, there_kind)
    return min(to.nbytes, there.nbytes)


def to_bits(a: Any, value: Any) -> int:
    array, kind = _array(a)
    checks.single_element(kind, "sent")
    return int(np.asarray(value).astype(array.dtype).view(f"u{array.itemsize}"))


def from_bits(a: Any, bits: int) -> Any:
    array, kind = _array(a)
    checks.single_element(kind, "fetched")
    return np.array(bits, f"u{array.itemsize}").view(array.dtype)[()]


def width(a: Any) -> int:
    return checks.element_bits(_array(a)[1])


def integers(a: Any) -> None:
    checks.integer_elements(_array(a)[1])


def comparison_of(a: Any) -> int:
    return checks.comparison_kind(_array(a)[1])


def signal_word(a: Any) -> int:
    array, kind = _array(a)
    checks.signal_array(kind)
    return int(array.ctypes.data)


def reduction_of(a: Any) -> int:
    return checks.reduction_kind(_array(a)[1])


# ---- who and where -----------------------------------------------------------------------------------------

c_my_pe, c_n_pes = setup.my_pe, setup.n_pes


def c_team_my_pe(team: int) -> int:
    return int(lib.shmem_team_my_pe(_team(team)))


def c_team_n_pes(team: int) -> int:
    return int(lib.shmem_team_n_pes(_team(team)))


def c_ptr(address: int, pe: int) -> int:
    return int(ffi.cast("uintptr_t", lib.shmem_ptr(_pointer(address), pe)))


# ---- put and get -------------------------------------------------------------------------------------------


def _p(size: int, target: int, bits: int, pe: int) -> None:
    # The low bytes come first, on all machines that the library is for.
    check(lib.shmemx_put(_CTX, _pointer(target), ffi.new("uint64_t *", bits), size, pe))


def _g(size: int, source: int, pe: int) -> int:
    cell = ffi.new("uint64_t *")
    check(lib.shmemx_get(_CTX, cell, _pointer(source), size, pe))
    return int(cell[0])


c_p8, c_p32, c_p64 = (partial(_p, size) for size in (1, 4, 8))
c_g8, c_g32, c_g64 = (partial(_g, size) for size in (1, 4, 8))


def _move(finish: Callable[..., Any], core: Any, scope: int, to: int, there: int, n: int, pe: int) -> None:
    finish(scope, lambda: _done(core(_CTX, _pointer(to), _pointer(there), n, pe)))


# The nbi forms too are complete at once: on the host they would hold the source until quiet.
c_put, c_get = (partial(_move, _together, core) for core in (lib.shmemx_put, lib.shmemx_get))
c_put_nbi, c_get_nbi = (partial(_move, _leader, core) for core in (lib.shmemx_put, lib.shmemx_get))


def _put_signal(
    finish: Any, scope: int, target: int, source: int, nbytes: int, sig: int, value: int, op: int, pe: int
) -> None:
    _sigop(op)

    def work() -> bool:
        word = ffi.cast("uint64_t *", sig)
        to, there = _pointer(target), _pointer(source)
        return _done(lib.shmemx_put_signal(_CTX, to, there, nbytes, word, types.uint64(value), op, pe))

    finish(scope, work)


c_put_signal, c_put_signal_nbi = partial(_put_signal, _together), partial(_put_signal, _leader)


# ---- order, sync -------------------------------------------------------------------------------------------


def _order(core: Any, scope: int, pe: int) -> None:  # of all PEs, which is more
    _together(scope, lambda: _done(core(_CTX)), meet_first=True)


c_fence, c_quiet = partial(_order, lib.shmemx_fence), partial(_order, lib.shmemx_quiet)


def _meet(core: Any, scope: int, team: int) -> bool:
    return _together(scope, lambda: _in_time(core(_team(team))), meet_first=True)


c_sync, c_barrier = partial(_meet, lib.shmemx_sync), partial(_meet, lib.shmemx_barrier)


# ---- waits and signals -------------------------------------------------------------------------------------


_WORDS = {32: "int32", 64: "int64", 65: "uint64"}  # by checks.comparison_kind
_NONE = (1 << 64) - 1  # SIZE_MAX: no index


def _compare(
    core: Any, which: int, ivars: int, nelems: int, kind: int, cmp: int, value: int
) -> tuple[int, int]:
    """(code, result) of the library's wait or test of some words."""
    name = _WORDS[kind]
    bits = int(value) if kind == 65 else _signed(int(value), kind)
    operand, result, null = ffi.new(f"{name}_t *", bits), ffi.new("size_t *"), ffi.NULL
    number = INT_WORDS[np.dtype(name)].core
    code = core(number, which, _pointer(ivars), nelems, null, null, cmp, operand, 0, result)
    return code, int(result[0])


def c_wait_all(scope: int, ivars: int, nelems: int, kind: int, cmp: int, value: int) -> bool:
    def work() -> bool:
        return _in_time(_compare(lib.shmemx_wait_until, lib.SHMEMX_ALL, ivars, nelems, kind, cmp, value)[0])

    return _together(scope, work)


def c_wait_any(ivars: int, nelems: int, kind: int, cmp: int, value: int) -> int:
    code, found = _compare(lib.shmemx_wait_until, lib.SHMEMX_ANY, ivars, nelems, kind, cmp, value)
    return found if _in_time(code) else _NONE


def _test(which: int, ivars: int, nelems: int, kind: int, cmp: int, value: int) -> int:
    code, found = _compare(lib.shmemx_test, which, ivars, nelems, kind, cmp, value)
    check(code)
    return found


c_test_all, c_test_any = partial(_test, lib.SHMEMX_ALL), partial(_test, lib.SHMEMX_ANY)


def _wait_one(kind: int, scope: int, ivar: int, cmp: int, value: int) -> bool:
    return c_wait_all(scope, ivar, 1, kind, cmp, value)


def _test_one(kind: int, ivar: int, cmp: int, value: int) -> bool:
    return c_test_all(ivar, 1, kind, cmp, value) != 0


c_wait32, c_wait64 = partial(_wait_one, 32), partial(_wait_one, 64)
c_test32, c_test64 = partial(_test_one, 32), partial(_test_one, 64)


def c_signal_wait(scope: int, sig: int, cmp: int, value: int) -> bool:
    def work() -> bool:
        seen = ffi.new("uint64_t *")
        word = ffi.cast("uint64_t *", sig)
        return _in_time(lib.shmemx_signal_wait_until(word, cmp, types.uint64(value), seen))

    return _together(scope, work)


def c_signal_fetch(sig: int) -> int:
    seen = ffi.new("uint64_t *")
    check(lib.shmemx_signal_fetch(ffi.cast("uint64_t *", sig), seen))
    return int(seen[0])


def _sigop(op: int) -> int:
    """The atomic that a signal operation is."""
    if op == SIGNAL.SET:
        return int(lib.SHMEMX_AMO_SET)
    if op == SIGNAL.ADD:
        return int(lib.SHMEMX_AMO_ADD)
    raise _ArgumentError(f"signal operation {op} is neither signal_set nor signal_add")


def c_signal_op(sig: int, value: int, op: int, pe: int) -> None:
    check(lib.shmemx_atomic(_CTX, _sigop(op), 8, _pointer(sig), types.uint64(value), 0, pe, ffi.NULL))


# ---- atomics -----------------------------------------------------------------------------------------------


def _atomic(size: int, op: int, target: int, bits: int, condition: int, pe: int) -> int:
    """`op` has the numbers of SHMEMX_AMO_*; the old value's bits."""
    old = ffi.new("uint64_t *")
    check(lib.shmemx_atomic(_CTX, op, size, _pointer(target), bits, condition, pe, old))
    return int(old[0])


c_atomic32, c_atomic64 = partial(_atomic, 4), partial(_atomic, 8)


# ---- packets: the round in the first word of the buffer, the message behind it -----------------------------

_HEAD = 16


def c_put_packets(scope: int, packets: int, source: int, nbytes: int, round: int, pe: int) -> bool:
    _whole_warp(scope, "put_packets")

    def work() -> bool:
        word, to = ffi.cast("uint64_t *", packets), _pointer(packets + _HEAD)
        operation = (types.uint64(round), SIGNAL.SET, pe)
        return _done(lib.shmemx_put_signal(_CTX, to, _pointer(source), nbytes, word, *operation))

    return _together(scope, work)


def c_recv_packets(scope: int, target: int, packets: int, nbytes: int, round: int) -> bool:
    _whole_warp(scope, "recv_packets")

    def work() -> bool:
        seen, word = ffi.new("uint64_t *"), ffi.cast("uint64_t *", packets)
        fine = _in_time(lib.shmemx_signal_wait_until(word, lib.SHMEM_CMP_EQ, types.uint64(round), seen))
        if fine:
            ffi.memmove(_pointer(target), _pointer(packets + _HEAD), nbytes)
        return fine

    return _together(scope, work)


# ---- collectives -------------------------------------------------------------------------------------------


def _collective(core: Any, scope: int, team: int, target: int, source: int, nbytes: int, *root: int) -> bool:
    _whole_warp(scope, "a collective")
    handle, to, there = _team(team), _pointer(target), _pointer(source)
    return _together(scope, lambda: _in_time(core(handle, to, there, nbytes, *root)), meet_first=True)


c_broadcast, c_fcollect, c_alltoall = (
    partial(_collective, core) for core in (lib.shmemx_broadcast, lib.shmemx_fcollect, lib.shmemx_alltoall)
)

_OPERATORS = [getattr(lib, f"SHMEMX_REDUCE_{name}") for name in ("SUM", "PROD", "MIN", "MAX")]


def _reduce(kind: int, op: int, team: int, target: int, source: int, nelems: int) -> bool:
    def reduce(handle: CData, to: CData, there: CData, n: int) -> int:
        return int(lib.shmemx_reduce(handle, _OPERATORS[op], kind, to, there, n))

    return _collective(reduce, 2, team, target, source, nelems)


c_reduce_i32, c_reduce_i64, c_reduce_f32, c_reduce_f64 = (
    partial(_reduce, kind)
    for kind in (lib.SHMEMX_INT32, lib.SHMEMX_INT64, lib.SHMEMX_FLOAT32, lib.SHMEMX_FLOAT64)
)


def _scan(kind: int, exclusive: int, team: int, target: int, source: int, nelems: int) -> bool:
    def scan(handle: CData, to: CData, there: CData, n: int) -> int:
        return int(lib.shmemx_scan(handle, exclusive, kind, to, there, n))

    return _collective(scan, 2, team, target, source, nelems)


c_scan_i32, c_scan_i64, c_scan_f32, c_scan_f64 = (
    partial(_scan, kind)
    for kind in (lib.SHMEMX_INT32, lib.SHMEMX_INT64, lib.SHMEMX_FLOAT32, lib.SHMEMX_FLOAT64)
)
