"""Blocks: sizes, types, the header that starts each one, and how a block is sealed and verified (spec 01 §1, §2)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any, NamedTuple

from construct import ConstructError as _ConstructError
from construct import Container, Int32ul, Int64ul, Struct

from format.checksum import Buffer, checksum

SMALL_BLOCK_SIZE = 4096
"""Bytes of a super or quorum block, and the unit of file data and of block numbers 16..31."""

LARGE_BLOCK_SIZE = 65536
"""Bytes of every other metadata block, and the unit of the block number in every reference."""

SUPER_BLKNO = 16
QUORUM_BLKNO = 17
QUORUM_MAX_SLOTS = 15
META_START_BLKNO = 2
"""First large block of the metadata device that may be allocated."""
DATA_START_BLKNO = 64
"""First small block of the data device that may be allocated."""


class Magic(IntEnum):
    """Block types (spec 01 §2.3)."""

    SUPER = 0x103C428B
    QUORUM = 0xBC310868
    BTREE = 0xE597F96D
    BLOOM = 0x31995604
    SRCH_BLOCK = 0x897E4A7D
    SRCH_PARENT = 0xB23A2A05
    ALLOC_LIST = 0x8A93AC83


BlockHeader = Struct(
    "crc" / Int32ul,
    "magic" / Int32ul,
    "fsid" / Int64ul,
    "seq" / Int64ul,
    "blkno" / Int64ul,
)
"""The 32 bytes at the start of every block (spec 01 §2.1)."""

BlockRef = Struct("blkno" / Int64ul, "seq" / Int64ul)
"""A reference to a large block: 16 bytes, block number 0 for none (spec 01 §2.4)."""


class Ref(NamedTuple):
    """A decoded reference: a 64 KiB block number of the metadata device, and the `seq` that its header must hold."""

    blkno: int = 0
    seq: int = 0


NO_REF = Ref()
"""Refers to no block."""


class FormatError(ValueError):
    """Bytes that do not mean what they should."""


class BlockError(FormatError):
    """A block that failed verification.

    `field` is what was wrong (`length`, `crc`, `magic`, `fsid`, `blkno`, `seq` or the name of a field of the
    structure), `stored` what the block holds and `expected` what it should hold; both are None for `length` of a
    structure that could not be parsed at all.
    """

    def __init__(self, what: str, field: str, stored: int | None = None, expected: int | None = None) -> None:
        self.what, self.field, self.stored, self.expected = what, field, stored, expected
        if stored is None:
            text = f"{what}: bad {field}"
        elif field in ("length", "blkno"):
            text = f"{what}: {field} is {stored}, expected {expected}"
        elif expected is None:
            text = f"{what}: bad {field} {stored:#x}"
        else:
            text = f"{what}: {field} is {stored:#x}, expected {expected:#x}"
        super().__init__(text)


def seal(block: Buffer, size: int) -> bytes:
    """Return `block` padded with zeros to `size` bytes, the checksum of the rest stored in its first four bytes."""
    if len(block) > size:
        raise BlockError("block", "length", len(block), size)
    sealed = bytearray(block)
    sealed.extend(bytes(size - len(sealed)))
    sealed[0:4] = checksum(memoryview(sealed)[4:]).to_bytes(4, "little")
    return bytes(sealed)


def verify_block(
    what: str,
    data: Buffer,
    size: int,
    magic: Magic,
    *,
    fsid: int | None = None,
    blkno: int | None = None,
    seq: int | None = None,
) -> Container[Any]:
    """Verify a whole block and return its parsed `BlockHeader`.

    Checks length, crc, magic, fsid, blkno and seq in this order, the last three only where an expectation is given.
    `what` names the block in errors.  Raises BlockError.
    """
    if len(data) != size:
        raise BlockError(what, "length", len(data), size)
    header = BlockHeader.parse(bytes(data[:32]))
    calculated = checksum(memoryview(data)[4:])
    if header.crc != calculated:
        raise BlockError(what, "crc", header.crc, calculated)
    if header.magic != magic:
        raise BlockError(what, "magic", header.magic, magic)
    for field, expected in (("fsid", fsid), ("blkno", blkno), ("seq", seq)):
        if expected is not None and header[field] != expected:
            raise BlockError(what, field, header[field], expected)
    return header


def parse(declaration: Any, data: Buffer, what: str) -> Container[Any]:
    """Parse `data` with a construct declaration; whatever is wrong with the bytes is a BlockError naming `what`."""
    try:
        return declaration.parse(bytes(data))
    except _ConstructError as error:
        raise BlockError(what, str(error.path or "structure").rsplit("-> ", 1)[-1]) from error


def build(declaration: Any, fields: Mapping[str, Any], what: str) -> bytes:
    """Build `fields` with a construct declaration; a missing one or one out of range is a FormatError naming `what`."""
    try:
        return bytes(declaration.build(fields))
    except (_ConstructError, KeyError) as error:
        raise FormatError(f"{what}: {error}") from error
