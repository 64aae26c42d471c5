"""Loads for the MoE tests on GPUs, and what must come of them, in plain NumPy and float64 on the CPU: every
PE makes all PEs' inputs, so it knows what each of them has to receive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")  # without it every module that imports this one is skipped

ROUTINGS = ("random", "skewed", "empty", "single", "dropped")


@dataclass
class Load:
    """One PE's tokens, in host memory."""

    x: Any  # torch BF16 [T, H]
    idx: Any  # int64 [T, K]
    weights: Any  # float32 [T, K]

    def on_gpu(self, ids: Any = torch.int64) -> tuple[Any, Any, Any]:
        return self.x.cuda(), torch.from_numpy(self.idx).to(ids).cuda(), torch.from_numpy(self.weights).cuda()

    @property
    def values(self) -> Any:
        return self.x.to(torch.float64).numpy()


def load(
    routing: str, pe: int, tokens: int, hidden: int, experts: int, topk: int, seed: int = 0,
    data: str = "normal",
) -> Load:  # fmt: skip
    rng = np.random.default_rng([seed, pe, ROUTINGS.index(routing)])
    if routing != "single":
        tokens = max(0, tokens - 5 * pe)
    if routing == "empty" and pe % 2 == 0:
        tokens = 0
    chances = np.arange(1, experts + 1) ** (-2.0 if routing == "skewed" else 0.0)
    scores = rng.random((tokens, experts)) ** (1 / chances)
    idx = np.argsort(-scores, axis=1)[:, :topk].astype(np.int64)
    if idx.shape[1] < topk:
        idx = np.pad(idx, ((0, 0), (0, topk - idx.shape[1])), constant_values=-1)
    if routing in ("random", "skewed"):
        idx[rng.random(idx.shape) < 0.1] = -1
    elif routing == "single":
        idx[:] = -1
        idx[:, topk // 2] = min(3, experts - 1)
    elif routing in ("dropped", "empty"):
        idx[:] = -1
    x = rng.standard_normal((tokens, hidden))
    if data == "wide":  # zeros, tiny and large ones, rows of zeros
        x *= 10.0 ** rng.integers(-6, 5, (tokens, 1))
        x[rng.random(x.shape) < 0.2] = 0
        x[::7] = 0
    weights = rng.random((tokens, topk), dtype=np.float32)
    return Load(torch.from_numpy(x).to(torch.bfloat16), np.ascontiguousarray(idx), weights)


def owners(experts: int, ranks: int) -> tuple[Any, list[int]]:
    """Rank of each expert, and each rank's first one (one more at the end)."""
    each, more = divmod(experts, ranks)
    first = [r * each + min(r, more) for r in range(ranks + 1)]
    own = np.zeros(experts, np.int64)
    for r in range(ranks):
        own[first[r] : first[r + 1]] = r
    return own, first


def hits(own: Load, experts: int, ranks: int) -> Any:
    """bool [T, R]: which ranks a token goes to."""
    where, _ = owners(experts, ranks)
    found = np.zeros((len(own.idx), ranks), bool)
    for r in range(ranks):
        found[:, r] = ((own.idx >= 0) & (where[own.idx] == r)).any(1)
    return found


@dataclass
class Arrival:
    """What one PE receives."""

    rank: Any  # [rows]
    token: Any
    idx: Any  # [rows, K], local
    weights: Any
    per_source: Any
    per_expert: Any


def arrival(loads: list[Load], experts: int, me: int) -> Arrival:
    n, topk = len(loads), loads[0].idx.shape[1]
    _, first = owners(experts, n)
    rank, token, idx, weights = [], [], [], []
    for r, one in enumerate(loads):
        here = np.flatnonzero(hits(one, experts, n)[:, me])
        local = one.idx[here] - first[me]
        local[(one.idx[here] < first[me]) | (one.idx[here] >= first[me + 1])] = -1
        rank.append(np.full(len(here), r))
        token.append(here)
        idx.append(local)
        weights.append(np.where(local >= 0, one.weights[here], 0))
    ids = np.concatenate(idx).reshape(-1, topk)
    return Arrival(
        np.concatenate(rank), np.concatenate(token), ids, np.concatenate(weights).reshape(-1, topk),
        np.array([len(r) for r in rank]), np.bincount(ids[ids >= 0], minlength=first[me + 1] - first[me]),
    )  # fmt: skip


def rows_of(loads: list[Load], a: Arrival) -> Any:
    """torch BF16 [rows, H]: the rows that arrive."""
    parts = [one.x[torch.from_numpy(a.token[a.rank == r])] for r, one in enumerate(loads)]
    return torch.cat(parts)


def bits(a: Any) -> Any:
    """The bytes of a tensor's elements, to compare them."""
    a = a.detach().cpu().contiguous()
    return a.view({1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]).numpy()


def close(got: Any, wanted: Any, size: Any, steps: float = 1.0, parts: bool = False) -> None:
    """BF16 `got` is the float64 `wanted` rounded once; `size` bounds what was added up, in float32. With
    `parts` parts of the sum have been rounded to BF16 on the way."""
    got = got.detach().cpu().to(torch.float64).numpy()
    assert got.shape == wanted.shape
    error = np.abs(got - wanted)
    allowed = np.abs(wanted) * 2.0**-8 * steps + size * (2.0**-20 + parts * 2.0**-8) + 1e-38
    assert (error <= allowed).all(), f"off by {error.max()}, {(error > allowed).sum()} elements"


def sqnr(x: Any, back: Any) -> float:
    """dB"""
    x, back = np.asarray(x, np.float64), np.asarray(back, np.float64)
    return float(10 * np.log10((x**2).sum() / max(((x - back) ** 2).sum(), 1e-300)))


def cosine(x: Any, back: Any) -> float:
    """The least of the rows; rows of zeros do not count."""
    x, back = np.asarray(x, np.float64), np.asarray(back, np.float64)
    some = (x**2).sum(1) > 0
    x, back = x[some], back[some]
    return float(((x * back).sum(1) / np.sqrt((x**2).sum(1) * (back**2).sum(1))).min())


def spread(scales: Any, hidden: int, group: int) -> Any:
    """Scales [.., G] for each column, in float64 [.., H]."""
    return np.repeat(np.asarray(scales, np.float64), group, axis=-1)[..., :hidden]


def fp8(x: Any, group: int = 128) -> tuple[Any, Any]:
    """Rows as a caller gives them: E4M3 [T, H] and float32 [T, H / group], on x's device."""
    parts = x.view(x.shape[0], x.shape[1] // group, group).float()
    amax = parts.abs().amax(2).clamp(1e-4)
    q = (parts * (448.0 / amax.unsqueeze(2))).to(torch.float8_e4m3fn)
    return q.view(x.shape), amax / 448.0


def loads_for(shape, routing, n, **more):
    """The loads of all n PEs; shape: tokens, hidden, experts, topk."""
    tokens, hidden, experts, topk = shape
    return [load(routing, pe, tokens, hidden, experts, topk, **more) for pe in range(n)]


def check_tables(got, wanted):
    assert got.rows == len(wanted.rank)
    assert (got.topk_idx.cpu().numpy() == wanted.idx).all()
    assert (got.topk_weights.cpu().numpy() == wanted.weights).all()
    assert (got.source_token.cpu().numpy() == wanted.token).all()
    assert (got.source_rank.cpu().numpy() == wanted.rank).all()
    assert (got.tokens_per_source.cpu().numpy() == wanted.per_source).all()
    assert (got.tokens_per_expert.cpu().numpy() == wanted.per_expert).all()
    assert (got.counts == wanted.per_expert).all()


def scaled(a, rank):
    """What the experts of a rank make of a row, BF16: different on every rank."""
    return (a.float() * (1 + 0.37 * rank)).to(torch.bfloat16)


def summed(loads, me, experts, factor=None):
    """float64 [T, H]: the sum over ranks of `scaled` rows (times factor [T, R]), and of their magnitudes."""
    mine, n = loads[me], len(loads)
    there = hits(mine, experts, n)
    total = np.zeros(mine.values.shape)
    size = np.zeros(mine.values.shape)
    for r in range(n):
        part = scaled(mine.x, r).to(torch.float64).numpy() * there[:, r : r + 1]
        if factor is not None:
            part = part * factor[:, r : r + 1]
        total += part
        size += np.abs(part)
    return total, size
