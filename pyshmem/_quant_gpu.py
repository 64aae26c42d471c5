"""The codec of 8-bit records on arrays in GPU memory, in the order of a stream: `pyshmem.quant.quantize` and
`dequantize` of CuPy arrays and CUDA tensors."""

from __future__ import annotations

import operator
import sys
from typing import Any

from ._core import ffi, lib
from ._quant_coll import _TYPES, _is_tensor, _memory, _on_gpu, _queue
from .errors import CLASSES, check

__all__ = ["dequantize", "on_gpu", "quantize"]

_ArgumentError = CLASSES[lib.SHMEMX_ERR_ARGUMENT]

on_gpu = _on_gpu


def _empty(like: Any, shape: tuple[int, int], dtype: str) -> Any:
    if _is_tensor(like):
        return like.new_empty(shape, dtype=getattr(sys.modules["torch"], dtype))
    cupy = sys.modules["cupy"]
    if dtype == "bfloat16":
        import ml_dtypes

        return cupy.empty(shape, ml_dtypes.bfloat16)
    return cupy.empty(shape, dtype)


def _bytes(a: Any, call: str, name: str, shape: tuple[int, int]) -> Any:
    """The address of uint8 records."""
    from .device import arrays

    found = arrays.describe(a, call, name) if _on_gpu(a) else None
    if found is None or found.dtype != "uint8" or tuple(found.shape) != shape:
        got = f"{list(a.shape)} of {a.dtype}" if hasattr(a, "dtype") else type(a).__name__
        raise _ArgumentError(f"{call}: {name} must be {list(shape)} of uint8 in GPU memory, got {got}")
    arrays.check_use(found, call, name, symmetric=False)
    return ffi.cast("void *", found.address)


def quantize(x: Any, fmt: int, group: int, nonfinite: int, out: Any, stream: Any) -> Any:
    """As `pyshmem.quant.quantize`, with the codes of the C library; x [rows, cols], contiguous."""
    call = "quantize"
    source = _memory(x, call, "x")
    if len(source.shape) != 2:
        raise _ArgumentError(f"{call}: x must have the shape [rows, cols], got {list(source.shape)}")
    nrows, cols = source.shape
    shape = (nrows, int(lib.shmemx_int8_row_bytes(cols, group)))
    out = _empty(x, shape, "uint8") if out is None else out
    to, kind = _bytes(out, call, "out", shape), _TYPES[source.dtype][0]
    queue = _queue(x, stream, call)
    check(
        lib.shmemx_quantize_on_stream(
            fmt, to, 0, source.address, 0, kind, nrows, cols, group, nonfinite, queue
        )
    )
    return out


def dequantize(rows: Any, cols: int, fmt: int, group: int, dtype: Any, out: Any, stream: Any) -> Any:
    """As `pyshmem.quant.dequantize`."""
    call = "dequantize"
    cols = operator.index(cols)
    shape = (int(rows.shape[0]), int(lib.shmemx_int8_row_bytes(cols, group)))
    source = _bytes(rows, call, "rows", shape)
    name = str(dtype).removeprefix("torch.") if "torch" in str(dtype) else _name(dtype)
    out = _empty(rows, (shape[0], cols), name) if out is None else out
    to = _memory(out, call, "out", write=True)
    if not to.gpu or to.dtype != name or to.shape != (shape[0], cols):
        raise _ArgumentError(
            f"{call}: out must be {[shape[0], cols]} of {name} in GPU memory, "
            f"got {list(to.shape)} of {to.dtype}"
        )
    queue = _queue(rows, stream, call)
    check(
        lib.shmemx_dequantize_on_stream(
            fmt, to.address, 0, _TYPES[name][0], source, 0, shape[0], cols, group, queue
        )
    )
    return out


def _name(dtype: Any) -> str:
    import numpy as np

    name = str(np.dtype(dtype).name)
    if name not in _TYPES:
        raise TypeError(f"dequantize: dtype is {name}, not float32, float16 or bfloat16")
    return name
