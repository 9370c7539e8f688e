"""The items of a volume as a mount knows them: what it has changed, over what the trees hold (spec 04 §8).

Under a lock nobody else changes what it covers.  So what was read from the trees since the grant stays true, and only
what the mount itself has changed since must be kept here: the changes of the open transaction, and those of earlier
ones until roots are known that lead to them.  Everything else is read from the trees each time; their blocks are
cached.  Roots are told to `install` by whoever can fetch them: here nothing waits for a server.
"""

from __future__ import annotations

import errno
import struct
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from format.btree import ItemFlag
from format.btree_columns import Leaf
from format.keys import Key, Zone
from scoutfs.errors import ScoutfsError
from scoutfs.files.store import ChangeKind, ItemChange, ItemConflict
from scoutfs.metadata.blocks import BlockReader
from scoutfs.metadata.btree import FIRST_KEY, LAST_KEY
from scoutfs.metadata.lock_ranges import LOCK_GROUP, lock_of
from scoutfs.metadata.snapshot import Batch, Roots, Snapshot

_TOTL = struct.Struct("<QQ")
_ITEM_OVERHEAD = 88
"""What spec 04 §9.1 counts for each item beside its value."""


class RootsNeeded(ScoutfsError):
    """The roots of the trees have to be fetched before anything can be read (EAGAIN)."""

    def __init__(self) -> None:
        super().__init__("the roots of the trees are not known", errno.EAGAIN)


@dataclass(slots=True)
class _Item:
    value: bytes
    seq: int
    is_deletion: bool = False
    is_delta: bool = False
    persistent: bool = True
    """Whether a tree may hold an item with the key, so that taking it out takes a deletion item."""
    dirty: bool = True


@dataclass(slots=True)
class _Range:
    """The changed items under one lock: their keys in order, and how many of them are not committed."""

    keys: list[bytes] = field(default_factory=list)
    dirty: int = 0


class ItemCache:
    """The items under the locks of a mount; implements `scoutfs.files.store.ItemStore`.

    `write_seq` returns the number of the grant of a lock, given its name.  Whoever reads has checked that
    `known_gen` is at least the generation of the lock, see `LockClient.refresh_gen`.  Reading raises RootsNeeded,
    StaleBlockError if newer roots have to be installed, and what `Snapshot` raises.  Not for several threads at once.
    """

    def __init__(self, blocks: BlockReader, write_seq: Callable[[bytes], int]) -> None:
        self.blocks = blocks
        self.transaction_seq = 0
        """The number of the open transaction: no item gets a smaller one."""
        self.barrier = 0
        """How many transactions were committed: to be sampled before roots are fetched."""
        self.known_gen = -1
        """The generation of grants that were followed by fetching the roots."""
        self.dirty_count = 0
        """Items that are not committed."""
        self.dirty_bytes = 0
        """What they take in a tree, as far as an estimate goes."""
        self._write_seq = write_seq
        self._snapshot: Snapshot | None = None
        self._items: dict[bytes, _Item] = {}
        self._ranges: dict[bytes, _Range] = {}

    # -- roots -------------------------------------------------------------------------------------------------------

    @property
    def roots(self) -> Roots | None:
        """The roots that are read from."""
        return None if self._snapshot is None else self._snapshot.roots

    def install(self, roots: Roots, gen: int, barrier: int) -> None:
        """Read from `roots`, which were fetched after all locks of generation `gen` were granted.

        `barrier` is what it was before they were fetched: if it still is, they lead to everything that is committed.
        """
        if self._snapshot is None or self._snapshot.roots != roots:
            self._snapshot = Snapshot(self.blocks, roots)
        self.known_gen = gen
        if barrier == self.barrier:
            for start in list(self._ranges):
                self._forget_clean(start)

    def outdated(self) -> None:
        """The roots have turned out to be too old: others have to be installed before anything is read."""
        self._snapshot = None
        self.known_gen = -1

    # -- reading -----------------------------------------------------------------------------------------------------

    def lookup(self, key: bytes) -> bytes | None:
        """Return the value of the item with `key`, None if there is none."""
        item = self._items.get(key)
        if item is None:
            return self._stored.lookup(key)
        return None if item.is_deletion else item.value

    def next(self, key: bytes, last: bytes = LAST_KEY) -> tuple[bytes, bytes] | None:
        """Return key and value of the first item from `key` to `last`, None if there is none."""
        return next(self.items(key, last), None)

    def items(self, first: bytes = FIRST_KEY, last: bytes = LAST_KEY) -> Iterator[tuple[bytes, bytes]]:
        """Yield (key, value) of the items from `first` to `last`, all under one lock, ascending."""
        for batch in self.batches(first, last):
            yield from zip(batch.keys, batch.values)

    def batches(self, first: bytes = FIRST_KEY, last: bytes = LAST_KEY) -> Iterator[Batch]:
        """Yield the items from `first` to `last`, all under one lock, in batches, none of them empty, ascending."""
        changed = self._changed(first, last)
        done = 0
        for batch in self._stored.batches(first, last):
            stop = bisect_right(changed, batch.keys[-1], done)
            if stop > done:
                batch = self._merged(batch, changed[done:stop])
                done = stop
            if batch.keys:
                yield batch
        if done < len(changed):
            batch = self._merged(Batch((), (), ()), changed[done:])
            if batch.keys:
                yield batch

    @property
    def _stored(self) -> Snapshot:
        if self._snapshot is None:
            raise RootsNeeded
        return self._snapshot

    def _changed(self, first: bytes, last: bytes) -> list[bytes]:
        found = self._ranges.get(_range_of(first))
        if found is None:
            return []
        return found.keys[bisect_left(found.keys, first) : bisect_right(found.keys, last)]

    def _merged(self, batch: Batch, changed: Sequence[bytes]) -> Batch:
        rows = {row[0]: row for row in zip(*batch)}
        for key in changed:
            item = self._items[key]
            if item.is_deletion:
                rows.pop(key, None)
            else:
                rows[key] = (key, item.seq, item.value)
        if not rows:
            return Batch((), (), ())
        return Batch(*zip(*sorted(rows.values())))

    # -- changing ----------------------------------------------------------------------------------------------------

    def apply(self, changes: Sequence[ItemChange]) -> None:
        """Do all of `changes`, no two of which are of one key, or none of them.  Raises ItemConflict."""
        persistent = [self._checked(change) for change in changes]
        for change, was_persistent in zip(changes, persistent):
            seq = max(self.transaction_seq, self._write_seq(change.lock))
            if change.primary is not None:
                seq = max(seq, self._write_seq(change.primary))
            if change.kind is ChangeKind.DELTA:
                self._add(change, seq)
            elif change.kind in (ChangeKind.DELETE, ChangeKind.DELETE_FORCE):
                if was_persistent:
                    self._put(change.lock, change.key, _Item(b"", seq, is_deletion=True))
                else:
                    self._drop(change.lock, change.key)
            else:
                self._put(change.lock, change.key, _Item(change.value, seq, persistent=was_persistent))

    def _checked(self, change: ItemChange) -> bool:
        """Return whether a tree may hold the item.  Raises ItemConflict."""
        kind = change.kind
        known = self._items.get(change.key)
        if kind is ChangeKind.DELTA and known is not None and not known.is_delta:
            raise ItemConflict(f"delta: item {Key.from_sort_bytes(change.key)} is no difference")
        if kind in (ChangeKind.CREATE_FORCE, ChangeKind.DELETE_FORCE, ChangeKind.DELTA):
            return True
        exists = self._stored.lookup(change.key) is not None if known is None else not known.is_deletion
        if exists == (kind is ChangeKind.CREATE):
            text = "exists already" if exists else "does not exist"
            raise ItemConflict(f"{kind.value}: item {Key.from_sort_bytes(change.key)} {text}")
        return exists if known is None else known.persistent

    def _add(self, change: ItemChange, seq: int) -> None:
        """Add to what the open transaction adds to a total."""
        known = self._items.get(change.key)
        value = change.value
        if known is not None and known.is_delta:
            value = _TOTL.pack(
                *((a + b) % (1 << 64) for a, b in zip(_TOTL.unpack(known.value), _TOTL.unpack(change.value)))
            )
        if any(value):
            self._put(change.lock, change.key, _Item(value, seq, is_delta=True))
        elif known is not None:
            self._drop(change.lock, change.key)

    def _put(self, start: bytes, key: bytes, item: _Item) -> None:
        """Keep a changed item."""
        under = self._ranges.get(start)
        if under is None:
            under = self._ranges[start] = _Range()
        known = self._items.get(key)
        if known is None:
            if under.keys and key < under.keys[-1]:
                insort(under.keys, key)
            else:
                under.keys.append(key)
        self._count(under, known, -1)
        self._count(under, item, 1)
        self._items[key] = item

    def _drop(self, start: bytes, key: bytes) -> None:
        """Forget an item that no tree has."""
        under = self._ranges[start]
        self._count(under, self._items.pop(key), -1)
        del under.keys[bisect_left(under.keys, key)]
        if not under.keys:
            del self._ranges[start]

    def _count(self, under: _Range, item: _Item | None, sign: int) -> None:
        if item is not None and item.dirty:
            under.dirty += sign
            self.dirty_count += sign
            self.dirty_bytes += sign * (_ITEM_OVERHEAD + len(item.value))

    # -- committing --------------------------------------------------------------------------------------------------

    def is_dirty(self, start: bytes) -> bool:
        """Whether something under the lock with the name `start` is not committed."""
        found = self._ranges.get(start)
        return found is not None and found.dirty > 0

    def dirty_locks(self) -> list[bytes]:
        """Return the names of the locks under which something is not committed, in their order."""
        return sorted(start for start, under in self._ranges.items() if under.dirty)

    def dirty_items(self) -> Leaf:
        """Return what is not committed as it goes into a log tree, in the order of the keys."""
        keys = [key for start in self.dirty_locks() for key in self._ranges[start].keys if self._items[key].dirty]
        items = [self._items[key] for key in keys]
        flags = [int(ItemFlag.DELETION) if item.is_deletion else 0 for item in items]
        return Leaf(keys, [item.seq for item in items], flags, [item.value for item in items])

    def committed(self) -> None:
        """All changes are committed; there was none since `dirty_items`."""
        self.barrier += 1
        for start in self.dirty_locks():
            under = self._ranges[start]
            kept = []
            for key in under.keys:
                item = self._items[key]
                if item.is_delta:
                    del self._items[key]
                else:
                    item.dirty, item.persistent = False, True
                    kept.append(key)
            under.keys, under.dirty = kept, 0
            if not under.keys:
                del self._ranges[start]
        self.dirty_count = self.dirty_bytes = 0

    def forget(self, start: bytes) -> None:
        """The lock with the name `start` is lost: forget what was known under it, which is all committed."""
        under = self._ranges.get(start)
        if under is None:
            return
        if under.dirty:
            raise ScoutfsError(f"{under.dirty} items under a lock that is lost are not committed", errno.EIO)
        self._forget_clean(start)

    def _forget_clean(self, start: bytes) -> None:
        under = self._ranges[start]
        if not under.dirty:
            for key in under.keys:
                del self._items[key]
            del self._ranges[start]
            return
        kept = []
        for key in under.keys:
            if self._items[key].dirty:
                kept.append(key)
            else:
                del self._items[key]
        under.keys = kept


def _range_of(key: bytes) -> bytes:
    """Return the name of the lock that a key is under."""
    if key[0] == Zone.FS:
        group = int.from_bytes(key[1:9], "big") // LOCK_GROUP * LOCK_GROUP
        return key[:1] + group.to_bytes(8, "big") + bytes(18)
    found = lock_of(Key.from_sort_bytes(key))
    return key if found is None else found.start.sort_bytes
