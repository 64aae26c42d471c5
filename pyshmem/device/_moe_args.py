"""Checks of the arrays that MoE calls on GPUs take; see moe.py and moe_ll.py. What is wrong raises before
anything is launched."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .._core import ffi, lib
from ..errors import CLASSES
from ..types import CData
from .packages import Given, Package, package_of

_ArgumentError = CLASSES[lib.SHMEMX_ERR_ARGUMENT]

IDS = {"int64": lib.SHMEMX_INT64, "int32": lib.SHMEMX_INT32}
GROUPS = {"row": 0, 32: 32, 64: 64, 128: 128}
ONE_BYTE = ("int8", "uint8", "float8_e4m3fn")
SIZES = {"bfloat16": 2, "uint16": 2, "int8": 1, "uint8": 1, "float8_e4m3fn": 1, "int32": 4, "int64": 8,
         "float32": 4}  # fmt: skip


def pick(table: dict[Any, int], value: Any, who: str, name: str) -> int:
    try:
        return table[value]
    except (KeyError, TypeError):
        known = ", ".join(repr(key) for key in table)
        raise _ArgumentError(f"{who}: {name} is {value!r}, possible are {known}") from None


def void(address: int) -> CData:
    return ffi.cast("void *", address)


class Args:
    """The arguments of one call: all of one package and on the GPU of the heap."""

    def __init__(self, call: str, first: Any, name: str) -> None:
        self.call = call
        self.package: Package = package_of(first, call, name)

    def given(self, a: Any, name: str, dtypes: Iterable[str]) -> Given:
        found = package_of(a, self.call, name)
        if found is not self.package:
            raise TypeError(
                f"{self.call}: {name} is an array of {found.name}, the others are {self.package.name}'s"
            )
        g = found.describe(a)
        if g.dtype not in dtypes:
            raise TypeError(f"{self.call}: {name} has dtype {g.dtype}, must be {' or '.join(dtypes)}")
        if g.device != lib.shmemx_device():
            where = f"on GPU {g.device}" if g.device >= 0 else "in host memory"
            raise _ArgumentError(
                f"{self.call}: {name} (shape {g.shape}) is {where}, this PE's GPU heap on GPU "
                f"{lib.shmemx_device()}"
            )
        return g

    def rows(
        self, a: Any, name: str, hidden: int, dtypes: Iterable[str] = (), rows: int | None = None,
        step: int = 16, most: int | None = None,
    ) -> tuple[CData, int, int]:  # fmt: skip
        """(pointer, bytes from row to row, rows) of [rows, hidden], the elements of a row adjacent; no rows:
        (NULL, 0, 0)."""
        dtypes = tuple(dtypes) or self.bf16
        g = self.given(a, name, dtypes)
        size = SIZES[g.dtype]
        if len(g.shape) != 2 or g.shape[1] != hidden or (rows is not None and g.shape[0] != rows):
            want = "rows" if rows is None else rows
            raise _ArgumentError(f"{self.call}: {name} has shape {g.shape}, must be ({want}, {hidden})")
        if most is not None and g.shape[0] > most:
            raise _ArgumentError(f"{self.call}: {name} has {g.shape[0]} rows, max_tokens is {most}")
        n, stride = g.shape[0], g.strides[0]
        if n == 0:
            return ffi.NULL, 0, 0
        if n == 1:
            stride = hidden * size
        if (hidden > 1 and g.strides[1] != size) or stride < hidden * size or stride % step or g.address % 16:
            raise _ArgumentError(
                f"{self.call}: {name} at {g.address:#x} has strides of {g.strides} bytes; elements of a row "
                f"must be adjacent, rows a multiple of {step} bytes apart without overlap, the first 16-byte "
                "aligned"
            )
        return void(g.address), stride, n

    @property
    def bf16(self) -> tuple[str, ...]:
        return ("bfloat16", "uint16") if self.package.name == "cupy" else ("bfloat16",)

    def table(self, a: Any, name: str, shape: tuple[int, ...], dtypes: tuple[str, ...]) -> tuple[CData, str]:
        """(pointer, dtype) of an array of that shape without gaps."""
        g = self.given(a, name, dtypes)
        if g.shape != shape:
            raise _ArgumentError(f"{self.call}: {name} has shape {g.shape}, must be {shape}")
        if not g.packed(SIZES[g.dtype]):
            raise _ArgumentError(
                f"{self.call}: {name} is not contiguous: shape {g.shape}, strides {g.strides} bytes"
            )
        return void(g.address), g.dtype

    def choices(self, a: Any, tokens: int | None, topk: int) -> tuple[CData, int, int]:
        """(pointer, core type, tokens) of topk_idx."""
        g = self.given(a, "topk_idx", tuple(IDS))
        if len(g.shape) != 2 or g.shape[1] != topk or (tokens is not None and g.shape[0] != tokens):
            want = "tokens" if tokens is None else tokens
            raise _ArgumentError(f"{self.call}: topk_idx has shape {g.shape}, must be ({want}, {topk})")
        pointer, dtype = self.table(a, "topk_idx", g.shape, tuple(IDS))
        return pointer, IDS[dtype], g.shape[0]

    def weights(self, a: Any, rows: int, topk: int, name: str = "topk_weights") -> CData:
        if a is None:
            return ffi.NULL
        return ffi.cast("float *", self.table(a, name, (rows, topk), ("float32",))[0])
