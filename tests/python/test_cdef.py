"""What the header parser (libshmem/tools/cdef.py) makes of C, and that the built extension has it all."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cdef", ROOT / "libshmem" / "tools" / "cdef.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["cdef"] = module
    spec.loader.exec_module(module)
    return module


cdef = _load()
CC = shutil.which("cc") or shutil.which("gcc")
pytestmark = [pytest.mark.npes(1), pytest.mark.skipif(CC is None, reason="no C compiler")]


def parse(folder: Path, text: str) -> list[cdef.Declaration]:
    (folder / "x.h").write_text(text)
    return cdef.declarations(cdef.preprocess(CC, "x.h", [folder]), [folder])


def test_every_declaration_of_the_installed_headers_is_bound() -> None:
    import pyshmem
    from pyshmem import _core

    include = Path(pyshmem.__file__).parent / "include"
    found = cdef.declarations(cdef.preprocess(CC, "shmemx.h", [include]), [include])
    functions = {item.name for item in found if item.kind == "function"}
    assert {"shmem_init", "shmem_putmem", "shmem_quiet", "shmem_team_split_2d", "shmemx_reduce"} <= functions
    assert functions <= set(dir(_core.lib))
    assert _core.lib.SHMEM_CMP_LE == 6
    assert _core.lib.SHMEMX_ERR_TIMEOUT == -6
    assert not any("double_put" in name for name in functions), "typed calls are no part of the core"


def test_what_cffi_cannot_read_is_removed(tmp_path: Path) -> None:
    found = parse(
        tmp_path,
        """
        #include <stdint.h>
        #define API __attribute__((visibility("default"), aligned(sizeof(int))))
        _Static_assert(sizeof(int) == 4, "int; {");
        /* Adds;
         * in C. */
        API static inline int add(int a, int b) { if (a) { return a; } return b; }
        extern _Noreturn void leave(void *restrict p) __attribute__((noreturn));
        enum shade { DARK = 1 << 2, /* ; */ LIGHT };
        typedef struct { int n; double x[3]; } pair_t;
        typedef void (*hook_t)(int);
        extern int counter;
        """,
    )
    assert [(item.kind, item.name) for item in found] == [
        ("function", "add"),
        ("function", "leave"),
        ("enum", "shade"),
        ("typedef", "pair_t"),
        ("typedef", "hook_t"),
        ("variable", "counter"),
    ]
    assert found[0].text == "int add(int a, int b)"
    assert found[0].comment == "Adds;\nin C."
    assert found[1].comment == ""
    assert (found[0].file, found[0].line) == ("x.h", 7)
    cdef.emit_c(found, "x.h", tmp_path / "x.c")
    assert '#include "x.h"' in (tmp_path / "x.c").read_text()


def test_a_declaration_that_cffi_refuses_is_named(tmp_path: Path) -> None:
    found = parse(tmp_path, "int good(int);\n\nint bad(unknown_t x);\n")
    with pytest.raises(
        cdef.HeaderError, match=r"x\.h:3: cffi cannot read this declaration: int bad\(unknown_t x\)"
    ):
        cdef.emit_c(found, "x.h", tmp_path / "x.c")
    assert not (tmp_path / "x.c").exists()


def test_a_missing_header_and_an_open_declaration_are_errors(tmp_path: Path) -> None:
    with pytest.raises(cdef.HeaderError, match=r"absent\.h"):
        cdef.preprocess(CC, "absent.h", [tmp_path])
    with pytest.raises(cdef.HeaderError, match=r"x\.h:1: declaration has no end: int f\(void"):
        parse(tmp_path, "int f(void\n")
