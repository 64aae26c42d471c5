"""The library's GPU kernels, committed as PTX, are those of the sources."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.npes(1)

TOOL = Path(__file__).resolve().parents[2] / "libshmem" / "tools" / "ptx.py"


def test_kernels_are_up_to_date():
    done = subprocess.run([sys.executable, str(TOOL), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_stale_file_is_noticed(tmp_path):
    """A change of a token in a device header, not of a comment, makes the file stale."""
    root = tmp_path / "libshmem"
    for name in ("tools", "src/gpu", "include"):
        source = TOOL.parents[1] / name
        for path in source.rglob("*"):
            if path.is_file():
                to = root / name / path.relative_to(source)
                to.parent.mkdir(parents=True, exist_ok=True)
                to.write_bytes(path.read_bytes())
    check = [sys.executable, str(root / "tools" / "ptx.py"), "--check"]
    header = root / "include" / "device" / "sync.h"
    header.write_text(header.read_text() + "\n// a comment more\n")
    assert subprocess.run(check, capture_output=True, check=False).returncode == 0
    header.write_text(header.read_text() + "\nint one_more;\n")
    stale = subprocess.run(check, capture_output=True, text=True, check=False)
    assert stale.returncode == 1 and "out of date" in stale.stdout
