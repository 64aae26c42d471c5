"""DeepEP V1's dispatch and combine: one process of the job that gpu_peers starts, or of torchrun.

    torchrun --nproc-per-node 4 -m pyshmem.bench.peer_deepep [plan as JSON]

The figures have the names of gpu_moe.py. FP8 rows are made before the clock starts in large batches, since
its dispatch takes them so, and on the way in small ones, as ours. Bytes are ours: one copy for each rank.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

from .moe_load import (
    MoePlan,
    Shape,
    Timing,
    fp8_rows,
    medians,
    moe_plan,
    overlap,
    plan_from,
    remote_rows,
    row_bytes,
    workload,
)  # fmt: skip

__all__ = ["main"]


class _DeepEP:
    def __init__(self, plan: MoePlan, torch: Any, deep_ep: Any, group: Any) -> None:
        self.plan, self.torch, self.deep_ep, self.group = plan, torch, deep_ep, group
        self.rank, self.n = group.rank(), group.size()
        self.for_bench = len(sys.argv) > 1  # gpu_peers reads the lines

    def say(self, op: str, us: list[float], nbytes: int, shape: Shape, sms: int = 0) -> None:
        if self.rank == 0:
            timing = Timing(op, us, nbytes, shape, sms)
            line = timing.figure() if self.for_bench else {"peer": "deepep-v1", **timing.line(self.n)}
            print(json.dumps(line), flush=True)

    def times(self, step: Callable[[Callable[[], None]], None], *phases: str) -> dict[str, list[float]]:
        return medians(self.torch, self.torch.distributed.barrier, step, phases, self.plan)

    def normal(self, sms: int) -> None:
        torch, shape = self.torch, self.plan.large
        self.deep_ep.Buffer.set_num_sms(sms)
        buffer = self.deep_ep.Buffer(self.group, int(2e9), 0)
        x, idx, weights = workload(torch, shape, self.rank)
        rows = remote_rows(torch, idx, shape.experts, self.n, self.rank, per_expert=False)
        for kind, payload in (("bf16", x), ("fp8", fp8_rows(torch, x))):
            nbytes = rows * row_bytes(kind, shape.hidden)
            layout = buffer.get_dispatch_layout(idx, shape.experts)
            keys = {
                "num_tokens_per_rank": layout[0], "num_tokens_per_rdma_rank": layout[1],
                "is_token_in_rank": layout[3], "num_tokens_per_expert": layout[2],
            }  # fmt: skip
            found = buffer.dispatch(payload, topk_idx=idx, topk_weights=weights, **keys)

            def fresh(mark: Callable[[], None], payload: Any = payload, keys: dict[str, Any] = keys) -> None:
                buffer.dispatch(payload, topk_idx=idx, topk_weights=weights, **keys)
                mark()

            def cached(mark: Callable[[], None], payload: Any = payload, found: Any = found) -> None:
                buffer.dispatch(payload, handle=found[4])
                mark()

            for name, step in (("", fresh), ("_cached", cached)):
                us = self.times(step, "dispatch")["dispatch"]
                self.say(f"normal_dispatch{name}_{kind}", us, nbytes, shape, sms)
            if kind == "bf16":
                y = found[0].clone()

                def back(mark: Callable[[], None], y: Any = y, found: Any = found) -> None:
                    buffer.combine(y, found[4])
                    mark()

                us = self.times(back, "combine")["combine"]
                self.say("normal_combine_bf16", us, nbytes, shape, sms)
                if sms == self.plan.sms[0]:

                    def pair(y: Any = y, found: Any = found) -> None:
                        buffer.dispatch(x, handle=found[4])
                        buffer.combine(y, found[4])

                    spans = overlap(torch, torch.distributed.barrier, pair, self.plan)
                    for name, us in spans.items():
                        self.say(
                            f"overlap_{name}", us, 2 * nbytes if name.startswith("pair") else 0, shape, sms
                        )

    def low_latency(self, shape: Shape) -> None:
        torch = self.torch
        size = self.deep_ep.Buffer.get_low_latency_rdma_size_hint(
            shape.tokens, shape.hidden, self.n, shape.experts
        )
        buffer = self.deep_ep.Buffer(
            self.group, 0, size, low_latency_mode=True, num_qps_per_rank=shape.experts // self.n
        )
        x, idx, weights = workload(torch, shape, self.rank)
        rows = remote_rows(torch, idx, shape.experts, self.n, self.rank, per_expert=False)
        home = rows * row_bytes("bf16", shape.hidden)
        y = torch.randn(
            shape.experts // self.n, self.n * shape.tokens, shape.hidden, device="cuda"
        ).bfloat16()
        for kind in ("bf16", "fp8"):
            there = rows * row_bytes(kind, shape.hidden)

            def step(mark: Callable[[], None], fp8: bool = kind == "fp8") -> None:
                found = buffer.low_latency_dispatch(x, idx, shape.tokens, shape.experts, use_fp8=fp8)
                mark()
                buffer.low_latency_combine(y, idx, weights, found[2])
                mark()

            us = self.times(step, "dispatch", "combine")
            self.say(f"ll_dispatch_{kind}", us["dispatch"], there, shape)
            self.say(f"ll_combine_bf16_after_{kind}", us["combine"], home, shape)
            self.torch.distributed.barrier()
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                for _ in range(self.plan.pairs):
                    step(lambda: None)

            def replay(mark: Callable[[], None], graph: Any = graph) -> None:
                graph.replay()
                mark()

            pairs = [t / self.plan.pairs for t in self.times(replay, "pairs")["pairs"]]
            self.say(f"ll_pair_graph_{kind}_bf16", pairs, there + home, shape)


def main() -> None:
    """RANK, LOCAL_RANK and WORLD_SIZE say who this is. Rank 0 prints a line a figure."""
    import deep_ep
    import torch
    import torch.distributed as dist

    plan = plan_from(sys.argv[1]) if len(sys.argv) > 1 else moe_plan()
    device = int(os.environ["LOCAL_RANK"])
    torch.cuda.set_device(device)
    dist.init_process_group("nccl", device_id=torch.device("cuda", device))
    peer = _DeepEP(plan, torch, deep_ep, dist.new_group(list(range(dist.get_world_size()))))
    for sms in plan.sms:
        peer.normal(sms)
    for shape in plan.small:
        peer.low_latency(shape)
    dist.barrier()
    sys.stdout.flush()
    os._exit(0)  # its NVSHMEM may not end by itself


if __name__ == "__main__":
    main()
