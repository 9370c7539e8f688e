"""Which cluster lock protects an item, told by its key (spec 04 §7.4, spec 06 §1.2).

The start of a lock's range is what the bloom filters of log trees know.
"""

from __future__ import annotations

from typing import NamedTuple

from format.keys import ORPHAN_TYPE, InodeIndexType, Key, Zone

LOCK_GROUP = 1024
"""Inode numbers, or majors of an index, under one lock."""

_MASK = LOCK_GROUP - 1
_MAX = Key.ONES.first
_WHOLE_ZONES = (Zone.QUOTA, Zone.XATTR_TOTL, Zone.XATTR_INDX)


class LockRange(NamedTuple):
    """The keys under one lock, both ends included."""

    start: Key
    end: Key


def inode_lock(ino: int) -> LockRange:
    """Return the lock of all items of an inode: that of its group of 1024."""
    return LockRange(Key(Zone.FS, ino & ~_MASK), Key(Zone.FS, ino | _MASK, 255, _MAX, _MAX, 255))


def index_lock(type: InodeIndexType, major: int) -> LockRange:
    """Return the lock of the index items of 1024 majors."""
    start = Key(Zone.INODE_INDEX, 0, type, major & ~_MASK)
    return LockRange(start, Key(Zone.INODE_INDEX, 0, type, major | _MASK, _MAX))


def lock_of(key: Key) -> LockRange | None:
    """Return the lock that protects the item with `key`, None for a key that no item may have."""
    if key.zone == Zone.FS:
        return inode_lock(key.first)
    if key.zone == Zone.INODE_INDEX and key.type in tuple(InodeIndexType):
        found = index_lock(InodeIndexType(key.type), key.second)
    elif key.zone == Zone.ORPHAN:
        found = LockRange(Key(Zone.ORPHAN, 0, ORPHAN_TYPE), Key(Zone.ORPHAN, 0, ORPHAN_TYPE, _MAX))
    elif key.zone in _WHOLE_ZONES:
        found = LockRange(Key(key.zone), Key(key.zone, _MAX, 255, _MAX, _MAX, 255))
    else:
        return None
    return found if found.start <= key <= found.end else None


def bloom_key(first: Key, last: Key) -> bytes | None:
    """Return the disk form of the key whose bits a log tree has set if it holds anything from `first` to `last`.

    None if that is not under one lock, so that no bits tell.
    """
    lock = lock_of(first)
    if lock is None or last > lock.end:
        return None
    return lock.start.build()
