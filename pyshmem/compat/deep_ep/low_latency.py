"""`Buffer`'s calls for small batches, on `pyshmem.moe.LowLatency`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch

from pyshmem.device.moe_ll import Arrived, LowLatency

from .group import Members
from .streams import Streams
from .utils import EventOverlap

__all__ = ["LowLatencyCalls", "LowLatencyHandle"]

Tensor = Any
Hook = Callable[[], None]


class LowLatencyHandle:
    """What a low-latency dispatch leaves for its combine."""

    __slots__ = ("arrived", "key", "next_buffer")

    def __init__(self, arrived: Arrived, key: tuple[int, int, int, int]) -> None:
        self.arrived, self.key = arrived, key
        self.next_buffer: Tensor | None = None


class LowLatencyCalls:
    """The part of `Buffer` for small batches."""

    members: Members
    _streams: Streams

    def _init_low_latency(self) -> None:
        # By (hidden, experts, topk, tokens) and (quant, combine_quant, ue8m0).
        self._objects: dict[tuple[int, int, int, int], dict[tuple[str, str, bool], LowLatency]] = {}
        self._masked: set[int] = set()
        self._warned: set[str] = set()

    def _close_low_latency(self) -> None:
        for objects in self._objects.values():
            for ll in objects.values():
                ll.close()
        self._objects.clear()

    def _object(self, key: tuple[int, int, int, int], formats: tuple[str, str, bool]) -> LowLatency:
        objects = self._objects.setdefault(key, {})
        found = objects.get(formats)
        if found is None:
            if torch.cuda.is_current_stream_capturing():
                raise RuntimeError("low latency: the first call of a shape cannot be captured in a graph")
            (hidden, experts, topk, tokens), (quant, back, ue8m0) = key, formats
            found = objects[formats] = LowLatency(
                experts, hidden, topk, tokens, quant=quant, combine_quant=back, ue8m0=ue8m0,  # type: ignore[arg-type]
                team=self.members.team,
            )  # fmt: skip
            if self._masked:
                found.mask(self._masked)
        return found

    def _warn(self, name: str, text: str) -> None:
        if name not in self._warned:
            self._warned.add(name)
            warnings.warn(text, stacklevel=3)

    def clean_low_latency_buffer(
        self, num_max_dispatch_tokens_per_rank: int, hidden: int, num_experts: int
    ) -> None:
        """Nothing to do: low-latency calls share no memory with others, and clean up by numbers of rounds."""

    # ---- dispatch ----

    def low_latency_dispatch(
        self,
        x: Tensor,
        topk_idx: Tensor,
        num_max_dispatch_tokens_per_rank: int,
        num_experts: int,
        cumulative_local_expert_recv_stats: Tensor | None = None,
        dispatch_wait_recv_cost_stats: Tensor | None = None,
        use_fp8: bool = True,
        round_scale: bool = False,
        use_ue8m0: bool = False,
        async_finish: bool = False,
        return_recv_hook: bool = False,
        *,
        use_int8: bool = False,
    ) -> tuple[Any, Tensor, LowLatencyHandle, EventOverlap, Hook | None]:
        """Sends tokens to their experts, one row each. Collective. M = num_max_dispatch_tokens_per_rank.

        Parameters
        ----------
        x : BF16 [T, H], T <= M
        topk_idx : int64 [T, K], -1 = none
        num_max_dispatch_tokens_per_rank : int
            Up to 1,024, on all ranks the same.
        cumulative_local_expert_recv_stats : int32 [L], optional
            The counts are added to it.
        dispatch_wait_recv_cost_stats
            Left as it is.
        use_fp8 : bool
            E4M3 and scales in place of BF16.
        round_scale, use_ue8m0 : bool
            Scales are powers of two; and four exponents an int32.
        async_finish : bool
            The current stream does not wait; event tells the end.
        return_recv_hook : bool
            Send only; hook() receives. No multiprocessor is held in between.
        use_int8 : bool
            Extension: INT8 and a float32 scale for 128 columns, in place of use_fp8.

        Returns
        -------
        recv_x : BF16 [L, M * R, H]; or (FP8 or INT8 [L, M * R, H], scales)
            Scales are float32 [L, M * R, H / 128], with use_ue8m0 int32 [L, M * R, H / 512]; the row index is
            fastest.
        recv_count : int32 [L]
        handle, event, hook
        """
        if use_ue8m0 and not round_scale:
            raise AssertionError("low_latency_dispatch: use_ue8m0 needs round_scale")
        quant = "int8" if use_int8 else "fp8" if use_fp8 else "none"
        powers = quant == "fp8" and round_scale
        if num_experts < 1 or num_experts % self.members.size:
            raise ValueError(f"num_experts is {num_experts}, must be a multiple of {self.members.size} ranks")
        key = x.shape[1], num_experts, topk_idx.shape[1], num_max_dispatch_tokens_per_rank
        ll = self._object(key, (quant, "none", powers))
        if dispatch_wait_recv_cost_stats is not None:
            self._warn("dispatch cost", "dispatch_wait_recv_cost_stats is left as it is")
        scales: Any = "packed" if powers and use_ue8m0 else "columns"
        with self._streams.call(None, async_finish and not return_recv_hook, False) as call:
            got = ll.dispatch(x, topk_idx, hook=return_recv_hook, scales=scales, stream=call.stream)
            if not return_recv_hook and cumulative_local_expert_recv_stats is not None:
                cumulative_local_expert_recv_stats += got.recv_count
            call.used(x, topk_idx, cumulative_local_expert_recv_stats)
            call.made(got.recv_x, got.scales, got.recv_count, got.recv_source, got.handle)
        hook: Hook | None = None
        if return_recv_hook:
            receive = got.hook
            assert receive is not None

            def hook(got: Arrived = got) -> None:
                self._receive(receive)
                if cumulative_local_expert_recv_stats is not None:
                    cumulative_local_expert_recv_stats.add_(got.recv_count)

        rows = got.recv_x if quant == "none" else (got.recv_x, got.scales)
        return rows, got.recv_count, LowLatencyHandle(got, key), call.event, hook

    # ---- combine ----

    def low_latency_combine(
        self,
        x: Tensor,
        topk_idx: Tensor,
        topk_weights: Tensor,
        handle: LowLatencyHandle,
        use_logfmt: bool = False,
        zero_copy: bool = False,
        async_finish: bool = False,
        return_recv_hook: bool = False,
        out: Tensor | None = None,
        combine_wait_recv_cost_stats: Tensor | None = None,
        *,
        combine_int8: bool = False,
    ) -> tuple[Tensor, EventOverlap, Hook | None]:
        """Adds up each token's rows, times its weights. Collective.

        Parameters
        ----------
        x : BF16 [L, M * R, H]
        topk_idx : int64 [T, K], as dispatched
        topk_weights : float32 [T, K]
        handle : LowLatencyHandle
        use_logfmt : bool
            Ignored, with a warning.
        zero_copy : bool
            Rows are in the tensor that `get_next_low_latency_combine_buffer` gave for this handle.
        async_finish, return_recv_hook
            As in the dispatch.
        out : BF16 [T, H], optional
        combine_wait_recv_cost_stats
            Left as it is.
        combine_int8 : bool
            Extension: sums travel as INT8 with a float32 scale for 128 columns.

        Returns
        -------
        combined_x : BF16 [T, H]
        event, hook
        """
        if not isinstance(handle, LowLatencyHandle):
            raise TypeError(f"low_latency_combine: handle is {type(handle).__name__}, not what dispatch gave")
        if use_logfmt:
            self._warn("logfmt", "use_logfmt is ignored: rows travel as BF16, or with combine_int8 as INT8")
        if combine_wait_recv_cost_stats is not None:
            self._warn("combine cost", "combine_wait_recv_cost_stats is left as it is")
        tokens = handle.arrived.tokens
        if topk_idx.shape[0] != tokens:
            raise ValueError(
                f"low_latency_combine: topk_idx has {topk_idx.shape[0]} rows, {tokens} were sent"
            )
        if zero_copy and handle.next_buffer is not None:
            x = handle.next_buffer
        objects = self._objects.get(handle.key, {})
        if handle.arrived._owner not in objects.values():
            raise ValueError("the handle is of another Buffer, or of one that was destroyed")
        # A handle fits every object of its sizes; the format back is the object's.
        ll = self._object(handle.key, ("none", "int8", False)) if combine_int8 else handle.arrived._owner
        with self._streams.call(None, async_finish and not return_recv_hook, False) as call:
            found: Any = ll._combine(
                x, handle.arrived, topk_weights, out, return_recv_hook, call.stream
            )  # fmt: skip
            made, receive = found if return_recv_hook else (found, None)
            call.used(x, topk_weights, out)
            call.made(made)
        if receive is None:
            return made, call.event, None
        return made, call.event, lambda: self._receive(receive)

    def _receive(self, receive: Hook) -> None:
        stream = torch.cuda.current_stream()
        self._streams.join(stream)
        receive()
        self._streams.ran(stream)

    def get_next_low_latency_combine_buffer(self, handle: LowLatencyHandle) -> Tensor:
        """A tensor BF16 [L, M * R, H] to fill, for a combine of this handle with zero_copy. Nothing is saved
        by it here: combine never copies its input."""
        if handle.next_buffer is None:
            shape = handle.arrived.recv_x.shape
            handle.next_buffer = torch.empty(shape, dtype=torch.bfloat16, device=handle.arrived.recv_x.device)
        return handle.next_buffer

    # ---- ranks that are given up ----

    def _every(self) -> list[LowLatency]:
        return [ll for objects in self._objects.values() for ll in objects.values()]

    def low_latency_update_mask_buffer(self, rank_to_mask: int, mask: bool = False) -> None:
        """Gives a rank up (mask=True) or takes it back, for all low-latency calls; none may be running."""
        if not 0 <= rank_to_mask < self.members.size:
            raise ValueError(f"rank {rank_to_mask}, there are {self.members.size}")
        (self._masked.add if mask else self._masked.discard)(rank_to_mask)
        for ll in self._every():
            dead = {*ll.dead_ranks(), rank_to_mask} if mask else {*ll.dead_ranks()} - {rank_to_mask}
            ll.mask(dead)

    def low_latency_query_mask_buffer(self, mask_status: Tensor) -> None:
        """Writes 1 for each rank that is given up, else 0, into int32 [R]."""
        dead = self._masked.union(*(ll.dead_ranks() for ll in self._every()))
        values = [int(r in dead) for r in range(self.members.size)]
        mask_status.copy_(torch.tensor(values, dtype=mask_status.dtype))

    def low_latency_clean_mask_buffer(self) -> None:
        """Takes all ranks back."""
        self._masked.clear()
        for ll in self._every():
            ll.mask()
