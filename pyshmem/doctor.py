"""What `pyshmem doctor` looks at: each link of the chain between two PEs, what was found, and what to do.

The system's files say it (`/sys/class/infiniband`, `/proc`), so that it works where a library or a driver is
missing; `root` is another place for them, for tests. Nothing is changed.
"""

from __future__ import annotations

import ipaddress
import json
import os
import platform
import resource
import socket
import statistics
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import pyshmem

__all__ = ["Check", "examine", "gather", "gid_index", "machine", "ping", "worst"]

OK, NONE, WARN, BAD = "ok", "none", "warn", "bad"
_PINGS = 200


@dataclass
class Check:
    """One link of the chain."""

    name: str
    state: str
    """"ok"; "none": not there, and not missed; "warn": works, but could be better; "bad": broken."""
    found: str
    advice: str = ""


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _names(path: Path) -> list[str]:
    try:
        return sorted(p.name for p in path.iterdir())
    except OSError:
        return []


# ---- RDMA --------------------------------------------------------------------------------------------------


def _gid_text(gid: str) -> str:
    address = ipaddress.IPv6Address(gid)
    return str(address.ipv4_mapped or address)


def _gids(port: Path) -> list[tuple[int, str, str, str]]:
    """Index, type ("RoCE v2", "IB/RoCE v1"), address, network device of the entries in use."""
    found = []
    for name in sorted(_names(port / "gids"), key=lambda n: int(n) if n.isdigit() else -1):
        gid = _read(port / "gids" / name)
        if gid and set(gid) - set("0:"):
            kind = _read(port / "gid_attrs" / "types" / name)
            device = _read(port / "gid_attrs" / "ndevs" / name)
            found.append((int(name), kind, gid, device))
    return found


def _gid_rank(entry: tuple[int, str, str, str]) -> tuple[bool, int, int]:
    """The order in which GIDs are preferred: RoCE v2 first; IPv4, then routable IPv6, then link-local."""
    index, kind, gid, _ = entry
    address = ipaddress.IPv6Address(gid)
    scope = 0 if address.ipv4_mapped else 2 if address.is_link_local else 1
    return ("v2" not in kind, scope, index)


def gid_index(device: str, port: str, root: Path = Path("/")) -> int | None:
    """The GID by which a port is reached: SHMEM_IB_GID_INDEX, or on RoCE the preferred one; else None."""
    where = root / "sys/class/infiniband" / device / "ports" / port
    wanted = os.environ.get("SHMEM_IB_GID_INDEX", "-1")
    if wanted.isdigit():
        return int(wanted)
    gids = sorted(_gids(where), key=_gid_rank) if _read(where / "link_layer") == "Ethernet" else []
    return gids[0][0] if gids else None


def _port(root: Path, device: str, port: Path) -> Check:
    name = f"port {device}:{port.name}"
    state = _read(port / "state").partition(":")[2].strip() or "unknown"
    layer = _read(port / "link_layer") or "unknown link layer"
    text = f"{layer}, {state}, {_read(port / 'rate') or 'rate unknown'}"
    if state != "ACTIVE":
        if layer == "Ethernet":
            advice = "bring its network device up: ip link set DEVICE up; look at the cable and the switch"
        else:
            advice = "is a subnet manager running (opensm, or the switch's)? look at ibstat and the cable"
        return Check(name, BAD, text, advice)
    if layer != "Ethernet":
        return Check(name, OK, f"{text}, LID {_read(port / 'lid') or '?'}")
    gids = sorted(_gids(port), key=_gid_rank)
    if not gids:
        return Check(name, BAD, f"{text}, no GID in use", "give its network device an IP address")
    index, kind, gid, net = gids[0]
    mtu = _read(root / "sys/class/net" / net / "mtu")
    text += f"; GID {index} of {len(gids)} is {_gid_text(gid)}, {kind or 'type unknown'}"
    text += f", {net or 'no network device'}, MTU {mtu or '?'}"
    if "v2" not in kind:
        return Check(
            name, WARN, text, "no RoCE v2 GID: RoCE v1 does not cross routers; give the device an IP address"
        )
    if mtu.isdigit() and int(mtu) < 4200:
        return Check(
            name,
            WARN,
            text,
            f"an Ethernet MTU of 4200 or more lets RDMA use 4096 bytes: ip link set {net} mtu 9000",
        )
    return Check(name, OK, text)


def _memlock() -> Check:
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft == resource.RLIM_INFINITY:
        return Check("locked memory", OK, "unlimited")
    return Check(
        "locked memory", WARN, f"at most {soft} bytes",
        "RDMA pins the symmetric heap: ulimit -l unlimited, or memlock in /etc/security/limits.conf; "
        "under Slurm PropagateResourceLimits and the daemon's own limit count",
    )  # fmt: skip


def _rdma(root: Path, library: str | None) -> list[Check]:
    infiniband = root / "sys/class/infiniband"
    devices = _names(infiniband)
    if not devices:
        return [
            Check(
                "RDMA devices",
                NONE,
                "none",
                "peers on other nodes are reached by UCX, over TCP where there is nothing better",
            )
        ]
    checks = [Check("RDMA devices", OK, ", ".join(devices))]
    if library is None:
        checks.append(
            Check(
                "libibverbs",
                BAD,
                "not found",
                "install it: apt install ibverbs-providers, dnf install libibverbs",
            )
        )
    verbs = [p for p in _names(root / "dev/infiniband") if p.startswith("uverbs")]
    closed = [p for p in verbs if not os.access(root / "dev/infiniband" / p, os.R_OK | os.W_OK)]
    if not verbs:
        checks.append(
            Check(
                "device files",
                BAD,
                "no /dev/infiniband/uverbs*",
                "modprobe ib_uverbs; in a container: --device /dev/infiniband",
            )
        )
    elif closed:
        checks.append(
            Check(
                "device files",
                BAD,
                f"no access to {', '.join(closed)}",
                "chmod 666, or the group that owns them",
            )
        )
    else:
        checks.append(Check("device files", OK, ", ".join(verbs)))
    for device in devices:
        ports = infiniband / device / "ports"
        checks += [_port(root, device, ports / port) for port in _names(ports)]
    return [*checks, _memlock()]


# ---- GPU, UCX ----------------------------------------------------------------------------------------------


def _gpu(root: Path, library: str | None, rdma: bool) -> list[Check]:
    driver = _read(root / "proc/driver/nvidia/version").partition("\n")[0]
    if not driver:
        return [Check("GPU", NONE, "no NVIDIA driver")]
    checks = [Check("GPU", OK if library else BAD, driver,
                    "" if library else "libcuda.so.1 is missing; in a container: --gpus all")]  # fmt: skip
    if rdma:
        peermem = (root / "sys/module/nvidia_peermem").exists()
        kernel = tuple(int(x) for x in platform.release().split("-")[0].split(".")[:2])
        dmabuf = "Open Kernel Module" in driver and kernel >= (5, 12)
        how = "dmabuf" if dmabuf else "nvidia_peermem" if peermem else "neither dmabuf nor nvidia_peermem"
        advice = "NVIDIA's open kernel modules and Linux 5.12 or newer, or nvidia_peermem; until then: ucx"
        fine = dmabuf or peermem
        checks.append(Check("RDMA of GPU memory", OK if fine else WARN, how, "" if fine else advice))
    return checks


def machine(
    libraries: dict[str, dict[str, Any]],
    transports: list[str],
    root: Path = Path("/"),
    ibgda: str | None = None,
) -> list[Check]:
    """What this machine has. `libraries`, `transports`, `ibgda`: of `pyshmem info`."""
    found = {name: library["found"] for name, library in libraries.items()}
    rdma = _rdma(root, found.get("libibverbs.so.1"))
    checks = rdma + _gpu(root, found.get("libcuda.so.1"), len(rdma) > 1)
    for line in transports:
        name, _, text = line.partition(": ")
        there = text.startswith("available")
        checks.append(Check(f"transport {name}", OK if there else NONE, text))
        if name == "ucx" and found.get("libcuda.so.1"):
            checks.append(
                Check("GPU memory over ucx", OK, "by copies of the driver; it needs no RDMA of GPU memory")
                if there
                else Check("GPU memory over ucx", NONE, "no ucx")
            )
    if ibgda:
        there = ibgda.startswith("possible")
        advice = "" if there else "kernels reach PEs on other nodes by the proxy"
        checks.append(Check("ibgda", OK if there else NONE, ibgda, advice))
    return checks


def worst(states: Iterable[str]) -> str:
    """The gravest state."""
    return max(states, key=[NONE, OK, WARN, BAD].index, default=OK)


# ---- between PEs -------------------------------------------------------------------------------------------


def ping() -> list[list[float]]:
    """Median seconds of an 8-byte put and quiet from each PE (row) to each (column), one PE after the other.
    Collective."""
    me, npes = pyshmem.my_pe(), pyshmem.n_pes()
    word, mine = pyshmem.zeros(1, np.int64), pyshmem.zeros(npes, np.float64)
    every = pyshmem.zeros(npes * npes, np.float64)
    value = np.ones(1, np.int64)
    for turn in range(npes):
        pyshmem.barrier_all()
        for peer in range(npes) if turn == me else ():
            times = []
            for _ in range(_PINGS):
                start = time.perf_counter()
                pyshmem.put(word, value, peer)
                pyshmem.quiet()
                times.append(time.perf_counter() - start)
            mine[peer] = statistics.median(times)
    pyshmem.fcollect(every, mine)
    seconds = np.array(every).reshape(npes, npes).tolist()
    for array in (word, mine, every):
        pyshmem.free(array)
    return seconds


def gather(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Every PE's report. Collective."""
    text = np.frombuffer(json.dumps(report).encode(), np.uint8)
    size = pyshmem.zeros(1, np.int64)
    pyshmem.max_reduce(size, pyshmem.full(1, len(text), np.int64))
    mine = pyshmem.full(int(size[0]), ord(" "), np.uint8)
    mine[: len(text)] = text
    every = pyshmem.zeros(int(size[0]) * pyshmem.n_pes(), np.uint8)
    pyshmem.fcollect(every, mine)
    return [json.loads(bytes(row)) for row in np.array(every).reshape(pyshmem.n_pes(), -1)]


def examine(found: dict[str, Any]) -> dict[str, Any]:
    """This PE's report. `found`: what `pyshmem info` has."""
    checks = machine(found["libraries"], found["transports"], ibgda=found["ibgda"])
    return {
        "host": socket.gethostname(),
        "node": found["job"]["node"],
        "checks": [asdict(check) for check in checks],
        "routes": found["routes"],
    }
