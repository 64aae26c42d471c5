"""NCCL's collectives through torch.distributed: one process of the job that gpu_peers starts."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from .gpu_plan import Plan

__all__ = ["main"]

# Clock cycles of torch.cuda._sleep, for a GPU of some 1.8 GHz; how long it holds the stream is not critical.
_CYCLES_PER_US = 1800


def _samples(p: Plan, torch: Any, call: Callable[[], Any], calls: int) -> list[float]:
    """As gpu.py's: held, met, and then timed on the stream; nanoseconds of a call."""
    dist, meeting = torch.distributed, torch.zeros(1, device="cuda")
    found = []
    for r in range(p.warm + p.rounds):
        dist.barrier()
        torch.cuda.synchronize()
        torch.cuda._sleep(p.hold_us * _CYCLES_PER_US)
        dist.all_reduce(meeting)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(calls):
            call()
        end.record()
        torch.cuda.synchronize()
        if r >= p.warm:
            found.append(1e6 * begin.elapsed_time(end) / calls)
    return found


def main() -> None:
    """RANK and WORLD_SIZE say who this is; the argument is the plan. PE 0 prints a line a figure."""
    import torch
    import torch.distributed as dist

    p = Plan(**json.loads(sys.argv[1]))
    rank, n = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.cuda.set_device(rank)
    dist.init_process_group("nccl", device_id=torch.device("cuda", rank))

    def say(group: str, op: str, nbytes: int, call: Callable[[], Any]) -> None:
        samples = _samples(p, torch, call, p.calls(nbytes))
        if rank == 0:
            line = {"group": group, "op": op, "nbytes": nbytes, "unit": "ns", "samples": samples}
            print(json.dumps(line), flush=True)

    for nbytes in p.collective_bytes:
        part, count = p.part(nbytes, n), nbytes // 4
        source, target = (torch.zeros(max(count, n * part), device="cuda") for _ in range(2))
        to = target[: n * part]
        operations: dict[str, Callable[[], Any]] = {
            "alltoall_on_stream": partial(dist.all_to_all_single, to, source[: n * part]),
            "fcollect_on_stream": partial(dist.all_gather_into_tensor, to, source[:part]),
            "sum_reduce_on_stream": partial(dist.all_reduce, source[:count]),
        }
        for op, call in operations.items():
            say("collectives", op, nbytes, call)
    for name in ("float32", "bfloat16"):
        for nbytes in p.quant_bytes:
            x = torch.zeros(nbytes, dtype=torch.uint8, device="cuda").view(getattr(torch, name))
            say("quant", f"sum_{name}", nbytes, partial(dist.all_reduce, x))
    dist.destroy_process_group()
