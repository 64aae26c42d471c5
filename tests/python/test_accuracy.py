"""The command `pyshmem accuracy`: figures, tables, plot, and what it says where something is missing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from pyshmem.accuracy import model, show, synthetic, transfer
from pyshmem.accuracy.command import _count, accuracy

pytestmark = pytest.mark.npes(1)


def test_ways_differ_as_they_should() -> None:
    rows = np.random.default_rng(0).standard_normal((64, 512)).astype(np.float32)
    sqnr = {}
    for way in transfer.WAYS:
        error = transfer.Error()
        error.add(rows, way.send(rows))
        sqnr[way.name] = error.figures("x")["x_sqnr_db"]
    assert sqnr["none"] is None
    ranked = ["FP8 g128", "INT8 row", "INT8 g128", "INT8 g64", "INT8 g32", "BF16"]
    assert ranked == sorted(ranked, key=lambda name: sqnr[name] or 0)


def test_outlier_channels_are_where_fp8_wins() -> None:
    found = {(f["data"], f["way"]): f["rows_sqnr_db"] for f in synthetic.run(rows=128)}
    outliers = "8 outlier channels x50"
    assert found[(outliers, "FP8 g128")] > found[(outliers, "INT8 g128")] > found[(outliers, "INT8 row")] + 10
    assert found[("Gaussian", "FP8 g128")] < found[("Gaussian", "INT8 g128")]


def test_the_bar_knows_how_many_figures_come() -> None:
    assert _count(("synthetic",)) == len(list(synthetic.run(rows=4, cols=256)))
    assert _count(("model", "training", "training")) == 1 + 2 * (len(transfer.WAYS) - 1) + 6


def test_json_and_plot(tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    done = CliRunner().invoke(accuracy, ["--only", "synthetic", "--json", "--plot", str(picture)])
    assert done.exit_code == 0, done.output
    figures = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(figures) == len(synthetic.DATA) * (len(transfer.WAYS) - 1)
    assert picture.read_bytes().startswith(b"\x89PNG")
    done = CliRunner().invoke(accuracy, ["--only", "synthetic"])
    assert "8 outlier channels x50" in done.stdout


def test_plot_of_everything(tmp_path: Path) -> None:
    figures = list(synthetic.run(rows=8))
    for way in transfer.WAYS:
        for where in ("dispatch", "both"):
            figures.append(
                {"kind": "model", "way": way.name, "where": where, "perplexity": 14.5, "tokens": 767}
            )
    for name in ("digits", "transformer"):
        for reduction in ("float32", "INT8 g128"):
            loss = [2.0, 1.0, 0.5]
            figures.append(
                {"kind": "training", "model": name, "reduction": reduction, "pes": 2, "loss": loss}
            )
    show.plot(figures, str(tmp_path / "a.svg"))
    assert "transformer" in (tmp_path / "a.svg").read_text() or (tmp_path / "a.svg").stat().st_size > 10_000


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(model.MissingError, match=r"not installed: no-such-package; pip install .*accuracy"):
        model.require({"no_such_module": "no-such-package", "numpy": "numpy"})
    monkeypatch.setitem(model.NEEDED, "no_such_module", "no-such-package")
    done = CliRunner().invoke(accuracy, ["--only", "model"])
    assert done.exit_code == 1 and "no-such-package" in done.output and "Traceback" not in done.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--plot", "a.jpg"], "must end in .png"),
        (["--tokens", "1"], "--tokens"),
        (["--only", "speed"], "--only"),
        (["--text", "/no/such/file"], "--text"),
    ],
)
def test_refused(options: list[str], message: str) -> None:
    done = CliRunner().invoke(accuracy, options)
    assert done.exit_code == 2 and message in done.output


def test_training_over_two_pes() -> None:
    pytest.importorskip("torch")
    done = CliRunner().invoke(accuracy, ["--only", "training", "--steps", "30", "--json"])
    assert done.exit_code == 0, done.output
    curves = {(f["model"], f["reduction"]): f["loss"] for f in map(json.loads, done.stdout.splitlines())}
    assert len(curves) == 6
    for name in ("digits", "transformer"):
        full, int8 = curves[(name, "float32")], curves[(name, "INT8 g128")]
        assert full[0] == pytest.approx(int8[0], rel=1e-6) and full != int8
        assert full[-1] < full[0] and int8[-1] == pytest.approx(full[-1], rel=0.1)


def test_the_model_itself() -> None:
    for module in model.NEEDED:
        pytest.importorskip(module)
    done = CliRunner().invoke(accuracy, ["--only", "model", "--tokens", "128", "--json"])
    assert done.exit_code == 0, done.output
    found = {(f["way"], f["where"]): f["perplexity"] for f in map(json.loads, done.stdout.splitlines())}
    assert found[("INT8 g128", "both")] == pytest.approx(found[("none", "dispatch")], rel=0.05)
    assert sys.modules.get("transformers") is not None
