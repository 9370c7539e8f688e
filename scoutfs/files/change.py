"""What one operation does to a volume, kept aside until it has succeeded (spec 06 §2.2)."""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import NamedTuple, Self

from format.keys import ORPHAN_TYPE, FsType, InodeIndexType, Key, Zone
from format.payloads import LockMode
from format.srch import Entry
from scoutfs.files.errors import NoSpace, NotFound
from scoutfs.files.inode import Inode, encode_inode, read_inode
from scoutfs.files.items import NUMBER_MAX, fs_key, key_of
from scoutfs.files.store import (
    ORPHAN_LOCK,
    TOTALS_LOCK,
    XATTR_INDEX_LOCK,
    ChangeKind,
    DataSpace,
    ItemChange,
    ItemConflict,
    ItemStore,
    LockRequest,
    Locks,
    LocksNeeded,
    Quotas,
    Transaction,
    index_request,
    inode_request,
)
from scoutfs.metadata.btree import FIRST_KEY, LAST_KEY
from scoutfs.metadata.snapshot import Batch

_TOTL = struct.Struct("<QQ")
_INO = slice(1, 9)
"""Where the sort form of a key of zone FS has the number of the inode."""


class Surroundings(NamedTuple):
    """What operations of a mount have in common while it holds a transaction."""

    store: ItemStore
    locks: Locks
    transaction: Transaction
    space: DataSpace
    quotas: Quotas
    fmt_vers: int


class Change:
    """A change of a volume by one operation, to be used in a `with` block.

    Reads as `scoutfs.files.items.Items` what the volume would hold after it.  When the block ends without exception,
    data is written, and then all items are changed at once; otherwise nothing happens but that blocks are given back.
    `now` is the time of the operation in nanoseconds.
    """

    def __init__(self, surroundings: Surroundings, *, now: int) -> None:
        self.now = now
        self.store, self._locks, self.transaction, self.space, self.quotas, self.fmt_vers = surroundings
        self.blocks = self.store.blocks
        self._asked: dict[bytes, LockRequest] = {}
        self._changes: dict[bytes, ItemChange] = {}
        self._keys: list[bytes] = []
        self._stored: dict[int, Inode | None] = {}
        self._inodes: dict[int, Inode | None] = {}
        self._allocated: list[tuple[int, int]] = []
        self._freed: list[tuple[int, int]] = []
        self._writes: list[tuple[int, bytes]] = []
        self._search_entries: list[Entry] = []

    @property
    def inodes(self) -> Mapping[int, Inode | None]:
        """The inodes that the operation has changed, as they are now; None for one that was deleted."""
        return {ino: inode for ino, inode in self._inodes.items() if inode != self._stored[ino]}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._discard()
            return
        try:
            self._finish_inodes()
            for blkno, data in self._writes:
                self.space.write(blkno, data)
            if self._changes:
                self.store.apply(list(self._changes.values()))
        except BaseException:
            self._discard()
            raise
        for blkno, count in self._freed:
            self.space.free(blkno, count)
        for entry in self._search_entries:
            self.transaction.add_search_entry(entry)
        created = sum((new is not None) - (self._stored[ino] is not None) for ino, new in self._inodes.items())
        if created:
            self.transaction.add_inodes(created)

    # Locks

    def need(self, *requests: LockRequest) -> None:
        """Have these locks held, or raise LocksNeeded with them and all that were needed before."""
        missing = False
        for request in requests:
            known = self._asked.get(request.start)
            if known is None or known.mode == LockMode.READ:
                self._asked[request.start] = request
                missing |= not self._locks.holds(request)
        if missing:
            raise LocksNeeded(list(self._asked.values()))

    def need_space(self) -> None:
        """Raise NoSpace if items may not be added: asked by whatever needs more of the volume than it frees."""
        if self.transaction.low:
            raise NoSpace("the volume has no metadata blocks left")

    # Inodes

    def open(self, *inos: int, new: tuple[int, ...] = (), data: bool = False) -> list[Inode]:
        """Return inodes that are going to be changed, with all locks that this takes.

        `new` are numbers for inodes to be created; with `data` the contents of the inodes change too, and the new ones
        are regular files.  Raises NotFound, LocksNeeded, and what reading items raises.
        """
        self.need(*(inode_request(ino >> 10) for ino in sorted({*inos, *new})))
        found = [self.inode(ino) for ino in inos]
        requests = [request for inode in found for request in self._index_requests(inode, data=data)]
        if new:
            requests.append(index_request(InodeIndexType.META_SEQ, self.transaction.seq >> 10))
            if data:
                requests.append(index_request(InodeIndexType.DATA_SEQ, self.transaction.seq >> 10))
        self.need(*requests)
        return found

    def inode(self, ino: int) -> Inode:
        """Return an inode as the operation has left it so far.  Raises as `open` does."""
        if ino not in self._inodes:
            self.need(inode_request(ino >> 10))
            self._stored[ino] = self._inodes[ino] = read_inode(self, ino, self.fmt_vers)
        inode = self._inodes[ino]
        if inode is None:
            raise NotFound(f"there is no inode {ino}")
        return inode

    def set(self, inode: Inode) -> Inode:
        """Have an inode written that was read by `open` or `inode`; returns it with the seq of the transaction."""
        inode = inode._replace(meta_seq=self.transaction.seq)
        self._inodes[inode.ino] = inode
        return inode

    def add_inode(self, inode: Inode) -> Inode:
        """Have a new inode written, of a number that never was in use."""
        self._stored[inode.ino] = None
        return self.set(inode)

    def delete_inode(self, inode: Inode) -> None:
        """Have the item of an inode deleted, and what indexes say of it."""
        self._inodes[inode.ino] = None

    def set_orphan(self, ino: int, *, orphan: bool) -> None:
        """Note that an inode has lost its last link, or has one again, or is gone.  Raises LocksNeeded."""
        self.need(ORPHAN_LOCK)
        kind = ChangeKind.CREATE_FORCE if orphan else ChangeKind.DELETE_FORCE
        key = key_of(Zone.ORPHAN, 0, ORPHAN_TYPE, ino, 0, 0)
        self._put(ItemChange(kind, key, b"", ORPHAN_LOCK.start, inode_request(ino >> 10).start))

    # Items

    def create(self, key: bytes, value: bytes) -> None:
        """Create an item of an inode that is not there."""
        known = self._changes.get(key)
        if known is not None and known.kind is not ChangeKind.DELETE:
            raise ItemConflict(f"item {Key.from_sort_bytes(key)} is created twice")
        kind = ChangeKind.CREATE if known is None else ChangeKind.UPDATE
        self._put(ItemChange(kind, key, value, self._inode_lock(key), None))

    def update(self, key: bytes, value: bytes) -> None:
        """Give an item of an inode, which is there, another value."""
        known = self._changes.get(key)
        if known is not None and known.kind is ChangeKind.DELETE:
            raise ItemConflict(f"item {Key.from_sort_bytes(key)} is updated, but was deleted")
        kind = ChangeKind.UPDATE if known is None else known.kind
        self._put(ItemChange(kind, key, value, self._inode_lock(key), None))

    def delete(self, key: bytes) -> None:
        """Delete an item of an inode, which is there."""
        known = self._changes.get(key)
        if known is not None and known.kind is ChangeKind.CREATE:
            self._forget(key)
            return
        self._put(ItemChange(ChangeKind.DELETE, key, b"", self._inode_lock(key), None))

    def create_under(self, lock: LockRequest, key: bytes, value: bytes) -> None:
        """Create an item that is not there under another WRITE lock than that of an inode."""
        self.need(lock)
        self._put(ItemChange(ChangeKind.CREATE, key, value, lock.start, None))

    def delete_under(self, lock: LockRequest, key: bytes) -> None:
        """Delete an item that is there under another WRITE lock than that of an inode."""
        self.need(lock)
        self._put(ItemChange(ChangeKind.DELETE, key, b"", lock.start, None))

    def set_indx(self, key: bytes, *, there: bool) -> None:
        """Have an indx item or not, without looking.  Raises LocksNeeded."""
        self.need(XATTR_INDEX_LOCK)
        kind = ChangeKind.CREATE_FORCE if there else ChangeKind.DELETE_FORCE
        self._put(ItemChange(kind, key, b"", XATTR_INDEX_LOCK.start, None))

    def add_total(self, name: tuple[int, int, int], total: int, count: int) -> None:
        """Add to a total of attributes (spec 06 §8.4).  Raises LocksNeeded."""
        self.need(TOTALS_LOCK)
        key = key_of(Zone.XATTR_TOTL, name[0], 0, name[1], name[2], 0)
        if key in self._changes:
            known_total, known_count = _TOTL.unpack(self._changes[key].value)
            total, count = total + known_total, count + known_count
        value = _TOTL.pack(total & NUMBER_MAX, count & NUMBER_MAX)
        self._put(ItemChange(ChangeKind.DELTA, key, value, TOTALS_LOCK.start, None))

    def add_search_entry(self, entry: Entry) -> None:
        """Log an entry for those who search attributes."""
        self._search_entries.append(entry)

    # Data

    def allocate(self, count: int) -> tuple[int, int]:
        """Return the first of at most `count` neighbouring blocks of the data device, and how many they are."""
        found = self.space.allocate(count)
        self._allocated.append(found)
        return found

    def free(self, blkno: int, count: int) -> None:
        """Let go of blocks of the data device."""
        self._freed.append((blkno, count))

    def write(self, blkno: int, data: bytes) -> None:
        """Write whole blocks of the data device."""
        self._writes.append((blkno, data))

    # Reading, as `Items`

    def lookup(self, key: bytes) -> bytes | None:
        """Return the value of an item, None if there is none."""
        known = self._changes.get(key)
        if known is None:
            return self.store.lookup(key)
        return None if known.kind in _DELETIONS else known.value

    def next(self, key: bytes, last: bytes = LAST_KEY) -> tuple[bytes, bytes] | None:
        """Return key and value of the first item from `key` to `last`, None if there is none."""
        if not self._changed_in(key, last):
            return self.store.next(key, last)
        return next(self.items(key, last), None)

    def items(self, first: bytes = FIRST_KEY, last: bytes = LAST_KEY) -> Iterator[tuple[bytes, bytes]]:
        """Yield (key, value) of the items from `first` to `last`, as they are when the iteration begins."""
        changed = self._changed_in(first, last)
        if not changed:
            yield from self.store.items(first, last)
            return
        changes = iter([self._changes[key] for key in changed])
        change = next(changes, None)
        for key, value in self.store.items(first, last):
            while change is not None and change.key < key:
                if change.kind not in _DELETIONS:
                    yield change.key, change.value
                change = next(changes, None)
            if change is None or change.key != key:
                yield key, value
        while change is not None:
            if change.kind not in _DELETIONS:
                yield change.key, change.value
            change = next(changes, None)

    def batches(self, first: bytes = FIRST_KEY, last: bytes = LAST_KEY) -> Iterator[Batch]:
        """Yield the items from `first` to `last` in batches of one; operations read few of them."""
        for key, value in self.items(first, last):
            yield Batch([key], [0], [value])

    # Helpers

    def _changed_in(self, first: bytes, last: bytes) -> list[bytes]:
        return self._keys[bisect_left(self._keys, first) : bisect_right(self._keys, last)]

    def _put(self, change: ItemChange) -> None:
        if change.key not in self._changes:
            insort(self._keys, change.key)
        self._changes[change.key] = change

    def _forget(self, key: bytes) -> None:
        del self._changes[key]
        del self._keys[bisect_left(self._keys, key)]

    def _inode_lock(self, key: bytes) -> bytes:
        request = inode_request(int.from_bytes(key[_INO], "big") >> 10)
        self.need(request)
        return request.start

    def _index_requests(self, inode: Inode, *, data: bool) -> Iterator[LockRequest]:
        """Yield the locks for moving an inode to the seq of the transaction in the indexes it is in."""
        seq = self.transaction.seq
        moved = [(InodeIndexType.META_SEQ, inode.meta_seq)]
        if data and inode.is_regular:
            moved.append((InodeIndexType.DATA_SEQ, inode.data_seq))
        for type, old in moved:
            if old != seq:
                yield index_request(type, seq >> 10)
                yield index_request(type, old >> 10)

    def _finish_inodes(self) -> None:
        for ino, inode in self._inodes.items():
            stored = self._stored[ino]
            if inode == stored:
                continue
            key = fs_key(ino, FsType.INODE)
            if inode is None:
                self.delete(key)
            else:
                value = encode_inode(inode, self.fmt_vers)
                if stored is None:
                    self.create(key, value)
                else:
                    self.update(key, value)
            old, new = (None if found is None else found.meta_seq for found in (stored, inode))
            self._move(InodeIndexType.META_SEQ, ino, old, new)
            if any(found is not None and found.is_regular for found in (inode, stored)):
                old, new = (None if found is None else found.data_seq for found in (stored, inode))
                self._move(InodeIndexType.DATA_SEQ, ino, old, new)

    def _move(self, type: InodeIndexType, ino: int, old: int | None, new: int | None) -> None:
        """Move an inode in an index; None stands for not being in it."""
        if old == new:
            return
        seqs = ((new, ChangeKind.CREATE_FORCE), (old, ChangeKind.DELETE_FORCE))
        self.need(*(index_request(type, seq >> 10) for seq, _ in seqs if seq is not None))
        for seq, kind in seqs:
            if seq is not None:
                key = key_of(Zone.INODE_INDEX, 0, type, seq, ino, 0)
                lock = index_request(type, seq >> 10).start
                self._put(ItemChange(kind, key, b"", lock, inode_request(ino >> 10).start))

    def _discard(self) -> None:
        for blkno, count in reversed(self._allocated):
            self.space.give_back(blkno, count)
        self._allocated.clear()


_DELETIONS = (ChangeKind.DELETE, ChangeKind.DELETE_FORCE)
