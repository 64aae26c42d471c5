"""Entries of mlx5 queues, decoded. Names and numbers are those of include/device/mlx5.h, read from there."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from functools import cache

from .._report import paths

__all__ = ["BLOCK", "SEGMENT", "Cqe", "Data", "Wqe", "constants", "decode_cqe", "decode_wqe", "syndromes"]

BLOCK, SEGMENT = 64, 16


def _header() -> str:
    return (paths()["includedir"] / "device" / "mlx5.h").read_text()


@cache
def constants() -> dict[str, int]:
    """Every constant of the header, without its prefix SHMEMX_MLX5_."""
    value = r"(0x[0-9a-f]+|\d+)u?(?: << (\d+))?"
    found = re.findall(rf"\bSHMEMX_MLX5_(\w+)(?: =)? {value}", _header())
    return {name: int(number, 0) << int(shift or 0) for name, number, shift in found}


@cache
def syndromes() -> dict[int, str]:
    """What the causes of failed requests mean."""
    table = re.findall(r'X\(\w+, (0x[0-9a-f]+),[\s\\]*"(.*?)"\)', _header())
    return {int(value, 0): text for value, text in table}


_OPCODES = [
    "NOP", "RDMA_WRITE", "RDMA_WRITE_IMM", "SEND", "SEND_IMM", "WAIT", "RDMA_READ", "ATOMIC_CS", "ATOMIC_FA",
    "ATOMIC_MASKED_CS", "ATOMIC_MASKED_FA", "DUMP",
]  # fmt: skip
_CQE_OPCODES = ["REQUEST", "WRITE_IMM", "SEND", "SEND_IMM", "REQUEST_ERROR", "RECEIVE_ERROR", "INVALID"]


@cache
def _names(prefix: str) -> dict[int, str]:
    known = constants()
    return {known[prefix + name]: name for name in (_CQE_OPCODES if prefix else _OPCODES)}


@dataclass(frozen=True)
class Data:
    """A data segment: local memory."""

    address: int
    bytes: int
    lkey: int


@dataclass(frozen=True)
class Wqe:
    """A work queue entry. `problem` says what makes it illegal as far as its own bytes tell."""

    opcode: int
    opmod: int
    index: int
    qpn: int
    ds: int
    fm_ce_se: int
    imm: int
    remote: int | None = None  # address
    rkey: int | None = None
    data: tuple[Data, ...] = ()
    inlined: bytes | None = None
    operand_bytes: int = 0  # of an atomic: 4 or 8
    operands: dict[str, int] = field(default_factory=dict)
    problem: str = ""

    @property
    def name(self) -> str:
        return _names("").get(self.opcode, f"opcode 0x{self.opcode:02x}")

    @property
    def blocks(self) -> int:
        return max(1, -(-self.ds * SEGMENT // BLOCK))

    @property
    def signalled(self) -> bool:
        return self.fm_ce_se & 0x0C == constants()["CE_ALWAYS"]

    @property
    def fenced(self) -> bool:
        return bool(self.fm_ce_se & constants()["FENCE_MASK"])

    @property
    def solicited(self) -> bool:
        return bool(self.fm_ce_se & constants()["SOLICITED"])

    @property
    def flags(self) -> str:
        """C signalled, F fenced, S solicited."""
        marks = ((self.signalled, "C"), (self.fenced, "F"), (self.solicited, "S"))
        return "".join(mark for on, mark in marks if on)

    @property
    def bytes(self) -> int:
        """That are moved; an atomic's are those of its operand."""
        if self.inlined is not None:
            return len(self.inlined)
        return self.operand_bytes or sum(d.bytes for d in self.data)


@dataclass(frozen=True)
class Cqe:
    """A completion queue entry. `syndrome` and `vendor` are None for good ones."""

    opcode: int
    qpn: int
    wqe_opcode: int
    wqe_counter: int
    owner: int
    byte_count: int
    imm: int
    syndrome: int | None = None
    vendor: int | None = None

    @property
    def name(self) -> str:
        return _names("CQE_").get(self.opcode, f"opcode {self.opcode}")

    @property
    def of_request(self) -> bool:
        known = constants()
        return self.opcode in (known["CQE_REQUEST"], known["CQE_REQUEST_ERROR"])

    @property
    def text(self) -> str:
        """`ok`, or the cause in words."""
        if self.syndrome is None:
            return "ok" if self.of_request else f"{self.name} {self.byte_count} bytes"
        cause = syndromes().get(self.syndrome, "unknown cause")
        return f"error 0x{self.syndrome:02x}/{self.vendor:02x}: {cause}"

    @property
    def flushed(self) -> bool:
        return self.syndrome == 0x05


def _operands(opcode: int, opmod: int, body: bytes) -> tuple[int, dict[str, int], int]:
    """Of an atomic: its size, its operands by name, and the bytes that they take."""
    known = constants()
    four = opmod == known["OPMOD_4"]
    names: tuple[str, ...]
    if opcode == known["ATOMIC_CS"]:
        form, names = ">QQ", ("swap", "compare")
    elif opcode == known["ATOMIC_FA"]:
        form, names = ">Q8x", ("add",)
    elif opcode == known["ATOMIC_MASKED_CS"]:
        form, names = ">IIII" if four else ">QQQQ", ("swap", "compare", "swap_mask", "compare_mask")
    else:
        form, names = ">II8x" if four else ">QQ", ("add", "boundary")
    size = struct.calcsize(form)
    values = dict(zip(names, struct.unpack_from(form, body), strict=True)) if len(body) >= size else {}
    masked = opcode in (known["ATOMIC_MASKED_CS"], known["ATOMIC_MASKED_FA"])
    return 4 if masked and four else 8, values, size


def _local(body: bytes) -> tuple[tuple[Data, ...], bytes | None, str]:
    """Data segments or inline data, and what is wrong with them."""
    if len(body) >= 4 and struct.unpack_from(">I", body)[0] & constants()["INLINE"]:
        n = struct.unpack_from(">I", body)[0] & ~constants()["INLINE"]
        needed = -(-(4 + n) // SEGMENT) * SEGMENT
        problem = "" if needed == len(body) else f"{n} bytes inline take {needed}, ds leaves {len(body)}"
        return (), body[4 : 4 + n], problem
    segments = []
    for at in range(0, len(body) - len(body) % SEGMENT, SEGMENT):
        n, lkey, address = struct.unpack_from(">IIQ", body, at)
        if lkey == constants()["INVALID_LKEY"] and n == 0:
            break
        segments.append(Data(address, n or 1 << 31, lkey))
    return tuple(segments), None, ""


def decode_wqe(raw: bytes) -> Wqe:
    """A WQE as it lay in the ring, ds * 16 bytes, unwrapped. Raises ValueError for less than a segment."""
    if len(raw) < SEGMENT:
        raise ValueError(f"a WQE of {len(raw)} bytes has no control segment")
    known = constants()
    word, qpn_ds, _, fm_ce_se, imm = struct.unpack_from(">IIB2xBI", raw)
    opcode = word & 0xFF
    found = Wqe(
        opcode=opcode, opmod=word >> 24, index=word >> 8 & 0xFFFF, qpn=qpn_ds >> 8, ds=qpn_ds & 0x3F,
        fm_ce_se=fm_ce_se, imm=imm,
    )  # fmt: skip
    change: dict[str, object] = {}
    body = raw[SEGMENT : found.ds * SEGMENT]
    if opcode not in _names(""):
        change["problem"] = f"unknown opcode 0x{opcode:02x}"
        return Wqe(**{**found.__dict__, **change})
    if found.ds * SEGMENT > len(raw) or found.ds == 0:
        change["problem"] = f"ds {found.ds} for {len(raw)} bytes"
    one_sided = (known["RDMA_WRITE"], known["RDMA_WRITE_IMM"], known["RDMA_READ"])
    atomics = tuple(known[n] for n in ("ATOMIC_CS", "ATOMIC_FA", "ATOMIC_MASKED_CS", "ATOMIC_MASKED_FA"))
    if opcode in one_sided + atomics:
        if len(body) < SEGMENT:
            change["problem"] = f"ds {found.ds} leaves no remote address"
            return Wqe(**{**found.__dict__, **change})
        change["remote"], change["rkey"] = struct.unpack_from(">QI", body)
        body = body[SEGMENT:]
    if opcode in atomics:
        size, values, taken = _operands(opcode, found.opmod, body)
        change["operand_bytes"], change["operands"] = size, values
        body = body[taken:]
        if len(body) < SEGMENT:
            change["problem"] = f"ds {found.ds} leaves no room for an answer"
    if opcode not in (known["NOP"], known["WAIT"]):
        change["data"], change["inlined"], wrong = _local(body)
        if wrong:
            change["problem"] = wrong
    return Wqe(**{**found.__dict__, **change})


def decode_cqe(raw: bytes) -> Cqe:
    """A CQE of 64 bytes."""
    if len(raw) != BLOCK:
        raise ValueError(f"a CQE has 64 bytes, not {len(raw)}")
    imm, _, byte_count = struct.unpack_from(">III", raw, 36)
    vendor, syndrome, opcode_qpn, counter, _, op_own = struct.unpack_from(">BBIHBB", raw, 54)
    found = Cqe(
        opcode=op_own >> 4, qpn=opcode_qpn & 0xFFFFFF, wqe_opcode=opcode_qpn >> 24, wqe_counter=counter,
        owner=op_own & 1, byte_count=byte_count, imm=imm,
    )  # fmt: skip
    known = constants()
    if found.opcode in (known["CQE_REQUEST_ERROR"], known["CQE_RECEIVE_ERROR"]):
        return Cqe(**{**found.__dict__, "syndrome": syndrome, "vendor": vendor, "byte_count": 0, "imm": 0})
    return found
