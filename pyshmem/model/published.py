"""DeepEP's published table, and the model's answer to each row.

From its README, V1: H800, "~160 GB/s NVLink", one ConnectX-7 of 400 Gb/s InfiniBand a GPU; FP8 dispatch,
BF16 combine, hidden 7168, top-8. Low latency: 128 tokens, time. Normal: 4096 tokens, at most 4 nodes a token,
and the "bottleneck bandwidth", which counts the copies for the own node (the own GPU) too.

The first release sent everything over the NIC ("pure RDMA"), the later one uses NVLink within the node; its
rows for 128 and 256 GPUs are the first release's.
"""

from __future__ import annotations

from dataclasses import dataclass

from .hardware import HARDWARE, IBGDA, Hardware
from .predict import Prediction, low_latency, normal, row_bytes
from .traffic import Shape, Traffic

__all__ = ["TABLE", "Row", "compare"]


@dataclass(frozen=True)
class Row:
    """One published figure."""

    mode: str
    """low_latency; pure_rdma: the same without NVLink, of the first release; normal."""
    gpus: int
    call: str
    value: float
    unit: str
    """us, or GB/s of copies counted as DeepEP counts."""


def _rows(mode: str, unit: str, dispatch: dict[int, float], combine: dict[int, float]) -> list[Row]:
    return [
        Row(mode, gpus, call, value, unit)
        for call, values in (("dispatch", dispatch), ("combine", combine))
        for gpus, value in values.items()
    ]


TABLE = (
    *_rows(
        "low_latency", "us",
        {8: 77, 16: 118, 32: 155, 64: 173, 128: 192, 256: 194},
        {8: 114, 16: 195, 32: 273, 64: 314, 128: 369, 256: 360},
    ),
    *_rows(
        "pure_rdma", "us",
        {8: 163, 16: 173, 32: 182, 64: 186},
        {8: 318, 16: 329, 32: 350, 64: 353},
    ),
    *_rows("normal", "GB/s", {8: 153, 16: 43, 32: 58, 64: 51}, {8: 158, 16: 43, 32: 57, 64: 50}),
)  # fmt: skip


def predict_row(row: Row, hardware: Hardware = HARDWARE["h800-cx7"]) -> tuple[Prediction, float]:
    """The prediction of a row, and its value in the row's unit."""
    form = "fp8" if row.call == "dispatch" else "bf16"
    if row.mode == "normal":
        shape = Shape(row.gpus, 4096)
        found = normal(row.call, shape, hardware, IBGDA, form)
        traffic = Traffic(shape, hardware.gpus_per_node)
        copies = traffic.copies_to_nodes if traffic.nodes > 1 else traffic.copies_to_gpus
        return found, shape.tokens * copies * row_bytes(form, shape.hidden) / found.us / 1e3
    shape = Shape(row.gpus, 128, limit=0)
    found = low_latency(row.call, shape, hardware, IBGDA, form, nvlink=row.mode == "low_latency")
    return found, found.us


@dataclass(frozen=True)
class Comparison:
    """A published row beside the prediction."""

    row: Row
    predicted: float
    bottleneck: str

    @property
    def error(self) -> float:
        """(predicted - published) / published."""
        return self.predicted / self.row.value - 1


def compare(hardware: Hardware = HARDWARE["h800-cx7"]) -> list[Comparison]:
    """Every row of the table."""
    found = []
    for row in TABLE:
        prediction, value = predict_row(row, hardware)
        found.append(Comparison(row, value, prediction.bottleneck))
    return found
