"""Quantized collectives, the Python face of shmemx_quant.h; users find them in `pyshmem.quant`.

Every member of the team calls, in the same order, with arrays of one size and dtype and the same options;
else all get MismatchError. Arrays are NumPy's, CuPy's or PyTorch's, contiguous, of float32, float16 or
bfloat16, on the symmetric heap or not: nothing is copied to call. Symmetric ones are faster where nothing
is quantized.

Arrays in GPU memory, of all members or of none, make it a call in the order of a stream: it returns at once,
errors that kernels find are raised by a later call or by `pyshmem.device.check`, and `stream` is as in
`pyshmem.device.stream` (CuPy's, PyTorch's, an address; None: the current one, PyTorch's for tensors). The
GPU heap must be open: an allocation with device="cuda" opens it. What holds there is said in
shmemx_quant_stream.h.
"""

from __future__ import annotations

import operator
import sys
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import ml_dtypes
import numpy as np
import numpy.typing as npt

from ._core import ffi, lib
from .errors import CLASSES, check
from .setup import ensure, state
from .types import CData

if TYPE_CHECKING:
    from .team import Team

__all__ = ["all_gather", "all_reduce", "all_to_all", "broadcast", "reduce_scatter"]

_ArgumentError = CLASSES[lib.SHMEMX_ERR_ARGUMENT]
_WORLD = ffi.cast("shmem_team_t", lib.SHMEMX_TEAM_WORLD)
_TYPES = {
    "float32": (lib.SHMEMX_FLOAT32, 4),
    "float16": (lib.SHMEMX_FLOAT16, 2),
    "bfloat16": (lib.SHMEMX_BFLOAT16, 2),
}
_NUMPY = {
    np.dtype(np.float32): "float32",
    np.dtype(np.float16): "float16",
    np.dtype(ml_dtypes.bfloat16): "bfloat16",
}
_OPS = {"sum": lib.SHMEMX_QUANT_SUM, "mean": lib.SHMEMX_QUANT_MEAN}
_FORMATS = {"int8": lib.SHMEMX_QUANT_INT8, "e4m3": lib.SHMEMX_QUANT_E4M3}
_NONFINITE = {"error": lib.SHMEMX_NONFINITE_ERROR, "propagate": lib.SHMEMX_NONFINITE_PROPAGATE}

Format = Literal["int8", "e4m3"]
NonFinite = Literal["error", "propagate"]
Residual = npt.NDArray[np.float32] | Any  # of CuPy or PyTorch too


class _Memory(NamedTuple):
    """An argument as the library takes it."""

    address: CData
    size: int  # elements
    dtype: str
    shape: tuple[int, ...]
    gpu: bool = False


def _is_tensor(a: Any) -> bool:
    torch = sys.modules.get("torch")  # who has a tensor has imported it
    return torch is not None and isinstance(a, torch.Tensor)


def _on_gpu(a: Any) -> bool:
    cupy = sys.modules.get("cupy")
    return (_is_tensor(a) and a.device.type == "cuda") or (cupy is not None and isinstance(a, cupy.ndarray))


def _gpu_memory(a: Any, call: str, name: str) -> tuple[str, bool, int]:
    from .device import arrays

    if not state.ready:
        ensure()
    found = arrays.describe(a, call, name)
    assert found is not None
    arrays.check_use(found, call, name, symmetric=False)
    contiguous = a.is_contiguous() if _is_tensor(a) else a.flags.c_contiguous
    return _NUMPY.get(found.dtype, str(found.dtype)), contiguous, found.address


def _memory(a: Any, call: str, name: str, *, write: bool = False) -> _Memory:
    gpu = _on_gpu(a)
    if gpu:
        dtype, contiguous, address = _gpu_memory(a, call, name)
    elif _is_tensor(a):
        if a.device.type != "cpu":
            raise TypeError(f"{call}: {name} is a tensor on {a.device}, not in CUDA or host memory")
        dtype, contiguous, address = str(a.dtype).removeprefix("torch."), a.is_contiguous(), a.data_ptr()
    elif isinstance(a, np.ndarray):
        dtype, contiguous = _NUMPY.get(a.dtype, str(a.dtype)), a.flags.c_contiguous
        address = a.__array_interface__["data"][0]
        if write and not a.flags.writeable:
            raise _ArgumentError(f"{call}: {name} is read-only")
    else:
        raise TypeError(f"{call}: {name} is {type(a).__name__}, not an array of NumPy, CuPy or PyTorch")
    if dtype not in _TYPES:
        raise TypeError(f"{call}: {name} has dtype {dtype}, not float32, float16 or bfloat16")
    if not contiguous:
        raise _ArgumentError(f"{call}: {name} (shape {tuple(a.shape)}) is not contiguous")
    shape = tuple(a.shape)
    return _Memory(ffi.cast("char *", address), int(np.prod(shape, dtype=np.int64)), dtype, shape, gpu)


def _empty(like: Any, shape: tuple[int, ...]) -> Any:
    if _is_tensor(like):
        return like.new_empty(shape)
    return (sys.modules["cupy"] if _on_gpu(like) else np).empty(shape, like.dtype)


def _queue(x: Any, stream: Any, call: str) -> CData:
    """The stream of a call with x in GPU memory; None: the current one, PyTorch's for its tensors."""
    from .device.stream import handle_of

    if stream is None and _is_tensor(x):
        stream = sys.modules["torch"].cuda.current_stream(x.device)
    return ffi.cast("void *", handle_of(stream, call))


def _run(name: str, x: Any, source: _Memory, stream: Any, *args: Any) -> None:
    """Calls shmemx_<name>_int8, or for GPU memory the form that a stream orders."""
    if source.gpu:
        check(getattr(lib, f"shmemx_{name}_int8_on_stream")(*args, _queue(x, stream, name)))
        return
    if stream is not None:
        raise _ArgumentError(f"{name}: a stream is given, and x is host memory")
    check(getattr(lib, f"shmemx_{name}_int8")(*args))


def _target(out: Any, x: Any, source: _Memory, shape: tuple[int, ...], call: str) -> tuple[Any, _Memory]:
    """`out`, or a new array of the kind of `x`, and its memory."""
    if out is None:
        out = _empty(x, shape)
    to = _memory(out, call, "out", write=True)
    if to.gpu != source.gpu:
        raise _ArgumentError(f"{call}: out and x are not both in GPU memory, or both in host memory")
    if to.dtype != source.dtype or to.size != int(np.prod(shape, dtype=np.int64)):
        raise _ArgumentError(
            f"{call}: out must be {list(shape)} of {source.dtype}, got {list(to.shape)} of {to.dtype}"
        )
    return out, to


def _how(
    x: _Memory,
    call: str,
    bits: int,
    fmt: str,
    group: int | str,
    nonfinite: str,
    min_bytes: int | None,
    op: str,
) -> CData:
    how = ffi.new("shmemx_quant_t *")
    lib.shmemx_quant_defaults(how)
    for name, value, choices in (
        ("fmt", fmt, _FORMATS),
        ("nonfinite", nonfinite, _NONFINITE),
        ("op", op, _OPS),
    ):
        if value not in choices:
            raise _ArgumentError(f"{call}: {name} is {value!r}, it must be one of {', '.join(choices)}")
    own = 8 * _TYPES[x.dtype][1]
    if bits not in (8, own):
        raise _ArgumentError(f"{call}: bits is {bits!r}, it must be 8, or {own} to send {x.dtype} as it is")
    how.format, how.on_nonfinite, how.op = _FORMATS[fmt], _NONFINITE[nonfinite], _OPS[op]
    if group in ("row", 0):
        how.group, how.row = 0, max(x.shape[-1] if x.shape else 1, 1)
    elif group in (32, 64, 128):
        how.group = group
    else:
        raise _ArgumentError(f"{call}: group is {group!r}, it must be 32, 64, 128 or 'row'")
    if bits == own:
        how.min_bytes -= 1  # above every size, and not the automatic choice
    elif min_bytes is not None:
        if operator.index(min_bytes) < 0:
            raise _ArgumentError(f"{call}: min_bytes is {min_bytes}")
        how.min_bytes = min_bytes
    return how


def _residual(residual: Any, x: _Memory, call: str) -> CData:
    if residual is None:
        return ffi.NULL
    memory = _memory(residual, call, "residual", write=True)
    if memory.gpu != x.gpu:
        raise _ArgumentError(f"{call}: residual and x are not both in GPU memory, or both in host memory")
    if memory.dtype != "float32" or memory.size != x.size:
        raise _ArgumentError(
            f"{call}: residual must be {list(x.shape)} of float32, got {list(memory.shape)} of {memory.dtype}"
        )
    return ffi.cast("float *", memory.address)


def _start(team: Team | None) -> tuple[CData, int]:
    if not state.ready:
        ensure()
    return (_WORLD, int(lib.shmem_n_pes())) if team is None else (team.ob_team, team.n_pes())


def _split(x: _Memory, members: int, call: str) -> int:
    """Elements of one of `members` equal blocks along the first axis."""
    if not x.shape or x.shape[0] % members:
        raise _ArgumentError(
            f"{call}: the first axis of x {list(x.shape)} does not divide by {members} members"
        )
    return x.size // members


def all_reduce(
    x: Any,
    *,
    out: Any = None,
    op: Literal["sum", "mean"] = "sum",
    bits: int = 8,
    fmt: Format = "int8",
    group: int | Literal["row"] = 128,
    nonfinite: NonFinite = "error",
    min_bytes: int | None = None,
    residual: Residual | None = None,
    team: Team | None = None,
    stream: Any = None,
) -> Any:
    """The sum, or mean, of the members' arrays, the same bits on every member; added in float32.

    Parameters
    ----------
    x : numpy.ndarray, cupy.ndarray or torch.Tensor
        Any shape; the same size and dtype on all members.
    out : array, optional
        Where the result goes, of x's size and dtype; may be `x`. By default a new array.
    op : "sum" or "mean"
    bits : int
        8, or the width of the dtype (32, 16): elements travel as they are.
    fmt : "int8" or "e4m3"
        What 8 bits are: INT8, or FP8 with 4 bits of exponent.
    group : 32, 64, 128 or "row"
        Elements a scale, in the order of memory; "row": one scale for each run of x.shape[-1] (65536 at
        most).
    nonfinite : "error" or "propagate"
        NaN and infinity: DataError (MismatchError on the other members), or the groups they are in become
        NaN.
    min_bytes : int, optional
        Arrays below it are not quantized; 0: all are. Default: where quantization pays: between nodes above
        4000 bytes, within one node float32 from 4 MiB on in `all_reduce`; between GPUs float32 from 4 MiB in
        all on, 16-bit elements from 8 MiB.
    residual : float32 array or tensor of x's size, optional
        Error feedback: added to x before, receives what quantization left out; hand it to the next call of
        the same parameters. Zero it before the first.
    team : Team, optional
        Who takes part; by default the world.
    stream
        Of arrays in GPU memory: what orders the call, by default the current stream.

    Returns
    -------
    array
        `out`, or a new array as `x`.
    """
    call = "all_reduce"
    source = _memory(x, call, "x")
    handle, _ = _start(team)
    how = _how(source, call, bits, fmt, group, nonfinite, min_bytes, op)
    out, to = _target(out, x, source, source.shape, call)
    rest = _residual(residual, source, call)
    kind = _TYPES[source.dtype][0]
    _run("allreduce", x, source, stream, handle, to.address, source.address, source.size, kind, how, rest)
    return out


def reduce_scatter(
    x: Any,
    *,
    out: Any = None,
    op: Literal["sum", "mean"] = "sum",
    bits: int = 8,
    fmt: Format = "int8",
    group: int | Literal["row"] = 128,
    nonfinite: NonFinite = "error",
    min_bytes: int | None = None,
    residual: Residual | None = None,
    team: Team | None = None,
    stream: Any = None,
) -> Any:
    """Member i's block of the sum, or mean: x [members * n, ...] becomes [n, ...].

    Parameters as for `all_reduce`; `out` may be this member's block of `x`, `residual` has x's size.
    """
    call = "reduce_scatter"
    source = _memory(x, call, "x")
    handle, members = _start(team)
    how = _how(source, call, bits, fmt, group, nonfinite, min_bytes, op)
    count = _split(source, members, call)
    out, to = _target(out, x, source, (source.shape[0] // members, *source.shape[1:]), call)
    rest = _residual(residual, source, call)
    kind = _TYPES[source.dtype][0]
    _run("reduce_scatter", x, source, stream, handle, to.address, source.address, count, kind, how, rest)
    return out


def all_gather(
    x: Any,
    *,
    out: Any = None,
    bits: int = 8,
    fmt: Format = "int8",
    group: int | Literal["row"] = 128,
    nonfinite: NonFinite = "error",
    min_bytes: int | None = None,
    team: Team | None = None,
    stream: Any = None,
) -> Any:
    """The members' arrays one after the other: x [n, ...] becomes [members * n, ...], the same bits on every
    member, so the own block is as the others see it.

    Parameters as for `all_reduce`; `x` may be this member's block of `out`.
    """
    call = "all_gather"
    source = _memory(x, call, "x")
    handle, members = _start(team)
    how = _how(source, call, bits, fmt, group, nonfinite, min_bytes, "sum")
    shape = (members * source.shape[0], *source.shape[1:]) if source.shape else (members,)
    out, to = _target(out, x, source, shape, call)
    kind = _TYPES[source.dtype][0]
    _run("allgather", x, source, stream, handle, to.address, source.address, source.size, kind, how)
    return out


def all_to_all(
    x: Any,
    *,
    out: Any = None,
    bits: int = 8,
    fmt: Format = "int8",
    group: int | Literal["row"] = 128,
    nonfinite: NonFinite = "error",
    min_bytes: int | None = None,
    team: Team | None = None,
    stream: Any = None,
) -> Any:
    """Block j of member i's x [members * n, ...] becomes block i of member j's result. The own block is
    copied as it is.

    Parameters as for `all_reduce`; `out` may be `x`.
    """
    call = "all_to_all"
    source = _memory(x, call, "x")
    handle, members = _start(team)
    how = _how(source, call, bits, fmt, group, nonfinite, min_bytes, "sum")
    count = _split(source, members, call)
    out, to = _target(out, x, source, source.shape, call)
    kind = _TYPES[source.dtype][0]
    _run("alltoall", x, source, stream, handle, to.address, source.address, count, kind, how)
    return out


def broadcast(
    x: Any,
    root: int = 0,
    *,
    out: Any = None,
    bits: int = 8,
    fmt: Format = "int8",
    group: int | Literal["row"] = 128,
    nonfinite: NonFinite = "error",
    min_bytes: int | None = None,
    team: Team | None = None,
    stream: Any = None,
) -> Any:
    """The root's array on every member, the same bits, the root's included.

    `root` is a number in the team. On the others `x` only says size and dtype. Parameters as for
    `all_reduce`; `out` may be `x`.
    """
    call = "broadcast"
    source = _memory(x, call, "x")
    handle, _ = _start(team)
    how = _how(source, call, bits, fmt, group, nonfinite, min_bytes, "sum")
    out, to = _target(out, x, source, source.shape, call)
    kind = _TYPES[source.dtype][0]
    number = operator.index(root)
    _run("broadcast", x, source, stream, handle, to.address, source.address, source.size, kind, number, how)
    return out
