"""Sizes and numbers of SMs of the large-batch calls."""

from __future__ import annotations

__all__ = ["Config", "low_latency_bytes"]

_TOKENS = 4096  # that a rank is taken to send at a time
_POOL = 4  # results that may be read in place


class Config:
    """How a dispatch or combine runs. Only `num_sms` matters here: thread blocks, one an SM. The others are
    the chunks of DeepEP's queues, which there are none of."""

    def __init__(
        self,
        num_sms: int = 20,
        num_max_nvl_chunked_send_tokens: int = 6,
        num_max_nvl_chunked_recv_tokens: int = 256,
        num_max_rdma_chunked_send_tokens: int = 6,
        num_max_rdma_chunked_recv_tokens: int = 256,
    ) -> None:
        if num_sms < 1:
            raise ValueError(f"Config: num_sms is {num_sms}, must be at least 1")
        self.num_sms = num_sms
        self.num_max_nvl_chunked_send_tokens = num_max_nvl_chunked_send_tokens
        self.num_max_nvl_chunked_recv_tokens = num_max_nvl_chunked_recv_tokens
        self.num_max_rdma_chunked_send_tokens = num_max_rdma_chunked_send_tokens
        self.num_max_rdma_chunked_recv_tokens = num_max_rdma_chunked_recv_tokens

    def __repr__(self) -> str:
        return f"Config(num_sms={self.num_sms})"

    def get_nvl_buffer_size_hint(self, hidden_bytes: int, num_ranks: int) -> int:
        """Bytes with which four dispatches of up to 4,096 tokens a rank, `hidden_bytes` each, are read in
        place."""
        _check(hidden_bytes, num_ranks)
        return _POOL * _TOKENS * min(num_ranks, 8) * (hidden_bytes + 512)

    def get_rdma_buffer_size_hint(self, hidden_bytes: int, num_ranks: int) -> int:
        """0: no NIC takes part on one node."""
        _check(hidden_bytes, num_ranks)
        return 0


def _check(hidden_bytes: int, num_ranks: int) -> None:
    if hidden_bytes < 1 or num_ranks < 1:
        raise ValueError(f"size hint: hidden_bytes {hidden_bytes} and num_ranks {num_ranks} must be positive")


def low_latency_bytes(tokens: int, hidden: int, ranks: int, experts: int) -> int:
    """Bytes of the GPU heap that low-latency calls of these sizes take, in BF16, top-k up to 32."""
    if min(tokens, hidden, ranks, experts) < 1:
        raise ValueError(
            f"size hint: tokens {tokens}, hidden {hidden}, ranks {ranks} and experts {experts} must be "
            "positive"
        )
    row = 2 * hidden + 8 * 32 + hidden // 32 * 4
    wire = (2 * row + 4 * 32 + 3 * 480) * 512 // 480  # out, back and weights, in lines of 128 bytes
    counts = (4 * experts // ranks + tokens // 8 + 512) * 2
    return 2 * ranks * (tokens * wire + counts) + (1 << 20)
