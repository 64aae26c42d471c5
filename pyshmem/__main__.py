"""``python -m pyshmem``: the command line, as the program `pyshmem`."""

from .cli import main

if __name__ == "__main__":
    main(prog_name="pyshmem")
