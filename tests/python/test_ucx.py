"""UCX beside MPI: both in one process with one copy of the library, whichever comes or ends first."""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Callable

import pytest

import pyshmem

RunPes = Callable[..., "subprocess.CompletedProcess[str]"]
pytestmark = [
    pytest.mark.npes(1),
    pytest.mark.skipif(importlib.util.find_spec("mpi4py") is None, reason="no mpi4py"),
    pytest.mark.skipif("transport ucx: available" not in pyshmem.info(), reason="no libucp.so.0"),
]

CODE = """
import numpy as np
def start_mpi():
    global MPI
    from mpi4py import MPI
def start_shmem():
    global shmem
    import pyshmem as shmem
    shmem.init()
for start in ORDER:
    globals()["start_" + start]()
world, me, n = MPI.COMM_WORLD, shmem.my_pe(), shmem.n_pes()
counter, row = shmem.zeros(1, dtype=np.int64), shmem.zeros(1000)
for i in range(20):
    shmem.atomic_add(counter, 1, (me + 1) % n)
    shmem.put(row, np.full(1000, float(i)), (me + 1) % n)
    assert world.allreduce(i) == i * n
    got = world.sendrecv(b"x" * 10000, dest=(me + 1) % n, source=(me - 1) % n)
    shmem.barrier_all()
    assert len(got) == 10000 and counter[0] == i + 1 and (row == i).all()
    shmem.barrier_all()
with open("/proc/self/maps") as maps:
    print("copies", len({line.split()[-1] for line in maps if "libucp.so" in line}))
for end in ORDER:
    shmem.finalize() if end == "mpi" else MPI.Finalize()
"""
# What MPI itself sends by; its own UCX is taken only where there is an RDMA device unless told so.
BY = {
    "its own": {},
    "UCX": {
        "OMPI_MCA_pml": "ucx",
        "OMPI_MCA_opal_common_ucx_tls": "any",
        "OMPI_MCA_opal_common_ucx_devices": "any",
    },
}


@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize("order", [("mpi", "shmem"), ("shmem", "mpi")])
def test_mpi_and_ucx_in_one_process(run_pes: RunPes, order: tuple[str, str], by: str) -> None:
    done = run_pes(
        2, f"ORDER = {order}\n{CODE}", SHMEM_NODE_ID="/1", SHMEM_TRANSPORTS="shm,ucx", SHMEM_TIMEOUT="30",
        UCX_TLS="tcp,self", **BY[by],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["copies", "1"] * 2, done.stdout
