"""pyshmem.compat.deep_ep as programs for DeepEP V1 use it: shapes, dtypes, sentinels, tuples, lifetimes."""

from __future__ import annotations

import moe_reference as ref
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import pyshmem.compat.deep_ep as deep_ep  # noqa: E402

TOKENS, HIDDEN, TOPK = 48, 512, 4


class Comm:
    """The methods of mpi4py's communicators that Buffer calls, over a job that runs already."""

    def __init__(self, job):
        self.job = job

    def Get_rank(self):
        return self.job.my_pe()

    def Get_size(self):
        return self.job.n_pes()

    def allgather(self, value):
        mine, every = self.job.full(1, value, "int64"), self.job.zeros(self.job.n_pes(), "int64")
        self.job.fcollect(every, mine)
        return [int(v) for v in every]


@pytest.fixture
def make(job, cp, meet):
    made = []

    def build(**options):
        buffer = deep_ep.Buffer(None, comm=Comm(job), **{"explicitly_destroy": True, **options})
        made.append(buffer)
        return buffer

    yield build
    meet()
    for buffer in made:
        if buffer.explicitly_destroy:
            buffer.destroy()
            buffer.destroy()


@pytest.fixture(params=[0, 1 << 28], ids=["copies", "in place"])
def buffer(make, request):
    return make(num_nvl_bytes=request.param)


def loads_for(n, routing="random", seed=0):
    topk = min(TOPK, 2 * n)
    return [ref.load(routing, pe, TOKENS, HIDDEN, 2 * n, topk, seed=seed) for pe in range(n)]


def dispatch(buffer, load, experts, x=None, **options):
    x0, idx, weights = load.on_gpu()
    per_rank, per_rdma, per_expert, inside, _ = buffer.get_dispatch_layout(idx, experts)
    assert per_rdma is None
    return buffer.dispatch(
        x0 if x is None else x, num_tokens_per_rank=per_rank, num_tokens_per_rdma_rank=per_rdma,
        is_token_in_rank=inside, num_tokens_per_expert=per_expert, topk_idx=idx, topk_weights=weights,
        **options,
    )  # fmt: skip


@pytest.mark.parametrize("routing", ref.ROUTINGS)
def test_layout(buffer, around, routing):
    me, n, _, _ = around
    load = loads_for(n, routing)[me]
    for _ in range(2):  # before the first dispatch, and behind it
        per_rank, per_rdma, per_expert, inside, event = buffer.get_dispatch_layout(load.on_gpu()[1], 2 * n)
        there = ref.hits(load, 2 * n, n)
        assert per_rank.dtype == per_expert.dtype == torch.int32 and inside.dtype == torch.bool
        assert per_rdma is None and event.event is None
        assert (inside.cpu().numpy() == there).all() and (per_rank.cpu().numpy() == there.sum(0)).all()
        counts = np.bincount(load.idx[load.idx >= 0], minlength=2 * n)
        assert (per_expert.cpu().numpy() == counts).all()
        dispatch(buffer, load, 2 * n)


@pytest.mark.parametrize("alignment", [1, 8])
@pytest.mark.parametrize("form", ["bf16", "fp8", "ue8m0"])
@pytest.mark.parametrize("routing", ref.ROUTINGS)
def test_dispatch_and_combine(buffer, around, routing, form, alignment):
    me, n, _, _ = around
    loads = loads_for(n, routing)
    wanted = ref.arrival(loads, 2 * n, me)
    x = None
    if form != "bf16":
        q, s = ref.fp8(loads[me].x)
        x = q.cuda(), (s.view(torch.int32) if form == "ue8m0" else s).cuda()
    recv_x, idx, weights, counts, handle, event = dispatch(
        buffer, loads[me], 2 * n, x, expert_alignment=alignment
    )
    assert event.event is None
    assert idx.dtype == torch.int64 and (idx.cpu().numpy() == wanted.idx).all()
    assert (weights.cpu().numpy() == wanted.weights).all()
    assert counts == [-(-int(c) // alignment) * alignment for c in wanted.per_expert]
    rows = ref.rows_of(loads, wanted)
    if form == "bf16":
        assert (ref.bits(recv_x) == ref.bits(rows)).all()
    else:
        recv_x, scales = recv_x
        q, s = ref.fp8(rows)
        assert (ref.bits(recv_x) == ref.bits(q)).all()
        assert scales.dtype == x[1].dtype and (ref.bits(scales) == ref.bits(s)).all()
    # cached: rows alone
    again, *nothing, event = buffer.dispatch(loads[me].x.cuda(), handle=handle)
    assert nothing == [None] * 4 and (ref.bits(again) == ref.bits(rows)).all()
    # combine, weights, biases
    y = (again.float() * (me + 1)).to(torch.bfloat16)
    bias = torch.ones_like(loads[me].x).cuda()
    there = ref.hits(loads[me], 2 * n, n)
    total = sum(
        (loads[me].x.float() * (r + 1)).to(torch.bfloat16).double().numpy() * there[:, r : r + 1]
        for r in range(n)
    )
    size = np.abs(loads[me].values) * n * n
    for given, extra in ((None, 0), (bias, 1), ((bias, bias), 2)):
        out, back, event = buffer.combine(y, handle, bias=given)
        assert back is None and event.event is None
        ref.close(out, total + extra, size + 2)
    _, back, _ = buffer.combine(y, handle, topk_weights=weights)
    assert (back.cpu().numpy() == np.where(loads[me].idx >= 0, loads[me].weights, 0)).all()
    out, _, _ = buffer.combine(y, handle, use_int8=True)
    error = np.linalg.norm(out.cpu().double().numpy() - total)
    assert error <= 0.02 * np.linalg.norm(total)


def test_layout_alone(buffer, around):
    """Without topk_idx the layout says where tokens go."""
    me, n, _, _ = around
    loads = loads_for(n)
    x, idx, _ = loads[me].on_gpu()
    per_rank, _, per_expert, inside, _ = buffer.get_dispatch_layout(idx, 2 * n)
    recv_x, idx, weights, _, handle, _ = buffer.dispatch(
        x, num_tokens_per_rank=per_rank, is_token_in_rank=inside, num_tokens_per_expert=per_expert
    )
    assert idx is None and weights is None
    assert (ref.bits(recv_x) == ref.bits(ref.rows_of(loads, ref.arrival(loads, 2 * n, me)))).all()
    out, _, _ = buffer.combine(recv_x, handle)
    there = ref.hits(loads[me], 2 * n, n).sum(1)[:, None]
    ref.close(out, loads[me].values * there, np.abs(loads[me].values) * n)


def test_worst_case(buffer, around):
    me, n, _, _ = around
    loads = loads_for(n)
    wanted = ref.arrival(loads, 2 * n, me)
    most = n * TOKENS
    recv_x, idx, weights, counts, handle, _ = dispatch(buffer, loads[me], 2 * n, num_worst_tokens=most)
    rows = len(wanted.rank)
    assert counts == [] and len(recv_x) == len(idx) == len(weights) == most
    assert (idx[:rows].cpu().numpy() == wanted.idx).all() and (idx[rows:] == -1).all()
    assert (ref.bits(recv_x[:rows]) == ref.bits(ref.rows_of(loads, wanted))).all()
    out, _, _ = buffer.combine(recv_x, handle)
    there = ref.hits(loads[me], 2 * n, n).sum(1)[:, None]
    ref.close(out, loads[me].values * there, np.abs(loads[me].values) * n)


def test_results_live_as_long_as_their_tensors(buffer, around):
    """Twelve dispatches with changing sizes, held; some are dropped, and their buffers are used again."""
    me, n, _, _ = around
    held = []
    for seed in range(12):
        loads = loads_for(n, ("random", "skewed", "empty")[seed % 3], seed=seed)
        found = dispatch(buffer, loads[me], 2 * n)
        held.append((found[0], found[1], ref.bits(ref.rows_of(loads, ref.arrival(loads, 2 * n, me)))))
        if seed == 7:
            del held[me % 3 :: 2]  # other ranks drop others
    for recv_x, _, wanted in held:
        assert (ref.bits(recv_x) == wanted).all()
    held.clear()
    loads = loads_for(n, seed=99)
    found = dispatch(buffer, loads[me], 2 * n)
    assert (ref.bits(found[0]) == ref.bits(ref.rows_of(loads, ref.arrival(loads, 2 * n, me)))).all()


def test_more_tokens_than_before(buffer, around):
    """The object grows; handles of the earlier one still serve."""
    me, n, _, _ = around
    few = loads_for(n)
    first = dispatch(buffer, few[me], 2 * n)
    many = [ref.load("random", pe, 700, HIDDEN, 2 * n, min(TOPK, 2 * n)) for pe in range(n)]
    recv_x, *_ = dispatch(buffer, many[me], 2 * n)
    assert (ref.bits(recv_x) == ref.bits(ref.rows_of(many, ref.arrival(many, 2 * n, me)))).all()
    out, _, _ = buffer.combine(first[0], first[4])
    there = ref.hits(few[me], 2 * n, n).sum(1)[:, None]
    ref.close(out, few[me].values * there, np.abs(few[me].values) * n)


def test_async_with_events(buffer, around):
    """The communication stream waits for the event that was captured, the current one for the call's."""
    me, n, _, _ = around
    loads = loads_for(n)
    x, idx, weights = loads[me].on_gpu()
    options = {"async_finish": True, "allocate_on_comm_stream": True}
    for _ in range(5):
        ready = deep_ep.Buffer.capture()
        per_rank, _, per_expert, inside, event = buffer.get_dispatch_layout(
            idx, 2 * n, previous_event=ready, **options
        )
        found = buffer.dispatch(
            x, num_tokens_per_rank=per_rank, is_token_in_rank=inside, num_tokens_per_expert=per_expert,
            topk_idx=idx, topk_weights=weights, previous_event=event, **options,
        )  # fmt: skip
        recv_x, handle, event = found[0], found[4], found[5]
        assert isinstance(event, deep_ep.EventOverlap) and event.event is not None
        with event:
            pass
        y = recv_x * 1
        out, _, event = buffer.combine(y, handle, previous_event=deep_ep.Buffer.capture(), **options)
        event.current_stream_wait()
        there = ref.hits(loads[me], 2 * n, n).sum(1)[:, None]
        ref.close(out, loads[me].values * there, np.abs(loads[me].values) * n)
    assert buffer.get_comm_stream().cuda_stream
    with pytest.raises(AssertionError):
        buffer.combine(y, handle, allocate_on_comm_stream=True)


def test_wrong_arguments(buffer, make, around):
    me, n, _, _ = around
    loads = loads_for(n)
    x, idx, weights = loads[me].on_gpu()
    found = dispatch(buffer, loads[me], 2 * n)
    handle = found[4]
    with pytest.raises(AssertionError, match="layout"):
        buffer.dispatch(x, topk_idx=idx)
    with pytest.raises(AssertionError, match="handle"):
        buffer.dispatch(x, handle=handle, topk_idx=idx)
    with pytest.raises(TypeError):
        buffer.get_dispatch_layout(idx.float(), 2 * n)
    with pytest.raises(ValueError, match="num_experts"):
        buffer.get_dispatch_layout(idx, 2 * n + 1 if n > 1 else 0)
    with pytest.raises(TypeError, match="handle"):
        buffer.combine(found[0], "handle")
    with pytest.raises(ValueError, match="another"):
        make().combine(found[0], handle)
    with pytest.raises(NotImplementedError, match="single buffer"):
        buffer.get_local_buffer_tensor(torch.int8)
    with pytest.raises(AssertionError):
        make(explicitly_destroy=False).destroy()
    assert weights is not None


# ---- low latency -------------------------------------------------------------------------------------------

_FORMS = {
    "bf16": {"use_fp8": False}, "fp8": {}, "rounded": {"round_scale": True},
    "ue8m0": {"round_scale": True, "use_ue8m0": True}, "int8": {"use_int8": True},
}  # fmt: skip


def values_of(got, form):
    """float32 rows of any form."""
    if form == "bf16":
        return got.float()
    q, scales = got
    assert scales.stride(1) == 1  # columns: the row index is fastest
    if form == "ue8m0":
        packed = scales.clone(memory_format=torch.contiguous_format)
        assert packed.dtype == torch.int32
        scales = torch.exp2(packed.view(torch.uint8).float() - 127)[:, :, : HIDDEN // 128]
    return q.float() * scales.repeat_interleave(128, dim=2)


@pytest.mark.parametrize("hook", [False, True], ids=["", "hook"])
@pytest.mark.parametrize("form", _FORMS)
@pytest.mark.parametrize("routing", ref.ROUTINGS)
def test_low_latency(make, around, routing, form, hook):
    me, n, _, _ = around
    experts = 4 * n
    loads = [ref.load(routing, pe, TOKENS, HIDDEN, experts, TOPK) for pe in range(n)]
    buffer = make(low_latency_mode=True)
    x, idx, weights = loads[me].on_gpu()
    stats = torch.zeros(experts // n, dtype=torch.int32, device="cuda")
    for turn in range(2):
        got, count, handle, event, receive = buffer.low_latency_dispatch(
            x, idx, TOKENS, experts, cumulative_local_expert_recv_stats=stats, return_recv_hook=hook,
            **_FORMS[form],
        )  # fmt: skip
        assert event.event is None and (receive is not None) == hook
        if receive:
            receive()
        rows = got if form == "bf16" else got[0]
        assert tuple(rows.shape) == (experts // n, n * TOKENS, HIDDEN)
        if form not in ("bf16", "int8"):
            assert rows.dtype == torch.float8_e4m3fn
            columns = HIDDEN // 512 if form == "ue8m0" else HIDDEN // 128
            assert tuple(got[1].shape) == (experts // n, n * TOKENS, columns)
        wanted = np.stack([
            sum((one.idx == me * experts // n + e).any(1).sum() for one in loads) for e in range(experts // n)
        ])  # fmt: skip
        assert count.dtype == torch.int32 and (count.cpu().numpy() == wanted).all()
        assert (stats.cpu().numpy() == (turn + 1) * wanted).all()
        y = values_of(got, form).to(torch.bfloat16)
        total = loads[me].values * np.where(loads[me].idx >= 0, loads[me].weights, 0).sum(1, keepdims=True)
        for int8 in (False, True):
            given = torch.zeros_like(x)
            out, event, receive = buffer.low_latency_combine(
                y, idx, weights, handle, out=given, return_recv_hook=hook, combine_int8=int8
            )
            if receive:
                receive()
            assert out is given
            error = np.linalg.norm(out.cpu().double().numpy() - total)
            assert error <= (0.06 if form in ("fp8", "rounded", "ue8m0") else 0.03) * np.linalg.norm(total)
    space = buffer.get_next_low_latency_combine_buffer(handle)
    space.copy_(y)
    out, _, _ = buffer.low_latency_combine(torch.empty_like(y), idx, weights, handle, zero_copy=True)
    error = np.linalg.norm(out.cpu().double().numpy() - total)
    assert error <= 0.06 * np.linalg.norm(total)
    buffer.clean_low_latency_buffer(TOKENS, HIDDEN, experts)


def test_low_latency_async_and_warnings(make, around):
    me, n, _, _ = around
    experts = 2 * n
    load = ref.load("random", me, TOKENS, HIDDEN, experts, 2)
    buffer = make(low_latency_mode=True)
    x, idx, weights = load.on_gpu()
    got, _, handle, event, _ = buffer.low_latency_dispatch(
        x, idx, TOKENS, experts, use_fp8=False, async_finish=True
    )
    event.current_stream_wait()
    with pytest.warns(UserWarning, match="use_logfmt"):
        out, event, _ = buffer.low_latency_combine(
            got, idx, weights, handle, use_logfmt=True, async_finish=True
        )
    event.current_stream_wait()
    total = load.values * np.where(load.idx >= 0, load.weights, 0).sum(1, keepdims=True)
    assert np.linalg.norm(out.cpu().double().numpy() - total) <= 0.02 * np.linalg.norm(total)
    with pytest.raises(AssertionError, match="round_scale"):
        buffer.low_latency_dispatch(x, idx, TOKENS, experts, use_ue8m0=True)
    with pytest.raises(TypeError, match="handle"):
        buffer.low_latency_combine(got, idx, weights, None)


def test_masks(make, around):
    _, n, _, _ = around
    buffer = make(low_latency_mode=True)
    x = torch.zeros(4, HIDDEN, dtype=torch.bfloat16, device="cuda")
    idx = torch.zeros(4, 2, dtype=torch.int64, device="cuda")
    buffer.low_latency_dispatch(x, idx, 8, n)
    torch.cuda.synchronize()
    status = torch.full((n,), 7, dtype=torch.int32, device="cuda")
    buffer.low_latency_query_mask_buffer(status)
    assert status.tolist() == [0] * n
    buffer.low_latency_update_mask_buffer(n - 1, True)
    buffer.low_latency_query_mask_buffer(status)
    assert status.tolist() == [0] * (n - 1) + [1]
    buffer.low_latency_update_mask_buffer(n - 1)
    buffer.low_latency_update_mask_buffer(0, True)
    buffer.low_latency_clean_mask_buffer()
    buffer.low_latency_query_mask_buffer(status)
    assert status.tolist() == [0] * n


# ---- started by torch.distributed --------------------------------------------------------------------------

_GROUP = """
import os, tempfile, torch, torch.distributed as dist
rank, size = (int(os.environ[k]) for k in ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"))
for name in [k for k in os.environ if k.startswith(("OMPI_", "PMIX_", "PRTE_", "PMI_"))]:
    del os.environ[name]  # as processes that torch.multiprocessing has started
torch.cuda.set_device(rank % torch.cuda.device_count())
dist.init_process_group("gloo", init_method="file://" + os.environ["STORE"], rank=rank, world_size=size)
import pyshmem.compat.deep_ep as deep_ep
buffer = deep_ep.Buffer(dist.group.WORLD, 1 << 26, explicitly_destroy=True)
assert (buffer.rank, buffer.group_size) == (rank, size)
x = torch.randn(32, 256, device="cuda").bfloat16()
idx = torch.randint(0, 2 * size, (32, 2), device="cuda")
layout = buffer.get_dispatch_layout(idx, 2 * size)
found = buffer.dispatch(x, num_tokens_per_rank=layout[0], is_token_in_rank=layout[3],
                        num_tokens_per_expert=layout[2], topk_idx=idx)
out, _, _ = buffer.combine(found[0], found[4])
want = x.double() * layout[3].sum(1, keepdim=True)
assert (out.double() - want).abs().max() <= 0.05
buffer.destroy()
print("fine")
dist.barrier()
"""


@pytest.mark.npes(1)
def test_a_process_group_alone_starts_the_job(cp, run_pes, tmp_path):
    n = min(2, cp.cuda.runtime.getDeviceCount())
    done = run_pes(n, _GROUP, timeout=120, STORE=str(tmp_path / "store"))
    assert done.returncode == 0 and done.stdout.count("fine") == n, done.stderr
