"""A PE of a job that a launcher starts over several hosts (tests/net/launchers.sh): a put to everybody, a
barrier, a reduction. Says who it is, how it came to be, and the result; tests/c/net_start.c in Python."""

from __future__ import annotations

import numpy as np

import pyshmem as shmem

me, n = shmem.my_pe(), shmem.n_pes()
row = shmem.zeros(n, "int64")
total = shmem.zeros(2, "int64")
for pe in range(n):
    shmem.put(row[me : me + 1], np.array([me + 1]), pe)
shmem.barrier_all()
total[0] = row.sum()
shmem.sum_reduce(total[1:], total[:1])
here = shmem.TEAM_SHARED.n_pes()
print(f"PE {me} of {n} by {shmem.bootstrap_name()}, {here} on this node: {total[1]}", flush=True)
