"""One figure of a run: what was timed, the middle of its rounds, and the target it is held against."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal, NamedTuple

__all__ = [
    "GPU_FACES",
    "GPU_GROUPS",
    "GROUPS",
    "NIC_PATHS",
    "OVERSUBSCRIBED",
    "TARGETS",
    "Figure",
    "Target",
    "figure",
    "from_json",
    "quartiles",
    "with_target",
]

Unit = Literal["ns", "GB/s", "M/s", "x"]

GROUPS = {
    "put": "put, put + quiet, p; memcpy to the same memory beside them",
    "get": "get, g; memcpy from the same memory beside them",
    "strided": "iput and iget of every second 64-bit element",
    "atomics": "fetch_add, add, compare_swap",
    "signals": "p until wait_until returns, put with signal; one way",
    "locks": "set_lock + clear_lock, alone and with all PEs at it",
    "sync": "barrier_all, sync_all",
    "collectives": "broadcast, sum reduction of doubles, fcollect, alltoall",
    "int8": "INT8 quantize and dequantize, one core, bytes of float32",
    "network": "put + quiet, get, put_nbi, atomics, signals between PE 0 and another node",
    "moe": "dispatch and combine of 512 x 2048 float32 tokens a PE, top-4 of 32 experts",
}

GPU_GROUPS = {
    "put": "p, one way; put by kernels of 1, 8 and 32 blocks, and on a stream",
    "get": "get by kernels of 1, 8 and 32 blocks",
    "signals": "put_signal and packets, by a block, one way",
    "atomics": "fetch_add, round trip",
    "sync": "sync and barrier in a kernel, barrier on a stream",
    "collectives": "alltoall, fcollect and sum of float32 on a stream; bytes in all",
    "quant": "INT8 and FP8 all-reduce and its like beside the unquantized ones, the codec beside a copy",
    "moe": "MoE dispatch and combine in BF16, FP8 and INT8; bytes of rows for other GPUs (needs PyTorch)",
}
"""What ``--device cuda`` measures, from 2 PEs on; one PE has nobody to play ping-pong with."""

GPU_FACES = ("libshmem", "NVSHMEM", "NCCL", "DeepEP")
"""Whose calls on GPUs a figure is of: ours, then the peers'."""

NIC_PATHS = ("proxy", "ibgda")
"""Whose figures ``--gpu-nic`` has: how a kernel's messages reach the NIC; group "nic"."""


class Target(NamedTuple):
    """What a figure should reach: at most `value`, or at least it for rates and for times of others over
    ours. None fits every figure."""

    face: str
    op: str
    bytes: int | None
    npes: int | None
    value: float
    at_least: bool = False
    blocks: int | None = None


_TOKENS = 512 * 2048 * 4
_MIB = 1 << 20
# Ends the name of a ratio: a collective with more PEs than cores over the same with one PE a core.
OVERSUBSCRIBED = " / with a core each"
# Figures for 2 PEs on 2 otherwise idle cores, where nothing else is said (docs/performance.md).
TARGETS = [
    Target("C", "put", 8, 2, 20),
    Target("C", "get", 8, 2, 12),
    Target("C", "put / memcpy", _MIB, 2, 1.05),
    Target("C", "p_wait", 8, 2, 70),
    Target("C", "fetch_add", 8, 2, 20),
    Target("C", "lock", None, 2, 200),
    Target("C", "barrier", None, 2, 150),
    Target("C", "barrier", None, 4, 6000),
    *(Target("C", op, 8, 2, 300) for op in ("broadcast", "reduce", "fcollect", "alltoall")),
    Target("C", "reduce", _MIB, 2, 120_000),
    Target("C", "quantize", None, None, 6, at_least=True),
    Target("C", "dequantize", None, None, 6, at_least=True),
    Target("C", "dispatch_int8 / dispatch", None, None, 1),
    *(
        Target("C", f"{op}{OVERSUBSCRIBED}", None, None, 100)
        for op in ("barrier", "sync", "broadcast", "reduce", "fcollect", "alltoall")
    ),
    Target("Python", "put, symmetric source", 8, None, 250),
    Target("Python", "put, NumPy source", 8, None, 450),
    Target("Python", "get, symmetric target", 8, None, 350),
    Target("Python", "get, NumPy target", 8, None, 350),
    Target("Python", "atomic_fetch_add", 8, None, 350),
    Target("mpi4py / pyshmem", "dispatch + combine", _TOKENS, None, 1.5, at_least=True),
    # Between nodes, ours over what measures the network itself (docs/networks.md); 8-byte put_nbi as a time.
    *(
        Target(f"libshmem / {peer}", op, 8, None, value)
        for peer, ops, value in (
            ("perftest", ("put", "fetch_add", "compare_swap"), 1.15),
            ("perftest", ("put_nbi",), 1.25),
            (
                "ucx_perftest",
                ("p_wait", "get", "fetch_add", "compare_swap", "put_nbi", "16 put_nbi + quiet"),
                1.1,
            ),
        )
        for op in ops
    ),
    Target("libshmem / perftest", "put_nbi", 65536, None, 0.95, at_least=True),
    Target("libshmem / ucx_perftest", "put_nbi", 65536, None, 0.91, at_least=True),
    # From kernels to another node, over the software NIC (docs/proxy-or-ibgda.md): the GPU's part.
    Target("ibgda", "before the doorbell", 8, None, 1000),
    Target("proxy", "post", 8, None, 700),
    *(Target(path, "a warp's / a thread's", 8, None, 3) for path in NIC_PATHS),
    *(Target("ibgda", "doorbell to completion / GPU-CPU-GPU", n, None, 1.5) for n in (0, 8)),  # a NOP, a put
    # On GPUs joined by NVLink (docs/gpu.md).
    Target("libshmem", "p", 8, None, 750),
    *(Target("libshmem", "put_signal", n, None, ns) for n, ns in ((8, 2400), (14336, 2700), (65536, 3800))),
    *(Target("libshmem", "packets", n, None, ns) for n, ns in ((120, 900), (14400, 1500), (65520, 3000))),
    *(
        Target("libshmem", op, 256 * _MIB, None, rate, at_least=True, blocks=blocks)
        for op, rates in (("put", (45, 335, 355)), ("get", (50, 350, 365)))
        for blocks, rate in zip((1, 8, 32), rates, strict=True)
    ),
    Target("libshmem", "put_on_stream", 256 * _MIB, None, 392, at_least=True),
    Target("libshmem", "fetch_add", 8, None, 840),
    Target("libshmem", "sync", None, None, 1000),
    Target("libshmem", "barrier", None, None, 2400),
    Target("libshmem", "barrier_on_stream", None, None, 4000),
    *(
        Target("libshmem", f"{op}_on_stream", nbytes, npes, ns)
        for op, large in (("alltoall", 350_000), ("fcollect", 345_000), ("sum_reduce", 560_000))
        for nbytes, npes, ns in ((4096, None, 6000), (_MIB, None, 12_000), (128 * _MIB, 4, large))
    ),
    Target("libshmem", "sum_float32_int8", 16 * _MIB, 4, 55_000),
    Target("libshmem", "sum_float32_int8", 128 * _MIB, 4, 250_000),
]


@dataclass(frozen=True)
class Figure:
    """Median and quartiles of `rounds` timings of one call.

    face: "C", "Python", a library ("mpi4py"), "library / pyshmem": how many times longer it takes there;
    "libshmem / program": between nodes, our figure over the program's; or one of GPU_FACES or NIC_PATHS.
    bytes: of one call, a PE's part in collectives (on GPUs: in all); 0 where nothing is moved. unit: "ns" a
    call, "GB/s", "M/s" (million messages a second), "x" (ratio).
    q1, q3: lower and upper quartile. target: None where there is none; met: whether the median reaches it.
    blocks: of the kernel that makes the call, 0 where it is not made in one. form: how, where there are
    several ways ("1024 threads", "native"), or which program of a peer.
    """

    face: str
    group: str
    op: str
    bytes: int
    npes: int
    unit: Unit
    median: float
    q1: float
    q3: float
    rounds: int
    target: float | None = None
    at_least: bool = False
    blocks: int = 0
    form: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the median reaches the target; None without one."""
        if self.target is None:
            return None
        return self.median >= self.target if self.at_least else self.median <= self.target

    @property
    def met_in_quiet(self) -> bool | None:
        """The same for the better quartile: what the machine does when nothing else runs on it."""
        if self.target is None:
            return None
        return self.q3 >= self.target if self.at_least else self.q1 <= self.target

    def to_json(self) -> str:
        """One line; `from_json` reads it."""
        return json.dumps({**asdict(self), "met": self.met})


def quartiles(samples: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile; the quartiles are samples, as in libshmem/bench/core.c."""
    if not samples:
        raise ValueError("quartiles of no samples")
    v, n = sorted(samples), len(samples)
    return v[n // 4], (v[(n - 1) // 2] + v[n // 2]) / 2, v[n - 1 - n // 4]


def _target(f: Figure) -> Target | None:
    if (f.face, f.group) == ("C", "network"):
        return None  # those are of one node
    for t in TARGETS:
        wanted = (t.bytes, f.bytes), (t.npes, f.npes), (t.blocks, f.blocks)
        if (t.face, t.op) == (f.face, f.op) and all(a in (None, b) for a, b in wanted):
            return t
    return None


def figure(
    face: str, group: str, op: str, nbytes: int, npes: int, unit: Unit, samples: Sequence[float],
    blocks: int = 0, form: str = "",
) -> Figure:  # fmt: skip
    """The figure of these samples, with its target if it has one."""
    q1, median, q3 = quartiles(samples)
    made = Figure(face, group, op, nbytes, npes, unit, median, q1, q3, len(samples))
    return with_target(replace(made, blocks=blocks, form=form))


def with_target(f: Figure) -> Figure:
    """The same figure with the target that the table has for it."""
    t = _target(f)
    return replace(f, target=t.value if t else None, at_least=bool(t and t.at_least))


def from_json(text: str) -> Figure | None:
    """The figure of a line that `Figure.to_json` made; None for a line of JSON that is something else."""
    fields = json.loads(text)
    if not isinstance(fields, dict) or "op" not in fields or "face" not in fields:
        return None
    fields.pop("met", None)
    return Figure(**fields)
