"""put, get, their strided and nonblocking forms, against NumPy; and misuse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pyshmem as shmem
from pyshmem import errors

DTYPES = [*"bhilqBHILQfdgFDe?", "S5", "V3", "M8[s]", "bfloat16", "float8_e4m3fn", ">i4", "i4,f8"]


def dtype_of(name: str) -> np.dtype:
    if name.startswith(("bfloat", "float8")):
        ml_dtypes = pytest.importorskip("ml_dtypes")
        return np.dtype(getattr(ml_dtypes, name))
    return np.dtype(name)


def data(dtype: np.dtype, count: int, seed: int) -> np.ndarray:
    """Any bytes make elements of any dtype; bool takes 0 and 1."""
    top = 2 if dtype.kind == "b" else 100
    raw = np.random.default_rng(seed).integers(0, top, count * dtype.itemsize, dtype=np.uint8)
    return raw.view(dtype)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes()


def around() -> tuple[int, int, int]:
    me, n = shmem.my_pe(), shmem.n_pes()
    return me, (me + 1) % n, (me - 1) % n


@pytest.mark.parametrize("name", DTYPES)
def test_put_and_get(name):
    dtype = dtype_of(name)
    me, right, left = around()
    for put, get, finish in (
        (shmem.put, shmem.get, shmem.quiet),
        (shmem.put_nbi, shmem.get_nbi, shmem.quiet),
    ):
        target = shmem.zeros(7, dtype)
        put(target, data(dtype, 7, me), right)  # a temporary source: nbi must keep it
        finish()
        shmem.barrier_all()
        assert same(target, data(dtype, 7, left))
        out = np.zeros(7, dtype)
        get(out, target, right)
        finish()
        assert same(out, data(dtype, 7, me))
        symmetric_out = shmem.zeros(7, dtype)
        get(symmetric_out, target, right)
        finish()
        assert same(symmetric_out, out)
        shmem.free(target)
        shmem.free(symmetric_out)


def test_sizes():
    me, right, left = around()
    source = np.arange(5) + 10 * me
    target = shmem.full(8, -1, np.int64)
    for size, context in (
        (3, None),
        (None, None),
        (0, None),
        (2, shmem.CTX_DEFAULT),
        (None, shmem.CTX_DEFAULT),
    ):
        target[:] = -1
        shmem.barrier_all()
        shmem.put(target, source, right, size, context)
        shmem.barrier_all()
        count = 5 if size is None else size
        assert target.tolist() == [*(np.arange(count) + 10 * left), *[-1] * (8 - count)]
        out = np.full(9, -2)
        shmem.get(out, target, me, size=size, ctx=context)
        count = 8 if size is None else size
        assert out.tolist() == [*target[:count], *[-2] * (9 - count)]
        shmem.barrier_all()
    shmem.put(target=target, source=source, pe=right, size=1)  # the keyword names of the API
    shmem.barrier_all()
    shmem.free(target)


def test_layouts():
    me, right, left = around()
    target = shmem.zeros((3, 4), order="F")
    source = np.arange(12.0).reshape(3, 4, order="F") + me
    shmem.put(target, source, right)
    shmem.barrier_all()
    np.testing.assert_array_equal(target, np.arange(12.0).reshape(3, 4, order="F") + left)
    shmem.barrier_all()
    row = target.T[1]
    shmem.put(row, np.full(3, -1.0), right)
    shmem.barrier_all()
    assert (target[:, 1] == -1).all()
    zero_dimensional = shmem.array(3.5)
    shmem.put(zero_dimensional, np.array(4.5), me)
    assert zero_dimensional == 4.5
    shmem.free(target)


def test_symmetric_source_and_every_peer():
    me, n = shmem.my_pe(), shmem.n_pes()
    table, mine = shmem.zeros(n, np.int64), shmem.array([me * me])
    for pe in range(n):
        shmem.put(table[me : me + 1], mine, pe)
    shmem.barrier_all()
    assert table.tolist() == [pe * pe for pe in range(n)]
    shmem.free(table)
    shmem.free(mine)


@given(
    count=st.integers(1, 40), tst=st.integers(1, 7), sst=st.integers(1, 7),
    size=st.none() | st.integers(0, 8), name=st.sampled_from(["i1", "i2", "i4", "f8", "c16", "V3"]),
)  # fmt: skip
def test_strided(count, tst, sst, size, name):
    me, right, left = around()
    dtype = np.dtype(name)
    fits = min(-(-count // tst), -(-count // sst))
    if size is not None and size > fits:
        size = fits
    moved = fits if size is None else size

    def expected(source: np.ndarray) -> np.ndarray:
        want = np.zeros(count, dtype)
        want[::tst][:moved] = source[::sst][:moved]
        return want

    target = shmem.zeros(count, dtype)
    shmem.iput(target, data(dtype, count, me), right, tst, sst, size)
    shmem.barrier_all()
    assert same(target, expected(data(dtype, count, left)))
    shmem.barrier_all()
    source = shmem.array(data(dtype, count, me))
    out = np.zeros(count, dtype)
    shmem.iget(out, source, right, tst=tst, sst=sst, size=size)
    assert same(out, expected(data(dtype, count, right)))
    shmem.barrier_all()
    shmem.free(target)
    shmem.free(source)


# ---- misuse: the message has the values, and nothing is written --------------------------------------------


@pytest.fixture
def target():
    made = shmem.full(4, 7.0)
    shmem.barrier_all()
    yield made
    shmem.barrier_all()
    assert (made == 7).all()
    shmem.free(made)


CALLS = [shmem.put, shmem.put_nbi, shmem.iput]
GETS = [shmem.get, shmem.get_nbi, shmem.iget]


@pytest.mark.parametrize("call", CALLS)
def test_put_refuses(call, target):
    name, n, x = call.__name__, shmem.n_pes(), np.zeros(4)
    for pe in (n, -1, 1 << 20):
        with pytest.raises(errors.PEError, match=rf"PE {pe} is out of range, 0 to {n - 1}"):
            call(target, x, pe)
        with pytest.raises(IndexError):
            call(target, target[1:2], pe)
    with pytest.raises(TypeError, match=f"{name}: dtypes of target and source differ: float64 and float32"):
        call(target, x.astype(np.float32), 0)
    with pytest.raises(TypeError, match="float64 and >f8"):
        call(target, x.astype(">f8"), 0)
    with pytest.raises(
        errors.ArgumentError, match=r"source is not contiguous: shape \(4,\), strides \(16,\)"
    ):
        call(target, np.zeros(8)[::2], 0)
    with pytest.raises(errors.ArgumentError, match="target is not contiguous"):
        call(target[::2], x, 0)
    with pytest.raises(errors.ArgumentError, match="size 5 exceeds the 4 elements of target"):
        call(target, np.zeros(9), 0, size=5)
    with pytest.raises(errors.ArgumentError, match="size 3 exceeds the 2 elements of source"):
        call(target, np.zeros(2), 0, size=3)
    with pytest.raises(errors.ArgumentError, match="size -1 is negative"):
        call(target, x, 0, size=-1)
    with pytest.raises(TypeError, match=f"{name}: source is list, not a NumPy array"):
        call(target, [0.0] * 4, 0)
    with pytest.raises(TypeError, match=f"{name}: target is NoneType"):
        call(None, x, 0)
    with pytest.raises(TypeError, match="Python objects"):
        call(target, np.array([None] * 4), 0)
    with pytest.raises(errors.AddressError, match="not in the symmetric heap"):
        call(np.zeros(4), x, 0)
    with pytest.raises(errors.ContextError):
        call(target, x, 0, ctx=shmem.CTX_INVALID)


@pytest.mark.parametrize("call", GETS)
def test_get_refuses(call, target):
    name, n, out = call.__name__, shmem.n_pes(), np.zeros(4)
    with pytest.raises(errors.PEError, match=rf"PE {n} is out of range"):
        call(out, target, n)
    with pytest.raises(TypeError, match=f"{name}: dtypes of target and source differ: int64 and float64"):
        call(np.zeros(4, np.int64), target, 0)
    read_only = np.zeros(4)
    read_only.flags.writeable = False
    with pytest.raises(errors.ArgumentError, match=r"target .* is read-only"):
        call(read_only, target, 0)
    with pytest.raises(errors.ArgumentError, match="size 5 exceeds the 4 elements"):
        call(np.zeros(9), target, 0, size=5)
    with pytest.raises(errors.AddressError, match="not in the symmetric heap"):
        call(out, np.zeros(4), 0)
    assert not out.any()


def test_strides_are_checked(target):
    for strides, text in (((0, 1), "tst is 0"), ((1, -2), "sst is -2")):
        with pytest.raises(errors.ArgumentError, match=text):
            shmem.iput(target, np.zeros(4), 0, *strides)
        with pytest.raises(errors.ArgumentError, match=text):
            shmem.iget(np.zeros(4), target, 0, *strides)
    with pytest.raises(errors.ArgumentError, match="size 3 exceeds the 2 elements of target at stride 2"):
        shmem.iput(target, np.zeros(4), 0, tst=2, size=3)


@given(
    bsize=st.integers(1, 5), more=st.tuples(st.integers(0, 6), st.integers(0, 6)), nblocks=st.integers(0, 5)
)
def test_block_strided(bsize, more, nblocks):
    """Blocks of `bsize` elements at the strides, and nothing between them."""
    me, n = shmem.my_pe(), shmem.n_pes()
    right, left = (me + 1) % n, (me - 1) % n
    tst, sst = bsize + more[0], bsize + more[1]
    target, source = shmem.full(64, -1, dtype="i4"), shmem.array(np.arange(64, dtype="i4") + 100 * me)
    shmem.barrier_all()
    expected = np.full(64, -1, dtype="i4")
    for b in range(nblocks):
        expected[b * tst : b * tst + bsize] = 100 * left + np.arange(b * sst, b * sst + bsize)
    shmem.ibput(target, source, right, tst, sst, bsize, nblocks)
    shmem.barrier_all()
    assert np.array_equal(target, expected)
    got = np.full(64, -1, dtype="i4")
    shmem.ibget(got, source, left, tst, sst, bsize, nblocks)
    assert np.array_equal(got, expected)
    shmem.barrier_all()
    shmem.free(target)
    shmem.free(source)


def test_block_strides_are_checked(target):
    with pytest.raises(errors.ArgumentError, match="stride tst is 1, less than a block of 2"):
        shmem.ibput(target, np.zeros(4), 0, 1, 2, 2)
    with pytest.raises(errors.ArgumentError, match="bsize is 0"):
        shmem.ibget(np.zeros(4), target, 0, 1, 1, 0)
    with pytest.raises(errors.ArgumentError, match="3 blocks exceed the 2 of target"):
        shmem.ibput(target, np.zeros(4), 0, 2, 2, 2, 3)
    with pytest.raises(errors.ArgumentError, match="nblocks -1 is negative"):
        shmem.ibput(target, np.zeros(4), 0, 2, 2, 2, -1)


def test_pe_quiet():
    """What went to a PE is there when `pe_quiet` for it returns."""
    me, n = shmem.my_pe(), shmem.n_pes()
    row = shmem.zeros(n, dtype="i8")
    shmem.barrier_all()
    with shmem.Ctx.create() as ctx:
        for round, (pes, context) in enumerate(
            [((me + 1) % n, None), (range(n), None), ([(me + 1) % n], ctx)]
        ):
            shmem.put_nbi(row[me : me + 1], np.array([round + 1]), (me + 1) % n, ctx=context)
            shmem.pe_quiet(pes, context)
            got = np.zeros(1, dtype="i8")
            shmem.get(got, row[me : me + 1], (me + 1) % n)
            assert got[0] == round + 1
        shmem.quiet(ctx)
    shmem.quiet()
    with pytest.raises(errors.PEError):
        shmem.pe_quiet(n)
    shmem.barrier_all()
    shmem.free(row)
