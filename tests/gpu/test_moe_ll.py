"""LowLatency on GPUs against plain NumPy: what each expert receives, in what order, and what comes back."""

from __future__ import annotations

import hashlib

import moe_reference as ref
import numpy as np
import pytest
from moe_reference import loads_for

torch = pytest.importorskip("torch")

from pyshmem.errors import ShmemError  # noqa: E402
from pyshmem.moe import LowLatency  # noqa: E402

pytestmark = pytest.mark.usefixtures("own_stream")

# tokens, hidden, experts, topk
SMALL, WIDE, UNEVEN = (32, 256, 8, 3), (64, 7168, 32, 8), (17, 136, 7, 2)


@pytest.fixture
def make(closing):
    """LowLatency, closed at the end."""

    def build(shape, **options):
        tokens, hidden, experts, topk = shape
        return closing(LowLatency(experts, hidden, topk, tokens, **options))

    return build


def rows_per_expert(loads, shape, me):
    """For each local expert the (rank, token) pairs it receives, in order."""
    _, first = ref.owners(shape[2], len(loads))
    found = []
    for e in range(first[me], first[me + 1]):
        found.append([(r, t) for r, one in enumerate(loads) for t in np.flatnonzero((one.idx == e).any(1))])
    return found


def check_rows(got, loads, shape, me, compare):
    """Counts, sources in order, and `compare` for every expert's rows."""
    wanted = rows_per_expert(loads, shape, me)
    counts = got.recv_count.cpu().numpy()
    assert counts.tolist() == [len(w) for w in wanted]
    source = got.recv_source.cpu().numpy()
    for e, pairs in enumerate(wanted):
        assert source[e, : len(pairs)].tolist() == [r * shape[0] + t for r, t in pairs]
        if pairs:
            compare(e, len(pairs), torch.stack([loads[r].x[t] for r, t in pairs]))


def experts_of(got, ll, values):
    """BF16 [L, R * M, H]: what expert e makes of its rows, e + 1 quarters of them; NaN where nothing came."""
    factors = 1 + 0.25 * (ll.first_expert + torch.arange(ll.local_experts, device="cuda"))
    y = (values * factors[:, None, None]).to(torch.bfloat16)
    behind = torch.arange(y.shape[1], device="cuda")[None, :] >= got.recv_count[:, None]
    return y.masked_fill(behind[:, :, None], float("nan"))


def values_of(got, ll):
    """float32 rows of any format."""
    if got.scales is None:
        return got.recv_x.float()
    columns = ll.hidden if ll.group == "row" else ll.group
    return got.recv_x.float() * got.scales.repeat_interleave(columns, dim=2)[:, :, : ll.hidden]


def wanted_sum(mine, weights=None):
    w = np.where(mine.idx >= 0, (mine.weights if weights is None else weights).astype(np.float64), 0)
    return mine.values * (w * (1 + 0.25 * mine.idx)).sum(1, keepdims=True)


def check_out(out, total, tolerance):
    found = out.cpu().to(torch.float64).numpy()
    assert found.shape == total.shape
    error, size = np.linalg.norm(found - total, axis=1), np.linalg.norm(total, axis=1)
    assert (error <= tolerance * size + 1e-9).all(), (error / (size + 1e-30)).max()


@pytest.mark.parametrize("ids", ["int64", "int32"])
@pytest.mark.parametrize("shape", [SMALL, WIDE, UNEVEN], ids=str)
@pytest.mark.parametrize("routing", ref.ROUTINGS)
def test_bf16(make, around, routing, shape, ids):
    me, n, _, _ = around
    loads = loads_for(shape, routing, n)
    ll = make(shape)
    x, idx, weights = loads[me].on_gpu(getattr(torch, ids))
    got = ll.dispatch(x, idx, weights)

    def same(e, count, rows):
        assert (ref.bits(got.recv_x[e, :count]) == ref.bits(rows)).all()

    check_rows(got, loads, shape, me, same)
    y = experts_of(got, ll, got.recv_x.float())
    check_out(ll.combine(y, got), wanted_sum(loads[me]), 0.02)
    other = torch.rand_like(weights)
    check_out(ll.combine(y, got, other), wanted_sum(loads[me], other.cpu().numpy()), 0.02)


@pytest.mark.parametrize("group", [128, 64, 32, "row"])
@pytest.mark.parametrize(("shape", "data"), [(WIDE, "normal"), (SMALL, "wide"), (UNEVEN, "wide")], ids=str)
def test_int8(make, around, shape, data, group):
    me, n, _, _ = around
    loads = loads_for(shape, "random", n, data=data)
    ll = make(shape, quant="int8", combine_quant="int8", group=group)
    x, idx, weights = loads[me].on_gpu()
    got = ll.dispatch(x, idx, weights)
    columns = shape[1] if group == "row" else group
    before, after = [], []

    def near(e, count, rows):
        step = ref.spread(got.scales[e, :count].cpu().numpy(), shape[1], columns)
        back = got.recv_x[e, :count].cpu().numpy() * step
        wanted = rows.to(torch.float64).numpy()
        assert (np.abs(back - wanted) <= step / 2 * (1 + 1e-5) + 2.0**-126).all()
        before.append(wanted)
        after.append(back)

    check_rows(got, loads, shape, me, near)
    if data == "normal" and before:
        least = {128: 43, 64: 43, 32: 44, "row": 40}[group]
        assert ref.sqnr(np.concatenate(before), np.concatenate(after)) >= least
        assert ref.cosine(np.concatenate(before), np.concatenate(after)) >= 0.9999
    out = ll.combine(experts_of(got, ll, values_of(got, ll)), got)
    total = wanted_sum(loads[me])
    if data == "normal":
        check_out(out, total, 0.03)
        some = np.abs(total).sum(1) > 0
        if some.any():
            found = out.cpu().to(torch.float64).numpy()
            assert ref.sqnr(total[some], found[some]) >= 36 and ref.cosine(total, found) >= 0.9998


@pytest.mark.parametrize("scales", ["rows", "columns", "packed"])
@pytest.mark.parametrize("shape", [WIDE, SMALL], ids=str)
def test_fp8(make, around, shape, scales):
    me, n, _, _ = around
    loads = loads_for(shape, "random", n)
    ll = make(shape, quant="fp8", ue8m0=scales == "packed")
    x, idx, weights = loads[me].on_gpu()
    got = ll.dispatch(x, idx, weights, scales=scales)
    torch.cuda.synchronize()  # what follows loads kernels of PyTorch's
    rows, groups = n * shape[0], shape[1] // 128
    if scales != "rows":
        assert got.scales.stride(1) == 1  # the row is fastest
    if scales == "packed":
        assert tuple(got.scales.shape) == (ll.local_experts, rows, -(-groups // 4))
        assert got.scales.dtype == torch.int32
        packed = got.scales.clone(memory_format=torch.contiguous_format)
        exponents = packed.view(torch.uint8).view(ll.local_experts, rows, -1)[:, :, :groups]
        spread = torch.exp2(exponents.float() - 127)
    else:
        assert tuple(got.scales.shape) == (ll.local_experts, rows, groups)
        spread = got.scales
    before, after = [], []

    def near(e, count, wanted):
        step = ref.spread(spread[e, :count].cpu().numpy(), shape[1], 128)
        after.append(got.recv_x[e, :count].cpu().to(torch.float64).numpy() * step)
        before.append(wanted.to(torch.float64).numpy())
        amax = np.abs(before[-1]).reshape(count, -1, 128).max(2)
        found = spread[e, :count].cpu().numpy()
        exact = np.maximum(amax, 1e-4) / 448
        if scales == "packed":
            assert (found >= exact * (1 - 1e-6)).all() and (found < 2 * exact).all()
        else:
            np.testing.assert_allclose(found, exact, rtol=1e-6)

    check_rows(got, loads, shape, me, near)
    if before:
        least = 31 if scales != "packed" else 30
        assert ref.sqnr(np.concatenate(before), np.concatenate(after)) >= least
        assert ref.cosine(np.concatenate(before), np.concatenate(after)) >= 0.9995
    values = got.recv_x.float() * spread.repeat_interleave(128, dim=2)[:, :, : shape[1]]
    check_out(ll.combine(experts_of(got, ll, values), got), wanted_sum(loads[me]), 0.06)


def test_an_expert_twice(make, around):
    """One row there, weighted twice."""
    me, n, _, _ = around
    loads = loads_for(SMALL, "random", n)
    for one in loads:
        one.idx[:, 1] = one.idx[:, 0]
    ll = make(SMALL)
    x, idx, weights = loads[me].on_gpu()
    got = ll.dispatch(x, idx, weights)
    check_rows(got, loads, SMALL, me, lambda e, count, rows: None)
    check_out(ll.combine(experts_of(got, ll, got.recv_x.float()), got), wanted_sum(loads[me]), 0.02)


def test_strided_rows_and_out(make, around):
    me, n, _, _ = around
    loads = loads_for(SMALL, "random", n)
    ll = make(SMALL)
    x, idx, _ = loads[me].on_gpu()
    hidden = SMALL[1]
    wide = torch.zeros(len(x), hidden + 64, dtype=torch.bfloat16, device="cuda")
    wide[:, :hidden] = x
    got = ll.dispatch(wide[:, :hidden], idx)
    out = torch.zeros(len(x), hidden + 4, dtype=torch.bfloat16, device="cuda")
    back = ll.combine(experts_of(got, ll, got.recv_x.float()), got, out=out[:, :hidden])
    assert back.data_ptr() == out.data_ptr() and not out[:, hidden:].any()
    check_out(back, wanted_sum(loads[me], np.ones_like(loads[me].weights)), 0.02)


# ---- hooks -------------------------------------------------------------------------------------------------


def test_hooks_with_two_under_way(make, around):
    me, n, _, _ = around
    ll = make(SMALL, quant="int8", combine_quant="int8")
    loads = [loads_for(SMALL, "random", n, seed=s) for s in range(2)]
    on_gpu = [one[me].on_gpu() for one in loads]
    for _ in range(4):
        got = [ll.dispatch(*a, hook=True) for a in on_gpu]
        with pytest.raises(ShmemError, match="wait for their hook"):
            ll.dispatch(*on_gpu[0], hook=True)
        with pytest.raises(ShmemError, match="wait for their hook"):
            ll.dispatch(*on_gpu[0])
        with pytest.raises(ShmemError, match="order"):
            got[1].hook()
        outs = []
        for g, one in zip(got, loads, strict=True):
            g.hook()
            check_rows(g, one, SMALL, me, lambda e, count, rows: None)
            outs.append(ll.combine(experts_of(g, ll, values_of(g, ll)), g, hook=True))
        with pytest.raises(ShmemError, match="wait for their hook"):
            ll.combine(torch.zeros_like(got[0].recv_x, dtype=torch.bfloat16), got[0], hook=True)
        for (out, hook), one in zip(outs, loads, strict=True):
            hook()
            check_out(out, wanted_sum(one[me]), 0.04)
        with pytest.raises(ShmemError, match="called before"):
            got[0].hook()


def test_captured_in_a_graph(make, around, device):
    me, n, _, _ = around
    ll = make(SMALL, quant="fp8")
    first, second = loads_for(SMALL, "random", n), loads_for(SMALL, "random", n, seed=1)
    x, idx, weights = first[me].on_gpu()

    def step():
        got = ll.dispatch(x, idx, weights, hook=True)
        got.hook()
        return ll.combine(experts_of(got, ll, values_of(got, ll)), got)

    step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outs = [step() for _ in range(3)]
    for loads in (first, second, first):
        for to, source in zip((x, idx, weights), loads[me].on_gpu(), strict=True):
            to.copy_(source)
        graph.replay()
        device.synchronize(torch.cuda.current_stream())
        for out in outs:
            check_out(out, wanted_sum(loads[me]), 0.06)
    check_out(step(), wanted_sum(first[me]), 0.06)


def test_the_same_bits_again(make, around):
    me, n, _, _ = around
    ll = make(SMALL, quant="int8", combine_quant="int8")

    def once():
        digest = hashlib.sha256()
        for seed in range(40):
            kind = ref.ROUTINGS[seed % len(ref.ROUTINGS)]
            x, idx, weights = loads_for(SMALL, kind, n, seed=seed)[me].on_gpu()
            got = ll.dispatch(x, idx, weights)
            counts = got.recv_count.tolist()
            out = ll.combine(experts_of(got, ll, values_of(got, ll)), got)
            for e, count in enumerate(counts):
                digest.update(ref.bits(got.recv_x[e, :count]).tobytes())
                digest.update(ref.bits(got.recv_source[e, :count]).tobytes())
            digest.update(ref.bits(out).tobytes())
        return digest.hexdigest()

    assert once() == once()


def test_many_rounds(make, around):
    """Both halves of the memory, over and over, without a pause between the rounds."""
    me, n, _, _ = around
    ll = make(WIDE)
    loads = loads_for(WIDE, "random", n)
    x, idx, weights = loads[me].on_gpu()
    first = ll.combine(ll.dispatch(x, idx, weights).recv_x, ll.dispatch(x, idx, weights))
    outs = []
    for _ in range(200):
        got = ll.dispatch(x, idx, weights)
        outs.append(ll.combine(got.recv_x, got))
    assert all(torch.equal(out, first) for out in outs)


def test_cupy_arrays(make, around, cp):
    me, n, _, _ = around
    loads = loads_for(SMALL, "random", n)
    ll = make(SMALL)
    x = cp.asarray(ref.bits(loads[me].x).view(np.uint16))
    got = ll.dispatch(x, cp.asarray(loads[me].idx), cp.asarray(loads[me].weights))
    assert type(got.recv_x) is cp.ndarray
    torch.cuda.synchronize()  # CuPy is in its default stream
    assert got.recv_count.get().tolist() == [len(w) for w in rows_per_expert(loads, SMALL, me)]
    out = ll.combine(got.recv_x, got)
    torch.cuda.synchronize()
    back = torch.from_numpy(cp.asnumpy(out.view(np.int16))).view(torch.bfloat16)
    w = np.where(loads[me].idx >= 0, loads[me].weights.astype(np.float64), 0).sum(1, keepdims=True)
    check_out(back, loads[me].values * w, 0.02)


# ---- dead ranks, mistakes ----------------------------------------------------------------------------------


def test_a_report_of_one_rank_keeps_it_from_nothing(make, around, device):
    """An id out of range on rank 0: it goes on with the others, and hears of the id when it asks."""
    me, n, _, _ = around
    ll = make(SMALL)
    loads = loads_for(SMALL, "random", n)
    x, idx, weights = loads[me].on_gpu()
    bad = idx.clone()
    if me == 0 and len(bad):
        bad[0, 0] = SMALL[2]
    got = ll.dispatch(x, bad, weights)
    ll.combine(experts_of(got, ll, got.recv_x.float()), got)
    torch.cuda.synchronize()
    for _ in range(2):
        got = ll.dispatch(x, idx, weights)
        out = ll.combine(experts_of(got, ll, got.recv_x.float()), got)
        check_out(out, wanted_sum(loads[me]), 0.02)
    if me == 0 and len(bad):
        with pytest.raises(ShmemError, match="choice 0 of topk_idx"):
            device.synchronize(torch.cuda.current_stream())
    device.synchronize(torch.cuda.current_stream())


@pytest.mark.npes(min=2)
def test_masked_rank(make, around, meet):
    """The others go on without it; then it is back."""
    me, n, _, _ = around
    ll = make(SMALL)
    loads = loads_for(SMALL, "random", n)
    x, idx, weights = loads[me].on_gpu()
    assert ll.dead_ranks() == []
    meet()
    ll.mask([n - 1] if me != n - 1 else range(n - 1))
    assert ll.dead_ranks() == ([n - 1] if me != n - 1 else list(range(n - 1)))
    got = ll.dispatch(x, idx, weights)
    out = ll.combine(experts_of(got, ll, got.recv_x.float()), got)
    own, _ = ref.owners(SMALL[2], n)
    mine = loads[me]
    reached = (own[mine.idx] != n - 1) if me != n - 1 else (own[mine.idx] == n - 1)
    kept = ref.Load(mine.x, np.where(reached, mine.idx, -1), mine.weights)
    check_out(out, wanted_sum(kept), 0.02)
    meet()
    ll.mask()
    meet()
    got = ll.dispatch(x, idx, weights)
    check_out(ll.combine(experts_of(got, ll, got.recv_x.float()), got), wanted_sum(mine), 0.02)
    with pytest.raises(ShmemError, match="mask"):
        ll.mask([n])


def test_wrong_arguments(make, around, cp):
    me, n, _, _ = around
    tokens, hidden, _, _ = SMALL
    ll, other = make(SMALL), make(SMALL)
    x, idx, weights = loads_for(SMALL, "random", n)[me].on_gpu()
    theirs = other.dispatch(x, idx)
    many = torch.zeros(tokens + 1, hidden, dtype=torch.bfloat16, device="cuda")
    for kind, text, arguments, options in (
        (TypeError, "NumPy", (np.zeros((2, hidden)), idx), {}),
        (TypeError, "float32", (x.float(), idx), {}),
        (ShmemError, "host memory", (x.cpu(), idx), {}),
        (ShmemError, "shape", (x[:, :-8], idx), {}),
        (ShmemError, "max_tokens", (many, idx), {}),
        (TypeError, "topk_idx", (x, idx.float()), {}),
        (ShmemError, "topk_idx has shape", (x, idx[:, :-1]), {}),
        (TypeError, "topk_weights", (x, idx, weights.double()), {}),
        (ShmemError, "scales is", (x, idx), {"scales": "diagonal"}),
        (ShmemError, "ue8m0", (x, idx), {"scales": "packed"}),
    ):
        with pytest.raises(kind, match=text):
            ll.dispatch(*arguments, **options)
    got = ll.dispatch(x, idx)
    for kind, text, y, options in (
        (TypeError, "got is", got.recv_x, {"got": idx}),
        (ShmemError, "another", got.recv_x, {"got": theirs}),
        (ShmemError, "shape", got.recv_x[:, :-1], {}),
        (TypeError, "float32", got.recv_x.float(), {}),
        (ShmemError, "out has shape", got.recv_x, {"out": many}),
    ):
        with pytest.raises(kind, match=text):
            ll.combine(y, **{"got": got, **options})
    ll.combine(got.recv_x, got)
    ll.close()
    ll.close()
    with pytest.raises(ShmemError, match="closed"):
        ll.dispatch(x, idx)


@pytest.mark.parametrize(
    "options",
    [
        {"quant": "int4"}, {"combine_quant": "fp8"}, {"group": 5}, {"ue8m0": True}, {"max_tokens": 1025},
        {"hidden": 4},
    ],
    ids=str,
)  # fmt: skip
def test_wrong_constructor(job, cp, options):
    with pytest.raises(ShmemError):
        LowLatency(**{"num_experts": 8, "hidden": 256, "topk": 2, "max_tokens": 8, **options})


# ---- between nodes -----------------------------------------------------------------------------------------

_PATHS = {
    "proxy": {"SHMEM_GPU_NIC": "proxy"},
    "ibgda": {"SHMEM_GPU_NIC": "ibgda", "SHMEM_IBVERBS_LIB": "sim", "SHMEM_IBGDA_DEPTH": "256"},
}
# Each PE prints a digest of what it has received and added up: plain calls, two hooks under way, a graph.
_ROUNDS = """
import hashlib
import torch
import pyshmem as shmem
from pyshmem import device
from pyshmem.moe import LowLatency

torch.cuda.set_device(shmem.my_pe() % torch.cuda.device_count())
me, M, H, E, K = shmem.my_pe(), 16, 256, 8, 3
torch.manual_seed(me)
found = hashlib.sha256()

def load():
    x = torch.randn(M, H, device="cuda").bfloat16()
    weights, idx = torch.randn(M, E, device="cuda").softmax(1).topk(K)
    return x, idx, weights

def rows(got):
    x = got.recv_x.float()
    if got.scales is not None:
        x = x * got.scales.repeat_interleave(128, dim=2)[:, :, :H]
    return x.bfloat16()

def note(*arrays):
    device.synchronize()
    for a in arrays:
        found.update(a.contiguous().view(torch.uint8).cpu().numpy().tobytes())

def note_got(got):
    note(got.recv_count)
    for e, n in enumerate(got.recv_count.tolist()):
        note(got.recv_x[e, :n], got.recv_source[e, :n])

for quant, back in (("none", "none"), ("int8", "int8"), ("fp8", "none")):
    with LowLatency(E, H, K, M, quant=quant, combine_quant=back) as ll:
        for i in range(6):
            x, idx, weights = load()
            got = ll.dispatch(x, idx, weights)
            note_got(got)
            note(ll.combine(rows(got), got))
        for i in range(3):
            two = [ll.dispatch(*load(), hook=True) for _ in range(2)]
            for got in two:
                got.hook()
                note_got(got)
            outs = [ll.combine(rows(got), got, hook=True) for got in two]
            for out, hook in outs:
                hook()
                note(out)
        x, idx, weights = load()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            got = ll.dispatch(x, idx, weights)
            out = ll.combine(rows(got), got)
        for i in range(3):
            x.copy_(torch.randn(M, H, device="cuda").bfloat16())
            graph.replay()
            note(out)
        assert ll.dead_ranks() == []
print("digest", me, found.hexdigest())
"""


@pytest.mark.npes(1)
@pytest.mark.parametrize("nodes", [(2, "/1"), (4, "/2")], ids=["2-nodes", "4-pes-of-2-nodes"])
@pytest.mark.parametrize("path", _PATHS)
def test_over_a_path_as_mapped(run_pes, path, nodes):
    """The same bits over a NIC's path as where all is mapped. A GPU for each PE: kernels wait for others."""
    n, node = nodes
    if torch.cuda.device_count() < n:
        pytest.skip(f"{n} GPUs are wanted, there are {torch.cuda.device_count()}")
    digests = []
    for environment in ({}, {"SHMEM_NODE_ID": node, **_PATHS[path]}):
        ran = run_pes(n, _ROUNDS, timeout=240, SHMEM_TIMEOUT="60", **environment)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        digests.append(sorted(line for line in ran.stdout.splitlines() if line.startswith("digest")))
    assert len(digests[0]) == n and digests[0] == digests[1]
