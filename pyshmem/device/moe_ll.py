"""Dispatch and combine on GPUs for small batches, in one step and without the host: `pyshmem.moe.LowLatency`.
C: shmemx_moe_ll.h.

    ll = pyshmem.moe.LowLatency(256, 7168, 8, 128, quant="fp8")
    got = ll.dispatch(x, topk_idx, topk_weights)         # got.recv_x [L, R * M, H], got.recv_count [L]
    out = ll.combine(my_experts(got), got)               # [T, H]: the weighted sum

    got = ll.dispatch(x, topk_idx, hook=True)            # is on its way; no SM is held
    other_work()
    got.hook()                                           # now it is received

L = experts of this rank, R = ranks, M = max_tokens, H = hidden, K = topk. All calls can be captured in a CUDA
graph, which all ranks replay alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

from .._core import ffi, lib
from .._objects import Closable, Owned, keep, reclaim
from ..errors import CLASSES, check
from ..setup import ensure, state
from ..team import TEAM_WORLD, Team
from ..types import CData
from . import arrays
from ._moe_args import GROUPS, Args, pick, void
from .packages import Package

__all__ = ["Arrived", "LowLatency"]

_ArgumentError = CLASSES[lib.SHMEMX_ERR_ARGUMENT]
_FORMATS = {"none": lib.SHMEMX_MOE_GPU_BF16, "int8": lib.SHMEMX_MOE_GPU_INT8, "fp8": lib.SHMEMX_MOE_GPU_FP8}
_BACK = {"none": lib.SHMEMX_MOE_GPU_BF16, "int8": lib.SHMEMX_MOE_GPU_INT8}
_ROWS = {"none": "bfloat16", "int8": "int8", "fp8": "float8_e4m3fn"}
_SEND, _RECV = lib.SHMEMX_MOE_LL_SEND, lib.SHMEMX_MOE_LL_RECV
_BOTH = _SEND | _RECV
_LIVE = 2  # of each kind may be sent and not received

Scales = Literal["rows", "columns", "packed"]


class Arrived:
    """What a dispatch gives, and what its `combine` takes; memory of its own, which stays.

    Attributes
    ----------
    recv_x : array
        [L, R * M, H] BF16, int8 or FP8; expert e's first recv_count[e] rows hold what came, by source rank
        and token, the rest is undefined.
    scales : array or None
        float32 [L, R * M, G]; int32 [L, R * M, ceil(G / 4)] of exponents when packed.
    recv_count : array
        int32 [L]
    recv_source : array
        int32 [L, R * M]: rank * M + token of each row.
    hook : callable or None
        With ``hook=True``: receives, on the stream given to it or the current one. Hooks of an object are
        called in the order of their dispatches, once each.
    tokens : int
        T of this PE.
    """

    __slots__ = (
        "_owner",
        "_package",
        "handle",
        "hook",
        "recv_count",
        "recv_source",
        "recv_x",
        "scales",
        "tokens",
    )

    def __init__(self, owner: LowLatency, package: Package, tokens: int) -> None:
        self._owner, self._package, self.tokens = owner, package, tokens
        self.hook: Callable[..., None] | None = None
        self.handle: Any
        self.recv_x: Any
        self.scales: Any = None
        self.recv_count: Any
        self.recv_source: Any

    def __repr__(self) -> str:
        return f"<Arrived {tuple(self.recv_x.shape)} of {self.tokens} tokens>"


class LowLatency(Closable):
    """Dispatch and combine of small batches between GPUs. Collective over the world.

    What is wrong at a call raises there, before anything is launched. What kernels find, an id out of range,
    is raised by `pyshmem.device.check`, `pyshmem.device.synchronize` and calls on streams that are not of
    MoE: `dispatch`, `combine` and hooks go on, since the other ranks wait for them.

    Parameters
    ----------
    num_experts, hidden, topk, max_tokens : int
        E up to 65,535; H a multiple of 8; K up to 32; M, the largest T of any rank, up to 1,024.
    quant : {"none", "int8", "fp8"}
        How rows travel and arrive: BF16, or quantized on the way.
    combine_quant : {"none", "int8"}
        How the sums travel back.
    group : {128, 64, 32, "row"}
        Columns a scale.
    ue8m0 : bool
        With "fp8": scales are powers of two.
    team : Team, optional
        The ranks, at most 64; by default all PEs. PEs outside pass their own team, or an invalid one.

    Attributes
    ----------
    ranks, rank, first_expert, local_experts, groups : int
        R; this PE's number in the team, -1 outside; its experts, L of them; scales of a row.

    Raises
    ------
    ArgumentError, MismatchError, NoMemoryError, UnsupportedError
        On all PEs.
    """

    def __init__(
        self,
        num_experts: int,
        hidden: int,
        topk: int,
        max_tokens: int,
        *,
        quant: Literal["none", "int8", "fp8"] = "none",
        combine_quant: Literal["none", "int8"] = "none",
        group: int | Literal["row"] = 128,
        ue8m0: bool = False,
        team: Team | None = None,
    ) -> None:
        self._object = Owned(lib.shmemx_moe_ll_destroy, arrays.finish_kernels)
        if not state.ready:
            ensure()
        reclaim()
        out = ffi.new("shmemx_moe_ll_t **")
        config = ffi.new("shmemx_moe_ll_config_t *")
        try:
            config.team = Team(TEAM_WORLD if team is None else team).ob_team
            config.format = pick(_FORMATS, quant, "LowLatency", "quant")
            config.combine_format = pick(_BACK, combine_quant, "LowLatency", "combine_quant")
            config.group, config.ue8m0 = pick(GROUPS, group, "LowLatency", "group"), bool(ue8m0)
            config.hidden, config.num_experts, config.topk = hidden, num_experts, topk
            config.max_tokens = max_tokens
        except Exception:
            lib.shmemx_moe_ll_create(ffi.NULL, out)  # the others wait for this PE: they are told
            raise
        check(lib.shmemx_moe_ll_create(config, out))
        keep(self._object, out[0])
        arrays.adopt_device()
        self.num_experts, self.hidden, self.topk, self.max_tokens = num_experts, hidden, topk, max_tokens
        self.quant, self.combine_quant, self.group, self.ue8m0 = quant, combine_quant, group, bool(ue8m0)
        self.ranks, self.rank, self.first_expert, self.local_experts, self.groups = 0, -1, 0, 0, 0
        self._waiting: dict[str, list[Any]] = {"dispatch": [], "combine": []}
        self._handle_bytes = (0, 0, 0)
        if config.team != ffi.cast("shmem_team_t", lib.SHMEMX_TEAM_INVALID):
            info = ffi.new("shmemx_moe_ll_info_t *")
            check(lib.shmemx_moe_ll_info(out[0], info))
            self.ranks, self.rank, self.groups = info.ranks, info.rank, info.groups
            self.first_expert, self.local_experts = info.first_expert, info.local_experts
            self._handle_bytes = info.choices_bytes, info.present_bytes, info.routed_bytes

    def _describe(self) -> str:
        return (
            f"rank {self.rank} of {self.ranks}: {self.num_experts} experts, "
            f"hidden {self.hidden}, top-{self.topk}, {self.max_tokens} tokens, "
            f"quant {self.quant}/{self.combine_quant}"
        )

    # ---- phases ----

    def _check_waiting(self, kind: str, hook: bool) -> None:
        waiting = len(self._waiting[kind])
        if waiting >= _LIVE or (waiting and not hook):
            more = "two" if waiting >= _LIVE else "one"
            raise _ArgumentError(f"{kind}: {more} before this one still wait for their hook; call it first")

    def _hook(self, kind: str, receive: Callable[[int], int], package: Package) -> Callable[..., None]:
        """The callable that runs the receive phase."""
        waiting, ticket = self._waiting[kind], object()
        waiting.append(ticket)

        def hook(stream: Any = None) -> None:
            self._moe()
            if not waiting or waiting[0] is not ticket:
                why = "an earlier one has not been called" if ticket in waiting else "it was called before"
                raise _ArgumentError(
                    f"hook of {kind}: {why}; each is called once, in the order of the {kind}es"
                )
            with package.on(stream) as handle:
                check(receive(handle))
            waiting.pop(0)

        return hook

    # ---- dispatch ----

    def dispatch(
        self,
        x: Any,
        topk_idx: Any,
        topk_weights: Any = None,
        *,
        hook: bool = False,
        scales: Scales = "rows",
        stream: Any = None,
    ) -> Arrived:
        """Sends each token to its experts. Collective over the team, in the order of the stream.

        Parameters
        ----------
        x : array
            BF16 [T, H] of CuPy or PyTorch, 0 <= T <= max_tokens; rows may be strided, 16-byte aligned.
        topk_idx : array
            int64 or int32 [T, K], -1 = none; ids out of range are reported later and dropped.
        topk_weights : array, optional
            float32 [T, K], for a combine without weights of its own; by default 1 each.
        hook : bool
            Send only; the result's `hook` receives. At most two dispatches wait for their hook.
        scales : {"rows", "columns", "packed"}
            How scales lie: as [L, R * M, G] says; the same shape with the row index fastest (for TMA); and
            with ue8m0 four exponents an int32, the row index fastest.
        stream : stream, optional
            As `pyshmem.device.stream` takes it; by default the package's current one.
        """
        moe, args = self._moe(), Args("dispatch", x, "x")
        call = ffi.new("shmemx_moe_ll_dispatch_t *")
        p = args.package
        call.x, call.x_stride, call.tokens = args.rows(x, "x", self.hidden, most=self.max_tokens)
        call.topk_idx, call.idx_type, _ = args.choices(topk_idx, call.tokens, self.topk)
        call.topk_weights = args.weights(topk_weights, call.tokens, self.topk)
        if scales not in ("rows", "columns", "packed"):
            raise _ArgumentError(f"dispatch: scales is {scales!r}, possible are 'rows', 'columns', 'packed'")
        if scales == "packed" and not self.ue8m0:
            raise _ArgumentError("dispatch: packed scales want an object with ue8m0")
        self._check_waiting("dispatch", hook)
        with p.on(stream) as handle:
            got = self._outputs(p, call, scales)
            check(lib.shmemx_moe_ll_dispatch(moe, call, _SEND if hook else _BOTH, void(handle)))
        if hook:
            # It holds the outputs until they are written.
            outputs = got.recv_x, got.scales, got.recv_count, got.recv_source, got.handle

            def receive(handle: int, kept: Any = outputs) -> int:
                code: int = lib.shmemx_moe_ll_dispatch(self._moe(), call, _RECV, void(handle))
                return code

            got.hook = self._hook("dispatch", receive, p)
        return got

    def _outputs(self, p: Package, call: CData, scales: Scales) -> Arrived:
        got = Arrived(self, p, call.tokens)
        experts, rows, groups = self.local_experts, self.ranks * self.max_tokens, self.groups

        def address(a: Any) -> CData:
            return void(p.describe(a).address)

        got.recv_x = p.empty((experts, rows, self.hidden), _ROWS[self.quant])
        got.recv_count = p.empty((experts,), "int32")
        got.recv_source = p.empty((experts, rows), "int32")
        sizes = [-(-n // 16) * 16 for n in self._handle_bytes]
        got.handle = p.empty((sum(sizes),), "uint8")
        begin = p.describe(got.handle).address
        call.handle.choices, call.handle.present = void(begin), void(begin + sizes[0])
        call.handle.routed = void(begin + sizes[0] + sizes[1])
        if experts == 0:  # more ranks than experts: nothing is written, but addresses are asked for
            call.recv_x = call.recv_count = call.recv_source = call.recv_scales = void(begin)
            call.recv_count = ffi.cast("int32_t *", begin)
            call.recv_source = ffi.cast("int32_t *", begin)
            return got
        call.recv_x = address(got.recv_x)
        call.recv_count = ffi.cast("int32_t *", address(got.recv_count))
        call.recv_source = ffi.cast("int32_t *", address(got.recv_source))
        if self.quant == "none":
            return got
        if scales == "rows":
            made = got.scales = p.empty((experts, rows, groups), "float32")
            call.scale_expert, call.scale_row, call.scale_group = 4 * rows * groups, 4 * groups, 4
        else:
            columns = -(-groups // 4) if scales == "packed" else groups
            # Its last bytes need not be written: 0 is the least scale.
            shape = (experts, columns, rows)
            if scales == "columns":
                made = p.empty(shape, "float32")
            else:  # not all bytes of an int32 need be written
                made = p.full(shape, 0, "int32") if groups % 4 else p.empty(shape, "int32")
            got.scales = made.swapaxes(1, 2)
            call.scale_expert, call.scale_row, call.scale_group = 4 * rows * columns, 4, 4 * rows
            call.scale_packed = scales == "packed"
        call.recv_scales = address(made)
        return got

    # ---- combine ----

    def combine(
        self,
        y: Any,
        got: Arrived,
        topk_weights: Any = None,
        *,
        out: Any = None,
        hook: bool = False,
        stream: Any = None,
    ) -> Any:
        """Adds up each token's rows, each times its weight. Collective over the team, in the order of the
        stream.

        Parameters
        ----------
        y : array
            BF16 [L, R * M, H] without gaps: what the experts made of recv_x; rows that recv_count does not
            count are not read.
        got : Arrived
            What dispatch gave; after its hook.
        topk_weights : array, optional
            float32 [T, K] of this PE's tokens, on all PEs or on none; by default those of the dispatch.
        out : array, optional
            BF16 [T, H]; rows may be strided.
        hook : bool
            Send only; at most two combines wait for their hook.
        stream
            As in `dispatch`.

        Returns
        -------
        array, or (array, callable) with ``hook=True``
            BF16 [T, H], 0 for tokens that went nowhere; once the hook has been called.
        """
        if not isinstance(got, Arrived):
            raise TypeError(f"combine: got is {type(got).__name__}, not a result of dispatch")
        if got._owner is not self:
            raise _ArgumentError("combine: got is a result of another LowLatency")
        return self._combine(y, got, topk_weights, out, hook, stream)

    def _combine(self, y: Any, got: Arrived, topk_weights: Any, out: Any, hook: bool, stream: Any) -> Any:
        """`combine`, of a result of this object or of one with the same sizes."""
        moe, args = self._moe(), Args("combine", y, "y")
        call = ffi.new("shmemx_moe_ll_combine_t *")
        p = args.package
        if p is not got._package:
            raise TypeError(f"combine: y is an array of {p.name}, got is of {got._package.name}")
        shape = (self.local_experts, self.ranks * self.max_tokens, self.hidden)
        call.y, _ = args.table(y, "y", shape, args.bf16)
        if p.describe(y).address % 16:
            raise _ArgumentError("combine: y is not 16-byte aligned")
        call.topk_weights = args.weights(topk_weights, got.tokens, self.topk)
        call.tokens = got.tokens
        if out is not None:
            call.out, call.out_stride, _ = args.rows(out, "out", self.hidden, rows=got.tokens, step=8)
        self._check_waiting("combine", hook)
        begin, sizes = p.describe(got.handle).address, [-(-n // 16) * 16 for n in self._handle_bytes]
        call.handle.choices, call.handle.present = void(begin), void(begin + sizes[0])
        call.handle.routed = void(begin + sizes[0] + sizes[1])
        if self.local_experts == 0:
            call.y = void(begin)
        if topk_weights is not None and got.tokens == 0:  # an array without elements has no address
            call.topk_weights = ffi.cast("float *", begin)
        with p.on(stream) as handle:
            if out is None:
                out = p.empty((got.tokens, self.hidden), "bfloat16")
                call.out = void(p.describe(out).address)
            check(lib.shmemx_moe_ll_combine(moe, call, _SEND if hook else _BOTH, void(handle)))
        if not hook:
            return out

        def receive(handle: int, kept: Any = (out, got.handle, y)) -> int:
            code: int = lib.shmemx_moe_ll_combine(self._moe(), call, _RECV, void(handle))
            return code

        return out, self._hook("combine", receive, p)

    # ---- dead ranks ----

    def dead_ranks(self) -> list[int]:
        """Ranks that this object has given up, because they were not heard of for SHMEM_TIMEOUT, or that were
        masked. Waits for the library's copy, not for your streams."""
        found = ffi.new("uint64_t *")
        check(lib.shmemx_moe_ll_dead(self._moe(), found))
        return [r for r in range(self.ranks) if found[0] >> r & 1]

    def mask(self, ranks: Iterable[int] = ()) -> None:
        """Sets which ranks are given up; no call of this object may be running. For a rank to come back all
        ranks must agree."""
        bits = 0
        for r in ranks:
            if not 0 <= r < self.ranks:
                raise _ArgumentError(f"mask: rank {r}, there are {self.ranks}")
            bits |= 1 << r
        check(lib.shmemx_moe_ll_mask(self._moe(), bits))
