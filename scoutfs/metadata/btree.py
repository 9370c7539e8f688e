"""Reading btrees: one item, or ranges of them in either direction, with a few blocks in memory (spec 04 §3.6, §5).

Keys are sort forms of 27 bytes (`Key.sort_bytes`): they compare as the keys do.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from format.block import NO_REF, Ref
from format.btree import MAX_HEIGHT
from format.btree_columns import NO_ITEMS, Leaf, Parent
from format.keys import SORT_SIZE, Key
from scoutfs.metadata.blocks import BlockReader, DamagedBlock
from scoutfs.storage.volume import Volume

FIRST_KEY = bytes(SORT_SIZE)
"""The sort form of the least key."""
LAST_KEY = b"\xff" * SORT_SIZE
"""The sort form of the greatest key."""


class Root(NamedTuple):
    """The root of a tree; `height` 0 if it is empty."""

    ref: Ref = NO_REF
    height: int = 0

    @classmethod
    def of(cls, parsed: Any) -> Root:
        """Convert a parsed `format.btree.BtreeRoot`."""
        return cls(Ref(parsed.ref.blkno, parsed.ref.seq), parsed.height)

    def fields(self) -> dict[str, Any]:
        """Return what `format.btree.BtreeRoot` is built from."""
        return {"ref": self.ref._asdict(), "height": self.height}


NO_ROOT = Root()
"""The root of an empty tree."""


class TreeItem(NamedTuple):
    """An item of a tree: sort form of its key, version, flags (see `format.btree.ItemFlag`) and value."""

    key: bytes
    seq: int
    flags: int
    value: bytes


class BtreeBlocks(Protocol):
    """Where trees are read from: a `BlockReader`, or a `BlockWriter` that knows newer blocks."""

    def name(self, ref: Ref) -> str:
        """Return how texts name the block."""

    def btree_block(self, ref: Ref, level: int) -> Leaf | Parent:
        """Return the decoded block that `ref` refers to, a `Leaf` at level 0."""


class LeafRange(NamedTuple):
    """A leaf, and the keys that it is responsible for: `first` to `last`, both included.

    Between them nothing is in the tree that is not in `leaf`; what the leaf holds beside them does not count.
    """

    leaf: Leaf
    first: bytes
    last: bytes

    def columns(self) -> tuple[Sequence[bytes], Sequence[int], Sequence[int], Sequence[bytes]]:
        """Return keys, seqs, flags and values of the items in the range."""
        leaf = self.leaf
        start, end = leaf.span(self.first, self.last)
        return leaf.keys[start:end], leaf.seqs[start:end], leaf.flags[start:end], leaf.values[start:end]


def after(key: bytes) -> bytes:
    """Return the next key; the least follows the greatest."""
    number = (int.from_bytes(key, "big") + 1) & _ONES
    return number.to_bytes(SORT_SIZE, "big")


def before(key: bytes) -> bytes:
    """Return the previous key; the greatest comes before the least."""
    number = (int.from_bytes(key, "big") - 1) & _ONES
    return number.to_bytes(SORT_SIZE, "big")


_ONES = (1 << 8 * SORT_SIZE) - 1


class Btree:
    """A tree as it is under `root`; no block of it ever changes, but its blocks may be reused for others.

    Every method reads through `blocks` and may raise StaleBlockError, DamagedBlock or DeviceError.
    """

    def __init__(self, blocks: BtreeBlocks, root: Root) -> None:
        self.blocks = blocks
        self.root = root

    def leaf(self, key: bytes) -> LeafRange:
        """Return the leaf that holds `key` if anything does; for an empty tree one without items for all keys.

        No key of a block is taken that its parent does not say it may hold, so walks from leaf to leaf always advance
        and end, however the blocks refer to each other.
        """
        ref, height = self.root
        if ref.blkno == 0:
            return _EMPTY
        if not 0 < height <= MAX_HEIGHT:
            text = f"a tree of height {height}, at most {MAX_HEIGHT} is possible"
            raise DamagedBlock(f"{self.blocks.name(ref)}: {text}")
        first, last = FIRST_KEY, LAST_KEY
        for level in range(height - 1, 0, -1):
            parent = self.blocks.btree_block(ref, level)
            assert isinstance(parent, Parent)
            index = bisect_left(parent.keys, key)
            if index == len(parent.keys):
                text = f"no child for keys from {Key.from_sort_bytes(key)} on"
                raise DamagedBlock(f"{self.blocks.name(ref)}: {text}")
            if index:
                first = max(first, after(parent.keys[index - 1]))
            last = min(last, parent.keys[index])
            ref = parent.refs[index]
        leaf = self.blocks.btree_block(ref, 0)
        assert isinstance(leaf, Leaf)
        return LeafRange(leaf, first, last)

    def lookup(self, key: bytes) -> TreeItem | None:
        """Return the item with this key, be it a deletion; None if there is none."""
        leaf = self.leaf(key).leaf
        index = bisect_left(leaf.keys, key)
        if index == len(leaf.keys) or leaf.keys[index] != key:
            return None
        return TreeItem(key, leaf.seqs[index], leaf.flags[index], leaf.values[index])

    def next(self, key: bytes, last: bytes = LAST_KEY) -> TreeItem | None:
        """Return the first item from `key` to `last`, be it a deletion; None if there is none."""
        while key <= last:
            leaf, _, end = self.leaf(key)
            index = bisect_left(leaf.keys, key)
            end = min(end, last)
            if index < len(leaf.keys) and leaf.keys[index] <= end:
                return TreeItem(leaf.keys[index], leaf.seqs[index], leaf.flags[index], leaf.values[index])
            if end == LAST_KEY:
                return None
            key = after(end)
        return None

    def leaves(self, first: bytes = FIRST_KEY, last: bytes = LAST_KEY) -> Iterator[LeafRange]:
        """Yield the leaves responsible for `first` to `last`, ascending; ranges are cut to what was asked for."""
        while first <= last:
            found = self.leaf(first)
            end = min(found.last, last)
            yield LeafRange(found.leaf, first, end)
            if end == LAST_KEY:
                return
            first = after(end)

    def leaves_reversed(self, first: bytes = FIRST_KEY, last: bytes = LAST_KEY) -> Iterator[LeafRange]:
        """Yield the leaves responsible for `first` to `last`, descending; ranges are cut to what was asked for."""
        while first <= last:
            found = self.leaf(last)
            start = max(found.first, first)
            yield LeafRange(found.leaf, start, last)
            if start == FIRST_KEY:
                return
            last = before(start)

    def items(self, first: bytes = FIRST_KEY, last: bytes = LAST_KEY) -> Iterator[TreeItem]:
        """Yield the items with keys from `first` to `last`, ascending, deletions too."""
        for found in self.leaves(first, last):
            yield from map(TreeItem, *found.columns())

    def items_reversed(self, first: bytes = FIRST_KEY, last: bytes = LAST_KEY) -> Iterator[TreeItem]:
        """Yield the items with keys from `first` to `last`, descending, deletions too."""
        for found in self.leaves_reversed(first, last):
            yield from map(TreeItem, *(column[::-1] for column in found.columns()))


_EMPTY = LeafRange(NO_ITEMS, FIRST_KEY, LAST_KEY)


def tree_of(volume: Volume, root: Any) -> Btree:
    """Return the tree under `root`, a parsed `BtreeRoot` of `volume`, with a cache of its own."""
    return Btree(BlockReader(volume.meta, volume.fsid), Root.of(root))
