"""What pyshmem is measured against: the same work, done well, with mpi4py. Used by `pyshmem bench` only.

MoE dispatch and combine over MPI: permute the rows by destination, exchange the counts, Alltoallv the rows,
and the same back with a weighted sum. All buffers are made once, copies go through `take(out=...)`, and no
loop runs over tokens: what a careful NumPy programmer would write.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["AlltoallvMoE"]

Array = npt.NDArray[Any]


class AlltoallvMoE:
    """Dispatch and combine of float32 rows by MPI Alltoallv.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
    num_experts, hidden, topk, max_tokens : int
        As in `pyshmem.moe.ExpertParallel`; num_experts must be divisible by the number of ranks here.
    per_choice : bool
        False: one row for each (token, rank), as pyshmem does, with its ids and weights beside it. True: one
        row for each choice, the usual permutation of MoE layers, which needs no ids at the receiver but moves
        more.
    """

    def __init__(
        self,
        comm: Any,
        num_experts: int,
        hidden: int,
        topk: int,
        max_tokens: int,
        *,
        per_choice: bool = False,
    ) -> None:
        from mpi4py import MPI

        self._comm, self._float, self._int = comm, MPI.FLOAT, MPI.INT32_T
        self.ranks = comm.Get_size()
        if num_experts % self.ranks:
            raise ValueError(f"{num_experts} experts on {self.ranks} ranks")
        self._each = num_experts // self.ranks
        self.hidden, self.topk, self.per_choice = hidden, topk, per_choice
        fan = topk if per_choice else min(topk, self.ranks)
        sent, received = max_tokens * fan, max_tokens * fan * self.ranks
        self._send = np.empty((sent, hidden), np.float32)
        self._back = np.empty((sent, hidden), np.float32)
        self._receive = np.empty((received, hidden), np.float32)
        self._weighted = np.empty((received, hidden), np.float32)
        self._part = np.empty((max_tokens, hidden), np.float32)
        # ids and the bits of weights travel as one message
        self._send_meta = np.empty((sent, 2 * topk), np.int32)
        self._receive_meta = np.empty((received, 2 * topk), np.int32)
        self._counts_out, self._counts_in = np.empty(self.ranks, np.int32), np.empty(self.ranks, np.int32)

    def dispatch(self, x: Array, topk_idx: Array, topk_weights: Array) -> tuple[Array, Array, Array]:
        """x float32 [T, H], topk_idx int64 [T, K], topk_weights float32 [T, K] -> the received rows [N,
        H], their local ids int32 [N, K] (-1 = elsewhere; per choice: [N, 1]) and weights float32 of the
        same shape."""
        owner = np.where(topk_idx >= 0, topk_idx // self._each, -1)
        if self.per_choice:
            kept = np.flatnonzero(owner >= 0)
            order = kept[np.argsort(owner.ravel()[kept], kind="stable")]
            self._tokens = order // self.topk
            self._counts_out[:] = np.bincount(owner.ravel()[kept], minlength=self.ranks)
            ids = (topk_idx.ravel()[order] % self._each)[:, None]
            weights = topk_weights.ravel()[order][:, None]
        else:
            there = (owner[:, :, None] == np.arange(self.ranks)).any(axis=1)
            rank, self._tokens = np.nonzero(there.T)
            self._counts_out[:] = there.sum(axis=0)
            mine = owner[self._tokens] == rank[:, None]
            ids = np.where(mine, topk_idx[self._tokens] - rank[:, None] * self._each, -1)
            weights = np.where(mine, topk_weights[self._tokens], np.float32(0))
        n, width = len(self._tokens), ids.shape[1]
        self._comm.Alltoall(self._counts_out, self._counts_in)
        np.take(x, self._tokens, axis=0, out=self._send[:n], mode="clip")
        got = int(self._counts_in.sum())
        self._exchange(self._send, self._counts_out, self._receive, self._counts_in, self.hidden, self._float)
        outgoing = self._send_meta.reshape(-1)[: n * 2 * width].reshape(n, 2 * width)
        outgoing[:, :width] = ids
        outgoing[:, width:].view(np.float32)[:] = weights
        self._exchange(outgoing, self._counts_out, self._receive_meta, self._counts_in, 2 * width, self._int)
        meta = self._receive_meta.reshape(-1)[: got * 2 * width].reshape(got, 2 * width)
        self._n, self._got, self._count = n, got, len(x)
        return self._receive[:got], meta[:, :width], meta[:, width:].view(np.float32)

    def combine(self, y: Array, weights: Array, out: Array) -> Array:
        """y float32 [N, H] in the order of the received rows, weights as received: out [T, H] becomes the
        sum of y times the sum of its row's weights, over all rows of each token."""
        ready = self._weighted[: self._got]
        np.multiply(y, weights.sum(axis=1, keepdims=True), out=ready)
        self._exchange(
            self._weighted, self._counts_in, self._back, self._counts_out, self.hidden, self._float
        )
        if self.per_choice:
            out[:] = 0
            np.add.at(out, self._tokens, self._back[: self._n])
            return out
        out[:] = 0
        starts = self._starts(self._counts_out).tolist()
        for begin, count in zip(starts, self._counts_out.tolist(), strict=True):
            tokens = self._tokens[begin : begin + count]
            if count == len(out):  # every token: no gather needed
                np.add(out, self._back[begin : begin + count], out=out)
                continue
            part = self._part[:count]
            np.take(out, tokens, axis=0, out=part, mode="clip")
            np.add(part, self._back[begin : begin + count], out=part)
            out[tokens] = part
        return out

    @staticmethod
    def _starts(counts: Array) -> Array:
        return np.concatenate([[0], np.cumsum(counts[:-1])]).astype(np.int32)

    def _exchange(
        self, source: Array, out_rows: Array, target: Array, in_rows: Array, columns: int, kind: Any
    ) -> None:
        self._comm.Alltoallv(
            [source, out_rows * columns, self._starts(out_rows) * columns, kind],
            [target, in_rows * columns, self._starts(in_rows) * columns, kind],
        )
