"""Compile the device API for several GPUs without one: every call in every scope, and the C wrappers.

    python tests/device/compile.py [--arch sm_90 ...] [--nvcc] [--report]

NVRTC (pip install nvidia-cuda-nvrtc, or cupy) is always used; with --nvcc the compiler in PATH as well. A
warning is a failure. --report prints registers and spills of each kernel, which needs ptxas (nvcc's). Exit
status 0: all compiled; 77: there is no NVRTC.
"""

from __future__ import annotations

import argparse
import ctypes
import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
INCLUDE = HERE.parents[1] / "libshmem" / "include"
ARCHS = ["sm_80", "sm_90", "sm_100"]
WRAPPERS = '#include "device/wrappers.h"\n'
SKIPPED = 77


def find_nvrtc() -> ctypes.CDLL | None:
    """The NVRTC library of a pip package, or the system's."""
    folders = [Path(p) / "nvidia" for p in sys.path if p]
    found = [f for d in folders for f in glob.glob(str(d / "*" / "lib" / "libnvrtc.so.*"))]
    for name in [*sorted(found, reverse=True), "libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"]:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


class Nvrtc:
    """As much of NVRTC's C interface as a compile needs."""

    def __init__(self, lib: ctypes.CDLL) -> None:
        self.lib = lib
        lib.nvrtcGetErrorString.restype = ctypes.c_char_p

    def call(self, name: str, *args: object) -> None:
        rc = getattr(self.lib, name)(*args)
        if rc != 0:
            raise RuntimeError(f"{name}: {self.lib.nvrtcGetErrorString(rc).decode()}")

    def compile(self, source: str, name: str, options: list[str]) -> tuple[bool, str, bytes]:
        """Whether it compiled, the compiler's log, and the PTX."""
        program = ctypes.c_void_p()
        self.call("nvrtcCreateProgram", ctypes.byref(program), source.encode(), name.encode(), 0, None, None)
        try:
            argv = (ctypes.c_char_p * len(options))(*[o.encode() for o in options])
            rc = self.lib.nvrtcCompileProgram(program, len(options), argv)
            size = ctypes.c_size_t()
            self.call("nvrtcGetProgramLogSize", program, ctypes.byref(size))
            log = ctypes.create_string_buffer(size.value)
            self.call("nvrtcGetProgramLog", program, log)
            if rc != 0:
                return False, log.value.decode(), b""
            self.call("nvrtcGetPTXSize", program, ctypes.byref(size))
            ptx = ctypes.create_string_buffer(size.value)
            self.call("nvrtcGetPTX", program, ptx)
            return True, log.value.decode(), ptx.value
        finally:
            self.lib.nvrtcDestroyProgram(ctypes.byref(program))


def report(ptx: bytes, arch: str) -> None:
    """Prints what ptxas says about each kernel."""
    if shutil.which("ptxas") is None:
        print("  no ptxas: no report")
        return
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "k.ptx"
        # ptxas of an older toolkit refuses the version line of a newer NVRTC, though nothing new is used
        source.write_bytes(re.sub(rb"\.version \d+\.\d+", b".version 9.0", ptx, count=1))
        command = ["ptxas", "-v", f"-arch={arch}", str(source), "-o", os.devnull]
        text = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    kernel = ""
    for line in text.splitlines():
        if match := re.search(r"Compiling entry function '(\w+)'", line):
            kernel = match[1]
        elif match := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line):
            spill = match[1]
        elif kernel and (match := re.search(r"Used (\d+) registers", line)):
            print(f"  {arch} {kernel}: {match[1]} registers, {spill} bytes spilled")
            kernel = ""
        elif "error" in line or "fatal" in line:
            print(f"  {line}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", nargs="+", default=ARCHS)
    parser.add_argument("--nvcc", action="store_true", help="compile with nvcc too")
    parser.add_argument("--report", action="store_true", help="print registers and spills")
    args = parser.parse_args()
    lib = find_nvrtc()
    if lib is None:
        print("no NVRTC: pip install nvidia-cuda-nvrtc", file=sys.stderr)
        return SKIPPED
    nvrtc = Nvrtc(lib)
    sources = {"every_call.cu": (HERE / "every_call.cu").read_text(), "wrappers.cu": WRAPPERS}
    failed = 0
    for arch in args.arch:
        for name, source in sources.items():
            for checks in ([], ["-DSHMEM_DEVICE_CHECKS"]):
                options = ["-std=c++17", f"-arch={arch}", f"-I{INCLUDE}", "-Werror", "all-warnings", *checks]
                if name == "wrappers.cu":
                    options.append("-rdc=true")  # as a device library
                ok, log, ptx = nvrtc.compile(source, name, options)
                ok = ok and "warning" not in log and b"shmem_device_state" in ptx
                failed += not ok
                print(f"nvrtc {arch} {name} {' '.join(checks)}: {'ok' if ok else 'FAILED'}")
                if not ok:
                    print(log)
                elif args.report and not checks and name == "every_call.cu":
                    report(ptx, arch)
        if args.nvcc and shutil.which("nvcc"):
            command = [
                "nvcc",
                "-std=c++17",
                f"-arch={arch}",
                f"-I{INCLUDE}",
                "-Werror",
                "all-warnings",
                "-Xcompiler",
            ]
            command += ["-Wall,-Wextra", "-c", str(HERE / "every_call.cu"), "-o", os.devnull]
            ran = subprocess.run(command, capture_output=True, text=True, check=False)
            failed += ran.returncode != 0
            print(f"nvcc {arch} every_call.cu: {'ok' if ran.returncode == 0 else 'FAILED'}")
            print(ran.stdout + ran.stderr, end="")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
