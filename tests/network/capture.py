"""Reads the TCP streams out of a recorded capture: an Ethernet pcap with IPv4, nothing else.

Written for the tests alone, with `struct` and nothing of the project, so that it can be trusted to disagree with it.
"""

from __future__ import annotations

import lzma
import struct
from dataclasses import dataclass, field
from pathlib import Path

Endpoint = tuple[str, int]

DATA = Path(__file__).parent.parent / "data" / "kernel" / "wire"


@dataclass
class Stream:
    """One direction of a TCP connection: its bytes in the pieces in which they arrived, without repetitions."""

    source: Endpoint
    target: Endpoint
    pieces: list[tuple[float, bytes]] = field(default_factory=list)
    next_seq: int | None = None

    @property
    def data(self) -> bytes:
        return b"".join(piece for _, piece in self.pieces)

    def add(self, time: float, seq: int, data: bytes) -> None:
        if self.next_seq is None:
            self.next_seq = seq
        skip = (self.next_seq - seq) & 0xFFFFFFFF
        if skip >= 1 << 31:
            raise AssertionError("the capture has a hole")
        if skip < len(data):
            self.pieces.append((time, data[skip:]))
            self.next_seq = (seq + len(data)) & 0xFFFFFFFF


@dataclass
class Message:
    """One message, decoded by hand."""

    seq: int
    recv_seq: int
    id: int
    data_len: int
    cmd: int
    flags: int
    error: int
    payload: bytes


def tcp_streams(name: str) -> list[Stream]:
    """The streams of `name` ("cluster3/lo"), each direction of each connection, in order of their first byte."""
    raw = lzma.decompress((DATA / f"{name}.pcap.xz").read_bytes())
    magic, *_, link_type = struct.unpack_from("<IHHiIII", raw)
    assert (magic, link_type) == (0xA1B2C3D4, 1)
    position = 24
    streams: dict[tuple[Endpoint, Endpoint], Stream] = {}
    finished: list[Stream] = []
    while position < len(raw):
        sec, usec, captured, length = struct.unpack_from("<IIII", raw, position)
        assert captured == length, "a packet was cut off"
        packet = raw[position + 16 : position + 16 + captured]
        position += 16 + captured
        if struct.unpack_from(">H", packet, 12) != (0x0800,) or packet[14 + 9] != 6:
            continue
        ip = packet[14 : 14 + struct.unpack_from(">H", packet, 16)[0]]
        tcp = ip[(ip[0] & 15) * 4 :]
        source_port, target_port, seq, _, offset, flags = struct.unpack_from(">HHIIBB", tcp)
        source = (".".join(map(str, ip[12:16])), source_port)
        target = (".".join(map(str, ip[16:20])), target_port)
        if flags & 0x02:  # SYN: the first byte comes next
            if (source, target) in streams:
                finished.append(streams[source, target])
            streams[source, target] = Stream(source, target, next_seq=(seq + 1) & 0xFFFFFFFF)
        data = tcp[(offset >> 4) * 4 :]
        if data:
            stream = streams.setdefault((source, target), Stream(source, target))
            stream.add(sec + usec / 1e6, seq, data)
    found = [stream for stream in finished + list(streams.values()) if stream.pieces]
    return sorted(found, key=lambda stream: stream.pieces[0][0])


def messages(data: bytes) -> list[Message]:
    """Cut a whole stream by hand: 32 bytes of header say how many follow."""
    found, position = [], 0
    while position + 32 <= len(data):
        seq, recv_seq, id, data_len, cmd, flags, error = struct.unpack_from("<QQQHBBB", data, position)
        payload = data[position + 32 : position + 32 + data_len]
        if len(payload) < data_len:
            break
        found.append(Message(seq, recv_seq, id, data_len, cmd, flags, error, payload))
        position += 32 + data_len
    return found
