"""Nonblocking collectives: a call starts the collective and returns a `Request`, which says when it is done.

    with shmem.sum_reduce_nb(total, mine):
        compute()                         # mine and total are the library's until the end of the block

Every collective has such a form, its name with ``_nb`` at the end, its arguments and their meaning. All
members of the team call, and start the nonblocking collectives of one team in the same order; between teams,
and between these and the blocking calls, there is no order to keep. A thread of the library runs them while
Python computes. Neither `source` nor `target` may be written, nor `target` read, nor either freed, until the
request is done; the request keeps both arrays alive.

What Python can see of wrong arguments is raised at the start. The rest (PEs that disagree, a lost PE, the
deadline) is raised by `Request.wait` and `Request.test`. Host arrays alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from . import coll, setup
from ._core import ffi, lib
from .errors import ShmemError, check, fail
from .order import take_all
from .setup import ensure, state
from .types import OP, OP_SUM, Array

if TYPE_CHECKING:
    from .team import Team

__all__ = [
    "Request",
    "alltoall_nb",
    "alltoalls_nb",
    "and_reduce_nb",
    "barrier_nb",
    "broadcast_nb",
    "collect_nb",
    "fcollect_nb",
    "max_reduce_nb",
    "min_reduce_nb",
    "or_reduce_nb",
    "prod_reduce_nb",
    "reduce_nb",
    "sum_exscan_nb",
    "sum_inscan_nb",
    "sum_reduce_nb",
    "sync_nb",
    "wait_all",
    "wait_any",
    "xor_reduce_nb",
]

# What open requests use, by handle: the library writes there even when the program has dropped the request.
_held: dict[int, Any] = {}
setup.after_finalize.append(_held.clear)


class Request:
    """A collective that has been started. As a context manager it is waited for at the end of the block."""

    __slots__ = ("_handle", "_key")

    def __init__(self, start: Callable[..., int], arguments: coll.Arguments, held: Any) -> None:
        self._handle = ffi.new("shmemx_request_t *")
        check(start(*arguments, self._handle))
        self._key = int(ffi.cast("uintptr_t", self._handle[0]))
        _held[self._key] = held

    def __enter__(self) -> Request:
        return self

    def __exit__(self, *args: object) -> None:
        self.wait()

    def __repr__(self) -> str:
        return f"<Request {'open' if self._handle[0] else 'done'}>"

    def _after(self, code: int) -> None:
        """Lets go of the arrays if it is done, and raises its error."""
        if not self._handle[0]:
            _held.pop(self._key, None)
        if code:
            fail(code)

    def wait(self) -> None:
        """Waits until the collective is done; then `target` is complete. At once if it was waited for before.

        Raises
        ------
        ShmemError
            What the blocking call would raise. The request is done all the same.
        KeyboardInterrupt
            As any exception of a signal handler. The collective goes on, unless this call had begun to run it
            itself; then it has failed, and the PEs are out of step.
        """
        self._after(lib.shmemx_request_wait(self._handle))

    def test(self) -> bool:
        """Whether the collective is done; if so, as `wait`. Gives the processor away once if not."""
        done = ffi.new("int *")
        self._after(lib.shmemx_request_test(self._handle, done))
        return bool(done[0])


def wait_all(requests: Sequence[Request]) -> None:
    """Waits for all of them, and then raises the first error there was."""
    first: ShmemError | None = None
    for request in requests:
        try:
            request.wait()
        except ShmemError as error:
            first = first or error
    if first is not None:
        raise first


def wait_any(requests: Sequence[Request]) -> int | None:
    """Waits until one of those that are open is done, and returns its index, or raises its error.

    Returns
    -------
    int or None
        None if all have been waited for already.
    """
    handles = ffi.new("shmemx_request_t[]", [request._handle[0] for request in requests])
    index = ffi.new("size_t *")
    code = lib.shmemx_request_wait_any(handles, len(requests), index)
    if index[0] >= len(requests):
        check(code)
        return None
    found: int = index[0]
    requests[found]._handle[0] = handles[found]
    requests[found]._after(code)
    return found


# ---- the collectives ---------------------------------------------------------------------------------------


def sync_nb(team: Team | None = None) -> Request:
    """Done when every member has started it; completes no puts."""
    if not state.ready:
        ensure()
    return Request(lib.shmemx_sync_nb, (coll.handle_of(team),), None)


def barrier_nb(team: Team | None = None) -> Request:
    """Done when every member has started it, and what this PE had issued before is complete on all PEs."""
    if not state.ready:
        ensure()
    return Request(lib.shmemx_barrier_nb, (coll.handle_of(team),), take_all())


def broadcast_nb(
    target: Array, source: Array, root: int, size: int | None = None, team: Team | None = None
) -> Request:
    """Starts a `broadcast`."""
    arguments = coll.broadcast_arguments(target, source, root, size, team)
    return Request(lib.shmemx_broadcastmem_nb, arguments, (target, source))


def collect_nb(target: Array, source: Array, size: int | None = None, team: Team | None = None) -> Request:
    """Starts a `collect`."""
    arguments = coll.collect_arguments(target, source, size, team)
    return Request(lib.shmemx_collectmem_nb, arguments, (target, source))


def fcollect_nb(target: Array, source: Array, size: int | None = None, team: Team | None = None) -> Request:
    """Starts an `fcollect`."""
    arguments = coll.fcollect_arguments(target, source, size, team)
    return Request(lib.shmemx_fcollectmem_nb, arguments, (target, source))


def alltoall_nb(target: Array, source: Array, size: int | None = None, team: Team | None = None) -> Request:
    """Starts an `alltoall`."""
    arguments = coll.alltoall_arguments(target, source, size, team)
    return Request(lib.shmemx_alltoallmem_nb, arguments, (target, source))


def alltoalls_nb(
    target: Array,
    source: Array,
    tst: int = 1,
    sst: int = 1,
    size: int | None = None,
    team: Team | None = None,
) -> Request:
    """Starts an `alltoalls`."""
    arguments = coll.alltoalls_arguments(target, source, tst, sst, size, team)
    return Request(lib.shmemx_alltoallsmem_nb, arguments, (target, source))


def reduce_nb(
    target: Array, source: Array, op: OP = OP_SUM, size: int | None = None, team: Team | None = None
) -> Request:
    """Starts a `reduce`."""
    arguments = coll.reduce_arguments(target, source, op, size, team)
    return Request(lib.shmemx_reduce_nb, arguments, (target, source))


def and_reduce_nb(target: Array, source: Array, size: int | None = None, team: Team | None = None) -> Request:
    """Starts an `and_reduce`."""
    return reduce_nb(target, source, OP.AND, size, team)


def or_reduce_nb(target: Array, source: Array, size: int | None = None, team: Team | None = None) -> Request:
    """Starts an `or_reduce`."""
    return reduce_nb(target, source, OP.OR, size, team)


def xor_reduce_nb(target: Array, source: Array, size: int | None = None, team: Team | None = None) -> Request:
    """Starts an `xor_reduce`."""
    return reduce_nb(target, source, OP.XOR, size, team)


def max_reduce_nb(target: Array, source: Array, size: int | None = None, team: Team | None = None) -> Request:
    """Starts a `max_reduce`."""
    return reduce_nb(target, source, OP.MAX, size, team)


def min_reduce_nb(target: Array, source: Array, size: int | None = None, team: Team | None = None) -> Request:
    """Starts a `min_reduce`."""
    return reduce_nb(target, source, OP.MIN, size, team)


def sum_reduce_nb(target: Array, source: Array, size: int | None = None, team: Team | None = None) -> Request:
    """Starts a `sum_reduce`."""
    return reduce_nb(target, source, OP.SUM, size, team)


def prod_reduce_nb(
    target: Array, source: Array, size: int | None = None, team: Team | None = None
) -> Request:
    """Starts a `prod_reduce`."""
    return reduce_nb(target, source, OP.PROD, size, team)


def sum_inscan_nb(target: Array, source: Array, size: int | None = None, team: Team | None = None) -> Request:
    """Starts a `sum_inscan`."""
    arguments = coll.scan_arguments(False, target, source, size, team)
    return Request(lib.shmemx_scan_nb, arguments, (target, source))


def sum_exscan_nb(target: Array, source: Array, size: int | None = None, team: Team | None = None) -> Request:
    """Starts a `sum_exscan`."""
    arguments = coll.scan_arguments(True, target, source, size, team)
    return Request(lib.shmemx_scan_nb, arguments, (target, source))
