"""Figures of `pyshmem bench --gpu-nic --json` in place of the documented ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ..bench.figures import Figure
from .hardware import Path

__all__ = ["with_figures"]


def with_figures(path: Path, figures: Iterable[Figure], real_nic: bool = False) -> Path:
    """The path with what a GPU has measured; unchanged where the figures have nothing of it.

    From a software NIC only the cost to post is taken: it belongs to the GPU's code, the rest to that NIC's
    thread. `real_nic`: the largest message rate and the time of an 8-byte put and quiet too.
    """
    mine = [f for f in figures if (f.group, f.face) == ("nic", path.name)]
    rates = []
    for f in mine:
        if f.op == "post" and not f.form:
            path = replace(path, post_us=f.median / 1e3)
        elif real_nic and f.op == "put + quiet":
            path = replace(path, put_quiet_us=f.median / 1e3)
        elif real_nic and f.op == "messages":
            rates.append(f.median / path.threads)
    return replace(path, rate=max(rates)) if rates else path
