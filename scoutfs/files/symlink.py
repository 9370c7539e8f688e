"""Targets of symbolic links (spec 06 §3.5)."""

from __future__ import annotations

from itertools import islice

from format.block import BlockError
from format.btree import MAX_VALUE_SIZE
from format.keys import FsType
from format.symlink import SYMLINK_MAX_SIZE, join_target
from scoutfs.files.errors import WrongType
from scoutfs.files.inode import Inode
from scoutfs.files.items import Items, damaged, fs_key, fs_range

_PARTS_MAX = -(-SYMLINK_MAX_SIZE // MAX_VALUE_SIZE)


def read_target(items: Items, inode: Inode) -> bytes:
    """Return the target of a symbolic link.

    Raises WrongType for any other inode, DamagedItem, and what reading items raises.
    """
    if not inode.is_symlink:
        raise WrongType(f"inode {inode.ino} is no symbolic link")
    try:
        found = islice(items.items(*fs_range(inode.ino, FsType.SYMLINK)), _PARTS_MAX + 1)
        parts = [value for _, value in found]
        return join_target(parts, inode.size, "target")
    except BlockError as error:
        damaged(items, fs_key(inode.ino, FsType.SYMLINK), error)
