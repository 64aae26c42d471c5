"""Quantization for transfers: INT8 rows with inline scales, FP8 e4m3 with separate scales, accuracy metrics.

Two forms of the same idea, one scale for a group of consecutive elements of a row:

    quantize         libshmem's codec (C, SIMD): one uint8 record a row, values and float32 scales together.
                     INT8 or FP8 e4m3. What dispatch, combine and the quantized collectives send. Layout:
                     shmemx_int8.h. quantize_int8 and its like are the same for INT8.
    per_token_cast   NumPy: FP8 e4m3 (or int8) values and scales as two arrays, the form that DeepSeek-V3's
                     kernels take (arXiv 2412.19437, section 3.3.2) and DeepEP's dispatch delivers.

all_reduce, reduce_scatter, all_gather, all_to_all and broadcast are collectives whose bytes travel that way,
on arrays of NumPy, CuPy and PyTorch, in host or GPU memory.

INT8 in groups of 128 has 8 to 12 dB less error than FP8 on bell-shaped data; where single channels are tens
of times larger than their neighbours FP8 is the better one (the test of this file holds the table).

bfloat16 and float8_e4m3fn are the types of ml_dtypes. Calls other than collectives are safe from any thread
and need no init().
"""

from __future__ import annotations

import operator
from typing import Any, Literal

import ml_dtypes
import numpy as np
import numpy.typing as npt

from . import _quant_gpu
from ._core import ffi, lib
from ._quant_coll import all_gather, all_reduce, all_to_all, broadcast, reduce_scatter
from .errors import check

__all__ = [
    "all_gather",
    "all_reduce",
    "all_to_all",
    "broadcast",
    "calc_diff",
    "dequantize",
    "dequantize_int8",
    "dequantize_int8_add",
    "int8_isa",
    "int8_row_bytes",
    "int8_view",
    "per_token_cast",
    "per_token_cast_back",
    "quantize",
    "quantize_int8",
    "reduce_scatter",
    "row_cosine",
    "set_int8_isa",
    "sqnr_db",
]

Array = npt.NDArray[Any]
Records = npt.NDArray[np.uint8]
Float32s = npt.NDArray[np.float32]
NonFinite = Literal["error", "saturate", "propagate"]
Format = Literal["e4m3", "int8"]

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_UINT8 = np.dtype(np.uint8)
_E4M3 = np.dtype(ml_dtypes.float8_e4m3fn)
_CODEC_TYPES = {
    np.dtype(np.float32): lib.SHMEMX_FLOAT32,
    np.dtype(np.float16): lib.SHMEMX_FLOAT16,
    _BFLOAT16: lib.SHMEMX_BFLOAT16,
}
_NONFINITE = {
    "error": lib.SHMEMX_NONFINITE_ERROR,
    "saturate": lib.SHMEMX_NONFINITE_SATURATE,
    "propagate": lib.SHMEMX_NONFINITE_PROPAGATE,
}
_FORMATS = {"int8": lib.SHMEMX_QUANT_INT8, "e4m3": lib.SHMEMX_QUANT_E4M3}


# ---- INT8 records -----------------------------------------------------------------------------------------


def _codec_type(dtype: np.dtype[Any], name: str) -> int:
    code = _CODEC_TYPES.get(dtype)
    if code is None:
        raise TypeError(f"{name} must be float32, float16 or bfloat16, got {dtype}")
    return int(code)


def _pointer(array: Array) -> Any:
    # from_buffer does not take bfloat16, and .ctypes costs 2 us. The caller keeps the array alive.
    return ffi.cast("void *", array.__array_interface__["data"][0])


def _stride(array: Array) -> int | None:
    """Bytes from row to row; 0 where it does not matter, None where the codec cannot walk the array."""
    row = array.shape[1] * array.itemsize
    if array.size == 0:
        return 0
    if array.shape[1] > 1 and array.strides[1] != array.itemsize:
        return None
    if array.shape[0] <= 1:
        return 0
    step = array.strides[0]
    return step if step >= row and step % array.itemsize == 0 else None


def _source(array: Array, name: str, columns: int | None = None) -> tuple[Array, int]:
    """A 2-D array that the codec can read, copied if its elements do not lie in rows, and its stride."""
    if array.ndim != 2 or (columns is not None and array.shape[1] != columns):
        raise ValueError(f"{name} must have the shape [rows, {columns or 'cols'}], got {list(array.shape)}")
    stride = _stride(array)
    return (array, stride) if stride is not None else (np.ascontiguousarray(array), 0)


def _target(array: Array, shape: tuple[int, int], dtype: np.dtype[Any], name: str, source: Array) -> int:
    """The stride of an array that the codec may write; an error names what is wrong with it."""
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != shape:
        got = (
            f"{list(array.shape)} of {array.dtype}" if isinstance(array, np.ndarray) else type(array).__name__
        )
        raise ValueError(f"{name} must be {list(shape)} of {dtype}, got {got}")
    stride = _stride(array)
    if stride is None:
        raise ValueError(f"{name} must have its rows contiguous and apart, got strides {array.strides} bytes")
    if not array.flags.writeable:
        raise ValueError(f"{name} is read-only")
    if np.may_share_memory(array, source) and np.shares_memory(array, source):
        raise ValueError(f"{name} shares memory with the input")
    return stride


def _records(rows: npt.ArrayLike, cols: int, group: int) -> tuple[Records, int]:
    array = np.asarray(rows)
    if array.dtype != np.uint8:
        raise TypeError(f"rows must be uint8 records, got {array.dtype}")
    return _source(array, "rows", int8_row_bytes(cols, group))


def int8_row_bytes(cols: int, group: int = 128) -> int:
    """Bytes of the record of a row: cols int8 padded to 4, the float32 scales, padded to 16.

    `group`: elements a scale, 32, 64 or 128, or 0 for the whole row. ValueError for others or cols < 1.
    """
    columns, size = operator.index(cols), operator.index(group)
    if columns < 1 or size not in (0, 32, 64, 128):
        raise ValueError(
            f"cols is {cols}, group is {group}: cols must be >= 1, group 32, 64, 128 or 0 (the row)"
        )
    return int(lib.shmemx_int8_row_bytes(columns, size))


def _format(fmt: str) -> int:
    code = _FORMATS.get(fmt)
    if code is None:
        raise ValueError(f"fmt is {fmt!r}, it must be 'int8' or 'e4m3'")
    return int(code)


def quantize(
    x: npt.ArrayLike,
    fmt: Format = "int8",
    group: int = 128,
    nonfinite: NonFinite = "error",
    out: Records | None = None,
    stream: Any = None,
) -> Records:
    """Rows to records of 8-bit codes with their scales, in libshmem's codec.

    `x` [rows, cols], cols >= 1, float32, float16 or bfloat16; rows may be apart, other layouts are copied.
    `fmt`: "int8", symmetric, rounded to nearest even, the largest magnitude of each group becomes 127;
    "e4m3", FP8 rounded to nearest even, the largest becomes 448. `group`: elements a scale, 32, 64 or 128,
    or 0 for the whole row. `nonfinite`: "error" raises ValueError that names the first NaN or infinity;
    "saturate" turns NaN into 0 and infinity into the largest finite magnitude of its group; "propagate"
    makes its whole group NaN. `out`: uint8 [rows, int8_row_bytes(cols, group)] to write to, rows may be
    apart. Returns the records (`out` if given), complete on return; an INT8 element comes back within half
    its group's scale, one of e4m3 within a sixteenth of itself. After an error about non-finite data `out`
    holds records of the rows before it.

    `x` in GPU memory (CuPy, PyTorch; contiguous, the GPU heap open): `out` as well, in the order of
    `stream`, by default the current one. With "error" a group with NaN or infinity becomes NaN, and
    `pyshmem.device.check` raises.
    """
    code = _format(fmt)
    if nonfinite not in _NONFINITE:
        raise ValueError(f"nonfinite is {nonfinite!r}, it must be 'error', 'saturate' or 'propagate'")
    if _quant_gpu.on_gpu(x):
        made: Records = _quant_gpu.quantize(x, code, group, _NONFINITE[nonfinite], out, stream)
        return made
    array = np.asarray(x)
    dtype = _codec_type(array.dtype, "x")
    array, stride = _source(array, "x")
    rows, cols = array.shape
    shape = (rows, int8_row_bytes(cols, group))
    records = np.empty(shape, dtype=np.uint8) if out is None else out
    step = _target(records, shape, _UINT8, "out", array)
    check(
        lib.shmemx_quantize(
            code,
            _pointer(records),
            step,
            _pointer(array),
            stride // array.itemsize,
            dtype,
            rows,
            cols,
            group,
            _NONFINITE[nonfinite],
            ffi.NULL,
        )
    )
    return records


def dequantize(
    rows: npt.ArrayLike,
    cols: int,
    fmt: Format = "int8",
    group: int = 128,
    dtype: npt.DTypeLike = np.float32,
    out: Array | None = None,
    stream: Any = None,
) -> Array:
    """The elements of records: code times scale in float32, then rounded to `dtype`.

    `rows` uint8 [rows, int8_row_bytes(cols, group)], with the cols, fmt and group they were made with; the
    bytes are trusted. `dtype`: float32, float16 or bfloat16; above float16's range it gives infinity. `out`
    [rows, cols] of dtype, rows may be apart. Returns [rows, cols] (`out` if given).
    `rows` in GPU memory: as in `quantize`; `dtype` may be PyTorch's.
    """
    form = _format(fmt)
    if _quant_gpu.on_gpu(rows):
        made: Array = _quant_gpu.dequantize(rows, cols, form, group, dtype, out, stream)
        return made
    records, step = _records(rows, cols, group)
    kind = np.dtype(dtype)
    code = _codec_type(kind, "dtype")
    shape = (len(records), operator.index(cols))
    array = np.empty(shape, dtype=kind) if out is None else out
    stride = _target(array, shape, kind, "out", records)
    check(
        lib.shmemx_dequantize(
            form,
            _pointer(array),
            stride // kind.itemsize,
            code,
            _pointer(records),
            step,
            shape[0],
            shape[1],
            group,
        )
    )
    return array


def quantize_int8(
    x: npt.ArrayLike, group: int = 128, nonfinite: NonFinite = "error", out: Records | None = None
) -> Records:
    """`quantize` to INT8."""
    return quantize(x, "int8", group, nonfinite, out)


def dequantize_int8(
    rows: npt.ArrayLike,
    cols: int,
    group: int = 128,
    dtype: npt.DTypeLike = np.float32,
    out: Array | None = None,
) -> Array:
    """`dequantize` of INT8 records."""
    return dequantize(rows, cols, "int8", group, dtype, out)


def dequantize_int8_add(acc: Float32s, rows: npt.ArrayLike, group: int = 128, weight: float = 1.0) -> None:
    """acc += weight * elements, in float32, without a dequantized copy: the sum of a combine.

    `acc` float32 [rows, cols], rows may be apart; `rows` uint8 [rows, int8_row_bytes(cols, group)].
    """
    if not isinstance(acc, np.ndarray) or acc.ndim != 2:
        raise ValueError(f"acc must be an array [rows, cols], got {type(acc).__name__} {np.shape(acc)}")
    cols = acc.shape[1]
    records, step = _records(rows, cols, group)
    stride = _target(acc, (len(records), cols), np.dtype(np.float32), "acc", records)
    check(
        lib.shmemx_int8_dequantize_add(
            ffi.cast("float *", _pointer(acc)),
            stride // acc.itemsize,
            _pointer(records),
            step,
            len(records),
            cols,
            group,
            weight,
        )
    )


def int8_view(rows: Records, cols: int, group: int = 128) -> tuple[npt.NDArray[np.int8], Float32s]:
    """Values int8 [rows, cols] and scales float32 [rows, ceil(cols / group)] inside the records: views."""
    if not isinstance(rows, np.ndarray) or rows.dtype != np.uint8:
        raise TypeError(
            f"rows must be an array of uint8 records, got {getattr(rows, 'dtype', type(rows).__name__)}"
        )
    width = int8_row_bytes(cols, group)
    if rows.ndim != 2 or rows.shape[1] != width:
        raise ValueError(f"rows must have the shape [rows, {width}], got {list(rows.shape)}")
    if rows.size and rows.strides[1] != 1:
        raise ValueError(f"rows must have their bytes contiguous, got strides {rows.strides} bytes")
    at = -(-cols // 4) * 4
    scales = -(-cols // group) if group else 1
    return rows[:, :cols].view(np.int8), rows[:, at : at + 4 * scales].view(np.float32)


def int8_isa() -> str:
    """The codec's implementation in use: "portable", "avx2", "avx512" or "neon"."""
    return bytes(ffi.string(lib.shmemx_int8_isa())).decode()


def set_int8_isa(isa: str) -> None:
    """Changes it for the whole process; "auto" is the fastest that this machine runs. All give equal bytes.

    ValueError for an unknown name, NotImplementedError for one that this machine or build does not have.
    """
    check(lib.shmemx_int8_set_isa(isa.encode()))


# ---- FP8 and INT8 with separate scales --------------------------------------------------------------------

_LARGEST = {"e4m3": 448.0, "int8": 127.0}
# Below it a group is taken as noise: keeps 1/scale finite. The value is part of the format that users know.
_SMALLEST_AMAX = 1e-4


def _group_size(cols: int, group: int) -> int:
    if operator.index(group) < 0:
        raise ValueError(f"group is {group}, it must be >= 1, or 0 for the whole row")
    return operator.index(group) or max(cols, 1)


def per_token_cast(
    x: npt.ArrayLike,
    fmt: Format = "e4m3",
    group: int = 128,
    *,
    round_scale: bool = False,
    nonfinite: Literal["error", "saturate"] = "error",
) -> tuple[Array, Float32s]:
    """Casts each row to 8 bits, with one scale for `group` consecutive columns (0: for the row).

    `x` [T, H] of any floating type; computed in float32. Returns (q, scales): q [T, H] float8_e4m3fn or int8,
    scales float32 [T, ceil(H / group)], x = q * scale. scale = max(largest magnitude, 1e-4) / 448 (int8:
    / 127), so magnitudes far below 1e-4 lose precision; `round_scale` rounds it up to a power of two, which
    UE8M0 holds in one byte. NaN and infinity: ValueError, or with nonfinite="saturate" NaN becomes 0 and
    infinity the largest finite magnitude of its group.
    """
    if fmt not in _LARGEST:
        raise ValueError(f"fmt is {fmt!r}, it must be 'e4m3' or 'int8'")
    if nonfinite not in ("error", "saturate"):
        raise ValueError(f"nonfinite is {nonfinite!r}, it must be 'error' or 'saturate'")
    given = np.asarray(x)
    if given.dtype.kind != "f" and not given.dtype.name.startswith(("bfloat16", "float8")):
        raise TypeError(f"x must hold floating-point numbers, got dtype {given.dtype}")
    if given.ndim != 2:
        raise ValueError(f"x must have the shape [tokens, hidden], got {list(given.shape)}")
    rows, cols = given.shape
    size = _group_size(cols, group)
    groups = -(-cols // size)
    with np.errstate(over="ignore"):  # beyond float32 it is an infinity, treated as such below
        if cols == groups * size:
            value = given.astype(np.float32, copy=False)
        else:
            value = np.zeros((rows, groups * size), dtype=np.float32)
            value[:, :cols] = given
    blocks = value.reshape(rows, groups, size)
    amax = np.abs(blocks).max(axis=2, initial=0)
    if not np.isfinite(amax).all():
        finite = np.isfinite(blocks)
        if nonfinite == "error":
            t, h = np.argwhere(~finite.reshape(rows, groups * size))[0]
            raise ValueError(f"x[{t}, {h}] is {given[t, h]}; clean the input or pass nonfinite='saturate'")
        amax = np.abs(np.where(finite, blocks, 0)).max(axis=2, initial=0)
        limit = amax[:, :, None]
        blocks = np.clip(np.where(np.isnan(blocks), 0, blocks), -limit, limit)
    largest = np.float32(_LARGEST[fmt])
    scales: Float32s = np.maximum(amax, np.float32(_SMALLEST_AMAX)) / largest
    if round_scale:
        mantissa, exponent = np.frexp(scales)  # in [0.5, 1): a power of two has the mantissa 0.5
        scales = np.ldexp(np.float32(1), exponent - (mantissa == 0.5)).astype(np.float32)
    scaled = blocks / scales[:, :, None]
    if fmt == "e4m3":
        q: Array = scaled.astype(_E4M3)
    else:
        q = np.clip(np.rint(scaled), -largest, largest).astype(np.int8)
    return np.ascontiguousarray(q.reshape(rows, groups * size)[:, :cols]), scales


def per_token_cast_back(
    q: npt.ArrayLike, scales: npt.ArrayLike, dtype: npt.DTypeLike = np.float32, group: int = 128
) -> Array:
    """q * scale in float32, then rounded to `dtype`. The inverse of per_token_cast with the same `group`.

    `q` [T, H] float8_e4m3fn or int8; `scales` [T, ceil(H / group)]. Returns [T, H].
    """
    values, factors = np.asarray(q), np.asarray(scales)
    if values.dtype not in (_E4M3, np.dtype(np.int8)):
        raise TypeError(f"q must be float8_e4m3fn or int8, got {values.dtype}")
    if values.ndim != 2:
        raise ValueError(f"q must have the shape [tokens, hidden], got {list(values.shape)}")
    rows, cols = values.shape
    size = _group_size(cols, group)
    groups = -(-cols // size)
    if factors.shape != (rows, groups):
        raise ValueError(
            f"scales must have the shape {[rows, groups]} (group {group}), got {list(factors.shape)}"
        )
    wide = values.astype(np.float32)
    factors = factors.astype(np.float32, copy=False)
    if cols == groups * size:
        blocks = wide.reshape(rows, groups, size)
        blocks *= factors[:, :, None]
    else:
        wide *= np.repeat(factors, size, axis=1)[:, :cols]
    return wide.astype(dtype, copy=False)


# ---- accuracy ---------------------------------------------------------------------------------------------


def _pair(ref: npt.ArrayLike, got: npt.ArrayLike) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    a, b = np.asarray(ref).astype(np.float64), np.asarray(got).astype(np.float64)
    if a.shape != b.shape:
        raise ValueError(f"ref has the shape {list(a.shape)}, got has {list(b.shape)}")
    return a, b


def sqnr_db(ref: npt.ArrayLike, got: npt.ArrayLike) -> float:
    """Signal to quantization noise, 10 log10(sum ref^2 / sum (ref - got)^2), in dB. Any equal shapes.

    Independent of the data's size. inf where nothing differs, -inf where ref is zero and got is not.
    """
    a, b = _pair(ref, got)
    noise, signal = float(np.square(a - b).sum()), float(np.square(a).sum())
    if noise == 0:
        return float("inf")
    return float(10 * np.log10(signal / noise)) if signal else float("-inf")


def row_cosine(ref: npt.ArrayLike, got: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The cosine between the rows of two [T, H] arrays, float64 [T]; 1 for two zero rows, 0 for one.

    Shows a single row that went wrong, which a sum over all rows drowns; it does not see a wrong scale.
    """
    a, b = _pair(ref, got)
    if a.ndim != 2:
        raise ValueError(f"ref must have the shape [tokens, hidden], got {list(a.shape)}")
    # Each row over its largest magnitude first, so that squares neither overflow nor vanish.
    large = [np.abs(v).max(axis=1, initial=0) for v in (a, b)]
    a, b = (v / np.where(m > 0, m, 1)[:, None] for v, m in zip((a, b), large, strict=True))
    norms = np.sqrt(np.square(a).sum(axis=1) * np.square(b).sum(axis=1))
    both_zero = (large[0] == 0) & (large[1] == 0)
    result: npt.NDArray[np.float64] = np.where(
        both_zero, 1.0, (a * b).sum(axis=1) / np.where(norms > 0, norms, 1)
    )
    return result


def calc_diff(ref: npt.ArrayLike, got: npt.ArrayLike) -> float:
    """DeepEP's measure, for comparing with its published figures: 1 - 2 <x, y> / (<x, x> + <y, y>) with
    x = ref + 1, y = got + 1. 0 is equal.

    Read it with care; report sqnr_db and row_cosine too. It hides error in two ways: adding 1 to every
    element makes a small signal's error count against the ones and not against the signal (at a standard
    deviation of 0.01 all-zero output has a difference of 5e-5), and it goes with the square of the error.
    """
    a, b = _pair(ref, got)
    a, b = a + 1, b + 1
    both = float(np.square(a).sum() + np.square(b).sum())
    return float(np.square(a - b).sum()) / both if both else 0.0
