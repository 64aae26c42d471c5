"""What a dispatch on a GPU gives; see moe.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .._core import ffi, lib
from ..errors import CLASSES
from .packages import Package

if TYPE_CHECKING:
    from .moe import ExpertParallel

_ArgumentError = CLASSES[lib.SHMEMX_ERR_ARGUMENT]


class Received:
    """What this PE received in one dispatch; also the handle that `combine` and ``dispatch(routing=...)``
    take. The names are those of `pyshmem.moe.Dispatched`.

    Arrays are of the package that x was of. Rows are in the order of source rank, then of the source's
    tokens.

    Attributes
    ----------
    recv_x : array
        Token form [rows, H], expert form [expert_rows, H]; BF16, or 1-byte when `quantized`. In token form it
        shows a receive buffer, unless BF16 was made of quantized rows: it stays until the results-th later
        dispatch begins, then reading this attribute raises ArgumentError, and what was read before changes.
    scales : array or None
        float32 [rows or expert_rows, groups] of quantized rows that came with scales. Same lifetime.
    topk_idx, topk_weights, source_token, source_rank, tokens_per_expert, tokens_per_source : array
        As in `Dispatched`, copied at their first use, which must come before the buffer is used again.
    by_expert, quantized : bool
        The form of recv_x.
    rows, expert_rows, tokens : int
        Rows of the token form (`capacity` where their number was not waited for), rows of the expert form
        with its padding (likewise `expert_capacity`), T of this PE's own tokens.
    counts : ndarray or None
        int32 [local experts], in host memory: choices of each; None where they were not waited for.
    rows_on_gpu : array
        int32 [1]: how many rows came. Shows the receive buffer's word.
    """

    def __init__(
        self, owner: ExpertParallel, package: Package, number: int, tokens: int, by_expert: bool,
        quantized: bool,
    ) -> None:  # fmt: skip
        self._owner, self._package, self._number = owner, package, number
        self._tables_number = number  # the dispatch that brought ids and weights
        self._kept: dict[str, Any] = {}
        self._ids: Any = None  # of this PE's own tokens
        self._weights: Any = None
        self._routing: Any = None
        self._counts: npt.NDArray[np.int32] | None = None
        self._offsets: npt.NDArray[np.int64] | None = None
        self._x: Any = None
        self._scales: Any = None
        self.by_expert, self.quantized = by_expert, quantized
        self.tokens = tokens
        self.rows: int = owner.capacity

    def __repr__(self) -> str:
        form = f"{self.expert_rows} rows by expert" if self.by_expert else f"{self.rows} rows by token"
        return f"<Received {form} on GPU{', quantized' if self.quantized else ''}>"

    def _share(self, routing: Received) -> None:
        """Takes over what an earlier dispatch knows."""
        self._tables_number, self._kept = routing._tables_number, routing._kept
        self._ids, self._weights, self._routing = routing._ids, routing._weights, routing._routing
        self._counts, self._offsets, self.rows = routing._counts, routing._offsets, routing.rows

    def _release(self) -> None:
        self._x = self._scales = None

    def _check_lives(self, number: int, what: str) -> None:
        owner = self._owner
        if owner._object.pointer == ffi.NULL:
            raise _ArgumentError(f"{what} is gone: its ExpertParallel is closed; copy it to keep it")
        if owner._dispatches - number > owner.results:
            raise _ArgumentError(
                f"{what} is gone: {owner._dispatches - number - 1} later dispatches have begun (results="
                f"{owner.results}); copy it to keep it"
            )

    def _fill(self, dtype: str, groups: int, group: int, stream: int) -> None:
        """recv_x and scales in the form that was asked for; on the dispatch's stream."""
        owner, p, i = self._owner, self._package, self._number % self._owner.results
        x = owner._view(p, i, "x", dtype)[: self.rows]
        scales = owner._view(p, i, "scales", "float32", groups)[: self.rows, :groups] if groups else None
        source = there = None
        if self.by_expert:
            source = self._expert_places()[1]
            _ = self.topk_weights  # combine multiplies by them, perhaps after the buffer is used again
        make_bf16 = scales is not None and not self.quantized
        if self._counts is None and (self.by_expert or make_bf16):
            there = self.expert_ends[-1:] if self.by_expert else self.rows_on_gpu
            _ = self.rows_on_gpu  # for a sum
        if source is not None or make_bf16:
            x = owner._gather(p, x, scales if make_bf16 else None, group, source, there, stream)
        if make_bf16:
            scales = None
        elif scales is not None and source is not None:
            scales = p.take(scales, source)
        self._x, self._scales = x, scales

    # ---- rows ----

    @property
    def recv_x(self) -> Any:
        """The received rows."""
        self._check_lives(self._number, "recv_x")
        return self._x

    @property
    def scales(self) -> Any:
        """Scales of quantized rows."""
        self._check_lives(self._number, "scales")
        return self._scales

    @property
    def rows_on_gpu(self) -> Any:
        """int32 [1]: how many rows came."""
        return self._table("rows", "int32", None)

    # ---- tables ----

    def _table(self, name: str, dtype: str, rows: int | None) -> Any:
        """A copy of one of the result's arrays, made at the first use."""
        found = self._kept.get(name)
        if found is None:
            self._check_lives(self._tables_number, name)
            view = self._owner._view(self._package, self._tables_number % self._owner.results, name, dtype)
            found = self._kept[name] = self._package.copy(view if rows is None else view[:rows])
        return found

    @property
    def topk_idx(self) -> Any:
        """int64 [rows, K]: numbers of experts within this rank; -1 for choices elsewhere, and dropped."""
        return self._table("topk_idx", "int64", self.rows)

    @property
    def topk_weights(self) -> Any:
        """float32 [rows, K], 0 where topk_idx is -1; 1 elsewhere where none were dispatched."""
        if self._weights is None and "topk_weights" not in self._kept:
            idx = self.topk_idx
            self._kept["topk_weights"] = self._package.where(
                idx >= 0, self._package.full((1, 1), 1, "float32"), self._package.full((1, 1), 0, "float32")
            )
        return self._table("topk_weights", "float32", self.rows)

    @property
    def source_token(self) -> Any:
        """int32 [rows]: its number at its source."""
        return self._table("source_token", "int32", self.rows)

    @property
    def source_rank(self) -> Any:
        """int64 [rows]: rank that the row came from; R behind the received rows."""
        found = self._kept.get("source_rank")
        if found is None:
            p = self._package
            ends = p.cumsum(self.tokens_per_source)
            found = self._kept["source_rank"] = p.search(ends, p.arange(self.rows))
        return found

    @property
    def tokens_per_expert(self) -> Any:
        """int32 [local experts], on the GPU: rows that chose it."""
        return self._table("per_expert", "int32", None)

    @property
    def tokens_per_source(self) -> Any:
        """int32 [R], on the GPU: rows from each rank."""
        return self._table("per_source", "int32", None)

    @property
    def counts(self) -> npt.NDArray[np.int32] | None:
        """int32 [local experts], in host memory; None where they were not waited for."""
        return self._counts

    # ---- expert form ----

    def _known(self, what: str) -> npt.NDArray[np.int32]:
        if self._counts is None:
            raise _ArgumentError(f"{what} needs the counts, which a dispatch with sync=True waits for")
        return self._counts

    @property
    def expert_offsets(self) -> npt.NDArray[np.int64]:
        """int64 [local experts + 1], in host memory: first row of each expert in the expert form, a multiple
        of expert_alignment."""
        if self._offsets is None:
            align = self._owner.expert_alignment
            padded = -(-self._known("expert_offsets").astype(np.int64) // align) * align
            self._offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(padded)))
        return self._offsets

    @property
    def expert_rows(self) -> int:
        """Rows of the expert form; `expert_capacity` without the counts."""
        return self._owner.expert_capacity if self._counts is None else int(self.expert_offsets[-1])

    @property
    def expert_ends(self) -> Any:
        """int32 [local experts], on the GPU, in every mode: the row behind each expert's in the expert form,
        padding included, as grouped matrix products take it. Without the counts it may pass `expert_rows`:
        then rows were left out, and `pyshmem.device.check` says so."""
        return self._expert_places()[2]

    def expert_ranges(self) -> Iterator[tuple[int, int]]:
        """(first row, row after the last) of each local expert in the expert form, without padding."""
        counts = self._known("expert_ranges").tolist()
        for begin, count in zip(self.expert_offsets.tolist(), counts, strict=False):
            yield begin, begin + count

    def _expert_places(self) -> tuple[Any, Any, Any]:
        found = self._kept.get("places")
        if found is None:
            p, owner = self._package, self._owner
            # what the host knows it need not look up in a buffer, which may be another result's by now
            counts = self.tokens_per_expert if self._counts is None else p.constant(self._counts.tolist())
            found = p.expert_places(self.topk_idx, counts, owner.expert_alignment, self.expert_rows)
            self._kept["places"] = found
        return found

    @property
    def expert_position(self) -> Any:
        """int64 [rows, K]: row of each choice in the expert form, -1 where topk_idx is."""
        return self._expert_places()[0]
