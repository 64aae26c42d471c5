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
        "threads of a warp wait", "blocks wait for each other", "kernels side by side", "pinned host memory",
        "host memory registered",
    ],
)  # fmt: skip
def test_what_the_library_needs_is_there(found: dict[str, dict[str, Any]], name: str) -> None:
    assert found[name]["state"] == "ok", found[name]


def test_figures_are_plausible(found: dict[str, dict[str, Any]]) -> None:
    assert 0.5 < found["GPU-CPU-GPU ping-pong"]["figures"]["us"] < 1000
    release = found["release at system scope"]["figures"]
    assert 0 < release["own_ns"] < 100_000 and 0 < release["host_ns"] < 100_000
    assert found["atomics with a CPU"]["figures"]["lost"] >= 0
