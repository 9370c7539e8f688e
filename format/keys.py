"""Item keys: their order, their 32 bytes on disk, their 27-byte sort form, their text (spec 01 §4)."""

from __future__ import annotations

import struct as _struct
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from construct import Int8ul, Int64ul, Padding, Struct

from format.block import FormatError
from format.checksum import Buffer

KEY_SIZE = 32
"""Bytes of a key on disk and on the wire."""
SORT_SIZE = 27
"""Bytes of a key's sort form."""


class Zone(IntEnum):
    """Which tree, and which kind of item in it, a key belongs to (spec 01 §4.3)."""

    INODE_INDEX = 4
    ORPHAN = 8
    QUOTA = 10
    XATTR_TOTL = 12
    XATTR_INDX = 14
    FS = 16
    LOCK = 20
    LOG_TREES = 24
    MOUNTED_CLIENT = 28
    SRCH = 32
    FREE_EXTENT_BLKNO = 36
    FREE_EXTENT_ORDER = 40
    LOG_MERGE_STATUS = 44
    LOG_MERGE_RANGE = 48
    LOG_MERGE_REQUEST = 52
    LOG_MERGE_COMPLETE = 56
    LOG_MERGE_FREEING = 60


class InodeIndexType(IntEnum):
    """Types in zone INODE_INDEX."""

    META_SEQ = 4
    DATA_SEQ = 8


class FsType(IntEnum):
    """Types in zone FS."""

    INODE = 4
    XATTR = 8
    DIRENT = 12
    READDIR = 16
    LINK_BACKREF = 20
    SYMLINK = 24
    DATA_EXTENT = 28


class SrchType(IntEnum):
    """Types in zone SRCH."""

    LOG = 4
    BLOCKS = 8
    PENDING = 12
    BUSY = 16


ORPHAN_TYPE = 4
"""The one type in zone ORPHAN."""
QUOTA_RULE_TYPE = 4
"""The one type in zone QUOTA."""
RENAME_TYPE = 4
"""The one type in zone LOCK."""

KeyStruct = Struct(
    "first" / Int64ul,
    "second" / Int64ul,
    "third" / Int64ul,
    "fourth" / Int8ul,
    "zone" / Int8ul,
    "type" / Int8ul,
    "pad" / Padding(5),
)
"""A key on disk: 32 bytes, fields not in the order in which they compare."""

_DISK = _struct.Struct("<QQQBBB5x")
_SORT = _struct.Struct(">BQBQQB")
_MODULUS = 1 << (8 * SORT_SIZE)
_MAXIMA = (0xFF, 2**64 - 1, 0xFF, 2**64 - 1, 2**64 - 1, 0xFF)


@dataclass(frozen=True, order=True, slots=True)
class Key:
    """A key.  Compares by its fields in the order in which they are declared, as the trees do."""

    zone: int = 0
    first: int = 0
    type: int = 0
    second: int = 0
    third: int = 0
    fourth: int = 0

    ZEROS: ClassVar[Key]
    """The least key."""
    ONES: ClassVar[Key]
    """The greatest key."""

    def __str__(self) -> str:
        return f"{self.zone}.{self.first}.{self.type}.{self.second}.{self.third}.{self.fourth}"

    @classmethod
    def parse(cls, data: Buffer) -> Key:
        """Decode the 32 bytes that a key has on disk; the pad is ignored.  Raises FormatError for another length."""
        if len(data) != KEY_SIZE:
            raise FormatError(f"key of {len(data)} bytes, expected {KEY_SIZE}")
        first, second, third, fourth, zone, type_ = _DISK.unpack(data)
        return cls(zone, first, type_, second, third, fourth)

    def build(self) -> bytes:
        """Encode to the 32 bytes on disk, little-endian, pad zero.  Raises FormatError for a field out of range."""
        try:
            return _DISK.pack(self.first, self.second, self.third, self.fourth, self.zone, self.type)
        except _struct.error as error:
            raise FormatError(f"key {self}: field out of range") from error

    @classmethod
    def from_text(cls, text: str) -> Key:
        """Decode `zone.first.type.second.third.fourth` in decimal.  Raises FormatError."""
        words = text.split(".")
        if len(words) != 6 or not all(word.isascii() and word.isdigit() and len(word) <= 20 for word in words):
            raise FormatError(f"'{text}' is no key: six decimal numbers joined by dots are expected")
        numbers = [int(word) for word in words]
        if any(number > maximum for number, maximum in zip(numbers, _MAXIMA, strict=True)):
            raise FormatError(f"key {text}: field out of range")
        return cls(*numbers)

    @classmethod
    def from_sort_bytes(cls, data: Buffer) -> Key:
        """Decode the 27-byte sort form.  Raises FormatError for another length."""
        if len(data) != SORT_SIZE:
            raise FormatError(f"sort form of a key of {len(data)} bytes, expected {SORT_SIZE}")
        return cls(*_SORT.unpack(data))

    @property
    def sort_bytes(self) -> bytes:
        """The fields in the order in which they compare, big-endian: comparing these 27 bytes compares keys.

        Raises FormatError for a field out of range.
        """
        try:
            return _SORT.pack(self.zone, self.first, self.type, self.second, self.third, self.fourth)
        except _struct.error as error:
            raise FormatError(f"key {self}: field out of range") from error

    def increment(self) -> Key:
        """Return the next key; the zeros follow the ones."""
        return self._moved(1)

    def decrement(self) -> Key:
        """Return the previous key; the ones come before the zeros."""
        return self._moved(-1)

    def _moved(self, step: int) -> Key:
        number = (int.from_bytes(self.sort_bytes, "big") + step) % _MODULUS
        return Key.from_sort_bytes(number.to_bytes(SORT_SIZE, "big"))


Key.ZEROS = Key()
Key.ONES = Key(*_MAXIMA)
