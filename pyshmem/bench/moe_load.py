"""What the MoE figures on GPUs are taken of, and how: one place for ours (gpu_moe.py), DeepEP's
(peer_deepep.py) and NCCL's (peer_nccl_moe.py). All use PyTorch's arrays and events.

A figure is the median of `reps` calls in a row, each between two events, while the stream is kept full; all
ranks meet every ten calls. Bytes are those that leave the GPU: payload of the copies for other ranks.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

__all__ = [
    "LARGE",
    "SMALL",
    "MoePlan",
    "Shape",
    "Timing",
    "fp8_rows",
    "medians",
    "moe_plan",
    "overlap",
    "plan_from",
    "remote_rows",
    "row_bytes",
    "workload",
]


@dataclass(frozen=True)
class Shape:
    """Tokens of a rank, hidden, experts in all, choices a token."""

    tokens: int
    hidden: int
    experts: int
    topk: int


LARGE = Shape(4096, 7168, 256, 8)
SMALL = (Shape(128, 7168, 256, 8), Shape(128, 2048, 64, 6))


@dataclass(frozen=True)
class MoePlan:
    """What is measured: large batches with so many SMs each, and with the first number of them `beside` pairs
    next to eight products of `gemm` x `gemm` matrices; small batches in graphs of `pairs` calls. per_node:
    PEs that are a node for large batches, whose bytes are those to other nodes then; 0 = all."""

    reps: int = 30
    warm: int = 5
    pairs: int = 10
    sms: tuple[int, ...] = (24, 64)
    gemm: int = 8192
    beside: int = 48
    large: Shape = LARGE
    small: tuple[Shape, ...] = SMALL
    per_node: int = 0


def moe_plan(rounds: int | None = None, quick: bool = False) -> MoePlan:
    """The usual plan, or with `quick` small shapes and few calls."""
    if quick:
        return MoePlan(rounds or 5, 2, 4, (24,), 1024, 8, Shape(512, 2048, 64, 6), (Shape(32, 2048, 64, 6),))
    return MoePlan(reps=rounds or MoePlan.reps)


def plan_from(text: str) -> MoePlan:
    """The plan that a peer's program is given as JSON."""
    fields = json.loads(text)
    fields["large"], fields["sms"] = Shape(**fields["large"]), tuple(fields["sms"])
    fields["small"] = tuple(Shape(**shape) for shape in fields["small"])
    return MoePlan(**fields)


def fp8_rows(torch: Any, x: Any) -> tuple[Any, Any]:
    """E4M3 rows and their scales, 128 columns each."""
    groups = x.view(x.shape[0], -1, 128).float()
    amax = groups.abs().amax(2).clamp(1e-4)
    q = (groups * (448.0 / amax.unsqueeze(2))).to(torch.float8_e4m3fn)
    return q.view(x.shape), amax / 448.0


def workload(torch: Any, shape: Shape, seed: int) -> tuple[Any, Any, Any]:
    """x BF16 [T, H], topk_idx int64 [T, K], topk_weights float32 [T, K]: experts are chosen uniformly."""
    gen = torch.Generator(device="cuda").manual_seed(seed)
    x = torch.randn(shape.tokens, shape.hidden, device="cuda", dtype=torch.bfloat16, generator=gen)
    scores = torch.rand(shape.tokens, shape.experts, device="cuda", generator=gen)
    weights, idx = scores.topk(shape.topk, dim=1)
    return x, idx.to(torch.int64), weights.float()


def remote_rows(torch: Any, idx: Any, experts: int, ranks: int, rank: int, per_expert: bool) -> int:
    """Copies of tokens that leave this rank: one a remote rank, or one a remote expert."""
    owner = idx // (experts // ranks)
    if per_expert:
        return int((owner != rank).sum())
    hit = torch.zeros(idx.shape[0], ranks, dtype=torch.bool, device=idx.device).scatter_(1, owner, True)
    hit[:, rank] = False
    return int(hit.sum())


def row_bytes(kind: str, hidden: int) -> int:
    """Bytes of a row as bf16, fp8 or int8, a float32 scale for 128 columns."""
    return hidden * 2 if kind == "bf16" else hidden + hidden // 128 * 4


def medians(
    torch: Any, meet: Callable[[], None], step: Callable[[Callable[[], None]], None], phases: Sequence[str],
    plan: MoePlan,
) -> dict[str, list[float]]:  # fmt: skip
    """`step(mark)` calls mark() after each of its phases; each phase's microseconds, a sample a call."""
    rows: list[list[Any]] = []
    for rep in range(plan.reps + plan.warm):
        events = [torch.cuda.Event(enable_timing=True)]
        if rep % 10 == 0:
            torch.cuda.synchronize()
            meet()
        events[0].record()

        def mark(events: list[Any] = events) -> None:
            events.append(torch.cuda.Event(enable_timing=True))
            events[-1].record()

        step(mark)
        if rep >= plan.warm:
            rows.append(events)
    torch.cuda.synchronize()
    spans = [[a.elapsed_time(b) * 1e3 for a, b in pairwise(r)] for r in rows]
    return {name: [s[i] for s in spans] for i, name in enumerate(phases)}


def overlap(
    torch: Any, meet: Callable[[], None], pair: Callable[[], None], plan: MoePlan
) -> dict[str, list[float]]:
    """Microseconds of a BF16 matrix product alone, and while `pair`, a dispatch and a combine, runs again and
    again on another stream; and of a pair alone and beside the products. All ranks do so together."""
    n = plan.gemm
    a, b = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    out, side, main = torch.empty_like(a), torch.cuda.Stream(), torch.cuda.current_stream()

    def spans(stream: Any, calls: int, call: Callable[[], Any], after: Any = None) -> list[Any]:
        with torch.cuda.stream(stream):
            if after is not None:
                stream.wait_event(after)
            events = [torch.cuda.Event(enable_timing=True) for _ in range(calls + 1)]
            events[0].record()
            for event in events[1:]:
                call()
                event.record()
        return events

    def times(events: list[Any]) -> list[float]:
        return [1e3 * one.elapsed_time(next_one) for one, next_one in pairwise(events)]

    def product() -> None:
        torch.mm(a, b, out=out)

    found: dict[str, list[float]] = {name: [] for name in ("gemm", "gemm_beside", "pair", "pair_beside")}
    for rep in range(2 + max(1, plan.reps // 5)):
        torch.cuda.synchronize()
        meet()
        gemm = spans(main, 8, product)
        torch.cuda.synchronize()
        meet()
        alone = spans(side, 8, pair)
        torch.cuda.synchronize()
        meet()
        # longer than the products take; as many on all ranks, since a pair wants them all
        with_products = spans(side, plan.beside, pair)
        with_pairs = spans(main, 8, product, with_products[1])
        torch.cuda.synchronize()
        if rep >= 2:
            found["gemm"] += times(gemm)[1:]
            found["gemm_beside"] += times(with_pairs)[1:-1]
            found["pair"] += times(alone)[1:]
            found["pair_beside"] += times(with_products)[1 : 1 + plan.beside // 4]
    return found


@dataclass(frozen=True)
class Timing:
    """One figure before it is shown. us: a sample a call; nbytes: what this rank sends to others; sms: thread
    blocks of a large-batch call, else 0."""

    op: str
    us: Sequence[float]
    nbytes: int
    shape: Shape
    sms: int = 0

    def line(self, npes: int) -> dict[str, Any]:
        """Median and quartiles, and GB/s over the wire."""
        ordered, middle = sorted(self.us), statistics.median(self.us)
        n = len(ordered)
        return {
            "npes": npes, "op": self.op, "us": round(middle, 2), "q1": round(ordered[n // 4], 2),
            "q3": round(ordered[n - 1 - n // 4], 2), "remote_bytes": self.nbytes,
            "GBps": round(self.nbytes / middle / 1e3, 1), **asdict(self.shape),
            **({"sms": self.sms} if self.sms else {}),
        }  # fmt: skip

    def figure(self) -> dict[str, Any]:
        """The same as `figures.figure` takes it."""
        s = self.shape
        return {
            "group": "moe", "op": self.op, "nbytes": self.nbytes, "unit": "ns", "blocks": self.sms,
            "samples": [1e3 * t for t in self.us],
            "form": f"{s.tokens} x {s.hidden}, top-{s.topk} of {s.experts}",
        }  # fmt: skip
