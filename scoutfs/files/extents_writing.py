"""Changing the extents of a file, and the counts of blocks that follow from them (spec 06 §5.2, §5.3)."""

from __future__ import annotations

import struct

from format.extent import ExtentFlag
from format.keys import FsType
from scoutfs.files.change import Change
from scoutfs.files.data import BLOCK_MAX, DataExtent, read_extents
from scoutfs.files.errors import OfflineError, Refused
from scoutfs.files.inode import BLOCK_SIZE, Inode
from scoutfs.files.items import fs_key

_VALUE = struct.Struct("<QB7x")


def extent_at(change: Change, ino: int, block: int) -> DataExtent | None:
    """Return the extent that has `block`, or the next one behind it, None if there is none.  Raises as reading does."""
    return next(read_extents(change, ino, change.space.total_blocks, block), None)


def set_extent(change: Change, inode: Inode, extent: DataExtent) -> Inode:
    """Have blocks of a file be as `extent` says, merged with its neighbours; return the inode with its new counts.

    An extent without blocks and flags makes a hole.  Raises Refused if the blocks are not all in one extent, or all in
    one hole; and as reading does.
    """
    found = extent_at(change, inode.ino, extent.start)
    left = right = True
    if found is not None and found.start < extent.end:
        if extent.start < found.start or found.end < extent.end:
            raise Refused(f"inode {inode.ino}: blocks from {extent.start} on are not all in one extent")
        inode = _delete(change, inode, found)
        for start, end in ((found.start, extent.start), (extent.end, found.end)):
            if start < end:
                blkno = found.blkno + start - found.start if found.blkno else 0
                inode = _add(change, inode, DataExtent(start, end - start, blkno, found.flags))
        left, right = found.start == extent.start, found.end == extent.end
    return _merge(change, inode, extent, left=left, right=right)


def insert_extent(change: Change, inode: Inode, extent: DataExtent) -> Inode:
    """Add an extent where a hole is.  Raises Refused if blocks are there; otherwise as `set_extent`."""
    found = extent_at(change, inode.ino, extent.start)
    if found is not None and found.start < extent.end:
        raise Refused(f"inode {inode.ino}: blocks from {extent.start} on are no hole")
    return _merge(change, inode, extent, left=True, right=True)


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


def _merge(change: Change, inode: Inode, extent: DataExtent, *, left: bool, right: bool) -> Inode:
    """Add an extent, joined with those beside it where nothing of what it replaces is left."""
    if left and extent.start:
        before = extent_at(change, inode.ino, extent.start - 1)
        if before is not None and before.end == extent.start and _joins(before, extent):
            inode = _delete(change, inode, before)
            extent = DataExtent(before.start, before.length + extent.length, before.blkno, extent.flags)
    if right and extent.end <= BLOCK_MAX:
        behind = extent_at(change, inode.ino, extent.end)
        if behind is not None and behind.start == extent.end and _joins(extent, behind):
            inode = _delete(change, inode, behind)
            extent = extent._replace(length=extent.length + behind.length)
    return _add(change, inode, extent) if extent.blkno or extent.flags else inode


def _joins(left: DataExtent, right: DataExtent) -> bool:
    if left.flags != right.flags or bool(left.blkno) != bool(right.blkno):
        return False
    return not left.blkno or left.blkno + left.length == right.blkno


def _add(change: Change, inode: Inode, extent: DataExtent) -> Inode:
    change.create(_key(inode.ino, extent), _VALUE.pack(extent.blkno, extent.flags))
    return _counted(inode, extent, extent.length)


def _delete(change: Change, inode: Inode, extent: DataExtent) -> Inode:
    change.delete(_key(inode.ino, extent))
    return _counted(inode, extent, -extent.length)


def _counted(inode: Inode, extent: DataExtent, length: int) -> Inode:
    if extent.blkno and not extent.flags & ExtentFlag.UNWRITTEN:
        return inode._replace(online_blocks=inode.online_blocks + length)
    if extent.flags & ExtentFlag.OFFLINE:
        return inode._replace(offline_blocks=inode.offline_blocks + length)
    return inode


def _key(ino: int, extent: DataExtent) -> bytes:
    return fs_key(ino, FsType.DATA_EXTENT, extent.end - 1, extent.length)
