"""Kinds of damage, each done to a real volume with every checksum right, and what a check has to say of it.

What is expected besides the damage itself are its documented consequences (docs/fsck.md).
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from format.btree import read_items
from format.dirent import DirentType
from format.keys import FsType, Key, Zone
from tests.format.blocks import Given
from tests.fsck.corruption import SMALL, Corruption

RICH, CRASHED = SMALL, "crash1-D_merge"

SIZE, META_SEQ, ONLINE, OFFLINE, NEXT_POS, NEXT_XATTR, NLINK, MODE, FLAGS = 0, 8, 32, 40, 48, 56, 72, 84, 92
"""Where fields are in an inode."""
DIRENT_HASH, DIRENT_POS, DIRENT_TYPE, DIRENT_NAME = 8, 16, 24, 32


@dataclass(frozen=True)
class Damage:
    """`do` changes the volume; the errors that a check must report are `errors`, and `notes` are among its notes."""

    name: str
    volume: str
    do: Callable[[Corruption], None]
    errors: frozenset[str]
    notes: frozenset[str]


DAMAGE: dict[str, Damage] = {}


def damage(
    *errors: str, notes: tuple[str, ...] = (), volume: str = RICH
) -> Callable[[Callable[[Corruption], None]], Callable[[Corruption], None]]:
    """Enter a function that does damage."""

    def enter(do: Callable[[Corruption], None]) -> Callable[[Corruption], None]:
        DAMAGE[do.__name__] = Damage(do.__name__, volume, do, frozenset(errors), frozenset(notes))
        return do

    return enter


def inode_key(ino: int) -> Key:
    """The key of an inode."""
    return Key(Zone.FS, ino, FsType.INODE)


def number(value: bytes, offset: int, form: str = "Q") -> int:
    """A number in a value."""
    return int(struct.unpack_from("<" + form, value, offset)[0])


def inodes(c: Corruption, kind: int, *, having: FsType | None = None, nlink: int = 0) -> list[int]:
    """Inodes of a type, maybe with items of a type, maybe with so many links; the root is left out."""
    having_inos = {key.first for key in c.items() if key.zone == Zone.FS and key.type == having}
    return [
        key.first
        for key, stored in c.items().items()
        if key.zone == Zone.FS
        and key.type == FsType.INODE
        and key.first > 1
        and stat.S_IFMT(number(stored.value, MODE, "I")) == kind
        and (having is None or key.first in having_inos)
        and (not nlink or number(stored.value, NLINK, "I") == nlink)
    ]


def a_file(c: Corruption, **wanted: Any) -> int:
    """A regular file."""
    return inodes(c, stat.S_IFREG, **wanted)[0]


def a_mapped_file(c: Corruption) -> int:
    """A regular file whose first extent has one written block or more on the device."""
    for ino in inodes(c, stat.S_IFREG, having=FsType.DATA_EXTENT, nlink=1):
        value = c.items()[c.of(ino, FsType.DATA_EXTENT)[0]].value
        if number(value, 0) and not value[8]:
            return ino
    raise LookupError


def a_directory(c: Corruption) -> int:
    """A directory with entries that is not the root."""
    return inodes(c, stat.S_IFDIR, having=FsType.DIRENT)[0]


def an_entry(c: Corruption, kind: DirentType = DirentType.REG, *, nlink: int = 1) -> tuple[Key, Key, Key]:
    """The three items of an entry whose inode has so many links: by name, by position, by inode."""
    for key, stored in c.items().items():
        if key.zone != Zone.FS or key.type != FsType.DIRENT or stored.value[DIRENT_TYPE] != kind or key.first == 1:
            continue
        ino = number(stored.value, 0)
        if nlink and number(c.items()[inode_key(ino)].value, NLINK, "I") != nlink:
            continue
        return key, *others(key, ino)
    raise LookupError


def others(key: Key, ino: int) -> tuple[Key, Key]:
    """The keys of the listing and of the link that belong to an entry."""
    readdir = Key(Zone.FS, key.first, FsType.READDIR, key.third)
    return readdir, Key(Zone.FS, ino, FsType.LINK_BACKREF, key.first, key.third)


def add(c: Corruption, ino: int, offset: int, change: int, form: str = "Q") -> None:
    """Add to a field of an inode, whatever was changed before."""
    key = inode_key(ino)
    blkno = c.items()[key].blkno

    def change_item(items: dict[Key, Given]) -> None:
        value = bytearray(items[key].value)
        struct.pack_into("<" + form, value, offset, number(value, offset, form) + change)
        items[key] = Given(key, bytes(value), items[key].seq)

    c.rewrite(blkno, change_item)


def first_leaf(c: Corruption) -> int:
    """The first leaf of the volume's tree: items of the inode index."""
    return c.path()[-1]


def item_offset(c: Corruption, blkno: int, place: int) -> int:
    """Where in a block the item is that is number `place` by key."""
    return read_items(c.block(blkno), "").items[place].offset
