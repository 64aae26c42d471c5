"""GPU memory and GPU kernels.

    import cupy as cp
    import pyshmem as shmem
    from pyshmem import device

    a = shmem.zeros(1024, "float32", device="cuda")       # a cupy.ndarray over symmetric GPU memory
    t = device.torch(a)                                   # the same memory as a torch.Tensor
    shmem.put(a, cp.arange(1024, dtype="float32"), 1)     # host-started, from and to any kind of memory
    device.stream.put_on_stream(a, t, 1)                  # ordered by the current stream instead

    kernel = device.RawKernel(r'''
    #include <shmem_device.h>
    extern "C" __global__ void ring(float *to, const float *from, int n) {
        shmem::put(shmem::block, to, from, n, (shmem::my_pe() + 1) % shmem::n_pes());
        shmem::barrier(shmem::block);
    }''', "ring")
    kernel((1,), (256,), (a, a, 1024))
    device.synchronize()                                  # raises what the kernel has reported

Arrays. CuPy's arrays have no methods of ours, so what `pyshmem` does with an array takes it as argument:
`free`, `ptr`, `is_symmetric`, puts, gets, collectives. PyTorch tensors over the same memory serve as well.
The memory of an array that is dropped is given back as that of host arrays is, after all PEs have dropped it
and their kernels have ended. It is gone when the job is finalized: such an array must not be touched then.

Order. A host-started call first waits until the current stream (CuPy's for CuPy's arrays, torch's for
tensors) has done what it holds, because earlier work there may still write the source; symmetric targets and
signal words are not waited for. Work on other streams, and the peer's own use of the target, is the program's
to order. Where that wait is too dear, and in a captured graph, use `pyshmem.device.stream`.

In kernels: `RawModule` and `RawKernel` for CuPy, `pyshmem.device.numba` for Numba-CUDA, and
`pyshmem.device.triton` for Triton; each imports its package when it is imported itself.

The device of a PE is that of the current CUDA context at the first allocation from the GPU heap, else its
number on the node modulo devices; from then on it is the current device of the thread that allocated.
"""

from __future__ import annotations

from . import stream
from .arrays import torch
from .raw import Kernel, RawKernel, RawModule
from .state import check, include_dir, recover, synchronize

__all__ = [
    "Kernel",
    "RawKernel",
    "RawModule",
    "check",
    "include_dir",
    "recover",
    "stream",
    "synchronize",
    "torch",
]
