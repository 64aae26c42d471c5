"""What a dispatch gives: received rows, their routing, and the handle for combine. See moe.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ._core import ffi, lib
from .errors import CLASSES, check
from .types import CData

if TYPE_CHECKING:
    from .moe import ExpertParallel

Array = npt.NDArray[Any]
Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Float32s = npt.NDArray[np.float32]

_ArgumentError = CLASSES[lib.SHMEMX_ERR_ARGUMENT]


def address(a: Array) -> CData:
    """Where the array begins, as void *."""
    # Works for bfloat16 and for strided rows, where the buffer protocol does not; 0.5 us, ctypes takes 2.3.
    return ffi.cast("void *", a.__array_interface__["data"][0])


class Dispatched:
    """What this PE received in one dispatch; also the handle that `combine` and ``dispatch(routing=...)``
    take.

    Rows are in the order of source rank, then of the source's tokens. In mode "worst_case" rank r's tokens
    lie from row r * max_tokens on, and unused slots have topk_idx -1, source_rank -1 and undefined recv_x.

    Attributes
    ----------
    recv_x : ndarray
        Token form [rows, H], expert form [expert_rows, H] (grouped by local expert, see `expert_offsets`;
        padding rows are 0). The object's dtype, or int8 when `quantized`. It shows a buffer of the object: it
        stays until the results-th later dispatch begins, then reading this attribute raises ArgumentError;
        copy it to keep it. Rows may be further apart than H elements (``recv_x.strides``).
    scales : ndarray or None
        float32 [rows or expert_rows, groups] when `quantized`: recv_x * its group's scale is the value. Same
        lifetime.
    by_expert, quantized : bool
        The form of recv_x.
    rows, expert_rows, tokens : int
        Row slots of the token form, rows of the expert form with its padding, T of this PE's own tokens.
    bytes_remote, bytes_local : int
        What this PE sent to others, and stored into its own buffer.
    """

    __slots__ = (
        "__weakref__",
        "_handle",
        "_kept",
        "_number",
        "_owner",
        "_scales",
        "_view",
        "_x",
        "by_expert",
        "bytes_local",
        "bytes_remote",
        "expert_rows",
        "quantized",
        "rows",
        "tokens",
    )

    def __init__(
        self, owner: ExpertParallel, handle: CData, number: int, by_expert: bool, quantized: bool
    ) -> None:
        self._owner = owner
        self._handle = ffi.gc(handle, lib.shmemx_moe_handle_free)
        self._number = number
        self._kept: dict[str, Array] = {}
        self._view = ffi.new("shmemx_moe_received_t *")
        check(lib.shmemx_moe_received(handle, self._view))
        self.by_expert = by_expert
        self.quantized = quantized
        self.rows: int = self._view.rows
        self.expert_rows: int = self._view.expert_rows
        self.tokens: int = self._view.tokens
        self.bytes_remote = self.bytes_local = 0
        self._x: Array
        self._scales: Array | None = None

    def __repr__(self) -> str:
        form = f"{self.expert_rows} rows by expert" if self.by_expert else f"{self.rows} rows by token"
        return f"<Dispatched {form}{', int8' if self.quantized else ''}>"

    def _living(self) -> None:
        if self._handle is None or self._owner._object.pointer == ffi.NULL:
            raise _ArgumentError("recv_x is gone: its ExpertParallel is closed; copy it to keep it")
        check(lib.shmemx_moe_received(self._handle, self._view))
        if self._view.x == ffi.NULL:
            raise _ArgumentError(
                f"recv_x is gone: {self._owner.results} later dispatches have begun (results="
                f"{self._owner.results}); copy it to keep it"
            )

    @property
    def recv_x(self) -> Array:
        """The received rows."""
        self._living()
        return self._x

    @property
    def scales(self) -> Float32s | None:
        """Scales of quantized rows."""
        self._living()
        return self._scales

    def _table(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """A copy of one of the handle's arrays, made at the first use."""
        found = self._kept.get(name)
        if found is None:
            if self._handle is None:
                raise _ArgumentError(f"{name}: the object of this result is closed")
            found = np.empty(shape, dtype)
            ffi.memmove(address(found), getattr(self._view, name), found.nbytes)
            found.flags.writeable = False
            self._kept[name] = found
        return found

    @property
    def topk_idx(self) -> Int64s:
        """int64 [rows, K]: numbers of experts within this rank; -1 for choices elsewhere, dropped, and
        empty slots."""
        return self._table("topk_idx", (self.rows, self._owner.topk), np.int64)

    @property
    def topk_weights(self) -> Float32s:
        """float32 [rows, K], 0 where topk_idx is -1."""
        return self._table("topk_weights", (self.rows, self._owner.topk), np.float32)

    @property
    def source_rank(self) -> Int32s:
        """int32 [rows]: rank that the row came from, -1 for an empty slot."""
        return self._table("source_rank", (self.rows,), np.int32)

    @property
    def source_token(self) -> Int32s:
        """int32 [rows]: its number there, -1 for an empty slot."""
        return self._table("source_token", (self.rows,), np.int32)

    @property
    def tokens_per_expert(self) -> Int32s:
        """int32 [local experts]: rows that chose it."""
        return self._table("tokens_per_expert", (self._owner.local_experts,), np.int32)

    @property
    def tokens_per_source(self) -> Int32s:
        """int32 [R]: rows from each rank."""
        return self._table("tokens_per_source", (self._owner.ranks,), np.int32)

    @property
    def expert_offsets(self) -> Int64s:
        """int64 [local experts + 1]: first row of each expert in the expert form, a multiple of
        expert_alignment."""
        return self._table("expert_offsets", (self._owner.local_experts + 1,), np.int64)

    @property
    def expert_position(self) -> Int32s:
        """int32 [rows, K]: row of each choice in the expert form, -1 where topk_idx is."""
        return self._table("expert_position", (self.rows, self._owner.topk), np.int32)

    def expert_ranges(self) -> Iterator[tuple[int, int]]:
        """(first row, row after the last) of each local expert in the expert form, without padding."""
        for begin, count in zip(self.expert_offsets.tolist(), self.tokens_per_expert.tolist(), strict=False):
            yield begin, begin + count

    def _release(self) -> None:
        if self._handle is not None:
            ffi.release(self._handle)
            self._handle = None
