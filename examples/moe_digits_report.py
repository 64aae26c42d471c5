"""What moe_digits.py asks and shows: options, progress, table and plot."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Quant = Literal["none", "int8"]


@dataclass
class Options:
    experts: int
    topk: int
    hidden: int
    epochs: int
    batch: int
    seed: int
    quants: list[Quant]
    plot: str | None
    json: bool


@dataclass
class Run:
    """One training and what was measured. Bytes and microseconds stay 0 without transfers."""

    name: str
    train_loss: list[float] = field(default_factory=list)  # of each epoch, as the other curves
    test_loss: list[float] = field(default_factory=list)
    test_accuracy: list[float] = field(default_factory=list)  # in percent
    seconds: float = 0
    dispatch_bytes: float = 0  # a PE, mean, of the whole training, to other PEs
    combine_bytes: float = 0
    dispatch_us: float = 0  # median
    combine_us: float = 0
    parameter_difference: float = 0  # largest, from the training in one process
    logit_difference: float = 0


def verdict(runs: list[Run]) -> list[tuple[bool, str]]:
    """What the trainings must show, and whether they do."""
    full, int8 = (next((run for run in runs if run.name == kind), None) for kind in ("float32", "INT8"))
    found = []
    if full:
        worst = max(full.parameter_difference, full.logit_difference)
        text = f"float32 transfers equal one process up to rounding: largest difference {worst:.1e}"
        found.append((worst < 1e-4, text))
    if int8:
        cost = (full or runs[-1]).test_accuracy[-1] - int8.test_accuracy[-1]
        found.append((cost < 1, f"INT8 transfers cost {cost:.2f} points of accuracy, less than 1 is allowed"))
    return found


def print_table(o: Options, n: int, runs: list[Run]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=f"{o.experts} experts on {n} PE{'s' * (n > 1)}, top-{o.topk}, hidden {o.hidden}, "
        f"{o.epochs} epochs, batches of {o.batch}"
    )
    table.add_column()
    for run in runs:
        table.add_column(run.name, justify="right")

    def row(text: str, cell: Callable[[Run], str], transfers_only: bool = True) -> None:
        table.add_row(
            text, *("" if run.name == "one process" and transfers_only else cell(run) for run in runs)
        )

    row("test accuracy", lambda run: f"{run.test_accuracy[-1]:.2f} %", False)
    row("test loss", lambda run: f"{run.test_loss[-1]:.4f}", False)
    row("largest difference of a weight", lambda run: f"{run.parameter_difference:.1e}")
    row("largest difference of a logit", lambda run: f"{run.logit_difference:.1e}")
    row("dispatch: MB to other PEs, a PE", lambda run: f"{run.dispatch_bytes / 1e6:.1f}")
    row("combine: MB to other PEs, a PE", lambda run: f"{run.combine_bytes / 1e6:.1f}")
    row("dispatch: µs a batch", lambda run: f"{run.dispatch_us:.0f}")
    row("combine: µs a batch", lambda run: f"{run.combine_us:.0f}")
    row("training and tests, s", lambda run: f"{run.seconds:.1f}", False)
    # Plain text of a fixed width: Open MPI shows its PEs a terminal even when they write to a file.
    console = Console(width=80, force_terminal=False)
    console.print(table)
    for good, text in verdict(runs):
        console.print("ok   " if good else "WRONG", text, soft_wrap=True)


def plot(path: str, o: Options, n: int, runs: list[Run]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    colors = {"float32": "#0072b2", "INT8": "#d55e00", "one process": "#555555"}
    figure, (loss, accuracy, times) = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    epochs = np.arange(1, o.epochs + 1)
    for run in runs:
        # The reference as dots, or it would hide the curve that it equals.
        dots = run.name == "one process"
        style: dict[str, Any] = {
            "color": colors[run.name],
            "linestyle": "none" if dots else "-",
            "markersize": 4,
        }
        loss.plot(epochs, run.test_loss, marker="o" if dots else "", label=f"{run.name}, test", **style)
        if not dots:
            loss.plot(
                epochs, run.train_loss, color=colors[run.name], linestyle=":", label=f"{run.name}, training"
            )
        accuracy.plot(epochs, run.test_accuracy, marker="o" if dots else "", label=run.name, **style)
    loss.set(title="Loss", xlabel="epoch", ylabel="cross entropy", yscale="log")
    loss.yaxis.set_major_formatter("{x:g}")
    loss.yaxis.set_minor_formatter("{x:g}")
    accuracy.set(title="Test accuracy", xlabel="epoch", ylabel="%")
    moved = runs[:-1]
    width = 0.8 / len(moved)
    for i, run in enumerate(moved):
        x = np.arange(2) + (i - (len(moved) - 1) / 2) * width
        bars = times.bar(
            x, [run.dispatch_us, run.combine_us], 0.9 * width, color=colors[run.name], label=run.name
        )
        times.bar_label(bars, fmt="%.0f", padding=2)
    times.set(title=f"Transfers of a batch of {o.batch}, median", ylabel="µs")
    times.set_xticks([0, 1], ["dispatch", "combine"])
    times.margins(y=0.3)
    for axes in (loss, accuracy, times):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
        axes.legend(frameon=False)
    for axes in (loss, accuracy):
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(
        f"Handwritten digits: {o.experts} experts on {n} PE{'s' * (n > 1)}, top-{o.topk}, hidden {o.hidden}"
    )
    figure.savefig(path, dpi=150)


@contextlib.contextmanager
def progress(o: Options, quiet: bool) -> Iterator[Callable[[Run], None]]:
    """Gives the function to call after each epoch: a bar on stderr, or lines where that is no terminal.

    It is none under mpirun, which reads it.
    """
    if quiet:
        yield lambda run: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (
        "{task.description:<11}",
        BarColumn(),
        MofNCompleteColumn(),
        "epochs",
        TextColumn("{task.fields[now]}"),
    )
    bar = Progress(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal)
    every = max(o.epochs // 3, 1)

    def tick(run: Run) -> None:
        done = len(run.test_loss)
        if done == 1:
            bar.add_task(run.name, total=o.epochs, now="")
        bar.update(bar.task_ids[-1], completed=done, now=f"accuracy {run.test_accuracy[-1]:5.2f} %")
        if done == o.epochs:
            bar.stop_task(bar.task_ids[-1])
        if not console.is_terminal and (done % every == 0 or done == o.epochs):
            console.print(bar.make_tasks_table([bar.tasks[-1]]))

    with bar:
        yield tick


def parse(quiet: bool) -> Options:
    """The options, checked; ends the program with a message, but for `quiet` PEs, so that one is printed."""
    with contextlib.ExitStack() as stack:
        if quiet:
            nowhere = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
            stack.enter_context(contextlib.redirect_stderr(nowhere))
        return _parse()


def _parse() -> Options:
    parser = argparse.ArgumentParser(
        description="Trains a mixture of experts on handwritten digits, over all PEs."
    )
    parser.add_argument("--experts", type=int, default=8, help="in all; any number, also fewer than PEs (8)")
    parser.add_argument("--topk", type=int, default=2, help="experts an image (2)")
    parser.add_argument(
        "--quant", choices=["none", "int8"], help="only this kind of transfer (default: both)"
    )
    parser.add_argument("--hidden", type=int, default=128, help="columns of a row, a multiple of 128 (128)")
    parser.add_argument("--epochs", type=int, default=15, help="passes over the training images (15)")
    parser.add_argument("--batch", type=int, default=64, help="images a step, over all PEs (64)")
    parser.add_argument("--seed", type=int, default=1, help="of the weights and the order of the images (1)")
    parser.add_argument("--plot", metavar="FILE", help="write curves and times as .png, .svg or .pdf")
    parser.add_argument("--json", action="store_true", help="print a JSON object instead of the table")
    a = parser.parse_args()
    for name in ("experts", "topk", "hidden", "epochs", "batch"):
        if getattr(a, name) < 1:
            parser.error(f"--{name} is {getattr(a, name)}, it must be at least 1")
    if a.topk > min(a.experts, 32):
        parser.error(f"--topk is {a.topk}, it must not exceed --experts = {a.experts}, nor 32")
    if a.hidden % 128:
        parser.error(f"--hidden is {a.hidden}, it must be a multiple of 128 (one INT8 scale for 128 columns)")
    if a.seed < 0:
        parser.error(f"--seed is {a.seed}, it must not be negative")
    if importlib.util.find_spec("sklearn") is None:
        parser.error("the images come from scikit-learn, which is not installed: pip install scikit-learn")
    if a.plot:
        if importlib.util.find_spec("matplotlib") is None:
            parser.error("--plot needs matplotlib, which is not installed: pip install matplotlib")
        if not a.plot.endswith((".png", ".svg", ".pdf")):
            parser.error(f"--plot {a.plot}: the name must end in .png, .svg or .pdf")
        if not os.path.isdir(os.path.dirname(a.plot) or "."):
            parser.error(f"--plot {a.plot}: there is no folder {os.path.dirname(a.plot)}")
    quants: list[Quant] = [a.quant] if a.quant else ["none", "int8"]
    return Options(a.experts, a.topk, a.hidden, a.epochs, a.batch, a.seed, quants, a.plot, a.json)
