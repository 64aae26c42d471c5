"""Objects of the library that are made and ended by all PEs together: MoE on CPUs and on GPUs.

Ending one is collective, so a destructor only marks it as dropped. The creation of a later one first ends
those that all PEs have dropped, in the order of their creation; the end of the job ends the rest.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from . import heap, setup
from ._core import ffi
from .errors import check
from .setup import state
from .types import CData

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
_VIEWS = object()  # in state.held: arrays that show the heap may outlive the job


def _forget_all() -> None:
    for item in _objects:
        item.destroy()
    _objects.clear()
    state.held.discard(_VIEWS)


setup.after_finalize.append(_forget_all)


def keep(item: Owned, pointer: CData) -> None:
    """Takes the object that the library has just made."""
    item.pointer = pointer
    _objects.append(item)
    state.held.add(_VIEWS)


def reclaim() -> None:
    """Ends the objects that all PEs have dropped; collective."""
    if not _objects:
        return
    for item in heap.dropped_by_all(list(_objects)):
        check(item.destroy())
        _objects.remove(item)
