"""Deleting inodes that nobody can reach any more, in bounded pieces (spec 06 §2.5)."""

from __future__ import annotations

from format.keys import FsType
from scoutfs.files.change import Change
from scoutfs.files.errors import NotFound
from scoutfs.files.extents_writing import remove_extents
from scoutfs.files.items import fs_range
from scoutfs.files.store import ORPHAN_LOCK
from scoutfs.files.truncate import EXTENTS_MAX
from scoutfs.files.xattr_writing import delete_parts

PARTS_MAX = 16
"""Parts of attributes that one transaction deletes at most."""


def delete_some(change: Change, ino: int) -> bool:
    """Delete some of what an inode without names has, in the end the inode; return whether there is nothing to do.

    That no mount has it open is known.  Each call belongs into a transaction of its own; after a crash it goes on
    where it was.  An inode that has a name, or does not exist, is left alone.  Raises as `Change` does.
    """
    try:
        (inode,) = change.open(ino)
    except NotFound:
        return True
    if inode.nlink:
        return True
    change.need(ORPHAN_LOCK)
    if inode.is_regular:
        # The inode is going: its counts of blocks need not follow.
        _, done = remove_extents(change, inode, 0, EXTENTS_MAX)
        if not done:
            return False
    if not delete_parts(change, ino, PARTS_MAX):
        return False
    for key, _ in change.items(*fs_range(ino, FsType.SYMLINK)):
        change.delete(key)
    change.set_orphan(ino, orphan=False)
    change.delete_inode(inode)
    return True
