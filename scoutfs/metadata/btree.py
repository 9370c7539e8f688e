"""Reading the items of a btree from the device (spec 01 §2.6, §3.5; spec 04 §3.6).

Other mounts rewrite blocks under a reader: a block that is not the one that was referred to means that the reference is
old, not that the volume is damaged.  Start again from a newer root then, and call it damage only if the root is still
the same.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

from format.block import LARGE_BLOCK_SIZE, BlockError, Magic, Ref, verify_block
from format.btree import MAX_HEIGHT, Item, ItemBlock, read_items
from format.keys import Key
from scoutfs.errors import ScoutfsError
from scoutfs.storage.volume import Volume


class StaleBlockError(ScoutfsError):
    """A block is not the one that was referred to (ESTALE)."""

    def __init__(self, text: str) -> None:
        super().__init__(text, errno.ESTALE)


class TreeError(ScoutfsError):
    """Blocks that are valid each, but make no tree (EIO)."""

    def __init__(self, text: str) -> None:
        super().__init__(text, errno.EIO)


def items(volume: Volume, root: Any, first: Key = Key.ZEROS, last: Key = Key.ONES) -> Iterator[Item]:
    """Yield the items of the tree under `root`, a parsed `BtreeRoot`, with keys from `first` to `last`, in order.

    Reads from the device, blocking.  Raises StaleBlockError, TreeError or DeviceError.
    """
    if root.ref.blkno == 0:
        return
    if not 0 < root.height <= MAX_HEIGHT:
        raise TreeError(f"{volume.metadata_path}: a tree of height {root.height}, at most {MAX_HEIGHT} is possible")
    yield from _below(volume, Ref(root.ref.blkno, root.ref.seq), root.height - 1, first, last)


def lookup(volume: Volume, root: Any, key: Key) -> bytes | None:
    """Return the value of the item with `key`, None if there is none.  Blocks and raises like `items`."""
    return next((item.value for item in items(volume, root, key, key)), None)


def _below(volume: Volume, ref: Ref, level: int, first: Key, last: Key) -> Iterator[Item]:
    """Yield the leaf items in [first, last]; no key of a block is taken that its parent does not say it may hold.

    Because every child is searched only for keys behind those of the child before, no block is walked twice for one
    key, however the blocks refer to each other.
    """
    block = _read(volume, ref, level)
    for item in block.items:
        if item.key < first:
            continue
        if level == 0:
            if item.key > last:
                return
            yield item
            continue
        yield from _below(volume, item.ref, level - 1, first, min(item.key, last))
        if item.key >= last:
            return
        first = item.key.increment()
    if level > 0:
        what = f"{volume.metadata_path}: btree block {ref.blkno}"
        raise TreeError(f"{what}: no child for keys from {first} on")


def _read(volume: Volume, ref: Ref, level: int) -> ItemBlock:
    what = f"{volume.metadata_path}: btree block {ref.blkno}"
    try:
        data = volume.meta.read(ref.blkno * LARGE_BLOCK_SIZE, LARGE_BLOCK_SIZE)
        verify_block(what, data, LARGE_BLOCK_SIZE, Magic.BTREE, fsid=volume.fsid, blkno=ref.blkno, seq=ref.seq)
    except BlockError as error:
        raise StaleBlockError(str(error)) from error
    try:
        block = read_items(data, what)
    except BlockError as error:
        raise TreeError(str(error)) from error
    if block.level != level:
        raise TreeError(f"{what}: level is {block.level}, expected {level}")
    return block
