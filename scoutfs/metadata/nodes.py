"""Btree blocks that are being changed: decoded, and encoded once when they are written (spec 04 §3, §4)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Any, Self

from format.block import Magic, Ref
from format.btree import MAX_VALUE_SIZE, item_bytes
from format.btree_build import LEAF_SPACE, PARENT_ITEM_SIZE, PARENT_SPACE, build_leaf, build_parent
from format.btree_columns import NO_ITEMS, Leaf, Parent
from scoutfs.metadata.blocks import btree_cost

LOW_WATER_MARK = PARENT_SPACE // 4
"""16372: a block below the root whose items take fewer bytes is joined with a neighbour."""

_ITEM_BYTES = tuple(map(item_bytes, range(MAX_VALUE_SIZE + 1))).__getitem__


class Node:
    """A block of sorted items in columns, which may be changed; `total` is what the items take in bytes.

    `total` may be more than `space`, the bytes that there are, only until whoever changes the node has cut it.
    """

    __slots__ = ("columns", "keys", "total")

    magic = Magic.BTREE
    space: int
    low_water_mark = LOW_WATER_MARK

    def __init__(self, columns: tuple[list[Any], ...], total: int) -> None:
        self.columns = columns
        self.keys: list[bytes] = columns[0]
        self.total = total

    def sizes(self, start: int, end: int) -> Sequence[int]:
        """Return the bytes of each item from index `start` up to `end`, not included."""
        raise NotImplementedError

    def move_first(self, amount: int, target: Self) -> None:
        """Move the first items to the end of `target`, one more until `amount` bytes are used up."""
        count, moved = _count(self.sizes(0, len(self.keys)), amount)
        self._move(0, count, target, len(target.keys), moved)

    def move_last(self, amount: int, target: Self) -> None:
        """Move the last items to the front of `target`, one more until `amount` bytes are used up."""
        end = len(self.keys)
        count, moved = _count(reversed(self.sizes(0, end)), amount)
        self._move(end - count, end, target, 0, moved)

    def _move(self, start: int, end: int, target: Self, at: int, moved: int) -> None:
        for column, others in zip(self.columns, target.columns):
            others[at:at] = column[start:end]
            del column[start:end]
        self.total -= moved
        target.total += moved


class LeafNode(Node):
    """A leaf; it starts with the items of `leaf`, which is not changed."""

    __slots__ = ("block", "flags", "seqs", "values")

    space = LEAF_SPACE

    def __init__(self, leaf: Leaf = NO_ITEMS, total: int | None = None) -> None:
        columns = (list(leaf.keys), list(leaf.seqs), list(leaf.flags), list(leaf.values))
        super().__init__(columns, sum(map(_ITEM_BYTES, map(len, columns[3]))) if total is None else total)
        self.seqs: list[int] = columns[1]
        self.flags: list[int] = columns[2]
        self.values: list[bytes] = columns[3]
        self.block = Leaf(self.keys, self.seqs, self.flags, self.values)
        """The items as readers want them: always as they are now."""

    def sizes(self, start: int, end: int) -> Sequence[int]:
        """Return the bytes of each item from index `start` up to `end`, not included."""
        return list(map(_ITEM_BYTES, map(len, self.values[start:end])))

    def copy(self) -> LeafNode:
        """Return an independent node with the same items."""
        return LeafNode(self.block, self.total)

    def assign(self, other: LeafNode) -> None:
        """Take over the items of another node, which must not be used any more."""
        for mine, new in zip(self.columns, other.columns):
            mine[:] = new
        self.total = other.total

    def find(self, key: bytes) -> int | None:
        """Return the index of the item with this key, None if there is none."""
        index = bisect_left(self.keys, key)
        return index if index < len(self.keys) and self.keys[index] == key else None

    def insert(self, index: int, key: bytes, seq: int, flags: int, value: bytes) -> None:
        """Put an item in front of the one at `index`."""
        self.keys.insert(index, key)
        self.seqs.insert(index, seq)
        self.flags.insert(index, flags)
        self.values.insert(index, value)
        self.total += item_bytes(len(value))

    def set(self, index: int, seq: int, flags: int, value: bytes) -> None:
        """Replace all but the key of an item."""
        self.total += item_bytes(len(value)) - item_bytes(len(self.values[index]))
        self.seqs[index] = seq
        self.flags[index] = flags
        self.values[index] = value

    def delete(self, index: int) -> None:
        """Take an item out."""
        self.total -= item_bytes(len(self.values[index]))
        for column in self.columns:
            del column[index]

    def encode(self, fsid: int, ref: Ref) -> bytes:
        """Return the 64 KiB of the block, sealed."""
        return build_leaf(fsid, ref, self.keys, self.seqs, self.flags, self.values)

    def clean(self) -> tuple[Leaf, int]:
        """Return what a reader keeps of the block, and its cost; the node must not be changed any more."""
        return self.block, btree_cost(self.block)


class ParentNode(Node):
    """A block above the leaves; it starts with the children of `parent`, which is not changed."""

    __slots__ = ("block", "level", "refs")

    space = PARENT_SPACE

    def __init__(self, parent: Parent) -> None:
        columns = (list(parent.keys), list(parent.refs))
        super().__init__(columns, PARENT_ITEM_SIZE * len(parent.keys))
        self.level = parent.level
        self.refs: list[Ref] = columns[1]
        self.block = Parent(self.level, self.keys, self.refs)
        """The children as readers want them: always as they are now."""

    @property
    def room(self) -> int:
        """How many more children there is room for."""
        return (self.space - self.total) // PARENT_ITEM_SIZE

    def sizes(self, start: int, end: int) -> Sequence[int]:
        """Return the bytes of each item from index `start` up to `end`, not included."""
        return [PARENT_ITEM_SIZE] * (end - start)

    def insert(self, index: int, keys: Sequence[bytes], refs: Sequence[Ref]) -> None:
        """Put children in front of the one at `index`."""
        self.keys[index:index] = keys
        self.refs[index:index] = refs
        self.total += PARENT_ITEM_SIZE * len(keys)

    def delete(self, index: int) -> None:
        """Take a child out."""
        del self.keys[index], self.refs[index]
        self.total -= PARENT_ITEM_SIZE

    def encode(self, fsid: int, ref: Ref) -> bytes:
        """Return the 64 KiB of the block, sealed."""
        return build_parent(fsid, ref, self.level, self.keys, self.refs)

    def clean(self) -> tuple[Parent, int]:
        """Return what a reader keeps of the block, and its cost; the node must not be changed any more."""
        return self.block, btree_cost(self.block)


def _count(sizes: Iterable[int], amount: int) -> tuple[int, int]:
    """Return how many of the items with these `sizes` use up `amount` bytes, and their bytes."""
    count = moved = 0
    for size in sizes:
        if moved >= amount:
            break
        count += 1
        moved += size
    return count, moved
