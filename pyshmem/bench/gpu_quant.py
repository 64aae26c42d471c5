"""Quantized collectives on GPUs beside the library's own without quantization; the codec beside a copy."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

import pyshmem as shmem
from pyshmem import device, quant
from pyshmem.device import stream

if TYPE_CHECKING:
    from .gpu import _Bench

__all__ = ["DTYPES", "measure"]

DTYPES = ("float32", "bfloat16")
_BLOCK = 1 << 16  # elements that differ; then they repeat


def _few(dtype: Any, salt: int) -> Any:
    """Numbers of a bell curve, on the host; `salt` makes PEs differ."""
    return np.random.default_rng(salt).standard_normal(_BLOCK, dtype=np.float32).astype(dtype)


def _fill(cupy: Any, to: Any, salt: int) -> Any:
    """As integers: not every version of CuPy computes with bfloat16."""
    word = f"uint{8 * to.dtype.itemsize}"
    few, words = cupy.asarray(_few(to.dtype, salt).view(word)), to.view(word)
    for at in range(0, to.size, _BLOCK):
        part = words[at : at + _BLOCK]
        part[...] = few[: part.size]
    return to


def _floats(a: Any) -> Any:
    """float32 or bfloat16 as float32."""
    return a if a.dtype.itemsize == 4 else (a.view("uint16").astype("uint32") << 16).view("float32")


def _input(cupy: Any, count: int, dtype: Any, salt: int) -> Any:
    return _fill(cupy, shmem.empty(count, dtype, device="cuda"), salt)


def _near(bench: _Bench, got: Any, exact: Any, what: str) -> None:
    """The error of a sum of quantized numbers: some 1 % of their root mean square."""
    difference = _floats(got[:_BLOCK]) - exact[: got[:_BLOCK].size]
    rms = float(bench.cupy.sqrt((difference**2).mean()) / bench.cupy.sqrt((exact**2).mean()))
    bench.check(rms < 0.05, f"{what}: an error of {rms:.3f} of the root mean square")


def _reductions(bench: _Bench, name: str, dtype: Any) -> None:
    cupy, n = bench.cupy, bench.n
    large = max(bench.plan.quant_bytes) // np.dtype(dtype).itemsize
    x, y = _input(cupy, large, dtype, bench.me), shmem.empty(large, dtype, device="cuda")
    exact = cupy.asarray(sum(_few(dtype, pe).astype(np.float32) for pe in range(n)))
    for nbytes in bench.plan.quant_bytes:
        count = nbytes // np.dtype(dtype).itemsize
        a, b = x[:count], y[:count]
        forms: dict[str, Callable[[], Any]] = {
            f"sum_{name}": partial(stream.sum_reduce_on_stream, b, a),
            f"sum_{name}_int8": partial(quant.all_reduce, a, out=b, min_bytes=0, nonfinite="propagate"),
            f"sum_{name}_e4m3": partial(
                quant.all_reduce, a, out=b, min_bytes=0, fmt="e4m3", nonfinite="propagate"
            ),
            f"sum_{name}_auto": partial(quant.all_reduce, a, out=b, nonfinite="propagate"),
        }
        for op, call in forms.items():
            b.view("uint16")[...] = 0
            samples = bench._row(bench.plan.calls(nbytes), call)
            _near(bench, b, exact, f"{op} of {nbytes} bytes")
            bench.say("quant", op, nbytes, samples)
    shmem.free(x)
    shmem.free(y)


def _moves(bench: _Bench) -> None:
    """The other collectives, of float32; bytes in all. The least that is quantized by default, and many."""
    for nbytes in sorted({bench.n << 20, max(bench.plan.quant_bytes)}):
        _move(bench, nbytes)


def _move(bench: _Bench, nbytes: int) -> None:
    part = nbytes // 4 // bench.n
    count = part * bench.n
    x, y = _input(bench.cupy, count, "float32", bench.me), shmem.empty(count, "float32", device="cuda")
    how: dict[str, Any] = {"nonfinite": "propagate", "min_bytes": 0}
    forms: dict[str, Callable[[], Any]] = {
        "fcollect": partial(stream.fcollect_on_stream, y, x[:part]),
        "all_gather_int8": partial(quant.all_gather, x[:part], out=y, **how),
        "alltoall": partial(stream.alltoall_on_stream, y, x),
        "all_to_all_int8": partial(quant.all_to_all, x, out=y, **how),
        "broadcast": partial(stream.broadcast_on_stream, y, x, 0),
        "broadcast_int8": partial(quant.broadcast, x, 0, out=y, **how),
        "reduce_scatter_int8": partial(quant.reduce_scatter, x, out=y[:part], **how),
    }
    for op, call in forms.items():
        bench.say("quant", op, nbytes, bench._row(bench.plan.calls(nbytes), call))
    shmem.free(x)
    shmem.free(y)


def _codec(bench: _Bench) -> None:
    """quantize and dequantize, and a copy that reads and writes as many bytes in all."""
    cupy = bench.cupy
    nbytes = max(bench.plan.quant_bytes)
    cols = 8192
    for name in DTYPES:
        dtype = _dtype(name)
        x = _fill(cupy, cupy.empty(nbytes, "uint8").view(dtype), 1).reshape(-1, cols)
        for fmt in ("int8", "e4m3"):
            rows = quant.quantize(x, fmt, nonfinite="propagate")
            y = quant.dequantize(rows, cols, fmt, dtype=dtype)
            bench.check(bool((abs(_floats(x) - _floats(y)) < 0.3).all()), f"codec {fmt}")
            moved = (nbytes + rows.nbytes) // 2
            source, target = cupy.empty(moved, "uint8"), cupy.empty(moved, "uint8")

            def copy(source: Any = source, target: Any = target, moved: int = moved) -> None:
                target.data.copy_from_device_async(source.data, moved)

            calls = bench.plan.large_calls
            to: dict[str, Any] = {"fmt": fmt, "nonfinite": "propagate", "out": rows}
            back: dict[str, Any] = {"fmt": fmt, "dtype": dtype, "out": y}
            timed: dict[str, Callable[[], Any]] = {
                f"quantize_{name}_{fmt}": partial(quant.quantize, x, **to),
                f"dequantize_{name}_{fmt}": partial(quant.dequantize, rows, cols, **back),
                f"copy as {name}_{fmt}": copy,
            }
            for op, call in timed.items():
                bench.say("quant", op, nbytes, bench._row(calls, call))


def _dtype(name: str) -> Any:
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


def measure(bench: _Bench) -> None:
    """All of it; collective. At least 2 PEs."""
    for name in DTYPES:
        _reductions(bench, name, _dtype(name))
    _moves(bench)
    _codec(bench)
    device.check()
