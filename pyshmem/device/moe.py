"""Dispatch and combine on GPUs: `pyshmem.moe.ExpertParallel` with ``device="cuda"``. C: shmemx_moe_gpu.h.

    ep = pyshmem.moe.ExpertParallel(256, 7168, 8, 4096, quant="fp8", device="cuda")
    got = ep.dispatch(x, topk_idx, topk_weights, by_expert=True)    # tensors of PyTorch, or arrays of CuPy
    y = torch.empty_like(got.recv_x)
    for e, (begin, end) in enumerate(got.expert_ranges()):
        y[begin:end] = my_experts[e](got.recv_x[begin:end])
    out = ep.combine(y, got)

Calls happen in the order of a stream; nothing is copied on the way in or out, results are views of the
receive buffers. For small batches there is `pyshmem.device.moe_ll`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from .. import moe as on_cpu
from .._core import ffi, lib
from .._objects import Owned, keep, reclaim
from ..errors import CLASSES, check
from ..setup import ensure, state
from ..team import TEAM_WORLD, Team
from ..types import CData
from . import arrays
from ._moe_args import GROUPS, ONE_BYTE, SIZES, Args, pick, void
from ._received import Received
from .packages import Package

__all__ = ["ExpertParallel", "Layout", "Received", "Stats"]

_ArgumentError = CLASSES[lib.SHMEMX_ERR_ARGUMENT]
_FORMATS = {"none": lib.SHMEMX_MOE_GPU_BF16, "int8": lib.SHMEMX_MOE_GPU_INT8, "fp8": lib.SHMEMX_MOE_GPU_FP8}
_BACK = {"none": lib.SHMEMX_MOE_GPU_BF16, "int8": lib.SHMEMX_MOE_GPU_INT8}
_SENT = {lib.SHMEMX_MOE_GPU_BF16: "bfloat16", lib.SHMEMX_MOE_GPU_INT8: "int8",
         lib.SHMEMX_MOE_GPU_FP8: "float8_e4m3fn"}  # fmt: skip


class Layout(NamedTuple):
    """Where the tokens of one PE go; arrays of the package of topk_idx."""

    num_tokens_per_rank: Any
    """int32 [R]: tokens that have at least one expert on that rank."""
    num_tokens_per_expert: Any
    """int32 [E]: choices of each expert."""
    is_token_in_rank: Any
    """bool [T, R]"""
    routing: Any
    """uint8: the same as `ExpertParallel.dispatch` takes it as `layout`, which saves it this work."""


class Stats(NamedTuple):
    """What an `ExpertParallel` on a GPU has done since it was created. Bytes are not counted: only the GPU
    knows them."""

    dispatches: int
    combines: int
    heap_bytes: int
    """Of the GPU heap, on each PE."""


class ExpertParallel(on_cpu.ExpertParallel):
    """As `pyshmem.moe.ExpertParallel`, on arrays of CuPy or PyTorch; made by it with ``device="cuda"``.

    What differs:

    - dtype is bfloat16. x, y, bias and out are BF16 arrays of one package on the GPU of this PE's heap, their
      rows 16-byte aligned; ids, weights and all that comes back are arrays of that package too.
    - Calls happen in the order of a stream: `stream`, or the package's current one. They return at once, but
      for a dispatch with ``sync=True``, which waits until it is known how many rows come (not for the rows).
    - quant may be "fp8" (E4M3, scale = amax / 448); combine_quant "none" or "int8".
    - Arguments that one PE finds wrong raise there, before anything is launched; the other PEs, if their call
      was right, meet their deadline. What kernels find (ids out of range, more rows than `capacity`, a
      deadline) is raised by `pyshmem.device.check` and `pyshmem.device.synchronize`, and by calls on streams
      that are not of MoE: `dispatch` and `combine` go on, since the other PEs wait for them. With
      ``sync=True`` a dispatch raises what made it fail: too many rows, a deadline, PEs in different calls.
    - Rows that are received lie packed in every mode; with ``mode="worst_case"``, or ``sync=False`` in a
      dispatch, their number stays on the GPU: arrays have `capacity` rows, and topk_idx is -1 in all behind
      the received ones. These calls can be captured in CUDA graphs.
    - NaN and infinity are saturated by INT8.

    Parameters
    ----------
    num_experts, hidden, topk, max_tokens, team, quant, combine_quant, group, mode, capacity, results
        As there; hidden is a multiple of 8, of 16 where rows travel as 1-byte; results 1 to 64.
    expert_alignment : int
        As there.
    num_sms : int, optional
        Thread blocks of a launch, one an SM; by default the library's choice. `blocks` in a call goes before.
    pes_per_node : int, optional
        Ranks 0 to pes_per_node - 1 are the first node, and so on; by default as many as share one. Between
        nodes a token is sent once to each node that has one of its experts, and forwarded there.
    max_nodes : int, optional
        Nodes that a token may go to; one that goes to more is reported by `pyshmem.device.check`, and sent
        all the same. By default any number.
    expert_capacity : int, optional
        Rows of the expert form where their number is not waited for (``sync=False``), padding included. By
        default what any routing needs, which is much: some K times `capacity`. Choices that find no room are
        left out, and `pyshmem.device.check` raises LimitError.

    Raises
    ------
    ArgumentError, TypeError, MismatchError, NoMemoryError
        As there; UnsupportedError where there is no GPU. SHMEM_DEVICE_SYMMETRIC_SIZE makes the heap larger.
    """

    def __init__(
        self,
        num_experts: int,
        hidden: int,
        topk: int,
        max_tokens: int,
        *,
        dtype: Any = "bfloat16",
        team: Team | None = None,
        quant: Literal["none", "int8", "fp8"] = "none",
        combine_quant: Literal["none", "int8"] = "none",
        group: int | Literal["row"] = 128,
        nonfinite: Literal["saturate"] = "saturate",
        mode: Literal["exchange", "worst_case"] = "exchange",
        capacity: int | None = None,
        expert_alignment: int = 1,
        results: int = 2,
        num_sms: int = 0,
        pes_per_node: int | None = None,
        max_nodes: int | None = None,
        expert_capacity: int | None = None,
        device: str = "cuda",
    ) -> None:
        self._object = Owned(lib.shmemx_moe_gpu_destroy, arrays.finish_kernels)
        if not state.ready:
            ensure()
        reclaim()
        out = ffi.new("shmemx_moe_gpu_t **")
        config = ffi.new("shmemx_moe_gpu_config_t *")
        who = "ExpertParallel"
        try:
            if getattr(dtype, "__name__", str(dtype).removeprefix("torch.")) != "bfloat16":
                raise TypeError(f"{who}: dtype is {dtype}, on GPUs it is bfloat16")
            if nonfinite != "saturate":
                raise _ArgumentError(f"{who}: nonfinite is {nonfinite!r}, on GPUs it is 'saturate'")
            if mode not in ("exchange", "worst_case"):
                raise _ArgumentError(f"{who}: mode is {mode!r}, possible are 'exchange' and 'worst_case'")
            if expert_alignment < 1:
                raise _ArgumentError(f"{who}: expert_alignment is {expert_alignment}, must be at least 1")
            if expert_capacity is not None and expert_capacity < 1:
                raise _ArgumentError(f"{who}: expert_capacity is {expert_capacity}, must be at least 1")
            config.team = Team(TEAM_WORLD if team is None else team).ob_team
            self._format = pick(_FORMATS, quant, who, "quant")
            self._back = pick(_BACK, combine_quant, who, "combine_quant")
            self._group = pick(GROUPS, group, who, "group")
            config.group = self._group or 128
            config.hidden, config.num_experts, config.topk = hidden, num_experts, topk
            config.max_tokens, config.capacity = max_tokens, -1 if capacity == 0 else capacity or 0
            # 0 would mean the default in C
            config.results = results or -1
            config.pes_per_node = -1 if pes_per_node == 0 else pes_per_node or 0
            config.max_nodes = -1 if max_nodes == 0 else max_nodes or 0
        except Exception:
            lib.shmemx_moe_gpu_create(ffi.NULL, out)  # the others wait for this PE: they are told
            raise
        check(lib.shmemx_moe_gpu_create(config, out))
        keep(self._object, out[0])
        arrays.adopt_device()
        self.num_experts, self.hidden, self.topk, self.max_tokens = num_experts, hidden, topk, max_tokens
        self.quant, self.combine_quant, self.group, self.mode = quant, combine_quant, group, mode  # type: ignore[assignment]
        self.dtype: Any = dtype
        self.results, self.expert_alignment, self.num_sms = results, expert_alignment, num_sms
        self.ranks, self.rank, self.first_expert, self.local_experts, self.capacity = 0, -1, 0, 0, 0
        self.expert_capacity = 0
        self.nodes, self.pes_per_node, self.max_nodes = 0, 0, max_nodes
        self._views: dict[tuple[str, int, str, str], Any] = {}
        self._places: list[CData] = []
        self._dispatches = self._combines = 0
        self._heap_bytes = 0
        self._groups = -(-hidden // (self._group or hidden))
        if config.team == ffi.cast("shmem_team_t", lib.SHMEMX_TEAM_INVALID):
            return
        info = ffi.new("shmemx_moe_gpu_info_t *")
        check(lib.shmemx_moe_gpu_info(out[0], info))
        self.ranks, self.rank, self.capacity = info.ranks, info.rank, info.capacity
        self.first_expert, self.local_experts = info.first_expert, info.local_experts
        self.nodes, self.pes_per_node = info.nodes, info.pes_per_node
        self._heap_bytes = info.heap_bytes
        self.num_sms = num_sms or info.blocks
        most = self.capacity * min(topk, self.local_experts) + self.local_experts * (expert_alignment - 1)
        self.expert_capacity = min(expert_capacity or most, most)
        for i in range(results):
            place = ffi.new("shmemx_moe_gpu_result_t *")
            check(lib.shmemx_moe_gpu_result(out[0], i, place))
            self._places.append(place)

    def close(self) -> None:
        """Frees the heap memory once this PE's GPU is idle; results end. Collective over the world."""
        self._views.clear()
        super().close()

    @property
    def stats(self) -> Stats:  # type: ignore[override]
        """Counters since creation."""
        self._moe()
        return Stats(self._dispatches, self._combines, self._heap_bytes)

    # ---- memory ----

    def _view(self, package: Package, i: int, name: str, dtype: str, groups: int = 0) -> Any:
        """All rows of an array of result i."""
        key = package.name, i, name, f"{dtype}{groups}"
        found = self._views.get(key)
        if found is None:
            found = self._views[key] = self._over(package, i, name, dtype, groups, self._object)
        return found

    def _over(self, package: Package, i: int, name: str, dtype: str, groups: int, owner: Any) -> Any:
        """The same, made now and kept by `owner`."""
        rows: dict[str, tuple[int, ...]] = {
            "x": (self.hidden,), "scales": (-(-groups // 4) * 4,), "topk_idx": (self.topk,),
            "topk_weights": (self.topk,), "source_token": (),
        }  # fmt: skip
        others = {"rows": 1, "per_expert": self.local_experts, "per_source": self.ranks}
        shape = (self.capacity, *rows[name]) if name in rows else (others[name],)
        address = int(ffi.cast("uintptr_t", getattr(self._places[i], name)))
        return package.over(address, shape, dtype, owner)

    # ---- layout ----

    def layout(self, topk_idx: Any, *, stream: Any = None) -> Layout:  # type: ignore[override]
        """Where these tokens go. Local, in the order of the stream.

        Parameters
        ----------
        topk_idx : array
            int64 or int32 [T, K], -1 = dropped; ids out of range are reported later and taken as -1.
        """
        moe, args = self._moe(), Args("layout", topk_idx, "topk_idx")
        pointer, kind, tokens = args.choices(topk_idx, None, self.topk)
        self._few(tokens, "layout", "topk_idx")
        p = args.package
        with p.on(stream) as handle:
            found = Layout(
                p.empty((self.ranks,), "int32"), p.empty((self.num_experts,), "int32"),
                p.empty((tokens, self.ranks), "bool"), self._routing(p, tokens),
            )  # fmt: skip
            each = [void(p.describe(a).address) for a in found]
            check(
                lib.shmemx_moe_gpu_layout(
                    moe, pointer, kind, tokens, each[3], ffi.cast("int32_t *", each[0]),
                    ffi.cast("int32_t *", each[1]), ffi.cast("uint8_t *", each[2]), void(handle),
                )
            )  # fmt: skip
        return found

    def _few(self, tokens: int, call: str, name: str) -> None:
        if tokens > self.max_tokens:
            raise _ArgumentError(f"{call}: {name} has {tokens} rows, max_tokens is {self.max_tokens}")

    def _routing(self, package: Package, tokens: int) -> Any:
        nbytes = lib.shmemx_moe_gpu_routing_bytes(self._moe(), tokens)
        if nbytes < 0:
            check(nbytes)
        return package.empty((max(int(nbytes), 16),), "uint8")

    # ---- dispatch ----

    def dispatch(  # type: ignore[override]
        self,
        x: Any,
        topk_idx: Any = None,
        topk_weights: Any = None,
        *,
        routing: Received | None = None,
        by_expert: bool = False,
        quantized: bool = False,
        sync: bool | None = None,
        layout: Layout | None = None,
        quant: Literal["none", "int8", "fp8"] | None = None,
        stream: Any = None,
        blocks: int = 0,
    ) -> Received:
        """Sends each token's row once to every rank that holds one of its experts. Collective over the team.

        Parameters
        ----------
        x : array or (array, array)
            BF16 [T, H], 0 <= T <= max_tokens; rows may be strided. Or rows that are quantized already: 1-byte
            [T, H] and their float32 scales [T, G] (any strides; None: no scales), which arrive as they are.
        topk_idx : array
            int64 or int32 [T, K], contiguous, -1 = dropped. Not with `routing`.
        topk_weights : array, optional
            float32 [T, K]; by default all 1. Not with `routing`.
        routing : Received, optional
            An earlier result of this object, whose routing is used again: only hidden travels.
        by_expert : bool
            The expert form; without the counts its arrays have `expert_capacity` rows, and `expert_ends` says
            which count.
        quantized : bool
            With quant: 1-byte rows and scales as they arrive, instead of BF16. Rows given quantized always
            arrive so.
        sync : bool, optional
            Whether to wait for the number of rows; by default True but with ``mode="worst_case"``. With
            False, arrays have `capacity` rows, and nothing waits. Ignored with `routing`, whose rows are
            known or not already.
        layout : Layout, optional
            What `layout` gave for topk_idx.
        quant : {"none", "int8", "fp8"}, optional
            For this call, by default the object's; on all PEs alike.
        stream : stream, optional
            Where it happens, as `pyshmem.device.stream` takes it; by default the package's current one.
        blocks : int
            Thread blocks, one an SM; 0 = num_sms.

        Notes
        -----
        topk_idx and topk_weights are kept, and read again by a weighted combine in token form.
        """
        return self._send(
            x, topk_idx, topk_weights, routing, by_expert, quantized, sync, layout, quant, stream, blocks
        )

    def _send(
        self, x: Any, topk_idx: Any, topk_weights: Any, routing: Received | None, by_expert: bool,
        quantized: bool, sync: bool | None, layout: Layout | None, quant: str | None, stream: Any,
        blocks: int, place: int | None = None,
    ) -> Received:  # fmt: skip
        """`dispatch`. With `place`, into that receive buffer; who says so keeps account of the buffers, and
        of the arrays over them (`_over`): recv_x is not made."""
        moe = self._moe()
        rows, scales = x if isinstance(x, tuple) else (x, None)
        args, call = Args("dispatch", rows, "x"), ffi.new("shmemx_moe_gpu_dispatch_t *")
        p = args.package
        given = isinstance(x, tuple)
        form = self._format if quant is None else pick(_FORMATS, quant, "dispatch", "quant")
        if (given or form) and self.hidden % 16:
            raise _ArgumentError(f"dispatch: 1-byte rows want hidden % 16 = 0, hidden is {self.hidden}")
        sent, groups = self._payload(args, call, rows, scales, given, form)
        quantized = quantized or given
        if quantized and not given and not form:
            raise _ArgumentError("dispatch: quantized rows asked for with quant='none'")
        tokens = call.tokens
        sync = self.mode == "exchange" if sync is None else sync
        if routing is None:
            call.topk_idx, call.idx_type, _ = args.choices(topk_idx, tokens, self.topk)
            call.topk_weights = args.weights(topk_weights, tokens, self.topk)
        else:
            self._check_routing(routing, topk_idx, topk_weights, tokens)
            sync = routing._counts is not None
        number = self._dispatches
        call.result, call.cached = number % self.results if place is None else place, routing is not None
        call.worst_case = routing is None and not sync
        call.blocks = blocks or self.num_sms
        with p.on(stream) as handle:
            got = Received(self, p, number, tokens, by_expert, quantized)
            if routing is None:
                got._ids, got._weights = topk_idx, topk_weights
                got._routing = self._route(args, call, layout, tokens, handle)
            else:
                got._share(routing)
            call.routing = void(p.describe(got._routing).address)
            check(lib.shmemx_moe_gpu_dispatch(moe, call, void(handle)))
            self._dispatches += 1
            self._object.results.add(got)
            if routing is None and sync:
                got._counts = self._wait_counts(call.result, got)
            if place is None:
                got._fill(sent, groups, self._group or self.hidden, handle)
        return got

    def _payload(
        self, args: Args, call: CData, rows: Any, scales: Any, given: bool, form: int
    ) -> tuple[str, int]:  # fmt: skip
        """Fills in what is sent; (dtype of a row on arrival, scales of a row)."""
        if not given:
            call.x, call.x_stride, call.tokens = args.rows(rows, "x", self.hidden, most=self.max_tokens)
            call.format, call.group = form, self._group
            return _SENT[form], self._groups if form else 0
        call.x, call.x_stride, call.tokens = args.rows(
            rows, "x[0]", self.hidden, ONE_BYTE, most=self.max_tokens
        )
        call.format, groups = lib.SHMEMX_MOE_GPU_BYTES, 0
        if scales is not None:
            g = args.given(scales, "x[1]", ("float32",))
            if len(g.shape) != 2 or g.shape[0] != call.tokens or not 0 < g.shape[1] <= -(-self.hidden // 32):
                raise _ArgumentError(
                    f"dispatch: x[1] has shape {g.shape}, must be ({call.tokens}, number of scales of a row)"
                )
            groups = g.shape[1]
            call.x_scales = ffi.cast("float *", g.address)
            call.x_scales_stride = g.strides[0] if call.tokens > 1 else 4 * groups
            call.x_scales_column_stride, call.x_groups = g.strides[1] if groups > 1 else 4, groups
        return args.package.describe(rows).dtype, groups

    def _check_routing(self, routing: Any, topk_idx: Any, topk_weights: Any, tokens: int) -> None:
        if not isinstance(routing, Received):
            raise TypeError(f"dispatch: routing is {type(routing).__name__}, not a result of dispatch")
        if routing._owner is not self:
            raise _ArgumentError("dispatch: routing is a result of another ExpertParallel")
        if topk_idx is not None or topk_weights is not None:
            raise _ArgumentError("dispatch: topk_idx and topk_weights come from routing, both were given")
        if routing.tokens != tokens:
            raise _ArgumentError(f"dispatch: x has {tokens} rows, routing is of {routing.tokens} tokens")

    def _route(self, args: Args, call: CData, layout: Layout | None, tokens: int, handle: int) -> Any:
        """The routing of these tokens: the layout's, or made now."""
        if layout is not None:
            if not isinstance(layout, Layout) or args.package.describe(layout.is_token_in_rank).shape != (
                tokens,
                self.ranks,
            ):
                raise _ArgumentError("dispatch: layout is not what `layout` gave for these tokens")
            return layout.routing
        made = self._routing(args.package, tokens)
        check(
            lib.shmemx_moe_gpu_layout(
                self._moe(), call.topk_idx, call.idx_type, tokens, void(args.package.describe(made).address),
                ffi.NULL, ffi.NULL, ffi.NULL, void(handle),
            )
        )  # fmt: skip
        return made

    def _wait_counts(self, result: int, got: Received) -> Any:
        rows, counts = ffi.new("int64_t *"), np.zeros(max(self.local_experts, 1), np.int32)
        pointer = ffi.cast("int32_t *", ffi.from_buffer(counts))
        check(lib.shmemx_moe_gpu_counts(self._moe(), result, rows, pointer))
        got.rows = rows[0]
        return counts[: self.local_experts]

    def _gather(
        self, p: Package, x: Any, scales: Any, group: int, source: Any, there: Any, handle: int
    ) -> Any:  # fmt: skip
        """Rows of x as `source` [rows] int64 names them, zeros for -1 (without source all as they are); BF16
        made of them if there are scales. With `there`, int32 on the GPU, only so many."""
        given = p.describe(x)
        rows = given.shape[0] if source is None else p.describe(source).shape[0]
        call = ffi.new("shmemx_moe_gpu_gather_t *")
        out = p.empty((rows, self.hidden), given.dtype if scales is None else "bfloat16")
        call.rows, call.x, call.out = rows, void(given.address), void(p.describe(out).address)
        call.format = lib.SHMEMX_MOE_GPU_BF16 if SIZES[given.dtype] == 2 else lib.SHMEMX_MOE_GPU_BYTES
        if scales is not None:
            s = p.describe(scales)
            # CuPy has FP8 as uint8
            call.format = lib.SHMEMX_MOE_GPU_INT8 if given.dtype == "int8" else lib.SHMEMX_MOE_GPU_FP8
            call.scales, call.scales_stride = ffi.cast("float *", s.address), s.strides[0]
            call.group = min(group, self.hidden)
        if source is not None:
            call.source = ffi.cast("int64_t *", p.describe(source).address)
        if there is not None:
            call.rows_on_gpu = ffi.cast("int32_t *", p.describe(there).address)
        check(lib.shmemx_moe_gpu_gather(self._moe(), call, void(handle)))
        return out

    def _sum(self, p: Package, combine: CData, got: Received, weighted: bool, handle: int) -> Any:
        """BF16 [rows, H] of the experts' rows that `combine` names: for each received row the sum of its
        choices', each times its weight if there are weights."""
        call, out = ffi.new("shmemx_moe_gpu_sum_t *"), p.empty((got.rows, self.hidden), "bfloat16")
        call.rows, call.y, call.y_stride = got.rows, combine.y, combine.y_stride
        call.position = ffi.cast("int64_t *", p.describe(got.expert_position).address)
        if weighted:
            call.weights = ffi.cast("float *", p.describe(got.topk_weights).address)
        if got.counts is None:
            call.rows_on_gpu = ffi.cast("int32_t *", p.describe(got.rows_on_gpu).address)
        call.out = void(p.describe(out).address)
        check(lib.shmemx_moe_gpu_sum(self._moe(), call, void(handle)))
        return out

    # ---- combine ----

    def combine(  # type: ignore[override]
        self,
        y: Any,
        got: Received,
        *,
        weighted: bool | None = None,
        topk_weights: Any = None,
        bias: Any = None,
        out: Any = None,
        quant: Literal["none", "int8"] | None = None,
        stream: Any = None,
        blocks: int = 0,
    ) -> Any:
        """Sends the rows that the experts made back, and adds up what belongs to each token. Collective over
        the team.

        Parameters
        ----------
        y : array
            BF16: [rows, H] for a result in token form, [expert_rows, H] in expert form; rows may be strided.
        got : Received
            What dispatch gave.
        weighted : bool, optional
            Multiply by the dispatched weights: each choice's row by its own, in token form the row by the sum
            of the token's weights on that rank. By default True in expert form, False in token form.
        topk_weights : array, optional
            float32 [rows, K], sent back with the rows (a gradient of the weights); on all PEs or on none.
        bias : array or two of them, optional
            BF16 [T, H], added to the sum.
        out : array, optional
            BF16 [T, H] for the result; rows may be strided.
        quant : {"none", "int8"}, optional
            For this call, by default the object's combine_quant; on all PEs alike.
        stream, blocks
            As in `dispatch`.

        Returns
        -------
        array or tuple
            [T, H]; with topk_weights also float32 [T, K]: what came back for each choice, 0 for dropped ones.
        """
        moe = self._moe()
        args, call = Args("combine", y, "y"), ffi.new("shmemx_moe_gpu_combine_t *")
        if not isinstance(got, Received):
            raise TypeError(f"combine: got is {type(got).__name__}, not a result of dispatch")
        if got._owner is not self:
            raise _ArgumentError("combine: got is a result of another ExpertParallel")
        p = args.package
        if p is not got._package:
            raise TypeError(f"combine: y is an array of {p.name}, got is of {got._package.name}")
        weighted = got.by_expert if weighted is None else bool(weighted)
        call.y, call.y_stride, _ = args.rows(
            y, "y", self.hidden, rows=got.expert_rows if got.by_expert else got.rows
        )
        call.tokens, call.group = got.tokens, self._group
        call.format = self._back if quant is None else pick(_BACK, quant, "combine", "quant")
        call.weights = args.weights(topk_weights, got.rows, self.topk)
        biases: Sequence[Any] = () if bias is None else bias if isinstance(bias, (tuple, list)) else (bias,)
        if len(biases) > 2:
            raise _ArgumentError(f"combine: {len(biases)} biases, there may be 2")
        for i, one in enumerate(b for b in biases if b is not None):
            pointer, stride, _ = args.rows(one, "bias", self.hidden, rows=got.tokens)
            if got.tokens and stride != 2 * self.hidden:
                raise _ArgumentError(f"combine: bias has rows {stride} bytes apart, they must have no gaps")
            call.bias[i] = pointer
        if out is not None:
            call.out, call.out_stride, _ = args.rows(out, "out", self.hidden, rows=got.tokens)
        call.blocks = blocks or self.num_sms
        with p.on(stream) as handle:
            if out is None:
                out = p.empty((got.tokens, self.hidden), "bfloat16")
                call.out = void(p.describe(out).address)
            if got.by_expert:
                y = self._sum(p, call, got, weighted, handle)
                call.y, call.y_stride, _ = args.rows(y, "y", self.hidden, rows=got.rows)
            elif weighted:
                if got._weights is None:
                    got._weights = p.full((got.tokens, self.topk), 1, "float32")
                call.topk_weights = args.weights(got._weights, got.tokens, self.topk)
                call.topk_idx, call.idx_type, _ = args.choices(got._ids, got.tokens, self.topk)
            call.routing = void(p.describe(got._routing).address)
            if call.tokens == 0 and weighted and not got.by_expert:
                # An array without elements has no address, but this PE may add other nodes' rows.
                call.topk_weights = ffi.cast("float *", call.routing)
            returned = None
            if topk_weights is not None:
                returned = p.empty((got.tokens, self.topk), "float32")
                call.out_weights = ffi.cast("float *", p.describe(returned).address)
                if got.rows == 0:  # an array without elements has no address, but weights are sent back
                    call.weights = ffi.cast("float *", call.routing)
            check(lib.shmemx_moe_gpu_combine(moe, call, void(handle)))
            self._combines += 1
        return out if returned is None else (out, returned)
