"""MoE on GPUs as far as it goes without one: what is refused before a GPU is needed, and what only counts."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

import pyshmem
from pyshmem.device import _moe_args, packages
from pyshmem.errors import ShmemError
from pyshmem.moe import ExpertParallel, LowLatency

ME = pyshmem.my_pe()
HAS_TORCH = importlib.util.find_spec("torch") is not None
needs_torch = pytest.mark.skipif(not HAS_TORCH, reason="PyTorch is not installed")


def gpu() -> bool:
    from conftest import _has_gpu

    return bool(_has_gpu())


# ---- objects -----------------------------------------------------------------------------------------------


def test_unknown_device() -> None:
    with pytest.raises(ShmemError, match="device is 'tpu'"):
        ExpertParallel(8, 64, 2, 16, device="tpu")


def test_without_a_gpu_it_is_said() -> None:
    if gpu():
        pytest.skip("there is one")
    for make in (
        lambda: ExpertParallel(8, 64, 2, 16, device="cuda"),
        lambda: LowLatency(8, 64, 2, 16),
        lambda: ExpertParallel(8, 64, 2, 16, quant="int4", device="cuda"),
        lambda: LowLatency(8, 64, 2, 16, group=5),
    ):
        with pytest.raises(ShmemError):
            make()
    pyshmem.barrier_all()


def test_the_cpus_object_is_what_it_was() -> None:
    with ExpertParallel(8, 64, 2, 16, device="cpu") as ep:
        assert type(ep) is ExpertParallel
        got = ep.dispatch(np.ones((3, 64), np.float32), np.zeros((3, 2), np.int64))
        assert got.rows == (3 * pyshmem.n_pes() if ep.first_expert == 0 and ME == 0 else 0)
        ep.combine(got.recv_x, got)


def test_dropped_objects_are_ended_by_the_next() -> None:
    from pyshmem import _objects

    before = len(_objects._objects)
    for _ in range(5):
        ExpertParallel(4, 64, 1, 4)
    assert len(_objects._objects) <= before + 2
    ExpertParallel(4, 64, 1, 4).close()


# ---- arguments ---------------------------------------------------------------------------------------------


def test_arrays_of_other_packages() -> None:
    for a, text in ((np.zeros(3), "a NumPy array"), ([1], "list"), (None, "NoneType")):
        with pytest.raises(TypeError, match=f"dispatch: x is {text}"):
            _moe_args.Args("dispatch", a, "x")


@pytest.mark.parametrize(
    ("shape", "strides", "packed"),
    [
        ((3, 4), (16, 4), True), ((3, 4), (4, 12), False), ((3, 4), (20, 4), False), ((1, 4), (99, 4), True),
        ((3, 1), (4, 99), True), ((0, 4), (0, 0), True), ((2, 3, 4), (48, 16, 4), True), ((), (), True),
    ],
)  # fmt: skip
def test_packed(shape: tuple[int, ...], strides: tuple[int, ...], packed: bool) -> None:
    assert packages.Given(0, shape, strides, "float32", 0).packed(4) == packed


@needs_torch
class TestTensors:
    """Checks of tensors; those in host memory are refused last."""

    def args(self, monkeypatch: pytest.MonkeyPatch, first: object) -> _moe_args.Args:
        monkeypatch.setattr(packages._Torch, "describe", self.describe(packages._Torch.describe))
        args = _moe_args.Args("dispatch", first, "x")
        return args

    @staticmethod
    def describe(real):
        """As if host memory were the GPU's."""
        from pyshmem._core import lib

        return lambda self, a: real(self, a)._replace(device=lib.shmemx_device())

    def test_rows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import torch

        x = torch.zeros(4, 32, dtype=torch.bfloat16)
        args = self.args(monkeypatch, x)
        pointer, stride, n = args.rows(x, "x", 32)
        assert (stride, n) == (64, 4) and pointer != 0
        assert args.rows(x[:, :16], "x", 16)[1:] == (64, 4) and args.rows(x[2:3], "x", 32)[1:] == (64, 1)
        assert args.rows(x[:0], "x", 32)[1:] == (0, 0)
        for a, kind, text in (
            (x.float(), TypeError, "x has dtype float32, must be bfloat16"),
            (x[:, :8], ShmemError, r"shape \(4, 8\), must be \(rows, 32\)"),
            (x[0], ShmemError, "shape"),
            (torch.zeros(32, 4, dtype=torch.bfloat16).t(), ShmemError, "adjacent"),
            (torch.zeros(4, 33, dtype=torch.bfloat16)[:, 1:], ShmemError, "16-byte aligned"),
        ):
            with pytest.raises(kind, match=text):
                args.rows(a, "x", 32)
        with pytest.raises(ShmemError, match="x has 4 rows, max_tokens is 3"):
            args.rows(x, "x", 32, most=3)
        with pytest.raises(ShmemError, match=r"must be \(5, 32\)"):
            args.rows(x, "x", 32, rows=5)

    def test_ids_and_weights(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import torch

        idx = torch.zeros(4, 2, dtype=torch.int64)
        args = self.args(monkeypatch, idx)
        assert args.choices(idx, 4, 2)[2] == 4 and args.choices(idx.int(), None, 2)[2] == 4
        for a, kind, text in (
            (idx.short(), TypeError, "int64 or int32"), (idx[:, :1], ShmemError, "topk_idx has shape"),
            (idx[:3], ShmemError, r"must be \(4, 2\)"), (idx.t().contiguous().t(), ShmemError, "contiguous"),
        ):  # fmt: skip
            with pytest.raises(kind, match=text):
                args.choices(a, 4, 2)
        assert not args.weights(None, 4, 2)
        with pytest.raises(TypeError, match="float64"):
            args.weights(torch.zeros(4, 2, dtype=torch.float64), 4, 2)
        with pytest.raises(ShmemError, match="topk_weights has shape"):
            args.weights(torch.zeros(4, 3), 4, 2)

    def test_host_memory(self) -> None:
        import torch

        if pyshmem.device.stream.lib.shmemx_device() < 0:
            pytest.skip("without a GPU heap all tensors are in host memory")
        x = torch.zeros(4, 32, dtype=torch.bfloat16)
        with pytest.raises(ShmemError, match="host memory"):
            _moe_args.Args("dispatch", x, "x").rows(x, "x", 32)


@pytest.mark.parametrize("room", [0, 16])
@pytest.mark.parametrize(
    ("rows", "topk", "experts", "align"),
    [(40, 3, 5, 1), (40, 3, 5, 8), (0, 2, 3, 4), (7, 2, 1, 4), (6, 2, 0, 1)],
)
def test_expert_places(rows: int, topk: int, experts: int, align: int, room: int) -> None:
    """On NumPy's arrays, which have what is used of CuPy's. `room`: rows behind the last."""
    p = packages._CuPy(np)
    idx = np.random.default_rng(3).integers(-1, max(experts, 0), (rows, topk))
    counts = np.bincount(idx[idx >= 0], minlength=experts).astype(np.int32)
    ends = np.cumsum(-(-counts // align) * align)
    starts, total = [0, *ends], int(ends[-1]) if experts else 0
    position, source, found = p.expert_places(idx, counts, align, total + room)
    assert found.dtype == np.int32 and (found == ends).all()
    assert ((position >= 0) == (idx >= 0)).all() and len(source) == total + room
    assert (source[total:] == -1).all()
    for e in range(experts):
        r, k = np.nonzero(idx == e)
        assert (position[r, k] == starts[e] + np.arange(len(r))).all()
        assert (source[starts[e] : starts[e] + len(r)] == r).all()
        assert (source[starts[e] + len(r) : starts[e + 1]] == -1).all()
    few = total // 2
    less, sources, _ = p.expert_places(idx, counts, align, few)
    assert (less == np.where(position < few, position, -1)).all() and (sources == source[:few]).all()


@needs_torch
def test_expert_form_in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gathered rows, on the CPU; places as on NumPy."""
    import torch

    p = packages.package_of(torch.zeros(1), "test", "a")
    monkeypatch.setattr(type(p), "_device", property(lambda self: torch.device("cpu")))
    rng = np.random.default_rng(3)
    for rows, topk, experts, align in ((40, 3, 5, 1), (40, 3, 5, 8), (0, 2, 3, 4), (7, 2, 1, 4)):
        idx = rng.integers(-1, experts, (rows, topk))
        counts = np.bincount(idx[idx >= 0], minlength=experts)
        total = int((-(-counts // align) * align).sum())
        wanted = packages._CuPy(np).expert_places(idx, counts, align, total)
        places = p.expert_places(torch.from_numpy(idx), torch.from_numpy(counts), align, total)
        assert all((a.numpy() == b).all() for a, b in zip(places, wanted, strict=True))
        source = places[1]
        x = torch.from_numpy(rng.standard_normal((rows, 16)).astype(np.float32)).bfloat16()
        y = p.take(x, source)
        assert not y[source < 0].any()
        assert torch.equal(y[source >= 0], x[source[source >= 0]])


# ---- pyshmem.compat.deep_ep --------------------------------------------------------------------------------


@needs_torch
class TestDeepEP:
    def test_config(self) -> None:
        from pyshmem.compat.deep_ep import Buffer, Config

        config = Config(24, 6, 256, 6, 128)
        assert config.num_sms == 24 and config.num_max_rdma_chunked_recv_tokens == 128
        assert Config(num_sms=8, num_max_nvl_chunked_send_tokens=4).num_max_nvl_chunked_send_tokens == 4
        sizes = [config.get_nvl_buffer_size_hint(14_336, n) for n in (1, 2, 4, 8)]
        assert sizes == sorted(sizes) and sizes[2] >= 4 * 4 * 4096 * 14_336
        assert config.get_rdma_buffer_size_hint(14_336, 8) == 0
        with pytest.raises(ValueError):
            config.get_nvl_buffer_size_hint(0, 2)
        with pytest.raises(ValueError):
            Config(0)
        before = Buffer.num_sms
        Buffer.set_num_sms(64)
        assert Buffer.get_dispatch_config(4).num_sms == Buffer.get_combine_config(8).num_sms == 64
        Buffer.set_num_sms(before)
        with pytest.raises(AssertionError):
            Buffer.set_num_sms(7)
        with pytest.raises(AssertionError):
            Buffer.get_dispatch_config(128)

    def test_low_latency_size_hint(self) -> None:
        from pyshmem.compat.deep_ep import Buffer

        hint = Buffer.get_low_latency_rdma_size_hint
        assert 2 * 2 * 4 * 128 * 2 * 7168 < hint(128, 7168, 4, 256) < 64 << 20
        assert hint(128, 7168, 8, 256) > hint(128, 7168, 4, 256)
        with pytest.raises(ValueError):
            hint(0, 7168, 4, 256)

    def test_events(self) -> None:
        import pyshmem.compat.deep_ep as deep_ep

        event = deep_ep.EventOverlap(None, ("kept",))
        assert event.event is None and event.extra_tensors == ("kept",)
        with event as inside:
            assert inside is event
        with pytest.raises(RuntimeError, match="no event"):
            event.current_stream_wait()
        waited = []
        fake = type("Fake", (), {"current_stream_wait": lambda self: waited.append(1)})()
        event = deep_ep.EventOverlap(fake)
        event.current_stream_wait()
        with event:
            assert len(waited) == 1
        assert len(waited) == 2
        assert deep_ep.utils.EventHandle is deep_ep.EventHandle

    def test_names(self) -> None:
        """What Megatron, SGLang and vLLM ask for."""
        import inspect

        import torch

        import pyshmem.compat.deep_ep as deep_ep

        assert deep_ep.topk_idx_t is torch.int64
        wanted = {
            "dispatch": "x handle num_tokens_per_rank num_tokens_per_rdma_rank is_token_in_rank "
            "num_tokens_per_expert topk_idx topk_weights expert_alignment num_worst_tokens config "
            "previous_event async_finish allocate_on_comm_stream",
            "combine": "x handle topk_weights bias config previous_event async_finish "
            "allocate_on_comm_stream",
            "get_dispatch_layout": "topk_idx num_experts previous_event async_finish allocate_on_comm_stream",
            "low_latency_dispatch": "x topk_idx num_max_dispatch_tokens_per_rank num_experts "
            "cumulative_local_expert_recv_stats dispatch_wait_recv_cost_stats use_fp8 round_scale use_ue8m0 "
            "async_finish return_recv_hook",
            "low_latency_combine": "x topk_idx topk_weights handle use_logfmt zero_copy async_finish "
            "return_recv_hook out combine_wait_recv_cost_stats",
        }
        for name, words in wanted.items():
            parameters = inspect.signature(getattr(deep_ep.Buffer, name)).parameters.values()
            positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
            assert positional == ["self", *words.split()]

    def test_who_takes_part_must_be_said(self) -> None:
        from pyshmem.compat.deep_ep import Buffer

        with pytest.raises(ValueError, match="group or comm"):
            Buffer()
        with pytest.raises(ValueError, match="num_nvl_bytes"):
            Buffer(None, -1)
