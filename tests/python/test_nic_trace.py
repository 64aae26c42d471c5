"""`pyshmem nic-trace`: decoding against the golden vectors, and what it finds in traces made here."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
from pathlib import Path

import golden_vectors as golden
import pytest
from click.testing import CliRunner, Result

from pyshmem import _report, cli
from pyshmem.bench import launch
from pyshmem.nic_trace import files, mlx5
from pyshmem.nic_trace.findings import findings
from pyshmem.nic_trace.queues import Job

pytestmark = pytest.mark.npes(1)
TREE = Path(__file__).resolve().parents[2]
RTS, ERR = files.STATES.index("RTS"), files.STATES.index("ERR")


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, ["nic-trace", *map(str, arguments)])


class Writer:
    """A trace file as the software NIC writes it; every record is a microsecond after the one before."""

    def __init__(self, path: Path, lid: int = 1, rank: int = -1) -> None:
        self.path, self.now = path, 1_000_000
        head = struct.pack(
            "=8sIIII16sQQi4x", files.MAGIC, files.VERSION, 64, 100 + lid, lid, bytes(16), 0, 0, rank
        )
        self.raw = bytearray(head)
        self.fetched = self.entries = 0

    def add(self, kind: files.Kind, number: int, body: bytes) -> None:
        self.now += 1000
        self.raw += struct.pack("=QHHI", self.now, kind, len(body), number) + body
        self.raw += bytes(-len(self.raw) % 8)

    def queue(self, qpn: int, state: int = RTS, remote: tuple[int, int] = (2, 0x77), depth: int = 16) -> None:
        body = struct.pack("=4B6I2H", state, 0, 14, 7, 1, 5, 5, depth, 0, remote[1], remote[0], 16)
        self.add(files.Kind.QP, qpn, body)

    def key(self, number: int, address: int, n: int, access: int = 7) -> None:
        self.add(files.Kind.KEY, number, struct.pack("=QQII", address, n, 1, access))

    def ring(self, qpn: int, producer: int, *, reg: bytes = b"", record: int = -1, taken: int = 1) -> None:
        reg = reg or struct.pack(">II", producer << 8, qpn << 8)
        told = struct.pack(">II", 0, producer if record < 0 else record)
        self.add(
            files.Kind.DOORBELL,
            qpn,
            struct.pack("=8s8sHHI", reg, told, producer, self.fetched & 0xFFFF, taken),
        )

    def wqe(self, qpn: int, raw: bytes, block: int | None = None) -> None:
        blocks = -(-len(raw) // 64)
        at = self.fetched if block is None else block
        self.add(files.Kind.WQE, qpn, struct.pack("=HH", at & 0xFFFF, blocks) + raw)
        self.fetched = at + blocks

    def cqe(self, qpn: int, counter: int, syndrome: int = 0, vendor: int = 0, opcode: int = 8) -> None:
        good = not syndrome
        body = bytes(54) + struct.pack(
            ">BBIHBB", vendor, syndrome, opcode << 24 | qpn, counter & 0xFFFF, 0, 0 if good else 0xD0
        )
        self.add(files.Kind.CQE, 5, struct.pack("=II", self.entries, qpn) + body)
        self.entries += 1

    def done(self, cut: int = 0) -> Path:
        self.path.write_bytes(self.raw[: len(self.raw) - cut])
        return self.path


def write_wqe(
    index: int, qpn: int = 0x41, remote: int = 0x10000, rkey: int = 0x900, n: int = 64, ce: int = 8
) -> bytes:
    return (
        struct.pack(">IIB2xBI", index << 8 | 0x08, qpn << 8 | 3, 0, ce, 0)
        + struct.pack(">QII", remote, rkey, 0)
        + struct.pack(">IIQ", n, 0x500, 0x20000)
    )


def job_of(*paths: Path) -> Job:
    return Job(files.read(paths))


def kinds(job: Job, bad: bool | None = None) -> dict[str, str]:
    return {f.kind: f.text for f in findings(job) if bad is None or f.bad == bad}


# ---- decoding --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("g", golden.wqes(), ids=lambda g: g["name"])
def test_a_wqe_of_the_provider_is_the_request(g):
    w = mlx5.decode_wqe(g["wqe"])
    assert (w.opcode, w.opmod, w.index, w.qpn) == (g["opcode"], g["opmod"], g["index"], golden.QPN)
    assert w.ds * 16 == len(g["wqe"]) and not w.problem
    assert w.signalled == bool(g["flags"] & golden.SIGNALLED)
    assert w.fenced == bool(g["flags"] & golden.FENCE)
    assert w.solicited == bool(g["flags"] & golden.SOLICITED)
    assert w.imm == g["imm"]
    assert (w.remote or 0, w.rkey or 0) == (g["raddr"], g["rkey"])
    assert [(d.address, d.bytes, d.lkey) for d in w.data] == g["sges"]
    assert (w.inlined or b"") == g["inlined"] and (w.inlined is not None) == bool(g["flags"] & golden.INLINE)
    values = w.operands
    if w.opcode in (0x12, 0x15):
        assert (values["add"], values.get("boundary", 0)) == (g["swap_add"], g["swap_mask"])
    elif w.opcode in (0x11, 0x14):
        assert (values["swap"], values["compare"]) == (g["swap_add"], g["compare"])
        masks = values.get("swap_mask", 0), values.get("compare_mask", 0)
        assert masks == (g["swap_mask"], g["compare_mask"])
    else:
        assert not values


@pytest.mark.parametrize("g", [c for c in golden.cqes() if c["polled"]], ids=lambda g: g["name"])
def test_a_cqe_means_what_the_provider_takes_it_for(g):
    c = mlx5.decode_cqe(g["cqe"])
    assert (c.qpn, c.wqe_counter) == (g["qpn"], g["index"])
    assert (c.syndrome is not None) == (g["status"] != 0)
    assert (c.vendor or 0) == g["vendor"] and c.imm == g["imm"]
    assert c.flushed == (g["status"] == 5)
    if c.syndrome is not None:
        assert "unknown" not in c.text


def test_broken_requests_say_so():
    good = golden.wqes()[0]["wqe"]
    assert "unknown opcode" in mlx5.decode_wqe(good[:3] + b"\x77" + good[4:]).problem
    assert "leaves no remote" in mlx5.decode_wqe(good[:7] + b"\x01" + good[8:]).problem
    inline = next(g for g in golden.wqes() if g["name"] == "inline_29")["wqe"]
    assert "inline take" in mlx5.decode_wqe(inline[:32] + b"\x80\x00\x00\x70" + inline[36:]).problem
    assert (
        "no room for an answer"
        in mlx5.decode_wqe(
            next(g for g in golden.wqes() if g["name"] == "fetch_add")["wqe"][:48].replace(
                b"\xb2\x04", b"\xb2\x03"
            )
        ).problem
    )
    with pytest.raises(ValueError):
        mlx5.decode_wqe(b"")


def test_records_have_the_form_of_the_header():
    """Sizes and numbers of libshmem/sim/trace.h."""
    text = (TREE / "libshmem/sim/trace.h").read_text()
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    width = {"int32_t": 4, "uint8_t": 1, "uint16_t": 2, "uint32_t": 4, "uint64_t": 8, "char": 1}
    sizes = {}
    for name, body in re.findall(r"struct sim_trace_(\w+) \{(.*?)\n\};", text, flags=re.S):
        n = 0
        for kind, fields in re.findall(r"(\w+) ([\w, \[\]]+);", body):
            for field in fields.split(","):
                times = re.search(r"\[(\d+)\]", field)
                n += width[kind] * (int(times[1]) if times else 1)
        sizes[name] = n
    assert files._HEADER.size == sizes["header"]
    names = {"CQ": "cq", "KEY": "key", "QP": "qp", "WQE": "wqe", "RECEIVE": "wqe", "CQE": "cqe",
             "LANDED": "landed", "DOORBELL": "doorbell", "RECORD": "doorbell"}  # fmt: skip
    for kind, (form, _) in files.KINDS.items():
        assert form.size == sizes[names[kind.name]], kind
    assert {k: int(v) for k, v in re.findall(r"SIM_TRACE_([A-Z]+) = (\d+)", text) if k != "VERSION"} == {
        kind.name: kind.value for kind in files.Kind
    }
    assert int(re.search(r"SIM_TRACE_VERSION = (\d+)", text)[1]) == files.VERSION
    states = re.search(r"enum sim_state \{(.*?)\}", text)[1]
    assert tuple(s.strip().removeprefix("SIM_") for s in states.split(",")) == files.STATES


# ---- joining ---------------------------------------------------------------------------------------------


def two_processes(tmp_path, **change):
    """A write that goes well, from lid 1 to lid 2's key."""
    a, b = Writer(tmp_path / "a", 1, 0), Writer(tmp_path / "b", 2, 1)
    b.key(0x900, 0x10000, 4096)
    b.queue(0x77, remote=(1, 0x41))
    a.now = b.now
    a.key(0x500, 0x20000, 4096)
    a.queue(0x41)
    a.ring(0x41, 2)
    a.wqe(0x41, write_wqe(0, ce=0))
    a.wqe(0x41, write_wqe(1, **change))
    return a, b


def test_requests_meet_doorbells_and_entries(tmp_path):
    a, b = two_processes(tmp_path)
    a.cqe(0x41, 1)
    job = job_of(a.done(), b.done())
    pair = job.pairs[0] if job.pairs[0].trace.lid == 1 else job.pairs[1]
    first, second = pair.requests
    assert first.cqe is None and first.done is not None  # unsignalled, and before one that is done
    assert second.cqe is not None and second.latency == 3000  # three records later
    assert job.remote(pair, second)[1] == 0
    assert not findings(job)
    shown = invoke(tmp_path)
    assert shown.exit_code == 0 and "PE 1 + 0x0" in shown.stdout and "RDMA_WRITE" in shown.stdout
    assert "with a later one" in shown.stdout and "none" in shown.stdout.splitlines()[-1]


def test_indices_wrap(tmp_path):
    w = Writer(tmp_path / "t")
    w.queue(0x41)
    w.fetched = 0xFFF0
    for lap in range(3):
        start = w.fetched
        w.ring(0x41, (start + 16) & 0xFFFF)
        for i in range(16):
            w.wqe(0x41, write_wqe((start + i) & 0xFFFF))
        for i in range(16):
            w.cqe(0x41, start + i)
        assert lap < 3
    job = job_of(w.done())
    pair = job.pairs[0]
    assert len(pair.requests) == 48 and all(r.cqe is not None and r.rung is not None for r in pair.requests)
    assert [r.place.block for r in pair.requests[14:18]] == [0xFFFE, 0xFFFF, 0, 1]
    assert not kinds(job, bad=True)


def test_a_doorbell_for_several_requests_is_the_first_that_told(tmp_path):
    w = Writer(tmp_path / "t")
    w.queue(0x41)
    w.ring(0x41, 2)
    w.ring(0x41, 3)
    first, second = w.now - 1000, w.now
    for i in range(3):
        w.wqe(0x41, write_wqe(i))
    rung = [r.rung for r in job_of(w.done()).pairs[0].requests]
    assert rung == [first, first, second]


# ---- findings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "syndrome", "said"),
    [
        ({"rkey": 0x901}, 0x13, "PE 1 has no such key"),
        ({"remote": 0x10FF0}, 0x13, "the key covers 0x10000 to 0x11000, offset 0xff0"),
        ({}, 0x13, "within the key's range, whose access is 0x7"),
        ({"n": 8192}, 0x04, "key 0x500 covers 0x20000 to 0x21000, not 8192 bytes"),
        ({}, 0x15, "the peer does not answer"),
    ],
)
def test_failures_are_explained(tmp_path, change, syndrome, said):
    a, b = two_processes(tmp_path, **change)
    a.cqe(0x41, 1, syndrome, 0x88)
    a.queue(0x41, ERR)
    a.cqe(0x41, 2, 0x05, 0xF9)
    job = job_of(a.done(), b.done())
    assert said in kinds(job, bad=True)["error"], kinds(job)
    assert "1 requests flushed, from index 0x0002" in kinds(job, bad=False)["flushed"]
    shown = invoke(tmp_path, "--errors")
    assert shown.exit_code == 1 and "error 0x" in shown.stdout


def test_a_deregistered_key_is_told_from_a_wrong_one(tmp_path):
    a, b = Writer(tmp_path / "a", 1), Writer(tmp_path / "b", 2)
    b.key(0x900, 0x10000, 4096)
    b.key(0x900, 0, 0)
    a.now = b.now + 10_000
    a.queue(0x41)
    a.ring(0x41, 1)
    a.wqe(0x41, write_wqe(0))
    a.cqe(0x41, 0, 0x13, 0x88)
    assert "has deregistered it" in kinds(job_of(a.done(), b.done()))["error"]


@pytest.mark.parametrize(
    ("kind", "break_it"),
    [
        ("index mismatch", lambda w: w.wqe(0x41, write_wqe(5))),
        ("wrong queue pair", lambda w: w.wqe(0x41, write_wqe(0, qpn=0x42))),
        ("illegal request", lambda w: w.wqe(0x41, write_wqe(0)[:3] + b"\x66" + write_wqe(0)[4:])),
        ("too long", lambda w: w.wqe(0x41, write_wqe(0, n=(1 << 30) + 1))),
        ("never completed", lambda w: w.wqe(0x41, write_wqe(0))),
        ("not fetched", lambda w: None),
        ("record behind doorbell", lambda w: w.ring(0x41, 2, record=1)),
        ("queue overrun", lambda w: w.ring(0x41, 40)),
        ("entry without request", lambda w: w.cqe(0x41, 9)),
        ("rule broken", lambda w: w.add(files.Kind.VIOLATION, 0x41, b"the index is wrong")),
        ("CQ overrun", lambda w: w.add(files.Kind.CQ, 5, struct.pack("=I4B", 4, 0, 0, 0, 1))),
        ("misaligned atomic", lambda w: w.wqe(0x41, struct.pack(">IIB2xBI", 0x12, 0x4104, 0, 8, 0) +
                                              struct.pack(">QIIQQIIQ", 0x10004, 1, 0, 1, 0, 8, 1, 0))),
    ],
)  # fmt: skip
def test_a_broken_rule_is_found(tmp_path, kind, break_it):
    w = Writer(tmp_path / "t")
    w.queue(0x41)
    w.ring(0x41, 1)
    break_it(w)
    found = kinds(job_of(w.done()), bad=True)
    assert kind in found, found


def test_the_wrong_word_of_the_record_is_found(tmp_path):
    w = Writer(tmp_path / "t")
    w.queue(0x41)
    for producer in (1, 2):
        told = struct.pack(">II", producer, 0)
        reg = struct.pack(">II", producer << 8, 0x4100)
        w.add(files.Kind.DOORBELL, 0x41, struct.pack("=8s8sHHI", reg, told, producer, producer - 1, 1))
        w.wqe(0x41, write_wqe(producer - 1))
        w.cqe(0x41, producer - 1)
    found = kinds(job_of(w.done()), bad=True)
    assert "for receives, changes" in found["wrong word of the record"]
    assert "record, to be written first, 0x0000" in found["record behind doorbell"]


def test_a_drivers_doorbell_is_no_mistake(tmp_path):
    """It names the last WQE and its length, where kernels name the index after it."""
    w = Writer(tmp_path / "t")
    w.queue(golden.QPN)
    for g in golden.wqes()[:3]:
        w.fetched = g["index"]
        w.ring(golden.QPN, g["record"], reg=g["uar"])
        w.wqe(golden.QPN, g["wqe"])
        w.cqe(golden.QPN, g["index"])
    assert not findings(job_of(w.done()))


def test_notes_are_not_bad(tmp_path):
    w = Writer(tmp_path / "t")
    w.queue(0x41)
    w.add(files.Kind.FAULT, 0x41, b"delay_doorbell_us")
    w.ring(0x41, 0, taken=0)
    w.ring(0x41, 10)
    for i in range(10):
        w.wqe(0x41, write_wqe(i))
        w.now += 5_000_000 if i == 9 else 0
        w.cqe(0x41, i)
    job = job_of(w.done())
    assert not kinds(job, bad=True)
    assert {"fault", "doorbell without news", "slow"} == set(kinds(job))
    assert invoke(w.path).exit_code == 0


def test_many_of_a_kind_are_counted(tmp_path):
    w = Writer(tmp_path / "t")
    w.queue(0x41)
    w.ring(0x41, 16)
    for i in range(50):
        w.wqe(0x41, write_wqe(i + 1))
    found = [f for f in findings(job_of(w.done())) if f.kind == "index mismatch"]
    assert len(found) == 21 and "and 30 more" in found[-1].text


# ---- the command -----------------------------------------------------------------------------------------


def test_json_has_it_all(tmp_path):
    a, b = two_processes(tmp_path, rkey=0x901)
    a.cqe(0x41, 1, 0x13, 0x88)
    a.done()
    b.done()
    shown = invoke(tmp_path, "--json")
    said = json.loads(shown.stdout)
    assert shown.exit_code == 1
    queue = next(q for q in said["queues"] if q["lid"] == 1)
    assert [r["opcode"] for r in queue["requests"]] == ["RDMA_WRITE"] * 2
    assert queue["requests"][1]["raw"] == write_wqe(1, rkey=0x901).hex()
    assert queue["completions"][0]["syndrome"] == 0x13 and queue["doorbells"][0]["producer"] == 2
    assert any(f["kind"] == "error" and f["bad"] for f in said["findings"])
    assert {k["key"] for k in said["keys"]} == {0x500, 0x900}


def test_filters(tmp_path):
    w = Writer(tmp_path / "t")
    w.queue(0x41), w.queue(0x42)
    w.ring(0x41, 4)
    for i in range(4):
        w.wqe(0x41, write_wqe(i))
        w.cqe(0x41, i)
    w.fetched = 0
    fetch_add = next(g for g in golden.wqes() if g["name"] == "fetch_add")["wqe"]
    w.ring(0x42, 1)
    w.wqe(0x42, struct.pack(">II", 0x12, 0x4204) + fetch_add[8:])
    w.cqe(0x42, 0, opcode=0x12)
    w.done()

    def rows(*options):
        return [
            line
            for line in invoke(w.path, *options).stdout.splitlines()
            if re.search(r" 0x\d{4} +[A-Z]", line)
        ]

    assert len(rows()) == 5
    assert len(rows("--qp", "0x42")) == 1 and "ATOMIC_FA" in rows("--qp", "0x42")[0]
    assert len(rows("--opcode", "rdma-write")) == 4
    assert len(rows("--index", "2", "3")) == 2
    assert len(rows("--errors")) == 0
    assert len(rows("--limit", "2")) < 5
    assert len(rows("--until", "0")) == 0 and len(rows("--since", "0")) == 5
    assert len(rows("--lid", "9")) == len(rows("--pe", "0")) == 0


def test_differences(tmp_path):
    def one(path, base, **change):
        w = Writer(path)
        w.key(0x500 + base, 0x20000 + base, 4096)
        w.queue(0x41 + base)
        w.ring(0x41 + base, 2)
        for i in range(2):
            raw = bytearray(write_wqe(i, qpn=0x41 + base, **(change if i else {})))
            raw[36:] = struct.pack(">IQ", 0x500 + base, 0x20000 + base)
            w.wqe(0x41 + base, bytes(raw))
            w.cqe(0x41 + base, i)
        return w.done()

    first = one(tmp_path / "1", 0)
    same = invoke(first, "--diff", one(tmp_path / "2", 0x1000))
    assert (same.exit_code, same.stdout) == (0, "no difference\n")
    other = invoke(first, "--diff", one(tmp_path / "3", 0x1000, n=128))
    assert other.exit_code == 1
    changed = [line for line in other.stdout.splitlines() if re.match(r"[-+] ", line)]
    assert len(changed) == 2 and "/64" in changed[0] and "/128" in changed[1]


def header(version: int = files.VERSION) -> bytes:
    return struct.pack("=8sIIII16sQQi4x", files.MAGIC, version, 64, 1, 1, bytes(16), 0, 0, -1)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "no trace"),
        (b"x" * 100, "no trace"),
        (header(99), "version 99"),
        (header() + struct.pack("=QHHI", 0, 99, 0, 0), "no such kind of record: 99"),
        (header() + struct.pack("=QHHI", 0, 1, 4, 0) + bytes(8), "QP of 4 bytes, 32 are its least"),
    ],
)
def test_files_that_are_no_traces(tmp_path, raw, said):
    (tmp_path / "t").write_bytes(raw)
    shown = invoke(tmp_path / "t")
    assert shown.exit_code == 1 and said in shown.stderr


def test_wrong_arguments(tmp_path):
    assert "No such file" in invoke(tmp_path / "nowhere").stderr
    assert "no files in this folder" in invoke(tmp_path).stderr
    assert invoke().exit_code == 2
    assert invoke(tmp_path, "--", "true").exit_code == 2
    assert invoke(tmp_path, "--qp", "x").exit_code == 2


def test_a_killed_process_leaves_a_trace(tmp_path):
    w = Writer(tmp_path / "t")
    w.queue(0x41)
    w.ring(0x41, 1)
    w.wqe(0x41, write_wqe(0))
    for cut in (5, 20, 70):
        job = job_of(w.done(cut))
        assert job.traces[0].cut and "killed" in kinds(job)["cut"]


# ---- with the software NIC ------------------------------------------------------------------------------

PROGRAM = """
import sys
import numpy as np
import pyshmem
pyshmem.init()
me, other = pyshmem.my_pe(), 1 - pyshmem.my_pe()
a = pyshmem.zeros(64, dtype=np.int64)
pyshmem.barrier_all()
pyshmem.put(a, np.arange(64) + me, other)
pyshmem.quiet()
pyshmem.barrier_all()
assert (a == np.arange(64) + other).all()
pyshmem.barrier_all()  # the other PE has looked, too
pyshmem.atomic_add(a[:1], 5, other)
pyshmem.barrier_all()
assert a[0] == other + 5
pyshmem.finalize()
"""


@pytest.fixture(scope="module")
def launcher():
    found = launch.find_launchers()
    if not found or not (_report.paths()["libdir"] / "libshmem_sim.so").exists():
        pytest.skip("needs mpirun, and a build with the headers of libibverbs")
    return found[0]


def run_traced(launcher, folder, *options, **more):
    """The program on 2 PEs, each a node of its own, under `pyshmem nic-trace --`."""
    (folder / "program.py").write_text(PROGRAM)
    line = launcher.command(2, [sys.executable, "-P", str(folder / "program.py")])
    settings = {"SHMEM_NODE_ID": "/1", "SHMEM_TRANSPORTS": "shm,verbs", "SHMEM_IB_ATOMICS": "native"}
    return subprocess.run(
        launch.python_command("nic-trace", *options, "--", *line),
        env={**launch.environment(), **settings, "SHMEM_TIMEOUT": "60", **more},
        capture_output=True, text=True, timeout=120, check=False, cwd="/",
    )  # fmt: skip


def test_a_job_is_run_shown_and_replayed(launcher, tmp_path):
    kept = tmp_path / "traces"
    shown = run_traced(launcher, tmp_path, "--keep", str(kept))
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert re.search(r"PE 0 QP 0x[0-9a-f]+ to PE 1 QP", shown.stdout)
    for part in ("RDMA_WRITE", "ATOMIC_FA", "add 0000000000000005", "PE 1 + 0x", "doorbell to 0x"):
        assert part in shown.stdout, part
    assert " bad " not in shown.stdout
    again = invoke(kept, "--replay")
    assert again.exit_code == 0 and " 0 queue pairs differ" in again.stdout, again.stdout
    assert invoke(kept, "--diff", kept).stdout == "no difference\n"

    # One entry that says another opcode: the replay has the right one.
    path = sorted(kept.iterdir())[0]
    trace = files.read([path])[0]
    entry = next(r for r in trace.records if r.kind == files.Kind.CQE and r.rest[63] >> 4 == 0)
    raw = path.read_bytes()
    at = raw.index(entry.rest)
    path.write_bytes(raw[: at + 56] + bytes([raw[at + 56] ^ 1]) + raw[at + 57 :])
    changed = json.loads(invoke(kept, "--replay", "--json").stdout)
    assert len(changed["differences"]) == 1 and changed["entries"] > 0


def test_a_job_that_fails_is_explained(launcher, tmp_path):
    shown = run_traced(launcher, tmp_path, SHMEM_SIM_FAULTS="nak=9,nak_syndrome=0x13")
    assert shown.returncode != 0
    assert "fault: nak=9" in shown.stdout and "error 0x13/" in shown.stdout, shown.stdout + shown.stderr


@pytest.mark.usefixtures("launcher")
def test_a_program_without_a_nic_says_so():
    shown = invoke("--", "true")
    assert shown.exit_code == 1 and "opened no software NIC" in shown.stderr
    assert "No such file" in invoke("--", "/no/such/program").stderr


def test_each_rule_of_the_page_names_tests_that_are_there():
    """The table of docs/software-nic.md: file:function of tests/sim, or a file."""
    rows = re.findall(r"^\| (M\d+) \|.*\| ([^|]*) \|$", (TREE / "docs/software-nic.md").read_text(), re.M)
    assert [rule for rule, _ in rows] == [f"M{n}" for n in range(1, 20) if n not in (4, 10)]
    for rule, tests in rows:
        named = re.findall(r"`([\w.]+)(?::(\w+))?`", tests)
        assert named, rule
        for file, function in named:
            text = (TREE / "tests/sim" / file).read_text()
            assert not function or re.search(rf"\b{function}\(", text), (rule, file, function)
