"""What operations that change files stand on: items, locks, data blocks and the open transaction (spec 04 §8, 05 §1).

An operation is a plain function `operation(change, ...)`: it takes no lock and waits for nothing.  A `Change`
(`scoutfs.files.change`) keeps what it does aside until it has returned, and only then puts it into the store, all of it
at once.  So whatever an operation raises, nothing has happened: it can be run again.  That is how it gets its locks.
It asks for each by `Change.need`, before it uses items under it, and asking for one that is not held raises
`LocksNeeded` with all that it has asked for so far.  The shell around it is a loop:

    wanted = likely_locks(...), or nothing
    while True:
        take the locks `wanted`, in their order; hold the transaction
        try: with Change(...) as change: return operation(change, ...)
        except LocksNeeded as needed: wanted = needed.locks
        release the hold and the locks (their grants stay with the mount, so that taking them again is cheap)

This covers what spec 05 §1.2 has loops for: a name that by now leads to another inode, a transaction seq that selects
other index locks.  Everything else passes the same way: `CommitNeeded` when data blocks run out, `TruncatePending` when
a truncation has to be finished first, `OfflineError` when contents have to come from the archive, and whatever a store
raises that must first read items without blocking: the shell does what is needed, and runs the operation again.
Operations that need several transactions are steps, run one in a hold each, that say what is left.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from enum import Enum, IntEnum
from functools import lru_cache
from typing import NamedTuple, Protocol

from format.keys import ORPHAN_TYPE, RENAME_TYPE, InodeIndexType, Key, Zone
from format.payloads import LockMode
from format.srch import Entry
from scoutfs.errors import ScoutfsError
from scoutfs.files.indexes import Total
from scoutfs.files.quota import Rule
from scoutfs.metadata.blocks import BlockReader
from scoutfs.metadata.lock_ranges import LockRange, index_lock, inode_lock, lock_of
from scoutfs.metadata.snapshot import Batch


class LockClass(IntEnum):
    """Kinds of locks, in the order in which a task may take them (spec 05 §1.2)."""

    RENAME = 0
    INODES = 1
    QUOTA = 2
    ORPHANS = 3
    TOTALS = 4
    XATTR_INDEX = 5
    INODE_INDEX = 6


class LockRequest(NamedTuple):
    """A lock and the mode in which it is needed; sorted requests are in the order in which they may be taken.

    `start` and `end` are the sort forms of the first and the last key under the lock; `start` is its name.
    """

    kind: LockClass
    start: bytes
    end: bytes
    mode: LockMode


class LocksNeeded(ScoutfsError):
    """An operation needs locks that are not held: run it again under `locks`, which are sorted (EAGAIN)."""

    def __init__(self, locks: Sequence[LockRequest]) -> None:
        self.locks = tuple(sorted(locks))
        super().__init__(f"{len(self.locks)} locks are needed", errno.EAGAIN)


class Locks(Protocol):
    """The locks under which an operation runs."""

    def holds(self, request: LockRequest) -> bool:
        """Whether the lock is held, in the mode that is asked for; WRITE serves for READ as well."""


class ChangeKind(Enum):
    """What happens to an item; the names and their conditions are those of the item cache (spec 04 §8)."""

    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"
    CREATE_FORCE = "create_force"
    DELETE_FORCE = "delete_force"
    DELTA = "delta"


class ItemChange(NamedTuple):
    """A change of one item: `value` is empty for deletions, and what is added for a DELTA.

    `lock` is the `start` of the lock that covers it, `primary` that of the WRITE lock of the inode on behalf of which
    an item is written under a WRITE_ONLY lock: the seq of the item is at least the write_seq of both.
    """

    kind: ChangeKind
    key: bytes
    value: bytes
    lock: bytes
    primary: bytes | None


class ItemConflict(ScoutfsError):
    """CREATE met an item, or UPDATE or DELETE none: the volume is not what the operation has read of it (EIO)."""

    def __init__(self, text: str) -> None:
        super().__init__(text, errno.EIO)


class ItemStore(Protocol):
    """The item cache of a mount as operations see it.  Keys are sort forms.

    It is asked for keys only that are under locks for reading or writing which `Locks` holds.  What it has to read
    from the volume it may read at once, or raise an error of its own that has the operation run again later.
    """

    blocks: BlockReader

    def lookup(self, key: bytes) -> bytes | None:
        """Return the value of the item with `key`, None if there is none."""

    def next(self, key: bytes, last: bytes = ...) -> tuple[bytes, bytes] | None:
        """Return key and value of the first item from `key` to `last`, None if there is none."""

    def items(self, first: bytes = ..., last: bytes = ...) -> Iterator[tuple[bytes, bytes]]:
        """Yield (key, value) of the items from `first` to `last`, ascending."""

    def batches(self, first: bytes = ..., last: bytes = ...) -> Iterator[Batch]:
        """Yield the items from `first` to `last` in batches, none of them empty, ascending."""

    def apply(self, changes: Sequence[ItemChange]) -> None:
        """Do all of `changes`, no two of which are of one key, or none of them.  Raises ItemConflict."""


class CommitNeeded(ScoutfsError):
    """There will be data blocks after a commit: commit, and run the operation again (ENOBUFS)."""

    def __init__(self) -> None:
        super().__init__("a commit is needed before more data blocks can be had", errno.ENOBUFS)


class DataSpace(Protocol):
    """Blocks of 4 KiB of the data device (spec 04 §6.5)."""

    total_blocks: int
    """Blocks that the device has."""

    def allocate(self, count: int) -> tuple[int, int]:
        """Return the first of at most `count` neighbouring free blocks, and how many they are.

        Raises NoSpace if there are none, CommitNeeded if there will be some after a commit.
        """

    def give_back(self, blkno: int, count: int) -> None:
        """Take back blocks just allocated that nothing was done with, as if they had never been given away."""

    def free(self, blkno: int, count: int) -> None:
        """Free blocks that the open transaction has let go of: they stay untouched until it is committed."""

    def read(self, blkno: int, count: int) -> bytes:
        """Return the contents of blocks, those that were written last.  Raises DeviceError."""

    def write(self, blkno: int, data: bytes) -> None:
        """Write whole blocks; they are on the device before the open transaction is committed.  Raises DeviceError."""


class Transaction(Protocol):
    """The open transaction, which the shell holds while an operation runs."""

    seq: int
    """Its number, which goes into the indexes of inodes."""
    low: bool
    """Whether metadata blocks are so few that nothing may be added (spec 04 §6.6)."""

    def add_inodes(self, count: int) -> None:
        """Count inodes created, or deleted if negative."""

    def add_search_entry(self, entry: Entry) -> None:
        """Log an entry for those who search attributes by name (spec 06 §8.1)."""


class Quotas(Protocol):
    """What is known of quotas; it may be some seconds old (spec 06 §9)."""

    def rules(self) -> Sequence[Rule] | None:
        """Return all rules, None if they have to be read first."""

    def remember(self, rules: Sequence[Rule]) -> None:
        """Know the rules until the quota lock is lost, under which they were just read."""

    def total(self, name: tuple[int, int, int]) -> Total | None:
        """Return a total as it is committed, None if there is none."""


@lru_cache(maxsize=4096)
def inode_request(group: int, mode: LockMode = LockMode.WRITE) -> LockRequest:
    """Return the request for the lock of the items of inodes; `group` is the number of one of them >> 10."""
    return _request(LockClass.INODES, inode_lock(group << 10), mode)


@lru_cache(maxsize=64)
def index_request(type: InodeIndexType, group: int) -> LockRequest:
    """Return the request for writing index items; `group` is a seq of them >> 10."""
    return _request(LockClass.INODE_INDEX, index_lock(type, group << 10), LockMode.WRITE_ONLY)


def likely_locks(seq: int, *inos: int, data: bool = False, orphan: bool = False) -> list[LockRequest]:
    """Return what an operation on inodes most often needs, sorted: with that it need not be run twice.

    `seq` is that of the transaction.  With `data` contents change, or regular files are created; with `orphan` an
    inode may lose its last name.
    """
    requests = {inode_request(ino >> 10) for ino in inos}
    requests.add(index_request(InodeIndexType.META_SEQ, seq >> 10))
    if data:
        requests.add(index_request(InodeIndexType.DATA_SEQ, seq >> 10))
    if orphan:
        requests.add(ORPHAN_LOCK)
    return sorted(requests)


def _request(kind: LockClass, lock: LockRange, mode: LockMode) -> LockRequest:
    return LockRequest(kind, lock.start.sort_bytes, lock.end.sort_bytes, mode)


def _of_zone(kind: LockClass, key: Key, mode: LockMode) -> LockRequest:
    found = lock_of(key)
    assert found is not None
    return _request(kind, found, mode)


_RENAME = Key(Zone.LOCK, 0, RENAME_TYPE)
RENAME_LOCK = _request(LockClass.RENAME, LockRange(_RENAME, _RENAME), LockMode.WRITE)
"""Held by a rename between directories, so that no two of them make a loop."""
ORPHAN_LOCK = _of_zone(LockClass.ORPHANS, Key(Zone.ORPHAN, 0, ORPHAN_TYPE), LockMode.WRITE_ONLY)
QUOTA_READ_LOCK = _of_zone(LockClass.QUOTA, Key(Zone.QUOTA), LockMode.READ)
QUOTA_LOCK = _of_zone(LockClass.QUOTA, Key(Zone.QUOTA), LockMode.WRITE)
TOTALS_LOCK = _of_zone(LockClass.TOTALS, Key(Zone.XATTR_TOTL), LockMode.WRITE_ONLY)
XATTR_INDEX_LOCK = _of_zone(LockClass.XATTR_INDEX, Key(Zone.XATTR_INDX), LockMode.WRITE_ONLY)
