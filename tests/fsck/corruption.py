"""Changes one thing of a volume that the kernel wrote, so that every checksum is right again.

Reads and writes bytes by the specification; only structures are decoded with the declarations of `format`.
"""

from __future__ import annotations

import functools
import struct
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from format.block import seal
from format.btree import read_items
from format.dirent import DirentType
from format.keys import FsType, InodeIndexType, Key, Zone
from format.logs import LogTrees
from format.superblock import SuperBlock, SuperBlockStruct
from scoutfs.fsck.check import Outcome, check_volume
from scoutfs.storage.device import Device
from tests import kernel_images
from tests.format.blocks import Given, btree_block
from tests.memory import Image, MemoryIO

LARGE = 65536
SUPER = 65536
QUORUM = 17 * 4096


class Stored(NamedTuple):
    """An item, and the leaf that it is in."""

    blkno: int
    value: bytes
    seq: int
    flags: int


Change = Callable[[bytearray], object]


class Corruption:
    """A copy of both devices of a volume."""

    def __init__(self, name: str) -> None:
        self.name = name
        meta, data = _images(name)
        self.meta, self.data = meta.copy(), data.copy()

    @property
    def super(self) -> Any:
        """The parsed super block of the metadata device."""
        return SuperBlockStruct.parse(self.meta.read(SUPER, 4096))

    def check(self, *, with_data: bool = True) -> Outcome:
        """Check the volume as it is now."""
        io = MemoryIO({"meta": self.meta, "data": self.data})
        with Device.open("meta", io=io) as meta, Device.open("data", io=io) as data:
            return check_volume(meta, data if with_data else None)

    def change_super(self, change: Callable[[Any], object], *, device: str = "meta") -> None:
        """Change the parsed super block of "meta" or "data"."""
        image = getattr(self, device)
        parsed = SuperBlockStruct.parse(image.read(SUPER, 4096))
        change(parsed)
        image.write(SUPER, SuperBlock(parsed).build())

    def change_small(self, offset: int, change: Change, *, device: str = "meta") -> None:
        """Change the bytes of a small block, and seal it again."""
        image = getattr(self, device)
        data = bytearray(image.read(offset, 4096))
        change(data)
        image.write(offset, seal(data, 4096))

    def block(self, blkno: int) -> bytes:
        """Return a large block."""
        return self.meta.read(blkno * LARGE, LARGE)

    def change_block(self, blkno: int, change: Change, *, sealed: bool = True) -> None:
        """Change the bytes of a large block, and seal it again."""
        data = bytearray(self.block(blkno))
        change(data)
        self.meta.write(blkno * LARGE, seal(data, LARGE) if sealed else bytes(data))

    def poke(self, blkno: int, offset: int, form: str, *numbers: int) -> None:
        """Write numbers into a large block, and seal it again."""
        self.change_block(blkno, lambda data: struct.pack_into("<" + form, data, offset, *numbers))

    def items(self, root: Any = None) -> dict[Key, Stored]:
        """Return all items below a parsed root, by default that of the volume's tree, in order."""
        root = self.super.fs_root if root is None else root
        return _items(self.name, root.ref.blkno, root.height)

    def of(self, ino: int, type: FsType) -> list[Key]:
        """Return the keys of one type of items of an inode in the volume's tree."""
        return [key for key in self.items() if key.zone == Zone.FS and (key.first, key.type) == (ino, type)]

    def rewrite(self, blkno: int, change: Callable[[dict[Key, Given]], object]) -> None:
        """Change the items of a leaf, and build it anew."""
        data = self.block(blkno)
        block = read_items(data, "leaf")
        items = {item.key: Given(item.key, item.value, item.seq, item.flags) for item in block.items}
        change(items)
        fsid, seq = struct.unpack_from("<QQ", data, 8)
        built = btree_block(block.level, items.values(), fsid=fsid, blkno=blkno, seq=seq)
        self.meta.write(blkno * LARGE, seal(built, LARGE))

    def remove(self, key: Key, root: Any = None) -> None:
        """Remove an item from its tree."""
        self.rewrite(self.items(root)[key].blkno, lambda items: items.pop(key))

    def put(self, key: Key, value: bytes = b"", root: Any = None, *, seq: int = 1, flags: int = 0) -> None:
        """Add an item to its tree, or give it another value."""
        items = self.items(root)
        blkno = next((stored.blkno for other, stored in items.items() if other >= key), None)
        if blkno is None:
            blkno = next(reversed(items.values())).blkno
        self.rewrite(blkno, lambda items: items.update({key: Given(key, value, seq, flags)}))

    def edit(self, key: Key, change: Change, root: Any = None) -> None:
        """Change the value of an item."""
        stored = self.items(root)[key]
        value = bytearray(stored.value)
        change(value)
        new = Given(key, bytes(value), stored.seq, stored.flags)
        self.rewrite(stored.blkno, lambda items: items.update({key: new}))

    def field(self, key: Key, offset: int, form: str, number: int, root: Any = None) -> None:
        """Write a number into the value of an item."""
        self.edit(key, lambda value: struct.pack_into("<" + form, value, offset, number), root)

    def move(self, key: Key, new: Key, root: Any = None) -> None:
        """Give an item another key."""
        stored = self.items(root)[key]
        self.remove(key, root)
        self.put(new, stored.value, root, seq=stored.seq)

    def change_log(self, index: int, change: Callable[[Any], object]) -> None:
        """Change the parsed `LogTrees` of a log tree."""
        root = self.super.logs_root
        key = list(self.items(root))[index]

        def rebuild(value: bytearray) -> None:
            parsed = LogTrees.parse(bytes(value))
            change(parsed)
            value[:] = LogTrees.build(parsed)

        self.edit(key, rebuild, root)

    def logs(self) -> list[Any]:
        """Return the parsed `LogTrees` of all log trees."""
        return [LogTrees.parse(stored.value) for stored in self.items(self.super.logs_root).values()]

    def path(self, root: Any = None) -> list[int]:
        """Return the block numbers from a root to its first leaf."""
        root = self.super.fs_root if root is None else root
        path = [root.ref.blkno]
        for _ in range(root.height - 1):
            path.append(read_items(self.block(path[-1]), "").items[0].ref.blkno)
        return path


SMALL = "rich-v2-merged, smaller"
"""The volume without most of the empty files in its one large directory."""


@functools.cache
def _images(name: str) -> tuple[Image, Image]:
    """The metadata device, and a data device without contents, at which no check looks."""
    if name == SMALL:
        shrunk = Corruption("rich-v2-merged")
        _shrink(shrunk)
        return shrunk.meta, shrunk.data
    meta = kernel_images.load(name, "meta")
    parsed = SuperBlockStruct.parse(meta.read(SUPER, 4096))
    data = Image(parsed.total_data_blocks * 4096)
    parsed.flags = 0
    data.write(SUPER, SuperBlock(parsed).build())
    return meta, data


@functools.cache
def _items(name: str, blkno: int, height: int) -> dict[Key, Stored]:
    meta, _ = _images(name)
    found: dict[Key, Stored] = {}
    waiting = [(blkno, height - 1)] if height else []
    while waiting:
        blkno, level = waiting.pop()
        items = read_items(meta.read(blkno * LARGE, LARGE), "").items
        if level:
            waiting += [(item.ref.blkno, level - 1) for item in reversed(items)]
            continue
        found.update((item.key, Stored(blkno, item.value, item.seq, item.flags)) for item in items)
    return found


def _shrink(c: Corruption) -> None:
    """Delete the files in the largest directory that have nothing but an inode and one name."""
    items = c.items()
    numbers = Counter(key.first for key in items if key.zone == Zone.FS)
    entries = [key for key in items if key.zone == Zone.FS and key.type == FsType.DIRENT]
    largest = Counter(key.first for key in entries).most_common(1)[0][0]
    doomed: set[Key] = set()
    size = 0
    for key in entries:
        ino, _, pos = struct.unpack_from("<QQQ", items[key].value)
        if key.first != largest or numbers[ino] != 2 or items[key].value[24] != DirentType.REG:
            continue
        meta_seq, data_seq = struct.unpack_from("<8xQQ", items[Key(Zone.FS, ino, FsType.INODE)].value)
        doomed |= {
            key,
            Key(Zone.FS, largest, FsType.READDIR, pos),
            Key(Zone.FS, ino, FsType.LINK_BACKREF, largest, pos),
            Key(Zone.FS, ino, FsType.INODE),
            Key(Zone.INODE_INDEX, 0, InodeIndexType.META_SEQ, meta_seq, ino),
            Key(Zone.INODE_INDEX, 0, InodeIndexType.DATA_SEQ, data_seq, ino),
        }
        size += len(items[key].value) - 32
    for blkno in dict.fromkeys(items[key].blkno for key in doomed):
        c.rewrite(blkno, lambda given: [given.pop(key) for key in list(given) if key in doomed])
    inode = Key(Zone.FS, largest, FsType.INODE)
    old = struct.unpack_from("<Q", items[inode].value)[0]
    c.field(inode, 0, "Q", old - size)
    c.change_super(lambda parsed: parsed.update({"inode_count": parsed.inode_count - len(doomed) // 6}))
