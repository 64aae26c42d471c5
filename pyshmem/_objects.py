"""Objects of the library that are made and ended by all PEs together: MoE on CPUs and on GPUs.

Ending one is collective, so a destructor only marks it as dropped. The creation of a later one first ends
those that all PEs have dropped, in the order of their creation; the end of the job ends the rest.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

from . import heap, setup
from ._core import ffi, lib
from .errors import CLASSES, check
from .setup import state
from .types import CData

__all__ = ["Closable", "Owned", "keep", "reclaim"]

_ArgumentError = CLASSES[lib.SHMEMX_ERR_ARGUMENT]
_Self = TypeVar("_Self", bound="Closable")


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


class Closable:
    """What a class for such objects shares with the others; its ``__init__`` first sets `_object`."""

    _object: Owned

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:  # perhaps on this PE alone: nothing collective now
            self._object.dropped = True

    def close(self) -> None:
        """Frees the heap memory, once this PE's GPU is idle if it is there; results end. Collective over the
        world. Closing twice is allowed.

        An object that is dropped without close, or left through an exception, is freed when a later one is
        created after all PEs have dropped it, or at the end of the job.
        """
        self._object.close()

    def __del__(self) -> None:
        if hasattr(self, "_object"):  # not if the arguments had wrong names
            self._object.dropped = True  # a destructor never starts a collective

    def _describe(self) -> str:
        """What repr says of an object that is not closed."""
        raise NotImplementedError

    def __repr__(self) -> str:
        closed = self._object.pointer == ffi.NULL
        return f"<{type(self).__name__}{', closed' if closed else ' ' + self._describe()}>"

    def _moe(self) -> CData:
        """The library's object."""
        moe = self._object.pointer
        if moe == ffi.NULL:
            raise _ArgumentError(f"this {type(self).__name__} is closed")
        return moe


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
