"""Extents: of a file's data, and free ones in allocator trees (spec 01 §3.6, §3.16, §4.3)."""

from __future__ import annotations

from enum import IntFlag
from typing import NamedTuple

from construct import Int8ul, Int64ul, Padding, Struct

from format.block import FormatError
from format.keys import FsType, Key, Zone

_MAX = 2**64 - 1


class ExtentFlag(IntFlag):
    """`flags` of a data extent."""

    OFFLINE = 1
    UNWRITTEN = 2


DataExtent = Struct("blkno" / Int64ul, "flags" / Int8ul, "pad" / Padding(7))
"""16 bytes: the first 4 KiB block on the data device, 0 where the extent has no blocks."""


class Extent(NamedTuple):
    """`length` blocks from `start` on: LG blocks of the metadata, SM blocks of the data device or of a file."""

    start: int
    length: int

    @property
    def last(self) -> int:
        """The last block."""
        return self.start + self.length - 1


def extent_order(length: int) -> int:
    """Return floor(log8(length)), by which free extents are sorted; 0 for a length of 0."""
    return ((length | 1).bit_length() - 1) // 3


def free_extent_keys(extent: Extent) -> tuple[Key, Key]:
    """Return the keys of the two items of a free extent, by location and by order; their values are empty.

    Raises FormatError for an extent that is empty or passes the greatest block number.
    """
    _check(extent)
    order = _MAX - extent_order(extent.length)
    by_location = Key(Zone.FREE_EXTENT_BLKNO, extent.last, 0, extent.length)
    return by_location, Key(Zone.FREE_EXTENT_ORDER, order, 0, extent.last, extent.length)


def free_extent(key: Key) -> Extent:
    """Return the extent that the key of a free extent item describes; numbers wrap at 64 bits as in the original."""
    last, length = (key.first, key.second) if key.zone == Zone.FREE_EXTENT_BLKNO else (key.second, key.third)
    return Extent((last - length + 1) & _MAX, length)


def data_extent_key(ino: int, extent: Extent) -> Key:
    """Return the key of an extent of a file, in blocks of the file.  Raises FormatError for an impossible extent."""
    _check(extent)
    return Key(Zone.FS, ino, FsType.DATA_EXTENT, extent.last, extent.length)


def data_extent(key: Key) -> Extent:
    """Return the blocks of the file that the key of a data extent item covers; numbers wrap at 64 bits."""
    return Extent((key.second - key.third + 1) & _MAX, key.third)


def _check(extent: Extent) -> None:
    if extent.start < 0 or extent.length < 1 or extent.last > _MAX:
        raise FormatError(f"extent of {extent.length} blocks from {extent.start} on")
