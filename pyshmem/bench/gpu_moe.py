"""MoE dispatch and combine on GPUs, one PE a GPU: the figures that DeepEP's are held against.

    mpirun -n 4 python -m pyshmem.bench.gpu_moe [--quick] [--only normal,ll] [--sms 24,64] [--reps 30]

PE 0 prints a line of JSON a figure. Large batches: `ExpertParallel` with so many thread blocks, dispatch with
the host waiting for the counts (as DeepEP's does), without, and cached; the layout is there before. Small
ones: `LowLatency`; calls from the host, and pairs of dispatch and combine replayed from a CUDA graph. What
arrived is looked at once.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .moe_load import MoePlan, Shape, Timing, medians, moe_plan, overlap, remote_rows, row_bytes, workload

__all__ = ["WrongResult", "divides", "main", "measure"]

_QUANT = {"bf16": "none", "fp8": "fp8", "int8": "int8"}

Say = Callable[[Timing], None]


class WrongResult(RuntimeError):
    """What arrived is not what was sent: figures would be worth nothing."""


class _Moe:
    """The measurements of one job; collective, as all its methods."""

    def __init__(self, plan: MoePlan, say: Say) -> None:
        import torch

        import pyshmem as shmem
        from pyshmem import device

        self.torch, self.shmem, self.device = torch, shmem, device
        self.plan, self._say = plan, say
        self.me, self.n = shmem.my_pe(), shmem.n_pes()
        self.verdict = shmem.zeros(1), shmem.zeros(1)

    def close(self) -> None:
        for a in self.verdict:
            self.shmem.free(a)

    def meet(self) -> None:
        self.shmem.barrier_all()

    def say(self, op: str, us: Sequence[float], nbytes: int, shape: Shape, sms: int = 0) -> None:
        if self.me == 0:
            self._say(Timing(op, us, nbytes, shape, sms))

    def times(self, step: Callable[[Callable[[], None]], None], *phases: str) -> dict[str, list[float]]:
        found = medians(self.torch, self.meet, step, phases, self.plan)
        self.device.check()
        return found

    def close_to(self, got: Any, wanted: Any, relative: float, what: str) -> None:
        """On every PE the same answer, so that none is left waiting for one that has gone."""
        mine, worst = self.verdict
        error = float((got.float() - wanted.float()).norm() / wanted.float().norm()) if len(wanted) else 0.0
        mine[0] = error if np.isfinite(error) else 1e30
        self.shmem.max_reduce(worst, mine)
        if not worst[0] <= relative:
            off = ((got.float() - wanted.float()).norm(dim=-1) / wanted.float().norm(dim=-1)).flatten()
            rows = self.torch.nonzero(~(off <= max(relative, 1e-6))).flatten().tolist()
            raise WrongResult(
                f"{what}: wrong result, some PE is off by {worst[0]:.3g} of the norm; on PE {self.me} "
                f"{len(rows)} of {len(off)} rows, {int((~off.isfinite()).sum())} of them not finite: "
                f"{str(rows[:16])[1:-1]}"
            )

    # ---- large batches

    def normal(self) -> None:
        shape = self.plan.large
        x, idx, weights = workload(self.torch, shape, self.me)
        per_node = self.plan.per_node
        parts, mine = (self.n // per_node, self.me // per_node) if per_node else (self.n, self.me)
        rows = remote_rows(self.torch, idx, shape.experts, parts, mine, per_expert=False)
        from pyshmem.moe import ExpertParallel

        make: Any = ExpertParallel
        ep = make(
            shape.experts, shape.hidden, shape.topk, shape.tokens, device="cuda",
            pes_per_node=per_node or None,
        )  # fmt: skip
        for sms in self.plan.sms:
            for kind in ("bf16", "fp8", "int8"):
                self._dispatches(ep, kind, (x, idx, weights), rows, sms)
            got = ep.dispatch(x, idx, weights, blocks=sms)
            self._check_rows(got, "bf16", "dispatch, bf16, after int8")
            y = got.recv_x.clone()
            for kind in ("bf16", "int8"):
                # memory used before may hold the very sums: what is not written must not look right
                out = self.torch.full_like(x, float("nan"))

                def back(
                    mark: Callable[[], None], kind: str = kind, got: Any = got, y: Any = y, out: Any = out,
                    sms: int = sms,
                ) -> None:  # fmt: skip
                    ep.combine(y, got, out=out, quant=_QUANT[kind], blocks=sms)
                    mark()

                us = self.times(back, "combine")["combine"]
                self.say(f"normal_combine_{kind}", us, rows * row_bytes(kind, shape.hidden), shape, sms)
                hit = self._ranks_of(idx, shape)
                self.close_to(out, x.float() * hit[:, None], 0.02, f"combine, {kind}")
        self._overlap(ep, x, idx, weights, rows)
        ep.close()

    def _overlap(self, ep: Any, x: Any, idx: Any, weights: Any, rows: int) -> None:
        sms, shape = self.plan.sms[0], self.plan.large
        got = ep.dispatch(x, idx, weights, blocks=sms)
        y, out = got.recv_x.clone(), self.torch.empty_like(x)

        def pair() -> None:
            ep.dispatch(x, routing=got, blocks=sms)
            ep.combine(y, got, out=out, blocks=sms)

        for name, us in overlap(self.torch, self.meet, pair, self.plan).items():
            nbytes = 2 * rows * row_bytes("bf16", shape.hidden) if name.startswith("pair") else 0
            self.say(f"overlap_{name}", us, nbytes, shape, sms)
        self.device.check()

    def _ranks_of(self, idx: Any, shape: Shape) -> Any:
        owner = idx // (shape.experts // self.n)
        hit = self.torch.zeros(shape.tokens, self.n, device=idx.device)
        return hit.scatter_(1, owner, 1.0).sum(1)

    def _dispatches(self, ep: Any, kind: str, load: tuple[Any, Any, Any], rows: int, sms: int) -> None:
        x, idx, weights = load
        nbytes = rows * row_bytes(kind, x.shape[1])
        options = {"quant": _QUANT[kind], "quantized": kind != "bf16", "blocks": sms}
        got = ep.dispatch(x, idx, weights, **options)
        self._check_rows(got, kind, f"dispatch, {kind}")
        layout = ep.layout(idx)  # before the clock starts, as for DeepEP

        def fresh(mark: Callable[[], None]) -> None:
            ep.dispatch(x, idx, weights, layout=layout, **options)
            mark()

        def unsynced(mark: Callable[[], None]) -> None:
            ep.dispatch(x, idx, weights, layout=layout, sync=False, **options)
            mark()

        def cached(mark: Callable[[], None]) -> None:
            ep.dispatch(x, routing=got, **options)
            mark()

        for step, name in ((fresh, ""), (unsynced, "_nosync"), (cached, "_cached")):
            us = self.times(step, "dispatch")["dispatch"]
            self.say(f"normal_dispatch{name}_{kind}", us, nbytes, self.plan.large, sms)
        again = ep.dispatch(self.torch.flip(x, (1,)), routing=got, **options)
        self._check_rows(again, kind, f"cached dispatch, {kind}", flipped=True)

    def _check_rows(self, got: Any, kind: str, what: str, flipped: bool = False) -> None:
        """Against all PEs' tokens, which are made again here."""
        wanted = self.torch.empty(got.rows, self.plan.large.hidden, dtype=self.torch.bfloat16, device="cuda")
        for source in range(self.n):
            x, _, _ = workload(self.torch, self.plan.large, source)
            x = self.torch.flip(x, (1,)) if flipped else x
            here = got.source_rank == source
            wanted[here] = x[got.source_token[here].long()]
        values = got.recv_x
        if got.scales is not None:
            values = values.float().view(got.rows, got.scales.shape[1], -1) * got.scales.unsqueeze(2)
            values = values.view(wanted.shape)
        self.close_to(values, wanted, {"bf16": 0.0, "fp8": 0.05, "int8": 0.02}[kind], what)

    # ---- small batches

    def low_latency(self) -> None:
        for shape in self.plan.small:
            for kind, back in (("bf16", "bf16"), ("fp8", "bf16"), ("int8", "int8")):
                self._pair(shape, kind, back)

    def _pair(self, shape: Shape, kind: str, back: str) -> None:
        torch = self.torch
        from pyshmem.moe import LowLatency

        x, idx, weights = workload(torch, shape, self.me)
        rows = remote_rows(torch, idx, shape.experts, self.n, self.me, per_expert=False)
        there, home = rows * row_bytes(kind, shape.hidden), rows * row_bytes(back, shape.hidden)
        make: Any = LowLatency
        ll = make(
            shape.experts,
            shape.hidden,
            shape.topk,
            shape.tokens,
            quant=_QUANT[kind],
            combine_quant=_QUANT[back],
        )
        scale = {"bf16": 0.01, "fp8": 0.05, "int8": 0.02}[kind]
        got = ll.dispatch(x, idx, weights)
        self.close_to(
            ll.combine(self._bf16(got), got), x.float() * weights.sum(1, keepdim=True), scale,
            f"low latency, {kind} and {back}",
        )  # fmt: skip
        y = torch.randn(ll.local_experts, self.n * shape.tokens, shape.hidden, device="cuda").bfloat16()
        out = torch.empty_like(x)
        scales = "columns" if kind == "fp8" else "rows"

        def step(mark: Callable[[], None]) -> None:
            got = ll.dispatch(x, idx, weights, scales=scales)
            mark()
            ll.combine(y, got, out=out)
            mark()

        us = self.times(step, "dispatch", "combine")
        self.say(f"ll_dispatch_{kind}", us["dispatch"], there, shape)
        self.say(f"ll_combine_{back}_after_{kind}", us["combine"], home, shape)

        def dispatches() -> None:
            ll.dispatch(x, idx, weights, scales=scales)

        def combines() -> None:
            ll.combine(y, got, out=out)

        for name, once, nbytes in (
            ("ll_pair_graph", lambda: step(lambda: None), there + home),
            ("ll_dispatch_graph", dispatches, there),
            ("ll_combine_graph", combines, home),
        ):
            self._graph(f"{name}_{kind}_{back}", once, nbytes, shape)
        ll.close()

    def _bf16(self, got: Any) -> Any:
        if got.scales is None:
            return got.recv_x
        experts, rows, hidden = got.recv_x.shape
        values = got.recv_x.float().view(experts, rows, -1, 128) * got.scales.unsqueeze(3)
        return values.view(experts, rows, hidden).bfloat16()

    def _graph(self, op: str, once: Callable[[], None], nbytes: int, shape: Shape) -> None:
        """Calls replayed from a CUDA graph: what a decode step pays, with no launch gaps in it."""
        torch, calls = self.torch, self.plan.pairs
        torch.cuda.synchronize()
        self.meet()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(calls):
                once()

        def replay(mark: Callable[[], None]) -> None:
            graph.replay()
            mark()

        us = [t / calls for t in self.times(replay, "calls")["calls"]]
        self.say(op, us, nbytes, shape)


def divides(plan: MoePlan, npes: int) -> bool:
    """Whether so many PEs hold equally many experts each, which the peer's figures want."""
    return all(shape.experts % npes == 0 for shape in (plan.large, *plan.small))


def measure(plan: MoePlan, say: Say, parts: tuple[str, ...] = ("normal", "ll")) -> None:
    """Takes the figures; collective over the PEs of the job. `say` is called on PE 0."""
    moe = _Moe(plan, say)
    if "normal" in parts:
        moe.normal()
    if "ll" in parts:
        moe.low_latency()
    moe.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small shapes, few calls")
    parser.add_argument("--only", default="normal,ll", help="normal, ll or both")
    parser.add_argument("--sms", help="thread blocks of the normal calls, separated by commas")
    parser.add_argument("--reps", type=int, help="calls of a figure")
    parser.add_argument(
        "--pes-per-node", type=int, default=0, help="makes nodes of the GPUs, for normal calls"
    )
    options = parser.parse_args()
    import torch

    import pyshmem as shmem

    torch.cuda.set_device(shmem.my_pe() % torch.cuda.device_count())
    plan = replace(moe_plan(options.reps, options.quick), per_node=options.pes_per_node)
    if options.sms:
        plan = replace(plan, sms=tuple(int(n) for n in options.sms.split(",")))

    def say(timing: Timing) -> None:
        print(json.dumps({"peer": "pyshmem", **timing.line(shmem.n_pes())}), flush=True)

    if options.pes_per_node < 0 or (options.pes_per_node and shmem.n_pes() % options.pes_per_node):
        parser.error(f"--pes-per-node {options.pes_per_node} does not divide {shmem.n_pes()} PEs")
    if not divides(plan, shmem.n_pes()):
        parser.error(f"{shmem.n_pes()} PEs do not divide the numbers of experts")
    measure(plan, say, tuple(options.only.split(",")))
    shmem.barrier_all()


if __name__ == "__main__":
    main()
