"""The command itself: its options, and the order of things."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ..bench.launch import LaunchError, find_launchers, in_job, python_command, start

__all__ = ["accuracy"]


def _figures(
    parts: tuple[str, ...], text: str, tokens: int, steps: int, npes: int, note: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    from . import model, synthetic, training

    if "model" in parts:
        model.require(model.NEEDED)
    if "training" in parts:
        model.require(training.NEEDED)
        launchers = find_launchers()
        if not launchers:
            raise click.ClickException(
                "training needs several PEs, and no mpirun is beside this Python nor on PATH: "
                "pip install 'sushmem[mpi]' brings one"
            )
    if "synthetic" in parts:
        note("synthetic rows")
        yield from synthetic.run()
    if "model" in parts:
        yield from model.run(*model.load(note), Path(text).read_text(), tokens, note)
    if "training" in parts:
        note(f"training on {npes} PEs")
        command = python_command("--steps", str(steps), "--text", text, main="pyshmem.accuracy.training")
        for line in start(launchers[0], npes, command):
            try:
                found: dict[str, Any] = json.loads(line)
            except ValueError:
                click.echo(line, nl=False, err=True)  # some library of the job says something
                continue
            note(f"{found['model']}: {found['reduction']}")
            yield found


def _count(parts: tuple[str, ...]) -> int:
    """Figures of these parts."""
    from . import synthetic, training
    from .transfer import WAYS

    ways = len(WAYS) - 1  # but for none
    each = {
        "synthetic": len(synthetic.DATA) * ways,
        "model": 1 + 2 * ways,
        "training": len(training.MODELS) * len(training.REDUCTIONS),
    }
    return sum(each[part] for part in set(parts))


def _own_text() -> str:
    """This package's licence, or where that is not installed a text that every Python has."""
    try:
        files = distribution("sushmem").files or []
    except PackageNotFoundError:
        files = []
    licences = [Path(str(f.locate())) for f in files if f.name == "LICENSE"]
    return str(next((path for path in licences if path.exists()), inspect.__file__))


@click.command()
@click.option("--only", "parts", type=click.Choice(["synthetic", "model", "training"]), multiple=True,
              help="This part only; may be given several times. Default: all.")  # fmt: skip
@click.option("--text", type=click.Path(exists=True, dir_okay=False),
              help="What the models read and learn from (default: a licence).")  # fmt: skip
@click.option("--tokens", type=click.IntRange(2, 1_000_000), default=768, show_default=True,
              help="Tokens of the text that the language model reads, in windows of 768.")  # fmt: skip
@click.option("--steps", type=click.IntRange(1, 100_000), default=300, show_default=True,
              help="Steps of each training.")  # fmt: skip
@click.option(
    "--npes", type=click.IntRange(1, 1024), default=2, show_default=True, help="PEs of the training."
)
@click.option("--json", "as_json", is_flag=True, help="A line of JSON for each figure instead of tables.")
@click.option("--plot", metavar="FILE", help="Also draw them into a picture (.png, .svg, .pdf).")
def accuracy(
    parts: tuple[str, ...],
    text: str | None,
    tokens: int,
    steps: int,
    npes: int,
    as_json: bool,
    plot: str | None,
) -> None:
    """What 8-bit transfers cost in accuracy.

    synthetic: rows of known distributions through every kind of transfer, outlier channels among them.
    model: Gemma-3 270M, the inputs of all its feed-forward layers (and their outputs) through the
    transfer, as dispatch and combine would send them: perplexity, SQNR, row cosine. training: digits and
    a small transformer, gradients all-reduced between PEs in full precision and in INT8.

    Needs pip install 'sushmem[accuracy]'.
    """
    from .model import MissingError, require

    errors = Console(stderr=True)
    figures: list[dict[str, Any]] = []
    if in_job():
        raise click.UsageError("run it without mpirun: it starts the PEs of the training itself")
    try:
        if plot:
            require({"matplotlib": "matplotlib"})
            if not plot.endswith((".png", ".svg", ".pdf")) or not Path(plot).parent.is_dir():
                raise click.UsageError(
                    f"--plot {plot}: the name must end in .png, .svg or .pdf, in a folder that is there"
                )
        wanted = parts or ("synthetic", "model", "training")
        columns = (
            TextColumn("pyshmem accuracy: {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
            task = progress.add_task("starting", total=_count(wanted))

            def note(what: str) -> None:
                progress.update(task, description=what)
                if not errors.is_terminal:
                    click.echo(what, err=True)

            for figure in _figures(wanted, text or _own_text(), tokens, steps, npes, note):
                figures.append(figure)
                progress.advance(task)
                if as_json:
                    click.echo(json.dumps(figure))
    except (MissingError, LaunchError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    from . import show

    if not as_json:
        show.tables(figures, Console(width=None if sys.stdout.isatty() else 140))
    if plot:
        show.plot(figures, plot)
        click.echo(f"wrote {plot}", err=True)
