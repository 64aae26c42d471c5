"""One figure of a run: what was timed, the middle of its rounds, and the target it is held against."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

__all__ = [
    "GROUPS",
    "OVERSUBSCRIBED",
    "TARGETS",
    "Figure",
    "Target",
    "figure",
    "from_json",
    "quartiles",
    "with_target",
]

Unit = Literal["ns", "GB/s", "x"]

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
    "moe": "dispatch and combine of 512 x 2048 float32 tokens a PE, top-4 of 32 experts",
}


class Target(NamedTuple):
    """What a figure should reach: at most `value`, or at least it for rates and for times of others over
    ours."""

    face: str
    op: str
    bytes: int | None
    npes: int | None
    value: float
    at_least: bool = False


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
]


@dataclass(frozen=True)
class Figure:
    """Median and quartiles of `rounds` timings of one call.

    face: "C", "Python", a library ("mpi4py"), or "library / pyshmem": how many times longer it takes there.
    bytes: of one call, a PE's part in collectives; 0 where nothing is moved. unit: "ns" a call, "GB/s",
    "x" (ratio).
    q1, q3: lower and upper quartile. target: None where there is none; met: whether the median reaches it.
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


def _target(face: str, op: str, nbytes: int, npes: int) -> Target | None:
    for t in TARGETS:
        if (t.face, t.op) == (face, op) and t.bytes in (None, nbytes) and t.npes in (None, npes):
            return t
    return None


def figure(
    face: str, group: str, op: str, nbytes: int, npes: int, unit: Unit, samples: Sequence[float]
) -> Figure:
    """The figure of these samples, with its target if it has one."""
    q1, median, q3 = quartiles(samples)
    return with_target(Figure(face, group, op, nbytes, npes, unit, median, q1, q3, len(samples)))


def with_target(f: Figure) -> Figure:
    """The same figure with the target that the table has for it."""
    t = _target(f.face, f.op, f.bytes, f.npes)
    fields: dict[str, Any] = asdict(f)
    fields.update(target=t.value if t else None, at_least=bool(t and t.at_least))
    return Figure(**fields)


def from_json(text: str) -> Figure | None:
    """The figure of a line that `Figure.to_json` made; None for a line of JSON that is something else."""
    fields = json.loads(text)
    if not isinstance(fields, dict) or "op" not in fields or "face" not in fields:
        return None
    fields.pop("met", None)
    return Figure(**fields)
