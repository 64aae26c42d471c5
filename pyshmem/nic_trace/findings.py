"""What is wrong in a trace, or worth a look: the findings of `pyshmem nic-trace`."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from .files import Kind
from .mlx5 import SEGMENT, constants
from .queues import Job, Pair, Request

__all__ = ["Finding", "findings"]

# The slowest completions of a queue pair are shown, if they took so many times its median, and so long.
_SLOWEST, _SLOW_TIMES, _SLOW_NS = 3, 20, 200_000
_SHOWN = 20  # of one kind and queue pair; the rest is counted


class Finding(NamedTuple):
    """`bad` breaks a rule or has failed; the others may be meant."""

    bad: bool
    kind: str
    at: int | None
    where: str
    text: str

    def as_json(self, start: int) -> dict[str, Any]:
        at = None if self.at is None else self.at - start
        return {"bad": self.bad, "kind": self.kind, "time_ns": at, "where": self.where, "text": self.text}


def _cause(job: Job, pair: Pair, request: Request) -> str:
    """A failed request in words: what it asked for, and what there was."""
    w = request.wqe
    assert request.cqe is not None
    said = f"{w.name} index 0x{request.place.block:04x}: {request.cqe.text}"
    if w.remote is None or w.rkey is None:
        return said
    if request.cqe.syndrome == 0x04:
        return said + "; " + _local_cause(job, pair, request)
    said += f"; key 0x{w.rkey:x}, {w.bytes} bytes at 0x{w.remote:x}"
    lid = pair.queue.remote_lid
    if not job.of_lid(lid):
        return said + f" of {job.name(lid)}, whose trace is not here"
    place = job.remote(pair, request)
    if place is None:
        known = job.keys(lid, w.rkey)
        if any(m.until is not None and m.until <= request.at for m in known):
            return said + f": {job.name(lid)} had that key, and has deregistered it"
        return said + f": {job.name(lid)} has no such key"
    memory, offset = place
    key = memory.key
    if not memory.holds(w.remote, w.bytes):
        return (
            said + f": the key covers 0x{key.address:x} to 0x{key.address + key.bytes:x}, offset {offset:#x}"
        )
    return said + f": within the key's range, whose access is 0x{key.access:x}"


def _local_cause(job: Job, pair: Pair, request: Request) -> str:
    causes = []
    for data in request.wqe.data:
        place = job.where(pair.trace.lid, data.lkey, data.address, request.at)
        if place is None:
            causes.append(f"this process has no key 0x{data.lkey:x}")
        elif not place[0].holds(data.address, data.bytes):
            key = place[0].key
            causes.append(
                f"key 0x{data.lkey:x} covers 0x{key.address:x} to 0x{key.address + key.bytes:x}, not "
                f"{data.bytes} bytes at 0x{data.address:x}"
            )
    return "; ".join(causes) or "every local key covers its range"


def _requests(job: Job, pair: Pair) -> Iterator[Finding]:
    flushed = [e for e in pair.entries if e.cqe.flushed]
    if flushed:
        text = f"{len(flushed)} requests flushed, from index 0x{flushed[0].cqe.wqe_counter:04x} on"
        yield Finding(False, "flushed", flushed[0].at, pair.name, text)
    for r in pair.requests:
        w, head = r.wqe, f"{r.wqe.name} index 0x{r.place.block:04x}"
        if w.index != r.place.block:
            text = f"the block at 0x{r.place.block:04x} says index 0x{w.index:04x}"
            yield Finding(True, "index mismatch", r.at, pair.name, text)
        if w.qpn != pair.number:
            yield Finding(True, "wrong queue pair", r.at, pair.name, f"{head} says QP 0x{w.qpn:x}")
        if w.problem:
            yield Finding(True, "illegal request", r.at, pair.name, f"{head}: {w.problem}")
        if w.bytes > constants()["MOST_MESSAGE"] and not w.problem:
            yield Finding(True, "too long", r.at, pair.name, f"{head}: {w.bytes} bytes, 1 GiB is the most")
        if w.operand_bytes and w.remote is not None and w.remote % w.operand_bytes:
            text = f"{head}: 0x{w.remote:x} is no multiple of {w.operand_bytes}"
            yield Finding(True, "misaligned atomic", r.at, pair.name, text)
        if r.cqe is not None and r.cqe.syndrome is not None and not r.cqe.flushed:
            yield Finding(True, "error", r.done, pair.name, _cause(job, pair, r))


def _doorbells(job: Job, pair: Pair) -> Iterator[Finding]:
    depth = pair.queue.send_blocks
    receive = pair.doorbells[0].ring.record_receive if pair.doorbells else 0
    told = False
    for bell in pair.doorbells:
        ring = bell.ring
        word = int.from_bytes(ring.reg[:4], "big") >> 8 & 0xFFFF
        if not bell.by_record and any(ring.reg):  # zeros: a late or hidden one, its bytes are not known
            # A driver writes the last WQE's index with its ds; kernels the index after it, and no ds.
            ds = ring.reg[7] & 0x3F
            means = (word + -(-ds * SEGMENT // 64)) & 0xFFFF
            if ring.record_send != means and (ring.record_send - means) & 0x8000:
                text = (
                    f"register 0x{means:04x}, but the record, to be written first, 0x{ring.record_send:04x}"
                )
                yield Finding(True, "record behind doorbell", bell.at, pair.name, text)
            if not ring.taken:
                text = f"register 0x{means:04x}, fetched 0x{ring.fetched:04x}: nothing new, or not in RTS"
                yield Finding(False, "doorbell without news", bell.at, pair.name, text)
        if depth and ring.taken and (ring.producer - ring.fetched) & 0xFFFF > depth:
            ahead = (ring.producer - ring.fetched) & 0xFFFF
            text = f"doorbell 0x{ring.producer:04x} announces {ahead} blocks, the ring has {depth}"
            yield Finding(True, "queue overrun", bell.at, pair.name, text)
        if ring.record_receive != receive and not pair.queue.receives and not told:
            told = True
            text = "the record's first word, for receives, changes: the send queue's is the second"
            yield Finding(True, "wrong word of the record", bell.at, pair.name, text)


def _endings(job: Job, pair: Pair) -> Iterator[Finding]:
    for entry in pair.entries:
        if entry.cqe.of_request and entry.request is None and not entry.cqe.flushed:
            text = f"an entry for index 0x{entry.cqe.wqe_counter:04x}, where no request waits"
            yield Finding(True, "entry without request", entry.at, pair.name, text)
    waiting = [r for r in pair.open if r.wqe.signalled]
    if waiting:
        first = waiting[0]
        text = (
            f"{len(waiting)} signalled requests have no entry when the trace ends, the first is "
            f"{first.wqe.name} index 0x{first.place.block:04x}"
        )
        yield Finding(True, "never completed", first.at, pair.name, text)
    elif pair.open:
        text = f"{len(pair.open)} unsignalled requests at the end, and no signalled one after them"
        yield Finding(False, "not known to be done", pair.open[0].at, pair.name, text)
    taken = [b for b in pair.doorbells if b.ring.taken]
    if taken and pair.state == "RTS":
        last = pair.requests[-1].place if pair.requests else None
        fetched = taken[-1].ring.fetched if last is None else (last.block + last.blocks) & 0xFFFF
        behind = (taken[-1].ring.producer - fetched) & 0xFFFF
        if 0 < behind < 0x8000:
            text = f"{behind} announced blocks were never fetched"
            yield Finding(True, "not fetched", taken[-1].at, pair.name, text)


def _slow(job: Job, pair: Pair) -> Iterator[Finding]:
    times = [(r.latency, r) for r in pair.requests if r.latency is not None]
    if len(times) < 8:
        return
    usual = statistics.median(t for t, _ in times)
    for t, r in sorted(times, key=lambda x: -x[0])[:_SLOWEST]:
        if t > _SLOW_TIMES * usual and t > _SLOW_NS:
            text = (
                f"{r.wqe.name} index 0x{r.place.block:04x}: {t / 1e3:.1f} us, the median is {usual / 1e3:.1f}"
            )
            yield Finding(False, "slow", r.done, pair.name, text)


_OF_PAIRS: tuple[Callable[[Job, Pair], Iterator[Finding]], ...] = (_requests, _doorbells, _endings, _slow)


def _limited(found: Iterator[Finding]) -> Iterator[Finding]:
    seen: dict[str, list[Finding]] = {}
    for f in found:
        seen.setdefault(f.kind, []).append(f)
    for kind, those in seen.items():
        yield from those[:_SHOWN]
        if len(those) > _SHOWN:
            last = those[_SHOWN]
            yield Finding(last.bad, kind, last.at, last.where, f"and {len(those) - _SHOWN} more of these")


def findings(job: Job) -> list[Finding]:
    """All, in the order of time; what has none comes first."""
    found: list[Finding] = []
    for trace in job.traces:
        if trace.cut:
            text = "the file ends within a record: its process was killed"
            found.append(Finding(True, "cut", None, trace.name, text))
    for note in job.notes:
        bad = note.kind == Kind.VIOLATION
        where = note.trace.name + (f" QP 0x{note.number:x}" if note.number else "")
        found.append(Finding(bad, "rule broken" if bad else "fault", note.at, where, note.text))
    for trace, at, number, what in job.completions:
        if what.overrun:
            text = f"overrun: {1 << what.log_size} entries were not taken in time"
            found.append(Finding(True, "CQ overrun", at, f"{trace.name} CQ 0x{number:x}", text))
    for pair in job.pairs:
        for look in _OF_PAIRS:
            found += _limited(look(job, pair))
    return sorted(found, key=lambda f: (f.at is not None, f.at or 0))
