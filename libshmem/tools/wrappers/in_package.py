#!python
"""Beside the Python that pip installed it for: becomes the program of this name in the package pyshmem."""

import os
import sys
from importlib.util import find_spec

# The package is found and not imported: that would take longer than the program itself.
spec = find_spec("pyshmem")
if spec is None or spec.origin is None:
    sys.exit(f"{sys.argv[0]}: the package pyshmem is not installed for {sys.executable}")
name = os.path.basename(sys.argv[0])
program = os.path.join(os.path.dirname(spec.origin), "bin", name)
# The launcher that pip installed stands beside this file.
here = os.path.dirname(os.path.abspath(sys.argv[0]))
os.environ["PATH"] = os.pathsep.join([here, os.environ.get("PATH", "")])
os.execv("/bin/sh", ["/bin/sh", program, *sys.argv[1:]])
