"""What posts to a NIC is in the code that NVRTC makes of it, with full optimization: a compiler that sees no
reader of a send queue may drop, merge or move plain stores to it, as others found out. No GPU."""

from __future__ import annotations

import re
from typing import Any

import pytest

from pyshmem.device import raw

pytestmark = pytest.mark.npes(1)

# Each WQE is built twice in one place, as when a ring has come round: plain stores of the first are dead.
_KERNELS = """
#include <shmem_device.h>
using namespace shmem::detail;
template <class Build> __device__ void twice(shmemx_ibgda_qp *q, shmem::u64 block, Build build)
{
    const wqe w(queue(*q), block);
    build(w);
    build(w);
}
#define KERNEL(name, ...) extern "C" __global__ void name(shmemx_ibgda_qp *q, shmem::u64 block, \\
    nic_place there, nic_place here, shmem::u64 value) \\
    { twice(q, block, [&](const wqe &w) { __VA_ARGS__; }); }
KERNEL(k_nop, build_nop(w, 8))
KERNEL(k_write, build_write(w, there, here, 4096, 8))
KERNEL(k_write_imm, build_write_imm(w, there, here, 4096, 7, 8))
KERNEL(k_read, build_read(w, there, here, 64, 8))
KERNEL(k_inline, build_inline(w, there, nullptr, 8, inline_words{{1, static_cast<shmem::u32>(value), 3}}, 8))
KERNEL(k_add, build_amo(w, there, here, amo_add, 8, value, 0, 8))
KERNEL(k_or, build_amo(w, there, here, amo_or, 8, value, 0, 8))
extern "C" __global__ void k_put(shmemx_ibgda_qp *q, shmem::u64 offset, shmem::u64 value)
{
    ibgda::put_on(*q, offset, &value, 8);
}
"""
# Stores of 16 bytes, each a segment, that no compiler may drop or merge.
_SEGMENT = r"\bst\.(?:relaxed\.sys|volatile)\.global\.v2\.[ub]64"


@pytest.fixture(scope="module")
def bodies(nvrtc: Any) -> dict[str, str]:
    fine, log, ptx = nvrtc.compile(raw.source_for(_KERNELS), "k.cu", [*raw.options_for(), "-arch=sm_90"])
    assert fine, log
    function = r"\.(?:entry|func) +(?:\([^)]*\) *)?(\w+)\((.*?)^\}"
    return dict(re.findall(function, ptx.decode(), re.DOTALL | re.MULTILINE))


_SEGMENTS = {
    "k_nop": 1, "k_write": 3, "k_write_imm": 3, "k_read": 3, "k_inline": 3, "k_add": 4, "k_or": 5,
}  # fmt: skip


@pytest.mark.parametrize(("kernel", "segments"), _SEGMENTS.items())
def test_each_segment_is_stored(bodies: dict[str, str], kernel: str, segments: int) -> None:
    assert len(re.findall(_SEGMENT, bodies[kernel])) == 2 * segments
    others = re.findall(r"\bst\.\S+", re.sub(_SEGMENT, "", bodies[kernel]))
    assert [store for store in others if not store.startswith(("st.param", "st.local"))] == []


def test_a_put_stores_wqe_record_and_doorbell(bodies: dict[str, str]) -> None:
    """In this order, each behind a fence, in the one function that a kernel with a put calls."""
    (name,) = [name for name in bodies if "put_on" in name]
    assert name in bodies["k_put"]
    fence, store = r"\bfence\.\S*sys", r"\bst\.relaxed\.\S*"
    order = (_SEGMENT, fence, rf"{store}\.u32", fence, rf"{store}\.u64")
    assert len(re.findall(_SEGMENT, bodies[name])) >= 3
    assert re.search(".*?".join(order), bodies[name], re.DOTALL)
