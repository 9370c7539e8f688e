"""How numbers, references, keys and names are written (spec 01 §7.2, §7.3)."""

from __future__ import annotations

from typing import Any

from format.block import BlockHeader
from format.checksum import checksum

NAME_MAX = 255
"""Bytes of a name or target that are shown."""

_PRINTABLE = bytes(byte if 0x20 <= byte <= 0x7E else ord(".") for byte in range(256))


def header_line(data: bytes) -> str:
    """Return the line about the header of a whole block, which shows a checksum that does not fit."""
    header = BlockHeader.parse(data[:32])
    calculated = checksum(memoryview(data)[4:])
    mismatch = "" if calculated == header.crc else f" (!= {calculated:08x})"
    return (
        f"  hdr: crc {header.crc:08x}{mismatch} magic {header.magic:08x} fsid {header.fsid:x}"
        f" blkno {header.blkno} seq {header.seq}\n"
    )


def ref(parsed: Any) -> str:
    """A `BlockRef`."""
    return f"blkno {parsed.blkno} seq {parsed.seq}"


def tree_root(parsed: Any) -> str:
    """A `BtreeRoot`."""
    return f"{ref(parsed.ref)} height {parsed.height}"


def alloc_root(parsed: Any) -> str:
    """An `AllocRoot`."""
    return f"{tree_root(parsed.root)} total_len {parsed.total_len} flags 0x{parsed.flags:x}"


def list_head(parsed: Any) -> str:
    """An `AllocListHead`."""
    return f"{ref(parsed.ref)} total_nr {parsed.total_nr} first_nr {parsed.first_nr} flags 0x{parsed.flags:x}"


def srch_entry(parsed: Any) -> str:
    """A `SrchEntry`, parsed or decoded."""
    return f"{parsed.hash:016x}.{parsed.ino}.{parsed.id}"


def srch_file(parsed: Any) -> str:
    """A `SrchFile`, with the seq of its reference in hexadecimal."""
    return (
        f"f {srch_entry(parsed.first)} l {srch_entry(parsed.last)} blks {parsed.blocks} ents {parsed.entries}"
        f" hei {parsed.height} blkno {parsed.ref.blkno} seq {parsed.ref.seq:016x}"
    )


def key(parsed: Any) -> str:
    """A `KeyStruct`."""
    return f"{parsed.zone}.{parsed.first}.{parsed.type}.{parsed.second}.{parsed.third}.{parsed.fourth}"


def time(sec: int, nsec: int) -> str:
    """A time: nanoseconds have at least 8 digits, as the original pads them."""
    return f"{sec}.{nsec:08d}"


def name(raw: bytes) -> str:
    """At most 255 bytes, those that are not printable ASCII as dots."""
    return raw[:NAME_MAX].translate(_PRINTABLE).decode("ascii")


def signed(number: int) -> int:
    """Return what an unsigned number of 64 bits is as a signed one."""
    return number - 2**64 if number >= 2**63 else number
