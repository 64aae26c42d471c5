"""Finding mpirun, and starting this program on several PEs with it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple

__all__ = [
    "LaunchError",
    "Launcher",
    "environment",
    "find_launchers",
    "first_of_job",
    "in_job",
    "processors",
    "python_command",
    "start",
]

# Variables of launchers that a process started for another job must not see.
LAUNCHER_PREFIXES = ("PMIX_", "PMI_", "OMPI_", "PRTE_", "HYDI_", "TORCHELASTIC_")


class LaunchError(RuntimeError):
    """No launcher, or one that did not do its work; the text says what to do."""


class Launcher(NamedTuple):
    """A program that starts several processes as one job."""

    path: str
    flavour: str
    """"Open MPI", "MPICH", or "unknown"."""
    version: str

    def command(self, npes: int, program: Sequence[str]) -> list[str]:
        """The command line that runs `program` on `npes` processes of this machine, more than cores
        included."""
        flags = ["--oversubscribe", "--bind-to", "none"] if self.flavour == "Open MPI" else []
        return [self.path, *flags, "-n", str(npes), *program]


def _identify(path: str) -> Launcher:
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=20, check=False, env=environment()
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Launcher(path, "unknown", f"cannot be asked: {error}")
    text = done.stdout + done.stderr
    for flavour, pattern in (
        ("Open MPI", r"Open MPI\)?\s+(\d\S*)"),
        ("MPICH", r"HYDRA build details.*?Version:\s+(\d\S*)"),
        ("Open MPI", r"\bprte(?:run)?\b.*?(\d+\.\S+)"),
    ):
        found = re.search(pattern, text, re.DOTALL)
        if found:
            return Launcher(path, flavour, found[1])
    return Launcher(path, "unknown", (text.strip().splitlines() or ["it prints no version"])[0])


def find_launchers() -> list[Launcher]:
    """Every mpirun: beside this Python first (a wheel's), then along PATH; the first one is used."""
    places = [str(Path(sys.executable).parent), *os.environ.get("PATH", os.defpath).split(os.pathsep)]
    found: dict[str, Launcher] = {}
    for place in places:
        path = shutil.which("mpirun", path=place) if place else None
        if path and os.path.realpath(path) not in found:
            found[os.path.realpath(path)] = _identify(path)
    return list(found.values())


def in_job() -> bool:
    """Whether a launcher started this process: its variables are there."""
    return any(os.environ.get(name) for name in ("PMIX_RANK", "PMI_RANK", "PMI_FD", "RANK"))


def first_of_job() -> bool:
    """Whether this process is number 0 of the job that the launcher started, known before init."""
    ranks = (os.environ.get(name) for name in ("PMIX_RANK", "PMI_RANK", "RANK"))
    return next((rank for rank in ranks if rank), "0") == "0"


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


def python_command(*arguments: str, main: str = "pyshmem.cli") -> list[str]:
    """This Python with this very package, whatever the working directory holds, running ``pyshmem
    ARGUMENTS``, or the `main` of another module of the package."""
    home = str(Path(__file__).resolve().parents[2])
    code = f"import sys; sys.path[:] = [{home!r}, *(p for p in sys.path if p)]; sys.argv[0] = 'pyshmem'; "
    return [sys.executable, "-c", f"{code}from {main} import main; main()", *arguments]


def environment() -> dict[str, str]:
    """This process's variables without those of the launcher that started it, if one did: for processes of
    another job. Outside a job they are the user's settings (OMPI_MCA_..)."""
    foreign = LAUNCHER_PREFIXES if in_job() else ()
    found = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
    if os.geteuid() == 0:  # mpirun refuses root without; MPICH ignores them
        found.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    return found


def _terminated(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def start(launcher: Launcher, npes: int, program: Sequence[str]) -> Iterator[str]:
    """Runs `program` on `npes` PEs and yields the lines of its standard output as they come.

    Raises LaunchError when it ends with a status other than 0. Whatever ends this process ends the job too,
    but for SIGKILL.
    """
    before = signal.signal(signal.SIGTERM, _terminated)
    process = subprocess.Popen(
        launcher.command(npes, program),
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield from process.stdout
        status = process.wait()
        if status:
            raise LaunchError(f"{launcher.path} ended with status {status}; its output above says why")
    finally:
        if process.poll() is None:
            process.terminate()  # the launcher ends its processes; killed, it could not
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        assert process.stdout is not None
        process.stdout.close()
        signal.signal(signal.SIGTERM, before)
