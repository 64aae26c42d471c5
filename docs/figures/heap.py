"""Draws heap.svg, the picture of the symmetric heap: python docs/figures/heap.py"""

from __future__ import annotations

from pathlib import Path

FONT = "system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif"
BLUE, TEAL, AMBER, SLATE = "#1f5fa8", "#0f766e", "#9a5b0c", "#475569"
WIDTH, ROW, TOP = 880, 52, 12


def box(x: float, y: float, width: float, colour: str, text: str, size: int = 14) -> str:
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="40" rx="6" fill="{colour}"/>'
        f'<text x="{x + width / 2}" y="{y + 25}" font-size="{size}" text-anchor="middle" '
        f'fill="#fff">{text}</text>'
    )


def draw() -> str:
    out = []
    for pe in range(3):
        y = TOP + pe * (ROW + 22)
        out += [
            box(8, y, 90, SLATE, f"PE {pe}"),
            box(110, y, 120, SLATE, "notes"),
            box(234, y, 150, TEAL, "x", 15),
            box(388, y, 210, BLUE, "y", 15),
            box(602, y, 130, "#6b7280", "free"),
        ]
    last = TOP + 2 * (ROW + 22)
    out.append('<path d="M262 53 L262 156" stroke="#f59e0b" stroke-width="3" marker-end="url(#tip)"/>')
    out.append(box(750, TOP, 122, AMBER, "put(x, x, 2)"))
    out.append(
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="7" refY="5" markerWidth="6" markerHeight="6" '
        'orient="auto"><path d="M0 0 L10 5 L0 10 z" fill="#f59e0b"/></marker></defs>'
    )
    height = last + ROW + 4
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" font-family="{FONT}" role="img">\n'
        "<title>Every PE has x and y at the same offset; PE 0 puts into PE 2's x</title>\n"
        + "\n".join(out)
        + "\n</svg>\n"
    )


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(draw(), encoding="utf-8")
