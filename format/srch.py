"""Search files: sorted entries that find inodes by the names of their attributes (spec 01 §3.9)."""

from __future__ import annotations

import struct as _struct
from collections.abc import Iterator
from enum import IntFlag
from typing import NamedTuple

from construct import Array, Int8ul, Int32ul, Int64ul, Padding, Struct

from format.alloc import AllocListHead
from format.block import LARGE_BLOCK_SIZE, BlockError, BlockHeader, BlockRef, FormatError, Ref
from format.checksum import Buffer

PARENT_REFS = 4094
"""References of a parent block."""
ENTRY_MAX_SIZE = 26
"""Bytes of the longest coded entry."""
BLOCK_SAFE_SIZE = 65398
"""Bytes of entries behind which no further entry may start."""
LOG_BLOCK_LIMIT = 16
"""Blocks at which a mount's search log is handed to compaction."""
COMPACT_FILES = 4
"""Files that a compaction reads at most."""
ENTRIES_OFFSET = 112

SrchEntry = Struct("hash" / Int64ul, "ino" / Int64ul, "id" / Int64ul)
"""24 bytes."""

SrchFile = Struct(
    "first" / SrchEntry,
    "last" / SrchEntry,
    "ref" / BlockRef,
    "blocks" / Int64ul,
    "entries" / Int64ul,
    "height" / Int8ul,
    "pad" / Padding(7),
)
"""88 bytes: the root of a file of blocks, and the span of its entries."""

SrchParent = Struct("hdr" / BlockHeader, "refs" / Array(PARENT_REFS, BlockRef))
"""A whole block of references to children, any of which may be empty."""

SrchBlock = Struct(
    "hdr" / BlockHeader,
    "first" / SrchEntry,
    "last" / SrchEntry,
    "tail" / SrchEntry,
    "entry_nr" / Int32ul,
    "entry_bytes" / Int32ul,
)
"""The 112 bytes in front of the coded entries of a block."""

SrchCompactInput = Struct("sfl" / SrchFile, "blk" / Int64ul, "pos" / Int64ul)
"""104 bytes."""

SrchCompact = Struct(
    "meta_avail" / AllocListHead,
    "meta_freed" / AllocListHead,
    "id" / Int64ul,
    "nr" / Int8ul,
    "flags" / Int8ul,
    "pad" / Padding(6),
    "out" / SrchFile,
    "in" / Array(COMPACT_FILES, SrchCompactInput),
)
"""584 bytes: a compaction that waits or is being done; the payload that orders it and reports it as well."""


class SrchCompactFlag(IntFlag):
    """`flags` of a compaction: what to do, and how it went."""

    LOG = 0x01
    SORTED = 0x02
    DELETE = 0x04
    DONE = 0x10
    ERROR = 0x20


class Entry(NamedTuple):
    """An entry of a search file; compares as files are sorted."""

    hash: int = 0
    ino: int = 0
    id: int = 0


FIRST_BASE = Entry()
"""What the first entry of a block is coded against."""

_MASK = 2**64 - 1
_LENGTHS = _struct.Struct("<H")
_BLOCK_COUNTS = _struct.Struct("<II")
_COUNTS_OFFSET = 104
_PARENT = _struct.Struct("<QQ")


def encode_entry(entry: Entry, base: Entry = FIRST_BASE) -> bytes:
    """Return the code of `entry` behind `base`, 2 to 26 bytes.  Raises FormatError for a field out of range."""
    lengths = 0
    coded = b""
    for index, (number, previous) in enumerate(zip(entry, base, strict=True)):
        if not 0 <= number <= _MASK:
            raise FormatError(f"{entry}: field out of range")
        difference = (number - previous) & _MASK
        zigzag = (difference << 1 & _MASK) ^ (_MASK if difference >> 63 else 0)
        length = (zigzag.bit_length() + 7) // 8
        lengths |= length << 4 * index
        coded += zigzag.to_bytes(length, "little")
    return _LENGTHS.pack(lengths) + coded


def decode_entry(data: Buffer, offset: int, base: Entry, what: str = "srch entry") -> tuple[Entry, int]:
    """Decode the entry coded at `offset` behind `base`; return it and the bytes of its code.

    Raises BlockError naming `what` if the code passes the end of `data`.
    """
    if offset + 2 > len(data):
        raise BlockError(what, "lengths")
    (lengths,) = _LENGTHS.unpack_from(data, offset)
    position = offset + 2
    numbers = []
    for index, previous in enumerate(base):
        length = min(lengths >> 4 * index & 0xF, 8)
        if position + length > len(data):
            raise BlockError(what, "lengths", lengths)
        zigzag = int.from_bytes(data[position : position + length], "little")
        numbers.append((previous + ((zigzag >> 1) ^ (_MASK if zigzag & 1 else 0))) & _MASK)
        position += length
    return Entry(*numbers), position - offset


def read_entries(data: Buffer, what: str) -> Iterator[tuple[Entry, int]]:
    """Yield the entries of a search block of 64 KiB, which the caller has verified, each with the bytes of its code.

    Raises BlockError naming `what` where the block's counts do not fit its bytes; the entries before it were yielded.
    """
    if len(data) != LARGE_BLOCK_SIZE:
        raise BlockError(what, "length", len(data), LARGE_BLOCK_SIZE)
    entry_nr, entry_bytes = _BLOCK_COUNTS.unpack_from(data, _COUNTS_OFFSET)
    if entry_bytes > LARGE_BLOCK_SIZE - ENTRIES_OFFSET:
        raise BlockError(what, "entry_bytes", entry_bytes)
    coded = bytes(data[ENTRIES_OFFSET : ENTRIES_OFFSET + entry_bytes])
    entry, offset = FIRST_BASE, 0
    for index in range(entry_nr):
        if offset > BLOCK_SAFE_SIZE:
            raise BlockError(what, "entry_nr", entry_nr)
        entry, size = decode_entry(coded, offset, entry, f"{what} entry {index}")
        yield entry, size
        offset += size


def read_parent(data: Buffer, what: str) -> dict[int, Ref]:
    """Return the children of a parent block of 64 KiB, which the caller has verified, by their place in the block.

    Empty references are left out.  Raises BlockError naming `what`.
    """
    if len(data) != LARGE_BLOCK_SIZE:
        raise BlockError(what, "length", len(data), LARGE_BLOCK_SIZE)
    refs = (Ref(*fields) for fields in _PARENT.iter_unpack(memoryview(data)[32:]))
    return {index: ref for index, ref in enumerate(refs) if ref.blkno}
