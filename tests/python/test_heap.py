"""The symmetric heap: arrays, memory, what is freed when, and misuse."""

from __future__ import annotations

import copy
import gc
import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pyshmem as shmem
from pyshmem import errors

DTYPES = [*"bhilqBHILQfdgFDe?", "S5", "V3", "M8[s]", "bfloat16", "float8_e4m3fn"]


def dtype_of(name: str) -> np.dtype:
    if name.startswith(("bfloat", "float8")):
        ml_dtypes = pytest.importorskip("ml_dtypes")
        return np.dtype(getattr(ml_dtypes, name))
    return np.dtype(name)


def used() -> int:
    return shmem.heap_info()[1]


def test_constructors_match_numpy():
    for shape in (0, 1, 5, (2, 3), (3, 0), (), [2, 2], np.int64(4), (np.int32(2), 2)):
        for order in "CF":
            for name, args in (("zeros", ()), ("ones", ()), ("full", (7,))):
                made = getattr(shmem, name)(shape, *args, dtype=np.int32, order=order)
                want = getattr(np, name)(shape, *args, dtype=np.int32, order=order)
                assert (made.shape, made.dtype) == (want.shape, want.dtype)
                assert made.strides == want.strides or want.size == 0
                np.testing.assert_array_equal(made, want)
                assert isinstance(made, np.ndarray)
                assert shmem.is_symmetric(made)
                shmem.free(made)
    a = shmem.empty((2, 3))
    assert (a.shape, a.dtype) == ((2, 3), np.float64)
    shmem.del_array(a)
    assert shmem.full(2, 3).dtype == np.full(2, 3).dtype
    assert shmem.full(2, 3.5).dtype == np.float64


@pytest.mark.parametrize("name", DTYPES)
def test_any_dtype(name):
    dtype = dtype_of(name)
    a = shmem.zeros(3, dtype)
    assert a.dtype == dtype
    assert not np.asarray(a).view(np.uint8).any()
    shmem.free(a)


def test_array_keeps_values_dtype_and_layout():
    for obj in (42, [[1, 2], [3, 4]], [[1, 2], [3.0, 4]], np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1)):
        for dtype in (None, float):
            for order in "KACF":
                want = np.array(obj, dtype, order=order)
                made = shmem.array(obj, dtype, order=order)
                assert (made.dtype, made.shape) == (want.dtype, want.shape)
                if order != "A" or want.flags.forc:  # else NumPy's choice depends on whether it casts
                    assert made.strides == want.strides
                np.testing.assert_array_equal(made, want)
                shmem.free(made)
    noncontiguous = np.arange(10)[::3]
    np.testing.assert_array_equal(shmem.array(noncontiguous), noncontiguous)


def test_alignment_and_hints():
    for align in (None, 8, 64, 4096):
        for hints in (None, 0, shmem.MALLOC.ATOMICS_REMOTE, shmem.MALLOC_SIGNAL_REMOTE):
            a = shmem.empty(3, align=align, hints=hints)
            assert a.ctypes.data % (align or 8) == 0
            shmem.free(a)


def test_alloc_and_fromalloc():
    for count, size in ((0, 4), (1, 1), (3, 8), (12, 12)):
        mem = shmem.alloc(count, size)
        assert isinstance(mem, memoryview)
        assert mem.nbytes == len(mem) == count * size
        assert not any(mem)
        shmem.free(mem)
        with pytest.raises(errors.AddressError, match="freed before"):
            shmem.free(mem)
    mem = shmem.alloc(6, 4)
    a = shmem.fromalloc(mem, dtype=np.int32)
    b = shmem.fromalloc(mem, (2, 3), np.int32, order="F")
    a[1] = 9
    assert (a.shape, b.shape, b[1, 0], b.flags.f_contiguous) == ((6,), (2, 3), 9, True)
    assert shmem.fromalloc(mem[4:8], dtype=np.int32)[0] == 9
    with pytest.raises(errors.ArgumentError, match=r"\(7,\) of int32 takes 28 bytes, the memory has 24"):
        shmem.fromalloc(mem, 7, np.int32)
    shmem.free(a)
    with pytest.raises(errors.AddressError, match="was freed"):
        shmem.fromalloc(mem, dtype=np.int32)
    with pytest.raises(errors.AddressError, match="was freed"):
        shmem.put(b, b, 0)
    with pytest.raises(errors.AddressError, match="not from alloc"):
        shmem.fromalloc(memoryview(bytearray(8)), dtype=np.int32)
    with pytest.raises(TypeError, match="bytes, not a memoryview"):
        shmem.fromalloc(b"12345678")


def test_views_are_symmetric_and_results_are_not():
    a = shmem.array(np.arange(12.0).reshape(3, 4))
    for view in (
        a[1],
        a[:2],
        a.T,
        a.reshape(4, 3),
        a.ravel(),
        a[1, 2:3],
        a.view(np.int64),
        np.asarray(a)[1:],
    ):
        assert shmem.is_symmetric(view)
    for result in (a + 1, np.sqrt(a), a.copy(), a.astype(int), a.sum(0), a * a, copy.copy(a),
                   copy.deepcopy(a),
                   pickle.loads(pickle.dumps(a)), a > 1, -a, a @ a.T, np.zeros(3)):  # fmt: skip
        assert type(result) is np.ndarray
        assert not shmem.is_symmetric(result)
    assert isinstance(a.sum(), np.float64)
    before = a
    a += 1
    assert a is before
    np.testing.assert_array_equal(a, np.arange(1.0, 13).reshape(3, 4))
    assert not shmem.is_symmetric(a[[0, 1]])
    with pytest.raises(errors.AddressError, match="copy of a symmetric array"):
        shmem.put(a[[0, 1]], np.zeros((2, 4)), 0)
    shmem.free(a)
    assert not shmem.is_symmetric(a)


def test_free_forgets_all_views():
    a = shmem.zeros((2, 4))
    row, plain = a[0], np.asarray(a)[1]
    x = np.ones(4)
    shmem.put(row, x, 0)  # the view's pointer is cached now
    shmem.put(plain, x, 0)
    shmem.free(a)
    for dead in (a, row, plain):
        with pytest.raises(errors.AddressError, match="was freed"):
            shmem.put(dead, np.ones(dead.shape), 0)
        with pytest.raises(errors.AddressError, match="was freed"):
            shmem.get(np.ones(dead.shape), dead, 0)
        with pytest.raises(errors.AddressError, match="was freed before"):
            shmem.free(dead)
    b = shmem.zeros(4)
    with pytest.raises(errors.AddressError, match="was freed"):
        shmem.put(b, row, 0)  # as a source too
    shmem.free(b)


def test_free_refuses_what_it_did_not_give():
    a = shmem.zeros(8)
    with pytest.raises(errors.AddressError, match="starts 16 bytes inside its block"):
        shmem.free(a[2:])
    with pytest.raises(errors.AddressError, match="not in a block"):
        shmem.free(np.zeros(3))
    with pytest.raises(TypeError, match="mem is int"):
        shmem.free(3)
    with pytest.raises(TypeError, match="list is not an array"):
        shmem.del_array([1])
    shmem.free(a[:1])  # any view that starts the block will do


def test_bad_requests_allocate_nothing():
    gc.collect()
    shmem.reclaim()
    before = used()
    with pytest.raises(errors.ArgumentError, match=r"shape \(2, -1\) has a negative size"):
        shmem.zeros((2, -1))
    with pytest.raises(errors.ArgumentError, match="-3 elements of 8 bytes"):
        shmem.alloc(-3, 8)
    with pytest.raises(errors.ArgumentError, match="alignment 24 is not a power of two"):
        shmem.zeros(3, align=24)
    with pytest.raises(errors.ArgumentError, match="hints 0x40"):
        shmem.zeros(3, hints=64)
    with pytest.raises(TypeError, match="Python objects"):
        shmem.zeros(3, dtype=object)
    with pytest.raises(TypeError, match="shape 'ab'"):
        shmem.zeros("ab")
    with pytest.raises(errors.NoMemoryError, match="SHMEM_SYMMETRIC_SIZE"):
        shmem.zeros(1 << 50, np.uint8)
    with pytest.raises(MemoryError):
        shmem.alloc(1 << 50)
    assert used() == before


def test_dropped_arrays_are_reclaimed():
    shmem.empty(1)  # so that there is what PEs agree in
    shmem.reclaim()
    gc.collect()
    shmem.reclaim()
    before = used()
    for _ in range(50):
        a = shmem.empty(1 << 16, np.uint8)
        a[:] = 1
    assert used() <= before + (3 << 16)  # the last one, and one that was dropped since
    del a
    assert shmem.reclaim() == 2
    assert used() == before
    assert shmem.reclaim() == 0


@pytest.mark.npes(min=2)
def test_a_block_that_one_pe_holds_stays():
    shmem.reclaim()
    before = used()
    a = shmem.full(1000, shmem.my_pe(), np.int64)
    b = shmem.zeros(1000, np.int64)
    kept = a[10:20] if shmem.my_pe() == 1 else None  # a view keeps it as well
    del a, b
    assert shmem.reclaim() == 1  # b
    shmem.barrier_all()
    if kept is not None:
        out = np.zeros(10, np.int64)
        shmem.get(out, kept, 0)
        assert not out.any()
        assert (kept == 1).all()
    shmem.barrier_all()
    kept = None
    assert shmem.reclaim() == 1
    assert used() == before


def test_cycles_are_collected_when_the_heap_is_full():
    total, _, largest = shmem.heap_info()
    size = largest - (largest >> 3)

    class Node:
        pass

    gc.disable()
    try:
        for _ in range(3):
            node = Node()
            node.me, node.array = node, shmem.empty(size, np.uint8)
            del node
    finally:
        gc.enable()
    gc.collect()
    shmem.reclaim()
    assert shmem.heap_info()[0] == total


@pytest.mark.npes(min=2)
def test_pes_that_ask_for_different_things():
    with pytest.raises(errors.MismatchError, match=r"PE .* in malloc of"):
        shmem.zeros(10 + shmem.my_pe())
    with pytest.raises(ValueError):
        shmem.zeros(10 + shmem.my_pe())
    shmem.barrier_all()


def test_ptr_shows_the_peers_memory():
    me, n, node = shmem.my_pe(), shmem.n_pes(), shmem.TEAM_SHARED
    beside = node.translate_pe((node.my_pe() + 1) % node.n_pes())
    for order in "CF":
        a = shmem.full((2, 3), me, np.int32, order=order)
        assert sum(shmem.ptr(a, pe) is not None for pe in range(n)) == node.n_pes()
        there = shmem.ptr(a, beside)
        assert type(there) is np.ndarray
        assert (there.shape, there.strides, there.dtype) == (a.shape, a.strides, a.dtype)
        assert (there == beside).all()
        shmem.barrier_all()
        there[1, 2] = 77
        shmem.barrier_all()
        assert a[1, 2] == 77
        shmem.free(a)
    b = shmem.zeros(4)
    assert shmem.ptr(b, n) is None
    assert shmem.ptr(b, -1) is None
    there = shmem.ptr(b[2:], me)
    there[0] = 3
    assert b[2] == 3
    del b
    gc.collect()
    assert shmem.reclaim() == 0  # there keeps it
    del there
    assert shmem.reclaim() == 1


def test_addr_accessible():
    a = shmem.zeros(3)
    n = shmem.n_pes()
    assert all(shmem.addr_accessible(a, pe) for pe in range(n))
    assert not shmem.addr_accessible(a, n)
    assert not shmem.addr_accessible(np.zeros(3), 0)
    shmem.free(a)


def test_changed_geometry_is_noticed():
    a = shmem.zeros((2, 4), np.int32)
    shmem.put(a, np.ones((2, 4), np.int32), 0)
    view = a.view(np.int64)
    with pytest.raises(TypeError, match="int64 and int32"):
        shmem.put(view, np.ones(4, np.int32), 0)
    a.setflags(write=False)
    with pytest.raises(errors.ArgumentError, match="read-only"):
        shmem.get(a, a.view(), 0)
    shmem.free(a)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 3000)), max_size=12))
def test_allocations_do_not_overlap(steps):
    held: list[np.ndarray] = []
    for is_free, which, size in steps:
        if is_free and held:
            shmem.free(held.pop(which % len(held)))
        else:
            a = shmem.empty(size, np.uint8)
            a[:] = len(held) % 251
            held.append(a)
    spans = sorted((a.ctypes.data, a.ctypes.data + a.size) for a in held)
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    for a in held:
        assert a.size == 0 or (a == a[0]).all()
        shmem.free(a)
