"""The processes of a Buffer, a group of torch.distributed or a communicator of mpi4py, as a team."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import pyshmem
from pyshmem.team import TEAM_WORLD, Team

__all__ = ["Members", "members_of"]


class _GroupComm:
    """A process group with the three methods of a communicator that `pyshmem.init` asks for."""

    def __init__(self, group: Any) -> None:
        self.group = group

    def Get_rank(self) -> int:
        return int(self.group.rank())

    def Get_size(self) -> int:
        return int(self.group.size())

    def bcast(self, value: Any, root: int = 0) -> Any:
        import torch.distributed as dist

        box = [value]
        dist.broadcast_object_list(box, src=dist.get_global_rank(self.group, root), group=self.group)
        return box[0]


class Members:
    """The team, this process's number in it, and a way to tell all of them a few numbers."""

    def __init__(self, team: Team, rank: int, size: int) -> None:
        self.team, self.rank, self.size = team, rank, size
        self._mine = pyshmem.zeros(2, dtype=np.int64)
        self._all = pyshmem.zeros(
            (2, 2 * size), dtype=np.int64
        )  # in turn: a slower member may still read one
        self._calls = 0

    def exchange(self, a: int, b: int) -> Any:
        """int64 [size, 2]: (a, b) of every member. Waits for their hosts, not for any GPU."""
        self._mine[0], self._mine[1] = a, b
        self._calls += 1
        target = self._all[self._calls % 2]
        pyshmem.fcollect(target, self._mine, team=self.team)
        return np.asarray(target).reshape(self.size, 2).copy()

    def free(self) -> None:
        pyshmem.free(self._mine)
        pyshmem.free(self._all)
        if self.team is not TEAM_WORLD:
            self.team.destroy()


def members_of(group: Any, comm: Any) -> Members:
    """The members of a Buffer. Collective over the group; starts pyshmem on it if need be.

    Where the group is a part of a job that runs already, all processes of the job make their Buffers at the
    same time, since making objects is collective over the job.
    """
    gather: Callable[[Any], list[Any]]
    if group is not None:
        import torch.distributed as dist

        rank, size = int(group.rank()), int(group.size())

        def gather(value: Any) -> list[Any]:
            found: list[Any] = [None] * size
            dist.all_gather_object(found, value, group)
            return found
    elif comm is not None:
        rank, size = comm.Get_rank(), comm.Get_size()
        gather = comm.allgather
    else:
        raise ValueError("Buffer: group or comm must be given")
    if not pyshmem.initialized():
        pyshmem.init(_GroupComm(group) if comm is None else comm)
    pes = gather(pyshmem.my_pe())
    if pes == list(range(pyshmem.n_pes())):
        return Members(TEAM_WORLD, rank, size)
    stride = pes[1] - pes[0] if size > 1 else 1
    if stride < 1 or pes != list(range(pes[0], pes[0] + size * stride, stride)):
        raise ValueError(f"Buffer: the group has PEs {pes}; they must be ascending and equally far apart")
    mine, every = pyshmem.zeros(3, dtype=np.int64), pyshmem.zeros(3 * pyshmem.n_pes(), dtype=np.int64)
    mine[:] = pes[0], stride, size
    pyshmem.fcollect(every, mine)
    teams = sorted({tuple(int(n) for n in row) for row in np.asarray(every).reshape(-1, 3)})
    found = None
    for start, step, count in teams:
        team = TEAM_WORLD.split_strided(start, step, count)
        if (start, step, count) == (pes[0], stride, size):
            found = team
    pyshmem.free(mine)
    pyshmem.free(every)
    assert found is not None
    return Members(found, rank, size)
