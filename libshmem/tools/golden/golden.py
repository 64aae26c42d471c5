"""Makes tests/sim/golden.def: what rdma-core's mlx5 provider writes into a send queue and reads from a CQ.

    python libshmem/tools/golden/golden.py           # writes the file
    python libshmem/tools/golden/golden.py --check   # says whether this machine's provider agrees with it

Runs the provider as the system has it (Debian: apt install libibverbs-dev ibverbs-providers), on a device
that fake_uverbs.c pretends; nothing of rdma-core's is in this tree.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
TARGET = HERE.parents[2] / "tests/sim/golden.def"
HEAD = """\
/* Work queue entries and doorbells as rdma-core's mlx5 provider writes them, completion entries as it reads
 * them. Made by libshmem/tools/golden/golden.py; golden.h explains the columns. */
/* clang-format off */
"""
# What libibverbs looks for in sysfs when it seeks devices; a ConnectX-6 Dx.
SYSFS = {
    "class/infiniband_verbs/abi_version": "6",
    "class/infiniband_verbs/uverbs0/ibdev": "mlx5_0",
    "class/infiniband_verbs/uverbs0/dev": "231:192",
    "class/infiniband_verbs/uverbs0/abi_version": "1",
    "class/infiniband/mlx5_0/node_type": "1: CA",
    "class/infiniband/mlx5_0/device/modalias": "pci:v000015B3d0000101Dsv000015B3sd00000000bc02sc00i00",
}


class Unavailable(Exception):
    """No compiler, or no mlx5 provider with its headers."""


def build(folder: Path) -> Path:
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        raise Unavailable("no C compiler")
    program = folder / "provider"
    sources = [str(HERE / "provider.c"), str(HERE / "fake_uverbs.c")]
    command = [
        *compiler.split(),
        "-std=gnu11",
        "-O1",
        "-Wall",
        "-Wextra",
        "-rdynamic",
        *sources,
        "-o",
        str(program),
    ]
    for name in ("infiniband/mlx5dv.h", "rdma/mlx5-abi.h"):
        probe = [*compiler.split(), "-E", "-x", "c", "-"]
        text = f"#include <{name}>\n"
        if subprocess.run(probe, input=text, capture_output=True, text=True).returncode:
            raise Unavailable(f"no <{name}> (Debian: apt install libibverbs-dev linux-libc-dev)")
    made = subprocess.run([*command, "-libverbs", "-lmlx5", "-ldl"], capture_output=True, text=True)
    if made.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{made.stderr}")
    return program


def lines() -> str:
    """The lines of golden.def, from the provider of this machine."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path, text in SYSFS.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text + "\n")
        run = subprocess.run(
            [str(build(folder))],
            env={"PATH": os.environ.get("PATH", ""), "SYSFS_PATH": name},
            capture_output=True,
            text=True,
            timeout=60,
        )
    if run.returncode:
        if "no device" in run.stderr:
            raise Unavailable("libibverbs finds no mlx5 provider (Debian: apt install ibverbs-providers)")
        raise RuntimeError(run.stderr or f"exit status {run.returncode}")
    return run.stdout


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    arguments = parser.parse_args()
    try:
        text = HEAD + lines()
    except Unavailable as why:
        print(f"golden.py: {why}", file=sys.stderr)
        return 2
    if arguments.check:
        if text != TARGET.read_text():
            print(
                "golden.py: this machine's provider does not agree with tests/sim/golden.def", file=sys.stderr
            )
            return 1
        return 0
    TARGET.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
