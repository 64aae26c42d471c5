"""The command line of `pyshmem nic-trace`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from .differences import differences
from .files import TraceError, read
from .findings import Finding, findings
from .queues import Job
from .show import Filter, show, show_findings

__all__ = ["nic_trace"]


class _Number(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return int(value, 0)
        except ValueError:
            self.fail(f"{value!r} is no number", param, ctx)


class _Command(click.Command):
    """What follows `--` is a program to run, and no file."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            at = args.index("--")
            ctx.meta["pyshmem.program"] = args[at + 1 :]
            args = args[:at]
        return super().parse_args(ctx, args)


def _software_nic() -> str:
    library = Path(__file__).resolve().parents[1] / "lib" / "libshmem_sim.so"
    if not library.exists():
        raise click.ClickException(f"{library} is missing: this package was built without the software NIC")
    return str(library)


def _run(program: list[str], folder: Path) -> int:
    environment = dict(os.environ, SHMEM_SIM_TRACE=str(folder / "%p"))
    environment.setdefault("SHMEM_IBVERBS_LIB", _software_nic())
    try:
        status = subprocess.run(program, env=environment, check=False).returncode
    except OSError as error:
        raise click.ClickException(f"{program[0]}: {error.strerror}") from None
    if not any(folder.iterdir()):
        raise click.ClickException(
            f"{program[0]} ended with status {status} and opened no software NIC: does the job have a "
            "route over verbs or ibgda? SHMEM_NODE_ID=/1 makes each PE a node of its own"
        )
    return status if status >= 0 else 128 - status


def _job(names: tuple[str, ...]) -> Job:
    try:
        return Job(read(names))
    except TraceError as error:
        raise click.ClickException(str(error)) from None


def _report(job: Job, found: list[Finding], chosen: Filter, as_json: bool) -> None:
    if as_json:
        said = job.as_json()
        said["findings"] = [f.as_json(job.start) for f in found]
        click.echo(json.dumps(said))
        return
    width = None if sys.stdout.isatty() else 240
    console = Console(width=width)
    show(job, chosen, console)
    show_findings(found, job, console)


@click.command("nic-trace", cls=_Command)
@click.argument("traces", nargs=-1, type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of tables, nothing left out.")
@click.option("--diff", "other", type=click.Path(), help="Compare with the trace in this file or folder.")
@click.option("--replay", is_flag=True, help="Post the requests to a software NIC again, and compare.")
@click.option("--keep", type=click.Path(file_okay=False), help="Leave the program's traces in this folder.")
@click.option("--pe", "pes", multiple=True, type=_Number(), help="Only this PE's NIC; again for more.")
@click.option("--lid", "lids", multiple=True, type=_Number(), help="Only this process's NIC; again for more.")
@click.option("--qp", "qps", multiple=True, type=_Number(), help="Only this queue pair; again for more.")
@click.option("--opcode", "opcodes", multiple=True, help="Only these, as rdma_write; again for more.")
@click.option("--index", nargs=2, type=_Number(), default=(0, 0xFFFF), help="Only blocks from, to.")
@click.option("--since", type=float, help="Only what is fetched after this many microseconds.")
@click.option("--until", type=float, help="Only what is fetched before this many microseconds.")
@click.option("--errors", is_flag=True, help="Only what failed, or was never completed.")
@click.option("--limit", type=click.IntRange(min=1), default=200, help="Rows a queue pair: 200 unless set.")
@click.pass_context
def nic_trace(
    context: click.Context,
    traces: tuple[str, ...],
    as_json: bool,
    other: str | None,
    replay: bool,
    keep: str | None,
    pes: tuple[int, ...],
    lids: tuple[int, ...],
    qps: tuple[int, ...],
    opcodes: tuple[str, ...],
    index: tuple[int, int],
    since: float | None,
    until: float | None,
    errors: bool,
    limit: int,
) -> None:
    """Requests, doorbells and completions that the software NIC saw, and what is wrong with them.

    \b
    pyshmem nic-trace -- mpirun -n 2 ./program     # runs it on the software NIC, then shows
    pyshmem nic-trace FOLDER                       # all traces of a job
    pyshmem nic-trace FOLDER --diff OTHER          # what differs between two runs
    pyshmem nic-trace FILE --replay                # the same requests once more

    A trace is made by SHMEM_IBVERBS_LIB=libshmem_sim.so SHMEM_SIM_TRACE=FOLDER/%p. Flags of requests: C asks
    for an entry, F waits for earlier reads and atomics (fence), S is solicited. Ends with the program's
    status, or with 1 if a rule is broken, a request failed, or traces differ.
    """
    program: list[str] = context.meta.get("pyshmem.program", [])
    if bool(program) == bool(traces):
        raise click.UsageError("say either traces, or a program behind `--`")
    names = tuple(name.lower().replace("-", "_") for name in opcodes)
    chosen = Filter(lids, pes, qps, names, *index, since, until, errors, limit)
    if program:
        with tempfile.TemporaryDirectory(prefix="pyshmem-nic-trace-") as name:
            folder = Path(keep or name)
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise click.UsageError(f"{folder} is not empty")
            status = _run(program, folder)
            job = _job((str(folder),))
            found = findings(job)
            _report(job, found, chosen, as_json)
        sys.exit(status or any(f.bad for f in found))
    job = _job(traces)
    if other is not None:
        text = differences(job, _job((other,)), (" ".join(traces), other))
        click.echo("\n".join(text) if text else "no difference")
        sys.exit(bool(text))
    if replay:
        sys.exit(_replay(traces, as_json))
    found = findings(job)
    _report(job, found, chosen, as_json)
    sys.exit(any(f.bad for f in found))


def _replay(traces: tuple[str, ...], as_json: bool) -> int:
    """By nic_replay, all traces of the job together: requests of one name keys of another."""
    tool = Path(__file__).resolve().parents[1] / "bin" / "nic_replay"
    if not tool.exists():
        raise click.ClickException(f"{tool} is missing: this package was built without the software NIC")
    found: list[str] = []
    for path in map(Path, traces):
        found += [str(p) for p in sorted(path.iterdir())] if path.is_dir() else [str(path)]
    done = subprocess.run(
        [str(tool), *(["--json"] if as_json else []), *found], check=False, stdout=subprocess.PIPE, text=True
    )
    click.echo(done.stdout, nl=False)
    return done.returncode
