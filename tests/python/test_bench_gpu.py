"""`pyshmem bench --device cuda` as far as it goes without a GPU: what compiles, is shown, is said."""

from __future__ import annotations

import json
import re
import shutil
import sys
import types
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from pyshmem import cli
from pyshmem.bench import gpu, gpu_moe, gpu_peers, moe_load, show
from pyshmem.bench.figures import GPU_FACES, GPU_GROUPS, TARGETS, Figure, figure, from_json
from pyshmem.bench.gpu_plan import Plan, plan
from pyshmem.bench.moe_load import moe_plan, plan_from
from pyshmem.bench.run import Options, Report
from pyshmem.device import raw

pytestmark = pytest.mark.npes(1)

_PEER = Path(gpu_peers.__file__).with_name("peer_nvshmem.cu")


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, arguments)


def ours(op: str, nbytes: int = 0, value: float = 1000.0, group: str = "put", **more: object) -> Figure:
    unit = "GB/s" if op in ("put", "get", "put_on_stream") else "ns"
    return figure(str(more.pop("face", "libshmem")), group, op, nbytes, 4, unit, [value], **more)  # type: ignore[arg-type]


# ---- what is compiled --------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100"])
def test_kernels_compile(nvrtc: Any, quick: list[str], arch: str) -> None:
    options = [*raw.options_for(), f"-arch={arch}", "-Werror", "all-warnings", *quick]
    fine, log, ptx = nvrtc.compile(raw.source_for(gpu.KERNELS.read_text()), "k.cu", options)
    assert fine, log
    entries = set(re.findall(rb"\.visible \.entry (\w+)\(", ptx))
    asked = set(re.findall(r'"(k_\w+)"', Path(gpu.__file__).read_text())) | {"k_put_signal", "k_packets"}
    assert {name.decode() for name in entries} == asked


def test_the_peers_program_uses_all_of_the_plan() -> None:
    text = _PEER.read_text()
    for name in re.findall(r"constexpr \w+ (\w+)", Plan().header()):
        assert name.startswith("packets") or re.search(rf"\b{name}\b", text), name
    ops = set(re.findall(r'"(\w+)"', text))
    assert {t.op for t in TARGETS if t.face == "libshmem"} - {"packets", "sum_float32_int8"} <= ops
    assert "#include <nvshmem.h>" in text and "DISABLE_NVLS" in Path(gpu_peers.__file__).read_text()


def test_plan_as_a_header() -> None:
    text = plan(5).header()
    assert "constexpr int rounds = 5;" in text and "constexpr size_t copy_bytes = 268435456;" in text
    assert "constexpr size_t copy_blocks[] = {1, 8, 32};" in text
    short = plan(quick=True)
    assert short.rounds == 3 and max(short.collective_bytes) == short.collective_bytes[-1] == 1 << 20
    assert (Plan().calls(1 << 20), Plan().calls(16 << 20)) == (20, 5)
    assert (Plan().part(4096, 4), Plan().part(4096, 3), Plan().part(8, 4)) == (256, 341, 1)


# ---- figures -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("f", "target", "met"),
    [
        (ours("p", 8, 740, blocks=1), 750, True),
        (ours("put_signal", 14_336, 2800, blocks=1), 2700, False),
        (ours("put_signal", 1024, 1, blocks=1), None, None),
        (ours("packets", 65_520, 2900, blocks=1, form="512 threads"), 3000, True),
        (ours("put", 256 << 20, 334.9, blocks=8), 335, False),
        (ours("get", 256 << 20, 366, blocks=32), 365, True),
        (ours("get", 16 << 20, 366, blocks=32), None, None),
        (ours("put_on_stream", 256 << 20, 393), 392, True),
        (ours("sum_reduce_on_stream", 128 << 20, 559_000), 560_000, True),
        (ours("fcollect_on_stream", 65_536, 1), None, None),
        (ours("p", 8, 740, blocks=1, face="NVSHMEM"), None, None),
    ],
)
def test_targets(f: Figure, target: float | None, met: bool | None) -> None:
    assert (f.target, f.met) == (target, met)
    assert from_json(f.to_json()) == f


def test_lines_of_older_runs_are_read() -> None:
    fields = json.loads(ours("p", 8).to_json())
    del fields["blocks"], fields["form"]
    found = from_json(json.dumps(fields))
    assert found is not None and (found.blocks, found.form) == (0, "")


# ---- what is shown -----------------------------------------------------------------------------------------

_RUN = [
    ours("p", 8, 660, blocks=1),
    ours("packets", 120, 1650, group="signals", blocks=1, form="1024 threads"),
    ours("get", 256 << 20, 330, group="get", blocks=8, form="stage of 192 KiB"),
    ours("put_on_stream", 256 << 20, 380),
    ours("fcollect_on_stream", 1 << 20, 15_000, group="collectives"),
    ours("p", 8, 1320, blocks=1, face="NVSHMEM"),
    ours("get", 256 << 20, 165, group="get", blocks=8, face="NVSHMEM"),
    ours("fcollect_on_stream", 1 << 20, 15_000, group="collectives", face="NVSHMEM"),
    ours("fcollect_on_stream", 1 << 20, 12_000, group="collectives", face="NCCL"),
    ours("sum_reduce_on_stream", 2048, 9000, group="collectives", face="NCCL"),
]


def test_a_row_holds_ours_and_the_peers() -> None:
    text = show.markdown(_RUN)
    assert "### On GPUs, 4 PEs" in text
    for row in (
        "| op | bytes | blocks | libshmem | NVSHMEM | NCCL | ratio | target | met |",
        "| p, one way | 8 B | 1 | 0.66 us | 1.32 us |  | 2.00 | <= 0.75 | met |",
        "| packets until received, one way, 1024 threads | 120 B | 1 | 1.65 us |  |  |  | <= 0.9 | missed |",
        "| get, all PEs at once, stage of 192 KiB | 256 MiB | 8 | 330 GB/s | 165 GB/s |  | 2.00 |",
        "| fcollect_on_stream | 1 MiB |  | 15.0 us | 15.0 us | 12.0 us | 0.80 | <= 12 | missed |",
        "| sum_reduce_on_stream | 2 KiB |  |  |  | 9.00 us |  |  |  |",
    ):
        assert row in text, row
    # groups together, though put_on_stream was measured after get
    assert text.index("put_on_stream") < text.index("get, all PEs")


def test_columns_of_absent_peers_are_left_out() -> None:
    head = show.markdown(_RUN[:3]).splitlines()[2]
    assert head == "| op | bytes | blocks | libshmem | target | met |"


def test_tables_of_cpus_and_gpus_in_one_file(tmp_path: Path) -> None:
    source = tmp_path / "run.json"
    cpu = figure("C", "put", "put", 8, 2, "ns", [15.0])
    head = {"program": "pyshmem bench", "version": "pyshmem 0", "npes": 4, "gpu": "NVIDIA X"}
    source.write_text("\n".join([json.dumps(head), *(f.to_json() for f in (cpu, *_RUN))]))
    picture = tmp_path / "run.png"
    done = invoke("bench", "--from", str(source), "--plot", str(picture))
    assert done.exit_code == 0, done.output
    for text in ("from C, 2 PEs", "On GPUs, 4 PEs", "2 of 6 targets met", "ratio: how many times as fast"):
        assert text in done.output
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert cli._title(head) == "pyshmem 0: 4 PEs, NVIDIA X each"
    console = Console(record=True, width=140, file=open("/dev/null", "w"))  # noqa: SIM115
    show.table(_RUN, console)
    assert "0.66 us" in console.export_text()


# ---- options, and what is missing --------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [("--only", "locks", "--device", "cuda"), ("--device", "rocm")])
def test_options_know_the_device(arguments: tuple[str, ...]) -> None:
    done = invoke("bench", *arguments)
    assert done.exit_code == 2
    assert ("locks is not among put, get, signals" in done.output) or "'rocm' is not one of" in done.output


def test_help_lists_both_groups() -> None:
    text = invoke("bench", "--help").output
    assert "Groups of --device cuda:" in text and all(name in text for name in GPU_GROUPS)


def driver(count: int, code: int = 0) -> types.SimpleNamespace:
    def get(pointer: object) -> int:
        pointer._obj.value = count  # type: ignore[attr-defined]
        return 0

    return types.SimpleNamespace(cuInit=lambda flags: code, cuDeviceGetCount=get)


def test_without_a_gpu_one_line_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> object:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(gpu.ctypes, "CDLL", absent)
    done = invoke("bench", "--device", "cuda")
    assert done.exit_code == 1 and done.output.count("\n") == 1
    assert "needs an NVIDIA GPU and its driver: libcuda.so.1" in done.output
    monkeypatch.setattr(gpu.ctypes, "CDLL", lambda name: driver(0, 100))
    assert "the driver finds none (CUDA error 100)" in invoke("bench", "--device", "cuda").output


def test_without_cupy_or_with_too_few_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu.ctypes, "CDLL", lambda name: driver(2))
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda name: None)
    done = invoke("bench", "--device", "cuda")
    assert done.exit_code == 1 and "pip install 'sushmem[cuda13]'" in done.output
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda name: object())
    assert "4 PEs, 2 GPU(s) here" in invoke("bench", "--device", "cuda", "--npes", "4").output
    assert gpu.require(2) == gpu.require() == 2


def test_a_job_is_started_with_a_pe_a_gpu_and_peers_come_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []

    def start(launcher: object, npes: int, program: list[str]) -> list[str]:
        seen.append((npes, program[-8:]))
        return [json.dumps({"program": "pyshmem bench", "npes": npes}), _RUN[0].to_json()]

    def peers(options: Options, npes: int, report: Report) -> None:
        seen.append(npes)
        report.figure(_RUN[5])

    monkeypatch.setattr(gpu, "require", lambda npes=None: 4)
    monkeypatch.setattr(cli, "in_job", lambda: False)
    monkeypatch.setattr(cli, "start", start)
    monkeypatch.setattr(gpu_peers, "run", peers)
    done = invoke("bench", "--device", "cuda", "--peer", "--quick", "--only", "put", "--markdown")
    assert done.exit_code == 0, done.output
    (npes, program), after = seen  # type: ignore[misc]
    assert npes == after == 4 and "--peer" not in program
    assert program[-3:] == ["--device", "cuda", "--quick"]
    assert "| 0.66 us | 1.32 us | 2.00 |" in done.output


# ---- peers -------------------------------------------------------------------------------------------------

_PRINTED = (
    "WARN: init failed for transport: IBGDA\n"
    '{"group": "get", "op": "get", "nbytes": 64, "blocks": 8, "unit": "GB/s", "samples": [3.0, 1.0, 2.0]}\n'
    '{"group": "collectives", "op": "alltoall_on_stream", "nbytes": 4096, "unit": "ns", "samples": [7.5]}\n'
    "[1, 2]\n"
)


def test_lines_of_a_peer() -> None:
    get, alltoall = gpu_peers.figures_of("NVSHMEM", 4, _PRINTED)
    assert (get.face, get.npes, get.bytes, get.blocks, get.median, get.rounds) == ("NVSHMEM", 4, 64, 8, 2, 3)
    assert (alltoall.op, alltoall.unit, alltoall.median, alltoall.blocks) == (
        "alltoall_on_stream",
        "ns",
        7.5,
        0,
    )


def report() -> tuple[Report, list[Figure], list[str]]:
    found: list[Figure] = []
    notes: list[str] = []
    return Report(found.append, lambda stage, part: None, notes.append), found, notes


def test_a_missing_peer_is_named_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_peers.importlib.util, "find_spec", lambda name: None)
    to, found, notes = report()
    gpu_peers.run(Options(tuple(GPU_GROUPS), 3, device="cuda"), 2, to)
    assert not found and len(notes) == 3
    assert "NVSHMEM is left out" in notes[0] and "nvidia-nvshmem-cu13" in notes[0]
    assert "NCCL is left out" in notes[1] and "sushmem[torch]" in notes[1]
    assert "DeepEP is left out" in notes[2] and "deep_ep is missing" in notes[2]
    monkeypatch.setattr(
        gpu_peers, "_PEERS", (("NVSHMEM", ("get",), lambda p, n, wanted: _PRINTED), gpu_peers._PEERS[1])
    )
    to, found, notes = report()
    gpu_peers.run(Options(("get", "sync"), 3, device="cuda"), 2, to)
    assert [f.op for f in found] == ["get"] and not notes  # NCCL has no such group


def test_the_wheel_and_nvcc_are_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spec = types.SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(gpu_peers.importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(gpu_peers.PeerMissing, match="wheel is missing"):
        gpu_peers._wheel()
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "nvshmem.h").touch()
    assert gpu_peers._wheel() == tmp_path
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    with pytest.raises(gpu_peers.PeerMissing, match="install the CUDA toolkit"):
        gpu_peers._nvcc()
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libnvshmem_host.so.3").touch()
    command = gpu_peers.compile_command("nvcc", tmp_path, tmp_path / "new")
    assert "-l:libnvshmem_host.so.3" in command and str(_PEER) in command


def test_processes_of_a_peer_end_together() -> None:
    def python(code: str, **variables: str) -> tuple[list[str], dict[str, str]]:
        return [sys.executable, "-c", code], variables

    show_rank = "import os; print('rank', os.environ['RANK'])"
    both = [python(show_rank, RANK=str(i)) for i in range(2)]
    assert gpu_peers._together("x", both) == "rank 0\n"
    endless = python("import time; time.sleep(100)")
    failing = python("import sys; sys.exit('some warning\\nfatal error: no such GPU\\nbye')")
    with pytest.raises(gpu_peers.PeerMissing, match="x ended with status 1: fatal error: no such GPU"):
        gpu_peers._together("x", [endless, failing])
    with pytest.raises(gpu_peers.PeerMissing, match=r"x was not done after 0\.2 s"):
        gpu_peers._together("x", [endless], deadline=0.2)
    with pytest.raises(gpu_peers.PeerMissing, match="x cannot be started"):
        gpu_peers._together("x", [(["/no/such/program"], {})])


def test_moe_figures_of_both() -> None:
    """Ours and DeepEP's of one shape share a row."""
    plan = moe_plan(quick=True)
    assert plan_from(json.dumps(asdict(plan))) == plan and gpu_moe.divides(plan, 4)
    assert not gpu_moe.divides(plan, 3) and moe_plan().reps == 30 and moe_plan(7).reps == 7
    timing = moe_load.Timing("normal_dispatch_bf16", [400.0, 410.0, 500.0], 159_000_000, plan.large, 24)
    line = timing.line(4)
    assert (line["us"], line["q1"], line["q3"], line["GBps"], line["sms"]) == (410, 400, 500, 387.8, 24)
    (theirs,) = gpu_peers.figures_of("DeepEP", 4, json.dumps(timing.figure()))
    mine = figure("libshmem", npes=4, **timing.figure())
    assert (theirs.op, theirs.bytes, theirs.blocks, theirs.median) == (mine.op, mine.bytes, 24, 410_000)
    text = show.markdown([mine, theirs])
    assert "| normal_dispatch_bf16, 512 x 2048, top-6 of 64 |" in text and "| 1.00 |" in text


@pytest.mark.parametrize("quick", [False, True])
def test_overlap_has_samples(quick: bool) -> None:
    torch = MagicMock()
    torch.cuda.Event.return_value.elapsed_time.return_value = 0.25
    found = moe_load.overlap(torch, lambda: None, lambda: None, moe_plan(quick=quick))
    assert set(found) == {"gemm", "gemm_beside", "pair", "pair_beside"}
    assert all(us and set(us) == {250.0} for us in found.values())


def test_faces() -> None:
    assert [face for face, _, _ in gpu_peers._PEERS] == list(GPU_FACES[1:])
