"""Quantized collectives and the codec on GPU memory: against float64, the CPU's codec, alike on all PEs."""

from __future__ import annotations

import contextlib
import hashlib
import sys
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from pyshmem import quant
from pyshmem.errors import DataError, MismatchError, ShmemError

DTYPES = {
    "float32": np.dtype("float32"),
    "float16": np.dtype("float16"),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
# Half a step of INT8 is 1/254 of a group's largest, of e4m3 a sixteenth of the element; then the rounding of
# the result.
STEP = {"int8": 1 / 254, "e4m3": 1 / 16}
ROUNDING = {"float32": 2.0**-20, "float16": 2.0**-10, "bfloat16": 2.0**-7}


def numbers(count, dtype, pe, salt=0):
    x = np.random.default_rng([count, pe, salt]).standard_normal(count)
    x[: count // 3] *= 100  # groups of different sizes
    return x.astype(DTYPES[dtype])


def to_gpu(cp, x):
    """As words: not every version of CuPy copies bfloat16."""
    word = f"uint{8 * x.dtype.itemsize}"
    return cp.asarray(np.ascontiguousarray(x).view(word)).view(x.dtype)


def to_host(cp, a):
    return cp.asnumpy(a.view(f"uint{8 * a.dtype.itemsize}")).view(a.dtype)


def agree(job, data):
    """Have all PEs these bytes?"""
    mine, sums = job.zeros(1, "int64"), job.zeros(job.n_pes(), "int64")
    mine[0] = int.from_bytes(hashlib.sha256(data.tobytes()).digest()[:7], "little")
    job.barrier_all()
    job.fcollect(sums, mine)
    same = bool((sums == mine[0]).all())
    job.barrier_all()
    job.free(mine)
    job.free(sums)
    return same


def bound(values, fmt, members):
    """Largest error of a sum: each term once, the sum once more; as if all groups had the largest's scale."""
    largest = sum(np.abs(v.astype(np.float64)).max() for v in values)
    return STEP[fmt] * largest * (2 if members > 1 else 0) + 1e-6


@pytest.fixture(params=["cupy", "torch"])
def kind(request, cp):
    """Arrays of either package: from and to NumPy."""
    if request.param == "cupy":
        return SimpleNamespace(
            name="cupy",
            take=lambda x: to_gpu(cp, x),
            give=lambda a: to_host(cp, a),
        )
    torch = pytest.importorskip("torch")

    def take(x):
        if x.dtype == DTYPES["bfloat16"]:
            return torch.from_numpy(x.view(np.int16).copy()).cuda().view(torch.bfloat16)
        return torch.from_numpy(x.copy()).cuda()

    def give(a):
        a = a.cpu()
        return (
            a.view(torch.int16).numpy().view(DTYPES["bfloat16"]) if a.dtype == torch.bfloat16 else a.numpy()
        )

    return SimpleNamespace(name="torch", take=take, give=give)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 1000, 100_003, 3_000_001])
def test_all_reduce(job, cp, device, around, meet, kind, dtype, count):
    me, n, _, _ = around
    all_x = [numbers(count, dtype, pe) for pe in range(n)]
    exact = sum(x.astype(np.float64) for x in all_x)
    for fmt, group, op in (
        ("int8", 128, "sum"),
        ("int8", 32, "mean"),
        ("e4m3", 64, "sum"),
        ("int8", 128, "mean"),
    ):
        x = kind.take(all_x[me])
        got = kind.give(quant.all_reduce(x, fmt=fmt, group=group, op=op, min_bytes=0))
        device.synchronize()
        want = exact / (n if op == "mean" else 1)
        limit = bound(all_x, fmt, n) + np.abs(want) * ROUNDING[dtype]
        assert (np.abs(got.astype(np.float64) - want) <= limit).all(), (fmt, group, op)
        assert agree(job, got), (fmt, group, op)
        in_place = quant.all_reduce(x, out=x, fmt=fmt, group=group, op=op, min_bytes=0)
        assert in_place is x and kind.give(x).tobytes() == got.tobytes()
    meet()


@pytest.mark.parametrize("count", [5000, 1_000_003])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_all_reduce_bit_by_bit(job, cp, device, around, meet, count, dtype):
    """What the CPU's codec gives for the same steps; records of 1024 are dealt out one by one."""
    me, n = around[:2]
    if n == 1:
        pytest.skip("one PE sends nothing")
    all_x = [numbers(count, dtype, pe, 1).astype(np.float32) for pe in range(n)]
    wire = -(-count // 1024) * 1152
    two = wire * (n - 1) * (n - 2) > 400_000 * n and wire >= 16 * n
    padded = [np.zeros(-(-count // 1024) * 1024, np.float32) for _ in range(n)]
    for p, x in zip(padded, all_x, strict=True):
        p[:count] = x

    def through(x):
        rows = x.reshape(-1, 1024)
        return quant.dequantize(quant.quantize(rows), 1024).reshape(-1)

    sent = [through(p) for p in padded]
    acc = None
    for pe in range(n):
        term = sent[pe].copy()
        if two:
            own = np.arange(len(term) // 1024) % n == pe
            term.reshape(-1, 1024)[own] = padded[pe].reshape(-1, 1024)[own]
        acc = term if acc is None else acc + term
    want = (through(acc) if two else acc)[:count].astype(DTYPES[dtype])
    got = to_host(cp, quant.all_reduce(to_gpu(cp, all_x[me].astype(DTYPES[dtype])), min_bytes=0))
    assert got.tobytes() == want.tobytes()
    meet()


@pytest.mark.parametrize("fmt", ["int8", "e4m3"])
@pytest.mark.parametrize("group", [32, 128, "row"])
@pytest.mark.parametrize("shape", [(3, 700), (40, 8192)])
def test_the_others(job, cp, device, around, meet, kind, fmt, group, shape):
    me, n, _, _ = around
    rows, cols = shape
    count = rows * cols
    how = {"fmt": fmt, "group": group, "min_bytes": 0}
    parts = [numbers(count, "float32", pe, 2).reshape(shape) for pe in range(n)]
    wholes = [numbers(n * count, "float32", pe, 3).reshape(n * rows, cols) for pe in range(n)]

    got = kind.give(quant.all_gather(kind.take(parts[me]), **how))
    want = np.concatenate(parts)
    assert (np.abs(got - want) <= bound(parts, fmt, n)).all() and agree(job, got)

    out = kind.take(np.zeros((n * rows, cols), np.float32))
    out[me * rows : (me + 1) * rows] = kind.take(parts[me])
    quant.all_gather(out[me * rows : (me + 1) * rows], out=out, **how)  # in place
    assert kind.give(out).tobytes() == got.tobytes()

    got = kind.give(quant.all_to_all(kind.take(wholes[me]), **how))
    want = np.concatenate([w[me * rows : (me + 1) * rows] for w in wholes])
    assert (np.abs(got - want) <= bound(wholes, fmt, n)).all()
    own = slice(me * rows, (me + 1) * rows)
    assert (got[own] == want[own]).all()
    x = kind.take(wholes[me])
    quant.all_to_all(x, out=x, **how)
    assert kind.give(x).tobytes() == got.tobytes()

    got = kind.give(quant.reduce_scatter(kind.take(wholes[me]), **how))
    want = sum(w[own].astype(np.float64) for w in wholes)
    assert (np.abs(got - want) <= bound(wholes, fmt, n)).all()

    for root in range(n):
        got = kind.give(quant.broadcast(kind.take(parts[me]), root, **how))
        assert (np.abs(got - parts[root]) <= bound(parts, fmt, n)).all() and agree(job, got)
    meet()


def test_not_quantized(job, cp, device, around, meet):
    """Small blocks, bits as wide as the dtype, teams of one: exact, in and outside the heap."""
    me, n, _, _ = around
    for dtype in ("float32", "bfloat16"):
        values = [(np.arange(5000) % 17 + pe).astype(DTYPES[dtype]) for pe in range(n)]
        want = sum(v.astype(np.float32) for v in values).astype(DTYPES[dtype])
        x = to_gpu(cp, values[me])
        bits = 8 * DTYPES[dtype].itemsize
        for result in (
            quant.all_reduce(x),
            quant.all_reduce(x, bits=bits),
            quant.all_reduce(x, min_bytes=1 << 30),
        ):
            assert to_host(cp, result).tobytes() == want.tobytes()
        heap, out = job.array(values[me], device="cuda"), job.empty(5000, DTYPES[dtype], device="cuda")
        meet()
        assert to_host(cp, quant.all_reduce(heap, out=out)).tobytes() == want.tobytes()
        gathered = to_host(cp, quant.all_gather(x, bits=bits))
        assert gathered.tobytes() == np.concatenate(values).tobytes()
        meet()
        job.free(heap)
        job.free(out)
    alone = job.TEAM_WORLD.split_strided(me, 1, 1) if n == 1 else None
    if alone is not None:
        x = to_gpu(cp, numbers(1000, "float32", me))
        assert (quant.all_reduce(x, team=alone, min_bytes=0) == x).all()
        alone.destroy()
    meet()


def test_error_feedback(job, cp, device, around, meet):
    """The residuals of all members are what the sums lack, so what is added up over many calls is right."""
    me, n, _, _ = around
    count = 200_000
    values = [numbers(count, "float32", pe, 5) for pe in range(n)]
    exact = sum(v.astype(np.float64) for v in values)
    for call in (quant.all_reduce, quant.reduce_scatter):
        for op in ("sum", "mean"):
            x, residual = to_gpu(cp, values[me]), cp.zeros(count, "float32")
            whole = count // n * n
            take = (x[:whole], residual[:whole]) if call is quant.reduce_scatter else (x, residual)
            for _ in range(2):
                before = residual.get()
                got = call(take[0], residual=take[1], op=op, min_bytes=0, group=64).get()
            rest = residual.get().astype(np.float64)
            everything = job.zeros(count, "float64"), job.zeros(count, "float64")
            everything[0][:] = rest - before
            job.barrier_all()
            job.sum_reduce(everything[1], everything[0])
            total = exact - np.array(everything[1])
            want = (
                total[: len(got)] if call is quant.all_reduce else total[me * len(got) : (me + 1) * len(got)]
            )
            have = got.astype(np.float64) * (n if op == "mean" else 1)
            assert np.abs(have - want).max() < 2e-3, (call.__name__, op)
            if n > 1:
                assert np.abs(rest).max() > 0
            job.barrier_all()
            for a in everything:
                job.free(a)
    meet()


def test_streams_teams_and_graphs(job, cp, device, around, meet):
    me, n, _, _ = around
    x, out = cp.full(400_000, me + 1, "float32"), cp.zeros(400_000, "float32")
    total = n * (n + 1) / 2
    queue = cp.cuda.Stream(non_blocking=True)
    meet()
    quant.all_reduce(x, out=out, min_bytes=0, stream=queue)
    device.synchronize(queue)
    assert np.allclose(out.get(), total, rtol=0.02)
    evens = job.TEAM_WORLD.split_strided(0, 2, (n + 1) // 2)
    if me % 2 == 0:
        part = quant.all_reduce(x, min_bytes=0, team=evens)
        assert np.allclose(part.get(), sum(range(1, n + 1, 2)), rtol=0.02)
    meet()
    evens.destroy()
    with queue:
        queue.begin_capture()
        quant.all_reduce(x, out=x, min_bytes=0, op="mean")
        quant.all_reduce(x, out=out, min_bytes=0)
        graph = queue.end_capture()
    for _ in range(3):
        graph.launch(queue)
    device.synchronize(queue)
    assert np.allclose(x.get(), total / n, rtol=0.03) and np.allclose(out.get(), total, rtol=0.03)
    meet()


def test_many_sizes_in_a_row(job, cp, device, around, meet):
    """Calls of all kinds on one stage, none waiting for the others to look at results; then all results."""
    me, n, _, _ = around
    results = []
    sizes = [7, 70_000, 1024, 2_500_000, 3, 999, 1_200_000] * 3
    for i, size in enumerate(sizes):
        x = cp.full(size * n, me + 1 + i, "float32")
        how = {"min_bytes": 0, "group": (32, 64, 128)[i % 3], "fmt": ("int8", "e4m3")[i % 2]}
        results.append((i, quant.all_reduce(x[:size], **how), n * (n + 1) / 2 + n * i))
        results.append((i, quant.reduce_scatter(x, **how), n * (n + 1) / 2 + n * i))
        results.append((i, quant.broadcast(x[:size], i % n, **how), i % n + 1 + i))
        results.append((i, quant.all_gather(x[:size], **how)[size * (n - 1) :], n + i))
        results.append((i, quant.all_to_all(x, **how)[:size], 1 + i))
    device.synchronize()
    for i, got, want in results:
        assert np.allclose(got.get(), want, rtol=0.08), i
    meet()


def test_not_finite(job, cp, device, around, meet):
    me, n, _, _ = around
    for bad in (np.nan, np.inf, -np.inf):
        x = cp.ones(300_000, "float32")
        if me == n - 1:
            x[1000] = bad
        got = quant.all_reduce(x, min_bytes=0, nonfinite="propagate").get()
        if n > 1:
            assert np.isnan(got[896:1024]).all() and np.isfinite(np.delete(got, slice(896, 1024))).all()
        device.check()
        quant.all_reduce(x, min_bytes=0)
        if n > 1 and me == n - 1:
            with pytest.raises(DataError, match="NaN or infinity"):
                device.synchronize()
        else:
            with contextlib.suppress(DataError):  # a PE that adds it up may say so too
                device.synchronize()
        job.barrier_all()
        assert np.allclose(quant.all_reduce(cp.ones(5000, "float32"), min_bytes=0).get(), n, rtol=0.02)
    meet()


def test_calls_that_differ(job, cp, device, around, meet):
    """MismatchError on all PEs, nothing moved, and the next call works."""
    me, n, _, _ = around
    if n == 1:
        pytest.skip("one PE agrees with itself")
    x = cp.ones(100_000, "float32")
    for size, how in (
        (100_000 - (me == 1), {}),
        (100_000, {"group": 32 if me == 1 else 64}),
        (100_000, {"op": "mean" if me else "sum"}),
    ):
        quant.all_reduce(x[:size], min_bytes=0, **how)
        with pytest.raises(MismatchError, match="other arguments"):
            device.synchronize()
        job.barrier_all()
    kinds = quant.all_gather if me == 1 else quant.all_reduce
    kinds(x, min_bytes=0)
    with pytest.raises(MismatchError):
        device.synchronize()
    job.barrier_all()
    assert np.allclose(quant.all_reduce(x, min_bytes=0).get(), n, rtol=0.02)
    meet()


def test_arguments(job, cp, device, around, meet):
    _, n, _, _ = around
    x = cp.ones((4 * n, 8), "float32")
    for error, text, call in (
        (TypeError, "float64", lambda: quant.all_reduce(x.astype("float64"))),
        (ValueError, "contiguous", lambda: quant.all_reduce(x[:, :4])),
        (ShmemError, "bits", lambda: quant.all_reduce(x, bits=4)),
        (ShmemError, "both", lambda: quant.all_reduce(x, out=np.ones((4 * n, 8), np.float32))),
        (
            ShmemError,
            "both",
            lambda: quant.all_reduce(np.ones(8, np.float32), residual=cp.ones(8, "float32")),
        ),
        (ShmemError, "host memory", lambda: quant.all_reduce(np.ones(8, np.float32), stream=0)),
        (ShmemError, "", lambda: quant.broadcast(x, n)),
        (ShmemError, "overlap", lambda: quant.all_reduce(x[:2], out=x[1:3], min_bytes=0)),
        (ShmemError, "uint8", lambda: quant.dequantize(cp.ones((3, 7), "uint8"), 64)),
    ):
        with pytest.raises(error, match=text):
            call()
    if n > 1:
        with pytest.raises(ShmemError, match="divide"):
            quant.all_to_all(cp.ones(4 * n + 1, "float32"))
    assert quant.all_reduce(cp.ones(0, "float32")).size == 0
    meet()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fmt", ["int8", "e4m3"])
def test_codec(job, cp, device, meet, kind, dtype, fmt):
    """The CPU's bytes, also of rows of any length, of misaligned ones, and of what is not finite."""
    for rows, cols in ((1, 1), (3, 33), (50, 1000), (7, 1024), (5, 5003), (300, 4096)):
        for group in (0, 32, 64, 128):
            x = numbers(rows * cols, dtype, 7).reshape(rows, cols)
            want = quant.quantize(x, fmt, group)
            records = quant.quantize(kind.take(x), fmt, group)
            device.synchronize()
            assert kind.give(records).tobytes() == want.tobytes(), (rows, cols, group)
            name = dtype if kind.name == "cupy" and dtype != "bfloat16" else None
            target = DTYPES[dtype] if name is None and kind.name == "cupy" else dtype
            if kind.name == "torch":
                target = getattr(sys.modules["torch"], dtype)
            back = quant.dequantize(records, cols, fmt, group, dtype=target)
            host = quant.dequantize(want, cols, fmt, group, dtype=DTYPES[dtype])
            assert kind.give(back).tobytes() == host.tobytes(), (rows, cols, group)
    x = numbers(3000, dtype, 1).reshape(3, 1000)
    x[1, 500], x[2, 3] = np.inf, np.nan
    for policy in ("saturate", "propagate"):
        records = quant.quantize(kind.take(x), fmt, nonfinite=policy)
        assert kind.give(records).tobytes() == quant.quantize(x, fmt, nonfinite=policy).tobytes(), policy
    quant.quantize(kind.take(x), fmt)
    with pytest.raises(DataError):
        device.synchronize()
    meet()


def test_in_kernels(job, cp, device, around, meet):
    """A producer quantizes what it computes into the next PE's memory, a consumer scales what it gets."""
    me, n, after, before = around
    cols, rows = 3000, 40
    size = quant.int8_row_bytes(cols)
    inbox, signal = job.zeros((rows, size), "uint8", device="cuda"), job.zeros(1, "uint64", device="cuda")
    module = device.RawModule(r"""
#include <shmem_device.h>
extern "C" __global__ void produce(unsigned char *inbox, unsigned long long *sig, const float *x, int cols,
                                   int size, int to)
{
    const float *row = x + blockIdx.x * cols;
    shmem::quantize(shmem::block, shmem::ptr(inbox + blockIdx.x * size, to),
                    [=](shmem::size i) { return row[i] * 2 + 1; }, cols);
    shmem::quiet(shmem::block);
    if (threadIdx.x == 0)
        shmem::signal_op(sig, 1, shmem::signal_add, to);
}
extern "C" __global__ void consume(float *y, const unsigned char *inbox, unsigned long long *sig, int cols,
                                   int size)
{
    shmem::signal_wait_until(shmem::block, sig, shmem::ge, gridDim.x);
    float *row = y + blockIdx.x * cols;
    const unsigned char *record = inbox + blockIdx.x * size;
    shmem::dequantize(shmem::block, [=](shmem::size i, float v) { row[i] = v * 3; }, record, cols);
}
""")
    x = [numbers(rows * cols, "float32", pe, 8).reshape(rows, cols) for pe in range(n)]
    y = cp.zeros((rows, cols), "float32")
    meet()
    module.get_function("produce")(
        (rows,), (256,), (inbox, signal, cp.asarray(x[me]), np.int32(cols), np.int32(size), np.int32(after))
    )
    module.get_function("consume")((rows,), (256,), (y, inbox, signal, np.int32(cols), np.int32(size)))
    device.synchronize()
    sent = x[before] * np.float32(2)
    sent += np.float32(1)
    error = np.abs(quant.dequantize(cp.asnumpy(inbox), cols) - sent).max()
    assert error <= np.abs(sent).max() / 254 * 1.01
    assert np.allclose(y.get(), quant.dequantize(cp.asnumpy(inbox), cols) * 3)
    meet()
    job.free(inbox)
    job.free(signal)


def test_host_calls(job, cp, device, around, meet):
    """The C calls without a stream take GPU memory too, and wait."""
    from pyshmem._core import ffi, lib

    me, n, _, _ = around
    x, y = cp.full(100_000, me + 1, "float32"), cp.zeros(100_000, "float32")
    meet()
    how = ffi.new("shmemx_quant_t *")
    lib.shmemx_quant_defaults(how)
    how.min_bytes = 0
    world = ffi.cast("shmem_team_t", lib.SHMEMX_TEAM_WORLD)
    to, source = (ffi.cast("void *", a.data.ptr) for a in (y, x))
    assert lib.shmemx_allreduce_int8(world, to, source, 100_000, lib.SHMEMX_FLOAT32, how, ffi.NULL) == 0
    assert np.allclose(y.get(), n * (n + 1) / 2, rtol=0.02)
    meet()
