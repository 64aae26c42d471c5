"""What pyshmem.device.numba is made of: the C functions it links, and arrays and values as bits."""

# Numba is typed only in parts.
# mypy: disable-error-code="no-untyped-call, untyped-decorator, attr-defined, no-redef, misc"
from __future__ import annotations

from functools import cache
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped, unused-ignore]
from numba import cuda

from .._core import lib
from . import state
from ._flatten import flatten
from ._numba_checks import (
    checked_array,
    comparison_kind,
    element_bits,
    integer_elements,
    reduction_kind,
    same_dtype,
    signal_array,
    single_element,
    types,
)

intrinsic: Any
try:
    from numba.cuda.extending import intrinsic
except ImportError:  # before Numba-CUDA had this part of its own
    from numba.extending import intrinsic

# ---- the linked code ---------------------------------------------------------------------------------------

# Result, arguments: i = int, u = unsigned, l = 64-bit integer, p = address; of C's shmem_device_NAME.
FUNCTIONS = {
    "my_pe": "i", "n_pes": "i", "team_my_pe": "iu", "team_n_pes": "iu", "ptr": "ppi",
    "p8": "ipui", "p32": "ipui", "p64": "ipli", "g8": "upi", "g32": "upi", "g64": "lpi",
    "put": "iippli", "get": "iippli", "put_nbi": "iippli", "get_nbi": "iippli", "put_signal": "iipplplii",
    "put_signal_nbi": "iipplplii",
    "fence": "iii", "quiet": "iii", "sync": "iiu", "barrier": "iiu",
    "wait_until32": "iipii", "wait_until64": "iipil", "test32": "ipii", "test64": "ipil",
    "wait_until_all": "iipliil", "wait_until_any": "lpliil", "test_all": "ipliil", "test_any": "lpliil",
    "signal_wait_until": "iipil", "signal_fetch": "lp", "signal_op": "iplii",
    "atomic32": "uipuui", "atomic64": "liplli",
    "put_packets": "iipplli", "recv_packets": "iippll",
    "broadcast": "iiuppli", "fcollect": "iiuppl", "alltoall": "iiuppl",
    "reduce_i32": "iiuppl", "reduce_i64": "iiuppl", "reduce_f32": "iiuppl", "reduce_f64": "iiuppl",
    "scan_i32": "iiuppl", "scan_i64": "iiuppl", "scan_f32": "iiuppl", "scan_f64": "iiuppl",
}  # fmt: skip
_C = {"i": "int", "u": "unsigned", "l": "unsigned long long", "p": "unsigned long long"}
_NUMBA = {"i": types.int32, "u": types.uint32, "l": types.uint64, "p": types.uint64}


def _definition(name: str, signature: str) -> str:
    """shmem_device_NAME with Numba's convention: the result by pointer, the status (0) returned."""
    result, arguments = signature[0], signature[1:]
    parameters = "".join(f", {_C[kind]} a{i}" for i, kind in enumerate(arguments))
    values = ", ".join(f"(void *)a{i}" if kind == "p" else f"a{i}" for i, kind in enumerate(arguments))
    return (
        f'extern "C" __device__ int shmem_numba_{name}({_C[result]} *result{parameters})\n'
        f"{{\n    *result = ({_C[result]})shmem_device_{name}({values});\n    return 0;\n}}\n"
    )


@cache
def _headers() -> str:
    return flatten(state.include_dir() / "device" / "wrappers.h")


def source(name: str) -> str:
    """The CUDA C++ source that is linked into kernels that call function `name`; it needs no include folder.

    Each function is a unit of its own, since the compiler takes 10 seconds for all of them. The symbol of the
    state is the same in all units, and one after linking."""
    return (
        "#pragma nv_diag_suppress 177\n"  # most of the headers is unused here
        "#define SHMEMX_DEVICE_C static __device__\n" + _headers() + _definition(name, FUNCTIONS[name])
    )


class _Unit(cuda.CUSource):  # type: ignore[name-defined, misc, unused-ignore]
    """A source whose text is settled when it is linked: where the GPU heap is open and all of it is mapped,
    the paths to other PEs, which cost registers, are left out."""

    @property
    def data(self) -> str:
        mapped = lib.shmemx_device() >= 0 and not state.some_unmapped("numba")
        return ("#define SHMEM_DEVICE_MAPPED\n" if mapped else "") + str(super().data)


def _handle(code: Any) -> tuple[int, bool]:
    """(address of the CUmodule or CUlibrary, whether it is a library) of what Numba hands to callbacks."""
    handle = getattr(code, "handle", code)
    is_library = "library" in type(handle).__name__.lower()
    return int(getattr(handle, "value", handle)), is_library


def _loaded(code: Any) -> None:
    handle, is_library = _handle(code)
    state.on_load(("numba", handle), lambda: state.fill_symbol(handle, is_library, "numba"))


def _unloaded(code: Any) -> None:
    state.on_unload(("numba", _handle(code)[0]))


def _declare(name: str) -> Any:
    signature = FUNCTIONS[name]
    code = _Unit(
        source(name), name=f"shmem_numba_{name}.cu", setup_callback=_loaded, teardown_callback=_unloaded
    )
    return cuda.declare_device(
        f"shmem_numba_{name}", _NUMBA[signature[0]](*(_NUMBA[kind] for kind in signature[1:])), link=[code]
    )


c_my_pe, c_n_pes, c_team_my_pe, c_team_n_pes, c_ptr = map(
    _declare, ("my_pe", "n_pes", "team_my_pe", "team_n_pes", "ptr")
)
c_p8, c_p32, c_p64, c_g8, c_g32, c_g64 = map(_declare, ("p8", "p32", "p64", "g8", "g32", "g64"))
c_put, c_get, c_put_nbi, c_get_nbi, c_put_signal, c_put_signal_nbi = map(
    _declare, ("put", "get", "put_nbi", "get_nbi", "put_signal", "put_signal_nbi")
)
c_fence, c_quiet, c_sync, c_barrier = map(_declare, ("fence", "quiet", "sync", "barrier"))
c_wait32, c_wait64, c_test32, c_test64 = map(_declare, ("wait_until32", "wait_until64", "test32", "test64"))
c_wait_all, c_wait_any = map(_declare, ("wait_until_all", "wait_until_any"))
c_test_all, c_test_any = map(_declare, ("test_all", "test_any"))
c_signal_wait, c_signal_fetch, c_signal_op = map(_declare, ("signal_wait_until", "signal_fetch", "signal_op"))
c_atomic32, c_atomic64 = map(_declare, ("atomic32", "atomic64"))
c_put_packets, c_recv_packets = map(_declare, ("put_packets", "recv_packets"))
c_broadcast, c_fcollect, c_alltoall = map(_declare, ("broadcast", "fcollect", "alltoall"))
c_reduce_i32, c_reduce_i64 = map(_declare, ("reduce_i32", "reduce_i64"))
c_reduce_f32, c_reduce_f64 = map(_declare, ("reduce_f32", "reduce_f64"))
c_scan_i32, c_scan_i64 = map(_declare, ("scan_i32", "scan_i64"))
c_scan_f32, c_scan_f64 = map(_declare, ("scan_f32", "scan_f64"))


# ---- arrays and values as bits -----------------------------------------------------------------------------


@intrinsic
def address(typing_context: Any, a: Any) -> Any:
    """uint64: where the array's first element is, as a generic address."""
    checked_array(a)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        made = context.make_array(signature.args[0])(context, builder, arguments[0])
        data = made.data
        if data.type.addrspace != 0:
            data = builder.addrspacecast(data, ir.PointerType(data.type.pointee, 0))
        return builder.ptrtoint(data, ir.IntType(64))

    return types.uint64(a), generate


@intrinsic
def moved(typing_context: Any, a: Any, address: Any) -> Any:
    """The array with its first element at another address."""
    checked_array(a)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = signature.args[0]
        source_array = context.make_array(kind)(context, builder, arguments[0])
        made = context.make_array(kind)(context, builder)
        for field in ("nitems", "itemsize", "shape", "strides", "meminfo", "parent"):
            setattr(made, field, getattr(source_array, field))
        made.data = builder.inttoptr(arguments[1], source_array.data.type)
        return made._getvalue()

    return a(a, types.uint64), generate


@intrinsic
def bytes_of(typing_context: Any, target: Any, source_array: Any) -> Any:
    """uint64: bytes that both arrays have; their dtypes must be the same."""
    same_dtype(target, source_array)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        to, there = (
            context.make_array(kind)(context, builder, value)
            for kind, value in zip(signature.args, arguments, strict=True)
        )
        fewer = builder.icmp_signed("<", to.nitems, there.nitems)
        return builder.mul(builder.select(fewer, to.nitems, there.nitems), to.itemsize)

    return types.uint64(target, source_array), generate


@intrinsic
def to_bits(typing_context: Any, a: Any, value: Any) -> Any:
    """uint64: the value, converted to the array's dtype, as its bits."""
    width = single_element(a, "sent")

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = signature.args[0].dtype
        made = context.cast(builder, arguments[1], signature.args[1], kind)
        made = context.get_value_as_data(builder, kind, made) if isinstance(kind, types.Boolean) else made
        whole = ir.IntType(width)
        bits = builder.bitcast(made, whole) if made.type != whole else made
        return bits if width == 64 else builder.zext(bits, ir.IntType(64))

    return types.uint64(a, value), generate


@intrinsic
def from_bits(typing_context: Any, a: Any, bits: Any) -> Any:
    """The value of the array's dtype that these bits are."""
    width = single_element(a, "fetched")
    dtype = a.dtype

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        whole = ir.IntType(width)
        made = arguments[1] if width == 64 else builder.trunc(arguments[1], whole)
        if isinstance(dtype, types.Boolean):
            return builder.icmp_unsigned("!=", made, ir.Constant(whole, 0))
        wanted = context.get_value_type(dtype)
        return made if wanted == whole else builder.bitcast(made, wanted)

    return dtype(a, types.uint64), generate


@intrinsic
def width(typing_context: Any, a: Any) -> Any:
    """int64: bits of an element, a constant in compiled code."""
    width = element_bits(a)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return ir.Constant(ir.IntType(64), width)

    return types.int64(a), generate


@intrinsic
def integers(typing_context: Any, a: Any) -> Any:
    """A TypingError unless the array has 32- or 64-bit integers."""
    integer_elements(a)
    return types.void(a), lambda context, builder, signature, arguments: context.get_dummy_value()


@intrinsic
def comparison_of(typing_context: Any, a: Any) -> Any:
    kind = comparison_kind(a)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return ir.Constant(ir.IntType(64), kind)

    return types.int64(a), generate


@intrinsic
def signal_word(typing_context: Any, a: Any) -> Any:
    """As address, of an array of uint64 or int64."""
    signal_array(a)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        made = context.make_array(signature.args[0])(context, builder, arguments[0])
        return builder.ptrtoint(made.data, ir.IntType(64))

    return types.uint64(a), generate


@intrinsic
def reduction_of(typing_context: Any, a: Any) -> Any:
    kind = reduction_kind(a)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return ir.Constant(ir.IntType(64), kind)

    return types.int64(a), generate
