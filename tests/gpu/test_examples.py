"""The GPU examples, on this job's number of PEs; each checks itself and ends with 0."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

_EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.parametrize(
    ("name", "needs", "arguments"),
    [
        ("gpu_ring_cupy", "cupy", ["--rounds", "10"]),
        ("gpu_numba", "numba.cuda", ["--points", "240", "--steps", "20"]),
        ("gpu_triton", "triton", ["--elements", "100001", "--rounds", "3"]),
        ("moe_layer", "torch", ["--tokens", "200", "--hidden", "512", "--inter", "128", "--rounds", "2"]),
        ("ddp_int8", "torch", ["--device", "cuda"]),
        ("moe_layer", "torch", ["--quant", "int8", "--combine-quant", "int8", "--rounds", "1"]),
    ],
)
def test_example(meet, monkeypatch, capsys, around, name, needs, arguments):
    pytest.importorskip(needs)
    spec = importlib.util.spec_from_file_location(name, _EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)  # where its dataclasses look for their names
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    module.main()
    meet()
    assert around[0] != 0 or f"{around[1]} PEs" in capsys.readouterr().out
