"""ExpertParallel between nodes, on the GPUs of one machine: pes_per_node makes nodes of them, or
SHMEM_NODE_ID=/2, and SHMEM_GPU_NIC then says by which path rows go between them (run.sh). Against plain
NumPy, and bit by bit against the object with one level."""

from __future__ import annotations

import os

import moe_reference as ref
import numpy as np
import pytest
from moe_reference import check_tables, loads_for, scaled, summed

torch = pytest.importorskip("torch")

from pyshmem.errors import ShmemError  # noqa: E402
from pyshmem.moe import ExpertParallel  # noqa: E402

# tokens, hidden, experts, topk
SMALL, WIDE, UNEVEN = (40, 256, 16, 3), (150, 7168, 64, 8), (33, 136, 11, 4)

pytestmark = [pytest.mark.npes(min=4), pytest.mark.usefixtures("own_stream")]

NODE = os.environ.get("SHMEM_NODE_ID", "")
# PEs of a node where the job itself has nodes, else 0.
REAL = int(NODE[1:]) if NODE.startswith("/") else 0


@pytest.fixture(params=[2, 3, 4])
def each(around, request):
    """PEs of a node, where that makes some nodes of several PEs."""
    _, n, _, _ = around
    if n % request.param or n == request.param or REAL not in (0, request.param):
        pytest.skip(f"{n} PEs are not several nodes of {request.param}")
    return request.param


def weights_on(loads, me, experts):
    """float64 [T, R]: the sum of a token's weights on each rank."""
    own, _ = ref.owners(experts, len(loads))
    mine = loads[me]
    here = [(mine.idx >= 0) & (own[mine.idx] == r) for r in range(len(loads))]
    return np.stack([np.where(h, mine.weights, 0).sum(1) for h in here], axis=1)


@pytest.mark.parametrize("shape", [SMALL, WIDE, UNEVEN], ids=str)
@pytest.mark.parametrize("routing", ref.ROUTINGS)
def test_dispatch_and_combine(make, around, each, routing, shape):
    me, n, _, _ = around
    loads = loads_for(shape, routing, n)
    wanted = ref.arrival(loads, shape[2], me)
    ep = make(shape, pes_per_node=each)
    assert (ep.nodes, ep.pes_per_node) == (n // each, each)
    x, idx, weights = loads[me].on_gpu()
    got = ep.dispatch(x, idx, weights)
    assert (ref.bits(got.recv_x) == ref.bits(ref.rows_of(loads, wanted))).all()
    check_tables(got, wanted)
    y = scaled(got.recv_x, me)
    total, size = summed(loads, me, shape[2])
    outs = [ep.combine(y, got) for _ in range(4)]  # one behind the other, on streams that nothing holds up
    for out in outs:
        ref.close(out, total, size, parts=True)
        assert torch.equal(out, outs[0])
    ep.dispatch(x, idx.flip(1), weights)  # the way of the first is kept with it, weights included
    total, size = summed(loads, me, shape[2], weights_on(loads, me, shape[2]))
    ref.close(ep.combine(y, got, weighted=True), total, size, parts=True)


def test_as_with_one_level(make, around, each):
    """What arrives is the same to the last bit, however it travels."""
    me, n, _, _ = around
    loads = loads_for(WIDE, "random", n)
    x, idx, weights = loads[me].on_gpu()
    near, far = make(WIDE, pes_per_node=1 if REAL else n), make(WIDE, pes_per_node=each)
    for quant in ("none", "int8", "fp8"):
        options = {"quant": quant, "quantized": quant != "none"}
        one, two = (ep.dispatch(x, idx, weights, **options) for ep in (near, far))
        assert one.rows == two.rows
        assert (ref.bits(one.recv_x) == ref.bits(two.recv_x)).all()
        assert one.scales is None or torch.equal(one.scales, two.scales)
        for name in ("topk_idx", "topk_weights", "source_token", "source_rank", "tokens_per_source"):
            assert torch.equal(getattr(one, name), getattr(two, name)), name
    a, b = near.layout(idx), far.layout(idx)
    for name in ("num_tokens_per_rank", "num_tokens_per_expert", "is_token_in_rank"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    got = far.dispatch(x, idx, weights, layout=b)
    check_tables(got, ref.arrival(loads, WIDE[2], me))


def test_rows_that_are_quantized_already(make, around, each):
    me, n, _, _ = around
    loads = loads_for(SMALL, "random", n)
    wanted = ref.arrival(loads, SMALL[2], me)
    ep = make(SMALL, pes_per_node=each)
    _, idx, weights = loads[me].on_gpu()
    every = [ref.fp8(one.x) for one in loads]
    q, s = (a.cuda() for a in every[me])
    got = ep.dispatch((q, s.t().contiguous().t()), idx, weights)
    check_tables(got, wanted)
    taken = [wanted.token[wanted.rank == r] for r in range(n)]
    rows = [ref.bits(a)[t] for (a, _), t in zip(every, taken, strict=True)]
    scales = [b.numpy()[t] for (_, b), t in zip(every, taken, strict=True)]
    assert (ref.bits(got.recv_x) == np.concatenate(rows)).all()
    assert (got.scales.cpu().numpy() == np.concatenate(scales)).all()


def test_cached_and_gradients(make, around, each):
    me, n, _, _ = around
    loads = loads_for(SMALL, "random", n)
    ep = make(SMALL, results=3, pes_per_node=each)
    x, idx, weights = loads[me].on_gpu()
    got = ep.dispatch(x, idx, weights)
    wanted = ref.arrival(loads, SMALL[2], me)
    check_tables(got, wanted)
    again = ep.dispatch(x * 2, routing=got)
    twice = [ref.Load(one.x * 2, one.idx, one.weights) for one in loads]
    assert (ref.bits(again.recv_x) == ref.bits(ref.rows_of(twice, wanted))).all()
    assert (ref.bits(got.recv_x) == ref.bits(ref.rows_of(loads, wanted))).all()  # two live results
    check_tables(again, wanted)
    total, size = summed(loads, me, SMALL[2])
    ref.close(ep.combine(scaled(again.recv_x, me), again), 2 * total, 2 * size, parts=True)
    biases = torch.full_like(x, 0.5), scaled(x, 2)
    back, returned = ep.combine(scaled(got.recv_x, me), got, topk_weights=got.topk_weights * 2, bias=biases)
    extra = sum(b.cpu().to(torch.float64).numpy() for b in biases)
    ref.close(back, total + extra, size + np.abs(extra) + 1, parts=True)
    assert (returned.cpu().numpy() == np.where(loads[me].idx >= 0, loads[me].weights * 2, 0)).all()


@pytest.mark.parametrize("alignment", [1, 16])
def test_expert_form(make, around, each, alignment):
    me, n, _, _ = around
    loads = loads_for(SMALL, "random", n)
    ep = make(SMALL, pes_per_node=each, expert_alignment=alignment)
    x, idx, weights = loads[me].on_gpu()
    got = ep.dispatch(x, idx, weights, by_expert=True)
    factors = torch.ones(got.expert_rows, 1, device="cuda")
    for e, (begin, end) in enumerate(got.expert_ranges()):
        factors[begin:end] = 1 + 0.25 * (ep.first_expert + e)
    y = (got.recv_x.float() * factors).to(torch.bfloat16)
    mine = loads[me]
    w = np.where(mine.idx >= 0, mine.weights.astype(np.float64), 0)
    total = mine.values * (w * (1 + 0.25 * mine.idx)).sum(1, keepdims=True)
    out = ep.combine(y, got).cpu().to(torch.float64).numpy()
    error = np.linalg.norm(out - total, axis=1)
    assert (error <= 0.02 * np.linalg.norm(total, axis=1) + 1e-9).all()


def test_without_weights_each_is_one(make, around, each):
    me, n, _, _ = around
    loads = loads_for(SMALL, "random", n)
    ep = make(SMALL, pes_per_node=each)
    x, idx, _ = loads[me].on_gpu()
    got = ep.dispatch(x, idx)
    ones = [ref.Load(one.x, one.idx, np.ones_like(one.weights)) for one in loads]
    total, size = summed(loads, me, SMALL[2], weights_on(ones, me, SMALL[2]))
    ref.close(ep.combine(scaled(got.recv_x, me), got, weighted=True), total, size, parts=True)


def test_int8_both_ways(make, around, each):
    me, n, _, _ = around
    loads = loads_for(WIDE, "random", n)
    ep = make(WIDE, quant="int8", combine_quant="int8", pes_per_node=each)
    x, idx, weights = loads[me].on_gpu()
    got = ep.dispatch(x, idx, weights)
    out = ep.combine(scaled(got.recv_x, me), got).cpu().to(torch.float64).numpy()
    total, _ = summed(loads, me, WIDE[2])
    if len(total):  # quantized three times
        assert ref.sqnr(total, out) >= 41 and ref.cosine(total, out) >= 0.9999


def test_in_a_graph(make, around, device, each):
    me, n, _, _ = around
    first, second = (loads_for(SMALL, "random", n, seed=seed) for seed in (0, 1))
    ep = make(SMALL, pes_per_node=each)
    x, idx, weights = first[me].on_gpu()

    def step():
        got = ep.dispatch(x, idx, weights, sync=False)
        back = ep.dispatch(x, routing=got)
        return ep.combine(scaled(back.recv_x, me), back), got

    step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out, got = step()
    for loads in (first, second, first):
        for to, source in zip((x, idx, weights), loads[me].on_gpu(), strict=True):
            to.copy_(source)
        graph.replay()
        device.synchronize(torch.cuda.current_stream())
        total, size = summed(loads, me, SMALL[2])
        ref.close(out, total, size, parts=True)
    assert got.rows == ep.capacity


def test_no_tokens_here(make, around, each):
    """PE 0 has none, but forwards those of the other nodes, with their weights."""
    me, n, _, _ = around
    loads = loads_for(SMALL, "random", n)
    loads[0] = ref.Load(loads[0].x[:0], loads[0].idx[:0], loads[0].weights[:0])
    ep = make(SMALL, pes_per_node=each)
    x, idx, weights = loads[me].on_gpu()
    got = ep.dispatch(x, idx, weights)
    check_tables(got, ref.arrival(loads, SMALL[2], me))
    total, size = summed(loads, me, SMALL[2], weights_on(loads, me, SMALL[2]))
    out, back = ep.combine(scaled(got.recv_x, me), got, weighted=True, topk_weights=got.topk_weights)
    ref.close(out, total, size, parts=True)
    assert (back.cpu().numpy() == np.where(loads[me].idx >= 0, loads[me].weights, 0)).all()


def test_max_nodes(make, around, device, each):
    n = around[1]
    ep = make(SMALL, pes_per_node=each, max_nodes=1)
    _, first = ref.owners(SMALL[2], n)
    x = torch.ones(2, SMALL[1], dtype=torch.bfloat16, device="cuda")
    idx = torch.full((2, SMALL[3]), -1, device="cuda")
    idx[:, 0] = 0
    got = ep.dispatch(x, idx)
    device.synchronize(torch.cuda.current_stream())
    idx[1, 1] = first[each]  # the second node
    got = ep.dispatch(x, idx)
    out = ep.combine(got.recv_x, got)
    with pytest.raises(ShmemError, match=r"token 1 of topk_idx, at .* goes to 2 nodes, max_nodes is 1"):
        device.synchronize(torch.cuda.current_stream())
    assert (out[0] == 1).all() and (out[1] == 2).all()  # it has been sent all the same


@pytest.mark.skipif(REAL != 0, reason="which PEs share a node is known there, and is refused before")
def test_wrong_nodes(job, cp, around):
    me, n, _, _ = around
    with pytest.raises(ShmemError, match=f"pes_per_node is {n + 1}, must be"):
        ExpertParallel(8, 256, 2, 16, device="cuda", pes_per_node=n + 1)
    with pytest.raises(ShmemError, match=f"pes_per_node is {n} on PE 0 and 1 on PE {n - 1}"):
        ExpertParallel(8, 256, 2, 16, device="cuda", pes_per_node=n if me < n - 1 else 1)
    with pytest.raises(ShmemError, match="max_nodes"):
        ExpertParallel(8, 256, 2, 16, device="cuda", max_nodes=65)
