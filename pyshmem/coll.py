"""Collectives: every member of the team calls, in the same order, with matching arguments.

Without `team` the world takes part. Targets and sources are symmetric arrays of one dtype, contiguous;
elements are taken in the order of memory, whatever the shape. They may be the same array in reductions (and
on the root of a broadcast), else they must not overlap. When a call returns, this PE's target is complete and
its source can be reused. Errors are found before anything is written, as far as this PE can see them; a
member that does not come raises TimeoutError or PeerDeadError on the others.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

from ._core import ffi, lib
from .errors import CLASSES, fail
from .order import in_flight, take_all
from .rma import span, strided
from .setup import ensure, state
from .symmetric import same_dtype, settle, symmetric
from .types import OP, OP_SUM, Array, CData, core_type

if TYPE_CHECKING:
    import numpy as np

    from .team import Team

__all__ = [
    "alltoall",
    "alltoalls",
    "and_reduce",
    "barrier",
    "barrier_all",
    "broadcast",
    "collect",
    "fcollect",
    "max_reduce",
    "min_reduce",
    "or_reduce",
    "prod_reduce",
    "reduce",
    "sum_exscan",
    "sum_inscan",
    "sum_reduce",
    "sync",
    "sync_all",
    "xor_reduce",
]

_ArgumentError = CLASSES[lib.SHMEMX_ERR_ARGUMENT]
_WORLD = ffi.cast("shmem_team_t", lib.SHMEMX_TEAM_WORLD)
_sync, _barrier, _reduce = lib.shmemx_sync, lib.shmemx_barrier, lib.shmemx_reduce


def _members(team: Team | None) -> int:
    return int(lib.shmem_n_pes()) if team is None else team.n_pes()


def handle_of(team: Team | None) -> CData:
    """The team's handle; of the world without one."""
    return _WORLD if team is None else team.ob_team


def _pair(target: Array, source: Array, call: str) -> tuple[CData, int, CData, int, np.dtype[np.generic]]:
    """(target, its bytes, source, its bytes, dtype), checked."""
    to, to_bytes, dtype = symmetric(target, call, "target", write=True)
    there, there_bytes, source_dtype = symmetric(source, call, "source")
    same_dtype(dtype, source_dtype, call)
    settle(target, source)
    return to, to_bytes, there, there_bytes, dtype


def barrier_all() -> None:
    """Completes this PE's operations (`quiet` of all contexts), then waits until every PE has called."""
    if not state.ready:
        ensure()
    done = take_all() if in_flight else None
    code = _barrier(_WORLD)
    del done
    if code:
        fail(code)


def barrier(team: Team | None = None) -> None:
    """As `barrier_all`, over the members of a team."""
    if team is None:
        barrier_all()
    else:
        team.barrier()


def sync_all() -> None:
    """Waits until every PE has called; completes no puts."""
    if not state.ready:
        ensure()
    code = _sync(_WORLD)
    if code:
        fail(code)


def sync(team: Team | None = None) -> None:
    """As `sync_all`, over the members of a team."""
    if team is None:
        sync_all()
    else:
        team.sync()


# Each family: the arguments of the core's call, checked as far as they can be here. The nonblocking forms
# (nonblocking.py) take the same.
Arguments = tuple[Any, ...]


def broadcast_arguments(
    target: Array, source: Array, root: int, size: int | None, team: Team | None
) -> Arguments:
    to, to_bytes, there, there_bytes, dtype = _pair(target, source, "broadcast")
    return handle_of(team), to, there, span(size, to_bytes, there_bytes, dtype.itemsize, "broadcast"), root


def broadcast(
    target: Array, source: Array, root: int, size: int | None = None, team: Team | None = None
) -> None:
    """Copies the root's `source` to `target` on every member, the root included.

    Parameters
    ----------
    target, source : array
        Symmetric, of one dtype.
    root : int
        Number in the team.
    size : int, optional
        Elements; by default the smaller of both sizes. The same on all members.
    team : Team, optional
        Who takes part.
    """
    code = lib.shmemx_broadcast(*broadcast_arguments(target, source, root, size, team))
    if code:
        fail(code)


def _collect(
    target: Array, source: Array, size: int | None, members: int, call: str
) -> tuple[CData, CData, int]:
    to, to_bytes, there, there_bytes, dtype = _pair(target, source, call)
    nbytes = (
        span(size, max(to_bytes, there_bytes), there_bytes, dtype.itemsize, call)
        if size is not None
        else there_bytes
    )
    if nbytes * members > to_bytes:
        itemsize = max(dtype.itemsize, 1)
        raise _ArgumentError(
            f"{call}: target has {to_bytes // itemsize} elements, "
            f"{members} times {nbytes // itemsize} are needed"
        )
    return to, there, nbytes


def collect_arguments(target: Array, source: Array, size: int | None, team: Team | None) -> Arguments:
    to, there, nbytes = _collect(target, source, size, 1, "collect")
    return handle_of(team), to, target.nbytes, there, nbytes


def fcollect_arguments(target: Array, source: Array, size: int | None, team: Team | None) -> Arguments:
    return handle_of(team), *_collect(target, source, size, _members(team), "fcollect")


def collect(target: Array, source: Array, size: int | None = None, team: Team | None = None) -> None:
    """Concatenates the members' sources in `target`, in the order of their numbers; sizes may differ.

    Parameters
    ----------
    target : array
        Symmetric, large enough for all members' elements together.
    source : array
        Symmetric.
    size : int, optional
        Elements of this member; by default all of `source`.
    team : Team, optional
        Who takes part.
    """
    code = lib.shmemx_collect(*collect_arguments(target, source, size, team))
    if code:
        fail(code)


def fcollect(target: Array, source: Array, size: int | None = None, team: Team | None = None) -> None:
    """As `collect`, with the same size on all members; faster."""
    code = lib.shmemx_fcollect(*fcollect_arguments(target, source, size, team))
    if code:
        fail(code)


def _block(have: int, size: int | None, members: int, call: str) -> int:
    """Elements of one block, checked against the smaller side of `have` elements."""
    if size is None:
        count, rest = divmod(have, members)
        if rest:
            raise _ArgumentError(
                f"{call}: {have} elements are not a multiple of {members} members; give size"
            )
        return count
    count = operator.index(size)
    if count < 0:
        raise _ArgumentError(f"{call}: size {count} is negative")
    if count * members > have:
        raise _ArgumentError(
            f"{call}: size {count} times {members} members exceeds the {have} elements there are"
        )
    return count


def alltoall_arguments(target: Array, source: Array, size: int | None, team: Team | None) -> Arguments:
    to, to_bytes, there, there_bytes, dtype = _pair(target, source, "alltoall")
    have = min(to_bytes, there_bytes) // max(dtype.itemsize, 1)
    count = _block(have, size, _members(team), "alltoall")
    return handle_of(team), to, there, count * dtype.itemsize


def alltoall(target: Array, source: Array, size: int | None = None, team: Team | None = None) -> None:
    """Block j of member i's `source` becomes block i of member j's `target`.

    Parameters
    ----------
    target, source : array
        Symmetric, of one dtype, with a block for each member.
    size : int, optional
        Elements of a block; by default the smaller side divided by the number of members, which must divide
        it.
    team : Team, optional
        Who takes part.
    """
    code = lib.shmemx_alltoall(*alltoall_arguments(target, source, size, team))
    if code:
        fail(code)


def alltoalls_arguments(
    target: Array, source: Array, tst: int, sst: int, size: int | None, team: Team | None
) -> Arguments:
    to, to_bytes, there, there_bytes, dtype = _pair(target, source, "alltoalls")
    have = strided(to_bytes, there_bytes, dtype.itemsize, tst, sst, None, "alltoalls")
    count = _block(have, size, _members(team), "alltoalls")
    return handle_of(team), to, there, tst, sst, dtype.itemsize, count


def alltoalls(
    target: Array,
    source: Array,
    tst: int = 1,
    sst: int = 1,
    size: int | None = None,
    team: Team | None = None,
) -> None:
    """As `alltoall`, with elements `tst` apart in the target and `sst` apart in the source (elements, at
    least 1).
    """
    code = lib.shmemx_alltoalls(*alltoalls_arguments(target, source, tst, sst, size, team))
    if code:
        fail(code)


_OPERATIONS = {str(op): getattr(lib, f"SHMEMX_REDUCE_{op.name}") for op in OP}
_BITS = frozenset(_OPERATIONS[name] for name in ("and", "or", "xor", "max", "min"))


def reduce_arguments(target: Array, source: Array, op: OP, size: int | None, team: Team | None) -> Arguments:
    number = _OPERATIONS.get(str(op).lower())
    if number is None:
        raise _ArgumentError(f"reduce: operation {op!r} is none of {', '.join(_OPERATIONS)}")
    to, to_bytes, there, there_bytes, dtype = _pair(target, source, "reduce")
    kind = core_type(dtype, f"{op}_reduce", boolean=number in _BITS)
    nbytes = span(size, to_bytes, there_bytes, dtype.itemsize, "reduce")
    return handle_of(team), number, kind, to, there, nbytes // dtype.itemsize


def reduce(
    target: Array, source: Array, op: OP = OP_SUM, size: int | None = None, team: Team | None = None
) -> None:
    """Combines the members' sources element by element; every member gets the result.

    The result is the same, to the bit, on every member: operands are taken in the order of their numbers.

    Parameters
    ----------
    target, source : array
        Symmetric, of one dtype; they may be the same array.
    op : OP
        AND, OR, XOR (integers, bool), MAX, MIN (all but complex), SUM, PROD (numbers). float16 and bfloat16
        are added in float32; a NaN gives NaN.
    size : int, optional
        Elements; by default the smaller of both sizes. The same on all members.
    team : Team, optional
        Who takes part.
    """
    code = _reduce(*reduce_arguments(target, source, op, size, team))
    if code:
        fail(code)


def and_reduce(target: Array, source: Array, size: int | None = None, team: Team | None = None) -> None:
    """Bitwise and of the members' integers; parameters as for `reduce`."""
    reduce(target, source, OP.AND, size, team)


def or_reduce(target: Array, source: Array, size: int | None = None, team: Team | None = None) -> None:
    """Bitwise or of the members' integers; parameters as for `reduce`."""
    reduce(target, source, OP.OR, size, team)


def xor_reduce(target: Array, source: Array, size: int | None = None, team: Team | None = None) -> None:
    """Bitwise exclusive or of the members' integers; parameters as for `reduce`."""
    reduce(target, source, OP.XOR, size, team)


def max_reduce(target: Array, source: Array, size: int | None = None, team: Team | None = None) -> None:
    """Largest of the members' values; parameters as for `reduce`."""
    reduce(target, source, OP.MAX, size, team)


def min_reduce(target: Array, source: Array, size: int | None = None, team: Team | None = None) -> None:
    """Smallest of the members' values; parameters as for `reduce`."""
    reduce(target, source, OP.MIN, size, team)


def sum_reduce(target: Array, source: Array, size: int | None = None, team: Team | None = None) -> None:
    """Sum of the members' values; parameters as for `reduce`."""
    reduce(target, source, OP.SUM, size, team)


def prod_reduce(target: Array, source: Array, size: int | None = None, team: Team | None = None) -> None:
    """Product of the members' values; parameters as for `reduce`."""
    reduce(target, source, OP.PROD, size, team)


def scan_arguments(
    exclusive: bool, target: Array, source: Array, size: int | None, team: Team | None
) -> Arguments:
    call = "sum_exscan" if exclusive else "sum_inscan"
    to, to_bytes, there, there_bytes, dtype = _pair(target, source, call)
    kind = core_type(dtype, call, boolean=False)
    nbytes = span(size, to_bytes, there_bytes, dtype.itemsize, call)
    return handle_of(team), exclusive, kind, to, there, nbytes // dtype.itemsize


def sum_inscan(target: Array, source: Array, size: int | None = None, team: Team | None = None) -> None:
    """Prefix sums, element by element: each member gets the sum over the members up to itself.

    Parameters are those of `reduce`.
    """
    code = lib.shmemx_scan(*scan_arguments(False, target, source, size, team))
    if code:
        fail(code)


def sum_exscan(target: Array, source: Array, size: int | None = None, team: Team | None = None) -> None:
    """Prefix sums, element by element: each member gets the sum over those before it, the first one zeros.

    Parameters are those of `reduce`.
    """
    code = lib.shmemx_scan(*scan_arguments(True, target, source, size, team))
    if code:
        fail(code)
