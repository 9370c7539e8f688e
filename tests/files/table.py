"""Items of files in a dictionary, and volumes built of them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from format.dirent import DirEntry
from format.hashes import dirent_name_hash, xattr_name_hash
from format.inode import Inode, build_inode
from format.keys import FsType, Key
from format.xattr import Xattr, split_xattr
from scoutfs.files.filesystem import Filesystem
from scoutfs.files.items import fs_key
from scoutfs.metadata.btree import FIRST_KEY, LAST_KEY, NO_ROOT
from scoutfs.metadata.snapshot import Roots
from tests.format.blocks import Given
from tests.metadata.building import FSID, Blocks

DATA_BLOCKS = 1 << 20


class Table(dict[bytes, bytes]):
    """A dictionary of values by sort forms of keys that can be read as `scoutfs.files.items.Items`."""

    blocks: Any = SimpleNamespace(device=SimpleNamespace(path="/dev/meta"))

    def lookup(self, key: bytes) -> bytes | None:
        """Return the value of `key`."""
        return self.get(key)

    def items(self, first: bytes = FIRST_KEY, last: bytes = LAST_KEY) -> Iterator[tuple[bytes, bytes]]:  # type: ignore[override]
        """Yield key and value of the range."""
        return iter([(key, self[key]) for key in sorted(self) if first <= key <= last])

    def next(self, key: bytes, last: bytes = LAST_KEY) -> tuple[bytes, bytes] | None:
        """Return the first of the range."""
        return next(self.items(key, last), None)

    def add_inode(self, ino: int, mode: int, fmt_vers: int = 2, **fields: Any) -> None:
        """Put an inode there; fields that are not given are 0."""
        time = {"sec": 0, "nsec": 0}
        defaults = dict.fromkeys((field.name for field in Inode.subcons), 0)
        times = dict.fromkeys(("atime", "ctime", "mtime", "crtime"), time)
        self[fs_key(ino, FsType.INODE)] = build_inode({**defaults, **times, "mode": mode, **fields}, fmt_vers)

    def add_entry(self, dir_ino: int, name: bytes, ino: int, pos: int, type: int = 4) -> None:
        """Put the three items of an entry there."""
        value = DirEntry(ino, dirent_name_hash(name), pos, type, name).build()
        self[fs_key(dir_ino, FsType.DIRENT, dirent_name_hash(name), pos)] = value
        self[fs_key(dir_ino, FsType.READDIR, pos)] = value
        self[fs_key(ino, FsType.LINK_BACKREF, dir_ino, pos)] = value

    def add_xattr(self, ino: int, name: bytes, value: bytes, id: int) -> None:
        """Put the parts of an attribute there."""
        for part, piece in enumerate(split_xattr(Xattr(name, value))):
            self[fs_key(ino, FsType.XATTR, xattr_name_hash(name), id, part)] = piece

    def add_extent(self, ino: int, start: int, length: int, blkno: int, flags: int = 0) -> bytes:
        """Put an extent there; return its key."""
        key = fs_key(ino, FsType.DATA_EXTENT, start + length - 1, length)
        self[key] = struct.pack("<QB7x", blkno, flags)
        return key

    def filesystem(self, fmt_vers: int = 2) -> Filesystem:
        """Return a volume of these items; block n of its data holds n % 256 in all bytes."""
        device = Blocks()
        items = [Given(Key.from_sort_bytes(key), value, seq=1) for key, value in self.items()]
        roots = Roots(device.add_tree(items, leaf=20) if items else NO_ROOT)
        data = SimpleNamespace(path="/dev/data", size=DATA_BLOCKS * 4096, read=numbered)
        volume: Any = SimpleNamespace(meta=device, data=data, fsid=FSID, fmt_vers=fmt_vers, metadata_path="/dev/meta")
        return Filesystem(volume, get_roots=lambda: roots)


def numbered(offset: int, length: int) -> bytes:
    """Return what the data device of tests holds."""
    assert offset % 4096 == length % 4096 == 0
    return b"".join(bytes([block % 256]) * 4096 for block in range(offset // 4096, (offset + length) // 4096))
