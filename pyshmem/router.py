"""The gate of a mixture of experts: scores, top-k selection, balance; forward and backward, in NumPy.

Functions first, each one step of the way, then :class:`Router`, which joins them:

    logits [T, E] --scores--> affinities [T, E] --select--> expert ids [T, K] --topk_weights--> weights [T, K]

Conventions. T tokens, E experts, K experts a token. Expert ids are int64, -1 marks a dropped choice, whose
weight is 0. Logits may be of any floating type, bfloat16 (ml_dtypes) included: float64 is computed in
float64, everything else in float32; a Gate's weights are float32 always, as dispatch and combine take them.
All of it is local to the process, deterministic and without state, but for the bias that a Router keeps.

Sources: DeepSeek-V2 (arXiv 2405.04434) for softmax affinities and device-limited routing; DeepSeek-V3
(arXiv 2412.19437), section 2.1.2, for sigmoid affinities, node-limited routing, the selection bias and the
sequence-wise loss; arXiv 2408.15664 for the bias update and MaxVio; GShard (arXiv 2006.16668) for capacity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

__all__ = [
    "Gate",
    "Router",
    "capacity",
    "drop_over_capacity",
    "group_scores",
    "limit_groups",
    "load_counts",
    "max_violation",
    "scores",
    "scores_backward",
    "select",
    "sequence_balance_loss",
    "topk_weights",
    "topk_weights_backward",
    "update_bias",
]

Floats = npt.NDArray[Any]
Ids = npt.NDArray[np.int64]
ScoreFunction = Literal["softmax", "sigmoid"]
DropOrder = Literal["position", "weight"]

# Added to the sum that normalises weights, so that a token whose sigmoid affinities all underflow to zero
# gets weights 0 and not NaN. Far below any sum that float32 affinities of a working gate produce.
_EPSILON = 1e-20


def _floats(value: npt.ArrayLike, name: str) -> Floats:
    """`value` as a float32 or float64 array; TypeError when it holds no floating-point numbers."""
    array = np.asarray(value)
    # ml_dtypes' types have kind 'V' and are known by their names alone.
    if array.dtype.kind != "f" and not array.dtype.name.startswith(("bfloat16", "float8")):
        raise TypeError(f"{name} must hold floating-point numbers, got dtype {array.dtype}")
    return array.astype(np.float64 if array.dtype.itemsize >= 8 else np.float32, copy=False)


def _matrix(value: npt.ArrayLike, name: str, columns: int | None = None) -> Floats:
    """`value` as a [T, columns] matrix of finite floats."""
    array = _floats(value, name)
    if array.ndim != 2 or (columns is not None and array.shape[1] != columns):
        want = "[tokens, experts]" if columns is None else f"[tokens, {columns}]"
        raise ValueError(f"{name} must have the shape {want}, got {list(array.shape)}")
    finite = np.isfinite(array)
    if not finite.all():
        t, e = np.argwhere(~finite)[0]
        raise ValueError(f"{name}[{t}, {e}] is {array[t, e]}; {int((~finite).sum())} values are not finite")
    return array


def _same_shape(value: npt.ArrayLike, name: str, shape: tuple[int, ...]) -> Floats:
    array = _floats(value, name)
    if array.shape != shape:
        raise ValueError(f"{name} must have the shape {list(shape)}, got {list(array.shape)}")
    return array


def _ids(value: npt.ArrayLike, experts: int, name: str = "idx") -> Ids:
    """`value` as int64 [T, K] with every entry in [-1, experts)."""
    array = np.asarray(value)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must hold integers, got dtype {array.dtype}")
    if array.ndim != 2:
        raise ValueError(f"{name} must have the shape [tokens, k], got {list(array.shape)}")
    wrong = array >= experts
    if array.dtype.kind == "i":
        wrong |= array < -1
    if wrong.any():
        t, j = np.argwhere(wrong)[0]
        raise ValueError(f"{name}[{t}, {j}] is {array[t, j]}, not -1 or an expert in [0, {experts})")
    return array.astype(np.int64, copy=False)


def _bias(value: npt.ArrayLike, experts: int) -> npt.NDArray[np.float32]:
    array = np.asarray(value, dtype=np.float32)
    if array.shape != (experts,):
        raise ValueError(f"bias must have the shape [{experts}], got {list(array.shape)}")
    if not np.isfinite(array).all():
        e = int(np.argmin(np.isfinite(array)))
        raise ValueError(f"bias[{e}] is {array[e]}; the bias must be finite")
    return array


def _in_range(name: str, value: int, low: int, high: int, high_name: str) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} is {value}, it must be between {low} and {high_name} = {high}")


# ---- affinities -------------------------------------------------------------------------------------------


def scores(logits: npt.ArrayLike, function: ScoreFunction = "softmax") -> Floats:
    """The affinity of each token with each expert.

    `logits` [T, E], finite. `function`: "softmax" over the experts (V2) or an elementwise "sigmoid" (V3).
    Returns [T, E], float32 or float64 (float64 logits). ValueError for NaN or infinite logits.
    """
    x = _matrix(logits, "logits")
    result: Floats
    if function == "softmax":
        with np.errstate(over="ignore"):  # a difference beyond the type is -inf, whose exponential is 0
            e = np.exp(x - x.max(axis=1, keepdims=True, initial=-np.inf))
        result = e / e.sum(axis=1, keepdims=True)
        return result
    if function == "sigmoid":
        # exp(-|x|) cannot overflow, and a small affinity keeps its relative precision.
        e = np.exp(-np.abs(x))
        result = np.where(x >= 0, 1, e).astype(x.dtype, copy=False) / (1 + e)
        return result
    raise ValueError(f"function is {function!r}, it must be 'softmax' or 'sigmoid'")


def scores_backward(
    grad_scores: npt.ArrayLike, s: npt.ArrayLike, function: ScoreFunction = "softmax"
) -> Floats:
    """The gradient with respect to the logits, given that with respect to `s` = scores(logits, function).

    Both [T, E]; returns [T, E].
    """
    value = _matrix(s, "s")
    grad = _same_shape(grad_scores, "grad_scores", value.shape)
    result: Floats
    if function == "softmax":
        result = value * (grad - (grad * value).sum(axis=1, keepdims=True))
        return result
    if function == "sigmoid":
        result = grad * value * (1 - value)
        return result
    raise ValueError(f"function is {function!r}, it must be 'softmax' or 'sigmoid'")


# ---- selection --------------------------------------------------------------------------------------------


def _topk(s: Floats, k: int) -> Ids:
    """Columns of the k largest of each row, k of them finite: largest first, ties to the lower column.

    k passes of argmax, which returns the first of equals: 2.0 ms for 4096 x 256, k = 8, where a stable sort
    takes 29 ms and a partition of (value, column) keys 10 ms (one core, NumPy 2.4). Large k goes to the sort.
    """
    if k > 32:
        return np.argsort(-s, axis=1, kind="stable")[:, :k].astype(np.int64, copy=False)
    work = s.copy()
    rows = np.arange(len(s))
    chosen = np.empty((len(s), k), dtype=np.int64)
    for j in range(k):
        chosen[:, j] = best = work.argmax(axis=1)
        work[rows, best] = -np.inf
    return chosen


def group_scores(s: npt.ArrayLike, groups: int, top: int) -> Floats:
    """The sum of the `top` largest values in each of `groups` equal blocks of columns.

    `s` [T, E], E divisible by `groups`; 1 <= top <= E/groups. Returns [T, groups]. V3 takes top = K/M for M
    nodes a token (2 in the published model), V2 the maximum, top = 1.
    """
    value = _matrix(s, "s")
    experts = value.shape[1]
    if groups < 1 or experts % groups:
        raise ValueError(f"{experts} experts cannot be split into {groups} equal groups")
    size = experts // groups
    _in_range("top", top, 1, size, "experts a group")
    blocks = value.reshape(len(value), groups, size)
    if top == 1:
        result: Floats = blocks.max(axis=2)
        return result
    # Sorted, so that the sum does not depend on the order in which a partition leaves the largest.
    largest = np.sort(np.partition(blocks, size - top, axis=2)[:, :, size - top :], axis=2)
    total: Floats = largest.sum(axis=2)
    return total


def limit_groups(s: npt.ArrayLike, groups: int, topk_group: int, top: int) -> npt.NDArray[np.bool_]:
    """Which experts a token may go to when it is limited to its `topk_group` best of `groups` groups.

    Returns bool [T, E]: whole groups, exactly `topk_group` of them a token; ties to the lower group.
    """
    _in_range("topk_group", topk_group, 1, groups, "n_group")
    value = group_scores(s, groups, top)
    allowed = np.zeros(value.shape, dtype=np.bool_)
    np.put_along_axis(allowed, _topk(value, topk_group), True, axis=1)
    return np.repeat(allowed, np.shape(s)[1] // groups, axis=1)


def select(
    s: npt.ArrayLike,
    k: int,
    *,
    bias: npt.ArrayLike | None = None,
    n_group: int = 1,
    topk_group: int | None = None,
    group_top: int = 2,
) -> Ids:
    """The k experts of each token: the largest of s + bias, largest first, ties to the lower expert id.

    `s` [T, E] affinities; `bias` [E] decides who is selected and nothing else. With n_group > 1 a token goes
    to at most `topk_group` (default n_group) groups of E/n_group consecutive experts, those whose
    `group_top` largest biased affinities have the largest sum. Returns int64 [T, k], no -1, no repetition.
    ValueError when k exceeds the experts, or those of `topk_group` groups, or the groups do not divide them.
    """
    value = _matrix(s, "s")
    experts = value.shape[1]
    _in_range("k", k, 1, experts, "experts")
    if bias is not None:
        value = value + _bias(bias, experts)
    if n_group != 1 or topk_group is not None:
        kept = n_group if topk_group is None else topk_group
        if n_group < 1 or experts % n_group:
            raise ValueError(f"{experts} experts cannot be split into {n_group} equal groups")
        _in_range("topk_group", kept, 1, n_group, "n_group")
        _in_range("k", k, 1, kept * (experts // n_group), "experts of topk_group groups")
        if kept < n_group:
            value = np.where(limit_groups(value, n_group, kept, group_top), value, -np.inf)
    return _topk(value, k)


# ---- weights ----------------------------------------------------------------------------------------------


def _gathered(s: Floats, idx: Ids, normalize: bool) -> tuple[Floats, Floats]:
    """The affinities at idx, 0 where it is -1, and what they are divided by [T, 1]."""
    if len(idx) != len(s):
        raise ValueError(f"idx has {len(idx)} tokens, s has {len(s)}")
    taken = np.take_along_axis(s, np.maximum(idx, 0), axis=1) if s.shape[1] else np.zeros(idx.shape, s.dtype)
    taken[idx < 0] = 0
    if normalize:
        return taken, taken.sum(axis=1, keepdims=True) + s.dtype.type(_EPSILON)
    return taken, np.ones((len(s), 1), dtype=s.dtype)


def topk_weights(
    s: npt.ArrayLike, idx: npt.ArrayLike, *, normalize: bool = True, scale: float = 1.0
) -> Floats:
    """The weights of the selected experts: affinities, divided by their sum if `normalize`, times `scale`.

    `s` [T, E] unbiased affinities; `idx` [T, K], entries -1 get weight 0 and stay out of the sum. Returns
    [T, K] of s's type. Weights of a token add up to `scale` when normalised, except where all its affinities
    are so small (sum below 1e-13) that 1e-20, added against division by zero, shows.
    """
    value = _matrix(s, "s")
    taken, total = _gathered(value, _ids(idx, value.shape[1]), normalize)
    weights: Floats = taken / total * value.dtype.type(scale)
    return weights


def topk_weights_backward(
    grad_weights: npt.ArrayLike,
    s: npt.ArrayLike,
    idx: npt.ArrayLike,
    *,
    normalize: bool = True,
    scale: float = 1.0,
) -> Floats:
    """The gradient with respect to `s`, given that with respect to topk_weights(s, idx, ...).

    `grad_weights` [T, K]; entries where idx is -1 are ignored. Returns [T, E], zero at experts not selected:
    the selection itself is a constant.
    """
    value = _matrix(s, "s")
    ids = _ids(idx, value.shape[1])
    grad = _same_shape(grad_weights, "grad_weights", ids.shape).astype(value.dtype)
    taken, total = _gathered(value, ids, normalize)
    grad[ids < 0] = 0
    if normalize:
        # d(s_j / D)/d s_i = (delta_ij - s_j / D) / D: divided one D at a time, since D * D may underflow.
        grad = (grad - (grad * (taken / total)).sum(axis=1, keepdims=True)) / total
    grad = grad * value.dtype.type(scale)
    grad[ids < 0] = 0
    result = np.zeros_like(value)
    # An expert may be named twice by ids that a user made, so contributions are added.
    rows = np.broadcast_to(np.arange(len(ids))[:, None], ids.shape)
    kept = ids >= 0
    np.add.at(result, (rows[kept], ids[kept]), grad[kept])
    return result


# ---- capacity ---------------------------------------------------------------------------------------------


def capacity(tokens: int, k: int, experts: int, factor: float) -> int:
    """Tokens an expert may take: ceil(factor * tokens * k / experts)."""
    if tokens < 0 or k < 1 or experts < 1 or not 0 < factor < float("inf"):
        raise ValueError(f"capacity of {tokens} tokens, k {k}, {experts} experts, factor {factor}")
    return int(np.ceil(factor * tokens * k / experts))


def drop_over_capacity(
    idx: npt.ArrayLike, weights: npt.ArrayLike, experts: int, limit: int, order: DropOrder = "position"
) -> tuple[Ids, Floats]:
    """Drops what goes over `limit` choices an expert: there id -1 and weight 0. The input is left alone.

    `idx`, `weights` [T, K]. Who stays, with order
      "position": first choices before second choices and so on, among them the lower token (GShard's order);
      "weight":   the larger weight; among equals as above.
    The other weights stay as they are: a token that lost a choice gets a smaller sum. Entries -1 stay -1.
    Returns new (idx int64 [T, K], weights [T, K]).
    """
    ids = _ids(idx, experts).copy()
    kept_weights = _same_shape(weights, "weights", ids.shape).copy()
    if limit < 0:
        raise ValueError(f"limit is {limit}, it must not be negative")
    if order not in ("position", "weight"):
        raise ValueError(f"order is {order!r}, it must be 'position' or 'weight'")
    # One queue entry a choice, choice-major: entry j * T + t.
    queue = ids.T.reshape(-1)
    if order == "weight":
        rank = np.lexsort((-kept_weights.T.reshape(-1), queue))
    else:
        rank = np.argsort(queue, kind="stable")
    ordered = queue[rank]
    place = np.arange(len(queue)) - np.searchsorted(ordered, ordered, side="left")
    over = np.zeros(len(queue), dtype=np.bool_)
    over[rank[place >= limit]] = True
    dropped = over.reshape(ids.shape[::-1]).T | (ids < 0)
    ids[dropped] = -1
    kept_weights[dropped] = 0
    return ids, kept_weights


# ---- balance ----------------------------------------------------------------------------------------------


def load_counts(idx: npt.ArrayLike, experts: int) -> Ids:
    """How many choices of `idx` [T, K] went to each expert, int64 [experts]; -1 is not counted."""
    ids = _ids(idx, experts)
    return np.bincount(ids[ids >= 0], minlength=experts).astype(np.int64, copy=False)


def _counts(counts: npt.ArrayLike) -> npt.NDArray[Any]:
    array = np.asarray(counts)
    if array.ndim != 1 or array.dtype.kind not in "iuf":
        raise ValueError(f"counts must be one number an expert, got {list(array.shape)} of {array.dtype}")
    if not (np.isfinite(array) & (array >= 0)).all():
        e = int(np.argmin(np.isfinite(array) & (array >= 0)))
        raise ValueError(f"counts[{e}] is {array[e]}, it must be a finite number >= 0")
    return array


def max_violation(counts: npt.ArrayLike) -> float:
    """MaxVio (arXiv 2408.15664): (largest load - mean load) / mean load. 0 is perfect balance or no load."""
    load = _counts(counts).astype(np.float64)
    mean = float(load.mean()) if load.size else 0.0
    return float(load.max()) / mean - 1.0 if mean > 0 else 0.0


def update_bias(bias: npt.ArrayLike, counts: npt.ArrayLike, gamma: float = 1e-3) -> npt.NDArray[np.float32]:
    """The selection bias after a step: bias + gamma * sign(mean load - load), float32 [E], a new array.

    `counts` [E] are the loads of the whole step. On several PEs they must be the sum over all of them (a
    sum reduction of load_counts), so that all PEs keep the same bias. V3 used gamma 1e-3, then 0.
    """
    load = _counts(counts)
    old = _bias(bias, len(load))
    if not 0 <= gamma < float("inf"):
        raise ValueError(f"gamma is {gamma}, it must be a finite number >= 0")
    new: npt.NDArray[np.float32] = old.copy()
    if not load.size:
        return new
    wide = load.astype(np.float64 if load.dtype.kind == "f" else np.int64)
    # Against the sum and not the mean: exact for integers.
    step = np.sign(wide.sum() - wide * len(wide)).astype(np.float32)
    new += np.float32(gamma) * step
    return new


def sequence_balance_loss(
    s: npt.ArrayLike,
    k: int,
    *,
    idx: npt.ArrayLike | None = None,
    lengths: Sequence[int] | npt.ArrayLike | None = None,
    alpha: float = 1e-4,
) -> tuple[float, Floats]:
    """The sequence-wise auxiliary loss of V3 (equations 17 to 20) and its gradient with respect to `s`.

    For a sequence of n tokens: alpha * sum_i f_i P_i, where f_i = E / (k n) * (tokens that choose i) and
    P_i = mean of s_i / sum_j s_j. It is alpha for perfectly even affinities and at most alpha * E / k.
    `s` [T, E] unbiased affinities. `lengths`: tokens of each sequence, in order, each >= 1, adding up to T;
    None is one sequence. Several sequences are averaged, so that alpha does not depend on their number.
    `idx` [T, K]: the choices to count in f, -1 not counted; None counts the k largest affinities, as the
    paper does, without bias or group limit. f is a constant in the gradient.
    Returns (loss, gradient [T, E]); 0 and an empty gradient when there are no tokens.
    """
    value = _matrix(s, "s")
    tokens, experts = value.shape
    ids = select(value, k) if idx is None else _ids(idx, experts)
    _in_range("k", k, 1, experts, "experts")
    if len(ids) != tokens:
        raise ValueError(f"idx has {len(ids)} tokens, s has {tokens}")
    if (value < 0).any():
        t, e = np.argwhere(value < 0)[0]
        raise ValueError(f"s[{t}, {e}] is {value[t, e]}; affinities are not negative")
    if lengths is None:
        sizes = np.array([tokens] if tokens else [], dtype=np.int64)
    else:
        given = np.asarray(lengths)
        if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
            raise ValueError(f"lengths must be a list of integers, got {list(given.shape)} of {given.dtype}")
        sizes = given.astype(np.int64)
        if (sizes < 1).any() or int(sizes.sum()) != tokens:
            raise ValueError(f"lengths {sizes.tolist()} must be >= 1 and add up to {tokens} tokens")
    if not tokens:
        return 0.0, np.zeros_like(value)
    n = len(sizes)
    of = np.repeat(np.arange(n), sizes)
    kept = ids >= 0
    flat = (of[:, None] * experts + ids)[kept]
    f = np.bincount(flat, minlength=n * experts).reshape(n, experts) * (experts / (k * sizes[:, None]))
    total = value.sum(axis=1, keepdims=True, dtype=np.float64) + _EPSILON
    share = value / total
    p = np.add.reduceat(share, np.cumsum(sizes) - sizes, axis=0) / sizes[:, None]
    loss = alpha * float((f * p).sum()) / n
    weight = (alpha / n) * f[of] / sizes[of][:, None]
    grad = (weight - (weight * share).sum(axis=1, keepdims=True)) / total
    return loss, grad.astype(value.dtype)


# ---- all of it --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gate:
    """What a :class:`Router` decided for T tokens."""

    idx: Ids
    """int64 [T, K]: expert ids, best first; -1 where the choice was dropped over capacity."""
    weights: npt.NDArray[np.float32]
    """float32 [T, K]; 0 where idx is -1."""
    scores: Floats
    """[T, E] affinities without bias, float32 or, for float64 logits, float64."""
    selected: Ids
    """int64 [T, K]: the choices before dropping; what the weights are normalised over."""


class Router:
    """A top-k gate with DeepSeek's options. Calling it with logits [T, E] gives a :class:`Gate`.

    experts          E
    k                experts a token, 1 <= k <= E
    score            "softmax" or "sigmoid"
    n_group          groups of E/n_group consecutive experts; 1 is no grouping
    topk_group       groups a token may go to; None is all of them
    group_top        affinities summed into a group's score; None is ceil(k / topk_group), V3's K/M, but
                     never more than a group has experts
    normalize        weights add up to `scale`
    scale            routed scaling factor
    capacity_factor  None never drops; otherwise an expert keeps at most capacity(T, k, E, factor) choices
    drop_order       who stays then, see drop_over_capacity

    `bias` float32 [E] starts at zero and changes only through update_bias (or by assignment).
    """

    def __init__(
        self,
        experts: int,
        k: int,
        *,
        score: ScoreFunction = "softmax",
        n_group: int = 1,
        topk_group: int | None = None,
        group_top: int | None = None,
        normalize: bool = True,
        scale: float = 1.0,
        capacity_factor: float | None = None,
        drop_order: DropOrder = "position",
    ) -> None:
        if experts < 1:
            raise ValueError(f"experts is {experts}, it must be at least 1")
        _in_range("k", k, 1, experts, "experts")
        if score not in ("softmax", "sigmoid"):
            raise ValueError(f"score is {score!r}, it must be 'softmax' or 'sigmoid'")
        if n_group < 1 or experts % n_group:
            raise ValueError(f"{experts} experts cannot be split into {n_group} equal groups")
        kept = n_group if topk_group is None else topk_group
        _in_range("topk_group", kept, 1, n_group, "n_group")
        size = experts // n_group
        _in_range("k", k, 1, kept * size, "experts of topk_group groups")
        top = min(-(-k // kept), size) if group_top is None else group_top
        _in_range("group_top", top, 1, size, "experts a group")
        if not np.isfinite(scale):
            raise ValueError(f"scale is {scale}, it must be finite")
        if capacity_factor is not None:
            capacity(0, k, experts, capacity_factor)
        if drop_order not in ("position", "weight"):
            raise ValueError(f"drop_order is {drop_order!r}, it must be 'position' or 'weight'")
        self.experts = experts
        self.k = k
        self.score: ScoreFunction = score
        self.n_group = n_group
        self.topk_group = kept
        self.group_top = top
        self.normalize = normalize
        self.scale = scale
        self.capacity_factor = capacity_factor
        self.drop_order: DropOrder = drop_order
        self._bias = np.zeros(experts, dtype=np.float32)

    @classmethod
    def node_limited(cls, experts: int, k: int, nodes: int, max_nodes: int, **options: Any) -> Router:
        """V3's gate: sigmoid; a token goes to at most `max_nodes` of `nodes` nodes of E/nodes consecutive
        experts, those with the largest sum of their best k/max_nodes affinities. `options`: as for Router."""
        return cls(experts, k, n_group=nodes, topk_group=max_nodes, **{"score": "sigmoid", **options})

    @classmethod
    def device_limited(cls, experts: int, k: int, devices: int, max_devices: int, **options: Any) -> Router:
        """V2's gate: softmax, weights not normalised; at most `max_devices` of `devices` devices of E/devices
        consecutive experts, those that hold the largest single affinities. `options`: as for Router."""
        given = {"score": "softmax", "normalize": False, "group_top": 1, **options}
        return cls(experts, k, n_group=devices, topk_group=max_devices, **given)

    @property
    def bias(self) -> npt.NDArray[np.float32]:
        """float32 [E], read-only: added to the affinities for selection only. Assign to restore it."""
        view: npt.NDArray[np.float32] = self._bias.view()
        view.flags.writeable = False
        return view

    @bias.setter
    def bias(self, value: npt.ArrayLike) -> None:
        self._bias = _bias(value, self.experts).copy()

    def __call__(self, logits: npt.ArrayLike) -> Gate:
        """Routes T tokens. `logits` [T, E], finite, of any floating type. ValueError names a bad value."""
        s = scores(_matrix(logits, "logits", self.experts), self.score)
        selected = select(
            s,
            self.k,
            bias=self._bias,
            n_group=self.n_group,
            topk_group=self.topk_group,
            group_top=self.group_top,
        )
        weights = topk_weights(s, selected, normalize=self.normalize, scale=self.scale)
        idx = selected
        if self.capacity_factor is not None:
            limit = capacity(len(s), self.k, self.experts, self.capacity_factor)
            idx, weights = drop_over_capacity(selected, weights, self.experts, limit, self.drop_order)
        return Gate(idx, np.asarray(weights, dtype=np.float32), s, selected)

    def backward(self, gate: Gate, grad_weights: npt.ArrayLike) -> Floats:
        """The gradient with respect to the logits [T, E], given that with respect to gate.weights [T, K].

        A dropped choice has the constant weight 0: its gradient is ignored. The bias has no gradient.
        """
        grad = np.where(gate.idx >= 0, _same_shape(grad_weights, "grad_weights", gate.idx.shape), 0)
        through = topk_weights_backward(
            grad, gate.scores, gate.selected, normalize=self.normalize, scale=self.scale
        )
        return scores_backward(through, gate.scores, self.score)

    def balance_loss(
        self, gate: Gate, *, alpha: float = 1e-4, lengths: Sequence[int] | npt.ArrayLike | None = None
    ) -> tuple[float, Floats]:
        """sequence_balance_loss of gate.scores; its gradient is with respect to the logits [T, E]."""
        loss, grad = sequence_balance_loss(gate.scores, self.k, lengths=lengths, alpha=alpha)
        return loss, scores_backward(grad, gate.scores, self.score)

    def update_bias(self, counts: npt.ArrayLike, gamma: float = 1e-3) -> None:
        """Moves `bias` by gamma * sign(mean load - load); `counts` [E] summed over all PEs."""
        if np.shape(counts) != (self.experts,):
            raise ValueError(f"counts must have the shape [{self.experts}], got {list(np.shape(counts))}")
        self._bias = update_bias(self._bias, counts, gamma)
