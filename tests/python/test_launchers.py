"""A plain C program starts under every launcher, with nothing but the installed header and library."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import pyshmem

CC = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
pytestmark = [pytest.mark.npes(1), pytest.mark.skipif(CC is None, reason="no C compiler")]

FOREIGN = (
    *("PMIX_", "PMI_", "OMPI_COMM", "PRTE_", "HYDI_", "SLURM_"),
    *("RANK", "WORLD_SIZE", "LOCAL_", "MASTER_", "TORCHELASTIC_"),
)

PROGRAM = r"""
#include <shmemx.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int start(int argc, char **argv)
{
    if (argc < 4) {
        shmem_init();
        return 0;
    }
    /* uid: RANK SIZE FILE, the id travels in a file */
    shmemx_uniqueid_t id;
    int rank = atoi(argv[1]), size = atoi(argv[2]);
    FILE *f;
    if (rank == 0) {
        char temporary[4096];
        snprintf(temporary, sizeof temporary, "%s.new", argv[3]);
        if (shmemx_get_uniqueid(&id) != 0 || !(f = fopen(temporary, "wb")))
            return 1;
        fwrite(&id, sizeof id, 1, f);
        fclose(f);
        rename(temporary, argv[3]);
    } else {
        while (!(f = fopen(argv[3], "rb")))
            ;
        if (fread(&id, sizeof id, 1, f) != 1)
            return 1;
        fclose(f);
    }
    return shmemx_init_uid(rank, size, &id);
}

int main(int argc, char **argv)
{
    if (start(argc, argv) != 0)
        return 2;
    int me = shmem_my_pe(), n = shmem_n_pes();
    long *row = shmem_calloc((size_t)n, sizeof *row), sum = 0;
    for (int pe = 0; pe < n; pe++)
        shmem_long_p(row + me, me + 1, pe);
    shmem_barrier_all();
    for (int pe = 0; pe < n; pe++)
        sum += row[pe];
    printf("PE %d of %d by %s: %ld\n", me, n, shmemx_bootstrap_name(), sum);
    fflush(stdout);
    shmem_finalize();
    return 0;
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, compiled and linked as the documentation says."""
    package = Path(pyshmem.__file__).parent
    folder = tmp_path_factory.mktemp("a program")
    (folder / "program.c").write_text(PROGRAM)
    assert CC is not None
    subprocess.run(
        [*CC.split(), "-Wall", "-Wextra", "-Werror", f"-I{package / 'include'}", "program.c", "-o", "program",
         str(package / "lib" / "libshmem.so.0"), f"-Wl,-rpath,{package / 'lib'}"],
        cwd=folder, check=True,
    )  # fmt: skip
    return folder / "program"


def environment(**more: str) -> dict[str, str]:
    """Ours without what launchers leave in it."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(FOREIGN)}
    return kept | {"SHMEM_SYMMETRIC_SIZE": "16M", "SHMEM_TIMEOUT": "30"} | more


def check(output: str, n: int, *bootstraps: str) -> None:
    lines = sorted(line for line in output.splitlines() if line.startswith("PE "))
    assert any(
        lines == [f"PE {pe} of {n} by {name}: {n * (n + 1) // 2}" for pe in range(n)] for name in bootstraps
    ), output


def finish(processes: list[subprocess.Popen[str]]) -> str:
    """Output of all; every one ends well."""
    outputs = []
    try:
        for process in processes:
            out, err = process.communicate(timeout=60)
            assert process.returncode == 0, err
            outputs.append(out)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.communicate()
    return "".join(outputs)


def start(command: list[str], env: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, env=env, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_single(program: Path) -> None:
    check(finish([start([str(program)], environment())]), 1, "single")


@pytest.mark.parametrize("way", ["auto", "single"])
def test_srun_without_pmi(program: Path, way: str) -> None:
    """Tasks of Slurm that cannot find each other are single jobs, and say so; see tests/net/launchers.sh."""
    process = start([str(program)], environment(SLURM_STEP_NUM_TASKS="4", SHMEM_BOOTSTRAP=way))
    out, err = process.communicate(timeout=60)
    check(out, 1, "single")
    assert ("srun has started 4 tasks without a way to find each other" in err) == (way == "auto"), err


@pytest.mark.parametrize("n", [1, 2, 4])
def test_mpirun(program: Path, n: int) -> None:
    """That of this environment: Open MPI's (PMIx) or MPICH's (PMI-1)."""
    where = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    launcher = shutil.which("mpirun", path=where)
    assert launcher is not None, "no mpirun; pip install '.[mpi]'"
    version = subprocess.run([launcher, "--version"], capture_output=True, text=True, check=True).stdout
    open_mpi = "Open MPI" in version
    flags = ["--oversubscribe", "--bind-to", "none"] if open_mpi else []
    env = environment(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    out = finish([start([launcher, *flags, "-n", str(n), str(program)], env)])
    check(out, n, "pmix" if open_mpi else "pmi")


@pytest.mark.parametrize("n", [1, 2, 4])
def test_variables(program: Path, n: int) -> None:
    """torchrun's: RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    variables = {"WORLD_SIZE": str(n), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    jobs = [start([str(program)], environment(RANK=str(pe), **variables)) for pe in range(n)]
    check(finish(jobs), n, "env")


@pytest.mark.parametrize("n", [1, 2, 4])
def test_unique_id(program: Path, tmp_path: Path, n: int) -> None:
    command = [str(program)]
    jobs = [start([*command, str(pe), str(n), str(tmp_path / "id")], environment()) for pe in range(n)]
    check(finish(jobs), n, "uid")


def test_two_jobs_at_once(program: Path, tmp_path: Path) -> None:
    """Side by side they do not meet."""
    jobs = [
        start([str(program), str(pe), "2", str(tmp_path / f"id{job}")], environment())
        for pe in range(2)
        for job in range(2)
    ]
    out = finish(jobs)
    for pe in range(2):
        assert out.count(f"PE {pe} of 2 by uid: 3\n") == 2, out


def test_chosen_bootstrap_is_not_there(program: Path) -> None:
    process = start([str(program)], environment(SHMEM_BOOTSTRAP="pmix"))
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "pmix" in err.lower(), err
