"""Directory entries (spec 01 §3.13): three items of equal value each, found by name, by position and by inode."""

from __future__ import annotations

import stat
import struct as _struct
from dataclasses import dataclass
from enum import IntEnum

from construct import Int8ul, Int64ul, Padding, Struct

from format.block import BlockError, FormatError
from format.checksum import Buffer

NAME_MAX = 255
FIRST_POS = 2
"""Positions 0 and 1 are `.` and `..`, which have no items."""
LAST_POS = 2**64 - 2
LINK_MAX = 2147483647


class DirentType(IntEnum):
    """`type` of an entry: not the numbers that readdir(3) uses."""

    FIFO = 0
    CHR = 1
    DIR = 2
    BLK = 3
    REG = 4
    LNK = 5
    SOCK = 6
    WHT = 7

    @classmethod
    def from_mode(cls, mode: int) -> DirentType:
        """Return the type for an inode's mode.  Raises FormatError if the mode has no file type."""
        try:
            return _TYPE_OF_FORMAT[stat.S_IFMT(mode)]
        except KeyError:
            raise FormatError(f"mode {mode:#o} has no file type") from None


_TYPE_OF_FORMAT = {
    stat.S_IFIFO: DirentType.FIFO,
    stat.S_IFCHR: DirentType.CHR,
    stat.S_IFDIR: DirentType.DIR,
    stat.S_IFBLK: DirentType.BLK,
    stat.S_IFREG: DirentType.REG,
    stat.S_IFLNK: DirentType.LNK,
    stat.S_IFSOCK: DirentType.SOCK,
}

Dirent = Struct("ino" / Int64ul, "hash" / Int64ul, "pos" / Int64ul, "type" / Int8ul, "pad" / Padding(7))
"""The 32 bytes in front of the name, which fills the rest of the value."""

_HEADER = _struct.Struct("<QQQB7x")
_INO_TYPE = _struct.Struct("<Q16xB")
HEADER_SIZE = _HEADER.size
"""Bytes in front of the name."""


@dataclass(frozen=True, slots=True)
class DirEntry:
    """A decoded entry.  `type` is kept as stored: a number that `DirentType` does not know is an unknown type."""

    ino: int
    hash: int
    pos: int
    type: int
    name: bytes

    @classmethod
    def parse(cls, value: Buffer, what: str) -> DirEntry:
        """Decode the value of an item.  Raises BlockError naming `what` if the name has not 1 to 255 bytes."""
        name = bytes(value[HEADER_SIZE:])
        if not 1 <= len(name) <= NAME_MAX:
            raise BlockError(what, "name length", len(name))
        ino, hash, pos, type = _HEADER.unpack_from(value)
        return cls(ino, hash, pos, type, name)

    def build(self) -> bytes:
        """Encode the entry.  Raises FormatError for a name of the wrong length or a field out of range."""
        if not 1 <= len(self.name) <= NAME_MAX:
            raise FormatError(f"name of {len(self.name)} bytes, 1 to {NAME_MAX} are allowed")
        try:
            return _HEADER.pack(self.ino, self.hash, self.pos, self.type) + self.name
        except _struct.error as error:
            raise FormatError(f"{self}: {error}") from error


def entry_header(value: Buffer) -> tuple[int, int]:
    """Return inode and type of an entry, the first `HEADER_SIZE` bytes of whose value are there."""
    ino, type = _INO_TYPE.unpack_from(value)
    return ino, type
