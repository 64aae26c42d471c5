"""Nonblocking collectives: against the blocking ones, several at once, requests and their ends, misuse."""

from __future__ import annotations

import gc
import subprocess
import textwrap
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pyshmem as shmem
from pyshmem import errors, nonblocking

RunPes = Callable[..., "subprocess.CompletedProcess[str]"]


LARGEST = 3000


@pytest.fixture(scope="module")
def room() -> Iterator[np.ndarray]:
    """Three rows of bytes: a source, a target, and one for the blocking call."""
    made = shmem.zeros((3, (LARGEST + 1) * shmem.n_pes() * 2 * 8), "u1")
    yield made
    shmem.free(made)


CALLS: dict[str, Callable[[Callable, np.ndarray, np.ndarray, int], object]] = {
    "broadcast": lambda call, t, s, n: call(t, s, shmem.n_pes() - 1, n),
    "collect": lambda call, t, s, n: call(t, s, n - shmem.my_pe() % 2 * (n > 0)),
    "fcollect": lambda call, t, s, n: call(t, s, n),
    "alltoall": lambda call, t, s, n: call(t, s, n),
    "alltoalls": lambda call, t, s, n: call(t, s, 2, 1, n // 2),
    **{
        f"{op}_reduce": lambda call, t, s, n: call(t, s, n)
        for op in ("and", "or", "xor", "max", "min", "sum", "prod")
    },
    "reduce": lambda call, t, s, n: call(t, s, shmem.OP.MAX, n),
    "sum_inscan": lambda call, t, s, n: call(t, s, n),
    "sum_exscan": lambda call, t, s, n: call(t, s, n),
}


def test_every_collective_has_a_nonblocking_form() -> None:
    blocking = set(shmem.coll.__all__) - {"barrier_all", "sync_all"}
    assert {f"{name}_nb" for name in blocking} | {"Request", "wait_all", "wait_any"} == set(
        nonblocking.__all__
    )
    assert set(CALLS) == blocking - {"barrier", "sync"}


@pytest.mark.parametrize("name", CALLS)
@settings(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(count=st.sampled_from([0, 1, 7, LARGEST]), dtype=st.sampled_from(["u1", "i4", "i8"]))
def test_same_as_the_blocking_one(room: np.ndarray, name: str, count: int, dtype: str) -> None:
    source, started, wanted = (row.view(dtype)[: (count + 1) * shmem.n_pes() * 2] for row in room)
    source[:] = np.random.default_rng([shmem.my_pe(), count]).integers(0, 50, source.size)
    started[:] = wanted[:] = 99
    source = source[: source.size // 2]
    shmem.barrier_all()
    request = CALLS[name](getattr(shmem, f"{name}_nb"), started, source, count)
    CALLS[name](getattr(shmem, name), wanted, source, count)  # meanwhile
    assert isinstance(request, shmem.Request)
    request.wait()
    assert started.tobytes() == wanted.tobytes()
    shmem.barrier_all()


def test_wait_test_and_block() -> None:
    n = shmem.n_pes()
    source, target = shmem.full(4, shmem.my_pe() + 1, "f8"), shmem.zeros(4)
    with shmem.sum_reduce_nb(target, source) as request:
        assert "Request" in repr(request)
    assert target.tolist() == [n * (n + 1) / 2] * 4
    assert "done" in repr(request)
    request.wait()  # once more: nothing
    assert request.test()
    request = shmem.max_reduce_nb(target, source)
    while not request.test():
        pass
    assert target.tolist() == [n] * 4
    shmem.barrier_all()
    shmem.put_nbi(target, source, (shmem.my_pe() + 1) % n)
    shmem.barrier_nb().wait()
    assert target[0] == (shmem.my_pe() - 1) % n + 1
    shmem.sync_nb(shmem.TEAM_SHARED).wait()
    shmem.barrier_all()
    shmem.free(source)
    shmem.free(target)


def test_many_at_once_on_teams_in_any_order() -> None:
    me, n = shmem.my_pe(), shmem.n_pes()
    source, target = shmem.full(12, me, int), shmem.zeros(12, int)
    teams = [shmem.TEAM_WORLD.split_strided(), shmem.TEAM_WORLD.split_strided(n - 1, -1)]
    order = [0, 1] if me % 2 else [1, 0]
    requests = [
        shmem.sum_reduce_nb(target[k : k + 1], source[k : k + 1], team=teams[t])
        for t in order
        for k in range(t * 6, t * 6 + 6)
    ]
    first = shmem.wait_any(requests)
    assert first is not None
    assert requests[first].test()
    shmem.wait_all(requests)
    assert shmem.wait_any(requests) is None
    assert target.tolist() == [n * (n - 1) // 2] * 12
    shmem.barrier_all()
    left = shmem.sync_nb(teams[0])
    for team in teams:
        team.destroy()  # completes what has been started on it
    assert left.test()
    shmem.free(source)
    shmem.free(target)


def test_a_request_keeps_its_arrays() -> None:
    source, target = shmem.full(1000, 3, "f4"), shmem.zeros(1000, "f4")
    before = len(nonblocking._held)
    request = shmem.max_reduce_nb(target, source)
    held = nonblocking._held[request._key]
    assert held[0] is target
    assert held[1] is source
    del source, target, held
    gc.collect()
    request.wait()
    assert len(nonblocking._held) == before
    shmem.barrier_all()


def test_misuse() -> None:
    n = shmem.n_pes()
    source, target = shmem.zeros(4 * n, int), shmem.zeros(4 * n, int)
    with pytest.raises(TypeError):
        shmem.sum_reduce_nb(target, shmem.zeros(4, "f4"))
    with pytest.raises(errors.TeamError):
        shmem.sync_nb(shmem.TEAM_INVALID)
    with pytest.raises(errors.ArgumentError):
        shmem.reduce_nb(target, source, "sideways")  # type: ignore[arg-type]
    request = shmem.broadcast_nb(target, source, n)  # the library's to find: by the wait
    with pytest.raises(errors.PEError, match="root"):
        request.wait()
    assert request.test()
    with pytest.raises(errors.AddressError), shmem.sum_reduce_nb(target, np.zeros(4, int)):
        pass
    if n > 1:  # another order on each side
        a = shmem.sync_nb() if shmem.my_pe() else shmem.sum_reduce_nb(target, source)
        b = shmem.sum_reduce_nb(target, source) if shmem.my_pe() else shmem.sync_nb()
        with pytest.raises(errors.MismatchError):
            shmem.wait_all([a, b])
        assert a.test()
        assert b.test()
    shmem.sum_reduce_nb(target, source).wait()
    shmem.barrier_all()
    shmem.free(source)
    shmem.free(target)


@pytest.mark.npes(1)
def test_an_interrupted_wait_can_be_repeated(run_pes: RunPes) -> None:
    done = run_pes(
        2,
        textwrap.dedent("""
        import os, signal, time
        import pyshmem as shmem
        me = shmem.my_pe()
        shmem.barrier_all()
        if me == 1:
            time.sleep(1)
        else:
            signal.signal(signal.SIGALRM, signal.default_int_handler)
            request = shmem.sync_nb()
            time.sleep(0.2)  # the library's thread runs it by now
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            try:
                request.wait()
                print("was not interrupted")
            except KeyboardInterrupt:
                print("interrupted", request)
            request.wait()
            print("ended", request)
        if me == 1:
            shmem.sync_nb().wait()
        shmem.finalize()
        """),
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "interrupted <Request open>" in done.stdout
    assert "ended <Request done>" in done.stdout
