"""The same work on mpi4py (one-sided MPI and Alltoallv) and shmem4py, in the same processes and the same
rounds."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Any

import numpy as np

import pyshmem as shmem
from pyshmem._peers import AlltoallvMoE

from .calls import EXPERTS, HIDDEN, TOKENS, TOPK, Sampler, loop, routing
from .figures import Figure, figure

__all__ = ["PeerError", "available", "compare", "library_name", "others", "start_mpi"]

# Their call, and ours that does the same.
_SAME = {
    ("Put + Flush", 8): ("put + quiet", 8),
    ("Put + Flush", 1 << 20): ("put + quiet", 1 << 20),
    ("Get + Flush", 8): ("get, NumPy target", 8),
    ("Fetch_and_op + Flush", 8): ("atomic_fetch_add", 8),
    ("Barrier", 0): ("barrier_all", 0),
    ("Allreduce", 8): ("sum_reduce", 8),
    ("put + quiet", 8): ("put + quiet", 8),
    ("get, NumPy target", 8): ("get, NumPy target", 8),
    ("atomic_fetch_add", 8): ("atomic_fetch_add", 8),
    ("barrier_all", 0): ("barrier_all", 0),
    ("dispatch + combine", TOKENS * HIDDEN * 4): ("dispatch + combine", TOKENS * HIDDEN * 4),
}


class PeerError(RuntimeError):
    """The comparison asked for cannot be made; the text says why."""


def available() -> dict[str, bool]:
    """Which of the libraries to compare with are installed."""
    return {name: importlib.util.find_spec(name) is not None for name in ("mpi4py", "shmem4py")}


# A variable that only this launcher sets, the launcher, and the library that it cannot start.
_OTHER_LAUNCHERS = (
    ("OMPI_COMM_WORLD_SIZE", "Open MPI's mpirun", "MPICH"),
    ("HYDI_CONTROL_FD", "MPICH's mpirun", "Open MPI"),
)


def start_mpi() -> Any:
    """mpi4py's module, MPI initialized; to call before pyshmem.init, so that MPI has the launcher's channel.

    Raises PeerError where mpi4py is missing or belongs to another launcher: MPI_Init would end the process
    then, or start a job of one.
    """
    try:
        options = importlib.import_module("mpi4py").rc
        if "mpi4py.MPI" not in sys.modules:
            options.initialize, options.finalize = False, True
        mpi = importlib.import_module("mpi4py.MPI")
    except (ImportError, RuntimeError) as error:  # RuntimeError: its wheel does not find an MPI library
        raise PeerError(f"--peer needs mpi4py: {error}; pip install 'sushmem[mpi]'") from None
    library = library_name(mpi)
    for variable, launcher, foreign in _OTHER_LAUNCHERS:
        if variable in os.environ and library.startswith(foreign):
            raise PeerError(
                f"this job was started by {launcher}, mpi4py uses {library}: start it with the mpirun "
                "of that MPI; `pyshmem info` lists both"
            )
    if not mpi.Is_initialized():
        mpi.Init_thread()
    return mpi


def library_name(mpi: Any) -> str:
    """Name and version, as the MPI library gives them."""
    return " ".join(mpi.Get_library_version().strip("\0 \n").splitlines()[0].split(",")[0].split())


def check_mpi(mpi: Any) -> None:
    """MPI and pyshmem must have come to the same job."""
    size, wanted = mpi.COMM_WORLD.Get_size(), shmem.n_pes()
    if size != wanted:
        raise PeerError(
            f"mpi4py uses {library_name(mpi)} and finds {size} process(es) where pyshmem finds {wanted}: "
            "this mpirun is another MPI's. Start with the one of mpi4py's MPI; `pyshmem info` lists both"
        )


def _flushed(win: Any, call: Callable[..., Any], peer: int, *arguments: Any) -> Callable[[int], None]:
    """The call and its completion, written out as in `calls.loop`."""
    flush = win.Flush
    a, b, c = (*arguments, None, None)[:3]

    def run2(n: int) -> None:
        for _ in repeat(None, n):
            call(a, b)
            flush(peer)

    def run3(n: int) -> None:
        for _ in repeat(None, n):
            call(a, b, c)
            flush(peer)

    return run2 if len(arguments) == 2 else run3


def _mpi(mpi: Any, groups: Sequence[str]) -> tuple[list[Sampler], Callable[[], None]]:
    comm = mpi.COMM_WORLD
    meet = comm.Barrier
    peer = (comm.Get_rank() + 1) % comm.Get_size()
    win = mpi.Win.Allocate(1 << 20, 1, comm=comm)
    win.Lock_all()
    one, result = np.ones(1, np.int64), np.zeros(1, np.int64)
    big = np.ones(1 << 20, np.uint8)  # not zeros, as in calls.py
    found: list[Sampler] = []

    def add(group: str, op: str, nbytes: int, run: Callable[[int], None], everybody: bool = False) -> None:
        if group in groups:
            found.append(Sampler("mpi4py", group, op, nbytes, run, everybody, meet=meet))

    add("put", "Put + Flush", 8, _flushed(win, win.Put, peer, one, peer))
    add("put", "Put + Flush", 1 << 20, _flushed(win, win.Put, peer, big, peer))
    add("get", "Get + Flush", 8, _flushed(win, win.Get, peer, result, peer))
    add("atomics", "Fetch_and_op + Flush", 8, _flushed(win, win.Fetch_and_op, peer, one, result, peer))
    add("sync", "Barrier", 0, loop(comm.Barrier), everybody=True)
    sums = np.zeros(1), np.zeros(1)
    add("collectives", "Allreduce", 8, loop(comm.Allreduce, *sums), everybody=True)
    if "moe" in groups and EXPERTS % comm.Get_size() == 0:
        x, idx, weights = routing()
        layer = AlltoallvMoE(comm, EXPERTS, HIDDEN, TOPK, TOKENS)
        out = np.empty_like(x)

        def both() -> None:
            rows, _, w = layer.dispatch(x, idx, weights)
            layer.combine(rows, w, out)

        add("moe", "dispatch + combine", x.nbytes, loop(both), everybody=True)

    def close() -> None:
        win.Unlock_all()
        win.Free()

    return found, close


def _shmem4py(groups: Sequence[str]) -> list[Sampler]:
    other = importlib.import_module("shmem4py.shmem")
    if other.n_pes() != shmem.n_pes():
        raise PeerError(
            f"shmem4py's library finds {other.n_pes()} PEs where pyshmem finds {shmem.n_pes()}: "
            "this mpirun does not belong to it"
        )
    peer = (other.my_pe() + 1) % other.n_pes()
    target, plain = other.zeros(1, dtype=np.int64), np.zeros(1, np.int64)
    found: list[Sampler] = []

    def add(group: str, op: str, nbytes: int, run: Callable[[int], None], everybody: bool = False) -> None:
        if group in groups:
            found.append(Sampler("shmem4py", group, op, nbytes, run, everybody, meet=other.barrier_all))

    def put_quiet(n: int) -> None:
        for _ in repeat(None, n):
            other.put(target, plain, peer)
            other.quiet()

    add("put", "put + quiet", 8, put_quiet)
    add("get", "get, NumPy target", 8, loop(other.get, plain, target, peer))
    add("atomics", "atomic_fetch_add", 8, loop(other.atomic_fetch_add, target, 1, peer))
    add("sync", "barrier_all", 0, loop(other.barrier_all), everybody=True)
    return found


def others(mpi: Any, groups: Sequence[str]) -> tuple[list[Sampler], Callable[[], None]]:
    """Samplers of the other libraries, mpi4py and, where it is installed, shmem4py; and a function that frees
    what they use. Both are collective."""
    check_mpi(mpi)
    found, close = _mpi(mpi, groups)
    if available()["shmem4py"]:
        found += _shmem4py(groups)
    return found, close


def compare(samplers: Sequence[Sampler], npes: int) -> list[Figure]:
    """How many times longer the others take, from the quotients of each round."""
    ours = {(s.op, s.nbytes): s for s in samplers if s.face == "Python"}
    found = []
    for s in samplers:
        mine = ours.get(_SAME.get((s.op, s.nbytes), ("", 0)))
        if s.face == "Python" or mine is None:
            continue
        ratios = [theirs / own for theirs, own in zip(s.ns, mine.ns, strict=True)]
        found.append(figure(f"{s.face} / pyshmem", s.group, mine.op, s.nbytes, npes, "x", ratios))
    return found
