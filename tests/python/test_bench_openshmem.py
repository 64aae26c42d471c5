"""`pyshmem bench --peer` beside another OpenSHMEM: one C source, compiled for both."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

import pyshmem
from pyshmem.bench import openshmem_peer
from pyshmem.bench.figures import Figure
from pyshmem.bench.launch import find_launchers
from pyshmem.bench.run import Report

pytestmark = pytest.mark.npes(1)


def test_figures() -> None:
    """All samples make a face's figure; a ratio is taken for each pair of runs."""
    ours = [{("get", 8): [10.0, 11.0, 12.0]}, {("get", 8): [20.0, 22.0, 30.0]}]
    theirs = [{("get", 8): [40.0, 44.0, 50.0]}, {("get", 8): [11.0, 11.0, 11.0]}]
    mine, peer, ratio = openshmem_peer.figures_of(ours, theirs, 2)
    assert (mine.face, mine.rounds, mine.median) == (openshmem_peer.OUR_FACE, 6, 16.0)
    assert (peer.face, peer.rounds) == (openshmem_peer.PEER_FACE, 6)
    assert (ratio.unit, ratio.q1, ratio.q3) == ("x", 0.5, 4.0)


def test_no_oshcc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("OSHCC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(openshmem_peer.PeerMissing, match="no oshcc on PATH"):
        openshmem_peer.run(1, Report(lambda f: None, lambda s, p: None, lambda t: None))


def test_compiler_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    if not find_launchers():
        pytest.skip("no mpirun")
    monkeypatch.setenv("OSHCC", shutil.which("false") or "/bin/false")
    with pytest.raises(openshmem_peer.PeerMissing, match="ended with status 1"):
        openshmem_peer.run(1, Report(lambda f: None, lambda s, p: None, lambda t: None))


def test_both_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An oshcc that compiles for libshmem too: every call is measured on either side."""
    launchers = find_launchers()
    if not launchers or launchers[0].flavour != "Open MPI":
        pytest.skip("no mpirun of Open MPI, whose options the other side gets")
    package = Path(pyshmem.__file__).parent
    oshcc = tmp_path / "oshcc"
    oshcc.write_text(
        f'#!/bin/sh\nexec cc "$@" -I"{package}/include" -L"{package}/lib" -Wl,-rpath,"{package}/lib" '
        "-l:libshmem.so.0\n"
    )
    oshcc.chmod(0o755)
    monkeypatch.setenv("OSHCC", str(oshcc))
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    found: list[Figure] = []
    openshmem_peer.run(1, Report(found.append, lambda s, p: None, lambda t: None))
    by_face = {face: [f for f in found if f.face == face] for face in {f.face for f in found}}
    assert len(by_face) == 3
    assert all(len(figures) == 28 for figures in by_face.values())
    assert all(f.median > 0 for f in found)
