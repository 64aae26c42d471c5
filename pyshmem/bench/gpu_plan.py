"""Sizes and numbers of calls of the GPU benchmark: one table for libshmem, NVSHMEM and NCCL."""

from __future__ import annotations

from dataclasses import asdict, dataclass

__all__ = ["Plan", "plan"]

_MIB = 1 << 20


@dataclass(frozen=True)
class Plan:
    """Every figure is the median of `rounds` timings after `warm` ones; a timing is of so many calls in a
    row."""

    rounds: int = 7
    warm: int = 2
    hold_us: int = 2000
    """Before the clock starts the stream waits so long, while the host calls: Python, C and C++ alike are
    ahead of the GPU then, and its time alone is measured."""
    p_calls: int = 2000
    put_signal_calls: int = 500
    packets_calls: int = 500
    fetch_add_calls: int = 2000
    meet_calls: int = 1000
    """sync and barrier in a kernel."""
    copy_calls: int = 3
    """Kernels that put or get copy_bytes."""
    stream_put_calls: int = 5
    barrier_calls: int = 100
    small_calls: int = 20
    large_calls: int = 5
    """Collectives of more than 1 MiB."""
    copy_bytes: int = 256 * _MIB
    copy_blocks: tuple[int, ...] = (1, 8, 32)
    put_signal_bytes: tuple[int, ...] = (8, 1024, 14_336, 65_536)
    packets_bytes: tuple[int, ...] = (120, 14_400, 65_520)
    collective_bytes: tuple[int, ...] = (4096, 65_536, _MIB, 16 * _MIB, 128 * _MIB)

    @property
    def quick(self) -> bool:
        """Whether it is the short one."""
        return self.copy_bytes < Plan.copy_bytes

    @property
    def quant_bytes(self) -> tuple[int, ...]:
        """Of the quantized collectives, which NVSHMEM does not have."""
        if self.quick:
            return 65_536, 4 * _MIB
        return 4096, 65_536, 262_144, _MIB, 2 * _MIB, 4 * _MIB, 8 * _MIB, 16 * _MIB, 32 * _MIB, 128 * _MIB

    def calls(self, nbytes: int) -> int:
        """Collectives of that size in a row."""
        return self.small_calls if nbytes <= _MIB else self.large_calls

    def part(self, nbytes: int, npes: int) -> int:
        """Floats that a member sends to each other one in an alltoall or fcollect of `nbytes` in all."""
        return max(1, nbytes // npes // 4)

    def header(self) -> str:
        """The same as constants for a CUDA program."""
        lines = []
        for name, value in asdict(self).items():
            if isinstance(value, tuple):
                lines.append(f"constexpr size_t {name}[] = {{{', '.join(map(str, value))}}};")
            else:
                lines.append(f"constexpr {'size_t' if 'bytes' in name else 'int'} {name} = {value};")
        return "#pragma once\n#include <cstddef>\n" + "\n".join(lines) + "\n"


def plan(rounds: int | None = None, quick: bool = False) -> Plan:
    """The usual plan, or with `quick` a look in seconds: 3 rounds of short rows, nothing above 16 MiB."""
    if not quick:
        return Plan(rounds=rounds or Plan.rounds)
    return Plan(
        rounds=rounds or 3, warm=1, p_calls=200, put_signal_calls=50, packets_calls=50, fetch_add_calls=200,
        meet_calls=50, copy_calls=1, stream_put_calls=2, barrier_calls=10, small_calls=4, large_calls=2,
        copy_bytes=16 * _MIB, collective_bytes=(4096, _MIB),
    )  # fmt: skip
