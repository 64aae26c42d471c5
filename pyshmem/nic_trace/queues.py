"""A job's traces, joined: each request with the doorbell that announced it and the entry that ended it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .files import STATES, Completions, Key, Kind, Landed, Place, Queue, Record, Ring, Trace, Written
from .mlx5 import Cqe, Wqe, decode_cqe, decode_wqe

__all__ = ["Doorbell", "Entry", "Job", "Memory", "Note", "Pair", "Request"]

_LAP = 1 << 16


@dataclass(frozen=True)
class Memory:
    """A key and how long it was good, in ns of the wall clock."""

    trace: Trace
    number: int
    key: Key
    since: int
    until: int | None

    def holds(self, address: int, n: int) -> bool:
        return self.key.address <= address and address + n <= self.key.address + self.key.bytes


@dataclass
class Request:
    """A WQE as the NIC fetched it."""

    at: int  # ns of the wall clock
    wqe: Wqe
    raw: bytes
    place: Place
    rung: int | None = None  # when the doorbell that announced it was seen
    done: int | None = None  # when its entry was written, or that of a later request
    cqe: Cqe | None = None
    peer: Landed | None = None  # what the peer's NIC made of it, where its trace says so

    @property
    def latency(self) -> int | None:
        """From the doorbell to its own entry, ns."""
        return None if self.rung is None or self.done is None or self.cqe is None else self.done - self.rung


@dataclass(frozen=True)
class Doorbell:
    at: int
    ring: Ring
    by_record: bool  # the record was read, no register was written


@dataclass(frozen=True)
class Entry:
    """A CQE. `request` is None where it answers no WQE of the trace."""

    at: int
    number: int
    cqe: Cqe
    request: Request | None


@dataclass(frozen=True)
class Note:
    """A fault that was applied, or a rule that was broken."""

    trace: Trace
    at: int
    kind: Kind
    number: int
    text: str


@dataclass
class Pair:
    """A queue pair. Its number may be used again: then there are two of them."""

    trace: Trace
    number: int
    queue: Queue
    states: list[tuple[int, int]] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    doorbells: list[Doorbell] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    receives: int = 0
    _waiting: list[Request] = field(default_factory=list)  # fetched, not known to be done
    _fetched: int = 0  # blocks; as the two below it does not wrap
    _bells: deque[tuple[int, int]] = field(default_factory=deque)  # blocks announced, and when

    @property
    def name(self) -> str:
        return f"{self.trace.name} QP 0x{self.number:x}"

    @property
    def state(self) -> str:
        return STATES[self.queue.state] if self.queue.state < len(STATES) else str(self.queue.state)

    @property
    def open(self) -> list[Request]:
        """Requests that nothing says are done."""
        return self._waiting

    def ring(self, at: int, ring: Ring, by_record: bool) -> None:
        self.doorbells.append(Doorbell(at, ring, by_record))
        if not ring.taken:
            return
        if not self.requests and not self._bells:
            self._fetched = ring.fetched
        told = self._fetched + (ring.producer - self._fetched) % _LAP
        if not self._bells or told > self._bells[-1][0]:
            self._bells.append((told, at))

    def fetch(self, at: int, place: Place, raw: bytes) -> None:
        while self._bells and self._bells[0][0] <= self._fetched:
            self._bells.popleft()
        request = Request(at, decode_wqe(raw), raw, place, self._bells[0][1] if self._bells else None)
        self._fetched += place.blocks
        self.requests.append(request)
        self._waiting.append(request)

    def reset(self) -> None:
        self._waiting.clear()
        self._bells.clear()
        self._fetched = 0

    def complete(self, at: int, number: int, cqe: Cqe) -> Entry:
        """Requests of one queue complete in order: an entry tells that those before it are done too."""
        found = None
        if cqe.of_request:
            for i, request in enumerate(self._waiting):
                if request.place.block == cqe.wqe_counter:
                    found = request
                    for earlier in self._waiting[: i + 1]:
                        earlier.done = at
                    found.cqe = cqe
                    del self._waiting[: i + 1]
                    break
        entry = Entry(at, number, cqe, found)
        self.entries.append(entry)
        return entry


class Job:
    """All that the traces say. Times are ns of the wall clock, so that hosts can be compared."""

    def __init__(self, traces: list[Trace]) -> None:
        self.traces = traces
        self.pairs: list[Pair] = []
        self.memories: list[Memory] = []
        self.completions: list[tuple[Trace, int, int, Completions]] = []  # trace, at, number, what
        self.landed: list[tuple[Trace, int, int, Landed]] = []  # trace, at, queue pair, what
        self.notes: list[Note] = []
        for trace in traces:
            self._take(trace)
        self._answers()
        starts = [self.wall(t, t.records[0].time_ns) for t in traces if t.records]
        self.start = min(starts, default=0)

    @staticmethod
    def wall(trace: Trace, time_ns: int) -> int:
        return trace.realtime_ns + time_ns - trace.monotonic_ns

    def _take(self, trace: Trace) -> None:
        pairs: dict[int, Pair] = {}
        keys: dict[int, tuple[Key, int]] = {}
        for record in trace.records:
            at = self.wall(trace, record.time_ns)
            match record.kind, record.head:
                case Kind.QP, Queue() as queue:
                    self._state(trace, pairs, record.number, at, queue)
                case Kind.CQ, Completions() as what:
                    self.completions.append((trace, at, record.number, what))
                case Kind.KEY, Key() as key:
                    old = keys.pop(record.number, None)
                    if old:
                        self.memories.append(Memory(trace, record.number, old[0], old[1], at))
                    if key.bytes:
                        keys[record.number] = (key, at)
                case Kind.LANDED, Landed() as landed:
                    self.landed.append((trace, at, record.number, landed))
                case ((Kind.FAULT | Kind.VIOLATION), _):
                    self.notes.append(Note(trace, at, record.kind, record.number, record.text))
                case _:
                    self._of_pair(trace, pairs, at, record)
        for number, (key, since) in keys.items():
            self.memories.append(Memory(trace, number, key, since, None))

    def _state(self, trace: Trace, pairs: dict[int, Pair], number: int, at: int, queue: Queue) -> None:
        pair = pairs.get(number)
        if pair is None or STATES[pair.queue.state] == "GONE":
            pair = pairs[number] = Pair(trace, number, queue)
            self.pairs.append(pair)
        pair.queue = queue
        pair.states.append((at, queue.state))
        if STATES[queue.state] == "RESET":
            pair.reset()

    def _of_pair(self, trace: Trace, pairs: dict[int, Pair], at: int, record: Record) -> None:
        head = record.head
        number = head.qpn if isinstance(head, Written) else record.number
        pair = pairs.get(number)
        if pair is None:  # the trace began after the queue pair was made
            pair = pairs[number] = Pair(trace, number, Queue(3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0))
            self.pairs.append(pair)
        match record.kind, head:
            case ((Kind.DOORBELL | Kind.RECORD), Ring() as ring):
                pair.ring(at, ring, record.kind == Kind.RECORD)
            case Kind.WQE, Place() as place:
                pair.fetch(at, place, record.rest)
            case Kind.RECEIVE, _:
                pair.receives += 1
            case Kind.CQE, Written() as written:
                pair.complete(at, written.entry, decode_cqe(record.rest))

    def _answers(self) -> None:
        """Gives each refused request what the peer's NIC said of it: the first of the same key."""
        refused = [(trace, landed) for trace, _, _, landed in self.landed if landed.syndrome]
        for pair in self.pairs:
            for request in pair.requests:
                if request.cqe is None or request.cqe.syndrome is None or request.cqe.flushed:
                    continue
                for trace, landed in refused:
                    same = (landed.rkey, landed.remote_qpn, landed.remote_lid, trace.lid)
                    if same == (request.wqe.rkey, pair.number, pair.trace.lid, pair.queue.remote_lid):
                        request.peer = landed
                        break

    def of_lid(self, lid: int) -> list[Trace]:
        return [t for t in self.traces if t.lid == lid]

    def name(self, lid: int) -> str:
        """Of the process whose NIC has this lid: its PE where a trace says it."""
        return next((t.name for t in self.of_lid(lid)), f"lid {lid}")

    def keys(self, lid: int, number: int) -> list[Memory]:
        return [m for m in self.memories if m.trace.lid == lid and m.number == number]

    def where(self, lid: int, number: int | None, address: int | None, at: int) -> tuple[Memory, int] | None:
        """The memory that a key named at that time, and the offset in it, which may lie outside."""
        if number is None or address is None:
            return None
        for memory in self.keys(lid, number):
            if memory.since <= at and (memory.until is None or at <= memory.until):
                return memory, address - memory.key.address
        return None

    def remote(self, pair: Pair, request: Request) -> tuple[Memory, int] | None:
        return self.where(pair.queue.remote_lid, request.wqe.rkey, request.wqe.remote, request.at)

    def each(self) -> Iterator[tuple[Pair, Request]]:
        for pair in self.pairs:
            for request in pair.requests:
                yield pair, request

    def as_json(self) -> dict[str, Any]:
        """What --json prints, but for the findings."""
        return {
            "traces": [
                {"file": str(t.path), "pid": t.pid, "lid": t.lid, "pe": t.rank, "gid": t.gid.hex(),
                 "cut": t.cut, "records": len(t.records)}
                for t in self.traces
            ],
            "queues": [self._queue_json(pair) for pair in self.pairs],
            "keys": [
                {"lid": m.trace.lid, "key": m.number, "address": m.key.address, "bytes": m.key.bytes,
                 "access": m.key.access, "since_ns": m.since - self.start,
                 "until_ns": None if m.until is None else m.until - self.start}
                for m in self.memories
            ],
            "landed": [
                {"time_ns": at - self.start, "lid": t.lid, "qpn": number, **what._asdict()}
                for t, at, number, what in self.landed
            ],
            "notes": [
                {"time_ns": n.at - self.start, "lid": n.trace.lid, "kind": n.kind.name.lower(),
                 "number": n.number, "text": n.text}
                for n in self.notes
            ],
        }  # fmt: skip

    def _queue_json(self, pair: Pair) -> dict[str, Any]:
        return {
            "lid": pair.trace.lid, "qpn": pair.number, "state": pair.state,
            "remote_lid": pair.queue.remote_lid, "remote_qpn": pair.queue.remote_qpn,
            "blocks": pair.queue.send_blocks,
            "states": [{"time_ns": at - self.start, "state": STATES[s]} for at, s in pair.states],
            "doorbells": [
                {"time_ns": b.at - self.start, "register": b.ring.reg.hex(), "record": b.ring.record.hex(),
                 "producer": b.ring.producer, "taken": bool(b.ring.taken), "by_record": b.by_record}
                for b in pair.doorbells
            ],
            "requests": [self._request_json(pair, r) for r in pair.requests],
            "completions": [
                {"time_ns": e.at - self.start, "number": e.number, "opcode": e.cqe.name,
                 "wqe_counter": e.cqe.wqe_counter, "syndrome": e.cqe.syndrome, "vendor": e.cqe.vendor,
                 "text": e.cqe.text}
                for e in pair.entries
            ],
        }  # fmt: skip

    def _request_json(self, pair: Pair, r: Request) -> dict[str, Any]:
        place = self.remote(pair, r)
        w = r.wqe
        return {
            "time_ns": r.at - self.start, "index": r.place.block, "opcode": w.name, "ds": w.ds,
            "flags": w.flags, "wqe_index": w.index, "wqe_qpn": w.qpn, "remote": w.remote,
            "rkey": w.rkey, "bytes": w.bytes,
            "remote_offset": None if place is None else place[1], "imm": w.imm,
            "inline": None if w.inlined is None else w.inlined.hex(), "operands": w.operands,
            "data": [d.__dict__ for d in w.data], "raw": r.raw.hex(), "latency_ns": r.latency,
            "completion": None if r.cqe is None else r.cqe.text, "done": r.done is not None,
        }  # fmt: skip
