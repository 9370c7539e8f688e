"""Btree blocks from their items: the form in which we write all of them (spec 04 §3).

Items stand in the array in the order of their keys, the AVL tree is balanced perfectly, values are packed against the
end of their area in the order of the items.  Readers and writers of the format take any other form as well.
"""

from __future__ import annotations

import struct as _struct
from collections.abc import Sequence
from functools import lru_cache

from format.block import LARGE_BLOCK_SIZE, FormatError, Magic, Ref, seal
from format.btree import (
    ITEM_SIZE,
    ITEMS_OFFSET,
    LEAF_HASH_OFFSET,
    MAX_HEIGHT,
    MAX_VALUE_SIZE,
    NODE_BASE,
    REF_SIZE,
    VALUE_ALIGN,
    item_bytes,
)
from format.hashes import LEAF_BUCKETS, hash32_of_columns
from format.keys import KEY_SIZE, SORT_SIZE

LEAF_SPACE = LEAF_HASH_OFFSET - ITEMS_OFFSET
"""62464: bytes that the items of a leaf may take, as `btree.item_bytes` counts them."""
PARENT_SPACE = LARGE_BLOCK_SIZE - ITEMS_OFFSET
"""65488: bytes that the items of a block above the leaves may take."""
PARENT_ITEM_SIZE = item_bytes(REF_SIZE)
"""72: bytes that the item of a child takes."""

_HEAD = _struct.Struct("<IIQQQHHHHB7x")
_NODE = _struct.Struct("<HHHBx")
_ITEM = _struct.Struct("<8sQQQBBB5xQHHB3x")
_SORT = _struct.Struct(">BQBQQB")
_REF = _struct.Struct("<QQ")
_BUCKETS = _struct.Struct(f"<{LEAF_BUCKETS}H")
_KEY_OFFSET = _NODE.size
_FIRST_NODE = ITEMS_OFFSET - NODE_BASE


def build_leaf(
    fsid: int, ref: Ref, keys: Sequence[bytes], seqs: Sequence[int], flags: Sequence[int], values: Sequence[bytes]
) -> bytes:
    """Encode the leaf that `ref` refers to: 64 KiB, sealed.

    Index i of each column is the same item; `keys` are sort forms of 27 bytes, strictly ascending; no items make an
    empty leaf.  Raises FormatError for items that do not fit, or a field out of range.
    """
    count = len(keys)
    offset, val_offs, packed = LEAF_HASH_OFFSET, [], []
    for value in values:
        size = len(value)
        if size:
            if size > MAX_VALUE_SIZE:
                raise FormatError(f"value of {size} bytes, at most {MAX_VALUE_SIZE} are possible")
            offset -= -(-size // VALUE_ALIGN) * VALUE_ALIGN
            packed.append(
                value if size % VALUE_ALIGN == 0 else value.ljust(-(-size // VALUE_ALIGN) * VALUE_ALIGN, b"\0")
            )
            val_offs.append(offset)
        else:
            val_offs.append(0)
    packed.reverse()
    items = _items(keys, seqs, val_offs, list(map(len, values)), flags)
    free = offset - ITEMS_OFFSET - len(items)
    if free < 0:
        raise FormatError(f"{count} items take {LEAF_SPACE - free} bytes, a leaf has room for {LEAF_SPACE}")
    head = _head(fsid, ref, count, LEAF_SPACE - free, free, 0)
    return seal(b"".join((head, items, bytes(free), *packed, _hash_table(items))), LARGE_BLOCK_SIZE)


def build_parent(fsid: int, ref: Ref, level: int, keys: Sequence[bytes], refs: Sequence[Ref]) -> bytes:
    """Encode the block above the leaves that `ref` refers to: 64 KiB, sealed.

    `refs[i]` is the child for keys up to and with `keys[i]`, which are sort forms of 27 bytes, strictly ascending.
    Raises FormatError for no children, more than fit, or a field out of range.
    """
    count = len(keys)
    free = PARENT_SPACE - PARENT_ITEM_SIZE * count
    if not count or free < 0 or not 0 < level < MAX_HEIGHT:
        raise FormatError(f"a parent of level {level} with {count} children")
    val_offs = range(LARGE_BLOCK_SIZE - REF_SIZE, LARGE_BLOCK_SIZE - REF_SIZE * (count + 1), -REF_SIZE)
    none = (0,) * count
    items = _items(keys, none, val_offs, (REF_SIZE,) * count, none)
    values = [_REF.pack(*child) for child in reversed(refs)]
    head = _head(fsid, ref, count, PARENT_SPACE - free, free, level)
    return seal(b"".join((head, items, bytes(free), *values)), LARGE_BLOCK_SIZE)


def _head(fsid: int, ref: Ref, count: int, item_bytes: int, free: int, level: int) -> bytes:
    root = _shape(count)[0]
    return _HEAD.pack(0, Magic.BTREE, fsid, ref.seq, ref.blkno, root, count, item_bytes, free, level)


def _items(
    keys: Sequence[bytes],
    seqs: Sequence[int],
    val_offs: Sequence[int],
    val_lens: Sequence[int],
    flags: Sequence[int],
) -> bytes:
    """Encode the array of items."""
    joined = b"".join(keys)
    if len(joined) != SORT_SIZE * len(keys):
        raise FormatError(f"sort forms of {len(keys)} keys take {len(joined)} bytes")
    if not keys:
        return b""
    zone, first, type_, second, third, fourth = zip(*_SORT.iter_unpack(joined))
    nodes = _shape(len(keys))[1]
    columns = (nodes, first, second, third, fourth, zone, type_, seqs, val_offs, val_lens, flags)
    try:
        return b"".join(map(_ITEM.pack, *columns))
    except _struct.error as error:
        raise FormatError("seq or flags of an item out of range") from error


def _hash_table(items: bytes) -> bytes:
    """Encode the buckets for the array of items of a leaf."""
    count = len(items) // ITEM_SIZE
    table = [0] * LEAF_BUCKETS
    hashes = hash32_of_columns((items[_KEY_OFFSET + i :: ITEM_SIZE] for i in range(KEY_SIZE)), count)
    for offset, value in zip(range(ITEMS_OFFSET, ITEMS_OFFSET + len(items), ITEM_SIZE), hashes):
        bucket = value % LEAF_BUCKETS
        while table[bucket]:
            bucket = (bucket + 1) % LEAF_BUCKETS
        table[bucket] = offset
    return _BUCKETS.pack(*table)


@lru_cache(maxsize=256)
def _shape(count: int) -> tuple[int, tuple[bytes, ...]]:
    """Return the root of the balanced tree of `count` sorted items, and the first 8 bytes of each item."""
    nodes = [b""] * count

    def build(low: int, high: int, parent: int) -> tuple[int, int]:
        if low >= high:
            return 0, 0
        middle = (low + high) // 2
        node = _FIRST_NODE + ITEM_SIZE * middle
        left, left_height = build(low, middle, node)
        right, right_height = build(middle + 1, high, node)
        height = 1 + max(left_height, right_height)
        nodes[middle] = _NODE.pack(parent, left, right, height)
        return node, height

    root, _ = build(0, count, 0)
    return root, tuple(nodes)
