"""Quantized collectives of pyshmem.quant against float64: error bounds, equal bits, types, misuse."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pyshmem as shmem
from pyshmem import quant

REPEATABLE = settings(derandomize=True, max_examples=60, deadline=None, database=None)
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = [np.dtype(np.float32), np.dtype(np.float16), BFLOAT16]
ROUNDING = {DTYPES[0]: 2.0**-21, DTYPES[1]: 2.0**-11, BFLOAT16: 2.0**-8}


def data(pe: int, shape: tuple[int, ...], dtype: Any, seed: int, spread: float = 1.0) -> np.ndarray:
    """What that PE gives; every PE can make it."""
    rng = np.random.default_rng([seed, pe])
    x = rng.standard_normal(shape) * np.exp(spread * rng.standard_normal(shape))
    return x.clip(-1e3, 1e3).astype(dtype)


def exact(shape: tuple[int, ...], dtype: Any, seed: int, spread: float = 1.0) -> np.ndarray:
    return np.stack([data(pe, shape, dtype, seed, spread).astype(np.float64) for pe in range(shmem.n_pes())])


def group_amax(x: np.ndarray, group: int | str) -> np.ndarray:
    """The largest magnitude of each element's group, of a flat array."""
    size = x.shape[-1] if group == "row" else int(group)
    flat = np.abs(x).reshape(-1)
    padded = np.zeros(-(-flat.size // size) * size)
    padded[: flat.size] = flat
    return np.repeat(padded.reshape(-1, size).max(axis=1), size)[: flat.size].reshape(x.shape)


def step(x: np.ndarray, fmt: str, group: int | str) -> np.ndarray:
    """The largest error of quantizing x once: half a step."""
    amax = group_amax(x, group)
    return amax / 254 if fmt == "int8" else np.maximum(np.abs(x) / 16, amax / 448 * 2.0**-10)


def same_everywhere(result: np.ndarray) -> None:
    words = np.ascontiguousarray(result).view(np.uint8).reshape(-1)
    mine = shmem.array(np.concatenate([words, np.zeros(-words.size % 8, np.uint8)]).view(np.uint64))
    first = shmem.empty(mine.shape, np.uint64)
    shmem.broadcast(first, mine, 0)
    assert np.array_equal(first, mine)
    shmem.free(mine)
    shmem.free(first)


shapes = st.one_of(
    st.tuples(st.integers(1, 400)), st.tuples(st.integers(1, 60), st.integers(1, 500)), st.just((70_000,))
)
ways = {
    "fmt": st.sampled_from(["int8", "e4m3"]),
    "group": st.sampled_from([32, 64, 128, "row"]),
    "op": st.sampled_from(["sum", "mean"]),
}


@REPEATABLE
@given(shapes, st.sampled_from(DTYPES), st.integers(0, 2**32 - 1), st.fixed_dictionaries(ways))
def test_all_reduce_is_within_its_bound(
    shape: tuple[int, ...], dtype: Any, seed: int, way: dict[str, Any]
) -> None:
    way = dict(way)
    if way["group"] == "row" and shape[-1] > 65536:
        way["group"] = 128
    n, fmt, group = shmem.n_pes(), way["fmt"], way["group"]
    result = quant.all_reduce(data(shmem.my_pe(), shape, dtype, seed), min_bytes=0, **way)
    assert result.dtype == dtype and result.shape == shape
    parts = exact(shape, dtype, seed)
    total, magnitude, error = parts.sum(axis=0), np.abs(parts).sum(axis=0), np.zeros(shape)
    if n > 1:  # once on the way to who adds up, once on the way back
        error = sum(step(part, fmt, group) for part in parts)
        error = error + step(magnitude + error, fmt, group)
    error = (error + (magnitude + error) * ROUNDING[np.dtype(dtype)]) * 1.001 + 1e-6
    if way["op"] == "mean":
        total, error = total / n, error / n
    assert (np.abs(result.astype(np.float64) - total) <= error).all()
    same_everywhere(result)


@REPEATABLE
@given(st.integers(1, 300), st.integers(1, 200), st.sampled_from(DTYPES), st.integers(0, 2**32 - 1))
def test_blocks_go_where_they_belong(rows: int, cols: int, dtype: Any, seed: int) -> None:
    me, n = shmem.my_pe(), shmem.n_pes()
    mine = data(me, (rows * n, cols), dtype, seed)
    parts = exact((rows * n, cols), dtype, seed)
    rounding = 1.001 * (1 + ROUNDING[np.dtype(dtype)])

    def close(got: np.ndarray, want: np.ndarray, error: np.ndarray | float) -> None:
        assert got.dtype == dtype and got.shape == want.shape
        room = error * rounding + np.abs(want) * ROUNDING[np.dtype(dtype)] + 1e-6
        assert (np.abs(got.astype(np.float64) - want) <= room).all()

    gathered = quant.all_gather(mine[:rows], min_bytes=0)
    same_everywhere(gathered)
    want = parts[:, :rows]
    close(
        gathered,
        want.reshape(-1, cols),
        np.concatenate([step(w, "int8", 128) for w in want]) if n > 1 else 0,
    )
    swapped = quant.all_to_all(mine, min_bytes=0, group="row")
    want = parts[:, me * rows : (me + 1) * rows]
    close(swapped, want.reshape(-1, cols), np.concatenate([step(w, "int8", "row") for w in want]))
    assert np.array_equal(swapped[me * rows : (me + 1) * rows], mine[me * rows : (me + 1) * rows])
    scattered = quant.reduce_scatter(mine, min_bytes=0, fmt="e4m3")
    error = sum(step(w, "e4m3", 128) for w in want)
    close(scattered, want.sum(axis=0), error + np.abs(want).sum(axis=0) * ROUNDING[np.dtype(dtype)])
    root = seed % n
    copied = quant.broadcast(mine, root, min_bytes=0)
    same_everywhere(copied)
    close(copied, parts[root], step(parts[root], "int8", 128) if n > 1 else 0)


def test_one_element_and_none() -> None:
    n = shmem.n_pes()
    assert quant.all_reduce(np.float32([3.0]), min_bytes=0)[0] == pytest.approx(3 * n, rel=1e-2)
    assert quant.all_reduce(np.empty((0, 5), np.float32)).shape == (0, 5)
    assert quant.all_gather(np.empty(0, BFLOAT16)).shape == (0,)


def test_in_place_out_and_symmetric() -> None:
    me, n = shmem.my_pe(), shmem.n_pes()
    x = data(me, (50, 333), np.float32, 1)
    expected = quant.all_reduce(x, min_bytes=0)
    again = x.copy()
    assert quant.all_reduce(again, out=again, min_bytes=0) is again
    assert np.array_equal(again, expected)
    heap = shmem.array(x)
    quant.all_reduce(heap, out=heap, min_bytes=0)
    assert np.array_equal(heap, expected)
    heap[...] = x
    plain = quant.all_reduce(heap, out=heap, bits=32)
    np.testing.assert_allclose(plain, exact(x.shape, np.float32, 1).sum(axis=0), rtol=1e-5, atol=1e-4)
    shmem.free(heap)
    everything = np.zeros((n * 50, 333), np.float32)
    everything[me * 50 : (me + 1) * 50] = x
    quant.all_gather(everything[me * 50 : (me + 1) * 50], out=everything, min_bytes=0)
    assert np.array_equal(everything, quant.all_gather(x, min_bytes=0))


def test_unquantized_is_the_sum() -> None:
    for n in (10, 5000, 300_000):
        parts = np.stack([data(pe, (n,), np.float32, n) for pe in range(shmem.n_pes())])
        got = quant.all_reduce(parts[shmem.my_pe()], bits=32)
        np.testing.assert_allclose(got, parts.astype(np.float64).sum(axis=0), rtol=1e-5, atol=1e-4)
        same_everywhere(got)


def test_error_feedback_loses_nothing() -> None:
    """Over rounds what is delivered adds up to what was given, but for the last residuals."""
    me, n = shmem.my_pe(), shmem.n_pes()
    residual, delivered, given_ = np.zeros(3000, np.float32), np.zeros(3000), np.zeros(3000)
    without = np.zeros(3000)
    for round_ in range(20):
        x = data(me, (3000,), np.float32, round_, 2.0)
        delivered += quant.all_reduce(x, residual=residual, min_bytes=0)
        without += quant.all_reduce(x, min_bytes=0)
        given_ += exact((3000,), np.float32, round_, 2.0).sum(axis=0)
    left = shmem.array(residual.astype(np.float64))
    shmem.sum_reduce(left, left)
    np.testing.assert_allclose(delivered + left, given_, rtol=1e-4, atol=1e-2)
    shmem.free(left)
    if n > 1:
        assert np.square(delivered - given_).sum() < np.square(without - given_).sum() / 4


def test_nonfinite() -> None:
    x = np.ones(2000, np.float32)
    if shmem.my_pe() == 0:
        x[1500] = np.nan
    with pytest.raises(ValueError, match=r"is nan|PE 0 is in a call that it refused|is nan"):
        quant.all_reduce(x, min_bytes=0)
    shmem.barrier_all()
    got = quant.all_reduce(x, min_bytes=0, nonfinite="propagate")
    assert np.isnan(got[1500]) and np.isfinite(got[:1400]).all() and np.isfinite(got[1664:]).all()


def test_over_a_team() -> None:
    me, n = shmem.my_pe(), shmem.n_pes()
    evens = shmem.TEAM_WORLD.split_strided(0, 2, (n + 1) // 2)
    if me % 2 == 0:
        got = quant.all_reduce(np.full(5000, me + 1, np.float32), team=evens, min_bytes=0)
        np.testing.assert_allclose(got, sum(range(1, n + 1, 2)), rtol=1e-2)
        evens.destroy()
    shmem.barrier_all()


def test_refused_here() -> None:
    x = np.ones((6, 40), np.float32)
    for error, match, call in (
        (TypeError, "dtype float64", lambda: quant.all_reduce(x.astype(np.float64))),
        (TypeError, "x is list", lambda: quant.all_reduce([1.0])),
        (ValueError, "not contiguous", lambda: quant.all_reduce(x[:, ::2])),
        (ValueError, "bits is 4", lambda: quant.all_reduce(x, bits=4)),
        (ValueError, "bits is 16, it must be 8, or 32", lambda: quant.all_reduce(x, bits=16)),
        (ValueError, "group is 48", lambda: quant.all_gather(x, group=48)),
        (ValueError, "fmt is 'e5m2'", lambda: quant.all_to_all(x[:0], fmt="e5m2")),
        (ValueError, "op is 'max'", lambda: quant.all_reduce(x, op="max")),
        (ValueError, "nonfinite is 'saturate'", lambda: quant.broadcast(x, nonfinite="saturate")),
        (ValueError, "min_bytes is -1", lambda: quant.all_reduce(x, min_bytes=-1)),
        (ValueError, r"out must be \[6, 40\]", lambda: quant.all_reduce(x, out=x[:3])),
        (ValueError, "residual must be", lambda: quant.all_reduce(x, residual=x[:2])),
    ):
        with pytest.raises(error, match=match):
            call()
    frozen = np.ones(3, np.float32)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="out is read-only"):
        quant.all_reduce(x[0, :3], out=frozen)
    if shmem.n_pes() > 1:
        with pytest.raises(ValueError, match="does not divide"):
            quant.reduce_scatter(np.ones((shmem.n_pes() + 1, 2), np.float32))


@pytest.mark.npes(min=2)
def test_disagreement_is_an_error_everywhere() -> None:
    with pytest.raises(ValueError, match="group is"):
        quant.all_reduce(np.ones(5000, np.float32), group=64 if shmem.my_pe() else 32, min_bytes=0)
    with pytest.raises(ValueError, match="type"):
        quant.all_reduce(np.ones(5000, [np.float16, BFLOAT16][shmem.my_pe() == 0]), min_bytes=0)
    assert quant.all_reduce(np.ones(3, np.float32))[0] == shmem.n_pes()


def test_torch_tensors() -> None:
    torch = pytest.importorskip("torch")
    me, n = shmem.my_pe(), shmem.n_pes()
    x = data(me, (20, 100), np.float32, 5)
    expected = quant.all_reduce(x, min_bytes=0)
    t = torch.from_numpy(x.copy())
    got = quant.all_reduce(t, out=t, min_bytes=0)
    assert got is t and np.array_equal(t.numpy(), expected)
    half = quant.all_gather(torch.ones(10, 7, dtype=torch.bfloat16), min_bytes=0)
    assert half.dtype == torch.bfloat16 and half.shape == (10 * n, 7)
    assert (half - 1).abs().max() < 0.01


# ---- FP8 in the codec ------------------------------------------------------------------------------------


@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512", "neon"])
def test_e4m3_codes_are_those_of_ml_dtypes(isa: str) -> None:
    try:
        quant.set_int8_isa(isa)
    except NotImplementedError:
        pytest.skip(f"{isa} is not on this machine")
    try:
        every = np.arange(-448, 448, 1 / 512, dtype=np.float32)  # all values, all ties, all between
        x = np.full((-(-every.size // 31), 32), 448, np.float32)  # amax 448: the scale is 1
        x[:, :31].reshape(-1)[: every.size] = 0
        x[:, :31] = np.resize(every, (len(x), 31))
        rows = quant.quantize(x, "e4m3", 32)
        q, scales = quant.int8_view(rows, 32, 32)
        assert (scales == 1).all()
        assert np.array_equal(q.view(np.uint8), x.astype(ml_dtypes.float8_e4m3fn).view(np.uint8))
        back = quant.dequantize(rows, 32, "e4m3", 32)
        assert np.array_equal(back, x.astype(ml_dtypes.float8_e4m3fn).astype(np.float32))
    finally:
        quant.set_int8_isa("auto")


@REPEATABLE
@given(
    st.integers(1, 300),
    st.integers(-30, 30),
    st.sampled_from([0, 32, 64, 128]),
    st.sampled_from(DTYPES),
    st.integers(0, 2**32 - 1),
)
def test_e4m3_error(cols: int, exponent: int, group: int, dtype: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    with np.errstate(over="ignore"):
        x = (rng.standard_normal((3, cols)) * 10.0**exponent).astype(dtype)
    x = np.where(np.isfinite(x), x, 0).astype(dtype)
    rows = quant.quantize(x, "e4m3", group)
    wide = x.astype(np.float64)
    _, scales = quant.int8_view(rows, cols, group)
    scale = np.repeat(scales, group or cols, axis=1)[:, :cols].astype(np.float64)
    error = np.abs(quant.dequantize(rows, cols, "e4m3", group) - wide)
    assert (error <= np.maximum(np.abs(wide) / 16, scale * 2.0**-10) * 1.0001 + 2.0**-126).all()


def test_codec_propagates_nan() -> None:
    x = np.ones((2, 128), np.float32)
    x[1, 40] = np.inf
    for fmt in ("int8", "e4m3"):
        back = quant.dequantize(quant.quantize(x, fmt, 32, "propagate"), 128, fmt, 32)
        assert np.isnan(back[1, 32:64]).all()
        assert (
            np.isfinite(back[0]).all() and np.isfinite(back[1, :32]).all() and np.isfinite(back[1, 64:]).all()
        )
    with pytest.raises(ValueError, match="fmt is 'fp4'"):
        quant.quantize(x, "fp4")  # type: ignore[arg-type]
