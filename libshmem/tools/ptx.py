"""Compiles the library's kernels (libshmem/src/gpu/kernels.cu) to PTX, which the build takes in.

    python libshmem/tools/ptx.py            # with nvcc on PATH
    python libshmem/tools/ptx.py --check    # is kernels.ptx made from today's sources? Needs no CUDA.

The file is committed, because building libshmem must not need CUDA. It names the digest of everything it was
made from, so that a change of a kernel or of a device header without a new run of this tool fails the test.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "gpu" / "kernels.cu"
TARGET = ROOT / "src" / "gpu" / "kernels.ptx"
ARCHITECTURE = "compute_80"  # the oldest that is supported; the driver compiles it for the GPU at hand


def inputs() -> list[Path]:
    include = ROOT / "include"
    other = ("arch_host.h", "wrappers.h")  # not included by the kernels
    headers = [path for path in sorted((include / "device").glob("*.h")) if path.name not in other]
    return [SOURCE, include / "shmem_device.h", *headers]


def digest() -> str:
    """Of the tokens of all sources: comments and white space may change freely."""
    total = hashlib.sha256()
    for path in inputs():
        text = re.sub(r"//[^\n]*|/\*.*?\*/", " ", path.read_text(), flags=re.DOTALL)
        total.update(" ".join(text.split()).encode())
    return total.hexdigest()[:32]


def compile_ptx() -> str:
    include = ["-I", str(ROOT / "include")]
    command = ["nvcc", "-std=c++17", "-O3", "-ptx", f"-arch={ARCHITECTURE}", *include, str(SOURCE), "-o", "-"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only say whether the file is up to date")
    options = parser.parse_args()
    if options.check:
        current = TARGET.exists() and f"digest {digest()}" in TARGET.read_text()[:1000]
        print(f"{TARGET.name} is {'up to date' if current else 'out of date: run libshmem/tools/ptx.py'}")
        return 0 if current else 1
    lines = [line.strip() for line in compile_ptx().splitlines()]
    lines = [line for line in lines if line and not line.startswith("//")]
    head = f"// Made by libshmem/tools/ptx.py from gpu/kernels.cu for {ARCHITECTURE}; digest {digest()}."
    TARGET.write_text("\n".join([head, *lines]) + "\n")
    print(f"{TARGET}: {sum(map(len, lines))} bytes of PTX")
    return 0


if __name__ == "__main__":
    sys.exit(main())
