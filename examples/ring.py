"""Every PE puts a row of numbers into the array of its right neighbour: mpirun -n 4 python ring.py"""

import numpy as np

import pyshmem as shmem

shmem.init()
me, n = shmem.my_pe(), shmem.n_pes()

inbox = shmem.zeros(3, dtype=np.int64)  # symmetric: every PE has one, and can reach all of them
shmem.put(inbox, np.array([me, me**2, me**3]), (me + 1) % n)
shmem.barrier_all()  # all puts are complete, on all PEs

print(f"PE {me} of {n}: my left neighbour sent {inbox.tolist()}")
