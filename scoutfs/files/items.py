"""Keys of the items of files, and what operations on files read items from (spec 06 §1.1)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NoReturn, Protocol

from format.block import FormatError
from format.keys import FsType, Key, Zone
from scoutfs.files.errors import DamagedItem
from scoutfs.metadata.blocks import BlockReader
from scoutfs.metadata.snapshot import Batch

_KEY = struct.Struct(">BQBQQB")
_FS = int(Zone.FS)
NUMBER_MAX = 2**64 - 1
"""The greatest number that a field of a key can hold."""


class Items(Protocol):
    """Items of a volume by the sort forms of their keys: a `Snapshot` or a `Forest`."""

    blocks: BlockReader

    def lookup(self, key: bytes) -> bytes | None:
        """Return the value of the item with `key`, None if there is none."""

    def next(self, key: bytes, last: bytes = ...) -> tuple[bytes, bytes] | None:
        """Return key and value of the first item from `key` to `last`, None if there is none."""

    def items(self, first: bytes = ..., last: bytes = ...) -> Iterator[tuple[bytes, bytes]]:
        """Yield (key, value) of the items from `first` to `last`, ascending."""

    def batches(self, first: bytes = ..., last: bytes = ...) -> Iterator[Batch]:
        """Yield the items from `first` to `last` in batches, none of them empty, ascending."""


def fs_key(ino: int, type: FsType, second: int = 0, third: int = 0, fourth: int = 0) -> bytes:
    """Return the sort form of the key of an item of inode `ino`."""
    return _KEY.pack(_FS, ino, type, second, third, fourth)


def key_of(zone: Zone, first: int, type: int, second: int, third: int, fourth: int) -> bytes:
    """Return the sort form of any key."""
    return _KEY.pack(zone, first, type, second, third, fourth)


def fs_range(ino: int, type: FsType, second: int | None = None) -> tuple[bytes, bytes]:
    """Return the first and the last key of one type of items of inode `ino`, of those with `second` if given."""
    low, high = (0, NUMBER_MAX) if second is None else (second, second)
    return fs_key(ino, type, low), fs_key(ino, type, high, NUMBER_MAX, 255)


def key_fields(key: bytes) -> tuple[int, int, int, int, int, int]:
    """Return zone, first, type, second, third and fourth of a key in its sort form."""
    return _KEY.unpack(key)


def item_name(items: Items, key: bytes) -> str:
    """Return how texts name an item: by device and key."""
    return f"{items.blocks.device.path}: item {Key.from_sort_bytes(key)}"


def damaged(items: Items, key: bytes, error: FormatError | str) -> NoReturn:
    """Raise DamagedItem because of what is wrong with the item with `key`."""
    text = f"{item_name(items, key)}: {error}"
    if isinstance(error, FormatError):
        raise DamagedItem(text) from error
    raise DamagedItem(text)
