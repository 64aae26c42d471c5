"""One source text from the device headers, for compilers that are given text and no folders."""

from __future__ import annotations

import re
from pathlib import Path

_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]+"([^"\n]+)"[^\n]*$', re.MULTILINE)


def flatten(path: Path, seen: set[Path] | None = None) -> str:
    """The file with every ``#include "..."`` replaced by that file's text, each file once."""
    seen = set() if seen is None else seen
    path = path.resolve()
    if path in seen:
        return ""
    seen.add(path)

    def included(match: re.Match[str]) -> str:
        beside = path.parent / match[1]
        return flatten(beside if beside.is_file() else path.parents[1] / match[1], seen)

    return _INCLUDE.sub(included, path.read_text())
