"""Where the data of a file is, for many readings of it: a part of its extents in memory (spec 06 §5.1, §5.4)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

from scoutfs.files.data import BLOCK_MAX, DataExtent, read_extents
from scoutfs.files.errors import OfflineError
from scoutfs.files.inode import BLOCK_SIZE
from scoutfs.files.items import Items
from scoutfs.storage.device import Device

EXTENTS_MAX = 1024
"""Extents that are read at once."""


class Piece(NamedTuple):
    """Blocks of a file that are neighbours on the device too: `length` from `blkno` on; 0 if all of them are zeros."""

    blkno: int
    length: int


class ExtentMap(NamedTuple):
    """What is known of the blocks `first` to `last` of file `ino`: what no extent has of them is a hole."""

    ino: int
    first: int
    last: int
    extents: Sequence[DataExtent]

    def covers(self, first: int, last: int) -> bool:
        """Whether it knows all of these blocks."""
        return self.first <= first and last <= self.last

    def pieces(self, first: int, last: int) -> list[Piece]:
        """Return the blocks `first` to `last` of the file, which the map must cover, as pieces of the device.

        Raises OfflineError if any of them is in the archive.
        """
        pieces: list[Piece] = []
        at = first
        begin = bisect_right(self.extents, first, key=_end)
        for extent in islice(self.extents, begin, None):
            if extent.start > last:
                break
            start, end = max(extent.start, first), min(extent.end, last + 1)
            if extent.offline:
                raise OfflineError(self.ino, start * BLOCK_SIZE, (end - start) * BLOCK_SIZE)
            _add(pieces, 0, start - at)
            _add(pieces, extent.blkno + start - extent.start if extent.written else 0, end - start)
            at = end
        _add(pieces, 0, last + 1 - at)
        return pieces


def read_map(items: Items, ino: int, total_data_blocks: int, first: int, last: int) -> ExtentMap:
    """Read the map of the blocks from `first` on of file `ino`, at least to `last`.

    Raises DamagedItem, and what reading items raises.
    """
    extents = []
    for extent in read_extents(items, ino, total_data_blocks, first):
        extents.append(extent)
        if len(extents) >= EXTENTS_MAX and extent.end > last:
            return ExtentMap(ino, first, extent.end - 1, extents)
    return ExtentMap(ino, first, BLOCK_MAX, extents)


def read_pieces(device: Device, pieces: Sequence[Piece], buffer: memoryview) -> None:
    """Fill `buffer`, which must have their size, with the contents of neighbouring pieces of a file.

    Raises DeviceError.
    """
    at = 0
    for blkno, length in pieces:
        size = length * BLOCK_SIZE
        if blkno:
            device.read_into(blkno * BLOCK_SIZE, buffer[at : at + size])
        else:
            buffer[at : at + size] = bytes(size)
        at += size


def _end(extent: DataExtent) -> int:
    return extent.end


def _add(pieces: list[Piece], blkno: int, length: int) -> None:
    """Append blocks to what they continue."""
    if length <= 0:
        return
    if pieces:
        known = pieces[-1]
        if blkno == (known.blkno + known.length if known.blkno else 0):
            pieces[-1] = Piece(known.blkno, known.length + length)
            return
    pieces.append(Piece(blkno, length))
