"""A mixture of experts learns to read handwritten digits, its experts spread over the PEs of a job.

    python examples/moe_digits.py                    # one PE
    mpirun -n 4 python examples/moe_digits.py        # eight experts on four PEs
    mpirun -n 4 python examples/moe_digits.py --experts 6 --quant int8 --plot digits.png

The model, for images of 64 pixels (scikit-learn's digits), hidden size H, E experts, K of them an image:

    h      = relu(pixels @ w_in + b_in)                      every PE has these weights
    gate   = K largest of softmax(h @ w_gate)                and these
    moe    = sum over the K experts of weight * (relu(h @ w1 + b1) @ w2 + b2)       each expert is on one PE
    logits = (h + moe) @ w_out + b_out                       every PE has these weights

Each batch is dealt out to the PEs. A PE computes the dense layers for its images, sends each row of h to the
PEs that hold its experts (dispatch), and gets the weighted sum of what they made (combine). Backward goes the
same two ways: the gradient of combine is a dispatch, the gradient of dispatch is a combine. Gradients of the
dense weights are added up over the PEs with sum_reduce; those of an expert are complete where the expert is.

The same training runs three times: rows travel as float32, as INT8 (forward and backward), and not at all, in
one process. The first must equal the last up to rounding, the second must read digits as well as the first.

Read `Model` for the mathematics, `Pes` for all communication, and `InOneProcess` for the same without any.
"""

from __future__ import annotations

import os

# One core a PE: threads of the linear algebra would only fight over the cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import pyshmem as shmem
from pyshmem.moe import Dispatched, ExpertParallel
from pyshmem.router import Gate, Router, load_counts

sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # where PYTHONSAFEPATH keeps it out
from moe_digits_report import Options, Quant, Run, parse, plot, print_table, progress, verdict

Array = npt.NDArray[Any]
PIXELS, CLASSES = 64, 10
LEARNING_RATE, MOMENTUM = 0.1, 0.9  # the rate falls to 0 along a cosine
SMOOTHING = 0.1  # of the labels; trainings that differ a little then end alike
BIAS_STEP = 1e-2  # of the gate's bias: ten times DeepSeek-V3's, for 300 steps instead of many thousands

# ---- communication -----------------------------------------------------------------------------------------


class Rows(NamedTuple):
    """What the experts of this PE are to work on: one row for each (image, expert), grouped by expert."""

    x: Array  # [rows, H] float32
    weights: Array  # [rows] of the gate
    ranges: list[tuple[int, int]]  # first row of each local expert, and the row after its last
    way_back: Any  # what combine needs to send rows back


def float32(x: Array) -> Array:
    return np.ascontiguousarray(x, dtype=np.float32)


class Pes:
    """How rows get to experts and back, over the PEs of the job.

    Weights and mathematics are float64, what travels is float32 or INT8. So the order in which PEs add up
    gradients does not show, and a difference from one process comes from the transfers.
    """

    def __init__(self, o: Options, quant: Quant) -> None:
        self.pe, self.n = shmem.my_pe(), shmem.n_pes()
        self.moe = ExpertParallel(
            o.experts, o.hidden, o.topk, -(-o.batch // self.n), quant=quant, combine_quant=quant, group=128
        )  # results=2, the default: rows of the forward dispatch stay while the backward one is in flight
        # Held by this PE.
        self.experts = range(self.moe.first_expert, self.moe.first_expert + self.moe.local_experts)

    def mine(self, images: Array) -> Array:
        """This PE's share of a batch."""
        return images[self.pe :: self.n]

    def zeros(self, *shape: int) -> Array:
        """An array for `add_up`: symmetric, so that every PE allocates it and every PE frees it."""
        return shmem.zeros(shape)

    def free(self, values: Array) -> None:
        shmem.free(values)

    def add_up(self, values: Array) -> None:
        """Replaces `values` by their sum over all PEs."""
        shmem.sum_reduce(values, values)

    def dispatch(self, x: Array, gate: Gate) -> Rows:
        """Each row of x [images, H] to the experts that its gate chose."""
        got = self.moe.dispatch(float32(x), gate.idx, gate.weights, by_expert=True)
        chosen = got.topk_idx >= 0
        weights = np.zeros(got.expert_rows)
        weights[got.expert_position[chosen]] = got.topk_weights[chosen]
        return Rows(got.recv_x, weights, list(got.expert_ranges()), got)

    def combine(self, y: Array, rows: Rows) -> Array:
        """[images, H]: for each image the sum of its experts' rows y, each times its weight."""
        return self.moe.combine(float32(y), rows.way_back, weighted=True)

    def combine_backward(self, grad: Array, rows: Rows) -> Array:
        """From [images, H] to [rows, H]: each expert gets the gradient of the sum that its row went into."""
        return self.moe.dispatch(float32(grad), routing=rows.way_back, by_expert=True).recv_x

    def dispatch_backward(self, grad_x: Array, grad_weights: Array, rows: Rows) -> tuple[Array, Array]:
        """From [rows, H] and [rows] to [images, H], the sum over its experts, and [images, K]."""
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

    def zeros(self, *shape: int) -> Array:
        return np.zeros(shape)

    def free(self, values: Array) -> None:
        pass

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
        return self._by_choice(float32(grad_x), rows).sum(axis=1), self._by_choice(
            float32(grad_weights), rows
        )


# ---- mathematics -------------------------------------------------------------------------------------------


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
    """Loss of each image, and the gradient of the loss for smoothed labels with respect to the logits."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    target = np.eye(CLASSES)[labels] * (1 - SMOOTHING) + SMOOTHING / CLASSES
    return -log_p[np.arange(len(labels)), labels], np.exp(log_p) - target


class Model:
    """Weights, forward and backward. All PEs have the dense weights, each has its own experts."""

    def __init__(self, o: Options, exchange: Pes | InOneProcess) -> None:
        h, f = o.hidden, 2 * o.hidden
        self.exchange, self.o = exchange, o
        self.router = Router(o.experts, o.topk)
        dense = {
            "w_in": (PIXELS, h),
            "b_in": (h,),
            "w_gate": (h, o.experts),
            "w_out": (h, CLASSES),
            "b_out": (CLASSES,),
        }
        expert = {"w1": (h, f), "b1": (f,), "w2": (f, h), "b2": (h,)}
        size = sum(map(math.prod, dense.values()))
        # Gradients, loads of the experts and loss in one vector, so that one reduction adds them up.
        self.sums = exchange.zeros(size + o.experts + 1)
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

    def step(self, pixels: Array, labels: Array, batch: int, rate: float) -> float:
        """Learns from this PE's share of a batch of `batch` images; returns the loss over all of it."""
        losses, grad = cross_entropy(self.forward(pixels), labels)
        self.backward(grad / batch)
        self.loads[:], self.loss[:] = load_counts(self.gate.idx, self.o.experts), losses.sum() / batch
        self.exchange.add_up(self.sums)
        self.router.update_bias(self.loads, BIAS_STEP)  # keeps the experts equally busy
        for weights, grads, speed in zip(
            (self.dense_flat, self.expert_flat),
            (self.dense_grads, self.expert_grads),
            self.speed,
            strict=True,
        ):
            speed *= MOMENTUM
            speed -= rate * grads
            weights += speed
        return float(self.loss[0])


# ---- training ----------------------------------------------------------------------------------------------


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
    logits = model.exchange.zeros(len(pixels), CLASSES)
    for begin in range(0, len(pixels), model.o.batch):
        mine = model.exchange.mine(np.arange(begin, min(begin + model.o.batch, len(pixels))))
        logits[mine] = model.forward(pixels[mine])
    model.exchange.add_up(logits)
    result = np.array(logits)
    model.exchange.free(logits)
    return result


def train(
    run: Run, model: Model, data: tuple[Array, Array, Array, Array], tick: Callable[[Run], None]
) -> Array:
    """Fills the run's curves; returns the test logits after the last epoch."""
    pixels, labels, test_pixels, test_labels = data
    random = np.random.default_rng(model.o.seed)
    started = time.perf_counter()
    logits = np.empty(0)
    for epoch in range(model.o.epochs):
        order, loss = random.permutation(len(labels)), 0.0
        for begin in range(0, len(order), model.o.batch):
            batch = order[begin : begin + model.o.batch]
            mine = model.exchange.mine(batch)
            rate = LEARNING_RATE / 2 * (1 + math.cos(math.pi * (epoch + begin / len(order)) / model.o.epochs))
            loss += model.step(pixels[mine], labels[mine], len(batch), rate) * len(batch) / len(order)
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
    """Bytes that the training sent, and the time of a dispatch and a combine when all PEs start at once."""
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


def run_all(o: Options, tick: Callable[[Run], None]) -> list[Run]:
    """One run for each kind of transfer; then, on PE 0 alone, the one without and the differences from it."""
    data = digits(o.seed)
    runs, ends = [], []
    for quant in o.quants:
        runs.append(Run({"none": "float32", "int8": "INT8"}[quant]))
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
                float(np.abs(dense - alone.dense_flat).max()),
                float(np.abs(experts - alone.expert_flat).max()),
            )
            run.logit_difference = float(np.abs(its_logits - logits).max())
    shmem.barrier_all()
    return runs


def main() -> None:
    shmem.init()
    me, n = shmem.my_pe(), shmem.n_pes()
    o = parse(quiet=me != 0)
    with progress(o, quiet=me != 0) as tick:
        runs = run_all(o, tick)
    if me != 0:
        return
    if o.json:
        found = [{"ok": good, "text": text} for good, text in verdict(runs)]
        print(
            json.dumps(
                {"pes": n, "options": asdict(o), "runs": [asdict(run) for run in runs], "checks": found}
            )
        )
    else:
        print_table(o, n, runs)
    if o.plot:
        plot(o.plot, o, n, runs)


if __name__ == "__main__":
    main()
