"""`pyshmem bench --only network`: between nodes, with and without the programs beside it. No test looks at a
time."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from pyshmem import doctor
from pyshmem.bench import launch, network, show
from pyshmem.bench.figures import TARGETS, Figure, figure, from_json

pytestmark = pytest.mark.npes(1)

_FOREIGN = (*launch.LAUNCHER_PREFIXES, "SHMEM_", "UCX_", "RANK", "WORLD_SIZE", "MASTER_")
_BENCH = ("bench", "--only", "network", "--repeat", "2", "--slice-us", "20", "--json")

# A program with ucx_perftest's manners: waits on a port, or answers in its form. FAILS: the test that fails.
_FAKE = """#!/usr/bin/env python3
import os, socket, sys
a = sys.argv[1:]
port = int(a[a.index("-p") + 1])
if a[0].startswith("-"):
    with socket.create_server(("", port)) as s:
        s.accept()
else:
    socket.create_connection((a[0], port)).close()
    if a[a.index("-t") + 1] == os.environ.get("FAILS"):
        print("cable on fire", file=sys.stderr)
        sys.exit(3)
    print("iterations,50.0_percentile_lat,avg_lat,overall_lat,avg_bw,overall_bw,avg_mr,overall_mr")
    print("1000,7.5,8,9,100,200,3000,50000")
"""


def bench(*more: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command on 2 PEs that are nodes of their own."""
    found = {k: v for k, v in os.environ.items() if not k.startswith(_FOREIGN)}
    nodes = {"SHMEM_NODE_ID": "/1", "SHMEM_TRANSPORTS": "shm,wire", "SHMEM_TIMEOUT": "60", "UCX_TLS": "tcp"}
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    command = launch.find_launchers()[0].command(2, launch.python_command(*_BENCH, *more))
    return subprocess.run(command, env={**found, **nodes, **root, **variables}, cwd="/", capture_output=True,
                          text=True, timeout=300, check=False)  # fmt: skip


def figures_of(done: subprocess.CompletedProcess[str]) -> list[Figure]:
    assert done.returncode == 0, done.stderr
    found = [from_json(line) for line in done.stdout.splitlines()[1:]]
    assert all(f is not None and f.group == "network" for f in found)
    return [f for f in found if f is not None]


# ---- the command -------------------------------------------------------------------------------------------


def test_between_two_nodes() -> None:
    found = figures_of(bench())
    assert {f.face for f in found} == {"C"} and all(f.rounds == 2 and f.median > 0 for f in found)
    assert {(f.op, f.bytes, f.unit) for f in found} == {
        ("put", 8, "ns"), ("get", 8, "ns"), ("put_nbi", 8, "ns"), ("put_nbi", 65536, "GB/s"),
        ("fetch_add", 8, "ns"), ("add", 8, "ns"), ("compare_swap", 8, "ns"), ("p_wait", 8, "ns"),
        ("put_signal_wait", 8, "ns"), ("16 put_nbi + quiet", 8, "ns"), ("put_signal_wait", 65536, "ns"),
    }  # fmt: skip
    # targets of one node are not those of a network
    assert all(f.target is None for f in found)


def test_on_one_node_it_says_so() -> None:
    done = bench(SHMEM_NODE_ID="")
    assert done.returncode == 0 and "network is left out: all PEs are of one node" in done.stderr


@pytest.fixture
def fake(tmp_path: Path) -> dict[str, str]:
    program = tmp_path / "ucx_perftest"
    program.write_text(_FAKE)
    program.chmod(0o755)
    return {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SHMEM_TRANSPORTS": "shm,ucx"}


def test_beside_ucx_perftest(fake: dict[str, str]) -> None:
    found = figures_of(bench("--peer", **fake))
    theirs = {(f.op, f.bytes): f for f in found if f.face == "ucx_perftest"}
    assert {key: f.median for key, f in theirs.items()} == {
        ("p_wait", 8): 7500, ("get", 8): 7500, ("fetch_add", 8): 7500, ("compare_swap", 8): 7500,
        ("put_nbi", 8): pytest.approx(20_000), ("16 put_nbi + quiet", 8): pytest.approx(320_000),
        ("put_nbi", 65536): pytest.approx(200 * 2**20 / 1e9),
    }  # fmt: skip
    assert theirs["p_wait", 8].form == "ucp_put_lat"
    ratios = {(f.op, f.bytes): f for f in found if f.face == "libshmem / ucx_perftest"}
    assert set(ratios) == set(theirs) and all(f.unit == "x" and f.target for f in ratios.values())


def test_a_program_that_fails_is_named_and_the_rest_goes_on(fake: dict[str, str]) -> None:
    done = bench("--peer", **fake, FAILS="ucp_get")
    assert "ucx_perftest (ucp_get) is left out: its client ended with status 3: cable on fire" in done.stderr
    theirs = {f.op for f in figures_of(done) if f.face == "ucx_perftest"}
    assert theirs == {"p_wait", "fetch_add", "compare_swap", "put_nbi", "16 put_nbi + quiet"}


def test_no_program_at_all() -> None:
    path = os.pathsep.join(
        p for p in os.environ["PATH"].split(os.pathsep) if not (Path(p) / "ucx_perftest").exists()
    )
    done = bench("--peer", PATH=path, SHMEM_TRANSPORTS="shm,ucx")
    assert {f.face for f in figures_of(done)} == {"C"}
    assert f"ucx_perftest is left out: no ucx_perftest on {socket.gethostname()}: apt install" in done.stderr


# ---- parts -------------------------------------------------------------------------------------------------

_WRITE_LAT = """
 #bytes #iterations    t_min[usec]    t_max[usec]  t_typical[usec]    t_avg[usec]    t_stdev[usec]   99%
 8       1000          18.05          90.31        20.66              21.39          1.74            27.1
---------------------------------------------------------------------------------------
"""
_WRITE_BW = """
 #bytes     #iterations    BW peak[MB/sec]    BW average[MB/sec]   MsgRate[Mpps]
 65536      400              0.00               80.00              0.001280
"""


def test_what_perftest_prints() -> None:
    programs = {(p.op, p.bytes): p for p in network.BESIDE["verbs"][2]}
    assert programs["put", 8].read(_WRITE_LAT) == pytest.approx(2 * 21_390)
    assert programs["fetch_add", 8].read(_WRITE_LAT) == pytest.approx(21_390)
    assert programs["put_nbi", 65536].read(_WRITE_BW) == pytest.approx(80 * 2**20 / 1e9)
    assert programs["put_nbi", 8].read(_WRITE_BW) == pytest.approx(1e3 / 0.00128)
    for text in ("", "Couldn't connect to host:18515"):
        with pytest.raises(ValueError, match=text[:8] or "no output"):
            programs["put", 8].read(text)


def test_every_figure_of_a_peer_has_one_of_ours_and_targets_name_what_is_compared() -> None:
    compared = {(f"libshmem / {name}", p.op, p.bytes) for name, _, ps in network.BESIDE.values() for p in ps}
    assert {(t.face, t.op, t.bytes) for t in TARGETS if t.face.startswith("libshmem / ")} <= compared


def test_a_ratio_is_taken_in_each_turn() -> None:
    f = network.ratio("perftest", [10.0, 30.0, 50.0], [10.0, 20.0, 60.0], "put", 8, "")
    assert (f.median, f.unit, f.target, f.met) == (1.0, "x", 1.15, True)
    f = network.ratio("perftest", [80.0], [90.0], "put_nbi", 65536, "")
    assert f.at_least and f.met is False


def test_a_port_that_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert network.listening(port)
    assert not network.listening(port)
    assert not network.listening(port, Path("/nowhere"))


def test_the_gid_of_a_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = tmp_path / "sys/class/infiniband/mlx5_0/ports/1"
    for name, text in {
        "link_layer": "Ethernet", "gids/0": "fe80:0000:0000:0000:0000:0000:0000:0001",
        "gid_attrs/types/0": "RoCE v2", "gids/3": "0000:0000:0000:0000:0000:ffff:0a4d:0001",
        "gid_attrs/types/3": "RoCE v2",
    }.items():  # fmt: skip
        (at / name).parent.mkdir(parents=True, exist_ok=True)
        (at / name).write_text(text)
    monkeypatch.delenv("SHMEM_IB_GID_INDEX", raising=False)
    assert doctor.gid_index("mlx5_0", "1", tmp_path) == 3
    monkeypatch.setenv("SHMEM_IB_GID_INDEX", "0")
    assert doctor.gid_index("mlx5_0", "1", tmp_path) == 0
    monkeypatch.delenv("SHMEM_IB_GID_INDEX")
    (at / "link_layer").write_text("InfiniBand")
    assert doctor.gid_index("mlx5_0", "1", tmp_path) is None


def test_the_picture_and_the_table_show_both(tmp_path: Path) -> None:
    kept = [
        figure("C", "network", "put", 8, 2, "ns", [40_000.0]),
        figure("C", "network", "put_nbi", 65536, 2, "GB/s", [0.08]),
        figure("perftest", "network", "put", 8, 2, "ns", [41_000.0], form="twice ib_write_lat"),
        network.ratio("perftest", [40.0], [41.0], "put", 8, ""),
    ]
    show.plot(kept, str(tmp_path / "a.svg"), "title")
    picture = (tmp_path / "a.svg").read_text()
    assert "<svg" in picture
    text = show.markdown(kept)
    for row in (
        "### From C, 2 PEs, between nodes", "| put + quiet | 8 B | 40.0 |  |  | us |",
        "| put + quiet, twice ib_write_lat | 8 B | 41.0 |  |  | us |",
        "### Libshmem / perftest: ours over theirs, 2 PEs, between nodes",
        "| put + quiet | 8 B | 0.98 |  | <= 1.15 met | x |",
    ):  # fmt: skip
        assert row in text, row
