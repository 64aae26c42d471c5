"""The programs of examples/ do what their texts say, started as a user starts them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.npes(1)

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
RunPes = Callable[..., "subprocess.CompletedProcess[str]"]
RunExample = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def run_example(run_pes: RunPes) -> RunExample:
    """run_example(n, name, *options, before="") runs an example in n PEs, after the statements `before`."""

    def run(n: int, name: str, *options: str, before: str = "") -> subprocess.CompletedProcess[str]:
        path = str(EXAMPLES / name)
        code = f"import runpy, sys; sys.argv = {[path, *options]!r}; {before}\n"
        return run_pes(n, code + f"runpy.run_path({path!r}, run_name='__main__')", timeout=300)

    return run


def lines(finished: subprocess.CompletedProcess[str]) -> list[str]:
    assert finished.returncode == 0, finished.stderr
    return sorted(line for line in finished.stdout.splitlines() if line)


# ---- the small ones ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 4])
def test_ring(run_example: RunExample, n: int) -> None:
    left = [(pe - 1) % n for pe in range(n)]
    expected = [
        f"PE {pe} of {n}: my left neighbour sent {[p, p**2, p**3]}"
        for pe, p in zip(range(n), left, strict=True)
    ]
    assert lines(run_example(n, "ring.py")) == expected


@pytest.mark.parametrize("n", [1, 2])
def test_overlap(run_example: RunExample, n: int) -> None:
    mean = [layer + (n - 1) / 2 for layer in range(4)]
    expected = [f"PE {pe} of {n}: mean gradients {mean}" for pe in range(n)]
    assert lines(run_example(n, "overlap.py")) == expected


@pytest.fixture(scope="module")
def compiled(job: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """compiled("hello.c") is that example's program, made by the wrapper that the package brings."""
    folder = tmp_path_factory.mktemp("C examples")

    def make(name: str) -> str:
        program = folder / name.removesuffix(".c")
        wrapper = Path(job.__path__[0]) / "bin" / "shmemcc"
        command = [
            str(wrapper),
            "-std=c11",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-o",
            str(program),
            str(EXAMPLES / name),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return str(program)

    return make


@pytest.fixture
def run_compiled(run_pes: RunPes, compiled: Callable[[str], str]) -> Callable[[int, str], list[str]]:
    def run(n: int, name: str) -> list[str]:
        program = compiled(name)
        return lines(run_pes(n, f"import os; os.execv({program!r}, [{program!r}])"))

    return run


@pytest.mark.parametrize("n", [1, 2, 4])
def test_hello(run_compiled: Callable[[int, str], list[str]], n: int) -> None:
    expected = [f"PE {pe} of {n}: my left neighbour is {(pe - 1) % n}" for pe in range(n)]
    assert run_compiled(n, "hello.c") == expected


@pytest.mark.parametrize("n", [1, 2, 4])
def test_generics(run_compiled: Callable[[int, str], list[str]], n: int) -> None:
    expected = " ".join(f"{pe + i / 10:g}" for pe in range(n) for i in range(pe + 1))
    assert [line.strip() for line in run_compiled(n, "generics.c")] == [expected]


@pytest.mark.parametrize("n", [1, 2, 4])
def test_active_set(run_compiled: Callable[[int, str], list[str]], n: int) -> None:
    evens = range(0, n, 2)
    expected = [f"PE {pe} of {n}: the even PEs have {sum(evens)} in all" for pe in evens]
    assert run_compiled(n, "active_set.c") == expected


def test_fused_quant(job: Any, tmp_path: Path) -> None:
    package, program = Path(job.__path__[0]), tmp_path / "fused_quant"
    flags = [
        f"-I{package / 'include'}",
        str(package / "lib" / "libshmem.so.0"),
        f"-Wl,-rpath,{package / 'lib'}",
    ]
    source = str(EXAMPLES / "fused_quant.c")
    command = ["gcc", "-Wall", "-Wextra", "-Werror", "-o", str(program), source, *flags, "-lm"]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    done = subprocess.run([str(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "270336 bytes each instead of 1048576" in done.stdout, done.stdout


@pytest.mark.parametrize("n", [1, 2, 3])
def test_ddp_int8(run_example: RunExample, n: int) -> None:
    pytest.importorskip("torch")
    text = "\n".join(lines(run_example(n, "ddp_int8.py")))
    full, int8 = (
        float(text.split(f"{kind} gradients ")[1].split()[0].strip(",")) for kind in ("float32", "INT8")
    )
    assert 0 < int8 < full * 1.3 + 0.01 and full < 0.6
    assert float(text.split("largest error ")[1].split()[0]) < 0.03


# ---- the mixture of experts -------------------------------------------------------------------------------


def result(finished: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert finished.returncode == 0, finished.stderr
    found: dict[str, Any] = json.loads(finished.stdout)
    found["runs"] = {run["name"]: run for run in found["runs"]}
    return found


@pytest.mark.parametrize("n", [1, 2, 4])
def test_digits(run_example: RunExample, n: int) -> None:
    found = result(run_example(n, "moe_digits.py", "--json"))
    assert found["pes"] == n
    full, int8, alone = (found["runs"][name] for name in ("float32", "INT8", "one process"))

    # Top-2 sums do not depend on the order, and what does not travel is float64: rare roundings differ.
    assert max(full["parameter_difference"], full["logit_difference"]) < 1e-6
    assert full["test_accuracy"] == alone["test_accuracy"]
    # INT8 really took part, and did no harm.
    assert int8["parameter_difference"] > 1e-4
    assert int8["test_accuracy"][-1] > full["test_accuracy"][-1] - 1
    assert [check["ok"] for check in found["checks"]] == [True, True]

    for run in (full, int8, alone):
        assert len(run["test_loss"]) == len(run["test_accuracy"]) == len(run["train_loss"]) == 15
        assert run["test_accuracy"][-1] > 96
        assert run["train_loss"][-1] < run["train_loss"][0] / 3
    for way in ("dispatch", "combine"):
        assert full[f"{way}_us"] > 0 and int8[f"{way}_us"] > 0
        if n == 1:
            assert full[f"{way}_bytes"] == int8[f"{way}_bytes"] == 0
        else:
            assert 0 < int8[f"{way}_bytes"] < 0.45 * full[f"{way}_bytes"]


@pytest.mark.parametrize(
    ("n", "options"),
    [
        (4, "--experts 6 --epochs 2"),  # two PEs have two experts, two have one
        (4, "--experts 3 --batch 3 --epochs 1"),  # a PE without experts, one without images
        (3, "--topk 4 --hidden 256 --epochs 2"),  # sums of more than two terms
        (2, "--experts 1 --topk 1 --epochs 1"),
        (8, "--experts 12 --epochs 1"),
    ],
)
def test_digits_in_other_shapes(run_example: RunExample, n: int, options: str) -> None:
    found = result(run_example(n, "moe_digits.py", "--quant", "none", "--json", *options.split()))
    assert list(found["runs"]) == ["float32", "one process"]
    full, alone = found["runs"].values()
    assert max(full["parameter_difference"], full["logit_difference"]) < 1e-4
    assert full["test_accuracy"] == alone["test_accuracy"]
    assert [check["ok"] for check in found["checks"]] == [True]


def test_digits_prints_a_table_and_progress(run_example: RunExample, tmp_path: Path) -> None:
    plot = tmp_path / "digits.png"
    done = run_example(2, "moe_digits.py", "--epochs", "1", "--plot", str(plot))
    assert done.returncode == 0, done.stderr
    for text in ("float32", "INT8", "one process", "test accuracy", "test loss", "dispatch: µs a batch"):
        assert text in done.stdout
    assert done.stdout.count("largest difference of a weight") == 1
    assert "float32 transfers equal one process" in done.stdout
    for name in ("float32", "INT8", "one process"):
        assert any(line.startswith(name) and "1/1 epochs" in line for line in done.stderr.splitlines())
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_digits_int8_alone_is_compared_with_one_process(run_example: RunExample) -> None:
    found = result(run_example(1, "moe_digits.py", "--epochs", "1", "--quant", "int8", "--json"))
    assert list(found["runs"]) == ["INT8", "one process"]
    assert len(found["checks"]) == 1 and "INT8" in found["checks"][0]["text"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--topk 9", "--topk is 9, it must not exceed --experts = 8"),
        ("--experts 40 --topk 33", "--topk is 33"),
        ("--topk 0", "--topk is 0, it must be at least 1"),
        ("--experts 0", "--experts is 0, it must be at least 1"),
        ("--hidden 100", "--hidden is 100, it must be a multiple of 128"),
        ("--epochs 0", "--epochs is 0"),
        ("--batch -1", "--batch is -1"),
        ("--seed -1", "--seed is -1"),
        ("--quant int4", "int4"),
        ("--plot digits.jpg", "must end in .png"),
        ("--plot /no/such/folder/a.png", "there is no folder /no/such/folder"),
    ],
)
def test_digits_refuses(run_example: RunExample, options: str, message: str) -> None:
    done = run_example(1, "moe_digits.py", *options.split())
    assert done.returncode != 0
    assert done.stdout.strip() == "" and message in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("module", ["matplotlib", "sklearn"])
def test_digits_names_what_is_missing(run_example: RunExample, module: str) -> None:
    done = run_example(2, "moe_digits.py", "--plot", "a.png", before=f"sys.modules[{module!r}] = None")
    assert done.returncode != 0
    assert done.stderr.count("pip install") == 1 and "Traceback" not in done.stderr
