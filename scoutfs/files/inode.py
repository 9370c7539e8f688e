"""Inodes (spec 06 §2)."""

from __future__ import annotations

import os
import stat
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from typing import NamedTuple

from format.block import BlockError, FormatError
from format.inode import InodeFlag, inode_size
from format.keys import FsType
from scoutfs.errors import ScoutfsError
from scoutfs.files.errors import DamagedItem
from scoutfs.files.items import NUMBER_MAX, Items, damaged, fs_key, item_name, key_fields

BLOCK_SIZE = 4096
"""Bytes of a block of file data: `st_blksize`."""

_NANOSECONDS = 1_000_000_000
_INODE = struct.Struct("<9Q6I" + "qI4x" * 4)
_PROJ = struct.Struct("<Q")


class Inode(NamedTuple):
    """An inode; fields as in `format.inode.Inode`, times in nanoseconds since the epoch, negative before it.

    `rdev` is major << 20 | minor, `crtime` the time of creation, `proj` the project or 0.
    """

    ino: int
    size: int
    meta_seq: int
    data_seq: int
    data_version: int
    online_blocks: int
    offline_blocks: int
    next_readdir_pos: int
    next_xattr_id: int
    version: int
    nlink: int
    uid: int
    gid: int
    mode: int
    rdev: int
    flags: int
    atime: int
    ctime: int
    mtime: int
    crtime: int
    proj: int

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_regular(self) -> bool:
        """Whether it is a regular file."""
        return stat.S_ISREG(self.mode)

    @property
    def is_symlink(self) -> bool:
        """Whether it is a symbolic link; its size is that of the target plus one."""
        return stat.S_ISLNK(self.mode)

    @property
    def blocks(self) -> int:
        """`st_blocks`: units of 512 bytes, offline ones included."""
        return (self.online_blocks + self.offline_blocks) * (BLOCK_SIZE // 512)

    @property
    def device_number(self) -> int:
        """`st_rdev`: the number of the device that a device node stands for, as user space writes it."""
        return os.makedev(self.rdev >> 20, self.rdev & 0xFFFFF)

    @property
    def retention(self) -> bool:
        """Whether nothing but attributes may change."""
        return bool(self.flags & InodeFlag.RETENTION)


def read_inode(items: Items, ino: int, fmt_vers: int) -> Inode | None:
    """Return inode `ino`, None if there is none.  Raises DamagedItem, and what reading items raises."""
    key = fs_key(ino, FsType.INODE)
    value = items.lookup(key)
    if value is None:
        return None
    try:
        return decode_inode(ino, value, fmt_vers)
    except BlockError as error:
        damaged(items, key, error)


def read_inodes(items: Items, inos: Iterable[int], fmt_vers: int) -> dict[int, Inode | ScoutfsError]:
    """Return those of the inodes `inos` that exist, in the place of one that cannot be read the error.

    As fast as their neighbours on the volume allow: leaves are searched once for all that they hold.
    """
    wanted = [fs_key(ino, FsType.INODE) for ino in sorted(set(inos))]
    found: dict[int, Inode | ScoutfsError] = {}
    at = 0
    while at < len(wanted):
        try:
            batch = next(items.batches(wanted[at], wanted[-1]), None)
        except ScoutfsError as error:
            found[_ino_of(wanted[at])] = error
            at += 1
            continue
        if batch is None:
            break
        end = bisect_right(wanted, batch.keys[-1], at)
        for key in wanted[at:end]:
            index = bisect_left(batch.keys, key)
            if batch.keys[index] != key:
                continue
            ino = _ino_of(key)
            try:
                found[ino] = decode_inode(ino, batch.values[index], fmt_vers)
            except BlockError as error:
                found[ino] = DamagedItem(f"{item_name(items, key)}: {error}")
        at = end
    return found


def decode_inode(ino: int, value: bytes, fmt_vers: int) -> Inode:
    """Decode the value of an inode's item.

    Volumes of format version 2 hold 168 bytes, or 160 that version 1 wrote; `proj` is 0 then.  Raises BlockError.
    """
    size = len(value)
    if size != _INODE.size and (fmt_vers < 2 or size != _INODE.size + _PROJ.size):
        raise BlockError("inode", "length", size, inode_size(fmt_vers))
    *numbers, a_sec, a_nsec, c_sec, c_nsec, m_sec, m_nsec, cr_sec, cr_nsec = _INODE.unpack_from(value)
    times = (
        a_sec * _NANOSECONDS + a_nsec,
        c_sec * _NANOSECONDS + c_nsec,
        m_sec * _NANOSECONDS + m_nsec,
        cr_sec * _NANOSECONDS + cr_nsec,
    )
    (proj,) = _PROJ.unpack_from(value, _INODE.size) if size > _INODE.size else (0,)
    return Inode._make((ino, *numbers, *times, proj))


def encode_inode(inode: Inode, fmt_vers: int) -> bytes:
    """Return the value of an inode's item, at the length of the volume's format version.

    Counters wrap at 64 bits; anything else out of range raises FormatError.
    """
    fields = [field & NUMBER_MAX for field in inode[1:10]]
    times = [part for time in inode[16:20] for part in divmod(time, _NANOSECONDS)]
    try:
        value = _INODE.pack(*fields, *inode[10:16], *times)
        return value + _PROJ.pack(inode.proj) if fmt_vers >= 2 else value
    except struct.error as error:
        raise FormatError(f"{inode}: {error}") from error


def _ino_of(key: bytes) -> int:
    return key_fields(key)[1]
