"""The command `pyshmem`: info, config and bench, as a user runs them. No test looks at a time."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pyshmem import _report, cli
from pyshmem.bench import figures, launch, others, show
from pyshmem.bench.figures import GROUPS, Figure, figure, from_json, quartiles, with_target

_FOREIGN = (*launch.LAUNCHER_PREFIXES, "SHMEM_", "RANK", "WORLD_SIZE", "MASTER_")

# Jobs are started from here; inside one there is nothing more to see.
pytestmark = pytest.mark.npes(1)


def environment(**more: str) -> dict[str, str]:
    """Of a process that no launcher has started."""
    found = {k: v for k, v in os.environ.items() if not k.startswith(_FOREIGN)}
    return {**found, "SHMEM_TIMEOUT": "60", **more}


def pyshmem(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Runs the command in a process of its own, away from the source tree."""
    return subprocess.run(
        launch.python_command(*arguments), env=environment(**more), cwd="/", capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, arguments)


def lines_of(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def some_figure(**change: object) -> Figure:
    fields = {"face": "C", "group": "put", "op": "put", "bytes": 8, "npes": 2, "unit": "ns", "median": 15.0,
              "q1": 14.0, "q3": 16.0, "rounds": 5, **change}  # fmt: skip
    return with_target(Figure(**fields))  # type: ignore[arg-type]


# ---- info --------------------------------------------------------------------------------------------------


def test_info_json_says_what_was_found_and_why_not_the_rest() -> None:
    done = pyshmem("info", "--json", SHMEM_SYMMETRIC_SIZE="64M")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) == {
        "library", "python", "machine", "job", "bootstraps", "transports", "ibgda", "routes", "heap", "numa",
        "int8", "variables", "mpi", "libraries", "modules",
    }  # fmt: skip
    assert Path(found["library"]["path"]).name == "libshmem.so.0"
    assert found["job"]["started"] is True and "PE 0 of 1" in found["job"]["text"]
    assert [line.split(":")[0] for line in found["bootstraps"]] == ["uid", "pmix", "pmi", "env", "single"]
    assert "chosen" in found["bootstraps"][-1] and "no RANK" in found["bootstraps"][-2]
    assert any(line.startswith("shm: available") for line in found["transports"])
    assert found["routes"] == ["host memory of PE 0: shm"]
    variables = {v["name"]: v for v in found["variables"]}
    assert variables["SHMEM_SYMMETRIC_SIZE"]["set"] and variables["SHMEM_SYMMETRIC_SIZE"]["value"] == str(
        64 << 20
    )
    assert variables["SHMEM_SYMMETRIC_SIZE"]["default"] == "1G"
    assert not variables["SHMEM_DEBUG"]["set"]
    for name, library in found["libraries"].items():
        assert bool(library["found"]) != bool(library["why_not"]), name
    assert found["machine"]["usable"] == len(found["machine"]["affinity"])


def test_doctor_names_each_link_and_pings() -> None:
    done = pyshmem("doctor", "--json")
    report = json.loads(done.stdout)
    assert (report["state"] == "bad") == (done.returncode == 1), done.stderr
    (host,) = report["hosts"].values()
    names = [check["name"] for check in host["checks"]]
    assert {"RDMA devices", "GPU", "transport shm", "transport wire"} <= set(names)
    assert host["routes"] == ["host memory of PE 0: shm"]
    assert 0 < report["ping_seconds"][0][0] < 1
    shown = pyshmem("doctor")
    assert all(name in shown.stdout for name in names) and "to 0" in shown.stdout


def test_info_for_people_names_every_part() -> None:
    done = pyshmem("info")
    assert done.returncode == 0, done.stderr
    for word in (
        "libshmem",
        "bootstraps",
        "transports",
        "mpirun",
        "libibverbs.so.1",
        "SHMEM_TIMEOUT",
        "numpy",
    ):
        assert word in done.stdout
    assert done.stdout == "\n".join(line.rstrip() for line in done.stdout.splitlines()) + "\n"


def test_info_where_no_job_can_be_started_says_why_and_ends_with_1() -> None:
    done = pyshmem("info", "--json", SHMEM_BOOTSTRAP="carrier-pigeon")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert found["job"]["started"] is False
    assert "carrier-pigeon" in found["job"]["error"] and "pmix" in found["job"]["error"]


def test_info_under_mpirun_is_printed_once() -> None:
    launcher = launch.find_launchers()[0]
    text = "".join(launch.start(launcher, 3, launch.python_command("info", "--json")))
    assert "PE 0 of 3" in json.loads(text)["job"]["text"]


def test_a_module_without_its_library_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> object:
        raise RuntimeError("cannot load MPI library")

    monkeypatch.setattr(_report, "_version", lambda name: "4.1")
    monkeypatch.setattr(_report.importlib, "import_module", broken)
    assert "cannot load MPI library" in (_report._mpi4py()["why_not"] or "")


def test_an_mpirun_of_another_mpi_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_report, "_mpi4py", lambda: {"version": "4", "library": "MPICH 5", "why_not": None})
    note = _report._mpi([{"path": "/x/mpirun", "flavour": "Open MPI", "version": "5"}])["note"]
    assert "Open MPI" in note and "MPICH 5" in note
    assert _report._mpi([{"path": "/x/mpirun", "flavour": "MPICH", "version": "5"}])["note"] is None


# ---- config ------------------------------------------------------------------------------------------------

_PROGRAM = r"""
#include <shmem.h>
#include <stdio.h>
int main(void)
{
    shmem_init();
    long *a = shmem_calloc(1, sizeof *a);
    shmem_long_atomic_add(a, shmem_my_pe() + 1, 0);
    shmem_barrier_all();
    if (shmem_my_pe() == 0)
        printf("%d PEs, sum %ld\n", shmem_n_pes(), *a);
    shmem_finalize();
    return 0;
}
"""


def test_config_builds_a_c_program_that_runs_under_mpirun(tmp_path: Path) -> None:
    flags = shlex.split(pyshmem("config", "--cflags", "--libs").stdout)
    (tmp_path / "hello.c").write_text(_PROGRAM)
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler, "this test needs a C compiler"
    command = [compiler, "-Wall", "-Werror", str(tmp_path / "hello.c"), "-o", str(tmp_path / "hello"), *flags]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    text = "".join(launch.start(launch.find_launchers()[0], 3, [str(tmp_path / "hello")]))
    assert "3 PEs, sum 6" in text


def test_config_prints_one_folder_each() -> None:
    where = _report.paths()
    for option, path in (("--includedir", where["includedir"]), ("--libdir", where["libdir"])):
        assert invoke("config", option).output.strip() == str(path)
    assert (Path(invoke("config", "--includedir").output.strip()) / "shmem.h").exists()
    assert Path(invoke("config", "--prefix").output.strip()) == where["prefix"]


def test_config_quotes_folders_with_spaces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = tmp_path / "a b"
    (home / "lib").mkdir(parents=True)
    (home / "lib" / "libshmem.so.0").touch()
    found = {"prefix": home, "includedir": home / "include", "libdir": home / "lib"}
    monkeypatch.setattr(cli, "paths", lambda: {**found, "library": home / "lib" / "libshmem.so.0"})
    assert shlex.split(invoke("config", "--cflags").output) == [f"-I{home}/include"]
    assert f"-Wl,-rpath,{home}/lib" in shlex.split(invoke("config", "--libs").output)


def test_config_without_a_wish_or_a_library_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    empty = invoke("config")
    assert empty.exit_code == 2 and "--cflags" in empty.output
    monkeypatch.setattr(cli, "paths", lambda: dict.fromkeys(_report.paths(), tmp_path / "gone"))
    gone = invoke("config", "--libs")
    assert gone.exit_code == 1 and "was not installed by pip" in gone.output


# ---- bench -------------------------------------------------------------------------------------------------


def test_bench_json_is_a_line_for_each_figure() -> None:
    done = pyshmem("bench", "--quick", "--repeat", "2", "--only", "put", "--json")
    assert done.returncode == 0, done.stderr
    assert "starting 2 PE(s) with" in done.stderr
    head, *rest = lines_of(done.stdout)
    assert head["program"] == "pyshmem bench" and head["npes"] == 2
    found = [from_json(json.dumps(line)) for line in rest]
    assert all(found) and {f.group for f in found if f} == {"put"}
    assert {f.face for f in found if f} == {"C", "Python"}
    assert {f.bytes for f in found if f and f.op == "put"} >= {8, 1024, 1 << 20, 4 << 20}
    for f in found:
        assert f and 0 < f.q1 <= f.median <= f.q3
    assert next(f for f in found if f and f.op == "put" and f.bytes == 8).target == 20


def test_bench_in_a_job_of_one_and_every_group_from_c_and_python() -> None:
    launcher = launch.find_launchers()[0]
    command = launch.python_command("bench", "--repeat", "1", "--slice-us", "50", "--json")
    found = lines_of("".join(launch.start(launcher, 1, command)))
    # With one PE nobody answers a signal, and there is no other node.
    assert {line["group"] for line in found[1:]} == set(GROUPS) - {"signals", "network"}
    assert found[0]["npes"] == 1


def test_bench_with_more_pes_than_cores_compares_with_a_core_each() -> None:
    npes = launch.processors() + 1
    done = pyshmem(
        "bench", "--npes", str(npes), "--repeat", "1", "--slice-us", "50", "--only", "sync", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert f"{npes} PEs share" in done.stderr
    found = [from_json(line) for line in done.stdout.splitlines()[1:]]
    ratios = [f for f in found if f and f.op.endswith(figures.OVERSUBSCRIBED)]
    if launch.processors() > 1:
        assert [f.target for f in ratios] == [100, 100]
    assert {f.npes for f in found if f} == {npes, *([npes - 1] if npes > 2 else [])}


def test_bench_beside_mpi4py() -> None:
    if others.available()["mpi4py"] is False:
        pytest.fail("the tests' environment has mpi4py")
    done = pyshmem("bench", "--peer", "--repeat", "1", "--slice-us", "50", "--only", "put,moe", "--json")
    assert done.returncode == 0, done.stderr
    found = [from_json(line) for line in done.stdout.splitlines()[1:]]
    ratios = {f.op: f for f in found if f and f.face == "mpi4py / pyshmem"}
    assert set(ratios) == {"put + quiet", "dispatch + combine"}
    assert ratios["dispatch + combine"].target == 1.5 and ratios["dispatch + combine"].at_least


def test_npes_inside_a_job_must_be_its_size() -> None:
    launcher = launch.find_launchers()[0]
    command = launcher.command(2, launch.python_command("bench", "--npes", "3", "--only", "sync"))
    done = subprocess.run(
        command, env={**environment(), "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert done.stderr.count("this job has 2 PE(s), --npes 3 would need another") == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--only", "put,warp"], "warp is not among put, get"),
        (["--only", ","], "nothing is not among"),
        (["--npes", "0"], "0 is not in the range"),
        (["--repeat", "many"], "'many' is not a valid integer"),
        (["--json", "--markdown"], "exclude each other"),
        (["--from", "/no/such/file"], "does not exist"),
        (["--frobnicate"], "No such option"),
    ],
)
def test_bench_names_a_bad_option(arguments: list[str], text: str) -> None:
    result = invoke("bench", *arguments)
    assert result.exit_code == 2 and text in result.output


def test_bench_without_mpirun_says_what_brings_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "find_launchers", list)
    monkeypatch.setattr(cli, "in_job", lambda: False)
    result = invoke("bench")
    assert result.exit_code == 1 and "no mpirun" in result.output and "sushmem[mpi]" in result.output


def test_plot_without_matplotlib_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = invoke("bench", "--plot", str(tmp_path / "a.png"))
    assert result.exit_code == 1 and "sushmem[plot]" in result.output


def test_peer_without_mpi4py_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mpi4py.MPI", None)
    with pytest.raises(others.PeerError, match=r"sushmem\[mpi\]"):
        others.start_mpi()


@pytest.mark.parametrize(
    ("variable", "library"),
    [("OMPI_COMM_WORLD_SIZE", "MPICH Version: 5"), ("HYDI_CONTROL_FD", "Open MPI v5")],
)
def test_mpi4py_under_the_other_mpirun_is_refused_before_it_starts(
    monkeypatch: pytest.MonkeyPatch, variable: str, library: str
) -> None:
    class Mpi:
        def Get_library_version(self) -> str:
            return library

        def Is_initialized(self) -> bool:
            raise AssertionError("nothing of MPI may be started")

    for name in ("OMPI_COMM_WORLD_SIZE", "HYDI_CONTROL_FD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "2")
    monkeypatch.setattr(
        others.importlib,
        "import_module",
        lambda name: types.SimpleNamespace(rc=None) if name == "mpi4py" else Mpi(),
    )
    monkeypatch.setitem(sys.modules, "mpi4py.MPI", types.ModuleType("mpi4py.MPI"))
    with pytest.raises(others.PeerError, match=f"mpi4py uses {library}"):
        others.start_mpi()


def test_mpi_of_another_job_is_named(job: object) -> None:
    class World:
        def Get_size(self) -> int:
            return 77

    class Mpi:
        COMM_WORLD = World()

        def Get_library_version(self) -> str:
            return "Some MPI 1.0\nmore"

    with pytest.raises(others.PeerError, match=r"Some MPI 1\.0 and finds 77 process"):
        others.check_mpi(Mpi())


def test_figures_of_a_file_are_shown_in_every_form(tmp_path: Path) -> None:
    kept = [
        some_figure(),
        some_figure(op="get", median=13.0, q1=11.0),
        some_figure(op="barrier", bytes=0, median=999, q1=900),
    ]
    source = tmp_path / "run.json"
    head = {"program": "pyshmem bench", "version": "pyshmem 0", "npes": 2}
    source.write_text("\n".join([json.dumps(head), *(f.to_json() for f in kept)]))
    picture = tmp_path / "run.png"
    shown = invoke("bench", "--from", str(source), "--plot", str(picture))
    assert shown.exit_code == 0, shown.output
    assert picture.read_bytes().startswith(b"\x89PNG")
    for text in ("put + quiet", "<= 20  met", "met when quiet", "missed", "1 of 3 targets met"):
        assert text in shown.output
    table = invoke("bench", "--from", str(source), "--markdown").output
    assert (
        "### From C, 2 PEs" in table
        and "| put + quiet | 8 B | 15.0 | 14.0 .. 16.0 | <= 20 met | ns |" in table
    )
    assert lines_of(invoke("bench", "--from", str(source), "--json").output)[1]["met"] is True


@pytest.mark.parametrize("text", ["", "no json\n", '{"face": 1, "op": 2}\n'])
def test_a_file_of_something_else_is_refused(tmp_path: Path, text: str) -> None:
    source = tmp_path / "run.json"
    source.write_text(text)
    result = invoke("bench", "--from", str(source))
    assert result.exit_code == 1 and "pyshmem bench --json" in result.output


def test_nothing_to_draw_and_nowhere_to_write(tmp_path: Path) -> None:
    with pytest.raises(show.PlotError, match="nothing to draw"):
        show.plot([some_figure(op="iput64")], str(tmp_path / "a.png"), "title")
    with pytest.raises(show.PlotError, match="cannot write"):
        show.plot([some_figure()], str(tmp_path / "no" / "a.png"), "title")
    with pytest.raises(show.PlotError, match="cannot write"):
        show.plot([some_figure()], str(tmp_path / "a.nonsense"), "title")


# ---- parts -------------------------------------------------------------------------------------------------


def test_quartiles_are_samples_and_the_median_is_the_middle() -> None:
    assert quartiles([3.0]) == (3.0, 3.0, 3.0)
    assert quartiles([4.0, 1.0, 3.0, 2.0]) == (2.0, 2.5, 3.0)
    assert quartiles([float(v) for v in range(15, 0, -1)]) == (4.0, 8.0, 12.0)
    with pytest.raises(ValueError, match="no samples"):
        quartiles([])


def test_targets_are_met_from_the_right_side() -> None:
    slow = figure("C", "int8", "quantize", 1 << 20, 2, "GB/s", [5.0, 5.5, 6.5, 5.0])
    assert slow.at_least and slow.met is False and slow.met_in_quiet is False
    assert figure("C", "int8", "quantize", 1 << 20, 2, "GB/s", [7.0]).met is True
    assert (
        some_figure(median=21.0, q1=19.0).met is False
        and some_figure(median=21.0, q1=19.0).met_in_quiet is True
    )
    assert some_figure(op="iput64").met is None


def test_every_target_names_a_group_that_exists_and_every_figure_survives_json() -> None:
    assert {"put", "moe"} < set(GROUPS)
    f = some_figure()
    assert from_json(f.to_json()) == f
    assert from_json('{"program": "pyshmem bench"}') is None


def test_launchers_are_told_apart(tmp_path: Path) -> None:
    for text, flavour, version in (
        ("mpirun (Open MPI) 5.0.11\n", "Open MPI", "5.0.11"),
        ("mpirun.real (OpenRTE) 4.1.4\nReport bugs", "unknown", "mpirun.real (OpenRTE) 4.1.4"),
        ("HYDRA build details:\n    Version:                                 5.0.2\n", "MPICH", "5.0.2"),
        ("", "unknown", "it prints no version"),
    ):
        program = tmp_path / "mpirun"
        program.write_text(f"#!/bin/sh\ncat <<'END'\n{text}END\n")
        program.chmod(0o755)
        found = launch._identify(str(program))
        assert (found.flavour, found.version) == (flavour, version)
    assert launch._identify(str(tmp_path / "gone")).version.startswith("cannot be asked")


def test_a_launcher_that_fails_is_an_error(tmp_path: Path) -> None:
    program = tmp_path / "mpirun"
    program.write_text("#!/bin/sh\necho one line\nexit 3\n")
    program.chmod(0o755)
    lines = launch.start(launch.Launcher(str(program), "unknown", ""), 2, ["x"])
    assert next(lines) == "one line\n"
    with pytest.raises(launch.LaunchError, match="status 3"):
        next(lines)
