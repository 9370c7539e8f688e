"""Trees, log trees and bloom blocks in memory, as large as tests want them."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any

from format.block import LARGE_BLOCK_SIZE, NO_REF, Magic, Ref, seal
from format.btree_build import build_leaf, build_parent
from format.hashes import bloom_bits
from format.keys import Key, Zone
from format.logs import LogTrees
from scoutfs.metadata.blocks import BlockReader
from scoutfs.metadata.btree import NO_ROOT, Root
from scoutfs.metadata.lock_ranges import lock_of
from tests.format.blocks import Given

FSID = 0x5C0FF5


class Blocks:
    """A metadata device of blocks that tests put there; those that are not read as zeros.

    `reads` counts what is read; `before_read` is called with the block number before it.
    """

    path = "/dev/meta"

    def __init__(self, size: int = 1 << 40) -> None:
        self.size = size
        self.contents: dict[int, bytes] = {}
        self.reads = 0
        self.next_blkno = 100

    def before_read(self, blkno: int) -> None:
        """Do nothing; tests replace it."""

    def read(self, offset: int, length: int) -> bytes:
        """Return one block, as `Device.read` does."""
        assert length == LARGE_BLOCK_SIZE
        blkno = offset // LARGE_BLOCK_SIZE
        self.reads += 1
        self.before_read(blkno)
        return self.contents.get(blkno, bytes(LARGE_BLOCK_SIZE))

    def reader(self, **options: int) -> BlockReader:
        """Return a reader of the device."""
        return BlockReader(self, FSID, **options)  # type: ignore[arg-type]

    def add_btree(self, level: int, items: Iterable[Given]) -> Ref:
        """Put a btree block somewhere; return what refers to it."""
        ref, items = self._next(), list(items)
        keys = [item.key.sort_bytes for item in items]
        if level:
            children = [Ref(*struct.unpack("<QQ", item.value)) for item in items]
            data = build_parent(FSID, ref, level, keys, children)
        else:
            columns = ([item.seq for item in items], [item.flags for item in items], [item.value for item in items])
            data = build_leaf(FSID, ref, keys, *columns)
        self.contents[ref.blkno] = data
        return ref

    def add_tree(self, items: Sequence[Given], *, leaf: int = 64, fanout: int = 8, height: int = 1) -> Root:
        """Build a tree of sorted `items` with so many items in a block, at least `height` levels high."""
        if not items:
            return NO_ROOT
        level = 0
        leaves = [items[i : i + leaf] for i in range(0, len(items), leaf)]
        row = [(chunk[-1].key, self.add_btree(0, chunk)) for chunk in leaves]
        while len(row) > 1 or level + 1 < height:
            level += 1
            row[-1] = (Key.ONES, row[-1][1])
            chunks = [row[i : i + fanout] for i in range(0, len(row), fanout)]
            row = [
                (chunk[-1][0], self.add_btree(level, [Given(key, struct.pack("<QQ", *ref)) for key, ref in chunk]))
                for chunk in chunks
            ]
        return Root(row[0][1], level + 1)

    def add_bloom(self, keys: Iterable[Key]) -> Ref:
        """Put a bloom block of the locks of `keys` somewhere; return what refers to it."""
        ref = self._next()
        data = bytearray(LARGE_BLOCK_SIZE)
        struct.pack_into("<IIQQQ", data, 0, 0, Magic.BLOOM, FSID, ref.seq, ref.blkno)
        for key in keys:
            lock = lock_of(key)
            assert lock, key
            for bit in bloom_bits(lock.start.build()):
                data[40 + bit // 8] |= 1 << bit % 8
        self.contents[ref.blkno] = seal(data, LARGE_BLOCK_SIZE)
        return ref

    def add_logs(self, trees: Iterable[dict[str, Any]]) -> Root:
        """Build the tree of log trees; each has `rid`, `nr`, `root`, and may have `bloom`, `flags`, `finalize_seq`."""
        items = []
        for tree in trees:
            value = bytearray(LogTrees.sizeof())
            _put_root(value, 64, tree["root"])
            struct.pack_into("<QQ", value, 88, *tree.get("bloom", NO_REF))
            struct.pack_into(
                "<QQQQ", value, 440, tree.get("finalize_seq", 0), tree["rid"], tree["nr"], tree.get("flags", 0)
            )
            items.append(Given(Key(Zone.LOG_TREES, tree["rid"], 0, tree["nr"]), bytes(value)))
        return self.add_tree(sorted(items, key=lambda item: item.key))

    def add_merge(self, seq: int) -> Root:
        """Build the tree of a merge that runs."""
        status = Key.ZEROS.build() + struct.pack("<QQQ", 0, 0, seq)
        return self.add_tree([Given(Key(Zone.LOG_MERGE_STATUS), status)])

    def _next(self) -> Ref:
        self.next_blkno += 1
        return Ref(self.next_blkno, self.next_blkno * 0x9E3779B97F4A7C15 % 2**64)


def _put_root(value: bytearray, offset: int, root: Root) -> None:
    struct.pack_into("<QQB", value, offset, *root.ref, root.height)
