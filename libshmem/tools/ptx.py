"""Compiles the library's kernels (libshmem/src/gpu/*.cu) to PTX, which the build takes in.

    python libshmem/tools/ptx.py            # with nvcc on PATH
    python libshmem/tools/ptx.py --check    # is gpu/ptx made from today's sources? Needs no CUDA.

The files are committed, because building libshmem must not need CUDA. Each names the digest of everything
they were made from, so that a change of a kernel or of a device header without a new run of this tool fails
the test.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "src" / "gpu"
TARGETS = SOURCES / "ptx"
# The oldest GPU that is supported, and the oldest that has what a file needs; the driver compiles for the one
# at hand.
OLDEST, BULK = "-arch=compute_80", "-arch=compute_90"
TYPES = {
    "int8": "signed char",
    "int16": "short",
    "int32": "int",
    "int64": "long long",
    "uint8": "shmem::u8",
    "uint16": "shmem::u16",
    "uint32": "shmem::u32",
    "uint64": "shmem::u64",
    "float16": "shmem::half_bits",
    "bfloat16": "shmem::brain_bits",
    "float32": "float",
    "float64": "double",
}


def modules() -> dict[str, list[str]]:
    """What nvcc is called with for each file: its source, the GPU, and for a type's reductions the type."""
    found = {"kernels": ["kernels.cu", OLDEST], "moe_ll": ["moe_ll.cu", OLDEST]}
    found |= {"moe_ll_far": ["moe_ll.cu", OLDEST]}
    for form in ("moe_normal", "moe_normal_far"):
        found |= {form: ["moe_normal.cu", BULK], f"{form}_80": ["moe_normal.cu", OLDEST]}
    for name, cpp in TYPES.items():
        found[f"reduce_{name}"] = ["reduce.cu", OLDEST, f"-DSHMEMI_ELEMENT={cpp}"]
        found[f"reduce_bulk_{name}"] = ["reduce_bulk.cu", BULK, f"-DSHMEMI_ELEMENT={cpp}"]
        if not name.startswith("int"):  # sums of integers are the same bits, signed or not
            found[f"scan_{name}"] = ["scan.cu", OLDEST, f"-DSHMEMI_ELEMENT={cpp}"]
    for name in ("float16", "bfloat16", "float32"):
        element = f"-DSHMEMI_ELEMENT=shmem::codec::{name}"
        found[f"quant_{name}"] = ["quant.cu", BULK, element]
        found[f"quant_{name}_80"] = ["quant.cu", OLDEST, element]
    return found


def digest() -> str:
    """Of the tokens of all sources: comments and white space may change freely."""
    include = ROOT / "include"
    other = ("arch_host.h", "arch_host_bulk.h", "arch_host_weak.h", "wrappers.h")  # not included by the kernels
    headers = [path for path in sorted((include / "device").glob("*.h")) if path.name not in other]
    own = [*sorted(SOURCES.glob("*.cu*")), *sorted(SOURCES.glob("*_args.h"))]
    total = hashlib.sha256()
    for path in [*own, include / "shmem_device.h", *headers]:
        text = re.sub(r"//[^\n]*|/\*.*?\*/", " ", path.read_text(), flags=re.DOTALL)
        total.update(" ".join(text.split()).encode())
    return total.hexdigest()[:32]


def compile_ptx(source: str, *options: str) -> str:
    command = ["nvcc", "-std=c++17", "-O3", "-ptx", "-I", str(ROOT / "include")]
    command += [*options, str(SOURCES / source), "-o", "-"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def text_of(name: str) -> str:
    # what they reach is mapped, but for those that know a NIC's path as well (device/nic.h)
    mapped = [] if "_far" in name else ["-DSHMEM_DEVICE_MAPPED"]
    lines = [line.strip() for line in compile_ptx(*modules()[name], *mapped).splitlines()]
    lines = [line for line in lines if line and not line.startswith("//")]
    head = f"// Made by libshmem/tools/ptx.py; digest {digest()}."
    return "\n".join([head, *lines]) + "\n"


def current() -> bool:
    """Whether all files, and no others, are made from today's sources."""
    paths = {path.stem: path for path in TARGETS.glob("*.ptx")}
    mark = f"digest {digest()}"
    return set(paths) == set(modules()) and all(mark in path.read_text()[:200] for path in paths.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only say whether the files are up to date")
    if parser.parse_args().check:
        print("gpu/ptx is " + ("up to date" if current() else "out of date: run libshmem/tools/ptx.py"))
        return 0 if current() else 1
    with ThreadPoolExecutor() as pool:
        texts = dict(zip(modules(), pool.map(text_of, modules()), strict=True))
    TARGETS.mkdir(exist_ok=True)
    for path in TARGETS.glob("*.ptx"):
        path.unlink()
    for name, text in texts.items():
        (TARGETS / f"{name}.ptx").write_text(text)
    print(f"{TARGETS}: {sum(map(len, texts.values()))} bytes of PTX")
    return 0


if __name__ == "__main__":
    sys.exit(main())
