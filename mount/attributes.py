"""What stat(2) and statfs(2) show, in the form of the binding."""

from __future__ import annotations

import errno
import os
from typing import Protocol

import pyfuse3

from scoutfs.files.directory import DirectoryEntry
from scoutfs.files.inode import BLOCK_SIZE, Inode

NAME_MAX = 255


class Statfs(Protocol):
    """What the server tells of the space of the volume (spec 03 §5.4)."""

    @property
    def free_meta_blocks(self) -> int: ...
    @property
    def total_meta_blocks(self) -> int: ...
    @property
    def free_data_blocks(self) -> int: ...
    @property
    def total_data_blocks(self) -> int: ...
    @property
    def inode_count(self) -> int: ...


def attributes_of(inode: Inode, timeout: float) -> pyfuse3.EntryAttributes:
    """Return the attributes of an inode, which the kernel may keep for `timeout` seconds.

    Raises OSError (EOVERFLOW) for a size or time that stat(2) cannot show.
    """
    entry = pyfuse3.EntryAttributes()
    entry.entry_timeout = entry.attr_timeout = timeout
    try:
        entry.st_ino = inode.ino
        entry.st_mode, entry.st_nlink = inode.mode, inode.nlink
        entry.st_uid, entry.st_gid = inode.uid, inode.gid
        entry.st_rdev = inode.device_number if inode.rdev else 0
        entry.st_size = inode.size
        entry.st_blocks = inode.blocks
        entry.st_atime_ns, entry.st_mtime_ns, entry.st_ctime_ns = inode.atime, inode.mtime, inode.ctime
    except OverflowError as error:
        raise OSError(errno.EOVERFLOW, os.strerror(errno.EOVERFLOW)) from error
    entry.st_blksize = BLOCK_SIZE
    return entry


def attributes_listed(entry: DirectoryEntry) -> pyfuse3.EntryAttributes:
    """Return what a directory says of an entry: number and type, of which the kernel must keep nothing."""
    found = pyfuse3.EntryAttributes()
    found.entry_timeout = found.attr_timeout = 0
    found.st_ino = entry.ino
    found.st_mode = entry.d_type << 12
    return found


def attributes_of_none(timeout: float) -> pyfuse3.EntryAttributes:
    """Return the answer that there is no such name, which the kernel may keep for `timeout` seconds."""
    none = pyfuse3.EntryAttributes()
    none.st_ino = 0
    none.entry_timeout = timeout
    return none


def control_attributes(ino: int, mode: int, nlink: int, size: int) -> pyfuse3.EntryAttributes:
    """Return the attributes of a control file: nothing is kept in the kernel's caches, what is shown may change."""
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = ino
    entry.entry_timeout = entry.attr_timeout = 0
    entry.st_mode, entry.st_nlink, entry.st_size = mode, nlink, size
    entry.st_blksize = BLOCK_SIZE
    entry.st_blocks = 0
    return entry


def statvfs_of(answer: Statfs) -> pyfuse3.StatvfsData:
    """Return what statfs(2) shows: metadata counts as 16 blocks for each of its own (spec 01 §8.8)."""
    data = pyfuse3.StatvfsData()
    data.f_bsize = data.f_frsize = BLOCK_SIZE
    data.f_blocks = answer.total_meta_blocks * 16 + answer.total_data_blocks
    data.f_bfree = data.f_bavail = answer.free_meta_blocks * 16 + answer.free_data_blocks
    data.f_files = answer.total_meta_blocks * 32
    data.f_ffree = data.f_favail = max(0, data.f_files - answer.inode_count)
    data.f_namemax = NAME_MAX
    return data
