"""Draws openshmem.svg, the comparison in docs/performance.md: python docs/figures/openshmem.py"""

from __future__ import annotations

import json
from pathlib import Path

from matplotlib import pyplot as plt

HERE = Path(__file__).parent


def main() -> None:
    rows = json.loads((HERE / "openshmem.json").read_text())["rows"]
    names = [f"{row['op']} {row['bytes'] or ''}".strip() + (" B" if row["bytes"] else "") for row in rows]
    figure, axes = plt.subplots(figsize=(8, 7.5), layout="constrained")
    places = range(len(rows))
    for face, colour, shift in (("libshmem", "#1f5fa8", 0.2), ("Open MPI", "#9a5b0c", -0.2)):
        medians = [row[face]["median"] for row in rows]
        down = [row[face]["median"] - row[face]["q1"] for row in rows]
        axes.errorbar(
            medians, [p + shift for p in places], xerr=[down, [0] * len(rows)], fmt="o", ms=4, color=colour,
            label=f"{face}: median, and down to the lower quartile",
        )  # fmt: skip
    axes.set_yticks(list(places), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("ns a call (ping-pong: one way); left is better")
    axes.grid(True, axis="x", color="#dddddd", lw=0.6)
    axes.legend(frameon=False, fontsize=8, loc="lower left")
    figure.savefig(HERE / "openshmem.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
