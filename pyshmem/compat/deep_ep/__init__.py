"""DeepEP V1's Python interface (up to 1.2) on libshmem, for the GPUs of one node. In place of its import:

    import pyshmem.compat.deep_ep as deep_ep

Names, argument order, shapes, dtypes and sentinels are DeepEP's. What differs:

- The processes of the group become a job of pyshmem, if there is none yet, whatever started them.
- Any hidden size that is a multiple of 8 (16 for 1-byte rows), top-k up to 32, any number of ranks up to 64;
  low latency: up to 1,024 tokens a rank.
- Nothing of `num_nvl_bytes` and `num_rdma_bytes` is allocated at once: memory comes with the first call of a
  shape. `num_nvl_bytes` decides how many dispatches may be read in place (`Buffer`).
- Low-latency results have memory of their own: any number of them may be held.
- Handles are opaque.
- Extensions: low_latency_dispatch(use_int8=True), low_latency_combine(combine_int8=True),
  combine(use_int8=True): INT8 with a float32 scale for 128 columns.
- LogFMT is not there: use_logfmt is ignored, with a warning. Cost statistics are left as they are.
"""

from __future__ import annotations

import torch

from . import utils
from .buffer import Buffer
from .config import Config
from .utils import EventHandle, EventOverlap

__all__ = ["Buffer", "Config", "EventHandle", "EventOverlap", "topk_idx_t", "utils"]

topk_idx_t = torch.int64
