"""POSIX access control lists, as attributes hold them (spec 06 §4.7)."""

from __future__ import annotations

import struct as _struct
from enum import IntEnum
from typing import NamedTuple

from format.block import BlockError, FormatError
from format.checksum import Buffer

ACCESS_NAME = b"system.posix_acl_access"
DEFAULT_NAME = b"system.posix_acl_default"
ACL_VERSION = 2
NO_ID = 0xFFFFFFFF
"""`id` of an entry whose tag has none."""

_VERSION = _struct.Struct("<I")
_ENTRY = _struct.Struct("<HHI")


class AclTag(IntEnum):
    """Whom an entry is for."""

    USER_OBJ = 0x01
    USER = 0x02
    GROUP_OBJ = 0x04
    GROUP = 0x08
    MASK = 0x10
    OTHER = 0x20


class AclEntry(NamedTuple):
    """An entry: `perm` is a set of 4 to read, 2 to write, 1 to execute; `id` counts for users and groups only."""

    tag: AclTag
    perm: int
    id: int = NO_ID


def parse_acl(value: Buffer, what: str) -> tuple[AclEntry, ...]:
    """Decode the value of the attribute: 4 bytes of version, then 8 bytes an entry, in canonical order.

    Raises BlockError naming `what` for another version, and for entries that are unknown, missing or out of order.
    """
    if len(value) < _VERSION.size or (len(value) - _VERSION.size) % _ENTRY.size:
        raise BlockError(what, "length of access control list", len(value))
    (version,) = _VERSION.unpack_from(value)
    if version != ACL_VERSION:
        raise BlockError(what, "version of access control list", version, ACL_VERSION)
    entries = []
    for tag, perm, id in _ENTRY.iter_unpack(bytes(value[_VERSION.size :])):
        if tag not in tuple(AclTag) or perm > 7:
            raise BlockError(what, "entry of access control list", tag)
        entries.append(AclEntry(AclTag(tag), perm, id))
    tags = [entry.tag for entry in entries]
    once = (AclTag.USER_OBJ, AclTag.GROUP_OBJ, AclTag.OTHER)
    named = AclTag.USER in tags or AclTag.GROUP in tags
    if tags != sorted(tags) or any(tags.count(tag) != 1 for tag in once) or not named <= tags.count(AclTag.MASK) <= 1:
        raise BlockError(what, "entries of access control list")
    return tuple(entries)


def build_acl(entries: tuple[AclEntry, ...]) -> bytes:
    """Encode the entries.  Raises FormatError for a field out of range."""
    try:
        return _VERSION.pack(ACL_VERSION) + b"".join(_ENTRY.pack(*entry) for entry in entries)
    except _struct.error as error:
        raise FormatError(f"access control list: {error}") from error
