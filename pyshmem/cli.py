"""The command `pyshmem`: info (what was found and chosen), doctor (what is wrong with the network), config
(flags for C programs), bench (speed), accuracy (what 8-bit transfers cost), model (predicted MoE times),
nic-trace (what a NIC saw)."""

from __future__ import annotations

import inspect
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from . import _show
from ._report import gather, paths
from .accuracy.command import accuracy
from .bench.figures import GPU_GROUPS, GROUPS, NIC_PATHS, Figure, from_json
from .bench.launch import (
    Launcher,
    LaunchError,
    find_launchers,
    first_of_job,
    in_job,
    processors,
    python_command,
    start,
)
from .model.command import model
from .nic_trace.command import nic_trace

if TYPE_CHECKING:
    from .bench.run import Options, Report

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sushmem", prog_name="pyshmem")
def main() -> None:
    """OpenSHMEM for CPUs and GPUs: what this installation has, and how fast it is."""


# ---- info --------------------------------------------------------------------------------------------------


def _started() -> tuple[str, str | None, bool]:
    """The library's text in a running job, why it could not start, and whether this process is to print."""
    import pyshmem

    error = None
    try:
        pyshmem.init()
    except (pyshmem.ShmemError, OSError) as failure:
        error = str(failure)
    return pyshmem.info(), error, error is not None or pyshmem.my_pe() == 0


@main.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of tables.")
def info(as_json: bool) -> None:
    """What was found on this machine, what was chosen, and why not the rest.

    Alone it reports a job of one process; under mpirun, PE 0 reports the job. Ends with status 1 if no job
    can be started here.
    """
    text, error, prints = _started()
    if prints:
        found = gather(text, error)
        if as_json:
            click.echo(json.dumps(found, indent=2))
        else:
            _show.info(found)
    if error is None:
        import pyshmem

        pyshmem.finalize()
    else:
        sys.exit(1)


# ---- doctor ------------------------------------------------------------------------------------------------


@main.command()
@click.option("--gpu", is_flag=True,
              help="Measure instead what the GPU and its driver offer: mapping, releases, atomics, pinned "
                   "memory, dmabuf, waiting kernels (docs, Porting).")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of tables.")
def doctor(gpu: bool, as_json: bool) -> None:
    """Checks each link between PEs: devices, ports, GIDs, MTU, limits, libraries; then pings every peer.

    Under mpirun PE 0 shows what each host found. Ends with status 1 if something is broken, or no job can
    be started; with --gpu, which needs no job, if there is no GPU.
    """
    if gpu:
        _doctor_gpu(as_json)
        return
    text, error, prints = _started()
    if error is not None:
        raise click.ClickException(f"no job can be started here: {error}")
    import pyshmem

    from . import doctor as look

    every = look.gather(look.examine(gather(text, None)))
    seconds = look.ping()
    state = look.worst(check["state"] for report in every for check in report["checks"])
    if prints:
        hosts = {report["host"]: report for report in reversed(every)}
        if as_json:
            click.echo(json.dumps({"state": state, "hosts": hosts, "ping_seconds": seconds}, indent=2))
        else:
            _show.doctor(hosts, every[0]["routes"], seconds)
    pyshmem.finalize()
    if state == "bad":
        sys.exit(1)


def _doctor_gpu(as_json: bool) -> None:
    """In a job its first process alone: the others would measure each other."""
    if in_job() and not first_of_job():
        return
    from . import doctor_gpu
    from .doctor import worst

    errors = Console(stderr=True)
    with errors.status("starting") as status:
        rows = doctor_gpu.look(lambda name: status.update(f"measuring: {name}"))
    state = worst(row["state"] for row in rows)
    if as_json:
        click.echo(json.dumps({"state": state, "checks": rows}, indent=2))
    else:
        doctor_gpu.show(rows, Console(width=None if sys.stdout.isatty() else 140))
    if state in ("bad", "none"):  # none: no GPU
        sys.exit(1)


# ---- config ------------------------------------------------------------------------------------------------


@main.command()
@click.option("--cflags", "wanted", flag_value="cflags", multiple=True, help="Options for the compiler.")
@click.option(
    "--libs", "wanted", flag_value="libs", multiple=True, help="Options for the linker, with a run path."
)
@click.option("--includedir", "wanted", flag_value="includedir", multiple=True, help="Folder of shmem.h.")
@click.option("--libdir", "wanted", flag_value="libdir", multiple=True, help="Folder of libshmem.so.0.")
@click.option("--prefix", "wanted", flag_value="prefix", multiple=True, help="Folder of the package.")
@click.option(
    "--pkgconfigdir", "wanted", flag_value="pkgconfigdir", multiple=True, help="Folder of libshmem.pc."
)
@click.option(
    "--cmakedir", "wanted", flag_value="cmakedir", multiple=True, help="What libshmem_DIR is for CMake."
)
def config(wanted: tuple[str, ...]) -> None:
    """Flags to compile and link a C program with libshmem.

    \b
    cc hello.c -o hello $(pyshmem config --cflags --libs)
    mpirun -n 4 ./hello

    \b
    shmemcc hello.c -o hello        # the same
    shmemrun -n 4 ./hello

    Flags are quoted for the shell where a folder's name needs it: then use eval, or a Makefile's $(shell
    ...).
    """
    where = paths()
    if not wanted:
        raise click.UsageError(
            "say what: --cflags, --libs, --includedir, --libdir, --prefix, --pkgconfigdir, --cmakedir"
        )
    if not where["library"].exists():
        raise click.ClickException(f"{where['library']} is missing: this package was not installed by pip")
    run_path = f"-Wl,-rpath,{where['libdir']}"
    text = {
        "cflags": shlex.join([f"-I{where['includedir']}"]),
        # The wheel holds no symbolic links, so the library is named by its file.
        "libs": shlex.join([f"-L{where['libdir']}", run_path, "-l:libshmem.so.0"]),
        **{name: str(where[name]) for name in ("includedir", "libdir", "prefix")},
        "pkgconfigdir": str(where["libdir"] / "pkgconfig"),
        "cmakedir": str(where["libdir"] / "cmake" / "libshmem"),
    }
    click.echo(" ".join(text[name] for name in wanted))


# ---- bench -------------------------------------------------------------------------------------------------


def _groups(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, ...]:
    """--device is eager: it is known here."""
    known = GPU_GROUPS if context.params.get("device") == "cuda" else GROUPS
    if value is None:
        return tuple(known)
    names = [name.strip() for name in value.split(",") if name.strip()]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise click.BadParameter(f"{', '.join(unknown) or 'nothing'} is not among {', '.join(known)}")
    return tuple(name for name in known if name in names)


class _Screen:
    """Takes the results of a run: a line of JSON each, or a progress bar and later a table."""

    def __init__(self, as_json: bool, stream: bool) -> None:
        self.figures: list[Figure] = []
        self.header: dict[str, Any] = {}
        self._json, self._stream = as_json, stream
        self._errors = Console(stderr=True)
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._stage = ""

    @contextmanager
    def open(self) -> Iterator[None]:
        if self._stream or not self._errors.is_terminal:
            yield
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:3.0f} %"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._errors, transient=True) as self._progress:
            self._task = self._progress.add_task("starting", total=1.0)
            yield
            self._progress.update(self._task, completed=1.0)

    def head(self, header: dict[str, Any]) -> None:
        self.header = header
        if self._json:
            click.echo(json.dumps(header))

    def figure(self, f: Figure) -> None:
        self.figures.append(f)
        if self._json:
            click.echo(f.to_json())

    def progress(self, stage: str, part: float) -> None:
        if self._stream:
            click.echo(json.dumps({"stage": stage, "progress": round(part, 3)}))
        elif self._progress is not None and self._task is not None:
            self._progress.update(self._task, description=stage, completed=part)
        elif stage != self._stage:
            self.note(f"measuring {stage} ...")
        self._stage = stage

    def report(self) -> Report:
        from .bench.run import Report

        return Report(self.figure, self.progress, self.note)

    def note(self, text: str) -> None:
        self._errors.print(f"pyshmem bench: {text}", markup=False, highlight=False, soft_wrap=True)


def _machine() -> dict[str, Any]:
    model = ""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    return {"cpu": model, "processors": processors(), "load": os.getloadavg()[0]}


def _in_this_job(options: Options, screen: _Screen, npes: int | None) -> None:
    """Measures in the job that a launcher has started this process in."""
    import pyshmem

    from .bench import gpu, gpu_nic, network, others
    from .bench.run import CoreError, run

    on_gpus = options.device != "cpu"
    try:
        between = not on_gpus and "network" in options.groups
        more = not on_gpus and set(options.groups) != {"network"}
        mpi = others.start_mpi() if options.peer and more else None
        pyshmem.init()
        if npes not in (None, pyshmem.n_pes()):
            raise click.UsageError(
                f"this job has {pyshmem.n_pes()} PE(s), --npes {npes} would need another: without mpirun "
                "it starts one"
            )
        first = pyshmem.my_pe() == 0
        if on_gpus:
            gpu.require(pyshmem.n_pes() if options.device == "cuda" else None)
        report = screen.report()

        def measure() -> None:
            if options.device == "nic":
                gpu_nic.run(options, report)
            elif on_gpus:
                gpu.run(options, report)
            if more:
                run(options, report, mpi)
            if between:
                network.run(options, report)

        if first:
            version, bootstrap = f"pyshmem {pyshmem.__version__}", pyshmem.bootstrap_name()
            head = {"program": "pyshmem bench", "version": version, "npes": pyshmem.n_pes()}
            machine = _machine()
            screen.head({**head, "bootstrap": bootstrap, **machine, **(gpu.describe() if on_gpus else {})})
            if not on_gpus and machine["load"] > 0.5 * machine["processors"]:
                screen.note(
                    f"other programs use this machine (load average {machine['load']:.1f}): the better "
                    "quartile is nearer to what a quiet machine shows than the median"
                )
            with screen.open():
                measure()
        else:
            measure()
        pyshmem.finalize()
    except (CoreError, gpu.GpuError, others.PeerError, pyshmem.ShmemError, click.UsageError) as error:
        if not first_of_job():
            sys.exit(1)  # PE 0 says it
        raise error if isinstance(error, click.UsageError) else click.ClickException(str(error)) from None


def _in_new_job(options: Options, screen: _Screen, npes: int) -> None:
    """Starts a job with the mpirun that was found and takes what its PE 0 reports."""
    launchers = find_launchers()
    if not launchers:
        raise click.ClickException(
            "no mpirun beside this Python nor on PATH to start PEs with: pip install 'sushmem[mpi]' brings "
            "one (Open MPI's), 'sushmem[mpich]' another; or start this command with a launcher of yours"
        )
    screen.note(
        f"starting {npes} PE(s) with {launchers[0].path} ({launchers[0].flavour} {launchers[0].version})"
    )
    arguments = ["bench", "--stream", "--repeat", str(options.rounds), "--slice-us", f"{options.slice_us:g}"]
    if options.device == "nic":
        arguments += ["--gpu-nic", *(["--quick"] if options.quick else [])]
        _each_path(launchers[0], npes, arguments, screen)
        return
    arguments += ["--only", ",".join(options.groups)]
    if options.device == "cuda":  # its peers come afterwards, when the job has left the GPUs
        arguments += ["--device", "cuda", *(["--quick"] if options.quick else [])]
    elif options.peer:
        arguments.append("--peer")
    with screen.open():
        for text in start(launchers[0], npes, python_command(*arguments)):
            _take(text, screen)


def _each_path(launcher: Launcher, npes: int, arguments: list[str], screen: _Screen) -> None:
    """A job for each path by which kernels reach a NIC; what cannot be taken here is said and left out."""
    from .bench import gpu_nic

    failed: LaunchError | None = None
    with screen.open():
        for path in NIC_PATHS:
            try:
                with gpu_nic.with_variables(path):
                    for text in start(launcher, npes, python_command(*arguments)):
                        _take(text, screen)
            except LaunchError as error:
                failed = error
                screen.note(f"{path} is left out: {error}")
    if failed is not None and not screen.figures:
        raise failed


def _options(
    device: str, groups: tuple[str, ...], quick: bool, repeat: int | None, slice_us: float | None, peer: bool
) -> Options:
    from .bench.run import Options

    usual, short = (15, 5) if device == "cpu" else (7, 3)
    rounds = repeat or (short if quick else usual)
    return Options(groups, rounds, slice_us or (300 if quick else 2000), peer, device, quick)


def _measure(options: Options, screen: _Screen, npes: int | None, stream: bool) -> None:
    from .bench import gpu

    here = stream or in_job()
    try:
        gpus = gpu.require(npes if options.device == "cuda" else None) if options.device != "cpu" else None
    except gpu.GpuError as error:
        if here and not first_of_job():
            sys.exit(1)  # PE 0 says it
        raise click.ClickException(str(error)) from None
    if here:
        _in_this_job(options, screen, npes)
    else:
        _in_new_job(options, screen, npes or (gpus if options.device == "cuda" else None) or 2)
    if options.peer and not gpus and not here:  # two jobs of their own, after ours
        from .bench import openshmem_peer

        with screen.open():
            try:
                openshmem_peer.run(min(options.rounds, 7), screen.report())
            except openshmem_peer.PeerMissing as why:
                screen.note(f"another OpenSHMEM is left out: {why}")
    if options.device == "cuda" and options.peer and first_of_job():
        from .bench import gpu_peers

        with screen.open():
            gpu_peers.run(options, screen.header["npes"], screen.report())


def _take(text: str, screen: _Screen) -> None:
    try:
        line = json.loads(text)
    except ValueError:
        click.echo(text, nl=False, err=True)  # some library of the job says something
        return
    if "progress" in line:
        screen.progress(line["stage"], line["progress"])
    elif "program" in line:
        screen.head(line)
    else:
        f = from_json(text)
        if f is not None:
            screen.figure(f)


def _from_file(path: str, screen: _Screen) -> None:
    try:
        for text in Path(path).read_text().splitlines():
            _take(text, screen)
    except (TypeError, OSError, UnicodeDecodeError) as error:
        raise click.ClickException(f"{path} is not what `pyshmem bench --json` prints: {error}") from None
    if not screen.figures:
        raise click.ClickException(f"{path} holds no figures of `pyshmem bench --json`")


def _listed(function: Callable[..., None]) -> Callable[..., None]:
    function.__doc__ = inspect.getdoc(function)  # unindented, as the lists that follow are
    for text, groups in (("Groups:", GROUPS), ("Groups of --device cuda:", GPU_GROUPS)):
        lines = "\n".join(f"  {name:<12} {what}" for name, what in groups.items())
        function.__doc__ = f"{function.__doc__}\n\n\b\n{text}\n{lines}\n"
    return function


@main.command()
@click.option("--npes", type=click.IntRange(1, 1024),
              help="PEs to start when no launcher has started this (default 2; GPUs: one each).")  # fmt: skip
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", is_eager=True,
              help="Host memory (default), or GPU memory, kernels and streams, one PE a GPU.")  # fmt: skip
@click.option("--gpu-nic", is_flag=True,
              help="From kernels to another node: cost to post, time to completion, message rates, through a "
                   "proxy and by ibgda (SHMEM_GPU_NIC); times before ibgda's doorbell and from it on; each "
                   "PE is a node (SHMEM_NODE_ID=/1) unless you say otherwise, the NIC the software NIC where "
                   "there is none.")  # fmt: skip
@click.option("--only", callback=_groups, metavar="GROUP,...", help="Measure these groups only.")
@click.option("--quick", is_flag=True, help="A look in seconds: few rounds of short loops.")
@click.option("--repeat", type=click.IntRange(1, 1001),
              help="Rounds (default 15, with --quick 5; on GPUs 7 and 3).")  # fmt: skip
@click.option("--slice-us", type=click.FloatRange(1, 1e6), hidden=True, help="Microseconds of a timed loop.")
@click.option("--peer", is_flag=True,
              help="The same on mpi4py, and shmem4py where installed, in the same rounds; between nodes "
                   "perftest or ucx_perftest; then on the OpenSHMEM whose oshcc is on PATH (or OSHCC), "
                   "where this starts the job; on GPUs on NVSHMEM, NCCL and DeepEP, afterwards.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="A line of JSON for each figure instead of tables.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Tables in Markdown.")
@click.option(
    "--plot", metavar="FILE", type=click.Path(dir_okay=False), help="Draw a picture (.png, .svg, .pdf)."
)
@click.option("--from", "from_file", metavar="FILE", type=click.Path(exists=True, dir_okay=False),
              help="Show the figures that an earlier run printed with --json; measure nothing.")  # fmt: skip
@click.option("--stream", is_flag=True, hidden=True)
@_listed
def bench(
    npes: int | None,
    device: str,
    gpu_nic: bool,
    only: tuple[str, ...],
    quick: bool,
    repeat: int | None,
    slice_us: float | None,
    peer: bool,
    as_json: bool,
    as_markdown: bool,
    plot: str | None,
    from_file: str | None,
    stream: bool,
) -> None:
    """Latency, bandwidth, atomics, locks, signals, collectives, INT8, dispatch and combine; from C and from
    Python.

    Under mpirun it measures that job; alone it starts one with the mpirun it finds. Figures are medians of
    rounds with their quartiles; targets are for 2 PEs on 2 idle cores. With more PEs than cores, collectives
    are also shown as a ratio to those with a core each.

    With --device cuda: calls in kernels and on streams, one PE a GPU; targets are for GPUs joined by NVLink.
    """
    from .bench import show

    if gpu_nic and (peer or device != "cpu"):
        raise click.UsageError("--gpu-nic goes with neither --device nor --peer")
    if as_json and as_markdown:
        raise click.UsageError("--json and --markdown exclude each other")
    screen = _Screen(as_json or stream, stream)
    try:
        if plot:
            show.require_matplotlib()
        if from_file:
            _from_file(from_file, screen)
        else:
            _measure(
                _options("nic" if gpu_nic else device, only, quick, repeat, slice_us, peer),
                screen,
                npes,
                stream,
            )
        if not screen.figures or stream:
            return
        if as_markdown:
            click.echo(show.markdown(screen.figures))
        elif not as_json:
            show.table(screen.figures, Console(width=None if sys.stdout.isatty() else 140))
        if plot:
            show.plot(screen.figures, plot, _title(screen.header))
            screen.note(f"wrote {plot}")
    except (LaunchError, show.PlotError) as error:
        raise click.ClickException(str(error)) from None


def _title(header: dict[str, Any]) -> str:
    version, cpu = header.get("version", "libshmem"), header.get("cpu") or "this machine"
    if "gpu" in header:
        return f"{version}: {header.get('npes', '?')} PEs, {header['gpu']} each"
    return f"{version}: {header.get('npes', '?')} PEs on {header.get('processors', '?')} processors, {cpu}"


main.add_command(accuracy)
main.add_command(nic_trace)
main.add_command(model)
