"""pyshmem.device.numba in Numba's simulator: the cases that test_numba_simulator.py runs in jobs of their
own, because NUMBA_ENABLE_CUDASIM must be set before Numba is imported. By hand:

    NUMBA_ENABLE_CUDASIM=1 mpirun -n 2 python -m pytest tests/python/numba_simulator.py
"""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numba import cuda

from pyshmem import device
from pyshmem.device import numba as sim

_ROOT = Path(__file__).resolve().parents[2]


def _load(*parts: str) -> ModuleType:
    path = _ROOT.joinpath(*parts)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def kernels():
    """Those that run on GPUs, as they are."""
    return _load("tests", "gpu", "numba_kernels.py")


@pytest.fixture
def around(job):
    """(me, number of PEs, next, previous)."""
    me, n = job.my_pe(), job.n_pes()
    return me, n, (me + 1) % n, (me - 1) % n


@pytest.fixture
def meet(job):
    """Raises what this PE's kernels reported, and waits for the other PEs."""

    def wait():
        device.synchronize()
        job.barrier_all()

    wait()  # nobody changes what a slower PE still checks in the test before
    yield wait
    wait()


def test_every_name_is_there():
    assert cuda.simulator is not None and sim.core.__name__ == "pyshmem.device._numba_sim"
    assert all(hasattr(sim, name) for name in sim.__all__)
    used = set(re.findall(r"\bcore\.(\w+)", Path(sim.__file__).read_text()))
    assert {name for name in used if not hasattr(sim.core, name)} == set()


# ---- the kernels of tests/gpu, with arrays of the host heap ------------------------------------------------


@pytest.mark.parametrize(
    ("scope", "threads"), [(0, 1), (1, 32), (2, 40), (2, (8, 4, 2))], ids=["thread", "warp", "block", "3-D"]
)
def test_rma(job, kernels, around, meet, scope, threads):
    me, _, after, before = around
    n = 5000
    a, b = job.zeros(n, "float32"), job.full(n, me + 1, "float32")
    got, sig = np.zeros(n, "float32"), job.zeros(1, "uint64")
    meet()
    if not isinstance(threads, tuple):  # the kernel asks for threadIdx.x == 0
        kernels.rma[1, threads](scope, a, b, got, sig, after)
        meet()
        assert int(sig[0]) == 11
    else:
        move[1, threads](a, b, got, after)
        meet()
    assert (a == before + 1).all() and (got == after + 1).all()


@cuda.jit
def move(a, b, got, pe):
    sim.put_nbi(sim.block, a, b, pe)
    sim.quiet(sim.block)
    sim.get_nbi(sim.block, got, b, pe)
    sim.quiet(sim.block)


def test_elements_and_peers(job, kernels, around, meet):
    me, n, after, before = around
    arrays = [job.zeros(2, kind) for kind in ("int32", "int64", "float32", "float64", "uint8")]
    out = np.zeros(8)
    meet()
    kernels.elements[1, 1](*arrays, out, after)
    meet()
    assert out.tolist() == [me + 1, me + 1, me + 1.5, me + 1.25, me + 1, n, me, n]
    assert [float(a[0]) for a in arrays] == [before + 1, before + 1, before + 1.5, before + 1.25, before + 1]
    meet()
    kernels.through_peer[1, 1](arrays[3], after)
    meet()
    assert float(arrays[3][0]) == before + 7


@pytest.mark.parametrize("dtype", ["int32", "uint32", "int64", "uint64"])
def test_atomics(job, kernels, around, meet, dtype):
    me, n, _, _ = around
    words, out = job.zeros(8, dtype), np.zeros(4, dtype)
    words[5:] = 15
    meet()
    kernels.count[2, 33](words)
    meet()
    total = 66 * n
    if me == 0:
        assert words.tolist() == [total, 3 * total, 2 * total, 5 * (total % 2), 8, 6, 15, 15]
    meet()
    kernels.values[1, 1](words[6:], out, me)
    assert out.tolist() == [15, 7, 7, 3]


def test_barrier_waits_collectives(job, kernels, around, meet):
    me, n, after, _ = around
    word, sig = job.zeros(1, "int64"), job.zeros(1, "uint64")
    src, dst, out = job.full(64 * n, me, "float32"), job.zeros(64 * n, "float32"), np.zeros(8, "float32")
    meet()
    kernels.together[1, 64](word, sig, src, dst, out, after)
    meet()
    # rounds that were right, broadcast of the last PE, last of fcollect, of alltoall, sum, signal, scans
    prefix = me * (me - 1) / 2
    assert out.tolist() == [3, n - 1, n - 1, n - 1, n * (n - 1) / 2, 42, prefix + me, prefix]


# ---- what those leave out ----------------------------------------------------------------------------------


@cuda.jit
def by_warps(inbox, mine, signals, fine, pe):
    """Each warp sends its part, and waits for its part alone."""
    thread = cuda.threadIdx.x + cuda.blockDim.x * cuda.threadIdx.y
    w = thread // 32
    mine[thread] += 100 * w
    for round in range(1, 4):
        part = slice(32 * w, 32 * w + 32)
        sim.fence(sim.warp)
        sim.put_signal(sim.warp, inbox[part], mine[part], signals[w:], 1, sim.signal_add, pe)
        fine[thread] += sim.signal_wait_until(sim.warp, signals[w:], sim.ge, round)


def test_warps_meet_by_themselves(job, around, meet):
    me, _, after, before = around
    inbox, mine = job.zeros(96, "int32"), job.full(96, me, "int32")
    signals, fine = job.zeros(3, "uint64"), np.zeros(96, "int32")
    meet()
    by_warps[1, (24, 4)](inbox, mine, signals, fine, after)
    meet()
    assert inbox.tolist() == [before + 100 * (i // 32) for i in range(96)]
    assert signals.tolist() == [3, 3, 3] and fine.tolist() == [3] * 96


@cuda.jit
def packets(scope, box, source, got, fine, pe):
    for round in range(1, 4):
        source[cuda.threadIdx.x] += 1
        cuda.syncthreads()
        sent = sim.put_packets(scope, box[round % 2], source, round, pe)
        got_it = sim.recv_packets(scope, got[round - 1], box[round % 2], round)
        fine[cuda.threadIdx.x] += sent and got_it
        sim.barrier(scope, sim.world)


@pytest.mark.parametrize(("scope", "threads"), [(1, 32), (2, 48)])
def test_packets(job, around, meet, scope, threads):
    me, _, after, before = around
    box, fine = job.zeros((2, 1024), "uint8"), np.zeros(threads, "int32")
    source, got = np.full(threads, 10 * me, "float64"), np.zeros((3, threads))
    meet()
    packets[1, threads](scope, box, source, got, fine, after)
    assert got.tolist() == [[10 * before + round] * threads for round in (1, 2, 3)]
    assert fine.tolist() == [3] * threads


@cuda.jit
def compare(word, out):
    for i, value in enumerate((-6, -5, -4)):
        for j, cmp in enumerate((sim.eq, sim.ne, sim.gt, sim.ge, sim.lt, sim.le)):
            out[i, j] = sim.test(word, cmp, value)
            if out[i, j]:
                out[i, j] += sim.wait_until(sim.thread, word, cmp, value)


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_comparisons(job, meet, dtype):
    word, out = job.full(1, -5, dtype), np.zeros((3, 6), "int32")
    compare[1, 1](word, out)
    assert out.tolist() == [[0, 2, 2, 2, 0, 0], [2, 0, 0, 2, 0, 2], [0, 2, 0, 0, 2, 2]]


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint64"])
def test_several_words(job, kernels, around, meet, dtype):
    me, n, after, before = around
    words, sig = job.zeros(n, dtype), job.zeros(1, "uint64")
    a, b, out = job.zeros(300, "float32"), np.full(300, me + 1, "float32"), np.zeros(7)
    meet()
    kernels.several[1, 16](words, a, b, sig, out, after)
    assert out.tolist() == [1, 1, 0, 0, -1, -1, before + 1]
    meet()


@cuda.jit
def unsigned(words, out):
    out[0] = sim.test(words, sim.gt, 1 << 63)
    out[1] = sim.wait_until(sim.block, words, sim.gt, 1 << 63)
    out[2] = sim.signal_fetch(words) == (1 << 64) - 1


def test_unsigned_words(job, meet):
    words, out = job.full(1, (1 << 64) - 1, "uint64"), np.zeros(3, "int32")
    unsigned[1, 2](words, out)
    assert out.tolist() == [1, 1, 1]


@cuda.jit
def more_atomics(words, numbers, out, pe):
    out[0] = sim.atomic_fetch_and(words, 6, pe)
    out[1] = sim.atomic_fetch_or(words, 9, pe)
    out[2] = sim.atomic_fetch_xor(words, 3, pe)
    out[3] = sim.atomic_compare_swap(words, 99, 1, pe)
    sim.atomic_set(numbers, 2.5, pe)
    out[4] = sim.atomic_swap(numbers, -1.5, pe)
    out[5] = sim.atomic_fetch(numbers, pe)


def test_more_atomics(job, around, meet):
    _, _, after, _ = around
    words, numbers, out = job.full(1, 12, "int64"), job.zeros(1, "float32"), np.zeros(6)
    meet()
    more_atomics[1, 1](words, numbers, out, after)
    meet()
    assert out.tolist() == [12, 4, 13, 14, 2.5, -1.5]
    assert words[0] == 14 and numbers[0] == -1.5


@cuda.jit
def reductions(a, out, fine):
    for op in range(4):
        ok = sim.all_reduce(op, sim.world, out[op], a)
        if cuda.threadIdx.x == 0:
            fine[0] += ok


@pytest.mark.parametrize("dtype", ["int32", "int64", "float32", "float64"])
def test_reductions(job, around, meet, dtype):
    me, n, _, _ = around
    a, out, fine = job.full(40, me + 1, dtype), job.zeros((4, 40), dtype), np.zeros(1, "int32")
    meet()
    reductions[1, 32](a, out, fine)
    assert fine[0] == 4
    product = int(np.prod(np.arange(1, n + 1)))
    for row, value in zip(out, (n * (n + 1) // 2, product, 1, n), strict=True):
        assert row.tolist() == [value] * 40


@cuda.jit
def collectives_by_warp(src, dst, out):
    team = sim.shared
    n = sim.team_n_pes(team)
    if cuda.threadIdx.x >= 32:
        return
    fine = sim.sync(sim.warp, team)
    fine = sim.broadcast(sim.warp, team, dst[0], src, n - 1) and fine
    fine = sim.fcollect(sim.warp, team, dst[1], src[:2]) and fine
    fine = sim.alltoall(sim.warp, team, dst[2], src) and fine
    fine = sim.barrier(sim.warp, team) and fine
    out[cuda.threadIdx.x] = fine and sim.team_my_pe(team) == sim.my_pe()


def test_collectives_by_a_warp(job, around, meet):
    me, n, _, _ = around
    src, dst = job.array(np.arange(2 * n) + 100 * me), job.zeros((3, 2 * n), "int64")
    out = np.zeros(64, "int32")
    meet()
    collectives_by_warp[1, 64](src, dst, out)
    meet()
    assert out.tolist() == [1] * 32 + [0] * 32
    assert dst[0].tolist() == [100 * (n - 1) + i for i in range(2 * n)]
    assert dst[1].tolist() == [100 * pe + i for pe in range(n) for i in (0, 1)]
    assert dst[2].tolist() == [100 * pe + 2 * me + i for pe in range(n) for i in (0, 1)]


@cuda.jit
def through_shared(a, flags, pe):
    """Blocks run one after another; local memory of both kinds is a source and a target."""
    tile = cuda.shared.array(4, dtype=np.float64)
    own = cuda.local.array(4, dtype=np.float64)
    tile[cuda.threadIdx.x] = 10 * cuda.blockIdx.x + cuda.threadIdx.x
    cuda.syncthreads()
    sim.put(sim.block, a[4 * cuda.blockIdx.x :], tile, pe)
    sim.quiet(sim.block)
    sim.get(sim.thread, own, a[4 * cuda.blockIdx.x :], pe)
    if own[cuda.threadIdx.x] == tile[cuda.threadIdx.x]:
        sim.p(flags[4 * cuda.blockIdx.x + cuda.threadIdx.x :], True, pe)


def test_shared_and_local_memory(job, around, meet):
    _, _, after, _ = around
    a, flags = job.zeros(12), job.zeros(12, "bool")
    meet()
    through_shared[3, 4](a, flags, after)
    meet()
    assert a.tolist() == [10 * block + i for block in range(3) for i in range(4)] and flags.all()


# ---- what is wrong -----------------------------------------------------------------------------------------


@cuda.jit
def put_by(scope, a, b, pe):
    sim.put(scope, a, b, pe)


@cuda.jit
def touch_peer(a, pe):
    sim.peer(a, pe)[0] = 1


@cuda.jit
def use_team(team):
    sim.team_n_pes(team)
    sim.barrier(sim.block, team)


@cuda.jit
def signal_with(sig, op):
    sim.signal_op(sig, 1, op, 0)


@cuda.jit
def send_packets(scope, box, b):
    sim.put_packets(scope, box, b, 1, 0)


@cuda.jit
def wait_on(word):
    sim.wait_until(sim.thread, word, sim.eq, 0)


@cuda.jit
def reduce_these(a):
    sim.all_reduce(sim.SUM, sim.world, a, a)


@cuda.jit
def half_a_warp(a):
    if cuda.threadIdx.x < 16:
        sim.put(sim.warp, a, a, 0)


@pytest.mark.parametrize("scope", [0, 1, 2])
@pytest.mark.parametrize("pe", [-1, 4096])
def test_no_such_pe(job, meet, scope, pe):
    a = job.zeros(4)
    with pytest.raises(IndexError, match=str(pe)):
        put_by[1, 40](scope, a, np.ones(4), pe)
    with pytest.raises(ValueError, match="no such PE"):
        touch_peer[1, 1](a, pe)
    put_by[1, 2](2, a, np.ones(4), job.my_pe())  # the simulator is none the worse for it
    assert a.tolist() == [1, 1, 1, 1]


def test_what_is_wrong_is_raised_by_the_launch(job, kernels, meet):
    a, b, words = job.zeros(4, "float32"), np.ones(4, "float32"), job.zeros(1, "int32")
    box = job.zeros(1024, "uint8")
    for kernel, arguments, text in (
        (cuda.jit(kernels.put_only), (a, np.zeros(4)), "dtypes of target and source differ"),
        (cuda.jit(kernels.put_only), (a[::2], a[::2]), "a contiguous array is needed"),
        (cuda.jit(kernels.put_only), (a, 1.5), "where an array is needed"),
        (cuda.jit(kernels.put_only), (b, b), "symmetric"),
        (cuda.jit(kernels.add_only), (a,), "32- and 64-bit integers"),
        (wait_on, (a,), "waits and tests take int32, int64 and uint64"),
        (signal_with, (words, sim.signal_set), "a signal is uint64"),
        (signal_with, (job.zeros(1, "uint64"), 7), "neither signal_set nor signal_add"),
        (reduce_these, (box,), "reductions in kernels take"),
        (use_team, (5,), "no team 5"),
        (send_packets, (sim.thread, box, b), "at least 32 threads"),
        (send_packets, (sim.block, box, b), "at least 32 threads"),
    ):
        with pytest.raises(Exception, match=text):
            kernel[1, 2](*arguments)
    assert not a.any()
    device.check()  # these were raised; nothing is left to report


def test_a_warp_that_is_not_all_there(job, meet):
    with pytest.raises(RuntimeError, match="by 16 of the 32 threads of its warp"):
        half_a_warp[1, 32](job.zeros(4))


# ---- the example -------------------------------------------------------------------------------------------


def test_example(job, around, meet, monkeypatch):
    """Its kernel as it is; its main function is CuPy's."""
    monkeypatch.setitem(sys.modules, "cupy", ModuleType("cupy"))
    example = _load("examples", "gpu_numba.py")
    monkeypatch.undo()
    me, n, _, _ = around
    part, steps = 8, 12
    now, then = job.zeros(part + 2), job.zeros(part + 2)
    from_left, from_right = job.zeros(1, "uint64"), job.zeros(1, "uint64")
    if me == 0:
        now[0] = then[0] = 1
    ok = np.ones(1, "int32")
    meet()
    example.heat[1, 6](now, then, from_left, from_right, steps, ok)
    meet()
    assert ok[0] == 1
    whole = example.reference(part * n, steps)
    assert np.abs(now[1:-1] - whole[me * part : (me + 1) * part]).max() < 1e-12
    assert now[1] > 0 or me > 1
