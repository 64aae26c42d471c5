"""Draws quant-speed.svg from what tests/c/bench_quant printed: python quant.py quant-speed.txt"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

WAYS = ["unquantized", "INT8 g128", "automatic", "FP8 g128"]


def main() -> None:
    source = Path(sys.argv[1])
    parts: dict[str, list[list[str]]] = {}
    for line in source.read_text().splitlines():
        if line.startswith("#"):
            parts[line.lstrip("# ")] = rows = []
        elif line.startswith("float32"):
            rows.append(line.split())
    figure, axes = pyplot.subplots(1, len(parts), figsize=(5.2 * len(parts), 4), layout="constrained")
    for ax, (title, rows) in zip(axes, parts.items(), strict=True):
        for way, name in enumerate(WAYS):
            ax.plot([int(r[1]) for r in rows], [float(r[2 + way]) for r in rows], marker=".", label=name)
        ax.set(xscale="log", yscale="log", title=title, xlabel="bytes of float32", ylabel="microseconds")
        ax.grid(alpha=0.3)
        ax.legend()
    figure.savefig(source.with_suffix(".svg"))


if __name__ == "__main__":
    main()
