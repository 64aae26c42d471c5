"""The same on NVSHMEM, NCCL and DeepEP, after our own job has ended: the GPUs are theirs alone.

NVSHMEM: peer_nvshmem.cu, compiled by nvcc against the pip wheel into a temporary folder. NCCL: peer_nccl.py
and peer_nccl_moe.py, torch.distributed. DeepEP: peer_deepep.py, its package as it is installed. A peer that
is not there is named and left out. NVLink multicast (NVLS) is off in all, as it is in libshmem: what is
compared is the same links.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .figures import GPU_GROUPS, Figure, figure
from .gpu_plan import Plan, plan
from .launch import environment, python_command
from .moe_load import MoePlan, moe_plan
from .run import Options, Report

__all__ = ["PeerMissing", "figures_of", "run"]

_DEADLINE_S = 600
_SOURCE = Path(__file__).with_name("peer_nvshmem.cu")


class PeerMissing(RuntimeError):
    """A peer cannot be measured; the text says why and what to install."""


def figures_of(face: str, npes: int, text: str) -> list[Figure]:
    """The figures among the lines that a peer's program printed; libraries may have printed others."""
    found = []
    for line in text.splitlines():
        try:
            fields = json.loads(line)
        except ValueError:
            continue
        if isinstance(fields, dict) and "samples" in fields:
            found.append(figure(face, npes=npes, **fields))
    return found


def _last_words(text: str) -> str:
    """The line of a failed program that says most: the first with "error", else the last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "no message")


def _together(
    name: str, commands: Sequence[tuple[list[str], dict[str, str]]], deadline: float = _DEADLINE_S
) -> str:
    """Runs the commands, each with its variables, until all have ended; the first one's standard output.

    PeerMissing when one fails or the deadline passes; none is left behind.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        processes: list[subprocess.Popen[str]] = []
        try:
            for i, (command, variables) in enumerate(commands):
                one = subprocess.Popen(
                    command, env={**environment(), **variables}, stdin=subprocess.DEVNULL, stderr=errors,
                    stdout=out if i == 0 else subprocess.DEVNULL, text=True, start_new_session=True,
                )  # fmt: skip
                processes.append(one)  # its session holds its children, which must end with it
            until = time.monotonic() + deadline
            codes: list[int | None] = [None]
            while None in codes and not any(codes) and time.monotonic() < until:
                time.sleep(0.05)
                codes = [process.poll() for process in processes]
        except OSError as error:
            raise PeerMissing(f"{name} cannot be started: {error}") from None
        finally:
            for process in processes:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        for file in (out, errors):
            file.seek(0)
        text, said = out.read(), errors.read()
    failed = [code for code in codes if code]
    if failed:
        raise PeerMissing(f"{name} ended with status {failed[0]}: {_last_words(said or text)}")
    if None in codes:
        raise PeerMissing(f"{name} was not done after {deadline:g} s")
    return text


# ---- NVSHMEM -----------------------------------------------------------------------------------------------


def _wheel() -> Path:
    """The folder of NVSHMEM's pip wheel, with include and lib."""
    spec = None
    if importlib.util.find_spec("nvidia") is not None:
        spec = importlib.util.find_spec("nvidia.nvshmem")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(place) / "include" / "nvshmem.h").is_file():
            return Path(place)
    raise PeerMissing("its wheel is missing: pip install nvidia-nvshmem-cu13, or nvidia-nvshmem-cu12")


def _nvcc() -> str:
    home = os.environ.get("CUDA_HOME") or "/usr/local/cuda"
    found = shutil.which("nvcc") or shutil.which("nvcc", path=f"{home}/bin")
    if found is None:
        raise PeerMissing("nvcc, which compiles its benchmark, is neither on PATH nor in CUDA_HOME: "
                          "install the CUDA toolkit")  # fmt: skip
    return found


def compile_command(nvcc: str, wheel: Path, folder: Path, arch: str = "native") -> list[str]:
    """The command that makes folder/peer; folder holds plan.h."""
    host = sorted((wheel / "lib").glob("libnvshmem_host.so.*"))
    library = f"-l:{host[0].name}" if host else "-lnvshmem_host"
    return [
        nvcc, "-std=c++17", "-O3", f"-arch={arch}", "-rdc=true", f"-I{folder}", f"-I{wheel / 'include'}",
        str(_SOURCE), "-o", str(folder / "peer"), f"-L{wheel / 'lib'}", "-lnvshmem_device", library,
    ]  # fmt: skip


def _nvshmem(p: Plan, npes: int, _groups: Sequence[str]) -> str:
    wheel, nvcc = _wheel(), _nvcc()
    with tempfile.TemporaryDirectory(prefix="pyshmem-bench-") as name:
        folder = Path(name)
        (folder / "plan.h").write_text(p.header())
        _together("nvcc", [(compile_command(nvcc, wheel, folder), {})])
        paths = [str(wheel / "lib"), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
        variables = {
            "LD_LIBRARY_PATH": os.pathsep.join(paths),
            "NVSHMEM_DISABLE_NVLS": "1",
            "NVSHMEM_REMOTE_TRANSPORT": "none",
            "NVSHMEM_BOOTSTRAP_UID_SOCK_IFNAME": "lo",
        }
        return _together("its benchmark", [([str(folder / "peer"), str(npes)], variables)])


# ---- NCCL --------------------------------------------------------------------------------------------------


def _nccl(p: Plan, npes: int, groups: Sequence[str]) -> str:
    text = ""
    if "collectives" in groups or "quant" in groups:
        text += _on_torch(npes, asdict(p), "pyshmem.bench.peer_nccl")
    if "moe" in groups:
        text += _on_torch(npes, asdict(_moe_plan(p)), "pyshmem.bench.peer_nccl_moe")
    return text


def _moe_plan(p: Plan) -> MoePlan:
    return moe_plan(p.rounds if p.quick else None, p.quick)


def _on_torch(npes: int, fields: dict[str, Any], main: str) -> str:
    if importlib.util.find_spec("torch") is None:
        raise PeerMissing("it is measured through PyTorch: pip install 'sushmem[torch]'")
    return _torch_ranks(npes, python_command(json.dumps(fields), main=main), {})


def _torch_ranks(npes: int, command: list[str], more: dict[str, str]) -> str:
    """Processes of torch.distributed, as torchrun would start them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {
        "WORLD_SIZE": str(npes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "NCCL_NVLS_ENABLE": "0", "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1", **more,
    }  # fmt: skip
    ranks = [{**common, "RANK": str(i), "LOCAL_RANK": str(i)} for i in range(npes)]
    return _together("its benchmark", [(command, variables) for variables in ranks])


# ---- DeepEP ------------------------------------------------------------------------------------------------


def _deepep(p: Plan, npes: int, _groups: Sequence[str]) -> str:
    if importlib.util.find_spec("deep_ep") is None:
        raise PeerMissing(
            "its package deep_ep is missing; on machines without a NIC it also needs NVSHMEM's wheel"
        )
    variables = {
        "NVSHMEM_REMOTE_TRANSPORT": "none", "NVSHMEM_DISABLE_NVLS": "1",
        "NVSHMEM_BOOTSTRAP_UID_SOCK_IFNAME": "lo",
    }  # fmt: skip
    try:
        paths = [str(_wheel() / "lib"), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
        variables["LD_LIBRARY_PATH"] = os.pathsep.join(paths)
    except PeerMissing:
        pass  # it may have been built against another
    command = python_command(json.dumps(asdict(_moe_plan(p))), main="pyshmem.bench.peer_deepep")
    return _torch_ranks(npes, command, variables)


# What each of them can be asked for.
_PEERS: tuple[tuple[str, tuple[str, ...], Callable[[Plan, int, Sequence[str]], str]], ...] = (
    ("NVSHMEM", tuple(g for g in GPU_GROUPS if g not in ("moe", "quant")), _nvshmem),
    ("NCCL", ("collectives", "moe", "quant"), _nccl),
    ("DeepEP", ("moe",), _deepep),
)


def run(options: Options, npes: int, report: Report) -> None:
    """Measures the peers one after the other, on as many GPUs as the job had PEs."""
    p = plan(options.rounds, options.quick)
    for i, (face, groups, measure) in enumerate(_PEERS):
        wanted = [g for g in groups if g in options.groups]
        if not wanted:
            continue
        report.progress(face, i / len(_PEERS))
        try:
            found = [f for f in figures_of(face, npes, measure(p, npes, wanted)) if f.group in wanted]
            if not found:
                raise PeerMissing("its benchmark printed no figures")
        except PeerMissing as why:
            report.note(f"{face} is left out: {why}")
            continue
        for f in found:
            report.figure(f)
    report.progress("peers", 1.0)
