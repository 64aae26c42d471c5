"""The figures that predictions are made of: a GPU, its links, and the two ways to hand messages to a NIC.

Every default says where it comes from; each is to be replaced by what a machine measures. Times are
microseconds, rates GB/s (1e9 bytes) or million messages a second, sizes bytes, all of one GPU and one
direction.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

__all__ = ["HARDWARE", "IBGDA", "PATHS", "PROXY", "Hardware", "Path", "changed"]


@dataclass(frozen=True)
class Path:
    """How a kernel's message reaches the NIC."""

    name: str
    post_us: float
    """Time of the posting thread for one message; the threads of an SM post one after the other."""
    rate: float
    """Million messages a second of one GPU at most: of all its posting threads, or of its proxy threads."""
    put_quiet_us: float
    """An 8-byte put and quiet seen from the kernel: there, acknowledged, and the completion seen."""
    threads: int = 1
    """Proxy threads a GPU: each brings `rate`. 1 for ibgda, whose rate is that of all threads."""

    @property
    def messages_us(self) -> float:
        """Time that one message takes in a long row of them."""
        return 1.0 / (self.rate * self.threads)


# 8-byte put and quiet from a kernel on H200 and ConnectX-7: 12.6 us posted by the GPU, 5.4 us by a proxy; a
# proxy thread posts 2.3 million messages a second in a dispatch-shaped test: third-party measurements. 180
# million GPU-posted messages a second: NVIDIA's figure for its IBGDA (2022), 1.7 million by its proxy. The
# costs to post are the goals of this library's own code.
IBGDA = Path("ibgda", post_us=1.0, rate=180.0, put_quiet_us=12.6)
PROXY = Path("proxy", post_us=0.7, rate=2.3, put_quiet_us=5.4)
PATHS = {path.name: path for path in (IBGDA, PROXY)}


@dataclass(frozen=True)
class Hardware:
    """GPUs in nodes, joined by NVLink within and a NIC each between."""

    name: str
    nvlink: float
    """GB/s that kernels put into the other GPUs of the node."""
    nic_gbits: float = 400.0
    """Data rate of a GPU's NIC, Gb/s."""
    gpus_per_node: int = 8
    memory: float = 3350.0
    """GB/s of the GPU's own memory: its data sheet."""
    sms: int = 132
    sm_write: float = 50.0
    """GB/s that one SM stores: 45 GB/s measured here by one block of puts (gpu.md), 50 with TMA."""
    packet: int = 4096
    """Bytes of data in a packet of the network: its MTU."""
    packet_header: int = 26
    """InfiniBand: LRH 8, BTH 12, ICRC 4, VCRC 2. RoCE v2: 82 with preamble, gap, Ethernet, IP and UDP."""
    trip_us: float = 0.7
    """A dependent load, or an atomic, of the GPU's memory: 0.6 to 0.8 us on H100 where L2 misses."""
    release_us: float = 1.5
    """A release at system scope after stores into peers: measured over NVLink (gpu.md)."""
    nvlink_us: float = 0.7
    """A flag stored into a peer's memory until it is seen there: measured, p one way (gpu.md)."""
    wire_us: float = 1.0
    """One way through NICs, cables and switches. The acknowledgement of a put takes it again."""
    pcie_us: float = 0.8
    """A posted write between GPU and NIC, one way."""

    @property
    def nic(self) -> float:
        """GB/s of data that the NIC sends: its rate less the headers."""
        return self.nic_gbits / 8 * self.packet / (self.packet + self.packet_header)

    def one_way_us(self, path: Path) -> float:
        """From the kernel's call until the bytes are in the peer's memory: a put and quiet without the
        acknowledgement's way back and the completion's into memory."""
        return max(path.put_quiet_us - self.wire_us - self.pcie_us, path.post_us)


# DeepEP's machine: "~160 GB/s NVLink maximum bandwidth", one CX7 of 400 Gb/s a GPU. An H100's kernels were
# measured here at 355 GB/s into a peer (gpu.md).
HARDWARE = {
    h.name: h
    for h in (
        Hardware("h800-cx7", nvlink=160.0),
        Hardware("h100-cx7", nvlink=355.0),
        Hardware("h100-roce", nvlink=355.0, packet_header=82),
    )
}


def changed(base: Any, given: str) -> Any:
    """A Hardware or Path with other figures: "nvlink=355,nic_gbits=200". ValueError names what is wrong."""
    known = {f.name: f.type for f in fields(base) if f.name != "name"}
    values: dict[str, float | int] = {}
    for part in filter(None, (part.strip() for part in given.split(","))):
        key, _, text = part.partition("=")
        if key not in known:
            raise ValueError(f"{key!r} is no figure of {base.name}: {', '.join(known)}")
        try:
            value = int(text) if known[key] == "int" else float(text)
        except ValueError:
            raise ValueError(f"{part!r}: {key} is a number") from None
        if not 0 < value < float("inf"):
            raise ValueError(f"{part!r}: {key} is above 0")
        values[key] = value
    return replace(base, **values)
