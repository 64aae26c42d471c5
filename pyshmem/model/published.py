"""DeepEP's published tables, and the model's answer to each row.

From its README, V1: H800, "~160 GB/s NVLink", one ConnectX-7 of 400 Gb/s InfiniBand a GPU; FP8 dispatch,
BF16 combine, hidden 7168, top-8. Low latency: 128 tokens, time. Normal: 4096 tokens, at most 4 nodes a token,
and the "bottleneck bandwidth", which counts the copies for the own node (the own GPU) too.

The first release sent everything over the NIC ("pure RDMA"), the later one uses NVLink within the node; its
rows for 128 and 256 GPUs are the first release's.

V2, its rewrite: "SM90" with a ConnectX-7, 8192 tokens, the same bandwidth. Its NVLink is not said; with an
H800's, 16 GPUs could not reach what is published, so an H100 is taken here.
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
    """low_latency; pure_rdma: the same without NVLink, of the first release; normal; normal_v2."""
    gpus: int
    call: str
    value: float
    unit: str
    """us, or GB/s of copies counted as DeepEP counts."""

    @property
    def hardware(self) -> Hardware:
        return HARDWARE["h100-cx7" if self.mode == "normal_v2" else "h800-cx7"]


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
    *_rows("normal_v2", "GB/s", {16: 90, 32: 61}, {16: 81, 32: 61}),
)  # fmt: skip


def predict_row(row: Row, hardware: Hardware | None = None) -> tuple[Prediction, float]:
    """The prediction of a row, for its own hardware or another one, and its value in the row's unit."""
    form = "fp8" if row.call == "dispatch" else "bf16"
    hardware = hardware or row.hardware
    if row.mode.startswith("normal"):
        shape = Shape(row.gpus, 4096) if row.mode == "normal" else Shape(row.gpus, 8192, limit=0)
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


def compare(hardware: Hardware | None = None) -> list[Comparison]:
    """Every row of the tables; with other hardware than theirs if it is given."""
    found = []
    for row in TABLE:
        prediction, value = predict_row(row, hardware)
        found.append(Comparison(row, value, prediction.bottleneck))
    return found
