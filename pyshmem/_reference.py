"""What dispatch, combine and the INT8 codec must give, in plain NumPy, in one process.

R ranks are simulated: arguments and results that each rank has of its own are lists of length R. Tests
compare the library with this file, and the example compares training on many processes with one.
Written to be read, not to be fast: no loop over tokens, but loops over ranks.

T tokens of a rank, H columns, K choices a token, E experts of all ranks together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Float32s = npt.NDArray[np.float32]


# ---- experts on ranks -------------------------------------------------------------------------------------


def expert_starts(experts: int, ranks: int) -> Int64s:
    """int64 [ranks + 1]: rank r holds experts [starts[r], starts[r + 1]); the first E % R have one more."""
    if experts < 0 or ranks < 1:
        raise ValueError(f"{experts} experts on {ranks} ranks")
    r = np.arange(ranks + 1, dtype=np.int64)
    starts: Int64s = r * (experts // ranks) + np.minimum(r, experts % ranks)
    return starts


def expert_owner(experts: int, ranks: int) -> Int64s:
    """int64 [experts]: the rank that holds each expert."""
    return np.repeat(np.arange(ranks, dtype=np.int64), np.diff(expert_starts(experts, ranks)))


def _owners(topk_idx: npt.ArrayLike, experts: int, ranks: int) -> tuple[Int64s, Int64s]:
    """topk_idx as int64 [T, K], checked, and the rank of each choice, -1 where the choice is -1."""
    idx = np.asarray(topk_idx)
    if idx.ndim != 2 or idx.dtype.kind not in "iu":
        raise ValueError(f"topk_idx must be integers [tokens, k], got {list(idx.shape)} of {idx.dtype}")
    idx = idx.astype(np.int64)
    wrong = (idx < -1) | (idx >= experts)
    if wrong.any():
        t, k = np.argwhere(wrong)[0]
        raise ValueError(f"topk_idx[{t}, {k}] is {idx[t, k]}, not -1 or an expert in [0, {experts})")
    owner = np.append(expert_owner(experts, ranks), -1)  # index -1 takes the last
    return idx, owner[idx]


# ---- layout, dispatch, combine ----------------------------------------------------------------------------


class Layout(NamedTuple):
    num_tokens_per_rank: Int32s
    """[R]: tokens that have at least one expert on that rank."""
    num_tokens_per_expert: Int32s
    """[E]: choices of each expert."""
    is_token_in_rank: npt.NDArray[np.bool_]
    """[T, R]"""


def layout(topk_idx: npt.ArrayLike, experts: int, ranks: int) -> Layout:
    """Where the tokens of one rank go. `topk_idx` [T, K], -1 = no choice."""
    idx, owner = _owners(topk_idx, experts, ranks)
    inside = (owner[:, :, None] == np.arange(ranks)).any(axis=1)
    return Layout(
        inside.sum(axis=0).astype(np.int32),
        np.bincount(idx[idx >= 0], minlength=experts).astype(np.int32),
        inside,
    )


class Received(NamedTuple):
    """What one rank has after dispatch: N rows by source rank, then by the source's token order."""

    x: Array
    """[N, H], one row a token however many experts of this rank it chose."""
    topk_idx: Int64s
    """[N, K]: the number of the expert within this rank, -1 for choices on other ranks."""
    topk_weights: Float32s
    """[N, K]: 0 where topk_idx is -1."""
    source_rank: Int32s
    """[N]"""
    source_token: Int32s
    """[N]"""
    tokens_per_expert: Int32s
    """[experts of this rank]: rows that chose it."""
    tokens_per_source: Int32s
    """[R]"""


def dispatch(
    xs: Sequence[npt.ArrayLike],
    topk_idx: Sequence[npt.ArrayLike],
    topk_weights: Sequence[npt.ArrayLike],
    experts: int,
) -> list[Received]:
    """Sends each token once to each rank that holds one of its experts; tokens with none go nowhere.

    `xs` R arrays [T_r, H] of any one type; `topk_idx` R x [T_r, K]; `topk_weights` R x [T_r, K] float32.
    """
    ranks = len(xs)
    if ranks < 1 or len(topk_idx) != ranks or len(topk_weights) != ranks:
        raise ValueError(f"{ranks} xs, {len(topk_idx)} topk_idx, {len(topk_weights)} topk_weights")
    x = [np.asarray(a) for a in xs]
    weights = [np.asarray(w, dtype=np.float32) for w in topk_weights]
    routes = [_owners(i, experts, ranks) for i in topk_idx]
    for r in range(ranks):
        shape = routes[r][0].shape
        if x[r].ndim != 2 or len(x[r]) != shape[0] or weights[r].shape != shape:
            raise ValueError(f"rank {r}: x {x[r].shape}, topk_idx {shape}, topk_weights {weights[r].shape}")
    starts = expert_starts(experts, ranks)
    received = []
    for here in range(ranks):
        local = int(starts[here + 1] - starts[here])
        tokens = [np.flatnonzero((owner == here).any(axis=1)) for _, owner in routes]
        mine = [owner[t] == here for (_, owner), t in zip(routes, tokens, strict=True)]
        idx = np.concatenate(
            [np.where(m, i[t] - starts[here], -1) for (i, _), t, m in zip(routes, tokens, mine, strict=True)]
        )
        received.append(
            Received(
                np.concatenate([a[t] for a, t in zip(x, tokens, strict=True)]),
                idx,
                np.concatenate(
                    [np.where(m, w[t], np.float32(0)) for w, t, m in zip(weights, tokens, mine, strict=True)]
                ),
                np.repeat(np.arange(ranks, dtype=np.int32), [len(t) for t in tokens]),
                np.concatenate(tokens).astype(np.int32),
                np.bincount(idx[idx >= 0], minlength=local).astype(np.int32),
                np.array([len(t) for t in tokens], dtype=np.int32),
            )
        )
    return received


def combine(
    ys: Sequence[npt.ArrayLike],
    received: Sequence[Received],
    tokens: Sequence[int],
    *,
    weighted: bool = False,
) -> list[Float32s]:
    """Sends every row back to its source and adds up there, in float32, ranks in ascending order.

    `ys`: for each rank [N, H], one row a received token, or [N, K, H], one row a choice (rows of choices
    elsewhere are ignored). `tokens`: T_r of each rank. Unweighted: the plain sum. Weighted: each choice's
    row times its weight; with [N, H] the row times the sum of the token's weights on that rank.
    Returns R x float32 [T_r, H]; tokens that went nowhere are 0.
    """
    if not len(ys) == len(received) == len(tokens):
        raise ValueError(f"{len(ys)} ys, {len(received)} received, {len(tokens)} tokens")
    columns = int(np.shape(ys[0])[-1])
    out = [np.zeros((t, columns), dtype=np.float32) for t in tokens]
    for value, got in zip(ys, received, strict=True):
        y = np.asarray(value).astype(np.float32)
        n, k = got.topk_idx.shape
        if y.shape not in ((n, columns), (n, k, columns)):
            raise ValueError(f"ys of {y.shape}, expected {(n, columns)} or {(n, k, columns)}")
        if y.ndim == 3:
            factor = got.topk_weights if weighted else np.float32(1)
            factor = np.where(got.topk_idx >= 0, factor, np.float32(0))
            row = np.zeros((n, columns), dtype=np.float32)
            for j in range(k):
                row += np.where(got.topk_idx[:, j, None] >= 0, y[:, j] * factor[:, j, None], np.float32(0))
        else:
            row = y * got.topk_weights.sum(axis=1, dtype=np.float32)[:, None] if weighted else y
        for rank, target in enumerate(out):
            here = got.source_rank == rank
            target[got.source_token[here]] += row[here]  # a token is there at most once: one copy a rank
    return out


# ---- INT8 -------------------------------------------------------------------------------------------------


def int8_groups(cols: int, group: int) -> int:
    """Scales a row: one for each `group` columns, the last group may be shorter; group 0 is the whole row."""
    return -(-cols // group) if group else 1


def int8_row_bytes(cols: int, group: int) -> int:
    """Bytes of a row record: int8 [cols] padded to 4, float32 [groups], padded to 16."""
    return (-(-cols // 4) * 4 + int8_groups(cols, group) * 4 + 15) // 16 * 16


def int8_quantize(x: npt.ArrayLike, group: int) -> tuple[npt.NDArray[np.int8], Float32s]:
    """Symmetric INT8 of x [rows, cols >= 1], bit for bit as shmemx_int8.h has it; saturates NaN, infinity.

    Returns (q int8 [rows, cols], scales float32 [rows, groups]); a group of zeros has scale 0.
    """
    value = np.asarray(x).astype(np.float32)
    rows, cols = value.shape
    n, size = int8_groups(cols, group), group or cols
    padded = np.zeros((rows, n * size), dtype=np.float32)
    padded[:, :cols] = value
    blocks: Float32s = padded.reshape(rows, n, size)
    amax = np.abs(np.where(np.isfinite(blocks), blocks, 0)).max(axis=2)
    limit = amax[:, :, None]
    blocks = np.clip(np.where(np.isnan(blocks), 0, blocks), -limit, limit)
    low, high = np.float32(2.0**-126), np.float32(float.fromhex("0x1.020406p121"))
    held = np.clip(amax / np.float32(127), low, high)
    q = np.clip(np.rint(blocks * (np.float32(1) / held)[:, :, None]), -127, 127).astype(np.int8)
    scales: Float32s = np.where(amax > 0, held, np.float32(0))
    return q.reshape(rows, n * size)[:, :cols], scales


def int8_dequantize(q: npt.NDArray[np.int8], scales: Float32s, group: int) -> Float32s:
    """float32 [rows, cols]: q times the scale of its group."""
    cols = q.shape[1]
    wide = np.repeat(scales, group or max(cols, 1), axis=1)[:, :cols]
    return q.astype(np.float32) * wide


def int8_pack(q: npt.NDArray[np.int8], scales: Float32s, group: int) -> npt.NDArray[np.uint8]:
    """Row records uint8 [rows, int8_row_bytes]; padding is zero."""
    rows, cols = q.shape
    at = -(-cols // 4) * 4
    record = np.zeros((rows, int8_row_bytes(cols, group)), dtype=np.uint8)
    record[:, :cols] = q.view(np.uint8)
    record[:, at : at + 4 * scales.shape[1]] = np.ascontiguousarray(scales).view(np.uint8)
    return record
