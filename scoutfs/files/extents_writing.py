"""Changing the extents of a file, and the counts of blocks that follow from them (spec 06 §5.2, §5.3)."""

from __future__ import annotations

import struct

from format.extent import ExtentFlag
from format.keys import FsType
from scoutfs.files.change import Change
from scoutfs.files.data import DataExtent, read_extents
from scoutfs.files.errors import OfflineError
from scoutfs.files.inode import BLOCK_SIZE, Inode
from scoutfs.files.items import fs_key
from scoutfs.metadata.extents import Changes, Find, MappedExtent, insertion, setting

_VALUE = struct.Struct("<QB7x")


def extent_at(change: Change, ino: int, block: int) -> DataExtent | None:
    """Return the extent that has `block`, or the next one behind it, None if there is none.  Raises as reading does."""
    return next(read_extents(change, ino, change.space.total_blocks, block), None)


def set_extent(change: Change, inode: Inode, extent: DataExtent) -> Inode:
    """Have blocks of a file be as `extent` says, merged with its neighbours; return the inode with its new counts.

    An extent without blocks and flags makes a hole.  Raises InvalidExtent if the blocks are not all in one extent, or
    all in one hole; and as reading does.
    """
    return _carried_out(change, inode, setting(_find(change, inode.ino), MappedExtent(*extent)))


def insert_extent(change: Change, inode: Inode, extent: DataExtent) -> Inode:
    """Add an extent where a hole is.  Raises InvalidExtent if blocks are there; otherwise as `set_extent`."""
    return _carried_out(change, inode, insertion(_find(change, inode.ino), MappedExtent(*extent)))


def remove_extents(change: Change, inode: Inode, first: int, limit: int) -> tuple[Inode, bool]:
    """Remove what is in blocks from `first` on, at most `limit` extents, and free it.

    Returns the inode, and whether that was all.  Raises as reading does.
    """
    for _ in range(limit):
        found = extent_at(change, inode.ino, first)
        if found is None:
            return inode, True
        start = max(found.start, first)
        inode = set_extent(change, inode, DataExtent(start, found.end - start, 0, 0))
        if found.blkno:
            change.free(found.blkno + start - found.start, found.end - start)
    return inode, extent_at(change, inode.ino, first) is None


def check_online(change: Change, inode: Inode, end: int) -> None:
    """Raise OfflineError for the first offline blocks before byte `end`, and as reading does."""
    if not inode.offline_blocks or end <= 0:
        return
    last = (end - 1) // BLOCK_SIZE
    for extent in read_extents(change, inode.ino, change.space.total_blocks, 0, last):
        if extent.offline:
            raise OfflineError(inode.ino, extent.start * BLOCK_SIZE, extent.length * BLOCK_SIZE)


def _find(change: Change, ino: int) -> Find:
    def find(block: int) -> MappedExtent | None:
        found = extent_at(change, ino, block)
        return None if found is None else MappedExtent(*found)

    return find


def _carried_out(change: Change, inode: Inode, changes: Changes) -> Inode:
    for extent in changes.removed:
        change.delete(_key(inode.ino, extent))
        inode = _counted(inode, extent, -extent.length)
    for extent in changes.inserted:
        change.create(_key(inode.ino, extent), _VALUE.pack(extent.blkno, extent.flags))
        inode = _counted(inode, extent, extent.length)
    return inode


def _counted(inode: Inode, extent: MappedExtent, length: int) -> Inode:
    if extent.blkno and not extent.flags & ExtentFlag.UNWRITTEN:
        return inode._replace(online_blocks=inode.online_blocks + length)
    if extent.flags & ExtentFlag.OFFLINE:
        return inode._replace(offline_blocks=inode.offline_blocks + length)
    return inode


def _key(ino: int, extent: MappedExtent) -> bytes:
    return fs_key(ino, FsType.DATA_EXTENT, extent.end - 1, extent.length)
