"""Memory spaces: parts of the symmetric heap that lie on a NUMA node of the machine's memory.

    with shmem.Space(1 << 30, node="nearest") as near:    # collective; all its memory is there from here on
        a = shmem.zeros(1000, space=near)                 # a symmetric array as any other
        ...
        shmem.free(a)

A page of the heap comes from the node of the PE that touches it first, which may be a peer that puts from
the other socket. A space places the pages of this PE's copy before that. `numa_nodes` says what there is;
SHMEM_HEAP_NUMA chooses, more loosely, for the whole heap.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from . import heap
from ._core import ffi, lib
from .errors import CLASSES, check
from .setup import ensure, state
from .types import CData

__all__ = ["NumaNode", "Space", "numa_nearest", "numa_nodes"]

_ArgumentError = CLASSES[lib.SHMEMX_ERR_ARGUMENT]
_WORDS = {"nearest": lib.SHMEMX_NUMA_NEAREST, "interleave": lib.SHMEMX_NUMA_INTERLEAVE}


class NumaNode(NamedTuple):
    """A node of memory that this process may use. Bytes are 0 where the kernel does not say."""

    node: int
    nbytes: int
    available: int  # what it could give without taking from programs


def numa_nodes() -> list[NumaNode]:
    """The NUMA nodes that have memory for this process. Local; works before init too."""
    node = ffi.new("int *")
    total, available = ffi.new("size_t *"), ffi.new("size_t *")
    found: list[NumaNode] = []
    while lib.shmemx_numa_info(len(found), node, total, available) == 0:
        found.append(NumaNode(node[0], total[0], available[0]))
    return found


def numa_nearest() -> int:
    """The node of `numa_nodes` nearest to the processor that runs the caller. Local; before init too."""
    return int(lib.shmemx_numa_nearest())


class Space:
    """A part of every PE's symmetric heap, this PE's on `node`. Making one is collective.

    Its pages are there when it is made, all of them, on the node and nowhere else. Allocations take it as
    ``space=``; what they return is symmetric memory as any other, also for `free` and the dropping of arrays.
    As a context manager it is destroyed at the end of the block. It is false once destroyed.

    Parameters
    ----------
    nbytes : int
        Its size, rounded up to 2 MiB; the same on all PEs. `heap_info` counts it as in use.
    node : int or {"nearest", "interleave"}
        Number of the NUMA node; or that nearest to the processor this PE runs on; or all nodes, page by page
        in turn. It may differ between PEs.

    Raises
    ------
    ArgumentError
        No such node, or not for this process.
    NoMemoryError
        The heap has no such range free, or the node has less left than the PEs of this machine ask of it.
    UnsupportedError
        The kernel refuses to place memory, and there is more than one node.
    MismatchError
        Another PE asks for another size.
    """

    __slots__ = ("handle",)

    handle: CData

    def __init__(self, nbytes: int, node: int | Literal["nearest", "interleave"] = "nearest") -> None:
        if isinstance(node, str) and node not in _WORDS:
            raise _ArgumentError(f'Space: node {node!r} is neither a number nor "nearest" or "interleave"')
        if not isinstance(node, str) and not -1 < int(node) < 1 << 31:
            raise _ArgumentError(f"Space: node {node} is no number of a NUMA node")
        if not 0 <= int(nbytes) < 1 << 64:
            raise _ArgumentError(f"Space: {nbytes} bytes")
        if not state.ready:
            ensure()
        made = ffi.new("shmemx_space_t *")
        number = _WORDS[node] if isinstance(node, str) else int(node)
        check(lib.shmemx_space_create(number, int(nbytes), made))
        self.handle = made[0]

    def _info(self) -> tuple[int, int, int, int]:
        if not state.ready:
            ensure()
        node = ffi.new("int *")
        sizes = [ffi.new("size_t *") for _ in range(3)]
        check(lib.shmemx_space_info(self.handle, node, *sizes))
        return node[0], sizes[0][0], sizes[1][0], sizes[2][0]

    @property
    def node(self) -> int | Literal["interleave"]:
        """Number of the NUMA node that this PE's part lies on, ``"interleave"`` = all in turn. Local."""
        number = self._info()[0]
        return "interleave" if number == lib.SHMEMX_NUMA_INTERLEAVE else number

    def info(self) -> tuple[int, int, int]:
        """(bytes in all, bytes in use, largest block that can be allocated now). Local."""
        return self._info()[1:]

    def destroy(self) -> None:
        """Gives the memory back to the heap; what all PEs have dropped is freed first. Collective.

        Raises
        ------
        ArgumentError
            Arrays of it are still held on some PE, or it was destroyed before.
        """
        heap.reclaim()
        check(lib.shmemx_space_destroy(self.handle))
        self.handle = ffi.NULL

    def __bool__(self) -> bool:
        return bool(self.handle != ffi.NULL)

    def __enter__(self) -> Space:
        return self

    def __exit__(self, kind: Any, value: Any, trace: Any) -> None:
        if kind is None:  # else the others are not here, and arrays of the frames above hold memory
            self.destroy()
