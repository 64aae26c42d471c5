"""The symmetric array, and how calls read their array arguments.

Calls need an argument's pointer, bytes and dtype. For a symmetric array they are found once, with all checks,
and kept in slots of the array; asking the array again costs 3 ns a slot, where ``arr.ctypes.data`` costs 900.
"""

from __future__ import annotations

from typing import Any, NoReturn, SupportsIndex

import numpy as np

from ._core import ffi, lib
from .errors import CLASSES
from .setup import state
from .types import WORDS, Array, CData, Word

__all__ = ["SymmetricArray"]

_ArgumentError = CLASSES[lib.SHMEMX_ERR_ARGUMENT]
_AddressError = CLASSES[lib.SHMEMX_ERR_ADDRESS]
_from_buffer = ffi.from_buffer


# ---- the array ---------------------------------------------------------------------------------------------


class SymmetricArray(np.ndarray[Any, np.dtype[Any]]):
    """A NumPy array in the symmetric heap; made by `zeros`, `empty`, `array`... and by slicing those.

    It behaves as any ndarray. Arithmetic, `copy`, `astype`, pickling and deepcopy give plain arrays.
    """

    # What calls need, found once by symmetric(); unset until the first use.
    __slots__ = ("_block", "_kind", "_nbytes", "_ptr", "_word")

    _block: Any  # heap.Block of the memory; None where it is not ours
    _kind: Any  # dtype, None when nothing is cached
    _nbytes: int
    _ptr: CData
    _word: Word | None

    def __array_wrap__(self, array: Array, context: Any = None, return_scalar: bool = False) -> Any:
        if array is self:  # out=self, or an operation in place
            return self
        return array[()] if return_scalar else np.asarray(array)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in ("dtype", "shape", "strides", "data"):
            _uncache(self)

    def setflags(self, write: bool | None = None, align: bool | None = None, uic: bool | None = None) -> None:
        super().setflags(write=write, align=align, uic=uic)
        _uncache(self)

    def copy(self, order: Any = "C") -> Array:
        return np.array(self, copy=True, order=order, subok=False)

    def astype(self, *args: Any, **kwargs: Any) -> Any:
        return np.asarray(self).astype(*args, **kwargs)

    def __copy__(self) -> Array:
        return self.copy()

    def __deepcopy__(self, memo: dict[int, Any] | None, /) -> Array:
        return self.copy("K")

    def __reduce_ex__(self, protocol: SupportsIndex, /) -> Any:
        return np.asarray(self).__reduce_ex__(protocol)


# Setting a slot by attribute would go through __setattr__ above, 10 times slower.
_slots: Any = SymmetricArray.__dict__
set_block, _set_kind, _set_nbytes, _set_ptr, _set_word = (
    _slots[name].__set__ for name in ("_block", "_kind", "_nbytes", "_ptr", "_word")
)


def _uncache(a: SymmetricArray) -> None:
    # _kind is what the fast paths read first; the root's _block stays, it says whose memory this is.
    _set_kind(a, None)
    _set_word(a, None)


# ---- arguments: from an array to address, bytes and dtype --------------------------------------------------


def root_block(a: Array) -> tuple[bool, Any]:
    """Follows the views of `a` down; (True, its block) if they end in a symmetric array."""
    base: Any = a
    while isinstance(base, np.ndarray):
        below: Any = base.base
        if type(base) is SymmetricArray and below is not None and not isinstance(below, np.ndarray):
            return True, getattr(base, "_block", None)
        base = below
    return False, None


def refuse(a: Array, call: str, name: str, why: str) -> NoReturn:
    raise _AddressError(f"{call}: {name} (shape {a.shape}, {a.dtype}) {why}")


def _contiguous(a: Any, call: str, name: str, *, write: bool) -> Array:
    """`a` as C-contiguous memory, or the error that says why not."""
    if a.dtype.hasobject:
        raise TypeError(f"{call}: {name} has dtype {a.dtype}: Python objects cannot be sent")
    if write and not a.flags.writeable:
        raise _ArgumentError(f"{call}: {name} (shape {a.shape}, {a.dtype}) is read-only")
    if a.flags.c_contiguous:
        array: Array = a
        return array
    if a.flags.f_contiguous:
        array = a.T
        return array
    raise _ArgumentError(
        f"{call}: {name} is not contiguous: shape {a.shape}, strides {a.strides}, itemsize {a.itemsize}"
    )


def _foreign(a: Any, call: str, name: str, *, symmetric: bool) -> tuple[CData, int, np.dtype[Any]]:
    """(pointer, bytes, dtype) of a CuPy or PyTorch array."""
    from .device import arrays

    found = arrays.describe(a, call, name)
    if found is None:
        raise TypeError(
            f"{call}: {name} is {type(a).__name__}, not a NumPy array, nor one of CuPy or PyTorch"
        )
    arrays.check_use(found, call, name, symmetric=symmetric)
    return ffi.cast("char *", found.address), found.nbytes, found.dtype


def settle(*arrays: Any) -> None:
    """Waits for the current streams of those that are GPU arrays: what the program wrote is there."""
    for a in arrays:
        if not isinstance(a, np.ndarray):
            from .device.arrays import settle as wait

            wait(a)


def _pointer(a: Array) -> CData:
    try:
        return _from_buffer(a)
    except (BufferError, ValueError, TypeError, NotImplementedError):
        # Dtypes that the buffer protocol cannot name: bfloat16, float8, datetime64.
        return ffi.cast("char *", a.ctypes.data)


def symmetric(
    a: Array | Any, call: str, name: str, *, write: bool = False
) -> tuple[CData, int, np.dtype[Any]]:
    """(pointer, bytes, dtype) of a symmetric argument.

    Raises AddressError for memory that was freed and for copies; plain arrays that pyshmem did not allocate
    are left to the library, which knows its heap.
    """
    if type(a) is SymmetricArray:
        kind = getattr(a, "_kind", None)
        if kind is not None and a._block.live:
            return a._ptr, a._nbytes, kind
    if not isinstance(a, np.ndarray):
        return _foreign(a, call, name, symmetric=True)
    flat = _contiguous(a, call, name, write=write)
    found, block = root_block(a)
    if found and (block is None or not block.live):
        ended = not state.ready
        refuse(a, call, name, "was in a heap that is finalized" if ended else "was freed")
    if type(a) is SymmetricArray and not found:
        refuse(a, call, name, "is a copy of a symmetric array, not symmetric itself")
    pointer = _pointer(flat)
    if type(a) is SymmetricArray and a.flags.writeable:
        address = ffi.cast("char *", pointer)
        set_block(a, block)
        _set_ptr(a, address)
        _set_nbytes(a, a.nbytes)
        _set_word(a, WORDS.get(a.dtype) if a.size == 1 else None)
        _set_kind(a, a.dtype)
        return address, a.nbytes, a.dtype
    return pointer, a.nbytes, a.dtype


def local(a: Array | Any, call: str, name: str, *, write: bool = False) -> tuple[CData, int, np.dtype[Any]]:
    """(pointer, bytes, dtype) of an argument that may be any array of this process. For a GPU array, the
    current stream has ended what it held."""
    if type(a) is SymmetricArray and a.base is not None:
        return symmetric(a, call, name, write=write)
    if not isinstance(a, np.ndarray):
        read = _foreign(a, call, name, symmetric=False)
        settle(a)
        return read
    flat = _contiguous(a, call, name, write=write)
    found, block = root_block(a)
    if found and (block is None or not block.live):
        refuse(a, call, name, "was freed" if state.ready else "was in a heap that is finalized")
    return _pointer(flat), a.nbytes, a.dtype


def word_of(a: Array, call: str, name: str, words: dict[np.dtype[Any], Word]) -> tuple[CData, Word]:
    """(pointer, word) of a symmetric argument of one element, or why it is none."""
    pointer, nbytes, dtype = symmetric(a, call, name, write=False)
    if nbytes != dtype.itemsize:
        raise _ArgumentError(
            f"{call}: {name} has {nbytes // max(dtype.itemsize, 1)} elements (shape {a.shape}), "
            "exactly 1 is possible"
        )
    word = words.get(dtype)
    if word is None:
        possible = ", ".join(str(kind) for kind in words)
        raise TypeError(f"{call}: {name} has dtype {dtype}; possible are {possible}")
    return pointer, word


def same_dtype(a: np.dtype[Any], b: np.dtype[Any], call: str, names: str = "target and source") -> None:
    if a is not b and a != b:
        raise TypeError(f"{call}: dtypes of {names} differ: {a} and {b}")
