"""Wrong arguments and what kernels find: `pyshmem.moe.ExpertParallel` on GPUs says so, and goes on."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from moe_reference import loads_for

torch = pytest.importorskip("torch")

from pyshmem.errors import ShmemError  # noqa: E402
from pyshmem.moe import ExpertParallel  # noqa: E402

SMALL = (40, 256, 8, 3)  # tokens, hidden, experts, topk


def test_wrong_arguments(make, around, cp):
    """Raised before anything is launched, on all PEs here; the object goes on."""
    me, n, _, _ = around
    tokens, hidden, _, topk = SMALL
    ep, other = make(SMALL), make(SMALL)
    x, idx, weights = loads_for(SMALL, "random", n)[me].on_gpu()
    more = torch.zeros(tokens + 1, hidden, dtype=torch.bfloat16, device="cuda")
    theirs, own = other.dispatch(x, idx, weights), ep.dispatch(x, idx, weights)
    wrong = [
        (TypeError, "NumPy", (np.zeros((2, hidden)), idx)),
        (TypeError, "float32", (x.float(), idx)),
        (ShmemError, "host memory", (x.cpu(), idx)),
        (ShmemError, "shape", (x[:, :-8], idx)),
        (ShmemError, "shape", (x[0], idx)),
        (ShmemError, "adjacent", (torch.zeros(hidden, len(x), dtype=torch.bfloat16, device="cuda").t(), idx)),
        (ShmemError, "max_tokens", (more, torch.zeros(tokens + 1, topk, dtype=torch.int64, device="cuda"))),
        (TypeError, "topk_idx", (x, idx.float())),
        (TypeError, "topk_idx", (x, None)),
        (ShmemError, "topk_idx has shape", (x, idx[:, :-1])),
        (ShmemError, "not contiguous", (x, torch.zeros(topk, len(x), dtype=torch.int64, device="cuda").t())),
        (TypeError, "topk_weights", (x, idx, weights.double())),
        (ShmemError, "topk_weights has shape", (x, idx, weights[:-1])),
        (TypeError, "torch", (x, cp.zeros((len(x), topk), "int64"))),
    ]
    for kind, text, arguments in wrong:
        with pytest.raises(kind, match=text):
            ep.dispatch(*arguments)
    for text, options in (
        ("another", {"routing": theirs}), ("both", {"routing": own, "topk_idx": idx}),
        ("quantized", {"topk_idx": idx, "quantized": True}), ("quant is", {"topk_idx": idx, "quant": "int4"}),
    ):  # fmt: skip
        with pytest.raises(ShmemError, match=text):
            ep.dispatch(x, **options)
    got = ep.dispatch(x, idx, weights)
    for kind, text, y, options in (
        (TypeError, "got is", got.recv_x, {"got": x}),
        (ShmemError, "another", got.recv_x, {"got": theirs}),
        (ShmemError, "shape", torch.zeros(got.rows + 1, hidden, dtype=torch.bfloat16, device="cuda"), {}),
        (TypeError, "float32", got.recv_x.float(), {}),
        (ShmemError, "bias has shape", got.recv_x, {"bias": more}),
        (ShmemError, "out has shape", got.recv_x, {"out": more}),
        (
            ShmemError,
            "topk_weights has shape",
            got.recv_x,
            {"topk_weights": torch.zeros(1, 1, device="cuda")},
        ),
    ):
        with pytest.raises(kind, match=text):
            ep.combine(y, **{"got": got, **options})
    ep.combine(got.recv_x, got)
    ep.close()
    ep.close()
    with pytest.raises(ShmemError, match="closed"):
        ep.dispatch(x, idx)
    with pytest.raises(ShmemError, match="gone"):
        _ = got.recv_x


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"dtype": "float32"}, TypeError, "bfloat16"), ({"quant": "int4"}, ShmemError, "quant"),
        ({"combine_quant": "fp8"}, ShmemError, "combine_quant"), ({"group": 5}, ShmemError, "group"),
        ({"mode": "guess"}, ShmemError, "mode"), ({"nonfinite": "error"}, ShmemError, "nonfinite"),
        ({"expert_alignment": 0}, ShmemError, "expert_alignment"),
    ],
)  # fmt: skip
def test_wrong_constructor(job, cp, options, kind, text):
    with pytest.raises(kind, match=text):
        ExpertParallel(8, 256, 2, 16, device="cuda", **options)


@pytest.mark.parametrize(
    "shape", [(0, 256, 8, 2), (16, 250, 8, 2), (16, 256, 0, 2), (16, 256, 8, 33)], ids=str
)
def test_wrong_sizes(job, cp, shape):
    tokens, hidden, experts, topk = shape
    with pytest.raises(ShmemError):
        ExpertParallel(experts, hidden, topk, tokens, device="cuda")


def test_ids_out_of_range_are_reported(make, around, device):
    me, n, _, _ = around
    ep = make(SMALL)
    x, idx, weights = loads_for(SMALL, "random", n)[me].on_gpu()
    bad = idx.clone()
    if len(bad):
        bad[0, 0] = SMALL[2]
    got = ep.dispatch(x, bad, weights)
    torch.cuda.synchronize()
    if len(bad):
        with pytest.raises(ShmemError):
            device.check()
    assert (got.topk_idx < max(ep.local_experts, 1)).all()


def test_a_report_of_one_rank_keeps_it_from_nothing(make, around, device):
    """An id out of range on rank 0: it goes on with the others, and hears of the id when it asks."""
    me, n, _, _ = around
    ep = make(SMALL)
    x = torch.ones(4, SMALL[1], dtype=torch.bfloat16, device="cuda")
    idx = torch.full((4, SMALL[3]), -1, device="cuda")
    idx[:, 0] = 0  # all to rank 0
    bad = idx.clone()
    if me == 0:
        bad[0, 0] = SMALL[2]
    assert ep.dispatch(x, bad).rows == (4 * n - 1 if me == 0 else 0)
    torch.cuda.synchronize()
    for _ in range(2):
        got = ep.dispatch(x, idx)
        assert got.rows == (4 * n if me == 0 else 0)
        assert (ep.combine(got.recv_x, got) == 1).all()
    again = ep.dispatch(x, routing=got)
    assert again.rows == got.rows
    if me == 0:
        with pytest.raises(ShmemError, match="choice 0 of topk_idx"):
            device.synchronize(torch.cuda.current_stream())
    device.synchronize(torch.cuda.current_stream())


@pytest.mark.npes(min=2)
def test_more_rows_than_capacity(make, around, device):
    """LimitError everywhere, and the object goes on."""
    me, n, _, _ = around
    ep = make(SMALL, capacity=SMALL[0])
    x = torch.zeros(SMALL[0], SMALL[1], dtype=torch.bfloat16, device="cuda")
    idx = torch.full((SMALL[0], SMALL[3]), -1, device="cuda")
    idx[:, 0] = 0  # all to rank 0
    with pytest.raises(ShmemError) as caught:
        ep.dispatch(x, idx)
    assert caught.value.name == "LIMIT"
    few = ep.dispatch(x[:4], idx[:4])
    assert few.rows == (4 * n if me == 0 else 0)
    torch.cuda.synchronize()
    with contextlib.suppress(ShmemError):  # the same once more, or nothing
        device.check()
