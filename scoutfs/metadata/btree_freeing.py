"""Freeing a whole tree that nobody refers to any more, in steps, without changing it (spec 04 §5)."""

from __future__ import annotations

from bisect import bisect_left

from format.btree_columns import Parent
from format.keys import Key
from scoutfs.metadata.blocks import DamagedBlock
from scoutfs.metadata.btree import LAST_KEY, Root, after
from scoutfs.metadata.writer import BlockAllocator, BlockWriter


def free_blocks(writer: BlockWriter, allocator: BlockAllocator, root: Root, key: bytes, budget: int) -> bytes:
    """Free at most `budget` blocks of a tree; return the key to go on with, `LAST_KEY` when all are freed.

    Begin with `FIRST_KEY`.  The leaves are not read.  A block goes after those below it, so what is left can be walked
    through again.  `budget` must be more than the height.  All or nothing is freed if an error is raised, which may be
    any of those of `writer` and `allocator`.
    """
    if not root.height:
        return LAST_KEY
    freed: list[int] = []
    while key != LAST_KEY:
        if root.height == 1:
            freed.append(root.ref.blkno)
            key = LAST_KEY
            break
        # The blocks whose last leaf is below the one that is reached, and the key behind them.
        ended: list[int] = []
        following = LAST_KEY
        ref = root.ref
        for level in range(root.height - 1, 0, -1):
            block = writer.btree_block(ref, level)
            assert isinstance(block, Parent)
            parent = block
            index = bisect_left(parent.keys, key)
            if index == len(parent.keys):
                raise DamagedBlock(f"{writer.name(ref)}: no child for keys from {Key.from_sort_bytes(key)} on")
            last = index == len(parent.keys) - 1
            if level > 1 and not last:
                ended, following = [], after(parent.keys[index])
            else:
                ended.append(ref.blkno)
            ref = parent.refs[index]
        for bound, leaf in zip(parent.keys[index:-1], parent.refs[index:-1]):
            if len(freed) == budget:
                break
            freed.append(leaf.blkno)
            key = after(bound)
        else:
            if len(freed) + 1 + len(ended) <= budget:
                freed += [parent.refs[-1].blkno, *reversed(ended)]
                key = following
                continue
        break
    allocator.exchange(0, freed)
    return key
