"""INT8 records against plain NumPy bit for bit, FP8 casts, the accuracy table, the MoE reference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyshmem import _reference as plain
from pyshmem import quant

REPEATABLE = settings(derandomize=True, max_examples=80, deadline=None, database=None)
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
E4M3 = np.dtype(ml_dtypes.float8_e4m3fn)
GROUPS = [0, 32, 64, 128]


def matrices(min_cols: int = 1) -> st.SearchStrategy[np.ndarray]:
    """Matrices of many sizes and magnitudes, with zeros."""

    def make(rows: int, cols: int, exponent: int, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((rows, cols)) * 10.0**exponent
        return np.where(rng.random((rows, cols)) < 0.2, 0, x).astype(np.float32)

    return st.builds(
        make, st.integers(0, 5), st.integers(min_cols, 300), st.integers(-30, 30), st.integers(0, 2**32 - 1)
    )


@pytest.fixture(params=["portable", "avx2", "avx512", "neon"])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    try:
        quant.set_int8_isa(request.param)
    except NotImplementedError:
        pytest.skip(f"{request.param} is not on this machine")
    yield request.param
    quant.set_int8_isa("auto")


# ---- INT8 records -----------------------------------------------------------------------------------------


@REPEATABLE
@given(matrices(), st.sampled_from(GROUPS))
def test_records_are_the_plain_ones(x: np.ndarray, group: int) -> None:
    rows = quant.quantize_int8(x, group)
    q, scales = plain.int8_quantize(x, group)
    assert rows.shape == (len(x), quant.int8_row_bytes(x.shape[1], group))
    assert np.array_equal(rows, plain.int8_pack(q, scales, group))
    got_q, got_scales = quant.int8_view(rows, x.shape[1], group)
    assert np.array_equal(got_q, q)
    assert np.array_equal(got_scales, scales)
    assert np.array_equal(
        quant.dequantize_int8(rows, x.shape[1], group), plain.int8_dequantize(q, scales, group)
    )


@REPEATABLE
@given(matrices(), st.sampled_from(GROUPS))
def test_error_is_half_a_scale(x: np.ndarray, group: int) -> None:
    rows = quant.quantize_int8(x, group)
    _, scales = quant.int8_view(rows, x.shape[1], group)
    wide = np.repeat(scales, group or x.shape[1], axis=1)[:, : x.shape[1]].astype(np.float64)
    error = np.abs(quant.dequantize_int8(rows, x.shape[1], group).astype(np.float64) - x)
    # rint of a product that was rounded, then a product: 127 * 2^-23 of a scale; 2^-127 where scale is held.
    assert (error <= wide * 0.50002 + 2.0**-126).all()


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, BFLOAT16])
def test_every_isa_and_type(isa: str, dtype: Any, group: int) -> None:
    assert quant.int8_isa() == isa
    x = (np.random.default_rng(0).standard_normal((6, 333)) * 3).astype(dtype)
    rows = quant.quantize_int8(x, group)
    q, scales = plain.int8_quantize(x, group)
    assert np.array_equal(rows, plain.int8_pack(q, scales, group))
    back = quant.dequantize_int8(rows, 333, group, dtype)
    assert back.dtype == dtype
    assert np.array_equal(back, plain.int8_dequantize(q, scales, group).astype(dtype))


def test_row_bytes() -> None:
    assert quant.int8_row_bytes(7168) == 7168 + 56 * 4
    assert quant.int8_row_bytes(7168, 32) == 7168 + 224 * 4
    assert quant.int8_row_bytes(7168, 0) == 7168 + 16
    assert quant.int8_row_bytes(1) == 16
    assert quant.int8_row_bytes(129, 128) == 144  # 132 + 8, padded


@REPEATABLE
@given(st.integers(1, 5000), st.sampled_from(GROUPS))
def test_row_bytes_is_the_plain_one(cols: int, group: int) -> None:
    assert quant.int8_row_bytes(cols, group) == plain.int8_row_bytes(cols, group)


def test_nonfinite_error_names_the_place() -> None:
    for bad, text in ((np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf")):
        x = np.ones((4, 200), np.float32)
        x[2, 150] = bad
        with pytest.raises(ValueError, match=rf"x\[2\]\[150\] is {text}"):
            quant.quantize_int8(x)


def test_nonfinite_saturates() -> None:
    x = np.zeros((3, 64), np.float32)
    x[0, :5] = [2, np.nan, np.inf, -np.inf, -1]
    x[1, 3] = np.inf
    x[2] = np.nan
    rows = quant.quantize_int8(x, 32, nonfinite="saturate")
    q, scales = quant.int8_view(rows, 64, 32)
    assert q[0, :5].tolist() == [127, 0, 127, -127, -64]
    assert not q[1:].any()
    assert not scales[1:].any()
    assert np.array_equal(rows, plain.int8_pack(*plain.int8_quantize(x, 32), 32))


def test_strided_input_and_output() -> None:
    base = np.random.default_rng(1).standard_normal((8, 300)).astype(np.float32)
    expected = quant.quantize_int8(base[::2, :200].copy(), 64)
    assert np.array_equal(quant.quantize_int8(base[::2, :200], 64), expected)
    assert np.array_equal(quant.quantize_int8(np.asfortranarray(base[::2, :200]), 64), expected)
    assert np.array_equal(
        quant.quantize_int8(base[::-2, :200][::-1], 64), quant.quantize_int8(base[1::2, :200], 64)
    )
    same = np.broadcast_to(base[0], (3, 300))
    assert np.array_equal(quant.quantize_int8(same), np.repeat(quant.quantize_int8(base[:1]), 3, axis=0))
    room = np.full((8, expected.shape[1] + 5), 77, np.uint8)
    out = room[::2, 3:-2]
    assert quant.quantize_int8(base[::2, :200], 64, out=out) is out
    assert np.array_equal(out, expected)
    assert (room[1::2] == 77).all()
    assert (room[:, :3] == 77).all()
    wide = np.full((4, 210), 5, np.float32)
    assert np.array_equal(
        quant.dequantize_int8(out, 200, 64, out=wide[:, 10:]), quant.dequantize_int8(expected, 200, 64)
    )
    assert (wide[:, :10] == 5).all()


def test_add_is_weighted_float32() -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((5, 130)).astype(np.float32)
    acc = rng.standard_normal((5, 130)).astype(np.float32)
    rows = quant.quantize_int8(x)
    expected = acc + np.float32(0.3) * quant.dequantize_int8(rows, 130)
    quant.dequantize_int8_add(acc, rows, weight=0.3)
    assert np.array_equal(acc, expected)


def test_no_rows() -> None:
    rows = quant.quantize_int8(np.empty((0, 100), np.float32))
    assert rows.shape == (0, quant.int8_row_bytes(100))
    assert quant.dequantize_int8(rows, 100).shape == (0, 100)
    assert quant.int8_view(rows, 100)[1].shape == (0, 1)


def test_view_is_a_view() -> None:
    rows = quant.quantize_int8(np.ones((2, 128), np.float32))
    _, scales = quant.int8_view(rows, 128)
    scales *= 2
    assert (quant.dequantize_int8(rows, 128) == 2).all()


@pytest.mark.parametrize(("cols", "group"), [(0, 128), (-1, 128), (8, 16), (8, -1), (8, 256)])
def test_bad_row_bytes(cols: int, group: int) -> None:
    with pytest.raises(ValueError, match=f"cols is {cols}, group is {group}"):
        quant.int8_row_bytes(cols, group)


def test_bad_quantize() -> None:
    x = np.ones((2, 128), np.float32)
    with pytest.raises(TypeError, match="x must be float32, float16 or bfloat16, got float64"):
        quant.quantize_int8(x.astype(np.float64))
    with pytest.raises(ValueError, match=r"x must have the shape \[rows, cols\], got \[128\]"):
        quant.quantize_int8(x[0])
    with pytest.raises(ValueError, match="group is 48"):
        quant.quantize_int8(x, 48)
    with pytest.raises(ValueError, match="cols is 0"):
        quant.quantize_int8(x[:, :0])
    with pytest.raises(ValueError, match="nonfinite is 'ignore'"):
        quant.quantize_int8(x, nonfinite="ignore")  # type: ignore[arg-type]


def test_bad_out() -> None:
    x = np.ones((2, 128), np.float32)
    width = quant.int8_row_bytes(128)
    out = np.full((2, width), 7, np.uint8)
    for wrong, message in (
        (
            np.full((3, width), 7, np.uint8),
            rf"out must be \[2, {width}\] of uint8, got \[3, {width}\] of uint8",
        ),
        (np.full((2, width), 7, np.int8), "of int8"),
        ([1, 2], "got list"),
        (np.full((width, 2), 7, np.uint8).T, "out must have its rows contiguous"),
        (np.broadcast_to(np.full(width, 7, np.uint8), (2, width)), "out must have its rows contiguous"),
    ):
        with pytest.raises(ValueError, match=message):
            quant.quantize_int8(x, out=wrong)  # type: ignore[arg-type]
        assert np.isin(wrong, [1, 2, 7]).all()
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out is read-only"):
        quant.quantize_int8(x, out=out)
    assert (out == 7).all()
    raw = np.ones((4, 512), np.uint8)
    with pytest.raises(ValueError, match="out shares memory with the input"):
        quant.quantize_int8(raw[:2].view(np.float32), out=raw[1:3, :width])


def test_bad_dequantize() -> None:
    rows = quant.quantize_int8(np.ones((2, 128), np.float32))
    with pytest.raises(ValueError, match=r"rows must have the shape \[rows, 144\], got \[2, 128\]"):
        quant.dequantize_int8(rows[:, :128], 128)
    with pytest.raises(ValueError, match=r"rows must have the shape \[rows, 272\], got \[2, 144\]"):
        quant.dequantize_int8(rows, 256)
    with pytest.raises(TypeError, match="rows must be uint8 records, got int8"):
        quant.dequantize_int8(rows.view(np.int8), 128)
    with pytest.raises(TypeError, match="dtype must be float32, float16 or bfloat16, got int32"):
        quant.dequantize_int8(rows, 128, dtype=np.int32)
    with pytest.raises(ValueError, match=r"out must be \[2, 128\] of float32, got \[2, 127\] of float32"):
        quant.dequantize_int8(rows, 128, out=np.empty((2, 127), np.float32))
    with pytest.raises(ValueError, match=r"acc must be \[2, 128\] of float32, got \[2, 128\] of float64"):
        quant.dequantize_int8_add(np.zeros((2, 128)), rows)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"rows must have the shape \[rows, 144\]"):
        quant.int8_view(rows[:, :100], 128)
    with pytest.raises(TypeError, match="array of uint8 records, got list"):
        quant.int8_view([[1]], 128)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sse9"):
        quant.set_int8_isa("sse9")


# ---- FP8 and INT8 with separate scales --------------------------------------------------------------------


@REPEATABLE
@given(matrices(0), st.sampled_from(["e4m3", "int8"]), st.sampled_from([0, 1, 48, 128]), st.booleans())
def test_cast_comes_back(x: np.ndarray, fmt: Any, group: int, round_scale: bool) -> None:
    q, scales = quant.per_token_cast(x, fmt, group, round_scale=round_scale)
    rows, cols = x.shape
    size = group or max(cols, 1)
    assert q.dtype == (E4M3 if fmt == "e4m3" else np.int8)
    assert q.shape == x.shape
    assert scales.dtype == np.float32
    assert scales.shape == (rows, -(-cols // size))
    for g in range(scales.shape[1]):
        part = x[:, g * size : (g + 1) * size]
        amax = np.maximum(np.abs(part).max(axis=1, initial=0), np.float32(1e-4)).astype(np.float64)
        exact = amax / (448 if fmt == "e4m3" else 127)
        if round_scale:
            assert (np.frexp(scales[:, g])[0] == 0.5).all()
            assert (scales[:, g] >= exact * (1 - 2e-7)).all()
            assert (scales[:, g] < exact * 2).all()
        else:
            np.testing.assert_allclose(scales[:, g], exact, rtol=2e-7)
    back = quant.per_token_cast_back(q, scales, np.float64, group)
    wide = np.repeat(scales, size, axis=1)[:, :cols].astype(np.float64)
    # e4m3 has 3 bits behind the one: half a step is 2^-4 of the value, and 2^-10 scales among subnormals.
    bound = np.maximum(np.abs(x) * 2.0**-4, wide * 2.0**-10) if fmt == "e4m3" else wide / 2
    assert (np.abs(back - x) <= bound * 1.0001).all()


def test_cast_of_powers_of_two_is_exact() -> None:
    x = np.float32([[448, 2.0, -0.5, 0]])
    for round_scale in (False, True):
        q, scales = quant.per_token_cast(x, round_scale=round_scale)
        assert scales.tolist() == [[1.0]]
        assert q.astype(np.float32).tolist() == x.tolist()
    assert quant.per_token_cast(np.float32([[449]]), round_scale=True)[1].tolist() == [[2.0]]


def test_cast_of_zeros_uses_the_smallest_amax() -> None:
    q, scales = quant.per_token_cast(np.zeros((2, 130), np.float32))
    assert (scales == np.float32(1e-4) / np.float32(448)).all()
    assert not q.astype(np.float32).any()


def test_cast_of_extremes() -> None:
    x = np.full((1, 128), np.finfo(np.float32).max)
    assert (quant.per_token_cast(x)[0].astype(np.float32) == 448).all()
    assert (quant.per_token_cast(-x, "int8")[0] == -127).all()


@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16, np.float32, np.float64])
def test_cast_of_any_float(dtype: Any) -> None:
    x = np.random.default_rng(3).standard_normal((3, 200)).astype(dtype)
    q, scales = quant.per_token_cast(x)
    expected = quant.per_token_cast(x.astype(np.float32))
    assert np.array_equal(q.view(np.uint8), expected[0].view(np.uint8))
    assert np.array_equal(scales, expected[1])
    back = quant.per_token_cast_back(q, scales, dtype)
    assert back.dtype == dtype
    assert quant.sqnr_db(x, back) > 29


def test_cast_nonfinite() -> None:
    x = np.zeros((2, 200), np.float32)
    x[1, 130:134] = [np.nan, np.inf, -np.inf, 3]
    with pytest.raises(ValueError, match=r"x\[1, 130\] is nan"):
        quant.per_token_cast(x)
    back = quant.per_token_cast_back(*quant.per_token_cast(x, nonfinite="saturate"))
    np.testing.assert_allclose(back[1, 130:134], [0, 3, -3, 3], rtol=1e-6)
    with pytest.raises(ValueError, match=r"x\[0, 1\] is 1e\+300"):
        quant.per_token_cast(np.array([[0, 1e300]]))


def test_bad_cast() -> None:
    x = np.ones((2, 256), np.float32)
    with pytest.raises(ValueError, match="fmt is 'e5m2'"):
        quant.per_token_cast(x, "e5m2")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="nonfinite is ''"):
        quant.per_token_cast(x, nonfinite="")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="group is -1"):
        quant.per_token_cast(x, group=-1)
    with pytest.raises(TypeError, match="dtype int64"):
        quant.per_token_cast(x.astype(np.int64))
    with pytest.raises(ValueError, match=r"got \[256\]"):
        quant.per_token_cast(x[0])
    q, scales = quant.per_token_cast(x)
    with pytest.raises(ValueError, match=r"scales must have the shape \[2, 2\] \(group 128\), got \[2, 1\]"):
        quant.per_token_cast_back(q, scales[:, :1])
    with pytest.raises(TypeError, match="float8_e4m3fn or int8, got uint8"):
        quant.per_token_cast_back(q.view(np.uint8), scales)


# ---- accuracy ---------------------------------------------------------------------------------------------

DATA = {
    "gaussian": lambda r: r.standard_normal((256, 7168)),
    "laplace": lambda r: r.laplace(size=(256, 7168)),
    "student": lambda r: r.standard_t(3, size=(256, 7168)),
    "outliers": lambda r: (
        r.standard_normal((256, 7168)) * np.where(np.isin(np.arange(7168), r.choice(7168, 8, False)), 50, 1)
    ),
}
# SQNR in dB: INT8 a row, INT8 in groups of 128, of 32, FP8 e4m3 in groups of 128. Student-t(3) has no fourth
# moment, so its figures, and those of a whole row, spread from seed to seed.
TABLE = {
    "gaussian": (40.8, 43.5, 45.0, 31.8),
    "laplace": (36.3, 40.8, 43.2, 32.1),
    "student": (25.3, 37.1, 41.3, 33.1),
    "outliers": (19.2, 33.2, 39.2, 37.1),
}


@pytest.mark.parametrize("data", DATA)
def test_accuracy_table(data: str) -> None:
    x = DATA[data](np.random.default_rng(4)).astype(np.float32)

    def int8(group: int) -> np.ndarray:
        return quant.dequantize_int8(quant.quantize_int8(x, group), 7168, group)

    fp8 = quant.per_token_cast_back(*quant.per_token_cast(x))
    got = [quant.sqnr_db(x, y) for y in (int8(0), int8(128), int8(32), fp8)]
    np.testing.assert_allclose(got, TABLE[data], atol=1.5 if data == "student" else 0.6)
    if data == "outliers":
        assert got[3] > got[1] + 2  # a large channel takes INT8's steps from its neighbours; FP8 keeps them
    else:
        assert got[1] > got[3] + 3
    assert got[0] < got[1] < got[2]
    assert quant.row_cosine(x, int8(128)).min() > 0.999


def test_separate_int8_scales_are_as_good_as_records() -> None:
    x = np.random.default_rng(5).standard_normal((64, 1024)).astype(np.float32)
    a = quant.sqnr_db(x, quant.per_token_cast_back(*quant.per_token_cast(x, "int8")))
    b = quant.sqnr_db(x, quant.dequantize_int8(quant.quantize_int8(x), 1024))
    assert a == pytest.approx(b, abs=0.01)


def test_metrics_by_hand() -> None:
    assert quant.sqnr_db([3.0, 4.0], [3.0, 3.5]) == pytest.approx(20.0)
    assert quant.sqnr_db([1.0], [1.0]) == np.inf
    assert quant.sqnr_db([0.0], [1.0]) == -np.inf
    cosine = quant.row_cosine([[1, 0], [1e200, 0], [0, 0], [0, 0]], [[1, 1], [1e-200, 0], [0, 0], [1, 0]])
    np.testing.assert_allclose(cosine, [0.5**0.5, 1, 1, 0])
    assert quant.calc_diff([0.0, 1.0], [1.0, 1.0]) == pytest.approx(1 - 2 * (2 + 4) / (1 + 4 + 4 + 4))
    for metric in (quant.sqnr_db, quant.row_cosine, quant.calc_diff):
        with pytest.raises(ValueError, match=r"ref has the shape \[2, 1\], got has \[1, 2\]"):
            metric(np.ones((2, 1)), np.ones((1, 2)))


def test_calc_diff_hides_what_sqnr_shows() -> None:
    x = np.random.default_rng(6).standard_normal((16, 512)) * 0.01
    assert quant.calc_diff(x, np.zeros_like(x)) < 1e-4  # everything lost, and it passes a limit of 1e-3
    assert quant.sqnr_db(x, np.zeros_like(x)) == pytest.approx(0)
    assert (quant.row_cosine(x, np.zeros_like(x)) == 0).all()


# ---- the plain MoE reference ------------------------------------------------------------------------------


@st.composite
def routings(draw: st.DrawFn) -> dict[str, Any]:
    ranks, experts, k = draw(st.integers(1, 5)), draw(st.integers(1, 11)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    tokens = [int(t) for t in rng.integers(0, 9, ranks)]
    return {
        "experts": experts,
        "xs": [rng.integers(-8, 9, (t, 3)).astype(np.float32) for t in tokens],
        "topk_idx": [rng.integers(-1, experts, (t, k)) for t in tokens],
        "topk_weights": [rng.integers(0, 5, (t, k)).astype(np.float32) / 4 for t in tokens],
    }


def test_experts_are_spread_in_blocks() -> None:
    assert plain.expert_starts(8, 4).tolist() == [0, 2, 4, 6, 8]
    assert plain.expert_owner(7, 3).tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert plain.expert_owner(2, 4).tolist() == [0, 1]


@REPEATABLE
@given(routings())
def test_reference_dispatch_token_by_token(case: dict[str, Any]) -> None:
    experts, ranks = case["experts"], len(case["xs"])
    owner, starts = plain.expert_owner(experts, ranks), plain.expert_starts(experts, ranks)
    received = plain.dispatch(**case)
    for here, got in enumerate(received):
        expected = []
        for source in range(ranks):
            for t, choices in enumerate(case["topk_idx"][source]):
                mine = [e >= 0 and owner[e] == here for e in choices]
                if any(mine):
                    ids = [int(e - starts[here]) if m else -1 for e, m in zip(choices, mine, strict=True)]
                    w = [
                        float(v) if m else 0.0
                        for v, m in zip(case["topk_weights"][source][t], mine, strict=True)
                    ]
                    expected.append((source, t, case["xs"][source][t].tolist(), ids, w))
        columns = (got.source_rank, got.source_token, got.x, got.topk_idx, got.topk_weights)
        assert list(zip(*(c.tolist() for c in columns), strict=True)) == expected
        held = got.topk_idx[got.topk_idx >= 0]
        assert got.tokens_per_expert.tolist() == [
            int((held == e).sum()) for e in range(np.diff(starts)[here])
        ]
        assert got.tokens_per_source.tolist() == [sum(e[0] == r for e in expected) for r in range(ranks)]


@REPEATABLE
@given(routings())
def test_reference_layout_is_what_dispatch_sends(case: dict[str, Any]) -> None:
    ranks = len(case["xs"])
    received = plain.dispatch(**case)
    layouts = [plain.layout(i, case["experts"], ranks) for i in case["topk_idx"]]
    for source, here in enumerate(layouts):
        assert here.num_tokens_per_rank.dtype == here.num_tokens_per_expert.dtype == np.int32
        assert here.num_tokens_per_rank.tolist() == [int(r.tokens_per_source[source]) for r in received]
        assert here.num_tokens_per_rank.tolist() == here.is_token_in_rank.sum(axis=0).tolist()
        for rank, got in enumerate(received):
            sent = np.flatnonzero(here.is_token_in_rank[:, rank])
            assert sent.tolist() == got.source_token[got.source_rank == source].tolist()
    total = np.sum([i.num_tokens_per_expert for i in layouts], axis=0)
    assert total.tolist() == np.concatenate([r.tokens_per_expert for r in received]).tolist()


@REPEATABLE
@given(routings())
def test_reference_combine_is_the_dense_sum(case: dict[str, Any]) -> None:
    """Expert e multiplies by e + 1: small integers and quarters, so that float32 sums are exact."""
    experts, ranks = case["experts"], len(case["xs"])
    received = plain.dispatch(**case)
    starts = plain.expert_starts(experts, ranks)
    tokens = [len(x) for x in case["xs"]]
    choice = [r.x[:, None, :] * (r.topk_idx + starts[i] + 1)[:, :, None] for i, r in enumerate(received)]
    by_hand = [(c * r.topk_weights[:, :, None]).sum(axis=1) for c, r in zip(choice, received, strict=True)]
    for x, idx, w, a, b, plain_sum, copies in zip(
        case["xs"],
        case["topk_idx"],
        case["topk_weights"],
        plain.combine(choice, received, tokens, weighted=True),
        plain.combine(by_hand, received, tokens),
        plain.combine([r.x for r in received], received, tokens, weighted=True),
        plain.combine([r.x for r in received], received, tokens),
        strict=True,
    ):
        kept = np.where(idx >= 0, w, 0)
        assert a.dtype == np.float32
        assert np.array_equal(a, (kept * (idx + 1)).sum(axis=1)[:, None] * x)
        assert np.array_equal(b, a)
        assert np.array_equal(plain_sum, kept.sum(axis=1)[:, None] * x)
        sent = plain.layout(idx, experts, ranks).is_token_in_rank.sum(axis=1)
        assert np.array_equal(copies, sent[:, None] * x)


def test_reference_refuses_bad_routing() -> None:
    with pytest.raises(ValueError, match=r"topk_idx\[0, 1\] is 4, not -1 or an expert in \[0, 4\)"):
        plain.layout([[0, 4]], 4, 2)
    with pytest.raises(ValueError, match=r"topk_idx\[0, 0\] is -2"):
        plain.layout([[-2]], 4, 2)
    with pytest.raises(ValueError, match="rank 0: x"):
        plain.dispatch([np.ones((2, 3))], [[[0]]], [[[1.0]]], 4)
