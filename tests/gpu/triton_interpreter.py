"""Triton's kernels over the proxy without a GPU: in Triton's interpreter, over a GPU heap of the fake driver,
which is the machine's own memory, and the software NIC. One PE of a job; by hand, since Triton is large:

    cmake -B build/c -DSHMEM_BUILD_TESTS=ON && cmake --build build/c --target fake_cuda launch
    LD_LIBRARY_PATH=build/c/tests/c/fake_cuda TRITON_INTERPRET=1 SHMEM_NODE_ID=/1 SHMEM_GPU_NIC=proxy \\
    SHMEM_TRANSPORTS=shm,verbs,cuda SHMEM_IBVERBS_LIB=sim SHMEM_IB_ATOMICS=native SHMEM_TIMEOUT=60 \\
    SHMEM_DEVICE_SYMMETRIC_SIZE=128M build/c/tests/c/launch -n 2 python tests/gpu/triton_interpreter.py

With SHMEM_GPU_NIC=ibgda it looks at the refusal; with SHMEM_GPU_NIC_PROXY_FROM=64K besides, all works again.
What is inline assembly in a kernel, single words between kernel and host, is done by the interpreter's loads
and stores.
"""

# Triton's language is not typed.
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
from __future__ import annotations

import copy
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
from pyshmem.device import _triton_core, _triton_nic, state
from pyshmem.device import triton as shmem_triton


@triton.jit
def clock():
    return tl.cast(time.monotonic_ns(), tl.int64)


@triton.jit
def load_word(pointer):
    return tl.load(pointer)


@triton.jit
def store_word(pointer, value, RELEASE: tl.constexpr):
    tl.store(pointer, value)


@triton.jit
def system_fence():
    pass


def replace_assembly() -> None:
    for module in (_triton_core, _triton_nic, shmem_triton):
        for function in (clock, load_word, store_word, system_fence):
            name = function.__name__
            if hasattr(module, name):
                setattr(module, name, function)


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
    if os.environ["SHMEM_GPU_NIC"] == "ibgda" and "SHMEM_GPU_NIC_PROXY_FROM" not in os.environ:
        with pytest.raises(NotImplementedError, match="SHMEM_GPU_NIC=proxy"):
            shmem_triton.state()
        shmem.finalize()
        return
    given = shmem_triton.state()
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
    kernels.count[(1,)](
        sig, n, ok, given
    )  # programs run one after another here: more than one would wait for ever
    if me == 0:
        assert ok.array[0] == 1 and sig.array[0] == n, (ok.array, sig.array)

    if n > 1 and given.nic is not None:  # what is not there is an error with its text, and no hang
        refused(kernels, given, after)
    print(f"PE {me}: Triton in its interpreter: fine")
    shmem.finalize()


def refused(kernels: Any, given: Any, pe: int) -> None:
    """A put behind the end of the heap."""
    ok, there = Memory(2, "int32"), Memory(2, "int32")
    shmem.barrier_all()
    there.array = np.frombuffer(ffi.buffer(ffi.cast("char *", given.copy + (1 << 40)), 8), "int32")
    kernels.astray[(1,)](there, ok, pe, given)
    assert ok.array[0] == 0, "quiet said that all is well"
    with pytest.raises(shmem.errors.AddressError):
        state.check()
    shmem.barrier_all()
    kernels.astray[(1,)](ok, ok, pe, given)  # and on
    assert ok.array[0] == 1, "quiet after an error that was asked for"
    shmem.barrier_all()


if __name__ == "__main__":
    main()
