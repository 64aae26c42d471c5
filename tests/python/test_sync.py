"""Waits and tests on symmetric words: all forms against NumPy, waits that a neighbour ends, and misuse."""

from __future__ import annotations

import operator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pyshmem as shmem
from pyshmem import device, errors

DTYPES = [np.int32, np.int64, np.uint32, np.uint64, np.dtype("q")]
COMPARE = {
    shmem.CMP.EQ: operator.eq, shmem.CMP.NE: operator.ne, shmem.CMP.GT: operator.gt,
    shmem.CMP.GE: operator.ge, shmem.CMP.LT: operator.lt, shmem.CMP.LE: operator.le,
}  # fmt: skip


def around() -> tuple[int, int, int]:
    me, n = shmem.my_pe(), shmem.n_pes()
    return me, (me + 1) % n, (me - 1) % n


@pytest.mark.parametrize("dtype", DTYPES)
def test_comparisons(dtype):
    word = shmem.array([5], dtype)
    signed = np.iinfo(dtype).min < 0
    for cmp, function in COMPARE.items():
        for value in (4, 5, 6, np.iinfo(dtype).max, *([-5] if signed else [])):
            want = function(5, value)
            assert shmem.test(word, cmp, value) is want
            assert shmem.test(word, int(cmp), np.int64(value) if value < 2**63 else value) is want
            if want:
                shmem.wait_until(word, cmp, value)
    for name, cmp in (("==", "EQ"), ("!=", "NE"), (">", "GT"), (">=", "GE"), ("<", "LT"), ("<=", "LE")):
        want = COMPARE[shmem.CMP[cmp]](5, 6)
        assert (
            shmem.test(word, name, 6) is shmem.test(word, cmp, 6) is shmem.test(word, cmp.lower(), 6) is want
        )
    shmem.barrier_all()
    shmem.free(word)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_neighbour_ends_the_wait(dtype):
    _, right, _ = around()
    words = shmem.zeros(4, dtype)
    for i in range(1, 4):
        shmem.atomic_set(words[:1], i, right)
        shmem.wait_until(words[:1], shmem.CMP.GE, i)
    shmem.barrier_all()
    words[:] = 0
    shmem.barrier_all()
    shmem.put(words[1:3], np.array([7, 8], dtype), right)
    shmem.wait_until_all(words, shmem.CMP.GE, 7, status=[1, 0, 0, 1])
    assert shmem.wait_until_any(words, shmem.CMP.EQ, 8) == 2
    assert shmem.wait_until_some(words, shmem.CMP.NE, 0) == [1, 2]
    shmem.wait_until_all_vector(words, shmem.CMP.EQ, [0, 7, 8, 0])
    assert shmem.wait_until_any_vector(words, shmem.CMP.EQ, [1, 1, 8, 1]) == 2
    assert shmem.wait_until_some_vector(words, shmem.CMP.EQ, np.array([0, 7, 1, 0])) == [0, 1, 3]
    shmem.barrier_all()
    shmem.free(words)


def test_what_was_sent_before_is_visible():
    me, right, left = around()
    data, flag = shmem.zeros(1000, np.int64), shmem.zeros(1, np.int64)
    for i in range(1, 30):
        shmem.put(data, np.full(1000, 1000 * me + i), right)
        shmem.fence()
        shmem.put(flag, np.array([i]), right)
        shmem.wait_until(flag, "==", i)
        assert (data == 1000 * left + i).all()
        shmem.barrier_all()
    shmem.free(data)
    shmem.free(flag)


@given(
    values=st.lists(st.integers(-3, 3), max_size=6),
    operands=st.lists(st.integers(-3, 3), min_size=6, max_size=6),
    mask=st.none() | st.lists(st.integers(0, 2), min_size=6, max_size=6), cmp=st.sampled_from(list(COMPARE)),
)  # fmt: skip
def test_all_forms(values, operands, mask, cmp):
    count = len(values)
    words = shmem.array(np.array(values, np.int32))
    status = None if mask is None else mask[:count]
    function = COMPARE[cmp]
    left_in = [i for i in range(count) if not (status and status[i])]

    def check(suffix: str, operand: object, each: list[int]) -> None:
        true = [i for i in left_in if function(values[i], each[i])]
        for kind in ("test", "wait_until"):
            run = {form: getattr(shmem, f"{kind}_{form}{suffix}") for form in ("all", "any", "some")}
            if kind == "test":
                assert run["all"](words, cmp, operand, status) is (len(true) == len(left_in))
            elif len(true) == len(left_in):
                assert run["all"](words, cmp, operand, status) is None
            if true or not left_in or kind == "test":  # else the wait would never end
                found = run["any"](words, cmp, operand, status)
                assert (found in true) if true else (found is None)
                assert sorted(run["some"](words, cmp, operand, status)) == true

    check("", operands[0], [operands[0]] * count)
    check("_vector", operands, operands)
    shmem.free(words)


def test_misuse():
    words, real, small = shmem.zeros(3, np.int32), shmem.zeros(1), shmem.zeros(1, np.int16)
    for call in (shmem.test, shmem.wait_until):
        name = call.__name__
        with pytest.raises(errors.ArgumentError, match=f"{name}: ivar has 3 elements"):
            call(words, "==", 0)
        with pytest.raises(errors.ArgumentError, match=f"{name}: comparison 'about' is none of"):
            call(words[:1], "about", 0)
        for cmp in (99, -1, None, 1.5):
            with pytest.raises(errors.ArgumentError, match=r"comparison .* is none of"):
                call(words[:1], cmp, 0)
        for ivar, dtype in ((real, "float64"), (small, "int16")):
            with pytest.raises(TypeError, match=f"{name}: ivar has dtype {dtype}; possible are int32"):
                call(ivar, "==", 0)
        with pytest.raises(OverflowError):
            call(words[:1], "==", 1 << 40)
        with pytest.raises(TypeError):
            call(words[:1], "==", 0.5)
        with pytest.raises(errors.AddressError, match="not in the symmetric heap"):
            call(np.zeros(1, int), "==", 0)
        with pytest.raises(TypeError, match="ivar is int"):
            call(3, "==", 0)
    for call in (shmem.test_all, shmem.wait_until_any, shmem.test_some):
        with pytest.raises(errors.ArgumentError, match="status has 2 entries for the 3 elements"):
            call(words, "==", 0, [0, 1])
        with pytest.raises(TypeError, match="ivars has dtype float64"):
            call(real, "==", 0)
    for call in (shmem.test_all_vector, shmem.wait_until_some_vector):
        with pytest.raises(errors.ArgumentError, match="2 values for the 3 elements of ivars"):
            call(words, "==", [0, 0])
        with pytest.raises(OverflowError, match="values from 0 to 4294967296 do not fit in int32"):
            call(words, "==", [0, 0, 1 << 32])
        with pytest.raises(TypeError, match="values has dtype float64"):
            call(words, "==", [0.5, 0, 0])
    shmem.barrier_all()
    for a in (words, real, small):
        shmem.free(a)


def test_recovery_of_queue_pairs_where_kernels_have_none():
    """Collective, and nothing to do. Those that have some: tests/device/test_nic_errors.cpp."""
    device.recover()
    device.recover(shmem.TEAM_SHARED)
    with pytest.raises(errors.TeamError, match="shmemx_gpu_nic_recover"):
        device.recover(shmem.TEAM_INVALID)
    shmem.barrier_all()


@pytest.mark.npes(1)
def test_waits_have_a_deadline(run_pes):
    code = (
        "import numpy as np, pyshmem as shmem\n"
        "a = shmem.zeros(1, np.int64)\n"
        "try:\n"
        "    shmem.wait_until(a, '>', 5)\n"
        "except shmem.errors.TimeoutError as error:\n"
        "    print('expired', isinstance(error, TimeoutError))\n"
    )
    done = run_pes(2, code, SHMEM_TIMEOUT="3")
    assert done.stdout.splitlines() == ["expired True"] * 2, done.stderr
