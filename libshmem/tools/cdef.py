"""Derives what is bound and documented from the public C headers, so that nothing is written twice.

    python cdef.py --cc gcc -I libshmem/include --emit-c _core.c shmemx.h        # source of pyshmem._core
    python cdef.py --cc gcc -I libshmem/include --reference api.md shmemx.h      # C API reference, Markdown

The header is preprocessed with -DSHMEM_CDEF, which leaves the untyped core (the headers hide what is
generated for each type). Only text from the -I folders is kept, so system headers do not leak in. What
cffi does not read (attributes, assertions, bodies of inline functions) is removed, and every declaration
is handed over alone: one that cffi refuses is named with its place in the header.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

MODULE = "pyshmem._core"

_LINE_MARKER = re.compile(r'#\s*(?:line\s+)?(\d+)\s+"((?:[^"\\]|\\.)*)"')
_TOKEN = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'|\s+|\w+|.', re.DOTALL)
_ATTRIBUTE = {"__attribute__", "__attribute", "__asm__", "_Alignas"}
_DROPPED = {"inline", "__inline", "__inline__", "__extension__", "_Noreturn",
            "restrict", "__restrict", "__restrict__"}  # fmt: skip


class HeaderError(Exception):
    """The headers cannot be preprocessed, or cffi cannot read a declaration; the text says which."""


@dataclass(frozen=True)
class Declaration:
    """One top-level declaration of the public headers, ready for cffi."""

    text: str  # C, without the closing semicolon
    comment: str  # the comment that stands before it, without its marks; "" if none
    file: str  # the header's name
    line: int  # where the declaration starts in it

    @property
    def name(self) -> str:
        """The function, type, variable or tag that is declared; "" for an enum without one."""
        patterns = {
            "function": r"(\w+)\s*\(",
            "typedef": r"\(\s*\*\s*(\w+)\s*\)|(\w+)(?:\s*\[[^]]*\])*$",
            "variable": r"(\w+)(?:\s*\[[^]]*\])*$",
        }
        found = re.search(patterns.get(self.kind, r"^(?:struct|union|enum)\s+(\w+)"), self.text)
        return next((group for group in found.groups() if group), "") if found else ""

    @property
    def kind(self) -> str:
        """One of function, typedef, enum, struct, variable."""
        if self.text.startswith("typedef"):
            return "typedef"
        if re.match(r"enum\b[^(]*\{", self.text):
            return "enum"
        if re.match(r"(?:struct|union)\s+\w+\s*(\{|$)", self.text):
            return "struct"
        return "function" if "(" in self.text else "variable"


def preprocess(cc: str, header: str, include: list[Path]) -> str:
    """Returns `header` preprocessed with -DSHMEM_CDEF, comments and line markers kept."""
    command = [cc, "-E", "-C", "-std=gnu11", "-DSHMEM_CDEF", "-x", "c", "-"]
    for folder in include:
        command += ["-I", str(folder)]
    done = subprocess.run(
        command, input=f'#include "{header}"\n', capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise HeaderError(f"{' '.join(command)} failed on {header}:\n{done.stderr.strip()}")
    return done.stdout


def _own_lines(text: str, include: list[Path]) -> Iterator[tuple[str, int, str]]:
    """Yields (file, line number, line) of the lines that come from the folders in `include`."""
    roots = [folder.resolve() for folder in include]
    file, line, own = "", 0, False
    for row in text.splitlines():
        marker = _LINE_MARKER.match(row)
        if marker:
            path = Path(marker[2].replace('\\"', '"').replace("\\\\", "\\"))
            own = path.is_file() and any(root in path.resolve().parents for root in roots)
            file, line = path.name, int(marker[1])
            continue
        if own and not row.lstrip().startswith("#"):
            yield file, line, row
        line += 1


def _plain(comment: str) -> str:
    """The text of a comment without its marks."""
    first, *rest = comment.strip("/").strip("*").splitlines()  # the first may begin with a pointer's star
    return "\n".join([first, *(re.sub(r"^\s*(?:\*(?!/) ?)?", "", row) for row in rest)]).strip()


def declarations(text: str, include: list[Path]) -> list[Declaration]:
    """Splits preprocessed text into the declarations that come from the folders in `include`."""
    rows = list(_own_lines(text, include))
    source = "".join(row + "\n" for _, _, row in rows)
    found: list[Declaration] = []
    words: list[str] = []
    comment, start, line, depth, body, skipping = "", 0, 0, 0, False, 0
    pending_attribute = False

    def close() -> None:
        nonlocal comment
        # Only spaces: a field's comment inside a struct has been dropped, the text is one line.
        text = " ".join("".join(words).split())
        if text and not text.startswith(("_Static_assert", "static_assert")):
            file, number, _ = rows[start]
            plain = text.removeprefix("static ").removeprefix("extern ")
            item = Declaration(plain, comment, file, number)
            found.append(replace(item, text=f"extern {plain}") if item.kind == "variable" else item)
        words.clear()
        comment = ""

    for match in _TOKEN.finditer(source):
        token = match[0]
        first = line
        line += token.count("\n")
        if token.startswith(("/*", "//")):
            if not "".join(words).strip() and depth == 0:
                comment = _plain(token)
            continue
        if skipping or pending_attribute:
            # Inside __attribute__((...)): drop up to the matching parenthesis.
            skipping += (token == "(") - (token == ")")
            pending_attribute = pending_attribute and skipping == 0
            continue
        if token in _ATTRIBUTE:
            pending_attribute = True
            continue
        if token in _DROPPED:
            continue
        if depth == 0 and token == "{" and re.search(r"\)\s*$", "".join(words)):
            body = True
        if body:
            depth += (token == "{") - (token == "}")
            if depth == 0:
                body = False
                close()
            continue
        if not "".join(words).strip():
            if token.isspace() or token == ";":
                words.clear()
                continue
            start = first
        depth += (token in "{(" if len(token) == 1 else 0) - (token in "})" if len(token) == 1 else 0)
        if token == ";" and depth == 0:
            close()
            continue
        words.append(token)
    if "".join(words).strip():
        file, number, _ = rows[start]
        raise HeaderError(
            f"{file}:{number}: declaration has no end: {' '.join(''.join(words).split())[:120]}"
        )
    return found


def emit_c(found: list[Declaration], header: str, target: Path) -> None:
    """Writes the C source of the extension module; `target` keeps its time stamp when nothing changed."""
    import cffi

    ffi = cffi.FFI()
    for item in found:
        try:
            ffi.cdef(item.text + ";")
        except Exception as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise HeaderError(
                f"{item.file}:{item.line}: cffi cannot read this declaration: {item.text};\n"
                f"  {reason[-1]}\n"
                "  Rewrite it in plain C, or hide it from Python with #ifndef SHMEM_CDEF."
            ) from error
    # What libshmem calls back in Python; see pyshmem/errors.py.
    ffi.cdef('extern "Python" int pyshmem_pending(void);')
    # The extension sees the headers exactly as the cdef did.
    ffi.set_source(MODULE, f'#define SHMEM_CDEF 1\n#include "{header}"\n', py_limited_api=True)
    with contextlib.redirect_stdout(sys.stderr):  # it says what it writes
        ffi.emit_c_code(str(target))


_BANNER = re.compile(r"/\* -{4} (.+?) -{4,} \*/")
_FIRST_COMMENT = re.compile(r"\A\s*(/\*.*?\*/)", re.DOTALL)


def _as_written(lines: list[str], line: int) -> str:
    """The declaration that starts in `line` (from 1), with the comments inside it, without SHMEMX_API."""
    rows: list[str] = []
    depth = 0
    for row in lines[line - 1 :]:
        rows.append(row)
        code = re.sub(r"/\*.*?\*/", "", row)
        depth += code.count("{") - code.count("}")
        if depth <= 0 and code.rstrip().endswith(";"):
            break
    return re.sub(r"SHMEMX_API |\s*__attribute__\(\(.*?\)\)", "", "\n".join(rows))


def reference(found: list[Declaration], include: list[Path]) -> str:
    """The C API reference in Markdown: each header's own text, then its declarations by section."""
    pages: list[str] = []
    for file in dict.fromkeys(item.file for item in found):
        source = next(folder / file for folder in include if (folder / file).is_file()).read_text("utf-8")
        lines = source.splitlines()
        pages.append(f"## {file}\n")
        about = _FIRST_COMMENT.match(source)
        if about:
            pages.append(f"```text\n{_plain(about[1])}\n```\n")
        banners = [
            (number, match[1]) for number, row in enumerate(lines, 1) if (match := _BANNER.search(row))
        ]
        level = "####" if banners else "###"
        for item in (item for item in found if item.file == file):
            while banners and banners[0][0] < item.line:
                pages.append(f"### {banners.pop(0)[1]}\n")
            if item.kind == "function":
                pages.append(f"{level} `{item.name}`\n")
            pages.append(f"```c\n{_as_written(lines, item.line)}\n```\n")
            if item.comment and not _BANNER.match(f"/* {item.comment} */"):
                pages.append(f"{item.comment}\n")
    return "\n".join(pages)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("header", help="umbrella header, searched in the -I folders")
    parser.add_argument("--cc", default="cc", help="C compiler (default: cc)")
    parser.add_argument(
        "-I", dest="include", action="append", type=Path, required=True, help="folder of headers"
    )
    parser.add_argument("--emit-c", type=Path, help=f"write the C source of {MODULE} here")
    parser.add_argument("--reference", type=Path, help="write the C API reference (Markdown) here")
    parser.add_argument("--list", action="store_true", help="print every declaration with its place")
    options = parser.parse_args(argv)
    try:
        found = declarations(preprocess(options.cc, options.header, options.include), options.include)
        if not any(item.kind == "function" for item in found):
            raise HeaderError(f"{options.header} declares no function under SHMEM_CDEF")
        if options.emit_c:
            emit_c(found, options.header, options.emit_c)
    except HeaderError as error:
        print(f"cdef.py: {error}", file=sys.stderr)
        return 1
    if options.reference:
        options.reference.write_text(reference(found, options.include), encoding="utf-8")
    if options.list:
        for item in found:
            print(f"{item.file}:{item.line}: {item.text};")
    return 0


if __name__ == "__main__":
    sys.exit(main())
