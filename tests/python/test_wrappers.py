"""shmemcc, shmemcxx, shmemrun and their other names, pkg-config and CMake, as pip installs them."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pyshmem

SCRIPTS = Path(sys.executable).parent
PACKAGE = Path(pyshmem.__file__).parent
CMAKE = shutil.which("cmake", path=os.pathsep.join([str(SCRIPTS), os.environ["PATH"]]))
pytestmark = [
    pytest.mark.npes(1),
    pytest.mark.skipif(not (shutil.which("cc") and shutil.which("c++")), reason="no C and C++ compilers"),
]

C = r"""
#include <shmem.h>
#include <stdio.h>

int main(void)
{
    shmem_init();
    int me = shmem_my_pe(), n = shmem_n_pes();
    long *row = shmem_calloc((size_t)n, sizeof *row), sum = 0;
    for (int pe = 0; pe < n; pe++)
        shmem_p(row + me, (long)me + 1, pe);
    shmem_barrier_all();
    for (int pe = 0; pe < n; pe++)
        sum += row[pe];
    printf("PE %d of %d: %ld\n", me, n, sum);
    fflush(stdout);
    shmem_finalize();
    return 0;
}
"""
CPP = r"""
#include <mpp/shmem.h>
#include <iostream>
#include <sstream>

int main()
{
    shmem_init();
    const int me = shmem_my_pe(), n = shmem_n_pes();
    double *in = static_cast<double *>(shmem_calloc(2, sizeof(double))), *out = in + 1;
    *in = me + 1;
    shmem_sync(SHMEM_TEAM_WORLD);
    shmem_sum_reduce(SHMEM_TEAM_WORLD, out, in, 1);
    std::ostringstream text;
    text << "PE " << me << " of " << n << ": " << *out << "\n";
    std::cout << text.str() << std::flush;
    shmem_finalize();
}
"""


def environment(**more: str) -> dict[str, str]:
    """Without what a launcher or another environment leaves in it; the scripts are called by their paths."""
    foreign = ("PMIX_", "PMI_", "OMPI_COMM", "PRTE_", "HYDI_", "RANK", "WORLD_SIZE", "SHMEM_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return kept | root | {"SHMEM_SYMMETRIC_SIZE": "16M", "SHMEM_TIMEOUT": "30"} | more


def run(*command: str | Path, cwd: Path, ends: int = 0, **more: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment(**more), text=True, capture_output=True,
        stdin=subprocess.DEVNULL, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == ends, done.stdout + done.stderr
    return done


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "two words"
    folder.mkdir()
    (folder / "program.c").write_text(C)
    (folder / "program.cpp").write_text(CPP)
    return folder


def check(program: Path, n: int, launcher: str = "shmemrun") -> None:
    out = run(SCRIPTS / launcher, "-n", str(n), program, cwd=program.parent).stdout
    lines = sorted(line for line in out.splitlines() if line.startswith("PE "))
    assert lines == [f"PE {pe} of {n}: {n * (n + 1) // 2}" for pe in range(n)], out


@pytest.mark.parametrize(
    ("wrapper", "source"),
    [("shmemcc", "program.c"), ("oshcc", "program.c"), ("shmemcxx", "program.cpp"), ("oshc++", "program.cpp"),
     ("oshcxx", "program.cpp"), ("oshCC", "program.cpp")],
)  # fmt: skip
def test_compile_link_and_run(folder: Path, wrapper: str, source: str) -> None:
    strict = ["-Wall", "-Wextra", "-Werror", "-O2"]
    run(SCRIPTS / wrapper, *strict, source, "-o", "at once", cwd=folder)
    check(folder / "at once", 2)
    run(SCRIPTS / wrapper, *strict, "-c", source, "-o", "object.o", cwd=folder)
    run(SCRIPTS / wrapper, "object.o", "-o", "in two steps", cwd=folder)
    check(folder / "in two steps", 4, "oshrun")


def test_show_prints_a_command_that_works(folder: Path) -> None:
    shown = run(SCRIPTS / "shmemcc", "--show", "program.c", "-o", "a b", cwd=folder).stdout
    run("/bin/sh", "-c", shown, cwd=folder)
    check(folder / "a b", 1)
    assert "libshmem.so.0" in shown
    assert "libshmem.so.0" not in run(SCRIPTS / "shmemcc", "-show", "-c", "program.c", cwd=folder).stdout


def test_another_compiler(folder: Path) -> None:
    shown = run(SCRIPTS / "oshcc", "-showme", "x.c", cwd=folder, SHMEM_CC="other-cc -m64").stdout
    assert shlex.split(shown)[:3] == ["other-cc", "-m64", f"-I{PACKAGE / 'include'}"]


def test_the_compilers_errors_are_the_wrappers(folder: Path) -> None:
    (folder / "bad.c").write_text("#include <shmem.h>\nint main(void) { return shmem_nonsense; }\n")
    failed = run(SCRIPTS / "shmemcc", "bad.c", cwd=folder, ends=1)
    assert "shmem_nonsense" in failed.stderr


def test_run_without_arguments_or_launcher_says_what_to_do(folder: Path) -> None:
    assert "usage: shmemrun -n PES" in run(SCRIPTS / "shmemrun", cwd=folder, ends=2).stderr
    bare = folder / "bin"
    bare.mkdir()
    for tool in ("dirname", "sh"):
        (bare / tool).symlink_to(str(shutil.which(tool)))
    alone = run("/bin/sh", PACKAGE / "bin" / "oshrun", "-n", "2", "x", cwd=folder, ends=127, PATH=str(bare))
    assert "no mpirun, mpiexec or srun" in alone.stderr
    named = run(SCRIPTS / "shmemrun", "-n", "2", "x", cwd=folder, SHMEM_LAUNCHER="echo launched with")
    assert named.stdout == "launched with -n 2 x\n"


@pytest.mark.parametrize(
    ("version", "options"),
    [("mpirun (Open MPI) 4.1.4", "--oversubscribe --bind-to none "), ("HYDRA build details:", "")],
)
def test_run_gives_each_launcher_its_options(folder: Path, version: str, options: str) -> None:
    fake = folder / "mpirun"
    fake.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "{version}" || printf "%s\\n" "$*"\n')
    fake.chmod(0o755)
    path = os.pathsep.join([str(folder), os.environ["PATH"]])
    started = run("/bin/sh", PACKAGE / "bin" / "shmemrun", "-n", "2", "a b", cwd=folder, PATH=path)
    assert started.stdout == f"{options}-n 2 a b\n"


@pytest.mark.skipif(shutil.which("pkg-config") is None, reason="no pkg-config")
def test_pkg_config(folder: Path) -> None:
    where = run(SCRIPTS / "pyshmem", "config", "--pkgconfigdir", cwd=folder).stdout.strip()
    flags = run("pkg-config", "--cflags", "--libs", "libshmem", cwd=folder, PKG_CONFIG_PATH=where).stdout
    run("cc", "program.c", "-o", "program", *shlex.split(flags), cwd=folder)
    check(folder / "program", 2)


@pytest.mark.skipif(CMAKE is None, reason="no CMake")
def test_cmake_package(folder: Path) -> None:
    (folder / "CMakeLists.txt").write_text(
        """
        cmake_minimum_required(VERSION 3.18...4.0)
        project(user LANGUAGES C CXX)
        find_package(libshmem 0.1 REQUIRED)
        add_executable(in_c program.c)
        add_executable(in_cpp program.cpp)
        target_link_libraries(in_c PRIVATE libshmem::shmem)
        target_link_libraries(in_cpp PRIVATE libshmem::shmem)
        """
    )
    where = run(SCRIPTS / "pyshmem", "config", "--cmakedir", cwd=folder).stdout.strip()
    assert CMAKE is not None
    run(CMAKE, "-S", ".", "-B", "build", "-G", "Unix Makefiles", f"-Dlibshmem_DIR={where}", cwd=folder)
    run(CMAKE, "--build", "build", cwd=folder)
    for program in ("in_c", "in_cpp"):
        check(folder / "build" / program, 2)
