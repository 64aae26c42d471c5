"""Trace files of the software NIC, record by record. The form is that of libshmem/sim/trace.h, version 1."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "KINDS", "STATES", "Completions", "Key", "Kind", "Landed", "Place", "Queue", "Record", "Ring", "Trace",
    "TraceError", "Written", "read",
]  # fmt: skip

MAGIC, VERSION = b"SHMEMNIC", 1
_HEADER = struct.Struct("=8sIIII16sQQi4x")
_RECORD = struct.Struct("=QHHI")
STATES = ("RESET", "INIT", "RTR", "RTS", "ERR", "GONE")


class TraceError(Exception):
    """A file is no trace, or not one of this version."""


class Kind(IntEnum):
    QP = 1
    CQ = 2
    KEY = 3
    DOORBELL = 4
    RECORD = 5
    WQE = 6
    RECEIVE = 7
    CQE = 8
    LANDED = 9
    FAULT = 10
    VIOLATION = 11


class Queue(NamedTuple):
    """A queue pair, whenever its state changes."""

    state: int
    type: int
    ack_timeout: int
    retries: int
    pd: int
    send_cq: int
    receive_cq: int
    send_blocks: int
    receives: int
    remote_qpn: int
    remote_lid: int
    reads: int


class Completions(NamedTuple):
    """A completion queue."""

    log_size: int
    collapsed: int
    ignore_overrun: int
    gone: int
    overrun: int


class Key(NamedTuple):
    """Registered memory; 0 bytes: no longer."""

    address: int
    bytes: int
    pd: int
    access: int


class Ring(NamedTuple):
    """A doorbell, or a doorbell record that was read."""

    reg: bytes
    record: bytes
    producer: int
    fetched: int
    taken: int

    @property
    def record_send(self) -> int:
        return int.from_bytes(self.record[4:], "big")

    @property
    def record_receive(self) -> int:
        return int.from_bytes(self.record[:4], "big")


class Place(NamedTuple):
    """Of a WQE: its first block, its blocks. Of a receive: its number, 1."""

    block: int
    blocks: int


class Written(NamedTuple):
    """Of a CQE: its number in its queue, and the queue pair."""

    entry: int
    qpn: int


class Landed(NamedTuple):
    """A peer's request, executed or refused here."""

    opcode: int
    syndrome: int
    vendor: int
    flags: int
    bytes: int
    address: int
    rkey: int
    remote_qpn: int
    sequence: int
    remote_lid: int


# Struct and class of what begins each record's body; the rest of the body is bytes or text.
KINDS: dict[Kind, tuple[struct.Struct, type[tuple[object, ...]]]] = {
    Kind.QP: (struct.Struct("=4B6I2H"), Queue),
    Kind.CQ: (struct.Struct("=I4B"), Completions),
    Kind.KEY: (struct.Struct("=QQII"), Key),
    Kind.DOORBELL: (struct.Struct("=8s8sHHI"), Ring),
    Kind.RECORD: (struct.Struct("=8s8sHHI"), Ring),
    Kind.WQE: (struct.Struct("=HH"), Place),
    Kind.RECEIVE: (struct.Struct("=HH"), Place),
    Kind.CQE: (struct.Struct("=II"), Written),
    Kind.LANDED: (struct.Struct("=4BIQIIIH2x"), Landed),
}


class Record(NamedTuple):
    time_ns: int
    kind: Kind
    number: int
    head: tuple[object, ...] | None
    rest: bytes

    @property
    def text(self) -> str:
        return self.rest.rstrip(b"\0").decode(errors="replace")


@dataclass(frozen=True)
class Trace:
    """One process's NIC."""

    path: Path
    pid: int
    lid: int
    gid: bytes
    monotonic_ns: int
    realtime_ns: int
    rank: int  # -1: none known
    records: list[Record]
    cut: bool  # the file ends within a record

    @property
    def name(self) -> str:
        return f"PE {self.rank}" if self.rank >= 0 else f"lid {self.lid}"


def _records(path: Path, raw: bytes, at: int) -> Iterator[Record | None]:
    """Then None where the file was cut."""
    while at < len(raw):
        if at + _RECORD.size > len(raw):
            yield None
            return
        time_ns, number_of_kind, size, number = _RECORD.unpack_from(raw, at)
        start, end = at + _RECORD.size, at + _RECORD.size + size
        if end > len(raw):
            yield None
            return
        try:
            kind = Kind(number_of_kind)
        except ValueError:
            raise TraceError(f"{path}: byte {at}: no such kind of record: {number_of_kind}") from None
        head, body = None, raw[start:end]
        if kind in KINDS:
            form, make = KINDS[kind]
            if size < form.size:
                raise TraceError(f"{path}: byte {at}: {kind.name} of {size} bytes, {form.size} are its least")
            head, body = make(*form.unpack_from(body)), body[form.size :]
        yield Record(time_ns, kind, number, head, body)
        at = -(-end // 8) * 8


def _read(path: Path) -> Trace:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}") from None
    if len(raw) < _HEADER.size or raw[: len(MAGIC)] != MAGIC:
        raise TraceError(f"{path}: no trace of the software NIC (SHMEM_SIM_TRACE makes one)")
    _, version, header_bytes, pid, lid, gid, monotonic_ns, realtime_ns, rank = _HEADER.unpack_from(raw)
    if version != VERSION:
        raise TraceError(f"{path}: version {version}, this pyshmem reads {VERSION}")
    records: list[Record] = []
    cut = False
    for record in _records(path, raw, header_bytes):
        if record is None:
            cut = True
        else:
            records.append(record)
    return Trace(path, pid, lid, gid, monotonic_ns, realtime_ns, rank, records, cut)


def read(names: Iterable[str | Path]) -> list[Trace]:
    """The traces of these files, and of all files in these folders, in the order of their first moment.

    Raises TraceError.
    """
    found = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.is_file())
            if not inside:
                raise TraceError(f"{path}: no files in this folder")
            found += [_read(p) for p in inside]
        else:
            found.append(_read(path))
    return sorted(found, key=lambda t: (t.realtime_ns, t.pid))
