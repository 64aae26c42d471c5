"""`pyshmem doctor --gpu` on a GPU: every item is measured, and what the library needs is there."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from pyshmem.bench.launch import environment, python_command
from pyshmem.device.probe import ITEMS

pytestmark = pytest.mark.npes(1)


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, Any]]:
    command = python_command("doctor", "--gpu", "--json")
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=300, check=False, cwd="/"
    )
    report = json.loads(done.stdout)
    assert done.returncode == (report["state"] == "bad"), done.stderr
    return {row["name"]: row for row in report["checks"]}


def test_every_item_is_measured(found: dict[str, dict[str, Any]]) -> None:
    assert list(found) == list(ITEMS)
    assert not [row for row in found.values() if "not measured" in row["found"]]


@pytest.mark.parametrize(
    "name",
    [
        "compiler for kernels", "mapping between processes", "release at system scope",
        "message passing within a GPU", "atomics of its own memory", "groups of threads",
        "threads of a warp wait", "blocks wait for each other", "kernels side by side", "pinned host memory",
        "message passing with a CPU", "host memory registered", "copies, events, launches",
    ],
)  # fmt: skip
def test_what_the_library_needs_is_there(found: dict[str, dict[str, Any]], name: str) -> None:
    assert found[name]["state"] == "ok", found[name]


def test_what_two_gpus_do_together(found: dict[str, dict[str, Any]]) -> None:
    """Messages pass wherever GPUs reach each other; atomics and lines work where all have NVLink."""
    peers = found["peer access between GPUs"]
    messages, atomics = found["message passing between GPUs"], found["atomics between GPUs"]
    if not peers["figures"].get("access"):
        assert messages["state"] == atomics["state"] == "none"
        assert found["whole lines"]["state"] == "ok", found["whole lines"]  # within the GPU
        return
    assert messages["state"] == "ok", messages
    assert 0.5 < messages["figures"]["us"] < 1000
    if peers["figures"]["atomics"] == peers["figures"]["access"]:
        assert atomics["state"] == "ok" and atomics["figures"]["turns"] > 0, atomics
        assert found["whole lines"]["state"] == "ok", found["whole lines"]


def test_bulk_copies_where_the_gpu_has_them(found: dict[str, dict[str, Any]]) -> None:
    has = "sm_7" not in found["device"]["found"] and "sm_8" not in found["device"]["found"]
    assert found["bulk copies"]["state"] == ("ok" if has else "none"), found["bulk copies"]


def test_figures_are_plausible(found: dict[str, dict[str, Any]]) -> None:
    assert 0.5 < found["GPU-CPU-GPU ping-pong"]["figures"]["us"] < 1000
    for name in ("message passing within a GPU", "message passing with a CPU"):
        assert 0.5 < found[name]["figures"]["us"] < 1000
    release = found["release at system scope"]["figures"]
    assert 0 < release["own_ns"] < 100_000 and 0 < release["host_ns"] < 100_000
    assert found["atomics with a CPU"]["figures"]["lost"] >= 0
