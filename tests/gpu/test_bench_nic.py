"""`pyshmem bench --gpu-nic`, a short run: jobs of its own, each PE a node of its own."""

from __future__ import annotations

import json
import subprocess

import pytest

from pyshmem.bench.figures import NIC_PATHS, Figure, from_json
from pyshmem.bench.launch import environment, python_command

pytestmark = pytest.mark.npes(1)

OPS = {"post", "post by a warp, 32 puts", "a warp's / a thread's", "put + quiet", "fetch_add", "GPU-CPU-GPU",
       "put + quiet / GPU-CPU-GPU", "messages", "bytes"}  # fmt: skip
OF_A_DOORBELL = {"before the doorbell", "before the doorbell by a warp, 32 puts", "doorbell to completion",
                 "doorbell to completion / GPU-CPU-GPU"}  # fmt: skip


@pytest.fixture(scope="module")
def figures() -> list[Figure]:
    command = python_command("bench", "--gpu-nic", "--quick", "--json")
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=500, check=False, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if "program" not in json.loads(line)]
    return [f for line in lines if (f := from_json(line)) is not None]


@pytest.mark.parametrize("path", NIC_PATHS)
def test_every_figure_is_there_and_positive(figures: list[Figure], path: str) -> None:
    mine = [f for f in figures if f.face == path]
    assert {f.op for f in mine} == OPS | (OF_A_DOORBELL if path == "ibgda" else set())
    for f in mine:
        assert f.group == "nic" and 0 < f.q1 <= f.median <= f.q3, f
    if path == "ibgda":  # a part of it, though timed in cycles
        ns = {f.op: f.median for f in mine}
        assert ns["before the doorbell"] < ns["put + quiet"]
    by_threads = [f for f in mine if f.op == "messages" and f.bytes == 8]
    assert len({f.form for f in by_threads}) == len(by_threads) == 6
