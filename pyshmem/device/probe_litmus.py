"""Litmus tests of `pyshmem doctor --gpu`: two sides at the same time on memory that both reach, which are two
GPUs, two kernels of one, or a kernel and a CPU. What is wrong with what they leave is said by functions that
need no GPU."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from .probe_driver import (
    BAD,
    NATIVE_ATOMICS,
    NONE,
    OK,
    WARN,
    Left,
    Pinned,
    Result,
    driver,
    kernels,
    left,
    new_left,
)

__all__ = [
    "atomics_between",
    "atomics_own",
    "bulk",
    "lines",
    "memory",
    "messages_between",
    "messages_with_cpu",
    "messages_within",
    "pairs",
]

_LINE = 16  # words: 128 bytes
_MOST_DEVICES = 4  # each with each: contexts and compilers of more take longer than the tests
_ENABLED_ALREADY = 704  # cudaErrorPeerAccessAlreadyEnabled
_MAJOR = 75  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR

Side = tuple[int, tuple[Any, ...]]
"""A device, and the arguments of its kernel before `rounds` and `out`."""


# ---- two sides ---------------------------------------------------------------------------------------------


@cache
def pairs() -> tuple[tuple[int, int], ...]:
    """Of the first GPUs those that reach each other, and from now on do."""
    import cupy

    runtime = cupy.cuda.runtime
    n = min(driver().count(), _MOST_DEVICES)
    found = []
    for a, b in itertools.combinations(range(n), 2):
        if not (runtime.deviceCanAccessPeer(a, b) and runtime.deviceCanAccessPeer(b, a)):
            continue
        for device, peer in ((a, b), (b, a)):
            with cupy.cuda.Device(device):
                try:
                    runtime.deviceEnablePeerAccess(peer)
                except runtime.CUDARuntimeError as error:
                    if error.status != _ENABLED_ALREADY:
                        raise
        found.append((a, b))
    return tuple(found)


def _no_pair() -> Result:
    count = min(driver().count(), _MOST_DEVICES)
    return NONE, "one GPU" if count == 1 else f"none of the first {count} GPUs reach each other", "", {}


def memory(device: int, words: int) -> Any:
    """Zeros of 8 bytes: plain memory of the device."""
    import cupy

    with cupy.cuda.Device(device):
        return cupy.zeros(words, "uint64")


def _at(array: Any) -> Any:
    """An address: CuPy takes arrays of the current device alone."""
    return np.uint64(array.data.ptr)


def _together(name: str, blocks: int, threads: int, sides: Sequence[Side], rounds: int) -> list[Left]:
    """Runs a kernel on all sides at the same time, each on a stream of its own; first without a round, since
    loading a kernel may wait for those that run."""
    import cupy

    streams, outs = [], []
    for device, _ in sides:
        with cupy.cuda.Device(device):
            streams.append(cupy.cuda.Stream(non_blocking=True))
            outs.append(new_left())
    for n in (0, rounds):
        for device, _ in sides:
            with cupy.cuda.Device(device):
                cupy.cuda.runtime.deviceSynchronize()
        for (device, arguments), stream, out in zip(sides, streams, outs, strict=True):
            with cupy.cuda.Device(device), stream:
                kernels().get_function(name)((blocks,), (threads,), (*arguments, np.int32(n), out))
    found = []
    for (device, _), stream, out in zip(sides, streams, outs, strict=True):
        with cupy.cuda.Device(device):
            stream.synchronize()
            found.append(left(out))
    return found


def _each_way(test: Callable[[int, int], tuple[str, str]]) -> tuple[str, str, str]:
    """Where, state and what is wrong: of the first way between two GPUs where something is, or of all; of the
    first GPU with itself where no two reach each other."""
    ways = [way for a, b in pairs() for way in ((a, b), (b, a))] or [(0, 0)]
    for a, b in ways:
        state, wrong = test(a, b)
        if wrong:
            return "within a GPU" if a == b else f"GPU {a} to GPU {b}", state, wrong
    return "within a GPU" if ways == [(0, 0)] else f"each of {len(ways)} ways between GPUs", OK, ""


def _waited(who: str, side: Left) -> str:
    return f"{who} waited in vain for round {side.wanted}, the word there was {side.found}"


# ---- message passing ---------------------------------------------------------------------------------------

_MESSAGE = 64  # words in a message, each stored by a thread
_MESSAGES, _MESSAGES_CPU = 10_000, 2_000


def messages_wrong(sides: Sequence[tuple[str, Left]], words: int) -> str:
    """What is wrong with messages of `words` words in all, each way; nothing, if nothing is."""
    said = []
    for who, side in sides:
        if side.first:
            said.append(f"{who} found {side.first} of {words} words old that were stored before the flag")
        if side.second:
            said.append(f"{who} loaded {side.second} of {words} words old from the other side's memory")
        if side.late:
            said.append(_waited(who, side))
        elif side.wanted:
            said.append(f"{who} first found {side.found} where {side.wanted} was due")
    return "; ".join(said)


def _messages(a: int, b: int, names: tuple[str, str]) -> tuple[str, float]:
    """What is wrong, and microseconds a round."""
    boxes = [memory(device, _LINE * (1 + 2 * _MESSAGE)) for device in (a, b)]
    sides = [
        (device, (_at(boxes[i]), _at(boxes[1 - i]), np.int32(i == 0), np.int32(1)))
        for i, device in enumerate((a, b))
    ]
    found = _together("k_messages", 1, _MESSAGE, sides, _MESSAGES)
    wrong = messages_wrong(list(zip(names, found, strict=True)), _MESSAGE * _MESSAGES)
    return wrong, found[0].ns / _MESSAGES / 1e3


def _told(us: float, rounds: int, more: str = "") -> Result:
    text = f"{rounds} messages of {_MESSAGE} words each way, none old; {us:.2f} us there and back{more}"
    return OK, text, "", {"us": us, "rounds": rounds}


def messages_between() -> Result:
    if not pairs():
        return _no_pair()
    times = []
    for a, b in pairs():
        wrong, us = _messages(a, b, (f"GPU {a}", f"GPU {b}"))
        if wrong:
            return BAD, f"GPUs {a} and {b}: {wrong}", "", {}
        times.append(us)
    return _told(max(times), _MESSAGES, f", {len(times)} pair(s)")


def messages_within() -> Result:
    wrong, us = _messages(0, 0, ("the first block", "the second block"))
    return (BAD, wrong, "", {}) if wrong else _told(us, _MESSAGES)


def messages_with_cpu() -> Result:
    import cupy

    from .._core import ffi, lib
    from ..errors import ShmemError, check

    to_gpu, to_cpu = (Pinned(_LINE * (1 + 2 * _MESSAGE)) for _ in range(2))
    old, out = ffi.new("uint64_t *"), new_left()
    cupy.cuda.runtime.deviceSynchronize()
    addresses = np.uint64(to_gpu.address), np.uint64(to_cpu.address)
    numbers = np.int32(1), np.int32(0), np.int32(_MESSAGES_CPU)
    kernels().get_function("k_messages")((1,), (_MESSAGE,), (*addresses, *numbers, out))
    here, there = (ffi.cast("uint64_t *", box.address) for box in (to_cpu, to_gpu))
    code = lib.shmemx_gpu_messages(here, there, _MESSAGES_CPU, _MESSAGE, old, 2 * 10**9)
    cupy.cuda.runtime.deviceSynchronize()
    gpu = left(out)
    wrong = messages_wrong([("the GPU", gpu), ("the CPU", Left(first=old[0]))], _MESSAGE * _MESSAGES_CPU)
    try:
        check(code)
    except ShmemError as error:
        wrong = "; ".join(filter(None, [wrong, str(error)]))
    return (BAD, wrong, "", {}) if wrong else _told(gpu.ns / _MESSAGES_CPU / 1e3, _MESSAGES_CPU)


# ---- atomics -----------------------------------------------------------------------------------------------

_ATOMICS = 256  # threads a block
_BLOCKS_OWN, _BLOCKS_BETWEEN = 64, 16
_ROUNDS_BETWEEN = 64  # two H100: some 4,000 turns; with 8, 100 to 400
_FEW_TURNS = 100  # fewer, and the sides were hardly there at the same time


def _bits(words: Any) -> int:
    """How many are set."""
    return int(np.unpackbits(np.ascontiguousarray(words).view(np.uint8)).sum())


def atomics_wrong(words: Any, olds: Sequence[Any], rounds: int, wrong: int, taken: int, own: bool) -> str:
    """What is wrong after the kernel's atomics on `words`: `olds` are each side's, of `rounds` additions a
    thread and then an exchange; `wrong` and `taken` its counts."""
    threads = sum(len(side) for side in olds) // (rounds + 1)
    bits, n = 8 * words.itemsize, threads * rounds
    per = [len(side) // (rounds + 1) * rounds for side in olds]
    added = np.concatenate([side[:k] for side, k in zip(olds, per, strict=True)])
    swapped = np.concatenate([words[1:2], *(side[k:] for side, k in zip(olds, per, strict=True))])
    sets = threads // bits
    ored, xored, anded, takers = (words[16 + i * sets : 16 + (i + 1) * sets] for i in range(4))
    said = []
    if words[0] != n:
        said.append(f"{n} additions made {words[0]}")
    if not np.array_equal(np.sort(added), np.arange(n, dtype=words.dtype)):
        twice = n - len(np.unique(added))
        said.append(f"of {n} old values of additions {twice} came twice, the highest is {added.max()}")
    lost = threads + 1 - len(np.intersect1d(swapped, np.arange(threads + 1, dtype=words.dtype)))
    if lost:
        said.append(f"{lost} of {threads} values that were exchanged are lost")
    if words[2] != threads:
        said.append(f"{threads} additions without a result made {words[2]}")
    if own and bits == 64 and words[3] != threads:
        said.append(f"the maximum of 1 to {threads} is {words[3]}")
    for name, gone in (("or", _bits(~ored)), ("xor", _bits(~xored)), ("and", _bits(anded))):
        if gone:
            said.append(f"{gone} of {threads} bits of {name} are lost")
    if taken != sets or not takers.all():
        said.append(f"compare and swap took {sets} words {taken} times")
    if wrong:
        said.append(f"{wrong} old values of or, xor, and are wrong")
    return "; ".join(said)


def turns(olds: Sequence[Any], rounds: int) -> int:
    """How often an addition came behind one of another side: were they there at the same time at all?"""
    per = [len(side) // (rounds + 1) * rounds for side in olds]
    owner = np.zeros(sum(per), np.int8)
    for i, (side, k) in enumerate(zip(olds, per, strict=True)):
        owner[side[:k].astype(np.int64)] = i
    return int(np.count_nonzero(np.diff(owner)))


def _atomics(nbytes: int, home: int, devices: Sequence[int], blocks: int, rounds: int) -> tuple[str, int]:
    """What is wrong with atomics by these devices on memory of one of them; and their turns."""
    import cupy

    kind, per = f"uint{8 * nbytes}", _ATOMICS * blocks
    threads = per * len(devices)
    sets = threads // (8 * nbytes)
    start = np.zeros(16 + 4 * sets, kind)
    start[16 + 2 * sets : 16 + 3 * sets] = np.iinfo(kind).max
    with cupy.cuda.Device(home):
        words = cupy.asarray(start)
    olds, gates = [], []
    for device in devices:
        with cupy.cuda.Device(device):
            olds.append(cupy.zeros(per * (rounds + 1), kind))
        gates.append(memory(device, blocks))
    sides = [
        (device, (_at(words), _at(olds[i]), _at(gates[i]), _at(gates[len(devices) - 1 - i]),
                  np.uint32(i * per), np.uint32(threads), np.int32(len(devices) == 1)))
        for i, device in enumerate(devices)
    ]  # fmt: skip
    found = _together(f"k_atomics{nbytes}", blocks, _ATOMICS, sides, rounds)
    late = [_waited(f"GPU {device}", side) for device, side in zip(devices, found, strict=True) if side.late]
    if late:
        return "; ".join(late), 0
    kept = []
    for array in (words, *olds):
        with array.device:
            kept.append(array.get())
    words, *olds = kept
    counts = sum(side.first for side in found), sum(side.second for side in found)
    wrong = atomics_wrong(words, olds, rounds, *counts, own=len(devices) == 1)
    return wrong, 0 if wrong else turns(olds, rounds)


def atomics_own() -> Result:
    for nbytes in (4, 8):
        wrong, _ = _atomics(nbytes, 0, [0], _BLOCKS_OWN, rounds=16)
        if wrong:
            return BAD, f"{nbytes} bytes: {wrong}", "", {}
    text = f"{_BLOCKS_OWN * _ATOMICS} threads on the same words of 4 and 8 bytes: nothing lost, no old value "
    return OK, f"{text}twice", "", {}


def atomics_between() -> Result:
    if not pairs():
        return _no_pair()
    counts = []
    for a, b in pairs():
        native = all(driver().link(NATIVE_ATOMICS, *way) for way in ((a, b), (b, a)))
        for nbytes, home in ((4, a), (4, b), (8, a), (8, b)):
            wrong, count = _atomics(nbytes, home, [a, b], _BLOCKS_BETWEEN, _ROUNDS_BETWEEN)
            where = f"GPUs {a} and {b}, {nbytes} bytes in GPU {home}"
            if wrong:
                text = f"{where}: {wrong}; the driver says {'native' if native else 'not native'}"
                return (BAD if native else WARN), text, "kernels' atomics on a peer's memory need NVLink", {}
            counts.append((count, where))
    fewest, where = min(counts)
    text = f"{_BLOCKS_BETWEEN * _ATOMICS} threads of each of two GPUs on the same words of 4 and 8 bytes: "
    text += f"nothing lost, no old value twice; {len(pairs())} pair(s), at least {fewest} turns"
    if fewest < _FEW_TURNS:
        advice = "the two were hardly there at the same time: try again"
        return WARN, f"{text} ({where})", advice, {"turns": fewest}
    return OK, text, "", {"turns": fewest}


# ---- lines, bulk copies ------------------------------------------------------------------------------------

_LINES, _LINES_BLOCKS, _LINES_THREADS = 10_000, 8, 512


def lines_wrong(stores: Left, looks: Left) -> tuple[str, str]:
    """State, and what is wrong with lines."""
    said = [_waited(who, side) for who, side in (("who stores", stores), ("who looks", looks)) if side.late]
    if looks.first:
        said.append(f"{looks.first} times a word of 8 bytes was half old")
    if looks.second:
        said.append(f"{looks.second} times 16 bytes that a thread had stored at once were half old")
    if looks.third:
        said.append(f"{looks.third} times 16 bytes of a line were old though its last word was new")
    broken = stores.late or looks.late or looks.first
    return (BAD if broken else WARN if said else OK), "; ".join(said)


def _lines(a: int, b: int) -> tuple[str, str]:
    to, answers = memory(b, 2 * _LINES_BLOCKS * _LINES_THREADS), memory(a, _LINE * _LINES_BLOCKS)
    sides = [(a, (_at(to), _at(answers), np.int32(1))), (b, (_at(to), _at(answers), np.int32(0)))]
    return lines_wrong(*_together("k_lines", _LINES_BLOCKS, _LINES_THREADS, sides, _LINES))


def lines() -> Result:
    where, state, wrong = _each_way(_lines)
    if wrong:
        return state, f"{where}: {wrong}", "SHMEM_DEVICE_LINES=16, which is the default without NVLink", {}
    n = _LINES * _LINES_BLOCKS * _LINES_THREADS // 8
    return OK, f"{n} lines of 128 bytes, 16 a thread, {where}: none torn", "", {"lines": n}


_BULK, _BULK_WORDS = 1_000, 2048


def bulk_wrong(words: int, stores: Left, looks: Left) -> str:
    """What is wrong with `words` words that the copy engine has moved."""
    said = [_waited(who, side) for who, side in (("who copies", stores), ("who looks", looks)) if side.late]
    if looks.first:
        said.append(f"{looks.first} of {words} words that were copied before the flag were old")
    return "; ".join(said)


def _bulk(a: int, b: int) -> tuple[str, str]:
    source, to, flag, answer = memory(a, _BULK_WORDS), memory(b, _BULK_WORDS), memory(b, 1), memory(a, 1)
    places = tuple(map(_at, (source, to, flag, answer)))
    sides = [(a, (*places, np.int32(1))), (b, (*places, np.int32(0)))]
    return BAD, bulk_wrong(_BULK * _BULK_WORDS, *_together("k_bulk", 1, 128, sides, _BULK))


def bulk() -> Result:
    if driver().attribute(_MAJOR) < 9:
        return NONE, "not on this GPU: compute capability 9.0 and later have it", "", {}
    where, state, wrong = _each_way(_bulk)
    if wrong:
        return state, f"{where}: {wrong}", "", {}
    text = f"{_BULK} copies of 16 KiB, {where}: there before the flag that was released after them"
    return OK, text, "", {}
