"""What pyshmem.device.numba asks of a call's arguments, on Numba's types: compiled kernels ask when they are
compiled, those in the simulator at each call."""

# Numba is typed only in parts.
# mypy: disable-error-code="attr-defined, no-redef"
from __future__ import annotations

from typing import Any

types: Any
TypingError: Any
from_dtype: Any
try:
    from numba.cuda import types
    from numba.cuda.core.errors import TypingError
    from numba.cuda.np.numpy_support import from_dtype
except ImportError:  # before Numba-CUDA had these parts of its own
    from numba import types
    from numba.core.errors import TypingError
    from numba.np.numpy_support import from_dtype

__all__ = [
    "TypingError", "checked_array", "comparison_kind", "element_bits", "from_dtype", "integer_elements",
    "reduction_kind", "same_dtype", "signal_array", "single_element", "types",
]  # fmt: skip


def checked_array(a: Any) -> Any:
    if not isinstance(a, types.Array):
        raise TypingError(f"a pyshmem call in a kernel got {a}, where an array is needed")
    if a.layout not in "CF":
        raise TypingError(f"a pyshmem call in a kernel got {a}: a contiguous array is needed")
    return a


def same_dtype(target: Any, source: Any) -> None:
    if checked_array(target).dtype != checked_array(source).dtype:
        raise TypingError(
            f"dtypes of target and source differ in a pyshmem call: {target.dtype} and {source.dtype}"
        )


def element_bits(a: Any) -> int:
    """Bits of an element; 0 for what is neither a number nor a boolean."""
    dtype = checked_array(a).dtype
    return int(getattr(dtype, "bitwidth", 8 if isinstance(dtype, types.Boolean) else 0))


def single_element(a: Any, verb: str) -> int:
    """Bits of an element that can be sent or fetched alone."""
    bits = element_bits(a)
    if bits not in (8, 32, 64):
        raise TypingError(f"single elements of 1, 4 and 8 bytes can be {verb}, not {a.dtype}")
    return bits


def integer_elements(a: Any) -> None:
    dtype = checked_array(a).dtype
    if not isinstance(dtype, types.Integer) or dtype.bitwidth not in (32, 64):
        raise TypingError(f"this pyshmem call takes 32- and 64-bit integers, not {dtype}")


def comparison_kind(a: Any) -> int:
    """Which comparison a wait on the array needs: 32, 64 signed, 65 = 64 unsigned."""
    kinds = {types.int32: 32, types.int64: 64, types.uint64: 65}
    dtype = checked_array(a).dtype
    if dtype not in kinds:
        raise TypingError(f"waits and tests take int32, int64 and uint64, not {dtype}")
    return kinds[dtype]


def signal_array(a: Any) -> None:
    if checked_array(a).dtype not in (types.uint64, types.int64):
        raise TypingError(f"a signal is uint64 (or int64), not {a.dtype}")


def reduction_kind(a: Any) -> int:
    """The index of the array's dtype among int32, int64, float32 and float64."""
    kinds = {types.int32: 0, types.int64: 1, types.float32: 2, types.float64: 3}
    kind = kinds.get(checked_array(a).dtype)
    if kind is None:
        raise TypingError(f"reductions in kernels take int32, int64, float32 and float64, not {a.dtype}")
    return kind
