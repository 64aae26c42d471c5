"""What the items of `pyshmem.device.probe` share: their states, the driver, the kernels and pinned memory."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from .probe_kernels import KERNELS

__all__ = [
    "BAD",
    "NATIVE_ATOMICS",
    "NONE",
    "OK",
    "WARN",
    "Driver",
    "DriverError",
    "Left",
    "Pinned",
    "Result",
    "driver",
    "kernels",
    "left",
    "new_left",
    "run",
]

NATIVE_ATOMICS = 3  # CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED

OK, NONE, WARN, BAD = "ok", "none", "warn", "bad"
Result = tuple[str, str, str, dict[str, float]]
"""State, what was found, what to do, figures."""


class DriverError(RuntimeError):
    """A call of the driver that failed."""


class Driver:
    """libcuda.so.1 and its device 0, by ctypes, with the device's primary context current."""

    def __init__(self) -> None:
        self._lib = ctypes.CDLL("libcuda.so.1")
        self.call("cuInit", 0)
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self.call("cuDeviceGet", ctypes.byref(device), 0)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self.call("cuCtxSetCurrent", context)
        self.device = device.value

    def call(self, name: str, *arguments: Any) -> None:
        function = getattr(self._lib, name, None)
        if function is None:
            raise DriverError(f"the driver has no {name}")
        code = function(*arguments)
        if code:
            text = ctypes.c_char_p()
            self._lib.cuGetErrorName(code, ctypes.byref(text))
            raise DriverError(f"{name}: {(text.value or b'unknown').decode()} ({code})")

    def attribute(self, number: int, device: int | None = None) -> int:
        """0 where the driver does not know it."""
        value = ctypes.c_int(0)
        try:
            which = self.device if device is None else device
            self.call("cuDeviceGetAttribute", ctypes.byref(value), number, which)
        except DriverError:
            return 0
        return value.value

    def link(self, number: int, a: int, b: int) -> int:
        """An attribute of the way from one device to another."""
        value = ctypes.c_int()
        self.call("cuDeviceGetP2PAttribute", ctypes.byref(value), number, a, b)
        return value.value

    def count(self) -> int:
        value = ctypes.c_int()
        self.call("cuDeviceGetCount", ctypes.byref(value))
        return value.value


@cache
def driver() -> Driver:
    return Driver()


@cache
def kernels() -> Any:
    """The kernels, compiled by NVRTC for each device that asks."""
    import cupy

    from .raw import options_for, source_for

    return cupy.RawModule(code=source_for(KERNELS), options=options_for(), backend="nvrtc")


class Pinned:
    """Pinned host memory: words that kernels and CPU both see."""

    def __init__(self, words: int = 512) -> None:
        import cupy

        self._memory = cupy.cuda.alloc_pinned_memory(8 * words)
        self.address: int = self._memory.ptr
        self.words = np.frombuffer(self._memory, np.uint64, words)
        self.words[:] = 0


class Left(NamedTuple):
    """What a kernel leaves: nanoseconds; waits that met their deadline; counts of what was wrong, and of the
    first such thing what was wanted and what was there."""

    ns: int = 0
    late: int = 0
    first: int = 0
    second: int = 0
    third: int = 0
    wanted: int = 0
    found: int = 0


def new_left() -> Any:
    """Memory of the current device for that, the kernels' last argument."""
    import cupy

    return cupy.zeros(len(Left._fields), "uint64")


def left(memory: Any) -> Left:
    return Left(*map(int, memory.get()))


def run(name: str, blocks: int, threads: int, *arguments: Any, shared: int = 0) -> Left:
    """Runs a kernel on device 0."""
    import cupy

    out, function = new_left(), kernels().get_function(name)
    if shared:
        function.max_dynamic_shared_size_bytes = shared
    function((blocks,), (threads,), (*arguments, out), shared_mem=shared)
    cupy.cuda.runtime.deviceSynchronize()
    return left(out)
