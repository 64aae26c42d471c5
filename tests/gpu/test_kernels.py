"""The device API from CuPy kernels, per primitive and scope."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

_spec = importlib.util.spec_from_file_location("gpu_kernels", Path(__file__).parent / "kernels.py")
assert _spec is not None and _spec.loader is not None
sources = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sources)

SCOPES = {"thread": 0, "warp": 1, "block": 2}
CALLS = {"put": 0, "get": 1, "put_nbi": 2, "get_nbi": 3, "put_signal": 4, "put_signal_nbi": 5}
CALLS |= {"put, one PE's quiet": 6, "put, a queue pair": 7, "get, a queue pair": 8}
CALLS |= {"put_signal, a queue pair": 9, "put, gathered": 10}
WIDE = {"warp": 1, "block": 2}


@pytest.fixture(scope="module")
def modules(device):
    """By name; each with checks of PEs and addresses."""
    return {
        name: device.RawModule(getattr(sources, name), options=("-DSHMEM_DEVICE_CHECKS",))
        for name in ("RMA", "ATOMICS", "SYNC", "COLL")
    }


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("call", CALLS)
def test_rma(job, cp, modules, around, meet, call, scope):
    me, _, after, before = around
    size = 70_000
    values = (np.arange(size) % 251).astype("uint8")
    a = job.zeros(size, "uint8", device="cuda")
    b = job.array(values + np.uint8(me), device="cuda")
    sig, ok = job.zeros(1, "uint64", device="cuda"), cp.ones(1, "int32")
    kernel = modules["RMA"].get_function("rma")
    for n, shift in [(1, 0), (3, 1), (16, 0), (100, 5), (4096, 0), (4097, 3), (65_536, 16)]:
        if call.startswith("put"):
            to, source, whose = a[shift : shift + n], b[:n], before
        else:
            to, source, whose = a[:n], b[shift : shift + n], after
        a[...] = 0
        sig[...] = 0
        meet()
        kernel((1,), (128,), (CALLS[call], SCOPES[scope], to, source, cp.uint64(n), sig, cp.int32(after), ok))
        meet()
        first = 0 if call.startswith("put") else shift
        assert (to.get() == values[first : first + n] + np.uint8(whose)).all(), (n, shift)
        assert int(cp.count_nonzero(a)) == int(cp.count_nonzero(to)) and int(ok[0]) == 1
        meet()
    for x in (a, b, sig):
        job.free(x)


@pytest.mark.parametrize("call", ["put", "get"])
def test_rma_through_a_stage(job, cp, modules, around, meet, call):
    me, _, after, before = around
    n = 1 << 20
    a, b = job.zeros(n, "uint8", device="cuda"), job.full(n, me + 1, "uint8", device="cuda")
    for size, shift in [(n, 0), (100_000, 16), (99_999, 1)]:
        a[...] = 0
        meet()
        modules["RMA"].get_function("staged")(
            (1,), (256,), (CALLS[call], a[shift:], b, cp.uint64(size - shift), cp.int32(after))
        )
        meet()
        part = a[shift:size]
        assert (part == (before if call == "put" else after) + 1).all() and int(
            cp.count_nonzero(a)
        ) == part.size
        meet()
    job.free(a)
    job.free(b)


def test_single_elements(job, cp, modules, around, meet):
    me, n, after, before = around
    made = [job.zeros(1, kind, device="cuda") for kind in ("int32", "int64", "float32", "float64", "uint8")]
    out = cp.zeros(9)
    modules["RMA"].get_function("words")((1,), (1,), (*made, out, cp.int32(after)))
    meet()
    assert out.get().tolist() == [-me - 1, -me - 1, me + 0.5, me + 0.25, me + 1, n, -me - 1, 1, 1000 * me + n]
    expected = [-before - 1, -before - 1, before + 0.5, before + 0.25, before + 1]
    assert [float(a[0]) for a in made] == expected
    meet()
    for a in made:
        job.free(a)


@pytest.mark.parametrize("dtype", ["uint32", "int64"])
def test_atomics_of_all_on_one(job, cp, modules, around, meet, dtype):
    me, n, _, _ = around
    threads, blocks = 96, 4
    words = job.zeros(10, dtype, device="cuda")
    words[8:] = 15
    meet()
    name = "count32" if dtype == "uint32" else "count64"
    modules["ATOMICS"].get_function(name)((blocks,), (threads,), (words,))
    meet()
    if me == 0:
        count = threads * blocks * n
        odd = 5 * (count % 2)
        bits = (1 << 31) - 1
        assert words.get().tolist() == [count, 3 * count, count, 2 * count, bits, bits, odd, odd, 6, 6]
    meet()
    job.free(words)


def test_atomics_that_return(job, cp, modules, around, meet):
    _, _, after, _ = around
    w, d = job.full(2, 70, "int64", device="cuda"), job.full(1, 1.5, device="cuda")
    out = cp.zeros(9, "int64")
    meet()
    modules["ATOMICS"].get_function("values")((1,), (1,), (w, d, out, cp.int32(after)))
    meet()
    assert out.get().tolist() == [70, 70, -5, 8, 4, 3, 5, 8, 18]
    assert w.get().tolist() == [18, 4] and float(d[0]) == 2.5
    meet()
    job.free(w)
    job.free(d)


@pytest.mark.parametrize("scope", SCOPES)
def test_barrier_and_sync(job, cp, modules, around, meet, scope):
    _, _, after, _ = around
    word, wrong = job.zeros(1, "int64", device="cuda"), cp.zeros(1, "int32")
    meet()
    modules["SYNC"].get_function("rounds")(
        (1,), (64,), (SCOPES[scope], word, cp.int32(5), wrong, cp.int32(after))
    )
    meet()
    assert int(wrong[0]) == 0 and int(word[0]) == 5
    meet()
    job.free(word)


@pytest.mark.parametrize("scope", SCOPES)
def test_waits_and_tests(job, cp, modules, around, meet, scope):
    _, _, after, _ = around
    words, sig = job.zeros(8, "int32", device="cuda"), job.zeros(1, "int64", device="cuda")
    out = cp.zeros(6, "int32")
    meet()
    modules["SYNC"].get_function("waits")((1,), (64,), (SCOPES[scope], words, sig, out, cp.int32(after)))
    meet()
    assert out.get().tolist() == [1, 5, 1, 1, 1, 42]
    meet()
    job.free(words)
    job.free(sig)


@pytest.mark.parametrize("scope", WIDE)
@pytest.mark.parametrize("elements", [1, 30, 1000, 50_000])
def test_collectives(job, cp, modules, around, meet, scope, elements):
    me, n, _, _ = around
    kernel = modules["COLL"].get_function("coll")
    src = job.array((np.arange(n * elements) % 1000 + 1000 * me).astype("float32"), device="cuda")
    dst, ok = job.zeros(n * elements, "float32", device="cuda"), cp.zeros(1, "int32")
    at = [(np.arange(n * elements) % 1000 + 1000 * pe).astype("float32") for pe in range(n)]
    root = n - 1
    expected = {
        0: at[root][:elements],
        1: np.concatenate([a[:elements] for a in at]),
        2: np.concatenate([a[me * elements : (me + 1) * elements] for a in at]),
        3: np.sum([a[:elements] for a in at], axis=0),
        4: np.sum([a[:elements] for a in at[: me + 1]], axis=0),
        5: np.sum([np.zeros(elements, "float32")] + [a[:elements] for a in at[:me]], axis=0),
    }
    for call, result in expected.items():
        dst[...] = 0
        ok[...] = 0
        meet()
        kernel((1,), (256,), (call, WIDE[scope], dst, src, cp.uint64(elements), cp.int32(root), ok))
        meet()
        assert int(ok[0]) == 1 and (dst.get()[: result.size] == result).all(), call
        assert not dst[result.size :].any()
        meet()
    job.free(src)
    job.free(dst)


@pytest.mark.parametrize("scope", WIDE)
def test_packets(job, cp, modules, around, meet, scope):
    me, _, after, before = around
    kernel = modules["COLL"].get_function("packets")
    buffer = job.zeros(65_536 * 2 + 512, "uint8", align=128, device="cuda")
    ok = cp.zeros(1, "int32")
    for round, n in enumerate([1, 120, 121, 5000, 14_400, 65_536], start=1):
        source = cp.asarray((np.arange(n) % 200 + me).astype("uint8"))
        target = cp.zeros(n, "uint8")
        meet()
        kernel(
            (1,), (128,),
            (WIDE[scope], buffer, target, source, cp.uint64(n), cp.uint64(round), cp.int32(after), ok),
        )  # fmt: skip
        meet()
        assert int(ok[0]) == 1 and (target.get() == (np.arange(n) % 200 + before).astype("uint8")).all(), n
    job.free(buffer)


def test_raw_kernel_takes_a_stream_and_attributes(job, cp, device, around, meet):
    me, n, _, _ = around
    kernel = device.RawKernel(
        "#include <shmem_device.h>\n"
        'extern "C" __global__ void who(int *out) { out[0] = shmem::my_pe(); out[1] = shmem::n_pes(); }',
        "who",
    )
    out, stream = cp.zeros(2, "int32"), cp.cuda.Stream()
    meet()
    kernel((1,), (1,), (out,), stream=stream)
    stream.synchronize()
    assert out.get().tolist() == [me, n] and kernel.num_regs > 0
