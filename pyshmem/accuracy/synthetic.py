"""Rows with known distributions, through every way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from .transfer import WAYS, Error

__all__ = ["DATA", "run"]

Draw = Callable[[np.random.Generator, tuple[int, int]], npt.NDArray[np.float64]]


def _outliers(random: np.random.Generator, shape: tuple[int, int]) -> npt.NDArray[np.float64]:
    x = random.standard_normal(shape)
    x[:, random.choice(shape[1], 8, replace=False)] *= 50
    return x


DATA: dict[str, Draw] = {
    "Gaussian": lambda random, shape: random.standard_normal(shape),
    "Laplace": lambda random, shape: random.laplace(size=shape),
    "Student-t(3)": lambda random, shape: random.standard_t(3, shape),
    "8 outlier channels x50": _outliers,
}


def run(rows: int = 512, cols: int = 7168, seed: int = 0) -> Iterator[dict[str, Any]]:
    """SQNR and row cosine of each way on each kind of data, one dict each."""
    for name, draw in DATA.items():
        x = draw(np.random.default_rng(seed), (rows, cols)).astype(np.float32)
        for way in WAYS[1:]:
            error = Error()
            error.add(x, way.send(x))
            yield {"kind": "synthetic", "data": name, "way": way.name, **error.figures("rows")}
