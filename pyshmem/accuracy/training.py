"""Two models trained over the PEs of a job, their gradients all-reduced: in full precision, in INT8, and in
INT8 with error feedback.

    digits        a classifier of scikit-learn's handwritten digits, two layers
    transformer   two layers of 64 columns that predict the next character of a text

All start from the same weights and see the same batches, dealt out to the PEs. Run by `pyshmem accuracy`,
which starts the job: PE 0 prints a line of JSON for each training.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import pyshmem as shmem
from pyshmem import quant

__all__ = ["MODELS", "NEEDED", "REDUCTIONS", "main"]

NEEDED = {"torch": "torch", "sklearn": "scikit-learn"}
MODELS = ["digits", "transformer"]
REDUCTIONS = ["float32", "INT8 g128", "INT8 g128, error feedback"]
SEED = 1
Batch = tuple[Any, Any]


class Gradients:
    """All gradients of a model in one vector, so that one call averages them over the PEs."""

    def __init__(self, model: Any, reduction: str) -> None:
        import torch

        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.flat = torch.zeros(sum(p.numel() for p in self.parameters))
        self.residual = torch.zeros_like(self.flat) if "feedback" in reduction else None
        self.bits = 32 if reduction == "float32" else 8
        at = 0
        for p in self.parameters:
            p.grad = self.flat[at : at + p.numel()].view_as(p)  # backward adds up in place
            at += p.numel()

    def average(self) -> None:
        quant.all_reduce(
            self.flat, out=self.flat, op="mean", bits=self.bits, min_bytes=0, residual=self.residual
        )


def _digits() -> tuple[Any, Callable[[Any, Any], Any], Iterator[Batch]]:
    import torch
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = torch.tensor(bunch.data / 16, dtype=torch.float32)
    labels = torch.tensor(bunch.target)
    model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10))

    def batches() -> Iterator[Batch]:
        random = np.random.default_rng(SEED)
        while True:
            chosen = random.choice(len(labels), 64, replace=False)
            yield pixels[chosen], labels[chosen]

    def loss(x: Any, y: Any) -> Any:
        return torch.nn.functional.cross_entropy(model(x), y)

    return model, loss, batches()


def _transformer(text: str) -> tuple[Any, Callable[[Any, Any], Any], Iterator[Batch]]:
    import torch

    letters = sorted(set(text))
    ids = torch.tensor([letters.index(c) for c in text])
    length, width = 64, 64
    layer = torch.nn.TransformerEncoderLayer(
        width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True
    )
    parts = torch.nn.ModuleDict(
        {
            "letters": torch.nn.Embedding(len(letters), width),
            "places": torch.nn.Embedding(length, width),
            "layers": torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
            "out": torch.nn.Linear(width, len(letters)),
        }
    )
    mask = torch.nn.Transformer.generate_square_subsequent_mask(length)

    def batches() -> Iterator[Batch]:
        random = np.random.default_rng(SEED)
        while True:
            starts = random.integers(0, len(ids) - length - 1, 16)
            yield (
                torch.stack([ids[s : s + length] for s in starts]),
                torch.stack([ids[s + 1 : s + length + 1] for s in starts]),
            )

    def loss(x: Any, y: Any) -> Any:
        hidden = parts["letters"](x) + parts["places"].weight
        logits = parts["out"](parts["layers"](hidden, mask=mask, is_causal=True))
        return torch.nn.functional.cross_entropy(logits.reshape(-1, len(letters)), y.reshape(-1))

    return parts, loss, batches()


def train(name: str, reduction: str, steps: int, text: str) -> list[float]:
    """The loss of each step, the mean over the PEs."""
    import torch

    torch.manual_seed(SEED)
    model, loss, batches = _digits() if name == "digits" else _transformer(text)
    gradients, curve = Gradients(model, reduction), []
    optimizer = torch.optim.AdamW(gradients.parameters, lr=3e-3)
    me, n = shmem.my_pe(), shmem.n_pes()
    for _ in range(steps):
        x, y = next(batches)
        gradients.flat.zero_()
        value = loss(x[me::n], y[me::n])
        value.backward()
        gradients.average()
        optimizer.step()
        curve.append(float(quant.all_reduce(value.detach().reshape(1), op="mean", bits=32)))
    return curve


def main() -> None:
    parser = argparse.ArgumentParser(prog="pyshmem accuracy (training)")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--text", default="")
    options = parser.parse_args(sys.argv[1:])
    import torch

    torch.set_num_threads(1)  # the cores belong to the PEs
    text = Path(options.text).read_text()
    for name in MODELS:
        for reduction in REDUCTIONS:
            curve = train(name, reduction, options.steps, text)
            if shmem.my_pe() == 0:
                found = {
                    "kind": "training",
                    "model": name,
                    "reduction": reduction,
                    "pes": shmem.n_pes(),
                    "loss": curve,
                }
                print(json.dumps(found), flush=True)
    shmem.barrier_all()


if __name__ == "__main__":
    main()
