"""On which stream a call runs, what it waits for, and what waits for it.

A call without previous_event and async_finish runs on the current stream, which is what DeepEP's
communication stream amounts to when each waits for the other. All calls of a Buffer happen one after the
other: a call on another stream than the last one waits for that.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch

from .utils import EventHandle, EventOverlap

__all__ = ["Call", "Streams"]


class Streams:
    """The communication stream of a Buffer, and where its last call ran."""

    def __init__(self) -> None:
        self._comm: Any = None
        self._last: Any = None  # (stream's address, event)

    @property
    def comm(self) -> Any:
        if self._comm is None:
            self._comm = torch.cuda.Stream(priority=-1)
        return self._comm

    def call(
        self, previous_event: EventOverlap | None, async_finish: bool, allocate_on_comm_stream: bool
    ) -> Call:
        if allocate_on_comm_stream and (previous_event is None or not async_finish):
            raise AssertionError("allocate_on_comm_stream needs previous_event and async_finish")
        return Call(self, previous_event, async_finish)

    def join(self, stream: Any) -> None:
        """Before a call on `stream`."""
        if self._last is None or torch.cuda.is_current_stream_capturing():
            return  # in a graph the streams are the program's to order
        address, event = self._last
        if address != stream.cuda_stream:
            stream.wait_event(event)

    def ran(self, stream: Any) -> None:
        """After it."""
        if torch.cuda.is_current_stream_capturing():
            return
        if self._last is None or self._last[0] != stream.cuda_stream:
            self._last = stream.cuda_stream, torch.cuda.Event()
        self._last[1].record(stream)


class Call:
    """One call, as a context: inside, its stream is the current one.

    Attributes
    ----------
    stream : torch.cuda.Stream
    event : EventOverlap
        After the block; its event is None unless async_finish.
    """

    def __init__(self, streams: Streams, previous_event: EventOverlap | None, async_finish: bool) -> None:
        self._streams, self._previous, self._async = streams, previous_event, async_finish
        self.current: Any = torch.cuda.current_stream()
        waits = previous_event is not None and previous_event.event is not None
        self.stream: Any = streams.comm if async_finish or waits else self.current
        self.event = EventOverlap()
        self._context: Any = None

    def __enter__(self) -> Call:
        if self.stream is not self.current:
            if self._previous is not None and self._previous.event is not None:
                self.stream.wait_event(self._previous.event.event)
            else:
                self.stream.wait_stream(self.current)
        self._streams.join(self.stream)
        self._context = torch.cuda.stream(self.stream)
        self._context.__enter__()
        return self

    def used(self, *tensors: Any) -> None:
        """Inputs: their memory must not be used again before the call has read them."""
        if self._async:
            for t in tensors:
                if t is not None:
                    t.record_stream(self.stream)

    def made(self, *tensors: Any) -> None:
        """Outputs, which will be read on the caller's stream."""
        if self.stream is not self.current:
            for t in tensors:
                if t is not None:
                    t.record_stream(self.current)

    def promise(self) -> EventOverlap:
        """The event that the block's end will set."""
        return self.event

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._context.__exit__(kind, value, traceback)
        self._streams.ran(self.stream)
        if kind is not None or self.stream is self.current:
            return
        if self._async:
            self.event.event = EventHandle(self.stream)
        else:
            self.current.wait_stream(self.stream)
