"""The objects behind a Buffer's large-batch calls, and which of their receive buffers are being read.

DeepEP's results live as long as their tensors; ours lie in receive buffers that peers write into, and all
ranks must name the same one. So every dispatch first lets the hosts of the group agree (`Members.exchange`,
a few microseconds, no GPU is waited for) on a buffer that no rank reads any more, and hands out tensors over
it. Where none is free, or the hosts may not wait (in a graph, with num_worst_tokens), buffer 0 takes the rows
and copies are handed out.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch

from pyshmem.device.moe import ExpertParallel
from pyshmem.device.packages import Package, package_of
from pyshmem.moe import ExpertParallel as make

from .group import Members

__all__ = ["Lease", "Pool"]

_MOST = 4  # results to be read in place


class Lease:
    """Lives as long as a tensor over a receive buffer; its end says when the readers' stream was so far."""

    __slots__ = ("__weakref__", "_readers")

    def __init__(self, readers: list[Any]) -> None:
        self._readers = readers

    def __del__(self) -> None:
        # Kernels that read the tensors were launched before, on the stream that is current now.
        try:
            if torch.cuda.is_current_stream_capturing():
                return
            event: Any = torch.cuda.Event()
            event.record(torch.cuda.current_stream())
            self._readers.append(event)
        except Exception:  # the interpreter or the context ends
            return


class _Generation:
    """One object, large enough for so many tokens; leases of its receive buffers."""

    def __init__(self, ep: ExpertParallel) -> None:
        self.ep = ep
        self.leases: list[weakref.ref[Lease] | None] = [None] * ep.results
        self.readers: list[list[Any]] = [[] for _ in range(ep.results)]

    def busy(self) -> int:
        """A bit for each buffer that this rank reads."""
        return sum(1 << i for i, lease in enumerate(self.leases) if lease is not None and lease() is not None)


class Pool:
    """The objects for one (hidden, experts, topk); the last is used, earlier ones serve their handles."""

    def __init__(
        self, members: Members, hidden: int, experts: int, topk: int, nbytes: int, most_tokens: int
    ) -> None:  # fmt: skip
        self.members, self.sizes, self.nbytes = members, (hidden, experts, topk), nbytes
        self.most_tokens = most_tokens
        self.generations: list[_Generation] = []

    @property
    def ep(self) -> ExpertParallel | None:
        return self.generations[-1].ep if self.generations else None

    def _make(self, tokens: int) -> None:
        """Collective: an object for `tokens`, or the next power of two."""
        hidden, experts, topk = self.sizes
        tokens = max(tokens, self.most_tokens) if self.most_tokens else 1 << max(tokens - 1, 127).bit_length()
        each = tokens * self.members.size * (2 * hidden + 12 * topk + 4)
        results = 1 + max(0, min(_MOST, self.nbytes // each))
        ep: Any = make(experts, hidden, topk, tokens, team=self.members.team, results=results, device="cuda")
        self.generations.append(_Generation(ep))

    def place(self, tokens: int, waits: bool, ep: ExpertParallel | None = None) -> tuple[_Generation, int]:
        """Where a dispatch goes: generation and receive buffer; 0 means that copies are handed out.

        `waits`: the hosts may agree; else `tokens` is the same on all ranks, and decides alone. `ep`: the
        object of a cached dispatch.
        """
        if not waits:
            if ep is None:
                if self.ep is None or self.ep.max_tokens < tokens:
                    if torch.cuda.is_current_stream_capturing():
                        raise RuntimeError(
                            "dispatch: the first call of a shape cannot be captured in a graph"
                        )
                    self._make(tokens)
                return self.generations[-1], 0
            return self._of(ep), 0
        if ep is not None:
            generation = self._of(ep)
        else:
            if not self.generations:
                self._make(int(self.members.exchange(tokens, 0)[:, 0].max()))
            generation = self.generations[-1]
        found = self.members.exchange(tokens, generation.busy())
        largest = int(found[:, 0].max())
        if ep is None and largest > generation.ep.max_tokens:
            self._make(largest)
            generation, found[:, 1] = self.generations[-1], 0
        taken = 0
        for busy in found[:, 1].tolist():
            taken |= busy
        free = (i for i in range(1, generation.ep.results) if not taken >> i & 1)
        return generation, next(free, 0)

    def _of(self, ep: ExpertParallel) -> _Generation:
        return next(g for g in self.generations if g.ep is ep)

    @staticmethod
    def wait_for_readers(generation: _Generation, place: int, stream: Any) -> None:
        """Before buffer `place` is written again in the order of `stream`."""
        readers = generation.readers[place]
        while readers:
            stream.wait_event(readers.pop())

    @staticmethod
    def hand_out(
        generation: _Generation, place: int, rows: int, arrays: dict[str, tuple[str, int]], like: Any
    ) -> list[Any]:  # fmt: skip
        """Tensors over the first `rows` rows of arrays {name: (dtype, groups)} of a receive buffer, or copies
        of them from buffer 0; on the current stream."""
        package: Package = package_of(like, "dispatch", "x")
        ep = generation.ep
        if place == 0:
            found = []
            for name, (dtype, groups) in arrays.items():
                view = ep._view(package, 0, name, dtype, groups)[:rows]
                found.append((view[:, :groups] if groups else view).clone())
            return found
        lease = Lease(generation.readers[place])
        generation.leases[place] = weakref.ref(lease)
        found = []
        for name, (dtype, groups) in arrays.items():
            view = ep._over(package, place, name, dtype, groups, lease)[:rows]
            found.append(view[:, :groups] if groups else view)
        return found

    def close(self) -> None:
        for generation in self.generations:
            generation.ep.close()
        self.generations.clear()
