"""ExpertParallel where PEs are not mapped: what arrives over each path of a NIC equals, bit by bit, what
arrives where all is mapped. Jobs of their own, whose nodes SHMEM_NODE_ID makes of one machine's GPUs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.npes(1)

PATHS = {
    "proxy": {"SHMEM_GPU_NIC": "proxy"},
    "ibgda": {"SHMEM_GPU_NIC": "ibgda", "SHMEM_IBVERBS_LIB": "sim"},
}

# Every PE prints digests of all that comes to it, in lines that are the same whichever way it came.
CODE = """
import hashlib
import torch
import pyshmem as shmem
from pyshmem import device
from pyshmem.moe import ExpertParallel

me = shmem.my_pe()
torch.cuda.set_device(me % torch.cuda.device_count())
T, H, E, K = 96, 1024, 16, 4
lines = []

def say(name, *arrays):
    torch.cuda.synchronize()  # no copy to the host stands behind a kernel that waits for the software NIC
    bits = b"".join(a.contiguous().view(torch.uint8).cpu().numpy().tobytes() for a in arrays if a is not None)
    lines.append(f"PE {me} {name} {hashlib.sha256(bits).hexdigest()[:16]}")

with ExpertParallel(E, H, K, T, device="cuda", pes_per_node=EACH) as ep:
    for round in range(3):
        rng = torch.Generator().manual_seed(100 * round + me)
        tokens = T - 7 * me * (round % 2)
        x = torch.randn(tokens, H, generator=rng).bfloat16().cuda()
        weights, idx = (a.cuda() for a in torch.randn(tokens, E, generator=rng).softmax(1).topk(K))
        for quant in ("none", "int8", "fp8"):
            got = ep.dispatch(x, idx, weights, quant=quant, quantized=quant != "none")
            tables = got.topk_idx, got.topk_weights, got.source_token, got.tokens_per_source
            say(f"{round} {quant}", got.recv_x, got.scales, *tables)
        got = ep.dispatch(x, idx, weights)
        y = got.recv_x.clone()
        say(f"{round} sum", ep.combine(y, got))
        say(f"{round} int8", ep.combine(y, got, quant="int8"))
        say(f"{round} weighted", *ep.combine(y, got, weighted=True, topk_weights=got.topk_weights))
        say(f"{round} cached", ep.dispatch(x * 2, routing=got).recv_x)
    device.synchronize(torch.cuda.current_stream())
print("\\n".join(lines))
"""


def digests(done: Any) -> list[str]:
    assert done.returncode == 0, done.stderr
    return sorted(line for line in done.stdout.splitlines() if line.startswith("PE "))


@pytest.mark.parametrize("each", [1, 2])
@pytest.mark.parametrize("path", PATHS)
def test_as_where_all_is_mapped(run_pes: Callable[..., Any], path: str, each: int) -> None:
    n = 2 * each
    if torch.cuda.device_count() < n:
        pytest.skip(f"{n} GPUs are needed")
    code = CODE.replace("EACH", str(each))
    mapped = digests(run_pes(n, code, timeout=300, SHMEM_TIMEOUT="60"))
    assert len(mapped) == n * 3 * 7
    nodes = {"SHMEM_NODE_ID": f"/{each}", "SHMEM_TIMEOUT": "60", **PATHS[path]}
    assert digests(run_pes(n, code, timeout=300, **nodes)) == mapped


@pytest.mark.parametrize("path", PATHS)
def test_a_rank_that_does_not_come(run_pes: Callable[..., Any], path: str) -> None:
    """The other's kernel ends, and its host says whom it waited for."""
    if torch.cuda.device_count() < 2:
        pytest.skip("2 GPUs are needed")
    code = """
import os, time
import torch
import pyshmem as shmem
from pyshmem import device
from pyshmem.moe import ExpertParallel

me = shmem.my_pe()
torch.cuda.set_device(me)
ep = ExpertParallel(8, 256, 2, 32, device="cuda")
x = torch.ones(32, 256, dtype=torch.bfloat16, device="cuda")
idx = torch.arange(64, device="cuda").view(32, 2) % 8
ep.dispatch(x, idx)
torch.cuda.synchronize()
shmem.barrier_all()
if me == 1:
    time.sleep(9)
    os._exit(0)
try:
    ep.dispatch(x, idx, sync=False)
    device.synchronize(torch.cuda.current_stream())
    print("nothing was said", flush=True)
except shmem.ShmemError as error:
    print("ended:", error, flush=True)
time.sleep(5)
os._exit(0)
"""
    nodes = {"SHMEM_NODE_ID": "/1", "SHMEM_TIMEOUT": "5", **PATHS[path]}
    out = run_pes(2, code, timeout=120, **nodes).stdout
    assert "ended:" in out and "PE 1" in out, out
