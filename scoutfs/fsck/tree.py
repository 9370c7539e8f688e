"""A walk through a tree: every block of it is checked (spec 04 §3), and what can be read is handed out in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from format.block import BlockError, Magic, Ref
from format.btree import MAX_HEIGHT, Item, ItemBlock, ItemFlag, read_items
from format.btree_check import check_items
from format.keys import Key
from scoutfs.fsck.blocks import Blocks
from scoutfs.fsck.kinds import Kind
from scoutfs.fsck.words import key_words

_KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "range": Kind.TREE_KEY_RANGE,
        "uniqueness": Kind.TREE_KEY_TWICE,
        "flags": Kind.TREE_ITEM_FLAGS,
        "pad": Kind.TREE_PADDING,
        "avl link": Kind.TREE_AVL,
        "avl parent": Kind.TREE_AVL,
        "avl order": Kind.TREE_AVL,
        "avl balance": Kind.TREE_AVL_HEIGHT,
        "avl height": Kind.TREE_AVL_HEIGHT,
        "total_item_bytes": Kind.TREE_ITEM_BYTES,
        "mid_free_len": Kind.TREE_FREE_SPACE,
        "item hash": Kind.TREE_HASH,
        "val_off": Kind.TREE_VALUES,
        "ref": Kind.TREE_ITEMS,
    }
)
_DELETION = int(ItemFlag.DELETION)
_MADE_BY_MKFS_MAX = 2
"""Items in a leaf of mkfs, whose heights are wrong (spec 04 §16.2)."""


@dataclass(frozen=True, slots=True)
class Tree:
    """What may be in a tree: items for which `problem_of` returns None, marked as deleted only if `deletions`.

    `problem_of` is given an item that is not deleted; it returns what is wrong with the length of its value, or
    `FOREIGN` for a key that does not belong here.
    """

    name: str
    problem_of: Callable[[Item], str | None]
    deletions: bool = False


FOREIGN = "foreign"


class Walker:
    """Walks through trees."""

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks
        self._report = blocks.report

    def items(self, root: Any, tree: Tree) -> Iterator[Item]:
        """Yield the items of the leaves below a parsed `BtreeRoot`, in strictly increasing order.

        What cannot be read is reported and left out; `Blocks.lost` counts how often that happened.
        """
        ref = Ref(root.ref.blkno, root.ref.seq)
        if not root.height and not ref.blkno:
            return
        if not 0 < root.height <= MAX_HEIGHT or not ref.blkno:
            self._report.add(Kind.TREE_ROOT, tree.name, height=root.height, blkno=ref.blkno)
            self._blocks.lost += 1
            return
        waiting = [(ref, root.height - 1, Key.ZEROS, Key.ONES)]
        while waiting:
            ref, level, start, end = waiting.pop()
            block, is_sound = self._block(ref, level, start, end, tree)
            if block is None:
                continue
            if level:
                waiting += reversed(self._children(block, ref.blkno, start, end, tree))
                continue
            for item in block.items if is_sound else _in_order(block, start, end):
                if self._is_right(item, ref.blkno, tree):
                    yield item

    def _block(self, ref: Ref, level: int, start: Key, end: Key, tree: Tree) -> tuple[ItemBlock | None, bool]:
        """Return what a block holds, None if that cannot be told, and whether nothing is wrong with it."""
        data = self._blocks.read(ref, Magic.BTREE, tree.name)
        if data is None:
            return None, False
        if data[40] != level:
            self._report.add(Kind.TREE_LEVEL, tree.name, blkno=ref.blkno, stored=data[40], expected=level)
            self._blocks.lost += 1
            return None, False
        heights = int.from_bytes(data[34:36], "little") > _MADE_BY_MKFS_MAX
        try:
            return check_items(data, "block", start=start, end=end, heights=heights), True
        except BlockError as error:
            kind = _KINDS.get(error.field, Kind.TREE_ITEMS)
            details: dict[str, Any] = {"problem": _problem(error)}
            if kind in (Kind.TREE_ITEM_BYTES, Kind.TREE_FREE_SPACE):
                details = {"stored": error.stored, "expected": error.expected}
            self._report.add(kind, tree.name, blkno=ref.blkno, **details)
            if kind is Kind.TREE_KEY_RANGE:
                self._blocks.lost += 1
        try:
            return read_items(data, "block"), False
        except BlockError:
            self._blocks.lost += 1
            return None, False

    def _children(
        self, block: ItemBlock, blkno: int, start: Key, end: Key, tree: Tree
    ) -> list[tuple[Ref, int, Key, Key]]:
        if len(block.items) < 2:
            self._report.add(Kind.TREE_CHILDREN, tree.name, blkno=blkno, count=len(block.items))
        if block.items and end == Key.ONES and block.items[-1].key != end:
            self._report.add(Kind.TREE_LAST_KEY, tree.name, blkno=blkno, key=key_words(block.items[-1].key))
        children = []
        for item in block.items:
            if not start <= item.key <= end:
                continue
            children.append((item.ref, block.level - 1, start, item.key))
            start = item.key.increment()
        return children

    def _is_right(self, item: Item, blkno: int, tree: Tree) -> bool:
        if item.flags & _DELETION:
            if not tree.deletions:
                self._report.add(Kind.TREE_DELETION, tree.name, key=key_words(item.key))
                return False
            problem = FOREIGN if tree.problem_of(item) == FOREIGN else None
            if item.value:
                problem = problem or f"{len(item.value)} bytes in a deleted item"
        else:
            problem = tree.problem_of(item)
        if problem == FOREIGN:
            self._report.add(Kind.TREE_FOREIGN_ITEM, tree.name, blkno=blkno, key=key_words(item.key))
        elif problem:
            self._report.add(Kind.TREE_ITEM_VALUE, tree.name, key=key_words(item.key), problem=problem)
        return problem is None


def _problem(error: BlockError) -> str:
    """Return the item that is wrong and what is wrong with it, as far as the kind of the finding does not say it."""
    where = error.what.removeprefix("block").strip()
    if error.stored is None:
        return where or error.field
    text = str(error).removeprefix(error.what).strip(" :")
    return f"{where}: {text}" if where else text


def _in_order(block: ItemBlock, start: Key, end: Key) -> Iterator[Item]:
    """Yield the items of a damaged block that can be found: in its range, and the first of those with equal keys."""
    previous: Key | None = None
    for item in block.items:
        if start <= item.key <= end and item.key != previous:
            previous = item.key
            yield item


def of_sizes(zones: Mapping[int, int]) -> Callable[[Item], str | None]:
    """Return a `problem_of` for a tree whose items have values of one length for each zone."""

    def problem_of(item: Item) -> str | None:
        size = zones.get(item.key.zone)
        if size is None:
            return FOREIGN
        return None if len(item.value) == size else f"{len(item.value)} bytes, expected {size}"

    return problem_of
