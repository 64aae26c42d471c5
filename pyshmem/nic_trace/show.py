"""Traces as tables: one for each queue pair, and the findings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .findings import Finding
from .queues import Doorbell, Job, Pair, Request

__all__ = ["Filter", "show", "show_findings"]

_INLINE_SHOWN = 16  # bytes


@dataclass(frozen=True)
class Filter:
    """Which requests are shown; None and empty: all."""

    lids: tuple[int, ...] = ()
    pes: tuple[int, ...] = ()
    qps: tuple[int, ...] = ()
    opcodes: tuple[str, ...] = ()
    first_index: int = 0
    last_index: int = 0xFFFF
    since_us: float | None = None
    until_us: float | None = None
    errors: bool = False
    limit: int = 200

    def pair(self, pair: Pair) -> bool:
        return (
            (not self.lids or pair.trace.lid in self.lids)
            and (not self.pes or pair.trace.rank in self.pes)
            and (not self.qps or pair.number in self.qps)
        )

    def request(self, job: Job, r: Request) -> bool:
        us = (r.at - job.start) / 1e3
        return (
            (not self.opcodes or r.wqe.name.lower() in self.opcodes)
            and self.first_index <= r.place.block <= self.last_index
            and (self.since_us is None or us >= self.since_us)
            and (self.until_us is None or us <= self.until_us)
            and (not self.errors or r.done is None or (r.cqe is not None and r.cqe.syndrome is not None))
        )

    @property
    def everything(self) -> bool:
        return not self.opcodes and not self.errors and (self.first_index, self.last_index) == (0, 0xFFFF)


def _us(ns: int | None, start: int = 0) -> str:
    return "" if ns is None else f"{(ns - start) / 1e3:.1f}"


def _remote(job: Job, pair: Pair, r: Request) -> str:
    if r.wqe.remote is None:
        return ""
    place = job.remote(pair, r)
    if place is None:
        return f"0x{r.wqe.remote:x}"
    sign = "-" if place[1] < 0 else "+"
    return f"{job.name(pair.queue.remote_lid)} {sign} 0x{abs(place[1]):x}"


def _data(r: Request) -> str:
    w = r.wqe
    if w.operands:
        width = 2 * w.operand_bytes
        said = " ".join(f"{name} {value:0{width}x}" for name, value in w.operands.items())
        return said
    if w.inlined is not None:
        more = f" .. {len(w.inlined)} bytes" if len(w.inlined) > _INLINE_SHOWN else ""
        return f"inline {w.inlined[:_INLINE_SHOWN].hex()}{more}"
    return ", ".join(f"0x{d.address:x}/{d.bytes}" for d in w.data)


def _answer(r: Request) -> str:
    if r.cqe is not None:
        color = "green" if r.cqe.syndrome is None else "yellow" if r.cqe.flushed else "red"
        return f"[{color}]{escape(r.cqe.text)}[/]"
    if r.done is not None:
        return "[dim]with a later one[/]"
    return "[red]none[/]" if r.wqe.signalled else "[dim]none[/]"


def _rows(job: Job, pair: Pair, chosen: Filter) -> Iterator[tuple[int, Doorbell | Request]]:
    """Doorbells and requests in the order of time; doorbells only beside all requests."""
    for r in pair.requests:
        if chosen.request(job, r):
            yield r.at, r
    if chosen.everything:
        for b in pair.doorbells:
            us = (b.at - job.start) / 1e3
            if (chosen.since_us or 0) <= us and (chosen.until_us is None or us <= chosen.until_us):
                yield b.at, b


def _heading(job: Job, pair: Pair) -> str:
    times = sorted(r.latency for r in pair.requests if r.latency is not None)
    rung = sum(1 for b in pair.doorbells if not b.by_record)
    said = (
        f"{pair.name} to {job.name(pair.queue.remote_lid)} QP 0x{pair.queue.remote_qpn:x}, {pair.state}, "
        f"{pair.queue.send_blocks} blocks: {len(pair.requests)} requests, {rung} doorbells, "
        f"{len(pair.entries)} entries"
    )
    if times:
        median, most = times[len(times) // 2] / 1e3, times[-1] / 1e3
        said += (
            f"; doorbell to entry {times[0] / 1e3:.1f} / {median:.1f} / {most:.1f} us (least, median, most)"
        )
    return said


def show(job: Job, chosen: Filter, console: Console) -> None:
    """A table a queue pair."""
    for pair in filter(chosen.pair, job.pairs):
        rows = sorted(_rows(job, pair, chosen), key=lambda row: row[0])
        console.print(f"[bold]{escape(_heading(job, pair))}[/]", highlight=False, soft_wrap=True)
        if not rows:
            continue
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for name in ("us", "index", "request", "ds", "flags", "remote", "rkey", "bytes", "data", "entry"):
            table.add_column(name, justify="right" if name in ("us", "index", "ds", "bytes") else "left")
        table.add_column("us after doorbell", justify="right")
        for at, row in rows[: chosen.limit]:
            if isinstance(row, Doorbell):
                what = "record read" if row.by_record else "doorbell"
                told = "" if row.ring.taken else ", not taken"
                text = f"[cyan]{what}[/] to 0x{row.ring.producer:04x}"
                text += f", record 0x{row.ring.record_send:04x}{told}"
                table.add_row(_us(at, job.start), "", text)
                continue
            w = row.wqe
            key = "" if w.rkey is None else f"0x{w.rkey:x}"
            imm = f" imm 0x{w.imm:x}" if w.name.endswith("IMM") else ""
            table.add_row(
                _us(at, job.start), f"0x{row.place.block:04x}", escape(w.name) + imm, str(w.ds), w.flags,
                _remote(job, pair, row), key, str(w.bytes), _data(row), _answer(row), _us(row.latency),
            )  # fmt: skip
        console.print(table)
        if len(rows) > chosen.limit:
            console.print(f"  and {len(rows) - chosen.limit} more: --limit shows them, other options choose")


def show_findings(found: list[Finding], job: Job, console: Console) -> None:
    console.print("[bold]findings[/]")
    if not found:
        console.print("  none")
    for f in found:
        mark = "[red]bad [/]" if f.bad else "[yellow]note[/]"
        at = "" if f.at is None else f" {_us(f.at, job.start)} us"
        console.print(
            f"  {mark} {escape(f.where)}{at}: {f.kind}: {escape(f.text)}", highlight=False, soft_wrap=True
        )
