"""Sphinx configuration, and the directive that shows libshmem's tables (*.def) as tables."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx
from sphinx.util.inspect import TypeAliasForwardRef
from sphinx.util.nodes import make_refnode

ROOT = Path(__file__).resolve().parent.parent
INCLUDE = ROOT / "libshmem" / "include"

project = "libshmem and pyshmem"
author = "the libshmem developers"
copyright = author
release = re.search(r'^version = "(.+?)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]  # type: ignore[index]
version = release

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "reference"]  # its files are included by c-reference.md and openshmem.md
default_role = "py:obj"  # `put` in a docstring is a link where pyshmem has one such name
add_module_names = False
python_maximum_signature_line_length = 100
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_type_aliases = {
    name: name
    for name in (
        "npt.ArrayLike",
        "npt.DTypeLike",
        "Array",
        "Floats",
        "Float32s",
        "Ids",
        "Int32s",
        "Int64s",
        "Records",
    )
}
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True  # properties are documented where they are defined

# Sphinx writes an alias inside a union as TypeAliasForwardRef('Name'); the name is what a reader wants.
TypeAliasForwardRef.__repr__ = lambda self: self.name.removeprefix("npt.")  # type: ignore[method-assign]

html_theme = "furo"
html_title = f"libshmem and pyshmem {release}"
html_copy_source = False
html_show_sphinx = False

# The tables: file, macro, heads of the columns, and which arguments of the macro they show.
TABLES = {
    "environment": ("environment.def", "SHMEM_ENV", ["Variable", "Kind", "Default", "Meaning"]),
    "errors": ("errors.def", "SHMEMX_ERROR", ["Code", "Value", "Also a", "Meaning"]),
    "transports": ("transports.def", "SHMEM_TRANSPORT", ["Transport", "Meaning"]),
}
PREFIX = {"environment": "SHMEM_", "errors": "SHMEMX_ERR_", "transports": ""}


def read_table(name: str) -> list[list[str]]:
    """The rows of a table, quotes removed; ValueError when the file has a row that is not understood."""
    file, macro, heads = TABLES[name]
    source = re.sub(r"/\*.*?\*/", "", (INCLUDE / file).read_text(encoding="utf-8"), flags=re.DOTALL)
    argument = r'\s*("(?:[^"\\]|\\.)*"|[^",()]+?)\s*'
    rows = [
        [value.strip('"') for value in match.groups()]
        for match in re.finditer(rf"{macro}\({','.join([argument] * len(heads))}\)", source)
    ]
    if not rows or len(rows) != source.count(f"{macro}("):
        raise ValueError(f"{file}: {len(rows)} of {source.count(f'{macro}(')} rows of {macro} are understood")
    return rows


class DefTable(Directive):
    """``{deftable} environment``: the rows of a .def file, first column as code."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        self.state.document.settings.env.note_dependency(str(INCLUDE / TABLES[name][0]))
        heads = TABLES[name][2]
        table, group = nodes.table(classes=["colwidths-auto"]), nodes.tgroup(cols=len(heads))
        group += [nodes.colspec(colwidth=1) for _ in heads]
        head, body = nodes.thead(), nodes.tbody()
        head += _row([nodes.Text(text) for text in heads])
        for row in read_table(name):
            if name == "errors" and row[0] == "SUCCESS":
                row[0] = "SHMEMX_SUCCESS"
            elif not row[0].startswith("SHMEM"):
                row[0] = PREFIX[name] + row[0]
            first = nodes.literal(text=row[0])
            rest = [nodes.Text(text or "–") for text in row[1:]]
            body += _row([first, *rest])
        group += [head, body]
        table += group
        return [table]


def _row(cells: list[nodes.Node]) -> nodes.row:
    row = nodes.row()
    for cell in cells:
        entry, paragraph = nodes.entry(), nodes.paragraph()
        paragraph += cell
        entry += paragraph
        row += entry
    return row


def find_elsewhere(app: Sphinx, env: Any, node: Any, content: nodes.Node) -> nodes.Node | None:
    """`quiet`, written in pyshmem.rma, is pyshmem.order.quiet: links a bare name that only one module has."""
    if node.get("refdomain") != "py" or "." in node["reftarget"]:
        return None
    known = env.get_domain("py").objects
    found = [name for name in known if name.startswith("pyshmem.") and name.endswith("." + node["reftarget"])]
    functions = [name for name in found if known[name].objtype not in ("method", "attribute")]
    if len(functions) != 1:
        return None
    entry = known[functions[0]]
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, content, functions[0])


def literal_blocks(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Examples and aligned tables in docstrings become literal blocks: they are shown as written."""
    out: list[str] = []
    start = 0
    while start < len(lines):
        if not lines[start].strip():
            out.append("")
            start += 1
            continue
        if start + 1 < len(lines) and set(lines[start + 1].strip()) == {"-"}:
            break  # a section of numpydoc, and all that follows
        end = start
        while end < len(lines) and lines[end].strip():
            end += 1
        block = lines[start:end]
        columns = sum(bool(re.match(r"\S+(?: \S+)*\s{2,}\S", line)) for line in block)
        if block[0].startswith("    ") and not _in_literal(out):
            out += ["::", "", *block]
        elif columns >= 2 and "==" not in block[0]:
            out += ["::", "", *("    " + line for line in block)]
        else:
            for before, line in zip(["", *block], block, strict=False):
                if before.startswith(" ") and not line.startswith(" "):
                    out.append("")  # an indented list ends
                out.append(line)
        start = end
    lines[:] = out + lines[start:]


def _in_literal(out: list[str]) -> bool:
    """Whether an indented block that follows continues a literal block or a directive."""
    written = [line for line in out if line.strip()]
    return bool(written) and (written[-1].startswith("    ") or written[-1].endswith("::"))


def one_attribute_each(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """``ranks, rank : int`` under Attributes becomes two entries; napoleon does so for parameters only."""
    if "Attributes" not in lines:
        return
    start = lines.index("Attributes") + 2
    out: list[str] = []
    for entry in re.split(r"\n(?=\S)", "\n".join(lines[start:])):
        head, _, text = entry.partition("\n")
        names, colon, kind = head.partition(" : ")
        for each in names.split(", ") if colon else [names]:
            out += [each + colon + kind, *text.split("\n")]
    lines[start:] = out


def only_measured(app: Sphinx, name: str, source: list[str]) -> None:
    """A tree without measurements has no performance.md, and builds all the same."""
    if name == "index" and not (ROOT / "docs" / "performance.md").is_file():
        source[0] = source[0].replace("\nperformance\n", "\n")


def setup(app: Sphinx) -> None:
    for name in ("c.md", "openshmem.md"):
        if not (ROOT / "docs" / "reference" / name).is_file():
            raise SystemExit(f"docs/reference/{name} is missing: `make docs` makes it")
    app.add_directive("deftable", DefTable)
    app.connect("source-read", only_measured)
    app.connect("missing-reference", find_elsewhere)
    app.connect("autodoc-process-docstring", literal_blocks, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", one_attribute_each, priority=401)
