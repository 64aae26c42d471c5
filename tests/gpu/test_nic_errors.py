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
# What the hosts say to each other goes another way: the software NIC's faults count kernels' requests alone.
IBGDA |= {"SHMEM_TRANSPORTS": "shm,wire,cuda"}

# PE 0 posts and waits; `cure`: afterwards both make the queue pairs anew, and it works again.
CODE = """
import time
import cupy as cp, pyshmem as shmem
from pyshmem import device

me = shmem.my_pe()
a, failed = shmem.zeros(4096, "uint8", device="cuda"), cp.zeros(1, "int32")
big = shmem.zeros(256 << 20, "uint8", device="cuda")
there, freed = a.data.ptr, big.data.ptr
shmem.free(big)
module = device.RawModule(SOURCE)
kernels = {name: module.get_function(name) for name in ("posts", "wrong_key")}
shmem.barrier_all()

def run(name, at, nbytes, number):
    kernels[name]((1,), (1,), (cp.uint64(at), a, cp.uint64(nbytes), cp.int32(number), cp.int32(1), failed))
    cp.cuda.runtime.deviceSynchronize()

start = time.monotonic()
if me == 0:
    try:
        run(CALL)
        device.check()
        print("no error", flush=True)
    except Exception as error:
        print(f"{type(error).__name__}: {error}", flush=True)
    print(f"after {time.monotonic() - start:.1f} s {int(failed[0])} quiets have failed", flush=True)
else:
    time.sleep(PAUSE)  # then its wait for PE 0, as long as PE 0's kernel waits, ends behind that
if CURE:
    shmem.barrier_all()
    device.recover()
    failed[...] = 0
    if me == 0:
        run("posts", there, 64, 20)
        device.check()
        assert int(failed[0]) == 0
    shmem.barrier_all()
shmem.finalize()
print(f"PE {me} done", flush=True)
"""
DEAF = "PeerDeadError: .*retries exceeded"
ACCESS = "SystemError: .*remote access error"
LOCAL = "SystemError: .*local protection error"
NOT_THERE = "AddressError: .*not allocated"

# name: path, faults, what PE 0 runs, what the host says, whether queue pairs made anew are tried
CASES = {
    "beyond the heap, proxy": (PROXY, "", '"posts", there + (1 << 38), 64, 20', NOT_THERE, False),
    "beyond the heap, ibgda": (IBGDA, "", '"posts", there + (1 << 38), 64, 20', ACCESS, True),
    "freed memory, proxy": (PROXY, "", '"posts", freed + (128 << 20), 64, 20', NOT_THERE, False),
    "freed memory, ibgda": (IBGDA, "", '"posts", freed + (128 << 20), 64, 20', ACCESS, True),
    "oversized, proxy": (PROXY, "", '"posts", there, 1 << 62, 20', "AddressError", False),
    "oversized, ibgda": (IBGDA, "", '"posts", there, 1 << 62, 20', "AddressError", True),  # nothing is posted
    "a wrong key": (IBGDA, "", '"wrong_key", there, 64, 0', ACCESS, True),
    "a wrong local key": (IBGDA, "", '"wrong_key", there, 1024, 1', LOCAL, True),
    "refused by the NIC": (IBGDA, "nak=5", '"posts", there, 64, 20',
                           "SystemError: .*remote operation error", True),
    "a NIC that stands still": (IBGDA, "stall=5", '"posts", there, 64, 20', "TimeoutError", False),
    "a peer that does not answer": (IBGDA, "deaf=5,retry_ms=300", '"posts", there, 64, 20', DEAF, False),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_host_has_the_cause(run_pes, name):
    path, faults, call, words, cure = CASES[name]
    put_in = {"CALL": call, "CURE": cure, "PAUSE": 2 * ("stall" in faults)}
    code = re.sub("|".join(put_in), lambda found: str(put_in[found[0]]), CODE)
    code = code.replace("SOURCE", repr(sources.ERRORS))
    env = {"SHMEM_NODE_ID": "/1", "SHMEM_TIMEOUT": "5", "SHMEM_DEVICE_SYMMETRIC_SIZE": "1G", **path}
    env["CUDA_MODULE_LOADING"] = "EAGER"
    ran = run_pes(2, code, timeout=120, SHMEM_SIM_FAULTS=faults, **env)
    text = ran.stdout + ran.stderr
    assert ran.returncode == 0 and re.search(words, ran.stdout), text
    assert "PE 0 done" in ran.stdout and "PE 1 done" in ran.stdout, text
    after = re.search(r"after ([0-9.]+) s ([0-9]+) quiets", ran.stdout)
    assert after and float(after[1]) < 30, text
    assert (int(after[2]) > 0) == (name != "oversized, ibgda"), text
