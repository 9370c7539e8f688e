"""Extended attributes and the items that index them (spec 01 §3.14, §3.15, §4.4)."""

from __future__ import annotations

import struct as _struct
from typing import NamedTuple

from construct import Int8ul, Int16ul, Int64sl, Padding, Struct

from format.block import BlockError, FormatError
from format.checksum import Buffer
from format.keys import Key, Zone
from format.parts import join_parts, split_parts

NAME_MAX = 255
VALUE_MAX = 65535
TOTL_MAX_NUMBERS = 23
"""Digits of a number in the name of a totl attribute, sign and spare included."""
HEADER_SIZE = 8

XattrHeader = Struct("val_len" / Int16ul, "name_len" / Int8ul, "pad" / Padding(5))
"""8 bytes in front of the name in part 0; the value follows the name, over as many parts as it takes."""

XattrTotl = Struct("total" / Int64sl, "count" / Int64sl)
"""16 bytes, both signed."""


_HEADER = _struct.Struct("<HB5x")


class Xattr(NamedTuple):
    """Name, with its prefix, and value of an attribute."""

    name: bytes
    value: bytes


def split_xattr(xattr: Xattr) -> list[bytes]:
    """Return the values of the items of an attribute, by part number.  Raises FormatError for wrong lengths."""
    name, value = xattr
    if not 1 <= len(name) <= NAME_MAX:
        raise FormatError(f"attribute name of {len(name)} bytes, 1 to {NAME_MAX} are allowed")
    if len(value) > VALUE_MAX:
        raise FormatError(f"attribute value of {len(value)} bytes, at most {VALUE_MAX} are allowed")
    return split_parts(_HEADER.pack(len(value), len(name)) + name + value)


def xattr_size(first: Buffer, what: str) -> int:
    """Return the bytes of all parts of the attribute whose part 0 is `first`.  Raises BlockError naming `what`."""
    if len(first) < HEADER_SIZE:
        raise BlockError(what, "length", len(first), HEADER_SIZE)
    val_len, name_len = _HEADER.unpack_from(first)
    if not name_len:
        raise BlockError(what, "name_len", name_len)
    return int(HEADER_SIZE + name_len + val_len)


def xattr_name(first: Buffer, what: str) -> bytes:
    """Return the name of the attribute whose part 0 is `first`, which holds all of it.  Raises BlockError."""
    xattr_size(first, what)
    name_end = HEADER_SIZE + first[2]
    if len(first) < name_end:
        raise BlockError(what, "length", len(first), name_end)
    return bytes(first[HEADER_SIZE:name_end])


def join_xattr(parts: list[bytes], what: str) -> Xattr:
    """Return the attribute that was cut into `parts`.  Raises BlockError naming `what`."""
    if not parts:
        raise BlockError(what, "number of parts", 0)
    name = xattr_name(parts[0], what)
    joined = join_parts(parts, xattr_size(parts[0], what), what)
    return Xattr(name, joined[HEADER_SIZE + len(name) :])


class IndxEntry(NamedTuple):
    """What the key of an indx item says: 8, 64, 64 and 64 bits."""

    major: int
    minor: int
    ino: int
    xid: int


def indx_key(entry: IndxEntry) -> Key:
    """Return the key of an indx item.  Raises FormatError for a field out of range."""
    try:
        packed = entry.major.to_bytes(1, "big") + b"".join(number.to_bytes(8, "big") for number in entry[1:])
    except OverflowError as error:
        raise FormatError(f"{entry}: field out of range") from error
    first, second, third = (int.from_bytes(packed[start : start + 8], "big") for start in (0, 8, 16))
    return Key(Zone.XATTR_INDX, first, 0, second, third, packed[24])


def indx_entry(key: Key) -> IndxEntry:
    """Return what the key of an indx item says."""
    packed = b"".join(number.to_bytes(8, "big") for number in (key.first, key.second, key.third)) + bytes([key.fourth])
    minor, ino, xid = (int.from_bytes(packed[start : start + 8], "big") for start in (1, 9, 17))
    return IndxEntry(packed[0], minor, ino, xid)
