"""Triton's kernels over a NIC without a GPU: in Triton's interpreter, over a GPU heap of the fake driver,
which is the machine's own memory, and the software NIC. One PE of a job; by hand, since Triton is large:

    cmake -B build/c -DSHMEM_BUILD_TESTS=ON && cmake --build build/c --target fake_cuda launch triton_host
    LD_LIBRARY_PATH=build/c/tests/c/fake_cuda TRITON_INTERPRET=1 SHMEM_NODE_ID=/1 SHMEM_GPU_NIC=proxy \\
    SHMEM_TRANSPORTS=shm,verbs,cuda SHMEM_IBVERBS_LIB=sim SHMEM_IB_ATOMICS=native SHMEM_TIMEOUT=60 \\
    SHMEM_DEVICE_SYMMETRIC_SIZE=128M TRITON_HOST=build/c/tests/device/libtriton_host.so \\
    build/c/tests/c/launch -n 2 python tests/gpu/triton_interpreter.py

and with SHMEM_GPU_NIC=ibgda. What is inline assembly in a kernel is done otherwise: single words between
kernel and host by the interpreter's loads and stores, and what posts to the NIC by the same functions,
compiled for the CPU (TRITON_HOST).
"""

# Triton's language is not typed.
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
from __future__ import annotations

import copy
import ctypes
import importlib.util
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import triton
import triton.language as tl

import pyshmem as shmem
from pyshmem._core import ffi, lib
from pyshmem.device import _triton_core, _triton_ibgda, _triton_nic, _triton_proxy, state
from pyshmem.device import triton as shmem_triton


@triton.jit
def clock():
    return tl.cast(time.monotonic_ns(), tl.int64)


@triton.jit
def load_word(pointer, BITS: tl.constexpr = 64):
    if BITS == 32:
        return tl.load(pointer.to(tl.pointer_type(tl.uint32))).to(tl.int64)
    return tl.load(pointer).to(tl.int64, bitcast=True)


@triton.jit
def store_word(pointer, value, RELEASE: tl.constexpr):
    tl.store(pointer, value)


@triton.jit
def compare_swap_word(pointer, condition, value):
    unsigned = pointer.to(tl.pointer_type(tl.uint64))
    return tl.atomic_cas(unsigned, condition, value).to(tl.int64, bitcast=True)


@triton.jit
def join_warp():
    pass


@triton.jit
def system_fence():
    pass


def replace_assembly() -> None:
    for module in (_triton_core, _triton_nic, _triton_proxy, shmem_triton):
        for function in (clock, compare_swap_word, join_warp, load_word, store_word, system_fence):
            name = function.__name__
            if hasattr(module, name):
                setattr(module, name, function)
    _triton_ibgda.put = of_host("put", "qqqqi")
    _triton_ibgda.get = of_host("get", "qqqqi")
    _triton_ibgda.put_signal = of_host("put_signal", "qqqqqqii")
    _triton_ibgda.signal = of_host("signal", "qqqii")
    _triton_ibgda.p = of_host("p", "qqqii")
    _triton_ibgda.g = of_host("g", "qqii")
    _triton_ibgda.atomic = of_host("atomic", "qiiiqqqi")
    _triton_ibgda.fence = of_host("fence", "q")
    _triton_ibgda.quiet = of_host("quiet", "q")


def of_host(name: str, kinds: str) -> Any:
    """A function of TRITON_HOST, of arguments of 8 bytes (q) and 4 (i), called as one of a kernel's."""
    function = getattr(ctypes.CDLL(os.environ["TRITON_HOST"]), f"triton_{name}")
    function.restype = ctypes.c_uint64
    function.argtypes = [{"q": ctypes.c_uint64, "i": ctypes.c_uint32}[kind] for kind in kinds]

    def call(*arguments: Any) -> Any:
        numbers = [np.asarray(a.handle.data if hasattr(a, "handle") else a).item() for a in arguments]
        result = function(*numbers)
        return tl.cast(ctypes.c_int64(result).value, tl.int64)

    return call


class Memory:
    """Memory of the fake GPU heap, in the shape of what the interpreter knows as a tensor."""

    def __init__(self, count: int, dtype: str) -> None:
        self.dtype, self.bytes = dtype, count * np.dtype(dtype).itemsize
        address = lib.shmemx_malloc(self.bytes, lib.SHMEMX_MEM_DEVICE)
        assert address != ffi.NULL, ffi.string(lib.shmemx_last_error())
        self.array: Any = np.frombuffer(ffi.buffer(address, self.bytes), dtype)
        self.array[:] = 0

    def data_ptr(self) -> int:
        return int(self.array.ctypes.data)

    def untyped_storage(self) -> Memory:
        return self

    cpu = untyped_storage

    def new_empty(self, *_: object, **__: object) -> Memory:
        return copy.copy(self)

    def set_(self, *_: object) -> None:
        pass

    copy_ = set_

    def storage_offset(self) -> int:
        return 0

    size = stride = storage_offset


def main() -> None:
    replace_assembly()
    path = Path(__file__).with_name("triton_kernels.py")
    spec = importlib.util.spec_from_file_location("triton_kernels", path)
    assert spec is not None and spec.loader is not None
    kernels = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kernels)

    shmem.init()
    me, n = shmem.my_pe(), shmem.n_pes()
    after, before, count = (me + 1) % n, (me - 1) % n, 700
    to, source = Memory(4 * count, "float32"), Memory(count, "float32")
    back, sig, ok = Memory(count, "float32"), Memory(1, "uint64"), Memory(max(n, 2), "int32")
    source.array[:] = np.arange(count) + 1000 * me
    given = shmem_triton.state()
    posts = os.environ["SHMEM_GPU_NIC"] == "ibgda" and "SHMEM_GPU_NIC_PROXY_FROM" not in os.environ
    assert (given.posts is not None) == (posts and n > 1)
    shmem.barrier_all()

    kernels.mapped[(1,)](ok, given)
    assert ok.array[:n].tolist() == [int(pe == me or given.nic is None) for pe in range(n)], ok.array
    kernels.ring[(1,)](to, source, sig, back, ok, after, count, given)
    shmem.barrier_all()
    assert ok.array[0] == 4, ok.array
    expected = np.arange(count, dtype="float32") + 1000 * before
    assert all((part == expected).all() for part in to.array.reshape(4, count)), to.array
    assert (back.array == np.arange(count) + 1000 * after).all() and sig.array[0] == 6

    words = [Memory(2, kind) for kind in ("float32", "float16", "int32", "uint64")]
    for pe in range(n):
        shmem.barrier_all()
        if pe == me:
            kernels.values[(1,)](*words, ok, after, given)
            assert ok.array[0] == kernels.VALUES, ok.array
    shmem.barrier_all()
    f, h, i, u = (memory.array for memory in words)
    assert (
        f.tolist() == [1.5, 0.5] and h[0] == 0.25 and i.tolist() == [-7, -1] and u.tolist() == [1 << 63, 27]
    )

    sig.array[0] = 0
    shmem.barrier_all()
    ok.array[0] = 0
    # programs run one after another here: more than one would wait for ever
    kernels.count[(1,)](sig, n, ok, given)
    if me == 0:
        assert ok.array[0] == 1 and sig.array[0] == n, (ok.array, sig.array)
    shmem.barrier_all()
    sig.array[0] = 0
    kernels.own[(1,)](sig, ok, given)
    assert ok.array[0] == 4, ok.array
    shmem.barrier_all()

    sig.array[0] = 0
    a, b, c = (Memory(256, "int32") for _ in range(3))
    b.array[:] = 10 * me
    shmem.barrier_all()
    kernels.exchange[(1,)](a, b, c, sig, ok, after, 5, given, N=256)
    assert ok.array[0] == 10 and (a.array == 10 * before + 5).all(), (ok.array, a.array)

    if n > 1 and given.nic is not None:  # what is not there is an error with its text, and no hang
        refused(kernels, given, after)
    print(f"PE {me}: Triton in its interpreter: fine")
    shmem.finalize()


def refused(kernels: Any, given: Any, pe: int) -> None:
    """A put behind the end of the heap."""
    ok = Memory(2, "int32")
    shmem.barrier_all()
    kernels.astray[(1,)](ok, 1 << 38, ok, pe, given)
    assert ok.array[0] == 0, "quiet said that all is well"
    if given.posts is None:
        with pytest.raises(shmem.errors.AddressError):
            state.check()
    else:  # the other PE's put of this kind may have ended the queue pair before
        with pytest.raises(shmem.errors.SystemError, match=r"the NIC: (remote access error|flushed)"):
            state.check()
        state.recover()
    shmem.barrier_all()
    kernels.astray[(1,)](ok, 1, ok, pe, given)  # and on
    assert ok.array[0] == 1, "quiet after an error that was asked for"
    shmem.barrier_all()


if __name__ == "__main__":
    main()
