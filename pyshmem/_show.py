"""What `pyshmem info` and `pyshmem doctor` found, for people."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape

__all__ = ["doctor", "info"]


def _section(console: Console, title: str, rows: list[tuple[str, str]]) -> None:
    console.print(f"[bold]{title}[/]", highlight=False)
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        console.print(f"  {name:<{width}}  {value}", markup=False, highlight=False, soft_wrap=True)


def _colon(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name, value.strip()


def info(found: dict[str, Any]) -> None:
    console = Console()
    library, python, machine, job, mpi = (found[k] for k in ("library", "python", "machine", "job", "mpi"))
    rows = [("libshmem", library["version"] or "?"), ("path", library["path"] or "missing")]
    _section(console, "library", [*rows, ("int8", found["int8"] or "?")])
    rows = [("python", f"{python['version']}  {python['executable']}")]
    packages = {n: python[n] for n in ("sushmem", "numpy", "cffi", "ml_dtypes")} | found["modules"]
    _section(console, "python", rows + [(n, v or "not installed") for n, v in packages.items()])
    usable = f"{machine['usable']} ({', '.join(map(str, machine['affinity']))})"
    rows = [("system", machine["system"])]
    _section(console, "machine", [*rows, ("processors", f"{machine['cpus']}, this process may use {usable}")])
    rows = [
        ("job", job["text"] or "?"),
        ("failed", job["error"]),
        ("node", job["node"]),
        ("heap", found["heap"]),
        ("NUMA", found["numa"]),
    ]
    _section(console, "job", [(name, value) for name, value in rows if value])
    _section(console, "bootstraps, in the order they are tried", [_colon(x) for x in found["bootstraps"]])
    _section(console, "transports, in the order of choice", [_colon(x) for x in found["transports"]])
    if found["ibgda"]:
        _section(console, "NICs that kernels post to themselves", [("ibgda", found["ibgda"])])
    _section(console, "routes", [_colon(line) for line in found["routes"]])
    rows = [("mpirun", f"{m['flavour']} {m['version']}  {m['path']}") for m in mpi["mpirun"]]
    if not rows:
        rows = [
            ("mpirun", "not found: pip install 'sushmem[mpi]' brings Open MPI's, 'sushmem[mpich]' MPICH's")
        ]
    one = mpi["mpi4py"]
    rows.append(("mpi4py", f"{one['version']}, {one['library']}" if one["library"] else one["why_not"]))
    if mpi["note"]:
        rows.append(("note", mpi["note"]))
    _section(console, "MPI, first mpirun is used", rows)
    rows = []
    for name, lib in found["libraries"].items():
        where = lib["found"] or f"not found: {lib['why_not']}"
        rows.append((name, f"{where}  ({lib['purpose']})"))
    _section(console, "libraries opened when needed", rows)
    rows = []
    for v in found["variables"]:
        value = f"{v['value'] or 'empty'}{' (set)' if v['set'] else ''}"
        rows.append((v["name"], f"{value}  {v['text']}; default {v['default'] or 'empty'}"))
    _section(console, "environment variables", rows)


# ---- doctor ------------------------------------------------------------------------------------------------

_MARKS = {"ok": "[green]ok  [/]", "none": "[dim]-   [/]", "warn": "[yellow]warn[/]", "bad": "[red]bad [/]"}


def doctor(hosts: dict[str, Any], routes: list[str], seconds: list[list[float]]) -> None:
    console = Console()
    for host, report in sorted(hosts.items()):
        console.print(
            f"[bold]{escape(host)}[/]: {escape(report['node'] or '?')}", highlight=False, soft_wrap=True
        )
        width = max(len(check["name"]) for check in report["checks"])
        for check in report["checks"]:
            line = f"{_MARKS[check['state']]}  {check['name']:<{width}}  {escape(check['found'])}"
            console.print("  " + line, highlight=False, soft_wrap=True)
            if check["advice"]:
                console.print(
                    f"        {'':<{width}}  -> {escape(check['advice'])}", highlight=False, soft_wrap=True
                )
    _section(console, "routes of PE 0", [_colon(line) for line in routes])
    shown = range(min(len(seconds), 16))
    header = "".join(f"{f'to {peer}':>9}" for peer in shown)
    rows = [("", header)] + [
        (f"PE {pe}", "".join(f"{seconds[pe][k] * 1e6:9.2f}" for k in shown)) for pe in shown
    ]
    _section(console, "8-byte put and quiet from Python, microseconds, median", rows)
    if len(seconds) > len(shown):
        slow = max((t, pe, peer) for pe, row in enumerate(seconds) for peer, t in enumerate(row))
        console.print(
            f"  slowest of all {len(seconds)} PEs: PE {slow[1]} to {slow[2]}, {slow[0] * 1e6:.2f} us"
        )
