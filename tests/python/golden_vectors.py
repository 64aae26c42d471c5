"""The lines of tests/sim/golden.def, for tests in Python. The columns are those of tests/sim/golden.h."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

TEXT = (Path(__file__).resolve().parents[1] / "sim/golden.def").read_text()
QPN = 0xA1B2
SIGNALLED, FENCE, SOLICITED, INLINE, RAW = 1, 2, 4, 8, 16
_WQE = [
    "depth", "index", "opcode", "opmod", "flags", "raddr", "rkey", "imm", "swap_add", "compare", "swap_mask",
    "compare_mask",
]  # fmt: skip
_CQE = ["polled", "status", "vendor", "opcode", "byte_len", "imm", "qpn", "index", "record"]


def wqes() -> list[dict[str, Any]]:
    found = []
    for text in re.findall(r"^GOLDEN_WQE\((.*?)\)\n(?=GOLDEN|\Z)", TEXT, flags=re.S | re.M):
        head, rest = text.split("GOLDEN_SGES(", 1)
        sges, rest = rest.split("),", 1)
        name, *numbers = [part.strip() for part in head.rstrip(", \n").split(",")]
        strings = re.findall(r'"([0-9a-f ]*)"', rest)
        record = re.search(r'", (-1|0x[0-9a-f]+), "', rest)
        assert record and len(strings) == 3
        segments = [tuple(int(n, 0) for n in s.split(",")) for s in re.findall(r"\{(.*?)\}", sges)]
        found.append(
            {"name": name, **dict(zip(_WQE, (int(n, 0) for n in numbers), strict=True)),
             "sges": segments[: int(sges.split(",")[0])], "inlined": bytes.fromhex(strings[0]),
             "record": int(record[1], 0), "uar": bytes.fromhex(strings[1]), "wqe": bytes.fromhex(strings[2])}
        )  # fmt: skip
    return found


def cqes() -> list[dict[str, Any]]:
    found = []
    for text in re.findall(r"^GOLDEN_CQE\((.*?)\)$", TEXT, flags=re.S | re.M):
        parts = [part.strip() for part in text.split(",")]
        found.append(
            {"name": parts[0], "entries": int(parts[1]), "consumer": int(parts[2]),
             "cqe": bytes.fromhex(parts[3].strip('"')),
             **dict(zip(_CQE, (int(n, 0) for n in parts[4:]), strict=True))}
        )  # fmt: skip
    return found
