"""Draws layers.svg, the picture of the layers: python docs/figures/layers.py

All text stands in filled boxes, so that the picture reads on a light page and on a dark one.
"""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, LEFT, GAP, HEIGHT = 880, 8, 8, 58
FONT = "system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif"
BLUE, TEAL, VIOLET, AMBER, SLATE = "#1f5fa8", "#0f766e", "#6d3fb0", "#9a5b0c", "#475569"

# One row a layer: what it is, its colour, and its boxes (title, line below, planned).
ROWS: list[tuple[str, str, list[tuple[str, str, bool]]]] = [
    (
        "your program",
        SLATE,
        [
            ("Python", "NumPy, CuPy, PyTorch", False),
            ("C and C++", "shmem.h, shmemx_stream.h", False),
            ("GPU kernels", "shmem_device.h: CUDA, Numba, Triton", False),
        ],
    ),
    (
        "pyshmem",
        BLUE,
        [
            ("moe · router · quant", "dispatch, combine, INT8", False),
            ("heap · rma · amo · sync · team · coll", "names of shmem4py", False),
            ("device", "streams, kernels", False),
            ("cli", "info, bench", False),
        ],
    ),
    ("binding", BLUE, [("cffi, API mode", "derived from the C headers, one abi3 wheel", False)]),
    (
        "libshmem",
        TEAL,
        [
            ("heap · rma · amo · signal · order · sync · team · coll", "check, then route", False),
            ("stream · gpu", "streams, own kernels", False),
            ("int8 · moe", "on top of the rest", False),
        ],
    ),
    ("route", TEAL, [("PE → transport", "chosen once, at init", False)]),
    (
        "transports",
        VIOLET,
        [
            ("shm", "load, store", False),
            ("cuda", "GPU memory", False),
            ("verbs", "host RDMA", True),
            ("ibgda", "GPU-driven RDMA", True),
            ("ucx", "anything", True),
        ],
    ),
    (
        "base",
        AMBER,
        [
            ("bootstrap", "PMIx, PMI, TCP", False),
            ("node", "shared memory, who is alive", False),
            ("wait", "spin, yield, deadline", False),
            ("env · errors", "one table each", False),
            ("gpu", "the CUDA driver", False),
        ],
    ),
]


def text(x: float, y: float, value: str, size: int, weight: int, anchor: str = "middle") -> str:
    return (
        f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size}" font-weight="{weight}" '
        f'text-anchor="{anchor}" fill="#fff">{escape(value)}</text>'
    )


def draw() -> str:
    label, out = 118, []
    for row, (name, colour, boxes) in enumerate(ROWS):
        y = LEFT + row * (HEIGHT + GAP)
        out.append(f'<rect x="{LEFT}" y="{y}" width="{label}" height="{HEIGHT}" rx="7" fill="{colour}"/>')
        out.append(text(LEFT + label / 2, y + HEIGHT / 2 + 5, name, 14, 700))
        left = LEFT + label + GAP
        room = WIDTH - LEFT - left - GAP * (len(boxes) - 1)
        need = [
            max(7.6 * len(title), 6.2 * len(below) + (58 if planned else 0)) + 16
            for title, below, planned in boxes
        ]
        spare = (room - sum(need)) / len(boxes)
        for (title, below, planned), least in zip(boxes, need, strict=True):
            width = least + spare
            style = f'fill="{colour}"'
            if planned:
                style = 'fill="#6b7280" stroke="#d1d5db" stroke-width="1.6" stroke-dasharray="6 4"'
            out.append(f'<rect x="{left:.0f}" y="{y}" width="{width:.0f}" height="{HEIGHT}" rx="7" {style}/>')
            out.append(text(left + width / 2, y + 25, title, 15, 600))
            out.append(text(left + width / 2, y + 45, f"{below} (planned)" if planned else below, 12, 400))
            left += width + GAP
    height = 2 * LEFT + len(ROWS) * (HEIGHT + GAP) - GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" font-family="{FONT}" role="img">\n'
        "<title>Layers of pyshmem and libshmem; each calls only the one below</title>\n"
        + "\n".join(out)
        + "\n</svg>\n"
    )


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(draw(), encoding="utf-8")
