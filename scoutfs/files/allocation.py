"""How many blocks a file gets, and where, when it needs one (spec 06 §5.7)."""

from __future__ import annotations

from typing import NamedTuple

from format.extent import ExtentFlag
from scoutfs.files.change import Change
from scoutfs.files.data import DataExtent
from scoutfs.files.extents_writing import extent_at, set_extent
from scoutfs.files.inode import Inode


class Preallocation(NamedTuple):
    """Options of a mount: blocks allocated ahead at most, and whether for files written from their start only."""

    blocks: int = 2048
    contig_only: bool = True


DEFAULT_PREALLOCATION = Preallocation()


class Request(NamedTuple):
    """What is asked of the allocator: `length` blocks for those of the file from `start` on."""

    start: int
    length: int


def allocate(
    change: Change, inode: Inode, block: int, count: int, found: DataExtent | None, options: Preallocation
) -> tuple[Inode, int, int]:
    """Have `block` of a file, which has none on the device, and up to `count` from it on be written.

    `found` is what `extent_at` says of it; `count` does not pass its end, or the hole.  Returns the inode, the block
    of the device, and how many there are.  Others that are allocated ahead are left unwritten.  Raises NoSpace,
    CommitNeeded, and as reading does.
    """
    offline = found is not None and found.start <= block
    wanted = request(change, inode, block, found, options)
    if wanted.start == block:
        wanted = wanted._replace(length=max(wanted.length, count))
    blkno, got = change.allocate(wanted.length)
    start = max(wanted.start, block + 1 - got)
    count = min(count, start + got - block)
    if got > count:
        flags = ExtentFlag.UNWRITTEN | (ExtentFlag.OFFLINE if offline else 0)
        inode = set_extent(change, inode, DataExtent(start, got, blkno, flags))
    at = blkno + block - start
    return set_extent(change, inode, DataExtent(block, count, at, 0)), at, count


def request(change: Change, inode: Inode, block: int, found: DataExtent | None, options: Preallocation) -> Request:
    """Return what is asked for when `block` alone is written.  Raises as reading does."""
    limit, online = options.blocks, inode.online_blocks
    if found is not None and found.start <= block:
        return Request(block, min(found.end - block, limit))
    room = limit if found is None else found.start - block
    if options.contig_only:
        if block > 1 and block == online:
            return Request(block, min(block, room, limit))
        return Request(block, 1)
    start, count = block - block % limit, limit
    first = extent_at(change, inode.ino, start)
    if first is not None and first.start < block:
        start, count, first = block, count - block % limit, found
    if first is not None and start < first.start < start + count:
        count = first.start - start
    return Request(start, max(1, min(count, online)))
