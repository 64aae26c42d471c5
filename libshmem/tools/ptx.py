"""Compiles the library's kernels (libshmem/src/gpu/kernels.cu) to PTX and writes it as C: gpu/kernels_ptx.c.

    python libshmem/tools/ptx.py            # with nvcc on PATH
    python libshmem/tools/ptx.py --check    # is kernels_ptx.c made from the sources as they are now? Needs no CUDA.

The file is committed, because building libshmem must not need CUDA. It names the digest of everything it was made from,
so that a change of a kernel or of a device header without a new run of this tool fails the test.
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
TARGET = ROOT / "src" / "gpu" / "kernels_ptx.c"
ARCHITECTURE = "compute_80"  # the oldest that is supported; the driver compiles it for the GPU at hand


def inputs() -> list[Path]:
    include = ROOT / "include"
    headers = [path for path in sorted((include / "device").glob("*.h")) if path.name not in ("arch_host.h", "wrappers.h")]
    return [SOURCE, include / "shmem_device.h", *headers]


def digest() -> str:
    """Of the tokens of all sources: comments and white space may change freely."""
    total = hashlib.sha256()
    for path in inputs():
        text = re.sub(r"//[^\n]*|/\*.*?\*/", " ", path.read_text(), flags=re.DOTALL)
        total.update(" ".join(text.split()).encode())
    return total.hexdigest()[:32]


def compile_ptx() -> str:
    command = ["nvcc", "-std=c++17", "-O3", "-ptx", f"-arch={ARCHITECTURE}", "-I", str(ROOT / "include")]
    return subprocess.run([*command, str(SOURCE), "-o", "-"], check=True, capture_output=True, text=True).stdout


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only say whether the file is up to date")
    options = parser.parse_args()
    if options.check:
        current = TARGET.exists() and f"digest {digest()}" in TARGET.read_text()[:1000]
        print(f"{TARGET.name} is {'up to date' if current else 'out of date: run libshmem/tools/ptx.py'}")
        return 0 if current else 1
    lines = [line.strip() for line in compile_ptx().splitlines()]
    lines = [line for line in lines if line and not line.startswith("//")]
    escaped = (line.replace("\\", "\\\\").replace('"', '\\"') for line in lines)
    body = "\n".join(f'    "{line}\\n"' for line in escaped)
    TARGET.write_text(
        f"/* Made by libshmem/tools/ptx.py from gpu/kernels.cu for {ARCHITECTURE}; digest {digest()}. Do not edit. */\n"
        "/* clang-format off */\n"
        "extern const char shmemi_kernels_ptx[];\n"
        f"const char shmemi_kernels_ptx[] =\n{body};\n"
    )
    print(f"{TARGET}: {sum(map(len, lines))} bytes of PTX")
    return 0


if __name__ == "__main__":
    sys.exit(main())
