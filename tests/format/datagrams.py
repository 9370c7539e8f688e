"""Reads the UDP datagrams out of a recorded capture; written for the tests alone, with nothing of the project."""

from __future__ import annotations

import lzma
import struct
from dataclasses import dataclass
from pathlib import Path

DATA = Path(__file__).parent.parent / "data" / "kernel" / "wire"
_ETHERNET, _IPV4, _UDP = 1, 0x0800, 17


@dataclass(frozen=True)
class Datagram:
    """A datagram with its addresses; `time` is seconds since the epoch."""

    time: float
    source: tuple[str, int]
    target: tuple[str, int]
    data: bytes


def datagrams(name: str) -> list[Datagram]:
    """Return the UDP datagrams of capture `name` ("cluster3/lo") in order."""
    raw = lzma.decompress((DATA / f"{name}.pcap.xz").read_bytes())
    magic, *_, link_type = struct.unpack_from("<IHHiIII", raw)
    assert (magic, link_type) == (0xA1B2C3D4, _ETHERNET)
    found, position = [], 24
    while position < len(raw):
        sec, usec, captured, length = struct.unpack_from("<IIII", raw, position)
        assert captured == length, "a packet was cut off"
        packet = raw[position + 16 : position + 16 + captured]
        position += 16 + captured
        if struct.unpack_from(">H", packet, 12) != (_IPV4,) or packet[14 + 9] != _UDP:
            continue
        ip = packet[14 : 14 + struct.unpack_from(">H", packet, 16)[0]]
        udp = ip[(ip[0] & 15) * 4 :]
        source_port, target_port, size = struct.unpack_from(">HHH", udp)
        source, target = (".".join(map(str, ip[start : start + 4])) for start in (12, 16))
        found.append(Datagram(sec + usec / 1e6, (source, source_port), (target, target_port), udp[8:size]))
    return found
