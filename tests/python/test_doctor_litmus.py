"""The litmus tests of `pyshmem doctor --gpu` without a GPU: what is said of counts that are wrong, and the
kernel of message passing on CPU threads whose stores are as weak as a GPU's."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyshmem.device import probe_litmus as litmus
from pyshmem.device import state
from pyshmem.device.probe_driver import Left
from pyshmem.device.probe_kernels import KERNELS

CXX = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
pytestmark = pytest.mark.npes(1)


# ---- what is said ------------------------------------------------------------------------------------------


def test_messages_that_are_right_are_not_talked_about() -> None:
    assert litmus.messages_wrong([("GPU 0", Left(ns=5)), ("GPU 1", Left(ns=7))], 640) == ""


def test_messages_with_old_words() -> None:
    sides = [("GPU 0", Left()), ("GPU 1", Left(first=3, second=1, wanted=17, found=16))]
    assert litmus.messages_wrong(sides, 640) == (
        "GPU 1 found 3 of 640 words old that were stored before the flag; "
        "GPU 1 loaded 1 of 640 words old from the other side's memory; GPU 1 first found 16 where 17 was due"
    )


def test_messages_that_do_not_come() -> None:
    sides = [("GPU 0", Left(late=1, wanted=9, found=8)), ("GPU 1", Left())]
    assert litmus.messages_wrong(sides, 640) == "GPU 0 waited in vain for round 9, the word there was 8"
    assert litmus.messages_wrong([("the CPU", Left(first=2))], 10).startswith("the CPU found 2 of 10 words")


@pytest.mark.parametrize(
    ("stores", "looks", "level", "says"),
    [
        (Left(), Left(), "ok", ""),
        (Left(), Left(third=2), "warn", "2 times 16 bytes of a line were old though its last word was new"),
        (Left(), Left(second=1), "warn", "1 times 16 bytes that a thread had stored at once were half old"),
        (Left(), Left(first=4), "bad", "4 times a word of 8 bytes was half old"),
        (Left(late=8, wanted=3, found=2), Left(), "bad", "who stores waited in vain for round 3"),
    ],
)
def test_lines(stores: Left, looks: Left, level: str, says: str) -> None:
    found, wrong = litmus.lines_wrong(stores, looks)
    assert found == level and says in wrong and bool(wrong) == bool(says)


def test_bulk_copies() -> None:
    assert litmus.bulk_wrong(4096, Left(), Left()) == ""
    late = Left(late=1, wanted=2, found=1)
    assert litmus.bulk_wrong(4096, late, Left(first=5)) == (
        "who copies waited in vain for round 2, the word there was 1; "
        "5 of 4096 words that were copied before the flag were old"
    )


_ROUNDS, _THREADS = 4, 128  # of two sides


def atomics(kind: str) -> dict[str, Any]:
    """What two sides leave whose atomics work."""
    random = np.random.default_rng(3)
    sets = _THREADS // (8 * np.dtype(kind).itemsize)
    words = np.zeros(16 + 4 * sets, kind)
    chain = random.permutation(np.arange(_THREADS + 1))  # of exchanges: all but the last one's are returned
    chain[np.flatnonzero(chain == 0)[0]], chain[0] = chain[0], 0
    words[:4] = _THREADS * _ROUNDS, chain[-1], _THREADS, _THREADS
    words[16 : 16 + 2 * sets] = np.iinfo(kind).max
    words[16 + 3 * sets :] = 7
    added = random.permutation(_THREADS * _ROUNDS).astype(kind)
    olds = [
        np.concatenate([part, old.astype(kind)])
        for part, old in zip(np.split(added, 2), np.split(chain[:-1], 2), strict=True)
    ]
    return {"words": words, "olds": olds, "rounds": _ROUNDS, "wrong": 0, "taken": sets, "own": True}


def _set(name: str, index: int, value: int) -> Callable[[dict[str, Any]], None]:
    def change(left: dict[str, Any]) -> None:
        (left[name] if name == "words" else left["olds"][1])[index] = value

    return change


@pytest.mark.parametrize("kind", ["uint32", "uint64"])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (None, ""),
        (_set("words", 0, 511), "512 additions made 511"),
        (_set("words", 1, 200), "1 of 128 values that were exchanged are lost"),
        (_set("words", 2, 127), "128 additions without a result made 127"),
        (_set("words", 16, 1), "bits of or are lost"),
        (_set("words", -1, 0), "compare and swap took"),
        (_set("olds", 5, 600), "of 512 old values of additions 0 came twice, the highest is 600"),
        (_set("olds", -1, 300), "1 of 128 values that were exchanged are lost"),
        (lambda left: left["olds"][1].__setitem__(5, left["olds"][0][7]), "additions 1 came twice"),
        (lambda left: left.update(wrong=2), "2 old values of or, xor, and are wrong"),
        (lambda left: left.update(taken=left["taken"] + 1), "compare and swap took"),
    ],
)
def test_atomics(kind: str, change: Callable[[dict[str, Any]], None] | None, says: str) -> None:
    left = atomics(kind)
    if change is not None:
        change(left)
    wrong = litmus.atomics_wrong(**left)
    assert says in wrong and wrong.count(";") == 0 and bool(wrong) == bool(says)


def test_the_maximum_is_of_own_memory_and_8_bytes() -> None:
    left = atomics("uint64")
    left["words"][3] = 127
    assert litmus.atomics_wrong(**left) == "the maximum of 1 to 128 is 127"
    assert litmus.atomics_wrong(**{**left, "own": False}) == ""
    sets = left["taken"]
    left["words"][3], left["words"][16 + 2 * sets] = 128, 5
    assert litmus.atomics_wrong(**left) == "2 of 128 bits of and are lost"


def test_turns_count_who_came_behind_another() -> None:
    one_after_the_other = [np.array([0, 1, 9]), np.array([2, 3, 9])]  # two additions each, then an exchange
    assert litmus.turns(one_after_the_other, 2) == 1
    assert litmus.turns([np.array([0, 2, 9]), np.array([1, 3, 9])], 2) == 3


# ---- kernels on CPU threads --------------------------------------------------------------------------------

_MAIN = """
static shmemx_device_state no_job;

/* Both sides' counts: old words that were stored, old words that were loaded, waits in vain. */
int main()
{
    constexpr int threads = 16, rounds = 200;
    static u64 boxes[2][line * (1 + 2 * threads)], left[2][8];
    arch::weak_stores() = true;
    const auto side = [](int i) {
        host::launch(no_job, 1, threads, 64,
                     [i] { k_messages(boxes[i], boxes[1 - i], i == 0, 1, rounds, left[i]); });
    };
    std::thread other(side, 1);
    side(0);
    other.join();
    std::printf("%llu %llu %llu", left[0][COUNT] + left[1][COUNT], left[0][COUNT + 1] + left[1][COUNT + 1],
                left[0][LATE] + left[1][LATE]);
}
"""
_CUDA = ["__global__=", "__device__=", "__shared__=static", "__align__(n)=__attribute__((aligned(n)))"]
_RELEASE = "arch::store_release(there, round);"
_BARRIER = "    arch::sync(block);\n    // observers: this thread, which has seen its block's stores"


@pytest.mark.skipif(CXX is None, reason="needs a C++ compiler, which makes the kernel a CPU program")
@pytest.mark.parametrize(
    ("text", "instead", "seen"),
    [
        ("", "", False),
        (_RELEASE, _RELEASE.replace("release", "relaxed"), True),
        (_BARRIER, _BARRIER.replace("arch::sync(block);", ""), True),
    ],
    ids=["as it is", "no release", "no barrier"],
)
def test_message_passing_sees_stores_that_are_late(
    tmp_path: Path, text: str, instead: str, seen: bool
) -> None:
    assert text in KERNELS
    source = KERNELS.replace(text, instead) if text else KERNELS
    source = source.replace("extern __shared__ unsigned room[];", "static unsigned room[1];")
    (tmp_path / "litmus.cpp").write_text("#include <cstdio>\n" + source + _MAIN)
    options = ["-std=c++17", "-pthread", "-O1", "-w", f"-I{state.include_dir()}", *(f"-D{m}" for m in _CUDA)]
    assert CXX is not None
    subprocess.run([CXX, *options, "litmus.cpp", "-o", "litmus"], cwd=tmp_path, check=True)
    done = subprocess.run([tmp_path / "litmus"], capture_output=True, text=True, check=True, timeout=60)
    stored, loaded, late = map(int, done.stdout.split())
    assert late == 0 and (stored > 0) == (loaded > 0) == seen, done.stdout
