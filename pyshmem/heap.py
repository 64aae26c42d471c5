"""The symmetric heap: arrays and memory that every PE has at the same offset, so that peers can reach them.

Symmetric arrays are NumPy arrays (`SymmetricArray`, a subclass). Slices and reshaped views of one are
symmetric as well; copies and results of arithmetic are plain arrays. All functions that allocate or free are
collective: every PE calls them, in the same order, with the same arguments.

When memory is given back. ``free(a)`` does it at once. An array that is merely dropped cannot be freed by its
destructor, because the garbage collector runs at a different moment on every PE, and freeing is collective.
The destructor only marks the block as dropped; each allocation first lets the PEs agree on the blocks that
all have dropped, and frees those in the order of their allocation. The agreement costs one reduction of 8
bytes, and a second of one bit a block when every PE has dropped something. `reclaim` does it on demand. A
block that one PE still holds stays. Host and GPU memory (``device="cuda"``) share all of this.
"""

from __future__ import annotations

import gc
import math
from bisect import bisect_right, insort
from collections.abc import Sequence
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, cast

import numpy as np
import numpy.typing as npt

from . import setup
from ._core import ffi, lib
from .errors import CLASSES, check, fail
from .setup import ensure, state
from .symmetric import SymmetricArray, local, refuse, root_block, set_block, symmetric
from .types import MALLOC, Array, CData, Number

if TYPE_CHECKING:
    from .space import Space

__all__ = [
    "addr_accessible",
    "alloc",
    "array",
    "del_array",
    "empty",
    "free",
    "fromalloc",
    "full",
    "heap_info",
    "is_symmetric",
    "new_array",
    "ones",
    "ptr",
    "reclaim",
    "zeros",
]

_ArgumentError = CLASSES[lib.SHMEMX_ERR_ARGUMENT]
_AddressError = CLASSES[lib.SHMEMX_ERR_ADDRESS]
_WORLD = ffi.cast("shmem_team_t", lib.SHMEMX_TEAM_WORLD)
_from_buffer = ffi.from_buffer

Shape = int | Sequence[int]


# ---- blocks: what malloc returned --------------------------------------------------------------------------


class Block:
    """One allocation. `live` turns False when it is freed, or the job ends; arrays ask it before each use."""

    __slots__ = ("address", "dropped", "kind", "live", "nbytes")

    def __init__(self, address: int, nbytes: int, kind: int) -> None:
        self.address = address
        self.nbytes = nbytes
        self.kind = kind  # SHMEMX_MEM_HOST or _DEVICE
        self.live = True
        self.dropped = False


# In the order of allocation, which is the same on all PEs: position i is the same block everywhere.
_blocks: dict[int, Block] = {}
_addresses: list[int] = []  # the same, sorted
_scratch: Array | None = None  # symmetric words of this module for agreements; rows: mine, result
_SCRATCH_BYTES = 4096  # one agreement covers 32768 blocks; more take several rounds


def _forget_all() -> None:
    global _scratch
    for block in _blocks.values():
        block.live = False
    _blocks.clear()
    _addresses.clear()
    _scratch = None


setup.after_finalize.append(_forget_all)


def _drop(block: Block, _: CData) -> None:
    # Runs in a destructor, at any moment and in any thread: nothing but two marks.
    block.dropped = True
    state.held.discard(block)


def _malloc(nbytes: int, align: int, clear: bool, kind: int, space: Space | None) -> int:
    """Address of a new block, after one more try without what garbage still holds; collective."""
    out = ffi.new("void **")

    def take() -> int:
        if space is None:
            return int(lib.shmemx_allocate(out, nbytes, align, clear, kind))
        return int(lib.shmemx_space_allocate(space.handle, out, nbytes, align, clear))

    code = take()
    if code == lib.SHMEMX_ERR_NO_MEMORY:
        # The heaps are alike, so all PEs are here.
        gc.collect()
        if reclaim():
            code = take()
    if code:
        fail(code)
    return int(ffi.cast("uintptr_t", out[0]))


def take_block(nbytes: int, align: int, clear: bool, kind: int, space: Space | None = None) -> Block:
    """A new block of either heap; collective. Whoever shows it marks it as dropped."""
    if not state.ready:
        ensure()
    reclaim()
    address = _malloc(max(nbytes, 1), align, clear, kind, space)
    block = Block(address, max(nbytes, 1), kind)
    _blocks[address] = block
    insort(_addresses, address)
    return block


def _new_block(nbytes: int, align: int, clear: bool, space: Space | None = None) -> memoryview:
    """Allocates; the memory is dropped when the last object that shows it is collected."""
    block = take_block(nbytes, align, clear, lib.SHMEMX_MEM_HOST, space)
    address = block.address
    state.held.add(block)
    owner = ffi.gc(ffi.cast("char *", address), partial(_drop, block))
    return memoryview(ffi.buffer(owner, nbytes))


def block_at(address: int) -> Block | None:
    """The live block that `address` lies in."""
    i = bisect_right(_addresses, address) - 1
    if i < 0:
        return None
    block = _blocks[_addresses[i]]
    return block if address < block.address + block.nbytes else None


def _release(block: Block) -> None:
    if block.kind != lib.SHMEMX_MEM_HOST:
        _arrays().finish_kernels()  # before the barrier in shmemx_free: no PE's kernels use it any more
    code = lib.shmemx_free(ffi.cast("void *", block.address))
    if code:
        fail(code)
    block.live = False
    del _blocks[block.address]
    _addresses.remove(block.address)


def _reduce(op: int, core_type: int, count: int) -> None:
    assert _scratch is not None
    mine, result = (ffi.from_buffer(row) for row in _scratch)
    check(lib.shmemx_reduce(_WORLD, op, core_type, result, mine, count))


class _Droppable(Protocol):
    @property
    def dropped(self) -> bool: ...


_Kept = TypeVar("_Kept", bound=_Droppable)


def dropped_by_all(items: list[_Kept]) -> list[_Kept]:
    """Those of `items`, in the same order on all PEs, that every PE has dropped; collective."""
    global _scratch
    if lib.shmem_n_pes() == 1:
        return [item for item in items if item.dropped]
    if _scratch is None:
        out = ffi.new("void **")
        check(lib.shmemx_allocate(out, 2 * _SCRATCH_BYTES, 0, 1, lib.SHMEMX_MEM_HOST))
        _scratch = np.frombuffer(ffi.buffer(out[0], 2 * _SCRATCH_BYTES), np.uint8).reshape(2, -1)
    _scratch[0, :8].view(np.uint64)[0] = sum(item.dropped for item in items)
    _reduce(lib.SHMEMX_REDUCE_MIN, lib.SHMEMX_UINT64, 1)
    if _scratch[1, :8].view(np.uint64)[0] == 0:
        return []
    agreed: list[_Kept] = []
    for start in range(0, len(items), 8 * _SCRATCH_BYTES):
        part = items[start : start + 8 * _SCRATCH_BYTES]
        bits = np.packbits(np.fromiter((item.dropped for item in part), np.bool_, len(part)))
        _scratch[0, : bits.size] = bits
        _reduce(lib.SHMEMX_REDUCE_AND, lib.SHMEMX_UINT8, bits.size)
        both = np.unpackbits(_scratch[1, : bits.size], count=len(part))
        agreed += [part[i] for i in np.flatnonzero(both)]
    return agreed


def reclaim() -> int:
    """Frees the blocks that every PE has dropped; see the module's text. Collective.

    Returns
    -------
    int
        How many blocks were freed, the same on all PEs.
    """
    if not state.ready:
        ensure()
    if not _blocks:
        return 0
    agreed = dropped_by_all(list(_blocks.values()))
    for block in agreed:
        _release(block)
    return len(agreed)


# ---- allocation --------------------------------------------------------------------------------------------


def _arrays() -> ModuleType:
    """pyshmem.device.arrays, imported only where GPU memory is in play."""
    from .device import arrays

    return arrays


def _on_gpu(device: str | None, call: str, space: Space | None = None) -> bool:
    if device is None or device == "cpu":
        return False
    if device != "cuda":
        raise _ArgumentError(f'{call}: device {device!r} is neither "cpu" nor "cuda"')
    if space is not None:
        raise _ArgumentError(f"{call}: a space is host memory, device is {device!r}")
    return True


def _bytes_of(shape: Shape, dtype: np.dtype[Any], call: str) -> tuple[tuple[int, ...], int]:
    if dtype.hasobject:
        raise TypeError(f"{call}: dtype {dtype} holds Python objects, which other PEs cannot use")
    try:
        sizes = tuple(int(n) for n in shape) if isinstance(shape, Sequence | np.ndarray) else (int(shape),)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{call}: shape {shape!r} is neither an integer nor a sequence of them") from error
    if any(n < 0 for n in sizes):
        raise _ArgumentError(f"{call}: shape {sizes} has a negative size")
    return sizes, math.prod(sizes) * dtype.itemsize


def _options(align: int | None, hints: int | None, call: str) -> int:
    if hints is not None and int(hints) & ~int(MALLOC.ATOMICS_REMOTE | MALLOC.SIGNAL_REMOTE):
        raise _ArgumentError(f"{call}: hints {int(hints):#x} have bits that MALLOC does not")
    if align is None or align == 0:
        return 64 if hints else 0  # words that others write to get a cache line of their own
    if align < 0 or align & (align - 1):
        raise _ArgumentError(f"{call}: alignment {align} is not a power of two")
    return int(align)


def _view(
    memory: memoryview, shape: tuple[int, ...], dtype: np.dtype[Any], order: str = "C",
    strides: tuple[int, ...] | None = None,
) -> SymmetricArray:  # fmt: skip
    make = cast(Any, np.ndarray.__new__)
    made: SymmetricArray = make(SymmetricArray, shape, dtype, memory, 0, strides, order)
    address = int(ffi.cast("uintptr_t", _from_buffer(memory)))
    set_block(made, block_at(address))
    return made


def alloc(
    count: int, size: int = 1, align: int | None = None, hints: int | None = None, clear: bool = True,
    space: Space | None = None,
) -> memoryview:  # fmt: skip
    """Allocates ``count * size`` bytes of the symmetric heap. Collective.

    Parameters
    ----------
    count, size : int
        Number of elements and bytes of each.
    align : int, optional
        Alignment in bytes, a power of two; by default 16, from 64 bytes on 64.
    hints : int, optional
        What the memory is for, from `MALLOC`.
    clear : bool
        Whether it is zero on return, on all PEs.
    space : Space, optional
        The memory space to take it from, the same on all PEs.

    Returns
    -------
    memoryview
        The bytes; `fromalloc` makes an array of them.

    Raises
    ------
    NoMemoryError
        The heap, or the space, is full; SHMEM_SYMMETRIC_SIZE sets the heap's size.
    MismatchError
        Another PE asks for something else.
    """
    if count < 0 or size < 0:
        raise _ArgumentError(f"alloc: {count} elements of {size} bytes")
    return _new_block(int(count) * int(size), _options(align, hints, "alloc"), bool(clear), space)


def free(mem: memoryview | Array | Any) -> None:
    """Gives memory back. Collective; starts with a barrier, GPU memory once this PE's kernels have ended.

    Parameters
    ----------
    mem : memoryview or array
        What an allocation returned, or a view that starts at the same element; CuPy and PyTorch arrays too.

    Raises
    ------
    AddressError
        It is not symmetric, was freed before, or starts inside a block.
    """
    if isinstance(mem, np.ndarray):
        found, block = root_block(mem)
        address = mem.__array_interface__["data"][0]
        if found and (block is None or not block.live):
            refuse(
                mem, "free", "mem", "was freed before" if state.ready else "was in a heap that is finalized"
            )
        block = block_at(address)
        what = f"the array (shape {mem.shape}, {mem.dtype})"
    elif isinstance(mem, memoryview):
        address = int(ffi.cast("uintptr_t", _from_buffer(mem)))
        block = block_at(address)
        what = f"the memory of {mem.nbytes} bytes"
    elif (found_on_gpu := _arrays().describe(mem, "free", "mem")) is not None:
        address, what = found_on_gpu.address, f"the array (shape {found_on_gpu.shape}, {found_on_gpu.dtype})"
        if found_on_gpu.block is not None and not found_on_gpu.block.live:
            ended = not state.ready
            raise _AddressError(
                f"free: {what} was {'in a heap that is finalized' if ended else 'freed before'}"
            )
        block = block_at(address)
    else:
        raise TypeError(f"free: mem is {type(mem).__name__}, not an array or memoryview")
    if block is None:
        raise _AddressError(
            f"free: {what} at {address:#x} is not in a block of the symmetric heap; freed before?"
        )
    if address != block.address:
        raise _AddressError(
            f"free: {what} starts {address - block.address} bytes inside its block; free the whole"
        )
    _release(block)


def fromalloc(
    mem: memoryview,
    shape: Shape | None = None,
    dtype: npt.DTypeLike | None = None,
    order: Literal["C", "F"] = "C",
) -> SymmetricArray:
    """An array over memory from `alloc`. Local; nothing is copied.

    Parameters
    ----------
    mem : memoryview
        What `alloc` returned, or a slice of it.
    shape : int or sequence of int, optional
        By default all elements that fit, one-dimensional.
    dtype : dtype
        By default float64.
    order : {"C", "F"}
        Row-major or column-major.

    Raises
    ------
    ArgumentError
        The memory is too small.
    """
    if not isinstance(mem, memoryview):
        raise TypeError(f"fromalloc: mem is {type(mem).__name__}, not a memoryview from alloc")
    kind = np.dtype(dtype)
    if shape is None:
        shape = mem.nbytes // kind.itemsize
    sizes, nbytes = _bytes_of(shape, kind, "fromalloc")
    if nbytes > mem.nbytes:
        raise _ArgumentError(
            f"fromalloc: shape {sizes} of {kind} takes {nbytes} bytes, the memory has {mem.nbytes}"
        )
    made = _view(mem, sizes, kind, order)
    if made._block is None:
        raise _AddressError(f"fromalloc: the memory of {mem.nbytes} bytes is not from alloc, or was freed")
    return made


def new_array(
    shape: Shape, dtype: npt.DTypeLike = float, order: Literal["C", "F"] = "C", *,
    align: int | None = None, hints: int | None = None, clear: bool = True, device: str | None = None,
    space: Space | None = None,
) -> SymmetricArray | Any:  # fmt: skip
    """Allocates a symmetric array; zeros unless ``clear=False``. Collective. Options as for `alloc`.

    ``device="cuda"`` takes the memory from this PE's GPU and returns a ``cupy.ndarray`` over it, here as in
    `empty`, `zeros`, `ones`, `full` and `array`; see `pyshmem.device`.
    """
    kind = np.dtype(dtype)
    sizes, nbytes = _bytes_of(shape, kind, "new_array")
    if _on_gpu(device, "new_array", space):
        return _arrays().new(sizes, kind, nbytes, order, _options(align, hints, "new_array"), clear)
    return _view(_new_block(nbytes, _options(align, hints, "new_array"), clear, space), sizes, kind, order)


def del_array(a: Any) -> None:
    """Frees an array; the same as `free`. Collective."""
    if not isinstance(a, np.ndarray):
        raise TypeError(f"del_array: {type(a).__name__} is not an array")
    free(a)


def array(
    obj: Any, dtype: npt.DTypeLike | None = None, *, order: Literal["K", "A", "C", "F"] = "K",
    align: int | None = None, hints: int | None = None, device: str | None = None,
    space: Space | None = None,
) -> SymmetricArray | Any:  # fmt: skip
    """Allocates a symmetric array with the contents of `obj`, as `numpy.array`. Collective.

    Shape and dtype must be the same on all PEs; contents may differ. All PEs have theirs when it returns.
    """
    if _on_gpu(device, "array", space):
        return _arrays().array(obj, dtype, order, _options(align, hints, "array"))
    source = np.asarray(obj, dtype)
    _, nbytes = _bytes_of(source.shape, source.dtype, "array")
    layout = np.empty_like(source, order=order, subok=False).strides
    memory = _new_block(nbytes, _options(align, hints, "array"), False, space)
    made = _view(memory, source.shape, source.dtype, strides=layout)
    np.copyto(made, source, casting="no")
    check(lib.shmemx_sync(_WORLD))
    return made


def empty(
    shape: Shape, dtype: npt.DTypeLike = float, order: Literal["C", "F"] = "C", *,
    align: int | None = None, hints: int | None = None, device: str | None = None,
    space: Space | None = None,
) -> SymmetricArray | Any:  # fmt: skip
    """Allocates a symmetric array with undefined contents. Collective."""
    return new_array(shape, dtype, order, align=align, hints=hints, clear=False, device=device, space=space)


def zeros(
    shape: Shape, dtype: npt.DTypeLike = float, order: Literal["C", "F"] = "C", *,
    align: int | None = None, hints: int | None = None, device: str | None = None,
    space: Space | None = None,
) -> SymmetricArray | Any:  # fmt: skip
    """Allocates a symmetric array of zeros. Collective; all PEs' are zero when it returns."""
    return new_array(shape, dtype, order, align=align, hints=hints, clear=True, device=device, space=space)


def ones(
    shape: Shape, dtype: npt.DTypeLike = float, order: Literal["C", "F"] = "C", *,
    align: int | None = None, hints: int | None = None, device: str | None = None,
    space: Space | None = None,
) -> SymmetricArray | Any:  # fmt: skip
    """Allocates a symmetric array of ones. Collective; all PEs' are filled when it returns."""
    return full(shape, 1, dtype, order, align=align, hints=hints, device=device, space=space)


def full(
    shape: Shape, fill_value: Number, dtype: npt.DTypeLike | None = None, order: Literal["C", "F"] = "C", *,
    align: int | None = None, hints: int | None = None, device: str | None = None,
    space: Space | None = None,
) -> SymmetricArray | Any:  # fmt: skip
    """Allocates a symmetric array of `fill_value`, by default of its dtype. Collective; all PEs' are filled
    when it returns. The value may differ between PEs, the dtype may not."""
    if dtype is None:
        dtype = np.asarray(fill_value).dtype
    made = new_array(shape, dtype, order, align=align, hints=hints, clear=False, device=device, space=space)
    if isinstance(made, np.ndarray):
        np.copyto(made, fill_value, casting="unsafe")
    else:
        _arrays().fill(made, fill_value)
    check(lib.shmemx_sync(_WORLD))
    return made


# ---- queries -----------------------------------------------------------------------------------------------


def is_symmetric(a: Array | Any) -> bool:
    """Whether all bytes of the array are symmetric memory that is in use. Local."""
    if not state.ready:
        return False
    if not isinstance(a, np.ndarray):
        return bool(_arrays().is_symmetric(a))
    if a.dtype.hasobject:
        return False
    found, block = root_block(a)
    if found:
        return block is not None and block.live
    low = high = int(a.__array_interface__["data"][0])
    for size, stride in zip(a.shape, a.strides, strict=True):
        reach = max(size - 1, 0) * stride
        low, high = (low + reach, high) if stride < 0 else (low, high + reach)
    high += a.itemsize if a.size else 0
    block = block_at(low)
    return block is not None and high <= block.address + block.nbytes


def addr_accessible(addr: Array, pe: int) -> bool:
    """Whether puts and gets to that array of PE `pe` work. Local."""
    if not state.ready:
        ensure()
    pointer, _, _ = local(addr, "addr_accessible", "addr")
    return bool(lib.shmem_addr_accessible(pointer, pe))


def ptr(target: Array | Any, pe: int) -> Array | None:
    """PE `pe`'s copy of a symmetric array as an array that is loaded and stored directly.

    Returns
    -------
    ndarray or None
        Shape, strides, dtype and writeability as `target`, in GPU memory a CuPy array; None where that PE's
        memory is not mapped here (other node, no such PE). It keeps `target` from being dropped, and is
        invalid once `target` is freed.
    """
    pointer, nbytes, dtype = symmetric(target, "ptr", "target")
    there = lib.shmem_ptr(pointer, pe)
    if there == ffi.NULL:
        return None
    if not isinstance(target, np.ndarray):
        return cast(Array, _arrays().view_of_peer(target, int(ffi.cast("uintptr_t", there)), nbytes))
    # The destructor's argument holds `target`, and so the block, as long as the view lives.
    owner = ffi.gc(ffi.cast("char *", there), partial(_let_go, target))
    view: Array = np.ndarray(
        target.shape, dtype, memoryview(ffi.buffer(owner, nbytes)), strides=target.strides
    )
    view.flags.writeable = target.flags.writeable
    return view


def _let_go(target: Array, _: CData) -> None:
    pass


def heap_info(device: str | None = None) -> tuple[int, int, int]:
    """(bytes of this PE's host heap, bytes in use, largest block that can be allocated now). Local.

    With ``device="cuda"`` those of its GPU heap; zeros before that is opened."""
    if not state.ready:
        ensure()
    kind = lib.SHMEMX_MEM_DEVICE if _on_gpu(device, "heap_info") else lib.SHMEMX_MEM_HOST
    total, used, largest = (ffi.new("size_t *") for _ in range(3))
    check(lib.shmemx_heap_info(kind, total, used, largest))
    return total[0], used[0], largest[0]
