"""`pyshmem bench --gpu-nic` as far as it goes without a GPU: what compiles, is started, is shown."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pyshmem import cli
from pyshmem.bench import gpu, gpu_nic
from pyshmem.bench.figures import NIC_PATHS, Figure, figure
from pyshmem.bench.launch import LaunchError
from pyshmem.device import raw

pytestmark = pytest.mark.npes(1)


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, ["bench", *arguments])


def some(path: str) -> list[Figure]:
    """What a run reports, in its units."""
    made = [("post", 8, "ns", 900.0, ""), ("post", 8, "ns", 500.0, "p"), ("put + quiet", 8, "ns", 5e3, ""),
            ("a warp's / a thread's", 8, "x", 3.5, ""), ("GPU-CPU-GPU", 8, "ns", 4.3e3, ""),
            *(("messages", 8, "M/s", 0.5 * n, f"{n} threads") for n in (1, 32, 256)),
            *(("messages", n, "M/s", 100 / n, "256 threads") for n in (64, 512)),
            ("bytes", 512, "GB/s", 3.0, "256 threads")]  # fmt: skip
    if path == "ibgda":
        made += [
            ("before the doorbell", 8, "ns", 800.0, ""),
            ("doorbell to completion", 0, "ns", 2.7e3, "NOP"),
        ]
    return [
        figure(path, "nic", op, nbytes, 2, unit, [value], 1, form)  # type: ignore[arg-type]
        for op, nbytes, unit, value, form in made
    ]


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    path = tmp_path / "nic.json"
    path.write_text("".join(f.to_json() + "\n" for name in NIC_PATHS for f in some(name)))
    return path


@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100"])
def test_kernels_compile(nvrtc: Any, quick: list[str], arch: str) -> None:
    entries: list[set[str]] = []
    for marks in ((), ("-DBENCH_MARKS",)):
        options = [*raw.options_for(marks), f"-arch={arch}", "-Werror", "all-warnings", *quick]
        fine, log, ptx = nvrtc.compile(raw.source_for(gpu_nic.KERNELS.read_text()), "k.cu", options)
        assert fine, log
        entries.append({name.decode() for name in re.findall(rb"\.visible \.entry (\w+)\(", ptx)})
        assert (b"%clock64" in ptx) == bool(marks), "kernels without marks are timed as users' run"
    assert entries[1] == {"k_doorbell"} and not entries[0] & entries[1]
    assert entries[0] | entries[1] == set(re.findall(r'"(k_\w+)"', Path(gpu_nic.__file__).read_text()))


def test_each_pe_is_a_node_and_the_nic_the_software_nic_unless_said_otherwise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gpu_nic, "DEVICES", tmp_path)
    own = {"SHMEM_GPU_NIC": "proxy", "SHMEM_NODE_ID": "/1"}
    assert gpu_nic.variables("proxy", {}) == {**own, "SHMEM_IBVERBS_LIB": "sim"}
    (tmp_path / "mlx5_0").mkdir()
    assert gpu_nic.variables("proxy", {}) == own
    given = {"SHMEM_NODE_ID": "/2", "SHMEM_IBVERBS_LIB": "mine"}
    assert gpu_nic.variables("ibgda", given) == {"SHMEM_GPU_NIC": "ibgda"}
    monkeypatch.delenv("SHMEM_GPU_NIC", raising=False)
    with gpu_nic.with_variables("ibgda"):
        assert os.environ["SHMEM_GPU_NIC"] == "ibgda"
    assert "SHMEM_GPU_NIC" not in os.environ


def test_tables_have_both_paths_side_by_side(run_file: Path) -> None:
    text = invoke("--from", str(run_file)).output
    row = next(line for line in text.splitlines() if "put + quiet" in line)
    assert re.search(r"put \+ quiet +│ +8 B │ +5\.00 us │ +5\.00 us", row), row
    post = next(line for line in text.splitlines() if "│ post " in line)
    assert "proxy <= 0.7" in post and "missed" in post
    before = next(line for line in text.splitlines() if "before the doorbell" in line)
    assert re.search(r"│ +8 B │ +- │ +0\.80 us │ ibgda <= 1 +│ met", before), before
    text = invoke("--from", str(run_file), "--markdown").output
    assert "| doorbell to completion, NOP |  | - | 2.70 us |  |  |" in text
    assert "### From kernels to another node, 2 PEs" in text
    assert "| messages, 32 threads | 8 B | 16.0 M/s | 16.0 M/s |  |  |" in text


def test_plot(run_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "nic.png"
    done = invoke("--from", str(run_file), "--plot", str(picture))
    assert done.exit_code == 0 and picture.read_bytes().startswith(b"\x89PNG"), done.output


def test_one_path_that_fails_does_not_take_the_other_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(launcher: object, npes: int, program: list[str]) -> Iterator[str]:
        assert npes == 2 and "--gpu-nic" in program and "--only" not in program
        if os.environ["SHMEM_GPU_NIC"] not in works:
            raise LaunchError("no NIC")
        yield from (f.to_json() + "\n" for f in some(os.environ["SHMEM_GPU_NIC"]))

    monkeypatch.setattr(cli, "start", start)
    monkeypatch.setattr(cli, "find_launchers", lambda: [cli.Launcher("mpirun", "Open MPI", "5")])
    monkeypatch.setattr(cli, "in_job", lambda: False)
    monkeypatch.setattr(gpu, "require", lambda npes=None: 1)
    works = {"proxy"}
    done = invoke("--gpu-nic")
    assert done.exit_code == 0 and "ibgda is left out: no NIC" in done.output and "put + quiet" in done.output
    works = set()
    done = invoke("--gpu-nic")
    assert done.exit_code == 1 and "no NIC" in done.output


def test_what_does_not_go_together_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for other in (("--peer",), ("--device", "cuda")):
        done = invoke("--gpu-nic", *other)
        assert done.exit_code == 2 and "neither" in done.output

    def none(npes: int | None = None) -> int:
        raise gpu.GpuError("needs an NVIDIA GPU")

    monkeypatch.setattr(gpu, "require", none)
    done = invoke("--gpu-nic")
    assert done.exit_code == 1 and "needs an NVIDIA GPU" in done.output
