"""Inodes, and the handles under which NFS knows them (spec 01 §3.12, §3.19)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, IntFlag
from typing import Any

from construct import Container, Int32ul, Int64ul, Struct

from format.block import BlockError, build, parse
from format.checksum import Buffer
from format.timespec import Timespec

FIRST_READDIR_POS = 2
"""`next_readdir_pos` of a new inode."""


class InodeFlag(IntFlag):
    """`flags` of an inode; RETENTION needs format version 2."""

    TRUNCATE = 1
    RETENTION = 2


InodeV1 = Struct(
    "size" / Int64ul,
    "meta_seq" / Int64ul,
    "data_seq" / Int64ul,
    "data_version" / Int64ul,
    "online_blocks" / Int64ul,
    "offline_blocks" / Int64ul,
    "next_readdir_pos" / Int64ul,
    "next_xattr_id" / Int64ul,
    "version" / Int64ul,
    "nlink" / Int32ul,
    "uid" / Int32ul,
    "gid" / Int32ul,
    "mode" / Int32ul,
    "rdev" / Int32ul,
    "flags" / Int32ul,
    "atime" / Timespec,
    "ctime" / Timespec,
    "mtime" / Timespec,
    "crtime" / Timespec,
)
"""160 bytes, the only form in format version 1; `rdev` is major << 20 | minor."""

Inode = Struct(*InodeV1.subcons, "proj" / Int64ul)
"""168 bytes: what format version 2 writes."""


class HandleType(IntEnum):
    """Types of NFS handles."""

    INO = 0x81
    INO_PARENT = 0x82


NfsHandle = Struct("ino" / Int64ul, "parent_ino" / Int64ul)
"""16 bytes; the parent counts in handles of type INO_PARENT."""


def parse_inode(value: Buffer, fmt_vers: int, what: str) -> Container[Any]:
    """Return the fields of `Inode`, `proj` 0 where an item of 160 bytes has none.

    Volumes of format version 2 may hold both lengths.  Raises BlockError naming `what` for any other length.
    """
    if len(value) == Inode.sizeof() and fmt_vers >= 2:
        return parse(Inode, value, what)
    if len(value) != InodeV1.sizeof():
        raise BlockError(what, "length", len(value), inode_size(fmt_vers))
    inode = parse(InodeV1, value, what)
    inode.proj = 0
    return inode


def build_inode(fields: Mapping[str, Any], fmt_vers: int) -> bytes:
    """Encode an inode at the length of the volume's format version.  Raises FormatError for a field out of range."""
    return build(Inode if fmt_vers >= 2 else InodeV1, fields, "inode")


def inode_size(fmt_vers: int) -> int:
    """Return the bytes of inodes that a volume of this format version is given."""
    return int((Inode if fmt_vers >= 2 else InodeV1).sizeof())
