"""CuPy and PyTorch behind one face, for calls that take arrays of either and answer in kind.

dtypes go by NumPy's or ml_dtypes' names. CuPy has no arithmetic on BF16 and no FP8: its FP8 arrays are uint8,
its BF16 arrays may be uint16 as well as ml_dtypes' bfloat16.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from .._core import lib
from ..errors import CLASSES
from . import arrays
from .stream import handle_of

__all__ = ["Given", "Package", "package_of"]

_ArgumentError = CLASSES[lib.SHMEMX_ERR_ARGUMENT]

_FLOAT8 = "float8_e4m3fn"


class Given(NamedTuple):
    """What calls need to know of an array."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # bytes
    dtype: str
    device: int  # -1: host memory

    def packed(self, itemsize: int) -> bool:
        """Whether the elements lie without gaps, the last dimension fastest."""
        if 0 in self.shape:
            return True
        for n, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if n > 1 and stride != itemsize:
                return False
            itemsize *= n
        return True


class Package:
    """What both packages do; arrays in and out are of that package, on the heap's GPU."""

    name: str

    def describe(self, a: Any) -> Given:
        raise NotImplementedError

    def on(self, stream: Any) -> Any:
        """A context: `stream` (None: the current one) is the current one inside; gives its address."""
        raise NotImplementedError

    def empty(self, shape: Sequence[int], dtype: str) -> Any:
        raise NotImplementedError

    def over(self, address: int, shape: tuple[int, ...], dtype: str, owner: Any) -> Any:
        """An array over memory that `owner` keeps, rows without gaps."""
        raise NotImplementedError

    def constant(self, values: Sequence[int]) -> Any:
        """int64, copied from the host."""
        raise NotImplementedError

    def arange(self, n: int) -> Any:
        """int64"""
        raise NotImplementedError

    def full(self, shape: Sequence[int], value: Any, dtype: str) -> Any:
        raise NotImplementedError

    def order(self, keys: Any) -> Any:
        """The places of 1-D `keys` in ascending order, equal ones as they come."""
        raise NotImplementedError

    def search(self, edges: Any, values: Any) -> Any:
        """For each value how many of the ascending `edges` are <= it."""
        raise NotImplementedError

    def copy(self, a: Any) -> Any:
        raise NotImplementedError

    def take(self, a: Any, rows: Any) -> Any:
        """a[rows], and 0 where the number of a row is -1."""
        raise NotImplementedError

    def where(self, condition: Any, a: Any, b: Any) -> Any:
        raise NotImplementedError

    def cumsum(self, a: Any) -> Any:
        """int64"""
        raise NotImplementedError

    def shifted(self, a: Any) -> Any:
        """int64, one place later, 0 in front, the last left out."""
        found = self.full(a.shape, 0, "int64")
        found[1:] = a[:-1]
        return found

    def extended(self, a: Any, value: int) -> Any:
        """int64, one more element at the end."""
        found = self.full((a.shape[0] + 1,), value, "int64")
        found[:-1] = a
        return found

    def narrow(self, a: Any) -> Any:
        """int32"""
        raise NotImplementedError

    # ---- made of those ----

    def expert_places(self, idx: Any, counts: Any, alignment: int, capacity: int) -> tuple[Any, Any, Any]:
        """Where each choice of idx [rows, K] goes in the expert form, and what row each of its rows is of.

        counts: integers [experts], how many choices each has; an array, since only the GPU may know them.
        Rows of an expert are in the order of the choices, its first one a multiple of `alignment`. Two int64
        arrays: [rows, K], -1 where idx is and for choices that find no room; [capacity], -1 for padding and
        behind the last. And int32 [experts], the row behind each expert's rows and padding.
        """
        rows, topk = idx.shape
        experts, total = counts.shape[0], rows * topk
        ends = self.cumsum((counts + (alignment - 1)) // alignment * alignment)
        padded = self.shifted(ends)
        # choices of no expert come last
        shift = self.extended(padded - self.shifted(self.cumsum(counts)), capacity)
        flat = idx.reshape(-1)
        keys = self.where(flat < 0, experts, flat)
        order = self.order(keys)
        keys = keys[order]
        places = self.arange(total) + shift[keys]
        lost = (keys == experts) | (places >= capacity)
        position = self.full((total,), -1, "int64")
        position[order] = self.where(lost, -1, places)
        source = self.full((capacity + 1,), -1, "int64")
        source[self.where(lost, capacity, places)] = order // topk
        return position.reshape(rows, topk), source[:capacity], self.narrow(ends)


class _Memory:
    """Memory as torch.as_tensor takes it; the tensor holds this, and this the owner."""

    __slots__ = ("__cuda_array_interface__", "owner")

    def __init__(self, address: int, shape: tuple[int, ...], kind: str, owner: Any) -> None:
        self.__cuda_array_interface__ = {
            "shape": shape, "typestr": kind, "data": (address, False), "version": 2
        }  # fmt: skip
        self.owner = owner


_KINDS = {"bfloat16": "<i2", _FLOAT8: "|u1", "bool": "|u1", "uint8": "|u1", "int8": "|i1", "int32": "<i4",
          "int64": "<i8", "float32": "<f4"}  # fmt: skip


class _Torch(Package):
    name = "torch"

    def __init__(self, torch: Any) -> None:
        self.torch = torch
        self.names: dict[Any, str] = {}

    def describe(self, a: Any) -> Given:
        name = self.names.get(a.dtype)
        if name is None:
            name = self.names[a.dtype] = str(a.dtype).removeprefix("torch.")
        size = a.element_size()
        device = a.device.index if a.is_cuda else -1
        return Given(a.data_ptr(), tuple(a.shape), tuple(n * size for n in a.stride()), name, device)

    @contextmanager
    def on(self, stream: Any) -> Iterator[int]:
        cuda = self.torch.cuda
        if stream is None:
            yield int(cuda.current_stream(lib.shmemx_device()).cuda_stream)
            return
        if not isinstance(stream, cuda.Stream):
            stream = cuda.ExternalStream(handle_of(stream, "stream"))
        with cuda.stream(stream):
            yield int(stream.cuda_stream)

    @property
    def _device(self) -> Any:
        return self.torch.device("cuda", lib.shmemx_device())

    def _dtype(self, name: str) -> Any:
        return getattr(self.torch, name)

    def empty(self, shape: Sequence[int], dtype: str) -> Any:
        return self.torch.empty(shape, dtype=self._dtype(dtype), device=self._device)

    def over(self, address: int, shape: tuple[int, ...], dtype: str, owner: Any) -> Any:
        if 0 in shape:
            return self.empty(shape, dtype)
        memory = _Memory(address, shape, _KINDS[dtype], owner)
        return self.torch.as_tensor(memory, device=self._device).view(self._dtype(dtype))

    def constant(self, values: Sequence[int]) -> Any:
        return self.torch.tensor(values, dtype=self.torch.int64, device=self._device)

    def arange(self, n: int) -> Any:
        return self.torch.arange(n, device=self._device)

    def full(self, shape: Sequence[int], value: Any, dtype: str) -> Any:
        return self.torch.full(tuple(shape), value, dtype=self._dtype(dtype), device=self._device)

    def order(self, keys: Any) -> Any:
        return self.torch.argsort(keys, stable=True)

    def search(self, edges: Any, values: Any) -> Any:
        return self.torch.searchsorted(edges, values, right=True)

    def copy(self, a: Any) -> Any:
        return a.clone()

    def take(self, a: Any, rows: Any) -> Any:
        if a.shape[0] == 0:
            return self.torch.zeros((rows.shape[0], *a.shape[1:]), dtype=a.dtype, device=a.device)
        if a.dtype == self._dtype(_FLOAT8):
            return self.take(a.view(self.torch.uint8), rows).view(a.dtype)
        found = a.index_select(0, rows.clamp(min=0))
        return found.masked_fill_((rows < 0).unsqueeze(1), 0)

    def where(self, condition: Any, a: Any, b: Any) -> Any:
        return self.torch.where(condition, a, b)

    def cumsum(self, a: Any) -> Any:
        return self.torch.cumsum(a, 0)

    def narrow(self, a: Any) -> Any:
        return a.to(self.torch.int32)


class _CuPy(Package):
    name = "cupy"

    def __init__(self, cupy: Any) -> None:
        self.cupy = cupy
        self.bf16: Any = np.dtype(ml_dtypes.bfloat16)
        try:
            cupy.empty(1, self.bf16)
        except Exception:  # this version knows only NumPy's own
            self.bf16 = np.dtype(np.uint16)

    def describe(self, a: Any) -> Given:
        return Given(a.data.ptr, tuple(a.shape), tuple(a.strides), a.dtype.name, a.device.id)

    @contextmanager
    def on(self, stream: Any) -> Iterator[int]:
        cuda = self.cupy.cuda
        if stream is None:
            yield int(cuda.get_current_stream().ptr)
            return
        if not isinstance(stream, (cuda.Stream, cuda.ExternalStream)):
            stream = cuda.ExternalStream(handle_of(stream, "stream"))
        with stream:
            yield int(stream.ptr)

    def _dtype(self, name: str) -> Any:
        return self.bf16 if name == "bfloat16" else np.dtype(np.uint8 if name == _FLOAT8 else name)

    def empty(self, shape: Sequence[int], dtype: str) -> Any:
        return self.cupy.empty(shape, self._dtype(dtype))

    def over(self, address: int, shape: tuple[int, ...], dtype: str, owner: Any) -> Any:
        kind = self._dtype(dtype)
        if 0 in shape:
            return self.cupy.empty(shape, kind)
        nbytes = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        return arrays._array_over(address, nbytes, owner, shape, kind, None)

    def constant(self, values: Sequence[int]) -> Any:
        return self.cupy.array(values, "int64")

    def arange(self, n: int) -> Any:
        return self.cupy.arange(n, dtype="int64")

    def full(self, shape: Sequence[int], value: Any, dtype: str) -> Any:
        return self.cupy.full(shape, value, self._dtype(dtype))

    def order(self, keys: Any) -> Any:
        return self.cupy.argsort(keys, kind="stable")

    def search(self, edges: Any, values: Any) -> Any:
        return self.cupy.searchsorted(edges, values, side="right")

    def copy(self, a: Any) -> Any:
        return a.copy()

    def take(self, a: Any, rows: Any) -> Any:
        if a.shape[0] == 0:
            return self.cupy.zeros((rows.shape[0], *a.shape[1:]), a.dtype)
        bits = a.view(f"uint{8 * a.dtype.itemsize}")
        found = bits[self.cupy.maximum(rows, 0)]
        found *= (rows >= 0)[:, None].astype(found.dtype)
        return found.view(a.dtype)

    def where(self, condition: Any, a: Any, b: Any) -> Any:
        return self.cupy.where(condition, a, b)

    def cumsum(self, a: Any) -> Any:
        return self.cupy.cumsum(a, dtype="int64")

    def narrow(self, a: Any) -> Any:
        return a.astype("int32")


_known: dict[str, Package] = {}


def package_of(a: Any, call: str, name: str) -> Package:
    """The package of an array; TypeError for anything else."""
    cupy, torch = sys.modules.get("cupy"), sys.modules.get("torch")
    if torch is not None and isinstance(a, torch.Tensor):
        found = _known.get("torch")
        return found or _known.setdefault("torch", _Torch(torch))
    if cupy is not None and isinstance(a, cupy.ndarray):
        found = _known.get("cupy")
        return found or _known.setdefault("cupy", _CuPy(cupy))
    kind = "a NumPy array" if isinstance(a, np.ndarray) else type(a).__name__
    raise TypeError(f"{call}: {name} is {kind}, not an array of CuPy or PyTorch in GPU memory")
