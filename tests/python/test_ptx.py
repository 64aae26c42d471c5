"""The library's GPU kernels, committed as PTX, are those of the sources."""

from __future__ import annotations

import importlib.util
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
    package = TOOL.parents[2] / "pyshmem" / "device"
    files = [path for name in ("tools", "src/gpu", "include") for path in (TOOL.parents[1] / name).rglob("*")]
    for path in [*files, package / "_triton_ibgda.py"]:
        if path.is_file():
            to = tmp_path / path.relative_to(TOOL.parents[2])
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes(path.read_bytes())
    check = [sys.executable, str(root / "tools" / "ptx.py"), "--check"]
    header = root / "include" / "device" / "sync.h"
    header.write_text(header.read_text() + "\n// a comment more\n")
    assert subprocess.run(check, capture_output=True, check=False).returncode == 0
    triton = tmp_path / "pyshmem" / "device" / "_triton_ibgda.py"
    text = triton.read_text()
    triton.write_text(text.replace("digest ", "digest 0"))
    assert subprocess.run(check, capture_output=True, check=False).returncode == 1
    triton.write_text(text)
    header.write_text(header.read_text() + "\nint one_more;\n")
    stale = subprocess.run(check, capture_output=True, text=True, check=False)
    assert stale.returncode == 1 and "out of date" in stale.stdout


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("\tmov.u64 \t%rd1, 7;\n\tst.param.b64 \t[func_retval0+0], %rd1;\n\tret;", None),
        ("\tcall.uni f, ();\n\tst.param.b64 \t[func_retval0], %rd1;\n\tret;", "call.uni"),
        ("\tret;\n\tst.param.b64 \t[func_retval0], %rd1;\n\tret;", "ret;"),
        ("\tmov.u32 \t%r1, %clock;\n\tst.param.b64 \t[func_retval0], %rd1;\n\tret;", "%clock"),
        ("\tld.param.u64 \t%rd1, [other_param_0];\n\tst.param.b64 \t[func_retval0], %rd1;\n\tret;", "param"),
    ],
)
def test_what_cannot_be_a_block_is_refused(body, what):
    """Assembly in a function has no calls, no returns and no names but its own."""
    spec = importlib.util.spec_from_file_location("ptx", TOOL)
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    (function,) = tool.declared("SHMEMI_TRITON shmem_triton_f(shmem::u64 a,\n    int pe)\n")
    assert function == ("f", [("shmem::u64", "a"), ("int", "pe")])
    ptx = f".visible .func  (.param .b64 func_retval0) shmem_triton_f(\n)\n{{\n{body}\n}}\n"
    if what is None:
        block = tool.block(ptx, function)
        lines = ["mov.u64 _rd1, 7;", "mov.b64 $0, _rd1;", "bar.warp.sync 0xffffffff;", "}"]
        assert block.splitlines()[-4:] == lines
    else:
        with pytest.raises(ValueError, match=what):
            tool.block(ptx, function)
    with pytest.raises(ValueError, match="not in the PTX"):
        tool.block("", function)
