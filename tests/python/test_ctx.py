"""Contexts: creation, operations on them, options, and misuse."""

from __future__ import annotations

import numpy as np
import pytest

import pyshmem as shmem
from pyshmem import errors


def test_default_and_invalid():
    default, invalid = shmem.CTX_DEFAULT, shmem.CTX_INVALID
    assert default
    assert not invalid
    assert default != invalid
    assert default == shmem.Ctx(default)
    assert default != 1
    assert shmem.Ctx() == shmem.Ctx(None) == invalid
    for ctx in (default, invalid):
        with ctx as same:
            assert same is ctx
        ctx.destroy()
    alias = shmem.Ctx(default)
    alias.destroy()
    assert not alias
    assert default
    assert default.get_team() == shmem.TEAM_WORLD
    assert "DEFAULT" in repr(default)
    default.fence()
    default.quiet()
    shmem.fence(default)
    shmem.quiet(default)
    shmem.fence()
    shmem.quiet()


@pytest.mark.parametrize("options", [0, *shmem.CTX, shmem.CTX.PRIVATE | shmem.CTX.NOSTORE])
def test_operations(options):
    me, n = shmem.my_pe(), shmem.n_pes()
    right, left = (me + 1) % n, (me - 1) % n
    a, word, signal = shmem.zeros(4, int), shmem.zeros(1, int), shmem.new_signal()
    with shmem.Ctx.create(options) as ctx:
        assert ctx
        assert ctx != shmem.CTX_DEFAULT
        assert ctx.get_team() == shmem.TEAM_WORLD
        shmem.put(a, np.full(2, me), right, ctx=ctx)
        shmem.put_nbi(a[2:], np.full(2, me + 50), right, ctx=ctx)
        shmem.atomic_add(word, 3, right, ctx)
        ctx.fence()
        ctx.quiet()
        shmem.barrier_all()
        assert a.tolist() == [left, left, left + 50, left + 50]
        assert shmem.atomic_fetch(word, right, ctx) == 3
        out = np.zeros(4, int)
        shmem.get(out, a, right, ctx=ctx)
        assert out[0] == me
        shmem.barrier_all()
        shmem.get_nbi(out, a, me, ctx=ctx)
        shmem.iput(a, np.full(2, 9), me, 2, 1, ctx=ctx)
        shmem.quiet(ctx)
        assert a.tolist() == [9, left, 9, left + 50]
        shmem.barrier_all()
        shmem.put_signal(a, np.full(4, me), right, signal, 1, shmem.SIGNAL.SET, ctx=ctx)
        shmem.signal_wait_until(signal, "==", 1)
    assert not ctx
    with pytest.raises(errors.ContextError):
        ctx.quiet()
    shmem.barrier_all()
    shmem.free(a)
    shmem.free(word)
    shmem.del_signal(signal)


def test_of_a_team():
    with shmem.Ctx.create(team=shmem.TEAM_WORLD) as ctx:
        assert ctx.get_team() == shmem.TEAM_WORLD
    with shmem.TEAM_SHARED.create_ctx(shmem.CTX.SERIALIZED) as ctx:
        assert ctx.get_team() == shmem.TEAM_SHARED


def test_misuse():
    for bad in (3, "default", shmem.ffi.cast("int", 1), shmem.TEAM_WORLD):
        with pytest.raises(TypeError, match="neither a Ctx nor a handle"):
            shmem.Ctx(bad)
    for call in (shmem.CTX_INVALID.get_team, shmem.CTX_INVALID.quiet, shmem.CTX_INVALID.fence):
        with pytest.raises(errors.ContextError):
            call()
        with pytest.raises(RuntimeError):
            call()
    with pytest.raises(errors.TeamError):
        shmem.Ctx.create(team=shmem.TEAM_INVALID)
    with pytest.raises(errors.ArgumentError):
        shmem.Ctx.create(1 << 20)
    ctx = shmem.Ctx.create()
    alias = shmem.Ctx(ctx)
    ctx.destroy()
    ctx.destroy()
    with pytest.raises(errors.ContextError):
        alias.fence()
    with pytest.raises(TypeError):
        hash(ctx)


def test_many_come_and_go():
    for _ in range(200):
        shmem.Ctx.create().destroy()
    several = [shmem.Ctx.create() for _ in range(8)]
    assert len({ctx.key for ctx in several}) == 8
    for ctx in several:
        ctx.destroy()
