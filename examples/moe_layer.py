"""A mixture-of-experts layer in PyTorch, shaped as DeepSeek-V3's, with its experts spread over the GPUs.

    mpirun -n 4 python examples/moe_layer.py
    mpirun -n 4 python examples/moe_layer.py --deepseek --quant fp8 --tokens 4096

Gate: sigmoid scores, top-k of the best groups, as `pyshmem.router` has it. Then dispatch, a SwiGLU FFN for
each expert, combine; and a shared expert that every token goes through. It runs twice: one step after the
other, and with the tokens in two micro-batches on two streams, so that the communication of one hides behind
the matrix products of the other. Every PE computes its tokens' result once more without communication, all
experts itself, and compares. Needs PyTorch and CUDA GPUs that reach each other.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional

import pyshmem as shmem
from pyshmem import device
from pyshmem.moe import ExpertParallel
from pyshmem.router import Router

TOLERANCE = {"none": 0.02, "int8": 0.03, "fp8": 0.07}  # of the norm of the result


@dataclass
class Shape:
    tokens: int
    hidden: int
    inter: int  # of an expert's FFN
    experts: int
    topk: int
    groups: int
    topk_groups: int
    scale: float = 2.5


class Gate:
    """Scores [T, E] of tokens, and the experts that they choose."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        generator = torch.Generator(device="cuda").manual_seed(1)
        self.weight = torch.randn(shape.experts, shape.hidden, device="cuda", generator=generator)
        self.weight *= shape.hidden**-0.5
        self.bias = torch.zeros(shape.experts, device="cuda")  # of training without auxiliary loss

    def logits(self, x: Tensor) -> Tensor:
        return x.float() @ self.weight.t()

    def choose(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """(experts int64 [T, K], weights float32 [T, K])."""
        s = self.shape
        scores = logits.sigmoid()
        ranked = scores + self.bias
        in_groups = ranked.view(len(ranked), s.groups, -1)
        best = in_groups.topk(min(-(-s.topk // s.topk_groups), in_groups.shape[2]), dim=2).values.sum(2)
        allowed = torch.zeros_like(best, dtype=torch.bool)
        allowed.scatter_(1, best.topk(s.topk_groups, dim=1).indices, True)
        open_to = allowed.repeat_interleave(s.experts // s.groups, dim=1)
        idx = ranked.masked_fill(~open_to, float("-inf")).topk(s.topk, dim=1).indices
        weights = scores.gather(1, idx)
        return idx, weights / weights.sum(1, keepdim=True) * s.scale


class Expert:
    """SwiGLU: w2(silu(w1 x) * w3 x). Number -1 is the shared one."""

    def __init__(self, shape: Shape, number: int) -> None:
        generator = torch.Generator(device="cuda").manual_seed(1000 + number)
        h, f = shape.hidden, shape.inter

        def matrix(rows: int, columns: int) -> Tensor:
            made = torch.randn(rows, columns, device="cuda", generator=generator) * columns**-0.5
            return made.to(torch.bfloat16)

        self.up, self.down = matrix(2 * f, h), matrix(h, f)

    def __call__(self, x: Tensor) -> Tensor:
        gate, up = (x @ self.up.t()).chunk(2, dim=1)
        return (functional.silu(gate) * up) @ self.down.t()


# Products of consecutive rows with a matrix for each group, in one launch; public since PyTorch 2.10.
_grouped = getattr(functional, "grouped_mm", None) or getattr(torch, "_grouped_mm", None)


class Experts:
    """The experts from `first` on, together: by two grouped products where PyTorch and the GPU have them,
    else one after the other, which the host's launches hold up."""

    def __init__(self, shape: Shape, first: int, count: int) -> None:
        each = [Expert(shape, first + i) for i in range(count)]
        self.grouped = _grouped is not None and count > 0 and torch.cuda.get_device_capability() >= (9, 0)
        self.each = each
        if self.grouped:
            self.up, self.down = torch.stack([e.up for e in each]), torch.stack([e.down for e in each])
            self.each = []

    def __call__(self, got) -> Tensor:
        """The experts' outputs for the rows of `got`; undefined behind the last expert's."""
        x = got.recv_x
        if self.grouped and len(x):
            ends = got.expert_ends
            gate, up = _grouped(x, self.up.transpose(1, 2), offs=ends).chunk(2, dim=1)
            return _grouped(functional.silu(gate) * up, self.down.transpose(1, 2), offs=ends)
        y = torch.empty_like(x)
        for expert, (begin, end) in zip(self.each, got.expert_ranges(), strict=False):
            if end > begin:
                y[begin:end] = expert(x[begin:end])
        return y


class Layer:
    """The layer of one PE: all of the gate and the shared expert, its part of the others."""

    def __init__(self, shape: Shape, quant: str, combine_quant: str, sms: int) -> None:
        self.shape = shape
        self.ep = ExpertParallel(
            shape.experts, shape.hidden, shape.topk, shape.tokens, quant=quant, combine_quant=combine_quant,
            num_sms=sms, results=2, device="cuda",
            # where nobody waits for the counts: of a micro-batch, whose experts' rows may be twice the mean
            expert_capacity=shape.tokens * shape.topk,
        )  # fmt: skip
        self.gate, self.shared = Gate(shape), Expert(shape, -1)
        self.experts = Experts(shape, self.ep.first_expert, self.ep.local_experts)
        # What travels goes before products that become ready at the same time.
        self.network, self.side = torch.cuda.Stream(priority=-1), torch.cuda.Stream()

    def in_order(self, x: Tensor, mark: Callable[[str], None] = lambda name: None) -> Tensor:
        """One step after the other, on the current stream."""
        mark("")
        idx, weights = self.gate.choose(self.gate.logits(x))
        mark("gate")
        got = self.ep.dispatch(x, idx, weights, by_expert=True)
        mark("dispatch")
        y = self.experts(got)
        mark("experts")
        out = self.ep.combine(y, got)
        mark("combine")
        out += self.shared(x)
        mark("shared expert")
        return out

    def overlapped(self, x: Tensor) -> Tensor:
        """Two micro-batches: dispatches and combines on one stream, the experts' products on the current one,
        the shared expert on a third."""
        compute, network, side = torch.cuda.current_stream(), self.network, self.side
        side.wait_stream(compute)
        with torch.cuda.stream(side):
            shared = self.shared(x)
        shared.record_stream(compute)
        choices = [both.chunk(2) for both in self.gate.choose(self.gate.logits(x))]
        parts = list(zip(x.chunk(2), *choices, strict=True))
        layouts = [self.ep.layout(idx) for _, idx, _ in parts]
        network.wait_stream(compute)  # for the choices, and for nothing that follows
        outs = []

        def dispatch(i: int):
            part, idx, weights = parts[i]
            # Grouped products take the counts on the GPU, so the host never waits, and is far ahead.
            got = self.ep.dispatch(
                part, idx, weights, by_expert=True, sync=not self.experts.grouped, layout=layouts[i],
                stream=network,
            )  # fmt: skip
            for a in (got.recv_x, part, idx, weights):
                a.record_stream(compute)
                a.record_stream(network)
            return got, network.record_event()

        def products(got, ready: torch.cuda.Event):
            compute.wait_event(ready)
            y = self.experts(got)
            y.record_stream(network)
            return y, compute.record_event()

        def combine(y: Tensor, got, ready: torch.cuda.Event) -> None:
            network.wait_event(ready)
            outs.append(self.ep.combine(y, got, stream=network))

        waiting = None
        last = dispatch(0)
        for i in range(len(parts)):
            got, arrived = last
            y, done = products(got, arrived)
            if i + 1 < len(parts):
                last = dispatch(i + 1)  # travels while this part's experts compute
            if waiting is not None:
                combine(*waiting)
            waiting = y, got, done
        assert waiting is not None
        combine(*waiting)
        compute.wait_stream(network)
        compute.wait_stream(side)
        for out in outs:
            out.record_stream(compute)
        return torch.cat(outs).add_(shared)

    def alone(self, x: Tensor) -> Tensor:
        """The same on this GPU alone, expert by expert, without communication."""
        idx, weights = self.gate.choose(self.gate.logits(x))
        total = self.shared(x).float()
        for e in range(self.shape.experts):
            rows, k = (idx == e).nonzero(as_tuple=True)
            if len(rows):
                total.index_add_(0, rows, Expert(self.shape, e)(x[rows]).float() * weights[rows, k, None])
        return total


def timed(step: Callable[[Callable[[str], None]], object], rounds: int) -> dict[str, float]:
    """Median milliseconds of each phase that `step` marks, "" being its begin."""
    found: dict[str, list[float]] = {}
    for round in range(rounds + 3):
        marks: list[tuple[str, torch.cuda.Event]] = []

        def mark(name: str, marks: list[tuple[str, torch.cuda.Event]] = marks) -> None:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            marks.append((name, event))

        torch.cuda.synchronize()
        shmem.barrier_all()
        step(mark)
        torch.cuda.synchronize()
        if round >= 3:
            for (_, a), (name, b) in pairwise(marks):
                found.setdefault(name, []).append(a.elapsed_time(b))
    return {name: statistics.median(times) for name, times in found.items()}


def whole(layer: Layer, x: Tensor, name: str) -> Callable[[Callable[[str], None]], object]:
    def step(mark: Callable[[str], None]) -> None:
        mark("")
        getattr(layer, name)(x)
        mark("all")

    return step


def the_gate_is_the_routers(layer: Layer, x: Tensor) -> bool:
    """Whether some tokens choose what `pyshmem.router` says."""
    s = layer.shape
    logits = layer.gate.logits(x[:64])
    router = Router(
        s.experts, s.topk, score="sigmoid", n_group=s.groups, topk_group=s.topk_groups, scale=s.scale
    )
    wanted = router(logits.cpu().numpy().astype(np.float32))
    idx, weights = layer.gate.choose(logits)
    order = np.argsort(wanted.idx, axis=1)
    ours = idx.cpu().numpy()
    mine = np.argsort(ours, axis=1)
    same = np.take_along_axis(ours, mine, 1) == np.take_along_axis(wanted.idx, order, 1)
    w = np.take_along_axis(weights.cpu().numpy(), mine, 1)
    near = np.isclose(w, np.take_along_axis(wanted.weights, order, 1), rtol=1e-3, atol=1e-5)
    return bool((same & near).all(axis=1).mean() >= 0.95)  # near-ties may fall either way


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokens", type=int, default=1024, help="of a PE (default 1024)")
    parser.add_argument("--hidden", type=int, default=1024, help="default 1024")
    parser.add_argument("--inter", type=int, default=512, help="width of an expert (default 512)")
    parser.add_argument("--experts", type=int, default=32, help="default 32, top-8 of 4 of 8 groups")
    parser.add_argument("--deepseek", action="store_true", help="hidden 7168, 256 experts of width 2048")
    parser.add_argument("--quant", choices=["none", "int8", "fp8"], default="fp8", help="out (default fp8)")
    parser.add_argument(
        "--combine-quant", choices=["none", "int8"], default="none", help="back (default none)"
    )
    parser.add_argument("--sms", type=int, default=0, help="thread blocks of the communication")
    parser.add_argument("--rounds", type=int, default=10, help="timed repetitions (default 10)")
    found = parser.parse_args()
    if found.deepseek:
        found.hidden, found.inter, found.experts = 7168, 2048, 256
    if (
        min(found.tokens, found.hidden, found.inter, found.rounds) < 1
        or found.experts < 8
        or found.experts % 8
    ):
        parser.error("sizes and --rounds must be positive, --experts a multiple of 8")
    if found.experts < 16:
        parser.error("top-8 of 4 groups needs at least 16 experts")
    return found


def main() -> None:
    o = options()
    me, npes = shmem.my_pe(), shmem.n_pes()
    torch.cuda.set_device(me % torch.cuda.device_count())
    shape = Shape(o.tokens, o.hidden, o.inter, o.experts, topk=8, groups=8, topk_groups=4)
    layer = Layer(shape, o.quant, o.combine_quant, o.sms)
    generator = torch.Generator(device="cuda").manual_seed(7 + me)
    x = torch.randn(o.tokens, o.hidden, device="cuda", generator=generator).to(torch.bfloat16)

    with torch.no_grad():
        wanted = layer.alone(x)
        errors = [
            float((run(x).float() - wanted).norm() / wanted.norm())
            for run in (layer.in_order, layer.overlapped)
        ]
        fine = the_gate_is_the_routers(layer, x)
        split = timed(lambda mark: layer.in_order(x, mark), o.rounds)
        ordered = timed(whole(layer, x, "in_order"), o.rounds)["all"]
        hidden = timed(whole(layer, x, "overlapped"), o.rounds)["all"]

    device.synchronize()  # raises what kernels have found
    worst = shmem.array([*errors, 0.0 if fine else 1.0])
    shmem.max_reduce(worst, worst)
    if me == 0:
        table = Table(
            title=f"MoE layer on {npes} PEs: {o.experts} experts, {o.tokens} x {o.hidden}, {o.quant} out"
        )
        table.add_column("step")
        table.add_column("ms", justify="right")
        for name, ms in split.items():
            table.add_row(name, f"{ms:.3f}")
        table.add_section()
        table.add_row("one after the other", f"{ordered:.3f}")
        table.add_row("two micro-batches, overlapped", f"{hidden:.3f}")
        Console(width=None if Console().is_terminal else 100).print(table)
        print(
            f"{npes} PEs: off from one GPU by {worst[0]:.4f} of the norm, overlapped {worst[1]:.4f}; at most "
            f"{TOLERANCE[o.quant]} is right"
        )
        if worst[2]:
            print("the gate does not choose what pyshmem's Router does")
        if not (worst[:2] <= TOLERANCE[o.quant]).all() or worst[2]:
            shmem.global_exit(1)  # by the PE that has said why
    layer.ep.close()


if __name__ == "__main__":
    main()
