"""CuPy arrays over the GPU heap, and how calls read CuPy and PyTorch arguments.

Only this module knows both packages. PyTorch is never imported here except by `torch`: a tensor can only be
handed over by a program that has imported it.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from .. import heap
from .._core import ffi, lib
from ..errors import CLASSES, check
from ..setup import state as job
from . import state

_ArgumentError = CLASSES[lib.SHMEMX_ERR_ARGUMENT]
_AddressError = CLASSES[lib.SHMEMX_ERR_ADDRESS]
_WORLD = ffi.cast("shmem_team_t", lib.SHMEMX_TEAM_WORLD)

_opened_in = -1  # the job whose GPU heap modules know


def _cupy() -> Any:
    try:
        import cupy
    except ImportError as error:
        raise ImportError(
            'arrays in GPU memory are CuPy arrays: pip install "sushmem[cuda13]" or "sushmem[cuda12]"'
        ) from error
    return cupy


# ---- making them -------------------------------------------------------------------------------------------


class _Owner:
    """What the arrays of one block hold on to. Its end marks the block as dropped, and does nothing else,
    because it comes at any moment and in any thread."""

    __slots__ = ("__weakref__", "block")

    def __init__(self, block: heap.Block) -> None:
        self.block = block

    def __del__(self) -> None:
        self.block.dropped = True


def _array_over(
    address: int, nbytes: int, owner: Any, shape: tuple[int, ...], dtype: np.dtype[Any],
    strides: tuple[int, ...] | None, order: str = "C",
) -> Any:  # fmt: skip
    cupy = _cupy()
    memory = cupy.cuda.UnownedMemory(address, max(nbytes, 1), owner, lib.shmemx_device())
    return cupy.ndarray(shape, dtype, cupy.cuda.MemoryPointer(memory, 0), strides=strides, order=order)


def new(
    shape: tuple[int, ...], dtype: np.dtype[Any], nbytes: int, order: str, align: int, clear: bool,
    strides: tuple[int, ...] | None = None,
) -> Any:  # fmt: skip
    """A cupy.ndarray over a new block of the GPU heap. Collective. Zeros, on all PEs, with `clear`."""
    _cupy()
    block = heap.take_block(nbytes, align, clear, lib.SHMEMX_MEM_DEVICE)
    owner = _Owner(block)
    adopt_device()
    return _array_over(block.address, nbytes, owner, shape, dtype, strides, order)


def adopt_device() -> None:
    """The GPU heap is open: its device becomes the current one of this thread, and modules learn of it."""
    global _opened_in
    device = lib.shmemx_device()
    cupy = sys.modules.get("cupy")
    if cupy is not None and cupy.cuda.runtime.getDevice() != device:
        cupy.cuda.Device(device).use()
    if _opened_in != state.epoch():
        _opened_in = state.epoch()
        package = sys.modules.get("torch")
        if package is not None and package.cuda.is_available():
            package.cuda.set_device(device)  # its copy of the CUDA runtime keeps a number of its own
        state.heap_opened()


def array(obj: Any, dtype: npt.DTypeLike | None, order: str, align: int) -> Any:
    """As `heap.array`, in GPU memory; `obj` may be in either."""
    cupy = _cupy()
    source = obj if isinstance(obj, cupy.ndarray) else np.asarray(obj)
    kind = np.dtype(source.dtype if dtype is None else dtype)
    layout = "F" if order == "F" or (order in "KA" and _fortran(source)) else "C"
    made = new(tuple(source.shape), kind, int(source.size) * kind.itemsize, layout, align, False)
    fill(made, cupy.asarray(source))
    check(lib.shmemx_sync(_WORLD))
    return made


def _fortran(a: Any) -> bool:
    return bool(a.flags.f_contiguous and not a.flags.c_contiguous)


def fill(made: Any, value: Any) -> None:
    """Copies `value` into a new array; complete when it returns."""
    made[...] = value
    _cupy().cuda.get_current_stream().synchronize()


def torch(a: Any) -> Any:
    """The same memory as a torch.Tensor; nothing is copied.

    Parameters
    ----------
    a : cupy.ndarray or SymmetricArray
        Of the GPU heap, or of the host heap (then a tensor of the CPU).

    Returns
    -------
    torch.Tensor
        Holds the memory as the array does; pyshmem's calls take it in the array's place.
    """
    import torch as package

    if isinstance(a, np.ndarray) and not a.dtype.isbuiltin and a.dtype.name == "bfloat16":
        return package.from_numpy(np.asarray(a).view(np.int16)).view(package.bfloat16)
    if isinstance(a, np.ndarray):
        return package.from_numpy(np.asarray(a))
    if describe(a, "torch", "a") is None:
        raise TypeError(f"torch: a is {type(a).__name__}, not an array")
    if a.dtype.name == "bfloat16":  # not every version of CuPy exports it
        return package.from_dlpack(a.view(np.int16)).view(package.bfloat16)
    return package.from_dlpack(a)


def view_of_peer(target: Any, address: int, nbytes: int) -> Any:
    """A CuPy array of target's shape over a peer's copy at `address`; it holds `target`."""
    found = describe(target, "ptr", "target")
    assert found is not None
    return _array_over(address, nbytes, target, found.shape, found.dtype, found.strides)


# ---- reading arguments -------------------------------------------------------------------------------------


class Found(NamedTuple):
    """A contiguous array of CuPy or PyTorch, as calls need it."""

    address: int
    nbytes: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # bytes
    dtype: np.dtype[Any]
    device: int  # -1: host memory
    block: heap.Block | None  # what it was made from, where the array tells


def describe(a: Any, call: str, name: str) -> Found | None:
    """Pointer, bytes, dtype and device of a CuPy or PyTorch array, None for anything else.

    Raises ArgumentError for arrays that are not contiguous, TypeError for dtypes that NumPy cannot name.
    """
    cupy, package = sys.modules.get("cupy"), sys.modules.get("torch")
    if cupy is not None and isinstance(a, cupy.ndarray):
        flags = a.flags
        if not (flags.c_contiguous or flags.f_contiguous):
            raise _ArgumentError(
                f"{call}: {name} is not contiguous: shape {a.shape}, strides {a.strides}, "
                f"itemsize {a.itemsize}"
            )
        owner = getattr(a.data.mem, "_owner", None)
        block = owner.block if type(owner) is _Owner else None
        return Found(a.data.ptr, a.nbytes, a.shape, a.strides, a.dtype, a.device.id, block)
    if package is not None and isinstance(a, package.Tensor):
        if not a.is_contiguous() and not a.T.is_contiguous():
            raise _ArgumentError(
                f"{call}: {name} is not contiguous: shape {tuple(a.shape)}, strides {a.stride()} (elements)"
            )
        if a.device.type not in ("cpu", "cuda"):
            raise TypeError(f"{call}: {name} is a tensor on {a.device}, not in CUDA or host memory")
        dtype, size = _dtype_of(a.dtype, call, name), a.element_size()
        return Found(
            a.data_ptr(), a.numel() * size, tuple(a.shape), tuple(n * size for n in a.stride()), dtype,
            a.device.index if a.device.type == "cuda" else -1, None,
        )  # fmt: skip
    return None


_dtypes: dict[Any, np.dtype[Any]] = {}  # by torch's dtype


def _dtype_of(kind: Any, call: str, name: str) -> np.dtype[Any]:
    found = _dtypes.get(kind)
    if found is None:
        import ml_dtypes

        text = str(kind).removeprefix("torch.")
        try:
            found = np.dtype(getattr(ml_dtypes, text, text))
        except TypeError:
            raise TypeError(f"{call}: {name} has dtype {kind}, for which NumPy has no name") from None
        _dtypes[kind] = found
    return found


def check_use(a: Found, call: str, name: str, *, symmetric: bool) -> None:
    """Raises for freed memory, another device, and GPU memory while there is no GPU heap."""
    text = f"{call}: {name} (shape {a.shape}, {a.dtype})"
    if a.block is not None and not a.block.live:
        raise _AddressError(f"{text} {'was freed' if job.ready else 'was in a heap that is finalized'}")
    if a.device < 0 or a.nbytes == 0:
        return
    device = lib.shmemx_device() if job.ready else -1
    if device < 0:
        raise _AddressError(
            f'{text} is GPU memory, and there is no GPU heap; an allocation with device="cuda" opens it'
        )
    if a.device != device:
        raise _ArgumentError(f"{text} is on GPU {a.device}, the GPU heap of this PE on GPU {device}")
    if symmetric and a.block is None and heap.block_at(a.address) is None:
        raise _AddressError(
            f"{text} at {a.address:#x} is not in a block of the symmetric heap; a copy, or freed before?"
        )


def is_symmetric(a: Any) -> bool:
    """For `heap.is_symmetric`: all bytes of a GPU array are in one live block."""
    try:
        found = describe(a, "is_symmetric", "a")
    except (TypeError, _ArgumentError):
        return False
    if found is None or (found.block is not None and not found.block.live):
        return False
    block = heap.block_at(found.address)
    return block is not None and found.address + found.nbytes <= block.address + block.nbytes


def settle(a: Any) -> None:
    """Waits until the current stream of the array's package has done what it holds."""
    cupy, package = sys.modules.get("cupy"), sys.modules.get("torch")
    if cupy is not None and isinstance(a, cupy.ndarray):
        cupy.cuda.get_current_stream().synchronize()
    elif package is not None and isinstance(a, package.Tensor) and a.is_cuda:
        cast(Any, package).cuda.current_stream(a.device).synchronize()


def finish_kernels() -> None:
    """Waits for all work on the heap's device; before memory is freed."""
    device = lib.shmemx_device()
    cupy, package = sys.modules.get("cupy"), sys.modules.get("torch")
    if device >= 0 and cupy is not None:
        with cupy.cuda.Device(device):
            cupy.cuda.runtime.deviceSynchronize()
    elif device >= 0 and package is not None and package.cuda.is_available():
        package.cuda.synchronize(device)
