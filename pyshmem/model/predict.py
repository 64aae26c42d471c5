"""Times of MoE dispatch and combine from figures of the hardware and a count of trips to memory.

Two algorithms, those of the library and of DeepEP:

low latency
    A row for each choice of an expert goes straight to that expert's GPU, over NVLink within the node and as
    a message of its own over the NIC between nodes; a flag for each expert follows. Or, which costs a pass
    over the rows but saves messages: all rows for an expert, or for a GPU, with their flag in one message.
normal
    A row goes over the NIC once to each node, to the GPU of the same index there, and from there over NVLink
    once to each GPU that needs it, in chunks, so that all stages work at the same time. Combine is the way
    back, with sums on the way.

Rates and latencies are the hardware's, the costs to post are goals (hardware.py); none is fitted to a
measurement of the whole. _TRIPS was counted by reading the kernels, with the published row for 8 GPUs in
sight: without it low-latency dispatch on 8 GPUs would be 35 % too fast, the other rows within 25 % as they
are. docs/moe-model.md has each term, published.py how near it comes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from .hardware import Hardware, Path
from .traffic import Shape, Traffic

__all__ = ["FORMATS", "MESSAGES", "Prediction", "low_latency", "normal", "row_bytes"]

FORMATS = ("bf16", "fp8", "int8")
MESSAGES = ("row", "expert", "gpu")
_GROUP = 128  # elements that share a scale

# Dependent trips to memory that nothing hides, counted in the algorithm. Low-latency dispatch: load the
# token, take a slot, load the staged row (2), count, meet the grid (2), see the flag, take a slot, load (2),
# store. Combine: load (4), count, meet the grid (2), see the flag, load ids, load rows. Normal, either way:
# ids and prefix sums (2), space in the ring (2), tail and load at each of the two hops (4), store.
_TRIPS = {("low_latency", "dispatch"): 12, ("low_latency", "combine"): 10, ("normal", ""): 9}
_NORMAL_SMS = 24  # half of them send and receive, half forward
_CHUNK = 20  # tokens of a message of the normal kernels


def row_bytes(form: str, hidden: int) -> int:
    """Bytes of a row as it travels: BF16, or 1 byte an element and a float32 scale for each group of 128."""
    if form not in FORMATS:
        raise ValueError(f"{form!r} is not among {', '.join(FORMATS)}")
    return 2 * hidden if form == "bf16" else hidden + 4 * ceil(hidden / _GROUP)


@dataclass(frozen=True)
class Prediction:
    """One call, in microseconds."""

    call: str
    """dispatch, combine."""
    mode: str
    """normal, low_latency."""
    path: str
    shape: Shape
    stages: Mapping[str, float]
    """What works side by side, each as if it were alone: nic, nvlink, post, sm, memory."""
    rest: Mapping[str, float]
    """What comes before and after: fill, latency, trips, receive."""
    nic_bytes: float
    """Bytes that a GPU's NIC sends, on average."""
    nvlink_bytes: float
    messages: float
    """What a GPU hands to its NIC: data and flags."""
    row: int

    @property
    def us(self) -> float:
        return max(self.stages.values()) + sum(self.rest.values())

    @property
    def bottleneck(self) -> str:
        """The slowest of the stages, or "latency" where the rest without the fill takes longer than it."""
        slowest = max(self.stages, key=lambda name: self.stages[name])
        rest = sum(us for name, us in self.rest.items() if name != "fill")
        return slowest if self.stages[slowest] >= rest else "latency"


def _stages(
    hardware: Hardware, path: Path, posting: int, messages: float, nic: float, nvlink: float, sm: float,
    memory: float,
) -> dict[str, float]:  # fmt: skip
    """Microseconds of each: messages that so many SMs post; bytes for the NIC, for NVLink, those that an SM
    stores, those that memory moves."""
    return {
        "nic": nic / hardware.nic / 1e3,
        "nvlink": nvlink / hardware.nvlink / 1e3,
        "post": messages * max(path.messages_us, path.post_us / posting),
        "sm": sm / hardware.sm_write / 1e3,
        "memory": memory / hardware.memory / 1e3,
    }


def low_latency(
    call: str,
    shape: Shape,
    hardware: Hardware,
    path: Path,
    form: str,
    nvlink: bool = True,
    messages: str = "row",
) -> Prediction:
    """`nvlink` False: rows for the own node go over the NIC too. `messages`: one of MESSAGES, what a message
    holds."""
    traffic = _traffic(shape, hardware)
    row = row_bytes(form, shape.hidden) + 16  # its source's index
    choices = shape.tokens * shape.topk
    remote, within = choices * traffic.remote_node_part, choices * traffic.within_node_part
    far = traffic.remote_node_part  # of the experts and of the GPUs
    if not nvlink:
        remote, within, far = remote + within, 0.0, 1 - 1 / shape.gpus
    each = {"row": remote + shape.experts * far, "expert": shape.experts * far, "gpu": shape.gpus * far}
    posts = each[messages]
    uneven = traffic.unevenness(shape.topk / shape.gpus, shape.topk)
    own = 2 * shape.hidden
    if call == "dispatch":
        before = float(shape.tokens * (own + row))  # load the token, store the row; copies come from L2
        after = 2.0 * choices * row * uneven
    else:
        before = choices * own + remote * row  # load; stage what the NIC is to fetch
        after = float(choices * row + shape.tokens * own)
    stages = _stages(
        hardware, path, hardware.sms, posts, remote * row * uneven, within * row * uneven,
        (within + remote) * row / hardware.sms, before,
    )  # fmt: skip
    rest = {
        "latency": (hardware.one_way_us(path) if posts else hardware.nvlink_us) + hardware.release_us,
        "trips": _TRIPS["low_latency", call] * hardware.trip_us,
        "receive": after / hardware.memory / 1e3,
    }
    if messages != "row":
        rest["gather"] = 2 * remote * row / hardware.memory / 1e3
    return Prediction(
        call, "low_latency", path.name, shape, stages, rest, remote * row, within * row, posts, row
    )


def normal(
    call: str, shape: Shape, hardware: Hardware, path: Path, form: str, sms: int = _NORMAL_SMS
) -> Prediction:
    """`sms`: SMs of the kernels."""
    traffic = _traffic(shape, hardware)
    row = row_bytes(form, shape.hidden) + 8 * shape.topk + 16  # ids and weights; its source
    to_nodes = shape.tokens * traffic.copies_to_nodes
    to_gpus = shape.tokens * traffic.copies_to_gpus
    remote = to_nodes * traffic.remote_node_part
    local_gpus = min(hardware.gpus_per_node, shape.gpus)
    within = to_gpus * (1 - 1 / local_gpus)
    nic_uneven = traffic.unevenness(traffic.copies_to_nodes / traffic.nodes / local_gpus)
    gpu_uneven = traffic.unevenness(traffic.copies_to_gpus / shape.gpus)
    half = max(sms // 2, 1)
    chunks = max(shape.tokens / half / _CHUNK, 1.0)  # each pair of SMs sends its part of the tokens in turn
    pairs = half * (traffic.nodes - 1)  # a sending SM and a node
    rows = remote / pairs if pairs else 0.0
    messages = 2 * pairs * max(rows / _CHUNK, min(rows, 1.0))  # the chunk, and how far it goes
    staged = to_nodes if traffic.nodes > 1 else 0.0
    stages = _stages(
        hardware, path, half, messages, remote * row * nic_uneven, within * row * gpu_uneven,
        (staged + to_gpus) * row / half, 2 * (staged + 2 * to_gpus) * row,
    )  # fmt: skip
    slowest = max(stages.values())
    meeting = hardware.release_us + hardware.nvlink_us
    if traffic.nodes > 1:
        meeting += hardware.one_way_us(path)
    rest = {
        "fill": (sum(stages.values()) - slowest) / chunks,
        "latency": 3 * meeting,  # all meet before and after, and the last chunk's own way
        "trips": _TRIPS["normal", ""] * hardware.trip_us,
    }
    return Prediction(
        call, "normal", path.name, shape, stages, rest, remote * row, within * row, messages, row
    )


def _traffic(shape: Shape, hardware: Hardware) -> Traffic:
    shape.check(hardware.gpus_per_node)
    return Traffic(shape, hardware.gpus_per_node)
