"""`pyshmem doctor --gpu` without a GPU: what it says there, and what becomes of items that die or hang."""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

from pyshmem import cli, doctor_gpu, errors
from pyshmem._core import ffi, lib
from pyshmem.bench import gpu
from pyshmem.device import probe, probe_driver

pytestmark = pytest.mark.npes(1)

_NAMES = list(probe.ITEMS)
_PORTING = Path(__file__).resolve().parents[2] / "docs" / "porting.md"


def no_gpu() -> int:
    raise gpu.GpuError("this needs an NVIDIA GPU and its driver: none here")


# A stand-in for the process that measures; what happens at the second item it was asked for is the argument.
_CHILD = """
import json, os, signal, sys, time
print("a library says something")
for i, name in enumerate(sys.argv[2:]):
    print(json.dumps({"begin": name}), flush=True)
    if name == "NAME":
        MISHAP
    row = {"name": name, "state": "ok", "found": "[fine]", "advice": "", "figures": {"us": 1.5}}
    print(json.dumps(row), flush=True)
"""


def child(mishap: str, at: str) -> object:
    code = _CHILD.replace("MISHAP", mishap).replace("NAME", at)
    return lambda names: [sys.executable, "-c", code, "x", *names]


def test_a_process_that_stops_after_a_row_is_followed_by_another(with_gpu: None) -> None:
    """As the real one does after an item that may have spoilt its context."""
    code = _CHILD.replace("for i, name in enumerate(sys.argv[2:])", "for name in sys.argv[2:3]")
    code = code.replace("MISHAP", "pass")
    rows = doctor_gpu.look(command=lambda names: [sys.executable, "-c", code, "x", *names])
    assert [(row["name"], row["state"]) for row in rows] == [(name, "ok") for name in _NAMES]


@pytest.fixture
def with_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_gpu, "require_driver", lambda: 1)


@pytest.mark.parametrize(
    ("mishap", "says"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "died of signal 11"),
        ("time.sleep(60)", "no answer in 1 s"),
        ("sys.exit(3)", "ended with status 3"),
        ("os._exit(0)", "ended with status 0"),
    ],
)
@pytest.mark.parametrize("at", [_NAMES[0], _NAMES[4], _NAMES[-1]])
def test_an_item_that_dies_or_hangs_is_named_and_the_rest_goes_on(
    with_gpu: None, mishap: str, says: str, at: str
) -> None:
    noted: list[str] = []
    rows = doctor_gpu.look(noted.append, 1.0, child(mishap, at))  # type: ignore[arg-type]
    assert [row["name"] for row in rows] == _NAMES and set(noted) == set(_NAMES)
    bad = [row for row in rows if row["state"] == "bad"]
    assert [row["name"] for row in bad] == [at] and says in bad[0]["found"]
    assert all(row["needed"] == probe.ITEMS[row["name"]][0] for row in rows)


def test_a_process_that_cannot_start_is_not_started_for_ever(with_gpu: None) -> None:
    rows = doctor_gpu.look(patience=5, command=lambda names: [sys.executable, "-c", "raise SystemExit(9)"])
    assert [row["name"] for row in rows] == _NAMES
    assert all(row["state"] == "bad" and "status 9" in row["found"] for row in rows)


def test_table(with_gpu: None) -> None:
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    doctor_gpu.show(doctor_gpu.look(command=child("pass", "")), console)  # type: ignore[arg-type]
    text = console.export_text()
    assert "[fine]" in text and all(name.split()[0] in text for name in _NAMES)


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_gpu, "require_driver", no_gpu)
    done = CliRunner().invoke(cli.main, ["doctor", "--gpu"])
    assert done.exit_code == 1 and "this needs an NVIDIA GPU" in done.output
    done = CliRunner().invoke(cli.main, ["doctor", "--gpu", "--json"])
    found = json.loads(done.stdout)
    assert done.exit_code == 1 and found["state"] == "none" and len(found["checks"]) == 1


def test_in_a_job_one_process_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_gpu, "require_driver", no_gpu)
    for rank, says in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", rank)
        done = CliRunner().invoke(cli.main, ["doctor", "--gpu"])
        assert ("NVIDIA" in done.output) == says and done.exit_code == int(says)


def test_an_item_that_raises_is_bad_and_one_without_its_package_is_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing() -> probe_driver.Result:
        raise ImportError("No module named 'cupy'")

    def broken() -> probe_driver.Result:
        raise probe_driver.DriverError("cuSomething: CUDA_ERROR_X (1)")

    monkeypatch.setattr(
        probe, "ITEMS", {"a": ("p2p", missing), "b": ("proxy", broken), "c": ("p2p", missing)}
    )
    monkeypatch.setattr(sys, "argv", ["probe", "a", "b", "c"])
    probe.main()
    rows: Sequence[dict[str, str]] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row.get("begin") for row in rows] == ["a", None, "b", None]
    assert rows[1]["state"] == "none" and "sushmem[cuda" in rows[1]["advice"]
    assert rows[3]["state"] == "bad" and "CUDA_ERROR_X" in rows[3]["found"]  # c: in another process


def test_the_porting_guide_has_every_item_and_no_other() -> None:
    """A row of its table begins with the item that measures it, or says why none does."""
    table = _PORTING.read_text().partition("| Item | Path |")[2].partition("\n\n")[0]
    rows = [line for line in table.splitlines()[2:] if "not measured: " not in line or line.startswith("| `")]
    assert [re.match(r"\| `([^`]+)` \|", line)[1] for line in rows] == _NAMES  # type: ignore[index]


# ---- the CPU's part of a ping-pong, and of messages --------------------------------------------------------


def test_echo_answers_each_number() -> None:
    words = np.zeros(2, np.uint64)
    base = ffi.cast("uint64_t *", words.ctypes.data)
    codes: list[int] = []
    thread = threading.Thread(
        target=lambda: codes.append(lib.shmemx_gpu_echo(base, base + 1, 5, 50, 5 * 10**9))
    )
    thread.start()
    for i in range(5, 55):
        words[0] = i
        while words[1] != i and thread.is_alive():
            pass
        assert words[1] == i
    thread.join()
    assert codes == [0]


def test_echo_gives_up_on_who_does_not_come() -> None:
    words = np.array([7, 0], np.uint64)
    base = ffi.cast("uint64_t *", words.ctypes.data)
    assert lib.shmemx_gpu_echo(base, base + 1, 8, 1, 10**7) == lib.SHMEMX_ERR_TIMEOUT
    with pytest.raises(errors.CLASSES[lib.SHMEMX_ERR_TIMEOUT], match="7, 8 has not come"):
        errors.check(lib.shmemx_gpu_echo(base, base + 1, 8, 1, 10**7))
    assert words[1] == 0


def test_messages_are_looked_at_and_answered() -> None:
    """One word of two is old in the second message of three."""
    boxes = np.zeros((2, 3, 16), np.uint64)
    to_cpu, to_gpu = boxes
    here, there = (ffi.cast("uint64_t *", box.ctypes.data) for box in boxes)
    old, codes = ffi.new("uint64_t *"), []
    thread = threading.Thread(
        target=lambda: codes.append(lib.shmemx_gpu_messages(here, there, 3, 2, old, 5 * 10**9))
    )
    thread.start()
    for i in range(1, 4):
        to_cpu[1, 0], to_cpu[2, 0] = i, 1 if i == 2 else i
        to_cpu[0, 0] = i
        while to_gpu[0, 0] != i and thread.is_alive():
            pass
        assert to_gpu[:, 0].tolist() == [i, i, i]
    thread.join()
    assert codes == [0] and old[0] == 1
    assert lib.shmemx_gpu_messages(here, there, 1, 2, old, 10**7) == lib.SHMEMX_ERR_TIMEOUT


def test_add_is_atomic_among_threads() -> None:
    word = np.zeros(1, np.uint64)
    pointer = ffi.cast("uint64_t *", word.ctypes.data)
    threads = [threading.Thread(target=lib.shmemx_gpu_add, args=(pointer, 100_000)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert word[0] == 300_000
