"""The items of a btree block as columns, sorted by key: the form in which trees are read (spec 04 §3.1, §3.6).

The same bytes that `format.btree` declares, a hundred times as fast.
"""

from __future__ import annotations

import struct as _struct
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter

from format.block import LARGE_BLOCK_SIZE, BlockError, Ref
from format.btree import (
    ITEM_SIZE,
    ITEMS_OFFSET,
    LEAF_HASH_OFFSET,
    MAX_HEIGHT,
    MAX_VALUE_SIZE,
    NODE_BASE,
    REF_SIZE,
)
from format.checksum import Buffer

_BLOCK = _struct.Struct("<HHHHB")
_ITEM = _struct.Struct("<8xQQQBBB5xQHHB3x")
_sort_bytes = _struct.Struct(">BQBQQB").pack
_REF = _struct.Struct("<QQ")


@dataclass(frozen=True, slots=True)
class Leaf:
    """The items of a leaf; index i of each column is the same item, in the order of the keys, none of them twice.

    `keys` are sort forms of 27 bytes, `seqs` item versions, `flags` as stored (see `btree.ItemFlag`).
    """

    keys: Sequence[bytes]
    seqs: Sequence[int]
    flags: Sequence[int]
    values: Sequence[bytes]

    def span(self, first: bytes, last: bytes) -> tuple[int, int]:
        """Return the indexes start and end of the items with first <= key <= last, end not included."""
        return bisect_left(self.keys, first), bisect_right(self.keys, last)


@dataclass(frozen=True, slots=True)
class Parent:
    """The items of a block above the leaves: `refs[i]` holds keys up to and with `keys[i]`."""

    level: int
    keys: Sequence[bytes]
    refs: Sequence[Ref]


NO_ITEMS = Leaf((), (), (), ())


def decode_block(data: Buffer, what: str) -> Leaf | Parent:
    """Decode a btree block of 64 KiB whose header the caller has verified; parents hold at least one item.

    Items and values are known to lie inside the block and no key to be there twice; AVL links, hash buckets and free
    space are not looked at.  `what` names the block in errors.  Raises BlockError.
    """
    if len(data) != LARGE_BLOCK_SIZE:
        raise BlockError(what, "length", len(data), LARGE_BLOCK_SIZE)
    data = bytes(data)
    _, nr_items, _, _, level = _BLOCK.unpack_from(data, NODE_BASE)
    if level >= MAX_HEIGHT:
        raise BlockError(what, "level", level)
    items_end = ITEMS_OFFSET + ITEM_SIZE * nr_items
    values_end = LARGE_BLOCK_SIZE if level else LEAF_HASH_OFFSET
    if items_end > values_end or (level and not nr_items):
        raise BlockError(what, "nr_items", nr_items)
    if not nr_items:
        return NO_ITEMS
    rows = _ITEM.iter_unpack(data[ITEMS_OFFSET:items_end])
    first, second, third, fourth, zone, type_, seqs, val_offs, val_lens, flags = zip(*rows)
    for index, (offset, size) in enumerate(zip(val_offs, val_lens)):
        if size > MAX_VALUE_SIZE or (level and size != REF_SIZE):
            raise BlockError(f"{what} item {index}", "val_len", size)
        if size and not items_end <= offset <= values_end - size:
            raise BlockError(f"{what} item {index}", "val_off", offset)
    keys = list(map(_sort_bytes, zone, first, type_, second, third, fourth))
    if len(set(keys)) != nr_items:
        raise BlockError(what, "uniqueness of keys")
    values = [data[offset : offset + size] for offset, size in zip(val_offs, val_lens)]
    order = sorted(range(nr_items), key=keys.__getitem__)
    if level:
        return Parent(level, [keys[i] for i in order], [Ref(*_REF.unpack(values[i])) for i in order])
    if nr_items == 1:
        return Leaf(keys, seqs, flags, values)
    chosen = itemgetter(*order)
    return Leaf(chosen(keys), chosen(seqs), chosen(flags), chosen(values))
