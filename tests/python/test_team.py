"""Teams: who is in, numbers, what they are good for, and misuse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pyshmem as shmem
from pyshmem import errors


def test_predefined():
    world = shmem.TEAM_WORLD
    assert (world.my_pe(), world.n_pes()) == (shmem.my_pe(), shmem.n_pes())
    assert 1 <= shmem.TEAM_SHARED.n_pes() <= shmem.n_pes()  # those of this node
    assert world
    assert not shmem.TEAM_INVALID
    assert world != shmem.TEAM_SHARED != shmem.TEAM_INVALID
    assert world == shmem.Team(world)
    assert world != 1
    assert shmem.Team() == shmem.Team(None) == shmem.TEAM_INVALID
    for team in (world, shmem.TEAM_SHARED, shmem.TEAM_INVALID):
        with team as same:
            assert same is team
        team.destroy()
    assert world.n_pes() == shmem.n_pes()
    alias = shmem.Team(world)
    alias.destroy()
    assert not alias
    assert world
    assert "WORLD" in repr(world)
    world.sync()
    world.barrier()
    shmem.sync(world)
    shmem.barrier(world)


@given(start=st.integers(0, 7), stride=st.integers(-3, 3), size=st.integers(1, 8))
def test_split_strided(start, stride, size):
    n, me = shmem.n_pes(), shmem.my_pe()
    members = [start + i * stride for i in range(size)]
    if not all(0 <= pe < n for pe in members) or len(set(members)) != size:
        return
    team = shmem.TEAM_WORLD.split_strided(start, stride, size)
    assert bool(team) == (me in members)
    if team:
        assert (team.my_pe(), team.n_pes()) == (members.index(me), size)
        assert [team.translate_pe(i) for i in range(size)] == members
        assert team.translate_pe() == me
        assert shmem.TEAM_WORLD.translate_pe(me, team) == team.my_pe()
        team.sync()
        team.destroy()
        assert not team
    shmem.barrier_all()


def test_default_arguments_and_config():
    n = shmem.n_pes()
    with shmem.TEAM_WORLD.split_strided() as team:
        assert team.n_pes() == n
        assert team.get_config() == {"num_contexts": 0}
    assert not team
    with shmem.TEAM_WORLD.split_strided(config={"num_contexts": 1}, num_contexts=2) as team:
        assert team.get_config()["num_contexts"] == 2
    with shmem.TEAM_WORLD.split_strided(stride=2) as team:
        assert bool(team) == (shmem.my_pe() % 2 == 0)
        if team:
            assert team.n_pes() == (n + 1) // 2
    with shmem.TEAM_WORLD.split_strided(start=n - 1, stride=-1) as team:
        assert (team.my_pe(), team.n_pes()) == (n - 1 - shmem.my_pe(), n)


def test_split_2d():
    n, me = shmem.n_pes(), shmem.my_pe()
    for xrange in {1, 2, 3, n}:
        if xrange > n:
            continue
        row, column = shmem.TEAM_WORLD.split_2d(xrange)
        first = me // xrange * xrange
        assert (row.my_pe(), row.n_pes()) == (me - first, min(xrange, n - first))
        assert (column.my_pe(), column.n_pes()) == (me // xrange, len(range(me % xrange, n, xrange)))
        assert [row.translate_pe(i) for i in range(row.n_pes())] == list(range(first, first + row.n_pes()))
        row.destroy()
        column.destroy()


@pytest.mark.npes(min=2)
def test_collectives_and_contexts_use_team_numbers():
    n, me = shmem.n_pes(), shmem.my_pe()
    team = shmem.TEAM_WORLD.split_strided(start=n - 1, stride=-1, size=n)
    a, b, all_of = shmem.array([me]), shmem.zeros(1, int), shmem.zeros(n, int)
    shmem.fcollect(all_of, a, team=team)
    assert all_of.tolist() == list(range(n - 1, -1, -1))
    shmem.broadcast(b, a, 0, team=team)
    assert b[0] == n - 1
    shmem.barrier(team)
    with team.create_ctx() as ctx:
        assert ctx.get_team() == team
        shmem.put(b, np.array([me + 100]), 0, ctx=ctx)  # PE 0 of the team is the last
        ctx.quiet()
        team.sync()
        if me == n - 1:
            assert 100 <= b[0] < 100 + n
        with pytest.raises(errors.PEError, match=f"PE {n} is out of range"):
            shmem.put(b, a, n, ctx=ctx)
    team.barrier()
    half = team.split_strided(0, 1, n - 1)  # all but PE 0, numbered downward
    if half:
        shmem.sum_reduce(b, a, team=half)
        assert b[0] == sum(range(1, n))
        with pytest.raises(errors.PEError, match="is not in the other team"):
            shmem.TEAM_WORLD.translate_pe(0, half)
        half.destroy()
    team.destroy()
    shmem.barrier_all()
    for array in (a, b, all_of):
        shmem.free(array)


def test_misuse():
    n = shmem.n_pes()
    for call in (shmem.TEAM_INVALID.my_pe, shmem.TEAM_INVALID.n_pes, shmem.TEAM_INVALID.sync,
                 shmem.TEAM_INVALID.get_config, shmem.TEAM_INVALID.split_strided):  # fmt: skip
        with pytest.raises(errors.TeamError, match="INVALID"):
            call()
        with pytest.raises(RuntimeError):
            call()
    a = shmem.zeros(n)
    with pytest.raises(errors.TeamError):
        shmem.sum_reduce(a, a, team=shmem.TEAM_INVALID)
    for bad in (3, "world", shmem.ffi.cast("int", 1), shmem.CTX_DEFAULT):
        with pytest.raises(TypeError, match="neither a Team nor a handle"):
            shmem.Team(bad)
    with pytest.raises(errors.PEError, match=f"PE {n} of a team of {n}"):
        shmem.TEAM_WORLD.translate_pe(n)
    with pytest.raises(errors.ArgumentError, match="'colour' is no parameter"):
        shmem.TEAM_WORLD.split_strided(colour=3)
    with pytest.raises(errors.ArgumentError, match="num_contexts is -1"):
        shmem.TEAM_WORLD.split_strided(num_contexts=-1)
    for arguments in ((0, 1, n + 1), (-1, 1, 1), (n, 1, 1), (0, 1, -2), (0, 1, 0)):
        with pytest.raises(errors.ShmemError):
            shmem.TEAM_WORLD.split_strided(*arguments)
    with pytest.raises(errors.ShmemError):
        shmem.TEAM_WORLD.split_2d(0)
    team = shmem.TEAM_WORLD.split_strided()
    alias = shmem.Team(team)
    team.destroy()
    with pytest.raises(errors.TeamError, match="no team of this PE"):
        alias.sync()
    with pytest.raises(TypeError):
        hash(team)
    shmem.free(a)


def test_ptr():
    """Numbers are the team's."""
    n = shmem.n_pes()
    a = shmem.full(1, shmem.my_pe(), dtype="i8")
    shmem.barrier_all()
    with shmem.TEAM_WORLD.split_strided(n - 1, -1, n) as team:
        for number in range(n):
            there = team.ptr(a, number)
            assert there is None or there[0] == n - 1 - number
        with pytest.raises(errors.PEError):
            team.ptr(a, n)
        shmem.barrier_all()
    shmem.free(a)
