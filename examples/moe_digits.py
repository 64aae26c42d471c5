"""A mixture of experts learns to read handwritten digits, its experts spread over the PEs of a job.

    python examples/moe_digits.py                    # one PE
    mpirun -n 4 python examples/moe_digits.py        # eight experts on four PEs
    mpirun -n 4 python examples/moe_digits.py --experts 6 --quant int8 --plot digits.png

The model, for images of 64 pixels (scikit-learn's digits), hidden size H, E experts, K of them an image:

    h      = relu(pixels @ w_in + b_in)                    every PE has these weights
    gate   = top-K of softmax(h @ w_gate)                  and these
    moe    = sum over the K experts of weight * (relu(h @ w1 + b1) @ w2 + b2)    each expert is on one PE
    logits = (h + moe) @ w_out + b_out                     every PE has these weights

Each batch is dealt out to the PEs. A PE computes the dense layers for its images, sends each row of h to the PEs that
hold its experts (dispatch), and gets the weighted sum of what they made (combine). Backward goes the same two ways:
the gradient of combine is a dispatch, the gradient of dispatch is a combine. Gradients of the dense weights are added
up over the PEs with sum_reduce; those of an expert are complete where the expert is.

The same training runs three times: rows travel as float32, as INT8 (forward and backward), and not at all, in one
process. The first must equal the last up to rounding, the second must read digits as well as the first.

Read it in this order: `Model` is mathematics, `Pes` is all communication, `InOneProcess` is the same without any.
"""

from __future__ import annotations

import os

# One core a PE: threads of the linear algebra would only fight over the cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import argparse
import contextlib
import importlib.util
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

import pyshmem as shmem
from pyshmem.moe import Dispatched, ExpertParallel
from pyshmem.router import Gate, Router, load_counts

Array = npt.NDArray[Any]
CLASSES, PIXELS, LEARNING_RATE, MOMENTUM = 10, 64, 0.1, 0.9

# ---- communication ------------------------------------------------------------------------------------------


class Rows(NamedTuple):
    """What the experts of this PE are to work on: one row for each (image, expert), grouped by expert."""

    x: Array  # [rows, H] float32
    weights: Array  # [rows] of the gate
    ranges: list[tuple[int, int]]  # first row of each local expert, and the row after its last
    way_back: Any  # what the exchange needs to send rows back


class Exchange(Protocol):
    """How rows get to experts and back. Weights and mathematics are float64, what travels is float32 or INT8: so
    the order in which PEs add up gradients does not show, and a difference from one process is the transfers'."""

    experts: range  # held here

    def mine(self, images: Array) -> Array:
        """This PE's share of a batch."""

    def add_up(self, values: Array) -> None:
        """Replaces `values` by their sum over all PEs."""

    def dispatch(self, x: Array, gate: Gate) -> Rows: ...

    def combine(self, y: Array, rows: Rows) -> Array:
        """[images, H]: for each image the sum of its experts' rows, each times its weight."""

    def combine_backward(self, grad: Array, rows: Rows) -> Array:
        """From [images, H] to [rows, H]: each expert gets the gradient of the sum that its row went into."""

    def dispatch_backward(self, grad_x: Array, grad_weights: Array, rows: Rows) -> tuple[Array, Array]:
        """From [rows, H] and [rows] to [images, H], the sum over its experts, and [images, K]."""


def float32(x: Array) -> Array:
    return np.ascontiguousarray(x, dtype=np.float32)


class Pes:
    """The exchange over the PEs of the job."""

    def __init__(self, o: Options, quant: str) -> None:
        self.pe, self.n = shmem.my_pe(), shmem.n_pes()
        self.moe = ExpertParallel(
            o.experts, o.hidden, o.topk, -(-o.batch // self.n), quant=quant, combine_quant=quant, group=128
        )  # results=2, the default: rows of the forward dispatch stay while the backward one is in flight
        self.experts = range(self.moe.first_expert, self.moe.first_expert + self.moe.local_experts)

    def mine(self, images: Array) -> Array:
        return images[self.pe :: self.n]

    def add_up(self, values: Array) -> None:
        shmem.sum_reduce(values, values)

    def dispatch(self, x: Array, gate: Gate) -> Rows:
        got = self.moe.dispatch(float32(x), gate.idx, gate.weights, by_expert=True)
        chosen = got.topk_idx >= 0
        weights = np.zeros(got.expert_rows)
        weights[got.expert_position[chosen]] = got.topk_weights[chosen]
        return Rows(got.recv_x, weights, list(got.expert_ranges()), got)

    def combine(self, y: Array, rows: Rows) -> Array:
        return self.moe.combine(float32(y), rows.way_back, weighted=True)

    def combine_backward(self, grad: Array, rows: Rows) -> Array:
        return self.moe.dispatch(float32(grad), routing=rows.way_back, by_expert=True).recv_x

    def dispatch_backward(self, grad_x: Array, grad_weights: Array, rows: Rows) -> tuple[Array, Array]:
        got: Dispatched = rows.way_back
        by_choice = np.zeros(got.topk_idx.shape, np.float32)
        chosen = got.topk_idx >= 0
        by_choice[chosen] = grad_weights[got.expert_position[chosen]]
        return self.moe.combine(float32(grad_x), got, weighted=False, topk_weights=by_choice)


class InOneProcess:
    """The same for one process that has all experts: rows are sorted by expert, and nothing travels."""

    def __init__(self, o: Options) -> None:
        self.experts = range(o.experts)

    def mine(self, images: Array) -> Array:
        return images

    def add_up(self, values: Array) -> None:
        pass

    def dispatch(self, x: Array, gate: Gate) -> Rows:
        order = np.argsort(gate.idx, axis=None, kind="stable")  # choices by expert, then by image
        ends = np.cumsum(load_counts(gate.idx, len(self.experts))).tolist()
        return Rows(
            float32(x)[order // gate.idx.shape[1]],
            gate.weights.reshape(-1)[order].astype(np.float64),
            list(zip([0, *ends], ends, strict=False)),
            (order, gate.weights),
        )

    def _by_choice(self, values: Array, rows: Rows) -> Array:
        """[rows, ...] as [images, K, ...]."""
        order, weights = rows.way_back
        back = np.empty_like(values)
        back[order] = values
        return back.reshape(*weights.shape, *values.shape[1:])

    def combine(self, y: Array, rows: Rows) -> Array:
        return (rows.way_back[1][:, :, None] * self._by_choice(float32(y), rows)).sum(axis=1)

    def combine_backward(self, grad: Array, rows: Rows) -> Array:
        order, weights = rows.way_back
        return float32(grad)[order // weights.shape[1]]

    def dispatch_backward(self, grad_x: Array, grad_weights: Array, rows: Rows) -> tuple[Array, Array]:
        return self._by_choice(float32(grad_x), rows).sum(axis=1), self._by_choice(float32(grad_weights), rows)


# ---- mathematics --------------------------------------------------------------------------------------------


def views(flat: Array, shapes: dict[str, tuple[int, ...]]) -> dict[str, Array]:
    """Consecutive pieces of `flat` by name."""
    pieces, at = {}, 0
    for name, shape in shapes.items():
        pieces[name] = flat[at : at + math.prod(shape)].reshape(shape)
        at += math.prod(shape)
    return pieces


def fill(weights: dict[str, Array], seed: list[int]) -> None:
    """Random matrices of the usual scale; biases stay 0."""
    random = np.random.default_rng(seed)
    for value in weights.values():
        if value.ndim == 2:
            value[:] = random.normal(0, math.sqrt(2 / value.shape[0]), value.shape)


def cross_entropy(logits: Array, labels: Array) -> tuple[Array, Array]:
    """Loss of each image, and its gradient with respect to the logits."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    each = np.arange(len(labels))
    grad = np.exp(log_p)
    grad[each, labels] -= 1
    return -log_p[each, labels], grad


class Model:
    """Weights, forward and backward. All PEs have the dense weights, each has its own experts."""

    def __init__(self, o: Options, exchange: Exchange) -> None:
        h, f = o.hidden, 2 * o.hidden
        self.exchange, self.o = exchange, o
        self.router = Router(o.experts, o.topk)
        dense = {"w_in": (PIXELS, h), "b_in": (h,), "w_gate": (h, o.experts), "w_out": (h, CLASSES), "b_out": (CLASSES,)}
        expert = {"w1": (h, f), "b1": (f,), "w2": (f, h), "b2": (h,)}
        size = sum(map(math.prod, dense.values()))
        # One vector of sums over the PEs, symmetric, so that one reduction does: gradients, loads of the experts, loss.
        self.sums = shmem.zeros(size + o.experts + 1) if isinstance(exchange, Pes) else np.zeros(size + o.experts + 1)
        self.dense_flat, self.dense_grads = np.zeros(size), self.sums[:size]
        self.loads, self.loss = self.sums[size:-1], self.sums[-1:]
        self.dense, self.grad = views(self.dense_flat, dense), views(self.dense_grads, dense)
        self.expert_flat = np.zeros((len(exchange.experts), sum(map(math.prod, expert.values()))))
        self.expert_grads = np.zeros_like(self.expert_flat)
        self.experts = [views(flat, expert) for flat in self.expert_flat]
        self.expert_grad = [views(flat, expert) for flat in self.expert_grads]
        self.speed = [np.zeros_like(self.dense_flat), np.zeros_like(self.expert_flat)]
        fill(self.dense, [o.seed, 0])
        for number, weights in zip(exchange.experts, self.experts, strict=True):
            fill(weights, [o.seed, 1 + number])  # the same wherever the expert is

    def forward(self, pixels: Array) -> Array:
        """[images, 10] logits; keeps what backward needs."""
        d = self.dense
        self.pixels, self.h = pixels, np.maximum(pixels @ d["w_in"] + d["b_in"], 0)
        self.gate = self.router(self.h @ d["w_gate"])
        self.rows = self.exchange.dispatch(self.h, self.gate)
        self.x = self.rows.x.astype(np.float64)
        self.inner, self.y = [], np.zeros_like(self.x)
        for (begin, end), w in zip(self.rows.ranges, self.experts, strict=True):
            self.inner.append(np.maximum(self.x[begin:end] @ w["w1"] + w["b1"], 0))
            self.y[begin:end] = self.inner[-1] @ w["w2"] + w["b2"]
        self.top = self.h + self.exchange.combine(self.y, self.rows)
        return self.top @ d["w_out"] + d["b_out"]

    def backward(self, grad: Array) -> None:
        """Gradients of all weights, from [images, 10] of the logits that the last forward gave."""
        d, g = self.dense, self.grad
        g["w_out"][:], g["b_out"][:] = self.top.T @ grad, grad.sum(axis=0)
        grad_top = grad @ d["w_out"].T

        grad_sum = self.exchange.combine_backward(grad_top, self.rows).astype(np.float64)
        grad_weights = (grad_sum * self.y).sum(axis=1)
        grad_y, grad_x = grad_sum * self.rows.weights[:, None], np.zeros_like(self.x)
        for (begin, end), inner, w, gw in zip(
            self.rows.ranges, self.inner, self.experts, self.expert_grad, strict=True
        ):
            gy = grad_y[begin:end]
            gw["w2"][:], gw["b2"][:] = inner.T @ gy, gy.sum(axis=0)
            gi = gy @ w["w2"].T * (inner > 0)
            gw["w1"][:], gw["b1"][:] = self.x[begin:end].T @ gi, gi.sum(axis=0)
            grad_x[begin:end] = gi @ w["w1"].T
        grad_h, grad_choice = self.exchange.dispatch_backward(grad_x, grad_weights, self.rows)

        grad_gate = self.router.backward(self.gate, grad_choice)
        g["w_gate"][:] = self.h.T @ grad_gate
        grad_in = (grad_top + grad_h + grad_gate @ d["w_gate"].T) * (self.h > 0)
        g["w_in"][:], g["b_in"][:] = self.pixels.T @ grad_in, grad_in.sum(axis=0)

    def step(self, pixels: Array, labels: Array, batch: int) -> float:
        """Learns from this PE's share of a batch; returns the loss over all of it."""
        losses, grad = cross_entropy(self.forward(pixels), labels)
        self.backward(grad / batch)
        self.loads[:], self.loss[:] = load_counts(self.gate.idx, self.o.experts), losses.sum() / batch
        self.exchange.add_up(self.sums)
        self.router.update_bias(self.loads, gamma=1e-3)  # keeps the experts equally busy
        for weights, grads, speed in zip(
            (self.dense_flat, self.expert_flat), (self.dense_grads, self.expert_grads), self.speed, strict=True
        ):
            speed *= MOMENTUM
            speed -= LEARNING_RATE * grads
            weights += speed
        return float(self.loss[0])


# ---- training -----------------------------------------------------------------------------------------------


@dataclass
class Options:
    experts: int
    topk: int
    hidden: int
    epochs: int
    batch: int
    seed: int


@dataclass
class Run:
    """One training and what was measured. Bytes and microseconds stay 0 without transfers."""

    name: str
    train_loss: list[float] = field(default_factory=list)  # of each epoch, as the other curves
    test_loss: list[float] = field(default_factory=list)
    test_accuracy: list[float] = field(default_factory=list)  # in percent
    seconds: float = 0
    dispatch_bytes: float = 0  # a PE, mean, of the whole training, to other PEs
    combine_bytes: float = 0
    dispatch_us: float = 0  # median
    combine_us: float = 0
    parameter_difference: float = 0  # largest, from the training in one process
    logit_difference: float = 0


def digits(seed: int) -> tuple[Array, Array, Array, Array]:
    """Pixels and labels, 1258 images to learn from and 539 to be tested on."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.default_rng([seed, 1 << 20]).permutation(len(bunch.target))
    pixels, labels = bunch.data[order] / 16, bunch.target[order]
    cut = len(order) * 7 // 10
    return pixels[:cut], labels[:cut], pixels[cut:], labels[cut:]


def all_logits(model: Model, pixels: Array) -> Array:
    """[images, 10] on every PE, each having done its share of each batch."""
    pes = isinstance(model.exchange, Pes)
    logits = shmem.zeros((len(pixels), CLASSES)) if pes else np.zeros((len(pixels), CLASSES))
    for begin in range(0, len(pixels), model.o.batch):
        mine = model.exchange.mine(np.arange(begin, min(begin + model.o.batch, len(pixels))))
        logits[mine] = model.forward(pixels[mine])
    model.exchange.add_up(logits)
    result = np.array(logits)
    if pes:
        shmem.free(logits)
    return result


def train(run: Run, model: Model, data: tuple[Array, Array, Array, Array], tick: Callable[[Run], None]) -> Array:
    """Fills the run's curves; returns the test logits after the last epoch."""
    pixels, labels, test_pixels, test_labels = data
    random = np.random.default_rng(model.o.seed)
    started = time.perf_counter()
    logits = np.empty(0)
    for _ in range(model.o.epochs):
        order, loss = random.permutation(len(labels)), 0.0
        for begin in range(0, len(order), model.o.batch):
            batch = order[begin : begin + model.o.batch]
            mine = model.exchange.mine(batch)
            loss += model.step(pixels[mine], labels[mine], len(batch)) * len(batch) / len(order)
        logits = all_logits(model, test_pixels)
        run.train_loss.append(loss)
        run.test_loss.append(float(cross_entropy(logits, test_labels)[0].mean()))
        run.test_accuracy.append(100 * float((logits.argmax(axis=1) == test_labels).mean()))
        tick(run)
    run.seconds = time.perf_counter() - started
    return logits


def all_experts(model: Model) -> Array:
    """The weights of all experts, on PE 0; zeros elsewhere."""
    everyone = shmem.zeros((model.o.experts, model.expert_flat.shape[1]))
    if model.exchange.experts:
        shmem.put(everyone[model.exchange.experts[0] :], model.expert_flat, 0)
    shmem.barrier_all()
    result = np.array(everyone)
    shmem.free(everyone)
    return result


def measure(run: Run, pes: Pes, o: Options, rounds: int = 100) -> None:
    """Bytes that the training sent, and the time of a dispatch and a combine of a batch, with all PEs starting at once."""
    sums = shmem.zeros(2)
    sums[:] = pes.moe.stats.dispatch_bytes_remote, pes.moe.stats.combine_bytes_remote
    shmem.sum_reduce(sums, sums)
    run.dispatch_bytes, run.combine_bytes = (sums / pes.n).tolist()
    shmem.free(sums)

    random = np.random.default_rng([o.seed, pes.pe])
    share = len(pes.mine(np.arange(o.batch)))
    gate = Router(o.experts, o.topk)(random.normal(size=(share, o.experts)))
    x, times = float32(random.normal(size=(share, o.hidden))), []
    for _ in range(rounds):
        shmem.barrier_all()
        t0 = time.perf_counter()
        got = pes.moe.dispatch(x, gate.idx, gate.weights, by_expert=True)
        t1 = time.perf_counter()
        shmem.barrier_all()
        t2 = time.perf_counter()
        pes.moe.combine(got.recv_x, got)
        times.append((t1 - t0, time.perf_counter() - t2))
    run.dispatch_us, run.combine_us = (1e6 * np.median(times, axis=0)).tolist()


def run_all(o: Options, quants: list[str], tick: Callable[[Run], None]) -> list[Run]:
    """One run for each kind of transfer, and last, on PE 0 alone, the one without; differences are known on PE 0."""
    data = digits(o.seed)
    runs, ends = [], []
    for quant in quants:
        runs.append(Run({"none": "float32 transfers", "int8": "INT8 transfers"}[quant]))
        pes = Pes(o, quant)
        model = Model(o, pes)
        logits = train(runs[-1], model, data, tick)
        ends.append((model.dense_flat, all_experts(model), logits))
        measure(runs[-1], pes, o)
        pes.moe.close()
        shmem.free(model.sums)
    if shmem.my_pe() == 0:
        alone = Model(o, InOneProcess(o))
        runs.append(Run("one process"))
        logits = train(runs[-1], alone, data, tick)
        for run, (dense, experts, its_logits) in zip(runs, ends, strict=False):
            run.parameter_difference = max(
                float(np.abs(dense - alone.dense_flat).max()), float(np.abs(experts - alone.expert_flat).max())
            )
            run.logit_difference = float(np.abs(its_logits - logits).max())
    shmem.barrier_all()
    return runs


# ---- what is printed ------------------------------------------------------------------------------------------


def verdict(runs: list[Run]) -> list[tuple[bool, str]]:
    """What the trainings must show, and whether they do."""
    full, int8 = (next((run for run in runs if run.name.startswith(kind)), None) for kind in ("float32", "INT8"))
    found = []
    if full:
        worst = max(full.parameter_difference, full.logit_difference)
        found.append((worst < 1e-4, f"float32 transfers equal one process up to rounding: largest difference {worst:.1e}"))
    if int8:
        cost = (full or runs[-1]).test_accuracy[-1] - int8.test_accuracy[-1]
        found.append((cost < 1, f"INT8 transfers cost {cost:.2f} points of accuracy, less than 1 is allowed"))
    return found


def print_table(o: Options, runs: list[Run]) -> None:
    from rich.console import Console
    from rich.table import Table

    n = shmem.n_pes()
    table = Table(
        title=f"{o.experts} experts on {n} PE{'s' * (n > 1)}, top-{o.topk}, hidden {o.hidden}, "
        f"{o.epochs} epochs, batches of {o.batch}"
    )
    table.add_column()
    for run in runs:
        table.add_column(run.name, justify="right")

    def row(text: str, cell: Callable[[Run], str], transfers_only: bool = True) -> None:
        table.add_row(text, *("" if run.name == "one process" and transfers_only else cell(run) for run in runs))

    row("test accuracy", lambda run: f"{run.test_accuracy[-1]:.2f} %", False)
    row("test loss", lambda run: f"{run.test_loss[-1]:.4f}", False)
    row("largest difference of weights", lambda run: f"{run.parameter_difference:.1e}")
    row("largest difference of test logits", lambda run: f"{run.logit_difference:.1e}")
    row("sent to other PEs by dispatch, MB a PE", lambda run: f"{run.dispatch_bytes / 1e6:.1f}")
    row("sent to other PEs by combine, MB a PE", lambda run: f"{run.combine_bytes / 1e6:.1f}")
    row("dispatch of a batch, µs", lambda run: f"{run.dispatch_us:.0f}")
    row("combine of a batch, µs", lambda run: f"{run.combine_us:.0f}")
    row("training and tests, s", lambda run: f"{run.seconds:.1f}", False)
    console = Console(width=None if sys.stdout.isatty() else 100)
    console.print(table)
    for good, text in verdict(runs):
        console.print(f"[green]ok[/]    {text}" if good else f"[bold red]WRONG[/] {text}", highlight=False)


def plot(path: str, o: Options, runs: list[Run]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    colors = {"float32 transfers": "#0072b2", "INT8 transfers": "#d55e00", "one process": "#555555"}
    figure, (loss, accuracy, times) = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    epochs = np.arange(1, o.epochs + 1)
    for run in runs:
        # The reference as dots, or it would hide the curve that it equals.
        dots = run.name == "one process"
        style: dict[str, Any] = {"color": colors[run.name], "linestyle": "none" if dots else "-", "markersize": 4}
        loss.plot(epochs, run.test_loss, marker="o" if dots else "", label=f"{run.name}, test", **style)
        if not dots:
            loss.plot(epochs, run.train_loss, color=colors[run.name], linestyle=":", label=f"{run.name}, training")
        accuracy.plot(epochs, run.test_accuracy, marker="o" if dots else "", label=run.name, **style)
    loss.set(title="Loss", xlabel="epoch", ylabel="cross entropy", yscale="log")
    accuracy.set(title="Test accuracy", xlabel="epoch", ylabel="%")
    moved = runs[:-1]
    width = 0.8 / len(moved)
    for i, run in enumerate(moved):
        x = np.arange(2) + (i - (len(moved) - 1) / 2) * width
        bars = times.bar(x, [run.dispatch_us, run.combine_us], 0.9 * width, color=colors[run.name], label=run.name)
        times.bar_label(bars, fmt="%.0f", padding=2)
    times.set(title="One batch, median", ylabel="µs")
    times.set_xticks([0, 1], ["dispatch", "combine"])
    times.margins(y=0.2)
    for axes in (loss, accuracy, times):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
        axes.legend(frameon=False)
    for axes in (loss, accuracy):
        axes.xaxis.get_major_locator().set_params(integer=True)
    n = shmem.n_pes()
    figure.suptitle(f"Handwritten digits: {o.experts} experts on {n} PE{'s' * (n > 1)}, top-{o.topk}, hidden {o.hidden}")
    figure.savefig(path, dpi=150)


@contextlib.contextmanager
def progress(o: Options, trainings: int) -> Iterator[Callable[[Run], None]]:
    """Gives the function to call after each epoch: a bar on stderr, or where that is no terminal (mpirun reads
    it), a line now and then."""
    if shmem.my_pe() != 0:
        yield lambda run: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = "{task.description:<17}", BarColumn(), MofNCompleteColumn(), "epochs", TextColumn("{task.fields[now]}")
    bar = Progress(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal)
    every = max(o.epochs // 3, 1)

    def tick(run: Run) -> None:
        done = len(run.test_loss)
        if done == 1:
            bar.add_task(run.name, total=o.epochs, now="")
        bar.update(bar.task_ids[-1], completed=done, now=f"accuracy {run.test_accuracy[-1]:5.2f} %")
        if done == o.epochs:
            bar.stop_task(bar.task_ids[-1])
        if not console.is_terminal and (done % every == 0 or done == o.epochs):
            console.print(bar.make_tasks_table([bar.tasks[-1]]))

    with bar:
        yield tick


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Trains a mixture of experts on handwritten digits, over all PEs.")
    parser.add_argument("--experts", type=int, default=8, help="in all; any number, also fewer than PEs (8)")
    parser.add_argument("--topk", type=int, default=2, help="experts an image (2)")
    parser.add_argument("--quant", choices=["none", "int8"], help="only this kind of transfer (default: both)")
    parser.add_argument("--hidden", type=int, default=128, help="columns of a row, a multiple of 128 (128)")
    parser.add_argument("--epochs", type=int, default=15, help="passes over the training images (15)")
    parser.add_argument("--batch", type=int, default=128, help="images a step, over all PEs (128)")
    parser.add_argument("--seed", type=int, default=1, help="of the weights and the order of the images (1)")
    parser.add_argument("--plot", metavar="FILE", help="write curves and times as .png, .svg or .pdf")
    parser.add_argument("--json", action="store_true", help="print a JSON object instead of the table")
    a = parser.parse_args()
    for name in ("experts", "topk", "hidden", "epochs", "batch"):
        if getattr(a, name) < 1:
            parser.error(f"--{name} is {getattr(a, name)}, it must be at least 1")
    if a.topk > min(a.experts, 32):
        parser.error(f"--topk is {a.topk}, it must not exceed --experts = {a.experts}, nor 32")
    if a.hidden % 128:
        parser.error(f"--hidden is {a.hidden}, it must be a multiple of 128 (one INT8 scale for 128 columns)")
    if a.seed < 0:
        parser.error(f"--seed is {a.seed}, it must not be negative")
    if importlib.util.find_spec("sklearn") is None:
        parser.error("the images come from scikit-learn, which is not installed: pip install scikit-learn")
    if a.plot:
        if importlib.util.find_spec("matplotlib") is None:
            parser.error("--plot needs matplotlib, which is not installed: pip install matplotlib")
        if not a.plot.endswith((".png", ".svg", ".pdf")):
            parser.error(f"--plot {a.plot}: the name must end in .png, .svg or .pdf")
        if not os.path.isdir(os.path.dirname(a.plot) or "."):
            parser.error(f"--plot {a.plot}: there is no folder {os.path.dirname(a.plot)}")
    return a


def main() -> None:
    shmem.init()
    first = shmem.my_pe() == 0
    with contextlib.ExitStack() as quiet:
        if not first:  # an error is printed once
            nowhere = quiet.enter_context(open(os.devnull, "w"))
            quiet.enter_context(contextlib.redirect_stdout(nowhere))
            quiet.enter_context(contextlib.redirect_stderr(nowhere))
        a = parse()
    o = Options(a.experts, a.topk, a.hidden, a.epochs, a.batch, a.seed)
    quants = [a.quant] if a.quant else ["none", "int8"]
    with progress(o, len(quants) + 1) as tick:
        runs = run_all(o, quants, tick)
    if not first:
        return
    if a.json:
        found = [{"ok": good, "text": text} for good, text in verdict(runs)]
        print(json.dumps({"pes": shmem.n_pes(), **asdict(o), "runs": [asdict(r) for r in runs], "checks": found}))
    else:
        print_table(o, runs)
    if a.plot:
        plot(a.plot, o, runs)


if __name__ == "__main__":
    main()
