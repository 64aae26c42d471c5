"""`pyshmem doctor --gpu`: each thing that a GPU and its driver must offer (docs/porting.md), measured here.

`pyshmem.device.probe` measures in a process of its own: an item that kills or stops it is reported as that,
and the next process goes on behind it. No job is needed, and nothing is left behind.
"""

from __future__ import annotations

import json
import queue
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .bench.gpu import GpuError, require_driver
from .bench.launch import environment, python_command
from .device.probe import ITEMS
from .device.probe_driver import BAD, NONE

__all__ = ["look", "show"]

Row = dict[str, Any]
"""name, needed, state ("ok", "none", "warn", "bad"), found, advice, figures (numbers by name)."""

_PATIENCE = 60.0  # seconds for an item; the first one starts CUDA, another compiles


def _command(names: Sequence[str]) -> list[str]:
    return python_command(*names, main="pyshmem.device.probe")


def _lines(process: subprocess.Popen[str], patience: float) -> Iterator[str | None]:
    """Its lines; None, as the last, where one has not come in time."""
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line)
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=patience)
        except queue.Empty:
            yield None
            return
        if line == "":
            return
        yield line


def _part(
    names: Sequence[str], patience: float, command: Callable[[Sequence[str]], list[str]]
) -> Iterator[Row]:
    """Rows of one process, until all are there or it has failed: then the last row says how."""
    process = subprocess.Popen(
        command(names), env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    begun: str | None = None
    late = False
    try:
        for line in _lines(process, patience):
            if line is None:
                late = True
                break
            try:
                said = json.loads(line)
            except ValueError:
                continue  # some library says something
            if "begin" in said:
                begun = said["begin"]
            elif said.get("name") == begun:
                begun = None
                yield said
    finally:
        if late:
            process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    if begun is not None or late or process.returncode:
        how = (
            f"no answer in {patience:g} s" if late else f"its process ended with status {process.returncode}"
        )
        if process.returncode < 0 and not late:
            how = f"its process died of signal {-process.returncode}"
        yield {"name": begun or names[0], "state": BAD, "found": how, "advice": "", "figures": {}}


def look(
    note: Callable[[str], None] = lambda name: None, patience: float = _PATIENCE,
    command: Callable[[Sequence[str]], list[str]] = _command,
) -> list[Row]:  # fmt: skip
    """A row for each item of ITEMS; one alone where there is no GPU. `note`: called with what comes next."""
    try:
        require_driver()
    except GpuError as error:
        return [
            {"name": "GPU", "needed": "all", "state": NONE, "found": str(error), "advice": "", "figures": {}}
        ]
    rows: list[Row] = []
    left = list(ITEMS)
    while left:
        note(left[0])
        done: list[str] = []
        for row in _part(left, patience, command):
            rows.append({"name": row["name"], "needed": ITEMS[row["name"]][0], **row})
            done.append(row["name"])
            if len(done) < len(left):
                note(left[len(done)])
        left = left[len(done) :] if done else []
    return rows


_STYLES = {"ok": "green", "none": "dim", "warn": "yellow", "bad": "red"}


def show(rows: Sequence[Row], console: Console) -> None:
    """Prints them as a table."""
    table = Table(title="What this GPU and its driver offer", title_justify="left", title_style="bold")
    for name in ("what", "needed for", "", "found"):
        table.add_column(name, overflow="fold")
    for row in rows:
        found = escape(row["found"]) + (f"\n[dim]-> {escape(row['advice'])}[/]" if row["advice"] else "")
        style = _STYLES[row["state"]]
        table.add_row(escape(row["name"]), escape(row["needed"]), f"[{style}]{row['state']}[/]", found)
    console.print(table)
