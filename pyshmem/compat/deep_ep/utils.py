"""Events, as DeepEP hands them out."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch

__all__ = ["EventHandle", "EventOverlap", "check_nvlink_connections"]


class EventHandle:
    """What `stream` (by default the current one) holds at this moment."""

    def __init__(self, stream: Any = None) -> None:
        self.event: Any = torch.cuda.Event()
        self.event.record(torch.cuda.current_stream() if stream is None else stream)

    def current_stream_wait(self) -> None:
        """Work that the current stream is given from now on waits for it."""
        torch.cuda.current_stream().wait_event(self.event)


class EventOverlap:
    """An event that may be absent; as a context manager, the current stream waits for it at the block's end.

    Attributes
    ----------
    event : EventHandle or None
    extra_tensors : tuple or None
        Kept as long as this object.
    """

    def __init__(
        self, event: EventHandle | None = None, extra_tensors: tuple[Any, ...] | None = None
    ) -> None:
        self.event, self.extra_tensors = event, extra_tensors

    def current_stream_wait(self) -> None:
        """Work that the current stream is given from now on waits for it; there must be one."""
        if self.event is None:
            raise RuntimeError("EventOverlap: there is no event; the call was made without async_finish")
        self.event.current_stream_wait()

    def __enter__(self) -> EventOverlap:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.event is not None:
            self.event.current_stream_wait()


def check_nvlink_connections(group: Any) -> None:
    """Nothing to do: an object that is created on GPUs that do not reach each other says so."""
