"""Files whose contents are in an archive: releasing, staging and punching them (spec 06 §6.1).

None of this changes the version of the contents, times, or data_seq: to whoever reads the file it stays the same.
"""

from __future__ import annotations

from format.checksum import Buffer
from format.extent import ExtentFlag
from scoutfs.files.allocation import DEFAULT_PREALLOCATION, Preallocation
from scoutfs.files.change import Change
from scoutfs.files.data import DataExtent
from scoutfs.files.errors import BadRange, NotPermitted, Refused, Stale, WrongType
from scoutfs.files.extents_writing import extent_at, remove_extents, set_extent
from scoutfs.files.inode import BLOCK_SIZE, Inode
from scoutfs.files.items import NUMBER_MAX
from scoutfs.files.truncate import EXTENTS_MAX
from scoutfs.files.writing import write_blocks

PUNCHED_MAX = 32
"""Extents that one transaction punches at most."""


def release(change: Change, ino: int, offset: int, length: int, data_version: int) -> int:
    """Free the blocks of whole blocks of a file whose contents are in the archive by now.

    What was allocated ahead of them goes offline as well, holes stay holes.  Does what one transaction may hold;
    returns the offset at which to go on, `offset` + `length` at the end: then see to `release_behind_end`.  Raises
    Refused, WrongType, Stale if the contents have another version, and as `Change` does.
    """
    (inode,) = change.open(ino)
    _check_regular(inode)
    if not length:
        return offset
    if _misplaced(offset, length):
        raise Refused(f"{length} bytes from {offset} on are no whole blocks")
    _check_version(inode, data_version)
    block, end = offset // BLOCK_SIZE, (offset + length) // BLOCK_SIZE
    for _ in range(EXTENTS_MAX):
        found = extent_at(change, ino, block)
        if found is None or found.start >= end:
            block = end
            break
        start, stop = max(found.start, block), min(found.end, end)
        if found.blkno:
            inode = set_extent(change, inode, DataExtent(start, stop - start, 0, ExtentFlag.OFFLINE))
            change.free(found.blkno + start - found.start, stop - start)
        block = stop
    change.set(inode)
    return block * BLOCK_SIZE


def release_behind_end(change: Change, ino: int) -> bool:
    """Free some of what was allocated behind the end of a file that is released as a whole; return whether that is all.

    Raises as `Change` does.
    """
    (inode,) = change.open(ino)
    if not inode.is_regular or inode.online_blocks or not inode.size:
        return True
    inode, done = remove_extents(change, inode, -(-inode.size // BLOCK_SIZE), EXTENTS_MAX)
    change.set(inode)
    return done


def stage(
    change: Change,
    ino: int,
    offset: int,
    data: Buffer,
    data_version: int,
    options: Preallocation = DEFAULT_PREALLOCATION,
) -> int:
    """Write contents that come back from the archive, up to the end of the file; return how many bytes were written.

    As with `write` the rest has to be written again, at the offset behind it.  What is online is overwritten.  Raises
    Refused for bytes that do not begin and end with blocks, or pass the end, WrongType, Stale if the contents have
    another version, NoSpace, CommitNeeded, DeviceError, and as `Change` does.
    """
    (inode,) = change.open(ino)
    _check_regular(inode)
    end = offset + len(data)
    if offset < 0 or offset % BLOCK_SIZE or end > inode.size or (end % BLOCK_SIZE and end != inode.size):
        raise Refused(f"{len(data)} bytes from {offset} on are no whole blocks of inode {ino}")
    _check_version(inode, data_version)
    if not data:
        return 0
    change.need_space()
    inode, count = write_blocks(change, inode, offset, data, options)
    change.set(inode._replace(version=inode.version + 1))
    return count


def punch_offline(change: Change, ino: int, offset: int, length: int, data_version: int) -> int:
    """Forget whole blocks of a file that are in the archive: they become a hole.

    Does what one transaction may hold; returns the offset at which to go on, `offset` + `length` at the end.  Raises
    BadRange, WrongType, Stale if the contents have another version, NotPermitted for a retained file, Refused where
    the file has blocks, and as `Change` does.
    """
    (inode,) = change.open(ino)
    if not length:
        return offset
    if _misplaced(offset, length):
        raise BadRange(f"{length} bytes from {offset} on are no whole blocks")
    _check_regular(inode)
    _check_version(inode, data_version)
    if inode.retention:
        raise NotPermitted(f"inode {ino} is retained")
    block, end = offset // BLOCK_SIZE, (offset + length) // BLOCK_SIZE
    for number in range(PUNCHED_MAX):
        found = extent_at(change, ino, block)
        if found is None or found.start >= end:
            block = end
            break
        if found.blkno:
            if number:
                break
            raise Refused(f"inode {ino}: block {max(found.start, block)} is on the volume")
        start, stop = max(found.start, block), min(found.end, end)
        inode = set_extent(change, inode, DataExtent(start, stop - start, 0, 0))
        block = stop
    change.set(inode)
    return block * BLOCK_SIZE


def _misplaced(offset: int, length: int) -> bool:
    return offset < 0 or length < 0 or offset + length > NUMBER_MAX or bool((offset | length) % BLOCK_SIZE)


def _check_regular(inode: Inode) -> None:
    if not inode.is_regular:
        raise WrongType(f"inode {inode.ino} is no regular file")


def _check_version(inode: Inode, data_version: int) -> None:
    if inode.data_version != data_version:
        raise Stale(f"inode {inode.ino} has contents of version {inode.data_version}, not {data_version}")
