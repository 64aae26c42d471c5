"""The same calls in Numba kernels on the CPU.

    import pyshmem as shmem
    import pyshmem.numba_cpu  # from here on @njit functions may call shmem.put, shmem.barrier_all, ...

    @numba.njit
    def shift(target, source):
        shmem.put(target, source, (shmem.my_pe() + 1) % shmem.n_pes())
        shmem.barrier_all()

Importing this module registers the core with Numba's cffi support and gives an implementation for compiled
code to

    my_pe n_pes · put get put_nbi get_nbi · quiet fence barrier_all sync_all atomic_{set,inc,add,and,or,xor}
    atomic_{fetch,swap,compare_swap,fetch_inc,fetch_add,fetch_and,fetch_or,fetch_xor} wait_until test ·
    put_signal signal_fetch signal_wait_until broadcast fcollect alltoall {and,or,xor,max,min,sum,prod}_reduce

with the names, arguments and errors of the Python functions, except for `ctx` and `team`: kernels use the
default context and the world. `cmp` is a `CMP`, passed as an argument or as a global of the kernel.

Array arguments are symmetric arrays or views of them, contiguous; dtypes are compared when the kernel is
compiled. A kernel checks addresses against the heap, but not whether an array was freed. Kernels that use
these calls cannot be cached on disk, because they hold addresses of this process. A kernel that waits holds
the GIL, unless compiled with ``nogil=True``.
"""

# Numba is typed only in parts.
# mypy: disable-error-code="no-untyped-call, call-arg"
from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numba
import numpy as np
from numba import types
from numba.core.errors import TypingError
from numba.core.typing import cffi_utils
from numba.extending import intrinsic, overload

from . import _core, amo, coll, order, rma, setup, signal
from ._core import ffi, lib
from .errors import fail
from .sync import test, wait_until
from .types import INT_WORDS, WORDS, core_type

# A handle is an opaque pointer: for Numba, a pointer to bytes.
for _opaque in ("shmem_ctx_t", "shmem_team_t"):
    cffi_utils.register_type(ffi.typeof(_opaque).item, types.uint8)
cffi_utils.register_module(_core)

# Not strict: the typed half has annotations that the compiled half must not have.
_implements = partial(overload, strict=False)

_CTX, _WORLD = lib.SHMEMX_CTX_DEFAULT, lib.SHMEMX_TEAM_WORLD
_c_my_pe, _c_n_pes = lib.shmem_my_pe, lib.shmem_n_pes
_c_fence, _c_quiet, _c_sync, _c_barrier = (
    lib.shmemx_fence,
    lib.shmemx_quiet,
    lib.shmemx_sync,
    lib.shmemx_barrier,
)
_c_atomic, _c_wait, _c_test = lib.shmemx_atomic, lib.shmemx_wait_until, lib.shmemx_test
_c_put_signal, _c_signal_fetch = lib.shmemx_put_signal, lib.shmemx_signal_fetch
_c_signal_wait, _c_reduce = lib.shmemx_signal_wait_until, lib.shmemx_reduce
_c_broadcast, _c_fcollect, _c_alltoall = lib.shmemx_broadcast, lib.shmemx_fcollect, lib.shmemx_alltoall


def _pointer_from_number(kind: Any) -> Any:
    """Intrinsic: a pointer of that Numba type from a number; for handles, NULL and addresses."""

    @intrinsic
    def pointer(typing_context: Any, number: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            value = context.cast(builder, arguments[0], signature.args[0], types.uintp)
            return builder.inttoptr(value, context.get_value_type(signature.return_type))

        return kind(number), generate

    return pointer


_handle = _pointer_from_number(types.CPointer(types.uint8))
_void_pointer = _pointer_from_number(types.voidptr)
_int_pointer = _pointer_from_number(types.CPointer(types.intc))
_word_pointer = _pointer_from_number(types.CPointer(types.uint64))
_size_pointer = _pointer_from_number(types.CPointer(types.uintp))


@numba.njit
def _check(code: int) -> None:
    if code != 0:
        with numba.objmode():
            fail(code)


# ---- what is wrong is found when the kernel is compiled ----------------------------------------------------


def _is_none(value: Any) -> bool:
    return value is None or isinstance(value, types.NoneType | types.Omitted)


def _array(value: Any, call: str, name: str, *, write: bool = False) -> Any:
    if not isinstance(value, types.Array):
        raise TypingError(f"{call}: {name} is {value}, not an array")
    if value.layout not in "CF":
        raise TypingError(
            f"{call}: {name} is {value}: a contiguous array is needed; slice the last axis whole"
        )
    if write and not value.mutable:
        raise TypingError(f"{call}: {name} is read-only")
    return value


def _pair(target: Any, source: Any, call: str) -> None:
    if _array(target, call, "target", write=True).dtype != _array(source, call, "source").dtype:
        raise TypingError(f"{call}: dtypes of target and source differ: {target.dtype} and {source.dtype}")


def _dtype(value: Any) -> np.dtype[Any]:
    return numba.np.numpy_support.as_dtype(value.dtype)


def _word(value: Any, call: str, name: str, words: dict[np.dtype[Any], Any]) -> Any:
    dtype = _dtype(_array(value, call, name))
    if dtype not in words:
        raise TypingError(f"{call}: {name} has dtype {dtype}; possible are {', '.join(map(str, words))}")
    return words[dtype]


def _only_defaults(call: str, **options: Any) -> None:
    for name, value in options.items():
        if not _is_none(value):
            raise TypingError(f"{call}: {name} cannot be given in a kernel")


@numba.njit
def _one_element(size: int) -> None:
    if size != 1:
        raise ValueError("a pyshmem call on one element got an array with none or several")


@numba.njit
def _checked(size: int, target: int, source: int) -> int:
    if size < 0:
        raise ValueError("a pyshmem call got a negative size")
    if size > target or size > source:
        raise ValueError("a pyshmem call got a size that exceeds the target or the source")
    return size


# ---- setup, order ------------------------------------------------------------------------------------------


@_implements(setup.my_pe)
def _my_pe() -> Any:
    return lambda: _c_my_pe()


@_implements(setup.n_pes)
def _n_pes() -> Any:
    return lambda: _c_n_pes()


@_implements(coll.barrier_all)
def _barrier_all() -> Any:
    return lambda: _check(_c_barrier(_handle(_WORLD)))


@_implements(coll.sync_all)
def _sync_all() -> Any:
    return lambda: _check(_c_sync(_handle(_WORLD)))


@_implements(order.quiet)
def _quiet(ctx: Any = None) -> Any:
    _only_defaults("quiet", ctx=ctx)
    return lambda ctx=None: _check(_c_quiet(_handle(_CTX)))


@_implements(order.fence)
def _fence(ctx: Any = None) -> Any:
    _only_defaults("fence", ctx=ctx)
    return lambda ctx=None: _check(_c_fence(_handle(_CTX)))


# ---- RMA ---------------------------------------------------------------------------------------------------


def _overload_rma(function: Callable[..., None], core: Any) -> None:
    call = function.__name__

    @_implements(function)
    def _rma(target: Any, source: Any, pe: Any, size: Any = None, ctx: Any = None) -> Any:
        _only_defaults(call, ctx=ctx)
        _pair(target, source, call)
        if _is_none(size):

            def all_elements(target, source, pe, size=None, ctx=None):  # type: ignore[no-untyped-def]
                n = min(target.nbytes, source.nbytes)
                _check(core(_handle(_CTX), target.ctypes, source.ctypes, n, pe))

            return all_elements

        def some_elements(target, source, pe, size=None, ctx=None):  # type: ignore[no-untyped-def]
            n = _checked(size, target.size, source.size) * target.itemsize
            _check(core(_handle(_CTX), target.ctypes, source.ctypes, n, pe))

        return some_elements


_overload_rma(rma.put, lib.shmemx_put)
_overload_rma(rma.get, lib.shmemx_get)
_overload_rma(rma.put_nbi, lib.shmemx_put_nbi)
_overload_rma(rma.get_nbi, lib.shmemx_get_nbi)


# ---- atomics -----------------------------------------------------------------------------------------------


@cache
def _atomic_call(dtype: np.dtype[Any]) -> Any:
    """Compiled f(target, op, value, cond, pe, fetches) -> old value; one a dtype, since compiling costs a
    second.
    """
    size, bits = dtype.itemsize, np.dtype(f"u{dtype.itemsize}")

    def run(target, op, value, cond, pe, fetches):  # type: ignore[no-untyped-def]
        _one_element(target.size)
        operands = np.empty(2, dtype)
        operands[0] = value
        operands[1] = cond
        raw = operands.view(bits)
        old = np.empty(1, dtype)
        to = _void_pointer(old.ctypes.data if fetches else 0)
        _check(_c_atomic(_handle(_CTX), op, size, target.ctypes, raw[0], raw[1], pe, to))
        return old[0]

    return numba.njit(run)


def _atomic(target: Any, call: str, op: int) -> Any:
    any_dtype = op in (lib.SHMEMX_AMO_FETCH, lib.SHMEMX_AMO_SET, lib.SHMEMX_AMO_SWAP)
    return _atomic_call(_word(target, call, "target", WORDS if any_dtype else INT_WORDS).dtype)


def _overload_update(name: str, op: int) -> None:
    call = f"atomic_{name}"
    function: Any = getattr(amo, call)
    if name == "inc":

        @_implements(function)
        def _inc(target: Any, pe: Any, ctx: Any = None) -> Any:
            _only_defaults(call, ctx=ctx)
            run = _atomic(target, call, op)

            def update(target, pe, ctx=None):  # type: ignore[no-untyped-def]
                run(target, op, 1, 0, pe, False)

            return update

        return

    @_implements(function)
    def _update(target: Any, value: Any, pe: Any, ctx: Any = None) -> Any:
        _only_defaults(call, ctx=ctx)
        run = _atomic(target, call, op)

        def update(target, value, pe, ctx=None):  # type: ignore[no-untyped-def]
            run(target, op, value, 0, pe, False)

        return update


def _overload_fetch(name: str, op: int) -> None:
    call = f"atomic_{name}"

    @_implements(getattr(amo, call))
    def _fetch(target: Any, value: Any, pe: Any, ctx: Any = None) -> Any:
        _only_defaults(call, ctx=ctx)
        run = _atomic(target, call, op)
        return lambda target, value, pe, ctx=None: run(target, op, value, 0, pe, True)


for _name, _op in (
    ("set", lib.SHMEMX_AMO_SET), ("inc", lib.SHMEMX_AMO_ADD), ("add", lib.SHMEMX_AMO_ADD),
    ("and", lib.SHMEMX_AMO_AND), ("or", lib.SHMEMX_AMO_OR), ("xor", lib.SHMEMX_AMO_XOR),
):  # fmt: skip
    _overload_update(_name, _op)
for _name, _op in (
    ("swap", lib.SHMEMX_AMO_SWAP), ("fetch_add", lib.SHMEMX_AMO_ADD), ("fetch_and", lib.SHMEMX_AMO_AND),
    ("fetch_or", lib.SHMEMX_AMO_OR), ("fetch_xor", lib.SHMEMX_AMO_XOR),
):  # fmt: skip
    _overload_fetch(_name, _op)


@_implements(amo.atomic_fetch)
def _atomic_fetch(source: Any, pe: Any, ctx: Any = None) -> Any:
    _only_defaults("atomic_fetch", ctx=ctx)
    op = lib.SHMEMX_AMO_FETCH
    run = _atomic(source, "atomic_fetch", op)
    return lambda source, pe, ctx=None: run(source, op, 0, 0, pe, True)


@_implements(amo.atomic_fetch_inc)
def _atomic_fetch_inc(target: Any, pe: Any, ctx: Any = None) -> Any:
    _only_defaults("atomic_fetch_inc", ctx=ctx)
    op = lib.SHMEMX_AMO_ADD
    run = _atomic(target, "atomic_fetch_inc", op)
    return lambda target, pe, ctx=None: run(target, op, 1, 0, pe, True)


@_implements(amo.atomic_compare_swap)
def _atomic_compare_swap(target: Any, cond: Any, value: Any, pe: Any, ctx: Any = None) -> Any:
    _only_defaults("atomic_compare_swap", ctx=ctx)
    op = lib.SHMEMX_AMO_COMPARE_SWAP
    run = _atomic(target, "atomic_compare_swap", op)
    return lambda target, cond, value, pe, ctx=None: run(target, op, value, cond, pe, True)


# ---- waits and signals -------------------------------------------------------------------------------------


@cache
def _compare_call(dtype: np.dtype[Any], core: Any) -> Any:
    number, which = INT_WORDS[dtype].core, lib.SHMEMX_ALL

    def run(ivar, cmp, value):  # type: ignore[no-untyped-def]
        _one_element(ivar.size)
        operand = np.empty(1, dtype)
        operand[0] = value
        result = np.zeros(1, np.uintp)
        _check(
            core(
                number, which, ivar.ctypes, 1, _size_pointer(0), _int_pointer(0), cmp, operand.ctypes, 0,
                _size_pointer(result.ctypes.data),
            )
        )  # fmt: skip
        return result[0] != 0

    return numba.njit(run)


def _compare(ivar: Any, call: str, core: Any) -> Any:
    """Compiled f(ivar, cmp, value) -> bool."""
    return _compare_call(_word(ivar, call, "ivar", INT_WORDS).dtype, core)


@_implements(wait_until)
def _wait_until(ivar: Any, cmp: Any, value: Any) -> Any:
    run = _compare(ivar, "wait_until", _c_wait)

    def wait(ivar, cmp, value):  # type: ignore[no-untyped-def]
        run(ivar, cmp, value)

    return wait


@_implements(test)
def _test(ivar: Any, cmp: Any, value: Any) -> Any:
    run = _compare(ivar, "test", _c_test)
    return lambda ivar, cmp, value: run(ivar, cmp, value)


_UINT64 = {np.dtype(np.uint64): INT_WORDS[np.dtype(np.uint64)]}


@_implements(signal.put_signal)
def _put_signal(
    target: Any, source: Any, pe: Any, signal: Any, value: Any, sigop: Any, size: Any = None, ctx: Any = None
) -> Any:
    _only_defaults("put_signal", ctx=ctx, size=size)
    _pair(target, source, "put_signal")
    _word(signal, "put_signal", "signal", _UINT64)

    def run(target, source, pe, signal, value, sigop, size=None, ctx=None):  # type: ignore[no-untyped-def]
        _one_element(signal.size)
        n = min(target.nbytes, source.nbytes)
        word = _word_pointer(signal.ctypes.data)
        _check(_c_put_signal(_handle(_CTX), target.ctypes, source.ctypes, n, word, value, sigop, pe))

    return run


@_implements(signal.signal_fetch)
def _signal_fetch(signal: Any) -> Any:
    _word(signal, "signal_fetch", "signal", _UINT64)

    def run(signal):  # type: ignore[no-untyped-def]
        _one_element(signal.size)
        seen = np.empty(1, np.uint64)
        _check(_c_signal_fetch(_word_pointer(signal.ctypes.data), _word_pointer(seen.ctypes.data)))
        return seen[0]

    return run


@_implements(signal.signal_wait_until)
def _signal_wait_until(signal: Any, cmp: Any, value: Any) -> Any:
    _word(signal, "signal_wait_until", "signal", _UINT64)

    def run(signal, cmp, value):  # type: ignore[no-untyped-def]
        _one_element(signal.size)
        seen = np.empty(1, np.uint64)
        address = _word_pointer(signal.ctypes.data)
        _check(_c_signal_wait(address, cmp, value, _word_pointer(seen.ctypes.data)))
        return seen[0]

    return run


# ---- collectives -------------------------------------------------------------------------------------------


@_implements(coll.broadcast)
def _broadcast(target: Any, source: Any, root: Any, size: Any = None, team: Any = None) -> Any:
    _only_defaults("broadcast", size=size, team=team)
    _pair(target, source, "broadcast")

    def run(target, source, root, size=None, team=None):  # type: ignore[no-untyped-def]
        n = min(target.nbytes, source.nbytes)
        _check(_c_broadcast(_handle(_WORLD), target.ctypes, source.ctypes, n, root))

    return run


@_implements(coll.fcollect)
def _fcollect(target: Any, source: Any, size: Any = None, team: Any = None) -> Any:
    _only_defaults("fcollect", size=size, team=team)
    _pair(target, source, "fcollect")

    def run(target, source, size=None, team=None):  # type: ignore[no-untyped-def]
        if source.nbytes * _c_n_pes() > target.nbytes:
            raise ValueError("fcollect: the target is smaller than the sources of all PEs together")
        _check(_c_fcollect(_handle(_WORLD), target.ctypes, source.ctypes, source.nbytes))

    return run


@_implements(coll.alltoall)
def _alltoall(target: Any, source: Any, size: Any = None, team: Any = None) -> Any:
    _only_defaults("alltoall", size=size, team=team)
    _pair(target, source, "alltoall")

    def run(target, source, size=None, team=None):  # type: ignore[no-untyped-def]
        have = min(target.size, source.size)
        if have % _c_n_pes() != 0:
            raise ValueError("alltoall: the size is not a multiple of the number of PEs")
        n = have // _c_n_pes() * target.itemsize
        _check(_c_alltoall(_handle(_WORLD), target.ctypes, source.ctypes, n))

    return run


def _overload_reduce(name: str) -> None:
    call = f"{name}_reduce"
    op = getattr(lib, f"SHMEMX_REDUCE_{name.upper()}")

    @_implements(getattr(coll, call))
    def _reduce(target: Any, source: Any, size: Any = None, team: Any = None) -> Any:
        _only_defaults(call, team=team)
        _pair(target, source, call)
        try:
            number = core_type(_dtype(target), call, boolean=name not in ("sum", "prod"))
        except TypeError as error:
            raise TypingError(str(error)) from None
        if _is_none(size):

            def all_elements(target, source, size=None, team=None):  # type: ignore[no-untyped-def]
                n = min(target.size, source.size)
                _check(_c_reduce(_handle(_WORLD), op, number, target.ctypes, source.ctypes, n))

            return all_elements

        def some_elements(target, source, size=None, team=None):  # type: ignore[no-untyped-def]
            n = _checked(size, target.size, source.size)
            _check(_c_reduce(_handle(_WORLD), op, number, target.ctypes, source.ctypes, n))

        return some_elements


for _name in ("and", "or", "xor", "max", "min", "sum", "prod"):
    _overload_reduce(_name)
