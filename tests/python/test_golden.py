"""tests/sim/golden.def is what this machine's mlx5 provider writes and reads, and a change would be seen."""

import importlib.util
import sys
from pathlib import Path

import pytest

TREE = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.npes(1)


@pytest.fixture(scope="module")
def golden():
    path = TREE / "libshmem/tools/golden/golden.py"
    spec = importlib.util.spec_from_file_location("golden", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["golden"] = module
    spec.loader.exec_module(module)
    return module


def test_the_provider_of_this_machine_writes_the_committed_bytes(golden):
    try:
        lines = golden.lines()
    except golden.Unavailable as why:
        pytest.skip(str(why))
    committed = golden.TARGET.read_text()
    assert committed == golden.HEAD + lines
    assert lines.count("GOLDEN_WQE(") >= 46 and lines.count("GOLDEN_CQE(") >= 25


def test_check_tells_a_changed_byte(golden, monkeypatch, tmp_path, capsys):
    other = tmp_path / "golden.def"
    other.write_text(golden.TARGET.read_text().replace("0000000800a1b203", "0000000800a1b204", 1))
    monkeypatch.setattr(golden, "TARGET", other)
    monkeypatch.setattr(
        golden, "lines", lambda: (TREE / "tests/sim/golden.def").read_text()[len(golden.HEAD) :]
    )
    monkeypatch.setattr(sys, "argv", ["golden.py", "--check"])
    assert golden.main() == 1
    assert "does not agree" in capsys.readouterr().err
