"""The same C source on libshmem and on another OpenSHMEM library, where an oshcc is found.

peer_openshmem.c is compiled twice into a temporary folder, and the two programs run in turn, so that a
machine that is slow for a while is so for both."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from pyshmem._report import paths

from .figures import Figure, figure
from .launch import Launcher, environment, find_launchers
from .run import Report

__all__ = ["OUR_FACE", "PEER_FACE", "PeerMissing", "run"]

OUR_FACE, PEER_FACE = "C, libshmem", "C, OpenSHMEM of oshcc"
_RATIO_FACE = "OpenSHMEM of oshcc / pyshmem"
_SOURCE = Path(__file__).with_name("peer_openshmem.c")
_DEADLINE_S = 300
_REPEATS = 3


class PeerMissing(RuntimeError):
    """The comparison cannot be made; the text says why and what to install."""


def _oshcc() -> str:
    """An oshcc that is not libshmem's own, which has the same name."""
    chosen = os.environ.get("OSHCC")
    places = os.environ.get("PATH", os.defpath).split(os.pathsep)
    for path in [chosen] if chosen else [shutil.which("oshcc", path=place) for place in places]:
        if path and (chosen or not Path(path).resolve().is_relative_to(paths()["prefix"].resolve())):
            return path
    raise PeerMissing(
        "there is no oshcc on PATH (OSHCC names another): apt install openmpi-bin libopenmpi-dev"
    )


def _call(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_DEADLINE_S, check=False, env=environment()
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerMissing(f"{command[0]}: {error}") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise PeerMissing(f"{command[0]} ended with status {done.returncode}: {lines[-1]}")
    return done.stdout


def _samples(text: str) -> dict[tuple[str, int], list[float]]:
    """The figures among what the program printed; its library may have printed more."""
    found = {}
    for line in text.splitlines():
        try:
            fields = json.loads(line)
        except ValueError:
            continue
        if isinstance(fields, dict) and "ns" in fields:
            found[fields["op"], fields["bytes"]] = [float(ns) for ns in fields["ns"]]
    return found


def figures_of(
    ours: list[dict[tuple[str, int], list[float]]],
    theirs: list[dict[tuple[str, int], list[float]]],
    npes: int,
) -> list[Figure]:
    """Both libraries' figures over all runs, and for each call how many times longer it takes there: a ratio
    of medians for each pair of runs."""

    def middle(values: list[float]) -> float:
        return sorted(values)[len(values) // 2]

    found = []
    for face, runs in ((OUR_FACE, ours), (PEER_FACE, theirs)):
        for op, nbytes in runs[0]:
            samples = [ns for one in runs for ns in one[op, nbytes]]
            found.append(figure(face, "openshmem", op, nbytes, npes, "ns", samples))
    for key in ours[0]:
        ratios = [middle(b[key]) / middle(a[key]) for a, b in zip(ours, theirs, strict=True)]
        found.append(figure(_RATIO_FACE, "openshmem", *key, npes, "x", ratios))
    return found


def run(rounds: int, report: Report, npes: int = 2) -> None:
    """Compiles the source for both and runs it `rounds` times on each, in turn; figures go to `report`.

    PeerMissing says why it cannot."""
    oshcc = _oshcc()
    compiler = shutil.which(os.environ.get("CC", "cc"))
    launchers = find_launchers()
    if compiler is None or not launchers:
        raise PeerMissing("a C compiler and an mpirun are needed")
    beside = Path(oshcc).with_name("mpirun")
    theirs_mpirun = Launcher(str(beside if beside.exists() else "mpirun"), "Open MPI", "")
    where = paths()
    with tempfile.TemporaryDirectory(prefix="pyshmem-bench-") as name:
        ours, theirs = f"{name}/ours", f"{name}/theirs"
        _call([compiler, "-O2", str(_SOURCE), "-o", ours, f"-I{where['includedir']}", f"-L{where['libdir']}",
               f"-Wl,-rpath,{where['libdir']}", "-l:libshmem.so.0"])  # fmt: skip
        _call([oshcc, "-O2", "-w", str(_SOURCE), "-o", theirs])
        mine, other = [], []
        for i in range(rounds):
            mine.append(_samples(_call(launchers[0].command(npes, [ours, str(_REPEATS)]))))
            # Open MPI 4.1's shmem_finalize does not return with osc/rdma
            program = ["--mca", "osc", "^rdma", theirs, str(_REPEATS)]
            other.append(_samples(_call(theirs_mpirun.command(npes, program))))
            report.progress("OpenSHMEM of oshcc", (i + 1) / rounds)
    for made in figures_of(mine, other, npes):
        report.figure(made)
