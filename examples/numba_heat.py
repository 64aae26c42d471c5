"""Heat in a plate, by Jacobi iteration in one Numba kernel: computation and communication compiled together.

    mpirun -n 4 python examples/numba_heat.py
    python examples/numba_heat.py --rows 64 --columns 64 --steps 200

Each PE has a band of rows and one halo row above and below. In a step every PE puts its outermost rows into
the halo rows of its neighbours, all meet in a barrier, and each replaces its points by the mean of their four
neighbours. The upper edge of the plate is hot (1), the others cold (0). PE 0 compares the result with plain
NumPy.
"""

from __future__ import annotations

import argparse
import time

import numba
import numpy as np

import pyshmem as shmem
import pyshmem.numba_cpu  # lets @njit functions call shmem.put, shmem.barrier_all, ...


@numba.njit
def iterate(now, then, steps):
    """`steps` Jacobi steps on a band, float64 [rows + 2, columns]; returns which of the two has the
    result.
    """
    me, n = shmem.my_pe(), shmem.n_pes()
    rows, columns = now.shape
    for _ in range(steps):
        if me > 0:
            shmem.put(now[rows - 1], now[1], me - 1)  # my first row is the halo below the upper neighbour
        if me < n - 1:
            shmem.put(now[0], now[rows - 2], me + 1)
        shmem.barrier_all()  # the halos are here
        for i in range(1, rows - 1):
            for j in range(1, columns - 1):
                then[i, j] = 0.25 * (now[i - 1, j] + now[i + 1, j] + now[i, j - 1] + now[i, j + 1])
        # No second barrier: a neighbour's next put goes to `then`, whose halo rows nobody reads in this step.
        now, then = then, now
    return now


def reference(rows: int, columns: int, steps: int) -> np.ndarray:
    plate = np.zeros((rows + 2, columns))
    plate[0] = 1
    for _ in range(steps):
        inner = plate[:-2, 1:-1] + plate[2:, 1:-1] + plate[1:-1, :-2] + plate[1:-1, 2:]
        plate[1:-1, 1:-1] = 0.25 * inner
    return plate[1:-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--rows", type=int, default=512, help="rows of the plate, without the edges (default 512)"
    )
    parser.add_argument("--columns", type=int, default=512, help="columns, with the edges (default 512)")
    parser.add_argument("--steps", type=int, default=500, help="Jacobi steps (default 500)")
    options = parser.parse_args()

    me, n = shmem.my_pe(), shmem.n_pes()
    if options.rows % n or options.columns < 3 or options.steps < 0:
        parser.error(f"--rows must be a multiple of the {n} PEs, --columns at least 3, --steps at least 0")
    band = options.rows // n
    now, then = (shmem.zeros((band + 2, options.columns)) for _ in range(2))
    if me == 0:
        now[0] = then[0] = 1
    shmem.barrier_all()

    iterate(now, then, 0)  # compiles
    shmem.barrier_all()
    start = time.perf_counter()
    result = iterate(now, then, options.steps)
    shmem.barrier_all()
    seconds = time.perf_counter() - start

    mine = shmem.array(result[1:-1])
    whole = shmem.empty((options.rows, options.columns))
    shmem.fcollect(whole, mine)
    if me == 0:
        difference = np.abs(whole - reference(options.rows, options.columns, options.steps)).max()
        points = options.rows * options.columns * options.steps
        print(
            f"{n} PEs: {options.steps} steps of {options.rows} x {options.columns} in {seconds:.3f} s, "
            f"{points / seconds / 1e6:.0f} million points a second"
        )
        print(f"largest difference from NumPy: {difference:.1e}")
        if difference > 1e-12:
            shmem.global_exit(1)


if __name__ == "__main__":
    main()
