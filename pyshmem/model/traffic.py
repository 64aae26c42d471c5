"""What routing sends where: expected copies of a token, and how uneven the receivers' loads are.

Experts are chosen uniformly, top-k without repetition; with `limit` among the experts of that many nodes,
which are chosen uniformly first (group-limited gating). The numbers below follow from counting alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import comb, sqrt
from statistics import NormalDist

__all__ = ["Shape", "Traffic"]


@dataclass(frozen=True)
class Shape:
    """A batch: tokens a GPU, and the layer it goes to. The defaults are DeepSeek-V3's."""

    gpus: int
    tokens: int = 4096
    hidden: int = 7168
    topk: int = 8
    experts: int = 256
    limit: int = 4
    """A token goes to the experts of at most so many nodes; 0: of any."""

    def check(self, gpus_per_node: int) -> None:
        """ValueError for what cannot be."""
        if self.gpus < 1 or (self.gpus > gpus_per_node and self.gpus % gpus_per_node):
            raise ValueError(f"{self.gpus} GPUs do not fill nodes of {gpus_per_node}")
        if self.experts < self.gpus or self.experts % self.gpus:
            raise ValueError(f"{self.experts} experts are not shared evenly by {self.gpus} GPUs")
        if min(self.tokens, self.hidden, self.topk) < 1 or self.topk > self.experts or self.limit < 0:
            raise ValueError("tokens, hidden and topk are at least 1, topk at most the experts")
        nodes = -(-self.gpus // gpus_per_node)
        within = min(self.limit or nodes, nodes) * (self.experts // nodes)
        if self.topk > within:
            raise ValueError(f"top-{self.topk} of the {within} experts of {self.limit} nodes is impossible")


@dataclass(frozen=True)
class Traffic:
    """Expected numbers for one token, and the unevenness over all GPUs."""

    shape: Shape
    gpus_per_node: int

    @cached_property
    def nodes(self) -> int:
        return -(-self.shape.gpus // self.gpus_per_node)

    @cached_property
    def reachable_nodes(self) -> int:
        """Nodes among whose experts a token chooses."""
        return min(self.shape.limit or self.nodes, self.nodes)

    def _hit(self, part: int) -> float:
        """Probability that at least one choice falls among `part` of the experts that a token may choose."""
        among = self.reachable_nodes * (self.shape.experts // self.nodes)
        return 1 - comb(among - part, self.shape.topk) / comb(among, self.shape.topk)

    @cached_property
    def copies_to_nodes(self) -> float:
        """Different nodes that a token goes to, its own included where it is chosen."""
        return self.reachable_nodes * self._hit(self.shape.experts // self.nodes)

    @cached_property
    def copies_to_gpus(self) -> float:
        """Different GPUs that a token goes to, its own included."""
        gpus = self.reachable_nodes * min(self.gpus_per_node, self.shape.gpus)
        return gpus * self._hit(self.shape.experts // self.shape.gpus)

    @cached_property
    def remote_node_part(self) -> float:
        """Of the choices and copies, the part for other nodes."""
        return 1 - 1 / self.nodes

    @cached_property
    def within_node_part(self) -> float:
        """Of the choices, the part for the other GPUs of the own node."""
        return 1 - self.remote_node_part - 1 / self.shape.gpus

    def unevenness(self, chance: float, most: int = 1) -> float:
        """The load of the most loaded GPU over the mean: each of all tokens comes to a given GPU `chance`
        times on average and at most `most` times, independently of the others.

        The expected largest of so many normal values (Blom 1958) with the mean and variance of the count.
        """
        n = self.shape.gpus
        if n == 1:
            return 1.0
        tokens = self.shape.tokens * n
        spread = sqrt(tokens * chance * max(1 - chance / most, 0.0))
        largest = NormalDist().inv_cdf((n - 0.375) / (n + 0.25))
        return 1 + largest * spread / (tokens * chance)
