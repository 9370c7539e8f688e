"""Changing btrees: items one by one, or many sorted ones leaf by leaf (spec 04 §4, §5).

Keys are sort forms of 27 bytes.  Every block on the way to a change becomes dirty first.  Whatever an operation needs
is taken from the allocator before anything changes: one that fails leaves the items as they were, or, where it changes
many leaves, those of the leaves that it has finished.
"""

from __future__ import annotations

import errno
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from operator import lt

from format.block import Ref
from format.btree import MAX_HEIGHT, MAX_VALUE_SIZE, ItemFlag, item_bytes
from format.btree_build import PARENT_ITEM_SIZE
from format.btree_columns import Leaf, Parent
from format.keys import Key
from scoutfs.errors import ScoutfsError
from scoutfs.metadata.blocks import DamagedBlock
from scoutfs.metadata.btree import FIRST_KEY, LAST_KEY, NO_ROOT, Btree, Root, after
from scoutfs.metadata.nodes import LeafNode, Node, ParentNode
from scoutfs.metadata.totals import NO_DIFFERENCE, add_deltas, is_delta
from scoutfs.metadata.writer import BlockAllocator, BlockWriter

PIECES_MAX = 4
"""Leaves that one leaf may become in a step of a merge, so that a step stays within what is set aside for it."""


class ItemExists(ScoutfsError):
    """An item with the key is there already (EEXIST)."""

    def __init__(self, key: bytes) -> None:
        super().__init__(f"item {Key.from_sort_bytes(key)} exists", errno.EEXIST)


class NoItem(ScoutfsError):
    """No item with the key is there (ENOENT)."""

    def __init__(self, key: bytes) -> None:
        super().__init__(f"item {Key.from_sort_bytes(key)} does not exist", errno.ENOENT)


@dataclass(slots=True)
class _Place:
    """A dirty leaf and the way to it: `parent` is None for a root, `index` the leaf's place in its parent.

    The leaf is responsible for keys up to and with `last`.
    """

    ref: Ref
    leaf: LeafNode
    parent: ParentNode | None
    index: int
    last: bytes


class BtreeWriter(Btree):
    """A tree that is changed; `root` follows.

    Dirty blocks go to `writer` under numbers from `allocator`.  The methods that read, see `Btree`, show the tree as it
    is now; while one of their iterators runs, the tree must not be changed.  Every method may raise what reading
    through `writer` or the allocator raises.
    """

    def __init__(self, writer: BlockWriter, allocator: BlockAllocator, root: Root = NO_ROOT) -> None:
        super().__init__(writer, root)
        self.writer = writer
        self.allocator = allocator

    def insert(self, key: bytes, value: bytes, seq: int = 0, flags: int = 0) -> None:
        """Add an item; raises ItemExists."""
        if self.lookup(key) is not None:
            raise ItemExists(key)
        self._put(key, value, seq, flags)

    def update(self, key: bytes, value: bytes) -> None:
        """Replace the value of an item, whose seq and flags stay; raises NoItem."""
        found = self.lookup(key)
        if found is None:
            raise NoItem(key)
        self._put(key, value, found.seq, found.flags)

    def force(self, key: bytes, value: bytes) -> None:
        """Add an item, or replace its value."""
        found = self.lookup(key)
        self._put(key, value, *((0, 0) if found is None else (found.seq, found.flags)))

    def delete(self, key: bytes) -> None:
        """Take an item out; raises NoItem."""
        if self.lookup(key) is None:
            raise NoItem(key)
        place = self._walk(key, join=True)
        index = place.leaf.find(key)
        assert index is not None
        if place.parent is None and len(place.leaf.keys) == 1:
            self._free_root(place.ref)
        else:
            place.leaf.delete(index)

    def dirty(self, key: bytes) -> None:
        """Make sure that updating an item with a value that is not longer needs no block; raises NoItem."""
        if self.lookup(key) is None:
            raise NoItem(key)
        self._walk(key)

    def insert_list(self, items: Leaf) -> None:
        """Add or overwrite items, strictly ascending: what a client does with those that a transaction has changed.

        Differences are added to what is there, and stay even if the sum is zero.
        """
        _check(items)
        start = 0
        while start < len(items.keys):
            start = self._apply(items, start, self._inserted, ParentNode.space // PARENT_ITEM_SIZE)

    def merge_list(self, items: Leaf, may_go_on: Callable[[], bool] = lambda: True) -> int:
        """Apply items of log trees, strictly ascending, to the tree that they are merged into (spec 04 §12.5).

        Deletions take items out, and differences are added to what is there, a sum of zero being taken out.  Before
        each leaf `may_go_on` is asked.  Returns how many items were applied, all of them unless it said no.
        """
        _check(items)
        start = 0
        while start < len(items.keys) and may_go_on():
            key = items.keys[start]
            start = self._apply(items, start, self._merged, PIECES_MAX)
            if self.root.height > 1:
                self._walk(key, join=True)
            if self.root.height == 1 and not self.leaf(key).leaf.keys:
                self._free_root(self._walk(key).ref)
        return start

    def rebalance(self, key: bytes) -> None:
        """Split the blocks above the leaf of `key` that are full, and join those that are too empty.

        A subtree in this place can be merged into again then, see `merge`.
        """
        if self.root.height:
            self._walk(key, split=True, join=True)

    def parent_range(self, key: bytes) -> tuple[bytes, bytes]:
        """Return the first and the last key below the block above the leaves that `key` belongs to."""
        first, last = FIRST_KEY, LAST_KEY
        ref = self.root.ref
        for level in range(self.root.height - 1, 1, -1):
            parent = self._parent(ref, level)
            index = self._child(parent, key, ref)
            if index:
                first = max(first, after(parent.keys[index - 1]))
            last = min(last, parent.keys[index])
            ref = parent.refs[index]
        return first, last

    def subtree(self, key: bytes) -> Root:
        """Return the root, of height 2, of the part of the tree that `parent_range` tells; low trees have one part."""
        ref = self.root.ref
        if self.root.height <= 2:
            return self.root
        for level in range(self.root.height - 1, 1, -1):
            parent = self._parent(ref, level)
            ref = parent.refs[self._child(parent, key, ref)]
        return Root(ref, 2)

    def set_subtree(self, key: bytes, subtree: Root) -> None:
        """Put `subtree` in the place of the one that `key` belongs to; raises ScoutfsError if it is not 2 high.

        The blocks of the old one are not freed.
        """
        if self.root.height <= 2:
            self.root = subtree
            return
        if subtree.height != 2:
            raise ScoutfsError(f"a subtree of height {subtree.height}, only 2 fits")
        parent, index = self._dirty_parents(key, lowest=2)
        parent.refs[index] = subtree.ref

    def _put(self, key: bytes, value: bytes, seq: int, flags: int) -> None:
        """Add an item, or replace all but its key."""
        item = Leaf([key], [seq], [flags], [value])
        _check(item)
        if not self.root.height:
            self._plant(LeafNode(item))
            return
        leaf = self._walk(key).leaf
        index = leaf.find(key)
        growth = item_bytes(len(value)) - (0 if index is None else item_bytes(len(leaf.values[index])))
        if leaf.total + growth > leaf.space:
            leaf = self._walk(key, split=True, room=growth).leaf
        index = bisect_left(leaf.keys, key)
        if index < len(leaf.keys) and leaf.keys[index] == key:
            leaf.set(index, seq, flags, value)
        else:
            leaf.insert(index, key, seq, flags, value)

    def _apply(self, items: Leaf, start: int, apply: _Apply, pieces_max: int) -> int:
        """Apply items from index `start` on to the leaf of the first one, which is cut if it becomes too full.

        Returns the index of the first item that was not applied: of another leaf, or too many for this one.
        """
        key = items.keys[start]
        leaf, last = self._leaf(key)
        stop = _limit(items, start, bisect_right(items.keys, last, start), pieces_max - 1)
        changed = leaf.copy()
        apply(changed, items, start, stop)
        if self.root.height == 0:
            if changed.keys:
                self._plant(changed)
        elif changed.total <= changed.space:
            self._walk(key).leaf.assign(changed)
        elif stop == start + 1:
            apply(self._walk(key, split=True, room=changed.total - leaf.total).leaf, items, start, stop)
        else:
            place = self._walk(key, split=True)
            if place.parent is not None and place.parent.room < pieces_max - 1:
                stop = _limit(items, start, stop, place.parent.room)
                changed = leaf.copy()
                apply(changed, items, start, stop)
            self._cut(place, changed)
        return stop

    def _leaf(self, key: bytes) -> tuple[LeafNode, bytes]:
        """Return the leaf for `key`, which must not be changed, and the last key that it is responsible for."""
        ref, last = self.root.ref, LAST_KEY
        if self.root.height == 0:
            return LeafNode(), last
        for level in range(self._height() - 1, 0, -1):
            parent = self._parent(ref, level)
            index = self._child(parent, key, ref)
            last = min(last, parent.keys[index])
            ref = parent.refs[index]
        return self.writer.leaf(ref), last

    def _plant(self, leaf: LeafNode) -> None:
        """Begin an empty tree with the items of a leaf, which may be too many for one block."""
        pieces = _pieces(leaf)
        blknos = self.allocator.exchange(len(pieces) + (len(pieces) > 1))
        keys = [piece.keys[-1] for piece in pieces]
        refs = [self.writer.add(blknos.pop(), piece) for piece in pieces]
        if len(refs) == 1:
            self.root = Root(refs[0], 1)
        else:
            self.root = Root(self.writer.add(blknos.pop(), ParentNode(Parent(1, [*keys[:-1], LAST_KEY], refs))), 2)

    def _cut(self, place: _Place, changed: LeafNode) -> None:
        """Give a leaf the items of `changed`, the first of them to new leaves on its left."""
        pieces = _pieces(changed)
        parent, index = place.parent, place.index
        blknos = self.allocator.exchange(len(pieces) - (parent is not None))
        if parent is None:
            top = self.writer.add(blknos.pop(), parent := ParentNode(Parent(1, [LAST_KEY], [place.ref])))
            self.root, index = Root(top, 2), 0
        place.leaf.assign(pieces.pop())
        keys = [piece.keys[-1] for piece in pieces]
        parent.insert(index, keys, [self.writer.add(blknos.pop(), piece) for piece in pieces])

    def _inserted(self, leaf: LeafNode, items: Leaf, start: int, stop: int) -> None:
        index = 0
        for key, seq, flags, value in _rows(items, start, stop):
            index = bisect_left(leaf.keys, key, index)
            if index == len(leaf.keys) or leaf.keys[index] != key:
                leaf.insert(index, key, seq, flags, value)
            elif is_delta(key) and not (flags | leaf.flags[index]) & ItemFlag.DELETION:
                leaf.set(index, seq, flags, add_deltas(self._path, key, leaf.values[index], value))
            else:
                leaf.set(index, seq, flags, value)

    def _merged(self, leaf: LeafNode, items: Leaf, start: int, stop: int) -> None:
        index = 0
        for key, seq, flags, value in _rows(items, start, stop):
            index = bisect_left(leaf.keys, key, index)
            exists = index < len(leaf.keys) and leaf.keys[index] == key
            if flags & ItemFlag.DELETION:
                if exists:
                    leaf.delete(index)
            elif not exists:
                leaf.insert(index, key, seq, flags, value)
            elif is_delta(key):
                summed = add_deltas(self._path, key, leaf.values[index], value)
                if summed == NO_DIFFERENCE:
                    leaf.delete(index)
                else:
                    leaf.set(index, seq, leaf.flags[index], summed)
            else:
                leaf.set(index, seq, flags, value)

    @property
    def _path(self) -> str:
        return self.writer.reader.device.path

    def _free_root(self, ref: Ref) -> None:
        self.allocator.exchange(0, [ref.blkno])
        self.writer.drop(ref.blkno)
        self.root = NO_ROOT

    def _walk(self, key: bytes, *, room: int = 0, split: bool = False, join: bool = False) -> _Place:
        """Make everything down to the leaf for `key` of a tree that is not empty dirty.

        With `split`, blocks are split so that the leaf has `room` bytes and every parent has room for one more child;
        with `join`, those that are too empty are joined with a neighbour.
        """
        while True:
            place = self._descend(key, room, split, join)
            if place is not None:
                return place

    def _descend(self, key: bytes, room: int, split: bool, join: bool) -> _Place | None:
        """Walk once; None if that changed the shape of the tree above the place that was reached."""
        height = self._height()
        parent, index, last = None, 0, LAST_KEY
        ref = self.root.ref
        for level in range(height - 1, -1, -1):
            ref, node = self._dirty(ref, level, parent, index)
            if split and node.total + (PARENT_ITEM_SIZE if level else room) > node.space:
                self._split(ref, node, parent, index)
                return None
            if join and parent is not None and node.total < node.low_water_mark and len(parent.keys) > 1:
                self._join(ref, node, parent, index)
                return None
            if isinstance(node, ParentNode):
                index = self._child(node.block, key, ref)
                last = min(last, node.keys[index])
                parent, ref = node, node.refs[index]
        assert isinstance(node, LeafNode)
        return _Place(ref, node, parent, index, last)

    def _dirty_parents(self, key: bytes, lowest: int) -> tuple[ParentNode, int]:
        """Make everything down to level `lowest` dirty; return the node there, and the index of the child for `key`."""
        parent, index = None, 0
        ref = self.root.ref
        for level in range(self._height() - 1, lowest - 1, -1):
            ref, node = self._dirty(ref, level, parent, index)
            assert isinstance(node, ParentNode)
            index = self._child(node.block, key, ref)
            parent, ref = node, node.refs[index]
        assert parent is not None
        return parent, index

    def _height(self) -> int:
        if not 0 < self.root.height <= MAX_HEIGHT:
            text = f"a tree of height {self.root.height}, at most {MAX_HEIGHT} is possible"
            raise DamagedBlock(f"{self.writer.name(self.root.ref)}: {text}")
        return self.root.height

    def _dirty(self, ref: Ref, level: int, parent: ParentNode | None, index: int) -> tuple[Ref, Node]:
        """Make the block that `parent`, or the root, refers to dirty."""
        node: LeafNode | ParentNode = self.writer.parent(ref, level) if level else self.writer.leaf(ref)
        new = self.writer.replace(ref, node, self.allocator)
        if parent is None:
            self.root = Root(new, self.root.height)
        else:
            parent.refs[index] = new
        return new, node

    def _parent(self, ref: Ref, level: int) -> Parent:
        block = self.writer.btree_block(ref, level)
        assert isinstance(block, Parent)
        return block

    def _child(self, parent: Parent, key: bytes, ref: Ref) -> int:
        index = bisect_left(parent.keys, key)
        if index == len(parent.keys):
            raise DamagedBlock(f"{self.writer.name(ref)}: no child for keys from {Key.from_sort_bytes(key)} on")
        return index

    def _split(self, ref: Ref, node: Node, parent: ParentNode | None, index: int) -> None:
        """Move the first half of a block to a new one on its left; below a new root if it was the root."""
        blknos = self.allocator.exchange(1 if parent is not None else 2)
        left: LeafNode | ParentNode
        left = ParentNode(Parent(node.level, [], [])) if isinstance(node, ParentNode) else LeafNode()
        node.move_first(node.total // 2, left)
        if parent is None:
            height = self.root.height
            top = self.writer.add(blknos.pop(), parent := ParentNode(Parent(height, [LAST_KEY], [ref])))
            self.root = Root(top, height + 1)
        parent.insert(index, [left.keys[-1]], [self.writer.add(blknos.pop(), left)])

    def _join(self, ref: Ref, node: Node, parent: ParentNode, index: int) -> None:
        """Fill a block that is too empty from its neighbour, on the left if there is one; nothing may be left of it."""
        on_left = index > 0
        other_index = index - 1 if on_left else 1
        level = node.level if isinstance(node, ParentNode) else 0
        other_ref, other = self._dirty(parent.refs[other_index], level, parent, other_index)
        whole = other.total <= 2 * node.low_water_mark
        ends_parent = whole and len(parent.keys) == 2 and self.root.height == level + 2
        if whole:
            freed = [other_ref.blkno, self.root.ref.blkno] if ends_parent else [other_ref.blkno]
            self.allocator.exchange(0, freed)
            self.writer.drop(*freed)
        amount = other.total if whole else node.low_water_mark
        if on_left:
            other.move_last(amount, node)
            if not whole:
                parent.keys[other_index] = other.keys[-1]
        else:
            other.move_first(amount, node)
            # The last bound of a parent is what its own parent says: it must not be lowered.
            ends = whole and (len(parent.keys) == 2 or not node.keys)
            parent.keys[0] = parent.keys[1] if ends else node.keys[-1]
        if whole:
            parent.delete(other_index)
        if ends_parent:
            self.root = Root(ref, self.root.height - 1)


_Apply = Callable[[LeafNode, Leaf, int, int], None]


def _check(items: Leaf) -> None:
    """Refuse items that would spoil a leaf."""
    size = max(map(len, items.values), default=0)
    if size > MAX_VALUE_SIZE:
        raise ScoutfsError(f"value of {size} bytes, at most {MAX_VALUE_SIZE} are possible")
    if not all(map(lt, items.keys, items.keys[1:])):
        raise ScoutfsError("items are not in the order of their keys")


def _rows(items: Leaf, start: int, stop: int) -> zip[tuple[bytes, int, int, bytes]]:
    columns = (items.keys, items.seqs, items.flags, items.values)
    return zip(*(column[start:stop] for column in columns))


def _limit(items: Leaf, start: int, stop: int, room: int) -> int:
    """Return up to which index, at most `stop`, items may go to a leaf beside which `room` more find a place.

    Half a leaf for each of them: however large the items are, the pieces will do.
    """
    free = room * LeafNode.space // 2
    for index in range(start, stop):
        free -= item_bytes(len(items.values[index]))
        if free < 0:
            return max(index, start + 1)
    return stop


def _pieces(leaf: LeafNode) -> list[LeafNode]:
    """Cut the items of a node that has too many into leaves that are about equally full."""
    if leaf.total <= leaf.space:
        return [leaf]
    sizes = leaf.sizes(0, len(leaf.keys))
    count = -(-leaf.total // (leaf.space - max(sizes)))
    pieces: list[LeafNode] = []
    start = done = before = 0
    for index, size in enumerate(sizes, 1):
        done += size
        if done * count >= leaf.total * (len(pieces) + 1):
            columns = (column[start:index] for column in leaf.columns)
            pieces.append(LeafNode(Leaf(*columns), done - before))
            start, before = index, done
    return pieces
