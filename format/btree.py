"""Btree roots, blocks and items, and a reader of the items of a block (spec 01 §3.5, spec 04 §3)."""

from __future__ import annotations

import struct as _struct
from dataclasses import dataclass
from enum import IntFlag

from construct import Int8ul, Int16ul, Int64ul, Padding, Struct

from format.block import LARGE_BLOCK_SIZE, BlockError, BlockHeader, BlockRef, Ref
from format.checksum import Buffer
from format.hashes import LEAF_BUCKETS
from format.keys import Key, KeyStruct

MAX_HEIGHT = 20
MAX_VALUE_SIZE = 896
"""Bytes of the longest value of an item."""
VALUE_ALIGN = 8
"""Values start at, and take up, multiples of this."""
LEAF_HASH_OFFSET = LARGE_BLOCK_SIZE - 2 * LEAF_BUCKETS
"""62512: where the buckets of a leaf start and its values end.  The values of a parent end with the block."""
NODE_BASE = 32
"""AVL links and `item_root` count bytes from here; `val_off` and hash buckets count from the start of the block."""

BtreeRoot = Struct("ref" / BlockRef, "height" / Int8ul, "pad" / Padding(7))
"""24 bytes; all zero when the tree is empty."""

AvlRoot = Struct("node" / Int16ul)
"""2 bytes at `NODE_BASE`: the root item of the block's AVL tree, 0 when it has no items."""

AvlNode = Struct("parent" / Int16ul, "left" / Int16ul, "right" / Int16ul, "height" / Int8ul, "pad" / Padding(1))
"""The first 8 bytes of an item: links to other items, 0 for none."""

BtreeItem = Struct(
    "node" / AvlNode,
    "key" / KeyStruct,
    "seq" / Int64ul,
    "val_off" / Int16ul,
    "val_len" / Int16ul,
    "flags" / Int8ul,
    "pad" / Padding(3),
)
"""56 bytes."""

BtreeBlock = Struct(
    "hdr" / BlockHeader,
    "item_root" / AvlRoot,
    "nr_items" / Int16ul,
    "total_item_bytes" / Int16ul,
    "mid_free_len" / Int16ul,
    "level" / Int8ul,
    "pad" / Padding(7),
)
"""The 48 bytes in front of the dense array of items."""

ITEM_SIZE = 56
ITEMS_OFFSET = 48
REF_SIZE = 16
"""Bytes of the value of a parent's item: a reference to the child."""

_BLOCK = _struct.Struct("<HHHHB")
_ITEM = _struct.Struct("<HHHBxQQQBBB5xQHHB3x")
_REF = _struct.Struct("<QQ")
_BUCKETS = _struct.Struct(f"<{LEAF_BUCKETS}H")


class ItemFlag(IntFlag):
    """`flags` of an item."""

    DELETION = 1


@dataclass(frozen=True, slots=True)
class Item:
    """An item of a block, with the numbers that the block stores about it.

    `offset` counts from the start of the block, `parent`, `left` and `right` from `NODE_BASE`.  `val_off` is what is
    stored, 0 for an empty value unless the writer was careless.
    """

    key: Key
    value: bytes
    seq: int
    flags: int
    offset: int
    val_off: int
    parent: int
    left: int
    right: int
    height: int

    @property
    def deleted(self) -> bool:
        """True for an item that says that older versions of it are gone."""
        return bool(self.flags & ItemFlag.DELETION)

    @property
    def ref(self) -> Ref:
        """The child of an item of a parent."""
        return Ref(*_REF.unpack(self.value))


@dataclass(frozen=True, slots=True)
class ItemBlock:
    """The decoded contents of a btree block; `items` are in the order of their keys."""

    level: int
    items: tuple[Item, ...]
    item_root: int
    total_item_bytes: int
    mid_free_len: int


def read_items(data: Buffer, what: str) -> ItemBlock:
    """Decode the items of a btree block of 64 KiB, which the caller has verified.

    Items and values are known to lie inside the block, and items of parents to hold a reference; AVL links, hash
    buckets and free space are not looked at.  `what` names the block in errors.  Raises BlockError.
    """
    if len(data) != LARGE_BLOCK_SIZE:
        raise BlockError(what, "length", len(data), LARGE_BLOCK_SIZE)
    view = memoryview(data)
    item_root, nr_items, total_item_bytes, mid_free_len, level = _BLOCK.unpack_from(view, NODE_BASE)
    if level >= MAX_HEIGHT:
        raise BlockError(what, "level", level)
    items_end = ITEMS_OFFSET + ITEM_SIZE * nr_items
    values_end = LARGE_BLOCK_SIZE if level else LEAF_HASH_OFFSET
    if items_end > values_end:
        raise BlockError(what, "nr_items", nr_items)
    items = []
    for index, fields in enumerate(_ITEM.iter_unpack(view[ITEMS_OFFSET:items_end])):
        parent, left, right, height, first, second, third, fourth, zone, type_, seq, val_off, val_len, flags = fields
        if val_len > MAX_VALUE_SIZE or (level and val_len != REF_SIZE):
            raise BlockError(f"{what} item {index}", "val_len", val_len)
        if val_len and not items_end <= val_off <= values_end - val_len:
            raise BlockError(f"{what} item {index}", "val_off", val_off)
        value = bytes(view[val_off : val_off + val_len]) if val_len else b""
        key = Key(zone, first, type_, second, third, fourth)
        offset = ITEMS_OFFSET + ITEM_SIZE * index
        items.append(Item(key, value, seq, flags, offset, val_off, parent, left, right, height))
    items.sort(key=lambda item: item.key.sort_bytes)
    return ItemBlock(level, tuple(items), item_root, total_item_bytes, mid_free_len)


def read_buckets(data: Buffer) -> tuple[int, ...]:
    """Return the 1512 buckets of a leaf of 64 KiB: offsets of items from the start of the block, 0 when empty."""
    buckets: tuple[int, ...] = _BUCKETS.unpack_from(data, LEAF_HASH_OFFSET)
    return buckets


def item_bytes(value_size: int) -> int:
    """Return what an item with a value of this many bytes adds to `total_item_bytes`."""
    return ITEM_SIZE + -(-value_size // VALUE_ALIGN) * VALUE_ALIGN
