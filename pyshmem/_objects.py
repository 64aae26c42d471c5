"""Objects of the library that are made and ended by all PEs together: MoE on CPUs and on GPUs.

Ending one is collective, so a destructor only marks it as dropped. The creation of a later one first ends
those that all PEs have dropped, in the order of their creation; the end of the job ends the rest.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from . import setup
from ._core import ffi, lib
from .errors import check
from .setup import state
from .types import Array, CData

__all__ = ["Owned", "keep", "reclaim"]


class Owned:
    """One object of the library; `pointer` is NULL before it is made and after it has ended.

    `destroy` is the library's call, `before` what must be done before it: waiting for kernels.
    """

    __slots__ = ("before", "dropped", "end", "pointer", "results")

    def __init__(self, end: Callable[[CData], int], before: Callable[[], None] | None = None) -> None:
        self.pointer: CData = ffi.NULL
        self.dropped = False
        self.end, self.before = end, before
        self.results: weakref.WeakSet[Any] = weakref.WeakSet()  # what has handles that end with the object

    def destroy(self) -> int:
        """Ends object and results; collective, after finalize local. Returns the library's code."""
        for result in list(self.results):
            result._release()
        if self.before is not None and state.ready:
            self.before()
        code = self.end(self.pointer)
        if not code:
            self.pointer = ffi.NULL
        return code

    def close(self) -> None:
        """`destroy`, unless it has been done; raises its error."""
        if self.pointer == ffi.NULL:
            return
        check(self.destroy())
        _objects.remove(self)


# In the order of creation, which is the same on all PEs.
_objects: list[Owned] = []
_SCRATCH_BYTES = 512  # one bit an object
_scratch: Array | None = None  # symmetric, rows: mine, result
_VIEWS = object()  # in state.held: arrays that show the heap may outlive the job


def _forget_all() -> None:
    global _scratch
    for item in _objects:
        item.destroy()
    _objects.clear()
    _scratch = None
    state.held.discard(_VIEWS)


setup.after_finalize.append(_forget_all)


def keep(item: Owned, pointer: CData) -> None:
    """Takes the object that the library has just made."""
    item.pointer = pointer
    _objects.append(item)
    state.held.add(_VIEWS)


def reclaim() -> None:
    """Ends the objects that all PEs have dropped; collective."""
    global _scratch
    if not _objects:
        return
    if _scratch is None:
        out = ffi.new("void **")
        check(lib.shmemx_allocate(out, 2 * _SCRATCH_BYTES, 0, 1, lib.SHMEMX_MEM_HOST))
        _scratch = np.frombuffer(ffi.buffer(out[0], 2 * _SCRATCH_BYTES), np.uint8).reshape(2, -1)
    items = _objects[: 8 * _SCRATCH_BYTES]
    bits = np.packbits(np.array([item.dropped for item in items], np.bool_))
    _scratch[0, : bits.size] = bits
    mine, result = (ffi.from_buffer(row) for row in _scratch)
    world = ffi.cast("shmem_team_t", lib.SHMEMX_TEAM_WORLD)
    check(lib.shmemx_reduce(world, lib.SHMEMX_REDUCE_AND, lib.SHMEMX_UINT8, result, mine, bits.size))
    for i in np.flatnonzero(np.unpackbits(_scratch[1, : bits.size], count=len(items))):
        check(items[i].destroy())
        _objects.remove(items[i])
