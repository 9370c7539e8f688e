"""What is found without a path (spec 06 §1.1, §8.4, §8.5).

Inodes by the seq of their change, orphans, indexed attributes, totals of attributes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from format.keys import ORPHAN_TYPE, InodeIndexType, Key, Zone
from format.xattr import IndxEntry, indx_entry, indx_key
from scoutfs.files.items import NUMBER_MAX, Items, damaged, key_fields, key_of

_TOTL = struct.Struct("<qq")
_INDEXED = struct.Struct(">10xQQx")
"""Second and third of the sort form of a key."""


class IndexedInode(NamedTuple):
    """An inode, and the seq of the transaction that changed it: all of it, or its contents."""

    seq: int
    ino: int


@dataclass(frozen=True, slots=True)
class Total:
    """The sum of the values of all attributes whose names end in the three numbers `name`, and their number.

    Both are signed.
    """

    name: tuple[int, int, int]
    total: int
    count: int


FIRST_INDEXED = IndexedInode(0, 0)
"""Where the indexes of inodes start."""
LAST_INDEXED = IndexedInode(NUMBER_MAX, NUMBER_MAX)
"""Where the indexes of inodes end."""
FIRST_INDX = IndxEntry(0, 0, 0, 0)
LAST_INDX = IndxEntry(255, NUMBER_MAX, NUMBER_MAX, NUMBER_MAX)


def walk_inodes(
    items: Items, index: InodeIndexType, first: IndexedInode = FIRST_INDEXED, last: IndexedInode = LAST_INDEXED
) -> Iterator[IndexedInode]:
    """Yield the inodes of an index from `first` to `last`, by seq and number.

    While others write, an inode may have a later seq by now, or be gone.  Raises what reading items raises.
    """
    for batch in walk_inode_batches(items, index, first, last):
        yield from map(IndexedInode._make, batch)


def walk_inode_batches(
    items: Items, index: InodeIndexType, first: tuple[int, int], last: tuple[int, int]
) -> Iterator[list[tuple[int, int]]]:
    """Yield what `walk_inodes` does in lists of plain (seq, ino), none of them empty, as fast as blocks are read."""
    low, high = (key_of(Zone.INODE_INDEX, 0, index, seq, ino, 0) for seq, ino in (first, last))
    for batch in items.batches(low, high):
        yield list(_INDEXED.iter_unpack(b"".join(batch.keys)))


def orphans(items: Items, first: int = 0) -> Iterator[int]:
    """Yield the numbers of inodes without links that still exist, from `first` on; raises what reading raises."""
    last = key_of(Zone.ORPHAN, 0, ORPHAN_TYPE, NUMBER_MAX, NUMBER_MAX, 255)
    for key, _ in items.items(key_of(Zone.ORPHAN, 0, ORPHAN_TYPE, first, 0, 0), last):
        yield key_fields(key)[3]


def read_totals(items: Items, first: tuple[int, int, int] = (0, 0, 0)) -> Iterator[Total]:
    """Yield the totals of totl attributes by name, from `first` on.  Raises what reading items raises."""
    low = key_of(Zone.XATTR_TOTL, first[0], 0, first[1], first[2], 0)
    for key, value in items.items(low, key_of(Zone.XATTR_TOTL, NUMBER_MAX, 0, NUMBER_MAX, NUMBER_MAX, 255)):
        if len(value) != _TOTL.size:
            damaged(items, key, f"a total of {len(value)} bytes")
        _, a, _, b, c, _ = key_fields(key)
        yield Total((a, b, c), *_TOTL.unpack(value))


def read_xattr_index(
    items: Items, first: IndxEntry = FIRST_INDX, last: IndxEntry = LAST_INDX
) -> Iterator[tuple[int, int, int]]:
    """Yield (major, minor, ino) of indx attributes from `first` to `last`, each once; raises what reading raises."""
    previous = None
    for key, _ in items.items(indx_key(first).sort_bytes, indx_key(last).sort_bytes):
        found = indx_entry(Key.from_sort_bytes(key))[:3]
        if found != previous:
            yield found
        previous = found
