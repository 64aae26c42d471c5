"""Mixture of experts across PEs: tokens travel to the PEs that hold their experts, results travel back.

    with ExpertParallel(num_experts=8, hidden=1024, topk=2, max_tokens=512) as ep:
        got = ep.dispatch(x, gate.idx, gate.weights, by_expert=True)
        y = np.empty_like(got.recv_x)
        for e, (begin, end) in enumerate(got.expert_ranges()):
            y[begin:end] = my_experts[e](got.recv_x[begin:end])
        out = ep.combine(y, got)  # [tokens, hidden]: the weighted sum over each token's experts

Shapes: T tokens of this PE, H hidden, K choices a token, E experts in all, R ranks (members of the team).
Expert ids are 0 .. E - 1 in contiguous blocks, E // R a rank, the first E % R ranks hold one more; -1 is a
dropped choice.

Backward. Dispatch and an unweighted combine are each other's transpose: the gradient of `combine` is
``dispatch(grad_out, routing=got)``, that of `dispatch` ``combine(grad_recv, got, weighted=False)``.

Mistakes. An error of one PE is raised there, and as MismatchError naming that PE on all others; nobody hangs
and the object stays usable. Algorithm and wire format: shmemx_moe.h.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn

import ml_dtypes
import numpy as np
import numpy.typing as npt

from ._core import ffi, lib
from ._dispatched import Array, Dispatched, Float32s, Int32s, Int64s, address
from ._objects import Closable, Owned, keep, reclaim
from .errors import CLASSES, check
from .setup import ensure, state
from .team import TEAM_WORLD, Team
from .types import CData

if TYPE_CHECKING:
    from .device.moe_ll import LowLatency

__all__ = ["Dispatched", "ExpertParallel", "Layout", "LowLatency", "Stats"]


def __getattr__(name: str) -> Any:
    if name == "LowLatency":  # of GPUs alone: imported when first named
        from .device.moe_ll import LowLatency

        return LowLatency
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


Quant = Literal["none", "int8"]

_ArgumentError = CLASSES[lib.SHMEMX_ERR_ARGUMENT]
_TYPES = {
    np.dtype(np.float32): lib.SHMEMX_FLOAT32,
    np.dtype(np.float16): lib.SHMEMX_FLOAT16,
    np.dtype(ml_dtypes.bfloat16): lib.SHMEMX_BFLOAT16,
}
_IDS = {np.dtype(np.int64): lib.SHMEMX_INT64, np.dtype(np.int32): lib.SHMEMX_INT32}
_MODES = {"exchange": lib.SHMEMX_MOE_EXCHANGE, "worst_case": lib.SHMEMX_MOE_WORST_CASE}
_QUANTS = {"none": lib.SHMEMX_MOE_QUANT_NONE, "int8": lib.SHMEMX_MOE_QUANT_INT8}
_NONFINITE = {"error": lib.SHMEMX_NONFINITE_ERROR, "saturate": lib.SHMEMX_NONFINITE_SATURATE}
_GROUPS = {"row": 0, 32: 32, 64: 64, 128: 128}
_FLOAT32 = np.dtype(np.float32)


class Layout(NamedTuple):
    """Where the tokens of one PE go."""

    num_tokens_per_rank: Int32s
    """[R]: tokens that have at least one expert on that rank."""
    num_tokens_per_expert: Int32s
    """[E]: choices of each expert."""
    is_token_in_rank: npt.NDArray[np.bool_]
    """[T, R]"""


class Stats(NamedTuple):
    """What an `ExpertParallel` has moved since it was created, in bytes sent by this PE."""

    dispatches: int
    combines: int
    dispatch_bytes_remote: int
    """Whole records (hidden, scales, ids, weights, source) to other PEs."""
    dispatch_bytes_local: int
    """The same into this PE's own buffer."""
    combine_bytes_remote: int
    saturated: int
    """NaN and infinities replaced by ``nonfinite="saturate"``."""


def _pick(table: dict[Any, int], value: Any, name: str) -> int:
    try:
        return table[value]
    except (KeyError, TypeError):
        known = ", ".join(repr(key) for key in table)
        raise _ArgumentError(f"ExpertParallel: {name} is {value!r}, possible are {known}") from None


def _type_of(dtype: npt.DTypeLike) -> tuple[np.dtype[Any], int]:
    kind = np.dtype(dtype)
    if kind not in _TYPES:
        raise TypeError(f"ExpertParallel: dtype is {kind}, possible are float32, float16 and bfloat16")
    return kind, _TYPES[kind]


# ---- the object -------------------------------------------------------------------------------------------


class ExpertParallel(Closable):
    """Dispatch and combine for one set of experts spread over the PEs of a team. Collective over the world.

    Parameters
    ----------
    num_experts : int
        E, at least 1; it need not be divisible by the number of ranks.
    hidden : int
        H; H elements must be a multiple of 16 bytes.
    topk : int
        K, 1 to 32.
    max_tokens : int
        Largest number of tokens that any PE dispatches at a time.
    dtype : dtype
        float32, float16 or ml_dtypes.bfloat16: of x, y, bias and the results.
    team : Team, optional
        The ranks; by default all PEs. PEs outside pass their own team, or an invalid one; they can only
        `close`.
    quant, combine_quant : {"none", "int8"}
        How hidden travels, out and back: INT8 with a float32 scale a group, 3.6 times fewer bytes than
        float32. Rows that stay on their PE are not quantized by combine.
    group : {128, 64, 32, "row"}
        Columns a scale.
    nonfinite : {"error", "saturate"}
        What INT8 does with NaN and infinity: DataError, or 0 and the group's largest magnitude.
    mode : {"exchange", "worst_case"}
        Exchange counts first and pack rows; or no exchange and R * max_tokens row slots.
    capacity : int, optional
        Mode "exchange": rows that a rank can receive; more raise LimitError on all PEs, nothing written. By
        default R * max_tokens, which always suffices.
    expert_alignment : int
        Each expert's rows begin at a multiple of it in the expert form.
    results : int
        Results whose recv_x lives at a time, at least 1.
    device : {"cpu", "cuda"}
        "cuda": `pyshmem.device.moe.ExpertParallel`, the same on CuPy and PyTorch arrays, in the order of a
        stream; its documentation has what differs.

    Raises
    ------
    ArgumentError, TypeError
        A value is wrong here; MismatchError on the other PEs.
    MismatchError
        The PEs disagree; the message has name and values.
    NoMemoryError
        Needs heap for the worst case, committed as it is touched; SHMEM_SYMMETRIC_SIZE makes it larger.

    Attributes
    ----------
    ranks, rank : int
        R, and this PE's number in the team (-1 outside).
    first_expert, local_experts : int
        The experts of this rank.
    """

    def __new__(cls, *args: Any, device: str = "cpu", **options: Any) -> ExpertParallel:
        if device not in ("cpu", "cuda"):
            raise _ArgumentError(f"ExpertParallel: device is {device!r}, possible are 'cpu' and 'cuda'")
        if cls is ExpertParallel and device == "cuda":
            from .device.moe import ExpertParallel as OnGPU

            cls = OnGPU
        return super().__new__(cls)

    def __init__(
        self,
        num_experts: int,
        hidden: int,
        topk: int,
        max_tokens: int,
        *,
        dtype: npt.DTypeLike = np.float32,
        team: Team | None = None,
        quant: Quant = "none",
        combine_quant: Quant = "none",
        group: int | Literal["row"] = 128,
        nonfinite: Literal["error", "saturate"] = "error",
        mode: Literal["exchange", "worst_case"] = "exchange",
        capacity: int | None = None,
        expert_alignment: int = 1,
        results: int = 2,
        device: str = "cpu",
    ) -> None:
        self._object = Owned(lib.shmemx_moe_destroy)
        if not state.ready:
            ensure()
        reclaim()
        out = ffi.new("shmemx_moe_t **")
        config = ffi.new("shmemx_moe_config_t *")
        try:
            self.dtype, config.type = _type_of(dtype)
            config.team = Team(TEAM_WORLD if team is None else team).ob_team
            config.mode = _pick(_MODES, mode, "mode")
            config.quant = _pick(_QUANTS, quant, "quant")
            config.combine_quant = _pick(_QUANTS, combine_quant, "combine_quant")
            config.group = _pick(_GROUPS, group, "group")
            config.nonfinite = _pick(_NONFINITE, nonfinite, "nonfinite")
            config.hidden, config.num_experts, config.topk = hidden, num_experts, topk
            config.max_tokens, config.capacity = max_tokens, -1 if capacity == 0 else capacity or 0
            # 0 would mean the default in C
            config.expert_alignment, config.results = expert_alignment or -1, results or -1
        except Exception:
            lib.shmemx_moe_create(ffi.NULL, out)  # the others wait for this PE: they are told
            raise
        check(lib.shmemx_moe_create(config, out))
        keep(self._object, out[0])
        self._out = ffi.new("shmemx_moe_handle_t **")
        self._args = ffi.new("shmemx_moe_combine_t *")
        self._info = ffi.new("shmemx_moe_info_t *")
        self.num_experts, self.hidden, self.topk, self.max_tokens = num_experts, hidden, topk, max_tokens
        self.quant, self.combine_quant, self.group, self.mode = quant, combine_quant, group, mode
        self.results = results
        self.ranks, self.rank, self.first_expert, self.local_experts = 0, -1, 0, 0
        if config.team != ffi.cast("shmem_team_t", lib.SHMEMX_TEAM_INVALID):
            check(lib.shmemx_moe_info(out[0], self._info))
            info = self._info
            self.ranks, self.rank = info.ranks, info.rank
            self.first_expert, self.local_experts = info.first_expert, info.local_experts
        self._dispatches = 0  # that ended well
        self._row_bytes = hidden * self.dtype.itemsize
        self._scales_at = -(-hidden // 4) * 4
        self._groups = -(-hidden // (config.group or hidden))
        self._buffers: list[Array] = [np.empty(0, np.uint8) for _ in range(results)]

    def _describe(self) -> str:
        return (
            f"rank {self.rank} of {self.ranks}: {self.num_experts} experts, "
            f"hidden {self.hidden} {self.dtype}, top-{self.topk}, quant {self.quant}/{self.combine_quant}"
        )

    @property
    def stats(self) -> Stats:
        """Counters since creation."""
        info = self._info
        check(lib.shmemx_moe_info(self._moe(), info))
        return Stats(
            info.dispatches, info.combines, info.dispatch_bytes_remote, info.dispatch_bytes_local,
            info.combine_bytes_remote, info.saturated,
        )  # fmt: skip

    # ---- arguments ----

    def _refuse(self, error: Exception) -> NoReturn:
        """Tells the other PEs, who are in the same call, that this one cannot take part."""
        lib.shmemx_moe_reject(self._moe(), lib.SHMEMX_ERR_ARGUMENT)
        raise error

    def _rows(self, a: Any, call: str, name: str, write: bool = False) -> tuple[CData, int, int]:
        """(pointer, stride in bytes, rows) of an array [rows, H] of the object's dtype, elements of a row
        adjacent."""
        if not isinstance(a, np.ndarray):
            raise TypeError(f"{call}: {name} is {type(a).__name__}, not a NumPy array")
        if a.dtype != self.dtype:
            raise TypeError(f"{call}: {name} has dtype {a.dtype}, this object is for {self.dtype}")
        if a.ndim != 2 or a.shape[1] != self.hidden:
            raise _ArgumentError(f"{call}: {name} has shape {a.shape}, must be (rows, {self.hidden})")
        stride, step = a.strides
        if len(a) < 2:
            stride = self._row_bytes
        if len(a) and (step != a.itemsize or stride < self._row_bytes):
            raise _ArgumentError(
                f"{call}: {name} has strides {a.strides}; elements of a row must be adjacent, rows must not "
                "overlap"
            )
        if write and not a.flags.writeable:
            raise _ArgumentError(f"{call}: {name} (shape {a.shape}) is read-only")
        return address(a), stride, len(a)

    def _choices(self, a: Any, tokens: int | None, call: str) -> tuple[CData, int, int]:
        """(pointer, core type, tokens) of topk_idx."""
        if not isinstance(a, np.ndarray) or a.dtype not in _IDS:
            kind = a.dtype if isinstance(a, np.ndarray) else type(a).__name__
            raise TypeError(f"{call}: topk_idx is {kind}, must be an int64 or int32 array")
        if a.ndim != 2 or a.shape[1] != self.topk or (tokens is not None and len(a) != tokens):
            want = "tokens" if tokens is None else tokens
            raise _ArgumentError(f"{call}: topk_idx has shape {a.shape}, must be ({want}, {self.topk})")
        if not a.flags.c_contiguous:
            raise _ArgumentError(f"{call}: topk_idx is not contiguous: shape {a.shape}, strides {a.strides}")
        return address(a), _IDS[a.dtype], len(a)

    def _weights(self, a: Any, rows: int, call: str, name: str) -> CData:
        if a is None:
            return ffi.NULL
        if not isinstance(a, np.ndarray) or a.dtype != _FLOAT32:
            kind = a.dtype if isinstance(a, np.ndarray) else type(a).__name__
            raise TypeError(f"{call}: {name} is {kind}, must be a float32 array")
        if a.shape != (rows, self.topk):
            raise _ArgumentError(f"{call}: {name} has shape {a.shape}, must be ({rows}, {self.topk})")
        if not a.flags.c_contiguous:
            raise _ArgumentError(f"{call}: {name} is not contiguous: shape {a.shape}, strides {a.strides}")
        return address(a)

    # ---- layout ----

    def layout(self, topk_idx: Int64s | Int32s) -> Layout:
        """Where these tokens would go. Local.

        Parameters
        ----------
        topk_idx : ndarray
            int64 or int32 [T, K], C-contiguous, -1 = dropped.

        Raises
        ------
        ArgumentError, TypeError
            Wrong shape or dtype, or an id out of range; the message has its place and value.
        """
        moe = self._moe()
        pointer, kind, tokens = self._choices(topk_idx, None, "layout")
        per_rank, per_expert = np.empty(self.ranks, np.int32), np.empty(self.num_experts, np.int32)
        inside = np.empty((tokens, self.ranks), np.bool_)
        check(
            lib.shmemx_moe_layout(
                moe, pointer, kind, tokens, ffi.cast("int32_t *", address(per_rank)),
                ffi.cast("int32_t *", address(per_expert)), ffi.cast("uint8_t *", address(inside)),
            )
        )  # fmt: skip
        return Layout(per_rank, per_expert, inside)

    # ---- dispatch ----

    def dispatch(
        self,
        x: Array,
        topk_idx: Int64s | Int32s | None = None,
        topk_weights: Float32s | None = None,
        *,
        routing: Dispatched | None = None,
        by_expert: bool = False,
        quantized: bool = False,
    ) -> Dispatched:
        """Sends each token's row once to every rank that holds one of its experts. Collective over the team.

        Parameters
        ----------
        x : ndarray
            [T, H] of the object's dtype, 0 <= T <= max_tokens; rows may be strided. Reusable on return.
        topk_idx : ndarray
            int64 or int32 [T, K], C-contiguous, -1 = dropped. Not with `routing`.
        topk_weights : ndarray, optional
            float32 [T, K], C-contiguous; by default all 1. Not with `routing`.
        routing : Dispatched, optional
            An earlier result of this object, whose routing is used again: only hidden travels.
        by_expert : bool
            The expert form: one row for each choice, grouped by expert; else one row for each token.
        quantized : bool
            With quant="int8": int8 rows and scales as they arrive, instead of rows of the object's dtype.

        Raises
        ------
        ArgumentError, TypeError
            On the PE whose argument is wrong; MismatchError on the others.
        LimitError
            A rank would receive more rows than `capacity`; on all PEs.
        DataError
            NaN or infinity with INT8 and nonfinite="error".
        PeerDeadError, TimeoutError
            A PE does not come; the object is of no use any more.
        """
        moe = self._moe()
        try:
            pointer, stride, tokens = self._rows(x, "dispatch", "x")
            ids, kind, weights = ffi.NULL, 0, ffi.NULL
            if routing is None:
                ids, kind, _ = self._choices(topk_idx, tokens, "dispatch")
                weights = ffi.cast("float *", self._weights(topk_weights, tokens, "dispatch", "topk_weights"))
            elif not isinstance(routing, Dispatched):
                raise TypeError(f"dispatch: routing is {type(routing).__name__}, not a result of dispatch")
            elif routing._owner is not self:
                raise _ArgumentError("dispatch: routing is a result of another ExpertParallel")
            elif topk_idx is not None or topk_weights is not None:
                raise _ArgumentError("dispatch: topk_idx and topk_weights come from routing, both were given")
            if quantized and self.quant != "int8":
                raise _ArgumentError("dispatch: quantized rows asked of an object with quant='none'")
        except Exception as error:
            self._refuse(error)
        if routing is None:
            code = lib.shmemx_moe_dispatch(moe, pointer, stride, tokens, ids, kind, weights, self._out)
        else:
            code = lib.shmemx_moe_dispatch_cached(moe, routing._handle, pointer, stride, tokens, self._out)
        check(code)
        self._dispatches += 1
        got = Dispatched(self, self._out[0], self._dispatches, by_expert, quantized)
        self._object.results.add(got)
        self._count(got)
        self._fill(got)
        return got

    def _count(self, got: Dispatched) -> None:
        info = self._info
        remote, local = info.dispatch_bytes_remote, info.dispatch_bytes_local
        check(lib.shmemx_moe_info(self._object.pointer, info))
        got.bytes_remote = info.dispatch_bytes_remote - remote
        got.bytes_local = info.dispatch_bytes_local - local

    def _buffer(self, number: int, nbytes: int) -> Array:
        """Private memory for the rows of a dispatch, which live as long as its receive buffer."""
        slot = number % self.results
        if self._buffers[slot].nbytes < nbytes:
            # Kept from dispatch to dispatch: fresh pages would cost as much as filling them.
            self._buffers[slot] = np.empty(nbytes + nbytes // 4, np.uint8)
        return self._buffers[slot]

    def _fill(self, got: Dispatched) -> None:
        """recv_x and scales in the form that was asked for."""
        hidden, view = self.hidden, got._view
        if not got.by_expert and (got.quantized or self.quant == "none"):
            # The receive buffer itself.
            memory = ffi.buffer(ffi.cast("char *", view.x), got.rows * view.stride)
            dtype = np.dtype(np.int8) if got.quantized else self.dtype
            got._x = np.ndarray((got.rows, hidden), dtype, memory, 0, (view.stride, dtype.itemsize))
            if got.quantized:
                strides = (view.stride, 4)
                at = self._scales_at if got.rows else 0
                got._scales = np.ndarray((got.rows, self._groups), np.float32, memory, at, strides)
            return
        rows = got.expert_rows if got.by_expert else got.rows
        if not got.quantized:
            memory = self._buffer(got._number, rows * self._row_bytes)
            got._x = np.ndarray((rows, hidden), self.dtype, memory)
            stride = self._row_bytes
            if got.by_expert:
                check(lib.shmemx_moe_expert_rows(got._handle, 0, address(got._x), stride, ffi.NULL, 0))
            else:
                check(lib.shmemx_moe_rows(got._handle, address(got._x), stride))
            return
        values = -(-rows * hidden // 64) * 64
        memory = self._buffer(got._number, values + rows * self._groups * 4)
        got._x = np.ndarray((rows, hidden), np.int8, memory)
        got._scales = np.ndarray((rows, self._groups), np.float32, memory, values)
        scales = ffi.cast("float *", address(got._scales))
        stride = self._groups * 4
        check(lib.shmemx_moe_expert_rows(got._handle, 1, address(got._x), hidden, scales, stride))

    # ---- combine ----

    def combine(
        self,
        y: Array,
        got: Dispatched,
        *,
        weighted: bool | None = None,
        topk_weights: Float32s | None = None,
        bias: Array | None = None,
        out: Array | None = None,
    ) -> Any:
        """Sends the rows that the experts made back, and adds up what belongs to each token. Collective over
        the team.

        One row travels for each (token, rank) pair. The sum over ranks is taken in float32, in rank order,
        and rounded once; in expert form a token's rows on one rank are added in float32 before they travel.
        So are, on CPUs, those of the ranks of another node: one row comes from there.

        Parameters
        ----------
        y : ndarray
            Of the object's dtype: [rows, H] for a result in token form, [expert_rows, H] in expert form; rows
            may be strided. Padding and empty slots are ignored.
        got : Dispatched
            What dispatch gave.
        weighted : bool, optional
            Multiply by the dispatched weights: each choice's row by its own, in token form the row by the sum
            of the token's weights on that rank. By default True in expert form, False in token form.
        topk_weights : ndarray, optional
            float32 [rows, K], sent back with the rows (a gradient of the weights); on all PEs or on none.
        bias : ndarray, optional
            [T, H] to add to the sum.
        out : ndarray, optional
            [T, H] for the result; it may not overlap y or bias. Fresh memory costs about as much as the sum.

        Returns
        -------
        ndarray or tuple
            [T, H]; tokens that went nowhere are 0 (or the bias). With topk_weights also float32 [T, K]: what
            came back for each choice, 0 for dropped ones.

        Raises
        ------
        ArgumentError, TypeError, MismatchError, DataError, PeerDeadError, TimeoutError
            As `dispatch`.
        """
        moe, args = self._moe(), self._args
        try:
            if not isinstance(got, Dispatched):
                raise TypeError(f"combine: got is {type(got).__name__}, not a result of dispatch")
            if got._owner is not self:
                raise _ArgumentError("combine: got is a result of another ExpertParallel")
            args.y, args.y_stride, args.y_rows = self._rows(y, "combine", "y")
            want = got.expert_rows if got.by_expert else got.rows
            if args.y_rows != want:
                form = "expert" if got.by_expert else "token"
                raise _ArgumentError(f"combine: y has {args.y_rows} rows, the {form} form of got has {want}")
            args.by_expert = got.by_expert
            args.weighted = got.by_expert if weighted is None else bool(weighted)
            weights = self._weights(topk_weights, got.rows, "combine", "topk_weights")
            args.topk_weights = ffi.cast("float *", weights)
            args.bias = ffi.NULL
            if bias is not None:
                args.bias, args.bias_stride, rows = self._rows(bias, "combine", "bias")
                self._same_tokens(rows, got, "bias")
            if out is None:
                out = np.empty((got.tokens, self.hidden), self.dtype)
            args.out, args.out_stride, rows = self._rows(out, "combine", "out", write=True)
            self._same_tokens(rows, got, "out")
            returned = None if topk_weights is None else np.empty((got.tokens, self.topk), np.float32)
            args.out_weights = ffi.NULL if returned is None else ffi.cast("float *", address(returned))
        except Exception as error:
            self._refuse(error)
        check(lib.shmemx_moe_combine(moe, got._handle, args))
        return out if returned is None else (out, returned)

    @staticmethod
    def _same_tokens(rows: int, got: Dispatched, name: str) -> None:
        if rows != got.tokens:
            raise _ArgumentError(f"combine: {name} has {rows} rows, this PE dispatched {got.tokens} tokens")
