"""`Buffer`: what all its calls share, and those for large batches; for small ones see low_latency.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

import pyshmem
from pyshmem.device.moe import ExpertParallel, Layout, Received

from .config import Config, low_latency_bytes
from .group import members_of
from .low_latency import LowLatencyCalls
from .pool import Pool
from .streams import Streams
from .utils import EventHandle, EventOverlap

__all__ = ["Buffer", "Handle"]

Tensor = Any
Rows = Any  # a tensor, or (1-byte rows, scales)


class Handle:
    """What a dispatch leaves for its combine, and for dispatches with the same layout."""

    __slots__ = ("ep", "received", "rows")

    def __init__(self, ep: ExpertParallel, received: Received, rows: int) -> None:
        self.ep, self.received, self.rows = ep, received, rows


class _Runtime:
    """The few questions that programs ask DeepEP's C++ object."""

    def is_available(self) -> bool:
        return True

    def get_num_rdma_ranks(self) -> int:
        return 1

    def get_rdma_rank(self) -> int:
        return 0

    def get_local_device_id(self) -> int:
        return int(torch.cuda.current_device())


class Buffer(LowLatencyCalls):
    """Expert-parallel communication of the processes of a group, all on one node. Collective.

    Parameters
    ----------
    group : torch.distributed.ProcessGroup, optional
    num_nvl_bytes : int
        How much GPU memory received rows may take beside the one buffer that there always is: with room for
        n dispatches the tensors of up to n (at most 4) of them lie in receive buffers; those of others are
        copies.
        `Config.get_nvl_buffer_size_hint` says how much is needed.
    low_latency_mode, num_rdma_bytes, num_qps_per_rank, allow_nvlink_for_low_latency_mode, allow_mnnvl,
    use_fabric, enable_shrink
        Accepted.
    explicitly_destroy : bool
        Whether `destroy` will be called; else memory is given back when a later Buffer is made, or at the
        end.
    comm : mpi4py.MPI.Comm, optional
        In place of group.
    num_max_tokens_per_rank : int
        Extension: the largest number of tokens of a dispatch. With 0 the ranks find out, and change to larger
        buffers when need be.

    Attributes
    ----------
    num_sms : int
        Thread blocks, one an SM, of large-batch calls without a config.
    rank, group_size : int
    """

    num_sms: int = 20

    def __init__(
        self,
        group: Any = None,
        num_nvl_bytes: int = 0,
        num_rdma_bytes: int = 0,
        low_latency_mode: bool = False,
        num_qps_per_rank: int = 24,
        allow_nvlink_for_low_latency_mode: bool = True,
        allow_mnnvl: bool = False,
        use_fabric: bool = False,
        explicitly_destroy: bool = False,
        enable_shrink: bool = False,
        comm: Any = None,
        *,
        num_max_tokens_per_rank: int = 0,
    ) -> None:
        if num_nvl_bytes < 0 or num_rdma_bytes < 0:
            raise ValueError(f"Buffer: num_nvl_bytes {num_nvl_bytes}, num_rdma_bytes {num_rdma_bytes}")
        self.members = members_of(group, comm)
        self.group, self.rank, self.group_size = group, self.members.rank, self.members.size
        self.num_nvl_bytes, self.num_rdma_bytes = num_nvl_bytes, num_rdma_bytes
        self.low_latency_mode, self.explicitly_destroy = low_latency_mode, explicitly_destroy
        self.runtime: _Runtime | None = _Runtime()
        self._most_tokens = num_max_tokens_per_rank
        self._pools: dict[tuple[int, int, int], Pool] = {}
        self._streams = Streams()
        self._init_low_latency()

    def destroy(self) -> None:
        """Gives all memory back; results must not be used any more. Collective; needs explicitly_destroy."""
        if not self.explicitly_destroy:
            raise AssertionError("destroy: the Buffer was made without explicitly_destroy=True")
        if self.runtime is None:
            return
        self.runtime = None
        torch.cuda.synchronize()
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()
        self._close_low_latency()
        if pyshmem.initialized():
            self.members.free()

    # ---- settings ----

    @staticmethod
    def is_sm90_compiled() -> bool:
        return True

    @staticmethod
    def set_num_sms(new_num_sms: int) -> None:
        """Thread blocks of large-batch calls from now on, an even number."""
        if new_num_sms < 2 or new_num_sms % 2:
            raise AssertionError(f"set_num_sms: {new_num_sms} is not an even number")
        Buffer.num_sms = new_num_sms

    @staticmethod
    def get_dispatch_config(num_ranks: int) -> Config:
        """The config of dispatches without one."""
        return Buffer._config(num_ranks)

    @staticmethod
    def get_combine_config(num_ranks: int) -> Config:
        """The config of combines without one."""
        return Buffer._config(num_ranks)

    @staticmethod
    def _config(num_ranks: int) -> Config:
        if not 1 <= num_ranks <= 64:
            raise AssertionError(f"Unsupported number of EP ranks: {num_ranks}; 1 to 64 GPUs of one node")
        return Config(Buffer.num_sms)

    @staticmethod
    def get_low_latency_rdma_size_hint(
        num_max_dispatch_tokens_per_rank: int, hidden: int, num_ranks: int, num_experts: int
    ) -> int:
        """Bytes of the GPU heap that low-latency calls of these sizes take, at most."""
        return low_latency_bytes(num_max_dispatch_tokens_per_rank, hidden, num_ranks, num_experts)

    @staticmethod
    def capture() -> EventOverlap:
        """What the current stream holds now."""
        return EventOverlap(EventHandle())

    def get_comm_stream(self) -> Any:
        """The stream of calls with async_finish or a previous_event."""
        return self._streams.comm

    def get_local_buffer_tensor(
        self, dtype: Any, size: Any = None, offset: int = 0, use_rdma_buffer: bool = False
    ) -> Tensor:
        """Not there: no single buffer lies under these calls. Symmetric memory is pyshmem.zeros(..,
        device="cuda"), low latency's input buffer `get_next_low_latency_combine_buffer`."""
        raise NotImplementedError(Buffer.get_local_buffer_tensor.__doc__)

    # ---- layout ----

    def get_dispatch_layout(
        self,
        topk_idx: Tensor,
        num_experts: int,
        previous_event: EventOverlap | None = None,
        async_finish: bool = False,
        allocate_on_comm_stream: bool = False,
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor, EventOverlap]:
        """Where tokens go. Local.

        Parameters
        ----------
        topk_idx : int64 [T, K], -1 = none
        previous_event, async_finish, allocate_on_comm_stream
            As in `dispatch`.

        Returns
        -------
        num_tokens_per_rank : int32 [R]
        num_tokens_per_rdma_rank : None
        num_tokens_per_expert : int32 [E]
        is_token_in_rank : bool [T, R]
        event
        """
        self._check(topk_idx, num_experts)
        tokens, topk = topk_idx.shape
        with self._streams.call(previous_event, async_finish, allocate_on_comm_stream) as call:
            ep = self._large_enough(num_experts, topk, tokens)
            if ep is not None:
                found: Any = ep.layout(topk_idx)
            else:  # before the first dispatch there is no object to ask
                found = self._layout_by_torch(topk_idx, num_experts)
            per_rank, per_expert, inside = found[:3]
            # Dispatch is told by this tensor; see _layout_of.
            if ep is not None:
                inside._pyshmem_layout = ep, topk_idx.data_ptr(), topk_idx._version, found.routing
            call.used(topk_idx)
            call.made(per_rank, per_expert, inside)
        return per_rank, None, per_expert, inside, call.event

    def _check(self, topk_idx: Tensor, num_experts: int) -> None:
        if topk_idx.dim() != 2 or topk_idx.dtype not in (torch.int64, torch.int32) or not topk_idx.is_cuda:
            raise TypeError(
                f"topk_idx is {topk_idx.dtype} {tuple(topk_idx.shape)} on {topk_idx.device}, must be int64 "
                "[tokens, topk] in GPU memory"
            )
        if num_experts < 1 or num_experts % self.group_size:
            raise ValueError(f"num_experts is {num_experts}, must be a multiple of {self.group_size} ranks")

    def _large_enough(self, experts: int, topk: int, tokens: int) -> ExpertParallel | None:
        for (_, e, k), pool in self._pools.items():
            if (e, k) == (experts, topk) and pool.ep is not None and pool.ep.max_tokens >= tokens:
                return pool.ep
        return None

    def _layout_by_torch(self, idx: Tensor, experts: int) -> tuple[Tensor, Tensor, Tensor]:
        ranks = self.group_size
        none = (idx < 0) | (idx >= experts)
        owner = torch.where(none, ranks, idx.long() // (experts // ranks))
        inside = torch.zeros(idx.shape[0], ranks + 1, dtype=torch.bool, device=idx.device)
        inside = inside.scatter_(1, owner, True)[:, :ranks].contiguous()
        flat = torch.where(none, experts, idx.long()).reshape(-1)
        per_expert = torch.zeros(experts + 1, dtype=torch.int32, device=idx.device)
        per_expert.scatter_add_(0, flat, torch.ones_like(flat, dtype=torch.int32))
        return inside.sum(0, dtype=torch.int32), per_expert[:experts].contiguous(), inside

    # ---- dispatch ----

    def dispatch(
        self,
        x: Rows,
        handle: Handle | None = None,
        num_tokens_per_rank: Tensor | None = None,
        num_tokens_per_rdma_rank: Tensor | None = None,
        is_token_in_rank: Tensor | None = None,
        num_tokens_per_expert: Tensor | None = None,
        topk_idx: Tensor | None = None,
        topk_weights: Tensor | None = None,
        expert_alignment: int = 1,
        num_worst_tokens: int = 0,
        config: Config | None = None,
        previous_event: EventOverlap | None = None,
        async_finish: bool = False,
        allocate_on_comm_stream: bool = False,
    ) -> tuple[Rows, Tensor | None, Tensor | None, list[int] | None, Handle | None, EventOverlap]:
        """Sends tokens to the ranks of their experts. Collective.

        Parameters
        ----------
        x : BF16 [T, H]; or (1-byte [T, H], scales [T, H / 128] float32 or int32), which arrive as they are
        handle : Handle, optional
            Of an earlier dispatch: its layout is used again, and neither layout nor ids are given.
        num_tokens_per_rank, is_token_in_rank, num_tokens_per_expert
            As `get_dispatch_layout` gave them.
        topk_idx, topk_weights : int64 [T, K], float32 [T, K], optional
        expert_alignment : int
            The counts are rounded up to a multiple of it.
        num_worst_tokens : int
            Not 0: the host does not wait, and tensors have so many rows; topk_idx is -1 in the last ones.
        config : Config, optional
        previous_event : EventOverlap, optional
            What to wait for in place of all that the current stream holds.
        async_finish : bool
            The current stream does not wait for the call; the event that is returned tells its end.
        allocate_on_comm_stream : bool
            Tensors belong to the communication stream; with previous_event and async_finish.

        Returns
        -------
        recv_x : as x, with the rows that came: by source rank, then in the order of its tokens
        recv_topk_idx : int64 [rows, K], local ids, -1 = an expert elsewhere; None without topk_idx
        recv_topk_weights : float32 [rows, K], 0 where that is -1; None without topk_weights
        num_recv_tokens_per_expert_list : list of int, empty with num_worst_tokens
        handle : Handle
        event : EventOverlap
            With `handle`, all but recv_x and event are None.
        """
        rows, scales = x if isinstance(x, tuple) else (x, None)
        packed = scales is not None and scales.dtype == torch.int32
        blocks = (config or self.get_dispatch_config(self.group_size)).num_sms
        if handle is not None and (topk_idx is not None or topk_weights is not None):
            raise AssertionError("dispatch: topk_idx and topk_weights come from the handle")
        waits = num_worst_tokens == 0 and not torch.cuda.is_current_stream_capturing()
        with self._streams.call(previous_event, async_finish, allocate_on_comm_stream) as call:
            sent: Any = rows
            if isinstance(x, tuple):
                sent = rows, scales.view(torch.float32) if packed else scales
            arrays = {"x": (str(rows.dtype).removeprefix("torch."), 0)}
            if scales is not None:
                arrays["scales"] = "float32", scales.shape[1]
            if handle is not None:
                pool = self._pool_of(handle.ep)
                generation, place = pool.place(rows.shape[0], waits, handle.ep)
                pool.wait_for_readers(generation, place, call.stream)
                handle.ep._send(
                    sent,
                    None,
                    None,
                    handle.received,
                    False,
                    False,
                    None,
                    None,
                    "none",
                    call.stream,
                    blocks,
                    place,
                )
                made = pool.hand_out(generation, place, handle.rows, arrays, rows)
                found = self._rows(made, isinstance(x, tuple), packed)
                call.used(rows, scales)
                call.made(*made)
                return found, None, None, None, None, call.promise()
            if num_tokens_per_rank is None or is_token_in_rank is None or num_tokens_per_expert is None:
                raise AssertionError(
                    "dispatch: the layout is needed: get_dispatch_layout(topk_idx, num_experts)"
                )
            if num_worst_tokens == 0 and not waits:
                raise RuntimeError("dispatch: in a graph num_worst_tokens is needed, the host cannot wait")
            experts = num_tokens_per_expert.numel()
            ids, weights = topk_idx, topk_weights
            if ids is None:
                ids = self._ids_of(is_token_in_rank, experts)
            pool = self._pool(rows.shape[1], experts, ids.shape[1])
            most = -(-num_worst_tokens // self.group_size) if num_worst_tokens else rows.shape[0]
            generation, place = pool.place(most, waits)
            ep = generation.ep
            pool.wait_for_readers(generation, place, call.stream)
            got = ep._send(
                sent, ids, weights, None, False, False, num_worst_tokens == 0,
                self._layout_of(is_token_in_rank, ep, ids), "none", call.stream, blocks, place,
            )  # fmt: skip
            if num_worst_tokens:
                got.rows = num_worst_tokens
            if topk_idx is not None:
                arrays["topk_idx"] = "int64", 0
                if topk_weights is not None:
                    arrays["topk_weights"] = "float32", 0
            made = pool.hand_out(generation, place, got.rows, arrays, rows)
            named = dict(zip(arrays, made, strict=True))
            counts: list[int] = []
            if got._counts is not None:
                counts = (-(-got._counts // expert_alignment) * expert_alignment).tolist()
            call.used(rows, scales, topk_idx, topk_weights)
            call.made(*made)
            return (
                self._rows(made, isinstance(x, tuple), packed), named.get("topk_idx"),
                named.get("topk_weights"), counts, Handle(ep, got, got.rows), call.promise(),
            )  # fmt: skip

    @staticmethod
    def _rows(made: Sequence[Tensor], pair: bool, packed: bool) -> Rows:
        if not pair:
            return made[0]
        scales = made[1] if len(made) > 1 else None
        return made[0], scales.view(torch.int32) if packed and scales is not None else scales

    def _pool(self, hidden: int, experts: int, topk: int) -> Pool:
        key = hidden, experts, topk
        found = self._pools.get(key)
        if found is None:
            found = self._pools[key] = Pool(self.members, *key, self.num_nvl_bytes, self._most_tokens)
        return found

    def _pool_of(self, ep: ExpertParallel) -> Pool:
        for pool in self._pools.values():
            if any(g.ep is ep for g in pool.generations):
                return pool
        raise ValueError("the handle is of another Buffer, or of one that was destroyed")

    @staticmethod
    def _layout_of(is_token_in_rank: Tensor, ep: ExpertParallel, ids: Tensor) -> Layout | None:
        """What get_dispatch_layout has found out for these ids, if it is of use here."""
        known = getattr(is_token_in_rank, "_pyshmem_layout", None)
        if known is None or known[:3] != (ep, ids.data_ptr(), ids._version):
            return None
        return Layout(None, None, is_token_in_rank, known[3])

    def _ids_of(self, is_token_in_rank: Tensor, experts: int) -> Tensor:
        """Choices that go where the layout says: a rank's first expert."""
        first = torch.arange(self.group_size, device=is_token_in_rank.device) * (experts // self.group_size)
        return torch.where(is_token_in_rank, first, -1)

    # ---- combine ----

    def combine(
        self,
        x: Tensor,
        handle: Handle,
        topk_weights: Tensor | None = None,
        bias: Tensor | tuple[Tensor, Tensor] | None = None,
        config: Config | None = None,
        previous_event: EventOverlap | None = None,
        async_finish: bool = False,
        allocate_on_comm_stream: bool = False,
        *,
        use_int8: bool = False,
    ) -> tuple[Tensor, Tensor | None, EventOverlap]:
        """Sends rows back and adds up those of each token, without weights. Collective.

        Parameters
        ----------
        x : BF16 [rows, H], for the rows that the dispatch gave
        handle : Handle
        topk_weights : float32 [rows, K], optional
            Added up as well.
        bias : BF16 [T, H] or two of them, optional
        config, previous_event, async_finish, allocate_on_comm_stream
            As in `dispatch`.
        use_int8 : bool
            Extension: rows travel as INT8 with a float32 scale for 128 columns.

        Returns
        -------
        combined_x : BF16 [T, H]
        combined_topk_weights : float32 [T, K] or None
        event : EventOverlap
        """
        if not isinstance(handle, Handle):
            raise TypeError(f"combine: handle is {type(handle).__name__}, not what dispatch gave")
        self._pool_of(handle.ep)
        blocks = (config or self.get_combine_config(self.group_size)).num_sms
        with self._streams.call(previous_event, async_finish, allocate_on_comm_stream) as call:
            found: Any = handle.ep.combine(
                x, handle.received, weighted=False, topk_weights=topk_weights, bias=bias,
                quant="int8" if use_int8 else "none", stream=call.stream, blocks=blocks,
            )  # fmt: skip
            out, weights = found if topk_weights is not None else (found, None)
            call.used(x, topk_weights, *(bias if isinstance(bias, tuple) else (bias,)))
            call.made(out, weights)
            return out, weights, call.promise()
