"""What goes wrong on the way through a NIC, from GPU kernels: the kernel ends, its quiet says false, the host
has the cause within the deadline, and the job ends as any other. Jobs of two PEs, whose nodes SHMEM_NODE_ID
makes of one machine; faults are the software NIC's (SHMEM_SIM_FAULTS)."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("gpu_kernels", Path(__file__).parent / "kernels.py")
assert _spec is not None and _spec.loader is not None
sources = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sources)

pytestmark = pytest.mark.npes(1)

PROXY = {"SHMEM_GPU_NIC": "proxy"}
IBGDA = {"SHMEM_GPU_NIC": "ibgda", "SHMEM_IBVERBS_LIB": "sim", "SHMEM_IBGDA_QPS": "1"}

# PE 0 posts and waits, some rounds; `cure`: afterwards both make the queue pairs anew, and it works again.
CODE = """
import time
import cupy as cp, pyshmem as shmem
from pyshmem import device

me = shmem.my_pe()
a, failed = shmem.zeros(4096, "uint8", device="cuda"), cp.zeros(1, "int32")
kernel = device.RawKernel(SOURCE, "posts")
shmem.barrier_all()

def posts(far, nbytes, rounds):
    there = cp.uint64(a.data.ptr + far)
    kernel((1,), (1,), (there, a, cp.uint64(nbytes), cp.int32(rounds), cp.int32(1), failed))
    cp.cuda.runtime.deviceSynchronize()

start = time.monotonic()
if me == 0:
    try:
        posts(FAR, NBYTES, 20)
        device.check()
        print("no error", flush=True)
    except Exception as error:
        print(f"{type(error).__name__}: {error}", flush=True)
    assert int(failed[0]) > 0, "quiet was well"
    print(f"after {time.monotonic() - start:.1f} s", flush=True)
if CURE:
    shmem.barrier_all()
    device.recover()
    failed[...] = 0
    if me == 0:
        posts(0, 64, 20)
        device.check()
        assert int(failed[0]) == 0
    shmem.barrier_all()
shmem.finalize()
print(f"PE {me} done", flush=True)
"""
DEAF = "(PeerDeadError|SystemError): .*(retries exceeded|flushed)"
ACCESS = "SystemError: .*the NIC: (remote access error|flushed)"

# name: path, faults, offset, bytes, what the host says, whether it works again
CASES = {
    "beyond the heap, proxy": (PROXY, "", 1 << 38, 64, "AddressError: .*not allocated", True),
    "beyond the heap, ibgda": (IBGDA, "", 1 << 38, 64, ACCESS, True),
    "oversized, proxy": (PROXY, "", 0, 1 << 62, "AddressError", True),
    "oversized, ibgda": (IBGDA, "", 0, 1 << 62, "AddressError", True),
    "refused by the NIC": (IBGDA, "nak=5", 0, 64, "SystemError: .*(remote operation error|flushed)", True),
    "a NIC that stands still": (IBGDA, "stall=5", 0, 64, "TimeoutError", False),
    "a peer that does not answer": (IBGDA, "deaf=5,retry_ms=300", 0, 64, DEAF, False),
}


@pytest.mark.parametrize("name", CASES)
def test_the_host_has_the_cause(run_pes, name):
    path, faults, far, nbytes, words, cure = CASES[name]
    code = CODE.replace("FAR", str(far)).replace("NBYTES", str(nbytes))
    code = code.replace("CURE", str(cure and path is IBGDA)).replace("SOURCE", repr(sources.ERRORS))
    env = {"SHMEM_NODE_ID": "/1", "SHMEM_TIMEOUT": "5", "CUDA_MODULE_LOADING": "EAGER", **path}
    ran = run_pes(2, code, timeout=120, SHMEM_SIM_FAULTS=faults, **env)
    text = ran.stdout + ran.stderr
    assert ran.returncode == 0 and re.search(words, ran.stdout), text
    assert "PE 0 done" in ran.stdout and "PE 1 done" in ran.stdout, text
    after = re.search(r"after ([0-9.]+) s", ran.stdout)
    assert after and float(after[1]) < 30, text
