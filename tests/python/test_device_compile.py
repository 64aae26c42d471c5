"""Every kernel of the package, the examples and the GPU tests compiles for sm_80, sm_90 and sm_100; no GPU.

Sources are all string constants with ``#include <shmem_device.h>`` in those Python files. Numba's kernels are
compiled to PTX, and what they declare is compared with what is linked to them; Triton's, where Triton is
installed, are compiled whole.
"""

from __future__ import annotations

import ast
import importlib.util
import itertools
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import pyshmem
from pyshmem.device import probe, probe_kernels, probe_litmus, raw, state

pytestmark = pytest.mark.npes(1)

_ROOT = Path(__file__).resolve().parents[2]
_ARCHS = ("sm_80", "sm_90", "sm_100")
_HEADERS = _ROOT / "libshmem" / "include"


def _load(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _constant(node: ast.AST, known: dict[str, str]) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _constant(node.left, known), _constant(node.right, known)
        return None if left is None or right is None else left + right
    return None


def _sources() -> list[object]:
    """(source) of each kernel text, named by file and line."""
    found = []
    folders = [Path(pyshmem.__file__).parent, _ROOT / "examples", _ROOT / "tests" / "gpu"]
    for path in sorted(itertools.chain.from_iterable(folder.rglob("*.py") for folder in folders)):
        tree = ast.parse(path.read_text())
        known: dict[str, str] = {}
        inside: set[ast.AST] = set()
        documentation = {
            node.body[0].value
            for node in ast.walk(tree)
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and node.body
            and isinstance(node.body[0], ast.Expr)
        }  # fmt: skip
        for node in ast.walk(tree):
            text = _constant(node, known)
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                value = _constant(node.value, known)
                if value is not None:
                    known[node.targets[0].id] = value
            if text is None or isinstance(node, ast.Name) or node in inside or node in documentation:
                continue
            inside.update(ast.walk(node))
            if re.search(r"^#include <shmem_device.h>", text, re.MULTILINE) and "__global__" in text:
                found.append(pytest.param(text, id=f"{path.name}:{node.lineno}"))
    return found


def all_processors() -> ThreadPoolExecutor:
    """NVRTC compiles without Python's lock."""
    return ThreadPoolExecutor(len(os.sched_getaffinity(0)))


@pytest.fixture(scope="module")
def compiled(nvrtc, quick, request):
    """What NVRTC makes of each (source, arch) that is asked for, all processors at work."""

    def compile_one(source: str, arch: str) -> tuple[bool, str, bytes]:
        options = [*raw.options_for(["-DSHMEM_DEVICE_CHECKS"]), f"-arch={arch}", *quick]
        return nvrtc.compile(raw.source_for(source), "kernel.cu", options)

    wanted = [i.callspec.params for i in request.session.items if i.function is test_kernels_for_nvrtc]
    with all_processors() as pool:
        yield {(p["source"], p["arch"]): pool.submit(compile_one, p["source"], p["arch"]) for p in wanted}


@pytest.mark.parametrize("arch", _ARCHS)
@pytest.mark.parametrize("source", _sources())
def test_kernels_for_nvrtc(compiled, source, arch):
    fine, log, ptx = compiled[source, arch].result()
    assert fine, log
    assert b".visible .entry" in ptx and state.SYMBOL.encode() in ptx


def test_all_sources_are_found():
    names = {str(parameter.id).split(":")[0] for parameter in _sources()}
    assert {"gpu_ring_cupy.py", "kernels.py", "test_kernels.py", "probe_kernels.py"} <= names


@pytest.mark.parametrize("arch", _ARCHS)
def test_kernels_of_the_doctor(nvrtc, arch):
    """All that it launches are there; and what they measure: the compiler has dropped nothing."""
    options = [*raw.options_for(), f"-arch={arch}", "-Werror", "all-warnings"]
    fine, log, text = nvrtc.compile(probe_kernels.KERNELS, "kernel.cu", options)
    assert fine, log
    bodies = dict(re.findall(r"\.entry (\w+)\((.*?)^\}", text.decode(), re.DOTALL | re.MULTILINE))
    sources = "".join(Path(module.__file__).read_text() for module in (probe, probe_litmus))
    launched = set(re.findall(r'"(k_\w+?)(?:\{nbytes\})?"', sources))
    assert launched and {name.replace("k_atomics", "k_atomics8") for name in launched} <= set(bodies)
    assert "k_atomics4" in bodies
    wanted = {
        "k_messages": ["st.release.sys", "ld.acquire.sys", "ld.relaxed.sys", "globaltimer", "bar"],
        "k_lines": ["st.relaxed.sys.global.v2", "ld.relaxed.sys.global.v2", "st.release.sys", "globaltimer"],
        "k_bulk": ["st.release.sys", "ld.acquire.sys", *["cp.async.bulk"] * (arch != "sm_80")],
        "k_groups": ["activemask", "match.any", "shfl", "vote"],
        **{
            f"k_atomics{n // 8}": [
                f"atom.relaxed.sys.global.{op}{n}"
                for op in ("add.u", "exch.b", "cas.b", "or.b", "xor.b", "and.b")
            ]
            for n in (32, 64)
        },
    }
    assert [(k, op) for k, ops in wanted.items() for op in ops if op not in bodies[k]] == []


# ---- what Python knows of the C headers --------------------------------------------------------------------


def _header(name: str) -> str:
    """A header of device/ without comments."""
    return re.sub(r"/\*.*?\*/", "", (_HEADERS / "device" / name).read_text(), flags=re.DOTALL)


def _fields(struct: str, header: str = "state.h") -> list[tuple[str, int, int]]:
    """(name, offset, bytes) of a structure of device/, which has no padding, without its arrays."""
    text = _header(header)
    body = re.search(rf"struct {struct} \{{(.*?)\}};", text, re.DOTALL)
    assert body is not None
    fields, offset = [], 0
    for kind, names in re.findall(r"(unsigned long long|unsigned|int|struct \w+)\s+([\w\s,]+);", body[1]):
        size = 8 if "long" in kind else 4
        if kind.startswith("struct "):
            size = sum(each for _, _, each in _fields(kind.split()[1], header))
        for name in names.split(","):
            fields.append((name.strip(), offset, size))
            offset += size
    return fields


def test_no_lambda_of_any_type():
    """Older NVRTC takes its body for a function of the host, unless told otherwise, as Numba does not."""
    for header in sorted((_HEADERS / "device").glob("*.h")):
        text = _header(header.name)
        assert not re.search(r"\[[&=]?\]\s*\([^)]*\bauto\b", text), header.name


def test_layout_of_the_state():
    for layout, struct, nbytes in (
        (state.LAYOUT, "shmemx_device_state", 208),
        (state.WAYS, "shmemx_device_ways", 64),
    ):
        ours = [(name, kind[1], kind[0].itemsize) for name, kind in layout.fields.items()]
        assert ours == _fields(struct) and layout.itemsize == nbytes


def test_fingerprint_names_the_headers():
    assert raw.source_for("x").endswith(" */ x") and len(raw.source_for("x").split("\n")) == 1


def test_symbol_size_is_that_of_the_layout(nvrtc):
    _, _, ptx = nvrtc.compile(
        raw.source_for(
            '#include <shmem_device.h>\n'
            'extern "C" __global__ void k(int *a) { *a = shmem::n_pes(); }'
        ),
        "k.cu", [*raw.options_for(), "-arch=sm_90"],
    )  # fmt: skip
    assert f"shmem_device_state[{state.LAYOUT.itemsize}]".encode() in ptx


# ---- Numba -------------------------------------------------------------------------------------------------

_FUNCTION = r"\.func\s*\(([^)]*)\)\s*(shmem_numba_\w+)\s*\(([^)]*)\)"


def _signatures(ptx: str, linkage: str) -> dict[str, tuple[list[str], list[str]]]:
    """By function: the types of its results and of its parameters."""
    kinds = re.compile(r"\.param\s+(\.\w+)")
    return {
        match[2]: (kinds.findall(match[1]), kinds.findall(match[3]))
        for match in re.finditer(rf"\.{linkage}\s+{_FUNCTION}", ptx)
    }


@pytest.fixture(scope="module")
def numba_parts():
    """(cuda, dispatcher module patched to know a device, _numba_core)."""
    from numba import cuda
    from numba.cuda import dispatcher

    patch = pytest.MonkeyPatch()
    patch.setattr(dispatcher, "get_current_device", lambda: SimpleNamespace(compute_capability=(9, 0)))
    from pyshmem.device import _numba_core

    yield cuda, _numba_core
    patch.undo()


def _numba_kernels() -> list[tuple[object, tuple[object, ...]]]:
    from numba.cuda import types

    tests = _load(_ROOT / "tests" / "gpu" / "numba_kernels.py", "numba_kernels")
    i4, i8, u4, u8, f4, f8, u1 = (
        types.Array(kind, 1, "C")
        for kind in (
            types.int32,
            types.int64,
            types.uint32,
            types.uint64,
            types.float32,
            types.float64,
            types.uint8,
        )
    )
    n = types.int64
    return [
        (tests.rma, (n, f4, f4, f4, u8, n)),
        (tests.elements, (i4, i8, f4, f8, u1, f8, n)),
        (tests.through_peer, (f8, n)),
        *((tests.count, (kind,)) for kind in (i4, u4, i8, u8)),
        *((tests.values, (kind, kind, n)) for kind in (i4, u4, i8, u8)),
        (tests.together, (i8, u8, f4, f4, f4, n)),
        *((tests.several, (kind, f4, f4, u8, f8, n)) for kind in (i4, i8, u8)),
    ]


def test_numba_kernels(numba_parts, nvrtc, quick):
    """Everything that a kernel calls is defined, with the parameters that Numba passes."""
    cuda, core = numba_parts
    defined: dict[str, tuple[list[str], list[str]]] = {}
    names = list(core.FUNCTIONS)
    with all_processors() as pool:  # some in one text: most of the time goes into the header
        parts = [names[i::8] for i in range(8)]
        made_of = pool.map(
            lambda part: nvrtc.compile(
                "\n".join(map(core.source, part)), "k.cu", ["-rdc=true", "-arch=sm_90", *quick]
            ),
            parts,
        )
    for part, (fine, log, ptx) in zip(parts, made_of, strict=True):
        assert fine and not log.strip(), log
        made = _signatures(ptx.decode(), "visible")
        assert list(made) == [f"shmem_numba_{name}" for name in part] and b".weak .const" in ptx
        defined |= made
    from numba.cuda import types

    called = set()
    for kernel, arguments in _numba_kernels():
        ptx, _ = cuda.compile(
            kernel.py_func, types.void(*arguments), device=False, cc=(9, 0), abi="numba", output="ptx"
        )
        declared = _signatures(ptx, "extern")
        assert declared
        for name, signature in declared.items():
            assert defined[name] == signature, name
        called |= set(declared)
    assert len(called) >= 30


def test_numba_type_errors(numba_parts):
    from numba.cuda import types

    cuda, _ = numba_parts
    tests = _load(_ROOT / "tests" / "gpu" / "numba_kernels.py", "numba_kernels")
    f4, f8 = (types.Array(kind, 1, "C") for kind in (types.float32, types.float64))
    strided = types.Array(types.float32, 1, "A")
    for kernel, arguments, text in (
        (tests.put_only, (f4, f8), "dtypes of target and source differ"),
        (tests.put_only, (strided, strided), "a contiguous array is needed"),
        (tests.add_only, (f4,), "32- and 64-bit integers"),
    ):
        with pytest.raises(Exception, match=text):
            cuda.compile(kernel, types.void(*arguments), device=False, cc=(9, 0), abi="numba", output="ptx")


# ---- Triton ------------------------------------------------------------------------------------------------


def _triton_assembly() -> dict[str, tuple[str, str]]:
    """By function of pyshmem.device._triton_ibgda: assembly and constraints. Importing it needs Triton."""
    tree = ast.parse((Path(pyshmem.__file__).parent / "device" / "_triton_ibgda.py").read_text())
    calls = {
        function.name: next(node for node in ast.walk(function) if isinstance(node, ast.Call))
        for function in tree.body
        if isinstance(function, ast.FunctionDef)
    }
    return {
        name: (ast.literal_eval(call.args[0]), ast.literal_eval(call.args[1])) for name, call in calls.items()
    }


def test_triton_assembly(nvrtc):
    """Each block is PTX that ptxas, which NVRTC has inside, takes for every GPU; one twice in a kernel."""
    source = []
    for name, (text, constraints) in _triton_assembly().items():
        kinds = constraints.split(",")[1:]
        parameters = ", ".join(
            f"unsigned {'long long' if kind == 'l' else ''} a{i}" for i, kind in enumerate(kinds)
        )
        given = ", ".join(f'"{kind}"(a{i})' for i, kind in enumerate(kinds))
        lines = re.sub(r"\$(\d+)", r"%\1", text.replace("%", "%%")).replace('"', '\\"').splitlines()
        quoted = "\n".join(f'"{line}\\n"' for line in lines)
        assembly = f'asm volatile({quoted} : "=l"(r) : {given} : "memory");'
        source.append(
            f'extern "C" __global__ void k_{name}(unsigned long long *out, {parameters})\n'
            f"{{ unsigned long long r; {assembly} out[0] = r;"
            f" {assembly if name == 'signal' else ''} out[1] = r; }}"
        )
    with all_processors() as pool:
        made = pool.map(lambda arch: nvrtc.compile("\n".join(source), "k.cu", [f"-arch={arch}"]), _ARCHS)
    for fine, log, ptx in made:
        assert fine and not log.strip(), log
        assert ptx.count(b".visible .entry") == len(source)


def test_triton_assembly_posts():
    """By the program's first thread alone, the doorbell behind what the NIC reads."""
    blocks = _triton_assembly()
    assert set(blocks) == {"put", "get", "put_signal", "signal", "p", "g", "atomic", "fence", "quiet"}
    store = re.compile(r"\b(?:st|red|atom)\.\S*global")
    for name, (text, _) in blocks.items():
        assert text.endswith("bar.warp.sync 0xffffffff;\n}"), name
        before, _, after = text.partition(" bra ")  # who is not the first thread leaves, or takes another way
        if name == "quiet":  # all threads look at queue pairs, and meet
            assert re.findall(r"bar\.(?!warp)\S+", text) == ["bar.sync", "bar.red.and.pred"]
            assert "%tid.x" in text
            continue
        if name == "fence":  # the same, for those of each mapped PE, once they agree that there is something
            assert set(re.findall(r"bar\.(?!warp)\S+", text)) == {"bar.sync", "bar.red.and.pred"}
            continue
        assert store.search(after) and not store.search(before), name
        assert "%tid.x" in before or name == "get"  # into other memory than the heap all threads bring parts
        assert not re.search(r"\bbar(rier)?\.(?!warp)", text)  # the others do not wait inside
        # the doorbell's 8 bytes, behind a fence and the record's word, which is behind a fence
        kinds = re.findall(r"(fence\.acq_rel\.sys);|st\.relaxed\.sys\.global(\.(?:v2\.)?u(?:32|64))", text)
        order = " ".join(fence or word for fence, word in kinds)
        assert "fence.acq_rel.sys .u32 fence.acq_rel.sys .u64" in order, name


# Its kernels, where it is installed: it is a large package.


def _runs_ahead(sass: str) -> list[str]:
    """Branches by which all but the program's first thread pass over what that one does alone (a load, store
    or atomic of a scope) and go to the program's next barrier, without being joined before it: the warp
    meets that barrier in two pieces, which it must not (_triton_core.py)."""
    lines = [re.sub(r"/\*.*?\*/", "", line).strip() for line in sass.splitlines()]
    labels = {line[:-1]: i for i, line in enumerate(lines) if line.endswith(":")}
    found = []
    for i, line in enumerate(lines):
        branch = re.match(r"@!?P\d BRA `\((\S+)\)", line)
        if branch is None:
            continue
        passed, behind = lines[i + 1 : labels[branch[1]]], lines[labels[branch[1]] :]
        meets = next((x for x in behind if re.search(r"BSYNC|WARPSYNC|BAR\.SYNC|EXIT", x)), "")
        alone = any("STRONG" in x for x in passed) and not any("BAR.SYNC" in x for x in passed)
        if alone and "BAR.SYNC" in meets:
            found.append(line)
    return found


if importlib.util.find_spec("triton") is not None:

    @pytest.mark.parametrize("capability", [80, 90, 100])
    @pytest.mark.parametrize("way", ["any PE", "PE 1", "proxy", "native", "ibgda"])
    def test_triton_kernels(tmp_path, monkeypatch, capability, way):
        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        from pyshmem.device import triton as shmem_triton

        nvdisasm = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm"
        kernels = _load(_ROOT / "tests" / "gpu" / "triton_kernels.py", "triton_kernels")
        example = (
            _load(_ROOT / "examples" / "gpu_triton.py", "gpu_triton") if "torch" in sys.modules else None
        )
        # As a launch specializes it: 1 is a constant, and None.
        first, mapped, posts = way == "PE 1", way in ("any PE", "PE 1"), way == "ibgda"
        known = shmem_triton.State(
            "constexpr" if first else "i32",
            "i32",
            *["i64"] * 7,
            nic="constexpr" if mapped else "i64",
            posts="i64" if posts else "constexpr",
            amos="i32" if posts or way == "native" else "constexpr",
        )
        signatures = [
            (kernels.who, {"out": "*i32"}, {}),
            (
                kernels.store_and_load,
                {"to": "*fp32", "source": "*fp32", "back": "*fp32", "pe": "i32"},
                {"N": 1024},
            ),
            (
                kernels.signals,
                {"to": "*i32", "source": "*i32", "sig": "*i64", "ok": "*i32", "pe": "i32", "rounds": "i32"},
                {"N": 2048},
            ),
            (
                kernels.exchange,
                {
                    "to": "*i32",
                    "source": "*i32",
                    "mine": "*i32",
                    "sig": "*i64",
                    "ok": "*i32",
                    "pe": "i32",
                    "rounds": "i32",
                },
                {"N": 2048},
            ),
            (kernels.count, {"sig": "*u64", "total": "i32", "ok": "*i32"}, {}),
            (kernels.own, {"word": "*u64", "ok": "*i32"}, {}),
            (kernels.endless, {"sig": "*i64", "ok": "*i32"}, {}),
            (
                kernels.ring,
                {
                    "to": "*fp32",
                    "source": "*fp32",
                    "sig": "*u64",
                    "back": "*fp32",
                    "ok": "*i32",
                    "pe": "i32",
                    "n": "i32",
                },
                {},
            ),
            (
                kernels.values,
                {"f": "*fp32", "h": "*fp16", "i": "*i32", "u": "*u64", "ok": "*i32", "pe": "i32"},
                {},
            ),
        ]
        if example is not None:
            signatures.append(
                (
                    example.silu_to_peer,
                    {"x": "*fp32", "w": "*fp32", "y": "*fp32", "sig": "*i64", "n": "i32", "pe": "i32"},
                    {"BLOCK": 2048},
                )
            )
        for kernel, arguments, constants in signatures:
            signature = {**arguments, "state": known, **dict.fromkeys(constants, "constexpr")}
            order = list(signature)
            values = {(order.index(name),): value for name, value in constants.items()}
            if first:
                values[(order.index("state"), 0)] = 1
            if mapped:
                values[(order.index("state"), 9)] = None
            if not posts:
                values[(order.index("state"), 10)] = None
            if not posts and way != "native":
                values[(order.index("state"), 11)] = None
            aligned = {
                (i,): [["tt.divisibility", 16]]
                for i, name in enumerate(order)
                if str(signature[name])[0] == "*"
            }
            aligned[(order.index("state"), 2)] = [["tt.divisibility", 16]]
            made = triton.compile(
                ASTSource(kernel, signature=signature, constexprs=values, attrs=aligned),
                target=GPUTarget("cuda", capability, 32),
            )
            if kernel is kernels.store_and_load:  # vectors of 16 bytes to the peer
                assert re.search(r"st\.global\.v4\.b32", made.asm["ptx"])
            communicates = kernel not in (kernels.who, kernels.store_and_load, kernels.endless)
            commands = re.search(r"st\.release\.sys\.global\.u64", made.asm["ptx"])
            names_memory = communicates and kernel is not kernels.values  # values need no release
            assert bool(commands) == (way in ("proxy", "native") and names_memory)
            # what posts is there as often as in what the compiler was given: nothing dropped, nothing doubled
            if nvdisasm.exists():
                (tmp_path / "kernel").write_bytes(made.asm["cubin"])
                command = [nvdisasm, "-c", tmp_path / "kernel"]
                assert (
                    _runs_ahead(subprocess.run(command, text=True, check=True, capture_output=True).stdout)
                    == []
                )
            block = "mov.b64 shmem_state, "
            assert made.asm["ptx"].count(block) == made.asm["ttir"].count(block)
            assert bool(made.asm["ptx"].count(block)) == (posts and communicates)

    def test_triton_knows_the_numbers_of_the_header():
        from pyshmem.device import _triton_core as core
        from pyshmem.device import _triton_nic as nic
        from pyshmem.device import _triton_proxy as proxy
        from pyshmem.device import state

        team = {name: offset // 8 for name, offset, _ in _fields("shmemx_device_team")}
        note = {name: offset // 4 for name, offset, _ in _fields("shmemx_device_error")}
        assert (team["sync"], team["meetings"]) == (core.TEAM_SYNC, core.TEAM_MEETINGS)
        for name in ("kind", "call", "me", "pe", "block", "address", "value", "expected"):
            assert getattr(core, f"ERROR_{name.upper()}") == note[name], name
        text = _header("state.h")
        calls = re.findall(r"X\((\w+), \"[\w ]+\"\)", text)
        for name in ("BARRIER", "SIGNAL_WAIT_UNTIL", "G", "ATOMIC", "QUIET"):
            assert calls[int(getattr(core, f"CALL_{name}"))] == name
        kinds = re.findall(r"SHMEMX_DEVICE_(\w+)", text[text.index("SHMEMX_DEVICE_OK") :])
        assert kinds[int(core.TIMEOUT)] == "TIMEOUT" and kinds[int(core.PROXY)] == "PROXY"
        assert f"SHMEMX_DEVICE_POSTS = {state.POSTS}" in text
        assert f"SHMEMX_NIC_PROXY = {state.NIC_PROXY}," in _header("nic_state.h")

        def places(name: str, header: str) -> dict[str, int]:
            return {field: offset // 8 for field, offset, _ in _fields(name, header)}

        known = places("shmemx_device_nic", "nic_state.h")
        assert [known[name] for name in ("path", "proxy", "failed", "look")] == [
            nic.NIC_PATH,
            proxy.NIC_PROXY,
            nic.NIC_FAILED,
            nic.NIC_LOOK,
        ]
        known = places("shmemx_device_proxy", "proxy_state.h")
        for name in ("rings", "cells", "ring", "answers", "turns"):
            assert getattr(proxy, f"PROXY_{name.upper()}") == known[name], name
        known = places("shmemx_proxy_ring", "proxy_state.h")
        for name in ("tail", "head_seen", "head", "slots", "look"):
            assert getattr(proxy, f"RING_{name.upper()}") == known[name], name
        assert known["look"] + 11 == proxy.RING_SIZE  # 4 bytes, and room[21] of 4 each is the last
        known = places("shmemx_proxy_answer", "proxy_state.h")
        assert known["low"] == 0 and known["high"] == 1 and proxy.ANSWER_SIZE == 4  # room[2] is the last
        header = _header("proxy_state.h")
        operations = re.findall(r"\bSHMEMX_PROXY_(\w+)", header[header.index("enum shmemx_proxy_op") :])
        for number, name in enumerate(operations[:8], 1):
            assert name == "PAYLOAD_PUT" or getattr(proxy, name) == number, name
        at = re.findall(r"SHMEMX_PROXY_AT_(\w+)", header[header.index("SHMEMX_PROXY_AT_HEADER") :])
        for name in ("OFFSET", "BYTES", "LOCAL", "VALUE", "SIGNAL", "ANSWER"):
            assert getattr(proxy, f"AT_{name}") == at.index(name), name


# ---- arguments, where CuPy is installed --------------------------------------------------------------------

if importlib.util.find_spec("cupy") is not None:

    def test_gpu_arrays_are_refused_without_a_gpu_heap(job):
        import cupy

        memory = cupy.cuda.UnownedMemory(0x7F0000000000, 64, None, 0)
        a = cupy.ndarray((16,), "float32", cupy.cuda.MemoryPointer(memory, 0))
        plain, mine = np.zeros(16, "float32"), job.zeros(16, "float32")
        for call in (lambda: job.put(a, plain, 0), lambda: job.get(mine, a, 0)):
            with pytest.raises(ValueError, match="GPU memory, and there is no GPU heap"):
                call()
        assert not job.is_symmetric(a)
