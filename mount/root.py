"""The root directory's attributes, read from the volume when it is mounted."""

from __future__ import annotations

import errno
import stat
from dataclasses import dataclass
from typing import Any

from format.block import BlockError
from format.inode import parse_inode
from format.keys import FsType, Key, Zone
from format.superblock import ROOT_INO
from format.timespec import seconds_from_disk
from scoutfs.errors import ScoutfsError
from scoutfs.metadata.blocks import BlockReader
from scoutfs.metadata.forest import Forest, super_roots
from scoutfs.storage.volume import Volume

_NANOSECONDS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class RootAttributes:
    """Attributes of the root inode; times in nanoseconds since the epoch."""

    mode: int
    nlink: int
    uid: int
    gid: int
    size: int
    atime: int
    mtime: int
    ctime: int


def read_root(volume: Volume) -> RootAttributes:
    """Read the root inode.  Blocks.

    Raises ScoutfsError: of the device, of the tree, or (EIO) because there is no root directory in it.
    """
    what = f"{volume.metadata_path}: root inode"
    forest = Forest(BlockReader(volume.meta, volume.fsid), lambda: super_roots(volume))
    value = forest.lookup(Key(Zone.FS, ROOT_INO, FsType.INODE).sort_bytes)
    if value is None:
        raise ScoutfsError(f"{what}: there is no item for it", errno.EIO)
    try:
        inode = parse_inode(value, volume.fmt_vers, what)
    except BlockError as error:
        raise ScoutfsError(str(error), errno.EIO) from error
    if not stat.S_ISDIR(inode.mode):
        raise ScoutfsError(f"{what}: mode is {inode.mode:#o}, expected a directory", errno.EIO)
    return RootAttributes(
        inode.mode,
        inode.nlink,
        inode.uid,
        inode.gid,
        inode.size,
        _time(inode.atime),
        _time(inode.mtime),
        _time(inode.ctime),
    )


def _time(timespec: Any) -> int:
    return seconds_from_disk(timespec.sec) * _NANOSECONDS + int(timespec.nsec)
