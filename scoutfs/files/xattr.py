"""Extended attributes (spec 06 §4)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from format.block import BlockError
from format.hashes import xattr_name_hash
from format.keys import FsType
from format.xattr import HEADER_SIZE, NAME_MAX, Xattr, join_xattr, xattr_name, xattr_size
from scoutfs.files.items import Items, damaged, fs_key, fs_range, key_fields
from scoutfs.files.tags import is_hidden


class XattrName(NamedTuple):
    """An attribute as it is listed; `hash` and `id` are its place in the order of names, `size` that of its value."""

    name: bytes
    hash: int
    id: int
    size: int

    @property
    def hidden(self) -> bool:
        """Whether listxattr(2) leaves it out."""
        return is_hidden(self.name)


class StoredXattr(NamedTuple):
    """An attribute as it is stored: its id, and the values of its parts."""

    id: int
    parts: list[bytes]


def find_xattr(items: Items, ino: int, name: bytes) -> bytes | None:
    """Return the value of the attribute called `name`, its prefix included; None if there is none.

    Raises DamagedItem, and what reading items raises.
    """
    found = locate_xattr(items, ino, name)
    return None if found is None else stored_value(items, ino, name, found)


def locate_xattr(items: Items, ino: int, name: bytes) -> StoredXattr | None:
    """Return where the attribute called `name` is stored, None if there is none.  Raises as `find_xattr` does."""
    if not 1 <= len(name) <= NAME_MAX:
        return None
    parts: list[bytes] = []
    at = None
    for key, value in items.items(*fs_range(ino, FsType.XATTR, xattr_name_hash(name))):
        id, part = key_fields(key)[4:]
        if id != at and parts:
            break
        if id != at:
            at = id
            if part:
                damaged(items, key, "part 0 is missing")
            if _name(items, key, value) != name:
                continue
        elif not parts:
            continue
        if part != len(parts):
            damaged(items, key, f"part {len(parts)} is missing")
        parts.append(value)
    return StoredXattr(at or 0, parts) if parts else None


def stored_value(items: Items, ino: int, name: bytes, found: StoredXattr) -> bytes:
    """Return the value of the attribute called `name` that `locate_xattr` has found.  Raises DamagedItem."""
    return _joined(items, fs_key(ino, FsType.XATTR, xattr_name_hash(name), found.id), found.parts).value


def list_xattrs(items: Items, ino: int, hash: int = 0, id: int = 0) -> Iterator[XattrName]:
    """Yield all attributes of an inode, hidden ones too, in the order of hash and id, from (`hash`, `id`) on.

    Raises DamagedItem, and what reading items raises.
    """
    _, last = fs_range(ino, FsType.XATTR)
    listed = (-1, -1)
    for key, value in items.items(fs_key(ino, FsType.XATTR, hash, id), last):
        _, _, _, at_hash, at_id, part = key_fields(key)
        if part and (at_hash, at_id) == listed:
            continue
        if part:
            damaged(items, key, "part 0 is missing")
        listed = at_hash, at_id
        name = _name(items, key, value)
        yield XattrName(name, at_hash, at_id, xattr_size(value, "attribute") - HEADER_SIZE - len(name))


def read_xattrs(items: Items, ino: int) -> Iterator[Xattr]:
    """Yield all attributes of an inode with their values, hidden ones too, in the order of hash and id.

    Raises DamagedItem, and what reading items raises.
    """
    parts: list[bytes] = []
    at = (0, 0)
    for key, value in items.items(*fs_range(ino, FsType.XATTR)):
        _, _, _, hash, id, part = key_fields(key)
        if parts and (hash, id) != at:
            yield _joined(items, fs_key(ino, FsType.XATTR, *at), parts)
            parts = []
        at = hash, id
        if part != len(parts):
            damaged(items, key, f"part {len(parts)} is missing")
        parts.append(value)
    if parts:
        yield _joined(items, fs_key(ino, FsType.XATTR, *at), parts)


def _name(items: Items, key: bytes, value: bytes) -> bytes:
    try:
        return xattr_name(value, "attribute")
    except BlockError as error:
        damaged(items, key, error)


def _joined(items: Items, key: bytes, parts: list[bytes]) -> Xattr:
    try:
        return join_xattr(parts, "attribute")
    except BlockError as error:
        damaged(items, key, error)
