"""What dispatch and combine would be on NCCL: all_to_all_single of rows, a gather before and a sum behind it.

    torchrun --nproc-per-node 4 -m pyshmem.bench.peer_nccl_moe [plan as JSON]

One copy of a token for each rank, as ours. How many rows go where is known before the clock starts, as in a
cached dispatch: finding it out is not measured. FP8 rows are made before, too; their scales travel in a
second call. The figures have the names of gpu_moe.py; how many SMs are taken is NCCL's choice.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

from .moe_load import MoePlan, Shape, Timing, fp8_rows, medians, moe_plan, plan_from, row_bytes, workload

__all__ = ["main"]


class _Routes:
    """Who sends which of its tokens to whom."""

    def __init__(self, torch: Any, shape: Shape, rank: int, n: int) -> None:
        self.torch, self.shape = torch, shape
        each = [workload(torch, shape, r)[1] // (shape.experts // n) for r in range(n)]
        hit = torch.zeros(n, shape.tokens, n, dtype=torch.bool, device="cuda")  # [from][token][to]
        for r, owner in enumerate(each):
            hit[r].scatter_(1, owner, True)
        counts = hit.sum(1)
        self.out, self.back = counts[rank].tolist(), counts[:, rank].tolist()
        self.tokens = torch.cat([hit[rank][:, to].nonzero().flatten() for to in range(n)])
        self.remote = sum(self.out) - self.out[rank]

    def dispatch(self, rows: Any) -> Any:
        """The rows of others that come here, by rank."""
        packed = rows.index_select(0, self.tokens)
        got = rows.new_empty((sum(self.back), rows.shape[1]))
        self.torch.distributed.all_to_all_single(got, packed, self.back, self.out)
        return got

    def combine(self, y: Any) -> Any:
        """The sum of each token's rows, in float32."""
        home = y.new_empty((sum(self.out), y.shape[1]))
        self.torch.distributed.all_to_all_single(home, y, self.out, self.back)
        total = self.torch.zeros(self.shape.tokens, y.shape[1], dtype=self.torch.float32, device="cuda")
        return total.index_add_(0, self.tokens, home.float()).to(y.dtype)


class _Nccl:
    def __init__(self, plan: MoePlan, torch: Any, rank: int, n: int, for_bench: bool) -> None:
        self.plan, self.torch, self.rank, self.n, self.for_bench = plan, torch, rank, n, for_bench

    def say(self, op: str, us: list[float], nbytes: int, shape: Shape) -> None:
        if self.rank == 0:
            timing = Timing(op, us, nbytes, shape)
            line = timing.figure() if self.for_bench else {"peer": "nccl", **timing.line(self.n)}
            print(json.dumps(line), flush=True)

    def one(self, op: str, call: Callable[[], Any], nbytes: int, shape: Shape, calls: int = 1) -> None:
        def step(mark: Callable[[], None]) -> None:
            call()
            mark()

        us = medians(self.torch, self.torch.distributed.barrier, step, ("call",), self.plan)["call"]
        self.say(op, [t / calls for t in us], nbytes, shape)

    def normal(self) -> None:
        torch, shape = self.torch, self.plan.large
        x, _, _ = workload(torch, shape, self.rank)
        routes = _Routes(torch, shape, self.rank, self.n)
        bf16, fp8 = (routes.remote * row_bytes(kind, shape.hidden) for kind in ("bf16", "fp8"))
        self.one("normal_dispatch_cached_bf16", lambda: routes.dispatch(x), bf16, shape)
        rows, scales = fp8_rows(torch, x)
        rows = rows.view(torch.uint8)
        self.one(
            "normal_dispatch_cached_fp8", lambda: (routes.dispatch(rows), routes.dispatch(scales)), fp8, shape
        )
        y = routes.dispatch(x)
        self.one("normal_combine_bf16", lambda: routes.combine(y), bf16, shape)

    def low_latency(self, shape: Shape) -> None:
        torch = self.torch
        x, _, _ = workload(torch, shape, self.rank)
        routes = _Routes(torch, shape, self.rank, self.n)
        nbytes = 2 * routes.remote * row_bytes("bf16", shape.hidden)
        routes.combine(routes.dispatch(x))
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(self.plan.pairs):
                routes.combine(routes.dispatch(x))
        self.one("ll_pair_graph_bf16_bf16", graph.replay, nbytes, shape, self.plan.pairs)


def main() -> None:
    """RANK, LOCAL_RANK and WORLD_SIZE say who this is. Rank 0 prints a line a figure."""
    import torch
    import torch.distributed as dist

    plan = plan_from(sys.argv[1]) if len(sys.argv) > 1 else moe_plan()
    device = int(os.environ["LOCAL_RANK"])
    torch.cuda.set_device(device)
    dist.init_process_group("nccl", device_id=torch.device("cuda", device))
    peer = _Nccl(plan, torch, dist.get_rank(), dist.get_world_size(), len(sys.argv) > 1)
    peer.normal()
    for shape in plan.small:
        peer.low_latency(shape)
    dist.barrier()
    sys.stdout.flush()
    os._exit(0)  # graphs hold the communicator, and NCCL waits for them in vain


if __name__ == "__main__":
    main()
