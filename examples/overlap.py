"""Gradients are averaged over the PEs while the next ones are computed: mpirun -n 4 python overlap.py"""

import numpy as np

import pyshmem as shmem

LAYERS, SIZE = 4, 1 << 16

shmem.init()
me, n = shmem.my_pe(), shmem.n_pes()
gradients = shmem.zeros((LAYERS, SIZE), dtype=np.float32)


def backward(layer: int) -> np.ndarray:
    """Stands for the computation of a layer's gradient."""
    return np.full(SIZE, me + layer, np.float32)


requests = []
for layer in reversed(range(LAYERS)):  # backward: the last layer first
    gradients[layer] = backward(layer)
    requests.append(shmem.sum_reduce_nb(gradients[layer], gradients[layer]))  # runs from here on
shmem.wait_all(requests)  # all that is left to wait for
gradients /= n

print(f"PE {me} of {n}: mean gradients {gradients[:, 0].tolist()}")
