"""`pyshmem nic-trace`: what a program asked of its NIC, by a trace of the software NIC.

`files` reads a trace, `mlx5` decodes queue entries, `queues` joins requests with doorbells and completions,
`findings` says what is wrong, `show` and `differences` print, `command` is the command line.
"""
