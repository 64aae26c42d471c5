"""The figures of `pyshmem accuracy` as tables and as a plot."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from .transfer import WAYS

__all__ = ["plot", "tables"]

Figure = dict[str, Any]


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _of(figures: list[Figure], kind: str) -> list[Figure]:
    return [f for f in figures if f["kind"] == kind]


def _tail(loss: list[float]) -> float:
    last = loss[-20:]
    return sum(last) / len(last)


def tables(figures: list[Figure], console: Console) -> None:
    """Prints one table for each kind that is there."""
    model = _of(figures, "model")
    if model:
        table = Table(title=f"Gemma-3 270M, {model[0]['tokens']} tokens predicted, all feed-forward layers")
        for name in (
            "transfer",
            "where",
            "perplexity",
            "SQNR in, dB",
            "SQNR out, dB",
            "cosine in, mean / least",
        ):
            table.add_column(name, justify="left" if name in ("transfer", "where") else "right")
        for f in model:
            cosine = "–"
            if f.get("dispatch_cosine_mean") is not None:
                cosine = f"{f['dispatch_cosine_mean']:.6f} / {f['dispatch_cosine_min']:.6f}"
            table.add_row(
                f["way"],
                "–" if f["way"] == "none" else f["where"],
                f"{f['perplexity']:.3f}",
                _number(f.get("dispatch_sqnr_db"), ".1f"),
                _number(f.get("combine_sqnr_db"), ".1f"),
                cosine,
            )
        console.print(table)
    synthetic = _of(figures, "synthetic")
    if synthetic:
        table = Table(title="Synthetic rows: SQNR in dB (least row cosine)")
        table.add_column("data")
        names = [way.name for way in WAYS[1:]]
        for name in names:
            table.add_column(name, justify="right")
        for data in dict.fromkeys(f["data"] for f in synthetic):
            row = {f["way"]: f for f in synthetic if f["data"] == data}
            cells = [f"{row[n]['rows_sqnr_db']:.1f} ({row[n]['rows_cosine_min']:.5f})" for n in names]
            table.add_row(data, *cells)
        console.print(table)
    training = _of(figures, "training")
    if training:
        table = Table(title=f"Training on {training[0]['pes']} PEs, gradients all-reduced: loss")
        for name in ("model", "gradients", "first", "mean of the last 20 steps"):
            table.add_column(name, justify="left" if name in ("model", "gradients") else "right")
        for f in training:
            table.add_row(f["model"], f["reduction"], f"{f['loss'][0]:.4f}", f"{_tail(f['loss']):.4f}")
        console.print(table)


def plot(figures: list[Figure], path: str) -> None:
    """Writes a picture: perplexity, SQNR on synthetic rows, loss curves; of those that are there."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    model, synthetic, training = (_of(figures, kind) for kind in ("model", "synthetic", "training"))
    models = list(dict.fromkeys(f["model"] for f in training))
    count = bool(model) + bool(synthetic) + len(models)
    figure, axes = pyplot.subplots(1, count, figsize=(5.2 * count, 4.2), squeeze=False, layout="constrained")
    free = iter(axes[0])
    names = [way.name for way in WAYS[1:]]
    if model:
        ax, found = next(free), {(f["way"], f["where"]): f["perplexity"] for f in model}
        base = found[("none", "dispatch")]
        for shift, where, label in ((-0.2, "dispatch", "dispatch"), (0.2, "both", "dispatch and combine")):
            heights = [100 * (found[(n, where)] / base - 1) for n in names]
            ax.bar([i + shift for i in range(len(names))], heights, 0.38, label=label)
        ax.axhline(0, color="black", linewidth=0.8)
        ax.set_xticks(range(len(names)), names, rotation=30, ha="right")
        ax.set_title(f"Gemma-3 270M: perplexity against {base:.3f}")
        ax.set_ylabel("change in %")
        ax.legend()
    if synthetic:
        ax = next(free)
        kinds = list(dict.fromkeys(f["data"] for f in synthetic))
        for k, kind in enumerate(kinds):
            row = {f["way"]: f["rows_sqnr_db"] for f in synthetic if f["data"] == kind}
            ax.bar([i + 0.2 * (k - 1.5) for i in range(len(names))], [row[n] for n in names], 0.2, label=kind)
        ax.set_xticks(range(len(names)), names, rotation=30, ha="right")
        ax.set_title("Synthetic rows")
        ax.set_ylabel("SQNR in dB")
        ax.legend(fontsize=8)
    for name in models:
        ax = next(free)
        for f in training:
            if f["model"] == name:
                ax.plot(f["loss"], label=f["reduction"], linewidth=1, alpha=0.8)
        ax.set_title(f"{name}, gradients of {training[0]['pes']} PEs")
        ax.set_xlabel("step")
        ax.set_ylabel("loss")
        ax.set_yscale("log")
        ax.legend(fontsize=8)
    figure.savefig(path)
    pyplot.close(figure)
