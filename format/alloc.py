"""Allocator roots and lists of free blocks (spec 01 §3.6)."""

from __future__ import annotations

import struct as _struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag

from construct import Int32ul, Int64ul, Padding, Struct

from format.block import (
    LARGE_BLOCK_SIZE,
    NO_REF,
    BlockError,
    BlockHeader,
    BlockRef,
    FormatError,
    Magic,
    Ref,
    build,
    seal,
)
from format.btree import BtreeRoot
from format.checksum import Buffer

LIST_MAX_BLOCKS = 8185
"""Entries that a list block has room for."""


class AllocFlag(IntFlag):
    """`flags` of a root or of a list head."""

    LOW = 1


class AllocOwner(IntEnum):
    """Whose free blocks a report counts."""

    NONE = 0
    SERVER = 1
    MOUNT = 2
    SRCH = 3
    LOG_MERGE = 4


AllocRoot = Struct("total_len" / Int64ul, "flags" / Int32ul, "pad" / Padding(4), "root" / BtreeRoot)
"""40 bytes: a btree of free extents and the sum of their lengths in blocks."""

AllocListHead = Struct("ref" / BlockRef, "total_nr" / Int64ul, "first_nr" / Int32ul, "flags" / Int32ul)
"""32 bytes: a chain of list blocks and the sum of their entries."""

AllocListBlock = Struct("hdr" / BlockHeader, "next" / BlockRef, "start" / Int32ul, "nr" / Int32ul)
"""The 56 bytes in front of the entries of a list block, 64-bit block numbers."""

_ENTRIES_OFFSET = 56
_HEAD = _struct.Struct("<QQII")
_HEAD_OFFSET = 32


@dataclass(frozen=True, slots=True)
class ListBlock:
    """The decoded contents of a list block: its valid entries in stored order, `start` the place of the first."""

    next: Ref
    blknos: tuple[int, ...]
    start: int = 0


def read_list_block(data: Buffer, what: str) -> ListBlock:
    """Decode a list block of 64 KiB, which the caller has verified.  `what` names it in errors.  Raises BlockError."""
    if len(data) != LARGE_BLOCK_SIZE:
        raise BlockError(what, "length", len(data), LARGE_BLOCK_SIZE)
    blkno, seq, start, nr = _HEAD.unpack_from(data, _HEAD_OFFSET)
    if start > LIST_MAX_BLOCKS:
        raise BlockError(what, "start", start)
    if nr > LIST_MAX_BLOCKS - start:
        raise BlockError(what, "nr", nr)
    return ListBlock(Ref(blkno, seq), _struct.unpack_from(f"<{nr}Q", data, _ENTRIES_OFFSET + 8 * start), start)


def build_list_block(fsid: int, ref: Ref, blknos: Sequence[int], *, start: int = 0, next: Ref = NO_REF) -> bytes:
    """Encode the list block that `ref` refers to, sealed.  Raises FormatError if the entries do not fit."""
    if start < 0 or start + len(blknos) > LIST_MAX_BLOCKS:
        raise FormatError(f"{len(blknos)} entries from {start} on do not fit a list block of {LIST_MAX_BLOCKS}")
    header = {"crc": 0, "magic": Magic.ALLOC_LIST, "fsid": fsid, "seq": ref.seq, "blkno": ref.blkno}
    fields = {"hdr": header, "next": next._asdict(), "start": start, "nr": len(blknos)}
    head = build(AllocListBlock, fields, "list block")
    try:
        entries = _struct.pack(f"<{len(blknos)}Q", *blknos)
    except _struct.error as error:
        raise FormatError("block number out of range") from error
    return seal(head + bytes(8 * start) + entries, LARGE_BLOCK_SIZE)
