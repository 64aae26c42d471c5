"""Registered buffers: memory of the program that GPUs may use beside the symmetric heap.

A NumPy array lies in pageable memory. The host's calls take it as it is; registered, it is pinned, so that
kernels read and write it at its own address, and stream-ordered puts and gets from and to it do not hold up
the caller::

    shmem.buffer_register(x)                    # x: numpy.ndarray, as large as you like
    device.stream.put_on_stream(a, x, pe)       # a: of the GPU heap
    device.synchronize()
    shmem.buffer_unregister(x)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import setup
from ._core import ffi, lib
from .errors import check
from .setup import ensure, state
from .symmetric import local
from .types import Array, CData

__all__ = ["buffer_register", "buffer_unregister"]

_held: dict[int, Any] = {}  # by address: a registered array lives until it is unregistered

setup.after_finalize.append(_held.clear)


def _span(a: Array | Any, call: str) -> tuple[CData, int]:
    if not state.ready:
        ensure()
    if isinstance(a, np.ndarray):
        pointer, nbytes, _ = local(a, call, "a")
        return pointer, nbytes
    from .device import arrays  # only programs that have GPU arrays get here

    found = arrays.describe(a, call, "a")
    if found is None:
        raise TypeError(f"{call}: a is {type(a).__name__}, not an array")
    return ffi.cast("char *", found.address), found.nbytes


def buffer_register(a: Array | Any) -> None:
    """Makes the memory of a contiguous array fit for kernels and stream-ordered calls, as their local side.
    Local.

    The array stays alive until `buffer_unregister` or the end of the job. Without a GPU heap it is remembered
    until there is one. Pages are pinned whole: small arrays that share a page are better parts of one that is
    registered.

    Parameters
    ----------
    a : ndarray
        Host memory, whole; or GPU memory of the heap's device (CuPy, PyTorch), which needs nothing yet.

    Raises
    ------
    ArgumentError
        It is empty, not contiguous, symmetric (and needs no registration), overlaps with a registered array,
        shares a page with one, or is memory of another GPU.
    """
    pointer, nbytes = _span(a, "buffer_register")
    check(lib.shmemx_buffer_register(pointer, nbytes))
    _held[int(ffi.cast("uintptr_t", pointer))] = a


def buffer_unregister(a: Array | Any) -> None:
    """Takes a registration back. Local; kernels and streams that use the memory must have ended.

    Raises
    ------
    AddressError
        No registered array starts where `a` does.
    """
    pointer, _ = _span(a, "buffer_unregister")
    check(lib.shmemx_buffer_unregister(pointer))
    _held.pop(int(ffi.cast("uintptr_t", pointer)), None)
