"""Draws the speed of quantized all-reduces beside the text it is given.

python quant.py quant-speed.txt                     # what tests/c/bench_quant printed
python quant.py quant-gpu.txt TWO.jsonl FOUR.jsonl  # what `pyshmem bench --device cuda --only quant --peer
                                                    # --json` wrote; the text is made first
python quant.py quant-gpu.txt                       # from the text as it is
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

WAYS = ["unquantized", "INT8 g128", "automatic", "FP8 g128"]
# Columns of the text for GPUs: name, face and form of `pyshmem bench`.
GPU_WAYS = [
    ("unquantized", "libshmem", ""),
    ("INT8 g128", "libshmem", "_int8"),
    ("FP8 g128", "libshmem", "_e4m3"),
    ("NCCL", "NCCL", ""),
]


def from_bench(paths: list[Path]) -> str:
    """Medians in microseconds."""
    lines = []
    for path in paths:
        figures = [json.loads(line) for line in path.read_text().splitlines()]
        found = {(f["face"], f["op"], f["bytes"]): f for f in figures if f.get("group") == "quant"}
        npes = next(iter(found.values()))["npes"]
        for dtype in ("float32", "bfloat16"):
            lines.append(f"# {npes} GPUs, {dtype}")
            for n in sorted(n for face, op, n in found if (face, op) == ("NCCL", f"sum_{dtype}")):
                row = [found[face, f"sum_{dtype}{form}", n]["median"] / 1000 for _, face, form in GPU_WAYS]
                lines.append(" ".join([dtype, str(n), *(f"{us:.1f}" for us in row)]))
    return "\n".join(lines) + "\n"


def main() -> None:
    source = Path(sys.argv[1])
    if len(sys.argv) > 2:
        source.write_text(from_bench([Path(name) for name in sys.argv[2:]]))
    parts: dict[str, list[list[str]]] = {}
    for line in source.read_text().splitlines():
        if line.startswith("#"):
            parts[line.lstrip("# ")] = rows = []
        elif line.startswith(("float32", "bfloat16")):
            rows.append(line.split())
    ways = [name for name, _, _ in GPU_WAYS] if "gpu" in source.stem else WAYS
    down = 2 if len(parts) > 2 else 1
    across = len(parts) // down
    figure, axes = pyplot.subplots(
        down, across, figsize=(5.2 * across, 4 * down), layout="constrained", squeeze=False
    )
    for ax, (title, rows) in zip(axes.flat, parts.items(), strict=True):
        for way, name in enumerate(ways):
            ax.plot([int(r[1]) for r in rows], [float(r[2 + way]) for r in rows], marker=".", label=name)
        ax.set(
            xscale="log", yscale="log", title=title, xlabel=f"bytes of {rows[0][0]}", ylabel="microseconds"
        )
        ax.grid(alpha=0.3)
        ax.legend()
    figure.savefig(source.with_suffix(".svg"))


if __name__ == "__main__":
    main()
