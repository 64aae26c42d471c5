"""The same calls in Numba kernels on the CPU.

    import pyshmem as shmem
    import pyshmem.numba_cpu  # from here on @njit functions may call shmem.put, shmem.barrier_all, ...

    @numba.njit
    def shift(target, source):
        shmem.put(target, source, (shmem.my_pe() + 1) % shmem.n_pes())
        shmem.barrier_all()

Importing this module registers the core with Numba's cffi support and gives an implementation for compiled code to

    my_pe n_pes · put get put_nbi get_nbi · quiet fence barrier_all sync_all
    atomic_{set,inc,add,and,or,xor} atomic_{fetch,swap,compare_swap,fetch_inc,fetch_add,fetch_and,fetch_or,fetch_xor}
    wait_until test · put_signal signal_fetch signal_wait_until
    broadcast fcollect alltoall {and,or,xor,max,min,sum,prod}_reduce

with the names, arguments and errors of the Python functions, except for `ctx` and `team`: kernels use the default
context and the world. `cmp` is a `CMP`, passed as an argument or as a global of the kernel.

Array arguments are symmetric arrays or views of them, contiguous; dtypes are compared when the kernel is
compiled. A kernel checks addresses against the heap, but not whether an array was freed. Kernels that use these calls
cannot be cached on disk, because they hold addresses of this process. A kernel that waits holds the GIL, unless compiled
with ``nogil=True``.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import types
from numba.core.errors import TypingError
from numba.core.typing import cffi_utils
from numba.extending import intrinsic, overload

from . import _core, amo, coll, order, rma, setup, signal, sync
from ._core import ffi, lib
from .errors import fail
from .types import INT_WORDS, WORDS, core_type

# A handle is an opaque pointer: for Numba, a pointer to bytes.
for _handle in ("shmem_ctx_t", "shmem_team_t"):
    cffi_utils.register_type(ffi.typeof(_handle).item, types.uint8)
cffi_utils.register_module(_core)

_CTX, _WORLD = lib.SHMEMX_CTX_DEFAULT, lib.SHMEMX_TEAM_WORLD
_c_my_pe, _c_n_pes = lib.shmem_my_pe, lib.shmem_n_pes
_c_fence, _c_quiet, _c_sync, _c_barrier = lib.shmemx_fence, lib.shmemx_quiet, lib.shmemx_sync, lib.shmemx_barrier
_c_atomic, _c_wait, _c_test = lib.shmemx_atomic, lib.shmemx_wait_until, lib.shmemx_test
_c_put_signal, _c_signal_fetch = lib.shmemx_put_signal, lib.shmemx_signal_fetch
_c_signal_wait, _c_reduce = lib.shmemx_signal_wait_until, lib.shmemx_reduce
_c_broadcast, _c_fcollect, _c_alltoall = lib.shmemx_broadcast, lib.shmemx_fcollect, lib.shmemx_alltoall


@intrinsic
def _handle_of(typing_context: Any, number: Any) -> Any:
    """A handle of the core, from its number."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value = context.cast(builder, arguments[0], signature.args[0], types.uintp)
        return builder.inttoptr(value, context.get_value_type(signature.return_type))

    return types.CPointer(types.uint8)(number), generate


@numba.njit
def _check(code: int) -> None:
    if code != 0:
        with numba.objmode():
            fail(code)


# ---- what is wrong is found when the kernel is compiled ----------------------------------------------------------


def _is_none(value: Any) -> bool:
    return value is None or isinstance(value, types.NoneType | types.Omitted)


def _array(value: Any, call: str, name: str, *, write: bool = False) -> Any:
    if not isinstance(value, types.Array):
        raise TypingError(f"{call}: {name} is {value}, not an array")
    if value.layout not in "CF":
        raise TypingError(f"{call}: {name} is {value}: a contiguous array is needed; slice the last axis whole")
    if write and not value.mutable:
        raise TypingError(f"{call}: {name} is read-only")
    return value


def _pair(target: Any, source: Any, call: str) -> None:
    if _array(target, call, "target", write=True).dtype != _array(source, call, "source").dtype:
        raise TypingError(f"{call}: dtypes of target and source differ: {target.dtype} and {source.dtype}")


def _dtype(value: Any) -> np.dtype[Any]:
    return numba.np.numpy_support.as_dtype(value.dtype)  # type: ignore[no-any-return]


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
def _elements(size: int, target: int, source: int) -> int:
    """How many elements a call transfers; -1 stands for the default."""
    if size < -1:
        raise ValueError("a pyshmem call got a negative size")
    if size > target or size > source:
        raise ValueError("a pyshmem call got a size that exceeds the target or the source")
    return min(target, source) if size == -1 else size


# ---- setup, order ---------------------------------------------------------------------------------------------


@overload(setup.my_pe)
def _my_pe() -> Any:
    return lambda: _c_my_pe()


@overload(setup.n_pes)
def _n_pes() -> Any:
    return lambda: _c_n_pes()


@overload(coll.barrier_all)
def _barrier_all() -> Any:
    return lambda: _check(_c_barrier(_handle_of(_WORLD)))


@overload(coll.sync_all)
def _sync_all() -> Any:
    return lambda: _check(_c_sync(_handle_of(_WORLD)))


@overload(order.quiet)
def _quiet(ctx: Any = None) -> Any:
    _only_defaults("quiet", ctx=ctx)
    return lambda ctx=None: _check(_c_quiet(_handle_of(_CTX)))


@overload(order.fence)
def _fence(ctx: Any = None) -> Any:
    _only_defaults("fence", ctx=ctx)
    return lambda ctx=None: _check(_c_fence(_handle_of(_CTX)))


# ---- RMA --------------------------------------------------------------------------------------------------------


def _overload_rma(function: Callable[..., None], core: Any) -> None:
    call = function.__name__

    @overload(function)
    def _rma(target: Any, source: Any, pe: Any, size: Any = None, ctx: Any = None) -> Any:
        _only_defaults(call, ctx=ctx)
        _pair(target, source, call)
        if _is_none(size):

            def all_elements(target, source, pe, size=None, ctx=None):  # type: ignore[no-untyped-def]
                n = min(target.nbytes, source.nbytes)
                _check(core(_handle_of(_CTX), target.ctypes, source.ctypes, n, pe))

            return all_elements

        def some_elements(target, source, pe, size=None, ctx=None):  # type: ignore[no-untyped-def]
            if size < 0:
                raise ValueError("a pyshmem call got a negative size")
            n = _elements(size, target.size, source.size) * target.itemsize
            _check(core(_handle_of(_CTX), target.ctypes, source.ctypes, n, pe))

        return some_elements


_overload_rma(rma.put, lib.shmemx_put)
_overload_rma(rma.get, lib.shmemx_get)
_overload_rma(rma.put_nbi, lib.shmemx_put_nbi)
_overload_rma(rma.get_nbi, lib.shmemx_get_nbi)


# ---- atomics -------------------------------------------------------------------------------------------------------


def _atomic(target: Any, call: str, op: int, fetches: bool) -> Any:
    """Compiled f(target, value, cond, pe): one call of the core for the target's dtype."""
    any_dtype = op in (lib.SHMEMX_AMO_FETCH, lib.SHMEMX_AMO_SET, lib.SHMEMX_AMO_SWAP)
    word = _word(target, call, "target", WORDS if any_dtype else INT_WORDS)
    dtype, size, bits = word.dtype, word.size, np.dtype(f"u{word.size}")

    def run(target, value, cond, pe):  # type: ignore[no-untyped-def]
        _one_element(target.size)
        operands = np.empty(2, dtype)
        operands[0] = value
        operands[1] = cond
        raw = operands.view(bits)
        fetched = np.empty(1, dtype)
        out = fetched.ctypes if fetches else fetched[:0].ctypes
        _check(_c_atomic(_handle_of(_CTX), op, size, target.ctypes, raw[0], raw[1], pe, out))
        return fetched[0]

    return numba.njit(run)


def _overload_amo(name: str, op: int) -> None:
    call = f"atomic_{name}"
    function: Any = getattr(amo, call)
    fetches = "fetch" in name or "swap" in name

    if name in ("inc", "fetch_inc", "fetch"):

        @overload(function)
        def _without_value(target: Any, pe: Any, ctx: Any = None) -> Any:
            _only_defaults(call, ctx=ctx)
            run, value = _atomic(target, call, op, fetches), 0 if name == "fetch" else 1
            if fetches and name == "fetch":
                return lambda source, pe, ctx=None: run(source, value, 0, pe)
            if fetches:
                return lambda target, pe, ctx=None: run(target, value, 0, pe)

            def update(target, pe, ctx=None):  # type: ignore[no-untyped-def]
                run(target, value, 0, pe)

            return update

    elif name == "compare_swap":

        @overload(function)
        def _compare_swap(target: Any, cond: Any, value: Any, pe: Any, ctx: Any = None) -> Any:
            _only_defaults(call, ctx=ctx)
            run = _atomic(target, call, op, True)
            return lambda target, cond, value, pe, ctx=None: run(target, value, cond, pe)

    else:

        @overload(function)
        def _with_value(target: Any, value: Any, pe: Any, ctx: Any = None) -> Any:
            _only_defaults(call, ctx=ctx)
            run = _atomic(target, call, op, fetches)
            if fetches:
                return lambda target, value, pe, ctx=None: run(target, value, 0, pe)

            def update(target, value, pe, ctx=None):  # type: ignore[no-untyped-def]
                run(target, value, 0, pe)

            return update
