"""Enumerations, type names, and how NumPy dtypes map to the types of the core."""

from __future__ import annotations

import enum
import operator
import struct
from collections.abc import Callable
from typing import Any, TypeAlias, Union

import numpy as np
import numpy.typing as npt

from ._core import ffi, lib

__all__ = [
    "AMO",
    "AMO_ADD",
    "AMO_AND",
    "AMO_INC",
    "AMO_OR",
    "AMO_SET",
    "AMO_XOR",
    "CMP",
    "CMP_EQ",
    "CMP_GE",
    "CMP_GT",
    "CMP_LE",
    "CMP_LT",
    "CMP_NE",
    "CTX",
    "CTX_NOSTORE",
    "CTX_PRIVATE",
    "CTX_SERIALIZED",
    "MALLOC",
    "MALLOC_ATOMICS_REMOTE",
    "MALLOC_SIGNAL_REMOTE",
    "OP",
    "OP_AND",
    "OP_MAX",
    "OP_MIN",
    "OP_OR",
    "OP_PROD",
    "OP_SUM",
    "OP_XOR",
    "SIGNAL",
    "SIGNAL_ADD",
    "SIGNAL_SET",
    "THREAD",
    "THREAD_FUNNELED",
    "THREAD_MULTIPLE",
    "THREAD_SERIALIZED",
    "THREAD_SINGLE",
    "Array",
    "Number",
]

Array: TypeAlias = npt.NDArray[Any]
Number: TypeAlias = Union[int, float, complex, "np.number[Any]"]
CData: TypeAlias = Any


class _StrEnum(str, enum.Enum):
    __str__ = str.__str__


class THREAD(enum.IntEnum):
    """Levels of thread support. The library always provides MULTIPLE."""

    SINGLE = lib.SHMEM_THREAD_SINGLE
    FUNNELED = lib.SHMEM_THREAD_FUNNELED
    SERIALIZED = lib.SHMEM_THREAD_SERIALIZED
    MULTIPLE = lib.SHMEM_THREAD_MULTIPLE


class CTX(enum.IntFlag):
    """Options of a communication context (or them): who uses it, and whether quiet covers plain stores."""

    PRIVATE = lib.SHMEM_CTX_PRIVATE
    SERIALIZED = lib.SHMEM_CTX_SERIALIZED
    NOSTORE = lib.SHMEM_CTX_NOSTORE


class MALLOC(enum.IntFlag):
    """Hints about the use of memory (or them): targets of atomics, signal words."""

    ATOMICS_REMOTE = lib.SHMEM_MALLOC_ATOMICS_REMOTE
    SIGNAL_REMOTE = lib.SHMEM_MALLOC_SIGNAL_REMOTE


class SIGNAL(enum.IntEnum):
    """What a put with signal does to the signal word: SET stores the value, ADD adds it."""

    SET = lib.SHMEM_SIGNAL_SET
    ADD = lib.SHMEM_SIGNAL_ADD


class CMP(enum.IntEnum):
    """Comparisons of waits and tests. Functions also take ``"=="``, ``"!="``, ``"eq"``... instead."""

    EQ = lib.SHMEM_CMP_EQ
    NE = lib.SHMEM_CMP_NE
    GT = lib.SHMEM_CMP_GT
    LE = lib.SHMEM_CMP_LE
    LT = lib.SHMEM_CMP_LT
    GE = lib.SHMEM_CMP_GE


class AMO(_StrEnum):
    """Operations of `atomic_op`, `atomic_fetch_op` and `atomic_fetch_op_nbi`."""

    SET = "set"
    INC = "inc"
    ADD = "add"
    AND = "and"
    OR = "or"
    XOR = "xor"


class OP(_StrEnum):
    """Operations of `reduce`."""

    AND = "and"
    OR = "or"
    XOR = "xor"
    MAX = "max"
    MIN = "min"
    SUM = "sum"
    PROD = "prod"


THREAD_SINGLE = THREAD.SINGLE
THREAD_FUNNELED = THREAD.FUNNELED
THREAD_SERIALIZED = THREAD.SERIALIZED
THREAD_MULTIPLE = THREAD.MULTIPLE
CTX_PRIVATE = CTX.PRIVATE
CTX_SERIALIZED = CTX.SERIALIZED
CTX_NOSTORE = CTX.NOSTORE
MALLOC_ATOMICS_REMOTE = MALLOC.ATOMICS_REMOTE
MALLOC_SIGNAL_REMOTE = MALLOC.SIGNAL_REMOTE
SIGNAL_SET = SIGNAL.SET
SIGNAL_ADD = SIGNAL.ADD
CMP_EQ = CMP.EQ
CMP_NE = CMP.NE
CMP_GT = CMP.GT
CMP_LE = CMP.LE
CMP_LT = CMP.LT
CMP_GE = CMP.GE
AMO_SET = AMO.SET
AMO_INC = AMO.INC
AMO_ADD = AMO.ADD
AMO_AND = AMO.AND
AMO_OR = AMO.OR
AMO_XOR = AMO.XOR
OP_AND = OP.AND
OP_OR = OP.OR
OP_XOR = OP.XOR
OP_MAX = OP.MAX
OP_MIN = OP.MIN
OP_SUM = OP.SUM
OP_PROD = OP.PROD


# ---- dtypes of reductions --------------------------------------------------------------------------------

_NUMBERS = {
    np.dtype(name): getattr(lib, f"SHMEMX_{name.upper()}")
    for name in (
        "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
        "float16", "float32", "float64", "longdouble", "complex64", "complex128",
    )
}  # fmt: skip
_BITS_ONLY = {np.dtype(np.bool_): lib.SHMEMX_UINT8}
_NAMED = {"bfloat16": lib.SHMEMX_BFLOAT16}  # of ml_dtypes, known by name: the package need not be imported


def core_type(dtype: np.dtype[Any], call: str, *, boolean: bool = False) -> int:
    """The core's number of a dtype (`boolean`: bool counts as uint8), or TypeError."""
    found = _NUMBERS.get(dtype)
    if found is None and boolean:
        found = _BITS_ONLY.get(dtype)
    if found is None and dtype.isnative:
        found = _NAMED.get(dtype.name)
    if found is None:
        raise TypeError(f"{call}: dtype {dtype} is not supported here")
    return int(found)


# ---- words: what atomics, waits and signals work on --------------------------------------------------------


class Word:
    """A dtype that atomics or waits take: how to turn Python numbers into its bits and back."""

    __slots__ = ("bits", "core", "ctype", "dtype", "is_int", "pool", "size", "top")

    def __init__(self, dtype: np.dtype[Any], ctype: str) -> None:
        self.dtype = dtype
        self.ctype = ctype
        self.size = dtype.itemsize
        self.is_int = dtype.kind in "iu"
        self.core = _NUMBERS[dtype]
        # Cells that C writes a result to. The GIL is free during a call, so a cell belongs to one call at a
        # time: it is taken from this stack (20 ns; a fresh cell is 80) and put back.
        self.pool: list[CData] = []
        # Integers in [0, top] are their own bits.
        self.top = int(np.iinfo(dtype).max) if self.is_int else -1
        self.bits: Callable[[Number], int] = self._int_bits if self.is_int else self._float_bits

    def _int_bits(self, value: Number) -> int:
        number = operator.index(value)  # type: ignore[arg-type]
        if not np.iinfo(self.dtype).min <= number <= self.top:
            raise OverflowError(f"{number} does not fit in {self.dtype}")
        return number & ((1 << 8 * self.size) - 1)

    def _float_bits(self, value: Number) -> int:
        # A double that is too large for float32 becomes infinity, as in C and NumPy.
        if isinstance(value, complex):
            raise TypeError(f"{value} is not a real number")
        if self.size == 8:
            return int(struct.unpack("=Q", struct.pack("=d", value))[0])
        with np.errstate(over="ignore"):
            return int(np.float32(value).view(np.uint32))

    def cell(self) -> CData:
        """A cell of this type; give it back with ``pool.append``."""
        try:
            return self.pool.pop()
        except IndexError:
            return ffi.new(self.ctype)


INT_WORDS: dict[np.dtype[Any], Word] = {
    np.dtype(name): Word(np.dtype(name), f"{name}_t *") for name in ("int32", "int64", "uint32", "uint64")
}
"""dtypes of all atomics and of waits."""

WORDS: dict[np.dtype[Any], Word] = {
    **INT_WORDS,
    np.dtype("float32"): Word(np.dtype("float32"), "float *"),
    np.dtype("float64"): Word(np.dtype("float64"), "double *"),
}
"""dtypes of atomic fetch, set and swap."""

_COMPARISONS = {"==": CMP_EQ, "!=": CMP_NE, ">": CMP_GT, "<=": CMP_LE, "<": CMP_LT, ">=": CMP_GE}
_COMPARISONS.update({item.name.lower(): item for item in CMP})


def comparison(cmp: CMP | int | str, call: str) -> int:
    """The number of a comparison given as CMP, number, sign or name."""
    if isinstance(cmp, str):
        found = _COMPARISONS.get(cmp.lower())
        if found is not None:
            return found
    elif isinstance(cmp, (int, np.integer)) and cmp in CMP._value2member_map_:
        return int(cmp)
    from .errors import CLASSES

    raise CLASSES[lib.SHMEMX_ERR_ARGUMENT](
        f"{call}: comparison {cmp!r} is none of CMP.EQ, NE, GT, GE, LT, LE or ==, !=, >, >=, <, <="
    )
