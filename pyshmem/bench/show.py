"""Figures for people: a table on the terminal, the same in Markdown, a picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from . import show_nic
from .figures import GPU_FACES, NIC_PATHS, Figure

__all__ = ["PlotError", "markdown", "plot", "table"]

_HEAD = ("what", "bytes", "median", "quartiles", "target", "unit")


class PlotError(RuntimeError):
    """The picture cannot be drawn; the text says why."""


def size_text(nbytes: int) -> str:
    """ "8 B", "32 KiB", "4 MiB"; empty for 0."""
    for unit, name in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if nbytes >= unit and nbytes % unit == 0:
            return f"{nbytes // unit} {name}"
    return f"{nbytes} B" if nbytes else ""


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _unit(f: Figure) -> tuple[str, float]:
    """Unit to show, and what a value is divided by."""
    if f.unit != "ns":
        return f.unit, 1
    largest = max(f.median, f.target or 0)
    return ("ns", 1) if largest < 1000 else ("us", 1e3) if largest < 1e6 else ("ms", 1e6)


def _mark(f: Figure) -> str:
    """Met by the median, by the better quartile only, or not."""
    return "" if f.met is None else "met" if f.met else "met when quiet" if f.met_in_quiet else "missed"


_NAMES = {
    ("C", "put"): "put + quiet",
    ("C", "memcpy"): "memcpy into the peer's memory",
    ("C", "memcpy_from"): "memcpy from the peer's memory",
    ("C", "cache line"): "a cache line, core to core",
    ("C", "p_wait"): "p until wait_until, one way",
    ("C", "p_wait / cache line"): "the same / a cache line",
    ("C", "put_signal_wait"): "put_signal until wait, one way",
    ("C", "lock"): "set_lock + clear_lock",
    ("C", "lock_contended"): "the same, all PEs at it",
    ("C", "quantize"): "INT8 quantize",
    ("C", "dequantize"): "INT8 dequantize",
    ("libshmem", "p"): "p, one way",
    ("libshmem", "put_signal"): "put_signal until wait, one way",
    ("libshmem", "packets"): "packets until received, one way",
    ("libshmem", "put"): "put, all PEs at once",
    ("libshmem", "get"): "get, all PEs at once",
    ("libshmem", "fetch_add"): "fetch_add, round trip",
}


def name_of(f: Figure) -> str:
    """What was timed, for people."""
    return _NAMES.get(("C" if f.group == "network" else f.face, f.op), f.op)


def _full_name(f: Figure) -> str:
    return name_of(f) + (f", {f.form}" if f.form else "")


def _row(f: Figure) -> tuple[str, ...]:
    unit, by = _unit(f)
    target = ""
    if f.target is not None:
        target = f"{'>=' if f.at_least else '<='} {f.target / by:g}  {_mark(f)}"
    spread = f"{_digits(f.q1 / by)} .. {_digits(f.q3 / by)}" if f.rounds > 1 else ""
    return _full_name(f), size_text(f.bytes), _digits(f.median / by), spread, target, unit


def _sections(figures: Iterable[Figure]) -> dict[str, list[Figure]]:
    """By the title of their table."""
    found: dict[str, list[Figure]] = {}
    for f in figures:
        found.setdefault(_title(f.face, f.npes, f.group), []).append(f)
    return found


def _title(face: str, npes: int, group: str) -> str:
    if face.endswith("/ pyshmem"):
        return f"{face}: how many times longer theirs takes, {npes} PEs"
    if face.startswith("libshmem / "):
        return f"{face}: ours over theirs, {npes} PEs, between nodes"
    between = ", between nodes" if group == "network" else ""
    return f"from {face}, {npes} PE{'s' if npes != 1 else ''}{between}"


_COLOURS_OF_MARKS = {"met": "green", "met when quiet": "yellow", "missed": "red"}


def table(figures: Sequence[Figure], console: Console) -> None:
    """Prints the figures, a table for each face and number of PEs; on GPUs the peers are beside ours."""
    of_cpus, of_gpus, of_nic = _parted(figures)
    for title, part in _sections(of_cpus).items():
        shown = Table(title=title, title_justify="left", title_style="bold")
        for i, name in enumerate(_HEAD):
            shown.add_column(name, justify="left" if i in (0, 4, 5) else "right", no_wrap=True)
        for i, f in enumerate(part):
            cells = list(_row(f))
            if f.met is not None:
                cells[4] = f"[{_COLOURS_OF_MARKS[_mark(f)]}]{cells[4]}[/]"
            shown.add_row(*cells, end_section=i + 1 < len(part) and part[i + 1].group != f.group)
        console.print(shown)
    for npes, rows in _gpu_sections(of_gpus).items():
        shown = Table(title=_gpu_title(npes), title_justify="left", title_style="bold")
        for name in _gpu_head(rows):
            shown.add_column(name, justify="left" if name in ("op", "met") else "right", no_wrap=True)
        for i, row in enumerate(rows):
            cells = _gpu_cells(row, rows)
            if cells[-1]:
                cells[-1] = f"[{_COLOURS_OF_MARKS[cells[-1]]}]{cells[-1]}[/]"
            group, following = row.one.group, rows[i + 1].one.group if i + 1 < len(rows) else None
            shown.add_row(*cells, end_section=following not in (None, group))
        console.print(shown)
        if "ratio" in _gpu_head(rows):
            console.print(_RATIO)
    if of_nic:
        shown = Table(title=_nic_title(of_nic), title_justify="left", title_style="bold")
        nic_rows = show_nic.rows(of_nic)
        for name in show_nic.head(nic_rows):
            shown.add_column(name, justify="left" if name in ("op", "target", "met") else "right")
        for nic_row in nic_rows:
            shown.add_row(*show_nic.cells(nic_row, nic_rows, size_text, _digits, _mark))
        console.print(shown)
    judged = [f for f in figures if f.met is not None]
    if judged:
        quiet = sum(not f.met and bool(f.met_in_quiet) for f in judged)
        console.print(
            f"{sum(bool(f.met) for f in judged)} of {len(judged)} targets met by the median, {quiet} more by "
            "the better quartile, which is what a quieter machine shows"
        )


def markdown(figures: Sequence[Figure]) -> str:
    """The same tables for a document."""
    text = []
    of_cpus, of_gpus, of_nic = _parted(figures)
    for title, part in _sections(of_cpus).items():
        text += [f"### {title[0].upper()}{title[1:]}", ""]
        text += [f"| {' | '.join(_HEAD)} |", "|---|---:|---:|---:|---|---|"]
        text += [f"| {' | '.join(' '.join(cell.split()) for cell in _row(f))} |" for f in part]
        text.append("")
    for npes, rows in _gpu_sections(of_gpus).items():
        head = _gpu_head(rows)
        text += [f"### {_gpu_title(npes)}", "", f"| {' | '.join(head)} |"]
        text.append(f"|{'|'.join('---' if name in ('op', 'met') else '---:' for name in head)}|")
        text += [f"| {' | '.join(_gpu_cells(row, rows))} |" for row in rows]
        text += ["", *([f"{_RATIO}.", ""] if "ratio" in head else [])]
    if of_nic:
        nic_rows = show_nic.rows(of_nic)
        head = show_nic.head(nic_rows)
        text += [f"### {_nic_title(of_nic)}", "", f"| {' | '.join(head)} |"]
        text.append(f"|{'|'.join('---' if name in ('op', 'target', 'met') else '---:' for name in head)}|")
        for nic_row in nic_rows:
            text.append(f"| {' | '.join(show_nic.cells(nic_row, nic_rows, size_text, _digits, _mark))} |")
        text.append("")
    return "\n".join(text)


# ---- GPUs: a row an operation, a column a library ----------------------------------------------------------

_RATIO = "ratio: how many times as fast as the faster peer"


class _GpuRow(NamedTuple):
    """Figures of one operation by face; a peer has one for all of our forms."""

    faces: dict[str, Figure]

    @property
    def one(self) -> Figure:
        return next(iter(self.faces.values()))

    @property
    def ratio(self) -> float | None:
        """Ours against the best of the others: above 1, ours is faster."""
        ours = self.faces.get(GPU_FACES[0])
        theirs = [f.median for face, f in self.faces.items() if face != GPU_FACES[0]]
        if ours is None or not theirs:
            return None
        return ours.median / max(theirs) if ours.unit == "GB/s" else min(theirs) / ours.median


def _parted(figures: Iterable[Figure]) -> tuple[list[Figure], list[Figure], list[Figure]]:
    """Figures of CPUs, of GPUs, of GPUs to other nodes."""
    of_cpus: list[Figure] = []
    of_gpus: list[Figure] = []
    of_nic: list[Figure] = []
    for f in figures:
        (of_nic if f.face in NIC_PATHS else of_gpus if f.face in GPU_FACES else of_cpus).append(f)
    return of_cpus, of_gpus, of_nic


def _nic_title(figures: Sequence[Figure]) -> str:
    return f"From kernels to another node, {figures[0].npes} PEs"


def _gpu_sections(figures: Sequence[Figure]) -> dict[int, list[_GpuRow]]:
    """Rows by number of PEs, by group and in the order of our own figures; then what peers alone have."""
    found: dict[int, list[_GpuRow]] = {}
    rows: dict[tuple[Any, ...], list[_GpuRow]] = {}
    for f in sorted(figures, key=lambda f: f.face != GPU_FACES[0]):
        same = rows.setdefault((f.npes, f.op, f.bytes, f.blocks), [])
        if f.face == GPU_FACES[0] or not same:
            row = _GpuRow({f.face: f})
            same.append(row)
            found.setdefault(f.npes, []).append(row)
        else:
            for row in same:
                row.faces[f.face] = f
    for part in found.values():
        order = list(dict.fromkeys(row.one.group for row in part))
        part.sort(key=lambda row: order.index(row.one.group))
    return found


def _gpu_title(npes: int) -> str:
    return f"On GPUs, {npes} PE{'s' if npes != 1 else ''}"


def _gpu_head(rows: Sequence[_GpuRow]) -> list[str]:
    faces = [face for face in GPU_FACES if any(face in row.faces for row in rows)]
    return ["op", "bytes", "blocks", *faces, *(["ratio"] if len(faces) > 1 else []), "target", "met"]


def _gpu_cells(row: _GpuRow, rows: Sequence[_GpuRow]) -> list[str]:
    one = row.one
    by, unit = (1e3, "us") if one.unit == "ns" else (1.0, one.unit)
    name = _NAMES.get((GPU_FACES[0], one.op), one.op) + (f", {one.form}" if one.form else "")
    cells = {
        "op": name,
        "bytes": size_text(one.bytes),
        "blocks": str(one.blocks or ""),
        "ratio": "" if row.ratio is None else _digits(row.ratio),
        "target": "" if one.target is None else f"{'>=' if one.at_least else '<='} {one.target / by:g}",
        "met": _mark(one),
        **{face: f"{_digits(f.median / by)} {unit}" for face, f in row.faces.items()},
    }
    return [cells.get(column, "") for column in _gpu_head(rows)]


# ---- picture -----------------------------------------------------------------------------------------------

_COLOURS = {"put": "#1f5fa8", "get": "#c8541b", "memcpy": "#8a8a8a", "memcpy_from": "#c0c0c0"}
_LABELS = {
    "put": "put + quiet",
    "get": "get",
    "memcpy": "memcpy into the same memory",
    "memcpy_from": "memcpy from it",
}


def _curves(axes: Any, bandwidth: Any, figures: Sequence[Figure]) -> None:
    figures = [f for f in figures if f.group in ("put", "get")]
    largest = max((f.npes for f in figures if f.face == "C"), default=0)
    for op in ("memcpy", "memcpy_from", "put", "get"):
        part = sorted(
            (f for f in figures if f.face == "C" and f.op == op and f.npes == largest), key=lambda f: f.bytes
        )
        if not part:
            continue
        x = [f.bytes for f in part]
        style = "--" if op.startswith("memcpy") else "-"
        axes.plot(
            x, [f.median for f in part], style, marker="o", ms=3.5, color=_COLOURS[op], label=_LABELS[op]
        )
        axes.fill_between(x, [f.q1 for f in part], [f.q3 for f in part], color=_COLOURS[op], alpha=0.15, lw=0)
        rates = [f.bytes / f.median for f in part]
        bandwidth.plot(x, rates, style, marker="o", ms=3.5, color=_COLOURS[op], label=_LABELS[op])
    for a, title in ((axes, "time of one call"), (bandwidth, "bytes of a call / its time")):
        a.set_xscale("log", base=2)
        a.set_yscale("log")
        ticks = [8, 64, 512, 4096, 32768, 1 << 18, 1 << 22]
        a.set_xticks(ticks, [size_text(t) for t in ticks])
        a.minorticks_off()
        a.set_title(title, loc="left", fontsize=10, fontweight="bold")
        a.grid(True, color="#dddddd", lw=0.6)
    axes.legend(frameon=False, fontsize=8)
    low, high = axes.get_ylim()
    named = [(v, t) for v, t in _TIMES if low <= v <= high]
    axes.set_yticks([v for v, _ in named], [t for _, t in named])
    low, high = bandwidth.get_ylim()
    rates = [v for v in (0.1, 0.3, 1, 3, 10, 30, 100, 300) if low <= v <= high]
    bandwidth.set_yticks(rates, [f"{v:g} GB/s" for v in rates])


def _between_nodes(axes: Any, figures: Sequence[Figure]) -> None:
    """Ours and the peer's time of each call between nodes, one below the other."""
    ours = [f for f in figures if f.group == "network" and f.face == "C"]
    theirs = {
        (f.op, f.bytes): f for f in figures if f.group == "network" and f.face in ("perftest", "ucx_perftest")
    }
    names: list[str] = []
    for i, f in enumerate(reversed(ours)):
        beside = theirs.get((f.op, f.bytes))
        for one, y, colour in ((f, i + 0.2, _COLOURS["put"]), (beside, i - 0.2, _COLOURS["memcpy"])):
            if one is not None:
                us = (one.bytes / one.median if one.unit == "GB/s" else one.median) / 1e3
                axes.barh(y, us, height=0.36, color=colour, label=f"{'libshmem' if one is f else one.face}")
                axes.text(us * 1.05, y, f"{_digits(us)} us", va="center", fontsize=7, color="#333333")
        names.append(" ".join(f"{_full_name(f)} {size_text(f.bytes)}".split()))
    axes.set_yticks(range(len(names)), names, fontsize=7.5)
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(low, high * 2)
    axes.set_title("time of one call between nodes, us", loc="left", fontsize=10, fontweight="bold")
    axes.grid(True, axis="x", color="#dddddd", lw=0.6)
    axes.set_axisbelow(True)
    handles, labels = axes.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    axes.legend(once.values(), once.keys(), frameon=False, fontsize=8)


_TIMES = [
    *((10.0**e, f"{10**e} ns") for e in range(3)),
    *((10.0 ** (e + 3), f"{10**e} us") for e in range(3)),
    *((10.0 ** (e + 6), f"{10**e} ms") for e in range(3)),
]


def _bars(axes: Any, figures: Sequence[Figure]) -> None:
    judged = [f for f in figures if f.target is not None]
    colours = {"met": "#3a8f4d", "met when quiet": "#d9a520", "missed": "#b8352b"}
    for i, f in enumerate(reversed(judged)):
        assert f.target is not None
        good = f.target / f.median if f.at_least else f.median / f.target
        axes.barh(i, good, left=0, height=0.62, color=colours[_mark(f)])
        unit, by = _unit(f)
        axes.text(
            max(good, 1) * 1.06,
            i,
            f"{_digits(f.median / by)} {unit}",
            va="center",
            fontsize=7.5,
            color="#333333",
        )
    names = [
        " ".join(f"{name_of(f)} {size_text(f.bytes)}".split())
        + (f", {f.blocks} blocks" if f.blocks > 1 else "")
        + (f", {f.form}" if f.form else "")
        + (f", {f.face.removeprefix('libshmem / ')}" if f.face not in ("C", GPU_FACES[0]) else "")
        + (f", {f.npes} PEs" if f.npes != 2 else "")
        for f in reversed(judged)
    ]
    axes.set_yticks(range(len(names)), names, fontsize=7.5)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xscale("log")
    axes.axvline(1, color="#333333", lw=1)
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.1), max(high * 2.2, 3))
    low, high = axes.get_xlim()
    ticks = [v for v in (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 1000) if low <= v <= high]
    axes.set_xticks(ticks, ["target" if v == 1 else f"{v:g} x" for v in ticks])
    axes.minorticks_off()
    axes.grid(True, axis="x", color="#dddddd", lw=0.6)
    axes.set_axisbelow(True)
    axes.set_title("against the targets: shorter is better", loc="left", fontsize=10, fontweight="bold")
    for mark in dict.fromkeys(_mark(f) for f in judged):
        axes.barh([0], [0], color=colours[mark], label=mark)
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.05), ncols=3)


def require_matplotlib() -> Any:
    """matplotlib's pyplot without a display, or PlotError that names the extra."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise PlotError(f"--plot needs matplotlib ({error}): pip install 'sushmem[plot]'") from None
    return plt


def plot(figures: Sequence[Figure], path: str, title: str) -> None:
    """Draws time and rate of put and get over their size, calls between nodes beside the peer's, message
    rates of kernels over a NIC, and every figure with a target as a bar. The suffix of `path` chooses the
    format."""
    plt = require_matplotlib()
    bars = sum(f.target is not None for f in figures)
    curves = any(f.face == "C" and f.op in ("put", "get") and f.group == f.op for f in figures)
    between = any(f.face == "C" and f.group == "network" for f in figures)
    nic = [f for f in figures if f.face in NIC_PATHS and f.op == "messages"]
    widths = [1.0] * curves + [1.0] * bool(nic) + [1.0] * between + [1.15] * (bars > 0)
    if not widths:
        raise PlotError(
            "nothing to draw: put, get, network and figures with a target are drawn, this run has none"
        )
    height = max(5.4, 0.24 * bars + 1.2)
    shown = plt.figure(figsize=(6.5 if len(widths) == 1 else 6 * len(widths), height), layout="constrained")
    grid = shown.add_gridspec(2, len(widths), width_ratios=widths)
    if curves:
        _curves(shown.add_subplot(grid[0, 0]), shown.add_subplot(grid[1, 0]), figures)
    if nic:
        show_nic.plot(shown.add_subplot(grid[0, 0]), shown.add_subplot(grid[1, 0]), nic)
    if between:
        _between_nodes(shown.add_subplot(grid[:, int(curves)]), figures)
    if bars:
        _bars(shown.add_subplot(grid[:, -1]), figures)
    for a in shown.axes:
        for side in ("top", "right"):
            a.spines[side].set_visible(False)
        a.tick_params(labelsize=8)
    shown.suptitle(title, x=0.01, ha="left", fontsize=12)
    try:
        shown.savefig(path, dpi=140)
    except (OSError, ValueError) as error:
        raise PlotError(f"cannot write {path}: {error}") from None
    finally:
        plt.close(shown)
