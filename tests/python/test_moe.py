"""ExpertParallel against the reference in plain NumPy: every PE computes all PEs' inputs, so it knows what
must come."""

from __future__ import annotations

import gc
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pyshmem
from pyshmem import _reference as reference
from pyshmem.errors import CLASSES, ShmemError
from pyshmem.moe import ExpertParallel

ME, NPES = pyshmem.my_pe(), pyshmem.n_pes()
BY_NAME = {cls.name: cls for cls in CLASSES.values()}
DTYPES = [np.dtype(np.float32), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)]
EPS = {"float32": 1e-6, "float16": 2.0**-10, "bfloat16": 2.0**-7}


@dataclass
class Case:
    """What all PEs feed in; the same on every PE."""

    seed: int = 0
    experts: int = 5
    hidden: int = 64
    topk: int = 3
    max_tokens: int = 16
    dtype: np.dtype[Any] = DTYPES[0]
    routing: str = "random"
    x: list[Any] = field(init=False)
    idx: list[Any] = field(init=False)
    weights: list[Any] = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        tokens = {
            "empty": [0] * NPES,
            "uneven": [int(rng.integers(0, self.max_tokens + 1)) if r % 2 else 0 for r in range(NPES)],
        }.get(self.routing, [self.max_tokens] * NPES)
        self.x, self.idx, self.weights = [], [], []
        for t in tokens:
            shape = (t, self.topk)
            idx = rng.integers(0, self.experts, shape)
            if self.experts >= self.topk:  # distinct, as a router gives them
                idx = np.argsort(rng.random((t, self.experts)), axis=1)[:, : self.topk]
            if self.routing == "dropped":
                idx[:] = -1
            elif self.routing == "one":
                idx[:] = self.experts - 1
            else:
                idx[rng.random(shape) < 0.2] = -1
            self.x.append(rng.normal(size=(t, self.hidden)).astype(self.dtype))
            self.idx.append(np.ascontiguousarray(idx, dtype=np.int64))
            self.weights.append(rng.random(shape, dtype=np.float32))

    @property
    def mine(self) -> tuple[Any, Any, Any]:
        return self.x[ME], self.idx[ME], self.weights[ME]

    @property
    def tokens(self) -> list[int]:
        return [len(x) for x in self.x]

    def received(self, x: list[Any] | None = None) -> list[reference.Received]:
        return reference.dispatch(x or self.x, self.idx, self.weights, self.experts)

    def make(self, **options: Any) -> ExpertParallel:
        return ExpertParallel(
            self.experts, self.hidden, self.topk, self.max_tokens, dtype=self.dtype, **options
        )


def valid(got: Any) -> Any:
    """Which row slots hold a row."""
    return got.source_rank >= 0


def quantized(x: Any, group: int) -> tuple[Any, Any]:
    return reference.int8_quantize(x, group)


def as_sent(x: Any, quant: str, group: int) -> Any:
    """x after its way out, in its dtype."""
    if quant == "none":
        return x
    q, scales = quantized(x, group)
    return reference.int8_dequantize(q, scales, group).astype(x.dtype)


def close(got: Any, want: Any, bound: float) -> None:
    assert got.shape == want.shape
    difference = np.abs(got.astype(np.float64) - want.astype(np.float64))
    assert (difference <= bound).all(), f"off by {difference.max()}, allowed {bound}"


cases = st.builds(
    Case,
    seed=st.integers(0, 2**32 - 1),
    experts=st.integers(1, 4 * NPES + 3),
    hidden=st.integers(1, 40).map(lambda n: 8 * n),
    topk=st.integers(1, 8),
    max_tokens=st.integers(1, 33),
    dtype=st.sampled_from(DTYPES),
    routing=st.sampled_from(["random", "random", "uneven", "empty", "dropped", "one"]),
)
options = st.fixed_dictionaries(
    {
        "mode": st.sampled_from(["exchange", "worst_case"]),
        "quant": st.sampled_from(["none", "int8"]),
        "combine_quant": st.sampled_from(["none", "int8"]),
        "group": st.sampled_from([128, 64, 32, "row"]),
        "expert_alignment": st.sampled_from([1, 8]),
    }
)


# ---- any routing ------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(case=cases, how=options, int32=st.booleans())
def test_round_trip(case: Case, how: dict[str, Any], int32: bool) -> None:
    group = 0 if how["group"] == "row" else how["group"]
    x, idx, weights = case.mine
    want = case.received()[ME]
    with case.make(**how) as ep:
        got = ep.dispatch(x, idx.astype(np.int32) if int32 else idx, weights)
        rows = valid(got)
        np.testing.assert_array_equal(got.source_rank[rows], want.source_rank)
        np.testing.assert_array_equal(got.source_token[rows], want.source_token)
        np.testing.assert_array_equal(got.topk_idx[rows], want.topk_idx)
        np.testing.assert_array_equal(got.topk_weights[rows], want.topk_weights)
        np.testing.assert_array_equal(got.tokens_per_expert, want.tokens_per_expert)
        np.testing.assert_array_equal(got.tokens_per_source, want.tokens_per_source)
        assert (got.topk_idx[~rows] == -1).all()
        sent = as_sent(want.x, how["quant"], group)
        # the codec multiplies by 1 / scale where the reference divides: a tie may fall the other way
        amax = float(np.abs(want.x.astype(np.float32)).max(initial=0))
        step = amax / 127 if how["quant"] == "int8" else 0
        received = got.recv_x[rows]
        close(received, sent, step * 1.01 + (EPS[case.dtype.name] * amax if step else 0))
        assert received.dtype == case.dtype
        # what the experts do: each row times its expert's number + 1
        factors = 1 + ep.first_expert + np.where(want.topk_idx >= 0, want.topk_idx, 0)
        by_expert = ep.dispatch(x, routing=got, by_expert=True)
        y = by_expert.recv_x.astype(np.float32)
        assert (np.diff(got.expert_offsets) % how["expert_alignment"] == 0).all()
        for e, (begin, end) in enumerate(by_expert.expert_ranges()):
            np.testing.assert_array_equal(
                by_expert.recv_x[begin:end].view(np.uint8),
                got.recv_x[(got.topk_idx == e).nonzero()[0]].view(np.uint8),
            )
            assert not y[end : got.expert_offsets[e + 1]].any()
            y[begin:end] *= 1 + ep.first_expert + e
        assert got.expert_position.shape == got.topk_idx.shape
        y = y.astype(case.dtype)
        biggest = float(factors.max(initial=1)) * max(amax, 1)
        all_sent = [as_sent(x, how["quant"], group) for x in case.x]
        expected_rows = [
            r.x.astype(np.float32)[:, None, :]
            * (1 + s + np.where(r.topk_idx >= 0, r.topk_idx, 0))[:, :, None].astype(np.float32)
            for s, r in zip(
                reference.expert_starts(case.experts, NPES), case.received(all_sent), strict=False
            )
        ]
        everything = np.concatenate([x.astype(np.float32).ravel() for x in case.x])
        top = max(float(np.abs(everything).max(initial=0)), 1)
        # each of the K rows of a token errs by rounding, and by half a step of amax / 127 a quantized hop
        hops = (how["quant"] == "int8") + (how["combine_quant"] == "int8")
        bound = case.topk * case.experts * top * (4 * EPS[case.dtype.name] + hops * 1.1 / 127) + 1e-6
        assert biggest <= case.experts * top + 1
        for weighted in (True, False):
            wanted = reference.combine(expected_rows, case.received(), case.tokens, weighted=weighted)[ME]
            close(ep.combine(y, by_expert, weighted=weighted), wanted, bound)
        wanted = reference.combine([r.x for r in case.received(all_sent)], case.received(), case.tokens)[ME]
        bias = np.ones_like(x)
        out = np.empty_like(x)
        result = ep.combine(np.ascontiguousarray(got.recv_x), got, bias=bias, out=out)
        assert result is out
        close(out, wanted + 1, NPES * top * (4 * EPS[case.dtype.name] + hops * 1.1 / 127) + 1e-6)
        _, back = ep.combine(got.recv_x, got, topk_weights=got.topk_weights)
        np.testing.assert_array_equal(back, np.where(idx >= 0, weights, np.float32(0)))


@given(case=cases)
def test_layout(case: Case) -> None:
    with case.make() as ep:
        got = ep.layout(case.idx[ME])
        want = reference.layout(case.idx[ME], case.experts, NPES)
        for a, b in zip(got, want, strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("group", [128, 32, "row"])
@pytest.mark.parametrize("by_expert", [False, True])
def test_quantized_rows(group: Any, by_expert: bool) -> None:
    case = Case(seed=5, hidden=200)
    with case.make(quant="int8", group=group, expert_alignment=4) as ep:
        plain = ep.dispatch(*case.mine, by_expert=by_expert)
        got = ep.dispatch(*case.mine, by_expert=by_expert, quantized=True)
        assert got.recv_x.dtype == np.int8
        size = 200 if group == "row" else group
        assert got.scales is not None
        assert got.scales.shape == (len(got.recv_x), -(-200 // size))
        full = got.recv_x.astype(np.float32) * np.repeat(got.scales, size, axis=1)[:, :200]
        np.testing.assert_array_equal(full, plain.recv_x)
        assert plain.scales is None
        assert got.bytes_remote < 200 * 4 * got.tokens * NPES


# ---- dispatch and combine are each other's transpose ------------------------------------------------------


@pytest.mark.parametrize("mode", ["exchange", "worst_case"])
def test_gradients(mode: Any) -> None:
    case = Case(seed=9, experts=2 * NPES + 1, hidden=32, topk=4)
    rng = np.random.default_rng(ME)
    with case.make(mode=mode) as ep:
        x, idx, weights = case.mine
        got = ep.dispatch(x, idx, weights)
        rows = valid(got)
        y = rng.normal(size=(got.rows, 32)).astype(np.float32)
        sums = np.array(
            [np.vdot(got.recv_x[rows], y[rows]), np.vdot(x, ep.combine(y, got))], dtype=np.float64
        )
        total = pyshmem.zeros(2)
        source = pyshmem.array(sums)
        pyshmem.sum_reduce(total, source)
        assert abs(total[0] - total[1]) <= 1e-4 * max(1, abs(total[0]))
        # backward of combine: the gradient of each received row is the gradient of its token
        grad = rng.normal(size=x.shape).astype(np.float32)
        back = ep.dispatch(grad, routing=got)
        np.testing.assert_array_equal(back.topk_idx, got.topk_idx)
        sums = np.array(
            [np.vdot(back.recv_x[rows], y[rows]), np.vdot(grad, ep.combine(y, got))], dtype=np.float64
        )
        source[:] = sums
        pyshmem.sum_reduce(total, source)
        assert abs(total[0] - total[1]) <= 1e-4 * max(1, abs(total[0]))
        pyshmem.free(source)
        pyshmem.free(total)


# ---- results ----------------------------------------------------------------------------------------------


def test_results_live_and_end() -> None:
    case = Case(seed=3)
    x, idx, weights = case.mine
    with case.make(results=2) as ep:
        first = ep.dispatch(x, idx, weights)
        kept, tables = first.recv_x.copy(), first.topk_idx
        second = ep.dispatch(2 * x, routing=first)
        np.testing.assert_array_equal(first.recv_x, kept)
        np.testing.assert_array_equal(second.recv_x, 2 * kept)
        third = ep.dispatch(x, idx, weights)
        with pytest.raises(ValueError, match="recv_x is gone: 2 later dispatches"):
            _ = first.recv_x
        np.testing.assert_array_equal(first.topk_idx, tables)  # the routing stays
        out = ep.combine(kept, first)
        np.testing.assert_array_equal(out, ep.combine(third.recv_x, third))
    with pytest.raises(ValueError, match="closed"):
        _ = second.recv_x
    np.testing.assert_array_equal(first.topk_idx, tables)
    with pytest.raises(ValueError, match="closed"):
        _ = second.source_rank
    with pytest.raises(ValueError, match="closed"):
        ep.dispatch(x, idx, weights)
    ep.close()
    assert "closed" in repr(ep)


def test_strided_rows_and_stats() -> None:
    case = Case(seed=4)
    x, idx, weights = case.mine
    wide = np.zeros((len(x), 2 * case.hidden), np.float32)
    wide[:, : case.hidden] = x
    with case.make() as ep:
        got = ep.dispatch(wide[:, : case.hidden], idx, weights)
        np.testing.assert_array_equal(got.recv_x, case.received()[ME].x)
        counts = ep.layout(idx).num_tokens_per_rank
        record = got.recv_x.strides[0]
        assert got.bytes_local == counts[ME] * record
        every = (counts.sum() - counts[ME]) * record
        one_node = pyshmem.TEAM_SHARED.n_pes() == pyshmem.n_pes()  # else rows cross to a node once
        assert got.bytes_remote == every if one_node else 0 < got.bytes_remote < every
        stats = ep.stats
        assert (stats.dispatches, stats.combines) == (1, 0)
        assert stats.dispatch_bytes_remote == got.bytes_remote


def test_dropped_objects_are_freed_later() -> None:
    case = Case()
    free = pyshmem.heap_info()[1]
    ep = case.make()
    used = pyshmem.heap_info()[1]
    assert used > free
    other = case.make()
    got = other.dispatch(*case.mine)
    with pytest.raises(ZeroDivisionError), other:
        _ = 1 / 0
    if ME % 2 == 0:  # each PE at its own time
        del ep
        gc.collect()
    pyshmem.barrier_all()
    again = case.make()
    if ME % 2:
        del ep
        gc.collect()
    again.close()
    case.make().close()
    with pytest.raises(ValueError, match="closed"):
        _ = got.recv_x
    # the words of the agreement stay
    assert pyshmem.heap_info()[1] <= free + 4096


# ---- misuse: an error here, MismatchError that names the PE elsewhere, and on it goes ---------------------

CULPRIT = NPES - 1

WRONG_DISPATCH: list[tuple[str, type[Exception], str, Any]] = [
    ("float64", TypeError, "x has dtype float64", lambda x, i, w: (x.astype(np.float64), i, w)),
    ("list", TypeError, "x is list", lambda x, i, w: (x.tolist(), i, w)),
    ("columns", ValueError, r"x has shape \(16, 63\)", lambda x, i, w: (x[:, 1:], i, w)),
    ("strides", ValueError, "adjacent", lambda x, i, w: (np.asfortranarray(x), i, w)),
    ("reversed", ValueError, "strides", lambda x, i, w: (x[::-1], i, w)),
    ("ids float", TypeError, "topk_idx is float32", lambda x, i, w: (x, i.astype(np.float32), w)),
    ("ids none", TypeError, "topk_idx is NoneType", lambda x, i, w: (x, None, w)),
    ("ids short", ValueError, r"topk_idx has shape \(15, 3\)", lambda x, i, w: (x, i[1:], w)),
    ("ids big", ValueError, r"topk_idx\[0\]\[0\] is 105, not -1 or", lambda x, i, w: (x, i + 100, w)),
    ("ids low", ValueError, r"topk_idx\[0\]\[0\] is -2", lambda x, i, w: (x, np.full_like(i, -2), w)),
    ("weights", TypeError, "topk_weights is float64", lambda x, i, w: (x, i, w.astype(np.float64))),
    ("weights shape", ValueError, "topk_weights has shape", lambda x, i, w: (x, i, w[:, 1:])),
    ("many", ValueError, "17 tokens", lambda x, i, w: tuple(np.concatenate([a, a[:1]]) for a in (x, i, w))),
]


def expect(error: type[Exception], text: str) -> Any:
    if ME == CULPRIT:
        return pytest.raises(error, match=text)
    return pytest.raises(BY_NAME["MISMATCH"], match=f"PE {CULPRIT}")


@pytest.mark.parametrize("mode", ["exchange", "worst_case"])
@pytest.mark.parametrize(
    ("name", "error", "text", "wrong"), WRONG_DISPATCH, ids=[row[0] for row in WRONG_DISPATCH]
)
def test_wrong_dispatch(name: str, error: type[Exception], text: str, wrong: Any, mode: Any) -> None:
    case = Case(seed=6)
    case.idx[CULPRIT][0, 0] = 5 if name == "ids big" else 4
    arguments = case.mine
    with case.make(mode=mode) as ep:
        with expect(error, text):
            ep.dispatch(*(wrong(*arguments) if ME == CULPRIT else arguments))
        case.idx[CULPRIT][0, 0] = 0
        got = ep.dispatch(*case.mine)
        np.testing.assert_array_equal(got.recv_x[valid(got)], case.received()[ME].x)


def test_wrong_combine() -> None:
    case = Case(seed=7, experts=2 * NPES)
    with case.make() as ep, case.make() as other:
        got = ep.dispatch(*case.mine)
        strange = other.dispatch(*case.mine)
        y = np.ones((got.rows, case.hidden), np.float32)
        x = case.mine[0]
        read_only = np.empty_like(x)
        read_only.flags.writeable = False
        w = got.topk_weights
        wrong: list[tuple[type[Exception], str, tuple[Any, ...], dict[str, Any]]] = [
            (ValueError, "y has .* rows, the token form", (y[1:], got), {}),
            (TypeError, "y has dtype float16", (y.astype(np.float16), got), {}),
            (TypeError, "got is ndarray", (y, y), {}),
            (ValueError, "another ExpertParallel", (y, strange), {}),
            (ValueError, "bias has 15 rows", (y, got), {"bias": x[1:]}),
            (ValueError, "out has 15 rows", (y, got), {"out": np.empty_like(x)[1:]}),
            (ValueError, "read-only", (y, got), {"out": read_only}),
            (ValueError, "overlap", (y, got), {"bias": x, "out": x}),
            (TypeError, "topk_weights is float64", (y, got), {"topk_weights": w.astype(np.float64)}),
        ]
        for error, text, arguments, more in wrong:
            with expect(error, text):
                ep.combine(*(arguments if ME == CULPRIT else (y, got)), **(more if ME == CULPRIT else {}))
        ones = [np.ones_like(r.x) for r in case.received()]
        close(ep.combine(y, got), reference.combine(ones, case.received(), case.tokens)[ME], 1e-6)


def test_overflow_is_the_same_everywhere() -> None:
    case = Case(routing="one")
    need, room = NPES * case.max_tokens, NPES * case.max_tokens - 1
    with case.make(capacity=room) as ep:
        with pytest.raises(BY_NAME["LIMIT"], match=f"would receive {need} rows, its capacity is {room}"):
            ep.dispatch(*case.mine)
        x, idx, _ = case.mine
        assert ep.dispatch(x[1:], np.ascontiguousarray(idx[1:])).tokens == case.max_tokens - 1


def test_nan_with_int8() -> None:
    case = Case(seed=8)
    case.idx[CULPRIT][2, 0] = 0
    for r in range(NPES):
        case.x[r][2, 7] = np.nan if r == CULPRIT else 1
    with case.make(quant="int8") as ep, expect(BY_NAME["DATA"], r"x\[2\]\[7\] is -?nan"):
        ep.dispatch(*case.mine)
    with case.make(quant="int8", nonfinite="saturate") as ep:
        ep.dispatch(*case.mine)
        assert ep.stats.saturated == (ME == CULPRIT)


@pytest.mark.parametrize(
    ("error", "text", "wrong"),
    [
        (TypeError, "dtype is float64", {"dtype": np.float64}),
        (ValueError, "quant is 'fp8'", {"quant": "fp8"}),
        (ValueError, "mode is 'fast'", {"mode": "fast"}),
        (ValueError, "group is 48", {"group": 48}),
        (ValueError, "nonfinite is 'ignore'", {"nonfinite": "ignore"}),
        (TypeError, "Team", {"team": 3}),
        (ValueError, "results is -1", {"results": 0}),
        (ValueError, "capacity is -1", {"capacity": 0}),
        (ValueError, "expert_alignment is -4", {"expert_alignment": -4}),
        (ValueError, "hidden is 6", {"hidden": 6}),
        (ValueError, "topk is 33", {"topk": 33}),
        (ValueError, "num_experts is 0", {"num_experts": 0}),
        (ValueError, "max_tokens is -1", {"max_tokens": -1}),
        (OverflowError, "int", {"max_tokens": 2**64}),
        (TypeError, "int", {"hidden": "64"}),
    ],
)
def test_wrong_configuration(error: type[Exception], text: str, wrong: dict[str, Any]) -> None:
    given_: dict[str, Any] = {"num_experts": 4, "hidden": 64, "topk": 2, "max_tokens": 8}
    with expect(error, text):
        ExpertParallel(**(given_ | wrong if ME == CULPRIT else given_))


@pytest.mark.npes(min=2)
def test_configurations_must_agree() -> None:
    with pytest.raises(BY_NAME["MISMATCH"], match="hidden is 64 on PE 0 and 128 on PE 1"):
        ExpertParallel(4, 128 if ME == 1 else 64, 2, 8)


@pytest.mark.npes(min=2)
def test_teams_side_by_side() -> None:
    world = pyshmem.Team(pyshmem.TEAM_WORLD)
    half = world.split_strided(0, 1, NPES // 2)
    rest = world.split_strided(NPES // 2, 1, NPES - NPES // 2)
    team = half or rest
    with ExpertParallel(6, 64, 2, 8, team=team) as ep:
        assert (ep.rank, ep.ranks) == (team.my_pe(), team.n_pes())
        x = np.full((3, 64), ME, np.float32)
        idx = np.array([[0, 5], [1, -1], [-1, -1]])
        got = ep.dispatch(x, idx)
        first = 0 if half else NPES // 2
        np.testing.assert_array_equal(got.recv_x[:, 0], first + got.source_rank)
        out = ep.combine(got.recv_x, got)
        ranks = len({0, ep.ranks - 1})
        np.testing.assert_array_equal(out[:, 0], [ME * ranks, ME, 0])
    with ExpertParallel(6, 64, 2, 8, team=half) as ep:
        if not half:
            with pytest.raises(ShmemError, match="no member"):
                ep.dispatch(np.zeros((1, 64), np.float32), np.zeros((1, 2), np.int64))
    for team in (half, rest):
        if team:
            team.destroy()


@pytest.mark.npes(1)
def test_a_pe_that_never_comes(run_pes: Any) -> None:
    code = """
import os, time
import numpy as np
import pyshmem
from pyshmem.moe import ExpertParallel

pyshmem.init()
ep = ExpertParallel(4, 64, 2, 8)
if pyshmem.my_pe() == 0:
    for _ in range(2):
        try:
            ep.dispatch(np.zeros((1, 64), np.float32), np.zeros((1, 2), np.int64))
        except Exception as error:
            print(type(error).__name__, error, flush=True)
else:
    time.sleep(3)
os._exit(0)
"""
    done = run_pes(2, code, SHMEM_TIMEOUT="1")
    assert "TimeoutError" in done.stdout, done
    assert "waits for PE 1" in done.stdout
    assert "out of step" in done.stdout  # the second dispatch fails at once
