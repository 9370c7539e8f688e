"""The items of a volume as they are under one set of roots: those of `fs_root` and of all log trees, merged (spec 04
§7.2, §7.3, §13).

The newest version of an item counts; one that is a deletion means that there is none.  Totals of attributes are no
versions but differences, which are added up.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from operator import itemgetter
from typing import NamedTuple

from format.btree import ItemFlag
from format.btree_columns import Leaf
from format.hashes import bloom_bits
from format.keys import Key, Zone
from scoutfs.metadata.blocks import BlockReader
from scoutfs.metadata.btree import FIRST_KEY, LAST_KEY, NO_ROOT, Btree, LeafRange, Root, after, before
from scoutfs.metadata.lock_ranges import LOCK_GROUP, bloom_key
from scoutfs.metadata.log_trees import LogTree, read_log_trees, read_merge_seq
from scoutfs.metadata.totals import DELTA_FIRST, DELTA_LAST, TreeKind, Versions, sum_deltas


class Roots(NamedTuple):
    """Roots that belong together because one super block held them.

    A server's answer to GET_ROOTS has no `log_merge`; totals that are read without it are wrong while a merge runs.
    """

    fs_root: Root
    logs_root: Root = NO_ROOT
    srch_root: Root = NO_ROOT
    log_merge: Root = NO_ROOT


class Batch(NamedTuple):
    """Neighbouring items, in order; index i of each column is the same item.  `seqs` are their versions."""

    keys: Sequence[bytes]
    seqs: Sequence[int]
    values: Sequence[bytes]


class Batches(ABC):
    """Items that are read in batches, and so one by one."""

    @abstractmethod
    def batches(self, first: bytes = FIRST_KEY, last: bytes = LAST_KEY) -> Iterator[Batch]:
        """Yield the items from `first` to `last` in batches, none of them empty, ascending."""

    @abstractmethod
    def batches_reversed(self, first: bytes = FIRST_KEY, last: bytes = LAST_KEY) -> Iterator[Batch]:
        """Yield the items from `first` to `last` in batches that descend, none of them empty; items in them ascend."""

    def items(self, first: bytes = FIRST_KEY, last: bytes = LAST_KEY) -> Iterator[tuple[bytes, bytes]]:
        """Yield (key, value) from `first` to `last`, ascending, with a leaf of each tree in memory."""
        for batch in self.batches(first, last):
            yield from zip(batch.keys, batch.values)

    def items_reversed(self, first: bytes = FIRST_KEY, last: bytes = LAST_KEY) -> Iterator[tuple[bytes, bytes]]:
        """Yield (key, value) from `last` down to `first`, with a leaf of each tree in memory."""
        for batch in self.batches_reversed(first, last):
            yield from zip(reversed(batch.keys), reversed(batch.values))


class Snapshot(Batches):
    """The items under `roots`.

    It is good until the blocks it refers to are reused for others, which raises StaleBlockError from any method: then
    whatever was read must be thrown away, and begun again from newer roots (`Forest` does that).  Everything reads
    through `blocks`, and may raise DamagedBlock or DeviceError too.
    """

    def __init__(self, blocks: BlockReader, roots: Roots) -> None:
        self.blocks = blocks
        self.roots = roots
        self._bits_of_groups: dict[int, Sequence[int]] = {}

    @cached_property
    def log_trees(self) -> tuple[LogTree, ...]:
        """All log trees, in the order in which they are visited."""
        return read_log_trees(self.blocks, self.roots.logs_root)

    @cached_property
    def merge_seq(self) -> int:
        """The seq of the merge that runs, 0 if none does."""
        return read_merge_seq(self.blocks, self.roots.log_merge)

    def lookup(self, key: bytes) -> bytes | None:
        """Return the value of the item with `key`, None if there is none.

        Log trees whose bloom filter excludes the key are not read.
        """
        if DELTA_FIRST <= key <= DELTA_LAST:
            batch = next(self.batches(key, key), None)
            return None if batch is None else batch.values[0]
        newest = None
        for _, btree in self._trees_with(key, key):
            item = btree.lookup(key)
            if item is not None and (newest is None or item.seq > newest.seq):
                newest = item
        return None if newest is None or newest.flags & ItemFlag.DELETION else newest.value

    def next(self, key: bytes, last: bytes = LAST_KEY) -> tuple[bytes, bytes] | None:
        """Return key and value of the first item at or behind `key` and not behind `last`, None if there is none."""
        batch = next(self.batches(key, last), None)
        return None if batch is None else (batch.keys[0], batch.values[0])

    def previous(self, key: bytes, first: bytes = FIRST_KEY) -> tuple[bytes, bytes] | None:
        """Return key and value of the last item at or before `key` and not before `first`, None if there is none."""
        batch = next(self.batches_reversed(first, key), None)
        return None if batch is None else (batch.keys[-1], batch.values[-1])

    def batches(self, first: bytes = FIRST_KEY, last: bytes = LAST_KEY) -> Iterator[Batch]:
        """Yield the items from `first` to `last` in batches, none of them empty, ascending."""
        cursors = [_Cursor(btree, tree) for tree, btree in self._trees_with(first, last)]
        while first <= last:
            end = _end_of_kind(first, last)
            ranges = [cursor.at(first) for cursor in cursors]
            end = min(end, *(found.last for found in ranges))
            batch = self._merged(cursors, ranges, first, end)
            if batch.keys:
                yield batch
            if end == LAST_KEY:
                return
            first = after(end)

    def batches_reversed(self, first: bytes = FIRST_KEY, last: bytes = LAST_KEY) -> Iterator[Batch]:
        """Yield the items from `first` to `last` in batches that descend, none of them empty; items in them ascend."""
        cursors = [_Cursor(btree, tree) for tree, btree in self._trees_with(first, last)]
        while first <= last:
            start = _start_of_kind(first, last)
            ranges = [cursor.at(last) for cursor in cursors]
            start = max(start, *(found.first for found in ranges))
            batch = self._merged(cursors, ranges, start, last)
            if batch.keys:
                yield batch
            if start == FIRST_KEY:
                return
            last = before(start)

    @cached_property
    def _trees(self) -> list[tuple[LogTree | None, Btree]]:
        """All trees in the order in which they are visited; `fs_root` has no log tree."""
        logs = ((tree, Btree(self.blocks, tree.item_root)) for tree in self.log_trees if tree.item_root.ref.blkno)
        return [(None, Btree(self.blocks, self.roots.fs_root)), *logs]

    def _trees_with(self, first: bytes, last: bytes) -> list[tuple[LogTree | None, Btree]]:
        """Return the trees that may hold something from `first` to `last`, in the order in which they are visited."""
        if len(self._trees) == 1:
            return self._trees
        bits = self._bits(first, last)
        if not bits:
            return self._trees
        return [(tree, btree) for tree, btree in self._trees if tree is None or tree.may_hold(self.blocks, bits)]

    def _bits(self, first: bytes, last: bytes) -> Sequence[int]:
        """Return the bloom bits that trees with anything from `first` to `last` have set, none if nothing tells."""
        group = int.from_bytes(first[:9], "big") // LOCK_GROUP
        is_of_files = first[0] == Zone.FS
        if is_of_files and group != int.from_bytes(last[:9], "big") // LOCK_GROUP:
            return ()
        if is_of_files and group in self._bits_of_groups:
            return self._bits_of_groups[group]
        start = bloom_key(Key.from_sort_bytes(first), Key.from_sort_bytes(last))
        bits = () if start is None else bloom_bits(start)
        if is_of_files and start is not None:
            if len(self._bits_of_groups) >= _GROUPS_KEPT:
                self._bits_of_groups.clear()
            self._bits_of_groups[group] = bits
        return bits

    def _merged(self, cursors: list[_Cursor], ranges: list[LeafRange], first: bytes, last: bytes) -> Batch:
        spans = []
        for cursor, found in zip(cursors, ranges):
            start, end = found.leaf.span(first, last)
            if start < end:
                spans.append((cursor, found.leaf, start, end))
        if not spans:
            return _NOTHING
        if DELTA_FIRST <= first <= DELTA_LAST:
            return self._totals(spans)
        if len(spans) == 1:
            _, leaf, start, end = spans[0]
            return _without_deletions(leaf, start, end)
        return _newest(spans)

    def _totals(self, spans: list[tuple[_Cursor, Leaf, int, int]]) -> Batch:
        versions: Versions = {}
        for cursor, leaf, start, end in spans:
            kind = self._kind(cursor.tree)
            for i in range(start, end):
                if not leaf.flags[i] & ItemFlag.DELETION:
                    versions.setdefault(leaf.keys[i], []).append((kind, leaf.seqs[i], leaf.values[i]))
        return Batch(*sum_deltas(self.blocks, versions))

    def _kind(self, tree: LogTree | None) -> TreeKind:
        if tree is None:
            return TreeKind.FS
        is_input = tree.finalized and (self.merge_seq == 0 or tree.finalize_seq < self.merge_seq)
        return TreeKind.INPUT if is_input else TreeKind.LOG


class _Cursor:
    """A place in a tree that remembers its leaf; `tree` is None for `fs_root`."""

    def __init__(self, btree: Btree, tree: LogTree | None) -> None:
        self.tree = tree
        self._btree = btree
        self._found: LeafRange | None = None

    def at(self, key: bytes) -> LeafRange:
        """Return the leaf that is responsible for `key`."""
        found = self._found
        if found is None or not found.first <= key <= found.last:
            self._found = found = self._btree.leaf(key)
        return found


_NOTHING = Batch((), (), ())
_GROUPS_KEPT = 4096
"""Groups of inodes whose bloom bits are remembered."""


def _without_deletions(leaf: Leaf, start: int, end: int) -> Batch:
    if not any(leaf.flags[start:end]):
        return Batch(leaf.keys[start:end], leaf.seqs[start:end], leaf.values[start:end])
    live = [i for i in range(start, end) if not leaf.flags[i] & ItemFlag.DELETION]
    return Batch([leaf.keys[i] for i in live], [leaf.seqs[i] for i in live], [leaf.values[i] for i in live])


def _newest(spans: list[tuple[_Cursor, Leaf, int, int]]) -> Batch:
    """Merge what several trees hold; of equally new versions that of the tree visited first counts."""
    newest: dict[bytes, tuple[bytes, int, bytes, int]] = {}
    for _, leaf, start, end in spans:
        columns = (leaf.keys, leaf.seqs, leaf.values, leaf.flags)
        for row in zip(*(column[start:end] for column in columns)):
            known = newest.get(row[0])
            if known is None or row[1] > known[1]:
                newest[row[0]] = row
    rows = sorted((row for row in newest.values() if not row[3] & ItemFlag.DELETION), key=itemgetter(0))
    if not rows:
        return _NOTHING
    keys, seqs, values, _ = zip(*rows)
    return Batch(keys, seqs, values)


def _end_of_kind(first: bytes, last: bytes) -> bytes:
    """Return where, at most at `last`, the keys from `first` on stop or start to be deltas."""
    if first < DELTA_FIRST:
        return min(last, before(DELTA_FIRST))
    return min(last, DELTA_LAST) if first <= DELTA_LAST else last


def _start_of_kind(first: bytes, last: bytes) -> bytes:
    """Return where, at least at `first`, the keys down from `last` stop or start to be deltas."""
    if last > DELTA_LAST:
        return max(first, after(DELTA_LAST))
    return max(first, DELTA_FIRST) if last >= DELTA_FIRST else first
