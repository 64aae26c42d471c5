"""Predictions as tables, JSON and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from ..bench.show import require_matplotlib
from .hardware import Hardware
from .predict import Prediction
from .published import Comparison

__all__ = ["as_json", "plot", "published", "table"]

_MODES = {
    "normal": "normal",
    "normal_v2": "normal, V2",
    "low_latency": "low latency",
    "pure_rdma": "low latency, NIC only",
}
_COLOURS = {"ibgda": "#1f5fa8", "proxy": "#c8541b", "published": "#333333"}
_WITHIN = 0.25


def as_json(hardware: Hardware, predictions: Sequence[Prediction], compared: Sequence[Comparison]) -> Any:
    """One object: the hardware, every prediction with its parts, and the published rows."""
    return {
        "hardware": asdict(hardware),
        "predictions": [
            {
                "mode": p.mode,
                "call": p.call,
                "path": p.path,
                **asdict(p.shape),
                "us": p.us,
                "bottleneck": p.bottleneck,
                "stages": dict(p.stages),
                "rest": dict(p.rest),
                "nic_bytes": p.nic_bytes,
                "nvlink_bytes": p.nvlink_bytes,
                "messages": p.messages,
                "row_bytes": p.row,
            }
            for p in predictions
        ],
        "published": [
            {**asdict(c.row), "predicted": c.predicted, "error": c.error, "bottleneck": c.bottleneck}
            for c in compared
        ],
    }


def _paired(predictions: Sequence[Prediction]) -> list[dict[str, Prediction]]:
    """By path, of the same call."""
    found: dict[tuple[Any, ...], dict[str, Prediction]] = {}
    for p in predictions:
        found.setdefault((p.mode, p.call, p.shape), {})[p.path] = p
    return list(found.values())


def table(hardware: Hardware, predictions: Sequence[Prediction], console: Console) -> None:
    """A row for each call and number of GPUs, ibgda and proxy side by side."""
    rows = _paired(predictions)
    for mode in dict.fromkeys(p.mode for p in predictions):
        part = [row for row in rows if next(iter(row.values())).mode == mode]
        tokens = next(iter(part[0].values())).shape.tokens
        shown = Table(
            title=f"{_MODES[mode]}: {tokens} tokens a GPU, {hardware.name}", title_justify="left",
            title_style="bold",
        )  # fmt: skip
        paths = list(part[0])
        head = ["call", "GPUs", "over the NIC", "messages", *(f"{path}, us" for path in paths)]
        head += [f"bound by ({path})" for path in paths] + (["proxy / ibgda"] if len(paths) == 2 else [])
        for name in head:
            shown.add_column(name, justify="left" if name[0] in "cb" else "right", no_wrap=True)
        for i, row in enumerate(part):
            one = next(iter(row.values()))
            cells = [one.call, str(one.shape.gpus), f"{one.nic_bytes / 1e6:.1f} MB", f"{one.messages:.0f}"]
            cells += [f"{p.us:.0f}" for p in row.values()] + [p.bottleneck for p in row.values()]
            if len(row) == 2:
                cells.append(f"{row['proxy'].us / row['ibgda'].us:.2f}")
            following = next(iter(part[i + 1].values())).call if i + 1 < len(part) else one.call
            shown.add_row(*cells, end_section=following != one.call)
        console.print(shown)


def published(compared: Sequence[Comparison], console: Console) -> None:
    """DeepEP's table beside the model."""
    shown = Table(title="DeepEP, published and predicted", title_justify="left",
                  title_style="bold")  # fmt: skip
    for name in ("kernels", "call", "GPUs", "published", "predicted", "unit", "error", "bound by"):
        shown.add_column(name, justify="left" if name[0] in "kcub" else "right", no_wrap=True)
    for i, c in enumerate(compared):
        colour = "green" if abs(c.error) <= _WITHIN else "red"
        following = compared[i + 1].row if i + 1 < len(compared) else c.row
        shown.add_row(
            _MODES[c.row.mode], c.row.call, str(c.row.gpus), f"{c.row.value:g}", f"{c.predicted:.0f}",
            c.row.unit, f"[{colour}]{c.error:+.0%}[/]", c.bottleneck,
            end_section=(following.mode, following.call) != (c.row.mode, c.row.call),
        )  # fmt: skip
    console.print(shown)
    inside = sum(abs(c.error) <= _WITHIN for c in compared)
    console.print(f"{inside} of {len(compared)} rows within {_WITHIN:.0%}")


def plot(
    hardware: Hardware, predictions: Sequence[Prediction], compared: Sequence[Comparison], path: str
) -> None:
    """Draws times over the number of GPUs, a panel for each mode and call; published times as crosses."""
    plt = require_matplotlib()
    panels = list(dict.fromkeys((p.mode, p.call) for p in predictions))
    columns = min(len(panels), 2)
    figure, grid = plt.subplots(
        -(-len(panels) // columns), columns, figsize=(5.2 * columns, 3.5 * -(-len(panels) // columns)),
        squeeze=False, layout="constrained",
    )  # fmt: skip
    for axes, (mode, call) in zip(grid.flat, panels, strict=False):
        mine = [p for p in predictions if (p.mode, p.call) == (mode, call)]
        for name in dict.fromkeys(p.path for p in mine):
            points = sorted((p.shape.gpus, p.us) for p in mine if p.path == name)
            axes.plot(*zip(*points, strict=True), marker="o", ms=3.5, color=_COLOURS[name], label=name)
        dots = [(c.row.gpus, c.row.value) for c in compared if (c.row.mode, c.row.call) == (mode, call)]
        if dots and mode == "low_latency":
            axes.plot(*zip(*dots, strict=True), "x", color=_COLOURS["published"], label="DeepEP, published")
        gpus = sorted({p.shape.gpus for p in mine})
        axes.set_xscale("log", base=2)
        axes.set_xticks(gpus, [str(n) for n in gpus])
        axes.minorticks_off()
        axes.set_ylim(0)
        axes.set_xlabel("GPUs", fontsize=8)
        axes.set_ylabel("us", fontsize=8)
        title = f"{_MODES[mode]} {call}, {mine[0].shape.tokens} tokens a GPU"
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
        axes.grid(True, color="#dddddd", lw=0.6)
        axes.tick_params(labelsize=8)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    figure.suptitle(f"pyshmem model: {hardware.name}", x=0.01, ha="left", fontsize=11)
    figure.savefig(path, dpi=140)
    plt.close(figure)
