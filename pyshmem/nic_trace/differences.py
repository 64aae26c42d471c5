"""Two traces, compared: what one program asked of its NIC that the other did not, and what came of it.

Addresses, keys and numbers of queue pairs differ from run to run. So a request is told by its queue
pair's place among those of its process, and its addresses by their offset in the memory that their key names.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from .queues import Job, Pair, Request

__all__ = ["differences", "lines"]


def _place(job: Job, lid: int, number: int, address: int, at: int) -> str:
    found = job.where(lid, number, address, at)
    if found is None:
        return "no key"
    memory, offset = found
    # By its size, as keys have no names; two of one size by their order.
    same = [m for m in job.memories if m.trace.lid == lid and m.key.bytes == memory.key.bytes]
    return f"{memory.key.bytes}#{same.index(memory)}+{offset:#x}"


def _request(job: Job, pair: Pair, r: Request) -> str:
    w = r.wqe
    said = f"{r.place.block:04x} {w.name} ds {w.ds} flags {w.flags or '-'}"
    if w.remote is not None and w.rkey is not None:
        said += f" remote {_place(job, pair.queue.remote_lid, w.rkey, w.remote, r.at)}"
    for name, value in w.operands.items():
        said += f" {name} {value:x}"
    if w.name.endswith("IMM"):
        said += f" imm {w.imm:x}"
    if w.inlined is not None:
        said += f" inline {w.inlined.hex()}"
    for d in w.data:
        said += f" local {_place(job, pair.trace.lid, d.lkey, d.address, r.at)}/{d.bytes}"
    return said + " -> " + (r.cqe.text if r.cqe else "done" if r.done is not None else "nothing")


def lines(job: Job) -> Iterator[str]:
    """One a request, queue pair after queue pair."""
    for process, trace in enumerate(sorted(job.traces, key=lambda t: (t.lid, t.pid))):
        pairs = [pair for pair in job.pairs if pair.trace is trace]
        for n, pair in enumerate(pairs):
            yield f"process {process}, queue pair {n}: {len(pair.requests)} requests, {pair.state}"
            for r in pair.requests:
                yield "  " + _request(job, pair, r)


def differences(one: Job, other: Job, names: tuple[str, str]) -> list[str]:
    """A unified diff; empty where both are the same."""
    a, b = list(lines(one)), list(lines(other))
    return list(difflib.unified_diff(a, b, names[0], names[1], lineterm="", n=2))
