"""The gate: selection against a plain sort, gradients against numerical differences, balance, bad input."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyshmem import router
from pyshmem.router import Router

REPEATABLE = settings(derandomize=True, max_examples=60, deadline=None, database=None)


@st.composite
def gates(draw: st.DrawFn) -> dict[str, Any]:
    """Affinities with many ties, a k and groups that fit."""
    groups = draw(st.sampled_from([1, 2, 3, 4, 8]))
    size = draw(st.integers(1, 6))
    kept = draw(st.integers(1, groups))
    tokens = draw(st.integers(0, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return {
        "s": (rng.integers(0, 7, (tokens, groups * size)) / 8).astype(np.float32),
        "bias": (rng.integers(-4, 5, groups * size) / 8).astype(np.float32),
        "k": draw(st.integers(1, kept * size)),
        "n_group": groups,
        "topk_group": kept,
        "group_top": draw(st.integers(1, size)),
    }


def plain_select(
    s: np.ndarray, bias: np.ndarray, k: int, n_group: int, topk_group: int, group_top: int
) -> list[list[int]]:
    size = s.shape[1] // n_group
    chosen = []
    for row in s + bias:
        value = [sum(sorted(row[g * size : (g + 1) * size])[-group_top:]) for g in range(n_group)]
        best = sorted(range(n_group), key=lambda g: (-value[g], g))[:topk_group]
        allowed = [e for e in range(len(row)) if e // size in best]
        chosen.append(sorted(allowed, key=lambda e: (-row[e], e))[:k])
    return chosen


@REPEATABLE
@given(gates())
def test_select_is_the_plain_sort(case: dict[str, Any]) -> None:
    got = router.select(**case)
    assert got.dtype == np.int64
    assert got.shape == (len(case["s"]), case["k"])
    assert got.tolist() == plain_select(**case)


def test_many_choices_take_the_same_order_as_few() -> None:
    s = (np.random.default_rng(0).integers(0, 9, (5, 80)) / 8).astype(np.float32)
    assert router.select(s, 70)[:, :32].tolist() == router.select(s, 32).tolist()


def test_ties_go_to_the_lower_id() -> None:
    assert router.select(np.zeros((2, 6), np.float32), 3).tolist() == [[0, 1, 2]] * 2
    assert router.select(np.float32([[-0.0, 0.0, 0.0]]), 2).tolist() == [[0, 1]]
    groups = router.select(np.zeros((1, 6), np.float32), 2, n_group=3, topk_group=1, group_top=1)
    assert groups.tolist() == [[0, 1]]


@REPEATABLE
@given(gates())
def test_limited_tokens_touch_few_groups(case: dict[str, Any]) -> None:
    size = case["s"].shape[1] // case["n_group"]
    for row in router.select(**case) // size:
        assert len(set(row.tolist())) <= case["topk_group"]


def test_group_score_is_top_two_sum_or_maximum() -> None:
    s = np.float32([[0.9, 0.1, 0.0, 0.6, 0.5, 0.0]])  # sums of two 1.0 and 1.1, maxima 0.9 and 0.6
    assert router.group_scores(s, 2, 2).tolist() == [[np.float32(1.0), np.float32(1.1)]]
    assert router.select(s, 2, n_group=2, topk_group=1, group_top=2).tolist() == [[3, 4]]
    assert router.select(s, 2, n_group=2, topk_group=1, group_top=1).tolist() == [[0, 1]]


def test_published_gates() -> None:
    v3 = Router.node_limited(256, 8, nodes=8, max_nodes=4, scale=2.5)
    assert (v3.score, v3.n_group, v3.topk_group, v3.group_top, v3.normalize) == ("sigmoid", 8, 4, 2, True)
    v2 = Router.device_limited(160, 6, devices=8, max_devices=3, scale=16.0)
    assert (v2.score, v2.n_group, v2.topk_group, v2.group_top, v2.normalize) == ("softmax", 8, 3, 1, False)
    logits = np.random.default_rng(1).standard_normal((64, 256)).astype(np.float32)
    gate = v3(logits)
    assert max(len(set(r)) for r in (gate.idx // 32).tolist()) <= 4
    np.testing.assert_allclose(gate.weights.sum(axis=1), 2.5, rtol=1e-6)
    gate = v2(logits[:, :160])
    np.testing.assert_allclose(gate.weights, np.take_along_axis(gate.scores, gate.idx, 1) * 16, rtol=1e-6)


@pytest.mark.parametrize("function", ["softmax", "sigmoid"])
def test_scores_of_extreme_logits(function: Any) -> None:
    s = router.scores(np.float32([[3e38, -3e38, 0.0], [-90, -90, -90]]), function)
    assert s.dtype == np.float32
    assert np.isfinite(s).all() and (s >= 0).all() and (s <= 1).all()
    if function == "softmax":
        np.testing.assert_allclose(s, [[1, 0, 0], [1 / 3] * 3], rtol=1e-6)
    else:
        np.testing.assert_allclose(s, [[1, 0, 0.5], [np.exp(-90.0)] * 3], rtol=1e-6)


def test_weights_of_vanishing_affinities_are_finite() -> None:
    gate = Router(4, 2, score="sigmoid")(np.full((3, 4), -1e4, np.float32))
    assert gate.weights.tolist() == [[0, 0]] * 3


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_any_float_gives_float32_weights(dtype: Any) -> None:
    logits = np.random.default_rng(2).standard_normal((7, 8)).astype(dtype)
    gate = Router(8, 2)(logits)
    assert gate.idx.dtype == np.int64 and gate.weights.dtype == np.float32
    assert gate.scores.dtype == (np.float64 if dtype is np.float64 else np.float32)
    assert gate.idx.tolist() == Router(8, 2)(logits.astype(np.float32)).idx.tolist()


def test_no_tokens() -> None:
    r = Router(8, 2, capacity_factor=1.0)
    gate = r(np.empty((0, 8), np.float32))
    assert gate.idx.shape == gate.weights.shape == (0, 2)
    assert r.backward(gate, np.empty((0, 2), np.float32)).shape == (0, 8)
    assert r.balance_loss(gate)[0] == 0.0
    assert router.load_counts(gate.idx, 8).tolist() == [0] * 8


# ---- gradients --------------------------------------------------------------------------------------------


def numerical(f: Any, x: np.ndarray, h: float = 1e-6) -> np.ndarray:
    grad = np.empty_like(x)
    for i in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[i] += h
        down[i] -= h
        grad[i] = (f(up) - f(down)) / (2 * h)
    return grad


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
@pytest.mark.parametrize("factor", [None, 0.75])
def test_gate_gradient(score: Any, normalize: bool, factor: float | None) -> None:
    rng = np.random.default_rng(3)
    logits = rng.standard_normal((6, 8))
    r = Router(
        8, 3, score=score, n_group=4, topk_group=2, normalize=normalize, scale=2.5, capacity_factor=factor
    )
    r.bias = rng.standard_normal(8) * 0.1
    gate = r(logits)
    assert (gate.idx < 0).any() == (factor is not None)
    outer = rng.standard_normal((6, 3))

    def loss(x: np.ndarray) -> float:  # in float64 throughout, the choices held
        s = router.scores(x, score)
        w = router.topk_weights(s, gate.selected, normalize=normalize, scale=2.5)
        return float((outer * np.where(gate.idx >= 0, w, 0)).sum())

    np.testing.assert_allclose(r.backward(gate, outer), numerical(loss, logits), atol=1e-8)


@pytest.mark.parametrize("normalize", [True, False])
def test_weight_gradient_with_dropped_choices(normalize: bool) -> None:
    rng = np.random.default_rng(4)
    s = rng.random((3, 5)) + 0.1
    idx = np.array([[0, -1, 3], [-1, -1, -1], [4, 2, -1]])
    outer = rng.standard_normal((3, 3))

    def loss(x: np.ndarray) -> float:
        return float((outer * router.topk_weights(x, idx, normalize=normalize)).sum())

    got = router.topk_weights_backward(outer, s, idx, normalize=normalize)
    np.testing.assert_allclose(got, numerical(loss, s), atol=1e-8)
    assert not got[1].any()


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
@pytest.mark.parametrize("lengths", [None, [4, 1, 5]])
def test_balance_loss_gradient(score: Any, lengths: list[int] | None) -> None:
    logits = np.random.default_rng(5).standard_normal((10, 6))
    r = Router(6, 2, score=score)
    gate = r(logits)

    def loss(x: np.ndarray) -> float:
        s = router.scores(x, score)
        return router.sequence_balance_loss(s, 2, idx=gate.selected, lengths=lengths, alpha=0.3)[0]

    value, grad = r.balance_loss(gate, alpha=0.3, lengths=lengths)
    assert value == pytest.approx(loss(logits), rel=1e-12)
    np.testing.assert_allclose(grad, numerical(loss, logits), atol=1e-8)


# ---- balance ----------------------------------------------------------------------------------------------


def test_balance_loss_by_the_formula() -> None:
    s = np.random.default_rng(6).random((9, 4)).astype(np.float32)
    expected = 0.0
    for part in (s[:3], s[3:]):
        n = len(part)
        chosen = [set(np.argsort(-row)[:2].tolist()) for row in part]
        f = [4 / (2 * n) * sum(e in c for c in chosen) for e in range(4)]
        p = [sum(row[e] / row.sum() for row in part) / n for e in range(4)]
        expected += 0.5 * sum(a * b for a, b in zip(f, p, strict=True)) / 2
    got, _ = router.sequence_balance_loss(s, 2, lengths=[3, 6], alpha=0.5)
    assert got == pytest.approx(expected, rel=1e-6)


def test_balance_loss_bounds() -> None:
    even, _ = router.sequence_balance_loss(np.full((8, 4), 0.5), 2, alpha=1.0)
    assert even == pytest.approx(1.0)
    one = np.zeros((8, 4))
    one[:, 2] = 1
    worst, _ = router.sequence_balance_loss(one, 1, alpha=1.0)
    assert worst == pytest.approx(4.0)


def test_balance_loss_counts_plain_topk_whatever_the_bias() -> None:
    logits = np.random.default_rng(7).standard_normal((16, 8)).astype(np.float32)
    r = Router(8, 2, score="sigmoid")
    before = r.balance_loss(r(logits))[0]
    r.bias = np.float32([9, 9, 0, 0, 0, 0, 0, 0])
    assert set(r(logits).idx.ravel().tolist()) == {0, 1}
    assert r.balance_loss(r(logits))[0] == before


def test_bias_selects_but_does_not_weigh() -> None:
    logits = np.float32([[3, 2, 1, 0]])
    r = Router(4, 2, score="sigmoid", normalize=False)
    r.bias = [0, 0, 0, 5]
    gate = r(logits)
    assert gate.idx.tolist() == [[3, 0]]
    np.testing.assert_allclose(gate.weights, [[0.5, 1 / (1 + np.exp(-3.0))]], rtol=1e-6)


def test_update_bias_moves_towards_balance() -> None:
    got = router.update_bias(np.zeros(4), [4, 0, 2, 2], 0.25)
    assert got.tolist() == [-0.25, 0.25, 0, 0] and got.dtype == np.float32
    # A mean that is no integer: 7 / 3 lies between 2 and 3.
    assert router.update_bias(np.zeros(3), [2, 2, 3], 1.0).tolist() == [1, 1, -1]
    rng = np.random.default_rng(8)
    skew = np.linspace(1.5, -1.5, 16).astype(np.float32)
    r = Router(16, 2, score="sigmoid")
    worst = []
    for _ in range(200):
        gate = r((rng.standard_normal((512, 16)) + skew).astype(np.float32))
        counts = router.load_counts(gate.idx, 16)
        worst.append(router.max_violation(counts))
        r.update_bias(counts, 0.01)
    assert worst[0] > 1.5
    assert np.mean(worst[-20:]) < 0.4


def test_counts_and_max_violation() -> None:
    counts = router.load_counts([[0, 1], [1, -1], [1, 3]], 4)
    assert counts.tolist() == [1, 3, 0, 1] and counts.dtype == np.int64
    assert router.max_violation(counts) == pytest.approx(3 / 1.25 - 1)
    assert router.max_violation([5, 5]) == 0.0
    assert router.max_violation([0, 0]) == 0.0


def test_bias_is_read_only_and_copied() -> None:
    r = Router(2, 1)
    mine = np.float32([1, 2])
    r.bias = mine
    mine[0] = 9
    assert r.bias.tolist() == [1, 2]
    with pytest.raises(ValueError, match="read-only"):
        r.bias[0] = 3


# ---- capacity ---------------------------------------------------------------------------------------------


def plain_drop(idx: np.ndarray, weights: np.ndarray, limit: int, order: str) -> list[list[int]]:
    entries = [(j, t) for j in range(idx.shape[1]) for t in range(len(idx)) if idx[t, j] >= 0]
    if order == "weight":
        entries.sort(key=lambda e: -weights[e[1], e[0]])
    used: dict[int, int] = {}
    kept = np.full(idx.shape, -1)
    for j, t in entries:
        expert = int(idx[t, j])
        used[expert] = used.get(expert, 0) + 1
        if used[expert] <= limit:
            kept[t, j] = expert
    return kept.tolist()


@REPEATABLE
@given(
    tokens=st.integers(0, 12),
    k=st.integers(1, 4),
    limit=st.integers(0, 6),
    order=st.sampled_from(["position", "weight"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_capacity_drops_in_the_documented_order(
    tokens: int, k: int, limit: int, order: Any, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    idx = rng.integers(-1, 5, (tokens, k))
    weights = np.where(idx >= 0, rng.integers(1, 4, (tokens, k)) / 4, 0).astype(np.float32)
    before = idx.copy(), weights.copy()
    got, w = router.drop_over_capacity(idx, weights, 5, limit, order)
    assert got.tolist() == plain_drop(idx, weights, limit, order)
    assert np.array_equal(w, np.where(got >= 0, weights, 0))
    assert router.load_counts(got, 5).max(initial=0) <= limit
    assert np.array_equal(idx, before[0]) and np.array_equal(weights, before[1])


def test_router_drops() -> None:
    gate = Router(4, 1, capacity_factor=1.0)(np.float32([[1, 0, 0, 0]] * 8))
    assert gate.idx.tolist() == [[0], [0]] + [[-1]] * 6
    assert gate.weights.tolist() == [[1], [1]] + [[0]] * 6
    assert gate.selected.tolist() == [[0]] * 8
    assert router.capacity(10, 2, 8, 1.25) == 4


# ---- bad input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((4, 5), {}, "k is 5, it must be between 1 and experts = 4"),
        ((4, 0), {}, "k is 0"),
        ((0, 1), {}, "experts is 0"),
        ((8, 2), {"n_group": 3}, "8 experts cannot be split into 3 equal groups"),
        ((8, 2), {"n_group": 0}, "8 experts cannot be split into 0 equal groups"),
        ((8, 2), {"n_group": 4, "topk_group": 5}, "topk_group is 5, it must be between 1 and n_group = 4"),
        ((8, 5), {"n_group": 4, "topk_group": 2}, "k is 5, .* experts of topk_group groups = 4"),
        ((8, 2), {"n_group": 4, "group_top": 3}, "group_top is 3"),
        ((8, 2), {"score": "tanh"}, "score is 'tanh'"),
        ((8, 2), {"scale": float("nan")}, "scale is nan"),
        ((8, 2), {"capacity_factor": -1.0}, "factor -1.0"),
        ((8, 2), {"capacity_factor": float("nan")}, "factor nan"),
        ((8, 2), {"drop_order": "random"}, "drop_order is 'random'"),
    ],
)
def test_bad_router(arguments: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Router(*arguments, **options)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite(bad: float) -> None:
    logits = np.zeros((3, 4), np.float32)
    logits[1, 2] = bad
    with pytest.raises(ValueError, match=rf"logits\[1, 2\] is {bad}; 1 values are not finite"):
        Router(4, 2)(logits)
    with pytest.raises(ValueError, match=r"logits\[1, 2\]"):
        router.scores(logits)


def test_bad_logits_shape_or_type() -> None:
    with pytest.raises(ValueError, match=r"logits must have the shape \[tokens, 4\], got \[3, 5\]"):
        Router(4, 2)(np.zeros((3, 5), np.float32))
    with pytest.raises(ValueError, match=r"got \[4\]"):
        Router(4, 2)(np.zeros(4, np.float32))
    with pytest.raises(TypeError, match="logits must hold floating-point numbers, got dtype int64"):
        Router(4, 2)(np.zeros((3, 4), np.int64))
    with pytest.raises(TypeError, match="complex128"):
        Router(4, 2)(np.zeros((3, 4), np.complex128))


def test_bad_ids() -> None:
    s = np.ones((2, 4), np.float32)
    with pytest.raises(ValueError, match=r"idx\[1, 0\] is 4, not -1 or an expert in \[0, 4\)"):
        router.topk_weights(s, [[0], [4]])
    with pytest.raises(ValueError, match=r"idx\[0, 0\] is -2"):
        router.load_counts([[-2]], 4)
    with pytest.raises(TypeError, match="dtype float64"):
        router.load_counts([[1.0]], 4)
    with pytest.raises(ValueError, match=r"got \[2\]"):
        router.load_counts([1, 2], 4)
    with pytest.raises(ValueError, match="idx has 3 tokens, s has 2"):
        router.topk_weights(s, [[0]] * 3)


def test_bad_select() -> None:
    s = np.ones((2, 6), np.float32)
    with pytest.raises(ValueError, match="k is 7"):
        router.select(s, 7)
    with pytest.raises(ValueError, match="6 experts cannot be split into 4"):
        router.select(s, 2, n_group=4)
    with pytest.raises(ValueError, match=r"k is 4, .* experts of topk_group groups = 3"):
        router.select(s, 4, n_group=2, topk_group=1)
    with pytest.raises(ValueError, match=r"bias must have the shape \[6\], got \[5\]"):
        router.select(s, 2, bias=np.zeros(5))
    with pytest.raises(ValueError, match=r"bias\[3\] is nan"):
        router.select(s, 2, bias=[0, 0, 0, np.nan, 0, 0])


def test_bad_gradient_shape() -> None:
    r = Router(4, 2)
    gate = r(np.zeros((3, 4), np.float32))
    with pytest.raises(ValueError, match=r"grad_weights must have the shape \[3, 2\], got \[2, 3\]"):
        r.backward(gate, np.zeros((2, 3), np.float32))


def test_bad_balance_input() -> None:
    r = Router(4, 2)
    for counts, message in (
        ([1, 2, 3], r"counts must have the shape \[4\], got \[3\]"),
        ([1, -2, 3, 4], r"counts\[1\] is -2"),
        ([1, 2, np.nan, 4], r"counts\[2\] is nan"),
    ):
        with pytest.raises(ValueError, match=message):
            r.update_bias(counts)
    with pytest.raises(ValueError, match="gamma is -1"):
        r.update_bias([1, 1, 1, 1], -1.0)
    assert r.bias.tolist() == [0] * 4
    s = np.ones((3, 4), np.float32)
    with pytest.raises(ValueError, match=r"lengths \[1, 1\] must be >= 1 and add up to 3 tokens"):
        router.sequence_balance_loss(s, 2, lengths=[1, 1])
    with pytest.raises(ValueError, match=r"lengths \[0, 3\]"):
        router.sequence_balance_loss(s, 2, lengths=[0, 3])
    with pytest.raises(ValueError, match=r"s\[0, 0\] is -1"):
        router.sequence_balance_loss(-s, 2)
    with pytest.raises(ValueError, match="limit is -1"):
        router.drop_over_capacity([[0]], np.ones((1, 1), np.float32), 4, -1)
