"""The Python calls that are timed, and how: loops of calls on PE 0 or on all PEs, a round of each after the
other."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import repeat
from time import perf_counter_ns
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

import pyshmem as shmem
from pyshmem.moe import ExpertParallel
from pyshmem.quant import dequantize_int8, int8_row_bytes, quantize_int8

__all__ = ["EXPERTS", "HIDDEN", "TOKENS", "TOPK", "Sampler", "calls", "loop", "measure", "routing"]

TOKENS, HIDDEN, TOPK, EXPERTS = 512, 2048, 4, 32  # the layer of the speed goals, as in libshmem/bench/core.h
_INT8_SHAPE = (128, 2048)
_COLD_BYTES = 1 << 15


@dataclass
class Sampler:
    """One call under measurement. `run(n)` makes it n times; with `everybody` all PEs do, else PE 0 alone
    while the others wait in `meet`, a barrier of the library that is measured."""

    face: str
    group: str
    op: str
    nbytes: int
    run: Callable[[int], None]
    everybody: bool = False
    rate: bool = False
    """Report GB/s of nbytes instead of the time."""
    meet: Callable[[], None] = field(default=shmem.barrier_all)
    iterations: int = 1
    ns: list[float] = field(default_factory=list)
    """Time of one call in each round; meaningful on PE 0."""

    def time(self, iterations: int) -> float:
        """Nanoseconds of one of `iterations` calls."""
        mine = self.everybody or shmem.my_pe() == 0
        if mine and self.nbytes >= _COLD_BYTES:
            self.run(1)  # else a short loop would show what the calls before it left in the caches
        self.meet()
        start = perf_counter_ns()
        if mine:
            self.run(iterations)
        took = perf_counter_ns() - start
        self.meet()
        return took / iterations


def loop(call: Callable[..., Any], *arguments: Any) -> Callable[[int], None]:
    """n calls with these arguments, up to four, written out: ``call(*arguments)`` would add 40 ns to each.
    The loop itself costs about 10 ns a turn."""
    a, b, c, d = (*arguments, None, None, None, None)[:4]

    def run0(n: int) -> None:
        for _ in repeat(None, n):
            call()

    def run1(n: int) -> None:
        for _ in repeat(None, n):
            call(a)

    def run2(n: int) -> None:
        for _ in repeat(None, n):
            call(a, b)

    def run3(n: int) -> None:
        for _ in repeat(None, n):
            call(a, b, c)

    def run4(n: int) -> None:
        for _ in repeat(None, n):
            call(a, b, c, d)

    return (run0, run1, run2, run3, run4)[len(arguments)]


def _agree(values: npt.NDArray[np.int64], shared: tuple[Any, Any]) -> npt.NDArray[np.int64]:
    """PE 0's numbers on all PEs."""
    source, target = shared
    source[: values.size] = values
    shmem.broadcast(target, source, 0)
    return np.array(target[: values.size])


def measure(
    samplers: Sequence[Sampler], rounds: int, slice_us: float, progress: Callable[[float], None]
) -> None:
    """Fills `ns` of each sampler, `rounds` times after one another, in loops of about `slice_us`
    microseconds.

    Interleaved rounds: a machine that is slow for a while is so for every call. Collective; the collector of
    garbage
    rests while it lasts.
    """
    shared = shmem.zeros(1, dtype=np.int64), shmem.zeros(1, dtype=np.int64)
    collecting = gc.isenabled()
    gc.disable()
    try:
        for i, s in enumerate(samplers):
            n = 1
            while True:
                took = min(s.time(n) for _ in range(3)) * n  # a hiccup of the machine is no measure
                enough = took > 250 * slice_us or n >= 1 << 20
                wanted = max(1, int(n * 1000 * slice_us / max(took, 1))) if enough else 0
                agreed = int(_agree(np.array([wanted]), shared)[0])
                if agreed:
                    s.iterations = agreed
                    break
                n *= 4
            progress(0.3 * (i + 1) / len(samplers))
        for r in range(rounds):
            for s in samplers:
                s.ns.append(s.time(s.iterations))
            progress(0.3 + 0.7 * (r + 1) / rounds)
    finally:
        if collecting:
            gc.enable()
    for a in shared:
        shmem.free(a)


def _put_quiet(target: Any, source: Any, pe: int) -> Callable[[int], None]:
    put, quiet = shmem.put, shmem.quiet

    def run(n: int) -> None:
        for _ in repeat(None, n):
            put(target, source, pe)
            quiet()

    return run


def _small(peer: int, groups: Sequence[str]) -> list[Sampler]:
    found: list[Sampler] = []
    target, source = shmem.zeros(1, dtype=np.int64), shmem.zeros(1, dtype=np.int64)
    plain = np.zeros(1, dtype=np.int64)
    # Ones: zeros that nobody has written are one page in the first-level cache.
    big_target, big = shmem.ones(1 << 17, dtype=np.float64), np.ones(1 << 17, dtype=np.float64)

    def add(group: str, op: str, nbytes: int, run: Callable[[int], None], everybody: bool = False) -> None:
        if group in groups:
            found.append(Sampler("Python", group, op, nbytes, run, everybody))

    add("put", "put, symmetric source", 8, loop(shmem.put, target, source, peer))
    add("put", "put, NumPy source", 8, loop(shmem.put, target, plain, peer))
    add("put", "put + quiet", 8, _put_quiet(target, plain, peer))
    add("put", "put + quiet", 1 << 20, _put_quiet(big_target, big, peer))
    add("get", "get, symmetric target", 8, loop(shmem.get, target, source, peer))
    add("get", "get, NumPy target", 8, loop(shmem.get, plain, source, peer))
    add("get", "get, NumPy target", 1 << 20, loop(shmem.get, big, big_target, peer))
    add("atomics", "atomic_fetch_add", 8, loop(shmem.atomic_fetch_add, target, 1, peer))
    add("atomics", "atomic_add", 8, loop(shmem.atomic_add, target, 1, peer))
    add("sync", "barrier_all", 0, loop(shmem.barrier_all), everybody=True)
    sums = shmem.zeros(1), shmem.zeros(1)
    add("collectives", "sum_reduce", 8, loop(shmem.sum_reduce, *sums), everybody=True)
    return found


def _int8() -> list[Sampler]:
    x = np.random.default_rng(1).standard_normal(_INT8_SHAPE, dtype=np.float32)
    rows = np.empty((len(x), int8_row_bytes(x.shape[1])), np.uint8)
    back = np.empty_like(x)
    quantize = loop(partial(quantize_int8, x, out=rows))
    dequantize = loop(partial(dequantize_int8, rows, x.shape[1], out=back))
    return [
        Sampler("Python", "int8", "quantize_int8", x.nbytes, quantize, rate=True),
        Sampler("Python", "int8", "dequantize_int8", x.nbytes, dequantize, rate=True),
    ]


def routing() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Tokens [T, H], uniform choices [T, K] without repetition, weights [T, K] of this PE."""
    rng = np.random.default_rng(100 + shmem.my_pe())
    x = rng.standard_normal((TOKENS, HIDDEN), dtype=np.float32)
    idx = rng.random((TOKENS, EXPERTS)).argpartition(TOPK, axis=1)[:, :TOPK].astype(np.int64)
    return x, idx, np.full((TOKENS, TOPK), 1 / TOPK, np.float32)


def _moe() -> list[Sampler]:
    x, idx, weights = routing()
    out = np.empty_like(x)
    found = []
    for op in ("dispatch + combine", "dispatch + combine, INT8"):
        way: Literal["none", "int8"] = "int8" if "INT8" in op else "none"
        ep = ExpertParallel(EXPERTS, HIDDEN, TOPK, TOKENS, quant=way, combine_quant=way)

        def both(ep: ExpertParallel = ep) -> None:
            got = ep.dispatch(x, idx, weights)
            ep.combine(got.recv_x, got, weighted=True, out=out)

        both()
        # The expert is the identity: every token must come back. |x| < 6 here, INT8 steps are 1/127 of the
        # largest.
        worst = float(np.abs(out - x).max())
        if worst > (0.2 if way == "int8" else 1e-5):
            raise RuntimeError(f"{op}: off by {worst}, a figure of it would be worth nothing")
        found.append(Sampler("Python", "moe", op, x.nbytes, loop(both), everybody=True))
    return found


def calls(groups: Sequence[str]) -> list[Sampler]:
    """pyshmem's own calls, of these groups. Collective."""
    peer = (shmem.my_pe() + 1) % shmem.n_pes()
    found = _small(peer, groups)
    if "int8" in groups:
        found += _int8()
    if "moe" in groups:
        found += _moe()
    return found
