"""What the network between two nodes costs: PE 0 and the first PE of another node, alone in a job of
bench_core; with --peer the programs that measure the network itself, in the same turns: perftest for verbs,
ucx_perftest for UCX.

A turn runs each of their programs once and our program after it, so that a minute in which the machine is
slow is one for all. Their server runs beside PE 0, their client beside the other PE; ratios are taken in each
turn.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pyshmem as shmem

from .. import doctor
from .._report import library_text
from .figures import Figure, Unit, figure
from .launch import environment
from .run import CoreError, Options, Report, Words, core, meeting_place

__all__ = ["BESIDE", "Program", "listening", "ratio", "run"]

_DEADLINE_S = 60.0
_START_S = 20.0


class Program(NamedTuple):
    """One program of a peer, and our figure that its figure stands beside."""

    op: str
    bytes: int
    unit: Unit
    command: tuple[str, ...]
    form: str
    """What is taken of its output, for people."""
    read: Callable[[str], float]
    """The figure, from the standard output of its client; ValueError where there is none."""


def _row(text: str, column: int) -> float:
    """A column of perftest's line of figures, which starts with bytes and iterations."""
    for line in text.splitlines():
        fields = line.split()
        if len(fields) >= 4 and fields[0].isdigit() and fields[1].isdigit():
            return float(fields[column])
    raise ValueError(text.strip().splitlines()[-1] if text.strip() else "no output")


def _csv(text: str, column: str) -> float:
    """A column of the last line of `ucx_perftest -v -f`; its order is the same in all versions, its names are
    not."""
    lines = [line.split(",") for line in text.splitlines() if line.count(",") >= 7]
    if len(lines) < 2:
        raise ValueError(text.strip().splitlines()[-1] if text.strip() else "no output")
    names = ["iterations", "median", "avg_lat", "overall_lat", "avg_bw", "overall_bw", "avg_mr", "overall_mr"]
    return float(lines[-1][names.index(column)])


_MIB = 1 << 20
_LATENCY, _RATE, _BLOCKS = ("-n", "1000"), ("-n", "4000"), ("-n", "400")


def _latency(op: str, program: str, *more: str, times: int = 1) -> Program:
    # its t_avg: ours is the time of a loop too
    return Program(op, 8, "ns", (program, *_LATENCY, *more), program if times == 1 else f"twice {program}",
                   lambda text: _row(text, 5) * 1e3 * times)  # fmt: skip


def _ucx_latency(op: str, test: str) -> Program:
    command = ("ucx_perftest", "-t", test, "-s", "8", *_LATENCY, "-w", "100", "-v", "-f")
    return Program(op, 8, "ns", command, test, lambda text: _csv(text, "median") * 1e3)


def _ucx_rate(
    nbytes: int, unit: Unit, count: tuple[str, ...], read: Callable[[str], float], op: str = "put_nbi"
) -> Program:
    command = ("ucx_perftest", "-t", "ucp_put_bw", "-s", str(nbytes), *count, "-w", "100", "-v", "-f")
    return Program(op, nbytes, unit, command, "ucp_put_bw" if op == "put_nbi" else "16 of ucp_put_bw", read)


# By transport: the peer's name, what brings it, its programs. Their ping-pongs count half a round trip;
# put + quiet is a whole one.
BESIDE: dict[str, tuple[str, str, tuple[Program, ...]]] = {
    "verbs": ("perftest", "apt install perftest", (
        _latency("put", "ib_write_lat", "-s", "8", times=2),
        _latency("get", "ib_read_lat", "-s", "8"),
        _latency("fetch_add", "ib_atomic_lat"),
        _latency("compare_swap", "ib_atomic_lat", "-A", "CMP_AND_SWAP"),
        Program("put_nbi", 8, "ns", ("ib_write_bw", "-s", "8", *_RATE), "ib_write_bw",
                lambda text: 1e3 / _row(text, 4)),
        Program("put_nbi", 65536, "GB/s", ("ib_write_bw", "-s", "65536", *_BLOCKS), "ib_write_bw",
                lambda text: _row(text, 3) * _MIB / 1e9),
    )),
    "ucx": ("ucx_perftest", "apt install ucx-utils, or pip install libucx-cu12", (
        _ucx_latency("p_wait", "ucp_put_lat"),
        _ucx_latency("get", "ucp_get"),
        _ucx_latency("fetch_add", "ucp_fadd"),
        _ucx_latency("compare_swap", "ucp_cswap"),
        _ucx_rate(8, "ns", _RATE, lambda text: 1e9 / _csv(text, "overall_mr")),
        _ucx_rate(8, "ns", _RATE, lambda text: 16e9 / _csv(text, "overall_mr"), "16 put_nbi + quiet"),
        _ucx_rate(65536, "GB/s", _BLOCKS, lambda text: _csv(text, "overall_bw") * _MIB / 1e9),
    )),
}  # fmt: skip


# ---- their programs ----------------------------------------------------------------------------------------


def _which(name: str, transports: Sequence[str]) -> str | None:
    """A program: beside the libucp in use, so that both measure the same UCX, in PATH, or in a libucx
    wheel."""
    places = [os.environ.get("PATH", os.defpath)]
    used = re.search(r"^ucx: available \(UCX [\d.]+, (.*)/[^/]*\)", "\n".join(transports), re.MULTILINE)
    if used:
        places.insert(0, os.path.normpath(f"{used[1]}/../bin"))
    spec = importlib.util.find_spec("libucx")
    places += [str(Path(place) / "bin") for place in (spec.submodule_search_locations or ())] if spec else []
    return shutil.which(name, path=os.pathsep.join(places))


def _variables(path: str) -> dict[str, str]:
    """For a program that is there: the libraries that were installed with it come first."""
    found, beside = environment(), Path(path).parent.parent / "lib"
    if (beside / "libucp.so.0").exists():
        found["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, [str(beside), found.get("LD_LIBRARY_PATH")]))
    return found


def _missing(programs: Sequence[Program], transports: Sequence[str]) -> str:
    """The first program that this host lacks."""
    return next((p.command[0] for p in programs if _which(p.command[0], transports) is None), "")


def _device_options(transports: Sequence[str]) -> list[str]:
    """perftest's options for the port and the GID that libshmem chose here, from `pyshmem info`'s
    transports."""
    for line in transports:
        name, _, text = line.partition(": ")
        if name == "verbs" and "(" in text:
            device, _, port = text.partition("(")[2].partition(",")[0].partition(":")
            gid = doctor.gid_index(device, port)
            return ["-d", device, "-i", port, *(["-x", str(gid)] if gid is not None else []), "-F"]
    return []


def listening(port: int, root: Path = Path("/")) -> bool:
    """Whether a socket of this network namespace listens on the TCP port."""
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (root / "proc/net" / name).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    return True
    return False


def _serve(command: Sequence[str], port: int) -> subprocess.Popen[str] | str:
    """Their server once it listens, or what went wrong."""
    try:
        server = subprocess.Popen(command, env=_variables(command[0]), stdin=subprocess.DEVNULL, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    except OSError as error:
        return str(error)
    until = time.monotonic() + _START_S
    while not listening(port):
        if server.poll() is not None or time.monotonic() > until:
            server.kill()
            return f"its server did not start: {_last_line(server.communicate()[0])}"
        time.sleep(0.02)
    return server


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it says nothing"])[-1]


def _ask(command: Sequence[str], read: Callable[[str], float]) -> float | str:
    """The figure that their client prints, or what went wrong."""
    try:
        done = subprocess.run(command, env=_variables(command[0]), stdin=subprocess.DEVNULL, text=True,
                              capture_output=True, timeout=_DEADLINE_S, check=False)  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode:
        return f"its client ended with status {done.returncode}: {_last_line(done.stdout + done.stderr)}"
    try:
        return read(done.stdout)
    except (ValueError, ZeroDivisionError) as error:
        return f"its client printed no figure: {error}"


class _Pair:
    """PE 0 and the PE that it measures with, among all PEs, which take part in the calls here."""

    def __init__(self, words: Words, other: int, transports: Sequence[str]) -> None:
        self.words, self.other, self.transports = words, other, transports
        self._devices = _device_options(transports)

    def measure(self, program: Program) -> float | str:
        """What their program finds, or why it finds nothing; the same on all PEs. Collective."""
        me = shmem.my_pe()
        place = self.words.tell(meeting_place(False) if me == 0 else None)
        port = place["MASTER_PORT"]
        path, options = _which(program.command[0], self.transports), [*program.command[1:], "-p", port]
        if program.command[0].startswith("ib_"):
            options += self._devices
        server: subprocess.Popen[str] | str | None = None
        if me == 0:
            server = _serve([str(path), *options], int(port))
        wrong = self.words.tell(
            {"wrong": server[:200] if isinstance(server, str) else ""} if me == 0 else None
        )
        found: float | str = wrong["wrong"]
        if me == self.other and not found:
            found = _ask([str(path), place["MASTER_ADDR"], *options], program.read)
        self.words.wait_over(self.other)
        if isinstance(server, subprocess.Popen):
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(2 if isinstance(found, float) else 0.5)
            server.kill()
            server.communicate()
        answer: float | str = doctor.gather({"found": found})[self.other]["found"]
        return answer


# ---- a run -------------------------------------------------------------------------------------------------


def ratio(
    peer: str, ours: Sequence[float], theirs: Sequence[float], op: str, nbytes: int, form: str
) -> Figure:
    """Ours over theirs, from the quotients of each turn."""
    quotients = [a / b for a, b in zip(ours, theirs, strict=True)]
    return figure(f"libshmem / {peer}", "network", op, nbytes, 2, "x", quotients, form=form)


def _other_node() -> tuple[int, str]:
    """The first PE on another node than PE 0, and the transport between them as PE 0 sees it; -1 = all are on
    one node."""
    found = doctor.gather({"routes": library_text(shmem.info())["routes"]})[0]
    for line in found["routes"]:  # "host memory of PE 1: ucx", "host memory of PEs 2 to 3: verbs"
        match = re.fullmatch(r"host memory of PEs? (\d+).*: (\w+)", line)
        if match and match[2] != "shm":
            return int(match[1]), match[2]
    return -1, ""


def _ours(
    pair: _Pair, transport: str, options: Options, native: bool
) -> list[tuple[str, int, Unit, str, float]]:
    """Our figures of one turn: operation, bytes, unit, form, median. Collective; empty but on PE 0."""
    arguments = ["--rounds", "3", "--slice-us", f"{min(10 * options.slice_us, 1e6):g}"]
    found: list[tuple[str, int, Unit, str, float]] = []
    # perftest's servers sleep while its clients measure, ucx_perftest's look all the time, as who waits in
    # libshmem does
    modes: list[tuple[str, str, str, bool]] = [("network,atomics,signals", "target", "", False)]
    if transport == "verbs":
        modes = [
            ("network,signals", "target", "", True),
            ("atomics", "target", "by the target, which waits", False),
            ("atomics", "target", "by the target, which sleeps", True),
        ]
        modes += [("atomics", "native", "native", True)] if native else []
    for groups, atomics, form, asleep in modes:
        variables = {"SHMEM_IB_ATOMICS": atomics}
        if os.environ.get("SHMEM_NODE_ID", "").startswith("/"):
            variables["SHMEM_NODE_ID"] = "/1"  # two PEs of two nodes
        more = ["--only", groups, *(["--others-sleep"] if asleep else [])]
        lines = core(pair.words, [0, pair.other], [*arguments, *more], lambda _: None, variables)
        for line in lines[1:]:
            of_atomics = line["group"] == "atomics"
            found.append(
                (line["op"], line["bytes"], line["unit"], form if of_atomics else "", line["median"])
            )
    return found


def run(options: Options, report: Report) -> None:
    """Measures; collective. Figures are reported on PE 0. Nothing where all PEs are of one node."""
    first = shmem.my_pe() == 0
    other, transport = _other_node()
    if other < 0:
        if first:
            report.note("network is left out: all PEs are of one node")
        return
    words = Words()
    found = library_text(shmem.info())
    pair = _Pair(words, other, found["transports"])
    name, remedy, programs = BESIDE.get(transport, ("", "", ()))
    if not options.peer or not programs:
        programs = ()
    lacking = doctor.gather({"lacks": _missing(programs, found["transports"]), "host": socket.gethostname()})
    for pe in (0, other):
        if lacking[pe]["lacks"]:
            if first:
                report.note(
                    f"{name} is left out: no {lacking[pe]['lacks']} on {lacking[pe]['host']}: {remedy}"
                )
            programs = ()
            break
    if first and programs:
        paths = dict.fromkeys(str(_which(p.command[0], found["transports"])) for p in programs)
        report.note(f"beside {', '.join(paths)}")
    theirs: dict[Program, list[float]] = {p: [] for p in programs}
    ours: dict[tuple[str, int, Unit, str], list[float]] = {}
    native = True
    for turn in range(options.rounds):
        for p in list(theirs):
            value = pair.measure(p)
            if isinstance(value, str):
                del theirs[p]
                if first:
                    report.note(f"{p.command[0]} ({p.form}) is left out: {value}")
            else:
                theirs[p].append(value)
        try:
            lines = _ours(pair, transport, options, native)
        except CoreError:
            if turn or transport != "verbs":
                raise
            native = False  # the device may have no atomics of its own
            lines = _ours(pair, transport, options, native)
        for op, nbytes, unit, form, median in lines:
            ours.setdefault((op, nbytes, unit, form), []).append(median)
        if first:
            report.progress(f"network over {transport}", (turn + 1) / options.rounds)
    words.free()
    if not first:
        return
    for (op, nbytes, unit, form), values in ours.items():
        report.figure(figure("C", "network", op, nbytes, 2, unit, values, form=form))
    for p, values in theirs.items():
        report.figure(figure(name, "network", p.op, p.bytes, 2, p.unit, values, form=p.form))
    for p, values in theirs.items():
        for (op, nbytes, _, form), mine in ours.items():
            if (op, nbytes) == (p.op, p.bytes):
                report.figure(ratio(name, mine, values, op, nbytes, form))
