"""The model of MoE times: what it counts, DeepEP's published rows, and the command."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from pyshmem import cli, model
from pyshmem.bench.figures import Figure, figure
from pyshmem.model import hardware, measured, predict, published, traffic

pytestmark = pytest.mark.npes(1)

H800 = hardware.HARDWARE["h800-cx7"]
BOTH = [hardware.IBGDA, hardware.PROXY]


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, ["model", *arguments])


# ---- against what others have measured ---------------------------------------------------------------------


@pytest.mark.parametrize("c", published.compare(), ids=lambda c: f"{c.row.mode}-{c.row.call}-{c.row.gpus}")
def test_published_rows_within_a_quarter(c: published.Comparison) -> None:
    assert abs(c.error) <= 0.25, f"{c.row}: predicted {c.predicted:.1f}"


def test_the_table_in_the_docs_is_the_models() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "moe-model.md").read_text()
    rows = re.findall(
        r"^\|[^|]*\| (\d+) \| (\d+) \| (\d+), (\S+) % \| (\d+) \| (\d+), (\S+) % \|$", text, re.M
    )
    shown = [
        (call, *(float(x.replace("−", "-")) for x in (row[0], *row[i : i + 3])))
        for call, i in (("dispatch", 1), ("combine", 4))
        for row in rows
    ]
    model = [
        (
            c.row.call,
            float(c.row.gpus),
            c.row.value,
            float(f"{c.predicted:.0f}"),
            float(f"{100 * c.error:.0f}"),
        )
        for c in published.compare()
    ]
    assert sorted(shown) == sorted(model)


def test_no_figure_is_there_for_one_row() -> None:
    """The same hardware, unchanged, for all rows: the worst of them cannot be mended without the others."""
    assert len(published.compare()) == 32
    assert published.compare()[:28] == published.compare(H800)[:28]
    slower = published.compare(replace(H800, nic_gbits=200.0))
    assert sum(abs(c.error) > 0.25 for c in slower) > 10  # the assertion above can fail


def test_bandwidth_drops_at_64_gpus_since_fewer_copies_stay_at_home() -> None:
    """DeepEP's GB/s count copies for the own node: 1 of 4 on 32 GPUs, 1 of 8 on 64; the NIC's rate is one."""
    rows = [c for c in published.compare() if (c.row.mode, c.row.call) == ("normal", "dispatch")]
    rates = {c.row.gpus: c.predicted for c in rows}
    assert rates[32] > rates[64] * 1.1


# ---- counting ----------------------------------------------------------------------------------------------


def _draw(shape: traffic.Shape, rng: random.Random) -> tuple[set[int], set[int]]:
    """Nodes and GPUs of one token; 8 GPUs a node."""
    nodes = shape.gpus // 8
    each = shape.experts // nodes
    chosen = rng.sample(range(nodes), min(shape.limit or nodes, nodes))
    experts = rng.sample([n * each + e for n in chosen for e in range(each)], shape.topk)
    return {e // each for e in experts}, {e // (shape.experts // shape.gpus) for e in experts}


@pytest.mark.parametrize(("gpus", "limit"), [(8, 4), (16, 4), (64, 4), (64, 0), (256, 2)])
def test_expected_copies_are_those_of_random_tokens(gpus: int, limit: int) -> None:
    shape, rng, n = traffic.Shape(gpus, limit=limit), random.Random(gpus + limit), 3000
    drawn = [_draw(shape, rng) for _ in range(n)]
    counted = traffic.Traffic(shape, 8)
    assert counted.copies_to_nodes == pytest.approx(sum(len(d[0]) for d in drawn) / n, rel=0.02)
    assert counted.copies_to_gpus == pytest.approx(sum(len(d[1]) for d in drawn) / n, rel=0.02)


def test_unevenness_is_that_of_random_tokens() -> None:
    shape, rng, worst = traffic.Shape(16, tokens=64, limit=0), random.Random(7), []
    for _ in range(30):
        load = [0] * shape.gpus
        for _ in range(shape.gpus * shape.tokens):
            for e in rng.sample(range(shape.experts), shape.topk):
                load[e * shape.gpus // shape.experts] += 1
        worst.append(max(load) / (sum(load) / len(load)))
    expected = traffic.Traffic(shape, 8).unevenness(shape.topk / shape.gpus, shape.topk)
    assert expected == pytest.approx(sum(worst) / len(worst), abs=0.015)


shapes = st.builds(
    traffic.Shape,
    gpus=st.sampled_from([1, 2, 4, 8, 16, 32, 64, 128, 256]),
    tokens=st.integers(1, 8192), hidden=st.integers(128, 16384), topk=st.integers(1, 8),
    experts=st.sampled_from([256, 512]), limit=st.integers(0, 8),
)  # fmt: skip


@given(shapes)
def test_counts_stay_within_their_bounds(shape: traffic.Shape) -> None:
    t = traffic.Traffic(shape, 8)
    nodes = max(shape.gpus // 8, 1)
    assert 1 <= t.copies_to_nodes <= min(nodes, shape.limit or nodes, shape.topk) + 1e-9
    assert t.copies_to_nodes <= t.copies_to_gpus + 1e-9 <= min(shape.gpus, shape.topk) + 1e-6
    assert t.remote_node_part + t.within_node_part + 1 / shape.gpus == pytest.approx(1)
    assert t.unevenness(t.copies_to_gpus / shape.gpus) >= 1


# ---- predictions -------------------------------------------------------------------------------------------


@given(shapes, st.sampled_from(BOTH), st.sampled_from(["dispatch", "combine"]), st.booleans())
def test_better_hardware_is_never_slower(
    shape: traffic.Shape, path: hardware.Path, call: str, low_latency: bool
) -> None:
    run = predict.low_latency if low_latency else predict.normal
    before = run(call, shape, H800, path, "bf16")
    assert before.us > 0 and before.nic_bytes >= 0 and (before.messages > 0) == (shape.gpus > 8)
    for key, value in (("nvlink", 400.0), ("nic_gbits", 800.0), ("memory", 8000.0), ("trip_us", 0.1)):
        assert run(call, shape, replace(H800, **{key: value}), path, "bf16").us <= before.us + 1e-9, key
    faster = replace(path, rate=2 * path.rate, put_quiet_us=path.put_quiet_us / 2)
    assert run(call, shape, H800, faster, "bf16").us <= before.us + 1e-9
    assert run(call, shape, H800, path, "int8").us <= before.us


def test_proxy_is_bound_by_its_message_rate_and_threads_lift_that() -> None:
    shape = traffic.Shape(64, 128)
    ours = [
        predict.low_latency("dispatch", shape, H800, path, "fp8")
        for path in (hardware.IBGDA, hardware.PROXY, replace(hardware.PROXY, threads=4))
    ]
    assert [p.bottleneck for p in ours] == ["nic", "post", "nic"]
    assert ours[1].us > 2 * ours[0].us and ours[2].us < 1.1 * ours[0].us
    bundled = [
        predict.low_latency("dispatch", shape, H800, hardware.PROXY, "fp8", messages=what)
        for what in predict.MESSAGES
    ]
    assert [round(p.messages) for p in bundled] == [896 + 224, 224, 56] and bundled[2].us < bundled[0].us / 2
    normal = [predict.normal("dispatch", replace(shape, tokens=4096), H800, p, "fp8").us for p in BOTH]
    assert normal[1] == pytest.approx(normal[0], rel=0.02)  # few, large messages
    one = replace(shape, tokens=1, topk=1)
    few = [predict.low_latency("dispatch", one, H800, replace(p, rate=180), "fp8").us for p in BOTH]
    assert few[1] < few[0]  # a single message is sooner there by the proxy


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"gpus": 12}, "do not fill nodes"),
        ({"experts": 100}, "not shared evenly"),
        ({"experts": 32}, "not shared evenly"),
        ({"tokens": 0}, "at least 1"),
        ({"gpus": 256, "limit": 1, "topk": 9}, "impossible"),
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, int], text: str) -> None:
    shape = replace(traffic.Shape(64), **change)
    with pytest.raises(ValueError, match=text):
        predict.normal("dispatch", shape, H800, hardware.IBGDA, "fp8")
    with pytest.raises(ValueError, match="'fp4' is not among"):
        predict.row_bytes("fp4", 7168)


# ---- figures in place of the documented ones ---------------------------------------------------------------


def _nic(op: str, unit: str, value: float, form: str = "") -> Figure:
    return figure("proxy", "nic", op, 8, 2, unit, [value], blocks=1, form=form)  # type: ignore[arg-type]


def test_measured_figures_replace_the_documented(tmp_path: Path) -> None:
    found = [
        _nic("post", "ns", 400.0),
        _nic("post", "ns", 300.0, form="p"),
        _nic("put + quiet", "ns", 6000.0),
        _nic("messages", "M/s", 1.0, form="1 thread"),
        _nic("messages", "M/s", 3.0, form="32 threads"),
    ]
    base = hardware.PROXY
    assert measured.with_figures(hardware.IBGDA, found) == hardware.IBGDA
    assert measured.with_figures(base, found) == replace(base, post_us=0.4)
    real = measured.with_figures(base, found, real_nic=True)
    assert real == replace(base, post_us=0.4, put_quiet_us=6.0, rate=3.0)
    file = tmp_path / "nic.json"
    file.write_text("\n".join(f.to_json() for f in found) + "\n")
    slow = json.loads(invoke("--json", "--gpus", "64", "--figures", str(file), "--real-nic").output)
    fast = json.loads(invoke("--json", "--gpus", "64").output)
    by = [{(p["mode"], p["call"], p["path"]): p["us"] for p in got["predictions"]} for got in (slow, fast)]
    key = ("low_latency", "dispatch", "proxy")
    assert by[0][key] < by[1][key] and len(by[0]) == 8


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("nvlnk=3", "is no figure"),
        ("nvlink=x", "is a number"),
        ("nvlink=0", "above 0"),
        ("sms=1.5", "a number"),
    ],
)
def test_wrong_figures_are_named(given: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        model.changed(H800, given)
    done = invoke("--set", given)
    assert done.exit_code == 2 and "--set" in done.output


# ---- the command -------------------------------------------------------------------------------------------


def test_tables() -> None:
    done = invoke("--gpus", "8,64")
    assert done.exit_code == 0, done.output
    assert "low latency: 128 tokens a GPU, h800-cx7" in done.output and "proxy / ibgda" in done.output
    done = invoke("--published")
    assert done.exit_code == 0 and "32 of 32 rows within 25%" in done.output


def test_json_has_every_part_and_the_parts_add_up() -> None:
    done = invoke("--json", "--published", "--mode", "low_latency", "--gpus", "16", "--tokens", "32")
    found = json.loads(done.output)
    assert len(found["predictions"]) == 4 and len(found["published"]) == 32
    for p in found["predictions"]:
        assert p["us"] == pytest.approx(max(p["stages"].values()) + sum(p["rest"].values()))
        assert (p["gpus"], p["tokens"]) == (16, 32)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--gpus", "8,x"], "not a list"),
        (["--gpus", "12"], "do not fill"),
        (["--real-nic"], "--figures"),
        (["--figures", __file__], "holds no figures"),
        (["--plot", "/nowhere/x.svg", "--gpus", "8"], "cannot write"),
    ],
)
def test_what_the_command_refuses(arguments: list[str], text: str) -> None:
    done = invoke(*arguments)
    assert done.exit_code != 0 and text in done.output, done.output


def test_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / "model.png"
    done = invoke("--plot", str(file), "--gpus", "8,16,32")
    assert done.exit_code == 0, done.output
    assert file.read_bytes().startswith(b"\x89PNG")
