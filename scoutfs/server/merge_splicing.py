"""The end of parts of a merge: put into the volume's tree; and of the merge: its inputs freed (spec 04 §12.4).

Each function is one change, bounded by the room that there is, and says whether there is more to do in another one.
"""

from __future__ import annotations

from typing import Any

from format.block import NO_REF
from format.keys import Zone
from format.logs import LogMergeComplete, LogMergeFreeing, MergeCompleteFlag
from scoutfs.metadata.btree import FIRST_KEY, LAST_KEY, Root
from scoutfs.metadata.btree_freeing import free_blocks
from scoutfs.metadata.commit import ServerVolume
from scoutfs.server.client_space import Lists
from scoutfs.server.items import log_trees_key, merge_key, parsed, sort_form, stored_key, zone_bounds
from scoutfs.server.log_merge import PARTS_MAX, STATUS_KEY, inputs, insert_range, store_status

FREE_BUDGET = 62
"""Blocks of a merged log tree that are freed before its item is written again."""


def splice(volume: ServerVolume, status: Any, *, nothing_left: bool) -> bool:
    """Put completed parts into the tree; False if there is more to do in another change.

    Only while no request is out.  `nothing_left` says that there is no range: when no part brings one back, the merge
    is over and its inputs wait to be freed.
    """
    low = min(volume.allocator.remaining_avail, volume.allocator.remaining_freed) // 4
    completions = [
        (item.key, parsed(LogMergeComplete, item, volume))
        for item in volume.log_merge.items(*zone_bounds(Zone.LOG_MERGE_COMPLETE))
    ]
    for key, part in completions:
        lists = Lists(part)
        if lists.meta_avail.head.ref == lists.meta_freed.head.ref == NO_REF:
            continue
        if volume.allocator.is_low(low):
            return False
        volume.fs_root.set_subtree(sort_form(part.start), Root.of(part.root))
        lists.take_back(volume)
        lists.store(part)
        volume.log_merge.update(key, LogMergeComplete.build(part))
    status.nr_complete = max(status.nr_complete, PARTS_MAX)
    store_status(volume, status)
    for key, part in completions:
        if volume.allocator.is_low(low):
            return False
        if part.flags & MergeCompleteFlag.REMAIN:
            volume.fs_root.rebalance(sort_form(part.start))
            insert_range(volume, sort_form(part.remain), sort_form(part.end))
            nothing_left = False
        volume.log_merge.delete(key)
    if not nothing_left:
        status.next_range_key, status.nr_complete = stored_key(FIRST_KEY), 0
        store_status(volume, status)
        return True
    return _end(volume, status, low)


def _end(volume: ServerVolume, status: Any, low: int) -> bool:
    for trees in inputs(volume, status):
        if volume.allocator.is_low(low):
            return False
        root = Root.of(trees.item_root)
        if root.height:
            seq = volume.next_seq()
            freeing = {"root": root.fields(), "key": stored_key(FIRST_KEY), "seq": seq}
            volume.log_merge.insert(merge_key(Zone.LOG_MERGE_FREEING, seq), LogMergeFreeing.build(freeing))
        if trees.bloom_ref.blkno:
            volume.allocator.exchange(0, [trees.bloom_ref.blkno])
        volume.logs_root.delete(log_trees_key(trees.rid, trees.nr))
        volume.inode_count += trees.inode_count_delta
    volume.log_merge.delete(STATUS_KEY)
    return True


def free_merged(volume: ServerVolume) -> bool:
    """Free blocks of merged log trees, as many as one change may; False if there are more."""
    used = 0
    bounds = zone_bounds(Zone.LOG_MERGE_FREEING)
    while (item := volume.log_merge.next(*bounds)) is not None:
        if used + 2 * FREE_BUDGET > volume.targets.of_change:
            return False
        freeing = parsed(LogMergeFreeing, item, volume)
        root = Root.of(freeing.root)
        key = free_blocks(volume.writer, volume.allocator, root, sort_form(freeing.key), FREE_BUDGET)
        if key == LAST_KEY:
            volume.log_merge.delete(item.key)
        else:
            freeing.key = stored_key(key)
            volume.log_merge.update(item.key, LogMergeFreeing.build(freeing))
        used += FREE_BUDGET
    return True
