"""Changing the size of files (spec 06 §5.5)."""

from __future__ import annotations

from format.inode import InodeFlag
from scoutfs.files.attributes import mode_after_writing
from scoutfs.files.caller import Caller
from scoutfs.files.change import Change
from scoutfs.files.errors import FileTooLarge, Refused
from scoutfs.files.extents_writing import check_online, extent_at, remove_extents
from scoutfs.files.inode import BLOCK_SIZE, Inode
from scoutfs.files.writing import SIZE_MAX, changed_contents, check_changeable, clear_behind_end, read_block

EXTENTS_MAX = 8
"""Extents that one transaction removes at most."""


def set_size(change: Change, ino: int, size: int, caller: Caller) -> Inode:
    """Change the size of a regular file; return its inode.

    Unless it grows, blocks behind the end are still there: go on with `finish_truncate`.  The size that it has is a
    way to free what was allocated ahead.  Raises IsADirectory, WrongType, NotPermitted for a retained file,
    FileTooLarge, TruncatePending, OfflineError if anything before the new end is offline, DeviceError, and as `Change`
    does.
    """
    (inode,) = change.open(ino, data=True)
    check_changeable(inode)
    if size < 0:
        raise Refused(f"inode {ino} cannot have {size} bytes")
    if size > SIZE_MAX:
        raise FileTooLarge(f"inode {ino} cannot have {size} bytes")
    if size != inode.size:
        check_online(change, inode, size)
    if size > inode.size:
        clear_behind_end(change, inode)
    _clear_behind(change, inode, size)
    data_version = inode.data_version + (size != inode.size)
    flags = inode.flags | (InodeFlag.TRUNCATE if size <= inode.size else 0)
    inode = inode._replace(size=size, flags=flags, mode=mode_after_writing(inode, caller))
    return change.set(changed_contents(change, inode)._replace(data_version=data_version))


def finish_truncate(change: Change, ino: int) -> bool:
    """Remove some of what is behind the end of a file that was truncated; return whether that was all.

    Each call belongs into a transaction of its own.  Raises as `Change` does.
    """
    (inode,) = change.open(ino)
    if not inode.is_regular or not inode.flags & InodeFlag.TRUNCATE:
        return True
    inode, done = remove_extents(change, inode, -(-inode.size // BLOCK_SIZE), EXTENTS_MAX)
    if done:
        inode = inode._replace(flags=inode.flags & ~int(InodeFlag.TRUNCATE))
    change.set(inode)
    return done


def _clear_behind(change: Change, inode: Inode, size: int) -> None:
    """Write zeros behind the new end into the block that has it, so that nothing comes back when the file grows."""
    block, kept = divmod(size, BLOCK_SIZE)
    if not kept:
        return
    found = extent_at(change, inode.ino, block)
    if found is not None and found.start <= block and found.written:
        contents = read_block(change, inode, found, block)
        contents[kept:] = bytes(BLOCK_SIZE - kept)
        change.write(found.blkno + block - found.start, bytes(contents))
