"""What `pyshmem doctor --gpu` measures (docs/porting.md), one item after the other, in a process of its own,
which may die of it.

    python -m pyshmem.device.probe ITEM...

For each item a line of JSON before, {"begin": name}, and one after with what was found. Kernels end by
themselves after a wait of two seconds, whatever happens.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from . import probe_litmus as litmus
from .probe_driver import (
    BAD,
    NATIVE_ATOMICS,
    NONE,
    OK,
    WARN,
    DriverError,
    Pinned,
    Result,
    driver,
    kernels,
    left,
    new_left,
    run,
)

__all__ = ["ITEMS", "main"]

_PORTABLE_MAPPED, _IO = 1 | 2, 4  # CU_MEMHOSTREGISTER_*
_DMABUF_FD = 1  # CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD
# CU_DEVICE_ATTRIBUTE_*
_MULTIPROCESSORS, _MAJOR, _MINOR, _HOST_ATOMICS, _SHARED = 16, 75, 76, 86, 97
_RDMA_VMM, _RDMA, _RDMA_FLUSH, _RDMA_ORDER, _STREAM_64, _DMABUF = 110, 116, 117, 118, 122, 124


# ---- what there is -----------------------------------------------------------------------------------------


def _device() -> Result:
    d, name, version = driver(), ctypes.create_string_buffer(64), ctypes.c_int()
    d.call("cuDeviceGetName", name, 64, d.device)
    d.call("cuDriverGetVersion", ctypes.byref(version))
    major, minor = d.attribute(_MAJOR), d.attribute(_MINOR)
    number = f"{version.value // 1000}.{version.value % 1000 // 10}"
    text = f"{name.value.decode()}, sm_{major}{minor}, {d.attribute(_MULTIPROCESSORS)} SMs"
    text += f", driver for CUDA {number}, {d.count()} device(s)"
    if major < 8:
        return WARN, text, "tested from compute capability 8.0 on", {}
    return OK, text, "", {}


def _compiler() -> Result:
    begin = time.perf_counter()
    kernels().get_function("k_store")
    seconds = time.perf_counter() - begin
    return OK, f"NVRTC, {seconds:.1f} s", "", {"seconds": seconds}


# ---- memory between processes and devices ------------------------------------------------------------------

_PAIR = """
import numpy as np, pyshmem as shmem
shmem.init()
me, n = shmem.my_pe(), 1 << 16
a = shmem.zeros(n, "int32", device="cuda")
shmem.barrier_all()
if me == 0:
    assert shmem.ptr(a, 1) is not None, "the other process's memory is not mapped"
    shmem.put(a, np.arange(n, dtype="int32"), 1)
shmem.barrier_all()
got = np.zeros(n, "int32")
shmem.get(got, a, me)
assert (got == (np.arange(n) if me else 0)).all(), "wrong bytes came"
if me == 0:
    heap = [line for line in shmem.info().splitlines() if line.startswith("heap")]
    print(heap[0].partition(":")[2].strip())
shmem.finalize()
"""


def _mapping() -> Result:
    from ..bench.launch import environment
    from ..bench.run import meeting_place

    place = meeting_place(seen_by_all=True)
    run = [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}\n{_PAIR}"]
    pair = []
    for rank in range(2):
        variables = {**environment(), **place, "RANK": str(rank), "WORLD_SIZE": "2", "SHMEM_BOOTSTRAP": "env",
                     "SHMEM_TIMEOUT": "20"}  # fmt: skip
        pair.append(
            subprocess.Popen(run, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    try:
        texts = [process.communicate(timeout=50) for process in pair]
    finally:
        for process in pair:
            process.kill()  # nothing where it has ended
    for process, (_, errors) in zip(pair, texts, strict=True):
        if process.returncode:
            why = (errors.strip().splitlines() or [f"status {process.returncode}"])[-1]
            return BAD, why, "SHMEM_DEVICE_SHARING=ipc is the other way to share; see docs, GPUs", {}
    return OK, f"2 processes, 256 KiB put and read back; {texts[0][0].strip()}", "", {}


def _peers() -> Result:
    d = driver()
    count = d.count()
    if count == 1:
        return NONE, "one GPU", "", {}
    access = atomics = 0
    value = ctypes.c_int()
    for a in range(count):
        for b in range(count):
            if a != b:
                d.call("cuDeviceCanAccessPeer", ctypes.byref(value), a, b)
                access += value.value
                atomics += d.link(NATIVE_ATOMICS, a, b)
    pairs = count * (count - 1)
    text = f"{access} of {pairs} pairs reach each other, {atomics} with native atomics (NVLink)"
    advice = "" if access == pairs else "kernels reach those GPUs through the host or a NIC only"
    return (OK if access == pairs else WARN), text, advice, {"access": access, "atomics": atomics}


# ---- memory shared with CPUs -------------------------------------------------------------------------------


def _pinned() -> Result:
    page = Pinned()
    page.words[1] = 0x1234
    if run("k_store", 1, 1, np.uint64(page.address)).late or page.words[0] != 0x1235:
        return BAD, f"a kernel's store of {0x1235:#x} is {int(page.words[0]):#x}", "", {}
    return OK, "load and store by a kernel, one address on both sides", "", {}


def _register(flags: int) -> tuple[str, int | None]:
    """What came of registering shared memory with these flags; the word that a kernel left there, if any."""
    d, memory = driver(), mmap.mmap(-1, 1 << 16)
    words = np.frombuffer(memory, np.uint64)
    words[1] = 0x1234
    host, device = ctypes.c_void_p(words.ctypes.data), ctypes.c_uint64()
    try:
        d.call("cuMemHostRegister_v2", host, ctypes.c_size_t(1 << 16), ctypes.c_uint(flags))
    except DriverError as error:
        return str(error), None
    try:
        d.call("cuMemHostGetDevicePointer_v2", ctypes.byref(device), host, 0)
        same = "the same address" if device.value == host.value else "another address"
        run("k_store", 1, 1, np.uint64(device.value))
        return same, int(words[0])
    except DriverError as error:
        return str(error), None
    finally:
        d.call("cuMemHostUnregister", host)


def _registered() -> Result:
    text, word = _register(_PORTABLE_MAPPED)
    if word != 0x1235:
        return BAD, text if word is None else f"a kernel's store does not arrive: {word:#x}", "", {}
    return OK, f"cuMemHostRegister, {text} on the GPU", "", {}


def _io_registered() -> Result:
    text, word = _register(_PORTABLE_MAPPED | _IO)
    if word == 0x1235:
        return OK, f"taken for ordinary memory too, {text}; for a NIC's page only a NIC shows it", "", {}
    found = f"refused for ordinary memory: {text}. Whether a NIC's page is taken only a NIC shows"
    advice = "for a NIC's page: root, or CAP_SYS_ADMIN, or NVreg_RegistryDwords=PeerMappingOverride=1"
    return WARN, found, advice, {}


def _release() -> Result:
    page, n = Pinned(), 2000
    import cupy

    own = cupy.zeros(16, "uint64")
    figures = {}
    for name, address in (("own", own.data.ptr), ("host", page.address)):
        found = run("k_release", 1, 1, np.uint64(address), np.int32(n))
        if found.late:
            return BAD, f"{n} releases take more than a second", "", {}
        figures[f"{name}_ns"] = found.ns / n
    text = f"{figures['own_ns']:.0f} ns after a store into own memory, "
    text += f"{figures['host_ns']:.0f} ns into host memory"
    return OK, text, "", figures


def _pingpong() -> Result:
    from .._core import ffi, lib
    from ..errors import check

    page, n, times = Pinned(), 1000, []
    words = ffi.cast("uint64_t *", page.address)
    import cupy

    k, out = kernels().get_function("k_ping"), new_left()
    for r in range(4):
        first = 1 + r * n
        k(
            (1,),
            (1,),
            (np.uint64(page.address), np.uint64(page.address + 2048), np.int32(n), np.uint64(first), out),
        )
        check(lib.shmemx_gpu_echo(words, words + 256, first, n, 2 * 10**9))
        cupy.cuda.runtime.deviceSynchronize()
        found = left(out)
        if found.late:
            return BAD, "the CPU's answers do not reach a running kernel", "", {}
        times.append(found.ns / n / 1e3)
    us = min(times[1:])
    text = f"{us:.2f} us for a store by the GPU, a store by the CPU, seen by the GPU"
    advice = "" if us < 10 else "is the process on the GPU's socket (numactl), and the CPU free?"
    return (OK if us < 10 else WARN), text, advice, {"us": us}


def _atomics() -> Result:
    from .._core import ffi, lib

    page, n, threads = Pinned(), 20_000, 64
    word = ffi.cast("uint64_t *", page.address)
    adder = threading.Thread(target=lib.shmemx_gpu_add, args=(word, n * threads))
    adder.start()
    adds = run("k_add", 1, threads, np.uint64(page.address), np.int32(n // 100))
    adder.join()
    wanted = n * threads + n // 100 * threads
    found = int(page.words[0])
    native = driver().attribute(_HOST_ATOMICS)
    figures = {"ns": adds.ns / (n // 100), "lost": float(wanted - found)}
    text = f"{threads} threads' and a CPU's additions to one word: {wanted - found} of {wanted} lost"
    text += f"; the driver says {'native' if native else 'not native'}"
    if found != wanted:
        return WARN, text, "the library does not rely on it: a word has atomics of one side only", figures
    return OK, text, "", figures


# ---- memory and NICs ---------------------------------------------------------------------------------------


def _dmabuf() -> Result:
    d, address, fd = driver(), ctypes.c_uint64(), ctypes.c_int(-1)
    said = d.attribute(_DMABUF)
    d.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(2 << 20))
    try:
        d.call(
            "cuMemGetHandleForAddressRange", ctypes.byref(fd), address, ctypes.c_size_t(2 << 20), _DMABUF_FD,
            ctypes.c_ulonglong(0),
        )  # fmt: skip
        os.close(fd.value)
    except DriverError as error:
        advice = "NVIDIA's open kernel modules and Linux 5.12 or newer; else modprobe nvidia_peermem. "
        advice += "Without either, other hosts' GPU memory is reached over ucx, which copies by the driver"
        return NONE, f"{error}; the attribute says {said}", advice, {}
    finally:
        d.call("cuMemFree_v2", address)
    return OK, f"2 MiB exported; the attribute says {said}", "", {}


def _rdma() -> Result:
    d = driver()
    order = {0: "none", 100: "owner", 200: "all devices"}.get(d.attribute(_RDMA_ORDER), "unknown")
    flush = {0: "not", 1: "by the host", 2: "by stream operations", 3: "by host and stream operations"}
    text = f"supported {d.attribute(_RDMA)}, of chunked memory {d.attribute(_RDMA_VMM)}; "
    text += f"writes are in order for: {order}; flushed {flush.get(d.attribute(_RDMA_FLUSH), 'unknown')}"
    return (OK if d.attribute(_RDMA) else NONE), text, "", {"ordering": d.attribute(_RDMA_ORDER)}


def _peermem() -> Result:
    if Path("/sys/module/nvidia_peermem").exists():
        return OK, "loaded", "", {}
    return NONE, "not loaded", "not needed where dmabuf works", {}


# ---- streams, and kernels that wait ------------------------------------------------------------------------


def _stream_ops() -> Result:
    import cupy

    d, page, n = driver(), Pinned(), 200
    stream = cupy.cuda.Stream(non_blocking=True)
    handle, address = ctypes.c_void_p(stream.ptr), page.address
    begin = time.perf_counter()
    for i in range(1, n + 1):
        value = ctypes.c_uint64(i)
        d.call("cuStreamWriteValue64_v2", handle, ctypes.c_uint64(address), value, 0)
        d.call("cuStreamWaitValue64_v2", handle, ctypes.c_uint64(address), value, 0)
    stream.synchronize()
    us = 1e6 * (time.perf_counter() - begin) / n
    if page.words[0] != n:
        return BAD, f"the last value is {int(page.words[0])}, not {n}", "", {}
    text = f"write and wait of 8 bytes in host memory, {us:.1f} us the two"
    text += f"; the attribute says {d.attribute(_STREAM_64)}"
    return OK, text, "", {"us": us}


def _meet() -> Result:
    import cupy

    blocks, n = driver().attribute(_MULTIPROCESSORS), 200
    counter = cupy.zeros(1, "uint64")
    found = run("k_meet", blocks, 128, counter, np.int32(n))
    if found.late:
        text = f"{blocks} blocks, one an SM, do not all run at once"
        return BAD, text, "does another process use the GPU?", {}
    us = found.ns / n / 1e3
    return OK, f"{blocks} blocks, one an SM, meet in {us:.2f} us", "", {"us": us}


def _warp() -> Result:
    late, starved = (run("k_warp", 1, 32, np.int32(naps)).late for naps in (1, 0))
    if late:
        return BAD, "a thread that waits for another one of its warp keeps it from running", "", {}
    if starved:
        return OK, "a thread that waits keeps the others of its warp from running, unless it naps", "", {}
    return OK, "each thread of a warp goes on by itself", "", {}


def _beside() -> Result:
    import cupy

    flags, out = cupy.zeros(2, "uint64"), new_left()
    waits, sets = cupy.cuda.Stream(non_blocking=True), cupy.cuda.Stream(non_blocking=True)
    wait, release = kernels().get_function("k_wait"), kernels().get_function("k_set")
    for flag, order in ((flags[:1], (sets, waits)), (flags[1:], (waits, sets))):
        # First in the order that never waits: loading a kernel may wait for those that run.
        cupy.cuda.runtime.deviceSynchronize()
        for stream in order:
            with stream:
                if stream is waits:
                    wait((1,), (1,), (flag, out))
                else:
                    release((1,), (1,), (flag,))
    cupy.cuda.runtime.deviceSynchronize()
    if left(out).late:
        text = "a kernel that waits keeps another stream's from running"
        return BAD, text, "CUDA_LAUNCH_BLOCKING is unset?", {}
    return OK, "a kernel on one stream ends one that waits on another", "", {}


def _groups() -> Result:
    found = run("k_groups", 8, 256)
    if found.first or found.second or found.third:
        text = f"{found.first} threads are in a wrong group of a whole warp or have a wrong vote or shuffle, "
        text += f"{found.second} are in a wrong group of a branch"
        text += ", whose groups have other sizes than members" if found.third else ""
        return BAD, text, "", {}
    return OK, "of whole warps and of branches, by key; votes and shuffles", "", {}


def _copies() -> Result:
    """In a chain over two streams, each behind the other's event: a kernel that takes its time; copies to a
    peer (the GPU itself if there is none), to the host in rows, and back; a kernel that looks."""
    import cupy

    n, rounds, row = 512, 100, 256
    copy, rows = cupy.cuda.runtime.memcpyAsync, cupy.cuda.runtime.memcpy2DAsync
    default = cupy.cuda.runtime.memcpyDefault
    peer = (*litmus.pairs(), (0, 0))[0][1]
    own, back, far = (litmus.memory(device, n) for device in (0, 0, peer))
    page, out = Pinned(2 * n), new_left()
    slow, compare = kernels().get_function("k_slow"), kernels().get_function("k_compare")
    works, copies = cupy.cuda.Stream(non_blocking=True), cupy.cuda.Stream(non_blocking=True)
    for device in {0, peer}:
        with cupy.cuda.Device(device):
            cupy.cuda.runtime.deviceSynchronize()
    begin = time.perf_counter()
    for i in range(1, rounds + 1):
        with works:
            slow((1,), (n,), (own, np.uint64(i), np.uint64(20_000)))
        copies.wait_event(works.record())
        copy(far.data.ptr, own.data.ptr, 8 * n, default, copies.ptr)
        rows(page.address, 2 * row, far.data.ptr, row, row, 8 * n // row, default, copies.ptr)
        rows(back.data.ptr, row, page.address, 2 * row, row, 8 * n // row, default, copies.ptr)
        works.wait_event(copies.record())
        with works:
            compare((1,), (n,), (back, np.uint64(i), out))
    works.synchronize()
    us = 1e6 * (time.perf_counter() - begin) / rounds
    found = left(out)
    if found.first:
        text = f"{found.first} of {n * rounds} words were not copied between two events"
        return BAD, f"{text} ({found.found} where {found.wanted} was due)", "", {}
    most = driver().attribute(_SHARED)
    shared = min(most, 200 << 10)
    found = run("k_shared", 1, 256, np.int32(shared // 4), shared=shared)
    if found.first:
        return BAD, f"{found.first} words of {shared} bytes of shared memory are wrong", "", {}
    text = f"{rounds} times kernel, event, copies {'by a peer, ' if peer else ''}by the host, event, kernel: "
    text += f"in order, {us:.0f} us; a kernel with {shared >> 10} KiB of shared memory, {most >> 10} at most"
    return OK, text, "", {"us": us, "shared": most}


ITEMS: dict[str, tuple[str, Callable[[], Result]]] = {
    "device": ("all", _device),
    "compiler for kernels": ("kernels from Python", _compiler),
    "mapping between processes": ("p2p", _mapping),
    "peer access between GPUs": ("p2p", _peers),
    "message passing between GPUs": ("p2p", litmus.messages_between),
    "atomics between GPUs": ("p2p", litmus.atomics_between),
    "whole lines": ("p2p", litmus.lines),
    "release at system scope": ("p2p, proxy, ibgda", _release),
    "message passing within a GPU": ("p2p, proxy, ibgda", litmus.messages_within),
    "atomics of its own memory": ("p2p, proxy, ibgda", litmus.atomics_own),
    "groups of threads": ("p2p, proxy, ibgda", _groups),
    "threads of a warp wait": ("p2p, proxy, ibgda", _warp),
    "blocks wait for each other": ("p2p, proxy, ibgda", _meet),
    "kernels side by side": ("p2p, hooks", _beside),
    "pinned host memory": ("proxy, errors of kernels", _pinned),
    "message passing with a CPU": ("proxy, errors of kernels", litmus.messages_with_cpu),
    "host memory registered": ("proxy, ibgda on the software NIC", _registered),
    "GPU-CPU-GPU ping-pong": ("proxy", _pingpong),
    "atomics with a CPU": ("nothing", _atomics),
    "I/O memory registered": ("ibgda", _io_registered),
    "dmabuf export": ("proxy over verbs, ibgda", _dmabuf),
    "GPUDirect RDMA": ("proxy over verbs, ibgda", _rdma),
    "nvidia_peermem": ("the same, without dmabuf", _peermem),
    "stream memory operations": ("proxy over cuda, ucx", _stream_ops),
    "copies, events, launches": ("calls on streams", _copies),
    "bulk copies": ("nothing: faster where there", litmus.bulk),
}
"""By name: the paths that need it, and what measures it. docs/porting.md has a row for each."""


def main() -> None:
    """Measures the items that the command line names."""
    for name in sys.argv[1:]:
        print(json.dumps({"begin": name}), flush=True)
        spoilt = False
        try:
            state, found, advice, figures = ITEMS[name][1]()
        except ImportError as error:
            state, found, figures = NONE, f"not measured: {error}", {}
            advice = "pip install 'sushmem[cuda13]', or 'sushmem[cuda12]'"
        except Exception as error:  # whatever a driver or compiler raises is what was found
            state, found, advice, figures = BAD, f"{type(error).__name__}: {error}", "", {}
            spoilt = True
        row = {"name": name, "state": state, "found": found, "advice": advice, "figures": figures}
        print(json.dumps(row), flush=True)
        if spoilt:
            return  # the context may be: the caller starts another process for the rest


if __name__ == "__main__":
    main()
