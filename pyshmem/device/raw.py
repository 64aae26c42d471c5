"""CuPy's RawModule and RawKernel, for sources that include ``shmem_device.h``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from .._core import lib
from ..errors import CLASSES
from . import arrays, state

__all__ = ["Kernel", "RawKernel", "RawModule", "options_for", "source_for"]

_ArgumentError = CLASSES[lib.SHMEMX_ERR_ARGUMENT]


def options_for(options: Iterable[str] = ()) -> tuple[str, ...]:
    """Compiler options for a source: ours (C++17, libshmem's headers), where the caller gives no others."""
    given = tuple(options)
    standard = () if any(o.lstrip("-").startswith("std") for o in given) else ("--std=c++17",)
    return (*standard, f"-I{state.include_dir()}", *given)


@cache
def _fingerprint(folder: Path) -> str:
    names = sorted([*folder.glob("*.h"), *(folder / "device").glob("*.h")])
    return hashlib.sha256(b"".join(name.read_bytes() for name in names)).hexdigest()[:16]


def source_for(code: str) -> str:
    """The source as it is compiled: CuPy's cache on disk knows the text, but not the headers, so they are
    named in a comment by their hash. Line numbers in messages stay true."""
    return f"/* shmem_device.h {_fingerprint(state.include_dir())} */ {code}"


class Kernel:
    """One kernel of a module; called as CuPy's: ``kernel(grid, block, args, shared_mem=0, stream=None)``.

    A cupy.cuda.Stream in `stream`, else the current stream, orders it. All kernels that wait for each other
    must fit on the GPU at the same time.
    """

    __slots__ = ("_function", "_module")

    def __init__(self, module: RawModule, function: Any) -> None:
        self._module = module
        self._function = function

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: Sequence[Any], *, shared_mem: int = 0,
        stream: Any = None,
    ) -> None:  # fmt: skip
        if self._module._epoch != state.epoch():
            self._module._fill()
        if stream is None:
            self._function(grid, block, tuple(args), shared_mem=shared_mem)
        else:
            with stream:
                self._function(grid, block, tuple(args), shared_mem=shared_mem)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._function, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in Kernel.__slots__:
            object.__setattr__(self, name, value)
        else:
            setattr(self._function, name, value)  # max_dynamic_shared_size_bytes and the like


class RawModule:
    """CUDA C++ that calls libshmem's device API, compiled by NVRTC; as cupy.RawModule.

    Parameters
    ----------
    code : str
        Source that has ``#include <shmem_device.h>``.
    options : sequence of str
        For the compiler, beside the C++ standard (17) and the folder of the headers.
        ``-DSHMEM_DEVICE_CHECKS`` checks PEs and addresses of every call.
    name_expressions : sequence of str, optional
        Instances of templates, to be asked for by these names.
    **more
        Handed on to cupy.RawModule (``enable_cooperative_groups``...).

    Notes
    -----
    The module is compiled and loaded at the first `get_function`, for the current device, and is then given
    the state of this PE; that needs the GPU heap, which the first allocation with ``device="cuda"`` opens.

    Raises
    ------
    ArgumentError
        The source does not include ``shmem_device.h``, or the current device is not that of the heap.
    NotInitializedError
        There is no GPU heap yet.
    """

    def __init__(
        self, code: str, *, options: Sequence[str] = (), name_expressions: Sequence[str] | None = None,
        **more: Any,
    ) -> None:  # fmt: skip
        self._source = {"code": source_for(code), "name_expressions": name_expressions, **more}
        self._options = options_for(options)
        self._compiled: Any = None
        self._epoch = -1

    @property
    def _module(self) -> Any:
        """cupy.RawModule, made when the job is known: the paths to PEs that are not mapped cost registers."""
        if self._compiled is None:
            mapped = () if state.some_unmapped("RawModule") else ("-DSHMEM_DEVICE_MAPPED",)
            self._compiled = arrays._cupy().RawModule(options=(*self._options, *mapped), **self._source)
            self._mapped = bool(mapped)
        return self._compiled

    def _fill(self) -> None:
        cupy = arrays._cupy()
        if self._compiled is not None and self._mapped and state.some_unmapped("RawModule"):
            raise _ArgumentError(
                "RawModule: it was compiled in an earlier job, whose GPU memory was all mapped; "
                "this job's is not: make the module anew"
            )
        device = lib.shmemx_device()
        here = cupy.cuda.runtime.getDevice()
        if device >= 0 and here != device:
            raise _ArgumentError(
                f"RawModule: the current device is GPU {here}, the GPU heap of this PE is on GPU {device}"
            )
        try:
            symbol = self._module.get_global(state.SYMBOL)
        except cupy.cuda.driver.CUDADriverError as error:
            raise _ArgumentError(
                f"RawModule: the module has no symbol {state.SYMBOL} ({error}): "
                "its source lacks #include <shmem_device.h>"
            ) from error
        state.write_state(symbol.ptr, state.LAYOUT.itemsize, "RawModule")
        self._epoch = state.epoch()

    def get_function(self, name: str) -> Kernel:
        """The kernel of that name, or name expression."""
        function = self._module.get_function(name)
        if self._epoch != state.epoch():
            self._fill()
        return Kernel(self, function)

    def get_global(self, name: str) -> Any:
        """cupy.cuda.MemoryPointer of one of the module's own symbols."""
        return self._module.get_global(name)


def RawKernel(code: str, name: str, options: Sequence[str] = (), **more: Any) -> Kernel:
    """The kernel `name` of a source that includes ``shmem_device.h``; arguments as for `RawModule`.

    Unlike cupy.RawKernel it compiles at once.
    """
    return RawModule(code, options=options, **more).get_function(name)
