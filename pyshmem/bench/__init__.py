"""What `pyshmem bench` does: figures with their targets, from C, from Python, and from others beside them.

Read in this order: `figures` (one figure, its statistics, the targets), `run` (a run inside a job), `calls`
(the Python calls that are timed), `others` (the same on mpi4py and shmem4py), `network`
(between nodes, beside perftest and ucx_perftest), `launch` (finding mpirun and
starting a job with it), `show` (table, Markdown, picture). The C side is libshmem/bench/core.c, a program of
its own: its loops hold no Python.

On GPUs: `gpu_plan` (sizes and loops), `gpu` with gpu_kernels.cu (a run inside a job), `gpu_peers` with
peer_nvshmem.cu, `peer_nccl`, `peer_nccl_moe` and `peer_deepep` (the same on NVSHMEM, NCCL and DeepEP,
afterwards).
"""
