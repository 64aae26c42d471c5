"""The figures of `pyshmem bench --gpu-nic`: kernels that send to another node, through a proxy or by ibgda.

Each path is a job of its own, since SHMEM_GPU_NIC is read when a job starts. PE 0 posts to the last PE; the
nodes may be those that SHMEM_NODE_ID makes of one machine, and the NIC the software NIC. The last PE looks at
what has come: a wrong result ends the run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import pyshmem as shmem
from pyshmem import device

from .._core import ffi, lib
from ..device import state
from ..errors import check as check_code
from .figures import NIC_PATHS, Unit, figure, quartiles
from .gpu import GpuError
from .run import Options, Report

__all__ = ["KERNELS", "path_in_use", "run", "variables"]

DEVICES = Path("/sys/class/infiniband")
KERNELS = Path(__file__).with_name("gpu_nic_kernels.cu")
_THREADS = ((1, 1), (1, 32), (1, 256), (8, 128), (32, 128), (128, 128))  # blocks, threads of one
_BYTES = (8, 64, 512, 4096, 14336)
_SWEEP = (8, 32)  # blocks, threads while the bytes of a message change
_KINDS = {1: "proxy", 2: "ibgda", 3: "ibgda"}  # SHMEMX_NIC_* of device/nic_state.h; 3: long puts by the proxy


def variables(path: str, environment: dict[str, str]) -> dict[str, str]:
    """What a job that measures `path` sets besides: each PE a node of its own and, on a machine without an
    RDMA device, the software NIC; nothing that the caller has set."""
    found = {"SHMEM_GPU_NIC": path}
    if "SHMEM_NODE_ID" not in environment:
        found["SHMEM_NODE_ID"] = "/1"
    if "SHMEM_IBVERBS_LIB" not in environment and not any(DEVICES.glob("*")):
        found["SHMEM_IBVERBS_LIB"] = "sim"
    return found


@contextmanager
def with_variables(path: str) -> Iterator[None]:
    """This process's environment with `variables`, for the job that it starts."""
    before = dict(os.environ)
    os.environ.update(variables(path, before))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def path_in_use(peer: int) -> str:
    """The path by which this PE's kernels reach `peer`; GpuError where they do so by loads and stores, or not
    at all. The GPU heap must be open."""
    if "nic" not in (state.LAYOUT.names or ()):
        raise GpuError("this libshmem has no GPU-initiated network calls")
    record = state.current("pyshmem bench --gpu-nic")
    address = int(record["nic"])
    if address == 0:
        raise GpuError(
            f"PE {peer}'s memory is mapped here, kernels use no NIC: SHMEM_NODE_ID=/1 makes each PE a node"
        )
    import cupy

    def read(where: int, nbytes: int) -> bytes:
        out = np.zeros(nbytes, np.uint8)
        cupy.cuda.runtime.memcpy(out.ctypes.data, where, nbytes, cupy.cuda.runtime.memcpyDefault)
        return out.tobytes()

    table = int.from_bytes(read(address + 8, 8), "little")  # shmemx_device_nic.path
    return _KINDS[read(table + peer, 1)[0]]


class _Bench:
    """Memory, kernels and clock of a run. Collective, as all its methods."""

    def __init__(self, options: Options, report: Report) -> None:
        import cupy

        self.cupy, self.report = cupy, report
        self.rounds, self.quick = options.rounds, options.quick
        self.me, self.peer = shmem.my_pe(), shmem.n_pes() - 1
        slots = max(blocks * threads for blocks, threads in _THREADS)
        nbytes = max(8 * slots, _BYTES[-1] * _SWEEP[0] * _SWEEP[1])
        self.source = shmem.zeros(nbytes, "uint8", device="cuda")
        self.target = shmem.zeros(nbytes, "uint8", device="cuda")
        self.verdict = shmem.zeros(1, dtype=np.int64), shmem.zeros(1, dtype=np.int64)
        self.path = path_in_use(self.peer if self.me != self.peer else 0)
        self.module = device.RawModule(KERNELS.read_text())
        self.ns = cupy.zeros(1, "uint64")
        self.stamp = 0
        self._rung: dict[tuple[str, int], float] = {}  # from a doorbell to its completion: form and bytes, ns

    def close(self) -> None:
        for a in (self.source, self.target, *self.verdict):
            shmem.free(a)

    def _check(self, right: bool, what: str) -> None:
        mine, worst = self.verdict
        mine[0] = 0 if right else self.me + 1
        shmem.max_reduce(worst, mine)
        if worst[0]:
            raise GpuError(f"{what}: wrong result on PE {int(worst[0]) - 1}, a figure would be worth nothing")

    def _say(
        self, op: str, nbytes: int, samples: list[float], unit: Unit = "ns", blocks: int = 1, form: str = ""
    ) -> None:
        if self.me == 0:
            made = figure(self.path, "nic", op, nbytes, shmem.n_pes(), unit, samples, blocks, form)
            self.report.figure(made)

    def _samples(self, what: str, nbytes: int, work: Any) -> list[float]:
        """Nanoseconds that `work` on PE 0 leaves in self.ns, the first time for nothing; afterwards the first
        nbytes of PE 0's source must be in the peer's target."""
        found = []
        for r in range(1 + self.rounds):
            self.stamp = self.stamp % 250 + 1
            self.source[...] = (self.cupy.arange(self.source.size) + self.stamp).astype("uint8")
            device.synchronize()
            shmem.barrier_all()
            if self.me == 0:
                work()
                device.synchronize()
                if r:
                    found.append(float(self.ns[0]))
            shmem.barrier_all()
            right = self.me != self.peer or bool((self.target[:nbytes] == self.source[:nbytes]).all())
            self._check(right, what)
        return found

    # ---- what is measured

    def posts(self) -> None:
        k = self.module.get_function("k_post")
        target, source = self.target.view("uint64"), self.source.view("uint64")
        rounds = 10 if self.quick else 100
        medians = {}
        for threads, op in ((1, "post"), (32, "post by a warp, 32 puts")):
            for immediate in (0, 1):
                n = 8 if threads == 1 else 1
                arguments = (target, source, np.int32(n), np.int32(rounds), np.int32(self.peer))
                work = partial(k, (1,), (threads,), (*arguments, np.int32(immediate), self.ns))
                ns = [t / n / rounds for t in self._samples(op, 8 * threads, work)]
                self._say(op, 8, ns, form="p" if immediate else "")
                medians[threads, immediate] = quartiles(ns)[1] if ns else 0.0
        if self.me == 0:
            for immediate in (0, 1):
                ratio = medians[32, immediate] / medians[1, immediate]
                self._say("a warp's / a thread's", 8, [ratio], "x", form="p" if immediate else "")

    def doorbells(self) -> None:
        """What a kernel that rings the NIC's doorbell itself does before it and after: by ibgda alone."""
        if self.path != "ibgda":
            return
        marked = device.RawModule(KERNELS.read_text(), options=("-DBENCH_MARKS",))
        k = marked.get_function("k_doorbell")
        target, source = self.target.view("uint64"), self.source.view("uint64")
        rounds = 50 if self.quick else 1000
        for op, form, threads, nop, completion in (
            ("before the doorbell", "", 1, 0, 0),
            ("before the doorbell by a warp, 32 puts", "", 32, 0, 0),
            ("doorbell to completion", "NOP", 1, 1, 1),
            ("doorbell to completion", "put", 1, 0, 1),
        ):
            nbytes = 0 if nop else 8
            numbers = (np.int32(n) for n in (nop, completion, rounds, self.peer))
            work = partial(k, (1,), (threads,), (target, source, *numbers, self.ns))
            ns = [t / rounds for t in self._samples(op, nbytes * threads, work)]
            self._say(op, nbytes, ns, form=form)
            if completion and ns:
                self._rung[form, nbytes] = quartiles(ns)[1]

    def completions(self) -> None:
        calls = 50 if self.quick else 1000
        target, source = self.target.view("uint64"), self.source.view("uint64")
        k = self.module.get_function("k_put_quiet")
        arguments = (target, source, np.int32(calls), np.int32(self.peer), self.ns)
        complete = [t / calls for t in self._samples("put + quiet", 8, partial(k, (1,), (1,), arguments))]
        self._say("put + quiet", 8, complete)
        k = self.module.get_function("k_fetch_add")
        counter = self.target[-8:].view("uint64")
        counter[...] = 0
        work = partial(k, (1,), (1,), (counter, np.int32(calls), np.int32(self.peer), self.ns))
        self._say("fetch_add", 8, [t / calls for t in self._samples("fetch_add", 0, work)])
        counted = calls * (1 + self.rounds) if self.me == self.peer else 0
        self._check(int(counter[0]) == counted, "fetch_add")
        ping = self._pingpong(calls)
        if self.me == 0:
            self._say("GPU-CPU-GPU", 8, ping)
            ratio = quartiles(complete)[1] / quartiles(ping)[1]
            self._say("put + quiet / GPU-CPU-GPU", 8, [ratio], "x")
            for (form, nbytes), ns in self._rung.items():
                ratio = ns / quartiles(ping)[1]
                self._say("doorbell to completion / GPU-CPU-GPU", nbytes, [ratio], "x", form=form)

    def _pingpong(self, calls: int) -> list[float]:
        """A word to this PE's CPU and back, without any NIC, as programs write it: each store a release, each
        look an acquire. Bare words take about 0.6 of it (docs/gpu-nic.md)."""
        if self.me != 0:
            return []
        pinned = self.cupy.cuda.alloc_pinned_memory(4096)
        words = np.frombuffer(pinned, np.uint64, 512)
        words[:] = 0
        k, ok = self.module.get_function("k_ping"), self.cupy.zeros(1, "int32")
        found, first = [], 1
        for _ in range(1 + self.rounds):
            to_cpu, from_cpu = np.uint64(pinned.ptr), np.uint64(pinned.ptr + 2048)
            k((1,), (1,), (to_cpu, from_cpu, np.int32(calls), np.uint64(first), self.ns, ok))
            base = ffi.cast("uint64_t *", pinned.ptr)
            check_code(lib.shmemx_gpu_echo(base, base + 256, first, calls, 5 * 10**9))
            device.synchronize()
            if not ok[0]:
                raise GpuError("GPU-CPU-GPU: the CPU's answer did not come")
            found.append(float(self.ns[0]) / calls)
            first += calls
        return found[1:]

    def rates(self) -> None:
        k = self.module.get_function("k_messages")
        begin, end = self.cupy.cuda.Event(), self.cupy.cuda.Event()

        def samples(blocks: int, threads: int, nbytes: int, n: int) -> list[float]:
            arguments = (self.target, self.source, np.uint64(nbytes), np.int32(n), np.int32(self.peer))

            def work() -> None:
                begin.record()
                k((blocks,), (threads,), arguments)
                end.record()
                end.synchronize()
                self.ns[0] = 1e6 * self.cupy.cuda.get_elapsed_time(begin, end)

            return self._samples(f"messages of {nbytes} bytes", nbytes * blocks * threads, work)

        total = 1 << (12 if self.quick else 16)
        for blocks, threads in _THREADS:
            n = max(total // (blocks * threads) // (8 if blocks * threads == 1 else 1), 1)
            count = n * blocks * threads
            ns = samples(blocks, threads, 8, n)
            plural = "s" if blocks * threads > 1 else ""
            form = f"{blocks * threads} thread{plural}"
            self._say("messages", 8, [1e3 * count / t for t in ns], "M/s", blocks, form)
        blocks, threads = _SWEEP
        for nbytes in _BYTES:
            n = max(total // (blocks * threads) // (1 + nbytes // 512), 1)
            count = n * blocks * threads
            ns = samples(blocks, threads, nbytes, n)
            form = f"{blocks * threads} threads"
            if nbytes > 8:
                self._say("messages", nbytes, [1e3 * count / t for t in ns], "M/s", blocks, form)
            self._say("bytes", nbytes, [count * nbytes / t for t in ns], "GB/s", blocks, form)


def run(options: Options, report: Report) -> None:
    """Measures the path of this job; collective. Figures are reported on PE 0."""
    if shmem.n_pes() < 2:
        raise GpuError("--gpu-nic measures what goes to another node: at least 2 PEs")
    bench = _Bench(options, report)
    wanted = os.environ.get("SHMEM_GPU_NIC", "auto")
    if wanted in NIC_PATHS and wanted != bench.path:
        raise GpuError(f"SHMEM_GPU_NIC={wanted}, but PE {bench.peer} is reached by {bench.path}")
    steps = (bench.posts, bench.doorbells, bench.completions, bench.rates)
    for i, step in enumerate(steps):
        step()
        if bench.me == 0:
            report.progress(bench.path, (i + 1) / len(steps))
    bench.close()
