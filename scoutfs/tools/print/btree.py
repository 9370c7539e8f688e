"""Btrees: a walk level by level, the blocks and their items (spec 01 §7.6).

Reads what is there: a block that makes no sense is shown as far as it goes, and nothing outside it is touched.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from format.block import LARGE_BLOCK_SIZE, BlockHeader
from format.btree import ITEM_SIZE, ITEMS_OFFSET, MAX_HEIGHT, NODE_BASE, REF_SIZE, ItemFlag, read_buckets
from format.hashes import LEAF_BUCKETS
from scoutfs.storage.device import DeviceError
from scoutfs.tools.print.output import Blocks, BlockSet, Output

_HEAD = struct.Struct("<HHHHB")
_ITEM = struct.Struct("<HHHBxQQQBBB5xQHHB3x")
_REF = struct.Struct("<QQ")
_ITEMS_MAX = (LARGE_BLOCK_SIZE - ITEMS_OFFSET) // ITEM_SIZE

_HASH_LABEL = "  item hash: "
_HASH_WRAP_COLUMN = 78
_HASH_INDENT = "\n   "


class Entry(NamedTuple):
    """An item as it is stored; the fields of its key come first, in the order in which keys compare.

    `value` is what of it lies inside the block; `offset` and `val_off` count from the start of the block.
    """

    zone: int
    first: int
    type: int
    second: int
    third: int
    fourth: int
    offset: int
    parent: int
    left: int
    right: int
    height: int
    seq: int
    flags: int
    val_off: int
    val_len: int
    value: bytes

    @property
    def key(self) -> str:
        """The key as text (spec 01 §4.2)."""
        return f"{self.zone}.{self.first}.{self.type}.{self.second}.{self.third}.{self.fourth}"

    @property
    def deleted(self) -> bool:
        """True for an item that says that older versions of it are gone."""
        return bool(self.flags & ItemFlag.DELETION)


ItemText = Callable[[Entry, bool], str]
"""Makes the text of an item of a leaf (True) or of a parent (False)."""


class _Block(NamedTuple):
    data: bytes
    item_root: int
    nr_items: int
    total_item_bytes: int
    mid_free_len: int
    level: int

    @classmethod
    def of(cls, data: bytes) -> _Block:
        return cls(data, *_HEAD.unpack_from(data, NODE_BASE))

    def entries(self) -> list[Entry]:
        """Return the items in the order of their keys; only those that the block has room for."""
        data = self.data
        end = ITEMS_OFFSET + ITEM_SIZE * min(self.nr_items, _ITEMS_MAX)
        entries = []
        for index, fields in enumerate(_ITEM.iter_unpack(data[ITEMS_OFFSET:end])):
            parent, left, right, height, first, second, third, fourth, zone, type_, *rest = fields
            seq, val_off, val_len, flags = rest
            offset = ITEMS_OFFSET + ITEM_SIZE * index
            value = data[val_off : val_off + val_len]
            key = (zone, first, type_, second, third, fourth)
            entries.append(Entry(*key, offset, parent, left, right, height, seq, flags, val_off, val_len, value))
        entries.sort()
        return entries


def print_tree(blocks: Blocks, output: Output, name: str, root: Any, item_text: ItemText) -> None:
    """Print the tree under `root`, a parsed `BtreeRoot`: from the root's level down to the leaves."""
    if root.ref.blkno and root.height > MAX_HEIGHT:
        output.problem(f"{name} btree: height is {root.height}, at most {MAX_HEIGHT} is possible: left out")
        return
    for level in range(root.height - 1, -1, -1):
        for blkno, block in _walk(blocks, root, level, name, output):
            output.write(_block_text(name, blkno, block, item_text))
            what = f"{name} btree block {blkno}"
            if block.nr_items > _ITEMS_MAX:
                output.problem(f"{what}: nr_items is {block.nr_items}, only {_ITEMS_MAX} fit")
            if block.level != level:
                below = ", what is below is left out" if level else ""
                output.problem(f"{what}: level is {block.level}, expected {level}{below}")


def leaf_entries(blocks: Blocks, root: Any) -> Iterator[Entry]:
    """Yield the items of the tree under `root` in the order of their keys, without a word about what is missing."""
    if root.height <= MAX_HEIGHT:
        for _, block in _walk(blocks, root, 0):
            if block.level == 0:
                yield from block.entries()


def _walk(
    blocks: Blocks, root: Any, wanted: int, name: str = "", output: Output | None = None
) -> Iterator[tuple[int, _Block]]:
    """Yield (blkno, block) of the blocks at level `wanted`, in the order of their keys.

    Says through `output` which of them are missing; those above were spoken of when their level was walked.
    """
    seen = BlockSet()
    waiting = [(root.ref.blkno, root.height - 1)] if root.height else []
    while waiting:
        blkno, level = waiting.pop()
        if not blkno:
            continue
        what = f"{name} btree block {blkno}" if output and level == wanted else ""
        if not seen.add(blkno):
            if what and output:
                output.problem(f"{what}: referred to twice in one tree, printed once")
            continue
        try:
            block = _Block.of(blocks.large(blkno))
        except DeviceError as error:
            if what and output:
                output.problem(f"{what}: incomplete pread: {error}")
            continue
        if level == wanted:
            yield blkno, block
        elif block.level == level:
            children = [_child(entry) for entry in block.entries()]
            waiting += [(child, level - 1) for child, _ in reversed(children)]


def _child(entry: Entry) -> tuple[int, int]:
    """Return blkno and seq of the block below an item of a parent; zeros if it holds no reference."""
    if len(entry.value) < REF_SIZE:
        return 0, 0
    blkno, seq = _REF.unpack_from(entry.value)
    return blkno, seq


def _block_text(name: str, blkno: int, block: _Block, item_text: ItemText) -> str:
    header = BlockHeader.parse(block.data[:32])
    pieces = [
        f"{name} btree blkno {blkno}\n",
        f"  crc {header.crc:08x} fsid {header.fsid:x} seq {header.seq} blkno {header.blkno} \n",
        f"  total_item_bytes {block.total_item_bytes} mid_free_len {block.mid_free_len}\n",
        f"  level {block.level} nr_items {block.nr_items} item_root.node {block.item_root}\n",
    ]
    is_leaf = block.level == 0
    if is_leaf:
        pieces.append(_hash_text(block.data))
    for index, entry in enumerate(block.entries()):
        pieces.append(
            f"  [{index}] off {entry.offset} par {entry.parent} l {entry.left} r {entry.right} h {entry.height}"
            f" vo {entry.val_off} vl {entry.val_len}\n"
        )
        pieces.append(item_text(entry, is_leaf))
        if not is_leaf:
            pieces.append("    ref blkno {} seq {}\n".format(*_child(entry)))
    return "".join(pieces)


def _hash_text(data: bytes) -> str:
    """Return the lines about a leaf's item hash.

    As in the original, a pair that starts a line is not counted in its column, and no line ends behind one that was
    the last.
    """
    pieces = [_HASH_LABEL]
    column = len(_HASH_LABEL)
    populated = 0
    for bucket, offset in enumerate(read_buckets(data)):
        if not offset:
            continue
        pair = f"{bucket},{offset} "
        populated += 1
        column += len(pair)
        if column >= _HASH_WRAP_COLUMN:
            pieces.append(_HASH_INDENT)
            column = len(_HASH_INDENT) - 1
        pieces.append(pair)
    if column != len(_HASH_INDENT) - 1:
        pieces.append("\n")
    pieces.append(f"    ({populated} / {LEAF_BUCKETS} populated, {populated * 100 // LEAF_BUCKETS}% load)\n")
    return "".join(pieces)
