"""Figures of `pyshmem bench --gpu-nic` for people: proxy and ibgda side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .figures import NIC_PATHS, Figure

__all__ = ["cells", "head", "plot", "rows"]

Row = dict[str, Figure]  # by path


def rows(figures: Sequence[Figure]) -> list[Row]:
    """Figures of one call by path."""
    found: dict[tuple[Any, ...], Row] = {}
    for f in figures:
        found.setdefault((f.op, f.form, f.bytes, f.unit), {})[f.face] = f
    return list(found.values())


def head(shown: Sequence[Row]) -> list[str]:
    """Names of the columns."""
    paths = [path for path in NIC_PATHS if any(path in row for row in shown)]
    return ["op", "bytes", *paths, "target", "met"]


def cells(
    row: Row, shown: Sequence[Row], size: Callable[[int], str], digits: Callable[[float], str],
    mark: Callable[[Figure], str],
) -> list[str]:  # fmt: skip
    """The texts of a row, in the order of `head`."""
    one = next(iter(row.values()))
    by, unit = (1e3, "us") if one.unit == "ns" else (1.0, one.unit)
    targets = [f"{path} <= {f.target / by:g}" for path, f in row.items() if f.target is not None]
    marks = [mark(f) for f in row.values() if f.met is not None]
    texts = {
        "op": one.op + (f", {one.form}" if one.form else ""),
        "bytes": size(one.bytes),
        "target": ", ".join(targets),
        "met": ", ".join(marks),
        **dict.fromkeys(NIC_PATHS, "-"),  # ibgda alone has a doorbell
        **{path: f"{digits(f.median / by)} {unit}" for path, f in row.items()},
    }
    return [texts.get(column, "") for column in head(shown)]


_COLOURS = {"proxy": "#c8541b", "ibgda": "#1f5fa8"}


def plot(rate: Any, sizes: Any, figures: Sequence[Figure]) -> None:
    """Message rate over posting threads, and over the bytes of a message."""
    for path in NIC_PATHS:
        mine = [f for f in figures if f.face == path and f.op == "messages"]
        threads = sorted((int(f.form.split()[0]), f.median) for f in mine if f.bytes == 8)
        largest = [f for f in mine if f.form == _swept(mine)]
        by_bytes = sorted((f.bytes, f.median) for f in largest)
        for axes, points in ((rate, threads), (sizes, by_bytes)):
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", ms=3.5, color=_COLOURS[path], label=path)
    for axes, title in ((rate, "8-byte puts over posting threads"), (sizes, "over the bytes of a put")):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_title(f"million messages a second, {title}", loc="left", fontsize=10, fontweight="bold")
        axes.grid(True, color="#dddddd", lw=0.6)
        axes.legend(frameon=False, fontsize=8)


def _swept(figures: Sequence[Figure]) -> str:
    """The number of threads with which several sizes were measured."""
    return next((f.form for f in figures if f.bytes != 8), "")
