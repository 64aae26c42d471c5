"""Every routine of OpenSHMEM 1.6: in the headers, the library and pyshmem; and nothing beside them."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import pyshmem

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(pyshmem.__file__).parent
CC = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
CXX = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
NM = shutil.which("nm")
pytestmark = [
    pytest.mark.npes(1),
    pytest.mark.skipif(not (CC and CXX and NM), reason="needs a C and a C++ compiler and nm"),
]
LANGUAGES = [pytest.param(CC, "c11", "c", id="C11"), pytest.param(CXX, "c++17", "cpp", id="C++17")]


def _load() -> ModuleType:
    path = ROOT / "tests" / "openshmem" / "coverage.py"
    spec = importlib.util.spec_from_file_location("coverage_data", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["coverage_data"] = module
    spec.loader.exec_module(module)
    return module


coverage = _load()
SPEC = coverage.load()


def compile_(compiler: str, standard: str, source: Path, *options: str) -> None:
    done = subprocess.run(
        [*shlex.split(compiler), f"-std={standard}", "-Wall", "-Wextra", "-Werror",
         f"-I{PACKAGE / 'include'}", str(source), *options],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[:4000]


def symbols(file: Path, *options: str) -> set[str]:
    assert NM is not None
    out = subprocess.run([NM, *options, str(file)], capture_output=True, text=True, check=True).stdout
    return {line.split()[-1] for line in out.splitlines() if line.strip()}


@pytest.mark.parametrize(("compiler", "standard", "suffix"), LANGUAGES)
def test_headers_declare_every_function_and_constant_and_the_library_has_them(
    tmp_path: Path, compiler: str, standard: str, suffix: str
) -> None:
    source = tmp_path / f"all.{suffix}"
    source.write_text(coverage.c_of_all_functions(SPEC, suffix == "cpp"))
    library = PACKAGE / "lib" / "libshmem.so.0"
    run_path = f"-Wl,-rpath,{library.parent}"
    compile_(compiler, standard, source, "-o", str(tmp_path / "all"), str(library), run_path)
    subprocess.run([str(tmp_path / "all")], check=True)


@pytest.mark.parametrize(("compiler", "standard", "suffix"), LANGUAGES)
def test_every_generic_name_reaches_the_function_of_its_type(
    tmp_path: Path, compiler: str, standard: str, suffix: str
) -> None:
    source, target = tmp_path / f"generic.{suffix}", tmp_path / "generic.o"
    text, wanted = coverage.c_of_all_generics(SPEC)
    source.write_text(text)
    compile_(compiler, standard, source, "-c", "-O0", "-o", str(target))
    reached = {name for name in symbols(target, "-u") if "shmem" in name}
    assert reached == wanted


def test_library_and_list_have_the_same_names() -> None:
    names = {function.name for function in SPEC.functions()}
    exported = symbols(PACKAGE / "lib" / "libshmem.so.0", "-D", "--defined-only")
    ours = {name for name in exported if not re.match(r"p?shmem[xi]_|_init$|_fini$", name)}
    assert ours == names | {"p" + name for name in names}


def test_headers_and_list_have_the_same_names() -> None:
    assert CC is not None
    text = subprocess.run(
        [*shlex.split(CC), "-E", "-P", "-DSHMEMX_API=EXPORTED", f"-I{PACKAGE / 'include'}", "-x", "c", "-"],
        input="#include <shmem.h>\n", capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    declared = re.findall(r"EXPORTED\s[^;(]*?(\w+)\s*\(", text)
    assert len(declared) == len(set(declared))
    assert set(declared) == {function.name for function in SPEC.functions()}


@pytest.mark.parametrize("routine", SPEC.routines, ids=lambda routine: routine.name)
def test_python_has_a_counterpart_or_the_list_says_why_not(routine: coverage.Routine) -> None:
    if not routine.python:
        assert routine.reason
        return
    found: object = pyshmem
    for part in routine.python.split("."):
        found = getattr(found, part)
    assert callable(found)
    assert found.__doc__


@pytest.mark.parametrize("header", ["shmem.h", "mpp/shmem.h", "shmemx.h", "mpp/shmemx.h"])
@pytest.mark.parametrize(("compiler", "standard", "suffix"), LANGUAGES)
def test_a_program_with_the_header_compiles_in_half_a_second(
    tmp_path: Path, compiler: str, standard: str, suffix: str, header: str
) -> None:
    source = tmp_path / f"small.{suffix}"
    program = "int main(void) { shmem_init(); shmem_finalize(); return 0; }"
    source.write_text(f"#include <{header}>\n{program}\n")
    seconds = []
    for _ in range(5):  # the processor's time, and the best: others use the machine
        before = os.times()
        compile_(compiler, standard, source, "-c", "-o", str(tmp_path / "small.o"))
        after = os.times()
        seconds.append(sum(after[2:4]) - sum(before[2:4]))
    assert min(seconds) < 0.5, seconds


def test_mistakes_in_the_list_are_named(tmp_path: Path) -> None:
    for text in ("int f(void) | py=a no=b", "int f(void)", "int f | py=a", "int f(void) | py=a tpyes=x"):
        (tmp_path / "routines.txt").write_text(f"# comment\n{text}\n")
        with pytest.raises(ValueError, match=r"routines\.txt:2: not understood"):
            coverage.load(tmp_path / "routines.txt")
