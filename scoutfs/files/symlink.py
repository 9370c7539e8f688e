"""Targets of symbolic links (spec 06 §3.5)."""

from __future__ import annotations

from format.block import BlockError
from format.keys import FsType
from format.symlink import join_target
from scoutfs.files.errors import WrongType
from scoutfs.files.inode import Inode
from scoutfs.files.items import Items, damaged, fs_key, fs_range


def read_target(items: Items, inode: Inode) -> bytes:
    """Return the target of a symbolic link.

    Raises WrongType for any other inode, DamagedItem, and what reading items raises.
    """
    if not inode.is_symlink:
        raise WrongType(f"inode {inode.ino} is no symbolic link")
    try:
        parts = [value for _, value in items.items(*fs_range(inode.ino, FsType.SYMLINK))]
        return join_target(parts, inode.size, "target")
    except BlockError as error:
        damaged(items, fs_key(inode.ino, FsType.SYMLINK), error)
