"""The specification's routines (routines.txt): as functions, as C programs that need them all, as a table.

python coverage.py --markdown docs/reference/openshmem.md
"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

DATA = Path(__file__).with_name("routines.txt")
SIZES = ("8", "16", "32", "64", "128")


@dataclass(frozen=True)
class Type:
    """A row of a type table of the specification."""

    name: str  # TYPENAME
    c: str
    generic: bool  # False: another row has the same type of C, and serves the generic


@dataclass(frozen=True)
class Routine:
    """A line of routines.txt: one routine, in all its types and sizes."""

    section: str
    prototype: str
    types: tuple[Type, ...]
    ctx: bool
    generic: bool
    since: str
    old: str
    python: str  # the counterpart's name, "" = none
    reason: str  # why there is none

    @property
    def name(self) -> str:
        """The routine's name with TYPENAME and SIZE for what varies."""
        text = self.prototype.replace("{T}", "TYPENAME").replace("{N}", "SIZE")
        return re.findall(r"(\w+)\(", text)[0]

    @property
    def generic_name(self) -> str:
        if self.name == "shmem_team_sync":
            return "shmem_sync"
        return self.name.replace("_TYPENAME", "")

    def functions(self) -> Iterator[Function]:
        """Every function that the line stands for."""
        for ctx in (False, True) if self.ctx else (False,):
            text = self.prototype
            if ctx:
                text = re.sub(r"\bshmem_", "shmem_ctx_", text, count=1)
                text = text.replace("(", "(shmem_ctx_t ctx, ", 1)
            if "{N}" in text:
                for size in SIZES:
                    yield Function(text.replace("{N}", size), self, None, ctx)
            elif self.types:
                for t in self.types:
                    yield Function(text.replace("{T}", t.name).replace("{TYPE}", t.c), self, t, ctx)
            else:
                yield Function(text, self, None, ctx)


@dataclass(frozen=True)
class Function:
    prototype: str
    routine: Routine
    type: Type | None
    ctx: bool

    @property
    def name(self) -> str:
        return re.findall(r"(\w+)\(", self.prototype)[0]

    @property
    def parameters(self) -> list[str]:
        inside = self.prototype[self.prototype.index("(") + 1 : self.prototype.rindex(")")]
        return [] if inside == "void" else [part.strip() for part in inside.split(",")]

    def pointer(self, name: str, function: str) -> str:
        """A definition of `name` as a pointer to `function`, of exactly this type."""
        returns = self.prototype[: self.prototype.index(self.name + "(")].strip()
        inside = self.prototype[self.prototype.index("(") :]
        return f"{returns} (*const {name}){inside} = {function};"


@dataclass
class Specification:
    routines: list[Routine] = field(default_factory=list)
    constants: list[str] = field(default_factory=list)

    def functions(self) -> list[Function]:
        return [function for routine in self.routines for function in routine.functions()]


def load(path: Path = DATA) -> Specification:
    """Reads routines.txt; ValueError names a line that is not understood."""
    found = Specification()
    tables: dict[str, tuple[Type, ...]] = {"": ()}
    section = ""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if text.startswith("types "):
            name, rows = text.removeprefix("types ").split(":", 1)
            pairs = [re.fullmatch(r"\s*(\w+)([=~])(.+)", row) for row in rows.split(",")]
            tables[name] = tuple(Type(p[1], p[3].strip(), p[2] == "=") for p in pairs if p)
            if not all(pairs):
                raise ValueError(f"{path.name}:{number}: a row of types {name} is not NAME=TYPE")
        elif text.startswith("section "):
            section = text.removeprefix("section ")
        elif text.startswith("constants "):
            found.constants += text.split()[1:]
        else:
            prototype, _, rest = text.partition(" | ")
            words = dict(word.partition("=")[::2] for word in shlex.split(rest))
            unknown = set(words) - {"types", "ctx", "generic", "since", "old", "py", "no"}
            if unknown or not prototype.endswith(")") or ("py" in words) == ("no" in words):
                raise ValueError(f"{path.name}:{number}: not understood: {text}")
            found.routines.append(
                Routine(
                    section, prototype, tables[words.get("types", "")], "ctx" in words, "generic" in words,
                    words.get("since", "1.0"), words.get("old", ""), words.get("py", ""), words.get("no", ""),
                )
            )  # fmt: skip
    return found


def c_of_all_functions(spec: Specification, cplusplus: bool) -> str:
    """A program with a pointer of its type to each function and its twin with a p, and each constant."""
    # shmem_wait_until without a type is a macro in C11 and overloads in C++: the function is C's alone
    rows = ["#include <pshmem.h>"]
    for number, function in enumerate(spec.functions()):
        if cplusplus and function.name == "shmem_wait_until":
            continue
        for prefix in ("", "p"):
            rows.append(function.pointer(f"{prefix}f{number}", prefix + function.name))
    for number, name in enumerate(spec.constants):
        kind = "const char *" if "STRING" in name else "int "
        kind = {"SHMEM_TEAM": "shmem_team_t ", "SHMEM_CTX_": "shmem_ctx_t "}.get(
            name[:10] if name.endswith(("WORLD", "SHARED", "INVALID", "DEFAULT")) else "", kind
        )
        rows.append(f"{kind}c{number};")
        rows.append(f"void set{number}(void);\nvoid set{number}(void) {{ c{number} = {name}; }}")
    rows.append("int main(void) { return 0; }")
    return "\n".join(rows) + "\n"


def c_of_all_generics(spec: Specification) -> tuple[str, set[str]]:
    """Calls of each generic name with each type, for C11 and C++, and the functions that they must reach."""
    rows = ["#include <shmem.h>"]
    wanted: set[str] = set()
    for number, function in enumerate(spec.functions()):
        if not function.routine.generic or (function.type and not function.type.generic):
            continue
        names = [re.findall(r"\w+", part)[-1] for part in function.parameters]
        rows.append(f"void call{number}({', '.join(function.parameters)});")
        rows.append(f"void call{number}({', '.join(function.parameters)})")
        rows.append(f"{{ (void){function.routine.generic_name}({', '.join(names)}); }}")
        wanted.add(function.name)
    return "\n".join(rows) + "\n", wanted


def markdown(spec: Specification) -> str:
    """The routines by section: since when, how many functions, generic, Python."""
    functions = spec.functions()
    rows = [
        f"All {len(functions)} functions of {len(spec.routines)} routines are there, each also with a `p` in"
        " front. A test compares the list, which is written from the specification, with the headers, the"
        " library and pyshmem.",
        "",
    ]
    for section in dict.fromkeys(routine.section for routine in spec.routines):
        rows += [
            f"## {section}",
            "",
            "| Routine | Since | Functions | Generic | Python |",
            "|---|---|---|---|---|",
        ]
        for r in (routine for routine in spec.routines if routine.section == section):
            since = f"{r.since}, deprecated {r.old}" if r.old else r.since
            ctx = ", `_ctx`" if r.ctx else ""
            generic = f"`{r.generic_name}`" if r.generic else ""
            python = f"`{r.python}`" if r.python else r.reason
            rows.append(f"| `{r.name}`{ctx} | {since} | {len(list(r.functions()))} | {generic} | {python} |")
        rows.append("")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--markdown", type=Path, required=True, help="write the tables of the docs page here")
    options = parser.parse_args()
    options.markdown.write_text(markdown(load()), encoding="utf-8")


if __name__ == "__main__":
    main()
