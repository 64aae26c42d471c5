"""Atomics: every operation and dtype against Python integers, contention, and misuse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pyshmem as shmem
from pyshmem import errors

INTEGERS = [np.int32, np.int64, np.uint32, np.uint64, np.dtype("q"), np.dtype("L")]
FLOATS = [np.float32, np.float64]
BITWISE = {"and": lambda a, b: a & b, "or": lambda a, b: a | b, "xor": lambda a, b: a ^ b}


APPLY = {**BITWISE, "add": lambda a, b: (a + b) % 2**32, "swap": lambda a, b: b}


def right() -> int:
    return (shmem.my_pe() + 1) % shmem.n_pes()


@pytest.mark.parametrize("dtype", INTEGERS + FLOATS)
def test_fetch_set_swap(dtype):
    pe = right()
    a = shmem.array([shmem.my_pe() + 1], dtype)
    assert shmem.atomic_fetch(a, pe) == pe + 1
    shmem.barrier_all()
    assert shmem.atomic_swap(a, 50, pe) == pe + 1
    shmem.atomic_set(a, 60, pe)
    shmem.barrier_all()
    assert a[0] == 60
    shmem.barrier_all()
    fetch = np.zeros(1, dtype)
    shmem.atomic_swap_nbi(fetch, a, 61, pe)
    shmem.quiet()
    assert fetch[0] == 60
    shmem.atomic_fetch_nbi(fetch, a, pe)
    shmem.quiet()
    assert fetch[0] == 61
    if dtype in FLOATS:
        shmem.barrier_all()
        shmem.atomic_set(a, -0.1, pe)
        assert shmem.atomic_fetch(a, pe) == dtype(-0.1)
        assert isinstance(shmem.atomic_fetch(a, pe), float)
    else:
        assert type(shmem.atomic_fetch(a, pe)) is int
    shmem.barrier_all()
    shmem.free(a)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integer_operations(dtype):
    pe = right()
    a = shmem.zeros(3, dtype)
    word = a[1:2]
    fetch = np.zeros(1, dtype)
    value = 0

    def check(old: int) -> None:
        assert old == before
        assert shmem.atomic_fetch(word, pe) == value

    before, value = value, 5
    shmem.atomic_add(word, 5, pe)
    check(before)
    before, value = value, 6
    check(shmem.atomic_fetch_inc(word, pe))
    before, value = value, 7
    shmem.atomic_inc(word, pe)
    check(before)
    before, value = value, 107
    check(shmem.atomic_fetch_add(word, 100, pe))
    for name, function in BITWISE.items():
        for operand in (0b1101011, 0, 3):
            before, value = value, function(value, operand)
            check(getattr(shmem, f"atomic_fetch_{name}")(word, operand, pe))
            value = function(value, operand + 1)
            getattr(shmem, f"atomic_{name}")(word, operand + 1, pe)
            before, value = value, function(value, operand)
            getattr(shmem, f"atomic_fetch_{name}_nbi")(fetch, word, operand, pe)
            shmem.quiet()
            check(fetch[0])
    before, value = value, 40
    check(shmem.atomic_swap(word, 40, pe))
    before, value = 40, 41
    check(shmem.atomic_compare_swap(word, 40, 41, pe))
    before = 41
    check(shmem.atomic_compare_swap(word, 40, 99, pe))
    before, value = 41, 42
    shmem.atomic_compare_swap_nbi(fetch, word, 41, 42, pe)
    shmem.quiet()
    check(fetch[0])
    before, value = 42, 43
    shmem.atomic_fetch_inc_nbi(fetch, word, pe)
    shmem.quiet()
    check(fetch[0])
    before, value = 43, 50
    shmem.atomic_fetch_add_nbi(fetch, word, 7, pe)
    shmem.quiet()
    check(fetch[0])
    shmem.barrier_all()
    assert a[0] == a[2] == 0
    shmem.free(a)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_limits_and_wraparound(dtype):
    me = shmem.my_pe()
    limits = np.iinfo(dtype)
    a = shmem.zeros(1, dtype)
    for value in (limits.min, limits.max, -1 if limits.min else 1):
        shmem.atomic_set(a, value, me)
        assert shmem.atomic_fetch(a, me) == value == a[0]
        assert shmem.atomic_compare_swap(a, value, 3, me) == value
        assert a[0] == 3
    shmem.atomic_set(a, limits.max, me)
    shmem.atomic_inc(a, me)
    assert a[0] == limits.min
    for value in (limits.max + 1, limits.min - 1):
        with pytest.raises(OverflowError, match=f"{value} does not fit in {np.dtype(dtype)}"):
            shmem.atomic_set(a, value, me)
        with pytest.raises(OverflowError):
            shmem.atomic_compare_swap(a, value, 0, me)
    assert a[0] == limits.min
    shmem.atomic_set(a, np.int16(12), me)  # NumPy scalars and arrays of no dimension are numbers too
    assert shmem.atomic_fetch_add(a, np.array(3), me) == 12
    shmem.barrier_all()
    shmem.free(a)


def test_operations_by_name():
    me = shmem.my_pe()
    a, fetch = shmem.zeros(1, np.uint32), np.zeros(1, np.uint32)
    shmem.atomic_op(a, 6, shmem.AMO_SET, me)
    shmem.atomic_op(a, None, shmem.AMO.INC, me)
    assert shmem.atomic_fetch_op(a, 1, shmem.AMO.ADD, me) == 7
    assert shmem.atomic_fetch_op(a, None, "inc", me) == 8
    assert shmem.atomic_fetch_op(a, 12, "AND", me) == 9
    assert shmem.atomic_fetch_op(a, 1, shmem.AMO.OR, me) == 8
    assert shmem.atomic_fetch_op(a, 1, shmem.AMO.XOR, me) == 9
    assert shmem.atomic_fetch_op(a, 3, shmem.AMO.SET, me) == 8
    shmem.atomic_fetch_op_nbi(fetch, a, 2, shmem.AMO.ADD, me)
    shmem.quiet()
    assert (fetch[0], a[0]) == (3, 5)
    with pytest.raises(errors.ArgumentError, match="operation 'mul' is none of set, inc"):
        shmem.atomic_op(a, 2, "mul", me)
    with pytest.raises(TypeError, match="operation add needs a value"):
        shmem.atomic_op(a, None, shmem.AMO.ADD, me)
    shmem.barrier_all()
    shmem.free(a)


def test_contention():
    n, rounds = shmem.n_pes(), 300
    a = shmem.zeros(4, np.int64)
    seen = [shmem.atomic_fetch_add(a[:1], 1, 0) for _ in range(rounds)]
    assert seen == sorted(set(seen))
    for _ in range(rounds):
        shmem.atomic_inc(a[1:2], 0)
        old = shmem.atomic_fetch(a[2:3], 0)
        while (now := shmem.atomic_compare_swap(a[2:3], old, old + 2, 0)) != old:
            old = now
    shmem.atomic_or(a[3:4], 1 << shmem.my_pe(), 0)
    shmem.barrier_all()
    if shmem.my_pe() == 0:
        assert a.tolist() == [n * rounds, n * rounds, 2 * n * rounds, (1 << n) - 1]
    shmem.barrier_all()
    shmem.free(a)


@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "and", "or", "xor", "swap"]), st.integers(0, 2**32 - 1)), max_size=8
    )
)
def test_sequences_against_python(steps):
    pe, value = right(), 0
    a = shmem.zeros(1, np.uint32)
    for name, operand in steps:
        function = shmem.atomic_swap if name == "swap" else getattr(shmem, f"atomic_fetch_{name}")
        assert function(a, operand, pe) == value
        value = APPLY[name](value, operand)
    assert shmem.atomic_fetch(a, pe) == value
    shmem.barrier_all()
    shmem.free(a)


# ---- misuse ------------------------------------------------------------------------------------------------


def test_bad_targets():
    n = shmem.n_pes()
    words, halves, small, real = (
        shmem.zeros(2, int),
        shmem.zeros(1, np.int16),
        shmem.zeros(1, "?"),
        shmem.zeros(1),
    )
    with pytest.raises(errors.ArgumentError, match=r"target has 2 elements \(shape \(2,\)\), exactly 1"):
        shmem.atomic_add(words, 1, 0)
    with pytest.raises(errors.ArgumentError, match="target has 0 elements"):
        shmem.atomic_add(words[:0], 1, 0)
    for target, dtype in ((halves, "int16"), (small, "bool")):
        with pytest.raises(TypeError, match=f"atomic_fetch: target has dtype {dtype}; possible are int32"):
            shmem.atomic_fetch(target, 0)
    for call in (shmem.atomic_add, shmem.atomic_fetch_add, shmem.atomic_and, shmem.atomic_fetch_xor):
        with pytest.raises(TypeError, match=f"{call.__name__}: target has dtype float64"):
            call(real, 1, 0)
    with pytest.raises(TypeError, match="float64"):
        shmem.atomic_compare_swap(real, 0, 1, 0)
    for pe in (n, -1):
        with pytest.raises(errors.PEError, match=f"PE {pe} is out of range, 0 to {n - 1}"):
            shmem.atomic_add(words[:1], 1, pe)
        with pytest.raises(IndexError):
            shmem.atomic_fetch(words[:1], pe)
    with pytest.raises(errors.AddressError, match="not in the symmetric heap"):
        shmem.atomic_add(np.zeros(1, int), 1, 0)
    with pytest.raises(TypeError, match="target is int"):
        shmem.atomic_add(3, 1, 0)
    with pytest.raises(TypeError):
        shmem.atomic_add(words[:1], 1.5, 0)
    with pytest.raises(TypeError, match="not a real number"):
        shmem.atomic_set(real, 1j, 0)
    for fetch in (np.zeros(2, int), np.zeros(1, np.int32)):
        with pytest.raises(errors.ArgumentError, match="the target needs 1 of int64"):
            shmem.atomic_fetch_nbi(fetch, words[:1], 0)
    shmem.barrier_all()
    assert not words.any()
    assert not real.any()
    for a in (words, halves, small, real):
        shmem.free(a)
