"""The command `pyshmem model`."""

from __future__ import annotations

import json
import sys
from pathlib import Path as File
from typing import Any

import click
from rich.console import Console

from ..bench.figures import Figure, from_json
from ..bench.show import PlotError, require_matplotlib
from .hardware import HARDWARE, IBGDA, PROXY, Path, changed
from .measured import with_figures
from .predict import FORMATS, MESSAGES, Prediction, low_latency, normal
from .published import compare
from .traffic import Shape

__all__ = ["model"]

_MODES = ("normal", "low_latency")
_TOKENS = {"normal": 4096, "low_latency": 128}


def _gpus(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        found = tuple(int(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list of numbers such as 8,16,32") from None
    return found


def _figures(path: str | None) -> list[Figure]:
    if path is None:
        return []
    try:
        found = [from_json(line) for line in File(path).read_text().splitlines() if line.startswith("{")]
    except (OSError, ValueError, TypeError) as error:
        raise click.ClickException(f"{path} is not what `pyshmem bench --json` prints: {error}") from None
    nic = [f for f in found if f is not None and f.group == "nic"]
    if not nic:
        raise click.ClickException(f"{path} holds no figures of `pyshmem bench --gpu-nic --json`")
    return nic


def _changed(base: Any, given: str, option: str) -> Any:
    try:
        return changed(base, given)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=option) from None


@click.command()
@click.option("--gpus", callback=_gpus, default="8,16,32,64,128,256", show_default=True,
              metavar="N,...", help="Numbers of GPUs.")  # fmt: skip
@click.option("--mode", "modes", type=click.Choice(_MODES), multiple=True,
              help="These kernels only (default: both).")  # fmt: skip
@click.option("--tokens", type=click.IntRange(1), help="Tokens a GPU (default: 4096; low latency 128).")
@click.option("--hidden", type=click.IntRange(1), default=7168, show_default=True)
@click.option("--topk", type=click.IntRange(1), default=8, show_default=True)
@click.option("--experts", type=click.IntRange(1), default=256, show_default=True)
@click.option("--limit", type=click.IntRange(0), default=4, show_default=True,
              help="Nodes a token goes to at most; 0: any number.")  # fmt: skip
@click.option("--dispatch", type=click.Choice(FORMATS), default="fp8", show_default=True)
@click.option("--combine", type=click.Choice(FORMATS), default="bf16", show_default=True)
@click.option("--no-nvlink", is_flag=True, help="Low latency over the NIC alone, within the node too.")
@click.option("--messages", type=click.Choice(MESSAGES), default="row", show_default=True,
              help="Low latency: a message holds a row, or all rows for an expert or a GPU.")  # fmt: skip
@click.option("--hardware", type=click.Choice(list(HARDWARE)), default="h800-cx7", show_default=True)
@click.option("--set", "given", default="", metavar="KEY=VALUE,...",
              help="Other figures of the hardware: nvlink=355,nic_gbits=200 ...")  # fmt: skip
@click.option("--ibgda", default="", metavar="KEY=VALUE,...",
              help="Figures of GPU-posted RDMA: post_us, rate (M/s), put_quiet_us.")  # fmt: skip
@click.option("--proxy", default="", metavar="KEY=VALUE,...",
              help="Figures of the proxy: the same, and threads (proxy threads a GPU).")  # fmt: skip
@click.option("--figures", metavar="FILE", type=click.Path(exists=True, dir_okay=False),
              help="Take the cost to post from what `pyshmem bench --gpu-nic --json` printed.")  # fmt: skip
@click.option("--real-nic", is_flag=True,
              help="With --figures of a NIC, not of the software NIC: its rate and latency too.")  # fmt: skip
@click.option("--published", is_flag=True, help="DeepEP's published table beside the model instead.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of tables.")
@click.option("--plot", metavar="FILE", type=click.Path(dir_okay=False),
              help="Draw times over the number of GPUs (.png, .svg, .pdf).")  # fmt: skip
def model(
    gpus: tuple[int, ...],
    modes: tuple[str, ...],
    tokens: int | None,
    hidden: int,
    topk: int,
    experts: int,
    limit: int,
    dispatch: str,
    combine: str,
    no_nvlink: bool,
    messages: str,
    hardware: str,
    given: str,
    ibgda: str,
    proxy: str,
    figures: str | None,
    real_nic: bool,
    published: bool,
    as_json: bool,
    plot: str | None,
) -> None:
    """Predicted times of MoE dispatch and combine, with RDMA posted by the GPU (ibgda) and by a proxy.

    From figures of the hardware, for any number of GPUs; nothing is run and no GPU is needed. See
    "Predicted MoE times" in the documentation for each term and for how near the model comes.
    """
    from . import show

    machine = _changed(HARDWARE[hardware], given, "--set")
    measured = _figures(figures)
    if real_nic and not measured:
        raise click.UsageError("--real-nic says what --figures are of")
    paths: list[Path] = [
        _changed(with_figures(base, measured, real_nic), text, f"--{base.name}")
        for base, text in ((IBGDA, ibgda), (PROXY, proxy))
    ]
    forms = {"dispatch": dispatch, "combine": combine}
    predictions: list[Prediction] = []
    try:
        if plot:
            require_matplotlib()
        for mode in [m for m in _MODES if m in (modes or _MODES)]:
            for call, form in forms.items():
                for count in gpus:
                    shape = Shape(count, tokens or _TOKENS[mode], hidden, topk, experts, limit)
                    for path in paths:
                        if mode == "normal":
                            predictions.append(normal(call, shape, machine, path, form))
                        else:
                            made = low_latency(call, shape, machine, path, form, not no_nvlink, messages)
                            predictions.append(made)
    except (ValueError, PlotError) as error:
        raise click.ClickException(str(error)) from None
    compared = compare()
    if as_json:
        click.echo(json.dumps(show.as_json(machine, predictions, compared if published else []), indent=2))
    else:
        console = Console(width=None if sys.stdout.isatty() else 140)
        if published:
            show.published(compared, console)
        else:
            show.table(machine, predictions, console)
    if plot:
        try:
            show.plot(machine, predictions, compared if machine == HARDWARE["h800-cx7"] else [], plot)
        except (OSError, ValueError) as error:
            raise click.ClickException(f"cannot write {plot}: {error}") from None
        click.echo(f"wrote {plot}", err=True)
