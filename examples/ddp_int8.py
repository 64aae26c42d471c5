"""PyTorch's DistributedDataParallel with gradients that travel as INT8; a feed-forward layer split over PEs.

    mpirun -n 2 python examples/ddp_int8.py
    mpirun -n 2 python examples/ddp_int8.py --device cuda

`quantized_hook` takes the place of DDP's all-reduce (`register_comm_hook`): pyshmem averages each bucket of
gradients, quantized between nodes and, as asked here, within one too. DDP itself needs a process group for
its start; gloo's is enough, no gradient goes through it. On GPUs the hook's call is ordered by the stream of
the backward pass, which goes on meanwhile. `column_parallel` and `row_parallel` are functions
for inference with tensor parallelism: the row-parallel one adds up its partial results in INT8.
"""

# No `from __future__ import annotations`: DDP looks at the hook's annotations, and wants types and not texts.
import argparse
import os
import socket
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import pyshmem as shmem
from pyshmem import quant


class Feedback:
    """What DDP hands to the hook: how to quantize, and what quantization left out of each bucket so far."""

    def __init__(self, fmt: quant.Format = "int8", group: int = 128, min_bytes: int | None = None) -> None:
        self.how: dict[str, Any] = {"fmt": fmt, "group": group, "min_bytes": min_bytes}
        self.residuals: dict[tuple[int, int], torch.Tensor] = {}

    def of(self, bucket: dist.GradBucket) -> torch.Tensor:
        key = (bucket.index(), bucket.buffer().numel())  # DDP deals out its buckets anew after the first step
        if key not in self.residuals:
            self.residuals[key] = torch.zeros(bucket.buffer().numel(), device=bucket.buffer().device)
        return self.residuals[key]


def quantized_hook(state: Feedback, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """A communication hook: the mean of the bucket over all PEs, in place."""
    gradients = bucket.buffer()
    quant.all_reduce(gradients, out=gradients, op="mean", residual=state.of(bucket), **state.how)
    on = (
        [gradients.device] if gradients.is_cuda else None
    )  # its result is there when the stream has come so far
    done: torch.futures.Future[torch.Tensor] = torch.futures.Future(devices=on)
    done.set_result(gradients)
    return done


def column_parallel(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """This PE's columns of the result: `weight` [out / PEs, in]. Nothing is sent."""
    return x @ weight.T


def row_parallel(x: torch.Tensor, weight: torch.Tensor, min_bytes: int | None = None) -> torch.Tensor:
    """x [tokens, in / PEs], `weight` [out, in / PEs]: the sum over the PEs, equal bits on all."""
    partial = (x @ weight.T).contiguous()
    result: torch.Tensor = quant.all_reduce(partial, out=partial, min_bytes=min_bytes)
    return result


def start_gloo() -> None:
    """A process group of the job's PEs; they agree on a port through pyshmem."""
    port = shmem.zeros(1, np.int64)
    if shmem.my_pe() == 0:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port[0] = s.getsockname()[1]
    shmem.broadcast(port, port, 0)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(int(port[0])))
    dist.init_process_group("gloo", rank=shmem.my_pe(), world_size=shmem.n_pes())


def train(hook: bool, device: str, steps: int = 60) -> float:
    """The last loss of a small regression, each PE with its share of the data."""
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(32, 256), torch.nn.GELU(), torch.nn.Linear(256, 1))
    model.to(device)
    ddp = DistributedDataParallel(model)
    if hook:
        ddp.register_comm_hook(Feedback(min_bytes=0), quantized_hook)
    optimizer = torch.optim.AdamW(ddp.parameters(), lr=3e-3)
    random = torch.Generator().manual_seed(2)
    loss = torch.zeros((), device=device)
    for _ in range(steps):
        x = torch.randn(256, 32, generator=random).to(device)
        y = torch.sin(x[:, :4].sum(dim=1, keepdim=True))
        mine = slice(shmem.my_pe(), None, shmem.n_pes())
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(ddp(x[mine]), y[mine])
        loss.backward()
        optimizer.step()
    mean: torch.Tensor = quant.all_reduce(loss.detach().reshape(1), op="mean", bits=32)
    return float(mean)


def tensor_parallel(device: str) -> float:
    """The largest error of a feed-forward layer split over the PEs, relative to its largest output."""
    me, n = shmem.my_pe(), shmem.n_pes()
    random = torch.Generator().manual_seed(3)
    x, inner = torch.randn(64, 128, generator=random), 64 * n
    up, down = torch.randn(inner, 128, generator=random), torch.randn(128, inner, generator=random)
    x, up, down = x.to(device), up.to(device), down.to(device)
    mine = slice(me * 64, (me + 1) * 64)
    split = row_parallel(torch.relu(column_parallel(x, up[mine])), down[:, mine], min_bytes=0)
    whole = torch.relu(x @ up.T) @ down.T
    return float((split - whole).abs().max() / whole.abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description="DDP with INT8 gradients, and a split layer")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    device = parser.parse_args().device
    torch.set_num_threads(1)
    if device == "cuda":
        shmem.free(shmem.zeros(1, device=device))  # opens the GPU heap and chooses this PE's GPU
    start_gloo()
    full, int8 = train(False, device), train(True, device)
    error = tensor_parallel(device)
    if shmem.my_pe() == 0:
        print(f"{shmem.n_pes()} PEs, loss with float32 gradients {full:.4f}, with INT8 gradients {int8:.4f}")
        print(f"tensor-parallel layer: largest error {error:.5f} of the largest output")
    dist.destroy_process_group()
    shmem.barrier_all()


if __name__ == "__main__":
    main()
