"""`pyshmem bench --device cuda`, a short run inside this job."""

from __future__ import annotations

import pytest

from pyshmem.bench import gpu
from pyshmem.bench.figures import GPU_GROUPS, Figure
from pyshmem.bench.gpu_plan import plan
from pyshmem.bench.run import Options, Report

PAIRS = ("p", "put_signal", "packets")  # ping-pong: from 2 PEs on


def test_every_figure_is_there_and_positive(job, cp):
    if job.n_pes() > cp.cuda.runtime.getDeviceCount():
        pytest.skip("more PEs than GPUs: `pyshmem bench --device cuda` measures one PE a GPU")
    found: list[Figure] = []
    parts: list[float] = []
    report = Report(found.append, lambda stage, part: parts.append(part), lambda text: None)
    job.reclaim()  # what earlier tests have dropped must not be freed in between
    used = job.heap_info("cuda")[1]
    groups = tuple(g for g in GPU_GROUPS if g not in ("moe", "quant"))
    gpu.run(Options(groups, 2, device="cuda", quick=True), report)
    assert job.heap_info("cuda")[1] == used
    if job.my_pe() != 0:
        assert not found
        return
    p = plan(2, quick=True)
    together = {(op, nbytes, 0) for op in ("alltoall_on_stream", "fcollect_on_stream", "sum_reduce_on_stream")
                for nbytes in p.collective_bytes}  # fmt: skip
    wanted = {
        *(((op, p.copy_bytes, blocks)) for op in ("put", "get") for blocks in p.copy_blocks),
        ("put_on_stream", p.copy_bytes, 0), ("fetch_add", 8, 1), ("sync", 0, 1), ("barrier", 0, 1),
        ("barrier_on_stream", 0, 0), *together,
    }  # fmt: skip
    if job.n_pes() > 1:
        wanted |= {("p", 8, 1), *(("put_signal", nbytes, 1) for nbytes in p.put_signal_bytes)}
        wanted |= {("packets", nbytes, 1) for nbytes in p.packets_bytes}
    assert {(f.op, f.bytes, f.blocks) for f in found} == wanted
    for op, threads in (("packets", (1024, 512, 128)), ("put_signal", (1024, 256))):
        forms = {f"{n} threads" for n in threads} if job.n_pes() > 1 else set()
        assert {f.form for f in found if f.op == op} == forms
    for f in found:
        assert f.face == "libshmem" and f.npes == job.n_pes() and f.rounds == 2
        assert 0 < f.q1 <= f.median <= f.q3, f
        assert f.group in GPU_GROUPS and f.unit == (
            "GB/s" if f.op.startswith(("put_on", "get")) or f.op == "put" else "ns"
        )
    assert parts == sorted(parts) and parts[-1] == 1


def test_quant_figures(job, cp):
    if job.n_pes() > cp.cuda.runtime.getDeviceCount() or job.n_pes() == 1:
        pytest.skip("one PE a GPU, 2 at least")
    found: list[Figure] = []
    report = Report(found.append, lambda stage, part: None, lambda text: None)
    job.reclaim()
    used = job.heap_info("cuda")[1]
    gpu.run(Options(("quant",), 2, device="cuda", quick=True), report)
    assert job.heap_info("cuda")[1] == used
    if job.my_pe() != 0:
        assert not found
        return
    ops = {f.op for f in found}
    assert ops >= {
        f"sum_{t}{form}" for t in ("float32", "bfloat16") for form in ("", "_int8", "_e4m3", "_auto")
    }
    assert ops >= {"all_gather_int8", "all_to_all_int8", "broadcast_int8", "reduce_scatter_int8"}
    assert ops >= {f"{op}_float32_int8" for op in ("quantize", "dequantize")} | {"copy as float32_int8"}
    assert all(f.group == "quant" and f.unit == "ns" and 0 < f.q1 <= f.median <= f.q3 for f in found)


def test_moe_figures(job, cp):
    pytest.importorskip("torch")
    if job.n_pes() > cp.cuda.runtime.getDeviceCount() or 64 % job.n_pes():
        pytest.skip("one PE a GPU, and a number of PEs that divides 64 experts")
    found: list[Figure] = []
    report = Report(found.append, lambda stage, part: None, lambda text: None)
    gpu.run(Options(("moe",), 2, device="cuda", quick=True), report)
    if job.my_pe() != 0:
        assert not found
        return
    ops = {f.op for f in found}
    normal = {
        f"normal_dispatch{way}_{kind}"
        for way in ("", "_nosync", "_cached")
        for kind in ("bf16", "fp8", "int8")
    }
    assert ops >= normal | {"normal_combine_bf16", "normal_combine_int8"}
    assert ops >= {f"overlap_{name}{way}" for name in ("gemm", "pair") for way in ("", "_beside")}
    assert ops >= {f"ll_pair_graph_{pair}" for pair in ("bf16_bf16", "fp8_bf16", "int8_int8")}
    for f in found:
        assert f.group == "moe" and f.unit == "ns" and 0 < f.q1 <= f.median <= f.q3, f
        moves = not f.op.startswith("overlap_gemm")
        assert (f.bytes > 0) == (moves and job.n_pes() > 1), f
        assert (f.blocks > 0) == f.op.startswith(("normal", "overlap")), f
