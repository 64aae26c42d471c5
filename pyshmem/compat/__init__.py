"""Other libraries' interfaces on this one: `pyshmem.compat.deep_ep`."""
