"""The GPU figures of a job, one PE a GPU: calls in kernels (gpu_kernels.cu) and calls on a stream.

How a timing is made. All PEs meet on the host; each holds its stream for a moment, so that the host's calls
are enqueued before any is done; then comes a barrier on the stream, the start event, the calls, the end
event. Hence a figure is the GPU's time, whatever language calls. PE 0's events count. Data that was moved is
looked at afterwards: a wrong result ends the run.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import pyshmem as shmem
from pyshmem import device
from pyshmem.device import stream

from . import gpu_quant
from .figures import GPU_FACES, GPU_GROUPS, Unit, figure, quartiles
from .gpu_plan import Plan, plan
from .run import Options, Report

__all__ = ["KERNELS", "GpuError", "describe", "require", "run"]

KERNELS = Path(__file__).with_name("gpu_kernels.cu")
_KIB = 1 << 10
_BOX_BYTES = 128 * _KIB  # packets_size of the largest message
_FLAG, _SIGNAL, _COUNTER = 0, 16, 32  # words, 128 bytes apart


class GpuError(RuntimeError):
    """The GPUs cannot be measured here; the text says what is missing."""


class _Form(NamedTuple):
    """A way to copy by a block: threads, and bytes of shared memory for a stage (0: none)."""

    threads: int
    stage: int = 0

    def __str__(self) -> str:
        return f"stage of {self.stage // _KIB} KiB" if self.stage else f"{self.threads} threads"


# Beside the slots a stage has 128 bytes for itself.
_COPY_FORMS = (_Form(1024), _Form(128, 128 * _KIB + 128), _Form(128, 192 * _KIB + 128))


def require_driver() -> int:
    """How many GPUs the driver has, at least 1; else GpuError. Makes no context."""
    count = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise GpuError(f"this needs an NVIDIA GPU and its driver: {error}") from None
    code = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if code or count.value == 0:
        raise GpuError(f"this needs an NVIDIA GPU: the driver finds none (CUDA error {code})")
    return count.value


def require(npes: int | None = None) -> int:
    """How many GPUs there are, at least 1 and `npes`, with the package that drives them; else GpuError.

    Makes no context: this process may be one that only starts the job.
    """
    count = require_driver()
    if importlib.util.find_spec("cupy") is None:
        raise GpuError("this needs CuPy: pip install 'sushmem[cuda13]', or 'sushmem[cuda12]'")
    if npes is not None and npes > count:
        raise GpuError(f"--device cuda measures one PE a GPU: {npes} PEs, {count} GPU(s) here")
    return count


def describe() -> dict[str, Any]:
    """The current GPU, for the head of a report."""
    import cupy

    runtime = cupy.cuda.runtime
    name = runtime.getDeviceProperties(runtime.getDevice())["name"].decode()
    return {"gpu": name, "cuda": runtime.driverGetVersion()}


class _Bench:
    """Memory, kernels and clock of a run. Collective, as all its methods."""

    def __init__(self, p: Plan, report: Report) -> None:
        self.plan, self.report = p, report
        self.me, self.n = shmem.my_pe(), shmem.n_pes()
        self.next, self.before = (self.me + 1) % self.n, (self.me - 1) % self.n
        count = max(p.copy_bytes, *p.collective_bytes) // 4
        self.words = shmem.zeros(64, "uint64", device="cuda")
        self.boxes = shmem.zeros(2 * _BOX_BYTES, "uint8", align=128, device="cuda")
        self.source = shmem.full(count, self.me + 1, "float32", device="cuda")
        self.target = shmem.zeros(count, "float32", device="cuda")
        self.verdict = shmem.zeros(1, dtype=np.int64), shmem.zeros(1, dtype=np.int64)
        import cupy

        self.cupy = cupy
        self.module = device.RawModule(KERNELS.read_text())
        self.stream = cupy.cuda.Stream(non_blocking=True)
        self.events = cupy.cuda.Event(), cupy.cuda.Event()
        self.out = cupy.zeros(1, "uint64")
        self.round = 1  # the next number of a ping-pong: flags, signals and rounds of packets never fall
        largest = cupy.cuda.Device().attributes["MaxSharedMemoryPerBlockOptin"]
        self.forms = [f for f in _COPY_FORMS if f.stage <= largest]

    def close(self) -> None:
        for a in (self.words, self.boxes, self.source, self.target, *self.verdict):
            shmem.free(a)

    # ---- clock and report

    def samples(self, work: Callable[[], None] | None, calls: int) -> list[float]:
        """Nanoseconds of one of the `calls` that `work` enqueues, each round; None: this PE only meets."""
        hold = self.module.get_function("k_hold")
        begin, end = self.events
        found = []
        for r in range(self.plan.warm + self.plan.rounds):
            self.stream.synchronize()
            shmem.barrier_all()
            hold((1,), (1,), (np.uint64(1000 * self.plan.hold_us),))
            stream.barrier_on_stream()
            begin.record(self.stream)
            if work is not None:
                work()
            end.record(self.stream)
            self.stream.synchronize()
            if r >= self.plan.warm:
                found.append(1e6 * self.cupy.cuda.get_elapsed_time(begin, end) / calls)
        device.check()
        shmem.barrier_all()
        return found

    def say(
        self, group: str, op: str, nbytes: int, samples: Sequence[float], unit: Unit = "ns", blocks: int = 0,
        form: str = "",
    ) -> None:  # fmt: skip
        if self.me == 0:
            made = figure(GPU_FACES[0], group, op, nbytes, self.n, unit, samples, blocks, form)
            self.report.figure(made)

    def check(self, right: bool, what: str) -> None:
        """On every PE the same answer, so that none is left waiting for one that has gone."""
        mine, worst = self.verdict
        mine[0] = 0 if right else self.me + 1
        shmem.max_reduce(worst, mine)
        if worst[0]:
            raise GpuError(f"{what}: wrong result on PE {int(worst[0]) - 1}, a figure would be worth nothing")

    def _pingpong(self, name: str, form: _Form, fixed: tuple[Any, ...], calls: int) -> list[float]:
        """One way; `fixed` are the kernel's first arguments. PEs 2 and on stay out."""
        k = self.module.get_function(name)

        def work() -> None:
            if self.me < 2:
                peer, leads = np.int32(1 - self.me), np.int32(self.me == 0)
                k((1,), (form.threads,), (*fixed, np.int32(calls), np.uint64(self.round), peer, leads))
            self.round += calls

        return [ns / 2 for ns in self.samples(work, calls)]

    # ---- in kernels

    def p(self) -> None:
        ns = self._pingpong("k_p", _Form(1), (self.words[_FLAG:],), self.plan.p_calls)
        self.say("put", "p", 8, ns, blocks=1)

    def put_signal(self) -> None:
        forms = _Form(1024), _Form(256)
        self._messages("put_signal", self.plan.put_signal_bytes, self.plan.put_signal_calls, forms)

    def packets(self) -> None:
        forms = _Form(1024), _Form(512), _Form(128)
        self._messages("packets", self.plan.packets_bytes, self.plan.packets_calls, forms)

    def _messages(self, op: str, sizes: Sequence[int], calls: int, forms: Sequence[_Form]) -> None:
        for nbytes in sizes:
            message = (self.target, self.source, np.uint64(nbytes))
            boxes, signal = (self.boxes, np.uint64(_BOX_BYTES)), self.words[_SIGNAL:]
            fixed = (*boxes, *message) if op == "packets" else (*message, signal)
            for form in forms:
                self.target[...] = 0
                ns = self._pingpong(f"k_{op}", form, fixed, calls)
                theirs = self.target[: nbytes // 4] == 2 - self.me
                self.check(self.me > 1 or bool(theirs.all()), f"{op} of {nbytes} bytes")
                self.say("signals", op, nbytes, ns, blocks=1, form=str(form))

    def copies(self, op: str) -> None:
        """All PEs at once, to or from the next; the best of the forms."""
        k = self.module.get_function("k_bandwidth")
        k.max_dynamic_shared_size_bytes = max(f.stage for f in self.forms)
        get, nbytes = op == "get", self.plan.copy_bytes
        whose = self.next if get else self.before
        for blocks in self.plan.copy_blocks:
            rates: dict[_Form, list[float]] = {}
            for form in self.forms:
                fixed = (self.target, self.source, np.uint64(nbytes), np.int32(self.next), np.int32(get))

                def work(form: _Form = form, fixed: tuple[Any, ...] = fixed, blocks: int = blocks) -> None:
                    for _ in range(self.plan.copy_calls):
                        k((blocks,), (form.threads,), (*fixed, np.uint32(form.stage)), shared_mem=form.stage)

                self.target[...] = 0
                rates[form] = [nbytes / ns for ns in self.samples(work, self.plan.copy_calls)]
                whole = self.target[: nbytes // 4]
                self.check(bool((whole == whose + 1).all()), f"{op}, {blocks} block(s), {form}")
            best = max(rates, key=lambda form: quartiles(rates[form])[1])
            self.say(op, op, nbytes, rates[best], "GB/s", blocks, str(best))

    def fetch_add(self) -> None:
        k, calls = self.module.get_function("k_fetch_add"), self.plan.fetch_add_calls
        counter = self.words[_COUNTER:]
        arguments = counter, np.int32(calls), np.int32(self.next), self.out
        ns = self.samples(partial(k, (1,), (1,), arguments) if self.me == 0 else None, calls)
        rounds = self.plan.warm + self.plan.rounds
        counted = calls * rounds if self.before == 0 else 0
        self.check(int(counter[0]) == counted, "fetch_add")
        self.say("atomics", "fetch_add", 8, ns, blocks=1)

    def meet(self) -> None:
        k, calls = self.module.get_function("k_meet"), self.plan.meet_calls
        for barrier, op in enumerate(("sync", "barrier")):
            ns = self.samples(partial(k, (1,), (32,), (np.int32(barrier), np.int32(calls))), calls)
            self.say("sync", op, 0, ns, blocks=1, form="a warp")

    # ---- on a stream

    def _row(self, calls: int, call: Callable[[], Any]) -> list[float]:
        def work() -> None:
            for _ in range(calls):
                call()

        return self.samples(work, calls)

    def stream_put(self) -> None:
        nbytes = self.plan.copy_bytes
        size = nbytes // 4
        self.target[...] = 0
        ns = self._row(
            self.plan.stream_put_calls,
            lambda: stream.put_on_stream(self.target, self.source, self.next, size),
        )
        self.check(bool((self.target[:size] == self.before + 1).all()), "put_on_stream")
        self.say("put", "put_on_stream", nbytes, [nbytes / t for t in ns], "GB/s")

    def stream_barrier(self) -> None:
        self.say("sync", "barrier_on_stream", 0, self._row(self.plan.barrier_calls, stream.barrier_on_stream))

    def collectives(self) -> None:
        n, cupy = self.n, self.cupy
        for nbytes in self.plan.collective_bytes:
            part, count = self.plan.part(nbytes, n), nbytes // 4
            of_members = cupy.arange(1, n + 1, dtype="float32")[:, None]
            operations: tuple[tuple[str, Callable[..., None], int, int], ...] = (
                ("alltoall_on_stream", stream.alltoall_on_stream, part, n * part),
                ("fcollect_on_stream", stream.fcollect_on_stream, part, n * part),
                ("sum_reduce_on_stream", stream.sum_reduce_on_stream, count, count),
            )
            for op, call, size, filled in operations:
                self.target[:filled] = 0
                calls = self.plan.calls(nbytes)
                ns = self._row(calls, partial(call, self.target, self.source, size))
                got = self.target[:filled]
                if op == "sum_reduce_on_stream":
                    right = bool((got == n * (n + 1) // 2).all())
                else:
                    right = bool((got.reshape(n, part) == of_members).all())
                self.check(right, f"{op} of {nbytes} bytes")
                self.say("collectives", op, nbytes, ns)


def _steps(bench: _Bench, groups: Sequence[str]) -> list[Callable[[], None]]:
    pair = bench.n > 1
    found: list[tuple[str, bool, Callable[[], None]]] = [
        ("put", pair, bench.p),
        ("signals", pair, bench.put_signal),
        ("signals", pair, bench.packets),
        ("put", True, partial(bench.copies, "put")),
        ("get", True, partial(bench.copies, "get")),
        ("atomics", True, bench.fetch_add),
        ("sync", True, bench.meet),
        ("put", True, bench.stream_put),
        ("sync", True, bench.stream_barrier),
        ("collectives", True, bench.collectives),
        ("quant", pair, partial(gpu_quant.measure, bench)),
    ]
    return [step for group, possible, step in found if possible and group in groups]


def run(options: Options, report: Report) -> None:
    """Measures; collective. Figures are reported on PE 0."""
    first = shmem.my_pe() == 0
    if first and shmem.n_pes() == 1:
        report.note("one PE: puts and gets stay in its own GPU, and nobody plays ping-pong with it")
    bench = _Bench(plan(options.rounds, options.quick), report)
    steps = _steps(bench, [g for g in options.groups if g in GPU_GROUPS])
    with bench.stream:
        for i, step in enumerate(steps):
            step()
            if first:
                report.progress("GPUs", (i + 1) / len(steps))
        bench.stream.synchronize()
    bench.close()
    bench.cupy.get_default_memory_pool().free_all_blocks()  # peers may come next
    if "moe" in options.groups:
        _moe(options, report)


def _moe(options: Options, report: Report) -> None:
    """The group that PyTorch is needed for."""
    from . import gpu_moe
    from .moe_load import Timing, moe_plan

    first, npes = shmem.my_pe() == 0, shmem.n_pes()
    plan = moe_plan(options.rounds if options.quick else None, options.quick)
    why = ""
    if importlib.util.find_spec("torch") is None:
        why = "it uses PyTorch's arrays: pip install 'sushmem[torch]'"
    elif not gpu_moe.divides(plan, npes):
        why = f"{npes} PEs do not divide the numbers of experts"
    if why:
        if first:
            report.note(f"moe is left out: {why}")
        return

    def say(timing: Timing) -> None:
        report.figure(figure(GPU_FACES[0], npes=npes, **timing.figure()))

    if first:
        report.progress("MoE", 1.0)
    try:
        gpu_moe.measure(plan, say)
    except gpu_moe.WrongResult as error:
        raise GpuError(str(error)) from None
    import torch

    torch.cuda.empty_cache()
