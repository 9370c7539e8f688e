"""Everything that must hold inside a btree block (spec 04 §3): for tests of writers and for checking volumes.

Readers do not need this: `btree.read_items` makes sure that what they use lies inside the block.
"""

from __future__ import annotations

import struct as _struct

from format.block import LARGE_BLOCK_SIZE, BlockError
from format.btree import (
    ITEM_SIZE,
    ITEMS_OFFSET,
    LEAF_HASH_OFFSET,
    NODE_BASE,
    REF_SIZE,
    VALUE_ALIGN,
    Item,
    ItemBlock,
    ItemFlag,
    item_bytes,
    read_buckets,
    read_items,
)
from format.checksum import Buffer
from format.hashes import LEAF_BUCKETS, leaf_bucket
from format.keys import Key

_PAD_BYTES = _struct.Struct("7xB27x5s13x3s")
_NO_PAD = (0, bytes(5), bytes(3))
_FLAGS_MAX = int(ItemFlag.DELETION)


def check_items(
    data: Buffer, what: str, *, start: Key = Key.ZEROS, end: Key = Key.ONES, heights: bool = True
) -> ItemBlock:
    """Check a btree block of 64 KiB, whose header the caller has verified, and return its items.

    Its keys must lie in `start` to `end`, both included.  `heights` says whether the heights in the AVL tree must be
    right: those of mkfs are not, and nothing reads them.  Raises BlockError naming `what` and what is wrong.
    """
    block = read_items(data, what)
    _check_keys(block, what, start, end)
    _check_pads(data, block, what)
    _check_tree(block, what, heights)
    _check_values(block, what)
    if not block.level:
        _check_buckets(data, block, what)
    return block


def _check_keys(block: ItemBlock, what: str, start: Key, end: Key) -> None:
    # Items are in the order of their keys: the ends tell whether any is out of range.
    for item in block.items[:1] + block.items[-1:]:
        if not start <= item.key <= end:
            raise BlockError(f"{what} item {item.key}", "range")
    previous = None
    flags_max = 0 if block.level else _FLAGS_MAX
    for item in block.items:
        if item.key == previous:
            raise BlockError(f"{what} item {item.key}", "uniqueness")
        if item.flags > flags_max:
            raise BlockError(f"{what} item {item.key}", "flags", item.flags)
        previous = item.key
    if block.level and not block.items:
        raise BlockError(what, "nr_items", 0)


def _check_pads(data: Buffer, block: ItemBlock, what: str) -> None:
    if any(data[41:48]):
        raise BlockError(what, "pad")
    for item in block.items:
        if _PAD_BYTES.unpack_from(data, item.offset) != _NO_PAD:
            raise BlockError(f"{what} item {item.key}", "pad")


def _check_tree(block: ItemBlock, what: str, heights: bool) -> None:
    """The AVL tree holds each item once, in the order of the keys; walks in `block.items` prove the order."""
    nodes = {item.offset - NODE_BASE: item for item in block.items}
    order: list[Item] = []
    stack: list[tuple[int, int, bool]] = [(block.item_root, 0, False)] if block.item_root else []
    seen: set[int] = set()
    while stack:
        offset, parent, left_done = stack.pop()
        if offset not in nodes:
            raise BlockError(what, "avl link", offset)
        item = nodes[offset]
        if left_done:
            order.append(item)
            if item.right:
                stack.append((item.right, offset, False))
            continue
        if item.parent != parent:
            raise BlockError(f"{what} item {item.key}", "avl parent", item.parent, parent)
        if offset in seen:
            raise BlockError(f"{what} item {item.key}", "avl link", offset)
        seen.add(offset)
        stack.append((offset, parent, True))
        if item.left:
            stack.append((item.left, offset, False))
    if tuple(order) != block.items:
        raise BlockError(what, "avl order")
    if heights:
        _check_heights(nodes, block, what)


def _check_heights(nodes: dict[int, Item], block: ItemBlock, what: str) -> None:
    height = {0: 0}
    pending = [block.item_root] if block.item_root else []
    while pending:
        offset = pending[-1]
        item = nodes[offset]
        missing = [child for child in (item.left, item.right) if child not in height]
        if missing:
            pending += missing
            continue
        pending.pop()
        left, right = height[item.left], height[item.right]
        height[offset] = 1 + max(left, right)
        if abs(left - right) > 1:
            raise BlockError(f"{what} item {item.key}", "avl balance")
        if item.height != height[offset]:
            raise BlockError(f"{what} item {item.key}", "avl height", item.height, height[offset])


def _check_values(block: ItemBlock, what: str) -> None:
    end = LARGE_BLOCK_SIZE if block.level else LEAF_HASH_OFFSET
    items_end = ITEMS_OFFSET + ITEM_SIZE * len(block.items)
    total = sum(item_bytes(len(item.value)) for item in block.items)
    if block.total_item_bytes != total:
        raise BlockError(what, "total_item_bytes", block.total_item_bytes, total)
    lowest = end
    for item in sorted((item for item in block.items if item.value), key=lambda item: -item.val_off):
        if item.val_off % VALUE_ALIGN or item.val_off + item_bytes(len(item.value)) - ITEM_SIZE > lowest:
            raise BlockError(f"{what} item {item.key}", "val_off", item.val_off)
        lowest = item.val_off
    for item in block.items:
        if not item.value and item.val_off:
            raise BlockError(f"{what} item {item.key}", "val_off", item.val_off, 0)
        if block.level and (len(item.value) != REF_SIZE or not item.ref.blkno):
            raise BlockError(f"{what} item {item.key}", "ref")
    if items_end + block.mid_free_len > lowest:
        raise BlockError(what, "mid_free_len", block.mid_free_len, lowest - items_end)


def _check_buckets(data: Buffer, block: ItemBlock, what: str) -> None:
    """Each item is in one bucket, found from its hash before any empty one."""
    buckets = read_buckets(data)
    offsets = sorted(bucket for bucket in buckets if bucket)
    if offsets != sorted(item.offset for item in block.items):
        raise BlockError(what, "item hash")
    for item in block.items:
        index = leaf_bucket(item.key.build())
        while buckets[index] != item.offset:
            if not buckets[index]:
                raise BlockError(f"{what} item {item.key}", "item hash")
            index = (index + 1) % LEAF_BUCKETS
