"""Jobs that go wrong, from Python: a PE that never comes, dies, raises or ends the job.

The processes are started here by hand with torchrun's variables, because a launcher would kill the others
before they can say what they saw. Every job prints one line "ready" a PE when it is up.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.npes(1)
RunPes = Callable[..., "subprocess.CompletedProcess[str]"]

N = 3
SOON = 4.0  # seconds; what happens "at once" takes milliseconds, the rest is for a busy machine

PREAMBLE = """
import os, signal, sys, time
import numpy as np
import pyshmem as shmem
shmem.init()
me, n = shmem.my_pe(), shmem.n_pes()
a, b = shmem.zeros(8, dtype=np.int64), shmem.zeros(8 * n, dtype=np.int64)
lock, sig = shmem.new_lock(), shmem.new_signal()
x, idx, weights = np.ones((2, 128), np.float32), np.zeros((2, 1), np.int64), np.ones((2, 1), np.float32)
from pyshmem.moe import ExpertParallel
ep = ExpertParallel(num_experts=n, hidden=128, topk=1, max_tokens=2)
if me == 1:
    shmem.set_lock(lock)
shmem.barrier_all()
os.write(1, b"ready\\n")  # at once and in one piece
"""
FOREIGN = (
    *("PMIX_", "PMI_", "OMPI_COMM", "PRTE_", "HYDI_"),
    *("RANK", "WORLD_SIZE", "LOCAL_", "MASTER_", "TORCHELASTIC_"),
)
CALLS = {
    "barrier": "shmem.barrier_all()",
    "reduce": "shmem.sum_reduce(a[:4], a[4:])",
    "reduce_nb": "shmem.sum_reduce_nb(a[:4], a[4:]).wait()",
    "broadcast": "shmem.broadcast(b[:8], a, 1)",
    "wait_until": "shmem.wait_until(a[:1], shmem.CMP.EQ, 5)",
    "signal_wait_until": "shmem.signal_wait_until(sig, shmem.CMP.NE, 0)",
    "set_lock": "shmem.set_lock(lock)",
    "malloc": "shmem.zeros(3)",
    "moe_dispatch": "ep.dispatch(x, idx, weights)",
}
# An allocation begins with a reduction: the PEs agree what the garbage collector has freed everywhere.
SAYS = {"malloc": "reduce"}


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Job:
    """N processes that run `code` after the preamble."""

    def __init__(self, code: str, n: int = N, preamble: str = PREAMBLE, **environment: str) -> None:
        base = {key: value for key, value in os.environ.items() if not key.startswith(FOREIGN)}
        base |= {"SHMEM_TIMEOUT": "0", "SHMEM_SYMMETRIC_SIZE": "64M"} | environment
        base |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(n)}
        self.code = preamble + code
        self.pes = [
            subprocess.Popen(
                [sys.executable, "-c", self.code], env=base | {"RANK": str(pe)}, cwd="/", text=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )
            for pe in range(n)
        ]  # fmt: skip

    def ready(self) -> None:
        for pe in self.pes:
            assert pe.stdout is not None
            line = pe.stdout.readline()
            assert line == "ready\n", f"{line!r}\n{self.end(0)}"

    def end(self, seconds: float) -> list[tuple[int, str]]:
        """Status and standard error of each; who does not end in that time is killed and has status -9."""
        until = time.monotonic() + seconds
        results = []
        for pe in self.pes:
            try:
                _, err = pe.communicate(timeout=max(0.01, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                pe.kill()
                _, err = pe.communicate()
                err += f"\n(killed by the test after {seconds:g} s)"
            results.append((pe.returncode, err))
        return results


@pytest.fixture
def job() -> Iterator[Callable[..., Job]]:
    """Job, and no process of it is left after the test."""
    jobs: list[Job] = []

    def start(*args: object, **kwargs: object) -> Job:
        jobs.append(Job(*args, **kwargs))  # type: ignore[arg-type]
        return jobs[-1]

    yield start
    for each in jobs:
        for pe in each.pes:
            if pe.poll() is None:
                pe.kill()
            pe.communicate()


def leavings() -> set[str]:
    """Names that the library could have left: in /dev/shm, temporary folders, and Unix sockets."""
    found = {
        str(path)
        for folder in ("/dev/shm", "/tmp", "/var/tmp")
        for path in Path(folder).glob("*shmem*")
        if path.name != "pyshmem"
    }
    sockets = Path("/proc/net/unix").read_text().splitlines()
    return found | {line.split()[-1] for line in sockets if "shmem" in line}


@contextlib.contextmanager
def nothing_left() -> Iterator[None]:
    before = leavings()
    yield
    left = leavings() - before
    until = time.monotonic() + 5  # other jobs of this machine come and go; what stays was left
    while left and time.monotonic() < until:
        time.sleep(0.05)
        left &= leavings()
    assert not left


@pytest.mark.parametrize("name", CALLS)
def test_absent(job: Callable[..., Job], name: str) -> None:
    """PE 1 never comes: the others raise TimeoutError at the deadline, naming the call and who is missing."""
    code = f"""
if me == 1:
    time.sleep(60)
try:
    {CALLS[name]}
except TimeoutError as error:
    assert isinstance(error, shmem.ShmemError) and error.name == "TIMEOUT", repr(error)
    print(error, file=sys.stderr, flush=True)
    time.sleep(1)  # the other one's turn to see it
    shmem.global_exit(0)
"""
    started = job(code, SHMEM_TIMEOUT="1")
    started.ready()
    results = started.end(15)
    assert [status for status, _ in results] == [0, 0, 0], results
    for _, err in (results[0], results[2]):
        assert "SHMEM_TIMEOUT" in err and SAYS.get(name, name) in err, err
        assert "PE 1" in err or "address 0x" in err, err


@pytest.mark.parametrize("name", CALLS)
def test_killed(job: Callable[..., Job], name: str) -> None:
    """PE 1 is killed: without any deadline the others raise PeerDeadError at once, and nothing is left."""
    with nothing_left():
        started = job(f"if me == 1:\n    time.sleep(60)\n{CALLS[name]}\n")
        started.ready()
        time.sleep(0.1)
        begin = time.monotonic()
        started.pes[1].kill()
        results = started.end(SOON)
        took = time.monotonic() - begin
    assert [status for status, _ in results] == [1, -9, 1], results
    assert took < SOON
    for _, err in (results[0], results[2]):
        assert "PeerDeadError" in err and "PE 1 (process" in err and SAYS.get(name, name) in err, err


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("raise ValueError('mine')", 1),
        ("os._exit(0)", 0),
        ("os.abort()", -signal.SIGABRT),
        ("sys.exit(5)", 5),
    ],
)
def test_leaves(job: Callable[..., Job], end: str, status: int) -> None:
    """PE 1 ends in another way: the others are told. A normal end of the interpreter (sys.exit) finalizes,
    and finalize waits for the others, which wait for PE 1: only the deadline can end that."""
    started = job(f"if me == 1:\n    {end}\nshmem.wait_until(a[:1], shmem.CMP.EQ, 5)\n", SHMEM_TIMEOUT="2")
    started.ready()
    results = started.end(15)
    normal = end.startswith("sys.exit")
    assert results[0][0] == results[2][0] == 1, results
    if not normal:
        assert results[1][0] == status, results
    for _, err in (results[0], results[2]):
        assert ("PeerDeadError" in err and "PE 1" in err) or (normal and "SHMEM_TIMEOUT" in err), err


@pytest.mark.parametrize("name", CALLS)
def test_interrupted(job: Callable[..., Job], name: str) -> None:
    """Ctrl-C while PE 1 never comes: the waiting call raises KeyboardInterrupt at once; after a handler that
    does not raise it goes on waiting."""
    code = f"""
if me == 1:
    time.sleep(60)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
signal.signal(signal.SIGUSR1, lambda *_: os.write(1, b"handled\\n"))
os.write(1, b"waiting\\n")
{CALLS[name]}
"""
    started = job(code)
    started.ready()
    pe = started.pes[0]
    assert pe.stdout is not None
    assert pe.stdout.readline() == "waiting\n"
    time.sleep(0.2)
    pe.send_signal(signal.SIGUSR1)
    assert pe.stdout.readline() == "handled\n"
    time.sleep(0.1)
    assert pe.poll() is None
    pe.send_signal(signal.SIGINT)
    assert pe.wait(SOON) == -signal.SIGINT
    started.pes[1].kill()
    results = started.end(SOON)
    assert "KeyboardInterrupt" in results[0][1] and "PeerDeadError" in results[2][1], results


def test_all_killed(job: Callable[..., Job]) -> None:
    with nothing_left():
        started = job("shmem.barrier_all()\ntime.sleep(60)\n")
        started.ready()
        for pe in started.pes:
            pe.kill()
        assert [status for status, _ in started.end(SOON)] == [-9] * N


@pytest.mark.parametrize("busy", ["time.sleep(60)", "while True: pass", *list(CALLS.values())[:4]])
def test_global_exit(job: Callable[..., Job], busy: str) -> None:
    """One PE ends all, with its status, whatever they do."""
    with nothing_left():
        started = job(f"if me == 1:\n    time.sleep(0.2)\n    shmem.global_exit(7)\n{busy}\n")
        started.ready()
        results = started.end(SOON)
    assert [status for status, _ in results] == [7] * N, results


def test_normal_ends(job: Callable[..., Job]) -> None:
    """Without finalize, by sys.exit, with finalize twice: all are normal ends."""
    ends = "if me == 0:\n    sys.exit(0)\nif me == 1:\n    shmem.finalize()\n"
    started = job(ends)
    started.ready()
    results = started.end(SOON + 4)
    assert results == [(0, "")] * N


def test_launcher_killed(job: Callable[..., Job], tmp_path: Path) -> None:
    """A launcher that is killed takes its PEs along, though nothing but its death tells them."""
    script = tmp_path / "pe.py"
    script.write_text(PREAMBLE + "time.sleep(60)\n")
    launcher = f"""
import os, subprocess, sys, time
for rank in range({N}):
    subprocess.Popen([sys.executable, {str(script)!r}], env=os.environ | {{"RANK": str(rank)}})
time.sleep(60)
"""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(FOREIGN)}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(N)}
    # torchrun's mark: only then is the parent known to be a launcher, and not a shell that may end first
    environment |= {"SHMEM_SYMMETRIC_SIZE": "64M", "SHMEM_TIMEOUT": "0", "TORCHELASTIC_RUN_ID": "killed"}
    with (
        nothing_left(),
        subprocess.Popen(
            [sys.executable, "-c", launcher], env=environment, cwd="/", text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process,
    ):  # fmt: skip
        assert process.stdout is not None and process.stderr is not None
        assert [process.stdout.readline() for _ in range(N)] == ["ready\n"] * N
        process.kill()
        begin = time.monotonic()
        err = process.stderr.read()  # ends when the last of them has
        assert time.monotonic() - begin < SOON
        assert "launcher" in err, err


def in_pe_1(code: str) -> str:
    return f"{PREAMBLE}if me == 1:\n    time.sleep(0.2)\n    {code}\nshmem.barrier_all()\n"


def test_mpirun_gives_the_status(run_pes: RunPes) -> None:
    done = run_pes(N, in_pe_1("shmem.global_exit(7)"), SHMEM_SYMMETRIC_SIZE="64M")
    assert "ready" in done.stdout, done
    assert done.returncode == 7, done


def test_mpirun_ends_after_a_kill(run_pes: RunPes) -> None:
    with nothing_left():
        kill = "os.kill(os.getpid(), signal.SIGKILL)"
        done = run_pes(N, in_pe_1(kill), timeout=30, SHMEM_SYMMETRIC_SIZE="64M")
        assert "ready" in done.stdout, done
        assert done.returncode != 0, done


def test_heap_full(job: Callable[..., Job]) -> None:
    """The error is a MemoryError on every PE and names the variable; afterwards the heap works."""
    code = """
try:
    shmem.zeros(1 << 40, dtype=np.int8)
except MemoryError as error:
    assert isinstance(error, shmem.ShmemError), repr(error)
    assert "SHMEM_SYMMETRIC_SIZE" in str(error) and "1099511627776" in str(error), str(error)
else:
    raise AssertionError("a TiB was given")
shmem.zeros(100)
shmem.barrier_all()
"""
    started = job(code)
    started.ready()
    assert started.end(SOON + 4) == [(0, "")] * N


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SHMEM_SYMMETRIC_SIZE", "lots"),
        ("SHMEM_SYMMETRIC_SIZE", "-1"),
        ("SHMEM_TIMEOUT", "soon"),
        ("SHMEM_SYMMETRIC_GLOBALS", "2"),
    ],
)
def test_bad_variable(job: Callable[..., Job], variable: str, value: str) -> None:
    started = job("", n=1, preamble="import pyshmem\npyshmem.init()\n", **{variable: value})
    [(status, err)] = started.end(SOON + 4)
    assert status == 1, err
    assert variable in err and f'"{value}"' in err, err
