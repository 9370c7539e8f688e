"""Volumes with files that tests choose: the trees and the data are put on devices that mkfs has made.

Readers find everything in its place; what is free is not accounted for, so nobody may write such a volume.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from format.block import LARGE_BLOCK_SIZE, SMALL_BLOCK_SIZE, Ref
from format.btree_build import build_leaf, build_parent
from format.dirent import DirEntry, DirentType
from format.hashes import dirent_name_hash, xattr_name_hash
from format.keys import FsType
from format.superblock import ROOT_INO, SuperBlock
from scoutfs.files.items import fs_key, fs_range
from scoutfs.storage.volume import SUPER_OFFSET

FIRST_BLKNO = 1 << 13
"""The blocks of the first tree are behind it on the metadata device, far behind what mkfs has written."""
FIRST_DATA_BLKNO = 1 << 10

_LEAF_ITEMS = 250
_CHILDREN = 500
_SEQ = 2


@dataclass
class File:
    """A file to be; `extents` are (block of the file, blocks, block of the device, flags)."""

    mode: int
    size: int = 0
    nlink: int = 1
    uid: int = 0
    gid: int = 0
    mtime: int = 1_700_000_000_123_456_789
    next_pos: int = 2
    online: int = 0
    offline: int = 0
    extents: list[tuple[int, int, int, int]] = field(default_factory=list)


class Builder:
    """Gathers files, and writes them over the empty root directory of a volume.

    `root_mode` are the permissions of the root directory.
    """

    def __init__(self, root_mode: int = 0o755) -> None:
        self.files = {ROOT_INO: File(stat.S_IFDIR | root_mode, nlink=2)}
        self._items: dict[bytes, bytes] = {}
        self._next_ino = 1024
        self._next_data = FIRST_DATA_BLKNO
        self._next_blkno = FIRST_BLKNO
        self._data: list[tuple[int, bytes]] = []

    def add(self, parent: int, name: bytes, mode: int, **fields: int) -> int:
        """Add a file of any type to a directory; return its number."""
        ino = self._next_ino
        self._next_ino += 1
        self.files[ino] = File(mode, nlink=1 + stat.S_ISDIR(mode), **fields)
        directory = self.files[parent]
        hash = dirent_name_hash(name)
        value = DirEntry(ino, hash, directory.next_pos, DirentType.from_mode(mode), name).build()
        self._items[fs_key(parent, FsType.DIRENT, hash, directory.next_pos)] = value
        self._items[fs_key(parent, FsType.READDIR, directory.next_pos)] = value
        self._items[fs_key(ino, FsType.LINK_BACKREF, parent, directory.next_pos)] = value
        directory.next_pos += 1
        directory.size += len(name)
        directory.nlink += stat.S_ISDIR(mode)
        return ino

    def add_data(self, ino: int, start: int, data: bytes) -> None:
        """Give a file whole blocks from block `start` on; its size grows to their end."""
        blocks = len(data) // SMALL_BLOCK_SIZE
        self._data.append((self._next_data, data))
        self.add_extent(ino, start, blocks, self._next_data)
        self._next_data += blocks

    def reserve_data(self, ino: int, blocks: int) -> int:
        """Give a file one extent of blocks from its start on; return the first on the device, not written here."""
        self.add_extent(ino, 0, blocks, self._next_data)
        self._next_data += blocks
        return self._next_data - blocks

    def add_extent(self, ino: int, start: int, blocks: int, blkno: int, flags: int = 0) -> None:
        """Give a file an extent; its size grows to the end of it."""
        file = self.files[ino]
        self._items[fs_key(ino, FsType.DATA_EXTENT, start + blocks - 1, blocks)] = struct.pack("<QB7x", blkno, flags)
        file.online += blocks if blkno and not flags else 0
        file.offline += blocks if flags & 1 else 0
        file.size = max(file.size, (start + blocks) * SMALL_BLOCK_SIZE)

    def drop_extents(self, ino: int) -> None:
        """Take all extents of a file away; its size stays."""
        first, last = fs_range(ino, FsType.DATA_EXTENT)
        self._items = {key: value for key, value in self._items.items() if not first <= key <= last}
        self.files[ino].online = self.files[ino].offline = 0

    def add_xattr(self, ino: int, name: bytes, value: bytes) -> None:
        """Give a file an attribute of one item."""
        header = struct.pack("<HB5x", len(value), len(name))
        self._items[fs_key(ino, FsType.XATTR, xattr_name_hash(name))] = header + name + value

    def write(self, meta_path: Path, data_path: Path) -> None:
        """Put everything on the devices of a volume, beside what was put there before: a commit."""
        for ino, file in self.files.items():
            self._items[fs_key(ino, FsType.INODE)] = _inode(file)
        with meta_path.open("r+b") as meta, data_path.open("r+b") as data:
            for blkno, contents in self._data:
                data.seek(blkno * SMALL_BLOCK_SIZE)
                data.write(contents)
            meta.seek(SUPER_OFFSET)
            block = SuperBlock.parse(meta.read(SMALL_BLOCK_SIZE))
            root, height = Ref(0, 0), 0
            for root, height, encoded in self._blocks(block.fsid):  # noqa: B007 - the last one is the root
                meta.seek(root.blkno * LARGE_BLOCK_SIZE)
                meta.write(encoded)
            block.raw.fs_root.ref.blkno, block.raw.fs_root.ref.seq = root
            block.raw.fs_root.height = height
            block.raw.seq += 1
            meta.seek(SUPER_OFFSET)
            meta.write(block.build())

    def _blocks(self, fsid: int) -> Iterator[tuple[Ref, int, bytes]]:
        """Yield all blocks of the tree, leaves first: reference, height of the tree below it, contents."""
        keys = sorted(self._items)
        row: list[tuple[bytes, Ref]] = []
        for start in range(0, len(keys), _LEAF_ITEMS):
            part = keys[start : start + _LEAF_ITEMS]
            ref = self._next_ref()
            ones = [1] * len(part)
            yield ref, 1, build_leaf(fsid, ref, part, ones, [0] * len(part), [self._items[key] for key in part])
            row.append((part[-1], ref))
        level = 0
        while len(row) > 1:
            level += 1
            row[-1] = (b"\xff" * len(row[-1][0]), row[-1][1])
            above = []
            for start in range(0, len(row), _CHILDREN):
                children = row[start : start + _CHILDREN]
                ref = self._next_ref()
                keys_of, refs = zip(*children)
                yield ref, level + 1, build_parent(fsid, ref, level, keys_of, refs)
                above.append((keys_of[-1], ref))
            row = above

    def _next_ref(self) -> Ref:
        self._next_blkno += 1
        return Ref(self._next_blkno, _SEQ)


def _inode(file: File) -> bytes:
    seconds, nanoseconds = divmod(file.mtime, 1_000_000_000)
    numbers = (file.size, 1, 1, 1, file.online, file.offline, file.next_pos, 0, 1)
    head = struct.pack("<9Q6I", *numbers, file.nlink, file.uid, file.gid, file.mode, 0, 0)
    return head + struct.pack("<qI4x", seconds, nanoseconds) * 4 + bytes(8)
