"""Compiles the library's kernels (libshmem/src/gpu/*.cu) to PTX, which the build takes in, and what Triton's
kernels call to Python with inline assembly (pyshmem/device/_triton_ibgda.py).

    python libshmem/tools/ptx.py            # with nvcc on PATH
    python libshmem/tools/ptx.py --check    # are they made from today's sources? Needs no CUDA.

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
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "src" / "gpu"
TARGETS = SOURCES / "ptx"
TRITON = ROOT.parent / "pyshmem" / "device" / "_triton_ibgda.py"
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
    headers = [
        path
        for path in sorted((include / "device").glob("*.h"))
        if path.name != "wrappers.h" and not path.name.startswith("arch_host")  # not included by the kernels
    ]
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


# ---- inline assembly for Triton ----------------------------------------------------------------------------
#
# Triton links LLVM bitcode only to kernels that are launched with its path. Inline assembly goes into any
# kernel, is the same for every version of Triton, and a kernel's place in Triton's cache knows it, since it
# stands in the source. The functions call nothing, so each is one block of PTX: its registers and labels are
# the block's own, what it has as parameters are the assembly's operands.

PREFIX = "shmem_triton_"
# What the functions find the state by (src/gpu/triton.cu); the first operand after the result.
STATE = "shmem_state"
_TYPES = {"shmem::u64": ("l", "tl.uint64"), "unsigned": ("r", "tl.uint32"), "int": ("r", "tl.int32")}


class Function(NamedTuple):
    name: str
    parameters: list[tuple[str, str]]  # (type, name) in C++


def declared(source: str) -> list[Function]:
    """The functions of src/gpu/triton.cu."""
    found = re.findall(rf"^SHMEMI_TRITON {PREFIX}(\w+)\(([^)]*)\)", source, re.MULTILINE)
    return [
        Function(name, [(p.split()[0], p.split()[1]) for p in " ".join(parameters.split()).split(", ") if p])
        for name, parameters in found
    ]


def block(ptx: str, function: Function) -> str:
    """The function as one block; operand 0 is the result, 1 the state, then come the parameters."""
    symbol = PREFIX + function.name
    whole = re.search(
        rf"\.visible \.func\s+\(\.param \.b64 func_retval0\) {symbol}\([^)]*\)\n\{{\n(.*?)\n\}}\n", ptx, re.S
    )
    if whole is None:
        raise ValueError(f"{symbol} is not in the PTX, or does not return 64 bits")
    lines = [" ".join(re.sub(r"//.*", "", line).split()) for line in whole[1].split("\n")]
    text = "\n".join(line for line in lines if line)
    text = re.sub(r"\$L__BB\d+_(\d+)", r"L\1", text)
    text = re.sub(r"%(p|r|rs|rd|f|fd|SP|SPL)(?=[\d<\W])", r"_\1", text)  # not those around the block
    text = re.sub(
        rf"ld\.param\.\w(\d+) (\w+), \[{symbol}_param_(\d+)(?:\+0)?\];",
        lambda m: f"mov.b{m[1]} {m[2]}, ${int(m[3]) + 2};",
        text,
    )
    text = re.sub(r"st\.param\.b64 \[func_retval0(?:\+0)?\], (\w+);\nret;$", r"mov.b64 $0, \1;", text)
    rest = re.search(
        r"\bret\b|\bcall\b|param|\$[^\d]|%(?!(?:tid|ntid|ctaid|nctaid)\.[xyz]|globaltimer)", text
    )
    if rest is not None:
        raise ValueError(f"{symbol}: {text[rest.start() : rest.start() + 60]!r} cannot be in a block")
    # the warp is in one piece again: why is said in pyshmem/device/_triton_core.py
    return f"{{\n.reg .b64 {STATE};\nmov.b64 {STATE}, $1;\n{text}\nbar.warp.sync 0xffffffff;\n}}"


_HEAD = '''"""Made by libshmem/tools/ptx.py from src/gpu/triton.cu; digest {digest}.

How Triton's kernels post to a NIC themselves (device/ibgda.h); src/gpu/triton.cu says what the functions do.
`state` is the address of struct shmemx_device_state. Of results the largest of all threads is the program's.
"""

# Triton's language is not typed.
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-any-return, misc"
from __future__ import annotations

import triton
import triton.language as tl
'''


def triton_module() -> str:
    source = SOURCES / "triton.cu"
    # a function for others to call is not dropped with -rdc alone; the oldest GPU's code runs on all
    ptx = compile_ptx(source.name, OLDEST, "-rdc=true")
    parts = [_HEAD.format(digest=digest())]
    for function in declared(source.read_text()):
        names = ["state", *(name for _, name in function.parameters)]
        kinds = [_TYPES["shmem::u64"], *(_TYPES[kind] for kind, _ in function.parameters)]
        constraints = ",".join(["=l", *(letter for letter, _ in kinds)])
        arguments = "\n".join(
            f"            tl.cast({name}, {kind})," for name, (_, kind) in zip(names, kinds, strict=True)
        )
        parts.append(
            f"""

@triton.jit
def {function.name}({", ".join(names)}):
    return tl.inline_asm_elementwise(
        \"\"\"{block(ptx, function)}\"\"\",
        "{constraints}",
        [
{arguments}
        ],
        dtype=tl.int64,
        is_pure=False,
        pack=1,
    )
"""
        )
    return "".join(parts)


# ---- the files ---------------------------------------------------------------------------------------------


def current() -> bool:
    """Whether all files, and no others, are made from today's sources."""
    paths = {path.stem: path for path in TARGETS.glob("*.ptx")}
    mark = f"digest {digest()}"
    texts = [path.read_text()[:200] for path in (*paths.values(), TRITON) if path.is_file()]
    return set(paths) == set(modules()) and TRITON.is_file() and all(mark in text for text in texts)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only say whether the files are up to date")
    if parser.parse_args().check:
        fine = current()
        print("gpu/ptx is " + ("up to date" if fine else "out of date: run libshmem/tools/ptx.py"))
        return 0 if fine else 1
    with ThreadPoolExecutor() as pool:
        triton = pool.submit(triton_module)
        texts = dict(zip(modules(), pool.map(text_of, modules()), strict=True))
    TARGETS.mkdir(exist_ok=True)
    for path in TARGETS.glob("*.ptx"):
        path.unlink()
    for name, text in texts.items():
        (TARGETS / f"{name}.ptx").write_text(text)
    TRITON.write_text(triton.result())
    print(f"{TARGETS}: {sum(map(len, texts.values()))} bytes of PTX; {TRITON}: {TRITON.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
