"""The run of `pyshmem bench --gpu-nic` on 2 PEs, its kernels played by this process on host memory."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from pyshmem.bench import gpu_nic
from pyshmem.bench.figures import Figure
from pyshmem.bench.gpu import GpuError
from pyshmem.bench.run import Options, Report

pytestmark = pytest.mark.npes(2)


class Pinned(ctypes.c_uint64 * 512):
    """A page, as CuPy hands it out."""

    @property
    def ptr(self) -> int:
        return ctypes.addressof(self)


class Played:
    """What gpu_nic asks of a compiled module; `spoil` is done to what a kernel has put."""

    threads: ClassVar[list[threading.Thread]] = []

    def __init__(self, job: ModuleType, spoil: Callable[[str, int], None], marked: bool) -> None:
        self.job, self.spoil, self.marked = job, spoil, marked

    def get_function(self, name: str) -> Callable[..., None]:
        assert self.marked == (name == "k_doorbell"), "what is timed with marks, and what without"
        play = getattr(self, name)

        def launch(grid: tuple[int], block: tuple[int], arguments: tuple[Any, ...]) -> None:
            play(grid[0] * block[0], *arguments)
            self.spoil(name, self.job.n_pes() - 1)

        return launch

    def k_post(
        self, threads: int, dst: Any, src: Any, n: int, rounds: int, peer: int, immediate: int, ns: Any
    ) -> None:
        self.job.put(dst[:threads], src[:threads], int(peer))
        self.job.quiet()
        ns[0] = (400 if threads == 1 else 1100) * n * rounds

    def k_doorbell(
        self, threads: int, dst: Any, src: Any, nop: int, completion: int, n: int, peer: int, ns: Any
    ) -> None:
        if not nop:
            self.job.put(dst[:threads], src[:threads], int(peer))
            self.job.quiet()
        ns[0] = (100 * threads + 10 * nop + completion) * n

    def k_put_quiet(self, threads: int, dst: Any, src: Any, n: int, peer: int, ns: Any) -> None:
        assert threads == 1
        self.job.put(dst[:1], src[:1], int(peer))
        self.job.quiet()
        ns[0] = 5000 * n

    def k_fetch_add(self, threads: int, dst: Any, n: int, peer: int, ns: Any) -> None:
        for _ in range(n):
            self.job.atomic_add(dst[:1], 1, int(peer))
        ns[0] = 5500 * n

    def k_messages(self, threads: int, dst: Any, src: Any, nbytes: int, n: int, peer: int) -> None:
        self.job.put(dst[: threads * int(nbytes)], src[: threads * int(nbytes)], int(peer))
        self.job.quiet()

    def k_ping(self, threads: int, to_cpu: int, from_cpu: int, n: int, first: int, ns: Any, ok: Any) -> None:
        """The kernel runs beside its launch."""
        words = self.job.test_page
        out, back = (words[(int(at) - words.ctypes.data) // 8 :] for at in (to_cpu, from_cpu))

        def run() -> None:
            for i in range(int(first), int(first) + int(n)):
                out[0] = i
                while back[0] != i:
                    pass
            ns[0], ok[0] = 4000 * n, 1

        Played.threads.append(threading.Thread(target=run))
        Played.threads[-1].start()


@pytest.fixture
def played(job: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Callable[[str, int], None]]]:
    """What spoils results, to be replaced by a test."""
    spoil: list[Callable[[str, int], None]] = [lambda name, peer: None]
    pinned = Pinned()
    page = np.frombuffer(pinned, np.uint64)
    event = SimpleNamespace(record=lambda: None, synchronize=lambda: None)
    fake = SimpleNamespace(
        zeros=np.zeros, arange=np.arange,
        cuda=SimpleNamespace(
            alloc_pinned_memory=lambda nbytes: pinned, Event=lambda: event, get_elapsed_time=lambda a, b: 2.5
        ),
    )  # fmt: skip

    def synchronize() -> None:
        while Played.threads:
            Played.threads.pop().join()

    face = SimpleNamespace(**{name: getattr(job, name) for name in dir(job) if not name.startswith("__")})
    face.zeros = lambda shape, dtype="float64", device=None: job.zeros(shape, dtype)
    face.test_page = page

    def module(text: str, options: tuple[str, ...] = ()) -> Played:
        return Played(face, lambda n, p: spoil[0](n, p), "-DBENCH_MARKS" in options)

    made = SimpleNamespace(RawModule=module, synchronize=synchronize)
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.setattr(gpu_nic, "shmem", face)
    monkeypatch.setattr(gpu_nic, "device", made)
    monkeypatch.setattr(gpu_nic, "path_in_use", lambda peer: "proxy")
    monkeypatch.setenv("SHMEM_GPU_NIC", "auto")
    yield spoil
    synchronize()


def _run(found: list[Figure]) -> None:
    report = Report(found.append, lambda stage, part: None, lambda text: None)
    gpu_nic.run(Options(("nic",), 2, device="nic", quick=True), report)


def test_figures(job: ModuleType, played: object) -> None:
    found: list[Figure] = []
    _run(found)
    if job.my_pe() != 0:
        assert not found
        return
    by = {(f.op, f.form, f.bytes): f.median for f in found}
    assert len(by) == len(found) and {f.face for f in found} == {"proxy"}
    assert by["post", "", 8] == 400 and by["post by a warp, 32 puts", "p", 8] == 1100
    assert by["a warp's / a thread's", "", 8] == 2.75 and by["put + quiet / GPU-CPU-GPU", "", 8] == 1.25
    assert by["messages", "32 threads", 8] == pytest.approx(4096 / 2.5e6 * 1e3)
    assert by["bytes", "256 threads", 14336] == pytest.approx(256 * 14336 / 2.5e6)
    posts = next(f for f in found if (f.op, f.form) == ("post", ""))
    assert posts.met and posts.rounds == 2
    assert not any("doorbell" in f.op for f in found)


def test_ibgda_has_figures_of_the_doorbell(
    job: ModuleType, played: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_nic, "path_in_use", lambda peer: "ibgda")
    found: list[Figure] = []
    _run(found)
    by = {(f.op, f.form, f.bytes): f.median for f in found if "doorbell" in f.op}
    assert by == ({} if job.my_pe() != 0 else {
        ("before the doorbell", "", 8): 100, ("before the doorbell by a warp, 32 puts", "", 8): 3200,
        ("doorbell to completion", "NOP", 0): 111, ("doorbell to completion", "put", 8): 101,
        ("doorbell to completion / GPU-CPU-GPU", "NOP", 0): 111 / 4000,
        ("doorbell to completion / GPU-CPU-GPU", "put", 8): 101 / 4000,
    })  # fmt: skip


@pytest.mark.parametrize("kernel", ["k_post", "k_fetch_add", "k_messages"])
def test_wrong_bytes_end_the_run_on_every_pe(job: ModuleType, played: Any, kernel: str) -> None:
    def spoil(name: str, peer: int) -> None:
        if name == kernel:
            bench = made[0]
            where = bench.target[-8:] if name == "k_fetch_add" else bench.target[:8]
            job.put(where, (np.array(where) ^ 1).astype("uint8"), peer)
            job.quiet()

    made: list[Any] = []
    before = gpu_nic._Bench.__init__

    def keep(self: Any, *arguments: Any) -> None:
        before(self, *arguments)
        made.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu_nic._Bench, "__init__", keep)
        played[0] = spoil
        with pytest.raises(GpuError, match="wrong result on PE 1"):
            _run([])
    made[0].close()


def test_another_path_than_the_one_asked_for_is_an_error(
    job: ModuleType, played: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHMEM_GPU_NIC", "ibgda")
    with pytest.raises(GpuError, match="reached by proxy"):
        _run([])
