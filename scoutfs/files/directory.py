"""Directories: entries by name and by position (spec 06 §3)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from format.block import BlockError
from format.dirent import FIRST_POS, HEADER_SIZE, LAST_POS, NAME_MAX, DirEntry, DirentType, entry_header
from format.hashes import dirent_name_hash
from format.keys import FsType
from format.superblock import ROOT_INO
from scoutfs.files.errors import NameTooLong
from scoutfs.files.items import Items, damaged, fs_key, fs_range, key_fields
from scoutfs.files.links import parent

_D_TYPES = {
    DirentType.FIFO: 1,
    DirentType.CHR: 2,
    DirentType.DIR: 4,
    DirentType.BLK: 6,
    DirentType.REG: 8,
    DirentType.LNK: 10,
    DirentType.SOCK: 12,
    DirentType.WHT: 14,
}


class Listed(NamedTuple):
    """An entry of a batch: name, inode, type as in `DirectoryEntry`, and position."""

    name: bytes
    ino: int
    type: int
    pos: int


class DirectoryEntry(NamedTuple):
    """An entry as it is listed.

    `pos` is its position; `next_pos`, `d_off` of getdents(2), is where the listing goes on behind it.  `type` is a
    `DirentType`, or a number that it does not know.
    """

    name: bytes
    ino: int
    type: int
    pos: int
    next_pos: int

    @property
    def d_type(self) -> int:
        """The type as readdir(3) numbers it, 0 if unknown."""
        return d_type(self.type)


def d_type(type: int) -> int:
    """Return the number that readdir(3) uses for the type of an entry, 0 if it is unknown."""
    return _D_TYPES.get(DirentType(type), 0) if type in tuple(DirentType) else 0


def find_entry(items: Items, dir_ino: int, name: bytes) -> DirEntry | None:
    """Return the entry called `name` of a directory, None if there is none; `.` and `..` have none.

    Raises NameTooLong, DamagedItem, and what reading items raises.
    """
    if len(name) > NAME_MAX:
        raise NameTooLong(f"a name of {len(name)} bytes, at most {NAME_MAX} are possible")
    for key, value in items.items(*fs_range(dir_ino, FsType.DIRENT, dirent_name_hash(name))):
        entry = _parsed(items, key, value)
        if entry.name == name:
            return entry
    return None


def list_directory(items: Items, dir_ino: int, pos: int = 0) -> Iterator[DirectoryEntry]:
    """Yield the entries at position `pos` and behind: `.` and `..` at 0 and 1, then in order of creation.

    Go on with the `next_pos` of the last entry that was used.  An unlinked directory is its own parent.  Raises
    DamagedItem, and what reading items raises.
    """
    waiting: tuple[bytes, int, int, int] | None = None
    if pos <= 0:
        yield DirectoryEntry(b".", dir_ino, DirentType.DIR, 0, 1)
    if pos <= 1:
        up = dir_ino if dir_ino == ROOT_INO else parent(items, dir_ino) or dir_ino
        waiting = (b"..", up, int(DirentType.DIR), 1)
    if pos > LAST_POS:
        return
    _, last = fs_range(dir_ino, FsType.READDIR)
    for key, value in items.items(fs_key(dir_ino, FsType.READDIR, max(pos, FIRST_POS)), last):
        entry = _parsed(items, key, value)
        at = key_fields(key)[3]
        if waiting:
            yield DirectoryEntry(*waiting, at)
        waiting = (entry.name, entry.ino, entry.type, at)
    if waiting:
        yield DirectoryEntry(*waiting, waiting[3] + 1)


def list_batch(items: Items, dir_ino: int, pos: int, limit: int) -> list[Listed]:
    """Return some entries at position `pos` and behind, `limit` at most, without `.` and `..`; none at the end.

    Go on behind the last one.  Raises DamagedItem, and what reading items raises.
    """
    batch = next(items.batches(fs_key(dir_ino, FsType.READDIR, pos), fs_range(dir_ino, FsType.READDIR)[1]), None)
    if batch is None:
        return []
    listed = []
    for key, value in zip(batch.keys[:limit], batch.values[:limit]):
        if not HEADER_SIZE < len(value) <= HEADER_SIZE + NAME_MAX:
            damaged(items, key, f"a directory entry of {len(value)} bytes")
        ino, type = entry_header(value)
        listed.append(Listed(value[HEADER_SIZE:], ino, type, key_fields(key)[3]))
    return listed


def list_by_hash(items: Items, dir_ino: int) -> Iterator[Listed]:
    """Yield the entries of a directory in the order of the hashes of their names: other items hold them again.

    Raises DamagedItem, and what reading items raises.
    """
    for key, value in items.items(*fs_range(dir_ino, FsType.DIRENT)):
        entry = _parsed(items, key, value)
        yield Listed(entry.name, entry.ino, entry.type, entry.pos)


def _parsed(items: Items, key: bytes, value: bytes) -> DirEntry:
    try:
        return DirEntry.parse(value, "directory entry")
    except BlockError as error:
        damaged(items, key, error)
