"""Collectives against NumPy: every operation, dtype, root and count; and misuse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pyshmem as shmem
from pyshmem import errors

MOVED = ["i1", "u2", "i4", "i8", "f4", "f8", "c16", "g", "?", "V3", "bfloat16"]
INTEGERS = ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "q"]
REALS = ["f2", "f4", "f8", "g"]
COMPLEX = ["c8", "c16"]
UFUNC = {
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "max": np.maximum, "min": np.minimum,
    "sum": np.add, "prod": np.multiply,
}  # fmt: skip


def dtype_of(name: str) -> np.dtype:
    if name == "bfloat16":
        return np.dtype(pytest.importorskip("ml_dtypes").bfloat16)
    return np.dtype(name)


def data(dtype: np.dtype, count: int, *seed: int) -> np.ndarray:
    top = 2 if dtype.kind == "b" else 60
    raw = np.random.default_rng(seed).integers(0, top, count * dtype.itemsize, dtype=np.uint8)
    return raw.view(dtype)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes()


def ready(*arrays: np.ndarray) -> None:
    """A collective may write as soon as all have called; tests compare, so they start together."""
    shmem.barrier_all()


def test_barriers():
    for call in (shmem.barrier_all, shmem.sync_all, shmem.sync, shmem.barrier):
        call()
    me, n = shmem.my_pe(), shmem.n_pes()
    a = shmem.zeros(n, int)
    for step in range(1, 30):
        for pe in range(n):
            shmem.put_nbi(a[me : me + 1], np.array([step]), pe)
        shmem.barrier_all()
        assert a.tolist() == [step] * n
        shmem.sync_all()
    shmem.free(a)


@pytest.mark.parametrize("name", MOVED)
def test_broadcast(name):
    dtype, me = dtype_of(name), shmem.my_pe()
    for count in (0, 1, 3, 1000):
        target, source = shmem.zeros(count + 2, dtype), shmem.array(data(dtype, count, me))
        for root in range(shmem.n_pes()):
            target.view(np.uint8)[:] = 0
            ready()
            shmem.broadcast(target, source, root)
            assert same(target[:count], data(dtype, count, root))
            assert not target[count:].view(np.uint8).any()
            shmem.sync_all()
            shmem.broadcast(target, source, root, size=count // 2, team=shmem.TEAM_WORLD)
        shmem.free(target)
        shmem.free(source)


@pytest.mark.parametrize("name", MOVED)
def test_collect_and_fcollect(name):
    dtype, me, n = dtype_of(name), shmem.my_pe(), shmem.n_pes()
    for count in (0, 1, 3, 500):
        source = shmem.array(data(dtype, count * n, me))
        target = shmem.zeros(count * n * n + 1, dtype)
        shmem.fcollect(target, source, count)
        assert same(
            target[: count * n], np.concatenate([data(dtype, count * n, pe)[:count] for pe in range(n)])
        )
        shmem.sync_all()
        shmem.fcollect(target, source)
        assert same(target[:-1], np.concatenate([data(dtype, count * n, pe) for pe in range(n)]))
        shmem.sync_all()
        target.view(np.uint8)[:] = 0
        ready()
        shmem.collect(target, source, me * count)  # PE 0 has nothing
        want = np.concatenate([data(dtype, count * n, pe)[: pe * count] for pe in range(n)])
        assert same(target[: want.size], want)
        assert not target[want.size :].view(np.uint8).any()
        shmem.sync_all()
        shmem.free(target)
        shmem.free(source)


@pytest.mark.parametrize("name", MOVED)
def test_alltoall(name):
    dtype, me, n = dtype_of(name), shmem.my_pe(), shmem.n_pes()
    for count in (0, 1, 3, 300):
        source, target = shmem.array(data(dtype, n * count, me)), shmem.zeros((n, count), dtype)
        shmem.alltoall(target, source)
        for pe in range(n):
            assert same(target[pe], data(dtype, n * count, pe).reshape(n, count)[me])
        shmem.sync_all()
        shmem.alltoall(target, source, size=count // 2)
        for pe in range(n):
            got = target.reshape(-1)[pe * (count // 2) : (pe + 1) * (count // 2)]
            assert same(got, data(dtype, n * count, pe)[me * (count // 2) : (me + 1) * (count // 2)])
        shmem.sync_all()
        shmem.free(target)
        shmem.free(source)


@given(
    count=st.integers(0, 5),
    tst=st.integers(1, 4),
    sst=st.integers(1, 4),
    name=st.sampled_from(["i1", "i4", "c16", "V3"]),
)
def test_alltoalls(count, tst, sst, name):
    dtype, me, n = np.dtype(name), shmem.my_pe(), shmem.n_pes()
    source = shmem.array(data(dtype, n * count * sst, me))
    target = shmem.zeros(n * count * tst, dtype)
    shmem.alltoalls(target, source, tst, sst, size=count)
    want = np.zeros(n * count * tst, dtype)
    for pe in range(n):
        block = data(dtype, n * count * sst, pe)[::sst][me * count : (me + 1) * count]
        want[::tst][pe * count : (pe + 1) * count] = block
    assert same(target, want)
    shmem.sync_all()
    shmem.alltoalls(target, source, tst=tst, sst=sst)  # all that fits
    assert same(target, want)
    shmem.sync_all()
    shmem.free(target)
    shmem.free(source)


@pytest.mark.parametrize("op", UFUNC)
def test_reduce(op):
    me, n = shmem.my_pe(), shmem.n_pes()
    names = [*INTEGERS]
    if op in ("max", "min", "sum", "prod"):
        names += REALS
    if op in ("sum", "prod"):
        names += COMPLEX
    else:
        names += ["?"]
    for name in names:
        dtype = np.dtype(name)
        for count in (0, 1, 5, 700):
            every = np.stack(
                [np.random.default_rng((pe, 7)).integers(0, 3, count) for pe in range(n)]
            ).astype(dtype)
            with np.errstate(over="ignore"):
                want = UFUNC[op].reduce(every, axis=0).astype(dtype)
            source, target = shmem.array(every[me]), shmem.zeros(count + 1, dtype)
            shmem.reduce(target, source, shmem.OP(op))
            np.testing.assert_array_equal(target[:count], want)
            assert target[count] == 0
            shmem.sync_all()
            getattr(shmem, f"{op}_reduce")(source, source, size=count, team=shmem.TEAM_WORLD)  # in place
            np.testing.assert_array_equal(source, want)
            shmem.sync_all()
            shmem.free(source)
            shmem.free(target)


def test_reduce_bfloat16_and_nan():
    dtype, me, n = dtype_of("bfloat16"), shmem.my_pe(), shmem.n_pes()
    a, b = shmem.full(5, me + 1, dtype), shmem.zeros(5, dtype)
    for op, want in (("sum", n * (n + 1) // 2), ("max", n), ("min", 1)):
        getattr(shmem, f"{op}_reduce")(b, a)
        assert (b.astype(float) == want).all()
        shmem.sync_all()
    c, d = shmem.full(3, float(me)), shmem.zeros(3)
    if me == n - 1:
        c[1] = np.nan
    ready()
    for op in ("sum", "prod", "max", "min"):
        shmem.reduce(d, c, op)
        assert np.isnan(d).tolist() == [False, True, False]
        shmem.sync_all()
    for array in (a, b, c, d):
        shmem.free(array)


def test_results_are_the_same_to_the_bit():
    me, n = shmem.my_pe(), shmem.n_pes()
    source = shmem.array(
        np.random.default_rng(me).standard_normal(1001) * 10.0 ** np.arange(-500, 501).clip(-30, 30)
    )
    target, table = shmem.zeros(1001), shmem.zeros((n, 1001))
    shmem.sum_reduce(target, source)
    shmem.fcollect(table, target)
    for pe in range(n):
        assert same(table[pe], target)
    for array in (source, target, table):
        shmem.free(array)


def test_misuse_is_found_before_anything_is_written():
    n = shmem.n_pes()
    m = 2 * n + 1  # not a multiple of n
    a, b, small = shmem.full(m, 7.0), shmem.full(m, 8.0), shmem.full(m, 9, np.float32)
    calls = [
        lambda t, s, **k: shmem.broadcast(t, s, 0, **k), shmem.collect, shmem.fcollect, shmem.alltoall,
        shmem.alltoalls, shmem.sum_reduce, lambda t, s, **k: shmem.reduce(t, s, "max", **k),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(TypeError, match="dtypes of target and source differ: float64 and float32"):
            call(a, small)
        with pytest.raises(errors.ArgumentError, match="target is not contiguous"):
            call(a[::2], b)
        with pytest.raises(errors.ArgumentError, match="source is not contiguous"):
            call(a, b[::-1])
        with pytest.raises(errors.ArgumentError, match="size -1 is negative"):
            call(a, b, size=-1)
        with pytest.raises(errors.ArgumentError, match=f"size {m + 9} "):
            call(a, b, size=m + 9)
        with pytest.raises(TypeError, match="target is list"):
            call([1.0], b)
        with pytest.raises(errors.AddressError, match="not in the symmetric heap"):
            call(a, np.zeros(m), size=1)
        with pytest.raises(errors.AddressError, match="not in the symmetric heap"):
            call(np.zeros(m), b, size=1)
        with pytest.raises(errors.TeamError):
            call(a, b, size=1, team=shmem.TEAM_INVALID)
    for root in (n, -1):
        with pytest.raises((errors.PEError, errors.ArgumentError), match=f"{root}"):
            shmem.broadcast(a, b, root)
    if n > 1:
        with pytest.raises(errors.ArgumentError, match=f"target has {m} elements, {n} times {m} are needed"):
            shmem.fcollect(a, b)
        with pytest.raises(
            errors.ArgumentError, match=f"room for {8 * m} bytes, the members bring {8 * m * n}"
        ):
            shmem.collect(a, b)
        with pytest.raises(errors.ArgumentError, match=f"{m} elements are not a multiple of {n} members"):
            shmem.alltoall(a, b)
    for stride in ({"tst": 0}, {"sst": -1}):
        with pytest.raises(errors.ArgumentError, match="1 is the least"):
            shmem.alltoalls(a, b, **stride)
    with pytest.raises(errors.ArgumentError, match="operation 'mean' is none of"):
        shmem.reduce(a, b, "mean")
    for op in ("and", "or", "xor"):
        with pytest.raises((TypeError, errors.ShmemError)):
            shmem.reduce(a, b, op)
    text = shmem.zeros(3, "S4")
    with pytest.raises(TypeError, match=r"sum_reduce: dtype .S4 is not supported"):
        shmem.sum_reduce(text, text)
    shmem.barrier_all()
    assert (a == 7).all()
    assert (b == 8).all()
    for array in (a, b, small, text):
        shmem.free(array)


@pytest.mark.npes(min=2)
def test_members_that_disagree():
    me, n = shmem.my_pe(), shmem.n_pes()
    a, b = shmem.full(64 * n, 7, np.int64), shmem.zeros(64 * n, np.int64)
    with pytest.raises(errors.MismatchError, match=r"PE . is in .*; this PE in "):
        shmem.sum_reduce(a, b, size=4 + me)
    with pytest.raises(errors.MismatchError):
        shmem.reduce(a, b, "max" if me else "min", size=4)
    with pytest.raises(errors.MismatchError):
        shmem.fcollect(a, b, size=4 + me)
    with pytest.raises(errors.MismatchError):
        shmem.alltoall(a, b, size=4 + me)
    try:
        shmem.broadcast(a, b, 0, size=4 + me)
    except errors.MismatchError:
        pass
    else:
        assert me == 0  # the root writes, and need not look at the others
    shmem.barrier_all()
    assert (a[4 * n + me :] == 7).all() if me == 0 else (a == 7).all()
    shmem.free(a)
    shmem.free(b)


@pytest.mark.parametrize("name", [*INTEGERS, *REALS, *COMPLEX])
@pytest.mark.parametrize("count", [1, 5000])
def test_scans(name, count):
    """Each PE has the sum of those up to it, or before it; in place too."""
    me, n = shmem.my_pe(), shmem.n_pes()
    every = [((np.arange(count) + pe) % 5).astype(name) for pe in range(n)]
    target, source = shmem.zeros(count, dtype=name), shmem.array(every[me])
    ready(target, source)
    shmem.sum_inscan(target, source)
    assert np.array_equal(target, np.sum(every[: me + 1], axis=0, dtype=name))
    ready(target, source)
    shmem.sum_exscan(source, source)
    assert np.array_equal(source, np.sum(every[:me], axis=0, dtype=name) if me else np.zeros(count, name))
    ready(target, source)
    shmem.free(target)
    shmem.free(source)


def test_scans_refuse():
    a = shmem.zeros(4)
    with pytest.raises(TypeError):
        shmem.sum_inscan(a, shmem.zeros(4, dtype="V3"))
    shmem.barrier_all()
    with pytest.raises(errors.TeamError):
        shmem.sum_exscan(a, a, team=shmem.TEAM_INVALID)
    shmem.barrier_all()
    shmem.free(a)
