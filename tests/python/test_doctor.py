"""pyshmem doctor's view of a machine, from files that a test lays out as the system would."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyshmem import doctor

LIBRARIES = {name: {"found": name} for name in ("libibverbs.so.1", "libcuda.so.1")}
V6, V4 = "fe80:0000:0000:0000:0202:c9ff:fe12:3456", "0000:0000:0000:0000:0000:ffff:0a00:0001"
EMPTY = "0000:0000:0000:0000:0000:0000:0000:0000"


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


def port(gids: list[tuple[str, str]], **files: str) -> dict[str, str]:
    """A port of mlx5_0, RoCE and up if nothing else is said."""
    at = "sys/class/infiniband/mlx5_0/ports/1/"
    given = {"state": "4: ACTIVE", "rate": "400 Gb/sec (4X NDR)", "link_layer": "Ethernet", **files}
    found = {at + name: text for name, text in given.items()}
    for i, (gid, kind) in enumerate(gids):
        found |= {f"{at}gids/{i}": gid, f"{at}gid_attrs/types/{i}": kind, f"{at}gid_attrs/ndevs/{i}": "eth4"}
    return found


def look(root: Path, libraries: dict[str, dict[str, str | None]] | None = None) -> dict[str, doctor.Check]:
    checks = doctor.machine(LIBRARIES if libraries is None else libraries, [], root)
    return {check.name: check for check in checks}


DRIVER, PEERMEM = {"proc/driver/nvidia/version": "NVRM 580"}, {"sys/module/nvidia_peermem/x": ""}
ROCE = {
    **port([(V6, "IB/RoCE v1"), (V6, "RoCE v2"), (EMPTY, ""), (V4, "RoCE v2")]),
    "dev/infiniband/uverbs0": "",
}


def test_nothing_is_there(tmp_path: Path) -> None:
    found = look(tmp_path)
    assert {name: check.state for name, check in found.items()} == {"RDMA devices": "none", "GPU": "none"}
    assert "UCX" in found["RDMA devices"].advice


def test_roce_prefers_v2_over_ipv4(tmp_path: Path) -> None:
    write(tmp_path, ROCE | {"sys/class/net/eth4/mtu": "9000"})
    found = look(tmp_path)["port mlx5_0:1"]
    assert found.state == "ok" and "GID 3 of 3 is 10.0.0.1, RoCE v2, eth4, MTU 9000" in found.found


@pytest.mark.parametrize(
    ("change", "name", "state", "says"),
    [
        ({"sys/class/net/eth4/mtu": "1500"}, "port mlx5_0:1", "warn", "ip link set eth4 mtu 9000"),
        (port([], state="1: DOWN"), "port mlx5_0:1", "bad", "ip link set"),
        (port([], state="2: INIT", link_layer="InfiniBand"), "port mlx5_0:1", "bad", "subnet manager"),
        (DRIVER | PEERMEM, "RDMA of GPU memory", "ok", ""),
        (DRIVER, "RDMA of GPU memory", "warn", "nvidia_peermem"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_what_to_do(
    tmp_path: Path, change: dict[str, str], name: str, state: str, says: str
) -> None:
    write(tmp_path, ROCE | {"sys/class/net/eth4/mtu": "9000"} | change)
    found = look(tmp_path)[name]
    assert found.state == state and says in found.advice, found


def test_infiniband_needs_no_gid(tmp_path: Path) -> None:
    write(tmp_path, port([], link_layer="InfiniBand", lid="0x11") | {"dev/infiniband/uverbs0": ""})
    found = look(tmp_path)["port mlx5_0:1"]
    assert found.state == "ok" and "LID 0x11" in found.found


def test_no_gid_no_device_file_no_library(tmp_path: Path) -> None:
    write(tmp_path, port([(EMPTY, "")]))
    found = look(tmp_path, {"libibverbs.so.1": {"found": None}})
    assert found["port mlx5_0:1"].state == "bad" and "IP address" in found["port mlx5_0:1"].advice
    assert found["device files"].state == "bad" and found["libibverbs"].state == "bad"
    assert doctor.worst(check.state for check in found.values()) == "bad"


def test_roce_v1_alone(tmp_path: Path) -> None:
    write(tmp_path, port([(V4, "IB/RoCE v1")]) | {"sys/class/net/eth4/mtu": "9000"})
    found = look(tmp_path)["port mlx5_0:1"]
    assert found.state == "warn" and "RoCE v2" in found.advice


@pytest.mark.parametrize(
    ("ucx", "state"), [("available (UCX 1.20.1, libucp.so.0)", "ok"), ("not available (none)", "none")]
)
def test_gpu_memory_over_ucx_needs_no_rdma(tmp_path: Path, ucx: str, state: str) -> None:
    write(tmp_path, DRIVER)
    lines = ["transport verbs: not available (none)", f"ucx: {ucx}; UCX: TCP"]
    libraries = {"libibverbs.so.1": {"found": None}, "libcuda.so.1": {"found": "libcuda.so.1"}}
    found = {check.name: check for check in doctor.machine(libraries, lines, tmp_path)}
    assert found["GPU memory over ucx"].state == state
    assert "RDMA of GPU memory" not in found  # no device, so nothing to say of it


@pytest.mark.parametrize(
    ("text", "state"),
    [("possible (sim_0:1, InfiniBand)", "ok"), ("not possible (mlx5_0 has no atomics)", "none")],
)
def test_whether_kernels_post_to_the_nic_themselves(tmp_path: Path, text: str, state: str) -> None:
    found = {check.name: check for check in doctor.machine(LIBRARIES, [], tmp_path, ibgda=text)}
    assert found["ibgda"].state == state and found["ibgda"].found == text
    assert ("proxy" in found["ibgda"].advice) == (state == "none")
