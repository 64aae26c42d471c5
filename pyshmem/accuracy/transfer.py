"""The ways that rows can travel, as functions from rows to what arrives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import numpy.typing as npt

from .. import quant

__all__ = ["WAYS", "Error", "Way"]

Rows = npt.NDArray[np.float32]


class Way(NamedTuple):
    """How rows travel. `send` takes float32 [rows, cols] and returns what the receiver has."""

    name: str
    send: Callable[[Rows], Rows]


def _bfloat16(x: Rows) -> Rows:
    return x.astype(ml_dtypes.bfloat16).astype(np.float32)


def _codec(fmt: Any, group: int) -> Callable[[Rows], Rows]:
    """Through the records that dispatch, combine and the quantized collectives send."""

    def send(x: Rows) -> Rows:
        return quant.dequantize(quant.quantize(x, fmt, group), x.shape[1], fmt, group)

    return send


WAYS = [
    Way("none", lambda x: x),
    Way("BF16", _bfloat16),
    Way("FP8 g128", _codec("e4m3", 128)),
    Way("INT8 g128", _codec("int8", 128)),
    Way("INT8 g64", _codec("int8", 64)),
    Way("INT8 g32", _codec("int8", 32)),
    Way("INT8 row", _codec("int8", 0)),
]


class Error:
    """Sums up the error of many blocks of rows: SQNR over all of them, and the lowest and mean row cosine."""

    def __init__(self) -> None:
        self.signal = self.noise = 0.0
        self.cosines: list[npt.NDArray[np.float64]] = []

    def add(self, sent: Rows, arrived: Rows) -> None:
        a = sent.astype(np.float64)
        self.signal += float(np.square(a).sum())
        self.noise += float(np.square(a - arrived).sum())
        self.cosines.append(quant.row_cosine(sent, arrived))

    def figures(self, prefix: str) -> dict[str, float | None]:
        """SQNR in dB (None where nothing was lost) and cosines, under names that begin with `prefix`."""
        if not self.cosines:
            return {}
        cosine = np.concatenate(self.cosines)
        sqnr = 10 * np.log10(self.signal / self.noise) if self.noise else None
        return {
            f"{prefix}_sqnr_db": None if sqnr is None else float(sqnr),
            f"{prefix}_cosine_mean": float(cosine.mean()),
            f"{prefix}_cosine_min": float(cosine.min()),
        }
