"""One run inside a job: the C program, the Python calls, the other libraries; PE 0 says what came of it.

The C figures come from a program of its own (bin/bench_core), so that no Python is in them: each PE starts
one as its child, and the children form a job of their own by torchrun's variables, whatever launcher started
us. Meanwhile the Python processes sleep.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import pyshmem as shmem

from . import calls, others
from .figures import GROUPS, OVERSUBSCRIBED, Figure, figure, with_target
from .launch import LAUNCHER_PREFIXES, processors

__all__ = ["CoreError", "Options", "Report", "Words", "core", "core_path", "meeting_place", "run"]

_COLLECTIVE = ("sync", "collectives")
_MESSAGE_BYTES = 512
_PYTHON_GROUPS = ("put", "get", "atomics", "sync", "collectives", "int8", "moe")


class CoreError(RuntimeError):
    """The C program is missing or failed."""


@dataclass(frozen=True)
class Options:
    """What to measure: groups of `figures.GROUPS` (of GPU_GROUPS on the device "cuda"; "nic" is --gpu-nic,
    which has none), rounds, microseconds a loop (of CPUs), and whether beside other libraries."""

    groups: tuple[str, ...] = tuple(GROUPS)
    rounds: int = 15
    slice_us: float = 2000
    peer: bool = False
    device: str = "cpu"
    quick: bool = False


@dataclass(frozen=True)
class Report:
    """Where the results of PE 0 go."""

    figure: Callable[[Figure], None]
    progress: Callable[[str, float], None]
    """What is being done, and how much of the run is over (0 to 1)."""
    note: Callable[[str], None]


def core_path() -> Path:
    """The C program of the installed package."""
    path = Path(__file__).resolve().parents[1] / "bin" / "bench_core"
    if not os.access(path, os.X_OK):
        raise CoreError(f"the C program of the benchmark is not there: {path}; pip install puts it there")
    return path


class Words:
    """Symmetric memory by which the Python PEs tell each other what the C program's job is, and that it is
    over."""

    def __init__(self) -> None:
        self.message = shmem.zeros(_MESSAGE_BYTES, dtype=np.uint8)
        self.received = shmem.zeros(_MESSAGE_BYTES, dtype=np.uint8)
        self.over = shmem.zeros(1, dtype=np.int64)
        self.runs = 0
        self.status = shmem.zeros(1, dtype=np.int64), shmem.zeros(1, dtype=np.int64)

    def tell(self, value: dict[str, Any] | None) -> dict[str, Any]:
        """PE 0's value on every PE."""
        if value is not None:
            text = json.dumps(value).encode()
            self.message[:] = 0
            self.message[: len(text)] = np.frombuffer(text, np.uint8)
        shmem.broadcast(self.received, self.message, 0)
        found: dict[str, Any] = json.loads(bytes(self.received).rstrip(b"\0"))
        return found

    def wait_over(self, last: int = 0) -> None:
        """Until PE `last` says so; asleep, since a spinning PE would take a processor from what is
        measured."""
        self.runs += 1
        if shmem.my_pe() == last:
            for pe in range(shmem.n_pes()):
                shmem.atomic_set(self.over, self.runs, pe)
        while shmem.atomic_fetch(self.over, shmem.my_pe()) < self.runs:
            time.sleep(0.02)

    def worst(self, status: int) -> int:
        """The largest status of all PEs."""
        source, target = self.status
        source[0] = status
        shmem.max_reduce(target, source)
        return int(target[0])

    def free(self) -> None:
        for a in (self.message, self.received, self.over, *self.status):
            shmem.free(a)


def meeting_place(seen_by_all: bool) -> dict[str, str]:
    """Where processes of this job's hosts find this one, by torchrun's variables, on a port that is free."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    return {
        "MASTER_ADDR": "127.0.0.1" if seen_by_all else os.environ.get("MASTER_ADDR") or socket.gethostname(),
        "MASTER_PORT": str(port),
        "SHMEM_JOB_SECRET": secrets.token_hex(16),
    }


def core(
    words: Words, pes: Sequence[int], arguments: Sequence[str], progress: Callable[[float], None],
    variables: dict[str, str] | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Runs the C program, with these variables, on `pes`, of which PE 0 is the first, and returns what it
    printed there. Collective over all PEs."""
    me = shmem.my_pe()
    one_node = all(shmem.ptr(words.over, pe) is not None for pe in range(shmem.n_pes()))
    place = words.tell(meeting_place(one_node) if me == 0 else None)
    lines: list[dict[str, Any]] = []
    status = 0
    if me in pes:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHER_PREFIXES)}
        environment.update(place, RANK=str(pes.index(me)), WORLD_SIZE=str(len(pes)), SHMEM_BOOTSTRAP="env")
        environment.update(variables or {})
        try:
            with subprocess.Popen(
                [str(core_path()), *arguments], env=environment, stdin=subprocess.DEVNULL, text=True,
                stdout=subprocess.PIPE if me == 0 else subprocess.DEVNULL,
            ) as process:  # fmt: skip
                for text in process.stdout or ():
                    line = json.loads(text)
                    if "progress" in line:
                        progress(line["progress"])
                    else:
                        lines.append(line)
            status = abs(process.returncode)
        except OSError as error:
            print(f"pyshmem bench: PE {me}: {error}", flush=True)
            status = 1
    words.wait_over()
    status = words.worst(status)
    if status:
        raise CoreError(f"bench_core ended with status {status} on some PE; its message above says why")
    return lines


def _core_figures(lines: Sequence[dict[str, Any]]) -> list[Figure]:
    npes = lines[0]["npes"]
    return [with_target(Figure(face="C", npes=npes, **line)) for line in lines[1:]]


def _oversubscribed(crowded: Sequence[Figure], alone: Sequence[Figure]) -> list[Figure]:
    """Medians of collectives with more PEs than cores, over those with a core a PE."""
    found = []
    base = {(f.op, f.bytes): f.median for f in alone}
    for f in crowded:
        if f.group in _COLLECTIVE and (f.op, f.bytes) in base:
            ratio = f.median / base[f.op, f.bytes]
            found.append(figure("C", f.group, f.op + OVERSUBSCRIBED, f.bytes, f.npes, "x", [ratio]))
    return found


def _c_side(words: Words, options: Options, report: Report, until: float) -> None:
    npes, cores = shmem.n_pes(), processors()
    groups = [g for g in options.groups if g != "network"]
    arguments = ["--rounds", str(options.rounds), "--slice-us", f"{options.slice_us:g}"]
    alone: list[Figure] = []
    done = 0.0
    collective = [g for g in groups if g in _COLLECTIVE]
    if npes > cores > 1 and collective:
        done = until / 4
        lines = core(
            words, range(cores), [*arguments, "--only", ",".join(collective)],
            lambda part: report.progress(f"C, {cores} PEs", done * part),
        )  # fmt: skip
        alone = _core_figures(lines) if lines else []
    lines = core(
        words, range(npes), [*arguments, "--only", ",".join(groups)],
        lambda part: report.progress(f"C, {npes} PEs", done + (until - done) * part),
    )  # fmt: skip
    if shmem.my_pe() != 0:
        return
    crowded = _core_figures(lines)
    for f in [*alone, *crowded, *_oversubscribed(crowded, alone)]:
        report.figure(f)


def run(options: Options, report: Report, mpi: Any = None) -> None:
    """Measures; collective. Figures are reported on PE 0. `mpi`: mpi4py's module when options.peer."""
    npes, cores = shmem.n_pes(), processors()
    first = shmem.my_pe() == 0
    if first and npes > cores:
        report.note(
            f"{npes} PEs share {cores} processor(s): calls that wait for another PE also wait for its turn; "
            "targets for 2 PEs do not apply"
        )
    groups = [g for g in options.groups if g in _PYTHON_GROUPS]
    until = 1.0 if not groups else 0.4
    words = Words()
    _c_side(words, options, report, until)
    words.free()
    if not groups:
        return
    samplers = calls.calls(groups)
    close: Callable[[], None] | None = None
    if mpi is not None:
        theirs, close = others.others(mpi, groups)
        samplers += theirs
    stage = "Python, others beside it" if mpi else "Python"
    calls.measure(
        samplers, options.rounds, options.slice_us,
        lambda part: report.progress(stage, until + (1 - until) * part)
        if first else None,
    )  # fmt: skip
    if close is not None:
        close()
    if not first:
        return
    for s in samplers:
        values = [s.nbytes / ns for ns in s.ns] if s.rate else s.ns
        report.figure(figure(s.face, s.group, s.op, s.nbytes, npes, "GB/s" if s.rate else "ns", values))
    for f in others.compare(samplers, npes):
        report.figure(f)
